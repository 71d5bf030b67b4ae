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

use bytes::{BufMut, BytesMut};
use pgweir::protocol::writer::{cstr, message};
use pgweir::protocol::{frontend, startup};
use support::Pgweir;
use support::wire::{Message, RawClient};

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
        message(&mut self.bytes, b'P', |b| {
            cstr(b, name.as_bytes());
            cstr(b, sql.as_bytes());
            b.put_i16(0);
        });
        self
    }

    fn bind_to(mut self, portal: &str, name: &str, values: &[&str]) -> Self {
        message(&mut self.bytes, b'B', |b| {
            cstr(b, portal.as_bytes());
            cstr(b, name.as_bytes());
            b.put_i16(0);
            b.put_i16(values.len() as i16);
            for value in values {
                b.put_i32(value.len() as i32);
                b.put_slice(value.as_bytes());
            }
            b.put_i16(0);
        });
        self
    }

    fn bind(self, name: &str) -> Self {
        self.bind_to("", name, &[])
    }

    fn named(mut self, tag: u8, kind: u8, name: &str) -> Self {
        message(&mut self.bytes, tag, |b| {
            b.put_u8(kind);
            cstr(b, name.as_bytes());
        });
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
        message(&mut self.bytes, b'E', |b| {
            cstr(b, portal.as_bytes());
            b.put_i32(rows);
        });
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
