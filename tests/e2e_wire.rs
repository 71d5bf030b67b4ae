//! The same bytes sent to PostgreSQL and through pgweir must get the same answers.
//!
//! Each conversation is a list of requests; after each request the answers are read up to as many
//! ReadyForQuery as it must bring. Compared are all messages but the key of BackendKeyData, and the
//! positions inside the server's source code that errors carry.

#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code outside a #[test]"
)]

mod support;

use bytes::{BufMut, BytesMut};
use pgweir::protocol::writer::{cstr, message, untagged};
use pgweir::protocol::{ErrorFields, frontend, startup};
use support::Pgweir;
use support::wire::{self, Message, RawClient};

/// A request, and how many ReadyForQuery it brings.
type Step = (BytesMut, usize);

fn q(sql: &str) -> Step {
    let mut out = BytesMut::new();
    frontend::query(&mut out, sql.as_bytes());
    (out, 1)
}

#[derive(Default)]
struct Batch(BytesMut);

impl Batch {
    fn parse(mut self, name: &str, sql: &str) -> Self {
        wire::parse(&mut self.0, name, sql);
        self
    }

    fn bind(mut self, portal: &str, name: &str, values: &[&str]) -> Self {
        wire::bind(&mut self.0, portal, name, values);
        self
    }

    fn named(mut self, tag: u8, kind: u8, name: &str) -> Self {
        wire::named(&mut self.0, tag, kind, name);
        self
    }

    fn describe(self, kind: u8, name: &str) -> Self {
        self.named(b'D', kind, name)
    }

    fn close(self, kind: u8, name: &str) -> Self {
        self.named(b'C', kind, name)
    }

    fn execute(mut self, portal: &str, rows: i32) -> Self {
        wire::execute(&mut self.0, portal, rows);
        self
    }

    fn bare(mut self, tag: u8) -> Self {
        message(&mut self.0, tag, |_| {});
        self
    }

    fn data(mut self, tag: u8, body: &[u8]) -> Self {
        message(&mut self.0, tag, |b| b.put_slice(body));
        self
    }

    fn sync(self) -> Self {
        self.bare(b'S')
    }

    fn all(self, ready: usize) -> Step {
        (self.0, ready)
    }
}

fn b() -> Batch {
    Batch::default()
}

/// The body of a Parse that declares so many integers.
fn parse_with_types(name: &str, sql: &str, count: u16) -> Vec<u8> {
    let mut body = format!("{name}\0{sql}\0").into_bytes();
    body.extend(count.to_be_bytes());
    (0..count).for_each(|_| body.extend(23_u32.to_be_bytes()));
    body
}

/// The body of a Bind of the unnamed portal with so many parameters.
fn bind_of_ones(name: &str, count: u16) -> Vec<u8> {
    let mut body = format!("\0{name}\0").into_bytes();
    body.extend(0_u16.to_be_bytes());
    body.extend(count.to_be_bytes());
    (0..count).for_each(|_| body.extend(b"\0\0\0\x011"));
    body.extend(0_u16.to_be_bytes());
    body
}

