//! What is known of one statement string: the room's answer.

use super::fingerprint::Fingerprint;
use super::hint::Hint;
use super::mentions::Mentions;
use super::reason::EffectReason;
use super::session_effects::SessionEffects;
use super::transaction::TransactionControl;
use std::fmt;

/// What a string does, the strictest of its statements; in order of strictness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// No statement at all.
    Empty,
    /// Only reads, and any server gives the same answer.
    Read,
    /// BEGIN, COMMIT and their kin.
    Transaction,
    /// Works on the session: SET, LISTEN, PREPARE, cursors.
    Session,
    /// Writes, locks, or asks what only the primary can answer.
    Write,
    /// Not understood: the primary.
    Unknown,
}

impl Effect {
    /// True if a replica may run it, as far as the text tells.
    pub fn replica_safe(self) -> bool {
        self == Self::Read
    }

    /// A word for tables and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Read => "read",
            Self::Transaction => "transaction",
            Self::Session => "session",
            Self::Write => "write",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A table as it was named; folded as PostgreSQL folds, cut to 63 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// The schema, if one was named.
    pub schema: Option<Box<str>>,
    /// The table.
    pub name: Box<str>,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        f.write_str(&self.name)
    }
}

/// The tables of a string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Read from.
    pub read: Vec<TableName>,
    /// Inserted into, updated, deleted from, truncated, copied into.
    pub written: Vec<TableName>,
    /// The two lists are all there is; when false, others may be touched.
    pub complete: bool,
    /// `read` is all there is, but for what functions that are not built in may read.
    pub reads_complete: bool,
    /// `written` is all there is, but for what functions that are not built in may write.
    pub writes_complete: bool,
}

/// A function as it was called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionName {
    /// The schema, if one was named.
    pub schema: Option<Box<str>>,
    /// The function.
    pub name: Box<str>,
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        f.write_str(&self.name)
    }
}

/// What is known of one string of SQL. Holds no literal of it.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Its identity; texts that differ in literals and comments share it.
    pub fingerprint: Fingerprint,
    /// The strictest effect of its statements.
    pub effect: Effect,
    /// What decided the effect.
    pub reason: EffectReason,
    /// The effect, were all functions that are not built in harmless: what the catalog starts from.
    pub own_effect: Effect,
    /// What decided that.
    pub own_reason: EffectReason,
    /// The transaction command, when the string is exactly one statement.
    pub control: Option<TransactionControl>,
    /// What all its statements together leave in the session.
    pub session: SessionEffects,
    /// How many statements there are; 0 is an empty query.
    pub statement_count: u32,
    /// Some statement changes the catalog.
    pub is_ddl: bool,
    /// The tables.
    pub tables: Tables,
    /// The functions called, without what is syntax.
    pub functions: Vec<FunctionName>,
    /// Operators and names: what may call functions without a call's looks.
    pub mentions: Mentions,
    /// What its comments ask for.
    pub hint: Hint,
}

impl Statement {
    /// Whether it may call `nextval`, by itself, by a column's default or inside something unknown.
    #[inline]
    pub fn may_call_nextval(&self) -> bool {
        const UNKNOWN: SessionEffects = SessionEffects::UNKNOWN_FUNCTION
            .union(SessionEffects::UNKNOWN_PROCEDURE)
            .union(SessionEffects::SQL_EXECUTE);
        self.effect > Effect::Transaction
            && (!self.tables.written.is_empty()
                || self.effect == Effect::Unknown
                || self.session.intersects(UNKNOWN)
                || self.functions.iter().any(|function| &*function.name == "nextval"))
    }

    /// Bytes it takes in a cache, near enough.
    pub fn weight(&self) -> usize {
        let names =
            |schema: &Option<Box<str>>, name: &str| 32 + name.len() + schema.as_deref().map_or(0, str::len);
        let tables = self.tables.read.iter().chain(&self.tables.written);
        size_of::<Self>()
            + tables.map(|t| names(&t.schema, &t.name)).sum::<usize>()
            + self.functions.iter().map(|f| names(&f.schema, &f.name)).sum::<usize>()
            + self.mentions.weight()
            + self.hint.key.as_deref().map_or(0, str::len)
            + 64
    }
}
