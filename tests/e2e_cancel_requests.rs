//! Cancel requests: the right statement or none, wherever it is.
#![allow(clippy::pedantic, clippy::unwrap_used, clippy::panic, reason = "test code outside a #[test]")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::BufMut as _;
use support::talk::{Until, ask, cancel, comparable, hear, read, rows, same, send, sqlstate, until};
use support::wire::RawClient;
use support::{Pgweir, TestDatabase};

fn waiting(pgweir: &Pgweir) -> usize {
    let shown = ask(&mut RawClient::login(pgweir.port, "pgweir"), "SHOW CLIENTS");
    shown.iter().filter(|row| row.split('|').nth(4) == Some("waiting")).count()
}

#[test]
fn a_client_in_the_queue_leaves_it() {
    let database = support::database();
    let pgweir = Pgweir::start(&format!("pool: {{size: 1, checkout_timeout: 30s}}\n{}", database.yaml()));
    let name = &database.name;
    let mut holder = RawClient::login(pgweir.port, name);
    let mut queued = RawClient::login(pgweir.port, name);
    let mut next = RawClient::login(pgweir.port, name);
    ask(&mut holder, "BEGIN; SELECT 1");
    ask(&mut holder, "SELECT pg_current_xact_id()");
    let work = "SELECT pg_current_xact_id() IS NOT NULL";
    // Simple, extended, and a batch that a Flush ends: skipped up to the Sync, as after any error.
    let batches = [
        (send().query(work), send()),
        (send().run(work, &[]).run(work, &[]).sync(), send()),
        (send().run(work, &[]).flush(), send().run(work, &[]).sync()),
    ];
    for (batch, rest) in batches {
        queued.send(&batch.0);
        until("it waits", || waiting(&pgweir) == 1);
        cancel(pgweir.port, &queued.greeting);
        queued.send(&rest.0);
        let heard = hear(&mut queued, Until::Ready(1));
        assert_eq!(heard, ["E  57014 | canceling statement due to user request |  | ", "Z I"]);
        assert_eq!(waiting(&pgweir), 0);
    }
    // The one behind it is not touched, and comes next.
    queued.send(&send().query(work).0);
    until("one waits", || waiting(&pgweir) == 1);
    next.send(&send().query(work).0);
    until("two wait", || waiting(&pgweir) == 2);
    cancel(pgweir.port, &queued.greeting);
    assert_eq!(sqlstate(&read(&mut queued, Until::Ready(1))).as_deref(), Some("57014"));
    ask(&mut holder, "COMMIT");
    assert_eq!(rows(&read(&mut next, Until::Ready(1))), ["t"]);
    assert_eq!(ask(&mut queued, work), ["t"], "the session goes on");
}

