//! One pool: the store (`deadpool`) that makes connections, and the gate that lends them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use deadpool::managed::{self, Metrics, Object, RecycleResult, Timeouts};
use parking_lot::Mutex;

use crate::clients::ClientId;
use crate::cluster::{Node, NodeState};
use crate::config::PoolSettings;
use crate::server::{ConnectError, ServerConn, ServerInfo, ServerTarget};
use crate::shard::ShardNumber;
use crate::task::{self, Moment, micros};

use super::gate::{CheckoutError, Gate, Waiter, Waiting};
use super::lease::ServerLease;
use super::stats::PoolStats;
use super::ticket::{Handed, Ticket};

/// After a failed attempt to open a connection, while others of the pool are alive.
const REOPEN_DELAY: Duration = Duration::from_millis(250);

/// A pool that is kept by its clients is told of in the log, but not at every pin.
const PIN_WARNING_PERIOD: Duration = Duration::from_mins(1);

/// What a pool is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolKey {
    /// Database as clients name it.
    pub database: String,
    /// Which shard of it, where it is sharded.
    pub shard: Option<ShardNumber>,
    /// User as clients name it.
    pub user: String,
    /// The node, as shown.
    pub node: String,
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.database)?;
        if let Some(shard) = self.shard {
            write!(f, "[{shard}]")?;
        }
        write!(f, "/{}@{}", self.user, self.node)
    }
}

/// How many connections are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// In the pool.
    pub idle: usize,
    /// Lent.
    pub leased: usize,
    /// Being opened.
    pub opening: usize,
    /// Clients that wait.
    pub waiting: usize,
    /// How long the oldest of them has waited.
    pub oldest_wait: Duration,
}

/// Makes connections for `deadpool`.
#[derive(Debug)]
pub struct Manager {
    target: ServerTarget,
}

/// A connection of the store. Boxed: it moves through futures, and a pointer moves for free.
pub(super) type Stored = Box<Object<Manager>>;

impl managed::Manager for Manager {
    type Type = ServerConn;
    type Error = ConnectError;

    async fn create(&self) -> Result<ServerConn, ConnectError> {
        ServerConn::connect(&self.target).await
    }

    async fn recycle(&self, _: &mut ServerConn, _: &Metrics) -> RecycleResult<ConnectError> {
        // Never asked: what is idle is kept by the gate, and what leaves it is closed.
        Ok(())
    }
}

/// Server connections of one user to one database on one node.
#[derive(Debug)]
pub struct Pool {
    /// What it is for.
    pub key: PoolKey,
    /// The node it connects to.
    pub node: Arc<Node>,
    /// Counters.
    pub stats: PoolStats,
    /// Connections that clients keep outside transactions.
    pins: AtomicUsize,
    warned_of_pins: Mutex<Option<Instant>>,
    /// `pool.debug_check`.
    check: AtomicBool,
    /// `pool.debug_rotate`, where it costs nothing to look at.
    rotate: AtomicBool,
    settings: ArcSwap<PoolSettings>,
    /// How many of the workers are told apart.
    workers: usize,
    store: managed::Pool<Manager>,
    pub(super) gate: Mutex<Gate>,
    servers: Mutex<HashMap<u64, Arc<ServerInfo>>>,
    target: ServerTarget,
}

