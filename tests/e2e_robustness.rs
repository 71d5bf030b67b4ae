//! Much, long, slow, dead: what costs bounded memory and time, and harms nobody else.
//!
//! With `PGWEIR_LONG_TESTS` set, slow readers read a gigabyte.
#![allow(clippy::pedantic, clippy::unwrap_used, clippy::panic, reason = "test code outside a #[test]")]

mod support;

use std::io::Read as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use pgweir::cli::local_cluster::{LocalCluster, LocalClusterOptions};
use pgweir::protocol::ErrorFields;
use support::talk::{Turn, Until, ask, cancel, read, rows, same, send, sqlstate, startup, until};
use support::wire::{Message, RawClient};
use support::{Pgweir, sections};

/// Most memory the process has had, in MB.
fn peak_memory(pgweir: &Pgweir) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pgweir.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn large_values_and_statements() {
    let database = support::database();
    database.on(0, "CREATE TABLE big (b text)");
    let pgweir = Pgweir::start(&format!("pool: {{size: 1}}\n{}", database.yaml()));
    let megabytes_16 = vec![b'x'; 16 << 20];
    let list: Vec<_> = (0..50_000).map(|i| i.to_string()).collect();
    let list = list.join(", ");
    let nested = format!("SELECT {}1{}", "(".repeat(100), ")".repeat(100));
    let subqueries =
        format!("SELECT * FROM {}(SELECT 1) q{}", "(SELECT * FROM ".repeat(100), ") q".repeat(100));
    let long = format!("SELECT length('{}'), 1 /* {} */", "y".repeat(5 << 20), "z".repeat(5 << 20));
    let mut too_deep = "SELECT ".to_owned();
    too_deep.push_str(&"(".repeat(100_000));
    let one = |send| -> Vec<Turn> { vec![(send, Until::Ready(1))] };
    let conversations = [
        ("a row of 16 MB", one(send().query("SELECT repeat('x', 16 << 20)"))),
        (
            "in binary",
            one(send()
                .parse("", "SELECT repeat('x', 16 << 20)")
                .bind_in("", "", &[], 1)
                .execute("", 0)
                .sync()),
        ),
        (
            "a parameter of 16 MB",
            one(send().run("SELECT length($1::text), $1::text", &[&megabytes_16]).sync()),
        ),
        (
            "written and read again",
            one(send()
                .run("INSERT INTO big VALUES ($1) RETURNING b", &[&megabytes_16])
                .run("SELECT length(b) FROM big", &[])
                .run("DELETE FROM big", &[])
                .sync()),
        ),
        (
            "IN list of 50,000",
            one(send().query(format!("SELECT count(*) FROM generate_series(1, 60000) i WHERE i IN ({list})"))),
        ),
        (
            "the same, prepared",
            one(send()
                .run(format!("SELECT count(*) FROM generate_series(1, 60000) i WHERE i IN ({list})"), &[])
                .sync()),
        ),
        ("brackets in brackets", one(send().query(&nested))),
        ("queries in queries", one(send().query(&subqueries))),
        ("10 MB of query", one(send().query(&long))),
        ("more brackets than the server's stack bears", one(send().query(&too_deep))),
        ("1,600 columns", one(send().query(format!("SELECT {}", vec!["1"; 1600].join(", "))))),
        ("1,700 columns", one(send().query(format!("SELECT {}", vec!["1"; 1700].join(", "))))),
        ("10,000 statements in a string", one(send().query("SELECT 1;".repeat(10_000)))),
    ];
    for (name, turns) in &conversations {
        same(name, &database.name, support::cluster().port(0), pgweir.port, turns);
    }
}

