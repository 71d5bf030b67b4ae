//! A batch: client messages up to Query, Sync, Flush or a limit. What it means, and what is sent for it.
//!
//! Two passes over the same bytes: [`find_out`] finds out what the batch does, so that it can
//! be routed; [`ClientSession::build`] writes what the chosen server must get, now that it is known what
//! that server lacks.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, BytesMut};
use smallvec::SmallVec;

use crate::catalog::Resolved;
use crate::pool::{Facts, ServerLease};
use crate::protocol::extended::{self, Bind, Parse, Target as Named};
use crate::protocol::{
    ErrorResponse, FrameError, FrontendTag, Reader, SqlState, TransactionStatus, backend, frame, frontend,
};
use crate::route::Work;
use crate::server::{Definition, Holds, Parsed, decoy_name, is_server_name};
use crate::sql::{
    Effect, Fingerprint, LexOptions, SessionEffects, SetCommand, Statement, TransactionControl, simple_set,
};
use crate::task;

use super::client::ClientSession;
use super::context::SessionContext;
use super::databases::{self, Needed};
use super::error::SessionError;
use super::exchange::{Described, Expect, Failure, Name, Undo};
use super::reading::{self, Reading};
use super::resets::MAY_RESET;
use super::spread::Spread;
use super::sql_names::{NAMES_STATEMENTS, deallocated, is_deallocate_all, names_in};
use super::state::{MAY_COMPOSE, MAY_SET, dotted_names};
use super::statements::ClientStatements;

/// What ended a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchEnd {
    /// A simple query.
    Query,
    /// Sync.
    Sync,
    /// Flush.
    Flush,
    /// A function call.
    FunctionCall,
    /// A limit: the batch goes on.
    Partial,
    /// The client leaves.
    Terminate,
}

/// The first `len` bytes of the client's inbox: whole messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    pub(super) end: BatchEnd,
    pub(super) len: usize,
}

/// What a batch does.
pub(super) struct Plan {
    pub(super) work: Work,
    pub(super) effects: SessionEffects,
    /// What its Parse messages define, in order; `None` where the name is taken.
    pub(super) definitions: SmallVec<[Option<Arc<Definition>>; 2]>,
    /// It only asks about statements: no Bind, no Execute.
    pub(super) only_asks: bool,
    /// Nothing in it needs a server.
    pub(super) is_local: bool,
    /// A message in it makes no sense.
    pub(super) is_malformed: bool,
    pub(super) deallocates_all: bool,
    /// It may begin a transaction that stays open, as far as the text tells.
    pub(super) may_begin: bool,
    /// It begins a transaction (which pool mode statement refuses).
    pub(super) begins: bool,
    /// The last statement in it that calls functions of which nothing is known.
    pub(super) unknown_functions: Option<Fingerprint>,
    /// It may commit a change.
    pub(super) writes: bool,
    /// What its statements mean in this database; empty where reads and writes go to the same node.
    pub(super) resolved: SmallVec<[Arc<Resolved>; 2]>,
    /// What it does to the transaction, if it is one simple query.
    pub(super) control: Option<TransactionControl>,
    /// Its statements.
    pub(super) fingerprints: SmallVec<[Fingerprint; 2]>,
    /// It closes something.
    pub(super) closes: bool,
    /// There should be a catalog, and there is none.
    pub(super) misses_catalog: bool,
    /// It may write what nobody can name.
    pub(super) writes_anything: bool,
    /// Statements it runs.
    pub(super) queries: u64,
    /// It binds or describes a named statement.
    pub(super) uses_named: bool,
    /// Those it executes that the client was told about and does not ask about again: where in the batch their
    /// names are, and what they are.
    pub(super) told: SmallVec<[(Range<usize>, Arc<Definition>); 1]>,
    /// It may set something by which texts are read otherwise.
    pub(super) reads_otherwise: bool,
    /// Behind this many bytes the names of statements may mean something else, and the rest is a batch of its own.
    pub(super) cut: Option<usize>,
    /// It changes the catalog for others.
    pub(super) changes_catalog: bool,
    /// It may set something back to the server's own value.
    pub(super) may_reset: bool,
    /// Something in it may end a transaction.
    pub(super) may_end: bool,
    /// It is a SET, RESET or DISCARD and nothing else, as a simple query.
    pub(super) is_lone_setting: bool,
    /// Something in it may call `nextval`.
    pub(super) sequenced: bool,
    /// It asks for `currval` or `lastval` before anything in it may have called `nextval`.
    pub(super) asks_sequence: bool,
    /// Which messages it has: an octal digit each, in their order, [`OTHER`] for all that may not go to the server as
    /// the client sends it.
    messages: u32,
    /// What only few batches have.
    rare: Option<Box<Rare>>,
}

/// A Parse of the unnamed statement.
const PARSE: u32 = 1;
/// A Bind of that.
const BIND: u32 = 2;
/// A Describe of a portal.
const DESCRIBE: u32 = 3;
const EXECUTE: u32 = 4;
const SYNC: u32 = 5;
const OTHER: u32 = 7;
/// What drivers send for a statement that they do not name, with the question what it gives back and without. No
/// longer batch has these digits alone: those of the last ten messages are kept, and none is zero.
const DESCRIBED: u32 = 0o12345;
const NOT_DESCRIBED: u32 = 0o1245;

/// What only few batches have.
#[derive(Debug)]
pub(super) struct Rare {
    /// The setting that it makes and that the client's other connections have to get, too.
    pub(super) set: Option<SetCommand>,
    /// Names in it that may be those of custom settings.
    pub(super) custom_names: BTreeSet<String>,
    /// Databases that a command in it needs for itself.
    pub(super) databases: Vec<Needed>,
    /// Names of startup settings that it may set back to the server's own value.
    pub(super) resets: Vec<String>,
    /// Statements it uses whose texts were read under other settings than the client has now: where in the batch their
    /// names are, and what they are.
    pub(super) foreign: Vec<(Range<usize>, Arc<Definition>)>,
    /// Statements of the client's that SQL in it names.
    pub(super) named_in_sql: Vec<Vec<u8>>,
    /// The one that it deallocates, if it is a DEALLOCATE alone.
    pub(super) deallocated: Option<Vec<u8>>,
}

