//! Settings: `pooler.yaml`, environment and flags, parsed once into types that cannot be wrong.
//!
//! [`Config`] is an immutable snapshot. What reads files and reports errors is in `file` and
//! `resolve`; every other room sees only the types here. Nothing in this room does network I/O.

mod address;
mod databases;
mod defaults;
mod describe;
mod diff;
mod environment;
mod errors;
mod file;
mod hints;
mod locate;
mod names;
mod node;
mod password;
mod pgbouncer_names;
mod raw;
mod read;
mod resolve;
mod schema;
mod secret;
mod sharding;
mod units;
mod urls;
mod users;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::shard::ShardedSchema;

pub use describe::{Setting, describe};
pub use diff::{ConfigDiff, diff};
pub use environment::Environment;
pub use errors::{ConfigError, ConfigErrors, Origin};
pub use file::{find, load};
pub use schema::schema;
pub use secret::Secret;

/// Everything the process was told, checked and with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients connect.
    pub listen: Vec<ListenAddress>,
    /// Where `/metrics`, `/livez` and `/readyz` are served; `None` serves none.
    pub http: Option<SocketAddr>,
    /// Number of worker threads; `None` is one for each core.
    pub workers: Option<NonZeroUsize>,
    /// How clients prove who they are.
    pub auth: AuthSettings,
    /// TLS towards clients and servers.
    pub tls: TlsSettings,
    /// Bounds on what clients may cost.
    pub limits: Limits,
    /// Bounds on time.
    pub timeouts: Timeouts,
    /// What clients may keep between transactions.
    pub session: SessionSettings,
    /// How nodes are watched.
    pub health: HealthSettings,
    /// Pool settings of databases that say nothing else.
    pub pool: PoolSettings,
    /// Routing of databases that say nothing else.
    pub routing: Routing,
    /// Databases by the name clients ask for; `*` is not in here.
    pub databases: BTreeMap<String, Database>,
    /// The `"*"` database: any other name, same name on the server.
    pub wildcard_database: Option<Database>,
    /// Users by name.
    pub users: BTreeMap<String, User>,
    /// Who may use the admin console.
    pub admin: AdminSettings,
    /// The file this came from, for messages and reloads; `None` when made of flags alone.
    pub source: Option<PathBuf>,
}

/// One place to listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenAddress {
    /// `host:port`; the host is a name or an address, `*` is all interfaces.
    Tcp {
        /// Host name or address.
        host: String,
        /// TCP port; 0 lets the system choose (tests).
        port: u16,
    },
    /// `unix:/directory`: a socket `.s.PGSQL.<port>` in it, where libpq looks.
    Unix {
        /// Directory of the socket.
        directory: PathBuf,
        /// The port in the socket's name: that of the first TCP address, or 6432.
        port: u16,
    },
}

/// How clients authenticate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthSettings {
    /// The method asked of every client.
    pub method: AuthMethod,
}

/// Authentication methods for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// Believe the client. For sidecars on loopback and tests.
    Trust,
    /// The password in clear text.
    Password,
    /// PostgreSQL's salted MD5.
    Md5,
    /// SCRAM-SHA-256, the default.
    ScramSha256,
}

/// TLS on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Towards clients.
    pub client: ClientTls,
    /// Towards servers.
    pub server: ServerTls,
}

/// TLS offered to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// Whether it is offered or demanded.
    pub mode: ClientTlsMode,
    /// PEM certificate chain; needed unless the mode is `Disable`.
    pub certificate: Option<PathBuf>,
    /// PEM private key.
    pub key: Option<PathBuf>,
}

/// What clients may do about TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTlsMode {
    /// `SSLRequest` is answered with `N`.
    Disable,
    /// TLS if the client asks for it.
    Allow,
    /// TLS if the client asks for it (as `Allow`: the client decides).
    Prefer,
    /// A client without TLS is refused.
    Require,
}

/// TLS towards servers, with libpq's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// How much is demanded.
    pub mode: ServerTlsMode,
    /// PEM file of trusted authorities; needed by the verifying modes.
    pub ca: Option<PathBuf>,
}

/// libpq's `sslmode`, without `allow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerTlsMode {
    /// Never TLS.
    Disable,
    /// TLS when the server offers it; no verification.
    Prefer,
    /// TLS or nothing; no verification.
    Require,
    /// TLS, certificate signed by `ca`.
    VerifyCa,
    /// As `VerifyCa`, and the host name must match.
    VerifyFull,
}

/// When a server connection goes back to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// At the end of each transaction.
    Transaction,
    /// When the client disconnects.
    Session,
    /// After each statement; transactions of several statements are refused.
    Statement,
}

