//! SHOW CLUSTER: the nodes as the probes see them. SHOW ROUTES: where statements went, and why.

use std::sync::atomic::Ordering;

use crate::admin::Console;
use crate::admin::table::{Cell, ColumnType, Table};
use crate::cluster::{Cluster, LeadStatus, NodeState, Role, Standing};
use crate::pool::DatabaseEntry;

const NODES: &[(&str, ColumnType)] = &[
    ("database", ColumnType::Text),
    ("shard", ColumnType::Int4),
    ("node", ColumnType::Text),
    ("role", ColumnType::Text),
    ("observed_role", ColumnType::Text),
    ("state", ColumnType::Text),
    ("standing", ColumnType::Text),
    ("timeline", ColumnType::Int8),
    ("replay_lsn", ColumnType::Text),
    ("lag_bytes", ColumnType::Int8),
    ("lag_ms", ColumnType::Int8),
    ("in_flight", ColumnType::Int4),
    ("weight", ColumnType::Int4),
    ("near", ColumnType::Int4),
    ("latency_us", ColumnType::Int8),
    ("statements", ColumnType::Int8),
    ("failures", ColumnType::Int8),
    ("banned", ColumnType::Int4),
    ("why", ColumnType::Text),
];

pub(super) fn nodes(console: &Console) -> Table {
    let mut table = Table::new(NODES);
    for entry in console.topology.load().databases() {
        for index in 0..=entry.cluster.replicas.len() {
            table.push(row(&entry, index));
        }
    }
    table
}

fn row(entry: &DatabaseEntry, index: usize) -> Vec<Cell> {
    let cluster = &entry.cluster;
    let node = cluster.node(index);
    let weight = index.checked_sub(1).and_then(|place| cluster.replicas.get(place)).map_or(1, |r| r.weight);
    let (bytes, micros) = node.lag();
    let observed = match node.role() {
        None => Cell::Null,
        Some(Role::Primary) => Cell::text("primary"),
        Some(Role::Replica) => Cell::text("replica"),
    };
    let timeline = match node.lineage().timeline {
        0 => Cell::Null,
        timeline => Cell::count(u64::from(timeline)),
    };
    vec![
        Cell::text(&*entry.name),
        Cell::count(u64::from(entry.shard.unwrap_or(0))),
        Cell::text(node.address.to_string()),
        Cell::text(if index == 0 { "primary" } else { "replica" }),
        observed,
        Cell::text(node.state().as_str()),
        Cell::text(cluster.leadership.standing(index).as_str()),
        timeline,
        Cell::text(node.position().to_string()),
        Cell::count(bytes),
        Cell::count(micros / 1000),
        Cell::count(u64::from(node.in_flight.load(Ordering::Relaxed))),
        Cell::count(u64::from(weight)),
        Cell::Number(i64::from(cluster.is_near(index))),
        Cell::count(u64::from(node.latency())),
        Cell::count(node.statements.load(Ordering::Relaxed)),
        Cell::count(node.failures.load(Ordering::Relaxed)),
        Cell::Number(i64::from(node.is_banned())),
        Cell::text(why(cluster, index)),
    ]
}

/// Why a node is not used as configured; empty where it is.
fn why(cluster: &Cluster, index: usize) -> &'static str {
    let node = cluster.node(index);
    let status = cluster.leadership.lead().status;
    match cluster.leadership.standing(index) {
        Standing::Down => "does not answer",
        Standing::Fenced if status == LeadStatus::Ambiguous => {
            "out of recovery like another node: writes are refused until one is stopped or trusted"
        }
        Standing::Fenced => "out of recovery on an older timeline: not used",
        Standing::Foreign => "of another database system: not used",
        Standing::Unproven => {
            "in recovery, but not seen on the primary's timeline: no reads (docs/failover.md)"
        }
        Standing::Unknown if status == LeadStatus::Undecided => "not looked at yet",
        Standing::Unknown => "cannot be looked at",
        Standing::Primary | Standing::Replica if node.is_banned() => "banned: no reads",
        Standing::Primary if node.role() == Some(Role::Replica) => {
            "in recovery, and there is no other node: reads only"
        }
        Standing::Primary if index != 0 => "has taken over from the configured primary",
        Standing::Replica if node.state() == NodeState::Recovering => "back, but not for long enough",
        Standing::Replica if node.state() == NodeState::Lagging => "too far behind: no reads",
        Standing::Replica if index == 0 => "configured as primary, but follows another node",
        Standing::Primary | Standing::Replica => "",
    }
}

/// Reasons that have decided at least once.
pub(super) fn routes(console: &Console) -> Table {
    let columns = [
        ("database", ColumnType::Text),
        ("target", ColumnType::Text),
        ("reason", ColumnType::Text),
        ("count", ColumnType::Int8),
        ("shard", ColumnType::Int4),
    ];
    let mut table = Table::new(&columns);
    for entry in console.topology.load().databases() {
        for (reason, count) in entry.routes.iter().filter(|(_, count)| *count > 0) {
            table.push(vec![
                Cell::text(&*entry.name),
                Cell::text(reason.target()),
                Cell::text(reason.label()),
                Cell::count(count),
                Cell::count(u64::from(entry.shard.unwrap_or(0))),
            ]);
        }
    }
    table
}
