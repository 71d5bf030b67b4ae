//! `EXPLAIN ROUTE`: where a statement would go now, and why, without running it.

use crate::catalog::SearchPath;
use crate::cluster::{Freshness, TableSet};
use crate::config::Consistency;
use crate::pool::{DatabaseEntry, ShardSet};
use crate::protocol::{ErrorResponse, SqlState};
use crate::route::{ClusterView, Reason, SessionView, Target, decide};
use crate::sql::{Destination, LexOptions, NoParameters, Refusal, Statement, StatementCache};

use super::Console;
use super::table::{Cell, ColumnType, Table};

/// Bytes for the one statement that is looked at.
const CACHE_BYTES: usize = 1 << 20;
/// Names of tables shown.
const NAMES_MAX: usize = 20;

/// The statement behind `EXPLAIN ROUTE`, and the database behind `IN`, if the text begins so.
pub(super) fn split(sql: &str) -> Option<(Option<String>, String)> {
    let rest = word(sql.trim().trim_end_matches(';'), "explain")?;
    let rest = word(rest, "route")?;
    if let Some(rest) = word(rest, "in")
        && let Some((database, statement)) = rest.split_once(char::is_whitespace)
    {
        return Some((Some(database.trim_matches('"').to_owned()), statement.trim().to_owned()));
    }
    Some((None, rest.to_owned()))
}

fn word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let head = text.get(..word.len())?;
    let rest = text.get(word.len()..)?;
    (head.eq_ignore_ascii_case(word) && rest.starts_with(char::is_whitespace)).then(|| rest.trim_start())
}

/// A row for each database that the statement could be for.
pub(super) fn explain(console: &Console, database: Option<&str>, sql: &str) -> Result<Table, ErrorResponse> {
    if sql.is_empty() {
        return Err(ErrorResponse::error(SqlState::SYNTAX_ERROR, "EXPLAIN ROUTE needs a statement")
            .hint("EXPLAIN ROUTE [IN database] SELECT …"));
    }
    let topology = console.topology.load();
    let entries: Vec<_> = match database {
        Some(name) => topology.databases().into_iter().filter(|entry| entry.name == name).collect(),
        None => topology.databases(),
    };
    if entries.is_empty() {
        let what = database
            .map_or("no database is in use".to_owned(), |name| format!("database \"{name}\" is not in use"));
        return Err(ErrorResponse::error(SqlState::INVALID_CATALOG_NAME, what)
            .hint("SHOW DATABASES lists those that are."));
    }
    let lex = LexOptions::default();
    let statement = StatementCache::new(CACHE_BYTES).analyze(sql.as_bytes(), lex);
    let mut table = Table::new(&[
        ("database", ColumnType::Text),
        ("effect", ColumnType::Text),
        ("target", ColumnType::Text),
        ("node", ColumnType::Text),
        ("shard", ColumnType::Int4),
        ("reason", ColumnType::Text),
        ("because", ColumnType::Text),
        ("reads", ColumnType::Text),
        ("writes", ColumnType::Text),
        ("functions", ColumnType::Text),
        ("must_have_replayed", ColumnType::Text),
        ("key", ColumnType::Text),
        ("function", ColumnType::Text),
    ]);
    for entry in entries {
        let Some(set) = topology.shards(&entry.name) else {
            table.push(row(&entry, &statement, &Key::default()));
            continue;
        };
        let key = Key::of(set, &statement, sql, lex);
        match set.destination(&statement, sql.as_bytes(), lex, &NoParameters) {
            Ok(Destination::Shard(shard)) if entry.shard != Some(shard) => {}
            // Any will do: the first is shown.
            Ok(Destination::Any) if !entry.is_first() => {}
            Ok(_) => table.push(row(&entry, &statement, &key)),
            Err(refusal) => {
                let plan = set.plan(&statement, sql.as_bytes(), lex);
                match plan.divide(refusal, sql.as_bytes(), lex, set.schema(), &NoParameters) {
                    Ok(divided) => {
                        let shards = divided.shards();
                        if entry.shard.is_some_and(|own| shards.is_none_or(|shards| shards.contains(&own))) {
                            let function = divided.function(set.schema()).or(key.function);
                            table.push(row(&entry, &statement, &Key { function, ..key }));
                        }
                    }
                    Err(refusal) if entry.is_first() => {
                        table.push(refused(&entry, &statement, &key, &refusal));
                    }
                    Err(_) => {}
                }
            }
        }
    }
    Ok(table)
}

