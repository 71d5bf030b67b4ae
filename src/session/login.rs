//! Login: who is it, may it, and what is it told before its first query.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Buf;

use crate::auth::{AUTHENTICATION_OK, ClientExchange, RESPONSE_BYTES_MAX, Random, Step, SystemRandom};
use crate::clients::{CancelKey, ClientGuard, ClientHandle, ClientId, ClientInfo, Refused, Replication};
use crate::config::{AuthMethod, PoolMode};
use crate::net::Wire;
use crate::net::listen::Peer;
use crate::pool::{DatabaseEntry, Topology};
use crate::protocol::frame::HEADER_LEN;
use crate::protocol::parameters::Parameters;
use crate::protocol::startup::{NEWEST_MINOR, StartupMessage};
use crate::protocol::{ErrorResponse, FrontendTag, SqlState, TransactionStatus, backend, frame};
use crate::route::{Reason, Target, Work};
use crate::server::Settings;
use crate::sql::{Effect, LexOptions, SessionEffects};
use crate::task::{self, Moment};

use super::checkout::Needs;
use super::client::ClientSession;
use super::console;
use super::context::SessionContext;
use super::exchange::Exchange;
use super::freshness::LastWrite;
use super::listening::Listening;
use super::reading::Reading;
use super::replication::{self, Admission, ReplicationSession};
use super::retry::Retry;
use super::start::{is_draining, refuse};
use super::startup_options;
use super::state::lex_options;
use super::statements::ClientStatements;
use super::writes::Writes;

/// For so long a login is told what an earlier one was told by the server.
const REPORTED_TTL: Duration = Duration::from_secs(30);
/// Reported settings remembered for each database.
const REPORTED_MAX: usize = 256;

/// A session that has logged in.
pub(super) enum Session {
    /// On a database.
    Client(Box<ClientSession>),
    /// On the console.
    Console(Box<console::ConsoleSession>),
    /// Replicating.
    Replication(Box<ReplicationSession>),
}

impl Session {
    /// Serves it to its end. Boxed: the task of each client has room for the largest of them.
    pub(super) fn run(self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        match self {
            Self::Client(session) => Box::pin(session.run()),
            Self::Console(session) => Box::pin(session.run()),
            Self::Replication(session) => Box::pin(session.run()),
        }
    }
}

/// Logs a client in; `None` when it was refused or went away.
pub(super) async fn login(
    context: &Arc<SessionContext>,
    mut wire: Wire,
    startup: StartupMessage,
    peer: &Peer,
) -> Option<Session> {
    let result = admit(context, &mut wire, &startup, peer).await;
    match result {
        Ok(Admitted::Console(guard, role)) => Some(Session::Console(Box::new(console::ConsoleSession::new(
            wire,
            guard,
            context.console.clone(),
            role,
        )))),
        Ok(Admitted::Client(login)) => {
            let mut session = Box::new(new_session(context, wire, *login));
            match welcome(&mut session, &startup).await {
                Ok(()) => {
                    // Clients begin on all shards alike.
                    let shards = session.topology.shards(&session.database.name).map_or(1, |set| set.count());
                    session.enter_shards(session.handle().id.0 % shards.max(1));
                    Some(Session::Client(session))
                }
                Err(Refusal::Gone(error)) => {
                    tracing::debug!(%error, "client left during login");
                    None
                }
                Err(Refusal::Told(error)) => {
                    tracing::info!(%error, user = session.user, database = session.database.name, "login refused");
                    let _ = refuse(&mut session.wire, &error.into_fatal()).await;
                    None
                }
            }
        }
        Ok(Admitted::Replication(admission)) => {
            match replication::open(context, wire, &startup, *admission).await {
                Ok(session) => Some(Session::Replication(Box::new(session))),
                Err((mut wire, error)) => {
                    if let Some(error) = error {
                        tracing::info!(%error, user = startup.value("user").unwrap_or(""), "login refused");
                        let _ = refuse(&mut wire, &error).await;
                    }
                    None
                }
            }
        }
        Err(Refusal::Gone(error)) => {
            tracing::debug!(%error, "client left during login");
            None
        }
        Err(Refusal::Told(error)) => {
            tracing::info!(%error, user = startup.value("user").unwrap_or(""), "login refused");
            let _ = refuse(&mut wire, &error).await;
            None
        }
    }
}

/// Why a login failed.
enum Refusal {
    /// The client is not there any more.
    Gone(std::io::Error),
    /// It is told this.
    Told(ErrorResponse),
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self::Gone(error)
    }
}

