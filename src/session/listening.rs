//! LISTEN in transaction mode: what the client listens to is received by a listener connection that it shares
//! with others, and told to it between its transactions.
//!
//! What a transaction did is asked of the server, not read off its text. LISTEN runs on the client's own server
//! connection like any statement. When the transaction has ended and before the client hears of it (its
//! ReadyForQuery is *held*), the server is asked what it listens to now, the client joins the listener, and
//! its server connection forgets it all. A statement whose meaning depends on what the client listens to
//! (UNLISTEN, DISCARD ALL, a transaction of unknown contents) finds it on the server connection, because a
//! LISTEN of all of it goes in front: the channels are *lent*.
//!
//! A client that listens gets what was notified before its transaction ended in front of its ReadyForQuery,
//! its own notifications included, as from PostgreSQL: its ReadyForQuery waits for the listener to have
//! come that far. Clients that do not listen pay for none of this.

use std::collections::{BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};

use crate::clients::{Mailbox, Notification, Order, PinReason};
use crate::config::PoolMode;
use crate::pool::{Channel, ListenError, Listener, ListenerKey, ServerLease, listen_sql};
use crate::protocol::frame::{self, HEADER_LEN};
use crate::protocol::{ErrorResponse, SqlState, TransactionStatus, backend, frontend};
use crate::route::Target;
use crate::server::{ServerConn, ServerInfo};
use crate::sql::{Effect, SessionEffects};

use super::batch::{BatchEnd, Plan};
use super::client::ClientSession;
use super::error::SessionError;
use super::exchange::{Expect, Verdict};
use super::notifications::{from_hex, merge, write};

/// What may change what the client listens to, or show it.
const CONCERNS: SessionEffects = SessionEffects::LISTEN
    .union(SessionEffects::UNLISTEN)
    .union(SessionEffects::SHOWS_LISTENING)
    .union(SessionEffects::DISCARD_ALL)
    .union(SessionEffects::SQL_EXECUTE)
    .union(SessionEffects::UNKNOWN_PROCEDURE);

/// May do anything, unless it was seen to be harmless.
const UNKNOWN: SessionEffects = SessionEffects::UNKNOWN_PROCEDURE.union(SessionEffects::UNKNOWN_FUNCTION);

/// The channels in the client's encoding, which for the answer is dressed in ASCII.
const ASK: &str = "SELECT pg_catalog.encode(pg_catalog.convert_to(c, pg_catalog.pg_client_encoding()), 'hex') \
FROM pg_catalog.pg_listening_channels() c";

/// With more than this waiting for the client, notifications stay in the mailbox, which is bounded.
const OUTBOX_BYTES_MAX: usize = 64 * 1024;

/// What a client has to do with notifications.
#[derive(Debug, Default)]
pub(super) struct Listening {
    /// What it listens to through a listener.
    subscription: Option<Box<Subscription>>,
    /// The present transaction's end is told after it was looked into.
    holds_ready: bool,
    /// It has ended.
    ready_is_held: bool,
    /// The server is to be asked at its end.
    asks: bool,
    /// To go in front of the next batch: LISTEN for all channels.
    prefix: Option<Vec<u8>>,
    /// The server connection listens to all channels.
    lent: bool,
    /// The client's own notifications of the present transaction, as its server connection told them.
    own: Vec<Bytes>,
}

/// A client in a listener.
#[derive(Debug)]
struct Subscription {
    listener: Arc<Listener>,
    mailbox: Arc<Mailbox>,
    channels: BTreeSet<Channel>,
    /// The server connection whose notifications the listener knows to be this client's, and those of nobody before.
    claimed: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.listener.leave_all(&self.mailbox);
    }
}

impl Listening {
    /// The present transaction has come to nothing.
    pub(super) fn abandon(&mut self) {
        (self.holds_ready, self.ready_is_held, self.asks, self.lent) = (false, false, false, false);
        self.prefix = None;
        self.own.clear();
    }

    /// Whether the client listens through a listener.
    pub(super) fn is_on(&self) -> bool {
        self.subscription.is_some()
    }

    /// Whether notifications wait.
    pub(super) fn has_mail(&self) -> bool {
        self.subscription.as_ref().is_some_and(|subscription| !subscription.mailbox.is_empty())
    }

    /// Whether this ReadyForQuery, the last answer owed, is to be held; if so, it is.
    pub(super) fn hold(&mut self) -> bool {
        self.ready_is_held = self.holds_ready;
        self.holds_ready
    }

    /// Whether the end of the transaction concerns this file.
    pub(super) fn must_settle(&self) -> bool {
        self.holds_ready
    }
}

