//! Messages from servers (and from us to clients).

use bytes::{BufMut, BytesMut};

use super::transaction::TransactionStatus;
use super::writer::{cstr, message};

/// Tag of a backend message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendTag(pub u8);

impl BackendTag {
    /// Authentication request.
    pub const AUTHENTICATION: Self = Self(b'R');
    /// Cancel key.
    pub const BACKEND_KEY_DATA: Self = Self(b'K');
    /// Bind is done.
    pub const BIND_COMPLETE: Self = Self(b'2');
    /// Close is done.
    pub const CLOSE_COMPLETE: Self = Self(b'3');
    /// A command is done.
    pub const COMMAND_COMPLETE: Self = Self(b'C');
    /// COPY in begins.
    pub const COPY_IN_RESPONSE: Self = Self(b'G');
    /// COPY out begins.
    pub const COPY_OUT_RESPONSE: Self = Self(b'H');
    /// COPY both begins (replication).
    pub const COPY_BOTH_RESPONSE: Self = Self(b'W');
    /// COPY data.
    pub const COPY_DATA: Self = Self(b'd');
    /// End of COPY data.
    pub const COPY_DONE: Self = Self(b'c');
    /// A row.
    pub const DATA_ROW: Self = Self(b'D');
    /// Answer to an empty query.
    pub const EMPTY_QUERY_RESPONSE: Self = Self(b'I');
    /// An error.
    pub const ERROR_RESPONSE: Self = Self(b'E');
    /// Answer to a function call.
    pub const FUNCTION_CALL_RESPONSE: Self = Self(b'V');
    /// Protocol version negotiation.
    pub const NEGOTIATE_PROTOCOL_VERSION: Self = Self(b'v');
    /// Describe found no rows to describe.
    pub const NO_DATA: Self = Self(b'n');
    /// A notice.
    pub const NOTICE_RESPONSE: Self = Self(b'N');
    /// LISTEN's harvest.
    pub const NOTIFICATION_RESPONSE: Self = Self(b'A');
    /// Parameter types.
    pub const PARAMETER_DESCRIPTION: Self = Self(b't');
    /// A reported setting.
    pub const PARAMETER_STATUS: Self = Self(b'S');
    /// Parse is done.
    pub const PARSE_COMPLETE: Self = Self(b'1');
    /// Row limit reached.
    pub const PORTAL_SUSPENDED: Self = Self(b's');
    /// The server waits.
    pub const READY_FOR_QUERY: Self = Self(b'Z');
    /// Column descriptions.
    pub const ROW_DESCRIPTION: Self = Self(b'T');
}

/// Appends an Authentication message with `body` as it is.
pub fn authentication(out: &mut BytesMut, body: &[u8]) {
    message(out, BackendTag::AUTHENTICATION.0, |b| b.put_slice(body));
}

/// Appends AuthenticationOk.
pub fn authentication_ok(out: &mut BytesMut) {
    authentication(out, &[0, 0, 0, 0]);
}

/// Appends a ParameterStatus.
pub fn parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    message(out, BackendTag::PARAMETER_STATUS.0, |b| {
        cstr(b, name.as_bytes());
        cstr(b, value.as_bytes());
    });
}

/// Appends BackendKeyData.
pub fn backend_key_data(out: &mut BytesMut, pid: i32, key: &[u8]) {
    message(out, BackendTag::BACKEND_KEY_DATA.0, |b| {
        b.put_i32(pid);
        b.put_slice(key);
    });
}

/// Appends ReadyForQuery.
pub fn ready_for_query(out: &mut BytesMut, status: TransactionStatus) {
    message(out, BackendTag::READY_FOR_QUERY.0, |b| b.put_u8(status.as_byte()));
}

/// Appends a NotificationResponse; `text` is the channel and the payload, each with its NUL.
pub fn notification(out: &mut BytesMut, pid: i32, text: &[u8]) {
    message(out, BackendTag::NOTIFICATION_RESPONSE.0, |b| {
        b.put_i32(pid);
        b.put_slice(text);
    });
}

