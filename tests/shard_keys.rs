//! Where the shard key is found, and where not: tables of statements, parameters of all types, and texts of one
//! fingerprint.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::fmt::Write as _;
use std::fs;

use pgweir::config::{Environment, load};
use pgweir::shard::{KeyType, KeyValue, ShardedSchema};
use pgweir::sql::{
    Defaults, Destination, LexOptions, ParameterValue, Parameters, Refusal, explicit_shard, key_plan,
};

const YAML: &str = r#"
databases:
  shop:
    shards: [{primary: "s0"}, {primary: "s1"}, {primary: "s2"}]
    sharded_tables:
      - {tables: [event, item], column: tenant_id, type: bigint, function: hash}
      - {tables: note, column: owner, type: text, function: hash}
      - {tables: pair, column: [a, b], type: [bigint, uuid], function: hash}
      - {tables: small, column: k, type: smallint, function: hash}
      - {tables: wide, column: k, type: numeric, function: hash}
      - {tables: moment, column: at, type: timestamptz, function: hash}
      - {tables: flag, column: yes, type: bool, function: hash}
    everywhere_tables: [country]
users: {app: {password: x}}
"#;

fn schema() -> ShardedSchema {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pooler.yaml");
    fs::write(&path, YAML).unwrap();
    let config = load(&path, &Environment::default()).unwrap_or_else(|errors| panic!("{errors}"));
    config.databases["shop"].sharding.as_ref().unwrap().schema.clone()
}

/// What a Bind gave.
#[derive(Default)]
struct Bound {
    types: Vec<u32>,
    values: Vec<Option<(bool, Vec<u8>)>>,
    utf8: bool,
}

impl Parameters for Bound {
    fn declared(&self, number: u32) -> u32 {
        self.types.get(number as usize - 1).copied().unwrap_or(0)
    }
    fn value(&self, number: u32) -> Option<ParameterValue<'_>> {
        Some(match self.values.get(number as usize - 1)? {
            None => ParameterValue::Null,
            Some((false, bytes)) => ParameterValue::Text(bytes),
            Some((true, bytes)) => ParameterValue::Binary(bytes),
        })
    }
    fn is_utf8(&self) -> bool {
        self.utf8
    }
}

fn ask(sql: &str, schema: &ShardedSchema, bound: &Bound) -> Result<Destination, Refusal> {
    let plan = key_plan(sql.as_bytes(), LexOptions::default(), schema);
    let found = plan.destination(sql.as_bytes(), LexOptions::default(), schema, bound);
    if let Some(by_parameters) = plan.by_parameters(sql.as_bytes(), LexOptions::default()) {
        // What is remembered of a text says the same as the text.
        assert_eq!(by_parameters.destination(schema, bound), found, "{sql}");
    }
    found
}

fn shown(answer: &Result<Destination, Refusal>) -> String {
    match answer {
        Ok(Destination::Any) => "any".to_owned(),
        Ok(Destination::All { .. }) => "all".to_owned(),
        Ok(Destination::Shard(shard)) => format!("shard {shard}"),
        Err(refusal) => refusal.label().to_owned(),
    }
}

/// The shard of a key as the tables write it.
fn expected(text: &str, sql: &str, schema: &ShardedSchema) -> String {
    let Some(key) = text.strip_prefix('=') else { return text.to_owned() };
    let group = |table: &str| {
        let found = schema.sharded.iter().find(|g| g.tables.iter().any(|t| t.matches(None, table)));
        found.unwrap()
    };
    let tables = if key.starts_with('\'') {
        group("note")
    } else if sql.contains("pair") {
        group("pair")
    } else {
        group("event")
    };
    let texts: Vec<String> = match key.strip_prefix('\'').and_then(|k| k.strip_suffix('\'')) {
        Some(text) => vec![text.replace("''", "'")],
        None => key.split(',').map(str::to_owned).collect(),
    };
    let values: Vec<KeyValue> = tables
        .key
        .iter()
        .zip(&texts)
        .map(|(column, text)| KeyValue::from_text(column.key_type, text).unwrap())
        .collect();
    let values: Vec<_> = values.iter().map(Some).collect();
    format!("shard {}", tables.function.shard(&values).unwrap())
}

