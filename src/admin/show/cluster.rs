//! SHOW CLUSTER: the nodes as the probes see them. SHOW ROUTES: where statements went, and why.

use std::sync::atomic::Ordering;

use crate::admin::Console;
use crate::admin::table::{Cell, ColumnType, Table};
use crate::cluster::{Node, Role};

const NODES: &[(&str, ColumnType)] = &[
    ("database", ColumnType::Text),
    ("shard", ColumnType::Int4),
    ("node", ColumnType::Text),
    ("role", ColumnType::Text),
    ("observed_role", ColumnType::Text),
    ("state", ColumnType::Text),
    ("replay_lsn", ColumnType::Text),
    ("lag_bytes", ColumnType::Int8),
    ("lag_ms", ColumnType::Int8),
    ("in_flight", ColumnType::Int4),
    ("weight", ColumnType::Int4),
    ("statements", ColumnType::Int8),
    ("failures", ColumnType::Int8),
];

pub(super) fn nodes(console: &Console) -> Table {
    let mut table = Table::new(NODES);
    for entry in console.topology.load().databases() {
        let primary = std::iter::once((&entry.cluster.primary, "primary", 1));
        let replicas =
            entry.cluster.replicas.iter().map(|replica| (&replica.node, "replica", replica.weight));
        for (node, role, weight) in primary.chain(replicas) {
            table.push(row(&entry.name, node, role, weight));
        }
    }
    table
}

fn row(database: &str, node: &Node, role: &str, weight: u32) -> Vec<Cell> {
    let (bytes, micros) = node.lag();
    let observed = match node.role() {
        None => Cell::Null,
        Some(Role::Primary) => Cell::text("primary"),
        Some(Role::Replica) => Cell::text("replica"),
    };
    vec![
        Cell::text(database),
        Cell::Number(0),
        Cell::text(node.address.to_string()),
        Cell::text(role),
        observed,
        Cell::text(node.state().as_str()),
        Cell::text(node.position().to_string()),
        Cell::count(bytes),
        Cell::count(micros / 1000),
        Cell::count(u64::from(node.in_flight.load(Ordering::Relaxed))),
        Cell::count(u64::from(weight)),
        Cell::count(node.statements.load(Ordering::Relaxed)),
        Cell::count(node.failures.load(Ordering::Relaxed)),
    ]
}

/// Reasons that have decided at least once.
pub(super) fn routes(console: &Console) -> Table {
    let columns = [
        ("database", ColumnType::Text),
        ("target", ColumnType::Text),
        ("reason", ColumnType::Text),
        ("count", ColumnType::Int8),
    ];
    let mut table = Table::new(&columns);
    for entry in console.topology.load().databases() {
        for (reason, count) in entry.routes.iter().filter(|(_, count)| *count > 0) {
            table.push(vec![
                Cell::text(&*entry.name),
                Cell::text(reason.target()),
                Cell::text(reason.label()),
                Cell::count(count),
            ]);
        }
    }
    table
}