impl ClientSession {
    /// Whether a batch concerns this file.
    pub(super) fn concerns_listening(&self, plan: &Plan) -> bool {
        self.listening.is_on() || plan.effects.contains(SessionEffects::LISTEN)
    }

    /// Before a batch of a client that listens, or that wants to. An error is to be the batch's answer.
    ///
    /// # Cancel safety
    /// Nothing was sent to the server yet.
    pub(super) async fn prepare_listening(
        &mut self,
        lease: &mut ServerLease,
        plan: &Plan,
        end: BatchEnd,
    ) -> Result<Option<ErrorResponse>, SessionError> {
        if !self.listening.is_on() {
            if self.keeps_notifications() || self.target != Target::Primary {
                return Ok(None);
            }
            // Not after the LISTEN is committed should it turn out that nobody can listen.
            let listener = self.listener();
            if let Err(error) = self.wait_for(listener.barrier(None)).await? {
                return Ok(Some(no_listener(&error)));
            }
            (self.listening.holds_ready, self.listening.asks) = (true, true);
            return Ok(None);
        }
        self.listening.holds_ready = true;
        self.listening.prefix = None;
        if self.target != Target::Primary {
            return Ok(None);
        }
        let concerns = self.may_change_channels(plan);
        self.listening.asks |= concerns;
        if lease.status != TransactionStatus::Idle || self.awaiting_sync {
            return Ok(None);
        }
        let open_end = plan.may_begin || matches!(end, BatchEnd::Flush | BatchEnd::Partial);
        let Some(subscription) = &self.listening.subscription else { return Ok(None) };
        let me = self.handle().id.0;
        let is_claimed =
            subscription.claimed == lease.identity().id && lease.info.notifier.load(Ordering::Acquire) == me;
        if concerns || (!is_claimed && (plan.writes || open_end)) {
            // What others notified on this connection is sorted before it counts as this client's; and what
            // was notified so far reaches the client before it stops to listen.
            let listener = Arc::clone(&subscription.listener);
            let claim = Some(Arc::clone(&lease.info));
            self.wait_for(listener.barrier(claim)).await?.map_err(|error| lost(&error))?;
            self.deliver()?;
        }
        let Some(subscription) = &mut self.listening.subscription else { return Ok(None) };
        if plan.writes || open_end {
            subscription.claimed = lease.identity().id;
            lease.info.notifier.store(me, Ordering::Release);
        }
        if concerns || open_end {
            let mut sql = Vec::new();
            for channel in &subscription.channels {
                listen_sql(&mut sql, channel);
            }
            self.listening.prefix = Some(sql);
        }
        Ok(None)
    }

    fn may_change_channels(&self, plan: &Plan) -> bool {
        let harmless = |fingerprint| self.context.harmless.is_known(fingerprint);
        plan.effects.intersects(CONCERNS)
            || plan.work.effect == Effect::Unknown
            || (plan.effects.contains(SessionEffects::UNKNOWN_FUNCTION)
                && !plan.unknown_functions.is_some_and(harmless))
    }

    /// Writes what must go in front of the batch that is being built.
    pub(super) fn lend_channels(&mut self, lease: &mut ServerLease) {
        if let Some(sql) = self.listening.prefix.take() {
            self.listening.lent = true;
            frontend::query(&mut lease.wire.outbox, &sql);
            self.exchange.push(Expect::OwnQuery);
            lease.unnamed = None;
        }
    }

    /// The client's server connection listens by itself, and keeps doing so.
    fn keeps_notifications(&self) -> bool {
        self.mode == PoolMode::Session || self.pin_reason() == Some(PinReason::Listen)
    }

    /// A notification from the client's server connection.
    pub(super) fn on_notification(&mut self, lease: &mut ServerConn, body: &[u8]) -> Verdict {
        let own_pid = lease.identity().pid;
        let mut reader = body;
        if body.len() < 4 {
            lease.mark_broken();
            return Verdict::Drop;
        }
        let pid = reader.get_i32();
        let is_own = pid == own_pid;
        if self.listening.holds_ready {
            // Others' come from the listener; the client's LISTEN is not answered yet.
            if is_own {
                self.listening.own.push(Bytes::copy_from_slice(reader));
            }
        } else if self.keeps_notifications() || self.effects.intersects(UNKNOWN) {
            // The second: something unknown has listened, which pins the client once it is found.
            let me = self.handle().id;
            let from = is_own.then_some(me);
            write(&mut self.exchange.injected, me, pid, from, reader);
        } else {
            // Nobody who is there has asked for it.
            lease.mark_broken();
        }
        Verdict::Drop
    }

