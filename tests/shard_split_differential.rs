//! Rows of several shards against a real PostgreSQL: the same data is copied into a partitioned table, and by
//! [`RowSplitter`] into one table for each shard, which must then hold the rows of the partitions; and so for
//! generated INSERTs, whose RETURNING must come in the order of the rows, too. What PostgreSQL refuses must be
//! refused. `CASES` and `SEED` choose how many and which.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures_util::SinkExt;
use pgweir::shard::{
    CopySession, CopyTo, KeyColumn, KeyType, RowSplitter, ShardFunction, ShardedSchema, ShardedTables,
    TablePattern,
};
use pgweir::sql::{CopyFrom, LexOptions, ParameterValue, Parameters, copy_from, key_plan};
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, NoTls};

const SHARDS: u32 = 3;

fn schema(key: &[(&str, &str)]) -> ShardedSchema {
    let column = |(name, of): &(&str, &str)| KeyColumn {
        name: (*name).to_owned(),
        key_type: KeyType::named(of.split('(').next().unwrap()).unwrap(),
    };
    ShardedSchema {
        sharded: vec![ShardedTables {
            tables: vec![TablePattern::parse("event").unwrap()],
            key: key.iter().map(column).collect(),
            function: ShardFunction::Hash { shards: SHARDS },
        }],
        everywhere: vec![TablePattern::parse("country").unwrap()],
    }
}

/// xorshift: the same cases for the same seed everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % below as u64) as usize
    }
    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.next(choices.len())]
    }
    fn chance(&mut self, percent: usize) -> bool {
        self.next(100) < percent
    }
}

async fn connect(database: &str) -> Client {
    let address = support::cluster().address(0).clone();
    let (host, port) = address.rsplit_once(':').unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port.parse().unwrap()).user("app").password("app").dbname(database);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A table with partitions, and tables that are to be like them.
async fn create(client: &Client, columns: &str, key: &str) {
    let mut sql = format!(
        "CREATE SCHEMA whole; CREATE TABLE whole.event ({columns}) PARTITION BY HASH ({key});
         CREATE TABLE country AS SELECT i AS id FROM generate_series(1, 3) i;"
    );
    for n in 0..SHARDS {
        write!(
            sql,
            "CREATE TABLE whole.p{n} PARTITION OF whole.event FOR VALUES WITH (MODULUS {SHARDS}, REMAINDER {n});
             CREATE SCHEMA s{n}; CREATE TABLE s{n}.event ({columns});"
        )
        .unwrap();
    }
    client.batch_execute(&sql).await.unwrap();
}

fn message(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or(error.to_string(), |e| e.message().to_owned())
}

async fn copy(client: &Client, sql: &str, data: &[u8]) -> Result<(), String> {
    let sink = client.copy_in::<_, Bytes>(sql).await.map_err(|error| message(&error))?;
    let mut sink = pin!(sink);
    sink.send(Bytes::copy_from_slice(data)).await.map_err(|error| message(&error))?;
    sink.finish().await.map_err(|error| message(&error))?;
    Ok(())
}

async fn contents(client: &Client, table: &str) -> Vec<String> {
    let sql = format!("SELECT e::text FROM {table} e ORDER BY 1");
    client.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Keys of each type in the forms that are read, and some that are not.
const KEYS: &[(&str, &[&str])] = &[
    ("bigint", &["1", "-9223372036854775808", " 42 ", "+7", "0", "007", "12", "13", "1.0", "", "9e3"]),
    ("integer", &["1", "-2147483648", "2147483648", "3", "4", "5", "6"]),
    (
        "text",
        &[
            "", " ", "a", "it's", "a\tb", "a\nb", "\\.", "\\N", "\\", "é漢", "\"q\"", ",", "\r", "NULL",
            "\\x41",
        ],
    ),
    ("char(5)", &["a", "a  ", "", "é", "abcde", "abcdef", "abcde   ", "b\\"]),
    ("varchar(5)", &["a", "", "é", "abcde", "abcdef", "ab c"]),
    ("uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}", "x"]),
    ("bytea", &["\\x00ff", "\\x", "abc", "\\xDEAD", "\\x1"]),
    ("numeric", &["1", "1.50", "-0.000", "1e10", "NaN", "Infinity", "99999999999999999999.5"]),
    ("date", &["2026-01-01", "0044-03-15 BC", "infinity", "today", "2026-02-30"]),
    ("timestamptz", &["2026-01-01 00:00:00+00", "2026-01-01T12:00:00.5-03:30", "2026-01-01", "-infinity"]),
    ("boolean", &["t", "false", "ON", "0", "maybe"]),
];

