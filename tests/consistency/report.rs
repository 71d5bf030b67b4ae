//! What was counted, and how it is told.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};
use std::ops::AddAssign;

use crate::reads::Read;
use crate::writes::Write;

/// Stale reads described in full.
const SAMPLES: usize = 12;

/// Reads of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadCount {
    /// Statements, or transactions that read.
    pub operations: u64,
    /// Versions compared.
    pub versions: u64,
    /// Of these, what came from a replica.
    pub by_replicas: u64,
    /// Of these, registers written within the last second: what can be stale at all.
    pub hot_by_replicas: u64,
}

impl AddAssign for ReadCount {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.versions += other.versions;
        self.by_replicas += other.by_replicas;
        self.hot_by_replicas += other.hot_by_replicas;
    }
}

impl ReadCount {
    pub fn replica_share(&self) -> f64 {
        if self.versions == 0 { 0.0 } else { self.by_replicas as f64 / self.versions as f64 }
    }
}

/// What is wrong with a version that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Older than a write that was acknowledged, to whomever, before the read began.
    Stale,
    /// Older than what this very connection has written.
    OwnWriteMissed,
    /// Older than what this connection has read before.
    WentBack,
    /// Newer than anything that was sent and committed.
    NeverWritten,
    /// Two reads of one snapshot differ.
    TornSnapshot,
    /// Acknowledged, and not there any more when all is quiet.
    Lost,
    /// Committed by the old primary and, not as its copy, by the new one.
    TakenTwice,
}

impl Fault {
    /// All of them; only the first is one that `session` allows.
    pub const ALL: [Self; 7] = [
        Self::Stale,
        Self::OwnWriteMissed,
        Self::WentBack,
        Self::NeverWritten,
        Self::TornSnapshot,
        Self::Lost,
        Self::TakenTwice,
    ];
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stale => "stale reads",
            Self::OwnWriteMissed => "own writes not seen",
            Self::WentBack => "reads that went back",
            Self::NeverWritten => "versions never written",
            Self::TornSnapshot => "torn snapshots",
            Self::Lost => "acknowledged writes lost",
            Self::TakenTwice => "writes taken by two nodes",
        })
    }
}

/// Counts of one client in one phase, or sums of them.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub reads: BTreeMap<Read, ReadCount>,
    /// Acknowledged.
    pub writes: BTreeMap<Write, u64>,
    /// Writes that ended in an error, or whose end is not known.
    pub failed_writes: u64,
    pub failed_reads: u64,
    pub faults: BTreeMap<Fault, u64>,
    /// By SQLSTATE and text.
    pub errors: BTreeMap<String, u64>,
    pub samples: BTreeMap<Fault, Vec<String>>,
}

impl Stats {
    pub fn operations(&self) -> u64 {
        self.read_count().operations + self.writes.values().sum::<u64>()
    }

    pub fn read_count(&self) -> ReadCount {
        let mut sum = ReadCount::default();
        self.reads.values().for_each(|count| sum += *count);
        sum
    }

    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).copied().unwrap_or(0)
    }

    pub fn fault(&mut self, fault: Fault, describe: impl FnOnce() -> String) {
        *self.faults.entry(fault).or_default() += 1;
        let samples = self.samples.entry(fault).or_default();
        if samples.len() < SAMPLES {
            samples.push(describe());
        }
    }

    pub fn add(&mut self, other: &Self) {
        for (read, count) in &other.reads {
            *self.reads.entry(*read).or_default() += *count;
        }
        for (write, count) in &other.writes {
            *self.writes.entry(*write).or_default() += count;
        }
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
        for (fault, samples) in &other.samples {
            let all = self.samples.entry(*fault).or_default();
            all.extend(samples.iter().take(SAMPLES - all.len().min(SAMPLES)).cloned());
        }
        self.failed_writes += other.failed_writes;
        self.failed_reads += other.failed_reads;
    }

    /// One line of the table of phases; see [`HEADER`].
    pub fn line(&self, name: &str, seconds: f64) -> String {
        let reads = self.read_count();
        format!(
            "{name:<16} {:>8.1} {:>9} {:>9} {:>8} {:>7.1} % {:>9} {:>6} {:>5} {:>5} {:>7} {:>7}",
            seconds,
            self.operations(),
            reads.operations,
            self.writes.values().sum::<u64>(),
            100.0 * reads.replica_share(),
            reads.hot_by_replicas,
            self.faults(Fault::Stale),
            self.faults(Fault::OwnWriteMissed),
            self.faults(Fault::WentBack),
            self.faults(Fault::NeverWritten)
                + self.faults(Fault::TornSnapshot)
                + self.faults(Fault::Lost)
                + self.faults(Fault::TakenTwice),
            self.errors.values().sum::<u64>(),
        )
    }

    /// By way of reading and writing, errors and samples.
    pub fn details(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "\nreads by way             reads   by replicas");
        for (way, count) in &self.reads {
            let _ = writeln!(
                text,
                "  {:<20} {:>7} {:>11.1} %",
                format!("{way:?}"),
                count.operations,
                100.0 * count.replica_share()
            );
        }
        let _ = writeln!(text, "\nwrites by way   acknowledged");
        for (way, count) in &self.writes {
            let _ = writeln!(text, "  {:<22} {count:>7}", format!("{way:?}"));
        }
        let _ = writeln!(text, "\nfailed: {} reads, {} writes", self.failed_reads, self.failed_writes);
        let mut by_text: BTreeMap<&str, (u64, Vec<&str>)> = BTreeMap::new();
        for (error, count) in &self.errors {
            let (way, said) = error.split_once(": ").unwrap_or(("", error));
            let one = by_text.entry(said).or_default();
            one.0 += count;
            one.1.push(way);
        }
        for (said, (count, ways)) in by_text {
            let more = if ways.len() > 5 { ", …" } else { "" };
            let _ = writeln!(text, "  {count:>7}  {said}  ({}{more})", ways[..ways.len().min(5)].join(", "));
        }
        for (fault, samples) in &self.samples {
            let _ = writeln!(text, "\n{fault}: {}, for example", self.faults(*fault));
            for sample in samples {
                let _ = writeln!(text, "  {sample}");
            }
        }
        text
    }
}

/// Above the lines of phases.
pub const HEADER: &str = "phase             seconds operations     reads   writes  replicas  hot there  stale   own  back   wrong  errors";