impl Rare {
    const NONE: Self = Self {
        set: None,
        custom_names: BTreeSet::new(),
        databases: Vec::new(),
        resets: Vec::new(),
        foreign: Vec::new(),
        named_in_sql: Vec::new(),
        deallocated: None,
    };
}

static NOTHING_RARE: Rare = Rare::NONE;

impl Default for Plan {
    fn default() -> Self {
        Self {
            work: Work::NONE,
            effects: SessionEffects::NONE,
            definitions: SmallVec::new(),
            only_asks: true,
            is_local: true,
            is_malformed: false,
            deallocates_all: false,
            may_begin: false,
            begins: false,
            unknown_functions: None,
            writes: false,
            resolved: SmallVec::new(),
            control: None,
            fingerprints: SmallVec::new(),
            closes: false,
            misses_catalog: false,
            writes_anything: false,
            queries: 0,
            uses_named: false,
            told: SmallVec::new(),
            reads_otherwise: false,
            cut: None,
            changes_catalog: false,
            may_reset: false,
            may_end: false,
            is_lone_setting: false,
            sequenced: false,
            asks_sequence: false,
            messages: 0,
            rare: None,
        }
    }
}

impl Plan {
    /// What the batch in `bytes` does.
    pub(super) fn of(bytes: &[u8], given: Given<'_>) -> Result<Self, SessionError> {
        let mut plan = Self::default();
        find_out(&mut plan, bytes, given)?;
        Ok(plan)
    }

    /// The message that was noted as any other is this one.
    #[inline]
    fn message_is(&mut self, digit: u32) {
        self.messages = self.messages & !7 | digit;
    }

    /// What only few batches have.
    #[inline]
    pub(super) fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(&NOTHING_RARE)
    }

    /// The same, to add to it.
    pub(super) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_with(|| Box::new(Rare::NONE))
    }

    /// The same, if it has any.
    #[inline]
    pub(super) fn rare_if_any(&mut self) -> Option<&mut Rare> {
        self.rare.as_deref_mut()
    }

    fn add(
        &mut self,
        statement: &Statement,
        text: &[u8],
        lex: LexOptions,
        statements: &ClientStatements,
        facts: Option<Facts<'_>>,
    ) {
        if statement.is_ddl {
            // Temporary objects are nobody else's.
            self.changes_catalog |= !statement.session.contains(SessionEffects::TEMP_OBJECT);
            self.rare_mut().databases.extend(databases::named(text, lex));
        }
        if statement.session.intersects(MAY_READ_OTHERWISE) {
            self.reads_otherwise |=
                statement.session.contains(SessionEffects::UNKNOWN_PROCEDURE) || reading::may_change(text);
        }
        let effect = self.add_work(statement, facts);
        self.effects.insert(statement.session);
        let may_call_nextval = statement.may_call_nextval();
        self.asks_sequence |= statement.session.contains(SessionEffects::SEQUENCE_VALUE)
            && !self.sequenced
            && !may_call_nextval;
        self.sequenced |= may_call_nextval;
        self.may_end |= match statement.control {
            Some(TransactionControl::Begin { .. } | TransactionControl::Savepoint) => false,
            Some(_) => true,
            None => {
                statement.effect == Effect::Unknown
                    || (statement.statement_count > 1 && statement.effect >= Effect::Transaction)
            }
        };
        self.begins |= matches!(statement.control, Some(TransactionControl::Begin { .. }));
        self.may_begin |= self.begins
            || statement.effect == Effect::Unknown
            || (statement.statement_count > 1 && statement.effect >= Effect::Transaction);
        if statement.session.intersects(MAY_SET) {
            let names = &mut self.rare_mut().custom_names;
            dotted_names(text, statement.session.intersects(MAY_COMPOSE), names);
        }
        if statement.session.contains(SessionEffects::UNKNOWN_FUNCTION) {
            self.unknown_functions = Some(statement.fingerprint);
        }
        if statement.session.intersects(SessionEffects::DEALLOCATE.union(SessionEffects::DISCARD_ALL)) {
            self.deallocates_all |= is_deallocate_all(text, lex);
        }
        if statement.session.intersects(NAMES_STATEMENTS) {
            let rare = self.rare_mut();
            rare.named_in_sql.extend(names_in(text, lex, |name| statements.find(name).is_some()));
            rare.deallocated = deallocated(text, lex);
        }
        self.writes |= match effect {
            Effect::Empty | Effect::Read => false,
            Effect::Transaction => !matches!(
                statement.control,
                Some(
                    TransactionControl::Begin { .. }
                        | TransactionControl::Commit { .. }
                        | TransactionControl::Rollback { .. }
                        | TransactionControl::Savepoint
                        | TransactionControl::Release
                        | TransactionControl::RollbackTo
                )
            ),
            Effect::Session | Effect::Write | Effect::Unknown => true,
        };
        self.queries += 1;
        if statement.session.intersects(MAY_RESET) {
            self.may_reset = true;
        }
        self.is_local = false;
    }

    /// What it does, by its text and by what is known of the database.
    fn add_work(&mut self, statement: &Statement, facts: Option<Facts<'_>>) -> Effect {
        let Some(facts) = facts else {
            self.work = self.work.and(Work::of(statement));
            return statement.effect;
        };
        let judgment = facts.judge(statement, self.reads_otherwise);
        let effect = judgment.work.effect;
        self.fingerprints.push(statement.fingerprint);
        self.writes_anything |= judgment.writes_anything;
        self.misses_catalog |= judgment.misses_catalog;
        self.work = self.work.and(judgment.work);
        self.resolved.push(judgment.resolved);
        effect
    }

    /// A message whose body makes no sense: the server says in which way, and the session goes on.
    fn add_malformed(&mut self) {
        self.work.effect = Effect::Write;
        self.writes_anything = true;
        self.is_malformed = true;
        self.is_local = false;
        self.only_asks = false;
    }
}

