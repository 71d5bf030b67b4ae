//! From a text to a [`Statement`]: the work of a cache miss.

use super::classify::{Verdict, classify};
use super::fingerprint::Fingerprint;
use super::hint::Hint;
use super::mentions::Mentions;
use super::normalize::{Collected, normalize};
use super::parse::parse;
use super::reason::EffectReason;
use super::scan::LexOptions;
use super::session_effects::SessionEffects;
use super::statement::{Effect, Statement, Tables};
use super::tables::tables_read;
use super::tokens::{Text, View};

/// Most names kept of one string; beyond it the lists are not complete.
const NAMES_MAX: usize = 1_000;

/// What `sql` means; `fingerprint` and `hint` were found on the way.
pub(super) fn analyze_with(
    sql: &[u8],
    options: LexOptions,
    fingerprint: Fingerprint,
    hint: Hint,
) -> Statement {
    let mut collected = Collected::default();
    normalize(sql, options, &mut collected, &mut ());
    if collected.overflow {
        return not_looked_at(fingerprint, hint, EffectReason::TooLong);
    }
    let text = Text::new(sql, &collected.tokens);
    let mut out = Statement {
        fingerprint,
        effect: Effect::Empty,
        reason: EffectReason::Empty,
        control: None,
        session: SessionEffects::NONE,
        statement_count: 0,
        is_ddl: false,
        own_effect: Effect::Empty,
        own_reason: EffectReason::Empty,
        tables: Tables { complete: true, reads_complete: true, writes_complete: true, ..Tables::default() },
        functions: Vec::new(),
        mentions: Mentions::default(),
        hint,
    };
    for view in text.statements() {
        add(&mut out, view);
    }
    if out.statement_count != 1 {
        out.control = None;
    }
    out
}

fn add(out: &mut Statement, view: View<'_>) {
    let mut verdict = classify(view);
    if let Some((from, to)) = verdict.query {
        read_tables(view.slice(from, to), &mut verdict);
    }
    out.statement_count = out.statement_count.saturating_add(1);
    if verdict.effect > out.effect {
        out.effect = verdict.effect;
        out.reason = verdict.reason;
    }
    if verdict.own_effect > out.own_effect {
        out.own_effect = verdict.own_effect;
        out.own_reason = verdict.own_reason;
    }
    out.mentions.add(view);
    out.control = verdict.control;
    out.session.insert(verdict.session);
    out.is_ddl |= verdict.is_ddl;
    let tables = &mut out.tables;
    tables.reads_complete &= verdict.complete && verdict.reads_complete;
    tables.writes_complete &= verdict.complete;
    merge(&mut tables.read, verdict.read, &mut tables.reads_complete);
    merge(&mut tables.written, verdict.written, &mut tables.writes_complete);
    tables.complete &= tables.reads_complete && tables.writes_complete && !verdict.calls_unknown;
    let mut all = true;
    merge(&mut out.functions, verdict.functions, &mut all);
    if !all && out.own_effect < Effect::Write {
        out.own_effect = Effect::Write;
        out.own_reason = EffectReason::TooLong;
        tables.writes_complete = false;
    }
}

fn read_tables(view: View<'_>, verdict: &mut Verdict) {
    let command = view.is(0, "table") && verdict.read.len() == 1;
    match parse(view).as_ref().and_then(tables_read) {
        Some(tables) => verdict.read.extend(tables),
        // `TABLE t` alone was read from its tokens.
        None if command => {}
        None => verdict.reads_complete = false,
    }
}

fn merge<T: PartialEq>(into: &mut Vec<T>, from: Vec<T>, complete: &mut bool) {
    for name in from {
        if into.len() >= NAMES_MAX {
            *complete = false;
            return;
        }
        if !into.contains(&name) {
            into.push(name);
        }
    }
}

/// The answer about a text whose encoding we cannot read.
pub(super) fn opaque(fingerprint: Fingerprint) -> Statement {
    not_looked_at(fingerprint, Hint::default(), EffectReason::Encoding)
}

/// The primary, and it may have done anything to the session.
fn not_looked_at(fingerprint: Fingerprint, hint: Hint, reason: EffectReason) -> Statement {
    Statement {
        fingerprint,
        effect: Effect::Unknown,
        own_effect: Effect::Unknown,
        own_reason: reason.clone(),
        reason,
        control: None,
        session: SessionEffects::UNKNOWN_PROCEDURE,
        statement_count: 1,
        is_ddl: false,
        tables: Tables::default(),
        functions: Vec::new(),
        mentions: Mentions::everything(),
        hint,
    }
}