    /// The transaction has ended and the client has not been told: finds out what it listens to now, gives it
    /// what there is, and tells it.
    ///
    /// # Cancel safety
    /// A dropped future leaves the connection listening and not returned: it is closed.
    pub(super) async fn settle_listening(&mut self, lease: &mut ServerLease) -> Result<(), SessionError> {
        let is_held = std::mem::take(&mut self.listening.ready_is_held);
        self.listening.holds_ready = false;
        self.listening.prefix = None;
        let lent = std::mem::take(&mut self.listening.lent);
        let asks = std::mem::take(&mut self.listening.asks);
        let own = std::mem::take(&mut self.listening.own);
        let before = self.channels();
        let found = if asks { Some(ask(lease).await?) } else { None };
        let listens = lent || found.as_ref().is_some_and(|found| !found.is_empty());
        let now = match found {
            // What was not lent cannot have been given up; it does not come to that.
            Some(found) if !lent => before.union(&found).cloned().collect(),
            Some(found) => found,
            None => before.clone(),
        };
        if now != before
            && let Some(fingerprint) = self.unknown_functions
        {
            self.context.harmless.seen(fingerprint, false);
        }
        self.listen_to(now, lease).await?;
        self.tell(own, lease.identity().pid, &before)?;
        if is_held {
            backend::ready_for_query(&mut self.wire.outbox, TransactionStatus::Idle);
        }
        // Not waited for: the rest is none of the client's business.
        if let Poll::Ready(Err(error)) = self.wire.poll_flush(&mut Context::from_waker(Waker::noop())) {
            return Err(SessionError::ClientGone(error));
        }
        if listens {
            lease.simple_query("UNLISTEN *").await?;
        }
        lease.notifications.clear();
        self.effects.remove(
            SessionEffects::LISTEN.union(SessionEffects::UNLISTEN).union(SessionEffects::SHOWS_LISTENING),
        );
        Ok(())
    }

    fn channels(&self) -> BTreeSet<Channel> {
        self.listening.subscription.as_ref().map(|s| s.channels.clone()).unwrap_or_default()
    }

    /// Joins and leaves channels, and waits until the listener has come to the end of the transaction.
    async fn listen_to(&mut self, now: BTreeSet<Channel>, lease: &ServerLease) -> Result<(), SessionError> {
        if now.is_empty() {
            self.listening.subscription = None;
            return Ok(());
        }
        if self.listening.subscription.is_none() {
            let limit = self.topology.config.limits.notification_bytes_per_client;
            self.listening.subscription = Some(Box::new(Subscription {
                listener: self.listener(),
                mailbox: Arc::new(Mailbox::new(Arc::clone(self.handle()), limit)),
                channels: BTreeSet::new(),
                claimed: 0,
            }));
        }
        let Some(subscription) = &mut self.listening.subscription else { return Ok(()) };
        let is_new = subscription.channels.is_empty();
        let (listener, mailbox) = (Arc::clone(&subscription.listener), Arc::clone(&subscription.mailbox));
        listener.leave(&mailbox, subscription.channels.difference(&now));
        let joined: BTreeSet<_> = now.difference(&subscription.channels).cloned().collect();
        subscription.channels = now;
        let claim = self.claim(lease);
        let result = self.wait_for(listener.join(&mailbox, joined.clone(), claim)).await?;
        match result {
            Ok(()) => Ok(()),
            // It was closed because nobody used it, between our looking for it and joining.
            Err(ListenError::Lost(_)) if is_new => {
                let listener = self.listener();
                if let Some(subscription) = &mut self.listening.subscription {
                    subscription.listener = Arc::clone(&listener);
                }
                let claim = self.claim(lease);
                self.wait_for(listener.join(&mailbox, joined, claim)).await?.map_err(|error| too_late(&error))
            }
            Err(error) if is_new => Err(too_late(&error)),
            Err(error) => Err(lost(&error)),
        }
    }

    /// Only processes of the primary notify.
    fn claim(&self, lease: &ServerLease) -> Option<Arc<ServerInfo>> {
        (self.target == Target::Primary).then(|| Arc::clone(&lease.info))
    }

    /// Everything in the mailbox and the client's own notifications, in order.
    fn tell(
        &mut self,
        own: Vec<Bytes>,
        own_pid: i32,
        before: &BTreeSet<Channel>,
    ) -> Result<(), SessionError> {
        let mut waiting = VecDeque::new();
        if let Some(subscription) = &self.listening.subscription {
            waiting = subscription.mailbox.take_all();
            // What came before an UNLISTEN that has taken effect.
            waiting.retain(|notification| subscription.channels.contains(notification.channel()));
        }
        let me = self.handle().id;
        for notification in merge(waiting, own, own_pid, me, |channel| before.contains(channel)) {
            self.tell_one(&notification)?;
        }
        Ok(())
    }

