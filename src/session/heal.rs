//! "cached plan must not change result type": prepared again, and the statement run after all.
//!
//! PostgreSQL raises this error to protect a client that was told what a statement gives back and would read
//! the rows by that. Through a pooler it also comes when the client has prepared after the change, and its
//! server connection holds the plan of somebody who prepared before it. So the statement is prepared anew on
//! that connection, and if the client would read the rows rightly (it was never told, was told the same, or
//! asks again in this very batch), its batch goes on where it failed. Otherwise it gets PostgreSQL's error.
//!
//! Only outside transactions, where nothing of the batch has run yet.

use std::sync::Arc;

use crate::pool::ServerLease;
use crate::protocol::extended::{self, Bind, Target};
use crate::protocol::{FrontendTag, Reader, TransactionStatus, backend, frame, raw_error};
use crate::server::{Definition, Holds, RowShape, ServerConn};

use super::batch::{Batch, BatchEnd, Plan};
use super::client::ClientSession;
use super::error::SessionError;
use super::reading::Reading;

/// Longest batch that is kept for a second try.
const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// How often a batch is tried again: each time somebody has changed the table between two messages.
const TRIES_MAX: u8 = 10;

/// How the batch that is kept may be tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replay {
    /// From this byte on.
    pub from: usize,
    pub end: BatchEnd,
    /// How often it was.
    pub tries: u8,
}

/// A batch whose first Bind met a plan that is stale.
#[derive(Debug)]
pub(super) struct Heal {
    /// From that Bind on.
    rest: Replay,
    name: Vec<u8>,
    definition: Arc<Definition>,
    /// The body of the error.
    error: Vec<u8>,
}

impl ClientSession {
    /// Takes note that the first Bind of the batch met a stale plan. False when that cannot be mended.
    pub(super) fn begin_heal(&mut self, lease: &mut ServerConn, body: &[u8]) -> bool {
        let expected = self.exchange.expects_bind() || self.exchange.describes().is_some();
        if !expected || !is_stale_plan(body) || lease.status != TransactionStatus::Idle {
            return false;
        }
        let Some(replay) = self.replay.take() else { return false };
        let kept = self.retry.kept.get(replay.from..).unwrap_or_default();
        let Some((skip, name)) = first_use(kept) else { return false };
        let Some(definition) = self.statements.find(&name).cloned() else { return false };
        self.exchange.describes_again = !self.exchange.expects_bind();
        let (_, aftermath) = self.exchange.on_error();
        self.undo(lease, aftermath);
        if !self.exchange.swallow_sync() {
            return false;
        }
        let rest = Replay { from: replay.from + skip, end: replay.end, tries: replay.tries + 1 };
        self.heal = Some(Box::new(Heal { rest, name, definition, error: body.to_vec() }));
        true
    }

    /// Whether the batch could be tried again: it is short, and it begins and ends with its transaction.
    pub(super) fn may_replay(&self, lease: &ServerLease, batch: Batch, only_asks: bool) -> bool {
        (batch.end == BatchEnd::Sync || (batch.end == BatchEnd::Flush && only_asks))
            && batch.len <= REPLAY_BYTES_MAX
            && lease.status == TransactionStatus::Idle
            && !self.awaiting_sync
    }

    /// Prepares the statement anew and sends the rest of the batch, or the error.
    ///
    /// # Cancel safety
    /// A dropped future leaves the connection unclean, and so closed.
    pub(super) async fn heal_plan(
        &mut self,
        lease: &mut ServerLease,
        heal: Heal,
    ) -> Result<(), SessionError> {
        let Heal { rest, name, definition, error } = heal;
        let error = match self.prepare_now(lease, &name, &definition).await? {
            Ok(shape) => {
                let kept = self.retry.kept.get(rest.from..).unwrap_or_default();
                if self.statements.fits(&name, shape) || asks_again(kept) {
                    tracing::debug!(
                        client = self.handle().id.0,
                        "a statement was prepared again: its result type has changed"
                    );
                    return self.send_rest(lease, rest);
                }
                error
            }
            Err(other) => other,
        };
        self.saw_error = true;
        self.exchange.describes_again = false;
        raw_error(&mut self.wire.outbox, &error);
        if rest.end == BatchEnd::Sync {
            if !self.listening.hold() {
                backend::ready_for_query(&mut self.wire.outbox, TransactionStatus::Idle);
            }
        } else {
            self.exchange.skipping = true;
        }
        Ok(())
    }

