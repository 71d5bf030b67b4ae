//! From raw tokens to the normalized stream that fingerprint and classifier both see.
//!
//! Everything decided about a text is decided on this stream, so two texts of one fingerprint can only be
//! classified alike. What it does:
//!
//! - a list of values after `(` or `[` becomes its first value, rows of such lists become one row: `IN (1, 2,
//!   3)` and `VALUES (1, 'a'), (2, 'b')` of any length are one shape;
//! - generated names (savepoints, cursors, prepared statements) become [`Kind::Name`];
//! - the literal argument of `current_setting` stays as it is ([`Kind::Verbatim`]), since which setting is
//!   read decides where; the arguments of `set_config` are not collapsed, since the last one matters.

use std::cell::Cell;

use super::scan::{Comments, Kind, LexOptions, Scanner, Token};

/// Takes the normalized tokens; can be set back to an earlier point.
pub trait Sink {
    /// A point in the stream.
    type Mark: Copy;
    /// The next token is `src[start..end]`.
    fn token(&mut self, src: &[u8], kind: Kind, start: usize, end: usize);
    /// A value of a list that makes no difference.
    #[inline]
    fn further_value(&mut self, _src: &[u8], _kind: Kind, _start: usize, _end: usize) {}
    /// The present point.
    fn mark(&self) -> Self::Mark;
    /// Forgets the tokens since `mark`.
    fn rewind(&mut self, mark: Self::Mark);
}

/// Where we are in a list of values.
#[derive(Clone, Copy)]
enum List<M> {
    /// Not in one.
    No,
    /// After the opening bracket; `row` is the point after an earlier row of values, if this may be another.
    Open { row: Option<M>, round: bool },
    /// After a sign that follows the bracket; `open` is the point before the sign.
    OpenSign { row: Option<M>, round: bool, open: M },
    /// After a value; `first` is the point after the first one.
    Value { row: Option<M>, round: bool, first: M },
    /// After the comma (and perhaps a sign) that follows a value.
    Comma { row: Option<M>, round: bool, first: M },
    /// After `)` that closed a row of values; the point is there.
    Row(M),
    /// After the comma behind a row.
    RowComma(M),
}

/// Statements whose next plain name was made up by a driver.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// No name expected any more.
    No,
    /// At the start of a statement.
    Start,
    /// After EXECUTE, PREPARE, DECLARE, SAVEPOINT: the very next.
    Direct,
    /// After FETCH, MOVE, CLOSE, DEALLOCATE, RELEASE, `ROLLBACK TO`: the next that is no keyword of these.
    Next,
    /// After ROLLBACK, before TO.
    Rollback,
}

/// Which function's parenthesis we are about to enter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Argument {
    Other,
    SetConfig,
    CurrentSetting,
}

