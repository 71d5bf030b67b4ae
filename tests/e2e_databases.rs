//! CREATE DATABASE … TEMPLATE, DROP DATABASE and ALTER DATABASE … RENAME of databases that were in use:
//! what pgweir keeps open is in nobody's way.
#![allow(clippy::pedantic, clippy::unwrap_used, clippy::panic, reason = "test code outside a #[test]")]

mod support;

use std::time::{Duration, Instant};

use support::talk::{Until, ask, comparable, hear, read, send, sqlstate, startup, until};
use support::wire::{Message, RawClient};
use support::{Pgweir, TestDatabase};

/// The database itself, an alias of it, everything else by wildcard; connections kept open; two users.
fn front(database: &TestDatabase) -> Pgweir {
    let (cluster, name) = (support::cluster(), &database.name);
    let nodes = format!(
        "primary: \"{}\"\n    replicas: [\"{}\", \"{}\"]",
        cluster.address(0),
        cluster.address(1),
        cluster.address(2)
    );
    Pgweir::start(&format!(
        "pool: {{size: 3, min_size: 2, checkout_timeout: 15s}}\n\
         databases:\n  {name}:\n    {nodes}\n  alias:\n    {nodes}\n    database: {name}\n  \"*\":\n    {nodes}\n\
         users:\n  app: {{password: app}}\n  postgres: {{password: {}}}\n\
         health: {{user: app}}\nadmin: {{users: [app]}}\n",
        cluster.superuser_password
    ))
}

/// Everything by wildcard, without replicas, with this in front of the configuration.
fn before_the_primary(options: &str) -> Pgweir {
    let primary = support::cluster().address(0);
    Pgweir::start(&format!(
        "{options}databases:\n  \"*\": {{primary: \"{primary}\"}}\nusers:\n  app: {{password: app}}\n"
    ))
}

fn run(client: &mut RawClient, sql: &str) -> Vec<Message> {
    client.send(&send().query(sql).0);
    read(client, Until::Ready(1))
}

fn login_state(port: u16, database: &str) -> Option<String> {
    let client = RawClient::connect(port).log_in(&startup(database, &[]));
    sqlstate(&client.greeting)
}

/// Uses the database on all nodes, by all users and names.
fn use_it(pgweir: &Pgweir, name: &str) {
    for database in [name, "alias"] {
        let mut clients: Vec<_> = (0..3).map(|_| RawClient::login(pgweir.port, database)).collect();
        for client in &mut clients {
            // Reads, which go to replicas, and writes.
            client.send(&send().query("SELECT 1").query("SELECT pg_current_xact_id_if_assigned()").0);
        }
        for client in &mut clients {
            assert!(sqlstate(&read(client, Until::Ready(2))).is_none());
        }
    }
    let mut psql = std::process::Command::new(support::cluster().programs.join("psql"));
    psql.args(["-X", "-q", "-h", "127.0.0.1", "-p", &pgweir.port.to_string(), "-U", "postgres", "-d", name])
        .args(["-c", "CREATE TABLE IF NOT EXISTS of_postgres (i int); GRANT SELECT ON of_postgres TO app"])
        .env("PGPASSWORD", &support::cluster().superuser_password);
    assert!(psql.status().unwrap().success());
}

fn connections(name: &str) -> usize {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'");
    support::cluster().psql(0, "postgres", &sql).unwrap().parse().unwrap()
}

