//! The admission gate: who may have a server connection, in which order.
//!
//! Invariants, asserted: `idle + leased + opening <= size` unless the size was lowered meanwhile, and
//! nobody waits while a connection is idle.
//!
//! A read that several replicas can serve waits in the queues of all of them (see `ticket`).
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

use crate::server::ConnectError;
use crate::task::Moment;

use super::lease::ServerLease;
use super::manager::{Pool, Stored};
use super::ticket::Ticket;

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

/// As long as a queue is shorter, those in it whose turn is past are no matter.
const CROWD_MIN: usize = 64;

/// By how much a client may be overtaken by one of another worker.
const UNFAIR_MAX: Duration = Duration::from_micros(500);

/// Idle connections, counts and waiters of one pool; under the pool's lock.
#[derive(Debug)]
pub(super) struct Gate<C = Stored> {
    pub(super) size: usize,
    pub(super) idle: usize,
    pub(super) leased: usize,
    pub(super) opening: usize,
    pub(super) homes: Box<[Home<C>]>,
    pub(super) closed: bool,
    /// Connections opened before the last change of the epoch are closed when they come back.
    pub(super) epoch_started: Option<Moment>,
    /// Somebody needs the database for himself: nothing is opened, and what comes back is closed.
    pub(super) holds: usize,
}

/// What belongs to one worker.
#[derive(Debug)]
pub(super) struct Home<C> {
    /// Idle connections whose sockets it watches, the most recently used one last: it is lent first, since its caches are
    /// warm, and the rest can age out.
    idle: Vec<C>,
    /// Its waiting clients, the oldest first, and some whose turn is past.
    waiters: VecDeque<Waiter>,
    /// With so many of them those are looked for whose turn is past.
    crowd: usize,
}

impl<C> Home<C> {
    fn new() -> Self {
        Self { idle: Vec::new(), waiters: VecDeque::new(), crowd: 0 }
    }

    fn enqueue(&mut self, waiter: Waiter) {
        if self.waiters.len() >= self.crowd.max(CROWD_MIN) {
            self.waiters.retain(|waiter| !waiter.ticket.is_past());
            self.crowd = 2 * self.waiters.len();
        }
        self.waiters.push_back(waiter);
    }
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) ticket: Arc<Ticket>,
    /// The worker it lives on.
    pub(super) home: usize,
    pub(super) since: Instant,
    /// It stands here because it was sent here, not because this pool could serve it as well.
    pub(super) is_at_home: bool,
}

impl<C> Gate<C> {
    pub(super) fn new(size: usize, workers: usize) -> Self {
        let homes = (0..workers.max(1)).map(|_| Home::new()).collect();
        Self { size, idle: 0, leased: 0, opening: 0, homes, closed: false, epoch_started: None, holds: 0 }
    }

    pub(super) fn total(&self) -> usize {
        self.idle + self.leased + self.opening
    }

    /// An idle connection, of `home` if it has one. It is counted as lent from here on.
    pub(super) fn take_idle(&mut self, home: usize) -> Option<C> {
        if self.idle == 0 {
            return None;
        }
        let own = self.homes.get_mut(home).and_then(|own| own.idle.pop());
        let taken = own.or_else(|| self.homes.iter_mut().max_by_key(|other| other.idle.len())?.idle.pop())?;
        self.idle -= 1;
        self.leased += 1;
        Some(taken)
    }

    /// A lent connection is idle again, with this worker.
    pub(super) fn put_idle(&mut self, home: usize, connection: C) {
        if let Some(home) = self.homes.get_mut(home) {
            home.idle.push(connection);
            self.idle += 1;
            self.leased -= 1;
        }
    }

    /// Takes those out that are to be closed, those that were not used for the longest time first.
    pub(super) fn remove_idle(&mut self, mut closes: impl FnMut(&C) -> bool) -> Vec<C> {
        let mut removed = Vec::new();
        for home in &mut *self.homes {
            removed.extend(home.idle.extract_if(.., |connection| closes(connection)));
        }
        self.idle -= removed.len();
        removed
    }

    /// The last of its worker's queue.
    pub(super) fn enqueue(&mut self, waiter: Waiter) {
        if let Some(home) = self.homes.get_mut(waiter.home) {
            home.enqueue(waiter);
        }
    }

    /// Who gets a connection that this worker has: its own oldest waiter, unless another one's is older by
    /// more than a client may notice. Who has called must answer the ticket, after the unlock.
    pub(super) fn call_next(&mut self, home: usize) -> Option<Waiter> {
        loop {
            for home in &mut *self.homes {
                while home.waiters.front().is_some_and(|waiter| waiter.ticket.is_past()) {
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
            let waiter = self.homes.get_mut(chosen)?.waiters.pop_front()?;
            // Another pool may call it in this moment.
            if waiter.ticket.call() {
                return Some(waiter);
            }
        }
    }

    /// Those who wait.
    pub(super) fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.homes.iter().flat_map(|home| &home.waiters).filter(|waiter| !waiter.ticket.is_past())
    }

    /// Takes out all who wait.
    pub(super) fn drain_waiters(&mut self) -> Vec<Waiter> {
        self.homes.iter_mut().flat_map(|home| home.waiters.drain(..)).collect()
    }

    /// How many more connections are to be opened now.
    pub(super) fn openings_wanted(&self) -> usize {
        if self.closed || self.holds > 0 {
            return 0;
        }
        let room = self.size.saturating_sub(self.total());
        // More than that many are not counted: thousands may wait.
        self.waiters().take(self.opening + room).count().saturating_sub(self.opening)
    }
}

/// A place in the queue, or in several. Dropping it gives the place up.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Waiting {
    pool: Arc<Pool>,
    ticket: Arc<Ticket>,
    done: bool,
}

