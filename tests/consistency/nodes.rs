//! The servers, and the wires to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgweir::cli::local_cluster::{APP_DATABASE, LocalCluster, LocalClusterError, LocalClusterOptions};

use crate::proxy::Proxy;

/// A cluster of our own, since its nodes are stopped and promoted.
pub struct Nodes {
    cluster: LocalCluster,
    proxies: Vec<Proxy>,
    /// The number of the primary.
    pub primary: Arc<AtomicUsize>,
}

impl Nodes {
    /// A primary and two replicas.
    pub async fn start() -> Arc<Self> {
        let mut options = LocalClusterOptions::with_replicas(2).set("track_commit_timestamp", "on");
        // Logins are not what is checked, and in a debug build SCRAM takes longer than all the rest.
        options.hba.push("host all all 127.0.0.1/32 trust".to_owned());
        let cluster = tokio::task::spawn_blocking(move || LocalCluster::start(&options))
            .await
            .unwrap()
            .unwrap_or_else(|error| panic!("{error}"));
        let mut proxies = Vec::new();
        for node in 0..cluster.access().nodes.len() {
            proxies.push(Proxy::start(cluster.access().port(node)).await);
        }
        Arc::new(Self { cluster, proxies, primary: Arc::new(AtomicUsize::new(0)) })
    }

    pub fn cluster(&self) -> &LocalCluster {
        &self.cluster
    }

    pub fn proxy(&self, node: usize) -> &Proxy {
        &self.proxies[node]
    }

    pub fn count(&self) -> usize {
        self.proxies.len()
    }

    pub fn primary(&self) -> usize {
        self.primary.load(Ordering::SeqCst)
    }

    pub fn replicas(&self) -> Vec<usize> {
        (0..self.count()).filter(|node| *node != self.primary()).collect()
    }

    /// The configuration of a pgweir in front of the wires.
    pub fn yaml(&self, level: &str) -> String {
        let addresses: Vec<_> = self.proxies.iter().map(|proxy| format!("\"{}\"", proxy.address)).collect();
        format!(
            "auth: {{method: trust}}\n\
             pool: {{size: 40, checkout_timeout: 30s}}\n\
             routing: {{consistency: {level}, transactions: replica_until_write, catalog_refresh: 10s}}\n\
             databases:\n  {APP_DATABASE}:\n    primary: {}\n    replicas: [{}]\n\
             users:\n  app: {{password: app}}\nadmin: {{users: [app]}}\n",
            addresses[0],
            addresses[1..].join(", ")
        )
    }

    /// Runs something that takes its time on a thread of its own.
    pub async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        what: impl FnOnce(&Self) -> Result<T, LocalClusterError> + Send + 'static,
    ) -> T {
        let nodes = Arc::clone(self);
        tokio::task::spawn_blocking(move || what(&nodes))
            .await
            .unwrap()
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// How late a replica replays once it was started anew.
    pub fn delay_from_next_start(&self, node: usize, milliseconds: u64) -> Result<(), LocalClusterError> {
        let sql = format!("ALTER SYSTEM SET recovery_min_apply_delay = '{milliseconds}ms'");
        self.cluster.psql(node, "postgres", &sql).map(drop)
    }

    /// How late a replica replays, from now on.
    pub fn delay(&self, node: usize, milliseconds: u64) -> Result<(), LocalClusterError> {
        self.delay_from_next_start(node, milliseconds)?;
        self.cluster.psql(node, "postgres", "SELECT pg_reload_conf()").map(drop)
    }

    /// Whether a commit waits until a replica has it, so that a promotion loses nothing.
    pub fn synchronous(&self, on: bool) -> Result<(), LocalClusterError> {
        let names = if on { "ANY 1 (*)" } else { "" };
        for node in 0..self.count() {
            let sql = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
            self.cluster.psql(node, "postgres", &sql)?;
            self.cluster.psql(node, "postgres", "SELECT pg_reload_conf()")?;
        }
        Ok(())
    }

    /// Nothing more reaches the replicas, though the primary is alive.
    pub fn sever(&self) -> Result<(), LocalClusterError> {
        for node in self.replicas() {
            self.cluster.psql(node, "postgres", "ALTER SYSTEM SET primary_conninfo = ''")?;
            self.cluster.psql(node, "postgres", "SELECT pg_reload_conf()")?;
        }
        for node in self.replicas() {
            let sql = "SELECT count(*) FROM pg_stat_wal_receiver";
            while self.cluster.psql(node, "postgres", sql)?.trim() != "0" {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// The replica that has received most becomes the primary; the other one follows it.
    pub fn promote_best(&self) -> Result<usize, LocalClusterError> {
        let mut best = (0u64, 0usize);
        for node in self.replicas() {
            let sql = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'";
            let position = self.cluster.psql(node, "postgres", sql)?.trim().parse().unwrap_or(0);
            best = best.max((position, node));
        }
        let new = best.1;
        for node in self.replicas().into_iter().filter(|node| *node != new) {
            self.cluster.follow(node, new)?;
        }
        self.cluster.promote(new)?;
        self.primary.store(new, Ordering::SeqCst);
        Ok(new)
    }

    /// Ends prepared transactions whose client has lost its connection: they hold the locks of their rows.
    pub fn sweep_prepared(&self) {
        let primary = self.primary();
        let old =
            "SELECT quote_literal(gid) FROM pg_prepared_xacts WHERE prepared < now() - interval '10 seconds'";
        let Ok(names) = self.cluster.psql(primary, APP_DATABASE, old) else { return };
        for name in names.lines() {
            // Its own client may have been quicker.
            let _ = self.cluster.psql(primary, APP_DATABASE, &format!("ROLLBACK PREPARED {name}"));
        }
    }
}
