//! Logs: text on a terminal, JSON otherwise; to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Begins to log. `PGWEIR_LOG` (or `RUST_LOG`) sets what: a level, or a filter as tracing-subscriber reads
/// them; `default` applies where both are missing. A second call does nothing.
pub fn init(default: &str) {
    let wanted = std::env::var("PGWEIR_LOG").or_else(|_| std::env::var("RUST_LOG")).unwrap_or_default();
    let wanted = if wanted.trim().is_empty() { default } else { wanted.trim() };
    // The SQL parser logs what it parses: statements belong into no log unless somebody asks for them.
    let filter = EnvFilter::new(format!("sqlparser=off,{wanted}"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = if std::io::stderr().is_terminal() { builder.try_init() } else { builder.json().try_init() };
}
