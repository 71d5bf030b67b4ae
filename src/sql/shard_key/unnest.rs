//! `INSERT … SELECT * FROM UNNEST (arrays)` whose rows belong to several shards: for each of them the statement with the
//! elements of its rows only.
//!
//! The arrays are literals, parameters (text or binary) or `ARRAY[…]` with a cast, of one dimension and as long as each other. A
//! literal is written anew, a parameter gets another value; elements themselves are taken over byte by byte. What keeps
//! an INSERT of VALUES whole keeps this one whole, too: see `split`.

use std::ops::Range;

use crate::shard::{KeyType, ShardNumber, ShardedSchema};

use super::super::normalize::{Collected, normalize};
use super::super::scan::{Kind, LexOptions, Scanner, Token};
use super::constant::{NoValue, Source, cells, literal, number};
use super::extract::Rows;
use super::row::elements_of_text;
use super::split::{
    Decider, PartText, RowPlace, Split, SplitPart, Use, ends_insert, is_declared, uses_behind,
};
use super::{KeyPlan, ParameterValue, Parameters, Refusal, no_value};

/// Rows that are made of arrays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unnesting {
    pub(super) rows: Rows,
    /// The tokens of the arrays, in order.
    pub(super) arrays: Vec<usize>,
    /// What the elements of the key's are cast to.
    pub(super) cast: Option<KeyType>,
    /// Why the rows cannot be divided over several shards, if so.
    pub(super) together: Option<&'static str>,
}

/// `box[]`, whose elements are separated by something else.
const BOXES: u32 = 1020;

/// An array of the statement.
struct Array<'a> {
    /// Where it stands: the literal or parameter, or what is between the brackets.
    span: Range<usize>,
    content: Content<'a>,
}

enum Content<'a> {
    /// Of a literal: its text, and where the elements are.
    Literal(String, Vec<Range<usize>>),
    /// A parameter.
    Text(u32, &'a [u8], Vec<Range<usize>>),
    /// Likewise; an element with its length.
    Binary(u32, &'a [u8], Vec<&'a [u8]>),
    /// `ARRAY[…]`: each element, and the parameters in it.
    List(Vec<(Range<usize>, Vec<Use>)>),
}

impl KeyPlan {
    /// As [`KeyPlan::split`], for rows that are made of arrays.
    pub(super) fn split_unnested(
        &self,
        unnesting: &Unnesting,
        sql: &[u8],
        lex: LexOptions,
        schema: &ShardedSchema,
        parameters: &dyn Parameters,
    ) -> Result<Option<Split>, Refusal> {
        let Unnesting { rows, arrays, cast, together } = unnesting;
        if lex.backslash_trail_bytes && !sql.is_ascii() {
            return Err(Refusal::NotUnderstood);
        }
        let mut collected = Collected::default();
        normalize(sql, lex, &mut collected, &mut ());
        let source = Source { text: sql, tokens: &collected.tokens, lex, parameters };
        let tables = schema.sharded.get(rows.group).ok_or(Refusal::NotUnderstood)?;
        let ([key], [at]) = (tables.key.as_slice(), rows.key.as_slice()) else {
            return Err(Refusal::NotUnderstood);
        };
        let unread = |none| no_value(none, &key.name, key.key_type);
        let values = source.unnested(arrays, *at, *cast, key.key_type).map_err(unread)?;
        let mut owners: Vec<ShardNumber> = Vec::with_capacity(values.len());
        for value in &values {
            let shard = tables.function.shard(&[value.as_ref()]);
            owners.push(shard.ok_or_else(|| Refusal::NoShard(key.name.clone()))?);
        }
        let mut shards = owners.clone();
        shards.sort_unstable();
        shards.dedup();
        if shards.len() < 2 {
            return Ok(None);
        }
        let refuse = |what| Err(Refusal::Together { table: rows.table.clone(), what });
        if let Some(what) = *together {
            return refuse(what);
        }
        if self.statements.len() > 1 {
            return refuse("together with other statements");
        }
        let first = arrays.first().copied().unwrap_or(0);
        if source.tokens.iter().take(first).any(|token| token.kind == Kind::Param) {
            return Err(Refusal::NotUnderstood);
        }
        let end = end_of(source, first, arrays.len()).ok_or(Refusal::NotUnderstood)?;
        if !ends_insert(sql.get(end..).unwrap_or_default(), lex) {
            return refuse("with ORDER BY, LIMIT or the like");
        }
        let read: Result<Vec<Array<'_>>, NoValue> =
            arrays.iter().map(|token| array(source, *token)).collect();
        divide(rows, source, &read.map_err(unread)?, &owners, &shards, end).map(Some)
    }
}

