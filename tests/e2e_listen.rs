//! LISTEN and NOTIFY in transaction mode: what several clients hear, compared with PostgreSQL itself; load,
//! order, slow clients, lost listeners, and how few server connections it takes.

#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code outside a #[test]"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::{FutureExt as _, StreamExt as _};
use pgweir::protocol::{extended, frontend};
use support::wire::{Message, RawClient};
use support::{InProcess, Pgweir};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls, Notification, SimpleQueryMessage};

// ---- Scripts of several clients, direct and through pgweir ----

/// Who says what, one after the other.
type Script = (&'static str, Vec<(usize, &'static str)>);

const PAYLOAD_7999: &str = "SELECT pg_notify('c', repeat('ä', 3999) || 'x')";

fn scripts() -> Vec<Script> {
    vec![
        (
            "own and others', autocommit",
            vec![
                (0, "LISTEN c"),
                (1, "NOTIFY c, 'one'"),
                (0, "NOTIFY c, 'own'"),
                (0, "SELECT 1"),
                (1, "LISTEN c"),
                (0, "NOTIFY c, 'both'"),
                (1, "SELECT 1"),
                (2, "NOTIFY c"),
                (0, "SELECT 1"),
                (1, "SELECT 1"),
            ],
        ),
        (
            "not while a transaction is open",
            vec![
                (0, "LISTEN c"),
                (0, "BEGIN"),
                (1, "NOTIFY c, '1'"),
                (0, "SELECT 1"),
                (0, "NOTIFY c, 'own'"),
                (1, "NOTIFY c, '2'"),
                (0, "COMMIT"),
                (0, "SELECT 1"),
                (0, "BEGIN"),
                (1, "NOTIFY c, '3'"),
                (0, "SELECT 1/0"),
                (1, "NOTIFY c, '4'"),
                (0, "ROLLBACK"),
            ],
        ),
        (
            "what is rolled back did not happen",
            vec![
                (0, "BEGIN"),
                (0, "LISTEN c"),
                (0, "ROLLBACK"),
                (1, "NOTIFY c, 'nobody'"),
                (0, "SELECT 1"),
                (0, "LISTEN c"),
                (0, "BEGIN"),
                (0, "UNLISTEN c"),
                (0, "ROLLBACK"),
                (1, "NOTIFY c, 'heard'"),
                (0, "SELECT 1"),
                (1, "BEGIN"),
                (1, "NOTIFY c, 'never'"),
                (1, "ROLLBACK"),
                (0, "SELECT 1"),
                (1, "BEGIN"),
                (1, "NOTIFY c, 'a'"),
                (1, "SAVEPOINT s"),
                (1, "NOTIFY c, 'b'"),
                (1, "ROLLBACK TO s"),
                (1, "NOTIFY c, 'd'"),
                (1, "COMMIT"),
                (0, "SELECT 1"),
            ],
        ),
        (
            "savepoints",
            vec![
                (0, "BEGIN"),
                (0, "LISTEN a"),
                (0, "SAVEPOINT s"),
                (0, "LISTEN b"),
                (0, "ROLLBACK TO s"),
                (0, "LISTEN c"),
                (0, "COMMIT"),
                (1, "NOTIFY a"),
                (1, "NOTIFY b"),
                (1, "NOTIFY c"),
                (0, "SELECT 1"),
                (0, "BEGIN"),
                (0, "SAVEPOINT s"),
                (0, "UNLISTEN *"),
                (0, "ROLLBACK TO s"),
                (0, "UNLISTEN c"),
                (0, "COMMIT"),
                (1, "NOTIFY a"),
                (1, "NOTIFY b"),
                (1, "NOTIFY c"),
                (0, "SELECT 1"),
                (0, "BEGIN"),
                (0, "SAVEPOINT s"),
                (0, "UNLISTEN *"),
                (0, "RELEASE s"),
                (0, "LISTEN d"),
                (0, "COMMIT"),
                (1, "NOTIFY a; NOTIFY d, 'last'"),
                (0, "SELECT 1"),
                (0, "SELECT * FROM pg_listening_channels() ORDER BY 1"),
            ],
        ),
        (
            "what it listens to",
            vec![
                (0, "SELECT * FROM pg_listening_channels()"),
                (0, "LISTEN a"),
                (0, "LISTEN \"B\"\"b\""),
                (0, "LISTEN a"),
                (0, "SELECT * FROM pg_listening_channels() ORDER BY 1"),
                (1, "SELECT * FROM pg_listening_channels()"),
                (0, "BEGIN"),
                (0, "SELECT count(*) FROM pg_listening_channels()"),
                (0, "UNLISTEN a"),
                (0, "COMMIT"),
                (0, "SELECT * FROM pg_listening_channels()"),
                (0, "UNLISTEN nothing"),
                (1, "UNLISTEN *"),
                (1, "NOTIFY a; NOTIFY \"B\"\"b\", 'x'"),
                (0, "SELECT 1"),
                (0, "DISCARD ALL"),
                (0, "SELECT * FROM pg_listening_channels()"),
                (1, "NOTIFY \"B\"\"b\", 'y'"),
                (0, "SELECT 1"),
            ],
        ),
        (
            "asyncpg's release",
            vec![
                (0, "LISTEN c"),
                (1, "NOTIFY c, '1'"),
                (0, "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;"),
                (1, "NOTIFY c, '2'"),
                (0, "SELECT 1"),
            ],
        ),
        (
            "names and payloads",
            vec![
                (0, "LISTEN MixedCase"),
                (1, "NOTIFY mixedcase, 'folded'"),
                (1, "NOTIFY \"MixedCase\", 'not'"),
                (0, "SELECT 1"),
                (0, "LISTEN \"a b;\"\"--'\\\""),
                (1, "NOTIFY \"a b;\"\"--'\\\", 'it''s \\ \"quoted\"'"),
                (1, "SELECT pg_notify('a b;\"--''\\', E'new\\nline\\ttab')"),
                (0, "SELECT 1"),
                (0, "LISTEN \"schön\""),
                (1, "NOTIFY \"schön\", 'grüße 🎉'"),
                (0, "SELECT 1"),
                // Cut to 63 bytes, in the middle of a two-byte character if it were careless.
                (0, "LISTEN ääääääääääääääääääääääääääääääääääää"),
                (1, "NOTIFY äääääääääääääääääääääääääääääää, 'cut'"),
                (1, "SELECT pg_notify(repeat('ä', 31), 'cut')"),
                (1, "SELECT pg_notify(repeat('ä', 36), 'too long')"),
                (0, "SELECT 1"),
                (0, "LISTEN c"),
                (1, PAYLOAD_7999),
                (1, "SELECT pg_notify('c', repeat('x', 8000))"),
                (1, "NOTIFY c, ''"),
                (0, "SELECT 1"),
                (0, "LISTEN"),
                (0, "LISTEN a.b"),
                (0, "NOTIFY c 'x'"),
                (0, "SELECT 1"),
            ],
        ),
        (
            "order within a transaction and duplicates",
            vec![
                (0, "LISTEN a; LISTEN b"),
                (1, "NOTIFY a, '1'; NOTIFY b, '2'; NOTIFY a, '3'; NOTIFY a, '1'; NOTIFY b, '4'"),
                (0, "SELECT 1"),
                (0, "NOTIFY b, '1'; NOTIFY a, '2'; NOTIFY b, '1'"),
                (0, "BEGIN; NOTIFY b, 'x'; COMMIT; BEGIN; NOTIFY b, 'x'; COMMIT; SELECT 1"),
            ],
        ),
        (
            "new channels and old ones in one transaction",
            vec![
                (0, "LISTEN old"),
                (0, "BEGIN"),
                (0, "NOTIFY new, '1'"),
                (0, "NOTIFY old, '2'"),
                (0, "LISTEN new"),
                (0, "NOTIFY new, '3'"),
                (0, "COMMIT"),
                (0, "NOTIFY old, '4'; NOTIFY new, '5'; UNLISTEN old"),
                (1, "NOTIFY old, '6'; NOTIFY new, '7'"),
                (0, "SELECT 1"),
                (0, "LISTEN c; NOTIFY c, '8'; UNLISTEN c"),
                (0, "SELECT 1"),
            ],
        ),
        (
            "in functions and procedures",
            vec![
                (0, "DO $$ BEGIN LISTEN c; END $$"),
                (1, "NOTIFY c, '1'"),
                (0, "SELECT 1"),
                (0, "NOTIFY c, 'own'"),
                (0, "DO $$ BEGIN UNLISTEN c; END $$"),
                (1, "NOTIFY c, '2'"),
                (0, "SELECT 1"),
                (0, "LISTEN a"),
                (0, "DO $$ BEGIN LISTEN c; NOTIFY c, '3'; NOTIFY a, '4'; END $$"),
                (1, "NOTIFY c, '5'; NOTIFY a, '6'"),
                (0, "SELECT 1"),
                (0, "DO $$ BEGIN UNLISTEN a; END $$"),
                (1, "NOTIFY c, '7'; NOTIFY a, '8'"),
                (0, "SELECT 1"),
                (0, "SELECT * FROM pg_listening_channels()"),
            ],
        ),
        (
            "with a pin",
            vec![
                (0, "CREATE TEMP TABLE mine (i int)"),
                (0, "LISTEN c"),
                (1, "NOTIFY c, '1'"),
                (0, "INSERT INTO mine VALUES (1)"),
                (0, "NOTIFY c, 'own'"),
                (1, "NOTIFY c, '2'"),
                (0, "SELECT count(*) FROM mine"),
                (0, "DROP TABLE mine"),
                (1, "NOTIFY c, '3'"),
                (0, "SELECT 1"),
                (0, "UNLISTEN *"),
                (1, "NOTIFY c, '4'"),
                (0, "SELECT 1"),
            ],
        ),
        (
            "errors",
            vec![
                (0, "LISTEN a; SELECT 1/0"),
                (1, "NOTIFY a"),
                (0, "SELECT 1"),
                (0, "LISTEN c"),
                (0, "UNLISTEN c; SELECT 1/0"),
                (1, "NOTIFY c, '1'"),
                (0, "SELECT 1"),
                (0, "BEGIN"),
                (0, "SELECT 1/0"),
                (0, "UNLISTEN *"),
                (0, "COMMIT"),
                (1, "NOTIFY c, '2'"),
                (0, "SELECT 1"),
                (0, "NOTIFY c, 'own'; SELECT 1/0"),
                (0, "SELECT 1"),
            ],
        ),
        (
            "COMMIT AND CHAIN, two-phase",
            vec![
                (0, "LISTEN c"),
                (0, "BEGIN"),
                (0, "NOTIFY c, '1'"),
                (0, "COMMIT AND CHAIN"),
                (1, "NOTIFY c, '2'"),
                (0, "UNLISTEN c"),
                (0, "ROLLBACK AND CHAIN"),
                (0, "SELECT 1"),
                (0, "COMMIT"),
                (0, "BEGIN"),
                (0, "LISTEN d"),
                (0, "PREPARE TRANSACTION 'x'"),
                (1, "NOTIFY c, '3'; NOTIFY d"),
                (0, "SELECT 1"),
            ],
        ),
        (
            "settings and roles",
            vec![
                (0, "SET client_encoding = 'LATIN1'"),
                (0, "LISTEN c"),
                (1, "NOTIFY c, 'grüße'"),
                (0, "SELECT 1"),
                (0, "LISTEN sch\u{c3}\u{b6}n"),
                (0, "SELECT * FROM pg_listening_channels() ORDER BY 1"),
                (0, "NOTIFY c, 'own'"),
                (0, "RESET client_encoding"),
                (1, "NOTIFY c, 'ascii'"),
                (0, "SELECT 1"),
                (0, "SET ROLE app"),
                (1, "NOTIFY c, '2'"),
                (0, "SELECT 1"),
            ],
        ),
    ]
}

