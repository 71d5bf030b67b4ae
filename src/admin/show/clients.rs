//! SHOW CLIENTS, and the columns it shares with SHOW SERVERS.

use std::time::Instant;

use crate::admin::Console;
use crate::admin::table::{Cell, ColumnType, Table};
use crate::clients::{Activity, ClientHandle, Replication};

pub(super) const COLUMNS: &[(&str, ColumnType)] = &[
    ("type", ColumnType::Text),
    ("user", ColumnType::Text),
    ("database", ColumnType::Text),
    ("replication", ColumnType::Text),
    ("state", ColumnType::Text),
    ("addr", ColumnType::Text),
    ("port", ColumnType::Int4),
    ("local_addr", ColumnType::Text),
    ("local_port", ColumnType::Int4),
    ("connect_time", ColumnType::Text),
    ("request_time", ColumnType::Text),
    ("wait", ColumnType::Int4),
    ("wait_us", ColumnType::Int4),
    ("close_needed", ColumnType::Int4),
    ("ptr", ColumnType::Text),
    ("link", ColumnType::Text),
    ("remote_pid", ColumnType::Int4),
    ("tls", ColumnType::Text),
    ("application_name", ColumnType::Text),
    ("prepared_statements", ColumnType::Int4),
    ("id", ColumnType::Int4),
];

/// A name for a client, as PgBouncer shows an address in memory.
pub(super) fn client_pointer(id: u32) -> String {
    format!("c{id:08x}")
}

/// The same for a server connection.
pub(super) fn server_pointer(id: u64) -> String {
    format!("s{id:08x}")
}

pub(super) fn table(console: &Console) -> Table {
    let now = Instant::now();
    let mut table = Table::new(COLUMNS);
    for client in console.clients.snapshot() {
        table.push(row(&client, now));
    }
    table
}

fn row(client: &ClientHandle, now: Instant) -> Vec<Cell> {
    let info = &client.info;
    let (state, waited) = match client.activity() {
        Activity::Idle => ("idle", std::time::Duration::ZERO),
        Activity::Active => ("active", std::time::Duration::ZERO),
        Activity::Waiting => ("waiting", now.saturating_duration_since(client.since())),
    };
    let (wait, wait_us) = super::seconds_and_micros(waited);
    let requested_at = info.connected_at + client.since().saturating_duration_since(client.epoch());
    let link = client.linked().map_or_else(String::new, |server| server_pointer(server.id));
    vec![
        Cell::text("C"),
        Cell::text(&*info.user),
        Cell::text(&*info.database),
        Cell::text(info.replication.map_or("none", Replication::label)),
        Cell::text(state),
        Cell::text(&*info.address),
        Cell::count(u64::from(info.port)),
        Cell::text(&*info.local_address),
        Cell::count(u64::from(info.local_port)),
        super::timestamp(info.connected_at),
        super::timestamp(requested_at),
        wait,
        wait_us,
        Cell::Number(0),
        Cell::text(client_pointer(client.id.0)),
        Cell::text(link),
        Cell::Number(0),
        Cell::text(info.tls.clone().unwrap_or_default()),
        Cell::text(&*info.application_name),
        Cell::count(u64::from(client.prepared_statements.load(std::sync::atomic::Ordering::Relaxed))),
        Cell::count(u64::from(client.id.0)),
    ]
}
