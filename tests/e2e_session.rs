//! Sessions through pgweir on a real primary with two replicas: routing, freshness, state, pools, logins.

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
use pgweir::cluster::NodeState;
use support::InProcess;
use support::inprocess::{one, until};
use tokio_postgres::NoTls;

/// Statements sent to each node so far, the primary first.
fn statements(app: &InProcess, database: &str) -> Vec<u64> {
    let entry = app.context.topology.load().database(database).unwrap();
    entry.cluster.nodes().map(|node| node.statements.load(Ordering::Relaxed)).collect()
}

#[tokio::test]
async fn reads_go_to_replicas_and_everything_else_to_the_primary() {
    let database = support::database();
    database.on(0, "CREATE TABLE t (i int)");
    support::cluster().wait_caught_up(0).unwrap();
    let app = InProcess::start(&database.yaml()).await;
    let client = app.client(&database.name).await;
    app.settled(&database.name).await;
    let before = statements(&app, &database.name);
    for number in 0..20 {
        one(&client, &format!("SELECT count(*) FROM t WHERE i = {number}")).await;
        client.query("SELECT count(*) FROM t WHERE i = $1", &[&number]).await.unwrap();
    }
    // On a busy machine one may seem to be further away for a while, and is left out.
    let begun = Instant::now();
    let mut after = statements(&app, &database.name);
    while !(after[1] > before[1] && after[2] > before[2]) {
        assert!(begun.elapsed() < Duration::from_secs(15), "both replicas serve: {after:?}");
        one(&client, "SELECT count(*) FROM t").await;
        after = statements(&app, &database.name);
    }
    assert_eq!(after[0], before[0], "no read on the primary");
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    client.execute("UPDATE t SET i = $1", &[&2_i32]).await.unwrap();
    client.batch_execute("SELECT 1; DELETE FROM t").await.unwrap();
    client.simple_query("SELECT * FROM t FOR UPDATE").await.unwrap();
    assert_eq!(one(&client, "SELECT pg_is_in_recovery()").await, "f");
    let written = statements(&app, &database.name);
    assert_eq!((written[1], written[2]), (after[1], after[2]), "no write on a replica");
    app.stop().await;
}

#[tokio::test]
async fn a_read_goes_where_the_fewest_are_in_flight() {
    let database = support::database();
    let app = InProcess::start(&database.yaml()).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let client = app.client(&database.name).await;
        // How far the replicas are is not what this is about.
        client.batch_execute("SET pgweir.consistency TO eventual").await.unwrap();
        clients.push(client);
    }
    app.settled(&database.name).await;
    let in_flight = || -> Vec<u32> {
        let entry = app.context.topology.load().database(&database.name).unwrap();
        entry.cluster.nodes().map(|node| node.in_flight.load(Ordering::Relaxed)).collect()
    };
    assert_eq!(in_flight(), [0, 0, 0]);
    for client in &clients {
        client.batch_execute("BEGIN READ ONLY").await.unwrap();
        assert_eq!(one(client, "SELECT 1").await, "1");
    }
    assert_eq!(in_flight(), [0, 3, 3], "each took the less busy one");
    for client in &clients {
        client.batch_execute("COMMIT").await.unwrap();
    }
    drop(clients);
    until("all have been given back", || in_flight() == [0, 0, 0]).await;
    app.stop().await;
}

