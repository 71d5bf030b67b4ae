//! Probes: is a node up, is it in recovery, how far has it got; and what a database's catalog says.
//!
//! One task a node, over a connection of its own. A probe is one short query. Between them a task sleeps
//! for `health.interval`, unless somebody waits: a primary is asked at once when clients have written and
//! need to know how far, a replica every few milliseconds while it is behind what they have written, and
//! all nodes of a cluster ten times a second while it has no primary.

mod catalog;
mod failover;
mod key_columns;
mod probe;

pub use key_columns::read as read_key_columns;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::JoinHandle;

use crate::clients::Registry;
use crate::cluster::NodeAddress;
use crate::pool::{PoolRegistry, Topology};
use crate::task;

/// How often a new topology is looked for.
const PERIOD: Duration = Duration::from_millis(200);

/// Keeps one probe task for each node of the present topology, and one for the catalog of each database named,
/// and for the columns of keys on each shard. Runs until dropped; its tasks end with it.
pub async fn run(topology: Arc<ArcSwap<Topology>>, pools: Arc<PoolRegistry>, clients: Arc<Registry>) {
    let concerned = Arc::new(failover::Concerned { pools, clients });
    let mut tasks: BTreeMap<NodeAddress, Probe> = BTreeMap::new();
    // By the catalog, which several names of one database share.
    let mut keepers: HashMap<usize, Probe> = HashMap::new();
    let mut columns = Vec::new();
    let mut known = 0;
    let mut version = 0;
    loop {
        let present = topology.load_full();
        if present.version != version {
            version = present.version;
            tasks.retain(|address, _| present.nodes().any(|node| node.address == *address));
            for node in present.nodes() {
                // Credentials or timeouts may have changed: each task begins anew, with what is known kept.
                let prober =
                    probe::Prober::new(Arc::clone(node), Arc::clone(&present), Arc::clone(&concerned));
                tasks.insert(node.address.clone(), Probe(task::spawn("probe", prober.run())));
            }
            keepers.clear();
            known = 0;
            columns.clear();
            for set in present.shard_sets().map(|(_, set)| set) {
                for entry in set.entries() {
                    let (set, entry, topology) = (Arc::clone(set), Arc::clone(entry), Arc::clone(&present));
                    let keeper = key_columns::KeyColumns { set, entry, topology };
                    columns.push(Probe(task::spawn("key columns", keeper.run())));
                }
            }
        }
        // The wildcard makes more of them as clients come.
        if present.databases_count() != known {
            let entries = present.databases();
            known = entries.len();
            for entry in entries.into_iter().filter(|entry| catalog::Keeper::is_for(entry)) {
                keepers.entry(Arc::as_ptr(&entry.catalog) as usize).or_insert_with(|| {
                    let keeper = catalog::Keeper::new(entry, Arc::clone(&present));
                    Probe(task::spawn("catalog", keeper.run()))
                });
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// A task that ends when its handle is dropped.
struct Probe(JoinHandle<()>);

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.abort();
    }
}
