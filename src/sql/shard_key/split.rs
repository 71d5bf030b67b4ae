//! An INSERT whose rows belong to several shards: one text for each shard, with its rows only.
//!
//! Each text is the statement as it is written, without the rows (and what is between rows) of other shards. The
//! parameters are numbered anew in the order in which the text uses them, since PostgreSQL wants to know the type of
//! every parameter up to the highest number, used or not.
//!
//! What the texts do together must be what the one statement would have done. So an INSERT stays whole, and is
//! refused, where that cannot be said:
//!
//! - inside of another statement (EXPLAIN, COPY, WITH), behind WITH, or with other statements in the string:
//!   what is around it would run once on each shard;
//! - with ON CONFLICT and RETURNING: rows may come back or not, so which one did is not known;
//! - with ORDER BY, LIMIT and the like behind the rows;
//! - where it reads sharded tables: they are read on one shard;
//! - where it calls what acts on the session or the server (`set_config`, advisory locks, `lastval`; not
//!   `nextval`, whose numbers are those of each shard in any case);
//! - where a parameter has no declared type and would take it from another column on some shard.
//!
//! Defaults and functions, volatile ones too, are computed by the shard that stores the row; `now()` is that of
//! its transaction, so rows of two shards may differ in it. Triggers that skip rows are
//! not seen from here: who merges RETURNING compares the count of rows with [`SplitPart::rows`].

use crate::shard::{ShardNumber, ShardedSchema};

use super::super::classify::Verdict;
use super::super::functions::{Meaning, builtin, session_effects};
use super::super::normalize::{Collected, normalize};
use super::super::scan::{Kind, LexOptions, Scanner};
use super::super::session_effects::SessionEffects;
use super::super::tokens::View;
use super::constant::{NoValue, Row, Source, number};
use super::extract::Rows;
use super::{Inserted, KeyPlan, Parameters, Plan, Refusal, no_value};

/// An INSERT that is divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The table, for explanations.
    pub table: String,
    /// One for each shard that gets rows, by its number.
    pub parts: Vec<SplitPart>,
    /// Where each row of the statement went, in its order.
    pub order: Vec<RowPlace>,
    /// Whether each row comes back (RETURNING).
    pub returning: bool,
    /// How many parameters the whole statement has: the highest number it uses.
    pub parameters: u32,
}

/// What one shard gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitPart {
    /// The shard.
    pub shard: ShardNumber,
    /// The statement with its rows.
    pub sql: Vec<u8>,
    /// Its `$1`, `$2` … are these parameters of the whole statement.
    pub parameters: Vec<u32>,
    /// Of these parameters of the whole statement it gets other values, in their formats.
    pub replaced: Vec<(u32, Vec<u8>)>,
    /// How many rows it has.
    pub rows: usize,
}

/// Where a row went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowPlace {
    /// The index of its part.
    pub part: usize,
    /// Its place among that part's rows, from 0.
    pub row: usize,
}

/// Why the rows of an INSERT must stay together, as far as its fingerprint tells.
pub(super) fn together(
    view: View<'_>,
    verdict: &Verdict,
    rows: &Rows,
    reads_sharded: bool,
) -> Option<&'static str> {
    if !view.is(0, "insert") {
        return Some("from inside of another statement");
    }
    if rows.on_conflict && rows.returning {
        return Some("with both ON CONFLICT and RETURNING");
    }
    if reads_sharded {
        return Some("by a statement that reads sharded tables");
    }
    let acts = |name: &str| {
        name != "nextval" && (builtin(name) != Meaning::Read || session_effects(name) != SessionEffects::NONE)
    };
    if verdict.functions.iter().any(|function| acts(&function.name)) {
        return Some("by a statement that acts on the session or the server");
    }
    None
}

