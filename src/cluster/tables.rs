//! A set of tables, as horizons and the catalog speak of them: by number.

use std::fmt;
use std::sync::Arc;

/// A table, or a tree of partitions: the smallest OID of it.
pub type TableId = u32;

/// Some tables, or all there are. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub enum TableSet {
    /// These; sorted, each once.
    Some(Arc<[TableId]>),
    /// All, known or not.
    All,
}

impl TableSet {
    /// No table.
    pub fn none() -> Self {
        Self::of(Vec::new())
    }

    /// These.
    pub fn of(mut tables: Vec<TableId>) -> Self {
        tables.sort_unstable();
        tables.dedup();
        Self::Some(tables.into())
    }

    /// Whether it is known to be empty.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Some(tables) if tables.is_empty())
    }

    /// Both together.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => Self::All,
            (one, empty) | (empty, one) if empty.is_empty() => one.clone(),
            (Self::Some(a), Self::Some(b)) => Self::of(a.iter().chain(b.iter()).copied().collect()),
        }
    }

    /// Bytes on the heap, near enough.
    pub fn weight(&self) -> usize {
        match self {
            Self::Some(tables) => 16 + tables.len() * size_of::<TableId>(),
            Self::All => 0,
        }
    }
}

impl fmt::Debug for TableSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Some(tables) => f.debug_set().entries(tables.iter()).finish(),
            Self::All => f.write_str("all"),
        }
    }
}
