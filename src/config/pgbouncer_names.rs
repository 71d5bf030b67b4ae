//! PgBouncer's names for settings that are ours too: for hints and for `SHOW CONFIG`.

/// PgBouncer's name, and the key of ours it maps onto.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("admin_users", "admin.users"),
    ("auth_type", "auth.method"),
    ("client_idle_timeout", "timeouts.client_idle"),
    ("client_login_timeout", "timeouts.client_login"),
    ("client_tls_cert_file", "tls.client.certificate"),
    ("client_tls_key_file", "tls.client.key"),
    ("client_tls_sslmode", "tls.client.mode"),
    ("default_pool_size", "pool.size"),
    ("idle_transaction_timeout", "timeouts.idle_in_transaction"),
    ("listen_addr", "listen"),
    ("listen_port", "listen"),
    ("max_client_conn", "limits.clients"),
    ("max_packet_size", "limits.message"),
    ("max_prepared_statements", "pool.prepared_statements"),
    ("max_user_client_connections", "limits.clients_per_user"),
    ("min_pool_size", "pool.min_size"),
    ("pool_mode", "pool.mode"),
    ("query_timeout", "timeouts.query"),
    ("query_wait_timeout", "pool.checkout_timeout"),
    ("server_connect_timeout", "timeouts.server_connect"),
    ("server_idle_timeout", "pool.idle_timeout"),
    ("server_lifetime", "pool.max_lifetime"),
    ("server_tls_ca_file", "tls.server.ca"),
    ("server_tls_sslmode", "tls.server.mode"),
    ("stats_users", "admin.stats_users"),
    ("transaction_timeout", "timeouts.transaction"),
    ("unix_socket_dir", "listen"),
];

/// The key of ours for a name of PgBouncer's.
pub(super) fn our_key(theirs: &str) -> Option<&'static str> {
    NAMES.iter().find(|(name, _)| *name == theirs).map(|(_, ours)| *ours)
}
