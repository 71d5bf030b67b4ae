//! The state of one session and its loop.
//!
//! What a session holds tells where it is: no lease is *idle*; a lease with replies owed is *running*; a
//! lease in a transaction, pinned, or between Flush and Sync is *held*. [`ClientSession::run`] goes from
//! one batch to the next until the client leaves or something ends it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::clients::{ClientGuard, ClientHandle, Order};
use crate::config::{Consistency, PoolMode};
use crate::net::{self, Wire};
use crate::pool::{DatabaseEntry, Pool, ServerLease, Topology};
use crate::protocol::parameters::Parameters;
use crate::protocol::{ErrorResponse, TransactionStatus, backend};
use crate::route::{Reason, Target};
use crate::server::Settings;
use crate::sql::{Fingerprint, LexOptions, SessionEffects, SetCommand};
use crate::task::{self, Moment};

use super::batch::{Batch, BatchEnd};
use super::begin::Begun;
use super::context::SessionContext;
use super::error::SessionError;
use super::exchange::Exchange;
use super::freshness::LastWrite;
use super::heal::{Heal, Replay};
use super::leading::Leading;
use super::listening::Listening;
use super::pins::Pinned;
use super::reading::Reading;
use super::retry::Retry;
use super::sharded::Sharded;
use super::statements::ClientStatements;
use super::writes::Writes;

/// How long a connection may take to become clean again after its client has left.
const RESET_TIMEOUT: Duration = Duration::from_secs(5);

/// Why no batch runs.
enum Pause {
    /// The client has been silent for a while.
    Rests,
    /// It has said good-bye.
    Leaves,
}

/// One client's session, logged in.
pub(super) struct ClientSession {
    pub(super) context: Arc<SessionContext>,
    pub(super) guard: ClientGuard,
    pub(super) wire: Wire,
    pub(super) topology: Arc<Topology>,
    /// That of the shard where the session is, if it is sharded.
    pub(super) database: Arc<DatabaseEntry>,
    /// There where the database is sharded.
    pub(super) sharded: Option<Box<Sharded>>,
    pub(super) user: String,
    pub(super) mode: PoolMode,
    /// How fresh its user's reads must be, if that is said.
    pub(super) user_consistency: Option<Consistency>,
    /// The pool of each node, the primary's first; filled as they are used.
    pub(super) pools: Vec<Option<Arc<Pool>>>,
    /// Settings the client has now, and those it began with.
    pub(super) settings: Settings,
    pub(super) startup: Settings,
    /// Startup settings that are being made again behind a RESET: what the server reports of them meanwhile is
    /// not passed on.
    pub(super) restoring: Box<[String]>,
    /// ParameterStatus as the client knows them.
    pub(super) told: Parameters,
    pub(super) lex: LexOptions,
    pub(super) statements: ClientStatements,
    /// How the texts of its statements are read.
    pub(super) reading: Arc<Reading>,
    /// The present transaction may have settings by which texts are read otherwise.
    pub(super) reads_otherwise: bool,
    /// That of the catalog when the batch began. All of a batch goes by one: a statement that was compared with what
    /// the client was told must not be prepared again between that and its use.
    pub(super) catalog_epoch: u64,
    pub(super) exchange: Exchange,
    /// The batch that runs, while it may be tried again.
    pub(super) replay: Option<Replay>,
    /// It is to be tried again.
    pub(super) heal: Option<Box<Heal>>,
    /// The open transaction runs on a replica, and may go on elsewhere.
    pub(super) leading: Option<Box<Leading>>,
    pub(super) lease: Option<ServerLease>,
    /// Where the lease leads, and why.
    pub(super) target: Target,
    pub(super) reason: Reason,
    /// As of when the primary was chosen.
    pub(super) lead_epoch: u32,
    /// Requests were sent whose Sync the client has not sent yet.
    pub(super) awaiting_sync: bool,
    /// Bytes at the front of the client's inbox that go to the server as they are.
    pub(super) send_from_inbox: usize,
    /// Bytes of the message at the front of the client's inbox that is being passed in parts (COPY data).
    pub(super) pass_to_server: usize,
    /// Bytes still to come of a message from the server that is being passed in parts.
    pub(super) pass_to_client: usize,
    /// Bytes of the inbox already looked at for the end of a batch.
    pub(super) scanned: usize,
    /// Bytes of a message that is thrown away as it comes.
    pub(super) discard: usize,
    /// What the statements since the last idle moment may have left in the session.
    pub(super) effects: SessionEffects,
    /// Some statement since then may have written.
    pub(super) wrote: bool,
    /// The transaction that the client has begun and that no server knows of yet.
    pub(super) begun: Option<Begun>,
    /// The read that runs on a replica, while it may be run again.
    pub(super) retry: Retry,
    /// What it may have written.
    pub(super) writes: Writes,
    /// The client was sent an error in this exchange.
    pub(super) saw_error: bool,
    /// The exchange in front of the batch (our own) failed.
    pub(super) own_failure: Option<Box<str>>,
    /// A server did not accept the client's settings.
    pub(super) settings_refused: bool,
    /// The server has sent a FATAL error.
    pub(super) server_ended: Option<Box<str>>,
    /// A SET that stands alone, to be remembered if it succeeds.
    pub(super) pending_set: Option<Box<SetCommand>>,
    /// Statements of this client's were deallocated by SQL.
    pub(super) deallocates_all: bool,
    /// The server has said that they were.
    pub(super) deallocated_all: bool,
    /// Names that may be those of custom settings; the server lists its own settings, but not these.
    pub(super) custom_names: BTreeSet<String>,
    /// The last statement since the last idle moment that calls functions of which nothing is known.
    pub(super) unknown_functions: Option<Fingerprint>,
    pub(super) last_write: LastWrite,
    /// With `consistency: session`, the replica it has read from, and the epoch of the primary then.
    pub(super) last_reader: Option<(usize, u32)>,
    pub(super) pin: Option<Pinned>,
    pub(super) listening: Listening,
    /// The number of the server connection it had last.
    pub(super) last_server: u64,
    /// The present transaction changes the catalog.
    pub(super) changes_catalog: bool,
    /// Something in the present transaction may have called `nextval`.
    pub(super) sequenced: bool,
    pub(super) turn: u32,
    pub(super) transaction_began: Option<Moment>,
    /// When the server last owed nothing any more.
    pub(super) answered_at: Moment,
    /// Bytes counted already.
    pub(super) counted: (u64, u64),
}

