//! `strong` consistency on real replicas that are late: no read misses what anybody was told is written, and reads
//! of other tables stay on the replicas meanwhile.

#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code outside a #[test]"
)]

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgweir::cli::local_cluster::{LocalCluster, LocalClusterOptions, Mode};
use support::InProcess;
use support::inprocess::one;
use support::talk::{ask, startup};
use support::wire::RawClient;
use tokio_postgres::{Client, SimpleQueryMessage};

async fn on_replica(app: &InProcess, client: &Client, sql: &str) -> (String, bool) {
    let before = app.reason_count("app", "read");
    let answer = one(client, sql).await;
    (answer, app.reason_count("app", "read") > before)
}

/// Ways to write table `seen` without naming it, and to read it.
const SCHEMA: &str = "
CREATE TABLE seen (id int PRIMARY KEY, v int);
CREATE TABLE other (v int);
INSERT INTO other VALUES (1);
CREATE TABLE parent (id int PRIMARY KEY, v int UNIQUE);
CREATE TABLE child (v int REFERENCES parent (v) ON UPDATE CASCADE);
INSERT INTO parent VALUES (1, 0); INSERT INTO child VALUES (0);
CREATE TABLE source (v int);
CREATE FUNCTION copy_over() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN UPDATE seen SET v = NEW.v; RETURN NEW; END';
CREATE TRIGGER copy_over AFTER INSERT ON source FOR EACH ROW EXECUTE FUNCTION copy_over();
CREATE VIEW window_on_seen AS SELECT id, v FROM seen;
CREATE VIEW window_on_window AS SELECT v FROM window_on_seen WHERE id = 1;
CREATE TABLE ruled (v int);
CREATE RULE elsewhere AS ON INSERT TO ruled DO INSTEAD UPDATE seen SET v = NEW.v;
CREATE FUNCTION write_seen(n int) RETURNS int LANGUAGE sql AS 'UPDATE seen SET v = n; SELECT n';
CREATE FUNCTION read_seen() RETURNS int STABLE LANGUAGE sql AS 'SELECT v FROM seen WHERE id = 1';
CREATE PROCEDURE proceed(n int) LANGUAGE plpgsql AS 'BEGIN UPDATE seen SET v = n; COMMIT; END';
CREATE TABLE parts (k int, v int) PARTITION BY LIST (k);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
INSERT INTO parts VALUES (1, 0);
INSERT INTO seen VALUES (1, 0);";

