//! A transaction on all shards: for what must be the same on each of them.
//!
//! DDL, and changes of tables that are everywhere, run on one shard after the other, always in the same order, so
//! that two clients that do the same wait for each other and not for ever. Each shard has a transaction of its own;
//! the client is told nothing before all have answered, and alike. They commit one after the other, when nothing
//! but the loss of a server can make a COMMIT fail: deferred constraints are checked before the first.
//!
//! A transaction that the client has begun stays on all shards to its end: statements with a key in it go to their
//! shard, reads of what is everywhere to the first.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::BytesMut;
use smallvec::SmallVec;

use crate::clients::{Order, ServerIdentity};
use crate::cluster::TableSet;
use crate::pool::{DatabaseEntry, ServerLease};
use crate::protocol::{
    ErrorFields, ErrorResponse, SqlState, TransactionStatus, backend, frontend, raw_error,
};
use crate::route::{Target, Work};
use crate::server::{Answer, QueryError};
use crate::shard::{ShardNumber, key_columns, wrong_columns};
use crate::sql::{Effect, Fill, Refusal, SessionEffects, Split, TransactionControl};
use crate::task::Moment;

use super::batch::{Batch, BatchEnd, Plan};
use super::checkout::Needs;
use super::client::ClientSession;
use super::error::SessionError;
use super::mirror::{Mirror, PartRequest, answered, divided, shown, united};
use super::pins::WILL_PIN;
use super::sharded::{Placement, refused};
use super::writes::Writes;

/// What a server fails at, whatever its transaction: the client is told another error.
const FAILS: &str = "SELECT pgweir_fails_this_transaction";

/// The transaction.
#[derive(Debug)]
pub(super) struct Spread {
    /// By shard.
    members: Vec<Member>,
    /// The member at which it failed.
    failed: Option<usize>,
    /// The client ends it, and not its batch.
    is_clients: bool,
    changes_catalog: bool,
}

#[derive(Debug)]
struct Member {
    lease: ServerLease,
    writes: Writes,
    /// Of the shard's roles when its primary was chosen.
    epoch: u32,
}

/// What a batch comes to.
pub(super) enum Outcome {
    /// All went well; the client gets this.
    Done(BytesMut),
    /// It failed on this member, or because of it; the client gets this.
    Failed(usize, BytesMut),
}

/// How a client's transaction ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Commit,
    Rollback,
}

impl Spread {
    /// What the client is told of it.
    pub(super) fn status(&self) -> TransactionStatus {
        if self.failed.is_some() { TransactionStatus::Failed } else { TransactionStatus::InTransaction }
    }

    /// How many shards it is on.
    pub(super) fn count(&self) -> usize {
        self.members.len()
    }

    /// Its connection on one of them.
    pub(super) fn lease(&mut self, shard: usize) -> Option<&mut ServerLease> {
        self.members.get_mut(shard).map(|member| &mut member.lease)
    }
}

impl ClientSession {
    /// The transaction on all shards, if there is one.
    pub(super) fn spread(&self) -> Option<&Spread> {
        self.sharded.as_deref().and_then(|sharded| sharded.spread.as_deref())
    }

