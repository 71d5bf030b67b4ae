//! SHOW LISTS: how many of each there are. SHOW MEM.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::admin::Console;
use crate::admin::table::{Cell, ColumnType, Table};

pub(super) fn table(console: &Console) -> Table {
    let topology = console.topology.load();
    let pools = console.pools.pools();
    let now = Instant::now();
    let counts: Vec<_> = pools.iter().map(|pool| pool.counts(now)).collect();
    let pairs: BTreeSet<_> = pools.iter().map(|pool| (&pool.key.database, &pool.key.user)).collect();
    let names: BTreeSet<_> = topology.nodes().map(|node| &node.address.host).collect();
    let replication = console.pools.replication.snapshot().len();
    let listeners = console.pools.listeners.all().iter().filter(|listener| listener.info().is_some()).count();
    let lists = [
        // The console counts as a database and as a pool.
        ("databases", topology.databases().iter().filter(|entry| entry.is_first()).count() + 1),
        ("users", topology.config.users.len()),
        ("peers", 0),
        ("pools", pairs.len() + 1),
        ("peer_pools", 0),
        ("free_clients", 0),
        ("used_clients", console.clients.snapshot().len()),
        ("login_clients", console.clients.logins()),
        ("free_servers", 0),
        (
            "used_servers",
            counts.iter().map(|c| c.idle + c.leased + c.opening).sum::<usize>() + listeners + replication,
        ),
        ("dns_names", names.iter().filter(|host| is_name(host)).count()),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ];
    let mut table = Table::new(&[("list", ColumnType::Text), ("items", ColumnType::Int4)]);
    for (list, items) in lists {
        table.push(vec![Cell::text(list), Cell::size(items)]);
    }
    table
}

fn is_name(host: &str) -> bool {
    !host.starts_with('/') && host.parse::<std::net::IpAddr>().is_err()
}

/// There are no slabs as PgBouncer has them: memory is the allocator's, and a metric.
pub(super) fn memory() -> Table {
    Table::new(&[
        ("name", ColumnType::Text),
        ("size", ColumnType::Int4),
        ("used", ColumnType::Int4),
        ("free", ColumnType::Int4),
        ("memtotal", ColumnType::Int4),
    ])
}
