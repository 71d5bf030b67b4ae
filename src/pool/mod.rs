//! Lending server connections.
//!
//! One [`Pool`] for each (database, user, node). `deadpool` makes the connections and holds their number to the
//! pool's size; our own gate keeps those that are idle and the waiters in order of arrival, hands a returned
//! connection straight to the oldest of them and has new ones opened in the background. A [`ServerLease`] that is
//! dropped closes its connection; only [`ServerLease::checkin`] returns one, and only a clean one.

mod choice;
mod gate;
mod lease;
mod listener;
mod manager;
mod reaper;
mod registry;
mod replication;
mod shards;
mod stats;
mod ticket;
mod topology;

pub use choice::{Choice, Facts, Judgment};
pub use gate::{CheckoutError, Waiting};
pub use lease::ServerLease;
pub use listener::{Channel, ListenError, Listener, ListenerKey, ListenerStats, Listeners, listen_sql};
pub use manager::{Hold, Pool, PoolCounts, PoolKey};
pub use reaper::run as run_reaper;
pub use registry::{PoolRegistry, UserKey};
pub use replication::{ReplicationPlace, ReplicationServer, ReplicationServers};
pub use shards::ShardSet;
pub use stats::{Averages, PoolStats, StatsSnapshot};
pub use topology::{DatabaseEntry, RouteCounters, Topology, labels};
