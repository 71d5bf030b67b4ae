//! Everything at once: clients that use all kinds of session state, disconnect, cancel, and lose their servers.
//!
//! Each client has a model of what its own session and its own row must be, and compares. Server connections
//! rotate, and each one that comes back is asked whether it is clean. `PGWEIR_SOAK_SECONDS` makes it longer
//! (600 for the long form), `PGWEIR_SEED` replays the choices of the clients.

#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code outside a #[test]"
)]

mod support;

use std::alloc::System;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::{InProcess, TestDatabase};
use tokio::sync::mpsc;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Error, NoTls, SimpleQueryMessage};

const CLIENTS: u64 = 24;

/// What is resident grows with the allocator's holes; this counts what is alive.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A small generator; the same seed makes the same choices.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Why an operation did not come to its end.
enum Trouble {
    /// The connection is gone (a server was killed): start anew.
    Gone,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        let gone = error.is_closed()
            || error.code().is_some_and(|code| {
                code.code().starts_with("08")
                    // Killed while it was being opened.
                    || *code == SqlState::CANNOT_CONNECT_NOW
                    || *code == SqlState::ADMIN_SHUTDOWN
                    || *code == SqlState::CRASH_SHUTDOWN
            })
            || error.to_string().contains("error communicating");
        assert!(gone, "an error that nothing explains: {error:?}");
        Self::Gone
    }
}

struct Session {
    client: Client,
    notes: mpsc::UnboundedReceiver<(String, String)>,
    /// What this session has set.
    settings: BTreeMap<&'static str, String>,
    temp_rows: Option<i64>,
    locks: u32,
    /// Its lock: the one of a session that was lost may be held until its server notices.
    lock: u64,
    listens: bool,
}

struct Worker {
    id: u64,
    app: Arc<InProcess>,
    database: String,
    random: Random,
    /// The value of its own row, when that is known.
    value: Option<i64>,
    session: Option<Session>,
    operations: Arc<AtomicU64>,
}

async fn rows(client: &Client, sql: &str) -> Result<Vec<String>, Error> {
    let messages = client.simple_query(sql).await?;
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
            _ => None,
        })
        .collect())
}

