//! Clients that go away at every point of a conversation: the next client of the one server connection sees
//! clean data, and nothing stays lent.

#![allow(clippy::pedantic, clippy::unwrap_used, clippy::panic, reason = "test code outside a #[test]")]

mod support;

use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use pgweir::protocol::writer::{cstr, message, untagged};
use pgweir::protocol::{frontend, startup};
use support::wire::RawClient;
use support::{Pgweir, TestDatabase};

fn query(sql: &str) -> BytesMut {
    let mut out = BytesMut::new();
    frontend::query(&mut out, sql.as_bytes());
    out
}

fn startup_packet(database: &str) -> BytesMut {
    let mut out = BytesMut::new();
    startup::startup_message(&mut out, [("user", "app"), ("database", database)].into_iter());
    out
}

/// Parse, Bind and Execute of an INSERT, without a Sync.
fn unsynced(value: i32) -> BytesMut {
    let mut out = BytesMut::new();
    message(&mut out, b'P', |b| {
        cstr(b, b"");
        cstr(b, format!("INSERT INTO t VALUES ({value})").as_bytes());
        b.put_i16(0);
    });
    message(&mut out, b'B', |b| b.put_slice(&[0; 8]));
    message(&mut out, b'E', |b| b.put_slice(&[0; 5]));
    out
}

/// The next client: an answer to its own question, no transaction, no lock, no setting, no row of others.
fn next_client_is_served(pgweir: &Pgweir, database: &TestDatabase, after: &str) {
    let mut next = RawClient::login(pgweir.port, &database.name);
    next.send(&query(
        "SELECT 'mine', current_setting('timezone'), (SELECT count(*) FROM t), \
         (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())",
    ));
    let messages = next.until_ready(1);
    let tags: Vec<_> = messages.iter().map(|(tag, _)| *tag as char).collect();
    assert_eq!(tags, ['T', 'D', 'C', 'Z'], "after {after}");
    let row = String::from_utf8_lossy(&messages[1].1).into_owned();
    assert!(
        row.contains("mine") && row.contains("UTC") && row.matches('0').count() == 2,
        "after {after}: {row:?}"
    );
    assert_eq!(messages[3].1, b"I", "after {after}");
}

