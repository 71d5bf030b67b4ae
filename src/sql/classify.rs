//! Tokens to effect: this is what decides whether a string may be a read.
//!
//! It looks at words where they stand and never needs the whole grammar: a statement is a read only if its
//! first word says so and nothing inside writes, locks, asks about the server, or calls what is not known.
//! In doubt it says so, and the primary answers.

use super::calls::call_at;
use super::functions::{self, Meaning};
use super::reason::EffectReason;
use super::scan::Kind;
use super::session_effects::SessionEffects;
use super::statement::{Effect, FunctionName, TableName};
use super::tokens::View;
use super::transaction::TransactionControl;
use super::utility;

/// What is decided about one statement.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) effect: Effect,
    pub(super) reason: EffectReason,
    /// The effect without regard to functions that are not built in.
    pub(super) own_effect: Effect,
    pub(super) own_reason: EffectReason,
    pub(super) session: SessionEffects,
    pub(super) control: Option<TransactionControl>,
    pub(super) is_ddl: bool,
    pub(super) functions: Vec<FunctionName>,
    pub(super) read: Vec<TableName>,
    pub(super) written: Vec<TableName>,
    /// Which tokens the parser should be shown to find the tables read, if any.
    pub(super) query: Option<(usize, usize)>,
    /// Nothing else than the tables found (here and by the parser) is touched, but for what the two below say.
    pub(super) complete: bool,
    /// No other table is read.
    pub(super) reads_complete: bool,
    /// A function that is not built in is called.
    pub(super) calls_unknown: bool,
}

impl Verdict {
    fn new() -> Self {
        Self {
            effect: Effect::Read,
            reason: EffectReason::PlainRead,
            own_effect: Effect::Read,
            own_reason: EffectReason::PlainRead,
            session: SessionEffects::NONE,
            control: None,
            is_ddl: false,
            functions: Vec::new(),
            read: Vec::new(),
            written: Vec::new(),
            query: None,
            complete: true,
            reads_complete: true,
            calls_unknown: false,
        }
    }

    /// Makes the effect at least as strict; the first reason of the strictest stays.
    pub(super) fn at_least(&mut self, effect: Effect, reason: EffectReason) {
        if effect > self.own_effect {
            self.own_effect = effect;
            self.own_reason = reason.clone();
        }
        self.called(effect, reason);
    }

    /// The same, if only a function that the catalog may know is to blame.
    fn called(&mut self, effect: Effect, reason: EffectReason) {
        if effect > self.effect {
            self.effect = effect;
            self.reason = reason;
        }
    }
}

/// Classifies one statement.
pub(super) fn classify(view: View<'_>) -> Verdict {
    let mut verdict = Verdict::new();
    statement(view, 0, &mut verdict);
    scan(view, &mut verdict);
    if verdict.effect == Effect::Unknown {
        verdict.complete = false;
    }
    verdict
}

/// The statement that begins at `at`: the whole one, or what EXPLAIN and PREPARE hold.
pub(super) fn statement(view: View<'_>, at: usize, verdict: &mut Verdict) {
    let mut first = at;
    while view.punct(first, b"(") {
        first += 1;
    }
    match view.word(first) {
        b"select" | b"values" | b"with" | b"table" => {
            verdict.query = Some((at, view.len()));
            table_command(view, verdict);
        }
        _ if first > at => unknown(view, first, verdict),
        b"insert" | b"update" | b"delete" | b"merge" => verdict.query = Some((at, view.len())),
        b"explain" if at == 0 => {
            let inner = utility::after_explain(view);
            statement(view, inner, verdict);
            verdict.control = None;
        }
        _ => {
            if !utility::statement(view, at, verdict) {
                unknown(view, at, verdict);
            }
        }
    }
}

fn unknown(view: View<'_>, at: usize, verdict: &mut Verdict) {
    let word = view.identifier(at).unwrap_or_else(|| "?".into());
    verdict.at_least(Effect::Unknown, EffectReason::UnknownStatement(word));
}

/// `TABLE t`, anywhere a query may stand: the parser does not know it.
fn table_command(view: View<'_>, verdict: &mut Verdict) {
    for at in 0..view.len() {
        let starts = at == 0
            || view.punct(at - 1, b"(")
            || matches!(view.word(at - 1), b"union" | b"all" | b"except" | b"intersect" | b"distinct");
        if starts && view.is(at, "table") {
            let at = at + 1 + usize::from(view.is(at + 1, "only"));
            match table_name(view, at) {
                Some((name, _)) => verdict.read.push(name),
                None => verdict.reads_complete = false,
            }
        }
    }
}

/// A table's name at `at`, and the position after it.
pub(super) fn table_name(view: View<'_>, at: usize) -> Option<(TableName, usize)> {
    let first = view.identifier(at)?;
    if !view.punct(at + 1, b".") {
        return Some((TableName { schema: None, name: first }, at + 1));
    }
    let name = view.identifier(at + 2)?;
    // `database.schema.table` is left alone.
    (!view.punct(at + 3, b".")).then_some((TableName { schema: Some(first), name }, at + 3))
}

