//! The probe task of one node.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::cluster::{
    Leadership, Lineage, Lsn, Node, NodeAddress, NodeState, Role, SHARE_FULL, WriteHorizon,
};
use crate::net::connect::resolve;
use crate::pool::{DatabaseEntry, Topology};
use crate::protocol::SqlState;
use crate::server::{ConnectError, QueryError, ServerConn, ServerTarget};
use crate::task::micros;

use super::failover::Concerned;

/// Time between two probes of a primary while clients wait for an answer; all tickets taken meanwhile are
/// answered by one probe.
const HORIZON_PERIOD: Duration = Duration::from_millis(5);
/// Time between two probes of a replica while clients wait for it to catch up.
const CATCH_UP_PERIOD: Duration = Duration::from_millis(5);
/// A replica that stands still for so long is looked at less often.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(2);

/// How many databases of a node are tried if they do not exist.
const DATABASES_TRIED: usize = 8;
/// The database that is nearly always there.
const LAST_RESORT: &str = "postgres";

/// Time between two probes while the cluster has no primary, at most.
const URGENT_PERIOD: Duration = Duration::from_millis(100);
/// How often the name of a node is resolved while its cluster has no primary, at least.
const RESOLVE_PERIOD_URGENT: Duration = Duration::from_secs(1);
/// How often a standby is asked for its timeline, at most; more often while it is not seen where it should be.
const LINEAGE_PERIOD: Duration = Duration::from_secs(1);
const LINEAGE_PERIOD_UNPROVEN: Duration = Duration::from_millis(100);
/// A replica that has come back gets its whole share of the reads after this long.
const RETURN_PERIOD: Duration = Duration::from_secs(8);

/// What waits in a quiet primary's memory to be flushed, for many seconds if it is no commit, no replica can have: it
/// counts for horizons (a commit need not be flushed to be acknowledged), not for lag.
const PROBE: &str = "SELECT pg_catalog.pg_is_in_recovery(), \
CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
ELSE pg_catalog.pg_current_wal_insert_lsn() END, \
CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_flush_lsn() END";

/// System identifier, and the timeline. The control file has the timeline of a standby as of some restartpoint,
/// which is a lower bound; that of the WAL received is exact, but shown only to members of `pg_monitor`.
const LINEAGE: &str = "SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system()), \
CASE WHEN pg_catalog.pg_is_in_recovery() THEN GREATEST(\
(SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()), \
(SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()), \
(SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver)) \
ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))\
::pg_catalog.bit(32)::pg_catalog.int4 END";

/// The same for a server that has revoked the functions that read the control file.
const LINEAGE_PLAIN: &str = "SELECT NULL, CASE WHEN pg_catalog.pg_is_in_recovery() \
THEN (SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver) \
ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))\
::pg_catalog.bit(32)::pg_catalog.int4 END";

/// What one look at a node gave.
struct Look {
    in_recovery: bool,
    position: Lsn,
    /// Of a primary: what replicas can have.
    flushed: Lsn,
    lineage: Lineage,
}

/// Why a look gave nothing.
enum Blank {
    /// The node is to blame.
    Down(String),
    /// It answers, but does not let us in.
    Refused(String),
    /// Somebody needs for himself the databases that we may connect to.
    Vacated,
}

/// Probes one node.
pub(super) struct Prober {
    node: Arc<Node>,
    topology: Arc<Topology>,
    concerned: Arc<Concerned>,
    /// The clusters it is in.
    leaderships: Vec<Arc<Leadership>>,
    connection: Option<ServerConn>,
    /// The database on the server that it is connected to.
    connected_to: String,
    /// Role and lineage as this connection has told them, and when.
    lineage: Option<(bool, Lineage, Instant)>,
    catching_up_since: Option<Instant>,
    /// Where the replica was when it was last waited for.
    position_before: Lsn,
    /// When it was asked last.
    asked: Option<Instant>,
    /// Successful probes in a row, of a replica that comes back.
    successes: u32,
    returned_at: Option<Instant>,
    /// The log knows that it does not let us in.
    refusal_told: bool,
    /// When its name was resolved last.
    resolved_at: Instant,
    /// The name no longer leads to where it was.
    has_moved: bool,
}

