//! The hash of keys against PostgreSQL's own: 100,000 values of each type go out as text and as binary, and
//! come back with the partition we say they belong to, for `satisfies_hash_partition` to judge.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod support;

use std::error::Error;
use std::fmt::Write as _;

use bytes::Bytes;
use futures_util::SinkExt;
use pgweir::shard::{KeyType, KeyValue, row_hash};
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, NoTls};

/// A large prime, so that many bits of the hash count.
const MODULUS: u64 = 1_021;
const VALUES: i64 = 100_000;

/// (type, values from `i` = 1 … 100,000); `h` is a pseudo-random int8 made of `i`.
const TYPES: &[(&str, &str)] = &[
    ("smallint", "CASE i WHEN 1 THEN -32768 WHEN 2 THEN 32767 ELSE (h % 32768) END"),
    ("integer", "CASE i WHEN 1 THEN -2147483648 WHEN 2 THEN 2147483647 ELSE (h % 2147483648) END"),
    (
        "bigint",
        "CASE i WHEN 1 THEN -9223372036854775808 WHEN 2 THEN 9223372036854775807 WHEN 3 THEN 0 ELSE h END",
    ),
    (
        "text",
        "substr(repeat(md5(i::text), 4), 1, (i % 90)::int) || repeat(chr((161 + i % 5000)::int), (i % 3)::int)",
    ),
    ("varchar", "repeat(' ', (i % 2)::int) || md5(h::text) || repeat(' ', (i % 3)::int)"),
    ("char(40)", "substr(md5(i::text), 1, (i % 33)::int) || 'é'"),
    ("uuid", "md5(i::text)::uuid"),
    ("bytea", "substr(decode(repeat(md5(i::text), 3), 'hex'), 1, (i % 49)::int)"),
    ("boolean", "h > 0"),
    (
        "date",
        "CASE i WHEN 1 THEN 'infinity' WHEN 2 THEN '-infinity' WHEN 3 THEN '4714-11-24 BC' WHEN 4 THEN '5874897-12-31' ELSE date '2000-01-01' + (h % CASE i % 3 WHEN 0 THEN 2451545 ELSE 40000 END)::int END",
    ),
    (
        "time",
        "CASE i WHEN 1 THEN time '24:00' ELSE time '00:00' + (abs(h) % 86400000000) * interval '1 microsecond' END",
    ),
    (
        "timestamp",
        "CASE i WHEN 1 THEN 'infinity' WHEN 2 THEN '-infinity' WHEN 3 THEN '4714-11-24 00:00:00 BC' WHEN 4 THEN '294276-12-31 23:59:59.999999' ELSE timestamp '2000-01-01' + (h % CASE i % 3 WHEN 0 THEN 211813488000000000 WHEN 1 THEN 3000000000000000 ELSE 8000000000000000000 / 100 END) * interval '1 microsecond' END",
    ),
    (
        "timestamptz",
        "CASE i WHEN 1 THEN 'infinity' WHEN 2 THEN '-infinity' ELSE timestamptz '2000-01-01' + (h % CASE i % 2 WHEN 0 THEN 200000000000000000 ELSE 3000000000000000 END) * interval '1 microsecond' END",
    ),
    (
        "numeric",
        "CASE i WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' WHEN 3 THEN '-Infinity' WHEN 4 THEN 0 WHEN 5 THEN 0.000 ELSE round(h::numeric * power(10::numeric, (i % 60 - 40)::int), (i % 45)::int) END",
    ),
];

/// A value as it came, whatever its type.
struct Raw(Vec<u8>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }
    fn accepts(_: &Type) -> bool {
        true
    }
}

async fn client(database: &str) -> Client {
    let (host, port) = support::cluster()
        .address(0)
        .rsplit_once(':')
        .map(|(h, p)| (h.to_owned(), p.parse().unwrap()))
        .unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port).user("app").password("app").dbname(database);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn copy_in(client: &Client, table: &str, rows: String) {
    let sink = client.copy_in::<_, Bytes>(&format!("COPY {table} FROM STDIN")).await.unwrap();
    let mut sink = std::pin::pin!(sink);
    sink.send(Bytes::from(rows)).await.unwrap();
    sink.finish().await.unwrap();
}

/// A text in COPY's own escapes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}

fn key_type(name: &str) -> KeyType {
    KeyType::named(name.split('(').next().unwrap()).unwrap()
}

