//! The lexer: bytes of SQL to tokens, the way PostgreSQL's own scanner cuts them.
//!
//! It allocates nothing, decodes nothing and never fails: what PostgreSQL would refuse becomes
//! [`Kind::Error`], and the classifier sends such text to the primary. It does not know statements; it
//! knows where tokens and comments begin and end.
//!
//! Invariant: every call of [`Scanner::next_token`] moves forward, so a scan ends on any input.

/// How the text must be read; part of every cache key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LexOptions {
    /// The session's `standard_conforming_strings`: when off, `\` escapes inside plain literals.
    pub standard_conforming_strings: bool,
    /// The client encoding may use `\` or a quote's byte as the second byte of a character (SJIS, BIG5, GBK,
    /// UHC, GB18030, JOHAB): text with any non-ASCII byte is not classified.
    pub backslash_trail_bytes: bool,
}

impl Default for LexOptions {
    fn default() -> Self {
        Self { standard_conforming_strings: true, backslash_trail_bytes: false }
    }
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Unquoted identifier or keyword.
    Word = 1,
    /// `"name"`.
    Quoted,
    /// `U&"name"`.
    UnicodeQuoted,
    /// Any character literal: `''`, `E''`, `N''`, `U&''`, `$$ $$`.
    Text,
    /// `B''` or `X''`.
    Bits,
    /// A number.
    Number,
    /// `$1`.
    Param,
    /// An operator.
    Operator,
    /// `( ) [ ] , . : ;` and `::`, `..`, `:=`.
    Punct,
    /// A literal whose content matters to the classifier (`current_setting('…')`); made by the normalizer.
    Verbatim,
    /// A generated name (savepoint, cursor, prepared statement); made by the normalizer.
    Name,
    /// What PostgreSQL would refuse to lex.
    Error,
}

/// A token and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// Told of each comment passed on the way (hints live in comments).
pub trait Comments {
    /// `text` includes the comment's delimiters.
    fn comment(&mut self, text: &[u8]);
}

/// For those who do not care.
impl Comments for () {
    fn comment(&mut self, _: &[u8]) {}
}

const SPACE: u8 = 1;
const IDENT_START: u8 = 2;
const DIGIT: u8 = 4;
const OPERATOR: u8 = 8;
const IDENT_PART: u8 = 16;

const CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0u8; 256];
    let mut i = 0usize;
    while i < 256 {
        let b = i as u8;
        table[i] = match b {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => SPACE,
            b'0'..=b'9' => DIGIT | IDENT_PART,
            b'$' => IDENT_PART,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => IDENT_START | IDENT_PART,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*' | b'/'
            | b'%' | b'<' | b'>' | b'=' => OPERATOR,
            _ => 0,
        };
        i += 1;
    }
    table
}

#[inline]
fn class(byte: u8) -> u8 {
    CLASS[usize::from(byte)]
}

/// A byte in each place of a word.
const fn each(byte: u8) -> u64 {
    byte as u64 * 0x0101_0101_0101_0101
}

/// Marks (`0x80`) the bytes of `word` that are `byte`; the first mark is right, those behind it may not be.
#[inline]
fn equal(word: u64, byte: u8) -> u64 {
    let zero_where_equal = word ^ each(byte);
    zero_where_equal.wrapping_sub(each(1)) & !zero_where_equal & each(0x80)
}

/// Where the first byte is, from `from` on, that `marks` marks in a word of eight; else the end. What stands
/// behind the end of the text is taken for NULs.
#[inline]
fn find(src: &[u8], from: usize, marks: impl Fn(u64) -> u64) -> usize {
    let mut pos = from;
    while let Some(chunk) = src.get(pos..).and_then(<[u8]>::first_chunk::<8>) {
        let found = marks(u64::from_le_bytes(*chunk));
        if found != 0 {
            return pos + found.trailing_zeros() as usize / 8;
        }
        pos += 8;
    }
    let rest = src.get(pos..).unwrap_or_default();
    let found = marks(rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)));
    pos + rest.len().min(found.trailing_zeros() as usize / 8)
}

/// Where the first quote or backslash is; else the end.
#[inline]
pub(super) fn find_quote(src: &[u8]) -> usize {
    find(src, 0, |word| equal(word, b'\'') | equal(word, b'\\'))
}

/// Cuts text into tokens, one after another.
#[derive(Debug)]
pub struct Scanner<'a> {
    src: &'a [u8],
    pos: usize,
    standard_strings: bool,
}

impl<'a> Scanner<'a> {
    /// A scanner at the start of `src`.
    pub fn new(src: &'a [u8], options: LexOptions) -> Self {
        Self { src, pos: 0, standard_strings: options.standard_conforming_strings }
    }