/// What each step got: notifications, and everything else.
fn run_script(port: u16, database: &str, steps: &[(usize, &str)]) -> Vec<String> {
    let mut clients: Vec<_> = (0..3).map(|_| RawClient::login(port, database)).collect();
    let pids: Vec<_> = clients.iter().map(pid).collect();
    let mut out = Vec::new();
    let mut seen = vec![BTreeMap::<String, usize>::new(); 3];
    for (who, sql) in steps {
        let mut bytes = BytesMut::new();
        frontend::query(&mut bytes, sql.as_bytes());
        clients[*who].send(&bytes);
        let messages = clients[*who].until_ready(1);
        let mut heard = Vec::new();
        let mut rest = Vec::new();
        for (tag, body) in messages {
            match tag {
                b'A' => heard.push(notification(&body, &pids, *who)),
                b'E' | b'N' => rest.push(format!("{}{}", tag as char, fields(&body))),
                _ => rest.push(format!("{}{}", tag as char, String::from_utf8_lossy(&body).escape_debug())),
            }
        }
        for text in &heard {
            *seen[*who].entry(text.clone()).or_default() += 1;
        }
        out.push(format!("{who}: {sql}\n   {}\n   heard {heard:?}", rest.join(" ")));
    }
    // Nothing may come late.
    std::thread::sleep(Duration::from_millis(30));
    for (who, client) in clients.iter_mut().enumerate() {
        let mut bytes = BytesMut::new();
        frontend::query(&mut bytes, b"");
        client.send(&bytes);
        let late: Vec<_> = client.until_ready(1).into_iter().filter(|(tag, _)| *tag == b'A').collect();
        out.push(format!("{who}: late {}", late.len()));
    }
    out
}

