//! The client of a sharded database: which shard a batch belongs to, and where its session is meanwhile.
//!
//! A session is on one shard at a time: `database`, `pools` and what it knows of its own writes are that shard's,
//! so everything behind works as in a database that is not sharded. Between transactions it goes wherever the next
//! batch belongs.
//!
//! A transaction belongs to the shard of its first statement with a key. What came before (savepoints, settings,
//! reads of tables that are everywhere) has run somewhere, and is repeated on the right shard if that was another:
//! under READ COMMITTED nobody can tell. What cannot be repeated keeps the transaction where it is, and a statement
//! for another shard is refused.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::pool::{DatabaseEntry, Pool, ServerLease, ShardSet};
use crate::protocol::extended::{Bind, Parse};
use crate::protocol::frame::HEADER_LEN;
use crate::protocol::parameters::Parameters as Told;
use crate::protocol::{ErrorResponse, FrontendTag, Reader, SqlState, TransactionStatus, frame, frontend};
use crate::route::Target;
use crate::server::{Definition, Settings};
use crate::shard::ShardNumber;
use crate::sql::{
    Collected, CopyFrom, Destination, Divided, Effect, Fill, Fingerprint, Hint, Kind, LexOptions,
    ParameterValue, Parameters, Refusal, Scanner, SessionEffects, Split, Statement, TransactionControl,
};

use super::batch::{Analyzed, Batch};
use super::begin::Begun;
use super::client::ClientSession;
use super::error::SessionError;
use super::freshness::LastWrite;
use super::leading::reads_committed;
use super::spread::Spread;

/// Statements that a transaction may have repeated on another shard, at most.
const REPEATED_MAX: usize = 100;

/// Where the session is.
#[derive(Debug)]
pub(super) struct Sharded {
    pub(super) set: Arc<ShardSet>,
    /// The shard that it is on.
    pub(super) current: ShardNumber,
    /// What it has on the others.
    parked: Vec<Parked>,
    pub(super) transaction: Transaction,
    /// The transaction, while it is on all shards.
    pub(super) spread: Option<Box<Spread>>,
    /// The present batch.
    pub(super) facts: BatchFacts,
    /// What it leaves to defaults, in tables that are everywhere.
    pub(super) fills: Vec<Fill>,
    /// What its Query is.
    pub(super) analyzed: Option<Analyzed>,
    /// The shard that its settings choose, and the settings that say so.
    wish: (Settings, Result<Option<ShardNumber>, Refusal>),
}

/// What a session has on a shard that it is not on.
#[derive(Debug, Default)]
struct Parked {
    pools: Vec<Option<Arc<Pool>>>,
    last_write: LastWrite,
    last_reader: Option<(usize, u32)>,
}

/// The open transaction.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// How it began, if that can be repeated.
    pub(super) begun: Option<Begun>,
    /// What it has set and marked so far: simple queries.
    pub(super) repeatable: Vec<Bytes>,
    /// The last of that, whose outcome is not known yet.
    pending: SmallVec<[Bytes; 1]>,
    /// Some statement of it belongs to its shard.
    is_bound: bool,
    /// It has done what cannot be repeated.
    is_opaque: bool,
    /// It has read.
    has_read: bool,
    /// What it has read tells where and when it was.
    tells: bool,
    /// Cursors that it has declared, and where.
    cursors: Vec<(String, ShardNumber)>,
    /// What it has chosen by a setting of its own.
    chosen: Option<Chosen>,
}

/// What a setting chooses: a shard, or none.
#[derive(Clone, Copy, Debug)]
struct Chosen(Option<ShardNumber>);

/// What the statements of a batch are, together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BatchFacts {
    /// Strings that it runs.
    pub(super) statements: usize,
    /// Statements in them.
    pub(super) count: u32,
    /// What the last of them does to the transaction.
    pub(super) control: Option<TransactionControl>,
    pub(super) effects: SessionEffects,
    /// Something in it begins or ends a transaction, or marks one.
    pub(super) controls: bool,
    /// One that PostgreSQL runs outside of transactions only.
    pub(super) is_alone: bool,
}

/// Where a batch belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// Any shard gives the same answer.
    Any,
    One(ShardNumber),
    /// All of them must run it.
    All,
    /// Its rows belong to several.
    Rows(Box<Split>),
    /// So do those that the client will send.
    Copy(Box<CopyFrom>),
    /// In a box: what is moved for each statement is small.
    Refused(Box<Refusal>),
}