impl From<ErrorResponse> for Refusal {
    fn from(error: ErrorResponse) -> Self {
        Self::Told(error)
    }
}

/// A client that may enter.
struct Login {
    guard: ClientGuard,
    topology: Arc<Topology>,
    database: Arc<DatabaseEntry>,
    user: String,
    startup: Settings,
}

enum Admitted {
    Client(Box<Login>),
    Console(ClientGuard, console::Role),
    Replication(Box<Admission>),
}

async fn admit(
    context: &Arc<SessionContext>,
    wire: &mut Wire,
    startup: &StartupMessage,
    peer: &Peer,
) -> Result<Admitted, Refusal> {
    let topology = context.topology.load_full();
    let unknown = startup.unknown_options();
    if startup.minor > NEWEST_MINOR || startup.minor == 1 || !unknown.is_empty() {
        // 3.1 was never released: who asks for it gets 3.0.
        let minor = if startup.minor >= NEWEST_MINOR { NEWEST_MINOR } else { 0 };
        backend::negotiate_protocol_version(&mut wire.outbox, minor, &unknown);
    }
    let user = startup.value("user").filter(|user| !user.is_empty()).ok_or_else(|| {
        ErrorResponse::fatal(
            SqlState::INVALID_AUTHORIZATION,
            "no PostgreSQL user name specified in startup packet",
        )
    })?;
    let database = startup.value("database").filter(|name| !name.is_empty()).unwrap_or(user);
    let is_console = matches!(database, "pgweir" | "pgbouncer");
    if is_draining(context) && !is_console {
        return Err(draining().into());
    }
    let replication = replication::kind(startup)?;
    let settings = startup_options::settings(startup);
    if is_console {
        return admit_to_console(context, &topology, wire, startup, user, peer).await;
    }
    authenticate(context, &topology, wire, user).await?;
    // As in PostgreSQL, only who has proven who it is learns which databases there are.
    let allowed = topology.config.users.get(user).and_then(|user| user.databases.as_ref());
    let may_use = |name: &str| allowed.is_none_or(|list| list.iter().any(|listed| listed == name));
    let entry = if replication == Some(Replication::Physical) {
        replication::database_of_physical(&topology, database, may_use).ok_or_else(replication::unclear)?
    } else {
        topology.database(database).ok_or_else(|| {
            ErrorResponse::fatal(
                SqlState::INVALID_CATALOG_NAME,
                format!("database \"{database}\" does not exist"),
            )
            .hint("The databases that pgweir serves are listed under databases in pooler.yaml.")
        })?
    };
    if !may_use(&entry.name) {
        return Err(ErrorResponse::fatal(
            SqlState::INSUFFICIENT_PRIVILEGE,
            format!("permission denied for database \"{database}\""),
        )
        .detail("User does not have CONNECT privilege.")
        .hint("users.<name>.databases in pooler.yaml lists what a user may connect to.")
        .into());
    }
    if entry.shard.is_some() {
        refuse_for_shards(&topology, &entry, user, replication.is_some())?;
    }
    let limits = (topology.config.limits.clients, topology.config.limits.clients_per_user);
    let guard = register(context, wire, startup, user, &entry.name, peer, Some(limits))?;
    let (topology, user) = (Arc::clone(&topology), user.to_owned());
    Ok(match replication {
        // The server applies the settings itself: the packet goes on as it came.
        Some(kind) => {
            Admitted::Replication(Box::new(Admission { guard, kind, topology, database: entry, user }))
        }
        None => {
            let startup = context.settings.intern(settings?);
            Admitted::Client(Box::new(Login { guard, topology, database: entry, user, startup }))
        }
    })
}

