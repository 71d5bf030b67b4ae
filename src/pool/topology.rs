//! The configuration brought to life: databases with their nodes, counters and pools.
//!
//! A [`Topology`] is a snapshot; a reload builds a new one, which takes over the nodes, counters and
//! caches of the old one where they are for the same thing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::auth::ScramCache;
use crate::catalog::{CatalogCell, LearnedWrites};
use crate::cluster::{Cluster, Leadership, Node, NodeAddress, Replica, TableHorizons};
use crate::config::{
    ClientPassword, Config, Database, NodeSettings, PoolSettings, Reads, Secret, ServerTlsMode,
};
use crate::net::tls::ServerTlsConnector;
use crate::protocol::parameters::Parameters;
use crate::route::Reason;
use crate::server::ServerTarget;
use crate::shard::ShardNumber;

use super::manager::{Pool, PoolKey};
use super::registry::PoolRegistry;
use super::shards::ShardSet;

/// Databases made of the wildcard entry, at most; names come from clients.
const WILDCARD_DATABASES_MAX: usize = 1000;

/// How often each reason decided, for one database.
#[derive(Debug)]
pub struct RouteCounters([AtomicU64; Reason::ALL.len()]);

impl Default for RouteCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl RouteCounters {
    /// Counts a statement.
    #[inline]
    pub fn count(&self, reason: Reason) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All counts.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.iter().zip(&self.0).map(|(reason, count)| (*reason, count.load(Ordering::Relaxed)))
    }
}

/// What a login was told by a server: reported settings, by user and startup settings, and when.
pub type ReportedCache = Mutex<HashMap<(String, String), (Instant, Parameters)>>;

/// A database in use.
#[derive(Debug)]
pub struct DatabaseEntry {
    /// Its name, as clients ask for it.
    pub name: String,
    /// Its settings; those of the wildcard for a name that has none of its own.
    pub settings: Database,
    /// Which shard of it this is, where it is sharded.
    pub shard: Option<ShardNumber>,
    /// Its nodes; those of one shard where it is sharded.
    pub cluster: Cluster,
    /// Where its statements went.
    pub routes: Arc<RouteCounters>,
    /// Grows with each change of the catalog that passes through here: what was prepared before is not what the
    /// same text would be now.
    pub catalog_epoch: Arc<AtomicU64>,
    /// Reported settings by (user, startup settings).
    pub reported: ReportedCache,
    /// What its catalog says; shared by all names of the same database.
    pub catalog: Arc<CatalogCell>,
    /// How far replicas must have got to be read from; shared likewise.
    pub horizons: Arc<TableHorizons>,
    /// Statements that standbys refused; shared likewise.
    pub learned: Arc<LearnedWrites>,
}

impl DatabaseEntry {
    /// Whether reads of its clients may go elsewhere than writes.
    pub fn splits_reads(&self) -> bool {
        !self.cluster.replicas.is_empty() && self.settings.routing.reads != Reads::Primary
    }

    /// Whether it stands for its name: the first shard, or the only one.
    pub fn is_first(&self) -> bool {
        self.shard.is_none_or(|shard| shard == 0)
    }

    /// What tells it apart in metrics: the name, and the shard if there are several.
    pub fn labels(&self) -> Vec<(&'static str, String)> {
        labels(&self.name, self.shard)
    }
}

/// The labels of a database, or of one of its shards.
pub fn labels(name: &str, shard: Option<ShardNumber>) -> Vec<(&'static str, String)> {
    let mut labels = vec![("database", name.to_owned())];
    labels.extend(shard.map(|shard| ("shard", shard.to_string())));
    labels
}

/// What is known of a database on a primary, under whatever names clients reach it.
#[derive(Clone, Debug, Default)]
struct Known {
    catalog: Arc<CatalogCell>,
    horizons: Arc<TableHorizons>,
    learned: Arc<LearnedWrites>,
    catalog_epoch: Arc<AtomicU64>,
}

/// By the cluster's first primary and the name there.
type KnownDatabases = HashMap<(NodeAddress, String), Known>;

/// The snapshot.
#[derive(Debug)]
pub struct Topology {
    /// The configuration it was made of.
    pub config: Arc<Config>,
    /// Grows with each reload.
    pub version: u64,
    nodes: BTreeMap<NodeAddress, Arc<Node>>,
    /// By nodes, the configured primary first: databases with the same nodes have the same.
    leaderships: BTreeMap<Vec<NodeAddress>, Arc<Leadership>>,
    /// Of a sharded one, the first shard.
    databases: BTreeMap<String, Arc<DatabaseEntry>>,
    /// All shards of those that are sharded.
    shards: BTreeMap<String, Arc<ShardSet>>,
    of_wildcard: Mutex<BTreeMap<String, Arc<DatabaseEntry>>>,
    /// What is known of the databases above.
    facts: Mutex<KnownDatabases>,
    tls: Option<Arc<ServerTlsConnector>>,
    scram: Arc<ScramCache>,
}