    /// Sends the rest of a batch whose first part has been answered.
    fn send_rest(&mut self, lease: &mut ServerLease, rest: Replay) -> Result<(), SessionError> {
        // Another change may commit before the batch comes to it.
        self.replay = (rest.tries < TRIES_MAX).then_some(rest);
        let kept = std::mem::take(&mut self.retry.kept);
        let bytes = kept.get(rest.from..).unwrap_or_default();
        let result = Plan::of(bytes, self.given(None)).and_then(|mut plan| {
            self.build_extended(lease, bytes, &mut plan, Batch { end: rest.end, len: bytes.len() })
        });
        self.retry.kept = kept;
        result
    }

    /// Statements whose texts were read under other settings than the client has now are prepared under those,
    /// where the connection does not have them. And what statements give back that the client was told about is
    /// compared with that. Answers the error that the client gets if it would misread the rows.
    ///
    /// # Cancel safety
    /// A dropped future leaves the connection unclean, and so closed.
    pub(super) async fn check_statements(
        &mut self,
        lease: &mut ServerLease,
        plan: &Plan,
    ) -> Result<Option<Vec<u8>>, SessionError> {
        if lease.status == TransactionStatus::Failed || lease.owes_replies() || self.awaiting_sync {
            return Ok(None);
        }
        for (name, definition) in &plan.rare().foreign {
            let name = self.wire.inbox.get(name.clone()).unwrap_or_default().to_vec();
            if self.is_current(lease, &name, definition) || self.reads_otherwise {
                continue;
            }
            self.sync_settings_now(lease).await?;
            // As at its Parse, and back again.
            let there = Reading::at(&self.settings, &definition.reading);
            if let Some(sql) = self.settings.difference(&there) {
                lease.simple_query(&sql).await?;
            }
            let outcome = self.prepare_now(lease, &name, definition).await?;
            if let (Some(sql), Ok(_)) = (there.difference(&self.settings), &outcome) {
                lease.simple_query(&sql).await?;
            }
            if let Err(error) = outcome {
                // In a transaction the settings go back with it, otherwise they are made anew.
                lease.settings_uncertain = true;
                return Ok(Some(error));
            }
        }
        for (name, definition) in &plan.told {
            let name = self.wire.inbox.get(name.clone()).unwrap_or_default().to_vec();
            // What does not fit may be older than what the client was told, by somebody who does not pass here.
            let known = self.known_shape(lease, &name, definition);
            let shape = match known.filter(|shape| self.statements.fits(&name, *shape)) {
                Some(shape) => shape,
                None => {
                    self.sync_settings_now(lease).await?;
                    match self.prepare_now(lease, &name, definition).await? {
                        Ok(shape) => shape,
                        Err(error) => return Ok(Some(error)),
                    }
                }
            };
            if !self.statements.fits(&name, shape) {
                return Ok(Some(RESULT_TYPE_CHANGED.to_vec()));
            }
        }
        Ok(None)
    }

    fn is_current(&self, lease: &mut ServerConn, name: &[u8], definition: &Arc<Definition>) -> bool {
        if name.is_empty() {
            return lease.unnamed.as_ref().is_some_and(|held| Arc::ptr_eq(held, definition));
        }
        lease.prepared.touch(definition.id, self.catalog_epoch) == Holds::Current
    }

    fn known_shape(
        &self,
        lease: &mut ServerLease,
        name: &[u8],
        definition: &Arc<Definition>,
    ) -> Option<RowShape> {
        if !self.is_current(lease, name, definition) {
            return None;
        }
        // The unnamed one there is the client's own: the server itself guards what it was told.
        if name.is_empty() { self.statements.shape(name) } else { lease.prepared.shape(definition.id) }
    }

