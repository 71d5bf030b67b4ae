//! What lending a server connection and passing rows on cost: `cargo bench --bench pool --profile bench-fast`.
//!
//! pgweir runs in this process, on one thread, in front of a real PostgreSQL (`initdb` in a temporary directory).
//! Checkouts are timed by the clock, with an idle connection in the pool. Relaying is the CPU that pgweir's thread took,
//! so what PostgreSQL and the client do meanwhile does not count.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs, reason = "a program for people")]

mod measure;

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use futures_util::StreamExt as _;
use measure::measure;
use pgweir::app::{App, Shutdown};
use pgweir::cli::local_cluster::{LocalCluster, LocalClusterOptions};
use pgweir::config::{self, Environment};
use pgweir::session::SessionContext;
use tokio::runtime::Builder;
use tokio_postgres::{Client, NoTls};

const ROUNDS: u32 = 100_000;
const QUERIES: u32 = 50;
const ROWS: u32 = 10_000;
const MEBIBYTE: f64 = 1_048_576.0;

struct Running {
    port: u16,
    context: Arc<SessionContext>,
    shutdown: Shutdown,
    /// Where the kernel tells what its thread took.
    schedstat: PathBuf,
}

impl Running {
    /// pgweir on a thread of its own.
    fn start(yaml: String) -> (Self, std::thread::JoinHandle<()>) {
        let (started, wait) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("pooler.yaml");
            std::fs::write(&file, yaml).unwrap();
            let config = config::load(&file, &Environment::default()).unwrap();
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let app = App::build(config).await.unwrap();
                let own = PathBuf::from("/proc").join(std::fs::read_link("/proc/thread-self").unwrap());
                let shutdown = Shutdown::default();
                let running = Self {
                    port: app.addresses()[0].port(),
                    context: app.context(),
                    shutdown: shutdown.clone(),
                    schedstat: own.join("schedstat"),
                };
                started.send(running).unwrap();
                app.run(shutdown).await;
            });
        });
        (wait.recv().unwrap(), thread)
    }

    /// Seconds of CPU so far.
    fn cpu(&self) -> f64 {
        let text = std::fs::read_to_string(&self.schedstat).unwrap();
        text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
    }
}

async fn connect(port: u16) -> Client {
    let url = format!("host=127.0.0.1 port={port} user=app password=app dbname=app");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Bytes of COPY data that a statement gives.
async fn copied(client: &Client, sql: &str) -> usize {
    let stream = client.copy_out(sql).await.unwrap();
    stream.fold(0, |sum, chunk| async move { sum + chunk.unwrap().len() }).await
}

fn main() {
    let cluster = LocalCluster::start(&LocalClusterOptions::with_replicas(0)).unwrap();
    let address = cluster.access().address(0);
    let (pgweir, thread) = Running::start(format!(
        "listen: [\"127.0.0.1:0\"]\nworkers: 1\ndatabases:\n  app: {{primary: \"{address}\"}}\nusers:\n  app: {{password: app}}\n"
    ));
    let clients = Builder::new_current_thread().enable_all().build().unwrap();
    clients.block_on(async {
        let client = connect(pgweir.port).await;
        client.simple_query("SELECT 1").await.unwrap();
        let pool = pgweir.context.pools.pools().into_iter().find(|pool| !pool.servers().is_empty()).unwrap();
        let lend = measure(ROUNDS, || black_box(pool.try_checkout(0).unwrap()).checkin());
        println!("{:<58}{lend:>8.0} ns", "checkout of an idle connection, and its return");

        let rows = format!("SELECT repeat('x', 100) FROM generate_series(1, {ROWS})");
        let copy = format!("COPY ({rows}) TO STDOUT");
        client.simple_query(&rows).await.unwrap();
        let begun = pgweir.cpu();
        for _ in 0..QUERIES {
            black_box(client.simple_query(&rows).await.unwrap());
        }
        let each = (pgweir.cpu() - begun) / f64::from(QUERIES);
        println!("{:<58}{:>8.0} µs of CPU", format!("relay of {ROWS} rows of 100 bytes"), each * 1e6);

        let begun = pgweir.cpu();
        let mut bytes = 0;
        for _ in 0..QUERIES {
            bytes += copied(&client, &copy).await;
        }
        let each = (pgweir.cpu() - begun) / (bytes as f64 / MEBIBYTE);
        println!("{:<58}{:>8.0} µs of CPU", "relay of 1 MiB of COPY TO", each * 1e6);
    });
    pgweir.shutdown.stop();
    thread.join().unwrap();
}