/// How a COPY is written.
struct Style {
    clause: String,
    csv: bool,
    delimiter: char,
    quote: char,
    escape: char,
    null: &'static str,
    ending: &'static str,
    header: bool,
}

fn style(random: &mut Random) -> Style {
    let csv = random.chance(50);
    let delimiter = random.of(if csv { &[',', ';', '\t'] } else { &['\t', '|', 'A'] });
    let (quote, escape) =
        random.of(if csv { &[('"', '"'), ('"', '\\'), ('\'', '"')] } else { &[('"', '"')] });
    let null = random.of(if csv { &["", "NULL", "\\N"] } else { &["\\N", "", "NULL"] });
    let header = random.chance(25);
    let doubled = |c: char| if c == '\'' { "''".to_owned() } else { c.to_string() };
    let mut clause = format!("(FORMAT {}, NULL '{null}'", if csv { "csv" } else { "text" });
    write!(clause, ", DELIMITER '{delimiter}'").unwrap();
    if csv {
        write!(clause, ", QUOTE '{}', ESCAPE '{}'", doubled(quote), doubled(escape)).unwrap();
        if random.chance(20) {
            clause.push_str(", FORCE_NOT_NULL (k, a)");
        }
        if random.chance(20) {
            clause.push_str(", FORCE_NULL (k)");
        }
    }
    clause.push_str(if header { ", HEADER)" } else { ")" });
    let ending = random.of(&["\n", "\n", "\r\n", "\r"]);
    Style { clause, csv, delimiter, quote, escape, null, ending, header }
}

impl Style {
    fn field(&self, random: &mut Random, value: Option<&str>) -> String {
        let Some(value) = value else { return self.null.to_owned() };
        let mut out = String::new();
        if self.csv {
            let special = |c: char| c == self.delimiter || c == self.quote || c == '\n' || c == '\r';
            if value.contains(special) || value == self.null || value == "\\." || random.chance(20) {
                out.push(self.quote);
                for c in value.chars() {
                    if c == self.quote || c == self.escape {
                        out.push(self.escape);
                    }
                    out.push(c);
                }
                out.push(self.quote);
            } else {
                out.push_str(value);
            }
            return out;
        }
        for c in value.chars() {
            match c {
                '\\' => out.push_str(random.of(&["\\\\", "\\134", "\\x5c"])),
                '\n' if self.ending == "\n" => out.push_str(random.of(&["\\n", "\\\n", "\\012", "\\xa"])),
                '\n' => out.push_str(random.of(&["\\n", "\\012"])),
                '\r' => out.push_str(random.of(&["\\r", "\\15"])),
                '\t' => out.push_str(random.of(&["\\t", "\\\t"])),
                c if c == self.delimiter => {
                    out.push('\\');
                    out.push(c);
                }
                c if c.is_ascii_alphanumeric() && random.chance(5) => {
                    write!(out, "\\x{:02x}", c as u32).unwrap();
                }
                c if c.is_ascii_digit() && random.chance(5) => write!(out, "\\{:03o}", c as u32).unwrap(),
                c => out.push(c),
            }
        }
        out
    }
}

const NASTY: &[&str] =
    &["", "x", "a\tb", "a\nb", "q\"q", "it's", "\\", "\\.", "\\N", "é", ",;|", "A", "\r\n", "NULL"];

fn data(random: &mut Random, style: &Style, keys: &[&str]) -> Vec<u8> {
    let mut text = String::new();
    if style.header {
        let names = ["a", "k", "b"].join(&style.delimiter.to_string());
        write!(text, "{names}{}", style.ending).unwrap();
    }
    for _ in 0..random.next(12) {
        let good = keys.len().min(3 + random.next(keys.len()));
        let key = (!random.chance(8)).then(|| random.of(&keys[..good]));
        let (a, b) = (random.of(NASTY), random.of(NASTY));
        let fields = [Some(a).filter(|_| !random.chance(10)), key, Some(b)];
        let fields: Vec<String> = fields.into_iter().map(|field| style.field(random, field)).collect();
        write!(text, "{}{}", fields.join(&style.delimiter.to_string()), style.ending).unwrap();
    }
    if random.chance(15) {
        write!(text, "\\.{}", style.ending).unwrap();
    }
    let mut bytes = text.into_bytes();
    if random.chance(15) {
        bytes.pop();
    }
    // Now and then something is broken.
    if random.chance(25) && !bytes.is_empty() {
        for _ in 0..=random.next(2) {
            let at = random.next(bytes.len());
            bytes[at] = random.of(b"\\\"\n\r\t,.Nx0'\xc3 A|");
        }
    }
    bytes
}

