//! Topology: which nodes there are, what role each plays, and what the probes last saw of them.
//!
//! The set of nodes is immutable ([`Cluster`] is replaced on reload); what is measured lives in
//! atomics of [`Node`], written by `health` and by sessions, read by whoever decides.

mod balance;
mod horizon;
mod lag;
mod lsn;
mod node;
mod table_horizons;
mod tables;

pub use balance::pick;
pub use horizon::WriteHorizon;
pub use lag::History;
pub use lsn::Lsn;
pub use node::{Node, NodeAddress, NodeState, Role};
pub use table_horizons::{ABANDONED_FOR, Freshness, HorizonStats, PendingWrite, TableHorizons};
pub use tables::{TableId, TableSet};

use std::sync::Arc;

/// The nodes of one database: a primary and its replicas.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Takes writes.
    pub primary: Arc<Node>,
    /// Take reads, each with its weight.
    pub replicas: Vec<Replica>,
}

/// A replica as one database uses it.
#[derive(Clone, Debug)]
pub struct Replica {
    /// The node.
    pub node: Arc<Node>,
    /// Its share of the reads; at least 1.
    pub weight: u32,
}

impl Cluster {
    /// All nodes, the primary first.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        std::iter::once(&self.primary).chain(self.replicas.iter().map(|replica| &replica.node))
    }
}
