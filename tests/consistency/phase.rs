//! The stretches of time of a run: phases with their disturbance, and slices in which all clients behave alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::disturb::Disturbance;
use crate::random::Random;
use crate::reads::Read;
use crate::writes::Write;

/// So long all clients write in the same few ways, at the same rate.
pub const SLICE: Duration = Duration::from_millis(400);

/// How long a burst of writes is.
const BURST_MS: u64 = 8;

/// A stretch of time with one disturbance.
#[derive(Debug)]
pub struct Phase {
    pub number: u64,
    pub seed: u64,
    pub disturbance: Disturbance,
    pub run: Run,
    start: Instant,
    until: Instant,
    writes: AtomicU64,
    over: AtomicBool,
}

/// What all phases of a run share.
#[derive(Clone, Debug)]
pub struct Run {
    pub seed: u64,
    /// Reads of ten tables, writes of two of them, one in ten; and nothing else.
    pub share: bool,
    /// The ways that clients may choose from.
    pub writes: Arc<[Write]>,
    pub reads: Arc<[Read]>,
    pub per_mille: Option<u64>,
    /// Operations of all phases, and how many there may be.
    pub operations: Arc<AtomicU64>,
    pub limit: u64,
    /// Which node is the primary.
    pub primary: Arc<AtomicUsize>,
}

impl Run {
    pub fn operations_done(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }
}

impl Phase {
    pub fn new(run: &Run, number: u64, disturbance: Disturbance, length: Duration) -> Self {
        let start = Instant::now();
        Self {
            number,
            seed: Random::of(&[run.seed, number]).below(u64::MAX),
            disturbance,
            run: run.clone(),
            start,
            until: start + length,
            writes: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    pub fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
            || Instant::now() >= self.until
            || self.run.operations_done() >= self.run.limit
    }

    /// Ends it before its time.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Waits, not longer than the phase lasts; whether it still does.
    pub async fn rest(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.over() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            tokio::time::sleep(left.min(Duration::from_millis(50))).await;
        }
        false
    }

    /// A write was acknowledged.
    pub fn wrote(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes acknowledged so far.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// How clients behave for a while. Rates differ, since a table that is written all the time is never read from a
/// replica: what is interesting happens when the last write is some ten milliseconds ago.
#[derive(Debug)]
pub struct Slice {
    pub number: u128,
    pub ways: Vec<Write>,
    writes_per_mille: u64,
    /// Writes come all at once, every so many milliseconds, and in between there are none. What the pooler learns of
    /// one write then meets the next one, and the reads that follow find no later write that hides a mistake.
    bursts: Option<u64>,
    /// Nothing is done by which reads of all tables are held back.
    pub narrow: bool,
}

impl Slice {
    pub fn of(phase: &Phase, number: u128) -> Self {
        let mut random = Random::of(&[phase.seed, 0x511CE, number as u64]);
        if phase.run.share {
            return Self { number, ways: Vec::new(), writes_per_mille: 100, bursts: None, narrow: true };
        }
        let all = &phase.run.writes;
        let narrow = random.per_mille(700) && all.iter().any(|way| way.names_its_tables());
        let count = 1 + random.index(4);
        let ways = (0..count).map(|_| {
            loop {
                let way = random.pick(all);
                if way.names_its_tables() || !narrow {
                    break way;
                }
            }
        });
        let ways = ways.collect();
        let promotes = phase.disturbance.promotes();
        let writes_per_mille = if promotes { 60 } else { random.pick(&[3, 10, 30, 100, 250]) };
        let bursts = random.per_mille(400).then(|| random.pick(&[60, 120, 200]));
        let bursts = bursts.filter(|_| phase.run.per_mille.is_none());
        let writes_per_mille = phase.run.per_mille.unwrap_or(writes_per_mille);
        Self { number, ways, writes_per_mille, bursts, narrow }
    }

    /// Whether a client's next operation is a write.
    pub fn writes_now(&self, phase: &Phase, random: &mut Random) -> bool {
        match self.bursts {
            None => random.per_mille(self.writes_per_mille),
            Some(every) => {
                let now = phase.elapsed().as_millis() as u64 % every;
                random.per_mille(500) && now < BURST_MS
            }
        }
    }
}
