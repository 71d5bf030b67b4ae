//! Conversations at the level of messages: built by hand, and made comparable.

use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use pgweir::protocol::{ErrorFields, Reader, startup};

use super::wire::{Message, RawClient};

/// Messages to be sent in one write.
#[derive(Clone, Default)]
pub struct Send(pub BytesMut);

/// Starts a list of messages.
pub fn send() -> Send {
    Send::default()
}

impl Send {
    /// Any message.
    pub fn raw(mut self, tag: u8, body: &[u8]) -> Self {
        self.0.put_u8(tag);
        self.0.put_u32(u32::try_from(body.len() + 4).unwrap());
        self.0.put_slice(body);
        self
    }

    fn built(self, tag: u8, build: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut body = Vec::new();
        build(&mut body);
        self.raw(tag, &body)
    }

    /// Bytes as they are.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.put_slice(bytes);
        self
    }

    pub fn query(self, sql: impl AsRef<[u8]>) -> Self {
        self.built(b'Q', |b| text(b, sql.as_ref()))
    }

    pub fn parse(self, name: &str, sql: impl AsRef<[u8]>) -> Self {
        self.built(b'P', |b| {
            text(b, name.as_bytes());
            text(b, sql.as_ref());
            b.put_i16(0);
        })
    }

    /// Text parameters, text results.
    pub fn bind(self, portal: &str, statement: &str, values: &[&[u8]]) -> Self {
        self.bind_in(portal, statement, values, 0)
    }

    /// Text parameters, results in a format.
    pub fn bind_in(self, portal: &str, statement: &str, values: &[&[u8]], format: i16) -> Self {
        self.built(b'B', |b| {
            text(b, portal.as_bytes());
            text(b, statement.as_bytes());
            b.put_i16(0);
            b.put_i16(i16::try_from(values.len()).unwrap());
            for value in values {
                b.put_i32(i32::try_from(value.len()).unwrap());
                b.put_slice(value);
            }
            b.put_i16(1);
            b.put_i16(format);
        })
    }

    pub fn describe(self, kind: u8, name: &str) -> Self {
        self.built(b'D', |b| {
            b.put_u8(kind);
            text(b, name.as_bytes());
        })
    }

    pub fn execute(self, portal: &str, rows: i32) -> Self {
        self.built(b'E', |b| {
            text(b, portal.as_bytes());
            b.put_i32(rows);
        })
    }

    pub fn close(self, kind: u8, name: &str) -> Self {
        self.built(b'C', |b| {
            b.put_u8(kind);
            text(b, name.as_bytes());
        })
    }

    /// Parse, Bind and Execute of the unnamed statement and portal.
    pub fn run(self, sql: impl AsRef<[u8]>, values: &[&[u8]]) -> Self {
        self.parse("", sql).bind("", "", values).execute("", 0)
    }

    pub fn sync(self) -> Self {
        self.raw(b'S', b"")
    }

    pub fn flush(self) -> Self {
        self.raw(b'H', b"")
    }

    pub fn copy_data(self, data: impl AsRef<[u8]>) -> Self {
        self.raw(b'd', data.as_ref())
    }

    pub fn copy_done(self) -> Self {
        self.raw(b'c', b"")
    }

    pub fn copy_fail(self, why: &str) -> Self {
        self.built(b'f', |b| text(b, why.as_bytes()))
    }
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    out.put_slice(text);
    out.put_u8(0);
}

/// A startup packet of protocol 3.0 as `app`, with these parameters besides.
pub fn startup(database: &str, more: &[(&str, &str)]) -> BytesMut {
    let mut out = BytesMut::new();
    let fixed = [("user", "app"), ("database", database)];
    startup::startup_message(&mut out, fixed.into_iter().chain(more.iter().copied()));
    out
}

/// What is waited for after sending.
#[derive(Clone, Copy)]
pub enum Until {
    /// So many ReadyForQuery.
    Ready(usize),
    /// A message of this kind.
    Tag(u8),
    /// The end of the connection.
    Closed,
    /// Nothing.
    Nothing,
}

/// One exchange: what is sent, and what is waited for.
pub type Turn = (Send, Until);

