//! A PostgreSQL cluster on this machine, thrown away afterwards: one primary and some streaming
//! replicas in a temporary directory. The demo shows itself on it and the integration tests run
//! against it; it is not a way to keep data.
//!
//! Nothing outlives its [`LocalCluster`]: a small shell (the janitor) holds the other end of a
//! pipe and cleans up when that pipe closes, which the kernel does for us also when this process
//! is killed.

mod access;
mod binaries;
mod control;
mod error;
mod files;
mod janitor;

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use access::run;
pub use access::{APP_DATABASE, APP_PASSWORD, APP_USER, ClusterAccess, ClusterNode};
use binaries::RunAs;
pub use control::Mode;
pub use error::LocalClusterError;
use error::io;
use janitor::Janitor;

/// What kind of cluster to start.
#[derive(Clone, Debug, Default)]
pub struct LocalClusterOptions {
    /// Streaming replicas beside the primary.
    pub replicas: usize,
    /// Settings of every node, laid over the built-in ones.
    pub settings: Vec<(String, String)>,
    /// Settings of single nodes by number (0 is the primary), laid over `settings`.
    pub node_settings: Vec<(usize, String, String)>,
    /// Lines put in front of `pg_hba.conf`.
    pub hba: Vec<String>,
}

impl LocalClusterOptions {
    /// A primary and this many replicas.
    #[must_use]
    pub fn with_replicas(replicas: usize) -> Self {
        Self { replicas, ..Self::default() }
    }

    /// Adds a setting of every node.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Adds a setting of one node.
    #[must_use]
    pub fn set_on(mut self, node: usize, key: &str, value: &str) -> Self {
        self.node_settings.push((node, key.to_owned(), value.to_owned()));
        self
    }
}

/// A running cluster; dropping it stops every node and removes its directory.
#[derive(Debug)]
pub struct LocalCluster {
    access: ClusterAccess,
    run_as: Option<RunAs>,
    /// Cleans up when dropped.
    _janitor: Janitor,
}

/// Makes directory names differ within one process.
static SEQUENCE: AtomicU32 = AtomicU32::new(0);

