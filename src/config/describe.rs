//! The settings as a flat list for `SHOW CONFIG`: our keys, then PgBouncer's names for what maps
//! onto them. No secret is in it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::units::{show_duration, show_size};
use super::{
    AdminSettings, AuthSettings, ClientTls, ClientTlsMode, Config, ListenAddress, ServerTls, TlsSettings,
    defaults,
};

/// One line of `SHOW CONFIG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `pool.size`, or PgBouncer's `default_pool_size`.
    pub key: &'static str,
    /// What it is.
    pub value: String,
    /// What it is when nobody says otherwise.
    pub default: String,
    /// Whether a reload changes it; otherwise it takes a restart.
    pub changeable: bool,
}

/// All settings that are not of one database or user.
pub fn describe(config: &Config) -> Vec<Setting> {
    let default = default_config();
    let zipped = [(ours(config), ours(&default)), (pgbouncers(config), pgbouncers(&default))];
    zipped
        .into_iter()
        .flat_map(|(now, default)| now.into_iter().zip(default))
        .map(|((key, value), (_, default))| Setting { key, value, default, changeable: changeable(key) })
        .collect()
}

/// What takes a restart: sockets and threads are made once.
pub(super) fn changeable(key: &str) -> bool {
    !matches!(
        key,
        "listen" | "http" | "workers" | "listen_addr" | "listen_port" | "unix_socket_dir" | "conffile"
    )
}

/// Our keys and their values, in the order of the documentation.
pub(super) fn ours(config: &Config) -> Vec<(&'static str, String)> {
    let Config { auth, tls, limits, timeouts, health, pool, routing, admin, .. } = config;
    let time = show_duration;
    let bytes = |n: usize| show_size(n as u64);
    vec![
        ("listen", joined(&config.listen)),
        ("http", config.http.map(|a| a.to_string()).unwrap_or_default()),
        ("workers", config.workers.map_or_else(|| "auto".to_owned(), |n| n.to_string())),
        ("auth.method", auth.method.as_str().to_owned()),
        ("tls.client.mode", tls.client.mode.as_str().to_owned()),
        ("tls.client.certificate", path(tls.client.certificate.as_ref())),
        ("tls.client.key", path(tls.client.key.as_ref())),
        ("tls.server.mode", tls.server.mode.as_str().to_owned()),
        ("tls.server.ca", path(tls.server.ca.as_ref())),
        ("pool.mode", pool.mode.as_str().to_owned()),
        ("pool.size", pool.size.to_string()),
        ("pool.min_size", pool.min_size.to_string()),
        ("pool.checkout_timeout", time(pool.checkout_timeout)),
        ("pool.idle_timeout", time(pool.idle_timeout)),
        ("pool.max_lifetime", time(pool.max_lifetime)),
        ("pool.prepared_statements", pool.prepared_statements.to_string()),
        ("pool.prepared_statement_memory", bytes(pool.prepared_statement_bytes)),
        ("pool.debug_rotate", pool.debug_rotate.to_string()),
        ("pool.debug_check", pool.debug_check.to_string()),
        ("limits.clients", limits.clients.to_string()),
        ("limits.clients_per_user", limits.clients_per_user.to_string()),
        ("limits.message", bytes(limits.message_bytes)),
        ("limits.statement_cache", bytes(limits.statement_cache_bytes)),
        ("limits.prepared_statements_per_client", limits.prepared_statements_per_client.to_string()),
        ("limits.prepared_statement_memory_per_client", bytes(limits.prepared_statement_bytes_per_client)),
        ("limits.pins", limits.pins.to_string()),
        ("limits.notifications_per_client", bytes(limits.notification_bytes_per_client)),
        ("limits.replication_connections", limits.replication_connections.to_string()),
        ("timeouts.client_login", time(timeouts.client_login)),
        ("timeouts.client_idle", time(timeouts.client_idle)),
        ("timeouts.idle_in_transaction", time(timeouts.idle_in_transaction)),
        ("timeouts.query", time(timeouts.query)),
        ("timeouts.transaction", time(timeouts.transaction)),
        ("timeouts.server_connect", time(timeouts.server_connect)),
        ("timeouts.shutdown", time(timeouts.shutdown)),
        ("health.interval", time(health.interval)),
        ("health.timeout", time(health.timeout)),
        ("health.recover_after", health.recover_after.to_string()),
        ("health.dns_ttl", time(health.dns_ttl)),
        ("health.user", health.user.clone().unwrap_or_default()),
        ("routing.reads", routing.reads.as_str().to_owned()),
        ("routing.consistency", routing.consistency.as_str().to_owned()),
        ("routing.zone", routing.zone.clone().unwrap_or_default()),
        ("routing.transactions", routing.transactions.as_str().to_owned()),
        ("routing.max_replica_lag", time(routing.max_replica_lag)),
        ("routing.failover_wait", time(routing.failover_wait)),
        ("routing.catalog_refresh", time(routing.catalog_refresh)),
        ("session.sequences", config.session.sequences.as_str().to_owned()),
        ("admin.users", admin.users.join(", ")),
        ("admin.stats_users", admin.stats_users.join(", ")),
    ]
}

