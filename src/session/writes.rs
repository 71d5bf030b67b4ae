//! What the present transaction may have written, and the marks that keep reads of it on the primary until replicas
//! have it: `strong` consistency, seen from the writer.
//!
//! Marks are made before a statement is sent and settled when its transaction is over. A session that ends in
//! between leaves them to time: nobody was told that the transaction committed, but it may yet do so.

use std::sync::Arc;
use std::time::Instant;

use crate::catalog::{CatalogCell, DdlTicket};
use crate::cluster::{ABANDONED_FOR, Cluster, PendingWrite, TableHorizons, TableSet};
use crate::pool::DatabaseEntry;
use crate::task;

/// The marks of one transaction.
#[derive(Debug, Default)]
pub(super) struct Writes {
    marks: Vec<PendingWrite>,
    /// Where they were made; there while anything is.
    database: Option<(Arc<TableHorizons>, Arc<CatalogCell>)>,
    /// The oldest generation of the catalog by which tables were named.
    generation: u64,
    ddl: Option<DdlTicket>,
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

    /// The server says that it is done, and the client does not know yet. What was written was found by a catalog
    /// that may have changed since: then by a trigger, say, that was not there.
    pub(super) fn before_acknowledgment(&mut self) {
        let Some((horizons, catalog)) = &self.database else { return };
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
        if let Some(ticket) = self.ddl.take() {
            catalog.end_ddl(ticket);
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
        let Some(ticket) = self.ddl.take() else { return };
        if tokio::runtime::Handle::try_current().is_ok() {
            task::spawn("abandoned ddl", async move {
                tokio::time::sleep(ABANDONED_FOR).await;
                catalog.end_ddl(ticket);
            });
        } else {
            catalog.end_ddl(ticket);
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
