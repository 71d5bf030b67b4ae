//! Tables with typed columns, as the console answers them.

use bytes::BytesMut;

use crate::protocol::backend::{self, Column};

/// The types that PgBouncer's console uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// text
    Text,
    /// int4
    Int4,
    /// int8
    Int8,
    /// numeric
    Numeric,
}

impl ColumnType {
    /// OID and size as in `pg_type`.
    fn oid_and_len(self) -> (u32, i16) {
        match self {
            Self::Text => (25, -1),
            Self::Int4 => (23, 4),
            Self::Int8 => (20, 8),
            Self::Numeric => (1700, -1),
        }
    }
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// NULL.
    Null,
    /// Text.
    Text(String),
    /// A number of any of the types.
    Number(i64),
}

impl Cell {
    /// A text.
    pub fn text(value: impl Into<String>) -> Self {
        Self::Text(value.into())
    }

    /// A count.
    pub fn count(value: u64) -> Self {
        Self::Number(i64::try_from(value).unwrap_or(i64::MAX))
    }

    /// A size or length.
    pub fn size(value: usize) -> Self {
        Self::count(value as u64)
    }

    /// 0 or 1.
    pub fn flag(value: bool) -> Self {
        Self::Number(i64::from(value))
    }

    fn encode(&self, column: ColumnType, binary: bool) -> Option<Vec<u8>> {
        match self {
            Self::Null => None,
            Self::Text(text) => Some(text.clone().into_bytes()),
            Self::Number(number) if !binary => Some(number.to_string().into_bytes()),
            Self::Number(number) => Some(match column {
                ColumnType::Int4 => i32::try_from(*number).unwrap_or(i32::MAX).to_be_bytes().to_vec(),
                ColumnType::Int8 => number.to_be_bytes().to_vec(),
                ColumnType::Numeric => numeric(*number),
                ColumnType::Text => number.to_string().into_bytes(),
            }),
        }
    }
}

/// PostgreSQL's binary numeric: digits to the base of 10,000.
fn numeric(number: i64) -> Vec<u8> {
    let mut digits = Vec::new();
    let mut rest = number.unsigned_abs();
    while rest > 0 {
        digits.push((rest % 10_000) as u16);
        rest /= 10_000;
    }
    let weight = digits.len().saturating_sub(1) as u16;
    // Zeros at the end are left out.
    let trailing = digits.iter().take_while(|digit| **digit == 0).count();
    let digits: Vec<_> = digits.into_iter().skip(trailing).rev().collect();
    let sign: u16 = if number < 0 { 0x4000 } else { 0 };
    let header = [digits.len() as u16, weight, sign, 0];
    header.into_iter().chain(digits).flat_map(u16::to_be_bytes).collect()
}

/// Columns and rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    columns: Vec<(&'static str, ColumnType)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: &[(&'static str, ColumnType)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, which must have a value for each column.
    pub fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.columns.len(), "a value for each column");
        self.rows.push(row);
    }

    /// Names and types of the columns.
    pub fn columns(&self) -> &[(&'static str, ColumnType)] {
        &self.columns
    }

    /// The rows.
    pub fn rows(&self) -> &[Vec<Cell>] {
        &self.rows
    }

    /// Appends RowDescription. `is_binary` tells the format of a column by its index.
    pub fn describe(&self, out: &mut BytesMut, is_binary: impl Fn(usize) -> bool) {
        let columns: Vec<_> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, (name, kind))| {
                let (type_oid, type_len) = kind.oid_and_len();
                Column { name, type_oid, type_len, format: i16::from(is_binary(index)) }
            })
            .collect();
        backend::row_description(out, &columns);
    }

    /// Appends the rows from `from` on, at most `limit` of them; says how many there were.
    pub fn write_rows(
        &self,
        out: &mut BytesMut,
        from: usize,
        limit: usize,
        is_binary: impl Fn(usize) -> bool,
    ) -> usize {
        let rows = self.rows.iter().skip(from).take(limit);
        let mut written = 0;
        for row in rows {
            let values: Vec<_> = row
                .iter()
                .zip(&self.columns)
                .enumerate()
                .map(|(index, (cell, (_, kind)))| cell.encode(*kind, is_binary(index)))
                .collect();
            backend::data_row(out, values.iter().map(Option::as_deref));
            written += 1;
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_binary() {
        assert_eq!(Cell::Number(7).encode(ColumnType::Int4, true), Some(vec![0, 0, 0, 7]));
        assert_eq!(Cell::Number(7).encode(ColumnType::Int8, true), Some(vec![0, 0, 0, 0, 0, 0, 0, 7]));
        let bytes = |values: &[u16]| values.iter().flat_map(|v| v.to_be_bytes()).collect::<Vec<u8>>();
        assert_eq!(numeric(0), bytes(&[0, 0, 0, 0]));
        assert_eq!(numeric(12_345), bytes(&[2, 1, 0, 0, 1, 2345]));
        assert_eq!(numeric(10_000), bytes(&[1, 1, 0, 0, 1]));
        assert_eq!(numeric(-5), bytes(&[1, 0, 0x4000, 0, 5]));
    }
}
