//! The shape of `pooler.yaml`: every key, once. Doc comments here are the descriptions in the
//! JSON schema.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::errors::{Complaint, Place, Problems, shown};
use super::node::{Node, Value};
use super::read::{Bytes, Named, Read, Several, Time, scalar, settings};
use super::{
    AuthMethod, ClientTlsMode, Consistency, PoolMode, Reads, Sequences, ServerTlsMode, ShardFunctionName,
    Transactions,
};

settings! {
    /// Configuration of pgweir. Only `databases` and `users` must be given.
    struct RawConfig as "pooler.yaml" {
        /// Where clients connect: `host:port`, `*:port`, `unix:/directory`.
        listen: Several<String>,
        /// Address and port of `/metrics`, `/livez` and `/readyz`; not served when missing.
        http: String,
        /// Worker threads: a number, or `auto` for one for each core.
        workers: RawWorkers,
        /// How clients prove who they are.
        auth: RawAuth,
        /// TLS towards clients and servers.
        tls: RawTls,
        /// Pool settings; a database or a user may override them.
        pool: RawPool,
        /// Bounds on what clients may cost.
        limits: RawLimits,
        /// Bounds on time; 0 is no bound.
        timeouts: RawTimeouts,
        /// How nodes are watched.
        health: RawHealth,
        /// Where reads go; a database may override it.
        routing: RawRouting,
        /// What clients may keep between transactions.
        session: RawSession,
        /// Databases by the name clients ask for; `"*"` is any other name.
        databases: Named<RawDatabase>,
        /// Users by name.
        users: Named<RawUser>,
        /// Who may use the admin console.
        admin: RawAdmin,
    }
}

settings! {
    /// How clients prove who they are.
    struct RawAuth as "Auth" {
        /// The method asked of every client.
        method: AuthMethod,
    }
}

settings! {
    /// TLS on both sides.
    struct RawTls as "Tls" {
        /// Towards clients.
        client: RawClientTls,
        /// Towards servers.
        server: RawServerTls,
    }
}

settings! {
    /// TLS towards clients.
    struct RawClientTls as "ClientTls" {
        /// `disable` without a certificate, `prefer` with one, unless said otherwise.
        mode: ClientTlsMode,
        /// PEM file with the certificate and its chain.
        certificate: String,
        /// PEM file with the private key.
        key: String,
    }
}

settings! {
    /// TLS towards servers, with libpq's modes.
    struct RawServerTls as "ServerTls" {
        /// How much is demanded of servers.
        mode: ServerTlsMode,
        /// PEM file of trusted authorities; needed by `verify-ca` and `verify-full`.
        ca: String,
    }
}

settings! {
    /// One pool is (database, user, node).
    struct RawPool as "Pool" {
        /// When a server connection goes back to the pool.
        mode: PoolMode,
        /// Server connections at most, for each (database, user, node).
        size: u64,
        /// Server connections kept open.
        min_size: u64,
        /// How long a client waits for a server connection before it gets an error.
        checkout_timeout: Time,
        /// Idle server connections above `min_size` are closed after this; 0 never.
        idle_timeout: Time,
        /// Server connections are replaced at this age; 0 never.
        max_lifetime: Time,
        /// Prepared statements kept on each server connection.
        prepared_statements: u64,
        /// Bytes of SQL of the prepared statements kept on each server connection.
        prepared_statement_memory: Bytes,
        /// For tests: a client's transactions take turns over the server connections.
        debug_rotate: bool,
        /// For tests: each server connection that comes back is asked whether it is clean.
        debug_check: bool,
    }
}

settings! {
    /// Bounds on what clients may cost.
    struct RawLimits as "Limits" {
        /// Client connections at most.
        clients: u64,
        /// Client connections of one user; 0 is no limit.
        clients_per_user: u64,
        /// Longest message accepted from a client.
        message: Bytes,
        /// Memory for the analyses of statements, of the whole process.
        statement_cache: Bytes,
        /// Prepared statements one client may hold.
        prepared_statements_per_client: u64,
        /// Bytes of SQL of the prepared statements one client may hold.
        prepared_statement_memory_per_client: Bytes,
        /// Server connections of one pool that clients may keep for their session state; 0 is no limit.
        pins: u64,
        /// Bytes of notifications that may wait for one client.
        notifications_per_client: Bytes,
        /// Replication connections at most.
        replication_connections: u64,
    }
}

settings! {
    /// Bounds on time.
    struct RawTimeouts as "Timeouts" {
        /// From accept to the end of authentication.
        client_login: Time,
        /// A client that sends nothing outside a transaction; 0 never.
        client_idle: Time,
        /// A client that sends nothing inside a transaction; 0 never.
        idle_in_transaction: Time,
        /// One query; 0 never. The server is told to cancel.
        query: Time,
        /// One transaction; 0 never.
        transaction: Time,
        /// Opening and logging in a server connection.
        server_connect: Time,
        /// How long SIGTERM waits for transactions to end.
        shutdown: Time,
    }
}

settings! {
    /// How nodes are watched.
    struct RawHealth as "Health" {
        /// Time between probes of a node.
        interval: Time,
        /// A probe that takes longer has failed.
        timeout: Time,
        /// Successful probes in a row after which a replica that was down gets reads again.
        recover_after: u64,
        /// Time between two looks where the name of a node leads.
        dns_ttl: Time,
        /// The user probes log in as; by default the first one that can.
        user: String,
    }
}

