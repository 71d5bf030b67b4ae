//! One PostgreSQL server and what is known of it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::Context;
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

use parking_lot::Mutex;

use crate::task::{AtomicMoment, Moment};

use super::endpoint::Endpoint;
use super::horizon::WriteHorizon;
use super::lag::History;
use super::lsn::Lsn;
use super::roles::{Lineage, Sight};

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeAddress {
    /// Host name, address, or directory of a unix socket.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl NodeAddress {
    /// Whether the host is a name: not an address, not the directory of a unix socket.
    pub fn is_name(&self) -> bool {
        !self.host.starts_with('/') && self.host.parse::<IpAddr>().is_err()
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What a node does, as last observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes writes.
    Primary,
    /// In recovery: reads only.
    Replica,
}

/// Whether a node may be used. Each state lists its exits; besides, a refused or reset connection and a probe
/// that fails move every state to `Down` at once. A pool that is full, and a server that is, move nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Not probed yet. Left by the first probe.
    Unknown,
    /// Answers. A replica leaves it for `Lagging` when it is too far behind.
    Up,
    /// Answers, but too far behind for reads. Left for `Up` by a probe that finds it near enough.
    Lagging,
    /// Does not answer. Left by a successful probe: a primary for `Up`, a replica for `Recovering`.
    Down,
    /// A replica that answers again. Left for `Up` after `health.recover_after` successful probes in a row.
    Recovering,
}

impl NodeState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Unknown, Self::Up, Self::Lagging, Self::Down, Self::Recovering];

    /// The name shown in the console and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Lagging => "lagging",
            Self::Down => "down",
            Self::Recovering => "recovering",
        }
    }
}

/// All of a node's share, in eighths.
pub const SHARE_FULL: u8 = 8;

/// A node; shared by all databases on it.
#[derive(Debug)]
pub struct Node {
    /// Where it is.
    pub address: NodeAddress,
    /// Which of the addresses of its name is meant.
    pub endpoint: Arc<Endpoint>,
    state: AtomicU8,
    in_recovery: AtomicBool,
    /// It has answered and refused the probe's login.
    is_mute: AtomicBool,
    /// Whether it is in recovery, and its system and timeline: seen together, told together.
    observed: Mutex<(bool, Lineage)>,
    /// Eighths of its share that it gets, after its return.
    share: AtomicU8,
    is_banned: AtomicBool,
    /// The probe is to look now.
    alarm: AtomicBool,
    alarm_waker: AtomicWaker,
    /// Position written (primary) or replayed (replica), as of the last probe.
    position: AtomicU64,
    /// When the probe that read it asked.
    asked: AtomicMoment,
    lag_bytes: AtomicU64,
    lag_micros: AtomicU64,
    /// Microseconds to the answer to a probe, at best; zero before the first.
    latency_micros: AtomicU32,
    /// Its server connections that are lent, and the clients that wait for one.
    pub in_flight: AtomicU32,
    /// Statements sent to it so far.
    pub statements: AtomicU64,
    /// Times it was found down.
    pub failures: AtomicU64,
    /// Commits of clients on this primary; unused on replicas.
    pub horizon: WriteHorizon,
    /// On replicas: a position that clients wait to see replayed.
    wanted: AtomicU64,
    wanted_waker: AtomicWaker,
    /// On primaries: where it was, and when.
    pub history: Mutex<History>,
    /// Databases that somebody needs for himself; a name stands here once for each.
    vacated: Mutex<Vec<String>>,
}

impl Node {
    /// A node that nothing is known of.
    pub fn new(address: NodeAddress) -> Self {
        Self {
            address,
            endpoint: Arc::default(),
            state: AtomicU8::new(0),
            in_recovery: AtomicBool::new(false),
            is_mute: AtomicBool::new(false),
            observed: Mutex::default(),
            share: AtomicU8::new(SHARE_FULL),
            is_banned: AtomicBool::new(false),
            alarm: AtomicBool::new(false),
            alarm_waker: AtomicWaker::new(),
            position: AtomicU64::new(0),
            asked: AtomicMoment::default(),
            lag_bytes: AtomicU64::new(0),
            lag_micros: AtomicU64::new(0),
            latency_micros: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            statements: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            horizon: WriteHorizon::default(),
            wanted: AtomicU64::new(0),
            wanted_waker: AtomicWaker::new(),
            history: Mutex::default(),
            vacated: Mutex::default(),
        }
    }