/// Runs the lexer over `src` and feeds `sink`.
pub fn normalize<S: Sink, C: Comments>(src: &[u8], options: LexOptions, sink: &mut S, comments: &mut C) {
    let mut scanner = Scanner::new(src, options);
    let mut list = List::No;
    let mut names = Names::Start;
    let mut before = Argument::Other;
    while let Some(Token { mut kind, start, end }) = scanner.next_token(comments) {
        let first = src[start];
        if names != Names::No {
            (names, kind) = name(names, kind, &src[start..end]);
        }
        // Keywords inside a list of values.
        let value = match kind {
            Kind::Text | Kind::Bits | Kind::Number | Kind::Param => true,
            Kind::Word => {
                matches!(list, List::Open { .. } | List::Comma { .. }) && constant(&src[start..end])
            }
            _ => false,
        };
        if before == Argument::CurrentSetting && kind == Kind::Text {
            kind = Kind::Verbatim;
        }
        if value && kind != Kind::Verbatim {
            match list {
                List::Comma { first, row, round } => {
                    sink.further_value(src, kind, start, end);
                    sink.rewind(first);
                    list = List::Value { first, row, round };
                }
                List::Open { row, round } => {
                    // `NULL` and its kin count as a value like any other.
                    sink.token(src, if kind == Kind::Word { Kind::Text } else { kind }, start, end);
                    list = List::Value { first: sink.mark(), row, round };
                }
                List::OpenSign { row, round, open } => {
                    sink.rewind(open);
                    sink.token(src, kind, start, end);
                    list = List::Value { first: sink.mark(), row, round };
                }
                _ => {
                    sink.token(src, kind, start, end);
                    list = List::No;
                }
            }
            before = Argument::Other;
            continue;
        }
        let mut next = List::No;
        let mut argument = Argument::Other;
        match kind {
            Kind::Punct => match (first, list) {
                (b'(', List::RowComma(row)) => next = List::Open { row: Some(row), round: true },
                (b'(' | b'[', _) if before == Argument::Other => {
                    next = List::Open { row: None, round: first == b'(' };
                }
                (b'(', _) => argument = before,
                (b',', List::Value { first, row, round }) => next = List::Comma { first, row, round },
                (b',', List::Row(row)) => next = List::RowComma(row),
                (b')', List::Value { row, round: true, .. }) => {
                    if let Some(row) = row {
                        sink.rewind(row);
                        list = List::Row(row);
                        before = Argument::Other;
                        continue;
                    }
                    sink.token(src, kind, start, end);
                    list = List::Row(sink.mark());
                    before = Argument::Other;
                    continue;
                }
                (b';', _) => names = Names::Start,
                _ => {}
            },
            Kind::Operator if end - start == 1 && matches!(first, b'-' | b'+') => {
                next = match list {
                    List::Open { row, round } => List::OpenSign { row, round, open: sink.mark() },
                    List::Comma { first, row, round } => List::Comma { first, row, round },
                    _ => List::No,
                };
            }
            Kind::Word => argument = function(&src[start..end]),
            Kind::Quoted => argument = function(&src[start + 1..end - 1]),
            _ => {}
        }
        sink.token(src, kind, start, end);
        list = next;
        before = argument;
    }
}

fn constant(word: &[u8]) -> bool {
    matches!(word.len(), 4 | 5 | 7)
        && (word.eq_ignore_ascii_case(b"null")
            || word.eq_ignore_ascii_case(b"true")
            || word.eq_ignore_ascii_case(b"false")
            || word.eq_ignore_ascii_case(b"default"))
}

#[inline]
fn function(word: &[u8]) -> Argument {
    match word.len() {
        10 if word.eq_ignore_ascii_case(b"set_config") => Argument::SetConfig,
        15 if word.eq_ignore_ascii_case(b"current_setting") => Argument::CurrentSetting,
        _ => Argument::Other,
    }
}

/// Follows the words that come before a generated name; at the name, makes the token one.
fn name(state: Names, kind: Kind, text: &[u8]) -> (Names, Kind) {
    let is = |word: &str| text.eq_ignore_ascii_case(word.as_bytes());
    match (state, kind) {
        (Names::Start, Kind::Word) => {
            // None of the words below has six letters; SELECT, INSERT, UPDATE and DELETE have.
            if !matches!(text.len(), 4 | 5 | 7..=10) {
                return (Names::No, kind);
            }
            let any = |words: &[&str]| words.iter().any(|w| is(w));
            if any(&["execute", "prepare", "declare", "savepoint"]) {
                (Names::Direct, kind)
            } else if any(&["fetch", "move", "close", "deallocate", "release"]) {
                (Names::Next, kind)
            } else if is("rollback") {
                (Names::Rollback, kind)
            } else {
                (Names::No, kind)
            }
        }
        // Empty statements before the first one.
        (Names::Start, Kind::Punct) if text == b";" => (Names::Start, kind),
        (Names::Rollback, Kind::Word) if is("work") || is("transaction") => (Names::Rollback, kind),
        (Names::Rollback, Kind::Word) if is("to") => (Names::Next, kind),
        (Names::Direct, Kind::Word) if is("transaction") => (Names::No, kind),
        (Names::Next, Kind::Word) => {
            let skip = [
                "savepoint",
                "next",
                "prior",
                "first",
                "last",
                "absolute",
                "relative",
                "forward",
                "backward",
                "from",
                "in",
                "prepare",
                "all",
            ];
            if skip.iter().any(|w| is(w)) { (Names::Next, kind) } else { (Names::No, Kind::Name) }
        }
        (Names::Direct, Kind::Word) | (Names::Direct | Names::Next, Kind::Quoted | Kind::UnicodeQuoted) => {
            (Names::No, Kind::Name)
        }
        (Names::Next, Kind::Number | Kind::Operator) => (Names::Next, kind),
        _ => (Names::No, kind),
    }
}