/// Counts of what has happened.
#[derive(Default, Debug)]
struct Tally {
    equal: u64,
    rows: usize,
    both_fail: u64,
    refused: BTreeMap<String, u64>,
    wrong: String,
}

/// Copies into the partitioned table and by the splitter, compares, and takes all back.
async fn compare_copy(
    client: &Client,
    schema: &ShardedSchema,
    statement: &str,
    bytes: &[u8],
    piece: usize,
    tally: &mut Tally,
) {
    let copy_sql = |place: &str| format!("COPY {place}.event {statement}");
    client.batch_execute("BEGIN").await.unwrap();
    let whole = copy(client, &copy_sql("whole"), bytes).await;
    client.batch_execute(if whole.is_ok() { "SAVEPOINT s" } else { "ROLLBACK; BEGIN" }).await.unwrap();
    let text = copy_sql("public");
    let found = copy_from(text.as_bytes(), LexOptions::default(), schema);
    let Ok(Some(CopyFrom::Sharded(target))) = found else { panic!("{text}: {found:?}") };
    let session = CopySession { is_utf8: true, csv_ends_at_marker: true, row_bytes_max: 1 << 16 };
    let mut splitter = RowSplitter::new(target, session);
    let mut parts = vec![Vec::new(); SHARDS as usize];
    let mut sink = |to: CopyTo, bytes: &[u8]| match to {
        CopyTo::Shard(shard) => parts[shard as usize].extend_from_slice(bytes),
        CopyTo::All => parts.iter_mut().for_each(|part| part.extend_from_slice(bytes)),
    };
    let mut split = Ok(());
    for piece in bytes.chunks(piece) {
        split = split.and_then(|()| splitter.push(piece, &mut sink));
    }
    let split = split.and_then(|()| splitter.finish(&mut sink));
    let shown = || format!("{text}\n    {:?}", String::from_utf8_lossy(bytes));
    let mut sharded = Ok(());
    if split.is_ok() {
        for (n, part) in parts.iter().enumerate() {
            if sharded.is_ok() {
                sharded = copy(client, &copy_sql(&format!("s{n}")), part).await;
            }
        }
    }
    match (&whole, &split, &sharded) {
        (Ok(()), Ok(()), Ok(())) => {
            let mut same = true;
            for n in 0..SHARDS {
                let want = contents(client, &format!("whole.p{n}")).await;
                let got = contents(client, &format!("s{n}.event")).await;
                tally.rows += want.len();
                if got != want {
                    same = false;
                    writeln!(tally.wrong, "{}\n    shard {n} has {got:?}, not {want:?}", shown()).unwrap();
                }
            }
            tally.equal += u64::from(same);
        }
        (Ok(()), Err(error), _) => *tally.refused.entry(error.to_string()).or_default() += 1,
        (Err(_), Err(_), _) | (Err(_), _, Err(_)) => tally.both_fail += 1,
        _ => writeln!(tally.wrong, "{}\n    {whole:?} but {split:?} and {sharded:?}", shown()).unwrap(),
    }
    client.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn copied_rows_are_where_partitions_have_them() {
    let (seed, cases) = (support::number("SEED", 42), support::number("CASES", 50));
    let database = support::database();
    let client = connect(&database.name).await;
    for (of, keys) in KEYS {
        create(&client, &format!("a text, k {of}, b text"), "k").await;
        let schema = schema(&[("k", of)]);
        let mut random = Random(seed.wrapping_mul(2_654_435_761) | 1);
        let mut tally = Tally::default();
        for _ in 0..cases {
            let style = style(&mut random);
            let bytes = data(&mut random, &style, keys);
            let statement = format!("(a, k, b) FROM STDIN WITH {}", style.clause);
            let piece = 1 + random.next(50);
            compare_copy(&client, &schema, &statement, &bytes, piece, &mut tally).await;
        }
        println!(
            "{of}, seed {seed}: {} equal ({} rows), {} fail in both, refused {:?}",
            tally.equal, tally.rows, tally.both_fail, tally.refused
        );
        assert!(tally.wrong.is_empty(), "{}", tally.wrong);
        assert!(tally.equal > cases / 8, "too few are compared");
        client.batch_execute("DROP SCHEMA whole, s0, s1, s2 CASCADE; DROP TABLE country").await.unwrap();
        // Only values that are read in one way by PostgreSQL and not here may be refused.
        for message in tally.refused.keys() {
            assert!(message.starts_with("the value of the sharding key"), "{message}");
        }
    }
}

/// Rows in binary format come from PostgreSQL itself, whole and broken.
#[tokio::test]
async fn copied_binary_rows_are_where_partitions_have_them() {
    let (seed, cases) = (support::number("SEED", 42), support::number("CASES", 50));
    let database = support::database();
    let client = connect(&database.name).await;
    create(&client, "a text, k bigint, t text, b bytea", "k, t").await;
    let schema = schema(&[("k", "bigint"), ("t", "text")]);
    let mut random = Random(seed.wrapping_mul(2_654_435_761) | 1);
    let mut tally = Tally::default();
    for _ in 0..cases {
        let query = format!(
            "COPY (SELECT NULLIF(md5(i::text), ''), NULLIF(i - 3, 0) * 7, CASE WHEN i % 4 > 0 THEN repeat('é', i::int % 5) END,
                 decode(repeat('ff0a', i::int % 3), 'hex') FROM generate_series(1::bigint, {}) i) TO STDOUT BINARY",
            random.next(20)
        );
        let mut bytes = BytesMut::new();
        {
            use futures_util::StreamExt;
            let mut stream = pin!(client.copy_out(&query).await.unwrap());
            while let Some(chunk) = stream.next().await {
                bytes.extend_from_slice(&chunk.unwrap());
            }
        }
        let mut bytes = bytes.to_vec();
        if random.chance(30) {
            let at = random.next(bytes.len());
            bytes[at] ^= 1 << random.next(8);
        }
        if random.chance(15) {
            let length = bytes.len() - random.next(8);
            bytes.truncate(length);
        }
        let statement = "(a, k, t, b) FROM STDIN WITH (FORMAT binary)";
        compare_copy(&client, &schema, statement, &bytes, 1 + random.next(60), &mut tally).await;
    }
    println!(
        "binary, seed {seed}: {} equal ({} rows), {} fail in both",
        tally.equal, tally.rows, tally.both_fail
    );
    assert!(tally.wrong.is_empty(), "{}", tally.wrong);
    assert!(tally.equal > cases / 3 && tally.refused.is_empty(), "{:?}", tally.refused);
}

