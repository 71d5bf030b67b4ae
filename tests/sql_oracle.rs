//! The classifier against an independent parser on a generated corpus, and the lexer against PostgreSQL.
//!
//! A grammar makes statements with decoys (keywords in strings, comments, names) and with writes at
//! depths; `squawk-syntax`, which shares nothing with us, says what is in them. A statement that we call
//! a read and in which it sees a write fails the test. The seed is printed; `PGWEIR_SEED` replays one.

#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "test code outside a #[test]"
)]

mod support;

use pgweir::sql::{Effect, Kind, LexOptions, Scanner, StatementCache};
use squawk_syntax::ast::AstNode;
use squawk_syntax::{SourceFile, SyntaxKind};

const STATEMENTS: usize = 6_000;

/// A small generator of numbers; the same seed gives the same corpus.
struct Dice(u64);

impl Dice {
    fn from_environment() -> Self {
        let seed = std::env::var("PGWEIR_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
        let seed = seed.unwrap_or_else(|| {
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos().into()
        });
        eprintln!("PGWEIR_SEED={seed}");
        Self(seed | 1)
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }
}

fn name(dice: &mut Dice) -> String {
    let plain = [
        "t",
        "u",
        "orders",
        "\"Order\"",
        "public.t",
        "\"update\"",
        "app.users",
        "x1",
        "insert_log",
        "\"a\"\"b\"",
    ];
    dice.pick(&plain).to_owned()
}

fn literal(dice: &mut Dice) -> String {
    let all = [
        "1",
        "42",
        "1.5",
        "'a'",
        "'it''s'",
        "'; DELETE FROM t'",
        "E'\\'; drop'",
        "$$ update t $$",
        "$x$ into $x$",
        "NULL",
        "true",
        "'2026-01-01'::date",
        "$1",
        "B'01'",
        "'for update'",
        "x.a",
        "a",
        "\"into\"",
    ];
    dice.pick(&all).to_owned()
}

fn expression(dice: &mut Dice, depth: usize) -> String {
    if depth == 0 {
        return literal(dice);
    }
    match dice.roll(12) {
        0 => format!("{} + {}", expression(dice, depth - 1), expression(dice, depth - 1)),
        1 => format!("coalesce({}, {})", expression(dice, depth - 1), literal(dice)),
        2 => format!(
            "CASE WHEN {} = 1 THEN {} ELSE {} END",
            expression(dice, depth - 1),
            literal(dice),
            literal(dice)
        ),
        3 => format!("({})", query(dice, depth - 1)),
        4 => format!("EXISTS ({})", query(dice, depth - 1)),
        5 => format!("{} IN ({}, {})", literal(dice), literal(dice), literal(dice)),
        6 => format!("CAST({} AS numeric(10, 2))", literal(dice)),
        7 => format!("lower({}::text)", expression(dice, depth - 1)),
        8 => format!("ARRAY[{}, {}]", literal(dice), literal(dice)),
        9 => format!("count(*) FILTER (WHERE {} = 1) OVER (PARTITION BY {})", literal(dice), literal(dice)),
        _ => literal(dice),
    }
}

fn comment(dice: &mut Dice) -> &'static str {
    dice.pick(&["", "", "", " /* delete from t */ ", " -- ; update t\n", " /* a /* nested */ insert */ "])
}

fn from_item(dice: &mut Dice, depth: usize) -> String {
    match dice.roll(6) {
        0 if depth > 0 => format!("({}) AS s", query(dice, depth - 1)),
        1 if depth > 0 => format!("LATERAL ({}) AS l", query(dice, depth - 1)),
        2 => "generate_series(1, 3) AS g".to_owned(),
        3 => format!("{} JOIN u ON true", name(dice)),
        _ => name(dice),
    }
}

fn query(dice: &mut Dice, depth: usize) -> String {
    let mut sql = String::new();
    if depth > 0 && dice.roll(4) == 0 {
        let inner =
            if dice.roll(5) == 0 { modification(dice, depth - 1, true) } else { query(dice, depth - 1) };
        sql.push_str(&format!("WITH c AS ({inner}) "));
    }
    sql.push_str(&format!("SELECT {} {}", comment(dice), expression(dice, depth)));
    if dice.roll(30) == 0 {
        sql.push_str(" INTO TEMP made");
    }
    sql.push_str(&format!(" FROM {}", from_item(dice, depth)));
    if dice.roll(2) == 0 {
        sql.push_str(&format!(" WHERE {} = {}", expression(dice, depth.min(1)), literal(dice)));
    }
    match dice.roll(24) {
        0 => sql.push_str(" FOR UPDATE"),
        1 => sql.push_str(" FOR NO KEY UPDATE SKIP LOCKED"),
        2 => sql.push_str(" FOR KEY SHARE"),
        3 => sql.push_str(" ORDER BY 1 LIMIT 5"),
        4 if depth > 0 => sql.push_str(&format!(" UNION ALL {}", query(dice, depth - 1))),
        5 => sql.push_str(" GROUP BY 1 HAVING count(*) > 1"),
        _ => {}
    }
    sql
}