/// Where UNNEST (…) ends, whose first array is this token.
fn end_of(source: Source<'_>, first: usize, arrays: usize) -> Option<usize> {
    let raw = |token: &Token| source.text.get(token.start..token.end).unwrap_or_default();
    let before = source.tokens.get(..first)?;
    let word = before.iter().rposition(|token| raw(token).eq_ignore_ascii_case(b"unnest"))?;
    let open = source.tokens.get(word + 1).filter(|token| raw(token) == b"(")?;
    let text = source.text.get(open.end..)?;
    let (cells, end) = cells(&mut Scanner::new(text, source.lex), text)?;
    (cells.len() == arrays).then_some(open.end + end)
}

fn array(source: Source<'_>, token: usize) -> Result<Array<'_>, NoValue> {
    let own = source.tokens.get(token).ok_or(NoValue::Unread)?;
    let raw = source.text.get(own.start..own.end).unwrap_or_default();
    let mut span = own.start..own.end;
    let content = match own.kind {
        Kind::Text => {
            let text = literal(raw, source.lex).ok_or(NoValue::Unread)?;
            let elements = elements_of_text(text.as_bytes()).ok_or(NoValue::Unread)?;
            Content::Literal(text, elements)
        }
        Kind::Param => {
            let number = number(raw).ok_or(NoValue::Unread)?;
            // Elsewhere it would have the whole array.
            if source.uses(number) != 1 || source.parameters.declared(number) == BOXES {
                return Err(NoValue::Unread);
            }
            match source.parameters.value(number).ok_or(NoValue::Parameter(number))? {
                ParameterValue::Null => return Err(NoValue::Unread),
                ParameterValue::Text(bytes) => {
                    if !bytes.is_ascii() && !source.parameters.is_utf8() {
                        return Err(NoValue::Unread);
                    }
                    Content::Text(number, bytes, elements_of_text(bytes).ok_or(NoValue::Unread)?)
                }
                ParameterValue::Binary(bytes) => {
                    Content::Binary(number, bytes, binary_elements(bytes).ok_or(NoValue::Unread)?)
                }
            }
        }
        _ => {
            let text = source.text.get(own.end..).unwrap_or_default();
            let (cells, end) = cells(&mut Scanner::new(text, source.lex), text).ok_or(NoValue::Unread)?;
            span = own.end..own.end + end - 1;
            Content::List(list(text, own.end, &cells).ok_or(NoValue::Unread)?)
        }
    };
    Ok(Array { span, content })
}

/// The elements of `ARRAY[…]`, whose text begins at `base`.
fn list(text: &[u8], base: usize, cells: &[Vec<Token>]) -> Option<Vec<(Range<usize>, Vec<Use>)>> {
    let element = |cell: &Vec<Token>| {
        let span = base + cell.first()?.start..base + cell.last()?.end;
        let mut uses = Vec::new();
        for token in cell.iter().filter(|token| token.kind == Kind::Param) {
            uses.push(Use {
                number: number(text.get(token.start..token.end)?)?,
                start: base + token.start,
                end: base + token.end,
                decided_by: Decider::Behind,
            });
        }
        Some((span, uses))
    };
    cells.iter().map(element).collect()
}

/// The elements of an array of one dimension in binary, each with its length in front.
fn binary_elements(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let word = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk::<4>()?));
    if word(0)? == 0 {
        return Some(Vec::new());
    }
    let count = usize::try_from(word(12)?).ok().filter(|_| word(0) == Some(1))?;
    let mut rest = bytes.get(HEAD_BYTES..)?;
    let mut elements = Vec::new();
    for _ in 0..count {
        let (length, _) = rest.split_first_chunk::<4>()?;
        // Of NULL there is the length only, -1.
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let (element, after) = rest.split_at_checked(length.checked_add(4)?)?;
        elements.push(element);
        rest = after;
    }
    rest.is_empty().then_some(elements)
}

/// Number of dimensions, whether there are NULLs, the elements' type; length and lower bound of the dimension.
const HEAD_BYTES: usize = 20;

