//! Prepared statements: one definition shared by all clients that prepare the same text, and the set
//! of definitions that a server connection holds under our own names.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use hashbrown::HashMap as FastMap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::sql::{Fingerprint, LexOptions, Statement};

use super::settings::Settings;
use super::simple::RowShape;

/// What a Parse defined: text, parameter types, and what the text means.
#[derive(Debug)]
pub struct Definition {
    /// Unique in the process.
    pub id: u64,
    /// Its name on servers; empty for an unnamed one, which stays so.
    pub server_name: String,
    /// The SQL as the client sent it.
    pub sql: Box<[u8]>,
    /// Parameter types as the client sent them: count and OIDs.
    pub types: SmallVec<[u8; 16]>,
    /// What it means for routing.
    pub statement: Arc<Statement>,
    /// How its literals are read: what a client sets later does not change that.
    pub lex: LexOptions,
    /// Fingerprint of the very text.
    pub exact: Fingerprint,
    /// The client's settings that decide how its text is read.
    pub reading: Settings,
    /// Some server has parsed it: another client that prepares the same need not wait for one.
    pub is_valid: AtomicBool,
}

/// The text of a Parse, and what it means.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<'a> {
    /// See [`Definition::sql`].
    pub sql: &'a [u8],
    /// See [`Definition::types`].
    pub types: &'a [u8],
    /// See [`Definition::statement`].
    pub statement: &'a Arc<Statement>,
    /// See [`Definition::lex`].
    pub lex: LexOptions,
    /// See [`Definition::exact`].
    pub exact: Fingerprint,
    /// See [`Definition::reading`].
    pub reading: &'a Settings,
}

/// What our names on servers begin with. Different in each process, so that a name that a client has from
/// another pgweir, in front of this one or behind it, is not one of ours.
static PREFIX: LazyLock<String> =
    LazyLock::new(|| format!("pgweir_{:08x}_", RandomState::new().hash_one(0) & 0xffff_ffff));

/// Whether this could be the name of one of our statements on servers.
pub fn is_server_name(name: &[u8]) -> bool {
    name.starts_with(PREFIX.as_bytes())
}

/// A statement on a server that is there to be in the way.
pub fn decoy_name() -> String {
    format!("{}0", *PREFIX)
}

/// All definitions in use, so that equal ones are one. Holds them weakly: a definition lives as long as
/// a client or a server connection holds it, and texts of those that are gone are swept out before they
/// take more room than the living.
#[derive(Debug, Default)]
pub struct Definitions {
    by_text: Mutex<Texts>,
    next_id: AtomicU64,
}

#[derive(Debug, Default)]
struct Texts {
    map: HashMap<Key, Weak<Definition>>,
    bytes: usize,
    /// What the living took at the last sweep.
    bytes_swept: usize,
}

impl Texts {
    /// So much may be swept later.
    const SLACK_BYTES: usize = 1 << 20;
    /// What an entry takes besides its text, near enough.
    const ENTRY_BYTES: usize = 128;

    fn sweep_if_grown(&mut self) {
        if self.bytes <= 2 * self.bytes_swept + Self::SLACK_BYTES {
            return;
        }
        self.map.retain(|_, weak| weak.strong_count() > 0);
        self.bytes = self.map.keys().map(Key::bytes).sum();
        self.bytes_swept = self.bytes;
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    sql: Box<[u8]>,
    types: Box<[u8]>,
    /// Database, and how the client means its literals.
    scope: Box<str>,
    /// That of the catalog.
    epoch: u64,
}

impl Key {
    fn bytes(&self) -> usize {
        self.sql.len() + self.types.len() + self.scope.len() + Texts::ENTRY_BYTES
    }
}

impl Definitions {
    /// The definition of this text and these types in `scope`: the same text may mean something else in
    /// another one, which tells the settings apart that decide how it is read. `epoch` is that of the catalog: a
    /// type made anew under the same name has another number.
    pub fn intern(&self, parsed: Parsed<'_>, scope: &str, epoch: u64) -> Arc<Definition> {
        let mut texts = self.by_text.lock();
        let key = Key { sql: parsed.sql.into(), types: parsed.types.into(), scope: scope.into(), epoch };
        if let Some(found) = texts.map.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        let definition = self.unshared(parsed);
        texts.sweep_if_grown();
        let bytes = key.bytes();
        if texts.map.insert(key, Arc::downgrade(&definition)).is_none() {
            texts.bytes += bytes;
        }
        definition
    }

    /// A definition that is not shared: for those whose literals mean what nobody else knows.
    pub fn unshared(&self, parsed: Parsed<'_>) -> Arc<Definition> {
        self.define(parsed, |id| format!("{}{id}", *PREFIX))
    }

