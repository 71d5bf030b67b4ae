//! pgweir as it is run: the built binary, signals, psql, TLS, the command line.

#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code outside a #[test]"
)]

mod support;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use support::Pgweir;

fn psql(pgweir: &Pgweir, database: &str) -> Command {
    let mut command = Command::new("psql");
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &pgweir.url(database)]).stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn psql_works_as_users_expect() {
    let database = support::database();
    database.on(0, "CREATE TABLE t (i int PRIMARY KEY, b text)");
    support::cluster().wait_caught_up(0).unwrap();
    let pgweir = Pgweir::start(&database.yaml());
    let described = text(
        &psql(&pgweir, &database.name)
            .args(["-c", "\\d t", "-c", "\\d", "-c", "\\dn", "-c", "\\l"])
            .output()
            .unwrap(),
    );
    assert!(described.contains("t_pkey") && described.contains(&database.name), "{described}");
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("from.csv"), directory.path().join("to.csv"));
    let rows: String = (0..5000).map(|i| format!("{i},row {i}\n")).collect();
    std::fs::write(&from, &rows).unwrap();
    let copy = |sql: String| text(&psql(&pgweir, &database.name).args(["-c", &sql]).output().unwrap());
    copy(format!("\\copy t FROM '{}' CSV", from.display()));
    copy(format!("\\copy (SELECT * FROM t ORDER BY i) TO '{}' CSV", to.display()));
    assert_eq!(std::fs::read_to_string(&to).unwrap(), rows);
    // \watch runs until it is interrupted.
    let mut watch = psql(&pgweir, &database.name);
    watch.args(["-A", "-t"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = watch.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"SELECT 'tick' \\watch 0.1\n").unwrap();
    std::thread::sleep(Duration::from_millis(900));
    interrupt(child.id());
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).matches("tick").count() >= 4);
}

fn interrupt(pid: u32) {
    assert!(Command::new("kill").args(["-INT", &pid.to_string()]).status().unwrap().success());
}

/// Ctrl-C cancels the query on the server. (psql itself ends then, as its input is no terminal.)
#[test]
fn ctrl_c_in_psql() {
    let database = support::database();
    let pgweir = Pgweir::start(&database.yaml());
    let mut command = Command::new("psql");
    command.args(["-X", "-A", "-t", "-d", &pgweir.url(&database.name)]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"SELECT pg_sleep(60);\n").unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let begun = Instant::now();
    interrupt(child.id());
    let output = child.wait_with_output().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "not canceled");
    assert!(String::from_utf8_lossy(&output.stderr).contains("canceling statement due to user request"));
    let running = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND query LIKE '%pg_sleep(60)%' AND state = 'active'",
        database.name
    );
    for node in 0..3 {
        assert_eq!(
            support::cluster().psql(node, "postgres", &running).unwrap().trim(),
            "0",
            "canceled on the server, too"
        );
    }
}

/// SIGTERM under load: no transaction fails; clients between transactions are closed; the process ends.
#[test]
fn a_drain_fails_no_transaction() {
    let database = support::database();
    database.on(0, "CREATE TABLE t (i int)");
    let mut pgweir = Pgweir::start(&format!("pool: {{size: 4}}\n{}", database.yaml()));
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (url, stop, done) = (pgweir.url(&database.name), stop.clone(), done.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let (client, connection) =
                        tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
                    tokio::spawn(connection);
                    while !stop.load(Ordering::Relaxed) {
                        // Between transactions a drain closes us; inside one it must not.
                        let Ok(()) = client.batch_execute("BEGIN").await else { return };
                        for _ in 0..3 {
                            client
                                .simple_query("INSERT INTO t VALUES (1)")
                                .await
                                .expect("a transaction was failed");
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        client.batch_execute("COMMIT").await.expect("a commit was failed");
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            })
        })
        .collect();
    while done.load(Ordering::Relaxed) < 40 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let begun = Instant::now();
    pgweir.signal("TERM");
    let status = pgweir.wait(Duration::from_secs(15)).expect("it does not end");
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().unwrap();
    }
    assert!(
        status.success() && begun.elapsed() < Duration::from_secs(10),
        "{status} after {:?}",
        begun.elapsed()
    );
    let rows: u32 = database.on(0, "SELECT count(*) FROM t").trim().parse().unwrap();
    assert_eq!(
        rows,
        done.load(Ordering::Relaxed) * 3,
        "every acknowledged transaction is there, and no half of one"
    );
}