/// A replica a third of a second late, read by one client while another writes in every way there is.
#[tokio::test]
async fn nobody_misses_what_anybody_was_told_is_written() {
    let options = LocalClusterOptions::with_replicas(1).set_on(1, "recovery_min_apply_delay", "300ms");
    let cluster = LocalCluster::start(&options).unwrap();
    let app = InProcess::start(&support::sections(cluster.access(), "app")).await;
    let writer = app.client("app").await;
    let reader = app.client("app").await;
    writer.batch_execute(SCHEMA).await.unwrap();
    app.settled("app").await;
    let write = writer.prepare("UPDATE seen SET v = $1 WHERE id = 1").await.unwrap();
    let read = reader.prepare("SELECT v FROM seen WHERE id = 1").await.unwrap();
    let ways = [
        "UPDATE seen SET v = {n}",
        "INSERT INTO source VALUES ({n})",
        "UPDATE window_on_seen SET v = {n} WHERE id = 1",
        "INSERT INTO ruled VALUES ({n})",
        "SELECT write_seen({n})",
        "DO $$ BEGIN UPDATE seen SET v = {n}; END $$",
        "CALL proceed({n})",
        "SELECT 1; UPDATE seen SET v = {n}; SELECT 2",
        "BEGIN; SAVEPOINT a; UPDATE seen SET v = -1; ROLLBACK TO a; UPDATE seen SET v = {n}; COMMIT",
        "MERGE INTO seen USING (SELECT 1 AS id) s ON seen.id = s.id WHEN MATCHED THEN UPDATE SET v = {n}",
        "WITH w AS (UPDATE seen SET v = {n} RETURNING v) SELECT * FROM w",
        "PREPARE p AS UPDATE seen SET v = {n}; EXECUTE p; DEALLOCATE p",
    ];
    let mut n = 0;
    for way in ways {
        n += 1;
        writer.simple_query(&way.replace("{n}", &n.to_string())).await.unwrap();
        let expected = n.to_string();
        for sql in [
            "SELECT v FROM seen WHERE id = 1",
            "SELECT v FROM window_on_window",
            "SELECT read_seen()",
            "SELECT max(s.v) FROM other o, seen s",
            "SELECT (SELECT v FROM seen LIMIT 1)",
            "TABLE window_on_window",
        ] {
            assert_eq!(one(&reader, sql).await, expected, "after {way}: {sql}");
        }
        assert_eq!(reader.query_one(&read, &[]).await.unwrap().get::<_, i32>(0), n, "after {way}");
        reader.batch_execute("BEGIN READ ONLY").await.unwrap();
        assert_eq!(one(&reader, "SELECT v FROM seen").await, expected, "READ ONLY after {way}");
        reader.batch_execute("COMMIT").await.unwrap();
        n += 1;
        writer.execute(&write, &[&n]).await.unwrap();
        assert_eq!(one(&reader, "SELECT v FROM seen").await, n.to_string());
    }
    writer.batch_execute("UPDATE parent SET v = 7").await.unwrap();
    assert_eq!(one(&reader, "SELECT v FROM child").await, "7", "a cascade");
    writer.batch_execute("UPDATE parts SET v = 7").await.unwrap();
    assert_eq!(one(&reader, "SELECT v FROM parts_1").await, "7");
    writer.batch_execute("UPDATE parts_1 SET v = 8").await.unwrap();
    assert_eq!(one(&reader, "SELECT v FROM parts").await, "8");
    assert!(
        app.reason_count("app", "recent_writes") + app.reason_count("app", "replicas_behind") > 50,
        "nothing was held back"
    );
    app.stop().await;
}

/// WAL that a quiet primary keeps in memory (here a message, usually what pruning a page leaves) is no lag.
#[tokio::test]
async fn what_is_not_flushed_is_no_lag() {
    let cluster = LocalCluster::start(&LocalClusterOptions::with_replicas(1)).unwrap();
    let sections = support::sections(cluster.access(), "app");
    let app = InProcess::start(&format!("routing: {{max_replica_lag: 500ms}}\n{sections}")).await;
    app.settled("app").await;
    let emit = "SELECT pg_logical_emit_message(false, 'test', 'x')";
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        cluster.access().psql(0, "postgres", emit).unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        let entry = app.context.topology.load().database("app").unwrap();
        let states: Vec<_> = entry.cluster.nodes().map(|node| node.state().as_str()).collect();
        assert_eq!(states, ["up", "up"], "{:?}", entry.cluster.nodes().map(|n| n.lag()).collect::<Vec<_>>());
    }
    app.stop().await;
}

