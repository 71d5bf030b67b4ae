//! Settings, exactly: scripts run by one client straight on PostgreSQL and through pgweir, where each transaction
//! meets another server connection and a second client does its worst in between. Every message must be equal.

#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code outside a #[test]"
)]

mod support;

use bytes::{BufMut as _, BytesMut};
use pgweir::protocol::startup;
use pgweir::protocol::writer::{cstr, message};
use support::wire::{Message, RawClient};
use support::{Pgweir, TestDatabase};

/// `= name [@user] [key=value …]` begins a script: the user and startup parameters. Then a statement a line: as a
/// simple query; after `>` in the extended protocol, parameters behind ` | `; after `>>` several with one Sync,
/// separated by ` ;; `. `{db}` is the name of the database, `{boss}` a superuser, `{role}` a role granted to app.
const SCRIPTS: &str = include_str!("settings/scripts.txt");

/// What must be equal after each step, besides the answer itself. Values of a session's own transaction differ.
/// Not whether a library is loaded, nor NULL for a custom setting that is '' where it was heard of
/// (docs/compatibility.md).
const STATE: &str = "SELECT name, setting FROM pg_settings WHERE name NOT LIKE 'plpgsql.%' ORDER BY name; \
    SELECT current_user, session_user, current_setting('role'), current_setting('session_authorization'), \
    current_setting('is_superuser'), current_schemas(true), coalesce(current_setting('app.a', true), ''), \
    coalesce(current_setting('app.b', true), '')";

struct Script {
    name: String,
    user: Option<String>,
    startup: Vec<(String, String)>,
    steps: Vec<String>,
}

fn scripts(database: &str) -> Vec<Script> {
    let mut scripts: Vec<Script> = Vec::new();
    let text = SCRIPTS
        .replace("{boss}", &format!("boss_{database}"))
        .replace("{role}", &format!("role_{database}"))
        .replace("{db}", database);
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(head) = line.strip_prefix("= ") {
            let (title, rest) = head.split_once(" @").unwrap_or((head, ""));
            let (title, startup) = title.split_once(" : ").unwrap_or((title, ""));
            scripts.push(Script {
                name: title.to_owned(),
                user: (!rest.is_empty()).then(|| rest.to_owned()),
                startup: startup
                    .split(" ; ")
                    .filter_map(|pair| pair.split_once(" is "))
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
                steps: Vec::new(),
            });
        } else {
            scripts.last_mut().unwrap().steps.push(line.replace("\\n", "\n"));
        }
    }
    scripts
}

fn query(out: &mut BytesMut, sql: &str) {
    message(out, b'Q', |body| cstr(body, sql.as_bytes()));
}

fn extended(out: &mut BytesMut, step: &str) {
    let mut parts = step.split(" | ");
    let sql = parts.next().unwrap();
    let values: Vec<&str> = parts.collect();
    message(out, b'P', |body| {
        cstr(body, b"");
        cstr(body, sql.as_bytes());
        body.put_i16(0);
    });
    message(out, b'B', |body| {
        cstr(body, b"");
        cstr(body, b"");
        body.put_i16(0);
        body.put_i16(values.len() as i16);
        for value in &values {
            body.put_i32(value.len() as i32);
            body.put_slice(value.as_bytes());
        }
        body.put_i16(0);
    });
    message(out, b'D', |body| {
        body.put_u8(b'P');
        cstr(body, b"");
    });
    message(out, b'E', |body| {
        cstr(body, b"");
        body.put_i32(0);
    });
}

fn encode(step: &str) -> BytesMut {
    let mut out = BytesMut::new();
    let sync = |out: &mut BytesMut| message(out, b'S', |_| {});
    if let Some(pipeline) = step.strip_prefix(">> ") {
        pipeline.split(" ;; ").for_each(|part| extended(&mut out, part));
        sync(&mut out);
    } else if let Some(one) = step.strip_prefix("> ") {
        extended(&mut out, one);
        sync(&mut out);
    } else {
        query(&mut out, step);
    }
    out
}

fn shown(messages: Vec<Message>) -> Vec<String> {
    let text = |body: &[u8]| String::from_utf8_lossy(body).replace(|c: char| c.is_control(), " ");
    messages.iter().map(|(tag, body)| format!("{} {}", char::from(*tag), text(body))).collect()
}

