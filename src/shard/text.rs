//! Values from their text, in the forms that mean one thing under every setting.

/// Longest text of a number that is looked at.
const DIGITS_MAX: usize = 64;

/// Blanks around a value, as PostgreSQL's input functions pass over.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c'])
}

/// A whole number in decimal digits. Newer forms (`0x1F`, `1_000`) are left to servers that know them.
pub(super) fn integer(text: &str) -> Option<i64> {
    let text = trimmed(text);
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let plain =
        !digits.is_empty() && digits.len() <= DIGITS_MAX && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// The words PostgreSQL knows, in full or their first letter.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match trimmed(text).to_ascii_lowercase().as_str() {
        "t" | "true" | "y" | "yes" | "on" | "1" => Some(true),
        "f" | "false" | "n" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// 32 hexadecimal digits, a hyphen allowed after each four, in braces or not.
pub(super) fn uuid(text: &str) -> Option<[u8; 16]> {
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let mut bytes = [0u8; 16];
    let mut rest = inner.as_bytes();
    for (at, byte) in bytes.iter_mut().enumerate() {
        if at > 0 && at % 2 == 0 {
            rest = rest.strip_prefix(b"-").unwrap_or(rest);
        }
        let (pair, after) = rest.split_at_checked(2)?;
        *byte = hex(pair)?;
        rest = after;
    }
    rest.is_empty().then_some(bytes)
}

/// `\x` and hexadecimal digits; the older escape format where it has no escape.
pub(super) fn bytea(text: &str) -> Option<Vec<u8>> {
    let Some(digits) = text.strip_prefix("\\x") else {
        return (!text.contains('\\')).then(|| text.as_bytes().to_vec());
    };
    let digits = digits.as_bytes();
    if digits.len() % 2 != 0 {
        return None;
    }
    digits.chunks_exact(2).map(hex).collect()
}

fn hex(pair: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    match pair {
        [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certain() {
        assert_eq!(integer(" -42 "), Some(-42));
        assert_eq!(integer("9223372036854775807"), Some(i64::MAX));
        for text in ["", "-", "1.0", "1e3", "0x1F", "1_000", "9223372036854775808", "１", "1 2"] {
            assert_eq!(integer(text), None, "{text:?}");
        }
        assert_eq!(boolean(" TRUE "), Some(true));
        assert_eq!(boolean("tr"), None);
        let id = uuid("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
        assert!(id.is_some());
        assert_eq!(uuid("{A0EEBC999C0B4EF8BB6D6BB9BD380A11}"), id);
        assert_eq!(uuid("a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11"), id);
        for text in ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1", "a-0eebc999c0b4ef8bb6d6bb9bd380a11", "{a0}", ""] {
            assert_eq!(uuid(text), None, "{text:?}");
        }
        assert_eq!(bytea("\\xDEad"), Some(vec![0xde, 0xad]));
        assert_eq!(bytea("ab"), Some(b"ab".to_vec()));
        assert_eq!(bytea("\\xabc"), None);
        assert_eq!(bytea("a\\000"), None);
    }
}
