//! A sharded database through pgweir: statements go to the shard of their key, transactions stay on theirs, and
//! what no shard can answer is refused.
#![allow(clippy::pedantic, clippy::unwrap_used, clippy::panic, reason = "test code outside a #[test]")]

mod support;

use pgweir::cli::local_cluster::{LocalCluster, LocalClusterOptions};
use support::talk::{Until, ask, read, rows, send, sqlstate, startup};
use support::wire::{Message, RawClient};
use support::{Pgweir, TestDatabase};

/// Two shards in databases of their own, with replicas: `event` and `note` are sharded, `country` is everywhere.
struct Sharded {
    shards: [TestDatabase; 2],
    pgweir: Pgweir,
}

const TABLES: &str = "CREATE TABLE event (tenant_id bigint, id int, name text, PRIMARY KEY (tenant_id, id)); \
    CREATE TABLE note (tenant_id bigint, event_id int, text text); \
    CREATE TABLE country (code text PRIMARY KEY, name text); \
    CREATE TABLE stray (i int); \
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT ALL ON SCHEMA public TO app;";

/// The keys of shard 0 and 1 that are used here, by PostgreSQL's own hash.
const ZERO: [i64; 3] = [1, 2, 12];
const ONE: [i64; 3] = [3, 5, 6];

fn sharded() -> Sharded {
    sharded_with("", "bigint")
}

/// The same with something else on the second shard, or another declaration.
fn sharded_with(on_second: &str, key_type: &str) -> Sharded {
    let cluster = support::cluster();
    let shards = [support::database(), support::database()];
    for shard in &shards {
        shard.on(0, TABLES);
    }
    shards[1].on(0, on_second);
    let shard = |database: &TestDatabase| {
        format!(
            "{{primary: \"{}\", replicas: [\"{}\", \"{}\"], database: {}}}",
            cluster.address(0),
            cluster.address(1),
            cluster.address(2),
            database.name
        )
    };
    let yaml = format!(
        "pool: {{size: 4}}\ndatabases:\n  events:\n    shards: [{}, {}]\n    sharded_tables:\n      \
         - {{tables: [event, note, \"event_*\"], column: tenant_id, type: {key_type}, function: hash}}\n    \
         everywhere_tables: [country]\nusers:\n  app: {{password: app}}\nadmin: {{users: [app]}}\n",
        shard(&shards[0]),
        shard(&shards[1])
    );
    let pgweir = Pgweir::start(&yaml);
    Sharded { shards, pgweir }
}

/// Two shards without replicas, with tables of the test's own.
fn two_shards(on_each: &str, tables: &str) -> Sharded {
    let shards = [support::database(), support::database()];
    let primary = support::cluster().address(0);
    let [one, other] = shards.each_ref().map(|shard| {
        shard.on(0, on_each);
        format!("{{primary: \"{primary}\", database: {}}}", shard.name)
    });
    let pgweir = Pgweir::start(&format!(
        "databases:\n  events:\n    shards: [{one}, {other}]\n    {tables}\nusers:\n  app: {{password: app}}\n"
    ));
    Sharded { shards, pgweir }
}

impl Sharded {
    fn client(&self) -> RawClient {
        RawClient::login(self.pgweir.port, "events")
    }

    /// What each shard has, asked directly.
    fn direct(&self, sql: &str) -> [String; 2] {
        [self.shards[0].on(0, sql), self.shards[1].on(0, sql)]
    }
}

fn run(client: &mut RawClient, sql: &str) -> Vec<Message> {
    client.send(&send().query(sql).0);
    read(client, Until::Ready(1))
}

fn fine(client: &mut RawClient, sql: &str) -> Vec<String> {
    let answer = run(client, sql);
    assert_eq!(sqlstate(&answer), None, "{sql}: {answer:?}");
    rows(&answer)
}

fn status(answer: &[Message]) -> u8 {
    answer.last().unwrap().1[0]
}

/// The message of an error, and its SQLSTATE.
fn error(answer: &[Message]) -> String {
    let (_, body) =
        answer.iter().find(|(tag, _)| *tag == b'E').unwrap_or_else(|| panic!("no error: {answer:?}"));
    let field = |kind: u8| {
        let mut fields = body.split(|byte| *byte == 0);
        let found = fields.find(|field| field.first() == Some(&kind));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
    };
    format!("{} {}", field(b'C'), field(b'M'))
}

#[test]
fn the_keys_used_here_are_where_postgresql_puts_them() {
    let database = support::database();
    database.on(0, "CREATE TABLE p (k bigint) PARTITION BY HASH (k)");
    for (keys, remainder) in [(ZERO, 0), (ONE, 1)] {
        for key in keys {
            let sql =
                format!("SELECT satisfies_hash_partition('p'::regclass, 2, {remainder}, {key}::bigint)");
            assert_eq!(database.on(0, &sql), "t", "{key}");
        }
    }
}

#[test]
fn rows_go_to_the_shard_of_their_key_and_come_back() {
    let sharded = sharded();
    let mut client = sharded.client();
    for key in ZERO.into_iter().chain(ONE) {
        fine(&mut client, &format!("INSERT INTO event (tenant_id, id, name) VALUES ({key}, 1, 'of {key}')"));
    }
    let keys = "SELECT string_agg(tenant_id::text, ' ' ORDER BY tenant_id) FROM event";
    assert_eq!(sharded.direct(keys), ["1 2 12", "3 5 6"]);
    for key in ZERO.into_iter().chain(ONE) {
        let sql = format!("SELECT name FROM event WHERE tenant_id = {key}");
        assert_eq!(fine(&mut client, &sql), [format!("of {key}")]);
    }
    fine(&mut client, "UPDATE event SET name = 'new' WHERE tenant_id = 3");
    assert_eq!(fine(&mut client, "SELECT name FROM event WHERE tenant_id = 3"), ["new"]);
    fine(&mut client, "DELETE FROM event WHERE tenant_id = 3 AND id = 1");
    assert_eq!(sharded.direct(keys), ["1 2 12", "5 6"]);
}

#[test]
fn a_prepared_statement_changes_shard_with_its_key_in_one_pipeline() {
    let sharded = sharded();
    let mut client = sharded.client();
    let insert = "INSERT INTO event (tenant_id, id, name) VALUES ($1, $2, $3)";
    let select = "SELECT name FROM event WHERE tenant_id = $1";
    client.send(&send().parse("i", insert).parse("s", select).sync().0);
    assert_eq!(sqlstate(&read(&mut client, Until::Ready(1))), None);
    let mut pipeline = send();
    for key in [1, 2, 12, 3, 5, 6] {
        let key = key.to_string();
        pipeline = pipeline.bind("", "i", &[key.as_bytes(), b"1", key.as_bytes()]).execute("", 0).sync();
        pipeline = pipeline.bind("", "s", &[key.as_bytes()]).execute("", 0).sync();
    }
    client.send(&pipeline.0);
    let answer = read(&mut client, Until::Ready(12));
    assert_eq!(rows(&answer), ["1", "2", "12", "3", "5", "6"]);
    let keys = "SELECT string_agg(tenant_id::text, ' ' ORDER BY tenant_id) FROM event";
    assert_eq!(sharded.direct(keys), ["1 2 12", "3 5 6"]);
    // In binary, and two shards between two Syncs, which is one transaction.
    let both = send()
        .raw(b'B', b"\0s\0\0\x01\0\x01\0\x01\0\0\0\x08\0\0\0\0\0\0\0\x03\0\0")
        .execute("", 0)
        .sync()
        .bind("", "s", &[b"1"])
        .execute("", 0)
        .bind("", "s", &[b"3"])
        .execute("", 0)
        .sync();
    client.send(&both.0);
    let answer = read(&mut client, Until::Ready(2));
    assert_eq!(rows(&answer), ["3"], "{answer:?}");
    assert_eq!(error(&answer), "0A000 the statement has keys of several shards");
}

