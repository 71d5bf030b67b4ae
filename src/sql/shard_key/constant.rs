//! Values of keys from the text: literals as PostgreSQL reads them, parameters, lists of both.
//!
//! All positions are those of the normalized tokens, so that a plan holds for every text of its fingerprint;
//! the values are read from the text itself. What was left out between two tokens when they were normalized
//! (signs, further values) is found by lexing the gap.

use std::borrow::Cow;

use crate::shard::{KeyType, KeyValue};

use super::super::scan::{Kind, LexOptions, Scanner, Token};
use super::{ParameterValue, Parameters};

/// Longest list that is read, in values.
pub(super) const VALUES_MAX: usize = 100_000;

/// A text and its normalized tokens.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) text: &'a [u8],
    pub(super) tokens: &'a [Token],
    pub(super) lex: LexOptions,
    pub(super) parameters: &'a dyn Parameters,
}

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoValue {
    /// It is not read.
    Unread,
    /// The parameter has no value yet.
    Parameter(u32),
}

/// One row of VALUES.
pub(super) struct Row<'a> {
    /// Where the text below begins in the statement.
    base: usize,
    text: &'a [u8],
    start: usize,
    end: usize,
    cells: &'a [Vec<Token>],
}

impl<'a> Row<'a> {
    /// Where it stands in the statement, parentheses included.
    pub(super) fn span(&self) -> std::ops::Range<usize> {
        self.base + self.start..self.base + self.end
    }

    /// The tokens of each value; their positions count from [`Self::base`].
    pub(super) fn cells(&self) -> &'a [Vec<Token>] {
        self.cells
    }

    /// Where the tokens' positions count from.
    pub(super) fn base(&self) -> usize {
        self.base
    }

    /// What is written from one token to another.
    pub(super) fn written(&self, first: &Token, last: &Token) -> &'a [u8] {
        self.text.get(first.start..last.end).unwrap_or_default()
    }
}

/// A value, or NULL.
pub(super) type Read = Result<Option<KeyValue>, NoValue>;

