//! What a transaction leaves behind in the session: settings are remembered, other things pin.
//!
//! The truth is on the server, so it is asked, instead of emulating savepoints, rollbacks and functions:
//! after a transaction whose statements may have left something, one query reads the settings that differ
//! from the server's own, and whether there are temporary objects, cursors, locks, listens or SQL-level
//! prepared statements. Only the most frequent case, a single constant SET that succeeded, is taken from
//! its text.

use std::collections::BTreeMap;

use crate::pool::ServerLease;
use crate::protocol::parameters::Parameters;
use crate::server::Settings;
use crate::sql::{LexOptions, SessionEffects, SetCommand};

use super::client::ClientSession;
use super::error::SessionError;

/// Why a client keeps its server connection outside transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PinReason {
    /// Temporary tables, views or sequences.
    TemporaryObject,
    /// DECLARE … WITH HOLD.
    HoldCursor,
    /// Session-level advisory locks.
    AdvisoryLock,
    /// SQL-level PREPARE.
    SqlPrepare,
    /// LISTEN.
    Listen,
    /// LOAD, or a setting that cannot be carried over: until the client disconnects.
    UntilDisconnect,
}

/// What may leave something behind.
const ACQUIRES: SessionEffects = SessionEffects::SETTING
    .union(SessionEffects::SQL_PREPARE)
    .union(SessionEffects::LISTEN)
    .union(SessionEffects::TEMP_OBJECT)
    .union(SessionEffects::HOLD_CURSOR)
    .union(SessionEffects::ADVISORY_LOCK)
    .union(SessionEffects::UNKNOWN_PROCEDURE)
    .union(SessionEffects::DEALLOCATE)
    .union(SessionEffects::DISCARD_ALL);

/// Everything a session can hold, one row each: kind, name, value. Names of the catalog are qualified,
/// since the client's search_path is in force.
const LOOK: &str = "SELECT 's', name, pg_catalog.current_setting(name) FROM pg_catalog.pg_settings WHERE source = 'session' \
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
            self.pin = Some(PinReason::UntilDisconnect);
        }
        self.after_deallocate(effects, lease);
        if let Some(set) = self.pending_set.take() {
            if !self.saw_error {
                self.remember(&set, lease);
            }
            return Ok(());
        }
        let releases = self.pin.is_some();
        if (effects.intersects(ACQUIRES) || releases) && self.pin != Some(PinReason::UntilDisconnect) {
            self.look(lease).await?;
        }
        Ok(())
    }

    /// DEALLOCATE ALL and DISCARD ALL take the statements of the protocol, too.
    fn after_deallocate(&mut self, effects: SessionEffects, lease: &mut ServerLease) {
        if !effects.intersects(SessionEffects::DEALLOCATE.union(SessionEffects::DISCARD_ALL)) {
            return;
        }
        if std::mem::take(&mut self.deallocates_all) {
            if self.saw_error {
                // Perhaps it happened before the error, perhaps not.
                lease.mark_broken();
            } else {
                self.statements.clear();
            }
            lease.prepared.clear();
            lease.unnamed = None;
        }
    }

    fn remember(&mut self, set: &SetCommand, lease: &mut ServerLease) {
        let name = crate::server::normalize_name(&set.name);
        lease.settings = lease.settings.with(&name, set.value.as_deref());
        // RESET goes back to what the client asked for when it connected.
        let value = set.value.as_deref().or(self.startup.value(&name)).map(str::to_owned);
        let settings = self.settings.with(&name, value.as_deref());
        self.settings = if settings == lease.settings { lease.settings.clone() } else { settings };
    }

    async fn look(&mut self, lease: &mut ServerLease) -> Result<(), SessionError> {
        let rows = lease.simple_query(LOOK).await?;
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
                // Bytes of another encoding than UTF-8 cannot be carried over as text.
                "s" if value.contains('\u{fffd}') => pin = Some(PinReason::UntilDisconnect),
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
        let found = Settings::from_map(map);
        lease.settings = if found == lease.settings { lease.settings.clone() } else { found };
        let wanted = lease.settings.or(&self.startup);
        self.settings = if wanted == lease.settings { lease.settings.clone() } else { wanted };
        if pin.is_some() != self.pin.is_some() {
            tracing::debug!(client = self.handle().id.0, ?pin, "session state changed");
        }
        self.pin = pin;
        Ok(())
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

/// Whether some statement of `sql` is DEALLOCATE ALL or DISCARD ALL. Asked only of strings that hold a
/// DEALLOCATE or DISCARD; a false "yes" costs prepared statements, so it looks at whole words only.
pub(super) fn is_deallocate_all(sql: &[u8]) -> bool {
    let text = String::from_utf8_lossy(sql).to_ascii_lowercase();
    text.split(';').any(|statement| {
        let words: Vec<_> = statement.split_ascii_whitespace().collect();
        words.ends_with(&["deallocate", "all"])
            || words.ends_with(&["deallocate", "prepare", "all"])
            || words.ends_with(&["discard", "all"])
    })
}

#[cfg(test)]
mod tests {
    use super::is_deallocate_all;

    #[test]
    fn all_is_told_from_a_name() {
        for yes in
            ["DEALLOCATE ALL", "deallocate prepare all;", "SELECT 1; DISCARD  ALL", "/* x */ DISCARD ALL"]
        {
            assert!(is_deallocate_all(yes.as_bytes()), "{yes}");
        }
        for no in ["DEALLOCATE alles", "DEALLOCATE p1", "DISCARD PLANS", "DEALLOCATE \"all\""] {
            assert!(!is_deallocate_all(no.as_bytes()), "{no}");
        }
    }
}
