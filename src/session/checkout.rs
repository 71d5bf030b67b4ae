//! From what a batch does to a server connection: route, pool, wait; also for a primary, while there is none.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::catalog::Resolved;
use crate::clients::{Order, WaitEnd};
use crate::cluster::{Cluster, Lead, LeadStatus, Lsn};
use crate::config::{Consistency, PoolMode};
use crate::pool::{CheckoutError, Pool, ServerLease};
use crate::protocol::ErrorResponse;
use crate::route::{self, ClusterView, Freshness, NodeView, Reason, Route, SessionView, Target, Work};
use crate::sql::HintRole;
use crate::task::{Moment, micros};

use super::batch::Plan;
use super::begin::Begun;
use super::client::ClientSession;
use super::error::{SessionError, checkout_response, no_primary};

/// How much may be read ahead from a client that waits.
const READ_AHEAD_BYTES_MAX: usize = 64 * 1024;
/// How often who waits for a primary looks for a new configuration.
const RELOAD_PERIOD: Duration = Duration::from_millis(500);

impl ClientSession {
    /// Gets a server connection for `work`, which is asked for since `began`. `Ok(Err(response))`: there is none,
    /// and the client is to be told so; the session lives on.
    pub(super) async fn checkout(
        &mut self,
        work: Work,
        needs: Needs<'_>,
        began: Moment,
    ) -> Result<Result<ServerLease, ErrorResponse>, SessionError> {
        let way = self.route(work, needs);
        self.checkout_from(way, work, needs, began).await
    }

    /// As [`Self::checkout`], where to has been decided.
    pub(super) async fn checkout_from(
        &mut self,
        mut way: Way,
        work: Work,
        needs: Needs<'_>,
        began: Moment,
    ) -> Result<Result<ServerLease, ErrorResponse>, SessionError> {
        loop {
            let patience = Some(self.database.settings.routing.failover_wait);
            let lease = match self.checkout_within(way, work, needs, patience, began).await? {
                Ok(lease) => lease,
                Err(response) => return Ok(Err(response)),
            };
            if let Some(lease) = self.keep(lease, began) {
                return Ok(Ok(lease));
            }
            way = self.route(work, needs);
        }
    }

    /// As [`Self::checkout_from`] where there is nothing to wait for: what most batches get, and get for less.
    pub(super) fn checkout_idle(&mut self, (route, freshness): Way, began: Moment) -> Option<ServerLease> {
        let index = match route.target {
            Target::Primary => {
                let lead = self.lead();
                if !lead.has_primary() {
                    return None;
                }
                self.lead_epoch = lead.epoch;
                lead.index
            }
            Target::Replica(place) => self.database.cluster.reader(place),
        };
        let last = self.last_server;
        let lease = self.known_pool(index)?.try_checkout(last)?;
        if route.target != Target::Primary && is_known_fresh(&lease, freshness) != Some(true) {
            lease.checkin();
            return None;
        }
        self.target = route.target;
        self.reason = route.reason;
        self.keep(lease, began)
    }

    /// Others see from here on that the client has this connection. `None`: it leads to a primary of before.
    fn keep(&mut self, lease: ServerLease, began: Moment) -> Option<ServerLease> {
        self.link(&lease, began);
        if self.target == Target::Primary {
            // Whoever changes roles looks for those who are linked: after that, not before, it is certain to see us.
            fence(Ordering::SeqCst);
            if self.lead().epoch != self.lead_epoch {
                self.handle().unlink();
                lease.checkin();
                return None;
            }
        }
        self.database.routes.count(self.reason);
        Some(lease)
    }

