//! What the router costs for a statement that it has seen before: `cargo bench --bench route`.
//!
//! The parts as a session runs them: fingerprint and cache of statements, the catalog's cache, marks of the tables
//! that are read, the decision. A fixed number of rounds, the median of several; no PostgreSQL.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs, reason = "a program for people")]

mod measure;

use std::hint::black_box;
use std::time::Instant;

use measure::measure;
use pgweir::catalog::{Catalog, CatalogCell, SearchPath};
use pgweir::cluster::{Lsn, TableHorizons, TableSet, WriteHorizon};
use pgweir::config::{Consistency, Reads};
use pgweir::route::{ClusterView, NodeView, SessionView, Work, decide};
use pgweir::sql::{LexOptions, StatementCache};

const ROUNDS: u32 = 200_000;

fn main() {
    let row = |fields: &[&str]| fields.iter().map(|field| Some((*field).to_owned())).collect::<Vec<_>>();
    let rows = vec![row(&["schema", "2200", "public"])];
    let catalog = Catalog::from_rows(&rows).unwrap_or_default();
    let cell = CatalogCell::default();
    cell.loaded(cell.generation(), "bench".to_owned(), catalog, Instant::now());
    let statements = StatementCache::new(1 << 20);
    let sql =
        b"SELECT \"book\".\"id\", \"book\".\"title\" FROM \"book\" WHERE \"book\".\"id\" = 12345 LIMIT 21";
    let path = SearchPath::unknown();
    let horizons = TableHorizons::default();
    let primary = WriteHorizon::default();
    // Other tables are being written.
    let open: Vec<_> = (100..110).map(|table| horizons.begin_write(&TableSet::of(vec![table]))).collect();
    let node = NodeView { usable: true, replayed: Lsn(100), in_flight: 0, weight: 1, latency: 0, near: true };
    let replicas = [node, node];
    let statement = statements.analyze(sql, LexOptions::default());
    let resolved = cell.load().resolve(&statement, &path);
    let reads = TableSet::of(vec![1, 2, 3]);

    let analyze =
        measure(ROUNDS, || drop(black_box(statements.analyze(black_box(sql), LexOptions::default()))));
    let resolve = measure(ROUNDS, || drop(black_box(cell.load().resolve(black_box(&statement), &path))));
    let fresh = measure(ROUNDS, || {
        black_box(horizons.freshness(black_box(&reads)));
    });
    let mut turn = 0;
    let choose = measure(ROUNDS, || {
        turn += 1;
        let freshness = horizons.freshness(&reads);
        let session = SessionView { reads: Reads::Replica, freshness, consistency: Consistency::Strong };
        let cluster = ClusterView { primary: node, replicas: &replicas };
        black_box(decide(Work::of(black_box(&statement)), session, cluster, turn));
    });
    println!("nanoseconds for each statement, cached; {} tables are being written", open.len());
    println!("{:<58}{analyze:>8.0}", "fingerprint and cache of statements");
    println!("{:<58}{resolve:>8.0}", "the catalog's cache");
    println!("{:<58}{fresh:>8.0}", "marks of the tables that are read");
    println!("{:<58}{choose:>8.0}", "marks and decision");
    println!("{:<58}{:>8.0}", "route cache hit: catalog, marks, decision", resolve + choose);
    black_box(resolved);
    for write in open {
        horizons.committed(write, || &primary);
    }
}
