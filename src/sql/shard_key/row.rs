//! Values of keys from rows that are compared as a whole, `(a, b) IN ((1, 2), (3, 4))`, and from arrays that are
//! unnested into rows.
//!
//! Of such rows the normalized tokens keep one value, if any: the rows are read from the text.

use crate::shard::{KeyType, KeyValue};

use super::super::scan::{Kind, Scanner};
use super::ParameterValue;
use super::constant::{NoValue, Source, VALUES_MAX, cells, literal, number};

/// A column of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// The token of the opening bracket: that of the row, or the one around the rows.
    pub(super) open: usize,
    /// Whether there is one around them.
    pub(super) several: bool,
    /// How many columns a row has.
    pub(super) columns: usize,
    /// Which of them it is.
    pub(super) number: usize,
}

impl Source<'_> {
    /// The values of one column of rows.
    pub(super) fn column(&self, of: Column, key: KeyType) -> Result<Vec<Option<KeyValue>>, NoValue> {
        let open = self.tokens.get(of.open).ok_or(NoValue::Unread)?;
        let rest = self.text.get(if of.several { open.end } else { open.start }..).unwrap_or_default();
        let mut scanner = Scanner::new(rest, self.lex);
        let mut values = Vec::new();
        loop {
            let bracket = scanner.next_token(&mut ()).ok_or(NoValue::Unread)?;
            if rest.get(bracket.start..bracket.end) != Some(b"(") || values.len() >= VALUES_MAX {
                return Err(NoValue::Unread);
            }
            let (cells, _) = cells(&mut scanner, rest).ok_or(NoValue::Unread)?;
            // The columns on the left were counted from normalized tokens: only the same number is the same row.
            let cell = cells.get(of.number).filter(|_| cells.len() == of.columns).ok_or(NoValue::Unread)?;
            values.push(self.cell(cell, rest, None, key)?);
            if !of.several {
                return Ok(values);
            }
            let after = scanner.next_token(&mut ()).ok_or(NoValue::Unread)?;
            match rest.get(after.start..after.end) {
                Some(b",") => {}
                Some(b")") => return Ok(values),
                _ => return Err(NoValue::Unread),
            }
        }
    }

    /// The keys of rows that arrays are unnested to. All arrays must have as many elements: NULL fills up what is
    /// missing, in the key's column, too.
    pub(super) fn unnested(
        &self,
        arrays: &[usize],
        column: usize,
        cast: Option<KeyType>,
        key: KeyType,
    ) -> Result<Vec<Option<KeyValue>>, NoValue> {
        let token = *arrays.get(column).ok_or(NoValue::Unread)?;
        let values = self.array(token, cast, key)?;
        if values.iter().flatten().any(|value| value.may_change_when_stored(key)) {
            return Err(NoValue::Unread);
        }
        for array in arrays {
            if self.elements(*array)? != values.len() {
                return Err(NoValue::Unread);
            }
        }
        Ok(values)
    }

    /// How many elements an array of one dimension has.
    fn elements(&self, token: usize) -> Result<usize, NoValue> {
        let own = self.tokens.get(token).ok_or(NoValue::Unread)?;
        let raw = self.text.get(own.start..own.end).unwrap_or_default();
        let count = match own.kind {
            // Escapes of a literal leave commas and brackets of the array alone, and double what is in quotes.
            Kind::Text => match literal(raw, self.lex) {
                Some(text) => elements_of_text(text.as_bytes()),
                None => None,
            },
            Kind::Param => {
                let number = number(raw).ok_or(NoValue::Unread)?;
                match self.parameters.value(number).ok_or(NoValue::Parameter(number))? {
                    ParameterValue::Null => Some(0),
                    ParameterValue::Text(bytes) => elements_of_text(bytes),
                    ParameterValue::Binary(bytes) => elements_of_binary(bytes),
                }
            }
            _ => None,
        };
        count.ok_or(NoValue::Unread)
    }
}

/// Of an array of one dimension as text, without bounds.
fn elements_of_text(text: &[u8]) -> Option<usize> {
    let inner = text.trim_ascii().strip_prefix(b"{")?.strip_suffix(b"}")?;
    if inner.trim_ascii().is_empty() {
        return Some(0);
    }
    let (mut count, mut quoted) = (1, false);
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next()?;
            }
            b'"' => quoted = !quoted,
            b'{' | b'}' if !quoted => return None,
            b',' if !quoted => count += 1,
            _ => {}
        }
    }
    (!quoted).then_some(count)
}

/// Of an array of one dimension in binary: the number of dimensions, whether there are NULLs, the elements' type,
/// and for each dimension its length and lower bound.
fn elements_of_binary(bytes: &[u8]) -> Option<usize> {
    let word = |at: usize| bytes.get(at..)?.first_chunk::<4>().map(|word| u32::from_be_bytes(*word));
    match word(0)? {
        0 => Some(0),
        1 => usize::try_from(word(12)?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_counted() {
        for (text, count) in [
            ("{}", Some(0)),
            (" { } ", Some(0)),
            ("{1}", Some(1)),
            ("{1,NULL,3}", Some(3)),
            (r#"{"a,b",c}"#, Some(2)),
            (r#"{"a\",b",c}"#, Some(2)),
            (r"{a\,b,c}", Some(2)),
            ("{{1},{2}}", None),
            ("[0:1]={1,2}", None),
            (r#"{"a}"#, None),
            ("", None),
        ] {
            assert_eq!(elements_of_text(text.as_bytes()), count, "{text}");
        }
        let one = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0, 0, 1];
        assert_eq!(elements_of_binary(&one), Some(2));
        assert_eq!(elements_of_binary(&[0; 12]), Some(0));
        assert_eq!(elements_of_binary(&[0, 0, 0, 2]), None);
        assert_eq!(elements_of_binary(&[]), None);
    }
}
