//! SHOW USERS.

use std::time::Instant;

use crate::admin::Console;
use crate::admin::table::{Cell, ColumnType, Table};

const COLUMNS: &[(&str, ColumnType)] = &[
    ("name", ColumnType::Text),
    ("pool_size", ColumnType::Text),
    ("reserve_pool_size", ColumnType::Text),
    ("pool_mode", ColumnType::Text),
    ("max_user_connections", ColumnType::Int4),
    ("current_connections", ColumnType::Int4),
    ("max_user_client_connections", ColumnType::Int4),
    ("current_client_connections", ColumnType::Int4),
];

/// The users of the configuration; what a user overrides is shown, NULL where the database's value holds.
pub(super) fn table(console: &Console) -> Table {
    let now = Instant::now();
    let topology = console.topology.load();
    let pools = console.pools.pools();
    let clients = console.clients.snapshot();
    let mut table = Table::new(COLUMNS);
    for user in topology.config.users.values() {
        let servers: usize = pools
            .iter()
            .filter(|pool| pool.key.user == user.name)
            .map(|pool| pool.counts(now))
            .map(|counts| counts.idle + counts.leased + counts.opening)
            .sum();
        table.push(vec![
            Cell::text(&*user.name),
            user.pool.size.map_or(Cell::Null, |size| Cell::text(size.to_string())),
            Cell::Null,
            user.pool.mode.map_or(Cell::Null, |mode| Cell::text(mode.as_str())),
            Cell::Number(0),
            Cell::size(servers),
            Cell::size(topology.config.limits.clients_per_user),
            Cell::size(clients.iter().filter(|client| client.info.user == user.name).count()),
        ]);
    }
    table
}
