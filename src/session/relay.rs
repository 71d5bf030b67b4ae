//! Bytes both ways until the server owes nothing.
//!
//! One poll function drives both sockets of the session. Bodies are not looked into; a run of messages
//! for the client is written straight from the server's read buffer. A side that does not read stops the
//! reading from the other side: buffers do not grow beyond the marks below.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};

use crate::catalog::{SearchPath, Snapshot};
use crate::clients::{Order, ServerIdentity};
use crate::cluster::TableSet;
use crate::config::PoolMode;
use crate::net::Wire;
use crate::pool::{Facts, ServerLease};
use crate::protocol::frame::{HEADER_LEN, SERVER_FRAME_LIMIT};
use crate::protocol::{
    BackendTag, ErrorFields, ErrorResponse, FrontendTag, SqlState, TransactionStatus, backend, frame,
    frontend, parameters, raw_error,
};
use crate::route::{Reason, Target};
use crate::server::{ServerConn, row_shape, send_cancel};
use crate::sql::{Effect, SessionEffects};
use crate::task::{self, Moment};

use super::batch::{self, Batch, BatchEnd, Given, Plan};
use super::client::ClientSession;
use super::databases::Left;
use super::error::SessionError;
use super::exchange::{Aftermath, Expect, Undo, Verdict};
use super::heal::Replay;
use super::settings::is_portable;
use super::sharded::Placed;

/// What a client may send while the server waits for COPY data.
const MEANS_SOMETHING_IN_COPY: [FrontendTag; 5] = [
    FrontendTag::COPY_DATA,
    FrontendTag::COPY_DONE,
    FrontendTag::COPY_FAIL,
    FrontendTag::FLUSH,
    FrontendTag::SYNC,
];
/// A search path that nobody knows.
static ANYWHERE: LazyLock<SearchPath> = LazyLock::new(SearchPath::unknown);

/// With more than this waiting for a side, no more is read from the other.
const HIGH_WATER_BYTES: usize = 256 * 1024;
/// Why a COPY is given up into which the client has sent something else. Our own words are found again in the error.
const STRAY: &str = "pgweir: unexpected message";
/// How much is read ahead from a client while its query runs.
const READ_AHEAD_BYTES_MAX: usize = 64 * 1024;

