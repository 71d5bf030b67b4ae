//! The literal-free fingerprint: 128 bits that two texts share exactly when their normalized tokens do.
//!
//! Two lanes of folded multiplication, seeded per process, so that clients cannot aim for collisions. Not a
//! cryptographic hash; it is never sent anywhere or stored.

use super::hint::Hint;
use super::normalize::{Collected, Sink, normalize};
use super::scan::{Kind, LexOptions};
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};

/// Identity of a normalized statement string within this process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub u128);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Random constants of one cache.
#[derive(Clone)]
pub struct Seeds {
    start: [u64; 2],
    multiply: [u64; 2],
    hints: RandomState,
}

impl Seeds {
    /// Draws new constants.
    pub fn random() -> Self {
        let hints = RandomState::new();
        let draw = |n: u64| hints.hash_one(n);
        Self { start: [draw(1), draw(2)], multiply: [draw(3) | 1, draw(4) | 1], hints }
    }

    /// Fingerprint of `sql`, literals and comments stripped, and the hints its comments held.
    pub fn fingerprint(&self, sql: &[u8], options: LexOptions) -> (Fingerprint, Hint) {
        let mut hash = Hash128 { lanes: self.start, multiply: self.multiply };
        let mut hint = Hint::default();
        normalize(sql, options, &mut hash, &mut hint);
        (self.finish(hash, &hint, options), hint)
    }

    /// The same, and the tokens themselves.
    pub fn fingerprint_and_tokens(
        &self,
        sql: &[u8],
        options: LexOptions,
        tokens: &mut Collected,
    ) -> (Fingerprint, Hint) {
        let hash = Hash128 { lanes: self.start, multiply: self.multiply };
        let mut both = Both { hash, tokens };
        let mut hint = Hint::default();
        normalize(sql, options, &mut both, &mut hint);
        (self.finish(both.hash, &hint, options), hint)
    }

    #[inline]
    fn finish(&self, hash: Hash128, hint: &Hint, options: LexOptions) -> Fingerprint {
        let mut last = u64::from(options.standard_conforming_strings) << 1;
        if !hint.is_empty() {
            last ^= self.hints.hash_one(hint) | 1 << 32;
        }
        hash.finish(last)
    }

    /// Fingerprint of the very bytes; never equal to one of [`Self::fingerprint`] but by chance.
    pub fn exact(&self, sql: &[u8], options: LexOptions) -> Fingerprint {
        let mut hash = Hash128 { lanes: self.start, multiply: self.multiply };
        hash.absorb(
            0xE8AC_7000
                | u64::from(options.standard_conforming_strings) << 1
                | u64::from(options.backslash_trail_bytes),
        );
        hash.bytes(sql);
        hash.finish(0xE8AC_7E87)
    }
}

impl fmt::Debug for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The constants are what keeps collisions out of reach.
        f.write_str("Seeds")
    }
}

#[derive(Clone, Copy)]
struct Hash128 {
    lanes: [u64; 2],
    multiply: [u64; 2],
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// Lower-cases the ASCII letters among eight bytes.
#[inline]
fn lower(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let low = word & (0x7f * ONES);
    let above_z = low + (0x7f - 0x5a) * ONES;
    let from_a = low + (0x80 - 0x41) * ONES;
    let upper = (above_z ^ from_a) & !word & (0x80 * ONES);
    word | upper >> 2
}

/// The first `len` (at most 7) bytes at `start` as a little-endian number.
#[inline]
fn tail(src: &[u8], start: usize, len: usize) -> u64 {
    let rest = &src[start..];
    if let Some(chunk) = rest.first_chunk::<8>() {
        return u64::from_le_bytes(*chunk) & ((1u64 << (8 * len)) - 1);
    }
    rest[..len].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

impl Hash128 {
    #[inline]
    fn absorb(&mut self, word: u64) {
        self.lanes[0] = fold(self.lanes[0] ^ word, self.multiply[0]);
        self.lanes[1] = fold(self.lanes[1] ^ word.rotate_left(29), self.multiply[1]);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.absorb(bytes.len() as u64);
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            if let Some(chunk) = chunk.first_chunk::<8>() {
                self.absorb(u64::from_le_bytes(*chunk));
            }
        }
        let rest = chunks.remainder();
        self.absorb(tail(rest, 0, rest.len()));
    }

    fn finish(mut self, last: u64) -> Fingerprint {
        self.absorb(last);
        let [a, b] = self.lanes;
        self.absorb(a.rotate_left(32) ^ b);
        Fingerprint(u128::from(self.lanes[0]) << 64 | u128::from(self.lanes[1]))
    }
}

impl Sink for Hash128 {
    type Mark = [u64; 2];