#[test]
fn a_transaction_belongs_to_the_shard_of_its_first_key() {
    let sharded = sharded();
    let mut client = sharded.client();
    for (mine, other) in [(1, 3), (3, 1)] {
        // What needs no key binds it to nothing, wherever it has run.
        fine(&mut client, "BEGIN");
        fine(&mut client, "SET LOCAL work_mem = '5MB'");
        assert!(fine(&mut client, "SELECT code FROM country").is_empty());
        fine(&mut client, "SAVEPOINT a");
        assert_eq!(fine(&mut client, "SHOW work_mem"), ["5MB"]);
        fine(&mut client, &format!("INSERT INTO event (tenant_id, id) VALUES ({mine}, 7)"));
        assert_eq!(fine(&mut client, "SHOW work_mem"), ["5MB"], "repeated on the shard");
        fine(&mut client, "ROLLBACK TO a");
        assert!(fine(&mut client, &format!("SELECT id FROM event WHERE tenant_id = {mine}")).is_empty());
        fine(&mut client, &format!("INSERT INTO event (tenant_id, id) VALUES ({mine}, 8)"));
        let answer = run(&mut client, &format!("SELECT id FROM event WHERE tenant_id = {other}"));
        let (here, there) = if mine == 1 { (0, 1) } else { (1, 0) };
        assert_eq!(
            error(&answer),
            format!("0A000 the transaction belongs to shard {here}, and the statement to shard {there}")
        );
        assert_eq!(status(&answer), b'E');
        assert_eq!(sqlstate(&run(&mut client, "SELECT 1")).as_deref(), Some("25P02"));
        fine(&mut client, "ROLLBACK");
        assert!(fine(&mut client, &format!("SELECT id FROM event WHERE tenant_id = {mine}")).is_empty());
        assert_eq!(fine(&mut client, "SHOW work_mem"), ["4MB"]);
        fine(&mut client, "BEGIN");
        fine(&mut client, &format!("INSERT INTO event (tenant_id, id) VALUES ({mine}, 9)"));
        fine(&mut client, &format!("INSERT INTO note (tenant_id, event_id) VALUES ({mine}, 9)"));
        fine(&mut client, "COMMIT");
        let joined = format!("SELECT id FROM event JOIN note USING (tenant_id) WHERE tenant_id = {mine}");
        assert_eq!(fine(&mut client, &joined), ["9"]);
    }
}

#[test]
fn a_snapshot_keeps_a_transaction_where_it_was_taken() {
    let sharded = sharded();
    let mut client = sharded.client();
    for begin in ["BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN"] {
        let now = if begin == "BEGIN" { "SELECT now()" } else { "SELECT code FROM country" };
        let mut refused = 0;
        for key in [1, 3] {
            fine(&mut client, begin);
            fine(&mut client, now);
            refused += usize::from(
                sqlstate(&run(&mut client, &format!("SELECT id FROM event WHERE tenant_id = {key}")))
                    .is_some(),
            );
            fine(&mut client, "ROLLBACK");
            fine(&mut client, &format!("SELECT id FROM event WHERE tenant_id = {key}"));
        }
        assert!(refused > 0, "{begin}");
    }
}

#[test]
fn what_no_shard_can_answer_is_refused_and_nothing_else_happens() {
    let sharded = sharded();
    let mut client = sharded.client();
    for (sql, message) in [
        (
            "SELECT * FROM event",
            "table \"event\" is sharded by \"tenant_id\", and the statement does not say which",
        ),
        (
            "DELETE FROM event",
            "table \"event\" is sharded by \"tenant_id\", and the statement does not say which",
        ),
        ("SELECT * FROM stray", "table \"stray\" is not declared in this sharded database"),
        (
            "UPDATE event SET tenant_id = 3 WHERE tenant_id = 1",
            "the sharding key \"tenant_id\" of table \"event\" cannot be updated",
        ),
        ("SELECT * FROM event WHERE tenant_id IN (1, 3)", "the statement has keys of several shards"),
        ("LISTEN x", "LISTEN is not supported in a sharded database"),
        ("CREATE TEMP TABLE t (i int)", "what stays in one session is not supported in a sharded database"),
        ("CREATE DATABASE x", "a command for one server is not supported in a sharded database"),
        ("COMMIT PREPARED 'x'", "two-phase commit is not supported in a sharded database"),
        ("SET pgweir.shard = 2", "invalid value for parameter \"pgweir.shard\": \"2\""),
    ] {
        let answer = run(&mut client, sql);
        let code = if sql.starts_with("SET") { "22023" } else { "0A000" };
        assert_eq!(error(&answer), format!("{code} {message}"), "{sql}");
        assert_eq!(status(&answer), b'I');
    }
    assert_eq!(sharded.direct("SELECT count(*) FROM event"), ["0", "0"]);
    let (_, metrics) = sharded.pgweir.get("/metrics");
    assert!(
        metrics.contains("pgweir_shard_refusals_total{database=\"events\",reason=\"no_key\"} 2"),
        "{metrics}"
    );
    // In an open transaction it fails, as with any error.
    fine(&mut client, "BEGIN");
    let answer = run(&mut client, "SELECT * FROM event");
    assert_eq!((sqlstate(&answer).as_deref(), status(&answer)), (Some("0A000"), b'E'));
    assert_eq!(sqlstate(&run(&mut client, "SELECT 1")).as_deref(), Some("25P02"));
    fine(&mut client, "ROLLBACK");
    // And in the extended protocol the rest is skipped to the Sync.
    client.send(
        &send().run("SELECT * FROM event", &[]).run("SELECT 2", &[]).sync().run("SELECT 3", &[]).sync().0,
    );
    let answer = read(&mut client, Until::Ready(2));
    assert_eq!((sqlstate(&answer).as_deref(), rows(&answer)), (Some("0A000"), vec!["3".to_owned()]));
}

#[test]
fn a_shard_can_be_chosen() {
    let sharded = sharded();
    sharded.shards[0].on(0, "INSERT INTO stray VALUES (0)");
    sharded.shards[1].on(0, "INSERT INTO stray VALUES (1)");
    let mut client = sharded.client();
    let stray = "SELECT i FROM stray";
    for shard in [0, 1, 0] {
        let shown = [shard.to_string()];
        assert_eq!(fine(&mut client, &format!("/* pgweir: shard={shard} */ {stray}")), shown);
        fine(&mut client, &format!("SET pgweir.shard = {shard}"));
        assert_eq!(fine(&mut client, stray), shown);
        assert_eq!(fine(&mut client, "SHOW pgweir.shard"), shown);
        fine(&mut client, "RESET pgweir.shard");
        assert_eq!(sqlstate(&run(&mut client, stray)).as_deref(), Some("0A000"));
        let key = if shard == 0 { 12 } else { 5 };
        assert_eq!(fine(&mut client, &format!("/* pgweir: key={key} */ {stray}")), shown);
        fine(&mut client, &format!("SET pgweir.sharding_key TO '{key}'"));
        assert_eq!(fine(&mut client, stray), shown);
        fine(&mut client, "RESET pgweir.sharding_key");
        // For one transaction.
        fine(&mut client, "BEGIN");
        fine(&mut client, &format!("SET LOCAL pgweir.shard = {shard}"));
        assert_eq!(fine(&mut client, stray), shown);
        fine(&mut client, "COMMIT");
        assert_eq!(sqlstate(&run(&mut client, stray)).as_deref(), Some("0A000"));
        let mut other = RawClient::connect(sharded.pgweir.port)
            .log_in(&startup("events", &[("options", &format!("-c pgweir.shard={shard}"))]));
        assert_eq!(fine(&mut other, stray), shown);
    }
    // A key that says otherwise is no choice.
    fine(&mut client, "SET pgweir.shard = 0");
    let answer = run(&mut client, "SELECT * FROM event WHERE tenant_id = 3");
    assert_eq!(error(&answer), "0A000 shard 0 was chosen, and the statement's key belongs to shard 1");
}

#[test]
fn session_state_goes_with_the_client_from_shard_to_shard() {
    let sharded = sharded();
    let mut client = sharded.client();
    fine(&mut client, "SET search_path = public, pg_catalog");
    fine(&mut client, "SET statement_timeout = '12s'");
    for key in [1, 3, 1, 3] {
        fine(&mut client, &format!("SELECT * FROM event WHERE tenant_id = {key}"));
        assert_eq!(fine(&mut client, "SHOW statement_timeout"), ["12s"]);
        let both = format!(
            "SELECT current_setting('search_path') FROM event RIGHT JOIN country ON true WHERE tenant_id = {key}"
        );
        fine(&mut client, &both);
        fine(
            &mut client,
            &format!(
                "INSERT INTO note (tenant_id, text) VALUES ({key}, current_setting('statement_timeout'))"
            ),
        );
    }
    assert_eq!(sharded.direct("SELECT DISTINCT text FROM note"), ["12s", "12s"]);
}

#[test]
fn reads_go_to_replicas_and_never_miss_a_write_of_their_shard() {
    let sharded = sharded();
    let mut writer = sharded.client();
    let mut reader = sharded.client();
    for n in 0..60 {
        for key in [1, 3] {
            fine(&mut writer, &format!("INSERT INTO note (tenant_id, event_id) VALUES ({key}, {n})"));
            let sql = format!("SELECT max(event_id) FROM note WHERE tenant_id = {key}");
            assert_eq!(fine(&mut reader, &sql), [n.to_string()]);
        }
    }
    let mut console = RawClient::login(sharded.pgweir.port, "pgbouncer");
    support::talk::until("replicas serve reads of both shards", || {
        for key in [1, 3] {
            fine(&mut reader, &format!("SELECT id FROM event WHERE tenant_id = {key}"));
        }
        let routes = ask(&mut console, "SHOW ROUTES");
        ["|0", "|1"]
            .iter()
            .all(|shard| routes.iter().any(|row| row.starts_with("events|replica|") && row.ends_with(shard)))
    });
    let nodes = ask(&mut console, "SHOW CLUSTER");
    assert_eq!(nodes.iter().filter(|row| row.starts_with("events|1|")).count(), 3, "{nodes:?}");
    let (_, metrics) = sharded.pgweir.get("/metrics");
    assert!(metrics.contains("pgweir_routes_total{database=\"events\",shard=\"1\""), "{metrics}");
}