impl Placement {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Refused(refusal), _) | (_, Self::Refused(refusal)) => Self::Refused(refusal),
            (Self::Any, place) | (place, Self::Any) => place,
            (a, b) if a == b => a,
            (Self::One(_) | Self::Rows(_), Self::One(_) | Self::Rows(_)) => {
                Self::refused(Refusal::SeveralShards)
            }
            _ => Self::refused(Refusal::Mixed("a batch of several statements".to_owned())),
        }
    }

    fn refused(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// What becomes of a batch.
pub(super) enum Placed {
    /// The session is on its shard.
    Here,
    /// Its shard is another one, which the transaction may move to.
    Elsewhere(ShardNumber),
    /// It is for all shards, or its transaction is on all of them.
    Everywhere(Placement),
    /// It is refused.
    Refused(Box<ErrorResponse>),
}

impl Transaction {
    /// Forgets the last one. In place: most transactions have nothing to forget.
    fn forget(&mut self) {
        let Self { begun, repeatable, pending, is_bound, is_opaque, has_read, tells, cursors, chosen } = self;
        (*begun, *chosen) = (None, None);
        repeatable.clear();
        pending.clear();
        cursors.clear();
        (*is_bound, *is_opaque, *has_read, *tells) = (false, false, false, false);
    }

    /// Whether it can begin on other shards as it has begun here.
    fn may_spread(&self) -> bool {
        self.begun.is_some() && !self.is_opaque
    }
}

/// What a session takes along into another configuration.
#[derive(Debug)]
pub(super) struct Left {
    sharded: Option<Box<Sharded>>,
    /// What it knew of where it has been.
    seen: Vec<(Arc<DatabaseEntry>, Parked)>,
}

impl Left {
    /// What it knows of a database of the new configuration. Positions mean something only where they were made: if
    /// that is another place now, as far as its primary is will do.
    fn seen_of(&mut self, entry: &DatabaseEntry) -> Parked {
        let is_same = |before: &DatabaseEntry| {
            before.shard == entry.shard && Arc::ptr_eq(&before.cluster.leadership, &entry.cluster.leadership)
        };
        let mut known = Parked::default();
        if let Some((_, seen)) = self.seen.iter_mut().find(|(before, _)| is_same(before)) {
            known.last_write = seen.last_write;
            known.last_reader = seen.last_reader;
        } else if self.seen.iter().any(|(_, seen)| seen.is_something()) {
            known.last_write.acknowledged(&entry.cluster);
        }
        known
    }
}

impl Parked {
    fn is_something(&self) -> bool {
        self.last_write != LastWrite::None || self.last_reader.is_some()
    }
}

impl Sharded {
    /// A session that is on the shard with this number, or as near as there is one.
    pub(super) fn new(set: &Arc<ShardSet>, wanted: ShardNumber) -> Self {
        Self {
            current: wanted.min(set.count().saturating_sub(1)),
            parked: set.entries().iter().map(|_| Parked::default()).collect(),
            set: Arc::clone(set),
            transaction: Transaction::default(),
            spread: None,
            facts: BatchFacts::default(),
            fills: Vec::new(),
            analyzed: None,
            wish: (Settings::none(), Ok(None)),
        }
    }

    /// The shard that the client's settings choose.
    fn wish(&mut self, settings: &Settings) -> Result<Option<ShardNumber>, Refusal> {
        if !self.wish.0.is_same(settings) {
            let of = |setting| chosen_by(&self.set, setting, settings.value(setting));
            let wish = match of(SHARD) {
                Ok(None) => of(KEY),
                other => other,
            };
            self.wish = (settings.clone(), wish);
        }
        self.wish.1.clone()
    }
}

/// The setting that chooses a shard by its number.
const SHARD: &str = "pgweir.shard";
/// And by a key.
const KEY: &str = "pgweir.sharding_key";

/// The shard that a setting chooses; an empty one, and none, choose none.
fn chosen_by(
    set: &ShardSet,
    setting: &'static str,
    value: Option<&str>,
) -> Result<Option<ShardNumber>, Refusal> {
    let Some(value) = value.map(str::trim).filter(|value| !value.is_empty()) else { return Ok(None) };
    let wrong = || Refusal::Choice { setting, value: value.to_owned() };
    let hint = if setting == SHARD {
        Hint { shard: Some(value.parse().map_err(|_| wrong())?), ..Hint::default() }
    } else {
        Hint { key: Some(value.into()), ..Hint::default() }
    };
    set.explicit_shard(&hint).map_err(|refusal| match refusal {
        Refusal::WhichKey | Refusal::WrongColumn(_) => refusal,
        _ => wrong(),
    })
}

/// What a SET of one of the two settings says: the setting, and its value.
fn choice_in(text: &[u8]) -> Option<(&'static str, Option<String>)> {
    let text = std::str::from_utf8(text).ok()?.trim().trim_end_matches(';').trim_end();
    let (verb, rest) = text.split_once(char::is_whitespace)?;
    let is_reset = verb.eq_ignore_ascii_case("reset");
    if !is_reset && !verb.eq_ignore_ascii_case("set") {
        return None;
    }
    let mut rest = rest.trim_start();
    for scope in ["local", "session"] {
        let head = rest.get(..scope.len()).is_some_and(|head| head.eq_ignore_ascii_case(scope));
        let tail = rest.get(scope.len()..).unwrap_or_default();
        if head && tail.starts_with(char::is_whitespace) {
            rest = tail.trim_start();
        }
    }
    let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    let setting = [SHARD, KEY].into_iter().find(|setting| name.eq_ignore_ascii_case(setting))?;
    let rest = rest.trim_start();
    if is_reset {
        return rest.is_empty().then_some((setting, None));
    }
    let value = match rest.strip_prefix('=') {
        Some(value) => value.trim(),
        None => rest.get(..2).filter(|to| to.eq_ignore_ascii_case("to")).and(rest.get(2..))?.trim(),
    };
    if value.eq_ignore_ascii_case("default") {
        return Some((setting, None));
    }
    let value = match value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')) {
        Some(quoted) => quoted.replace("''", "'"),
        None => value.to_owned(),
    };
    Some((setting, Some(value)))
}