impl ClientSession {
    /// The client's handle.
    pub(super) fn handle(&self) -> &Arc<ClientHandle> {
        self.guard.handle()
    }

    /// Serves the client until it leaves or something ends the session.
    ///
    /// # Cancel safety
    /// Dropped at any await, the session closes its server connection unless that is clean and idle.
    pub(super) async fn run(mut self: Box<Self>) {
        let mut batch = None;
        let end = loop {
            // Boxed, and given back while the client rests: what it takes to run batches is more than all the rest.
            match task::boxed(|| self.serve(batch.take())).await {
                Ok(Pause::Rests) => {
                    net::trim_buffers();
                    self.exchange.rest();
                    self.retry.rest();
                }
                Ok(Pause::Leaves) => break None,
                Err(error) => break Some(error),
            }
            match self.next_batch().await {
                Ok(next) => batch = Some(next),
                Err(error) => break Some(error),
            }
        };
        // Boxed, as other rare ways: an idle client pays for the largest of the futures that are not.
        task::boxed(|| self.close(end)).await;
    }

    /// Runs batches, the first of them if it is there, until the client rests or leaves.
    async fn serve(&mut self, mut first: Option<Batch>) -> Result<Pause, SessionError> {
        loop {
            let batch = match first.take() {
                Some(batch) => batch,
                None => {
                    self.become_idle();
                    match self.next_batch_or_rest().await? {
                        Some(batch) => batch,
                        None => return Ok(Pause::Rests),
                    }
                }
            };
            // What others have sent is read first.
            task::after_others().await;
            if !self.run_one(batch).await? {
                return Ok(Pause::Leaves);
            }
        }
    }

    /// What is to be done between two batches.
    fn become_idle(&mut self) {
        if self.lease.is_none() && !self.writes.is_empty() {
            // Marked, and then not sent after all.
            self.writes.acknowledged(&self.database.cluster);
        }
        self.refresh_topology();
        self.arm_idle();
    }

    /// False when the client has said good-bye.
    async fn run_one(&mut self, batch: Batch) -> Result<bool, SessionError> {
        self.handle().clear_deadline();
        match batch.end {
            BatchEnd::Terminate => return Ok(false),
            _ if self.exchange.skipping => self.skip(batch).await?,
            _ => match self.run_batch(batch).await {
                Err(error) if self.retries(&error) => {}
                outcome => outcome?,
            },
        }
        Ok(true)
    }

    /// Takes a new configuration, where no transaction sees it change.
    pub(super) fn refresh_topology(&mut self) {
        if self.may_refresh() {
            self.take_topology(self.context.topology.load_full());
        }
    }

    /// The same for a batch that waits for a primary, if it would still belong where it is.
    pub(super) fn refresh_topology_while_waiting(&mut self) {
        if !self.may_refresh() {
            return;
        }
        let topology = self.context.topology.load_full();
        let stays = match (self.sharded.as_deref(), topology.shards(&self.database.name)) {
            (None, None) => true,
            (Some(sharded), Some(set)) => sharded.set.places_alike(set),
            _ => false,
        };
        if stays {
            self.take_topology(topology);
        }
    }