/// A parameter in text format, whatever its type is.
#[derive(Clone, Debug)]
struct Text(Option<String>);

impl ToSql for Text {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Some(text) = &self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }
    fn accepts(_: &Type) -> bool {
        true
    }
    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }
    to_sql_checked!();
}

struct Raw(Vec<u8>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }
    fn accepts(_: &Type) -> bool {
        true
    }
}

/// What a Bind gives.
#[derive(Clone)]
struct Bound {
    types: Vec<Type>,
    values: Vec<Text>,
}

impl Parameters for Bound {
    fn declared(&self, number: u32) -> u32 {
        self.types.get(number as usize - 1).map_or(0, Type::oid)
    }
    fn value(&self, number: u32) -> Option<ParameterValue<'_>> {
        let value = self.values.get(number as usize - 1)?;
        Some(value.0.as_ref().map_or(ParameterValue::Null, |text| ParameterValue::Text(text.as_bytes())))
    }
    fn is_utf8(&self) -> bool {
        true
    }
}

type Rows = Vec<Vec<Option<Vec<u8>>>>;

async fn run(
    client: &Client,
    place: &str,
    sql: &str,
    bound: &Bound,
    numbers: &[u32],
) -> Result<Rows, String> {
    client.batch_execute(&format!("SET LOCAL search_path = {place}, public")).await.unwrap();
    let types: Vec<Type> = numbers.iter().map(|n| bound.types[*n as usize - 1].clone()).collect();
    let values: Vec<&(dyn ToSql + Sync)> =
        numbers.iter().map(|n| &bound.values[*n as usize - 1] as &(dyn ToSql + Sync)).collect();
    let statement = client.prepare_typed(sql, &types).await.map_err(|error| message(&error))?;
    if statement.params().len() != values.len() {
        return Err("another number of parameters".to_owned());
    }
    let rows = client.query(&statement, &values).await.map_err(|error| message(&error))?;
    let row = |row: &tokio_postgres::Row| {
        (0..row.len()).map(|at| row.get::<_, Option<Raw>>(at).map(|raw| raw.0)).collect()
    };
    Ok(rows.iter().map(row).collect())
}

