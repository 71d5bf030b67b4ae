//! Statements whose rows are divided over shards, as tables of cases: the text that each shard gets of an
//! INSERT, and how the data of a COPY is read. And the data of COPY itself, in pieces of every size.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use pgweir::shard::{
    CopyError, CopyFormat, CopyOptions, CopyProblem, CopySession, CopyTarget, CopyTo, KeyColumn, KeyType,
    KeyValue, RowSplitter, ShardFunction, ShardedSchema, ShardedTables, TablePattern,
};
use pgweir::sql::{CopyFrom, LexOptions, ParameterValue, Parameters, Refusal, Split, copy_from, key_plan};

/// Tenants 0, 1, 2 on the shards of their number.
fn schema() -> ShardedSchema {
    let tables = |name: &str| vec![TablePattern::parse(name).unwrap()];
    let value = |n: u32| (KeyValue::from_text(KeyType::Int8, &n.to_string()).unwrap(), n);
    ShardedSchema {
        sharded: vec![ShardedTables {
            tables: tables("event"),
            key: vec![KeyColumn { name: "tenant_id".to_owned(), key_type: KeyType::Int8 }],
            function: ShardFunction::List { values: (0..3).map(value).collect(), otherwise: None },
        }],
        everywhere: tables("country"),
    }
}

/// Types, but no values.
struct Types(Vec<u32>);

impl Parameters for Types {
    fn declared(&self, number: u32) -> u32 {
        self.0.get(number as usize - 1).copied().unwrap_or(0)
    }
    fn value(&self, _: u32) -> Option<ParameterValue<'_>> {
        None
    }
    fn is_utf8(&self) -> bool {
        true
    }
}

/// Blocks of lines: the statement behind `> `, and the other lines.
fn blocks(path: &str) -> Vec<(String, Vec<String>)> {
    let text = fs::read_to_string(path).unwrap();
    let mut blocks: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("> ") {
            Some(sql) => blocks.push((sql.to_owned(), Vec::new())),
            None => blocks.last_mut().unwrap().1.push(line.to_owned()),
        }
    }
    blocks
}

fn refused(refusal: &Refusal) -> Vec<String> {
    assert!(refusal.hint().ends_with('.'), "{refusal:?}");
    vec![format!("refused {refusal}")]
}

fn shown(answer: Result<Option<Split>, Refusal>) -> Vec<String> {
    let split = match answer {
        Err(refusal) => return refused(&refusal),
        Ok(None) => return vec!["whole".to_owned()],
        Ok(Some(split)) => split,
    };
    let mut lines = Vec::new();
    for part in &split.parts {
        let numbers: Vec<String> = part.parameters.iter().map(ToString::to_string).collect();
        let sql = String::from_utf8(part.sql.clone()).unwrap();
        lines.push(format!("{} [{}] {sql}", part.shard, numbers.join(",")));
    }
    let mut order = "order".to_owned();
    for place in &split.order {
        write!(order, " {}.{}", place.part, place.row).unwrap();
    }
    lines.push(order);
    let counts: usize = split.parts.iter().map(|part| part.rows).sum();
    assert_eq!(counts, split.order.len());
    lines
}

/// As they are written, or for what is refused as the message begins.
fn agree(got: &[String], want: &[String]) -> bool {
    match (got, want) {
        ([got], [want]) if want.starts_with("refused ") => got.starts_with(want.as_str()),
        _ => got == want,
    }
}

