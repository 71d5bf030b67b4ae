//! SHOW DATABASES.

use std::time::Instant;

use crate::admin::Console;
use crate::admin::table::{Cell, ColumnType, Table};

const COLUMNS: &[(&str, ColumnType)] = &[
    ("name", ColumnType::Text),
    ("host", ColumnType::Text),
    ("port", ColumnType::Int4),
    ("database", ColumnType::Text),
    ("force_user", ColumnType::Text),
    ("pool_size", ColumnType::Int4),
    ("min_pool_size", ColumnType::Int4),
    ("reserve_pool_size", ColumnType::Int4),
    ("server_lifetime", ColumnType::Int4),
    ("pool_mode", ColumnType::Text),
    ("load_balance_hosts", ColumnType::Text),
    ("max_connections", ColumnType::Int4),
    ("current_connections", ColumnType::Int4),
    ("max_client_connections", ColumnType::Int4),
    ("current_client_connections", ColumnType::Int4),
    ("paused", ColumnType::Int4),
    ("disabled", ColumnType::Int4),
];

/// One row a database: its primary, and connections to all its nodes. The console itself is a row, too.
pub(super) fn table(console: &Console) -> Table {
    let now = Instant::now();
    let pools = console.pools.pools();
    let clients = console.clients.snapshot();
    let mut table = Table::new(COLUMNS);
    for entry in console.topology.load().databases().into_iter().filter(|entry| entry.is_first()) {
        let settings = &entry.settings;
        let current: usize = pools
            .iter()
            .filter(|pool| pool.key.database == entry.name)
            .map(|pool| pool.counts(now))
            .map(|counts| counts.idle + counts.leased + counts.opening)
            .sum();
        let of_database = clients.iter().filter(|client| client.info.database == entry.name).count();
        table.push(vec![
            Cell::text(&*entry.name),
            Cell::text(&*settings.primary.host),
            Cell::count(u64::from(settings.primary.port)),
            Cell::text(settings.server_database.as_ref().unwrap_or(&entry.name)),
            Cell::Null,
            Cell::size(settings.pool.size),
            Cell::size(settings.pool.min_size),
            Cell::Number(0),
            Cell::count(settings.pool.max_lifetime.as_secs()),
            Cell::text(settings.pool.mode.as_str()),
            Cell::Null,
            Cell::Number(0),
            Cell::size(current),
            Cell::Number(0),
            Cell::size(of_database),
            Cell::Number(0),
            Cell::Number(0),
        ]);
    }
    let on_console = clients.iter().filter(|client| client.info.database == "pgbouncer").count();
    table.push(vec![
        Cell::text("pgbouncer"),
        Cell::Null,
        Cell::Number(super::config::listen_port(console)),
        Cell::text("pgbouncer"),
        Cell::text("pgbouncer"),
        Cell::Number(2),
        Cell::Number(0),
        Cell::Number(0),
        Cell::Number(0),
        Cell::text("statement"),
        Cell::Null,
        Cell::Number(0),
        Cell::Number(0),
        Cell::Number(0),
        Cell::size(on_console),
        Cell::Number(0),
        Cell::Number(0),
    ]);
    table
}