async fn admit_to_console(
    context: &Arc<SessionContext>,
    topology: &Topology,
    wire: &mut Wire,
    startup: &StartupMessage,
    user: &str,
    peer: &Peer,
) -> Result<Admitted, Refusal> {
    let admin = &topology.config.admin;
    // Whoever is this process's own user on this machine could stop it anyhow.
    let is_self = matches!(peer, Peer::Unix { uid } if *uid == rustix::process::getuid().as_raw());
    let role = if is_self || admin.users.iter().any(|name| name == user) {
        Some(console::Role::Admin)
    } else if admin.stats_users.iter().any(|name| name == user) {
        Some(console::Role::Stats)
    } else {
        None
    };
    if is_self {
        backend::authentication(&mut wire.outbox, &AUTHENTICATION_OK);
    } else {
        authenticate(context, topology, wire, user).await?;
    }
    let role = role.ok_or_else(|| {
        ErrorResponse::fatal(SqlState::INSUFFICIENT_PRIVILEGE, "not allowed to use the admin console")
            .hint("admin.users and admin.stats_users in pooler.yaml list who may.")
    })?;
    let guard = register(context, wire, startup, user, "pgbouncer", peer, None)?;
    for (name, value) in console::parameters() {
        backend::parameter_status(&mut wire.outbox, &name, &value);
    }
    let key = &guard.handle().cancel_key;
    backend::backend_key_data(&mut wire.outbox, key.id.0.cast_signed(), &key.secret);
    backend::ready_for_query(&mut wire.outbox, TransactionStatus::Idle);
    wire.flush().await?;
    Ok(Admitted::Console(guard, role))
}

fn draining() -> ErrorResponse {
    ErrorResponse::fatal(SqlState::CANNOT_CONNECT_NOW, "the pooler is shutting down").hint("Connect again.")
}

/// Runs the exchange of the configured method to its end.
async fn authenticate(
    context: &SessionContext,
    topology: &Topology,
    wire: &mut Wire,
    user: &str,
) -> Result<(), Refusal> {
    let method = topology.config.auth.method;
    let password = topology.config.users.get(user).and_then(|user| user.password.as_ref());
    let (mut exchange, mut step) =
        ClientExchange::start(&context.authenticator, method, user, password, &SystemRandom);
    debug_assert!(method != AuthMethod::Trust || matches!(step, Step::Accept(_)));
    loop {
        step = match step {
            Step::Send(body) => {
                backend::authentication(&mut wire.outbox, &body);
                wire.flush().await?;
                let body = password_message(wire).await?;
                exchange.on_message(&body)
            }
            Step::Derive(work) => {
                // PBKDF2 takes a millisecond: not on the event loop.
                let done = task::spawn_blocking(move || work.run()).await;
                done.map_err(|error| ErrorResponse::fatal(SqlState::INTERNAL_ERROR, error.to_string()))?;
                exchange.on_derived()
            }
            Step::Accept(accepted) => {
                if let Some(body) = accepted.final_message {
                    backend::authentication(&mut wire.outbox, &body);
                }
                backend::authentication(&mut wire.outbox, &AUTHENTICATION_OK);
                return Ok(());
            }
            Step::Reject(error) => {
                if let Some(reason) = error.log_reason() {
                    tracing::info!(user, reason, "authentication failed");
                }
                let code =
                    SqlState::from_bytes(error.sqlstate().as_bytes()).unwrap_or(SqlState::INVALID_PASSWORD);
                let mut response = ErrorResponse::fatal(code, error.message().to_owned());
                response.detail = error.detail().map(|detail| detail.to_owned().into());
                return Err(response.into());
            }
        };
    }
}

async fn password_message(wire: &mut Wire) -> Result<Vec<u8>, Refusal> {
    let violation = |what: String| Refusal::Told(ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, what));
    loop {
        match frame::split(&wire.inbox, RESPONSE_BYTES_MAX + HEADER_LEN) {
            Err(error) => return Err(violation(error.to_string())),
            Ok(Some((header, body, _))) => {
                if header.tag != FrontendTag::PASSWORD.0 {
                    return Err(violation(format!(
                        "expected password response, got message type {}",
                        header.tag
                    )));
                }
                let body = body.to_vec();
                wire.inbox.advance(header.total_len);
                return Ok(body);
            }
            Ok(None) => wire.fill().await.map(drop)?,
        }
    }
}

