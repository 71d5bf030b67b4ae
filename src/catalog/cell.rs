//! The present catalog of one database, and whether there is one.
//!
//! While DDL is under way, and from then until a load that began after it has come in, there is none: what is not
//! known of a table must not be taken for nothing to know. DDL that does not pass through this pgweir is seen by
//! the next refresh.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Context;
use std::time::Instant;

use arc_swap::ArcSwap;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::sql::Statement;

use super::build::Catalog;
use super::cache::ResolveCache;
use super::path::SearchPath;
use super::resolve::{Resolved, unresolved};

/// Bytes of the cache of resolved statements, for each database.
const CACHE_BYTES: usize = 8 << 20;

/// A catalog, or the lack of one, with what was resolved by it.
#[derive(Debug)]
pub struct Snapshot {
    catalog: Option<Arc<Catalog>>,
    cache: ResolveCache,
}

impl Snapshot {
    fn new(catalog: Option<Arc<Catalog>>) -> Self {
        let bytes = if catalog.is_some() { CACHE_BYTES } else { CACHE_BYTES / 8 };
        Self { catalog, cache: ResolveCache::new(bytes) }
    }

    /// What `statement` does in this database. The answer is remembered.
    #[inline]
    pub fn resolve(&self, statement: &Statement, path: &SearchPath) -> Arc<Resolved> {
        self.cache.resolve(statement, path, || match &self.catalog {
            Some(catalog) => catalog.resolve(statement, path),
            None => unresolved(statement),
        })
    }

    /// The catalog, if there is one.
    pub fn catalog(&self) -> Option<&Catalog> {
        self.catalog.as_deref()
    }
}

/// Where a database's catalog stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogState {
    /// There is one.
    pub present: bool,
    /// When it was last known to be right.
    pub confirmed: Option<Instant>,
    /// Bytes it takes.
    pub bytes: usize,
    /// Loads that failed.
    pub failures: u64,
    /// Loads that came in whole.
    pub loads: u64,
    /// The last failure, until the next success.
    pub error: Option<String>,
}

/// DDL under way; give it back with [`CatalogCell::end_ddl`] once it is known to be over.
#[derive(Debug)]
#[must_use]
pub struct DdlTicket(());

/// Holds the snapshot.
#[derive(Debug)]
pub struct CatalogCell {
    snapshot: ArcSwap<Snapshot>,
    waker: AtomicWaker,
    /// Somebody would have used it, had it been there.
    missed: AtomicBool,
    /// Changes with each DDL that begins or ends.
    generation: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    ddl: u64,
    /// The generation that the last load, good or bad, began in.
    looked_at: u64,
    state: CatalogState,
    /// The last catalog and its fingerprint: DDL may leave all as it was.
    last: Option<(String, Arc<Catalog>)>,
}

impl Default for CatalogCell {
    fn default() -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(Snapshot::new(None)),
            waker: AtomicWaker::new(),
            missed: AtomicBool::new(false),
            generation: AtomicU64::new(1),
            inner: Mutex::default(),
        }
    }
}

impl CatalogCell {
    /// The snapshot now. Take it before a statement is sent, and anew for each.
    #[inline]
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// A statement that changes the catalog is about to be sent.
    pub fn begin_ddl(&self) -> DdlTicket {
        let mut inner = self.inner.lock();
        inner.ddl += 1;
        self.forget(&mut inner);
        DdlTicket(())
    }

    /// Its transaction is over, however it ended; or its connection is lost.
    #[allow(clippy::needless_pass_by_value, reason = "it cannot end twice")]
    pub fn end_ddl(&self, ticket: DdlTicket) {
        let DdlTicket(()) = ticket;
        let mut inner = self.inner.lock();
        inner.ddl = inner.ddl.saturating_sub(1);
        self.forget(&mut inner);
        drop(inner);
        self.waker.wake();
    }