/// Cancels at random moments from many clients that share two connections, each statement of which knows whose it is.
#[test]
fn no_cancel_hits_another_client() {
    let database = support::database();
    let long = std::env::var_os("PGWEIR_LONG_TESTS").is_some();
    let pgweir = Pgweir::start(&format!(
        "pool: {{size: 2, debug_rotate: true, checkout_timeout: 60s}}\n{}",
        database.yaml()
    ));
    let end = Instant::now() + Duration::from_secs(if long { 60 } else { 4 });
    let (stop, canceled, done) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            // These send no cancels: nothing of theirs may fail.
            scope.spawn(|| {
                let mut client = RawClient::login(pgweir.port, &database.name);
                while !stop.load(Ordering::Relaxed) {
                    ask(&mut client, "SELECT pg_sleep(0.001)");
                    ask(&mut client, "SELECT pg_current_xact_id(), pg_sleep(0.001)");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for number in 0..4_u64 {
            let (stop, canceled, pgweir, database) = (&stop, &canceled, &pgweir, &database);
            scope.spawn(move || {
                let mut client = RawClient::login(pgweir.port, &database.name);
                let mut random = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
                while Instant::now() < end {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let sleep = if random % 3 == 0 { "0.02" } else { "0" };
                    client.send(&send().query(format!("SELECT pg_current_xact_id(), pg_sleep({sleep})")).0);
                    std::thread::sleep(Duration::from_micros(random % 6000));
                    cancel(pgweir.port, &client.greeting);
                    match sqlstate(&read(&mut client, Until::Ready(1))) {
                        None => {}
                        Some(code) => {
                            assert_eq!(code, "57014");
                            canceled.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                stop.store(true, Ordering::Relaxed);
            });
        }
    });
    assert!(canceled.load(Ordering::Relaxed) > 10 && done.load(Ordering::Relaxed) > 10);
}

#[test]
fn a_cancel_while_idle_hits_nothing() {
    let database = support::database();
    let pgweir = Pgweir::start(&format!("pool: {{size: 1}}\n{}", database.yaml()));
    let mut client = RawClient::login(pgweir.port, &database.name);
    let mut other = RawClient::login(pgweir.port, &database.name);
    ask(&mut client, "SELECT 1");
    for _ in 0..5 {
        cancel(pgweir.port, &client.greeting);
        assert_eq!(ask(&mut other, "SELECT pg_sleep(0.02), 2"), ["|2"]);
    }
    // Idle in a transaction: as without us, unless the next statement overtakes it.
    ask(&mut client, "BEGIN; SELECT 1");
    ask(&mut client, "SELECT pg_current_xact_id()");
    cancel(pgweir.port, &client.greeting);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ask(&mut client, "SELECT 3"), ["3"]);
    ask(&mut client, "COMMIT");
    assert_eq!(ask(&mut other, "SELECT pg_sleep(0.02), 4"), ["|4"]);
    // A wrong key does nothing.
    client.send(&send().query("SELECT pg_sleep(0.3), 5").0);
    let mut greeting = client.greeting.clone();
    let key = greeting.iter_mut().find(|(tag, _)| *tag == b'K').unwrap();
    *key.1.last_mut().unwrap() ^= 1;
    cancel(pgweir.port, &greeting);
    assert_eq!(rows(&read(&mut client, Until::Ready(1))), ["|5"]);
}

/// What comes after a canceled statement is as after any failed one.
#[test]
fn transactions_pipelines_and_copy_fail_as_in_postgresql() {
    let database = support::database();
    database.on(0, "CREATE TABLE t (i int)");
    let pgweir = Pgweir::start(&format!("pool: {{size: 2}}\n{}", database.yaml()));
    let on = |port| {
        let mut client = RawClient::login(port, &database.name);
        let mut heard = Vec::new();
        let turns = [
            send().query("BEGIN; SELECT pg_sleep(20); SELECT 1"),
            send()
                .run("SELECT 1", &[])
                .run("SELECT pg_sleep(20)", &[])
                .run("SELECT 2", &[])
                .sync()
                .run("SELECT 3", &[])
                .sync(),
            send().query("COPY t FROM STDIN").copy_data("1\n"),
            send().query("COPY (SELECT pg_sleep(0.1), i FROM generate_series(1, 100) i) TO STDOUT"),
        ];
        for (turn, at) in turns.iter().zip(0..) {
            client.send(&turn.0);
            std::thread::sleep(Duration::from_millis(350));
            cancel(port, &client.greeting);
            if at == 2 {
                // The server waits for data, and looks up only then.
                client.send(&send().copy_data("2\n").copy_done().0);
            }
            let ready = if at == 1 { 2 } else { 1 };
            let mut messages = read(&mut client, Until::Ready(ready));
            // How many rows of the COPY have come by then is chance.
            messages.retain(|(tag, _)| *tag != b'd');
            heard.extend(messages.into_iter().map(comparable));
            client.send(&send().query("ROLLBACK").0);
            heard.extend(hear(&mut client, Until::Ready(1)));
        }
        heard
    };
    let (direct, through) =
        std::thread::scope(|s| (s.spawn(|| on(support::cluster().port(0))).join(), on(pgweir.port)));
    assert_eq!(through, direct.unwrap());
    same(
        "the key is of no use after",
        &database.name,
        support::cluster().port(0),
        pgweir.port,
        &[(send().query("SELECT 1"), Until::Ready(1))],
    );
}

fn psql(pgweir: &Pgweir, host: &str, database: &TestDatabase, more: &str) -> std::process::Child {
    let conninfo =
        format!("host={host} port={} user=app password=app dbname={} {more}", pgweir.port, database.name);
    std::process::Command::new(support::cluster().programs.join("psql"))
        .args(["-X", "-v", "ON_ERROR_STOP=1", "-d", &conninfo, "-c", "SELECT pg_sleep(30)"])
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

/// The program's own way: Ctrl-C, over TLS and over a unix socket.
#[test]
fn psql_cancels_over_tls_and_unix_sockets() {
    let database = support::database();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let generated = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("cert.pem"), generated.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), generated.signing_key.serialize_pem()).unwrap();
    let yaml = format!(
        "tls: {{client: {{mode: prefer, certificate: {}, key: {}}}}}\n{}",
        path("cert.pem").display(),
        path("key.pem").display(),
        database.yaml()
    );
    let pgweir = Pgweir::start_with(&yaml, Some(directory.path()));
    let sleeping = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND query LIKE '%pg_sleep(30)%' AND state = 'active'",
        database.name
    );
    let on = |node| support::cluster().psql(node, "postgres", &sleeping).unwrap().parse::<usize>().unwrap();
    let count = || (0..3).map(on).sum::<usize>();
    let unix_host = directory.path().display().to_string();
    for (host, more) in
        [("127.0.0.1", "sslmode=require"), ("127.0.0.1", "sslmode=disable"), (&*unix_host, "")]
    {
        let mut child = psql(&pgweir, host, &database, more);
        until("it sleeps", || count() == 1);
        let interrupted = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(interrupted.unwrap().success());
        until("it was canceled", || count() == 0);
        let output = child.wait().unwrap();
        assert!(!output.success());
    }
}

/// Protocol 3.2: the key is long, and cancels.
#[test]
fn long_keys() {
    let database = support::database();
    let pgweir = Pgweir::start(&database.yaml());
    let mut packet = bytes::BytesMut::new();
    packet.put_u32(0);
    packet.put_u32(3 << 16 | 2);
    for text in ["user", "app", "database", &*database.name] {
        packet.put_slice(text.as_bytes());
        packet.put_u8(0);
    }
    packet.put_u8(0);
    let length = u32::try_from(packet.len()).unwrap();
    packet[..4].copy_from_slice(&length.to_be_bytes());
    let mut client = RawClient::connect(pgweir.port).log_in(&packet);
    let key = client.greeting.iter().find(|(tag, _)| *tag == b'K').unwrap();
    assert_eq!(key.1.len(), 4 + 32);
    assert!(client.greeting.iter().all(|(tag, _)| *tag != b'v'), "nothing to negotiate");
    client.send(&send().query("SELECT pg_sleep(30)").0);
    std::thread::sleep(Duration::from_millis(200));
    cancel(pgweir.port, &client.greeting);
    assert_eq!(sqlstate(&read(&mut client, Until::Ready(1))).as_deref(), Some("57014"));
}