fn conversations() -> Vec<(&'static str, Vec<Step>)> {
    let select = |name: &str| b().parse(name, "SELECT $1::int + 1 AS x");
    vec![
        ("simple", vec![q("SELECT 1"), q("SELECT 'a', NULL, 2.5"), q(""), q(";"), q("-- nothing")]),
        (
            "several statements",
            vec![q(
                "SELECT 1; SELECT 2; INSERT INTO t VALUES (100, 'x'); SELECT count(*) FROM t WHERE i = 100; DELETE FROM t WHERE i = 100",
            )],
        ),
        (
            "an error in the middle of a string",
            vec![
                q("INSERT INTO t VALUES (101, 'x'); SELECT 1/0; SELECT 3"),
                q("SELECT count(*) FROM t WHERE i = 101"),
            ],
        ),
        ("syntax error", vec![q("SELEKT 1"), q("SELECT 'not closed"), q("SELECT 1")]),
        (
            "transaction",
            vec![
                q("BEGIN"),
                q("INSERT INTO t VALUES (102, 'y')"),
                q("SELECT count(*) FROM t WHERE i = 102"),
                q("ROLLBACK"),
                q("SELECT count(*) FROM t WHERE i = 102"),
            ],
        ),
        ("failed transaction", vec![q("BEGIN"), q("SELECT 1/0"), q("SELECT 1"), q("COMMIT"), q("SELECT 2")]),
        (
            "savepoints",
            vec![
                q("BEGIN"),
                q("SAVEPOINT a"),
                q("SELECT nonsense"),
                q("ROLLBACK TO a"),
                q("SELECT 5"),
                q("COMMIT"),
            ],
        ),
        (
            "read only transaction",
            vec![q("BEGIN READ ONLY"), q("SELECT count(*) FROM t WHERE i < 10"), q("COMMIT")],
        ),
        ("commit outside a transaction", vec![q("COMMIT"), q("ROLLBACK"), q("SAVEPOINT x")]),
        (
            "settings",
            vec![
                q("SET timezone = 'Asia/Tokyo'"),
                q("SHOW timezone"),
                q("SET work_mem = 'nonsense'"),
                q("RESET timezone"),
                q("SHOW timezone"),
                q("SET DateStyle = 'German'"),
                q("SELECT '2026-11-23'::date"),
            ],
        ),
        (
            "settings rolled back",
            vec![
                q("BEGIN"),
                q("SET timezone = 'Asia/Tokyo'"),
                q("ROLLBACK"),
                q("SHOW timezone"),
                q("BEGIN"),
                q("SET LOCAL timezone = 'Asia/Tokyo'"),
                q("COMMIT"),
                q("SHOW timezone"),
            ],
        ),
        (
            "settings and savepoints",
            vec![
                q("BEGIN"),
                q("SET timezone = 'Asia/Tokyo'"),
                q("SAVEPOINT a"),
                q("SET timezone = 'Europe/Oslo'"),
                q("ROLLBACK TO a"),
                q("COMMIT"),
                q("SHOW timezone"),
            ],
        ),
        (
            "custom settings",
            vec![
                q("SELECT set_config('app.tenant', '42', false)"),
                q("SELECT current_setting('app.tenant')"),
                q("SELECT set_config('app.' || 'other', '43', false), 'app.other'"),
                q("SELECT current_setting('app.other'), current_setting('app.tenant')"),
                q("RESET ALL"),
                q("SELECT current_setting('app.tenant', true)"),
            ],
        ),
        (
            "temporary table",
            vec![
                q("CREATE TEMP TABLE mine (i int)"),
                q("INSERT INTO mine VALUES (1)"),
                q("SELECT * FROM mine"),
                q("DROP TABLE mine"),
                q("SELECT 1"),
            ],
        ),
        (
            "sql prepare",
            vec![
                q("PREPARE p (int) AS SELECT $1 * 2"),
                q("EXECUTE p (21)"),
                q("EXECUTE p (1, 2)"),
                q("DEALLOCATE p"),
                q("EXECUTE p (1)"),
                q("SELECT 1"),
            ],
        ),
        (
            "cursors",
            vec![
                q("BEGIN"),
                q("DECLARE c CURSOR FOR SELECT generate_series(1, 5)"),
                q("FETCH 2 FROM c"),
                q("MOVE 1 FROM c"),
                q("FETCH ALL FROM c"),
                q("CLOSE c"),
                q("COMMIT"),
            ],
        ),
        (
            "cursor with hold",
            vec![
                q("DECLARE h CURSOR WITH HOLD FOR SELECT generate_series(1, 3)"),
                q("FETCH 1 FROM h"),
                q("FETCH ALL FROM h"),
                q("CLOSE h"),
                q("FETCH 1 FROM h"),
            ],
        ),
        (
            "listen and notify",
            vec![q("LISTEN \"News Channel\""), q("NOTIFY other, 'x'"), q("UNLISTEN *"), q("SELECT 1")],
        ),
        (
            "advisory locks",
            vec![
                q("SELECT pg_advisory_lock(77)"),
                q("SELECT pg_advisory_unlock(77), pg_advisory_unlock(77)"),
                q("SELECT 1"),
            ],
        ),
        (
            "discard",
            vec![
                q("SET timezone = 'Asia/Tokyo'"),
                q("DISCARD ALL"),
                q("SHOW timezone"),
                q("BEGIN; DISCARD ALL"),
                q("ROLLBACK"),
            ],
        ),
        (
            "asyncpg's reset",
            vec![q("SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;"), q("SELECT 1")],
        ),
        (
            "notices",
            vec![q("DO $$ BEGIN RAISE NOTICE 'hello %', 1; RAISE WARNING 'careful'; END $$"), q("SELECT 1")],
        ),
        (
            "extended, unnamed",
            vec![select("").bind("", "", &["41"]).describe(b'P', "").execute("", 0).sync().all(1)],
        ),
        (
            "extended, named, twice",
            vec![
                select("s1").describe(b'S', "s1").sync().all(1),
                b().bind("", "s1", &["1"]).execute("", 0).sync().all(1),
                b().bind("", "s1", &["2"]).execute("", 0).sync().all(1),
            ],
        ),
        (
            "unnamed kept across Syncs",
            vec![
                select("").sync().all(1),
                b().bind("", "", &["7"]).execute("", 0).sync().all(1),
                b().bind("", "", &["8"]).execute("", 0).sync().all(1),
            ],
        ),
        (
            "unnamed dropped by a simple query",
            vec![
                select("").sync().all(1),
                q("SELECT 1"),
                b().bind("", "", &["7"]).execute("", 0).sync().all(1),
            ],
        ),
        (
            "name taken",
            vec![
                select("s2").sync().all(1),
                select("s2").sync().all(1),
                q("SELECT 1"),
                b().bind("", "s2", &["1"]).execute("", 0).sync().all(1),
            ],
        ),
        (
            "unknown statement",
            vec![
                b().bind("", "nope", &[]).execute("", 0).sync().all(1),
                b().describe(b'S', "nope").sync().all(1),
                b().execute("nope", 0).sync().all(1),
                b().describe(b'P', "nope").sync().all(1),
            ],
        ),
        ("unknown unnamed statement", vec![b().bind("", "", &[]).execute("", 0).sync().all(1)]),
        (
            "close",
            vec![
                select("s3").close(b'S', "s3").sync().all(1),
                b().bind("", "s3", &["1"]).sync().all(1),
                b().close(b'S', "never there").close(b'P', "nor there").sync().all(1),
            ],
        ),
        (
            "parse error is not remembered",
            vec![
                b().parse("bad", "SELEKT").sync().all(1),
                select("bad").sync().all(1),
                b().bind("", "bad", &["5"]).execute("", 0).sync().all(1),
            ],
        ),
        (
            "error in a pipeline of several Syncs",
            vec![
                select("p1")
                    .bind("", "p1", &["1"])
                    .execute("", 0)
                    .sync()
                    .bind("", "p1", &["x"])
                    .execute("", 0)
                    .parse("p2", "SELECT 2")
                    .sync()
                    .bind("", "p1", &["3"])
                    .execute("", 0)
                    .sync()
                    .all(3),
                b().bind("", "p2", &[]).execute("", 0).sync().all(1),
            ],
        ),
        (
            "transaction by prepared statements",
            vec![
                b().parse("begin", "BEGIN").bind("", "begin", &[]).execute("", 0).sync().all(1),
                b().parse("ins", "INSERT INTO t VALUES ($1::int, 'z')")
                    .bind("", "ins", &["103"])
                    .execute("", 0)
                    .sync()
                    .all(1),
                b().parse("back", "ROLLBACK").bind("", "back", &[]).execute("", 0).sync().all(1),
                q("SELECT count(*) FROM t WHERE i = 103"),
            ],
        ),
        (
            "unknown statement fails the transaction",
            vec![q("BEGIN"), b().bind("", "nope", &[]).sync().all(1), q("SELECT 1"), q("ROLLBACK")],
        ),
        (
            "row limits",
            vec![
                q("BEGIN"),
                b().parse("", "SELECT generate_series(1, 5)")
                    .bind("c", "", &[])
                    .execute("c", 2)
                    .sync()
                    .all(1),
                b().execute("c", 2).sync().all(1),
                b().execute("c", 2).sync().all(1),
                q("COMMIT"),
            ],
        ),
        (
            "two portals",
            vec![
                q("BEGIN"),
                b().parse("", "SELECT generate_series(1, 3)")
                    .bind("a", "", &[])
                    .bind("b", "", &[])
                    .execute("a", 1)
                    .execute("b", 2)
                    .execute("a", 0)
                    .close(b'P', "a")
                    .sync()
                    .all(1),
                q("COMMIT"),
            ],
        ),
        (
            "a query inside a pipeline",
            vec![
                {
                    let mut step = select("").bind("", "", &["1"]).execute("", 0).0;
                    frontend::query(&mut step, b"SELECT 'in between'");
                    (step, 1)
                },
                b().sync().all(1),
            ],
        ),
        (
            "copy out",
            vec![
                q("COPY (SELECT generate_series(1, 3), 'x') TO STDOUT"),
                q("COPY t TO STDOUT WITH (FORMAT csv)"),
                q("COPY nowhere TO STDOUT"),
            ],
        ),
        (
            "copy in",
            vec![
                (q("COPY t FROM STDIN").0, 0),
                b().data(b'd', b"104\tcopied\n").data(b'd', b"105\tcopied\n").bare(b'c').all(1),
                q("SELECT count(*) FROM t WHERE b = 'copied'"),
                q("DELETE FROM t WHERE b = 'copied'"),
            ],
        ),
        (
            "copy in given up",
            vec![
                (q("COPY t FROM STDIN").0, 0),
                b().data(b'd', b"106\tx\n").data(b'f', b"no more\0").all(1),
                q("SELECT count(*) FROM t WHERE i = 106"),
            ],
        ),
        (
            "copy in with bad data",
            vec![
                (q("COPY t FROM STDIN").0, 0),
                b().data(b'd', b"not a number\tx\n").data(b'd', b"107\tx\n").bare(b'c').all(1),
                q("SELECT 1"),
            ],
        ),
        (
            "copy in, extended",
            vec![
                b().parse("", "COPY t FROM STDIN")
                    .bind("", "", &[])
                    .execute("", 0)
                    .sync()
                    .data(b'd', b"108\text\n")
                    .bare(b'c')
                    .sync()
                    .all(1),
                q("DELETE FROM t WHERE b = 'ext'"),
            ],
        ),
        (
            "copy in inside a transaction",
            vec![
                q("BEGIN"),
                (q("COPY t FROM STDIN").0, 0),
                b().data(b'd', b"109\ttx\n").bare(b'c').all(1),
                q("ROLLBACK"),
                q("SELECT count(*) FROM t WHERE i = 109"),
            ],
        ),
        (
            "copy messages where there is no copy",
            vec![
                b().data(b'd', b"ignored")
                    .bare(b'c')
                    .parse("", "SELECT 1")
                    .bind("", "", &[])
                    .execute("", 0)
                    .sync()
                    .all(1),
            ],
        ),
        ("sync alone", vec![b().sync().all(1), b().sync().sync().all(2)]),
        ("function call", vec![b().data(b'F', &[0, 0, 3, 0xd8, 0, 0, 0, 0, 0, 0]).all(1), q("SELECT 1")]),
        (
            "a large value",
            vec![
                q("SELECT repeat('x', 3000000)"),
                b().parse("", "SELECT length($1::text)")
                    .bind("", "", &["y".repeat(4_000_000).as_str()])
                    .execute("", 0)
                    .sync()
                    .all(1),
            ],
        ),
        (
            "more parameters than a signed count holds",
            vec![
                b().data(b'P', &parse_with_types("many", "SELECT $40000 + 1", 40_000))
                    .describe(b'S', "many")
                    .data(b'B', &bind_of_ones("many", 40_000))
                    .execute("", 0)
                    .sync()
                    .all(1),
            ],
        ),
        ("many rows", vec![q("SELECT i, repeat('r', 100) FROM generate_series(1, 20000) i")]),
        (
            "flush without sync",
            vec![
                (select("f1").describe(b'S', "f1").bare(b'H').0, 0),
                b().bind("", "f1", &["1"]).execute("", 0).sync().all(1),
            ],
        ),
        (
            "error before a flush",
            vec![
                (b().parse("f2", "SELEKT").bare(b'H').0, 0),
                b().bind("", "f2", &[]).execute("", 0).sync().all(1),
                q("SELECT 1"),
            ],
        ),
        (
            "create and drop",
            vec![
                q("CREATE TABLE made (i int)"),
                q("SELECT * FROM made"),
                q("ALTER TABLE made ADD b int"),
                q("SELECT * FROM made"),
                q("DROP TABLE made"),
                q("SELECT * FROM made"),
            ],
        ),
    ]
}