impl KeyPlan {
    /// Divides a text that has the plan's fingerprint over the shards of its rows. `None` if there is nothing to
    /// divide: it inserts no rows, or all into one shard; then [`KeyPlan::destination`] has the answer.
    ///
    /// # Errors
    /// The rows cannot be told apart or must stay together: the file's head lists when.
    pub fn split(
        &self,
        sql: &[u8],
        lex: LexOptions,
        schema: &ShardedSchema,
        parameters: &dyn Parameters,
    ) -> Result<Option<Split>, Refusal> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal.clone());
        }
        let inserted = self.statements.iter().find_map(|plan| match plan {
            Plan::Keyed { rows, .. } => rows.as_ref(),
            Plan::Anywhere | Plan::All(_) | Plan::Refused(_) => None,
        });
        let Some(inserted) = inserted else {
            return match &self.unnested {
                Some(unnesting) => self.split_unnested(unnesting, sql, lex, schema, parameters),
                None => Ok(None),
            };
        };
        if lex.backslash_trail_bytes && !sql.is_ascii() {
            return Err(Refusal::NotUnderstood);
        }
        let mut collected = Collected::default();
        normalize(sql, lex, &mut collected, &mut ());
        let source = Source { text: sql, tokens: &collected.tokens, lex, parameters };
        let read = read_rows(inserted, source, schema)?;
        let mut shards: Vec<ShardNumber> = read.rows.iter().map(|row| row.shard).collect();
        shards.sort_unstable();
        shards.dedup();
        if shards.len() < 2 {
            return Ok(None);
        }
        let refuse = |what| Err(Refusal::Together { table: inserted.rows.table.clone(), what });
        if let Some(what) = inserted.together {
            return refuse(what);
        }
        if self.statements.len() > 1 {
            return refuse("together with other statements");
        }
        // `INSERT INTO t (a[$1], …)`: the numbers before the rows stay as they are.
        if source.tokens.iter().take(inserted.values).any(|token| token.kind == Kind::Param) {
            return Err(Refusal::NotUnderstood);
        }
        let behind = sql.get(read.end..).unwrap_or_default();
        if !ends_insert(behind, lex) {
            return refuse("with ORDER BY, LIMIT or the like");
        }
        divide(&inserted.rows, source, &read, &shards).map(Some)
    }
}

/// A row of the statement.
struct ReadRow {
    shard: ShardNumber,
    span: std::ops::Range<usize>,
    /// Its parameters in their order.
    parameters: Vec<Use>,
}

/// The rows, and where the last one ends.
struct ReadRows {
    rows: Vec<ReadRow>,
    end: usize,
}

/// A parameter where it stands.
#[derive(Clone)]
pub(super) struct Use {
    pub(super) number: u32,
    pub(super) start: usize,
    pub(super) end: usize,
    /// What decides its type if nobody declared it.
    pub(super) decided_by: Decider,
}

/// Two uses with the same decider give a parameter the same type.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Decider {
    /// The cast that is all its value has besides it.
    Cast(std::ops::Range<usize>),
    /// The column, and the whole value that it is in.
    Cell(usize, std::ops::Range<usize>),
    /// What is the same on each shard: what is behind the rows, an array's cast.
    Behind,
}

impl Decider {
    fn is_like(&self, other: &Self, text: &[u8]) -> bool {
        let same = |a: &std::ops::Range<usize>, b: &std::ops::Range<usize>| {
            text.get(a.clone()) == text.get(b.clone())
        };
        match (self, other) {
            (Self::Cast(a), Self::Cast(b)) => same(a, b),
            (Self::Cell(column, a), Self::Cell(other, b)) => column == other && same(a, b),
            (Self::Behind, Self::Behind) => true,
            _ => false,
        }
    }
}

impl From<NoValue> for RowRefusal {
    fn from(none: NoValue) -> Self {
        Self::NoValue(none)
    }
}

/// Why a row is not read.
enum RowRefusal {
    NoValue(NoValue),
    NoShard,
}

