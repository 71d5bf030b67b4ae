//! A stream with the bytes read from it and the bytes still to be written to it.
//!
//! Buffers exist only while there is something in them: an idle client costs no buffer. A read that
//! fills its space makes the next one larger, so bulk results take few system calls.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use super::buffers;
use super::stream::Stream;

/// First read size: a small query or answer fits.
pub(super) const READ_MIN: usize = 8 * 1024;
/// Largest read: more brings nothing on loopback or a LAN.
const READ_MAX: usize = 128 * 1024;
/// So much that comes without a word from us is a long result, and worth resting for. What a rest adds to it
/// is small against the time that it takes.
const LONG_RESULT: u32 = 4 * 1024 * 1024;
/// How long: the shortest that the runtime's timer knows.
const REST: Duration = Duration::from_millis(1);
/// A rest that brings less has not paid: two of PostgreSQL's pieces.
const WORTH_A_REST: usize = 16 * 1024;

/// A stream and its two buffers.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    /// Bytes read and not yet consumed.
    pub inbox: BytesMut,
    /// Bytes to be written.
    pub outbox: BytesMut,
    read_size: u32,
    /// Bytes read since something was written.
    one_way: u32,
    unflushed: bool,
    /// The next read is the first after a rest.
    rested: bool,
    /// Bytes read from the socket so far.
    pub received: u64,
    /// Bytes written to the socket so far.
    pub sent: u64,
}

