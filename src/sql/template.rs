//! Texts that were met before, but for their literals: known by comparing bytes, without lexing.
//!
//! Applications send the same few statements with other values. A template is such a text and where its plain
//! literals stand: another text is of the same fingerprint if it has the same bytes around them, and in their places
//! literals that are cut and counted as those are. What looks the same in another way (case, spaces, signs, the number
//! of values) does not match, and is lexed.

use std::sync::atomic::{AtomicU8, Ordering};

use arc_swap::ArcSwapOption;

use super::fingerprint::Fingerprint;
use super::normalize::{Sink, normalize};
use super::scan::{Kind, LexOptions, find_quote};

/// By twos.
const SLOTS: usize = 256;
/// A slot is found by so many first bytes. With a digit or a quote in them, which may begin a literal, there is none.
const HEAD_BYTES: usize = 16;
/// Longest text that is kept, and how many of its literals may be others: all together take no more than 1.5 MiB.
const TEXT_BYTES_MAX: usize = 4096;
const LITERALS_MAX: usize = 64;
/// So many texts that meant the slot, and none that its template knew, make room for another.
const MISSES_MAX: u8 = 32;

/// The templates of a cache of statements.
#[derive(Debug)]
pub(super) struct Templates {
    slots: Box<[Slot]>,
}

#[derive(Debug, Default)]
struct Slot {
    template: ArcSwapOption<Template>,
    /// Since the template was of use.
    misses: AtomicU8,
}

#[derive(Debug)]
struct Template {
    text: Box<[u8]>,
    options: LexOptions,
    literals: Box<[Literal]>,
    fingerprint: Fingerprint,
}

/// A literal in the text of a template.
#[derive(Debug)]
struct Literal {
    start: usize,
    end: usize,
    is_text: bool,
}

impl Templates {
    pub(super) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Slot::default()).collect() }
    }

    /// The two slots in which a text may be known.
    fn slots(&self, text: &[u8]) -> Option<[&Slot; 2]> {
        let head = text.first_chunk::<HEAD_BYTES>().filter(|_| text.len() <= TEXT_BYTES_MAX)?;
        let head = u128::from_le_bytes(*head);
        if has_less(head ^ of_bytes(b'0'), 10) || has_less(head ^ of_bytes(b'\''), 1) {
            return None;
        }
        // Statements on one table begin alike, and are of different lengths.
        let word = (head as u64) ^ ((head >> 64) as u64).rotate_left(23) ^ (text.len() as u64 / 64);
        let place = (word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as usize;
        Some([self.slots.get(place)?, self.slots.get(place ^ 1)?])
    }

    /// The fingerprint of a text that a template knows.
    #[inline]
    pub(super) fn find(&self, text: &[u8], options: LexOptions) -> Option<Fingerprint> {
        self.slots(text)?.into_iter().find_map(|slot| {
            let template = slot.template.load();
            let template = template.as_ref().filter(|template| template.fits(text, options))?;
            if slot.misses.load(Ordering::Relaxed) != 0 {
                slot.misses.store(0, Ordering::Relaxed);
            }
            Some(template.fingerprint)
        })
    }

    /// Takes note of a text that none knew, and of its fingerprint.
    pub(super) fn learn(&self, text: &[u8], options: LexOptions, fingerprint: Fingerprint) {
        let Some(slots) = self.slots(text) else { return };
        let [first, second] = slots.map(Slot::miss);
        let [one, other] = slots;
        let (slot, misses) = if first >= second { (one, first) } else { (other, second) };
        if misses >= MISSES_MAX {
            slot.template.store(Some(Template::of(text, options, fingerprint).into()));
            slot.misses.store(0, Ordering::Relaxed);
        }
    }
}

impl Slot {
    /// Counts a text that meant this slot in vain. Two threads may count one: that does no harm.
    fn miss(&self) -> u8 {
        if self.template.load().is_none() {
            return u8::MAX;
        }
        let misses = self.misses.load(Ordering::Relaxed).saturating_add(1);
        self.misses.store(misses, Ordering::Relaxed);
        misses
    }
}

