//! Where lines end in text and CSV format, found byte by byte as PostgreSQL does it: newlines behind a
//! backslash (text) or in quotes (CSV) belong to the row, and the first line decides for all whether they
//! end in NL, CR, or CR NL.

use super::error::CopyProblem;
use super::{CopyFormat, CopyOptions};

/// What lines end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Unknown,
    Newline,
    Return,
    ReturnNewline,
}

/// The end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineEnd {
    /// How many of the bytes given belong to it.
    pub(super) at: usize,
    /// How long its terminator is.
    pub(super) terminator: usize,
    /// `\.` is in it (text format only).
    pub(super) marker: bool,
}

/// Finds the ends.
#[derive(Debug)]
pub(super) struct Lines {
    /// Quote and escape of CSV.
    quotes: Option<(u8, u8)>,
    ending: Ending,
    number: u64,
    /// The next byte is the first of a line.
    at_start: bool,
    /// The last byte was a backslash that takes the next one along (text).
    escaped: bool,
    in_quotes: bool,
    /// An escape in quotes has come, and counts for the next byte (CSV).
    last_was_escape: bool,
    /// The last byte was a carriage return, and the next one decides.
    after_return: bool,
    marker: bool,
}

impl Lines {
    pub(super) fn new(options: &CopyOptions) -> Self {
        let is_csv = options.format == CopyFormat::Csv;
        // A quote that escapes itself ends quotes and begins them again; no text has a byte of zero.
        let escape = if options.escape == options.quote { 0 } else { options.escape };
        Self {
            quotes: is_csv.then_some((options.quote, escape)),
            ending: Ending::Unknown,
            number: 0,
            at_start: true,
            escaped: false,
            in_quotes: false,
            last_was_escape: false,
            after_return: false,
            marker: false,
        }
    }