/// Somebody asks for much and hardly reads, four ways at the same time; others go on, memory stays.
#[test]
fn slow_readers_cost_bounded_memory() {
    let long = std::env::var_os("PGWEIR_LONG_TESTS").is_some();
    let megabytes: usize = if long { 1000 } else { 60 };
    let database = support::database();
    let pgweir = Pgweir::start(&format!("pool: {{size: 8}}\n{}", database.yaml()));
    let series = format!("SELECT repeat('x', 1000) FROM generate_series(1, {megabytes} * 1000)");
    let requests = [
        send().query(&series),
        send().run(&series, &[]).sync(),
        send().query(format!("COPY ({series}) TO STDOUT")),
        // Rows of a megabyte.
        send().query(format!("SELECT repeat('x', 1000000) FROM generate_series(1, {megabytes})")),
    ];
    let mut readers: Vec<_> = requests
        .iter()
        .map(|request| {
            let mut client = RawClient::login(pgweir.port, &database.name);
            client.send(&request.0);
            client
        })
        .collect();
    let mut other = RawClient::login(pgweir.port, &database.name);
    let slowest = (0..20)
        .map(|_| {
            let begun = Instant::now();
            ask(&mut other, "SELECT 1");
            std::thread::sleep(Duration::from_millis(30));
            begun.elapsed()
        })
        .max()
        .unwrap();
    assert!(slowest < Duration::from_secs(2), "others are held up: {slowest:?}");
    // Now they read, one slower than the other.
    let counts: Vec<_> = std::thread::scope(|scope| {
        let reading = readers.iter_mut().zip(0..).map(|(client, number)| {
            scope.spawn(move || {
                let mut total = 0;
                let mut chunk = vec![0; 1 << (12 + 3 * number)];
                let mut tail = Vec::new();
                while !tail.ends_with(b"Z\0\0\0\x05I") {
                    let count = client.socket.read(&mut chunk).unwrap();
                    assert!(count > 0);
                    total += count;
                    tail.extend_from_slice(&chunk[..count]);
                    tail.drain(..tail.len().saturating_sub(6));
                }
                total
            })
        });
        let reading: Vec<_> = reading.collect();
        reading.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(counts.iter().all(|count| *count > megabytes * 1_000_000), "{counts:?}");
    let peak = peak_memory(&pgweir);
    // A debug build that has just started takes some 30 MB itself; all four answers would be 240.
    assert!(peak < 128, "{peak} MB for {megabytes} MB to each of four slow readers");
}

/// What is longer than 4 MiB comes in pieces that have gathered for a moment. It is the same, also where the server pauses
/// and fails in its middle, and where the client says more before it has all.
#[test]
fn long_results_are_the_same() {
    let database = support::database();
    let pgweir = Pgweir::start(&format!("pool: {{size: 1}}\n{}", database.yaml()));
    let rows = |count| format!("SELECT i, repeat('x', 1000) FROM generate_series(1, {count}) i");
    let pauses = "SELECT i, repeat('x', 1000), CASE WHEN i % 3000 = 0 THEN pg_sleep(0.01) END FROM generate_series(1, 12000) i";
    let fails = "SELECT 1 / (9000 - i), repeat('x', 1000) FROM generate_series(1, 12000) i";
    let copy = |what: &str| format!("COPY ({what}) TO STDOUT");
    let one = |send| -> Vec<Turn> { vec![(send, Until::Ready(1))] };
    let conversations = [
        ("rows", one(send().query(rows(12_000)))),
        ("portals", one(send().run(rows(9000), &[]).run(rows(2), &[]).sync())),
        ("COPY", one(send().query(copy(&rows(12_000))))),
        (
            "COPY in the extended protocol",
            one(send().run(copy(&rows(9000)), &[]).run("SELECT 2", &[]).sync()),
        ),
        ("pauses", one(send().query(pauses))),
        ("COPY with pauses", one(send().query(copy(pauses)))),
        ("an error", one(send().query(fails))),
        ("COPY with an error", one(send().query(copy(fails)))),
        ("several", one(send().query(format!("{}; {}; SELECT 3", rows(9000), copy(&rows(9000)))))),
        (
            "two batches at once",
            vec![(send().run(rows(9000), &[]).sync().run("SELECT 4", &[]).sync(), Until::Ready(2))],
        ),
    ];
    for (name, turns) in &conversations {
        same(name, &database.name, support::cluster().port(0), pgweir.port, turns);
    }
    // The client says more, cancels, or loses its server when it has read 30 MB: of 60, or of more than buffers hold.
    let read_from = |client: &mut RawClient, count| {
        client.send(&send().query(copy(&rows(count))).0);
        (0..30_000).for_each(|_| assert_ne!(client.message().0, b'E'));
    };
    let mut client = RawClient::login(pgweir.port, &database.name);
    read_from(&mut client, 60_000);
    client.send(&send().query("SELECT 5").0);
    let answers = client.until_ready(2);
    assert_eq!(answers.iter().filter(|(tag, _)| *tag == b'd').count(), 30_001);
    let greeting = client.greeting.clone();
    read_from(&mut client, 1_000_000);
    cancel(pgweir.port, &greeting);
    let codes = |answers: &[Message]| -> Vec<String> {
        let errors = answers.iter().filter(|(tag, _)| *tag == b'E');
        errors.map(|(_, body)| String::from_utf8_lossy(ErrorFields::read(body).code).into_owned()).collect()
    };
    assert_eq!(codes(&client.until_ready(1)), ["57014"]);
    assert_eq!(ask(&mut client, "SELECT 6"), ["6"]);
    read_from(&mut client, 1_000_000);
    let kill = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND query LIKE 'COPY%'",
        database.name
    );
    // On whatever node it reads.
    let killed =
        (0..3).map(|node| support::cluster().psql(node, "postgres", &kill).unwrap()).collect::<String>();
    assert_eq!(killed.trim(), "t");
    // PostgreSQL has no room to say why, or says it.
    let answers = client.until_ready(1);
    assert_eq!(
        answers.last().unwrap().0,
        0,
        "the session of a client whose server is gone in a result goes on"
    );
    assert!(codes(&answers).iter().all(|code| code == "57P01"), "{:?}", codes(&answers));
    assert_eq!(ask(&mut RawClient::login(pgweir.port, &database.name), "SELECT 7"), ["7"]);
}

/// COPY FROM a client that sends faster than the server takes, into a pool of one, and one that waits behind it.
#[test]
fn much_copied_in_costs_bounded_memory() {
    let database = support::database();
    database.on(0, "CREATE TABLE t (b text)");
    let pgweir = Pgweir::start(&format!("pool: {{size: 1, checkout_timeout: 30s}}\n{}", database.yaml()));
    let mut client = RawClient::login(pgweir.port, &database.name);
    let mut behind = RawClient::login(pgweir.port, &database.name);
    let line = format!("{}\n", "y".repeat(999));
    let chunk = send().copy_data(line.repeat(64));
    client.send(&send().query("COPY t FROM STDIN").0);
    read(&mut client, Until::Tag(b'G'));
    behind.send(&send().query("INSERT INTO t VALUES ('behind') RETURNING b").0);
    for _ in 0..800 {
        client.send(&chunk.0);
    }
    client.send(&send().copy_done().0);
    let answer = read(&mut client, Until::Ready(1));
    assert_eq!(answer[0], (b'C', b"COPY 51200\0".to_vec()));
    assert_eq!(rows(&read(&mut behind, Until::Ready(1))), ["behind"]);
    // Given up and gone in the middle: nothing stays, the connection serves the next.
    client.send(&send().query("COPY t FROM STDIN").bytes(&chunk.0).0);
    drop(client);
    assert_eq!(ask(&mut behind, "SELECT count(*) FROM t WHERE b LIKE 'yy%'"), ["51200"]);
    let peak = peak_memory(&pgweir);
    assert!(peak < 64, "{peak} MB");
}

/// A server that takes connections and never says a word.
#[test]
fn a_mute_server_is_given_up_in_time() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let database = support::database();
    let (name, mute_address) = (&database.name, mute.local_addr().unwrap());
    let pgweir = Pgweir::start(&format!(
        "timeouts: {{server_connect: 500ms}}\nrouting: {{failover_wait: 1s}}\ndatabases:\n  mute: {{primary: \"{mute_address}\"}}\n  {name}:\n    primary: \"{}\"\n    replicas: [\"{mute_address}\"]\nusers:\n  app: {{password: app}}\n",
        support::cluster().address(0)
    ));
    let begun = Instant::now();
    let refused = RawClient::connect(pgweir.port).log_in(&startup("mute", &[]));
    assert_eq!(sqlstate(&refused.greeting).as_deref(), Some("57P03"));
    for kind in ["database", "true"] {
        let refused = RawClient::connect(pgweir.port).log_in(&startup("mute", &[("replication", kind)]));
        assert_eq!(sqlstate(&refused.greeting).as_deref(), Some("57P03"));
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // As a replica it costs nobody anything.
    let mut client = RawClient::login(pgweir.port, name);
    for _ in 0..20 {
        assert_eq!(ask(&mut client, "SELECT 1"), ["1"]);
    }
}

/// Reads wait for whichever replica has a connection first: one whose connections are all kept holds nobody up.
#[test]
fn reads_do_not_wait_for_a_replica_that_serves_nobody() {
    let database = support::database();
    let pgweir = Pgweir::start(&format!(
        "workers: 2\npool: {{size: 2, checkout_timeout: 20s}}\nrouting: {{consistency: eventual}}\n{}",
        database.yaml()
    ));
    let mut console = RawClient::login(pgweir.port, "pgweir");
    let of_ours = |row: &String| row.contains(&format!("|{}|", database.name));
    // Connections that are lent, by replica: what tells a server from another one is asked on the primary only.
    let ports = [1, 2].map(|node| support::cluster().port(node).to_string());
    let lent = |console: &mut RawClient| {
        let servers = ask(console, "SHOW SERVERS");
        let lent: Vec<_> = servers.iter().filter(|row| of_ours(row) && row.contains("|active|")).collect();
        ports.clone().map(|port| lent.iter().filter(|row| row.contains(&format!("|{port}|"))).count())
    };
    // In a READ ONLY transaction a client keeps its replica's connection.
    let mut keepers = [Vec::new(), Vec::new()];
    for _ in 0..4 {
        let before = lent(&mut console);
        let mut keeper = RawClient::login(pgweir.port, &database.name);
        ask(&mut keeper, "BEGIN READ ONLY");
        ask(&mut keeper, "SELECT 1");
        let after = lent(&mut console);
        let place = (0..2).find(|place| after[*place] > before[*place]).unwrap();
        keepers[place].push(keeper);
    }
    assert_eq!(lent(&mut console), [2, 2]);
    let mut readers: Vec<_> = (0..12).map(|_| RawClient::login(pgweir.port, &database.name)).collect();
    let waiting = |console: &mut RawClient| -> usize {
        let pools = ask(console, "SHOW POOLS");
        let column = |row: &String| row.split('|').nth(3).unwrap().parse::<usize>().unwrap();
        pools.iter().filter(|row| row.starts_with(&format!("{}|", database.name))).map(column).sum()
    };
    for reader in &mut readers {
        reader.send(&send().query("SELECT 1").0);
    }
    until("all wait, each in one place", || waiting(&mut console) == readers.len());
    let [mut stay, go] = keepers;
    for mut keeper in go {
        ask(&mut keeper, "COMMIT");
    }
    for reader in &mut readers {
        assert_eq!(rows(&read(reader, Until::Ready(1))), ["1"]);
        for _ in 0..5 {
            assert_eq!(ask(reader, "SELECT 2"), ["2"]);
        }
    }
    // A client has its answer before others see that the connection is back.
    until("those that were lent are back", || lent(&mut console) == [2, 0] && waiting(&mut console) == 0);
    for keeper in &mut stay {
        assert_eq!(ask(keeper, "SELECT 3"), ["3"]);
        ask(keeper, "COMMIT");
    }
    until("all are back", || lent(&mut console) == [0, 0]);
}

/// Servers that die: by order, by signal, with the whole server.
#[test]
fn killed_servers_end_their_clients_only() {
    let cluster = LocalCluster::start(&LocalClusterOptions::default()).unwrap();
    let access = cluster.access();
    access.psql(0, "postgres", "CREATE DATABASE killed OWNER app").unwrap();
    let pgweir = Pgweir::start(&format!("pool: {{size: 4}}\n{}", sections(access, "killed")));
    let pid =
        |client: &mut RawClient| ask(client, "SELECT pg_backend_pid(), pg_current_xact_id()")[0].clone();
    let pid = |client: &mut RawClient| pid(client).split('|').next().unwrap().to_owned();
    let terminate = |pid: &str| {
        let done = access.psql(0, "postgres", &format!("SELECT pg_terminate_backend({pid}, 5000)")).unwrap();
        assert_eq!(done, "t");
    };
    let mut client = RawClient::login(pgweir.port, "killed");
    // Idle: nobody notices.
    let idle = pid(&mut client);
    terminate(&idle);
    assert_ne!(pid(&mut client), idle);
    // In a transaction, idle.
    ask(&mut client, "BEGIN; SELECT 1");
    terminate(&pid(&mut client));
    assert_eq!(sqlstate(&read(&mut client, Until::Closed)).as_deref(), Some("57P01"));
    // In a query, simple and extended, and in COPY.
    for batch in [
        send().query("SELECT pg_current_xact_id(), pg_sleep(30)"),
        send().run("SELECT pg_current_xact_id()", &[]).run("SELECT pg_sleep(30)", &[]).sync(),
        send().query("COPY (SELECT pg_sleep(30)) TO STDOUT"),
    ] {
        let mut client = RawClient::login(pgweir.port, "killed");
        client.send(&batch.0);
        let mut found = String::new();
        let running = "SELECT pid FROM pg_stat_activity WHERE datname = 'killed' AND query LIKE '%pg_sleep(30)%' AND state = 'active'";
        until("it runs", || {
            found = access.psql(0, "postgres", running).unwrap();
            !found.is_empty()
        });
        terminate(&found);
        assert_eq!(sqlstate(&read(&mut client, Until::Closed)).as_deref(), Some("57P01"));
        assert_eq!(ask(&mut RawClient::login(pgweir.port, "killed"), "SELECT 1"), ["1"]);
    }
    // A crash takes all backends along; each client hears so, or that the connection was lost.
    let mut sleeping: Vec<_> = (0..3).map(|_| RawClient::login(pgweir.port, "killed")).collect();
    let mut idle = RawClient::login(pgweir.port, "killed");
    let mut victim = RawClient::login(pgweir.port, "killed");
    ask(&mut victim, "BEGIN; SELECT 1");
    let victim_pid = pid(&mut victim);
    for client in &mut sleeping {
        client.send(&send().query("SELECT pg_current_xact_id(), pg_sleep(30)").0);
    }
    until("they sleep", || {
        access.psql(0, "postgres", "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)%' AND state = 'active' AND datname = 'killed'").unwrap() == "3"
    });
    assert!(std::process::Command::new("kill").args(["-9", &victim_pid]).status().unwrap().success());
    for client in sleeping.iter_mut().chain([&mut victim]) {
        let last = read(client, Until::Closed);
        let code = sqlstate(&last.into_iter().filter(|(tag, _)| *tag == b'E').collect::<Vec<_>>());
        assert!(matches!(code.as_deref(), Some("57P02" | "08006" | "57P01")), "{code:?}");
    }
    until("the server is back", || access.psql(0, "postgres", "SELECT 1").is_ok());
    // The one that held nothing lives on.
    until("its clients are served", || {
        idle.send(&send().query("SELECT 5").0);
        sqlstate(&read(&mut idle, Until::Ready(1))).is_none()
    });
    assert_eq!(ask(&mut RawClient::login(pgweir.port, "killed"), "SELECT 6"), ["6"]);
}

/// Lengths that cannot be: the end of that session, not of the process.
#[test]
fn impossible_lengths() {
    let database = support::database();
    let pgweir = Pgweir::start(&database.yaml());
    for tag in [b'Q', b'P', b'B', b'S', b'd', b'F'] {
        for length in [0_u32, 3, 0x7fff_ffff, 0xffff_ffff] {
            let mut client = RawClient::login(pgweir.port, &database.name);
            let mut bytes = vec![tag];
            bytes.extend(length.to_be_bytes());
            client.send(&bytes);
            let last = read(&mut client, Until::Closed);
            let code = sqlstate(&last);
            assert!(matches!(code.as_deref(), Some("08P01" | "54000")), "{tag} {length}: {code:?}");
        }
    }
    // Four is a message without a body; what came before is answered.
    let mut client = RawClient::login(pgweir.port, &database.name);
    client.send(&send().query("SELECT 1").bytes(b"S\0\0\0\x04").run("SELECT 2", &[]).bytes(b"Q\0\0\0\x01").0);
    assert_eq!(rows(&read(&mut client, Until::Closed)), ["1", "2"]);
    assert_eq!(ask(&mut RawClient::login(pgweir.port, &database.name), "SELECT 3"), ["3"]);
}

/// Over TLS: a slow reader, a fast writer, and a base backup.
#[test]
fn much_over_tls() {
    let database = support::database();
    database.on(0, "CREATE TABLE t (i int, b text)");
    support::cluster()
        .psql(0, "postgres", "SELECT pg_advisory_lock(5770); ALTER ROLE app REPLICATION")
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let generated = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("cert.pem"), generated.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), generated.signing_key.serialize_pem()).unwrap();
    let pgweir = Pgweir::start(&format!(
        "tls: {{client: {{mode: require, certificate: {}, key: {}}}}}\n{}",
        path("cert.pem").display(),
        path("key.pem").display(),
        database.yaml()
    ));
    let conninfo = format!(
        "host=127.0.0.1 port={} user=app password=app sslmode=require dbname={}",
        pgweir.port, database.name
    );
    let psql = |sql: &str| {
        let mut command = std::process::Command::new(support::cluster().programs.join("psql"));
        command.args(["-X", "-q", "-d", &conninfo, "-c", sql]);
        command
    };
    let piped = std::process::Stdio::piped;
    // Slow: psql passes on COPY data as it comes.
    let series = "COPY (SELECT repeat('x', 999) FROM generate_series(1, 40000)) TO STDOUT";
    let mut reading = psql(series).stdout(piped()).spawn().unwrap();
    let mut out = reading.stdout.take().unwrap();
    let mut chunk = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        let count = out.read(&mut chunk).unwrap();
        if count == 0 {
            break;
        }
        total += count;
        if total < 4_000_000 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    assert!(reading.wait().unwrap().success());
    assert_eq!(total, 40_000_000);
    // Fast.
    let mut writing = psql("COPY t FROM STDIN").stdin(piped()).spawn().unwrap();
    let mut input = writing.stdin.take().unwrap();
    for line in 0..40_000 {
        std::io::Write::write_all(&mut input, format!("{line}\t{}\n", "z".repeat(990)).as_bytes()).unwrap();
    }
    drop(input);
    assert!(writing.wait().unwrap().success());
    assert_eq!(database.on(0, "SELECT count(*), sum(i) FROM t").trim(), "40000|799980000");
    assert!(peak_memory(&pgweir) < 64);
    // A backup, with its checksums compared.
    let target = path("backup");
    let target = target.to_str().unwrap();
    let replication = conninfo.rsplit_once(" dbname").unwrap().0;
    let backup = std::process::Command::new(support::cluster().programs.join("pg_basebackup"))
        .args(["-d", replication, "-c", "fast", "-X", "fetch", "-D", target])
        .output()
        .unwrap();
    assert!(backup.status.success(), "{}", String::from_utf8_lossy(&backup.stderr));
    let verified =
        std::process::Command::new(support::cluster().programs.join("pg_verifybackup")).arg(target).output();
    assert!(verified.unwrap().status.success());
}

/// A message that does not belong into a COPY ends the session, and nothing of the COPY stays.
#[test]
fn a_query_inside_a_copy() {
    let database = support::database();
    database.on(0, "CREATE TABLE t (i int)");
    let pgweir = Pgweir::start(&format!("pool: {{size: 1}}\n{}", database.yaml()));
    let on = |port| {
        let mut client = RawClient::login(port, &database.name);
        client.send(&send().query("COPY t FROM STDIN").0);
        read(&mut client, Until::Tag(b'G'));
        client.send(&send().copy_data("1\n").query("SELECT 1").0);
        let last = read(&mut client, Until::Closed);
        assert_eq!(sqlstate(&last).as_deref(), Some("08P01"), "{last:?}");
    };
    on(support::cluster().port(0));
    on(pgweir.port);
    assert_eq!(ask(&mut RawClient::login(pgweir.port, &database.name), "SELECT count(*) FROM t"), ["0"]);
}
