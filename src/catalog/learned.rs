//! Statements that a standby has refused though they looked like reads: from then on they are writes.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use crate::sql::Fingerprint;

/// Statements remembered; beyond that all are forgotten, and learned again if need be.
const STATEMENTS_MAX: usize = 10_000;

/// What was learned of one database's statements.
#[derive(Debug, Default)]
pub struct LearnedWrites {
    any: AtomicBool,
    statements: RwLock<HashSet<u128>>,
}

impl LearnedWrites {
    /// A standby has refused this one.
    pub fn learn(&self, statement: Fingerprint) {
        let mut statements = self.statements.write();
        if statements.len() >= STATEMENTS_MAX {
            statements.clear();
        }
        statements.insert(statement.0);
        self.any.store(true, Ordering::Release);
    }

    /// Whether a standby has refused it.
    #[inline]
    pub fn knows(&self, statement: Fingerprint) -> bool {
        self.any.load(Ordering::Acquire) && self.statements.read().contains(&statement.0)
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.statements.read().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }
}
