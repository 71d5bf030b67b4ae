//! Listener connections: one to the primary for all clients of a user in a database that LISTEN.
//!
//! A [`Listener`] is opened by the first request and closed some seconds after its last client has left. It
//! is outside the pool's size, since it is never lent. What is said here is in the order in which the
//! server said it: a client that [joins](Listener::join) gets exactly what comes behind the answer to that,
//! and whatever was committed before a [`Listener::barrier`] was asked for is in the mailboxes when that
//! returns. A listener that is lost ends the sessions of its clients: nobody is left to believe that he
//! still listens.

mod table;
mod task;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::clients::{Mailbox, Order};
use crate::cluster::Node;
use crate::server::{ConnectError, ServerInfo, ServerTarget};

use super::registry::PoolRegistry;

pub use table::{Channel, listen as listen_sql};

use table::Table;

/// Whose listener it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerKey {
    /// Database as clients name it.
    pub database: String,
    /// User as clients name it.
    pub user: String,
    /// `client_encoding`: names and payloads come in it.
    pub encoding: String,
}

/// Why a listener does not serve.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ListenError {
    /// It could not be opened.
    #[error("{0}")]
    Connect(Arc<ConnectError>),
    /// It was lost, or is being closed.
    #[error("{0}")]
    Lost(Arc<str>),
}

/// What is asked of a listener.
#[derive(Debug)]
struct Request {
    /// Who joins these channels, if anybody.
    join: Option<(Arc<Mailbox>, BTreeSet<Channel>)>,
    /// A server connection whose notifications are to be known by its client's number.
    claim: Option<Arc<ServerInfo>>,
    done: oneshot::Sender<Result<(), ListenError>>,
}

#[derive(Debug, Default)]
struct Shared {
    table: Table,
    requests: Vec<Request>,
    closed: Option<ListenError>,
    info: Option<Arc<ServerInfo>>,
}

/// One listener connection, as sessions see it.
#[derive(Debug)]
pub struct Listener {
    /// Whose it is.
    pub key: ListenerKey,
    /// The node it connects to.
    pub node: Arc<Node>,
    target: ServerTarget,
    shared: Mutex<Shared>,
    /// There is something to do for the task.
    work: Notify,
}

impl Listener {
    /// From the return of this on, `mailbox` gets what is notified on `channels`.
    ///
    /// # Cancel safety
    /// The mailbox may have joined or not; [`Listener::leave_all`] takes it out in either case.
    pub async fn join(
        &self,
        mailbox: &Arc<Mailbox>,
        channels: BTreeSet<Channel>,
        claim: Option<Arc<ServerInfo>>,
    ) -> Result<(), ListenError> {
        self.ask(Some((Arc::clone(mailbox), channels)), claim).await
    }

    /// Whatever was committed before this was called is in the mailboxes when it returns. Opens the
    /// connection if it is not open yet.
    pub async fn barrier(&self, claim: Option<Arc<ServerInfo>>) -> Result<(), ListenError> {
        self.ask(None, claim).await
    }

    async fn ask(
        &self,
        join: Option<(Arc<Mailbox>, BTreeSet<Channel>)>,
        claim: Option<Arc<ServerInfo>>,
    ) -> Result<(), ListenError> {
        let (done, answer) = oneshot::channel();
        {
            let mut shared = self.shared.lock();
            if let Some(error) = &shared.closed {
                return Err(error.clone());
            }
            // Bounded by the clients: each waits for its answer.
            shared.requests.push(Request { join, claim, done });
        }
        self.work.notify_one();
        match answer.await {
            Ok(result) => result,
            Err(_) => Err(ListenError::Lost("the listener has ended".into())),
        }
    }

    /// `mailbox` gets nothing more of these channels.
    pub fn leave<'a>(&self, mailbox: &Arc<Mailbox>, channels: impl Iterator<Item = &'a Channel>) {
        let mut shared = self.shared.lock();
        for channel in channels {
            shared.table.remove(channel, mailbox);
        }
        drop(shared);
        self.work.notify_one();
    }

    /// `mailbox` gets nothing more at all, even if it is about to join.
    pub fn leave_all(&self, mailbox: &Arc<Mailbox>) {
        mailbox.close();
        self.shared.lock().table.remove_all(mailbox);
        self.work.notify_one();
    }

    /// How it is seen while it is open.
    pub fn info(&self) -> Option<Arc<ServerInfo>> {
        self.shared.lock().info.clone()
    }

    /// Pairs of client and channel.
    pub fn subscriptions(&self) -> usize {
        self.shared.lock().table.subscriptions()
    }

    /// Where it connects, and as whom.
    pub fn target(&self) -> &ServerTarget {
        &self.target
    }

    /// Whether no request finds it any more.
    fn is_closed(&self) -> bool {
        self.shared.lock().closed.is_some()
    }

    /// Closes it for good: who asked is told, and the sessions of those who listen are ended.
    fn close(&self, error: &ListenError) {
        let (requests, members) = {
            let mut shared = self.shared.lock();
            if shared.closed.is_some() {
                return;
            }
            shared.closed = Some(error.clone());
            shared.info = None;
            (std::mem::take(&mut shared.requests), std::mem::take(&mut shared.table))
        };
        for mailbox in members.all() {
            mailbox.order(Order::ListenerLost);
        }
        for request in requests {
            let _ = request.done.send(Err(error.clone()));
        }
        self.work.notify_one();
    }

    /// Closes it if nobody listens and nobody asks.
    fn close_if_unused(&self) -> bool {
        let mut shared = self.shared.lock();
        let unused = shared.table.is_empty() && shared.requests.is_empty();
        if unused && shared.closed.is_none() {
            shared.closed = Some(ListenError::Lost("the listener is not used any more".into()));
            shared.info = None;
            drop(shared);
            self.work.notify_one();
        }
        unused
    }
}

