//! The rules, in the order they are asked, each named by what it protects.

use crate::cluster::{Load, pick};
use crate::config::{Consistency, Reads};
use crate::sql::{Effect, HintRole};

use super::{ClusterView, Freshness, NodeView, Reason, Route, SessionView, Target, Work};

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
    let eligible = |node: &NodeView| node.usable && fresh(node);
    if !cluster.replicas.iter().any(|node| node.usable) {
        return Route { target: Target::Primary, reason: Reason::NoUsableReplica };
    }
    if !cluster.replicas.iter().any(eligible) {
        return Route { target: Target::Primary, reason: too_old(session) };
    }
    let shares = session.reads == Reads::ReplicaOrPrimary && cluster.primary.usable;
    let primary = shares.then_some((Target::Primary, &cluster.primary));
    let replicas = cluster.replicas.iter().enumerate().map(|(index, node)| (Target::Replica(index), node));
    let candidates = replicas.filter(|(_, node)| eligible(node)).chain(primary);
    // Another zone is far away, and costs money.
    let stays = candidates.clone().any(|(_, node)| node.near);
    let mut candidates = candidates.filter(|(_, node)| node.near || !stays);
    let loads = candidates.clone().map(|(_, node)| Load {
        in_flight: node.in_flight,
        weight: node.weight,
        latency: node.latency,
    });
    match pick(loads, turn).and_then(|index| candidates.nth(index)) {
        Some((Target::Primary, _)) => Route { target: Target::Primary, reason: Reason::ReadShared },
        Some((target, _)) => Route { target, reason: replica_reason(work, accepts_stale) },
        None => Route { target: Target::Primary, reason: Reason::NoUsableReplica },
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
