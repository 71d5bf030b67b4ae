//! The rows of COPY … FROM STDIN, cut from the bytes of the client and given to their shards.
//!
//! [`RowSplitter`] takes CopyData payloads in pieces of any size and hands out complete rows, exactly as they
//! came, so that each shard reads with the options of the statement what it would have read of the whole. What
//! all need (the header line, binary header and trailer) goes to all. Where rows end is found as
//! PostgreSQL finds it (`lines`, `binary`); of a row only the key's columns are read (`fields`).
//!
//! Invariants: no more than one row is kept, and no more of it than `row_bytes_max`; every byte is looked at a
//! bounded number of times; a row whose shard is not certain is an error, and the COPY must fail on all shards.

mod binary;
mod error;
mod fields;
mod lines;

pub use error::{CopyError, CopyProblem};

use super::function::{ShardFunction, ShardNumber};
use super::schema::KeyColumn;
use super::value::KeyValue;
use binary::Tuples;
use fields::Field;
use lines::{LineEnd, Lines};

/// Where rows are copied to, and how they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyTarget {
    /// The table, for messages.
    pub table: String,
    /// How many columns the statement lists.
    pub columns: usize,
    /// The columns of the key, in the order they are hashed.
    pub key: Vec<CopyKey>,
    /// From key to shard.
    pub function: ShardFunction,
    /// How rows are written.
    pub options: CopyOptions,
}

/// A column of the key in the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyKey {
    /// Its place among the columns, from 0.
    pub index: usize,
    /// Name and type.
    pub column: KeyColumn,
    /// `FORCE_NOT_NULL`: the NULL string is a value.
    pub force_not_null: bool,
    /// `FORCE_NULL`: the NULL string is NULL in quotes, too.
    pub force_null: bool,
}

/// The options of a COPY that matter to rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyOptions {
    /// The format.
    pub format: CopyFormat,
    /// Between columns.
    pub delimiter: u8,
    /// What stands for NULL.
    pub null: Vec<u8>,
    /// What stands for the column's default.
    pub default: Option<Vec<u8>>,
    /// The quote of CSV.
    pub quote: u8,
    /// What goes before a quote in quotes.
    pub escape: u8,
    /// Whether the first line is no row.
    pub header: bool,
    /// The encoding of the data, if the statement names one.
    pub encoding: Option<CopyEncoding>,
}

/// The formats of COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    /// Lines with escapes.
    Text,
    /// Comma-separated values.
    Csv,
    /// PostgreSQL's binary format.
    Binary,
}

/// An encoding in which the bytes of ASCII are nothing but themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyEncoding {
    /// UTF-8.
    Utf8,
    /// Another one.
    Other,
}

impl CopyOptions {
    /// Those of a format when nothing else is said.
    pub fn of(format: CopyFormat) -> Self {
        let (delimiter, null): (u8, &[u8]) = match format {
            CopyFormat::Csv => (b',', b""),
            CopyFormat::Text | CopyFormat::Binary => (b'\t', b"\\N"),
        };
        Self {
            format,
            delimiter,
            null: null.to_vec(),
            default: None,
            quote: b'"',
            escape: b'"',
            header: false,
            encoding: None,
        }
    }
}

/// What else decides how rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopySession {
    /// Whether client and server both speak UTF-8, so that the bytes of texts are those that are stored.
    pub is_utf8: bool,
    /// Whether a line `\.` ends data in CSV, too: so it is before PostgreSQL 18.
    pub csv_ends_at_marker: bool,
    /// Longest row, in bytes.
    pub row_bytes_max: usize,
}

/// Who gets bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyTo {
    /// Every shard that takes part.
    All,
    /// One.
    Shard(ShardNumber),
}

/// Takes what is cut.
pub type CopySink<'s> = dyn FnMut(CopyTo, &[u8]) + 's;

/// Cuts the data of one COPY into rows.
#[derive(Debug)]
pub struct RowSplitter {
    keys: Keys,
    reader: Reader,
    /// The beginning of a row that is not complete.
    carry: Vec<u8>,
    row_bytes_max: usize,
}

#[derive(Debug)]
enum Reader {
    Lines(LineReader),
    Tuples(Tuples),
}

