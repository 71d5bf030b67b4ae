//! Keys derived once: a bounded cache of [`ScramKeys`], and the work that fills it.
//!
//! An entry stands for (user, password, salt, iterations). The password is part of it, so that a corrected
//! password is never answered with the keys of the old one. Only digests of these are kept as the key of an entry.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::digest::{self, Key};
use super::keys::ScramKeys;
use crate::config::Secret;

/// Entries kept unless told otherwise; about 200 bytes each.
const ENTRIES_DEFAULT: usize = 4096;

/// Where the keys of one password and salt will be, once derived.
pub(super) type KeyCell = Arc<OnceLock<ScramKeys>>;

/// Derived keys, shared by all exchanges of the process and bounded in number. When full, the entry made first
/// goes; it is derived again when it is wanted.
pub struct ScramCache {
    entries: Mutex<Entries>,
    entries_max: usize,
}

#[derive(Default)]
struct Entries {
    cells: HashMap<Key, KeyCell>,
    oldest_first: VecDeque<Key>,
}

impl ScramCache {
    /// A cache of a size that serves some thousand users.
    pub fn new() -> Self {
        Self::with_capacity(ENTRIES_DEFAULT)
    }

    /// A cache of at most `entries_max` entries (at least one). An entry is one user on one side.
    pub fn with_capacity(entries_max: usize) -> Self {
        Self { entries: Mutex::default(), entries_max: entries_max.max(1) }
    }

    /// The cell of this password, empty if its keys were not derived yet.
    pub(super) fn cell(&self, user: &str, password: &Secret, salt: &[u8], iterations: NonZeroU32) -> KeyCell {
        let password = password.expose().as_bytes();
        // Lengths go first so that no two tuples read the same.
        let key = digest::sha256(&[
            &(user.len() as u64).to_be_bytes(),
            &(salt.len() as u64).to_be_bytes(),
            &iterations.get().to_be_bytes(),
            user.as_bytes(),
            salt,
            password,
        ]);
        let mut entries = self.entries.lock();
        if let Some(cell) = entries.cells.get(&key) {
            return Arc::clone(cell);
        }
        while entries.cells.len() >= self.entries_max {
            let Some(oldest) = entries.oldest_first.pop_front() else { break };
            entries.cells.remove(&oldest);
        }
        let cell = KeyCell::default();
        entries.cells.insert(key, Arc::clone(&cell));
        entries.oldest_first.push_back(key);
        debug_assert_eq!(entries.cells.len(), entries.oldest_first.len());
        cell
    }
}

impl Default for ScramCache {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ScramCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramCache")
            .field("entries", &self.entries.lock().cells.len())
            .finish_non_exhaustive()
    }
}

/// One PBKDF2 to be done where blocking is allowed. When it has run, tell the exchange by `on_derived`.
///
/// Several exchanges may hold work for the same password at once; whoever runs first computes, the others wait
/// for that one result.
pub struct DeriveWork {
    cell: KeyCell,
    password: Vec<u8>,
    salt: Vec<u8>,
    iterations: NonZeroU32,
}

impl DeriveWork {
    pub(super) fn new(cell: KeyCell, password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        Self { cell, password: password.to_vec(), salt: salt.to_vec(), iterations }
    }

    /// Computes the keys: 0.5 ms and more of CPU. Call it off the event loop.
    pub fn run(self) {
        self.cell.get_or_init(|| {
            ScramKeys::derive(&digest::saslprep(&self.password), &self.salt, self.iterations)
        });
    }
}

impl fmt::Debug for DeriveWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeriveWork").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::keys::ITERATIONS_DEFAULT;

    #[test]
    fn one_entry_for_each_password_and_salt() {
        let cache = ScramCache::new();
        let cell = |user: &str, password: &str, salt: &[u8]| {
            cache.cell(user, &Secret::new(password), salt, ITERATIONS_DEFAULT)
        };
        let first = cell("u", "p", b"s");
        assert!(Arc::ptr_eq(&first, &cell("u", "p", b"s")));
        assert!(!Arc::ptr_eq(&first, &cell("u", "q", b"s")), "another password");
        assert!(!Arc::ptr_eq(&first, &cell("u", "p", b"t")), "another salt");
        assert!(!Arc::ptr_eq(&first, &cell("us", "p", b"")), "lengths count");
        let iterations = NonZeroU32::new(4097).unwrap();
        assert!(!Arc::ptr_eq(&first, &cache.cell("u", &Secret::new("p"), b"s", iterations)));
    }

    #[test]
    fn is_bounded() {
        let cache = ScramCache::with_capacity(3);
        for user in 0..100 {
            cache.cell(&user.to_string(), &Secret::new("p"), b"s", ITERATIONS_DEFAULT);
            assert!(cache.entries.lock().cells.len() <= 3);
        }
        let last = cache.cell("99", &Secret::new("p"), b"s", ITERATIONS_DEFAULT);
        assert!(Arc::ptr_eq(&last, &cache.cell("99", &Secret::new("p"), b"s", ITERATIONS_DEFAULT)));
    }

    #[test]
    fn work_fills_the_cell_for_all() {
        let cache = ScramCache::new();
        let secret = Secret::new("p");
        let cell = cache.cell("u", &secret, b"s", ITERATIONS_DEFAULT);
        let works = [(); 3].map(|()| DeriveWork::new(Arc::clone(&cell), b"p", b"s", ITERATIONS_DEFAULT));
        assert!(cell.get().is_none());
        works.into_iter().for_each(DeriveWork::run);
        let expected = ScramKeys::derive(b"p", b"s", ITERATIONS_DEFAULT);
        assert_eq!(cache.cell("u", &secret, b"s", ITERATIONS_DEFAULT).get().unwrap().client, expected.client);
    }
}
