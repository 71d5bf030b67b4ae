//! Where the shard key of a statement is, and which shard it leads to.
//!
//! [`key_plan`] looks at a text once, with the declared tables in hand; the [`KeyPlan`] says where the key
//! sits in any text of the same fingerprint ("literal 3", "parameter 2"), so that a repeated statement costs no
//! parse. [`KeyPlan::destination`] reads the values from one text (and one Bind) and names the shard.
//!
//! In doubt the answer is a [`Refusal`]: a statement that is refused can be written otherwise or sent with an
//! explicit shard; one that runs on a wrong shard cannot be taken back.

mod by_parameters;
mod constant;
mod copy;
mod divide;
mod extract;
mod fill;
mod refusal;
mod row;
mod split;
mod unnest;
mod values;

pub use by_parameters::ByParameters;
pub use copy::{CopyFrom, Unlisted, copy_from};
pub use divide::Divided;
pub use fill::{Defaults, Fill};
pub use refusal::Refusal;
pub use split::{RowPlace, Split, SplitPart};

use smallvec::{SmallVec, smallvec};

use crate::shard::{KeyValue, ShardNumber, ShardedSchema, TableClass, WrongColumn};

use super::classify::{Verdict, classify, table_name};
use super::functions::{Meaning, builtin};
use super::hint::Hint;
use super::normalize::{Collected, normalize};
use super::parse::parse_numbered;
use super::scan::{Kind, LexOptions};
use super::session_effects::SessionEffects;
use super::statement::Effect;
use super::tokens::{Text, View};
use constant::{NoValue, Source};
use extract::{Occurrence, Origin, Rows};
use fill::Written;
use row::Column;
use unnest::Unnesting;
use values::{outside_brackets, repeated_rows, values_at};

/// The shard that a comment asks for, whatever the statement is: by its number, or by a key where all sharded
/// tables have one function. None when it asks for nothing.
///
/// # Errors
/// There is no such shard, or the key is none.
pub fn explicit_shard(
    hint: &Hint,
    shards: u32,
    schema: &ShardedSchema,
) -> Result<Option<ShardNumber>, Refusal> {
    if let Some(shard) = hint.shard {
        return if shard < shards { Ok(Some(shard)) } else { Err(Refusal::NoSuchShard(shard)) };
    }
    let Some(text) = hint.key.as_deref() else { return Ok(None) };
    let (first, others) = schema.sharded.split_first().ok_or(Refusal::WhichKey)?;
    let ([column], true) = (first.key.as_slice(), others.iter().all(|other| first.is_colocated_with(other)))
    else {
        return Err(Refusal::WhichKey);
    };
    let unread = Refusal::Value { column: column.name.clone(), wanted: column.key_type.as_str() };
    let value = KeyValue::from_text(column.key_type, text).ok_or(unread)?;
    let shard = first.function.shard(&[Some(&value)]);
    shard.map(Some).ok_or_else(|| Refusal::NoShard(column.name.clone()))
}

/// What a Bind gives.
pub trait Parameters {
    /// The type declared for `$number` in Parse; 0 if none is.
    fn declared(&self, number: u32) -> u32;
    /// Its value; none if nothing is bound.
    fn value(&self, number: u32) -> Option<ParameterValue<'_>>;
    /// Whether client and server both speak UTF-8, so that the bytes of texts are those that are stored.
    fn is_utf8(&self) -> bool;
}

/// Nothing is bound.
#[derive(Clone, Copy, Debug)]
pub struct NoParameters;

impl Parameters for NoParameters {
    fn declared(&self, _: u32) -> u32 {
        0
    }

    fn value(&self, _: u32) -> Option<ParameterValue<'_>> {
        None
    }

    fn is_utf8(&self) -> bool {
        true
    }
}