/// The error that a client gets for a refusal.
pub(super) fn refused(refusal: &Refusal) -> ErrorResponse {
    let code = match refusal {
        Refusal::Choice { .. } => SqlState::INVALID_PARAMETER_VALUE,
        _ => SqlState::FEATURE_NOT_SUPPORTED,
    };
    ErrorResponse::error(code, refusal.to_string()).hint(refusal.hint())
}

/// The values of a Bind.
pub(super) struct Bound<'a> {
    /// Count and OIDs, as in Parse.
    pub(super) types: &'a [u8],
    /// Formats and values, as in Bind.
    pub(super) rest: &'a [u8],
    /// What the client knows of its session's parameters.
    pub(super) told: &'a Told,
}

/// Whether client and server both speak UTF-8, so that the bytes of texts are those that are stored.
fn speak_utf8(told: &Told) -> bool {
    let is_utf8 = |name| told.value(name).is_none_or(|value| value == "UTF8");
    is_utf8("client_encoding") && is_utf8("server_encoding")
}

impl Parameters for Bound<'_> {
    fn declared(&self, number: u32) -> u32 {
        let find = || {
            let mut reader = Reader::new(self.types);
            let count = u32::from(reader.u16().ok()?);
            let skipped = number.checked_sub(1).filter(|skipped| *skipped < count)?;
            for _ in 0..skipped {
                reader.i32().ok()?;
            }
            reader.i32().ok().map(i32::cast_unsigned)
        };
        find().unwrap_or(0)
    }

    fn value(&self, number: u32) -> Option<ParameterValue<'_>> {
        let mut reader = Reader::new(self.rest);
        let place = usize::try_from(number).ok()?.checked_sub(1)?;
        let formats = usize::from(reader.u16().ok()?);
        let mut format = 0;
        for at in 0..formats {
            let here = reader.i16().ok()?;
            if formats == 1 || at == place {
                format = here;
            }
        }
        let values = usize::from(reader.u16().ok()?);
        if place >= values {
            return None;
        }
        for at in 0..values {
            let len = reader.i32().ok()?;
            if len < 0 {
                if at == place {
                    return Some(ParameterValue::Null);
                }
                continue;
            }
            let value = reader.bytes(usize::try_from(len).ok()?).ok()?;
            if at == place {
                return match format {
                    0 => Some(ParameterValue::Text(value)),
                    1 => Some(ParameterValue::Binary(value)),
                    _ => None,
                };
            }
        }
        None
    }

    fn is_utf8(&self) -> bool {
        speak_utf8(self.told)
    }
}

/// A statement that a batch runs.
struct Run<'a> {
    statement: &'a Statement,
    text: &'a [u8],
    types: &'a [u8],
    /// Formats and values of its parameters.
    rest: &'a [u8],
    /// How the text is read.
    lex: LexOptions,
    form: Form<'a>,
}

/// How it is run.
#[derive(Clone, Copy)]
enum Form<'a> {
    /// By a simple query of these tokens.
    Query(&'a Collected),
    /// By a Bind; the fingerprint is that of the very text.
    Bind(Fingerprint),
}

impl ClientSession {
    /// Begins on a shard, if the database has some: the one with this number, or as near as there is one.
    pub(super) fn enter_shards(&mut self, wanted: ShardNumber) {
        let set = self.topology.shards(&self.database.name);
        self.sharded = set.map(|set| Box::new(Sharded::new(set, wanted)));
        if let Some(sharded) = self.sharded.as_deref()
            && let Some(entry) = sharded.set.entry(sharded.current)
        {
            self.database = Arc::clone(entry);
            self.pools.clear();
        }
    }

    /// Leaves the configuration: what the session has written and seen, on all shards where it has been.
    pub(super) fn leave_configuration(&mut self) -> Left {
        self.pools.clear();
        let here = Parked {
            pools: Vec::new(),
            last_write: std::mem::take(&mut self.last_write),
            last_reader: self.last_reader.take(),
        };
        let mut seen = vec![(Arc::clone(&self.database), here)];
        let mut sharded = self.sharded.take();
        if let Some(sharded) = sharded.as_deref_mut() {
            let elsewhere = std::mem::take(&mut sharded.parked);
            let entries = (0..).zip(sharded.set.entries()).zip(elsewhere);
            let others = entries.filter(|((number, _), _)| *number != sharded.current);
            seen.extend(others.map(|((_, entry), parked)| (Arc::clone(entry), parked)));
        }
        Left { sharded, seen }
    }