#[test]
fn statements_have_the_shard_that_is_written_beside_them() {
    let schema = schema();
    let text = fs::read_to_string("tests/sharding/keys.txt").unwrap();
    let (mut wrong, mut count) = (String::new(), 0);
    for (at, line) in text.lines().enumerate().filter(|(_, l)| !l.is_empty() && !l.starts_with('#')) {
        let (want, sql) = line.split_once(' ').unwrap();
        count += 1;
        let answer = ask(sql, &schema, &Bound::default());
        if shown(&answer) != expected(want, sql, &schema) {
            writeln!(wrong, "{}: {sql}\n    expected {want}, got {answer:?}", at + 1).unwrap();
        }
        if let Err(refusal) = answer {
            assert!(!refusal.to_string().is_empty() && refusal.hint().ends_with('.'), "{refusal:?}");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(count > 150, "only {count}");
}

/// What is left to defaults: with one plan for all texts of a fingerprint, each with DEFAULT where it stands.
#[test]
fn columns_that_are_left_to_defaults() {
    let schema = schema();
    let of = |sql: &str| {
        let lex = LexOptions::default();
        key_plan(sql.as_bytes(), lex, &schema).fills(sql.as_bytes(), lex)
    };
    let all_but = |names: &[&str]| Defaults::AllBut(names.iter().map(ToString::to_string).collect());
    let these = |names: &[&str]| Defaults::These(names.iter().map(ToString::to_string).collect());
    let cases: &[(&str, &[Defaults])] = &[
        ("INSERT INTO country (a, b) VALUES (1, 2)", &[all_but(&["a", "b"])]),
        ("INSERT INTO country (a, \"B\") VALUES (1, 2), (DEFAULT, 3)", &[all_but(&["B"])]),
        ("INSERT INTO country (a, b) VALUES (1, 'default'), (2, $1)", &[all_but(&["a", "b"])]),
        ("INSERT INTO country (a, b) VALUES (lower('x'), 2), (1, dEfault) RETURNING a", &[all_but(&["a"])]),
        ("INSERT INTO country VALUES (1, 2, 3)", &[Defaults::Behind(3, vec![])]),
        ("INSERT INTO country VALUES (1, DEFAULT), (DEFAULT, 2)", &[Defaults::Behind(2, vec![1, 0])]),
        ("INSERT INTO country DEFAULT VALUES", &[all_but(&[])]),
        ("INSERT INTO country SELECT 1, 2", &[all_but(&[])]),
        ("INSERT INTO country (a) SELECT b FROM country", &[all_but(&["a"])]),
        ("WITH w AS (INSERT INTO country (a) VALUES (DEFAULT)) SELECT 1", &[all_but(&[])]),
        ("UPDATE country SET a = 1, b = 'DEFAULT'", &[]),
        ("UPDATE country SET a = 1, b = DEFAULT", &[these(&["b"])]),
        ("UPDATE country SET (a, b) = (1, DEFAULT)", &[these(&["a", "b"])]),
        (
            "INSERT INTO country (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET c = DEFAULT, d = 1",
            &[all_but(&["a"]), these(&["c"])],
        ),
        ("DELETE FROM country", &[]),
        ("INSERT INTO event (tenant_id) VALUES (1)", &[]),
    ];
    for (sql, expected) in cases {
        let fills = of(sql);
        assert!(fills.iter().all(|fill| fill.table == "country" && fill.schema.is_none()), "{sql}");
        assert_eq!(fills.into_iter().map(|fill| fill.columns).collect::<Vec<_>>(), *expected, "{sql}");
    }
    let ordered = |sql: &str| of(sql).iter().all(|fill| fill.ordered);
    assert!(ordered("INSERT INTO country (a) VALUES (1), (2)"));
    assert!(ordered("INSERT INTO country (a) SELECT * FROM UNNEST('{1,2}'::int[])"));
    assert!(ordered("INSERT INTO country (a) SELECT 1 FROM generate_series(1, 2)"));
    assert!(!ordered("INSERT INTO country (a) SELECT a FROM country"));
    assert!(!ordered("INSERT INTO country (a) SELECT 1 UNION SELECT 2"));
    assert_eq!(of("INSERT INTO s.country (a) VALUES (1)")[0].schema.as_deref(), Some("s"));
}

#[allow(clippy::unnecessary_wraps, reason = "as NULL is written")]
fn text(value: &str) -> Option<(bool, Vec<u8>)> {
    Some((false, value.into()))
}

#[allow(clippy::unnecessary_wraps, reason = "as NULL is written")]
fn binary(value: &[u8]) -> Option<(bool, Vec<u8>)> {
    Some((true, value.into()))
}

/// (SQL, declared types, values, expected).
type Case<'a> = (&'a str, &'a [u32], Vec<Option<(bool, Vec<u8>)>>, &'a str);

#[test]
fn parameters_are_read_as_the_server_reads_them() {
    let schema = schema();
    let of = |n: &str| n.to_owned();
    let event = "SELECT * FROM event WHERE tenant_id = $1";
    let row = "DELETE FROM event WHERE (tenant_id, id) IN (($1, $2))";
    let rows = "SELECT * FROM event WHERE (tenant_id, id) IN (($1, $2), (5, 7))";
    let unnest = "INSERT INTO event (tenant_id, name) SELECT * FROM UNNEST(($1)::bigint[], ($2)::varchar[]) RETURNING id";
    let array =
        [1u32.to_be_bytes(), 0u32.to_be_bytes(), 20u32.to_be_bytes(), 1u32.to_be_bytes(), 1u32.to_be_bytes()]
            .concat()
            .into_iter()
            .chain(8u32.to_be_bytes())
            .chain(5i64.to_be_bytes())
            .collect::<Vec<u8>>();
    let cases: Vec<Case<'_>> = vec![
        (event, &[], vec![text("5")], "=5"),
        (event, &[0], vec![binary(&5i64.to_be_bytes())], "=5"),
        (event, &[23], vec![binary(&5i32.to_be_bytes())], "=5"),
        (event, &[21], vec![binary(&5i16.to_be_bytes())], "=5"),
        (event, &[], vec![None], "any"),
        (row, &[], vec![text("5"), text("6")], "=5"),
        (row, &[20, 20], vec![binary(&5i64.to_be_bytes()), binary(&6i64.to_be_bytes())], "=5"),
        (rows, &[21, 20], vec![binary(&5i16.to_be_bytes()), text("6")], "=5"),
        (unnest, &[], vec![text("{5,5}"), text("{a,b}")], "=5"),
        (unnest, &[1016, 1009], vec![Some((true, array.clone())), text("{a}")], "=5"),
        (unnest, &[1016, 1009], vec![Some((true, array.clone())), text("{a,b}")], "value"),
        (unnest, &[1016, 1009], vec![Some((true, array.clone())), None], "value"),
        (unnest, &[1231, 1009], vec![text("{5}"), text("{a}")], "value"),
        (unnest, &[], vec![text("{5}")], "parameter"),
        (event, &[], vec![], "parameter"),
        // Four bytes that are no bigint; a float; a numeric.
        (event, &[], vec![binary(&5i32.to_be_bytes())], "value"),
        (event, &[701], vec![binary(&5f64.to_be_bytes())], "value"),
        (event, &[1700], vec![text("5")], "value"),
        ("SELECT * FROM event WHERE tenant_id = $1::int", &[], vec![binary(&5i32.to_be_bytes())], "=5"),
        ("SELECT * FROM event WHERE $2 = tenant_id AND id = $1", &[], vec![text("1"), text("5")], "=5"),
        // Met elsewhere first, it could be of another type.
        (
            "SELECT * FROM event WHERE score = $1 AND tenant_id = $1",
            &[],
            vec![binary(&5i64.to_be_bytes())],
            "value",
        ),
        (
            "SELECT * FROM event WHERE score = $1 AND tenant_id = $1",
            &[20],
            vec![binary(&5i64.to_be_bytes())],
            "=5",
        ),
        ("SELECT * FROM event WHERE tenant_id IN ($1, $2)", &[], vec![text("5"), text("5")], "=5"),
        ("SELECT * FROM event WHERE tenant_id IN ($1, $2)", &[], vec![text("5"), None], "=5"),
        ("SELECT * FROM event WHERE tenant_id = ANY($1)", &[], vec![text("{5,NULL}")], "=5"),
        ("SELECT * FROM event WHERE tenant_id = ANY($1)", &[1016], vec![binary(&array)], "=5"),
        ("SELECT * FROM event WHERE tenant_id = ANY($1)", &[1231], vec![text("{5}")], "value"),
        ("SELECT * FROM event WHERE tenant_id = ANY($1)", &[], vec![text("{{5}}")], "value"),
        ("INSERT INTO event (id, tenant_id) VALUES ($1, $2)", &[], vec![text("1"), text("5")], "=5"),
        (
            "INSERT INTO event (id, tenant_id) VALUES ($1, $2), ($3, $2)",
            &[20, 20, 20],
            vec![text("1"), text("5"), text("2")],
            "=5",
        ),
        (
            "UPDATE event SET name = $1 WHERE tenant_id = $2 AND id = $3",
            &[],
            vec![text("x"), text("5"), text("9")],
            "=5",
        ),
        ("SELECT * FROM note WHERE owner = $1", &[], vec![text("it's")], "='it''s'"),
        ("SELECT * FROM note WHERE owner = $1", &[25], vec![binary(b"it's")], "='it''s'"),
        ("SELECT * FROM note WHERE owner = $1", &[1042], vec![text("it's")], "value"),
        ("SELECT * FROM note WHERE owner = $1", &[], vec![text("\u{e9}")], "value"),
    ];
    for (sql, types, values, want) in cases {
        let bound = Bound { types: types.to_vec(), values, utf8: false };
        assert_eq!(shown(&ask(sql, &schema, &bound)), expected(&of(want), sql, &schema), "{sql} {types:?}");
    }
    let bound = Bound { types: Vec::new(), values: vec![text("\u{e9}")], utf8: true };
    let key = KeyValue::from_text(KeyType::Text, "\u{e9}").unwrap();
    let shard = pgweir::shard::row_hash([Some(&key)]) % 3;
    assert_eq!(shown(&ask("SELECT * FROM note WHERE owner = $1", &schema, &bound)), format!("shard {shard}"));
}