fn modification(dice: &mut Dice, depth: usize, returning: bool) -> String {
    let tail = if returning { " RETURNING *" } else { "" };
    match dice.roll(3) {
        0 => format!("INSERT INTO {} {}{tail}", name(dice), query(dice, depth.min(1))),
        1 => format!("UPDATE {} SET a = {}{tail}", name(dice), expression(dice, depth.min(1))),
        _ => format!("DELETE FROM {} WHERE a = {}{tail}", name(dice), literal(dice)),
    }
}

fn statement(dice: &mut Dice) -> String {
    match dice.roll(10) {
        0 => modification(dice, 2, false),
        1 => format!("EXPLAIN {}", query(dice, 2)),
        2 => format!("({})", query(dice, 2)),
        3 => format!("{}; {}", query(dice, 1), query(dice, 1)),
        4 => format!("{}; {}", query(dice, 1), modification(dice, 1, false)),
        _ => query(dice, 3),
    }
}

/// What the oracle sees: whether it understood all, how many statements, whether anything writes.
fn oracle(sql: &str) -> (bool, usize, bool) {
    let parse = SourceFile::parse(sql);
    let tree = parse.tree();
    let writes = tree.syntax().descendants().any(|node| {
        matches!(
            node.kind(),
            SyntaxKind::INSERT
                | SyntaxKind::UPDATE
                | SyntaxKind::DELETE
                | SyntaxKind::MERGE
                | SyntaxKind::SELECT_INTO
                | SyntaxKind::INTO_CLAUSE
                | SyntaxKind::LOCKING_CLAUSE
        )
    });
    (parse.errors().is_empty(), tree.stmts().count(), writes)
}

#[test]
fn no_read_in_which_the_oracle_sees_a_write() {
    let mut dice = Dice::from_environment();
    let cache = StatementCache::new(64 << 20);
    let (mut understood, mut reads, mut needless, mut wrong) = (0, 0, 0, Vec::new());
    for _ in 0..STATEMENTS {
        let sql = statement(&mut dice);
        let ours = cache.analyze(sql.as_bytes(), LexOptions::default());
        let (ok, count, writes) = oracle(&sql);
        if !ok {
            if std::env::var("PGWEIR_SHOW").is_ok() {
                eprintln!(
                    "NOT {:?} {sql}",
                    SourceFile::parse(&sql).errors().first().map(|e| e.message().to_owned())
                );
            }
            continue;
        }
        understood += 1;
        let is_read = ours.effect == Effect::Read;
        reads += usize::from(is_read);
        needless += usize::from(!is_read && !writes);
        if is_read && writes {
            wrong.push(format!("called a read: {sql}"));
        }
        if ours.statement_count as usize != count {
            wrong.push(format!("{count} statements, we count {}: {sql}", ours.statement_count));
        }
    }
    eprintln!("{understood} understood, {reads} reads, {needless} reads kept on the primary for nothing");
    assert!(
        understood > STATEMENTS / 2 && reads > STATEMENTS / 10,
        "the corpus is too poor: {understood}, {reads}"
    );
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(needless * 20 < understood, "{needless} of {understood} reads would not reach a replica");
}

/// Pieces of SQL that are hard to cut, each a value of its own.
const SNIPPETS: &[&str] = &[
    "'a'",
    "''",
    "'it''s'",
    "'a' -- c\n 'b'",
    "'a'\n'b'",
    "'a' /* x */",
    "E'\\''",
    "E'\\\\'",
    "e'a\\'b'",
    "E'a'\n'b\\''",
    "N'x'",
    "B'01'",
    "X'1F'",
    "U&'d\\0061'",
    "U&'d!0061' UESCAPE '!'",
    "$$a$$",
    "$$a'b$$",
    "$t$a$$b$t$",
    "$a1$ ; $a1$",
    "$é$x$é$",
    "1",
    "1.5",
    ".5",
    "1e10",
    "1.e1",
    "1e-3",
    "0",
    "'1'::int",
    "1::text",
    "1+1",
    "1 - -1",
    "1--c\n+1",
    "1/*c*/+1",
    "1/* /* n */ */+1",
    "2^3",
    "-1",
    "+1",
    "~1",
    "'a'||'b'",
    "'a'<'b'",
    "'{}'::jsonb @> '{}'",
    "1<>2",
    "1!=2",
    "ARRAY[1,2]",
    "(ARRAY[1,2,3])[1:2]",
    "'\\'",
    "'\\\\'",
    "'a;b'",
    "$$;$$",
    "E'\\x41'",
    "'/*'",
    "'--'",
    "\"t\".\"a;b\"",
    "\"t\".\"a\"\"b\"",
    "\"t\".\"$x\"",
    "t.a$b",
    "t.\u{e4}",
];