#[test]
fn a_database_that_was_used_can_be_cloned_renamed_and_dropped() {
    let database = support::database();
    let name = &database.name;
    let pgweir = front(&database);
    let mut master = RawClient::login(pgweir.port, "postgres");
    let mut connected = RawClient::login(pgweir.port, name);
    // PostgreSQL waits five seconds before it gives up: an answer much earlier says that nobody was there.
    let mut at_once = |sql: &str| {
        let begun = Instant::now();
        let answer = run(&mut master, sql);
        assert_eq!(
            sqlstate(&answer),
            None,
            "{sql}: {:?}",
            answer.into_iter().map(comparable).collect::<Vec<_>>()
        );
        assert!(begun.elapsed() < Duration::from_secs(4), "{sql} took {:?}", begun.elapsed());
    };
    for round in 0..2 {
        use_it(&pgweir, name);
        until("connections are kept", || connections(name) >= 3);
        assert_eq!(ask(&mut connected, "SELECT 1"), ["1"]);
        for clone in 1..=3 {
            at_once(&format!("CREATE DATABASE {name}_{clone} WITH TEMPLATE {name}"));
        }
        let mut client = RawClient::login(pgweir.port, &format!("{name}_1"));
        assert_eq!(ask(&mut client, "SELECT count(*) FROM of_postgres"), ["0"]);
        at_once(&format!("ALTER DATABASE {name}_1 RENAME TO {name}_4"));
        for clone in 2..=4 {
            at_once(&format!("DROP DATABASE \"{name}_{clone}\""));
        }
        use_it(&pgweir, name);
        // Its client holds no server connection, so it is in nobody's way.
        at_once(&format!("DROP DATABASE IF EXISTS {name}"));
        // A replica that has not replayed the DROP still has it.
        support::cluster().wait_caught_up(0).unwrap();
        assert_eq!(sqlstate(&run(&mut connected, "SELECT 1")).as_deref(), Some("3D000"), "round {round}");
        assert_eq!(login_state(pgweir.port, name).as_deref(), Some("3D000"));
        at_once(&format!("CREATE DATABASE {name}"));
        until("it can be used again", || sqlstate(&run(&mut connected, "SELECT 1")).is_none());
        assert!(login_state(pgweir.port, name).is_none());
    }
    let shown = ask(&mut RawClient::login(pgweir.port, "pgweir"), "SHOW CLUSTER");
    assert!(shown.iter().all(|row| !row.contains("down")), "{shown:?}");
    assert!(!pgweir.log().contains("node is down"));
}

/// A connection of the command's own pool that is being opened when it begins is in its way as well.
#[test]
fn what_the_own_pool_is_opening_is_closed_too() {
    let database = support::database();
    let name = &database.name;
    let pgweir = before_the_primary("");
    let mut own = RawClient::login(pgweir.port, name);
    let mut others: Vec<_> = (0..4).map(|_| RawClient::login(pgweir.port, name)).collect();
    for delay in 0..4 {
        // One of them has the connection that is there, and the others need more.
        for other in &mut others {
            other.send(&send().query("SELECT pg_sleep(0.05)").0);
        }
        std::thread::sleep(Duration::from_millis(delay));
        own.send(&send().query(format!("CREATE DATABASE {name}_own TEMPLATE {name}")).0);
        let clone = read(&mut own, Until::Ready(1));
        assert!(sqlstate(&clone).is_none(), "after {delay} ms: {clone:?}");
        for other in &mut others {
            assert!(sqlstate(&read(other, Until::Ready(1))).is_none());
        }
        assert_eq!(sqlstate(&run(&mut own, &format!("DROP DATABASE {name}_own"))), None);
    }
}

