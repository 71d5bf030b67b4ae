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
use futures_util::StreamExt as _;
use pgweir::protocol::frontend;
use support::inprocess::{one, until};
use support::wire::RawClient;
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

/// Names and payloads come in the client's own encoding, byte for byte; a client that changes it afterwards is
/// told rather than given something wrong.
#[test]
fn encodings() {
    let database = support::database();
    let pgweir = Pgweir::start(&format!("pool: {{size: 2, debug_rotate: true}}\n{}", database.yaml()));
    let ask = |client: &mut RawClient, parts: &[&[u8]]| {
        let mut bytes = BytesMut::new();
        frontend::query(&mut bytes, &parts.concat());
        client.send(&bytes);
        client.until_ready(1)
    };
    let run = |port: u16, encoding: &str, name: &[u8], text: &[u8]| {
        let (mut client, mut other) =
            (RawClient::login(port, &database.name), RawClient::login(port, &database.name));
        ask(&mut client, &[b"SET client_encoding = '", encoding.as_bytes(), b"'"]);
        let mut seen = ask(&mut client, &[b"LISTEN \"", name, b"\"; LISTEN plain"]);
        seen.extend(ask(&mut client, &[b"NOTIFY \"", name, b"\", '", text, b"'"]));
        seen.extend(ask(&mut client, &[b"BEGIN; LISTEN late"]));
        seen.extend(ask(&mut client, &[b"COMMIT"]));
        seen.extend(ask(&mut client, &[b"SELECT * FROM pg_listening_channels() ORDER BY 1"]));
        ask(&mut other, &[b"NOTIFY plain, 'ascii'"]);
        seen.extend(ask(&mut client, &[b"SELECT 1"]));
        // Where in the answer to SELECT 1 the other's notification stands is a matter of timing.
        seen.sort_by_key(|(tag, _)| *tag == b'A');
        seen.iter_mut().filter(|(tag, _)| *tag == b'A').for_each(|(_, body)| body[..4].fill(0));
        seen
    };
    let direct = support::cluster().port(0);
    for (encoding, name, text) in [
        ("UTF8", "schön".as_bytes(), "🎉".as_bytes()),
        ("LATIN1", b"sch\xf6n", b"\xe9\xe8"),
        // The second byte of some of these is a backslash.
        ("SJIS", b"\x95\x5c", b"\x83\x5c\x83\x7c"),
        ("GBK", b"\xd0\xc2\x81\x5c", b"\xce\xc5"),
        ("EUC_JP", b"\xa5\xbd", b"\xc9\xbd"),
        ("SQL_ASCII", "schön".as_bytes(), "é".as_bytes()),
    ] {
        let expected = run(direct, encoding, name, text);
        assert!(
            expected.iter().any(|(tag, body)| *tag == b'A' && body[4..].starts_with(name)),
            "{encoding}: {expected:?}"
        );
        assert_eq!(run(pgweir.port, encoding, name, text), expected, "{encoding}");
    }
    let mut client = RawClient::login(pgweir.port, &database.name);
    let mut other = RawClient::login(pgweir.port, &database.name);
    ask(&mut client, &[b"LISTEN c"]);
    ask(&mut client, &[b"SET client_encoding = 'LATIN1'"]);
    ask(&mut other, &[b"NOTIFY c, 'plain'"]);
    let heard = ask(&mut client, &[b"SELECT 1"]);
    assert!(heard.iter().any(|(tag, body)| *tag == b'A' && body.ends_with(b"c\0plain\0")), "{heard:?}");
    ask(&mut other, &["NOTIFY c, 'grüße'".as_bytes()]);
    let told = client.until_ready(1);
    assert!(fields(&told[0].1).starts_with("SFATAL|C0A000|"), "{told:?}");
    assert_eq!(told.last().unwrap().1, b"closed");
}

