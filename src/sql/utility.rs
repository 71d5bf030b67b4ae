//! The statements that are neither queries nor plain data modification.

use super::classify::{self, Verdict, table_name};
use super::functions;
use super::reason::EffectReason;
use super::scan::Kind;
use super::session_effects::SessionEffects as S;
use super::statement::Effect;
use super::tokens::View;
use super::transaction::TransactionControl;

/// Where the statement begins that EXPLAIN at 0 explains.
pub(super) fn after_explain(view: View<'_>) -> usize {
    // `EXPLAIN (ANALYZE, …) statement`; a parenthesis that holds a query is the statement itself.
    if view.punct(1, b"(") && !matches!(view.word(2), b"select" | b"with" | b"values" | b"table" | b"") {
        return view.partner(1).map_or(view.len(), |close| close + 1);
    }
    let mut at = 1;
    while matches!(view.word(at), b"analyze" | b"analyse" | b"verbose") {
        at += 1;
    }
    at
}

/// How many tokens at the beginning are no expression, though a parenthesis may follow them: `EXPLAIN
/// (options)`, and the table of `COPY t (columns)`.
pub(super) fn head(view: View<'_>) -> usize {
    match view.word(0) {
        b"explain" => after_explain(view),
        b"copy" if view.punct(1, b"(") => 1,
        b"copy" => table_name(view, 1).map_or(1, |(_, after)| after),
        _ => 0,
    }
}

/// Classifies the utility statement at `at`; false if its first word is not one of them.
pub(super) fn statement(view: View<'_>, at: usize, verdict: &mut Verdict) -> bool {
    let next = view.word(at + 1);
    let mut set = |effect, keyword| verdict.at_least(effect, EffectReason::Keyword(keyword));
    match view.word(at) {
        b"begin" => transaction(view, at, "BEGIN", verdict),
        b"start" if next == b"transaction" => transaction(view, at, "START TRANSACTION", verdict),
        b"commit" | b"end" => transaction(view, at, "COMMIT", verdict),
        b"rollback" | b"abort" => transaction(view, at, "ROLLBACK", verdict),
        b"savepoint" => transaction(view, at, "SAVEPOINT", verdict),
        b"release" => transaction(view, at, "RELEASE", verdict),
        b"prepare" if next == b"transaction" => transaction(view, at, "PREPARE TRANSACTION", verdict),
        b"set" => set_statement(view, at, verdict),
        b"reset" => session(verdict, "RESET", S::SETTING),
        b"show" => show(view, at, verdict),
        b"copy" => copy(view, at, verdict),
        b"prepare" => prepare(view, at, verdict),
        b"execute" => {
            verdict.complete = false;
            session(verdict, "EXECUTE", S::SQL_EXECUTE);
        }
        b"deallocate" => session(verdict, "DEALLOCATE", S::DEALLOCATE),
        b"listen" => session(verdict, "LISTEN", S::LISTEN),
        b"unlisten" => session(verdict, "UNLISTEN", S::UNLISTEN),
        b"notify" => {
            set(Effect::Write, "NOTIFY");
            verdict.session.insert(S::NOTIFY);
        }
        b"declare" => declare(view, at, verdict),
        b"fetch" => cursor(verdict, "FETCH"),
        b"move" => cursor(verdict, "MOVE"),
        b"close" => cursor(verdict, "CLOSE"),
        b"load" => session(verdict, "LOAD", S::LOAD),
        b"discard" => {
            let what = if next == b"all" { S::DISCARD_ALL } else { S::DISCARD_OTHER };
            session(verdict, "DISCARD", what);
        }
        b"call" => procedure(verdict, "CALL"),
        b"do" => procedure(verdict, "DO"),
        b"truncate" => truncate(view, at, verdict),
        b"lock" => set(Effect::Write, "LOCK"),
        b"checkpoint" => set(Effect::Write, "CHECKPOINT"),
        b"vacuum" => maintenance(verdict, "VACUUM"),
        b"analyze" | b"analyse" => maintenance(verdict, "ANALYZE"),
        b"cluster" => maintenance(verdict, "CLUSTER"),
        b"repack" => maintenance(verdict, "REPACK"),
        b"reindex" => maintenance(verdict, "REINDEX"),
        b"refresh" => maintenance(verdict, "REFRESH"),
        b"create" => create(view, at, verdict),
        b"alter" => ddl(verdict, "ALTER"),
        b"drop" => {
            if matches!(next, b"table" | b"view" | b"sequence" | b"owned") {
                verdict.session.insert(S::DROP_MAYBE_TEMP);
            }
            ddl(verdict, "DROP");
        }
        b"comment" => ddl(verdict, "COMMENT"),
        b"grant" => ddl(verdict, "GRANT"),
        b"revoke" => ddl(verdict, "REVOKE"),
        b"security" => ddl(verdict, "SECURITY LABEL"),
        b"reassign" => ddl(verdict, "REASSIGN"),
        b"import" => ddl(verdict, "IMPORT"),
        _ => return false,
    }
    true
}

