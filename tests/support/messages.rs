//! Protocol messages written as text, one a line: `Query {"sql": "SELECT 1"}`. Transcripts and the fuzzer share it.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use pgweir::protocol::startup;
use pgweir::protocol::writer::{cstr, message};
use serde_json::{Map, Value, json};

use super::wire::{Message, RawClient};

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

/// Appends one message, named and written as in transcripts.
pub fn encode(name: &str, value: &Value, out: &mut BytesMut) {
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

/// Bytes as JSON: text, or hexadecimal where they are not.
pub fn shown(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => json!(text),
        _ => json!({"hex": bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()}),
    }
}

/// The name of a server's message.
pub fn name_of(tag: u8) -> &'static str {
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

/// A message of the server's as transcripts write it: without what differs each time.
pub fn decode((tag, body): &Message, own_pid: i32) -> String {
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
                // Types made by the test have other numbers each time.
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

/// A connection, and the process id it was told.
pub struct Conn {
    pub client: RawClient,
    pub pid: i32,
}

/// Logs in as `app`, with more startup parameters.
pub fn open(port: u16, database: &str, more: &Map<String, Value>) -> Conn {
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