/// SQL on a connection for logical replication, which has a server connection of its own.
#[tokio::test]
async fn writes_of_logical_replication_clients_are_seen() {
    let options = LocalClusterOptions::with_replicas(1).set_on(1, "recovery_min_apply_delay", "300ms");
    let cluster = LocalCluster::start(&options).unwrap();
    let schema = "CREATE TABLE seen (v int); INSERT INTO seen VALUES (0)";
    cluster.access().psql_as_app(0, "app", schema).unwrap();
    cluster.access().psql(0, "app", "ALTER ROLE app REPLICATION").unwrap();
    let app = InProcess::start(&support::sections(cluster.access(), "app")).await;
    let reader = app.client("app").await;
    app.settled("app").await;
    assert_eq!(on_replica(&app, &reader, "SELECT v FROM seen").await, ("0".into(), true));
    let port = app.address.port();
    let (said, asked) = std::sync::mpsc::channel::<&str>();
    let (done, answers) = tokio::sync::mpsc::unbounded_channel();
    let writer = tokio::task::spawn_blocking(move || {
        let mut client = RawClient::connect(port).log_in(&startup("app", &[("replication", "database")]));
        for sql in asked {
            done.send(ask(&mut client, sql)).unwrap();
        }
    });
    let mut answers = answers;
    for n in 1..=5 {
        said.send(["UPDATE seen SET v = v + 1", "BEGIN; UPDATE seen SET v = v + 1; COMMIT"][n % 2]).unwrap();
        answers.recv().await.unwrap();
        assert_eq!(on_replica(&app, &reader, "SELECT v FROM seen").await, (n.to_string(), false));
    }
    // What is open is not read, and what only reads or asks about replication holds nothing back.
    said.send("BEGIN; UPDATE seen SET v = 100").unwrap();
    answers.recv().await.unwrap();
    assert_eq!(on_replica(&app, &reader, "SELECT v FROM seen").await, ("5".into(), false));
    said.send("ROLLBACK").unwrap();
    answers.recv().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for sql in ["IDENTIFY_SYSTEM", "SELECT 1"] {
        said.send(sql).unwrap();
        answers.recv().await.unwrap();
        assert_eq!(on_replica(&app, &reader, "SELECT v FROM seen").await, ("5".into(), true), "{sql}");
    }
    drop(said);
    writer.await.unwrap();
    app.stop().await;
}

