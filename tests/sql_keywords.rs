//! Every keyword as the name of a function, in every position of an expression: where PostgreSQL looks for
//! a function of that name, we must not call the statement a read.
//!
//! The grammar lets hundreds of words be names, and several of its phrases look like calls. PostgreSQL itself
//! is the judge: error 42883 that names the function means that it was taken for a call. Statements are only
//! prepared, never run.

#![allow(clippy::pedantic, clippy::unwrap_used, clippy::print_stderr, reason = "test code outside a #[test]")]

mod support;

use std::collections::BTreeSet;

use pgweir::sql::{Effect, LexOptions, StatementCache};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// `F` stands for the call. What the grammar itself turns into a function of `pg_catalog` (`trim`) is not meant.
const POSITIONS: &[&str] = &[
    "SELECT F",
    "SELECT a, F FROM t",
    "SELECT a AS b, F AS c FROM t",
    "SELECT DISTINCT F FROM t",
    "SELECT ALL F FROM t",
    "SELECT DISTINCT ON (a) F FROM t",
    "SELECT NOT F",
    "SELECT - F",
    "SELECT 1 + F",
    "SELECT a + F FROM t",
    "SELECT a OPERATOR(pg_catalog.+) F FROM t",
    "SELECT (F)",
    "SELECT a LIKE F FROM t",
    "SELECT a ILIKE F FROM t",
    "SELECT 'x' LIKE 'y' ESCAPE F",
    "SELECT 'x' SIMILAR TO F",
    "SELECT 'x' NOT SIMILAR TO F",
    "SELECT 1 BETWEEN F AND 2",
    "SELECT 1 BETWEEN SYMMETRIC 0 AND F",
    "SELECT 1 IN (F)",
    "SELECT 1 IN (1, F)",
    "SELECT 1 = ANY (F)",
    "SELECT 1 IS DISTINCT FROM F",
    "SELECT now() AT TIME ZONE F",
    "SELECT CASE F WHEN 1 THEN 2 END",
    "SELECT CASE WHEN F THEN 2 END",
    "SELECT CASE WHEN true THEN F END",
    "SELECT CASE WHEN true THEN 1 ELSE F END",
    "SELECT CAST(F AS int)",
    "SELECT F::int",
    "SELECT COALESCE(1, F)",
    "SELECT ARRAY[F]",
    "SELECT ARRAY[1, F]",
    "SELECT (ARRAY[1])[F]",
    "SELECT ROW(F)",
    "SELECT EXTRACT(year FROM F)",
    "SELECT substring('a' FROM F)",
    "SELECT substring('a' FROM 1 FOR F)",
    "SELECT position(F IN 'x')",
    "SELECT trim(BOTH FROM F)",
    "SELECT overlay('a' PLACING F FROM 1)",
    "SELECT count(F) FROM t",
    "SELECT count(DISTINCT F) FROM t",
    "SELECT array_agg(a ORDER BY F) FROM t",
    "SELECT count(*) FILTER (WHERE F) FROM t",
    "SELECT count(*) OVER (PARTITION BY F) FROM t",
    "SELECT count(*) OVER (ORDER BY F) FROM t",
    "SELECT count(*) OVER (ROWS F PRECEDING) FROM t",
    "SELECT count(*) OVER (ROWS BETWEEN F PRECEDING AND CURRENT ROW) FROM t",
    "SELECT count(*) OVER w FROM t WINDOW w AS (PARTITION BY F)",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY F) FROM t",
    "SELECT 1 FROM t WHERE F",
    "SELECT 1 FROM t WHERE a = 1 AND F",
    "SELECT 1 FROM t WHERE a = 1 OR F",
    "SELECT 1 FROM t GROUP BY F",
    "SELECT 1 FROM t GROUP BY a, F",
    "SELECT 1 FROM t GROUP BY a, 1 + F",
    "SELECT 1 FROM t GROUP BY GROUPING SETS (F)",
    "SELECT a FROM t GROUP BY a HAVING F",
    "SELECT 1 FROM t ORDER BY F",
    "SELECT 1 FROM t ORDER BY a, F DESC",
    "SELECT 1 FROM t ORDER BY 1 USING <, F",
    "SELECT 1 FROM t LIMIT F",
    "SELECT 1 FROM t OFFSET F",
    "SELECT 1 FROM t FETCH FIRST (F) ROWS ONLY",
    "SELECT * FROM F",
    "SELECT * FROM t, F",
    "SELECT * FROM t, F AS x",
    "SELECT * FROM t, F AS (a int)",
    "SELECT * FROM t, F AS (insert int)",
    "SELECT * FROM t, F AS (update int)",
    "SELECT * FROM t, F AS x (select_ int)",
    "SELECT * FROM t, LATERAL F x",
    "SELECT * FROM t JOIN F x ON true",
    "SELECT * FROM t CROSS JOIN F",
    "SELECT * FROM ROWS FROM (F)",
    "SELECT * FROM t JOIN t u ON F",
    "SELECT * FROM t JOIN t u ON a = F",
    "SELECT * FROM t LEFT JOIN t u ON F WHERE true",
    "SELECT * FROM t TABLESAMPLE SYSTEM (F)",
    "SELECT * FROM t TABLESAMPLE SYSTEM (1) REPEATABLE (F)",
    "VALUES (F)",
    "VALUES (1, F)",
    "WITH c AS (SELECT F) SELECT * FROM c",
    "WITH c(a) AS MATERIALIZED (SELECT F) SELECT * FROM c",
    "WITH RECURSIVE c(a) AS (SELECT 1 UNION ALL SELECT F FROM c) SELECT * FROM c",
    "SELECT 1 UNION SELECT F",
    "SELECT (SELECT F)",
    "SELECT EXISTS (SELECT F)",
    "SELECT xmlelement(name x, F)",
    "SELECT xmlforest(F AS x)",
    "SELECT * FROM xmltable('/a' PASSING F COLUMNS b int)",
    "SELECT * FROM xmltable('/a' PASSING '<a/>' COLUMNS b int DEFAULT F)",
    "SELECT * FROM xmltable('/a' PASSING '<a/>' COLUMNS b text PATH F)",
];