#[test]
fn other_types_are_read_too() {
    let schema = schema();
    let shard = |of: KeyType, text: &str| {
        format!("shard {}", pgweir::shard::row_hash([Some(&KeyValue::from_text(of, text).unwrap())]) % 3)
    };
    for (sql, of, value) in [
        ("SELECT * FROM small WHERE k = 5", KeyType::Int2, "5"),
        ("SELECT * FROM wide WHERE k = 1.50", KeyType::Numeric, "1.5"),
        ("SELECT * FROM wide WHERE k = -15e-1", KeyType::Numeric, "-1.5"),
        ("SELECT * FROM wide WHERE k = 5::bigint", KeyType::Numeric, "5"),
        (
            "SELECT * FROM moment WHERE at = '2026-01-01 00:00:00+00'",
            KeyType::Timestamptz,
            "2026-01-01T00:00:00Z",
        ),
        (
            "SELECT * FROM moment WHERE at = timestamptz '2026-01-01 01:00:00+01'",
            KeyType::Timestamptz,
            "2026-01-01T00:00:00Z",
        ),
        ("SELECT * FROM flag WHERE yes = true", KeyType::Bool, "t"),
        ("SELECT * FROM flag WHERE yes = 'off'", KeyType::Bool, "f"),
        ("INSERT INTO flag (yes) VALUES (true), (TRUE)", KeyType::Bool, "t"),
    ] {
        assert_eq!(shown(&ask(sql, &schema, &Bound::default())), shard(of, value), "{sql}");
    }
    for sql in [
        "SELECT * FROM moment WHERE at = '2026-01-01'",
        "SELECT * FROM moment WHERE at = 'now'",
        "SELECT * FROM moment WHERE at = '2026-01-01 00:00:00'::timestamp",
        "SELECT * FROM flag WHERE yes = 1",
    ] {
        assert_eq!(shown(&ask(sql, &schema, &Bound::default())), "value", "{sql}");
    }
}

