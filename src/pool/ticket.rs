//! The place of a waiting client: one ticket, which may stand in the queues of several pools that could serve it
//! as well. The pool that calls it first answers it; in the other queues it is passed over from then on.

use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::gate::CheckoutError;
use super::lease::ServerLease;

/// A lease on its way to a waiter. If the waiter has gone, the connection (which is clean) goes back.
#[derive(Debug)]
pub(super) struct Handed(Option<ServerLease>);

impl Handed {
    pub(super) fn new(lease: ServerLease) -> Self {
        Self(Some(lease))
    }

    pub(super) fn take(mut self) -> Option<ServerLease> {
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

pub(super) type Answer = Result<Handed, CheckoutError>;

/// See the top of the file.
#[derive(Debug, Default)]
pub(super) struct Ticket(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// In how many queues it stands, those included where its turn is past.
    queues: usize,
    progress: Progress,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
enum Progress {
    #[default]
    Waiting,
    /// A pool has, or soon has, an answer.
    Called,
    Answered(Answer),
    /// The answer was taken, or nobody waits for it any more.
    Over,
}

impl Ticket {
    /// It joins a queue.
    pub(super) fn joins(&self) {
        self.0.lock().queues += 1;
    }

    /// Nothing is to be done for it any more: somebody else does it, or it was given up.
    pub(super) fn is_past(&self) -> bool {
        !matches!(self.0.lock().progress, Progress::Waiting)
    }

    /// Its turn. Who is told `true` must answer, but not while a gate is locked.
    #[must_use = "a ticket that was called must be answered"]
    pub(super) fn call(&self) -> bool {
        let mut state = self.0.lock();
        let waits = matches!(state.progress, Progress::Waiting);
        if waits {
            state.progress = Progress::Called;
        }
        waits
    }

    /// The answer of who has called it.
    pub(super) fn answer(&self, answer: Answer) {
        let mut state = self.0.lock();
        if matches!(state.progress, Progress::Over) {
            // The client has gone. A connection goes back, which may answer others: without the lock.
            drop(state);
            drop(answer);
            return;
        }
        state.progress = Progress::Answered(answer);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// One of the queues is no use. The client learns why when that was the last one.
    pub(super) fn refuse(&self, error: CheckoutError) {
        let is_last = {
            let mut state = self.0.lock();
            state.queues = state.queues.saturating_sub(1);
            let is_last = state.queues == 0 && matches!(state.progress, Progress::Waiting);
            if is_last {
                state.progress = Progress::Called;
            }
            is_last
        };
        if is_last {
            self.answer(Err(error));
        }
    }

    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Answer> {
        let mut state = self.0.lock();
        if matches!(state.progress, Progress::Answered(_))
            && let Progress::Answered(answer) = std::mem::replace(&mut state.progress, Progress::Over)
        {
            return Poll::Ready(answer);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Nobody waits for the answer any more.
    pub(super) fn give_up(&self) {
        let progress = std::mem::replace(&mut self.0.lock().progress, Progress::Over);
        // A connection that was sent but not received goes back, after the unlock.
        drop(progress);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(ticket: &Ticket) -> Poll<Answer> {
        ticket.poll(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn the_error_of_one_queue_counts_only_if_there_is_no_other() {
        let ticket = Ticket::default();
        ticket.joins();
        ticket.joins();
        ticket.refuse(CheckoutError::Moved);
        assert!(!ticket.is_past());
        assert!(poll(&ticket).is_pending());
        ticket.refuse(CheckoutError::Closed);
        assert!(matches!(poll(&ticket), Poll::Ready(Err(CheckoutError::Closed))));
        assert!(!ticket.call(), "it has its answer");
    }

    #[test]
    fn one_pool_calls_it_and_errors_of_the_others_no_longer_matter() {
        let ticket = Ticket::default();
        ticket.joins();
        assert!(ticket.call());
        assert!(ticket.is_past());
        assert!(!ticket.call());
        ticket.refuse(CheckoutError::Moved);
        assert!(poll(&ticket).is_pending(), "who has called answers");
        ticket.answer(Err(CheckoutError::Closed));
        assert!(matches!(poll(&ticket), Poll::Ready(Err(CheckoutError::Closed))));
    }

    #[test]
    fn an_answer_that_nobody_waits_for_is_given_back() {
        let ticket = Ticket::default();
        assert!(ticket.call());
        ticket.give_up();
        ticket.answer(Err(CheckoutError::Closed));
        assert!(poll(&ticket).is_pending(), "it was not kept");
    }
}
