//! The net under reads on replicas: one that fails there for what a replica is runs once more elsewhere, and the
//! client does not notice. And under clones of templates that somebody was just leaving.
//!
//! A standby refuses what it takes for a write, cancels reads that are in the way of replay, may be restarted, and
//! may lack what was just created. The batch is run again if it was all of an autocommit read, and nothing of an
//! answer to it has left for the client. Where it had looked like a read and was none, its statements are remembered.
//! A clone has done nothing when PostgreSQL says that its template is in use; whatever else happens to it is the
//! client's to know.

use bytes::BytesMut;
use smallvec::SmallVec;

use crate::protocol::extended::Parse;
use crate::protocol::{BackendTag, ErrorFields, FrontendTag, SqlState, frame};
use crate::route::{Reason, Target};
use crate::sql::{Effect, Fingerprint, SessionEffects};

use super::batch::{Batch, BatchEnd, Plan};
use super::client::ClientSession;
use super::error::SessionError;
use super::exchange::Exchange;

/// A batch that is longer is not kept.
const BYTES_MAX: usize = 64 * 1024;
/// Room for a batch that a client may keep between two.
const BYTES_KEPT: usize = 1024;

/// What may be run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fallible {
    /// A read on a replica.
    Read,
    /// `CREATE DATABASE`, which has done nothing if it says that its template is in use.
    Clone,
}

/// The batch that runs, while it may be run again.
#[derive(Debug, Default)]
pub(super) struct Retry {
    armed: Option<Fallible>,
    /// The batch, also for one that meets a stale plan.
    pub(super) kept: BytesMut,
    /// It is still in the client's inbox, too.
    in_inbox: bool,
    /// Bytes for the client up to the answer to it.
    before: u64,
    statements: SmallVec<[Fingerprint; 2]>,
    /// Why it runs elsewhere now.
    again: Option<Reason>,
}

impl Retry {
    /// It will not be run again.
    #[inline]
    pub(super) fn disarm(&mut self) {
        self.armed = None;
    }

    /// The batch has been answered.
    #[inline]
    pub(super) fn answered(&mut self) {
        self.armed = None;
        // Thousands of idle clients keep one each.
        if self.kept.capacity() > BYTES_KEPT {
            self.kept = BytesMut::new();
        }
    }

    /// Gives back what it needs only while a batch may run.
    pub(super) fn rest(&mut self) {
        self.kept = BytesMut::new();
    }

    /// Keeps a batch, unless it is kept already.
    #[inline]
    pub(super) fn keep(&mut self, batch: &[u8]) {
        if self.armed.is_none() {
            self.set_kept(batch);
        }
    }

    #[inline]
    fn set_kept(&mut self, batch: &[u8]) {
        self.kept.clear();
        self.kept.extend_from_slice(batch);
    }

    /// The batch is taken from the client's inbox.
    #[inline]
    pub(super) fn taken(&mut self) {
        self.in_inbox = false;
    }

    /// The batch has found its place.
    #[inline]
    pub(super) fn runs_elsewhere(&mut self) {
        self.armed = None;
        self.again = None;
    }

    /// Why the present batch must not go where it would.
    #[inline]
    pub(super) fn again(&self) -> Option<Reason> {
        self.again
    }
}

/// Why a read that failed so on a replica may do better elsewhere.
fn reason_of(code: SqlState) -> Option<Reason> {
    match &code.0 {
        // Refused by a standby: a write, a function that only the primary runs, an unlogged table.
        b"25006" | b"55000" | b"0A000" => Some(Reason::RetriedReadOnly),
        // In the way of replay.
        b"40001" | b"40P01" => Some(Reason::RetriedConflict),
        b"57P01" | b"57P02" | b"57P03" => Some(Reason::RetriedLost),
        // Not there, or not allowed, yet.
        b"42P01" | b"42703" | b"42704" | b"42883" | b"42501" | b"3F000" => Some(Reason::RetriedUndefined),
        _ => None,
    }
}