/// SIGHUP and RELOAD: users, pool sizes and nodes change without losing a client; a bad file changes nothing.
#[test]
fn a_reload_changes_users_pools_and_nodes() {
    let database = support::database();
    let pgweir = Pgweir::start(&database.yaml());
    let original = std::fs::read_to_string(pgweir.config_file()).unwrap();
    let login = |user: &str| {
        let url = format!("postgres://{user}:secret@127.0.0.1:{}/pgbouncer", pgweir.port);
        Command::new("psql").args(["-X", "-c", "SHOW VERSION", "-d", &url]).output().unwrap().status.success()
    };
    let show = |what: &str| {
        text(&psql(&pgweir, "pgbouncer").args(["-A", "-t", "-c", &format!("SHOW {what}")]).output().unwrap())
    };
    let until = |what: &str, condition: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < Duration::from_secs(5), "{what}\n{}", pgweir.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    assert!(!login("added"));
    let changed = original
        .replace("users:\n", "users:\n  added: {password: secret}\n")
        .replace("admin: {users: [app]}", "admin: {users: [app, added]}\npool: {size: 33}");
    // One replica less.
    let replicas = support::cluster().replica_addresses();
    let changed = changed.replace(&format!(", \"{}\"", replicas[1]), "");
    std::fs::write(pgweir.config_file(), &changed).unwrap();
    pgweir.signal("HUP");
    until("the new user may log in", &|| login("added"));
    assert!(show("CONFIG").contains("pool.size|33|"));
    assert!(!show("CLUSTER").contains(&replicas[1]));
    std::fs::write(pgweir.config_file(), "nonsense: [").unwrap();
    pgweir.signal("HUP");
    until("the bad file is refused", &|| pgweir.log().contains("reload failed"));
    assert!(login("added"), "the old configuration stays in force");
    std::fs::write(pgweir.config_file(), &original).unwrap();
    text(&psql(&pgweir, "pgbouncer").args(["-c", "RELOAD"]).output().unwrap());
    until("the user is gone", &|| !login("added"));
    until("the replica is back", &|| {
        show("CLUSTER").contains(&format!("{}|replica|replica|up", replicas[1]))
    });
}

#[test]
fn endpoints_for_machines() {
    let database = support::database();
    let pgweir = Pgweir::start(&database.yaml());
    text(&psql(&pgweir, &database.name).args(["-c", "SELECT 1"]).output().unwrap());
    assert!(pgweir.get("/livez") == (200, "ok\n".to_owned()));
    let begun = Instant::now();
    while pgweir.get("/readyz").0 != 200 {
        assert!(begun.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(50));
    }
    let (_, metrics) = pgweir.get("/metrics");
    for name in [
        "pgweir_queries_total{database=",
        "pgweir_routes_total{database=",
        "pgweir_node_up{node=",
        "pgweir_node_lag_seconds{node=",
        "pgweir_server_connections{database=",
        "pgweir_clients{state=",
        "pgweir_query_seconds_bucket{le=",
        "pgweir_build_info{version=",
        "process_resident_memory_bytes ",
        "pgweir_panics_total 0",
    ] {
        assert!(metrics.contains(name), "{name} is missing:\n{metrics}");
    }
}

/// TLS from psql: asked for, demanded, verified, and direct refusal of clear text where it is required.
#[test]
fn tls_for_clients() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (directory.path().join("server.crt"), directory.path().join("server.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let database = support::database();
    let pgweir = Pgweir::start(&format!(
        "tls: {{client: {{mode: require, certificate: {}, key: {}}}}}\n{}",
        certificate.display(),
        key.display(),
        database.yaml()
    ));
    let connect = |options: &str| {
        let info = format!(
            "host=localhost hostaddr=127.0.0.1 port={} user=app password=app dbname={} {options}",
            pgweir.port, database.name
        );
        Command::new("psql").args(["-X", "-A", "-t", "-c", "SELECT 'in'", "-d", &info]).output().unwrap()
    };
    assert_eq!(text(&connect("sslmode=require")).trim(), "in");
    assert_eq!(
        text(&connect(&format!("sslmode=verify-full sslrootcert={}", certificate.display()))).trim(),
        "in"
    );
    let refused = connect("sslmode=disable");
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("TLS is required")
    );
    let console = format!(
        "host=localhost hostaddr=127.0.0.1 port={} user=app password=app dbname=pgbouncer sslmode=require",
        pgweir.port
    );
    let clients = text(
        &Command::new("psql")
            .args(["-X", "-A", "-t", "-c", "SHOW CLIENTS", "-d", &console])
            .output()
            .unwrap(),
    );
    assert!(clients.contains("|TLSv1.3/"), "{clients}");
}

