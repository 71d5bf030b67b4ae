//! The prepared statements of one client, by the names it gave them, bounded in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::DefaultHashBuilder;
use indexmap::IndexMap;

use crate::server::{Definition, RowShape, decoy_name, is_server_name};

use super::exchange::Undo;

/// A statement and what its client knows of it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    definition: Arc<Definition>,
    /// `None` when the client never asked.
    told: Option<RowShape>,
}

/// A client's statements.
#[derive(Debug, Default)]
pub(super) struct ClientStatements {
    /// Many clients have none.
    named: Option<Box<Named>>,
    unnamed: Option<Entry>,
}

/// Those that have names.
#[derive(Debug, Default)]
struct Named {
    by_name: IndexMap<Box<[u8]>, Entry, DefaultHashBuilder>,
    /// Where the one lies that was asked for last: a batch asks for the same one several times.
    recent: AtomicUsize,
    /// Bytes of their SQL.
    bytes: usize,
}

impl Named {
    fn find(&self, name: &[u8]) -> Option<&Entry> {
        let name = cut(name);
        match self.by_name.get_index(self.recent.load(Ordering::Relaxed)) {
            Some((recent, entry)) if **recent == *name => Some(entry),
            _ => self.look_up(name),
        }
    }

    fn look_up(&self, name: &[u8]) -> Option<&Entry> {
        let (index, _, entry) = self.by_name.get_full(name)?;
        self.recent.store(index, Ordering::Relaxed);
        Some(entry)
    }

    fn find_mut(&mut self, name: &[u8]) -> Option<&mut Entry> {
        self.find(name)?;
        // It is the one that was found last.
        self.by_name.get_index_mut(*self.recent.get_mut()).map(|(_, entry)| entry)
    }

    fn put(&mut self, name: &[u8], entry: Option<Entry>) -> Option<Entry> {
        let name = cut(name);
        let previous = match entry {
            Some(entry) => {
                self.bytes += entry.definition.sql.len();
                self.by_name.insert(name.into(), entry)
            }
            None => self.by_name.swap_remove(name),
        };
        self.bytes -= previous.as_ref().map_or(0, |entry| entry.definition.sql.len());
        previous
    }
}

impl ClientStatements {
    /// The statement of this name.
    pub(super) fn find(&self, name: &[u8]) -> Option<&Arc<Definition>> {
        self.entry(name).map(|entry| &entry.definition)
    }

    fn entry(&self, name: &[u8]) -> Option<&Entry> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.as_ref()?.find(name) }
    }

    /// Sets or removes the statement of this name; the answer undoes it.
    pub(super) fn set(&mut self, name: &[u8], definition: Option<Arc<Definition>>) -> Undo {
        let previous = self.put(name, definition.map(|definition| Entry { definition, told: None }));
        Undo::Client { name: name.into(), previous }
    }

    fn put(&mut self, name: &[u8], entry: Option<Entry>) -> Option<Entry> {
        if name.is_empty() {
            return std::mem::replace(&mut self.unnamed, entry);
        }
        match (&mut self.named, entry) {
            (None, None) => None,
            (named, entry) => named.get_or_insert_default().put(name, entry),
        }
    }

    /// Undoes what [`ClientStatements::set`] did.
    pub(super) fn undo(&mut self, undo: Undo) {
        if let Undo::Client { name, previous } = undo {
            self.put(&name, previous);
        }
    }

    /// The client was told what this statement gives back.
    pub(super) fn told(&mut self, name: &[u8], id: u64, shape: RowShape) {
        let entry = match &mut self.named {
            _ if name.is_empty() => self.unnamed.as_mut(),
            named => named.as_mut().and_then(|named| named.find_mut(name)),
        };
        if let Some(entry) = entry.filter(|entry| entry.definition.id == id) {
            entry.told = Some(shape);
        }
    }

    /// The statement of this name, and whether the client was told what it gives back.
    pub(super) fn find_told(&self, name: &[u8]) -> Option<(&Arc<Definition>, bool)> {
        self.entry(name).map(|entry| (&entry.definition, entry.told.is_some()))
    }

    /// The body of an error in which our name for a statement of this client's is replaced by the client's;
    /// `None` when there is no such name in it. `blamed` is the one that it is about, where that is known: several
    /// may be the same to a server.
    pub(super) fn reword(&self, body: &[u8], blamed: Option<&[u8]>) -> Option<Vec<u8>> {
        const OURS: &[u8] = b"\"pgweir_";
        let at = body.windows(OURS.len()).position(|window| window == OURS)?;
        let (before, rest) = (body.get(..at)?, body.get(at + 1..)?);
        let end = rest.iter().position(|byte| *byte == b'"')?;
        let ours = rest.get(..end).filter(|ours| is_server_name(ours))?;
        let is_ours = |entry: &Entry| entry.definition.server_name.as_bytes() == ours;
        let stands_in = ours == decoy_name().as_bytes();
        let blamed = blamed.filter(|name| stands_in || self.entry(name).is_some_and(is_ours));
        let entries = self.named.iter().flat_map(|named| &named.by_name);
        let mut named = entries.filter(|(_, entry)| is_ours(entry)).map(|(name, _)| &**name);
        let known = blamed.or_else(|| named.next())?;
        let mut out = before.to_vec();
        out.push(b'"');
        out.extend_from_slice(known);
        out.extend_from_slice(rest.get(end..)?);
        Some(out)
    }

    /// Whether the client would take rows of this shape for what it was told.
    pub(super) fn fits(&self, name: &[u8], shape: RowShape) -> bool {
        self.entry(name).is_some_and(|entry| entry.told.is_none_or(|told| told == shape))
    }

    /// What the client was told that it gives back.
    pub(super) fn shape(&self, name: &[u8]) -> Option<RowShape> {
        self.entry(name)?.told
    }

    /// Named statements held.
    pub(super) fn len(&self) -> usize {
        self.named.as_ref().map_or(0, |named| named.by_name.len())
    }

    /// Bytes of their SQL.
    pub(super) fn bytes(&self) -> usize {
        self.named.as_ref().map_or(0, |named| named.bytes)
    }

    /// Forgets what has a name: DISCARD ALL and DEALLOCATE ALL leave the unnamed one.
    pub(super) fn clear_named(&mut self) {
        self.named = None;
    }
}

/// PostgreSQL looks at so much of a name.
fn cut(name: &[u8]) -> &[u8] {
    name.get(..63).unwrap_or(name)
}
