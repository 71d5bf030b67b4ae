//! The decision as a table, and its invariants as properties.

use proptest::prelude::*;

use super::*;

const FRESH: NodeView =
    NodeView { usable: true, replayed: Lsn(100), in_flight: 0, weight: 1, latency: 0, near: true };
const STALE: NodeView = NodeView { replayed: Lsn(10), ..FRESH };
const DOWN: NodeView = NodeView { usable: false, ..FRESH };
const SESSION: SessionView =
    SessionView { reads: Reads::Replica, freshness: Freshness::Any, consistency: Consistency::Session };
const READ: Work = Work { effect: Effect::Read, ..Work::NONE };

fn route(work: Work, session: SessionView, replicas: &[NodeView]) -> (Target, &'static str) {
    let route = decide(work, session, ClusterView { primary: FRESH, replicas }, 0);
    (route.target, route.reason.label())
}

#[test]
fn the_table() {
    let at = |lsn| SessionView { freshness: Freshness::At(Lsn(lsn)), ..SESSION };
    let pending = SessionView { freshness: Freshness::NotKnownYet, ..SESSION };
    let primary_only = SessionView { reads: Reads::Primary, ..SESSION };
    let shared = SessionView { reads: Reads::ReplicaOrPrimary, ..SESSION };
    let hint = |role| Work { hint: Some(role), ..READ };
    let read_only = Work { effect: Effect::Transaction, begins_read_only: true, hint: None, blame: None };
    let of = |effect| Work { effect, ..Work::NONE };
    let busy = NodeView { in_flight: 9, ..FRESH };
    let cases: &[(Work, SessionView, &[NodeView], Target, &str)] = &[
        (READ, SESSION, &[FRESH], Target::Replica(0), "read"),
        (of(Effect::Empty), SESSION, &[FRESH], Target::Replica(0), "read"),
        (of(Effect::Write), SESSION, &[FRESH], Target::Primary, "write"),
        (of(Effect::Unknown), SESSION, &[FRESH], Target::Primary, "unknown"),
        (of(Effect::Session), SESSION, &[FRESH], Target::Primary, "session"),
        (of(Effect::Transaction), SESSION, &[FRESH], Target::Primary, "transaction"),
        (read_only, SESSION, &[FRESH], Target::Replica(0), "read_only_transaction"),
        (read_only, pending, &[FRESH], Target::Primary, "own_writes"),
        (READ, primary_only, &[FRESH], Target::Primary, "reads_on_primary"),
        (READ, SESSION, &[], Target::Primary, "no_replica"),
        (READ, SESSION, &[DOWN, DOWN], Target::Primary, "no_usable_replica"),
        (READ, SESSION, &[DOWN, FRESH], Target::Replica(1), "read"),
        (READ, pending, &[FRESH], Target::Primary, "own_writes"),
        (READ, at(50), &[STALE, FRESH], Target::Replica(1), "read"),
        (READ, at(500), &[STALE, FRESH], Target::Primary, "own_writes"),
        (hint(HintRole::Primary), SESSION, &[FRESH], Target::Primary, "hint_primary"),
        (hint(HintRole::Replica), at(500), &[STALE], Target::Replica(0), "hint_replica"),
        (hint(HintRole::Replica), pending, &[STALE], Target::Replica(0), "hint_replica"),
        (READ, shared, &[busy], Target::Primary, "read_shared"),
        (READ, SESSION, &[busy, FRESH], Target::Replica(1), "read"),
    ];
    for (index, (work, session, replicas, target, reason)) in cases.iter().enumerate() {
        assert_eq!(route(*work, *session, replicas), (*target, *reason), "case {index}");
    }
}

fn effects() -> impl Strategy<Value = Effect> {
    prop::sample::select(vec![
        Effect::Empty,
        Effect::Read,
        Effect::Transaction,
        Effect::Session,
        Effect::Write,
        Effect::Unknown,
    ])
}

fn nodes() -> impl Strategy<Value = Vec<NodeView>> {
    let node =
        (any::<bool>(), 0_u64..200, 0_u32..50, 1_u32..5).prop_map(|(usable, lsn, in_flight, weight)| {
            NodeView { usable, replayed: Lsn(lsn), in_flight, weight, latency: 0, near: true }
        });
    prop::collection::vec(node, 0..5)
}