#[test]
fn every_shard_gets_its_rows_of_an_insert() {
    let (schema, lex) = (schema(), LexOptions::default());
    let mut wrong = String::new();
    for (sql, mut want) in blocks("tests/sharding/splits.txt") {
        let mut types = Types(Vec::new());
        if let Some(list) = want.first().and_then(|line| line.strip_prefix("types ")) {
            types.0 = list.split(' ').map(|oid| oid.parse().unwrap()).collect();
            want.remove(0);
        }
        let plan = key_plan(sql.as_bytes(), lex, &schema);
        let got = shown(plan.split(sql.as_bytes(), lex, &schema, &types));
        if !agree(&got, &want) {
            writeln!(wrong, "{sql}\n    {}", got.join("\n    ")).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Arrays that are bound, with their types.
struct Arrays(Vec<(u32, bool, Vec<u8>)>);

impl Parameters for Arrays {
    fn declared(&self, number: u32) -> u32 {
        self.0.get(number as usize - 1).map_or(0, |array| array.0)
    }
    fn value(&self, number: u32) -> Option<ParameterValue<'_>> {
        let (_, is_binary, bytes) = self.0.get(number as usize - 1)?;
        Some(if *is_binary { ParameterValue::Binary(bytes) } else { ParameterValue::Text(bytes) })
    }
    fn is_utf8(&self) -> bool {
        true
    }
}

#[test]
fn arrays_that_are_bound_are_divided() {
    let (schema, lex) = (schema(), LexOptions::default());
    let binary = |oid: u32, elements: &[Option<&[u8]>]| {
        let mut bytes = Vec::new();
        for word in [1, 1, oid, elements.len() as u32, 1] {
            bytes.extend(word.to_be_bytes());
        }
        for element in elements {
            bytes.extend(element.map_or(u32::MAX, |element| element.len() as u32).to_be_bytes());
            bytes.extend_from_slice(element.unwrap_or_default());
        }
        bytes
    };
    let keys: Vec<[u8; 8]> = [2_i64, 0, 2].iter().map(|key| key.to_be_bytes()).collect();
    let keys: Vec<Option<&[u8]>> = keys.iter().map(|key| Some(&key[..])).collect();
    let sql = b"INSERT INTO event (name, tenant_id) SELECT * FROM UNNEST(($2)::text[], ($1)::bigint[]) RETURNING id";
    let plan = key_plan(sql, lex, &schema);
    let of = |keys: (u32, bool, Vec<u8>), names: (u32, bool, Vec<u8>)| {
        plan.split(sql, lex, &schema, &Arrays(vec![keys, names]))
    };
    let text =
        "INSERT INTO event (name, tenant_id) SELECT * FROM UNNEST(($1)::text[], ($2)::bigint[]) RETURNING id";
    let check = |split: &Split, expected: [[Vec<u8>; 2]; 2]| {
        let order: Vec<_> = split.order.iter().map(|place| (place.part, place.row)).collect();
        assert_eq!(order, [(1, 0), (0, 0), (1, 1)]);
        for (part, [keys, names]) in split.parts.iter().zip(expected) {
            assert_eq!(String::from_utf8_lossy(&part.sql), text);
            assert_eq!(part.parameters, [2, 1]);
            assert_eq!(part.replaced, [(2, names), (1, keys)]);
        }
        assert!(split.returning && split.parameters == 2);
    };
    let whole = (1016, false, b"{2,0,2}".to_vec());
    let names = (1009, false, br#"{"x,y",NULL,"\\"}"#.to_vec());
    check(
        &of(whole.clone(), names.clone()).unwrap().unwrap(),
        [[b"{0}".to_vec(), b"{NULL}".to_vec()], [b"{2,2}".to_vec(), br#"{"x,y","\\"}"#.to_vec()]],
    );
    let both = binary(25, &[Some(b"x"), None, Some(b"")]);
    check(
        &of((1016, true, binary(20, &keys)), (1009, true, both)).unwrap().unwrap(),
        [
            [binary(20, &keys[1..2]), binary(25, &[None])],
            [binary(20, &[keys[0], keys[2]]), binary(25, &[Some(b"x"), Some(b"")])],
        ],
    );
    // What is not plain.
    for names in ["{a,b}", "{{a},{b},{c}}", "[0:2]={a,b,c}", "{a,b,\"c}", "NULL"] {
        let refused = of(whole.clone(), (1009, false, names.into()));
        assert!(matches!(refused, Err(Refusal::Value { .. })), "{names}: {refused:?}");
    }
    assert!(of(whole.clone(), (1020, false, b"{1,2,3}".to_vec())).is_err(), "boxes");
    let mut torn = binary(25, &[Some(b"x"), None, Some(b"")]);
    torn.pop();
    assert!(of(whole, (1009, true, torn)).is_err());
    // One that is used twice would have to be two.
    let twice = b"INSERT INTO event (id, tenant_id) SELECT * FROM UNNEST(($1)::bigint[], ($1)::bigint[])";
    let plan = key_plan(twice, lex, &schema);
    assert!(plan.split(twice, lex, &schema, &Arrays(vec![(1016, false, b"{2,0}".to_vec())])).is_err());
}

/// A plan divides every text of its fingerprint, longer ones too.
#[test]
fn a_plan_divides_every_text_of_its_fingerprint() {
    let (schema, lex) = (schema(), LexOptions::default());
    let plan = key_plan(b"INSERT INTO event (id, tenant_id) VALUES (1, 0)", lex, &schema);
    let rows: Vec<String> = (0..10_000).map(|n| format!("({n}, {})", n % 3)).collect();
    let sql = format!("INSERT INTO event (id, tenant_id) VALUES {}", rows.join(", "));
    let split = plan.split(sql.as_bytes(), lex, &schema, &Types(Vec::new())).unwrap().unwrap();
    for (n, place) in split.order.iter().enumerate() {
        assert_eq!((place.part, place.row), (n % 3, n / 3));
    }
    for (n, part) in split.parts.iter().enumerate() {
        let mine: Vec<String> = rows.iter().skip(n).step_by(3).cloned().collect();
        let sql = format!("INSERT INTO event (id, tenant_id) VALUES {}", mine.join(", "));
        assert_eq!(String::from_utf8(part.sql.clone()).unwrap(), sql);
    }
}

/// Thousands of rows that no normalizer makes one.
#[test]
fn rows_that_are_no_constants_are_no_limit() {
    let (schema, lex) = (schema(), LexOptions::default());
    let row = |n: u32| match n % 5 {
        0 => format!("({n}, now(), {})", n % 3),
        1 => format!("('{n}'::text::int, now() - interval '1 day' * {n}, {})", n % 3),
        2 => format!("(DEFAULT, NOW(), {})", n % 3),
        _ => format!("(coalesce($1, -{n}), NULL, '{}'::bigint)", n % 3),
    };
    let rows: Vec<String> = (0..5_000).map(row).collect();
    let sql = format!("INSERT INTO event (id, at, tenant_id) VALUES {} RETURNING id", rows.join(", "));
    let plan = key_plan(sql.as_bytes(), lex, &schema);
    let split = plan.split(sql.as_bytes(), lex, &schema, &Types(vec![20])).unwrap().unwrap();
    assert_eq!(split.order.len(), rows.len());
    let texts = split.parts.iter().map(|part| String::from_utf8(part.sql.clone()).unwrap());
    for (n, text) in texts.enumerate() {
        let mine: Vec<String> = rows.iter().skip(n).step_by(3).cloned().collect();
        assert!(text.ends_with(&format!("VALUES {} RETURNING id", mine.join(", "))));
    }
    // A query in one of them is seen, however many are like it.
    let query = |table: &str| format!("((SELECT max(id) FROM {table} WHERE tenant_id = 1), now(), 1)");
    let refused = |last: &str| {
        let sql = format!(
            "INSERT INTO event (id, at, tenant_id) VALUES {}, {}, {last}",
            query("event"),
            query("country")
        );
        key_plan(sql.as_bytes(), lex, &schema).refusal().cloned()
    };
    assert_eq!(refused(&query("event")), None);
    assert_eq!(refused(&query("other")), Some(Refusal::Undeclared("other".to_owned())));
    assert!(matches!(refused("((SELECT max(id) FROM event), now(), 1)"), Some(Refusal::NoKey { .. })));
}

fn reading(target: &CopyTarget) -> String {
    let options = &target.options;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let byte = |byte: u8| text(&[byte]);
    let mut line = format!(
        "{:?} delimiter={:?} null={:?}",
        options.format,
        byte(options.delimiter),
        text(&options.null)
    );
    if let Some(default) = &options.default {
        write!(line, " default={:?}", text(default)).unwrap();
    }
    if options.format == CopyFormat::Csv {
        write!(line, " quote={:?} escape={:?}", byte(options.quote), byte(options.escape)).unwrap();
    }
    if options.header {
        line.push_str(" header");
    }
    if let Some(encoding) = options.encoding {
        write!(line, " encoding={encoding:?}").unwrap();
    }
    let [key] = target.key.as_slice() else { panic!("{target:?}") };
    write!(line, " key={}", key.index).unwrap();
    for (is, word) in [(key.force_not_null, " force_not_null"), (key.force_null, " force_null")] {
        line.push_str(if is { word } else { "" });
    }
    assert_eq!(target.columns, 2);
    line
}

#[test]
fn a_copy_says_how_its_rows_are_read() {
    let mut wrong = String::new();
    for (sql, want) in blocks("tests/sharding/copies.txt") {
        let got = match copy_from(sql.as_bytes(), LexOptions::default(), &schema()) {
            Ok(None) => vec!["none".to_owned()],
            Ok(Some(CopyFrom::Everywhere { .. })) => vec!["everywhere".to_owned()],
            Ok(Some(CopyFrom::Sharded(target))) => vec![reading(&target)],
            Ok(Some(CopyFrom::Unlisted(unlisted))) => {
                let columns = ["\"a\"".to_owned(), "\"b\"".to_owned()];
                vec![String::from_utf8(unlisted.listed(sql.as_bytes(), &columns)).unwrap()]
            }
            Err(refusal) => refused(&refusal),
        };
        if !agree(&got, &want) {
            writeln!(wrong, "{sql}\n    {}", got.join("\n    ")).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    let sjis = LexOptions { backslash_trail_bytes: true, ..LexOptions::default() };
    let copy = copy_from(b"COPY event (tenant_id) FROM STDIN", sjis, &schema());
    assert!(matches!(copy, Err(Refusal::Construct(_))), "{copy:?}");
}

/// What each shard gets of some data, given in pieces of `size` bytes.
fn cut(
    sql: &str,
    data: &[u8],
    size: usize,
    change: impl Fn(&mut CopySession),
) -> Result<BTreeMap<u32, Vec<u8>>, CopyError> {
    let copy = copy_from(sql.as_bytes(), LexOptions::default(), &schema()).unwrap();
    let Some(CopyFrom::Sharded(target)) = copy else { panic!("{sql}") };
    let mut session = CopySession { is_utf8: true, csv_ends_at_marker: true, row_bytes_max: 1 << 20 };
    change(&mut session);
    let mut out: BTreeMap<u32, Vec<u8>> = (0..3).map(|n| (n, Vec::new())).collect();
    let mut sink = |to: CopyTo, bytes: &[u8]| match to {
        CopyTo::Shard(shard) => out.get_mut(&shard).unwrap().extend_from_slice(bytes),
        CopyTo::All => out.values_mut().for_each(|all| all.extend_from_slice(bytes)),
    };
    let mut splitter = RowSplitter::new(target, session);
    for piece in data.chunks(size) {
        splitter.push(piece, &mut sink)?;
    }
    splitter.finish(&mut sink)?;
    Ok(out)
}

#[test]
fn rows_go_out_as_they_came() {
    for (sql, data, want) in [
        (
            "COPY event (id, tenant_id) FROM STDIN",
            "a\\\nb\t0\n\\x41\t1\nc\\tc\t0\n\\N\t\\x32\n\t1\n\\.\nnot read",
            ["a\\\nb\t0\nc\\tc\t0\n", "\\x41\t1\n\t1\n", "\\N\t\\x32\n"],
        ),
        (
            "COPY event (tenant_id, id) FROM STDIN WITH (HEADER)",
            "tenant\tid\r\n2\tx\r\n 1 \t\r\n2\ty",
            ["tenant\tid\r\n", "tenant\tid\r\n 1 \t\r\n", "tenant\tid\r\n2\tx\r\n2\ty"],
        ),
        (
            "COPY event (id, tenant_id) FROM STDIN CSV HEADER",
            "id,\"tenant\nid\"\n\"a\n,\"\"\",0\n\"\",\"1\"\n\\.,2\n",
            [
                "id,\"tenant\nid\"\n\"a\n,\"\"\",0\n",
                "id,\"tenant\nid\"\n\"\",\"1\"\n",
                "id,\"tenant\nid\"\n\\.,2\n",
            ],
        ),
    ] {
        for size in 1..=data.len() {
            let got =
                cut(sql, data.as_bytes(), size, |_| {}).unwrap_or_else(|error| panic!("{sql}: {error}"));
            let got: Vec<_> = got.values().map(|bytes| String::from_utf8(bytes.clone()).unwrap()).collect();
            assert_eq!(got, want, "{sql} in pieces of {size}");
        }
    }
}

#[test]
fn binary_rows_go_out_as_they_came() {
    let sql = "COPY event (id, tenant_id) FROM STDIN BINARY";
    let header = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\x03ext".to_vec();
    let row = |tenant: i64, payload: &[u8]| {
        let mut row = 2i16.to_be_bytes().to_vec();
        row.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        row.extend(payload);
        row.extend(8u32.to_be_bytes());
        row.extend(tenant.to_be_bytes());
        row
    };
    let (a, b, c) = (row(0, b"abc"), row(2, b""), row(0, b"PGCOPY\n"));
    let trailer = (-1i16).to_be_bytes().to_vec();
    let data = [header.clone(), a.clone(), b.clone(), c.clone(), trailer.clone()].concat();
    for size in 1..=data.len() {
        let got = cut(sql, &data, size, |_| {}).unwrap();
        assert_eq!(got[&0], [&*header, &a, &c, &trailer].concat());
        assert_eq!(got[&1], [&*header, &trailer].concat());
        assert_eq!(got[&2], [&*header, &b, &trailer].concat());
    }
    let message = |data: &[u8]| cut(sql, data, 7, |_| {}).map_err(|error| error.to_string());
    assert_eq!(message(&data[..data.len() - 2]).unwrap()[&1], header, "the trailer may be missing");
    assert_eq!(message(&data[..data.len() - 1]).unwrap()[&1], header, "as PostgreSQL has it");
    for (data, want) in [
        (b"PGCOPX\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec(), "COPY file signature not recognized"),
        (b"PGC".to_vec(), "COPY file signature not recognized"),
        (data[..data.len() - 3].to_vec(), "unexpected EOF in COPY data"),
        ([&*data, b"x"].concat(), "received copy data after EOF marker"),
        ([&*header, &3i16.to_be_bytes()].concat(), "row field count is 3, expected 2"),
        ([&*header, b"\0\x02\xff\xff\xff\xfe"].concat(), "invalid field size"),
        (
            [&*header, b"\0\x02\x7f\xff\xff\xffx"].concat(),
            "a row of COPY into a sharded table is longer than 1048576 bytes",
        ),
        (b"PGCOPY\n\xff\r\n\0\0\x01\0\0\0\0\0\0".to_vec(), "invalid COPY file header (WITH OIDS)"),
        (b"PGCOPY\n\xff\r\n\0\0\x02\0\0\0\0\0\0".to_vec(), "unrecognized critical flags in COPY file header"),
    ] {
        assert_eq!(message(&data), Err(want.to_owned()));
    }
}

#[test]
fn what_is_not_certain_is_an_error_with_its_place() {
    let text = "COPY event (id, tenant_id) FROM STDIN";
    let csv = "COPY event (id, tenant_id) FROM STDIN CSV";
    for (sql, data, want, context) in [
        (
            text,
            "a\t1\nb\n",
            "22P04 missing data for column \"tenant_id\"",
            "COPY event, line 2, column tenant_id",
        ),
        (text, "a\t1\nb\tx\n", "0A000 the value of the sharding key", "COPY event, line 2, column tenant_id"),
        (text, "a\t1\nb\t5\n", "0A000 no shard has this value", "COPY event, line 2, column tenant_id"),
        (text, "a\t\\N\n", "0A000 no shard has this value", "COPY event, line 1, column tenant_id"),
        (text, "a\t1\\0\n", "0A000 the value", "COPY event, line 1, column tenant_id"),
        (text, "a\t1\nb\r\n", "22P04 literal carriage return found in data", "COPY event, line 2"),
        (text, "a\t1\n\\.x\n", "22P04 end-of-copy marker corrupt", "COPY event, line 2"),
        (text, "a\t1\n\\.", "22P04 end-of-copy marker corrupt", "COPY event, line 2"),
        // As PostgreSQL counts: what newlines are is not known within the first line.
        (csv, "\"a\nb\",1\n\"c,1\n", "22P04 unterminated CSV quoted field", "COPY event, line 3"),
        (csv, "a,\"\"\n", "0A000 the value", "COPY event, line 1, column tenant_id"),
    ] {
        for size in [1, 3, 100] {
            let error = cut(sql, data.as_bytes(), size, |_| {}).unwrap_err();
            let got = format!("{} {error}", error.sqlstate());
            assert!(got.starts_with(want), "{data:?}: {got}");
            assert_eq!(error.context(), context, "{data:?}");
            assert!(error.hint().is_none_or(|hint| hint.ends_with('.')));
        }
    }
    // From PostgreSQL 18 on, `\.` is data in CSV.
    let data = b"a,1\n\\.\nb,2\n";
    assert_eq!(cut(csv, data, 2, |_| {}).unwrap()[&2], b"");
    let error = cut(csv, data, 2, |session| session.csv_ends_at_marker = false).unwrap_err();
    assert_eq!(error.problem, CopyProblem::MissingColumn("tenant_id".to_owned()));
}

#[test]
fn a_row_is_bounded() {
    let sql = "COPY event (id, tenant_id) FROM STDIN";
    for size in [1, 10, 1000] {
        let data = format!("{}\t1\n", "x".repeat(100));
        let small = |session: &mut CopySession| session.row_bytes_max = 102;
        let error = cut(sql, data.as_bytes(), size, small).unwrap_err();
        assert_eq!((error.problem.clone(), error.sqlstate()), (CopyProblem::RowTooLong(102), "54000"));
        let enough = |session: &mut CopySession| session.row_bytes_max = 103;
        assert_eq!(cut(sql, data.as_bytes(), size, enough).unwrap()[&1], data.as_bytes());
    }
    // A row that comes byte by byte costs no more than one that comes at once.
    let data = format!("{}\t1\n", "x".repeat(1_000_000));
    assert_eq!(cut(sql, data.as_bytes(), 1, |_| {}).unwrap()[&1], data.as_bytes());
}

/// Texts are known in UTF-8 only.
#[test]
fn texts_of_other_encodings_are_not_guessed() {
    let target = |encoding: &str| {
        let mut schema = schema();
        schema.sharded[0].key[0].key_type = KeyType::Text;
        schema.sharded[0].function = ShardFunction::Hash { shards: 3 };
        let sql = format!("COPY event (tenant_id) FROM STDIN (DELIMITER '|'{encoding})");
        match copy_from(sql.as_bytes(), LexOptions::default(), &schema) {
            Ok(Some(CopyFrom::Sharded(target))) => target,
            other => panic!("{other:?}"),
        }
    };
    let ask = |encoding: &str, is_utf8, data: &[u8]| {
        let session = CopySession { is_utf8, csv_ends_at_marker: true, row_bytes_max: 100 };
        RowSplitter::new(target(encoding), session).push(data, &mut |_, _| {}).is_ok()
    };
    assert!(ask("", true, "é\n".as_bytes()) && ask(", ENCODING 'UTF8'", true, "é\n".as_bytes()));
    assert!(!ask("", false, "é\n".as_bytes()) && ask("", false, b"e\n"));
    assert!(!ask(", ENCODING 'latin1'", true, "é\n".as_bytes()) && ask(", ENCODING 'latin1'", true, b"e\n"));
    assert!(!ask("", true, b"\\xe9\n"), "no UTF-8");
    assert!(ask("", true, b"\\xc3\\xa9\n"));
}

proptest::proptest! {
    /// Any bytes in any pieces are cut alike, or refused alike, and nothing panics.
    #[test]
    fn pieces_do_not_matter(
        bytes in proptest::collection::vec(proptest::sample::select(b"01\t,\\\"'\n\r.Nx\0\xff".to_vec()), 0..80),
        size in 1usize..10,
        format in 0usize..4,
    ) {
        let sql = [
            "COPY event (tenant_id, id) FROM STDIN",
            "COPY event (id, tenant_id) FROM STDIN CSV",
            "COPY event (tenant_id) FROM STDIN CSV HEADER QUOTE '''' ESCAPE '\\'",
            "COPY event (tenant_id) FROM STDIN BINARY",
        ][format];
        let whole = cut(sql, &bytes, 1000, |_| {});
        let pieces = cut(sql, &bytes, size, |_| {});
        proptest::prop_assert_eq!(whole, pieces);
        let options = CopyOptions::of(CopyFormat::Csv);
        proptest::prop_assert_eq!(options.quote, options.escape);
    }

    /// Any text has an answer.
    #[test]
    fn any_copy_has_an_answer(words in proptest::collection::vec(0usize..40, 0..20)) {
        let pieces = [
            "COPY ", "event ", "(", ")", "tenant_id", ",", " FROM ", "STDIN ", "WITH ", "FORMAT ", "csv", "'x'",
            "E'\\", "'", "NULL ", "FORCE ", "NOT ", "*", "HEADER ", "WHERE ", ";", "\"", "DELIMITER ", "AS ", "1",
            "ENCODING ", "'utf8'", "QUOTE ", "match", "$$", "--", "\n", "/*", "*/", "ON_ERROR ", "stop", "binary ",
            "USING ", "DELIMITERS ", "id",
        ];
        let sql = words.iter().fold("COPY event (tenant_id) FROM STDIN ".to_owned(), |sql, at| sql + pieces[*at]);
        let _ = copy_from(sql.as_bytes(), LexOptions::default(), &schema());
        let (sql, lex) = (format!("INSERT INTO event (id, tenant_id) VALUES (1, 0), (1, {sql}"), LexOptions::default());
        let _ = key_plan(sql.as_bytes(), lex, &schema()).split(sql.as_bytes(), lex, &schema(), &Types(vec![]));
    }
}
