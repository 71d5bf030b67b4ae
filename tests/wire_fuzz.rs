//! Generated conversations, valid and broken, get the same answers from PostgreSQL and through pgweir.
//!
//! A case is some clients that take turns, each turn a few messages sent in one write (or in two, cut anywhere).
//! It is played on PostgreSQL itself, then through pgweir in several configurations; what each client was sent,
//! from its login to its end, must be the same, message by message. A case is determined by its seed.
//!
//! `PGWEIR_SEED` is the first seed, `PGWEIR_FUZZ_SECONDS` how long to go on; the seeds of `tests/fuzz/seeds.txt`
//! are always played. A failure is made as small as it stays a failure, and printed as a transcript.
//!
//! Clients do not wait for each other: each writes to a table of its own, so that answers do not depend on time.

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

#[path = "fuzz/generate.rs"]
mod generate;

use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use generate::{Case, Turn};
use pgweir::protocol::frontend;
use serde_json::Map;
use support::messages::{Conn, decode, encode, open};
use support::wire::RawClient;
use support::{Pgweir, TestDatabase};

const THREADS: usize = 3;
/// Without `PGWEIR_FUZZ_SECONDS` only the seeds that were kept are played: a test run must not depend on luck.
const SHORT: Duration = Duration::ZERO;
/// Where PostgreSQL says nothing for so long and owes less than it could, it is taken to owe nothing.
const QUIET: Duration = Duration::from_millis(40);
/// So long pgweir may take for an answer that PostgreSQL gave.
const PATIENCE: Duration = Duration::from_secs(3);
/// So long a replica may take to catch up, on a busy machine.
const CATCHING_UP: Duration = Duration::from_secs(60);
/// With so many failures a run ends.
const FAILURES_MAX: usize = 6;
/// So long a failure may be made smaller.
const SHRINKING: Duration = Duration::from_secs(15);
/// Every client says this in the end, and the answer to it ends the comparison.
const GOODBYE: &str = "goodbye";

/// What one client was sent.
#[derive(Default)]
struct Heard {
    messages: Vec<String>,
    closed: bool,
}

/// One client of a case being played.
struct Player {
    conn: Conn,
    heard: Heard,
}

impl Player {
    fn new(port: u16, database: &str) -> Self {
        Self { conn: open(port, database, &Map::new()), heard: Heard::default() }
    }

    /// Sends; a connection that is closed takes nothing.
    fn send(&mut self, turn: &Turn) {
        if self.heard.closed {
            return;
        }
        let mut out = BytesMut::new();
        turn.messages.iter().for_each(|(name, value)| encode(name, value, &mut out));
        let cut = turn.cut.min(out.len());
        let sent = self.conn.client.try_send(&out[..cut]);
        if cut < out.len() && sent {
            std::thread::sleep(Duration::from_millis(1));
            self.conn.client.try_send(&out[cut..]);
        }
    }

    /// Hears the next message. False when none comes in time.
    fn hear(&mut self, patience: Duration) -> bool {
        match self.conn.client.message_within(patience) {
            Ok(Some(message)) => {
                self.heard.messages.push(decode(&message, self.conn.pid));
                true
            }
            Ok(None) => {
                self.heard.closed = true;
                self.heard.messages.push("Closed".to_owned());
                false
            }
            Err(()) => false,
        }
    }

    /// Ends whatever is open and waits for the answer to one last query.
    fn say_goodbye(&mut self) {
        if self.heard.closed {
            return;
        }
        let mut out = BytesMut::new();
        frontend::sync(&mut out);
        self.conn.client.try_send(&out);
        let ready = |heard: &[String]| heard.iter().filter(|m| m.starts_with("ReadyForQuery")).count();
        let before = ready(&self.heard.messages);
        self.until(QUIET, |heard| ready(heard) > before);
        out.clear();
        // A COPY ends here; elsewhere this is ignored.
        encode("CopyFail", &serde_json::json!({"message": GOODBYE}), &mut out);
        frontend::sync(&mut out);
        frontend::query(&mut out, format!("ROLLBACK; SELECT '{GOODBYE}'").as_bytes());
        self.conn.client.try_send(&out);
        let last = format!("DataRow {{\"values\":[\"{GOODBYE}\"]}}");
        self.until(PATIENCE, |heard| heard.iter().rev().take(4).any(|message| *message == last));
    }

