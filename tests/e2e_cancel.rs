//! A session that is dropped at any await leaves nothing behind for the next client.
//!
//! The session's future is polled a number of times and then dropped, for every number until it runs to
//! its end. After each, the next client of the same pool (of one server connection) must see clean data,
//! and the pool must be able to lend again.

#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code outside a #[test]"
)]

mod support;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use pgweir::net::listen::Peer;
use pgweir::net::stream::Socket;
use pgweir::session;
use support::InProcess;
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::{Client, Error, NoTls};

/// More polls than any script takes; a script that never ends is a failure.
const POLLS_MAX: usize = 400;

type Script = for<'a> fn(&'a Client) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

fn simple(client: &Client) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>> {
    Box::pin(async move {
        client.simple_query("SELECT 1; SELECT repeat('x', 100) FROM generate_series(1, 3000)").await?;
        client.simple_query("SELECT 2").await.map(drop)
    })
}

fn prepared(client: &Client) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>> {
    Box::pin(async move {
        let statement = client.prepare("SELECT v FROM register WHERE id = $1").await?;
        client.query(&statement, &[&1_i32]).await?;
        client.query(&statement, &[&2_i32]).await.map(drop)
    })
}

fn transaction(client: &Client) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>> {
    Box::pin(async move {
        client.batch_execute("BEGIN; SELECT 1").await?;
        client.execute("INSERT INTO pair VALUES ($1), ($2)", &[&1_i32, &2_i32]).await?;
        client.batch_execute("SAVEPOINT a").await?;
        client.batch_execute("UPDATE register SET v = v + 1").await?;
        client.batch_execute("COMMIT").await
    })
}

fn copy_in(client: &Client) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>> {
    Box::pin(async move {
        let sink = client.copy_in("COPY pair FROM STDIN").await?;
        let mut sink = pin!(sink);
        for _ in 0..4 {
            sink.send(bytes::Bytes::from("3\n4\n".repeat(500))).await?;
        }
        sink.finish().await.map(drop)
    })
}

fn copy_out(client: &Client) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>> {
    Box::pin(async move {
        let rows =
            client.copy_out("COPY (SELECT repeat('y', 200) FROM generate_series(1, 2000)) TO STDOUT").await?;
        let mut rows = pin!(rows);
        while let Some(row) = rows.next().await {
            row?;
        }
        Ok(())
    })
}

fn settings(client: &Client) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>> {
    Box::pin(async move {
        client.batch_execute("SET timezone = 'Asia/Tokyo'").await?;
        client.batch_execute("SELECT set_config('app.tenant', '42', false), 1").await?;
        client.batch_execute("BEGIN; SET work_mem = '7MB'; COMMIT").await?;
        client.simple_query("SHOW timezone").await.map(drop)
    })
}

fn session_state(client: &Client) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>> {
    Box::pin(async move {
        client.batch_execute("CREATE TEMP TABLE mine (i int)").await?;
        client.batch_execute("SELECT pg_advisory_lock(4711)").await?;
        client.batch_execute("LISTEN news; PREPARE p AS SELECT 1").await?;
        client.batch_execute("DECLARE c CURSOR WITH HOLD FOR SELECT 1").await?;
        client.simple_query("FETCH c").await.map(drop)
    })
}

fn listening(client: &Client) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>> {
    Box::pin(async move {
        client.batch_execute("LISTEN news").await?;
        client.batch_execute("NOTIFY news, 'own'").await?;
        client.batch_execute("BEGIN; SELECT 1").await?;
        client.batch_execute("LISTEN other; NOTIFY other; UNLISTEN news").await?;
        client.batch_execute("COMMIT").await?;
        client.simple_query("SELECT * FROM pg_listening_channels()").await.map(drop)
    })
}

fn errors(client: &Client) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>> {
    Box::pin(async move {
        let _ = client.simple_query("SELECT 1/0").await;
        let _ = client.query("SELECT $1::int / 0", &[&1_i32]).await;
        client.batch_execute("BEGIN; SELECT 1").await?;
        let _ = client.simple_query("SELECT nonsense").await;
        client.batch_execute("ROLLBACK").await
    })
}

/// Runs the session's future for at most `polls` polls and drops it; true if it came to its end.
async fn serve_for(app: &InProcess, database: &str, script: Script, polls: usize) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = listener.local_addr().unwrap();
    let config = app.config(database);
    let client = tokio::spawn(async move {
        let socket = TcpStream::connect(local).await.unwrap();
        let Ok((client, connection)) = config.connect_raw(socket, NoTls).await else { return false };
        let driver = tokio::spawn(connection);
        let done = script(&client).await.is_ok();
        drop(client);
        let _ = driver.await;
        done
    });
    let (socket, remote) = listener.accept().await.unwrap();
    socket.set_nodelay(true).unwrap();
    let ended = {
        let mut session =
            Box::pin(session::serve(app.context.clone(), Socket::Tcp(socket), Peer::Tcp { remote, local }));
        let mut polled = 0;
        poll_fn(|cx| {
            if polled == polls {
                return Poll::Ready(false);
            }
            polled += 1;
            session.as_mut().poll(cx).map(|()| true)
        })
        .await
    };
    let done =
        tokio::time::timeout(Duration::from_secs(10), client).await.expect("the client hangs").unwrap();
    assert!(!ended || done, "the session ended after {polls} polls, but its client had not done its work");
    ended
}

