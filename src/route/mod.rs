//! The decision: which node runs a statement, and why. One pure function.
//!
//! Invariants: [`decide`] is total; what is not known to be a read goes to the primary; nothing (hint,
//! setting, topology) sends anything else to a replica. It is asked only when a session holds no server
//! connection: inside a transaction, or pinned, the connection held is the route.

mod reason;
mod rules;

pub use crate::cluster::Freshness;
pub use reason::Reason;
pub use rules::must_be_primary;

use crate::cluster::{Load, Lsn};
use crate::config::{Consistency, Reads};
use crate::sql::{Effect, HintRole, Isolation, Statement, TransactionControl};

/// What is to be run: one string, or all statements of a batch together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// The strictest effect of all.
    pub effect: Effect,
    /// It opens a transaction that is READ ONLY and that a standby accepts.
    pub begins_read_only: bool,
    /// What comments ask for; the primary wins.
    pub hint: Option<HintRole>,
    /// What in the catalog makes it more than a read.
    pub blame: Option<Reason>,
}

impl Work {
    /// Nothing to run.
    pub const NONE: Self = Self { effect: Effect::Empty, begins_read_only: false, hint: None, blame: None };

    /// One statement string, by its text alone.
    pub fn of(statement: &Statement) -> Self {
        Self::with_effect(statement, statement.effect, None)
    }

    /// One statement string of which more is known than its text.
    pub fn with_effect(statement: &Statement, effect: Effect, blame: Option<Reason>) -> Self {
        // A standby refuses SERIALIZABLE.
        let begins_read_only = matches!(
            statement.control,
            Some(TransactionControl::Begin { read_only: Some(true), isolation, .. })
                if isolation != Some(Isolation::Serializable)
        );
        Self { effect, begins_read_only, hint: statement.hint.role, blame }
    }

    /// This and then `next`, in one batch.
    #[must_use]
    pub fn and(self, next: Self) -> Self {
        if self == Self::NONE {
            return next;
        }
        let hint = match (self.hint, next.hint) {
            (Some(HintRole::Primary), _) | (_, Some(HintRole::Primary)) => Some(HintRole::Primary),
            (a, b) => a.or(b),
        };
        // After BEGIN READ ONLY, reads stay what the BEGIN made of them.
        if self.begins_read_only && matches!(next.effect, Effect::Read | Effect::Empty) {
            return Self { hint, ..self };
        }
        let blame = if next.effect > self.effect { next.blame } else { self.blame };
        Self { effect: self.effect.max(next.effect), begins_read_only: false, hint, blame }
    }
}

/// What the decision needs to know of the client.
#[derive(Clone, Copy, Debug)]
pub struct SessionView {
    /// Where reads may go.
    pub reads: Reads,
    /// How fresh they must be.
    pub freshness: Freshness,
    /// The promise behind that.
    pub consistency: Consistency,
}

/// What the decision needs to know of a node.
#[derive(Clone, Copy, Debug)]
pub struct NodeView {
    /// It may take reads: it answers, is not too far behind, has the role it should have.
    pub usable: bool,
    /// Replayed up to here, at least.
    pub replayed: Lsn,
    /// Statements in flight.
    pub in_flight: u32,
    /// Its share.
    pub weight: u32,
    /// Microseconds to an answer; zero if nobody knows.
    pub latency: u32,
    /// It is in the zone of this pgweir, or there are no zones.
    pub near: bool,
}

impl NodeView {
    /// One of which nothing is known: no read goes there.
    pub const UNKNOWN: Self =
        Self { usable: false, replayed: Lsn(0), in_flight: 0, weight: 1, latency: 0, near: true };

    #[inline]
    fn load(&self) -> Load {
        Load { in_flight: self.in_flight, weight: self.weight, latency: self.latency }
    }
}

/// What the decision needs to know of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct ClusterView<'a> {
    /// The primary; looked at where reads may go there, too.
    pub primary: NodeView,
    /// The replicas, in the order of the configuration.
    pub replicas: &'a [NodeView],
}

/// Where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The primary.
    Primary,
    /// The replica with this index.
    Replica(usize),
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub target: Target,
    /// Why.
    pub reason: Reason,
    /// Who would do as well, if all connections to the target are lent.
    pub others: Places,
}

impl Route {
    /// To the primary, and nowhere else.
    pub fn primary(reason: Reason) -> Self {
        Self { target: Target::Primary, reason, others: Places::default() }
    }
}

/// Some replicas, by index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places(u64);

impl Places {
    /// Those that come after the 64th are left out.
    fn insert(&mut self, index: usize) {
        self.0 |= u32::try_from(index).ok().and_then(|index| 1_u64.checked_shl(index)).unwrap_or(0);
    }

    /// Their indexes.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let bits = std::iter::successors(Some(self.0), |bits| Some(bits & bits.wrapping_sub(1)));
        bits.take_while(|bits| *bits != 0).map(|bits| bits.trailing_zeros() as usize)
    }
}

/// Decides where `work` runs. `turn` is any number; it spreads equals.
pub fn decide(work: Work, session: SessionView, cluster: ClusterView<'_>, turn: u32) -> Route {
    if let Some(reason) = rules::must_be_primary(work) {
        return Route::primary(reason);
    }
    if let Some(reason) = rules::wants_primary(work, session, cluster) {
        return Route::primary(reason);
    }
    rules::choose_replica(work, session, cluster, turn)
}

#[cfg(test)]
mod tests;