    async fn prepare_now(
        &mut self,
        lease: &mut ServerLease,
        name: &[u8],
        definition: &Arc<Definition>,
    ) -> Result<Result<RowShape, Vec<u8>>, SessionError> {
        if name.is_empty() {
            let outcome = lease.prepare_again(definition, b"").await?;
            lease.unnamed = outcome.is_ok().then(|| Arc::clone(definition));
            return Ok(outcome);
        }
        lease.prepared.remove(definition.id);
        let outcome = lease.prepare_again(definition, definition.server_name.as_bytes()).await?;
        if let Ok(shape) = &outcome {
            lease.prepared.insert(Arc::clone(definition), self.catalog_epoch);
            lease.prepared.describe(definition.id, *shape);
            if self.reads_otherwise {
                lease.prepared.taint(definition.id);
            }
        }
        Ok(outcome)
    }
}

/// As PostgreSQL words it.
const RESULT_TYPE_CHANGED: &[u8] =
    b"SERROR\0VERROR\0C0A000\0Mcached plan must not change result type\0Fplancache.c\0RRevalidateCachedQuery\0\0";

/// The error of `RevalidateCachedQuery`; its text depends on the server's language, the routine does not.
fn is_stale_plan(body: &[u8]) -> bool {
    let field = |key: u8| {
        let mut reader = Reader::new(body);
        loop {
            match (reader.u8(), reader.cstr()) {
                (Ok(found), Ok(value)) if found == key => return Some(value),
                (Ok(found), Ok(_)) if found != 0 => {}
                _ => return None,
            }
        }
    };
    field(b'C') == Some(b"0A000") && field(b'R') == Some(b"RevalidateCachedQuery")
}

/// Where the first Bind, or Describe of a statement, begins, and the statement it names.
fn first_use(batch: &[u8]) -> Option<(usize, Vec<u8>)> {
    let mut rest = batch;
    while let Ok(Some((header, body, tail))) = frame::split(rest, usize::MAX) {
        let name = match FrontendTag(header.tag) {
            FrontendTag::BIND => Some(Bind::read(body).ok()?.statement),
            FrontendTag::DESCRIBE => match extended::target(body).ok()? {
                (Target::Statement, name) => Some(name),
                (Target::Portal, _) => None,
            },
            _ => None,
        };
        if let Some(name) = name {
            return (!name.is_empty()).then(|| (batch.len() - rest.len(), name.to_vec()));
        }
        rest = tail;
    }
    None
}

/// Whether the client asks what comes before it has it executed.
fn asks_again(batch: &[u8]) -> bool {
    let mut rest = batch;
    while let Ok(Some((header, body, tail))) = frame::split(rest, usize::MAX) {
        match FrontendTag(header.tag) {
            FrontendTag::DESCRIBE => return extended::target(body).is_ok(),
            FrontendTag::EXECUTE => return false,
            _ => rest = tail,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::protocol::frontend;

    fn batch() -> BytesMut {
        let mut out = BytesMut::new();
        extended::close_statement(&mut out, b"s");
        Bind { portal: b"", statement: b"x", rest: b"\0\0\0\0\0\0" }.write(&mut out, b"s");
        out
    }

    #[test]
    fn the_first_use_is_found() {
        let out = batch();
        let (at, name) = first_use(&out).unwrap();
        assert_eq!((out[at], name.as_slice()), (b'B', &b"s"[..]));
        assert!(first_use(&out[..at]).is_none());
    }

    #[test]
    fn a_portal_described_before_its_rows() {
        let mut out = batch().split_off(first_use(&batch()).unwrap().0);
        assert!(!asks_again(&out));
        crate::protocol::writer::message(&mut out, b'D', |b| b.extend_from_slice(b"P\0"));
        frontend::sync(&mut out);
        assert!(asks_again(&out));
    }

    #[test]
    fn the_error_is_known_by_its_routine() {
        assert!(is_stale_plan(b"SFEHLER\0C0A000\0Mgecachter Plan\0RRevalidateCachedQuery\0\0"));
        assert!(!is_stale_plan(b"SERROR\0C0A000\0Mcached plan must not change result type\0Rother\0\0"));
        assert!(!is_stale_plan(b"SERROR\0C42P01\0RRevalidateCachedQuery\0\0"));
        assert!(!is_stale_plan(b"garbage"));
    }
}
