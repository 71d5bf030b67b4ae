//! sqlx: its pool, its statement cache, transactions, listeners, COPY.

use std::env;
use std::time::Duration;

use futures::{TryStreamExt, future};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolCopyExt, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection, Row};

fn options() -> PgConnectOptions {
    // PGHOST and its kin are taken by sqlx itself.
    PgConnectOptions::new()
}

async fn pool(size: u32) -> PgPool {
    assert!(env::var("PGHOST").is_ok());
    PgPoolOptions::new().max_connections(size).connect_with(options()).await.unwrap()
}

fn code(error: &sqlx::Error) -> String {
    error
        .as_database_error()
        .and_then(|e| e.code())
        .map(|c| c.into_owned())
        .unwrap_or_else(|| panic!("{error}"))
}

#[tokio::test]
async fn types_come_back_as_they_went() {
    let pool = pool(2).await;
    let doc = serde_json::json!({"a": [1, 2]});
    let row: (i32, i64, String, Option<String>, Vec<i32>, Vec<u8>, sqlx::types::Json<serde_json::Value>) =
        sqlx::query_as("SELECT $1, $2, $3, $4, $5, $6, $7")
            .bind(1i32)
            .bind(1i64 << 60)
            .bind("ü")
            .bind(None::<String>)
            .bind(vec![1i32, 2])
            .bind(vec![0u8, 255])
            .bind(sqlx::types::Json(&doc))
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(row, (1, 1 << 60, "ü".into(), None, vec![1, 2], vec![0, 255], sqlx::types::Json(doc)));
}