impl Waiting {
    pub(super) fn new(pool: Arc<Pool>, ticket: Arc<Ticket>) -> Self {
        // Whoever waits is load, too: with all connections lent, the shorter queue is the better one.
        pool.node.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { pool, ticket, done: false }
    }
}

impl Future for Waiting {
    type Output = Result<ServerLease, CheckoutError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(answer) = self.ticket.poll(cx) else { return Poll::Pending };
        self.done = true;
        Poll::Ready(answer.and_then(|handed| {
            let mut lease = handed.take().ok_or(CheckoutError::Closed)?;
            lease.settle_here();
            Ok(lease)
        }))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pool.node.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.done {
            self.ticket.give_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(arrivals: &[(usize, u64)]) -> (Gate<()>, Vec<Arc<Ticket>>) {
        let (mut gate, start) = (Gate::new(4, 2), Instant::now());
        let tickets: Vec<_> = arrivals.iter().map(|_| Arc::new(Ticket::default())).collect();
        for ((home, micros), ticket) in arrivals.iter().zip(&tickets) {
            let since = start + Duration::from_micros(*micros);
            gate.enqueue(Waiter { ticket: Arc::clone(ticket), home: *home, since, is_at_home: true });
        }
        (gate, tickets)
    }

    /// Which of `tickets` is called.
    fn next(gate: &mut Gate<()>, tickets: &[Arc<Ticket>], home: usize) -> Option<usize> {
        let waiter = gate.call_next(home)?;
        tickets.iter().position(|ticket| Arc::ptr_eq(ticket, &waiter.ticket))
    }

    #[test]
    fn a_connection_goes_to_the_own_oldest_waiter_unless_that_would_be_noticed() {
        let (mut gate, tickets) = gate(&[(1, 0), (0, 400), (0, 410), (1, 2_000)]);
        let mut next = |home| next(&mut gate, &tickets, home);
        assert_eq!(next(0), Some(1), "0.4 ms are not noticed");
        assert_eq!(next(0), Some(2));
        assert_eq!(next(0), Some(0), "nobody of its own is left");
        assert_eq!(next(0), Some(3));
        assert_eq!(next(0), None);
    }

    #[test]
    fn nobody_is_overtaken_for_long() {
        let (mut gate, tickets) = gate(&[(1, 0), (0, 501)]);
        assert_eq!(next(&mut gate, &tickets, 0), Some(0));
    }

    #[test]
    fn those_who_have_gone_are_passed_over() {
        let (mut gate, tickets) = gate(&[(0, 0), (1, 1), (0, 2)]);
        tickets[0].give_up();
        tickets[1].give_up();
        assert_eq!(gate.waiters().count(), 1);
        assert_eq!(next(&mut gate, &tickets, 1), Some(2));
    }

    #[test]
    fn who_was_served_elsewhere_does_not_stay_in_a_queue_that_does_not_move() {
        let mut gate: Gate<()> = Gate::new(1, 1);
        let stays = Arc::new(Ticket::default());
        let enqueue = |gate: &mut Gate<()>, ticket: &Arc<Ticket>| {
            gate.enqueue(Waiter {
                ticket: Arc::clone(ticket),
                home: 0,
                since: Instant::now(),
                is_at_home: false,
            });
        };
        enqueue(&mut gate, &stays);
        for _ in 0..100_000 {
            let ticket = Arc::new(Ticket::default());
            enqueue(&mut gate, &ticket);
            assert!(ticket.call(), "another pool has a connection");
        }
        assert!(gate.homes[0].waiters.len() <= 2 * CROWD_MIN, "{}", gate.homes[0].waiters.len());
        assert!(gate.call_next(0).is_some_and(|waiter| Arc::ptr_eq(&waiter.ticket, &stays)));
        assert!(gate.call_next(0).is_none());
    }

    #[test]
    fn idle_connections_are_taken_from_the_own_worker_first() {
        let mut gate = Gate::new(4, 3);
        gate.leased = 4;
        for (home, connection) in [(0, 'a'), (2, 'b'), (2, 'c'), (1, 'd')] {
            gate.put_idle(home, connection);
        }
        assert_eq!((gate.idle, gate.leased), (4, 0));
        assert_eq!(gate.take_idle(0), Some('a'));
        assert_eq!(gate.take_idle(0), Some('c'), "then from who has most, the most recently used one");
        assert_eq!((gate.idle, gate.leased, gate.total()), (2, 2, 4));
        assert_eq!(gate.remove_idle(|connection| *connection == 'b'), ['b']);
        assert_eq!((gate.idle, gate.take_idle(2), gate.take_idle(2)), (1, Some('d'), None));
    }
}
