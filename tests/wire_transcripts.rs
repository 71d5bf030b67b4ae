//! Conversations as data: `tests/wire/*.pt`, replayed against PostgreSQL itself and through pgweir.
//!
//! A transcript is a text file. Lines that begin with `#` say what it is for. Then blocks:
//!
//! ```text
//! setup                      SQL that runs beforehand on the primary, up to an empty line
//! startup b {"user": "app"}  more startup parameters of a connection, before it is used
//! conn b                     what follows is on connection b, opened by its first use (the first one is a)
//! send                       messages, one a line, up to an empty line: Query {"sql": "SELECT 1"}
//! until ReadyForQuery 2      read up to the second ReadyForQuery; what must come, up to an empty line
//! ```
//!
//! `REWRITE=1` records what must come, from PostgreSQL only. Not compared: process ids, keys, and where in the
//! server's source an error was raised. Through pgweir each transcript runs with several configurations, in one
//! of which another client does its worst in between.

#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code outside a #[test]"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use serde_json::{Map, Value, json};
use support::messages::{Conn, decode, encode, name_of, open};
use support::talk::{ask, until};
use support::wire::RawClient;
use support::{Pgweir, TestDatabase};

const THREADS: usize = 4;

enum Step {
    Startup(String, Map<String, Value>),
    Conn(String),
    Send(Vec<(String, Value)>),
    Until { name: String, count: usize, expected: Vec<String>, line: usize, first: usize },
}

struct Transcript {
    path: PathBuf,
    setup: String,
    steps: Vec<Step>,
    lines: Vec<String>,
}

fn parse(path: &Path) -> Transcript {
    let lines: Vec<String> = fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
    let (mut setup, mut steps, mut at) = (String::new(), Vec::new(), 0);
    let fail = |at: usize, what: &str| -> ! { panic!("{}:{}: {what}", path.display(), at + 1) };
    let block = |from: usize| lines[from..].iter().take_while(|line| !line.is_empty()).count();
    while at < lines.len() {
        let line = lines[at].clone();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["setup"] => {
                let count = block(at + 1);
                setup = lines[at + 1..=at + count].join("\n");
                at += count;
            }
            ["startup", name, ..] => {
                let json = line.splitn(3, ' ').nth(2).unwrap_or("{}");
                let Ok(Value::Object(map)) = serde_json::from_str(json) else { fail(at, "not an object") };
                steps.push(Step::Startup((*name).to_owned(), map));
            }
            ["conn", name] => steps.push(Step::Conn((*name).to_owned())),
            ["send"] => {
                let count = block(at + 1);
                let messages = lines[at + 1..=at + count].iter().enumerate().map(|(n, line)| {
                    let (name, json) = line.split_once(' ').unwrap_or((line, "{}"));
                    let value = serde_json::from_str(json)
                        .unwrap_or_else(|error| fail(at + 1 + n, &error.to_string()));
                    (name.to_owned(), value)
                });
                steps.push(Step::Send(messages.collect()));
                at += count;
            }
            ["until", name, rest @ ..] => {
                let count = block(at + 1);
                steps.push(Step::Until {
                    name: (*name).to_owned(),
                    count: rest.first().map_or(1, |n| n.parse().unwrap_or_else(|_| fail(at, "not a number"))),
                    expected: lines[at + 1..=at + count].to_vec(),
                    line: at + 1,
                    first: at + 1,
                });
                at += count;
            }
            _ => fail(at, "not understood"),
        }
        at += 1;
    }
    assert!(!steps.is_empty(), "{}: nothing happens", path.display());
    Transcript { path: path.to_owned(), setup, steps, lines }
}