#[test]
fn what_is_for_all_shards_runs_on_each_of_them() {
    let sharded = sharded();
    let mut client = sharded.client();
    fine(&mut client, "CREATE TABLE event_more (tenant_id bigint, x int)");
    fine(&mut client, "ALTER TABLE event ADD COLUMN extra int DEFAULT 5");
    fine(&mut client, "VACUUM event");
    fine(&mut client, "CREATE INDEX CONCURRENTLY ON event (extra)");
    fine(&mut client, "INSERT INTO country VALUES ('de', 'Germany'), ('fr', 'France')");
    assert_eq!(
        fine(&mut client, "UPDATE country SET name = 'Frankreich' WHERE code = 'fr' RETURNING code"),
        ["fr"]
    );
    let found = "SELECT to_regclass('event_more') IS NOT NULL, \
        (SELECT count(*) FROM pg_indexes WHERE tablename = 'event'), (SELECT string_agg(name, ' ' ORDER BY code) FROM country)";
    assert_eq!(sharded.direct(found), ["t|2|Germany Frankreich", "t|2|Germany Frankreich"]);
    // The extended protocol, named and unnamed.
    client.send(
        &send()
            .parse("c", "INSERT INTO country (code, name) VALUES ($1, $2)")
            .describe(b'S', "c")
            .sync()
            .bind("", "c", &[b"it", b"Italy"])
            .describe(b'P', "")
            .execute("", 0)
            .sync()
            .run("DELETE FROM country WHERE code = $1 RETURNING name", &[b"de"])
            .sync()
            .0,
    );
    let answer = read(&mut client, Until::Ready(3));
    let tags: String = answer.iter().map(|(tag, _)| *tag as char).collect();
    assert_eq!(tags, "1tnZ2nCZ12DCZ", "{answer:?}");
    assert_eq!(rows(&answer), ["Germany"]);
    assert_eq!(sharded.direct("SELECT string_agg(code, ' ' ORDER BY code) FROM country"), ["fr it", "fr it"]);
}

#[test]
fn what_fails_on_one_shard_happens_on_none() {
    let sharded = sharded();
    sharded.shards[1].on(0, "INSERT INTO country VALUES ('xx', 'only here')");
    sharded.shards[1].on(0, "CREATE TABLE taken (i int)");
    let mut client = sharded.client();
    let answer = run(&mut client, "INSERT INTO country VALUES ('xx', 'new')");
    assert_eq!(sqlstate(&answer).as_deref(), Some("23505"));
    assert!(String::from_utf8_lossy(&answer[0].1).contains("\0Won shard 1\0"), "{answer:?}");
    assert_eq!(status(&answer), b'I');
    assert_eq!(sqlstate(&run(&mut client, "CREATE TABLE taken (i int)")).as_deref(), Some("42P07"));
    assert_eq!(sharded.direct("SELECT to_regclass('taken') IS NULL"), ["t", "f"]);
    let answer = run(&mut client, "DELETE FROM country");
    assert_eq!(error(&answer), "55000 shards 0 and 1 give different answers");
    assert_eq!(sharded.direct("SELECT count(*) FROM country"), ["0", "1"]);
    for sql in [
        "INSERT INTO country VALUES ('a', now()::text)",
        "UPDATE country SET name = gen_random_uuid()::text",
        "INSERT INTO country SELECT name, name FROM event WHERE tenant_id = 1",
        "INSERT INTO country VALUES ('a', 'a'); INSERT INTO event (tenant_id, id) VALUES (1, 1)",
        "BEGIN; CREATE TABLE t (i int); COMMIT",
    ] {
        assert_eq!(sqlstate(&run(&mut client, sql)).as_deref(), Some("0A000"), "{sql}");
    }
    // A deferred constraint that fails at the end, on the second shard only.
    for (shard, target) in sharded.shards.iter().zip(["{x}", "{}"]) {
        shard.on(
            0,
            "ALTER TABLE country ADD COLUMN parent text REFERENCES country DEFERRABLE INITIALLY DEFERRED",
        );
        shard.on(0, &format!("INSERT INTO country SELECT unnest('{target}'::text[])"));
    }
    fine(&mut client, "BEGIN");
    fine(&mut client, "INSERT INTO country VALUES ('y', 'y', 'x')");
    let answer = run(&mut client, "COMMIT");
    assert_eq!((sqlstate(&answer).as_deref(), status(&answer)), (Some("23503"), b'I'));
    assert_eq!(sharded.direct("SELECT count(*) FROM country WHERE code = 'y'"), ["0", "0"]);
}

#[test]
fn a_transaction_on_all_shards() {
    let sharded = sharded();
    let mut client = sharded.client();
    // Begun on one shard, with a savepoint; then on all.
    fine(&mut client, "BEGIN");
    fine(&mut client, "SET LOCAL work_mem = '6MB'");
    fine(&mut client, "SAVEPOINT a");
    fine(&mut client, "INSERT INTO event (tenant_id, id) VALUES (3, 1)");
    fine(&mut client, "CREATE TABLE event_new (tenant_id bigint, x int)");
    // Each key on its shard now.
    for key in [1, 3] {
        fine(&mut client, &format!("INSERT INTO event_new (tenant_id, x) VALUES ({key}, {key})"));
        assert_eq!(
            fine(&mut client, &format!("SELECT x FROM event_new WHERE tenant_id = {key}")),
            [key.to_string()]
        );
    }
    assert_eq!(fine(&mut client, "SHOW work_mem"), ["6MB"]);
    assert_eq!(fine(&mut client, "SELECT id FROM event WHERE tenant_id = 3"), ["1"]);
    for key in [1, 3] {
        fine(
            &mut client,
            &format!(
                "DECLARE \"c{key}\" NO SCROLL CURSOR FOR SELECT x FROM event_new WHERE tenant_id = {key}"
            ),
        );
        assert_eq!(fine(&mut client, &format!("FETCH FORWARD 2 FROM \"c{key}\"")), [key.to_string()]);
        fine(&mut client, &format!("CLOSE \"c{key}\""));
    }
    fine(&mut client, "SAVEPOINT b");
    let answer = run(&mut client, "SELECT * FROM event");
    assert_eq!((sqlstate(&answer).as_deref(), status(&answer)), (Some("0A000"), b'E'));
    assert_eq!(sqlstate(&run(&mut client, "SELECT 1")).as_deref(), Some("25P02"));
    fine(&mut client, "ROLLBACK TO b");
    fine(&mut client, "INSERT INTO country VALUES ('de', 'Germany')");
    client.send(
        &send()
            .parse("d", "SELECT 1")
            .sync()
            .query("DEALLOCATE d")
            .run("SELECT code FROM country", &[])
            .sync()
            .0,
    );
    assert_eq!(rows(&read(&mut client, Until::Ready(3))), ["de"]);
    let answer = run(&mut client, "COMMIT");
    assert_eq!((sqlstate(&answer), status(&answer)), (None, b'I'));
    assert_eq!(
        sharded.direct("SELECT count(*), (SELECT count(*) FROM country) FROM event_new"),
        ["1|1", "1|1"]
    );
    assert_eq!(fine(&mut client, "SHOW work_mem"), ["4MB"]);
    // And back to where it was.
    fine(&mut client, "BEGIN");
    fine(&mut client, "DROP TABLE event_new");
    fine(&mut client, "SAVEPOINT c");
    fine(&mut client, "DELETE FROM country");
    fine(&mut client, "ROLLBACK TO SAVEPOINT c");
    assert_eq!(fine(&mut client, "SELECT code FROM country"), ["de"]);
    let answer = run(&mut client, "ROLLBACK");
    assert_eq!((sqlstate(&answer), status(&answer)), (None, b'I'));
    assert_eq!(
        sharded.direct("SELECT count(*), (SELECT count(*) FROM country) FROM event_new"),
        ["1|1", "1|1"]
    );
    // In failure COMMIT rolls back.
    fine(&mut client, "BEGIN");
    fine(&mut client, "DELETE FROM country");
    assert!(sqlstate(&run(&mut client, "DELETE FROM country WHERE nothing")).is_some());
    let answer = run(&mut client, "COMMIT");
    assert_eq!(answer[0], (b'C', b"ROLLBACK\0".to_vec()));
    assert_eq!(sharded.direct("SELECT count(*) FROM country"), ["1", "1"]);
    // Whatever comes between: a Sync alone, a Parse, a refused INSERT.
    fine(&mut client, "BEGIN");
    fine(&mut client, "DELETE FROM country");
    client.send(
        &send().run("DELETE FROM country WHERE nothing", &[]).sync().sync().parse("p", "SELECT 1").sync().0,
    );
    let answer = read(&mut client, Until::Ready(3));
    assert_eq!((sqlstate(&answer).as_deref(), status(&answer)), (Some("42703"), b'E'));
    assert!(
        sqlstate(&run(&mut client, "INSERT INTO event (tenant_id, id) VALUES (1, 50), (3, 50)")).is_some()
    );
    assert_eq!(run(&mut client, "COMMIT")[0], (b'C', b"ROLLBACK\0".to_vec()));
    assert_eq!(sharded.direct("SELECT count(*) FROM country"), ["1", "1"]);
    // Server connections are as clean as before, and there are as many.
    for key in [1, 3] {
        assert_eq!(
            fine(&mut client, &format!("SELECT count(*) FROM event WHERE tenant_id = {key}")).len(),
            1
        );
    }
    let mut console = RawClient::login(sharded.pgweir.port, "pgbouncer");
    assert!(ask(&mut console, "SHOW PINS").is_empty());
}

