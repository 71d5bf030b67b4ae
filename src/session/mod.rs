//! One client, start to end.
//!
//! ```text
//! start    first packets: TLS, cancel, startup
//! login    who is it, what is it told
//! client   the state of a session, and its loop: wait for a batch, run it
//! batch    where a batch ends; what is sent for it
//! checkout which pool, and the wait for it
//! exchange what the server owes (pure)
//! relay    bytes both ways until nothing is owed
//! replication  bytes both ways, untouched
//! state    what a transaction leaves behind: settings, pins
//! sharded  which shard a batch belongs to
//! spread   a transaction on all shards
//! ```
//!
//! The session's own task drives both sockets: there is no second task and no channel between them. A
//! session that is dropped at any await leaves its server connection unclean, and so closed.

mod batch;
mod begin;
mod checkout;
mod client;
mod console;
mod context;
mod copy_in;
mod databases;
mod error;
mod exchange;
mod fills;
mod freshness;
mod heal;
mod idle;
mod leading;
mod listening;
mod login;
mod mirror;
mod notifications;
mod owed;
mod pins;
mod reading;
mod relay;
mod replication;
mod resets;
mod retry;
mod settings;
mod sharded;
mod spread;
mod sql_names;
mod start;
mod startup_options;
mod state;
mod statements;
mod verify;
mod writes;

pub use context::SessionContext;
pub use start::serve;
pub use state::Harmless;