impl LocalCluster {
    /// Starts a primary and its replicas; all answer, and the replicas stream, when this returns.
    pub fn start(options: &LocalClusterOptions) -> Result<Self, LocalClusterError> {
        let mut attempt = 1;
        loop {
            match Self::start_once(options) {
                // Between choosing a free port and PostgreSQL's bind, somebody else may take it.
                Err(LocalClusterError::Failed { said, .. })
                    if said.contains("Address already in use") && attempt < 3 =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn start_once(options: &LocalClusterOptions) -> Result<Self, LocalClusterError> {
        let programs = binaries::find()?;
        let run_as = RunAs::choose()?;
        let directory = std::env::temp_dir().join(format!(
            "pgweir-{}-{}",
            std::process::id(),
            SEQUENCE.fetch_add(1, Ordering::Relaxed)
        ));
        let name = |node| if node == 0 { "primary".to_owned() } else { format!("replica-{node}") };
        let nodes = free_ports(options.replicas + 1)?
            .into_iter()
            .enumerate()
            .map(|(node, port)| ClusterNode { name: name(node), host: "127.0.0.1".to_owned(), port })
            .collect();
        io("creating the cluster's directory", files::private_directory(&directory, run_as))?;
        let access = ClusterAccess { programs, nodes, superuser_password: random_password()?, directory };
        // From here on the directory is the janitor's to remove, whatever happens below.
        let janitor = Janitor::hire(&access, run_as)?;
        let cluster = Self { access, run_as, _janitor: janitor };
        cluster.initialize(options)?;
        cluster.start_all()?;
        cluster.create_application()?;
        cluster.wait_streaming()?;
        Ok(cluster)
    }

    /// `initdb` for the primary, copies of it for the replicas, and everybody's settings.
    fn initialize(&self, options: &LocalClusterOptions) -> Result<(), LocalClusterError> {
        let sockets = self.access.directory.join("sockets");
        io("creating a directory", files::private_directory(&sockets, self.run_as))?;
        let password_file = self.access.directory.join("superuser-password");
        let text = format!("{}\n", self.access.superuser_password);
        io("writing a password file", files::private_file(&password_file, &text, self.run_as))?;

        let first = self.data_directory(0)?;
        let mut initdb = self.command("initdb");
        // C.UTF-8: case conversion of all letters, but no dependency on installed locales.
        let locale = if cfg!(target_os = "linux") { "--locale=C.UTF-8" } else { "--locale=C" };
        initdb.args(["--no-sync", "--no-instructions", "-U", "postgres", "-E", "UTF8", locale]);
        initdb.args(["-A", "scram-sha-256", "--pwfile"]).arg(&password_file).arg("-D").arg(&first);
        run(initdb)?;
        let hba = files::host_based_authentication(&options.hba);
        io("writing pg_hba.conf", files::private_file(&first.join("pg_hba.conf"), &hba, self.run_as))?;

        for node in 1..self.access.nodes.len() {
            let data = self.data_directory(node)?;
            io("copying the data directory", files::copy_tree(&first, &data, self.run_as))?;
            io("marking a standby", files::private_file(&data.join("standby.signal"), "", self.run_as))?;
        }
        for node in 0..self.access.nodes.len() {
            let path = self.data_directory(node)?.join("postgresql.conf");
            let mut text = io("reading postgresql.conf", fs::read_to_string(&path))?;
            text.push_str(&files::configuration(
                self.access.port(node),
                &sockets,
                &self.settings_of(node, options),
            ));
            io("writing postgresql.conf", files::private_file(&path, &text, self.run_as))?;
        }
        Ok(())
    }

    fn settings_of(&self, node: usize, options: &LocalClusterOptions) -> Vec<(String, String)> {
        let mut settings = vec![("cluster_name".to_owned(), self.access.nodes[node].name.clone())];
        if self.has_pg_stat_statements() {
            settings.push(("shared_preload_libraries".to_owned(), "pg_stat_statements".to_owned()));
        }
        if node > 0 {
            settings.push(("primary_conninfo".to_owned(), self.conninfo(0, &self.access.nodes[node].name)));
        }
        settings.extend(options.settings.iter().cloned());
        settings
            .extend(options.node_settings.iter().filter(|s| s.0 == node).map(|s| (s.1.clone(), s.2.clone())));
        settings
    }

    fn conninfo(&self, upstream: usize, application_name: &str) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres password={} application_name={application_name}",
            self.access.port(upstream),
            self.access.superuser_password
        )
    }

    /// The contrib package is not installed everywhere; naming an absent library would keep the
    /// server from starting.
    fn has_pg_stat_statements(&self) -> bool {
        let Ok(libraries) = ({
            let mut command = self.command("pg_config");
            command.arg("--pkglibdir");
            run(command)
        }) else {
            return false;
        };
        ["so", "dylib"]
            .iter()
            .any(|ext| Path::new(&libraries).join(format!("pg_stat_statements.{ext}")).exists())
    }

    /// Starts all nodes at once: each waits mostly for the disk and for a timer of `pg_ctl`.
    fn start_all(&self) -> Result<(), LocalClusterError> {
        thread::scope(|scope| {
            let starting: Vec<_> =
                (0..self.access.nodes.len()).map(|node| scope.spawn(move || self.start_node(node))).collect();
            starting.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(LocalClusterError::Late("a starting thread died".into())))
            })
        })
    }

    fn create_application(&self) -> Result<(), LocalClusterError> {
        self.psql(
            0,
            "postgres",
            &format!("CREATE ROLE {APP_USER} LOGIN CREATEDB PASSWORD '{APP_PASSWORD}'"),
        )?;
        self.psql(0, "postgres", &format!("CREATE DATABASE {APP_DATABASE} OWNER {APP_USER}"))?;
        if self.has_pg_stat_statements() {
            self.psql(0, "postgres", "CREATE EXTENSION pg_stat_statements")?;
        }
        Ok(())
    }

    fn wait_streaming(&self) -> Result<(), LocalClusterError> {
        let wanted = (self.access.nodes.len() - 1).to_string();
        let begun = Instant::now();
        let count = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        while self.psql(0, "postgres", count)? != wanted {
            if begun.elapsed() > Duration::from_secs(30) {
                let logs: Vec<_> = (1..self.access.nodes.len()).map(|node| self.log_tail(node)).collect();
                return Err(LocalClusterError::Late(format!("replicas do not stream: {}", logs.join("\n"))));
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.access.wait_caught_up(0)
    }

    /// How to reach the nodes; can be handed to other processes.
    pub fn access(&self) -> &ClusterAccess {
        &self.access
    }

    /// Runs SQL as superuser straight on a node; see [`ClusterAccess::psql`].
    pub fn psql(&self, node: usize, database: &str, sql: &str) -> Result<String, LocalClusterError> {
        self.access.psql(node, database, sql)
    }

    /// Waits until the replicas have replayed all that node 0, the primary, has written.
    pub fn wait_caught_up(&self) -> Result<(), LocalClusterError> {
        self.access.wait_caught_up(0)
    }

    fn log_tail(&self, node: usize) -> String {
        let text =
            self.log_file(node).ok().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// The data directory of a node.
    pub fn data_directory(&self, node: usize) -> Result<PathBuf, LocalClusterError> {
        let node = self.access.nodes.get(node).ok_or(LocalClusterError::NoNode(node))?;
        Ok(self.access.directory.join(&node.name))
    }

    fn command(&self, program: &str) -> Command {
        unprivileged(&self.access.programs.join(program), &self.access.directory, self.run_as)
    }
}

/// A command as the user that may run PostgreSQL, in a directory that user can enter.
fn unprivileged(program: &Path, directory: &Path, run_as: Option<RunAs>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory).env("LC_ALL", "C");
    for inherited in ["PGDATA", "PGPORT", "PGHOST", "PGUSER", "PGDATABASE", "PGOPTIONS", "PGSERVICE"] {
        command.env_remove(inherited);
    }
    if let Some(user) = run_as {
        command.gid(user.gid).uid(user.uid);
    }
    command
}

/// Ports nobody listens on now; all are held until the last is chosen, so they differ.
fn free_ports(count: usize) -> Result<Vec<u16>, LocalClusterError> {
    let holding: io::Result<Vec<TcpListener>> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    io("choosing free ports", holding)?
        .iter()
        .map(|listener| io("choosing free ports", listener.local_addr()).map(|address| address.port()))
        .collect()
}

fn random_password() -> Result<String, LocalClusterError> {
    let mut bytes = [0u8; 16];
    let read =
        fs::File::open("/dev/urandom").and_then(|mut file| io::Read::read_exact(&mut file, &mut bytes));
    io("reading /dev/urandom", read)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
