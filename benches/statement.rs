//! What it costs to find the messages in a buffer and to understand a statement: `cargo bench --bench statement`.
//!
//! For each text: its tokens, its fingerprint with the lookup of what is known of it, and, as for a text that was
//! never seen, its classification. No PostgreSQL.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs, reason = "a program for people")]

mod measure;

use std::hint::black_box;

use measure::measure;
use pgweir::protocol::frame;
use pgweir::sql::{LexOptions, Scanner, StatementCache};

/// Messages in the buffer that is scanned: rows of 100 bytes.
const FRAMES: usize = 1000;

fn main() {
    let mut rows = Vec::new();
    for _ in 0..FRAMES {
        rows.extend_from_slice(&[b'D', 0, 0, 0, 104]);
        rows.extend_from_slice(&[b'x'; 100]);
    }
    let scan = measure(200, || {
        let (mut rest, mut found) = (black_box(rows.as_slice()), 0);
        while let Some(header) = frame::peek(rest, usize::MAX).unwrap() {
            rest = &rest[header.total_len..];
            found += 1;
        }
        assert_eq!(black_box(found), FRAMES);
    });
    println!("nanoseconds");
    println!("{:<40}{:>8.1}", "to find a message in a buffer", scan / FRAMES as f64);

    let insert =
        format!("INSERT INTO post (title, body) VALUES ('A title', '{}')", "It is a text. ".repeat(60));
    let texts = [
        ("pgbench -S", "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;"),
        (
            "an ORM's join",
            "SELECT \"book\".\"id\", \"book\".\"title\" FROM \"book\" INNER JOIN \"author\" \
             ON (\"book\".\"author_id\" = \"author\".\"id\") WHERE (\"book\".\"id\" IN (1, 2, 3, 4) \
             AND \"author\".\"name\" = 'Somebody') ORDER BY \"book\".\"title\" ASC LIMIT 21",
        ),
        ("a row with a literal of 840 bytes", insert.as_str()),
    ];
    let options = LexOptions::default();
    // The second has no room for anything, so that each text is new to it.
    let (known, unknown) = (StatementCache::new(1 << 20), StatementCache::new(0));
    println!("\n{:<40}{:>8}{:>14}{:>12}", "", "tokens", "fingerprint", "classify");
    for (name, text) in texts {
        let text = text.as_bytes();
        let tokens = measure(20_000, || {
            let mut scanner = Scanner::new(black_box(text), options);
            while let Some(token) = scanner.next_token(&mut ()) {
                black_box(token);
            }
        });
        let fingerprint = measure(20_000, || drop(black_box(known.analyze(black_box(text), options))));
        let classify = measure(500, || drop(black_box(unknown.analyze(black_box(text), options))));
        println!("{name:<40}{tokens:>8.0}{fingerprint:>14.0}{classify:>12.0}");
    }
    assert_eq!((known.stats().misses, unknown.stats().hits), (3, 0));
}
