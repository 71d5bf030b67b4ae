//! One byte stream, whatever carries it: TCP, a unix socket, or TLS over either.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use rustix::net::{SendFlags, send};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;

/// A socket without TLS.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// Unix domain.
    Unix(UnixStream),
    /// TCP, not looked at for a moment.
    Resting(Box<Rest>),
    /// Taken out, on its way to another worker; every use of it is an error.
    Moved,
}

/// A socket that no runtime watches.
#[derive(Debug)]
pub enum Detached {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// Unix domain.
    Unix(std::os::unix::net::UnixStream),
}

/// A socket that no runtime watches until a moment has passed: what arrives meanwhile wakes nobody.
#[derive(Debug)]
pub struct Rest {
    socket: std::net::TcpStream,
    over: Pin<Box<Sleep>>,
}

impl Socket {
    /// Takes the socket from the runtime that watches it.
    pub fn detach(self) -> io::Result<Detached> {
        match self {
            Self::Tcp(socket) => socket.into_std().map(Detached::Tcp),
            Self::Unix(socket) => socket.into_std().map(Detached::Unix),
            Self::Resting(rest) => Ok(Detached::Tcp(rest.socket)),
            Self::Moved => Err(moved()),
        }
    }

    fn rehome(&mut self) -> io::Result<()> {
        *self = std::mem::replace(self, Self::Moved).detach()?.attach()?;
        Ok(())
    }

    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rested(cx))?;
        match self {
            Self::Tcp(socket) => socket.poll_read_ready(cx),
            Self::Unix(socket) => socket.poll_read_ready(cx),
            Self::Resting(_) | Self::Moved => Poll::Ready(Err(moved())),
        }
    }

    /// Reads once into what room `buffer` has; a socket known to have nothing is not asked.
    fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let mut once = Once { most: buffer.capacity() - buffer.len(), short: None };
        let result = match self {
            Self::Tcp(tcp) => tcp.try_io(Interest::READABLE, || once.note(tcp.try_read_buf(buffer))),
            Self::Unix(unix) => unix.try_io(Interest::READABLE, || once.note(unix.try_read_buf(buffer))),
            Self::Resting(_) | Self::Moved => return Err(moved()),
        };
        once.short.map_or(result, Ok)
    }

    /// Writes once; a socket known to take nothing is not asked.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut once = Once { most: bytes.len(), short: None };
        // Without the C library, which would ask each time whether the thread may be canceled.
        let flags = SendFlags::NOSIGNAL;
        let result = match self {
            Self::Tcp(tcp) => tcp.try_io(Interest::WRITABLE, || once.note(send(tcp, bytes, flags))),
            Self::Unix(unix) => unix.try_io(Interest::WRITABLE, || once.note(send(unix, bytes, flags))),
            Self::Resting(_) | Self::Moved => return Err(moved()),
        };
        once.short.map_or(result, Ok)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_write_ready(cx),
            Self::Unix(socket) => socket.poll_write_ready(cx),
            Self::Resting(_) | Self::Moved => Poll::Ready(Err(moved())),
        }
    }

    /// Lets what arrives gather for so long. Only TCP: its buffers grow with what a moment brings.
    fn rest(&mut self, length: Duration) -> io::Result<()> {
        if matches!(self, Self::Tcp(_))
            && let Self::Tcp(socket) = std::mem::replace(self, Self::Moved)
        {
            let socket = socket.into_std()?;
            *self = Self::Resting(Box::new(Rest { socket, over: Box::pin(tokio::time::sleep(length)) }));
        }
        Ok(())
    }

    /// Ready when the socket does not rest, or no longer.
    fn poll_rested(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Resting(rest) = self {
            ready!(rest.over.as_mut().poll(cx));
            self.wake()?;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends a rest before its time.
    fn wake(&mut self) -> io::Result<()> {
        if matches!(self, Self::Resting(_)) { self.rehome() } else { Ok(()) }
    }
}

/// One read or write. What gives or takes less than it might is all there is, or all that is taken. The next one need not
/// find that out by a system call, so the runtime is told that the socket is not ready; within `try_io`, since then
/// what happens meanwhile is not missed.
struct Once {
    most: usize,
    /// It was less.
    short: Option<usize>,
}

impl Once {
    #[inline]
    fn note<E: Into<io::Error>>(&mut self, result: Result<usize, E>) -> io::Result<usize> {
        match result {
            Ok(count) if (1..self.most).contains(&count) => {
                self.short = Some(count);
                Err(io::ErrorKind::WouldBlock.into())
            }
            other => other.map_err(E::into),
        }
    }
}

impl Detached {
    /// Lets the present runtime watch it.
    pub fn attach(self) -> io::Result<Socket> {
        match self {
            Self::Tcp(socket) => TcpStream::from_std(socket).map(Socket::Tcp),
            Self::Unix(socket) => UnixStream::from_std(socket).map(Socket::Unix),
        }
    }
}

fn moved() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the socket was moved")
}

