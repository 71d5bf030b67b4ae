//! Before rows of a table that is everywhere are written on all shards: what its columns' defaults would give there.
//!
//! Who leaves a column out gets its DEFAULT, which each shard computes for itself. The server is asked what the
//! defaults are, in the transaction that writes: no catalog read earlier knows what that transaction has changed.
//!
//! - One that is not immutable (`now()`, `random()`, a function of the user's) would give each shard another value: the
//!   statement is refused.
//! - Numbers of a sequence (serial, identity, `nextval`) are the same as long as the shards' sequences stand alike and
//!   nobody counts in between. So who needs some locks the sequence, on the first shard, until the end of its transaction;
//!   then sequences that are behind (an INSERT that has failed has counted on some shards only) are moved on.

use bytes::BytesMut;

use crate::protocol::{ErrorResponse, SqlState, frontend, raw_error};
use crate::server::Rows;
use crate::sql::{Defaults, Fill, Refusal};

use super::client::ClientSession;
use super::error::SessionError;
use super::sharded::refused;
use super::spread::{Outcome, Spread, fail, on_shard};

/// The first key of our advisory locks; the second is the sequence's.
const LOCKS: u32 = 0x7067_7765;
/// Numbers that are skipped on a shard whose sequence is behind, at most.
const SKIPPED_MAX: i128 = 100_000;
/// More columns than any table has.
const COLUMNS_MAX: usize = 10_000;

/// A sequence that gives a column its numbers.
#[derive(Debug, PartialEq, Eq)]
struct Sequence {
    /// Its full name, quoted.
    name: String,
    start: i128,
    step: i128,
}

/// What the defaults of a statement need.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// These sequences must stand alike.
    Alike(Vec<Sequence>),
    Refused(Refusal),
}

impl ClientSession {
    /// Whether what is left to defaults will be the same on all shards. The outcome of the batch, if not.
    pub(super) async fn check_fills(
        &mut self,
        spread: &mut Spread,
        fills: &[Fill],
        with_sequences: bool,
    ) -> Result<Option<Outcome>, SessionError> {
        let mut sequences: Vec<Sequence> = Vec::new();
        let is_utf8 = self.speaks_utf8();
        for fill in fills {
            let question = lookup(fill);
            if !is_utf8 && !question.is_ascii() {
                return fail(spread, 0, &refused(&Refusal::NotUnderstood)).await.map(Some);
            }
            let rows = match self.question(spread, 0, &question).await? {
                Ok(rows) => rows,
                Err(outcome) => return Ok(Some(outcome)),
            };
            match need(fill, &rows) {
                Need::Nothing => {}
                Need::Alike(more) => sequences.extend(more),
                Need::Refused(refusal) => {
                    return fail(spread, 0, &self.refused(&refusal)).await.map(Some);
                }
            }
        }
        sequences.sort_by(|a, b| a.name.cmp(&b.name));
        sequences.dedup_by(|a, b| a.name == b.name);
        if sequences.is_empty() || !with_sequences {
            return Ok(None);
        }
        self.align(spread, &sequences).await
    }

    /// Makes sequences stand alike on all shards, where nobody else counts before this transaction is over.
    async fn align(
        &mut self,
        spread: &mut Spread,
        sequences: &[Sequence],
    ) -> Result<Option<Outcome>, SessionError> {
        let mut stands: Vec<Vec<Option<i128>>> = Vec::new();
        for shard in 0..spread.count() {
            match self.question(spread, shard, &positions(sequences, shard == 0)).await? {
                Ok(rows) => stands.push(last_values(&rows, sequences.len())),
                Err(outcome) => return Ok(Some(outcome)),
            }
        }
        for (at, sequence) in sequences.iter().enumerate() {
            let counted = |values: &Vec<Option<i128>>| sequence.counted(values.get(at).copied().flatten());
            let Some(most) = stands.iter().map(counted).max() else { continue };
            for shard in 0..spread.count() {
                let behind = most - stands.get(shard).map_or(most, counted);
                if behind == 0 {
                    continue;
                }
                if behind <= SKIPPED_MAX {
                    tracing::warn!(sequence = sequence.name, shard, behind, "a sequence is moved on");
                    let rows = match self.question(spread, shard, &skip(sequence, behind)).await? {
                        Ok(rows) => rows,
                        Err(outcome) => return Ok(Some(outcome)),
                    };
                    if last_values(&rows, 1).first() == Some(&Some(sequence.value(most))) {
                        continue;
                    }
                    // Another step there, or an end of its numbers.
                }
                return fail(spread, shard, &apart(sequence, shard)).await.map(Some);
            }
        }
        Ok(None)
    }

