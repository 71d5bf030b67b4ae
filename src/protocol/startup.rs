//! Packets without a tag: how a connection begins.

use bytes::{BufMut, BytesMut};

use super::reader::{Malformed, Reader};
use super::writer::{cstr, untagged};

/// Longest startup packet accepted, as in PostgreSQL.
pub const STARTUP_LIMIT: usize = 10_000;

/// The newest minor version of protocol 3 that we speak.
pub const NEWEST_MINOR: u16 = 2;

/// First byte of a TLS record: a client that starts TLS without asking.
pub const TLS_HANDSHAKE_BYTE: u8 = 0x16;

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstPacket {
    /// The client asks for TLS; the answer is one byte.
    SslRequest,
    /// The client asks for GSSAPI encryption; the answer is one byte.
    GssEncRequest,
    /// Another connection's query is to be canceled; no answer.
    Cancel(CancelRequest),
    /// A session begins.
    Startup(StartupMessage),
}

/// Names a query by the process id and key that its connection was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelRequest {
    /// Process id as in BackendKeyData.
    pub pid: i32,
    /// Secret key: 4 bytes in protocol 3.0, up to 256 in 3.2.
    pub key: Vec<u8>,
}

/// Version and parameters of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupMessage {
    /// Minor version of protocol 3 that the client asked for.
    pub minor: u16,
    /// Parameters in the order sent, `_pq_.` options among them.
    pub parameters: Vec<(String, String)>,
}

impl StartupMessage {
    /// The last value given for a parameter.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Protocol options that we do not know (we know none).
    pub fn unknown_options(&self) -> Vec<String> {
        self.parameters
            .iter()
            .filter(|(key, _)| key.starts_with("_pq_."))
            .map(|(key, _)| key.clone())
            .collect()
    }
}

/// Why a first packet is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// The length is too small or too large to be one.
    #[error("invalid length of startup packet")]
    Length,
    /// A major version other than 3.
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}")]
    Version {
        /// Major version asked for.
        major: u16,
        /// Minor version asked for.
        minor: u16,
    },
    /// The parameters are not a list of strings.
    #[error("invalid startup packet layout: {0}")]
    Layout(#[from] Malformed),
}

/// Takes the first packet off `buffer`; `None` while it is incomplete.
///
/// # Errors
/// When no valid packet can come of these bytes.
pub fn take(buffer: &mut BytesMut) -> Result<Option<FirstPacket>, StartupError> {
    let Some(&length) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(length) as usize;
    if !(8..=STARTUP_LIMIT).contains(&length) {
        return Err(StartupError::Length);
    }
    if buffer.len() < length {
        return Ok(None);
    }
    let packet = buffer.split_to(length);
    parse(packet.get(4..).unwrap_or_default()).map(Some)
}

fn parse(body: &[u8]) -> Result<FirstPacket, StartupError> {
    let mut reader = Reader::new(body);
    let code = reader.i32()?.cast_unsigned();
    match code {
        SSL_REQUEST if reader.is_empty() => Ok(FirstPacket::SslRequest),
        GSSENC_REQUEST if reader.is_empty() => Ok(FirstPacket::GssEncRequest),
        CANCEL_REQUEST => {
            let pid = reader.i32()?;
            let key = reader.rest();
            if key.len() < 4 || key.len() > 256 {
                return Err(StartupError::Length);
            }
            Ok(FirstPacket::Cancel(CancelRequest { pid, key: key.to_vec() }))
        }
        _ => {
            let (major, minor) = ((code >> 16) as u16, (code & 0xffff) as u16);
            if major != 3 {
                return Err(StartupError::Version { major, minor });
            }
            Ok(FirstPacket::Startup(StartupMessage { minor, parameters: parameters(reader)? }))
        }
    }
}

fn parameters(mut reader: Reader<'_>) -> Result<Vec<(String, String)>, Malformed> {
    let mut parameters = Vec::new();
    loop {
        let name = reader.str()?;
        if name.is_empty() {
            return if reader.is_empty() {
                Ok(parameters)
            } else {
                Err(Malformed("expected terminator as last byte"))
            };
        }
        parameters.push((name.to_owned(), reader.str()?.to_owned()));
    }
}

/// Appends a StartupMessage for protocol 3.0.
pub fn startup_message<'a>(out: &mut BytesMut, parameters: impl Iterator<Item = (&'a str, &'a str)>) {
    untagged(out, |b| {
        b.put_u32(3 << 16);
        for (name, value) in parameters {
            cstr(b, name.as_bytes());
            cstr(b, value.as_bytes());
        }
        b.put_u8(0);
    });
}

/// Appends an SSLRequest.
pub fn ssl_request(out: &mut BytesMut) {
    untagged(out, |b| b.put_u32(SSL_REQUEST));
}

/// Appends a CancelRequest.
pub fn cancel_request(out: &mut BytesMut, pid: i32, key: &[u8]) {
    untagged(out, |b| {
        b.put_u32(CANCEL_REQUEST);
        b.put_i32(pid);
        b.put_slice(key);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_protocol::message::frontend;
    use proptest::prelude::*;

    #[test]
    fn we_read_what_postgres_protocol_writes() {
        let mut out = BytesMut::new();
        frontend::startup_message([("user", "app"), ("database", "shop")], &mut out).unwrap();
        let Some(FirstPacket::Startup(message)) = take(&mut out).unwrap() else { panic!("startup") };
        assert_eq!((message.minor, message.value("user"), message.value("x")), (0, Some("app"), None));
        assert!(out.is_empty());

        frontend::ssl_request(&mut out);
        assert_eq!(take(&mut out), Ok(Some(FirstPacket::SslRequest)));
        frontend::cancel_request(7, 0x0102_0304, &mut out);
        assert_eq!(
            take(&mut out),
            Ok(Some(FirstPacket::Cancel(CancelRequest { pid: 7, key: vec![1, 2, 3, 4] })))
        );
    }

    #[test]
    fn our_packets_are_the_same_as_theirs() {
        let (mut ours, mut theirs) = (BytesMut::new(), BytesMut::new());
        startup_message(&mut ours, [("user", "a")].into_iter());
        frontend::startup_message([("user", "a")], &mut theirs).unwrap();
        assert_eq!(ours, theirs);
        let (mut ours, mut theirs) = (BytesMut::new(), BytesMut::new());
        cancel_request(&mut ours, 1, &2_i32.to_be_bytes());
        frontend::cancel_request(1, 2, &mut theirs);
        assert_eq!(ours, theirs);
    }

    #[test]
    fn what_cannot_be_a_startup_packet_is_refused() {
        let mut short = BytesMut::from(&[0, 0, 0, 3, 0, 0, 0, 0][..]);
        assert_eq!(take(&mut short), Err(StartupError::Length));
        let mut long = BytesMut::from(&[0x7f, 0xff, 0xff, 0xff][..]);
        assert_eq!(take(&mut long), Err(StartupError::Length));
        let mut http = BytesMut::from(&b"GET / HTTP/1.1\r\n"[..]);
        assert_eq!(take(&mut http), Err(StartupError::Length));
        let mut v2 = BytesMut::from(&[0, 0, 0, 8, 0, 2, 0, 0][..]);
        assert_eq!(take(&mut v2), Err(StartupError::Version { major: 2, minor: 0 }));
        let mut unterminated = BytesMut::from(&[0, 0, 0, 10, 0, 3, 0, 0, b'u', b's'][..]);
        assert!(matches!(take(&mut unterminated), Err(StartupError::Layout(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = take(&mut BytesMut::from(&bytes[..]));
        }
    }
}