/// Settings of one pool: (database, user, node).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// When connections return.
    pub mode: PoolMode,
    /// Server connections at most.
    pub size: usize,
    /// Server connections kept open.
    pub min_size: usize,
    /// How long a client waits for a server connection.
    pub checkout_timeout: Duration,
    /// Idle server connections above `min_size` are closed after this; zero never.
    pub idle_timeout: Duration,
    /// Server connections are replaced at this age (with jitter); zero never.
    pub max_lifetime: Duration,
    /// Prepared statements kept on each server connection.
    pub prepared_statements: usize,
    /// Bytes of their SQL kept on each server connection.
    pub prepared_statement_bytes: usize,
    /// For tests: a client's transactions take turns over the server connections.
    pub debug_rotate: bool,
    /// For tests: each server connection that comes back is asked whether it is clean.
    pub debug_check: bool,
}

/// Bounds on what clients may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections at most.
    pub clients: usize,
    /// Client connections of one user; 0 is no limit.
    pub clients_per_user: usize,
    /// Longest message accepted from a client, in bytes.
    pub message_bytes: usize,
    /// Bytes of SQL analyses kept in the cache (whole process).
    pub statement_cache_bytes: usize,
    /// Prepared statements one client may hold.
    pub prepared_statements_per_client: usize,
    /// Bytes of their SQL.
    pub prepared_statement_bytes_per_client: usize,
    /// Server connections of one pool that clients may keep for their session state; 0 is no limit.
    pub pins: usize,
    /// Bytes of notifications that may wait for one client.
    pub notification_bytes_per_client: usize,
    /// Replication connections at most.
    pub replication_connections: usize,
}

/// `currval` and `lastval` outside the transaction that called `nextval`: their answer lives in one server
/// connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequences {
    /// Refused: it could be another client's value.
    Refuse,
    /// A client keeps its server connection from its first statement that may call `nextval`.
    Pin,
}

/// What clients may keep between transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSettings {
    /// `currval` and `lastval`.
    pub sequences: Sequences,
}

/// Bounds on time; zero is no bound where the field says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept to the end of authentication.
    pub client_login: Duration,
    /// A client that sends nothing outside a transaction; zero never.
    pub client_idle: Duration,
    /// A client that sends nothing inside a transaction; zero never.
    pub idle_in_transaction: Duration,
    /// One query, from send to its end; zero never. The server is told to cancel.
    pub query: Duration,
    /// One transaction; zero never.
    pub transaction: Duration,
    /// Opening and logging in a server connection.
    pub server_connect: Duration,
    /// How long SIGTERM waits for transactions.
    pub shutdown: Duration,
}

/// How nodes are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// Time between probes of a node.
    pub interval: Duration,
    /// A probe that takes longer has failed.
    pub timeout: Duration,
    /// Successful probes in a row after which a replica that was down gets reads again.
    pub recover_after: u32,
    /// Time between two looks where the name of a node leads.
    pub dns_ttl: Duration,
    /// The user probes log in as; `None` takes the first user with a password that may use the database.
    pub user: Option<String>,
}

/// Where reads may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Replicas; the primary only when no replica is eligible.
    Replica,
    /// Replicas and primary alike.
    ReplicaOrPrimary,
    /// The primary only.
    Primary,
}

/// How fresh reads on replicas must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Any healthy replica.
    Eventual,
    /// A client sees its own writes.
    Session,
    /// A read sees every write that was acknowledged to anybody before it began.
    Strong,
}

/// Where transactions that may write begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transactions {
    /// On the primary.
    Primary,
    /// Their reads run on a replica until something else comes.
    ReplicaUntilWrite,
}

/// Routing of one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Where reads may go.
    pub reads: Reads,
    /// How fresh they must be.
    pub consistency: Consistency,
    /// Where this pgweir is: reads prefer nodes that are there, too.
    pub zone: Option<String>,
    /// Where transactions begin.
    pub transactions: Transactions,
    /// A replica further behind than this gets no reads; zero is no bound.
    pub max_replica_lag: Duration,
    /// How long what needs the primary waits while there is none; zero is not at all.
    pub failover_wait: Duration,
    /// How often the catalog is looked at for changes made elsewhere; zero is never, and no catalog.
    pub catalog_refresh: Duration,
}

/// One database as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// The name clients ask for (`*` for the wildcard).
    pub name: String,
    /// Its name on the servers; `None`: the name the client asked for.
    pub server_database: Option<String>,
    /// The node that takes writes.
    pub primary: NodeSettings,
    /// Nodes that take reads.
    pub replicas: Vec<NodeSettings>,
    /// Pool settings, merged from the defaults.
    pub pool: PoolSettings,
    /// Routing settings, merged from the defaults.
    pub routing: Routing,
    /// When it is sharded; `primary` and `replicas` are the first shard's then.
    pub sharding: Option<Arc<Sharding>>,
}

