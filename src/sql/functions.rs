//! What is known of built-in functions and of keywords that look like them.
//!
//! `functions.txt` and `keywords.txt` come from PostgreSQL's catalog (`scripts/generate-functions`); the lists
//! here are what volatility does not tell.

use super::session_effects::SessionEffects;
use std::sync::LazyLock;

/// What calling a function means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The same answer anywhere.
    Read,
    /// Writes, or acts beyond the transaction.
    Write,
    /// Tells about the server.
    Node,
    /// Not built in.
    Unknown,
}

/// Volatile, but only because the answer changes, and as good on a replica.
const HARMLESS: &[&str] = &[
    "array_sample",
    "array_shuffle",
    "clock_timestamp",
    "gen_random_uuid",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "random",
    "random_normal",
    "timeofday",
    // Version 13 calls one overload volatile.
    "timezone",
    "uuidv4",
    "uuidv7",
];

/// Not volatile, yet the answer depends on the server or on its session.
const NODE: &[&str] = &[
    "inet_server_addr",
    "inet_server_port",
    "pg_backend_pid",
    "pg_backup_start_time",
    "pg_blocking_pids",
    "pg_conf_load_time",
    "pg_current_logfile",
    "pg_current_snapshot",
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "pg_get_backend_memory_contexts",
    "pg_is_in_recovery",
    "pg_is_other_temp_schema",
    "pg_is_wal_replay_paused",
    "pg_listening_channels",
    "pg_my_temp_schema",
    "pg_postmaster_start_time",
    "pg_safe_snapshot_blocking_pids",
    "pg_sequence_last_value",
    "pg_show_all_settings",
    "pg_xact_status",
    "row_security_active",
    "txid_current",
    "txid_current_if_assigned",
    "txid_current_snapshot",
    "txid_status",
];

/// The same for whole families.
const NODE_PREFIXES: &[&str] = &[
    "pg_control_",
    "pg_cursor",
    "pg_current_wal_",
    "pg_get_publication_",
    "pg_get_replication_",
    "pg_get_shmem_",
    "pg_get_wal_",
    "pg_last_",
    "pg_lock_",
    "pg_ls_",
    "pg_prepared_",
    "pg_show_replication_",
    "pg_stat_",
    "pg_wal",
];

/// Act, though PostgreSQL may call them stable, or succeed on a standby where the act would be lost.
const WRITE_PREFIXES: &[&str] = &["lo_", "loread", "lowrite", "dblink", "pg_advisory_", "pg_try_advisory_"];