impl Topology {
    /// The topology of `config`. `previous` gives its nodes and counters.
    pub fn build(
        config: Arc<Config>,
        tls: Option<Arc<ServerTlsConnector>>,
        scram: Arc<ScramCache>,
        previous: Option<&Self>,
    ) -> Self {
        let mut nodes = BTreeMap::new();
        let mut leaderships = BTreeMap::new();
        let mut node = |settings: &NodeSettings| {
            let address = NodeAddress { host: settings.host.clone(), port: settings.port };
            let known = previous.and_then(|p| p.nodes.get(&address));
            let make = || known.map_or_else(|| Arc::new(Node::new(address.clone())), Arc::clone);
            Arc::clone(nodes.entry(address.clone()).or_insert_with(make))
        };
        let mut cluster = |database: &Database| {
            let primary = node(&database.primary);
            let replicas: Vec<_> = database
                .replicas
                .iter()
                .map(|replica| Replica { node: node(replica), weight: replica.weight.max(1) })
                .collect();
            let members: Vec<_> = std::iter::once(&primary)
                .chain(replicas.iter().map(|replica| &replica.node))
                .cloned()
                .collect();
            let addresses: Vec<_> = members.iter().map(|node| node.address.clone()).collect();
            let leadership = Arc::clone(leaderships.entry(addresses).or_insert_with_key(|addresses| {
                let known = previous.and_then(|previous| previous.leaderships.get(addresses));
                known.map_or_else(
                    || Arc::new(Leadership::new(members, previous.and_then(|p| p.kin(addresses)))),
                    Arc::clone,
                )
            }));
            Cluster { primary, replicas, near: near(database), leadership }
        };
        let mut databases = BTreeMap::new();
        let mut shards = BTreeMap::new();
        let mut facts = previous.map(|p| p.facts.lock().clone()).unwrap_or_default();
        let mut make = |name: &str, settings: &Database, shard: Option<ShardNumber>| {
            let before = previous.and_then(|p| p.entry(name, shard));
            let made = entry(name, settings, shard, cluster(settings), before.as_deref(), &mut facts);
            let members: Vec<_> = made.cluster.nodes().map(|node| node.address.clone()).collect();
            if previous.is_some_and(|p| !p.leaderships.contains_key(&members)) {
                // Another primary may have come of it, and positions are not to be compared with those before.
                made.horizons.primary_changed(&made.cluster.writer().horizon);
            }
            made
        };
        for (name, settings) in &config.databases {
            let Some(sharding) = &settings.sharding else {
                databases.insert(name.clone(), make(name, settings, None));
                continue;
            };
            let entries: Vec<_> = (0..)
                .zip(&sharding.shards)
                .map(|(number, shard)| make(name, &shard.of(settings), Some(number)))
                .collect();
            databases.extend(entries.first().map(|first| (name.clone(), Arc::clone(first))));
            let before = previous.and_then(|p| p.shards.get(name));
            let set = ShardSet::new(entries, Arc::clone(sharding), before.map(|set| &**set));
            shards.insert(name.clone(), Arc::new(set));
        }
        if let Some(wildcard) = &config.wildcard_database {
            cluster(wildcard);
        }
        Self {
            version: previous.map_or(1, |p| p.version + 1),
            config,
            nodes,
            leaderships,
            databases,
            shards,
            of_wildcard: Mutex::default(),
            facts: Mutex::new(facts),
            tls,
            scram,
        }
    }

    /// The shards of a database, if it is sharded.
    pub fn shards(&self, name: &str) -> Option<&Arc<ShardSet>> {
        self.shards.get(name)
    }

    /// All databases that are sharded, by name.
    pub fn shard_sets(&self) -> impl Iterator<Item = (&String, &Arc<ShardSet>)> {
        self.shards.iter()
    }

    /// A database, or one shard of it.
    fn entry(&self, name: &str, shard: Option<ShardNumber>) -> Option<Arc<DatabaseEntry>> {
        match shard {
            None => self.known(name).filter(|entry| entry.shard.is_none()),
            Some(number) => self.shards.get(name)?.entry(number).cloned(),
        }
    }

