//! Statements resolved by the catalog of a real server: what a replica may run, what is read, what may be written.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use pgweir::catalog::{self, Catalog, CatalogCell, Resolved, SearchPath};
use pgweir::cluster::TableSet;
use pgweir::sql::{Effect, LexOptions, StatementCache};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

const SCHEMA: &str = r"
CREATE TABLE plain (id int PRIMARY KEY, name text);
CREATE TABLE other (id int);
CREATE TABLE triggered (id int);
CREATE FUNCTION on_write() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO other VALUES (1); RETURN NEW; END';
CREATE TRIGGER t AFTER INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION on_write();
CREATE TABLE disabled (id int);
CREATE TRIGGER t AFTER INSERT ON disabled FOR EACH ROW EXECUTE FUNCTION on_write();
ALTER TABLE disabled DISABLE TRIGGER t;
CREATE TABLE searched (body text, words tsvector);
CREATE TRIGGER t BEFORE INSERT ON searched FOR EACH ROW
    EXECUTE FUNCTION tsvector_update_trigger(words, 'pg_catalog.english', body);
CREATE TABLE ruled (id int);
CREATE RULE also AS ON INSERT TO ruled DO ALSO INSERT INTO other VALUES (NEW.id);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE);
CREATE TABLE grandchild (id int, child int REFERENCES child ON UPDATE SET NULL);
CREATE TABLE bystander (id int, parent int REFERENCES parent);
CREATE TABLE parts (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE parts_old PARTITION OF parts FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE parts_new PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
CREATE TABLE base (id int);
CREATE TABLE derived () INHERITS (base);
CREATE UNLOGGED TABLE fleeting (id int);
CREATE SEQUENCE counter;
CREATE VIEW view1 AS SELECT p.id, o.id AS other FROM plain p, other o;
CREATE VIEW view2 AS SELECT * FROM view1 WHERE id IN (SELECT id FROM base);
CREATE MATERIALIZED VIEW mat AS SELECT * FROM plain;
CREATE FUNCTION vol() RETURNS int LANGUAGE sql AS 'INSERT INTO other VALUES (1) RETURNING id';
CREATE FUNCTION stab() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM other';
CREATE FUNCTION imm(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';
CREATE FUNCTION mixed(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION mixed(text) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
CREATE FUNCTION lower(plain) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
CREATE FUNCTION by_default(a int DEFAULT vol()) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION note(plain) RETURNS int LANGUAGE sql AS 'INSERT INTO other VALUES ($1.id) RETURNING id';
CREATE FUNCTION step(int, int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
CREATE AGGREGATE agg(int) (SFUNC = step, STYPE = int);
CREATE FUNCTION safe_step(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE AGGREGATE safe_agg(int) (SFUNC = safe_step, STYPE = int);
CREATE FUNCTION near(point, text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
CREATE OPERATOR @@@> (LEFTARG = point, RIGHTARG = text, FUNCTION = near);
CREATE FUNCTION check_it(text) RETURNS bool LANGUAGE plpgsql STABLE AS 'BEGIN RETURN true; END';
CREATE DOMAIN email AS text CHECK (check_it(VALUE));
CREATE TYPE amount AS (n int);
CREATE FUNCTION to_amount(int) RETURNS amount LANGUAGE plpgsql AS 'BEGIN RETURN ROW($1)::amount; END';
CREATE CAST (int AS amount) WITH FUNCTION to_amount(int);
CREATE VIEW view_vol AS SELECT vol();
CREATE VIEW view_stab AS SELECT stab();
CREATE VIEW view_node AS SELECT pg_is_in_recovery() AS r;
CREATE VIEW view_lock AS SELECT * FROM plain FOR UPDATE;
CREATE VIEW view_fleeting AS SELECT * FROM fleeting;
CREATE TABLE defaults (id int DEFAULT vol(), n bigint DEFAULT nextval('counter'));
CREATE TABLE serial (id bigserial, at timestamptz DEFAULT now());
CREATE TABLE guarded (id int);
CREATE FUNCTION allowed() RETURNS bool LANGUAGE plpgsql STABLE AS 'BEGIN RETURN true; END';
CREATE POLICY p ON guarded USING (allowed() AND id IN (SELECT id FROM plain));
CREATE SCHEMA tenant;
CREATE TABLE tenant.plain (id int);
";

async fn connect(database: &str) -> Client {
    let cluster = support::cluster();
    let address = cluster.address(0);
    let (host, port) = address.rsplit_once(':').unwrap();
    let mut config = Config::new();
    config.host(host).port(port.parse().unwrap()).user("app").password("app").dbname(database);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn rows(client: &Client, sql: &str) -> Vec<Vec<Option<String>>> {
    let row = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect::<Vec<_>>())
        }
        _ => None,
    };
    client.simple_query(sql).await.unwrap().into_iter().filter_map(row).collect()
}

struct Known {
    catalog: Catalog,
    rows: Vec<Vec<Option<String>>>,
    cache: StatementCache,
}

impl Known {
    fn resolve(&self, sql: &str, path: &str) -> Resolved {
        let statement = self.cache.analyze(sql.as_bytes(), LexOptions::default());
        let path = if path == "?" { SearchPath::unknown() } else { SearchPath::parse(path, Some("app")) };
        self.catalog.resolve(&statement, &path)
    }

    fn names(&self, tables: &TableSet) -> String {
        let TableSet::Some(ids) = tables else { return "all".to_owned() };
        let name = |id: &u32| {
            let id = Some(id.to_string());
            let row = self.rows.iter().find(|r| r[0].as_deref() == Some("relation") && r[1] == id).unwrap();
            let (schema, name) = (row[2].as_deref().unwrap(), row[3].as_deref().unwrap());
            if schema == "public" { name.to_owned() } else { format!("{schema}.{name}") }
        };
        let mut names: Vec<_> = ids.iter().map(name).collect();
        names.sort();
        names.join(" ")
    }
}

async fn known(database: &str) -> Known {
    let client = connect(database).await;
    let rows = rows(&client, catalog::LOAD).await;
    Known { catalog: Catalog::from_rows(&rows).unwrap(), rows, cache: StatementCache::new(1 << 20) }
}

#[tokio::test]
async fn reads() {
    let database = support::database();
    database.on(0, SCHEMA);
    let known = known(&database.name).await;
    // Statement, tables whose writes it must see; those beginning with ! are for the primary, for this reason.
    let cases = [
        ("SELECT 1", ""),
        ("SELECT * FROM plain", "plain"),
        ("SELECT * FROM \"plain\" JOIN other USING (id)", "other plain"),
        ("SELECT * FROM parts", "parts"),
        ("SELECT * FROM parts_old", "parts"),
        ("SELECT * FROM derived", "base"),
        ("SELECT * FROM view1", "other plain"),
        ("SELECT * FROM view2", "base other plain"),
        ("SELECT * FROM mat", "mat"),
        ("SELECT imm(id) FROM plain", "plain"),
        ("SELECT public.imm(id) FROM plain", "plain"),
        ("SELECT stab()", "all"),
        ("SELECT safe_agg(id) FROM plain", "plain"),
        ("SELECT lower(name), plain.name FROM plain", "!function public.lower is VOLATILE and may write"),
        ("SELECT pg_catalog.upper(name) FROM plain", "plain"),
        ("SELECT vol()", "!function public.vol is VOLATILE and may write"),
        ("SELECT public.vol() FROM plain", "!function public.vol is VOLATILE and may write"),
        (
            "SELECT * FROM plain WHERE id = (SELECT \"vol\"())",
            "!function public.vol is VOLATILE and may write",
        ),
        ("SELECT tenant.vol()", "!function tenant.vol is not in the catalog and may write"),
        ("SELECT nosuch()", "!function nosuch is not in the catalog and may write"),
        ("SELECT mixed(1)", "!function public.mixed is VOLATILE and may write"),
        ("SELECT by_default()", "!function public.by_default is VOLATILE and may write"),
        ("SELECT agg(id) FROM plain", "!function public.agg is VOLATILE and may write"),
        (
            "SELECT p.note FROM plain p",
            "!function public.note behind the attribute note is VOLATILE and may write",
        ),
        (
            "SELECT p.\"note\" FROM plain p",
            "!function public.note behind the attribute note is VOLATILE and may write",
        ),
        (
            "SELECT point(1,2) @@@> 'x'",
            "!function public.near behind the operator @@@> is VOLATILE and may write",
        ),
        (
            "SELECT point(1,2) OPERATOR(public.@@@>) 'x'",
            "!function public.near behind the operator @@@> is VOLATILE and may write",
        ),
        (
            "SELECT 1::amount",
            "!function public.to_amount behind the cast to amount is VOLATILE and may write",
        ),
        (
            "SELECT CAST(id AS public.amount) FROM plain",
            "!function public.to_amount behind the cast to amount is VOLATILE and may write",
        ),
        ("SELECT 'x'::email", "all"),
        ("SELECT * FROM view_vol", "!function public.vol behind public.view_vol is VOLATILE and may write"),
        ("SELECT * FROM view_stab", "all"),
        (
            "SELECT * FROM view_node",
            "!function pg_is_in_recovery behind public.view_node is for the primary alone",
        ),
        ("SELECT * FROM view_lock", "!public.view_lock is a view that locks rows"),
        ("SELECT * FROM view_fleeting", "!public.fleeting is an unlogged table"),
        ("SELECT * FROM fleeting", "!public.fleeting is an unlogged table"),
        ("SELECT * FROM counter", "!public.counter is a sequence"),
        ("SELECT * FROM nosuch", "!table nosuch is not in the catalog"),
        ("SELECT * FROM guarded", "all"),
        ("SELECT relname FROM pg_class", "pg_catalog.pg_class"),
        ("SELECT * FROM information_schema.tables", "information_schema.tables"),
        ("SELECT * FROM tenant.plain", "tenant.plain"),
        ("SELECT id FROM plain FOR UPDATE", "!row locks (FOR UPDATE, FOR SHARE)"),
        ("SELECT imm(1) FROM plain FOR UPDATE", "!row locks (FOR UPDATE, FOR SHARE)"),
        ("COPY plain TO STDOUT", "plain"),
        ("SELECT nextval('counter')", "!function nextval may write or has a side effect"),
    ];
    let mut wrong = Vec::new();
    for (sql, expected) in cases {
        let resolved = known.resolve(sql, "public");
        let found = if resolved.effect == Effect::Read {
            known.names(&resolved.reads)
        } else {
            format!("!{}", resolved.reason)
        };
        if found != expected {
            wrong.push(format!("{sql}\n  expected {expected}\n  found    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn writes() {
    let database = support::database();
    database.on(0, SCHEMA);
    let known = known(&database.name).await;
    let cases = [
        ("INSERT INTO plain VALUES (1)", "plain"),
        ("UPDATE plain SET name = lower(name) WHERE id = imm(2)", "all"),
        ("UPDATE plain SET name = upper(name) WHERE id = imm(2)", "plain"),
        ("UPDATE plain SET id = stab()", "plain"),
        ("UPDATE plain SET id = vol()", "all"),
        ("DELETE FROM parent", "child grandchild parent"),
        ("DELETE FROM child", "child grandchild"),
        ("DELETE FROM bystander", "bystander"),
        ("INSERT INTO triggered VALUES (1)", "all"),
        ("INSERT INTO disabled VALUES (1)", "disabled"),
        ("INSERT INTO searched VALUES ('x')", "searched"),
        ("INSERT INTO ruled VALUES (1)", "all"),
        ("INSERT INTO parts VALUES (1, now())", "parts"),
        ("DELETE FROM parts_new", "parts"),
        ("UPDATE base SET id = 1", "base"),
        ("UPDATE derived SET id = 1", "base"),
        ("INSERT INTO view1 VALUES (1)", "other plain"),
        ("INSERT INTO view_vol VALUES (1)", "all"),
        ("INSERT INTO defaults VALUES (DEFAULT)", "all"),
        ("INSERT INTO serial VALUES (DEFAULT)", "serial"),
        ("INSERT INTO guarded VALUES (1)", "guarded"),
        ("INSERT INTO plain SELECT * FROM view_vol", "all"),
        ("INSERT INTO plain SELECT * FROM nosuch", "all"),
        ("INSERT INTO nosuch VALUES (1)", "all"),
        ("WITH d AS (DELETE FROM other RETURNING *) INSERT INTO plain SELECT * FROM d", "other plain"),
        ("MERGE INTO plain USING other ON plain.id = other.id WHEN MATCHED THEN DELETE", "plain"),
        ("TRUNCATE plain, other", "other plain"),
        ("TRUNCATE parent CASCADE", "all"),
        ("COPY plain FROM STDIN", "plain"),
        ("INSERT INTO plain VALUES (1); DELETE FROM other", "other plain"),
        ("INSERT INTO plain VALUES (1); CALL x()", "all"),
        ("CALL x()", "all"),
        ("DO 'BEGIN END'", "all"),
        ("CREATE TABLE x (id int)", "all"),
        ("EXECUTE p", "all"),
        ("gibberish", "all"),
        ("SELECT 1", ""),
        ("SELECT vol()", "all"),
        ("SELECT * FROM fleeting", ""),
        ("SELECT id FROM plain FOR UPDATE", ""),
        ("SET note = 1", ""),
        ("BEGIN", ""),
        ("NOTIFY x", ""),
    ];
    let mut wrong = Vec::new();
    for (sql, expected) in cases {
        let found = known.names(&known.resolve(sql, "public").writes);
        if found != expected {
            wrong.push(format!("{sql}\n  expected {expected}\n  found    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(known.resolve("SET note = 1", "public").effect, Effect::Session);
    let tables = |path| known.names(&known.resolve("SELECT * FROM plain", path).reads);
    assert_eq!(tables("?"), "plain tenant.plain", "not known where: both");
    assert_eq!(tables("tenant"), "tenant.plain");
    assert_eq!(tables("\"$user\", tenant, public"), "plain tenant.plain");
}

/// The fingerprint changes with each kind of thing the catalog knows, and not with what changes nothing.
#[tokio::test]
async fn fingerprints() {
    let database = support::database();
    database.on(0, SCHEMA);
    let client = connect(&database.name).await;
    let mut before = rows(&client, catalog::FINGERPRINT).await;
    for (sql, changes) in [
        ("INSERT INTO plain SELECT generate_series(1, 1000)", false),
        ("ANALYZE plain", false),
        ("VACUUM plain", false),
        ("SELECT nextval('counter')", false),
        ("CREATE TABLE fresh (id int)", true),
        ("ALTER TABLE fresh RENAME TO fresher", true),
        ("ALTER TABLE fresher SET SCHEMA tenant", true),
        ("ALTER SCHEMA tenant RENAME TO tenant2", true),
        ("ALTER TABLE tenant2.fresher SET UNLOGGED", true),
        ("ALTER FUNCTION stab() VOLATILE", true),
        ("CREATE OR REPLACE VIEW view_stab AS SELECT vol()::bigint AS stab", true),
        ("ALTER TABLE triggered DISABLE TRIGGER t", true),
        ("DROP RULE also ON ruled", true),
        ("ALTER TABLE derived NO INHERIT base", true),
        ("ALTER TABLE bystander ADD FOREIGN KEY (parent) REFERENCES parent ON DELETE SET NULL", true),
        ("ALTER POLICY p ON guarded USING (true)", true),
        ("ALTER TABLE plain ALTER name SET DEFAULT 'x'", true),
        ("ALTER DOMAIN email ADD CHECK (VALUE <> '')", true),
        ("CREATE INDEX ON plain (lower(name))", true),
        ("DROP CAST (int AS amount)", true),
        ("DROP OPERATOR @@@> (point, text)", true),
        ("DROP AGGREGATE agg(int)", true),
    ] {
        client.simple_query(sql).await.unwrap();
        let after = rows(&client, catalog::FINGERPRINT).await;
        assert_eq!(after != before, changes, "{sql}");
        before = after;
    }
}

/// Rows of another shape are refused, not guessed at.
#[test]
fn strange_rows() {
    for row in
        [vec![], vec!["mystery"], vec!["relation", "x", "public", "t", "r", "p"], vec!["relation", "1"]]
    {
        let row: Vec<_> = row.into_iter().map(|f| Some(f.to_owned())).collect();
        assert!(Catalog::from_rows(&[row]).is_err());
    }
}

/// What a hit of the cache costs; printed with --no-capture.
#[tokio::test]
async fn a_hit_costs_little() {
    let database = support::database();
    database.on(0, SCHEMA);
    let known = known(&database.name).await;
    let cell = CatalogCell::default();
    let path = SearchPath::parse("\"$user\", public", Some("app"));
    assert!(cell.loaded(cell.generation(), "x".into(), known.catalog, Instant::now()));
    let statement = known.cache.analyze(b"SELECT * FROM view2 JOIN plain USING (id)", LexOptions::default());
    let rounds = 200_000;
    let start = Instant::now();
    for _ in 0..rounds {
        assert_eq!(std::hint::black_box(cell.load().resolve(&statement, &path)).effect, Effect::Read);
    }
    let each = start.elapsed() / rounds;
    println!("a hit takes {each:?}");
    assert!(each < Duration::from_micros(if cfg!(debug_assertions) { 50 } else { 5 }), "{each:?}");
}

/// Waits until `check` holds.
async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_keeper_reads_it_and_reads_it_again_after_ddl() {
    let database = support::database();
    database.on(0, SCHEMA);
    let yaml = format!("routing: {{catalog_refresh: 200ms}}\n{}", database.yaml());
    let pgweir = support::InProcess::start(&yaml).await;
    let entry = pgweir.context.topology.load().database(&database.name).unwrap();
    let cell = &entry.catalog;
    eventually("read", || cell.state().present).await;
    let cache = StatementCache::new(1 << 20);
    let path = SearchPath::parse("public", None);
    let effect = |sql: &str| {
        let statement = cache.analyze(sql.as_bytes(), LexOptions::default());
        cell.load().resolve(&statement, &path).effect
    };
    assert_eq!(effect("SELECT stab()"), Effect::Read);
    // Made elsewhere: seen by the period.
    database.on(0, "ALTER FUNCTION stab() VOLATILE");
    eventually("seen by the period", || effect("SELECT stab()") == Effect::Write).await;
    // Announced: known to be unknown at once, and known again soon after its end.
    let ticket = cell.begin_ddl();
    assert!(!cell.state().present);
    database.on(0, "ALTER FUNCTION stab() STABLE");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!cell.state().present, "not while DDL is under way");
    cell.end_ddl(ticket);
    eventually("known again", || cell.state().present).await;
    assert_eq!(effect("SELECT stab()"), Effect::Read);
    // Nothing has changed: looked at, not read.
    let loads = cell.state().loads;
    let confirmed = cell.state().confirmed;
    eventually("looked at", || cell.state().confirmed > confirmed).await;
    assert_eq!(cell.state().loads, loads);
    pgweir.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_not_known() {
    let database = support::database();
    let yaml = format!("routing: {{catalog_refresh: 200ms}}\n{}", database.yaml());
    let pgweir = support::InProcess::start(&yaml).await;
    let entry = pgweir.context.topology.load().database(&database.name).unwrap();
    eventually("read", || entry.catalog.state().present).await;
    // No connection can be made any more, and the one there is dies.
    let cluster = support::cluster();
    let deny = format!(
        "ALTER DATABASE {0} ALLOW_CONNECTIONS false; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{0}'",
        database.name
    );
    cluster.psql(0, "postgres", &deny).unwrap();
    eventually("not known", || !entry.catalog.state().present).await;
    let state = entry.catalog.state();
    assert!(state.failures > 0 && state.error.is_some(), "{state:?}");
    let allow = format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", database.name);
    cluster.psql(0, "postgres", &allow).unwrap();
    eventually("known again", || entry.catalog.state().present).await;
    assert_eq!(entry.catalog.state().error, None);
    pgweir.stop().await;
}

#[tokio::test]
async fn names_of_the_wildcard_and_zero_have_no_keeper() {
    let database = support::database();
    let cluster = support::cluster();
    let yaml = format!(
        "databases:\n  {}: {{primary: {1}, routing: {{catalog_refresh: 0}}}}\n  \"*\": {{primary: {1}}}\nusers:\n  app: {{password: app}}\n",
        database.name,
        cluster.address(0)
    );
    let pgweir = support::InProcess::start(&yaml).await;
    let client = pgweir.client("postgres").await;
    client.simple_query("SELECT 1").await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    for name in [database.name.as_str(), "postgres"] {
        let entry = pgweir.context.topology.load().database(name).unwrap();
        let state = entry.catalog.state();
        assert_eq!((state.loads, state.failures, state.present), (0, 0, false), "{name}");
    }
    pgweir.stop().await;
}

/// `pgweir route`: a dump and a live connection say the same.
#[tokio::test]
async fn the_command_explains() {
    let database = support::database();
    database.on(0, SCHEMA);
    let url = support::cluster().app_url(0, &database.name);
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_pgweir"))
            .arg("route")
            .args(arguments)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (ok, dump) = run(&["--dump-catalog", "--connect", &url]);
    assert!(ok && dump.starts_with('{'));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("catalog.json");
    std::fs::write(&file, &dump).unwrap();
    let file = file.to_str().unwrap();
    for (sql, lines) in [
        (
            "SELECT * FROM view2",
            ["target      replica", "sees        public.plain, public.other, public.base"],
        ),
        (
            "SELECT vol()",
            ["target      primary", "because     function public.vol is VOLATILE and may write"],
        ),
        ("DELETE FROM child", ["target      primary", "changes     public.child, public.grandchild"]),
    ] {
        let (_, offline) = run(&["--catalog", file, "--search-path", "public", sql]);
        let (_, live) = run(&["--connect", &url, "--search-path", "public", sql]);
        assert_eq!(offline, live);
        for line in lines {
            assert!(offline.lines().any(|l| l == line), "{line} is not in\n{offline}");
        }
    }
    std::fs::write(file, "{}").unwrap();
    assert!(!run(&["--catalog", file, "SELECT 1"]).0);
}

/// Fifty thousand tables with sequences, a view for every tenth, cascades and partitions: bytes and time.
#[test]
fn many_tables() {
    let field = |text: &str| Some(text.to_owned());
    let mut rows: Vec<Vec<Option<String>>> = Vec::new();
    let mut add = |line: String| rows.push(line.split(' ').map(field).collect());
    for n in 0..50_000u32 {
        let oid = 20_000 + n * 4;
        add(format!("relation {oid} public a_table_with_a_usual_name_{n} r p"));
        add(format!("relation {} public a_table_with_a_usual_name_{n}_id_seq S p", oid + 1));
        match n % 10 {
            0 => {
                add(format!("relation {} public a_view_{n} v p", oid + 2));
                add(format!("uses view {} relation {oid}", oid + 2));
            }
            1 => add(format!("cascade {} {oid}", oid - 4)),
            2 => add(format!("inherits {oid} 20000")),
            _ => {}
        }
    }
    let start = Instant::now();
    let catalog = Catalog::from_rows(&rows).unwrap();
    println!("{} rows: {} bytes, {:?}", rows.len(), catalog.weight(), start.elapsed());
    assert!(catalog.weight() < 40 << 20, "{}", catalog.weight());
    assert_eq!(catalog.counts(), (105_000, 0));
}
