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
    let mut candidates: SmallVec<[(Target, &NodeView); 5]> = SmallVec::new();
    let (mut any_usable, mut any_near, mut any_far) = (false, false, false);
    for (index, node) in cluster.replicas.iter().enumerate().filter(|(_, node)| node.usable) {
        any_usable = true;
        if fresh(node) {
            any_near |= node.near;
            any_far |= !node.near;
            candidates.push((Target::Replica(index), node));
        }
    }
    if candidates.is_empty() {
        let reason = if any_usable { too_old(session) } else { Reason::NoUsableReplica };
        return Route::primary(reason);
    }
    if session.reads == Reads::ReplicaOrPrimary && cluster.primary.usable {
        any_near |= cluster.primary.near;
        any_far |= !cluster.primary.near;
        candidates.push((Target::Primary, &cluster.primary));
    }
    if any_near && any_far {
        // Another zone is far away, and costs money.
        candidates.retain(|(_, node)| node.near);
    }
    let loads = candidates.iter().map(|(_, node)| Load {
        in_flight: node.in_flight,
        weight: node.weight,
        latency: node.latency,
    });
    match pick(loads, turn).and_then(|index| candidates.get(index)) {
        Some((Target::Primary, _)) => Route::primary(Reason::ReadShared),
        Some((target, node)) => Route {
            target: *target,
            reason: replica_reason(work, accepts_stale),
            others: equals(&candidates, *target, node.weight),
        },
        None => Route::primary(Reason::NoUsableReplica),
    }
}

/// Who may take a read from the queue of the target: replicas with the same share. A node with a lower one would
/// take as much as its connections can.
fn equals(candidates: &[(Target, &NodeView)], target: Target, weight: u32) -> Places {
    let mut equals = Places::default();
    for (other, node) in candidates {
        if let Target::Replica(index) = other
            && *other != target
            && node.weight == weight
        {
            equals.insert(*index);
        }
    }
    equals
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
