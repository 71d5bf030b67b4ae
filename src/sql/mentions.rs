//! What a text names that may call functions without looking like a call: operators, types of casts, and
//! `row.function`.
//!
//! A few bytes a name are kept, not the names: whoever asks "does it mention this one" may hear a false yes,
//! never a false no.

use super::functions::{Keyword, keyword};
use super::scan::Kind;
use super::tokens::View;

/// Most of each kind; with more, everything counts as mentioned.
const MENTIONS_MAX: usize = 2_000;

/// Hashes of the names and operators of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mentions {
    names: Vec<u32>,
    operators: Vec<u32>,
    overflow: bool,
}

impl Mentions {
    /// Whether an identifier of this name (folded, at most 63 bytes) may occur.
    pub fn name(&self, hash: NameHash) -> bool {
        self.overflow || self.names.binary_search(&hash.0).is_ok()
    }

    /// Whether an operator of this name may occur.
    pub fn operator(&self, hash: NameHash) -> bool {
        self.overflow || self.operators.binary_search(&hash.0).is_ok()
    }

    pub(super) fn weight(&self) -> usize {
        (self.names.len() + self.operators.len()) * 4
    }

    /// Adds what `view` mentions.
    pub(super) fn add(&mut self, view: View<'_>) {
        for at in 0..view.len() {
            match view.kind(at) {
                Some(Kind::Word) if keyword(view.word(at)) == Keyword::Reserved => {}
                Some(Kind::Word | Kind::Quoted) => match view.identifier(at) {
                    Some(name) => self.names.push(NameHash::of(&name).0),
                    None => self.overflow = true,
                },
                // Written in a way we do not decode.
                Some(Kind::UnicodeQuoted | Kind::Error) => self.overflow = true,
                Some(Kind::Operator) => match std::str::from_utf8(view.raw(at)) {
                    Ok(operator) => self.operators.push(NameHash::of(operator).0),
                    Err(_) => self.overflow = true,
                },
                _ => {}
            }
        }
        for list in [&mut self.names, &mut self.operators] {
            list.sort_unstable();
            list.dedup();
            if list.len() > MENTIONS_MAX {
                self.overflow = true;
                *list = Vec::new();
            }
            list.shrink_to_fit();
        }
    }

    pub(super) fn everything() -> Self {
        Self { overflow: true, ..Self::default() }
    }
}

/// The hash of a name, to ask [`Mentions`] with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameHash(u32);

impl NameHash {
    /// FNV-1a: a collision costs a read its replica, no more.
    pub fn of(name: &str) -> Self {
        Self(name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{LexOptions, StatementCache};

    #[test]
    fn names_and_operators_are_found() {
        let sql = b"SELECT t.\"Price\", u.total @@> 3 FROM t AS U WHERE x::Money2 LIKE 'total2'";
        let statement = StatementCache::new(1 << 20).analyze(sql, LexOptions::default());
        let name = |name| statement.mentions.name(NameHash::of(name));
        assert!(name("Price") && name("total") && name("money2") && name("u"));
        assert!(!name("price") && !name("total2") && !name("select"));
        assert!(statement.mentions.operator(NameHash::of("@@>")));
        assert!(!statement.mentions.operator(NameHash::of("@@")));
    }
}