fn transaction(view: View<'_>, at: usize, keyword: &'static str, verdict: &mut Verdict) {
    // COMMIT PREPARED and its kin act on transactions of any session; they and what is not understood to its
    // end are writes.
    let control = if at == 0 { TransactionControl::read(view) } else { None };
    match control {
        None => verdict.at_least(Effect::Unknown, EffectReason::Keyword(keyword)),
        Some(
            TransactionControl::PrepareTransaction
            | TransactionControl::CommitPrepared
            | TransactionControl::RollbackPrepared,
        ) => {
            verdict.complete = false;
            verdict.at_least(Effect::Write, EffectReason::Keyword(keyword));
        }
        Some(_) => verdict.at_least(Effect::Transaction, EffectReason::Keyword(keyword)),
    }
    verdict.control = control;
}

fn session(verdict: &mut Verdict, keyword: &'static str, effects: S) {
    verdict.session.insert(effects);
    verdict.at_least(Effect::Session, EffectReason::Keyword(keyword));
}

fn cursor(verdict: &mut Verdict, keyword: &'static str) {
    verdict.complete = false;
    session(verdict, keyword, S::CURSOR);
}

fn procedure(verdict: &mut Verdict, keyword: &'static str) {
    verdict.complete = false;
    verdict.session.insert(S::UNKNOWN_PROCEDURE);
    verdict.at_least(Effect::Write, EffectReason::Keyword(keyword));
}

fn maintenance(verdict: &mut Verdict, keyword: &'static str) {
    verdict.complete = false;
    verdict.at_least(Effect::Write, EffectReason::Keyword(keyword));
}

fn ddl(verdict: &mut Verdict, keyword: &'static str) {
    verdict.complete = false;
    verdict.is_ddl = true;
    verdict.at_least(Effect::Write, EffectReason::Ddl(keyword));
}

fn create(view: View<'_>, at: usize, verdict: &mut Verdict) {
    let or_replace = if view.is(at + 1, "or") { 2 } else { 0 };
    let first = at + 1 + or_replace;
    let word = first + usize::from(matches!(view.word(first), b"local" | b"global"));
    if matches!(view.word(word), b"temp" | b"temporary") {
        verdict.session.insert(S::TEMP_OBJECT);
    }
    ddl(verdict, "CREATE");
}

fn set_statement(view: View<'_>, at: usize, verdict: &mut Verdict) {
    if at == 0
        && let Some(control) = TransactionControl::read(view)
    {
        verdict.control = Some(control);
        verdict.at_least(Effect::Transaction, EffectReason::Keyword("SET TRANSACTION"));
        return;
    }
    match (view.word(at + 1), view.word(at + 2)) {
        (b"local", _) => session(verdict, "SET LOCAL", S::SETTING_LOCAL),
        (b"constraints", second) if view.len() > at + 2 && second != b"to" => {
            session(verdict, "SET CONSTRAINTS", S::SETTING_LOCAL);
        }
        // Options of SET TRANSACTION we did not understand.
        (b"transaction", _) => verdict.at_least(Effect::Unknown, EffectReason::Keyword("SET TRANSACTION")),
        _ => session(verdict, "SET", S::SETTING),
    }
}