/// The value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterValue<'a> {
    /// NULL.
    Null,
    /// In text format.
    Text(&'a [u8]),
    /// In binary format.
    Binary(&'a [u8]),
}

/// Where a text must run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Any shard gives the same answer.
    Any,
    /// One shard.
    Shard(ShardNumber),
    /// Every shard must do it, as one.
    All {
        /// What it is, for explanations.
        what: String,
    },
}

/// Where the key sits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlan {
    statements: Vec<Plan>,
    /// Tables that are everywhere and written, each with the token VALUES of an INSERT that is a statement of its own.
    written: Vec<(Written, Option<usize>)>,
    /// Rows made of arrays, if it inserts such.
    unnested: Option<Unnesting>,
    /// Some statement of it begins or ends a transaction, or marks one.
    controls: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// No sharded table: any shard.
    Anywhere,
    /// Bound by keys.
    Keyed {
        occurrences: Vec<Occurrence>,
        rows: Option<Inserted>,
    },
    /// On every shard.
    All(String),
    Refused(Refusal),
}

/// Rows that are inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Inserted {
    rows: Rows,
    /// The token that they stand behind: VALUES.
    values: usize,
    /// Why they cannot be divided over several shards, if so.
    together: Option<&'static str>,
}

/// Functions that give every shard another value. Numbers of a sequence are among them where two clients ask at once.
const DIFFERS: &[&str] = &[
    "clock_timestamp",
    "gen_random_uuid",
    "inet_server_addr",
    "inet_server_port",
    "nextval",
    "now",
    "pg_backend_pid",
    "pg_current_wal_lsn",
    "pg_current_xact_id",
    "random",
    "random_normal",
    "statement_timestamp",
    "timeofday",
    "transaction_timestamp",
    "txid_current",
    "uuidv4",
    "uuidv7",
];

/// Likewise, without parentheses.
const DIFFERENT_WORDS: &[&str] =
    &["current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"];

/// The plan of every text with the fingerprint of this one.
pub fn key_plan(sql: &[u8], lex: LexOptions, schema: &ShardedSchema) -> KeyPlan {
    let refused = |refusal| KeyPlan {
        statements: vec![Plan::Refused(refusal)],
        written: Vec::new(),
        unnested: None,
        controls: true,
    };
    if lex.backslash_trail_bytes && !sql.is_ascii() {
        return refused(Refusal::NotUnderstood);
    }
    let mut collected = Collected::default();
    normalize(sql, lex, &mut collected, &mut ());
    if collected.overflow {
        return refused(Refusal::NotUnderstood);
    }
    let text = Text::new(sql, &collected.tokens);
    let views = text.statements();
    let controls = views.iter().any(|view| classify(*view).control.is_some());
    let mut plan = KeyPlan { statements: Vec::new(), written: Vec::new(), unnested: None, controls };
    for view in views {
        let statement = try_plan(view, schema, &mut plan).unwrap_or_else(Plan::Refused);
        plan.statements.push(statement);
    }
    plan
}

