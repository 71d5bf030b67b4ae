//! Values of keys from rows that are compared as a whole, `(a, b) IN ((1, 2), (3, 4))`, and from arrays that are
//! unnested into rows.
//!
//! Of such rows the normalized tokens keep one value, if any: the rows are read from the text.

use std::ops::Range;

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
        let is_list = self.tokens.get(token).is_some_and(|own| own.kind == Kind::Punct);
        let values = if is_list {
            self.list_at(token).and_then(|_| self.list(token, cast, key))?
        } else {
            self.array(token, cast, key)?
        };
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

    /// Where the elements of `ARRAY[…]` begin, whose opening bracket is a token.
    fn list_at(&self, token: usize) -> Result<usize, NoValue> {
        let raw = |at: usize| self.tokens.get(at).and_then(|own| self.text.get(own.start..own.end));
        let is_array =
            token.checked_sub(1).and_then(raw).is_some_and(|word| word.eq_ignore_ascii_case(b"array"));
        let open = self.tokens.get(token).filter(|_| is_array && raw(token) == Some(b"["));
        open.map(|open| open.end).ok_or(NoValue::Unread)
    }

    /// How many elements an array of one dimension has.
    fn elements(&self, token: usize) -> Result<usize, NoValue> {
        let own = self.tokens.get(token).ok_or(NoValue::Unread)?;
        let raw = self.text.get(own.start..own.end).unwrap_or_default();
        let count = match own.kind {
            // Escapes of a literal leave commas and brackets of the array alone, and double what is in quotes.
            Kind::Text => match literal(raw, self.lex) {
                Some(text) => elements_of_text(text.as_bytes()).map(|elements| elements.len()),
                None => None,
            },
            Kind::Param => {
                let number = number(raw).ok_or(NoValue::Unread)?;
                match self.parameters.value(number).ok_or(NoValue::Parameter(number))? {
                    ParameterValue::Null => Some(0),
                    ParameterValue::Text(bytes) => elements_of_text(bytes).map(|elements| elements.len()),
                    ParameterValue::Binary(bytes) => elements_of_binary(bytes),
                }
            }
            _ => {
                let rest = self.text.get(self.list_at(token)?..).unwrap_or_default();
                cells(&mut Scanner::new(rest, self.lex), rest).map(|(cells, _)| cells.len())
            }
        };
        count.ok_or(NoValue::Unread)
    }
}

/// Where the elements of an array of one dimension are, as text and without bounds.
pub(super) fn elements_of_text(text: &[u8]) -> Option<Vec<Range<usize>>> {
    let whole = text.trim_ascii_end();
    let start = whole.len() - whole.trim_ascii_start().len() + 1;
    let inner = whole.trim_ascii_start().strip_prefix(b"{")?.strip_suffix(b"}")?;
    if inner.trim_ascii().is_empty() {
        return Some(Vec::new());
    }
    let (mut elements, mut from, mut quoted) = (Vec::new(), start, false);
    let mut bytes = inner.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next()?;
            }
            b'"' => quoted = !quoted,
            b'{' | b'}' if !quoted => return None,
            b',' if !quoted => {
                elements.push(from..start + at);
                from = start + at + 1;
            }
            _ => {}
        }
    }
    elements.push(from..start + inner.len());
    (!quoted && elements.len() <= VALUES_MAX).then_some(elements)
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
            let elements = elements_of_text(text.as_bytes());
            assert_eq!(elements.map(|elements| elements.len()), count, "{text}");
        }
        let text = r#" {1, "a,\"b" ,NULL} "#;
        let elements = elements_of_text(text.as_bytes()).unwrap();
        let elements: Vec<&str> = elements.into_iter().map(|element| &text[element]).collect();
        assert_eq!(elements, ["1", r#" "a,\"b" "#, "NULL"]);
        let one = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0, 0, 1];
        assert_eq!(elements_of_binary(&one), Some(2));
        assert_eq!(elements_of_binary(&[0; 12]), Some(0));
        assert_eq!(elements_of_binary(&[0, 0, 0, 2]), None);
        assert_eq!(elements_of_binary(&[]), None);
    }
}