/// An INSERT, and what is bound to it.
fn insert(random: &mut Random) -> (String, Bound) {
    let mut bound = Bound { types: Vec::new(), values: Vec::new() };
    let declare = random.chance(40);
    let mut rows = Vec::new();
    let separator = random.of(&[", ", ",", " /* , */ , -- ' \n"]);
    let style = random.next(3);
    for row in 0..=random.next(9) {
        let mut parameter = |random: &mut Random, of: Type, text: String| {
            // One that is there already, or a new one.
            if !bound.values.is_empty() && random.chance(15) {
                return format!("${}", 1 + random.next(bound.values.len()));
            }
            bound.types.push(if declare { of } else { Type::UNKNOWN });
            bound.values.push(Text((!random.chance(5)).then_some(text)));
            format!("${}", bound.values.len())
        };
        let key = random.next(20);
        let key = match style {
            0 => parameter(random, Type::INT4, key.to_string()),
            1 => random
                .of(&[format!("{key}"), format!("'{key}'"), format!("-{key}"), format!("{key}::int")]
                    .each_ref())
                .clone(),
            _ if random.chance(50) => parameter(random, Type::INT4, key.to_string()),
            _ => key.to_string(),
        };
        let n = match random.next(7) {
            0 => "NULL".to_owned(),
            1 => "abs(-3) /* ) */".to_owned(),
            2 => "(SELECT max(id) FROM country)".to_owned(),
            3 => "DEFAULT".to_owned(),
            4 if style != 1 => format!("{} + 1", parameter(random, Type::INT8, row.to_string())),
            5 if style != 1 => format!("{}::int", parameter(random, Type::INT4, row.to_string())),
            _ if style != 1 => parameter(random, Type::INT8, row.to_string()),
            _ => row.to_string(),
        };
        let s = match random.next(5) {
            0 => "'a''b), (1'".to_owned(),
            1 => "E'\\')'".to_owned(),
            2 => "$$x, y$$".to_owned(),
            _ if style != 1 => parameter(random, Type::TEXT, format!("{row}7")),
            _ => format!("'{row}'"),
        };
        rows.push(format!("({n}, {s}, {key})"));
    }
    let tail = match random.next(8) {
        0 => " ON CONFLICT (tenant_id, n) DO NOTHING",
        1 => " ON CONFLICT (tenant_id, n) DO UPDATE SET (n, s) = (EXCLUDED.n + 100, 'updated')",
        2 => " ON CONFLICT DO NOTHING RETURNING n",
        3 => "",
        4 => " RETURNING *",
        _ => " RETURNING tenant_id, n, s, n + 1 AS more -- end",
    };
    (format!("INSERT INTO event (n, s, tenant_id) VALUES {}{tail}", rows.join(separator)), bound)
}

