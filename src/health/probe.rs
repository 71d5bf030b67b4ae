//! The probe task of one node.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::cluster::{Lsn, Node, NodeState, Role};
use crate::pool::{DatabaseEntry, Topology};
use crate::protocol::SqlState;
use crate::server::{ConnectError, ServerConn, ServerTarget};

/// Time between two probes of a primary while clients wait for an answer; all tickets taken meanwhile are
/// answered by one probe.
const HORIZON_PERIOD: Duration = Duration::from_millis(5);
/// Time between two probes of a replica while clients wait for it to catch up.
const CATCH_UP_PERIOD: Duration = Duration::from_millis(5);
/// A replica that does not catch up for so long is looked at at the usual pace again.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(2);

/// How many databases of a node are tried if they do not exist.
const DATABASES_TRIED: usize = 8;
/// The database that is nearly always there.
const LAST_RESORT: &str = "postgres";

const PROBE: &str = "SELECT pg_catalog.pg_is_in_recovery(), \
CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
ELSE pg_catalog.pg_current_wal_insert_lsn() END";

/// Probes one node.
pub(super) struct Prober {
    node: Arc<Node>,
    topology: Arc<Topology>,
    connection: Option<ServerConn>,
    /// The database on the server that it is connected to.
    connected_to: String,
    catching_up_since: Option<Instant>,
}

impl Prober {
    pub(super) fn new(node: Arc<Node>, topology: Arc<Topology>) -> Self {
        Self { node, topology, connection: None, connected_to: String::new(), catching_up_since: None }
    }

    /// Probes until dropped.
    pub(super) async fn run(mut self) {
        loop {
            self.leave_if_told();
            let ticket = self.node.horizon.newest_ticket();
            let asked = Instant::now();
            let limit = self.topology.config.health.timeout;
            match timeout(limit, self.probe()).await {
                Ok(Ok(Some((in_recovery, position)))) => self.succeeded(in_recovery, position, ticket, asked),
                // It cannot be asked for the moment, which says nothing about it.
                Ok(Ok(None)) => {}
                Ok(Err(error)) => self.failed(&error),
                Err(_) => self.failed(&format!("no answer within {} ms", limit.as_millis())),
            }
            self.pause().await;
        }
    }

    /// One look at the node. A connection that has died is replaced once before the node counts as down.
    /// `None` when somebody needs for himself the databases that we may connect to.
    async fn probe(&mut self) -> Result<Option<(bool, Lsn)>, String> {
        if let Some(mut connection) = self.connection.take()
            && let Ok(answer) = ask(&mut connection).await
        {
            self.connection = Some(connection);
            return Ok(Some(answer));
        }
        let mut error = "no database or user to log in with".to_owned();
        for target in self.logins() {
            match ServerConn::connect(&target).await {
                Ok(mut connection) => {
                    let answer = ask(&mut connection).await?;
                    self.connection = Some(connection);
                    self.connected_to = target.database;
                    return Ok(Some(answer));
                }
                Err(refused) => {
                    if self.node.vacates_any() && !refused.is_node_down() {
                        return Ok(None);
                    }
                    error = refused.to_string();
                    // Dropped perhaps; that says nothing against the node.
                    if !matches!(refused, ConnectError::Refused { code: SqlState::INVALID_CATALOG_NAME, .. })
                    {
                        break;
                    }
                }
            }
        }
        if self.node.vacates_any() { Ok(None) } else { Err(error) }
    }

    /// Databases on this node to be tried in turn, and whom to log in as.
    fn logins(&self) -> Vec<ServerTarget> {
        let on_node =
            |entry: &Arc<DatabaseEntry>| entry.cluster.nodes().any(|node| Arc::ptr_eq(node, &self.node));
        let target = |entry: &Arc<DatabaseEntry>| {
            let user = self.topology.probe_user(entry)?;
            Some(self.topology.target(entry, &user, &self.node))
        };
        // Not one that was made of the wildcard: the probe would stand in the way of its DROP DATABASE.
        let configured = self.topology.databases().into_iter();
        let mut targets: Vec<_> = configured
            .filter(|entry| on_node(entry) && entry.settings.name != "*")
            .filter_map(|entry| target(&entry))
            .take(DATABASES_TRIED)
            .collect();
        let last_resort = match targets.first() {
            Some(first) => Some(ServerTarget { database: LAST_RESORT.to_owned(), ..first.clone() }),
            None => self.topology.database(LAST_RESORT).filter(on_node).and_then(|entry| target(&entry)),
        };
        targets.extend(last_resort);
        targets.retain(|target| !self.node.is_vacated(&target.database));
        targets
    }

    /// Somebody needs for himself the database that we are connected to.
    fn must_leave(&self) -> bool {
        self.connection.is_some() && self.node.is_vacated(&self.connected_to)
    }

    fn leave_if_told(&mut self) {
        if self.must_leave()
            && let Some(mut connection) = self.connection.take()
        {
            connection.say_goodbye();
        }
    }

