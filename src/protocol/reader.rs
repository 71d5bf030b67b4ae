//! A cursor over a message body that cannot run past its end.

/// A body that does not hold what its type promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(pub &'static str);

/// Reads a body field by field; every read is checked.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A cursor at the start of `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether all is read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let (&[byte], rest) = self.rest.split_first_chunk::<1>().ok_or(Malformed("byte expected"))?;
        self.rest = rest;
        Ok(byte)
    }

    /// A 16-bit integer.
    pub fn i16(&mut self) -> Result<i16, Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk::<2>().ok_or(Malformed("int16 expected"))?;
        self.rest = rest;
        Ok(i16::from_be_bytes(*bytes))
    }

    /// A 16-bit integer that is a count: PostgreSQL counts up to 65,535.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.i16().map(i16::cast_unsigned)
    }

    /// A 32-bit integer.
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk::<4>().ok_or(Malformed("int32 expected"))?;
        self.rest = rest;
        Ok(i32::from_be_bytes(*bytes))
    }

    /// `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(Malformed("bytes missing"))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A string up to its NUL, which is consumed and not returned.
    pub fn cstr(&mut self) -> Result<&'a [u8], Malformed> {
        // Most names are empty, and texts of statements are long.
        let end = match self.rest.first() {
            Some(0) => 0,
            _ => memchr::memchr(0, self.rest).ok_or(Malformed("string without terminator"))?,
        };
        let text = self.bytes(end)?;
        self.bytes(1)?;
        Ok(text)
    }

    /// A string that must be UTF-8.
    pub fn str(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.cstr()?).map_err(|_| Malformed("string is not valid UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_stop_at_the_end() {
        let mut reader = Reader::new(b"ab\0\x00\x01");
        assert_eq!(reader.cstr(), Ok(&b"ab"[..]));
        assert_eq!(reader.i16(), Ok(1));
        assert!(reader.is_empty());
        assert!(reader.u8().is_err() && reader.i32().is_err() && reader.cstr().is_err());
        assert!(Reader::new(b"no end").cstr().is_err());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..32), script in prop::collection::vec(0_u8..6, 0..16)) {
            let mut reader = Reader::new(&bytes);
            for step in script {
                match step {
                    0 => { let _ = reader.u8(); }
                    1 => { let _ = reader.i16(); }
                    2 => { let _ = reader.i32(); }
                    3 => { let _ = reader.cstr(); }
                    4 => { let _ = reader.str(); }
                    _ => { let _ = reader.bytes(usize::MAX); }
                }
            }
        }
    }
}