    #[inline]
    fn at(&self, pos: usize) -> u8 {
        // NUL never belongs to SQL text, so it can stand for the end.
        self.src.get(pos).copied().unwrap_or(0)
    }

    /// The next token, or `None` at the end; comments passed are told to `comments`.
    #[expect(
        clippy::inline_always,
        reason = "a twentieth of a fingerprint is the calls; left to itself it is not inlined"
    )]
    #[inline(always)]
    pub fn next_token<C: Comments>(&mut self, comments: &mut C) -> Option<Token> {
        loop {
            let start = self.pos;
            let &first = self.src.get(start)?;
            let class = class(first);
            if class & SPACE != 0 {
                self.pos += 1;
                continue;
            }
            if class & IDENT_START != 0 {
                return Some(self.word(first, start));
            }
            let kind = match first {
                b'\'' => self.text(start + 1, !self.standard_strings),
                b'"' => self.quoted(start + 1, Kind::Quoted),
                b'0'..=b'9' => self.number(),
                b'.' if self.at(start + 1).is_ascii_digit() => self.number(),
                b'.' if self.at(start + 1) == b'.' => self.take(2, Kind::Punct),
                b':' if matches!(self.at(start + 1), b':' | b'=') => self.take(2, Kind::Punct),
                b'(' | b')' | b'[' | b']' | b',' | b';' | b'.' | b':' => self.take(1, Kind::Punct),
                b'$' => self.dollar(),
                b'-' if self.at(start + 1) == b'-' => {
                    self.line_comment();
                    comments.comment(&self.src[start..self.pos]);
                    continue;
                }
                b'/' if self.at(start + 1) == b'*' => {
                    if self.block_comment() {
                        comments.comment(&self.src[start..self.pos]);
                        continue;
                    }
                    Kind::Error
                }
                _ if class & OPERATOR != 0 => self.operator(),
                _ => self.take(1, Kind::Error),
            };
            return Some(Token { kind, start, end: self.pos });
        }
    }

    #[inline]
    fn take(&mut self, bytes: usize, kind: Kind) -> Kind {
        self.pos += bytes;
        kind
    }

    #[inline]
    fn word(&mut self, first: u8, start: usize) -> Token {
        // Prefixes of literals count only directly before the quote.
        let next = self.at(start + 1);
        let kind = match (first | 0x20, next) {
            (b'e', b'\'') => self.text(start + 2, true),
            (b'n', b'\'') => self.text(start + 2, !self.standard_strings),
            (b'b' | b'x', b'\'') => self.bits(start + 2),
            (b'u', b'&') if self.at(start + 2) == b'\'' => {
                let kind = self.text(start + 3, !self.standard_strings);
                // PostgreSQL refuses these when backslashes escape.
                if self.standard_strings { kind } else { Kind::Error }
            }
            (b'u', b'&') if self.at(start + 2) == b'"' => self.quoted(start + 3, Kind::UnicodeQuoted),
            _ => {
                // Words are short: a table is faster than eight at once.
                let rest = self.src.get(start + 1..).unwrap_or_default();
                let more = rest.iter().position(|byte| class(*byte) & IDENT_PART == 0);
                self.pos = start + 1 + more.unwrap_or(rest.len());
                Kind::Word
            }
        };
        Token { kind, start, end: self.pos }
    }

    /// The rest of a character literal, the opening quote passed; follows continuations across lines.
    fn text(&mut self, from: usize, escapes: bool) -> Kind {
        let mut pos = from;
        loop {
            pos =
                find(self.src, pos, |word| equal(word, b'\'') | if escapes { equal(word, b'\\') } else { 0 });
            match self.src.get(pos) {
                None => return self.unterminated(),
                Some(b'\'') if self.at(pos + 1) == b'\'' => pos += 2,
                Some(b'\'') => match self.continuation(pos + 1) {
                    Some(next) => pos = next,
                    None => {
                        self.pos = pos + 1;
                        return Kind::Text;
                    }
                },
                Some(b'\\') if escapes => pos += 2,
                Some(_) => pos += 1,
            }
        }
    }

    /// Like [`Self::text`], but a doubled quote ends a bit string and begins another literal.
    fn bits(&mut self, from: usize) -> Kind {
        let mut pos = from;
        loop {
            match self.src.get(pos) {
                None => return self.unterminated(),
                Some(b'\'') => match self.continuation(pos + 1) {
                    Some(next) => pos = next,
                    None => {
                        self.pos = pos + 1;
                        return Kind::Bits;
                    }
                },
                Some(_) => pos += 1,
            }
        }
    }

    /// `'a'` newline `'b'` is one literal: where the next part's content begins, if the literal goes on.
    fn continuation(&self, after: usize) -> Option<usize> {
        let mut pos = after;
        let mut newline = false;
        loop {
            match self.at(pos) {
                b'\n' | b'\r' => {
                    newline = true;
                    pos += 1;
                }
                b' ' | b'\t' | 0x0b | 0x0c => pos += 1,
                // A comment may stand between, if it ends in a newline.
                b'-' if self.at(pos + 1) == b'-' => {
                    while pos < self.src.len() && !matches!(self.src[pos], b'\n' | b'\r') {
                        pos += 1;
                    }
                    if pos == self.src.len() {
                        return None;
                    }
                }
                b'\'' if newline => return Some(pos + 1),
                _ => return None,
            }
        }
    }

    fn quoted(&mut self, from: usize, kind: Kind) -> Kind {
        let mut pos = from;
        loop {
            pos = find(self.src, pos, |word| equal(word, b'"'));
            match self.src.get(pos) {
                None => return self.unterminated(),
                Some(b'"') if self.at(pos + 1) == b'"' => pos += 2,
                Some(b'"') => {
                    self.pos = pos + 1;
                    // A zero-length name is refused by PostgreSQL.
                    return if pos == from { Kind::Error } else { kind };
                }
                Some(_) => pos += 1,
            }
        }
    }

    fn unterminated(&mut self) -> Kind {
        self.pos = self.src.len();
        Kind::Error
    }

    fn digits(&self, from: usize, is_digit: impl Fn(u8) -> bool) -> usize {
        let mut pos = from;
        loop {
            if is_digit(self.at(pos)) {
                pos += 1;
            } else if self.at(pos) == b'_' && pos > from && is_digit(self.at(pos + 1)) {
                pos += 2;
            } else {
                return pos;
            }
        }
    }

    fn number(&mut self) -> Kind {
        let start = self.pos;
        let decimal = |b: u8| b.is_ascii_digit();
        let mut end = match (self.at(start), self.at(start + 1) | 0x20) {
            (b'0', b'x') => self.radix(start, |b| b.is_ascii_hexdigit()),
            (b'0', b'o') => self.radix(start, |b| matches!(b, b'0'..=b'7')),
            (b'0', b'b') => self.radix(start, |b| matches!(b, b'0' | b'1')),
            _ => None,
        }
        .unwrap_or(start);
        if end == start {
            end = self.digits(start, decimal);
            // `1..10` is a number, two dots, a number.
            if self.at(end) == b'.' && self.at(end + 1) != b'.' {
                end += 1;
                if decimal(self.at(end)) {
                    end = self.digits(end, decimal);
                }
            }
            if self.at(end) | 0x20 == b'e' {
                let sign = usize::from(matches!(self.at(end + 1), b'+' | b'-'));
                if decimal(self.at(end + 1 + sign)) {
                    end = self.digits(end + 1 + sign, decimal);
                }
            }
        }
        self.pos = end;
        self.junk(Kind::Number)
    }

    fn radix(&self, start: usize, is_digit: impl Fn(u8) -> bool) -> Option<usize> {
        let from = start + 2 + usize::from(self.at(start + 2) == b'_');
        is_digit(self.at(from)).then(|| self.digits(from, is_digit))
    }

    /// `1x` is an error in new servers and two tokens in old ones: not to be guessed at.
    fn junk(&mut self, kind: Kind) -> Kind {
        if class(self.at(self.pos)) & IDENT_START == 0 {
            return kind;
        }
        while class(self.at(self.pos)) & IDENT_PART != 0 {
            self.pos += 1;
        }
        Kind::Error
    }

    fn dollar(&mut self) -> Kind {
        let start = self.pos;
        if self.at(start + 1).is_ascii_digit() {
            self.pos = start + 1;
            while self.at(self.pos).is_ascii_digit() {
                self.pos += 1;
            }
            return self.junk(Kind::Param);
        }
        let mut tag_end = start + 1;
        if class(self.at(tag_end)) & IDENT_START != 0 {
            while self.at(tag_end) != b'$' && class(self.at(tag_end)) & IDENT_PART != 0 {
                tag_end += 1;
            }
        }
        if self.at(tag_end) != b'$' {
            return self.take(1, Kind::Error);
        }
        let delimiter = &self.src[start..=tag_end];
        let mut pos = tag_end + 1;
        while let Some(&byte) = self.src.get(pos) {
            if byte == b'$' && self.src[pos..].starts_with(delimiter) {
                self.pos = pos + delimiter.len();
                return Kind::Text;
            }
            pos += 1;
        }
        self.unterminated()
    }

    fn line_comment(&mut self) {
        self.pos = find(self.src, self.pos, |word| equal(word, b'\n') | equal(word, b'\r'));
    }

    /// Passes a comment, which may hold others; false if it does not end.
    fn block_comment(&mut self) -> bool {
        let mut depth = 0usize;
        while self.pos < self.src.len() {
            match (self.src[self.pos], self.at(self.pos + 1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.pos += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.pos += 2;
                    if depth == 0 {
                        return true;
                    }
                }
                _ => self.pos += 1,
            }
        }
        self.pos = self.src.len();
        false
    }

    fn operator(&mut self) -> Kind {
        let start = self.pos;
        let mut end = start;
        while class(self.at(end)) & OPERATOR != 0 {
            // A comment ends the operator before it.
            if matches!((self.at(end), self.at(end + 1)), (b'-', b'-') | (b'/', b'*')) {
                break;
            }
            end += 1;
        }
        // A trailing sign belongs to the next operand, except in operators of unusual characters.
        let unusual =
            |b: &u8| matches!(b, b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%');
        if !self.src[start..end].iter().any(unusual) {
            while end > start + 1 && matches!(self.src[end - 1], b'+' | b'-') {
                end -= 1;
            }
        }
        self.pos = end;
        Kind::Operator
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bytes_at_once_find_what_one_by_one_does() {
        let quotes = |word| equal(word, b'\'') | equal(word, b'\\');
        // Every byte, before, at and behind the edges of the words of eight; a wrong mark may only stand behind a right one.
        for byte in 0..=255u8 {
            for len in 0..20 {
                for at in 0..len {
                    let mut text = vec![byte; len];
                    text[at] = b'\'';
                    for from in 0..=len + 1 {
                        let rest = text.get(from..).unwrap_or_default();
                        let expected = rest.iter().position(|b| matches!(b, b'\'' | b'\\'));
                        let expected = from + expected.unwrap_or(rest.len());
                        assert_eq!(find(&text, from, quotes), expected, "{text:?} from {from}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_end_is_not_taken_for_a_nul() {
        let nul = |word| equal(word, 0);
        assert_eq!(find(b"abc", 0, nul), 3);
        assert_eq!(find(b"ab\0", 0, nul), 2);
        assert_eq!(find(b"", 0, nul), 0);
        assert_eq!(find(b"12345678", 0, nul), 8);
    }

    fn lex(sql: &str, standard: bool) -> Vec<(Kind, &str)> {
        let options = LexOptions { standard_conforming_strings: standard, ..LexOptions::default() };
        let mut scanner = Scanner::new(sql.as_bytes(), options);
        std::iter::from_fn(|| scanner.next_token(&mut ())).map(|t| (t.kind, &sql[t.start..t.end])).collect()
    }

    #[test]
    fn literals_of_every_kind() {
        for literal in ["'a''b'", "E'a\\'b'", "n'x'", "U&'d\\0061'", "$$a'b$$", "$t$ $$ $t$", "'a'\n 'b'"] {
            assert_eq!(lex(literal, true), [(Kind::Text, literal)], "{literal}");
        }
        assert_eq!(lex("'a' 'b'", true).len(), 2, "same line: two literals");
        assert_eq!(lex("'a' -- c\n'b'", true).len(), 1);
        assert_eq!(lex("b'01''x'", true), [(Kind::Bits, "b'01'"), (Kind::Text, "'x'")]);
        assert_eq!(lex("e 'a'", true)[0], (Kind::Word, "e"));
    }

    #[test]
    fn backslashes_follow_the_setting() {
        assert_eq!(lex(r"'a\'", true), [(Kind::Text, r"'a\'")]);
        assert_eq!(lex(r"'a\' 'b'", false)[0].1, r"'a\' '");
        assert_eq!(lex("U&'a'", false)[0].0, Kind::Error);
    }

    #[test]
    fn numbers() {
        for number in ["1", "1.5", ".5", "1.", "1e10", "1.5e-3", "0x1F", "0b01", "0o17", "1_000"] {
            assert_eq!(lex(number, true), [(Kind::Number, number)], "{number}");
        }
        assert_eq!(lex("1..10", true), [(Kind::Number, "1"), (Kind::Punct, ".."), (Kind::Number, "10")]);
        assert_eq!(lex("1into", true), [(Kind::Error, "1into")]);
    }

    #[test]
    fn operators_stop_before_comments_and_signs() {
        assert_eq!(lex("a=-1", true).len(), 4);
        assert_eq!(lex("a@-1", true)[1].1, "@-");
        assert_eq!(lex("1+/*c*/2", true).len(), 3);
        assert_eq!(lex("1 *-- c\n2", true).len(), 3);
        assert_eq!(lex("/* a /* b */ c */ 1", true), [(Kind::Number, "1")]);
    }

    #[test]
    fn dollars() {
        assert_eq!(lex("$1", true), [(Kind::Param, "$1")]);
        assert_eq!(lex("a$b$c", true), [(Kind::Word, "a$b$c")]);
        assert_eq!(lex("$a", true)[0].0, Kind::Error);
        assert_eq!(lex("$tag$ never", true)[0].0, Kind::Error);
    }
}