fn read_rows(inserted: &Inserted, source: Source<'_>, schema: &ShardedSchema) -> Result<ReadRows, Refusal> {
    let Inserted { rows, values, .. } = inserted;
    let tables = schema.sharded.get(rows.group).ok_or(Refusal::NotUnderstood)?;
    let column = tables.key.first().ok_or(Refusal::NotUnderstood)?;
    let wanted: Vec<_> =
        rows.key.iter().zip(&tables.key).map(|(at, column)| (*at, column.key_type)).collect();
    let mut read = Vec::new();
    let end = source.each_row(*values, rows.columns, |row| {
        let key = source.key_of(row, &wanted)?;
        let key: Vec<_> = key.iter().map(Option::as_ref).collect();
        let shard = tables.function.shard(&key).ok_or(RowRefusal::NoShard)?;
        read.push(ReadRow { shard, span: row.span(), parameters: uses(row)? });
        Ok::<(), RowRefusal>(())
    });
    let end = end.map_err(|refusal| match refusal {
        RowRefusal::NoValue(none) => no_value(none, &column.name, column.key_type),
        RowRefusal::NoShard => Refusal::NoShard(column.name.clone()),
    })?;
    Ok(ReadRows { rows: read, end })
}

/// The parameters in a row.
fn uses(row: &Row<'_>) -> Result<Vec<Use>, NoValue> {
    let mut found = Vec::new();
    for (column, cell) in row.cells().iter().enumerate() {
        let (Some(first), Some(last)) = (cell.first(), cell.last()) else { continue };
        let is_cast = first.kind == Kind::Param
            && cell.get(1).is_some_and(|colons| row.written(colons, colons) == b"::")
            && cell.iter().skip(2).all(|word| word.kind == Kind::Word);
        for token in cell.iter().filter(|token| token.kind == Kind::Param) {
            let decided_by = if is_cast {
                Decider::Cast(row.base() + token.end..row.base() + last.end)
            } else {
                Decider::Cell(column, row.base() + first.start..row.base() + last.end)
            };
            found.push(Use {
                number: number(row.written(token, token)).ok_or(NoValue::Unread)?,
                start: row.base() + token.start,
                end: row.base() + token.end,
                decided_by,
            });
        }
    }
    Ok(found)
}

/// Whether what is behind the rows belongs to INSERT.
pub(super) fn ends_insert(behind: &[u8], lex: LexOptions) -> bool {
    let Some(token) = Scanner::new(behind, lex).next_token(&mut ()) else { return true };
    let first = behind.get(token.start..token.end).unwrap_or_default();
    first == b";" || first.eq_ignore_ascii_case(b"on") || first.eq_ignore_ascii_case(b"returning")
}

/// The parameters behind the rows.
pub(super) fn uses_behind(text: &[u8], from: usize, lex: LexOptions) -> Result<Vec<Use>, Refusal> {
    let behind = text.get(from..).unwrap_or_default();
    let mut scanner = Scanner::new(behind, lex);
    let mut found = Vec::new();
    while let Some(token) = scanner.next_token(&mut ()) {
        if token.kind == Kind::Param {
            let number = number(behind.get(token.start..token.end).unwrap_or_default());
            found.push(Use {
                number: number.ok_or(Refusal::NotUnderstood)?,
                start: from + token.start,
                end: from + token.end,
                decided_by: Decider::Behind,
            });
        }
    }
    Ok(found)
}

/// Most parameters that a statement can have.
const PARAMETERS_MAX: u32 = 65_535;

fn divide(
    rows: &Rows,
    source: Source<'_>,
    read: &ReadRows,
    shards: &[ShardNumber],
) -> Result<Split, Refusal> {
    let text = source.text;
    let head = read.rows.first().map_or(0, |row| row.span.start);
    let behind = uses_behind(text, read.end, source.lex)?;
    let firsts = firsts(source, read.rows.iter().flat_map(|row| &row.parameters).chain(&behind))?;
    let mut texts: Vec<PartText<'_>> = Vec::with_capacity(shards.len());
    for shard in shards {
        texts.push(PartText::new(*shard, text, head, firsts.len()));
    }
    let mut order = Vec::with_capacity(read.rows.len());
    for row in &read.rows {
        let index = shards.binary_search(&row.shard).map_err(|_| Refusal::NotUnderstood)?;
        let part = texts.get_mut(index).ok_or(Refusal::NotUnderstood)?;
        order.push(RowPlace { part: index, row: part.rows });
        if part.rows > 0 {
            part.sql.extend_from_slice(b", ");
        }
        part.rows += 1;
        part.add(row.span.clone(), &row.parameters, &firsts, source)?;
    }
    let mut parts = Vec::with_capacity(texts.len());
    for mut part in texts {
        part.add(read.end..text.len(), &behind, &firsts, source)?;
        let rows = part.rows;
        parts.push(part.into_part(rows));
    }
    let count = u32::try_from(firsts.len().saturating_sub(1)).unwrap_or(0);
    Ok(Split { table: rows.table.clone(), parts, order, returning: rows.returning, parameters: count })
}