#[tokio::test]
async fn transactions_stay_on_the_primary_and_read_only_ones_on_a_replica() {
    let database = support::database();
    let app = InProcess::start(&database.yaml()).await;
    let client = app.client(&database.name).await;
    app.settled(&database.name).await;
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(one(&client, "SELECT pg_is_in_recovery()").await, "f");
    client.batch_execute("COMMIT").await.unwrap();
    // What went to the primary may have been a write, as far as the session knows: a replica serves this
    // client again once it has replayed that.
    let begun = Instant::now();
    loop {
        client.batch_execute("BEGIN READ ONLY").await.unwrap();
        one(&client, "SELECT 1").await;
        // What the transaction is on, it stays on.
        let first = one(&client, "SELECT pg_is_in_recovery()").await;
        assert_eq!(one(&client, "SELECT pg_is_in_recovery()").await, first);
        client.batch_execute("COMMIT").await.unwrap();
        if first == "t" {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "READ ONLY transactions stay on the primary");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A standby refuses SERIALIZABLE: the primary takes it.
    client.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY").await.unwrap();
    assert_eq!(one(&client, "SELECT pg_is_in_recovery()").await, "f");
    client.batch_execute("ROLLBACK").await.unwrap();
    app.stop().await;
}

/// A replica half a second late: a client sees its own writes at once, from the primary, and reads from the
/// replica again once that has replayed them.
#[tokio::test]
async fn a_client_reads_its_own_writes() {
    let options = LocalClusterOptions::with_replicas(1).set_on(1, "recovery_min_apply_delay", "500ms");
    let cluster = LocalCluster::start(&options).unwrap();
    cluster.access().psql_as_app(0, "app", "CREATE TABLE t (i int)").unwrap();
    let yaml = format!("routing: {{consistency: session}}\n{}", support::sections(cluster.access(), "app"));
    let app = InProcess::start(&yaml).await;
    let writer = app.client("app").await;
    let other = app.client("app").await;
    app.settled("app").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for number in 1..=20 {
        writer.execute("INSERT INTO t VALUES ($1)", &[&number]).await.unwrap();
        assert_eq!(
            one(&writer, "SELECT count(*) FROM t").await,
            number.to_string(),
            "a client misses its own write"
        );
        writer.batch_execute("BEGIN; UPDATE t SET i = i; COMMIT").await.unwrap();
        assert_eq!(one(&writer, "SELECT count(*) FROM t").await, number.to_string());
    }
    // Somebody else, who has written nothing, reads from the replica, which is late.
    assert_ne!(
        one(&other, "SELECT count(*) FROM t").await,
        "20",
        "the replica is not late: this proves nothing"
    );
    assert!(app.reason_count("app", "own_writes") >= 40);
    let on_replica = || statements(&app, "app")[1];
    let before = on_replica();
    let begun = Instant::now();
    while on_replica() == before {
        assert_eq!(one(&writer, "SELECT count(*) FROM t").await, "20");
        assert!(begun.elapsed() < Duration::from_secs(10), "reads never come back to the replica");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() > Duration::from_millis(200), "back before the replica can have replayed");
    app.stop().await;
}

/// A replica dies: reads go on elsewhere without an error. It returns, and serves again.
#[tokio::test]
async fn a_dead_replica_is_left_out_and_comes_back() {
    let cluster = LocalCluster::start(&LocalClusterOptions::with_replicas(2)).unwrap();
    let yaml = format!("health: {{interval: 100ms}}\n{}", support::sections(cluster.access(), "app"));
    let app = InProcess::start(&yaml).await;
    let client = app.client("app").await;
    app.settled("app").await;
    for _ in 0..10 {
        one(&client, "SELECT 1").await;
    }
    cluster.stop(1, Mode::Immediate).unwrap();
    let entry = app.context.topology.load().database("app").unwrap();
    until("the dead replica is noticed", || entry.cluster.replicas[0].node.state() == NodeState::Down).await;
    let client = app.client("app").await;
    let before = statements(&app, "app");
    for _ in 0..20 {
        one(&client, "SELECT 1").await;
    }
    let after = statements(&app, "app");
    assert_eq!((after[0], after[1], after[2]), (before[0], before[1], before[2] + 20));
    cluster.start_node(1).unwrap();
    until("the replica is up again", || entry.cluster.replicas[0].node.state() == NodeState::Up).await;
    for _ in 0..20 {
        one(&client, "SELECT 1").await;
    }
    assert!(statements(&app, "app")[1] > after[1], "it serves again");
    // Without any replica reads go to the primary.
    cluster.stop(1, Mode::Fast).unwrap();
    cluster.stop(2, Mode::Fast).unwrap();
    until("both are noticed", || entry.cluster.replicas.iter().all(|r| r.node.state() == NodeState::Down))
        .await;
    let client = app.client("app").await;
    assert_eq!(one(&client, "SELECT 7").await, "7");
    assert!(app.reason_count("app", "no_usable_replica") > 0);
    app.stop().await;
}

/// The primary restarts under clients: they hear of it as PostgreSQL would say it, and new ones are served.
#[tokio::test]
async fn a_restarted_primary() {
    let cluster = LocalCluster::start(&LocalClusterOptions::with_replicas(0)).unwrap();
    let yaml = format!("health: {{interval: 100ms}}\n{}", support::sections(cluster.access(), "app"));
    let app = InProcess::start(&yaml).await;
    let idle = app.client("app").await;
    one(&idle, "SELECT 1").await;
    let open = app.client("app").await;
    open.batch_execute("BEGIN; SELECT 1").await.unwrap();
    cluster.stop(0, Mode::Fast).unwrap();
    let error = open.simple_query("SELECT 1").await.unwrap_err();
    let code = error.code().map(|code| code.code().to_owned());
    assert!(error.is_closed() || matches!(code.as_deref(), Some("57P01" | "08006")), "{error:?}");
    let refused = idle.simple_query("SELECT 1").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "57P03", "{refused:?}");
    cluster.start_node(0).unwrap();
    let begun = Instant::now();
    // The same client goes on: its session needs no server connection of its own.
    while idle.simple_query("SELECT 1").await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(one(&app.client("app").await, "SELECT 2").await, "2");
    app.stop().await;
}