    fn until(&mut self, patience: Duration, done: impl Fn(&[String]) -> bool) {
        while !self.heard.closed && !done(&self.heard.messages) {
            if !self.hear(patience) {
                return;
            }
        }
    }
}

/// Plays a case on PostgreSQL. Also: how many messages each turn's client had heard after it.
fn play_direct(case: &Case, port: u16, database: &str) -> (Vec<Heard>, Vec<usize>) {
    let mut players: Vec<_> = (0..case.clients).map(|_| Player::new(port, database)).collect();
    let mut counts = Vec::new();
    for turn in &case.turns {
        let player = &mut players[turn.client];
        let ready = |heard: &[String]| heard.iter().filter(|m| m.starts_with("ReadyForQuery")).count();
        let wanted = ready(&player.heard.messages) + turn.syncs();
        player.send(turn);
        player.until(QUIET, |heard| turn.syncs() > 0 && turn.ends_in_sync() && ready(heard) >= wanted);
        counts.push(player.heard.messages.len());
    }
    players.iter_mut().for_each(Player::say_goodbye);
    (players.into_iter().map(|player| player.heard).collect(), counts)
}

/// Plays it through pgweir, waiting after each turn for as much as PostgreSQL had said.
fn play_through(case: &Case, counts: &[usize], port: u16, database: &str) -> Vec<Heard> {
    let mut players: Vec<_> = (0..case.clients).map(|_| Player::new(port, database)).collect();
    for (turn, count) in case.turns.iter().zip(counts) {
        let player = &mut players[turn.client];
        player.send(turn);
        // PostgreSQL tells of an error at once; whoever does not ask for answers may get them later.
        let patience = if turn.asks_for_answers() { PATIENCE } else { QUIET };
        player.until(patience, |heard| heard.len() >= *count);
    }
    players.iter_mut().for_each(Player::say_goodbye);
    players.into_iter().map(|player| player.heard).collect()
}

/// After this a connection is lost, and what else is said of it depends on what was said before in one go.
const LOST: &str = "during COPY from stdin";

/// What is compared: settings reported in one go may come in any order.
fn comparable(heard: &Heard) -> Vec<String> {
    let mut messages = heard.messages.clone();
    let is_status = |message: &String| message.starts_with("ParameterStatus");
    let mut at = 0;
    while at < messages.len() {
        let run = messages[at..].iter().take_while(|m| is_status(m)).count();
        messages[at..at + run].sort();
        at += run.max(1);
    }
    messages
}

/// In a failed transaction there is more than one thing wrong, and a statement that must be prepared first meets
/// another one of them: from there to the next ReadyForQuery nothing is compared.
fn forgive(direct: &mut Vec<String>, through: &mut Vec<String>) {
    const ABORTED: &str = "ErrorResponse {\"C\":\"25P02\"";
    let ready = |message: &String| message.starts_with("ReadyForQuery");
    let mut at = 0;
    while let (Some(one), Some(other)) = (direct.get(at), through.get(at)) {
        if one != other && other.starts_with(ABORTED) {
            for side in [&mut *direct, &mut *through] {
                let end = side[at..].iter().position(ready).map_or(side.len(), |count| at + count);
                side.drain(at..end);
            }
            if direct.get(at) != through.get(at) {
                return;
            }
        }
        at += 1;
    }
}

fn difference(direct: &[Heard], through: &[Heard]) -> Option<String> {
    // A read-only transaction runs on a replica, where a little more is forbidden than on the primary.
    if through.iter().any(|heard| heard.messages.iter().any(|message| message.contains("during recovery"))) {
        return None;
    }
    for (client, (direct, through)) in direct.iter().zip(through).enumerate() {
        let (mut direct, mut through) = (comparable(direct), comparable(through));
        if let Some(end) = direct.iter().position(|message| message.contains(LOST)) {
            direct.truncate(end);
            through.truncate(end);
        }
        forgive(&mut direct, &mut through);
        if direct != through {
            let at = direct.iter().zip(&through).take_while(|(a, b)| a == b).count();
            let from = at.saturating_sub(3);
            return Some(format!(
                "client {}, message {at}, after {:?}\n  PostgreSQL: {}\n  pgweir:     {}",
                generate::name_of_client(client),
                &direct[from..at],
                direct.get(at).map_or("(nothing more)", String::as_str),
                through.get(at).map_or("(nothing more)", String::as_str)
            ));
        }
    }
    None
}

