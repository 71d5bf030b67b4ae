//! Replication connections: base backups, log streaming, logical decoding.
//!
//! Such a client gets a server connection of its own to the primary, outside the pools, opened with the
//! client's own startup parameters. After the login nothing is looked into or changed: bytes go both
//! ways. Only where messages begin is followed, so that a last word of ours (at shutdown) does not fall
//! into the middle of one, and whether something is under way, so that a drain lets a backup finish.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Buf;

use crate::clients::{Activity, ClientGuard, Order, Replication};
use crate::config::Database;
use crate::net::Wire;
use crate::pool::{CheckoutError, DatabaseEntry, ReplicationPlace, ReplicationServer, Topology};
use crate::protocol::frame::HEADER_LEN;
use crate::protocol::startup::StartupMessage;
use crate::protocol::{BackendTag, ErrorResponse, SqlState, TransactionStatus, backend};
use crate::server::{ConnectError, ServerActivity, ServerConn};

use super::context::SessionContext;
use super::error::{SessionError, checkout_response};

/// What the server is asked for as the database where there is none: the word of `pg_hba.conf`.
const NO_DATABASE: &str = "replication";
/// Parameters that are ours to set.
const NOT_PASSED_ON: &[&str] = &["user", "database"];
/// How long the last words to a client may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the startup packet asks for; `None` for an ordinary connection.
///
/// # Errors
/// When the value is none that PostgreSQL knows.
pub(super) fn kind(startup: &StartupMessage) -> Result<Option<Replication>, ErrorResponse> {
    let Some(value) = startup.value("replication") else { return Ok(None) };
    if value == "database" {
        return Ok(Some(Replication::Logical));
    }
    parse_bool(value).map(|on| on.then_some(Replication::Physical)).ok_or_else(|| {
        ErrorResponse::fatal(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("invalid value for parameter \"replication\": \"{value}\""),
        )
        .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")
    })
}

/// As the server reads booleans: words may be cut short where they are unique.
fn parse_bool(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let short_for = |word: &str| !value.is_empty() && word.starts_with(&value);
    match &*value {
        "on" | "1" => Some(true),
        "of" | "off" | "0" => Some(false),
        _ if short_for("true") || short_for("yes") => Some(true),
        _ if short_for("false") || short_for("no") => Some(false),
        _ => None,
    }
}

/// The database whose primary a physical connection is for: the one it names, or any of those it may use
/// if they are all on the same server. `None` when that is not clear.
pub(super) fn database_of_physical(
    topology: &Topology,
    named: &str,
    may_use: impl Fn(&str) -> bool,
) -> Option<Arc<DatabaseEntry>> {
    let config = &topology.config;
    if config.databases.contains_key(named) && may_use(named) {
        return topology.database(named);
    }
    let primary = |database: &Database| (database.primary.host.clone(), database.primary.port);
    let allowed: Vec<_> = config.databases.iter().filter(|(name, _)| may_use(name)).collect();
    let wildcard = config.wildcard_database.as_ref().filter(|_| may_use(named));
    let mut primaries = allowed.iter().map(|(_, database)| *database).chain(wildcard).map(primary);
    let first = primaries.next()?;
    if primaries.any(|other| other != first) {
        return None;
    }
    topology.database(allowed.first().map_or(named, |(name, _)| name))
}

/// What a physical connection is told when it is not clear which server it is for.
pub(super) fn unclear() -> ErrorResponse {
    ErrorResponse::fatal(
        SqlState::INVALID_CATALOG_NAME,
        "which server the replication connection is for is not clear",
    )
    .detail("The databases that this user may use are not all on the same primary.")
    .hint("Give the name of a database in pooler.yaml as dbname: its primary is used.")
}

/// A replication client that may enter.
pub(super) struct Admission {
    pub(super) guard: ClientGuard,
    pub(super) kind: Replication,
    pub(super) topology: Arc<Topology>,
    pub(super) database: Arc<DatabaseEntry>,
    pub(super) user: String,
}

