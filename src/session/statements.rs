//! The prepared statements of one client, by the names it gave them, bounded in bytes.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::server::{Definition, RowShape};

use super::exchange::Undo;

#[derive(Debug)]
struct Entry {
    definition: Arc<Definition>,
    /// `None` when the client never asked.
    told: Option<RowShape>,
}

/// A client's statements.
#[derive(Debug, Default)]
pub(super) struct ClientStatements {
    named: HashMap<Box<[u8]>, Entry>,
    unnamed: Option<Arc<Definition>>,
    /// Bytes of SQL of the named ones.
    bytes: usize,
}

impl ClientStatements {
    /// The statement of this name.
    pub(super) fn find(&self, name: &[u8]) -> Option<&Arc<Definition>> {
        if name.is_empty() {
            self.unnamed.as_ref()
        } else {
            self.named.get(name).map(|entry| &entry.definition)
        }
    }

    /// Sets or removes the statement of this name; the answer undoes it.
    pub(super) fn set(&mut self, name: &[u8], definition: Option<Arc<Definition>>) -> Undo {
        let previous = self.put(name, definition);
        Undo::Client { name: name.into(), previous }
    }

    fn put(&mut self, name: &[u8], definition: Option<Arc<Definition>>) -> Option<Arc<Definition>> {
        if name.is_empty() {
            return std::mem::replace(&mut self.unnamed, definition);
        }
        let previous = match definition {
            Some(definition) => {
                self.bytes += definition.sql.len();
                self.named.insert(name.into(), Entry { definition, told: None })
            }
            None => self.named.remove(name),
        };
        let previous = previous.map(|entry| entry.definition);
        self.bytes -= previous.as_ref().map_or(0, |definition| definition.sql.len());
        previous
    }

    /// Undoes what [`ClientStatements::set`] did.
    pub(super) fn undo(&mut self, undo: Undo) {
        if let Undo::Client { name, previous } = undo {
            self.put(&name, previous);
        }
    }

    /// The client was told what this statement gives back.
    pub(super) fn told(&mut self, name: &[u8], shape: RowShape) {
        if let Some(entry) = self.named.get_mut(name) {
            entry.told = Some(shape);
        }
    }

    /// What the client was told that this statement gives back.
    pub(super) fn has_been_told(&self, name: &[u8]) -> bool {
        self.named.get(name).is_some_and(|entry| entry.told.is_some())
    }

    /// The body of an error in which our name for a statement of this client's is replaced by the client's;
    /// `None` when there is no such name in it. `blamed` is the one that it is about, where that is known: several
    /// may be the same to a server.
    pub(super) fn reword(&self, body: &[u8], blamed: Option<&[u8]>) -> Option<Vec<u8>> {
        const OURS: &[u8] = b"\"pgweir_";
        let at = body.windows(OURS.len()).position(|window| window == OURS)?;
        let (before, rest) = (body.get(..at)?, body.get(at + 1..)?);
        let end = rest.iter().position(|byte| *byte == b'"')?;
        let ours = rest.get(..end)?;
        let is_ours = |entry: &Entry| entry.definition.server_name.as_bytes() == ours;
        let known =
            blamed.and_then(|name| self.named.get_key_value(name)).filter(|(_, entry)| is_ours(entry));
        let known = known.or_else(|| self.named.iter().find(|(_, entry)| is_ours(entry)));
        let mut out = before.to_vec();
        out.push(b'"');
        out.extend_from_slice(known?.0);
        out.extend_from_slice(rest.get(end..)?);
        Some(out)
    }

    /// Whether the client would take rows of this shape for what it was told.
    pub(super) fn fits(&self, name: &[u8], shape: RowShape) -> bool {
        self.named.get(name).is_some_and(|entry| entry.told.is_none_or(|told| told == shape))
    }

    /// Named statements held.
    pub(super) fn len(&self) -> usize {
        self.named.len()
    }

    /// Bytes of their SQL.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets all: DISCARD ALL, DEALLOCATE ALL.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