    /// As [`Self::entry`], and made of the wildcard entry where there is none.
    fn entry_of(&self, name: &str, shard: Option<ShardNumber>) -> Option<Arc<DatabaseEntry>> {
        match shard {
            None => self.database(name).filter(|entry| entry.shard.is_none()),
            Some(_) => self.entry(name, shard),
        }
    }

    fn known(&self, name: &str) -> Option<Arc<DatabaseEntry>> {
        self.databases.get(name).cloned().or_else(|| self.of_wildcard.lock().get(name).cloned())
    }

    /// A leadership with some of these nodes.
    fn kin(&self, addresses: &[NodeAddress]) -> Option<&Leadership> {
        let shares = |known: &[NodeAddress]| known.iter().any(|address| addresses.contains(address));
        self.leaderships.iter().find(|(known, _)| shares(known)).map(|(_, leadership)| &**leadership)
    }

    /// Who leads which nodes; each set of nodes once.
    pub fn leaderships(&self) -> impl Iterator<Item = &Arc<Leadership>> {
        self.leaderships.values()
    }

    /// All nodes, each once.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// The database a client asked for; made of the wildcard entry if it has none of its own.
    pub fn database(&self, name: &str) -> Option<Arc<DatabaseEntry>> {
        if let Some(found) = self.known(name) {
            return Some(found);
        }
        let settings = self.config.wildcard_database.as_ref()?;
        let node = |node: &NodeSettings| {
            self.nodes.get(&NodeAddress { host: node.host.clone(), port: node.port }).cloned()
        };
        let replica = |settings: &NodeSettings| {
            node(settings).map(|node| Replica { node, weight: settings.weight.max(1) })
        };
        let primary = node(&settings.primary)?;
        let replicas: Vec<_> = settings.replicas.iter().filter_map(replica).collect();
        let addresses = std::iter::once(&primary).chain(replicas.iter().map(|replica| &replica.node));
        let addresses: Vec<_> = addresses.map(|node| node.address.clone()).collect();
        let leadership = Arc::clone(self.leaderships.get(&addresses)?);
        let cluster = Cluster { primary, replicas, near: near(settings), leadership };
        let mut of_wildcard = self.of_wildcard.lock();
        if let Some(found) = of_wildcard.get(name) {
            return Some(Arc::clone(found));
        }
        // One that is not kept knows of no write but its own clients'.
        let mut facts = self.facts.lock();
        if of_wildcard.len() >= WILDCARD_DATABASES_MAX {
            return Some(entry(
                name,
                settings,
                None,
                Cluster { replicas: Vec::new(), ..cluster },
                None,
                &mut HashMap::new(),
            ));
        }
        let made = entry(name, settings, None, cluster, None, &mut facts);
        of_wildcard.insert(name.to_owned(), Arc::clone(&made));
        Some(made)
    }

    /// How many databases are in use, each shard of one counted.
    pub fn databases_count(&self) -> usize {
        let more: usize = self.shards.values().map(|set| set.entries().len().saturating_sub(1)).sum();
        self.databases.len() + more + self.of_wildcard.lock().len()
    }

    /// Databases in use, by name, and each shard of those that are sharded.
    pub fn databases(&self) -> Vec<Arc<DatabaseEntry>> {
        let mut all: Vec<_> =
            self.databases.values().filter(|entry| entry.shard.is_none()).cloned().collect();
        all.extend(self.shards.values().flat_map(|set| set.entries()).cloned());
        all.extend(self.of_wildcard.lock().values().cloned());
        all.sort_by(|a, b| (&a.name, a.shard).cmp(&(&b.name, b.shard)));
        all
    }

    /// The pool settings of a user in a database.
    pub fn pool_settings(&self, database: &DatabaseEntry, user: &str) -> PoolSettings {
        match self.config.users.get(user) {
            Some(user) => database.settings.pool.with(&user.pool),
            None => database.settings.pool.clone(),
        }
    }

    /// The pool of `user` in `database` on `node`.
    pub fn pool(
        &self,
        registry: &PoolRegistry,
        database: &DatabaseEntry,
        user: &str,
        node: &Arc<Node>,
    ) -> Arc<Pool> {
        let key = PoolKey {
            database: database.name.clone(),
            shard: database.shard,
            user: user.to_owned(),
            node: node.address.to_string(),
        };
        registry.pool(key, || {
            (Arc::clone(node), self.target(database, user, node), self.pool_settings(database, user))
        })
    }