    /// The definition of an unnamed statement. They come and go, and nobody shares them.
    pub fn unnamed(&self, parsed: Parsed<'_>) -> Arc<Definition> {
        self.define(parsed, |_| String::new())
    }

    fn define(&self, parsed: Parsed<'_>, server_name: impl FnOnce(u64) -> String) -> Arc<Definition> {
        let Parsed { sql, types, statement, lex, exact, reading } = parsed;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        Arc::new(Definition {
            id,
            server_name: server_name(id),
            sql: sql.into(),
            types: SmallVec::from_slice(types),
            statement: Arc::clone(statement),
            lex,
            exact,
            reading: reading.clone(),
            is_valid: AtomicBool::new(false),
        })
    }

    /// Definitions remembered (some may have nobody who holds them).
    pub fn len(&self) -> usize {
        self.by_text.lock().map.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The definitions that one server connection holds, bounded in number and bytes of SQL; those that were not
/// used for long leave first.
#[derive(Debug, Default)]
pub struct PreparedSet {
    held: FastMap<u64, Held>,
    /// Ids in order of their use, as far as it has been looked at: an entry that was used since is put back
    /// at the end when its turn comes, so that a use costs no more than a number.
    order: VecDeque<(u64, u64)>,
    bytes: usize,
    clock: u64,
    /// Something was added since the last look at the bounds.
    grew: bool,
    /// Still on the server, and to be closed before they are prepared again.
    doomed: Vec<Arc<Definition>>,
    /// Prepared in a transaction whose settings are its own.
    tainted: Vec<u64>,
    /// The statement that is in the way of a name is there.
    pub has_decoy: bool,
}

#[derive(Debug)]
struct Held {
    definition: Arc<Definition>,
    used: u64,
    /// What it gives back, when we know. The server sees to it that this does not change.
    shape: Option<RowShape>,
    /// The epoch of the catalog in which it was prepared.
    catalog: u64,
}

/// Whether a server connection holds a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It does not.
    Nothing,
    /// It does, prepared before the catalog changed.
    Older,
    /// It does.
    Current,
}

impl PreparedSet {
    /// Whether the server has it, when the catalog is at epoch `catalog`; marks it as used.
    #[inline]
    pub fn touch(&mut self, id: u64, catalog: u64) -> Holds {
        self.clock += 1;
        match self.held.get_mut(&id) {
            Some(entry) => {
                entry.used = self.clock;
                if entry.catalog == catalog { Holds::Current } else { Holds::Older }
            }
            None => Holds::Nothing,
        }
    }

    /// What it gives back, if that is known.
    pub fn shape(&self, id: u64) -> Option<RowShape> {
        self.held.get(&id)?.shape
    }

    /// The server has told what it gives back.
    pub fn describe(&mut self, id: u64, shape: RowShape) {
        if let Some(entry) = self.held.get_mut(&id) {
            entry.shape = Some(shape);
        }
    }

    /// It was prepared under settings that nobody else has: after the transaction it is of no use.
    pub fn taint(&mut self, id: u64) {
        self.tainted.push(id);
    }

    /// The transaction is over.
    #[inline]
    pub fn drop_tainted(&mut self) {
        for id in std::mem::take(&mut self.tainted) {
            if let Some(definition) = self.remove(id) {
                self.doom(definition);
            }
        }
    }

    /// It is of no use, but still there: the next batch must close it before it is prepared again.
    pub fn doom(&mut self, definition: Arc<Definition>) {
        self.doomed.push(definition);
        self.grew = true;
    }

    /// Records that the server has it (or will, once the Parse before it is done).
    pub fn insert(&mut self, definition: Arc<Definition>, catalog: u64) {
        self.clock += 1;
        let (id, bytes) = (definition.id, definition.sql.len());
        self.grew = true;
        self.doomed.retain(|doomed| doomed.id != id);
        let entry = Held { definition, used: self.clock, shape: None, catalog };
        if self.held.insert(id, entry).is_none() {
            self.bytes += bytes;
            self.order.push_back((id, self.clock));
        }
    }

    /// Records that the server does not have it.
    pub fn remove(&mut self, id: u64) -> Option<Arc<Definition>> {
        let Held { definition, .. } = self.held.remove(&id)?;
        self.bytes -= definition.sql.len();
        // Rare: a Parse that failed, a plan that is stale.
        self.order.retain(|(held, _)| *held != id);
        Some(definition)
    }

    /// Whether the bounds are to be looked at: something was added since this was asked last.
    #[inline]
    pub fn has_grown(&mut self) -> bool {
        std::mem::take(&mut self.grew)
    }

