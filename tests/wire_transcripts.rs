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
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use pgweir::protocol::startup;
use pgweir::protocol::writer::{cstr, message};
use serde_json::{Map, Value, json};
use support::wire::{Message, RawClient};
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

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Bytes of a value: text, or `{"hex": "…"}`.
fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Object(map) => {
            let hex = map.get("hex").and_then(Value::as_str).unwrap();
            (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
        }
        other => other.to_string().into_bytes(),
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn encode(name: &str, value: &Value, out: &mut BytesMut) {
    let target = |b: &mut BytesMut| {
        let (kind, name) = match value.get("portal") {
            Some(portal) => (b'P', bytes(portal)),
            None => (b'S', value.get("statement").map(bytes).unwrap_or_default()),
        };
        b.put_u8(kind);
        cstr(b, &name);
    };
    let numbers = |b: &mut BytesMut, key: &str| {
        let numbers = list(value, key);
        b.put_i16(numbers.len() as i16);
        numbers.iter().for_each(|n| b.put_i16(n.as_i64().unwrap() as i16));
    };
    let values = |b: &mut BytesMut| {
        let values = list(value, "values");
        b.put_i16(values.len() as i16);
        for value in values {
            if value.is_null() {
                b.put_i32(-1);
            } else {
                let bytes = bytes(value);
                b.put_i32(bytes.len() as i32);
                b.put_slice(&bytes);
            }
        }
    };
    match name {
        "Query" => message(out, b'Q', |b| cstr(b, &bytes(&value["sql"]))),
        "Parse" => message(out, b'P', |b| {
            cstr(b, text(value, "name").as_bytes());
            cstr(b, &bytes(&value["sql"]));
            let types = list(value, "types");
            b.put_i16(types.len() as i16);
            types.iter().for_each(|oid| b.put_u32(oid.as_u64().unwrap() as u32));
        }),
        "Bind" => message(out, b'B', |b| {
            cstr(b, text(value, "portal").as_bytes());
            cstr(b, text(value, "statement").as_bytes());
            numbers(b, "formats");
            values(b);
            numbers(b, "results");
        }),
        "Describe" => message(out, b'D', target),
        "Close" => message(out, b'C', target),
        "Execute" => message(out, b'E', |b| {
            cstr(b, text(value, "portal").as_bytes());
            b.put_i32(value.get("rows").and_then(Value::as_i64).unwrap_or(0) as i32);
        }),
        "Sync" => message(out, b'S', |_| {}),
        "Flush" => message(out, b'H', |_| {}),
        "Terminate" => message(out, b'X', |_| {}),
        "CopyData" => message(out, b'd', |b| b.put_slice(&bytes(&value["data"]))),
        "CopyDone" => message(out, b'c', |_| {}),
        "CopyFail" => message(out, b'f', |b| cstr(b, text(value, "message").as_bytes())),
        "FunctionCall" => message(out, b'F', |b| {
            b.put_u32(value["oid"].as_u64().unwrap() as u32);
            numbers(b, "formats");
            values(b);
            b.put_i16(value.get("result").and_then(Value::as_i64).unwrap_or(0) as i16);
        }),
        "Raw" => out.put_slice(&bytes(&json!({"hex": text(value, "hex")}))),
        other => panic!("no such message: {other}"),
    }
}

/// Reads what a body holds, in order.
struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn take(&mut self, count: usize) -> &[u8] {
        let (head, tail) = self.0.split_at(count);
        self.0 = tail;
        head
    }
    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }
    fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take(2).try_into().unwrap())
    }
    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().unwrap())
    }
    fn cstr(&mut self) -> Value {
        let end = self.0.iter().position(|b| *b == 0).unwrap();
        let value = shown(&self.0[..end]);
        self.0 = &self.0[end + 1..];
        value
    }
}

fn shown(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => json!(text),
        _ => json!({"hex": bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()}),
    }
}