#[test]
fn what_makes_no_sense_fails_in_a_transaction_on_all_shards_too() {
    let sharded = sharded();
    let mut client = sharded.client();
    let sync = b"S\0\0\0\x05\0";
    let parse = b"P\0\0\0\x06\0x";
    let query = b"Q\0\0\0\x05x";
    let parse_and_sync = send().bytes(parse).sync().0;
    for message in [&sync[..], &parse_and_sync, query] {
        fine(&mut client, "BEGIN");
        fine(&mut client, "INSERT INTO country VALUES ('x', 'nowhere')");
        for _ in 0..2 {
            client.send(message);
            let answer = read(&mut client, Until::Ready(1));
            assert_eq!((error(&answer).as_str(), status(&answer)), ("08P01 invalid message format", b'E'));
        }
        fine(&mut client, "COMMIT");
        assert_eq!(sharded.direct("SELECT count(*) FROM country"), ["0", "0"]);
    }
    // A Sync that ends the skipping behind what was refused before any server saw it.
    client.send(&send().run("SELECT count(*) FROM event", &[]).flush().0);
    let refused = read(&mut client, Until::Tag(b'E'));
    assert_eq!(sqlstate(&refused).as_deref(), Some("0A000"));
    client.send(sync);
    let answer = read(&mut client, Until::Ready(1));
    assert_eq!((error(&answer).as_str(), status(&answer)), ("08P01 invalid message format", b'I'));
    fine(&mut client, "SELECT 1");
}

#[test]
fn settings_made_in_a_transaction_on_all_shards_are_the_clients() {
    let sharded = sharded();
    let mut client = sharded.client();
    fine(&mut client, "BEGIN");
    fine(&mut client, "INSERT INTO country VALUES ('x', 'x')");
    fine(&mut client, "SET work_mem = '7MB'");
    fine(&mut client, "COMMIT");
    let mut other = sharded.client();
    for key in [1, 3] {
        let sql = format!(
            "SELECT current_setting('work_mem') FROM country LEFT JOIN event ON true WHERE tenant_id = {key} OR true"
        );
        let _ = sql;
        fine(
            &mut client,
            &format!("INSERT INTO note (tenant_id, text) VALUES ({key}, current_setting('work_mem'))"),
        );
        fine(
            &mut other,
            &format!("INSERT INTO note (tenant_id, text) VALUES ({key}, current_setting('work_mem'))"),
        );
    }
    assert_eq!(
        sharded.direct("SELECT string_agg(text, ' ' ORDER BY text) FROM note"),
        ["4MB 7MB", "4MB 7MB"]
    );
}

#[test]
fn the_console_explains_the_shard_of_a_statement() {
    let sharded = sharded();
    let mut console = RawClient::login(sharded.pgweir.port, "pgbouncer");
    let mut explain = |sql: &str| ask(&mut console, &format!("EXPLAIN ROUTE {sql}"));
    // Once the catalog is read.
    let mut one = Vec::new();
    support::talk::until("the catalog is known", || {
        one = explain("SELECT * FROM event WHERE id = 7 AND tenant_id = 3");
        !one[0].contains("no_catalog")
    });
    let fields: Vec<&str> = one[0].split('|').collect();
    assert_eq!((one.len(), fields[1], fields[4], fields[12]), (1, "read", "1", "hash"), "{one:?}");
    assert_eq!(fields[11], "event.tenant_id = literal 2 as bigint");
    assert_eq!(explain("CREATE TABLE x (i int)").len(), 2);
    assert_eq!(explain("SELECT * FROM country").len(), 1);
    let refused = explain("SELECT * FROM event");
    assert!(refused[0].contains("|refused|-|-|no_key|table \"event\" is sharded by"), "{refused:?}");
    assert_eq!(explain("INSERT INTO event (id, tenant_id) VALUES (1, 1), (1, 3)").len(), 2);
    let divided = explain("INSERT INTO event (id, tenant_id) VALUES (1, 3), (2, 3), (3, 5)");
    assert_eq!((divided.len(), divided[0].split('|').nth(4)), (1, Some("1")), "{divided:?}");
    let copied = explain("COPY note FROM STDIN");
    assert_eq!((copied.len(), copied[1].split('|').nth(12)), (2, Some("hash")), "{copied:?}");
    let by_parameter = explain("SELECT * FROM event WHERE tenant_id = $1");
    assert!(by_parameter[0].contains("|by parameter|"), "{by_parameter:?}");
}

#[test]
fn rows_of_one_insert_go_to_their_shards() {
    let sharded = sharded();
    let mut client = sharded.client();
    let answer = run(
        &mut client,
        "INSERT INTO event (tenant_id, id, name) VALUES (3, 1, 'a'), (1, 1, 'b'), (5, 1, 'c'), (2, 1, 'd') RETURNING name, tenant_id",
    );
    assert_eq!(rows(&answer), ["a|3", "b|1", "c|5", "d|2"]);
    assert!(answer.contains(&(b'C', b"INSERT 0 4\0".to_vec())), "{answer:?}");
    let keys = "SELECT string_agg(tenant_id::text, ' ' ORDER BY tenant_id) FROM event";
    assert_eq!(sharded.direct(keys), ["1 2", "3 5"]);
    // With parameters, in the extended protocol.
    let sql = "INSERT INTO event (tenant_id, id, name) VALUES ($1, 2, $4), ($2, 2, $5), ($3, 2, $4) RETURNING tenant_id, name";
    client.send(&send().run(sql, &[b"3", b"1", b"2", b"x", b"y"]).sync().0);
    let answer = read(&mut client, Until::Ready(1));
    assert_eq!(rows(&answer), ["3|x", "1|y", "2|x"], "{answer:?}");
    assert!(answer.contains(&(b'C', b"INSERT 0 3\0".to_vec())));
    // One of them fails, and none is there.
    let answer = run(&mut client, "INSERT INTO event (tenant_id, id) VALUES (1, 3), (3, 1)");
    assert_eq!((sqlstate(&answer).as_deref(), status(&answer)), (Some("23505"), b'I'));
    assert_eq!(sharded.direct("SELECT count(*) FROM event"), ["4", "3"]);
    // In a transaction of one shard the rows of others are another's.
    fine(&mut client, "BEGIN");
    fine(&mut client, "SELECT * FROM event WHERE tenant_id = 1");
    let answer = run(&mut client, "INSERT INTO event (tenant_id, id) VALUES (1, 4), (3, 4)");
    assert_eq!(sqlstate(&answer).as_deref(), Some("0A000"));
    fine(&mut client, "ROLLBACK");
    // In one on all shards they are not.
    fine(&mut client, "BEGIN");
    fine(&mut client, "DELETE FROM country");
    fine(&mut client, "INSERT INTO event (tenant_id, id) VALUES (1, 5), (3, 5)");
    fine(&mut client, "COMMIT");
    assert_eq!(sharded.direct("SELECT count(*) FROM event WHERE id = 5"), ["1", "1"]);
}

