//! The primary dies, is switched over, comes back: writes go to one node at a time, and to the right one.
//!
//! Each test has a cluster of its own; the probes log in as a member of `pg_monitor`.

#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "test code outside a #[test]"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pgweir::cli::local_cluster::{LocalCluster, LocalClusterOptions, Mode};
use support::talk::{Until, ask, cancel, read, send, sqlstate, until};
use support::wire::RawClient;
use support::{Pgweir, sections};
use tokio_postgres::{Client, NoTls};

/// A cluster with a table; what replica 1 has not got is not acknowledged.
fn cluster(replicas: usize) -> LocalCluster {
    let options = LocalClusterOptions::with_replicas(replicas)
        .set_on(0, "synchronous_standby_names", "\"replica-1\"")
        .set("wal_receiver_timeout", "2s")
        .set("wal_retrieve_retry_interval", "100ms");
    let cluster = LocalCluster::start(&options).unwrap();
    cluster.psql(0, "postgres", "GRANT pg_monitor TO app").unwrap();
    let tables = "CREATE TABLE t (client int, n int, node int); CREATE TABLE quiet AS SELECT 1 AS one";
    cluster.access().psql_as_app(0, "app", tables).unwrap();
    cluster.wait_caught_up().unwrap();
    cluster
}

/// As a crash of the machine would: nobody says good-bye. Who starts it again may have to wait until the system has
/// buried the process.
fn kill(cluster: &LocalCluster, node: usize) {
    let file = cluster.data_directory(node).unwrap().join("postmaster.pid");
    let pid = std::fs::read_to_string(file).unwrap().lines().next().unwrap().to_owned();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
}

/// A column of SHOW CLUSTER for one node of the database `app`.
fn shown(pgweir: &Pgweir, cluster: &LocalCluster, node: usize, column: &str) -> String {
    let names = [
        "database",
        "shard",
        "node",
        "role",
        "observed_role",
        "state",
        "standing",
        "timeline",
        "replay_lsn",
        "lag_bytes",
        "lag_ms",
        "in_flight",
        "weight",
        "near",
        "latency_us",
        "statements",
        "failures",
        "banned",
        "why",
    ];
    let at = names.iter().position(|name| *name == column).unwrap();
    let rows = ask(&mut RawClient::login(pgweir.port, "pgweir"), "SHOW CLUSTER");
    let address = cluster.access().address(node);
    let row = rows.iter().find(|row| row.split('|').nth(2) == Some(&address)).unwrap();
    row.split('|').nth(at).unwrap().to_owned()
}

