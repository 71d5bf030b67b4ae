//! The task that owns a listener connection: asks the server for what sessions ask, and sorts what it says
//! into mailboxes.
//!
//! One question is under way at a time; what is asked meanwhile becomes the next one, so many sessions
//! share a round trip.

use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::time::Instant;

use crate::clients::{ClientId, Notification, Put, notification_channel};
use crate::protocol::frame::SERVER_FRAME_LIMIT;
use crate::protocol::{BackendTag, ErrorFields, frame, frontend};
use crate::server::{ServerConn, ServerInfo, connections_opened};

use super::table::{Change, Channel};
use super::{ListenError, Listener, Request, Running};
use crate::pool::PoolRegistry;

/// A listener that nobody uses is closed after this.
const LINGER: Duration = Duration::from_secs(5);
/// A silent connection is asked whether it is still there, and still the primary.
const PING_PERIOD: Duration = Duration::from_secs(10);
/// An answer takes longer than this only if there will be none. At least; `timeouts.server_connect` if longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two looks for the client behind a process that is not known, while no connection is opened.
const SEARCH_PERIOD: Duration = Duration::from_secs(1);

/// What would end a connection that is silent for long, or disturb it. The rest of a role's settings do no harm.
const SETUP: &str = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name IN \
('idle_session_timeout', 'idle_in_transaction_session_timeout', 'statement_timeout', 'lock_timeout', 'transaction_timeout')";
const PING: &str = "SELECT pg_catalog.pg_is_in_recovery()";

/// Opens the connection and serves until it is lost or not needed any more.
pub(super) async fn run(listener: Arc<Listener>, registry: Weak<PoolRegistry>) {
    let running = Running { listener: Arc::clone(&listener), registry: Weak::clone(&registry) };
    let mut connection = match ServerConn::connect(&listener.target).await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::info!(
                database = listener.key.database, user = listener.key.user, %error,
                "could not open a listener connection"
            );
            return running.end(&ListenError::Connect(Arc::new(error)));
        }
    };
    if let Err(error) = connection.simple_query(SETUP).await {
        return running.end(&ListenError::Lost(error.to_string().into()));
    }
    "pgweir listener".clone_into(&mut connection.info.application_name.lock());
    listener.shared.lock().info = Some(Arc::clone(&connection.info));
    tracing::info!(
        database = listener.key.database, user = listener.key.user, node = %listener.node.address,
        pid = connection.identity().pid, "listener connection opened"
    );
    let mut task = Task { listener: &listener, registry: &registry, servers: HashMap::new(), searched: None };
    let end = task.serve(&mut connection).await;
    match end {
        End::Unused => {
            connection.say_goodbye();
            tracing::info!(
                database = listener.key.database,
                user = listener.key.user,
                "listener connection closed"
            );
            running.end(&ListenError::Lost("the listener is not used any more".into()));
        }
        End::Lost(why) => running.end(&ListenError::Lost(why.into())),
    }
}

/// Why a connection is not served any more.
enum End {
    Unused,
    Lost(String),
}

/// A question that was sent.
#[derive(Default)]
struct Round {
    requests: Vec<Request>,
    change: Change,
    is_ping: bool,
}

struct Task<'a> {
    listener: &'a Listener,
    registry: &'a Weak<PoolRegistry>,
    /// Server connections of ours by their process.
    servers: HashMap<i32, Weak<ServerInfo>>,
    /// When that was last looked for, and how many server connections had been opened by then.
    searched: Option<(Instant, u64)>,
}