fn connect(port: u16, database: &str, script: &Script) -> RawClient {
    let mut pairs = vec![("user", script.user.as_deref().unwrap_or("app")), ("database", database)];
    pairs.extend(script.startup.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let mut out = BytesMut::new();
    startup::startup_message(&mut out, pairs.into_iter());
    RawClient::connect(port).log_in(&out)
}

/// Plays a script; the answers to each step and the state after it.
fn play(port: u16, database: &str, script: &Script, mut between: impl FnMut()) -> Vec<(String, Vec<String>)> {
    let mut client = connect(port, database, script);
    let greeting = client.greeting.drain(..).filter(|(tag, _)| *tag != b'K').collect();
    let mut greeting = shown(greeting);
    // Their order is that of PostgreSQL's own tables, and no client's business.
    greeting.sort();
    let mut answers = vec![("login".to_owned(), greeting)];
    let mut status = b'I';
    for step in &script.steps {
        between();
        client.send(&encode(step));
        let messages = client.until_ready(1);
        status = messages.last().filter(|(tag, _)| *tag == b'Z').map_or(status, |(_, body)| body[0]);
        answers.push((step.clone(), shown(messages)));
        if status != b'E' {
            between();
            let mut out = BytesMut::new();
            query(&mut out, STATE);
            client.send(&out);
            answers.push((format!("the state after {step}"), shown(client.until_ready(1))));
        }
    }
    answers
}

/// A second client that leaves each connection it gets as differently as it can.
struct Nuisance(RawClient, usize);

impl Nuisance {
    fn act(&mut self) {
        const WORST: [&str; 5] = [
            "SET timezone = 'Asia/Tokyo'; SET search_path = pg_catalog; SET datestyle = 'German, YMD'; SET client_encoding = 'LATIN1'",
            "RESET ALL; SET nuisance.a = 'x'; SET work_mem = '77MB'; SET default_transaction_isolation = 'serializable'",
            "BEGIN; SET LOCAL statement_timeout = '77s'; SET extra_float_digits = 0; COMMIT",
            "SET application_name = 'nuisance'; SET default_transaction_read_only = on; SET standard_conforming_strings = off",
            "DISCARD ALL",
        ];
        let mut out = BytesMut::new();
        query(&mut out, WORST[self.1 % WORST.len()]);
        self.1 += 1;
        self.0.send(&out);
        let answers = shown(self.0.until_ready(1));
        assert!(answers.iter().all(|message| !message.starts_with('E')), "{answers:?}");
    }
}

/// Roles with the database's name in theirs, since roles belong to the whole cluster.
struct Roles(String);

impl Roles {
    fn create(database: &TestDatabase) -> Self {
        let name = database.name.clone();
        let sql = format!(
            "CREATE ROLE boss_{name} SUPERUSER LOGIN PASSWORD 'app'; CREATE ROLE role_{name}; GRANT role_{name} TO app"
        );
        support::cluster().psql(0, "postgres", &sql).unwrap();
        database.on(
            0,
            "CREATE FUNCTION set_tenant(v text) RETURNS void LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM set_config('app.a', v, false); END $$; \
             CREATE FUNCTION with_clause() RETURNS text LANGUAGE plpgsql SET work_mem = '3MB' SET search_path = pg_catalog AS \
             $$ BEGIN RETURN current_setting('work_mem'); END $$; \
             CREATE FUNCTION clause_and_set() RETURNS void LANGUAGE plpgsql SET work_mem = '3MB' AS \
             $$ BEGIN SET work_mem = '9MB'; SET lock_timeout = '7s'; END $$; \
             CREATE PROCEDURE set_both() LANGUAGE plpgsql AS \
             $$ BEGIN SET app.b = 'from procedure'; SET work_mem = '11MB'; COMMIT; SET work_mem = '12MB'; ROLLBACK; END $$; \
             CREATE TABLE t (i int PRIMARY KEY); CREATE SCHEMA \"Tenant 1\"; CREATE SCHEMA tenant2",
        );
        Self(name)
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        let name = &self.0;
        let _ =
            support::cluster().psql(0, "postgres", &format!("DROP ROLE IF EXISTS boss_{name}, role_{name}"));
    }
}

fn yaml(database: &TestDatabase, more: &str) -> String {
    let yaml = database.yaml();
    let users = format!("users:\n  boss_{}: {{password: app}}\n", database.name);
    format!("routing: {{reads: primary}}\n{more}{}", yaml.replace("users:\n", &users))
}

#[test]
fn settings_behave_as_without_us() {
    let database = support::database();
    let _roles = Roles::create(&database);
    let only = std::env::var("PGWEIR_SCRIPT").unwrap_or_default();
    let direct = support::cluster().nodes[0].port;
    let mut differences = Vec::new();
    let scripts = scripts(&database.name);
    assert!(scripts.len() >= 50, "only {} scripts", scripts.len());
    for script in scripts.iter().filter(|script| script.name.contains(&only)) {
        let expected = play(direct, &database.name, script, || {});
        for rotate in [true, false] {
            let pool = if rotate { "{size: 3, debug_rotate: true, debug_check: true}" } else { "{size: 1}" };
            // One for each script: what an earlier one left on a connection must not help.
            let pgweir = Pgweir::start(&yaml(&database, &format!("pool: {pool}\n")));
            let other = Script {
                name: String::new(),
                user: script.user.clone(),
                startup: Vec::new(),
                steps: Vec::new(),
            };
            let mut nuisance = Nuisance(connect(pgweir.port, &database.name, &other), 0);
            // A transaction of the script's holds the only connection.
            let mut between = || {
                if rotate {
                    nuisance.act();
                }
            };
            let got = play(pgweir.port, &database.name, script, &mut between);
            for ((step, expected), (_, got)) in expected.iter().zip(&got) {
                if let Some(at) =
                    (0..expected.len().max(got.len())).find(|at| expected.get(*at) != got.get(*at))
                {
                    let (expected, got) = (expected.get(at), got.get(at));
                    differences.push(format!(
                        "{} (rotate: {rotate})\n  {step}\n  must be: {expected:?}\n  came:    {got:?}",
                        script.name
                    ));
                    break;
                }
            }
        }
    }
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}
