//! pgweir inside the test's own process: for tests that drop its futures or look at its counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgweir::app::{App, Shutdown};
use pgweir::cluster::NodeState;
use pgweir::config::{self, Environment};
use pgweir::session::SessionContext;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, SimpleQueryMessage};

/// A running app.
pub struct InProcess {
    pub address: SocketAddr,
    pub context: Arc<SessionContext>,
    pub shutdown: Shutdown,
    running: JoinHandle<()>,
}

impl InProcess {
    /// Starts one with `yaml`, to which a listener on a free port is added.
    pub async fn start(yaml: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pooler.yaml");
        std::fs::write(&file, format!("listen: [\"127.0.0.1:0\"]\n{yaml}")).unwrap();
        let config = config::load(&file, &Environment::default()).unwrap_or_else(|errors| panic!("{errors}"));
        let app = App::build(config).await.unwrap();
        let address = app.addresses()[0];
        let context = app.context();
        let shutdown = Shutdown::default();
        let running = tokio::spawn(app.run(shutdown.clone()));
        Self { address, context, shutdown, running }
    }

    /// Connection string for `database`.
    pub fn config(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.address.port()).user("app").password("app").dbname(database);
        config
    }

    /// A client whose connection is driven in the background.
    pub async fn client(&self, database: &str) -> tokio_postgres::Client {
        let (client, connection) = self.config(database).connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// How often a reason has decided in a database.
    pub fn reason_count(&self, database: &str, reason: &str) -> u64 {
        let entry = self.context.topology.load().database(database).unwrap();
        entry.routes.iter().find(|(known, _)| known.label() == reason).unwrap().1
    }

    /// Waits until all nodes of a database are up, its catalog is known, and replicas have what was written.
    pub async fn settled(&self, database: &str) {
        let entry = self.context.topology.load().database(database).unwrap();
        until("all nodes up", || entry.cluster.nodes().all(|node| node.state() == NodeState::Up)).await;
        until("the catalog is known", || entry.catalog.load().catalog().is_some()).await;
        let marks = || (entry.horizons.stats().tables, entry.horizons.stats().all);
        until("replicas have what was written", || marks() == (0, false)).await;
    }

    /// (lent, waiting) over all pools.
    pub fn lent_and_waiting(&self) -> (usize, usize) {
        let counts = self.context.pools.pools().into_iter().map(|pool| pool.counts(Instant::now()));
        counts.fold((0, 0), |sum, counts| (sum.0 + counts.leased, sum.1 + counts.waiting))
    }

    /// Stops it and waits for its end.
    pub async fn stop(self) {
        self.shutdown.stop();
        self.running.await.unwrap();
    }
}

/// The first column of the first row.
pub async fn one(client: &Client, sql: &str) -> String {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    });
    row.unwrap_or_else(|| panic!("no row: {sql}"))
}

/// Waits until something is so, and lets others work meanwhile.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(15), "it does not come about: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