/// One server connection, clients with settings of their own: each sees its own.
#[tokio::test]
async fn settings_belong_to_the_client() {
    let database = support::database();
    let app =
        InProcess::start(&format!("pool: {{size: 1}}\nrouting: {{reads: primary}}\n{}", database.yaml()))
            .await;
    let mut clients = Vec::new();
    for (number, zone) in ["UTC", "Asia/Tokyo", "Europe/Oslo"].into_iter().enumerate() {
        let client = app.client(&database.name).await;
        client.batch_execute(&format!("SET timezone = '{zone}'")).await.unwrap();
        client
            .query("SELECT set_config($1, $2, false)", &[&"app.tenant", &number.to_string()])
            .await
            .unwrap();
        client.batch_execute(&format!("SET search_path = s{number}, public")).await.unwrap();
        clients.push((client, zone, number.to_string()));
    }
    for _ in 0..3 {
        for (client, zone, number) in &clients {
            assert_eq!(one(client, "SHOW timezone").await, *zone);
            assert_eq!(one(client, "SELECT current_setting('app.tenant')").await, *number);
            assert_eq!(one(client, "SHOW search_path").await, format!("s{number}, public"));
        }
    }
    let fresh = app.client(&database.name).await;
    assert_eq!(one(&fresh, "SHOW timezone").await, "UTC");
    assert_eq!(
        one(&fresh, "SELECT coalesce(nullif(current_setting('app.tenant', true), ''), 'none')").await,
        "none"
    );
    // A bad SET fails at the SET, and changes nothing.
    assert!(clients[1].0.batch_execute("SET timezone = 'Nowhere'").await.is_err());
    assert_eq!(one(&clients[1].0, "SHOW timezone").await, "Asia/Tokyo");
    app.stop().await;
}

/// What functions do to the session does not reach the next client.
#[tokio::test]
async fn what_functions_leave_behind_stays_with_their_caller() {
    let database = support::database();
    database.on(
        0,
        "CREATE FUNCTION sneaky() RETURNS int LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM set_config('hidden.' || 'name', 'mine', false); PERFORM set_config('work_mem', '7MB', false); \
         PERFORM pg_advisory_lock(99); RETURN 1; END $$; \
         CREATE FUNCTION plain() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    );
    let app =
        InProcess::start(&format!("pool: {{size: 2}}\nrouting: {{reads: primary}}\n{}", database.yaml()))
            .await;
    for round in 0..8 {
        let caller = app.client(&database.name).await;
        assert_eq!(one(&caller, "SELECT plain()").await, "1");
        assert_eq!(one(&caller, "SELECT sneaky()").await, "1");
        assert_eq!(one(&caller, "SHOW work_mem").await, "7MB", "its own caller keeps it");
        let other = app.client(&database.name).await;
        assert_eq!(one(&other, "SHOW work_mem").await, "4MB", "round {round}");
        assert_eq!(
            one(&other, "SELECT pg_try_advisory_lock(99)").await,
            "f",
            "the lock is its caller's, and held"
        );
        drop(caller);
        until("the lock goes with its owner", || app.lent_and_waiting().0 == 0).await;
        assert_eq!(
            one(&other, "SELECT coalesce(nullif(current_setting('hidden.name', true), ''), 'none')").await,
            "none"
        );
        assert_eq!(one(&other, "SELECT pg_try_advisory_lock(99), pg_advisory_unlock(99)").await, "t");
    }
    app.stop().await;
}

#[tokio::test]
async fn session_state_pins_and_lets_go() {
    let database = support::database();
    let app =
        InProcess::start(&format!("pool: {{size: 2}}\nrouting: {{reads: primary}}\n{}", database.yaml()))
            .await;
    let client = app.client(&database.name).await;
    let states = [
        ("CREATE TEMP TABLE mine (i int)", "DROP TABLE mine"),
        ("SELECT pg_advisory_lock(1)", "SELECT pg_advisory_unlock(1)"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "CLOSE c"),
        ("PREPARE p AS SELECT 1", "DEALLOCATE p"),
        ("CREATE TEMP TABLE other (i int)", "DISCARD ALL"),
    ];
    for (acquire, release) in states {
        client.batch_execute(acquire).await.unwrap();
        until(acquire, || app.lent_and_waiting().0 == 1).await;
        client.batch_execute(release).await.unwrap();
        until(release, || app.lent_and_waiting().0 == 0).await;
    }
    // LISTEN hears NOTIFY, also while it waits.
    let (mut listener, mut connection) = app.config(&database.name).connect(NoTls).await.unwrap();
    let (sender, mut notes) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(tokio_postgres::AsyncMessage::Notification(note)) => {
                    let _ = sender.send(note.payload().to_owned());
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    });
    listener.batch_execute("LISTEN news").await.unwrap();
    client.batch_execute("NOTIFY news, 'it''s \\ \"quoted\"'").await.unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(5), notes.recv()).await.unwrap().unwrap();
    assert_eq!(heard, "it's \\ \"quoted\"");
    listener.transaction().await.unwrap().rollback().await.unwrap();
    app.stop().await;
}