    /// Whether it may be used.
    pub fn state(&self) -> NodeState {
        match self.state.load(Ordering::Acquire) {
            1 => NodeState::Up,
            2 => NodeState::Lagging,
            3 => NodeState::Down,
            4 => NodeState::Recovering,
            _ => NodeState::Unknown,
        }
    }

    /// Sets the state; returns the one before.
    pub fn set_state(&self, state: NodeState) -> NodeState {
        let before = self.state();
        let code = match state {
            NodeState::Unknown => 0,
            NodeState::Up => 1,
            NodeState::Lagging => 2,
            NodeState::Down => 3,
            NodeState::Recovering => 4,
        };
        self.state.store(code, Ordering::Release);
        if state == NodeState::Down && before != NodeState::Down {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        before
    }

    /// The role as last observed; `None` before the first successful probe.
    pub fn role(&self) -> Option<Role> {
        match self.state() {
            NodeState::Unknown => None,
            _ if self.in_recovery.load(Ordering::Acquire) => Some(Role::Replica),
            _ => Some(Role::Primary),
        }
    }

    /// Records whether the node said that it is in recovery, its system and its timeline. The state is to be set
    /// afterwards.
    pub fn set_observed(&self, in_recovery: bool, lineage: Lineage) {
        *self.observed.lock() = (in_recovery, lineage);
        self.in_recovery.store(in_recovery, Ordering::Release);
    }

    /// Records whether the node has answered and refused the probe's login.
    pub fn set_mute(&self, is_mute: bool) {
        self.is_mute.store(is_mute, Ordering::Release);
    }

    /// Its system and timeline, as of the last probe that asked.
    pub fn lineage(&self) -> Lineage {
        self.observed.lock().1
    }

    /// What the probes see of it, for the decision who is the primary.
    pub fn sight(&self) -> Sight {
        match self.state() {
            NodeState::Down => Sight::Down,
            NodeState::Unknown if self.is_mute.load(Ordering::Acquire) => Sight::Mute,
            NodeState::Unknown => Sight::Unseen,
            NodeState::Up | NodeState::Lagging | NodeState::Recovering => match *self.observed.lock() {
                (true, lineage) => Sight::Standby(lineage),
                (false, lineage) => Sight::Primary(lineage),
            },
        }
    }

    /// Sets how many eighths of its share of the reads it gets.
    pub fn set_share(&self, eighths: u8) {
        self.share.store(eighths.min(SHARE_FULL), Ordering::Release);
    }

    /// Whether it takes part in the choice of a replica this turn: one that has come back does so seldom first.
    pub fn takes_part(&self, turn: u32) -> bool {
        let share = self.share.load(Ordering::Acquire);
        share >= SHARE_FULL || turn % u32::from(SHARE_FULL) < u32::from(share)
    }

    /// An operator keeps reads away from it, or lets them come again.
    pub fn ban(&self, is_banned: bool) {
        self.is_banned.store(is_banned, Ordering::Release);
    }

    /// Whether an operator keeps reads away from it.
    pub fn is_banned(&self) -> bool {
        self.is_banned.load(Ordering::Acquire)
    }

    /// Asks the probe to look at once.
    pub fn wake_probe(&self) {
        self.alarm.store(true, Ordering::Release);
        self.alarm_waker.wake();
    }

    /// Whether the probe was asked to look at once; if not, the task is woken when it is.
    pub fn poll_alarm(&self, cx: &Context<'_>) -> bool {
        self.alarm_waker.register(cx.waker());
        self.alarm.swap(false, Ordering::AcqRel)
    }

    /// Position written or replayed; a lower bound, since the node has gone on since.
    pub fn position(&self) -> Lsn {
        Lsn(self.position.load(Ordering::Acquire))
    }

    /// Records a position that was asked for at `asked`; it may go back when the node was rebuilt or has crashed.
    pub fn set_position(&self, position: Lsn, asked: Instant) {
        // The position first: whoever sees the time sees this position or a later one.
        self.position.store(position.0, Ordering::Release);
        self.asked.store(Moment::of(asked), Ordering::Release);
    }

    /// The position as it holds for a connection that was opened at `opened` and lives: a server that has crashed
    /// in between may show less than it did. `None`: nobody has asked since.
    pub fn position_since(&self, opened: Moment) -> Option<Lsn> {
        (self.asked.load(Ordering::Acquire) > opened).then(|| self.position())
    }

    /// Asks the probe of this replica to watch closely until it has replayed `position`.
    pub fn want(&self, position: Lsn) {
        self.wanted.fetch_max(position.0, Ordering::AcqRel);
        self.wanted_waker.wake();
    }

    /// Whether clients wait for this replica; if not, the task is woken when they do.
    pub fn poll_wanted(&self, cx: &Context<'_>) -> bool {
        self.wanted_waker.register(cx.waker());
        self.wanted.load(Ordering::Acquire) > self.position.load(Ordering::Acquire)
    }

    /// Forgets what was wanted, when it belongs to another history of the database.
    pub fn forget_wanted(&self) {
        self.wanted.store(0, Ordering::Release);
    }

    /// Somebody needs this database for himself: the probe goes elsewhere until [`Self::vacate_ends`].
    pub fn vacate(&self, database: &str) {
        self.vacated.lock().push(database.to_owned());
        self.wanted_waker.wake();
        self.horizon.wake();
    }

    /// The database may be used again.
    pub fn vacate_ends(&self, database: &str) {
        let mut vacated = self.vacated.lock();
        if let Some(at) = vacated.iter().position(|name| name == database) {
            vacated.swap_remove(at);
        }
    }

    /// Whether somebody needs any database for himself.
    pub fn vacates_any(&self) -> bool {
        !self.vacated.lock().is_empty()
    }

    /// Whether somebody needs this database for himself.
    pub fn is_vacated(&self, database: &str) -> bool {
        self.vacated.lock().iter().any(|name| name == database)
    }

    /// Microseconds to an answer, at best; zero if there was none yet.
    pub fn latency(&self) -> u32 {
        self.latency_micros.load(Ordering::Relaxed)
    }

    /// A probe was answered after this time.
    pub fn note_latency(&self, took: Duration) {
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let before = self.latency();
        // The way there, not how busy the two ends are: down at once, up in the order of sixteen probes.
        let best = if before == 0 || took < before { took } else { before + (took - before) / 16 };
        self.latency_micros.store(best, Ordering::Relaxed);
    }

    /// Bytes behind the primary, and microseconds, as of the last probe.
    pub fn lag(&self) -> (u64, u64) {
        (self.lag_bytes.load(Ordering::Relaxed), self.lag_micros.load(Ordering::Relaxed))
    }

    /// Records the lag.
    pub fn set_lag(&self, bytes: u64, micros: u64) {
        self.lag_bytes.store(bytes, Ordering::Relaxed);
        self.lag_micros.store(micros, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str) -> Node {
        Node::new(NodeAddress { host: host.to_owned(), port: 5432 })
    }

    #[test]
    fn a_node_that_has_come_back_takes_part_more_and_more() {
        let node = node("db");
        let turns = |node: &Node| (0..80).filter(|turn| node.takes_part(*turn)).count();
        assert_eq!(turns(&node), 80);
        let grown: Vec<_> = [1, 2, 7, 8, 200]
            .iter()
            .map(|share| {
                node.set_share(*share);
                turns(&node)
            })
            .collect();
        assert_eq!(grown, [10, 20, 70, 80, 80]);
    }

    #[test]
    fn what_is_seen_of_it() {
        let node = node("db");
        assert_eq!(node.sight(), Sight::Unseen);
        node.set_mute(true);
        assert_eq!(node.sight(), Sight::Mute);
        let lineage = Lineage { system: 1, timeline: 2 };
        node.set_observed(true, lineage);
        node.set_state(NodeState::Recovering);
        assert_eq!(node.sight(), Sight::Standby(lineage));
        node.set_observed(false, lineage);
        node.set_state(NodeState::Up);
        assert_eq!(node.sight(), Sight::Primary(lineage));
        node.set_state(NodeState::Down);
        assert_eq!(node.sight(), Sight::Down);
    }

    #[test]
    fn names_are_told_from_addresses() {
        let is_name = |host| node(host).address.is_name();
        assert!(is_name("db-0.example") && is_name("localhost"));
        assert!(!is_name("10.0.0.1") && !is_name("::1") && !is_name("/run/postgresql"));
    }
}