/// Plays a transcript on a port; the answers of each `until`.
fn play(transcript: &Transcript, port: u16, database: &str, mut between: impl FnMut()) -> Vec<Vec<String>> {
    let mut startups: BTreeMap<&str, &Map<String, Value>> = BTreeMap::new();
    let mut conns: BTreeMap<&str, Conn> = BTreeMap::new();
    let (mut current, mut answers, nothing) = ("a", Vec::new(), Map::new());
    for step in &transcript.steps {
        match step {
            Step::Startup(name, map) => drop(startups.insert(name, map)),
            Step::Conn(name) => current = name,
            Step::Send(messages) => {
                between();
                let conn = conns.entry(current).or_insert_with(|| {
                    open(port, database, startups.get(current).copied().unwrap_or(&nothing))
                });
                let mut out = BytesMut::new();
                messages.iter().for_each(|(name, value)| encode(name, value, &mut out));
                conn.client.send(&out);
            }
            Step::Until { name, count, line, .. } => {
                let conn = conns.entry(current).or_insert_with(|| {
                    open(port, database, startups.get(current).copied().unwrap_or(&nothing))
                });
                let (mut seen, mut got) = (0, Vec::new());
                while seen < *count {
                    let message =
                        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| conn.client.try_message()));
                    let Ok(message) = message else {
                        panic!(
                            "{}:{line}: connection {current} got only\n{}",
                            transcript.path.display(),
                            got.join("\n")
                        );
                    };
                    let message = message.unwrap_or((0, Vec::new()));
                    let closed = message.0 == 0;
                    seen += usize::from(name_of(message.0) == name);
                    got.push(decode(&message, conn.pid));
                    if closed {
                        break;
                    }
                }
                answers.push(got);
            }
        }
    }
    answers
}

/// The first difference between what came and what must come.
fn difference(transcript: &Transcript, answers: &[Vec<String>]) -> Option<String> {
    let untils = transcript.steps.iter().filter_map(|step| match step {
        Step::Until { expected, first, .. } => Some((expected, first)),
        _ => None,
    });
    for ((expected, first), got) in untils.zip(answers) {
        if expected != got {
            let at = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
            return Some(format!(
                "{}:{}\n  must be: {}\n  came:    {}",
                transcript.path.display(),
                first + at + 1,
                expected.get(at).map_or("(nothing more)", String::as_str),
                got.get(at).map_or("(nothing more)", String::as_str)
            ));
        }
    }
    None
}

fn rewrite(transcript: &Transcript, answers: Vec<Vec<String>>) {
    let mut lines = transcript.lines.clone();
    let untils: Vec<_> = transcript
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Until { expected, first, .. } => Some((*first, expected.len())),
            _ => None,
        })
        .collect();
    for ((first, count), got) in untils.into_iter().zip(answers).rev() {
        lines.splice(first..first + count, got);
    }
    fs::write(&transcript.path, lines.join("\n") + "\n").unwrap();
}

/// Connections to the servers themselves, to make things ready: a process for each of these statements would take
/// longer than the transcripts.
struct Preparer {
    primary: RawClient,
    replicas: Vec<RawClient>,
}

impl Preparer {
    fn new(database: &TestDatabase) -> Self {
        let login = |node: usize| RawClient::login(support::cluster().port(node), &database.name);
        Self { primary: login(0), replicas: (1..support::cluster().nodes.len()).map(login).collect() }
    }

    fn prepare(&mut self, transcript: &Transcript) {
        let setup = format!("DROP SCHEMA public CASCADE; CREATE SCHEMA public; {}", transcript.setup);
        ask(&mut self.primary, &setup);
        ask(&mut self.primary, "DISCARD ALL");
        let target = ask(&mut self.primary, "SELECT pg_current_wal_insert_lsn()").remove(0);
        for replica in &mut self.replicas {
            let is_there = format!("SELECT pg_last_wal_replay_lsn() >= '{target}'");
            until("the replica has what was made", || ask(replica, &is_there) == ["t"]);
        }
    }
}

/// What another client does in between: other settings, other statements under the same names.
struct Nuisance(RawClient, usize);

