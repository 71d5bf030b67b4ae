//! SHOW PINS: clients that keep their server connection outside transactions.

use crate::admin::Console;
use crate::admin::table::{Cell, ColumnType, Table};

pub(super) fn table(console: &Console) -> Table {
    let mut table = Table::new(&[
        ("id", ColumnType::Int4),
        ("user", ColumnType::Text),
        ("database", ColumnType::Text),
        ("reason", ColumnType::Text),
        ("cause", ColumnType::Text),
        ("since", ColumnType::Text),
        ("node", ColumnType::Text),
        ("remote_pid", ColumnType::Int4),
        ("addr", ColumnType::Text),
        ("application_name", ColumnType::Text),
    ]);
    for client in console.clients.snapshot() {
        let Some(pin) = client.pin() else { continue };
        table.push(vec![
            Cell::count(u64::from(client.id.0)),
            Cell::text(&*client.info.user),
            Cell::text(&*client.info.database),
            Cell::text(pin.reason.label()),
            Cell::text(pin.cause),
            super::timestamp(pin.since),
            Cell::text(pin.node),
            Cell::count(u64::from(pin.pid.cast_unsigned())),
            Cell::text(&*client.info.address),
            Cell::text(&*client.info.application_name),
        ]);
    }
    table
}