/// One replication client and its server connection, both logged in.
pub(super) struct ReplicationSession {
    guard: ClientGuard,
    client: Wire,
    server: Box<ServerConn>,
    follower: Follower,
    /// The client has sent something that the server has not answered to the end.
    asked: bool,
    _place: ReplicationPlace,
}

/// Opens the server connection and tells the client what the server says of itself.
///
/// # Errors
/// What the client is to be told, and its connection for that; an I/O error of the client's otherwise.
pub(super) async fn open(
    context: &SessionContext,
    mut client: Wire,
    startup: &StartupMessage,
    admission: Admission,
) -> Result<ReplicationSession, (Wire, Option<ErrorResponse>)> {
    let (server, place) = match connect(context, startup, &admission).await {
        Ok(opened) => opened,
        Err(error) => return Err((client, Some(error.into_fatal()))),
    };
    let guard = admission.guard;
    guard.handle().link(Arc::clone(server.identity()));
    for (name, value) in server.parameters.iter() {
        backend::parameter_status(&mut client.outbox, name, value);
    }
    let key = &guard.handle().cancel_key;
    backend::backend_key_data(&mut client.outbox, key.id.0.cast_signed(), &key.secret);
    backend::ready_for_query(&mut client.outbox, TransactionStatus::Idle);
    if client.flush().await.is_err() {
        return Err((client, None));
    }
    tracing::info!(
        client = guard.handle().id.0,
        user = admission.user,
        kind = admission.kind.label(),
        server = %server.identity().host,
        "replication begins"
    );
    Ok(ReplicationSession {
        guard,
        client,
        server,
        follower: Follower::default(),
        asked: false,
        _place: place,
    })
}

async fn connect(
    context: &SessionContext,
    startup: &StartupMessage,
    admission: &Admission,
) -> Result<(Box<ServerConn>, ReplicationPlace), ErrorResponse> {
    let Admission { guard, kind, topology, database, user } = admission;
    let limit = topology.config.limits.replication_connections;
    let place = context.pools.replication.take_place(limit).ok_or_else(|| {
        ErrorResponse::fatal(
            SqlState::TOO_MANY_CONNECTIONS,
            format!("too many replication connections: the limit is {limit}"),
        )
        .hint("limits.replication_connections in pooler.yaml sets how many there may be.")
    })?;
    let mut target = topology.target(database, user, database.cluster.writer());
    if *kind == Replication::Physical {
        NO_DATABASE.clone_into(&mut target.database);
    }
    target.extra = startup
        .parameters
        .iter()
        .filter(|(name, _)| !NOT_PASSED_ON.contains(&name.as_str()) && !name.starts_with("_pq_."))
        .cloned()
        .collect();
    let server = ServerConn::connect(&target).await.map_err(|error| match error {
        // The server's own words: this connection is the client's alone.
        ConnectError::Refused { code, message, .. } => ErrorResponse::fatal(code, message),
        other => checkout_response(&CheckoutError::Connect(Arc::new(other)), limit),
    })?;
    let info = &server.info;
    info.set_activity(ServerActivity::Active);
    info.client.store(guard.handle().id.0, Ordering::Relaxed);
    guard.handle().info.application_name.clone_into(&mut info.application_name.lock());
    place.opened(ReplicationServer {
        database: database.name.clone(),
        user: user.clone(),
        kind: *kind,
        info: Arc::clone(info),
    });
    Ok((Box::new(server), place))
}

impl ReplicationSession {
    /// Passes bytes both ways until a side leaves or the session is told to end.
    ///
    /// # Cancel safety
    /// Dropped at any await, it closes both connections.
    pub(super) async fn run(mut self) {
        self.guard.handle().set_activity(Activity::Active, Instant::now());
        let end = poll_fn(|cx| self.poll(cx)).await;
        let client = self.guard.handle().id.0;
        match &end {
            Ok(()) => tracing::info!(client, "replication ended"),
            Err(error) => tracing::info!(client, %error, "replication ended"),
        }
        self.guard.handle().unlink();
        if matches!(end, Err(SessionError::Ordered(_))) {
            let _ = tokio::time::timeout(GOODBYE, self.finish_message()).await;
        }
        let last_words = end.err().and_then(|error| error.response());
        if let Some(response) = last_words.filter(|_| self.follower.at_boundary(&self.client.outbox)) {
            response.write(&mut self.client.outbox);
        }
        let _ = tokio::time::timeout(GOODBYE, self.client.flush()).await;
        let _ = tokio::time::timeout(GOODBYE, self.client.shutdown()).await;
        // The client's own last message may be a Terminate, which the server must still get.
        let _ = tokio::time::timeout(GOODBYE, self.server.wire.flush()).await;
    }

