//! The admin console: what `SHOW …` answers. No sockets, no protocol: text in, tables out.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::clients::Registry;
use crate::pool::{PoolRegistry, Topology};

/// What the console can see.
#[derive(Clone, Debug)]
pub struct Console {
    /// Clients.
    pub clients: Arc<Registry>,
    /// Pools.
    pub pools: Arc<PoolRegistry>,
    /// Databases, nodes, configuration.
    pub topology: Arc<ArcSwap<Topology>>,
    /// When the process began.
    pub started: Instant,
}
