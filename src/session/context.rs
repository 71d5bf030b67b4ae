//! What all sessions share; handed to each as an argument, there are no globals.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use arc_swap::ArcSwap;

use crate::admin::Console;
use crate::auth::ClientAuthenticator;
use crate::clients::Registry;
use crate::net::tls::ClientTlsAcceptor;
use crate::observe::Histograms;
use crate::pool::{PoolRegistry, Topology};
use crate::server::{Definitions, SettingsPool};
use crate::sql::StatementCache;

use super::state::Harmless;

/// Shared by all sessions.
#[derive(Debug)]
pub struct SessionContext {
    /// The present topology and configuration.
    pub topology: Arc<ArcSwap<Topology>>,
    /// Equals the version of `topology`; cheap to look at.
    pub topology_version: AtomicU64,
    /// All pools.
    pub pools: Arc<PoolRegistry>,
    /// All clients.
    pub clients: Arc<Registry>,
    /// What statements mean.
    pub statements: StatementCache,
    /// Prepared statements in use.
    pub definitions: Definitions,
    /// Sets of settings in use.
    pub settings: SettingsPool,
    /// Statements whose functions were found to leave nothing in the session.
    pub harmless: Harmless,
    /// Credentials ready for login.
    pub authenticator: ClientAuthenticator,
    /// TLS towards clients; `None` when it is disabled.
    pub tls: ArcSwap<Option<ClientTlsAcceptor>>,
    /// The console.
    pub console: Console,
    /// Times, for the metrics.
    pub histograms: Histograms,
    /// No new sessions: the process is draining.
    pub draining: AtomicBool,
}