settings! {
    /// Where reads go.
    struct RawRouting as "Routing" {
        /// Nodes that get reads.
        reads: Reads,
        /// How fresh reads on replicas must be.
        consistency: Consistency,
        /// Where this pgweir is: reads prefer replicas of the same zone.
        zone: String,
        /// Where transactions that may write begin.
        transactions: Transactions,
        /// A replica further behind gets no reads; 0 is no bound.
        max_replica_lag: Time,
        /// How long what needs the primary waits while there is none; 0 is not at all.
        failover_wait: Time,
        /// How often the catalog is looked at for changes made elsewhere; 0 is never, and no catalog.
        catalog_refresh: Time,
    }
}

settings! {
    /// What clients may keep between transactions.
    struct RawSession as "Session" {
        /// `currval` and `lastval` outside the transaction that called `nextval`.
        sequences: Sequences,
    }
}

settings! {
    /// One database.
    struct RawDatabase as "Database" {
        /// The node that takes writes.
        primary: RawNode,
        /// Nodes that take reads.
        replicas: Several<RawNode>,
        /// Its name on the servers; by default the name clients ask for.
        database: String,
        /// Overrides of pool settings.
        pool: RawPool,
        /// Overrides of routing settings.
        routing: RawRouting,
        /// Instead of `primary` and `replicas`: the shards, in an order that must not change.
        shards: Several<RawShard>,
        /// Tables whose rows are spread over the shards.
        sharded_tables: Several<RawShardedTables>,
        /// Tables with the same rows on every shard: names, `*` standing for any characters.
        everywhere_tables: Several<String>,
    }
}

settings! {
    /// One shard: a primary and its replicas.
    struct RawShard as "Shard" {
        /// The node that takes writes.
        primary: RawNode,
        /// Nodes that take reads.
        replicas: Several<RawNode>,
        /// The database's name on this shard; by default as for the whole.
        database: String,
    }
}

settings! {
    /// Tables with one key and one function.
    struct RawShardedTables as "ShardedTables" {
        /// Names, `schema.name` or `name`; `*` stands for any characters.
        tables: Several<String>,
        /// The key's column, or columns.
        column: Several<String>,
        /// The column's type, or the columns' types.
        key_type = "type": Several<String>,
        /// From key to shard.
        function: ShardFunctionName,
        /// `virtual`: how many buckets; never to change.
        buckets: u64,
        /// `virtual`: which shard has which buckets.
        map: Several<RawBuckets>,
        /// `list`: which shard has which values.
        values: Several<RawShardValues>,
        /// `list`: the shard of all other values.
        otherwise: u64,
        /// `range`: which shard has which range.
        ranges: Several<RawShardRange>,
    }
}

settings! {
    /// Buckets of a shard.
    struct RawBuckets as "Buckets" {
        /// The shard, counted from 0.
        shard: u64,
        /// Numbers, counted from 0, and ranges of them: `7`, `"0-31"`.
        buckets: Several<String>,
    }
}

settings! {
    /// Values of a shard.
    struct RawShardValues as "ShardValues" {
        /// The shard, counted from 0.
        shard: u64,
        /// Values of the key.
        values: Several<String>,
    }
}

settings! {
    /// A range of a shard.
    struct RawShardRange as "ShardRange" {
        /// The shard, counted from 0.
        shard: u64,
        /// The lowest value; without one the range has no lower end.
        from: String,
        /// The first value that no longer belongs to it; without one the range has no upper end.
        to: String,
    }
}

settings! {
    /// One user.
    struct RawUser as "User" {
        /// What the client must know: plain text, a `SCRAM-SHA-256$…` verifier, or an `md5…`
        /// hash; `${VARIABLE}` and `file:/path` are replaced.
        password: String,
        /// The user's name on the servers; by default the same.
        server_user: String,
        /// The password towards servers; by default the plain password. `""` is none.
        server_password: String,
        /// Databases this user may use; by default all.
        databases: Several<String>,
        /// Overrides of the databases' pool settings.
        pool: RawPool,
        /// How fresh this user's reads must be, over what the database says.
        consistency: Consistency,
    }
}

settings! {
    /// Who may use the admin console.
    struct RawAdmin as "Admin" {
        /// Users that may run every command.
        users: Several<String>,
        /// Users that may run `SHOW`.
        stats_users: Several<String>,
    }
}

settings! {
    /// A node with a weight.
    struct RawNodeMap as "Node" {
        /// `host:port`, `[::1]:5432`, or `/directory:port` for a unix socket.
        address: String,
        /// Share of the reads relative to other nodes.
        weight: u64,
        /// Where it is (routing.zone).
        zone: String,
    }
}

/// `host:port`, or a mapping with `address`, `weight` and `zone`.
pub(super) struct RawNode(pub RawNodeMap);

impl Read for RawNode {
    fn read(node: &Node, place: &Place, problems: &mut Problems) -> Option<Self> {
        if let Value::Map(_) = &node.value {
            return RawNodeMap::read(node, place, problems).map(Self);
        }
        let address = Read::read(node, place, problems)?;
        Some(Self(RawNodeMap { address: Some(address), weight: None, zone: None }))
    }
}

impl JsonSchema for RawNode {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Node".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "string"}, generator.subschema_for::<RawNodeMap>()]})
    }
}

/// A number of threads, or one for each core.
pub(super) enum RawWorkers {
    Auto,
    Number(u64),
}

impl Read for RawWorkers {
    fn read(node: &Node, place: &Place, problems: &mut Problems) -> Option<Self> {
        let (text, _) = scalar(node, place, "a number or auto", problems)?;
        let number = text.parse().map(Self::Number);
        let value = if text == "auto" { Ok(Self::Auto) } else { number };
        let wrong = || Complaint::new(format!("expected a number or auto, found {}", shown(text)));
        problems.keep(place, value.map_err(|_| wrong()))
    }
}

impl JsonSchema for RawWorkers {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Workers".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]})
    }
}