/// What a comment asks for goes before what the statement says.
#[test]
fn a_comment_chooses_a_shard() {
    let cache = pgweir::sql::StatementCache::new(1 << 16);
    let mut schema = schema();
    let ask = |sql: &str, schema: &ShardedSchema| {
        let hint = cache.analyze(sql.as_bytes(), LexOptions::default()).hint.clone();
        explicit_shard(&hint, 3, schema)
    };
    assert_eq!(ask("SELECT 1", &schema), Ok(None));
    assert_eq!(ask("SELECT 1 /* pgweir: shard=2 */", &schema), Ok(Some(2)));
    assert_eq!(ask("SELECT 1 /* pgweir: shard=3 */", &schema), Err(Refusal::NoSuchShard(3)));
    assert_eq!(ask("SELECT 1 /* pgweir: key=5 */", &schema), Err(Refusal::WhichKey));
    schema.sharded.truncate(1);
    let key = KeyValue::from_text(KeyType::Int8, "5").unwrap();
    let shard = u32::try_from(pgweir::shard::row_hash([Some(&key)]) % 3).unwrap();
    assert_eq!(ask("SELECT 1 /* pgweir: key=5 */", &schema), Ok(Some(shard)));
    assert!(matches!(ask("SELECT 1 /* pgweir: key=x */", &schema), Err(Refusal::Value { .. })));
}