/// The stream kept.
#[derive(Debug, Default)]
pub struct Collected {
    /// The tokens.
    pub tokens: Vec<Token>,
    /// More came than may be kept; the rest is missing.
    pub overflow: bool,
}

/// Most tokens that are kept of one text.
pub const TOKENS_MAX: usize = 500_000;

thread_local! {
    static SPARE: Cell<Vec<Token>> = const { Cell::new(Vec::new()) };
}

/// Room that a thread keeps for the next text, in tokens.
const SPARE_MAX: usize = 4096;

impl Collected {
    /// An empty one, in room that was used before.
    pub fn lent() -> Self {
        Self { tokens: SPARE.take(), overflow: false }
    }

    /// Leaves its room for the next.
    pub fn give_back(mut self) {
        if self.tokens.capacity() <= SPARE_MAX {
            self.tokens.clear();
            SPARE.set(self.tokens);
        }
    }
}

impl Sink for Collected {
    type Mark = usize;

    #[inline]
    fn token(&mut self, _: &[u8], kind: Kind, start: usize, end: usize) {
        if self.tokens.len() < TOKENS_MAX {
            self.tokens.push(Token { kind, start, end });
        } else {
            self.overflow = true;
        }
    }

    fn mark(&self) -> usize {
        self.tokens.len()
    }

    fn rewind(&mut self, mark: usize) {
        self.tokens.truncate(mark);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(sql: &str) -> String {
        let mut out = Collected::default();
        normalize(sql.as_bytes(), LexOptions::default(), &mut out, &mut ());
        let word = |t: &Token| match t.kind {
            Kind::Text | Kind::Number | Kind::Bits | Kind::Param => "?",
            Kind::Name => "name",
            _ => &sql[t.start..t.end],
        };
        out.tokens.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn lists_and_rows_collapse() {
        assert_eq!(shape("id IN (1, -2, NULL, 'x')"), "id IN ( ? )");
        assert_eq!(shape("id IN (1)"), "id IN ( ? )");
        assert_eq!(shape("id IN (-1, 2)"), "id IN ( ? )");
        assert_eq!(shape("ARRAY[1,2,3]"), "ARRAY [ ? ]");
        assert_eq!(shape("VALUES (1,'a'), (2,'b'), (3,'c') RETURNING id"), "VALUES ( ? ) RETURNING id");
        assert_eq!(shape("f(1, g(2, 3), 4)"), "f ( ? , g ( ? ) , ? )");
        assert_eq!(shape("VALUES (1), (f(2)), (3)"), "VALUES ( ? ) , ( f ( ? ) ) , ( ? )");
        assert_eq!(shape("SELECT 1, 2"), "SELECT ? , ?");
    }

    #[test]
    fn arguments_that_matter_stay() {
        assert_eq!(shape("set_config('a', 'b', true)"), "set_config ( ? , ? , true )");
        assert_eq!(shape("current_setting('a', true)"), "current_setting ( 'a' , true )");
    }

    #[test]
    fn generated_names() {
        assert_eq!(shape("SAVEPOINT s1; RELEASE SAVEPOINT s1"), "SAVEPOINT name ; RELEASE SAVEPOINT name");
        assert_eq!(shape("ROLLBACK TO SAVEPOINT \"s\""), "ROLLBACK TO SAVEPOINT name");
        assert_eq!(shape("DECLARE \"c_1\" CURSOR FOR SELECT a"), "DECLARE name CURSOR FOR SELECT a");
        assert_eq!(shape("FETCH FORWARD 10 FROM c"), "FETCH FORWARD ? FROM name");
        assert_eq!(shape("CLOSE ALL"), "CLOSE ALL");
        assert_eq!(shape("SELECT close FROM t"), "SELECT close FROM t");
    }
}