impl Template {
    fn of(text: &[u8], options: LexOptions, fingerprint: Fingerprint) -> Self {
        let mut found = Literals::default();
        normalize(text, options, &mut found, &mut ());
        Self { text: text.into(), options, literals: found.0.into(), fingerprint }
    }

    fn fits(&self, text: &[u8], options: LexOptions) -> bool {
        self.options == options && self.rest_of(text).is_some_and(<[u8]>::is_empty)
    }

    /// What is left of a text that begins as this one is.
    #[inline]
    fn rest_of<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        let (mut rest, mut at) = (text, 0);
        for literal in &self.literals {
            rest = rest.strip_prefix(self.text.get(at..literal.start)?)?;
            rest = rest.get(if literal.is_text { plain_text(rest)? } else { plain_number(rest)? }..)?;
            at = literal.end;
        }
        rest.strip_prefix(self.text.get(at..)?)
    }
}

/// This byte, sixteen times.
const fn of_bytes(byte: u8) -> u128 {
    u128::from_le_bytes([byte; HEAD_BYTES])
}

/// Whether one of the bytes is less than `limit`, which is at most 128: what is less borrows from its highest bit.
#[inline]
fn has_less(bytes: u128, limit: u8) -> bool {
    bytes.wrapping_sub(of_bytes(limit)) & !bytes & of_bytes(128) != 0
}

/// The plain literals of a text, in order.
#[derive(Default)]
struct Literals(Vec<Literal>);

impl Sink for Literals {
    type Mark = ();

    fn token(&mut self, src: &[u8], kind: Kind, start: usize, end: usize) {
        let rest = src.get(start..).unwrap_or_default();
        let (is_text, plain) = match kind {
            Kind::Text => (true, plain_text(rest)),
            // Nothing that could belong to a number follows one: the lexer takes that for an error.
            Kind::Number => (false, plain_number(rest)),
            _ => return,
        };
        if plain == Some(end - start) && self.0.len() < LITERALS_MAX {
            self.0.push(Literal { start, end, is_text });
        }
    }

    fn further_value(&mut self, src: &[u8], kind: Kind, start: usize, end: usize) {
        self.token(src, kind, start, end);
    }

    fn mark(&self) {}

    /// Also a literal that makes no difference stands where it stands.
    fn rewind(&mut self, (): ()) {}
}

/// The length of the digits, and perhaps a fraction, that `text` begins with.
#[inline]
fn plain_number(text: &[u8]) -> Option<usize> {
    let digits = |from: usize| {
        text.iter()
            .skip(from)
            .position(|byte| !byte.is_ascii_digit())
            .map_or(text.len(), |count| from + count)
    };
    let whole = digits(0);
    if whole == 0 {
        return None;
    }
    let fraction = digits(whole + 1);
    Some(if text.get(whole) == Some(&b'.') && fraction > whole + 1 { fraction } else { whole })
}

