//! `tests/config/*.yaml`: files that load, beside what they say (`.ok`), and files that do not,
//! beside their whole error text (`.err`). `REWRITE=1` writes what is there now.
//!
//! A line `# env: NAME=value` at the top of a file sets a variable for it.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use pgweir::config::{Config, Environment, load};

fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir("tests/config")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    files
}

fn environment(path: &Path) -> Environment {
    let bytes = fs::read(path).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let variables = text.lines().filter_map(|line| line.strip_prefix("# env: ")?.split_once('='));
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What a file said, without what it left at its default.
fn summary(config: &Config) -> String {
    let mut out = String::new();
    for database in config.databases.values().chain(&config.wildcard_database) {
        writeln!(out, "{database:?}").unwrap();
    }
    for user in config.users.values() {
        writeln!(out, "{user:?}").unwrap();
    }
    out
}

/// Compares with the file at `path`, or writes it.
fn agrees(path: &Path, text: &str) -> bool {
    if std::env::var_os("REWRITE").is_some() {
        fs::write(path, text).unwrap();
        return true;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    if expected != text {
        println!("--- {} expects\n{expected}--- but it is\n{text}---", path.display());
    }
    expected == text
}

#[test]
fn files_say_what_is_written_beside_them() {
    let (mut good, mut bad, mut wrong) = (0, 0, 0);
    for path in files() {
        let should_load = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("good_"));
        let agreed = match load(&path, &environment(&path)) {
            Ok(config) if should_load => agrees(&path.with_extension("ok"), &summary(&config)),
            Err(errors) if !should_load => agrees(&path.with_extension("err"), &format!("{errors}\n")),
            Ok(_) => {
                println!("{} loads and should not", path.display());
                false
            }
            Err(errors) => {
                println!("{} should load:\n{errors}", path.display());
                false
            }
        };
        good += usize::from(should_load);
        bad += usize::from(!should_load);
        wrong += usize::from(!agreed);
    }
    assert_eq!(wrong, 0, "see above; REWRITE=1 accepts what is there now");
    assert!(good >= 8 && bad >= 25, "{good} good and {bad} bad files: some are missing");
}
