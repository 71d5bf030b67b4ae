//! Generated statements over sharded tables, on one database that has all rows and on the shard that is chosen for
//! them: the same answer, or refused. `STATEMENTS` and `SEED` choose how many and which.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt::Write as _;

use pgweir::shard::{KeyColumn, KeyType, ShardFunction, ShardedSchema, ShardedTables, TablePattern};
use pgweir::sql::{
    Destination, Fingerprint, KeyPlan, LexOptions, ParameterValue, Parameters, StatementCache, key_plan,
};
use support::tenants::{Generator, Random, TENANTS};
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, NoTls};

const SHARDS: u32 = 3;

fn schema(key_type: &str) -> ShardedSchema {
    let tables = |names: &[&str]| names.iter().map(|name| TablePattern::parse(name).unwrap()).collect();
    ShardedSchema {
        sharded: vec![ShardedTables {
            tables: tables(&["event", "item"]),
            key: vec![KeyColumn {
                name: "tenant_id".to_owned(),
                key_type: KeyType::named(key_type).unwrap(),
            }],
            function: ShardFunction::Hash { shards: SHARDS },
        }],
        everywhere: tables(&["country"]),
    }
}

struct Bound(Option<i64>, Vec<u8>);

impl Parameters for Bound {
    fn declared(&self, _: u32) -> u32 {
        0
    }
    fn value(&self, number: u32) -> Option<ParameterValue<'_>> {
        (number == 1 && self.0.is_some()).then_some(ParameterValue::Binary(&self.1))
    }
    fn is_utf8(&self) -> bool {
        true
    }
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

type Rows = Vec<Vec<Option<Vec<u8>>>>;

/// Runs a statement in one of the schemas, and takes back what it did.
async fn run(client: &Client, path: &str, sql: &str, parameter: Option<i64>) -> Result<Rows, String> {
    client.batch_execute(&format!("BEGIN; SET LOCAL search_path = {path}")).await.unwrap();
    let value = parameter.unwrap_or_default();
    let given: &[&(dyn ToSql + Sync)] = if parameter.is_some() { &[&value] } else { &[] };
    let result = client.query(sql, given).await;
    client.batch_execute("ROLLBACK").await.unwrap();
    let rows =
        result.map_err(|error| error.as_db_error().map_or(error.to_string(), |e| e.message().to_owned()))?;
    let mut rows: Rows = rows
        .iter()
        .map(|row| (0..row.len()).map(|at| row.get::<_, Option<Raw>>(at).map(|raw| raw.0)).collect())
        .collect();
    rows.sort();
    Ok(rows)
}

async fn prepare(database: &str, key_type: &str) -> Client {
    let address = support::cluster().address(0).clone();
    let (host, port) = address.rsplit_once(':').unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port.parse().unwrap()).user("app").password("app").dbname(database);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let mut sql = String::new();
    for name in std::iter::once("whole".to_owned()).chain((0..SHARDS).map(|n| format!("s{n}"))) {
        write!(
            sql,
            "CREATE SCHEMA {name};
             CREATE TABLE {name}.event (id bigint, tenant_id {key_type}, n bigint);
             CREATE TABLE {name}.item (id bigint, tenant_id {key_type}, n bigint);
             CREATE TABLE {name}.country AS SELECT i AS id, 'c' || i AS name FROM generate_series(1::bigint, 3) i;"
        )
        .unwrap();
    }
    // A real partition tells where each row belongs.
    write!(sql, "CREATE TABLE parted (k {key_type}) PARTITION BY HASH (k);").unwrap();
    for table in ["event", "item"] {
        write!(
            sql,
            "INSERT INTO whole.{table} SELECT i, 1 + abs(hashint8extended(i, {})) % {TENANTS}, i % 5 FROM generate_series(1::bigint, 60) i;",
            table.len()
        )
        .unwrap();
        for n in 0..SHARDS {
            write!(
                sql,
                "INSERT INTO s{n}.{table} SELECT * FROM whole.{table} WHERE satisfies_hash_partition('parted'::regclass, {SHARDS}, {n}, tenant_id);"
            )
            .unwrap();
        }
    }
    client.batch_execute(&sql).await.unwrap();
    client
}

#[tokio::test]
async fn the_chosen_shard_answers_as_one_database_would() {
    compare("bigint", support::number("STATEMENTS", 5_000)).await;
}

/// The forms of a value are read as other types, too.
#[tokio::test]
async fn so_it_does_with_keys_of_other_types() {
    for key_type in ["smallint", "integer", "numeric"] {
        compare(key_type, support::number("STATEMENTS", 5_000) / 5).await;
    }
}

async fn compare(key_type: &str, statements: u64) {
    let seed = support::number("SEED", 42);
    let database = support::database();
    let client = prepare(&database.name, key_type).await;
    let (schema, lex) = (schema(key_type), LexOptions::default());
    let mut generator = Generator { random: Random(seed | 1), tenant: 1, parameter: false };
    let (mut equal, mut errors, mut rows_seen) = (0u64, 0u64, 0usize);
    let mut refused: BTreeMap<&str, u64> = BTreeMap::new();
    let mut wrong = String::new();
    // A plan is kept for each fingerprint: it must be that of every text that has it.
    let cache = StatementCache::new(64 << 20);
    let mut plans: HashMap<Fingerprint, KeyPlan> = HashMap::new();
    for _ in 0..statements {
        generator.tenant = generator.random.tenant();
        // The client library encodes what it has as the type that the server infers: only bigint is one.
        let wants_parameter = key_type == "bigint" && generator.random.chance(30);
        generator.parameter = wants_parameter;
        let sql = if generator.random.chance(75) { generator.query() } else { generator.write() };
        let parameter = (wants_parameter && sql.contains("$1")).then_some(generator.tenant.cast_signed());
        let bound = Bound(parameter, parameter.unwrap_or_default().to_be_bytes().to_vec());
        let fingerprint = cache.analyze(sql.as_bytes(), lex).fingerprint;
        let fresh = key_plan(sql.as_bytes(), lex, &schema);
        let plan = plans.entry(fingerprint).or_insert_with(|| fresh.clone());
        assert_eq!(*plan, fresh, "{sql}");
        let shard = match plan.destination(sql.as_bytes(), lex, &schema, &bound) {
            Ok(Destination::Shard(shard)) => shard,
            Ok(Destination::Any) => 0,
            // None of these statements is for all shards.
            Ok(Destination::All { what }) => panic!("{sql}: {what}"),
            Err(refusal) => {
                *refused.entry(refusal.label()).or_default() += 1;
                continue;
            }
        };
        let one = run(&client, "whole", &sql, parameter).await;
        let sharded = run(&client, &format!("s{shard}"), &sql, parameter).await;
        match (&one, &sharded) {
            (Ok(a), Ok(b)) if a == b => (equal, rows_seen) = (equal + 1, rows_seen + a.len()),
            (Err(a), Err(b)) if a == b => errors += 1,
            _ => writeln!(wrong, "{sql}\n    {parameter:?} on shard {shard}: {sharded:?}\n    not {one:?}")
                .unwrap(),
        }
    }
    println!(
        "{key_type}, seed {seed}: {statements} statements: {equal} equal ({rows_seen} rows), {errors} equal errors, refused {refused:?}"
    );
    assert!(wrong.is_empty(), "different:\n{wrong}");
    assert!(equal > statements / 3, "too many are refused");
    assert!(errors < statements / 10, "too many are wrong SQL");
}
