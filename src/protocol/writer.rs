//! Builds messages; the length is filled in when the body is known.

use bytes::{BufMut, BytesMut};

/// Appends one message to `out`: the tag, a length, and the body that `body` writes.
#[inline]
pub fn message(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    untagged(out, body);
}

/// Appends a packet without a tag (the startup family).
#[inline]
pub fn untagged(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_u32(0);
    body(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    if let Some(slot) = out.get_mut(at..at + 4) {
        slot.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends `text` and a NUL. A NUL inside would end the string early, so what follows one is left out.
#[inline]
pub fn cstr(out: &mut BytesMut, text: &[u8]) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.extend_from_slice(text.get(..end).unwrap_or_default());
    out.put_u8(0);
}