/// A plan made of one text holds for all texts of its fingerprint.
#[test]
fn a_plan_is_good_for_every_text_of_its_fingerprint() {
    let schema = schema();
    let lex = LexOptions::default();
    for (first, others) in [
        (
            "SELECT * FROM event WHERE id IN (1, 2) AND tenant_id = 7",
            vec![
                "SELECT * FROM event WHERE id IN (9) AND tenant_id = 5",
                "select  * from EVENT where id in (1,2,3,4,5) and tenant_id = 6",
            ],
        ),
        (
            "SELECT * FROM event WHERE tenant_id IN (1)",
            vec![
                "SELECT * FROM event WHERE tenant_id IN (5, 5)",
                "SELECT * FROM event WHERE tenant_id IN (-5, '-5')",
            ],
        ),
        (
            "INSERT INTO event (id, tenant_id) VALUES (1, 1)",
            vec![
                "INSERT INTO event (id, tenant_id) VALUES (1, 5), (2, 5)",
                "INSERT INTO event (id, tenant_id) VALUES (-1, 5)",
            ],
        ),
    ] {
        let plan = key_plan(first.as_bytes(), lex, &schema);
        for sql in others {
            let fresh = ask(sql, &schema, &Bound::default());
            assert_eq!(plan.destination(sql.as_bytes(), lex, &schema, &Bound::default()), fresh, "{sql}");
            assert!(
                matches!(fresh, Ok(Destination::Shard(_)) | Err(Refusal::Value { .. })),
                "{sql}: {fresh:?}"
            );
        }
    }
}

