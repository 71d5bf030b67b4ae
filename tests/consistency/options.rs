//! What the checker can be told, on its command line or by variables.

use clap::Parser;

use crate::disturb::Disturbance;
use crate::reads::Read;
use crate::writes::Write;

/// The level that is checked if nothing else is said.
pub const DEFAULT_LEVEL: &str = "strong";

/// Checks that no read through pgweir is older than it may be.
#[derive(Clone, Debug, Parser)]
#[command(name = "consistency", disable_version_flag = true)]
pub struct Options {
    /// Ends after so many checked operations.
    #[arg(long, env = "PGWEIR_CONSISTENCY_OPERATIONS")]
    pub operations: Option<u64>,
    /// Ends after so many seconds of checking; without a number of operations 15.
    #[arg(long, env = "PGWEIR_CONSISTENCY_SECONDS")]
    pub seconds: Option<u64>,
    /// Repeats the choices of an earlier run.
    #[arg(long, env = "PGWEIR_CONSISTENCY_SEED")]
    pub seed: Option<u64>,
    /// routing.consistency of pgweir: what is promised, and so what is asked for.
    #[arg(long, env = "PGWEIR_CONSISTENCY_LEVEL", default_value = DEFAULT_LEVEL)]
    pub level: String,
    /// What is done to servers and network, a phase each, again and again.
    #[arg(long, env = "PGWEIR_CONSISTENCY_DISTURB", value_enum, value_delimiter = ',')]
    pub disturb: Vec<Disturbance>,
    /// Clients that work at the same time.
    #[arg(long, default_value_t = 32)]
    pub clients: u64,
    /// Seconds of a phase; by default the time is divided, and a phase takes 15 at most.
    #[arg(long)]
    pub phase_seconds: Option<u64>,
    /// Only the phase with this number.
    #[arg(long)]
    pub phase: Option<u64>,
    /// Writes in these ways only.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub writes: Vec<Write>,
    /// Reads in these ways only.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub reads: Vec<Read>,
    /// Writes among 1000 operations; by default it changes all the time.
    #[arg(long)]
    pub per_mille: Option<u64>,
    /// Measures which share of the reads replicas serve: 90 % reads of ten tables, writes of two of them, replicas
    /// 50 ms late.
    #[arg(long)]
    pub share: bool,
}

impl Options {
    /// Every option, as it is spelled.
    pub const SPELLED: [&'static str; 14] = [
        "--operations",
        "--seconds",
        "--seed",
        "--level",
        "--disturb",
        "--clients",
        "--phase",
        "--phase-seconds",
        "--writes",
        "--reads",
        "--per-mille",
        "--share",
        "--help",
        "-h",
    ];

    /// The disturbances in their order.
    pub fn disturbances(&self) -> Vec<Disturbance> {
        match (&self.disturb[..], self.share) {
            ([], true) => vec![Disturbance::Delay],
            ([], false) => Disturbance::USUAL.to_vec(),
            (some, _) => some.to_vec(),
        }
    }

    /// Seconds in all, and of a phase.
    pub fn times(&self) -> (f64, f64) {
        let whole = match (self.seconds, self.operations) {
            (Some(seconds), _) => seconds as f64,
            (None, Some(_)) => f64::INFINITY,
            (None, None) => 15.0,
        };
        let phases = self.disturbances().len() as f64;
        let phase = self.phase_seconds.map_or_else(|| (whole / phases).min(15.0), |seconds| seconds as f64);
        (whole, phase)
    }
}