proptest! {
    /// Total; only reads (and READ ONLY transactions) reach replicas, and only usable, fresh ones.
    #[test]
    fn replicas_get_only_what_they_may(
        effect in effects(),
        begins in any::<bool>(),
        hint in prop::option::of(prop::sample::select(vec![HintRole::Primary, HintRole::Replica])),
        need in prop::option::of(0_u64..200),
        replicas in nodes(),
        turn in any::<u32>(),
    ) {
        let work = Work { effect, begins_read_only: begins && effect == Effect::Transaction, hint, blame: None };
        let freshness = need.map_or(Freshness::Any, |lsn| Freshness::At(Lsn(lsn)));
        let route = decide(work, SessionView { freshness, ..SESSION }, ClusterView { primary: FRESH, replicas: &replicas }, turn);
        if route.target == Target::Primary {
            prop_assert_eq!(route.others, Places::default());
        }
        for index in route.others.iter() {
            prop_assert!(Target::Replica(index) != route.target);
            prop_assert!(replicas[index].usable);
            if hint.is_none() {
                prop_assert!(need.is_none_or(|lsn| replicas[index].replayed >= Lsn(lsn)));
            }
        }
        if let Target::Replica(index) = route.target {
            prop_assert!(matches!(effect, Effect::Read | Effect::Empty) || work.begins_read_only);
            prop_assert!(replicas[index].usable);
            prop_assert!(hint != Some(HintRole::Primary));
            if hint.is_none() {
                prop_assert!(need.is_none_or(|lsn| replicas[index].replayed >= Lsn(lsn)));
            }
        }
    }
}

#[test]
fn a_read_may_wait_for_all_replicas_with_the_share_of_its_target() {
    let others = |replicas: &[NodeView], reads| {
        let session = SessionView { reads, ..SESSION };
        let route = decide(READ, session, ClusterView { primary: FRESH, replicas }, 0);
        (route.target, route.others.iter().collect::<Vec<_>>())
    };
    let (twice, far) = (NodeView { weight: 2, ..FRESH }, NodeView { near: false, ..FRESH });
    let busy = NodeView { in_flight: 9, ..FRESH };
    assert_eq!(others(&[busy, FRESH, busy, DOWN], Reads::Replica), (Target::Replica(1), vec![0, 2]));
    assert_eq!(others(&[busy, FRESH, far], Reads::Replica), (Target::Replica(1), vec![0]));
    assert_eq!(others(&[twice, busy], Reads::Replica), (Target::Replica(0), vec![]));
    // The primary has a queue of its own.
    assert_eq!(others(&[FRESH, busy], Reads::ReplicaOrPrimary), (Target::Replica(0), vec![1]));
    assert_eq!(others(&[FRESH; 70], Reads::Replica), (Target::Replica(0), (1..64).collect()));
}

#[test]
fn reads_stay_in_the_zone_as_long_as_somebody_there_can_serve_them() {
    let far = NodeView { near: false, ..FRESH };
    let busy = NodeView { in_flight: 9, ..FRESH };
    let session = SessionView {
        reads: Reads::Replica,
        freshness: Freshness::At(Lsn(50)),
        consistency: Consistency::Strong,
    };
    let work = Work { effect: Effect::Read, ..Work::NONE };
    let target = |replicas: &[NodeView], primary, reads| {
        decide(work, SessionView { reads, ..session }, ClusterView { primary, replicas }, 0).target
    };
    assert_eq!(target(&[far, busy], FRESH, Reads::Replica), Target::Replica(1));
    assert_eq!(target(&[far, STALE], FRESH, Reads::Replica), Target::Replica(0));
    assert_eq!(target(&[far, DOWN], FRESH, Reads::Replica), Target::Replica(0));
    assert_eq!(target(&[far, DOWN], FRESH, Reads::ReplicaOrPrimary), Target::Primary);
    assert_eq!(target(&[far, busy], far, Reads::ReplicaOrPrimary), Target::Replica(1));
}