/// Where each parameter is met first in the whole statement, by its number.
pub(super) fn firsts<'u>(
    source: Source<'_>,
    all: impl Iterator<Item = &'u Use> + Clone,
) -> Result<Vec<Option<&'u Use>>, Refusal> {
    let count = all.clone().map(|it| it.number).max().unwrap_or(0);
    if count > PARAMETERS_MAX || all.clone().any(|it| it.number == 0) {
        return Err(Refusal::NotUnderstood);
    }
    let mut firsts: Vec<Option<&Use>> = vec![None; count as usize + 1];
    for it in all {
        firsts.get_mut(it.number as usize).map(|first| first.get_or_insert(it));
    }
    for (number, first) in (0..).zip(&firsts).skip(1) {
        // PostgreSQL would refuse the statement for it.
        if first.is_none() && !is_declared(source, number) {
            return Err(Refusal::ParameterType(number));
        }
    }
    Ok(firsts)
}

pub(super) fn is_declared(source: Source<'_>, number: u32) -> bool {
    /// `unknown`, which is as good as nothing.
    const UNKNOWN: u32 = 705;
    !matches!(source.parameters.declared(number), 0 | UNKNOWN)
}

/// A text that is being made.
pub(super) struct PartText<'a> {
    shard: ShardNumber,
    text: &'a [u8],
    sql: Vec<u8>,
    parameters: Vec<u32>,
    /// The new number of each parameter; 0 while it has none.
    numbers: Vec<u32>,
    rows: usize,
}

impl<'a> PartText<'a> {
    /// `count` is one more than the highest number of a parameter.
    pub(super) fn new(shard: ShardNumber, text: &'a [u8], head: usize, count: usize) -> Self {
        let sql = text.get(..head).unwrap_or_default().to_vec();
        Self { shard, text, sql, parameters: Vec::new(), numbers: vec![0; count], rows: 0 }
    }

    pub(super) fn into_part(self, rows: usize) -> SplitPart {
        let Self { shard, sql, parameters, .. } = self;
        SplitPart { shard, sql, parameters, replaced: Vec::new(), rows }
    }

    /// Adds what is not in the statement.
    pub(super) fn push(&mut self, written: &[u8]) {
        self.sql.extend_from_slice(written);
    }

    /// Adds a literal. What it is made of was one without escapes.
    pub(super) fn push_literal(&mut self, content: &[u8]) {
        self.sql.push(b'\'');
        for byte in content {
            let again = usize::from(*byte == b'\'');
            self.sql.extend(std::iter::repeat_n(*byte, 1 + again));
        }
        self.sql.push(b'\'');
    }

    /// Takes over a piece of the statement.
    pub(super) fn add(
        &mut self,
        span: std::ops::Range<usize>,
        uses: &[Use],
        firsts: &[Option<&Use>],
        source: Source<'_>,
    ) -> Result<(), Refusal> {
        let mut from = span.start;
        for it in uses {
            let new = self.numbers.get_mut(it.number as usize).ok_or(Refusal::NotUnderstood)?;
            if *new == 0 {
                // Here this shard decides its type: as the whole statement would, or not at all.
                let first =
                    firsts.get(it.number as usize).copied().flatten().ok_or(Refusal::NotUnderstood)?;
                let is_like = it.decided_by.is_like(&first.decided_by, self.text);
                if !is_like && !is_declared(source, it.number) {
                    return Err(Refusal::ParameterType(it.number));
                }
                self.parameters.push(it.number);
                *new = self.parameters.len() as u32;
            }
            self.sql.extend_from_slice(self.text.get(from..it.start).unwrap_or_default());
            self.sql.extend_from_slice(format!("${new}").as_bytes());
            from = it.end;
        }
        self.sql.extend_from_slice(self.text.get(from..span.end).unwrap_or_default());
        Ok(())
    }
}