    /// The number of the line that was looked at last, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number.max(1)
    }

    /// Looks at more bytes, and finds the end of the line that they go on with.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Result<Option<LineEnd>, CopyProblem> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if self.after_return {
                self.after_return = false;
                return self.returned(byte, at).map(Some);
            }
            if self.at_start {
                self.at_start = false;
                self.number += 1;
            }
            at += 1;
            match self.quotes {
                Some((quote, escape)) => self.quoted(byte, quote, escape),
                None if self.escaped => {
                    self.escaped = false;
                    self.marker |= byte == b'.';
                    continue;
                }
                None if byte == b'\\' => {
                    self.escaped = true;
                    continue;
                }
                None => {}
            }
            match byte {
                b'\r' if !self.in_quotes => match self.ending {
                    Ending::Unknown | Ending::ReturnNewline => self.after_return = true,
                    Ending::Newline => return Err(self.literal_return()),
                    Ending::Return => return Ok(Some(self.line(at, 1))),
                },
                b'\n' if !self.in_quotes => {
                    if matches!(self.ending, Ending::Return | Ending::ReturnNewline) {
                        return Err(CopyProblem::Malformed(match self.quotes {
                            None => "literal newline found in data",
                            Some(_) => "unquoted newline found in data",
                        }));
                    }
                    self.ending = Ending::Newline;
                    return Ok(Some(self.line(at, 1)));
                }
                _ => at += self.plain(bytes.get(at..).unwrap_or_default()),
            }
        }
        Ok(None)
    }

    /// The data ends in a line that is not complete.
    pub(super) fn end(&mut self) -> Result<LineEnd, CopyProblem> {
        if self.after_return {
            // Nothing is no newline.
            self.after_return = false;
            return self.returned(0, 0);
        }
        Ok(self.line(0, 0))
    }

    /// How many bytes mean nothing here, whatever comes before or behind them.
    fn plain(&self, bytes: &[u8]) -> usize {
        let special = |byte: &u8| match self.quotes {
            None => matches!(byte, b'\n' | b'\r' | b'\\'),
            Some((quote, escape)) => matches!(byte, b'\n' | b'\r') || *byte == quote || *byte == escape,
        };
        if self.last_was_escape { 0 } else { bytes.iter().position(special).unwrap_or(bytes.len()) }
    }

    /// A byte after a carriage return outside of quotes.
    fn returned(&mut self, byte: u8, at: usize) -> Result<LineEnd, CopyProblem> {
        if byte == b'\n' {
            self.ending = Ending::ReturnNewline;
            return Ok(self.line(at + 1, 2));
        }
        if self.ending == Ending::ReturnNewline {
            return Err(self.literal_return());
        }
        self.ending = Ending::Return;
        Ok(self.line(at, 1))
    }

    fn quoted(&mut self, byte: u8, quote: u8, escape: u8) {
        if self.in_quotes && byte == escape {
            self.last_was_escape = !self.last_was_escape;
        }
        if byte == quote && !self.last_was_escape {
            self.in_quotes = !self.in_quotes;
        }
        if byte != escape {
            self.last_was_escape = false;
        }
        let newline = if self.ending == Ending::Newline { b'\n' } else { b'\r' };
        if self.in_quotes && byte == newline {
            self.number += 1;
        }
    }

    fn literal_return(&self) -> CopyProblem {
        CopyProblem::Malformed(match self.quotes {
            None => "literal carriage return found in data",
            Some(_) => "unquoted carriage return found in data",
        })
    }

    fn line(&mut self, at: usize, terminator: usize) -> LineEnd {
        let marker = self.marker;
        self.at_start = true;
        self.escaped = false;
        self.in_quotes = false;
        self.last_was_escape = false;
        self.marker = false;
        LineEnd { at, terminator, marker }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of some data, given in pieces of `size` bytes.
    fn lines(format: CopyFormat, data: &str, size: usize) -> Result<Vec<String>, CopyProblem> {
        let mut finder = Lines::new(&CopyOptions::of(format));
        let (mut out, mut carry) = (Vec::new(), Vec::new());
        for mut piece in data.as_bytes().chunks(size) {
            while let Some(end) = finder.next(piece)? {
                carry.extend_from_slice(&piece[..end.at]);
                piece = &piece[end.at..];
                carry.truncate(carry.len() - end.terminator);
                out.push(String::from_utf8(std::mem::take(&mut carry)).unwrap());
            }
            carry.extend_from_slice(piece);
        }
        if !carry.is_empty() {
            let end = finder.end()?;
            carry.truncate(carry.len() - end.terminator);
            out.push(String::from_utf8(carry).unwrap());
        }
        Ok(out)
    }

    #[test]
    fn every_way_to_end_a_line() {
        for size in 1..9 {
            for end in ["\n", "\r", "\r\n"] {
                let data = ["a", "b\\\nc", "", "d\\\\", "e"].join(end);
                let want = ["a", "b\\\nc", "", "d\\\\", "e"];
                assert_eq!(lines(CopyFormat::Text, &data, size).unwrap(), want, "{end:?} {size}");
                let data = ["a", "\"b\nc\r\"\"\"", "", "x\"\r\n\"y", ""].join(end);
                let want = ["a", "\"b\nc\r\"\"\"", "", "x\"\r\n\"y"];
                assert_eq!(lines(CopyFormat::Csv, &data, size).unwrap(), want, "{end:?} {size}");
            }
        }
    }

    #[test]
    fn endings_do_not_mix() {
        for (data, what) in [
            ("a\nb\rc", "literal carriage return found in data"),
            ("a\r\nb\nc", "literal newline found in data"),
            ("a\rb\nc", "literal newline found in data"),
            ("a\r\nb\rc", "literal carriage return found in data"),
            ("a\r\nb\r", "literal carriage return found in data"),
        ] {
            for size in 1..5 {
                assert_eq!(
                    lines(CopyFormat::Text, data, size),
                    Err(CopyProblem::Malformed(what)),
                    "{data:?} {size}"
                );
            }
        }
    }
}
