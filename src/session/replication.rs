//! Replication connections: base backups, log streaming, logical decoding.
//!
//! Such a client gets a server connection of its own to the primary, outside the pools, opened with the
//! client's own startup parameters. After the login nothing is changed: bytes go both ways. Where messages
//! begin is followed, so that a last word of ours (at shutdown) does not fall into the middle of one, and
//! whether something is under way, so that a drain lets a backup finish.
//!
//! With `replication=database` a client may send SQL, too. What is no replication command and no plain read
//! is marked as a write to any table, so that no other client reads from a replica that does not have it yet.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Buf;

use crate::clients::{ClientGuard, Order, Replication};
use crate::config::Database;
use crate::net::Wire;
use crate::pool::{CheckoutError, DatabaseEntry, ReplicationPlace, ReplicationServer, Topology};
use crate::protocol::frame::HEADER_LEN;
use crate::protocol::startup::StartupMessage;
use crate::protocol::{BackendTag, ErrorResponse, FrontendTag, SqlState, TransactionStatus, backend};
use crate::server::{ConnectError, ServerConn};
use crate::sql::{Effect, LexOptions, StatementCache};
use crate::task::Moment;

use super::context::SessionContext;
use super::error::{SessionError, checkout_response};
use super::writes::Writes;

/// What the server is asked for as the database where there is none: the word of `pg_hba.conf`.
const NO_DATABASE: &str = "replication";
/// Parameters that are ours to set.
const NOT_PASSED_ON: &[&str] = &["user", "database"];
/// The first words of what PostgreSQL's replication grammar reads; none of it writes to tables.
const REPLICATION_COMMANDS: &[&str] = &[
    "alter_replication_slot",
    "base_backup",
    "create_replication_slot",
    "drop_replication_slot",
    "identify_system",
    "read_replication_slot",
    "start_replication",
    "timeline_history",
    "upload_manifest",
];
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
    answers: Answers,
    /// The client has sent something that the server has not answered to the end.
    asked: bool,
    /// Of a logical connection: what it may have written.
    written: Option<Written>,
    _place: ReplicationPlace,
}

/// What the SQL of a logical connection may have written.
struct Written {
    context: Arc<SessionContext>,
    database: Arc<DatabaseEntry>,
    follower: Follower,
    /// How many messages were sent that are answered by ReadyForQuery.
    requests: u64,
    marks: Writes,
}

impl Written {
    /// Looks at what the client has sent before it is passed on.
    fn sent(&mut self, bytes: &[u8]) {
        let Self { context, database, follower, requests, marks } = self;
        follower.each(bytes, |begins, rest| {
            let tag = FrontendTag(begins.tag);
            let is_request =
                matches!(tag, FrontendTag::QUERY | FrontendTag::SYNC | FrontendTag::FUNCTION_CALL);
            *requests += u64::from(is_request);
            if is_request
                && tag != FrontendTag::SYNC
                && database.horizons.is_watched()
                && may_write(&context.statements, begins.body, rest)
            {
                // It may change the catalog as well.
                marks.begin_ddl(database);
            }
        });
    }

    /// Looks at what the server has answered.
    fn settle(&mut self, answers: &Answers) {
        if !self.marks.is_empty() && answers.is_idle_behind(self.requests) {
            self.marks.before_acknowledgment(true);
            self.marks.acknowledged(&self.database.cluster);
        }
    }
}

/// Whether a Query whose body is `body` bytes long, the first of them in `seen`, may write.
fn may_write(statements: &StatementCache, body: usize, seen: &[u8]) -> bool {
    let whole = seen.get(..body).and_then(|body| body.strip_suffix(b"\0"));
    let text = whole.unwrap_or(seen).trim_ascii_start();
    let is_word = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    let word = text.split(|byte| !is_word(byte)).next().unwrap_or_default();
    // A word that ends where the bytes end may go on.
    let is_command = (word.len() < text.len() || whole.is_some())
        && REPLICATION_COMMANDS.iter().any(|command| word.eq_ignore_ascii_case(command.as_bytes()));
    let reads = |text| statements.analyze(text, LexOptions::default()).effect <= Effect::Read;
    !is_command && !whole.is_some_and(reads)
}