    /// Enters the new one.
    pub(super) fn enter_configuration(&mut self, mut left: Left) {
        let before = left.sharded.take();
        self.enter_shards(before.as_deref().map_or(0, |before| before.current));
        let here = left.seen_of(&self.database);
        (self.last_write, self.last_reader) = (here.last_write, here.last_reader);
        let Some(sharded) = self.sharded.as_deref_mut() else { return };
        for (entry, parked) in sharded.set.entries().iter().zip(&mut sharded.parked) {
            if entry.shard != self.database.shard {
                *parked = left.seen_of(entry);
            }
        }
        if let Some(before) = before
            && before.set.places_alike(&sharded.set)
        {
            // A batch may be waiting for a primary.
            sharded.transaction = before.transaction;
            sharded.facts = before.facts;
            sharded.fills = before.fills;
            sharded.analyzed = before.analyzed;
        }
    }

    /// Takes the session to the shard with this number, between transactions.
    pub(super) fn switch_to(&mut self, shard: ShardNumber) {
        let Some(sharded) = self.sharded.as_deref_mut() else { return };
        let Some(entry) = sharded.set.entry(shard).filter(|_| shard != sharded.current) else { return };
        self.database = Arc::clone(entry);
        // What was taken out of the place of the present shard lies there again, then that of the other is taken out.
        for place in [sharded.current, shard] {
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            if let Some(parked) = sharded.parked.get_mut(place) {
                std::mem::swap(&mut self.pools, &mut parked.pools);
                std::mem::swap(&mut self.last_write, &mut parked.last_write);
                std::mem::swap(&mut self.last_reader, &mut parked.last_reader);
            }
        }
        sharded.current = shard;
    }

    /// Finds the shard of a batch, and goes there if no transaction keeps the session where it is.
    pub(super) fn place(&mut self, batch: Batch) -> Result<Placed, SessionError> {
        let is_idle = match &self.lease {
            None => self.begun.is_none() && self.spread().is_none(),
            Some(lease) => lease.status == TransactionStatus::Idle && !self.awaiting_sync,
        };
        let failed = self.lease.as_ref().is_some_and(|lease| lease.status == TransactionStatus::Failed);
        let saw_error = self.saw_error;
        let Some(sharded) = self.sharded.as_deref_mut() else { return Ok(Placed::Here) };
        let transaction = &mut sharded.transaction;
        if is_idle {
            transaction.forget();
        } else if saw_error {
            transaction.is_opaque |= !std::mem::take(&mut transaction.pending).is_empty();
        } else {
            transaction.repeatable.extend(transaction.pending.drain(..));
            transaction.is_opaque |= transaction.repeatable.len() > REPEATED_MAX;
        }
        if transaction.begun.is_none() && self.begun.is_some() {
            transaction.begun.clone_from(&self.begun);
        }
        if failed {
            // Nothing runs until it ends.
            return Ok(Placed::Here);
        }
        let placement = self.placement(batch)?;
        if self.spread().is_some() {
            return Ok(Placed::Everywhere(placement));
        }
        Ok(self.go(placement).unwrap_or_else(|refusal| Placed::Refused(Box::new(self.refused(&refusal)))))
    }

    /// Goes where a batch belongs, if that is possible.
    fn go(&mut self, placement: Placement) -> Result<Placed, Refusal> {
        let is_held = self.lease.is_some();
        let is_open = !self.awaiting_sync
            && self.pin.is_none()
            && self.lease.as_ref().is_none_or(|lease| lease.status == TransactionStatus::InTransaction);
        let is_on_replica = is_held && self.leading.is_none() && self.target != Target::Primary;
        let Some(sharded) = self.sharded.as_deref_mut() else { return Ok(Placed::Here) };
        let current = sharded.current;
        Ok(match placement {
            Placement::Any => Placed::Here,
            // The server says that it only reads.
            Placement::All | Placement::Rows(_) | Placement::Copy(_) if is_on_replica => Placed::Here,
            Placement::One(shard) if shard == current => {
                sharded.transaction.is_bound = true;
                Placed::Here
            }
            Placement::One(shard) => {
                if is_held {
                    return Ok(Placed::Elsewhere(shard));
                }
                sharded.transaction.is_bound = true;
                self.switch_to(shard);
                Placed::Here
            }
            Placement::All if !is_held => Placed::Everywhere(Placement::All),
            Placement::All if is_open && sharded.transaction.may_spread() => {
                Placed::Everywhere(Placement::All)
            }
            Placement::Rows(_) | Placement::Copy(_)
                if !is_held
                    || (is_open && !sharded.transaction.is_bound && sharded.transaction.may_spread()) =>
            {
                Placed::Everywhere(placement)
            }
            Placement::Rows(_) | Placement::Copy(_) => return Err(Refusal::SeveralShards),
            Placement::All => return Err(Refusal::OtherShard { transaction: current, statement: None }),
            Placement::Refused(refusal) => return Err(*refusal),
        })
    }

