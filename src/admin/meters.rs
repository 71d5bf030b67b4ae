//! Metrics of pools, clients, nodes and routes: what the console shows, for Prometheus.
//!
//! The counters live where they are counted; here they are copied into handles, which are made once for
//! each pool, node and reason and kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use parking_lot::Mutex;

use crate::clients::Activity;
use crate::cluster::{LeadStatus, Node, NodeState, Role, Standing};
use crate::pool::{DatabaseEntry, Listeners, Pool, Topology};
use crate::route::Reason;

use super::Console;

/// The handles.
#[derive(Default)]
pub struct Meters(Mutex<Handles>);

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meters")
    }
}

#[derive(Default)]
struct Handles {
    described: bool,
    gauges: HashMap<(&'static str, Labels), Gauge>,
    counters: HashMap<(&'static str, Labels), Counter>,
}

/// Label names and values; few, and bounded by the configuration.
type Labels = Vec<(&'static str, String)>;

impl Handles {
    fn gauge(&mut self, name: &'static str, labels: Labels, value: f64) {
        let make = |labels: &Labels| gauge!(name, labels.as_slice());
        self.gauges.entry((name, labels)).or_insert_with_key(|(_, labels)| make(labels)).set(value);
    }

    fn counter(&mut self, name: &'static str, labels: Labels, value: u64) {
        let make = |labels: &Labels| counter!(name, labels.as_slice());
        self.counters.entry((name, labels)).or_insert_with_key(|(_, labels)| make(labels)).absolute(value);
    }

    fn describe(&mut self) {
        if std::mem::replace(&mut self.described, true) {
            return;
        }
        describe_gauge!("pgweir_clients", "Clients by state: idle, active, waiting, login");
        describe_gauge!("pgweir_server_connections", "Server connections by state: idle, active, opening");
        describe_gauge!(
            "pgweir_replication_connections",
            "Replication connections, each a server connection of its own"
        );
        describe_gauge!("pgweir_pool_size", "Server connections a pool may have");
        describe_gauge!("pgweir_clients_waiting", "Clients that wait for a server connection");
        describe_gauge!("pgweir_oldest_wait_seconds", "How long the oldest of them has waited");
        describe_counter!("pgweir_transactions_total", "Transactions finished");
        describe_counter!("pgweir_queries_total", "Queries finished");
        describe_counter!("pgweir_client_received_bytes_total", "Bytes received from clients");
        describe_counter!("pgweir_client_sent_bytes_total", "Bytes sent to clients");
        describe_counter!("pgweir_server_connections_opened_total", "Server connections opened");
        describe_counter!("pgweir_server_connections_closed_total", "Server connections closed");
        describe_counter!(
            "pgweir_server_connect_failures_total",
            "Attempts to open a server connection that failed"
        );
        describe_counter!(
            "pgweir_checkout_timeouts_total",
            "Clients that waited for longer than pool.checkout_timeout"
        );
        describe_counter!(
            "pgweir_dirty_checkins_total",
            "Server connections that came back with something left in them; only with pool.debug_check"
        );
        describe_gauge!(
            "pgweir_pins",
            "Clients that keep their server connection outside transactions, by reason"
        );
        describe_counter!(
            "pgweir_pins_total",
            "Times a client began to keep its server connection, by reason"
        );
        describe_counter!("pgweir_parses_total", "Parse messages, by side: client, server");
        describe_gauge!("pgweir_node_up", "Whether a node answers");
        describe_gauge!("pgweir_node_is_primary", "Whether a node is out of recovery, as last observed");
        describe_gauge!("pgweir_node_timeline", "Timeline of a node; of a replica the least it can be on");
        describe_gauge!("pgweir_node_state", "1 for the state that a node is in, 0 for the others");
        describe_gauge!("pgweir_node_banned", "Whether an operator keeps reads away from a node");
        describe_gauge!("pgweir_node_fenced", "Whether a node is out of recovery without being the primary");
        describe_gauge!("pgweir_primary_known", "Whether a database has a primary");
        describe_gauge!(
            "pgweir_primary_ambiguous",
            "Whether several nodes claim to be the primary: writes are refused"
        );
        describe_gauge!("pgweir_primary_waiting", "Clients that wait for a primary");
        describe_counter!("pgweir_primary_changes_total", "Times another node or timeline took the writes");
        describe_gauge!("pgweir_node_lag_bytes", "Bytes of log that a replica has yet to replay");
        describe_gauge!("pgweir_node_lag_seconds", "How long ago the primary was where the replica is");
        describe_gauge!(
            "pgweir_node_in_flight",
            "Server connections of a node that are lent, and clients that wait for one"
        );
        describe_counter!("pgweir_node_statements_total", "Statements sent to a node");
        describe_counter!("pgweir_node_failures_total", "Times a node was found down");
        describe_counter!("pgweir_routes_total", "Routing decisions by reason");
        describe_counter!("pgweir_shard_refusals_total", "Statements that no shard was given, by reason");
        describe_gauge!(
            "pgweir_shard_key_columns_wrong",
            "Columns of sharding keys that are not what is declared: statements that need them are refused"
        );
        describe_gauge!("pgweir_catalog_known", "Whether the catalog of a database is known");
        describe_gauge!("pgweir_catalog_bytes", "Bytes that what is known of a catalog takes");
        describe_gauge!("pgweir_catalog_age_seconds", "Time since the catalog was last seen to be as known");
        describe_counter!("pgweir_catalog_loads_total", "Times a catalog was read as a whole");
        describe_counter!("pgweir_catalog_failures_total", "Times a catalog could not be read");
        describe_gauge!("pgweir_listeners", "Connections that receive notifications, outside the pools");
        describe_gauge!(
            "pgweir_subscriptions",
            "Pairs of client and channel it listens to, in transaction mode"
        );
        describe_counter!("pgweir_notifications_total", "Notifications put into clients' mailboxes");
        describe_counter!(
            "pgweir_notification_overflows_total",
            "Clients disconnected because limits.notifications_per_client was reached"
        );
        describe_counter!("pgweir_listeners_lost_total", "Listeners lost while clients listened");
    }
}

impl Meters {
    /// Copies the present numbers.
    pub(super) fn refresh(&self, console: &Console) {
        let mut handles = self.0.lock();
        handles.describe();
        clients(&mut handles, console);
        for pool in console.pools.pools() {
            self::pool(&mut handles, &pool);
        }
        listeners(&mut handles, &console.pools.listeners);
        let topology = console.topology.load();
        for node in topology.nodes() {
            let labels = || vec![("node", node.address.to_string())];
            let (bytes, micros) = node.lag();
            let up = matches!(node.state(), NodeState::Up | NodeState::Lagging | NodeState::Recovering);
            handles.gauge("pgweir_node_up", labels(), f64::from(u8::from(up)));
            roles(&mut handles, &topology, node);
            let is_primary = node.role() == Some(Role::Primary);
            handles.gauge("pgweir_node_is_primary", labels(), f64::from(u8::from(is_primary)));
            handles.gauge("pgweir_node_lag_bytes", labels(), bytes as f64);
            handles.gauge("pgweir_node_lag_seconds", labels(), micros as f64 / 1e6);
            let in_flight = node.in_flight.load(std::sync::atomic::Ordering::Relaxed);
            handles.gauge("pgweir_node_in_flight", labels(), f64::from(in_flight));
            let load = std::sync::atomic::Ordering::Relaxed;
            handles.counter("pgweir_node_statements_total", labels(), node.statements.load(load));
            handles.counter("pgweir_node_failures_total", labels(), node.failures.load(load));
        }
        for (name, set) in topology.shard_sets() {
            for (reason, count) in set.refusals() {
                let labels = vec![("database", name.clone()), ("reason", reason.to_owned())];
                handles.counter("pgweir_shard_refusals_total", labels, count);
            }
            for (shard, wrong) in set.wrong_columns() {
                let labels = vec![("database", name.clone()), ("shard", shard.to_string())];
                handles.gauge("pgweir_shard_key_columns_wrong", labels, wrong.len() as f64);
            }
        }
        for entry in topology.databases() {
            catalog(&mut handles, &entry);
            primary(&mut handles, &entry);
            for (reason, count) in entry.routes.iter() {
                let mut labels = entry.labels();
                labels.push(("target", reason.target().to_owned()));
                labels.push(("reason", Reason::label(reason).to_owned()));
                handles.counter("pgweir_routes_total", labels, count);
            }
        }
    }
}

fn roles(handles: &mut Handles, topology: &Topology, node: &Arc<Node>) {
    let labels = || vec![("node", node.address.to_string())];
    let is_fenced = topology.leaderships().any(|leadership| {
        let standing = leadership.position(node).map(|index| leadership.standing(index));
        matches!(standing, Some(Standing::Fenced | Standing::Foreign))
    });
    handles.gauge("pgweir_node_fenced", labels(), f64::from(u8::from(is_fenced)));
    handles.gauge("pgweir_node_banned", labels(), f64::from(u8::from(node.is_banned())));
    handles.gauge("pgweir_node_timeline", labels(), f64::from(node.lineage().timeline));
    let present = node.state();
    for state in NodeState::ALL {
        let labels = vec![("node", node.address.to_string()), ("state", state.as_str().to_owned())];
        handles.gauge("pgweir_node_state", labels, f64::from(u8::from(state == present)));
    }
}

fn primary(handles: &mut Handles, entry: &DatabaseEntry) {
    let leadership = &entry.cluster.leadership;
    let status = leadership.lead().status;
    let labels = || entry.labels();
    let is = |wanted| f64::from(u8::from(status == wanted));
    handles.gauge("pgweir_primary_known", labels(), is(LeadStatus::Primary));
    handles.gauge("pgweir_primary_ambiguous", labels(), is(LeadStatus::Ambiguous));
    handles.gauge("pgweir_primary_waiting", labels(), leadership.waiting() as f64);
    handles.counter("pgweir_primary_changes_total", labels(), leadership.changes());
}

fn catalog(handles: &mut Handles, entry: &DatabaseEntry) {
    if entry.settings.name == "*" {
        return;
    }
    let state = entry.catalog.state();
    let labels = || entry.labels();
    handles.gauge("pgweir_catalog_known", labels(), f64::from(u8::from(state.present)));
    handles.gauge("pgweir_catalog_bytes", labels(), state.bytes as f64);
    if let Some(confirmed) = state.confirmed {
        handles.gauge("pgweir_catalog_age_seconds", labels(), confirmed.elapsed().as_secs_f64());
    }
    handles.counter("pgweir_catalog_loads_total", labels(), state.loads);
    handles.counter("pgweir_catalog_failures_total", labels(), state.failures);
}

fn clients(handles: &mut Handles, console: &Console) {
    let snapshot = console.clients.snapshot();
    let count = |activity| snapshot.iter().filter(|client| client.activity() == activity).count() as f64;
    let states = [
        ("idle", count(Activity::Idle)),
        ("active", count(Activity::Active)),
        ("waiting", count(Activity::Waiting)),
        ("login", console.clients.logins() as f64),
    ];
    for (reason, total) in console.clients.pins() {
        let labels = || vec![("reason", reason.label().to_owned())];
        let now = snapshot.iter().filter(|client| client.pin().is_some_and(|pin| pin.reason == reason));
        handles.gauge("pgweir_pins", labels(), now.count() as f64);
        handles.counter("pgweir_pins_total", labels(), total);
    }
    handles.gauge(
        "pgweir_replication_connections",
        Vec::new(),
        console.pools.replication.snapshot().len() as f64,
    );
    for (state, value) in states {
        handles.gauge("pgweir_clients", vec![("state", state.to_owned())], value);
    }
}

fn listeners(handles: &mut Handles, listeners: &Listeners) {
    let all = listeners.all();
    let open = all.iter().filter(|listener| listener.info().is_some()).count();
    let subscriptions: usize = all.iter().map(|listener| listener.subscriptions()).sum();
    handles.gauge("pgweir_listeners", Vec::new(), open as f64);
    handles.gauge("pgweir_subscriptions", Vec::new(), subscriptions as f64);
    let stats = &listeners.stats;
    for (name, counter) in [
        ("pgweir_notifications_total", &stats.delivered),
        ("pgweir_notification_overflows_total", &stats.overflows),
        ("pgweir_listeners_lost_total", &stats.lost),
    ] {
        handles.counter(name, Vec::new(), counter.load(Ordering::Relaxed));
    }
}

fn pool(handles: &mut Handles, pool: &Pool) {
    let key = &pool.key;
    let labels = || {
        let mut labels = crate::pool::labels(&key.database, key.shard);
        labels.extend([("user", key.user.clone()), ("node", key.node.clone())]);
        labels
    };
    let with = |name: &'static str, value: &str| {
        let mut labels = labels();
        labels.push((name, value.to_owned()));
        labels
    };
    let counts = pool.counts(Instant::now());
    let states = [("idle", counts.idle), ("active", counts.leased), ("opening", counts.opening)];
    for (state, value) in states {
        handles.gauge("pgweir_server_connections", with("state", state), value as f64);
    }
    handles.gauge("pgweir_pool_size", labels(), pool.settings().size as f64);
    handles.gauge("pgweir_clients_waiting", labels(), counts.waiting as f64);
    handles.gauge("pgweir_oldest_wait_seconds", labels(), counts.oldest_wait.as_secs_f64());
    let stats = pool.stats.snapshot();
    for (name, value) in [
        ("pgweir_transactions_total", stats.transactions),
        ("pgweir_queries_total", stats.queries),
        ("pgweir_client_received_bytes_total", stats.received),
        ("pgweir_client_sent_bytes_total", stats.sent),
        ("pgweir_server_connections_opened_total", stats.opened),
        ("pgweir_server_connections_closed_total", stats.closed),
        ("pgweir_server_connect_failures_total", stats.open_failures),
        ("pgweir_checkout_timeouts_total", stats.timeouts),
        ("pgweir_dirty_checkins_total", stats.dirty),
    ] {
        handles.counter(name, labels(), value);
    }
    handles.counter("pgweir_parses_total", with("side", "client"), stats.client_parses);
    handles.counter("pgweir_parses_total", with("side", "server"), stats.server_parses);
}