    /// Runs a batch that is for all shards, or that is part of a transaction on all of them.
    pub(super) async fn run_everywhere(
        &mut self,
        mut batch: Batch,
        placement: Placement,
    ) -> Result<(), SessionError> {
        let began = Moment::now();
        self.reading.refresh(&self.settings);
        let bytes = self.wire.inbox.get(..batch.len).unwrap_or_default();
        let mut plan = Plan::of(bytes, self.given(None))?;
        let mirror = Mirror::of(bytes, &plan, &self.statements);
        let parts = match &placement {
            Placement::Rows(split) => divided(bytes, &plan, &self.statements, split),
            _ => None,
        };
        let synced = matches!(batch.end, BatchEnd::Query | BatchEnd::Sync);
        let is_own = self.spread().is_none() && self.begun.is_none() && self.lease.is_none();
        let facts = self.sharded.as_deref().map(|sharded| sharded.facts).unwrap_or_default();
        if is_own && (!synced || facts.controls) {
            let what = Refusal::Construct("a statement for all shards in a string or pipeline with others");
            self.refuse(batch, &refused(&what));
            return Ok(());
        }
        self.handle().works(began);
        self.transaction_began.get_or_insert(began);
        let mut spread = match self.sharded.as_deref_mut().and_then(|sharded| sharded.spread.take()) {
            Some(spread) => spread,
            None => {
                let wraps = !(is_own && facts.is_alone);
                match self.spread_out(began, is_own, wraps).await? {
                    Ok(spread) => spread,
                    Err(response) => return self.not_spread(batch, response).await,
                }
            }
        };
        self.arm(self.topology.config.timeouts.query, Order::QueryTimeout);
        self.effects.insert(plan.effects);
        self.wrote |= plan.writes;
        if let Some(rare) = plan.rare_if_any() {
            self.custom_names.append(&mut rare.custom_names);
        }
        self.unknown_functions = plan.unknown_functions.or(self.unknown_functions);
        if plan.changes_catalog {
            spread.changes_catalog = true;
            self.mark_ddl(&mut spread);
        }
        let end = match facts.control {
            Some(TransactionControl::Commit { chain: false }) => Some(End::Commit),
            Some(TransactionControl::Rollback { chain: false }) => Some(End::Rollback),
            _ => None,
        };
        let fills = match (&placement, self.sharded.as_deref_mut()) {
            (Placement::All, Some(sharded)) => std::mem::take(&mut sharded.fills),
            (Placement::Copy(copy), _) => copy.fill().cloned().into_iter().collect(),
            _ => Vec::new(),
        };
        let outcome = match end {
            _ if plan.is_malformed => {
                let error = ErrorResponse::error(SqlState::PROTOCOL_VIOLATION, "invalid message format");
                fail(&mut spread, 0, &error).await?
            }
            Some(end) if facts.statements == 1 && facts.count == 1 => {
                return self.end_spread(batch, spread, &mirror, end).await;
            }
            _ if spread.failed.is_none() && (end.is_some() || facts.count > 1 && facts.controls) => {
                let what =
                    Refusal::Construct("the end of a transaction on all shards among other statements");
                fail(&mut spread, 0, &refused(&what)).await?
            }
            _ if spread.failed.is_none() && facts.effects.intersects(WILL_PIN) => {
                let what = Refusal::Construct("what stays in one session, in a transaction on all shards,");
                fail(&mut spread, 0, &refused(&what)).await?
            }
            _ => match (self.prepare_fills(&mut spread, &fills).await?, &placement, parts) {
                (Some(outcome), ..) => outcome,
                (_, Placement::Copy(copy), _) if spread.failed.is_none() => {
                    self.run_copy(&mut spread, &mut batch, copy).await?
                }
                (_, Placement::Rows(split), Some(parts)) if spread.failed.is_none() => {
                    self.run_parts(&mut spread, &mirror, split, parts).await?
                }
                _ => self.run_members(&mut spread, &mirror, &placement, facts).await?,
            },
        };
        let outcome = match outcome {
            Outcome::Done(_) if plan.changes_catalog && spread.failed.is_none() && !facts.is_alone => {
                self.check_catalog(&mut spread, &fills).await?.unwrap_or(outcome)
            }
            other => other,
        };
        self.context.histograms.query(Moment::now().micros_since(began));
        for member in &spread.members {
            member.lease.pool().stats.add(|stats| &stats.queries, plan.queries);
        }
        match outcome {
            Outcome::Done(answer) if spread.is_clients => {
                // Nothing else makes a failed transaction whole; a Sync alone succeeds in it, too.
                if facts.control == Some(TransactionControl::RollbackTo) {
                    spread.failed = None;
                }
                self.wire.outbox.extend_from_slice(&answer);
                mirror.define(&mut self.statements);
                self.saw_error = false;
            }
            Outcome::Failed(member, answer) if spread.is_clients => {
                spread.failed = Some(member);
                self.wire.outbox.extend_from_slice(&answer);
                self.saw_error = true;
            }
            // A batch of its own.
            Outcome::Done(answer) => {
                let committed = if facts.is_alone { Ok(()) } else { self.commit(&mut spread).await? };
                self.saw_error = committed.is_err();
                match committed {
                    Ok(()) => {
                        self.wire.outbox.extend_from_slice(&answer);
                        mirror.define(&mut self.statements);
                    }
                    Err(error) => self.wire.outbox.extend_from_slice(&error),
                }
                self.finish(batch, spread).await?;
                return Ok(());
            }
            Outcome::Failed(_, answer) => {
                if !facts.is_alone {
                    rollback(&mut spread.members).await;
                }
                self.saw_error = true;
                self.wire.outbox.extend_from_slice(&answer);
                self.finish(batch, spread).await?;
                return Ok(());
            }
        }
        let status = spread.status();
        if let Some(member) = spread.members.first() {
            self.tell_parameters(&member.lease);
        }
        if let Some(sharded) = self.sharded.as_deref_mut() {
            sharded.spread = Some(spread);
        }
        self.handle().clear_deadline();
        self.answered(batch, status);
        Ok(())
    }