impl Prober {
    pub(super) fn new(node: Arc<Node>, topology: Arc<Topology>, concerned: Arc<Concerned>) -> Self {
        let leaderships = topology.leaderships().filter(|l| l.position(&node).is_some()).cloned().collect();
        Self {
            node,
            topology,
            concerned,
            leaderships,
            connection: None,
            connected_to: String::new(),
            lineage: None,
            catching_up_since: None,
            position_before: Lsn(0),
            asked: None,
            successes: 0,
            returned_at: None,
            refusal_told: false,
            resolved_at: Instant::now(),
            has_moved: false,
        }
    }

    /// Probes until dropped.
    pub(super) async fn run(mut self) {
        loop {
            self.leave_if_told();
            self.leave_if_moved().await;
            let ticket = WriteHorizon::present_ticket();
            let asked = Instant::now();
            self.asked = Some(asked);
            let limit = self.topology.config.health.timeout;
            match timeout(limit, self.probe()).await {
                Ok(Ok(look)) => self.succeeded(&look, ticket, asked),
                // It cannot be asked for the moment, which says nothing about it.
                Ok(Err(Blank::Vacated)) => {}
                Ok(Err(Blank::Refused(error))) => self.refused(&error),
                Ok(Err(Blank::Down(error))) => self.failed(&error),
                Err(_) => self.failed(&format!("no answer within {} ms", limit.as_millis())),
            }
            self.pause().await;
        }
    }

    /// One look at the node. A connection that has died is replaced once before the node counts as down.
    async fn probe(&mut self) -> Result<Look, Blank> {
        if let Some(connection) = self.connection.take()
            && let Ok(look) = self.ask(connection).await
        {
            return Ok(look);
        }
        self.lineage = None;
        let mut blank = Blank::Refused("no database or user to log in with".to_owned());
        for target in self.logins() {
            match self.connect(&target).await {
                Ok(connection) => {
                    self.connected_to = target.database;
                    self.settled(&connection);
                    return self.ask(connection).await.map_err(Blank::Down);
                }
                Err(error) if error.is_node_down() => return Err(Blank::Down(error.to_string())),
                Err(error) => {
                    blank = Blank::Refused(error.to_string());
                    // Dropped perhaps; that says nothing against the node.
                    if !matches!(error, ConnectError::Refused { code: SqlState::INVALID_CATALOG_NAME, .. }) {
                        break;
                    }
                }
            }
        }
        Err(if self.node.vacates_any() { Blank::Vacated } else { blank })
    }

    /// Where the others connect, or, when nobody answers there, to any address of the name.
    async fn connect(&self, target: &ServerTarget) -> Result<ServerConn, ConnectError> {
        let anywhere = ServerTarget { endpoint: None, ..target.clone() };
        if self.has_moved {
            return ServerConn::connect(&anywhere).await;
        }
        match ServerConn::connect(target).await {
            Err(error) if error.is_node_down() && self.node.endpoint.address().is_some() => {
                ServerConn::connect(&anywhere).await
            }
            result => result,
        }
    }

    /// From now on everybody connects to this server.
    fn settled(&mut self, connection: &ServerConn) {
        self.has_moved = false;
        if !self.node.address.is_name() {
            return;
        }
        let Ok(address) = connection.info.remote.0.parse::<IpAddr>() else { return };
        if self.node.endpoint.settle(address) {
            tracing::warn!(node = %self.node.address, %address, "the name leads to another server");
            self.concerned.moved(&self.node);
        }
    }