fn try_plan(view: View<'_>, schema: &ShardedSchema, whole: &mut KeyPlan) -> Result<Plan, Refusal> {
    /// What concerns the session alone, and may be done on any shard.
    const HARMLESS: SessionEffects = SessionEffects::SETTING
        .union(SessionEffects::SETTING_LOCAL)
        .union(SessionEffects::DEALLOCATE)
        .union(SessionEffects::DISCARD_ALL)
        .union(SessionEffects::UNLISTEN)
        .union(SessionEffects::ADVISORY_UNLOCK);
    let verdict = classify(view);
    if verdict.control.is_some() {
        let is_two_phase = view.is(0, "prepare") || view.is(1, "prepared");
        return if is_two_phase { Err(Refusal::Construct("two-phase commit")) } else { Ok(Plan::Anywhere) };
    }
    match view.word(0) {
        b"prepare" => return Err(Refusal::Construct("PREPARE as a statement of SQL")),
        b"execute" => return Err(Refusal::Construct("EXECUTE as a statement of SQL")),
        b"listen" => return Err(Refusal::Construct("LISTEN")),
        b"notify" => return Err(Refusal::Construct("NOTIFY")),
        b"call" | b"do" => return Err(Refusal::Construct("code on the server")),
        b"copy" if verdict.query.is_none() => return Err(Refusal::Construct("COPY of a table")),
        b"set" | b"reset" | b"show" | b"discard" | b"deallocate" | b"unlisten" | b"fetch" | b"move"
        | b"close" => return Ok(Plan::Anywhere),
        _ => {}
    }
    let Some((from, to)) = verdict.query.filter(|_| !verdict.is_ddl) else {
        return match verdict.effect {
            Effect::Empty => Ok(Plan::Anywhere),
            Effect::Unknown => Err(Refusal::NotUnderstood),
            _ => on_all(view, &verdict, schema, &mut whole.written),
        };
    };
    if verdict.session.intersects(SessionEffects::NOTIFY) {
        return Err(Refusal::Construct("NOTIFY"));
    }
    let query = view.slice(from, to);
    let values = if query.is(0, "insert") { values_at(query) } else { None };
    let repeated = values.map(|values| repeated_rows(query, values)).unwrap_or_default();
    let statement = parse_numbered(query, &repeated).ok_or(Refusal::NotUnderstood)?;
    let found = extract::extract(&statement, schema)?;
    if let Some(function) = unknown_function(&verdict) {
        return Err(Refusal::Function(function));
    }
    if let Some(table) = found.everywhere_written {
        if !found.occurrences.is_empty() || found.rows.is_some() {
            return Err(Refusal::Mixed(table));
        }
        if let Some(what) = differs(query, &verdict) {
            return Err(Refusal::Differs(what));
        }
        let values = values.filter(|_| found.written.len() == 1).map(|values| query.absolute(values));
        whole.written.extend(found.written.into_iter().map(|table| (table, values)));
        return Ok(Plan::All(format!("a change of table \"{table}\", which is on every shard")));
    }
    for occurrence in &found.occurrences {
        check_bound(occurrence, query, schema)?;
    }
    if let Some(unnesting) = found.unnested {
        let together = split::together(view, &verdict, &unnesting.rows, found.occurrences.len() > 1);
        whole.unnested = Some(Unnesting { together, ..unnesting });
    }
    let rows = match found.rows {
        Some(rows) => {
            let values = query.absolute(values.ok_or(Refusal::NotUnderstood)?);
            let together = split::together(view, &verdict, &rows, !found.occurrences.is_empty());
            Some(Inserted { rows, values, together })
        }
        None => None,
    };
    if found.occurrences.is_empty() && rows.is_none() {
        let only_settings = HARMLESS.union(verdict.session) == HARMLESS && found.has_no_tables;
        return match verdict.effect {
            Effect::Empty | Effect::Read => Ok(Plan::Anywhere),
            // A cursor over tables that are everywhere, or a change of settings.
            Effect::Session if only_settings || view.is(0, "declare") => Ok(Plan::Anywhere),
            Effect::Write if only_settings && only_session_functions(&verdict) => Ok(Plan::Anywhere),
            // About the server, whichever it is.
            Effect::Write if found.has_no_tables && asks(&verdict) => Ok(Plan::Anywhere),
            Effect::Write if counts_or_locks(&verdict) => {
                Ok(Plan::All("it counts or locks, on every shard alike".to_owned()))
            }
            _ => Err(Refusal::Nowhere),
        };
    }
    Ok(Plan::Keyed { occurrences: found.occurrences, rows })
}