/// In the extended protocol, and where exactly in the stream.
#[test]
fn own_notifications_stand_before_ready_for_query() {
    let database = support::database();
    let direct = support::cluster().port(0);
    let pgweir = Pgweir::start(&format!("pool: {{size: 2, debug_check: true}}\n{}", database.yaml()));
    let tags = |port: u16| -> Vec<String> {
        let mut client = RawClient::login(port, &database.name);
        let own = pid(&client);
        let mut seen = Vec::new();
        let mut step = |client: &mut RawClient, bytes: &[u8], ready: usize| {
            client.send(bytes);
            for (tag, body) in client.until_ready(ready) {
                let is_own = tag == b'A' && i32::from_be_bytes(body[..4].try_into().unwrap()) == own;
                seen.push(if tag == b'A' { format!("A own={is_own}") } else { (tag as char).to_string() });
            }
            seen.push("|".to_owned());
        };
        let extended = |sql: &str, sync: bool| {
            let mut out = BytesMut::new();
            for (tag, body) in [
                (b'P', [&b"\0"[..], sql.as_bytes(), b"\0\0\0"].concat()),
                (b'B', b"\0\0\0\0\0\0\0\0".to_vec()),
                (b'E', b"\0\0\0\0\0".to_vec()),
            ] {
                out.extend_from_slice(&[tag]);
                out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
                out.extend_from_slice(&body);
            }
            if sync {
                frontend::sync(&mut out);
            }
            out
        };
        let simple = |sql: &str| {
            let mut out = BytesMut::new();
            frontend::query(&mut out, sql.as_bytes());
            out
        };
        step(&mut client, &simple("LISTEN c; NOTIFY c, 'together'"), 1);
        step(&mut client, &simple("NOTIFY c, 'alone'"), 1);
        step(&mut client, &extended("NOTIFY c, 'extended'", true), 1);
        // A pipeline of two transactions: each one's notification stands before its own ReadyForQuery.
        let two = [extended("NOTIFY c, '1'", true), extended("SELECT pg_notify('c', '2')", true)].concat();
        step(&mut client, &two, 2);
        // A transaction in one pipeline with one Sync.
        let one = ["BEGIN", "NOTIFY c, '3'", "COMMIT", "SELECT 1"].map(|sql| extended(sql, false)).concat();
        let mut one = BytesMut::from(&one[..]);
        frontend::sync(&mut one);
        step(&mut client, &one, 1);
        // A Flush: nothing before the Sync.
        let mut flushed = extended("NOTIFY c, '4'", false);
        frontend::flush(&mut flushed);
        client_flush(&mut client, &flushed, 3);
        let mut sync = BytesMut::new();
        frontend::sync(&mut sync);
        step(&mut client, &sync, 1);
        step(&mut client, &simple("BEGIN"), 1);
        step(&mut client, &extended("LISTEN d", true), 1);
        step(&mut client, &extended("SELECT pg_notify('d', '5'), pg_notify('c', '6')", true), 1);
        step(&mut client, &simple("COMMIT"), 1);
        // An error in a pipeline.
        let failed =
            [extended("NOTIFY c, 'no'", false), extended("SELECT 1/0", false), extended("NOTIFY c", true)]
                .concat();
        step(&mut client, &failed, 1);
        step(&mut client, &extended("UNLISTEN *", true), 1);
        step(&mut client, &simple("NOTIFY c, 'nobody'"), 1);
        seen
    };
    let expected = tags(direct);
    assert!(
        expected.join("").contains("CAown=trueZ") || expected.join("").contains("CA own=trueZ"),
        "{expected:?}"
    );
    assert_eq!(tags(pgweir.port), expected);
}

/// Sends what ends in a Flush and reads so many messages.
fn client_flush(client: &mut RawClient, bytes: &[u8], count: usize) {
    client.send(bytes);
    for _ in 0..count {
        assert_ne!(client.message().0, b'A', "no notification inside a transaction");
    }
}

// ---- Clients of a driver ----

