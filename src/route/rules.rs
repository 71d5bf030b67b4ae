//! The rules, in the order they are asked, each named by what it protects.

use crate::cluster::pick;
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
    // Who is in our zone goes before the others: another zone is far away, and costs money.
    let (mut any_usable, mut any_fresh, mut near) = (false, false, false);
    for node in cluster.replicas.iter().filter(|node| node.usable) {
        any_usable = true;
        if fresh(node) {
            any_fresh = true;
            near |= node.near;
        }
    }
    if !any_fresh {
        let reason = if any_usable { too_old(session) } else { Reason::NoUsableReplica };
        return Route::primary(reason);
    }
    let primary =
        (session.reads == Reads::ReplicaOrPrimary && cluster.primary.usable).then_some(&cluster.primary);
    near |= primary.is_some_and(|primary| primary.near);
    let replicas = cluster.replicas.iter().enumerate();
    let replicas = replicas.filter(|(_, node)| node.usable && node.near == near && fresh(node));
    let all = replicas.clone().map(|(index, node)| (Target::Replica(index), node));
    let all =
        all.chain(primary.filter(|primary| primary.near == near).map(|primary| (Target::Primary, primary)));
    let picked = pick(all.map(|(target, node)| ((target, node.weight), node.load())), turn);
    let Some((target @ Target::Replica(place), weight)) = picked else {
        return Route::primary(Reason::ReadShared);
    };
    // Who may take a read from the queue of the target: replicas with the same share. A node with a lower one would
    // take as much as its connections can.
    let mut others = Places::default();
    for (index, _) in replicas.filter(|(index, node)| *index != place && node.weight == weight) {
        others.insert(index);
    }
    Route { target, reason: replica_reason(work, accepts_stale), others }
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