/// Opens the server connection and tells the client what the server says of itself.
///
/// # Errors
/// What the client is to be told, and its connection for that; an I/O error of the client's otherwise.
pub(super) async fn open(
    context: &Arc<SessionContext>,
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
        answers: Answers::default(),
        asked: false,
        written: (admission.kind == Replication::Logical).then(|| Written {
            context: Arc::clone(context),
            database: admission.database,
            follower: Follower::default(),
            requests: 0,
            marks: Writes::default(),
        }),
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
    info.identity.lend(guard.handle().id, Moment::now());
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
        self.guard.handle().works(Moment::now());
        if let Some(written) = &mut self.written {
            // Sent along with the login.
            written.sent(&self.client.inbox);
        }
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
        if let Some(response) = last_words.filter(|_| self.answers.at_boundary(&self.client.outbox)) {
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
        while !self.answers.at_boundary(&self.client.outbox) {
            let inbox = &self.server.wire.inbox;
            if inbox.is_empty() && poll_fn(|cx| self.server.wire.poll_fill(cx)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let inbox = &mut self.server.wire.inbox;
            let part = inbox.split_to(self.answers.follower.body_left.clamp(1, inbox.len()));
            self.answers.follow(&part);
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
            let written = &mut self.written;
            let read = |bytes: &[u8]| written.iter_mut().for_each(|written| written.sent(bytes));
            let to_server = pump(&mut self.client, &mut self.server.wire, cx, read, |_| self.asked = true);
            let to_client = pump(
                &mut self.server.wire,
                &mut self.client,
                cx,
                |_| {},
                |bytes| {
                    self.answers.follow(bytes);
                    self.asked &= !self.answers.is_ready;
                },
            );
            if let Some(written) = &mut self.written {
                written.settle(&self.answers);
            }
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
            Order::Drain => self.answers.is_streaming || !self.asked,
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
/// that does not read costs one buffer. `read` sees all bytes before they are passed on, `wrote` behind it.
fn pump(
    from: &mut Wire,
    to: &mut Wire,
    cx: &mut Context<'_>,
    mut read: impl FnMut(&[u8]),
    mut wrote: impl FnMut(&[u8]),
) -> Pumped {
    match to.poll_flush(cx) {
        Poll::Ready(Ok(())) => {}
        Poll::Ready(Err(error)) => return Pumped::Ended(Side::To(error)),
        Poll::Pending => return Pumped::Pending,
    }
    if from.inbox.is_empty() {
        match from.poll_fill(cx) {
            Poll::Ready(Ok(0)) => return Pumped::Ended(Side::From(None)),
            Poll::Ready(Ok(_)) => read(&from.inbox),
            Poll::Ready(Err(error)) => return Pumped::Ended(Side::From(Some(error))),
            Poll::Pending => return Pumped::Pending,
        }
    }
    match to.poll_write(cx, &from.inbox) {
        Poll::Ready(Ok(count)) => {
            wrote(from.inbox.get(..count).unwrap_or_default());
            from.inbox.advance(count);
            Pumped::Moved
        }
        Poll::Ready(Err(error)) => Pumped::Ended(Side::To(error)),
        Poll::Pending => Pumped::Pending,
    }
}

/// Follows where messages begin in a stream of bytes.
#[derive(Debug, Default)]
struct Follower {
    /// The header of the present message as far as it has come.
    header: [u8; HEADER_LEN],
    header_len: usize,
    /// Bytes of its body still to come.
    body_left: usize,
}

/// A message begins.
struct Begins {
    tag: u8,
    /// Bytes of its body.
    body: usize,
}

impl Follower {
    /// Tells of each message that begins in `bytes`, with what is there of the bytes behind its header.
    fn each(&mut self, mut bytes: &[u8], mut begins: impl FnMut(Begins, &[u8])) {
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
                let [tag, length @ ..] = self.header;
                self.header_len = 0;
                self.body_left = (u32::from_be_bytes(length) as usize).saturating_sub(4);
                begins(Begins { tag, body: self.body_left }, bytes);
            }
        }
    }

    /// Whether another message may follow.
    fn is_between(&self) -> bool {
        self.header_len == 0 && self.body_left == 0
    }
}

/// What the server has said so far, of that which went to the client.
#[derive(Debug, Default)]
struct Answers {
    follower: Follower,
    /// The last message was ReadyForQuery.
    is_ready: bool,
    /// How many of those there were.
    readies: u64,
    /// The status in the last of them; its byte may still be to come.
    status: Option<u8>,
    /// Between CopyBothResponse and ReadyForQuery: log is streamed, without end.
    is_streaming: bool,
}

impl Answers {
    fn follow(&mut self, bytes: &[u8]) {
        let Self { follower, is_ready, readies, status, is_streaming } = self;
        if *is_ready && status.is_none() && !follower.is_between() {
            *status = bytes.first().copied();
        }
        follower.each(bytes, |begins, rest| match BackendTag(begins.tag) {
            BackendTag::READY_FOR_QUERY => {
                (*is_ready, *is_streaming) = (true, false);
                *readies += 1;
                *status = rest.first().copied();
            }
            BackendTag::COPY_BOTH_RESPONSE => (*is_ready, *is_streaming) = (false, true),
            // These come at any time.
            BackendTag::NOTICE_RESPONSE | BackendTag::PARAMETER_STATUS => {}
            _ => *is_ready = false,
        });
    }

    /// Whether a message of ours may follow what was passed on.
    fn at_boundary(&self, unsent: &[u8]) -> bool {
        self.follower.is_between() && unsent.is_empty()
    }

    /// Whether so many requests are answered, and no transaction is open.
    fn is_idle_behind(&self, requests: u64) -> bool {
        let status = self.status.and_then(TransactionStatus::from_byte);
        self.readies >= requests && self.is_ready && status == Some(TransactionStatus::Idle)
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
            let mut answers = Answers::default();
            let mut seen = 0;
            for chunk in stream.chunks(size) {
                answers.follow(chunk);
                seen += chunk.len();
                assert_eq!(answers.at_boundary(b""), [7, 13, 19].contains(&seen), "{size}: {seen}");
            }
            assert!(answers.is_ready && !answers.at_boundary(b"x"));
            assert!(answers.is_idle_behind(1) && !answers.is_idle_behind(2), "{size}");
            answers.follow(b"W\0\0\0\x07\0\0\0");
            assert!(answers.is_streaming && !answers.is_ready);
        }
    }

    #[test]
    fn what_may_write_on_a_logical_connection() {
        let statements = StatementCache::new(1 << 20);
        let of = |text: &str| {
            let body = [text.as_bytes(), b"\0"].concat();
            (
                may_write(&statements, body.len(), &body),
                may_write(&statements, body.len(), &body[..body.len() / 2]),
            )
        };
        assert_eq!(of("INSERT INTO t VALUES (1)"), (true, true));
        assert_eq!(of("SELECT 1"), (false, true));
        assert_eq!(of("SELECT pg_logical_emit_message(true, '', '')"), (true, true));
        assert_eq!(of(" START_REPLICATION SLOT \"s\" LOGICAL 0/0 (proto_version '1')"), (false, false));
        assert_eq!(of("IDENTIFY_SYSTEM"), (false, true));
        assert_eq!(of("show;delete from t"), (true, true));
        assert_eq!(of(""), (false, true));
    }
}
