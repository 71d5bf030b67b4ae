//! SHOW STATS and its three parts. Times in microseconds; averages over the last whole minute: counts and
//! bytes a second, times for each transaction, query or wait.

use crate::admin::Console;
use crate::admin::table::{Cell, ColumnType, Table};
use crate::pool::{Averages, StatsSnapshot};

/// What is counted, in PgBouncer's order. Names as in SHOW STATS (after `total_`), in SHOW STATS_TOTALS,
/// and in SHOW TOTALS.
const NAMES: &[(&str, &str, &str)] = &[
    ("server_assignment_count", "server_assignment_count", "server_assignment_count"),
    ("xact_count", "xact_count", "xact_count"),
    ("query_count", "query_count", "query_count"),
    ("received", "bytes_received", "client_bytes"),
    ("sent", "bytes_sent", "server_bytes"),
    ("xact_time", "xact_time", "xact_time"),
    ("query_time", "query_time", "query_time"),
    ("wait_time", "wait_time", "wait_time"),
    ("client_parse_count", "client_parse_count", "ps_client_parse_count"),
    ("server_parse_count", "server_parse_count", "ps_server_parse_count"),
    ("bind_count", "bind_count", "ps_bind_count"),
];

const STATS: &[(&str, ColumnType)] = &[
    ("database", ColumnType::Text),
    ("total_server_assignment_count", ColumnType::Numeric),
    ("total_xact_count", ColumnType::Numeric),
    ("total_query_count", ColumnType::Numeric),
    ("total_received", ColumnType::Numeric),
    ("total_sent", ColumnType::Numeric),
    ("total_xact_time", ColumnType::Numeric),
    ("total_query_time", ColumnType::Numeric),
    ("total_wait_time", ColumnType::Numeric),
    ("total_client_parse_count", ColumnType::Numeric),
    ("total_server_parse_count", ColumnType::Numeric),
    ("total_bind_count", ColumnType::Numeric),
    ("avg_server_assignment_count", ColumnType::Numeric),
    ("avg_xact_count", ColumnType::Numeric),
    ("avg_query_count", ColumnType::Numeric),
    ("avg_recv", ColumnType::Numeric),
    ("avg_sent", ColumnType::Numeric),
    ("avg_xact_time", ColumnType::Numeric),
    ("avg_query_time", ColumnType::Numeric),
    ("avg_wait_time", ColumnType::Numeric),
    ("avg_client_parse_count", ColumnType::Numeric),
    ("avg_server_parse_count", ColumnType::Numeric),
    ("avg_bind_count", ColumnType::Numeric),
];

const STATS_TOTALS: &[(&str, ColumnType)] = &[
    ("database", ColumnType::Text),
    ("server_assignment_count", ColumnType::Numeric),
    ("xact_count", ColumnType::Numeric),
    ("query_count", ColumnType::Numeric),
    ("bytes_received", ColumnType::Numeric),
    ("bytes_sent", ColumnType::Numeric),
    ("xact_time", ColumnType::Numeric),
    ("query_time", ColumnType::Numeric),
    ("wait_time", ColumnType::Numeric),
    ("client_parse_count", ColumnType::Numeric),
    ("server_parse_count", ColumnType::Numeric),
    ("bind_count", ColumnType::Numeric),
];

const STATS_AVERAGES: &[(&str, ColumnType)] = &[
    ("database", ColumnType::Text),
    ("server_assignment_count", ColumnType::Numeric),
    ("xact_count", ColumnType::Numeric),
    ("query_count", ColumnType::Numeric),
    ("bytes_received", ColumnType::Numeric),
    ("bytes_sent", ColumnType::Numeric),
    ("xact_time", ColumnType::Numeric),
    ("query_time", ColumnType::Numeric),
    ("wait_time", ColumnType::Numeric),
    ("avg_client_parse_count", ColumnType::Numeric),
    ("avg_server_parse_count", ColumnType::Numeric),
    ("avg_bind_count", ColumnType::Numeric),
];

