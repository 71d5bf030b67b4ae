//! Session state that keeps a server connection: shown, limited, given back; and the checks that prove that
//! nothing is left behind.

#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code outside a #[test]"
)]

mod support;

use std::collections::BTreeSet;
use std::time::Instant;

use support::inprocess::until;
use support::{InProcess, Pgweir};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

/// All rows as text, columns joined by `|`.
async fn rows(client: &Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let text = |message| match message {
        SimpleQueryMessage::Row(row) => Some(
            (0..row.len()).map(|i| row.get(i).unwrap_or("NULL").to_owned()).collect::<Vec<_>>().join("|"),
        ),
        _ => None,
    };
    messages.into_iter().filter_map(text).collect()
}

async fn error(client: &Client, sql: &str) -> (SqlState, String) {
    let error = client.simple_query(sql).await.expect_err(sql);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
    (error.code().clone(), error.message().to_owned())
}

#[tokio::test]
async fn pins_are_shown_with_reason_and_cause() {
    let database = support::database();
    let app = InProcess::start(&format!("routing: {{reads: primary}}\n{}", database.yaml())).await;
    let (client, console) = (app.client(&database.name).await, app.client("pgweir").await);
    let pin = || app.context.clients.snapshot().iter().find_map(|client| client.pin());
    for (acquire, release, reason, cause) in [
        ("CREATE TEMP TABLE mine (i int)", "DROP TABLE mine", "temporary_object", "temporary-object"),
        ("SELECT pg_advisory_lock(1)", "SELECT pg_advisory_unlock(1)", "advisory_lock", "advisory-lock"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "CLOSE c", "hold_cursor", "hold-cursor"),
        ("PREPARE p AS SELECT 1", "DEALLOCATE p", "sql_prepare", "prepare"),
    ] {
        client.batch_execute(acquire).await.unwrap();
        until(acquire, || pin().is_some()).await;
        let shown = rows(&console, "SHOW PINS").await;
        assert_eq!(shown.len(), 1, "{shown:?}");
        let columns: Vec<_> = shown[0].split('|').collect();
        assert_eq!(columns[1..5], ["app", database.name.as_str(), reason, cause]);
        assert!(columns[7].parse::<i32>().unwrap() > 0, "the server's process: {shown:?}");
        client.batch_execute(release).await.unwrap();
        until(release, || pin().is_none() && app.lent_and_waiting().0 == 0).await;
    }
    assert!(rows(&console, "SHOW PINS").await.is_empty());
    let totals: Vec<_> = app.context.clients.pins().filter(|(_, total)| *total > 0).collect();
    assert_eq!(totals.len(), 4, "{totals:?}");
    app.stop().await;
}

