//! The house rules that a compiler does not check: floors, doors, file heads.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Floor of each room; imports go strictly down.
const FLOORS: &[(&str, i8)] = &[
    ("shard", -1),
    ("protocol", 0),
    ("config", 0),
    ("task", 0),
    ("sql", 1),
    ("auth", 1),
    ("cluster", 1),
    ("clients", 1),
    ("net", 2),
    ("route", 2),
    ("catalog", 2),
    ("observe", 2),
    ("server", 3),
    ("pool", 4),
    ("health", 5),
    ("admin", 6),
    ("session", 7),
    ("app", 8),
    ("cli", 9),
];

/// A third-party name and the only places that may say it.
const DOORS: &[(&str, &[&str])] = &[
    ("serde_yaml::", &["src/config/file.rs"]),
    ("sqlparser::", &["src/sql/parse.rs", "src/sql/tables.rs", "src/sql/shard_key/"]),
    ("deadpool::", &["src/pool/"]),
    ("metrics_exporter_prometheus::", &["src/observe/"]),
    ("tokio::spawn(", &["src/task.rs"]),
    ("tokio::task::spawn", &["src/task.rs"]),
];

/// Rooms that think and never wait: no sockets, no clock, no `async`.
const PURE_ROOMS: &[&str] = &["protocol", "sql", "auth", "route", "config", "cluster", "catalog", "shard"];
const IMPURE_WORDS: &[&str] =
    &["async fn", "async move", ".await", "tokio::", "Instant::now(", "SystemTime::now("];

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, out: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                out.push((path, text));
            }
        }
    }
    let mut out = Vec::new();
    walk(Path::new("src"), &mut out);
    out.sort();
    out
}

/// The room a source file belongs to; `None` for `main.rs` and `lib.rs`.
fn room(path: &Path) -> Option<String> {
    let first = path.strip_prefix("src").unwrap().components().next()?;
    let name = first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
    (name != "main" && name != "lib").then_some(name)
}

fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(n, l)| (n + 1, l)).filter(|(_, l)| !l.trim_start().starts_with("//"))
}

#[test]
fn imports_go_down() {
    let floors: BTreeMap<_, _> = FLOORS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(own) = room(&path) else { continue };
        let own_floor = *floors.get(own.as_str()).unwrap_or_else(|| panic!("{own} has no floor"));
        for (line, code) in code_lines(&text) {
            for part in code.split("crate::").skip(1) {
                let target: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some(floor) = floors.get(target.as_str()) else { continue };
                if target != own && *floor >= own_floor {
                    wrong.push(format!(
                        "{}:{line}: {own} (floor {own_floor}) uses {target} (floor {floor})",
                        path.display()
                    ));
                }
            }
            assert!(
                !code.contains("use crate::{"),
                "{}:{line}: one `use crate::room` a line, so that this test can read it",
                path.display()
            );
        }
    }
    assert!(wrong.is_empty(), "imports go down only:\n{}", wrong.join("\n"));
}

#[test]
fn libraries_have_doors() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let shown = path.display().to_string();
        for (line, code) in code_lines(&text) {
            for (name, doors) in DOORS {
                if code.contains(name) && !doors.iter().any(|d| shown.starts_with(d)) {
                    wrong.push(format!("{shown}:{line}: `{name}` belongs in {doors:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_rooms_do_not_wait() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if !room(&path).is_some_and(|r| PURE_ROOMS.contains(&r.as_str())) {
            continue;
        }
        // Tests may look at the clock.
        let text = text.split("#[cfg(test)]").next().unwrap();
        for (line, code) in code_lines(text) {
            for word in IMPURE_WORDS {
                if code.contains(word) {
                    wrong.push(format!("{}:{line}: `{word}` in a pure room", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{} must open with `//!`: what it is", path.display());
    }
}