    /// Sees to the defaults of what a batch writes. Its outcome, if it must not run.
    async fn prepare_fills(
        &mut self,
        spread: &mut Spread,
        fills: &[Fill],
    ) -> Result<Option<Outcome>, SessionError> {
        if fills.is_empty() || spread.failed.is_some() {
            return Ok(None);
        }
        self.check_roles(spread)?;
        self.check_fills(spread, fills, true).await
    }

    /// What a batch has changed in the catalog may be a default, or the column of a key. The outcome, if it may not.
    async fn check_catalog(
        &mut self,
        spread: &mut Spread,
        fills: &[Fill],
    ) -> Result<Option<Outcome>, SessionError> {
        if let Some(outcome) = self.check_fills(spread, fills, false).await? {
            return Ok(Some(outcome));
        }
        let Some(set) = self.sharded.as_deref().map(|sharded| Arc::clone(&sharded.set)) else {
            return Ok(None);
        };
        let question = key_columns(set.schema());
        if !question.is_ascii() && !self.speaks_utf8() {
            // The next look from outside will tell.
            return Ok(None);
        }
        let rows = match self.question(spread, 0, &question).await? {
            Ok(rows) => rows,
            Err(outcome) => return Ok(Some(outcome)),
        };
        let known = set.wrong_columns();
        let mut wrong = wrong_columns(set.schema(), &rows).into_iter();
        match wrong.find(|wrong| !known.values().flatten().any(|known| known == wrong)) {
            None => Ok(None),
            Some(wrong) => {
                fail(spread, 0, &self.refused(&Refusal::WrongColumn(Box::new(wrong)))).await.map(Some)
            }
        }
    }

    /// The batch is answered: its end is.
    fn answered(&mut self, batch: Batch, status: TransactionStatus) {
        match batch.end {
            BatchEnd::Query | BatchEnd::Sync | BatchEnd::FunctionCall => {
                backend::ready_for_query(&mut self.wire.outbox, status);
            }
            BatchEnd::Flush | BatchEnd::Partial => self.exchange.skipping |= self.saw_error,
            BatchEnd::Terminate => {}
        }
        if batch.end == BatchEnd::Query {
            self.statements.set(b"", None);
        }
        self.consume(batch);
        self.answered_at = Moment::now();
    }

    /// The client is told of settings that a server has reported.
    fn tell_parameters(&mut self, lease: &ServerLease) {
        let news = self.news_of_settings(lease);
        self.wire.outbox.extend_from_slice(&news);
    }

