//! The present catalog of one database, and whether there is one.
//!
//! While DDL is under way, and from then until a load that began after it has come in, there is none: what is not
//! known of a table must not be taken for nothing to know. DDL that does not pass through this pgweir is seen by
//! the next refresh.
//!
//! Functions, procedures, DO and triggers may hold DDL that nobody told of. What runs them is suspected: after it
//! there is no snapshot until a look has found what it left. Looks for suspicion are a second apart, so that a
//! busy application keeps its catalog, and what has left everything as it was in five of them is suspected no more.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Context;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::sql::{Fingerprint, Statement};

use super::build::Catalog;
use super::cache::ResolveCache;
use super::path::SearchPath;
use super::resolve::{Resolved, unresolved};

/// Bytes of the cache of resolved statements, for each database.
const CACHE_BYTES: usize = 8 << 20;

/// Time between two looks that have no other reason than a suspicion.
pub const SUSPICION_GAP: Duration = Duration::from_secs(1);
/// Looks that must have found nothing new before a statement is trusted.
const QUIET_LOOKS: u8 = 5;
/// Statements of which it is remembered how many there were; beyond that all are forgotten.
const STATEMENTS_MAX: usize = 10_000;
/// Statements suspected at once. What a look finds does not depend on which they are.
const SUSPECTS_MAX: usize = 1_000;

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
    suspicion: Suspicion,
}

/// Statements that may have changed the catalog without saying so.
#[derive(Debug, Default)]
struct Suspicion {
    /// Their transactions are over, and nobody has looked since.
    suspects: Vec<Fingerprint>,
    /// Those that the present look is for.
    examined: Vec<Fingerprint>,
    /// How many looks in turn have found that each has changed nothing.
    quiet: HashMap<Fingerprint, u8>,
    /// When the last such look began.
    looked: Option<Instant>,
}

impl Suspicion {
    /// False if all of them are trusted.
    fn add(&mut self, statements: &[Fingerprint]) -> bool {
        let trusted = |one: &Fingerprint| self.quiet.get(one).is_some_and(|looks| *looks >= QUIET_LOOKS);
        let mut any = false;
        for one in statements.iter().filter(|one| !trusted(one)) {
            any = true;
            if self.suspects.len() < SUSPECTS_MAX && !self.suspects.contains(one) {
                self.suspects.push(*one);
            }
        }
        any
    }

    /// Whether a look on account of it may begin.
    fn is_free(&self, now: Instant) -> bool {
        self.looked.is_none_or(|at| now.saturating_duration_since(at) >= SUSPICION_GAP)
    }

    fn is_due(&self, now: Instant) -> bool {
        !self.suspects.is_empty() && self.is_free(now)
    }

    fn found(&mut self, changed: bool) {
        if self.quiet.len() + self.examined.len() > STATEMENTS_MAX {
            self.quiet.clear();
        }
        for one in self.examined.drain(..) {
            let looks = self.quiet.entry(one).or_default();
            *looks = if changed { 0 } else { looks.saturating_add(1) };
        }
    }
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

    /// What these statements ran was not seen, and their transaction is over, or about to be acknowledged.
    pub fn ran_unseen(&self, statements: &[Fingerprint], now: Instant) {
        let mut inner = self.inner.lock();
        // Without a catalog a look is under way or will be; to call that too late each time might keep it away for
        // good. What it does not see the next one will.
        if inner.suspicion.add(statements) && inner.state.present && inner.suspicion.is_free(now) {
            self.forget(&mut inner);
            drop(inner);
            self.waker.wake();
        }
    }

    /// For the loader, before it asks: whatever was missed or suspected before is looked for now. True if there was
    /// a suspicion: the next look for one is not due before [`SUSPICION_GAP`] is over.
    pub fn looking(&self, now: Instant) -> bool {
        self.missed.store(false, Ordering::Release);
        let mut inner = self.inner.lock();
        let suspicion = &mut inner.suspicion;
        suspicion.examined = std::mem::take(&mut suspicion.suspects);
        let suspected = !suspicion.examined.is_empty();
        if suspected {
            suspicion.looked = Some(now);
        }
        suspected
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
        inner.suspicion.found(true);
        inner.state.bytes = catalog.weight();
        inner.last = Some((fingerprint, Arc::new(catalog)));
        self.install(&mut inner, generation, now)
    }

    /// The catalog on the server has the fingerprint of the last one still.
    pub fn confirmed(&self, generation: u64, now: Instant) -> bool {
        let mut inner = self.inner.lock();
        inner.looked_at = generation;
        inner.suspicion.found(false);
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

    /// Whether a load is due because of DDL, a suspicion, or because one is missed; if not, the task is woken when
    /// it is, but for the time between two looks for suspicion.
    pub fn poll_wanted(&self, cx: &Context<'_>, now: Instant) -> bool {
        self.waker.register(cx.waker());
        let inner = self.inner.lock();
        inner.ddl == 0
            && (inner.looked_at != self.generation()
                || self.missed.load(Ordering::Acquire)
                || inner.suspicion.is_due(now))
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

    #[test]
    fn what_leaves_all_as_it_was_is_trusted_in_the_end() {
        let (cell, mut now) = (CatalogCell::default(), Instant::now());
        let (call, other) = ([Fingerprint(1)], [Fingerprint(2)]);
        let present = || cell.load().catalog().is_some();
        let wanted = |now| cell.poll_wanted(&Context::from_waker(std::task::Waker::noop()), now);
        let load = |text: &str, now| cell.loaded(cell.generation(), text.into(), Catalog::default(), now);
        assert!(!cell.looking(now));
        assert!(load("a", now));
        // Changed by somebody in the third: what ran before is suspected as at first.
        for look in 0..3 + QUIET_LOOKS {
            cell.ran_unseen(&call, now);
            assert!(!present() && wanted(now), "it may have changed anything");
            assert!(cell.looking(now));
            assert!(if look == 2 { load("b", now) } else { cell.confirmed(cell.generation(), now) });
            if look == 0 {
                cell.ran_unseen(&call, now);
                assert!(present() && !wanted(now), "too soon for another look");
                assert!(wanted(now + SUSPICION_GAP), "not forgotten either");
            }
            now += SUSPICION_GAP;
        }
        cell.ran_unseen(&call, now);
        assert!(present() && !wanted(now), "five looks have found nothing");
        cell.ran_unseen(&[call[0], other[0]], now);
        assert!(!present(), "this one is new");
    }

    #[test]
    fn a_busy_writer_does_not_keep_the_catalog_away() {
        let (cell, now) = (CatalogCell::default(), Instant::now());
        let began = cell.generation();
        cell.looking(now);
        cell.ran_unseen(&[Fingerprint(1)], now);
        assert!(cell.loaded(began, "a".into(), Catalog::default(), now));
        assert!(cell.load().catalog().is_some());
        assert!(
            cell.poll_wanted(&Context::from_waker(std::task::Waker::noop()), now),
            "but it is looked again"
        );
    }
}