    /// Moves the transaction to another shard, if nothing of it is left on this one. The error otherwise.
    pub(super) async fn move_to(&mut self, shard: ShardNumber) -> Result<(), Box<ErrorResponse>> {
        if self.leaves_shard().await {
            self.switch_to(shard);
            if let Some(sharded) = self.sharded.as_deref_mut() {
                sharded.transaction.is_bound = true;
            }
            return Ok(());
        }
        let transaction = self.sharded.as_deref().map_or(0, |sharded| sharded.current);
        Err(Box::new(self.refused(&Refusal::OtherShard { transaction, statement: Some(shard) })))
    }

    /// The error for a refusal, which is counted.
    pub(super) fn refused(&self, refusal: &Refusal) -> ErrorResponse {
        if let Some(sharded) = self.sharded.as_deref() {
            sharded.set.count_refusal(refusal);
        }
        refused(refusal)
    }

    /// Ends the transaction on this shard, to begin it again on another; false if it must stay.
    async fn leaves_shard(&mut self) -> bool {
        let Some(sharded) = self.sharded.as_deref_mut() else { return false };
        let transaction = &mut sharded.transaction;
        let stays = transaction.is_bound || transaction.is_opaque || transaction.tells || self.awaiting_sync;
        let may_go = !stays
            && self.pin.is_none()
            && self.lease.as_ref().is_some_and(|lease| lease.status == TransactionStatus::InTransaction);
        let has_read = transaction.has_read;
        let Some(begun) = transaction.begun.clone().filter(|_| may_go) else { return false };
        let Some(mut lease) = self.lease.take() else { return false };
        let is_free = !has_read
            || match begun.reads_committed {
                Some(known) => known,
                None => reads_committed(&mut lease).await,
            };
        if !is_free {
            self.lease = Some(lease);
            return false;
        }
        self.leading = None;
        self.begun = Some(begun);
        self.end_elsewhere(lease);
        true
    }

    /// Repeats on this shard what the transaction has set and marked on another.
    pub(super) async fn repeat_on(&mut self, lease: &mut ServerLease) -> Result<(), SessionError> {
        let Some(sharded) = self.sharded.as_deref() else { return Ok(()) };
        for message in &sharded.transaction.repeatable {
            let text = frontend::query_text(message.get(HEADER_LEN..).unwrap_or_default())?;
            lease.simple_query(&String::from_utf8_lossy(text)).await?;
        }
        Ok(())
    }

    pub(super) fn speaks_utf8(&self) -> bool {
        speak_utf8(&self.told)
    }

    /// Where the statements of a batch belong, together.
    fn placement(&mut self, batch: Batch) -> Result<Placement, SessionError> {
        if let Some(sharded) = self.sharded.as_deref_mut() {
            sharded.facts = BatchFacts::default();
            sharded.fills.clear();
            sharded.analyzed = None;
        }
        // The inbox is lent and given back.
        let inbox = std::mem::take(&mut self.wire.inbox);
        let result = self.placement_of(inbox.get(..batch.len).unwrap_or_default());
        self.wire.inbox = inbox;
        result
    }

