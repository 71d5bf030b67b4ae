//! What was resolved, by statement and search path: bounded in bytes, cheap when found.
//!
//! A cache belongs to one snapshot of one catalog, so nothing in it is ever outdated. When a part is full it is
//! emptied: what is in use is back at once, and resolving costs a few microseconds.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::RwLock;

use crate::sql::Statement;

use super::path::SearchPath;
use super::resolve::Resolved;

const PARTS: usize = 16;

/// Remembers what statements mean in one database.
#[derive(Debug)]
pub struct ResolveCache {
    parts: Box<[RwLock<Part>]>,
    part_bytes_max: usize,
}

type Key = (u128, u64);

#[derive(Debug, Default)]
struct Part {
    entries: HashMap<Key, Arc<Resolved>, BuildHasherDefault<Folded>>,
    bytes: usize,
}

/// Fingerprints are random already; the path's number is a hash.
#[derive(Debug, Default)]
struct Folded(u64);

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 ^= value;
    }

    fn write_u128(&mut self, value: u128) {
        self.0 ^= value as u64;
    }
}

impl ResolveCache {
    /// A cache of at most about `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        Self { parts: (0..PARTS).map(|_| RwLock::default()).collect(), part_bytes_max: limit_bytes / PARTS }
    }

    /// What is remembered, or else what `resolve` says.
    #[inline]
    pub fn resolve(
        &self,
        statement: &Statement,
        path: &SearchPath,
        resolve: impl FnOnce() -> Resolved,
    ) -> Arc<Resolved> {
        let fingerprint = statement.fingerprint.0;
        let key = (fingerprint, path.id());
        let part = &self.parts[(fingerprint >> 124) as usize % PARTS];
        if let Some(found) = part.read().entries.get(&key) {
            return Arc::clone(found);
        }
        let resolved = Arc::new(resolve());
        let weight = resolved.weight() + size_of::<(Key, Arc<Resolved>)>();
        if weight <= self.part_bytes_max {
            let mut part = part.write();
            if part.bytes + weight > self.part_bytes_max {
                *part = Part::default();
            }
            if part.entries.insert(key, Arc::clone(&resolved)).is_none() {
                part.bytes += weight;
            }
        }
        resolved
    }

    /// Entries and bytes held.
    pub fn stats(&self) -> (usize, usize) {
        self.parts
            .iter()
            .map(|part| part.read())
            .fold((0, 0), |(entries, bytes), part| (entries + part.entries.len(), bytes + part.bytes))
    }
}
