//! tokio-postgres: what its users do. PGHOST and its kin say where; each test has its own tables.

use std::env;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt, TryStreamExt, future, pin_mut, stream};
use tokio::sync::mpsc;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{Json, ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, Error, IsolationLevel, NoTls, SimpleQueryMessage};

fn config() -> Config {
    let mut config = Config::new();
    let port = env::var("PGPORT").unwrap().parse().unwrap();
    config.host(env::var("PGHOST").unwrap()).port(port).dbname(env::var("PGDATABASE").unwrap());
    config.user(env::var("PGUSER").unwrap()).password(env::var("PGPASSWORD").unwrap());
    config
}

async fn client() -> Client {
    let (client, connection) = config().connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn code(error: &Error) -> &SqlState {
    error.code().unwrap_or_else(|| panic!("no SQLSTATE: {error}"))
}

#[tokio::test]
async fn parameters_and_types() {
    let client = client().await;
    let id = uuid::Uuid::new_v4();
    let when = chrono::DateTime::parse_from_rfc3339("2024-02-29T12:00:00Z").unwrap().to_utc();
    let doc = serde_json::json!({"a": [1, null]});
    let row = client
        .query_one(
            "SELECT $1::int4, $2::int8, $3::text, $4::bool, $5::text, $6::jsonb, $7::timestamptz, $8::int4[], $9::bytea, $10::uuid",
            &[&1i32, &(1i64 << 60), &"ü", &true, &None::<&str>, &Json(&doc), &when, &vec![1i32, 2], &&b"\0\xff"[..], &id],
        )
        .await
        .unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i64>(1), row.get::<_, &str>(2)), (1, 1 << 60, "ü"));
    assert_eq!((row.get::<_, bool>(3), row.get::<_, Option<&str>>(4)), (true, None));
    assert_eq!(row.get::<_, serde_json::Value>(5), doc);
    assert_eq!(row.get::<_, chrono::DateTime<chrono::Utc>>(6), when);
    assert_eq!((row.get::<_, Vec<i32>>(7), row.get::<_, &[u8]>(8)), (vec![1, 2], &b"\0\xff"[..]));
    assert_eq!(row.get::<_, uuid::Uuid>(9), id);
}

#[tokio::test]
async fn prepared_statements_of_many_clients() {
    let work = (0..20).map(|n| async move {
        let client = client().await;
        let add = client.prepare("SELECT $1::int4 + $2::int4").await.unwrap();
        let name = client.prepare_typed("SELECT $1", &[Type::TEXT]).await.unwrap();
        for i in 0..20i32 {
            assert_eq!(client.query_one(&add, &[&n, &i]).await.unwrap().get::<_, i32>(0), n + i);
            let text = format!("{n} {i}");
            assert_eq!(client.query_one(&name, &[&text]).await.unwrap().get::<_, &str>(0), text);
        }
    });
    future::join_all(work).await;
}

#[tokio::test]
async fn a_pipeline_of_prepared_statements() {
    let client = client().await;
    let statement = client.prepare("SELECT $1::int4 * 2").await.unwrap();
    let answers = (0..200i32).map(|n| {
        let (client, statement) = (&client, &statement);
        async move { client.query_one(statement, &[&n]).await.unwrap().get::<_, i32>(0) }
    });
    assert_eq!(future::join_all(answers).await, (0..200).map(|n| n * 2).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_error_in_a_pipeline_is_its_own() {
    let client = client().await;
    let statement = client.prepare("SELECT 10 / $1::int4").await.unwrap();
    let answers = (0..50i32).map(|n| client.query_one(&statement, slice(Box::leak(Box::new(n % 5)))));
    for (n, answer) in future::join_all(answers).await.into_iter().enumerate() {
        match answer {
            Ok(row) => assert_eq!(row.get::<_, i32>(0), 10 / (n as i32 % 5)),
            Err(error) => assert_eq!((n % 5, code(&error)), (0, &SqlState::DIVISION_BY_ZERO)),
        }
    }
}

fn slice(value: &'static i32) -> &'static [&'static (dyn ToSql + Sync)] {
    Box::leak(Box::new([value as &(dyn ToSql + Sync)]))
}

#[tokio::test]
async fn transactions_and_savepoints() {
    let mut client = client().await;
    client.batch_execute("CREATE TABLE tp_tx (i int PRIMARY KEY)").await.unwrap();
    {
        let mut outer = client.transaction().await.unwrap();
        outer.execute("INSERT INTO tp_tx VALUES (1)", &[]).await.unwrap();
        {
            let inner = outer.transaction().await.unwrap();
            inner.execute("INSERT INTO tp_tx VALUES (2)", &[]).await.unwrap();
            let error = inner.execute("INSERT INTO tp_tx VALUES (1)", &[]).await.unwrap_err();
            assert_eq!(code(&error), &SqlState::UNIQUE_VIOLATION);
            inner.rollback().await.unwrap();
        }
        outer.commit().await.unwrap();
    }
    {
        let dropped = client.transaction().await.unwrap();
        dropped.execute("DELETE FROM tp_tx", &[]).await.unwrap();
    }
    let rows = client.query("SELECT i FROM tp_tx", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), [1]);
    let reading = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
        .unwrap();
    let error = reading.execute("DELETE FROM tp_tx", &[]).await.unwrap_err();
    assert_eq!(code(&error), &SqlState::READ_ONLY_SQL_TRANSACTION);
    reading.rollback().await.unwrap();
    client.batch_execute("DROP TABLE tp_tx").await.unwrap();
}

#[tokio::test]
async fn portals_are_read_in_parts() {
    let mut client = client().await;
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("SELECT g FROM generate_series(1, 95) g", &[]).await.unwrap();
    let other = transaction.bind("SELECT -g FROM generate_series(1, 3) g", &[]).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 10).await.unwrap();
        if rows.is_empty() {
            break;
        }
        seen.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
        transaction.query_portal(&other, 1).await.unwrap();
    }
    assert_eq!(seen, (1..=95).collect::<Vec<_>>());
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn copy_in_and_out() {
    let client = client().await;
    client.batch_execute("CREATE TABLE tp_copy (i int, t text)").await.unwrap();
    let sink = client.copy_in("COPY tp_copy FROM STDIN").await.unwrap();
    pin_mut!(sink);
    let mut lines = stream::iter((0..5000).map(|i| Ok::<_, Error>(Bytes::from(format!("{i}\tline {i}\n")))));
    sink.send_all(&mut lines).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 5000);
    let out = client.copy_out("COPY (SELECT * FROM tp_copy ORDER BY i) TO STDOUT").await.unwrap();
    let bytes: Vec<Bytes> = out.try_collect().await.unwrap();
    let expected: String = (0..5000).map(|i| format!("{i}\tline {i}\n")).collect();
    assert_eq!(bytes.concat(), expected.as_bytes());
    // One that is dropped, and one that the server refuses.
    let abandoned = client.copy_in::<_, Bytes>("COPY tp_copy FROM STDIN").await.unwrap();
    drop(abandoned);
    let sink = client.copy_in("COPY tp_copy FROM STDIN").await.unwrap();
    pin_mut!(sink);
    sink.send(Bytes::from_static(b"no number\tx\n")).await.unwrap();
    assert_eq!(code(&sink.finish().await.unwrap_err()), &SqlState::INVALID_TEXT_REPRESENTATION);
    let rows = client.query_one("SELECT count(*) FROM tp_copy", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 5000);
    client.batch_execute("DROP TABLE tp_copy").await.unwrap();
}