    fn succeeded(&self, in_recovery: bool, position: Lsn, ticket: u64, asked: Instant) {
        let now = Instant::now();
        let node = &self.node;
        let before = (node.state(), node.role());
        node.set_in_recovery(in_recovery);
        node.set_position(position, asked);
        let mut state = NodeState::Up;
        if in_recovery {
            if let Some((bytes, late)) = self.lag(now, position) {
                node.set_lag(bytes, u64::try_from(late.as_micros()).unwrap_or(u64::MAX));
                if self.lag_limit().is_some_and(|limit| late > limit) {
                    state = NodeState::Lagging;
                }
            }
        } else {
            node.history.lock().record(now, position);
            node.set_lag(0, 0);
            if node.horizon.newest_ticket() > 0 {
                node.horizon.answer(ticket, position);
                self.tell_replicas(node.horizon.newest_position());
            }
        }
        self.settle_tables(in_recovery, ticket, position, asked);
        node.set_state(state);
        if before.0 != state || before.1 != node.role() {
            let role = if in_recovery { "replica" } else { "primary" };
            tracing::info!(node = %node.address, state = state.as_str(), role, %position, "node state changed");
        }
    }

    fn failed(&mut self, error: &str) {
        self.connection = None;
        if self.node.set_state(NodeState::Down) != NodeState::Down {
            tracing::warn!(node = %self.node.address, error, "node is down");
        }
    }

    /// Databases in which this node is the replica of another.
    fn primaries(&self) -> impl Iterator<Item = (Arc<Node>, Duration)> {
        let node = Arc::clone(&self.node);
        self.topology
            .databases()
            .into_iter()
            .filter(move |entry| {
                entry.cluster.replicas.iter().any(|replica| Arc::ptr_eq(&replica.node, &node))
            })
            .map(|entry| (Arc::clone(&entry.cluster.primary), entry.settings.routing.max_replica_lag))
    }

    fn lag(&self, now: Instant, position: Lsn) -> Option<(u64, Duration)> {
        self.primaries().map(|(primary, _)| primary.history.lock().lag(now, position)).max()
    }

    /// The most lag that some database bears; beyond it the node serves none.
    fn lag_limit(&self) -> Option<Duration> {
        let limits: Vec<_> = self.primaries().map(|(_, limit)| limit).collect();
        if limits.iter().any(Duration::is_zero) { None } else { limits.into_iter().max() }
    }

    /// Tables written to learn how far, and are forgotten once all replicas have got there.
    fn settle_tables(&self, in_recovery: bool, ticket: u64, position: Lsn, asked: Instant) {
        for entry in self.topology.databases() {
            if !entry.horizons.is_watched() {
                continue;
            }
            if !in_recovery && Arc::ptr_eq(&entry.cluster.primary, &self.node) {
                entry.horizons.position_known(ticket, position, asked);
            }
            if in_recovery && entry.cluster.replicas.iter().any(|r| Arc::ptr_eq(&r.node, &self.node)) {
                let least = entry.cluster.replicas.iter().map(|r| r.node.position()).min();
                entry.horizons.collect(least.unwrap_or_default());
            }
        }
    }

    /// Clients wait for replicas to reach `position`: their probes look closely now.
    fn tell_replicas(&self, position: Lsn) {
        for entry in self.topology.databases() {
            if Arc::ptr_eq(&entry.cluster.primary, &self.node) {
                for replica in &entry.cluster.replicas {
                    replica.node.want(position);
                }
            }
        }
    }

    async fn pause(&mut self) {
        let interval = self.topology.config.health.interval;
        if self.node.state() == NodeState::Down {
            return tokio::time::sleep(interval).await;
        }
        let is_replica = self.node.role() == Some(Role::Replica);
        let node = Arc::clone(&self.node);
        let must_leave = || self.must_leave();
        let wanted = poll_fn(|cx| {
            let wanted = if is_replica { node.poll_wanted(cx) } else { node.horizon.poll_waiting(cx) };
            if wanted || must_leave() { Poll::Ready(()) } else { Poll::Pending }
        });
        if timeout(interval, wanted).await.is_err() {
            self.catching_up_since = None;
            return;
        }
        if self.must_leave() {
            return;
        }
        if !is_replica {
            return tokio::time::sleep(HORIZON_PERIOD).await;
        }
        let since = *self.catching_up_since.get_or_insert_with(Instant::now);
        if since.elapsed() < CATCH_UP_LIMIT {
            tokio::time::sleep(CATCH_UP_PERIOD).await;
        } else {
            // Replay is paused or far behind: no use in asking hundreds of times a second.
            tokio::time::sleep(interval.min(Duration::from_millis(100))).await;
        }
    }
}

async fn ask(connection: &mut ServerConn) -> Result<(bool, Lsn), String> {
    let rows = connection.simple_query(PROBE).await.map_err(|error| error.to_string())?;
    let row = rows.into_iter().next().unwrap_or_default();
    let mut fields = row.into_iter().map(Option::unwrap_or_default);
    let in_recovery = fields.next().unwrap_or_default() == "t";
    let position = fields.next().unwrap_or_default();
    // A standby that has replayed nothing yet has no position.
    let position = if position.is_empty() { Ok(Lsn(0)) } else { position.parse() };
    position.map(|position| (in_recovery, position)).map_err(|()| "unexpected answer to the probe".to_owned())
}
