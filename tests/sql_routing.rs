//! The classifier against tables: what each statement is, and what PostgreSQL says to the reads.

#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code outside a #[test]"
)]

mod support;

use std::fs;

use pgweir::sql::{Effect, LexOptions, Statement, StatementCache};

/// (file, line, expected effect, SQL) of every row of every table.
fn rows() -> Vec<(String, usize, String, String)> {
    let mut files: Vec<_> =
        fs::read_dir("tests/routing").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut rows = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (index, line) in
            text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        {
            let (effect, sql) = line.split_once(' ').unwrap_or((line, ""));
            rows.push((file.display().to_string(), index + 1, effect.to_owned(), sql.to_owned()));
        }
    }
    rows
}

fn analyze(sql: &str) -> std::sync::Arc<Statement> {
    StatementCache::new(1 << 16).analyze(sql.as_bytes(), LexOptions::default())
}

#[test]
fn every_statement_has_its_effect() {
    let rows = rows();
    assert!(rows.len() >= 300, "only {} statements", rows.len());
    let mut wrong = Vec::new();
    for (file, line, expected, sql) in &rows {
        let statement = analyze(sql);
        if statement.effect.label() != expected {
            let (effect, reason) = (statement.effect, &statement.reason);
            wrong.push(format!("{file}:{line}: {sql}\n    expected {expected}, got {effect} ({reason})"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// What stands before a parenthesis is no call where the grammar says so, whatever the tables are called.
#[test]
fn the_set_of_an_update_is_no_function() {
    for sql in [
        "UPDATE t SET (a, b) = (1, 2)",
        "UPDATE data SET (a, b) = ROW(1, 2)",
        "UPDATE ONLY (public.data) * AS x SET (a, b) = (SELECT 1, 2)",
        "UPDATE t * SET (a) = ROW(1)",
        "UPDATE a.b.data values_ SET (a) = ROW(1)",
        "UPDATE update SET (a) = ROW(1)",
        "UPDATE \"T\" name SET (a) =(SELECT 1)",
        "WITH x AS (UPDATE data SET (a, b) = (1, 2) RETURNING *) SELECT * FROM x",
        "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET (a, b) = (1, 2)",
        "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN UPDATE SET (a, b) = (1, 2)",
    ] {
        let statement = analyze(sql);
        assert!(statement.functions.is_empty(), "{sql}: {:?}", statement.functions);
    }
    for sql in [
        "SELECT set(1)",
        "SELECT set(1) = 2",
        "UPDATE t SET a = set(1)",
        "UPDATE t SET a = 1 WHERE set(a) = 2",
        "SELECT * FROM t FOR UPDATE LIMIT set(1)",
        "SELECT * FROM t FOR NO KEY UPDATE OF t OFFSET set(1)",
        "SELECT a FROM data WHERE set(a) = 1",
        "SELECT 1 AS update, set(a) = 1 FROM t",
    ] {
        let statement = analyze(sql);
        assert_eq!(statement.functions.len(), 1, "{sql}");
    }
}

/// The cache answers as a fresh analysis does, and the exact-text path as the fingerprint path.
#[test]
fn a_cached_answer_is_the_same_answer() {
    let cache = StatementCache::new(16 << 20);
    for _ in 0..2 {
        for (file, line, expected, sql) in rows() {
            let (a, b) = (cache.analyze(sql.as_bytes(), LexOptions::default()), analyze(&sql));
            let exact = cache.analyze_exact(sql.as_bytes(), LexOptions::default());
            assert_eq!((a.effect, a.session, &a.tables), (b.effect, b.session, &b.tables), "{file}:{line}");
            assert_eq!((exact.effect, exact.session), (a.effect, a.session), "{file}:{line}");
            assert_eq!(a.effect.label(), expected, "{file}:{line}: {sql}");
        }
    }
}

/// Literals and comments do not make another statement; structure does.
#[test]
fn fingerprints() {
    let fingerprint = |sql: &str| analyze_with(&CACHE, sql).fingerprint;
    let same = [
        ("SELECT * FROM t WHERE id = 1", "SELECT * FROM t WHERE id = 22 -- tag"),
        ("SELECT 'a'", "/* traceparent='00-1' */ select   'it''s'"),
        ("SELECT 1 FROM t WHERE id IN (1, 2, 3)", "SELECT 1 FROM t WHERE id IN (4, 5, 6, 7, 8)"),
        ("SAVEPOINT \"s1_x1\"", "SAVEPOINT \"s2_x9\""),
        ("SELECT $$a$$", "SELECT $t$b$t$"),
    ];
    for (a, b) in same {
        assert_eq!(fingerprint(a), fingerprint(b), "{a} | {b}");
    }
    let different = [
        ("SELECT a FROM t", "SELECT b FROM t"),
        ("SELECT 1", "SELECT 1; SELECT 1"),
        ("SELECT * FROM t", "SELECT * FROM t FOR UPDATE"),
        ("SELECT 1", "/* pgweir: primary */ SELECT 1"),
        ("DEALLOCATE ALL", "DEALLOCATE a"),
        ("SELECT set_config('a', 'b', true)", "SELECT set_config('a', 'b', false)"),
        ("BEGIN READ ONLY", "BEGIN READ WRITE"),
    ];
    for (a, b) in different {
        assert_ne!(fingerprint(a), fingerprint(b), "{a} | {b}");
    }
}

static CACHE: std::sync::LazyLock<StatementCache> =
    std::sync::LazyLock::new(|| StatementCache::new(16 << 20));

fn analyze_with(cache: &StatementCache, sql: &str) -> std::sync::Arc<Statement> {
    cache.analyze(sql.as_bytes(), LexOptions::default())
}

/// Whatever the tables call a read, a READ ONLY transaction of PostgreSQL's accepts: run on a real replica
/// through nothing but psql's protocol, no read may fail with 25006, and no write of the tables that a
/// standby refuses may be called a read.
#[tokio::test]
async fn no_read_of_the_tables_is_refused_by_a_standby() {
    let database = support::database();
    database.on(0, "CREATE TABLE t (id int, a int, b int, x int, y int, note text, d timestamptz); CREATE TABLE u (id int, a int, t_id int, z int, k int)");
    support::cluster().wait_caught_up(0).unwrap();
    let (client, connection) =
        tokio_postgres::connect(&support::cluster().app_url(1, &database.name), tokio_postgres::NoTls)
            .await
            .unwrap();
    tokio::spawn(connection);
    let (mut reads, mut refused) = (0, Vec::new());
    for (file, line, _, sql) in rows() {
        let effect = analyze(&sql).effect;
        if sql.contains("pg_sleep") || sql.to_ascii_uppercase().starts_with("COPY") {
            continue;
        }
        let result = client.simple_query(&sql).await;
        let code =
            result.as_ref().err().and_then(tokio_postgres::Error::code).map(|code| code.code().to_owned());
        let _ = client.simple_query("ROLLBACK").await;
        if effect == Effect::Read {
            reads += 1;
            // 25006: read-only transaction; 55000: recovery is in progress.
            if matches!(code.as_deref(), Some("25006" | "55000")) {
                refused.push(format!("{file}:{line}: {sql}: {}", code.unwrap_or_default()));
            }
        }
    }
    assert!(reads > 100, "only {reads} reads");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

proptest::proptest! {
    /// No bytes make the analysis panic, whatever the options.
    #[test]
    fn arbitrary_bytes_are_survived(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), conforming: bool, trail: bool) {
        let options = LexOptions { standard_conforming_strings: conforming, backslash_trail_bytes: trail };
        analyze_bytes(&bytes, options);
    }

    /// Nor do bytes that look like SQL.
    #[test]
    fn sql_like_bytes_are_survived(text in "[a-c '\"$;:.,()\\[\\]/*Ee1_\\\\-]{0,60}", conforming: bool) {
        let options = LexOptions { standard_conforming_strings: conforming, ..LexOptions::default() };
        analyze_bytes(text.as_bytes(), options);
    }
}

fn analyze_bytes(bytes: &[u8], options: LexOptions) {
    let cache = StatementCache::new(1 << 16);
    let statement = cache.analyze(bytes, options);
    let exact = cache.analyze_exact(bytes, options);
    assert_eq!(statement.effect, exact.effect);
    pgweir::sql::simple_set(bytes, options);
}

/// No text costs more than in proportion to its length, which a client could use to hold up others.
#[test]
fn repetitive_texts_are_analyzed_in_linear_time() {
    let functions =
        |count: usize| (0..count).fold("SELECT ".to_owned(), |text, n| text + &format!("f{n}(),"));
    type Make = fn(usize) -> String;
    let texts: [(&str, Make); 6] = [
        ("hints", |n| format!("/*{}=*/ SELECT 1", "pgweir:".repeat(n))),
        ("quoted hints", |n| format!("/*{}*/ SELECT 1", "pgweir='".repeat(n))),
        ("explain", |n| format!("EXPLAIN {}", "analyze ".repeat(n))),
        ("conflicts", |n| format!("WITH x{}", " ON conflict(1)".repeat(n))),
        ("statements", |n| "SELECT a FROM t;".repeat(n)),
        ("copy", |n| format!("COPY t TO STDOUT {}", "a ".repeat(n))),
    ];
    let time = |text: String| {
        let begun = std::time::Instant::now();
        analyze(&text);
        begun.elapsed().as_secs_f64()
    };
    for (name, make) in texts {
        let (small, large) = (time(make(2_500)).max(0.005), time(make(20_000)));
        assert!(large < small * 30.0, "{name}: {small:.3} s, then {large:.3} s for eight times as much");
    }
    let (small, large) = (time(functions(2_500)).max(0.005), time(functions(20_000)));
    assert!(large < small * 30.0, "functions: {small:.3} s, then {large:.3} s for eight times as much");
}

/// Any beginning of a statement is survived, and white space in front changes nothing.
#[test]
fn prefixes_and_white_space() {
    for (file, line, expected, sql) in rows() {
        for end in (0..=sql.len()).filter(|end| sql.is_char_boundary(*end)) {
            analyze_bytes(&sql.as_bytes()[..end], LexOptions::default());
        }
        let padded = analyze(&format!(" \n\t {sql} \n"));
        assert_eq!(padded.effect.label(), expected, "{file}:{line}: {sql}");
    }
}

/// Nothing aborts the process: long, deep and strange texts, on a small stack.
#[test]
fn monstrous_statements_on_a_small_stack() {
    let work = || {
        let many = |count: usize, part: &str| part.repeat(count);
        let texts: Vec<(String, Option<Effect>)> = vec![
            (format!("SELECT * FROM t WHERE id IN ({}1)", many(50_000, "1,")), Some(Effect::Read)),
            (format!("SELECT * FROM t WHERE true{}", many(10_000, " AND a = 1")), Some(Effect::Read)),
            (format!("SELECT 1{}", many(20_000, " || 'a'")), Some(Effect::Read)),
            (format!("SELECT {}1{}", many(100, "("), many(100, ")")), Some(Effect::Read)),
            (format!("SELECT {}1{}", many(50_000, "("), many(50_000, ")")), None),
            (many(5_000, "SELECT 1 UNION ") + "SELECT 1", Some(Effect::Read)),
            (format!("SELECT 1{}", many(20_000, "::int")), None),
            (format!("SELECT a{}", many(20_000, "[1]")), None),
            (format!("SELECT {}1{}", many(2_000, "CASE WHEN a THEN "), many(2_000, " END")), None),
            (many(3_000, "WITH x AS (SELECT 1) ") + "SELECT 1", None),
            (format!("SELECT '{}'", many(10 << 20, "x")), Some(Effect::Read)),
            (format!("INSERT INTO t VALUES {}(1)", many(100_000, "(1, 'a'),")), Some(Effect::Write)),
            (many(20_000, "SELECT 1;"), None),
            (many(30_000, "/*"), Some(Effect::Unknown)),
            (many(100_000, "NOT "), None),
            (format!("SELECT {}1", many(100_000, "-")), None),
        ];
        for (text, expected) in texts {
            let statement = analyze(&text);
            let shown: String = text.chars().take(40).collect();
            if let Some(expected) = expected {
                assert_eq!(
                    statement.effect,
                    expected,
                    "{shown}… of {} bytes: {}",
                    text.len(),
                    statement.reason
                );
            }
        }
        let strange: [&[u8]; 5] =
            [b"SELECT \0", b"\xff\xfe SELECT 1", b"SELECT '\xff'", b"\0", b"SELECT \"\xc3\x28\" FROM t"];
        for bytes in strange {
            StatementCache::new(1 << 16).analyze(bytes, LexOptions::default());
        }
    };
    std::thread::Builder::new().stack_size(512 * 1024).spawn(work).unwrap().join().unwrap();
}