impl ClientSession {
    /// Keeps the batch if it may be run again.
    pub(super) fn arm_retry(&mut self, batch: Batch, plan: &mut Plan) {
        let again = self.retry.again.take();
        let is_clone = plan.rare().databases.iter().any(|needed| needed.is_template);
        // Of several databases some might have been created.
        let what = if is_clone && plan.queries == 1 {
            Some(Fallible::Clone)
        } else if self.target != Target::Primary && plan.work.effect <= Effect::Read {
            Some(Fallible::Read)
        } else {
            None
        };
        let may_run_again = again.is_none()
            && matches!(batch.end, BatchEnd::Query | BatchEnd::Sync)
            && batch.len <= BYTES_MAX
            && !plan.closes
            && !plan.effects.intersects(SessionEffects::SQL_PREPARE);
        self.retry.armed = what.filter(|_| may_run_again);
        if self.retry.armed.is_some() {
            self.retry.in_inbox = true;
            self.retry.set_kept(self.wire.inbox.get(..batch.len).unwrap_or_default());
            self.retry.before = self.wire.sent + self.wire.outbox.len() as u64;
            // Who reads does not ask for them later; who writes does, and a read is not what it runs.
            self.retry.statements = match what {
                Some(Fallible::Read) => std::mem::take(&mut plan.fingerprints),
                _ => SmallVec::new(),
            };
        }
    }

    fn nothing_has_left(&self) -> bool {
        self.retry.armed.is_some() && self.wire.sent <= self.retry.before
    }

    /// Whether what the server says is something that another node may spare the client: an error, or the notice of
    /// a server that stops at once.
    pub(super) fn spares(&self, tag: BackendTag, body: &[u8]) -> Option<SessionError> {
        if !self.nothing_has_left() {
            return None;
        }
        let fields = ErrorFields::read(body);
        let code = fields.sqlstate()?;
        let reason = match self.retry.armed? {
            Fallible::Read => reason_of(code)?,
            Fallible::Clone => (code == SqlState::OBJECT_IN_USE).then_some(Reason::RetriedClone)?,
        };
        let counts = match tag {
            BackendTag::NOTICE_RESPONSE => reason == Reason::RetriedLost,
            _ => fields.is_fatal() || !self.exchange.is_ours(),
        };
        counts.then(|| SessionError::Elsewhere { reason, message: fields.message_lossy().into_owned() })
    }

    /// Whether what ended a batch is no reason to end the session: then all is as it was before the batch, which
    /// goes elsewhere next.
    pub(super) fn retries(&mut self, error: &SessionError) -> bool {
        if !self.nothing_has_left() {
            return false;
        }
        let reason = match error {
            SessionError::Elsewhere { reason, .. } => *reason,
            // What was no read may have been done.
            SessionError::ServerLost(_) | SessionError::ServerEnded(_)
                if self.retry.armed == Some(Fallible::Read) =>
            {
                Reason::RetriedLost
            }
            _ => return false,
        };
        tracing::debug!(client = self.handle().id.0, %error, %reason, "a batch is run again");
        if reason == Reason::RetriedReadOnly {
            for statement in self.retry.statements.drain(..) {
                self.database.learned.learn(statement);
            }
        }
        self.retry.armed = None;
        self.retry.again = Some(reason);
        self.begin_again();
        self.handle().unlink();
        self.handle().clear_deadline();
        self.forget_exchange();
        let kept = usize::try_from(self.retry.before - self.wire.sent).unwrap_or(0);
        self.wire.outbox.truncate(kept);
        self.scanned = 0;
        if !self.retry.in_inbox {
            // In front of what came since.
            let rest = self.wire.inbox.split_off(self.send_from_inbox);
            self.send_from_inbox = 0;
            let batch = std::mem::take(&mut self.retry.kept);
            self.forget_names(&batch);
            self.wire.inbox = batch;
            self.wire.inbox.extend_from_slice(&rest);
        }
        true
    }

    /// As if the batch had never been sent.
    fn forget_exchange(&mut self) {
        self.exchange = Exchange::default();
        self.awaiting_sync = false;
        self.pass_to_client = 0;
        self.pass_to_server = 0;
        self.restoring = Box::default();
        self.saw_error = false;
        self.own_failure = None;
        self.server_ended = None;
        self.replay = None;
        self.heal = None;
        self.pending_set = None;
        self.effects = SessionEffects::NONE;
        self.unknown_functions = None;
        self.custom_names.clear();
        self.deallocates_all = false;
        self.deallocated_all = false;
        self.reads_otherwise = false;
    }

    /// Names that the batch gives to statements are free again.
    fn forget_names(&mut self, batch: &[u8]) {
        let mut rest = batch;
        while let Ok(Some((header, body, tail))) = frame::split(rest, usize::MAX) {
            rest = tail;
            if FrontendTag(header.tag) == FrontendTag::PARSE
                && let Ok(parse) = Parse::read(body)
                && !parse.name.is_empty()
            {
                self.statements.set(parse.name, None);
            }
        }
    }
}