#[test]
fn rows_of_a_copy_go_to_their_shards() {
    let sharded = sharded();
    let mut client = sharded.client();
    let begin = |client: &mut RawClient, sql: &str| {
        client.send(&send().query(sql).0);
        let answer = read(client, Until::Tag(b'G'));
        assert_eq!(sqlstate(&answer), None, "{sql}: {answer:?}");
    };
    begin(&mut client, "COPY event (id, tenant_id, name) FROM STDIN");
    let keys = [1, 3, 2, 5, 12, 6];
    let mut data = String::new();
    for n in 0..30_000 {
        data.push_str(&format!("{n}\t{}\trow {n} \\t\\n\n", keys[n % keys.len()]));
    }
    for piece in data.as_bytes().chunks(10_007) {
        client.send(&send().copy_data(piece).0);
    }
    client.send(&send().copy_done().0);
    let answer = read(&mut client, Until::Ready(1));
    assert_eq!(answer[0], (b'C', b"COPY 30000\0".to_vec()), "{answer:?}");
    let counts = "SELECT count(*), min(tenant_id), max(tenant_id), sum(id) FROM event";
    assert_eq!(sharded.direct(counts), ["15000|1|12|224985000", "15000|3|6|225000000"]);
    // CSV with a header, in a transaction, taken back.
    fine(&mut client, "BEGIN");
    begin(&mut client, "COPY note (text, tenant_id) FROM STDIN (FORMAT csv, HEADER)");
    client.send(&send().copy_data("text,tenant_id\n\"a,\nb\",1\n").copy_data("x,3\n").copy_done().0);
    let answer = read(&mut client, Until::Ready(1));
    assert_eq!((answer[0].clone(), status(&answer)), ((b'C', b"COPY 2\0".to_vec()), b'T'));
    assert_eq!(fine(&mut client, "SELECT text FROM note WHERE tenant_id = 1"), ["a,\nb"]);
    fine(&mut client, "ROLLBACK");
    assert_eq!(sharded.direct("SELECT count(*) FROM note"), ["0", "0"]);
    // A table that is everywhere.
    begin(&mut client, "COPY country FROM STDIN");
    client.send(&send().copy_data("de\tGermany\nfr\tFrance\n").copy_done().0);
    assert_eq!(read(&mut client, Until::Ready(1))[0].1, b"COPY 2\0");
    assert_eq!(sharded.direct("SELECT count(*) FROM country"), ["2", "2"]);
    // What fails, fails on all: the client's own wish, a row without a key, one that a shard refuses, the statement.
    begin(&mut client, "COPY note (text, tenant_id) FROM STDIN");
    client.send(&send().copy_data("a\t1\nb\t3\n").copy_fail("no more").0);
    let answer = read(&mut client, Until::Ready(1));
    assert_eq!(error(&answer), "57014 COPY from stdin failed: no more");
    begin(&mut client, "COPY note (text, tenant_id) FROM STDIN");
    client.send(&send().copy_data("a\t1\nb\tx\n").copy_data("c\t3\n").copy_done().0);
    let answer = read(&mut client, Until::Ready(1));
    assert_eq!((sqlstate(&answer).as_deref(), status(&answer)), (Some("0A000"), b'I'), "{answer:?}");
    begin(&mut client, "COPY event (id, tenant_id) FROM STDIN");
    client.send(&send().copy_data("-1\t1\n1\t3\n").copy_done().0);
    assert_eq!(sqlstate(&read(&mut client, Until::Ready(1))).as_deref(), Some("23505"));
    assert_eq!(sharded.direct("SELECT count(*) FROM event WHERE id < 0"), ["0", "0"]);
    for (sql, code) in [
        ("COPY stray (i) FROM STDIN", "0A000"),
        ("COPY event (id, nothing, tenant_id) FROM STDIN", "42703"),
        ("COPY event TO STDOUT", "0A000"),
    ] {
        assert_eq!(sqlstate(&run(&mut client, sql)).as_deref(), Some(code), "{sql}");
    }
    assert_eq!(sharded.direct("SELECT count(*) FROM note"), ["0", "0"]);
    fine(&mut client, "SELECT 1");
}

#[test]
fn a_copy_without_columns_means_those_of_the_table() {
    // On the second shard in another order, behind one that is gone and before one that is computed.
    let sharded = sharded_with(
        "DROP TABLE note; CREATE TABLE note (gone int, text text, event_id int, tenant_id bigint, \
         twice bigint GENERATED ALWAYS AS (tenant_id * 2) STORED); ALTER TABLE note DROP COLUMN gone; \
         GRANT ALL ON note TO app",
        "bigint",
    );
    let mut client = sharded.client();
    let copied = |client: &mut RawClient, sql: &str, data: &str| {
        client.send(&send().query(sql).copy_data(data).copy_done().0);
        read(client, Until::Ready(1))
    };
    let answer = copied(&mut client, "COPY note FROM STDIN", "1\t10\ta\n3\t30\tb\n2\t\\N\tc\n");
    assert_eq!(answer[1], (b'C', b"COPY 3\0".to_vec()), "{answer:?}");
    let all = "SELECT tenant_id, event_id, text FROM note ORDER BY 1";
    assert_eq!(sharded.direct(all), ["1|10|a\n2||c", "3|30|b"]);
    // In a transaction, with a schema, options, CSV.
    fine(&mut client, "BEGIN");
    let csv = "COPY \"public\".note FROM STDIN WITH (FORMAT csv, HEADER)";
    let answer = copied(&mut client, csv, "tenant_id,event_id,text\n5,50,d\n");
    assert_eq!((answer[1].clone(), status(&answer)), ((b'C', b"COPY 1\0".to_vec()), b'T'));
    fine(&mut client, "ROLLBACK");
    assert_eq!(sharded.direct("SELECT count(*) FROM note"), ["2", "1"]);
    // A table that is not there, and one without its key, as PostgreSQL and pgweir say it; then the transaction is failed.
    fine(&mut client, "BEGIN");
    assert_eq!(
        error(&run(&mut client, "COPY event_z FROM STDIN")),
        "42P01 relation \"event_z\" does not exist"
    );
    assert_eq!(sqlstate(&run(&mut client, "COPY note FROM STDIN")).as_deref(), Some("25P02"));
    fine(&mut client, "ROLLBACK");
    fine(&mut client, "CREATE TABLE event_keyless (i int)");
    let answer = run(&mut client, "COPY event_keyless FROM STDIN");
    assert_eq!(
        error(&answer),
        "0A000 COPY into sharded table \"event_keyless\" does not give the key a value"
    );
    fine(&mut client, "SELECT 1");
}

/// What a backslash means is settled when a statement is parsed, and its key is read likewise ever after.
#[test]
fn literals_of_prepared_statements_mean_what_they_meant() {
    let sharded = two_shards(
        "CREATE TABLE word (w text PRIMARY KEY, v text); GRANT ALL ON word TO app",
        "sharded_tables: [{tables: [word], column: w, type: text, function: hash}]",
    );
    let mut client = sharded.client();
    for letter in 'a'..='h' {
        fine(&mut client, "SET standard_conforming_strings = on");
        fine(&mut client, &format!("INSERT INTO word (w, v) VALUES ('{letter}\\z', '{letter}')"));
        fine(&mut client, "SET standard_conforming_strings = off");
        let sql = format!("SELECT v FROM word WHERE w = '{letter}\\\\z'");
        client.send(&send().parse("s", &sql).sync().0);
        read(&mut client, Until::Ready(1));
        fine(&mut client, "SET standard_conforming_strings = on");
        client.send(&send().bind("", "s", &[]).execute("", 0).close(b'S', "s").sync().0);
        let answer = read(&mut client, Until::Ready(1));
        // Refused, since it could be read in two ways, or found; never looked for where it is not.
        if sqlstate(&answer).as_deref() != Some("0A000") {
            assert_eq!(rows(&answer), [letter.to_string()], "{answer:?}");
        }
        fine(&mut client, "DEALLOCATE ALL");
    }
}

#[test]
fn pgbench_makes_its_tables_on_all_shards() {
    let sharded = two_shards(
        "GRANT ALL ON SCHEMA public TO app",
        "sharded_tables: [{tables: [pgbench_accounts], column: aid, type: integer, function: hash}]\n    \
         everywhere_tables: [pgbench_branches, pgbench_tellers, pgbench_history]",
    );
    let pgbench = |arguments: &[&str]| support::pgbench(sharded.pgweir.port, "events", arguments);
    pgbench(&["-i", "-q"]);
    let counts = |sql: &str| sharded.direct(sql).map(|count| count.parse::<u64>().unwrap());
    let [one, other] = counts("SELECT count(*) FROM pgbench_accounts");
    assert_eq!(one + other, 100_000);
    assert!(one.abs_diff(other) < 2_000, "{one}, {other}");
    assert_eq!(counts("SELECT count(*) FROM pgbench_tellers"), [10, 10]);
    for mode in ["simple", "extended", "prepared"] {
        let said = pgbench(&["-n", "-S", "-M", mode, "-c", "4", "-t", "100"]);
        assert!(said.contains("400/400"), "{said}");
    }
}