    /// As [`Self::checkout`]. With `leading`, the transaction that begins so may begin on a replica.
    pub(super) async fn checkout_beginning(
        &mut self,
        work: Work,
        plan: &Plan,
        leading: Option<&Begun>,
        began: Moment,
    ) -> Result<Result<ServerLease, ErrorResponse>, SessionError> {
        let needs = Needs::Tables(&plan.resolved);
        let Some(begun) = leading else {
            let way = self.route(work, needs);
            return match self.checkout_idle(way, began) {
                Some(lease) => Ok(Ok(lease)),
                None => self.checkout_from(way, work, needs, began).await,
            };
        };
        let mut lease = match self.checkout(plan.work, needs, began).await? {
            Ok(lease) => lease,
            Err(response) => return Ok(Err(response)),
        };
        if self.target == Target::Primary {
            return Ok(Ok(lease));
        }
        if self.replica_may_lead(&mut lease, begun).await {
            self.leads(begun.clone());
            return Ok(Ok(lease));
        }
        self.handle().unlink();
        lease.checkin();
        self.checkout(work, needs, began).await
    }

    /// As [`Self::checkout`], for our own purposes.
    pub(super) async fn checkout_uncounted(
        &mut self,
        work: Work,
        needs: Needs<'_>,
        began: Moment,
    ) -> Result<Result<ServerLease, ErrorResponse>, SessionError> {
        let patience = self.database.settings.routing.failover_wait;
        let way = self.route(work, needs);
        self.checkout_within(way, work, needs, Some(patience), began).await
    }

    /// As [`Self::checkout_uncounted`], by a way that has been decided, where `patience` bounds the wait for a primary; with `None` it is waited for
    /// as long as it is not known that there is none. It is counted from `began`.
    pub(super) async fn checkout_within(
        &mut self,
        (mut route, mut freshness): Way,
        work: Work,
        needs: Needs<'_>,
        patience: Option<Duration>,
        began: Moment,
    ) -> Result<Result<ServerLease, ErrorResponse>, SessionError> {
        let mut failures = 0;
        loop {
            let mut index = route.target.index(&self.database.cluster);
            if route.target == Target::Primary {
                let lead = self.lead();
                if !lead.has_primary() {
                    if let Some(response) = self.wait_for_primary(began, patience).await? {
                        return Ok(Err(response));
                    }
                    (route, freshness) = self.route(work, needs);
                    continue;
                }
                (index, self.lead_epoch) = (lead.index, lead.epoch);
            }
            let pool = self.pool_of(index);
            let result = match pool.try_checkout(self.last_server) {
                Some(lease) => Ok(lease),
                None => self.wait(&pool, &mut route).await?,
            };
            match (result, route.target) {
                (Ok(mut lease), target) => {
                    if target != Target::Primary && !is_fresh(&mut lease, freshness).await {
                        lease.checkin();
                        route = Route::primary(Reason::ReplicasBehind);
                        continue;
                    }
                    self.target = route.target;
                    self.reason = route.reason;
                    return Ok(Ok(lease));
                }
                // The node is no longer what it was when we began to wait there.
                (Err(CheckoutError::Moved), _) => (route, freshness) = self.route(work, needs),
                (Err(CheckoutError::Connect(error)), Target::Replica(_)) => {
                    failures += 1;
                    // A node that is down is left out of the next decision; one that answers and refuses us
                    // would be chosen again.
                    let elsewhere = error.is_node_down() && failures <= self.database.cluster.replicas.len();
                    let primary = Route::primary(Reason::ReplicaFailed);
                    (route, freshness) =
                        if elsewhere { self.route(work, needs) } else { (primary, freshness) };
                }
                (Err(CheckoutError::Connect(error)), Target::Primary)
                    if error.is_node_down() && patience.is_none_or(|most| began.elapsed() < most) =>
                {
                    self.database.cluster.leadership.note_down();
                    (route, freshness) = self.route(work, needs);
                }
                (Err(error), _) => return Ok(Err(checkout_response(&error, pool.settings().size))),
            }
        }
    }

    fn lead(&self) -> Lead {
        self.database.cluster.leadership.lead()
    }

