//! The process: built of a configuration, run until told to stop.
//!
//! `build` opens everything that can fail, so that a process that runs is a process that listens. `run`
//! serves until the shutdown signal, then drains: no new clients, transactions finish, a deadline.

mod drain;
mod http;
mod listener;
mod reload;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;

use crate::admin::Console;
use crate::auth::{ClientAuthenticator, ScramCache, SystemRandom};
use crate::clients::Registry;
use crate::config::{Config, ListenAddress};
use crate::health;
use crate::net::listen::Listener;
use crate::net::tls::{ClientTlsAcceptor, ServerTlsConnector, TlsError};
use crate::observe::metrics::{self, Exporter};
use crate::observe::{Histograms, http as endpoint};
use crate::pool::{self, PoolRegistry, Topology};
use crate::server::{Definitions, SettingsPool};
use crate::session::{Harmless, SessionContext};
use crate::sql::StatementCache;
use crate::task::{self, Workers};

pub use drain::Shutdown;

/// Why the process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// An address cannot be listened on.
    #[error("could not listen on {address}: {error}")]
    Listen {
        /// The address as configured.
        address: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A certificate, key or authority cannot be used.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// The system gives no threads.
    #[error("could not start the workers: {0}")]
    Threads(std::io::Error),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// The built thing.
#[derive(Debug)]
pub struct App {
    context: Arc<SessionContext>,
    workers: Workers,
    listeners: Vec<Listener>,
    http: Option<(TcpListener, SocketAddr)>,
    exporter: Option<Exporter>,
    server_tls: Option<Arc<ServerTlsConnector>>,
    scram: Arc<ScramCache>,
}

impl App {
    /// Builds everything and listens; serves nobody yet. All clients will be served by this runtime.
    pub async fn build(config: Config) -> Result<Self, AppError> {
        let workers = Workers::start(NonZeroUsize::MIN).map_err(AppError::Threads)?;
        Self::build_on(config, workers).await
    }

    /// As [`App::build`], with clients served by all of `workers`.
    pub async fn build_on(config: Config, workers: Workers) -> Result<Self, AppError> {
        let config = Arc::new(config);
        // Before anything makes a handle.
        let exporter = metrics::install();
        let histograms = Histograms::new(workers.count());
        let exporter = exporter.map(|exporter| exporter.with(histograms.clone()));
        let client_tls = ClientTlsAcceptor::load(&config.tls.client)?;
        let server_tls = ServerTlsConnector::load(&config.tls.server)?.map(Arc::new);
        let scram = Arc::new(ScramCache::new());
        let authenticator =
            ClientAuthenticator::new(&SystemRandom, Arc::clone(&scram)).map_err(|_| AppError::Random)?;
        let topology = Topology::build(Arc::clone(&config), server_tls.clone(), Arc::clone(&scram), None);
        let topology = Arc::new(ArcSwap::from_pointee(topology));
        let clients = Arc::new(Registry::default());
        let pools = Arc::new(PoolRegistry::new(workers.count()));
        let console = Console {
            clients: Arc::clone(&clients),
            pools: Arc::clone(&pools),
            topology: Arc::clone(&topology),
            started: Instant::now(),
            meters: Arc::default(),
            controls: Arc::default(),
        };
        let context = SessionContext {
            topology_version: AtomicU64::new(topology.load().version),
            topology,
            pools,
            clients,
            statements: StatementCache::new(config.limits.statement_cache_bytes),
            definitions: Definitions::default(),
            settings: SettingsPool::default(),
            harmless: Harmless::default(),
            authenticator,
            tls: ArcSwap::from_pointee(client_tls),
            console,
            histograms,
            draining: false.into(),
        };
        let listeners = listen(&config).await?;
        let http = match config.http {
            Some(address) => Some(
                endpoint::listen(address)
                    .await
                    .map_err(|error| AppError::Listen { address: format!("http {address}"), error })?,
            ),
            None => None,
        };
        Ok(Self { context: Arc::new(context), workers, listeners, http, exporter, server_tls, scram })
    }

    /// The TCP addresses listened on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(Listener::local_addr).collect()
    }

    /// The address of the HTTP endpoint, when there is one.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|(_, address)| *address)
    }

    /// What sessions share: to serve a socket that did not come through a listener.
    pub fn context(&self) -> Arc<SessionContext> {
        Arc::clone(&self.context)
    }

    /// Serves until `shutdown` says so, then drains.
    pub async fn run(self, shutdown: Shutdown) {
        let own = self.addresses().first().copied();
        let context = self.context;
        reload::derive_passwords(&context);
        let mut background = vec![
            task::spawn(
                "health",
                health::run(
                    Arc::clone(&context.topology),
                    Arc::clone(&context.pools),
                    Arc::clone(&context.clients),
                ),
            ),
            task::spawn("reaper", pool::run_reaper(Arc::clone(&context.pools))),
            task::spawn("sweeper", drain::sweep(Arc::clone(&context.clients))),
        ];
        if let Some((listener, _)) = self.http {
            let state = http::state(&context, self.exporter.clone(), own);
            background.push(task::spawn("http", endpoint::serve(listener, state)));
        }
        if let Some(exporter) = self.exporter {
            background.push(task::spawn("metrics", exporter.upkeep()));
        }
        let accepting: Vec<_> = self
            .listeners
            .into_iter()
            .map(|listener| {
                task::spawn("accept", listener::accept(listener, Arc::clone(&context), self.workers.clone()))
            })
            .collect();
        reload::obey(&context, self.server_tls, self.scram, shutdown.clone()).await;
        drain::drain(&context, accepting, shutdown).await;
        for task in background {
            task.abort();
        }
    }
}

async fn listen(config: &Config) -> Result<Vec<Listener>, AppError> {
    let mut listeners = Vec::new();
    for address in &config.listen {
        match address {
            ListenAddress::Tcp { host, port } => {
                let failed = |error| AppError::Listen { address: format!("{host}:{port}"), error };
                listeners.extend(Listener::tcp(host, *port).await.map_err(failed)?);
            }
            ListenAddress::Unix { directory, port } => {
                let failed =
                    |error| AppError::Listen { address: format!("unix:{}", directory.display()), error };
                listeners.push(Listener::unix(directory, *port).map_err(failed)?);
            }
        }
    }
    Ok(listeners)
}