/// The length of the literal that `text` begins with, if there is neither a quote nor a backslash in it.
#[inline]
fn plain_text(text: &[u8]) -> Option<usize> {
    let end = find_quote(text.strip_prefix(b"'")?) + 1;
    (text.get(end) == Some(&b'\'')).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::super::fingerprint::Seeds;
    use super::*;

    const OPTIONS: LexOptions =
        LexOptions { standard_conforming_strings: true, backslash_trail_bytes: false };

    fn template(text: &str, seeds: &Seeds, options: LexOptions) -> Template {
        Template::of(text.as_bytes(), options, seeds.fingerprint(text.as_bytes(), options).0)
    }

    fn knows(text: &str, other: &str) -> bool {
        let template = template(text, &Seeds::random(), OPTIONS);
        assert!(template.fits(text.as_bytes(), OPTIONS), "{text} does not fit itself");
        template.fits(other.as_bytes(), OPTIONS)
    }

    #[test]
    fn other_values_of_plain_literals_are_known() {
        for (text, other) in [
            (
                "SELECT abalance FROM pgbench_accounts WHERE aid = 1;",
                "SELECT abalance FROM pgbench_accounts WHERE aid = 77123;",
            ),
            (
                "SELECT a FROM t WHERE b = 'x' AND c < 1.5 LIMIT 21",
                "SELECT a FROM t WHERE b = 'longer, é' AND c < 3 LIMIT 1",
            ),
            ("SELECT a FROM t WHERE b = '' OR b = 'x'", "SELECT a FROM t WHERE b = '1' OR b = ''"),
            (
                "INSERT INTO table_a VALUES (1, 'a'), (2, 'b')",
                "INSERT INTO table_a VALUES (9, ''), (10, 'c')",
            ),
            ("SELECT count(*) FROM t WHERE b", "SELECT count(*) FROM t WHERE b"),
            ("SELECT a FROM t1 WHERE b IN (1, 2)", "SELECT a FROM t1 WHERE b IN (44, 5)"),
        ] {
            assert!(knows(text, other), "{text} does not know {other}");
        }
    }

    #[test]
    fn what_may_be_cut_otherwise_is_not_known() {
        for (text, other) in [
            ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = 1x"),
            ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = 0x1F"),
            ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = 1."),
            ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = 1e5"),
            ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = '1'"),
            ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = $1"),
            ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = 1; DROP TABLE t"),
            ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = "),
            ("SELECT a FROM t WHERE b = 'x'", "SELECT a FROM t WHERE b = 'x''y'"),
            ("SELECT a FROM t WHERE b = 'x'", "SELECT a FROM t WHERE b = 'x\\'"),
            ("SELECT a FROM t WHERE b = 'x'", "SELECT a FROM t WHERE b = 'x"),
            ("SELECT a FROM t WHERE b = 'x'", "SELECT a FROM t WHERE b = E'x'"),
            ("SELECT a FROM t WHERE b = E'x'", "SELECT a FROM t WHERE b = E'y'"),
            ("SELECT a FROM t WHERE b = 1x", "SELECT a FROM t WHERE b = 2x"),
            ("SELECT a FROM t WHERE b = 0x1", "SELECT a FROM t WHERE b = 5x1"),
            ("SELECT a FROM t1", "SELECT a FROM t2"),
            ("SELECT a FROM t WHERE b = $1", "SELECT a FROM t WHERE b = $2"),
            ("SELECT current_setting('a')", "SELECT current_setting('b')"),
            (
                "SELECT a FROM t WHERE b = 1 /* pgweir: role=primary */",
                "SELECT a FROM t WHERE b = 1 /* pgweir: role=replica */",
            ),
            ("SELECT a FROM t WHERE b = 1 -- 2", "SELECT a FROM t WHERE b = 1 -- 3"),
        ] {
            assert!(!knows(text, other), "{text} knows {other}");
        }
    }

    /// Texts full of what is cut in more ways than one, and in their places values that are, too.
    #[test]
    fn what_is_known_has_the_same_fingerprint() {
        const SHAPES: [&str; 24] = [
            "SELECT a, b, c FROM t WHERE d = ?",
            "SELECT a, b, c FROM t WHERE d = ? AND e = ?;",
            "SELECT a, b, c FROM t WHERE d IN (?, ?, ?)",
            "INSERT INTO table_a VALUES (?, ?), (?, ?)",
            "SELECT current_setting(?), ? FROM t",
            "SELECT set_config(?, ?, false)",
            "SELECT a, b, c FROM t WHERE d=?AND e=?",
            "SELECT a, b, c FROM t WHERE d=-? AND e=+?",
            "SELECT a, b, c FROM t WHERE d ?\n? AND e",
            "SELECT a, b, c FROM t WHERE d ? ? AND e",
            "SELECT a, b, c FROM t WHERE d ?-- ?\n? AND e",
            "SELECT a, b, c FROM t WHERE d = E? AND e = ?",
            "SELECT a, b, c FROM t WHERE d = U&? AND e = ?",
            "SELECT a, b, c FROM t WHERE d = x? AND e = ?",
            "SELECT a, b, c FROM t WHERE d[?:?] = ?..?",
            "SELECT a, b, c FROM t WHERE d = ?::int + ?.?",
            "SELECT a, b, c FROM t WHERE d = $?$ AND e = $$?$$",
            "SELECT a, b, c FROM t WHERE d = ?e? AND e?",
            "SELECT a, b, c FROM t WHERE d = ?x? OR ?'",
            "SELECT a, b, c FROM t /* ? */ WHERE d = ?",
            "DEALLOCATE PREPARE ?; SELECT a, b, c ?",
            "SELECT a, b, c FROM t WHERE (d, e) IN ((?, ?), (?, ?))",
            "SELECT \"a?\", ? FROM t WHERE \"?\" = ?",
            "/* pgweir: shard=? */ SELECT a FROM t WHERE d = ?",
        ];
        const VALUES: [&str; 24] = [
            "1", "22", "1.5", "1.", ".5", "1e5", "0x1F", "0", "1_0", "1x", "'a'", "''", "'it''s'", "'a\\'",
            "'\\''", "'a", "a'", "$1", "$$a$$", "null", "-1", "E'a'", "a", "'a' 'b'",
        ];
        let seeds = Seeds::random();
        let mut known = 0;
        for options in [OPTIONS, LexOptions { standard_conforming_strings: false, ..OPTIONS }] {
            for shape in SHAPES {
                // Each value in all places, and beside each other one.
                let texts: Vec<_> = VALUES
                    .iter()
                    .flat_map(|one| {
                        VALUES.iter().map(move |other| shape.replacen('?', one, 1).replace('?', other))
                    })
                    .collect();
                let templates: Vec<_> =
                    texts.iter().step_by(7).map(|text| template(text, &seeds, options)).collect();
                for text in &texts {
                    let (fingerprint, _) = seeds.fingerprint(text.as_bytes(), options);
                    for template in templates.iter().filter(|one| one.fits(text.as_bytes(), options)) {
                        let of = String::from_utf8_lossy(&template.text);
                        assert_eq!(template.fingerprint, fingerprint, "{of} knows {text}");
                        known += usize::from(*template.text != *text.as_bytes());
                    }
                }
            }
        }
        assert!(known > 5_000, "only {known} pairs: this shows little");
    }

    #[test]
    fn a_head_with_a_digit_or_a_quote_has_no_slot() {
        let templates = Templates::new();
        for byte in 0..=u8::MAX {
            for place in 0..HEAD_BYTES {
                for around in [b'a', b'/', b':', b'&', b'(', 0, 255] {
                    let mut text = [around; HEAD_BYTES + 4];
                    text[place] = byte;
                    let has_slot = !(byte.is_ascii_digit() || byte == b'\'');
                    assert_eq!(
                        templates.slots(&text).is_some(),
                        has_slot,
                        "{byte:#x} at {place} among {around:#x}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_slot_goes_to_what_is_met_often() {
        let (templates, seeds) = (Templates::new(), Seeds::random());
        let fingerprint = |text: &str| seeds.fingerprint(text.as_bytes(), OPTIONS).0;
        let text = |name: char| format!("SELECT * FROM table_{name} WHERE a = 1");
        let learn = |text: &str| templates.learn(text.as_bytes(), OPTIONS, fingerprint(text));
        let find = |text: &str| templates.find(text.as_bytes(), OPTIONS);
        for name in ['a', 'b', 'c'] {
            learn(&text(name));
        }
        assert_eq!(find(&text('a')), Some(fingerprint(&text('a'))));
        assert_eq!(find(&text('b')), Some(fingerprint(&text('b'))));
        assert_eq!(find(&text('c')), None, "two have the slots");
        for _ in 0..MISSES_MAX {
            find(&text('a'));
            learn(&text('c'));
        }
        assert_eq!(find(&text('c')), Some(fingerprint(&text('c'))));
        assert_eq!(find(&text('a')), Some(fingerprint(&text('a'))), "what is in use stays");
        let many =
            |last: u8| format!("SELECT * FROM table_d WHERE a IN ({}{last})", "7, ".repeat(LITERALS_MAX));
        learn(&many(1));
        assert_eq!((find(&many(1)).is_some(), find(&many(2))), (true, None), "no more may be others");
        assert_eq!(find("SELECT 1"), None, "too short");
        let long = format!("{} AND b = '{}'", text('a'), "x".repeat(TEXT_BYTES_MAX));
        learn(&long);
        assert_eq!(find(&long), None, "too long to be kept");
        learn("SELECT 12345678 FROM t");
        assert_eq!(find("SELECT 12345678 FROM t"), None, "the slot would depend on a literal");
    }
}
