//! Which names followed by `(` are calls of functions.
//!
//! A wrong "call" costs a read its replica; a missed call could cost the answer. So what is not recognized as
//! one of the grammar's other uses of `name (` is a call.

use super::functions::{Keyword, keyword};
use super::scan::Kind;
use super::statement::FunctionName;
use super::tokens::View;

/// A call found in a statement.
pub(super) struct Call {
    /// Its name; `None` if it is written in a way we do not decode.
    pub(super) name: Option<FunctionName>,
    /// Position of the opening parenthesis.
    pub(super) open: usize,
}

/// The call whose last name part stands at `at`, if it is one.
pub(super) fn call_at(view: View<'_>, at: usize) -> Option<Call> {
    let is_name = |at| matches!(view.kind(at), Some(Kind::Word | Kind::Quoted | Kind::UnicodeQuoted));
    if !is_name(at) || !view.punct(at + 1, b"(") {
        return None;
    }
    // Walk back over `schema.`.
    let mut start = at;
    while start >= 2 && view.punct(start - 1, b".") && is_name(start - 2) {
        start -= 2;
    }
    let qualified = start < at;
    let before = Before { view, at: start };
    if before.type_or_target()
        || (!qualified && (before.alias() || cte(view, at) || syntax(view, at, before)))
    {
        return None;
    }
    let name = match (view.identifier(at), at - start) {
        (Some(name), 0) => Some(FunctionName { schema: None, name }),
        (Some(name), 2) => view.identifier(start).map(|schema| FunctionName { schema: Some(schema), name }),
        // `database.schema.function`, or a name with Unicode escapes.
        _ => None,
    };
    Some(Call { name, open: at + 1 })
}

/// What stands before the name.
#[derive(Clone, Copy)]
struct Before<'a> {
    view: View<'a>,
    /// Where the name starts.
    at: usize,
}

impl<'a> Before<'a> {
    fn word(&self) -> &'a [u8] {
        self.at.checked_sub(1).map_or(b"", |p| self.view.word(p))
    }

    fn punct(&self, text: &[u8]) -> bool {
        self.at.checked_sub(1).is_some_and(|p| self.view.punct(p, text))
    }

    /// `::type(3)`, `INTO table (columns)`, `TABLESAMPLE system (10)`.
    fn type_or_target(&self) -> bool {
        let sample = || matches!(self.view.word(self.at), b"system" | b"bernoulli");
        match self.word() {
            b"into" => true,
            b"tablesample" => sample(),
            _ => self.punct(b"::"),
        }
    }

    /// `AS name (columns)`, `table name (columns)`, `(subquery) name (columns)`.
    fn alias(&self) -> bool {
        let Some(previous) = self.at.checked_sub(1) else { return false };
        match self.view.kind(previous) {
            Some(Kind::Word) => {
                let word = self.view.word(previous);
                // After a dot even a keyword is a plain name.
                let dotted = previous > 0 && self.view.punct(previous - 1, b".");
                word == b"as" || dotted || keyword(word) == Keyword::No
            }
            Some(Kind::Quoted | Kind::UnicodeQuoted) => true,
            Some(Kind::Punct) if self.view.punct(previous, b")") => {
                // A derived table or a function in FROM; not `DISTINCT ON (…) f(x)`, not `OPERATOR(…) f(x)`.
                let Some(owner) = self.view.partner(previous).and_then(|open| open.checked_sub(1)) else {
                    return false;
                };
                match self.view.kind(owner) {
                    Some(Kind::Word) => {
                        let word = self.view.word(owner);
                        matches!(word, b"from" | b"join" | b"lateral") || keyword(word) == Keyword::No
                    }
                    Some(Kind::Quoted) => true,
                    Some(Kind::Punct) => self.view.punct(owner, b","),
                    _ => false,
                }
            }
            _ => false,
        }
    }

    /// An operand ends here, so that what follows is an operator of the grammar.
    fn operand(&self) -> bool {
        let Some(previous) = self.at.checked_sub(1) else { return false };
        match self.view.kind(previous) {
            // A keyword may be a column, or ask for an expression (`LIKE f(x)`): in doubt it is not an operand.
            Some(Kind::Word) => keyword(self.view.word(previous)) == Keyword::No,
            Some(Kind::Punct) => (self.punct(b")") && !self.alias_of_on()) || self.punct(b"]"),
            Some(Kind::Operator | Kind::Error) | None => false,
            Some(_) => true,
        }
    }

    /// The word before the one before.
    fn second_word(&self) -> &'a [u8] {
        self.at.checked_sub(2).map_or(b"", |p| self.view.word(p))
    }

    /// `TABLESAMPLE method (…)` ends here.
    fn ends_sample(&self) -> bool {
        let open = self.at.checked_sub(1).and_then(|p| self.view.partner(p));
        open.and_then(|open| open.checked_sub(2)).is_some_and(|p| self.view.is(p, "tablesample"))
    }
}

/// `WITH name (columns) AS (SELECT …`, first or later in the list.
fn cte(view: View<'_>, at: usize) -> bool {
    let listed = at
        .checked_sub(1)
        .is_some_and(|p| matches!(view.word(p), b"with" | b"recursive") || view.punct(p, b","));
    let Some(close) = view.partner(at + 1) else { return false };
    let mut next = close + 1;
    if !listed || !view.is(next, "as") {
        return false;
    }
    next += 1;
    next += usize::from(view.is(next, "not"));
    next += usize::from(view.is(next, "materialized"));
    // A query, and not the column definitions of `FROM f(x) AS (a int)`.
    view.punct(next, b"(")
        // Words that no column has for a name. What modifies data is a write whatever its name is taken for.
        && (matches!(view.word(next + 1), b"select" | b"with" | b"table") || view.punct(next + 1, b"(")
            || (view.is(next + 1, "values") && view.punct(next + 2, b"(")))
}