/// What concerns the structure of the database, and must be the same on all shards.
fn on_all(
    view: View<'_>,
    verdict: &Verdict,
    schema: &ShardedSchema,
    written: &mut Vec<(Written, Option<usize>)>,
) -> Result<Plan, Refusal> {
    /// What stays in one session.
    const STAYS: SessionEffects = SessionEffects::TEMP_OBJECT
        .union(SessionEffects::LOAD)
        .union(SessionEffects::HOLD_CURSOR)
        .union(SessionEffects::ADVISORY_LOCK);
    let first = view.identifier(0).unwrap_or_default();
    // In brackets AS makes columns: `GENERATED BY DEFAULT AS IDENTITY`.
    let makes_rows = || outside_brackets(view, |at| view.is(at, "as") || view.is(at, "execute")).is_some();
    match (&*first, view.word(1)) {
        ("select" | "with" | "values" | "table", _) => return Err(Refusal::Construct("SELECT INTO")),
        ("create", b"table" | b"unlogged" | b"materialized" | b"global" | b"local") if makes_rows() => {
            return Err(Refusal::Construct("CREATE with the rows of a query"));
        }
        ("create" | "drop", b"database" | b"tablespace" | b"subscription")
        | ("alter", b"system")
        | ("checkpoint" | "load", _) => {
            return Err(Refusal::Construct("a command for one server"));
        }
        _ => {}
    }
    if verdict.session.intersects(STAYS) {
        return Err(Refusal::Construct("what stays in one session"));
    }
    if let Some(what) = differs_in_rows(view, schema, written) {
        return Err(Refusal::Differs(what));
    }
    Ok(Plan::All(format!("{} is for all shards", first.to_ascii_uppercase())))
}

/// What ALTER TABLE would put into the rows of a table that is everywhere, on each shard another: as far as its text says
/// so. The columns that it adds are noted; what their defaults are is looked at behind it.
fn differs_in_rows(
    view: View<'_>,
    schema: &ShardedSchema,
    written: &mut Vec<(Written, Option<usize>)>,
) -> Option<String> {
    const OTHERS: [&str; 8] =
        ["check", "constraint", "exclude", "foreign", "generated", "not", "primary", "unique"];
    if !(view.is(0, "alter") && view.is(1, "table")) {
        return None;
    }
    let skipped = |at: usize, words: &[&str]| {
        if words.iter().enumerate().all(|(n, word)| view.is(at + n, word)) { at + words.len() } else { at }
    };
    let (name, from) = table_name(view, skipped(skipped(2, &["if", "exists"]), &["only"]))?;
    if schema.classify(name.schema.as_deref(), &name.name) != TableClass::Everywhere {
        return None;
    }
    let rest = || from..view.len();
    let adds = rest().filter(|at| view.is(*at, "add") && !OTHERS.iter().any(|word| view.is(at + 1, word)));
    let added = adds.filter_map(|at| {
        view.identifier(skipped(skipped(at + 1, &["column"]), &["if", "not", "exists"])).map(String::from)
    });
    let added: Vec<String> = added.collect();
    let adds = !added.is_empty();
    if adds {
        let schema = name.schema.as_deref().map(str::to_owned);
        written.push((Written::by_alter(schema, name.name.to_string(), added), None));
    }
    if !adds && !rest().any(|at| view.is(at, "type")) {
        return None;
    }
    let mut words = rest().filter_map(|at| Some((at, view.identifier(at)?)));
    words
        .find(|(at, word)| {
            DIFFERENT_WORDS.contains(&&**word)
                || (DIFFERS.contains(&&**word) && view.punct(at + 1, b"("))
                || (adds && matches!(&**word, "identity" | "serial" | "bigserial" | "smallserial"))
        })
        .map(|(_, word)| word.to_string())
}

/// What in a change would not be the same on all shards.
fn differs(query: View<'_>, verdict: &Verdict) -> Option<String> {
    let function = verdict.functions.iter().find(|function| DIFFERS.contains(&&*function.name));
    let word = || {
        let words = (0..query.len()).filter_map(|at| query.identifier(at));
        words.into_iter().find(|word| DIFFERENT_WORDS.contains(&&**word))
    };
    function.map(|function| function.name.to_string()).or_else(|| word().map(|word| word.to_string()))
}