/// What may set something by which texts are read otherwise.
const MAY_READ_OTHERWISE: SessionEffects = SessionEffects::SETTING
    .union(SessionEffects::SETTING_LOCAL)
    .union(SessionEffects::UNKNOWN_PROCEDURE)
    .union(SessionEffects::DISCARD_ALL);

/// What makes or drops statements that the client has named.
const RENAMES_STATEMENTS: SessionEffects =
    SessionEffects::SQL_PREPARE.union(SessionEffects::DEALLOCATE).union(SessionEffects::DISCARD_ALL);

/// Messages that name no statement and end a batch.
const ENDS: [FrontendTag; 2] = [FrontendTag::SYNC, FrontendTag::FLUSH];

/// A Bind of a statement that the client was told about.
struct Told<'a> {
    portal: &'a [u8],
    statement: &'a [u8],
    definition: &'a Arc<Definition>,
    executed: bool,
}

/// A portal of a named statement.
struct Bound<'a> {
    portal: &'a [u8],
    statement: &'a [u8],
    /// Of the statement's definition.
    id: u64,
}

/// What a batch means depends on.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) context: &'a SessionContext,
    pub(super) lex: LexOptions,
    /// The client's.
    pub(super) statements: &'a ClientStatements,
    pub(super) reading: &'a Reading,
    /// Of the catalog.
    pub(super) epoch: u64,
    pub(super) facts: Option<Facts<'a>>,
    /// Bytes a message may have.
    pub(super) limit: usize,
    /// What one of its texts is, where that was looked up already.
    pub(super) analyzed: Option<&'a Analyzed>,
}

/// A text of a batch, and what it is.
#[derive(Debug)]
pub(super) struct Analyzed {
    /// Where in the batch it lies.
    place: Range<usize>,
    statement: Arc<Statement>,
    /// Fingerprint of the very text, of a Parse.
    exact: Option<Fingerprint>,
}

impl Analyzed {
    pub(super) fn new(
        batch: &[u8],
        text: &[u8],
        statement: &Arc<Statement>,
        exact: Option<Fingerprint>,
    ) -> Self {
        Self { place: offset_in(batch, text), statement: Arc::clone(statement), exact }
    }

    /// What `text` is, if it is this one.
    fn find(&self, batch: &[u8], text: &[u8]) -> Option<(Arc<Statement>, Option<Fingerprint>)> {
        (self.place == offset_in(batch, text)).then(|| (Arc::clone(&self.statement), self.exact))
    }
}