fn totals_of(stats: &StatsSnapshot) -> [u64; 11] {
    [
        stats.assignments,
        stats.transactions,
        stats.queries,
        stats.received,
        stats.sent,
        stats.transaction_time,
        stats.query_time,
        stats.wait_time,
        stats.client_parses,
        stats.server_parses,
        stats.binds,
    ]
}

fn averages_of(averages: &Averages) -> [u64; 11] {
    let delta = &averages.delta;
    let rate = |count: u64| {
        let per_second = u128::from(count) * 1_000_000 / u128::from(averages.period_micros.max(1));
        u64::try_from(per_second).unwrap_or(u64::MAX)
    };
    let each = |time: u64, count: u64| time / count.max(1);
    if averages.period_micros == 0 {
        return [0; 11];
    }
    [
        rate(delta.assignments),
        rate(delta.transactions),
        rate(delta.queries),
        rate(delta.received),
        rate(delta.sent),
        each(delta.transaction_time, delta.transactions),
        each(delta.query_time, delta.queries),
        rate(delta.wait_time),
        rate(delta.client_parses),
        rate(delta.server_parses),
        rate(delta.binds),
    ]
}

/// Every database with its totals and averages; a database nobody has used counts zero.
fn rows(console: &Console) -> Vec<(String, [u64; 11], [u64; 11])> {
    let mut totals = console.pools.totals();
    for entry in console.topology.load().databases() {
        totals.entry(entry.name.clone()).or_default();
    }
    totals.entry("pgbouncer".to_owned()).or_default();
    let averages = console.pools.averages();
    totals
        .into_iter()
        .map(|(database, total)| {
            let average = averages.get(&database).copied().unwrap_or_default();
            let (total, average) = (totals_of(&total), averages_of(&average));
            (database, total, average)
        })
        .collect()
}

fn fill(columns: &[(&'static str, ColumnType)], rows: impl Iterator<Item = (String, Vec<u64>)>) -> Table {
    let mut table = Table::new(columns);
    for (database, values) in rows {
        let values = values.into_iter().map(Cell::count);
        table.push(std::iter::once(Cell::text(database)).chain(values).collect());
    }
    table
}

pub(super) fn stats(console: &Console) -> Table {
    fill(
        STATS,
        rows(console).into_iter().map(|(database, total, average)| (database, [total, average].concat())),
    )
}

pub(super) fn totals_by_database(console: &Console) -> Table {
    fill(STATS_TOTALS, rows(console).into_iter().map(|(database, total, _)| (database, total.to_vec())))
}

pub(super) fn averages_by_database(console: &Console) -> Table {
    fill(STATS_AVERAGES, rows(console).into_iter().map(|(database, _, average)| (database, average.to_vec())))
}

/// All databases together: a row a number.
pub(super) fn totals(console: &Console) -> Table {
    let mut table = Table::new(&[("name", ColumnType::Text), ("value", ColumnType::Numeric)]);
    let (mut total, mut average) = ([0_u64; 11], [0_u64; 11]);
    for (_, totals, averages) in rows(console) {
        total.iter_mut().zip(totals).for_each(|(sum, value)| *sum += value);
        average.iter_mut().zip(averages).for_each(|(sum, value)| *sum += value);
    }
    for (prefix, values) in [("total", total), ("avg", average)] {
        for ((_, _, name), value) in NAMES.iter().zip(values) {
            table.push(vec![Cell::text(format!("{prefix}_{name}")), Cell::count(value)]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_columns_agree() {
        for (index, (stats, totals, _)) in NAMES.iter().enumerate() {
            assert_eq!(STATS[index + 1].0, format!("total_{stats}"));
            assert_eq!(STATS_TOTALS[index + 1].0, *totals);
        }
        assert_eq!((STATS.len(), STATS_TOTALS.len(), STATS_AVERAGES.len()), (23, 12, 12));
    }

    #[test]
    fn averages_are_rates_and_times_for_each() {
        let delta = StatsSnapshot { queries: 600, query_time: 1_200, ..StatsSnapshot::default() };
        let averages = averages_of(&Averages { delta, period_micros: 60_000_000 });
        assert_eq!((averages[2], averages[6]), (10, 2));
        assert_eq!(averages_of(&Averages::default()), [0; 11]);
    }
}
