//! The SHOW commands: one file for each group, each with its columns next to what fills them.

mod clients;
mod cluster;
mod config;
mod databases;
mod key_columns;
mod lists;
mod pins;
mod pools;
mod servers;
mod stats;
mod users;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::help::USAGE;
use super::table::{Cell, ColumnType, Table};
use super::{Answer, Console, SERVER_VERSION};

macro_rules! shows {
    ($($name:ident = $word:literal,)*) => {
        /// What can be shown.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is named as the word after SHOW")]
        pub enum Show {
            $($name,)*
        }

        impl Show {
            /// From the word after SHOW, in lower case.
            pub(super) fn parse(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

shows! {
    Help = "help",
    Version = "version",
    State = "state",
    Databases = "databases",
    Pools = "pools",
    Clients = "clients",
    Servers = "servers",
    Stats = "stats",
    StatsTotals = "stats_totals",
    StatsAverages = "stats_averages",
    Totals = "totals",
    Lists = "lists",
    Users = "users",
    Config = "config",
    Mem = "mem",
    Cluster = "cluster",
    Routes = "routes",
    Pins = "pins",
    KeyColumns = "key_columns",
}

/// Answers a SHOW.
pub(super) fn show(console: &Console, what: Show) -> Answer {
    Answer::Table(match what {
        Show::Help => return Answer::Notice { message: "Console usage", detail: USAGE.to_owned() },
        Show::Version => version(),
        Show::State => state(),
        Show::Databases => databases::table(console),
        Show::Pools => pools::table(console),
        Show::Clients => clients::table(console),
        Show::Servers => servers::table(console),
        Show::Stats => stats::stats(console),
        Show::StatsTotals => stats::totals_by_database(console),
        Show::StatsAverages => stats::averages_by_database(console),
        Show::Totals => stats::totals(console),
        Show::Lists => lists::table(console),
        Show::Users => users::table(console),
        Show::Config => config::table(console),
        Show::Mem => lists::memory(),
        Show::Cluster => cluster::nodes(console),
        Show::Routes => cluster::routes(console),
        Show::Pins => pins::table(console),
        Show::KeyColumns => key_columns::table(console),
    })
}

/// The version: begins as PgBouncer's does, for tools that look for it, and goes on with our own.
pub(super) fn version_text() -> String {
    let theirs = SERVER_VERSION.split('/').next().unwrap_or_default();
    format!("PgBouncer {theirs} (pgweir {})", env!("CARGO_PKG_VERSION"))
}

fn version() -> Table {
    let mut table = Table::new(&[("version", ColumnType::Text)]);
    table.push(vec![Cell::text(version_text())]);
    table
}

fn state() -> Table {
    let mut table = Table::new(&[("key", ColumnType::Text), ("value", ColumnType::Text)]);
    for (key, value) in [("active", "yes"), ("paused", "no"), ("suspended", "no")] {
        table.push(vec![Cell::text(key), Cell::text(value)]);
    }
    table
}

/// Whole seconds, and the microseconds of the rest.
fn seconds_and_micros(time: Duration) -> (Cell, Cell) {
    (Cell::count(time.as_secs()), Cell::count(u64::from(time.subsec_micros())))
}

/// `YYYY-MM-DD HH:MM:SS UTC`.
fn timestamp(time: SystemTime) -> Cell {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    Cell::text(format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    ))
}

/// The date of a day after the Unix epoch, by the proleptic Gregorian calendar: years are counted from
/// March, so that the leap day comes last, in eras of 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_779), (2026, 11, 22));
        let time = UNIX_EPOCH + Duration::from_secs(20_779 * 86_400 + 3_661);
        assert_eq!(timestamp(time), Cell::text("2026-11-22 01:01:01 UTC"));
    }
}