/// Takes the client into the registry, under a number and key of its own.
fn register(
    context: &Arc<SessionContext>,
    wire: &Wire,
    startup: &StartupMessage,
    user: &str,
    database: &str,
    peer: &Peer,
    limits: Option<(usize, usize)>,
) -> Result<ClientGuard, ErrorResponse> {
    let (address, port, local_address, local_port) = match peer {
        Peer::Tcp { remote, local } => {
            (remote.ip().to_string(), remote.port(), local.ip().to_string(), local.port())
        }
        Peer::Unix { .. } => ("unix".to_owned(), 0, "unix".to_owned(), 0),
    };
    let info = ClientInfo {
        user: user.to_owned(),
        database: database.to_owned(),
        address,
        port,
        local_address,
        local_port,
        tls: wire.stream().tls_description().map(String::into_boxed_str),
        application_name: startup.value("application_name").unwrap_or("").to_owned(),
        replication: replication::kind(startup).unwrap_or_default(),
        connected_at: SystemTime::now(),
    };
    let key = cancel_key(context, startup.minor)?;
    context.clients.admit(ClientHandle::new(key, info, Instant::now()), limits).map_err(|refused| {
        match refused {
            Refused::TooManyClients => {
                ErrorResponse::fatal(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
                    .hint("limits.clients in pooler.yaml sets how many there may be.")
            }
            Refused::TooManyOfUser => ErrorResponse::fatal(
                SqlState::TOO_MANY_CONNECTIONS,
                format!("too many connections for role \"{user}\""),
            )
            .hint("limits.clients_per_user in pooler.yaml sets how many there may be."),
        }
    })
}

fn cancel_key(context: &SessionContext, minor: u16) -> Result<CancelKey, ErrorResponse> {
    // Long keys came with protocol 3.2.
    let length = if minor >= 2 { 32 } else { 4 };
    let no_random =
        |_| ErrorResponse::fatal(SqlState::INTERNAL_ERROR, "could not generate random cancel key");
    let mut secret = vec![0; length];
    SystemRandom.fill(&mut secret).map_err(no_random)?;
    loop {
        let mut id = [0; 4];
        SystemRandom.fill(&mut id).map_err(no_random)?;
        // Positive, since clients show it as a process id.
        let id = ClientId(u32::from_be_bytes(id) & 0x7fff_ffff);
        if id.0 != 0 && !context.clients.contains(id) {
            return Ok(CancelKey { id, secret });
        }
    }
}

/// What a sharded database is not for.
fn refuse_for_shards(
    topology: &Topology,
    entry: &DatabaseEntry,
    user: &str,
    replicates: bool,
) -> Result<(), ErrorResponse> {
    let (what, hint) = if replicates {
        ("replication", "Connect to the server of a shard.")
    } else if topology.pool_settings(entry, user).mode == PoolMode::Session {
        (
            "pool mode session, which keeps each client on one server connection,",
            "Set pool.mode to transaction for this database and user in pooler.yaml.",
        )
    } else {
        return Ok(());
    };
    let message = format!("{what} is not supported in sharded database \"{}\"", entry.name);
    Err(ErrorResponse::fatal(SqlState::FEATURE_NOT_SUPPORTED, message).hint(hint))
}

fn new_session(context: &Arc<SessionContext>, wire: Wire, login: Login) -> ClientSession {
    let Login { guard, topology, database, user, startup } = login;
    let mode: PoolMode = topology.pool_settings(&database, &user).mode;
    let user_consistency = topology.config.users.get(&user).and_then(|user| user.consistency);
    let reading = Reading::shared(&database.name, &startup);
    ClientSession {
        context: Arc::clone(context),
        turn: guard.handle().id.0,
        guard,
        wire,
        topology,
        database,
        sharded: None,
        user,
        mode,
        user_consistency,
        pools: Vec::new(),
        settings: startup.clone(),
        startup,
        restoring: Box::default(),
        told: Parameters::default(),
        lex: LexOptions::default(),
        statements: ClientStatements::default(),
        reading,
        reads_otherwise: false,
        catalog_epoch: 0,
        begun: None,
        last_reader: None,
        retry: Retry::default(),
        writes: Writes::default(),
        exchange: Exchange::default(),
        replay: None,
        heal: None,
        leading: None,
        lease: None,
        target: Target::Primary,
        reason: Reason::Read,
        lead_epoch: 0,
        awaiting_sync: false,
        send_from_inbox: 0,
        pass_to_server: 0,
        pass_to_client: 0,
        scanned: 0,
        discard: 0,
        effects: SessionEffects::NONE,
        wrote: false,
        saw_error: false,
        own_failure: None,
        settings_refused: false,
        server_ended: None,
        pending_set: None,
        deallocates_all: false,
        deallocated_all: false,
        custom_names: BTreeSet::new(),
        unknown_functions: None,
        last_write: LastWrite::None,
        pin: None,
        listening: Listening::default(),
        last_server: 0,
        changes_catalog: false,
        sequenced: false,
        transaction_began: None,
        answered_at: Moment::now(),
        counted: (0, 0),
    }
}

/// Tells the client what a server would tell it: settings, its key, and that it may begin.
async fn welcome(session: &mut ClientSession, startup: &StartupMessage) -> Result<(), Refusal> {
    // The settings of a login that looks like this one are known: no server connection is needed.
    let key = (session.user.clone(), settings_key(&session.startup));
    let known = session.database.reported.lock().get(&key).cloned();
    let reported = match known {
        Some((at, reported)) if at.elapsed() < REPORTED_TTL => reported,
        stale => {
            let fresh = ask_server(session, stale.is_some()).await?;
            match (fresh, stale) {
                (Some(fresh), _) => {
                    let mut cache = session.database.reported.lock();
                    if cache.len() >= REPORTED_MAX {
                        cache.clear();
                    }
                    cache.insert(key, (Instant::now(), fresh.clone()));
                    fresh
                }
                // All connections are busy: what was true a while ago will do.
                (None, Some((_, reported))) => reported,
                (None, None) => {
                    return Err(ErrorResponse::fatal(
                        SqlState::CANNOT_CONNECT_NOW,
                        "no server could be asked",
                    )
                    .into());
                }
            }
        }
    };
    for (name, value) in reported.iter() {
        backend::parameter_status(&mut session.wire.outbox, name, value);
    }
    session.lex = lex_options(&reported);
    session.told = reported;
    let cancel = &session.guard.handle().cancel_key;
    backend::backend_key_data(&mut session.wire.outbox, cancel.id.0.cast_signed(), &cancel.secret);
    backend::ready_for_query(&mut session.wire.outbox, TransactionStatus::Idle);
    session.wire.flush().await?;
    if let Some(name) = startup.value("application_name") {
        tracing::debug!(client = session.guard.handle().id.0, name, "client logged in");
    }
    Ok(())
}

/// Makes the client's startup settings on a server connection and returns what the server reports then.
/// With `only_if_free`, `None` when that would mean to wait.
async fn ask_server(session: &mut ClientSession, only_if_free: bool) -> Result<Option<Parameters>, Refusal> {
    let mut lease = if only_if_free {
        match session.pool(Target::Primary).try_checkout(0) {
            Some(lease) => lease,
            None => return Ok(None),
        }
    } else {
        checkout_anywhere(session).await?
    };
    lease.begin_exchange();
    lease.end_exchange();
    if let Some(sql) = lease.settings.difference(&session.startup) {
        if let Err(error) = lease.simple_query(&sql).await {
            lease.mark_broken();
            return Err(match error {
                crate::server::QueryError::Server { code, message } => {
                    ErrorResponse::fatal(code, message).into()
                }
                other => ErrorResponse::fatal(SqlState::CONNECTION_FAILURE, other.to_string()).into(),
            });
        }
        lease.settings = session.startup.clone();
    }
    let mut reported = Parameters::default();
    for (name, value) in lease.parameters.iter() {
        // A standby says so of itself; the client is told what the primary would say.
        let value = if name == "in_hot_standby" { "off" } else { value };
        reported.insert(name, value);
    }
    session.guard.handle().unlink();
    lease.checkin();
    Ok(Some(reported))
}

/// The primary's settings if it can be had, else a replica's: reads go on while the primary is away.
async fn checkout_anywhere(session: &mut ClientSession) -> Result<crate::pool::ServerLease, Refusal> {
    let write = Work { effect: Effect::Write, ..Work::NONE };
    let gone = |error: super::error::SessionError| match error.response() {
        Some(response) => Refusal::Told(response),
        None => Refusal::Gone(std::io::ErrorKind::UnexpectedEof.into()),
    };
    // Whoever only reads need not wait for a primary.
    let has_replicas = !session.database.cluster.replicas.is_empty();
    let patience = (!has_replicas).then_some(session.database.settings.routing.failover_wait);
    let way = session.route(write, Needs::Nothing);
    let first =
        session.checkout_within(way, write, Needs::Nothing, patience, Moment::now()).await.map_err(gone)?;
    match first {
        Ok(lease) => Ok(lease),
        Err(response) if response.code == SqlState::CANNOT_CONNECT_NOW && has_replicas => {
            let read = Work { effect: Effect::Read, ..Work::NONE };
            session
                .checkout_uncounted(read, Needs::Nothing, Moment::now())
                .await
                .map_err(gone)?
                .map_err(Refusal::Told)
        }
        Err(response) => Err(Refusal::Told(response)),
    }
}

fn settings_key(settings: &Settings) -> String {
    let map: BTreeMap<_, _> = settings.iter().collect();
    format!("{map:?}")
}