    /// Asks a shard something of our own. The outcome of the batch, if that fails.
    pub(super) async fn question(
        &mut self,
        spread: &mut Spread,
        shard: usize,
        sql: &str,
    ) -> Result<Result<Rows, Outcome>, SessionError> {
        let Some(lease) = spread.lease(shard) else { return Ok(Ok(Rows::new())) };
        let answer = self.ask(lease, &frontend::query_message(sql.as_bytes())).await?;
        if let Some(body) = &answer.error {
            let mut told = BytesMut::new();
            raw_error(&mut told, body);
            return Ok(Err(Outcome::Failed(shard, on_shard(&told, body, shard))));
        }
        Ok(Ok(answer.rows()?))
    }
}

impl Sequence {
    /// How many numbers it has given.
    fn counted(&self, last: Option<i128>) -> i128 {
        last.map_or(0, |last| (last - self.start).div_euclid(self.step) + 1)
    }

    /// The last of so many.
    fn value(&self, counted: i128) -> i128 {
        self.start + (counted - 1) * self.step
    }
}

fn apart(sequence: &Sequence, shard: usize) -> ErrorResponse {
    ErrorResponse::error(
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("sequence {} is too far behind, or another one, on shard {shard}", sequence.name),
    )
    .hint(format!(
        "Make it the same on all shards: SELECT setval('{}', …).",
        sequence.name.replace('\'', "''")
    ))
}

/// What rows of [`lookup`] say.
fn need(fill: &Fill, rows: &Rows) -> Need {
    let mut sequences = Vec::new();
    for row in rows {
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        let number = |at: usize| text(at).parse::<i128>().ok();
        let refuse = |what: String| Need::Refused(Refusal::Default { table: fill.table.clone(), what });
        if text(0) != "sequence" {
            return refuse(format!("the default of column \"{}\"", text(1)));
        }
        if !fill.ordered {
            return refuse(format!("the numbers for column \"{}\" in the order of a query's rows", text(1)));
        }
        if number(3) != Some(1) {
            return refuse(format!("numbers of sequence {}, which has a CACHE,", text(2)));
        }
        match (number(4), number(5)) {
            (Some(start), Some(step)) if step != 0 => sequences.push(Sequence { name: text(2), start, step }),
            _ => return refuse(format!("numbers of sequence {}", text(2))),
        }
    }
    if sequences.is_empty() { Need::Nothing } else { Need::Alike(sequences) }
}

fn last_values(rows: &Rows, count: usize) -> Vec<Option<i128>> {
    let last = rows.last();
    let value = |at: usize| last?.get(at)?.as_deref()?.parse().ok();
    // A lock stands before them.
    let from = last.map_or(0, |row| row.len().saturating_sub(count));
    (from..from + count).map(value).collect()
}

