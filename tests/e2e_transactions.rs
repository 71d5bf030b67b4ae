//! `routing.transactions: replica_until_write` on a real primary and replica: which reads at the head of a transaction
//! run on the replica, which do not, and that nobody can tell.

#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code outside a #[test]"
)]

mod support;

use std::time::Duration;

use support::inprocess::{one, until};
use support::talk::{Turn, Until, send};
use support::{InProcess, TestDatabase};
use tokio_postgres::Client;

const YAML: &str = "routing: {transactions: replica_until_write}\n";

const SCHEMA: &str = "
CREATE TABLE t (id int PRIMARY KEY, v int);
INSERT INTO t SELECT i, i FROM generate_series(1, 20) i;
CREATE TABLE kept (now_ timestamptz, known int);
INSERT INTO kept VALUES ('2020-01-01', 1);
CREATE VIEW plain AS SELECT v FROM t;
CREATE VIEW timed AS SELECT v FROM t WHERE '2020-01-01' < CURRENT_TIMESTAMP;
CREATE VIEW called AS SELECT v, now() AS at FROM t;
CREATE TABLE guarded (v int);
CREATE POLICY p ON guarded USING (CURRENT_DATE > '2020-01-01');
CREATE FUNCTION stable_one() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION fixed_one() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';
GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;";

async fn start(database: &TestDatabase) -> InProcess {
    let app = InProcess::start(&format!("{YAML}{}", database.yaml())).await;
    let client = app.client(&database.name).await;
    client.batch_execute(SCHEMA).await.unwrap();
    app.settled(&database.name).await;
    app
}

/// How many statements went to a replica by choice.
fn reads(app: &InProcess, database: &TestDatabase) -> u64 {
    app.reason_count(&database.name, "read")
}

/// Whether `sql` runs on a replica behind `begin`.
async fn leads(app: &InProcess, database: &TestDatabase, client: &Client, begin: &str, sql: &str) -> bool {
    // What was written before must have arrived.
    app.settled(&database.name).await;
    let before = reads(app, database);
    client.batch_execute(begin).await.unwrap();
    let answer = client.simple_query(sql).await;
    if let Err(error) = answer {
        panic!("{sql}: {error}");
    }
    client.batch_execute("ROLLBACK").await.unwrap_or_else(|error| panic!("behind {begin}; {sql}: {error}"));
    reads(app, database) > before
}

#[tokio::test]
async fn what_may_lead_a_transaction() {
    let database = support::database();
    let app = start(&database).await;
    let client = app.client(&database.name).await;
    for (begin, sql, expected) in [
        ("BEGIN", "SELECT v FROM t WHERE id = 1", true),
        ("BEGIN", "SELECT v FROM plain", true),
        ("BEGIN", "SELECT now_, known FROM kept", true),
        ("BEGIN", "SELECT statement_timestamp()", true),
        ("BEGIN", "SELECT 1; SELECT v FROM t", true),
        ("BEGIN ISOLATION LEVEL READ COMMITTED", "SELECT v FROM t", true),
        ("START TRANSACTION", "SELECT v FROM t", true),
        // A standby refuses that.
        ("BEGIN READ WRITE", "SELECT v FROM t", false),
        // All of one snapshot.
        ("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT v FROM t", false),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", "SELECT v FROM t", false),
        ("BEGIN DEFERRABLE", "SELECT v FROM t", false),
        // The time of the transaction.
        ("BEGIN", "SELECT now()", false),
        ("BEGIN", "SELECT v FROM t WHERE CURRENT_DATE > '2020-01-01'", false),
        ("BEGIN", "SELECT 'now'::timestamptz", false),
        ("BEGIN", r"SELECT E'n\x6fw'::timestamptz", false),
        ("BEGIN", "SELECT v FROM timed", false),
        ("BEGIN", "SELECT v FROM called", false),
        ("BEGIN", "SELECT v FROM guarded", false),
        ("BEGIN", "SELECT stable_one()", false),
        ("BEGIN", "SELECT fixed_one() FROM t", false),
        // Its backend, its locks, its cursors, its settings.
        ("BEGIN", "SELECT pg_backend_pid()", false),
        ("BEGIN", "SELECT v FROM t FOR SHARE", false),
        ("BEGIN", "SELECT pg_advisory_xact_lock(1)", false),
        ("BEGIN", "DECLARE c CURSOR FOR SELECT v FROM t", false),
        ("BEGIN", "SET LOCAL work_mem = '1MB'", false),
        ("BEGIN", "SELECT set_config('work_mem', '1MB', true)", false),
        ("BEGIN", "SAVEPOINT s", false),
        ("BEGIN", "/* pgweir: primary */ SELECT v FROM t", false),
        ("/* pgweir: primary */ BEGIN", "SELECT v FROM t", false),
        ("BEGIN", "SELECT current_setting('transaction_read_only')", false),
        ("BEGIN", "SELECT txid_current_if_assigned()", false),
    ] {
        assert_eq!(leads(&app, &database, &client, begin, sql).await, expected, "{begin}; {sql}");
    }
    // The client's own default, and the server's.
    client
        .batch_execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        .await
        .unwrap();
    assert!(!leads(&app, &database, &client, "BEGIN", "SELECT v FROM t").await);
    client.batch_execute("RESET default_transaction_isolation").await.unwrap();
    assert!(leads(&app, &database, &client, "BEGIN", "SELECT v FROM t").await);
}

