//! The whole protocol, broken messages included: what PostgreSQL answers, pgweir answers.
//!
//! Conversations of which `tests/e2e_wire.rs` has the usual ones; here are COPY in all its forms, pipelines,
//! portals, encodings, function calls, two-phase commands, and what no driver would send.
//! `PGWEIR_CONVERSATION` picks those whose names contain it.
#![allow(clippy::pedantic, clippy::unwrap_used, clippy::panic, reason = "test code outside a #[test]")]

mod support;

use bytes::BufMut as _;
use support::Pgweir;
use support::talk::{Send, Turn, Until, ask, read, rows, same, send, sqlstate};
use support::wire::RawClient;

fn ready(send: Send) -> Turn {
    (send, Until::Ready(1))
}

fn q(sql: impl AsRef<[u8]>) -> Turn {
    ready(send().query(sql))
}

fn function_call(oid: u32, arguments: &[&[u8]], format: i16) -> Send {
    let mut body = Vec::new();
    body.put_u32(oid);
    body.put_i16(1);
    body.put_i16(format);
    body.put_i16(arguments.len() as i16);
    for argument in arguments {
        body.put_i32(argument.len() as i32);
        body.put_slice(argument);
    }
    body.put_i16(format);
    send().raw(b'F', &body)
}

type Conversations = Vec<(&'static str, Vec<Turn>)>;

fn copy() -> Conversations {
    let tables = || q("TRUNCATE a, b");
    vec![
        (
            "two COPY FROM and a query in one string",
            vec![
                tables(),
                (
                    send().query("COPY a FROM STDIN; COPY b FROM STDIN; SELECT count(*) FROM a"),
                    Until::Tag(b'G'),
                ),
                (send().copy_data("1\n2\n").copy_done(), Until::Tag(b'G')),
                ready(send().copy_data("3\n").copy_done()),
                q("SELECT * FROM a UNION ALL SELECT * FROM b ORDER BY 1"),
            ],
        ),
        (
            "both in one write, with the query after them",
            vec![
                tables(),
                (
                    send()
                        .query("COPY a FROM STDIN; COPY b FROM STDIN")
                        .copy_data("1\n")
                        .copy_done()
                        .copy_data("2\n")
                        .copy_done()
                        .query("SELECT i FROM a; SELECT i FROM b"),
                    Until::Ready(2),
                ),
            ],
        ),
        (
            "the second COPY of a string fails: nothing of the first stays",
            vec![
                tables(),
                (send().query("COPY a FROM STDIN; COPY nowhere FROM STDIN; SELECT 1"), Until::Tag(b'G')),
                ready(send().copy_data("1\n").copy_done()),
                q("SELECT count(*) FROM a"),
            ],
        ),
        (
            "the first is given up",
            vec![
                tables(),
                (send().query("COPY a FROM STDIN; COPY b FROM STDIN"), Until::Tag(b'G')),
                ready(send().copy_data("1\n").copy_fail("no more")),
                q("SELECT count(*) FROM a"),
            ],
        ),
        (
            "two COPY TO in one string",
            vec![q("COPY (SELECT 1) TO STDOUT; COPY (SELECT 2) TO STDOUT; SELECT 3")],
        ),
        (
            "COPY TO fails midway",
            vec![q("COPY (SELECT 100 / (3 - i) FROM generate_series(1, 5) i) TO STDOUT"), q("SELECT 1")],
        ),
        (
            "COPY TO, extended, fails midway",
            vec![
                ready(
                    send()
                        .run("COPY (SELECT 100 / (3 - i) FROM generate_series(1, 5) i) TO STDOUT", &[])
                        .run("SELECT 1", &[])
                        .sync(),
                ),
                q("SELECT 1"),
            ],
        ),
        (
            "binary, both ways",
            vec![
                tables(),
                (send().query("COPY a FROM STDIN (FORMAT binary)"), Until::Tag(b'G')),
                ready(
                    send()
                        .copy_data(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0")
                        .copy_data(b"\0\x01\0\0\0\x04\0\0\0\x07")
                        .copy_data(b"\xff\xff")
                        .copy_done(),
                ),
                q("COPY a TO STDOUT (FORMAT binary)"),
                q("COPY a TO STDOUT BINARY"),
                (send().query("COPY a FROM STDIN (FORMAT binary)"), Until::Tag(b'G')),
                ready(send().copy_data(b"not binary at all, but long enough").copy_done()),
            ],
        ),
        (
            "text with an end-of-data mark",
            vec![
                tables(),
                (send().query("COPY a FROM STDIN"), Until::Tag(b'G')),
                ready(send().copy_data("1\n\\.\n").copy_done()),
                (send().query("COPY a FROM STDIN"), Until::Tag(b'G')),
                ready(send().copy_data("2\n").copy_data("\\.\n").copy_data("garbage\n").copy_done()),
                q("SELECT count(*) FROM a"),
            ],
        ),
        (
            "data after an error",
            vec![
                tables(),
                (
                    send()
                        .query("COPY a FROM STDIN")
                        .copy_data("x\n")
                        .copy_data("1\n")
                        .copy_data("2\n")
                        .copy_done()
                        .query("SELECT count(*) FROM a"),
                    Until::Ready(2),
                ),
                (send().query("COPY a FROM STDIN"), Until::Tag(b'G')),
                ready(send().copy_data("x\n").copy_done()),
                q("SELECT 1"),
            ],
        ),
        (
            "lines cut anywhere, empty messages",
            vec![
                tables(),
                (send().query("COPY a FROM STDIN"), Until::Tag(b'G')),
                (send().copy_data("1"), Until::Nothing),
                (send().copy_data("").copy_data("2\n3"), Until::Nothing),
                ready(send().flush().copy_data("4\n").sync().copy_done()),
                q("SELECT * FROM a ORDER BY 1"),
            ],
        ),
        (
            "extended, Sync first",
            vec![
                tables(),
                (send().run("COPY a FROM STDIN", &[]).sync(), Until::Tag(b'G')),
                ready(send().copy_data("5\n").copy_done().sync()),
                q("SELECT * FROM a"),
            ],
        ),
        (
            "extended, given up, and what follows is skipped",
            vec![
                tables(),
                (
                    send()
                        .run("COPY a FROM STDIN", &[])
                        .copy_data("5\n")
                        .copy_fail("enough")
                        .run("SELECT 1", &[])
                        .sync()
                        .run("SELECT count(*) FROM a", &[])
                        .sync(),
                    Until::Ready(2),
                ),
            ],
        ),
        (
            "in the middle of a pipeline",
            vec![
                tables(),
                (
                    send()
                        .run("INSERT INTO a VALUES (1)", &[])
                        .run("COPY a FROM STDIN", &[])
                        .copy_data("2\n3\n")
                        .copy_done()
                        .run("SELECT count(*) FROM a", &[])
                        .sync()
                        .run("COPY a TO STDOUT", &[])
                        .run("SELECT 9", &[])
                        .sync(),
                    Until::Ready(2),
                ),
            ],
        ),
        (
            "in the middle of a pipeline, with bad data",
            vec![
                tables(),
                (
                    send()
                        .run("INSERT INTO a VALUES (1)", &[])
                        .run("COPY a FROM STDIN", &[])
                        .copy_data("2\nx\n")
                        .copy_done()
                        .run("SELECT count(*) FROM a", &[])
                        .sync()
                        .run("SELECT count(*) FROM a", &[])
                        .sync(),
                    Until::Ready(2),
                ),
            ],
        ),
        (
            "no right to, no table, no file",
            vec![
                q("COPY nowhere FROM STDIN"),
                q("COPY a FROM '/nowhere'"),
                q("COPY a FROM PROGRAM 'true'"),
                ready(send().run("COPY nowhere FROM STDIN", &[]).copy_data("1\n").copy_done().sync()),
                q("SELECT 1"),
            ],
        ),
    ]
}

fn pipelines() -> Conversations {
    let insert = "INSERT INTO a VALUES ($1)";
    vec![
        (
            "errors between Syncs",
            vec![
                q("TRUNCATE a"),
                (
                    send()
                        .run(insert, &[b"1"])
                        .sync()
                        .run(insert, &[b"2"])
                        .run("SELECT 1/0", &[])
                        .run(insert, &[b"3"])
                        .sync()
                        .sync()
                        .run(insert, &[b"x"])
                        .describe(b'S', "")
                        .sync()
                        .run(insert, &[b"4"])
                        .run("SELECT i FROM a ORDER BY i", &[])
                        .sync(),
                    Until::Ready(5),
                ),
            ],
        ),
        (
            "transactions inside a pipeline",
            vec![
                q("TRUNCATE a"),
                (
                    send()
                        .run("BEGIN", &[])
                        .run(insert, &[b"1"])
                        .run("COMMIT", &[])
                        .run(insert, &[b"2"])
                        .run("SELECT 1/0", &[])
                        .sync()
                        .run("SELECT i FROM a ORDER BY i", &[])
                        .sync(),
                    Until::Ready(2),
                ),
                (
                    send()
                        .run("BEGIN", &[])
                        .run("SAVEPOINT s", &[])
                        .sync()
                        .run("SELECT nonsense", &[])
                        .sync()
                        .run("SELECT 1", &[])
                        .sync()
                        .run("ROLLBACK TO s", &[])
                        .run("SELECT 2", &[])
                        .run("COMMIT", &[])
                        .sync(),
                    Until::Ready(4),
                ),
            ],
        ),
        (
            "Flush, and Sync much later",
            vec![
                (send().parse("f", "SELECT $1::int").describe(b'S', "f").flush(), Until::Tag(b'T')),
                (send().bind("", "f", &[b"5"]).execute("", 0).flush(), Until::Tag(b'C')),
                (send().bind("", "f", &[b"6"]).execute("", 0).flush(), Until::Tag(b'C')),
                (send().bind("", "f", &[b"x"]).execute("", 0).flush(), Until::Tag(b'E')),
                (send().bind("", "f", &[b"7"]).execute("", 0).flush(), Until::Nothing),
                ready(send().sync()),
                ready(send().bind("", "f", &[b"8"]).execute("", 0).sync()),
            ],
        ),
        (
            "portals with row limits, interleaved, over several batches",
            vec![
                q("BEGIN"),
                ready(
                    send()
                        .parse("", "SELECT generate_series(1, 5)")
                        .bind("p", "", &[])
                        .bind("r", "", &[])
                        .describe(b'P', "p")
                        .execute("p", 2)
                        .execute("r", 1)
                        .execute("p", 2)
                        .sync(),
                ),
                ready(send().execute("r", 3).execute("p", 2).sync()),
                q("SELECT name FROM pg_cursors ORDER BY name"),
                ready(send().execute("p", 1).execute("r", 0).sync()),
                ready(send().execute("r", 0).close(b'P', "r").close(b'P', "never").sync()),
                ready(send().execute("r", 0).sync()),
                q("ROLLBACK"),
            ],
        ),
        (
            "portals end with their transaction",
            vec![
                ready(
                    send()
                        .parse("", "SELECT generate_series(1, 5)")
                        .bind("p", "", &[])
                        .execute("p", 2)
                        .sync(),
                ),
                ready(send().execute("p", 2).sync()),
                ready(send().describe(b'P', "p").sync()),
                ready(send().close(b'P', "p").sync()),
                ready(send().execute("", 0).sync()),
            ],
        ),
        (
            "names of portals",
            vec![
                ready(send().parse("", "SELECT 1").bind("p", "", &[]).bind("p", "", &[]).sync()),
                q("BEGIN"),
                ready(send().parse("", "SELECT 1").bind("p", "", &[]).sync()),
                ready(send().bind("p", "", &[]).sync()),
                q("ROLLBACK"),
                q("BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 9)"),
                ready(send().describe(b'P', "c").execute("c", 2).sync()),
                q("FETCH 2 FROM c"),
                ready(send().close(b'P', "c").sync()),
                q("FETCH 2 FROM c"),
                q("ROLLBACK"),
            ],
        ),
        (
            "a statement that fails at Bind, at Execute, at Sync",
            vec![
                q("CREATE TEMP TABLE d (i int UNIQUE DEFERRABLE INITIALLY DEFERRED)"),
                ready(send().run("SELECT $1::int", &[b"x"]).sync()),
                ready(send().run("SELECT 1/$1::int", &[b"0"]).sync()),
                ready(send().run("INSERT INTO d VALUES (1), (1)", &[]).sync()),
                ready(send().run("INSERT INTO d VALUES (2)", &[]).sync()),
                q("DROP TABLE d"),
            ],
        ),
        (
            "parameters too few, too many, of the wrong form",
            vec![
                ready(send().run("SELECT $1::int, $2::int", &[b"1"]).sync()),
                ready(send().run("SELECT 1", &[b"1"]).sync()),
                ready(send().parse("", "SELECT 1").bind_in("", "", &[], 7).execute("", 0).sync()),
                ready(send().parse("", "SELECT 1").bind_in("", "", &[], 1).execute("", 0).sync()),
                ready(send().parse("", "SELECT 1, 2").raw(b'B', b"\0\0\0\0\0\0\0\x03\0\0\0\0\0\0").sync()),
                ready(send().parse("", "SELECT $1").raw(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0").sync()),
                ready(send().parse("", "SELECT $1").raw(b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0").sync()),
                ready(
                    send()
                        .parse("", "SELECT $1::text")
                        .raw(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xff\0\0")
                        .execute("", 0)
                        .sync(),
                ),
                q("SELECT 1"),
            ],
        ),
        (
            "two statements in one Parse, none, a comment",
            vec![
                ready(send().run("SELECT 1; SELECT 2", &[]).sync()),
                ready(send().run("", &[]).describe(b'S', "").sync()),
                ready(send().run("/* nothing */ ;", &[]).sync()),
                ready(
                    send()
                        .parse("", "")
                        .describe(b'S', "")
                        .bind("", "", &[])
                        .describe(b'P', "")
                        .execute("", 1)
                        .sync(),
                ),
            ],
        ),
        (
            "empty queries",
            vec![
                q(""),
                q(";"),
                q(" ; ; "),
                q("/* x */"),
                q("-- x"),
                q("SELECT 1;;SELECT 2;"),
                q("/* /* x */"),
            ],
        ),
        (
            "strings of statements and their implicit transaction",
            vec![
                q("TRUNCATE a"),
                q("INSERT INTO a VALUES (1); SELECT 1/0; INSERT INTO a VALUES (2)"),
                q("INSERT INTO a VALUES (3); BEGIN; INSERT INTO a VALUES (4)"),
                q("ROLLBACK"),
                q("SELECT count(*) FROM a"),
                q("INSERT INTO a VALUES (5); COMMIT; SELECT 1/0; INSERT INTO a VALUES (6)"),
                q("BEGIN; INSERT INTO a VALUES (7); COMMIT; INSERT INTO a VALUES (8); SELECT nonsense"),
                q("SELECT i FROM a ORDER BY i"),
                q("SAVEPOINT s; SELECT 1"),
                q("INSERT INTO a VALUES (9); ROLLBACK; SELECT i FROM a ORDER BY i"),
                q("BEGIN; BEGIN; COMMIT; COMMIT"),
                q("SELECT 1 x; VACUUM a"),
                q("SELECT 1; SELECT (; SELECT 2"),
            ],
        ),
        (
            "a query in the middle of a pipeline",
            vec![
                (send().run("SELECT 1", &[]).query("SELECT 2").run("SELECT 3", &[]).sync(), Until::Ready(2)),
                (send().parse("", "SELECT 4").query("SELECT 5").bind("", "", &[]).sync(), Until::Ready(2)),
                (send().run("SELECT 1/0", &[]).query("SELECT 5").sync(), Until::Ready(1)),
                q("SELECT 6"),
            ],
        ),
        (
            "notices and reports at any time",
            vec![
                q(
                    "DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two' USING HINT = 'h', DETAIL = 'd'; END $$",
                ),
                ready(
                    send().run("DO $$ BEGIN RAISE NOTICE 'three'; END $$", &[]).run("SELECT 1", &[]).sync(),
                ),
                q("DO $$ BEGIN RAISE NOTICE 'four'; RAISE EXCEPTION 'five' USING ERRCODE = 'P0099'; END $$"),
                q("SET client_min_messages = debug1"),
                q("SET client_min_messages = error"),
                q("DO $$ BEGIN RAISE NOTICE 'unheard'; END $$"),
                q("RESET client_min_messages"),
                q("SELECT set_config('TimeZone', 'Asia/Tokyo', false), 1"),
                q("SHOW TimeZone"),
                q("BEGIN; SET LOCAL TimeZone = 'Europe/Oslo'; SELECT 1"),
                q("COMMIT"),
                q("BEGIN; SET TimeZone = 'Europe/Rome'"),
                q("ROLLBACK"),
                q("SELECT zoned()"),
                q("SELECT sets_zone('America/Lima')"),
                q("SHOW TimeZone"),
                q(
                    "SET application_name = 'x'; SET TimeZone = 'UTC'; SET DateStyle = 'German'; SELECT '2020-01-02'::date",
                ),
                q("RESET ALL"),
            ],
        ),
        (
            "function calls",
            vec![
                // int4pl, in text and in binary.
                ready(function_call(177, &[b"2", b"3"], 0)),
                ready(function_call(177, &[b"\0\0\0\x02", b"\0\0\0\x03"], 1)),
                ready(function_call(177, &[b"2", b"x"], 0)),
                ready(function_call(177, &[b"2"], 0)),
                ready(function_call(4_000_000_000, &[], 0)),
                q("BEGIN"),
                ready(function_call(177, &[b"2", b"3"], 0)),
                // lo_create(-1 would differ), lo_unlink of none: fails the transaction.
                ready(function_call(964, &[b"1"], 0)),
                ready(function_call(177, &[b"2", b"3"], 0)),
                q("ROLLBACK"),
                // A large object as libpq makes it: lo_create, lo_open, lowrite, lo_lseek, loread, lo_close, lo_unlink.
                q("BEGIN"),
                ready(function_call(715, &[b"\0\x0f\x42\x40"], 1)),
                ready(function_call(952, &[b"\0\x0f\x42\x40", b"\0\x06\0\0"], 1)),
                ready(function_call(955, &[b"\0\0\0\0", b"hello"], 1)),
                ready(function_call(956, &[b"\0\0\0\0", b"\0\0\0\x01", b"\0\0\0\0"], 1)),
                ready(function_call(954, &[b"\0\0\0\0", b"\0\0\0\x09"], 1)),
                ready(function_call(953, &[b"\0\0\0\0"], 1)),
                ready(function_call(964, &[b"\0\x0f\x42\x40"], 1)),
                q("COMMIT"),
                (
                    send().run("SELECT 1", &[]).bytes(&function_call(177, &[b"2", b"3"], 0).0).sync(),
                    Until::Ready(2),
                ),
                q("SELECT 1"),
            ],
        ),
        (
            "two-phase commands",
            vec![
                q("TRUNCATE a"),
                q("BEGIN"),
                q("INSERT INTO a VALUES (1)"),
                q("PREPARE TRANSACTION 'xact one'"),
                q("SELECT count(*) FROM a"),
                q("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"),
                q("COMMIT PREPARED 'xact one'"),
                q("SELECT count(*) FROM a"),
                q("BEGIN; INSERT INTO a VALUES (2); PREPARE TRANSACTION 'xact two'"),
                ready(send().run("ROLLBACK PREPARED 'xact two'", &[]).sync()),
                q("COMMIT PREPARED 'xact two'"),
                q("PREPARE TRANSACTION 'no transaction'"),
                q("BEGIN; CREATE TEMP TABLE x (i int); PREPARE TRANSACTION 'xact temp'"),
                q("BEGIN; SELECT 1/0; PREPARE TRANSACTION 'xact failed'"),
                q("PREPARE TRANSACTION 'xact failed'"),
                q("SELECT count(*) FROM a"),
                ready(
                    send()
                        .run("BEGIN", &[])
                        .run("INSERT INTO a VALUES (3)", &[])
                        .run("PREPARE TRANSACTION 'xact 3'", &[])
                        .sync(),
                ),
                q("COMMIT PREPARED 'xact 3'; SELECT 1"),
                q("COMMIT PREPARED 'xact 3'"),
            ],
        ),
    ]
}

fn texts() -> Conversations {
    vec![
        (
            "client encodings",
            vec![
                q("SET client_encoding = 'LATIN1'"),
                q(b"SELECT '\xe4\xf6', length('\xe4\xf6'), '\\\xe4'"),
                ready(send().run(b"SELECT $1::text || '\xe4'", &[b"\xfc"]).sync()),
                q(b"SELECT '\xe4' AS \"\xf6\""),
                q("SELECT chr(8364)"),
                q(b"SELECT nonsense_\xe4"),
                q("SET client_encoding = 'SJIS'"),
                // Trail bytes that are a backslash, a quote would follow.
                q(b"SELECT '\x95\x5c', length('\x95\x5c'), E'\x95\x5c'"),
                q(b"SELECT '\x83\x5c'; SELECT 2"),
                ready(send().run(b"SELECT $1::text, '\x95\x5c'", &[b"\x95\x5c"]).sync()),
                q("SET client_encoding = 'EUC_JP'"),
                q(b"SELECT '\xa4\xa2', length('\xa4\xa2')"),
                q(b"SELECT '\xa4'"),
                q("SET client_encoding = 'GB18030'"),
                q(b"SELECT '\x81\x30\x81\x30' IS NOT NULL"),
                q("SET client_encoding = 'SQL_ASCII'"),
                q("SET client_encoding = 'nonsense'"),
                q("RESET client_encoding"),
                q("SELECT 'ä'"),
            ],
        ),
        (
            "invalid UTF-8",
            vec![
                q(b"SELECT '\xff'"),
                q(b"SELECT 1 /* \xc3 */"),
                q(b"\xff"),
                ready(send().run(b"SELECT '\xe4'", &[]).sync()),
                ready(send().run("SELECT $1::text", &[b"\xe4"]).sync()),
                ready(send().run("SELECT $1::text", &[b"a\0b"]).sync()),
                ready(send().run("SELECT $1::bytea", &[b"\\x00ff"]).sync()),
                q("SELECT 1"),
            ],
        ),
        (
            "NUL in texts",
            vec![
                ready(send().raw(b'Q', b"SELECT 1\0 SELECT 2\0")),
                ready(send().raw(b'P', b"n\0SELECT 1\0junk\0\0\0").sync()),
                q("SELECT 1"),
            ],
        ),
        (
            "lexical traps",
            vec![
                q(
                    "SELECT $$ ; $$, $a$ $$ ; $a$, 'it''s', E'\\'', \"current_user\"::text IS NOT NULL FROM (SELECT 1 \"current_user\") x",
                ),
                q("SET standard_conforming_strings = off"),
                q("SELECT 'a\\'; SELECT 2'"),
                q("SET standard_conforming_strings = on"),
                q("SELECT 'a\\'; SELECT 2"),
                q("SELECT U&'d\\0061t\\+000061', U&\"d\\0061\" FROM (SELECT 1 AS da) x"),
                q("SELECT 'unterminated"),
                q("SELECT \"unterminated"),
                q("SELECT $x$ unterminated"),
                q("/* unterminated"),
            ],
        ),
    ]
}

/// Bodies that are not what their message says: an ERROR, and the session goes on.
fn broken_bodies() -> Conversations {
    let after = || q("SELECT 'alive'");
    vec![
        ("Query without its end", vec![ready(send().raw(b'Q', b"abcd")), after()]),
        ("Query that is empty", vec![ready(send().raw(b'Q', b"")), after()]),
        ("Query with more behind", vec![ready(send().raw(b'Q', b"SELECT 1\0x")), after()]),
        (
            "Query broken in a transaction",
            vec![q("BEGIN"), ready(send().raw(b'Q', b"x")), after(), q("ROLLBACK"), after()],
        ),
        ("Parse without its end", vec![ready(send().raw(b'P', b"\0SELECT 1").sync()), after()]),
        (
            "Parse with fewer types than it says",
            vec![ready(send().raw(b'P', b"\0SELECT 1\0\0\x02\0\0\0\x17").sync()), after()],
        ),
        ("Parse with more behind", vec![ready(send().raw(b'P', b"\0SELECT 1\0\0\0x").sync()), after()]),
        (
            "Parse named, broken, then right",
            vec![
                ready(send().raw(b'P', b"n\0SELECT 1\0\0\x09").sync()),
                ready(send().parse("n", "SELECT 2").bind("", "n", &[]).execute("", 0).sync()),
            ],
        ),
        ("Bind without its end", vec![ready(send().parse("", "SELECT 1").raw(b'B', b"\0").sync()), after()]),
        (
            "Bind with more behind",
            vec![ready(send().parse("", "SELECT 1").raw(b'B', b"\0\0\0\0\0\0\0\0xyz").sync()), after()],
        ),
        ("Bind that is empty", vec![ready(send().raw(b'B', b"").run("SELECT 1", &[]).sync()), after()]),
        (
            "Bind of a named statement, cut",
            vec![
                ready(send().parse("m", "SELECT $1::int").raw(b'B', b"\0m\0\0\0\0\x01\0\0").sync()),
                ready(send().bind("", "m", &[b"1"]).execute("", 0).sync()),
            ],
        ),
        ("Describe of nothing known", vec![ready(send().raw(b'D', b"X\0").sync()), after()]),
        (
            "Describe without a name",
            vec![ready(send().raw(b'D', b"S").sync()), ready(send().raw(b'D', b"").sync()), after()],
        ),
        (
            "Close of nothing known",
            vec![ready(send().raw(b'C', b"X\0").sync()), ready(send().raw(b'C', b"P").sync()), after()],
        ),
        (
            "Execute cut",
            vec![ready(send().raw(b'E', b"\0\0").sync()), ready(send().raw(b'E', b"").sync()), after()],
        ),
        (
            "Execute of fewer than no rows",
            vec![
                ready(
                    send().parse("", "SELECT generate_series(1,3)").bind("", "", &[]).execute("", -1).sync(),
                ),
                after(),
            ],
        ),
        ("Sync with a body", vec![ready(send().run("SELECT 1", &[]).raw(b'S', b"x")), after()]),
        ("Flush with a body", vec![ready(send().run("SELECT 1", &[]).raw(b'H', b"x").sync()), after()]),
        ("FunctionCall cut", vec![ready(send().raw(b'F', b"\0\0")), ready(send().raw(b'F', b"")), after()]),
        (
            "several broken in one pipeline",
            vec![
                (
                    send()
                        .raw(b'P', b"x")
                        .raw(b'B', b"y")
                        .sync()
                        .raw(b'D', b"")
                        .sync()
                        .run("SELECT 1", &[])
                        .sync(),
                    Until::Ready(3),
                ),
                after(),
            ],
        ),
        (
            "broken in a transaction",
            vec![
                q("BEGIN"),
                ready(send().run("SELECT 1", &[]).raw(b'D', b"X\0").sync()),
                after(),
                q("ROLLBACK"),
                after(),
            ],
        ),
        (
            "CopyData and others where there is no COPY",
            vec![
                ready(send().copy_data("x").copy_done().copy_fail("y").query("SELECT 1")),
                (send().run("SELECT 1", &[]).copy_data("x").run("SELECT 2", &[]).sync(), Until::Ready(1)),
            ],
        ),
        ("a password out of turn", vec![(send().raw(b'p', b"secret\0"), Until::Closed)]),
        ("an unknown kind of message", vec![(send().raw(b'y', b""), Until::Closed)]),
        (
            "an unknown kind in a pipeline",
            vec![(send().run("SELECT 1", &[]).raw(0, b"").sync(), Until::Closed)],
        ),
        ("Terminate in the middle", vec![(send().run("SELECT 1", &[]).raw(b'X', b""), Until::Closed)]),
        ("Terminate with a body", vec![(send().raw(b'X', b"bye"), Until::Closed)]),
    ]
}

#[test]
fn postgresqls_answers() {
    let database = support::database();
    database.on(
        0,
        "CREATE TABLE a (i int); CREATE TABLE b (i int);
         CREATE FUNCTION zoned() RETURNS text LANGUAGE sql SET TimeZone = 'Asia/Tokyo' AS $$ SELECT current_setting('TimeZone') $$;
         CREATE FUNCTION sets_zone(z text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('SET TimeZone = %L', z); RETURN z; END $$",
    );
    support::cluster().wait_caught_up(0).unwrap();
    let mut failures = Vec::new();
    for yaml in [
        "pool: {size: 1}\n",
        "pool: {size: 1, debug_check: true}\nrouting: {reads: primary}\n",
        "pool: {size: 3, debug_rotate: true, debug_check: true}\n",
        "pool: {size: 2, mode: session}\n",
    ] {
        let pgweir = Pgweir::start(&format!("{yaml}{}", database.yaml()));
        let only = std::env::var("PGWEIR_CONVERSATION").unwrap_or_default();
        for (name, turns) in [copy(), pipelines(), texts(), broken_bodies()].concat() {
            if !name.contains(&only) {
                continue;
            }
            let compare = || {
                same(name, &database.name, support::cluster().port(0), pgweir.port, &turns);
            };
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(compare)).is_err() {
                failures.push(format!("{name}, with {yaml}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.concat());
}

/// After an error the server skips everything up to the Sync, a Query too. It was given back when the Query was
/// the end of the batch, and ignored what the next client asked.
#[test]
fn a_server_that_skips_is_not_given_to_others() {
    let database = support::database();
    let pgweir =
        Pgweir::start(&format!("pool: {{size: 1}}\nrouting: {{reads: primary}}\n{}", database.yaml()));
    let mut first = RawClient::login(pgweir.port, &database.name);
    let mut second = RawClient::login(pgweir.port, &database.name);
    for broken in [send().run("SELECT 1/0", &[]).query("SELECT 5"), send().run("SELECT 1/0", &[]).flush()] {
        first.send(&broken.0);
        assert_eq!(sqlstate(&read(&mut first, Until::Tag(b'E'))).as_deref(), Some("22012"));
        second.send(&send().query("SELECT 6").0);
        std::thread::sleep(std::time::Duration::from_millis(100));
        first.send(&send().query("SELECT 'skipped'").sync().0);
        assert_eq!(read(&mut first, Until::Ready(1)).len(), 1);
        assert_eq!(rows(&read(&mut second, Until::Ready(1))), ["6"]);
    }
    // Gone in the middle of it: the connection is closed.
    first.send(&send().run("SELECT 1/0", &[]).query("SELECT 5").0);
    read(&mut first, Until::Tag(b'E'));
    drop(first);
    assert_eq!(ask(&mut second, "SELECT 7"), ["7"]);
}
