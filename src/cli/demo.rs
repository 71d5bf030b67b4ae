//! `pgweir demo`: a local cluster, pgweir in front of it, and work one can watch being divided.
//!
//! Everything is in a temporary directory and gone afterwards. With `--servers-only` it is just
//! the cluster, described as JSON, for scripts that bring their own pooler.

mod census;
mod pooler;
mod workload;

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli::local_cluster::{
    APP_DATABASE, APP_PASSWORD, APP_USER, ClusterAccess, LocalCluster, LocalClusterError, LocalClusterOptions,
};
use crate::task;

use census::Census;
use pooler::Pooler;
use workload::Tally;

/// Options of `pgweir demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoOptions {
    /// Stop by itself after this long (20s, 2m) and print a summary.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub exit_after: Option<Duration>,
    /// Streaming replicas beside the primary.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=8))]
    pub replicas: u8,
    /// Connections of the built-in workload; 0 leaves the stage to you.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=500))]
    pub clients: u16,
    /// Start only the PostgreSQL servers, print how to reach them as one line of JSON, and stop
    /// them when standard input ends.
    #[arg(long)]
    pub servers_only: bool,
}

/// Why the demo could not run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The servers did not start.
    #[error(transparent)]
    Cluster(#[from] LocalClusterError),
    /// A system call failed: no runtime, no terminal, no port.
    #[error("{0}")]
    System(#[from] io::Error),
    /// The pooler did not come up or ended.
    #[error("pgweir did not serve: {0}")]
    Pooler(String),
    /// The demo's own tables could not be made, or its counters not be read.
    #[error("{doing}: {source}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// What the server said.
        source: tokio_postgres::Error,
    },
    /// A replica served nothing.
    #[error("a replica got no reads; the last error of a client: {0:?}")]
    NothingServed(String),
    /// A client did not see what it had written.
    #[error("{0} reads did not see what the same client had written: this is a bug of pgweir")]
    Stale(u64),
}

/// Runs the demo until Ctrl-C, SIGTERM, or `exit_after`.
pub fn run(options: &DemoOptions) -> Result<(), DemoError> {
    let cluster = LocalCluster::start(&LocalClusterOptions::with_replicas(options.replicas.into()))?;
    if options.servers_only {
        return serve_description(cluster.access());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(show(cluster.access(), options))
    // The cluster goes last: the pooler in front of it has stopped by now.
}

/// Prints the cluster and waits for the end of standard input. Being killed is fine too: the
/// cluster's janitor notices.
fn serve_description(access: &ClusterAccess) -> Result<(), DemoError> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, access).map_err(io::Error::from)?;
    writeln!(out)?;
    out.flush()?;
    let mut ignored = [0; 64];
    while io::stdin().read(&mut ignored)? > 0 {}
    Ok(())
}

async fn show(access: &ClusterAccess, options: &DemoOptions) -> Result<(), DemoError> {
    let (port, http_port) = (preferred_port(6432)?, preferred_port(9432)?);
    // Beside the data directories, so it goes with them.
    let config = access.directory.join("pooler.yaml");
    std::fs::write(&config, configuration(access, port, http_port))?;
    let mut pooler = Pooler::start(&config).await?;
    print_how_to_connect(access, port, http_port)?;

    let url = format!("postgres://{APP_USER}:{APP_PASSWORD}@127.0.0.1:{port}/{APP_DATABASE}");
    workload::prepare(&url, options.clients).await?;
    let census = Census::begin(access).await?;
    let tally = Arc::new(Tally::default());
    let clients: Vec<_> = (0..options.clients)
        .map(|client| task::spawn("demo client", workload::client(url.clone(), client, Arc::clone(&tally))))
        .collect();

    let watched = tokio::select! {
        watched = watch(&census, &tally, options) => watched,
        () = interrupted() => Ok(()),
        ended = pooler.ended() => Err(DemoError::Pooler(ended)),
    };
    for client in clients {
        client.abort();
    }
    watched?;
    let served = census.take().await?;
    pooler.stop().await;
    summarize(&census, &served, &tally, options)
}

/// Prints where statements went, until `exit_after` if there is one.
async fn watch(census: &Census, tally: &Tally, options: &DemoOptions) -> Result<(), DemoError> {
    let terminal = io::stdout().is_terminal();
    let begun = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_secs(if terminal { 1 } else { 5 }));
    tick.tick().await;
    loop {
        let left = options.exit_after.map(|limit| limit.saturating_sub(begun.elapsed()));
        tokio::select! {
            _ = tick.tick() => {}
            () = tokio::time::sleep(left.unwrap_or(Duration::MAX)) => return Ok(()),
        }
        let mut line = format!("{:>5} s  ", begun.elapsed().as_secs());
        line.push_str(&census.describe(&census.take().await?));
        let _ = write!(line, "  |  errors {}, stale reads {}", tally.errors(), tally.stale());
        let mut out = io::stdout().lock();
        if terminal {
            write!(out, "\r{line}\x1b[K")?;
        } else {
            writeln!(out, "{line}")?;
        }
        out.flush()?;
    }
}

