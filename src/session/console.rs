//! A session on the admin console: the simple and the extended protocol around `admin`.
//!
//! The console needs no server, so it works while every server is down. Errors leave the session alive.

use std::collections::HashMap;
use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};

use crate::admin::{Answer, Console, SERVER_VERSION, Table};
use crate::clients::{ClientGuard, Order};
use crate::net::Wire;
use crate::protocol::extended::{self, Bind, Parse, Target};
use crate::protocol::{
    BackendTag, ErrorResponse, FrontendTag, Malformed, Reader, Severity, SqlState, TransactionStatus,
    backend, frame, frontend,
};

use super::error::SessionError;

pub(super) use crate::admin::Role;

/// Longest message accepted: commands are short.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Statements and portals that one session may hold.
const NAMES_MAX: usize = 1000;

/// What a client of the console is told at login.
pub(super) fn parameters() -> Vec<(String, String)> {
    [
        ("server_version", SERVER_VERSION),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("DateStyle", "ISO"),
        ("TimeZone", "UTC"),
        ("standard_conforming_strings", "on"),
        ("integer_datetimes", "on"),
        ("is_superuser", "on"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// One session.
pub(super) struct ConsoleSession {
    wire: Wire,
    guard: ClientGuard,
    console: Console,
    role: Role,
    statements: HashMap<Vec<u8>, String>,
    portals: HashMap<Vec<u8>, Portal>,
    /// After an error in the extended protocol: up to the Sync.
    skipping: bool,
}

/// A bound command; it is run at the first Describe or Execute.
struct Portal {
    sql: String,
    formats: Vec<i16>,
    answer: Option<Answer>,
    sent: usize,
}

impl Portal {
    fn is_binary(&self, column: usize) -> bool {
        let format = if self.formats.len() == 1 { self.formats.first() } else { self.formats.get(column) };
        format == Some(&1)
    }
}

impl ConsoleSession {
    /// A session whose login is done.
    pub(super) fn new(wire: Wire, guard: ClientGuard, console: Console, role: Role) -> Self {
        Self {
            wire,
            guard,
            console,
            role,
            statements: HashMap::new(),
            portals: HashMap::new(),
            skipping: false,
        }
    }

    /// Serves it to its end.
    pub(super) async fn run(mut self) {
        if let Err(error) = self.serve().await {
            tracing::debug!(%error, "console session ended");
            if let Some(response) = error.response() {
                response.write(&mut self.wire.outbox);
                let _ = self.wire.flush().await;
            }
        }
        self.wire.shutdown().await;
    }

    async fn serve(&mut self) -> Result<(), SessionError> {
        loop {
            while let Some((header, body, _)) = frame::split(&self.wire.inbox, MESSAGE_BYTES_MAX)? {
                let (tag, body) = (FrontendTag(header.tag), body.to_vec());
                self.wire.inbox.advance(header.total_len);
                if tag == FrontendTag::TERMINATE {
                    return Ok(());
                }
                self.handle(tag, &body)?;
            }
            poll_fn(|cx| self.poll_input(cx)).await?;
        }
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        // A drain lets operators look until the end.
        let order = self.guard.handle().pending_order(Some(cx));
        if matches!(order, Order::Kill | Order::Shutdown) {
            return Poll::Ready(Err(SessionError::Ordered(order)));
        }
        if let Poll::Ready(Err(error)) = self.wire.poll_flush(cx) {
            return Poll::Ready(Err(SessionError::ClientGone(error)));
        }
        match self.wire.poll_fill(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => {
                Poll::Ready(Err(SessionError::ClientGone(std::io::ErrorKind::UnexpectedEof.into())))
            }
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(SessionError::ClientGone(error))),
        }
    }

    fn handle(&mut self, tag: FrontendTag, body: &[u8]) -> Result<(), SessionError> {
        if self.skipping && tag != FrontendTag::SYNC {
            return Ok(());
        }
        match tag {
            FrontendTag::QUERY => {
                let sql = String::from_utf8_lossy(frontend::query_text(body)?).into_owned();
                self.simple(&sql);
            }
            FrontendTag::SYNC => {
                self.skipping = false;
                self.portals.clear();
                backend::ready_for_query(&mut self.wire.outbox, TransactionStatus::Idle);
            }
            FrontendTag::FLUSH => {}
            FrontendTag::PARSE
            | FrontendTag::BIND
            | FrontendTag::DESCRIBE
            | FrontendTag::EXECUTE
            | FrontendTag::CLOSE => {
                if let Err(error) = self.extended(tag, body)? {
                    error.write(&mut self.wire.outbox);
                    self.skipping = true;
                }
            }
            FrontendTag(byte) => {
                return Err(SessionError::Protocol(format!("invalid frontend message type {byte}")));
            }
        }
        Ok(())
    }

    fn simple(&mut self, sql: &str) {
        let out = &mut self.wire.outbox;
        match self.console.execute(self.role, sql) {
            Ok(answer) => {
                if let Some(table) = table_of(&answer) {
                    table.describe(out, |_| false);
                    table.write_rows(out, 0, usize::MAX, |_| false);
                }
                finish(out, &answer);
            }
            Err(error) => error.write(out),
        }
        backend::ready_for_query(out, TransactionStatus::Idle);
    }

    /// One message of the extended protocol; the inner error is the client's and skips to the Sync.
    fn extended(&mut self, tag: FrontendTag, body: &[u8]) -> Result<Result<(), ErrorResponse>, SessionError> {
        Ok(match tag {
            FrontendTag::PARSE => self.parse(&Parse::read(body)?),
            FrontendTag::BIND => self.bind(&Bind::read(body)?)?,
            FrontendTag::DESCRIBE => {
                let (target, name) = extended::target(body)?;
                self.describe(target, name)
            }
            FrontendTag::EXECUTE => {
                let mut reader = Reader::new(body);
                let (name, limit) = (reader.cstr()?, reader.i32()?);
                self.execute(name, usize::try_from(limit).unwrap_or(0))
            }
            _ => {
                match extended::target(body)? {
                    (Target::Statement, name) => drop(self.statements.remove(name)),
                    (Target::Portal, name) => drop(self.portals.remove(name)),
                }
                backend::bare(&mut self.wire.outbox, BackendTag::CLOSE_COMPLETE);
                Ok(())
            }
        })
    }

    fn parse(&mut self, parse: &Parse<'_>) -> Result<(), ErrorResponse> {
        if self.statements.len() >= NAMES_MAX {
            return Err(ErrorResponse::error(
                SqlState::CONFIGURATION_LIMIT_EXCEEDED,
                "too many prepared statements",
            ));
        }
        let sql = String::from_utf8_lossy(parse.sql).into_owned();
        crate::admin::Command::parse(&sql)?;
        self.statements.insert(parse.name.to_vec(), sql);
        backend::bare(&mut self.wire.outbox, BackendTag::PARSE_COMPLETE);
        Ok(())
    }

    fn bind(&mut self, bind: &Bind<'_>) -> Result<Result<(), ErrorResponse>, Malformed> {
        let Some(sql) = self.statements.get(bind.statement) else {
            return Ok(Err(no_statement(bind.statement)));
        };
        let mut reader = Reader::new(bind.rest);
        for _ in 0..reader.i16()? {
            reader.i16()?;
        }
        if reader.i16()? != 0 {
            return Ok(Err(ErrorResponse::error(
                SqlState::PROTOCOL_VIOLATION,
                "console commands have no parameters",
            )));
        }
        let count = reader.i16()?;
        let formats = (0..count).map(|_| reader.i16()).collect::<Result<Vec<_>, _>>()?;
        if self.portals.len() >= NAMES_MAX {
            return Ok(Err(ErrorResponse::error(SqlState::CONFIGURATION_LIMIT_EXCEEDED, "too many portals")));
        }
        let portal = Portal { sql: sql.clone(), formats, answer: None, sent: 0 };
        self.portals.insert(bind.portal.to_vec(), portal);
        backend::bare(&mut self.wire.outbox, BackendTag::BIND_COMPLETE);
        Ok(Ok(()))
    }

    fn describe(&mut self, target: Target, name: &[u8]) -> Result<(), ErrorResponse> {
        let out = &mut self.wire.outbox;
        match target {
            Target::Statement => {
                let sql = self.statements.get(name).ok_or_else(|| no_statement(name))?;
                // No parameters.
                crate::protocol::writer::message(out, BackendTag::PARAMETER_DESCRIPTION.0, |b| {
                    b.extend_from_slice(&[0, 0]);
                });
                // A command that does something is not run to describe it; such commands have no rows.
                let looks = crate::admin::Command::parse(sql)?.is_harmless();
                let answer = if looks { self.console.execute(self.role, sql)? } else { Answer::Empty };
                match table_of(&answer) {
                    Some(table) => table.describe(out, |_| false),
                    None => backend::bare(out, BackendTag::NO_DATA),
                }
            }
            Target::Portal => {
                let portal = self.portals.get_mut(name).ok_or_else(|| no_portal(name))?;
                if crate::admin::Command::parse(&portal.sql)?.is_harmless() && portal.answer.is_none() {
                    portal.answer = Some(self.console.execute(self.role, &portal.sql)?);
                }
                match portal.answer.as_ref().and_then(table_of) {
                    Some(table) => table.describe(out, |column| portal.is_binary(column)),
                    None => backend::bare(out, BackendTag::NO_DATA),
                }
            }
        }
        Ok(())
    }

    fn execute(&mut self, name: &[u8], limit: usize) -> Result<(), ErrorResponse> {
        let out = &mut self.wire.outbox;
        let portal = self.portals.get_mut(name).ok_or_else(|| no_portal(name))?;
        let answer = match portal.answer.take() {
            Some(answer) => answer,
            None => self.console.execute(self.role, &portal.sql)?,
        };
        if let Some(table) = table_of(&answer) {
            let limit = if limit == 0 { usize::MAX } else { limit };
            let written = table.write_rows(out, portal.sent, limit, |column| portal.is_binary(column));
            portal.sent += written;
            if portal.sent < table.rows().len() {
                backend::bare(out, BackendTag::PORTAL_SUSPENDED);
                portal.answer = Some(answer);
                return Ok(());
            }
        }
        finish(out, &answer);
        portal.answer = Some(answer);
        Ok(())
    }
}

fn table_of(answer: &Answer) -> Option<&Table> {
    match answer {
        Answer::Table(table) | Answer::Selected(table) => Some(table),
        Answer::Notice { .. } | Answer::Done(_) | Answer::Empty => None,
    }
}

/// The end of an answer: its tag.
fn finish(out: &mut BytesMut, answer: &Answer) {
    match answer {
        Answer::Table(_) => backend::command_complete(out, "SHOW"),
        Answer::Selected(table) => backend::command_complete(out, &format!("SELECT {}", table.rows().len())),
        Answer::Notice { message, detail } => {
            let mut notice =
                ErrorResponse::error(SqlState::SUCCESSFUL_COMPLETION, *message).detail(detail.clone());
            notice.severity = Severity::Notice;
            notice.write(out);
            backend::command_complete(out, "SHOW");
        }
        Answer::Done(tag) => backend::command_complete(out, tag),
        Answer::Empty => backend::bare(out, BackendTag::EMPTY_QUERY_RESPONSE),
    }
}

fn no_statement(name: &[u8]) -> ErrorResponse {
    let name = String::from_utf8_lossy(name);
    ErrorResponse::error(
        SqlState::INVALID_STATEMENT_NAME,
        format!("prepared statement \"{name}\" does not exist"),
    )
}

fn no_portal(name: &[u8]) -> ErrorResponse {
    let name = String::from_utf8_lossy(name);
    ErrorResponse::error(SqlState::INVALID_CURSOR_NAME, format!("portal \"{name}\" does not exist"))
}
