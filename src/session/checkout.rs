//! From what a batch does to a server connection: route, pool, wait.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::catalog::Resolved;
use crate::clients::{Activity, Order};
use crate::cluster::{Lsn, Node, NodeState, Role, TableSet};
use crate::config::{Consistency, PoolMode};
use crate::pool::{CheckoutError, Pool, ServerLease};
use crate::protocol::ErrorResponse;
use crate::route::{self, ClusterView, Freshness, NodeView, Reason, Route, SessionView, Target, Work};
use crate::server::ServerActivity;
use crate::sql::HintRole;

use super::client::ClientSession;
use super::error::{SessionError, checkout_response};

/// How much may be read ahead from a client that waits.
const READ_AHEAD_BYTES_MAX: usize = 64 * 1024;

impl ClientSession {
    /// Gets a server connection for `work`. `Ok(Err(response))`: there is none, and the client is to be
    /// told so; the session lives on.
    pub(super) async fn checkout(
        &mut self,
        work: Work,
        needs: Needs<'_>,
    ) -> Result<Result<ServerLease, ErrorResponse>, SessionError> {
        let result = self.checkout_uncounted(work, needs).await?;
        if let Ok(lease) = &result {
            self.database.routes.count(self.reason);
            self.link(lease);
        }
        Ok(result)
    }

    /// As [`Self::checkout`], for our own purposes.
    pub(super) async fn checkout_uncounted(
        &mut self,
        work: Work,
        needs: Needs<'_>,
    ) -> Result<Result<ServerLease, ErrorResponse>, SessionError> {
        let (mut route, mut freshness) = self.route(work, needs);
        let mut failures = 0;
        loop {
            let pool = self.pool(route.target);
            let result = match pool.try_checkout(self.last_server) {
                Some(lease) => Ok(lease),
                None => self.wait(&pool).await?,
            };
            match (result, route.target) {
                (Ok(mut lease), target) => {
                    if target != Target::Primary && !is_fresh(&mut lease, freshness).await {
                        lease.checkin();
                        route = Route { target: Target::Primary, reason: Reason::ReplicasBehind };
                        continue;
                    }
                    self.target = route.target;
                    self.reason = route.reason;
                    return Ok(Ok(lease));
                }
                (Err(CheckoutError::Connect(error)), Target::Replica(_)) => {
                    failures += 1;
                    // A node that is down is left out of the next decision; one that answers and refuses us
                    // would be chosen again.
                    let elsewhere = error.is_node_down() && failures <= self.database.cluster.replicas.len();
                    let primary = Route { target: Target::Primary, reason: Reason::ReplicaFailed };
                    (route, freshness) =
                        if elsewhere { self.route(work, needs) } else { (primary, freshness) };
                }
                (Err(error), _) => return Ok(Err(checkout_response(&error, pool.settings().size))),
            }
        }
    }

    fn route(&mut self, work: Work, needs: Needs<'_>) -> (Route, Freshness) {
        if self.mode == PoolMode::Session {
            return (Route { target: Target::Primary, reason: Reason::Pinned }, Freshness::Any);
        }
        if let Some(reason) = self.retry.again()
            && self.database.cluster.primary.state() == NodeState::Up
        {
            return (Route { target: Target::Primary, reason }, Freshness::Any);
        }
        let routing = &self.database.settings.routing;
        let consistency = routing.consistency;
        let horizons = &self.database.horizons;
        let freshness = match (consistency, needs) {
            (Consistency::Eventual, _) | (_, Needs::Nothing) => Freshness::Any,
            (Consistency::Session, _) => self.last_write.freshness(&self.database.cluster),
            // What it will read is not known when it begins.
            (Consistency::Strong, Needs::Tables(_)) if work.begins_read_only => {
                horizons.freshness(&TableSet::All)
            }
            (Consistency::Strong, Needs::Tables(resolved)) => {
                horizons.freshness_of(resolved.iter().map(|resolved| &resolved.reads))
            }
        };
        let accepts_stale = work.hint == Some(HintRole::Replica);
        let view = SessionView { reads: routing.reads, freshness, consistency };
        let cluster = &self.database.cluster;
        let max_lag = routing.max_replica_lag;
        let replicas: SmallVec<[NodeView; 8]> =
            cluster.replicas.iter().map(|r| node_view(&r.node, r.weight, Role::Replica, max_lag)).collect();
        let primary = node_view(&cluster.primary, 1, Role::Primary, max_lag);
        self.turn = self.turn.wrapping_add(1);
        let route = route::decide(work, view, ClusterView { primary, replicas: &replicas }, self.turn);
        (route, if accepts_stale { Freshness::Any } else { freshness })
    }