/// What listeners have done since the process began.
#[derive(Debug, Default)]
pub struct ListenerStats {
    /// Notifications put into mailboxes.
    pub delivered: AtomicU64,
    /// Clients ended because too many notifications waited for them.
    pub overflows: AtomicU64,
    /// Listeners that were lost while somebody listened.
    pub lost: AtomicU64,
}

/// All listeners.
#[derive(Debug, Default)]
pub struct Listeners {
    map: Mutex<HashMap<ListenerKey, Arc<Listener>>>,
    /// Counters.
    pub stats: ListenerStats,
}

impl Listeners {
    /// All of them, in order of their keys.
    pub fn all(&self) -> Vec<Arc<Listener>> {
        let mut all: Vec<_> = self.map.lock().values().cloned().collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// Closes those that `keep` refuses; the sessions of their clients end.
    pub fn close_unless(&self, keep: impl Fn(&Listener) -> bool) {
        for listener in self.all() {
            if !keep(&listener) {
                self.lost(&listener, "the configuration has changed");
            }
        }
    }

    /// Closes those to this database on the servers that nobody uses at the moment.
    pub fn close_unused(&self, server_database: &str) {
        for listener in self.all() {
            if listener.target.database == server_database && listener.close_if_unused() {
                self.remove(&listener);
            }
        }
    }

    fn lost(&self, listener: &Arc<Listener>, why: &str) {
        let members = listener.subscriptions();
        if members > 0 && !listener.is_closed() {
            self.stats.lost.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                database = listener.key.database, user = listener.key.user, node = %listener.node.address,
                subscriptions = members, why, "listener connection lost; the sessions of its clients end"
            );
        }
        listener.close(&ListenError::Lost(why.into()));
        self.remove(listener);
    }

    fn remove(&self, listener: &Arc<Listener>) {
        let mut map = self.map.lock();
        if map.get(&listener.key).is_some_and(|known| Arc::ptr_eq(known, listener)) {
            map.remove(&listener.key);
        }
    }
}

impl PoolRegistry {
    /// The listener for `key` on `node`; its connection is opened by the first request. One to another
    /// node (which was the primary before) is closed.
    pub fn listener(
        self: &Arc<Self>,
        key: ListenerKey,
        node: &Arc<Node>,
        target: impl FnOnce() -> ServerTarget,
    ) -> Arc<Listener> {
        let (listener, outdated) = {
            let mut map = self.listeners.map.lock();
            let known = map.get(&key).cloned();
            match known {
                Some(known) if known.node.address == node.address && !known.is_closed() => return known,
                known => {
                    let mut target = target();
                    target.extra = vec![
                        ("client_encoding".to_owned(), key.encoding.clone()),
                        ("application_name".to_owned(), "pgweir listener".to_owned()),
                    ];
                    let listener = Arc::new(Listener {
                        key: key.clone(),
                        node: Arc::clone(node),
                        target,
                        shared: Mutex::default(),
                        work: Notify::new(),
                    });
                    map.insert(key, Arc::clone(&listener));
                    (listener, known)
                }
            }
        };
        if let Some(outdated) = outdated {
            self.listeners.lost(&outdated, "another node is the primary");
        }
        let (task, registry) = (Arc::clone(&listener), Arc::downgrade(self));
        crate::task::spawn("listener", task::run(task, registry));
        listener
    }
}

/// Ends the listener when its task ends, however it ends.
#[derive(Debug)]
struct Running {
    listener: Arc<Listener>,
    registry: Weak<PoolRegistry>,
}

impl Running {
    fn end(&self, error: &ListenError) {
        if let Some(registry) = self.registry.upgrade() {
            match error {
                ListenError::Lost(why) => registry.listeners.lost(&self.listener, why),
                ListenError::Connect(_) => registry.listeners.remove(&self.listener),
            }
        }
        self.listener.close(error);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(&ListenError::Lost("the listener has ended".into()));
    }
}