#[derive(Debug)]
struct LineReader {
    lines: Lines,
    /// The next line is the header.
    header: bool,
    /// The end marker has come: nothing behind it counts.
    ended: bool,
    csv_ends_at_marker: bool,
}

impl RowSplitter {
    /// For the data of one COPY.
    pub fn new(target: CopyTarget, session: CopySession) -> Self {
        let options = &target.options;
        let reader = match options.format {
            CopyFormat::Binary => Reader::Tuples(Tuples::new(target.columns)),
            CopyFormat::Text | CopyFormat::Csv => Reader::Lines(LineReader {
                lines: Lines::new(options),
                header: options.header,
                ended: false,
                csv_ends_at_marker: session.csv_ends_at_marker,
            }),
        };
        let is_utf8 = session.is_utf8 && options.encoding.is_none_or(|it| it == CopyEncoding::Utf8);
        Self {
            keys: Keys { target, is_utf8, scratch: Vec::new() },
            reader,
            carry: Vec::new(),
            row_bytes_max: session.row_bytes_max,
        }
    }

    /// Takes the next bytes and gives out the rows that are complete.
    ///
    /// # Errors
    /// The data is not what PostgreSQL would read, or a row's shard is not certain: the COPY must fail.
    pub fn push(&mut self, bytes: &[u8], sink: &mut CopySink<'_>) -> Result<(), CopyError> {
        self.take(bytes, sink).map_err(|problem| self.error(problem))
    }

    /// The data ends here.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self, sink: &mut CopySink<'_>) -> Result<(), CopyError> {
        self.end(sink).map_err(|problem| self.error(problem))
    }

    fn error(&self, problem: CopyProblem) -> CopyError {
        let line = match &self.reader {
            Reader::Lines(reader) => reader.lines.number(),
            Reader::Tuples(tuples) => tuples.number(),
        };
        CopyError { table: self.keys.target.table.clone(), line, problem }
    }

    fn take(&mut self, bytes: &[u8], sink: &mut CopySink<'_>) -> Result<(), CopyProblem> {
        let mut rest = bytes;
        match &mut self.reader {
            Reader::Lines(reader) => {
                while !reader.ended {
                    let Some(end) = reader.lines.next(rest)? else {
                        if self.carry.len().saturating_add(rest.len()) > self.row_bytes_max {
                            return Err(CopyProblem::RowTooLong(self.row_bytes_max));
                        }
                        self.carry.extend_from_slice(rest);
                        return Ok(());
                    };
                    let (line, after) = rest.split_at(end.at);
                    rest = after;
                    if self.carry.len().saturating_add(line.len()) > self.row_bytes_max {
                        return Err(CopyProblem::RowTooLong(self.row_bytes_max));
                    }
                    if self.carry.is_empty() {
                        reader.line(line, end, &mut self.keys, sink)?;
                    } else {
                        self.carry.extend_from_slice(line);
                        reader.line(&self.carry, end, &mut self.keys, sink)?;
                        self.carry.clear();
                    }
                }
                Ok(())
            }
            Reader::Tuples(tuples) => {
                while !rest.is_empty() {
                    let missing = tuples.needs(self.row_bytes_max)?.saturating_sub(self.carry.len());
                    let (now, after) = rest.split_at(missing.min(rest.len()));
                    rest = after;
                    self.carry.extend_from_slice(now);
                    if now.len() == missing && tuples.step(&self.carry, &mut self.keys, sink)? {
                        self.carry.clear();
                    }
                }
                Ok(())
            }
        }
    }

    fn end(&mut self, sink: &mut CopySink<'_>) -> Result<(), CopyProblem> {
        match &mut self.reader {
            Reader::Tuples(tuples) => tuples.end(self.carry.len()),
            Reader::Lines(reader) if reader.ended || self.carry.is_empty() => Ok(()),
            Reader::Lines(reader) => {
                let end = reader.lines.end()?;
                reader.line(&self.carry, end, &mut self.keys, sink)
            }
        }
    }
}

