//! COPY … FROM STDIN into tables of several shards: each row to its own, or all of them to all where the table is
//! everywhere.
//!
//! The statement runs on all shards, in a transaction on each. The client's data is cut into rows as it comes, and
//! no more of it is kept than a row and what the slowest server has not taken yet: who does not read stops the
//! reading from the client.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Buf, BytesMut};

use crate::clients::ServerIdentity;
use crate::protocol::{ErrorResponse, FrontendTag, Reader, SqlState, backend, frame, frontend};
use crate::server::{Answer, QueryError, literal};
use crate::shard::{CopyError, CopySession, CopyTo, RowSplitter};
use crate::sql::{CopyFrom, Refusal, Unlisted, copy_from};

use super::batch::Batch;
use super::client::ClientSession;
use super::error::SessionError;
use super::fills::{qualified, quoted};
use super::spread::{Outcome, Spread, different, fail, on_shard};

/// Rows for one shard travel in messages of about this size.
const CHUNK_BYTES: usize = 32 * 1024;
/// With more than this waiting for a server, no more is read from the client.
const HIGH_WATER_BYTES: usize = 256 * 1024;
/// The first version of PostgreSQL in which `\.` is a value like others in CSV.
const CSV_WITHOUT_MARKER: u32 = 18;

/// What a client's data ends with.
enum End {
    Done,
    /// The client's reason.
    Failed(String),
}

/// Gives rows to shards.
struct Rows {
    /// `None`: all to all.
    splitter: Option<RowSplitter>,
    /// By shard, what is to be sent.
    chunks: Vec<BytesMut>,
}

impl Rows {
    fn push(&mut self, bytes: &[u8]) -> Result<(), CopyError> {
        let Self { splitter, chunks } = self;
        match splitter {
            None => chunks.iter_mut().for_each(|chunk| chunk.extend_from_slice(bytes)),
            Some(splitter) => splitter.push(bytes, &mut |to, row| give(chunks, to, row))?,
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), CopyError> {
        let chunks = &mut self.chunks;
        match self.splitter.take() {
            None => Ok(()),
            Some(splitter) => splitter.finish(&mut |to, row| give(chunks, to, row)),
        }
    }
}

fn give(chunks: &mut [BytesMut], to: CopyTo, row: &[u8]) {
    match to {
        CopyTo::All => chunks.iter_mut().for_each(|chunk| chunk.extend_from_slice(row)),
        CopyTo::Shard(shard) => {
            if let Some(chunk) = usize::try_from(shard).ok().and_then(|shard| chunks.get_mut(shard)) {
                chunk.extend_from_slice(row);
            }
        }
    }
}

impl ClientSession {
    /// Runs a COPY from the client on all shards. Its message is taken from the inbox.
    pub(super) async fn run_copy(
        &mut self,
        spread: &mut Spread,
        batch: &mut Batch,
        copy: &CopyFrom,
    ) -> Result<Outcome, SessionError> {
        let mut request = self.wire.inbox.split_to(std::mem::take(&mut batch.len));
        let listed;
        let copy = match copy {
            CopyFrom::Unlisted(unlisted) => match self.with_columns(spread, unlisted, &mut request).await? {
                Ok(known) => {
                    listed = known;
                    &listed
                }
                Err(outcome) => return Ok(outcome),
            },
            known => known,
        };
        for target in 0..spread.count() {
            let Some(lease) = spread.lease(target) else { continue };
            let identity = Arc::clone(lease.identity());
            self.handle().link(Arc::clone(&identity));
            let answer = self.drive(&identity, lease.begin_copy(&request)).await?;
            if answer.copies {
                if target + 1 == spread.count() {
                    self.wire.outbox.extend_from_slice(&answer.messages);
                }
                continue;
            }
            let body = answer.error.unwrap_or_default();
            self.end_copies(spread, target, Some("failed on another shard")).await?;
            return Ok(Outcome::Failed(target, on_shard(&answer.messages, &body, target)));
        }
        let splitter = match copy {
            CopyFrom::Sharded(target) => Some(RowSplitter::new(target.clone(), self.copy_session())),
            CopyFrom::Unlisted(_) | CopyFrom::Everywhere { .. } => None,
        };
        let count = spread.count();
        let mut rows = Rows { splitter, chunks: (0..count).map(|_| BytesMut::new()).collect() };
        let error = match self.pass_rows(spread, &mut rows).await? {
            Ok(End::Done) => match rows.finish() {
                Ok(()) => {
                    self.send_chunks(spread, &mut rows, 1).await?;
                    return self.copied(spread, copy).await;
                }
                Err(error) => error,
            },
            Ok(End::Failed(why)) => {
                let answers = self.end_copies(spread, count, Some(&why)).await?;
                let told = answers.into_iter().next().unwrap_or_default().messages;
                return Ok(Outcome::Failed(0, told));
            }
            Err(error) => error,
        };
        self.end_copies(spread, count, Some("a row has no shard")).await?;
        let mut told = BytesMut::new();
        refusal(&error).write(&mut told);
        Ok(Outcome::Failed(0, told))
    }

