//! SHOW POOLS: one row a (database, user), summed over nodes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::admin::Console;
use crate::admin::table::{Cell, ColumnType, Table};
use crate::clients::Activity;

const COLUMNS: &[(&str, ColumnType)] = &[
    ("database", ColumnType::Text),
    ("user", ColumnType::Text),
    ("cl_active", ColumnType::Int4),
    ("cl_waiting", ColumnType::Int4),
    ("cl_active_cancel_req", ColumnType::Int4),
    ("cl_waiting_cancel_req", ColumnType::Int4),
    ("sv_active", ColumnType::Int4),
    ("sv_active_cancel", ColumnType::Int4),
    ("sv_being_canceled", ColumnType::Int4),
    ("sv_idle", ColumnType::Int4),
    ("sv_used", ColumnType::Int4),
    ("sv_tested", ColumnType::Int4),
    ("sv_login", ColumnType::Int4),
    ("maxwait", ColumnType::Int4),
    ("maxwait_us", ColumnType::Int4),
    ("pool_mode", ColumnType::Text),
    ("load_balance_hosts", ColumnType::Text),
];

#[derive(Default)]
struct Row {
    clients: usize,
    waiting: usize,
    active: usize,
    canceled: usize,
    idle: usize,
    login: usize,
    longest: Duration,
    mode: &'static str,
}

/// As PgBouncer counts: an idle client is an active one (it is not waiting).
pub(super) fn table(console: &Console) -> Table {
    let now = Instant::now();
    let topology = console.topology.load();
    let mut rows: BTreeMap<(String, String), Row> = BTreeMap::new();
    for pool in console.pools.pools() {
        let row = rows.entry((pool.key.database.clone(), pool.key.user.clone())).or_default();
        let counts = pool.counts(now);
        let canceled = pool.servers().iter().filter(|server| server.identity.is_canceled()).count();
        row.active += counts.leased.saturating_sub(canceled);
        row.canceled += canceled;
        row.idle += counts.idle;
        row.login += counts.opening;
        row.longest = row.longest.max(counts.oldest_wait);
        row.mode = pool.settings().mode.as_str();
    }
    let mut on_console = 0;
    for client in console.clients.snapshot() {
        if client.info.database == "pgbouncer" {
            on_console += 1;
            continue;
        }
        let row = rows.entry((client.info.database.clone(), client.info.user.clone())).or_default();
        match client.activity() {
            Activity::Waiting => row.waiting += 1,
            Activity::Idle | Activity::Active => row.clients += 1,
        }
        if row.mode.is_empty() {
            let database = topology.database(&client.info.database);
            row.mode = database
                .map_or("transaction", |d| topology.pool_settings(&d, &client.info.user).mode.as_str());
        }
    }
    let mut table = Table::new(COLUMNS);
    for ((database, user), row) in rows {
        push(&mut table, &database, &user, &row);
    }
    push(
        &mut table,
        "pgbouncer",
        "pgbouncer",
        &Row { clients: on_console, mode: "statement", ..Row::default() },
    );
    table
}

fn push(table: &mut Table, database: &str, user: &str, row: &Row) {
    let (wait, wait_us) = super::seconds_and_micros(row.longest);
    table.push(vec![
        Cell::text(database),
        Cell::text(user),
        Cell::size(row.clients),
        Cell::size(row.waiting),
        Cell::Number(0),
        Cell::Number(0),
        Cell::size(row.active),
        Cell::Number(0),
        Cell::size(row.canceled),
        Cell::size(row.idle),
        Cell::Number(0),
        Cell::Number(0),
        Cell::size(row.login),
        wait,
        wait_us,
        Cell::text(row.mode),
        Cell::Null,
    ]);
}
