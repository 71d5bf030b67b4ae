//! A simple query of our own on a server connection: probes, resets, looks at the session's state.

use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::LazyLock;

use bytes::{Buf, BytesMut};

use crate::protocol::extended::{self, Parse};
use crate::protocol::frame::SERVER_FRAME_LIMIT;
use crate::protocol::{
    BackendTag, ErrorFields, Reader, SqlState, TransactionStatus, frame, frontend, parameters,
};

use super::connection::ServerConn;
use super::prepared::Definition;

/// Text rows; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// Why a query of our own failed.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The connection failed; do not use it again.
    #[error("server connection failed: {0}")]
    Io(#[from] io::Error),
    /// The server refused the statement; the connection is as before.
    #[error("{message} ({code})")]
    Server {
        /// SQLSTATE.
        code: SqlState,
        /// Message.
        message: String,
    },
    /// The server sent what makes no sense.
    #[error("unexpected answer from the server: {0}")]
    Protocol(String),
}

impl ServerConn {
    /// Runs `sql` and returns its rows (of all statements in it).
    ///
    /// # Cancel safety
    /// A dropped future leaves the connection unclean, so it is closed and not lent.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Rows, QueryError> {
        loop {
            match self.simple_query_once(sql).await {
                // A cancel request that was meant for the client's statement came late: what we ask is asked again.
                Err(QueryError::Server { code, .. })
                    if code == SqlState::QUERY_CANCELED && self.identity().is_canceled() => {}
                result => return result,
            }
        }
    }

    async fn simple_query_once(&mut self, sql: &str) -> Result<Rows, QueryError> {
        self.begin_exchange();
        self.unnamed = None;
        frontend::query(&mut self.wire.outbox, sql.as_bytes());
        let mut rows = Rows::new();
        let mut failure = None;
        self.hear(|tag, message| {
            match tag {
                BackendTag::DATA_ROW => rows.push(read_row(body_of(message))?),
                BackendTag::ERROR_RESPONSE => {
                    let fields = ErrorFields::read(body_of(message));
                    failure = Some(QueryError::Server {
                        code: fields.sqlstate().unwrap_or(SqlState::INTERNAL_ERROR),
                        message: fields.message_lossy().into_owned(),
                    });
                }
                BackendTag::COPY_IN_RESPONSE | BackendTag::COPY_BOTH_RESPONSE => {
                    return Err(QueryError::Protocol("COPY was not asked for".into()));
                }
                _ => {}
            }
            Ok(Then::GoOn)
        })
        .await?;
        failure.map_or(Ok(rows), Err)
    }

    /// Sends what waits, and hears the answer to its ReadyForQuery. Settings that are reported and notifications are
    /// kept; every other message is shown to `each`.
    async fn hear(
        &mut self,
        mut each: impl FnMut(BackendTag, &[u8]) -> Result<Then, QueryError>,
    ) -> Result<(), QueryError> {
        self.wire.flush().await?;
        let mut heard = BytesMut::new();
        loop {
            let cut = frame::split(&self.wire.inbox, SERVER_FRAME_LIMIT)
                .map_err(|error| QueryError::Protocol(error.to_string()))?;
            let Some((header, body, _)) = cut else {
                self.wire.fill().await?;
                continue;
            };
            let message = self.wire.inbox.get(..header.total_len).unwrap_or_default();
            let mut then = Then::GoOn;
            let mut ready = None;
            match BackendTag(header.tag) {
                BackendTag::PARAMETER_STATUS => {
                    if let Ok((name, value)) = parameters::parse(body) {
                        self.parameters.insert(name, value);
                    }
                }
                BackendTag::NOTIFICATION_RESPONSE => heard.extend_from_slice(message),
                BackendTag::READY_FOR_QUERY => {
                    let status = body.first().copied().and_then(TransactionStatus::from_byte);
                    ready = Some(status.ok_or_else(|| QueryError::Protocol("bad ReadyForQuery".into()))?);
                }
                tag => then = each(tag, message)?,
            }
            self.wire.inbox.advance(header.total_len);
            if let Some(status) = ready {
                self.status = status;
                self.notifications.unsplit(heard);
                self.end_exchange();
                return Ok(());
            }
            match then {
                Then::GoOn => {}
                Then::RefuseCopy => {
                    frontend::copy_fail(&mut self.wire.outbox, "COPY is not for all shards");
                    self.wire.flush().await?;
                }
                Then::Stop => {
                    self.notifications.unsplit(heard);
                    return Ok(());
                }
            }
        }
    }
}

/// What follows on a message.
enum Then {
    GoOn,
    /// The server wants data, and gets none.
    RefuseCopy,
    /// The exchange stays open.
    Stop,
}

fn body_of(message: &[u8]) -> &[u8] {
    message.get(frame::HEADER_LEN..).unwrap_or_default()
}

/// What decides how the rows of a statement are read.
pub type RowShape = u64;

/// The shape of a RowDescription: names, types, modifiers. Not formats, which a Bind chooses, nor where the
/// columns come from. An empty body stands for NoData.
pub fn row_shape(body: &[u8]) -> RowShape {
    static SEEDED: LazyLock<hashbrown::DefaultHashBuilder> = LazyLock::new(Default::default);
    let mut hasher = SEEDED.build_hasher();
    let mut rest = body.get(size_of::<i16>()..).unwrap_or_default();
    while let Some(end) = rest.iter().position(|byte| *byte == 0)
        && let Some((name, behind)) = rest.split_at_checked(end + 1)
        && let Some((column, tail)) = behind.split_first_chunk::<18>()
    {
        hasher.write(name);
        // Behind the table and the number in it, in front of the format.
        hasher.write(&column[6..16]);
        rest = tail;
    }
    hasher.finish()
}

