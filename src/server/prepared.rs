//! Prepared statements: one definition shared by all clients that prepare the same text, and the set
//! of definitions that a server connection holds under our own names.

use std::collections::HashMap;
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
/// a client or a server connection holds it.
#[derive(Debug, Default)]
pub struct Definitions {
    by_text: Mutex<HashMap<Key, Weak<Definition>>>,
    next_id: AtomicU64,
}

#[derive(Debug)]
struct Key(Box<[u8]>, Box<[u8]>, bool);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 && self.1 == other.1 && self.2 == other.2
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
        self.1.hash(state);
        self.2.hash(state);
    }
}

impl Definitions {
    /// The definition of this text and these types. `conforming` is the client's
    /// `standard_conforming_strings`: the same text may mean something else without it.
    pub fn intern(
        &self,
        sql: &[u8],
        types: &[u8],
        conforming: bool,
        statement: &Arc<Statement>,
    ) -> Arc<Definition> {
        let mut map = self.by_text.lock();
        let key = Key(sql.into(), types.into(), conforming);
        if let Some(found) = map.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        let definition = self.unshared(sql, types, statement);
        if map.len() >= 1024 && map.len() == map.capacity() {
            // Forget what nobody holds before the map would grow.
            map.retain(|_, weak| weak.strong_count() > 0);
        }
        map.insert(key, Arc::downgrade(&definition));
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
        self.by_text.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The definitions that one server connection holds, the least recently used leaving first.
#[derive(Debug, Default)]
pub struct PreparedSet {
    held: FastMap<u64, (Arc<Definition>, u64)>,
    clock: u64,
}

impl PreparedSet {
    /// Whether the server has it; marks it as used.
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
        self.held.insert(definition.id, (definition, self.clock));
    }

    /// Records that the server does not have it.
    pub fn remove(&mut self, id: u64) {
        self.held.remove(&id);
    }

    /// Takes out what is over `limit`, least recently used first, never what was used since `since`
    /// (the clock at the start of a batch).
    pub fn evict(&mut self, limit: usize, since: u64) -> Vec<Arc<Definition>> {
        let mut out = Vec::new();
        while self.held.len() > limit.max(1) {
            let Some((&id, &(_, used))) = self.held.iter().min_by_key(|(_, (_, used))| *used) else { break };
            if used > since {
                break;
            }
            out.extend(self.held.remove(&id).map(|(definition, _)| definition));
        }
        out
    }

    /// The clock, for [`PreparedSet::evict`].
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// Forgets all: the server has dropped them.
    pub fn clear(&mut self) {
        self.held.clear();
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}
