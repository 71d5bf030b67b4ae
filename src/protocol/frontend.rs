//! Messages from clients (and from us to servers).

use bytes::{BufMut, BytesMut};

use super::reader::{Malformed, Reader};
use super::writer::{cstr, message};

/// Tag of a frontend message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendTag(pub u8);

impl FrontendTag {
    /// Bind a portal.
    pub const BIND: Self = Self(b'B');
    /// Close a statement or portal.
    pub const CLOSE: Self = Self(b'C');
    /// COPY data.
    pub const COPY_DATA: Self = Self(b'd');
    /// End of COPY data.
    pub const COPY_DONE: Self = Self(b'c');
    /// The client gives up a COPY.
    pub const COPY_FAIL: Self = Self(b'f');
    /// Describe a statement or portal.
    pub const DESCRIBE: Self = Self(b'D');
    /// Run a portal.
    pub const EXECUTE: Self = Self(b'E');
    /// Send what is buffered.
    pub const FLUSH: Self = Self(b'H');
    /// Fast-path function call.
    pub const FUNCTION_CALL: Self = Self(b'F');
    /// Prepare a statement.
    pub const PARSE: Self = Self(b'P');
    /// Password, SASL and GSS answers.
    pub const PASSWORD: Self = Self(b'p');
    /// Simple query.
    pub const QUERY: Self = Self(b'Q');
    /// End of an extended-protocol batch.
    pub const SYNC: Self = Self(b'S');
    /// Good-bye.
    pub const TERMINATE: Self = Self(b'X');
}

/// The SQL of a Query body: what is before its NUL.
///
/// # Errors
/// When the terminator is missing or is not the last byte.
pub fn query_text(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(body);
    let text = reader.cstr()?;
    if reader.is_empty() { Ok(text) } else { Err(Malformed("invalid message format")) }
}

/// Appends a Query.
pub fn query(out: &mut BytesMut, sql: &[u8]) {
    message(out, FrontendTag::QUERY.0, |b| cstr(b, sql));
}

/// A Query alone.
pub fn query_message(sql: &[u8]) -> BytesMut {
    let mut message = BytesMut::new();
    query(&mut message, sql);
    message
}

/// Appends a CopyData.
pub fn copy_data(out: &mut BytesMut, data: &[u8]) {
    message(out, FrontendTag::COPY_DATA.0, |b| b.put_slice(data));
}

/// Appends a CopyDone.
pub fn copy_done(out: &mut BytesMut) {
    message(out, FrontendTag::COPY_DONE.0, |_| {});
}

/// Appends a Sync.
pub fn sync(out: &mut BytesMut) {
    message(out, FrontendTag::SYNC.0, |_| {});
}

/// Appends a Flush.
pub fn flush(out: &mut BytesMut) {
    message(out, FrontendTag::FLUSH.0, |_| {});
}

/// Appends a Terminate.
pub fn terminate(out: &mut BytesMut) {
    message(out, FrontendTag::TERMINATE.0, |_| {});
}

/// Appends a CopyFail.
pub fn copy_fail(out: &mut BytesMut, reason: &str) {
    message(out, FrontendTag::COPY_FAIL.0, |b| cstr(b, reason.as_bytes()));
}

/// Appends a password-family message with `body` as it is.
pub fn password(out: &mut BytesMut, body: &[u8]) {
    message(out, FrontendTag::PASSWORD.0, |b| b.put_slice(body));
}
