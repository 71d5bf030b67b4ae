//! Prepared statements on changing server connections, compared with PostgreSQL to the last field.
//!
//! A play is a list of steps, each said by one of several clients. It is run against PostgreSQL, where
//! each client has its own connection, and through pgweir: on one connection that all share, and on two
//! of which no client gets the same twice in a row.

#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code outside a #[test]"
)]

mod support;

use std::collections::BTreeMap;

use bytes::BytesMut;
use pgweir::protocol::writer::message;
use pgweir::protocol::{frontend, startup};
use support::Pgweir;
use support::wire::{self, Message, RawClient};

/// What pgweir runs with.
const ROTATING: &str = "pool: {size: 2, debug_rotate: true, debug_check: true}\nrouting: {reads: primary}\n";
const SHARED: &str = "workers: 1\npool: {size: 1, debug_check: true}\nrouting: {reads: primary}\n";

#[derive(Clone, Default)]
struct Say {
    client: usize,
    bytes: BytesMut,
    ready: usize,
}

/// Begins what client `client` says.
fn c(client: usize) -> Say {
    Say { client, ..Say::default() }
}

impl Say {
    fn parse(mut self, name: &str, sql: &str) -> Self {
        wire::parse(&mut self.bytes, name, sql);
        self
    }

    fn bind_to(mut self, portal: &str, name: &str, values: &[&str]) -> Self {
        wire::bind(&mut self.bytes, portal, name, values);
        self
    }

    fn bind(self, name: &str) -> Self {
        self.bind_to("", name, &[])
    }

    fn named(mut self, tag: u8, kind: u8, name: &str) -> Self {
        wire::named(&mut self.bytes, tag, kind, name);
        self
    }

    fn describe(self, name: &str) -> Self {
        self.named(b'D', b'S', name)
    }

    fn describe_portal(self, name: &str) -> Self {
        self.named(b'D', b'P', name)
    }

    fn close(self, name: &str) -> Self {
        self.named(b'C', b'S', name)
    }

    fn rows(mut self, portal: &str, rows: i32) -> Self {
        wire::execute(&mut self.bytes, portal, rows);
        self
    }

    fn execute(self) -> Self {
        self.rows("", 0)
    }

    /// Bind and Execute.
    fn run(self, name: &str) -> Self {
        self.bind(name).execute()
    }

    fn flush(mut self) -> Self {
        message(&mut self.bytes, b'H', |_| {});
        self
    }

    fn sync(mut self) -> Self {
        message(&mut self.bytes, b'S', |_| {});
        self.ready += 1;
        self
    }

    fn query(mut self, sql: &str) -> Self {
        frontend::query(&mut self.bytes, sql.as_bytes());
        self.ready += 1;
        self
    }
}

fn q(client: usize, sql: &str) -> Say {
    c(client).query(sql)
}

/// All fields of an error; of a RowDescription all but the OIDs of tables, which are made anew for each run.
fn comparable(messages: Vec<Message>) -> Vec<String> {
    messages
        .into_iter()
        .map(|(tag, body)| {
            let mut text = format!("{} ", tag as char);
            if tag == b'T' {
                let mut reader = pgweir::protocol::Reader::new(&body);
                for _ in 0..reader.i16().unwrap() {
                    text.push_str(&String::from_utf8_lossy(reader.cstr().unwrap()));
                    let (_, rest) = (reader.i32().unwrap(), reader.bytes(14).unwrap());
                    text.push_str(&format!(" {rest:?} "));
                }
            } else {
                text.push_str(&String::from_utf8_lossy(&body).escape_debug().to_string());
            }
            // Where in its source the server raises it, we cannot know where we say it in its place.
            if text.contains("RRevalidateCachedQuery") {
                let line = text.find("\\0L").unwrap_or(text.len());
                let rest = text.find("\\0RRevalidate").unwrap();
                text.replace_range(line.min(rest)..rest, "");
            }
            text
        })
        .collect()
}