    /// The pool of a target.
    pub(super) fn pool(&mut self, target: Target) -> Arc<Pool> {
        let index = match target {
            Target::Primary => 0,
            Target::Replica(index) => index + 1,
        };
        if let Some(Some(pool)) = self.pools.get(index) {
            return Arc::clone(pool);
        }
        let node = match target {
            Target::Primary => &self.database.cluster.primary,
            // `decide` gives an index of the list it was given.
            Target::Replica(index) => {
                self.database.cluster.replicas.get(index).map_or(&self.database.cluster.primary, |r| &r.node)
            }
        };
        let pool = self.topology.pool(&self.context.pools, &self.database, &self.user, node);
        if self.pools.len() <= index {
            self.pools.resize(index + 1, None);
        }
        if let Some(slot) = self.pools.get_mut(index) {
            *slot = Some(Arc::clone(&pool));
        }
        pool
    }

    /// Waits in the pool's queue. Meanwhile the client may leave, and orders are obeyed.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place in the queue up; a connection on its way goes back.
    async fn wait(&mut self, pool: &Arc<Pool>) -> Result<Result<ServerLease, CheckoutError>, SessionError> {
        let began = Instant::now();
        self.handle().set_activity(Activity::Waiting, began);
        let limit = pool.settings().checkout_timeout;
        self.handle().begin_wait();
        let mut waiting = pin!(pool.enqueue(began));
        let mut timer = pin!(tokio::time::sleep(limit));
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = waiting.as_mut().poll(cx) {
                return Poll::Ready(Ok(result));
            }
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(Err(CheckoutError::Timeout { waited: began.elapsed() })));
            }
            match self.handle().pending_order(Some(cx)) {
                _ if self.handle().is_wait_canceled() => {
                    return Poll::Ready(Ok(Err(CheckoutError::Canceled)));
                }
                // A drain lets what has begun finish.
                Order::None | Order::Drain | Order::QueryTimeout => {}
                order => return Poll::Ready(Err(SessionError::Ordered(order))),
            }
            while self.wire.inbox.len() < READ_AHEAD_BYTES_MAX {
                match self.wire.poll_fill(cx) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(SessionError::ClientGone(
                            std::io::ErrorKind::UnexpectedEof.into(),
                        )));
                    }
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(SessionError::ClientGone(error))),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await;
        let canceled = self.handle().end_wait();
        let result = match result {
            Ok(Ok(lease)) if canceled => {
                // It came in the same moment.
                lease.checkin();
                Ok(Err(CheckoutError::Canceled))
            }
            other => other,
        };
        let waited = began.elapsed();
        let micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        pool.stats.wait_time.fetch_add(micros, Ordering::Relaxed);
        self.context.histograms.checkout_wait(waited);
        if !matches!(result, Ok(Ok(_))) {
            self.handle().set_activity(Activity::Idle, began);
        }
        if matches!(result, Ok(Err(CheckoutError::Timeout { .. }))) {
            pool.stats.timeouts.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Tells everybody who looks that this client has this server connection.
    fn link(&mut self, lease: &ServerLease) {
        self.handle().link(Arc::clone(lease.identity()));
        self.last_server = lease.identity().id;
        lease.info.set_activity(ServerActivity::Active);
        lease.info.client.store(self.handle().id.0, Ordering::Relaxed);
        lease.info.lent_micros.store(
            u64::try_from(lease.opened_at.elapsed().as_micros()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
        lease.pool().stats.assignments.fetch_add(1, Ordering::Relaxed);
    }
}

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
async fn is_fresh(lease: &mut ServerLease, freshness: Freshness) -> bool {
    let needed = match freshness {
        Freshness::Any => return true,
        Freshness::NotKnownYet => return false,
        Freshness::At(needed) => needed,
    };
    if let Some(position) = lease.pool().node.position_since(lease.opened_at) {
        return position >= needed;
    }
    // NULL when it is no standby any more.
    let answer = lease.simple_query("SELECT pg_catalog.pg_last_wal_replay_lsn()").await;
    lease.unnamed = None;
    let position = answer.ok().and_then(|rows| rows.into_iter().next()?.into_iter().next()??.parse().ok());
    position.is_some_and(|position: Lsn| position >= needed)
}

fn node_view(node: &Node, weight: u32, role: Role, max_lag: Duration) -> NodeView {
    let usable = match node.state() {
        NodeState::Up => node.role() == Some(role),
        NodeState::Unknown | NodeState::Lagging | NodeState::Down => false,
    };
    let late = !max_lag.is_zero() && node.lag().1 > u64::try_from(max_lag.as_micros()).unwrap_or(u64::MAX);
    NodeView {
        usable: usable && !(late && role == Role::Replica),
        replayed: node.position(),
        in_flight: node.in_flight.load(Ordering::Relaxed),
        weight,
    }
}
