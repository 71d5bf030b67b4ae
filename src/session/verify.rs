//! `pool.debug_check`: before a server connection goes back it is asked whether it is what we believe.
//!
//! For tests. What this finds is a bug: the connection is closed, the deviation logged and counted.

use std::collections::{BTreeMap, BTreeSet};

use crate::pool::ServerLease;

use super::client::ClientSession;
use super::error::SessionError;

/// Rows of what must not be there, and of the settings that are: kind, name, value.
const VERIFY: &str = "SELECT 's', name, pg_catalog.current_setting(name) FROM pg_catalog.pg_settings WHERE source = 'session' \
UNION ALL SELECT 's', 'role', pg_catalog.current_setting('role') WHERE pg_catalog.current_setting('role') <> 'none' \
UNION ALL SELECT 'u', pg_catalog.current_setting('session_authorization'), '' \
UNION ALL SELECT 'dirty', 'temporary object ' || relname, '' FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema() \
UNION ALL SELECT 'dirty', 'cursor ' || name, '' FROM pg_catalog.pg_cursors WHERE name <> '' \
UNION ALL SELECT 'dirty', 'advisory lock ' || objid, '' FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid() \
UNION ALL SELECT 'dirty', 'listens to ' || c, '' FROM pg_catalog.pg_listening_channels() c \
UNION ALL SELECT 'dirty', 'prepared statement ' || name, '' FROM pg_catalog.pg_prepared_statements WHERE from_sql OR name NOT LIKE 'pgweir\\_%' \
UNION ALL SELECT 'dirty', 'transaction ' || pg_catalog.pg_current_xact_id_if_assigned()::text, '' WHERE pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL";

impl ClientSession {
    /// Asks a connection that is about to go back whether it is clean.
    ///
    /// # Cancel safety
    /// A dropped future leaves the connection unclean, and so closed.
    pub(super) async fn verify(&self, lease: &mut ServerLease) -> Result<(), SessionError> {
        let rows = lease.simple_query(VERIFY).await?;
        let mut dirty = Vec::new();
        let mut settings = BTreeMap::new();
        for row in rows {
            let mut fields = row.into_iter().map(Option::unwrap_or_default);
            let mut field = || fields.next().unwrap_or_default();
            let (kind, name, value) = (field(), field(), field());
            match kind.as_str() {
                "s" => {
                    settings.insert(crate::server::normalize_name(&name), value);
                }
                "u" if name != lease.pool().target().user => {
                    settings.insert("session_authorization".to_owned(), name);
                }
                "u" => {}
                _ => dirty.push(name),
            }
        }
        if !lease.settings_uncertain {
            // Names only: we may have a value as the client wrote it. Custom settings are in no list, and those
            // of the transaction begin anew with each.
            let is_other = settings.contains_key("role") || settings.contains_key("session_authorization");
            let listed = |name: &&str| {
                let hidden = is_other && super::state::HIDDEN.contains(name);
                !(hidden || name.contains('.') || name.starts_with("transaction_"))
            };
            let believed: BTreeSet<_> = lease.settings.iter().map(|(name, _)| name).filter(listed).collect();
            let found: BTreeSet<_> = settings.keys().map(String::as_str).filter(listed).collect();
            dirty.extend(found.difference(&believed).map(|name| format!("setting {name}")));
            dirty.extend(believed.difference(&found).map(|name| format!("no setting {name}")));
        }
        if !dirty.is_empty() {
            let left = dirty.join("; ");
            tracing::error!(client = self.handle().id.0, pool = %lease.pool().key, left, "a server connection came back unclean");
            lease.pool().stats.add(|stats| &stats.dirty, 1);
            lease.mark_broken();
        }
        Ok(())
    }
}