    /// Server connections on all shards, each in a transaction that began as the client's did.
    async fn spread_out(
        &mut self,
        began: Moment,
        is_own: bool,
        wraps: bool,
    ) -> Result<Result<Box<Spread>, ErrorResponse>, SessionError> {
        let Some(sharded) = self.sharded.as_deref() else {
            return Err(SessionError::Protocol("no shards".to_owned()));
        };
        let (count, home) = (sharded.set.count(), sharded.current);
        let begun = self.begun.take().or_else(|| sharded.transaction.begun.clone());
        let text = match &begun {
            Some(begun) if !is_own => begun.text().into_owned(),
            _ => "BEGIN".to_owned(),
        };
        if self.leading.take().is_some() {
            // It has only read, on a replica.
            if let Some(lease) = self.lease.take() {
                self.end_elsewhere(lease);
            }
        }
        let work = Work { effect: Effect::Write, ..Work::NONE };
        let mut held = self.lease.take();
        let held_since = self.lead_epoch;
        let mut spread = Box::new(Spread {
            members: Vec::new(),
            failed: None,
            is_clients: !is_own,
            changes_catalog: false,
        });
        for shard in 0..count {
            let lease = if shard == home && held.is_some() { held.take() } else { None };
            // What the transaction has written on its own shard is settled there.
            let is_own_shard = lease.is_some();
            let writes = if is_own_shard { std::mem::take(&mut self.writes) } else { Writes::default() };
            let opened = match lease {
                Some(lease) => Ok(lease),
                None => {
                    self.switch_to(shard);
                    match self.checkout(work, Needs::Nothing, began).await? {
                        Ok(lease) => self.open_member(lease, wraps.then_some(&text)).await?,
                        Err(response) => Err(response),
                    }
                }
            };
            match opened {
                Ok(lease) => {
                    let epoch = if is_own_shard { held_since } else { self.lead_epoch };
                    spread.members.push(Member { lease, writes, epoch });
                }
                Err(response) => {
                    let at = spread.members.len();
                    let own = usize::try_from(home).ok().filter(|home| !is_own && *home < at);
                    // The transaction goes on on its own shard, where it fails now.
                    let own = own.filter(|_| begun.is_some() && held.is_none());
                    rollback_but(&mut spread.members, own).await;
                    let kept = own.map(|own| spread.members.swap_remove(own)).map(|member| {
                        self.writes = member.writes;
                        member.lease
                    });
                    spread.members.into_iter().for_each(|member| member.lease.checkin());
                    self.switch_to(home);
                    self.lease = held.or(kept).filter(|lease| lease.status != TransactionStatus::Idle);
                    return Ok(Err(response));
                }
            }
        }
        if let Some(sharded) = self.sharded.as_deref() {
            for (member, entry) in spread.members.iter_mut().zip(sharded.set.entries()) {
                if entry.horizons.is_watched() {
                    member.writes.begin(entry, &TableSet::All, entry.catalog.generation());
                }
            }
        }
        Ok(Ok(spread))
    }

    /// Begins the transaction on one shard: with the client's settings, and with what it has set and marked so far.
    async fn open_member(
        &mut self,
        mut lease: ServerLease,
        begin: Option<&String>,
    ) -> Result<Result<ServerLease, ErrorResponse>, SessionError> {
        match self.sync_settings_now(&mut lease).await {
            Ok(()) => {}
            Err(SessionError::Settings(error)) => return Ok(Err(*error)),
            Err(other) => return Err(other),
        }
        lease.settings = self.settings.clone();
        let Some(begin) = begin else { return Ok(Ok(lease)) };
        lease.simple_query(begin).await?;
        self.repeat_on(&mut lease).await?;
        Ok(Ok(lease))
    }

    /// There is no transaction on all shards: that of the client fails, if it has one.
    async fn not_spread(&mut self, batch: Batch, response: ErrorResponse) -> Result<(), SessionError> {
        let Some(mut lease) = self.lease.take() else {
            self.transaction_began = None;
            self.handle().unlink();
            self.refuse(batch, &response);
            return Ok(());
        };
        self.handle().link(Arc::clone(lease.identity()));
        self.fail_batch(&mut lease, batch, response);
        self.exchange_with(lease).await
    }

    fn mark_ddl(&mut self, spread: &mut Spread) {
        let Some(sharded) = self.sharded.as_deref() else { return };
        for (member, entry) in spread.members.iter_mut().zip(sharded.set.entries()) {
            entry.catalog_epoch.fetch_add(1, Ordering::AcqRel);
            if entry.horizons.is_watched() {
                member.writes.begin_ddl(entry);
            }
        }
    }

