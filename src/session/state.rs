//! What a transaction leaves behind in the session: settings are remembered, other things pin.
//!
//! The truth is on the server, so it is asked, instead of emulating savepoints, rollbacks and functions:
//! after a transaction whose statements may have left something, one query reads the settings that differ
//! from the server's own, and whether there are temporary objects, cursors, locks, listens or SQL-level
//! prepared statements. Only the most frequent case, a single constant SET that succeeded, is taken from
//! its text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::clients::PinReason;
use crate::pool::ServerLease;
use crate::protocol::parameters::Parameters;
use crate::server::{Settings, literal};
use crate::sql::{Fingerprint, LexOptions, SessionEffects, SetCommand};

use super::client::ClientSession;
use super::error::SessionError;
use super::settings::is_portable;

/// Names of custom settings that one client may use; with more, it keeps its connection.
const CUSTOM_NAMES_MAX: usize = 200;

/// Settings of a transaction: the server lists them as the session's once they were set.
const OF_TRANSACTION: &[&str] = &["transaction_isolation", "transaction_read_only", "transaction_deferrable"];

/// Settings that only a superuser sees, and can set.
pub(super) const HIDDEN: &[&str] = &["dynamic_library_path", "session_preload_libraries"];

/// What may make a setting.
pub(super) const MAY_SET: SessionEffects = SessionEffects::SETTING
    .union(SessionEffects::UNKNOWN_PROCEDURE)
    .union(SessionEffects::UNKNOWN_FUNCTION)
    .union(SessionEffects::SQL_EXECUTE)
    .union(SessionEffects::SQL_PREPARE);

/// What may leave something behind.
const ACQUIRES: SessionEffects = SessionEffects::SETTING
    .union(SessionEffects::SQL_PREPARE)
    .union(SessionEffects::SQL_EXECUTE)
    .union(SessionEffects::LISTEN)
    .union(SessionEffects::TEMP_OBJECT)
    .union(SessionEffects::HOLD_CURSOR)
    .union(SessionEffects::ADVISORY_LOCK)
    .union(SessionEffects::UNKNOWN_PROCEDURE)
    .union(SessionEffects::DEALLOCATE)
    .union(SessionEffects::DISCARD_ALL);

/// What names settings in its own text, so that a name that is not there is put together.
pub(super) const MAY_COMPOSE: SessionEffects =
    SessionEffects::SETTING.union(SessionEffects::UNKNOWN_PROCEDURE);

/// Everything a session can hold, one row each: kind, name, value. Names of the catalog are qualified,
/// since the client's search_path is in force.
const LOOK: &str = "SELECT 's', name, pg_catalog.current_setting(name) FROM pg_catalog.pg_settings WHERE source = 'session' AND name NOT LIKE 'transaction\\_%' \
UNION ALL SELECT 's', 'role', pg_catalog.current_setting('role') WHERE pg_catalog.current_setting('role') <> 'none' \
UNION ALL SELECT 'u', pg_catalog.current_setting('session_authorization'), '' \
UNION ALL SELECT 'p', 'temp', '' WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema() \
  UNION ALL SELECT 1 FROM pg_catalog.pg_type WHERE typnamespace = pg_catalog.pg_my_temp_schema() \
  UNION ALL SELECT 1 FROM pg_catalog.pg_proc WHERE pronamespace = pg_catalog.pg_my_temp_schema()) \
UNION ALL SELECT 'p', 'hold', '' WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_cursors WHERE is_holdable) \
UNION ALL SELECT 'p', 'lock', '' WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()) \
UNION ALL SELECT 'p', 'listen', '' WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_listening_channels()) \
UNION ALL SELECT 'p', 'prepare', '' WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_prepared_statements WHERE from_sql)";