#[test]
fn the_command_line_explains_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pooler.yaml");
    fs::write(&path, YAML).unwrap();
    let route = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pgweir"));
        let output = command.arg("route").arg("--config").arg(&path).args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        // The lines about shards come last.
        text.split_once("shard ").map(|(_, rest)| format!("shard {rest}")).unwrap_or_default()
    };
    let key = KeyValue::from_text(KeyType::Int8, "42").unwrap();
    let shard = pgweir::shard::row_hash([Some(&key)]) % 3;
    let sql = "SELECT * FROM event WHERE id = 1 AND tenant_id = 42";
    assert_eq!(
        route(&[sql]),
        format!("shard       {shard}\nfunction    hash\nkey         event.tenant_id = literal 2 as bigint\n")
    );
    let sql = "SELECT * FROM event WHERE id = $1 AND tenant_id = $2";
    assert!(route(&[sql]).starts_with("shard       by parameter\n"), "{}", route(&[sql]));
    let with = ["--param", "1", "--param", "42", sql];
    assert!(route(&with).contains(&format!("shard       {shard}\n")), "{}", route(&with));
    assert!(route(&with).contains("event.tenant_id = parameter $2 as bigint"));
    let refused = route(&["SELECT * FROM event"]);
    assert!(
        refused.starts_with("shard       refused (0A000)\nbecause     table \"event\" is sharded by"),
        "{refused}"
    );
    assert!(route(&["SELECT 1"]).starts_with("shard       any\n"));
    // What is divided is not refused.
    let rows =
        route(&["INSERT INTO event (id, tenant_id) VALUES (1, 42), (2, 42), (3, 1), (4, 2), (5, 3), (6, 4)"]);
    assert!(rows.starts_with("shard       0, 1, 2\nbecause     "), "{rows}");
    assert!(rows.contains(" rows to shard ") && rows.contains("\nfunction    hash\n"), "{rows}");
    assert_eq!(
        route(&["COPY event FROM STDIN"]),
        "shard       all\nbecause     each row of the data to its shard, once a server has told the columns\n\
         function    hash\n"
    );
    assert!(
        route(&["/* all */ COPY event (id, tenant_id) FROM STDIN"])
            .contains("row of the data to its shard\n")
    );
    assert!(route(&["COPY event TO STDOUT"]).starts_with("shard       refused"));
    let by_comment = route(&["SELECT * FROM event /* pgweir: shard=2 */"]);
    assert_eq!(by_comment, "shard       2\nbecause     a comment asks for it\n");
    assert!(route(&["SELECT 1 /* pgweir: shard=3 */"]).contains("there is no shard 3"));
    // bigint, text, two columns: a key alone says nothing.
    assert!(route(&["SELECT 1 /* pgweir: key=42 */"]).contains("different functions"));
}

proptest::proptest! {
    /// Whatever comes, there is an answer; and one without a parse where the plan is of another text.
    #[test]
    fn any_text_has_an_answer(cuts in proptest::collection::vec((0usize..500, 0usize..60), 1..6)) {
        let schema = schema_once();
        let all = fs::read_to_string("tests/sharding/keys.txt").unwrap();
        let lines: Vec<&str> = all.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).collect();
        let mut sql = String::new();
        for (line, at) in cuts {
            let (_, text) = lines[line % lines.len()].split_once(' ').unwrap();
            let chars: Vec<char> = text.chars().collect();
            let (left, right) = chars.split_at(at.min(chars.len()));
            sql.extend(if at % 2 == 0 { left } else { right });
        }
        let lex = LexOptions::default();
        let plan = key_plan(sql.as_bytes(), lex, schema);
        let _ = plan.destination(sql.as_bytes(), lex, schema, &Bound::default());
        let _ = plan.describe(sql.as_bytes(), lex, schema);
        let other = b"SELECT $1, 'x' FROM event WHERE tenant_id = ($2)";
        let _ = plan.destination(other, lex, schema, &Bound::default());
    }
}

fn schema_once() -> &'static ShardedSchema {
    static SCHEMA: std::sync::OnceLock<ShardedSchema> = std::sync::OnceLock::new();
    SCHEMA.get_or_init(schema)
}
