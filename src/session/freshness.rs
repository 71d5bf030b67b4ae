//! How fresh a replica must be for this client: it must have replayed the client's own last write.

use crate::cluster::{Cluster, Lsn};
use crate::route::Freshness;

/// What the client has written, as far as it matters for its reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LastWrite {
    /// Nothing that a replica may not have.
    #[default]
    None,
    /// Something; how far is not known yet.
    Ticket(u64),
    /// Up to here.
    At(Lsn),
}

impl LastWrite {
    /// A write was acknowledged just now.
    pub(super) fn acknowledged(&mut self, cluster: &Cluster) {
        if !cluster.replicas.is_empty() {
            *self = Self::Ticket(cluster.primary.horizon.take_ticket());
        }
    }

    /// What reads need now. Forgets the write once all replicas have it.
    pub(super) fn freshness(&mut self, cluster: &Cluster) -> Freshness {
        if let Self::Ticket(ticket) = *self {
            match cluster.primary.horizon.position(ticket) {
                Some(position) => *self = Self::At(position),
                None => return Freshness::NotKnownYet,
            }
        }
        match *self {
            Self::At(position) if cluster.replicas.iter().all(|r| r.node.position() >= position) => {
                *self = Self::None;
                Freshness::Any
            }
            Self::At(position) => Freshness::At(position),
            Self::None | Self::Ticket(_) => Freshness::Any,
        }
    }
}