    /// Passes on what is left of a message that has begun, so that one of ours may follow.
    async fn finish_message(&mut self) -> io::Result<()> {
        self.client.flush().await?;
        while !self.follower.at_boundary(&self.client.outbox) {
            let inbox = &self.server.wire.inbox;
            if inbox.is_empty() && poll_fn(|cx| self.server.wire.poll_fill(cx)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let inbox = &mut self.server.wire.inbox;
            let part = inbox.split_to(self.follower.body_left.clamp(1, inbox.len()));
            self.follower.follow(&part);
            self.client.outbox.extend_from_slice(&part);
            self.client.flush().await?;
        }
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        let order = self.guard.handle().pending_order(Some(cx));
        if self.must_end(order) {
            return Poll::Ready(Err(SessionError::Ordered(order)));
        }
        loop {
            let to_server = pump(&mut self.client, &mut self.server.wire, cx, |_| self.asked = true);
            let to_client = pump(&mut self.server.wire, &mut self.client, cx, |bytes| {
                self.follower.follow(bytes);
                self.asked &= !self.follower.is_ready;
            });
            match (to_server, to_client) {
                // The server's last words come before the end of either side.
                (Pumped::Ended(Side::From(error)), Pumped::Pending) => {
                    return Poll::Ready(match error {
                        Some(error) => Err(SessionError::ClientGone(error)),
                        None => Ok(()),
                    });
                }
                (_, Pumped::Ended(Side::From(None))) => return Poll::Ready(Ok(())),
                (_, Pumped::Ended(Side::From(Some(error))))
                | (Pumped::Ended(Side::To(error)), Pumped::Pending) => {
                    return Poll::Ready(Err(SessionError::ServerLost(error.to_string())));
                }
                (_, Pumped::Ended(Side::To(error))) => {
                    return Poll::Ready(Err(SessionError::ClientGone(error)));
                }
                (Pumped::Pending, Pumped::Pending) => {
                    // A drain that waited for the end of a command.
                    return if self.must_end(order) {
                        Poll::Ready(Err(SessionError::Ordered(order)))
                    } else {
                        Poll::Pending
                    };
                }
                _ => {}
            }
        }
    }

    /// A stream never ends by itself, so a drain ends it; a backup under way may finish.
    fn must_end(&self, order: Order) -> bool {
        match order {
            Order::Drain => self.follower.is_streaming || !self.asked,
            Order::Kill | Order::Shutdown => true,
            // These are about statements and transactions.
            Order::None
            | Order::IdleTimeout
            | Order::IdleInTransactionTimeout
            | Order::TransactionTimeout
            | Order::QueryTimeout
            | Order::NotificationOverflow
            | Order::ListenerLost
            | Order::PrimaryChanged => false,
        }
    }
}

/// Who ended it.
enum Side {
    /// The one read from; `None` when it has closed in order.
    From(Option<io::Error>),
    /// The one written to.
    To(io::Error),
}

enum Pumped {
    /// Something was moved.
    Moved,
    /// Nothing can be moved now.
    Pending,
    /// Nothing will be moved any more.
    Ended(Side),
}

/// Moves what one side has sent to the other. What was read is written before more is read, so a side
/// that does not read costs one buffer.
fn pump(from: &mut Wire, to: &mut Wire, cx: &mut Context<'_>, mut look: impl FnMut(&[u8])) -> Pumped {
    match to.poll_flush(cx) {
        Poll::Ready(Ok(())) => {}
        Poll::Ready(Err(error)) => return Pumped::Ended(Side::To(error)),
        Poll::Pending => return Pumped::Pending,
    }
    if from.inbox.is_empty() {
        match from.poll_fill(cx) {
            Poll::Ready(Ok(0)) => return Pumped::Ended(Side::From(None)),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Pumped::Ended(Side::From(Some(error))),
            Poll::Pending => return Pumped::Pending,
        }
    }
    match to.poll_write(cx, &from.inbox) {
        Poll::Ready(Ok(count)) => {
            look(from.inbox.get(..count).unwrap_or_default());
            from.inbox.advance(count);
            Pumped::Moved
        }
        Poll::Ready(Err(error)) => Pumped::Ended(Side::To(error)),
        Poll::Pending => Pumped::Pending,
    }
}

/// Follows where messages begin in what went to the client.
#[derive(Debug, Default)]
struct Follower {
    /// The header of the present message as far as it has come.
    header: [u8; HEADER_LEN],
    header_len: usize,
    /// Bytes of its body still to come.
    body_left: usize,
    /// The last message was ReadyForQuery.
    is_ready: bool,
    /// Between CopyBothResponse and ReadyForQuery: log is streamed, without end.
    is_streaming: bool,
}

impl Follower {
    fn follow(&mut self, mut bytes: &[u8]) {
        while let Some(&first) = bytes.first() {
            if self.body_left > 0 {
                let count = self.body_left.min(bytes.len());
                self.body_left -= count;
                bytes = bytes.get(count..).unwrap_or_default();
                continue;
            }
            if let Some(slot) = self.header.get_mut(self.header_len) {
                *slot = first;
            }
            self.header_len += 1;
            bytes = bytes.get(1..).unwrap_or_default();
            if self.header_len == HEADER_LEN {
                self.header_len = 0;
                self.begins(self.header);
            }
        }
    }

