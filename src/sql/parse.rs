//! The door to `sqlparser`: tables of a query, under caps that keep any input from hurting.
//!
//! The parser is shown one query at a time, rebuilt from the normalized tokens: literals are short, lists
//! have one value, comments are gone. It never decides an effect, and its failure is a value: tables not
//! known.

use std::ops::Range;

use super::scan::Kind;
use super::tokens::View;
use sqlparser::ast::Statement;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

/// Longest text shown to the parser.
const BYTES_MAX: usize = 64 * 1024;
/// Most tokens that can make its tree deep: operators, AND, OR, NOT, UNION, casts, brackets. The tree's
/// visitor recurses once for each, and must fit a small stack.
const DEPTH_MAX: usize = 300;

/// The parsed query, if it is short enough and the parser knows it.
pub(super) fn parse(view: View<'_>) -> Option<Statement> {
    read(&rebuild(view, false, &[])?)
}

/// The same, where each literal and parameter is the number of its token in the whole text, without some tokens
/// (ranges in ascending order).
pub(super) fn parse_numbered(view: View<'_>, without: &[Range<usize>]) -> Option<Statement> {
    read(&rebuild(view, true, without)?)
}

fn read(sql: &str) -> Option<Statement> {
    let parser = Parser::new(&PostgreSqlDialect {}).with_recursion_limit(50);
    let mut statements = parser.try_with_sql(sql).ok()?.parse_statements().ok()?;
    if statements.len() == 1 { statements.pop() } else { None }
}

fn rebuild(view: View<'_>, numbered: bool, without: &[Range<usize>]) -> Option<String> {
    let mut sql = String::with_capacity(256);
    let mut depth = 0;
    let mut without = without;
    for at in 0..view.len() {
        while let Some((passed, rest)) = without.split_first()
            && passed.end <= at
        {
            without = rest;
        }
        if without.first().is_some_and(|range| range.contains(&at)) {
            continue;
        }
        let number;
        let text = match view.kind(at)? {
            kind @ (Kind::Text | Kind::Verbatim | Kind::Number | Kind::Param) if numbered => {
                let token = view.absolute(at);
                number = match kind {
                    Kind::Number => token.to_string(),
                    Kind::Param => format!("${token}"),
                    _ => format!("'{token}'"),
                };
                &number
            }
            Kind::Word => {
                // The parser takes `ONLY t` for a table called ONLY; with or without, the table is the same.
                if view.is(at, "only") && matches!(view.kind(at + 1), Some(Kind::Word | Kind::Quoted)) {
                    continue;
                }
                if deepens(view.word(at)) {
                    depth += 1;
                }
                std::str::from_utf8(view.raw(at)).ok()?
            }
            Kind::Quoted => std::str::from_utf8(view.raw(at)).ok()?,
            Kind::Text | Kind::Verbatim => "'x'",
            Kind::Bits => "X'0'",
            Kind::Number => "1",
            Kind::Param => "$1",
            Kind::Name => "n",
            Kind::Operator | Kind::Punct => {
                let raw = view.raw(at);
                depth += usize::from(!matches!(raw, b"," | b"." | b")" | b"]"));
                std::str::from_utf8(raw).ok()?
            }
            Kind::UnicodeQuoted | Kind::Error => return None,
        };
        sql.push_str(text);
        sql.push(' ');
        if depth > DEPTH_MAX || sql.len() > BYTES_MAX {
            return None;
        }
    }
    Some(sql)
}

fn deepens(word: &[u8]) -> bool {
    matches!(
        word,
        b"and"
            | b"or"
            | b"not"
            | b"union"
            | b"except"
            | b"intersect"
            | b"is"
            | b"like"
            | b"ilike"
            | b"between"
            | b"in"
            | b"collate"
            | b"at"
            | b"case"
            | b"join"
            | b"select"
            | b"isnull"
            | b"notnull"
            | b"similar"
    )
}