#[tokio::test]
async fn the_servers_default_counts() {
    let database = support::database();
    database.on(
        0,
        &format!("ALTER DATABASE {} SET default_transaction_isolation = 'repeatable read'", database.name),
    );
    let app = start(&database).await;
    let client = app.client(&database.name).await;
    app.settled(&database.name).await;
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(one(&client, "SELECT v FROM t WHERE id = 1").await, "1");
    // It is on the primary: the snapshot holds, and it may write.
    let other = app.client(&database.name).await;
    other.batch_execute("UPDATE t SET v = 100 WHERE id = 1").await.unwrap();
    assert_eq!(one(&client, "SELECT v FROM t WHERE id = 1").await, "1");
    client.batch_execute("UPDATE t SET v = 5 WHERE id = 2; COMMIT").await.unwrap();
    client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await.unwrap();
    app.settled(&database.name).await;
    let before = reads(&app, &database);
    assert_eq!(one(&client, "SELECT v FROM t WHERE id = 1").await, "100");
    assert_eq!(reads(&app, &database), before + 1);
    client.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn a_transaction_goes_on_where_it_can_write() {
    let database = support::database();
    let app = start(&database).await;
    let client = app.client(&database.name).await;
    let other = app.client(&database.name).await;
    let before = reads(&app, &database);
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(one(&client, "SELECT v FROM t WHERE id = 3").await, "3");
    assert_eq!(one(&client, "SELECT v FROM t WHERE id = 4").await, "4");
    assert_eq!(reads(&app, &database), before + 1, "the second one runs where the first did");
    // Each statement sees what was committed when it began.
    other.batch_execute("UPDATE t SET v = 40 WHERE id = 4").await.unwrap();
    assert_eq!(one(&client, "SELECT v FROM t WHERE id = 4").await, "40");
    client.batch_execute("UPDATE t SET v = 30 WHERE id = 3").await.unwrap();
    assert_eq!(one(&client, "SELECT v FROM t WHERE id = 3").await, "30", "its own write");
    assert_eq!(one(&other, "SELECT v FROM t WHERE id = 3").await, "3", "not committed");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(one(&client, "SELECT v FROM t WHERE id = 3").await, "3");

    client.batch_execute("BEGIN").await.unwrap();
    one(&client, "SELECT v FROM t WHERE id = 3").await;
    client.batch_execute("COMMIT AND CHAIN").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (21, 21)").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(one(&client, "SELECT v FROM t WHERE id = 21").await, "21");
    until("connections come back", || app.lent_and_waiting() == (0, 0)).await;
}

#[tokio::test]
async fn a_failed_transaction_stays_failed() {
    let database = support::database();
    let app = start(&database).await;
    let client = app.client(&database.name).await;
    let code = |error: tokio_postgres::Error| error.code().unwrap().code().to_owned();
    for end in ["ROLLBACK", "COMMIT", "COMMIT AND CHAIN; ROLLBACK"] {
        let before = reads(&app, &database);
        client.batch_execute("BEGIN").await.unwrap();
        let error = client.simple_query("SELECT 1 / (v - v) FROM t").await.unwrap_err();
        assert_eq!(code(error), "22012");
        assert_eq!(reads(&app, &database), before + 1);
        for sql in ["SELECT 1", "INSERT INTO t VALUES (99, 99)", "SAVEPOINT s"] {
            assert_eq!(code(client.simple_query(sql).await.unwrap_err()), "25P02", "{sql}");
        }
        client.batch_execute(end).await.unwrap();
        assert_eq!(one(&client, "SELECT count(*) FROM t WHERE id = 99").await, "0");
    }
}

/// Somebody terminates all backends on the replicas while a transaction rests there.
#[tokio::test]
async fn a_lost_replica_costs_nothing() {
    let database = support::database();
    let app = start(&database).await;
    let client = app.client(&database.name).await;
    for sql in ["SELECT v FROM t WHERE id = 5", "UPDATE t SET v = v WHERE id = 5 RETURNING v", "COMMIT"] {
        let before = reads(&app, &database);
        client.batch_execute("BEGIN").await.unwrap();
        assert_eq!(one(&client, "SELECT v FROM t WHERE id = 5").await, "5");
        assert_eq!(reads(&app, &database), before + 1);
        for node in 1..=support::cluster().replica_addresses().len() {
            database.on(
                node,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.simple_query(sql).await.unwrap();
        client.batch_execute("ROLLBACK").await.unwrap();
        app.settled(&database.name).await;
    }
}

/// Portals with row limits, named ones, and the unnamed statement across the move.
#[tokio::test(flavor = "multi_thread")]
async fn the_extended_protocol() {
    let database = support::database();
    let app = start(&database).await;
    let turns = [
        send().query("BEGIN"),
        send().parse("", "SELECT v FROM t WHERE id = $1").bind("", "", &[b"1"]).execute("", 0).sync(),
        send().bind("", "", &[b"2"]).describe(b'P', "").execute("", 0).sync(),
        send().parse("w", "UPDATE t SET v = 0 WHERE id = $1").sync(),
        send().bind("", "", &[b"3"]).execute("", 0).sync(),
        send().bind("", "w", &[b"1"]).execute("", 0).sync(),
        send().query("ROLLBACK"),
        send().query("BEGIN"),
        send().parse("r", "SELECT v FROM t ORDER BY id").bind("", "r", &[]).execute("", 0).sync(),
        send().bind("c", "r", &[]).execute("c", 2).sync(),
        send().execute("c", 2).sync(),
        send().query("SELECT 1"),
        send().execute("c", 2).sync(),
        send().close(b'P', "c").sync(),
        send().query("COMMIT"),
        send().query("BEGIN"),
        send().bind("", "r", &[]).execute("", 3).sync(),
        send().execute("", 3).sync(),
        send().bind("", "r", &[]).sync(),
        send().execute("", 2).sync(),
        send().query("COMMIT"),
        // A pipeline.
        send().query("BEGIN"),
        send().bind("", "r", &[]).execute("", 0).sync().bind("", "w", &[b"2"]).execute("", 0).sync(),
        send().query("ROLLBACK"),
        send().query("BEGIN"),
        send().bind("", "r", &[]).execute("", 0).flush().bind("", "w", &[b"2"]).execute("", 0).sync(),
        send().query("ROLLBACK"),
        send().query("BEGIN"),
        send().parse("", "SELECT 1 / $1::int").bind("", "", &[b"0"]).execute("", 0).sync(),
        send().parse("", "SELECT 1").bind("", "", &[]).execute("", 0).sync(),
        send().query("COMMIT"),
        send().parse("", "SELECT 7").bind("", "", &[]).execute("", 0).sync(),
    ];
    let turns: Vec<Turn> = turns
        .into_iter()
        .map(|send| {
            let syncs = frames(&send.0).filter(|tag| matches!(tag, b'S' | b'Q')).count();
            (send, Until::Ready(syncs))
        })
        .collect();
    let before = reads(&app, &database);
    let (name, port) = (database.name.clone(), app.address.port());
    tokio::task::spawn_blocking(move || {
        support::talk::same("transactions", &name, support::cluster().port(0), port, &turns);
    })
    .await
    .unwrap();
    assert!(reads(&app, &database) > before, "{}", reads(&app, &database) - before);
}

/// The types of the messages.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let tag = *bytes.first()?;
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        bytes = &bytes[1 + length..];
        Some(tag)
    })
}