    /// Takes out what is over `count` or `bytes`, least recently used first, never what was used since `since`
    /// (the clock at the start of a batch).
    pub fn evict(&mut self, count: usize, bytes: usize, since: u64) -> Vec<Arc<Definition>> {
        let mut out = std::mem::take(&mut self.doomed);
        while self.held.len() > count.max(1) || (self.bytes > bytes && self.held.len() > 1) {
            let Some((id, seen)) = self.order.pop_front() else { break };
            let Some(used) = self.held.get(&id).map(|entry| entry.used) else { continue };
            if used > seen {
                self.order.push_back((id, used));
                continue;
            }
            if used > since {
                self.order.push_front((id, seen));
                break;
            }
            if let Some(Held { definition, .. }) = self.held.remove(&id) {
                self.bytes -= definition.sql.len();
                out.push(definition);
            }
        }
        out
    }

    /// The clock, for [`PreparedSet::evict`].
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// Forgets all: the server has dropped them.
    pub fn clear(&mut self) {
        *self = Self { clock: self.clock, ..Self::default() };
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Bytes of their SQL.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{LexOptions, StatementCache};

    fn definition(definitions: &Definitions, sql: &str) -> Arc<Definition> {
        let lex = LexOptions::default();
        let cache = StatementCache::new(1 << 20);
        let parsed = Parsed {
            sql: sql.as_bytes(),
            types: b"\0\0",
            statement: &cache.analyze(sql.as_bytes(), lex),
            lex,
            exact: cache.exact(sql.as_bytes(), lex),
            reading: &Settings::none(),
        };
        definitions.intern(parsed, "", 0)
    }

    #[test]
    fn equal_texts_are_one_and_those_that_are_gone_take_no_room() {
        let definitions = Definitions::default();
        let kept = definition(&definitions, "SELECT 1");
        assert!(Arc::ptr_eq(&kept, &definition(&definitions, "SELECT 1")));
        let long = "x".repeat(10_000);
        for number in 0..2_000 {
            definition(&definitions, &format!("SELECT '{long}', {number}"));
        }
        let bytes = definitions.by_text.lock().bytes;
        assert!(bytes < 2 * Texts::SLACK_BYTES, "{bytes} bytes for one living definition");
        assert!(Arc::ptr_eq(&kept, &definition(&definitions, "SELECT 1")));
    }

    #[test]
    fn what_a_transaction_has_tainted_is_closed_before_it_is_prepared_again() {
        let (definitions, mut set) = (Definitions::default(), PreparedSet::default());
        let one = definition(&definitions, "SELECT 1");
        set.insert(Arc::clone(&one), 0);
        set.taint(one.id);
        assert!(set.has_grown(), "looked at by the batch that prepared it");
        set.drop_tainted();
        assert!(set.has_grown() && set.touch(one.id, 0) == Holds::Nothing);
        assert_eq!(set.evict(10, usize::MAX, set.clock()).len(), 1);
    }

    #[test]
    fn the_least_recently_used_leaves_first() {
        let (definitions, mut set) = (Definitions::default(), PreparedSet::default());
        let all: Vec<_> = (0..5).map(|n| definition(&definitions, &format!("SELECT a{n}"))).collect();
        for definition in &all {
            set.insert(Arc::clone(definition), 0);
        }
        let touched = [all[0].id, all[1].id, 0].map(|id| set.touch(id, 0));
        assert_eq!(touched, [Holds::Current, Holds::Current, Holds::Nothing]);
        assert_eq!(set.touch(all[0].id, 1), Holds::Older);
        let gone = set.evict(3, usize::MAX, set.clock());
        assert_eq!(gone.iter().map(|d| d.id).collect::<Vec<_>>(), [all[2].id, all[3].id]);
        assert_eq!((set.len(), set.bytes()), (3, 3 * "SELECT a0".len()));
        // By bytes, but never the last one; never what this batch uses.
        let since = set.clock();
        set.touch(all[4].id, 0);
        assert_eq!(set.evict(10, 5, since).len(), 2);
        assert_eq!(set.evict(10, 5, since).len(), 0);
        set.remove(all[4].id);
        assert_eq!((set.len(), set.bytes()), (0, 0));
    }

    #[test]
    fn many_statements_cost_no_more_than_they_must() {
        let (definitions, mut set) = (Definitions::default(), PreparedSet::default());
        for number in 0..20_000 {
            set.insert(definition(&definitions, &format!("SELECT a{number}")), 0);
            set.evict(100, 1_000_000, set.clock());
        }
        assert_eq!((set.len(), set.order.len()), (100, 100));
        assert!(definitions.len() < 20_000);
    }
}
