//! How far a replica must have replayed before it may serve a client that has written.
//!
//! A client whose write was just acknowledged takes a ticket. One probe on the primary that *starts
//! after* a ticket was taken reads a log position at or past that write, so one probe answers every
//! ticket taken before it, and no client waits for a probe: until the answer is there, reads stay on
//! the primary.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;

use super::lsn::Lsn;

/// Tickets are numbered across all primaries: who took one from a primary that is none any more has it answered by
/// its successor.
static TICKETS: AtomicU64 = AtomicU64::new(0);

/// Tickets and answers of one primary.
#[derive(Debug, Default)]
pub struct WriteHorizon {
    issued: AtomicU64,
    answered: AtomicU64,
    position: AtomicU64,
    waker: AtomicWaker,
}

impl WriteHorizon {
    /// Takes a ticket for a write that was acknowledged before this call; wakes the probe.
    pub fn take_ticket(&self) -> u64 {
        let ticket = TICKETS.fetch_add(1, Ordering::AcqRel) + 1;
        self.issued.fetch_max(ticket, Ordering::AcqRel);
        self.waker.wake();
        ticket
    }

    /// Wakes the probe for another reason.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    /// Whether tickets wait for an answer; if none does, the task is woken when one is taken.
    pub fn poll_waiting(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.is_waiting()
    }

    /// The newest ticket of any primary; a probe reads it before it asks this one.
    pub fn present_ticket() -> u64 {
        TICKETS.load(Ordering::Acquire)
    }

    /// The newest ticket that was taken here.
    pub fn newest_ticket(&self) -> u64 {
        self.issued.load(Ordering::Acquire)
    }

    /// Whether tickets wait for an answer.
    pub fn is_waiting(&self) -> bool {
        self.answered.load(Ordering::Acquire) < self.newest_ticket()
    }

    /// Records what a probe read: every ticket up to `ticket` is covered by `position`.
    pub fn answer(&self, ticket: u64, position: Lsn) {
        // The position first: whoever sees the ticket answered sees a position that covers it.
        self.position.fetch_max(position.0, Ordering::AcqRel);
        self.answered.fetch_max(ticket, Ordering::AcqRel);
    }

    /// The position that covers `ticket`, once a probe has answered it.
    pub fn position(&self, ticket: u64) -> Option<Lsn> {
        (self.answered.load(Ordering::Acquire) >= ticket).then(|| self.newest_position())
    }

    /// The furthest position that any ticket was given.
    pub fn newest_position(&self) -> Lsn {
        Lsn(self.position.load(Ordering::Acquire))
    }

    /// Forgets positions of another timeline (the primary changed); tickets open now must be answered anew.
    pub fn restart(&self) {
        self.position.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_covers_the_tickets_before_its_probe_and_no_later_one() {
        let horizon = WriteHorizon::default();
        let first = horizon.take_ticket();
        assert_eq!((horizon.position(first), horizon.is_waiting()), (None, true));
        let probe = horizon.newest_ticket();
        let second = horizon.take_ticket();
        horizon.answer(probe, Lsn(100));
        assert_eq!((horizon.position(first), horizon.position(second)), (Some(Lsn(100)), None));
        horizon.answer(second, Lsn(90));
        assert_eq!(horizon.position(second), Some(Lsn(100)), "positions never go back");
        assert!(!horizon.is_waiting());
    }
}
