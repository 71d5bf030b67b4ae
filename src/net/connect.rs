//! Connecting to a server: TCP by name or address, or a unix socket.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream, lookup_host};

use super::stream::Socket;

/// Opens a connection to `host:port`; a host that begins with `/` is the directory of a unix socket.
///
/// All addresses of a name are tried in order, unless `known` says which is meant. The caller bounds the time.
pub async fn connect(host: &str, port: u16, known: Option<IpAddr>) -> io::Result<Socket> {
    if host.starts_with('/') {
        let path = format!("{host}/.s.PGSQL.{port}");
        return UnixStream::connect(path).await.map(Socket::Unix);
    }
    if let Some(address) = known {
        let socket = TcpStream::connect((address, port)).await?;
        tune(&socket)?;
        return Ok(Socket::Tcp(socket));
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "name resolves to no address");
    for address in lookup_host((host, port)).await? {
        match TcpStream::connect(address).await {
            Ok(socket) => {
                tune(&socket)?;
                return Ok(Socket::Tcp(socket));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What a name resolves to now.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<IpAddr>> {
    Ok(lookup_host((host, port)).await?.map(|address| address.ip()).collect())
}

/// No Nagle, and keepalives so that a peer that vanished is noticed within two minutes.
///
/// No TCP_USER_TIMEOUT, which would notice it also while data is under way: it ends connections to a live
/// peer, too, that does not read for so long, as a server in a COPY that waits for a lock, or a client whose
/// user looks at the first page.
pub fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_mins(1))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}