/// Appends a message that has no body.
pub fn bare(out: &mut BytesMut, tag: BackendTag) {
    message(out, tag.0, |_| {});
}

/// Appends CommandComplete.
pub fn command_complete(out: &mut BytesMut, tag: &str) {
    message(out, BackendTag::COMMAND_COMPLETE.0, |b| cstr(b, tag.as_bytes()));
}

/// Appends NegotiateProtocolVersion: the newest minor version we speak and the options we do not know.
pub fn negotiate_protocol_version(out: &mut BytesMut, minor: u16, unknown: &[String]) {
    message(out, BackendTag::NEGOTIATE_PROTOCOL_VERSION.0, |b| {
        b.put_u32((3 << 16) | u32::from(minor));
        b.put_i32(i32::try_from(unknown.len()).unwrap_or(i32::MAX));
        for name in unknown {
            cstr(b, name.as_bytes());
        }
    });
}

/// One column of a result that we make ourselves (the console).
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    /// Column name.
    pub name: &'a str,
    /// Type's OID.
    pub type_oid: u32,
    /// Type's size as in `pg_type.typlen`.
    pub type_len: i16,
    /// 0 text, 1 binary.
    pub format: i16,
}

/// Appends RowDescription.
pub fn row_description(out: &mut BytesMut, columns: &[Column<'_>]) {
    message(out, BackendTag::ROW_DESCRIPTION.0, |b| {
        b.put_i16(i16::try_from(columns.len()).unwrap_or(i16::MAX));
        for column in columns {
            cstr(b, column.name.as_bytes());
            b.put_i32(0);
            b.put_i16(0);
            b.put_u32(column.type_oid);
            b.put_i16(column.type_len);
            b.put_i32(-1);
            b.put_i16(column.format);
        }
    });
}

/// Appends DataRow; `None` is NULL.
pub fn data_row<'a>(out: &mut BytesMut, values: impl ExactSizeIterator<Item = Option<&'a [u8]>>) {
    message(out, BackendTag::DATA_ROW.0, |b| {
        b.put_i16(i16::try_from(values.len()).unwrap_or(i16::MAX));
        for value in values {
            match value {
                None => b.put_i32(-1),
                Some(bytes) => {
                    b.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
                    b.put_slice(bytes);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_protocol::message::backend::Message;

    /// Our encoder against an independent decoder.
    #[test]
    fn postgres_protocol_reads_what_we_write() {
        let mut out = BytesMut::new();
        authentication_ok(&mut out);
        parameter_status(&mut out, "TimeZone", "UTC");
        backend_key_data(&mut out, 7, &[1, 2, 3, 4]);
        let columns = [Column { name: "a", type_oid: 25, type_len: -1, format: 0 }];
        row_description(&mut out, &columns);
        data_row(&mut out, [Some(&b"x"[..])].into_iter());
        command_complete(&mut out, "SELECT 1");
        ready_for_query(&mut out, TransactionStatus::Failed);
        let mut seen = Vec::new();
        while let Some(message) = Message::parse(&mut out).unwrap() {
            seen.push(match message {
                Message::AuthenticationOk => "ok".to_owned(),
                Message::ParameterStatus(b) => format!("{}={}", b.name().unwrap(), b.value().unwrap()),
                Message::BackendKeyData(b) => format!("{}:{}", b.process_id(), b.secret_key()),
                Message::RowDescription(_) => "T".to_owned(),
                Message::DataRow(b) => format!("{:?}", b.buffer()),
                Message::CommandComplete(b) => b.tag().unwrap().to_owned(),
                Message::ReadyForQuery(b) => (b.status() as char).to_string(),
                _ => "?".to_owned(),
            });
        }
        assert_eq!(seen, ["ok", "TimeZone=UTC", "7:16909060", "T", "[0, 0, 0, 1, 120]", "SELECT 1", "E"]);
    }
}
