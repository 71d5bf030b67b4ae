//! Rows in binary format: lengths say where they end. The bytes of the row at hand are collected outside of
//! here; this says how many are needed next, and what to make of them.

use super::error::CopyProblem;
use super::{CopySink, CopyTo, Keys};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, length of the extension.
const HEADER: usize = 19;
/// Rows begin with object identifiers, as they did before version 12.
const WITH_OIDS: u32 = 1 << 16;

/// Where we are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Header,
    Extension,
    /// At the count of a row's fields.
    Row,
    /// At the length of a field.
    Length,
    /// In a field.
    Field,
    Trailer,
}

/// Follows rows.
#[derive(Debug)]
pub(super) struct Tuples {
    columns: usize,
    place: Place,
    /// How many bytes of the row (or header) must be there before something can be said.
    needed: usize,
    /// The fields of the row, as ranges in it; NULL is none.
    fields: Vec<Option<std::ops::Range<usize>>>,
    number: u64,
}

impl Tuples {
    pub(super) fn new(columns: usize) -> Self {
        Self { columns, place: Place::Header, needed: HEADER, fields: Vec::new(), number: 0 }
    }

    /// The number of the row that was looked at last, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number.max(1)
    }

    /// How many bytes are needed from the beginning of the row.
    pub(super) fn needs(&self, max: usize) -> Result<usize, CopyProblem> {
        if self.place == Place::Trailer {
            return Err(CopyProblem::Malformed("received copy data after EOF marker"));
        }
        if self.needed > max.max(HEADER) { Err(CopyProblem::RowTooLong(max)) } else { Ok(self.needed) }
    }

    /// Goes on with as many bytes as were needed; true if the row ends with them.
    pub(super) fn step(
        &mut self,
        row: &[u8],
        keys: &mut Keys,
        sink: &mut CopySink<'_>,
    ) -> Result<bool, CopyProblem> {
        match self.place {
            Place::Header => {
                let extension = header(row)?;
                self.needed += extension;
                self.place = Place::Extension;
                if extension > 0 { Ok(false) } else { self.step(row, keys, sink) }
            }
            Place::Extension => {
                sink(CopyTo::All, row);
                self.next_row();
                Ok(true)
            }
            Place::Row => self.count(row, sink),
            Place::Length => {
                let length = last::<4>(row).map_or(-1, i32::from_be_bytes);
                let Ok(length) = usize::try_from(length) else {
                    if length != -1 {
                        return Err(CopyProblem::Malformed("invalid field size"));
                    }
                    self.fields.push(None);
                    return self.field_ends(row, keys, sink);
                };
                self.fields.push(Some(self.needed..self.needed.saturating_add(length)));
                self.needed = self.needed.saturating_add(length);
                self.place = Place::Field;
                if length > 0 { Ok(false) } else { self.field_ends(row, keys, sink) }
            }
            Place::Field => self.field_ends(row, keys, sink),
            Place::Trailer => Err(CopyProblem::Malformed("received copy data after EOF marker")),
        }
    }

    fn count(&mut self, row: &[u8], sink: &mut CopySink<'_>) -> Result<bool, CopyProblem> {
        self.number += 1;
        let found = last::<2>(row).map_or(-1, i16::from_be_bytes);
        if found == -1 {
            self.place = Place::Trailer;
            sink(CopyTo::All, row);
            return Ok(true);
        }
        if usize::try_from(found) != Ok(self.columns) {
            return Err(CopyProblem::FieldCount { found, expected: self.columns });
        }
        self.place = Place::Length;
        self.needed += 4;
        Ok(false)
    }

    fn field_ends(
        &mut self,
        row: &[u8],
        keys: &mut Keys,
        sink: &mut CopySink<'_>,
    ) -> Result<bool, CopyProblem> {
        if self.fields.len() < self.columns {
            self.place = Place::Length;
            self.needed = self.needed.saturating_add(4);
            return Ok(false);
        }
        let mut values = Vec::with_capacity(keys.target.key.len());
        for key in &keys.target.key {
            let field = self.fields.get(key.index).cloned().flatten();
            values.push(keys.read_binary(key, field.and_then(|range| row.get(range)))?);
        }
        sink(CopyTo::Shard(keys.shard(&values)?), row);
        self.next_row();
        Ok(true)
    }

    fn next_row(&mut self) {
        self.place = Place::Row;
        self.needed = 2;
        self.fields.clear();
    }

    /// The data ends, with so many bytes of a row. The trailer may be missing.
    pub(super) fn end(&self, pending: usize) -> Result<(), CopyProblem> {
        match self.place {
            // Half a count is passed over by PostgreSQL, too.
            Place::Trailer | Place::Row => Ok(()),
            Place::Header if pending < SIGNATURE.len() => {
                Err(CopyProblem::Malformed("COPY file signature not recognized"))
            }
            Place::Header | Place::Extension => Err(CopyProblem::Malformed("invalid COPY file header")),
            Place::Length | Place::Field => Err(CopyProblem::Malformed("unexpected EOF in COPY data")),
        }
    }
}

/// The length of what extends the header.
fn header(header: &[u8]) -> Result<usize, CopyProblem> {
    if !header.starts_with(SIGNATURE) {
        return Err(CopyProblem::Malformed("COPY file signature not recognized"));
    }
    let word = |from: usize| {
        let word = header.get(from..from + 4)?.try_into().ok()?;
        Some(u32::from_be_bytes(word))
    };
    let (flags, length) = (word(11).unwrap_or(u32::MAX), word(15).unwrap_or(u32::MAX));
    if flags & WITH_OIDS != 0 {
        return Err(CopyProblem::Malformed("invalid COPY file header (WITH OIDS)"));
    }
    if flags >> 16 != 0 {
        return Err(CopyProblem::Malformed("unrecognized critical flags in COPY file header"));
    }
    usize::try_from(length.cast_signed())
        .map_err(|_| CopyProblem::Malformed("invalid COPY file header (wrong length)"))
}

fn last<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.last_chunk::<N>().copied()
}