impl ClientSession {
    /// Brings what is known of the session up to date after a transaction with effects on it.
    pub(super) async fn look_at_session(&mut self, lease: &mut ServerLease) -> Result<(), SessionError> {
        let effects = std::mem::take(&mut self.effects);
        if effects.contains(SessionEffects::LOAD) && !self.saw_error {
            self.set_pin(Some(PinReason::UntilDisconnect), "load", lease)?;
        }
        if let Some(set) = self.pending_set.take() {
            if !self.saw_error {
                self.settings_refused = false;
                self.remember(&set, lease);
            }
            return Ok(());
        }
        let hidden = SessionEffects::UNKNOWN_PROCEDURE.union(SessionEffects::UNKNOWN_FUNCTION);
        if effects.intersects(hidden) {
            lease.settings_uncertain = true;
        }
        let function = std::mem::take(&mut self.unknown_functions);
        let trusted = function.is_none_or(|fingerprint| self.context.harmless.is_known(fingerprint));
        let must_look = effects.intersects(ACQUIRES) || self.pin.is_some() || !trusted;
        if !must_look || self.pin_reason() == Some(PinReason::UntilDisconnect) {
            return Ok(());
        }
        let before = (self.settings.clone(), self.pin_reason());
        let cause = effects.labels().next().unwrap_or("function");
        self.look(lease, cause, effects.intersects(hidden)).await?;
        if let Some(fingerprint) = function {
            let nothing_left = (&self.settings, self.pin_reason()) == (&before.0, before.1);
            self.context.harmless.seen(fingerprint, nothing_left);
        }
        Ok(())
    }

    /// DEALLOCATE ALL and DISCARD ALL take the statements of the protocol, too, and a rollback does not bring
    /// them back.
    pub(super) fn after_deallocate(&mut self, lease: &mut ServerLease) {
        if !std::mem::take(&mut self.deallocates_all) {
            return;
        }
        let happened = std::mem::take(&mut self.deallocated_all);
        if self.saw_error && !happened {
            return;
        }
        self.statements.clear_named();
        lease.prepared.clear();
        lease.client_names.clear();
        lease.unnamed = None;
    }

    fn remember(&mut self, set: &SetCommand, lease: &mut ServerLease) {
        let name = crate::server::normalize_name(&set.name);
        if name.starts_with("transaction_") {
            // They are of the transaction that set them.
            return;
        }
        // RESET goes back to what the client asked for when it connected.
        let value = set.value.as_deref().or(self.startup.value(&name)).map(str::to_owned);
        // A custom setting that was reset is there, and empty.
        let value = value.or_else(|| name.contains('.').then(String::new));
        lease.settings = lease.settings.with(&name, value.as_deref());
        let settings = self.context.settings.intern(self.settings.with(&name, value.as_deref()));
        self.settings = if settings == lease.settings { lease.settings.clone() } else { settings };
    }

    async fn look(
        &mut self,
        lease: &mut ServerLease,
        cause: &'static str,
        in_functions: bool,
    ) -> Result<(), SessionError> {
        let known = self.settings.iter().map(|(name, _)| name).filter(|name| name.contains('.'));
        self.custom_names.extend(known.map(str::to_owned));
        if self.custom_names.len() > CUSTOM_NAMES_MAX || self.custom_names.contains(COMPOSED) {
            return self.set_pin(Some(PinReason::UntilDisconnect), cause, lease);
        }
        self.settings_refused = false;
        let rows = lease.simple_query(&look_for(&self.custom_names, in_functions)).await?;
        let mut map = BTreeMap::new();
        let mut pin = None;
        for row in rows {
            let mut fields = row.into_iter().map(Option::unwrap_or_default);
            let (kind, name, value) = (
                fields.next().unwrap_or_default(),
                fields.next().unwrap_or_default(),
                fields.next().unwrap_or_default(),
            );
            match kind.as_str() {
                // Those of a transaction, which begin anew with each.
                "s" if OF_TRANSACTION.contains(&name.as_str()) => {}
                // Bytes of another encoding than UTF-8 cannot be carried over as text.
                "s" if !is_portable(Some(&value), &lease.parameters) => {
                    pin = Some(PinReason::UntilDisconnect);
                }
                "s" => {
                    map.insert(crate::server::normalize_name(&name), value);
                }
                "u" if name != lease.pool().target().user => {
                    map.insert("session_authorization".to_owned(), name);
                }
                "p" => pin = pin.or_else(|| pin_reason(&name)),
                _ => {}
            }
        }
        if map.contains_key("role") || map.contains_key("session_authorization") {
            // Whoever the client has become does not see them, and cannot have changed them.
            for name in HIDDEN {
                if let Some(value) = lease.settings.value(name) {
                    map.entry((*name).to_owned()).or_insert_with(|| value.to_owned());
                }
            }
        }
        let found = self.context.settings.intern(Settings::from_map(map));
        lease.settings = if found == lease.settings { lease.settings.clone() } else { found };
        let wanted = self.context.settings.intern(lease.settings.or(&self.startup));
        self.settings = if wanted == lease.settings { lease.settings.clone() } else { wanted };
        // What sequences have given stays in the connection.
        let pin = pin.or_else(|| self.pin_reason().filter(|reason| *reason == PinReason::Sequence));
        self.set_pin(pin, cause, lease)
    }
}