impl LineReader {
    /// A complete line, its end included.
    fn line(
        &mut self,
        line: &[u8],
        end: LineEnd,
        keys: &mut Keys,
        sink: &mut CopySink<'_>,
    ) -> Result<(), CopyProblem> {
        let content = line.get(..line.len().saturating_sub(end.terminator)).unwrap_or_default();
        let is_csv = keys.target.options.format == CopyFormat::Csv;
        if content == b"\\." && end.terminator > 0 && (!is_csv || self.csv_ends_at_marker) {
            self.ended = true;
            return Ok(());
        }
        if end.marker {
            return Err(CopyProblem::Malformed("end-of-copy marker corrupt"));
        }
        if std::mem::take(&mut self.header) {
            sink(CopyTo::All, line);
            return Ok(());
        }
        let shard = keys.of_line(content)?;
        sink(CopyTo::Shard(shard), line);
        Ok(())
    }
}

/// From rows to shards.
#[derive(Debug)]
struct Keys {
    target: CopyTarget,
    is_utf8: bool,
    /// For the fields that are read.
    scratch: Vec<u8>,
}

impl Keys {
    /// The shard of a line in text or CSV format.
    fn of_line(&mut self, line: &[u8]) -> Result<ShardNumber, CopyProblem> {
        let (target, options) = (&self.target, &self.target.options);
        let mut values: Vec<Option<KeyValue>> = vec![None; target.key.len()];
        let mut left = target.key.len();
        let (mut at, mut index) = (Some(0), 0);
        while left > 0 {
            let Some(from) = at else {
                let missing = target.key.iter().find(|key| key.index >= index);
                let name = missing.map(|key| key.column.name.clone()).unwrap_or_default();
                return Err(CopyProblem::MissingColumn(name));
            };
            let place = target.key.iter().position(|key| key.index == index);
            self.scratch.clear();
            let out = place.is_some().then_some(&mut self.scratch);
            let (field, next) = match options.format {
                CopyFormat::Csv => fields::csv(line, from, options, out)?,
                CopyFormat::Text | CopyFormat::Binary => fields::text(line, from, options, out),
            };
            if let Some(place) = place
                && let (Some(key), Some(slot)) = (target.key.get(place), values.get_mut(place))
            {
                *slot = self.read_text(key, field)?;
                left -= 1;
            }
            (at, index) = (next, index + 1);
        }
        self.shard(&values)
    }

    fn read_text(&self, key: &CopyKey, field: Field) -> Result<Option<KeyValue>, CopyProblem> {
        let null = &self.target.options.null;
        let bytes = match field {
            Field::Null if key.force_not_null => null,
            Field::Null => return Ok(None),
            Field::Default => return Err(CopyProblem::value(key)),
            Field::Value if key.force_null && self.scratch == *null => return Ok(None),
            Field::Value => &self.scratch,
        };
        if bytes.contains(&0) {
            return Err(CopyProblem::value(key));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| CopyProblem::value(key))?;
        let value = KeyValue::from_text(key.column.key_type, text);
        self.checked(key, bytes, value).map(Some)
    }

    /// A field in binary format.
    fn read_binary(&self, key: &CopyKey, field: Option<&[u8]>) -> Result<Option<KeyValue>, CopyProblem> {
        let Some(bytes) = field else { return Ok(None) };
        let value = KeyValue::from_binary(key.column.key_type, bytes);
        self.checked(key, bytes, value).map(Some)
    }

    fn checked(&self, key: &CopyKey, bytes: &[u8], value: Option<KeyValue>) -> Result<KeyValue, CopyProblem> {
        let of = key.column.key_type;
        // The server hashes the bytes of its own encoding.
        let is_known = !of.is_character() || bytes.is_ascii() || self.is_utf8;
        value
            .filter(|value| is_known && !value.may_change_when_stored(of))
            .ok_or_else(|| CopyProblem::value(key))
    }

    fn shard(&self, values: &[Option<KeyValue>]) -> Result<ShardNumber, CopyProblem> {
        let name = || self.target.key.first().map(|key| key.column.name.clone()).unwrap_or_default();
        let shard = match values {
            [value] => self.target.function.shard(&[value.as_ref()]),
            values => {
                let key: Vec<_> = values.iter().map(Option::as_ref).collect();
                self.target.function.shard(&key)
            }
        };
        shard.ok_or_else(|| CopyProblem::NoShard(name()))
    }
}