/// A word of the grammar that takes a parenthesis.
fn syntax(view: View<'_>, at: usize, before: Before<'_>) -> bool {
    let word = view.word(at);
    if word.is_empty() {
        return false;
    }
    match keyword(word) {
        Keyword::Reserved | Keyword::ColumnName => return true,
        Keyword::No => return false,
        Keyword::FunctionOrType => {
            return match word {
                b"join" => {
                    let kinds = [&b"inner"[..], b"outer", b"left", b"right", b"full", b"cross", b"natural"];
                    before.operand() || kinds.contains(&before.word())
                }
                // `a NOT LIKE (b)`, but `NOT like(b)` is a call.
                b"like" | b"ilike" | b"similar" if before.word() == b"not" => {
                    Before { view, at: before.at - 1 }.operand()
                }
                b"like" | b"ilike" | b"similar" | b"overlaps" => before.operand(),
                _ => false,
            };
        }
        Keyword::Unreserved => {}
    }
    match word {
        b"over" | b"filter" => before.punct(b")") && !before.alias_of_on(),
        b"materialized" => {
            before.word() == b"as" || (before.word() == b"not" && before.second_word() == b"as")
        }
        b"sets" => before.word() == b"grouping",
        b"by" => matches!(before.word(), b"order" | b"group" | b"partition"),
        b"rollup" | b"cube" => {
            (before.word() == b"by" && before.second_word() == b"group")
                || (before.punct(b",") && in_group_by(view, at))
        }
        b"zone" => {
            before.word() == b"time"
                && matches!(
                    before.second_word(),
                    b"at" | b"with" | b"without" | b"set" | b"session" | b"local"
                )
        }
        b"first" | b"next" => before.word() == b"fetch",
        b"repeatable" => before.punct(b")") && before.ends_sample(),
        b"varying" => matches!(before.word(), b"character" | b"char" | b"bit" | b"nchar" | b"national"),
        b"second" => {
            before.word() == b"interval"
                || (before.word() == b"to" && matches!(before.second_word(), b"day" | b"hour" | b"minute"))
        }
        b"columns" | b"passing" | b"escape" => before.operand(),
        b"set" => before.operand() || assigns(view, at),
        b"conflict" => {
            let acts = || view.partner(at + 1).is_some_and(|close| view.is(close + 1, "do"));
            before.word() == b"on" && (view.is(0, "insert") || acts())
        }
        // `WHEN NOT MATCHED THEN INSERT (columns) VALUES …`; nothing like that can follow a call.
        b"insert" => {
            let close = view.partner(at + 1);
            before.word() == b"then"
                && close.is_some_and(|close| {
                    matches!(view.word(close + 1), b"values" | b"overriding" | b"default")
                })
        }
        b"operator" => {
            let close = view.partner(at + 1);
            close.is_some_and(|close| view.kind(close - 1) == Some(Kind::Operator))
        }
        _ => false,
    }
}

impl Before<'_> {
    /// The parenthesis before belongs to `DISTINCT ON (…)` or `OPERATOR(…)`: an expression follows.
    fn alias_of_on(&self) -> bool {
        let owner =
            self.at.checked_sub(1).and_then(|p| self.view.partner(p)).and_then(|open| open.checked_sub(1));
        owner.is_some_and(|owner| matches!(self.view.word(owner), b"on" | b"operator"))
    }
}

/// `UPDATE [ONLY] table [*] [[AS] alias] SET (columns) = …`, also as an action of ON CONFLICT or MERGE, which name
/// no table.
fn assigns(view: View<'_>, at: usize) -> bool {
    /// `ONLY ( database . schema . table ) * AS alias`
    const TARGET_MAX: usize = 11;
    if view.partner(at + 1).is_none_or(|close| view.raw(close + 1) != b"=") {
        return false;
    }
    let update = (at.saturating_sub(TARGET_MAX + 1)..at).rev().find(|p| view.is(*p, "update"));
    let Some(update) = update else { return false };
    // A lock is followed by other clauses, and these by expressions.
    if update > 0 && matches!(view.word(update - 1), b"for" | b"key") {
        return false;
    }
    let mut next = update + 1;
    if next == at {
        return true;
    }
    let is_name = |p: usize| match view.kind(p) {
        Some(Kind::Word) => keyword(view.word(p)) != Keyword::Reserved,
        kind => matches!(kind, Some(Kind::Quoted | Kind::UnicodeQuoted)),
    };
    next += usize::from(view.is(next, "only"));
    let parenthesis = view.punct(next, b"(");
    next += usize::from(parenthesis);
    if !is_name(next) {
        return false;
    }
    next += 1;
    while view.punct(next, b".") {
        next += 2;
    }
    next += usize::from(parenthesis && view.punct(next, b")"));
    next += usize::from(view.raw(next) == b"*");
    next += usize::from(view.is(next, "as"));
    next == at || (next + 1 == at && is_name(next))
}

/// True if the last clause word before `at`, at its own depth, is GROUP BY.
fn in_group_by(view: View<'_>, at: usize) -> bool {
    let mut at = at;
    // Bounded: a list of more items than this is not worth the walk.
    for _ in 0..200 {
        let Some(previous) = at.checked_sub(1) else { return false };
        at = previous;
        if view.punct(at, b")") {
            match view.partner(at) {
                Some(open) => at = open,
                None => return false,
            }
        } else if view.punct(at, b"(") {
            return false;
        } else if view.is(at, "by") {
            return at > 0 && view.is(at - 1, "group");
        } else if matches!(view.word(at), b"select" | b"from" | b"where" | b"having") {
            return false;
        }
    }
    false
}
