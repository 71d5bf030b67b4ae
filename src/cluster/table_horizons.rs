//! How far a replica must have replayed before it may serve a read of given tables: `strong` consistency.
//!
//! The life of a mark, for each table a statement may write:
//!
//! 1. *pending* from before the statement is sent until its commit is acknowledged ([`TableHorizons::begin_write`]):
//!    reads of the table go to the primary, which alone can show what others may have seen already;
//! 2. *unanswered* from the acknowledgment ([`TableHorizons::committed`], a ticket of the primary's
//!    [`WriteHorizon`]) until a probe that started later has read `pg_current_wal_insert_lsn()`: that position
//!    is at or past the end of the commit's record, which was inserted before the server acknowledged it;
//! 3. *known*: a replica that has replayed up to the position shows the write;
//! 4. gone, once all replicas have replayed it ([`TableHorizons::collect`]). What was forgotten so is kept as
//!    one position, the floor, so that a replica that appears later, older, is not trusted.
//!
//! Writes to tables nobody can name count for all tables, and every read, even of no table, heeds them: they
//! may have changed the catalog.
//!
//! When a connection is lost with a commit under way, nobody was told that it committed, but it may yet do
//! so: its tables stay pending for [`ABANDONED_FOR`], and the next probe after that gives their position.
//!
//! Bounded: of more than `tables_max` tables, known ones are folded into the mark for all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use super::horizon::WriteHorizon;
use super::lsn::Lsn;
use super::tables::{TableId, TableSet};

/// How fresh a replica must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Any healthy replica will do.
    Any,
    /// Something was written, and how far is not known yet.
    NotKnownYet,
    /// It must have replayed up to here.
    At(Lsn),
}

/// How long a server may still commit what was sent to it before its connection broke.
pub const ABANDONED_FOR: Duration = Duration::from_secs(2);

/// Tables with a mark of their own, unless said otherwise.
const TABLES_MAX: usize = 10_000;

/// A write under way. It must come back through `committed`, `rolled_back` or `abandoned`; one that does not
/// keeps its tables on the primary for good: slow, never wrong.
#[derive(Debug)]
#[must_use]
pub struct PendingWrite {
    tables: TableSet,
}

impl PendingWrite {
    /// The tables marked.
    pub fn tables(&self) -> &TableSet {
        &self.tables
    }
}

/// Numbers for the console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HorizonStats {
    /// Tables with a mark.
    pub tables: usize,
    /// There is one for all tables.
    pub all: bool,
    /// Writes under way.
    pub pending: usize,
    /// Tables whose position is not known yet.
    pub unanswered: usize,
    /// Times that marks were folded into the one for all tables.
    pub folded: u64,
}

/// The marks of one database.
#[derive(Debug)]
pub struct TableHorizons {
    /// Zero while there is no mark at all: reads then need no lock.
    marks: AtomicU64,
    watched: AtomicBool,
    floor: AtomicU64,
    inner: RwLock<Inner>,
    tables_max: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    /// Writes under way.
    pending: u32,
    /// The newest ticket without an answer; 0 is none.
    ticket: u64,
    /// Where the newest answered write is; 0 is nowhere.
    position: Lsn,
}

impl Mark {
    fn is_clear(self) -> bool {
        self.pending == 0 && self.ticket == 0 && self.position == Lsn(0)
    }

    fn open(self) -> bool {
        self.pending > 0 || self.ticket > 0
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// The mark of writes to unknown tables.
    all: Mark,
    tables: HashMap<TableId, Mark>,
    /// Tables that are pending or unanswered.
    open: usize,
    /// Tables that had a ticket when they were put here.
    unanswered: Vec<TableId>,
    /// At or past the known position of every table.
    furthest: Lsn,
    abandoned: Vec<(Instant, PendingWrite)>,
    pending: usize,
    folded: u64,
}

impl Default for TableHorizons {
    fn default() -> Self {
        Self::new(TABLES_MAX)
    }
}

impl TableHorizons {
    /// No marks; at most about `tables_max` of them at any time.
    pub fn new(tables_max: usize) -> Self {
        Self {
            marks: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            floor: AtomicU64::new(0),
            inner: RwLock::default(),
            tables_max,
        }
    }

    /// From now on somebody reads from replicas.
    pub fn watch(&self) {
        self.watched.store(true, Ordering::Release);
    }

