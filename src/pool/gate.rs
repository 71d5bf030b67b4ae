//! The admission gate: who may have a server connection, in which order.
//!
//! Invariants, asserted: `idle + leased + opening <= size` unless the size was lowered meanwhile, and
//! nobody waits while a connection is idle.
//!
//! Waiters queue by worker, since a connection that stays with its worker costs no hand-over between
//! threads. The queues are one as far as a client can tell: the front of another queue goes first once it
//! has waited longer than the own front by [`UNFAIR_MAX`].

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::server::ConnectError;

use super::lease::ServerLease;
use super::manager::Pool;

/// Why no server connection was lent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CheckoutError {
    /// All are lent, and none came back in time.
    #[error("no server connection became free within {} ms", .waited.as_millis())]
    Timeout {
        /// How long the client waited.
        waited: Duration,
    },
    /// None could be opened.
    #[error("{0}")]
    Connect(Arc<ConnectError>),
    /// The client sent a cancel request while it waited.
    #[error("canceled while waiting")]
    Canceled,
    /// The pool was closed.
    #[error("the pool was closed")]
    Closed,
    /// The pool's node is no longer the primary: ask for the present one's.
    #[error("another node is the primary now")]
    Moved,
}

/// By how much a client may be overtaken by one of another worker.
const UNFAIR_MAX: Duration = Duration::from_micros(500);

/// Counts and waiters of one pool; under the pool's lock.
#[derive(Debug, Default)]
pub(super) struct Gate {
    pub(super) size: usize,
    pub(super) idle: usize,
    pub(super) leased: usize,
    pub(super) opening: usize,
    pub(super) homes: Box<[Home]>,
    pub(super) closed: bool,
    /// Connections opened before the last change of the epoch are closed when they come back.
    pub(super) epoch_started: Option<Instant>,
    /// Somebody needs the database for himself: nothing is opened, and what comes back is closed.
    pub(super) holds: usize,
    next_waiter: u64,
}

/// What belongs to one worker.
#[derive(Debug, Default)]
pub(super) struct Home {
    /// Idle connections whose sockets it watches.
    pub(super) idle: usize,
    /// Its waiting clients, the oldest first.
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    id: u64,
    /// The worker it lives on.
    pub(super) home: usize,
    pub(super) since: Instant,
    pub(super) sender: oneshot::Sender<Result<Handed, CheckoutError>>,
}

/// A lease on its way to a waiter. If the waiter has gone, the connection (which is clean) goes back.
#[derive(Debug)]
pub(super) struct Handed(Option<ServerLease>);

impl Handed {
    pub(super) fn new(lease: ServerLease) -> Self {
        Self(Some(lease))
    }

    fn take(mut self) -> Option<ServerLease> {
        self.0.take()
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if let Some(lease) = self.0.take() {
            lease.checkin();
        }
    }
}

impl Gate {
    pub(super) fn new(size: usize, workers: usize) -> Self {
        let homes = (0..workers.max(1)).map(|_| Home::default()).collect();
        Self { size, homes, ..Self::default() }
    }

    pub(super) fn total(&self) -> usize {
        self.idle + self.leased + self.opening
    }

    /// A worker with an idle connection: `home` if it has one. It is counted as lent from here on.
    pub(super) fn take_idle(&mut self, home: usize) -> Option<usize> {
        let has = |(_, home): &(usize, &Home)| home.idle > 0;
        let found = match self.homes.get(home) {
            Some(own) if own.idle > 0 => home,
            _ => self.homes.iter().enumerate().filter(has).max_by_key(|(_, home)| home.idle)?.0,
        };
        self.homes.get_mut(found)?.idle -= 1;
        self.idle -= 1;
        self.leased += 1;
        Some(found)
    }

    /// A lent connection is idle again, with this worker.
    pub(super) fn put_idle(&mut self, home: usize) {
        if let Some(home) = self.homes.get_mut(home) {
            home.idle += 1;
            self.idle += 1;
            self.leased -= 1;
        }
    }

    /// `count` idle connections of this worker are gone.
    pub(super) fn lose_idle(&mut self, home: usize, count: usize) {
        if let Some(home) = self.homes.get_mut(home) {
            let count = count.min(home.idle);
            home.idle -= count;
            self.idle -= count;
        }
    }

    pub(super) fn enqueue(
        &mut self,
        home: usize,
        now: Instant,
    ) -> (u64, oneshot::Receiver<Result<Handed, CheckoutError>>) {
        let (sender, receiver) = oneshot::channel();
        self.next_waiter += 1;
        let waiter = Waiter { id: self.next_waiter, home, since: now, sender };
        if let Some(home) = self.homes.get_mut(home) {
            home.waiters.push_back(waiter);
        }
        (self.next_waiter, receiver)
    }

    /// Takes back the waiter that was enqueued last, by the same caller.
    pub(super) fn dequeue(&mut self, home: usize) -> Option<Waiter> {
        self.homes.get_mut(home)?.waiters.pop_back()
    }