#[tokio::test]
async fn prepared_statements_are_shared_bounded_and_survive() {
    let database = support::database();
    database.on(0, "CREATE TABLE t (i int); INSERT INTO t VALUES (1)");
    support::cluster().wait_caught_up(0).unwrap();
    let yaml = format!(
        "pool: {{size: 2, prepared_statements: 10}}\nrouting: {{reads: primary}}\n{}",
        database.yaml()
    );
    let app = InProcess::start(&yaml).await;
    let (a, b) = (app.client(&database.name).await, app.client(&database.name).await);
    let mut kept = Vec::new();
    for number in 0..60 {
        let statement = a.prepare(&format!("SELECT i + {number} FROM t WHERE i = $1")).await.unwrap();
        kept.push((number, statement));
    }
    for (number, statement) in &kept {
        assert_eq!(a.query_one(statement, &[&1_i32]).await.unwrap().get::<_, i32>(0), 1 + number);
    }
    // An error does not wipe them, and another client has its own names.
    assert!(a.simple_query("SELECT 1/0").await.is_err());
    let other = b.prepare("SELECT 'b'").await.unwrap();
    assert_eq!(b.query_one(&other, &[]).await.unwrap().get::<_, &str>(0), "b");
    assert_eq!(a.query_one(&kept[0].1, &[&1_i32]).await.unwrap().get::<_, i32>(0), 1);
    let held = one(&b, "SELECT count(*) FROM pg_prepared_statements").await.parse::<usize>().unwrap();
    assert!(held <= 12, "{held} statements on a server connection that may hold 10");
    // DEALLOCATE ALL takes this client's, and not the other's.
    a.batch_execute("DEALLOCATE ALL").await.unwrap();
    let gone = a.query(&kept[1].1, &[&1_i32]).await.unwrap_err();
    assert_eq!(gone.code().unwrap().code(), "26000");
    assert_eq!(b.query_one(&other, &[]).await.unwrap().get::<_, &str>(0), "b");
    app.stop().await;
}

