//! What is done to the servers and the network while clients read and write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgweir::cli::local_cluster::Mode;

use crate::nodes::Nodes;
use crate::phase::Phase;
use crate::random::Random;

/// One kind of trouble; a phase has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Disturbance {
    /// Nothing.
    Calm,
    /// Replicas replay 50 ms late.
    Delay,
    /// Replicas replay 50 ms late, and what passes between pgweir and a node takes up to 40 ms, changing all the time.
    Slow,
    /// Replay stands still on a replica, then goes on.
    Pause,
    /// A replica is stopped as by a crash and started again, sometimes with an older state than it has shown.
    Kill,
    /// Nothing passes between pgweir and a node, then everything.
    Stall,
    /// The connections between pgweir and a node are lost.
    Cut,
    /// All of these, with replicas late all the time.
    Storm,
    /// The primary is shut down in order, a replica promoted.
    Switchover,
    /// The primary is killed, a replica promoted. Commits are synchronous, so none is lost.
    Failover,
}

impl Disturbance {
    /// Without those that promote.
    pub const USUAL: [Self; 8] =
        [Self::Calm, Self::Delay, Self::Slow, Self::Pause, Self::Kill, Self::Stall, Self::Cut, Self::Storm];

    /// Replicas replay late all the time.
    fn delays(self) -> bool {
        matches!(self, Self::Delay | Self::Slow | Self::Storm)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Delay => "delay",
            Self::Slow => "slow",
            Self::Pause => "pause",
            Self::Kill => "kill",
            Self::Stall => "stall",
            Self::Cut => "cut",
            Self::Storm => "storm",
            Self::Switchover => "switchover",
            Self::Failover => "failover",
        }
    }
}

/// How late replicas are where they are.
const DELAY_MS: u64 = 50;

/// A promotion of a phase: what is worth telling of it, and whether it went as it must.
#[derive(Debug)]
pub struct Told {
    pub text: String,
    pub well: bool,
}

/// New writes must succeed within this time of a promotion. pgweir should need a fifth of it; the machines that run
/// tests are busy.
const WRITES_AGAIN: Duration = Duration::from_secs(10);

/// Brings the trouble again and again until the phase is over, then mends everything.
pub async fn disturb(phase: Arc<Phase>, nodes: Arc<Nodes>) -> Vec<Told> {
    let mut random = Random::of(&[phase.seed, 0xD157]);
    let mut told = Vec::new();
    let kind = phase.disturbance;
    if kind.delays() {
        nodes
            .blocking(|nodes| nodes.replicas().into_iter().try_for_each(|node| nodes.delay(node, DELAY_MS)))
            .await;
    }
    if kind == Disturbance::Failover {
        nodes.blocking(|nodes| nodes.synchronous(true)).await;
    }
    while phase.rest(range(&mut random, 100, 400)).await {
        let one = match kind {
            Disturbance::Storm => random.pick(&[
                Disturbance::Pause,
                Disturbance::Pause,
                Disturbance::Kill,
                Disturbance::Stall,
                Disturbance::Cut,
            ]),
            other => other,
        };
        let replica = random.pick(&nodes.replicas());
        let any = random.index(nodes.count());
        match one {
            Disturbance::Calm | Disturbance::Delay | Disturbance::Storm => {}
            Disturbance::Slow => {
                // The primary more often: what it says of its position is what the rest hangs on.
                (0..nodes.count()).for_each(|node| nodes.proxy(node).slow(random.pick(&[0, 0, 10, 30])));
                nodes.proxy(nodes.primary()).slow(random.pick(&[0, 10, 20, 40]));
            }
            Disturbance::Pause => {
                nodes.blocking(move |nodes| nodes.cluster().pause_replay(replica)).await;
                phase.rest(range(&mut random, 50, 900)).await;
                nodes.blocking(move |nodes| nodes.cluster().resume_replay(replica)).await;
            }
            Disturbance::Kill => {
                // Then it comes back with what it had shown some seconds before the crash.
                let forgets = random.per_mille(600);
                nodes
                    .blocking(move |nodes| {
                        if forgets {
                            nodes.delay_from_next_start(replica, 5000)?;
                        }
                        nodes.cluster().stop(replica, Mode::Immediate)
                    })
                    .await;
                phase.rest(range(&mut random, 0, 500)).await;
                nodes.blocking(move |nodes| nodes.cluster().start_node(replica)).await;
                // Long enough for the pooler to find that it is back.
                phase.rest(range(&mut random, 300, 2500)).await;
                if forgets {
                    let usual = if kind.delays() { DELAY_MS } else { 0 };
                    nodes.blocking(move |nodes| nodes.delay(replica, usual)).await;
                }
            }
            Disturbance::Stall => {
                nodes.proxy(any).stall();
                phase.rest(range(&mut random, 20, 1200)).await;
                nodes.proxy(any).flow();
            }
            Disturbance::Cut => {
                nodes.proxy(any).cut();
                phase.rest(range(&mut random, 50, 500)).await;
            }
            Disturbance::Switchover | Disturbance::Failover => {
                if !phase.rest(range(&mut random, 500, 1000)).await {
                    break;
                }
                told.push(switch(&phase, &nodes, one, &mut random).await);
            }
        }
    }
    (0..nodes.count()).for_each(|node| nodes.proxy(node).slow(0));
    nodes
        .blocking(move |nodes| {
            if kind == Disturbance::Failover {
                nodes.synchronous(false)?;
            }
            if kind.delays() {
                nodes.replicas().into_iter().try_for_each(|node| nodes.delay(node, 0))?;
            }
            nodes.cluster().access().wait_caught_up(nodes.primary())
        })
        .await;
    told
}

/// Another node becomes the primary; the old one comes back as a replica.
async fn switch(phase: &Phase, nodes: &Arc<Nodes>, how: Disturbance, random: &mut Random) -> Told {
    let old = nodes.primary();
    let mode = if how == Disturbance::Failover { Mode::Immediate } else { Mode::Fast };
    let begun = Instant::now();
    nodes.blocking(move |nodes| nodes.cluster().stop(old, mode)).await;
    let stopped = begun.elapsed();
    let new = nodes.blocking(Nodes::promote_best).await;
    let promoted = Instant::now();
    let before = phase.writes();
    while phase.writes() == before && promoted.elapsed() < WRITES_AGAIN && !phase.over() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // At the end of a phase nobody may be left to write.
    let waited = promoted.elapsed();
    let again = phase.writes() != before;
    phase.rest(range(random, 200, 1500)).await;
    nodes.blocking(move |nodes| nodes.cluster().rebuild(old, new)).await;
    let text = format!(
        "{}: node {old} gone after {} ms, node {new} promoted at {} ms, {} {} ms after that",
        how.name(),
        stopped.as_millis(),
        (promoted - begun).as_millis(),
        if again { "a write acknowledged" } else { "the phase over, without a write," },
        waited.as_millis()
    );
    Told { text, well: again || waited < WRITES_AGAIN }
}

fn range(random: &mut Random, from: u64, to: u64) -> Duration {
    Duration::from_millis(from + random.below(to - from))
}
