//! Replication connections through pgweir: PostgreSQL's own tools, and the same words as from PostgreSQL.
#![allow(clippy::pedantic, clippy::unwrap_used, clippy::panic, reason = "test code outside a #[test]")]

mod support;

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::talk::{Until, ask, cancel, comparable, read, rows, send, sqlstate, startup, talk, until};
use support::wire::RawClient;
use support::{Pgweir, TestDatabase};

/// A database whose owner may replicate; the role is everybody's, so it stays so.
fn database() -> TestDatabase {
    support::cluster()
        .psql(0, "postgres", "SELECT pg_advisory_lock(5770); ALTER ROLE app REPLICATION")
        .unwrap();
    support::database()
}

fn tool(program: &str, port: u16, args: &[&str]) -> Command {
    let mut command = Command::new(support::cluster().programs.join(program));
    command
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "app", "--no-password"])
        .args(args)
        .env("PGPASSWORD", "app")
        .env("LC_ALL", "C");
    command
}

#[track_caller]
fn succeeds(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn replicating(port: u16, database: &str, kind: &str) -> RawClient {
    RawClient::connect(port).log_in(&startup(database, &[("replication", kind)]))
}

fn console(pgweir: &Pgweir, command: &str) -> Vec<String> {
    ask(&mut RawClient::login(pgweir.port, "pgweir"), command)
}

fn insert_position(database: &TestDatabase) -> String {
    database.on(0, "SELECT pg_current_wal_insert_lsn()").trim().to_owned()
}

#[test]
fn a_base_backup_is_whole() {
    let database = database();
    let pgweir = Pgweir::start(&database.yaml());
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("backup");
    let target = target.to_str().unwrap();
    // Streams the log over a second connection meanwhile.
    let mut command = tool("pg_basebackup", pgweir.port, &["-c", "fast", "-X", "stream", "-D", target]);
    command.env("PGAPPNAME", "the backup");
    succeeds(command);
    succeeds({
        let mut verify = Command::new(support::cluster().programs.join("pg_verifybackup"));
        verify.arg(target);
        verify
    });
    assert!(directory.path().join("backup/PG_VERSION").exists());
    until("nothing is left of it", || !console(&pgweir, "SHOW SERVERS").join("\n").contains("physical"));
}

#[test]
fn logical_decoding_streams_what_clients_write() {
    let database = database();
    database.on(0, "CREATE TABLE t (i int)");
    let pgweir = Pgweir::start(&database.yaml());
    let slot = format!("slot_{}", database.name);
    let run = |args: &[&str]| {
        let mut all = vec!["-d", &*database.name, "--slot", &slot];
        all.extend(args);
        succeeds(tool("pg_recvlogical", pgweir.port, &all))
    };
    run(&["--create-slot", "--plugin", "test_decoding"]);
    let mut client = RawClient::login(pgweir.port, &database.name);
    ask(&mut client, "INSERT INTO t SELECT generate_series(1, 1000)");
    let end = insert_position(&database);
    ask(&mut client, "INSERT INTO t VALUES (0)");
    let seen = run(&["--start", "--endpos", &end, "-f", "-"]);
    assert_eq!(seen.matches("table public.t: INSERT").count(), 1000, "{seen}");
    assert!(seen.contains("i[integer]:1000"));
    run(&["--drop-slot"]);
}

#[test]
fn log_is_received() {
    let database = database();
    database.on(0, "CREATE TABLE t (i int)");
    let pgweir = Pgweir::start(&database.yaml());
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().to_str().unwrap();
    let mut receiving = tool("pg_receivewal", pgweir.port, &["-n", "-D", target]).spawn().unwrap();
    let files = || -> Vec<String> {
        let entries = std::fs::read_dir(target).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    until("it receives", || !files().is_empty());
    let start = insert_position(&database);
    database.on(0, "INSERT INTO t SELECT generate_series(1, 10000)");
    let end = insert_position(&database);
    // The next segment begins: the file is whole.
    let switch = "SELECT pg_switch_wal(); CREATE TABLE pg_temp.t (i int)";
    support::cluster().psql(0, "postgres", switch).unwrap();
    // Others write, too: the rows may lie in two files.
    let last = database.on(0, &format!("SELECT pg_walfile_name('{end}')"));
    until("the files are whole", || files().iter().any(|name| name == last.trim()));
    receiving.kill().unwrap();
    receiving.wait().unwrap();
    let mut dump = Command::new(support::cluster().programs.join("pg_waldump"));
    dump.args(["-p", target, "--rmgr", "Heap", "-s", &start, "-e", &end]);
    assert!(succeeds(dump).matches("INSERT").count() >= 10_000);
}

/// What differs from one time to the next: positions in the log, names made of them.
fn masked(heard: Vec<String>) -> Vec<String> {
    heard
        .into_iter()
        .map(|line| {
            let words = line.split_inclusive([' ', '\\', '"']);
            words.map(|word| if word.contains('/') { "<lsn>" } else { word }).collect()
        })
        .collect()
}

#[test]
fn the_words_are_postgresqls() {
    let database = database();
    let pgweir = Pgweir::start(&database.yaml());
    let direct = support::cluster().port(0);
    let logical = [
        (send().query("SELECT 1; SELECT current_database()"), Until::Ready(1)),
        (
            send().query(
                "CREATE_REPLICATION_SLOT tmp_slot TEMPORARY LOGICAL test_decoding (SNAPSHOT 'nothing')",
            ),
            Until::Tag(b'Z'),
        ),
        (send().query("START_REPLICATION SLOT none LOGICAL 0/0"), Until::Ready(1)),
        (send().query("DROP_REPLICATION_SLOT none"), Until::Ready(1)),
        (send().query("BEGIN"), Until::Ready(1)),
        (send().query("SELECT no_such_column"), Until::Ready(1)),
        (send().query("ROLLBACK"), Until::Ready(1)),
        (send().run("SELECT 1", &[]).sync(), Until::Ready(1)),
    ];
    let physical = [
        (send().query("SHOW work_mem"), Until::Ready(1)),
        (send().query("IDENTIFY_SYSTEM nonsense"), Until::Ready(1)),
        (send().query("SELECT 1"), Until::Ready(1)),
        (send().run("SELECT 1", &[]).sync(), Until::Ready(1)),
        (send().query("TIMELINE_HISTORY 77"), Until::Ready(1)),
    ];
    for (kind, name, turns) in
        [("database", &*database.name, &logical[..]), ("true", "replication", &physical)]
    {
        let on = |port| {
            let mut client = replicating(port, name, kind);
            let greeting = client.greeting.iter().filter(|(tag, _)| *tag != b'K').cloned();
            let mut heard: Vec<_> = greeting.map(comparable).collect();
            heard.sort();
            heard.extend(masked(talk(&mut client, turns)));
            heard
        };
        assert_eq!(on(pgweir.port), on(direct), "{kind}");
    }
    // Everything the server is asked at login is answered by the server itself.
    let failures = [
        ("bogus", &*database.name, &[][..]),
        ("database", "no_such_database_anywhere", &[]),
        ("on", "replication", &[("work_mem", "much")]),
        ("database", &*database.name, &[("options", "-c no.such=1 -c nonsense=2")]),
    ];
    for (kind, name, more) in failures {
        let on = |port| {
            let mut parameters = vec![("replication", kind)];
            parameters.extend(more);
            let client = RawClient::connect(port).log_in(&startup(name, &parameters));
            sqlstate(&client.greeting).expect("an error")
        };
        assert_eq!(on(pgweir.port), on(direct), "{kind} {name}");
    }
    let off = replicating(pgweir.port, &database.name, "off");
    assert!(sqlstate(&off.greeting).is_none());
}

/// Starts streaming from the present end of the log, under the name of the database, and reads the beginning.
fn stream(pgweir: &Pgweir, database: &TestDatabase) -> RawClient {
    let named = startup("replication", &[("replication", "1"), ("application_name", &database.name)]);
    let mut client = RawClient::connect(pgweir.port).log_in(&named);
    // What is not flushed yet cannot be asked for.
    let flushed = database.on(0, "SELECT pg_current_wal_flush_lsn()");
    client.send(&send().query(format!("START_REPLICATION PHYSICAL {}", flushed.trim())).0);
    read(&mut client, Until::Tag(b'W'));
    client
}

#[test]
fn connections_are_shown_bounded_and_canceled() {
    let database = database();
    let pgweir = Pgweir::start(&format!("limits: {{replication_connections: 2}}\n{}", database.yaml()));
    let streaming = stream(&pgweir, &database);
    let mut logical = replicating(pgweir.port, &database.name, "database");
    for what in ["CLIENTS", "SERVERS"] {
        let shown = console(&pgweir, &format!("SHOW {what}"));
        let kinds: Vec<_> = shown.iter().filter_map(|row| row.split('|').nth(3)).collect();
        assert!(kinds.contains(&"logical") && kinds.contains(&"physical"), "{what}: {shown:?}");
    }
    assert!(pgweir.get("/metrics").1.contains("pgweir_replication_connections 2"));
    let refused = replicating(pgweir.port, &database.name, "database");
    assert_eq!(sqlstate(&refused.greeting).as_deref(), Some("53300"));

    // The key is valid for the server connection.
    let key = logical.greeting.clone();
    logical.send(&send().query("SELECT pg_sleep(20)").0);
    std::thread::sleep(Duration::from_millis(200));
    cancel(pgweir.port, &key);
    assert_eq!(sqlstate(&read(&mut logical, Until::Ready(1))).as_deref(), Some("57014"));
    assert_eq!(ask(&mut logical, "SELECT 2"), ["2"]);

    drop(streaming);
    until("the place is free again", || {
        sqlstate(&replicating(pgweir.port, &database.name, "database").greeting).is_none()
    });
    let walsenders = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND '{}' IN (datname, application_name)",
        database.name
    );
    drop(logical);
    until("the server side is gone", || database.on(0, &walsenders).trim() == "0");
}

#[test]
fn a_drain_ends_streams_and_lets_commands_finish() {
    let database = database();
    let mut pgweir = Pgweir::start(&database.yaml());
    let mut streaming = stream(&pgweir, &database);
    let mut idle = replicating(pgweir.port, &database.name, "database");
    let mut busy = replicating(pgweir.port, &database.name, "database");
    busy.send(&send().query("SELECT pg_sleep(0.7), 42").0);
    std::thread::sleep(Duration::from_millis(200));
    pgweir.signal("TERM");
    for client in [&mut streaming, &mut idle] {
        let last = read(client, Until::Closed);
        assert_eq!(sqlstate(&last).as_deref(), Some("57P01"), "{last:?}");
    }
    let last = read(&mut busy, Until::Closed);
    assert_eq!(rows(&last), ["|42"]);
    assert_eq!(sqlstate(&last).as_deref(), Some("57P01"));
    assert!(pgweir.wait(Duration::from_secs(5)).is_some_and(|status| status.success()));
}

/// The client does not read, so the drain finds the stream in the middle of a message.
#[test]
fn a_stream_hears_of_the_drain_behind_the_message_that_has_begun() {
    let database = database();
    database.on(0, "CREATE TABLE t (b text)");
    let mut pgweir = Pgweir::start(&database.yaml());
    let mut client = stream(&pgweir, &database);
    database.on(0, "INSERT INTO t SELECT repeat(md5(i::text), 60) FROM generate_series(1, 10000) i");
    std::thread::sleep(Duration::from_millis(300));
    pgweir.signal("TERM");
    let last = read(&mut client, Until::Closed);
    assert!(last.len() > 10);
    assert_eq!(sqlstate(&last).as_deref(), Some("57P01"));
    assert!(pgweir.wait(Duration::from_secs(5)).is_some_and(|status| status.success()));
}

#[test]
fn a_standby_streams_through_a_slow_network_and_a_killed_server_ends_it() {
    let database = database();
    database.on(0, "CREATE TABLE t (b text)");
    let pgweir = Pgweir::start(&database.yaml());
    let mut client = stream(&pgweir, &database);
    database.on(0, "INSERT INTO t SELECT repeat(md5(i::text), 60) FROM generate_series(1, 20000) i");
    // Nothing was read meanwhile: the server waits, pgweir does not collect.
    std::thread::sleep(Duration::from_millis(300));
    let mut received = 0;
    while received < 30_000_000 {
        let (tag, body) = client.message();
        assert_eq!(tag, b'd');
        received += body.len();
    }
    let terminate = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{}'",
        database.name
    );
    assert_eq!(support::cluster().psql(0, "postgres", &terminate).unwrap(), "t");
    let last = read(&mut client, Until::Closed);
    assert_eq!(sqlstate(&last).as_deref(), Some("57P01"), "the server's own words");
    let mut rest = Vec::new();
    assert_eq!(client.socket.read_to_end(&mut rest).unwrap_or(0), 0);
}

