//! What follows from a change of roles: where writes go, and what becomes of those who are still where they went.

use std::sync::Arc;

use crate::clients::{Order, Registry};
use crate::cluster::{Change, LeadStatus, Leadership, Lineage, Node};
use crate::pool::{DatabaseEntry, Pool, PoolRegistry, Topology};

/// Who is concerned when roles change.
#[derive(Debug)]
pub(super) struct Concerned {
    pub(super) pools: Arc<PoolRegistry>,
    pub(super) clients: Arc<Registry>,
}

impl Concerned {
    /// Decides anew who the primary is, after something was seen of a node.
    pub(super) fn reconsider(&self, topology: &Topology, leadership: &Arc<Leadership>) {
        let change = leadership.reconsider(|change| prepare(topology, leadership, change));
        let (lead, is_news) = leadership.tell_news();
        if let Some(change) = &change {
            tables_are_asked_for_anew(topology, leadership, change);
            self.changed(change);
        } else if is_news {
            report(leadership, lead.status);
        }
        if is_news && let (false, Some(last)) = (lead.has_primary(), leadership.node(lead.index)) {
            // They need not wait for the old one to time out: they wait for any.
            self.pools_of(last).for_each(|pool| pool.send_away());
        }
    }

    /// The node's name leads to another server: connections to the one before are drained.
    pub(super) fn moved(&self, node: &Node) {
        self.pools_of(node).for_each(|pool| pool.renew());
        self.pools.listeners.close_unless(|listener| listener.node.address != node.address);
    }

    fn pools_of(&self, node: &Node) -> impl Iterator<Item = Arc<Pool>> {
        let address = node.address.to_string();
        self.pools.pools().into_iter().filter(move |pool| pool.key.node == address)
    }

    /// Nobody is sent to the old primary any more: whoever is there leaves it.
    fn changed(&self, change: &Change) {
        let (timeline, system) = (change.lineage.timeline, change.lineage.system);
        let Some(from) = change.from.as_ref() else {
            tracing::info!(node = %change.to.address, timeline, system, "primary found");
            return;
        };
        tracing::warn!(from = %from.address, to = %change.to.address, timeline, system, "the primary has changed");
        if Arc::ptr_eq(from, &change.to) && change.before == Lineage::default() {
            // It was believed, and has been seen now.
            return;
        }
        let holders: Vec<_> = self.pools_of(from).flat_map(|pool| pool.leave_primary()).collect();
        for client in self.clients.snapshot() {
            if holders.contains(&client.id) {
                client.order(Order::PrimaryChanged);
            }
        }
        self.pools.listeners.close_unless(|listener| listener.node.address != from.address);
    }
}

/// Before anybody is sent to the new primary: what was known of the old one's history is of no use.
fn prepare(topology: &Topology, leadership: &Arc<Leadership>, change: &Change) {
    for entry in databases_of(topology, leadership) {
        // What servers reported at login may differ from node to node.
        entry.reported.lock().clear();
        // Changes of the catalog may have been lost with the old one.
        let ticket = entry.catalog.begin_ddl();
        entry.catalog.end_ddl(ticket);
    }
    tables_are_asked_for_anew(topology, leadership, change);
    // So that it is asked for its position at once.
    change.to.wake_probe();
}

/// Called before and after the new primary is made known: a commit between the two has a ticket of the old one's.
fn tables_are_asked_for_anew(topology: &Topology, leadership: &Arc<Leadership>, change: &Change) {
    for entry in databases_of(topology, leadership).filter(|entry| entry.horizons.is_watched()) {
        entry.horizons.primary_changed(&change.to.horizon);
    }
}

fn databases_of(
    topology: &Topology,
    leadership: &Arc<Leadership>,
) -> impl Iterator<Item = Arc<DatabaseEntry>> {
    topology.databases().into_iter().filter(|entry| Arc::ptr_eq(&entry.cluster.leadership, leadership))
}

fn report(leadership: &Leadership, status: LeadStatus) {
    let nodes = nodes(leadership);
    match status {
        LeadStatus::Primary => {
            let primary = leadership.primary().map(|node| node.address.to_string());
            tracing::info!(node = primary, "the primary is back");
        }
        LeadStatus::None => {
            tracing::warn!(nodes, "there is no primary: writes wait for routing.failover_wait");
        }
        LeadStatus::Ambiguous => {
            tracing::error!(
                nodes,
                "several nodes are out of recovery and nothing tells which is right: writes are refused"
            );
        }
        LeadStatus::Undecided => {}
    }
}

fn nodes(leadership: &Leadership) -> String {
    let show = |(index, node): (usize, &Arc<Node>)| {
        let timeline = node.lineage().timeline;
        format!("{} {} (timeline {timeline})", node.address, leadership.standing(index).as_str())
    };
    leadership.nodes().enumerate().map(show).collect::<Vec<_>>().join(", ")
}