impl ClientSession {
    /// Routes a batch, sends it, and relays until it is answered.
    pub(super) async fn run_batch(&mut self, mut batch: Batch) -> Result<(), SessionError> {
        let mut refusal = None;
        if self.sharded.is_some() {
            let placed = match self.place(batch)? {
                Placed::Elsewhere(shard) => match task::boxed(|| self.move_to(shard)).await {
                    Ok(()) => Placed::Here,
                    Err(refusal) => Placed::Refused(refusal),
                },
                other => other,
            };
            match placed {
                Placed::Here | Placed::Elsewhere(_) => {}
                Placed::Everywhere(placement) => {
                    return task::boxed(|| self.run_everywhere(batch, placement)).await;
                }
                Placed::Refused(response) if self.lease.is_none() && self.begun.is_none() => {
                    self.refuse(batch, &response);
                    return Ok(());
                }
                Placed::Refused(response) => refusal = Some(*response),
            }
        }
        let bytes = self.wire.inbox.get(..batch.len).unwrap_or_default();
        self.reading.refresh(&self.settings);
        self.catalog_epoch = match &self.sharded {
            None => self.database.catalog_epoch.load(Ordering::Acquire),
            Some(sharded) => sharded.set.catalog_epoch(),
        };
        let generation = self.database.catalog.generation();
        let snapshot = self.database.catalog.load();
        let facts = self.database.horizons.is_watched().then(|| self.facts(&snapshot));
        let given = self.given(facts);
        let mut plan = Plan::default();
        batch::find_out(&mut plan, bytes, given)?;
        if let Some(len) = plan.cut {
            batch = Batch { end: BatchEnd::Partial, len };
            plan = Plan::of(bytes.get(..len).unwrap_or_default(), given)?;
        }
        if plan.misses_catalog {
            self.database.catalog.miss();
        }
        drop(snapshot);
        if matches!(batch.end, BatchEnd::Flush | BatchEnd::Partial) && !plan.only_asks {
            // A transaction goes on after it, and may write.
            plan.work.effect = plan.work.effect.max(Effect::Write);
            plan.work.begins_read_only = false;
        }
        if let Some(rare) = plan.rare_if_any() {
            rare.set = rare.set.take().filter(|set| is_portable(set.value.as_deref(), &self.told));
        }
        if self.leading.is_some() {
            self.lead_on(batch, &plan).await;
        }
        let room = self.statements.len() < self.topology.config.limits.prepared_statements_per_client;
        let is_free = self.lease.is_none() && self.begun.is_none();
        if is_free && plan.is_local && room {
            return self.run_locally(batch, &mut plan);
        }
        if is_free && self.sets_nothing_new(&plan, batch) {
            self.confirm_setting(batch);
            return Ok(());
        }
        if plan.begins && self.mode == PoolMode::Statement {
            let response = SessionError::Mode(self.mode).response();
            if let Some(mut response) = response {
                response.severity = crate::protocol::Severity::Error;
                self.refuse(batch, &response);
            }
            return Ok(());
        }
        if self.lease.is_none() && self.begin_or_end_locally(batch, &plan) {
            return Ok(());
        }
        let begun = self.begun.take();
        let work = begun.as_ref().map_or(plan.work, |begun| begun.work.and(plan.work));
        let leads =
            begun.as_ref().is_some_and(|b| b.may_lead != Some(false)) && self.batch_may_lead(batch, &plan);
        let mut left = self.leave_databases(&plan.rare().databases);
        let began = Moment::now();
        let mut lease = match self.lease.take() {
            Some(lease) => {
                let held = if lease.status == TransactionStatus::Idle {
                    Reason::Pinned
                } else {
                    Reason::SameTransaction
                };
                self.database.routes.count(held);
                lease
            }
            None => {
                match self.checkout_beginning(work, &plan, begun.as_ref().filter(|_| leads), began).await? {
                    Ok(lease) => lease,
                    Err(response) => {
                        if begun.is_some() {
                            self.transaction_began = None;
                        }
                        self.refuse(batch, &response);
                        return Ok(());
                    }
                }
            }
        };
        left.iter_mut().for_each(Left::command_begins);
        // What stands alone, or has only read so far.
        if is_free || self.leading.is_some() {
            self.arm_retry(batch, &mut plan);
        } else {
            self.retry.runs_elsewhere();
        }
        if let Some(begun) = begun
            && let Err(error) = self.begin_on(&mut lease, begun, &plan, refusal.is_some()).await
        {
            return self.settings_failed_early(lease, batch, error);
        }
        self.handle().works(began);
        self.transaction_began.get_or_insert(began);
        self.arm(self.topology.config.timeouts.query, Order::QueryTimeout);
        if let Some(error) = refusal.or_else(|| self.forbids(&plan, lease.pool())) {
            self.fail_batch(&mut lease, batch, error);
            return self.exchange_with(lease).await;
        }
        if self.concerns_listening(&plan)
            && let Some(error) = self.prepare_listening(&mut lease, &plan, batch.end).await?
        {
            self.fail_batch(&mut lease, batch, error);
            return self.exchange_with(lease).await;
        }
        self.sequenced |= plan.sequenced;
        self.changes_catalog |= plan.changes_catalog;
        let is_first = self.effects == SessionEffects::NONE && !self.awaiting_sync;
        self.effects.insert(plan.effects);
        if self.target == Target::Primary && plan.writes {
            self.wrote = true;
            self.mark_writes(&plan, generation);
            lease.info.notifier.store(self.handle().id.0, Ordering::Release);
        }
        self.deallocates_all |= plan.deallocates_all;
        self.unknown_functions = plan.unknown_functions.or(self.unknown_functions);
        self.pending_set = None;
        let stands_alone = is_first && plan.queries == 1 && lease.status == TransactionStatus::Idle;
        if let Some(rare) = plan.rare_if_any() {
            self.custom_names.append(&mut rare.custom_names);
            self.pending_set = rare.set.take().filter(|_| stands_alone).map(Box::new);
        }
        if plan.may_reset {
            let bytes = self.wire.inbox.get(..batch.len).unwrap_or_default();
            plan.rare_mut().resets = self.resets_in(bytes);
        }
        self.reads_otherwise |= plan.reads_otherwise;
        if plan.changes_catalog {
            // And again when it is done: what is prepared in between is of no use either.
            self.database.catalog_epoch.fetch_add(1, Ordering::AcqRel);
        }
        if !(plan.told.is_empty() && plan.rare().foreign.is_empty())
            && let Some(error) = self.check_statements(&mut lease, &plan).await?
        {
            self.fail_batch_raw(&mut lease, batch, error);
            return self.exchange_with(lease).await;
        }
        if plan.uses_named && self.may_replay(&lease, batch, plan.only_asks) {
            self.retry.keep(self.wire.inbox.get(..batch.len).unwrap_or_default());
            self.replay = Some(Replay { from: 0, end: batch.end, tries: 0 });
        }
        if plan.may_end
            && let Err(error) = self.sync_settings_now(&mut lease).await
        {
            return self.settings_failed_early(lease, batch, error);
        }
        self.build(&mut lease, batch, &mut plan)?;
        let result = self.exchange_for(lease, Some((plan.queries, began))).await;
        if let Some(name) = &plan.rare().deallocated
            && !self.saw_error
        {
            self.statements.set(name, None);
        }
        result
    }

