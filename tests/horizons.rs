//! Write horizons by table: their life, their bounds, and random histories against a model that sees everything.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::time::{Duration, Instant};

use pgweir::cluster::{
    ABANDONED_FOR, Freshness, HorizonStats, Lsn, PendingWrite, TableHorizons, TableSet, WriteHorizon,
};
use proptest::prelude::*;

fn set(ids: &[u32]) -> TableSet {
    TableSet::of(ids.to_vec())
}

#[test]
fn the_life_of_a_mark() {
    let (horizons, primary) = (TableHorizons::default(), WriteHorizon::default());
    let now = Instant::now();
    assert_eq!(horizons.freshness(&TableSet::All), Freshness::Any);
    let write = horizons.begin_write(&set(&[1, 2]));
    assert_eq!(horizons.freshness(&set(&[2, 9])), Freshness::NotKnownYet);
    assert_eq!(horizons.freshness(&set(&[9])), Freshness::Any);
    assert_eq!(horizons.freshness(&TableSet::All), Freshness::NotKnownYet);
    // A probe that began before the acknowledgment says nothing about it.
    let early = primary.newest_ticket();
    horizons.committed(write, || &primary);
    horizons.position_known(early, Lsn(50), now);
    assert_eq!(horizons.freshness(&set(&[1])), Freshness::NotKnownYet);
    horizons.position_known(primary.newest_ticket(), Lsn(100), now);
    assert_eq!(horizons.freshness(&set(&[1])), Freshness::At(Lsn(100)));
    assert_eq!(horizons.freshness(&TableSet::All), Freshness::At(Lsn(100)));
    assert_eq!(horizons.freshness(&set(&[9])), Freshness::Any);
    horizons.collect(Lsn(99));
    assert_eq!(horizons.stats().tables, 2);
    horizons.collect(Lsn(100));
    assert_eq!(horizons.stats().tables, 0);
    assert_eq!(
        horizons.freshness(&set(&[9])),
        Freshness::At(Lsn(100)),
        "the floor, for a replica that is older"
    );
}

#[test]
fn unknown_tables_count_for_every_read() {
    let (horizons, primary) = (TableHorizons::default(), WriteHorizon::default());
    let write = horizons.begin_write(&TableSet::All);
    assert_eq!(horizons.freshness(&TableSet::none()), Freshness::NotKnownYet);
    horizons.committed(write, || &primary);
    horizons.position_known(1, Lsn(7), Instant::now());
    assert_eq!(horizons.freshness(&TableSet::none()), Freshness::At(Lsn(7)));
}

#[test]
fn a_lost_connection_keeps_its_tables_on_the_primary_for_a_while() {
    let (horizons, primary) = (TableHorizons::default(), WriteHorizon::default());
    let start = Instant::now();
    horizons.abandoned(horizons.begin_write(&set(&[1])), start);
    horizons.position_known(primary.newest_ticket(), Lsn(10), start + ABANDONED_FOR / 2);
    assert_eq!(horizons.freshness(&set(&[1])), Freshness::NotKnownYet);
    horizons.position_known(primary.newest_ticket(), Lsn(20), start + ABANDONED_FOR);
    assert_eq!(horizons.freshness(&set(&[1])), Freshness::At(Lsn(20)));
    assert_eq!(horizons.stats().pending, 0);
}

#[test]
fn after_a_failover_nothing_is_known_until_the_new_primary_was_asked() {
    let (horizons, old, new) = (TableHorizons::default(), WriteHorizon::default(), WriteHorizon::default());
    let now = Instant::now();
    horizons.committed(horizons.begin_write(&set(&[1])), || &old);
    horizons.committed(horizons.begin_write(&set(&[2])), || &old);
    horizons.position_known(1, Lsn(500), now);
    horizons.primary_changed(&new);
    assert_eq!(horizons.freshness(&set(&[3])), Freshness::NotKnownYet);
    horizons.position_known(new.newest_ticket(), Lsn(400), now);
    for tables in [set(&[1]), set(&[2]), set(&[3]), TableSet::All] {
        assert_eq!(horizons.freshness(&tables), Freshness::At(Lsn(400)));
    }
}

#[test]
fn marks_are_bounded() {
    let (horizons, primary) = (TableHorizons::new(100), WriteHorizon::default());
    for id in 0..10_000 {
        horizons.committed(horizons.begin_write(&set(&[id])), || &primary);
        if id % 7 == 0 {
            horizons.position_known(primary.newest_ticket(), Lsn(u64::from(id) + 1), Instant::now());
        }
        assert!(horizons.stats().tables <= 100);
    }
    assert!(horizons.stats().folded > 0);
    let wide: Vec<u32> = (20_000..30_000).collect();
    let write = horizons.begin_write(&TableSet::of(wide));
    assert_eq!(*write.tables(), TableSet::All);
    horizons.rolled_back(write);
}

/// A server with its log, clients and replicas, told everything at once: what the marks must never contradict.
#[derive(Default)]
struct World {
    log: u64,
    replayed: [u64; 2],
    /// Tables and commit position of what was committed.
    commits: Vec<(TableSet, u64)>,
    under_way: Vec<PendingWrite>,
    /// Committed, acknowledgment still on its way.
    unacknowledged: Vec<PendingWrite>,
    /// A probe that has asked: ticket, position, time.
    probe: Option<(u64, u64, Instant)>,
}