    /// Writes into a COPY the columns that it means without naming them, so that a change of the table in between, or
    /// another order on another shard, is an error and no row in the wrong place. What it is then, or the outcome of
    /// the batch if it fails.
    async fn with_columns(
        &mut self,
        spread: &mut Spread,
        unlisted: &Unlisted,
        request: &mut BytesMut,
    ) -> Result<Result<CopyFrom, Outcome>, SessionError> {
        let known = match self.question(spread, 0, &columns_of(unlisted)).await? {
            Ok(rows) => rows,
            Err(outcome) => return Ok(Err(outcome)),
        };
        let columns: Vec<String> = known
            .into_iter()
            .filter_map(|row| row.into_iter().next().flatten())
            .map(|name| quoted(&name))
            .collect();
        let body = request.get(frame::HEADER_LEN..).unwrap_or_default();
        let text = unlisted.listed(frontend::query_text(body)?, &columns);
        let found = if self.speaks_utf8() || text.is_ascii() {
            let schema = self.sharded.as_deref().map(|sharded| Arc::clone(&sharded.set));
            schema.map_or(Ok(None), |set| copy_from(&text, self.lex, set.schema()))
        } else {
            Err(Refusal::NotUnderstood)
        };
        match found {
            Ok(Some(copy @ CopyFrom::Sharded(_))) => {
                *request = frontend::query_message(&text);
                Ok(Ok(copy))
            }
            Ok(_) => fail(spread, 0, &self.refused(&Refusal::NotUnderstood)).await.map(Err),
            Err(refusal) => fail(spread, 0, &self.refused(&refusal)).await.map(Err),
        }
    }

    fn copy_session(&self) -> CopySession {
        let version = self.told.value("server_version").unwrap_or_default();
        let major = version.split(|c: char| !c.is_ascii_digit()).next().and_then(|major| major.parse().ok());
        CopySession {
            is_utf8: self.speaks_utf8(),
            csv_ends_at_marker: major.is_none_or(|major: u32| major < CSV_WITHOUT_MARKER),
            row_bytes_max: self.topology.config.limits.message_bytes,
        }
    }

    /// Passes the client's data on, up to its end.
    async fn pass_rows(
        &mut self,
        spread: &mut Spread,
        rows: &mut Rows,
    ) -> Result<Result<End, CopyError>, SessionError> {
        let limit = self.topology.config.limits.message_bytes;
        let Some(server) = spread.lease(0).map(|lease| Arc::clone(lease.identity())) else {
            return Err(SessionError::Protocol("no shards".to_owned()));
        };
        loop {
            let cut = frame::split(&self.wire.inbox, limit)?;
            let Some((header, body, _)) = cut else {
                self.hear_client(&server).await?;
                continue;
            };
            let pushed = match FrontendTag(header.tag) {
                FrontendTag::COPY_DATA => rows.push(body),
                FrontendTag::COPY_DONE => {
                    self.wire.inbox.advance(header.total_len);
                    return Ok(Ok(End::Done));
                }
                FrontendTag::COPY_FAIL => {
                    let why = Reader::new(body).cstr().unwrap_or_default();
                    let why = String::from_utf8_lossy(why).into_owned();
                    self.wire.inbox.advance(header.total_len);
                    return Ok(Ok(End::Failed(why)));
                }
                // Of clients that do not know that this is a simple query.
                FrontendTag::SYNC | FrontendTag::FLUSH => Ok(()),
                FrontendTag(tag) => {
                    let what = format!("unexpected message type 0x{tag:02X} during COPY from stdin");
                    return Err(SessionError::Protocol(what));
                }
            };
            self.wire.inbox.advance(header.total_len);
            if let Err(error) = pushed {
                return Ok(Err(error));
            }
            self.send_chunks(spread, rows, CHUNK_BYTES).await?;
        }
    }

