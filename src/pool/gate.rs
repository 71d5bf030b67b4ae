//! The admission gate: who may have a server connection, in which order.
//!
//! Invariants, asserted: `idle + leased + opening <= size` unless the size was lowered meanwhile, and
//! nobody waits while a connection is idle.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
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
    /// The pool was closed.
    #[error("the pool was closed")]
    Closed,
}

/// Counts and waiters of one pool; under the pool's lock.
#[derive(Debug, Default)]
pub(super) struct Gate {
    pub(super) size: usize,
    pub(super) idle: usize,
    pub(super) leased: usize,
    pub(super) opening: usize,
    pub(super) waiters: VecDeque<Waiter>,
    pub(super) closed: bool,
    /// Connections opened before the last change of the epoch are closed when they come back.
    pub(super) epoch_started: Option<Instant>,
    next_waiter: u64,
}

#[derive(Debug)]
pub(super) struct Waiter {
    id: u64,
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
    pub(super) fn new(size: usize) -> Self {
        Self { size, ..Self::default() }
    }

    pub(super) fn total(&self) -> usize {
        self.idle + self.leased + self.opening
    }

    pub(super) fn enqueue(
        &mut self,
        now: Instant,
    ) -> (u64, oneshot::Receiver<Result<Handed, CheckoutError>>) {
        let (sender, receiver) = oneshot::channel();
        self.next_waiter += 1;
        self.waiters.push_back(Waiter { id: self.next_waiter, since: now, sender });
        (self.next_waiter, receiver)
    }

    /// The oldest waiter that is still there.
    pub(super) fn next_waiter(&mut self) -> Option<Waiter> {
        while let Some(waiter) = self.waiters.pop_front() {
            if !waiter.sender.is_closed() {
                return Some(waiter);
            }
        }
        None
    }

    /// How many more connections are to be opened now.
    pub(super) fn openings_wanted(&self) -> usize {
        if self.closed {
            return 0;
        }
        let room = self.size.saturating_sub(self.total());
        self.waiters.len().saturating_sub(self.opening).min(room)
    }
}

/// A place in the queue. Dropping it gives the place up.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Waiting {
    pool: Arc<Pool>,
    id: u64,
    receiver: oneshot::Receiver<Result<Handed, CheckoutError>>,
    done: bool,
}

impl Waiting {
    pub(super) fn new(
        pool: Arc<Pool>,
        id: u64,
        receiver: oneshot::Receiver<Result<Handed, CheckoutError>>,
    ) -> Self {
        Self { pool, id, receiver, done: false }
    }
}

impl Future for Waiting {
    type Output = Result<ServerLease, CheckoutError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(result) = Pin::new(&mut self.receiver).poll(cx) else { return Poll::Pending };
        self.done = true;
        Poll::Ready(match result {
            Ok(Ok(handed)) => handed.take().ok_or(CheckoutError::Closed),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(CheckoutError::Closed),
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let id = self.id;
        let mut gate = self.pool.gate.lock();
        gate.waiters.retain(|waiter| waiter.id != id);
        // A lease that was sent but not received is in `receiver`: `Handed` returns it, after the unlock.
        drop(gate);
    }
}