/// The same with rows made of arrays: literals, lists, and parameters.
fn insert_of_arrays(random: &mut Random) -> (String, Bound) {
    let mut bound = Bound { types: Vec::new(), values: Vec::new() };
    let count = 1 + random.next(9);
    let mut array = |random: &mut Random, of: (&str, Type), elements: &[&str]| {
        let elements: Vec<&str> = (0..count).map(|_| random.of(elements)).collect();
        let name = of.0;
        match random.next(5) {
            0 if name != "text" => {
                let elements: Vec<_> = elements.iter().map(|element| element.replace('"', "")).collect();
                format!("ARRAY[{}]::{name}[]", elements.join(", "))
            }
            0..3 => {
                let text = format!("{{{}}}", elements.join([",", " ,  "][random.next(2)]));
                let text = text.replace('\'', "''");
                format!("{}::{name}[]", [format!("'{text}'"), format!("('{text}')")][random.next(2)])
            }
            _ => {
                bound.types.push(if random.chance(50) { of.1 } else { Type::UNKNOWN });
                bound.values.push(Text(Some(format!("{{{}}}", elements.join(",")))));
                format!("(${})::{name}[]", bound.values.len())
            }
        }
    };
    let n = array(random, ("bigint", Type::INT8_ARRAY), &["1", "2", "-3", "NULL", "40", "5", "6", "7"]);
    let s = [r#""a,b""#, "it's", r#""q\"}{""#, "null", r#""null""#, "x y", r#""""#, r"c\,d"];
    let s = array(random, ("text", Type::TEXT_ARRAY), &s);
    let keys = ["0", "1", "2", "3", "4", "5", "6", "7", "-8", "\"9\"", "NULL"];
    let keys = if random.chance(90) { &keys[..10] } else { &keys };
    let key = array(random, ("int", Type::INT4_ARRAY), keys);
    let tail = match random.next(6) {
        0 => " ON CONFLICT (tenant_id, n) DO NOTHING",
        1 => "",
        2 => " /* RETURNING */ RETURNING *",
        _ => " RETURNING tenant_id, n, s, n + 1 AS more -- end",
    };
    let sql =
        format!("INSERT INTO event (n, s, tenant_id) SELECT * FROM UNNEST({n}, {s} /* ) */, {key}){tail}");
    (sql, bound)
}

#[tokio::test]
async fn inserted_rows_are_where_partitions_have_them() {
    compare_inserts(insert).await;
}

#[tokio::test]
async fn rows_made_of_arrays_are_where_partitions_have_them() {
    compare_inserts(insert_of_arrays).await;
}

async fn compare_inserts(insert: fn(&mut Random) -> (String, Bound)) {
    let (seed, cases) = (support::number("SEED", 42), support::number("CASES", 50) * 10);
    let database = support::database();
    let client = connect(&database.name).await;
    create(&client, "tenant_id int, n bigint DEFAULT 5, s text, UNIQUE (tenant_id, n)", "tenant_id").await;
    let schema = schema(&[("tenant_id", "integer")]);
    let lex = LexOptions::default();
    let mut random = Random(seed.wrapping_mul(2_654_435_761) | 1);
    let mut tally = Tally::default();
    let mut not_divided = 0;
    for _ in 0..cases {
        let (sql, bound) = insert(&mut random);
        let split = match key_plan(sql.as_bytes(), lex, &schema).split(sql.as_bytes(), lex, &schema, &bound) {
            Ok(Some(split)) => split,
            Ok(None) => {
                not_divided += 1;
                continue;
            }
            Err(refusal) => {
                *tally.refused.entry(refusal.label().to_owned()).or_default() += 1;
                continue;
            }
        };
        client.batch_execute("BEGIN").await.unwrap();
        let all: Vec<u32> = (1..).take(bound.values.len()).collect();
        let whole = run(&client, "whole", &sql, &bound, &all).await;
        client.batch_execute(if whole.is_ok() { "SAVEPOINT s" } else { "ROLLBACK; BEGIN" }).await.unwrap();
        let mut answers = Vec::new();
        let mut failed = None;
        for part in &split.parts {
            let text = std::str::from_utf8(&part.sql).unwrap();
            let mut own = bound.clone();
            for (number, value) in &part.replaced {
                own.values[*number as usize - 1] = Text(Some(String::from_utf8(value.clone()).unwrap()));
            }
            match run(&client, &format!("s{}", part.shard), text, &own, &part.parameters).await {
                Ok(rows) => answers.push(rows),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        match (&whole, failed) {
            (Ok(want), None) => {
                let merged: Rows = if split.returning {
                    split.order.iter().map(|at| answers[at.part][at.row].clone()).collect()
                } else {
                    Vec::new()
                };
                let mut same = merged == *want;
                for n in 0..SHARDS {
                    let partition = contents(&client, &format!("whole.p{n}")).await;
                    same &= contents(&client, &format!("s{n}.event")).await == partition;
                    tally.rows += partition.len();
                }
                if same {
                    tally.equal += 1;
                } else {
                    writeln!(tally.wrong, "{sql}\n    {:?}\n    {split:?}", bound.values).unwrap();
                }
            }
            (Err(_), Some(_)) => tally.both_fail += 1,
            (whole, failed) => {
                writeln!(tally.wrong, "{sql}\n    {:?}\n    {whole:?}\n    {failed:?}", bound.values)
                    .unwrap();
            }
        }
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    println!(
        "seed {seed}: {} equal ({} rows), {} fail in both, {not_divided} not divided, refused {:?}",
        tally.equal, tally.rows, tally.both_fail, tally.refused
    );
    assert!(tally.wrong.is_empty(), "{}", tally.wrong);
    assert!(tally.equal > cases / 5, "too few are compared");
}