#[test]
fn the_command_line() {
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_pgweir"))
            .args(arguments)
            .env_remove("PGWEIR_CONFIG")
            .output()
            .unwrap()
    };
    let routed = text(&run(&["route", "SELECT lower(name) FROM author WHERE id = 1"]));
    for line in ["target      replica", "reason      read", "reads       author", "functions   lower"] {
        assert!(routed.contains(line), "{line}:\n{routed}");
    }
    let routed = text(&run(&["route", "SELECT my_function()"]));
    assert!(routed.contains("target      primary") && routed.contains("my_function"), "{routed}");
    let schema: serde_json::Value = serde_json::from_str(&text(&run(&["schema"]))).unwrap();
    assert!(schema["properties"]["databases"].is_object());
    assert!(text(&run(&["check", "--config", "pooler.yaml"])).contains("pooler.yaml: ok"));
    let directory = tempfile::tempdir().unwrap();
    let bad = directory.path().join("bad.yaml");
    std::fs::write(&bad, "pol: {size: 0}\ndatabases: {shop: {primary: db}}\nlisten: []\n").unwrap();
    let output = run(&["check", "--config", bad.to_str().unwrap()]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        complaint.contains("bad.yaml:1:1") && complaint.contains("did you mean \"pool\"?"),
        "{complaint}"
    );
    assert_eq!(run(&["run", "--config", "/nowhere.yaml"]).status.code(), Some(2));
    // Against real nodes.
    let database = support::database();
    let good = directory.path().join("good.yaml");
    std::fs::write(&good, database.yaml()).unwrap();
    let connected = text(&run(&["check", "--connect", "--config", good.to_str().unwrap()]));
    assert_eq!(connected.matches(": ok, PostgreSQL").count(), 3, "{connected}");
    // A primary that is a replica is told.
    let (primary, replica) = (support::cluster().address(0), support::cluster().address(1));
    let swapped =
        database.yaml().replace(&replica, "OTHER").replace(&primary, &replica).replace("OTHER", &primary);
    std::fs::write(&good, swapped).unwrap();
    let output = run(&["check", "--connect", "--config", good.to_str().unwrap()]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("it is a replica"));
}

/// pgbench in its three modes with many more clients than servers: no error, no connection left lent.
#[test]
fn pgbench_with_500_clients_over_20_servers() {
    let database = support::database();
    let pgweir = Pgweir::start(&format!("pool: {{size: 20, checkout_timeout: 20s}}\n{}", database.yaml()));
    let pgbench = |arguments: &[&str]| support::pgbench(pgweir.port, &database.name, arguments);
    pgbench(&["-i", "-q", "-s", "1"]);
    support::cluster().wait_caught_up(0).unwrap();
    let clients = std::env::var("PGWEIR_PGBENCH_CLIENTS").unwrap_or_else(|_| "100".to_owned());
    let seconds = std::env::var("PGWEIR_PGBENCH_SECONDS").unwrap_or_else(|_| "2".to_owned());
    for mode in ["simple", "extended", "prepared"] {
        let out = pgbench(&["-n", "-S", "-M", mode, "-c", &clients, "-j", "2", "-T", &seconds]);
        assert!(out.contains("number of failed transactions: 0"), "{out}");
        println!("{mode}: {}", out.lines().find(|line| line.starts_with("tps")).unwrap_or_default());
    }
    pgbench(&["-n", "-M", "prepared", "-c", "30", "-T", "2"]);
    let pools = text(&psql(&pgweir, "pgbouncer").args(["-A", "-t", "-c", "SHOW POOLS"]).output().unwrap());
    let row = pools.lines().find(|line| line.starts_with(&database.name)).unwrap();
    let columns: Vec<_> = row.split('|').collect();
    assert_eq!((columns[2], columns[3], columns[6]), ("0", "0", "0"), "nobody waits, nothing is lent: {row}");
    let busy = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND state <> 'idle'",
        database.name
    );
    for node in 0..3 {
        assert_eq!(support::cluster().psql(node, "postgres", &busy).unwrap().trim(), "0", "node {node}");
    }
}