/// What is compared: of errors the fields that people see, of the others
/// the rest of a message is compared to the byte.
fn comparable(messages: Vec<Message>) -> Vec<String> {
    messages
        .into_iter()
        .map(|(tag, body)| match tag {
            b'E' | b'N' => {
                let fields = ErrorFields::read(&body);
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                format!(
                    "{} {} {} | {} | {}",
                    tag as char,
                    text(fields.code),
                    text(fields.message),
                    text(fields.detail),
                    text(fields.hint)
                )
            }
            b'T' => columns(&body),
            _ if body.len() > 400 => format!(
                "{} {} bytes, sum {}",
                tag as char,
                body.len(),
                body.iter().map(|b| u64::from(*b)).sum::<u64>()
            ),
            _ => format!("{} {}", tag as char, String::from_utf8_lossy(&body).escape_debug()),
        })
        .collect()
}

/// RowDescription without the OIDs of tables, which differ for a table that is made anew.
fn columns(body: &[u8]) -> String {
    let mut reader = pgweir::protocol::Reader::new(body);
    let mut text = "T".to_owned();
    for _ in 0..reader.i16().unwrap() {
        let name = String::from_utf8_lossy(reader.cstr().unwrap()).into_owned();
        let table = reader.i32().unwrap() != 0;
        let rest = reader.bytes(14).unwrap();
        text.push_str(&format!(" {name} {table} {rest:?}"));
    }
    text
}

