//! Prepared statements: one definition shared by all clients that prepare the same text, and the set
//! of definitions that a server connection holds under our own names.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use hashbrown::HashMap as FastMap;
use parking_lot::Mutex;

use crate::sql::Statement;

/// What a Parse defined: text, parameter types, and what the text means.
#[derive(Debug)]
pub struct Definition {
    /// Unique in the process.
    pub id: u64,
    /// Its name on servers.
    pub server_name: String,
    /// The SQL as the client sent it.
    pub sql: Box<[u8]>,
    /// Parameter types as the client sent them: count and OIDs.
    pub types: Box<[u8]>,
    /// What it means for routing.
    pub statement: Arc<Statement>,
    /// Some server has parsed it: another client that prepares the same need not wait for one.
    pub is_valid: AtomicBool,
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

#[derive(Debug)]
struct Key(Box<[u8]>, Box<[u8]>, bool, u64);

impl Key {
    fn bytes(&self) -> usize {
        self.0.len() + self.1.len() + Texts::ENTRY_BYTES
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 && self.1 == other.1 && self.2 == other.2 && self.3 == other.3
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
        self.1.hash(state);
        self.2.hash(state);
        self.3.hash(state);
    }
}

impl Definitions {
    /// The definition of this text and these types. `conforming` is the client's
    /// `standard_conforming_strings`: the same text may mean something else without it. `epoch` is that of the
    /// catalog: a type made anew under the same name has another number.
    pub fn intern(
        &self,
        sql: &[u8],
        types: &[u8],
        conforming: bool,
        epoch: u64,
        statement: &Arc<Statement>,
    ) -> Arc<Definition> {
        let mut texts = self.by_text.lock();
        let key = Key(sql.into(), types.into(), conforming, epoch);
        if let Some(found) = texts.map.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        let definition = self.unshared(sql, types, statement);
        texts.sweep_if_grown();
        let bytes = key.bytes();
        if texts.map.insert(key, Arc::downgrade(&definition)).is_none() {
            texts.bytes += bytes;
        }
        definition
    }

    /// A definition that is not shared: for unnamed statements, which come and go.
    pub fn unshared(&self, sql: &[u8], types: &[u8], statement: &Arc<Statement>) -> Arc<Definition> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        Arc::new(Definition {
            id,
            server_name: format!("pgweir_{id}"),
            sql: sql.into(),
            types: types.into(),
            statement: Arc::clone(statement),
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
    held: FastMap<u64, (Arc<Definition>, u64)>,
    /// Ids in order of their use, as far as it has been looked at: an entry that was used since is put back
    /// at the end when its turn comes, so that a use costs no more than a number.
    order: VecDeque<(u64, u64)>,
    bytes: usize,
    clock: u64,
    /// Something was added since the last look at the bounds.
    grew: bool,
}

impl PreparedSet {
    /// Whether the server has it; marks it as used.
    #[inline]
    pub fn touch(&mut self, id: u64) -> bool {
        self.clock += 1;
        match self.held.get_mut(&id) {
            Some(entry) => {
                entry.1 = self.clock;
                true
            }
            None => false,
        }
    }

    /// Records that the server has it (or will, once the Parse before it is done).
    pub fn insert(&mut self, definition: Arc<Definition>) {
        self.clock += 1;
        let (id, bytes) = (definition.id, definition.sql.len());
        self.grew = true;
        if self.held.insert(id, (definition, self.clock)).is_none() {
            self.bytes += bytes;
            self.order.push_back((id, self.clock));
        }
    }

    /// Records that the server does not have it.
    pub fn remove(&mut self, id: u64) {
        if let Some((definition, _)) = self.held.remove(&id) {
            self.bytes -= definition.sql.len();
            // Rare: a Parse that failed, a plan that is stale.
            self.order.retain(|(held, _)| *held != id);
        }
    }

    /// Whether the bounds are to be looked at: something was added since this was asked last.
    #[inline]
    pub fn has_grown(&mut self) -> bool {
        std::mem::take(&mut self.grew)
    }

    /// Takes out what is over `count` or `bytes`, least recently used first, never what was used since `since`
    /// (the clock at the start of a batch).
    pub fn evict(&mut self, count: usize, bytes: usize, since: u64) -> Vec<Arc<Definition>> {
        let mut out = Vec::new();
        while self.held.len() > count.max(1) || (self.bytes > bytes && self.held.len() > 1) {
            let Some((id, seen)) = self.order.pop_front() else { break };
            let Some(used) = self.held.get(&id).map(|(_, used)| *used) else { continue };
            if used > seen {
                self.order.push_back((id, used));
                continue;
            }
            if used > since {
                self.order.push_front((id, seen));
                break;
            }
            if let Some((definition, _)) = self.held.remove(&id) {
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
        let statement = StatementCache::new(1 << 20).analyze(sql.as_bytes(), LexOptions::default());
        definitions.intern(sql.as_bytes(), b"\0\0", true, 0, &statement)
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
    fn the_least_recently_used_leaves_first() {
        let (definitions, mut set) = (Definitions::default(), PreparedSet::default());
        let all: Vec<_> = (0..5).map(|n| definition(&definitions, &format!("SELECT a{n}"))).collect();
        for definition in &all {
            set.insert(Arc::clone(definition));
        }
        assert!(set.touch(all[0].id) && set.touch(all[1].id) && !set.touch(0));
        let gone = set.evict(3, usize::MAX, set.clock());
        assert_eq!(gone.iter().map(|d| d.id).collect::<Vec<_>>(), [all[2].id, all[3].id]);
        assert_eq!((set.len(), set.bytes()), (3, 3 * "SELECT a0".len()));
        // By bytes, but never the last one; never what this batch uses.
        let since = set.clock();
        set.touch(all[4].id);
        assert_eq!(set.evict(10, 5, since).len(), 2);
        assert_eq!(set.evict(10, 5, since).len(), 0);
        set.remove(all[4].id);
        assert_eq!((set.len(), set.bytes()), (0, 0));
    }

    #[test]
    fn many_statements_cost_no_more_than_they_must() {
        let (definitions, mut set) = (Definitions::default(), PreparedSet::default());
        for number in 0..20_000 {
            set.insert(definition(&definitions, &format!("SELECT a{number}")));
            set.evict(100, 1_000_000, set.clock());
        }
        assert_eq!((set.len(), set.order.len()), (100, 100));
        assert!(definitions.len() < 20_000);
    }
}