/// Looks at every token for what makes any statement more than a read.
fn scan(view: View<'_>, verdict: &mut Verdict) {
    let head = utility::head(view);
    for at in 0..view.len() {
        match view.kind(at) {
            Some(Kind::Error) => verdict.at_least(Effect::Unknown, EffectReason::Unlexable),
            Some(Kind::Word) => {
                word(view, at, verdict);
                name(view, at, head, verdict);
            }
            Some(Kind::Quoted) => name(view, at, head, verdict),
            Some(Kind::UnicodeQuoted) => {
                verdict.complete = false;
                if view.punct(at + 1, b"(") {
                    name(view, at, head, verdict);
                } else {
                    // Could name a view of the server's state.
                    verdict.at_least(Effect::Write, EffectReason::SystemView("U&\"\"".into()));
                }
            }
            _ => {}
        }
    }
}

/// Words that write or lock wherever they stand, unless they stand where only a name can.
fn word(view: View<'_>, at: usize, verdict: &mut Verdict) {
    let text = view.word(at);
    match text {
        b"insert" | b"update" | b"delete" | b"merge" => {
            if let Some(keyword) = modifies(view, at) {
                let reason =
                    if at == 0 { EffectReason::Keyword(keyword) } else { EffectReason::NestedWrite(keyword) };
                verdict.at_least(Effect::Write, reason);
                target(view, at, verdict);
            }
        }
        b"into" if !is_label(view, at) && !follows_modify(view, at) => {
            verdict.at_least(Effect::Write, EffectReason::SelectInto);
            verdict.is_ddl = true;
            verdict.complete = false;
            let next = at + 1;
            if matches!(view.word(next), b"temp" | b"temporary")
                || matches!(
                    (view.word(next), view.word(next + 1)),
                    (b"local" | b"global", b"temp" | b"temporary")
                )
            {
                verdict.session.insert(SessionEffects::TEMP_OBJECT);
            }
        }
        b"for"
            if matches!(view.word(at + 1), b"update" | b"share" | b"no" | b"key") && !is_label(view, at) =>
        {
            verdict.at_least(Effect::Write, EffectReason::LockingClause);
        }
        // Their columns take expressions where nothing tells them from aliases.
        b"xmltable" | b"json_table" if view.punct(at + 1, b"(") => {
            verdict.complete = false;
            verdict.at_least(Effect::Write, EffectReason::Keyword("XMLTABLE or JSON_TABLE"));
            verdict.session.insert(SessionEffects::UNKNOWN_FUNCTION);
        }
        _ => {}
    }
}