async fn column(client: &Client, sql: &str) -> BTreeSet<String> {
    let messages = client.simple_query(sql).await.unwrap();
    let value = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    messages.into_iter().filter_map(value).collect()
}

#[tokio::test]
async fn no_call_of_a_function_named_like_a_keyword_is_missed() {
    let database = support::database();
    database.on(0, "CREATE TABLE t (a int)");
    let (client, connection) =
        tokio_postgres::connect(&support::cluster().app_url(0, &database.name), NoTls).await.unwrap();
    tokio::spawn(connection);
    let built_in = column(&client, "SELECT DISTINCT proname FROM pg_proc").await;
    let mut words = column(&client, "SELECT word FROM pg_get_keywords()").await;
    // Not keywords, but as telling: plain, quoted, qualified.
    words.extend(
        ["my_function", "\"My\"", "\"select\"", "public.f", "public.\"over\"", "t.f"].map(str::to_owned),
    );
    let cache = StatementCache::new(64 << 20);
    let (mut calls, mut missed, mut lost) = (0, Vec::new(), 0);
    for word in words.iter().filter(|word| !built_in.contains(*word)) {
        for position in POSITIONS {
            let sql = substitute(position, &format!("{word}(1)"));
            let Err(error) = client.prepare(&sql).await else { continue };
            let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
            let message = error.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default();
            let name = word.rsplit('.').next().unwrap().trim_matches('"');
            let names_it = message.starts_with("function ")
                && !message.starts_with("function pg_catalog.")
                && message.contains(name);
            let is_call = code == "3F000" || (code == "42883" && names_it);
            let effect = cache.analyze(sql.as_bytes(), LexOptions::default()).effect;
            if is_call {
                calls += 1;
                if effect == Effect::Read {
                    missed.push(format!("{sql}: {message}"));
                }
            } else if effect != Effect::Read {
                lost += 1;
            }
        }
    }
    eprintln!(
        "{calls} calls by PostgreSQL's judgment, {} missed; {lost} others kept on the primary",
        missed.len()
    );
    assert!(calls > 10_000, "only {calls} calls: the positions say nothing");
    assert!(missed.is_empty(), "{} missed:\n{}", missed.len(), missed.join("\n"));
}

/// The one `F` that stands alone as a word becomes the call.
fn substitute(position: &str, call: &str) -> String {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let bytes = position.as_bytes();
    let at = (0..bytes.len())
        .find(|at| {
            bytes[*at] == b'F'
                && !is_word(at.checked_sub(1).and_then(|p| bytes.get(p)))
                && !is_word(bytes.get(at + 1))
        })
        .unwrap();
    format!("{}{call}{}", &position[..at], &position[at + 1..])
}