/// Only reads of what is written stay on the primary; a lost reader is no matter; later all is back on replicas.
#[tokio::test]
async fn reads_of_other_tables_stay_on_replicas() {
    let options = LocalClusterOptions::with_replicas(1).set_on(1, "recovery_min_apply_delay", "300ms");
    let cluster = LocalCluster::start(&options).unwrap();
    cluster.access().psql_as_app(0, "app", SCHEMA).unwrap();
    let app = InProcess::start(&support::sections(cluster.access(), "app")).await;
    let writer = app.client("app").await;
    let reader = app.client("app").await;
    app.settled("app").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for n in 1..20 {
        writer.batch_execute(&format!("UPDATE seen SET v = {n}")).await.unwrap();
        assert_eq!(
            on_replica(&app, &reader, "SELECT v FROM other").await,
            ("1".into(), true),
            "other tables"
        );
        assert_eq!(on_replica(&app, &writer, "SELECT v FROM other").await, ("1".into(), true));
        assert_eq!(on_replica(&app, &reader, "SELECT v FROM seen").await, (n.to_string(), false));
    }
    // A transaction that is open holds reads of its table, and only those.
    writer.batch_execute("BEGIN; INSERT INTO source VALUES (20)").await.unwrap();
    assert_eq!(one(&reader, "SELECT v FROM seen").await, "19");
    writer.batch_execute("ROLLBACK").await.unwrap();
    let begun = Instant::now();
    while !on_replica(&app, &reader, "SELECT v FROM seen").await.1 {
        assert!(begun.elapsed() < Duration::from_secs(10), "reads never come back to the replica");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(one(&reader, "SELECT v FROM seen").await, "19");
    app.stop().await;
}

/// A standby that crashes and comes back can be read before it is where it was.
#[tokio::test]
async fn a_replica_that_crashed_is_not_believed_where_it_was() {
    let cluster = LocalCluster::start(&LocalClusterOptions::with_replicas(1)).unwrap();
    cluster.access().psql_as_app(0, "app", SCHEMA).unwrap();
    // Slow to look, so that the crash is over before a probe can have noticed it.
    let yaml = format!("health: {{interval: 30s}}\n{}", support::sections(cluster.access(), "app"));
    let app = InProcess::start(&yaml).await;
    let client = app.client("app").await;
    app.settled("app").await;
    cluster.access().psql(1, "postgres", "CHECKPOINT").unwrap();
    client.batch_execute("UPDATE seen SET v = 1").await.unwrap();
    let begun = Instant::now();
    while !on_replica(&app, &client, "SELECT v FROM seen").await.1 {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // From now on it replays commits an hour late: when it comes back it is before the update.
    cluster.access().psql(1, "postgres", "ALTER SYSTEM SET recovery_min_apply_delay = '1h'").unwrap();
    cluster.stop(1, Mode::Immediate).unwrap();
    cluster.start_node(1).unwrap();
    let late = cluster.access().psql_as_app(1, "app", "SELECT v FROM seen").unwrap();
    assert_eq!(late.trim(), "0", "the replica is where it was: this proves nothing");
    for _ in 0..20 {
        let fresh = app.client("app").await;
        match fresh.simple_query("SELECT v FROM seen").await {
            Ok(_) => assert_eq!(one(&fresh, "SELECT v FROM seen").await, "1"),
            // A connection that the crash has killed.
            Err(error) => println!("{error}"),
        }
    }
    app.stop().await;
}

/// What a standby refuses although it looked like a read runs on the primary, and goes there at once the next time.
#[tokio::test]
async fn a_standby_that_refuses_is_not_heard_of() {
    let cluster = LocalCluster::start(&LocalClusterOptions::with_replicas(1)).unwrap();
    cluster
        .access()
        .psql_as_app(
            0,
            "app",
            "CREATE TABLE t (v int); INSERT INTO t VALUES (0);
             CREATE FUNCTION liar() RETURNS int STABLE LANGUAGE plpgsql AS
               'BEGIN PERFORM hidden(); RETURN 1; END';
             CREATE FUNCTION hidden() RETURNS void LANGUAGE sql AS 'UPDATE t SET v = v + 1'",
        )
        .unwrap();
    let app = InProcess::start(&support::sections(cluster.access(), "app")).await;
    let client = app.client("app").await;
    let other = app.client("app").await;
    app.settled("app").await;
    assert_eq!(one(&client, "SELECT liar()").await, "1");
    assert_eq!(app.reason_count("app", "retried_read_only"), 1);
    assert_eq!(one(&other, "SELECT v FROM t").await, "1", "its write is seen");
    // What it ran may have been DDL.
    app.settled("app").await;
    assert_eq!(one(&client, "SELECT liar()").await, "1");
    assert_eq!(
        (app.reason_count("app", "retried_read_only"), app.reason_count("app", "learned_write")),
        (1, 1)
    );
    // Prepared, and by parameters.
    app.settled("app").await;
    let statement = client.prepare("SELECT liar(), $1::int").await.unwrap();
    assert_eq!(client.query_one(&statement, &[&7]).await.unwrap().get::<_, i32>(1), 7);
    assert_eq!(app.reason_count("app", "retried_read_only"), 2);
    assert_eq!(client.query_one(&statement, &[&8]).await.unwrap().get::<_, i32>(1), 8);
    // An error that the primary gives as well is the client's.
    let error = client.simple_query("SELECT * FROM nowhere").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42P01");
    let error = client.simple_query("SELECT 1/0").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "22012");
    app.stop().await;
}

/// Reads that replay cancels, and reads whose replica goes away, run again elsewhere.
#[tokio::test]
async fn conflicts_and_lost_replicas_are_not_heard_of() {
    let options = LocalClusterOptions::with_replicas(1).set_on(1, "max_standby_streaming_delay", "100ms");
    let cluster = LocalCluster::start(&options).unwrap();
    cluster
        .access()
        .psql_as_app(0, "app", "CREATE TABLE t (v int); INSERT INTO t SELECT generate_series(1, 1000)")
        .unwrap();
    let app = InProcess::start(&support::sections(cluster.access(), "app")).await;
    let client = app.client("app").await;
    app.settled("app").await;
    let reading = async { one(&client, "SELECT count(*), pg_sleep(1) FROM t WHERE v > 0").await };
    let vacuum = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.access().psql_as_app(0, "app", "TRUNCATE t").unwrap();
    };
    let (count, ()) = tokio::join!(reading, vacuum);
    assert_eq!(count, "0");
    assert_eq!(app.reason_count("app", "retried_conflict"), 1);
    // Killed by an administrator, and lost without a word, in the middle of a read.
    for (way, reason) in [("pg_terminate_backend(pid)", "retried_lost"), ("crash", "retried_lost")] {
        let before = app.reason_count("app", reason);
        app.settled("app").await;
        let reading = async {
            let statement = client.prepare("SELECT 5, pg_sleep($1)").await.unwrap();
            client
                .query_one(&statement, &[&0.7_f64])
                .await
                .unwrap_or_else(|e| panic!("{way}: {e:?}"))
                .get::<_, i32>(0)
        };
        let kill = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if way == "crash" {
                cluster.stop(1, Mode::Immediate).unwrap();
            } else {
                let sql = format!(
                    "SELECT {way} FROM pg_stat_activity WHERE query LIKE '%pg_sleep($1)%' AND pid <> pg_backend_pid()"
                );
                cluster.access().psql(1, "postgres", &sql).unwrap();
            }
        };
        let (answer, ()) = tokio::join!(reading, kill);
        assert_eq!(answer, 5, "{way}");
        assert_eq!(app.reason_count("app", reason), before + 1, "{way}");
    }
    app.stop().await;
}