/// The keyword, if the word at `at` begins a data-modifying statement and is not just a name.
fn modifies(view: View<'_>, at: usize) -> Option<&'static str> {
    let keyword = match view.word(at) {
        b"insert" => "INSERT",
        b"update" => "UPDATE",
        b"delete" => "DELETE",
        _ => "MERGE",
    };
    if at == 0 {
        return Some(keyword);
    }
    // These follow a fixed word; UPDATE is followed by any name.
    match keyword {
        "INSERT" | "MERGE" if !view.is(at + 1, "into") => return None,
        "DELETE" if !view.is(at + 1, "from") => return None,
        _ => {}
    }
    let previous = at - 1;
    let is_name = match view.kind(previous) {
        Some(Kind::Punct) => view.punct(previous, b".") || view.punct(previous, b","),
        Some(Kind::Operator) => true,
        // FOR UPDATE, ON UPDATE, DO UPDATE, THEN UPDATE are told by their own words.
        Some(Kind::Word) => match view.word(previous) {
            b"as" => !matches!(view.word(0), b"prepare" | b"explain" | b"create" | b"copy" | b"declare"),
            // These two are names of columns as well: `SET key UPDATE t`, `USING by DELETE FROM t`.
            b"key" => previous > 0 && view.is(previous - 1, "no"),
            b"by" => previous > 0 && matches!(view.word(previous - 1), b"group" | b"order" | b"partition"),
            b"for" | b"do" | b"then" | b"select" | b"where" | b"and" | b"or" | b"not" | b"on"
            | b"distinct" | b"when" | b"else" | b"having" | b"case" => true,
            _ => false,
        },
        _ => false,
    };
    (!is_name).then_some(keyword)
}

/// The table a data-modifying statement at `at` writes.
fn target(view: View<'_>, at: usize, verdict: &mut Verdict) {
    let mut name = at + if view.is(at, "update") { 1 } else { 2 };
    name += usize::from(view.is(name, "only"));
    match table_name(view, name) {
        Some((table, _)) => {
            if &*table.name == "pg_settings" {
                // Updating this view is SET.
                verdict.session.insert(SessionEffects::SETTING);
            }
            verdict.written.push(table);
        }
        None => verdict.complete = false,
    }
}

/// True if the reserved word can only be a label here: `AS into`, `t.for`.
fn is_label(view: View<'_>, at: usize) -> bool {
    at.checked_sub(1).is_some_and(|p| view.is(p, "as") || view.punct(p, b"."))
}

fn follows_modify(view: View<'_>, at: usize) -> bool {
    // Not a column of that name: `SELECT insert INTO x`.
    at.checked_sub(1)
        .is_some_and(|p| matches!(view.word(p), b"insert" | b"merge") && modifies(view, p).is_some())
}

/// Calls, names of the server's own views, and names in `pg_temp`.
fn name(view: View<'_>, at: usize, head: usize, verdict: &mut Verdict) {
    if view.punct(at + 1, b"(") && at >= head {
        if let Some(call) = call_at(view, at) {
            function(view, call.name, call.open, verdict);
        }
        return;
    }
    let raw = view.raw(at);
    let raw = raw.strip_prefix(b"\"").unwrap_or(raw);
    let prefix = &raw[..raw.len().min(5)];
    if !prefix.eq_ignore_ascii_case(b"last_") && !prefix[..prefix.len().min(3)].eq_ignore_ascii_case(b"pg_") {
        return;
    }
    let Some(name) = view.identifier(at) else { return };
    if (&*name == "pg_temp" || name.starts_with("pg_temp_")) && view.punct(at + 1, b".") {
        verdict.session.insert(SessionEffects::TEMP_OBJECT);
        verdict.at_least(Effect::Write, EffectReason::TempSchema);
    } else if functions::node_relation(&name) {
        verdict.at_least(Effect::Write, EffectReason::SystemView(name));
    }
}

/// Functions listed of one statement; each is looked up among those before it.
const FUNCTIONS_MAX: usize = 200;

fn function(view: View<'_>, name: Option<FunctionName>, open: usize, verdict: &mut Verdict) {
    let Some(name) = name else {
        let name = FunctionName { schema: None, name: "?".into() };
        verdict.complete = false;
        verdict.at_least(Effect::Write, EffectReason::UnknownFunction(name));
        verdict.session.insert(SessionEffects::UNKNOWN_FUNCTION);
        return;
    };
    let in_catalog = name.schema.as_deref().is_none_or(|s| s == "pg_catalog");
    let meaning = if in_catalog { functions::builtin(&name.name) } else { Meaning::Unknown };
    if in_catalog {
        verdict.session.insert(match &*name.name {
            "set_config" => set_config(view, open),
            other => functions::session_effects(other),
        });
        if functions::reads_unnamed_tables(&name.name) {
            verdict.reads_complete = false;
        }
    }
    match meaning {
        Meaning::Read if &*name.name == "current_setting" => {
            if let Some(reason) = current_setting(view, open, &name) {
                verdict.at_least(Effect::Write, reason);
            }
        }
        Meaning::Read => {}
        Meaning::Node => verdict.at_least(Effect::Write, EffectReason::NodeFunction(name.clone())),
        Meaning::Write => {
            if !functions::writes_no_table(&name.name) {
                verdict.complete = false;
            }
            verdict.at_least(Effect::Write, EffectReason::Function(name.clone()));
        }
        Meaning::Unknown => {
            verdict.calls_unknown = true;
            verdict.called(Effect::Write, EffectReason::UnknownFunction(name.clone()));
            verdict.session.insert(SessionEffects::UNKNOWN_FUNCTION);
        }
    }
    if verdict.functions.contains(&name) {
        return;
    }
    if verdict.functions.len() < FUNCTIONS_MAX {
        verdict.functions.push(name);
    } else {
        // Not listed, so the catalog cannot be asked.
        verdict.complete = false;
        if verdict.own_effect < Effect::Write {
            verdict.own_effect = Effect::Write;
            verdict.own_reason = EffectReason::UnknownFunction(name);
        }
    }
}

/// `set_config(…, true)` is local; anything that is not plainly `true` may last.
fn set_config(view: View<'_>, open: usize) -> SessionEffects {
    let local =
        view.partner(open).is_some_and(|close| view.is(close - 1, "true") && view.punct(close - 2, b","));
    if local { SessionEffects::SETTING_LOCAL } else { SessionEffects::SETTING }
}

/// Why `current_setting(…)` must be asked of the primary, if it must.
fn current_setting(view: View<'_>, open: usize, name: &FunctionName) -> Option<EffectReason> {
    let literal = view.raw(open + 1);
    let ends = view.punct(open + 2, b")") || view.punct(open + 2, b",");
    let setting = literal.strip_prefix(b"'").and_then(|l| l.strip_suffix(b"'")).filter(|l| {
        ends && view.kind(open + 1) == Some(Kind::Verbatim) && !l.iter().any(|b| matches!(b, b'\'' | b'\\'))
    });
    match setting.and_then(|s| std::str::from_utf8(s).ok()).map(str::to_ascii_lowercase) {
        Some(setting) if functions::node_setting(&setting) => Some(EffectReason::NodeSetting(setting.into())),
        Some(_) => None,
        None => Some(EffectReason::NodeFunction(name.clone())),
    }
}