/// Finds out what the batch in `bytes` does, and adds it to an empty `plan`: it is too large to be moved for each
/// batch.
pub(super) fn find_out(plan: &mut Plan, bytes: &[u8], given: Given<'_>) -> Result<(), SessionError> {
    let Given { context, lex, statements, reading, epoch, facts, limit, analyzed } = given;
    let mut told: SmallVec<[Told<'_>; 1]> = SmallVec::new();
    // Statements defined in this batch, which later messages of it may use.
    let mut fresh: SmallVec<[(&[u8], Arc<Definition>); 2]> = SmallVec::new();
    // And those closed in it.
    let mut closed: SmallVec<[&[u8]; 2]> = SmallVec::new();
    let mut parsed: SmallVec<[Arc<Definition>; 2]> = SmallVec::new();
    let mut rest = bytes;
    while let Some((header, body, tail)) = frame::split(rest, limit)? {
        rest = tail;
        plan.messages = plan.messages << 3 | OTHER;
        match FrontendTag(header.tag) {
            FrontendTag::QUERY => {
                plan.only_asks = false;
                let Ok(text) = frontend::query_text(body) else {
                    plan.add_malformed();
                    continue;
                };
                let known = analyzed.and_then(|analyzed| analyzed.find(bytes, text));
                let statement =
                    known.map_or_else(|| context.statements.analyze(text, lex), |(statement, _)| statement);
                plan.add(&statement, text, lex, statements, facts);
                plan.control = statement.control;
                plan.is_lone_setting = statement.statement_count == 1
                    && statement.effect == Effect::Session
                    && statement.session.intersects(MAY_RESET);
                if statement.statement_count == 1 && statement.session == SessionEffects::SETTING {
                    plan.rare_mut().set = simple_set(text, lex);
                }
            }
            FrontendTag::PARSE => {
                let Ok(parse) = Parse::read(body) else {
                    plan.definitions.push(None);
                    plan.add_malformed();
                    continue;
                };
                // Made anew behind its deallocation: what is left is looked at on the server.
                if let Some(rare) = plan.rare_if_any() {
                    rare.deallocated = rare.deallocated.take().filter(|name| name != parse.name);
                }
                let taken = !parse.name.is_empty()
                    && ((statements.find(parse.name).is_some() && !closed.contains(&parse.name))
                        || fresh.iter().any(|(name, _)| *name == parse.name));
                if taken {
                    plan.definitions.push(None);
                    plan.is_local = false;
                    continue;
                }
                if parse.name.is_empty() {
                    plan.message_is(PARSE);
                }
                let before = text_before(&parse, statements, lex);
                let definition = match before {
                    Some(before) if stays(before, &parse, reading) => Arc::clone(before),
                    _ => {
                        let known = analyzed
                            .and_then(|analyzed| analyzed.find(bytes, parse.sql))
                            .or_else(|| before.map(|one| (Arc::clone(&one.statement), Some(one.exact))));
                        define(&parse, known, context, lex, reading, epoch)
                    }
                };
                if definition.statement.session.intersects(NAMES_STATEMENTS) {
                    // It cannot be described without the statements that it names.
                    let named = names_in(parse.sql, lex, |name| statements.find(name).is_some());
                    plan.rare_mut().named_in_sql.extend(named);
                }
                plan.is_local &= !parse.name.is_empty()
                    && parse.name.is_ascii()
                    && definition.is_valid.load(Ordering::Acquire);
                fresh.retain(|(name, _)| *name != parse.name);
                fresh.push((parse.name, Arc::clone(&definition)));
                parsed.push(Arc::clone(&definition));
                plan.definitions.push(Some(definition));
            }
            FrontendTag::BIND => {
                let Ok(bind) = Bind::read(body) else {
                    plan.add_malformed();
                    continue;
                };
                let known =
                    fresh.iter().find(|(name, _)| *name == bind.statement).map(|(_, definition)| definition);
                let old = match known {
                    None if !closed.contains(&bind.statement) => statements.find_told(bind.statement),
                    _ => None,
                };
                // What names other statements can only be prepared once those are there.
                if let Some((definition, was_told)) = old
                    && !definition.statement.session.intersects(NAMES_STATEMENTS)
                {
                    if was_told {
                        told.push(Told {
                            portal: bind.portal,
                            statement: bind.statement,
                            definition,
                            executed: false,
                        });
                    }
                    if !bind.statement.is_empty() && !reading.is_the_same(&definition.reading) {
                        plan.rare_mut()
                            .foreign
                            .push((offset_in(bytes, bind.statement), Arc::clone(definition)));
                    }
                }
                if let Some(definition) = known.or(old.map(|(definition, _)| definition)) {
                    plan.add(&definition.statement, &definition.sql, lex, statements, facts);
                    if definition.statement.session.intersects(MAY_SET) {
                        // The name of a setting may be a parameter.
                        dotted_names(bind.rest, false, &mut plan.rare_mut().custom_names);
                        plan.reads_otherwise |= reading::may_change(bind.rest);
                    }
                } else {
                    // A statement of SQL's PREPARE, if it is one at all: it may do anything.
                    plan.effects.insert(SessionEffects::SQL_EXECUTE);
                    plan.work.effect = plan.work.effect.max(Effect::Unknown);
                    plan.writes = true;
                    plan.writes_anything = true;
                    plan.sequenced = true;
                }
                if bind.statement.is_empty() {
                    plan.message_is(BIND);
                }
                plan.uses_named |= !bind.statement.is_empty() || !told.is_empty();
                plan.is_local = false;
                plan.only_asks = false;
            }
            FrontendTag::DESCRIBE => {
                let Ok((target, name)) = extended::target(body) else {
                    plan.add_malformed();
                    continue;
                };
                if target == Named::Portal {
                    plan.message_is(DESCRIBE);
                }
                plan.is_local = false;
                plan.only_asks &= target == Named::Statement;
                plan.uses_named |= target == Named::Statement && !name.is_empty();
                // Whoever asks is told, for what comes behind.
                told.retain(|told| {
                    let asked = if target == Named::Portal { told.portal } else { told.statement };
                    told.executed || asked != name
                });
                if target == Named::Statement
                    && let Some(definition) = statements.find(name)
                {
                    if !name.is_empty() && !reading.is_the_same(&definition.reading) {
                        plan.rare_mut().foreign.push((offset_in(bytes, name), Arc::clone(definition)));
                    }
                    parsed.push(Arc::clone(definition));
                }
            }
            FrontendTag::CLOSE => {
                plan.closes = true;
                let Ok((target, name)) = extended::target(body) else {
                    plan.add_malformed();
                    continue;
                };
                if target == Named::Portal {
                    plan.is_local = false;
                    plan.only_asks = false;
                } else {
                    fresh.retain(|(known, _)| *known != name);
                    closed.push(name);
                    plan.is_local &= name.is_ascii();
                    if statements.find(name).is_none() {
                        // Perhaps one of SQL's PREPARE, which pins.
                        plan.effects.insert(SessionEffects::DEALLOCATE);
                    }
                }
            }
            FrontendTag::SYNC if body.is_empty() => plan.message_is(SYNC),
            FrontendTag::FLUSH if body.is_empty() => {}
            FrontendTag::SYNC | FrontendTag::FLUSH => plan.add_malformed(),
            FrontendTag::FUNCTION_CALL => {
                plan.work.effect = Effect::Write;
                plan.writes = true;
                plan.writes_anything = true;
                plan.effects.insert(SessionEffects::UNKNOWN_PROCEDURE);
                plan.is_local = false;
                plan.only_asks = false;
                plan.queries += 1;
            }
            tag => {
                let renames = tag == FrontendTag::EXECUTE && plan.effects.intersects(RENAMES_STATEMENTS);
                if renames && tail.first().is_some_and(|next| !ENDS.contains(&FrontendTag(*next))) {
                    plan.cut = Some(bytes.len() - tail.len());
                    return Ok(());
                }
                if tag == FrontendTag::EXECUTE {
                    plan.message_is(EXECUTE);
                }
                if tag == FrontendTag::EXECUTE && !told.is_empty() {
                    // One without a portal's name fails on the server.
                    let portal = Reader::new(body).cstr().unwrap_or_default();
                    told.iter_mut()
                        .filter(|told| told.portal == portal)
                        .for_each(|told| told.executed = true);
                }
                plan.is_local = false;
                plan.only_asks = false;
            }
        }
    }
    plan.told
        .extend(told.into_iter().map(|told| (offset_in(bytes, told.statement), Arc::clone(told.definition))));
    if plan.only_asks {
        // Nothing runs; what is asked about decides, so that the asking sees what the running would.
        for definition in parsed {
            plan.add_work(&definition.statement, facts);
        }
        plan.work.begins_read_only = false;
    }
    Ok(())
}

/// The unnamed statement of before, if this one has the same text: many clients send the same ones.
fn text_before<'a>(
    parse: &Parse<'_>,
    statements: &'a ClientStatements,
    lex: LexOptions,
) -> Option<&'a Arc<Definition>> {
    let before = statements.find(b"").filter(|_| parse.name.is_empty())?;
    (before.lex == lex && *before.sql == *parse.sql).then_some(before)
}

/// Whether that is the same statement, too. Not where a server connection still has it: it would be taken for the
/// present one there, and may have been parsed before something changed.
fn stays(before: &Arc<Definition>, parse: &Parse<'_>, reading: &Reading) -> bool {
    *before.types == *parse.types
        && before.reading.is_same(reading.of(parse.sql).0)
        && Arc::strong_count(before) == 1
}

/// Where `part` lies in `whole`, of which it is a part.
fn offset_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    start..start + part.len()
}

