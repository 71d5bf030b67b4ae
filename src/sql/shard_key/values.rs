//! The VALUES of an INSERT among its tokens, and those of its rows that the parser need not see.
//!
//! The normalizer makes one row of rows of constants. With anything else in them (`now()`, `$1::int`) all stay,
//! and a statement of a few hundred would be longer than what the parser is given. But a row that differs from
//! an earlier one in constants only, and holds no query, has nothing to tell.

use std::collections::HashSet;
use std::ops::Range;

use super::super::scan::Kind;
use super::super::tokens::View;

/// VALUES, outside of any parentheses.
pub(super) fn values_at(view: View<'_>) -> Option<usize> {
    outside_brackets(view, |at| view.is(at, "values"))
}

/// The first such token outside of any parentheses; none if they do not match before it.
pub(super) fn outside_brackets(view: View<'_>, wanted: impl Fn(usize) -> bool) -> Option<usize> {
    let mut at = 0;
    while at < view.len() {
        if view.punct(at, b"(") {
            at = view.partner(at)?;
        } else if wanted(at) {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Rows like an earlier one, each with the comma before it.
pub(super) fn repeated_rows(view: View<'_>, values: usize) -> Vec<Range<usize>> {
    let mut repeated = Vec::new();
    let mut shapes = HashSet::new();
    let mut open = values + 1;
    while view.punct(open, b"(") {
        let Some(close) = view.partner(open) else { break };
        let is_first = open == values + 1;
        if let Some(shape) = shape(view, open, close)
            && !shapes.insert(shape)
            && !is_first
        {
            repeated.push(open - 1..close + 1);
        }
        if !view.punct(close + 1, b",") {
            break;
        }
        open = close + 2;
    }
    repeated
}

/// A row without its constants; none if it may hold a query.
fn shape(view: View<'_>, open: usize, close: usize) -> Option<Vec<u8>> {
    let mut shape = Vec::new();
    for at in open..=close {
        match view.kind(at)? {
            Kind::Text | Kind::Number | Kind::Bits | Kind::Param => shape.push(b'?'),
            Kind::Word => match view.word(at) {
                b"select" | b"values" | b"with" | b"table" => return None,
                b"null" | b"true" | b"false" | b"default" => shape.push(b'?'),
                word => shape.extend_from_slice(word),
            },
            Kind::Error => return None,
            _ => shape.extend_from_slice(view.raw(at)),
        }
        shape.push(0);
    }
    Some(shape)
}