    fn forget(&self, inner: &mut Inner) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        if std::mem::take(&mut inner.state.present) {
            self.snapshot.store(Arc::new(Snapshot::new(None)));
        }
    }

    /// A statement could not be resolved for want of a catalog: it is looked for soon.
    pub fn miss(&self) {
        if !self.missed.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// For the loader, before it asks: whatever was missed before is looked for now.
    pub fn looking(&self) {
        self.missed.store(false, Ordering::Release);
    }

    /// For the loader, before it asks: what to give back with the answer.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The fingerprint of the catalog that was loaded last.
    pub fn fingerprint(&self) -> Option<String> {
        self.inner.lock().last.as_ref().map(|(fingerprint, _)| fingerprint.clone())
    }

    /// A whole catalog came in. False if it came too late to be trusted.
    pub fn loaded(&self, generation: u64, fingerprint: String, catalog: Catalog, now: Instant) -> bool {
        let mut inner = self.inner.lock();
        inner.looked_at = generation;
        inner.state.loads += 1;
        inner.state.bytes = catalog.weight();
        inner.last = Some((fingerprint, Arc::new(catalog)));
        self.install(&mut inner, generation, now)
    }

    /// The catalog on the server has the fingerprint of the last one still.
    pub fn confirmed(&self, generation: u64, now: Instant) -> bool {
        let mut inner = self.inner.lock();
        inner.looked_at = generation;
        self.install(&mut inner, generation, now)
    }

    fn install(&self, inner: &mut Inner, generation: u64, now: Instant) -> bool {
        inner.state.error = None;
        if inner.ddl > 0 || generation != self.generation() {
            return false;
        }
        let Some((_, catalog)) = &inner.last else { return false };
        inner.state.confirmed = Some(now);
        let present = self.snapshot.load();
        let same = present.catalog.as_ref().is_some_and(|known| Arc::ptr_eq(known, catalog));
        if !same {
            self.snapshot.store(Arc::new(Snapshot::new(Some(Arc::clone(catalog)))));
        }
        inner.state.present = true;
        true
    }

    /// It could not be loaded: nothing is known any more. True if that is news.
    pub fn failed(&self, generation: u64, error: &str) -> bool {
        let mut inner = self.inner.lock();
        inner.looked_at = generation;
        inner.state.failures += 1;
        let news = inner.state.error.as_deref() != Some(error);
        inner.state.error = Some(error.to_owned());
        if std::mem::take(&mut inner.state.present) {
            self.snapshot.store(Arc::new(Snapshot::new(None)));
        }
        news
    }

    /// Nobody uses it.
    pub fn forget_unused(&self) {
        let mut inner = self.inner.lock();
        if std::mem::take(&mut inner.state.present) {
            self.snapshot.store(Arc::new(Snapshot::new(None)));
        }
    }

    /// Whether a load is due because of DDL or because one is missed; if not, the task is woken when it is.
    pub fn poll_wanted(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        let inner = self.inner.lock();
        inner.ddl == 0 && (inner.looked_at != self.generation() || self.missed.load(Ordering::Acquire))
    }

    /// Where it stands.
    pub fn state(&self) -> CatalogState {
        self.inner.lock().state.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_that_began_before_ddl_ended_is_not_trusted() {
        let (cell, now) = (CatalogCell::default(), Instant::now());
        let early = cell.generation();
        assert!(cell.loaded(early, "a".into(), Catalog::default(), now));
        assert!(cell.load().catalog().is_some());
        let first = cell.begin_ddl();
        assert!(cell.load().catalog().is_none());
        let during = cell.generation();
        assert!(!cell.confirmed(during, now), "the DDL is under way");
        let second = cell.begin_ddl();
        cell.end_ddl(first);
        assert!(!cell.loaded(cell.generation(), "b".into(), Catalog::default(), now));
        cell.end_ddl(second);
        assert!(!cell.confirmed(during, now), "asked before the end");
        assert!(cell.load().catalog().is_none());
        assert!(cell.confirmed(cell.generation(), now));
        assert!(cell.load().catalog().is_some());
        assert!(cell.failed(cell.generation(), "gone") && !cell.failed(cell.generation(), "gone"));
        assert!(cell.load().catalog().is_none());
        assert_eq!(cell.state().failures, 2);
    }
}