    /// Writes what is for the client, and waits until it has sent something.
    async fn hear_client(&mut self, server: &Arc<ServerIdentity>) -> Result<(), SessionError> {
        poll_fn(|cx| {
            self.obey_while_running(server, cx)?;
            if let Poll::Ready(Err(error)) = self.wire.poll_flush(cx) {
                return Poll::Ready(Err(SessionError::ClientGone(error)));
            }
            self.wire.poll_fill(cx).map(|filled| match filled {
                Ok(0) => Err(SessionError::ClientGone(std::io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => Ok(()),
                Err(error) => Err(SessionError::ClientGone(error)),
            })
        })
        .await
    }

    /// Sends the chunks that have at least this size.
    async fn send_chunks(
        &mut self,
        spread: &mut Spread,
        rows: &mut Rows,
        least: usize,
    ) -> Result<(), SessionError> {
        for (target, chunk) in rows.chunks.iter_mut().enumerate() {
            if chunk.len() < least {
                continue;
            }
            let Some(lease) = spread.lease(target) else { continue };
            frontend::copy_data(&mut lease.wire.outbox, chunk);
            chunk.clear();
            if lease.wire.outbox.len() < HIGH_WATER_BYTES {
                continue;
            }
            let identity = Arc::clone(lease.identity());
            self.drive(&identity, async { lease.wire.flush().await.map_err(QueryError::from) }).await?;
        }
        Ok(())
    }

    /// Ends the COPY on the first `count` shards; with a reason, by failure.
    async fn end_copies(
        &mut self,
        spread: &mut Spread,
        count: usize,
        why: Option<&str>,
    ) -> Result<Vec<Answer>, SessionError> {
        let mut message = BytesMut::new();
        match why {
            None => frontend::copy_done(&mut message),
            Some(why) => frontend::copy_fail(&mut message, why),
        }
        let mut answers = Vec::new();
        for target in 0..count {
            let Some(lease) = spread.lease(target) else { continue };
            let identity = Arc::clone(lease.identity());
            self.handle().link(Arc::clone(&identity));
            answers.push(self.drive(&identity, lease.converse(&message)).await?);
        }
        Ok(answers)
    }

    /// All data is sent: what the servers say of it, together.
    async fn copied(&mut self, spread: &mut Spread, copy: &CopyFrom) -> Result<Outcome, SessionError> {
        let count = spread.count();
        let answers = self.end_copies(spread, count, None).await?;
        let failed = answers.iter().position(|answer| answer.error.is_some());
        if let Some((target, answer)) = failed.and_then(|at| Some((at, answers.get(at)?))) {
            let body = answer.error.as_deref().unwrap_or_default();
            return Ok(Outcome::Failed(target, on_shard(&answer.messages, body, target)));
        }
        let counts: Vec<u64> = answers.iter().map(rows_copied).collect();
        let total = match copy {
            CopyFrom::Sharded(_) | CopyFrom::Unlisted(_) => counts.iter().sum(),
            CopyFrom::Everywhere { .. } => {
                let first = counts.first().copied().unwrap_or(0);
                if let Some(other) = counts.iter().position(|count| *count != first) {
                    return fail(spread, other, &different(0, other)).await;
                }
                first
            }
        };
        let mut told = BytesMut::new();
        backend::command_complete(&mut told, &format!("COPY {total}"));
        Ok(Outcome::Done(told))
    }
}

/// The columns that COPY fills if none are listed. That there is no such table is said as COPY says it.
fn columns_of(unlisted: &Unlisted) -> String {
    let table = qualified(unlisted.schema.as_deref(), &unlisted.table);
    format!(
        "SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = {}::pg_catalog.regclass \
         AND attnum OPERATOR(pg_catalog.>) 0 AND NOT attisdropped AND attgenerated OPERATOR(pg_catalog.=) '' \
         ORDER BY attnum",
        literal(&table)
    )
}

/// How many rows a server says that it has copied.
fn rows_copied(answer: &Answer) -> u64 {
    let mut rest = &answer.messages[..];
    while let Ok(Some((header, body, tail))) = frame::split(rest, usize::MAX) {
        rest = tail;
        if header.tag == crate::protocol::BackendTag::COMMAND_COMPLETE.0 {
            let tag = String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap_or(body));
            return tag.strip_prefix("COPY ").and_then(|count| count.parse().ok()).unwrap_or(0);
        }
    }
    0
}

fn refusal(error: &CopyError) -> ErrorResponse {
    let code = error.sqlstate().as_bytes().try_into().map_or(SqlState::INTERNAL_ERROR, SqlState);
    let response = ErrorResponse::error(code, error.to_string()).detail(format!("{}.", error.context()));
    match error.hint() {
        Some(hint) => response.hint(hint),
        None => response,
    }
}