/// Where cases are played: a database of its own, and pgweir in front of it in some configurations.
struct Arena {
    database: TestDatabase,
    setup: RawClient,
    is_set_up: bool,
    replicas: Vec<RawClient>,
    poolers: Vec<(&'static str, Pgweir)>,
}

const CONFIGURATIONS: [(&str, &str); 4] = [
    (
        "connections that rotate",
        "pool: {size: 5, debug_rotate: true, debug_check: true}\nrouting: {reads: primary}\n",
    ),
    ("few connections", "workers: 1\npool: {size: 3}\nrouting: {reads: primary}\n"),
    ("replicas", "workers: 2\npool: {size: 4}\n"),
    ("session mode", "pool: {mode: session}\n"),
];

impl Arena {
    fn new() -> Self {
        let database = support::database();
        let cluster = support::cluster();
        let login = |node: usize| RawClient::login(cluster.port(node), &database.name);
        let (setup, replicas) = (login(0), (1..cluster.nodes.len()).map(login).collect());
        let poolers = CONFIGURATIONS
            .map(|(name, yaml)| {
                let mut pgweir = Pgweir::start(&format!("{yaml}{}", database.yaml()));
                pgweir.may_be_unclean = true;
                (name, pgweir)
            })
            .into();
        Self { database, setup, is_set_up: false, replicas, poolers }
    }

