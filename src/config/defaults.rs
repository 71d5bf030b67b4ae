//! What a setting is when nobody says otherwise, and how far it may go: one table, with reasons.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{
    AuthMethod, Consistency, HealthSettings, Limits, PoolMode, PoolSettings, Reads, Routing, Sequences,
    ServerTlsMode, SessionSettings, Timeouts, Transactions,
};

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// This machine only: whoever opens the pooler to a network says so.
pub(super) const LISTEN_HOST: &str = "127.0.0.1";
/// PgBouncer's port, which clients and firewalls know.
pub(super) const LISTEN_PORT: u16 = 6432;
/// PostgreSQL's port.
pub(super) const SERVER_PORT: u16 = 5432;
/// PostgreSQL's own default since version 14.
pub(super) const AUTH_METHOD: AuthMethod = AuthMethod::ScramSha256;
/// libpq's default: encrypted where the server can, and never a surprise where it cannot.
pub(super) const SERVER_TLS_MODE: ServerTlsMode = ServerTlsMode::Prefer;

/// Server connections for each (database, user, node). PgBouncer's default, and near what 8 cores
/// can use at once.
pub(super) const POOL_SIZE: usize = 20;
/// None: an unused database costs the server nothing.
pub(super) const POOL_MIN_SIZE: usize = 0;
/// Below the patience of web servers, so that a client hears an error instead of hanging.
pub(super) const CHECKOUT_TIMEOUT: Duration = seconds(5);
/// Long enough to survive lulls, short enough to give memory back to the server.
pub(super) const IDLE_TIMEOUT: Duration = seconds(600);
/// Server processes grow with the catalogs they have seen; an hour bounds it.
pub(super) const MAX_LIFETIME: Duration = seconds(3600);
/// On each server connection. A prepared statement with its plan is about 20 KiB of server memory.
pub(super) const PREPARED_STATEMENTS: usize = 500;

/// Statements of an ORM are 1 to 2 KiB: this bounds the odd ones of a megabyte.
pub(super) const PREPARED_STATEMENT_MEMORY: u64 = 8 << 20;

/// About 30 MB of memory when all are idle.
pub(super) const CLIENTS: usize = 10_000;
/// No limit.
pub(super) const CLIENTS_PER_USER: usize = 0;
/// What PostgreSQL itself accepts: a smaller bound would refuse what works without a pooler.
pub(super) const MESSAGE_BYTES: u64 = 1 << 30;
/// Some hundred thousand analyses; applications have hundreds to thousands of distinct statements.
pub(super) const STATEMENT_CACHE_BYTES: u64 = 64 << 20;
/// Drivers keep 100 to 1000.
pub(super) const PREPARED_STATEMENTS_PER_CLIENT: usize = 5000;

/// As many statements of 3 KiB as the count allows.
pub(super) const PREPARED_STATEMENT_MEMORY_PER_CLIENT: u64 = 16 << 20;
/// No limit: refusing would break applications that work with one PostgreSQL. A log line warns instead.
pub(super) const PINS: usize = 0;
/// A thousand notifications of the largest size.
pub(super) const NOTIFICATIONS_PER_CLIENT: u64 = 8 << 20;
/// PostgreSQL's own default of `max_wal_senders`.
pub(super) const REPLICATION_CONNECTIONS: usize = 10;
/// Plain refusal is better than another client's number.
pub(super) const SEQUENCES: Sequences = Sequences::Refuse;

/// From accept to the end of authentication.
pub(super) const CLIENT_LOGIN: Duration = seconds(30);
/// Opening and logging in a server connection; a live server takes milliseconds.
pub(super) const SERVER_CONNECT: Duration = seconds(5);
/// Below the 30 s after which Kubernetes kills.
pub(super) const SHUTDOWN: Duration = seconds(25);

/// One cheap query a node.
pub(super) const HEALTH_INTERVAL: Duration = seconds(1);
/// Longer than a slow network, shorter than users' patience.
pub(super) const HEALTH_TIMEOUT: Duration = seconds(2);

/// What cloud services give the names that they move at a failover.
pub(super) const DNS_TTL: Duration = seconds(5);
/// One answer may be luck.
pub(super) const RECOVER_AFTER: u32 = 2;

/// The point of having replicas.
pub(super) const READS: Reads = Reads::Replica;
pub(super) const TRANSACTIONS: Transactions = Transactions::Primary;
/// Nobody can tell that replicas serve the reads.
pub(super) const CONSISTENCY: Consistency = Consistency::Strong;
/// A replica this far behind is in trouble, not merely busy.
pub(super) const MAX_REPLICA_LAG: Duration = seconds(10);
/// Changes made elsewhere are rare, and a look at an unchanged catalog takes milliseconds.
pub(super) const CATALOG_REFRESH: Duration = seconds(60);
/// A failover takes a few seconds; a client that waits for longer would rather hear of it.
pub(super) const FAILOVER_WAIT: Duration = seconds(10);
/// The share of a node nobody gave a weight.
pub(super) const WEIGHT: u32 = 1;

