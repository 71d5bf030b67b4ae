//! A server connection and what is known of its state.
//!
//! *Clean* means: no reply owed, outside a transaction, nothing unread, nothing unsent, no cancel sent
//! to it, no error on its socket. [`ServerConn::begin_exchange`] makes it unclean before the first byte
//! of a request is written and [`ServerConn::end_exchange`] makes it clean after the last byte of the
//! answer was read, so a session that is dropped in between leaves an unclean connection behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Waker};
use std::time::SystemTime;

use bytes::BytesMut;
use parking_lot::Mutex;

use crate::clients::ServerIdentity;
use crate::net::Wire;
use crate::protocol::TransactionStatus;
use crate::protocol::frontend;
use crate::protocol::parameters::Parameters;
use crate::task::{self, Moment};

use super::prepared::{Definition, PreparedSet};
use super::settings::Settings;

/// A server connection as the console sees it.
#[derive(Debug)]
pub struct ServerInfo {
    /// Address, process id, cancel key, and who has it.
    pub identity: Arc<ServerIdentity>,
    /// Our address and port at this end; empty for unix sockets.
    pub local: (String, u16),
    /// The server's address.
    pub remote: (String, u16),
    /// TLS version and cipher.
    pub tls: Option<String>,
    /// When it was opened.
    pub opened_at: SystemTime,
    /// The client that last ran something on it that may notify others, 0 for none.
    pub notifier: AtomicU32,
    /// Prepared statements it holds.
    pub prepared_statements: AtomicU32,
    /// `application_name` of the client it was last lent to.
    pub application_name: Mutex<String>,
}

impl ServerInfo {
    /// For a connection that was just opened.
    pub fn new(
        identity: Arc<ServerIdentity>,
        local: (String, u16),
        remote: (String, u16),
        tls: Option<String>,
    ) -> Self {
        Self {
            identity,
            local,
            remote,
            tls,
            opened_at: SystemTime::now(),
            notifier: AtomicU32::new(0),
            prepared_statements: AtomicU32::new(0),
            application_name: Mutex::new(String::new()),
        }
    }
}

/// One connection to one PostgreSQL, logged in.
#[derive(Debug)]
pub struct ServerConn {
    /// The bytes.
    pub wire: Wire,
    /// That of `info`, at hand: each loan needs it.
    identity: Arc<ServerIdentity>,
    /// How others see it.
    pub info: Arc<ServerInfo>,
    /// Settings as the server reports them.
    pub parameters: Parameters,
    /// Settings that we made on it.
    pub settings: Settings,
    /// It may have settings that nobody has seen: made inside functions, under names of their own.
    pub settings_uncertain: bool,
    /// Named prepared statements it holds.
    pub prepared: PreparedSet,
    /// Prepared statements under names of the client that holds it.
    pub client_names: Vec<Box<[u8]>>,
    /// What its unnamed prepared statement is, when we know.
    pub unnamed: Option<Arc<Definition>>,
    /// Whether a BEGIN means READ COMMITTED here when nobody has said otherwise, once that was asked.
    pub reads_committed: Option<bool>,
    /// NotificationResponses that came with answers to queries of our own, as they came.
    pub notifications: BytesMut,
    /// Transaction status after the last ReadyForQuery.
    pub status: TransactionStatus,
    /// Closed at this age when idle; jittered.
    pub retire_at: Option<Moment>,
    /// When it came back to the pool.
    pub idle_since: Moment,
    owes_replies: bool,
    broken: bool,
    /// The worker it belongs to in its pool.
    pub home: usize,
    /// The worker whose runtime watches its socket: `home`, once the session that holds it has begun.
    watched_by: usize,
}

impl ServerConn {
    /// A connection whose login has just ended: idle and clean.
    pub fn new(wire: Wire, info: ServerInfo, parameters: Parameters) -> Self {
        Self {
            wire,
            identity: Arc::clone(&info.identity),
            info: Arc::new(info),
            parameters,
            settings: Settings::none(),
            settings_uncertain: false,
            prepared: PreparedSet::default(),
            client_names: Vec::new(),
            unnamed: None,
            reads_committed: None,
            notifications: BytesMut::new(),
            status: TransactionStatus::Idle,
            retire_at: None,
            idle_since: Moment::now(),
            owes_replies: false,
            broken: false,
            home: task::home(),
            watched_by: task::home(),
        }
    }

    /// Lets the present worker watch the socket, if another one does.
    #[inline]
    pub fn settle_here(&mut self) {
        let here = task::home();
        if self.watched_by != here {
            self.watched_by = here;
            if let Err(error) = self.wire.rehome() {
                tracing::warn!(%error, "a server connection could not be moved to another worker");
                self.mark_broken();
            }
        }
    }

    /// Lets others see how many prepared statements it holds.
    pub fn show_prepared(&self) {
        let count = u32::try_from(self.prepared.len()).unwrap_or(u32::MAX);
        self.info.prepared_statements.store(count, Ordering::Relaxed);
    }

    /// Who it is, for cancel requests.
    pub fn identity(&self) -> &Arc<ServerIdentity> {
        &self.identity
    }

    /// To be called before the first byte of a request is written.
    pub fn begin_exchange(&mut self) {
        self.owes_replies = true;
    }

    /// To be called when every reply to everything sent has been read.
    pub fn end_exchange(&mut self) {
        self.owes_replies = false;
    }

    /// Whether replies are owed.
    pub fn owes_replies(&self) -> bool {
        self.owes_replies
    }

    /// The connection must not be used again.
    pub fn mark_broken(&mut self) {
        self.broken = true;
    }

    /// Whether it may be lent to somebody else.
    pub fn is_clean(&self) -> bool {
        !self.owes_replies
            && !self.broken
            && self.status == TransactionStatus::Idle
            && self.wire.inbox.is_empty()
            && self.wire.outbox.is_empty()
            && self.notifications.is_empty()
            && self.client_names.is_empty()
            && !self.identity().is_canceled()
    }

    /// Whether an idle connection is still there. Costs no system call while the socket is silent; a
    /// server that closed, or said anything at all while idle, counts as gone.
    pub fn is_alive(&self) -> bool {
        self.is_clean() && self.wire.stream().is_silent()
    }

    /// Says good-bye if the socket takes it at once; the drop closes it in any case.
    pub fn say_goodbye(&mut self) {
        if !self.owes_replies && !self.broken && self.wire.outbox.is_empty() {
            frontend::terminate(&mut self.wire.outbox);
            let _ = self.wire.poll_flush(&mut Context::from_waker(Waker::noop()));
        }
    }
}
