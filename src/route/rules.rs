//! The rules, in the order they are asked, each named by what it protects.

use smallvec::SmallVec;

use crate::cluster::{Load, pick};
use crate::config::{Consistency, Reads};
use crate::sql::{Effect, HintRole};

use super::{ClusterView, Freshness, NodeView, Places, Reason, Route, SessionView, Target, Work};

/// Correctness: what is not known to be a read runs on the primary.
pub fn must_be_primary(work: Work) -> Option<Reason> {
    match work.effect {
        Effect::Read | Effect::Empty => None,
        Effect::Transaction if work.begins_read_only => None,
        Effect::Transaction => Some(Reason::Transaction),
        Effect::Session => Some(Reason::Session),
        Effect::Write => Some(work.blame.unwrap_or(Reason::Write)),
        Effect::Unknown => Some(Reason::Unknown),
    }
}

/// Wishes and freshness: a read that stays on the primary all the same.
pub(super) fn wants_primary(work: Work, session: SessionView, cluster: ClusterView<'_>) -> Option<Reason> {
    if session.reads == Reads::Primary {
        return Some(Reason::ReadsOnPrimary);
    }
    if work.hint == Some(HintRole::Primary) {
        return Some(Reason::HintPrimary);
    }
    if cluster.replicas.is_empty() {
        return Some(Reason::NoReplica);
    }
    if session.freshness == Freshness::NotKnownYet && work.hint != Some(HintRole::Replica) {
        return Some(too_old(session));
    }
    None
}

/// Why no replica is fresh enough.
fn too_old(session: SessionView) -> Reason {
    match (session.consistency, session.freshness) {
        (Consistency::Strong, Freshness::NotKnownYet) => Reason::RecentWrites,
        (Consistency::Strong, _) => Reason::ReplicasBehind,
        _ => Reason::OwnWrites,
    }
}

/// Balance: the least loaded of the replicas that may serve this read.
pub(super) fn choose_replica(work: Work, session: SessionView, cluster: ClusterView<'_>, turn: u32) -> Route {
    let accepts_stale = work.hint == Some(HintRole::Replica);
    let fresh = |node: &NodeView| match session.freshness {
        Freshness::At(needed) => accepts_stale || node.replayed >= needed,
        Freshness::Any => true,
        Freshness::NotKnownYet => accepts_stale,
    };
    let mut candidates = Candidates::default();
    let mut any_usable = false;
    for (index, node) in cluster.replicas.iter().enumerate().filter(|(_, node)| node.usable) {
        any_usable = true;
        if fresh(node) {
            candidates.add(Target::Replica(index), node);
        }
    }
    if candidates.targets.is_empty() {
        let reason = if any_usable { too_old(session) } else { Reason::NoUsableReplica };
        return Route::primary(reason);
    }
    if session.reads == Reads::ReplicaOrPrimary && cluster.primary.usable {
        candidates.add(Target::Primary, &cluster.primary);
    }
    let Candidates { targets, loads, .. } = &candidates;
    let Some(picked) = pick(loads, turn) else { return Route::primary(Reason::NoUsableReplica) };
    match (targets.get(picked), loads.get(picked)) {
        (Some(target @ Target::Replica(_)), Some(load)) => Route {
            target: *target,
            reason: replica_reason(work, accepts_stale),
            others: candidates.equals(*target, load.weight),
        },
        _ => Route::primary(Reason::ReadShared),
    }
}

/// Who may serve a read.
#[derive(Default)]
struct Candidates {
    targets: SmallVec<[Target; 5]>,
    loads: SmallVec<[Load; 5]>,
    /// They are in our zone. Another zone is far away, and costs money.
    are_near: bool,
}

impl Candidates {
    #[inline]
    fn add(&mut self, target: Target, node: &NodeView) {
        if node.near != self.are_near {
            if !node.near {
                return;
            }
            self.targets.clear();
            self.loads.clear();
            self.are_near = true;
        }
        self.targets.push(target);
        self.loads.push(Load { in_flight: node.in_flight, weight: node.weight, latency: node.latency });
    }

    /// Who may take a read from the queue of the target: replicas with the same share. A node with a lower one would
    /// take as much as its connections can.
    fn equals(&self, target: Target, weight: u32) -> Places {
        let mut equals = Places::default();
        for (other, load) in self.targets.iter().zip(&self.loads) {
            if let Target::Replica(index) = other
                && *other != target
                && load.weight == weight
            {
                equals.insert(*index);
            }
        }
        equals
    }
}

fn replica_reason(work: Work, accepts_stale: bool) -> Reason {
    if work.begins_read_only {
        Reason::ReadOnlyTransaction
    } else if accepts_stale {
        Reason::HintReplica
    } else {
        Reason::Read
    }
}