    /// The same tables again, on all nodes.
    fn reset(&mut self) {
        let ask = |client: &mut RawClient, sql: &str| {
            let mut out = BytesMut::new();
            frontend::query(&mut out, sql.as_bytes());
            client.send(&out);
            let answers: Vec<_> = client.until_ready(1).iter().map(|m| decode(m, 0)).collect();
            assert!(!answers.iter().any(|a| a.starts_with("ErrorResponse")), "{sql}: {answers:?}");
            answers
        };
        if !std::mem::replace(&mut self.is_set_up, true) {
            ask(&mut self.setup, &generate::setup());
        }
        ask(&mut self.setup, &generate::reset());
        // What was committed is flushed. What is not need not be for a quarter of a minute: a page that was pruned.
        let lsn = ask(&mut self.setup, "SELECT pg_current_wal_flush_lsn()")[1].clone();
        let lsn = lsn.split('"').nth(3).unwrap().to_owned();
        for replica in &mut self.replicas {
            let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
            let begun = Instant::now();
            while !ask(replica, &sql)[1].contains("\"t\"") {
                assert!(begun.elapsed() < CATCHING_UP, "a replica does not catch up");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// The first difference there is, and in which configuration; `only` that one.
    fn play(&mut self, case: &Case, only: Option<&str>) -> Option<(&'static str, String)> {
        self.reset();
        let name = self.database.name.clone();
        let (direct, counts) = play_direct(case, support::cluster().port(0), &name);
        for index in 0..self.poolers.len() {
            let (configuration, port) = (self.poolers[index].0, self.poolers[index].1.port);
            if only.is_some_and(|only| only != configuration) {
                continue;
            }
            self.reset();
            let unclean = self.poolers[index].1.log().matches("came back unclean").count();
            let through = play_through(case, &counts, port, &name);
            if let Some(difference) = difference(&direct, &through) {
                return Some((configuration, difference));
            }
            let log = self.poolers[index].1.log();
            if log.matches("came back unclean").count() > unclean {
                let line =
                    log.lines().rev().find(|line| line.contains("came back unclean")).unwrap_or_default();
                return Some((configuration, format!("a server connection came back unclean: {line}")));
            }
        }
        None
    }

    /// A smaller case that fails, too.
    fn minimize(&mut self, mut case: Case, configuration: &str) -> Case {
        let begun = Instant::now();
        let mut shrunk = true;
        while shrunk && begun.elapsed() < SHRINKING {
            shrunk = false;
            for smaller in case.smaller() {
                if begun.elapsed() > SHRINKING {
                    break;
                }
                if self.play(&smaller, Some(configuration)).is_some() {
                    case = smaller;
                    shrunk = true;
                    break;
                }
            }
        }
        case
    }

    /// A transcript of the case, as PostgreSQL plays it.
    fn transcript(&mut self, case: &Case) -> String {
        self.reset();
        let (heard, counts) = play_direct(case, support::cluster().port(0), &self.database.name);
        let mut at = vec![0; case.clients];
        let mut text = format!("setup\n{}\n", generate::setup());
        for (turn, count) in case.turns.iter().zip(counts) {
            let _ = writeln!(text, "\nconn {}\n\nsend", generate::name_of_client(turn.client));
            for (name, value) in &turn.messages {
                let empty = value.as_object().is_some_and(Map::is_empty);
                let _ = if empty { writeln!(text, "{name}") } else { writeln!(text, "{name} {value}") };
            }
            let came = &heard[turn.client].messages[at[turn.client]..count];
            at[turn.client] = count;
            if let Some(last) = came.last() {
                let name = last.split(' ').next().unwrap_or_default();
                let times = came.iter().filter(|m| m.split(' ').next() == Some(name)).count();
                let _ = writeln!(text, "\nuntil {name} {times}\n{}", came.join("\n"));
            }
        }
        text
    }
}

fn seconds() -> Option<Duration> {
    let text = std::env::var("PGWEIR_FUZZ_SECONDS").ok()?;
    Some(Duration::from_secs(text.parse().expect("PGWEIR_FUZZ_SECONDS is not a number")))
}

/// The kept seeds: a number a line, and what it found.
fn kept() -> Vec<u64> {
    let text = fs::read_to_string("tests/fuzz/seeds.txt").unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect()
}

#[test]
fn generated_conversations() {
    let limit = seconds();
    let first = match std::env::var("PGWEIR_SEED") {
        Ok(seed) => seed.parse().expect("PGWEIR_SEED is not a number"),
        // The run of every day is the same every day; a long one goes where none has been.
        Err(_) if limit.is_none() => 1,
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() << 20,
    };
    println!("PGWEIR_SEED={first}");
    support::cluster();
    let kept = Arc::new(kept());
    let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let failures = Arc::new(Mutex::new(Vec::new()));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (kept, next, stop, failures) =
                (Arc::clone(&kept), Arc::clone(&next), Arc::clone(&stop), Arc::clone(&failures));
            std::thread::spawn(move || {
                let mut arena = Arena::new();
                let begun = Instant::now();
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed) as usize;
                    let Some(seed) = kept.get(turn).copied().or_else(|| {
                        let goes_on =
                            begun.elapsed() < limit.unwrap_or(SHORT) && !stop.load(Ordering::Relaxed);
                        goes_on.then(|| first.wrapping_add((turn - kept.len()) as u64))
                    }) else {
                        return;
                    };
                    let case = Case::generate(seed);
                    let Some((configuration, what)) = arena.play(&case, None) else { continue };
                    stop.store(failures.lock().unwrap().len() + 1 >= FAILURES_MAX, Ordering::Relaxed);
                    let again = (0..3).any(|_| arena.play(&case, Some(configuration)).is_some());
                    let mut report = format!("seed {seed}, {configuration}: {what}");
                    if again {
                        let small = arena.minimize(case, configuration);
                        let what =
                            arena.play(&small, Some(configuration)).map_or(String::new(), |(_, what)| what);
                        let _ = write!(report, "\nsmaller: {what}\n{}", arena.transcript(&small));
                    } else {
                        let _ =
                            write!(report, "\n(not again in three more runs)\n{}", arena.transcript(&case));
                    }
                    println!("{report}\n");
                    failures.lock().unwrap().push(report);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let played = next.load(Ordering::Relaxed).saturating_sub(THREADS as u64);
    println!("{played} cases");
    let failures = failures.lock().unwrap();
    assert!(failures.is_empty(), "PGWEIR_SEED={first}\n{}", failures.join("\n\n"));
    assert!(limit.is_none() || played > kept.len() as u64, "no new case was played");
}