fn show(view: View<'_>, at: usize, verdict: &mut Verdict) {
    let mut name = String::new();
    for part in at + 1..view.len() {
        match view.identifier(part) {
            Some(word) => name.push_str(&word.to_ascii_lowercase()),
            None if view.punct(part, b".") => name.push('.'),
            None => return verdict.at_least(Effect::Unknown, EffectReason::Keyword("SHOW")),
        }
    }
    if name.is_empty() {
        return verdict.at_least(Effect::Unknown, EffectReason::Keyword("SHOW"));
    }
    if functions::node_setting(&name) || name == "transactionisolationlevel" {
        verdict.at_least(Effect::Write, EffectReason::NodeSetting(name.into()));
    }
}

/// `COPY table|(query) TO|FROM …`: reads only when the data goes to the client.
fn copy(view: View<'_>, at: usize, verdict: &mut Verdict) {
    let next = at + 1;
    let (direction, table) = if view.punct(next, b"(") {
        let Some(close) = view.partner(next) else {
            return verdict.at_least(Effect::Unknown, EffectReason::Keyword("COPY"));
        };
        verdict.query = Some((next + 1, close));
        (close + 1, None)
    } else {
        let Some((name, mut after)) = table_name(view, next) else {
            return verdict.at_least(Effect::Unknown, EffectReason::Keyword("COPY"));
        };
        if view.punct(after, b"(") {
            after = view.partner(after).map_or(view.len(), |close| close + 1);
        }
        (after, Some(name))
    };
    match (view.word(direction), view.word(direction + 1)) {
        (b"to", b"stdout") => verdict.read.extend(table),
        (b"to", b"program") => procedure(verdict, "COPY TO PROGRAM"),
        (b"to", _) if view.kind(direction + 1) == Some(Kind::Text) => {
            verdict.read.extend(table);
            verdict.at_least(Effect::Write, EffectReason::Keyword("COPY TO file"));
        }
        (b"from", _) => {
            verdict.written.extend(table);
            verdict.at_least(Effect::Write, EffectReason::Keyword("COPY FROM"));
        }
        _ => verdict.at_least(Effect::Unknown, EffectReason::Keyword("COPY")),
    }
}

/// `PREPARE name [(types)] AS statement`: a session matter; what it holds is scanned as well.
fn prepare(view: View<'_>, at: usize, verdict: &mut Verdict) {
    let mut next = at + 2;
    if view.punct(next, b"(") {
        next = view.partner(next).map_or(view.len(), |close| close + 1);
    }
    if view.is(next, "as") {
        classify::statement(view, next + 1, verdict);
    }
    session(verdict, "PREPARE", S::SQL_PREPARE);
}

/// `DECLARE name … CURSOR [WITH HOLD] FOR query`.
fn declare(view: View<'_>, at: usize, verdict: &mut Verdict) {
    session(verdict, "DECLARE", S::CURSOR);
    let Some(cursor) = (at + 2..view.len().min(at + 12)).find(|&at| view.is(at, "cursor")) else {
        return verdict.at_least(Effect::Unknown, EffectReason::Keyword("DECLARE"));
    };
    let mut next = cursor + 1;
    match (view.word(next), view.word(next + 1)) {
        (b"with", b"hold") => {
            verdict.session.insert(S::HOLD_CURSOR);
            next += 2;
        }
        (b"without", b"hold") => next += 2,
        _ => {}
    }
    if view.is(next, "for") {
        classify::statement(view, next + 1, verdict);
    } else {
        verdict.at_least(Effect::Unknown, EffectReason::Keyword("DECLARE"));
    }
}

/// `TRUNCATE [TABLE] [ONLY] a, b * [options]`.
fn truncate(view: View<'_>, at: usize, verdict: &mut Verdict) {
    verdict.at_least(Effect::Write, EffectReason::Keyword("TRUNCATE"));
    let mut next = at + 1 + usize::from(view.is(at + 1, "table"));
    loop {
        next += usize::from(view.is(next, "only"));
        let Some((name, after)) = table_name(view, next) else {
            verdict.complete = false;
            return;
        };
        verdict.written.push(name);
        next = after + usize::from(view.raw(after) == b"*");
        if !view.punct(next, b",") {
            // CASCADE reaches tables not named.
            verdict.complete &= !(next..view.len()).any(|at| view.is(at, "cascade"));
            return;
        }
        next += 1;
    }
}