/// Candidates for custom settings in the source of functions that make settings, and their values.
const IN_FUNCTIONS: &str = " UNION ALL SELECT 's', n, pg_catalog.current_setting(n, true) FROM (\
SELECT DISTINCT pg_catalog.lower(m[1]) n FROM pg_catalog.pg_proc, \
LATERAL pg_catalog.regexp_matches(prosrc, '([[:alpha:]_][[:alnum:]_$]*[.][[:alpha:]_][[:alnum:]_$.]*)', 'g') m \
WHERE pg_proc.oid >= 16384 AND prosrc ~* 'set_config|\\mset\\M' AND m[1] !~ '[.]([.]|$)|[.][^[:alpha:]_]' AND pg_catalog.length(m[1]) < 64) f \
WHERE pg_catalog.current_setting(n, true) <> ''";

/// The question, for these custom settings, too, and for those that functions may have made.
fn look_for(custom_names: &BTreeSet<String>, in_functions: bool) -> String {
    let mut sql = LOOK.to_owned();
    if !custom_names.is_empty() {
        let names: Vec<_> = custom_names.iter().map(|name| literal(name)).collect();
        let _ = write!(
            sql,
            " UNION ALL SELECT 's', n, pg_catalog.current_setting(n, true) \
             FROM pg_catalog.unnest(ARRAY[{}]) n WHERE pg_catalog.current_setting(n, true) IS NOT NULL",
            names.join(", ")
        );
    }
    if in_functions {
        sql.push_str(IN_FUNCTIONS);
    }
    sql
}

/// Stands for a name that is put together when the statement runs.
const COMPOSED: &str = "";

/// Collects what looks like `name.name` anywhere in `bytes`: candidates for custom settings, which the
/// server does not list. Asking for one that does not exist does no harm. A statement that `may_compose` names
/// and holds the beginning of one has settings that cannot be found.
pub(super) fn dotted_names(bytes: &[u8], may_compose: bool, names: &mut BTreeSet<String>) {
    let starts = |b: &u8| b.is_ascii_alphabetic() || *b == b'_' || *b >= 0x80;
    let part = |word: &[u8]| {
        word.first().is_some_and(starts) && word.iter().all(|b| starts(b) || b.is_ascii_digit() || *b == b'$')
    };
    let unquoted: Vec<u8>;
    let bytes = if bytes.contains(&b'"') {
        unquoted = bytes.iter().copied().filter(|b| *b != b'"').collect();
        &unquoted
    } else {
        bytes
    };
    if may_compose && bytes.windows(3).any(|w| matches!(w, [b, b'.', b'\'' | b'%'] if starts(b))) {
        names.insert(COMPOSED.to_owned());
    }
    let is_name = |b: &u8| starts(b) || b.is_ascii_digit() || matches!(b, b'$' | b'.');
    for word in bytes.split(|b| !is_name(b)).filter(|word| word.contains(&b'.') && word.len() < 128) {
        // Dollar quotes end where a name may begin.
        let word = word.strip_prefix(b"$$").unwrap_or(word);
        if word.split(|b| *b == b'.').all(part)
            && let Ok(name) = std::str::from_utf8(word)
        {
            names.insert(name.to_ascii_lowercase());
            if names.len() > CUSTOM_NAMES_MAX {
                return;
            }
        }
    }
}

