//! Why the catalog decided as it did: for humans, and a label for metrics.

use std::fmt;

use crate::sql::{EffectReason, FunctionName, TableName};

/// How far a function can be trusted, in order of danger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Volatility {
    /// Depends on its arguments alone.
    #[default]
    Immutable,
    /// Reads what it likes, writes nothing.
    Stable,
    /// May do anything.
    Volatile,
}

/// What decided the effect of a resolved statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolveReason {
    /// The text alone.
    Text(EffectReason),
    /// A user function that is volatile: called, or behind an operator, a cast, a view, a policy.
    VolatileFunction {
        /// The function.
        function: Box<str>,
        /// Behind what, if it is not called by name.
        behind: Option<Box<str>>,
    },
    /// Neither built in nor in the catalog.
    UnknownFunction(FunctionName),
    /// A table that the catalog does not have.
    UnknownTable(TableName),
    /// Its content is not, or not the same, on a replica.
    PrimaryOnly {
        /// The relation.
        table: Box<str>,
        /// What it is: an unlogged table, a foreign table…
        what: &'static str,
    },
}

impl ResolveReason {
    /// A fixed word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Text(reason) => reason.label(),
            Self::VolatileFunction { .. } => "volatile-function",
            Self::UnknownFunction(_) => "unknown-function",
            Self::UnknownTable(_) => "unknown-table",
            Self::PrimaryOnly { .. } => "primary-only-table",
        }
    }
}

impl fmt::Display for ResolveReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(reason) => reason.fmt(f),
            Self::VolatileFunction { function, behind: None } => {
                write!(f, "function {function} is VOLATILE and may write")
            }
            Self::VolatileFunction { function, behind: Some(behind) } => {
                // A user's function has its schema with it.
                let why = if function.contains('.') {
                    "is VOLATILE and may write"
                } else {
                    "is for the primary alone"
                };
                write!(f, "function {function} behind {behind} {why}")
            }
            Self::UnknownFunction(name) => write!(f, "function {name} is not in the catalog and may write"),
            Self::UnknownTable(name) => write!(f, "table {name} is not in the catalog"),
            Self::PrimaryOnly { table, what } => write!(f, "{table} is {what}"),
        }
    }
}
