//! Databases: their nodes, and what they say differently about pools and routing.

use std::collections::BTreeMap;

use super::address::parse_node;
use super::errors::{Complaint, Place, Problems};
use super::raw::{RawDatabase, RawNode, RawRouting};
use super::read::{Located, Named, Several};
use super::resolve::{check_pool, number, pool_overrides, time};
use super::{Database, NodeSettings, PoolSettings, Routing, defaults, sharding};

/// The names of the console's own databases.
const CONSOLE_DATABASES: &[&str] = &["pgweir", "pgbouncer"];

/// The databases by name, and the wildcard.
pub(super) fn databases(
    raw: Option<&Located<Named<RawDatabase>>>,
    pool: &PoolSettings,
    below: &Routing,
    problems: &mut Problems,
) -> (BTreeMap<String, Database>, Option<Database>) {
    let mut databases = BTreeMap::new();
    let mut wildcard = None;
    let named = raw.map(|raw| raw.value.0.as_slice()).unwrap_or_default();
    if named.is_empty() && !problems.concern("databases") {
        let place = raw.map_or_else(Place::root, |raw| raw.place.clone());
        let complaint = Complaint::new("no database is configured")
            .hint("the smallest is: databases: {\"*\": {primary: \"db:5432\"}}");
        problems.push(&place, complaint);
    }
    for (name, place, raw) in named {
        if CONSOLE_DATABASES.contains(&name.as_str()) {
            let complaint = Complaint::new(format!("{name:?} is the name of the admin console"))
                .hint("choose another name here, and give the server's with database:");
            problems.push(place, complaint);
        }
        let sharding = sharding::sharding(name, place, raw, problems);
        let nodes = match (&raw.primary, &sharding) {
            (_, Some(sharding)) => sharding.shards.first().map(|s| (s.primary.clone(), s.replicas.clone())),
            (Some(primary), None) => self::nodes(primary, raw.replicas.as_ref(), problems),
            (None, None) => {
                if !problems.concern(&place.path) {
                    problems.push(place, Complaint::new("has no primary").hint("add primary: \"host:5432\""));
                }
                continue;
            }
        };
        let own_pool = pool.with(&pool_overrides(raw.pool.as_ref(), problems));
        check_pool(&own_pool, raw.pool.as_ref(), problems);
        let own_routing = routing(below, raw.routing.as_ref(), problems);
        let Some((primary, replicas)) = nodes else { continue };
        let database = Database {
            name: name.clone(),
            server_database: raw.database.as_ref().map(|d| d.value.clone()),
            primary,
            replicas,
            pool: own_pool,
            routing: own_routing,
            sharding,
        };
        if name == "*" {
            wildcard = Some(database);
        } else {
            databases.insert(name.clone(), database);
        }
    }
    (databases, wildcard)
}

/// A primary and its replicas, each once; `None` if the primary is wrong. Fewer replicas than written were
/// reported; the rest is only looked at for more errors.
pub(super) fn nodes(
    primary: &Located<RawNode>,
    replicas: Option<&Located<Several<RawNode>>>,
    problems: &mut Problems,
) -> Option<(NodeSettings, Vec<NodeSettings>)> {
    let mut nodes: Vec<NodeSettings> = Vec::new();
    let replicas = replicas.map(|r| r.value.0.as_slice()).unwrap_or_default();
    for (n, raw) in std::iter::once(primary).chain(replicas).enumerate() {
        let Some(node) = node(raw, problems) else { continue };
        if let Some(other) = nodes.iter().position(|o| o.host == node.host && o.port == node.port) {
            problems.push(&raw.place, twice(&node, other == 0 && n > 0));
        }
        nodes.push(node);
    }
    let mut nodes = nodes.into_iter();
    let primary = nodes.next()?;
    Some((primary, nodes.collect()))
}

fn twice(node: &NodeSettings, is_primary: bool) -> Complaint {
    if is_primary {
        Complaint::new(format!("{node} is the primary of this database too"))
            .hint("to let the primary take reads set routing: {reads: replica_or_primary}")
    } else {
        Complaint::new(format!("{node} is given twice")).hint("to send a node more reads give it a weight")
    }
}

fn node(raw: &Located<RawNode>, problems: &mut Problems) -> Option<NodeSettings> {
    let RawNode(map) = &raw.value;
    let Some(address) = map.address.as_ref() else {
        problems.push(&raw.place, Complaint::new("has no address").hint("add address: \"host:5432\""));
        return None;
    };
    let weight = number(map.weight.as_ref(), &defaults::WEIGHTS, problems);
    let (host, port) = problems.keep(&address.place, parse_node(&address.value))?;
    Some(NodeSettings {
        host,
        port,
        weight: weight.map_or(defaults::WEIGHT, |w| w as u32),
        zone: map.zone.as_ref().map(|z| z.value.clone()),
    })
}

/// The routing a section sets, over what is below it.
pub(super) fn routing(
    below: &Routing,
    raw: Option<&Located<RawRouting>>,
    problems: &mut Problems,
) -> Routing {
    let Some(Located { value: raw, .. }) = raw else { return below.clone() };
    Routing {
        reads: raw.reads.as_ref().map_or(below.reads, |r| r.value),
        consistency: raw.consistency.as_ref().map_or(below.consistency, |c| c.value),
        zone: raw.zone.as_ref().map_or_else(|| below.zone.clone(), |z| Some(z.value.clone())),
        transactions: raw.transactions.as_ref().map_or(below.transactions, |t| t.value),
        max_replica_lag: time(raw.max_replica_lag.as_ref(), &defaults::ANY_DURATION, problems)
            .unwrap_or(below.max_replica_lag),
        failover_wait: time(raw.failover_wait.as_ref(), &defaults::ANY_DURATION, problems)
            .unwrap_or(below.failover_wait),
        catalog_refresh: time(raw.catalog_refresh.as_ref(), &defaults::ANY_DURATION, problems)
            .unwrap_or(below.catalog_refresh),
    }
}