fn perform(port: u16, database: &str, startups: &[&[(&str, &str)]], play: &[Say]) -> Vec<String> {
    let mut clients = BTreeMap::new();
    let mut seen = Vec::new();
    for (number, say) in play.iter().enumerate() {
        let client = clients.entry(say.client).or_insert_with(|| {
            let mut out = BytesMut::new();
            let own = startups.get(say.client).copied().unwrap_or_default();
            let parameters = [("user", "app"), ("database", database)].into_iter().chain(own.iter().copied());
            startup::startup_message(&mut out, parameters);
            RawClient::connect(port).log_in(&out)
        });
        client.send(&say.bytes);
        let answers = comparable(client.until_ready(say.ready));
        seen.extend(answers.into_iter().map(|answer| format!("{number}, client {}: {answer}", say.client)));
        if say.ready == 0 {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
    seen
}

const SETUP: &str = "DROP SCHEMA IF EXISTS a CASCADE; DROP SCHEMA IF EXISTS b CASCADE; DROP TABLE IF EXISTS t, u, v; \
    CREATE TABLE t (i int, x text); INSERT INTO t VALUES (1, 'one'); CREATE TABLE u (i int); INSERT INTO u VALUES (2); \
    CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.w (i int); CREATE TABLE b.w (i text); \
    INSERT INTO a.w VALUES (11); INSERT INTO b.w VALUES ('twelve')";

/// Runs the play everywhere; the answers must be the same.
fn same(play: &[Say]) {
    same_with(&[], play);
}

fn same_with(startups: &[&[(&str, &str)]], play: &[Say]) {
    let database = support::database();
    database.on(0, SETUP);
    let direct = perform(support::cluster().port(0), &database.name, startups, play);
    for yaml in [SHARED, ROTATING] {
        database.on(0, SETUP);
        let pgweir = Pgweir::start(&format!("{yaml}{}", database.yaml()));
        let through = perform(pgweir.port, &database.name, startups, play);
        assert_eq!(through, direct, "with {yaml}");
        assert!(!pgweir.log().contains("came back unclean"), "{}", pgweir.log());
    }
}

const DATE: &str =
    "SELECT '01/02/2026'::date - '2026-01-02'::date, '2026-01-01 12:00'::timestamptz = '2026-01-01 12:00Z'";

/// Literals are read when a statement is parsed: those of one client must not be read as another one means them.
#[test]
fn literals_are_read_as_the_client_means_them() {
    same_with(
        &[
            &[("DateStyle", "ISO, MDY"), ("TimeZone", "UTC")],
            &[("DateStyle", "ISO, DMY"), ("TimeZone", "Asia/Tokyo")],
        ],
        &[
            c(0).parse("s", DATE).sync(),
            c(1).parse("s", DATE).sync(),
            c(0).run("s").sync(),
            c(1).run("s").sync(),
            c(1).run("s").sync(),
            c(0).run("s").sync(),
            c(0).run("s").sync(),
        ],
    );
}

/// A SET after the Parse does not change what the literals meant.
#[test]
fn literals_keep_their_meaning() {
    same(&[
        q(0, "SET DateStyle = 'ISO, MDY'"),
        c(0).parse("s", DATE).sync(),
        c(0).run("s").sync(),
        q(0, "SET DateStyle = 'ISO, DMY'"),
        c(1).parse("s", DATE).sync(),
        c(0).run("s").sync(),
        c(0).run("s").sync(),
        c(1).run("s").sync(),
        c(1).run("s").sync(),
        c(0).run("s").sync(),
        c(0).close("s").parse("s", DATE).run("s").sync(),
        c(0).run("s").sync(),
        c(0).run("s").sync(),
    ]);
}

/// Nor does what is set for one transaction reach anybody else.
#[test]
fn local_settings_stay_in_their_transaction() {
    same(&[
        c(1).parse("s", DATE).sync(),
        c(0).parse("s", DATE).sync(),
        q(0, "BEGIN"),
        q(0, "SET LOCAL DateStyle = 'ISO, DMY'"),
        c(0).parse("other", "SELECT '03/04/2026'::date").run("other").sync(),
        q(0, "COMMIT"),
        c(1).parse("other", "SELECT '03/04/2026'::date").run("other").sync(),
        c(1).run("other").sync(),
        c(1).run("other").sync(),
        c(1).run("s").sync(),
        c(1).run("s").sync(),
    ]);
}

/// The same name on two paths is two tables.
#[test]
fn search_paths_are_kept_apart() {
    let sql = "SELECT * FROM w";
    same_with(
        &[&[("search_path", "a")], &[("search_path", "b")]],
        &[
            c(0).parse("s", sql).describe("s").sync(),
            c(1).parse("s", sql).describe("s").sync(),
            c(0).run("s").sync(),
            c(1).run("s").sync(),
            c(1).run("s").sync(),
            c(0).run("s").sync(),
            c(0).run("s").sync(),
        ],
    );
}

/// Who was told the old columns hears of the change, though somebody else has prepared anew where he comes.
#[test]
fn old_columns_are_never_read_from_new_rows() {
    let sql = "SELECT * FROM t";
    same(&[
        c(0).parse("s", sql).describe("s").sync(),
        c(0).run("s").sync(),
        c(0).run("s").sync(),
        q(1, "ALTER TABLE t ALTER COLUMN i TYPE text USING 'now ' || i"),
        c(1).parse("n", sql).describe("n").sync(),
        c(1).run("n").sync(),
        c(1).run("n").sync(),
        c(0).run("s").sync(),
        c(0).run("s").sync(),
        c(0).close("s").parse("s", sql).describe("s").sync(),
        c(0).run("s").sync(),
    ]);
}

/// The same with statements that have no name.
#[test]
fn old_columns_of_unnamed_statements() {
    let sql = "SELECT * FROM t";
    same(&[
        c(0).parse("", sql).describe("").sync(),
        c(0).run("").sync(),
        q(1, "ALTER TABLE t ALTER COLUMN i TYPE text USING 'now ' || i"),
        c(1).parse("", "SELECT 1").run("").sync(),
        c(0).run("").sync(),
        c(0).run("").sync(),
        c(0).parse("", sql).describe("").sync(),
        c(0).run("").sync(),
    ]);
}

/// A client that prepares after the change never hears of it: in transactions, pipelines, second in a batch.
#[test]
fn new_statements_are_never_stale() {
    let sql = "SELECT * FROM t";
    same(&[
        c(0).parse("s", sql).run("s").sync(),
        c(0).run("s").sync(),
        c(0).parse("s2", "SELECT * FROM u").run("s2").sync(),
        c(0).run("s2").sync(),
        q(1, "ALTER TABLE t ADD COLUMN more int"),
        q(1, "ALTER TABLE u ADD COLUMN more int"),
        c(1).parse("n", sql).run("n").parse("n2", "SELECT * FROM u").describe("n2").run("n2").sync(),
        c(1).describe("n").run("n2").run("n").sync(),
        q(1, "BEGIN"),
        c(1).run("n").sync(),
        c(1).run("n2").sync(),
        q(1, "COMMIT"),
        q(2, "BEGIN"),
        c(2).parse("x", sql).run("x").sync(),
        q(2, "ROLLBACK"),
    ]);
}

/// Described is not executed: rows that come in front of the description are read by the old one.
#[test]
fn a_description_counts_for_what_comes_behind_it() {
    let sql = "SELECT * FROM t";
    same(&[
        c(0).parse("s", sql).describe("s").sync(),
        c(0).run("s").sync(),
        q(1, "ALTER TABLE t ADD COLUMN more int"),
        c(1).parse("s", sql).run("s").sync(),
        c(1).run("s").sync(),
        c(0).bind("s").execute().parse("", "SELECT 1").bind("").describe_portal("").execute().sync(),
    ]);
}

/// A change that is rolled back has changed nothing.
#[test]
fn changes_that_are_rolled_back() {
    let sql = "SELECT * FROM t";
    same(&[
        c(0).parse("s", sql).describe("s").sync(),
        c(0).run("s").sync(),
        q(1, "BEGIN"),
        q(1, "ALTER TABLE t ADD COLUMN more int"),
        c(1).parse("n", sql).run("n").sync(),
        q(1, "ROLLBACK"),
        c(0).run("s").sync(),
        c(0).run("s").sync(),
        c(2).parse("s", sql).run("s").sync(),
        c(2).run("s").sync(),
    ]);
}

/// A table that is gone and made anew.
#[test]
fn tables_made_anew() {
    let sql = "SELECT * FROM u";
    same(&[
        c(0).parse("s", sql).run("s").sync(),
        c(0).run("s").sync(),
        q(1, "DROP TABLE u"),
        c(0).run("s").sync(),
        c(0).run("s").sync(),
        q(1, "CREATE TABLE u (i int)"),
        c(0).run("s").sync(),
        c(0).run("s").sync(),
    ]);
}

/// Which error comes first, and every field of it.
#[test]
fn names_taken_and_unknown() {
    let long = "n".repeat(70);
    same(&[
        c(0).parse("s", "SELECT 1").sync(),
        c(0).parse("s", "SELECT 2").sync(),
        c(0).parse("s", "SELEKT").sync(),
        c(0).parse("s", "SELECT * FROM nowhere").sync(),
        c(0).run("nope").sync(),
        c(0).describe("nope").sync(),
        c(0).run("").sync(),
        c(0).describe("").sync(),
        c(0).close("nope").sync(),
        q(0, "BEGIN"),
        c(0).parse("s", "SELECT 2").sync(),
        c(0).parse("s", "SELECT 2").sync(),
        c(0).parse("s", "ROLLBACK").sync(),
        c(0).run("nope").sync(),
        q(0, "ROLLBACK"),
        c(0).run("s").sync(),
        c(0).parse(&long, "SELECT 3").sync(),
        c(0).parse(&long[..65], "SELECT 4").sync(),
        c(0).run(&long[..63]).sync(),
        c(0).run("pgweir_1").describe("pgweir_1").sync(),
        c(0).parse("pgweir_1", "SELECT 5").run("pgweir_1").sync(),
        q(0, "EXECUTE pgweir_1"),
        c(0).parse("x", "SELECT 1/0").run("x").parse("y", "SELECT 6").sync(),
        c(0).run("y").sync(),
        c(0).run("x").sync(),
    ]);
}

/// One namespace for SQL and protocol, in failed transactions, too.
#[test]
fn statements_named_in_sql() {
    same(&[
        c(0).parse("s", "SELECT 'kept'").sync(),
        c(0).parse("w", "SELECT * FROM u").sync(),
        q(0, "BEGIN"),
        q(0, "SELECT 1/0"),
        q(0, "EXECUTE s"),
        q(0, "ROLLBACK"),
        c(0).run("s").sync(),
        q(0, "EXECUTE s"),
        q(0, "BEGIN"),
        q(0, "EXECUTE s"),
        c(0).run("s").sync(),
        q(0, "SELECT 1/0"),
        q(0, "ROLLBACK"),
        c(0).run("s").sync(),
        q(1, "DROP TABLE u"),
        q(0, "DEALLOCATE w"),
        c(0).run("w").sync(),
        c(0).parse("w", "SELECT 7").run("w").sync(),
        q(0, "EXECUTE s; DEALLOCATE s; SELECT 2"),
        c(0).run("s").sync(),
        q(0, "PREPARE p AS SELECT 8"),
        c(0).describe("p").run("p").sync(),
        c(0).parse("p", "SELECT 9").sync(),
        c(0).close("p").sync(),
        c(0).parse("p", "SELECT 10").run("p").sync(),
        q(0, "DEALLOCATE PREPARE p"),
        c(0).run("p").sync(),
        q(0, "DISCARD/**/ALL"),
        c(0).run("w").sync(),
    ]);
}

/// SQL in a pipeline does not end its transaction.
#[test]
fn statements_named_in_a_pipeline() {
    same(&[
        c(0).parse("s", "SELECT 'kept'").sync(),
        c(0).parse("ex", "EXECUTE s").sync(),
        c(0).parse("", "INSERT INTO u VALUES (77)").run("").flush(),
        c(0).run("ex").parse("", "SELECT 1/0").run("").sync(),
        q(0, "SELECT * FROM u"),
        c(0).run("ex").sync(),
        c(0).run("s").sync(),
    ]);
}

/// What the protocol closes and an error undoes.
#[test]
fn what_is_skipped_has_not_happened() {
    let sql = "SELECT * FROM t";
    same(&[
        c(0).parse("s", sql).describe("s").sync(),
        c(0).run("nope").close("s").parse("s", "SELECT 1").sync(),
        c(0).run("s").sync(),
        q(1, "ALTER TABLE t ADD COLUMN more int"),
        c(1).parse("s", sql).run("s").sync(),
        c(1).run("s").sync(),
        c(0).run("s").sync(),
        c(0).run("s").sync(),
    ]);
}

fn column_types(body: &[u8]) -> Vec<u32> {
    let mut reader = pgweir::protocol::Reader::new(body);
    (0..reader.i16().unwrap())
        .map(|_| {
            reader.cstr().unwrap();
            let rest = reader.bytes(18).unwrap();
            u32::from_be_bytes(rest[6..10].try_into().unwrap())
        })
        .collect()
}

/// What a row holds in its first column, and of which type the client takes it to be.
fn first_value(body: &[u8]) -> String {
    let length = i32::from_be_bytes(body[2..6].try_into().unwrap()) as usize;
    String::from_utf8(body[6..6 + length].to_vec()).unwrap()
}

/// A table is changed by somebody who does not pass through here: what server connections hold from before is of
/// no use to who prepares after it, and who was told before it hears of it.
#[test]
fn a_change_that_passes_by() {
    let database = support::database();
    database.on(0, "CREATE TABLE t (a int); INSERT INTO t VALUES (7)");
    let pgweir = Pgweir::start(&format!("{ROTATING}{}", database.yaml()));
    let login = || RawClient::login(pgweir.port, &database.name);
    let tell = |client: &mut RawClient, say: Say| {
        client.send(&say.bytes);
        client.until_ready(1).iter().map(|(tag, _)| char::from(*tag)).collect::<String>()
    };
    let (mut before, mut after) = (login(), login());
    let prepare = || c(0).parse("s", "SELECT * FROM t").describe("s").sync();
    assert_eq!(tell(&mut before, prepare()), "1tTZ");
    for _ in 0..4 {
        assert_eq!(tell(&mut before, c(0).run("s").sync()), "2DCZ");
    }
    database.on(0, "ALTER TABLE t ADD COLUMN b int");
    assert_eq!(tell(&mut after, prepare()), "1tTZ");
    for _ in 0..4 {
        assert_eq!(tell(&mut after, c(0).run("s").sync()), "2DCZ");
    }
    assert_eq!(tell(&mut before, c(0).run("s").sync()), "EZ");
    assert_eq!(tell(&mut after, c(0).run("s").sync()), "2DCZ");
}

/// A column changes its type again and again while clients prepare, describe and run: each value is read as what
/// it is, and who prepares after a change hears nothing of it.
#[test]
fn values_are_read_as_what_they_are_while_tables_change() {
    const CLIENTS: usize = 6;
    const ROUNDS: usize = 40;
    let database = support::database();
    database.on(0, "CREATE TABLE r (v int); INSERT INTO r VALUES (7)");
    let pgweir = Pgweir::start(&format!("{}{}", ROTATING.replace("size: 2", "size: 4"), database.yaml()));
    let (port, name) = (pgweir.port, database.name.clone());
    let changer = {
        let name = name.clone();
        std::thread::spawn(move || {
            let mut client = RawClient::login(port, &name);
            for round in 0..ROUNDS {
                let sql = if round % 2 == 0 {
                    "ALTER TABLE r ALTER v TYPE text USING 't' || v"
                } else {
                    "ALTER TABLE r ALTER v TYPE int USING substr(v, 2)::int"
                };
                client.send(&q(0, sql).bytes);
                let answers = client.until_ready(1);
                assert_eq!(answers[0].0, b'C', "{:?}", comparable(answers.clone()));
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        })
    };
    let readers: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let name = name.clone();
            std::thread::spawn(move || {
                let mut client = RawClient::login(port, &name);
                let (mut read, mut refused) = (0, 0);
                for _ in 0..ROUNDS {
                    let sql = "SELECT v FROM r";
                    client.send(&c(0).close("s").parse("s", sql).describe("s").sync().bytes);
                    let told = client.until_ready(1);
                    let row = told.iter().find(|(tag, _)| *tag == b'T');
                    let types =
                        column_types(&row.unwrap_or_else(|| panic!("{:?}", comparable(told.clone()))).1);
                    for _ in 0..3 {
                        client.send(&c(0).run("s").sync().bytes);
                        let answers = client.until_ready(1);
                        match answers.iter().find(|(tag, _)| *tag == b'D') {
                            Some((_, body)) => {
                                let value = first_value(body);
                                assert_eq!(
                                    types == [25],
                                    value.starts_with('t'),
                                    "client {number} read {value} as {types:?}"
                                );
                                read += 1;
                            }
                            None => {
                                let text = comparable(answers).join(" ");
                                assert!(text.contains("cached plan must not change result type"), "{text}");
                                refused += 1;
                            }
                        }
                    }
                }
                (read, refused)
            })
        })
        .collect();
    changer.join().unwrap();
    let counts: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    println!("(read, refused): {counts:?}");
    assert!(counts.iter().all(|(read, _)| *read > 0), "{counts:?}");
}

/// Ever new statements by clients that close them, and by some that do not: what servers hold stays within its
/// bounds, and what is over a client's own limit is refused with a hint. `PGWEIR_STATEMENTS` runs the long form.
#[test]
fn ever_new_statements_are_bounded() {
    let statements: usize =
        std::env::var("PGWEIR_STATEMENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(8_000);
    let database = support::database();
    let yaml = format!(
        "workers: 1\npool: {{size: 2, prepared_statements: 50, prepared_statement_memory: 64KiB}}\n\
         limits: {{prepared_statements_per_client: 100, prepared_statement_memory_per_client: 64KiB}}\n\
         routing: {{reads: primary}}\n{}",
        database.yaml()
    );
    let pgweir = Pgweir::start(&yaml);
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pgweir.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let filler = "x".repeat(900);
    let mut clients: Vec<_> = (0..4).map(|_| RawClient::login(pgweir.port, &database.name)).collect();
    let mut before = 0;
    for number in 0..statements {
        let client = &mut clients[number % 4];
        let sql = format!("SELECT {number} AS c{number} /* {filler} */");
        client.send(&c(0).parse("s", &sql).run("s").close("s").sync().bytes);
        let answers = client.until_ready(1);
        assert!(
            answers.iter().any(|(tag, body)| *tag == b'D' && body.ends_with(number.to_string().as_bytes()))
        );
        if number == statements / 4 {
            before = memory();
        }
    }
    let grown = memory().saturating_sub(before);
    assert!(grown < 24 * 1024, "{grown} KiB more after {statements} statements");
    for _ in 0..4 {
        clients[0].send(&q(0, "SELECT count(*) FROM pg_prepared_statements").bytes);
        let answers = clients[0].until_ready(1);
        let held: usize =
            first_value(&answers.iter().find(|(tag, _)| *tag == b'D').unwrap().1).parse().unwrap();
        assert!(held <= 51, "{held} on a server connection");
    }
    // By number, then by bytes; after the refusal the client goes on with what it has.
    let refusal = |client: &mut RawClient, sql: &dyn Fn(usize) -> String| {
        for number in 0.. {
            let name = format!("kept{number}");
            client.send(&c(0).parse(&name, &sql(number)).sync().bytes);
            let answers = client.until_ready(1);
            if answers[0].0 == b'E' {
                client.send(&c(0).run("kept0").sync().bytes);
                assert!(client.until_ready(1).iter().any(|(tag, _)| *tag == b'D'));
                return (number, comparable(answers).join(" "));
            }
        }
        unreachable!()
    };
    let (number, error) = refusal(&mut clients[1], &|number| format!("SELECT {number}"));
    assert!(
        number == 100 && error.contains("C53400") && error.contains("limits.prepared_statements_per_client"),
        "{number} {error}"
    );
    let (number, error) = refusal(&mut clients[2], &|number| format!("SELECT {number} /* {filler} */"));
    assert!(
        number < 100
            && error.contains("C53400")
            && error.contains("limits.prepared_statement_memory_per_client"),
        "{number} {error}"
    );
}
