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
    marks: Vec<PendingWrite>,
    /// Where they were made; there while anything is.
    database: Option<(Arc<TableHorizons>, Arc<CatalogCell>)>,
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
        self.database.is_none()
    }

    fn of<'a>(
        database: &'a mut Option<(Arc<TableHorizons>, Arc<CatalogCell>)>,
        entry: &DatabaseEntry,
    ) -> &'a (Arc<TableHorizons>, Arc<CatalogCell>) {
        database.get_or_insert_with(|| (Arc::clone(&entry.horizons), Arc::clone(&entry.catalog)))
    }

    /// A statement that may write `tables`, found by the catalog of `generation`, is about to be sent.
    pub(super) fn begin(&mut self, entry: &DatabaseEntry, tables: &TableSet, generation: u64) {
        if tables.is_empty() || self.marks.iter().any(|mark| covers(mark.tables(), tables)) {
            return;
        }
        let (horizons, _) = Self::of(&mut self.database, entry);
        if self.marks.is_empty() {
            self.generation = generation;
        }
        self.generation = self.generation.min(generation);
        self.marks.push(horizons.begin_write(tables));
    }

    /// A statement that changes the catalog is about to be sent: it may change anything.
    pub(super) fn begin_ddl(&mut self, entry: &DatabaseEntry) {
        let (_, catalog) = Self::of(&mut self.database, entry);
        if self.ddl.is_none() {
            self.ddl = Some(catalog.begin_ddl());
        }
        self.begin(entry, &TableSet::All, u64::MAX);
    }

    /// Statements about to be sent, marked as writers of any table, may call what is not in their text.
    pub(super) fn run_unseen(&mut self, statements: &[Fingerprint]) {
        if self.ddl.is_none() {
            for one in statements {
                if self.unseen.len() < UNSEEN_MAX && !self.unseen.contains(one) {
                    self.unseen.push(*one);
                }
            }
        }
    }

    /// The server says that it is done, and with the transaction if it is `over`; the client does not know yet. What
    /// was written was found by a catalog that may have changed since: then by a trigger, say, that was not there.
    pub(super) fn before_acknowledgment(&mut self, over: bool) {
        let Some((horizons, catalog)) = &self.database else { return };
        // The end of DDL is a reason to look itself.
        if over && !self.unseen.is_empty() && self.ddl.is_none() {
            catalog.ran_unseen(&std::mem::take(&mut self.unseen), Instant::now());
        }
        let all = || self.marks.iter().any(|mark| matches!(mark.tables(), TableSet::All));
        if !self.marks.is_empty() && self.generation < catalog.generation() && !all() {
            self.marks.push(horizons.begin_write(&TableSet::All));
        }
    }

    /// The transaction is over, and what it wrote is committed, as far as anybody knows.
    pub(super) fn acknowledged(&mut self, cluster: &Cluster) {
        let Some((horizons, catalog)) = self.database.take() else { return };
        for mark in self.marks.drain(..) {
            horizons.committed(mark, || &cluster.writer().horizon);
        }
        let unseen = std::mem::take(&mut self.unseen);
        if let Some(ticket) = self.ddl.take() {
            catalog.end_ddl(ticket);
        } else if !unseen.is_empty() {
            catalog.ran_unseen(&unseen, Instant::now());
        }
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        let Some((horizons, catalog)) = self.database.take() else { return };
        let now = Instant::now();
        for mark in self.marks.drain(..) {
            horizons.abandoned(mark, now);
        }
        let (ticket, unseen) = (self.ddl.take(), std::mem::take(&mut self.unseen));
        if ticket.is_none() && unseen.is_empty() {
            return;
        }
        let over = move || match ticket {
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