/// PgBouncer's names and its units: seconds and bytes without a word.
fn pgbouncers(config: &Config) -> Vec<(&'static str, String)> {
    let Config { auth, tls, limits, timeouts, pool, admin, .. } = config;
    let hosts = config.listen.iter().filter_map(|l| match l {
        ListenAddress::Tcp { host, .. } => Some(host.as_str()),
        ListenAddress::Unix { .. } => None,
    });
    let sockets = config.listen.iter().filter_map(|l| match l {
        ListenAddress::Tcp { .. } => None,
        ListenAddress::Unix { directory, .. } => Some(directory),
    });
    let port = config.listen.iter().map(|l| match l {
        ListenAddress::Tcp { port, .. } | ListenAddress::Unix { port, .. } => *port,
    });
    vec![
        ("admin_users", admin.users.join(",")),
        ("auth_type", auth.method.as_str().to_owned()),
        ("client_idle_timeout", seconds(timeouts.client_idle)),
        ("client_login_timeout", seconds(timeouts.client_login)),
        ("client_tls_cert_file", path(tls.client.certificate.as_ref())),
        ("client_tls_key_file", path(tls.client.key.as_ref())),
        ("client_tls_sslmode", tls.client.mode.as_str().to_owned()),
        // Left empty: tools that find a path here open the file and expect PgBouncer's format.
        ("conffile", String::new()),
        ("default_pool_size", pool.size.to_string()),
        ("idle_transaction_timeout", seconds(timeouts.idle_in_transaction)),
        ("listen_addr", hosts.collect::<Vec<_>>().join(",")),
        ("listen_port", port.into_iter().next().unwrap_or_default().to_string()),
        ("max_client_conn", limits.clients.to_string()),
        ("max_db_connections", "0".to_owned()),
        ("max_packet_size", limits.message_bytes.to_string()),
        ("max_prepared_statements", pool.prepared_statements.to_string()),
        ("max_user_client_connections", limits.clients_per_user.to_string()),
        ("max_user_connections", "0".to_owned()),
        ("min_pool_size", pool.min_size.to_string()),
        ("pool_mode", pool.mode.as_str().to_owned()),
        ("query_timeout", seconds(timeouts.query)),
        ("query_wait_timeout", seconds(pool.checkout_timeout)),
        ("reserve_pool_size", "0".to_owned()),
        ("server_connect_timeout", seconds(timeouts.server_connect)),
        ("server_idle_timeout", seconds(pool.idle_timeout)),
        ("server_lifetime", seconds(pool.max_lifetime)),
        ("server_tls_ca_file", path(tls.server.ca.as_ref())),
        ("server_tls_sslmode", tls.server.mode.as_str().to_owned()),
        ("stats_users", admin.stats_users.join(",")),
        ("transaction_timeout", seconds(timeouts.transaction)),
        ("unix_socket_dir", sockets.map(|d| d.display().to_string()).collect::<Vec<_>>().join(",")),
    ]
}

/// A configuration in which nobody said anything.
pub(super) fn default_config() -> Config {
    Config {
        listen: vec![ListenAddress::Tcp {
            host: defaults::LISTEN_HOST.to_owned(),
            port: defaults::LISTEN_PORT,
        }],
        http: None,
        workers: None::<NonZeroUsize>,
        auth: AuthSettings { method: defaults::AUTH_METHOD },
        tls: TlsSettings {
            client: ClientTls { mode: ClientTlsMode::Disable, certificate: None, key: None },
            server: ServerTls { mode: defaults::SERVER_TLS_MODE, ca: None },
        },
        limits: defaults::limits(),
        timeouts: defaults::timeouts(),
        health: defaults::health(),
        pool: defaults::pool(),
        session: defaults::session(),
        routing: defaults::routing(),
        databases: BTreeMap::new(),
        wildcard_database: None,
        users: BTreeMap::new(),
        admin: AdminSettings::default(),
        source: None,
    }
}

fn joined(listen: &[ListenAddress]) -> String {
    listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn path(path: Option<&PathBuf>) -> String {
    path.map(PathBuf::as_path).map(Path::display).map(|p| p.to_string()).unwrap_or_default()
}

/// Seconds with as many decimals as there are: `5`, `0.5`.
fn seconds(duration: Duration) -> String {
    duration.as_secs_f64().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pgbouncer_names;

    #[test]
    fn a_default_configuration_shows_its_defaults() {
        let settings = describe(&default_config());
        assert!(settings.iter().all(|s| s.value == s.default));
        let find = |key| settings.iter().find(|s| s.key == key).map(|s| s.value.as_str());
        assert_eq!(find("pool.size"), Some("20"));
        assert_eq!(find("default_pool_size"), Some("20"));
        assert_eq!(find("query_wait_timeout"), Some("5"));
        assert_eq!(find("limits.message"), Some("1GiB"));
        assert_eq!(find("conffile"), Some(""));
    }

    #[test]
    fn names_of_pgbouncer_that_map_are_shown_and_lead_to_keys_that_exist() {
        let settings = describe(&default_config());
        for (theirs, ours) in pgbouncer_names::NAMES {
            assert!(settings.iter().any(|s| s.key == *theirs), "{theirs} is not in SHOW CONFIG");
            assert!(settings.iter().any(|s| s.key == *ours), "{ours} is no key");
        }
    }
}