/// A client and what it hears.
struct Listener {
    client: Client,
    heard: mpsc::UnboundedReceiver<Notification>,
    ended: tokio::task::JoinHandle<Option<String>>,
}

impl Listener {
    async fn next(&mut self) -> Notification {
        tokio::time::timeout(Duration::from_secs(20), self.heard.recv())
            .await
            .expect("in time")
            .expect("open")
    }

    /// What it was told at the end: the SQLSTATE, or nothing.
    async fn end(self) -> Option<String> {
        tokio::time::timeout(Duration::from_secs(20), self.ended).await.expect("in time").unwrap()
    }
}

async fn listener(config: &tokio_postgres::Config, channels: &[&str]) -> Listener {
    let (client, mut connection) = config.connect(NoTls).await.unwrap();
    let (sender, heard) = mpsc::unbounded_channel();
    let ended = tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
        loop {
            match messages.next().await {
                Some(Ok(AsyncMessage::Notification(notification))) => drop(sender.send(notification)),
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    return Some(error.code().map_or_else(|| error.to_string(), |c| c.code().to_owned()));
                }
                None => return None,
            }
        }
    });
    for channel in channels {
        client.batch_execute(&format!("LISTEN \"{channel}\"")).await.unwrap();
    }
    Listener { client, heard, ended }
}

fn open_listeners(app: &InProcess) -> usize {
    app.context.pools.listeners.all().iter().filter(|listener| listener.info().is_some()).count()
}

fn subscriptions(app: &InProcess) -> usize {
    app.context.pools.listeners.all().iter().map(|listener| listener.subscriptions()).sum()
}

/// Several notifiers and listeners at once, all also working, over rotating server connections: each listener
/// gets every notification of its channels exactly once, each notifier's in its order, and all listeners of
/// a channel in the same order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_nothing_is_lost_doubled_or_out_of_order() {
    const NOTIFIERS: usize = 4;
    const EACH: usize = 150;
    let database = support::database();
    database.on(0, "CREATE TABLE t (i int)");
    support::cluster().wait_caught_up(0).unwrap();
    let yaml = format!("pool: {{size: 4, debug_rotate: true, debug_check: true}}\n{}", database.yaml());
    let app = InProcess::start(&yaml).await;
    let config = app.config(&database.name);
    let mut listeners = Vec::new();
    for number in 0..6 {
        let channels: &[&str] = if number % 2 == 0 { &["even", "everybody"] } else { &["odd", "everybody"] };
        listeners.push(listener(&config, channels).await);
    }
    let mut notifiers = Vec::new();
    for number in 0..NOTIFIERS {
        let client = app.client(&database.name).await;
        notifiers.push(tokio::spawn(async move {
            for i in 0..EACH {
                let parity = if i % 2 == 0 { "even" } else { "odd" };
                if i % 7 == 3 {
                    client
                        .batch_execute(&format!(
                            "BEGIN; NOTIFY everybody, 'never'; NOTIFY {parity}, 'never'; ROLLBACK"
                        ))
                        .await
                        .unwrap();
                }
                if i % 5 == 0 {
                    client.batch_execute("BEGIN").await.unwrap();
                    client.batch_execute(&format!("NOTIFY {parity}, '{number} {i}'")).await.unwrap();
                    client
                        .execute("SELECT pg_notify('everybody', $1)", &[&format!("{number} {i}")])
                        .await
                        .unwrap();
                    client.batch_execute("COMMIT").await.unwrap();
                } else {
                    client
                        .batch_execute(&format!(
                            "NOTIFY {parity}, '{number} {i}'; NOTIFY everybody, '{number} {i}'"
                        ))
                        .await
                        .unwrap();
                }
            }
        }));
    }
    // Listeners that work meanwhile, some of it in transactions, some on replicas.
    let mut workers = Vec::new();
    for (number, listener) in listeners.iter().enumerate() {
        let work = async move {
            for i in 0..40 {
                listener.client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
                assert_eq!(one(&listener.client, &format!("SELECT {i}")).await, i.to_string());
                listener.client.batch_execute("COMMIT").await.unwrap();
                one(&listener.client, "SELECT count(*) FROM t").await;
                if number == 0 {
                    // Other channels come and go.
                    listener.client.batch_execute("LISTEN other").await.unwrap();
                    listener.client.batch_execute("UNLISTEN other").await.unwrap();
                }
            }
        };
        workers.push(work);
    }
    futures_util::future::join_all(workers).await;
    for notifier in notifiers {
        notifier.await.unwrap();
    }
    let mut orders: BTreeMap<&str, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (number, listener) in listeners.iter_mut().enumerate() {
        // What was acknowledged is there once an own statement is answered.
        one(&listener.client, "SELECT 1").await;
        let mut heard: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while let Ok(notification) = listener.heard.try_recv() {
            heard
                .entry(notification.channel().to_owned())
                .or_default()
                .push(notification.payload().to_owned());
        }
        let own = if number % 2 == 0 { "even" } else { "odd" };
        assert_eq!(
            heard.keys().map(String::as_str).collect::<BTreeSet<_>>(),
            BTreeSet::from([own, "everybody"])
        );
        for (channel, share) in [(own, EACH / 2), ("everybody", EACH)] {
            let payloads = &heard[channel];
            assert_eq!(payloads.len(), NOTIFIERS * share, "listener {number} on {channel}");
            for notifier in 0..NOTIFIERS {
                let prefix = format!("{notifier} ");
                let numbers: Vec<usize> = payloads
                    .iter()
                    .filter_map(|text| text.strip_prefix(&prefix))
                    .map(|n| n.parse().unwrap())
                    .collect();
                assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "in order, each once: {numbers:?}");
                assert_eq!(numbers.len(), share);
            }
            orders.entry(channel).or_default().insert(payloads.clone());
        }
    }
    assert!(orders.values().all(|orders| orders.len() == 1), "all listeners agree on the order");
    assert_eq!(open_listeners(&app), 1);
    let dirty: u64 = app.context.pools.pools().iter().map(|pool| pool.stats.snapshot().dirty).sum();
    assert_eq!(dirty, 0);
    app.stop().await;
}

