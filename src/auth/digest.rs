//! The primitives: SHA-256, HMAC, PBKDF2, MD5 in PostgreSQL's dress, `SASLprep`, comparison in constant time.

use std::num::NonZeroU32;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use md5::{Digest as _, Md5};

/// Bytes of a SHA-256 digest, and so of every SCRAM key.
pub(super) const KEY_BYTES: usize = 32;

/// A SHA-256 digest or a key of that size.
pub(super) type Key = [u8; KEY_BYTES];

pub(super) fn sha256(parts: &[&[u8]]) -> Key {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    to_key(context.finish().as_ref())
}

pub(super) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    to_key(context.sign().as_ref())
}

/// SCRAM's `Hi`: about 0.15 µs an iteration, hence never on the event loop.
pub(super) fn pbkdf2_sha256(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Key {
    let mut out = [0; KEY_BYTES];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, &mut out);
    out
}

/// Equality whose time does not tell where two secrets differ. Their lengths are not secret.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// As [`same`] for secrets whose lengths are secret too: compares digests.
pub(super) fn same_text(a: &[u8], b: &[u8]) -> bool {
    same(&sha256(&[a]), &sha256(&[b]))
}

pub(super) fn xor(a: &Key, b: &Key) -> Key {
    let mut out = *a;
    for (byte, other) in out.iter_mut().zip(b) {
        *byte ^= other;
    }
    out
}

/// 32 lower-case hexadecimal digits of an MD5 digest.
pub(super) type Md5Hex = [u8; 32];

/// The hash in `pg_authid` without its `md5` prefix: password, then user.
pub(super) fn md5_stored(user: &str, password: &[u8]) -> Md5Hex {
    md5_hex(&[password, user.as_bytes()])
}

/// What travels, without its `md5` prefix: the stored hash, then the salt of this connection.
pub(super) fn md5_salted(stored: &Md5Hex, salt: [u8; 4]) -> Md5Hex {
    md5_hex(&[stored, &salt])
}

fn md5_hex(parts: &[&[u8]]) -> Md5Hex {
    let mut hasher = Md5::new();
    for part in parts {
        hasher.update(part);
    }
    let mut out = [0; 32];
    for (pair, byte) in out.chunks_exact_mut(2).zip(hasher.finalize()) {
        pair.copy_from_slice(&[hex_digit(byte >> 4), hex_digit(byte & 15)]);
    }
    out
}

fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

/// RFC 4013 as PostgreSQL applies it: what cannot be prepared (not UTF-8, prohibited or unassigned code points,
/// nothing left over) is used as it is.
pub(super) fn saslprep(password: &[u8]) -> Vec<u8> {
    std::str::from_utf8(password)
        .ok()
        .and_then(|text| stringprep::saslprep(text).ok())
        .filter(|prepared| !prepared.is_empty())
        .map_or_else(|| password.to_vec(), |prepared| prepared.into_owned().into_bytes())
}

fn to_key(bytes: &[u8]) -> Key {
    let mut out = [0; KEY_BYTES];
    for (to, from) in out.iter_mut().zip(bytes) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_is_the_one_postgres_stores() {
        // SELECT 'md5' || md5('secret' || 'alice')
        assert_eq!(md5_stored("alice", b"secret"), md5_hex(&[b"secretalice"]));
        assert_eq!(&md5_hex(&[b"abc"]), b"900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(
            format!("md5{}", String::from_utf8_lossy(&md5_stored("alice", b"secret"))),
            postgres_protocol::password::md5(b"secret", "alice")
        );
    }

    #[test]
    fn saslprep_falls_back_to_the_bytes() {
        assert_eq!(saslprep(b"plain"), b"plain");
        assert_eq!(saslprep("I\u{ad}X".as_bytes()), b"IX", "soft hyphen is mapped to nothing");
        assert_eq!(saslprep("\u{2168}".as_bytes()), b"IX", "compatibility composition");
        assert_eq!(saslprep("a\u{a0}b".as_bytes()), b"a b", "non-ASCII space");
        assert_eq!(saslprep("\u{ad}".as_bytes()), "\u{ad}".as_bytes(), "nothing would be left");
        assert_eq!(saslprep("a\u{7}".as_bytes()), b"a\x07", "prohibited");
        assert_eq!(saslprep(b"\xff\xfe"), b"\xff\xfe", "not UTF-8");
    }

    #[test]
    fn pbkdf2_agrees_with_rfc_7677() {
        // The example exchange of RFC 7677: user "user", password "pencil".
        let salt =
            [0x5b, 0x6d, 0x99, 0x68, 0x9d, 0x12, 0x35, 0x8e, 0xec, 0xa0, 0x4b, 0x14, 0x12, 0x36, 0xfa, 0x81];
        let salted = pbkdf2_sha256(b"pencil", &salt, NonZeroU32::new(4096).unwrap());
        let server_key = hmac_sha256(&salted, &[b"Server Key"]);
        let auth_message = b"n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature = hmac_sha256(&server_key, &[auth_message]);
        assert_eq!(crate::auth::scram::base64(&signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn comparisons() {
        assert!(same(b"a", b"a") && !same(b"a", b"b") && !same(b"a", b"ab"));
        assert!(same_text(b"", b"") && !same_text(b"a", b""));
    }
}