impl Nuisance {
    fn act(&mut self) {
        let turn = self.1 % 4;
        self.1 += 1;
        let sql = [
            "SET application_name = 'nuisance'; SET timezone = 'Asia/Tokyo'; SET search_path = pg_catalog",
            "BEGIN; CREATE TEMP TABLE nuisance (i int) ON COMMIT DROP; COMMIT; RESET ALL",
            "PREPARE nuisance AS SELECT 'nuisance'; DEALLOCATE nuisance; SELECT set_config('app.x', 'nuisance', false)",
            "SET standard_conforming_strings = off; SELECT pg_advisory_lock(99); SELECT pg_advisory_unlock(99); RESET ALL",
        ][turn];
        let mut out = BytesMut::new();
        encode("Query", &json!({"sql": sql}), &mut out);
        for name in ["s", "s1", "p", "stmt"] {
            encode("Parse", &json!({"name": name, "sql": format!("SELECT 'nuisance {turn}'")}), &mut out);
            encode("Bind", &json!({"statement": name}), &mut out);
            encode("Execute", &json!({}), &mut out);
            encode("Close", &json!({"statement": name}), &mut out);
        }
        encode("Sync", &json!({}), &mut out);
        self.0.send(&out);
        let answers = self.0.until_ready(2);
        let failed: Vec<_> = answers.iter().filter(|(tag, _)| *tag == b'E').map(|m| decode(m, 0)).collect();
        assert!(failed.is_empty(), "the nuisance itself fails: {failed:?}");
    }
}

#[test]
fn transcripts() {
    let only = std::env::var("PGWEIR_TRANSCRIPT").unwrap_or_default();
    let mut paths: Vec<_> = fs::read_dir("tests/wire").unwrap().map(|entry| entry.unwrap().path()).collect();
    paths
        .retain(|path| path.extension().is_some_and(|e| e == "pt") && path.to_string_lossy().contains(&only));
    paths.sort();
    assert!(paths.len() >= 120 || !only.is_empty(), "only {} transcripts", paths.len());
    let rewriting = std::env::var_os("REWRITE").is_some();
    let direct = support::cluster().nodes[0].port;
    let transcripts: Arc<Vec<Transcript>> = Arc::new(paths.iter().map(|path| parse(path)).collect());
    let configurations = [
        ("two server connections", "pool: {size: 2}\nrouting: {reads: primary}\n", false),
        (
            "four that rotate, with a nuisance",
            "pool: {size: 4, debug_rotate: true, debug_check: true}\nrouting: {reads: primary}\n",
            true,
        ),
        ("replicas", "workers: 2\npool: {size: 3}\n", false),
        (
            "replicas until something is written",
            "pool: {size: 2}\nrouting: {transactions: replica_until_write}\n",
            false,
        ),
        ("session mode", "pool: {mode: session}\n", false),
    ];
    let failures = Arc::new(Mutex::new(Vec::new()));
    let next = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (transcripts, failures, next) =
                (Arc::clone(&transcripts), Arc::clone(&failures), Arc::clone(&next));
            std::thread::spawn(move || {
                let database = support::database();
                let mut preparer = Preparer::new(&database);
                let poolers = (!rewriting).then(|| {
                    configurations.map(|(name, yaml, nuisance)| {
                        (name, Pgweir::start(&format!("{yaml}{}", database.yaml())), nuisance)
                    })
                });
                while let Some(transcript) = transcripts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    preparer.prepare(transcript);
                    let answers = play(transcript, direct, &database.name, || {});
                    if rewriting {
                        rewrite(transcript, answers);
                        continue;
                    }
                    if let Some(difference) = difference(transcript, &answers) {
                        failures.lock().unwrap().push(format!("PostgreSQL itself: {difference}"));
                        continue;
                    }
                    for (name, pgweir, nuisance) in poolers.iter().flatten() {
                        // What one client has written another may not see on a replica yet.
                        if *name == "replicas" && transcript.steps.iter().any(|s| matches!(s, Step::Conn(_)))
                        {
                            continue;
                        }
                        preparer.prepare(transcript);
                        let mut other =
                            nuisance.then(|| Nuisance(RawClient::login(pgweir.port, &database.name), 0));
                        let answers = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                            play(transcript, pgweir.port, &database.name, || {
                                if let Some(other) = &mut other {
                                    other.act();
                                }
                            })
                        }));
                        let failure = match answers {
                            Ok(answers) => difference(transcript, &answers),
                            Err(panic) => Some(format!(
                                "{}: {}",
                                transcript.path.display(),
                                panic.downcast_ref::<String>().map_or("panicked", String::as_str)
                            )),
                        };
                        if let Some(failure) = failure {
                            failures.lock().unwrap().push(format!("{name}: {failure}"));
                        }
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let failures = failures.lock().unwrap();
    assert!(failures.is_empty(), "{} differences\n{}", failures.len(), failures.join("\n"));
}