fn divide(
    rows: &Rows,
    source: Source<'_>,
    arrays: &[Array<'_>],
    owners: &[ShardNumber],
    shards: &[ShardNumber],
    end: usize,
) -> Result<Split, Refusal> {
    if arrays.iter().any(|array| array.content.len() != owners.len()) {
        return Err(Refusal::NotUnderstood);
    }
    let behind = uses_behind(source.text, end, source.lex)?;
    let own: Vec<Use> = arrays.iter().flat_map(Array::uses).collect();
    // Those in lists have their type from the others in them, unless it is declared.
    let lists = arrays.iter().filter_map(|array| match &array.content {
        Content::List(elements) => Some(elements.iter().flat_map(|(_, uses)| uses)),
        _ => None,
    });
    if let Some(it) = lists.flatten().find(|it| !is_declared(source, it.number)) {
        return Err(Refusal::ParameterType(it.number));
    }
    let firsts = super::split::firsts(source, own.iter().chain(&behind))?;
    let mut parts = Vec::with_capacity(shards.len());
    let mut order = vec![RowPlace { part: 0, row: 0 }; owners.len()];
    for (index, shard) in shards.iter().enumerate() {
        let mine: Vec<usize> = (0..owners.len()).filter(|row| owners.get(*row) == Some(shard)).collect();
        for (place, row) in mine.iter().enumerate() {
            if let Some(of) = order.get_mut(*row) {
                *of = RowPlace { part: index, row: place };
            }
        }
        let mut text = PartText::new(*shard, source.text, 0, firsts.len());
        let mut replaced = Vec::new();
        let mut from = 0;
        for array in arrays {
            text.add(from..array.span.start, &[], &firsts, source)?;
            match &array.content {
                Content::Literal(whole, elements) => {
                    let picked = picked_text(whole.as_bytes(), elements, &mine);
                    text.push_literal(&picked);
                }
                Content::Text(number, whole, elements) => {
                    text.add(array.span.clone(), &array.uses(), &firsts, source)?;
                    replaced.push((*number, picked_text(whole, elements, &mine)));
                }
                Content::Binary(number, whole, elements) => {
                    text.add(array.span.clone(), &array.uses(), &firsts, source)?;
                    replaced.push((*number, picked_binary(whole, elements, &mine)));
                }
                Content::List(elements) => {
                    for (nth, (span, uses)) in mine.iter().filter_map(|row| elements.get(*row)).enumerate() {
                        if nth > 0 {
                            text.push(b", ");
                        }
                        text.add(span.clone(), uses, &firsts, source)?;
                    }
                }
            }
            from = array.span.end;
        }
        text.add(from..source.text.len(), &behind, &firsts, source)?;
        parts.push(SplitPart { replaced, ..text.into_part(mine.len()) });
    }
    let parameters = u32::try_from(firsts.len().saturating_sub(1)).unwrap_or(0);
    Ok(Split { table: rows.table.clone(), parts, order, returning: rows.returning, parameters })
}

impl Array<'_> {
    /// The parameters in it.
    fn uses(&self) -> Vec<Use> {
        match &self.content {
            Content::Literal(..) => Vec::new(),
            Content::Text(number, ..) | Content::Binary(number, ..) => vec![Use {
                number: *number,
                start: self.span.start,
                end: self.span.end,
                decided_by: Decider::Behind,
            }],
            Content::List(elements) => elements.iter().flat_map(|(_, uses)| uses.clone()).collect(),
        }
    }
}

impl Content<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Literal(_, elements) | Self::Text(_, _, elements) => elements.len(),
            Self::Binary(_, _, elements) => elements.len(),
            Self::List(elements) => elements.len(),
        }
    }
}

fn picked_text(whole: &[u8], elements: &[Range<usize>], rows: &[usize]) -> Vec<u8> {
    let mut picked = b"{".to_vec();
    for (nth, element) in rows.iter().filter_map(|row| elements.get(*row)).enumerate() {
        if nth > 0 {
            picked.push(b',');
        }
        picked.extend_from_slice(whole.get(element.clone()).unwrap_or_default());
    }
    picked.push(b'}');
    picked
}

fn picked_binary(whole: &[u8], elements: &[&[u8]], rows: &[usize]) -> Vec<u8> {
    let mut picked = whole.get(..12).unwrap_or_default().to_vec();
    picked.extend_from_slice(&u32::try_from(rows.len()).unwrap_or(0).to_be_bytes());
    picked.extend_from_slice(whole.get(16..HEAD_BYTES).unwrap_or_default());
    for element in rows.iter().filter_map(|row| elements.get(*row)) {
        picked.extend_from_slice(element);
    }
    picked
}
