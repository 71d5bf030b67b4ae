//! The command line: parses arguments, calls the rooms below, turns results into exit codes.
//!
//! Exit codes: 0 done, 1 failed, 2 the arguments or the configuration are wrong.

mod args;
mod check;
pub mod demo;
mod hash;
pub mod local_cluster;
mod print;
mod route;
mod run;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};

/// Entry point of the binary.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Check(options) => check::check(&options),
        Command::Route(options) => route::route(&options),
        Command::Hash(options) => hash::hash(&options),
        Command::Schema => {
            print::out(&crate::config::schema());
            ExitCode::SUCCESS
        }
        Command::Demo(options) => {
            crate::observe::logging::init("warn");
            match demo::run(&options) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    print::error(&error.to_string());
                    ExitCode::FAILURE
                }
            }
        }
    }
}
