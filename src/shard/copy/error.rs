//! What is wrong with the data of a COPY, in PostgreSQL's words where PostgreSQL would say it, too.

use std::fmt;

use super::CopyKey;

/// Why a COPY fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyError {
    /// The table.
    pub table: String,
    /// The line, or the row of binary data, counted from 1.
    pub line: u64,
    /// What is wrong there.
    pub problem: CopyProblem,
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyProblem {
    /// It is longer than this, in bytes.
    RowTooLong(usize),
    /// It ends before this column of the key.
    MissingColumn(String),
    /// A binary row has another number of columns than the statement.
    FieldCount {
        /// How many it has.
        found: i16,
        /// How many it should have.
        expected: usize,
    },
    /// It is not in the format.
    Malformed(&'static str),
    /// The key's value is not read.
    Value {
        /// The key's column.
        column: String,
        /// The type it should have.
        wanted: &'static str,
    },
    /// The function has no shard for the value.
    NoShard(String),
}

impl CopyProblem {
    pub(super) fn value(key: &CopyKey) -> Self {
        Self::Value { column: key.column.name.clone(), wanted: key.column.key_type.as_str() }
    }

    fn column(&self) -> Option<&str> {
        match self {
            Self::MissingColumn(column) | Self::Value { column, .. } | Self::NoShard(column) => Some(column),
            Self::RowTooLong(_) | Self::FieldCount { .. } | Self::Malformed(_) => None,
        }
    }
}

impl CopyError {
    /// The code of the error.
    pub fn sqlstate(&self) -> &'static str {
        match self.problem {
            CopyProblem::RowTooLong(_) => "54000",
            CopyProblem::MissingColumn(_) | CopyProblem::FieldCount { .. } | CopyProblem::Malformed(_) => {
                "22P04"
            }
            CopyProblem::Value { .. } | CopyProblem::NoShard(_) => "0A000",
        }
    }

    /// What to do.
    pub fn hint(&self) -> Option<String> {
        match &self.problem {
            CopyProblem::RowTooLong(_) => Some("Copy this row with INSERT.".to_owned()),
            CopyProblem::Value { wanted, .. } => Some(format!(
                "Write it as a value of type {wanted}; dates and times in ISO form, timestamptz with an offset."
            )),
            CopyProblem::NoShard(_) => Some("Add it to the function in pooler.yaml.".to_owned()),
            CopyProblem::MissingColumn(_) | CopyProblem::FieldCount { .. } | CopyProblem::Malformed(_) => {
                None
            }
        }
    }

    /// Where it is, as PostgreSQL says it in CONTEXT.
    pub fn context(&self) -> String {
        let mut context = format!("COPY {}, line {}", self.table, self.line);
        if let Some(column) = self.problem.column() {
            context.push_str(", column ");
            context.push_str(column);
        }
        context
    }
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            CopyProblem::RowTooLong(max) => {
                write!(f, "a row of COPY into a sharded table is longer than {max} bytes")
            }
            CopyProblem::MissingColumn(column) => write!(f, "missing data for column \"{column}\""),
            CopyProblem::FieldCount { found, expected } => {
                write!(f, "row field count is {found}, expected {expected}")
            }
            CopyProblem::Malformed(what) => f.write_str(what),
            CopyProblem::Value { column, wanted } => write!(
                f,
                "the value of the sharding key \"{column}\" is not known to be one of type {wanted}"
            ),
            CopyProblem::NoShard(column) => {
                write!(f, "no shard has this value of the sharding key \"{column}\"")
            }
        }
    }
}

impl std::error::Error for CopyError {}