    /// Sends a batch to the members that it is for.
    async fn run_members(
        &mut self,
        spread: &mut Spread,
        mirror: &Mirror,
        placement: &Placement,
        facts: super::sharded::BatchFacts,
    ) -> Result<Outcome, SessionError> {
        if mirror.is_local() && spread.failed.is_none() {
            return Ok(Outcome::Done(answered(&Answer::default(), mirror)));
        }
        self.check_roles(spread)?;
        let all = 0..spread.members.len();
        let goes_back = facts.control == Some(TransactionControl::RollbackTo);
        let targets: SmallVec<[usize; 4]> = match (spread.failed, placement) {
            // The server says that nothing runs any more.
            (Some(failed), _) if !goes_back => SmallVec::from_elem(failed, 1),
            (None, Placement::One(shard)) => {
                SmallVec::from_elem(usize::try_from(*shard).unwrap_or(usize::MAX), 1)
            }
            (None, Placement::Any)
                if facts.statements == 0
                    || (facts.effects == SessionEffects::NONE && facts.control.is_none()) =>
            {
                SmallVec::from_elem(0, 1)
            }
            (Some(_), _) | (None, Placement::All | Placement::Any) => all.collect(),
            (None, Placement::Refused(refusal)) => return fail(spread, 0, &refused(refusal)).await,
            (None, Placement::Rows(_) | Placement::Copy(_)) => {
                return fail(spread, 0, &refused(&Refusal::SeveralShards)).await;
            }
        };
        let mut first: Option<(usize, Answer)> = None;
        for target in targets {
            let Some(member) = spread.members.get_mut(target) else { continue };
            let answer = match self.ask(&mut member.lease, &mirror.request).await {
                Ok(answer) => answer,
                Err(SessionError::ServerLost(cause)) if !spread.is_clients && facts.is_alone => {
                    let lost = ErrorResponse::error(SqlState::CONNECTION_FAILURE, cause);
                    return Ok(Outcome::Failed(target, partly_done(target, lost)));
                }
                Err(other) => return Err(other),
            };
            if let Some(body) = &answer.error {
                let alone = !spread.is_clients && facts.is_alone && target > 0;
                let told = if alone {
                    partly_done(target, from_server(body))
                } else {
                    on_shard(&answered(&answer, mirror), body, target)
                };
                return Ok(Outcome::Failed(target, told));
            }
            match &first {
                None => first = Some((target, answer)),
                Some((one, expected)) if shown(expected) != shown(&answer) => {
                    let error = different(*one, target);
                    return fail(spread, target, &error).await;
                }
                Some(_) => {}
            }
        }
        let (_, answer) = first.unwrap_or_default();
        Ok(Outcome::Done(answered(&answer, mirror)))
    }

    /// Sends each part of a divided INSERT to its shard.
    async fn run_parts(
        &mut self,
        spread: &mut Spread,
        mirror: &Mirror,
        split: &Split,
        parts: Vec<PartRequest>,
    ) -> Result<Outcome, SessionError> {
        let mut answers = Vec::new();
        for PartRequest { shard, request } in parts {
            let target = usize::try_from(shard).unwrap_or(usize::MAX);
            let Some(member) = spread.members.get_mut(target) else { continue };
            let answer = self.ask(&mut member.lease, &request).await?;
            if let Some(body) = &answer.error {
                let told = on_shard(&answered(&answer, mirror), body, target);
                return Ok(Outcome::Failed(target, told));
            }
            answers.push(answer);
        }
        match united(&answers, split) {
            Some(answer) => Ok(Outcome::Done(answered(&answer, mirror))),
            None => {
                let error = ErrorResponse::error(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "the rows of an INSERT into several shards do not all come back",
                )
                .hint("Use one INSERT for each key, without a limit of rows.");
                fail(spread, 0, &error).await
            }
        }
    }

    /// Who changes roles ends the sessions that hold connections to the old primary, but a moment after the roles have
    /// changed: nothing is sent there meanwhile, and no COMMIT of half a transaction.
    fn check_roles(&self, spread: &Spread) -> Result<(), SessionError> {
        let Some(sharded) = self.sharded.as_deref() else { return Ok(()) };
        let lead = |entry: &Arc<DatabaseEntry>| entry.cluster.leadership.lead().epoch;
        let mut members = spread.members.iter().zip(sharded.set.entries());
        if members.any(|(member, entry)| member.epoch != lead(entry)) {
            return Err(SessionError::Ordered(Order::PrimaryChanged));
        }
        Ok(())
    }

    /// Asks one server, which the client's cancel requests reach meanwhile.
    pub(super) async fn ask(
        &mut self,
        lease: &mut ServerLease,
        request: &[u8],
    ) -> Result<Answer, SessionError> {
        let identity = Arc::clone(lease.identity());
        self.handle().link(Arc::clone(&identity));
        self.drive(&identity, lease.converse(request)).await
    }

