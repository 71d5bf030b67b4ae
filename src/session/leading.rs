//! With `routing.transactions: replica_until_write` the reads at the head of a transaction run on a replica, and the
//! first other statement takes the transaction to the primary.
//!
//! Under READ COMMITTED each statement sees what was committed when it began, so nobody can tell where the ones
//! before it ran: the transaction on the replica is rolled back, having read only, and begun anew on the primary,
//! which is never behind. That holds as long as nothing of the first transaction is left over: its time, its
//! portals, its locks, its backend. Whatever could show one of them begins on the primary, or goes there.

use std::time::Duration;

use crate::config::Transactions;
use crate::pool::ServerLease;
use crate::protocol::extended::{self, Bind, Target as Named};
use crate::protocol::{FrontendTag, Reader, TransactionStatus, frame};
use crate::sql::{Effect, HintRole, Isolation, SessionEffects, TransactionControl};
use crate::task;

use super::batch::{Batch, BatchEnd, Plan};
use super::begin::Begun;
use super::checkout::{Needs, is_fresh};
use super::client::ClientSession;

/// A server that does not take the end of a transaction loses the connection.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(5);
/// The setting that decides what a BEGIN without an isolation level means.
const ISOLATION: &str = "default_transaction_isolation";

/// What differs from one transaction to the next, on one node or two: the time it began, and the backend it runs
/// in. Words of input for dates are among them.
const TELLTALES: [&[u8]; 16] = [
    b"age",
    b"current_date",
    b"current_time",
    b"current_timestamp",
    b"localtime",
    b"localtimestamp",
    b"now",
    b"pg_backend_pid",
    b"pg_export_snapshot",
    b"seed",
    b"setseed",
    b"today",
    b"tomorrow",
    b"transaction_timestamp",
    b"xact_start",
    b"yesterday",
];

/// A transaction on a replica that may go on elsewhere.
#[derive(Debug)]
pub(super) struct Leading {
    /// How it began.
    begun: Begun,
    /// Of the roles then.
    epoch: u32,
}

impl ClientSession {
    /// Whether a transaction that begins so may begin on a replica, as far as its BEGIN tells. `None`: the server's
    /// default decides.
    pub(super) fn begin_may_lead(&self, plan: &Plan) -> Option<bool> {
        let Some(TransactionControl::Begin { read_only, isolation, deferrable }) = plan.control else {
            return Some(false);
        };
        let routing = &self.database.settings.routing;
        // READ ONLY has a way of its own, and a standby refuses READ WRITE.
        let elsewhere =
            routing.transactions == Transactions::Primary || plan.work.hint == Some(HintRole::Primary);
        if elsewhere || read_only.is_some() || deferrable == Some(true) {
            return Some(false);
        }
        self.isolation_reads_committed(isolation)
    }

    /// Whether a transaction that begins so sees what was committed before each of its statements. `None`: the
    /// server's default decides.
    pub(super) fn begin_reads_committed(&self, control: Option<TransactionControl>) -> Option<bool> {
        match control {
            Some(TransactionControl::Begin { isolation, .. }) => self.isolation_reads_committed(isolation),
            _ => Some(false),
        }
    }

    fn isolation_reads_committed(&self, isolation: Option<Isolation>) -> Option<bool> {
        match (isolation, self.settings.value(ISOLATION)) {
            (Some(isolation), _) => {
                Some(matches!(isolation, Isolation::ReadCommitted | Isolation::ReadUncommitted))
            }
            (None, Some(set)) => Some(is_read_committed(set)),
            (None, None) => None,
        }
    }

    /// Whether a batch leaves nothing of its transaction, and shows nothing of it.
    pub(super) fn batch_may_lead(&self, batch: Batch, plan: &Plan) -> bool {
        let reads = plan.work.effect <= Effect::Read
            && plan.work.hint != Some(HintRole::Primary)
            && plan.effects == SessionEffects::NONE
            && plan.control.is_none()
            && !(plan.may_begin
                || plan.may_end
                || plan.sequenced
                || plan.asks_sequence
                || plan.reads_otherwise)
            && plan.rare().named_in_sql.is_empty()
            && !plan.resolved.is_empty()
            && plan.resolved.iter().all(|resolved| resolved.is_plain);
        let bytes = self.wire.inbox.get(..batch.len).unwrap_or_default();
        reads && matches!(batch.end, BatchEnd::Query | BatchEnd::Sync) && self.stands_alone(bytes)
    }

    /// Whether no portal of the batch outlives it, and no text tells the time of a transaction.
    pub(super) fn stands_alone(&self, batch: &[u8]) -> bool {
        let mut rest = batch;
        let mut bound = false;
        while let Ok(Some((header, body, tail))) = frame::split(rest, usize::MAX) {
            rest = tail;
            let alone = match FrontendTag(header.tag) {
                FrontendTag::QUERY | FrontendTag::PARSE => !tells(body),
                FrontendTag::BIND => Bind::read(body).is_ok_and(|bind| {
                    let text = self.statements.find(bind.statement).map(|definition| &definition.sql);
                    let alone = !bound && bind.portal.is_empty() && !tells(bind.rest);
                    bound = true;
                    alone && text.is_none_or(|sql| !tells(sql))
                }),
                FrontendTag::DESCRIBE => {
                    extended::target(body).is_ok_and(|(target, _)| target == Named::Statement || bound)
                }
                // All of its rows.
                FrontendTag::EXECUTE => {
                    let mut reader = Reader::new(body);
                    let whole =
                        reader.cstr().is_ok_and(<[u8]>::is_empty) && reader.i32().is_ok_and(|rows| rows <= 0);
                    std::mem::take(&mut bound) && whole
                }
                FrontendTag::SYNC => true,
                _ => false,
            };
            if !alone {
                return false;
            }
        }
        rest.is_empty() && !bound
    }