    /// Looks now and then where the name leads, and leaves a server that it no longer leads to.
    async fn leave_if_moved(&mut self) {
        let hurry = self.leaderships.iter().any(|leadership| leadership.is_urgent());
        let ttl = self.topology.config.health.dns_ttl;
        let period = if hurry { ttl.min(RESOLVE_PERIOD_URGENT) } else { ttl };
        if !self.node.address.is_name() || self.resolved_at.elapsed() < period {
            return;
        }
        let NodeAddress { host, port } = &self.node.address;
        let listed = timeout(self.topology.config.health.timeout, resolve(host, *port)).await;
        self.resolved_at = Instant::now();
        if let Ok(Ok(listed)) = listed
            && self.node.endpoint.is_gone(&listed, hurry)
        {
            self.has_moved = true;
            if let Some(mut connection) = self.connection.take() {
                connection.say_goodbye();
            }
        }
    }

    /// Asks on this connection, and keeps it if that works.
    async fn ask(&mut self, mut connection: ServerConn) -> Result<Look, String> {
        let asked = Instant::now();
        let (in_recovery, position, flushed) = ask(&mut connection).await?;
        self.node.note_latency(asked.elapsed());
        let lineage = match self.lineage {
            Some((then, lineage, at))
                if then == in_recovery && at.elapsed() < self.lineage_period(lineage) =>
            {
                lineage
            }
            before => {
                let now = ask_lineage(&mut connection).await?;
                // What a standby was seen on once, it is not on less of later; it may have lost its WAL receiver.
                let timeline = match before {
                    Some((true, before, _)) if in_recovery => before.timeline.max(now.timeline),
                    _ => now.timeline,
                };
                let lineage = Lineage { timeline, ..now };
                self.lineage = Some((in_recovery, lineage, Instant::now()));
                lineage
            }
        };
        self.connection = Some(connection);
        Ok(Look { in_recovery, position, flushed, lineage })
    }

