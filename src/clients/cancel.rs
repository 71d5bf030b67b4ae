//! Cancel keys, and the rule that a cancel hits the right query or none.
//!
//! A session links its handle to the server connection it leases. A cancel request looks the link up
//! *and marks the server connection as canceled* under the same lock under which the session unlinks.
//! So either the request finds no link and does nothing, or the session sees the mark when it gives
//! the connection back, and closes it instead of lending it on: a late signal can hit nobody else.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::task::{AtomicMoment, Moment};

use super::ClientId;

/// What a client must show to cancel: process id and secret key.
#[derive(Clone, PartialEq, Eq)]
pub struct CancelKey {
    /// The process id the client was told.
    pub id: ClientId,
    /// 4 bytes in protocol 3.0, 32 in 3.2.
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl CancelKey {
    /// Whether a request shows this key; the time does not depend on where they differ.
    pub fn matches(&self, secret: &[u8]) -> bool {
        self.secret.len() == secret.len()
            && self.secret.iter().zip(secret).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
    }
}

/// Names a server connection for as long as it lives, and tells who has it.
///
/// What each loan looks at comes first and shares a cache line: between two loans of one connection the others' have
/// passed, and each line is fetched from afar.
#[derive(Debug)]
#[repr(C)]
pub struct ServerIdentity {
    /// A number of our own, unique in the process.
    pub id: u64,
    opened: Moment,
    /// When it was last lent.
    lent: AtomicMoment,
    /// The client it is lent to, 0 for none.
    client: AtomicU32,
    canceled: AtomicBool,
    /// Port.
    pub port: u16,
    /// The server's process id.
    pub pid: i32,
    /// Host: as configured, or the address that its name led to.
    pub host: String,
    /// The server's cancel key.
    pub secret: Vec<u8>,
}

impl ServerIdentity {
    /// The identity of a connection that was told `pid` and `secret`.
    pub fn new(host: String, port: u16, pid: i32, secret: Vec<u8>, id: u64) -> Self {
        Self {
            id,
            opened: Moment::now(),
            lent: AtomicMoment::default(),
            client: AtomicU32::new(0),
            canceled: AtomicBool::new(false),
            port,
            pid,
            host,
            secret,
        }
    }

    /// When it was opened.
    pub fn opened(&self) -> Moment {
        self.opened
    }

    /// A client gets it.
    pub fn lend(&self, client: ClientId, now: Moment) {
        self.client.store(client.0, Ordering::Relaxed);
        self.lent.store(now, Ordering::Relaxed);
    }

    /// No client has it any longer.
    pub fn come_back(&self) {
        self.client.store(0, Ordering::Relaxed);
    }

    /// The client that has it.
    pub fn client(&self) -> Option<ClientId> {
        Some(self.client.load(Ordering::Relaxed)).filter(|client| *client != 0).map(ClientId)
    }

    /// How long after it was opened it was last lent.
    pub fn lent_after(&self) -> Duration {
        Duration::from_micros(self.lent.load(Ordering::Relaxed).micros_since(self.opened))
    }

    /// Whether a cancel was sent to it; such a connection is not lent again.
    pub fn is_canceled(&self) -> bool {
        self.canceled.load(Ordering::Acquire)
    }

    /// Marks it; called under the lock of the link.
    pub fn mark_canceled(&self) {
        self.canceled.store(true, Ordering::Release);
    }
}

/// Where a cancel request must be sent.
pub type CancelTarget = std::sync::Arc<ServerIdentity>;
