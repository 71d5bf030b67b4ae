//! What clients say in a case: generated from a seed, in the notation of transcripts.

use serde_json::{Value, json};

/// A message: its name and what is in it.
pub type Said = (String, Value);

/// What one client sends in one go.
#[derive(Clone, Debug)]
pub struct Turn {
    pub client: usize,
    pub messages: Vec<Said>,
    /// Sent in two parts, the first of so many bytes.
    pub cut: usize,
}

impl Turn {
    /// ReadyForQuery that it brings if nothing goes wrong.
    pub fn syncs(&self) -> usize {
        let ends = ["Query", "Sync", "FunctionCall"];
        self.messages.iter().filter(|(name, _)| ends.contains(&name.as_str())).count()
    }

    /// Whether everything is to be answered when this was said.
    pub fn asks_for_answers(&self) -> bool {
        self.ends_in_sync() || self.messages.last().is_some_and(|(name, _)| name == "Flush")
    }

    /// Whether the last answer is a ReadyForQuery if nothing goes wrong.
    pub fn ends_in_sync(&self) -> bool {
        let ends = ["Query", "Sync", "FunctionCall"];
        self.messages.last().is_some_and(|(name, _)| ends.contains(&name.as_str()))
    }
}

/// Clients and what they say in turns.
#[derive(Clone, Debug)]
pub struct Case {
    pub clients: usize,
    pub turns: Vec<Turn>,
}

/// The tables that are there in the beginning.
pub fn setup() -> String {
    "DROP SCHEMA public CASCADE; DROP SCHEMA IF EXISTS other CASCADE; CREATE SCHEMA public; CREATE SCHEMA other; \
     CREATE TABLE r AS SELECT i, 'row ' || i AS b FROM generate_series(1, 5) i; \
     CREATE TABLE other.r AS SELECT i, 'other ' || i AS b FROM generate_series(1, 2) i; \
     CREATE TABLE w0 (i int PRIMARY KEY, b text); CREATE TABLE w1 (i int PRIMARY KEY, b text); CREATE TABLE w2 (i int PRIMARY KEY, b text)"
        .to_owned()
}

/// What makes the tables as they were, quicker than making them again.
pub fn reset() -> String {
    (0..3)
        .map(|n| {
            format!(
                "DELETE FROM w{n}; DROP TABLE IF EXISTS made100{n}; DROP TABLE IF EXISTS other.made100{n}"
            )
        })
        .collect::<Vec<_>>()
        .join("; ")
}

