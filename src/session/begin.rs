//! A BEGIN is held until the transaction does something, and travels with that in one write. A transaction that does
//! nothing touches no server.
//!
//! Only a BEGIN that stands alone as a simple query and is understood to its end is held: the server would accept
//! it, and nothing else follows from it. Time in the transaction (`now()`) begins with its first statement.

use std::borrow::Cow;

use bytes::Bytes;

use crate::config::PoolMode;
use crate::pool::ServerLease;
use crate::protocol::frame::HEADER_LEN;
use crate::protocol::{TransactionStatus, backend, frontend};
use crate::route::Work;
use crate::sql::{Effect, TransactionControl};
use crate::task::Moment;

use super::batch::{Batch, BatchEnd, Plan, is_ascii, is_one_query};
use super::client::ClientSession;
use super::error::SessionError;
use super::exchange::Expect;

/// A BEGIN that the client believes to be done.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    /// The message.
    message: Bytes,
    /// What it means for the route.
    pub(super) work: Work,
    /// Whether its reads may begin on a replica; `None` if that depends on the server's default.
    pub(super) may_lead: Option<bool>,
    /// Whether each of its statements sees what was committed before it; `None`: as the server's default is.
    pub(super) reads_committed: Option<bool>,
}

impl Begun {
    /// A transaction that was begun with this text.
    pub(super) fn of_text(text: &[u8], reads_committed: Option<bool>) -> Self {
        let work = Work { effect: Effect::Write, ..Work::NONE };
        Self { message: frontend::query_message(text).freeze(), work, may_lead: Some(false), reads_committed }
    }

    /// Its text.
    pub(super) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(frontend::query_text(&self.message[HEADER_LEN..]).unwrap_or_default())
    }
}

impl ClientSession {
    /// Answers a batch without a server, if it only begins a transaction, or ends one that has done nothing.
    pub(super) fn begin_or_end_locally(&mut self, batch: Batch, plan: &Plan) -> bool {
        if plan.control.is_none()
            || batch.end != BatchEnd::Query
            || self.awaiting_sync
            || !is_one_query(batch, &self.wire.inbox)
            || !is_ascii(batch, &self.wire.inbox)
        {
            return false;
        }
        match plan.control {
            Some(TransactionControl::Begin { .. }) if self.begun.is_none() => self.hold(batch, plan),
            Some(TransactionControl::Commit { chain: false }) if self.begun.is_some() => {
                self.end(batch, "COMMIT");
                true
            }
            Some(TransactionControl::Rollback { chain: false }) if self.begun.is_some() => {
                self.end(batch, "ROLLBACK");
                true
            }
            _ => false,
        }
    }

    fn hold(&mut self, batch: Batch, plan: &Plan) -> bool {
        let message = self.wire.inbox.get(..batch.len).unwrap_or_default();
        let body = message.get(HEADER_LEN..).unwrap_or_default();
        let text = frontend::query_text(body).unwrap_or_default().trim_ascii_start();
        let starts = |word: &[u8]| text.get(..word.len()).is_some_and(|t| t.eq_ignore_ascii_case(word));
        let tag = if starts(b"begin") {
            "BEGIN"
        } else if starts(b"start") {
            "START TRANSACTION"
        } else {
            return false;
        };
        // Who listens is lent channels by the server connection with the BEGIN.
        if self.mode != PoolMode::Transaction || self.listening.is_on() {
            return false;
        }
        let message = self.wire.inbox.split_to(batch.len).freeze();
        let may_lead = self.begin_may_lead(plan);
        let reads_committed = self.begin_reads_committed(plan.control);
        self.begun = Some(Begun { message, work: plan.work, may_lead, reads_committed });
        self.transaction_began.get_or_insert_with(Moment::now);
        self.answer(tag, TransactionStatus::InTransaction);
        true
    }

    fn end(&mut self, batch: Batch, tag: &str) {
        self.consume(batch);
        self.begun = None;
        self.transaction_began = None;
        self.answer(tag, TransactionStatus::Idle);
    }

    fn answer(&mut self, tag: &str, status: TransactionStatus) {
        // A simple query drops the unnamed statement.
        self.statements.set(b"", None);
        backend::command_complete(&mut self.wire.outbox, tag);
        backend::ready_for_query(&mut self.wire.outbox, status);
    }

    /// Begins the transaction on the server: in front of the batch, or at once when more than the batch itself goes
    /// out before it.
    pub(super) async fn begin_on(
        &mut self,
        lease: &mut ServerLease,
        begun: Begun,
        plan: &Plan,
        is_refused: bool,
    ) -> Result<(), SessionError> {
        let repeated = self.sharded.as_ref().is_some_and(|s| !s.transaction.repeatable.is_empty());
        let alone = !(is_refused || repeated)
            && plan.told.is_empty()
            && plan.rare().foreign.is_empty()
            && plan.rare().named_in_sql.is_empty()
            && !plan.may_end
            && !plan.may_reset
            && !self.concerns_listening(plan)
            && self.forbids(plan, lease.pool()).is_none();
        if alone {
            self.sync_settings(lease, false);
            lease.wire.outbox.extend_from_slice(&begun.message);
            self.exchange.push(Expect::OwnQuery);
            lease.unnamed = None;
        } else {
            self.sync_settings_now(lease).await?;
            lease.simple_query(&begun.text()).await?;
            if repeated {
                self.repeat_on(lease).await?;
            }
        }
        // It was understood: it cannot fail.
        lease.status = TransactionStatus::InTransaction;
        Ok(())
    }
}