    fn placement_of(&mut self, bytes: &[u8]) -> Result<Placement, SessionError> {
        let limit = self.topology.config.limits.message_bytes;
        let mut fresh: SmallVec<[Parse<'_>; 2]> = SmallVec::new();
        let mut placement = Placement::Any;
        let mut rest = bytes;
        while let Some((header, body, tail)) = frame::split(rest, limit)? {
            rest = tail;
            let place = match FrontendTag(header.tag) {
                FrontendTag::QUERY => {
                    // What makes no sense, the server says.
                    let Ok(text) = frontend::query_text(body) else { continue };
                    self.place_query(bytes, text)
                }
                FrontendTag::PARSE => {
                    let Ok(parse) = Parse::read(body) else { continue };
                    fresh.retain(|known| known.name != parse.name);
                    fresh.push(parse);
                    continue;
                }
                FrontendTag::BIND => {
                    let Ok(bind) = Bind::read(body) else { continue };
                    self.place_bind(bytes, &fresh, &bind)
                }
                FrontendTag::FUNCTION_CALL => match self.chosen() {
                    Ok(Some(shard)) => Placement::One(shard),
                    Ok(None) => Placement::refused(Refusal::Construct("a function call of the protocol")),
                    Err(refusal) => Placement::refused(refusal),
                },
                _ => continue,
            };
            // Nearly always there is but one.
            placement = if matches!(placement, Placement::Any) { place } else { placement.and(place) };
        }
        Ok(placement)
    }

    fn place_query(&mut self, batch: &[u8], text: &[u8]) -> Placement {
        let mut tokens = Collected::lent();
        let statement = self.context.statements.analyze_and_keep(text, self.lex, &mut tokens);
        if let Some(sharded) = self.sharded.as_deref_mut() {
            sharded.analyzed = Some(Analyzed::new(batch, text, &statement, None));
        }
        let run = Run {
            statement: &statement,
            text,
            types: b"\0\0",
            rest: b"\0\0\0\0",
            lex: self.lex,
            form: Form::Query(&tokens),
        };
        let place = self.place_one(batch, &run);
        tokens.give_back();
        place
    }

    fn place_bind(&mut self, batch: &[u8], fresh: &[Parse<'_>], bind: &Bind<'_>) -> Placement {
        if let Some(parse) = fresh.iter().find(|parse| parse.name == bind.statement) {
            let statements = &self.context.statements;
            let exact = statements.exact(parse.sql, self.lex);
            let statement = statements.analyze_known(exact, parse.sql, self.lex);
            if let Some(sharded) = self.sharded.as_deref_mut() {
                sharded.analyzed = Some(Analyzed::new(batch, parse.sql, &statement, Some(exact)));
            }
            let (lex, form) = (self.lex, Form::Bind(exact));
            let (types, rest) = (parse.types, bind.rest);
            let run = Run { statement: &statement, text: parse.sql, types, rest, lex, form };
            return self.place_one(batch, &run);
        }
        let Some(definition) = self.statements.find(bind.statement).map(Arc::clone) else {
            // One of SQL's PREPARE, which has pinned the session, or none.
            return Placement::Any;
        };
        let Definition { sql, types, statement, lex, exact, .. } = &*definition;
        let form = Form::Bind(*exact);
        self.place_one(batch, &Run { statement, text: sql, types, rest: bind.rest, lex: *lex, form })
    }

    /// The shard that the client has chosen for what does not say itself.
    fn chosen(&mut self) -> Result<Option<ShardNumber>, Refusal> {
        let Some(sharded) = self.sharded.as_deref_mut() else { return Ok(None) };
        match sharded.transaction.chosen {
            Some(Chosen(chosen)) => Ok(chosen),
            None => sharded.wish(&self.settings),
        }
    }

    fn place_one(&mut self, batch: &[u8], run: &Run<'_>) -> Placement {
        self.try_place(batch, run).unwrap_or_else(Placement::refused)
    }

    fn try_place(&mut self, batch: &[u8], run: &Run<'_>) -> Result<Placement, Refusal> {
        let statement = run.statement;
        if statement.session.contains(SessionEffects::LISTEN) {
            return Err(Refusal::Construct("LISTEN"));
        }
        let Some(sharded) = self.sharded.as_deref_mut() else { return Ok(Placement::Any) };
        let set = Arc::clone(&sharded.set);
        let facts = &mut sharded.facts;
        facts.statements += 1;
        facts.count += statement.statement_count;
        facts.control = statement.control;
        facts.effects.insert(statement.session);
        facts.is_alone = facts.statements == 1 && runs_alone(run.text);
        let says_where = |sharded: &mut Sharded| {
            // What it sets is not repeated elsewhere.
            sharded.transaction.is_opaque |= statement.session != SessionEffects::NONE;
        };
        if let Some(shard) = set.explicit_shard(&statement.hint)? {
            says_where(sharded);
            return Ok(Placement::One(shard));
        }
        let sets = SessionEffects::SETTING.union(SessionEffects::SETTING_LOCAL);
        if statement.session.intersects(sets)
            && let Some((setting, value)) = choice_in(run.text)
        {
            let chosen = chosen_by(&set, setting, value.as_deref())?;
            sharded.transaction.chosen = Some(Chosen(chosen));
            self.repeats(batch, run);
            return Ok(chosen.map_or(Placement::Any, Placement::One));
        }
        let cursor = cursor_in(run.text, run.lex);
        if let Some((CursorUse::Reads, name)) = &cursor
            && let Some((_, shard)) =
                sharded.transaction.cursors.iter().rev().find(|(known, _)| known == name)
        {
            return Ok(Placement::One(*shard));
        }
        let chosen = self.chosen();
        let plan = || set.plan(statement, run.text, run.lex);
        let controls = statement.control.is_some() || (statement.statement_count > 1 && plan().controls());
        if controls && let Some(sharded) = self.sharded.as_deref_mut() {
            sharded.facts.controls = true;
        }
        let bound = Bound { types: run.types, rest: run.rest, told: &self.told };
        let destination = match run.form {
            Form::Query(tokens) => plan().destination_by(run.text, tokens, run.lex, set.schema(), &bound),
            Form::Bind(exact) => match &*set.by_parameters(exact, statement, run.text, run.lex) {
                Some(by_parameters) => by_parameters.destination(set.schema(), &bound),
                None => plan().destination(run.text, run.lex, set.schema(), &bound),
            },
        };
        match destination {
            Ok(Destination::Any) => {
                self.repeats(batch, run);
                let is_spread = self.spread().is_some();
                if let (Some((CursorUse::Declares, name)), Some(sharded)) =
                    (cursor, self.sharded.as_deref_mut())
                {
                    let shard = if is_spread { 0 } else { sharded.current };
                    sharded.transaction.cursors.push((name, shard));
                    return Ok(if is_spread { Placement::One(0) } else { Placement::Any });
                }
                let ends = matches!(statement.control, Some(control) if !matches!(control, TransactionControl::Begin { .. }));
                if statement.session != SessionEffects::NONE || ends {
                    return Ok(Placement::Any);
                }
                Ok(chosen?.map_or(Placement::Any, Placement::One))
            }
            Ok(Destination::Shard(shard)) => match chosen? {
                Some(chosen) if chosen != shard => Err(Refusal::Contradiction { chosen, key: shard }),
                _ => {
                    if let Some(sharded) = self.sharded.as_deref_mut() {
                        says_where(sharded);
                        if let Some((CursorUse::Declares, name)) = cursor {
                            sharded.transaction.cursors.push((name, shard));
                        }
                    }
                    Ok(Placement::One(shard))
                }
            },
            Ok(Destination::All { .. }) => {
                let place = chosen?.map_or(Placement::All, Placement::One);
                if place == Placement::All
                    && let Some(sharded) = self.sharded.as_deref_mut()
                {
                    sharded.fills.append(&mut plan().fills(run.text, run.lex));
                }
                Ok(place)
            }
            Err(refusal)
                if chosen == Ok(None)
                    && (refusal == Refusal::SeveralShards || matches!(run.form, Form::Query(_))) =>
            {
                match plan().divide(refusal, run.text, run.lex, set.schema(), &bound)? {
                    Divided::Rows(split) => Ok(Placement::Rows(split)),
                    Divided::Copy(copy) => {
                        match copy.sharded_table().and_then(|table| set.wrong_column(Some(table))) {
                            Some(wrong) => Err(Refusal::WrongColumn(Box::new(wrong))),
                            None => Ok(Placement::Copy(copy)),
                        }
                    }
                }
            }
            Err(refusal) => {
                let shard = chosen?.ok_or(refusal)?;
                self.sharded.as_deref_mut().into_iter().for_each(says_where);
                Ok(Placement::One(shard))
            }
        }
    }

    /// Takes note of a statement that any shard could run, in case another one must.
    fn repeats(&mut self, batch: &[u8], run: &Run<'_>) {
        let statement = run.statement;
        let alone = self.stands_alone(batch);
        let begun = match statement.control {
            Some(TransactionControl::Begin { .. }) if self.begun.is_none() && self.lease.is_none() => {
                Some(Begun::of_text(run.text, self.begin_reads_committed(statement.control)))
            }
            _ => None,
        };
        let Some(sharded) = self.sharded.as_deref_mut() else { return };
        let transaction = &mut sharded.transaction;
        let sets = SessionEffects::SETTING.union(SessionEffects::SETTING_LOCAL);
        let no_parameters = has_no_values(run.rest);
        match statement.control {
            Some(TransactionControl::Begin { .. }) => {
                if begun.is_some() {
                    transaction.begun = begun;
                }
            }
            Some(
                TransactionControl::Commit { chain: false } | TransactionControl::Rollback { chain: false },
            ) => {}
            Some(control) if statement.statement_count == 1 && no_parameters => {
                let marks = matches!(
                    control,
                    TransactionControl::Savepoint
                        | TransactionControl::Release
                        | TransactionControl::RollbackTo
                );
                if control == TransactionControl::RollbackTo {
                    // A choice may have been made behind the savepoint.
                    transaction.chosen = None;
                }
                transaction.is_opaque |= !marks;
                transaction.pending.push(frontend::query_message(run.text).freeze());
            }
            None if statement.effect <= Effect::Read && statement.session == SessionEffects::NONE => {
                transaction.has_read = true;
                transaction.tells |= !alone;
            }
            None if statement.statement_count == 1
                && no_parameters
                && sets.union(statement.session) == sets =>
            {
                let says =
                    |word: &[u8]| run.text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
                if says(b"isolation")
                    && let Some(begun) = &mut transaction.begun
                {
                    begun.reads_committed = Some(false);
                }
                transaction.is_opaque |= says(b"snapshot");
                transaction.pending.push(frontend::query_message(run.text).freeze());
            }
            _ => transaction.is_opaque = true,
        }
    }
}

/// What a statement has to do with a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CursorUse {
    /// DECLARE.
    Declares,
    /// FETCH, MOVE, CLOSE.
    Reads,
}

/// The cursor of a statement that declares, reads or closes one.
fn cursor_in(text: &[u8], lex: LexOptions) -> Option<(CursorUse, String)> {
    let first = text.trim_ascii_start().first()?.to_ascii_lowercase();
    if !matches!(first, b'd' | b'f' | b'm' | b'c' | b'/' | b'-') {
        return None;
    }
    let mut scanner = Scanner::new(text, lex);
    let mut name_of = |wanted: &dyn Fn(&str) -> bool| {
        let token = scanner.next_token(&mut ())?;
        let raw = String::from_utf8_lossy(text.get(token.start..token.end)?).into_owned();
        let name = match token.kind {
            Kind::Word => raw.to_ascii_lowercase(),
            Kind::Quoted => raw.trim_matches('"').replace("\"\"", "\""),
            _ => String::new(),
        };
        wanted(&name).then_some(name)
    };
    let verb = name_of(&|word| matches!(word, "declare" | "fetch" | "move" | "close"))?;
    if verb == "declare" {
        return Some((CursorUse::Declares, name_of(&|name| !name.is_empty())?));
    }
    // The name is the last word.
    let mut last = None;
    while let Some(token) = name_of(&|_| true) {
        last = Some(token).filter(|name| !name.is_empty()).or(last);
    }
    Some((CursorUse::Reads, last?))
}

/// Whether PostgreSQL runs a command outside of transactions only.
fn runs_alone(text: &[u8]) -> bool {
    // Most statements are not of these.
    let first = text.trim_ascii_start().first().map_or(0, u8::to_ascii_lowercase);
    if !matches!(first, b'v' | b'c' | b'd' | b'r' | b'a') {
        return false;
    }
    let text = String::from_utf8_lossy(text.get(..200).unwrap_or(text)).to_ascii_lowercase();
    let mut words = text.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    matches!(first, "vacuum" | "cluster")
        || (matches!(first, "create" | "drop" | "reindex" | "alter")
            && words.take(12).any(|word| word == "concurrently"))
}

/// Whether a Bind gives no parameter a value.
fn has_no_values(rest: &[u8]) -> bool {
    let mut reader = Reader::new(rest);
    let formats = reader.u16().unwrap_or(0);
    (0..formats).all(|_| reader.i16().is_ok()) && reader.u16() == Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_from_its_set() {
        let of = |text: &str| choice_in(text.as_bytes());
        let shard = |value: &str| Some((SHARD, Some(value.to_owned())));
        assert_eq!(of("SET pgweir.shard = 2"), shard("2"));
        assert_eq!(of("set local PGWEIR.shard TO '2' ;"), shard("2"));
        assert_eq!(of("SET SESSION pgweir.shard=2"), shard("2"));
        assert_eq!(of("SET pgweir.sharding_key = 'it''s'"), Some((KEY, Some("it's".to_owned()))));
        assert_eq!(of("RESET pgweir.shard"), Some((SHARD, None)));
        assert_eq!(of("SET pgweir.shard TO DEFAULT"), Some((SHARD, None)));
        for other in ["SET pgweir.shards = 2", "SELECT 1", "SET", "SET pgweir.shard", "RESET pgweir.shard x"]
        {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn cursors_are_found_by_name() {
        let of = |text: &str| cursor_in(text.as_bytes(), LexOptions::default());
        let declares = |name: &str| Some((CursorUse::Declares, name.to_owned()));
        let reads = |name: &str| Some((CursorUse::Reads, name.to_owned()));
        assert_eq!(of("DECLARE \"_dj_1\" NO SCROLL CURSOR FOR SELECT 1"), declares("_dj_1"));
        assert_eq!(of("declare C cursor for select 1"), declares("c"));
        assert_eq!(of("FETCH FORWARD 2 FROM \"_dj_1\""), reads("_dj_1"));
        assert_eq!(of("fetch 5 in C;"), reads("c"));
        assert_eq!(of("/* x */ MOVE c"), reads("c"));
        assert_eq!(of("CLOSE \"a\"\"b\""), reads("a\"b"));
        assert_eq!(of("SELECT 1"), None);
        assert_eq!(of("COMMIT"), None);
    }

    #[test]
    fn what_belongs_together() {
        use Placement::{All, Any, One};
        let refused = Placement::refused;
        assert_eq!(Any.and(One(1)).and(Any).and(One(1)), One(1));
        assert_eq!(One(0).and(One(1)), refused(Refusal::SeveralShards));
        assert_eq!(All.and(Any), All);
        let mixed = "a batch of several statements".to_owned();
        assert_eq!(All.and(One(0)), refused(Refusal::Mixed(mixed)));
        assert_eq!(One(0).and(refused(Refusal::Nowhere)), refused(Refusal::Nowhere));
    }

    #[test]
    fn values_of_a_bind() {
        // Two formats (text, binary), three values: one of two bytes, NULL, none.
        let rest = b"\0\x02\0\0\0\x01\0\x02\0\0\0\x02ab\xff\xff\xff\xff\0\0";
        let told = Told::default();
        let bound = Bound { types: b"\0\x01\0\0\0\x14", rest, told: &told };
        assert_eq!((bound.declared(1), bound.declared(2)), (20, 0));
        assert_eq!(bound.value(1), Some(ParameterValue::Text(b"ab")));
        assert_eq!(bound.value(2), Some(ParameterValue::Null));
        assert_eq!(bound.value(3), None);
        let one = Bound { types: b"\0\0", rest: b"\0\x01\0\x01\0\x01\0\0\0\x01x\0\0", told: &told };
        assert_eq!(one.value(1), Some(ParameterValue::Binary(b"x")));
        // More than a signed count holds.
        let many = [&b"\0\0\x9c\x40"[..], &b"\0\0\0\x01x".repeat(40_000), b"\0\0"].concat();
        let many = Bound { types: b"\0\0", rest: &many, told: &told };
        assert_eq!(many.value(40_000), Some(ParameterValue::Text(b"x")));
    }
}