/// What the next client must see, whatever became of the one before.
async fn next_client_sees_clean_data(app: &InProcess, database: &str, context: &str) {
    let check = async {
        let client = app.client(database).await;
        let row =
            client.query_one("SELECT $1::int + 1, current_setting('timezone')", &[&41_i32]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), 42, "{context}");
        assert_eq!(row.get::<_, &str>(1), "UTC", "{context}");
        let rows = client
            .simple_query(
                "SELECT current_setting('work_mem'), coalesce(current_setting('app.tenant', true), ''), \
                 (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()), \
                 (SELECT count(*) FROM pg_prepared_statements WHERE from_sql), (SELECT count(*) FROM pg_cursors), \
                 (SELECT count(*) FROM pg_listening_channels()), \
                 (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
                 (SELECT count(*) % 2 FROM pair)",
            )
            .await
            .unwrap();
        let row = rows
            .iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .unwrap();
        let seen: Vec<_> = (0..8).map(|index| row.get(index).unwrap().to_owned()).collect();
        assert_eq!(seen, ["4MB", "", "0", "0", "0", "0", "0", "0"], "{context}");
    };
    tokio::time::timeout(Duration::from_secs(10), check).await.unwrap_or_else(|_| panic!("stuck {context}"));
}

async fn nothing_is_lent(app: &InProcess, context: &str) {
    for _ in 0..200 {
        if app.lent_and_waiting() == (0, 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{context}: (lent, waiting) stays {:?}", app.lent_and_waiting());
}

async fn cancel_everywhere(name: &str, script: Script) {
    let database = support::database();
    database.on(
        0,
        "CREATE TABLE register (id int PRIMARY KEY, v int); INSERT INTO register VALUES (1, 0), (2, 0); CREATE TABLE pair (i int)",
    );
    let yaml = format!("pool: {{size: 1}}\nrouting: {{reads: primary}}\n{}", database.yaml());
    let app = InProcess::start(&yaml).await;
    let (mut polls, mut ends) = (0, 0);
    // Bytes may come together by luck, so that a session ends early once: only three ends in a row count.
    while ends < 3 {
        let context = format!("after {name} was dropped at poll {polls}");
        let ended = serve_for(&app, &database.name, script, polls).await;
        nothing_is_lent(&app, &context).await;
        let listeners = app.context.pools.listeners.all();
        assert_eq!(listeners.iter().map(|listener| listener.subscriptions()).sum::<usize>(), 0, "{context}");
        next_client_sees_clean_data(&app, &database.name, &context).await;
        nothing_is_lent(&app, &context).await;
        ends = if ended { ends + 1 } else { 0 };
        polls += 1;
        assert!(polls < POLLS_MAX, "{name} does not end");
    }
    // How many depends on how bytes come together; login and one request alone take this many.
    assert!(polls >= 3, "{name} ended after {polls} polls");
    app.stop().await;
}

macro_rules! scripts {
    ($($name:ident),*) => {
        mod dropped_at_every_await {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::cancel_everywhere(stringify!($name), super::$name).await;
                }
            )*
        }
    };
}

scripts!(simple, prepared, transaction, copy_in, copy_out, settings, session_state, listening, errors);

/// A client dropped while it waits in the queue gives its place up, and the connection it was waiting for
/// goes to the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_in_the_queue() {
    let database = support::database();
    let yaml = format!("pool: {{size: 1}}\nrouting: {{reads: primary}}\n{}", database.yaml());
    let app = InProcess::start(&yaml).await;
    let holder = app.client(&database.name).await;
    for polls in [8, 12, 16, 24] {
        holder.batch_execute("BEGIN; SELECT 1").await.unwrap();
        let waiting = serve_for(&app, &database.name, simple, polls);
        let release = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            holder.batch_execute("COMMIT").await.unwrap();
        };
        let ((), _) = tokio::join!(release, tokio::time::timeout(Duration::from_secs(5), waiting));
        nothing_is_lent(&app, &format!("dropped in the queue at poll {polls}")).await;
        assert_eq!(holder.query_one("SELECT 7", &[]).await.unwrap().get::<_, i32>(0), 7);
    }
    drop(holder);
    app.stop().await;
}