fn name_of(tag: u8) -> &'static str {
    match tag {
        b'1' => "ParseComplete",
        b'2' => "BindComplete",
        b'3' => "CloseComplete",
        b'A' => "NotificationResponse",
        b'C' => "CommandComplete",
        b'c' => "CopyDone",
        b'D' => "DataRow",
        b'd' => "CopyData",
        b'E' => "ErrorResponse",
        b'G' => "CopyInResponse",
        b'H' => "CopyOutResponse",
        b'I' => "EmptyQueryResponse",
        b'n' => "NoData",
        b'N' => "NoticeResponse",
        b'S' => "ParameterStatus",
        b's' => "PortalSuspended",
        b'T' => "RowDescription",
        b't' => "ParameterDescription",
        b'V' => "FunctionCallResponse",
        b'Z' => "ReadyForQuery",
        _ => "Unknown",
    }
}

fn decode((tag, body): &Message, own_pid: i32) -> String {
    let mut b = Body(body);
    let name = name_of(*tag);
    let value = match *tag {
        b'A' => {
            let whose = if b.i32() == own_pid { "own" } else { "other" };
            json!({"from": whose, "channel": b.cstr(), "payload": b.cstr()})
        }
        b'C' => json!({"tag": b.cstr()}),
        b'D' => {
            let values = (0..b.i16()).map(|_| match b.i32() {
                -1 => Value::Null,
                length => shown(b.take(length as usize)),
            });
            json!({"values": values.collect::<Vec<_>>()})
        }
        b'd' => json!({"data": shown(body)}),
        b'E' | b'N' => {
            let mut fields = Map::new();
            loop {
                match b.u8() {
                    0 => break,
                    // Where in the server's source: differs by version.
                    b'F' | b'L' | b'R' => drop(b.cstr()),
                    // What was the statement, for errors inside functions: differs by version.
                    key => drop(fields.insert((key as char).to_string(), b.cstr())),
                }
            }
            Value::Object(fields)
        }
        b'S' => json!({"name": b.cstr(), "value": b.cstr()}),
        b'T' => {
            let columns = (0..b.i16()).map(|_| {
                let name = b.cstr();
                let (_table, _column, oid) = (b.i32(), b.i16(), b.i32());
                let (_length, modifier, format) = (b.i16(), b.i32(), b.i16());
                // Types made by the transcript have other numbers each time.
                let oid = if oid >= 16384 { json!("own") } else { json!(oid) };
                json!([name, oid, modifier, format])
            });
            json!({"columns": columns.collect::<Vec<_>>()})
        }
        b't' => {
            let types = (0..b.i16()).map(|_| match b.i32() {
                oid if oid >= 16384 => json!("own"),
                oid => json!(oid),
            });
            json!({"types": types.collect::<Vec<_>>()})
        }
        b'V' => match b.i32() {
            -1 => json!({"value": null}),
            length => json!({"value": shown(b.take(length as usize))}),
        },
        b'Z' => json!({"status": (b.u8() as char).to_string()}),
        b'G' | b'H' => json!({"format": b.u8()}),
        0 => return "Closed".to_owned(),
        _ => Value::Null,
    };
    if value.is_null() { name.to_owned() } else { format!("{name} {value}") }
}

struct Conn {
    client: RawClient,
    pid: i32,
}

fn open(port: u16, database: &str, more: &Map<String, Value>) -> Conn {
    let mut pairs: Vec<(String, String)> =
        vec![("user".into(), "app".into()), ("database".into(), database.into())];
    for (name, value) in more {
        pairs.retain(|(known, _)| known != name);
        pairs.push((name.clone(), value.as_str().unwrap().to_owned()));
    }
    let mut out = BytesMut::new();
    startup::startup_message(&mut out, pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    let client = RawClient::connect(port).log_in(&out);
    client.socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let key = client.greeting.iter().find(|(tag, _)| *tag == b'K');
    let pid = key.map_or(0, |(_, body)| i32::from_be_bytes(body[..4].try_into().unwrap()));
    Conn { client, pid }
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

fn prepare(database: &TestDatabase, transcript: &Transcript) {
    database.on(0, &format!("DROP SCHEMA public CASCADE; CREATE SCHEMA public; {}", transcript.setup));
    support::cluster().wait_caught_up(0).unwrap();
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
                let poolers = (!rewriting).then(|| {
                    configurations.map(|(name, yaml, nuisance)| {
                        (name, Pgweir::start(&format!("{yaml}{}", database.yaml())), nuisance)
                    })
                });
                while let Some(transcript) = transcripts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    prepare(&database, transcript);
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
                        prepare(&database, transcript);
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