    /// What the meaning of a batch depends on now.
    pub(super) fn given<'a>(&'a self, facts: Option<Facts<'a>>) -> Given<'a> {
        Given {
            context: &self.context,
            lex: self.lex,
            statements: &self.statements,
            reading: &self.reading,
            epoch: self.catalog_epoch,
            facts,
            limit: self.topology.config.limits.message_bytes,
            analyzed: self.sharded.as_deref().and_then(|sharded| sharded.analyzed.as_ref()),
        }
    }

    /// What the catalog adds to the texts of a batch.
    fn facts<'a>(&'a self, snapshot: &'a Snapshot) -> Facts<'a> {
        let path = if self.reads_otherwise { &ANYWHERE } else { self.reading.path() };
        self.database.facts(snapshot, path, &ANYWHERE)
    }

    /// Marks what a batch may write, just before it is sent.
    fn mark_writes(&mut self, plan: &Plan, generation: u64) {
        if !self.database.horizons.is_watched() {
            return;
        }
        if plan.changes_catalog {
            self.writes.begin_ddl(&self.database);
        }
        let current = generation == self.database.catalog.generation();
        if plan.writes_anything || (!current && plan.resolved.iter().any(|r| !r.writes.is_empty())) {
            self.writes.begin(&self.database, &TableSet::All, generation);
        }
        let mut unseen = plan.writes_anything;
        for resolved in &plan.resolved {
            self.writes.begin(&self.database, &resolved.writes, generation);
            unseen |= matches!(resolved.writes, TableSet::All);
        }
        if unseen {
            self.writes.run_unseen(&plan.fingerprints);
        }
    }

    /// Relays until the server owes nothing, then keeps the lease or gives it back.
    ///
    /// # Cancel safety
    /// The lease is inside the future and owes replies: dropping it closes the server connection.
    pub(super) async fn exchange_with(&mut self, lease: ServerLease) -> Result<(), SessionError> {
        self.exchange_for(lease, None).await
    }

    /// The same for a batch of so many statements, which has begun then: they are counted.
    async fn exchange_for(
        &mut self,
        mut lease: ServerLease,
        batch: Option<(u64, Moment)>,
    ) -> Result<(), SessionError> {
        lease.begin_exchange();
        self.saw_error = false;
        task::after_others().await;
        loop {
            let result = poll_fn(|cx| self.poll_exchange(&mut lease, cx)).await;
            self.handle().clear_deadline();
            match result {
                Ok(()) => {}
                Err(SessionError::Settings(error)) if self.pin.is_none() => {
                    self.settings_failed(lease, &error);
                    return Ok(());
                }
                Err(error) => {
                    lease.mark_broken();
                    return Err(error);
                }
            }
            match self.heal.take() {
                None => break,
                Some(heal) => self.heal_plan(&mut lease, *heal).await?,
            }
            lease.begin_exchange();
        }
        self.answered_at = Moment::now();
        if let Some((queries, began)) = batch {
            let took = self.answered_at.micros_since(began);
            let stats = &lease.pool().stats;
            stats.add(|stats| &stats.queries, queries);
            stats.add(|stats| &stats.query_time, took);
            lease.pool().node.statements.fetch_add(queries, Ordering::Relaxed);
            self.context.histograms.query(took);
        }
        self.replay = None;
        self.retry.answered();
        if let Some(failure) = self.own_failure.take() {
            // The client's settings could not be made on this connection: its answers mean nothing.
            lease.mark_broken();
            return Err(SessionError::ServerLost(format!(
                "session settings could not be applied: {failure}"
            )));
        }
        lease.end_exchange();
        if self.saw_error {
            // It failed, or was skipped.
            self.pending_set = None;
        }
        self.after_deallocate(&mut lease);
        // Also where no Flush was in play: a Query behind an error in a pipeline is skipped, too.
        self.awaiting_sync |= std::mem::take(&mut self.exchange.server_skips);
        if self.awaiting_sync || lease.status != TransactionStatus::Idle {
            if self.mode == PoolMode::Statement && !self.awaiting_sync {
                lease.mark_broken();
                return Err(SessionError::Mode(self.mode));
            }
            self.lease = Some(lease);
            return Ok(());
        }
        self.transaction_ended(lease).await
    }

