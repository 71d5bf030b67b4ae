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
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, NoTls};

const SHARDS: u32 = 3;
const TENANTS: u64 = 9;

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

/// xorshift: the same statements for the same seed everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.next(choices.len() as u64) as usize]
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.next(100) < percent
    }
    fn tenant(&mut self) -> u64 {
        self.next(TENANTS) + 1
    }
}

/// Statements; at most one parameter, the tenant.
struct Generator {
    random: Random,
    tenant: u64,
    parameter: bool,
}

impl Generator {
    /// The tenant's number, in one of the forms it can have.
    fn value(&mut self) -> String {
        let tenant = self.tenant;
        if self.parameter {
            self.parameter = false;
            return "$1".to_owned();
        }
        match self.random.next(7) {
            0 => format!("'{tenant}'"),
            1 => format!("{tenant}::bigint"),
            2 => format!("'{tenant}'::int"),
            3 => format!("CAST({tenant} AS bigint)"),
            _ => tenant.to_string(),
        }
    }

    /// A condition that binds the key of `alias`.
    fn binding(&mut self, alias: &str) -> String {
        let column = format!("{alias}.tenant_id");
        match self.random.next(6) {
            0 => format!("{column} IN ({})", self.value()),
            1 => format!("{} = {column}", self.value()),
            2 if !self.parameter => format!("{column} = ANY('{{{0},{0}}}')", self.tenant),
            3 if !self.parameter => format!("{column} IN ({0}, {0}, NULL)", self.tenant),
            _ => format!("{column} = {}", self.value()),
        }
    }

    /// A condition that binds nothing, though it looks as if.
    fn decoy(&mut self, alias: &str) -> String {
        let other = self.random.tenant();
        let column = format!("{alias}.tenant_id");
        match self.random.next(9) {
            0 => format!("({column} = {other} OR {alias}.n > 3)"),
            1 => format!("NOT ({column} = {other} AND {alias}.n = 1)"),
            2 => format!("CASE WHEN {column} = {other} THEN {alias}.n > 1 ELSE true END"),
            3 => format!("{column} + 0 <> {other}"),
            4 => format!("({column} = {other}) IS NOT NULL"),
            5 => format!("coalesce({column} = {other}, true)"),
            6 => format!("{alias}.n BETWEEN 0 AND {other}"),
            7 => format!("{column} NOT IN ({other}, 77)"),
            _ => format!("{column} >= {other} - 100"),
        }
    }

    fn conditions(&mut self, alias: &str, bound: u64) -> String {
        let mut conditions = Vec::new();
        if self.random.chance(bound) {
            conditions.push(self.binding(alias));
        }
        while self.random.chance(40) {
            conditions.push(self.decoy(alias));
        }
        if conditions.is_empty() {
            conditions.push(format!("{alias}.n >= 0"));
        }
        if self.random.chance(50) {
            conditions.reverse();
        }
        conditions.join(" AND ")
    }

    fn select_list(&mut self, alias: &str) -> String {
        let other = self.random.tenant();
        match self.random.next(7) {
            0 => "count(*)".to_owned(),
            1 => format!("{alias}.id, {alias}.tenant_id = {other}"),
            2 => format!("count(*) FILTER (WHERE {alias}.tenant_id = {other})"),
            3 => format!("{alias}.id, CASE WHEN {alias}.tenant_id = {other} THEN 'a' ELSE 'b' END"),
            4 => format!("sum({alias}.n), min({alias}.id)"),
            _ => format!("{alias}.id, {alias}.n"),
        }
    }

