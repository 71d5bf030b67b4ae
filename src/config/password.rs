//! Passwords: references to where they are kept, and the forms PostgreSQL stores them in.

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::errors::{Complaint, Origin};
use super::resolve::Outside;
use super::{ClientPassword, Secret};

/// The secret itself for what the file says: `${VARIABLE}` inside it is replaced, `file:/path` is
/// the content of that file without the newline at its end, `$${` is `${`.
///
/// What came as an argument is taken as it is.
pub(super) fn resolve(text: &str, origin: &Origin, outside: &Outside<'_>) -> Result<String, Complaint> {
    if matches!(origin, Origin::Argument(_)) {
        return Ok(text.to_owned());
    }
    if let Some(path) = text.strip_prefix("file:") {
        let path = outside.path(path);
        let content = (outside.read)(&path)
            .and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other))
            .map_err(|error| Complaint::new(format!("cannot read {}: {error}", path.display())))?;
        let line = content.strip_suffix('\n').map_or(content.as_str(), |c| c.strip_suffix('\r').unwrap_or(c));
        return Ok(line.to_owned());
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            return Err(Complaint::new("has \"${\" without \"}\"").hint("write $${ for a literal ${"));
        };
        let Some(value) = outside.environment.get(name) else {
            return Err(Complaint::new(format!("environment variable {name} is not set")).hint(format!(
                "set {name}, or keep the password in a file: \"file:/run/secrets/{}\"",
                name.to_lowercase()
            )));
        };
        out.push_str(value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// Recognizes the form of a password.
pub(super) fn classify(text: String, origin: &Origin) -> Result<ClientPassword, Complaint> {
    if matches!(origin, Origin::Argument(_)) {
        return Ok(ClientPassword::Plain(Secret::new(text)));
    }
    if text.starts_with("SCRAM-SHA-256$") {
        return if is_verifier(&text) {
            Ok(ClientPassword::ScramVerifier(Secret::new(text)))
        } else {
            Err(Complaint::new("begins like a SCRAM-SHA-256 verifier and is none").hint(
                "the form is SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>; copy it whole from pg_authid",
            ))
        };
    }
    let hash = text.strip_prefix("md5");
    if hash.is_some_and(|hash| hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Ok(ClientPassword::Md5Hash(Secret::new(text)));
    }
    Ok(ClientPassword::Plain(Secret::new(text)))
}

/// Whether `text` is a SCRAM-SHA-256 verifier as PostgreSQL stores it.
fn is_verifier(text: &str) -> bool {
    let decoded_len = |part: &str| STANDARD.decode(part).ok().map(|bytes| bytes.len());
    let mut parts = text.split('$').skip(1);
    let (Some(first), Some(keys), None) = (parts.next(), parts.next(), parts.next()) else { return false };
    let (Some((iterations, salt)), Some((stored, server))) = (first.split_once(':'), keys.split_once(':'))
    else {
        return false;
    };
    iterations.parse::<u32>().is_ok_and(|n| n > 0)
        && decoded_len(salt).is_some_and(|n| n > 0)
        && decoded_len(stored) == Some(32)
        && decoded_len(server) == Some(32)
}

/// Whether a file can be read, as a complaint when it cannot.
pub(super) fn readable(path: &Path, outside: &Outside<'_>) -> Result<(), Complaint> {
    (outside.read)(path)
        .map(|_| ())
        .map_err(|error| Complaint::new(format!("cannot read {}: {error}", path.display())))
}
