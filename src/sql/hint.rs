//! Routing hints in comments: ours, sqlcommenter's style, and those of other poolers.
//!
//! A hint is part of the fingerprint; every other comment is not. What is not understood is ignored: a hint
//! is an application's wish, never an error.

use super::scan::Comments;

/// Longest key or hint text that is looked at, in bytes.
const VALUE_BYTES_MAX: usize = 128;

/// The role a hint asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HintRole {
    /// The primary.
    Primary,
    /// A replica, stale or not; never granted to what is not a read.
    Replica,
}

/// What the comments of a string ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hint {
    /// Where to run; when comments disagree, the primary wins.
    pub role: Option<HintRole>,
    /// The shard to run on.
    pub shard: Option<u32>,
    /// The sharding key to route by.
    pub key: Option<Box<str>>,
}

impl Hint {
    /// True if nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn set(&mut self, name: &str, value: &str) {
        match name {
            "pgweir" | "pgweir_role" | "pgdog_role" | "role" => match value.to_ascii_lowercase().as_str() {
                "primary" => self.role = Some(HintRole::Primary),
                "replica" if self.role.is_none() => self.role = Some(HintRole::Replica),
                _ => {}
            },
            "pgweir_shard" | "pgdog_shard" | "shard" => self.shard = value.parse().ok().or(self.shard),
            "pgweir_key" | "pgdog_sharding_key" | "key" if !value.is_empty() => self.key = Some(value.into()),
            _ => {}
        }
    }
}

impl Comments for Hint {
    fn comment(&mut self, text: &[u8]) {
        // Most comments are somebody else's: look for our words before anything else.
        let ours = text.windows(5).any(|w| {
            matches!(w[0], b'p' | b'P')
                && (w.eq_ignore_ascii_case(b"pgwei") || w.eq_ignore_ascii_case(b"pgdog"))
        });
        if ours {
            if let Ok(text) = std::str::from_utf8(text) {
                directives(text, self);
            }
        } else if text.len() < VALUE_BYTES_MAX && inner(text).eq_ignore_ascii_case(b"NO LOAD BALANCE") {
            self.role = Some(HintRole::Primary);
        }
    }
}

/// A comment without its delimiters and the space around.
fn inner(text: &[u8]) -> &[u8] {
    let text = text.strip_prefix(b"/*").or_else(|| text.strip_prefix(b"--")).unwrap_or(text);
    text.strip_suffix(b"*/").unwrap_or(text).trim_ascii()
}

/// Reads `name[:=]value` pairs; after `pgweir:` bare words and further pairs belong to it.
fn directives(text: &str, hint: &mut Hint) {
    let text = text.trim_start_matches(['/', '-', '*']).trim_end_matches(['/', '*']);
    let mut ours = false;
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',' || c == ';');
        if rest.is_empty() {
            return;
        }
        let (name, after) = word(rest);
        if name.is_empty() {
            // Something else: pass one character.
            let mut chars = rest.chars();
            chars.next();
            rest = chars.as_str();
            continue;
        }
        let name = name.to_ascii_lowercase();
        let spaced = after.trim_start();
        if let Some(after) = spaced.strip_prefix([':', '=']) {
            if name == "pgweir" {
                ours = true;
                let (value, quoted_rest) = value(after.trim_start());
                // `pgweir: shard=3` goes on with pairs; `pgweir='primary'` is complete.
                if quoted_rest.trim_start().starts_with('=') {
                    rest = after;
                } else {
                    hint.set("pgweir", value);
                    rest = quoted_rest;
                }
                continue;
            }
            let (value, after) = value(after.trim_start());
            if ours || name.starts_with("pgweir_") || name.starts_with("pgdog_") {
                hint.set(&name, value);
            }
            rest = after;
        } else {
            if ours {
                hint.set("pgweir", &name);
            }
            rest = after;
        }
    }
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    text.split_at(end)
}

/// A value, bare or in single quotes, and what follows.
fn value(text: &str) -> (&str, &str) {
    // Not further than a value may be long: callers begin again after each pair, and a long text would be
    // searched over and over.
    let near = text.get(..text.floor_char_boundary(VALUE_BYTES_MAX + 2)).unwrap_or(text);
    if let Some(quoted) = near.strip_prefix('\'')
        && let Some((value, _)) = quoted.split_once('\'')
    {
        return (value, text.get(value.len() + 2..).unwrap_or_default());
    }
    let end = near.find(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '=' | '\'' | '*'));
    match end {
        Some(end) => text.split_at(end),
        None if near.len() == text.len() => (text, ""),
        // Too long for a value.
        None => ("", text.get(near.len()..).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(comment: &str) -> Hint {
        let mut hint = Hint::default();
        hint.comment(comment.as_bytes());
        hint
    }

    #[test]
    fn accepted_forms() {
        let primary = Hint { role: Some(HintRole::Primary), ..Hint::default() };
        for text in [
            "/* pgweir: primary */",
            "/*pgweir:primary*/",
            "-- pgweir: primary",
            "/*NO LOAD BALANCE*/",
            "/* no load balance */",
            "/* pgdog_role: primary */",
            "/*app='web',pgweir='primary',route='x'*/",
            "/*pgweir_role='primary'*/",
        ] {
            assert_eq!(read(text), primary, "{text}");
        }
        assert_eq!(read("/* pgweir: replica */").role, Some(HintRole::Replica));
        assert_eq!(read("/* pgweir: shard=3 */").shard, Some(3));
        assert_eq!(read("/* pgdog_shard: 3 */").shard, Some(3));
        assert_eq!(read("/* pgweir: key=42 */").key.as_deref(), Some("42"));
        let both = read("/* pgweir: replica shard=2, key='a b' */");
        assert_eq!(
            (both.role, both.shard, both.key.as_deref()),
            (Some(HintRole::Replica), Some(2), Some("a b"))
        );
    }

    #[test]
    fn other_comments_are_not_hints() {
        for text in [
            "/* primary */",
            "/*traceparent='00-ab-01'*/",
            "-- replica",
            "/* pgweir */",
            "/* pgweirdo: primary */",
        ] {
            assert!(read(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn the_primary_wins() {
        let mut hint = read("/* pgweir: primary */");
        hint.comment(b"/* pgweir: replica */");
        assert_eq!(hint.role, Some(HintRole::Primary));
    }
}