    fn may_refresh(&self) -> bool {
        self.lease.is_none()
            && self.spread().is_none()
            && self.context.topology_version.load(Ordering::Acquire) != self.topology.version
    }

    fn take_topology(&mut self, topology: Arc<Topology>) {
        let Some(database) = topology.database(&self.database.name) else {
            self.handle().order(Order::Kill);
            return;
        };
        self.mode = topology.pool_settings(&database, &self.user).mode;
        self.user_consistency = topology.config.users.get(&self.user).and_then(|user| user.consistency);
        let left = self.leave_configuration();
        self.database = database;
        self.topology = topology;
        self.enter_configuration(left);
    }

    /// Asks for the end of the session if the client stays silent for too long.
    fn arm_idle(&mut self) {
        let timeouts = &self.topology.config.timeouts;
        let in_transaction = self.is_in_transaction();
        let (limit, order) = if in_transaction {
            (timeouts.idle_in_transaction, Order::IdleInTransactionTimeout)
        } else {
            (timeouts.client_idle, Order::IdleTimeout)
        };
        self.arm(limit, order);
    }

    /// Whether a transaction of the client's is open, as far as the client knows.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.begun.is_some()
            || self.spread().is_some()
            || self.lease.as_ref().is_some_and(|lease| lease.status != TransactionStatus::Idle)
    }

    /// Asks for `order` in `limit` (zero: never), or for the end of the transaction if that is due earlier.
    pub(super) fn arm(&self, limit: Duration, order: Order) {
        let whole = self.topology.config.timeouts.transaction;
        if limit.is_zero() && (whole.is_zero() || self.transaction_began.is_none()) {
            return;
        }
        let now = Instant::now();
        let own = (!limit.is_zero()).then(|| (now + limit, order));
        let transaction = self
            .transaction_began
            .filter(|_| !whole.is_zero())
            .map(|began| (began.instant() + whole, Order::TransactionTimeout));
        let earliest = own.into_iter().chain(transaction).min_by_key(|(at, _)| *at);
        if let Some((at, order)) = earliest {
            self.handle().set_deadline(order, at);
        }
    }

    /// Answers a batch with an error of ours, where no server has seen it.
    pub(super) fn refuse(&mut self, batch: Batch, response: &ErrorResponse) {
        response.write(&mut self.wire.outbox);
        match batch.end {
            BatchEnd::Query | BatchEnd::Sync | BatchEnd::FunctionCall => {
                backend::ready_for_query(&mut self.wire.outbox, TransactionStatus::Idle);
            }
            BatchEnd::Flush | BatchEnd::Partial => self.exchange.skipping = true,
            BatchEnd::Terminate => {}
        }
        self.consume(batch);
    }

    /// Ends the session: tells the client why, gives the server connection back or closes it.
    async fn close(mut self: Box<Self>, end: Option<SessionError>) {
        self.handle().unlink();
        if let Some(error) = end {
            log_end(&error, self.handle());
            if let Some(response) = error.response() {
                response.write(&mut self.wire.outbox);
            }
        }
        // The client may not be reading: it gets a second, not more.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.wire.flush()).await;
        if let Some(lease) = self.lease.take()
            && lease.is_clean()
            && !self.awaiting_sync
        {
            let _ = tokio::time::timeout(RESET_TIMEOUT, reset(lease)).await;
        }
        self.handle().idles();
        let _ = tokio::time::timeout(Duration::from_secs(1), self.wire.shutdown()).await;
    }

    /// Adds the bytes of this client to its database's counters.
    pub(super) fn count_bytes(&mut self, pool: &Pool) {
        // What is in the outbox is on its way.
        let (received, sent) = (self.wire.received, self.wire.sent + self.wire.outbox.len() as u64);
        pool.stats.add(|stats| &stats.received, received - self.counted.0);
        pool.stats.add(|stats| &stats.sent, sent - self.counted.1);
        self.counted = (received, sent);
    }
}

/// Makes a connection that a client had for itself as good as new, and returns it.
async fn reset(mut lease: ServerLease) {
    if lease.simple_query("DISCARD ALL").await.is_ok() {
        lease.prepared.clear();
        lease.settings = Settings::none();
        lease.settings_uncertain = false;
        lease.checkin();
    }
}

fn log_end(error: &SessionError, handle: &ClientHandle) {
    let client = handle.id.0;
    match error {
        SessionError::ClientGone(_) => tracing::debug!(client, %error, "session ended"),
        SessionError::Ordered(_) => tracing::info!(client, user = handle.info.user, %error, "session ended"),
        _ => {
            tracing::warn!(client, user = handle.info.user, database = handle.info.database, %error, "session ended");
        }
    }
}