#[tokio::test]
async fn every_type_hashes_as_postgresql_does() {
    let database = support::database();
    let client = client(&database.name).await;
    // Offsets with seconds before the zones of today.
    client.batch_execute("SET timezone = 'Asia/Kolkata'").await.unwrap();
    for (name, values) in TYPES {
        client
            .batch_execute(&format!(
                "CREATE UNLOGGED TABLE given AS SELECT i, ({values})::{name} AS k
                     FROM (SELECT i, hashint8extended(i, 42) AS h FROM generate_series(1::bigint, {VALUES}) i) g;
                 CREATE TABLE parted (k {name}) PARTITION BY HASH (k);
                 CREATE UNLOGGED TABLE judged (k {name}, remainder int)"
            ))
            .await
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let key_type = key_type(name);
        // Output of char(n) keeps its blanks only as itself.
        let rows = client.query("SELECT k, k::varchar FROM given ORDER BY i", &[]).await;
        let texts: Vec<String> = match key_type {
            KeyType::Bool => client
                .query("SELECT CASE WHEN k THEN 't' ELSE 'f' END FROM given ORDER BY i", &[])
                .await
                .unwrap()
                .iter()
                .map(|row| row.get(0))
                .collect(),
            _ => rows.as_ref().unwrap().iter().map(|row| row.get(1)).collect(),
        };
        let mut copy = String::new();
        for (row, text) in rows.unwrap().iter().zip(&texts) {
            let of_text =
                KeyValue::from_text(key_type, text).unwrap_or_else(|| panic!("{name}: {text:?} is not read"));
            let Raw(bytes) = row.get(0);
            let of_binary = KeyValue::from_binary(key_type, &bytes);
            assert_eq!(of_binary.as_ref(), Some(&of_text), "{name}: {text:?} in binary is {bytes:?}");
            writeln!(copy, "{}\t{}", escaped(text), row_hash([Some(&of_text)]) % MODULUS).unwrap();
        }
        copy_in(&client, "judged", copy).await;
        let judge = client
            .query_one(
                &format!(
                    "SELECT count(*), count(*) FILTER (WHERE satisfies_hash_partition('parted'::regclass, {MODULUS}, remainder, k)) FROM judged"
                ),
                &[],
            )
            .await
            .unwrap();
        let counts: (i64, i64) = (judge.get(0), judge.get(1));
        assert_eq!(counts, (VALUES, VALUES), "{name}");
        client.batch_execute("DROP TABLE given, parted, judged").await.unwrap();
    }
}

#[tokio::test]
async fn keys_of_several_columns_hash_as_postgresql_does() {
    let database = support::database();
    let client = client(&database.name).await;
    client
        .batch_execute(&format!(
            "CREATE TABLE parted (a bigint, b text, c uuid) PARTITION BY HASH (a, b, c);
             CREATE UNLOGGED TABLE given AS SELECT CASE WHEN i % 7 > 0 THEN i END AS a, CASE WHEN i % 5 > 0 THEN 'n' || i END AS b,
                 CASE WHEN i % 3 > 0 THEN md5(i::text)::uuid END AS c FROM generate_series(1::bigint, {VALUES}) i;
             CREATE UNLOGGED TABLE judged (a bigint, b text, c uuid, remainder int)"
        ))
        .await
        .unwrap();
    let types = [KeyType::Int8, KeyType::Text, KeyType::Uuid];
    let mut copy = String::new();
    for row in client.query("SELECT a::text, b, c::text FROM given", &[]).await.unwrap() {
        let texts: Vec<Option<String>> = (0..3).map(|at| row.get(at)).collect();
        let values: Vec<Option<KeyValue>> = types
            .iter()
            .zip(&texts)
            .map(|(of, text)| text.as_ref().map(|text| KeyValue::from_text(*of, text).unwrap()))
            .collect();
        for text in &texts {
            write!(copy, "{}\t", text.as_deref().unwrap_or("\\N")).unwrap();
        }
        writeln!(copy, "{}", row_hash(values.iter().map(Option::as_ref)) % MODULUS).unwrap();
    }
    copy_in(&client, "judged", copy).await;
    let judge = client
        .query_one(
            &format!(
                "SELECT count(*) FILTER (WHERE satisfies_hash_partition('parted'::regclass, {MODULUS}, remainder, a, b, c)) FROM judged"
            ),
            &[],
        )
        .await
        .unwrap();
    assert_eq!(judge.get::<_, i64>(0), VALUES);
}

/// Rows are where the partitions of a real table are.
#[tokio::test]
async fn rows_of_a_partitioned_table_are_where_we_say() {
    let database = support::database();
    let client = client(&database.name).await;
    let mut sql = "CREATE TABLE parted (k bigint) PARTITION BY HASH (k);".to_owned();
    for n in 0..4 {
        write!(sql, "CREATE TABLE p{n} PARTITION OF parted FOR VALUES WITH (MODULUS 4, REMAINDER {n});")
            .unwrap();
    }
    sql.push_str("INSERT INTO parted SELECT hashint8extended(i, 1) FROM generate_series(1::bigint, 20000) i");
    client.batch_execute(&sql).await.unwrap();
    for row in client.query("SELECT tableoid::regclass::text, k FROM parted", &[]).await.unwrap() {
        let key = KeyValue::from_text(KeyType::Int8, &row.get::<_, i64>(1).to_string()).unwrap();
        assert_eq!(row.get::<_, String>(0), format!("p{}", row_hash([Some(&key)]) % 4));
    }
}

#[test]
fn the_command_line_tells_the_shard() {
    let hash = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_pgweir"))
            .arg("hash")
            .args(arguments)
            .output()
            .unwrap();
        let text = if output.status.success() { output.stdout } else { output.stderr };
        String::from_utf8(text).unwrap().trim().to_owned()
    };
    let key = KeyValue::from_text(KeyType::Int8, "-42").unwrap();
    let pair = [Some(&key), None];
    let expected = row_hash(pair) % 16;
    assert_eq!(hash(&["--type", "bigint", "--shards", "16", "-42"]), expected.to_string());
    assert_eq!(
        hash(&["--type", "int4", "--shards", "16", "4.2"]),
        "pgweir: \"4.2\" is not a value of type integer"
    );
    assert!(hash(&["--type", "money", "--shards", "16", "4"]).starts_with("pgweir: \"money\" is not a type"));
    assert!(
        hash(&["--type", "int", "--type", "text", "--shards", "16", "4"]).contains("2 types and 1 values")
    );
}