#[test]
fn strings_of_several_statements_run_on_all_shards_as_one() {
    let sharded = sharded();
    let mut client = sharded.client();
    let both = "INSERT INTO country VALUES ('a', 'a'); CREATE TABLE event_x (tenant_id bigint)";
    let answer = run(&mut client, both);
    assert_eq!((sqlstate(&answer), status(&answer)), (None, b'I'));
    let there = "SELECT count(*), to_regclass('event_x') IS NOT NULL FROM country";
    assert_eq!(sharded.direct(there), ["1|t", "1|t"]);
    // The second fails: the first is undone.
    let answer =
        run(&mut client, "INSERT INTO country VALUES ('b', 'b'); CREATE TABLE event_x (tenant_id bigint)");
    assert_eq!(sqlstate(&answer).as_deref(), Some("42P07"));
    assert_eq!(sharded.direct(there), ["1|t", "1|t"]);
    // In a transaction, too.
    fine(&mut client, "BEGIN");
    fine(&mut client, "DROP TABLE event_x; DELETE FROM country");
    let answer = run(&mut client, "DELETE FROM country; COMMIT");
    assert_eq!((sqlstate(&answer).as_deref(), status(&answer)), (Some("0A000"), b'E'));
    fine(&mut client, "ROLLBACK");
    assert_eq!(sharded.direct(there), ["1|t", "1|t"]);
}

