//! Buffers lent for as long as there is something in them.
//!
//! Each thread keeps a few that came back, so that a query costs no allocation although an idle connection holds
//! no buffer. What has grown is not kept, nor what nobody needs any more: after a burst of thousands the few
//! that are left lie far apart, and each would hold a page of the allocator with room for eight.

use std::cell::RefCell;

use bytes::BytesMut;

use super::framed::READ_MIN;

/// Buffers that a thread keeps: for as many connections as are busy at the same time on one thread.
const KEPT_MAX: usize = 64;

#[derive(Debug)]
struct Kept {
    buffers: Vec<BytesMut>,
    /// So many of them were not lent since the last [`trim`].
    unused: usize,
}

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept { buffers: Vec::new(), unused: 0 }) };
}

/// An empty buffer with room for [`READ_MIN`] bytes.
pub(super) fn lend() -> BytesMut {
    let kept = KEPT.with_borrow_mut(|kept| {
        let buffer = kept.buffers.pop();
        kept.unused = kept.unused.min(kept.buffers.len());
        buffer
    });
    kept.unwrap_or_else(|| BytesMut::with_capacity(READ_MIN))
}

/// Takes a buffer back; what is in it is gone. One that has grown, or that others still look into, is dropped.
pub(super) fn give_back(mut buffer: BytesMut) {
    buffer.clear();
    if buffer.capacity() <= READ_MIN && buffer.try_reclaim(READ_MIN) && buffer.capacity() == READ_MIN {
        KEPT.with_borrow_mut(|kept| {
            if kept.buffers.len() < KEPT_MAX {
                kept.buffers.push(buffer);
            }
        });
    }
}

/// Drops what this thread has kept and not lent since the last time. To be called now and then, when it has less
/// to do.
pub fn trim() {
    KEPT.with_borrow_mut(|kept| {
        kept.buffers.drain(..kept.unused);
        kept.unused = kept.buffers.len();
    });
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
        let kept = || KEPT.with_borrow(|kept| kept.buffers.len());
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

    #[test]
    fn what_nobody_needs_is_dropped() {
        let kept = || KEPT.with_borrow(|kept| kept.buffers.len());
        let lent: Vec<_> = (0..10).map(|_| lend()).collect();
        lent.into_iter().for_each(give_back);
        // All of them were lent since the last time, which never was.
        trim();
        assert_eq!(kept(), 10);
        let two = (lend(), lend());
        give_back(two.0);
        give_back(two.1);
        trim();
        assert_eq!(kept(), 2);
        trim();
        assert_eq!(kept(), 0);
        trim();
        assert_eq!(kept(), 0);
    }
}
