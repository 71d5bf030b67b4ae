//! What integration tests share: one cluster for all of them, a database for each, and pgweir
//! itself as a process in front.
//!
//! `scripts/test` starts the cluster once and passes it on in `PGWEIR_TEST_CLUSTER`; without that
//! each test process starts its own. Tests that stop or promote nodes start their own
//! `LocalCluster` instead: nobody shares a broken server.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of this")]
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "this is test code, though not inside a #[test]"
)]

pub mod inprocess;
pub mod messages;
mod pooler;
pub mod talk;
pub mod tenants;
pub mod wire;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use pgweir::cli::local_cluster::{ClusterAccess, LocalCluster, LocalClusterOptions};

pub use inprocess::InProcess;
pub use pooler::Pgweir;

/// The environment variable with the shared cluster, as JSON.
const SHARED_CLUSTER: &str = "PGWEIR_TEST_CLUSTER";

/// A primary and two streaming replicas that all tests share. Treat them well.
pub fn cluster() -> &'static ClusterAccess {
    static ACCESS: OnceLock<ClusterAccess> = OnceLock::new();
    // Not dropped at the end of the process; its janitor notices that we are gone.
    static OWN: OnceLock<LocalCluster> = OnceLock::new();
    ACCESS.get_or_init(|| match std::env::var(SHARED_CLUSTER) {
        Ok(json) => serde_json::from_str(&json).expect("PGWEIR_TEST_CLUSTER is not what scripts/test writes"),
        Err(_) => OWN
            .get_or_init(|| {
                LocalCluster::start(&LocalClusterOptions::with_replicas(2))
                    .unwrap_or_else(|error| panic!("{error}"))
            })
            .access()
            .clone(),
    })
}

/// A database of one test, owned by `app`, there on all nodes; dropped with this value.
pub struct TestDatabase {
    pub name: String,
    cluster: &'static ClusterAccess,
}

/// A number from the environment: how much to do, or the seed to do it with.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Creates a database whose name no other test has.
pub fn database() -> TestDatabase {
    static SEQUENCE: AtomicU32 = AtomicU32::new(0);
    let cluster = cluster();
    let name = format!("t{}_{}", std::process::id(), SEQUENCE.fetch_add(1, Ordering::Relaxed));
    cluster.psql(0, "postgres", &format!("CREATE DATABASE {name} OWNER app")).unwrap();
    cluster.wait_caught_up(0).unwrap();
    TestDatabase { name, cluster }
}

impl TestDatabase {
    /// Runs SQL as `app` straight on a node and returns `|`-separated rows.
    pub fn on(&self, node: usize, sql: &str) -> String {
        self.cluster.psql_as_app(node, &self.name, sql).unwrap()
    }

    /// The `databases`, `users` and `admin` sections of a pooler.yaml in front of this database.
    pub fn yaml(&self) -> String {
        sections(self.cluster, &self.name)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let dropped =
            self.cluster.psql(0, "postgres", &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        if let Err(error) = dropped {
            eprintln!("{} could not be dropped: {error}", self.name);
        }
    }
}

/// The sections of a pooler.yaml that name `database` on `cluster`, and who may use it.
pub fn sections(cluster: &ClusterAccess, database: &str) -> String {
    format!(
        "databases:\n  {database}:\n    primary: {}\n    replicas: [{}]\nusers:\n  app: {{password: app}}\nadmin: {{users: [app]}}\n",
        cluster.address(0),
        cluster.replica_addresses().iter().map(|a| format!("\"{a}\"")).collect::<Vec<_>>().join(", ")
    )
}

/// What pgbench says of a run that succeeds and loses no client.
pub fn pgbench(port: u16, database: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(pgbench_path())
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "app"])
        .args(arguments)
        .arg(database)
        .env("PGPASSWORD", "app")
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !complaint.contains("aborted"), "{arguments:?}: {complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The newest pgbench of the machine; Debian keeps it with the server's programs.
fn pgbench_path() -> std::path::PathBuf {
    let directory = std::process::Command::new("sh")
        .args(["-c", "ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1"])
        .output()
        .unwrap();
    let path = std::path::PathBuf::from(String::from_utf8_lossy(&directory.stdout).trim()).join("pgbench");
    if path.exists() { path } else { "pgbench".into() }
}