#[tokio::test]
async fn cold_start_with_many_clients() {
    let database = support::database();
    let app =
        InProcess::start(&format!("pool: {{size: 8}}\nrouting: {{reads: primary}}\n{}", database.yaml()))
            .await;
    let tasks: Vec<_> = (0..120)
        .map(|number: i32| {
            let config = app.config(&database.name);
            tokio::spawn(async move {
                let (client, connection) = config.connect(NoTls).await.unwrap();
                tokio::spawn(connection);
                for _ in 0..5 {
                    let row = client.query_one("SELECT $1::int, pg_sleep(0.002)", &[&number]).await.unwrap();
                    assert_eq!(row.get::<_, i32>(0), number);
                }
            })
        })
        .collect();
    let mut most = 0;
    while tasks.iter().any(|task| !task.is_finished()) {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND backend_type = 'client backend' AND query NOT LIKE '%pg_is_in_recovery%' AND pid <> pg_backend_pid()",
            database.name
        );
        most =
            most.max(support::cluster().psql(0, "postgres", &sql).unwrap().trim().parse::<usize>().unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!((2..=8).contains(&most), "{most} server connections for a pool of 8");
    assert_eq!(app.lent_and_waiting(), (0, 0));
    app.stop().await;
}

#[tokio::test]
async fn the_queue_is_fair_and_bounded_in_time() {
    let database = support::database();
    let yaml = format!(
        "pool: {{size: 1, checkout_timeout: 400ms}}\nrouting: {{reads: primary}}\n{}",
        database.yaml()
    );
    let app = InProcess::start(&yaml).await;
    let holder = app.client(&database.name).await;
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(app.client(&database.name).await);
    }
    holder.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for (number, client) in waiting.into_iter().enumerate() {
        let order = order.clone();
        tasks.push(tokio::spawn(async move {
            client.simple_query("SELECT 1").await.unwrap();
            order.lock().unwrap().push(number);
            client
        }));
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    holder.batch_execute("COMMIT").await.unwrap();
    let mut clients = Vec::new();
    for task in tasks {
        clients.push(task.await.unwrap());
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4], "first come, first served");
    // Nobody waits for ever.
    holder.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let begun = Instant::now();
    let error = clients[0].simple_query("SELECT 1").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "53300");
    assert!(error.hint().unwrap().contains("pool.size"));
    assert!((Duration::from_millis(350)..Duration::from_secs(3)).contains(&begun.elapsed()));
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(one(&clients[0], "SELECT 3").await, "3", "the session lives");
    app.stop().await;
}

#[tokio::test]
async fn connections_age_and_die_and_are_replaced() {
    let database = support::database();
    let yaml = format!(
        "pool: {{size: 4, min_size: 2, idle_timeout: 1s}}\nrouting: {{reads: primary}}\n{}",
        database.yaml()
    );
    let app = InProcess::start(&yaml).await;
    let client = app.client(&database.name).await;
    let busy = async || {
        let mut open = Vec::new();
        for _ in 0..4 {
            let client = app.client(&database.name).await;
            client.batch_execute("BEGIN; SELECT 1").await.unwrap();
            open.push(client);
        }
        for client in open {
            client.batch_execute("COMMIT").await.unwrap();
        }
    };
    busy().await;
    let pool = app.context.pools.pools().into_iter().find(|pool| pool.key.user == "app").unwrap();
    until("idle ones above min_size are closed", || pool.counts(Instant::now()).idle == 2).await;
    // All of them are killed while idle: nobody is handed a dead one.
    let killed = support::cluster()
        .psql(0, "postgres", &format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{}' AND state = 'idle'", database.name))
        .unwrap();
    assert!(killed.trim().parse::<usize>().unwrap() >= 2);
    // The signal is sent at once; the backends end a moment later, and that is what is noticed.
    let alive = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND state = 'idle' AND backend_start < now() - interval '1 second'",
        database.name
    );
    until("the backends have ended", || {
        support::cluster().psql(0, "postgres", &alive).unwrap().trim() == "0"
    })
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    for _ in 0..10 {
        assert_eq!(one(&client, "SELECT 4").await, "4");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_terminated_backend_ends_its_client_as_postgresql_would() {
    let database = support::database();
    let app =
        InProcess::start(&format!("pool: {{size: 1}}\nrouting: {{reads: primary}}\n{}", database.yaml()))
            .await;
    let victim = app.client(&database.name).await;
    let running = tokio::spawn(async move { victim.simple_query("SELECT pg_sleep(30)").await.unwrap_err() });
    let kill = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{}' AND query LIKE '%pg_sleep(30)%' AND state = 'active' AND pid <> pg_backend_pid()",
        database.name
    );
    let begun = Instant::now();
    while support::cluster().psql(0, "postgres", &kill).unwrap().trim() != "1" {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let error = running.await.unwrap();
    assert_eq!(error.code().unwrap().code(), "57P01", "{error:?}");
    assert_eq!(one(&app.client(&database.name).await, "SELECT 5").await, "5");
    app.stop().await;
}

/// Many clients run queries while cancels fly: only the canceled ones are canceled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_hits_the_right_query_or_none() {
    let database = support::database();
    let app = InProcess::start(&format!("pool: {{size: 3}}\n{}", database.yaml())).await;
    let sleeper = app.client(&database.name).await;
    let token = sleeper.cancel_token();
    let bystanders: Vec<_> = (0..6)
        .map(|_| {
            let config = app.config(&database.name);
            tokio::spawn(async move {
                let (client, connection) = config.connect(NoTls).await.unwrap();
                tokio::spawn(connection);
                for _ in 0..150 {
                    client.simple_query("SELECT pg_sleep(0.001)").await.expect("somebody else's cancel");
                }
            })
        })
        .collect();
    let mut canceled = 0;
    for round in 0..40 {
        let sleeps = round % 2 == 0;
        let query = sleeper.simple_query(if sleeps { "SELECT pg_sleep(60)" } else { "SELECT 1" });
        // Early ones hit nothing, late ones must hit nobody: the query may have ended, and its server
        // connection may serve another client.
        let cancels = async {
            for pause in 0..1000 {
                tokio::time::sleep(Duration::from_millis(round % 8 + pause)).await;
                token.cancel_query(NoTls).await.unwrap();
            }
        };
        let result = tokio::select! {
            result = query => result,
            () = cancels => panic!("a query outlives its cancels"),
        };
        token.cancel_query(NoTls).await.unwrap();
        if let Err(error) = result {
            assert_eq!(error.code().unwrap().code(), "57014");
            canceled += u32::from(sleeps);
        }
    }
    assert_eq!(canceled, 20, "every query that sleeps is canceled");
    for task in bystanders {
        task.await.unwrap();
    }
    app.stop().await;
}

#[tokio::test]
async fn timeouts_end_what_takes_too_long() {
    let database = support::database();
    let yaml = format!(
        "timeouts: {{query: 300ms, idle_in_transaction: 300ms, client_idle: 600ms}}\n{}",
        database.yaml()
    );
    let app = InProcess::start(&yaml).await;
    let client = app.client(&database.name).await;
    let error = client.simple_query("SELECT pg_sleep(20)").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "57014");
    let idle = app.client(&database.name).await;
    idle.batch_execute("BEGIN; SELECT 1").await.unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert!(idle.simple_query("SELECT 1").await.is_err(), "idle in transaction");
    let running = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND (state LIKE '%transaction%' OR query LIKE '%pg_sleep(20)%' AND state = 'active')",
        database.name
    );
    assert_eq!(
        support::cluster().psql(0, "postgres", &running).unwrap().trim(),
        "0",
        "the servers were told, too"
    );
    let silent = app.client(&database.name).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(silent.is_closed(), "idle client");
    app.stop().await;
}

