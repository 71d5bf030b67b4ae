//! ErrorResponse and NoticeResponse: ours written, the server's read.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use super::backend::BackendTag;
use super::reader::Reader;
use super::sqlstate::SqlState;
use super::writer::{cstr, message};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed.
    Error,
    /// The connection ends.
    Fatal,
    /// For NoticeResponse.
    Notice,
    /// For NoticeResponse.
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Notice => "NOTICE",
            Self::Warning => "WARNING",
        }
    }
}

/// An error (or notice) of our own, in PostgreSQL's style: what happened, detail, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorResponse {
    /// Severity.
    pub severity: Severity,
    /// SQLSTATE.
    pub code: SqlState,
    /// Primary message: lower case, no full stop.
    pub message: Cow<'static, str>,
    /// Detail: whole sentences.
    pub detail: Option<Cow<'static, str>>,
    /// Hint: whole sentences.
    pub hint: Option<Cow<'static, str>>,
    /// What was being done, in a server's words.
    pub context: Option<Cow<'static, str>>,
}

impl ErrorResponse {
    /// An ERROR.
    pub fn error(code: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            detail: None,
            hint: None,
            context: None,
        }
    }

    /// A FATAL: the connection ends after it.
    pub fn fatal(code: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Fatal, ..Self::error(code, message) }
    }

    /// Adds the detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds the hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the context.
    #[must_use]
    pub fn context(mut self, context: impl Into<Cow<'static, str>>) -> Self {
        self.context = Some(context.into());
        self
    }

    /// Makes it FATAL.
    #[must_use]
    pub fn into_fatal(mut self) -> Self {
        self.severity = Severity::Fatal;
        self
    }

    /// Appends it as ErrorResponse, or as NoticeResponse when the severity is one of a notice.
    pub fn write(&self, out: &mut BytesMut) {
        let tag = match self.severity {
            Severity::Error | Severity::Fatal => BackendTag::ERROR_RESPONSE,
            Severity::Notice | Severity::Warning => BackendTag::NOTICE_RESPONSE,
        };
        message(out, tag.0, |b| {
            let mut field = |key: u8, value: &str| {
                b.put_u8(key);
                cstr(b, value.as_bytes());
            };
            field(b'S', self.severity.as_str());
            field(b'V', self.severity.as_str());
            field(b'C', self.code.as_str());
            field(b'M', &self.message);
            if let Some(detail) = &self.detail {
                field(b'D', detail);
            }
            if let Some(hint) = &self.hint {
                field(b'H', hint);
            }
            if let Some(context) = &self.context {
                field(b'W', context);
            }
            b.put_u8(0);
        });
    }
}

/// Appends a server's error as it came.
pub fn raw_error(out: &mut BytesMut, body: &[u8]) {
    message(out, BackendTag::ERROR_RESPONSE.0, |b| b.put_slice(body));
}

impl std::fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        if let Some(detail) = &self.detail {
            write!(f, "; {detail}")?;
        }
        Ok(())
    }
}

/// The fields of a server's error that we look at; bytes, because a server's encoding may not be UTF-8.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorFields<'a> {
    /// Severity, never translated (`V`), or the translated one from old servers.
    pub severity: &'a [u8],
    /// SQLSTATE.
    pub code: &'a [u8],
    /// Primary message.
    pub message: &'a [u8],
    /// Detail.
    pub detail: &'a [u8],
    /// Hint.
    pub hint: &'a [u8],
    /// What was being done.
    pub context: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    /// Reads an ErrorResponse or NoticeResponse body; what is malformed stays empty.
    pub fn read(body: &'a [u8]) -> Self {
        let mut fields = Self::default();
        let mut reader = Reader::new(body);
        while let Ok(key) = reader.u8() {
            if key == 0 {
                break;
            }
            let Ok(value) = reader.cstr() else { break };
            match key {
                b'S' if fields.severity.is_empty() => fields.severity = value,
                b'V' => fields.severity = value,
                b'C' => fields.code = value,
                b'M' => fields.message = value,
                b'D' => fields.detail = value,
                b'H' => fields.hint = value,
                b'W' => fields.context = value,
                _ => {}
            }
        }
        fields
    }

    /// The SQLSTATE, when it is one.
    pub fn sqlstate(&self) -> Option<SqlState> {
        SqlState::from_bytes(self.code)
    }

    /// Whether the server closes the connection after this.
    pub fn is_fatal(&self) -> bool {
        self.severity == b"FATAL" || self.severity == b"PANIC"
    }

    /// The message for a log line.
    pub fn message_lossy(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame;
    use postgres_protocol::message::backend::Message;

    #[test]
    fn both_readers_read_what_we_write() {
        let ours =
            ErrorResponse::error(SqlState::TOO_MANY_CONNECTIONS, "pool is full").detail("D.").hint("H.");
        let mut out = BytesMut::new();
        ours.write(&mut out);
        let body = frame::split(&out, 1000).unwrap().unwrap().1;
        let fields = ErrorFields::read(body);
        assert_eq!(fields.sqlstate(), Some(SqlState::TOO_MANY_CONNECTIONS));
        assert_eq!(
            (fields.message, fields.hint, fields.is_fatal()),
            (&b"pool is full"[..], &b"H."[..], false)
        );
        assert!(matches!(Message::parse(&mut out).unwrap(), Some(Message::ErrorResponse(_))));
    }

    #[test]
    fn garbage_gives_empty_fields() {
        let fields = ErrorFields::read(b"Cno end");
        assert!(fields.sqlstate().is_none() && !fields.is_fatal());
    }
}
