//! Statements remembered by fingerprint: bounded in bytes, cheap when found.
//!
//! Two key spaces share one map: literal-free fingerprints (simple queries) and hashes of the very bytes
//! (prepared statements, whose texts repeat). Eviction gives each entry a second chance. A hit takes a read
//! lock of one shard and allocates nothing.

use super::analyze::{analyze_with, opaque};
use super::fingerprint::{Fingerprint, Seeds};
use super::hint::Hint;
use super::normalize::Collected;
use super::scan::LexOptions;
use super::statement::Statement;
use super::template::Templates;
use hashbrown::HashMap;
use parking_lot::RwLock;
use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SHARDS: usize = 16;

/// Remembers what statements mean.
#[derive(Debug)]
pub struct StatementCache {
    seeds: Seeds,
    templates: Templates,
    shards: Box<[RwLock<Shard>]>,
    counts: Box<[Counts]>,
    shard_bytes_max: usize,
}

/// Numbers of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Entries held.
    pub entries: u64,
    /// Bytes they take, near enough.
    pub bytes: u64,
    /// Lookups answered.
    pub hits: u64,
    /// Lookups that had to classify.
    pub misses: u64,
    /// Entries dropped for room.
    pub evictions: u64,
}

/// Apart from each other in memory, so that shards do not slow each other.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Fingerprint, Entry, BuildHasherDefault<Already>>,
    queue: VecDeque<Fingerprint>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    statement: Arc<Statement>,
    weight: usize,
    used: AtomicBool,
}

/// Fingerprints are random already.
#[derive(Debug, Default)]
struct Already(u64);

impl Hasher for Already {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

impl StatementCache {
    /// A cache of at most about `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            seeds: Seeds::random(),
            templates: Templates::new(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            counts: (0..SHARDS).map(|_| Counts::default()).collect(),
            shard_bytes_max: limit_bytes / SHARDS,
        }
    }

    /// What `sql`, the text of a simple query, means.
    pub fn analyze(&self, sql: &[u8], options: LexOptions) -> Arc<Statement> {
        if options.backslash_trail_bytes && !sql.is_ascii() {
            return Arc::new(opaque(self.seeds.exact(sql, options)));
        }
        if let Some(key) = self.templates.find(sql, options) {
            return self.known(sql, options, key, || self.seeds.fingerprint(sql, options).1);
        }
        let (key, hint) = self.seeds.fingerprint(sql, options);
        self.templates.learn(sql, options, key);
        self.known(sql, options, key, || hint)
    }

    /// The same, and its tokens, for who goes on to read its literals.
    pub fn analyze_and_keep(
        &self,
        sql: &[u8],
        options: LexOptions,
        tokens: &mut Collected,
    ) -> Arc<Statement> {
        if options.backslash_trail_bytes && !sql.is_ascii() {
            return Arc::new(opaque(self.seeds.exact(sql, options)));
        }
        let (key, hint) = self.seeds.fingerprint_and_tokens(sql, options, tokens);
        self.known(sql, options, key, || hint)
    }

    #[inline]
    fn known(
        &self,
        sql: &[u8],
        options: LexOptions,
        key: Fingerprint,
        hint: impl FnOnce() -> Hint,
    ) -> Arc<Statement> {
        self.lookup(key).unwrap_or_else(|| {
            let statement = Arc::new(analyze_with(sql, options, key, hint()));
            self.insert(key, &statement);
            statement
        })
    }

    /// The same for the text of a Parse message: found by its bytes, without lexing.
    pub fn analyze_exact(&self, sql: &[u8], options: LexOptions) -> Arc<Statement> {
        self.analyze_known(self.seeds.exact(sql, options), sql, options)
    }

    /// The same, where `key` is what [`Self::exact`] says of the text.
    pub fn analyze_known(&self, key: Fingerprint, sql: &[u8], options: LexOptions) -> Arc<Statement> {
        self.lookup(key).unwrap_or_else(|| {
            let statement = self.analyze(sql, options);
            self.insert(key, &statement);
            statement
        })
    }

