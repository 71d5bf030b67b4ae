//! What the present transaction may have written, and the marks that keep reads of it on the primary until replicas
//! have it: `strong` consistency, seen from the writer.
//!
//! Marks are made before a statement is sent and settled when its transaction is over. A session that ends in
//! between leaves them to time: nobody was told that the transaction committed, but it may yet do so.

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use crate::catalog::{CatalogCell, DdlTicket};
use crate::cluster::{ABANDONED_FOR, Cluster, PendingWrite, TableHorizons, TableSet};
use crate::pool::DatabaseEntry;
use crate::sql::Fingerprint;
use crate::task;

/// Statements of one transaction of which it is told that they ran something unseen.
const UNSEEN_MAX: usize = 100;

/// The marks of one transaction.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Idle clients, and those that only read, have none.
    held: Option<Box<Held>>,
}

#[derive(Debug)]
struct Held {
    marks: Vec<PendingWrite>,
    /// Where they were made.
    horizons: Arc<TableHorizons>,
    catalog: Arc<CatalogCell>,
    /// The oldest generation of the catalog by which tables were named.
    generation: u64,
    ddl: Option<DdlTicket>,
    /// Statements that ran what we do not see: it may be DDL.
    unseen: SmallVec<[Fingerprint; 2]>,
}

impl Writes {
    /// Whether nothing is marked.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_none()
    }

    fn held(&mut self, entry: &DatabaseEntry) -> &mut Held {
        self.held.get_or_insert_with(|| {
            Box::new(Held {
                marks: Vec::new(),
                horizons: Arc::clone(&entry.horizons),
                catalog: Arc::clone(&entry.catalog),
                generation: u64::MAX,
                ddl: None,
                unseen: SmallVec::new(),
            })
        })
    }

    /// A statement that may write `tables`, found by the catalog of `generation`, is about to be sent.
    pub(super) fn begin(&mut self, entry: &DatabaseEntry, tables: &TableSet, generation: u64) {
        let is_marked = |held: &Held| held.marks.iter().any(|mark| covers(mark.tables(), tables));
        if tables.is_empty() || self.held.as_deref().is_some_and(is_marked) {
            return;
        }
        let held = self.held(entry);
        held.generation = held.generation.min(generation);
        held.marks.push(held.horizons.begin_write(tables));
    }

    /// A statement that changes the catalog is about to be sent: it may change anything.
    pub(super) fn begin_ddl(&mut self, entry: &DatabaseEntry) {
        let held = self.held(entry);
        if held.ddl.is_none() {
            held.ddl = Some(held.catalog.begin_ddl());
        }
        self.begin(entry, &TableSet::All, u64::MAX);
    }

    /// Statements about to be sent, marked as writers of any table, may call what is not in their text.
    pub(super) fn run_unseen(&mut self, statements: &[Fingerprint]) {
        let Some(held) = self.held.as_deref_mut().filter(|held| held.ddl.is_none()) else { return };
        for one in statements {
            if held.unseen.len() < UNSEEN_MAX && !held.unseen.contains(one) {
                held.unseen.push(*one);
            }
        }
    }

    /// The server says that it is done, and with the transaction if it is `over`; the client does not know yet. What
    /// was written was found by a catalog that may have changed since: then by a trigger, say, that was not there.
    #[inline]
    pub(super) fn before_acknowledgment(&mut self, over: bool) {
        if let Some(held) = &mut self.held {
            held.before_acknowledgment(over);
        }
    }

    /// The transaction is over, and what it wrote is committed, as far as anybody knows.
    pub(super) fn acknowledged(&mut self, cluster: &Cluster) {
        let Some(held) = self.held.take() else { return };
        let Held { marks, horizons, catalog, ddl, unseen, .. } = *held;
        for mark in marks {
            horizons.committed(mark, || &cluster.writer().horizon);
        }
        if let Some(ticket) = ddl {
            catalog.end_ddl(ticket);
        } else if !unseen.is_empty() {
            catalog.ran_unseen(&unseen, Instant::now());
        }
    }
}

impl Held {
    fn before_acknowledgment(&mut self, over: bool) {
        // The end of DDL is a reason to look itself.
        if over && !self.unseen.is_empty() && self.ddl.is_none() {
            self.catalog.ran_unseen(&std::mem::take(&mut self.unseen), Instant::now());
        }
        let all = || self.marks.iter().any(|mark| matches!(mark.tables(), TableSet::All));
        if !self.marks.is_empty() && self.generation < self.catalog.generation() && !all() {
            self.marks.push(self.horizons.begin_write(&TableSet::All));
        }
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        let Held { marks, horizons, catalog, ddl, unseen, .. } = *held;
        let now = Instant::now();
        for mark in marks {
            horizons.abandoned(mark, now);
        }
        if ddl.is_none() && unseen.is_empty() {
            return;
        }
        let over = move || match ddl {
            Some(ticket) => catalog.end_ddl(ticket),
            None => catalog.ran_unseen(&unseen, Instant::now()),
        };
        if tokio::runtime::Handle::try_current().is_ok() {
            task::spawn("abandoned ddl", async move {
                tokio::time::sleep(ABANDONED_FOR).await;
                over();
            });
        } else {
            over();
        }
    }
}

/// Whether a mark on `marked` is one on `tables`, too.
fn covers(marked: &TableSet, tables: &TableSet) -> bool {
    match (marked, tables) {
        (TableSet::All, _) => true,
        (TableSet::Some(_), TableSet::All) => false,
        (TableSet::Some(marked), TableSet::Some(tables)) => {
            tables.iter().all(|table| marked.binary_search(table).is_ok())
        }
    }
}