impl Worker {
    async fn connect(&mut self) -> Result<(), Trouble> {
        // Another session has to ask: what the last one wrote may not have reached the replicas.
        self.value = None;
        let (client, mut connection) = self.app.config(&self.database).connect(NoTls).await?;
        let (sender, notes) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(note) = message {
                    let _ = sender.send((note.channel().to_owned(), note.payload().to_owned()));
                }
            }
        });
        self.session = Some(Session {
            client,
            notes,
            settings: BTreeMap::new(),
            temp_rows: None,
            locks: 0,
            lock: self.id * 1_000_000 + self.random.below(1_000_000),
            listens: false,
        });
        Ok(())
    }

    async fn run(mut self, until: Instant) {
        while Instant::now() < until {
            if self.session.is_none() && self.connect().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let what = self.random.below(16);
            match self.step(what).await {
                Ok(()) => {}
                Err(Trouble::Gone) => self.session = None,
            }
            self.operations.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn step(&mut self, what: u64) -> Result<(), Trouble> {
        let (id, pick) = (self.id, self.random.below(1_000_000));
        let known = self.value;
        let session = self.session.as_mut().unwrap();
        let client = &session.client;
        match what {
            0 => {
                let (name, value) = match pick % 4 {
                    0 => ("app.client", format!("{id}-{pick}")),
                    1 => ("work_mem", format!("{}kB", 64 + 1024 * (pick % 50))),
                    2 => {
                        ("timezone", ["UTC", "Asia/Tokyo", "Europe/Oslo"][(pick / 4 % 3) as usize].to_owned())
                    }
                    _ => ("search_path", format!("s{id}, public")),
                };
                client.batch_execute(&format!("SET {name} = '{}'", value.replace(", ", "', '"))).await?;
                session.settings.insert(name, value);
            }
            1 => {
                // Set and undone.
                client
                    .batch_execute("BEGIN; SET timezone = 'America/Lima'; SET app.client = 'no'; ROLLBACK")
                    .await?;
            }
            2 | 3 => {
                for (name, value) in session.settings.clone() {
                    let shown = rows(client, &format!("SELECT current_setting('{name}')")).await?.remove(0);
                    let shown = shown.replace('"', "");
                    let same = match name {
                        // PostgreSQL shows 64MB for 65536kB.
                        "work_mem" => {
                            rows(
                                client,
                                &format!("SELECT pg_size_bytes('{shown}') = pg_size_bytes('{value}')"),
                            )
                            .await?[0]
                                == "t"
                        }
                        _ => shown == value,
                    };
                    assert!(same, "client {id}: {name} is {shown}, not {value}");
                }
            }
            4 | 5 => {
                // Named statements, the same names with other texts in each client.
                let sql = format!("SELECT $1::int8 + {} AS c{}", id * 10 + pick % 5, pick % 7);
                let statement = client.prepare(&sql).await?;
                let row = client.query_one(&statement, &[&(pick as i64)]).await?;
                assert_eq!(row.get::<_, i64>(0), (pick + id * 10 + pick % 5) as i64, "client {id}");
            }
            6 | 7 => {
                // A transaction on the client's own row. If it is lost on the way, the row must be asked.
                let Some(before) = known else {
                    let value: i64 = client
                        .query_one("SELECT v FROM register WHERE client = $1 FOR UPDATE", &[&(id as i64)])
                        .await?
                        .get(0);
                    self.value = Some(value);
                    return Ok(());
                };
                self.value = None;
                client.batch_execute("BEGIN").await?;
                let updated =
                    rows(client, &format!("UPDATE register SET v = v + 1 WHERE client = {id} RETURNING v"))
                        .await?;
                assert_eq!(updated, [(before + 1).to_string()], "client {id}");
                if pick % 3 == 0 {
                    client.batch_execute("ROLLBACK").await?;
                    self.value = Some(before);
                } else {
                    client.batch_execute("COMMIT").await?;
                    self.value = Some(before + 1);
                }
            }
            8 => {
                // Reads its own writes, from wherever.
                if let Some(value) = known {
                    let seen = rows(client, &format!("SELECT v FROM register WHERE client = {id}")).await?;
                    assert_eq!(seen, [value.to_string()], "client {id} does not see its own write");
                }
            }
            9 => match session.temp_rows {
                None => {
                    client.batch_execute("CREATE TEMP TABLE mine (i int)").await?;
                    session.temp_rows = Some(0);
                }
                Some(_) if pick % 4 == 0 => {
                    client.batch_execute("DROP TABLE mine").await?;
                    session.temp_rows = None;
                }
                Some(count) => {
                    client.batch_execute("INSERT INTO mine VALUES (1)").await?;
                    session.temp_rows = Some(count + 1);
                    let seen = rows(client, "SELECT count(*) FROM mine").await?;
                    assert_eq!(seen, [(count + 1).to_string()], "client {id}");
                }
            },
            10 => {
                if session.locks > 0 && pick % 2 == 0 {
                    assert_eq!(
                        rows(client, &format!("SELECT pg_advisory_unlock({})", session.lock)).await?,
                        ["t"],
                        "client {id}"
                    );
                    session.locks -= 1;
                } else if session.locks < 3 {
                    assert_eq!(
                        rows(client, &format!("SELECT pg_try_advisory_lock({})", session.lock)).await?,
                        ["t"],
                        "client {id}"
                    );
                    session.locks += 1;
                }
            }
            11 => {
                let channel = format!("c{id}");
                if !session.listens {
                    client.batch_execute(&format!("LISTEN {channel}")).await?;
                    session.listens = true;
                }
                while session.notes.try_recv().is_ok() {}
                let payload = format!("{pick}");
                client.execute("SELECT pg_notify($1, $2)", &[&channel, &payload]).await?;
                let heard = tokio::time::timeout(Duration::from_secs(10), session.notes.recv()).await;
                match heard {
                    Ok(Some(heard)) => assert_eq!(heard, (channel, payload), "client {id}"),
                    Ok(None) => return Err(Trouble::Gone),
                    Err(_) => panic!("client {id} does not hear its own notification"),
                }
            }
            12 => {
                client
                    .batch_execute("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 5)")
                    .await?;
                assert_eq!(rows(client, "FETCH 2 FROM held").await?, ["1", "2"], "client {id}");
                assert_eq!(rows(client, "FETCH 9 FROM held").await?, ["3", "4", "5"], "client {id}");
                client.batch_execute("CLOSE held").await?;
                client.batch_execute(&format!("PREPARE own AS SELECT {id}")).await?;
                assert_eq!(rows(client, "EXECUTE own").await?, [id.to_string()]);
                client.batch_execute("DEALLOCATE own").await?;
            }
            13 => {
                let sink = client.copy_in("COPY pile FROM STDIN").await?;
                futures_util::pin_mut!(sink);
                sink.send(Bytes::from(format!("{id}\t{pick}\n"))).await?;
                sink.send(Bytes::from(format!("{id}\t{pick}\n"))).await?;
                assert_eq!(sink.finish().await?, 2);
                let out = client.copy_out(&format!("COPY (SELECT {id}, {pick}) TO STDOUT")).await?;
                futures_util::pin_mut!(out);
                let mut text = Vec::new();
                while let Some(part) = out.next().await {
                    text.extend_from_slice(&part?);
                }
                assert_eq!(String::from_utf8(text).unwrap(), format!("{id}\t{pick}\n"));
            }
            14 => {
                // A cancel hits this client's query, or comes too late and hits nobody's.
                let token = client.cancel_token();
                let sleep = client.batch_execute("SELECT pg_sleep(3)");
                let cancel = async {
                    tokio::time::sleep(Duration::from_millis(pick % 40)).await;
                    let _ = token.cancel_query(NoTls).await;
                };
                let began = Instant::now();
                let (slept, ()) = tokio::join!(sleep, cancel);
                match slept {
                    Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {}
                    Err(error) => return Err(error.into()),
                    Ok(()) => {
                        assert!(began.elapsed() >= Duration::from_secs(3), "client {id} slept too little")
                    }
                }
                assert_eq!(rows(client, "SELECT 1").await?, ["1"], "client {id}: after a cancel");
            }
            _ => {
                // Leaves without a word, in the middle of something.
                let session = self.session.take().unwrap();
                let sql = [
                    "SELECT pg_sleep(0.2)",
                    "BEGIN; SELECT 1",
                    "SELECT generate_series(1, 100000)",
                    "SET app.client = 'left'",
                ][(pick % 4) as usize];
                let _ =
                    tokio::time::timeout(Duration::from_millis(pick % 15), session.client.simple_query(sql))
                        .await;
                if session.listens || pick % 2 == 0 {
                    drop(session);
                }
            }
        }
        Ok(())
    }
}

/// Kills one of pgweir's server connections now and then.
async fn kill_servers(database: String, stop: Arc<AtomicBool>, killed: Arc<AtomicU64>) {
    let cluster = support::cluster();
    while !stop.load(Ordering::Relaxed) {
        for node in 0..3 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            let sql = format!(
                "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity \
                 WHERE datname = '{database}' AND usename = 'app' ORDER BY random() LIMIT 1) s"
            );
            let count = tokio::task::spawn_blocking(move || cluster.psql(node, "postgres", &sql))
                .await
                .unwrap()
                .unwrap();
            killed.fetch_add(count.trim().parse().unwrap_or(0), Ordering::Relaxed);
        }
    }
}