/// Statements that call functions of which nothing is known, and how often they were seen to leave
/// nothing behind. After a few times they are believed, so that not each call costs a look.
#[derive(Debug, Default)]
pub struct Harmless(Mutex<HashMap<Fingerprint, u8>>);

impl Harmless {
    /// So often a statement must have left nothing.
    const TIMES: u8 = 5;
    /// Statements remembered.
    const STATEMENTS_MAX: usize = 10_000;
    /// It has left something once: never believed again.
    const NEVER: u8 = u8::MAX;

    pub(super) fn is_known(&self, fingerprint: Fingerprint) -> bool {
        self.0.lock().get(&fingerprint).is_some_and(|times| *times != Self::NEVER && *times >= Self::TIMES)
    }

    pub(super) fn seen(&self, fingerprint: Fingerprint, nothing_left: bool) {
        let mut map = self.0.lock();
        if map.len() >= Self::STATEMENTS_MAX {
            map.clear();
        }
        let times = map.entry(fingerprint).or_insert(0);
        if !nothing_left {
            *times = Self::NEVER;
        } else if *times < Self::TIMES {
            *times += 1;
        }
    }
}

fn pin_reason(name: &str) -> Option<PinReason> {
    Some(match name {
        "temp" => PinReason::TemporaryObject,
        "hold" => PinReason::HoldCursor,
        "lock" => PinReason::AdvisoryLock,
        "listen" => PinReason::Listen,
        "prepare" => PinReason::SqlPrepare,
        _ => return None,
    })
}

/// How the client's SQL is to be read, from the settings it was told.
pub(super) fn lex_options(told: &Parameters) -> LexOptions {
    const BACKSLASH_IN_CHARACTERS: &[&str] =
        &["SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "UHC", "GB18030", "JOHAB"];
    LexOptions {
        standard_conforming_strings: told.value("standard_conforming_strings") != Some("off"),
        backslash_trail_bytes: told
            .value("client_encoding")
            .is_some_and(|encoding| BACKSLASH_IN_CHARACTERS.contains(&encoding)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_custom_settings_are_found_anywhere() {
        let mut names = BTreeSet::new();
        dotted_names(b"SELECT set_config('app.Tenant', $1, false), 1.5, a..b, t.c FROM s.t WHERE x = 1.e5\0\0\x07my.name, \"q\".\"r\"", true, &mut names);
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["app.tenant", "my.name", "q.r", "s.t", "t.c"]);
        let composed = |sql: &str| {
            let mut names = BTreeSet::new();
            dotted_names(sql.as_bytes(), true, &mut names);
            names.contains(COMPOSED)
        };
        assert!(composed("SELECT set_config('app.' || x, 'y', false)"));
        assert!(composed("DO $$ BEGIN EXECUTE format('SET app.%s = 1', n); END $$"));
        assert!(!composed("SELECT set_config('app.a', t.x, false) FROM t"));
    }

    #[test]
    fn a_statement_is_believed_after_some_clean_runs_and_never_after_a_dirty_one() {
        let (harmless, cache) = (Harmless::default(), crate::sql::StatementCache::new(1 << 16));
        let fingerprint = cache.analyze(b"SELECT f(1)", LexOptions::default()).fingerprint;
        for _ in 0..Harmless::TIMES {
            assert!(!harmless.is_known(fingerprint));
            harmless.seen(fingerprint, true);
        }
        assert!(harmless.is_known(fingerprint));
        harmless.seen(fingerprint, false);
        harmless.seen(fingerprint, true);
        assert!(!harmless.is_known(fingerprint));
    }
}