/// Any duration: a year is longer than any process runs.
pub(super) const ANY_DURATION: RangeInclusive<Duration> = Duration::ZERO..=seconds(365 * 86_400);
/// A duration that must not be zero.
pub(super) const SOME_DURATION: RangeInclusive<Duration> = Duration::from_millis(1)..=seconds(365 * 86_400);
/// PostgreSQL's largest `max_connections`.
pub(super) const POOL_SIZES: RangeInclusive<u64> = 1..=262_143;
/// A replica that has to prove itself for longer would never return.
pub(super) const PROBE_COUNTS: RangeInclusive<u64> = 1..=1000;
/// As `POOL_SIZES`, or none.
pub(super) const POOL_MIN_SIZES: RangeInclusive<u64> = 0..=262_143;
/// A server without any room could not run one prepared statement.
pub(super) const PREPARED_STATEMENT_COUNTS: RangeInclusive<u64> = 1..=1_000_000;
/// More than one machine has ports for.
pub(super) const CLIENT_COUNTS: RangeInclusive<u64> = 1..=1_000_000;
/// As `CLIENT_COUNTS`, or no limit.
pub(super) const CLIENT_COUNTS_OR_NONE: RangeInclusive<u64> = 0..=1_000_000;
/// No limit, or a number.
pub(super) const PIN_COUNTS: RangeInclusive<u64> = 0..=262_143;
/// None at all, or what `max_wal_senders` may be.
pub(super) const REPLICATION_COUNTS: RangeInclusive<u64> = 0..=262_143;
/// One notification must fit; more than memory makes no sense.
pub(super) const NOTIFICATION_SIZES: RangeInclusive<u64> = (64 << 10)..=(64 << 30);
/// From a few statements to more than memory.
pub(super) const PREPARED_SIZES: RangeInclusive<u64> = (64 << 10)..=(64 << 30);
/// From what a login needs to what PostgreSQL accepts.
pub(super) const MESSAGE_SIZES: RangeInclusive<u64> = (16 << 10)..=(1 << 30);
/// Below 1 MiB the cache would thrash on any real application.
pub(super) const CACHE_SIZES: RangeInclusive<u64> = (1 << 20)..=(64 << 30);
/// Shares, not absolute numbers: a thousand to one is enough.
pub(super) const WEIGHTS: RangeInclusive<u64> = 1..=1000;
/// Buckets are chosen once and for ever: more than anybody will have shards.
pub(super) const BUCKET_COUNTS: RangeInclusive<u64> = 1..=65_536;
/// More threads than any machine has cores.
pub(super) const WORKERS: RangeInclusive<u64> = 1..=1024;

/// Settings of a pool nobody described.
pub(super) fn pool() -> PoolSettings {
    PoolSettings {
        mode: PoolMode::Transaction,
        size: POOL_SIZE,
        min_size: POOL_MIN_SIZE,
        checkout_timeout: CHECKOUT_TIMEOUT,
        idle_timeout: IDLE_TIMEOUT,
        max_lifetime: MAX_LIFETIME,
        prepared_statements: PREPARED_STATEMENTS,
        prepared_statement_bytes: PREPARED_STATEMENT_MEMORY as usize,
        debug_rotate: false,
        debug_check: false,
    }
}

/// Routing nobody described.
pub(super) fn routing() -> Routing {
    Routing {
        reads: READS,
        zone: None,
        transactions: TRANSACTIONS,
        consistency: CONSISTENCY,
        max_replica_lag: MAX_REPLICA_LAG,
        failover_wait: FAILOVER_WAIT,
        catalog_refresh: CATALOG_REFRESH,
    }
}

/// Limits nobody set.
pub(super) fn limits() -> Limits {
    Limits {
        clients: CLIENTS,
        clients_per_user: CLIENTS_PER_USER,
        message_bytes: MESSAGE_BYTES as usize,
        statement_cache_bytes: STATEMENT_CACHE_BYTES as usize,
        prepared_statements_per_client: PREPARED_STATEMENTS_PER_CLIENT,
        prepared_statement_bytes_per_client: PREPARED_STATEMENT_MEMORY_PER_CLIENT as usize,
        pins: PINS,
        notification_bytes_per_client: NOTIFICATIONS_PER_CLIENT as usize,
        replication_connections: REPLICATION_CONNECTIONS,
    }
}

/// Timeouts nobody set: what cannot harm a working application is bounded, the rest is not.
pub(super) fn timeouts() -> Timeouts {
    Timeouts {
        client_login: CLIENT_LOGIN,
        client_idle: Duration::ZERO,
        idle_in_transaction: Duration::ZERO,
        query: Duration::ZERO,
        transaction: Duration::ZERO,
        server_connect: SERVER_CONNECT,
        shutdown: SHUTDOWN,
    }
}

/// Session state nobody described.
pub(super) fn session() -> SessionSettings {
    SessionSettings { sequences: SEQUENCES }
}

/// Probes nobody described.
pub(super) fn health() -> HealthSettings {
    HealthSettings {
        interval: HEALTH_INTERVAL,
        timeout: HEALTH_TIMEOUT,
        recover_after: RECOVER_AFTER,
        dns_ttl: DNS_TTL,
        user: None,
    }
}