    /// Waits for a server; orders are obeyed meanwhile, and the client may leave.
    ///
    /// # Cancel safety
    /// A dropped future leaves the connection unclean, and so closed.
    pub(super) async fn drive<T>(
        &mut self,
        identity: &Arc<ServerIdentity>,
        work: impl Future<Output = Result<T, QueryError>>,
    ) -> Result<T, SessionError> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(result) = work.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(SessionError::from));
            }
            self.obey_while_running(identity, cx)?;
            self.read_ahead(cx)?;
            Poll::Pending
        })
        .await
    }

    /// Ends a transaction on all shards.
    async fn end_spread(
        &mut self,
        batch: Batch,
        mut spread: Box<Spread>,
        mirror: &Mirror,
        end: End,
    ) -> Result<(), SessionError> {
        let commits = end == End::Commit && spread.failed.is_none();
        let outcome = if commits {
            self.commit(&mut spread).await?
        } else {
            rollback(&mut spread.members).await;
            Ok(())
        };
        self.saw_error = outcome.is_err() || !commits;
        match outcome {
            Ok(()) => {
                let mut answer = Answer::default();
                mirror.acknowledge(&mut answer.messages, if commits { "COMMIT" } else { "ROLLBACK" });
                self.wire.outbox.extend_from_slice(&answered(&answer, mirror));
                mirror.define(&mut self.statements);
            }
            Err(error) => self.wire.outbox.extend_from_slice(&error),
        }
        self.finish(batch, spread).await
    }

    /// Commits on one shard after the other. The error for the client, if not on all.
    async fn commit(&mut self, spread: &mut Spread) -> Result<Result<(), BytesMut>, SessionError> {
        self.check_roles(spread)?;
        // What would fail at the end fails now, while all can be taken back.
        let check = frontend::query_message(b"SET CONSTRAINTS ALL IMMEDIATE");
        for at in 0..spread.members.len() {
            let Some(member) = spread.members.get_mut(at) else { continue };
            let answer = self.ask(&mut member.lease, &check).await?;
            if let Some(body) = answer.error {
                rollback(&mut spread.members).await;
                let mut error = BytesMut::new();
                raw_error(&mut error, &body);
                return Ok(Err(on_shard(&error, &body, at)));
            }
        }
        let commit = frontend::query_message(b"COMMIT");
        for at in 0..spread.members.len() {
            let Some(member) = spread.members.get_mut(at) else { continue };
            let lost = match self.ask(&mut member.lease, &commit).await {
                Ok(answer) if answer.error.is_none() && has_tag(&answer, "COMMIT") => continue,
                // It had failed there, and nobody knew.
                Ok(Answer { error: None, .. }) => {
                    ErrorResponse::error(SqlState::IN_FAILED_TRANSACTION, "the transaction was rolled back")
                }
                Ok(Answer { error: Some(body), .. }) => from_server(&body),
                Err(SessionError::ServerLost(cause)) => {
                    member.lease.mark_broken();
                    ErrorResponse::error(SqlState::COMPLETION_UNKNOWN, cause)
                }
                Err(other) => return Err(other),
            };
            let rest = spread.members.get_mut(at + 1..).unwrap_or_default();
            rollback(rest).await;
            let told = if at == 0 && lost.code != SqlState::COMPLETION_UNKNOWN {
                let mut out = BytesMut::new();
                lost.write(&mut out);
                out
            } else {
                partly_done(at, lost)
            };
            return Ok(Err(told));
        }
        Ok(Ok(()))
    }

    /// The transaction is over on all shards: what they know of it is settled, and the connections go back.
    async fn finish(&mut self, batch: Batch, spread: Box<Spread>) -> Result<(), SessionError> {
        let Spread { members, changes_catalog, .. } = *spread;
        let wrote = self.wrote;
        self.handle().clear_deadline();
        self.target = Target::Primary;
        // The first last: the session goes on there.
        for (shard, mut member) in members.into_iter().enumerate().rev() {
            self.switch_to(ShardNumber::try_from(shard).unwrap_or(0));
            if changes_catalog {
                self.database.catalog_epoch.fetch_add(1, Ordering::AcqRel);
            }
            member.writes.acknowledged(&self.database.cluster);
            let mut lease = member.lease;
            if shard > 0 {
                self.note_what_was_seen(wrote);
                let settings = SessionEffects::SETTING.union(SessionEffects::SETTING_LOCAL);
                if settings.union(self.effects) == settings {
                    lease.settings_uncertain |= self.effects != SessionEffects::NONE;
                    lease.checkin();
                } else {
                    // What else may be left there nobody knows.
                    lease.mark_broken();
                }
                continue;
            }
            self.tell_parameters(&lease);
            self.answered(batch, TransactionStatus::Idle);
            if lease.is_clean() {
                self.handle().link(Arc::clone(lease.identity()));
                self.transaction_ended(lease).await?;
            } else {
                // Lost in its COMMIT; the client knows.
                self.effects = SessionEffects::NONE;
                self.transaction_began = None;
                self.handle().unlink();
            }
        }
        Ok(())
    }
}