    /// Whether anybody does, so that writes need marks.
    #[inline]
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// Marks `tables` before a statement that may write them is sent.
    pub fn begin_write(&self, tables: &TableSet) -> PendingWrite {
        let mut inner = self.inner.write();
        let mut tables = tables.clone();
        if let TableSet::Some(ids) = &tables
            && inner.tables.len() + ids.len() > self.tables_max
        {
            inner.fold();
            if inner.tables.len() + ids.len() > self.tables_max {
                tables = TableSet::All;
            }
        }
        inner.pending += 1;
        match &tables {
            TableSet::All => inner.all.pending += 1,
            TableSet::Some(ids) => {
                for id in ids.iter() {
                    inner.change(*id, |mark| mark.pending += 1);
                }
            }
        }
        self.count(&inner);
        PendingWrite { tables }
    }

    /// The write's commit was acknowledged just now; `primary` is whose horizon gives its ticket.
    #[allow(clippy::needless_pass_by_value, reason = "it cannot be settled twice")]
    pub fn committed<'a>(&self, write: PendingWrite, primary: impl FnOnce() -> &'a WriteHorizon) {
        let mut inner = self.inner.write();
        // Under the lock: a probe that answers this ticket finds the mark, and a change of the primary either sees
        // the mark or was seen by `primary`.
        let ticket = primary().take_ticket();
        inner.settle(&write.tables, ticket);
        self.count(&inner);
    }

    /// The write is known not to have committed.
    #[allow(clippy::needless_pass_by_value, reason = "it cannot be settled twice")]
    pub fn rolled_back(&self, write: PendingWrite) {
        let mut inner = self.inner.write();
        inner.settle(&write.tables, 0);
        self.count(&inner);
    }

    /// Nobody knows whether the write committed, or will.
    pub fn abandoned(&self, write: PendingWrite, now: Instant) {
        let mut inner = self.inner.write();
        inner.abandoned.push((now, write));
        self.count(&inner);
    }

    /// A probe read `position` from the primary; `ticket` was the newest one before it asked, `asked` the time.
    pub fn position_known(&self, ticket: u64, position: Lsn, asked: Instant) {
        if self.marks.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut inner = self.inner.write();
        let mut answers = false;
        if inner.all.ticket > 0 && inner.all.ticket <= ticket {
            inner.all.ticket = 0;
            inner.all.position = inner.all.position.max(position);
        }
        let mut unanswered = std::mem::take(&mut inner.unanswered);
        unanswered.retain(|id| {
            let mut waits = false;
            inner.change(*id, |mark| {
                if mark.ticket > 0 && mark.ticket <= ticket {
                    mark.ticket = 0;
                    mark.position = mark.position.max(position);
                    answers = true;
                }
                waits = mark.ticket > 0;
            });
            waits
        });
        inner.unanswered = unanswered;
        let overdue = |since: Instant| asked.saturating_duration_since(since) >= ABANDONED_FOR;
        while let Some(at) = inner.abandoned.iter().position(|(since, _)| overdue(*since)) {
            let (_, write) = inner.abandoned.swap_remove(at);
            inner.settle(&write.tables, 0);
            inner.raise(&write.tables, position);
            answers = true;
        }
        if answers {
            inner.furthest = inner.furthest.max(position);
        }
        self.count(&inner);
    }

    /// How fresh a replica must be to read `tables`.
    pub fn freshness(&self, tables: &TableSet) -> Freshness {
        self.freshness_of(std::iter::once(tables))
    }