fn summarize(census: &Census, served: &[i64], tally: &Tally, options: &DemoOptions) -> Result<(), DemoError> {
    let total: i64 = served.iter().sum();
    let mut out = io::stdout().lock();
    if io::stdout().is_terminal() {
        writeln!(out)?;
    }
    writeln!(out, "\n{total} statements served: {}", census.describe(served))?;
    writeln!(
        out,
        "{} reads and {} transactions by {} clients, {} errors, {} stale reads",
        tally.reads(),
        tally.writes(),
        options.clients,
        tally.errors(),
        tally.stale()
    )?;
    if tally.errors() > 0 {
        writeln!(out, "the last error: {}", tally.last_error())?;
    }
    if options.clients == 0 {
        return Ok(());
    }
    if tally.stale() > 0 {
        return Err(DemoError::Stale(tally.stale()));
    }
    if served.iter().skip(1).any(|count| *count == 0) {
        return Err(DemoError::NothingServed(tally.last_error()));
    }
    Ok(())
}

/// A pooler.yaml in front of the cluster. Any other database name works too (`*`), so that an
/// application's test suite can create its own.
fn configuration(access: &ClusterAccess, port: u16, http_port: u16) -> String {
    let replicas =
        access.replica_addresses().iter().map(|a| format!("\"{a}\"")).collect::<Vec<_>>().join(", ");
    let nodes = format!("primary: \"{}\"\n    replicas: [{replicas}]", access.address(0));
    format!(
        "listen: [\"127.0.0.1:{port}\"]\n\
         http: \"127.0.0.1:{http_port}\"\n\
         databases:\n  {APP_DATABASE}:\n    {nodes}\n  \"*\":\n    {nodes}\n\
         users:\n  {APP_USER}: {{password: {APP_PASSWORD}}}\n\
         admin: {{users: [{APP_USER}]}}\n"
    )
}

fn print_how_to_connect(access: &ClusterAccess, port: u16, http_port: u16) -> io::Result<()> {
    let psql = access.programs.join("psql");
    let replicas = access.replica_addresses().join(", ");
    let mut out = io::stdout().lock();
    write!(
        out,
        "\npgweir on 127.0.0.1:{port}, in front of a primary ({}) and replicas ({replicas})\n\n\
         psql     {} postgres://{APP_USER}:{APP_PASSWORD}@127.0.0.1:{port}/{APP_DATABASE}\n\
         console  {} postgres://{APP_USER}:{APP_PASSWORD}@127.0.0.1:{port}/pgweir -c 'SHOW CLUSTER'\n\
         metrics  http://127.0.0.1:{http_port}/metrics\n\
         Django   DATABASES = {{\"default\": {{\n\
         \x20            \"ENGINE\": \"django.db.backends.postgresql\", \"NAME\": \"{APP_DATABASE}\",\n\
         \x20            \"USER\": \"{APP_USER}\", \"PASSWORD\": \"{APP_PASSWORD}\",\n\
         \x20            \"HOST\": \"127.0.0.1\", \"PORT\": \"{port}\",\n\
         \x20        }}}}\n\n\
         Ctrl-C stops everything and removes it. Statements of the built-in workload so far:\n",
        access.address(0),
        psql.display(),
        psql.display(),
    )?;
    out.flush()
}

/// The usual port if it is free, else any free one.
fn preferred_port(usual: u16) -> io::Result<u16> {
    TcpListener::bind(("127.0.0.1", usual))
        .or_else(|_| TcpListener::bind(("127.0.0.1", 0)))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
}

/// Resolves at Ctrl-C or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the default action ends the process, and the janitor cleans up.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// `20s`, `2m`, `1h`, or plain seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("unknown unit \"{unit}\"; write 20s, 2m or 1h")),
    };
    number
        .parse::<u32>()
        .map(|number| Duration::from_secs(u64::from(number) * factor))
        .map_err(|_| "write a duration as 20s, 2m or 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(parse_duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_mins(2)));
        for wrong in ["", "s", "-1s", "1 s", "1d", "99999999999s", "é"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?} was accepted");
        }
    }
}
