//! How to reach a running local cluster: ports, passwords, and `psql` as a remote control.
//!
//! This half can be written down as JSON and handed to other processes; it owns nothing, so
//! dropping it stops nothing.

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::LocalClusterError;

/// The role the demo and the tests work as; its password is its name.
pub const APP_USER: &str = "app";
/// Password of [`APP_USER`].
pub const APP_PASSWORD: &str = "app";
/// The database owned by [`APP_USER`].
pub const APP_DATABASE: &str = "app";

/// One server of the cluster. Node 0 is the one that began as primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNode {
    /// `primary`, `replica-1`, `replica-2`, …: what it was at the start.
    pub name: String,
    /// Always a loopback address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Everything needed to use a cluster that somebody runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterAccess {
    /// Where PostgreSQL's programs are.
    pub programs: PathBuf,
    /// The servers; the first began as primary.
    pub nodes: Vec<ClusterNode>,
    /// Password of the superuser `postgres`, made up at the start.
    pub superuser_password: String,
    /// Where data directories, logs and sockets are.
    pub directory: PathBuf,
}

impl ClusterAccess {
    /// `127.0.0.1:port` of a node.
    pub fn address(&self, node: usize) -> String {
        self.nodes.get(node).map(|n| format!("{}:{}", n.host, n.port)).unwrap_or_default()
    }

    /// Port of a node; 0 if there is no such node.
    pub fn port(&self, node: usize) -> u16 {
        self.nodes.get(node).map_or(0, |n| n.port)
    }

    /// The addresses of all nodes but the first.
    pub fn replica_addresses(&self) -> Vec<String> {
        (1..self.nodes.len()).map(|node| self.address(node)).collect()
    }

    /// A connection URL as superuser.
    pub fn superuser_url(&self, node: usize, database: &str) -> String {
        format!("postgres://postgres:{}@{}/{database}", self.superuser_password, self.address(node))
    }

    /// A connection URL as the application's role.
    pub fn app_url(&self, node: usize, database: &str) -> String {
        format!("postgres://{APP_USER}:{APP_PASSWORD}@{}/{database}", self.address(node))
    }

    /// Runs SQL as superuser on one node, straight, and gives back unaligned output without
    /// headers: columns separated by `|`, rows by newlines. Stops at the first error.
    pub fn psql(&self, node: usize, database: &str, sql: &str) -> Result<String, LocalClusterError> {
        let mut command = self.psql_command(node, "postgres", &self.superuser_password, database);
        command.args(["-c", sql]);
        run(command)
    }

    /// As [`Self::psql`], as the application's role.
    pub fn psql_as_app(&self, node: usize, database: &str, sql: &str) -> Result<String, LocalClusterError> {
        let mut command = self.psql_command(node, APP_USER, APP_PASSWORD, database);
        command.args(["-c", sql]);
        run(command)
    }

    fn psql_command(&self, node: usize, user: &str, password: &str, database: &str) -> Command {
        let mut command = Command::new(self.programs.join("psql"));
        command
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"])
            .args(["-p", &self.port(node).to_string(), "-U", user, "-d", database])
            .env("PGPASSWORD", password)
            .env("PGCONNECT_TIMEOUT", "10");
        command
    }

    /// Waits until every replica that is up has replayed all that the primary has written so
    /// far. `primary` is the node that is primary now.
    pub fn wait_caught_up(&self, primary: usize) -> Result<(), LocalClusterError> {
        const LIMIT: Duration = Duration::from_secs(30);
        // A logical "message" forces nothing; the insert position is what later reads depend on.
        let target = self.psql(primary, "postgres", "SELECT pg_current_wal_insert_lsn()")?;
        let behind = format!(
            "SELECT NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= '{}'::pg_lsn",
            target.trim()
        );
        let begun = Instant::now();
        for node in (0..self.nodes.len()).filter(|node| *node != primary) {
            // A node that does not answer is stopped: nobody waits for it.
            while self.psql(node, "postgres", &behind).is_ok_and(|answer| answer.trim() == "f") {
                if begun.elapsed() > LIMIT {
                    return Err(LocalClusterError::Late(format!("{} still replays", self.nodes[node].name)));
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

/// Runs a program to its end; its standard error becomes the error's text.
pub(super) fn run(mut command: Command) -> Result<String, LocalClusterError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|source| LocalClusterError::Io { doing: format!("starting {program}"), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    let said =
        String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr });
    Err(LocalClusterError::Failed { program, said: said.trim().to_owned() })
}