#[test]
fn which_server_a_physical_connection_is_for() {
    let (database, cluster) = (database(), support::cluster());
    let (primary, other) = (cluster.address(0), cluster.address(1));
    let name = &database.name;
    let users = "users:\n  app: {password: app}\nadmin: {users: [app]}\n";
    // Two databases on two servers: unclear, unless one is named.
    let pgweir = Pgweir::start(&format!(
        "databases:\n  {name}: {{primary: \"{primary}\"}}\n  elsewhere: {{primary: \"{other}\"}}\n{users}"
    ));
    let unclear = replicating(pgweir.port, "replication", "true");
    assert_eq!(sqlstate(&unclear.greeting).as_deref(), Some("3D000"));
    for (database, address) in [(&**name, &primary), ("elsewhere", &other)] {
        let mut client = replicating(pgweir.port, database, "true");
        let port = address.rsplit(':').next().unwrap();
        assert_eq!(ask(&mut client, "SHOW port"), [port]);
    }
    // The wildcard leads to one server, too.
    let pgweir = Pgweir::start(&format!("databases:\n  \"*\": {{primary: \"{primary}\"}}\n{users}"));
    let mut client = replicating(pgweir.port, "replication", "true");
    assert_eq!(ask(&mut client, "SHOW port"), [cluster.port(0).to_string()]);
    // Who may not use a database may not have its server's log.
    let pgweir = Pgweir::start(&format!(
        "databases:\n  {name}: {{primary: \"{primary}\"}}\nusers:\n  app: {{password: app, databases: []}}\n"
    ));
    let refused = replicating(pgweir.port, "replication", "true");
    assert!(sqlstate(&refused.greeting).is_some());
}