    /// The fingerprint alone.
    pub fn fingerprint(&self, sql: &[u8], options: LexOptions) -> Fingerprint {
        self.seeds.fingerprint(sql, options).0
    }

    /// The fingerprint of a very text, for what depends on more than its structure.
    pub fn exact(&self, sql: &[u8], options: LexOptions) -> Fingerprint {
        self.seeds.exact(sql, options)
    }

    /// Its numbers now.
    pub fn stats(&self) -> CacheStats {
        let mut stats = CacheStats::default();
        for shard in &self.shards {
            let shard = shard.read();
            stats.entries += shard.entries.len() as u64;
            stats.bytes += shard.bytes as u64;
        }
        for counts in &self.counts {
            stats.hits += counts.hits.load(Ordering::Relaxed);
            stats.misses += counts.misses.load(Ordering::Relaxed);
            stats.evictions += counts.evictions.load(Ordering::Relaxed);
        }
        stats
    }

    fn index(key: Fingerprint) -> usize {
        (key.0 >> 124) as usize % SHARDS
    }

    fn lookup(&self, key: Fingerprint) -> Option<Arc<Statement>> {
        let index = Self::index(key);
        let shard = self.shards[index].read();
        let Some(entry) = shard.entries.get(&key) else {
            self.counts[index].misses.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        self.counts[index].hits.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(&entry.statement))
    }

    fn insert(&self, key: Fingerprint, statement: &Arc<Statement>) {
        let weight = statement.weight() + size_of::<(Fingerprint, Entry)>();
        if weight > self.shard_bytes_max {
            return;
        }
        let index = Self::index(key);
        let mut shard = self.shards[index].write();
        let mut evicted = 0;
        while shard.bytes + weight > self.shard_bytes_max {
            let Some(oldest) = shard.queue.pop_front() else { break };
            let second_chance =
                shard.entries.get(&oldest).is_some_and(|e| e.used.swap(false, Ordering::Relaxed));
            if second_chance {
                shard.queue.push_back(oldest);
            } else if let Some(entry) = shard.entries.remove(&oldest) {
                shard.bytes -= entry.weight;
                evicted += 1;
            }
        }
        let entry = Entry { statement: Arc::clone(statement), weight, used: AtomicBool::new(false) };
        match shard.entries.insert(key, entry) {
            // Another thread was faster: the key stands in the queue already.
            Some(old) => shard.bytes = shard.bytes + weight - old.weight,
            None => {
                shard.bytes += weight;
                shard.queue.push_back(key);
            }
        }
        drop(shard);
        self.counts[index].evictions.fetch_add(evicted, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_share_an_entry() {
        let cache = StatementCache::new(1 << 20);
        let options = LexOptions::default();
        let a = cache.analyze(b"SELECT * FROM t WHERE id = 1 /* a=1 */", options);
        let b = cache.analyze(b"select * from T where ID=22 -- x", options);
        assert!(Arc::ptr_eq(&a, &b));
        let stats = cache.stats();
        assert_eq!((stats.entries, stats.hits, stats.misses), (1, 1, 1));
    }

    #[test]
    fn exact_texts_are_found_without_lexing() {
        let cache = StatementCache::new(1 << 20);
        let options = LexOptions::default();
        let a = cache.analyze_exact(b"SELECT $1", options);
        let b = cache.analyze_exact(b"SELECT $1", options);
        assert!(Arc::ptr_eq(&a, &b));
    }

    #[test]
    fn bytes_are_bounded() {
        let limit = 64 * 1024;
        let cache = StatementCache::new(limit);
        for n in 0..5_000 {
            cache.analyze(format!("SELECT c{n} FROM t{n}").as_bytes(), LexOptions::default());
            assert!(cache.stats().bytes <= limit as u64);
        }
        let stats = cache.stats();
        assert!(stats.entries > 20 && stats.evictions > 1_000, "{stats:?}");
    }

    #[test]
    fn no_room_at_all_still_answers() {
        let cache = StatementCache::new(0);
        assert_eq!(cache.analyze(b"SELECT 1", LexOptions::default()).statement_count, 1);
        assert_eq!(cache.stats().entries, 0);
    }
}