impl<'a> Source<'a> {
    fn slice(&self, from: usize, to: usize) -> &'a [u8] {
        self.text.get(from..to).unwrap_or_default()
    }

    /// Whether a word is in the text, as a token of its own.
    pub(super) fn says(&self, word: &str) -> bool {
        let mut scanner = Scanner::new(self.text, self.lex);
        while let Some(token) = scanner.next_token(&mut ()) {
            let raw = self.slice(token.start, token.end);
            if token.kind == Kind::Word && raw.eq_ignore_ascii_case(word.as_bytes()) {
                return true;
            }
        }
        false
    }

    /// Whether nothing but space and comments is between a token and its neighbours.
    fn stands_alone(&self, token: usize) -> bool {
        let Some(own) = self.tokens.get(token) else { return false };
        let before = token.checked_sub(1).and_then(|at| self.tokens.get(at)).map_or(0, |t| t.end);
        let after = self.tokens.get(token + 1).map_or(self.text.len(), |t| t.start);
        let blank = |from, to| {
            let gap = self.slice(from, to);
            gap.iter().all(|byte| *byte == b' ') || Scanner::new(gap, self.lex).next_token(&mut ()).is_none()
        };
        blank(before, own.start) && blank(own.end, after)
    }

    /// The value of one literal or parameter.
    pub(super) fn constant(&self, token: usize, negative: bool, cast: Option<KeyType>, key: KeyType) -> Read {
        let own = self.tokens.get(token).ok_or(NoValue::Unread)?;
        if !self.stands_alone(token) {
            return Err(NoValue::Unread);
        }
        self.value(own.kind, self.slice(own.start, own.end), negative, cast, key)
    }

    /// The values of the list whose opening bracket is a token.
    pub(super) fn list(
        &self,
        open: usize,
        cast: Option<KeyType>,
        key: KeyType,
    ) -> Result<Vec<Option<KeyValue>>, NoValue> {
        let start = self.tokens.get(open).ok_or(NoValue::Unread)?.end;
        let rest = self.slice(start, self.text.len());
        let mut scanner = Scanner::new(rest, self.lex);
        let (cells, _) = cells(&mut scanner, rest).ok_or(NoValue::Unread)?;
        cells.iter().map(|cell| self.cell(cell, rest, cast, key)).collect()
    }

    /// The keys of the rows that follow a token (VALUES), which must have `columns` values each.
    pub(super) fn rows(
        &self,
        values: usize,
        columns: usize,
        wanted: &[(usize, KeyType)],
    ) -> Result<Vec<Vec<Option<KeyValue>>>, NoValue> {
        let mut rows = Vec::new();
        self.each_row(values, columns, |row| {
            rows.push(self.key_of(row, wanted)?);
            Ok(())
        })?;
        Ok(rows)
    }

    /// Goes over the rows that follow a token (VALUES); returns where the last of them ends.
    pub(super) fn each_row<E: From<NoValue>>(
        &self,
        values: usize,
        columns: usize,
        mut each: impl FnMut(&Row<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let base = self.tokens.get(values).ok_or(NoValue::Unread)?.end;
        let text = self.slice(base, self.text.len());
        let mut scanner = Scanner::new(text, self.lex);
        let mut count = 0usize;
        loop {
            let open = scanner.next_token(&mut ()).ok_or(NoValue::Unread)?;
            if text.get(open.start..open.end) != Some(b"(") || count > VALUES_MAX {
                return Err(NoValue::Unread.into());
            }
            let (cells, end) = cells(&mut scanner, text).ok_or(NoValue::Unread)?;
            if cells.len() != columns {
                return Err(NoValue::Unread.into());
            }
            each(&Row { base, text, start: open.start, end, cells: &cells })?;
            count += 1;
            match scanner.next_token(&mut ()) {
                Some(token) if text.get(token.start..token.end) == Some(b",") => {}
                _ => return Ok(base + end),
            }
        }
    }

    /// How many values the first of the rows has that follow a token (VALUES).
    pub(super) fn width(&self, values: usize) -> Option<usize> {
        let text = self.slice(self.tokens.get(values)?.end, self.text.len());
        let mut scanner = Scanner::new(text, self.lex);
        let open = scanner.next_token(&mut ())?;
        if text.get(open.start..open.end) != Some(b"(") {
            return None;
        }
        cells(&mut scanner, text).map(|(cells, _)| cells.len())
    }

    /// The key of a row: the values of these columns.
    pub(super) fn key_of(
        &self,
        row: &Row<'_>,
        wanted: &[(usize, KeyType)],
    ) -> Result<Vec<Option<KeyValue>>, NoValue> {
        let value = |(column, key): &(usize, KeyType)| {
            let cell = row.cells.get(*column).ok_or(NoValue::Unread)?;
            match self.cell(cell, row.text, None, *key)? {
                Some(value) if value.may_change_when_stored(*key) => Err(NoValue::Unread),
                value => Ok(value),
            }
        };
        wanted.iter().map(value).collect()
    }

    /// `[sign] value [:: type]`.
    pub(super) fn cell(&self, cell: &[Token], text: &[u8], cast: Option<KeyType>, key: KeyType) -> Read {
        let raw = |token: &Token| text.get(token.start..token.end).unwrap_or_default();
        let (negative, cell) = match cell {
            [sign, rest @ ..] if sign.kind == Kind::Operator && raw(sign) == b"-" => (true, rest),
            [sign, rest @ ..] if sign.kind == Kind::Operator && raw(sign) == b"+" => (false, rest),
            _ => (false, cell),
        };
        let (value, rest) = cell.split_first().ok_or(NoValue::Unread)?;
        let cast = match rest {
            [] => cast,
            [colons, words @ ..] if raw(colons) == b"::" && words.iter().all(|w| w.kind == Kind::Word) => {
                let name: Vec<&str> = words.iter().filter_map(|w| std::str::from_utf8(raw(w)).ok()).collect();
                Some(cast_type(&name.join(" ")).ok_or(NoValue::Unread)?)
            }
            _ => return Err(NoValue::Unread),
        };
        self.value(value.kind, raw(value), negative, cast, key)
    }

    fn value(&self, kind: Kind, raw: &[u8], negative: bool, cast: Option<KeyType>, key: KeyType) -> Read {
        if cast.is_some_and(|cast| !key.is_compared_with(cast)) {
            return Err(NoValue::Unread);
        }
        match kind {
            Kind::Param if !negative => self.parameter(number(raw).ok_or(NoValue::Unread)?, cast, key),
            Kind::Number => {
                let digits = std::str::from_utf8(raw).map_err(|_| NoValue::Unread)?;
                let text: Cow<'_, str> = if negative { format!("-{digits}").into() } else { digits.into() };
                let natural = if key.is_integer() { KeyType::Int8 } else { key };
                let is_number = |of: KeyType| of.is_integer() || of == KeyType::Numeric;
                if !is_number(key) || cast.is_some_and(|cast| !is_number(cast)) {
                    return Err(NoValue::Unread);
                }
                as_key(cast.unwrap_or(natural), key, &text).map(Some).ok_or(NoValue::Unread)
            }
            // The normalizer takes NULL and its kin in lists for texts.
            Kind::Word | Kind::Text if raw.eq_ignore_ascii_case(b"null") => Ok(None),
            Kind::Word | Kind::Text if key == KeyType::Bool && raw.eq_ignore_ascii_case(b"true") => {
                Ok(Some(KeyValue::Bool(true)))
            }
            Kind::Word | Kind::Text if key == KeyType::Bool && raw.eq_ignore_ascii_case(b"false") => {
                Ok(Some(KeyValue::Bool(false)))
            }
            Kind::Text if !negative => {
                let text = literal(raw, self.lex).ok_or(NoValue::Unread)?;
                self.text_value(&text, cast.unwrap_or(key), key)
            }
            _ => Err(NoValue::Unread),
        }
    }

    fn text_value(&self, text: &str, of: KeyType, key: KeyType) -> Read {
        // The server hashes the bytes of its own encoding.
        if key.is_character() && !text.is_ascii() && !self.parameters.is_utf8() {
            return Err(NoValue::Unread);
        }
        as_key(of, key, text).map(Some).ok_or(NoValue::Unread)
    }

    /// What type PostgreSQL gives a parameter: the declared one, or else what it meets first.
    fn parameter_type(
        &self,
        number: u32,
        uses: impl FnOnce() -> usize,
        cast: Option<KeyType>,
        key: KeyType,
    ) -> Option<KeyType> {
        /// `unknown`, which is as good as nothing.
        const UNKNOWN: u32 = 705;
        match self.parameters.declared(number) {
            0 | UNKNOWN => {
                // Elsewhere it could be met before, and become something else.
                (uses() == 1).then(|| cast.unwrap_or(key))
            }
            oid => {
                let declared = KeyType::of_oid(oid)?;
                let fits = key.is_compared_with(declared)
                    && cast.is_none_or(|cast| cast == declared || cast.is_compared_with(declared));
                fits.then_some(declared)
            }
        }
    }

    /// How often the text uses a parameter.
    pub(super) fn uses(&self, number_wanted: u32) -> usize {
        let mut scanner = Scanner::new(self.text, self.lex);
        let mut count = 0;
        while let Some(token) = scanner.next_token(&mut ()) {
            let is_it = token.kind == Kind::Param
                && number(self.slice(token.start, token.end)) == Some(number_wanted);
            count += usize::from(is_it);
        }
        count
    }

    /// The parameter that a token is, if nothing but space is around it.
    pub(super) fn parameter_number(&self, token: usize) -> Option<u32> {
        let own = self.tokens.get(token).filter(|own| own.kind == Kind::Param && self.stands_alone(token))?;
        number(self.slice(own.start, own.end))
    }

    fn parameter(&self, number: u32, cast: Option<KeyType>, key: KeyType) -> Read {
        let of = self.parameter_type(number, || self.uses(number), cast, key).ok_or(NoValue::Unread)?;
        self.parameter_of(number, of, key)
    }

    /// The value of a parameter that the text uses so often.
    pub(super) fn parameter_used(
        &self,
        number: u32,
        uses: usize,
        cast: Option<KeyType>,
        key: KeyType,
    ) -> Read {
        let of = self.parameter_type(number, || uses, cast, key).ok_or(NoValue::Unread)?;
        self.parameter_of(number, of, key)
    }

    fn parameter_of(&self, number: u32, of: KeyType, key: KeyType) -> Read {
        match self.parameters.value(number).ok_or(NoValue::Parameter(number))? {
            ParameterValue::Null => Ok(None),
            ParameterValue::Text(bytes) => {
                let text = std::str::from_utf8(bytes).map_err(|_| NoValue::Unread)?;
                self.text_value(text, of, key)
            }
            ParameterValue::Binary(bytes) => {
                if key.is_character() && !bytes.is_ascii() && !self.parameters.is_utf8() {
                    return Err(NoValue::Unread);
                }
                let value = KeyValue::from_binary(of, bytes).ok_or(NoValue::Unread)?;
                converted(value, of, key).map(Some).ok_or(NoValue::Unread)
            }
        }
    }

    /// The elements of an array: `'{1,2}'` or a parameter.
    pub(super) fn array(
        &self,
        token: usize,
        cast: Option<KeyType>,
        key: KeyType,
    ) -> Result<Vec<Option<KeyValue>>, NoValue> {
        let own = self.tokens.get(token).ok_or(NoValue::Unread)?;
        if !self.stands_alone(token) || cast.is_some_and(|cast| !key.is_compared_with(cast)) {
            return Err(NoValue::Unread);
        }
        let raw = self.slice(own.start, own.end);
        let of = cast.unwrap_or(key);
        match own.kind {
            Kind::Text => {
                let text = literal(raw, self.lex).ok_or(NoValue::Unread)?;
                self.array_text(&text, of, key)
            }
            Kind::Param => {
                let number = number(raw).ok_or(NoValue::Unread)?;
                let declared = self.parameters.declared(number);
                let value = self.parameters.value(number).ok_or(NoValue::Parameter(number))?;
                match value {
                    ParameterValue::Null => Ok(Vec::new()),
                    ParameterValue::Text(bytes) => {
                        // Which array it is does not change how its elements are written, but a wider type
                        // would compare otherwise.
                        let known = match declared {
                            0 if self.uses(number) == 1 => Some(of),
                            oid => array_element(oid).filter(|element| key.is_compared_with(*element)),
                        };
                        let text = std::str::from_utf8(bytes).map_err(|_| NoValue::Unread)?;
                        self.array_text(text, known.ok_or(NoValue::Unread)?, key)
                    }
                    ParameterValue::Binary(bytes) => self.array_binary(bytes, key),
                }
            }
            _ => Err(NoValue::Unread),
        }
    }

    /// One dimension, elements without quotes or with plain ones.
    fn array_text(&self, text: &str, of: KeyType, key: KeyType) -> Result<Vec<Option<KeyValue>>, NoValue> {
        let inner = text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or(NoValue::Unread)?;
        if inner.contains(['{', '}', '\\']) {
            return Err(NoValue::Unread);
        }
        if inner.trim().is_empty() {
            return Ok(Vec::new());
        }
        let mut elements = Vec::new();
        for element in inner.split(',') {
            let element = element.trim();
            if element.eq_ignore_ascii_case("null") {
                elements.push(None);
                continue;
            }
            let plain = match element.strip_prefix('"') {
                // A comma in quotes has cut the element: the quotes no longer match.
                Some(rest) => rest.strip_suffix('"').filter(|rest| !rest.contains('"')),
                None => (!element.is_empty() && !element.contains('"')).then_some(element),
            };
            elements.push(self.text_value(plain.ok_or(NoValue::Unread)?, of, key)?);
        }
        Ok(elements)
    }

    /// One dimension; the elements' type is in the value.
    fn array_binary(&self, bytes: &[u8], key: KeyType) -> Result<Vec<Option<KeyValue>>, NoValue> {
        let mut rest = bytes;
        let mut word = || -> Result<u32, NoValue> {
            let (first, after) = rest.split_first_chunk::<4>().ok_or(NoValue::Unread)?;
            rest = after;
            Ok(u32::from_be_bytes(*first))
        };
        let (dimensions, _nulls, oid) = (word()?, word()?, word()?);
        let of = KeyType::of_oid(oid).filter(|of| key.is_compared_with(*of)).ok_or(NoValue::Unread)?;
        if dimensions == 0 {
            return Ok(Vec::new());
        }
        let (count, _lower) = (word()?, word()?);
        if dimensions != 1 || count as usize > VALUES_MAX {
            return Err(NoValue::Unread);
        }
        let mut elements = Vec::new();
        for _ in 0..count {
            let (length, after) = rest.split_first_chunk::<4>().ok_or(NoValue::Unread)?;
            rest = after;
            let length = i32::from_be_bytes(*length);
            let Ok(length) = usize::try_from(length) else {
                elements.push(None);
                continue;
            };
            let (element, after) = rest.split_at_checked(length).ok_or(NoValue::Unread)?;
            rest = after;
            if key.is_character() && !element.is_ascii() && !self.parameters.is_utf8() {
                return Err(NoValue::Unread);
            }
            let value = KeyValue::from_binary(of, element).and_then(|value| converted(value, of, key));
            elements.push(Some(value.ok_or(NoValue::Unread)?));
        }
        if rest.is_empty() { Ok(elements) } else { Err(NoValue::Unread) }
    }
}