    fn join(&mut self) -> String {
        let kind =
            self.random.of(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "INNER JOIN", "FULL JOIN", "LEFT JOIN"]);
        let other = self.random.tenant();
        let on = match self.random.next(8) {
            0 => "ON e.id = i.id".to_owned(),
            1 => format!("ON e.tenant_id = {other}"),
            2 => "USING (tenant_id)".to_owned(),
            3 => format!("ON e.tenant_id = i.tenant_id AND i.tenant_id = {other}"),
            4 if kind != "FULL JOIN" => "ON e.tenant_id = i.tenant_id OR e.n = i.n".to_owned(),
            _ => "ON i.tenant_id = e.tenant_id AND e.n = i.n".to_owned(),
        };
        format!("{kind} item i {on}")
    }

    fn query(&mut self) -> String {
        let alias = self.random.of(&["e", "e", "i"]);
        match self.random.next(12) {
            0 | 1 => {
                let (list, join) = (self.select_list("e"), self.join());
                let conditions = self.conditions(alias, 85);
                format!("SELECT {list} FROM event e {join} WHERE {conditions}")
            }
            2 => {
                let (list, left) = (self.select_list("e"), self.conditions("e", 85));
                let other = self.random.tenant();
                let right = match self.random.next(10) {
                    0..=5 => "i.tenant_id = e.tenant_id".to_owned(),
                    // A condition of the subquery on the query around it decides nothing there.
                    6 | 7 => format!("e.tenant_id = {other} AND i.tenant_id = {other}"),
                    _ => self.conditions("i", 50),
                };
                let exists = self.random.of(&["EXISTS", "NOT EXISTS"]);
                format!(
                    "SELECT {list} FROM event e WHERE {left} AND {exists} (SELECT 1 FROM item i WHERE {right} AND i.n = e.n)"
                )
            }
            3 => {
                let (inner, outer) = (self.conditions("e", 80), self.conditions("i", 60));
                let join = self.random.of(&["x.tenant_id = i.tenant_id", "x.n = i.n"]);
                format!(
                    "WITH x AS (SELECT * FROM event e WHERE {inner}) SELECT x.id, i.id FROM x JOIN item i ON {join} WHERE {outer}"
                )
            }
            4 => {
                let (left, right) = (self.conditions("e", 85), self.conditions("i", 85));
                let set = self.random.of(&["UNION ALL", "UNION", "EXCEPT", "INTERSECT"]);
                format!("SELECT e.n FROM event e WHERE {left} {set} SELECT i.n FROM item i WHERE {right}")
            }
            5 => {
                let conditions = self.conditions("e", 85);
                let join = self.random.of(&["JOIN", "LEFT JOIN"]);
                format!(
                    "SELECT c.name, count(e.id) FROM country c {join} event e ON e.n = c.id WHERE {conditions} GROUP BY c.name HAVING count(*) > 0"
                )
            }
            6 => {
                let conditions = self.conditions("e", 85);
                let scalar = self.random.of(&["i.tenant_id = e.tenant_id", "i.n = e.n", "i.tenant_id = 3"]);
                format!(
                    "SELECT e.id, (SELECT count(*) FROM item i WHERE {scalar}) FROM event e WHERE {conditions}"
                )
            }
            7 => {
                let conditions = self.conditions("e", 85);
                format!(
                    "SELECT * FROM (SELECT * FROM event e WHERE {conditions}) d WHERE d.tenant_id > 0 AND d.n < 5"
                )
            }
            8 => {
                let conditions = self.conditions("e", 85);
                format!(
                    "SELECT e.id FROM event e WHERE {conditions} AND e.n IN (SELECT id FROM country) ORDER BY e.tenant_id = 3, e.id LIMIT 5"
                )
            }
            9 => {
                let (a, b) = (self.random.tenant(), self.random.tenant());
                format!("SELECT e.id FROM event e WHERE e.tenant_id IN ({a}, {b})")
            }
            _ => {
                let (list, conditions) = (self.select_list("e"), self.conditions("e", 85));
                format!("SELECT {list} FROM event e WHERE {conditions}")
            }
        }
    }

    fn write(&mut self) -> String {
        match self.random.next(6) {
            0 => {
                let conditions = self.conditions("e", 85);
                format!("UPDATE event e SET n = e.n + 1 WHERE {conditions} RETURNING e.id, e.n")
            }
            1 => {
                let conditions = self.conditions("e", 85);
                let join = self.random.of(&["i.tenant_id = e.tenant_id AND ", ""]);
                format!(
                    "UPDATE event e SET n = 7 FROM item i WHERE {join}i.id = e.id AND {conditions} RETURNING e.id"
                )
            }
            2 => {
                let conditions = self.conditions("e", 85);
                format!("DELETE FROM event e WHERE {conditions} RETURNING e.id, e.tenant_id")
            }
            3 => {
                let conditions = self.conditions("i", 85);
                format!(
                    "WITH gone AS (DELETE FROM item i WHERE {conditions} RETURNING i.n) SELECT count(*), sum(n) FROM gone"
                )
            }
            4 => {
                let (a, b) = (self.value(), self.random.tenant());
                format!(
                    "INSERT INTO event (id, n, tenant_id) VALUES (1001, 1, {a}), (1002, abs(-2), {b}) RETURNING id, tenant_id"
                )
            }
            _ => {
                let value = self.value();
                format!("INSERT INTO item (tenant_id, id, n) VALUES ({value}, 1001, 2 + 1) RETURNING *")
            }
        }
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

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[tokio::test]
async fn the_chosen_shard_answers_as_one_database_would() {
    compare("bigint", number("STATEMENTS", 5_000)).await;
}

/// The forms of a value are read as other types, too.
#[tokio::test]
async fn so_it_does_with_keys_of_other_types() {
    for key_type in ["smallint", "integer", "numeric"] {
        compare(key_type, number("STATEMENTS", 5_000) / 5).await;
    }
}

async fn compare(key_type: &str, statements: u64) {
    let seed = number("SEED", 42);
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
            Ok(Destination::Shard { shard, .. }) => shard,
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