    fn begins(&mut self, [tag, length @ ..]: [u8; HEADER_LEN]) {
        self.body_left = (u32::from_be_bytes(length) as usize).saturating_sub(4);
        match BackendTag(tag) {
            BackendTag::READY_FOR_QUERY => (self.is_ready, self.is_streaming) = (true, false),
            BackendTag::COPY_BOTH_RESPONSE => (self.is_ready, self.is_streaming) = (false, true),
            // These come at any time.
            BackendTag::NOTICE_RESPONSE | BackendTag::PARAMETER_STATUS => {}
            _ => self.is_ready = false,
        }
    }

    /// Whether a message of ours may follow what was passed on.
    fn at_boundary(&self, unsent: &[u8]) -> bool {
        self.header_len == 0 && self.body_left == 0 && unsent.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(value: &str) -> Result<Option<Replication>, ErrorResponse> {
        let parameters = vec![("replication".to_owned(), value.to_owned())];
        kind(&StartupMessage { minor: 0, parameters })
    }

    #[test]
    fn what_is_asked_for_is_read_as_postgresql_reads_it() {
        for value in ["true", "on", "1", "yes", "T", "tr", "YES"] {
            assert_eq!(asked(value).unwrap(), Some(Replication::Physical), "{value}");
        }
        for value in ["false", "off", "0", "no", "f", "of"] {
            assert_eq!(asked(value).unwrap(), None, "{value}");
        }
        assert_eq!(asked("database").unwrap(), Some(Replication::Logical));
        for value in ["", "o", "2", "logical", "truely"] {
            assert!(asked(value).is_err(), "{value}");
        }
    }

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let stream = b"T\0\0\0\x06abC\0\0\0\x05xZ\0\0\0\x05I";
        for size in 1..stream.len() {
            let mut follower = Follower::default();
            let mut seen = 0;
            for chunk in stream.chunks(size) {
                follower.follow(chunk);
                seen += chunk.len();
                assert_eq!(follower.at_boundary(b""), [7, 13, 19].contains(&seen), "{size}: {seen}");
            }
            assert!(follower.is_ready && !follower.at_boundary(b"x"));
            follower.follow(b"W\0\0\0\x07\0\0\0");
            assert!(follower.is_streaming && !follower.is_ready);
        }
    }
}