/// Whether all that it does is to ask about the server, whichever that is.
fn asks(verdict: &Verdict) -> bool {
    verdict.session == SessionEffects::NONE
        && verdict
            .functions
            .iter()
            .all(|function| matches!(builtin(&function.name), Meaning::Read | Meaning::Node))
}

/// Whether all that it does is to lock rows, or to move sequences on.
fn counts_or_locks(verdict: &Verdict) -> bool {
    verdict.session == SessionEffects::NONE
        && verdict.functions.iter().all(|function| {
            matches!(&*function.name, "nextval" | "setval") || builtin(&function.name) == Meaning::Read
        })
}

/// Whether all functions that count as writes concern the session alone.
fn only_session_functions(verdict: &Verdict) -> bool {
    verdict.functions.iter().all(|function| {
        matches!(&*function.name, "set_config" | "pg_advisory_unlock_all")
            || builtin(&function.name) == Meaning::Read
    })
}

/// A function that may read anything.
fn unknown_function(verdict: &Verdict) -> Option<String> {
    let is_known = |name: &str| builtin(name) != Meaning::Unknown && !name.contains("_to_xml");
    let mut functions = verdict.functions.iter();
    let found = functions.find(|function| {
        !is_known(&function.name) || function.schema.as_deref().is_some_and(|schema| schema != "pg_catalog")
    });
    found.map(ToString::to_string)
}

/// Whether each column of the key is bound, by something that stands where it is looked for.
fn check_bound(occurrence: &Occurrence, view: View<'_>, schema: &ShardedSchema) -> Result<(), Refusal> {
    let key = schema.sharded.get(occurrence.group).map(|tables| tables.key.as_slice()).unwrap_or_default();
    let at = |token: usize| token.checked_sub(view.absolute(0));
    for (origin, column) in occurrence.key.iter().zip(key) {
        // Brackets around a first value would be taken for the list's own.
        let stands = match origin {
            None => false,
            Some(Origin::List { open, .. }) => at(*open).is_some_and(|at| {
                let is_behind = |word| at.checked_sub(1).is_some_and(|before| view.is(before, word));
                (view.punct(at, b"(") && is_behind("in")) || (view.punct(at, b"[") && is_behind("array"))
            }),
            Some(Origin::Row(Column { open, several, .. })) => at(*open).is_some_and(|at| {
                let before = at.checked_sub(1);
                view.punct(at, b"(")
                    && match several {
                        true => before.is_some_and(|b| view.is(b, "in")) && view.punct(at + 1, b"("),
                        false => before.is_some_and(|b| view.raw(b) == b"="),
                    }
            }),
            // Keys of several columns take one value for each.
            Some(_) => true,
        };
        let single = key.len() == 1
            || matches!(
                origin,
                Some(Origin::Constant { .. } | Origin::Bool(_) | Origin::Row(Column { several: false, .. }))
            );
        if !stands || !single {
            return Err(Refusal::NoKey { table: occurrence.table.clone(), column: column.name.clone() });
        }
    }
    Ok(())
}

impl KeyPlan {
    /// The same, but refused where it needs the key of one of these.
    #[must_use]
    pub fn without(mut self, wrong: &[WrongColumn]) -> Self {
        for plan in &mut self.statements {
            let Plan::Keyed { occurrences, rows } = plan else { continue };
            let inserted = rows.as_ref().map(|inserted| &inserted.rows.table);
            let mut tables = occurrences.iter().map(|occurrence| &occurrence.table).chain(inserted);
            let found = tables.find_map(|table| wrong.iter().find(|wrong| wrong.table == *table));
            if let Some(found) = found {
                *plan = Plan::Refused(Refusal::WrongColumn(Box::new(found.clone())));
            }
        }
        self
    }

