//! SHOW SERVERS.

use std::sync::atomic::Ordering;

use crate::admin::Console;
use crate::admin::table::{Cell, Table};
use crate::server::ServerInfo;

use super::clients::{COLUMNS, client_pointer, server_pointer};

pub(super) fn table(console: &Console) -> Table {
    let mut table = Table::new(COLUMNS);
    for pool in console.pools.pools() {
        for server in pool.servers() {
            table.push(row(&pool.key.user, &pool.key.database, "none", state(&server), &server));
        }
    }
    for listener in console.pools.listeners.all() {
        if let Some(server) = listener.info() {
            table.push(row(&listener.key.user, &listener.key.database, "none", "listen", &server));
        }
    }
    for server in console.pools.replication.snapshot() {
        table.push(row(
            &server.user,
            &server.database,
            server.kind.label(),
            state(&server.info),
            &server.info,
        ));
    }
    table
}

fn state(server: &ServerInfo) -> &'static str {
    match server.identity.client() {
        _ if server.identity.is_canceled() => "being_canceled",
        Some(_) => "active",
        None => "idle",
    }
}

fn row(
    user: &str,
    database: &str,
    replication: &'static str,
    state: &'static str,
    server: &ServerInfo,
) -> Vec<Cell> {
    let lent_at = server.opened_at + server.identity.lent_after();
    vec![
        Cell::text("S"),
        Cell::text(user),
        Cell::text(database),
        Cell::text(replication),
        Cell::text(state),
        Cell::text(&*server.remote.0),
        Cell::count(u64::from(server.remote.1)),
        Cell::text(&*server.local.0),
        Cell::count(u64::from(server.local.1)),
        super::timestamp(server.opened_at),
        super::timestamp(lent_at),
        Cell::Number(0),
        Cell::Number(0),
        Cell::Number(0),
        Cell::text(server_pointer(server.identity.id)),
        Cell::text(server.identity.client().map(|client| client_pointer(client.0)).unwrap_or_default()),
        Cell::Number(i64::from(server.identity.pid)),
        Cell::text(server.tls.clone().unwrap_or_default()),
        Cell::text(server.application_name.lock().clone()),
        Cell::count(u64::from(server.prepared_statements.load(Ordering::Relaxed))),
        Cell::count(server.identity.id),
    ]
}