impl ServerConn {
    /// Prepares a definition anew under `name`, in place of what the server has there. Answers the shape of its
    /// rows, or the body of the server's error.
    ///
    /// # Cancel safety
    /// A dropped future leaves the connection unclean, so it is closed and not lent.
    pub async fn prepare_again(
        &mut self,
        definition: &Definition,
        name: &[u8],
    ) -> Result<Result<RowShape, Vec<u8>>, QueryError> {
        loop {
            let outcome = self.prepare_once(definition, name).await?;
            let canceled =
                |body: &Vec<u8>| ErrorFields::read(body).sqlstate() == Some(SqlState::QUERY_CANCELED);
            // As in `simple_query`.
            if !(outcome.as_ref().is_err_and(canceled)
                && self.identity().is_canceled()
                && self.status == TransactionStatus::Idle)
            {
                return Ok(outcome);
            }
        }
    }

    async fn prepare_once(
        &mut self,
        definition: &Definition,
        name: &[u8],
    ) -> Result<Result<RowShape, Vec<u8>>, QueryError> {
        self.begin_exchange();
        extended::close_statement(&mut self.wire.outbox, name);
        Parse { name, sql: &definition.sql, types: &definition.types }.write(&mut self.wire.outbox, name);
        extended::describe_statement(&mut self.wire.outbox, name);
        frontend::sync(&mut self.wire.outbox);
        let mut outcome = Ok(row_shape(b""));
        self.hear(|tag, message| {
            match tag {
                BackendTag::ROW_DESCRIPTION => outcome = Ok(row_shape(body_of(message))),
                BackendTag::ERROR_RESPONSE => outcome = Err(body_of(message).to_vec()),
                _ => {}
            }
            Ok(Then::GoOn)
        })
        .await?;
        Ok(outcome)
    }
}

fn read_row(body: &[u8]) -> Result<Vec<Option<String>>, QueryError> {
    let malformed = |_| QueryError::Protocol("malformed DataRow".into());
    let mut reader = Reader::new(body);
    let count = reader.i16().map_err(malformed)?;
    let mut row = Vec::new();
    for _ in 0..count {
        let length = reader.i32().map_err(malformed)?;
        row.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) => {
                Some(String::from_utf8_lossy(reader.bytes(length).map_err(malformed)?).into_owned())
            }
        });
    }
    Ok(row)
}

/// What a server answered to messages that end with a Sync or are a Query.
#[derive(Debug, Default)]
pub struct Answer {
    /// The messages, but for the last, ReadyForQuery, and what the server reports of its settings.
    pub messages: BytesMut,
    /// The body of the error among them.
    pub error: Option<Vec<u8>>,
    /// The last message is CopyInResponse, and the server waits for data.
    pub copies: bool,
}

impl Answer {
    /// The rows in it.
    ///
    /// # Errors
    /// They make no sense.
    pub fn rows(&self) -> Result<Rows, QueryError> {
        let mut rows = Rows::new();
        let mut rest = &self.messages[..];
        while let Ok(Some((header, body, tail))) = frame::split(rest, usize::MAX) {
            rest = tail;
            if BackendTag(header.tag) == BackendTag::DATA_ROW {
                rows.push(read_row(body)?);
            }
        }
        Ok(rows)
    }
}

/// An answer that is longer is not kept.
const ANSWER_BYTES_MAX: usize = 64 << 20;

impl ServerConn {
    /// Sends `request`, which ends with one Query or Sync, and keeps the whole answer. Data for a COPY is refused.
    ///
    /// # Cancel safety
    /// A dropped future leaves the connection unclean, so it is closed and not lent.
    pub async fn converse(&mut self, request: &[u8]) -> Result<Answer, QueryError> {
        self.ask_for_answer(request, false).await
    }

    /// As [`Self::converse`], and leaves the server waiting for the data of a COPY.
    ///
    /// # Cancel safety
    /// A dropped future leaves the connection unclean, so it is closed and not lent.
    pub async fn begin_copy(&mut self, request: &[u8]) -> Result<Answer, QueryError> {
        self.ask_for_answer(request, true).await
    }

    async fn ask_for_answer(&mut self, request: &[u8], may_copy: bool) -> Result<Answer, QueryError> {
        self.begin_exchange();
        self.unnamed = None;
        self.wire.outbox.extend_from_slice(request);
        let mut answer = Answer::default();
        self.hear(|tag, message| {
            let is_copy = matches!(tag, BackendTag::COPY_IN_RESPONSE | BackendTag::COPY_BOTH_RESPONSE);
            answer.copies = may_copy && tag == BackendTag::COPY_IN_RESPONSE;
            if is_copy && !answer.copies {
                return Ok(Then::RefuseCopy);
            }
            if tag == BackendTag::ERROR_RESPONSE {
                answer.error = Some(body_of(message).to_vec());
            }
            if answer.messages.len() + message.len() > ANSWER_BYTES_MAX {
                return Err(QueryError::Protocol("an answer of more than 64 MiB".into()));
            }
            answer.messages.extend_from_slice(message);
            Ok(if answer.copies { Then::Stop } else { Then::GoOn })
        })
        .await?;
        Ok(answer)
    }
}