fn pid(client: &RawClient) -> i32 {
    let key = client.greeting.iter().find(|(tag, _)| *tag == b'K').expect("a key");
    i32::from_be_bytes(key.1[..4].try_into().unwrap())
}

fn notification(body: &[u8], pids: &[i32], who: usize) -> String {
    let from = i32::from_be_bytes(body[..4].try_into().unwrap());
    let from = match pids.iter().position(|pid| *pid == from) {
        Some(index) if index == who => "self",
        // Session mode and clients that keep their connection are told the process of the server.
        _ => "other",
    };
    let text = String::from_utf8_lossy(&body[4..]).escape_debug().to_string();
    let short = if text.len() > 200 { format!("{} bytes {:x}", body.len(), checksum(body)) } else { text };
    format!("{from} {short}")
}

fn checksum(body: &[u8]) -> u64 {
    body[4..].iter().fold(7, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}

/// Severity, code and message of an error.
fn fields(body: &[u8]) -> String {
    let parts = body.split(|byte| *byte == 0).filter(|part| matches!(part.first(), Some(b'S' | b'C' | b'M')));
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect::<Vec<_>>().join("|")
}

#[test]
fn several_clients_hear_what_postgresql_would_tell_them() {
    let database = support::database();
    let cluster = support::cluster();
    let direct: u16 = cluster.address(0).rsplit(':').next().unwrap().parse().unwrap();
    let expected: Vec<_> =
        scripts().iter().map(|(_, steps)| run_script(direct, &database.name, steps)).collect();
    for settings in [
        "pool: {size: 3}\n",
        "pool: {size: 4, debug_rotate: true, debug_check: true}\n",
        "pool: {mode: session}\n",
    ] {
        let pgweir = Pgweir::start(&format!("{settings}{}", database.yaml()));
        for ((name, steps), expected) in scripts().iter().zip(&expected) {
            let got = run_script(pgweir.port, &database.name, steps);
            for (got, expected) in got.iter().zip(expected) {
                assert_eq!(got, expected, "{name} with {settings}{}", pgweir.log());
            }
        }
        assert!(!pgweir.log().contains("unclean"), "{}", pgweir.log());
    }
}