#[test]
fn a_client_may_leave_at_any_point() {
    let database = support::database();
    database.on(0, "CREATE TABLE t (i int)");
    let pgweir =
        Pgweir::start(&format!("pool: {{size: 1}}\nrouting: {{reads: primary}}\n{}", database.yaml()));
    let packet = startup_packet(&database.name);
    let logged_in = || RawClient::login(pgweir.port, &database.name);
    // During login, at every byte of the first packet.
    for bytes in 0..packet.len() {
        let mut client = RawClient::connect(pgweir.port);
        client.send(&packet[..bytes]);
    }
    let mut client = RawClient::connect(pgweir.port);
    client.send(&packet);
    assert_eq!(client.message().0, b'R', "asked for a password, and leaves");
    drop(client);
    next_client_is_served(&pgweir, &database, "logins that were given up");
    // In the middle of a message, at every byte.
    let insert = query("INSERT INTO t VALUES (1)");
    for bytes in 0..insert.len() {
        logged_in().send(&insert[..bytes]);
    }
    next_client_is_served(&pgweir, &database, "halves of a query");
    let steps: &[(&str, &[BytesMut], bool)] = &[
        ("in a transaction", &[query("BEGIN"), query("INSERT INTO t VALUES (2)")], true),
        ("in a failed transaction", &[query("BEGIN"), query("SELECT 1/0")], true),
        ("with a setting in a transaction", &[query("BEGIN"), query("SET timezone = 'Asia/Tokyo'")], true),
        (
            "with a lock and a temporary table",
            &[query("SELECT pg_advisory_lock(5)"), query("CREATE TEMP TABLE x (i int)")],
            true,
        ),
        (
            "before a large result is read",
            &[query("SELECT repeat('x', 1000) FROM generate_series(1, 200000)")],
            false,
        ),
        ("while a query runs", &[query("SELECT pg_sleep(0.3)")], false),
        // That is noticed while it runs, though its client is not listened to at first.
        ("while a long query runs", &[query("SELECT pg_sleep(600)")], false),
        ("in a COPY", &[query("COPY t FROM STDIN")], false),
        ("between Execute and Sync", &[unsynced(3)], false),
        (
            "in a transaction that was not answered yet",
            &[query("BEGIN; INSERT INTO t VALUES (4); SELECT pg_sleep(0.2)")],
            false,
        ),
    ];
    for (name, requests, wait) in steps {
        let mut client = logged_in();
        for request in *requests {
            client.send(request);
            if *wait {
                client.until_ready(1);
            }
        }
        if *name == "in a COPY" {
            let mut data = BytesMut::new();
            message(&mut data, b'd', |b| b.put_slice(b"5\n6\n"));
            client.send(&data[..data.len() - 1]);
        }
        if !wait {
            std::thread::sleep(Duration::from_millis(60));
        }
        drop(client);
        next_client_is_served(&pgweir, &database, name);
    }
    // While it waits for the one connection.
    let mut holder = logged_in();
    holder.send(&query("BEGIN; SELECT 1"));
    holder.until_ready(1);
    let mut waiting = logged_in();
    waiting.send(&query("INSERT INTO t VALUES (7)"));
    let pools = || String::from_utf8_lossy(&console(&pgweir, "SHOW POOLS")).into_owned();
    let until = |what: &str, condition: &dyn Fn(&str) -> bool| {
        let begun = Instant::now();
        while !pools().lines().any(|line| line.starts_with(&database.name) && condition(line)) {
            assert!(begun.elapsed() < Duration::from_secs(5), "{what}: {}", pools());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until("one waits", &|line| line.split('|').nth(3) == Some("1"));
    drop(waiting);
    until("nobody waits", &|line| line.split('|').nth(3) == Some("0"));
    holder.send(&query("COMMIT"));
    holder.until_ready(1);
    drop(holder);
    next_client_is_served(&pgweir, &database, "a client that left the queue");
    until("nothing is lent", &|line| line.split('|').nth(6) == Some("0"));
}

fn console(pgweir: &Pgweir, command: &str) -> Vec<u8> {
    let output = std::process::Command::new("psql")
        .args(["-X", "-A", "-t", "-c", command, "-d", &pgweir.url("pgbouncer")])
        .output();
    output.unwrap().stdout
}

/// A cancel request with a key of protocol 3.2 is obeyed; with a wrong, short or old key it is not.
#[test]
fn cancel_requests_with_long_keys() {
    let database = support::database();
    let pgweir = Pgweir::start(&database.yaml());
    let mut startup = BytesMut::new();
    untagged(&mut startup, |b| {
        b.put_u32((3 << 16) | 2);
        for text in ["user", "app", "database", &database.name] {
            cstr(b, text.as_bytes());
        }
        b.put_u8(0);
    });
    let mut client = RawClient::connect(pgweir.port).log_in(&startup);
    let key = client.greeting.iter().find(|(tag, _)| *tag == b'K').unwrap().1.clone();
    assert_eq!(key.len(), 36);
    let cancel = |secret: &[u8]| {
        let mut out = BytesMut::new();
        startup::cancel_request(&mut out, i32::from_be_bytes(key[..4].try_into().unwrap()), secret);
        let mut canceler = RawClient::connect(pgweir.port);
        canceler.send(&out);
        assert!(canceler.try_message().is_none(), "a cancel request is not answered");
    };
    client.send(&query("SELECT pg_sleep(1)"));
    std::thread::sleep(Duration::from_millis(150));
    cancel(&[0; 32]);
    cancel(&key[4..8]);
    let tags: Vec<_> = client.until_ready(1).into_iter().map(|(tag, _)| tag as char).collect();
    assert_eq!(tags, ['T', 'D', 'C', 'Z'], "wrong keys cancel nothing");
    client.send(&query("SELECT pg_sleep(30)"));
    std::thread::sleep(Duration::from_millis(150));
    let begun = Instant::now();
    cancel(&key[4..]);
    let tags: Vec<_> = client.until_ready(1).into_iter().map(|(tag, _)| tag as char).collect();
    assert_eq!(tags.last(), Some(&'Z'));
    assert!(tags.contains(&'E') && begun.elapsed() < Duration::from_secs(5));
    client.send(&query("SELECT 1"));
    assert_eq!(client.until_ready(1).len(), 4);
}