fn metric(pgweir: &Pgweir, name: &str) -> f64 {
    let (_, text) = pgweir.get("/metrics");
    let line =
        text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

async fn connect(pgweir: &Pgweir) -> Client {
    let (client, connection) = tokio_postgres::connect(&pgweir.url("app"), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    acknowledged: Mutex<Vec<(Instant, i32, i32)>>,
    reads: AtomicU64,
    read_errors: Mutex<Vec<String>>,
    /// Errors of sessions that went on, and of new ones.
    errors: Mutex<Vec<String>>,
    lost: AtomicU64,
    stop: AtomicBool,
}

/// Writes one row after the other until told to stop. A connection that is lost with a statement under way is
/// replaced; any other error is noted.
async fn write(pgweir: Arc<Pgweir>, seen: Arc<Seen>, id: i32) {
    let mut client = connect(&pgweir).await;
    let mut n = 0;
    while !seen.stop.load(Ordering::Relaxed) {
        n += 1;
        let sql = format!("INSERT INTO t VALUES ({id}, {n}, inet_server_port())");
        match client.batch_execute(&sql).await {
            Ok(()) => seen.acknowledged.lock().push((Instant::now(), id, n)),
            Err(error) => {
                let text = format!("{error}: {:?}", error.as_db_error());
                // FATAL is the last word of a connection, whenever its end is noticed.
                let is_last = error.as_db_error().is_some_and(|error| error.severity() == "FATAL");
                tokio::time::sleep(Duration::from_millis(5)).await;
                if is_last || client.is_closed() {
                    seen.lost.fetch_add(1, Ordering::Relaxed);
                    client = connect(&pgweir).await;
                } else {
                    seen.errors.lock().push(text);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Of a table that nobody writes: of the others it may not be known what a replica must have, while nobody can be asked.
async fn read_all_the_time(pgweir: Arc<Pgweir>, seen: Arc<Seen>) {
    let client = connect(&pgweir).await;
    while !seen.stop.load(Ordering::Relaxed) {
        match client.simple_query("SELECT one FROM quiet").await {
            Ok(_) => _ = seen.reads.fetch_add(1, Ordering::Relaxed),
            Err(error) => seen.read_errors.lock().push(format!("{error}: {:?}", error.as_db_error())),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_is_killed_under_load() {
    let cluster = Arc::new(cluster(2));
    let yaml = format!("routing: {{failover_wait: 5s}}\n{}", sections(cluster.access(), "app"));
    let pgweir = Arc::new(Pgweir::start(&yaml));
    let seen = Arc::new(Seen::default());
    let mut tasks: Vec<_> =
        (1..=6).map(|id| tokio::spawn(write(Arc::clone(&pgweir), Arc::clone(&seen), id))).collect();
    for _ in 0..2 {
        tasks.push(tokio::spawn(read_all_the_time(Arc::clone(&pgweir), Arc::clone(&seen))));
    }
    // Connected, and has written nothing: it holds no server connection when it happens.
    let bystander = connect(&pgweir).await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    kill(&cluster, 0);
    let killed = Instant::now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let reads_before = seen.reads.load(Ordering::Relaxed);
    let waits = tokio::spawn(async move {
        let result = bystander.batch_execute("INSERT INTO t VALUES (0, 1, 0)").await;
        (bystander, result)
    });
    // On a busy machine they take their time, but nobody is promoted yet.
    let reads_go_on = || seen.reads.load(Ordering::Relaxed) > reads_before + 20;
    while !reads_go_on() && killed.elapsed() < Duration::from_secs(3) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(reads_go_on(), "reads go on without a primary");
    tokio::time::sleep((killed + Duration::from_secs(1)).saturating_duration_since(Instant::now())).await;
    let no_writes_since = seen.acknowledged.lock().last().unwrap().0;
    // Processes of the server notice its death after what they do.
    assert!(no_writes_since < killed + Duration::from_millis(800));

    let (promoting, begun) = (Arc::clone(&cluster), Instant::now());
    tokio::task::spawn_blocking(move || promoting.promote(1).unwrap()).await.unwrap();
    let promoted = Instant::now();
    let (bystander, result) = waits.await.unwrap();
    result.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let first = seen.acknowledged.lock().iter().find(|(at, ..)| *at > begun).map(|(at, ..)| *at).unwrap();
    println!(
        "first write {} ms after the order to promote, {} ms after pg_ctl was done",
        (first - begun).as_millis(),
        first.checked_duration_since(promoted).unwrap_or_default().as_millis()
    );
    assert!(first < promoted + Duration::from_secs(2));
    cluster.follow(2, 1).unwrap();

    // The old primary comes back, knowing nothing.
    cluster.psql(1, "postgres", "SELECT 1").unwrap();
    until("it starts", || cluster.start_node(0).is_ok());
    let of_old = || cluster.psql(0, "app", "SELECT count(*) FROM t").unwrap();
    let before = of_old();
    until("it is fenced", || shown(&pgweir, &cluster, 0, "standing") == "fenced");
    until("the other replica follows", || shown(&pgweir, &cluster, 2, "standing") == "replica");
    assert_eq!(metric(&pgweir, "pgweir_primary_changes_total{database=\"app\"}"), 1.0);
    let fenced = format!("pgweir_node_fenced{{node=\"{}\"}}", cluster.access().address(0));
    assert_eq!(metric(&pgweir, &fenced), 1.0);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(of_old(), before, "no write reached it");
    seen.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*seen.errors.lock(), Vec::<String>::new());
    assert_eq!(*seen.read_errors.lock(), Vec::<String>::new());

    // Nothing that was acknowledged is missing, nothing is there twice.
    let on_new = cluster.psql(1, "app", "SELECT client || ',' || n FROM t ORDER BY 1").unwrap();
    let on_new: Vec<&str> = on_new.lines().collect();
    let unique: std::collections::BTreeSet<&str> = on_new.iter().copied().collect();
    assert_eq!(unique.len(), on_new.len(), "written twice");
    let acknowledged = std::mem::take(&mut *seen.acknowledged.lock());
    for (_, id, n) in &acknowledged {
        assert!(unique.contains(format!("{id},{n}").as_str()), "{id},{n} is lost");
    }
    println!(
        "{} writes acknowledged, {} connections lost with one under way, {} reads",
        acknowledged.len(),
        seen.lost.load(Ordering::Relaxed),
        seen.reads.load(Ordering::Relaxed)
    );

    // The new one dies, too: the old one is no stopgap. Reads go on.
    kill(&cluster, 1);
    let begun = Instant::now();
    let reader = connect(&pgweir).await;
    reader.simple_query("SELECT one FROM quiet").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let mut writer = RawClient::login(pgweir.port, "app");
    let waiting = std::thread::spawn(move || {
        writer.send(&send().query("INSERT INTO t VALUES (0, 2, 0)").0);
        let answer = read(&mut writer, Until::Ready(1));
        let waited = begun.elapsed();
        assert_eq!(ask(&mut writer, "SELECT 7"), ["7"]);
        (sqlstate(&answer), waited)
    });
    reader.simple_query("SELECT one FROM quiet").await.unwrap();
    // Who cancels need not wait; who leaves is forgotten.
    let mut impatient = RawClient::login(pgweir.port, "app");
    impatient.send(&send().query("INSERT INTO t VALUES (0, 3, 0)").0);
    std::thread::sleep(Duration::from_millis(100));
    cancel(pgweir.port, &impatient.greeting);
    assert_eq!(sqlstate(&read(&mut impatient, Until::Ready(1))).as_deref(), Some("57014"));
    let mut leaver = RawClient::login(pgweir.port, "app");
    leaver.send(&send().query("INSERT INTO t VALUES (0, 4, 0)").0);
    std::thread::sleep(Duration::from_millis(100));
    assert!(metric(&pgweir, "pgweir_primary_waiting{database=\"app\"}") >= 2.0);
    drop(leaver);
    until("it is forgotten", || metric(&pgweir, "pgweir_primary_waiting{database=\"app\"}") < 2.0);
    let (code, waited) = waiting.join().unwrap();
    assert_eq!(code.as_deref(), Some("57P03"));
    assert!((4..9).contains(&waited.as_secs()), "{waited:?}");
    assert_eq!(of_old(), before, "no write reached it");
    let refused = bystander.batch_execute("BEGIN; SELECT 1").await;
    assert_eq!(refused.unwrap_err().code().unwrap().code(), "57P03");
}

#[test]
fn two_that_claim_to_be_the_primary() {
    let cluster = cluster(2);
    cluster.psql(0, "postgres", "ALTER SYSTEM SET synchronous_standby_names = ''").unwrap();
    cluster.psql(0, "postgres", "SELECT pg_reload_conf()").unwrap();
    let yaml = format!("routing: {{failover_wait: 5s}}\n{}", sections(cluster.access(), "app"));
    let pgweir = Pgweir::start(&yaml);
    let port_of = |client: &mut RawClient| ask(client, "SELECT inet_server_port() FROM pg_current_xact_id()");
    let port = |node: usize| vec![cluster.access().port(node).to_string()];
    let mut client = RawClient::login(pgweir.port, "app");
    assert_eq!(port_of(&mut client), port(0));
    let mut open = RawClient::login(pgweir.port, "app");
    ask(&mut open, "BEGIN; SELECT 1");
    ask(&mut open, "INSERT INTO t VALUES (1, 1, 1)");
    let mut pinned = RawClient::login(pgweir.port, "app");
    ask(&mut pinned, "CREATE TEMP TABLE mine (i int)");
    assert!(sqlstate(&{ console(&pgweir, "BAN nobody:1") }).as_deref() == Some("42704"));

    // A replica is promoted while the primary lives: the later timeline is right, and who is on the old one leaves.
    cluster.promote(1).unwrap();
    for session in [&mut open, &mut pinned] {
        assert_eq!(sqlstate(&read(session, Until::Closed)).as_deref(), Some("57P01"));
    }
    assert_eq!(port_of(&mut client), port(1));
    assert_eq!(shown(&pgweir, &cluster, 0, "standing"), "fenced");
    assert_eq!(cluster.psql(0, "app", "SELECT count(*) FROM t").unwrap(), "0", "it was not committed");
    // One that follows the old one is no replica of the new one.
    assert_eq!(shown(&pgweir, &cluster, 2, "standing"), "unproven");
    assert_eq!(ask(&mut client, "SELECT inet_server_port()"), port(1));
    let timelines: Vec<_> = (0..3).map(|node| shown(&pgweir, &cluster, node, "timeline")).collect();
    assert_eq!(timelines, ["1", "2", "1"]);

    // Another one is promoted to the same timeline: nothing tells which is right.
    cluster.promote(2).unwrap();
    until("it is seen", || metric(&pgweir, "pgweir_primary_ambiguous{database=\"app\"}") == 1.0);
    let begun = Instant::now();
    client.send(&send().query("INSERT INTO t VALUES (1, 2, 1)").0);
    assert_eq!(sqlstate(&read(&mut client, Until::Ready(1))).as_deref(), Some("57P03"));
    assert!(begun.elapsed() < Duration::from_secs(1), "it is refused at once");
    assert_eq!(metric(&pgweir, "pgweir_primary_known{database=\"app\"}"), 0.0);

    // An operator knows.
    let node = cluster.access().address(2);
    assert!(sqlstate(&console(&pgweir, &format!("TRUST {node}"))).is_none());
    until("it is trusted", || shown(&pgweir, &cluster, 2, "standing") == "primary");
    assert_eq!(port_of(&mut client), port(2));
    assert_eq!(shown(&pgweir, &cluster, 1, "standing"), "fenced");

    // The old ones are gone; a primary that restarts is waited for.
    cluster.stop(0, Mode::Fast).unwrap();
    cluster.stop(1, Mode::Fast).unwrap();
    cluster.stop(2, Mode::Fast).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| port_of(&mut client));
        std::thread::sleep(Duration::from_millis(500));
        cluster.start_node(2).unwrap();
        assert_eq!(waiting.join().unwrap(), port(2));
    });
    // And a failover back to a node that was fenced: it is promoted anew, to a later timeline.
    let data = cluster.data_directory(1).unwrap();
    std::fs::write(data.join("standby.signal"), "").unwrap();
    cluster.start_node(1).unwrap();
    cluster.stop(2, Mode::Fast).unwrap();
    cluster.promote(1).unwrap();
    assert_eq!(port_of(&mut client), port(1));
}

#[test]
fn bans_and_returns() {
    let cluster = cluster(1);
    let yaml =
        format!("health: {{recover_after: 3, interval: 300ms}}\n{}", sections(cluster.access(), "app"));
    let pgweir = Pgweir::start(&yaml);
    let mut client = RawClient::login(pgweir.port, "app");
    let count = |node: usize| shown(&pgweir, &cluster, node, "statements").parse::<u64>().unwrap();
    let mut served_by = || {
        let before = [count(0), count(1)];
        ask(&mut client, "SELECT count(*) FROM t");
        (0..2).find(|node| count(*node) > before[*node]).unwrap()
    };
    until("the replica serves", || served_by() == 1);
    let node = cluster.access().address(1);
    assert!(sqlstate(&console(&pgweir, &format!("BAN {node}"))).is_none());
    assert_eq!((served_by(), shown(&pgweir, &cluster, 1, "banned")), (0, "1".to_owned()));
    assert!(sqlstate(&console(&pgweir, &format!("UNBAN {node};"))).is_none());
    assert_eq!(served_by(), 1);
    assert_eq!(sqlstate(&console(&pgweir, &format!("TRUST {node}"))).as_deref(), Some("55000"));

    cluster.psql(0, "postgres", "ALTER SYSTEM SET synchronous_standby_names = ''").unwrap();
    cluster.psql(0, "postgres", "SELECT pg_reload_conf()").unwrap();
    kill(&cluster, 1);
    until("it is down", || shown(&pgweir, &cluster, 1, "state") == "down");
    assert_eq!(served_by(), 0);
    until("it starts", || cluster.start_node(1).is_ok());
    until("it recovers", || shown(&pgweir, &cluster, 1, "state") == "recovering");
    assert_eq!(served_by(), 0);
    until("it is back", || shown(&pgweir, &cluster, 1, "state") == "up");
    // Alone it serves all; there is nobody else to spare it.
    assert_eq!(served_by(), 1);
}

fn console(pgweir: &Pgweir, command: &str) -> Vec<support::wire::Message> {
    let mut client = RawClient::login(pgweir.port, "pgweir");
    client.send(&send().query(command).0);
    read(&mut client, Until::Ready(1))
}

/// Standbys may be listed as if they were primaries: for reads.
#[test]
fn a_standby_alone() {
    let database = support::database();
    database.on(0, "CREATE TABLE t AS SELECT 3 AS x");
    support::cluster().wait_caught_up(0).unwrap();
    let name = &database.name;
    let pgweir = Pgweir::start(&format!(
        "databases:\n  {name}: {{primary: \"{}\"}}\nusers:\n  app: {{password: app}}\n",
        support::cluster().address(1)
    ));
    let mut client = RawClient::login(pgweir.port, name);
    assert_eq!(ask(&mut client, "SELECT x, pg_is_in_recovery() FROM t"), ["3|t"]);
    client.send(&send().query("DELETE FROM t").0);
    assert_eq!(sqlstate(&read(&mut client, Until::Ready(1))).as_deref(), Some("25006"));
}

/// The name of the primary leads to another server after a failover, as with many cloud services.
#[test]
fn a_name_that_moves() {
    let cluster = cluster(1);
    let names = tempfile::NamedTempFile::new().unwrap();
    let lead_to =
        |address: &str| std::fs::write(names.path(), format!("{address} db.pgweir.test\n")).unwrap();
    lead_to("127.0.0.1");
    let port = cluster.access().port(0);
    // The same port on another address of this machine is the other node.
    let listener = std::net::TcpListener::bind(("127.0.0.2", port)).unwrap();
    forward(listener, cluster.access().port(1));
    let yaml = format!(
        "health: {{dns_ttl: 400ms}}\ndatabases:\n  app: {{primary: \"db.pgweir.test:{port}\"}}\nusers:\n  app: {{password: app}}\nadmin: {{users: [app]}}\n"
    );
    let Some(pgweir) = Pgweir::start_with_hosts(&yaml, names.path()) else {
        println!("skipped: no mount namespace of our own");
        return;
    };
    let port_of = |client: &mut RawClient| ask(client, "SELECT inet_server_port() FROM pg_current_xact_id()");
    let of = |node: usize| vec![cluster.access().port(node).to_string()];
    let mut client = RawClient::login(pgweir.port, "app");
    assert_eq!(port_of(&mut client), of(0));
    let mut pinned = RawClient::login(pgweir.port, "app");
    ask(&mut pinned, "CREATE TEMP TABLE mine (i int)");

    // The old server lives on, and the name leads to the new one: noticed after the third look.
    cluster.promote(1).unwrap();
    assert_eq!(port_of(&mut client), of(0), "not listed: nobody knows");
    lead_to("127.0.0.2");
    let begun = Instant::now();
    until("the name has moved", || port_of(&mut client) == of(1));
    println!("noticed after {} ms", begun.elapsed().as_millis());
    assert_eq!(sqlstate(&read(&mut pinned, Until::Closed)).as_deref(), Some("57P01"));
    assert!(pgweir.log().contains("the name leads to another server"));
    // Back to the old one by mistake: it is on an older timeline.
    lead_to("127.0.0.1");
    until("it is seen", || metric(&pgweir, "pgweir_primary_known{database=\"app\"}") == 0.0);
    lead_to("127.0.0.2");
    assert_eq!(port_of(&mut client), of(1));
}

/// Everything that connects there is connected to this port of 127.0.0.1.
fn forward(listener: std::net::TcpListener, port: u16) {
    let pump = |mut from: std::net::TcpStream, mut to: std::net::TcpStream| {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    };
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = std::net::TcpStream::connect(("127.0.0.1", port)) else { continue };
            pump(client.try_clone().unwrap(), server.try_clone().unwrap());
            pump(server, client);
        }
    });
}