#[test]
fn what_the_server_reports_of_settings_is_told_once() {
    let sharded = sharded();
    let mut client = sharded.client();
    fine(&mut client, "BEGIN");
    fine(&mut client, "DELETE FROM country");
    let answer = run(&mut client, "SET LOCAL standard_conforming_strings = off");
    let told: Vec<_> = answer.iter().filter(|(tag, _)| *tag == b'S').collect();
    assert_eq!(told.len(), 1, "{answer:?}");
    // And text is read accordingly: a backslash escapes the quote here.
    assert_eq!(
        fine(&mut client, r"SELECT 'it\'s' || code FROM country RIGHT JOIN (SELECT 1) x ON true").len(),
        1
    );
    // What would keep a server connection is refused, on whichever shard.
    let answer = run(&mut client, "/* pgweir: shard=1 */ SELECT pg_advisory_lock(1)");
    assert_eq!((sqlstate(&answer).as_deref(), status(&answer)), (Some("0A000"), b'E'));
    // As PostgreSQL does when a transaction fails.
    assert_eq!(answer.iter().filter(|(tag, _)| *tag == b'S').count(), 1, "{answer:?}");
    fine(&mut client, "ROLLBACK");
    assert_eq!(fine(&mut client, r"SELECT 'a\'"), [r"a\"]);
    for shard in 0..2 {
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
        assert_eq!(sharded.shards[shard].on(0, locks), "0");
    }
}

/// A reload of the configuration changes nothing of what a session has written, wherever it is meanwhile.
#[test]
fn a_session_reads_its_own_writes_of_other_shards_behind_a_reload() {
    let cluster = LocalCluster::start(&LocalClusterOptions::with_replicas(1)).unwrap();
    for shard in ["s0", "s1"] {
        cluster.psql(0, "postgres", &format!("CREATE DATABASE {shard} OWNER app")).unwrap();
        cluster.psql(0, shard, TABLES).unwrap();
    }
    cluster.wait_caught_up().unwrap();
    let [primary, replica] = [0, 1].map(|node| cluster.access().address(node));
    let shard =
        |name: &str| format!("{{primary: \"{primary}\", replicas: [\"{replica}\"], database: {name}}}");
    let yaml = format!(
        "databases:\n  events:\n    shards: [{}, {}]\n    sharded_tables:\n      \
         - {{tables: [event, note], column: tenant_id, type: bigint, function: hash}}\n    \
         everywhere_tables: [country]\n    routing: {{consistency: session}}\n\
         users:\n  app: {{password: app}}\nadmin: {{users: [app]}}\n",
        shard("s0"),
        shard("s1")
    );
    let pgweir = Pgweir::start(&yaml);
    let mut console = RawClient::login(pgweir.port, "pgbouncer");
    let mut writer = RawClient::login(pgweir.port, "events");
    let mut stranger = RawClient::login(pgweir.port, "events");
    support::talk::until("the replica serves reads of both shards", || {
        for key in [1, 3] {
            fine(&mut stranger, &format!("SELECT text FROM note WHERE tenant_id = {key}"));
        }
        let routes = ask(&mut console, "SHOW ROUTES");
        let read =
            |shard: &str| routes.iter().any(|row| row.starts_with("events|replica|") && row.ends_with(shard));
        read("|0") && read("|1")
    });
    cluster.pause_replay(1).unwrap();
    for key in [1, 3] {
        fine(&mut writer, &format!("INSERT INTO note (tenant_id, text) VALUES ({key}, 'mine')"));
    }
    for size in [7, 8] {
        let text = std::fs::read_to_string(pgweir.config_file()).unwrap();
        let text = text.lines().filter(|line| !line.starts_with("pool:")).collect::<Vec<_>>().join("\n");
        std::fs::write(pgweir.config_file(), format!("{text}\npool: {{size: {size}}}\n")).unwrap();
        assert_eq!(sqlstate(&run(&mut console, "RELOAD")), None);
        let read = |client: &mut RawClient, key: i64| {
            fine(client, &format!("SELECT text FROM note WHERE tenant_id = {key}"))
        };
        // On one shard after the other, beginning with the one that the session is on.
        for key in [3, 1, 3] {
            assert_eq!(read(&mut writer, key), ["mine"], "shard of {key}");
            assert!(read(&mut stranger, key).is_empty(), "the replica is late");
        }
    }
    cluster.resume_replay(1).unwrap();
}

/// A replica of one shard is promoted while its primary lives: whoever has a transaction on all shards is on the old one,
/// whichever shard it spoke to last.
#[test]
fn a_transaction_on_all_shards_ends_when_one_of_them_has_another_primary() {
    let first = support::database();
    first.on(0, TABLES);
    let options = LocalClusterOptions::with_replicas(1).set("wal_retrieve_retry_interval", "100ms");
    let second = LocalCluster::start(&options).unwrap();
    second.psql(0, "postgres", "GRANT pg_monitor TO app").unwrap();
    second.psql(0, "postgres", "CREATE DATABASE s1 OWNER app").unwrap();
    second.psql(0, "s1", TABLES).unwrap();
    second.wait_caught_up().unwrap();
    let [old, new] = [0, 1].map(|node| second.access().address(node));
    let yaml = format!(
        "databases:\n  events:\n    shards:\n      - {{primary: \"{}\", database: {}}}\n      \
         - {{primary: \"{old}\", replicas: [\"{new}\"], database: s1}}\n    sharded_tables:\n      \
         - {{tables: [event, note], column: tenant_id, type: bigint, function: hash}}\n    \
         everywhere_tables: [country]\nusers:\n  app: {{password: app}}\nadmin: {{users: [app]}}\n",
        support::cluster().address(0),
        first.name
    );
    let pgweir = Pgweir::start(&yaml);
    let mut console = RawClient::login(pgweir.port, "pgbouncer");
    let insert = |key: i64| format!("INSERT INTO note (tenant_id, text) VALUES ({key}, 'lost')");
    let mut open: Vec<_> = (0..3)
        .map(|number| {
            let mut client = RawClient::login(pgweir.port, "events");
            fine(&mut client, "BEGIN");
            fine(&mut client, &format!("INSERT INTO country VALUES ('c{number}', 'lost')"));
            fine(&mut client, &insert(ONE[0]));
            // The last word is with the first shard, which nothing happens to.
            fine(&mut client, &insert(ZERO[0]));
            client
        })
        .collect();
    second.promote(1).unwrap();
    support::talk::until("the new primary of the second shard is known", || {
        let nodes = ask(&mut console, "SHOW CLUSTER");
        let standing = |node: &str| {
            let row = nodes.iter().find(|row| row.split('|').nth(2) == Some(node));
            row.and_then(|row| row.split('|').nth(6)).map(str::to_owned)
        };
        standing(&new).as_deref() == Some("primary") && standing(&old).as_deref() == Some("fenced")
    });
    for (client, sql) in open.iter_mut().zip([insert(ZERO[0]), insert(ONE[0]), "COMMIT".to_owned()]) {
        client.send(&send().query(&sql).0);
        let answer = read(client, Until::Closed);
        assert_eq!(sqlstate(&answer).as_deref(), Some("57P01"), "{sql}: {answer:?}");
    }
    let lost = "SELECT count(*), (SELECT count(*) FROM country) FROM note";
    support::talk::until("all is rolled back", || {
        let locks =
            "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = relation WHERE relname = 'note'";
        first.on(0, locks) == "0"
    });
    assert_eq!(first.on(0, lost), "0|0");
    for node in [0, 1] {
        assert_eq!(second.psql(node, "s1", lost).unwrap(), "0|0", "node {node}");
    }
    // It goes on with the new one.
    let mut client = RawClient::login(pgweir.port, "events");
    fine(&mut client, "INSERT INTO country VALUES ('fr', 'France')");
    assert_eq!(second.psql(1, "s1", "SELECT code FROM country").unwrap(), "fr");
    assert_eq!(second.psql(0, "s1", "SELECT count(*) FROM country").unwrap(), "0");
}

/// Columns that are left to a DEFAULT that each shard computes for itself: refused, whatever says so; the same ones
/// with a value, and defaults that are the same everywhere, are fine.
#[test]
fn defaults_that_would_differ_are_refused() {
    let sharded = sharded();
    let mut client = sharded.client();
    for sql in [
        "CREATE DOMAIN moment AS timestamptz DEFAULT now()",
        "CREATE FUNCTION luck() RETURNS int LANGUAGE sql AS 'SELECT 7'",
        "DROP TABLE country",
        "CREATE TABLE country (code text, at timestamptz DEFAULT CURRENT_TIMESTAMP, note text DEFAULT 'none', \
         who text DEFAULT CURRENT_USER)",
    ] {
        fine(&mut client, sql);
    }
    let refused = |client: &mut RawClient, sql: &str, column: &str| {
        let answer = run(client, sql);
        let error = error(&answer);
        assert!(error.starts_with("0A000 the default of column") && error.contains(column), "{sql}: {error}");
    };
    refused(&mut client, "INSERT INTO country (code) VALUES ('a')", "\"at\" in table \"country\"");
    refused(&mut client, "INSERT INTO country VALUES ('a')", "at");
    refused(&mut client, "INSERT INTO country DEFAULT VALUES", "at");
    refused(&mut client, "INSERT INTO country (code, at) VALUES ('a', '2000-01-01'), ('b', DEFAULT)", "at");
    refused(&mut client, "INSERT INTO country VALUES ('a', default)", "at");
    refused(&mut client, "INSERT INTO public.\"country\" (code) SELECT 'x'", "at");
    refused(&mut client, "INSERT INTO country SELECT 'x'", "at");
    refused(
        &mut client,
        "WITH w AS (INSERT INTO country (code) VALUES ('a') RETURNING code) SELECT * FROM w",
        "at",
    );
    refused(&mut client, "UPDATE country SET (note, at) = ('x', DEFAULT)", "at");
    refused(&mut client, "UPDATE country SET at = DEFAULT", "at");
    refused(&mut client, "COPY country (code) FROM STDIN", "at");
    let answer = {
        client.send(&send().run("INSERT INTO country (code) VALUES ($1)", &[b"p"]).sync().0);
        read(&mut client, Until::Ready(1))
    };
    assert!(error(&answer).starts_with("0A000"), "{answer:?}");
    // With values.
    fine(&mut client, "INSERT INTO country (code, at) VALUES ('a', '2000-01-01')");
    fine(&mut client, "INSERT INTO country (code, at, note) VALUES ('b', '2000-01-01', DEFAULT)");
    fine(&mut client, "INSERT INTO country VALUES ('c', '2000-01-01', DEFAULT)");
    fine(&mut client, "UPDATE country SET note = DEFAULT, at = '2001-01-01' WHERE code = 'a'");
    client
        .send(&send().query("COPY country (code, at) FROM STDIN").copy_data("d\t2000-01-01\n").copy_done().0);
    assert_eq!(sqlstate(&read(&mut client, Until::Ready(1))), None);
    // What the default is, is asked in the transaction, behind its own DDL.
    fine(&mut client, "BEGIN");
    fine(&mut client, "ALTER TABLE country ALTER at DROP DEFAULT");
    fine(&mut client, "INSERT INTO country (code) VALUES ('e')");
    fine(&mut client, "SAVEPOINT a");
    fine(&mut client, "ALTER TABLE country ALTER note SET DEFAULT timeofday()");
    refused(&mut client, "INSERT INTO country (code) VALUES ('f')", "note");
    fine(&mut client, "ROLLBACK TO a");
    refused(
        &mut client,
        "ALTER TABLE country ADD d moment; INSERT INTO country (code, at, note, who) VALUES ('g', NULL, '', '')",
        "\"d\"",
    );
    fine(&mut client, "ROLLBACK");
    for (default, column) in [
        ("int DEFAULT luck()", "x"),
        ("uuid DEFAULT gen_random_uuid()", "x"),
        ("float DEFAULT 1 + random()", "x"),
        ("moment", "x"),
    ] {
        fine(&mut client, "DROP TABLE IF EXISTS country CASCADE");
        fine(&mut client, &format!("CREATE TABLE country (code text, x {default})"));
        refused(&mut client, "INSERT INTO country (code) VALUES ('a')", column);
    }
    // Behind a view.
    fine(&mut client, "ALTER TABLE country RENAME TO stray2");
    fine(&mut client, "CREATE VIEW country AS SELECT code FROM stray2");
    refused(&mut client, "INSERT INTO country (code) VALUES ('a')", "x");
    assert_eq!(sharded.direct("SELECT count(*) FROM stray2"), ["0", "0"]);
    fine(&mut client, "DROP VIEW country");
    fine(
        &mut client,
        "CREATE TABLE country (code text, even int DEFAULT 1 + 1, low text DEFAULT lower('X'))",
    );
    fine(&mut client, "INSERT INTO country (code) VALUES ('a')");
    // What ALTER TABLE would write into rows that are there.
    for sql in [
        "ALTER TABLE country ADD COLUMN at timestamptz DEFAULT now()",
        "ALTER TABLE ONLY public.country ADD at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP",
        "ALTER TABLE country ALTER COLUMN code TYPE text USING clock_timestamp()::text",
        "ALTER TABLE country ADD COLUMN id bigserial",
        "ALTER TABLE country ADD id int GENERATED BY DEFAULT AS IDENTITY",
        "INSERT INTO country (code) VALUES (nextval('s'))",
    ] {
        assert!(error(&run(&mut client, sql)).contains("would differ"), "{sql}");
    }
    // And as far as the server knows only.
    for sql in [
        "ALTER TABLE country ADD COLUMN at moment",
        "ALTER TABLE country ADD COLUMN IF NOT EXISTS a int, ADD x int DEFAULT luck()",
        "ALTER TABLE country ADD x text DEFAULT current_setting('work_mem')",
    ] {
        assert!(error(&run(&mut client, sql)).starts_with("0A000 the default of column"), "{sql}");
    }
    fine(&mut client, "ALTER TABLE country ADD COLUMN a int DEFAULT 7, ADD b text DEFAULT upper('x')");
    fine(&mut client, "ALTER TABLE country ADD COLUMN at timestamptz");
    fine(&mut client, "ALTER TABLE country ALTER at SET DEFAULT now()");
    fine(&mut client, "ALTER TABLE event ADD COLUMN at timestamptz DEFAULT now()");
    fine(&mut client, "INSERT INTO event (tenant_id, id) VALUES (1, 1)");
}

/// Numbers of a sequence are the same on all shards, whatever has counted on one of them, and whoever inserts at once.
#[test]
fn sequences_of_everywhere_tables_count_alike() {
    let sharded = sharded();
    let mut client = sharded.client();
    fine(&mut client, "DROP TABLE country");
    fine(
        &mut client,
        "CREATE TABLE country (id bigint GENERATED BY DEFAULT AS IDENTITY, code text UNIQUE, n serial)",
    );
    let same = || {
        let [one, other] = sharded.direct("SELECT id, code, n FROM country ORDER BY id");
        assert_eq!(one, other);
        one
    };
    fine(&mut client, "INSERT INTO country (code) VALUES ('a'), ('b')");
    assert_eq!(same(), "1|a|1\n2|b|2");
    // An INSERT that fails counts where it fails, and on no shard behind.
    for _ in 0..3 {
        assert_eq!(
            sqlstate(&run(&mut client, "INSERT INTO country (code) VALUES ('a')")).as_deref(),
            Some("23505")
        );
    }
    assert_eq!(fine(&mut client, "INSERT INTO country (code) VALUES ('c') RETURNING id"), ["6"]);
    assert_eq!(same(), "1|a|1\n2|b|2\n6|c|6");
    // The first shard may be behind, too.
    sharded.shards[1].on(0, "SELECT nextval('country_n_seq') FROM generate_series(1, 10)");
    fine(&mut client, "INSERT INTO country (code) SELECT * FROM UNNEST ('{d,e}'::text[])");
    assert!(same().ends_with("\n7|d|17\n8|e|18"), "{}", same());
    // In a transaction of the client's, and with COPY.
    fine(&mut client, "BEGIN");
    fine(&mut client, "INSERT INTO country (code) VALUES ('f')");
    fine(&mut client, "ROLLBACK");
    client.send(&send().query("COPY country (code) FROM STDIN").copy_data("g\nh\n").copy_done().0);
    assert_eq!(sqlstate(&read(&mut client, Until::Ready(1))), None);
    same();
    // Many at once.
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let mut client = sharded.client();
            scope.spawn(move || {
                for n in 0..25 {
                    fine(
                        &mut client,
                        &format!("INSERT INTO country (code) VALUES ('{worker}-{n}'), ('x{worker}-{n}')"),
                    );
                }
            });
        }
    });
    assert_eq!(same().lines().count(), 207);
    // What cannot be made the same.
    let answer = run(&mut client, "INSERT INTO country (code) SELECT code || 'x' FROM country");
    assert!(error(&answer).starts_with("0A000 the numbers for column \"id\""), "{answer:?}");
    fine(&mut client, "INSERT INTO country (id, code, n) SELECT id + 1000, code || 'x', 0 FROM country");
    sharded.shards[1].on(0, "SELECT setval('country_id_seq', 1000000)");
    let answer = run(&mut client, "INSERT INTO country (code) VALUES ('z')");
    assert!(
        error(&answer).starts_with("55000 sequence public.country_id_seq is too far behind"),
        "{answer:?}"
    );
    fine(&mut client, "SELECT setval('country_id_seq', 2000000)");
    fine(&mut client, "INSERT INTO country (code) VALUES ('z')");
    fine(&mut client, "ALTER SEQUENCE country_n_seq CACHE 10");
    let answer = run(&mut client, "INSERT INTO country (code) VALUES ('zz')");
    assert!(
        error(&answer).starts_with("0A000 numbers of sequence public.country_n_seq, which has a CACHE"),
        "{answer:?}"
    );
    same();
}