/// What is allocated, in KiB: the least of some looks, since what clients do at one moment comes and goes.
async fn live_kib() -> usize {
    let mut least = usize::MAX;
    for _ in 0..20 {
        let stats = ALLOCATOR.stats();
        least = least.min(stats.bytes_allocated.saturating_sub(stats.bytes_deallocated));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    least / 1024
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or("VmRSS: 0 kB");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn database() -> TestDatabase {
    let database = support::database();
    database.on(
        0,
        &format!(
            "CREATE TABLE register (client int8 PRIMARY KEY, v int8); \
             INSERT INTO register SELECT g, 0 FROM generate_series(1, {CLIENTS}) g; CREATE TABLE pile (a int8, b int8)"
        ),
    );
    support::cluster().wait_caught_up(0).unwrap();
    database
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_kinds_of_clients_at_once() {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let seconds = number("PGWEIR_SOAK_SECONDS", 12);
    let seed = number("PGWEIR_SEED", 0x9E37_79B9_7F4A_7C15);
    println!("seed {seed}, {seconds} s");
    let database = database();
    let yaml = format!(
        "pool: {{size: 30, checkout_timeout: 30s, debug_rotate: true, debug_check: true}}\n{}",
        database.yaml()
    );
    let app = Arc::new(InProcess::start(&yaml).await);
    let until = Instant::now() + Duration::from_secs(seconds);
    let (operations, killed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let killer = tokio::spawn(kill_servers(database.name.clone(), Arc::clone(&stop), Arc::clone(&killed)));
    let workers: Vec<_> = (1..=CLIENTS)
        .map(|id| {
            let worker = Worker {
                id,
                app: Arc::clone(&app),
                database: database.name.clone(),
                random: Random(seed ^ id.wrapping_mul(0x1234_5678_9ABC_DEF1)),
                value: None,
                session: None,
                operations: Arc::clone(&operations),
            };
            tokio::spawn(worker.run(until))
        })
        .collect();
    let watch = tokio::spawn(async move {
        let (mut resident, mut live) = (Vec::new(), Vec::new());
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(seconds) / 10).await;
            resident.push(resident_kib());
            live.push(live_kib().await);
        }
        (resident, live)
    });
    for worker in workers {
        worker.await.unwrap();
    }
    let (resident, live) = watch.await.unwrap();
    // What the first part needed is what it takes; it must not go on growing.
    let (early, late) = (resident[1], resident[9]);
    stop.store(true, Ordering::Relaxed);
    killer.await.unwrap();
    let done = operations.load(Ordering::Relaxed);
    println!(
        "{done} operations, {} servers killed, KiB after each tenth of the time: {live:?} allocated, {resident:?} resident",
        killed.load(Ordering::Relaxed)
    );
    assert!(done > seconds * 20, "only {done} operations");
    assert!(killed.load(Ordering::Relaxed) > 0, "no server was killed");
    assert!(late < early + 30 * 1024, "memory grew from {early} to {late} KiB");
    assert!(live[9] < 2 * live[2] + 2048, "what is allocated grew: {live:?} KiB");
    let begun = Instant::now();
    while app.lent_and_waiting() != (0, 0) {
        assert!(begun.elapsed() < Duration::from_secs(20), "still lent: {:?}", app.lent_and_waiting());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let dirty: u64 = app.context.pools.pools().iter().map(|pool| pool.stats.snapshot().dirty).sum();
    assert_eq!(dirty, 0, "server connections came back unclean");
    assert_eq!(pgweir::task::panics(), 0);
    Arc::into_inner(app).unwrap().stop().await;
}