#[tokio::test]
async fn many_listeners_need_one_connection_and_close_it_behind_them() {
    let database = support::database();
    let app = InProcess::start(&format!("pool: {{size: 5}}\n{}", database.yaml())).await;
    let config = app.config(&database.name);
    let mut listeners = Vec::new();
    for number in 0..50 {
        listeners.push(listener(&config, &["everybody", &format!("c{number}")]).await);
    }
    assert_eq!((open_listeners(&app), subscriptions(&app)), (1, 100));
    until("nobody keeps a server connection", || app.lent_and_waiting() == (0, 0)).await;
    let backends = database.on(0, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND datname = current_database() AND pid <> pg_backend_pid()");
    assert!(backends.parse::<usize>().unwrap() <= 6, "{backends} for 50 listeners");
    // They all work, at the same time, and hear of each other under the numbers they were told.
    let work = listeners.iter().map(|listener| one(&listener.client, "SELECT 1 FROM pg_sleep(0.01)"));
    futures_util::future::join_all(work).await;
    listeners[7].client.batch_execute("NOTIFY everybody, 'hello'; NOTIFY c8, 'you'").await.unwrap();
    let mut senders = BTreeSet::new();
    for (number, listener) in listeners.iter_mut().enumerate() {
        let notification = listener.next().await;
        assert_eq!((notification.channel(), notification.payload()), ("everybody", "hello"));
        senders.insert(notification.process_id());
        if number == 8 {
            assert_eq!(listener.next().await.payload(), "you");
        }
    }
    assert_eq!(senders.len(), 1, "one sender: {senders:?}");
    let console = app.client("pgweir").await;
    let shown = one(&console, "SHOW SERVERS").await;
    assert_eq!(shown, "S");
    let messages = console.simple_query("SHOW SERVERS").await.unwrap();
    let states = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get("state"),
        _ => None,
    });
    assert_eq!(states.filter(|state| *state == "listen").count(), 1);
    // From outside, too, and until the last has left.
    database.on(0, "NOTIFY everybody, 'outside'");
    assert_eq!(listeners[3].next().await.payload(), "outside");
    listeners.truncate(1);
    until("the others have left", || subscriptions(&app) == 2).await;
    database.on(0, "NOTIFY everybody, 'still'");
    let mut last = listeners.pop().unwrap();
    while last.next().await.payload() != "still" {}
    last.client.batch_execute("UNLISTEN *").await.unwrap();
    until("the listener is closed", || open_listeners(&app) == 0).await;
    // And comes again.
    last.client.batch_execute("LISTEN c; NOTIFY c, 'again'").await.unwrap();
    assert_eq!(last.next().await.payload(), "again");
    app.stop().await;
}