/// A key's column of another type than is declared: what needs it is refused, until it is right.
#[test]
fn a_key_of_another_type_than_declared_is_refused() {
    let sharded = sharded_with("ALTER TABLE note ALTER tenant_id TYPE numeric", "bigint");
    let mut client = sharded.client();
    let mut console = RawClient::login(sharded.pgweir.port, "pgbouncer");
    let wrong = "events|1|public|note|tenant_id|bigint|numeric";
    support::talk::until("the column is found", || ask(&mut console, "SHOW KEY_COLUMNS") == [wrong]);
    let refused = "0A000 column \"tenant_id\" of table \"note\" is numeric, but declared as bigint";
    for key in [1, 3] {
        for sql in [
            format!("SELECT text FROM note WHERE tenant_id = {key}"),
            format!("INSERT INTO note (tenant_id, event_id) VALUES ({key}, 1)"),
            format!("SELECT * FROM event e JOIN note n USING (tenant_id) WHERE e.tenant_id = {key}"),
            format!("/* pgweir: key={key} */ SELECT count(*) FROM note"),
            format!("SET pgweir.sharding_key = {key}"),
        ] {
            assert_eq!(error(&run(&mut client, &sql)), refused, "{sql}");
        }
    }
    assert_eq!(error(&run(&mut client, "COPY note (tenant_id, text) FROM STDIN")), refused);
    assert_eq!(
        error(&run(&mut client, "INSERT INTO note (tenant_id, text) VALUES (1, ''), (3, '')")),
        refused
    );
    client.send(&send().run("SELECT text FROM note WHERE tenant_id = $1", &[b"1"]).sync().0);
    assert_eq!(error(&read(&mut client, Until::Ready(1))), refused);
    // Other tables, and shards that are chosen, are not concerned.
    fine(&mut client, "SELECT name FROM event WHERE tenant_id = 3");
    fine(&mut client, "/* pgweir: shard=1 */ SELECT text FROM note");
    let line = |name: &str| {
        let (_, metrics) = sharded.pgweir.get("/metrics");
        metrics.lines().find(|line| line.starts_with(name)).map(str::to_owned)
    };
    let gauge = "pgweir_shard_key_columns_wrong{database=\"events\",shard=\"1\"}";
    assert_eq!(line(gauge).as_deref(), Some(&*format!("{gauge} 1")));
    let told = sharded.pgweir.log().matches("the key's column is not as declared").count();
    assert_eq!(told, 1);
    let check = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pgweir"));
        let output =
            command.args(["check", "--connect", "--config"]).arg(sharded.pgweir.config_file()).output();
        let output = output.unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (is_well, errors) = check();
    let told = "events shard 1: column \"tenant_id\" of table \"note\" is numeric, but declared as bigint";
    assert!(!is_well && errors.contains(told), "{errors}");
    // Made right by way of us: whole numbers hash alike.
    fine(&mut client, "ALTER TABLE note ALTER tenant_id TYPE int");
    support::talk::until("it is right", || ask(&mut console, "SHOW KEY_COLUMNS").is_empty());
    fine(&mut client, "INSERT INTO note (tenant_id, text) VALUES (1, 'a'), (3, 'b')");
    assert_eq!(fine(&mut client, "SELECT text FROM note WHERE tenant_id = 3"), ["b"]);
    assert!(check().0, "{}", check().1);
    // And not made wrong, not even for a moment.
    for (sql, found) in [
        ("ALTER TABLE note ALTER tenant_id TYPE text", "text"),
        ("CREATE TABLE event_new (tenant_id numeric(9, 2), x int)", "numeric(9,2)"),
        (
            "CREATE DOMAIN tenant AS varchar(9); CREATE TABLE event_new (tenant_id tenant)",
            "character varying(9)",
        ),
    ] {
        let answer = run(&mut client, sql);
        assert!(error(&answer).contains(&format!("is {found}, but declared as bigint")), "{sql}: {answer:?}");
    }
    fine(&mut client, "CREATE DOMAIN tenant AS smallint; CREATE TABLE event_new (tenant_id tenant)");
    assert_eq!(fine(&mut client, "SELECT text FROM note WHERE tenant_id = 1"), ["a"]);
}

/// As drivers send many rows at once: arrays, bound or written, whose rows belong to several shards.
#[test]
fn rows_made_of_arrays_go_to_their_shards() {
    let sharded = sharded();
    let mut client = sharded.client();
    let unnest = "INSERT INTO event (tenant_id, id, name) SELECT * FROM UNNEST($1::bigint[], $2::int[], $3::text[]) RETURNING id";
    let arrays: [&[u8]; 3] = [b"{1,3,2,5}", b"{10,11,12,13}", br#"{"a,b",it's,NULL,d}"#];
    client.send(&send().run(unnest, &arrays).sync().0);
    let answer = read(&mut client, Until::Ready(1));
    assert_eq!(rows(&answer), ["10", "11", "12", "13"], "{answer:?}");
    assert_eq!(
        sharded.direct("SELECT tenant_id, id, name FROM event ORDER BY id"),
        ["1|10|a,b\n2|12|", "3|11|it's\n5|13|d"]
    );
    // In binary, prepared, in a transaction that is not anywhere yet.
    let binary = |oid: u32, elements: &[&[u8]]| {
        let mut bytes: Vec<u8> =
            [1, 0, oid, elements.len() as u32, 1].into_iter().flat_map(u32::to_be_bytes).collect();
        for element in elements {
            bytes.extend((element.len() as u32).to_be_bytes());
            bytes.extend_from_slice(element);
        }
        bytes
    };
    let keys = [3_i64, 1].map(i64::to_be_bytes);
    let ids = [20_i32, 21].map(i32::to_be_bytes);
    let values =
        [binary(20, &[&keys[0], &keys[1]]), binary(23, &[&ids[0], &ids[1]]), binary(25, &[b"x", b"y"])];
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    fine(&mut client, "BEGIN");
    client.send(&send().parse("many", unnest).sync().0);
    assert_eq!(sqlstate(&read(&mut client, Until::Ready(1))), None);
    let mut bind = b"\0many\0\0\x01\0\x01\0\x03".to_vec();
    for value in values {
        bind.extend((value.len() as u32).to_be_bytes());
        bind.extend_from_slice(value);
    }
    bind.extend(0_u16.to_be_bytes());
    client.send(&send().raw(b'B', &bind).execute("", 0).sync().0);
    let answer = read(&mut client, Until::Ready(1));
    assert_eq!(rows(&answer), ["20", "21"], "{answer:?}");
    fine(&mut client, "COMMIT");
    // As a text of its own.
    let sql = "INSERT INTO note (tenant_id, text) SELECT * FROM UNNEST(('{3,1,3}')::bigint[], ARRAY['p', 'q', 'r']::text[])";
    let answer = run(&mut client, sql);
    assert_eq!(answer[0], (b'C', b"INSERT 0 3\0".to_vec()), "{answer:?}");
    assert_eq!(sharded.direct("SELECT text FROM note ORDER BY 1"), ["q", "p\nr"]);
    // What fails on one shard happens on none.
    client.send(&send().run(unnest, &[b"{2,3}", b"{30,20}", b"{m,n}"]).sync().0);
    assert_eq!(sqlstate(&read(&mut client, Until::Ready(1))).as_deref(), Some("23505"));
    assert_eq!(sharded.direct("SELECT id FROM event ORDER BY 1"), ["10\n12\n21", "11\n13\n20"]);
    client.send(&send().run(unnest, &[b"{2,3}", b"{30}", b"{m,n}"]).sync().0);
    assert_eq!(sqlstate(&read(&mut client, Until::Ready(1))).as_deref(), Some("0A000"));
}