/// How many values and statements PostgreSQL makes of a text, and how many we do: the same.
#[tokio::test]
async fn the_lexer_cuts_as_postgresql_does() {
    let database = support::database();
    database.on(0, "CREATE TABLE t (\"a;b\" int, \"a\"\"b\" int, \"$x\" int, a$b int, \u{e4} int); INSERT INTO t VALUES (1, 2, 3, 4, 5)");
    let (client, connection) =
        tokio_postgres::connect(&support::cluster().app_url(0, &database.name), tokio_postgres::NoTls)
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut dice = Dice::from_environment();
    let mut compared = 0;
    for round in 0..400 {
        let conforming = round % 4 != 0;
        let setting = if conforming { "on" } else { "off" };
        client
            .batch_execute(&format!(
                "SET standard_conforming_strings = {setting}; SET escape_string_warning = off"
            ))
            .await
            .unwrap();
        let mut statements = Vec::new();
        for _ in 0..=dice.roll(3) {
            let values: Vec<_> = (0..=dice.roll(4)).map(|_| dice.pick(SNIPPETS)).collect();
            statements.push(format!("SELECT {} FROM t", values.join(" , ")));
        }
        let sql = statements.join(";");
        let Ok(messages) = client.simple_query(&sql).await else { continue };
        let theirs: Vec<usize> = messages
            .iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.len()),
                _ => None,
            })
            .collect();
        let options = LexOptions { standard_conforming_strings: conforming, ..LexOptions::default() };
        assert_eq!(ours(&sql, options), theirs, "standard_conforming_strings = {setting}:\n{sql}");
        compared += 1;
    }
    assert!(compared > 150, "PostgreSQL refused too many: {compared} compared");
}

/// Values in each statement by our lexer: commas outside brackets, and one more.
fn ours(sql: &str, options: LexOptions) -> Vec<usize> {
    let mut scanner = Scanner::new(sql.as_bytes(), options);
    let (mut counts, mut values, mut depth) = (Vec::new(), 1, 0_i32);
    while let Some(token) = scanner.next_token(&mut ()) {
        assert_ne!(token.kind, Kind::Error, "we cannot cut: {sql}");
        match &sql.as_bytes()[token.start..token.end] {
            b"(" | b"[" if token.kind == Kind::Punct => depth += 1,
            b")" | b"]" if token.kind == Kind::Punct => depth -= 1,
            b"," if token.kind == Kind::Punct && depth == 0 => values += 1,
            b";" if token.kind == Kind::Punct => {
                counts.push(values);
                values = 1;
            }
            _ => {}
        }
    }
    counts.push(values);
    counts
}

/// What `simple_set` reads off a SET is what the SET does.
#[tokio::test]
async fn a_set_read_off_its_text_has_the_same_effect() {
    let database = support::database();
    let (client, connection) =
        tokio_postgres::connect(&support::cluster().app_url(0, &database.name), tokio_postgres::NoTls)
            .await
            .unwrap();
    tokio::spawn(connection);
    let statements = [
        "SET work_mem = '5MB'",
        "SET work_mem TO 4096",
        "SET SESSION timezone = 'Europe/Oslo'",
        "SET timezone = UTC",
        "SET TIME ZONE 'Asia/Tokyo'",
        "SET NAMES 'latin1'",
        "SET app.tenant = 'it''s'",
        "SET app.x = '\\'",
        "SET search_path = a, public",
        "SET search_path TO \"My Schema\", 'a b', pg_catalog",
        "SET search_path = 'a, b'",
        "SET statement_timeout = '5s'",
        "SET enable_seqscan = off",
        "SET enable_seqscan TO false",
        "SET extra_float_digits = 3",
        "SET application_name = 'x y'",
        "RESET work_mem",
        "SET work_mem = DEFAULT",
        "SELECT set_config('TimeZone', 'UTC', false)",
        "SELECT pg_catalog.set_config('app.y', '', false)",
        "SET bytea_output = escape",
    ];
    let show = async |name: &str| -> Option<String> {
        let row = client.query_one("SELECT pg_catalog.current_setting($1, true)", &[&name]).await.unwrap();
        row.get(0)
    };
    for sql in statements {
        let set =
            pgweir::sql::simple_set(sql.as_bytes(), LexOptions::default()).unwrap_or_else(|| panic!("{sql}"));
        client.batch_execute("SET client_encoding = 'UTF8'; SET work_mem = '9MB'").await.unwrap();
        client.batch_execute(sql).await.unwrap();
        let direct = show(&set.name).await;
        client.batch_execute("DISCARD ALL").await.unwrap();
        client.batch_execute("SET work_mem = '9MB'").await.unwrap();
        match &set.value {
            Some(value) => {
                client
                    .query("SELECT pg_catalog.set_config($1, $2, false)", &[&set.name, value])
                    .await
                    .unwrap();
            }
            None => client.batch_execute(&format!("RESET {}", set.name)).await.unwrap(),
        }
        assert_eq!(show(&set.name).await, direct, "{sql}");
    }
}
