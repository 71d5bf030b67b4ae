//! The prepared statements of one client, by the names it gave them.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::server::Definition;

use super::exchange::Undo;

/// A client's statements.
#[derive(Debug, Default)]
pub(super) struct ClientStatements {
    named: HashMap<Box<[u8]>, Arc<Definition>>,
    unnamed: Option<Arc<Definition>>,
}

impl ClientStatements {
    /// The statement of this name.
    pub(super) fn find(&self, name: &[u8]) -> Option<&Arc<Definition>> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
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
        match definition {
            Some(definition) => self.named.insert(name.into(), definition),
            None => self.named.remove(name),
        }
    }

    /// Undoes what [`ClientStatements::set`] did.
    pub(super) fn undo(&mut self, undo: Undo) {
        if let Undo::Client { name, previous } = undo {
            self.put(&name, previous);
        }
    }

    /// Named statements held.
    pub(super) fn len(&self) -> usize {
        self.named.len()
    }

    /// Forgets all: DISCARD ALL, DEALLOCATE ALL.
    pub(super) fn clear(&mut self) {
        self.named.clear();
        self.unnamed = None;
    }
}