    #[expect(
        clippy::inline_always,
        reason = "a tenth of a fingerprint is the calls; left to itself it is not inlined"
    )]
    #[inline(always)]
    fn token(&mut self, src: &[u8], kind: Kind, start: usize, end: usize) {
        let tag = (kind as u64) << 59;
        match kind {
            Kind::Word => {
                let len = end - start;
                let mut at = start;
                // Full chunks hold eight identifier bytes, none of them NUL; every tagged word has a NUL among
                // its bytes: the encoding has one reading.
                while end - at >= 8 {
                    if let Some(chunk) = src[at..].first_chunk::<8>() {
                        self.absorb(lower(u64::from_le_bytes(*chunk)));
                    }
                    at += 8;
                }
                self.absorb(lower(tail(src, at, end - at)) | tag | ((len & 7) as u64) << 56);
            }
            Kind::Punct | Kind::Operator if end - start < 7 => {
                self.absorb(tail(src, start, end - start) | tag | ((end - start) as u64) << 56);
            }
            Kind::Text | Kind::Bits | Kind::Number | Kind::Param | Kind::Name | Kind::Error => {
                self.absorb(tag);
            }
            Kind::Quoted | Kind::UnicodeQuoted | Kind::Verbatim | Kind::Punct | Kind::Operator => {
                self.absorb(tag | 7 << 56);
                self.bytes(&src[start..end]);
            }
        }
    }

    #[inline]
    fn mark(&self) -> [u64; 2] {
        self.lanes
    }

    #[inline]
    fn rewind(&mut self, mark: [u64; 2]) {
        self.lanes = mark;
    }
}

/// Hashes the tokens and keeps them: one reading of the text for both.
struct Both<'a> {
    hash: Hash128,
    tokens: &'a mut Collected,
}

impl Sink for Both<'_> {
    type Mark = ([u64; 2], usize);

    #[expect(
        clippy::inline_always,
        reason = "otherwise it is a call for each token: 100 instructions of a short query"
    )]
    #[inline(always)]
    fn token(&mut self, src: &[u8], kind: Kind, start: usize, end: usize) {
        self.hash.token(src, kind, start, end);
        self.tokens.token(src, kind, start, end);
    }

    #[inline]
    fn mark(&self) -> Self::Mark {
        (self.hash.mark(), self.tokens.mark())
    }

    #[inline]
    fn rewind(&mut self, (hash, tokens): Self::Mark) {
        self.hash.rewind(hash);
        self.tokens.rewind(tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_is_ascii_only() {
        for byte in 0..=255u8 {
            let word = u64::from_le_bytes([byte; 8]);
            assert_eq!(lower(word), u64::from_le_bytes([byte.to_ascii_lowercase(); 8]), "{byte}");
        }
    }

    #[test]
    fn tokens_come_with_the_same_fingerprint() {
        let seeds = Seeds::random();
        let options = LexOptions::default();
        for sql in
            ["", "SELECT 1", "INSERT INTO t VALUES (1, 'a'), (2, -3) /* pgweir: shard=1 */", "a IN (1, 2,"]
        {
            let (mut alone, mut both) = (Collected::default(), Collected::lent());
            normalize(sql.as_bytes(), options, &mut alone, &mut ());
            let found = seeds.fingerprint_and_tokens(sql.as_bytes(), options, &mut both);
            assert_eq!(found, seeds.fingerprint(sql.as_bytes(), options), "{sql}");
            assert_eq!(both.tokens, alone.tokens, "{sql}");
            both.give_back();
        }
    }

    #[test]
    fn seeds_differ_and_exact_is_another_space() {
        let (a, b) = (Seeds::random(), Seeds::random());
        let options = LexOptions::default();
        assert_ne!(a.fingerprint(b"select 1", options).0, b.fingerprint(b"select 1", options).0);
        assert_ne!(a.fingerprint(b"select 1", options).0, a.exact(b"select 1", options));
        assert_ne!(a.exact(b"select 1", options), a.exact(b"select 2", options));
        assert_ne!(a.exact(b"", options), a.exact(b"\0", options));
    }
}