/// Makes the transaction fail on a member, with an error of ours for the client.
pub(super) async fn fail(
    spread: &mut Spread,
    at: usize,
    error: &ErrorResponse,
) -> Result<Outcome, SessionError> {
    if let Some(member) = spread.members.get_mut(at) {
        match member.lease.simple_query(FAILS).await {
            Ok(_) | Err(QueryError::Server { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    let mut out = BytesMut::new();
    error.write(&mut out);
    Ok(Outcome::Failed(at, out))
}

async fn rollback(members: &mut [Member]) {
    rollback_but(members, None).await;
}

/// Rolls back all but one. A server that does not take it loses the connection, and the transaction with it.
async fn rollback_but(members: &mut [Member], but: Option<usize>) {
    for (at, member) in members.iter_mut().enumerate() {
        let is_open = member.lease.status != TransactionStatus::Idle && Some(at) != but;
        if is_open && member.lease.simple_query("ROLLBACK").await.is_err() {
            member.lease.mark_broken();
        }
    }
}

/// A server's error as one of ours, with what people look at.
fn from_server(body: &[u8]) -> ErrorResponse {
    let fields = ErrorFields::read(body);
    ErrorResponse::error(
        fields.sqlstate().unwrap_or(SqlState::INTERNAL_ERROR),
        fields.message_lossy().into_owned(),
    )
}

/// The client is told on which shard a statement has failed.
pub(super) fn on_shard(answer: &BytesMut, body: &[u8], shard: usize) -> BytesMut {
    let end = answer.len().checked_sub(body.len() + 5).filter(|start| answer.get(*start) == Some(&b'E'));
    let has_context = body.split(|byte| *byte == 0).any(|field| field.first() == Some(&b'W'));
    let (Some(end), false) = (end, has_context) else { return answer.clone() };
    let mut out = BytesMut::from(answer.get(..end).unwrap_or_default());
    let mut told = body.strip_suffix(b"\0").unwrap_or(body).to_vec();
    told.extend_from_slice(format!("Won shard {shard}\0\0").as_bytes());
    raw_error(&mut out, &told);
    out
}

/// It was done on the shards in front of this one, and that cannot be taken back.
fn partly_done(failed: usize, cause: ErrorResponse) -> BytesMut {
    let mut out = BytesMut::new();
    let done: Vec<_> = (0..failed).map(|shard| shard.to_string()).collect();
    let done = if done.is_empty() { "no shard".to_owned() } else { format!("shard {}", done.join(", ")) };
    let what = if cause.code == SqlState::COMPLETION_UNKNOWN || cause.code == SqlState::CONNECTION_FAILURE {
        "is not known to be done"
    } else {
        "has failed"
    };
    tracing::error!(done, failed, error = %cause.message, "shards differ");
    let detail =
        format!("It is done on {done}, {what} on shard {failed}, and was not tried on those behind.");
    cause
        .detail(detail)
        .hint("The shards differ now: make them the same, with /* pgweir: shard=… */ in front of each statement.")
        .write(&mut out);
    out
}

/// Whether a server says that it has run a command with this tag.
fn has_tag(answer: &Answer, tag: &str) -> bool {
    let mut wanted = BytesMut::new();
    backend::command_complete(&mut wanted, tag);
    answer.messages.ends_with(&wanted)
}

/// Two shards do not say the same.
pub(super) fn different(one: usize, other: usize) -> ErrorResponse {
    ErrorResponse::error(
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("shards {one} and {other} give different answers"),
    )
    .detail("The statement is for all shards, and what it has met there is not the same.")
    .hint("Compare the tables on both shards, with /* pgweir: shard=… */ in front of a query.")
}