#[tokio::test]
async fn more_work_than_connections() {
    let pool = pool(4).await;
    let work = (0..200i32).map(|n| {
        let pool = pool.clone();
        async move { sqlx::query_scalar::<_, i32>("SELECT $1 + 1").bind(n).fetch_one(&pool).await.unwrap() }
    });
    assert_eq!(future::join_all(work).await, (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn more_statements_than_its_cache_holds() {
    let mut one = PgConnection::connect_with(&options().statement_cache_capacity(5)).await.unwrap();
    for round in 0..3 {
        for n in 0..20i32 {
            let sql = format!("SELECT $1 + {n}");
            let sum: i32 = sqlx::query_scalar(&sql).bind(round).fetch_one(&mut one).await.unwrap();
            assert_eq!(sum, round + n);
        }
    }
    one.close().await.unwrap();
}

#[tokio::test]
async fn transactions_roll_back_when_dropped() {
    let pool = pool(3).await;
    pool.execute("CREATE TABLE sx_tx (i int PRIMARY KEY)").await.unwrap();
    let mut kept = pool.begin().await.unwrap();
    sqlx::query("INSERT INTO sx_tx VALUES (1)").execute(&mut *kept).await.unwrap();
    let mut inner = kept.begin().await.unwrap();
    let twice = sqlx::query("INSERT INTO sx_tx VALUES (1)").execute(&mut *inner).await.unwrap_err();
    assert_eq!(code(&twice), "23505");
    inner.rollback().await.unwrap();
    kept.commit().await.unwrap();
    let mut dropped = pool.begin().await.unwrap();
    sqlx::query("DELETE FROM sx_tx").execute(&mut *dropped).await.unwrap();
    drop(dropped);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM sx_tx").fetch_one(&pool).await.unwrap();
    assert_eq!(left, 1);
    pool.execute("DROP TABLE sx_tx").await.unwrap();
}

#[tokio::test]
async fn streams_read_in_full_and_left_early() {
    let pool = pool(2).await;
    let mut sum = 0;
    {
        let mut rows = sqlx::query("SELECT g FROM generate_series(1, 5000) g").fetch(&pool);
        while let Some(row) = rows.try_next().await.unwrap() {
            sum += row.get::<i32, _>(0);
        }
    }
    assert_eq!(sum, 12_502_500);
    {
        let mut rows = sqlx::query("SELECT g FROM generate_series(1, 100000) g").fetch(&pool);
        assert_eq!(rows.try_next().await.unwrap().unwrap().get::<i32, _>(0), 1);
    }
    assert_eq!(sqlx::query_scalar::<_, i32>("SELECT 5").fetch_one(&pool).await.unwrap(), 5);
}

#[tokio::test]
async fn a_listener() {
    let mut listener = PgListener::connect_with(&pool(2).await).await.unwrap();
    listener.listen_all(["sx_one", "sx Two"]).await.unwrap();
    let pool = pool(2).await;
    for n in 0..10 {
        sqlx::query("SELECT pg_notify($1, $2)")
            .bind(if n % 2 == 0 { "sx_one" } else { "sx Two" })
            .bind(n.to_string())
            .execute(&pool)
            .await
            .unwrap();
    }
    for n in 0..10 {
        let told = tokio::time::timeout(Duration::from_secs(10), listener.recv()).await.unwrap().unwrap();
        assert_eq!(
            (told.channel(), told.payload()),
            (if n % 2 == 0 { "sx_one" } else { "sx Two" }, n.to_string().as_str())
        );
    }
    listener.unlisten_all().await.unwrap();
}

#[tokio::test]
async fn copy() {
    let pool = pool(2).await;
    pool.execute("CREATE TABLE sx_copy (i int)").await.unwrap();
    let mut into = pool.copy_in_raw("COPY sx_copy FROM STDIN").await.unwrap();
    let lines: String = (0..1000).map(|i| format!("{i}\n")).collect();
    into.send(lines.as_bytes()).await.unwrap();
    assert_eq!(into.finish().await.unwrap(), 1000);
    let aborted = pool.copy_in_raw("COPY sx_copy FROM STDIN").await.unwrap();
    aborted.abort("changed my mind").await.unwrap();
    let out: Vec<_> = pool
        .copy_out_raw("COPY (SELECT * FROM sx_copy ORDER BY i) TO STDOUT")
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(out.concat(), lines.as_bytes());
    pool.execute("DROP TABLE sx_copy").await.unwrap();
}

#[tokio::test]
async fn advisory_locks_of_sessions() {
    let pool = pool(2).await;
    let (mut one, mut two) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    let try_lock = "SELECT pg_try_advisory_lock(815)";
    assert!(sqlx::query_scalar::<_, bool>(try_lock).fetch_one(&mut *one).await.unwrap());
    assert!(!sqlx::query_scalar::<_, bool>(try_lock).fetch_one(&mut *two).await.unwrap());
    sqlx::query("SELECT pg_advisory_unlock(815)").execute(&mut *one).await.unwrap();
    assert!(sqlx::query_scalar::<_, bool>(try_lock).fetch_one(&mut *two).await.unwrap());
    sqlx::query("SELECT pg_advisory_unlock(815)").execute(&mut *two).await.unwrap();
}

#[tokio::test]
async fn settings_at_startup_and_later() {
    let with = options().application_name("sx").options([("work_mem", "5MB"), ("search_path", "pg_catalog")]);
    let mut one = PgConnection::connect_with(&with).await.unwrap();
    let all = "SELECT current_setting('application_name') || current_setting('work_mem') || current_setting('search_path')";
    assert_eq!(sqlx::query_scalar::<_, String>(all).fetch_one(&mut one).await.unwrap(), "sx5MBpg_catalog");
    one.execute("SET work_mem = '6MB'; SET TIME ZONE 'Asia/Tokyo'").await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, String>(all).fetch_one(&mut one).await.unwrap(), "sx6MBpg_catalog");
    one.ping().await.unwrap();
    one.close().await.unwrap();
}

#[tokio::test]
async fn errors_tell_everything() {
    let pool = pool(2).await;
    assert_eq!(code(&pool.execute("SELECT * FROM sx_nothing").await.unwrap_err()), "42P01");
    let bad = sqlx::query("SELECT $1::text::int").bind("x").fetch_one(&pool).await.unwrap_err();
    assert_eq!(code(&bad), "22P02");
    assert_eq!(sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(&pool).await.unwrap(), 1);
}