    /// The server is idle: counts, looks at what was left behind, and lets the connection go if it may.
    pub(super) async fn transaction_ended(&mut self, mut lease: ServerLease) -> Result<(), SessionError> {
        if let Some(began) = self.transaction_began.take() {
            let took = self.answered_at.micros_since(began);
            lease.pool().stats.add(|stats| &stats.transactions, 1);
            lease.pool().stats.add(|stats| &stats.transaction_time, took);
            self.context.histograms.transaction(took);
        }
        self.leading = None;
        self.count_bytes(lease.pool());
        let wrote = std::mem::take(&mut self.wrote);
        self.note_what_was_seen(wrote);
        if !self.writes.is_empty() {
            self.writes.acknowledged(&self.database.cluster);
        }
        self.reads_otherwise = false;
        lease.prepared.drop_tainted();
        if self.listening.must_settle() {
            self.settle_listening(&mut lease).await?;
        }
        if self.effects != SessionEffects::NONE {
            self.look_at_session(&mut lease).await?;
        }
        if !lease.client_names.is_empty() {
            self.forget_client_names(&mut lease).await?;
        }
        if !lease.notifications.is_empty() {
            self.pass_notifications(&mut lease);
        }
        if self.sequenced {
            self.pin_for_sequences(&lease)?;
        }
        if self.pin.is_some() || self.mode == PoolMode::Session {
            self.lease = Some(lease);
            return Ok(());
        }
        if lease.pool().checks() {
            self.verify(&mut lease).await?;
        }
        self.handle().unlink();
        lease.checkin_at(self.answered_at);
        self.handle().idles();
        Ok(())
    }

    /// Whether the server is asked something before the connection goes back.
    fn is_asked_more(&self, lease: &ServerLease) -> bool {
        self.effects != SessionEffects::NONE
            || self.listening.must_settle()
            || self.sequenced
            || !lease.client_names.is_empty()
            || lease.pool().checks()
    }

