//! The extended query protocol: the few fields we look at, and statement names rewritten.

use bytes::{BufMut, BytesMut};

use super::frontend::FrontendTag;
use super::reader::{Malformed, Reader};
use super::writer::{cstr, message};

/// What a Close or Describe means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A prepared statement.
    Statement,
    /// A portal.
    Portal,
}

/// A Parse, its parts borrowed from the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The client's name for the statement; empty is the unnamed one.
    pub name: &'a [u8],
    /// The SQL.
    pub sql: &'a [u8],
    /// The parameter types as sent: count and OIDs.
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads a Parse body.
    ///
    /// # Errors
    /// When the body is short, or the type list does not have the length it announces.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let name = reader.cstr()?;
        let sql = reader.cstr()?;
        let types = reader.rest();
        let count = usize::from(reader.u16()?);
        reader.bytes(count * 4)?;
        if !reader.is_empty() {
            return Err(Malformed("invalid message format"));
        }
        Ok(Self { name, sql, types })
    }

    /// Appends this Parse under another name.
    pub fn write(&self, out: &mut BytesMut, name: &[u8]) {
        message(out, FrontendTag::PARSE.0, |b| {
            cstr(b, name);
            cstr(b, self.sql);
            b.put_slice(self.types);
        });
    }
}

/// A Bind: its names, and the rest untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal; empty is the unnamed one.
    pub portal: &'a [u8],
    /// The statement.
    pub statement: &'a [u8],
    /// Formats and parameters, undecoded.
    pub rest: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads the names of a Bind body.
    ///
    /// # Errors
    /// When a name has no end.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let portal = reader.cstr()?;
        let statement = reader.cstr()?;
        Ok(Self { portal, statement, rest: reader.rest() })
    }

    /// Appends this Bind for another statement name.
    pub fn write(&self, out: &mut BytesMut, statement: &[u8]) {
        message(out, FrontendTag::BIND.0, |b| {
            cstr(b, self.portal);
            cstr(b, statement);
            b.put_slice(self.rest);
        });
    }
}

/// Reads the body of a Describe or Close.
///
/// # Errors
/// When the kind is neither `S` nor `P`, or the name has no end.
pub fn target(body: &[u8]) -> Result<(Target, &[u8]), Malformed> {
    let mut reader = Reader::new(body);
    let target = match reader.u8()? {
        b'S' => Target::Statement,
        b'P' => Target::Portal,
        _ => return Err(Malformed("invalid Describe or Close message subtype")),
    };
    let name = reader.cstr()?;
    if !reader.is_empty() {
        return Err(Malformed("invalid message format"));
    }
    Ok((target, name))
}

/// Appends a Describe of a statement.
pub fn describe_statement(out: &mut BytesMut, name: &[u8]) {
    message(out, FrontendTag::DESCRIBE.0, |b| {
        b.put_u8(b'S');
        cstr(b, name);
    });
}

/// Appends a Close of a statement.
pub fn close_statement(out: &mut BytesMut, name: &[u8]) {
    message(out, FrontendTag::CLOSE.0, |b| {
        b.put_u8(b'S');
        cstr(b, name);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame;
    use postgres_protocol::IsNull;
    use postgres_protocol::message::frontend;

    fn body(bytes: &BytesMut) -> &[u8] {
        frame::split(bytes, 1 << 20).unwrap().unwrap().1
    }

    /// Our decoder against an independent encoder; rewriting keeps all but the name.
    #[test]
    fn we_read_what_postgres_protocol_writes() {
        let mut out = BytesMut::new();
        frontend::parse("s1", "SELECT $1", [23_u32], &mut out).unwrap();
        let parse = Parse::read(body(&out)).unwrap();
        assert_eq!((parse.name, parse.sql), (&b"s1"[..], &b"SELECT $1"[..]));
        let mut again = BytesMut::new();
        parse.write(&mut again, b"s1");
        assert_eq!(again, out);

        let mut out = BytesMut::new();
        let put = |value: &str, buf: &mut BytesMut| {
            buf.put_slice(value.as_bytes());
            Ok(IsNull::No)
        };
        frontend::bind("p", "s1", [0], ["42"], put, [1], &mut out).map_err(|_| "bind").unwrap();
        let bind = Bind::read(body(&out)).unwrap();
        assert_eq!((bind.portal, bind.statement), (&b"p"[..], &b"s1"[..]));
        let mut again = BytesMut::new();
        bind.write(&mut again, b"s1");
        assert_eq!(again, out);

        let mut out = BytesMut::new();
        frontend::describe(b'S', "s1", &mut out).unwrap();
        assert_eq!(target(body(&out)), Ok((Target::Statement, &b"s1"[..])));
        let mut ours = BytesMut::new();
        describe_statement(&mut ours, b"s1");
        assert_eq!(ours, out);
    }

    #[test]
    fn a_type_count_that_lies_is_malformed() {
        assert!(Parse::read(b"\0SELECT 1\0\x7f\xff").is_err());
        assert!(Parse::read(b"\0SELECT 1\0\xff\xff").is_err());
        assert!(Parse::read(b"\0SELECT 1\0\x00\x00x").is_err());
        assert!(target(b"Xname\0").is_err());
    }
}