    /// Where `work` is to run, and how fresh that must be.
    pub(super) fn route(&mut self, work: Work, needs: Needs<'_>) -> Way {
        if self.mode == PoolMode::Session {
            return (Route::primary(Reason::Pinned), Freshness::Any);
        }
        if let Some(reason) = self.retry.again()
            && self.lead().has_primary()
        {
            return (Route::primary(reason), Freshness::Any);
        }
        if let Some(reason) = route::must_be_primary(work) {
            return (Route::primary(reason), Freshness::Any);
        }
        let reads = self.database.settings.routing.reads;
        let mut work = work;
        work.hint = work.hint.or(self.reading.wishes().role);
        let consistency = self.consistency();
        let freshness = self.freshness(work, needs);
        let accepts_stale = work.hint == Some(HintRole::Replica);
        self.turn = self.turn.wrapping_add(1);
        let mut choice = self.database.choice(self.turn);
        let freshness = match consistency {
            Consistency::Session if !accepts_stale => {
                self.keep_to_last_reader(&mut choice.replicas, freshness)
            }
            _ => freshness,
        };
        let view = SessionView { reads, freshness, consistency };
        let cluster = ClusterView { primary: choice.primary, replicas: &choice.replicas };
        let route = route::decide(work, view, cluster, self.turn);
        (route, if accepts_stale { Freshness::Any } else { freshness })
    }

    /// How fresh a replica must be for `work`.
    pub(super) fn freshness(&mut self, work: Work, needs: Needs<'_>) -> Freshness {
        match (self.consistency(), needs) {
            (Consistency::Eventual, _) | (_, Needs::Nothing) => Freshness::Any,
            (Consistency::Session, _) => self.last_write.freshness(&self.database.cluster),
            (Consistency::Strong, Needs::Tables(resolved)) => self.database.strong_freshness(work, resolved),
        }
    }

    /// A client that has read from a replica must not see less on another one: it stays there as long as it can, and
    /// else reads where the primary is now.
    fn keep_to_last_reader(&mut self, replicas: &mut [NodeView], freshness: Freshness) -> Freshness {
        let Some((place, epoch)) = self.last_reader else { return freshness };
        let needed = match freshness {
            Freshness::Any => Lsn(0),
            Freshness::At(needed) => needed,
            Freshness::NotKnownYet => return freshness,
        };
        let stays = replicas.get(place).is_some_and(|view| view.usable && view.replayed >= needed);
        if stays && epoch == self.lead().epoch {
            for (other, view) in replicas.iter_mut().enumerate() {
                view.usable &= other == place;
            }
            return freshness;
        }
        self.last_reader = None;
        self.last_write.acknowledged(&self.database.cluster);
        self.last_write.freshness(&self.database.cluster)
    }

    /// How fresh the client's reads must be: as it says, or else what is said of its user, or of the database.
    fn consistency(&self) -> Consistency {
        let asked = self.reading.wishes().consistency.or(self.user_consistency);
        asked.unwrap_or(self.database.settings.routing.consistency)
    }

    /// The client's transaction is over: it may have written, and has seen what the node shows.
    pub(super) fn note_what_was_seen(&mut self, wrote: bool) {
        let counts = self.consistency() == Consistency::Session;
        match self.target {
            Target::Replica(place) if counts => self.last_reader = Some((place, self.lead().epoch)),
            Target::Primary if counts || wrote => self.last_write.acknowledged(&self.database.cluster),
            Target::Primary | Target::Replica(_) => {}
        }
    }

    /// The pool of a target; for the primary, while there is none, that of the last one.
    pub(super) fn pool(&mut self, target: Target) -> Arc<Pool> {
        let index = target.index(&self.database.cluster);
        self.pool_of(index)
    }

    /// The pool of the node with this number, if the session has asked for it before.
    fn known_pool(&self, index: usize) -> Option<&Arc<Pool>> {
        self.pools.get(index)?.as_ref()
    }