#[tokio::test]
async fn limits_pins_refuses_before_a_pool_is_taken() {
    let database = support::database();
    let yaml =
        format!("pool: {{size: 4}}\nlimits: {{pins: 1}}\nrouting: {{reads: primary}}\n{}", database.yaml());
    let app = InProcess::start(&yaml).await;
    let (a, b) = (app.client(&database.name).await, app.client(&database.name).await);
    a.batch_execute("CREATE TEMP TABLE mine (i int)").await.unwrap();
    until("the pin", || app.context.clients.snapshot().iter().any(|client| client.pin().is_some())).await;
    let (code, message) = error(&b, "CREATE TEMP TABLE mine (i int)").await;
    assert_eq!(code, SqlState::TOO_MANY_CONNECTIONS);
    assert_eq!(message, "too many clients keep a server connection for their session state");
    // Only the statement failed; a transaction fails as a whole; extended protocol alike.
    assert_eq!(rows(&b, "SELECT 1").await, ["1"]);
    b.batch_execute("BEGIN").await.unwrap();
    assert_eq!(error(&b, "SELECT pg_advisory_lock(1)").await.0, SqlState::TOO_MANY_CONNECTIONS);
    assert_eq!(error(&b, "SELECT 1").await.0, SqlState::IN_FAILED_SQL_TRANSACTION);
    b.batch_execute("ROLLBACK").await.unwrap();
    let refused = b.query("SELECT pg_advisory_lock($1)", &[&1_i64]).await.expect_err("a pin");
    assert_eq!(refused.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    // What only the server knows ends the session, and gives the connection back.
    let hidden = "DO $$ BEGIN PERFORM pg_advisory_lock(7); END $$";
    b.batch_execute(hidden).await.unwrap();
    until("the end of the session", || b.is_closed()).await;
    until("only the first pin", || app.lent_and_waiting().0 == 1).await;
    // Once the first gives up, another one may.
    a.batch_execute("DROP TABLE mine").await.unwrap();
    until("no pin", || app.lent_and_waiting().0 == 0).await;
    let c = app.client(&database.name).await;
    c.batch_execute("CREATE TEMP TABLE mine (i int)").await.unwrap();
    app.stop().await;
}

#[tokio::test]
async fn sequence_values_are_never_those_of_another_client() {
    let database = support::database();
    database.on(0, "CREATE TABLE t (id serial, i int); CREATE SEQUENCE s");
    for pin in [false, true] {
        let yaml = if pin { "session: {sequences: pin}\n" } else { "" };
        let app = InProcess::start(&format!("pool: {{size: 2}}\n{yaml}{}", database.yaml())).await;
        let (a, b) = (app.client(&database.name).await, app.client(&database.name).await);
        // In one transaction, in one string, in one statement: PostgreSQL's answers.
        a.batch_execute("BEGIN; INSERT INTO t (i) VALUES (1)").await.unwrap();
        let inserted = rows(&a, "SELECT max(id) FROM t").await;
        assert_eq!(rows(&a, "SELECT lastval()").await, inserted);
        assert_eq!(rows(&a, "SELECT currval('t_id_seq')").await, inserted);
        a.batch_execute("COMMIT").await.unwrap();
        let both = rows(&a, "INSERT INTO t (i) VALUES (2); SELECT lastval() = max(id) FROM t").await;
        assert_eq!(both, ["t"]);
        assert_eq!(rows(&a, "SELECT nextval('s') = currval('s')").await, ["t"]);
        // Elsewhere: refused, or true.
        b.batch_execute("INSERT INTO t (i) VALUES (3)").await.unwrap();
        if pin {
            let last = rows(&b, "SELECT max(id) FROM t").await;
            a.batch_execute("INSERT INTO t (i) VALUES (4)").await.unwrap();
            assert_eq!(rows(&b, "SELECT lastval()").await, last);
            assert_ne!(rows(&a, "SELECT lastval()").await, last);
            assert_eq!(app.lent_and_waiting().0, 2, "both keep theirs");
        } else {
            for sql in ["SELECT lastval()", "SELECT currval('t_id_seq')", "SELECT 1; SELECT lastval()"] {
                let (code, message) = error(&b, sql).await;
                assert_eq!(code, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{sql}");
                assert!(message.starts_with("currval and lastval are not available"), "{message}");
            }
            let refused = b.query("SELECT currval('s')", &[]).await.expect_err("refused");
            assert_eq!(refused.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE));
            assert_eq!(rows(&b, "SELECT 1").await, ["1"], "the session lives");
        }
        app.stop().await;
    }
}

#[tokio::test]
async fn rotation_gives_each_transaction_another_connection() {
    let database = support::database();
    let yaml =
        format!("pool: {{size: 3, debug_rotate: true}}\nrouting: {{reads: primary}}\n{}", database.yaml());
    let app = InProcess::start(&yaml).await;
    let client = app.client(&database.name).await;
    // The first transaction opens the second connection.
    rows(&client, "SELECT 1").await;
    rows(&client, "SELECT 1").await;
    until("a second connection", || {
        let counts = app.context.pools.pools().into_iter().map(|pool| pool.counts(Instant::now()).idle);
        counts.sum::<usize>() == 2
    })
    .await;
    let mut last = String::new();
    let (mut same, mut seen) = (0, BTreeSet::new());
    for _ in 0..40 {
        let pid = rows(&client, "SELECT pg_backend_pid()").await.remove(0);
        same += usize::from(pid == last);
        seen.insert(pid.clone());
        last = pid;
    }
    assert_eq!((same, seen.len()), (0, 2));
    client.batch_execute("BEGIN").await.unwrap();
    let pid = rows(&client, "SELECT pg_backend_pid()").await;
    assert_eq!(rows(&client, "SELECT pg_backend_pid()").await, pid, "not inside a transaction");
    client.batch_execute("COMMIT").await.unwrap();
    app.stop().await;
}

#[tokio::test]
async fn a_pool_half_kept_is_said_in_the_log() {
    let database = support::database();
    let pgweir = Pgweir::start(&format!("pool: {{size: 3}}\n{}", database.yaml()));
    let mut clients = Vec::new();
    for kept in 1..=3 {
        let (client, connection) =
            tokio_postgres::connect(&pgweir.url(&database.name), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute("CREATE TEMP TABLE x (i int)").await.unwrap();
        clients.push(client);
        let said = || pgweir.log().matches("more than half of a pool is kept").count();
        until("the log line", || said() == usize::from(kept > 1)).await;
    }
}

/// A leak that pgweir cannot know of (a trigger takes a lock; its INSERT looks harmless): the check finds it.
#[tokio::test]
async fn the_check_at_check_in_finds_what_was_left_behind() {
    let database = support::database();
    database.on(
        0,
        "CREATE TABLE t (i int); \
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_lock(4711); RETURN NEW; END'; \
         CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
    );
    let mut pgweir = Pgweir::start(&format!("pool: {{debug_check: true}}\n{}", database.yaml()));
    pgweir.may_be_unclean = true;
    let (client, connection) =
        tokio_postgres::connect(&pgweir.url(&database.name), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("SET work_mem = '5MB'").await.unwrap();
    client.batch_execute("BEGIN; DELETE FROM t; COMMIT").await.unwrap();
    assert!(!pgweir.log().contains("came back unclean"), "{}", pgweir.log());
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    until("the log line", || pgweir.log().contains("advisory lock 4711")).await;
    // The connection was closed, and so the lock is gone.
    let free = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711";
    until("the lock is released", || database.on(0, free) == "0").await;
    assert!(
        pgweir
            .get("/metrics")
            .1
            .lines()
            .any(|line| { line.starts_with("pgweir_dirty_checkins_total{") && line.ends_with(" 1") })
    );
}

/// Every way to be rid of what pins, each on connections that rotate and are checked.
#[tokio::test]
async fn pins_end_when_what_they_are_for_is_gone() {
    let database = support::database();
    let app = InProcess::start(&format!(
        "pool: {{size: 3, debug_rotate: true, debug_check: true}}\nrouting: {{reads: primary}}\n{}",
        database.yaml()
    ))
    .await;
    let client = app.client(&database.name).await;
    let other = app.client(&database.name).await;
    let pinned = || app.context.clients.snapshot().iter().any(|client| client.pin().is_some());
    let keeps: &[(&[&str], &[&str])] = &[
        (&["CREATE TEMP TABLE x (i int)", "CREATE TEMP TABLE y (i int)", "DROP TABLE x"], &["DROP TABLE y"]),
        (&["CREATE TEMP VIEW v AS SELECT 1"], &["DROP VIEW v"]),
        (&["CREATE TEMP SEQUENCE q"], &["DROP SEQUENCE q"]),
        (&["SELECT 1 AS i INTO TEMP x"], &["DISCARD TEMP"]),
        (&["CREATE TABLE pg_temp.x (i int)"], &["DISCARD ALL"]),
        (
            &["CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"],
            &["DROP FUNCTION pg_temp.f()"],
        ),
        (
            &["BEGIN; CREATE TEMP TABLE x (i int); SAVEPOINT s; DROP TABLE x; ROLLBACK TO s; COMMIT"],
            &["BEGIN; DROP TABLE x; COMMIT"],
        ),
        (&["DO $$ BEGIN CREATE TEMP TABLE x (i int); END $$"], &["DO $$ BEGIN DROP TABLE x; END $$"]),
        (
            &["SELECT pg_advisory_lock(1), pg_advisory_lock(1)", "SELECT pg_advisory_unlock(1)"],
            &["SELECT pg_advisory_unlock(1)"],
        ),
        (&["SELECT pg_advisory_lock_shared(1, 2)"], &["SELECT pg_advisory_unlock_shared(1, 2)"]),
        (&["SELECT pg_try_advisory_lock(3), pg_advisory_lock(4)"], &["SELECT pg_advisory_unlock_all()"]),
        (
            &["SELECT pg_advisory_lock(5)"],
            &["SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;"],
        ),
        (&["BEGIN; SELECT pg_advisory_lock(6); ROLLBACK"], &["SELECT pg_advisory_unlock(6)"]),
        (
            &[
                "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT",
                "DECLARE d CURSOR WITH HOLD FOR SELECT 1",
                "CLOSE c",
            ],
            &["CLOSE d"],
        ),
        (&["DECLARE c CURSOR WITH HOLD FOR SELECT 1"], &["CLOSE ALL"]),
        (&["PREPARE a AS SELECT 1", "PREPARE b AS SELECT 1", "DEALLOCATE a"], &["DEALLOCATE b"]),
        (&["PREPARE a AS SELECT 1"], &["DEALLOCATE ALL"]),
        (&["PREPARE a AS SELECT 1", "CREATE TEMP TABLE x (i int)", "DEALLOCATE a"], &["DROP TABLE x"]),
    ];
    for (acquire, release) in keeps {
        for sql in *acquire {
            client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            until(sql, pinned).await;
            rows(&other, "SELECT 1").await;
        }
        for sql in *release {
            assert!(pinned(), "before {sql}");
            client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
        until(release[0], || !pinned() && app.lent_and_waiting().0 == 0).await;
    }
    // These never keep one.
    for sql in [
        "BEGIN; CREATE TEMP TABLE x (i int) ON COMMIT DROP; COMMIT",
        "BEGIN; CREATE TEMP TABLE x (i int); ROLLBACK",
        "CREATE TEMP TABLE x (i int); DROP TABLE x",
        "SELECT pg_advisory_xact_lock(1)",
        "BEGIN; SELECT pg_advisory_xact_lock(1); COMMIT",
        "SELECT pg_advisory_lock(1); SELECT pg_advisory_unlock(1)",
        "BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; COMMIT",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; ROLLBACK",
        "PREPARE a AS SELECT 1; EXECUTE a; DEALLOCATE a",
        "CREATE TEMP TABLE x (i int); DISCARD TEMP",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        until(sql, || app.lent_and_waiting().0 == 0).await;
        assert!(!pinned(), "{sql}");
    }
    let dirty = app.context.pools.pools().into_iter().map(|pool| pool.stats.snapshot().dirty);
    assert_eq!(dirty.sum::<u64>(), 0);
    app.stop().await;
}