/// The console tells where a statement would go, by what is known now, and runs nothing.
#[tokio::test]
async fn the_console_explains() {
    let options = LocalClusterOptions::with_replicas(1).set_on(1, "recovery_min_apply_delay", "1s");
    let cluster = LocalCluster::start(&options).unwrap();
    cluster.access().psql_as_app(0, "app", SCHEMA).unwrap();
    let app = InProcess::start(&support::sections(cluster.access(), "app")).await;
    let (client, console) = (app.client("app").await, app.client("pgbouncer").await);
    app.settled("app").await;
    let explain = async |sql: &str| -> Vec<String> {
        let messages = console.simple_query(&format!("EXPLAIN ROUTE {sql}")).await.unwrap();
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let row = row.unwrap();
        let columns = ["effect", "target", "reason", "because", "reads", "writes"];
        columns.iter().map(|column| row.get(*column).unwrap_or("NULL").to_owned()).collect()
    };
    let row = explain("SELECT * FROM window_on_window").await;
    assert_eq!((row[0].as_str(), row[1].as_str(), row[2].as_str()), ("read", "replica", "read"));
    assert_eq!((row[4].as_str(), row[5].as_str()), ("public.seen", "-"));
    let row = explain("IN app SELECT write_seen(1)").await;
    assert_eq!(
        (row[1].as_str(), row[2].as_str(), row[5].as_str()),
        ("primary", "volatile_function", "all tables")
    );
    assert!(row[3].contains("public.write_seen"), "the function is named: {row:?}");
    let row = explain("UPDATE parent SET v = 2").await;
    assert_eq!((row[2].as_str(), row[5].as_str()), ("write", "public.parent, public.child"));
    assert_eq!(explain("SELECT * FROM nowhere").await[2], "unknown_table");
    assert_eq!(explain("SELECT now() /* pgweir: primary */").await[2], "hint_primary");
    assert_eq!(one(&client, "SELECT v FROM seen").await, "0", "nothing was run");
    client.batch_execute("UPDATE seen SET v = 1").await.unwrap();
    let row = explain("SELECT * FROM seen").await;
    assert!(["recent_writes", "replicas_behind"].contains(&row[2].as_str()), "{row:?}");
    let error = console.simple_query("EXPLAIN ROUTE IN nowhere SELECT 1").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "3D000");
    app.stop().await;
}

