//! SHOW CONFIG: our keys, and PgBouncer's names for what maps onto them. No secrets.

use crate::admin::Console;
use crate::admin::table::{Cell, ColumnType, Table};
use crate::config::{ListenAddress, describe};

const COLUMNS: &[(&str, ColumnType)] = &[
    ("key", ColumnType::Text),
    ("value", ColumnType::Text),
    ("default", ColumnType::Text),
    ("changeable", ColumnType::Text),
];

pub(super) fn table(console: &Console) -> Table {
    let mut table = Table::new(COLUMNS);
    for setting in describe(&console.topology.load().config) {
        table.push(vec![
            Cell::text(setting.key),
            Cell::text(setting.value),
            Cell::text(setting.default),
            Cell::text(if setting.changeable { "yes" } else { "no" }),
        ]);
    }
    table
}

/// The port of the first TCP listener.
pub(super) fn listen_port(console: &Console) -> i64 {
    let config = &console.topology.load().config;
    config
        .listen
        .iter()
        .find_map(|address| match address {
            ListenAddress::Tcp { port, .. } => Some(i64::from(*port)),
            ListenAddress::Unix { .. } => None,
        })
        .unwrap_or(0)
}
