//! Where one message ends and the next begins.
//!
//! A message is a tag byte, a length of four bytes that counts itself but not the tag, and a body.
//! [`peek`] reads that header and nothing else; limits are applied before a buffer may grow.

/// Bytes of a message header: tag and length.
pub const HEADER_LEN: usize = 5;

/// A message header, its length already checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The tag byte.
    pub tag: u8,
    /// Bytes of the whole message: tag, length and body. At least [`HEADER_LEN`].
    pub total_len: usize,
}

impl FrameHeader {
    /// Bytes of the body alone.
    pub fn body_len(self) -> usize {
        self.total_len - HEADER_LEN
    }
}

/// A header that cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length counts fewer bytes than its own four.
    #[error("invalid message length {length} for message type {tag:#04x}")]
    TooShort {
        /// Tag of the message.
        tag: u8,
        /// The length as sent.
        length: u32,
    },
    /// The message is longer than we accept.
    #[error("message of {length} bytes exceeds the limit of {limit} bytes")]
    TooLong {
        /// Tag of the message.
        tag: u8,
        /// The length as sent.
        length: u32,
        /// The limit that it exceeds.
        limit: usize,
    },
}

/// Reads the header at the start of `bytes`; `None` while it is incomplete.
///
/// # Errors
/// When the length is below 4 or the whole message would exceed `limit` bytes.
#[inline]
pub fn peek(bytes: &[u8], limit: usize) -> Result<Option<FrameHeader>, FrameError> {
    let Some((&[tag, a, b, c, d], _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    if length < 4 {
        return Err(FrameError::TooShort { tag, length });
    }
    let total_len = length as usize + 1;
    if total_len > limit {
        return Err(FrameError::TooLong { tag, length, limit });
    }
    Ok(Some(FrameHeader { tag, total_len }))
}

/// A message cut off a stream: its header, its body, and what comes after it.
pub type Cut<'a> = (FrameHeader, &'a [u8], &'a [u8]);

/// Cuts the first whole message off `bytes`; `None` while it is incomplete.
///
/// # Errors
/// As [`peek`].
#[inline]
pub fn split(bytes: &[u8], limit: usize) -> Result<Option<Cut<'_>>, FrameError> {
    let Some(header) = peek(bytes, limit)? else { return Ok(None) };
    let Some((frame, rest)) = bytes.split_at_checked(header.total_len) else { return Ok(None) };
    Ok(Some((header, frame.get(HEADER_LEN..).unwrap_or_default(), rest)))
}

/// The largest length a server may announce: PostgreSQL's own limit of 1 GiB and the header.
pub const SERVER_FRAME_LIMIT: usize = (1 << 30) + HEADER_LEN;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(messages: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, body) in messages {
            out.push(*tag);
            out.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
            out.extend(body);
        }
        out
    }

    #[test]
    fn impossible_lengths_are_refused_before_the_body_arrives() {
        for length in [0_u32, 1, 2, 3] {
            let mut bytes = vec![b'Q'];
            bytes.extend(length.to_be_bytes());
            assert_eq!(peek(&bytes, 100), Err(FrameError::TooShort { tag: b'Q', length }));
        }
        let mut bytes = vec![b'Q'];
        bytes.extend(0x7fff_ffff_u32.to_be_bytes());
        assert!(matches!(peek(&bytes, 1 << 20), Err(FrameError::TooLong { .. })));
        let mut bytes = vec![b'Q'];
        bytes.extend(u32::MAX.to_be_bytes());
        assert!(matches!(peek(&bytes, SERVER_FRAME_LIMIT), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn a_length_of_four_is_an_empty_body() {
        assert_eq!(split(b"S\0\0\0\x04Q", 100).unwrap().unwrap().1, b"");
    }

    proptest! {
        /// However a stream is cut into reads, the same frames come out.
        #[test]
        fn any_split_gives_the_same_frames(
            messages in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..60)), 0..12),
            cuts in prop::collection::vec(1_usize..40, 1..200),
        ) {
            let bytes = stream(&messages);
            let mut buffer = Vec::new();
            let mut seen = Vec::new();
            let mut at = 0;
            let mut cuts = cuts.iter().cycle();
            while at < bytes.len() {
                let end = (at + cuts.next().unwrap()).min(bytes.len());
                buffer.extend_from_slice(&bytes[at..end]);
                at = end;
                while let Some((header, body, _)) = split(&buffer, 1 << 20).unwrap() {
                    seen.push((header.tag, body.to_vec()));
                    buffer.drain(..header.total_len);
                }
            }
            prop_assert_eq!(seen, messages);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = split(&bytes, 1000);
        }
    }
}