/// The last numbers of sequences, read behind our locks of them.
fn positions(sequences: &[Sequence], locks: bool) -> String {
    let lock = |sequence: &Sequence| {
        let name = literal(&sequence.name);
        format!("SELECT pg_catalog.pg_advisory_xact_lock({LOCKS}, pg_catalog.hashtext({name})); ")
    };
    let sql: String = sequences.iter().filter(|_| locks).map(lock).collect();
    let last = |sequence: &Sequence| {
        format!("pg_catalog.pg_sequence_last_value({}::pg_catalog.regclass)", literal(&sequence.name))
    };
    sql + "SELECT " + &sequences.iter().map(last).collect::<Vec<_>>().join(", ")
}

/// Takes so many numbers. Whoever may insert may do that; `setval` needs a privilege of its own.
fn skip(sequence: &Sequence, count: i128) -> String {
    let name = literal(&sequence.name);
    format!(
        "SELECT n FROM (SELECT i, pg_catalog.nextval({name}::pg_catalog.regclass) AS n \
         FROM pg_catalog.generate_series(1, {count}) AS i) AS taken ORDER BY i DESC LIMIT 1"
    )
}

/// Of the columns that a statement leaves to their defaults: those whose default is not the same everywhere, and the
/// sequences of the others. The stored trees are read, as in `catalog/load.sql`. What a view or a rule writes is looked at
/// with all its columns.
fn lookup(fill: &Fill) -> String {
    let table = qualified(fill.schema.as_deref(), &fill.table);
    let names = |names: &[String]| {
        let names: Vec<_> = names.iter().map(|name| literal(name)).collect();
        format!("ARRAY[{}]::pg_catalog.text[]", names.join(", "))
    };
    let chosen = match &fill.columns {
        Defaults::AllBut(given) => format!("NOT attname::pg_catalog.text = ANY ({})", names(given)),
        Defaults::These(these) => format!("attname::pg_catalog.text = ANY ({})", names(these)),
        Defaults::Behind(places, also) => {
            let also: Vec<_> = also.iter().map(|at| (at + 1).to_string()).collect();
            let also = format!("ARRAY[{}]::pg_catalog.int4[]", also.join(", "));
            format!("(place > {} OR place = ANY ({also}))", places.min(&COLUMNS_MAX))
        }
    };
    include_str!("fills.sql").replace("{table}", &literal(&table)).replace("{chosen}", &chosen)
}

/// A name as an identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table's name, with its schema if that is named.
pub(super) fn qualified(schema: Option<&str>, table: &str) -> String {
    match schema {
        Some(schema) => format!("{}.{}", quoted(schema), quoted(table)),
        None => quoted(table),
    }
}

fn literal(text: &str) -> String {
    let quotes = text.replace('\'', "''");
    if quotes.contains('\\') {
        format!(" E'{}'", quotes.replace('\\', "\\\\"))
    } else {
        format!("'{quotes}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_a_sequence_is() {
        let of = |start, step| Sequence { name: "s".to_owned(), start, step };
        assert_eq!([None, Some(1), Some(7)].map(|last| of(1, 1).counted(last)), [0, 1, 7]);
        assert_eq!([None, Some(10), Some(15)].map(|last| of(10, 5).counted(last)), [0, 1, 2]);
        assert_eq!([None, Some(-1), Some(-4)].map(|last| of(-1, -1).counted(last)), [0, 1, 4]);
        assert_eq!((of(1, 1).value(7), of(10, 5).value(2), of(-1, -1).value(4)), (7, 15, -4));
        let far = of(i128::from(i64::MIN), i128::from(i64::MAX));
        assert_eq!(far.counted(Some(i128::from(i64::MAX))), 3);
    }

    #[test]
    fn names_are_quoted() {
        let fill = Fill {
            schema: Some("a\"b".to_owned()),
            table: "it's".to_owned(),
            columns: Defaults::AllBut(vec!["c\\d".to_owned()]),
            ordered: true,
        };
        let sql = lookup(&fill);
        assert!(sql.contains(r#"to_regclass('"a""b"."it''s"')"#), "{sql}");
        assert!(sql.contains(r"ARRAY[ E'c\\d']"), "{sql}");
    }
}
