//! Waiting for the next batch: the client's bytes, orders, and what a held server connection says
//! meanwhile.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Buf;

use crate::clients::Order;
use crate::protocol::{FrontendTag, frame};
use crate::task;

use super::batch::{Batch, BatchEnd};
use super::client::ClientSession;
use super::error::SessionError;

/// A batch that grows beyond this without a Sync is run in parts.
const BATCH_BYTES_MAX: usize = 256 * 1024;

impl ClientSession {
    /// Waits until a batch is complete.
    ///
    /// # Cancel safety
    /// Bytes that were read stay in the inbox.
    pub(super) async fn next_batch(&mut self) -> Result<Batch, SessionError> {
        self.send_answers().await?;
        poll_fn(|cx| self.poll_next_batch(cx)).await
    }

    /// The same, for a client that may rest: `None` when it has been silent for a while.
    pub(super) async fn next_batch_or_rest(&mut self) -> Result<Option<Batch>, SessionError> {
        self.send_answers().await?;
        poll_fn(|cx| match self.poll_next_batch(cx) {
            Poll::Pending if self.handle().rests() => Poll::Ready(Ok(None)),
            Poll::Pending => Poll::Pending,
            Poll::Ready(batch) => Poll::Ready(batch.map(Some)),
        })
        .await
    }

    /// Sends what the last batch was answered. What the socket does not take is written while the next batch is waited
    /// for, or answered.
    ///
    /// # Cancel safety
    /// What was not written stays in the outbox.
    async fn send_answers(&mut self) -> Result<(), SessionError> {
        if self.wire.outbox.is_empty() {
            return Ok(());
        }
        task::after_others().await;
        poll_fn(|cx| match self.wire.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(SessionError::ClientGone(error))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        })
        .await
    }

    fn poll_next_batch(&mut self, cx: &mut Context<'_>) -> Poll<Result<Batch, SessionError>> {
        loop {
            if let Some(batch) = self.scan()? {
                return Poll::Ready(Ok(batch));
            }
            self.obey_while_idle(cx)?;
            if self.listening.is_on() {
                self.deliver()?;
            }
            if let Poll::Ready(result) = self.wire.poll_flush(cx) {
                result.map_err(SessionError::ClientGone)?;
                if self.lease.is_none() {
                    self.wire.release_outbox();
                }
                if self.listening.has_mail() && self.may_deliver() {
                    continue;
                }
            }
            self.poll_held_server(cx)?;
            match self.wire.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Batch { end: BatchEnd::Terminate, len: 0 })),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(SessionError::ClientGone(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn obey_while_idle(&mut self, cx: &Context<'_>) -> Result<(), SessionError> {
        let order = self.handle().pending_order(Some(cx));
        let open = self.awaiting_sync || self.is_in_transaction();
        match order {
            Order::None => Ok(()),
            // Waits for the end of the transaction.
            Order::Drain if open => Ok(()),
            // The query has ended on its own.
            Order::QueryTimeout => {
                self.handle().clear_order(order);
                Ok(())
            }
            _ => Err(SessionError::Ordered(order)),
        }
    }

    /// Passes on what a held server connection says by itself: notices, notifications, its end.
    fn poll_held_server(&mut self, cx: &mut Context<'_>) -> Result<(), SessionError> {
        let Some(mut lease) = self.lease.take() else { return Ok(()) };
        if self.may_lose(&lease) {
            // What it said cannot be for a client that has only read there, or it will be said elsewhere, too.
            match lease.wire.poll_fill(cx) {
                Poll::Pending => self.lease = Some(lease),
                Poll::Ready(_) => self.lose_leading(lease),
            }
            return Ok(());
        }
        let result = loop {
            match lease.wire.poll_fill(cx) {
                Poll::Pending => break Ok(()),
                Poll::Ready(Ok(0)) => {
                    lease.mark_broken();
                    break Err(SessionError::ServerLost("the server closed the connection".into()));
                }
                Poll::Ready(Err(error)) => {
                    lease.mark_broken();
                    break Err(SessionError::ServerLost(error.to_string()));
                }
                Poll::Ready(Ok(_)) => {
                    if let Err(error) = self.consume_server(&mut lease, cx) {
                        lease.mark_broken();
                        break Err(error);
                    }
                }
            }
        };
        self.lease = Some(lease);
        result?;
        // What was passed on is written here, and the rest when the socket takes it.
        match self.wire.poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(SessionError::ClientGone(error)),
            _ => Ok(()),
        }
    }

    /// Looks for the end of a batch in what was read.
    fn scan(&mut self) -> Result<Option<Batch>, SessionError> {
        let limit = self.topology.config.limits.message_bytes;
        loop {
            if self.discard > 0 {
                let count = self.discard.min(self.wire.inbox.len());
                self.wire.inbox.advance(count);
                self.discard -= count;
                if self.discard > 0 {
                    return Ok(None);
                }
            }
            let rest = self.wire.inbox.get(self.scanned..).unwrap_or_default();
            let header = match frame::peek(rest, limit) {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(self.part_if_long(0)),
                // What came before is answered first.
                Err(_) if self.scanned > 0 => {
                    return Ok(Some(self.take_batch(BatchEnd::Partial, self.scanned)));
                }
                Err(error) => return Err(error.into()),
            };
            let tag = FrontendTag(header.tag);
            if is_copy(tag) && self.scanned == 0 {
                // A COPY has failed while the client was still sending: PostgreSQL ignores these, too.
                self.discard = header.total_len;
                continue;
            }
            let end = match tag {
                FrontendTag::QUERY => Some(BatchEnd::Query),
                FrontendTag::SYNC => Some(BatchEnd::Sync),
                FrontendTag::FLUSH => Some(BatchEnd::Flush),
                FrontendTag::FUNCTION_CALL => Some(BatchEnd::FunctionCall),
                FrontendTag::TERMINATE => Some(BatchEnd::Terminate),
                FrontendTag::PARSE
                | FrontendTag::BIND
                | FrontendTag::DESCRIBE
                | FrontendTag::EXECUTE
                | FrontendTag::CLOSE => None,
                _ if self.scanned > 0 => return Ok(Some(self.take_batch(BatchEnd::Partial, self.scanned))),
                FrontendTag(byte) => {
                    return Err(SessionError::Protocol(format!("invalid frontend message type {byte}")));
                }
            };
            if rest.len() < header.total_len {
                return Ok(self.part_if_long(header.total_len));
            }
            self.scanned += header.total_len;
            if let Some(end) = end {
                return Ok(Some(self.take_batch(end, self.scanned)));
            }
        }
    }

    /// A batch that is long already is run as far as it is complete.
    fn part_if_long(&mut self, coming: usize) -> Option<Batch> {
        let long = self.scanned > 0 && self.scanned + coming > BATCH_BYTES_MAX;
        long.then(|| self.take_batch(BatchEnd::Partial, self.scanned))
    }

    fn take_batch(&mut self, end: BatchEnd, len: usize) -> Batch {
        self.scanned = 0;
        Batch { end, len }
    }
}

fn is_copy(tag: FrontendTag) -> bool {
    matches!(tag, FrontendTag::COPY_DATA | FrontendTag::COPY_DONE | FrontendTag::COPY_FAIL)
}
