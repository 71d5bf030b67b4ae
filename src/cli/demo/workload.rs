//! The work shown: clients that read much, write sometimes, and check every time that they read
//! what they wrote.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio_postgres::{Client, Error, NoTls};

use super::DemoError;
use crate::task;

/// Between two statements of one client: enough for a lively display on a small machine.
const PAUSE: Duration = Duration::from_millis(4);
/// One step in this many is a transaction that writes.
const WRITE_EVERY: u64 = 20;

/// What the clients have seen.
#[derive(Debug, Default)]
pub(super) struct Tally {
    reads: AtomicU64,
    writes: AtomicU64,
    errors: AtomicU64,
    stale: AtomicU64,
    last_error: Mutex<String>,
}

impl Tally {
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    pub(super) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Reads that did not see what the same client had written before.
    pub(super) fn stale(&self) -> u64 {
        self.stale.load(Ordering::Relaxed)
    }

    pub(super) fn last_error(&self) -> String {
        self.last_error.lock().clone()
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

async fn connect(url: &str) -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // It ends with the client; the client's next call reports what went wrong.
    task::spawn("demo connection", async { drop(connection.await) });
    Ok(client)
}

/// Makes the demo's tables, through the pooler like everything here.
pub(super) async fn prepare(url: &str, clients: u16) -> Result<(), DemoError> {
    let making = async {
        let client = connect(url).await?;
        client
            .batch_execute(
                "CREATE TABLE demo_accounts (id int PRIMARY KEY, balance bigint NOT NULL);
                 CREATE TABLE demo_history (account int NOT NULL, at timestamptz NOT NULL DEFAULT now());",
            )
            .await?;
        client
            .execute(
                "INSERT INTO demo_accounts SELECT i, 0 FROM generate_series(0, $1) AS i",
                &[&i32::from(clients)],
            )
            .await
    };
    making.await.map(drop).map_err(|source| DemoError::Database { doing: "making the demo's tables", source })
}

/// One client, for ever: works, and connects anew after an error.
pub(super) async fn client(url: String, number: u16, tally: std::sync::Arc<Tally>) {
    // What this client's account must hold: only this client changes it.
    let expected = AtomicI64::new(0);
    loop {
        if let Err(error) = work(&url, i32::from(number), &expected, &tally).await {
            Tally::count(&tally.errors);
            *tally.last_error.lock() =
                error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Works on one connection until it fails.
async fn work(url: &str, account: i32, expected: &AtomicI64, tally: &Tally) -> Result<(), Error> {
    let mut client = connect(url).await?;
    let balance = client.prepare("SELECT balance FROM demo_accounts WHERE id = $1").await?;
    let total = client.prepare("SELECT count(*), sum(balance)::bigint FROM demo_accounts").await?;
    for step in 1_u64.. {
        if step.is_multiple_of(WRITE_EVERY) {
            // An error leaves open whether the commit took place: then no expectation holds.
            expected.store(i64::MIN, Ordering::Relaxed);
            let transaction = client.transaction().await?;
            let row = transaction
                .query_one(
                    "UPDATE demo_accounts SET balance = balance + 1 WHERE id = $1 RETURNING balance",
                    &[&account],
                )
                .await?;
            transaction.execute("INSERT INTO demo_history (account) VALUES ($1)", &[&account]).await?;
            transaction.commit().await?;
            expected.store(row.try_get(0)?, Ordering::Relaxed);
            Tally::count(&tally.writes);
        }
        let seen: i64 = client.query_one(&balance, &[&account]).await?.try_get(0)?;
        if seen < expected.load(Ordering::Relaxed) {
            Tally::count(&tally.stale);
        }
        client.query_one(&total, &[]).await?;
        tally.reads.fetch_add(2, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
