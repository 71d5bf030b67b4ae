//! Room `catalog`: what a database's own catalog adds to the text of a statement. Pure: rows in, facts out.
//!
//! `load.sql` asks one question of the primary; [`Catalog::from_rows`] makes a snapshot of the answer;
//! [`Catalog::resolve`] says of a statement whether a replica may run it after all, which tables it reads and
//! which it may write, with everything that triggers, rules, foreign keys, partitions, views and policies add.
//!
//! Invariants: what the snapshot does not know makes an answer more careful, never less; every set of tables is
//! a superset; a name that could be one of several tables counts as all of them. [`CatalogCell`] never hands out
//! a snapshot that is older than DDL it was told of.

mod build;
mod cache;
mod cell;
mod learned;
mod path;
mod reason;
mod resolve;

pub use build::{Catalog, CatalogError};
pub use cache::ResolveCache;
pub use cell::{CatalogCell, CatalogState, DdlTicket, SUSPICION_GAP, Snapshot};
pub use learned::LearnedWrites;
pub use path::SearchPath;
pub use reason::{ResolveReason, Volatility};
pub use resolve::{Resolved, unresolved};

/// The question, for a simple query on a connection to the primary. Its last statement ends the transaction.
pub const LOAD: &str = include_str!("load.sql");

/// One word that changes when anything [`LOAD`] asks for may have changed, and costs less.
pub const FINGERPRINT: &str = include_str!("fingerprint.sql");
