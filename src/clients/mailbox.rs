//! Notifications on their way to one client: put in by a listener, taken out by the client's session.
//!
//! Bounded in bytes. A client over its bound is told to end: nothing is ever left out silently.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::ClientId;
use super::handle::{ClientHandle, Order};

/// What one notification costs besides its text.
const OVERHEAD_BYTES: usize = 64;

/// One notification, as a listener received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Process that sent it.
    pub pid: i32,
    /// The client that used that process, when it is one of ours.
    pub from: Option<ClientId>,
    /// Channel, NUL, payload, NUL: as it stands in the message, shared by all who get it.
    pub body: Bytes,
}

impl Notification {
    /// The channel's name.
    pub fn channel(&self) -> &[u8] {
        channel(&self.body)
    }
}

/// The channel's name in the text of a notification.
pub fn channel(body: &[u8]) -> &[u8] {
    body.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// What became of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It waits for the client.
    Kept,
    /// The client had too many waiting: its session ends.
    Overflow,
    /// The client has gone or is going.
    Closed,
}

/// A client's mailbox.
#[derive(Debug)]
pub struct Mailbox {
    owner: Arc<ClientHandle>,
    limit_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Notification>,
    bytes: usize,
    closed: bool,
}

impl Mailbox {
    /// An empty one that holds at most `limit_bytes`.
    pub fn new(owner: Arc<ClientHandle>, limit_bytes: usize) -> Self {
        Self { owner, limit_bytes, state: Mutex::default() }
    }

    /// Adds a notification and wakes the session.
    pub fn put(&self, notification: Notification) -> Put {
        let mut state = self.state.lock();
        if state.closed {
            return Put::Closed;
        }
        let bytes = notification.body.len() + OVERHEAD_BYTES;
        if state.bytes + bytes > self.limit_bytes {
            *state = State { closed: true, ..State::default() };
            drop(state);
            self.owner.order(Order::NotificationOverflow);
            return Put::Overflow;
        }
        state.bytes += bytes;
        state.queue.push_back(notification);
        drop(state);
        self.owner.wake();
        Put::Kept
    }

    /// The oldest notification.
    pub fn take(&self) -> Option<Notification> {
        let mut state = self.state.lock();
        let notification = state.queue.pop_front()?;
        state.bytes = state.bytes.saturating_sub(notification.body.len() + OVERHEAD_BYTES);
        if state.queue.is_empty() {
            state.queue = VecDeque::new();
        }
        Some(notification)
    }

    /// All of them, oldest first.
    pub fn take_all(&self) -> VecDeque<Notification> {
        let mut state = self.state.lock();
        state.bytes = 0;
        std::mem::take(&mut state.queue)
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.state.lock().queue.is_empty()
    }

    /// Nothing is taken any more.
    pub fn close(&self) {
        *self.state.lock() = State { closed: true, ..State::default() };
    }

    /// Whether nothing is taken any more.
    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// The client's number.
    pub fn client(&self) -> ClientId {
        self.owner.id
    }

    /// Tells the client's session something.
    pub fn order(&self, order: Order) {
        self.owner.order(order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox(limit: usize) -> (Arc<ClientHandle>, Mailbox) {
        let owner = Arc::new(super::super::handle::tests::handle());
        (Arc::clone(&owner), Mailbox::new(owner, limit))
    }

    fn notification(text: &'static [u8]) -> Notification {
        Notification { pid: 1, from: None, body: Bytes::from_static(text) }
    }

    #[test]
    fn what_is_put_in_comes_out_in_order() {
        let (_, mailbox) = mailbox(1000);
        for text in [&b"a\x001\0"[..], b"b\x002\0", b"a\x003\0"] {
            assert_eq!(mailbox.put(notification(text)), Put::Kept);
        }
        assert_eq!(mailbox.take().unwrap().channel(), b"a");
        let rest: Vec<_> = mailbox.take_all().into_iter().map(|n| n.body).collect();
        assert_eq!(rest, [&b"b\x002\0"[..], b"a\x003\0"]);
        assert!(mailbox.is_empty() && mailbox.take().is_none());
    }

    #[test]
    fn the_bound_ends_the_client_and_taking_makes_room() {
        let (owner, mailbox) = mailbox(3 * (4 + OVERHEAD_BYTES));
        for _ in 0..10 {
            for _ in 0..3 {
                assert_eq!(mailbox.put(notification(b"a\x001\0")), Put::Kept);
            }
            assert!(mailbox.take().is_some());
            mailbox.take_all();
        }
        for _ in 0..3 {
            mailbox.put(notification(b"a\x001\0"));
        }
        assert_eq!(owner.pending_order(None), Order::None);
        assert_eq!(mailbox.put(notification(b"a\x001\0")), Put::Overflow);
        assert_eq!(owner.pending_order(None), Order::NotificationOverflow);
        assert_eq!(mailbox.put(notification(b"a\x001\0")), Put::Closed);
        assert!(mailbox.is_empty(), "what the client will not get takes no memory");
    }
}