/// The type a cast names, if it changes no value: `char` alone would cut to one character.
pub(super) fn cast_type(name: &str) -> Option<KeyType> {
    KeyType::named(name).filter(|of| *of != KeyType::Char || name.eq_ignore_ascii_case("bpchar"))
}

/// The values of a list up to its closing bracket, the opening one passed.
pub(super) fn cells(scanner: &mut Scanner<'_>, text: &[u8]) -> Option<(Vec<Vec<Token>>, usize)> {
    let mut cells = vec![Vec::new()];
    let mut depth = 0usize;
    loop {
        let token = scanner.next_token(&mut ())?;
        match text.get(token.start..token.end)? {
            b"(" | b"[" if token.kind == Kind::Punct => depth += 1,
            b")" | b"]" if token.kind == Kind::Punct => {
                if depth == 0 {
                    return Some((cells, token.end));
                }
                depth -= 1;
            }
            b"," if depth == 0 => {
                if cells.len() >= VALUES_MAX {
                    return None;
                }
                cells.push(Vec::new());
                continue;
            }
            _ => {}
        }
        cells.last_mut()?.push(token);
    }
}

/// The number of `$n`.
pub(super) fn number(raw: &[u8]) -> Option<u32> {
    std::str::from_utf8(raw.strip_prefix(b"$")?).ok()?.parse().ok()
}

