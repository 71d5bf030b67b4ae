//! How fresh a replica must be for this client: it must have replayed the client's own last write.

use crate::cluster::{Cluster, Lead, Lsn};
use crate::route::Freshness;

/// What the client has written, as far as it matters for its reads. Tickets and positions belong to the primary
/// of one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LastWrite {
    /// Nothing that a replica may not have.
    #[default]
    None,
    /// Something; how far is not known yet.
    Ticket {
        /// The ticket of the primary's horizon.
        ticket: u64,
        /// Whose.
        epoch: u32,
    },
    /// Up to here.
    At {
        /// The position.
        position: Lsn,
        /// On whose history.
        epoch: u32,
    },
}

impl LastWrite {
    /// A write was acknowledged just now, or something was seen that replicas may lack.
    pub(super) fn acknowledged(&mut self, cluster: &Cluster) {
        if !cluster.replicas.is_empty() {
            *self = Self::ticket(cluster, cluster.leadership.lead());
        }
    }

    fn ticket(cluster: &Cluster, lead: Lead) -> Self {
        Self::Ticket { ticket: cluster.node(lead.index).horizon.take_ticket(), epoch: lead.epoch }
    }

    /// What reads need now. Forgets the write once all replicas have it.
    pub(super) fn freshness(&mut self, cluster: &Cluster) -> Freshness {
        let lead = cluster.leadership.lead();
        match *self {
            Self::None => return Freshness::Any,
            // What the old primary's positions mean on the new one's history is not known: as far as that one is
            // now will do.
            Self::Ticket { epoch, .. } | Self::At { epoch, .. } if epoch != lead.epoch => {
                *self = Self::ticket(cluster, lead);
            }
            Self::Ticket { .. } | Self::At { .. } => {}
        }
        if let Self::Ticket { ticket, epoch } = *self {
            match cluster.node(lead.index).horizon.position(ticket) {
                Some(position) => *self = Self::At { position, epoch },
                None => return Freshness::NotKnownYet,
            }
        }
        let Self::At { position, .. } = *self else { return Freshness::Any };
        let others = cluster.nodes().enumerate().filter(|(index, _)| *index != lead.index);
        if others.into_iter().all(|(_, node)| node.position() >= position) {
            *self = Self::None;
            return Freshness::Any;
        }
        Freshness::At(position)
    }
}
