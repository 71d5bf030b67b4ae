//! pgweir inside the test's own process: for tests that drop its futures or look at its counts.

use std::net::SocketAddr;
use std::sync::Arc;

use pgweir::app::{App, Shutdown};
use pgweir::config::{self, Environment};
use pgweir::session::SessionContext;
use tokio::task::JoinHandle;

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

    /// (lent, waiting) over all pools.
    pub fn lent_and_waiting(&self) -> (usize, usize) {
        let counts =
            self.context.pools.pools().into_iter().map(|pool| pool.counts(std::time::Instant::now()));
        counts.fold((0, 0), |sum, counts| (sum.0 + counts.leased, sum.1 + counts.waiting))
    }

    /// Stops it and waits for its end.
    pub async fn stop(self) {
        self.shutdown.stop();
        self.running.await.unwrap();
    }
}