    /// The first refusal that no value can change.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.statements.iter().find_map(|plan| match plan {
            Plan::Refused(refusal) => Some(refusal),
            Plan::Anywhere | Plan::Keyed { .. } | Plan::All(_) => None,
        })
    }

    /// What of it every shard must do.
    fn on_all(&self) -> Option<&str> {
        self.statements.iter().find_map(|plan| match plan {
            Plan::All(what) => Some(what.as_str()),
            Plan::Refused(_) | Plan::Anywhere | Plan::Keyed { .. } => None,
        })
    }

    /// Whether some statement of it begins or ends a transaction, or marks one.
    pub fn controls(&self) -> bool {
        self.controls
    }

    /// The groups of tables that have keys in it.
    pub fn groups(&self) -> impl Iterator<Item = usize> {
        self.statements.iter().flat_map(|plan| {
            let (occurrences, rows) = match plan {
                Plan::Keyed { occurrences, rows } => (occurrences.as_slice(), rows.as_ref()),
                Plan::Anywhere | Plan::All(_) | Plan::Refused(_) => ([].as_slice(), None),
            };
            occurrences
                .iter()
                .map(|occurrence| occurrence.group)
                .chain(rows.map(|inserted| inserted.rows.group))
        })
    }

    /// What it takes in memory, near enough.
    pub fn weight(&self) -> usize {
        let of = |plan: &Plan| match plan {
            Plan::Keyed { occurrences, .. } => occurrences.len() * 128,
            Plan::All(_) | Plan::Refused(_) => 128,
            Plan::Anywhere => 0,
        };
        size_of::<Self>()
            + self.statements.iter().map(|plan| size_of::<Plan>() + of(plan)).sum::<usize>()
            + self.unnested.iter().map(|unnesting| 64 + unnesting.arrays.len() * 8).sum::<usize>()
            + self.written.iter().map(|(table, _)| table.weight()).sum::<usize>()
    }

    /// What this text, which has the plan's fingerprint, leaves to defaults in tables that are everywhere.
    pub fn fills(&self, sql: &[u8], lex: LexOptions) -> Vec<Fill> {
        if self.written.is_empty() {
            return Vec::new();
        }
        let mut collected = Collected::default();
        normalize(sql, lex, &mut collected, &mut ());
        let source = Source { text: sql, tokens: &collected.tokens, lex, parameters: &NoParameters };
        self.written.iter().flat_map(|(table, values)| table.fills(source, *values)).collect()
    }

    /// Whether some statement of it needs a key.
    pub fn is_keyed(&self) -> bool {
        self.statements.iter().any(|plan| matches!(plan, Plan::Keyed { .. }))
    }

    /// Where this text, which has the plan's fingerprint, must run.
    ///
    /// # Errors
    /// Why it cannot be answered.
    pub fn destination(
        &self,
        sql: &[u8],
        lex: LexOptions,
        schema: &ShardedSchema,
        parameters: &dyn Parameters,
    ) -> Result<Destination, Refusal> {
        let mut tokens = Collected::lent();
        if self.is_keyed() {
            normalize(sql, lex, &mut tokens, &mut ());
        }
        let destination = self.destination_by(sql, &tokens, lex, schema, parameters);
        tokens.give_back();
        destination
    }

    /// The same for a text whose tokens are known.
    ///
    /// # Errors
    /// Why it cannot be answered.
    pub fn destination_by(
        &self,
        sql: &[u8],
        tokens: &Collected,
        lex: LexOptions,
        schema: &ShardedSchema,
        parameters: &dyn Parameters,
    ) -> Result<Destination, Refusal> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal.clone());
        }
        if let Some(what) = self.on_all() {
            let what = what.to_owned();
            return if self.is_keyed() { Err(Refusal::Mixed(what)) } else { Ok(Destination::All { what }) };
        }
        if !self.is_keyed() {
            return Ok(Destination::Any);
        }
        if lex.backslash_trail_bytes && !sql.is_ascii() {
            return Err(Refusal::NotUnderstood);
        }
        let source = Source { text: sql, tokens: &tokens.tokens, lex, parameters };
        let mut found: Option<ShardNumber> = None;
        let mut add = |shard: ShardNumber| match found {
            Some(other) if other != shard => Err(Refusal::SeveralShards),
            _ => {
                found = Some(shard);
                Ok(())
            }
        };
        for plan in &self.statements {
            let Plan::Keyed { occurrences, rows } = plan else { continue };
            for occurrence in occurrences {
                let shards = shards_of(occurrence, source, schema)?;
                // Without a value nothing matches, wherever it runs.
                for shard in shards {
                    add(shard)?;
                }
            }
            if let Some(Inserted { rows, values, .. }) = rows {
                for shard in shards_of_rows(rows, *values, source, schema)? {
                    add(shard)?;
                }
            }
        }
        Ok(found.map_or(Destination::Any, Destination::Shard))
    }

    /// By what function the shard is found, if there is a key.
    pub fn function(&self, schema: &ShardedSchema) -> Option<&'static str> {
        let group = self.groups().next()?;
        schema.sharded.get(group).map(|tables| tables.function.as_str())
    }

    /// Where the key sits, in words: `literal`, `parameter $2 as bigint`; a line for each occurrence.
    pub fn describe(&self, sql: &[u8], lex: LexOptions, schema: &ShardedSchema) -> Vec<String> {
        let mut collected = Collected::default();
        normalize(sql, lex, &mut collected, &mut ());
        let tokens = &collected.tokens;
        let is_value = |kind: Kind| matches!(kind, Kind::Text | Kind::Number | Kind::Param);
        let value = |token: usize| match tokens.get(token) {
            Some(t) if t.kind == Kind::Param => {
                format!("parameter {}", String::from_utf8_lossy(sql.get(t.start..t.end).unwrap_or_default()))
            }
            _ => {
                let before = tokens.iter().take(token).filter(|t| is_value(t.kind)).count();
                format!("literal {}", before + 1)
            }
        };
        let mut lines = Vec::new();
        for plan in &self.statements {
            let Plan::Keyed { occurrences, rows } = plan else { continue };
            for occurrence in occurrences {
                let Some(tables) = schema.sharded.get(occurrence.group) else { continue };
                for (origin, column) in occurrence.key.iter().zip(&tables.key) {
                    let place = match origin {
                        Some(Origin::Constant { token, .. }) => value(*token),
                        Some(Origin::Bool(word)) => word.to_string(),
                        Some(Origin::List { open, .. }) => format!("list from {}", value(open + 1)),
                        Some(Origin::Array { token, .. }) => format!("array in {}", value(*token)),
                        Some(Origin::Row(of)) => format!("column {} of a row of values", of.number + 1),
                        Some(Origin::Unnested { arrays, column, .. }) => match arrays.get(*column) {
                            Some(token) => format!("elements of array in {}", value(*token)),
                            None => continue,
                        },
                        None => continue,
                    };
                    let type_name = column.key_type.as_str();
                    lines.push(format!("{}.{} = {place} as {type_name}", occurrence.table, column.name));
                }
            }
            if let Some(Inserted { rows, .. }) = rows
                && let Some(tables) = schema.sharded.get(rows.group)
            {
                for (at, column) in rows.key.iter().zip(&tables.key) {
                    let (table, name, of) = (&rows.table, &column.name, column.key_type.as_str());
                    lines.push(format!("{table}.{name} = column {} of VALUES as {of}", at + 1));
                }
            }
        }
        lines
    }
}