    /// How long what it said of its timeline is good for. That of a primary does not change while it runs.
    fn lineage_period(&self, lineage: Lineage) -> Duration {
        if self.lineage.is_some_and(|(in_recovery, ..)| !in_recovery) {
            return Duration::MAX;
        }
        let primaries = self.leaderships.iter().filter_map(|leadership| leadership.primary());
        let is_behind = primaries.into_iter().any(|primary| primary.lineage().timeline != lineage.timeline);
        if is_behind { LINEAGE_PERIOD_UNPROVEN } else { LINEAGE_PERIOD }
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

    fn succeeded(&mut self, look: &Look, ticket: u64, asked: Instant) {
        let now = Instant::now();
        let node = Arc::clone(&self.node);
        let before = (node.state(), node.role());
        self.refusal_told = false;
        node.set_mute(false);
        node.set_position(look.position, asked);
        node.set_observed(look.in_recovery, look.lineage);
        let mut state = NodeState::Up;
        if look.in_recovery {
            let primaries: Vec<_> = self.primaries().collect();
            let lags = primaries.iter().map(|(primary, _)| primary.history.lock().lag(now, look.position));
            if let Some((bytes, late)) = lags.max() {
                node.set_lag(bytes, micros(late));
                // The most that some database bears; beyond it the node serves none.
                let bounds = || primaries.iter().map(|(_, limit)| *limit);
                let limit = if bounds().any(|limit| limit.is_zero()) { None } else { bounds().max() };
                if limit.is_some_and(|limit| late > limit) {
                    state = NodeState::Lagging;
                }
            }
            if self.is_returning(before.0) {
                state = NodeState::Recovering;
            }
            self.grow_share(before.0, state, now);
        } else {
            node.history.lock().record(now, look.flushed);
            node.set_lag(0, 0);
            node.set_share(SHARE_FULL);
            if node.horizon.newest_ticket() > 0 {
                node.horizon.answer(ticket, look.position);
                self.tell_replicas(node.horizon.newest_position());
            }
        }
        self.settle_tables(look, ticket, asked);
        node.set_state(state);
        if before != (state, node.role()) {
            let role = if look.in_recovery { "replica" } else { "primary" };
            let timeline = look.lineage.timeline;
            tracing::info!(node = %node.address, state = state.as_str(), role, timeline, position = %look.position, "node state changed");
        }
        self.reconsider();
    }

    /// Whether a replica that was down has yet to prove itself.
    fn is_returning(&mut self, before: NodeState) -> bool {
        if !matches!(before, NodeState::Down | NodeState::Recovering) {
            return false;
        }
        self.successes = if before == NodeState::Down { 1 } else { self.successes + 1 };
        self.successes < self.topology.config.health.recover_after
    }

    /// A replica that has just come back has cold caches: its share grows from probe to probe.
    fn grow_share(&mut self, before: NodeState, state: NodeState, now: Instant) {
        if state == NodeState::Recovering {
            return;
        }
        if matches!(before, NodeState::Down | NodeState::Recovering) {
            self.returned_at = Some(now);
        }
        let Some(since) = self.returned_at else { return };
        let grown = now.saturating_duration_since(since).as_millis() * u128::from(SHARE_FULL - 1)
            / RETURN_PERIOD.as_millis();
        let share = 1 + u8::try_from(grown).unwrap_or(SHARE_FULL).min(SHARE_FULL - 1);
        self.node.set_share(share);
        if share == SHARE_FULL {
            self.returned_at = None;
        }
    }

    fn failed(&mut self, error: &str) {
        self.connection = None;
        if self.node.set_state(NodeState::Down) != NodeState::Down {
            tracing::warn!(node = %self.node.address, error, "node is down");
        }
        self.reconsider();
    }

    /// It is there, but we cannot look at it: what was seen of it stays, but what its replay position was is too
    /// old to send reads there.
    fn refused(&mut self, error: &str) {
        self.connection = None;
        if !std::mem::replace(&mut self.refusal_told, true) {
            tracing::warn!(node = %self.node.address, error, "node cannot be probed");
        }
        match (self.node.state(), self.node.role()) {
            (NodeState::Up | NodeState::Recovering, Some(Role::Replica)) => {
                self.node.set_state(NodeState::Lagging);
            }
            // Somebody who connected was refused; but it answers.
            (NodeState::Down, _) => {
                self.node.set_state(NodeState::Unknown);
                self.node.set_mute(true);
            }
            (NodeState::Unknown, _) => self.node.set_mute(true),
            _ => {}
        }
        self.reconsider();
    }

    fn reconsider(&self) {
        for leadership in &self.leaderships {
            self.concerned.reconsider(&self.topology, leadership);
        }
    }

    /// Databases in which this node follows another: that one, and the lag that they bear.
    fn primaries(&self) -> impl Iterator<Item = (Arc<Node>, Duration)> {
        let node = Arc::clone(&self.node);
        self.topology.databases().into_iter().filter_map(move |entry| {
            let writer = entry.cluster.writer();
            let follows = !Arc::ptr_eq(writer, &node) && entry.cluster.nodes().any(|n| Arc::ptr_eq(n, &node));
            follows.then(|| (Arc::clone(writer), entry.settings.routing.max_replica_lag))
        })
    }

    /// Tables written to learn how far, and are forgotten once all replicas have got there.
    fn settle_tables(&self, look: &Look, ticket: u64, asked: Instant) {
        for entry in self.topology.databases() {
            let cluster = &entry.cluster;
            if !entry.horizons.is_watched() || !cluster.nodes().any(|node| Arc::ptr_eq(node, &self.node)) {
                continue;
            }
            let lead = cluster.leadership.lead();
            let leads = Arc::ptr_eq(cluster.node(lead.index), &self.node);
            if leads && lead.has_primary() && !look.in_recovery {
                entry.horizons.position_known(ticket, look.position, asked);
            }
            if lead.has_primary() {
                let others = cluster.nodes().enumerate().filter(|(index, _)| *index != lead.index);
                let least = others.map(|(_, node)| node.position()).min();
                entry.horizons.collect(least.unwrap_or_default());
            }
        }
    }

    /// Clients wait for replicas to reach `position`: their probes look closely now.
    fn tell_replicas(&self, position: Lsn) {
        for leadership in &self.leaderships {
            if leadership.primary().is_some_and(|primary| Arc::ptr_eq(primary, &self.node)) {
                for node in leadership.nodes().filter(|node| !Arc::ptr_eq(node, &self.node)) {
                    node.want(position);
                }
            }
        }
    }

    async fn pause(&mut self) {
        let mut interval = self.topology.config.health.interval;
        if self.leaderships.iter().any(|leadership| leadership.is_urgent()) {
            interval = interval.min(URGENT_PERIOD);
        }
        if matches!(self.node.state(), NodeState::Unknown | NodeState::Down | NodeState::Recovering) {
            let node = Arc::clone(&self.node);
            let alarm = poll_fn(|cx| if node.poll_alarm(cx) { Poll::Ready(()) } else { Poll::Pending });
            if timeout(interval, alarm).await.is_ok() {
                // Whatever raises alarms does not make us spin.
                tokio::time::sleep(HORIZON_PERIOD).await;
            }
            return;
        }
        let is_replica = self.node.role() == Some(Role::Replica);
        let node = Arc::clone(&self.node);
        let must_leave = || self.must_leave();
        let wanted = poll_fn(|cx| {
            let wanted = if is_replica { node.poll_wanted(cx) } else { node.horizon.poll_waiting(cx) };
            let alarm = node.poll_alarm(cx);
            if wanted || alarm || must_leave() { Poll::Ready(()) } else { Poll::Pending }
        });
        if timeout(interval, wanted).await.is_err() {
            self.catching_up_since = None;
            return;
        }
        if self.must_leave() {
            return;
        }
        let asked = self.asked.unwrap_or_else(Instant::now);
        if !is_replica {
            // At once if nobody has asked just now.
            return tokio::time::sleep_until((asked + HORIZON_PERIOD).into()).await;
        }
        let position = self.node.position();
        if position > std::mem::replace(&mut self.position_before, position) {
            self.catching_up_since = None;
        }
        let since = *self.catching_up_since.get_or_insert_with(Instant::now);
        if since.elapsed() < CATCH_UP_LIMIT {
            tokio::time::sleep_until((asked + CATCH_UP_PERIOD).into()).await;
        } else {
            // Replay stands still: no use in asking hundreds of times a second.
            tokio::time::sleep(interval.min(Duration::from_millis(100))).await;
        }
    }
}

/// Whether it is in recovery, its position, and what it has flushed.
async fn ask(connection: &mut ServerConn) -> Result<(bool, Lsn, Lsn), String> {
    let rows = connection.simple_query(PROBE).await.map_err(|error| error.to_string())?;
    let row = rows.into_iter().next().unwrap_or_default();
    let mut fields = row.into_iter().map(Option::unwrap_or_default);
    let in_recovery = fields.next().unwrap_or_default() == "t";
    let mut position = || {
        let field = fields.next().unwrap_or_default();
        // A standby that has replayed nothing yet has no position.
        let position = if field.is_empty() { Ok(Lsn(0)) } else { field.parse() };
        position.map_err(|()| "unexpected answer to the probe".to_owned())
    };
    Ok((in_recovery, position()?, position()?))
}

async fn ask_lineage(connection: &mut ServerConn) -> Result<Lineage, String> {
    let rows = match connection.simple_query(LINEAGE).await {
        Err(QueryError::Server { code: SqlState::INSUFFICIENT_PRIVILEGE, .. }) => {
            connection.simple_query(LINEAGE_PLAIN).await
        }
        other => other,
    };
    let rows = rows.map_err(|error| error.to_string())?;
    let row = rows.into_iter().next().unwrap_or_default();
    let mut fields = row.into_iter().map(Option::unwrap_or_default);
    let system = fields.next().unwrap_or_default().parse().unwrap_or(0);
    let timeline = fields.next().unwrap_or_default().parse().unwrap_or(0);
    Ok(Lineage { system, timeline })
}