impl Pool {
    /// An empty pool for so many workers; connections are opened when they are asked for.
    pub fn new(
        key: PoolKey,
        node: Arc<Node>,
        target: ServerTarget,
        settings: PoolSettings,
        workers: usize,
    ) -> Arc<Self> {
        let size = settings.size.max(1);
        Arc::new(Self {
            key,
            node,
            stats: PoolStats::new(workers),
            pins: AtomicUsize::new(0),
            warned_of_pins: Mutex::default(),
            check: AtomicBool::new(settings.debug_check),
            rotate: AtomicBool::new(settings.debug_rotate),
            settings: ArcSwap::from_pointee(settings),
            workers: workers.max(1),
            store: store(&target, size),
            gate: Mutex::new(Gate::new(size, workers)),
            servers: Mutex::default(),
            target,
        })
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<PoolSettings> {
        self.settings.load_full()
    }

    /// Where it connects, and as whom.
    pub fn target(&self) -> &ServerTarget {
        &self.target
    }

    /// Puts new settings in force; connections over a smaller size are closed, those lent as they come back.
    pub fn reconfigure(self: &Arc<Self>, settings: PoolSettings) {
        let mut surplus = Vec::new();
        let mut gate = self.gate.lock();
        gate.size = settings.size.max(1);
        self.rotate.store(settings.debug_rotate, Ordering::Relaxed);
        self.check.store(settings.debug_check, Ordering::Relaxed);
        self.settings.store(Arc::new(settings));
        while gate.total() > gate.size + surplus.len()
            && let Some(object) = take_idle(&mut gate, self.here())
        {
            surplus.push(ServerLease::new(object, Arc::clone(self)));
        }
        self.store.resize(gate.size);
        self.open_for_waiters(&mut gate);
        drop(gate);
        // Leases that are dropped close their connections.
        drop(surplus);
    }

    /// An idle connection, if there is one and nobody waits. Never blocks. `last` is the number of the one
    /// that the client had before.
    pub fn try_checkout(self: &Arc<Self>, last: u64) -> Option<ServerLease> {
        let lease = self.try_idle()?;
        if self.rotate.load(Ordering::Relaxed) && lease.identity().id == last {
            let other = self.try_idle();
            if other.is_none() {
                self.open_another();
            }
            return match other {
                Some(other) => {
                    lease.checkin();
                    Some(other)
                }
                None => Some(lease),
            };
        }
        Some(lease)
    }

    /// So that there is one to rotate to.
    fn open_another(self: &Arc<Self>) {
        let mut gate = self.gate.lock();
        if !gate.closed && gate.holds == 0 && gate.total() < gate.size.min(2) {
            self.open_soon(&mut gate, Duration::ZERO);
        }
    }

    /// Whether `pool.debug_check` is on.
    pub fn checks(&self) -> bool {
        self.check.load(Ordering::Relaxed)
    }

    /// Connections that clients keep outside transactions.
    pub fn pinned(&self) -> usize {
        self.pins.load(Ordering::Relaxed)
    }

    /// A client begins to keep one of our connections. Answers how many do; warns when half of the pool is
    /// kept, since the rest serves everybody else.
    pub fn pin_begins(&self) -> usize {
        let pins = self.pins.fetch_add(1, Ordering::Relaxed) + 1;
        let size = self.settings.load().size;
        if pins * 2 > size {
            let mut warned = self.warned_of_pins.lock();
            if warned.is_none_or(|at| at.elapsed() >= PIN_WARNING_PERIOD) {
                *warned = Some(Instant::now());
                tracing::warn!(pool = %self.key, pins, size, "more than half of a pool is kept by clients for their session state; SHOW PINS tells why");
            }
        }
        pins
    }

    /// A client gives one back.
    pub fn pin_ends(&self) {
        self.pins.fetch_sub(1, Ordering::Relaxed);
    }

    fn try_idle(self: &Arc<Self>) -> Option<ServerLease> {
        loop {
            let object = {
                let mut gate = self.gate.lock();
                if gate.closed {
                    return None;
                }
                let object = take_idle(&mut gate, self.here())?;
                debug_assert!(gate.waiters().next().is_none(), "nobody waits while a connection is idle");
                object
            };
            let mut lease = ServerLease::new(object, Arc::clone(self));
            if lease.is_alive() {
                lease.settle_here();
                return Some(lease);
            }
            // Dead while idle: the drop closes it; look at the next.
            lease.mark_broken();
        }
    }

    /// The present worker, as far as this pool tells them apart.
    fn here(&self) -> usize {
        task::home().min(self.workers - 1)
    }

    /// A place in the queue for a connection; opens one in the background if there is room. If there is none, it is
    /// a place in the queues of `others`, too: whichever has a connection first serves the client.
    pub fn enqueue(self: &Arc<Self>, others: &[Arc<Self>], now: Instant) -> Waiting {
        let ticket = Arc::new(Ticket::default());
        let is_full = self.join(&ticket, true, now);
        if is_full {
            for other in others {
                if !other.join(&ticket, false, now) {
                    break;
                }
            }
        }
        Waiting::new(Arc::clone(self), ticket)
    }

    /// Takes a place in the queue, or the connection that is there; whether another queue is worth standing in, too.
    fn join(self: &Arc<Self>, ticket: &Arc<Ticket>, is_at_home: bool, now: Instant) -> bool {
        let home = self.here();
        ticket.joins();
        let mut gate = self.gate.lock();
        if gate.closed {
            drop(gate);
            ticket.refuse(CheckoutError::Closed);
            return true;
        }
        if gate.idle > 0 {
            // One came back between the caller's look and this one.
            let object = if ticket.call() { take_idle(&mut gate, home) } else { return false };
            drop(gate);
            let lease = object.map(|object| Handed::new(ServerLease::new(object, Arc::clone(self))));
            ticket.answer(lease.ok_or(CheckoutError::Closed));
            return false;
        }
        gate.enqueue(Waiter { ticket: Arc::clone(ticket), home, since: now, is_at_home });
        self.open_for_waiters(&mut gate);
        gate.opening == 0
    }

    /// A clean connection comes back: to the oldest waiter, or into the store.
    pub(super) fn take_back(self: &Arc<Self>, mut object: Stored, now: Moment) {
        let home = object.home;
        let mut gate = self.gate.lock();
        let over = gate.total() > gate.size || gate.closed || gate.holds > 0;
        if over || is_old(&object, gate.epoch_started, now) {
            drop(gate);
            drop(ServerLease::new(object, Arc::clone(self)));
            return;
        }
        if let Some(waiter) = gate.call_next(home) {
            object.home = waiter.home;
            // Stays `leased`. Sent after the unlock: a waiter that has gone returns it through here.
            drop(gate);
            waiter.ticket.answer(Ok(Handed::new(ServerLease::new(object, Arc::clone(self)))));
            return;
        }
        object.idle_since = now;
        object.identity().come_back();
        object.wire.release_buffers();
        gate.put_idle(home, object);
    }

    /// A leased connection is gone.
    pub(super) fn lease_ended(self: &Arc<Self>) {
        let mut gate = self.gate.lock();
        gate.leased = gate.leased.saturating_sub(1);
        self.open_for_waiters(&mut gate);
    }

    pub(super) fn forget(&self, connection: &ServerConn) {
        self.servers.lock().remove(&connection.identity().id);
    }

    fn open_for_waiters(self: &Arc<Self>, gate: &mut Gate) {
        for _ in 0..gate.openings_wanted() {
            self.open_soon(gate, Duration::ZERO);
        }
    }

    /// Opens connections until `min_size` is reached; the reaper calls it.
    pub(super) fn open_to_minimum(self: &Arc<Self>) {
        let minimum = self.settings.load().min_size;
        let mut gate = self.gate.lock();
        while !gate.closed && gate.holds == 0 && gate.total() < minimum.min(gate.size) {
            self.open_soon(&mut gate, Duration::ZERO);
        }
    }

    /// Opens one connection in the background. Apart from its callers, as [`task::boxed`] says.
    #[cold]
    #[inline(never)]
    fn open_soon(self: &Arc<Self>, gate: &mut Gate, delay: Duration) {
        gate.opening += 1;
        let pool = Arc::clone(self);
        task::spawn("open server connection", async move { pool.open(delay).await });
    }

    /// Opens one connection, which is counted in `gate.opening` already, and gives it to the oldest waiter.
    async fn open(self: Arc<Self>, delay: Duration) {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        {
            let mut gate = self.gate.lock();
            if gate.idle > 0 {
                // One came back meanwhile, so nobody waits.
                gate.opening -= 1;
                return;
            }
        }
        match self.store.get().await {
            Ok(object) => {
                let mut object = Box::new(object);
                object.home = self.here();
                self.stats.add(|stats| &stats.opened, 1);
                let lifetime = self.settings.load().max_lifetime;
                object.retire_at = (!lifetime.is_zero())
                    .then(|| object.identity().opened() + jittered(lifetime, object.identity().id));
                self.servers.lock().insert(object.identity().id, Arc::clone(&object.info));
                {
                    let mut gate = self.gate.lock();
                    gate.opening -= 1;
                    gate.leased += 1;
                }
                ServerLease::new(object, Arc::clone(&self)).checkin();
            }
            Err(error) => self.open_failed(error),
        }
    }

    fn open_failed(self: &Arc<Self>, error: managed::PoolError<ConnectError>) {
        self.stats.add(|stats| &stats.open_failures, 1);
        let error = match error {
            managed::PoolError::Backend(error) => CheckoutError::Connect(Arc::new(error)),
            _ => CheckoutError::Closed,
        };
        if let CheckoutError::Connect(cause) = &error {
            if cause.is_node_down() && self.node.set_state(NodeState::Down) != NodeState::Down {
                tracing::warn!(node = %self.node.address, error = %cause, "node is down");
            } else {
                // The client is told; a name that does not exist is nothing to wake anybody for.
                tracing::info!(pool = %self.key, error = %cause, "could not open a server connection");
            }
        }
        let mut gate = self.gate.lock();
        gate.opening -= 1;
        if gate.idle + gate.leased > 0 && !matches!(error, CheckoutError::Closed) {
            // Others are alive and will come back; try again for those who wait, but not in a hurry.
            if gate.openings_wanted() > 0 {
                self.open_soon(&mut gate, REOPEN_DELAY);
            }
            return;
        }
        // Nobody can be served: tell all who wait.
        let waiters = gate.drain_waiters();
        drop(gate);
        for waiter in waiters {
            waiter.ticket.refuse(error.clone());
        }
    }

    /// Closes idle connections that are too old, idle for too long, or dead.
    pub(super) fn reap(&self, now: Moment) {
        let settings = self.settings.load();
        let idle_timeout = micros(settings.idle_timeout);
        let mut gate = self.gate.lock();
        let mut spare = gate.total().saturating_sub(settings.min_size);
        let epoch = gate.epoch_started;
        let closing = gate.remove_idle(|connection| {
            let unused = idle_timeout > 0 && now.micros_since(connection.idle_since) >= idle_timeout;
            let close = is_old(connection, epoch, now) || !connection.is_alive() || (unused && spare > 0);
            if close {
                spare = spare.saturating_sub(1);
            }
            close
        });
        // Out of the store before the gate lets others open as many.
        let closing: Vec<_> = closing.into_iter().map(|object| Object::take(*object)).collect();
        drop(gate);
        for mut connection in closing {
            connection.say_goodbye();
            self.stats.add(|stats| &stats.closed, 1);
            self.forget(&connection);
        }
    }

    /// Closes idle connections now and the others when they come back; new ones are opened as needed.
    pub fn renew(&self) {
        let now = Moment::now();
        self.gate.lock().epoch_started = Some(now);
        self.reap(now);
    }

    /// Sends away who waits, to look for another node.
    pub fn send_away(&self) {
        let waiters = self.gate.lock().drain_waiters();
        for waiter in waiters {
            waiter.ticket.refuse(CheckoutError::Moved);
        }
    }

    /// Its node is no longer the primary: connections from before are closed, the idle ones at once, and who
    /// waits is sent away. The clients who hold connections.
    pub fn leave_primary(&self) -> Vec<ClientId> {
        self.send_away();
        self.renew();
        // A session that is not seen below sees that the roles have changed.
        fence(Ordering::SeqCst);
        self.servers().into_iter().filter_map(|info| info.identity.client()).collect()
    }

    /// Closes idle connections and opens none while the answer lives: clients wait. For commands that need
    /// the database for themselves.
    pub fn hold(self: &Arc<Self>) -> Hold {
        self.gate.lock().holds += 1;
        self.renew();
        Hold(Arc::clone(self))
    }

    /// Closes the pool: waiters are told, idle connections closed, the others when they come back.
    pub fn close(&self) {
        let waiters = {
            let mut gate = self.gate.lock();
            gate.closed = true;
            gate.drain_waiters()
        };
        for waiter in waiters {
            waiter.ticket.refuse(CheckoutError::Closed);
        }
        self.renew();
    }

    /// Where its connections are.
    pub fn counts(&self, now: Instant) -> PoolCounts {
        let gate = self.gate.lock();
        PoolCounts {
            idle: gate.idle,
            leased: gate.leased,
            opening: gate.opening,
            waiting: gate.waiters().filter(|waiter| waiter.is_at_home).count(),
            oldest_wait: gate
                .waiters()
                .filter(|waiter| waiter.is_at_home)
                .map(|waiter| now.saturating_duration_since(waiter.since))
                .max()
                .unwrap_or_default(),
        }
    }

    /// Its server connections, by number.
    pub fn servers(&self) -> Vec<Arc<ServerInfo>> {
        let mut all: Vec<_> = self.servers.lock().values().cloned().collect();
        all.sort_by_key(|info| info.identity.id);
        all
    }
}

/// What makes connections and holds their number to the size. None ever goes back into it: the gate keeps them.
#[allow(clippy::expect_used, reason = "the builder fails only without a runtime")]
fn store(target: &ServerTarget, size: usize) -> managed::Pool<Manager> {
    let config = managed::PoolConfig {
        max_size: size,
        timeouts: Timeouts { wait: Some(Duration::ZERO), create: None, recycle: None },
        ..managed::PoolConfig::default()
    };
    managed::Pool::builder(Manager { target: target.clone() })
        .config(config)
        .runtime(deadpool::Runtime::Tokio1)
        .build()
        .expect("a runtime is given, and nothing else can fail")
}

/// Keeps a pool without connections; see [`Pool::hold`].
#[derive(Debug)]
#[must_use = "dropping it lets the pool open connections again"]
pub struct Hold(Arc<Pool>);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut gate = self.0.gate.lock();
        gate.holds -= 1;
        self.0.open_for_waiters(&mut gate);
    }
}

/// An idle connection, preferably one of `home`; it belongs to `home` afterwards.
fn take_idle(gate: &mut Gate, home: usize) -> Option<Stored> {
    let mut object = gate.take_idle(home)?;
    object.home = home;
    Some(object)
}

/// Whether its age is over, or it is of before the epoch.
fn is_old(connection: &ServerConn, epoch: Option<Moment>, now: Moment) -> bool {
    connection.retire_at.is_some_and(|at| at <= now)
        || epoch.is_some_and(|epoch| connection.identity().opened() <= epoch)
}

/// Between 80 and 100 % of `lifetime`, so that connections opened together do not close together.
fn jittered(lifetime: Duration, seed: u64) -> Duration {
    let spread = (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u32 % 201;
    lifetime * (800 + spread) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_spread_and_never_longer_than_asked_for() {
        let hour = Duration::from_hours(1);
        let lifetimes: std::collections::BTreeSet<_> = (0..50).map(|seed| jittered(hour, seed)).collect();
        assert!(lifetimes.len() > 20, "connections opened together do not close together");
        assert!(lifetimes.iter().all(|lifetime| (hour * 8 / 10..=hour).contains(lifetime)));
    }
}