/// A socket, perhaps with TLS around it.
#[derive(Debug)]
pub enum Stream {
    /// As it is.
    Plain(Socket),
    /// TLS, we are the server (clients connect to us).
    TlsAccepted(Box<tokio_rustls::server::TlsStream<Socket>>),
    /// TLS, we are the client (we connect to servers).
    TlsConnected(Box<tokio_rustls::client::TlsStream<Socket>>),
}

impl Stream {
    /// Whether TLS protects it.
    pub fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Lets the present runtime watch the socket, instead of the one that does. On an error the stream is
    /// of no more use.
    pub fn rehome(&mut self) -> io::Result<()> {
        self.socket_mut().rehome()
    }

    fn socket_mut(&mut self) -> &mut Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::TlsAccepted(stream) => stream.get_mut().0,
            Self::TlsConnected(stream) => stream.get_mut().0,
        }
    }

    /// The TLS version and cipher, for the console.
    pub fn tls_description(&self) -> Option<String> {
        let common: &rustls::CommonState = match self {
            Self::Plain(_) => return None,
            Self::TlsAccepted(stream) => stream.get_ref().1,
            Self::TlsConnected(stream) => stream.get_ref().1,
        };
        let version = match common.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3",
            rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2",
            _ => "TLS",
        };
        let suite = common.negotiated_cipher_suite().map(|s| format!("{:?}", s.suite()))?;
        Some(format!("{version}/{suite}"))
    }

    /// Whether nothing has come from an idle peer, not even its end. What has come is lost: a peer that is
    /// not silent is to be closed. Costs no system call while the socket is known to have nothing.
    pub fn is_silent(&self) -> bool {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::TlsAccepted(stream) => stream.get_ref().0,
            Self::TlsConnected(stream) => stream.get_ref().0,
        };
        let mut byte = [0];
        let result = match socket {
            Socket::Tcp(tcp) => tcp.try_read(&mut byte),
            Socket::Unix(unix) => unix.try_read(&mut byte),
            Socket::Resting(_) | Socket::Moved => return false,
        };
        matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Ready when a read may give something; a hint, so that no buffer need be held while waiting.
    /// TLS streams are always "ready": their own buffers decide.
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_read_ready(cx),
            Self::TlsAccepted(_) | Self::TlsConnected(_) => Poll::Ready(Ok(())),
        }
    }

    /// Reads once into what room `buffer` has, after [`Stream::poll_read_ready`]. Cheaper than `AsyncRead`, which would
    /// look for readiness again.
    pub fn poll_read_buf(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        let Self::Plain(socket) = self else { return pin!(self.read_buf(buffer)).poll(cx) };
        loop {
            match socket.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(socket.poll_read_ready(cx))?;
                }
                result => return Poll::Ready(result),
            }
        }
    }

    /// Lets what the peer sends gather for so long, in the kernel and without waking anybody; then reads give it.
    /// Whoever writes ends the rest. Sockets of the unix domain do not rest.
    pub fn rest(&mut self, length: Duration) -> io::Result<()> {
        self.socket_mut().rest(length)
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_rested(cx))?;
        match this {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Resting(_) | Self::Moved => Poll::Ready(Err(moved())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.wake()?;
        loop {
            match this.try_write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(this.poll_write_ready(cx))?,
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Self::Unix(socket) => Pin::new(socket).poll_flush(cx),
            // Nothing is written while it rests.
            Self::Resting(_) => Poll::Ready(Ok(())),
            Self::Moved => Poll::Ready(Err(moved())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.wake()?;
        match this {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Resting(_) | Self::Moved => Poll::Ready(Err(moved())),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::TlsAccepted(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::TlsConnected(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::TlsAccepted(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::TlsConnected(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::TlsAccepted(stream) => Pin::new(stream).poll_flush(cx),
            Self::TlsConnected(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::TlsAccepted(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::TlsConnected(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