/// What a client asks for by settings, and tables of one name in several schemas.
#[tokio::test]
async fn settings_ask_for_less_or_more() {
    let options = LocalClusterOptions::with_replicas(1).set_on(1, "recovery_min_apply_delay", "500ms");
    let cluster = LocalCluster::start(&options).unwrap();
    cluster
        .access()
        .psql_as_app(
            0,
            "app",
            "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.t (v int); CREATE TABLE b.t (v int);
             INSERT INTO a.t VALUES (0); INSERT INTO b.t VALUES (0)",
        )
        .unwrap();
    let yaml = support::sections(cluster.access(), "app").replace(
        "admin:",
        "  lax: {password: lax, consistency: eventual, server_user: app, server_password: app}\nadmin:",
    );
    let app = InProcess::start(&yaml).await;
    let (writer, reader) = (app.client("app").await, app.client("app").await);
    let mut config = app.config("app");
    config.user("lax").password("lax");
    let (lax, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    app.settled("app").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for client in [&writer, &reader] {
        client.batch_execute("SET search_path = a").await.unwrap();
    }
    let other = app.client("app").await;
    other.batch_execute("SET search_path = b").await.unwrap();
    app.settled("app").await;
    writer.batch_execute("UPDATE t SET v = 1").await.unwrap();
    assert_eq!(on_replica(&app, &other, "SELECT v FROM t").await, ("0".into(), true), "another schema's");
    assert_eq!(on_replica(&app, &reader, "SELECT v FROM t").await, ("1".into(), false));
    assert_eq!(one(&lax, "SELECT v FROM a.t").await, "0", "its user asks for no more");
    lax.batch_execute("SET pgweir.consistency = strong").await.unwrap();
    assert_eq!(one(&lax, "SELECT v FROM a.t").await, "1");
    reader.batch_execute("SET pgweir.consistency = eventual").await.unwrap();
    writer.batch_execute("UPDATE t SET v = 2").await.unwrap();
    assert_eq!(one(&reader, "SELECT v FROM t").await, "0", "it asked for no more");
    reader.batch_execute("SET pgweir.role = 'primary'").await.unwrap();
    assert_eq!(one(&reader, "SELECT v FROM t").await, "2");
    reader.batch_execute("RESET pgweir.role; RESET pgweir.consistency").await.unwrap();
    assert_eq!(one(&reader, "SELECT v FROM t").await, "2");
    // Where the path changes in between, a name may be any table.
    writer.batch_execute("BEGIN; SET LOCAL search_path = b; UPDATE t SET v = 3; COMMIT").await.unwrap();
    assert_eq!(one(&other, "SELECT v FROM t").await, "3");
    writer.batch_execute("BEGIN").await.unwrap();
    writer.batch_execute("SET LOCAL search_path = b").await.unwrap();
    writer.batch_execute("UPDATE t SET v = 4").await.unwrap();
    writer.batch_execute("COMMIT").await.unwrap();
    assert_eq!(one(&other, "SELECT v FROM t").await, "4");
    app.stop().await;
}

/// DDL in functions, procedures, DO and triggers, of which no text tells: what was known before is not used once it
/// is acknowledged, and what is new is known soon, though the catalog is looked at only once an hour.
#[tokio::test]
async fn ddl_that_nobody_told_of_is_found() {
    const HIDDEN: &str = "
CREATE FUNCTION place() RETURNS bool STABLE LANGUAGE plpgsql AS 'BEGIN RETURN pg_is_in_recovery(); END';
CREATE FUNCTION turn() RETURNS void LANGUAGE plpgsql AS 'BEGIN ALTER FUNCTION place() VOLATILE; END';
CREATE PROCEDURE turn_back() LANGUAGE plpgsql AS 'BEGIN ALTER FUNCTION place() STABLE; END';
CREATE TABLE orders (day int);
CREATE FUNCTION on_order() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN EXECUTE format('ALTER FUNCTION place() %s', CASE NEW.day WHEN 1 THEN 'VOLATILE' ELSE 'STABLE' END);
     RETURN NEW; END $$;
CREATE TRIGGER on_order BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION on_order();";
    let database = support::database();
    let yaml = format!("routing: {{catalog_refresh: 1h}}\n{}", database.yaml());
    let app = InProcess::start(&yaml).await;
    let (client, other) = (app.client(&database.name).await, app.client(&database.name).await);
    client.batch_execute(HIDDEN).await.unwrap();
    app.settled(&database.name).await;
    let becomes_read = async |how: &str| {
        let begun = Instant::now();
        while one(&other, "SELECT place()").await != "t" {
            assert!(begun.elapsed() < Duration::from_secs(10), "still for the primary after {how}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    becomes_read("the beginning").await;
    let ways = [
        ("SELECT turn()", "CALL turn_back()"),
        ("DO $$ BEGIN PERFORM turn(); END $$", "DO $$ BEGIN CALL turn_back(); END $$"),
        ("INSERT INTO orders VALUES (1)", "INSERT INTO orders VALUES (2)"),
        ("BEGIN; SELECT turn(); COMMIT", "BEGIN; INSERT INTO orders VALUES (2); COMMIT"),
    ];
    for (turn, back) in ways {
        // Looks for suspicion are a second apart, and place() itself was suspected while it was volatile.
        tokio::time::sleep(Duration::from_millis(2300)).await;
        client.batch_execute(turn).await.unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(300) {
            assert_eq!(one(&other, "SELECT place()").await, "f", "after {turn}");
        }
        client.batch_execute(back).await.unwrap();
        becomes_read(back).await;
    }
    let loads = || app.context.topology.load().database(&database.name).unwrap().catalog.state().loads;
    // What changes nothing is looked at some times, not for ever.
    client.batch_execute("CREATE FUNCTION idle() RETURNS int LANGUAGE sql AS 'SELECT 1'").await.unwrap();
    app.settled(&database.name).await;
    let before = loads();
    for _ in 0..200 {
        one(&client, "SELECT idle()").await;
    }
    assert_eq!(loads(), before);
    app.stop().await;
}

/// The primary is away for longer than the catalog is looked at: what is known of it stays known, and reads go on.
#[tokio::test]
async fn reads_outlive_the_primary() {
    let cluster = LocalCluster::start(&LocalClusterOptions::with_replicas(1)).unwrap();
    cluster.access().psql_as_app(0, "app", SCHEMA).unwrap();
    let yaml = format!(
        "routing: {{catalog_refresh: 200ms, failover_wait: 1s}}\nhealth: {{interval: 100ms}}\n{}",
        support::sections(cluster.access(), "app")
    );
    let app = InProcess::start(&yaml).await;
    let client = app.client("app").await;
    app.settled("app").await;
    cluster.stop(0, Mode::Immediate).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        assert_eq!(on_replica(&app, &client, "SELECT v FROM other").await, ("1".into(), true));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let error = client.simple_query("UPDATE other SET v = 2").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "57P03");
    assert_eq!(one(&client, "SELECT v FROM other").await, "1");
    app.stop().await;
}

/// Two replicas, one of them where this pgweir is: reads go to the other when that one cannot serve them.
#[tokio::test]
async fn reads_stay_in_the_zone() {
    let database = support::database();
    let replicas = support::cluster().replica_addresses();
    let zoned: Vec<_> =
        replicas.iter().zip(["a", "b"]).map(|(a, z)| format!("{{address: \"{a}\", zone: {z}}}")).collect();
    let plain: Vec<_> = replicas.iter().map(|address| format!("\"{address}\"")).collect();
    let yaml = database.yaml().replace(&plain.join(", "), &zoned.join(", "));
    assert!(yaml.contains("zone: b"), "{yaml}");
    let app = InProcess::start(&format!("routing: {{zone: b}}\n{yaml}")).await;
    let client = app.client(&database.name).await;
    client.batch_execute("CREATE TABLE t (v int); INSERT INTO t VALUES (1)").await.unwrap();
    app.settled(&database.name).await;
    let entry = app.context.topology.load().database(&database.name).unwrap();
    let served = || [1, 2].map(|index| entry.cluster.node(index).statements.load(Ordering::Relaxed));
    let before = served();
    for _ in 0..10 {
        one(&client, "SELECT v FROM t").await;
    }
    assert_eq!(served(), [before[0], before[1] + 10]);
    entry.cluster.node(2).ban(true);
    for _ in 0..10 {
        one(&client, "SELECT v FROM t").await;
    }
    assert_eq!(served(), [before[0] + 10, before[1] + 10]);
}