fn define(
    parse: &Parse<'_>,
    known: Option<(Arc<Statement>, Option<Fingerprint>)>,
    context: &SessionContext,
    lex: LexOptions,
    reading: &Reading,
    epoch: u64,
) -> Arc<Definition> {
    let (known, exact) = known.unzip();
    let exact = exact.flatten().unwrap_or_else(|| context.statements.exact(parse.sql, lex));
    let statement = &known.unwrap_or_else(|| context.statements.analyze_known(exact, parse.sql, lex));
    let (settings, scope) = reading.of(parse.sql);
    let parsed = Parsed { sql: parse.sql, types: parse.types, statement, lex, exact, reading: settings };
    if parse.name.is_empty() {
        context.definitions.unnamed(parsed)
    } else if statement.session.intersects(NAMES_STATEMENTS) {
        // It means something else to each client.
        context.definitions.unshared(parsed)
    } else {
        context.definitions.intern(parsed, scope, epoch)
    }
}

impl ClientSession {
    /// Runs a batch that needs no server: only Sync, Flush, Close of statements and Parse of statements
    /// that a server has parsed for somebody else, with no server connection held.
    pub(super) fn run_locally(&mut self, batch: Batch, plan: &mut Plan) -> Result<(), SessionError> {
        let mut definitions = plan.definitions.iter_mut();
        let bytes = self.wire.inbox.split_to(batch.len);
        let mut rest = &bytes[..];
        while let Some((header, body, tail)) = frame::split(rest, usize::MAX)? {
            rest = tail;
            match FrontendTag(header.tag) {
                FrontendTag::PARSE => {
                    let parse = Parse::read(body)?;
                    self.statements.set(parse.name, definitions.next().and_then(Option::take));
                    backend::bare(&mut self.wire.outbox, crate::protocol::BackendTag::PARSE_COMPLETE);
                }
                FrontendTag::CLOSE => {
                    let (_, name) = extended::target(body)?;
                    self.statements.set(name, None);
                    backend::bare(&mut self.wire.outbox, crate::protocol::BackendTag::CLOSE_COMPLETE);
                }
                FrontendTag::SYNC => {
                    backend::ready_for_query(&mut self.wire.outbox, TransactionStatus::Idle);
                    self.awaiting_sync = false;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// After an error: everything up to the Sync is skipped, as the server does.
    pub(super) async fn skip(&mut self, batch: Batch) -> Result<(), SessionError> {
        if batch.end != BatchEnd::Sync {
            self.consume(batch);
            return Ok(());
        }
        let bytes = self.wire.inbox.get(..batch.len).unwrap_or_default();
        let sync = Batch { end: BatchEnd::Sync, len: last_message_len(bytes)? };
        self.consume(Batch { end: BatchEnd::Partial, len: batch.len - sync.len });
        self.exchange.skipping = false;
        match self.lease.take() {
            None => {
                self.awaiting_sync = false;
                if sync.len > frame::HEADER_LEN {
                    // The skipping ends before the Sync is read: what is wrong with it is an error of its own.
                    return task::boxed(|| self.run_batch(sync)).await;
                }
                self.consume(sync);
                let status = self.spread().map_or(TransactionStatus::Idle, Spread::status);
                backend::ready_for_query(&mut self.wire.outbox, status);
                Ok(())
            }
            Some(mut lease) => {
                // The server skips, too, and is told where to stop.
                lease.wire.outbox.extend_from_slice(&self.wire.inbox.split_to(sync.len));
                self.exchange.push(Expect::Sync);
                self.exchange_with(lease).await
            }
        }
    }

    /// Drops a batch from the inbox.
    pub(super) fn consume(&mut self, batch: Batch) {
        self.wire.inbox.advance(batch.len);
    }

    /// Prepares what is sent to the server for a batch, and what is expected back.
    pub(super) fn build(
        &mut self,
        lease: &mut ServerLease,
        batch: Batch,
        plan: &mut Plan,
    ) -> Result<(), SessionError> {
        self.retry.taken();
        self.sync_settings(lease, plan.is_lone_setting);
        self.lend_channels(lease);
        if !plan.rare().named_in_sql.is_empty() {
            self.materialize(lease, &plan.rare().named_in_sql, plan.rare().deallocated.as_deref());
        }
        if batch.end == BatchEnd::Query
            && plan.rare().resets.is_empty()
            && is_one_query(batch, &self.wire.inbox)
        {
            let body = self.wire.inbox.get(frame::HEADER_LEN..batch.len).unwrap_or_default();
            let is_read = self.is_read(body);
            self.expect_query(lease, is_read);
            self.send_as_is(lease, batch.len);
            return Ok(());
        }
        if batch.end == BatchEnd::Sync
            && matches!(plan.messages, DESCRIBED | NOT_DESCRIBED)
            && plan.rare().resets.is_empty()
            && let Some(definition) = plan.definitions.pop().flatten()
        {
            self.build_unnamed(lease, definition, plan.messages == DESCRIBED);
            self.send_as_is(lease, batch.len);
            return Ok(());
        }
        // The inbox is lent to the loop and given back; what is in front of it is consumed.
        let mut inbox = std::mem::take(&mut self.wire.inbox);
        let result = self.build_extended(lease, inbox.get(..batch.len).unwrap_or_default(), plan, batch);
        inbox.advance(batch.len);
        self.wire.inbox = inbox;
        self.restore_startup(lease, batch, &plan.rare().resets);
        result
    }

    /// What [`Self::build_extended`] would do for the unnamed statement in a batch that it would not change.
    fn build_unnamed(&mut self, lease: &mut ServerLease, definition: Arc<Definition>, is_described: bool) {
        self.evict(lease);
        let stats = &lease.pool().stats;
        stats.add(|stats| &stats.client_parses, 1);
        stats.add(|stats| &stats.server_parses, 1);
        stats.add(|stats| &stats.binds, 1);
        let undo = self.statements.set(b"", Some(Arc::clone(&definition)));
        lease.unnamed = Some(definition);
        self.exchange.push(Expect::Parse { visible: true, definition: None, undo });
        self.exchange.push(Expect::Bind(Name::new()));
        if is_described {
            self.exchange.push(Expect::DescribePortal(None));
        }
        self.exchange.push(Expect::Execute);
        self.exchange.push(Expect::Sync);
    }

    /// A Query drops the unnamed statement as soon as it `is_read`.
    fn expect_query(&mut self, lease: &mut ServerLease, is_read: bool) {
        lease.unnamed = None;
        let undo = if is_read { self.statements.set(b"", None) } else { Undo::Nothing };
        self.exchange.push(Expect::Query(undo));
    }

    /// Whether a server can read the text of this Query. Looked at only where it makes a difference.
    fn is_read(&self, body: &[u8]) -> bool {
        self.statements.find(b"").is_none()
            || frontend::query_text(body).is_ok_and(|text| self.is_readable(text))
    }

    /// Whether a server can make characters of this text. In other encodings than UTF-8 only the server knows, and
    /// nearly all texts are readable.
    pub(super) fn is_readable(&self, text: &[u8]) -> bool {
        !self.speaks_utf8() || std::str::from_utf8(text).is_ok()
    }

    /// The first `len` bytes of the inbox go to the server untouched: without a copy, unless something
    /// small goes out in front of them and one write is cheaper than two.
    fn send_as_is(&mut self, lease: &mut ServerLease, len: usize) {
        const COPY_BELOW: usize = 16 * 1024;
        if !lease.wire.outbox.is_empty() && len < COPY_BELOW {
            lease.wire.outbox.extend_from_slice(self.wire.inbox.get(..len).unwrap_or_default());
            self.wire.inbox.advance(len);
        } else {
            self.send_from_inbox = len;
        }
    }

    pub(super) fn build_extended(
        &mut self,
        lease: &mut ServerLease,
        bytes: &[u8],
        plan: &mut Plan,
        batch: Batch,
    ) -> Result<(), SessionError> {
        lease.wire.lend_outbox();
        self.evict(lease);
        // Portals of named statements, as far as this batch tells.
        let mut bound: SmallVec<[Bound<'_>; 2]> = SmallVec::new();
        let mut definitions = plan.definitions.iter_mut();
        let mut rest = bytes;
        while let Some((header, body, tail)) = frame::split(rest, usize::MAX)? {
            let whole = rest.get(..header.total_len).unwrap_or_default();
            rest = tail;
            match FrontendTag(header.tag) {
                FrontendTag::PARSE => {
                    let definition = definitions.next().and_then(Option::take);
                    match Parse::read(body) {
                        Ok(parse) => self.build_parse(lease, whole, &parse, definition),
                        Err(_) => self.build_malformed(lease, whole),
                    }
                }
                FrontendTag::BIND => match Bind::read(body) {
                    Ok(bind) => {
                        bound.retain(|bound| bound.portal != bind.portal);
                        bound.extend(self.build_bind(lease, whole, &bind));
                    }
                    Err(_) => self.build_malformed(lease, whole),
                },
                FrontendTag::DESCRIBE | FrontendTag::CLOSE => match extended::target(body) {
                    Ok(named) if header.tag == FrontendTag::DESCRIBE.0 => {
                        self.build_describe(lease, whole, named, &bound);
                    }
                    Ok(named) => self.build_close(lease, whole, named),
                    Err(_) => self.build_malformed(lease, whole),
                },
                FrontendTag::FLUSH if !body.is_empty() => self.build_malformed(lease, whole),
                FrontendTag::QUERY => {
                    lease.wire.outbox.extend_from_slice(whole);
                    let is_read = self.is_read(body);
                    self.expect_query(lease, is_read);
                }
                tag => {
                    let expect = match tag {
                        FrontendTag::EXECUTE => Expect::Execute,
                        FrontendTag::SYNC => Expect::Sync,
                        FrontendTag::FUNCTION_CALL => Expect::FunctionCall,
                        // Flush: ours or theirs is added below.
                        _ => continue,
                    };
                    lease.wire.outbox.extend_from_slice(whole);
                    self.exchange.push(expect);
                }
            }
        }
        let unsynced = matches!(batch.end, BatchEnd::Flush | BatchEnd::Partial);
        let held = self.awaiting_sync || lease.status != TransactionStatus::Idle;
        if unsynced && plan.only_asks && !held {
            // Nothing runs, so a Sync of our own changes nothing but lets the server connection go while
            // the client thinks.
            frontend::sync(&mut lease.wire.outbox);
            self.exchange.push(Expect::OwnSync);
        } else if unsynced {
            frontend::flush(&mut lease.wire.outbox);
            self.awaiting_sync = true;
        }
        self.exchange.settle();
        lease.show_prepared();
        let count = u32::try_from(self.statements.len()).unwrap_or(u32::MAX);
        self.handle().prepared_statements.store(count, Ordering::Relaxed);
        Ok(())
    }

    fn build_parse(
        &mut self,
        lease: &mut ServerLease,
        whole: &[u8],
        parse: &Parse<'_>,
        definition: Option<Arc<Definition>>,
    ) {
        lease.pool().stats.add(|stats| &stats.client_parses, 1);
        let Some(definition) = definition else {
            self.parse_taken(lease, parse);
            return;
        };
        let definition = if self.reads_otherwise && !parse.name.is_empty() {
            // Under settings that nobody else knows: it is not for others.
            self.context.definitions.unshared(Parsed {
                sql: parse.sql,
                types: parse.types,
                statement: &definition.statement,
                lex: definition.lex,
                exact: definition.exact,
                reading: &definition.reading,
            })
        } else {
            definition
        };
        let failed = lease.status == TransactionStatus::Failed;
        if !parse.name.is_empty() && (failed || self.may_have_sql_statements()) {
            // SQL's PREPARE may have taken the name, or the transaction has failed: the server knows.
            self.parse_by_own_name(lease, parse, definition);
            return;
        }
        let limits = &self.topology.config.limits;
        let limit_bytes = limits.prepared_statement_bytes_per_client;
        if !parse.name.is_empty() && self.statements.bytes() + parse.sql.len() > limit_bytes {
            let error = ErrorResponse::error(
                SqlState::CONFIGURATION_LIMIT_EXCEEDED,
                format!("prepared statements take too much memory: the limit is {limit_bytes} bytes for each client"),
            )
            .hint("Deallocate statements, or raise limits.prepared_statement_memory_per_client in pooler.yaml.");
            self.fail_on_server(lease, error);
            return;
        }
        let limit = limits.prepared_statements_per_client;
        if !parse.name.is_empty() && self.statements.len() >= limit {
            let error = ErrorResponse::error(
                SqlState::CONFIGURATION_LIMIT_EXCEEDED,
                format!("too many prepared statements: the limit is {limit} for each client"),
            )
            .hint("Deallocate statements, or raise limits.prepared_statements_per_client in pooler.yaml.");
            self.fail_on_server(lease, error);
            return;
        }
        if !parse.name.is_ascii() {
            // Whether such a name makes sense, the server says.
            extended::close_statement(&mut lease.wire.outbox, parse.name);
            self.exchange.push(Expect::OwnDrop);
        }
        let undo = self.statements.set(parse.name, Some(Arc::clone(&definition)));
        if parse.name.is_empty() {
            lease.wire.outbox.extend_from_slice(whole);
            lease.unnamed = Some(definition);
            self.exchange.push(Expect::Parse { visible: true, definition: None, undo });
        } else if self.has_current(lease, &definition) {
            self.exchange.push(Expect::InjectParse(undo));
            return;
        } else {
            parse.write(&mut lease.wire.outbox, definition.server_name.as_bytes());
            self.exchange.push(Expect::Parse {
                visible: true,
                definition: Some(Arc::clone(&definition)),
                undo,
            });
            lease.prepared.insert(definition, self.catalog_epoch);
        }
        lease.pool().stats.add(|stats| &stats.server_parses, 1);
    }

    /// A Parse for a name that the client has in use: the server is asked to parse the text under the name of a
    /// statement that it has, so that whatever is wrong comes in its own words and order.
    fn parse_taken(&mut self, lease: &mut ServerLease, parse: &Parse<'_>) {
        let own = lease.client_names.iter().any(|known| **known == *parse.name);
        if own || self.statements.find(parse.name).is_none() {
            // It is there under the client's own name, unless SQL deallocates it first.
            let definition = define(parse, None, &self.context, self.lex, &self.reading, self.catalog_epoch);
            self.parse_by_own_name(lease, parse, definition);
            return;
        }
        let decoy = decoy_name();
        if !std::mem::replace(&mut lease.prepared.has_decoy, true) {
            Parse { name: decoy.as_bytes(), sql: b"", types: b"\0\0" }
                .write(&mut lease.wire.outbox, decoy.as_bytes());
            self.exchange.push(Expect::Decoy);
        }
        parse.write(&mut lease.wire.outbox, decoy.as_bytes());
        self.exchange.push(Expect::Taken(Name::from_slice(parse.name)));
    }

    /// A Bind or Describe for a statement that is none of the client's: one of SQL's PREPARE, or the server says
    /// that there is none.
    fn build_unknown(&mut self, lease: &mut ServerLease, whole: &[u8], name: &[u8], expect: Expect) {
        if name.is_empty() {
            // The server's is somebody else's.
            extended::close_statement(&mut lease.wire.outbox, b"");
            self.exchange.push(Expect::OwnDrop);
            lease.unnamed = None;
        } else if is_server_name(name) {
            let message = format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name));
            self.fail_on_server(lease, ErrorResponse::error(SqlState::INVALID_STATEMENT_NAME, message));
            return;
        }
        lease.wire.outbox.extend_from_slice(whole);
        self.exchange.push(expect);
    }

    /// Whether the server has a statement of ours. One that was prepared before the catalog changed is closed: its
    /// plan may be stale, and whoever has prepared it since must not hear of that.
    fn has_current(&mut self, lease: &mut ServerLease, definition: &Arc<Definition>) -> bool {
        match lease.prepared.touch(definition.id, self.catalog_epoch) {
            Holds::Nothing => false,
            Holds::Current => true,
            Holds::Older => {
                extended::close_statement(&mut lease.wire.outbox, definition.server_name.as_bytes());
                self.exchange.push(Expect::OwnClose(Arc::clone(definition)));
                false
            }
        }
    }

    /// A Parse under the client's own name, on a connection where SQL's PREPARE may have used it.
    fn parse_by_own_name(&mut self, lease: &mut ServerLease, parse: &Parse<'_>, definition: Arc<Definition>) {
        parse.write(&mut lease.wire.outbox, parse.name);
        let added = !lease.client_names.iter().any(|known| **known == *parse.name);
        if added {
            lease.client_names.push(parse.name.into());
        }
        let undo = self.statements.set(parse.name, Some(definition));
        self.exchange.push(Expect::ParseByName { added, undo });
        lease.pool().stats.add(|stats| &stats.server_parses, 1);
    }

    /// Makes sure that the server has a statement of the client's, under a name that is returned.
    fn ensure_prepared(&mut self, lease: &mut ServerLease, definition: &Arc<Definition>, named: bool) {
        let write = |out: &mut BytesMut, name: &[u8]| {
            Parse { name, sql: &definition.sql, types: &definition.types }.write(out, name);
        };
        if named {
            if self.has_current(lease, definition) {
                return;
            }
            write(&mut lease.wire.outbox, definition.server_name.as_bytes());
            lease.prepared.insert(Arc::clone(definition), self.catalog_epoch);
            if self.reads_otherwise {
                lease.prepared.taint(definition.id);
            }
        } else {
            if lease.unnamed.as_ref().is_some_and(|held| Arc::ptr_eq(held, definition)) {
                return;
            }
            write(&mut lease.wire.outbox, b"");
            lease.unnamed = Some(Arc::clone(definition));
        }
        let definition = named.then(|| Arc::clone(definition));
        self.exchange.push(Expect::Parse { visible: false, definition, undo: Undo::Nothing });
        lease.pool().stats.add(|stats| &stats.server_parses, 1);
    }

    /// Answers which portal of which named statement it makes.
    fn build_bind<'a>(
        &mut self,
        lease: &mut ServerLease,
        whole: &[u8],
        bind: &Bind<'a>,
    ) -> Option<Bound<'a>> {
        lease.pool().stats.add(|stats| &stats.binds, 1);
        let Some(definition) = self.statements.find(bind.statement).map(Arc::clone) else {
            let expect = Expect::Bind(Name::from_slice(bind.statement));
            self.build_unknown(lease, whole, bind.statement, expect);
            return None;
        };
        let named = !bind.statement.is_empty();
        self.ensure_prepared(lease, &definition, named);
        if named {
            bind.write(&mut lease.wire.outbox, definition.server_name.as_bytes());
        } else {
            lease.wire.outbox.extend_from_slice(whole);
        }
        self.exchange.push(Expect::Bind(Name::from_slice(bind.statement)));
        named.then_some(Bound { portal: bind.portal, statement: bind.statement, id: definition.id })
    }

    fn build_describe(
        &mut self,
        lease: &mut ServerLease,
        whole: &[u8],
        (target, name): (Named, &[u8]),
        bound: &[Bound<'_>],
    ) {
        if target == Named::Portal {
            lease.wire.outbox.extend_from_slice(whole);
            let described = bound
                .iter()
                .find(|bound| bound.portal == name)
                .map(|bound| Described { name: Name::from_slice(bound.statement), id: bound.id });
            self.exchange.push(Expect::DescribePortal(described));
            return;
        }
        let Some(definition) = self.statements.find(name).map(Arc::clone) else {
            self.build_unknown(lease, whole, name, Expect::DescribeStatement(None));
            return;
        };
        let named = !name.is_empty();
        self.ensure_prepared(lease, &definition, named);
        let server_name = if named { definition.server_name.as_bytes() } else { b"" };
        extended::describe_statement(&mut lease.wire.outbox, server_name);
        let described = Described { name: Name::from_slice(name), id: definition.id };
        self.exchange.push(Expect::DescribeStatement(Some(described)));
    }

    fn build_close(&mut self, lease: &mut ServerLease, whole: &[u8], (target, name): (Named, &[u8])) {
        let sql = self.statements.find(name).is_none() && self.may_have_sql_statements();
        let statement = target == Named::Statement;
        let own = statement && lease.client_names.iter().any(|known| **known == *name);
        // Whether other characters than ASCII make sense, the server says.
        if !statement || sql || own || !name.is_ascii() {
            lease.wire.outbox.extend_from_slice(whole);
            let undo = if statement { self.statements.set(name, None) } else { Undo::Nothing };
            self.exchange.push(Expect::Close(undo));
        } else {
            // The server keeps it for others; it leaves when it is the least recently used.
            let undo = self.statements.set(name, None);
            self.exchange.push(Expect::InjectClose(undo));
        }
    }

    /// The server fails at it, in its own words. Names in it are the client's, but it is not read that far.
    fn build_malformed(&mut self, lease: &mut ServerLease, whole: &[u8]) {
        lease.wire.outbox.extend_from_slice(whole);
        self.exchange.push(Expect::Malformed);
    }

    /// Makes the server fail here, so that its transaction fails and the rest of the batch is skipped, and
    /// words the error ourselves.
    fn fail_on_server(&mut self, lease: &mut ServerLease, error: impl Into<Failure>) {
        // No statement of ours has this name, and a client's names never reach a server.
        extended::describe_statement(&mut lease.wire.outbox, b"pgweir: no such statement");
        self.exchange.push(Expect::Fail(Box::new(error.into())));
    }

    /// As [`Self::fail_batch`], with an error as a server sends it.
    pub(super) fn fail_batch_raw(&mut self, lease: &mut ServerLease, batch: Batch, error: Vec<u8>) {
        self.fail_batch(lease, batch, Failure::Raw(error));
    }

    /// Makes a whole batch fail with an error of ours, as if its first statement had.
    pub(super) fn fail_batch(&mut self, lease: &mut ServerLease, batch: Batch, error: impl Into<Failure>) {
        self.fail_on_server(lease, error);
        if matches!(batch.end, BatchEnd::Flush | BatchEnd::Partial) {
            frontend::flush(&mut lease.wire.outbox);
            self.awaiting_sync = true;
        } else {
            frontend::sync(&mut lease.wire.outbox);
            self.exchange.push(Expect::Sync);
        }
        self.consume(batch);
    }

    /// Closes the statements that are over the limit on this server.
    fn evict(&mut self, lease: &mut ServerLease) {
        if !lease.prepared.has_grown() {
            return;
        }
        let settings = lease.pool().settings();
        let (count, bytes) = (settings.prepared_statements, settings.prepared_statement_bytes);
        let now = lease.prepared.clock();
        for definition in lease.prepared.evict(count, bytes, now) {
            extended::close_statement(&mut lease.wire.outbox, definition.server_name.as_bytes());
            self.exchange.push(Expect::OwnClose(definition));
        }
        lease.show_prepared();
    }
}

/// The length of the last of these messages.
fn last_message_len(bytes: &[u8]) -> Result<usize, FrameError> {
    let mut len = 0;
    let mut rest = bytes;
    while let Some((header, _, tail)) = frame::split(rest, usize::MAX)? {
        len = header.total_len;
        rest = tail;
    }
    Ok(len)
}

/// Whether the one message of the batch is plain ASCII. What is not, also in a comment, may make no sense in the
/// client's encoding: only the server knows.
pub(super) fn is_ascii(batch: Batch, inbox: &[u8]) -> bool {
    inbox.get(frame::HEADER_LEN..batch.len).is_some_and(<[u8]>::is_ascii)
}

/// Whether the batch is one Query and nothing else.
pub(super) fn is_one_query(batch: Batch, inbox: &[u8]) -> bool {
    matches!(frame::peek(inbox, usize::MAX), Ok(Some(header))
        if header.total_len == batch.len && header.tag == FrontendTag::QUERY.0)
}
