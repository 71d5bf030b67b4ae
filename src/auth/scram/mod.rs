//! SCRAM-SHA-256 (RFC 5802, RFC 7677) without channel binding: the messages, the side that verifies
//! ([`verify`]) and the side that proves ([`prove`]).
//!
//! As in PostgreSQL the user name inside the messages is ignored: the startup packet has said it.

mod message;
pub(super) mod prove;
pub(super) mod verify;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::random::{Random, RandomFailed};

/// The mechanism served; a name of the IANA registry.
pub(super) const MECHANISM: &str = "SCRAM-SHA-256";

/// Random bytes in our half of the nonce: 24 characters of base64.
const NONCE_BYTES: usize = 18;

/// Our half of the nonce; base64 has no comma and is printable, as the grammar demands.
pub(super) fn nonce(random: &dyn Random) -> Result<String, RandomFailed> {
    let mut bytes = [0; NONCE_BYTES];
    random.fill(&mut bytes)?;
    Ok(base64(&bytes))
}

pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Strict base64: padding demanded, no stray characters.
pub(super) fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}
