//! A simple query of our own on a server connection: probes, resets, looks at the session's state.

use std::io;

use bytes::{Buf, BytesMut};

use crate::protocol::frame::SERVER_FRAME_LIMIT;
use crate::protocol::{
    BackendTag, ErrorFields, Reader, SqlState, TransactionStatus, frame, frontend, parameters,
};

use super::connection::ServerConn;

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
        self.begin_exchange();
        self.unnamed = None;
        frontend::query(&mut self.wire.outbox, sql.as_bytes());
        self.wire.flush().await?;
        let mut heard = BytesMut::new();
        let mut rows = Rows::new();
        let mut failure = None;
        loop {
            let cut = frame::split(&self.wire.inbox, SERVER_FRAME_LIMIT)
                .map_err(|error| QueryError::Protocol(error.to_string()))?;
            let Some((header, body, _)) = cut else {
                self.wire.fill().await?;
                continue;
            };
            let mut ready = None;
            match BackendTag(header.tag) {
                BackendTag::DATA_ROW => rows.push(read_row(body)?),
                BackendTag::ERROR_RESPONSE => {
                    let fields = ErrorFields::read(body);
                    failure = Some(QueryError::Server {
                        code: fields.sqlstate().unwrap_or(SqlState::INTERNAL_ERROR),
                        message: fields.message_lossy().into_owned(),
                    });
                }
                BackendTag::PARAMETER_STATUS => {
                    if let Ok((name, value)) = parameters::parse(body) {
                        self.parameters.insert(name, value);
                    }
                }
                BackendTag::NOTIFICATION_RESPONSE => {
                    heard.extend_from_slice(self.wire.inbox.get(..header.total_len).unwrap_or_default());
                }
                BackendTag::READY_FOR_QUERY => {
                    let status = body.first().copied().and_then(TransactionStatus::from_byte);
                    ready = Some(status.ok_or_else(|| QueryError::Protocol("bad ReadyForQuery".into()))?);
                }
                BackendTag::COPY_IN_RESPONSE | BackendTag::COPY_BOTH_RESPONSE => {
                    return Err(QueryError::Protocol("COPY was not asked for".into()));
                }
                _ => {}
            }
            self.wire.inbox.advance(header.total_len);
            if let Some(status) = ready {
                self.status = status;
                self.notifications.unsplit(heard);
                self.end_exchange();
                return failure.map_or(Ok(rows), Err);
            }
        }
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