/// The shards of the values that an occurrence is bound to.
/// Most keys are one value of one column.
type Few<T> = SmallVec<[T; 1]>;

fn shards_of(
    occurrence: &Occurrence,
    source: Source<'_>,
    schema: &ShardedSchema,
) -> Result<Few<ShardNumber>, Refusal> {
    let tables = schema.sharded.get(occurrence.group).ok_or(Refusal::NotUnderstood)?;
    let name = || tables.key.first().map(|column| column.name.clone()).unwrap_or_default();
    // What nearly all are.
    if let ([Some(Origin::Constant { token, negative, cast })], [column]) =
        (&occurrence.key[..], &tables.key[..])
    {
        let value = source.constant(*token, *negative, *cast, column.key_type);
        return match value.map_err(|none| no_value(none, &column.name, column.key_type))? {
            None => Ok(Few::new()),
            Some(value) => {
                let shard = tables.function.shard(&[Some(&value)]).ok_or_else(|| Refusal::NoShard(name()))?;
                Ok(smallvec![shard])
            }
        };
    }
    let mut columns: Few<Few<Option<KeyValue>>> = Few::new();
    let mut stored = false;
    for (origin, column) in occurrence.key.iter().zip(&tables.key) {
        let of = column.key_type;
        let values = match origin {
            Some(Origin::Constant { token, negative, cast }) => {
                source.constant(*token, *negative, *cast, of).map(|value| smallvec![value])
            }
            Some(Origin::Bool(word)) if of == crate::shard::KeyType::Bool => {
                Ok(smallvec![Some(KeyValue::Bool(*word))])
            }
            Some(Origin::List { open, cast }) => source.list(*open, *cast, of).map(Few::from_vec),
            Some(Origin::Array { token, cast }) => source.array(*token, *cast, of).map(Few::from_vec),
            Some(Origin::Row(column)) => source.column(*column, of).map(Few::from_vec),
            Some(Origin::Unnested { arrays, column, cast }) => {
                source.unnested(arrays, *column, *cast, of).inspect(|_| stored = true).map(Few::from_vec)
            }
            Some(Origin::Bool(_)) | None => Err(NoValue::Unread),
        };
        columns.push(values.map_err(|none| no_value(none, &column.name, of))?);
    }
    let mut shards = Few::new();
    let mut add = |key: &[Option<&KeyValue>]| -> Result<(), Refusal> {
        // Nothing equals NULL, but it can be stored.
        if stored || key.iter().all(Option::is_some) {
            shards.push(tables.function.shard(key).ok_or_else(|| Refusal::NoShard(name()))?);
        }
        Ok(())
    };
    match columns.as_slice() {
        [values] => {
            for value in values {
                add(&[value.as_ref()])?;
            }
        }
        columns => {
            let key: Option<Vec<Option<&KeyValue>>> =
                columns.iter().map(|values| values.first().map(Option::as_ref)).collect();
            add(&key.ok_or(Refusal::NotUnderstood)?)?;
        }
    }
    Ok(shards)
}

fn shards_of_rows(
    rows: &Rows,
    values: usize,
    source: Source<'_>,
    schema: &ShardedSchema,
) -> Result<Vec<ShardNumber>, Refusal> {
    let tables = schema.sharded.get(rows.group).ok_or(Refusal::NotUnderstood)?;
    let wanted: Vec<_> =
        rows.key.iter().zip(&tables.key).map(|(at, column)| (*at, column.key_type)).collect();
    let column = tables.key.first().ok_or(Refusal::NotUnderstood)?;
    let read = source.rows(values, rows.columns, &wanted);
    let read = read.map_err(|none| no_value(none, &column.name, column.key_type))?;
    read.iter()
        .map(|key| {
            let key: Vec<_> = key.iter().map(Option::as_ref).collect();
            tables.function.shard(&key).ok_or_else(|| Refusal::NoShard(column.name.clone()))
        })
        .collect()
}

fn no_value(none: NoValue, column: &str, of: crate::shard::KeyType) -> Refusal {
    match none {
        NoValue::Unread => Refusal::Value { column: column.to_owned(), wanted: of.as_str() },
        NoValue::Parameter(number) => Refusal::Parameter(number),
    }
}