    /// Who gets a connection that this worker has: its own oldest waiter, unless another one's is older by
    /// more than a client may notice.
    pub(super) fn next_waiter(&mut self, home: usize) -> Option<Waiter> {
        for home in &mut *self.homes {
            while home.waiters.front().is_some_and(|waiter| waiter.sender.is_closed()) {
                home.waiters.pop_front();
            }
        }
        let fronts = self.homes.iter().enumerate();
        let oldest = fronts.filter_map(|(index, home)| Some((index, home.waiters.front()?.since)));
        let (mut chosen, since) = oldest.min_by_key(|(_, since)| *since)?;
        if let Some(own) = self.homes.get(home).and_then(|own| own.waiters.front())
            && own.since.saturating_duration_since(since) <= UNFAIR_MAX
        {
            chosen = home;
        }
        self.homes.get_mut(chosen)?.waiters.pop_front()
    }

    /// Those who wait.
    pub(super) fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.homes.iter().flat_map(|home| &home.waiters)
    }

    /// Takes out all who wait.
    pub(super) fn drain_waiters(&mut self) -> Vec<Waiter> {
        self.homes.iter_mut().flat_map(|home| home.waiters.drain(..)).collect()
    }

    fn forget_waiter(&mut self, home: usize, id: u64) {
        if let Some(home) = self.homes.get_mut(home) {
            home.waiters.retain(|waiter| waiter.id != id);
        }
    }

    /// How many more connections are to be opened now.
    pub(super) fn openings_wanted(&self) -> usize {
        if self.closed || self.holds > 0 {
            return 0;
        }
        let room = self.size.saturating_sub(self.total());
        let waiting: usize = self.homes.iter().map(|home| home.waiters.len()).sum();
        waiting.saturating_sub(self.opening).min(room)
    }
}

/// A place in the queue. Dropping it gives the place up.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Waiting {
    pool: Arc<Pool>,
    home: usize,
    id: u64,
    receiver: oneshot::Receiver<Result<Handed, CheckoutError>>,
    done: bool,
}

impl Waiting {
    pub(super) fn new(
        pool: Arc<Pool>,
        home: usize,
        id: u64,
        receiver: oneshot::Receiver<Result<Handed, CheckoutError>>,
    ) -> Self {
        // Whoever waits is load, too: with all connections lent, the shorter queue is the better one.
        pool.node.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { pool, home, id, receiver, done: false }
    }
}

impl Future for Waiting {
    type Output = Result<ServerLease, CheckoutError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(result) = Pin::new(&mut self.receiver).poll(cx) else { return Poll::Pending };
        self.done = true;
        Poll::Ready(match result {
            Ok(Ok(handed)) => handed.take().ok_or(CheckoutError::Closed).map(|mut lease| {
                lease.settle_here();
                lease
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(CheckoutError::Closed),
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pool.node.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.done {
            return;
        }
        let mut gate = self.pool.gate.lock();
        gate.forget_waiter(self.home, self.id);
        // A lease that was sent but not received is in `receiver`: `Handed` returns it, after the unlock.
        drop(gate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(arrivals: &[(usize, u64)]) -> (Gate, Vec<oneshot::Receiver<Result<Handed, CheckoutError>>>) {
        let (mut gate, start) = (Gate::new(4, 2), Instant::now());
        let receivers = arrivals
            .iter()
            .map(|(home, micros)| gate.enqueue(*home, start + Duration::from_micros(*micros)).1)
            .collect();
        (gate, receivers)
    }

    #[test]
    fn a_connection_goes_to_the_own_oldest_waiter_unless_that_would_be_noticed() {
        let (mut gate, _receivers) = gate(&[(1, 0), (0, 400), (0, 410), (1, 2_000)]);
        let mut next = |home| gate.next_waiter(home).map(|waiter| waiter.id);
        assert_eq!(next(0), Some(2), "0.4 ms are not noticed");
        assert_eq!(next(0), Some(3));
        assert_eq!(next(0), Some(1), "nobody of its own is left");
        assert_eq!(next(0), Some(4));
        assert_eq!(next(0), None);
    }

    #[test]
    fn nobody_is_overtaken_for_long() {
        let (mut gate, _receivers) = gate(&[(1, 0), (0, 501)]);
        assert_eq!(gate.next_waiter(0).map(|waiter| waiter.id), Some(1));
    }

    #[test]
    fn those_who_have_gone_are_passed_over() {
        let (mut gate, mut receivers) = gate(&[(0, 0), (1, 1), (0, 2)]);
        drop(receivers.remove(0));
        drop(receivers.remove(0));
        assert_eq!(gate.next_waiter(1).map(|waiter| waiter.id), Some(3));
    }

    #[test]
    fn idle_connections_are_taken_from_the_own_worker_first() {
        let mut gate = Gate::new(4, 3);
        gate.leased = 4;
        for home in [0, 2, 2, 1] {
            gate.put_idle(home);
        }
        assert_eq!((gate.idle, gate.leased), (4, 0));
        assert_eq!(gate.take_idle(0), Some(0));
        assert_eq!(gate.take_idle(0), Some(2), "then from who has most");
        assert_eq!((gate.idle, gate.leased, gate.total()), (2, 2, 4));
        gate.lose_idle(2, 5);
        assert_eq!((gate.idle, gate.take_idle(2)), (1, Some(1)));
    }
}