static FUNCTIONS: LazyLock<Vec<(&'static str, u8)>> = LazyLock::new(|| lines(include_str!("functions.txt")));
static KEYWORDS: LazyLock<Vec<(&'static str, u8)>> = LazyLock::new(|| lines(include_str!("keywords.txt")));

fn lines(text: &'static str) -> Vec<(&'static str, u8)> {
    text.lines()
        .filter_map(|l| l.split_once(' '))
        .filter_map(|(n, k)| Some((n, *k.as_bytes().first()?)))
        .collect()
}

fn find(table: &[(&'static str, u8)], name: &str) -> Option<u8> {
    table.binary_search_by(|(n, _)| (*n).cmp(name)).ok().map(|at| table[at].1)
}

/// The meaning of a function of `pg_catalog`.
pub fn builtin(name: &str) -> Meaning {
    let Some(volatility) = find(&FUNCTIONS, name) else { return Meaning::Unknown };
    let starts = |prefixes: &[&str]| prefixes.iter().any(|p| name.starts_with(p));
    if name.starts_with("query_to_xml") {
        // Runs whatever its text says.
        Meaning::Write
    } else if HARMLESS.contains(&name) {
        Meaning::Read
    } else if starts(WRITE_PREFIXES) {
        Meaning::Write
    } else if NODE.contains(&name) || starts(NODE_PREFIXES) {
        // A volatile one may act as well (`pg_stat_reset`): both go to the primary, but a human wants to know.
        if volatility == b'v' && name.contains("reset") { Meaning::Write } else { Meaning::Node }
    } else if volatility == b'v' {
        Meaning::Write
    } else {
        Meaning::Read
    }
}

/// What calling it leaves in the session.
pub(super) fn session_effects(name: &str) -> SessionEffects {
    match name {
        "pg_notify" => SessionEffects::NOTIFY,
        "pg_listening_channels" => SessionEffects::SHOWS_LISTENING,
        "currval" | "lastval" => SessionEffects::SEQUENCE_VALUE,
        "set_config" => SessionEffects::SETTING,
        _ if name.starts_with("query_to_xml") => SessionEffects::UNKNOWN_PROCEDURE,
        // Stays until the connection ends.
        _ if name.starts_with("pg_replication_origin_session_") => SessionEffects::LOAD,
        _ if name.starts_with("pg_advisory_unlock") => SessionEffects::ADVISORY_UNLOCK,
        _ if name.contains("advisory_xact_lock") => SessionEffects::NONE,
        _ if name.starts_with("pg_advisory_lock") || name.starts_with("pg_try_advisory_lock") => {
            SessionEffects::ADVISORY_LOCK
        }
        _ => SessionEffects::NONE,
    }
}

/// True if the function, though it acts, changes nothing a read of a table would show.
pub(super) fn writes_no_table(name: &str) -> bool {
    matches!(name, "nextval" | "currval" | "lastval" | "setval" | "set_config" | "pg_notify")
        || name.contains("advisory_")
}

/// True if the function reads tables that the text names only in a literal.
pub(super) fn reads_unnamed_tables(name: &str) -> bool {
    name.contains("_to_xml")
}

/// How the grammar treats a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keyword {
    /// None of the grammar's words.
    No,
    /// May be any name.
    Unreserved,
    /// May not be a function or type.
    ColumnName,
    /// May be a function or type.
    FunctionOrType,
    /// May be no name at all.
    Reserved,
}

/// Looks a lower-case word up.
pub(super) fn keyword(word: &[u8]) -> Keyword {
    let Ok(word) = std::str::from_utf8(word) else { return Keyword::No };
    match find(&KEYWORDS, word) {
        Some(b'U') => Keyword::Unreserved,
        Some(b'C') => Keyword::ColumnName,
        Some(b'T') => Keyword::FunctionOrType,
        Some(_) => Keyword::Reserved,
        None => Keyword::No,
    }
}

/// A view (or a sequence's column) that shows the state of the server it is read on.
pub(super) fn node_relation(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "last_value",
        "pg_backend_memory_contexts",
        "pg_cursors",
        "pg_file_settings",
        "pg_hba_file_rules",
        "pg_locks",
        "pg_ident_file_mappings",
        "pg_prepared_statements",
        "pg_prepared_xacts",
        "pg_replication_origin_status",
        "pg_replication_slots",
        "pg_sequences",
        "pg_settings",
        "pg_shmem_allocations",
        "pg_shmem_allocations_numa",
        "pg_aios",
    ];
    name.starts_with("pg_stat_") || name.starts_with("pg_statio_") || NAMES.contains(&name)
}

/// A setting whose value differs between a primary and its replicas.
pub(super) fn node_setting(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "all",
        "config_file",
        "data_directory",
        "default_transaction_read_only",
        "external_pid_file",
        "hba_file",
        "hot_standby",
        "hot_standby_feedback",
        "ident_file",
        "in_hot_standby",
        "listen_addresses",
        "port",
        "primary_conninfo",
        "primary_slot_name",
        "restore_command",
        "synchronous_standby_names",
        "transaction_deferrable",
        "transaction_isolation",
        "transaction_read_only",
        "unix_socket_directories",
        "wal_receiver_create_temp_slot",
    ];
    NAMES.contains(&name) || name.starts_with("recovery_") || name.starts_with("pgweir.")
}

/// Whether a word in lower case is a keyword of any kind.
pub(super) fn is_keyword(word: &str) -> bool {
    KEYWORDS.binary_search_by(|(known, _)| (*known).cmp(word)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_full() {
        assert!(FUNCTIONS.len() > 2500 && FUNCTIONS.is_sorted());
        assert!(KEYWORDS.len() > 400 && KEYWORDS.is_sorted());
    }

    #[test]
    fn meanings() {
        for (name, meaning) in [
            ("lower", Meaning::Read),
            ("random", Meaning::Read),
            ("nextval", Meaning::Write),
            ("pg_try_advisory_xact_lock", Meaning::Write),
            ("pg_is_in_recovery", Meaning::Node),
            ("pg_stat_reset", Meaning::Write),
            ("pg_stat_get_activity", Meaning::Node),
            ("my_function", Meaning::Unknown),
        ] {
            assert_eq!(builtin(name), meaning, "{name}");
        }
    }
}
