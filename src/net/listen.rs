//! Listening: TCP and unix sockets behind one `accept`.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::net::{TcpListener, UnixListener, lookup_host};

use super::connect::tune;
use super::stream::Socket;

/// Connections that may wait for `accept`.
const BACKLOG: i32 = 4096;

/// One listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix domain, with the path it must remove.
    Unix(UnixListener, PathBuf),
}

/// Where a client came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// TCP: its address and ours.
    Tcp {
        /// The client's address.
        remote: SocketAddr,
        /// Our address.
        local: SocketAddr,
    },
    /// Unix domain: the user at the other end.
    Unix {
        /// The peer process's user id.
        uid: u32,
    },
}

impl Listener {
    /// Listens on every address that `host` (or `*`) names.
    pub async fn tcp(host: &str, port: u16) -> io::Result<Vec<Self>> {
        if host == "*" {
            // One socket for both families; on a machine without IPv6, one for IPv4.
            let both = Self::tcp_address(SocketAddr::from(([0_u16; 8], port)), false);
            let any = both.or_else(|_| Self::tcp_address(SocketAddr::from(([0_u8; 4], port)), true));
            return any.map(|listener| vec![listener]);
        }
        let mut listeners = Vec::new();
        for address in lookup_host((host, port)).await? {
            listeners.push(Self::tcp_address(address, true)?);
        }
        if listeners.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "name resolves to no address"));
        }
        Ok(listeners)
    }

    fn tcp_address(address: SocketAddr, only_v6: bool) -> io::Result<Self> {
        let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(only_v6)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into()).map(Self::Tcp)
    }

    /// Listens on `.s.PGSQL.<port>` in `directory`. A socket file that nobody answers is replaced.
    pub fn unix(directory: &Path, port: u16) -> io::Result<Self> {
        let path = directory.join(format!(".s.PGSQL.{port}"));
        if path.exists() {
            match std::os::unix::net::UnixStream::connect(&path) {
                Ok(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::AddrInUse,
                        "another process listens on the socket",
                    ));
                }
                Err(_) => std::fs::remove_file(&path)?,
            }
        }
        let listener = UnixListener::bind(&path)?;
        // As PostgreSQL's default unix_socket_permissions: authentication decides, not the file mode.
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        Ok(Self::Unix(listener, path))
    }

    /// Waits for the next client.
    ///
    /// # Cancel safety
    /// A connection that was not returned stays in the kernel's queue.
    pub async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (socket, remote) = listener.accept().await?;
                tune(&socket)?;
                let local = socket.local_addr()?;
                Ok((Socket::Tcp(socket), Peer::Tcp { remote, local }))
            }
            Self::Unix(listener, _) => {
                let (socket, _) = listener.accept().await?;
                let uid = socket.peer_cred()?.uid();
                Ok((Socket::Unix(socket), Peer::Unix { uid }))
            }
        }
    }

    /// The TCP address listened on, when it is one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}