#[tokio::test]
async fn notifications() {
    let (listener, mut connection) = config().connect(NoTls).await.unwrap();
    let (heard, mut hears) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(told) = message {
                let _ = heard.send((told.channel().to_owned(), told.payload().to_owned()));
            }
        }
    });
    listener.batch_execute("LISTEN \"tp Channel\"").await.unwrap();
    let sender = client().await;
    for n in 0..20 {
        sender.execute("SELECT pg_notify('tp Channel', $1)", &[&format!("it's {n}")]).await.unwrap();
    }
    for n in 0..20 {
        let told = tokio::time::timeout(Duration::from_secs(10), hears.recv()).await.unwrap().unwrap();
        assert_eq!(told, ("tp Channel".to_owned(), format!("it's {n}")));
    }
}

#[tokio::test]
async fn a_cancel_token_hits_its_own_query() {
    let (victim, other) = (client().await, client().await);
    let token = victim.cancel_token();
    let canceled = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel_query(NoTls).await.unwrap();
    };
    let (slept, worked, ()) = future::join3(
        victim.batch_execute("SELECT pg_sleep(20)"),
        other.query_one("SELECT 7 FROM pg_sleep(1)", &[]),
        canceled,
    )
    .await;
    assert_eq!(code(&slept.unwrap_err()), &SqlState::QUERY_CANCELED);
    assert_eq!(worked.unwrap().get::<_, i32>(0), 7);
    assert_eq!(victim.query_one("SELECT 8", &[]).await.unwrap().get::<_, i32>(0), 8);
}

#[tokio::test]
async fn simple_queries_of_several_statements() {
    let client = client().await;
    let messages = client.simple_query("SELECT 1 AS a; SELECT 'x' AS b; SET work_mem = '5MB'").await.unwrap();
    let rows: Vec<_> = messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    assert_eq!(rows, ["1", "x"]);
    let row = client.query_one("SHOW work_mem", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "5MB");
}

#[tokio::test]
async fn own_writes_and_temporary_tables() {
    let client = client().await;
    client.batch_execute("CREATE TABLE tp_own (n int); CREATE TEMP TABLE tp_temp (n int)").await.unwrap();
    for n in 0..40i32 {
        client.execute("INSERT INTO tp_own VALUES ($1)", &[&n]).await.unwrap();
        client.execute("INSERT INTO tp_temp VALUES ($1)", &[&n]).await.unwrap();
        let row = client
            .query_one("SELECT (SELECT count(*) FROM tp_own), (SELECT count(*) FROM tp_temp)", &[])
            .await
            .unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (i64::from(n) + 1, i64::from(n) + 1));
        assert_eq!(client.query("SELECT 1 FROM tp_own WHERE n = $1", &[&n]).await.unwrap().len(), 1);
    }
    client.batch_execute("DROP TABLE tp_own, tp_temp").await.unwrap();
}

#[tokio::test]
async fn a_type_that_the_client_must_look_up() {
    let client = client().await;
    client.batch_execute("CREATE TYPE tp_mood AS ENUM ('sad', 'happy')").await.unwrap();
    let statement = client.prepare("SELECT $1::tp_mood, ARRAY[$1::tp_mood]").await.unwrap();
    assert_eq!(statement.params()[0].name(), "tp_mood");
    assert_eq!(statement.columns()[1].type_().name(), "_tp_mood");
    client.batch_execute("DROP TYPE tp_mood").await.unwrap();
}

#[tokio::test]
async fn wrong_logins() {
    let wrong = config().password("wrong").connect(NoTls).await.err().unwrap();
    assert_eq!(code(&wrong), &SqlState::INVALID_PASSWORD);
    let unknown = config().dbname("tp_no_such_database").connect(NoTls).await.err().unwrap();
    assert_eq!(code(&unknown), &SqlState::INVALID_CATALOG_NAME);
}