/// Where a statement has its key, and by what it finds its shard.
#[derive(Default)]
struct Key {
    places: Vec<String>,
    function: Option<&'static str>,
}

impl Key {
    fn of(set: &ShardSet, statement: &Statement, sql: &str, lex: LexOptions) -> Self {
        let plan = set.plan(statement, sql.as_bytes(), lex);
        let places = plan.describe(sql.as_bytes(), lex, set.schema());
        Self { places, function: plan.function(set.schema()) }
    }

    fn cells(&self) -> [Cell; 2] {
        let places = if self.places.is_empty() { Cell::Null } else { Cell::text(self.places.join(", ")) };
        [places, self.function.map_or(Cell::Null, Cell::text)]
    }
}

/// A statement that no shard gets as it is.
fn refused(entry: &DatabaseEntry, statement: &Statement, key: &Key, refusal: &Refusal) -> Vec<Cell> {
    let by_parameter = matches!(refusal, Refusal::Parameter(_));
    let [places, function] = key.cells();
    vec![
        Cell::text(&*entry.name),
        Cell::text(statement.effect.label()),
        Cell::text(if by_parameter { "by parameter" } else { "refused" }),
        Cell::Null,
        Cell::Null,
        Cell::text(refusal.label()),
        Cell::text(refusal.to_string()),
        Cell::Null,
        Cell::Null,
        Cell::text(list(statement.functions.iter().map(ToString::to_string))),
        Cell::Null,
        places,
        function,
    ]
}

fn row(entry: &DatabaseEntry, statement: &Statement, key: &Key) -> Vec<Cell> {
    let [places, function] = key.cells();
    let snapshot = entry.catalog.load();
    // Where a client's tables are is its own affair: anywhere.
    let path = SearchPath::unknown();
    let judgment = entry.facts(&snapshot, &path, &path).judge(statement, false);
    let choice = entry.choice(0);
    let routing = &entry.settings.routing;
    let freshness = match routing.consistency {
        Consistency::Strong => {
            entry.strong_freshness(judgment.work, std::slice::from_ref(&judgment.resolved))
        }
        // A client that has written nothing.
        Consistency::Session | Consistency::Eventual => Freshness::Any,
    };
    let session = SessionView { reads: routing.reads, freshness, consistency: routing.consistency };
    let cluster = ClusterView { primary: choice.primary, replicas: &choice.replicas };
    let route = decide(judgment.work, session, cluster, 0);
    let (target, index) = match route.target {
        Target::Primary => ("primary", entry.cluster.leadership.lead().index),
        Target::Replica(place) => ("replica", entry.cluster.reader(place)),
    };
    let names = |set: &TableSet| match (set, snapshot.catalog()) {
        (TableSet::All, _) => "all tables".to_owned(),
        (TableSet::Some(_), None) => "-".to_owned(),
        (TableSet::Some(ids), Some(catalog)) => {
            list(ids.iter().take(NAMES_MAX).map(|id| catalog.name_of(*id)))
        }
    };
    let because = match judgment.work.blame {
        Some(Reason::NoCatalog) => "what its tables are is not known now".to_owned(),
        Some(Reason::LearnedWrite) => "a standby has refused it before".to_owned(),
        _ => judgment.resolved.reason.to_string(),
    };
    vec![
        Cell::text(&*entry.name),
        Cell::text(judgment.work.effect.label()),
        Cell::text(target),
        Cell::text(entry.cluster.node(index).address.to_string()),
        Cell::count(u64::from(entry.shard.unwrap_or(0))),
        Cell::text(route.reason.label()),
        Cell::text(because),
        Cell::text(names(&judgment.resolved.reads)),
        Cell::text(names(&judgment.resolved.writes)),
        Cell::text(list(statement.functions.iter().map(ToString::to_string))),
        match freshness {
            Freshness::Any => Cell::Null,
            Freshness::NotKnownYet => Cell::text("not known yet"),
            Freshness::At(position) => Cell::text(position.to_string()),
        },
        places,
        function,
    ]
}

fn list(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_explained() {
        let of = |sql: &str| split(sql);
        assert_eq!(of("explain ROUTE  SELECT 1 ;"), Some((None, "SELECT 1 ".into())));
        assert_eq!(
            of("EXPLAIN ROUTE IN app SELECT '--' /* pgweir: primary */"),
            Some((Some("app".into()), "SELECT '--' /* pgweir: primary */".into()))
        );
        assert_eq!(of("EXPLAIN SELECT 1"), None);
        assert_eq!(of("EXPLAIN ROUTER SELECT 1"), None);
    }
}
