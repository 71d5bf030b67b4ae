//! Notifications as one client sees them: who sent them, and in which order. Pure.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::clients::{ClientId, Notification, notification_channel};
use crate::pool::Channel;
use crate::protocol::backend;

/// Appends a NotificationResponse. A client knows itself by the number it was told at login, and nobody else
/// may appear under it.
pub(super) fn write(out: &mut BytesMut, me: ClientId, pid: i32, from: Option<ClientId>, body: &[u8]) {
    let shown = from.map_or(pid, |client| client.0.cast_signed());
    let shown = if shown == me.0.cast_signed() && from != Some(me) { 0 } else { shown };
    backend::notification(out, shown, body);
}

/// What waits in the mailbox, and in its order what the client's server connection has told of the client's
/// own notifications in the transaction that has just ended. Channels that are `shared` are in both, the
/// others only in the latter: those it has only begun to listen to.
pub(super) fn merge(
    waiting: VecDeque<Notification>,
    own: Vec<Bytes>,
    own_pid: i32,
    me: ClientId,
    shared: impl Fn(&[u8]) -> bool,
) -> Vec<Notification> {
    let mut merged = Vec::with_capacity(waiting.len());
    let mut own = own.into_iter().collect::<VecDeque<_>>();
    let fresh = |body: Bytes| {
        let is_fresh = !shared(notification_channel(&body));
        is_fresh.then_some(Notification { pid: own_pid, from: Some(me), body })
    };
    for notification in waiting {
        let is_own = notification.pid == own_pid && notification.from == Some(me);
        if is_own && let Some(at) = own.iter().position(|body| *body == notification.body) {
            merged.extend(own.drain(..=at).filter_map(&fresh));
        }
        merged.push(notification);
    }
    merged.extend(own.into_iter().filter_map(fresh));
    merged
}

/// A channel's name from hexadecimal digits.
pub(super) fn from_hex(text: &[u8]) -> Channel {
    let digit =
        |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0);
    let byte = |pair: &[u8]| pair.iter().fold(0, |value: u8, byte| (value << 4) | digit(*byte));
    text.chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(channel: &str, payload: &str) -> Bytes {
        format!("{channel}\0{payload}\0").into()
    }

    fn from(pid: i32, client: Option<u32>, channel: &str, payload: &str) -> Notification {
        Notification { pid, from: client.map(ClientId), body: body(channel, payload) }
    }

    fn merged(waiting: Vec<Notification>, own: Vec<Bytes>) -> Vec<String> {
        let all = merge(waiting.into(), own, 7, ClientId(1), |channel| channel == b"old");
        all.iter().map(|n| String::from_utf8_lossy(&n.body).replace('\0', " ").trim().to_owned()).collect()
    }

    #[test]
    fn own_notifications_come_once_and_in_their_order() {
        let own = || vec![body("new", "1"), body("old", "2"), body("new", "3")];
        assert_eq!(merged(vec![from(7, Some(1), "old", "2")], own()), ["new 1", "old 2", "new 3"]);
        // Others' that were committed earlier stay in front.
        assert_eq!(
            merged(
                vec![from(9, None, "old", "x"), from(7, Some(1), "old", "2"), from(9, None, "old", "y")],
                own()
            ),
            ["old x", "new 1", "old 2", "old y", "new 3"]
        );
        // The process that another client used before.
        assert_eq!(merged(vec![from(7, Some(2), "old", "2")], vec![body("new", "1")]), ["old 2", "new 1"]);
        assert_eq!(merged(vec![], vec![body("new", "1"), body("new", "1")]), ["new 1", "new 1"]);
        assert!(merged(vec![], vec![body("old", "gone: UNLISTEN")]).is_empty());
    }

    #[test]
    fn nobody_else_appears_under_the_clients_number() {
        let shown = |pid, client: Option<u32>| {
            let mut out = BytesMut::new();
            write(&mut out, ClientId(42), pid, client.map(ClientId), b"c\0p\0");
            assert_eq!((out[0], &out[9..]), (b'A', &b"c\0p\0"[..]));
            i32::from_be_bytes(out[5..9].try_into().unwrap())
        };
        assert_eq!(shown(7, Some(42)), 42, "its own");
        assert_eq!(shown(7, Some(43)), 43, "another client's");
        assert_eq!(shown(7, None), 7, "somebody's who is not a client of ours");
        assert_eq!(shown(42, None), 0, "somebody's whose process has the client's number");
    }

    #[test]
    fn names_come_as_hexadecimal_digits() {
        assert_eq!(&*from_hex(b"6122e9"), b"a\"\xe9");
        assert!(from_hex(b"").is_empty());
    }
}
