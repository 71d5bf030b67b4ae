//! Bodies of authentication messages: requests (`R`) and responses (`p`), without tag and length.

use super::error::{AuthError, Blame};

/// Body of `AuthenticationOk`, which the caller sends after [`super::Step::Accept`].
pub const AUTHENTICATION_OK: [u8; 4] = 0_u32.to_be_bytes();

/// The longest response (`p`) worth reading from a client; PostgreSQL's bound. Passwords may be tokens.
pub const RESPONSE_BYTES_MAX: usize = 65_535;

/// The longest SASL message read from either side.
pub(super) const SASL_BYTES_MAX: usize = 1024;

/// The codes of authentication requests that we know by name.
pub(super) mod code {
    pub(crate) const OK: u32 = 0;
    pub(crate) const KERBEROS_V5: u32 = 2;
    pub(crate) const CLEARTEXT_PASSWORD: u32 = 3;
    pub(crate) const MD5_PASSWORD: u32 = 5;
    pub(crate) const SCM_CREDENTIAL: u32 = 6;
    pub(crate) const GSS: u32 = 7;
    pub(crate) const GSS_CONTINUE: u32 = 8;
    pub(crate) const SSPI: u32 = 9;
    pub(crate) const SASL: u32 = 10;
    pub(crate) const SASL_CONTINUE: u32 = 11;
    pub(crate) const SASL_FINAL: u32 = 12;
}

/// The body of an authentication request.
pub(super) fn request(code: u32, data: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(4 + data.len());
    body.extend_from_slice(&code.to_be_bytes());
    body.extend_from_slice(data);
    body
}

/// The code of an authentication request and what follows it.
pub(super) fn split_request(body: &[u8]) -> Option<(u32, &[u8])> {
    let (code, data) = body.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*code), data))
}

/// The one string of a `PasswordMessage`.
pub(super) fn password(body: &[u8]) -> Result<&[u8], AuthError> {
    match body.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => Err(AuthError::protocol(
            Blame::Client,
            "invalid password packet size",
            "The password message is not a single string.",
        )),
    }
}

/// The body of a `PasswordMessage`.
pub(super) fn password_message(text: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(text.len() + 1);
    body.extend_from_slice(text);
    body.push(0);
    body
}

/// A `SASLInitialResponse`: the mechanism chosen, and the first message unless it is to come later.
pub(super) fn sasl_initial(body: &[u8]) -> Result<(&[u8], Option<&[u8]>), AuthError> {
    split_sasl_initial(body).ok_or_else(|| {
        AuthError::protocol(
            Blame::Client,
            "malformed SASL message",
            "The first response does not hold a mechanism and a message of the length given.",
        )
    })
}

fn split_sasl_initial(body: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let end = body.iter().position(|byte| *byte == 0)?;
    let (mechanism, rest) = body.split_at_checked(end)?;
    let (length, data) = rest.get(1..)?.split_first_chunk::<4>()?;
    match i32::from_be_bytes(*length) {
        -1 if data.is_empty() => Some((mechanism, None)),
        length => (usize::try_from(length).ok()? == data.len()).then_some((mechanism, Some(data))),
    }
}

/// The body of a `SASLInitialResponse`.
pub(super) fn sasl_initial_response(mechanism: &str, data: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(mechanism.len() + 5 + data.len());
    body.extend_from_slice(mechanism.as_bytes());
    body.push(0);
    // Our own messages are short.
    body.extend_from_slice(&(data.len() as u32).to_be_bytes());
    body.extend_from_slice(data);
    body
}

/// Whether the list of mechanisms of an `AuthenticationSASL` holds `mechanism`; `None` if it is no such list.
pub(super) fn offers_mechanism(list: &[u8], mechanism: &str) -> Option<bool> {
    // Strings, each with its NUL, then one empty string.
    let list = list.strip_suffix(b"\0")?;
    if list.is_empty() {
        return Some(false);
    }
    let names = list.strip_suffix(b"\0")?;
    Some(names.split(|byte| *byte == 0).any(|name| name == mechanism.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_one_string() {
        assert_eq!(password(b"secret\0").unwrap(), b"secret");
        assert_eq!(password(b"\0").unwrap(), b"");
        for bad in [&b""[..], b"secret", b"a\0b\0", b"a\0\0", b"\0\0"] {
            assert_eq!(password(bad).unwrap_err().sqlstate(), "08P01", "{bad:?}");
        }
    }

    #[test]
    fn initial_response_round_trips_and_no_prefix_passes() {
        let body = sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=abc");
        assert_eq!(sasl_initial(&body).unwrap(), (&b"SCRAM-SHA-256"[..], Some(&b"n,,n=,r=abc"[..])));
        for end in 0..body.len() {
            assert!(sasl_initial(&body[..end]).is_err());
        }
        assert_eq!(sasl_initial(b"X\0\xff\xff\xff\xff").unwrap(), (&b"X"[..], None));
        assert!(sasl_initial(b"X\0\xff\xff\xff\xffa").is_err());
        assert!(sasl_initial(b"X\0\x7f\xff\xff\xffa").is_err());
        assert!(sasl_initial(b"X\0\xff\xff\xff\xfe").is_err());
    }

    #[test]
    fn mechanism_lists() {
        let offers = |list| offers_mechanism(list, "SCRAM-SHA-256");
        assert_eq!(offers(b"SCRAM-SHA-256\0\0"), Some(true));
        assert_eq!(offers(b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"), Some(true));
        assert_eq!(offers(b"SCRAM-SHA-256-PLUS\0\0"), Some(false));
        assert_eq!(offers(b"\0"), Some(false));
        assert_eq!(offers(b""), None);
        assert_eq!(offers(b"SCRAM-SHA-256\0"), None);
    }
}