impl Wire {
    /// Wraps a stream; no buffer is allocated yet.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            read_size: READ_MIN as u32,
            one_way: 0,
            unflushed: false,
            rested: false,
            received: 0,
            sent: 0,
        }
    }

    /// The stream.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Lets the present runtime watch the socket.
    pub fn rehome(&mut self) -> io::Result<()> {
        self.stream.rehome()
    }

    /// Takes the stream back (to put TLS around it); what was buffered is lost.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Reads once into `inbox`; `Ok(0)` is the end of the stream.
    ///
    /// # Cancel safety
    /// A read that did not happen took nothing from the socket.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // Before there is a buffer, or a larger one.
        if self.stream.poll_read_ready(cx)?.is_pending() {
            self.drop_empty_inbox();
            return Poll::Pending;
        }
        let spare = self.inbox.capacity() - self.inbox.len();
        let read_size = self.read_size as usize;
        if spare < read_size && !self.inbox.try_reclaim(read_size) {
            if self.inbox.capacity() == 0 && read_size == READ_MIN {
                self.inbox = buffers::lend();
            } else {
                self.inbox.reserve(read_size);
            }
        }
        let space = self.inbox.capacity() - self.inbox.len();
        match self.stream.poll_read_buf(cx, &mut self.inbox) {
            Poll::Pending => {
                if !self.stream.is_tls() {
                    self.drop_empty_inbox();
                }
                Poll::Pending
            }
            Poll::Ready(Ok(count)) => {
                self.received += count as u64;
                self.one_way = self.one_way.saturating_add(count as u32);
                if count == space {
                    self.read_size = (self.read_size * 2).min(READ_MAX as u32);
                } else if count < read_size / 4 {
                    self.read_size = (self.read_size / 2).max(READ_MIN as u32);
                }
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    /// Reads once into `inbox`; an end of stream is an error here.
    ///
    /// # Cancel safety
    /// As [`Wire::poll_fill`].
    pub async fn fill(&mut self) -> io::Result<usize> {
        match poll_fn(|cx| self.poll_fill(cx)).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }

    /// After a read of `count` bytes of a result that goes on: if it is long, and we are ahead of who sends it, what
    /// comes next may gather for a moment. A server on a machine that keeps up sends 8 KiB at a time, and each piece
    /// would cost a wake-up, a read and a write.
    pub fn rest_when_ahead(&mut self, count: usize) -> io::Result<()> {
        if std::mem::take(&mut self.rested) && count < WORTH_A_REST {
            self.one_way = 0;
        } else if self.one_way >= LONG_RESULT && count < READ_MAX {
            self.stream.rest(REST)?;
            self.rested = true;
            self.read_size = READ_MAX as u32;
        }
        Ok(())
    }

    /// Writes as much of `outbox` as the socket takes; ready when all is written and flushed.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.outbox))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote(count);
            self.outbox.advance(count);
        }
        self.poll_flush_stream(cx)
    }

    /// Writes from `bytes` (the outbox must be empty); says how many were taken.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        debug_assert!(self.outbox.is_empty());
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.wrote(count);
        Poll::Ready(Ok(count))
    }

    /// Pushes out what TLS still holds; free for plain sockets.
    pub fn poll_flush_stream(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes all of `outbox`.
    ///
    /// # Cancel safety
    /// What was not written stays in `outbox`.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Says good-bye on the stream (TLS close_notify, FIN); errors do not matter any more.
    pub async fn shutdown(&mut self) {
        let _ = poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await;
    }

    /// Gives back buffers that hold nothing.
    pub fn release_buffers(&mut self) {
        if self.inbox.is_empty() {
            self.drop_inbox();
            self.read_size = READ_MIN as u32;
        }
        self.release_outbox();
    }

    /// Gives back the outbox if it holds nothing.
    pub fn release_outbox(&mut self) {
        if self.outbox.is_empty() {
            self.drop_outbox();
        }
    }

    /// Sees to it that there is an outbox, for what is about to be written in small pieces.
    pub fn lend_outbox(&mut self) {
        if self.outbox.capacity() == 0 {
            self.outbox = buffers::lend();
        }
    }

    /// Gives back an inbox that was taken out and is used up.
    pub fn spent(inbox: BytesMut) {
        buffers::give_back(inbox);
    }

    fn drop_empty_inbox(&mut self) {
        if self.inbox.is_empty() {
            self.drop_inbox();
        }
    }

    fn drop_inbox(&mut self) {
        if self.inbox.capacity() > 0 {
            buffers::give_back(std::mem::take(&mut self.inbox));
        }
    }

    fn drop_outbox(&mut self) {
        if self.outbox.capacity() > 0 {
            buffers::give_back(std::mem::take(&mut self.outbox));
        }
    }

    fn wrote(&mut self, count: usize) {
        self.sent += count as u64;
        self.one_way = 0;
        self.unflushed = self.stream.is_tls();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::io::{Read, Write};
    use std::time::Instant;

    use tokio::net::{TcpStream, UnixStream};

    use super::super::stream::Socket;
    use super::*;

    fn pair() -> (Wire, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        ours.set_nonblocking(true).unwrap();
        let peer = listener.accept().unwrap().0;
        peer.set_nodelay(true).unwrap();
        (Wire::new(Stream::Plain(Socket::Tcp(TcpStream::from_std(ours).unwrap()))), peer)
    }

    /// As after a long result of which the last read gave little.
    fn rests(wire: &mut Wire) -> bool {
        wire.rest_when_ahead(WORTH_A_REST).unwrap();
        matches!(wire.stream(), Stream::Plain(Socket::Resting(_)))
    }

    #[tokio::test]
    async fn what_comes_during_a_rest_is_read_at_once() {
        let (mut wire, mut peer) = pair();
        wire.one_way = LONG_RESULT - 1;
        assert!(!rests(&mut wire));
        wire.one_way = LONG_RESULT;
        let begun = Instant::now();
        assert!(rests(&mut wire));
        for piece in 0..5 {
            peer.write_all(&[piece; 10]).unwrap();
        }
        assert_eq!(wire.fill().await.unwrap(), 50);
        assert!(begun.elapsed() >= REST);
        assert_eq!(wire.received, 50);
    }

    #[tokio::test]
    async fn a_rest_that_brings_little_is_not_repeated() {
        let (mut wire, mut peer) = pair();
        wire.one_way = LONG_RESULT;
        assert!(rests(&mut wire));
        peer.write_all(b"little").unwrap();
        let count = wire.fill().await.unwrap();
        wire.rest_when_ahead(count).unwrap();
        assert_eq!(wire.one_way, 0);
        assert!(!rests(&mut wire));
        // One that brings much is.
        wire.one_way = LONG_RESULT;
        assert!(rests(&mut wire));
        peer.write_all(&[7; WORTH_A_REST]).unwrap();
        let count = wire.fill().await.unwrap();
        assert_eq!(count, WORTH_A_REST);
        assert!(rests(&mut wire));
    }

    #[tokio::test]
    async fn whoever_writes_ends_the_rest() {
        let (mut wire, mut peer) = pair();
        wire.one_way = LONG_RESULT;
        assert!(rests(&mut wire));
        wire.outbox.extend_from_slice(b"question");
        wire.flush().await.unwrap();
        assert!(matches!(wire.stream(), Stream::Plain(Socket::Tcp(_))));
        let mut asked = [0; 8];
        peer.read_exact(&mut asked).unwrap();
        peer.write_all(b"answer").unwrap();
        assert_eq!(wire.fill().await.unwrap(), 6);
        assert!(!rests(&mut wire), "the result was over when something was written");
    }

    #[tokio::test]
    async fn the_end_of_the_stream_and_another_worker_during_a_rest() {
        let (mut wire, mut peer) = pair();
        wire.one_way = LONG_RESULT;
        assert!(rests(&mut wire));
        wire.rehome().unwrap();
        peer.write_all(b"last").unwrap();
        drop(peer);
        assert_eq!(wire.fill().await.unwrap(), 4);
        assert!(rests(&mut wire));
        assert!(wire.fill().await.is_err());
    }

    #[tokio::test]
    async fn unix_sockets_do_not_rest() {
        let (ours, mut peer) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut wire = Wire::new(Stream::Plain(Socket::Unix(UnixStream::from_std(ours).unwrap())));
        wire.one_way = LONG_RESULT;
        assert!(!rests(&mut wire));
        peer.write_all(b"more").unwrap();
        assert_eq!(wire.fill().await.unwrap(), 4);
    }
}