    /// Whether the replica's own default lets the transaction begin there.
    pub(super) async fn replica_may_lead(&self, lease: &mut ServerLease, begun: &Begun) -> bool {
        match begun.may_lead {
            Some(known) => known,
            None => reads_committed(lease).await,
        }
    }

    /// Takes note that the transaction has begun on a replica.
    pub(super) fn leads(&mut self, begun: Begun) {
        let epoch = self.database.cluster.leadership.lead().epoch;
        self.leading = Some(Box::new(Leading { begun, epoch }));
    }

    /// Before a batch in a transaction on a replica: leaves it there, or takes it away.
    pub(super) async fn lead_on(&mut self, batch: Batch, plan: &Plan) {
        let Some(mut lease) = self.lease.take() else { return };
        if lease.status != TransactionStatus::InTransaction || self.stays(&mut lease, batch, plan).await {
            self.lease = Some(lease);
            return;
        }
        self.begun = self.leading.take().map(|leading| leading.begun);
        self.end_elsewhere(lease);
    }

    /// Ends a transaction that goes on with another server connection.
    pub(super) fn end_elsewhere(&self, mut lease: ServerLease) {
        self.handle().unlink();
        // The client need not wait for that.
        task::spawn("end of a transaction that goes on elsewhere", async move {
            let ended = tokio::time::timeout(ROLLBACK_LIMIT, lease.simple_query("ROLLBACK")).await;
            // Settings that it made are undone.
            if matches!(ended, Ok(Ok(_))) && lease.status == TransactionStatus::Idle {
                lease.checkin();
            }
        });
    }

    async fn stays(&mut self, lease: &mut ServerLease, batch: Batch, plan: &Plan) -> bool {
        let ends = matches!(
            plan.control,
            Some(TransactionControl::Commit { chain: false } | TransactionControl::Rollback { chain: false })
        );
        if ends {
            return true;
        }
        let same_roles =
            self.leading.as_ref().is_some_and(|l| l.epoch == self.database.cluster.leadership.lead().epoch);
        if !same_roles || !self.batch_may_lead(batch, plan) {
            return false;
        }
        let freshness = self.freshness(plan.work, Needs::Tables(&plan.resolved));
        is_fresh(lease, freshness).await
    }

    /// The replica has gone, or said something, between two statements of a transaction: that goes on elsewhere.
    pub(super) fn lose_leading(&mut self, mut lease: ServerLease) {
        lease.mark_broken();
        self.handle().unlink();
        self.begun = self.leading.take().map(|leading| leading.begun);
    }

    /// Whether the held server connection may be lost without a loss.
    pub(super) fn may_lose(&self, lease: &ServerLease) -> bool {
        self.leading.is_some() && lease.status == TransactionStatus::InTransaction && self.exchange.is_done()
    }

    /// The batch that was refused, or lost, on a replica runs again elsewhere: behind its BEGIN, if it has one.
    pub(super) fn begin_again(&mut self) {
        if let Some(leading) = self.leading.take() {
            self.begun = Some(leading.begun);
        }
    }
}

/// Whether that is the server's own default.
pub(super) async fn reads_committed(lease: &mut ServerLease) -> bool {
    if lease.reads_committed.is_none() {
        // Not what it is set to now, which may be of another client.
        let sql = format!("SELECT reset_val FROM pg_catalog.pg_settings WHERE name = '{ISOLATION}'");
        let Ok(rows) = lease.simple_query(&sql).await else { return false };
        let value = rows.into_iter().next().and_then(|row| row.into_iter().next()?);
        lease.reads_committed = value.map(|value| is_read_committed(&value));
    }
    lease.reads_committed == Some(true)
}

fn is_read_committed(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "read committed" | "read uncommitted")
}

/// Whether a text may hold one of the words, as itself or in other letters.
fn tells(text: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
    text.contains(&b'\\')
        || text.split(|byte| !is_part(byte)).any(|word| {
            word.len() >= 3 && TELLTALES.iter().any(|telltale| word.eq_ignore_ascii_case(telltale))
        })
        || text.windows(2).any(|pair| pair.eq_ignore_ascii_case(b"u&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_tell_the_time() {
        for text in [
            "SELECT now()",
            "SELECT NOW ()",
            "SELECT 'now'::timestamp",
            "SELECT Current_Timestamp",
            "SELECT * FROM t WHERE d > 'TODAY'",
            "SELECT '[yesterday,)'::tsrange",
            r"SELECT E'n\x6fw'::timestamp",
            r#"SELECT u&"n\006fw"()"#,
            "SELECT pg_catalog.age(d) FROM t",
        ] {
            assert!(tells(text.as_bytes()), "{text}");
        }
        for text in [
            "SELECT known FROM t",
            "SELECT statement_timestamp()",
            "SELECT nowhere, pages FROM snow",
            "SELECT 1",
        ] {
            assert!(!tells(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn read_uncommitted_is_read_committed() {
        assert!(is_read_committed("Read Committed") && is_read_committed("read uncommitted"));
        assert!(!is_read_committed("repeatable read") && !is_read_committed("serializable"));
    }
}