#[derive(Clone, Debug)]
enum Step {
    Begin(Vec<u32>),
    BeginAll,
    Commit(usize),
    Acknowledge(usize),
    RollBack(usize),
    /// The connection breaks, before or after the server has committed.
    Lose(usize, bool),
    Ask,
    Answer,
    Replay(usize, u64),
    Collect,
    Time(u64),
    OtherLog(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(0..8u32, 0..3).prop_map(Step::Begin),
        1 => Just(Step::BeginAll),
        4 => any::<usize>().prop_map(Step::Commit),
        4 => any::<usize>().prop_map(Step::Acknowledge),
        1 => any::<usize>().prop_map(Step::RollBack),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, done)| Step::Lose(at, done)),
        4 => Just(Step::Ask),
        4 => Just(Step::Answer),
        4 => (0..2usize, 0..6u64).prop_map(|(at, by)| Step::Replay(at, by)),
        2 => Just(Step::Collect),
        1 => (0..1500u64).prop_map(Step::Time),
        1 => (0..4u64).prop_map(Step::OtherLog),
    ]
}

fn touches(write: &TableSet, read: &TableSet) -> bool {
    match (write, read) {
        (TableSet::All, _) => true,
        (some, TableSet::All) => !some.is_empty(),
        (TableSet::Some(write), TableSet::Some(read)) => write.iter().any(|id| read.contains(id)),
    }
}

fn take<T>(from: &mut Vec<T>, at: usize) -> Option<T> {
    if from.is_empty() { None } else { Some(from.swap_remove(at % from.len())) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever happens in whatever order: a replica that may serve a read shows every commit of its tables
    /// that anybody could have seen.
    #[test]
    fn no_read_is_stale(steps in prop::collection::vec(step(), 1..80), tables_max in 2..12usize) {
        let (horizons, primary) = (TableHorizons::new(tables_max), WriteHorizon::default());
        let mut world = World::default();
        let mut now = Instant::now();
        for step in steps {
            match step {
                Step::Begin(ids) => world.under_way.push(horizons.begin_write(&TableSet::of(ids))),
                Step::BeginAll => world.under_way.push(horizons.begin_write(&TableSet::All)),
                Step::Commit(at) => if let Some(write) = take(&mut world.under_way, at) {
                    world.log += 1;
                    world.commits.push((write.tables().clone(), world.log));
                    world.unacknowledged.push(write);
                },
                Step::Acknowledge(at) => if let Some(write) = take(&mut world.unacknowledged, at) {
                    horizons.committed(write, || &primary);
                },
                Step::RollBack(at) => if let Some(write) = take(&mut world.under_way, at) {
                    horizons.rolled_back(write);
                },
                Step::Lose(at, done) => {
                    let from = if done { &mut world.unacknowledged } else { &mut world.under_way };
                    if let Some(write) = take(from, at) {
                        horizons.abandoned(write, now);
                    }
                }
                Step::Ask => world.probe = Some((primary.newest_ticket(), world.log, now)),
                Step::Answer => if let Some((ticket, log, asked)) = world.probe.take() {
                    horizons.position_known(ticket, Lsn(log), asked);
                },
                Step::Replay(at, by) => world.replayed[at] = (world.replayed[at] + by).min(world.log),
                Step::Collect => horizons.collect(Lsn(world.replayed[0].min(world.replayed[1]))),
                Step::Time(ms) => now += Duration::from_millis(ms),
                Step::OtherLog(by) => world.log += by,
            }
            let mut reads: Vec<TableSet> = (0..9u32).map(|id| set(&[id])).collect();
            reads.extend([set(&[0, 3]), TableSet::none(), TableSet::All]);
            for read in &reads {
                let freshness = horizons.freshness(read);
                for replayed in world.replayed {
                    let may = match freshness {
                        Freshness::Any => true,
                        Freshness::NotKnownYet => false,
                        Freshness::At(position) => position.0 <= replayed,
                    };
                    let missed = world.commits.iter().find(|(tables, at)| touches(tables, read) && *at > replayed);
                    prop_assert!(!may || missed.is_none(), "{read:?} at {replayed}: {freshness:?}, missed {missed:?}");
                }
            }
            prop_assert!(horizons.stats().tables <= tables_max);
        }
        // And it ends: when all is done, told and replayed, replicas serve again.
        for write in world.under_way.drain(..) {
            horizons.rolled_back(write);
        }
        for write in world.unacknowledged.drain(..) {
            horizons.committed(write, || &primary);
        }
        horizons.position_known(primary.newest_ticket(), Lsn(world.log.max(1)), now + ABANDONED_FOR);
        horizons.collect(Lsn(world.log.max(1)));
        prop_assert_eq!(horizons.stats(), HorizonStats { folded: horizons.stats().folded, ..HorizonStats::default() });
        match horizons.freshness(&TableSet::All) {
            Freshness::Any => {}
            Freshness::At(position) => prop_assert!(position.0 <= world.log.max(1)),
            Freshness::NotKnownYet => prop_assert!(false, "never ends"),
        }
    }
}

/// Not a bound to fail on a busy machine, but what a person wants to see: `cargo test -- --nocapture costs`.
#[test]
fn costs() {
    let (horizons, primary) = (TableHorizons::default(), WriteHorizon::default());
    for id in 0..1_000 {
        horizons.committed(horizons.begin_write(&set(&[id])), || &primary);
    }
    horizons.position_known(primary.newest_ticket(), Lsn(5), Instant::now());
    let read = set(&[3, 2_000, 4_000]);
    let rounds = 100_000;
    let start = Instant::now();
    for _ in 0..rounds {
        assert_eq!(std::hint::black_box(horizons.freshness(&read)), Freshness::At(Lsn(5)));
    }
    let freshness = start.elapsed() / rounds;
    let start = Instant::now();
    for _ in 0..rounds {
        horizons.committed(horizons.begin_write(&read), || &primary);
    }
    let write = start.elapsed() / rounds;
    println!("freshness of three tables {freshness:?}, a write of three tables {write:?}");
    assert!(freshness < Duration::from_micros(100) && write < Duration::from_micros(300));
}