/// Clients are a, b, c.
pub fn name_of_client(client: usize) -> char {
    (b'a' + client as u8) as char
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// Statements that change nothing by which clients would notice each other. `{w}` is the client's own table, `{k}`
/// its own number.
const STATEMENTS: &[&str] = &[
    "SELECT 1 AS one",
    "SELECT $1::int + 1 AS x",
    "SELECT $1::text, $2::int",
    "SELECT i, b FROM r ORDER BY i",
    "SELECT b FROM r WHERE i = $1",
    "SELECT generate_series(1, 4) AS g",
    "SELECT 10 / $1::int AS d",
    "SELECT count(*) FROM {w}",
    "SELECT * FROM {w} ORDER BY i",
    "INSERT INTO {w} VALUES ($1::int, 'p')",
    "INSERT INTO {w} VALUES (7, 'seven')",
    "INSERT INTO {w} SELECT 20 + i, b FROM r RETURNING i",
    "UPDATE {w} SET b = b || '!' WHERE i = 7",
    "DELETE FROM {w}",
    "SELECT 1/0",
    "SELEKT",
    "SELECT * FROM nowhere",
    "",
    "-- nothing",
    "BEGIN",
    "BEGIN READ ONLY",
    "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "RELEASE a",
    "ROLLBACK AND CHAIN",
    "SET timezone = 'Asia/Tokyo'",
    "SET timezone = 'Europe/Oslo'",
    "SET timezone = 'Nowhere/Land'",
    "SET LOCAL timezone = 'America/Lima'",
    "RESET timezone",
    "SHOW timezone",
    "SET application_name = 'fuzz'",
    "SHOW application_name",
    "SET search_path = other, public",
    "RESET search_path",
    "SHOW search_path",
    "SELECT set_config('app.x', $1::text, false)",
    "SELECT set_config('app.x', 'local', true)",
    "SELECT nullif(current_setting('app.x', true), '')",
    "SET app.x = 'set'",
    "SET DateStyle = 'German'",
    "SELECT date '2026-11-24'",
    "SET bytea_output = 'escape'",
    "SELECT '\\x00ff'::bytea",
    "SET extra_float_digits = 0",
    "SELECT 0.1::float8 + 0.2::float8",
    "RESET ALL",
    "DISCARD ALL",
    "DISCARD PLANS",
    "DISCARD TEMP",
    "DEALLOCATE ALL",
    "DEALLOCATE s1",
    "DEALLOCATE q",
    "PREPARE q AS SELECT 'q', 1",
    "PREPARE s2 AS SELECT 's2 by SQL'",
    "PREPARE v (int) AS SELECT $1 * 2",
    "EXECUTE q",
    "EXECUTE v (21)",
    "EXECUTE s1",
    "EXECUTE s2",
    "DECLARE c CURSOR FOR SELECT generate_series(1, 5)",
    "DECLARE h CURSOR WITH HOLD FOR SELECT generate_series(1, 5)",
    "FETCH 2 FROM c",
    "FETCH 2 FROM h",
    "FETCH ALL FROM h",
    "CLOSE c",
    "CLOSE h",
    "CLOSE ALL",
    "CREATE TEMP TABLE tt (i int)",
    "CREATE TEMP TABLE tt ON COMMIT DROP AS SELECT 1 AS i",
    "INSERT INTO tt VALUES (1), (2)",
    "SELECT * FROM tt",
    "DROP TABLE tt",
    "CREATE TABLE made{k} (i int)",
    "SELECT * FROM made{k}",
    "DROP TABLE made{k}",
    "SELECT pg_advisory_lock({k})",
    "SELECT pg_advisory_unlock({k})",
    "SELECT pg_advisory_xact_lock({k})",
    "SELECT pg_advisory_unlock_all()",
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {k} AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    "LISTEN chan{k}",
    "NOTIFY chan{k}, 'hello'",
    "SELECT pg_notify('chan{k}', 'by function')",
    "UNLISTEN *",
    "SELECT * FROM pg_listening_channels()",
    "SET ROLE app",
    "SET ROLE nobody",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "SET TRANSACTION READ ONLY",
    "SHOW transaction_read_only",
    "SHOW transaction_isolation",
    "SET standard_conforming_strings = off",
    "SET standard_conforming_strings = on",
    "SELECT 'a\\'",
    "DO $$ BEGIN RAISE NOTICE 'noticed'; END $$",
    "DO $$ BEGIN SET timezone = 'Asia/Kabul'; END $$",
    "DO $$ BEGIN RAISE EXCEPTION 'refused' USING HINT = 'try', DETAIL = 'more'; END $$",
    "EXPLAIN (COSTS OFF) SELECT * FROM r",
    "COPY (SELECT i FROM r ORDER BY i) TO STDOUT",
    "COPY r TO STDOUT (FORMAT csv)",
    "COPY nowhere TO STDOUT",
    "LOCK TABLE {w}",
    "VALUES (1, 'a'), (2, 'b')",
    "TABLE r",
    "SELECT 1; SELECT 2",
    "SELECT repeat('x', 20000)",
    "SELECT i FROM generate_series(1, 300) i",
];

const NAMES: &[&str] = &["", "", "s1", "s1", "s2", "s3", "q"];
const PORTALS: &[&str] = &["", "", "", "p1", "p2"];

impl Case {
    /// The case of a seed.
    pub fn generate(seed: u64) -> Self {
        let mut random = Random(seed);
        let clients = [1, 1, 2, 2, 3][random.below(5)];
        let turns = 2 + random.below(9);
        // A case keeps to some statements, so that they have to do with each other.
        let few = (0..4 + random.below(10)).map(|_| random.below(STATEMENTS.len())).collect();
        let breaks = random.percent(25);
        // From a generator of its own: what is made of older seeds stays.
        let mut other = Random(!seed);
        let strays = other.percent(10);
        let mut generator = Generator { random, few, breaks, other, strays };
        let turns = (0..turns).map(|_| generator.turn(clients)).collect();
        Self { clients, turns }
    }

    /// Cases with one thing less.
    pub fn smaller(&self) -> Vec<Self> {
        let mut out = Vec::new();
        for at in (0..self.turns.len()).rev() {
            let mut case = self.clone();
            case.turns.remove(at);
            out.push(case);
        }
        for at in (0..self.turns.len()).rev() {
            for message in (0..self.turns[at].messages.len()).rev() {
                if self.turns[at].messages.len() > 1 {
                    let mut case = self.clone();
                    case.turns[at].messages.remove(message);
                    out.push(case);
                }
            }
            if self.turns[at].cut != usize::MAX {
                let mut case = self.clone();
                case.turns[at].cut = usize::MAX;
                out.push(case);
            }
        }
        let last = self.turns.iter().map(|turn| turn.client + 1).max().unwrap_or(1);
        if last < self.clients {
            out.push(Self { clients: last, ..self.clone() });
        }
        out
    }
}

struct Generator {
    random: Random,
    few: Vec<usize>,
    breaks: bool,
    other: Random,
    strays: bool,
}

impl Generator {
    fn turn(&mut self, clients: usize) -> Turn {
        let client = self.random.below(clients);
        let mut messages = Vec::new();
        match self.random.below(100) {
            0..=34 => messages.push(self.query(client)),
            35..=41 => self.copy_simple(client, &mut messages),
            42..=46 => self.copy_extended(client, &mut messages),
            47..=49 => messages.push(self.function_call()),
            _ => self.pipeline(client, &mut messages),
        }
        if self.breaks && self.random.percent(30) {
            self.break_one(&mut messages);
        }
        let copies = messages.iter().any(|(name, _)| name == "CopyData");
        if self.strays && copies && self.other.percent(40) {
            self.stray(&mut messages);
        }
        let cut = if self.random.percent(15) { 1 + self.random.below(60) } else { usize::MAX };
        Turn { client, messages, cut }
    }

    fn sql(&mut self, client: usize) -> String {
        let few = self.few[self.random.below(self.few.len())];
        let at = if self.random.percent(70) { few } else { self.random.below(STATEMENTS.len()) };
        STATEMENTS[at].replace("{w}", &format!("w{client}")).replace("{k}", &(1000 + client).to_string())
    }

    fn query(&mut self, client: usize) -> Said {
        let count = if self.random.percent(20) { 2 + self.random.below(3) } else { 1 };
        let sql: Vec<_> = (0..count).map(|_| self.sql(client)).collect();
        ("Query".to_owned(), json!({"sql": sql.join("; ")}))
    }

    fn function_call(&mut self) -> Said {
        // int4abs, version, a function that is not there.
        let calls = [
            json!({"oid": 1397, "values": ["-5"]}),
            json!({"oid": 1397, "values": [{"hex": "fffffffb"}], "formats": [1], "result": 1}),
            json!({"oid": 1397, "values": []}),
            json!({"oid": 3, "values": []}),
        ];
        ("FunctionCall".to_owned(), calls[self.random.below(4)].clone())
    }

    fn bind(&mut self, statement: &str, sql: Option<&str>) -> Said {
        let arity = match sql {
            Some(sql) if sql.contains("$2") => 2,
            Some(sql) if sql.contains("$1") => 1,
            Some(_) => 0,
            None => self.random.below(3),
        };
        let arity = if self.random.percent(4) { arity + 1 } else { arity };
        let values: Vec<_> = (0..arity)
            .map(|_| {
                [
                    json!("1"),
                    json!("7"),
                    json!("0"),
                    json!("x"),
                    Value::Null,
                    json!("99999999999"),
                    json!("3"),
                ][self.random.below(7)]
                .clone()
            })
            .collect();
        let mut bind = json!({"portal": self.random.pick(PORTALS), "statement": statement, "values": values});
        match self.random.below(20) {
            0 => bind["results"] = json!([1]),
            1 => bind["results"] = json!([0, 0]),
            2 => bind["results"] = json!([2]),
            3 => bind["formats"] = json!([0]),
            4 => bind["formats"] = json!([0, 0, 0]),
            5 => bind["formats"] = json!([1]),
            _ => {}
        }
        ("Bind".to_owned(), bind)
    }

    fn pipeline(&mut self, client: usize, out: &mut Vec<Said>) {
        let say = |out: &mut Vec<Said>, name: &str, value: Value| out.push((name.to_owned(), value));
        for _ in 0..1 + self.random.below(4) {
            match self.random.below(100) {
                0..=44 => {
                    // What drivers do, sometimes with a part missing.
                    let (name, sql) = (self.random.pick(NAMES), self.sql(client));
                    if self.random.percent(85) {
                        say(out, "Parse", json!({"name": name, "sql": sql}));
                    }
                    if self.random.percent(30) {
                        say(out, "Describe", json!({"statement": name}));
                    }
                    let bind = self.bind(name, Some(&sql));
                    let portal = bind.1["portal"].clone();
                    out.push(bind);
                    if self.random.percent(40) {
                        say(out, "Describe", json!({"portal": portal}));
                    }
                    let rows = if self.random.percent(20) { 1 + self.random.below(3) } else { 0 };
                    say(out, "Execute", json!({"portal": portal, "rows": rows}));
                }
                45..=54 => {
                    let name = self.random.pick(NAMES);
                    let sql = self.sql(client);
                    say(out, "Parse", json!({"name": name, "sql": sql}));
                    if self.random.percent(50) {
                        say(out, "Describe", json!({"statement": name}));
                    }
                }
                55..=68 => {
                    let name = self.random.pick(NAMES);
                    let bind = self.bind(name, None);
                    let portal = bind.1["portal"].clone();
                    out.push(bind);
                    say(out, "Execute", json!({"portal": portal, "rows": self.random.below(3)}));
                }
                69..=74 => say(out, "Describe", json!({"statement": self.random.pick(NAMES)})),
                75..=77 => say(out, "Describe", json!({"portal": self.random.pick(PORTALS)})),
                78..=84 => say(out, "Close", json!({"statement": self.random.pick(NAMES)})),
                85..=87 => say(out, "Close", json!({"portal": self.random.pick(PORTALS)})),
                88..=91 => {
                    let rows = self.random.below(3);
                    say(out, "Execute", json!({"portal": self.random.pick(PORTALS), "rows": rows}));
                }
                92..=94 => say(out, "Flush", json!({})),
                95..=97 => say(out, "Sync", json!({})),
                98 => say(out, "CopyDone", json!({})),
                _ => out.push(self.query(client)),
            }
        }
        match self.random.below(100) {
            0..=74 => say(out, "Sync", json!({})),
            75..=87 => say(out, "Flush", json!({})),
            _ => {}
        }
    }

    fn copy_lines(&mut self, out: &mut Vec<Said>) {
        for _ in 0..self.random.below(4) {
            let line = match self.random.below(8) {
                0 => "7\tseven\n".to_owned(),
                1 => "x\tbad\n".to_owned(),
                2 => "9\tnine\n10\tt".to_owned(),
                _ => format!("{}\tcopied\n", self.random.below(50)),
            };
            out.push(("CopyData".to_owned(), json!({"data": line})));
        }
        match self.random.below(20) {
            0..=13 => out.push(("CopyDone".to_owned(), json!({}))),
            14..=17 => out.push(("CopyFail".to_owned(), json!({"message": "given up"}))),
            18 => out.push(("Flush".to_owned(), json!({}))),
            _ => {}
        }
    }

    fn copy_simple(&mut self, client: usize, out: &mut Vec<Said>) {
        let before = if self.random.percent(20) { "SELECT 1; " } else { "" };
        let after = if self.random.percent(20) { "; SELECT 2" } else { "" };
        let sql = format!("{before}COPY w{client} FROM STDIN{after}");
        out.push(("Query".to_owned(), json!({"sql": sql})));
        self.copy_lines(out);
    }

    fn copy_extended(&mut self, client: usize, out: &mut Vec<Said>) {
        let name = self.random.pick(NAMES);
        let sql = format!("COPY w{client} FROM STDIN");
        out.push(("Parse".to_owned(), json!({"name": name, "sql": sql})));
        out.push(("Bind".to_owned(), json!({"statement": name})));
        out.push(("Execute".to_owned(), json!({})));
        if self.random.percent(40) {
            out.push((self.random.pick(&["Sync", "Flush"]).to_owned(), json!({})));
        }
        self.copy_lines(out);
        if self.random.percent(85) {
            out.push(("Sync".to_owned(), json!({})));
        }
    }

    /// Puts something among the data of a COPY that does not belong there, or is ignored there.
    fn stray(&mut self, messages: &mut Vec<Said>) {
        let at = 1 + self.other.below(messages.len());
        let strays = [
            ("Query", json!({"sql": "SELECT 'stray'"})),
            ("Query", json!({"sql": "SET application_name = 'stray'"})),
            ("Parse", json!({"sql": "SELECT 'stray'"})),
            ("Sync", json!({})),
            ("Flush", json!({})),
        ];
        let (name, value) = strays[self.other.below(strays.len())].clone();
        messages.insert(at, (name.to_owned(), value));
    }

    /// Makes one message into what is none.
    fn break_one(&mut self, messages: &mut [Said]) {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let at = self.random.below(messages.len());
        let mut bytes = bytes::BytesMut::new();
        crate::support::messages::encode(&messages[at].0, &messages[at].1, &mut bytes);
        let mut bytes = bytes.to_vec();
        let tag = bytes[0];
        match self.random.below(6) {
            // Shorter, longer, another byte, another type.
            0 | 1 if bytes.len() > 5 => bytes.truncate(5 + self.random.below(bytes.len() - 5)),
            2 => bytes.extend_from_slice(&[0, 0, 7][..1 + self.random.below(3)]),
            3 | 4 if bytes.len() > 5 => {
                let place = 5 + self.random.below(bytes.len() - 5);
                bytes[place] = [0, 1, 0xff, b'S', b'7', 0x80][self.random.below(6)];
            }
            _ => bytes[0] = [b'y', b'w', 0, b'Z', b'1', tag][self.random.below(6)],
        }
        let length = (bytes.len() - 1) as u32;
        bytes[1..5].copy_from_slice(&length.to_be_bytes());
        messages[at] = ("Raw".to_owned(), json!({"hex": hex(&bytes)}));
    }
}