    /// The pool of the node with this number.
    fn pool_of(&mut self, index: usize) -> Arc<Pool> {
        if let Some(pool) = self.known_pool(index) {
            return Arc::clone(pool);
        }
        let node = self.database.cluster.node(index);
        let pool = self.topology.pool(&self.context.pools, &self.database, &self.user, node);
        if self.pools.len() <= index {
            self.pools.resize(index + 1, None);
        }
        if let Some(slot) = self.pools.get_mut(index) {
            *slot = Some(Arc::clone(&pool));
        }
        pool
    }

    /// Waits until something about the roles has changed, until `patience` is over since `began`. What the client
    /// is told when that does not help.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing but an entry in a list that the next change empties.
    async fn wait_for_primary(
        &mut self,
        began: Moment,
        patience: Option<Duration>,
    ) -> Result<Option<ErrorResponse>, SessionError> {
        let leadership = Arc::clone(&self.database.cluster.leadership);
        let seen = leadership.version();
        let lead = leadership.lead();
        let most = patience.unwrap_or(self.database.settings.routing.failover_wait);
        let left = most.saturating_sub(began.elapsed());
        if lead.has_primary() {
            return Ok(None);
        }
        let gives_up = patience.is_none() && lead.status == LeadStatus::None;
        if left.is_zero() || gives_up || lead.status == LeadStatus::Ambiguous {
            return Ok(Some(no_primary(&self.database.name, lead.status, began.elapsed())));
        }
        let client = self.handle().id.0;
        self.handle().waits(Moment::now());
        self.handle().begin_wait(None);
        let mut timer = pin!(tokio::time::sleep(left.min(RELOAD_PERIOD)));
        let result = poll_fn(|cx| {
            if leadership.poll_changed(client, seen, cx) || timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            self.poll_client_that_waits(cx).map_ok(|_| ())
        })
        .await;
        leadership.stop_waiting(client);
        let end = self.handle().end_wait();
        self.handle().idles();
        match result {
            Ok(()) if end.is_some() => Ok(Some(checkout_response(&CheckoutError::Canceled, 0))),
            Ok(()) => {
                // Whoever corrects the configuration in the middle of a failover helps those who wait, too.
                self.refresh_topology_while_waiting();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits in the pool's queue, and in those of the pools that would do as well: if one of them serves the client,
    /// the route leads there. Meanwhile the client may leave, and orders are obeyed.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place in the queue up; a connection on its way goes back.
    async fn wait(
        &mut self,
        pool: &Arc<Pool>,
        route: &mut Route,
    ) -> Result<Result<ServerLease, CheckoutError>, SessionError> {
        let others: SmallVec<[Arc<Pool>; 4]> =
            route.others.iter().map(|place| self.pool(Target::Replica(place))).collect();
        let result = self.wait_in(pool, &others).await?;
        if let Ok(lease) = &result
            && let Some(at) = others.iter().position(|other| Arc::ptr_eq(other, lease.pool()))
            && let Some(place) = route.others.iter().nth(at)
        {
            route.target = Target::Replica(place);
        }
        Ok(result)
    }

    async fn wait_in(
        &mut self,
        pool: &Arc<Pool>,
        others: &[Arc<Pool>],
    ) -> Result<Result<ServerLease, CheckoutError>, SessionError> {
        let began = Instant::now();
        self.handle().waits(Moment::of(began));
        // Not by a timer of our own: with more clients than connections each statement comes here.
        self.handle().begin_wait(began.checked_add(pool.settings().checkout_timeout));
        let mut waiting = pin!(pool.enqueue(others, began));
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = waiting.as_mut().poll(cx) {
                return Poll::Ready(Ok(result));
            }
            self.poll_client_that_waits(cx).map_ok(|end| match end {
                WaitEnd::Canceled => Err(CheckoutError::Canceled),
                WaitEnd::TimedOut => Err(CheckoutError::Timeout { waited: began.elapsed() }),
            })
        })
        .await;
        let end = self.handle().end_wait();
        let result = match result {
            Ok(Ok(lease)) if end == Some(WaitEnd::Canceled) => {
                // It came in the same moment.
                lease.checkin();
                Ok(Err(CheckoutError::Canceled))
            }
            other => other,
        };
        let waited = micros(began.elapsed());
        pool.stats.add(|stats| &stats.wait_time, waited);
        self.context.histograms.checkout_wait(waited);
        if !matches!(result, Ok(Ok(_))) {
            self.handle().idles();
        }
        if matches!(result, Ok(Err(CheckoutError::Timeout { .. }))) {
            pool.stats.add(|stats| &stats.timeouts, 1);
        }
        result
    }

    /// Looks after a client that waits for a server connection: it may cancel, have waited for too long, leave, or be
    /// told to.
    fn poll_client_that_waits(&mut self, cx: &mut Context<'_>) -> Poll<Result<WaitEnd, SessionError>> {
        let order = self.handle().pending_order(Some(cx));
        if let Some(end) = self.handle().wait_end() {
            return Poll::Ready(Ok(end));
        }
        match order {
            // A drain lets what has begun finish.
            Order::None | Order::Drain | Order::QueryTimeout => {}
            order => return Poll::Ready(Err(SessionError::Ordered(order))),
        }
        match self.read_ahead(cx) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Reads some of what the client sends while it waits, and notices that it leaves.
    pub(super) fn read_ahead(&mut self, cx: &mut Context<'_>) -> Result<(), SessionError> {
        while self.wire.inbox.len() < READ_AHEAD_BYTES_MAX {
            match self.wire.poll_fill(cx) {
                Poll::Ready(Ok(0)) => {
                    return Err(SessionError::ClientGone(std::io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(SessionError::ClientGone(error)),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Tells everybody who looks that this client has this server connection.
    fn link(&mut self, lease: &ServerLease, now: Moment) {
        let identity = lease.identity();
        self.handle().link(Arc::clone(identity));
        identity.lend(self.handle().id, now);
        self.last_server = identity.id;
        lease.pool().stats.add(|stats| &stats.assignments, 1);
    }
}

/// Where a batch is to run, and how fresh a replica must be for it.
pub(super) type Way = (Route, Freshness);

/// What a batch must see.
#[derive(Clone, Copy)]
pub(super) enum Needs<'a> {
    /// Nothing that clients have written.
    Nothing,
    /// What was written to the tables that these read.
    Tables(&'a [Arc<Resolved>]),
}

/// Whether a replica shows by this connection what it must. Its position was known when it was chosen, but it may
/// have crashed since, and a standby that comes back can be read before it is where it was. So a connection that is
/// younger than the last probe is asked itself.
pub(super) async fn is_fresh(lease: &mut ServerLease, freshness: Freshness) -> bool {
    if let Some(is_fresh) = is_known_fresh(lease, freshness) {
        return is_fresh;
    }
    let Freshness::At(needed) = freshness else { return false };
    // NULL when it is no standby any more.
    let answer = lease.simple_query("SELECT pg_catalog.pg_last_wal_replay_lsn()").await;
    let position = answer.ok().and_then(|rows| rows.into_iter().next()?.into_iter().next()??.parse().ok());
    position.is_some_and(|position: Lsn| position >= needed)
}

/// The same, where nobody has to be asked.
fn is_known_fresh(lease: &ServerLease, freshness: Freshness) -> Option<bool> {
    match freshness {
        Freshness::Any => Some(true),
        Freshness::NotKnownYet => Some(false),
        Freshness::At(needed) => Some(lease.pool().node.position_since(lease.identity().opened())? >= needed),
    }
}

impl Target {
    /// The number of the node that this leads to now.
    fn index(self, cluster: &Cluster) -> usize {
        match self {
            Self::Primary => cluster.leadership.lead().index,
            Self::Replica(place) => cluster.reader(place),
        }
    }
}