#[tokio::test]
async fn a_lost_listener_ends_its_clients_and_nobody_else() {
    let database = support::database();
    let app = InProcess::start(&database.yaml()).await;
    let config = app.config(&database.name);
    let (idle, busy) = (listener(&config, &["c"]).await, listener(&config, &["c"]).await);
    let bystander = app.client(&database.name).await;
    busy.client.batch_execute("BEGIN").await.unwrap();
    let pid = app.context.pools.listeners.all()[0].info().unwrap().identity.pid;
    assert_eq!(database.on(0, &format!("SELECT pg_terminate_backend({pid})")), "t");
    assert_eq!(idle.end().await.as_deref(), Some("57P01"));
    assert_eq!(busy.end().await.as_deref(), Some("57P01"));
    assert_eq!(one(&bystander, "SELECT 1").await, "1");
    until("nothing is lent", || app.lent_and_waiting() == (0, 0)).await;
    let mut again = listener(&config, &["c"]).await;
    again.client.batch_execute("NOTIFY c, 'x'").await.unwrap();
    assert_eq!(again.next().await.payload(), "x");
    let stats = &app.context.pools.listeners.stats;
    assert_eq!(stats.lost.load(std::sync::atomic::Ordering::Relaxed), 1);
    app.stop().await;
}