    /// How fresh a replica must be to read all of these.
    pub fn freshness_of<'a>(&self, tables: impl Iterator<Item = &'a TableSet>) -> Freshness {
        // The floor is read after the marks: a mark is only dropped once the floor is at it.
        if self.marks.load(Ordering::Acquire) == 0 {
            return at(Lsn(self.floor.load(Ordering::Acquire)));
        }
        let inner = self.inner.read();
        let mut position = Lsn(self.floor.load(Ordering::Acquire)).max(inner.all.position);
        if inner.all.open() {
            return Freshness::NotKnownYet;
        }
        for tables in tables {
            match tables {
                TableSet::All if inner.open > 0 => return Freshness::NotKnownYet,
                TableSet::All if inner.tables.is_empty() => {}
                TableSet::All => position = position.max(inner.furthest),
                TableSet::Some(ids) => {
                    for id in ids.iter() {
                        let Some(mark) = inner.tables.get(id) else { continue };
                        if mark.open() {
                            return Freshness::NotKnownYet;
                        }
                        position = position.max(mark.position);
                    }
                }
            }
        }
        at(position)
    }

    /// Forgets what all replicas have replayed; `replayed` is the least of their positions, those that are
    /// down included.
    pub fn collect(&self, replayed: Lsn) {
        if self.marks.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut inner = self.inner.write();
        let past = |mark: &Mark| !mark.open() && mark.position <= replayed;
        let mut floor = Lsn(0);
        inner.tables.retain(|_, mark| {
            if past(mark) {
                floor = floor.max(mark.position);
            }
            !past(mark)
        });
        if past(&inner.all) {
            floor = floor.max(inner.all.position);
            inner.all = Mark::default();
        }
        if inner.tables.is_empty() {
            inner.tables.shrink_to(64);
        }
        self.floor.fetch_max(floor.0, Ordering::AcqRel);
        self.count(&inner);
    }

    /// Another node is the primary now: known positions mean nothing on its timeline until it was asked once.
    pub fn primary_changed(&self, primary: &WriteHorizon) {
        let mut inner = self.inner.write();
        let ticket = primary.take_ticket();
        inner.fold();
        inner.all.position = Lsn(0);
        inner.all.ticket = ticket;
        inner.furthest = Lsn(0);
        let ids: Vec<_> = inner.tables.keys().copied().collect();
        for id in ids {
            inner.change(id, |mark| mark.position = Lsn(0));
        }
        // Tickets of the old primary are answered by the new one: the mark for all covers them.
        let unanswered = std::mem::take(&mut inner.unanswered);
        for id in unanswered {
            inner.change(id, |mark| mark.ticket = 0);
        }
        self.floor.store(0, Ordering::Release);
        self.count(&inner);
    }

    /// Its numbers now.
    pub fn stats(&self) -> HorizonStats {
        let inner = self.inner.read();
        HorizonStats {
            tables: inner.tables.len(),
            all: !inner.all.is_clear(),
            pending: inner.pending,
            unanswered: inner.unanswered.len(),
            folded: inner.folded,
        }
    }

    /// Called with the lock held, so that the number is never behind a mark.
    fn count(&self, inner: &Inner) {
        let marks = inner.tables.len() + usize::from(!inner.all.is_clear()) + inner.abandoned.len();
        self.marks.store(marks as u64, Ordering::Release);
    }
}

fn at(position: Lsn) -> Freshness {
    if position == Lsn(0) { Freshness::Any } else { Freshness::At(position) }
}

impl Inner {
    fn change(&mut self, id: TableId, change: impl FnOnce(&mut Mark)) {
        let mark = self.tables.entry(id).or_default();
        let before = mark.open();
        change(mark);
        let (after, clear) = (mark.open(), mark.is_clear());
        self.open = self.open + usize::from(after) - usize::from(before);
        if clear {
            self.tables.remove(&id);
        }
    }

    /// One write of `tables` is no longer pending; `ticket` is 0 or what it waits for.
    fn settle(&mut self, tables: &TableSet, ticket: u64) {
        self.pending = self.pending.saturating_sub(1);
        match tables {
            TableSet::All => {
                self.all.pending = self.all.pending.saturating_sub(1);
                self.all.ticket = self.all.ticket.max(ticket);
            }
            TableSet::Some(ids) => {
                for id in ids.iter() {
                    let mut waits = false;
                    self.change(*id, |mark| {
                        waits = mark.ticket == 0 && ticket > 0;
                        mark.pending = mark.pending.saturating_sub(1);
                        mark.ticket = mark.ticket.max(ticket);
                    });
                    if waits {
                        self.unanswered.push(*id);
                    }
                }
            }
        }
    }

    fn raise(&mut self, tables: &TableSet, position: Lsn) {
        match tables {
            TableSet::All => self.all.position = self.all.position.max(position),
            TableSet::Some(ids) => {
                for id in ids.iter() {
                    self.change(*id, |mark| mark.position = mark.position.max(position));
                }
            }
        }
    }

    /// Makes the marks of tables whose position is known part of the mark for all.
    fn fold(&mut self) {
        let mut position = Lsn(0);
        let before = self.tables.len();
        self.tables.retain(|_, mark| {
            if !mark.open() {
                position = position.max(mark.position);
            }
            mark.open()
        });
        self.all.position = self.all.position.max(position);
        self.folded += u64::from(self.tables.len() < before);
    }
}
