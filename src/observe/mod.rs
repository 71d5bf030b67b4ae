//! What is seen from outside: logs, metrics, and the HTTP endpoint that serves them.
//!
//! Knows nothing of pools or clients: who has numbers hands in closures.

mod histograms;
pub mod http;
pub mod logging;
pub mod metrics;

pub use histograms::Histograms;
