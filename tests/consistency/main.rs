//! The consistency checker: many clients write registers through pgweir in all ways that PostgreSQL has, others read
//! them, and every version that is read must be at least the newest that was acknowledged before the read began.
//!
//! A program (`cargo test --test consistency -- --operations 1000000 --seed 7`; `--help` tells more), and without
//! options a short test. What it does is in docs/testing.md.

#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "test code outside a #[test]"
)]

#[path = "../support/mod.rs"]
mod support;

mod check;
mod client;
mod disturb;
mod harness;
mod nodes;
mod options;
mod phase;
mod proxy;
mod random;
mod reads;
mod registers;
mod report;
mod schema;
mod session;
mod takeover;
mod writes;

use std::process::ExitCode;

use clap::Parser;

use disturb::Disturbance;
use options::Options;

/// What runs without options.
const TESTS: &[harness::Test] = &[
    ("reads_keep_what_the_level_promises", || check::run(&Options::parse_from(["consistency"])).complaints),
    ("replicas_serve_tables_that_nobody_writes", || {
        let mut options = Options::parse_from(["consistency"]);
        options.level = "strong".to_owned();
        options.share = true;
        (options.seconds, options.operations, options.disturb) = (Some(5), None, Vec::new());
        check::run(&options).complaints
    }),
    ("writes_of_two_nodes_are_noticed", takeover::is_noticed),
    ("late_replicas_are_noticed_when_nothing_is_promised", || {
        let mut options = Options::parse_from(["consistency"]);
        options.level = "eventual".to_owned();
        options.disturb = vec![Disturbance::Delay];
        (options.seconds, options.operations, options.per_mille) = (Some(4), None, Some(50));
        // On a busy machine a run may have too few operations for one of its reads to fall into
        // the short time in which a replica is behind. A checker that is blind never sees one.
        for _ in 0..10 {
            let outcome = check::run(&options);
            if outcome.stale > 0 || !outcome.complaints.is_empty() {
                return outcome.complaints;
            }
        }
        vec!["no stale read was found where there must be some".to_owned()]
    }),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let is_ours = |argument: &String| {
        let name = argument.split('=').next().unwrap_or_default();
        Options::SPELLED.contains(&name)
    };
    if !arguments.iter().any(is_ours) {
        return harness::run(TESTS, &arguments[1..]);
    }
    let complaints = check::run(&Options::parse_from(arguments)).complaints;
    for complaint in &complaints {
        println!("WRONG: {complaint}");
    }
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
