//! What is done to the servers and the network while clients read and write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgweir::cli::local_cluster::Mode;

use crate::nodes::Nodes;
use crate::phase::Phase;
use crate::random::Random;
use crate::registers::Registers;
use crate::report::Fault;
use crate::takeover::Takeover;

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
    /// The primary is cut off and lives, a replica is promoted, and the old primary is there again, as such.
    Split,
}

impl Disturbance {
    /// Without those that promote.
    pub const USUAL: [Self; 8] =
        [Self::Calm, Self::Delay, Self::Slow, Self::Pause, Self::Kill, Self::Stall, Self::Cut, Self::Storm];

    /// Replicas replay late all the time.
    fn delays(self) -> bool {
        matches!(self, Self::Delay | Self::Slow | Self::Storm)
    }

    /// Another node becomes the primary.
    pub fn promotes(self) -> bool {
        matches!(self, Self::Switchover | Self::Failover | Self::Split)
    }

    /// Only what a replica has, too, is acknowledged.
    fn is_synchronous(self) -> bool {
        matches!(self, Self::Failover | Self::Split)
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
            Self::Split => "split",
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
    /// Writes that are not where they must be.
    pub faults: Vec<(Fault, String)>,
}

/// New writes must succeed within this time of a promotion. pgweir should need a fifth of it; the machines that run
/// tests are busy.
const WRITES_AGAIN: Duration = Duration::from_secs(10);

/// Brings the trouble again and again until the phase is over, then mends everything.
pub async fn disturb(phase: Arc<Phase>, nodes: Arc<Nodes>, registers: Arc<Registers>) -> Vec<Told> {
    let mut random = Random::of(&[phase.seed, 0xD157]);
    let mut told = Vec::new();
    let kind = phase.disturbance;
    if kind.delays() {
        nodes
            .blocking(|nodes| nodes.replicas().into_iter().try_for_each(|node| nodes.delay(node, DELAY_MS)))
            .await;
    }
    if kind.is_synchronous() {
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
            Disturbance::Switchover | Disturbance::Failover | Disturbance::Split => {
                if !phase.rest(range(&mut random, 500, 1000)).await {
                    break;
                }
                told.push(switch(&phase, &nodes, &registers, one, &mut random).await);
            }
        }
    }
    (0..nodes.count()).for_each(|node| nodes.proxy(node).slow(0));
    nodes
        .blocking(move |nodes| {
            if kind.is_synchronous() {
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

/// Another node becomes the primary; the old one comes back as a primary that knows of nothing, which must get no
/// write that anybody is told of, and then as a replica.
async fn switch(
    phase: &Phase,
    nodes: &Arc<Nodes>,
    registers: &Arc<Registers>,
    how: Disturbance,
    random: &mut Random,
) -> Told {
    let old = nodes.primary();
    let begun = Instant::now();
    match how {
        Disturbance::Split => {
            nodes.proxy(old).stall();
            nodes.blocking(Nodes::sever).await;
        }
        Disturbance::Failover => {
            nodes.blocking(move |nodes| nodes.cluster().stop(old, Mode::Immediate)).await
        }
        _ => nodes.blocking(move |nodes| nodes.cluster().stop(old, Mode::Fast)).await,
    }
    let stopped = begun.elapsed();
    let new = nodes.blocking(Nodes::promote_best).await;
    let promoted = Instant::now();
    let before = phase.writes();
    let mut takeover = look(nodes, registers, new, Takeover::default()).await;
    while phase.writes() == before && promoted.elapsed() < WRITES_AGAIN && !phase.over() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // At the end of a phase nobody may be left to write.
    let waited = promoted.elapsed();
    let again = phase.writes() != before;
    let until = Instant::now() + range(random, 200, 1500);
    while Instant::now() < until && phase.rest(Duration::from_millis(30)).await {
        takeover = look(nodes, registers, new, takeover).await;
    }
    // There it is again, and takes itself for the primary.
    if how == Disturbance::Split {
        nodes.proxy(old).cut();
        nodes.proxy(old).flow();
    } else {
        nodes.blocking(move |nodes| nodes.cluster().start_node(old)).await;
    }
    let until = Instant::now() + range(random, 300, 1200);
    while Instant::now() < until && phase.rest(Duration::from_millis(30)).await {
        takeover = look(nodes, registers, new, takeover).await;
    }
    let shared = Arc::clone(registers);
    let found = nodes
        .blocking(move |nodes| {
            // Commits that wait for a replica are seen after a crash only.
            nodes.cluster().stop(old, Mode::Immediate)?;
            nodes.proxy(old).stall();
            nodes.cluster().start_node(old)?;
            takeover.look(nodes, new, &shared)?;
            let found = takeover.compare(nodes, (old, new), &shared)?;
            nodes.cluster().rebuild(old, new)?;
            nodes.proxy(old).cut();
            nodes.proxy(old).flow();
            Ok(found)
        })
        .await;
    let text = format!(
        "{}: node {old} gone after {} ms, node {new} promoted at {} ms, {} {} ms after that; of {} versions node {old} \
         had {} alone",
        how.name(),
        stopped.as_millis(),
        (promoted - begun).as_millis(),
        if again { "a write acknowledged" } else { "the phase over, without a write," },
        waited.as_millis(),
        found.compared,
        found.alone,
    );
    Told { text, well: again || waited < WRITES_AGAIN, faults: found.faults }
}

async fn look(
    nodes: &Arc<Nodes>,
    registers: &Arc<Registers>,
    new: usize,
    mut takeover: Takeover,
) -> Takeover {
    let registers = Arc::clone(registers);
    nodes
        .blocking(move |nodes| {
            takeover.look(nodes, new, &registers)?;
            Ok(takeover)
        })
        .await
}

fn range(random: &mut Random, from: u64, to: u64) -> Duration {
    Duration::from_millis(from + random.below(to - from))
}