#[tokio::test]
async fn session_and_statement_mode() {
    let database = support::database();
    let app = InProcess::start(&format!("pool: {{mode: session, size: 1}}\n{}", database.yaml())).await;
    let client = app.client(&database.name).await;
    client.batch_execute("CREATE TEMP TABLE mine (i int)").await.unwrap();
    client.batch_execute("SET work_mem = '9MB'").await.unwrap();
    assert_eq!(one(&client, "SELECT count(*) FROM mine").await, "0");
    drop(client);
    let next = app.client(&database.name).await;
    assert!(next.simple_query("SELECT * FROM mine").await.is_err(), "the temporary table is gone");
    assert_eq!(one(&next, "SHOW work_mem").await, "4MB");
    app.stop().await;

    let app = InProcess::start(&format!("pool: {{mode: statement}}\n{}", database.yaml())).await;
    let client = app.client(&database.name).await;
    let error = client.batch_execute("BEGIN").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "0A000");
    assert_eq!(one(&client, "SELECT 6").await, "6", "the session lives");
    app.stop().await;
}

#[tokio::test]
async fn who_may_log_in() {
    let database = support::database();
    let yaml = database
        .yaml()
        .replace("users:\n", "users:\n  limited: {password: pw, databases: []}\n  many: {password: pw}\n");
    let app = InProcess::start(&format!("limits: {{clients_per_user: 2}}\n{yaml}")).await;
    let refused = async |user: &str, password: &str, name: &str| {
        let mut config = app.config(name);
        config.user(user).password(password);
        let error = config.connect(NoTls).await.err().expect("a login that must fail");
        let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}")).clone();
        (error.code().code().to_owned(), error.message().to_owned())
    };
    let wrong = ("28P01".to_owned(), "password authentication failed for user \"app\"".to_owned());
    assert_eq!(refused("app", "wrong", &database.name).await, wrong);
    let (code, message) = refused("nobody", "x", &database.name).await;
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("28P01", "password authentication failed for user \"nobody\"")
    );
    assert_eq!(refused("app", "app", "no_such").await.0, "3D000");
    assert_eq!(refused("limited", "pw", &database.name).await.0, "42501");
    assert_eq!(refused("limited", "pw", "pgbouncer").await.0, "42501", "the console is for admins");
    let _two = (app.client(&database.name).await, app.client(&database.name).await);
    assert_eq!(refused("app", "app", &database.name).await.0, "53300");
    app.stop().await;
}

