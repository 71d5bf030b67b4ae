//! SHOW KEY_COLUMNS: columns of sharding keys that are not what `pooler.yaml` says.

use crate::admin::Console;
use crate::admin::table::{Cell, ColumnType, Table};

pub(super) fn table(console: &Console) -> Table {
    let mut table = Table::new(&[
        ("database", ColumnType::Text),
        ("shard", ColumnType::Int4),
        ("schema", ColumnType::Text),
        ("table", ColumnType::Text),
        ("column", ColumnType::Text),
        ("declared", ColumnType::Text),
        ("found", ColumnType::Text),
    ]);
    for (name, set) in console.topology.load().shard_sets() {
        for (shard, wrong) in set.wrong_columns() {
            for wrong in wrong {
                table.push(vec![
                    Cell::text(&**name),
                    Cell::count(u64::from(shard)),
                    Cell::text(wrong.schema),
                    Cell::text(wrong.table),
                    Cell::text(wrong.column),
                    Cell::text(wrong.declared),
                    Cell::text(wrong.found),
                ]);
            }
        }
    }
    table
}