/// The shards of a database, and what is spread over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharding {
    /// The shards, in the order of the file.
    pub shards: Vec<ShardSettings>,
    /// The declared tables.
    pub schema: ShardedSchema,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSettings {
    /// The node that takes writes.
    pub primary: NodeSettings,
    /// Nodes that take reads.
    pub replicas: Vec<NodeSettings>,
    /// The database's name on this shard; `None`: as for the whole.
    pub server_database: Option<String>,
}

impl ShardSettings {
    /// The settings of a database that is this shard of `whole`.
    pub fn of(&self, whole: &Database) -> Database {
        Database {
            primary: self.primary.clone(),
            replicas: self.replicas.clone(),
            server_database: self.server_database.clone().or_else(|| whole.server_database.clone()),
            ..whole.clone()
        }
    }
}

/// The words of `function`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardFunctionName {
    /// PostgreSQL's hash, modulo the number of shards.
    Hash,
    /// PostgreSQL's hash, modulo the number of buckets, and a map of buckets.
    Virtual,
    /// Value by value.
    List,
    /// By order.
    Range,
}

/// One PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// Host name, address, or directory of a unix socket when it begins with `/`.
    pub host: String,
    /// TCP port, or the port in the socket's name.
    pub port: u16,
    /// Share of the reads relative to other replicas; at least 1.
    pub weight: u32,
    /// Where it is; compared with that of this pgweir.
    pub zone: Option<String>,
}

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name clients log in with.
    pub name: String,
    /// What the client must prove it knows; `None`: cannot log in unless the method is trust.
    pub password: Option<ClientPassword>,
    /// The user's name on the server; `None`: the same.
    pub server_user: Option<String>,
    /// The password towards servers; `None`: the plain client password, if there is one.
    pub server_password: Option<Secret>,
    /// Databases this user may use; `None` is all.
    pub databases: Option<Vec<String>>,
    /// Overrides of the database's pool settings.
    pub pool: PoolOverrides,
    /// How fresh reads must be; `None`: as the database says.
    pub consistency: Option<Consistency>,
}

/// What we hold of a client's password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientPassword {
    /// Plain text.
    Plain(Secret),
    /// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in `pg_authid`.
    ScramVerifier(Secret),
    /// `md5<32 hex digits>`, as in `pg_authid`.
    Md5Hash(Secret),
}

/// Pool settings a database or user may override; `None` keeps what is below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolOverrides {
    /// See [`PoolSettings::mode`].
    pub mode: Option<PoolMode>,
    /// See [`PoolSettings::size`].
    pub size: Option<usize>,
    /// See [`PoolSettings::min_size`].
    pub min_size: Option<usize>,
    /// See [`PoolSettings::checkout_timeout`].
    pub checkout_timeout: Option<Duration>,
    /// See [`PoolSettings::idle_timeout`].
    pub idle_timeout: Option<Duration>,
    /// See [`PoolSettings::max_lifetime`].
    pub max_lifetime: Option<Duration>,
    /// See [`PoolSettings::prepared_statements`].
    pub prepared_statements: Option<usize>,
    /// See [`PoolSettings::prepared_statement_bytes`].
    pub prepared_statement_bytes: Option<usize>,
    /// See [`PoolSettings::debug_rotate`].
    pub debug_rotate: Option<bool>,
    /// See [`PoolSettings::debug_check`].
    pub debug_check: Option<bool>,
}

impl PoolSettings {
    /// These settings with `overrides` laid over them.
    #[must_use]
    pub fn with(&self, overrides: &PoolOverrides) -> Self {
        Self {
            mode: overrides.mode.unwrap_or(self.mode),
            size: overrides.size.unwrap_or(self.size),
            min_size: overrides.min_size.unwrap_or(self.min_size),
            checkout_timeout: overrides.checkout_timeout.unwrap_or(self.checkout_timeout),
            idle_timeout: overrides.idle_timeout.unwrap_or(self.idle_timeout),
            max_lifetime: overrides.max_lifetime.unwrap_or(self.max_lifetime),
            prepared_statements: overrides.prepared_statements.unwrap_or(self.prepared_statements),
            prepared_statement_bytes: overrides
                .prepared_statement_bytes
                .unwrap_or(self.prepared_statement_bytes),
            debug_rotate: overrides.debug_rotate.unwrap_or(self.debug_rotate),
            debug_check: overrides.debug_check.unwrap_or(self.debug_check),
        }
    }
}

/// Who may use the admin console.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminSettings {
    /// May run every command.
    pub users: Vec<String>,
    /// May run SHOW only.
    pub stats_users: Vec<String>,
}

impl Config {
    /// The database a client asked for, by name or by the wildcard.
    pub fn database(&self, name: &str) -> Option<&Database> {
        self.databases.get(name).or(self.wildcard_database.as_ref())
    }
}
