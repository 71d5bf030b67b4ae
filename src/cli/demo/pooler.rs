//! pgweir in front of the demo's servers, inside this process, so that nothing outlives it.

use std::path::Path;

use tokio::task::JoinHandle;

use super::DemoError;
use crate::app::{App, Shutdown};
use crate::config::{self, Environment};
use crate::task;

/// A running pooler.
pub(super) struct Pooler {
    running: JoinHandle<()>,
    shutdown: Shutdown,
}

impl Pooler {
    /// Starts one with a configuration file; it listens when this returns.
    pub(super) async fn start(file: &Path) -> Result<Self, DemoError> {
        // Not the user's environment: the demo is the same everywhere.
        let config = config::load(file, &Environment::default())
            .map_err(|errors| DemoError::Pooler(errors.to_string()))?;
        let app = App::build(config).await.map_err(|error| DemoError::Pooler(error.to_string()))?;
        let shutdown = Shutdown::default();
        let running = task::spawn("pgweir", app.run(shutdown.clone()));
        Ok(Self { running, shutdown })
    }

    /// Resolves if it ends by itself.
    ///
    /// # Cancel safety
    ///
    /// Waiting for a task can be given up and begun again.
    pub(super) async fn ended(&mut self) -> String {
        match (&mut self.running).await {
            Ok(()) => "it stopped".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// Stops it; the demo's own clients have gone by now, and others are not waited for.
    pub(super) async fn stop(self) {
        self.shutdown.stop();
        // A panic in there has been logged; we are at the end anyway.
        let _ = self.running.await;
    }
}
