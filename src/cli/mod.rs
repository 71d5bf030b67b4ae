//! The command line: parses arguments, calls the rooms below, turns results into exit codes.

pub mod demo;
pub mod local_cluster;

use std::process::ExitCode;

/// Entry point of the binary.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
