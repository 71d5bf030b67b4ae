//! The command line: parses arguments, calls the rooms below, turns results into exit codes.

use std::process::ExitCode;

/// Entry point of the binary.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
