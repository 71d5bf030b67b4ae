//! What tests do to the nodes of a running cluster: stop, start, hold back, promote.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::access::run;
use super::error::io;
use super::{LocalCluster, LocalClusterError, files};

/// How to stop a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Rolls back and disconnects everybody, then shuts down in order.
    Fast,
    /// As in a crash: sockets close at once, recovery at the next start.
    Immediate,
}

impl LocalCluster {
    /// Stops a node; nothing happens if it is not running.
    pub fn stop(&self, node: usize, mode: Mode) -> Result<(), LocalClusterError> {
        let mode = match mode {
            Mode::Fast => "fast",
            Mode::Immediate => "immediate",
        };
        let data = self.data_directory(node)?;
        if !data.join("postmaster.pid").exists() {
            return Ok(());
        }
        let mut command = self.command("pg_ctl");
        command.args(["-w", "-m", mode, "stop", "-D"]).arg(data);
        run(command).map(drop)
    }

    /// Starts a node that was stopped and waits until it answers.
    pub fn start_node(&self, node: usize) -> Result<(), LocalClusterError> {
        let mut command = self.command("pg_ctl");
        command.args(["-w", "-s", "-t", "60", "start", "-D"]).arg(self.data_directory(node)?);
        command.arg("-l").arg(self.log_file(node)?);
        run(command).map(drop).map_err(|error| match error {
            LocalClusterError::Failed { program, said } => {
                LocalClusterError::Failed { program, said: format!("{said}\n{}", self.log_tail(node)) }
            }
            other => other,
        })
    }

    /// Stops replay on a replica: it goes on answering from an older and older state.
    pub fn pause_replay(&self, node: usize) -> Result<(), LocalClusterError> {
        self.psql(node, "postgres", "SELECT pg_wal_replay_pause()").map(drop)
    }

    /// Goes on after [`Self::pause_replay`].
    pub fn resume_replay(&self, node: usize) -> Result<(), LocalClusterError> {
        self.psql(node, "postgres", "SELECT pg_wal_replay_resume()").map(drop)
    }

    /// Makes a replica a primary, on a new timeline, and waits for it. The old primary is not
    /// touched: stop it first unless two primaries are what you want.
    pub fn promote(&self, node: usize) -> Result<(), LocalClusterError> {
        let mut command = self.command("pg_ctl");
        command.args(["-w", "-s", "promote", "-D"]).arg(self.data_directory(node)?);
        run(command).map(drop)
    }

    /// Lets a running replica stream from another node, as after a promotion.
    pub fn follow(&self, node: usize, upstream: usize) -> Result<(), LocalClusterError> {
        let name = &self.access.nodes.get(node).ok_or(LocalClusterError::NoNode(node))?.name;
        let conninfo = self.conninfo(upstream, name);
        self.psql(node, "postgres", &format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'"))?;
        self.psql(node, "postgres", "SELECT pg_reload_conf()").map(drop)
    }

    /// Makes a node anew from a copy of another one, which it then follows: how an old primary comes back after a
    /// promotion, whatever it had written that the new one has not.
    pub fn rebuild(&self, node: usize, upstream: usize) -> Result<(), LocalClusterError> {
        self.stop(node, Mode::Immediate)?;
        let data = self.data_directory(node)?;
        io("removing an old data directory", fs::remove_dir_all(&data))?;
        let mut command = self.command("pg_basebackup");
        command.args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "-h", "127.0.0.1"]);
        command.args(["-p", &self.access.port(upstream).to_string(), "-U", "postgres", "-D"]).arg(&data);
        command.env("PGPASSWORD", &self.access.superuser_password);
        run(command)?;
        let name = &self.access.nodes[node].name;
        // Behind everything else that is read, so these win over what came from the other node.
        let path = data.join("postgresql.auto.conf");
        let mut text = io("reading postgresql.auto.conf", fs::read_to_string(&path))?;
        for (key, value) in [
            ("port", self.access.port(node).to_string()),
            ("cluster_name", name.clone()),
            ("primary_conninfo", self.conninfo(upstream, name)),
        ] {
            let _ = writeln!(text, "{key} = '{value}'");
        }
        io("writing postgresql.auto.conf", files::private_file(&path, &text, self.run_as))?;
        io("marking a standby", files::private_file(&data.join("standby.signal"), "", self.run_as))?;
        self.start_node(node)
    }

    /// A node's log, where its complaints are.
    pub fn log_file(&self, node: usize) -> Result<PathBuf, LocalClusterError> {
        Ok(self.data_directory(node)?.with_extension("log"))
    }
}
