//! As much of libtest's command line as cargo and nextest use, so that the program counts as tests.

use std::panic::catch_unwind;
use std::process::ExitCode;

/// A name, and what returns what is wrong.
pub type Test = (&'static str, fn() -> Vec<String>);

/// Options of libtest with a value behind them.
const WITH_VALUE: &[&str] = &["--format", "--color", "--test-threads", "--skip", "--logfile", "-Z"];

/// Lists or runs the tests that the arguments choose.
pub fn run(tests: &[Test], arguments: &[String]) -> ExitCode {
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let mut names = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if WITH_VALUE.contains(&argument.as_str()) {
            rest.next();
        } else if !argument.starts_with('-') {
            names.push(argument.as_str());
        }
    }
    let exact = has("--exact");
    let wanted = |test: &str| {
        names.is_empty() || names.iter().any(|name| if exact { *name == test } else { test.contains(name) })
    };
    let chosen: Vec<&Test> =
        tests.iter().filter(|(name, _)| wanted(name) && !has("--ignored") && !has("--bench")).collect();
    if has("--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for (name, test) in &chosen {
        let wrong = catch_unwind(test).unwrap_or_else(|_| vec!["it panicked".to_owned()]);
        println!("test {name} ... {}", if wrong.is_empty() { "ok" } else { "FAILED" });
        wrong.iter().for_each(|complaint| println!("WRONG: {complaint}"));
        failed += usize::from(!wrong.is_empty());
    }
    println!("\ntest result: {} passed; {failed} failed", chosen.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
