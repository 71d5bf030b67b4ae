//! Getting out of the way of commands that need a database for themselves.
//!
//! `DROP DATABASE x`, `ALTER DATABASE x RENAME` and `CREATE DATABASE y TEMPLATE x` fail while anybody is
//! connected to `x`, and what a pooler keeps open is somebody. Without a pooler it would not be there: so
//! before such a command is sent, idle connections to `x` are closed, on all nodes and for all users, the
//! probes go to another database, and none is opened until the command is done. In the command's own pool that
//! begins when it has its connection. PostgreSQL itself waits five seconds for those who are leaving; a clone is tried
//! once more after that (`retry.rs`), with connections to the template closed again.

use std::sync::Arc;

use crate::cluster::Node;
use crate::pool::{DatabaseEntry, Hold, Pool, Topology};
use crate::route::Target;
use crate::sql::{Kind, LexOptions, Scanner};

use super::client::ClientSession;
use super::context::SessionContext;

/// How many words of a statement are looked at; the template is named before.
const WORDS_MAX: usize = 64;

/// A database that a command needs for itself.
#[derive(Debug)]
pub(super) struct Needed {
    pub(super) database: String,
    /// To copy it.
    pub(super) is_template: bool,
}

/// The database that a command needs for itself; none for other statements.
pub(super) fn named(text: &[u8], lex: LexOptions) -> Option<Needed> {
    let words = words(text, lex);
    let word = |at: usize| match words.get(at) {
        Some(Word::Plain(word)) => word.as_str(),
        _ => "",
    };
    let name = |at: usize| match words.get(at) {
        Some(Word::Plain(name) | Word::Quoted(name)) => Some(name.clone()),
        _ => None,
    };
    let database = match (word(0), word(1)) {
        ("drop", "database") if (word(2), word(3)) == ("if", "exists") => name(4),
        ("drop", "database") => name(2),
        ("alter", "database") if word(3) == "rename" || (word(3), word(4)) == ("set", "tablespace") => {
            name(2)
        }
        ("create", "database") => {
            let template = (3..words.len()).find(|at| word(*at) == "template");
            template.map_or_else(|| Some("template1".to_owned()), |at| name(at + 1))
        }
        _ => None,
    };
    database.map(|database| Needed { database, is_template: word(0) == "create" })
}

enum Word {
    /// Folded to lower case.
    Plain(String),
    /// A name or text in quotes.
    Quoted(String),
}

fn words(text: &[u8], lex: LexOptions) -> Vec<Word> {
    let mut scanner = Scanner::new(text, lex);
    let mut words = Vec::new();
    while let Some(token) = scanner.next_token(&mut ()) {
        let raw = String::from_utf8_lossy(text.get(token.start..token.end).unwrap_or_default());
        match token.kind {
            Kind::Word => words.push(Word::Plain(raw.to_ascii_lowercase())),
            Kind::Quoted => words.push(Word::Quoted(raw.trim_matches('"').replace("\"\"", "\""))),
            // TEMPLATE takes a text, too.
            Kind::Text => words.push(Word::Quoted(raw.trim_matches('\'').replace("''", "'"))),
            _ => {}
        }
        // Most statements are known by their first two words to be something else.
        let is_other = words.len() == 2 && !matches!(words.get(1), Some(Word::Plain(w)) if w == "database");
        if is_other || words.len() == WORDS_MAX {
            break;
        }
    }
    words
}

/// A database that is left to a command; dropping this lets connections to it be opened again.
pub(super) struct Left {
    database: String,
    holds: Vec<Hold>,
    /// The pool of the command itself, to be held as well once it has its connection.
    own: Option<Arc<Pool>>,
    nodes: Vec<Arc<Node>>,
    entries: Vec<Arc<DatabaseEntry>>,
}

impl ClientSession {
    /// Leaves the databases that commands of this client's need for themselves, until the answer is dropped.
    /// Connections in use are closed when they return.
    pub(super) fn leave_databases(&mut self, databases: &[Needed]) -> Vec<Left> {
        if databases.is_empty() {
            return Vec::new();
        }
        let own = self.pool(Target::Primary);
        let topology = self.context.topology.load_full();
        databases.iter().map(|needed| leave(&self.context, &topology, &own, &needed.database)).collect()
    }
}

fn leave(context: &SessionContext, topology: &Topology, own: &Arc<Pool>, database: &str) -> Left {
    context.pools.listeners.close_unused(database);
    let (mut holds, mut own_pool) = (Vec::new(), None);
    for pool in context.pools.pools().into_iter().filter(|pool| pool.target().database == database) {
        if Arc::ptr_eq(&pool, own) {
            // The command itself needs a connection: PostgreSQL does not count that, or says why it may not.
            pool.renew();
            own_pool = Some(pool);
        } else {
            holds.push(pool.hold());
        }
    }
    let is_it = |entry: &Arc<DatabaseEntry>| {
        entry.settings.server_database.as_ref().unwrap_or(&entry.name) == database
    };
    let left = Left {
        database: database.to_owned(),
        holds,
        own: own_pool,
        nodes: topology.nodes().cloned().collect(),
        entries: topology.databases().into_iter().filter(is_it).collect(),
    };
    left.nodes.iter().for_each(|node| node.vacate(database));
    left.forget_logins();
    left
}

impl Left {
    /// The command has its connection: its pool opens no more of them, to keep `pool.min_size` or for others.
    pub(super) fn command_begins(&mut self) {
        if let Some(own) = self.own.take() {
            self.holds.push(own.hold());
        }
    }

    /// What clients are told at login is asked for anew: the database may be another one now, or none.
    fn forget_logins(&self) {
        self.entries.iter().for_each(|entry| entry.reported.lock().clear());
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        self.forget_logins();
        self.nodes.iter().for_each(|node| node.vacate_ends(&self.database));
        self.holds.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_that_must_be_free_is_found() {
        let named = |text: &str| named(text.as_bytes(), LexOptions::default()).map(|needed| needed.database);
        let is = |text: &str, name: &str| assert_eq!(named(text).as_deref(), Some(name), "{text}");
        is("DROP DATABASE Test_X;", "test_x");
        is("drop /* it */ database if exists \"Te\"\"st\"", "Te\"st");
        is("DROP DATABASE \"if\" WITH (FORCE)", "if");
        is("CREATE DATABASE \"a_1\" WITH TEMPLATE a", "a");
        is("CREATE DATABASE template OWNER = app TEMPLATE = \"A\" ENCODING 'UTF8'", "A");
        is("create database b template 'it''s'", "it's");
        is("CREATE DATABASE b OWNER app", "template1");
        is("ALTER DATABASE a RENAME TO b", "a");
        is("ALTER DATABASE a SET TABLESPACE s", "a");
        for other in [
            "ALTER DATABASE a SET work_mem = 1",
            "DROP TABLE database",
            "SELECT 'DROP DATABASE a'",
            "",
            "DROP",
        ] {
            assert_eq!(named(other), None, "{other}");
        }
    }
}
