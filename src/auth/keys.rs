//! What SCRAM makes of a password: the keys, and the verifier PostgreSQL stores of them.

use std::fmt;
use std::num::NonZeroU32;

use super::digest::{self, Key};
use super::scram;

/// Iterations of verifiers made here, PostgreSQL's default.
pub(super) const ITERATIONS_DEFAULT: NonZeroU32 = NonZeroU32::MIN.saturating_add(4095);

/// More iterations than this are refused: they would keep a thread busy for long on a peer's word.
pub(super) const ITERATIONS_MAX: u32 = 1_000_000;

/// Bytes of salt in verifiers made here, as in PostgreSQL.
pub(super) const SALT_BYTES: usize = 16;

/// The keys derived from one password with one salt.
#[derive(Clone)]
pub(super) struct ScramKeys {
    /// Proves knowledge of the password to a server.
    pub(super) client: Key,
    /// The two that suffice to verify.
    pub(super) stored: StoredKeys,
}

impl ScramKeys {
    /// Derives the keys; slow by design (0.5 ms and up).
    pub(super) fn derive(prepared: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        let salted = digest::pbkdf2_sha256(prepared, salt, iterations);
        let client = digest::hmac_sha256(&salted, &[b"Client Key"]);
        let server = digest::hmac_sha256(&salted, &[b"Server Key"]);
        Self { client, stored: StoredKeys { stored: digest::sha256(&[&client]), server } }
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<scram keys>")
    }
}

/// `StoredKey` and `ServerKey`: enough to verify a client, not enough to be one.
#[derive(Clone)]
pub(super) struct StoredKeys {
    pub(super) stored: Key,
    pub(super) server: Key,
}

/// A verifier as in `pg_authid`: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
#[derive(Clone)]
pub struct ScramVerifier {
    pub(super) salt: Vec<u8>,
    pub(super) iterations: NonZeroU32,
    pub(super) keys: StoredKeys,
}

impl ScramVerifier {
    /// Reads the stored form; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        Some(Self {
            iterations: parse_iterations(iterations.as_bytes())?,
            salt: scram::decode_base64(salt.as_bytes()).filter(|salt| !salt.is_empty())?,
            keys: StoredKeys { stored: decode_key(stored)?, server: decode_key(server)? },
        })
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<scram verifier>")
    }
}

/// Decimal digits only, within what we are ready to compute.
pub(super) fn parse_iterations(digits: &[u8]) -> Option<NonZeroU32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u32 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    NonZeroU32::new(count).filter(|count| count.get() <= ITERATIONS_MAX)
}

fn decode_key(text: &str) -> Option<Key> {
    scram::decode_base64(text.as_bytes())?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_postgres_stores() {
        let text = postgres_protocol::password::scram_sha_256("pass\u{a0}word".as_bytes());
        let verifier = ScramVerifier::parse(&text).unwrap();
        assert_eq!(verifier.iterations, ITERATIONS_DEFAULT);
        let prepared = digest::saslprep("pass\u{a0}word".as_bytes());
        let keys = ScramKeys::derive(&prepared, &verifier.salt, verifier.iterations);
        assert_eq!(keys.stored.stored, verifier.keys.stored);
        assert_eq!(keys.stored.server, verifier.keys.server);
    }

    #[test]
    fn refuses_anything_else() {
        let good = postgres_protocol::password::scram_sha_256(b"x");
        for end in 0..good.len() {
            assert!(ScramVerifier::parse(&good[..end]).is_none(), "{:?}", &good[..end]);
        }
        for bad in ["4096", "+4096", "-1", "0", "99999999999", "1000001", ""] {
            let text = good.replacen("4096", bad, 1);
            assert_eq!(ScramVerifier::parse(&text).is_some(), bad == "4096", "{bad}");
        }
        assert!(ScramVerifier::parse(&good.replacen("SCRAM-SHA-256$", "SCRAM-SHA-512$", 1)).is_none());
        assert!(ScramVerifier::parse(&format!("{good}A")).is_none());
    }

    #[test]
    fn shows_nothing() {
        let verifier = ScramVerifier::parse(&postgres_protocol::password::scram_sha_256(b"x"));
        assert_eq!(format!("{verifier:?}"), "Some(<scram verifier>)");
        assert_eq!(format!("{:?}", ScramKeys::derive(b"x", b"y", ITERATIONS_DEFAULT)), "<scram keys>");
    }
}