/// Who is in a template for longer than PostgreSQL waits is in the way of the first try only. Who stays is refused with
/// PostgreSQL's own error, told once.
#[test]
fn a_clone_is_tried_again() {
    let database = support::database();
    let name = &database.name;
    let pgweir = before_the_primary("admin: {users: [app]}\n");
    let (stays, other) = (support::database(), support::database());
    let direct = |name: &str| RawClient::login(support::cluster().port(0), name);
    let (leaves, _stays) = ([direct(name), direct(&other.name)], direct(&stays.name));
    let [mut simple, mut extended, mut refused, mut several] =
        [(); 4].map(|()| RawClient::login(pgweir.port, "postgres"));
    let clone = |of: &str, number: u32| format!("CREATE DATABASE {name}_{number} TEMPLATE {of}");
    let begun = Instant::now();
    simple.send(&send().query(clone(name, 1)).0);
    extended.send(&send().parse("s", clone(&other.name, 2)).bind("", "s", &[]).execute("", 0).sync().0);
    let pipeline = send().run(clone("template0", 4), &[]).run(clone(&stays.name, 5), &[]).sync();
    several.send(&pipeline.0);
    refused.send(&send().query(clone(&stays.name, 3)).0);
    std::thread::sleep(Duration::from_millis(6500));
    drop(leaves);
    let heard = |client: &mut RawClient| hear(client, Until::Ready(1));
    assert_eq!(heard(&mut simple), ["C CREATE DATABASE\\0", "Z I"]);
    assert_eq!(heard(&mut extended), ["1 ", "2 ", "C CREATE DATABASE\\0", "Z I"]);
    let postgresql = format!(
        "E  55006 | source database \"{}\" is being accessed by other users | There is 1 other session using the database. | ",
        stays.name
    );
    assert_eq!(heard(&mut refused), [&*postgresql, "Z I"]);
    assert!(begun.elapsed() > Duration::from_secs(9), "{:?}", begun.elapsed());
    // One of them was created: they do not run again.
    let told = heard(&mut several);
    assert_eq!(told[..3], ["1 ", "2 ", "C CREATE DATABASE\\0"]);
    assert_eq!(told[told.len() - 2..], [&*postgresql, "Z I"]);
    // The name that was given twice to the statement is known once.
    extended.send(&send().parse("s", "SELECT 1").sync().0);
    assert_eq!(sqlstate(&read(&mut extended, Until::Ready(1))).as_deref(), Some("42P05"));
    let routes = ask(&mut RawClient::login(pgweir.port, "pgweir"), "SHOW ROUTES");
    assert!(routes.iter().any(|row| row.contains("retried_clone")), "{routes:?}");
    for number in [1, 2, 4] {
        assert_eq!(sqlstate(&run(&mut simple, &format!("DROP DATABASE {name}_{number}"))), None);
    }
}

#[test]
fn in_the_extended_protocol_and_in_session_mode_too() {
    let database = support::database();
    let name = &database.name;
    let pgweir = before_the_primary("pool: {size: 2, min_size: 2, mode: session}\n");
    let mut user = RawClient::login(pgweir.port, name);
    assert_eq!(ask(&mut user, "SELECT 1"), ["1"]);
    drop(user);
    let mut master = RawClient::login(pgweir.port, "postgres");
    for sql in [format!("CREATE DATABASE {name}_x TEMPLATE = {name}"), format!("DROP DATABASE {name}_x")] {
        let begun = Instant::now();
        master.send(&send().run(&sql, &[]).sync().0);
        assert_eq!(sqlstate(&read(&mut master, Until::Ready(1))), None, "{sql}");
        assert!(begun.elapsed() < Duration::from_secs(4));
    }
}

#[test]
fn who_uses_a_database_is_in_the_way_as_without_us() {
    let database = support::database();
    let name = &database.name;
    let pgweir = front(&database);
    let mut user = RawClient::login(pgweir.port, name);
    ask(&mut user, "BEGIN; SELECT 1");
    ask(&mut user, "SELECT pg_current_xact_id()");
    let mut waiting = RawClient::login(pgweir.port, name);
    let mut master = RawClient::login(pgweir.port, "postgres");
    master.send(&send().query(format!("DROP DATABASE {name}")).0);
    std::thread::sleep(Duration::from_millis(300));
    // Meanwhile others wait, and are served when it is over.
    waiting.send(&send().query("SELECT 7").0);
    let heard = hear(&mut master, Until::Ready(1));
    let postgresql = format!(
        "E  55006 | database \"{name}\" is being accessed by other users | There is 1 other session using the database. | "
    );
    assert_eq!(heard, [&*postgresql, "Z I"]);
    let answer = read(&mut waiting, Until::Ready(1));
    assert!(sqlstate(&answer).is_none(), "{answer:?}");
    ask(&mut user, "COMMIT");
    // Oneself is in the way of dropping, not of cloning.
    let own = run(&mut waiting, &format!("DROP DATABASE {name}"));
    assert_eq!(sqlstate(&own).as_deref(), Some("55006"));
    let clone = run(&mut waiting, &format!("CREATE DATABASE {name}_own TEMPLATE {name}"));
    assert_eq!(sqlstate(&clone), None);
    assert_eq!(sqlstate(&run(&mut waiting, &format!("DROP DATABASE {name}_own"))), None);
}