    fn poll_exchange(
        &mut self,
        lease: &mut ServerLease,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SessionError>> {
        self.obey_while_running(lease.identity(), cx)?;
        loop {
            if self.exchange.wants_probe && self.pass_to_server == 0 {
                self.send_probe(lease);
            }
            // What it wrote makes room for what is read below, in this same round.
            self.poll_to_server(lease, cx);
            let mut progress = false;
            let withheld = self.wire.outbox.len() >= HIGH_WATER_BYTES;
            if !withheld && !self.is_answered() {
                progress |= self.poll_from_server(lease, cx)?;
            }
            let is_over = self.is_answered() && self.send_from_inbox == 0 && lease.wire.outbox.is_empty();
            // What is left for the client at the end is written while the connection is in the pool already.
            if is_over && !self.is_asked_more(lease) {
                return Poll::Ready(Ok(()));
            }
            match self.wire.poll_flush(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(SessionError::ClientGone(error))),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            if is_over {
                return Poll::Ready(Ok(()));
            }
            // The client has taken some: the server was not asked for more, so nothing else would wake us.
            progress |= withheld && self.wire.outbox.len() < HIGH_WATER_BYTES;
            if self.must_hear_client() {
                progress |= self.poll_from_client(lease, cx)?;
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    /// Whether the client has to be listened to while its request runs: it sends COPY data, or may be unable to take
    /// its answers before we have taken more of what it sends; else after a moment, to notice that it leaves. What
    /// most requests take is less than that, and then it costs nothing.
    fn must_hear_client(&self) -> bool {
        self.takes_copy_data() || !self.wire.outbox.is_empty() || self.handle().works_long()
    }

    fn takes_copy_data(&self) -> bool {
        self.exchange.copy_in || self.pass_to_server > 0
    }

    fn is_answered(&self) -> bool {
        self.exchange.is_done() && self.pass_to_server == 0 && self.pass_to_client == 0
    }

    pub(super) fn obey_while_running(
        &mut self,
        server: &Arc<ServerIdentity>,
        cx: &Context<'_>,
    ) -> Result<(), SessionError> {
        let order = self.handle().pending_order(Some(cx));
        match order {
            Order::None | Order::Drain | Order::IdleTimeout | Order::IdleInTransactionTimeout => Ok(()),
            Order::QueryTimeout => {
                self.handle().clear_order(order);
                let target = Arc::clone(server);
                target.mark_canceled();
                task::spawn("cancel query", async move {
                    if let Err(error) = send_cancel(&target).await {
                        tracing::warn!(%error, server = %target.host, "could not cancel a query that took too long");
                    }
                });
                Ok(())
            }
            Order::TransactionTimeout
            | Order::NotificationOverflow
            | Order::ListenerLost
            | Order::PrimaryChanged
            | Order::Kill
            | Order::Shutdown => Err(SessionError::Ordered(order)),
        }
    }

    /// Writes what waits for the server. A server that does not take it any more may still have said why:
    /// the reading side finds out.
    fn poll_to_server(&mut self, lease: &mut ServerConn, cx: &mut Context<'_>) {
        if lease.wire.outbox.is_empty() && self.send_from_inbox == 0 {
            // TLS may hold a rest of what was taken already.
            let _ = lease.wire.poll_flush_stream(cx);
            return;
        }
        if let Poll::Ready(Err(_)) = self.write_to_server(lease, cx) {
            lease.wire.outbox.clear();
            self.wire.inbox.advance(std::mem::take(&mut self.send_from_inbox));
            lease.mark_broken();
        }
    }

    fn write_to_server(&mut self, lease: &mut ServerConn, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !lease.wire.outbox.is_empty() {
            ready!(lease.wire.poll_flush(cx))?;
        }
        while self.send_from_inbox > 0 {
            let bytes = self.wire.inbox.get(..self.send_from_inbox).unwrap_or_default();
            let count = ready!(lease.wire.poll_write(cx, bytes))?;
            self.wire.inbox.advance(count);
            self.send_from_inbox -= count;
        }
        lease.wire.poll_flush_stream(cx)
    }

    fn poll_from_server(
        &mut self,
        lease: &mut ServerConn,
        cx: &mut Context<'_>,
    ) -> Result<bool, SessionError> {
        match lease.wire.poll_fill(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => Err(SessionError::ServerLost("the server closed the connection".into())),
            Poll::Ready(Err(error)) => Err(SessionError::ServerLost(error.to_string())),
            Poll::Ready(Ok(count)) => {
                self.consume_server(lease, cx)?;
                if self.exchange.passes_bulk() {
                    lease
                        .wire
                        .rest_when_ahead(count)
                        .map_err(|error| SessionError::ServerLost(error.to_string()))?;
                }
                Ok(true)
            }
        }
    }

    /// Works off what was read from the server: passes it on, drops it, acts on it.
    pub(super) fn consume_server(
        &mut self,
        lease: &mut ServerConn,
        cx: &mut Context<'_>,
    ) -> Result<(), SessionError> {
        let mut inbox = std::mem::take(&mut lease.wire.inbox);
        let mut run = Run::default();
        let result = self.walk(lease, &inbox, &mut run);
        if result.is_ok() && self.wire.outbox.is_empty() && run.start < run.at {
            let bytes = inbox.get(run.start..run.at).unwrap_or_default();
            match self.wire.poll_write(cx, bytes) {
                Poll::Ready(Ok(count)) => run.start += count,
                Poll::Ready(Err(error)) => return Err(SessionError::ClientGone(error)),
                Poll::Pending => {}
            }
        }
        run.spill(&inbox, &mut self.wire.outbox);
        if result.is_err() {
            self.wire.outbox.extend_from_slice(&self.exchange.injected.split());
        }
        inbox.advance(run.at);
        if !inbox.is_empty() || !self.is_answered() {
            lease.wire.inbox = inbox;
        } else {
            Wire::spent(inbox);
        }
        result?;
        self.server_ended.take().map_or(Ok(()), |message| Err(SessionError::ServerEnded(message.into())))
    }

    fn walk(&mut self, lease: &mut ServerConn, inbox: &[u8], run: &mut Run) -> Result<(), SessionError> {
        let is_plain = self.replay.is_none() && !self.deallocates_all;
        loop {
            if !self.exchange.injected.is_empty() {
                // Behind what has been passed on, in front of what comes.
                run.spill(inbox, &mut self.wire.outbox);
                self.wire.outbox.extend_from_slice(&self.exchange.injected);
                self.exchange.injected.clear();
            }
            if self.pass_to_client > 0 {
                let count = self.pass_to_client.min(inbox.len() - run.at);
                run.at += count;
                self.pass_to_client -= count;
                if self.pass_to_client > 0 {
                    return Ok(());
                }
            }
            let rest = inbox.get(run.at..).unwrap_or_default();
            let header = match frame::peek(rest, SERVER_FRAME_LIMIT) {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(()),
                Err(error) => return Err(SessionError::ServerLost(error.to_string())),
            };
            let tag = BackendTag(header.tag);
            if matches!(tag, BackendTag::DATA_ROW | BackendTag::COPY_DATA) && self.exchange.passes_bulk() {
                if rest.len() >= header.total_len {
                    run.at += header.total_len;
                } else {
                    self.pass_to_client = header.total_len;
                }
                continue;
            }
            if rest.len() < header.total_len {
                return Ok(());
            }
            if is_plain && self.exchange.passes(tag) {
                run.at += header.total_len;
                continue;
            }
            let body = rest.get(HEADER_LEN..header.total_len).unwrap_or_default();
            let verdict = self.on_server_message(lease, tag, body)?;
            if verdict == Verdict::Drop {
                run.spill(inbox, &mut self.wire.outbox);
                run.start += header.total_len;
            }
            run.at += header.total_len;
        }
    }

    fn on_server_message(
        &mut self,
        lease: &mut ServerConn,
        tag: BackendTag,
        body: &[u8],
    ) -> Result<Verdict, SessionError> {
        match tag {
            BackendTag::PARAMETER_STATUS => return Ok(self.on_parameter(lease, body)),
            BackendTag::NOTICE_RESPONSE => {
                if let Some(error) = self.spares(tag, body) {
                    return Err(error);
                }
                return Ok(if self.exchange.is_ours() { Verdict::Drop } else { Verdict::Forward });
            }
            BackendTag::NOTIFICATION_RESPONSE => return Ok(self.on_notification(lease, body)),
            BackendTag::ERROR_RESPONSE => return self.on_error(lease, body),
            // From here on the batch has been answered in part.
            BackendTag::ROW_DESCRIPTION | BackendTag::NO_DATA => {
                self.note_shape(lease, tag, body);
                self.replay = None;
            }
            BackendTag::BIND_COMPLETE => self.replay = None,
            BackendTag::COMMAND_COMPLETE if self.deallocates_all => {
                self.deallocated_all |= matches!(body, b"DEALLOCATE ALL\0" | b"DISCARD ALL\0");
            }
            _ => {}
        }
        match self.exchange.on_message(tag) {
            Verdict::Unexpected => {
                Err(SessionError::ServerLost(format!("unexpected message {:#04x} from the server", tag.0)))
            }
            verdict if tag == BackendTag::READY_FOR_QUERY => Ok(self.on_ready(lease, body, verdict)),
            verdict => Ok(verdict),
        }
    }

    fn on_ready(&mut self, lease: &mut ServerConn, body: &[u8], verdict: Verdict) -> Verdict {
        // Not what we have asked ourselves, in front of the client's.
        let over = verdict == Verdict::Forward && body.first() == Some(&b'I');
        self.writes.before_acknowledgment(over);
        if let Some(status) = body.first().copied().and_then(TransactionStatus::from_byte) {
            lease.status = status;
        }
        if self.changes_catalog && lease.status == TransactionStatus::Idle && verdict == Verdict::Forward {
            // Before the client hears of it.
            self.changes_catalog = false;
            self.database.catalog_epoch.fetch_add(1, Ordering::AcqRel);
        }
        self.awaiting_sync &= verdict == Verdict::Drop;
        if std::mem::take(&mut self.exchange.answered_sync) {
            self.awaiting_sync = false;
            backend::ready_for_query(&mut self.exchange.injected, lease.status);
        }
        self.awaiting_sync |= self.exchange.skipping && self.exchange.is_done();
        if verdict == Verdict::Forward { self.pass_ready(lease) } else { verdict }
    }

    /// A ReadyForQuery for the client: as it came, in words of ours, or later.
    fn pass_ready(&mut self, lease: &ServerConn) -> Verdict {
        let restored = !self.restoring.is_empty();
        if restored {
            self.report_restored(lease);
        }
        let ended = lease.status == TransactionStatus::Idle && self.exchange.is_done();
        if ended && self.listening.hold() {
            return Verdict::Drop;
        }
        if restored {
            backend::ready_for_query(&mut self.exchange.injected, lease.status);
            return Verdict::Drop;
        }
        Verdict::Forward
    }

    /// What the server reported while startup settings were made again was not passed on; in the end the client
    /// must know what is.
    fn report_restored(&mut self, lease: &ServerConn) {
        self.restoring = Box::default();
        let news = self.news_of_settings(lease);
        self.exchange.injected.extend_from_slice(&news);
    }

    /// ParameterStatus messages for what a server has reported and the client does not know.
    pub(super) fn news_of_settings(&mut self, lease: &ServerConn) -> BytesMut {
        let mut news = BytesMut::new();
        let mut reported: Vec<_> =
            lease.parameters.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        // In PostgreSQL's order.
        reported.sort_by_cached_key(|(name, _)| name.to_ascii_lowercase());
        for (name, value) in reported {
            if name != "in_hot_standby" && self.told.insert(&name, &value) {
                backend::parameter_status(&mut news, &name, &value);
            }
        }
        self.lex = super::state::lex_options(&self.told);
        news
    }

    /// Errors that name a prepared statement name it as the client does. False when there is nothing to do.
    fn reword_error(&mut self, body: &[u8], blamed: Option<&[u8]>) -> bool {
        let Some(reworded) = self.statements.reword(body, blamed) else { return false };
        raw_error(&mut self.exchange.injected, &reworded);
        true
    }

    fn on_error(&mut self, lease: &mut ServerConn, body: &[u8]) -> Result<Verdict, SessionError> {
        let spared = self.spares(BackendTag::ERROR_RESPONSE, body);
        if let Some(error) = spared.or_else(|| self.ends_over_stray(body)) {
            return Err(error);
        }
        if self.replay.is_some() && self.begin_heal(lease, body) {
            return Ok(Verdict::Drop);
        }
        let (verdict, aftermath) = self.exchange.on_error();
        let blamed = aftermath.blamed();
        if aftermath.settings_failed && !ErrorFields::read(body).is_fatal() {
            return Err(SessionError::Settings(Box::new(super::settings::not_accepted(body))));
        }
        self.note_error(lease, body, aftermath);
        // The server skips all that comes up to a Sync, also when the batch ended with a Query that
        // it skipped, too: nobody else can use it before.
        self.awaiting_sync |= self.exchange.skipping && self.exchange.is_done();
        if verdict == Verdict::Forward && self.reword_error(body, blamed.as_deref()) {
            return Ok(Verdict::Drop);
        }
        Ok(verdict)
    }

    fn note_error(&mut self, lease: &mut ServerConn, body: &[u8], aftermath: Aftermath) {
        let fields = ErrorFields::read(body);
        if aftermath.own_failure || aftermath.settings_failed {
            self.own_failure = Some(fields.message_lossy().into());
        } else if !aftermath.is_ours {
            self.saw_error = true;
        }
        self.undo(lease, aftermath);
        if fields.is_fatal() {
            // The client gets the server's own words, and then the connection ends, as it would without us.
            lease.mark_broken();
            self.server_ended = Some(fields.message_lossy().into());
        }
    }

    /// What the client is told of a statement's rows is remembered, for the case that they change.
    fn note_shape(&mut self, lease: &mut ServerConn, tag: BackendTag, body: &[u8]) {
        if let Some(described) = self.exchange.describes() {
            let shape = row_shape(if tag == BackendTag::NO_DATA { b"" } else { body });
            self.statements.told(&described.name, described.id, shape);
            lease.prepared.describe(described.id, shape);
        }
    }

    /// Takes back what requests that did not happen would have changed.
    pub(super) fn undo(&mut self, lease: &mut ServerConn, aftermath: Aftermath) {
        for (place, expect) in aftermath.undone.into_iter().enumerate().rev() {
            match expect {
                Expect::Parse { visible, definition, undo } => {
                    match definition {
                        Some(definition) => drop(lease.prepared.remove(definition.id)),
                        None => lease.unnamed = None,
                    }
                    let unnamed = matches!(&undo, Undo::Client { name, .. } if name.is_empty());
                    let is_read = || self.statements.find(b"").is_none_or(|d| self.is_readable(&d.sql));
                    if visible && unnamed && place == 0 && is_read() {
                        // The one that fails has dropped its predecessor before.
                        self.statements.set(b"", None);
                    } else {
                        self.statements.undo(undo);
                    }
                }
                Expect::ParseByName { added, undo } => {
                    if let Undo::Client { name, .. } = &undo {
                        lease.client_names.retain(|known| !added || known != name);
                    }
                    self.statements.undo(undo);
                }
                Expect::InjectParse(undo) | Expect::InjectClose(undo) | Expect::Close(undo) => {
                    self.statements.undo(undo);
                }
                Expect::Query(undo) => {
                    self.pending_set = None;
                    self.statements.undo(undo);
                }
                Expect::OwnParse(name) => lease.client_names.retain(|known| *known != name),
                Expect::Decoy => lease.prepared.has_decoy = false,
                Expect::OwnClose(definition) => lease.prepared.doom(definition),
                _ => {}
            }
        }
    }

    /// A setting that the server reports: the client hears of it if that is news to it.
    fn on_parameter(&mut self, lease: &mut ServerConn, body: &[u8]) -> Verdict {
        let Ok((name, value)) = parameters::parse(body) else { return Verdict::Drop };
        lease.parameters.insert(name, value);
        // Standby or not is told as the primary's: the client talks to all nodes at once.
        if name == "in_hot_standby" {
            return Verdict::Drop;
        }
        if !self.restoring.is_empty() {
            // Told in the end, in PostgreSQL's order, and only what has changed.
            return Verdict::Drop;
        }
        if !self.told.insert(name, value) {
            return Verdict::Drop;
        }
        self.lex = super::state::lex_options(&self.told);
        self.retry.disarm();
        Verdict::Forward
    }

    /// Reads from the client while its request runs: COPY data goes on to the server, anything else waits,
    /// and a client that leaves is noticed.
    fn poll_from_client(
        &mut self,
        lease: &mut ServerConn,
        cx: &mut Context<'_>,
    ) -> Result<bool, SessionError> {
        let mut progress = false;
        if self.takes_copy_data() && self.send_from_inbox == 0 {
            progress = self.pass_copy_data(lease)?;
        }
        if lease.wire.outbox.len() >= HIGH_WATER_BYTES || self.wire.inbox.len() >= READ_AHEAD_BYTES_MAX {
            return Ok(progress);
        }
        match self.wire.poll_fill(cx) {
            Poll::Pending => Ok(progress),
            Poll::Ready(Ok(0)) => Err(SessionError::ClientGone(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Err(error)) => Err(SessionError::ClientGone(error)),
            Poll::Ready(Ok(_)) => Ok(true),
        }
    }

    /// Marks COPY messages at the front of the inbox to be sent to the server.
    fn pass_copy_data(&mut self, lease: &mut ServerConn) -> Result<bool, SessionError> {
        let limit = self.topology.config.limits.message_bytes;
        let mut at = 0;
        let mut flush = false;
        while at < self.wire.inbox.len() {
            if self.pass_to_server > 0 {
                let count = self.pass_to_server.min(self.wire.inbox.len() - at);
                at += count;
                self.pass_to_server -= count;
                continue;
            }
            if !self.exchange.copy_in {
                break;
            }
            let rest = self.wire.inbox.get(at..).unwrap_or_default();
            let Some(header) = frame::peek(rest, limit)? else { break };
            match FrontendTag(header.tag) {
                FrontendTag::COPY_DATA => self.pass_to_server = header.total_len,
                FrontendTag(tag) if !MEANS_SOMETHING_IN_COPY.contains(&FrontendTag(tag)) => {
                    self.exchange.copy_in = false;
                    self.exchange.stray = Some(tag);
                }
                _ if rest.len() < header.total_len => break,
                FrontendTag::COPY_DONE | FrontendTag::COPY_FAIL => {
                    self.pass_to_server = header.total_len;
                    self.exchange.copy_in = false;
                    flush = self.exchange.in_extended();
                }
                // Ignored by the server during COPY, so that clients may always send them.
                FrontendTag::FLUSH => self.pass_to_server = header.total_len,
                _ => {
                    self.pass_to_server = header.total_len;
                    self.exchange.copy_syncs += 1;
                }
            }
        }
        self.send_from_inbox = at;
        if flush {
            self.finish_extended_copy(lease);
        }
        let strays = self.exchange.stray.is_some();
        if strays {
            self.give_up_copy(lease);
        }
        Ok(at > 0 || strays)
    }

    /// The client has sent into a COPY what does not belong there, and PostgreSQL would end the connection over it;
    /// unless the COPY has failed already: then it is the next request. The server is asked by giving the COPY up, so
    /// that it gets that request never as what it is not.
    fn give_up_copy(&mut self, lease: &mut ServerConn) {
        let bytes = self.wire.inbox.split_to(self.send_from_inbox);
        self.send_from_inbox = 0;
        lease.wire.outbox.extend_from_slice(&bytes);
        frontend::copy_fail(&mut lease.wire.outbox, STRAY);
    }

    /// The end of the connection over such a message, in PostgreSQL's words; `None` if the COPY had failed before.
    fn ends_over_stray(&mut self, body: &[u8]) -> Option<SessionError> {
        let stray = self.exchange.stray.take()?;
        let fields = ErrorFields::read(body);
        if !fields.message_lossy().contains(STRAY) {
            return None;
        }
        let message = format!("unexpected message type 0x{stray:02X} during COPY from stdin");
        ErrorResponse::error(SqlState::PROTOCOL_VIOLATION, message)
            .context(String::from_utf8_lossy(fields.context).into_owned())
            .write(&mut self.exchange.injected);
        let lost = "terminating connection because protocol synchronization was lost";
        Some(SessionError::Protocol(lost.to_owned()))
    }

    /// A COPY has failed among data in which there were Syncs. Those in front of the error were part of the COPY
    /// and are not answered; those behind it are. Only the server knows: what it answers in front of a Query of
    /// ours are those, and one Sync more.
    fn send_probe(&mut self, lease: &mut ServerConn) {
        self.exchange.wants_probe = false;
        let bytes = self.wire.inbox.split_to(self.send_from_inbox);
        self.send_from_inbox = 0;
        lease.wire.outbox.extend_from_slice(&bytes);
        frontend::sync(&mut lease.wire.outbox);
        frontend::query(&mut lease.wire.outbox, b"");
        lease.unnamed = None;
    }

    /// In the extended protocol nothing is flushed before the Sync, for which the client may wait until
    /// it has the answer: ask for it.
    fn finish_extended_copy(&mut self, lease: &mut ServerConn) {
        let bytes = self.wire.inbox.split_to(self.send_from_inbox);
        self.send_from_inbox = 0;
        lease.wire.outbox.extend_from_slice(&bytes);
        frontend::flush(&mut lease.wire.outbox);
        self.awaiting_sync = true;
    }
}

/// The part of the read buffer that goes to the client: from `start` to `at`, what is before is done.
#[derive(Debug, Default)]
struct Run {
    start: usize,
    at: usize,
}

impl Run {
    /// Copies what is collected to `out`.
    fn spill(&mut self, inbox: &[u8], out: &mut BytesMut) {
        out.extend_from_slice(inbox.get(self.start..self.at).unwrap_or_default());
        self.start = self.at;
    }
}