    fn tell_one(&mut self, notification: &Notification) -> Result<(), SessionError> {
        let encoding = self.told.value("client_encoding").unwrap_or_default();
        if let Some(subscription) = &self.listening.subscription
            && subscription.listener.key.encoding != encoding
            && !notification.body.is_ascii()
        {
            return Err(SessionError::Refused(Box::new(other_encoding(
                &subscription.listener.key.encoding,
                encoding,
            ))));
        }
        let me = self.handle().id;
        write(&mut self.wire.outbox, me, notification.pid, notification.from, &notification.body);
        Ok(())
    }

    /// Whether the client is between transactions.
    pub(super) fn may_deliver(&self) -> bool {
        !self.awaiting_sync && !self.exchange.skipping && !self.is_in_transaction()
    }

    /// Between transactions: tells the client what has come.
    pub(super) fn deliver(&mut self) -> Result<(), SessionError> {
        while self.may_deliver() && self.wire.outbox.len() < OUTBOX_BYTES_MAX {
            let Some(subscription) = &self.listening.subscription else { break };
            let Some(notification) = subscription.mailbox.take() else { break };
            self.tell_one(&notification)?;
        }
        Ok(())
    }

    /// What came with answers to queries of our own: for a client whose server connection listens for it.
    pub(super) fn pass_notifications(&mut self, lease: &mut ServerLease) {
        let heard = std::mem::take(&mut lease.notifications);
        if !self.keeps_notifications() {
            return;
        }
        let (me, own_pid) = (self.handle().id, lease.identity().pid);
        let mut rest = &heard[..];
        while let Ok(Some((header, mut body, tail))) = frame::split(rest, usize::MAX) {
            rest = tail;
            if header.total_len >= HEADER_LEN + 4 {
                let pid = body.get_i32();
                write(&mut self.wire.outbox, me, pid, (pid == own_pid).then_some(me), body);
            }
        }
    }

    /// The listener of this client: its database, user and encoding, on the present primary.
    fn listener(&self) -> Arc<Listener> {
        let key = ListenerKey {
            database: self.database.name.clone(),
            user: self.user.clone(),
            encoding: self.told.value("client_encoding").unwrap_or("UTF8").to_owned(),
        };
        let primary = self.database.cluster.writer();
        self.context
            .pools
            .listener(key, primary, || self.topology.target(&self.database, &self.user, primary))
    }

    /// Waits for a listener; orders are obeyed meanwhile. It answers in bounded time.
    async fn wait_for<T>(&self, question: impl Future<Output = T>) -> Result<T, SessionError> {
        let mut question = pin!(question);
        poll_fn(|cx| {
            if let Poll::Ready(answer) = question.as_mut().poll(cx) {
                return Poll::Ready(Ok(answer));
            }
            match self.handle().pending_order(Some(cx)) {
                Order::None
                | Order::Drain
                | Order::QueryTimeout
                | Order::IdleTimeout
                | Order::IdleInTransactionTimeout => Poll::Pending,
                order => Poll::Ready(Err(SessionError::Ordered(order))),
            }
        })
        .await
    }
}

/// What the server connection listens to.
async fn ask(lease: &mut ServerLease) -> Result<BTreeSet<Channel>, SessionError> {
    let rows = lease.simple_query(ASK).await?;
    Ok(rows.into_iter().flatten().flatten().map(|text| from_hex(text.as_bytes())).collect())
}

fn no_listener(error: &ListenError) -> ErrorResponse {
    use crate::server::ConnectError;
    let code = match error {
        ListenError::Connect(cause) => match &**cause {
            ConnectError::Refused { code, .. } => *code,
            _ => SqlState::CANNOT_CONNECT_NOW,
        },
        ListenError::Lost(_) => SqlState::CANNOT_CONNECT_NOW,
    };
    ErrorResponse::error(code, "could not open the connection that receives notifications")
        .detail(format!("{error}."))
        .hint("pgweir needs one server connection outside the pools for each database and user that listens.")
}

/// The LISTEN is committed, and the client cannot be told that it listens.
fn too_late(error: &ListenError) -> SessionError {
    SessionError::Refused(Box::new(no_listener(error).into_fatal()))
}

fn lost(error: &ListenError) -> SessionError {
    tracing::debug!(%error, "a client's listener is lost");
    SessionError::Ordered(Order::ListenerLost)
}

fn other_encoding(listener: &str, client: &str) -> ErrorResponse {
    ErrorResponse::fatal(
        SqlState::FEATURE_NOT_SUPPORTED,
        "terminating connection: a notification has come in another encoding than the client's",
    )
    .detail(format!("The client used {listener} when it said LISTEN, and uses {client} now."))
    .hint("Set client_encoding before the first LISTEN.")
}