/// The content of a literal, where its quotes are all there is to take away.
pub(super) fn literal(raw: &[u8], lex: LexOptions) -> Option<String> {
    let raw = std::str::from_utf8(raw).ok()?;
    let (escapes, body) = match raw.strip_prefix(['e', 'E']) {
        Some(body) => (true, body),
        None => (!lex.standard_conforming_strings, raw),
    };
    let inner = body.strip_prefix('\'')?.strip_suffix('\'')?;
    let text = inner.replace("''", "\u{0}");
    // A quote that is left ends one part of a literal over several lines.
    if text.contains('\'') || (escapes && text.contains('\\')) || inner.contains('\u{0}') {
        return None;
    }
    Some(text.replace('\u{0}', "'"))
}

/// A text read as one type, as a value of the key's.
fn as_key(of: KeyType, key: KeyType, text: &str) -> Option<KeyValue> {
    if of.is_character() {
        return KeyValue::from_text(key, text);
    }
    converted(KeyValue::from_text(of, text)?, of, key)
}

fn converted(value: KeyValue, of: KeyType, key: KeyType) -> Option<KeyValue> {
    match value {
        KeyValue::Integer(n) if key == KeyType::Numeric => KeyValue::from_text(key, &n.to_string()),
        KeyValue::Bytes(bytes) if of.is_character() && of != key => KeyValue::from_binary(key, &bytes),
        value => Some(value),
    }
}

/// The elements' type of an array type.
fn array_element(oid: u32) -> Option<KeyType> {
    Some(match oid {
        1005 => KeyType::Int2,
        1007 => KeyType::Int4,
        1016 => KeyType::Int8,
        1009 => KeyType::Text,
        1015 => KeyType::Varchar,
        1014 => KeyType::Char,
        2951 => KeyType::Uuid,
        1001 => KeyType::Bytea,
        1000 => KeyType::Bool,
        1182 => KeyType::Date,
        1183 => KeyType::Time,
        1115 => KeyType::Timestamp,
        1185 => KeyType::Timestamptz,
        1231 => KeyType::Numeric,
        _ => return None,
    })
}