impl Task<'_> {
    /// # Cancel safety
    /// Dropped, it closes the connection; [`Running`] tells everybody.
    async fn serve(&mut self, connection: &mut ServerConn) -> End {
        let patience = PATIENCE.max(self.listener.target.timeout);
        let mut round: Option<Round> = None;
        // When the question under way must be answered, or else what is due next.
        let mut due = Instant::now() + PING_PERIOD;
        let mut unused_since = None;
        loop {
            if self.listener.is_closed() {
                // Somebody has closed it, and told everybody.
                return End::Unused;
            }
            if round.is_none() {
                round = self.next_round(connection);
                let now = Instant::now();
                due = now + if round.is_some() { patience } else { PING_PERIOD };
                let is_unused = self.listener.shared.lock().table.is_empty();
                unused_since = if is_unused { unused_since.or(Some(now)) } else { None };
                if let (None, Some(since)) = (&round, unused_since) {
                    due = since + LINGER;
                }
            }
            let heard = tokio::select! {
                heard = poll_fn(|cx| {
                    // Both directions at once: the server may wait for us to read before it reads.
                    if let Poll::Ready(Err(error)) = connection.wire.poll_flush(cx) {
                        return Poll::Ready(Err(error));
                    }
                    connection.wire.poll_fill(cx)
                }) => Some(heard),
                () = self.listener.work.notified() => None,
                () = tokio::time::sleep_until(due) => {
                    if round.is_some() {
                        return End::Lost(format!("the server has not answered for {} s", patience.as_secs()));
                    }
                    if self.listener.close_if_unused() {
                        return End::Unused;
                    }
                    frontend::query(&mut connection.wire.outbox, PING.as_bytes());
                    round = Some(Round { is_ping: true, ..Round::default() });
                    due = Instant::now() + patience;
                    None
                }
            };
            match heard {
                None => {}
                Some(Ok(0)) => return End::Lost("the server closed the connection".to_owned()),
                Some(Err(error)) => return End::Lost(error.to_string()),
                Some(Ok(_)) => {
                    if let Err(why) = self.consume(connection, &mut round) {
                        return End::Lost(why);
                    }
                }
            }
        }
    }

    /// Sends what is to be asked now.
    fn next_round(&self, connection: &mut ServerConn) -> Option<Round> {
        let mut shared = self.listener.shared.lock();
        let requests = std::mem::take(&mut shared.requests);
        let joined: BTreeSet<&Channel> = requests
            .iter()
            .filter_map(|request| request.join.as_ref())
            .flat_map(|(_, channels)| channels)
            .collect();
        let change = shared.table.change(&joined);
        drop(shared);
        if requests.is_empty() && change.is_empty() {
            return None;
        }
        // Nothing to change: an empty query, which is answered in its turn like any other.
        frontend::query(&mut connection.wire.outbox, &change.sql());
        Some(Round { requests, change, ..Round::default() })
    }

    fn consume(&mut self, connection: &mut ServerConn, round: &mut Option<Round>) -> Result<(), String> {
        loop {
            let cut = frame::split(&connection.wire.inbox, SERVER_FRAME_LIMIT);
            let Some((header, body, _)) = cut.map_err(|error| error.to_string())? else { return Ok(()) };
            match BackendTag(header.tag) {
                BackendTag::NOTIFICATION_RESPONSE => self.distribute(body)?,
                // Nothing that is asked here fails on a primary in good health.
                BackendTag::ERROR_RESPONSE => {
                    return Err(ErrorFields::read(body).message_lossy().into_owned());
                }
                BackendTag::DATA_ROW
                    if body.last() == Some(&b't') && round.as_ref().is_some_and(|round| round.is_ping) =>
                {
                    return Err("the node is not the primary any more".to_owned());
                }
                BackendTag::READY_FOR_QUERY => match round.take() {
                    Some(round) => self.finish(round),
                    None => return Err("an answer that was not asked for".to_owned()),
                },
                _ => {}
            }
            connection.wire.inbox.advance(header.total_len);
        }
    }

    /// The question is answered: who joins has joined, from this point of the stream on.
    fn finish(&mut self, round: Round) {
        let mut shared = self.listener.shared.lock();
        shared.table.changed(round.change);
        for request in round.requests {
            if let Some(server) = request.claim {
                self.servers.retain(|_, server| server.strong_count() > 0);
                self.servers.insert(server.identity.pid, Arc::downgrade(&server));
            }
            if let Some((mailbox, channels)) = &request.join
                && !mailbox.is_closed()
            {
                for channel in channels {
                    shared.table.add(channel, mailbox);
                }
            }
            let _ = request.done.send(Ok(()));
        }
    }

    /// One notification, to everybody who listens to its channel.
    fn distribute(&mut self, mut body: &[u8]) -> Result<(), String> {
        if body.len() < 6 {
            return Err("malformed notification".to_owned());
        }
        let pid = body.get_i32();
        let from = self.sender(pid);
        let shared = self.listener.shared.lock();
        let members = shared.table.members(notification_channel(body));
        if members.is_empty() {
            return Ok(());
        }
        // A copy of its own: one that waits must not keep the whole read buffer alive.
        let notification = Notification { pid, from, body: Bytes::copy_from_slice(body) };
        let (mut kept, mut overflows) = (0, 0);
        for mailbox in members {
            match mailbox.put(notification.clone()) {
                Put::Kept => kept += 1,
                Put::Overflow => overflows += 1,
                Put::Closed => {}
            }
        }
        drop(shared);
        if let Some(registry) = self.registry.upgrade() {
            let stats = &registry.listeners.stats;
            stats.delivered.fetch_add(kept, Ordering::Relaxed);
            stats.overflows.fetch_add(overflows, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The client behind a process of the server.
    fn sender(&mut self, pid: i32) -> Option<ClientId> {
        let known = |servers: &HashMap<i32, Weak<ServerInfo>>| servers.get(&pid).and_then(Weak::upgrade);
        let mut server = known(&self.servers);
        let opened = connections_opened();
        let may_search =
            self.searched.is_none_or(|(at, then)| then != opened || at.elapsed() >= SEARCH_PERIOD);
        if server.is_none() && may_search {
            self.searched = Some((Instant::now(), opened));
            self.search();
            server = known(&self.servers);
        }
        let client = server?.notifier.load(Ordering::Acquire);
        (client != 0).then_some(ClientId(client))
    }

    /// Collects all server connections to this node.
    fn search(&mut self) {
        let Some(registry) = self.registry.upgrade() else { return };
        self.servers.retain(|_, server| server.strong_count() > 0);
        for pool in registry.pools() {
            if pool.node.address == self.listener.node.address {
                let servers = pool.servers();
                self.servers.extend(servers.iter().map(|info| (info.identity.pid, Arc::downgrade(info))));
            }
        }
    }
}
