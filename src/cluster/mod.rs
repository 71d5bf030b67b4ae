//! Topology: which nodes there are, what role each plays, and what the probes last saw of them.
//!
//! The set of nodes is immutable ([`Cluster`] is replaced on reload); what is measured lives in
//! atomics of [`Node`], written by `health` and by sessions, read by whoever decides.

mod balance;
mod endpoint;
mod horizon;
mod lag;
mod leadership;
mod lsn;
mod node;
mod roles;
mod table_horizons;
mod tables;

pub use balance::{Load, pick};
pub use endpoint::Endpoint;
pub use horizon::WriteHorizon;
pub use lag::History;
pub use leadership::{Change, Lead, LeadStatus, Leadership};
pub use lsn::Lsn;
pub use node::{Node, NodeAddress, NodeState, Role, SHARE_FULL};
pub use roles::{Lineage, Remembered, Sight, Standing, Verdict, decide, standings};
pub use table_horizons::{ABANDONED_FOR, Freshness, HorizonStats, PendingWrite, TableHorizons};
pub use tables::{TableId, TableSet};

use std::sync::Arc;

/// The nodes of one database: a primary and its replicas, as configured.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Takes writes, if it is what the configuration says.
    pub primary: Arc<Node>,
    /// Take reads, each with its weight.
    pub replicas: Vec<Replica>,
    /// Of each node, by its number, whether reads prefer it: it is in the zone of this pgweir. Without zones all are.
    pub near: Vec<bool>,
    /// Who takes writes indeed.
    pub leadership: Arc<Leadership>,
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
    /// All nodes, the configured primary first, as [`Leadership`] numbers them.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        std::iter::once(&self.primary).chain(self.replicas.iter().map(|replica| &replica.node))
    }

    /// The node with this number; the configured primary if there is none.
    pub fn node(&self, index: usize) -> &Arc<Node> {
        self.leadership.node(index).unwrap_or(&self.primary)
    }

    /// Whether reads prefer the node with this number.
    pub fn is_near(&self, index: usize) -> bool {
        self.near.get(index).copied().unwrap_or(true)
    }

    /// Who takes writes, or did last: the configured primary at the start.
    pub fn writer(&self) -> &Arc<Node> {
        self.node(self.leadership.lead().index)
    }

    /// How many nodes may serve reads while `lead` leads.
    pub fn readers(&self, lead: Lead) -> usize {
        let count = self.replicas.len();
        if count > 0 && lead.index > 0 { count + 1 } else { count }
    }

    /// The number of the node at `place` in the list of those that may serve reads: the replicas in their order,
    /// then the configured primary, which is one of them when another node takes the writes.
    pub fn reader(&self, place: usize) -> usize {
        if place < self.replicas.len() { place + 1 } else { 0 }
    }
}
