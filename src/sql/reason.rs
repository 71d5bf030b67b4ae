//! Why a string got its effect: for humans, and a label for metrics.

use super::statement::FunctionName;
use std::fmt;

/// What decided an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EffectReason {
    /// Nothing in it.
    Empty,
    /// Nothing in it writes.
    PlainRead,
    /// The statement's own keyword: INSERT, VACUUM, SET…
    Keyword(&'static str),
    /// A statement that changes the catalog.
    Ddl(&'static str),
    /// A writing statement inside another: a data-modifying WITH.
    NestedWrite(&'static str),
    /// FOR UPDATE and its kin.
    LockingClause,
    /// SELECT … INTO.
    SelectInto,
    /// A built-in function that writes or has an effect outside the transaction.
    Function(FunctionName),
    /// A function whose answer tells the server apart from the primary.
    NodeFunction(FunctionName),
    /// A function that is not built in.
    UnknownFunction(FunctionName),
    /// A view of the server's own state.
    SystemView(Box<str>),
    /// A setting that differs between servers.
    NodeSetting(Box<str>),
    /// A name in `pg_temp`.
    TempSchema,
    /// The first word is no statement we know.
    UnknownStatement(Box<str>),
    /// Not SQL as PostgreSQL's scanner reads it.
    Unlexable,
    /// A client encoding in which bytes cannot be read one by one.
    Encoding,
    /// More tokens than are looked at.
    TooLong,
}

impl EffectReason {
    /// A fixed word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::PlainRead => "plain-read",
            Self::Keyword(_) => "keyword",
            Self::Ddl(_) => "ddl",
            Self::NestedWrite(_) => "nested-write",
            Self::LockingClause => "locking-clause",
            Self::SelectInto => "select-into",
            Self::Function(_) => "function",
            Self::NodeFunction(_) => "node-function",
            Self::UnknownFunction(_) => "unknown-function",
            Self::SystemView(_) => "system-view",
            Self::NodeSetting(_) => "node-setting",
            Self::TempSchema => "temp-schema",
            Self::UnknownStatement(_) => "unknown-statement",
            Self::Unlexable => "unlexable",
            Self::Encoding => "encoding",
            Self::TooLong => "too-long",
        }
    }
}

impl fmt::Display for EffectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("nothing to run"),
            Self::PlainRead => f.write_str("only reads"),
            Self::Keyword(word) => f.write_str(word),
            Self::Ddl(word) => write!(f, "{word} changes the catalog"),
            Self::NestedWrite(word) => write!(f, "{word} inside the statement"),
            Self::LockingClause => f.write_str("row locks (FOR UPDATE, FOR SHARE)"),
            Self::SelectInto => f.write_str("SELECT INTO creates a table"),
            Self::Function(name) => write!(f, "function {name} may write or has a side effect"),
            Self::NodeFunction(name) => write!(f, "function {name} tells about the server it runs on"),
            Self::UnknownFunction(name) => write!(f, "function {name} is not built in and may write"),
            Self::SystemView(name) => write!(f, "{name} shows the state of the server it is read on"),
            Self::NodeSetting(name) => write!(f, "setting {name} differs between servers"),
            Self::TempSchema => f.write_str("a name in pg_temp"),
            Self::UnknownStatement(word) => write!(f, "statement {word} is not known"),
            Self::Unlexable => f.write_str("not readable as SQL"),
            Self::Encoding => f.write_str("client encoding is not readable byte by byte"),
            Self::TooLong => f.write_str("too many tokens to look at"),
        }
    }
}