/// A login to a database that is on no server is refused at once: not tried on one node after another for ever.
#[tokio::test]
async fn a_database_that_is_on_no_server() {
    let database = support::database();
    let yaml = database.yaml().replace(&format!("databases:\n  {}:", database.name), "databases:\n  \"*\":");
    let app = InProcess::start(&yaml).await;
    let begun = Instant::now();
    for _ in 0..3 {
        let error = app.config("nowhere_at_all").connect(NoTls).await.err().unwrap();
        let error = error.as_db_error().unwrap();
        assert_eq!((error.code().code(), error.severity()), ("3D000", "FATAL"), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(3));
    let opened: u64 = app.context.pools.pools().iter().map(|pool| pool.stats.snapshot().open_failures).sum();
    assert_eq!(opened, 3, "one attempt for each login");
    assert_eq!(one(&app.client(&database.name).await, "SELECT 1").await, "1");
    app.stop().await;
}

/// The console by drivers: both protocols.
#[tokio::test]
async fn the_console_speaks_both_protocols() {
    let database = support::database();
    let app = InProcess::start(&database.yaml()).await;
    let client = app.client(&database.name).await;
    one(&client, "SELECT 1").await;
    for name in ["pgbouncer", "pgweir"] {
        let console = app.client(name).await;
        assert!(one(&console, "SHOW VERSION").await.starts_with("PgBouncer 1.25.2"));
        let rows = console.query("SHOW POOLS", &[]).await.unwrap();
        let row = rows.iter().find(|row| row.get::<_, &str>("database") == database.name).unwrap();
        assert_eq!((row.get::<_, &str>("user"), row.get::<_, i32>("cl_active")), ("app", 1));
        let rows = console.query("SHOW CLUSTER", &[]).await.unwrap();
        assert_eq!(rows.iter().filter(|row| row.get::<_, &str>("database") == database.name).count(), 3);
        assert!(console.simple_query("SHOW NONSENSE").await.is_err());
        assert_eq!(
            console.query("SHOW LISTS", &[]).await.unwrap().len(),
            14,
            "an error leaves the console alive"
        );
        for show in [
            "DATABASES",
            "CLIENTS",
            "SERVERS",
            "STATS",
            "STATS_TOTALS",
            "STATS_AVERAGES",
            "TOTALS",
            "USERS",
            "CONFIG",
            "MEM",
            "STATE",
            "ROUTES",
        ] {
            console
                .query(&format!("SHOW {show}"), &[])
                .await
                .unwrap_or_else(|error| panic!("SHOW {show}: {error}"));
        }
    }
    app.stop().await;
}

/// PgBouncer's columns, in its order and with its types (s text, i int4, q int8, N numeric): tools scan by position.
const COLUMNS: &[(&str, &str)] = &[
    ("VERSION", "version s"),
    ("STATE", "key s, value s"),
    (
        "DATABASES",
        "name s, host s, port i, database s, force_user s, pool_size i, min_pool_size i, reserve_pool_size i, server_lifetime i, pool_mode s, load_balance_hosts s, max_connections i, current_connections i, max_client_connections i, current_client_connections i, paused i, disabled i",
    ),
    (
        "POOLS",
        "database s, user s, cl_active i, cl_waiting i, cl_active_cancel_req i, cl_waiting_cancel_req i, sv_active i, sv_active_cancel i, sv_being_canceled i, sv_idle i, sv_used i, sv_tested i, sv_login i, maxwait i, maxwait_us i, pool_mode s, load_balance_hosts s",
    ),
    (
        "CLIENTS",
        "type s, user s, database s, replication s, state s, addr s, port i, local_addr s, local_port i, connect_time s, request_time s, wait i, wait_us i, close_needed i, ptr s, link s, remote_pid i, tls s, application_name s, prepared_statements i, id i",
    ),
    (
        "SERVERS",
        "type s, user s, database s, replication s, state s, addr s, port i, local_addr s, local_port i, connect_time s, request_time s, wait i, wait_us i, close_needed i, ptr s, link s, remote_pid i, tls s, application_name s, prepared_statements i, id i",
    ),
    (
        "STATS",
        "database s, total_server_assignment_count N, total_xact_count N, total_query_count N, total_received N, total_sent N, total_xact_time N, total_query_time N, total_wait_time N, total_client_parse_count N, total_server_parse_count N, total_bind_count N, avg_server_assignment_count N, avg_xact_count N, avg_query_count N, avg_recv N, avg_sent N, avg_xact_time N, avg_query_time N, avg_wait_time N, avg_client_parse_count N, avg_server_parse_count N, avg_bind_count N",
    ),
    (
        "STATS_TOTALS",
        "database s, server_assignment_count N, xact_count N, query_count N, bytes_received N, bytes_sent N, xact_time N, query_time N, wait_time N, client_parse_count N, server_parse_count N, bind_count N",
    ),
    (
        "STATS_AVERAGES",
        "database s, server_assignment_count N, xact_count N, query_count N, bytes_received N, bytes_sent N, xact_time N, query_time N, wait_time N, avg_client_parse_count N, avg_server_parse_count N, avg_bind_count N",
    ),
    ("TOTALS", "name s, value N"),
    ("LISTS", "list s, items i"),
    (
        "USERS",
        "name s, pool_size s, reserve_pool_size s, pool_mode s, max_user_connections i, current_connections i, max_user_client_connections i, current_client_connections i",
    ),
    ("CONFIG", "key s, value s, default s, changeable s"),
    ("MEM", "name s, size i, used i, free i, memtotal i"),
    (
        "CLUSTER",
        "database s, shard i, node s, role s, observed_role s, state s, standing s, timeline q, replay_lsn s, lag_bytes q, lag_ms q, in_flight i, weight i, near i, latency_us q, statements q, failures q, banned i, why s",
    ),
    ("ROUTES", "database s, target s, reason s, count q, shard i"),
];

#[tokio::test]
async fn the_console_has_pgbouncers_columns() {
    let database = support::database();
    let app = InProcess::start(&database.yaml()).await;
    let console = app.client("pgbouncer").await;
    for (show, expected) in COLUMNS {
        let statement = console.prepare(&format!("SHOW {show}")).await.unwrap();
        let letter = |oid: u32| match oid {
            25 => "s",
            23 => "i",
            20 => "q",
            1700 => "N",
            _ => "?",
        };
        let found: Vec<_> =
            statement.columns().iter().map(|c| format!("{} {}", c.name(), letter(c.type_().oid()))).collect();
        assert_eq!(found.join(", "), *expected, "SHOW {show}");
    }
    let names = console.query("SHOW TOTALS", &[]).await.unwrap();
    let names: Vec<&str> = names.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        (names.len(), names[0], names[3], names[21]),
        (22, "total_server_assignment_count", "total_client_bytes", "avg_ps_bind_count")
    );
    let lists = console.query("SHOW LISTS", &[]).await.unwrap();
    let lists: Vec<&str> = lists.iter().map(|row| row.get(0)).collect();
    let expected = "databases, users, peers, pools, peer_pools, free_clients, used_clients, login_clients, free_servers, used_servers, dns_names, dns_zones, dns_queries, dns_pending";
    assert_eq!(lists.join(", "), expected);
    app.stop().await;
}

/// The numbers of the console are true: compared with pg_stat_activity under load.
#[tokio::test]
async fn the_console_counts_what_there_is() {
    let database = support::database();
    let app =
        InProcess::start(&format!("pool: {{size: 5}}\nrouting: {{reads: primary}}\n{}", database.yaml()))
            .await;
    let console = app.client("pgbouncer").await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let client = app.client(&database.name).await;
        client.batch_execute("BEGIN; SELECT 1").await.unwrap();
        open.push(client);
    }
    let _idle = app.client(&database.name).await;
    let rows = console.query("SHOW POOLS", &[]).await.unwrap();
    let row = rows.iter().find(|row| row.get::<_, &str>("database") == database.name).unwrap();
    let count = |name: &str| row.get::<_, i32>(name);
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND state = 'idle in transaction'",
        database.name
    );
    let really = support::cluster().psql(0, "postgres", &sql).unwrap().trim().parse::<i32>().unwrap();
    assert_eq!((count("sv_active"), really), (3, 3));
    assert_eq!((count("cl_active"), count("cl_waiting")), (4, 0));
    app.stop().await;
}
