//! Buffers lent for as long as there is something in them.
//!
//! Each thread keeps a few that came back, so that a query costs no allocation although an idle connection holds
//! no buffer. What has grown is not kept.

use std::cell::RefCell;

use bytes::BytesMut;

use super::framed::READ_MIN;

/// Buffers that a thread keeps: for as many connections as are busy at the same time on one thread.
const KEPT_MAX: usize = 64;

thread_local! {
    static KEPT: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for [`READ_MIN`] bytes.
pub(super) fn lend() -> BytesMut {
    KEPT.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(READ_MIN))
}

/// Takes a buffer back; what is in it is gone. One that has grown, or that others still look into, is dropped.
pub(super) fn give_back(mut buffer: BytesMut) {
    buffer.clear();
    if buffer.capacity() <= READ_MIN && buffer.try_reclaim(READ_MIN) && buffer.capacity() == READ_MIN {
        KEPT.with_borrow_mut(|kept| {
            if kept.len() < KEPT_MAX {
                kept.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;

    #[test]
    fn a_buffer_comes_back_whole_and_empty() {
        let mut buffer = lend();
        buffer.extend_from_slice(&[7; 100]);
        buffer.advance(60);
        let at = buffer.as_ptr() as usize - 60;
        give_back(buffer);
        let again = lend();
        assert_eq!((again.as_ptr() as usize, again.len(), again.capacity()), (at, 0, READ_MIN));
        assert_ne!(lend().as_ptr() as usize, at);
    }

    #[test]
    fn what_has_grown_or_is_shared_is_not_kept() {
        let kept = || KEPT.with_borrow(Vec::len);
        let mut shared = lend();
        shared.extend_from_slice(b"abcd");
        let part = shared.split_to(2);
        give_back(shared);
        give_back(BytesMut::with_capacity(READ_MIN * 2));
        give_back(BytesMut::new());
        assert_eq!(kept(), 0);
        drop(part);
        for _ in 0..KEPT_MAX + 5 {
            give_back(BytesMut::with_capacity(READ_MIN));
        }
        assert_eq!(kept(), KEPT_MAX);
    }
}