fn converse(port: u16, database: &str, steps: &[Step]) -> Vec<String> {
    let mut client = RawClient::login(port, database);
    let mut seen = Vec::new();
    for (bytes, ready) in steps {
        client.send(bytes);
        seen.extend(comparable(client.until_ready(*ready)));
        if *ready == 0 {
            // Give the answer of a Flush or a COPY time to come by itself.
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
    seen
}

#[test]
fn pgweir_answers_as_postgresql_does() {
    let database = support::database();
    database.on(
        0,
        "CREATE TABLE t (i int, b text); INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 5) i",
    );
    support::cluster().wait_caught_up(0).unwrap();
    for yaml in [
        "pool: {size: 2}\n",
        "pool: {size: 3, debug_rotate: true, debug_check: true}\n",
        "pool: {mode: session}\n",
        "workers: 1\npool: {size: 1}\nrouting: {reads: primary}\n",
    ] {
        let pgweir = Pgweir::start(&format!("{yaml}{}", database.yaml()));
        for (name, steps) in conversations() {
            let direct = converse(support::cluster().port(0), &database.name, &steps);
            let through = converse(pgweir.port, &database.name, &steps);
            assert_eq!(through, direct, "{name}, with {yaml}");
        }
    }
}

/// What the client is told at login is what PostgreSQL tells it, but for the key.
#[test]
fn the_greeting_is_postgresqls() {
    let database = support::database();
    let pgweir = Pgweir::start(&database.yaml());
    let greeting = |port| {
        let mut out = BytesMut::new();
        let parameters = [
            ("user", "app"),
            ("database", &*database.name),
            ("client_encoding", "'utf-8'"),
            ("application_name", "it's me"),
            ("TimeZone", "Europe/Oslo"),
            ("options", "-c work_mem=5MB -c search_path=a,\\ b"),
        ];
        startup::startup_message(&mut out, parameters.into_iter());
        let mut client = RawClient::connect(port).log_in(&out);
        let mut seen: Vec<_> =
            comparable(client.greeting.drain(..).filter(|(tag, _)| *tag != b'K').collect());
        seen.sort();
        client.send(&q("SHOW work_mem").0);
        seen.extend(comparable(client.until_ready(1)));
        client.send(&q("SHOW search_path").0);
        seen.extend(comparable(client.until_ready(1)));
        seen
    };
    let direct = greeting(support::cluster().port(0));
    for _ in 0..3 {
        assert_eq!(greeting(pgweir.port), direct);
    }
}

/// Settings at login that PostgreSQL refuses are refused in the same words.
#[test]
fn a_bad_startup_setting_is_refused_as_postgresql_does() {
    let database = support::database();
    let pgweir = Pgweir::start(&database.yaml());
    for (name, value) in [
        ("TimeZone", "Nowhere/Land"),
        ("work_mem", "lots"),
        ("client_encoding", "KLINGON"),
        ("nonsense", "1"),
    ] {
        let refusal = |port| {
            let mut out = BytesMut::new();
            startup::startup_message(
                &mut out,
                [("user", "app"), ("database", &*database.name), (name, value)].into_iter(),
            );
            let client = RawClient::connect(port).log_in(&out);
            let error = client
                .greeting
                .into_iter()
                .find(|(tag, _)| *tag == b'E')
                .unwrap_or_else(|| panic!("{name} is accepted"));
            let fields = ErrorFields::read(&error.1);
            (
                String::from_utf8_lossy(fields.code).into_owned(),
                String::from_utf8_lossy(fields.message).into_owned(),
                fields.is_fatal(),
            )
        };
        assert_eq!(refusal(pgweir.port), refusal(support::cluster().port(0)), "{name}");
    }
}

#[test]
fn encryption_requests_and_versions() {
    let database = support::database();
    let pgweir = Pgweir::start(&database.yaml());
    let packet = |code: u32, parameters: &[(&str, &str)]| {
        let mut out = BytesMut::new();
        untagged(&mut out, |b| {
            b.put_u32(code);
            for (name, value) in parameters {
                cstr(b, name.as_bytes());
                cstr(b, value.as_bytes());
            }
            if !parameters.is_empty() {
                b.put_u8(0);
            }
        });
        out
    };
    let who = [("user", "app"), ("database", database.name.as_str())];
    // GSSENCRequest, then SSLRequest, then on without either.
    let mut client = RawClient::connect(pgweir.port);
    client.send(&packet(80_877_104, &[]));
    assert_eq!(client.byte(), b'N');
    client.send(&packet(80_877_103, &[]));
    assert_eq!(client.byte(), b'N');
    client = client.log_in(&packet(3 << 16, &who));
    client.send(&q("SELECT 1").0);
    assert_eq!(client.until_ready(1).len(), 4);
    let key_len = |client: &RawClient| client.greeting.iter().find(|(tag, _)| *tag == b'K').unwrap().1.len();
    assert_eq!(key_len(&client), 8, "protocol 3.0 has keys of four bytes");
    // 3.2 is spoken: a long key, no negotiation.
    let client = RawClient::connect(pgweir.port).log_in(&packet((3 << 16) | 2, &who));
    assert_eq!((key_len(&client), client.greeting.iter().any(|(tag, _)| *tag == b'v')), (36, false));
    // 3.99 and unknown options are negotiated down.
    let options = [who[0], who[1], ("_pq_.command_tag", "1")];
    let client = RawClient::connect(pgweir.port).log_in(&packet((3 << 16) | 99, &options));
    let negotiated = client.greeting.iter().find(|(tag, _)| *tag == b'v').unwrap();
    assert_eq!(negotiated.1, b"\0\x03\0\x02\0\0\0\x01_pq_.command_tag\0");
    // 2.0 is not spoken.
    let mut client = RawClient::connect(pgweir.port);
    client.send(&packet(2 << 16, &who));
    assert_eq!(client.message().0, b'E');
    assert!(client.try_message().is_none());
}

#[test]
fn what_is_no_protocol_gets_a_clear_end_and_the_process_lives() {
    let database = support::database();
    let pgweir = Pgweir::start(&format!("limits: {{message: 1MiB}}\n{}", database.yaml()));
    let code_of = |bytes: &[u8], logged_in: bool| {
        let mut client = if logged_in {
            RawClient::login(pgweir.port, &database.name)
        } else {
            RawClient::connect(pgweir.port)
        };
        client.send(bytes);
        let messages = client.until_ready(1);
        let error = messages.iter().find(|(tag, _)| *tag == b'E').map(|(_, body)| {
            let fields = ErrorFields::read(body);
            assert!(fields.is_fatal());
            String::from_utf8_lossy(fields.code).into_owned()
        });
        assert_eq!(messages.last().unwrap().1, b"closed");
        error.unwrap_or_default()
    };
    assert_eq!(code_of(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", false), "08P01");
    assert_eq!(code_of(&[0, 0, 0, 3, 0, 0, 0, 0], false), "08P01");
    assert_eq!(code_of(b"y\0\0\0\x04", true), "08P01");
    assert_eq!(code_of(b"Q\0\0\0\x03", true), "08P01");
    assert_eq!(code_of(b"Q\x7f\xff\xff\xff", true), "54000");
    let mut client = RawClient::login(pgweir.port, &database.name);
    client.send(&q("SELECT 1").0);
    assert_eq!(client.until_ready(1).len(), 4);
}

/// The second request of a pipeline waits for a server connection that another client has got in between: the answer
/// to the first is not kept back until then.
#[test]
fn an_answer_does_not_wait_for_the_next_request() {
    let database = support::database();
    let pgweir =
        Pgweir::start(&format!("pool: {{size: 1}}\nrouting: {{reads: primary}}\n{}", database.yaml()));
    let mut pipeline = q("SELECT pg_sleep(0.5)").0;
    pipeline.extend_from_slice(&q("SELECT 2").0);
    let mut first = RawClient::login(pgweir.port, &database.name);
    let mut other = RawClient::login(pgweir.port, &database.name);
    first.send(&pipeline);
    let running = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND state = 'active' AND query LIKE 'SELECT pg_sleep%'",
        database.name
    );
    support::talk::until("the first request runs", || database.on(0, &running) == "1");
    other.send(&q("BEGIN; SELECT 1").0);
    let tags = |messages: Vec<Message>| messages.into_iter().map(|(tag, _)| tag as char).collect::<String>();
    assert_eq!(tags(first.until_ready(1)), "TDCZ");
    assert_eq!(tags(other.until_ready(1)), "CTDCZ");
    other.send(&q("COMMIT").0);
    assert_eq!(tags(other.until_ready(1)), "CZ");
    assert_eq!(tags(first.until_ready(1)), "TDCZ");
}

/// 100,000 statements in one pipeline, sent before anything is read: no deadlock, all answered in order.
#[test]
fn a_long_pipeline_does_not_deadlock() {
    const STATEMENTS: usize = 100_000;
    let database = support::database();
    let pgweir = Pgweir::start(&database.yaml());
    let client = RawClient::login(pgweir.port, &database.name);
    let mut writer = client.socket.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        use std::io::Write as _;
        let mut batch = b().parse("p", "SELECT $1::int");
        for number in 0..STATEMENTS {
            batch = batch.bind("", "p", &[&number.to_string()]).execute("", 0);
        }
        writer.write_all(&batch.sync().0).unwrap();
    });
    let mut client = client;
    let messages = client.until_ready(1);
    sender.join().unwrap();
    let rows: Vec<_> = messages.iter().filter(|(tag, _)| *tag == b'D').collect();
    assert_eq!(rows.len(), STATEMENTS);
    assert!(rows.iter().enumerate().all(|(n, (_, body))| body[6..] == *n.to_string().as_bytes()));
}