    /// How `user` logs in to `database` on `node`.
    pub fn target(&self, database: &DatabaseEntry, user: &str, node: &Node) -> ServerTarget {
        let (server_user, password) = self.credentials(user);
        ServerTarget {
            address: node.address.clone(),
            endpoint: Some(Arc::clone(&node.endpoint)),
            database: database.settings.server_database.clone().unwrap_or_else(|| database.name.clone()),
            user: server_user,
            password,
            tls: self.tls.clone(),
            tls_mode: if self.tls.is_some() { self.config.tls.server.mode } else { ServerTlsMode::Disable },
            scram: Arc::clone(&self.scram),
            timeout: self.config.timeouts.server_connect,
            extra: Vec::new(),
        }
    }

    fn credentials(&self, user: &str) -> (String, Option<Secret>) {
        let Some(settings) = self.config.users.get(user) else { return (user.to_owned(), None) };
        let password = settings.server_password.clone().or_else(|| match &settings.password {
            Some(ClientPassword::Plain(secret)) => Some(secret.clone()),
            _ => None,
        });
        (settings.server_user.clone().unwrap_or_else(|| user.to_owned()), password)
    }

    /// The user that probes log in as, for a database.
    pub fn probe_user(&self, database: &DatabaseEntry) -> Option<String> {
        if let Some(user) = &self.config.health.user {
            return Some(user.clone());
        }
        // A user of the console may exist there only, so the others come first.
        let rank = |user: &&crate::config::User| {
            (self.config.admin.users.contains(&user.name), self.credentials(&user.name).1.is_none())
        };
        let may_use = |user: &&crate::config::User| {
            user.databases.as_ref().is_none_or(|list| list.contains(&database.name))
        };
        self.config.users.values().filter(may_use).min_by_key(rank).map(|user| user.name.clone())
    }

    /// Applies this topology to the pools: closes those that no longer fit, reconfigures the others.
    pub fn apply(&self, registry: &PoolRegistry) {
        let fits = |pool: &Pool| {
            let Some(database) = self.entry_of(&pool.key.database, pool.key.shard) else { return false };
            let node = database.cluster.nodes().find(|node| node.address.to_string() == pool.key.node);
            node.is_some_and(|node| same_login(&self.target(&database, &pool.key.user, node), pool.target()))
        };
        registry.close_unless(fits);
        registry.listeners.close_unless(|listener| {
            let Some(database) = self.database(&listener.key.database) else { return false };
            let primary = database.cluster.writer();
            let target = self.target(&database, &listener.key.user, primary);
            primary.address == listener.node.address && same_login(&target, listener.target())
        });
        for pool in registry.pools() {
            if let Some(database) = self.entry_of(&pool.key.database, pool.key.shard) {
                let settings = self.pool_settings(&database, &pool.key.user);
                if settings != *pool.settings() {
                    pool.reconfigure(settings);
                }
            }
        }
    }
}

fn same_login(a: &ServerTarget, b: &ServerTarget) -> bool {
    a.database == b.database && a.user == b.user && a.password == b.password && a.tls_mode == b.tls_mode
}

/// Which nodes, by number, are where this pgweir is. None of them where that is not said of any.
fn near(database: &Database) -> Vec<bool> {
    let Some(here) = &database.routing.zone else { return Vec::new() };
    let nodes = std::iter::once(&database.primary).chain(&database.replicas);
    nodes.map(|node| node.zone.as_ref() == Some(here)).collect()
}

fn entry(
    name: &str,
    settings: &Database,
    shard: Option<ShardNumber>,
    cluster: Cluster,
    before: Option<&DatabaseEntry>,
    facts: &mut KnownDatabases,
) -> Arc<DatabaseEntry> {
    // Of another database, or of another cluster, nothing is known.
    let on_server = settings.server_database.clone().unwrap_or_else(|| name.to_owned());
    let known = facts.entry((cluster.leadership.origin().clone(), on_server)).or_default().clone();
    if let Some(before) = before {
        // What was prepared under the old number stays older.
        let epoch = before.catalog_epoch.load(Ordering::Acquire);
        known.catalog_epoch.fetch_max(epoch, Ordering::AcqRel);
    }
    let entry = DatabaseEntry {
        catalog: known.catalog,
        horizons: known.horizons,
        learned: known.learned,
        catalog_epoch: known.catalog_epoch,
        name: name.to_owned(),
        settings: settings.clone(),
        shard,
        cluster,
        routes: before.map_or_else(Arc::default, |entry| Arc::clone(&entry.routes)),
        reported: Mutex::default(),
    };
    if entry.splits_reads() {
        entry.horizons.watch();
    }
    Arc::new(entry)
}