#[tokio::test]
async fn who_does_not_read_is_disconnected_and_delays_nobody() {
    let database = support::database();
    let yaml = format!("limits: {{notifications_per_client: 1MiB}}\n{}", database.yaml());
    let app = InProcess::start(&yaml).await;
    let mut quick = listener(&app.config(&database.name), &["c"]).await;
    // One reads nothing, another keeps a transaction open.
    let (port, name) = (app.address.port(), database.name.clone());
    let silent = tokio::task::spawn_blocking(move || {
        let mut silent = RawClient::login(port, &name);
        let mut bytes = BytesMut::new();
        frontend::query(&mut bytes, b"LISTEN c");
        silent.send(&bytes);
        silent.until_ready(1);
        silent
    });
    let mut silent = silent.await.unwrap();
    let open = listener(&app.config(&database.name), &["c"]).await;
    open.client.batch_execute("BEGIN").await.unwrap();
    let notifier = app.client(&database.name).await;
    let stats = &app.context.pools.listeners.stats;
    let mut sent = 0;
    let begun = Instant::now();
    while stats.overflows.load(std::sync::atomic::Ordering::Relaxed) < 2 {
        for _ in 0..50 {
            sent += 1;
            notifier
                .execute("SELECT pg_notify('c', $1 || repeat('x', 7000))", &[&format!("{sent} ")])
                .await
                .unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{sent} notifications and nobody over the limit");
    }
    assert_eq!(open.end().await.as_deref(), Some("53400"));
    for expected in 1..=sent {
        let payload = quick.next().await.payload().to_owned();
        assert!(payload.starts_with(&format!("{expected} ")), "{expected}: {}", &payload[..10]);
    }
    // What the silent one did get is in order and without a gap, and then it is over.
    let read = tokio::task::spawn_blocking(move || {
        let mut count = 0;
        while let Some((tag, body)) = silent.try_message() {
            if tag == b'A' {
                count += 1;
                assert!(body[4..].starts_with(format!("c\0{count} ").as_bytes()), "{count}");
            }
        }
        count
    });
    assert!(read.await.unwrap() < sent);
    until("two are left", || app.context.clients.count() == 2).await;
    app.stop().await;
}

#[tokio::test]
async fn without_a_listener_connection_listen_fails_and_the_session_lives() {
    let database = support::database();
    let yaml = format!("pool: {{size: 2}}\n{}", database.yaml());
    let app = InProcess::start(&yaml).await;
    let client = app.client(&database.name).await;
    one(&client, "SELECT pg_is_in_recovery()").await;
    // Connections that are there stay; no new one is let in.
    let superuser = |sql: &str| support::cluster().psql(0, "postgres", sql).unwrap();
    superuser(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", database.name));
    let refused = client.batch_execute("LISTEN c").await.expect_err("no listener");
    assert_eq!(refused.code().unwrap().code(), "55000", "{refused:?}");
    assert!(refused.as_db_error().unwrap().message().contains("receives notifications"), "{refused:?}");
    assert_eq!(
        one(&client, "SELECT 1 FROM pg_listening_channels() RIGHT JOIN (SELECT 1) x ON true").await,
        "1"
    );
    client.batch_execute("BEGIN").await.unwrap();
    assert!(client.batch_execute("LISTEN c").await.is_err());
    let failed = client.batch_execute("SELECT 1").await.expect_err("the transaction has failed");
    assert_eq!(failed.code().unwrap().code(), "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    superuser(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", database.name));
    client.batch_execute("LISTEN c").await.unwrap();
    assert_eq!(subscriptions(&app), 1);
    app.stop().await;
}

/// Clients tell their own notifications by the number of their session. Server connections change hands all
/// the time here, and still nobody is told that another's notification is its own, or the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_anothers_notification_for_its_own() {
    const CLIENTS: usize = 5;
    let database = support::database();
    database.on(0, "CREATE TABLE t (i int)");
    database.on(
        0,
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_notify('room', 'trigger ' || NEW.i); RETURN NEW; END $$; \
         CREATE TRIGGER tell AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION tell()",
    );
    support::cluster().wait_caught_up(0).unwrap();
    for rotate in [true, false] {
        let yaml = format!("pool: {{size: 3, debug_rotate: {rotate}}}\n{}", database.yaml());
        let app = InProcess::start(&yaml).await;
        // Somebody who writes and does not listen uses the same server connections.
        let bystander = app.client(&database.name).await;
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let told = std::sync::Arc::clone(&stop);
        let writes = tokio::spawn(async move {
            while !told.load(std::sync::atomic::Ordering::Relaxed) {
                bystander.batch_execute("INSERT INTO t VALUES (-1)").await.unwrap();
            }
        });
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let mut client = listener(&app.config(&database.name), &["room"]).await;
            client
                .client
                .batch_execute(&format!("LISTEN me; NOTIFY me, 'hello {number}'; UNLISTEN *"))
                .await
                .unwrap();
            client
                .client
                .batch_execute(&format!("LISTEN \"only {number}\"; NOTIFY \"only {number}\""))
                .await
                .unwrap();
            let own = loop {
                let notification = client.next().await;
                if notification.channel().starts_with("only") {
                    break notification.process_id();
                }
            };
            client.client.batch_execute("LISTEN room").await.unwrap();
            clients.push((own, client));
        }
        let work = clients.iter().enumerate().map(|(number, (_, client))| async move {
            for i in 0..60 {
                match i % 3 {
                    0 => client.client.batch_execute(&format!("NOTIFY room, 'text {number}'")).await.unwrap(),
                    1 => {
                        let sql = format!("INSERT INTO t VALUES ({number})");
                        client.client.execute(&sql, &[]).await.unwrap();
                    }
                    _ => {
                        client.client.batch_execute("BEGIN").await.unwrap();
                        client
                            .client
                            .batch_execute(&format!("INSERT INTO t VALUES ({number})"))
                            .await
                            .unwrap();
                        client.client.batch_execute("COMMIT").await.unwrap();
                    }
                }
            }
        });
        futures_util::future::join_all(work).await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        writes.await.unwrap();
        for (number, (own, client)) in clients.iter_mut().enumerate() {
            one(&client.client, "SELECT 1").await;
            let mut mine = 0;
            while let Ok(notification) = client.heard.try_recv() {
                let sender = notification.payload().rsplit(' ').next().unwrap();
                let is_mine = sender == number.to_string() && notification.channel() == "room";
                assert_eq!(notification.process_id() == *own, is_mine, "{number} was told: {notification:?}");
                mine += usize::from(is_mine);
            }
            assert_eq!(mine, 60, "its own all came");
        }
        app.stop().await;
    }
}