/// Reads up to there.
pub fn read(client: &mut RawClient, until: Until) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut ready = 0;
    let done = |ready: usize, last: Option<u8>| match until {
        Until::Ready(count) => ready == count,
        Until::Tag(tag) => last == Some(tag),
        Until::Closed => false,
        Until::Nothing => true,
    };
    while !done(ready, messages.last().map(|(tag, _): &Message| *tag)) {
        let Some(message) = client.try_message() else {
            messages.push((b'!', b"closed".to_vec()));
            break;
        };
        ready += usize::from(message.0 == b'Z');
        messages.push(message);
    }
    messages
}

/// Reads as much, comparable.
pub fn hear(client: &mut RawClient, until: Until) -> Vec<String> {
    read(client, until).into_iter().map(comparable).collect()
}

/// Holds a conversation; answers all that was heard, comparable.
pub fn talk(client: &mut RawClient, turns: &[Turn]) -> Vec<String> {
    let mut heard = Vec::new();
    for (send, until) in turns {
        client.send(&send.0);
        heard.extend(hear(client, *until));
    }
    heard
}

/// The same conversation with PostgreSQL and through pgweir must be the same.
#[track_caller]
pub fn same(name: &str, database: &str, direct: u16, through: u16, turns: &[Turn]) {
    let on = |port| talk(&mut RawClient::login(port, database), turns);
    let (wanted, got) = (on(direct), on(through));
    assert_eq!(got, wanted, "{name}");
}

/// One message as people would compare it: of errors the fields that clients look at, of long messages
/// the length and a sum, of descriptions everything but OIDs of tables.
pub fn comparable((tag, body): Message) -> String {
    match tag {
        b'E' | b'N' => {
            let fields = ErrorFields::read(&body);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let all = [fields.code, fields.message, fields.detail, fields.hint].map(text);
            format!("{} {} {}", tag as char, if fields.is_fatal() { "FATAL" } else { "" }, all.join(" | "))
        }
        b'T' => columns(&body),
        _ if body.len() > 400 => {
            let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
            format!("{} {} bytes, sum {sum}", tag as char, body.len())
        }
        _ => format!("{} {}", tag as char, String::from_utf8_lossy(&body).escape_debug()),
    }
}

fn columns(body: &[u8]) -> String {
    let mut reader = Reader::new(body);
    let mut text = "T".to_owned();
    for _ in 0..reader.i16().unwrap() {
        let name = String::from_utf8_lossy(reader.cstr().unwrap()).into_owned();
        let of_table = reader.i32().unwrap() != 0;
        text.push_str(&format!(" {name} {of_table} {:?}", reader.bytes(14).unwrap()));
    }
    text
}

/// SQLSTATE of the first error in messages.
pub fn sqlstate(messages: &[Message]) -> Option<String> {
    let (_, body) = messages.iter().find(|(tag, _)| *tag == b'E')?;
    Some(String::from_utf8_lossy(ErrorFields::read(body).code).into_owned())
}

/// All rows in messages, `|` between fields, NULL as `-`.
pub fn rows(messages: &[Message]) -> Vec<String> {
    let row = |body: &[u8]| {
        let mut reader = Reader::new(body);
        let count = reader.i16().unwrap();
        let field = |reader: &mut Reader<'_>| match usize::try_from(reader.i32().unwrap()) {
            Ok(length) => String::from_utf8_lossy(reader.bytes(length).unwrap()).into_owned(),
            Err(_) => "-".to_owned(),
        };
        (0..count).map(|_| field(&mut reader)).collect::<Vec<_>>().join("|")
    };
    messages.iter().filter(|(tag, _)| *tag == b'D').map(|(_, body)| row(body)).collect()
}

/// Runs a query and answers its rows; an error is a panic.
#[track_caller]
pub fn ask(client: &mut RawClient, sql: &str) -> Vec<String> {
    client.send(&send().query(sql).0);
    let messages = read(client, Until::Ready(1));
    if let Some(error) = messages.iter().find(|(tag, _)| matches!(tag, b'E' | b'!')) {
        panic!("{sql}: {}", comparable(error.clone()));
    }
    rows(&messages)
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a cancel request for whoever was greeted with this key, and waits until it was taken.
pub fn cancel(port: u16, greeting: &[Message]) {
    let (_, key) = greeting.iter().find(|(tag, _)| *tag == b'K').expect("no key");
    let mut out = BytesMut::new();
    let pid = i32::from_be_bytes(key[..4].try_into().unwrap());
    startup::cancel_request(&mut out, pid, &key[4..]);
    let mut client = RawClient::connect(port);
    client.send(&out);
    assert!(client.try_message().is_none(), "a cancel request is not answered");
}