#[tokio::test]
async fn a_listener_that_does_not_answer_is_given_up() {
    let database = support::database();
    let app = InProcess::start(&format!("timeouts: {{server_connect: 1s}}\n{}", database.yaml())).await;
    let client = listener(&app.config(&database.name), &["c"]).await;
    let bystander = app.client(&database.name).await;
    let pid = app.context.pools.listeners.all()[0].info().unwrap().identity.pid;
    let signal = |name: &str| {
        assert!(
            std::process::Command::new("kill")
                .args(["-s", name, &pid.to_string()])
                .status()
                .unwrap()
                .success()
        );
    };
    signal("STOP");
    let begun = Instant::now();
    // Committed, and then nobody can tell whether its notifications have come.
    let lost = client.client.batch_execute("NOTIFY c, 'own'").await;
    signal("CONT");
    assert_eq!(lost.expect_err("its listener is lost").code().unwrap().code(), "57P01");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(client.end().await.is_some());
    assert_eq!(one(&bystander, "SELECT 1").await, "1");
    until("nothing is lent", || app.lent_and_waiting() == (0, 0)).await;
    app.stop().await;
}

/// A reload that makes another node the primary ends who listens on the old one; a reload that does not,
/// does not. A drain ends idle listeners at once.
#[tokio::test]
async fn reloads_and_drains() {
    let database = support::database();
    let mut pgweir = Pgweir::start(&database.yaml());
    let config: tokio_postgres::Config = pgweir.url(&database.name).parse().unwrap();
    let mut client = listener(&config, &["c"]).await;
    let yaml = std::fs::read_to_string(pgweir.config_file()).unwrap();
    let reload = |text: &str| {
        std::fs::write(pgweir.config_file(), text).unwrap();
        pgweir.signal("HUP");
    };
    reload(&format!("{yaml}timeouts: {{client_idle: 1h}}\n"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.client.batch_execute("NOTIFY c, 'still'").await.unwrap();
    assert_eq!(client.next().await.payload(), "still");
    let cluster = support::cluster();
    let (old, new) = (cluster.address(0), cluster.address(1));
    let others: Vec<_> = cluster.replica_addresses().iter().map(|a| format!("\"{a}\"")).collect();
    let moved = yaml
        .replace(&format!("primary: {old}"), &format!("primary: {new}"))
        .replace(&format!("replicas: [{}]", others.join(", ")), "replicas: []");
    assert_ne!(moved, yaml);
    reload(&moved);
    assert_eq!(client.end().await.as_deref(), Some("57P01"));
    reload(&yaml);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let again = listener(&config, &["c"]).await;
    let (status, metrics) = pgweir.get("/metrics");
    assert_eq!(status, 200);
    for line in [
        "pgweir_listeners 1",
        "pgweir_subscriptions 1",
        "pgweir_notifications_total 1",
        "pgweir_listeners_lost_total 1",
    ] {
        assert!(metrics.lines().any(|known| known == line), "{line} is not in\n{metrics}");
    }
    let begun = Instant::now();
    pgweir.signal("TERM");
    assert_eq!(again.end().await.as_deref(), Some("57P01"));
    assert!(pgweir.wait(Duration::from_secs(5)).is_some_and(|status| status.success()));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

/// The listener that lingers after the last client is no reason why a database cannot be dropped.
#[tokio::test]
async fn a_database_nobody_listens_in_can_be_dropped() {
    let database = support::database();
    let cluster = support::cluster();
    let yaml = format!(
        "databases:\n  \"*\":\n    primary: {}\nusers:\n  app: {{password: app}}\n",
        cluster.address(0)
    );
    let app = InProcess::start(&yaml).await;
    cluster.psql(0, "postgres", "ALTER ROLE app CREATEDB").unwrap();
    let name = format!("{}_x", database.name);
    let other = app.client(&database.name).await;
    other.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let client = listener(&app.config(&name), &["c"]).await;
    let refused =
        tokio::time::timeout(Duration::from_secs(20), other.batch_execute(&format!("DROP DATABASE {name}")))
            .await;
    assert_eq!(refused.unwrap().expect_err("somebody listens").code().unwrap().code(), "55006");
    client.client.batch_execute("UNLISTEN *").await.unwrap();
    assert_eq!(open_listeners(&app), 1);
    other.batch_execute(&format!("DROP DATABASE {name}")).await.unwrap();
    assert_eq!(open_listeners(&app), 0);
    app.stop().await;
}

/// A client that listens and whose statement goes stale is told in the one way or the other, and goes on.
#[tokio::test]
async fn stale_plans_and_resets_of_clients_that_listen() {
    let database = support::database();
    database.on(0, "CREATE TABLE t (i int)");
    let yaml = format!(
        "pool: {{size: 2, debug_rotate: true, debug_check: true}}\nrouting: {{reads: primary}}\n{}",
        database.yaml()
    );
    let app = InProcess::start(&yaml).await;
    let mut config = app.config(&database.name);
    config.application_name("listens");
    let mut client = listener(&config, &["c"]).await;
    let statement = client.client.prepare("SELECT * FROM t").await.unwrap();
    for round in 0..6 {
        client.client.query(&statement, &[]).await.map(drop).unwrap_or_else(|error| {
            assert_eq!(error.code().unwrap().code(), "0A000", "{error:?}");
        });
        client.client.batch_execute(&format!("NOTIFY c, '{round}'")).await.unwrap();
        assert_eq!(client.next().await.payload(), round.to_string());
        database.on(0, &format!("ALTER TABLE t ADD COLUMN c{round} int"));
        // Something that cannot be prepared, in a transaction and outside.
        assert!(client.client.query("SELECT nonsense", &[]).await.is_err());
        client.client.batch_execute("BEGIN").await.unwrap();
        assert!(client.client.query("SELECT nonsense", &[]).await.is_err());
        client.client.batch_execute("ROLLBACK").await.unwrap();
        client.client.batch_execute("SET application_name = 'other'; RESET application_name").await.unwrap();
        client.client.batch_execute("RESET ALL").await.unwrap();
        assert_eq!(one(&client.client, "SHOW application_name").await, "listens");
    }
    client.client.batch_execute("DISCARD ALL").await.unwrap();
    assert_eq!(one(&client.client, "SHOW application_name").await, "listens");
    client.client.batch_execute("NOTIFY c, 'unheard'").await.unwrap();
    one(&client.client, "SELECT 1").await;
    assert!(client.heard.try_recv().is_err());
    assert_eq!(subscriptions(&app), 0);
    let dirty: u64 = app.context.pools.pools().iter().map(|pool| pool.stats.snapshot().dirty).sum();
    assert_eq!(dirty, 0);
    app.stop().await;
}
