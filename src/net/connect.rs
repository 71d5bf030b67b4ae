//! Connecting to a server: TCP by name or address, or a unix socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use super::stream::Socket;

/// An address of a name that has not answered after this time is no longer waited for alone (RFC 8305): one that
/// swallows what it is sent would take all the time that there is for the others.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Opens a connection to `host:port`; a host that begins with `/` is the directory of a unix socket.
///
/// All addresses of a name are tried in order, unless `known` says which is meant; each begins when the one before has
/// failed, or is slow. The caller bounds the time.
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
    let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    let socket = first_of(&addresses).await?;
    tune(&socket)?;
    Ok(Socket::Tcp(socket))
}

/// A connection to the first of these that takes one, or why the last one did not.
///
/// # Cancel safety
/// Connections under way are closed.
async fn first_of(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "name resolves to no address");
    let mut rest = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    loop {
        let next = rest.next();
        attempts.extend(next.map(|address| TcpStream::connect(*address)));
        // Until there is something new to begin; behind the last one until all have ended.
        let ended = match next {
            Some(_) => timeout(NEXT_ADDRESS, attempts.next()).await.ok(),
            None => Some(attempts.next().await),
        };
        match ended {
            Some(Some(Ok(socket))) => return Ok(socket),
            Some(Some(Err(error))) => last = error,
            Some(None) if next.is_none() => return Err(last),
            Some(None) | None => {}
        }
    }
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    fn here() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    /// An address where nobody listens.
    async fn refusing() -> SocketAddr {
        TcpListener::bind(here()).await.unwrap().local_addr().unwrap()
    }

    /// An address that answers to nothing, as that of a machine without power: its queue is full.
    async fn silent() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(here()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(taken) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            queued.push(taken.unwrap());
            assert!(queued.len() < 1000, "it never fills");
        }
        (listener, queued, address)
    }

    #[tokio::test]
    async fn all_addresses_of_a_name_are_tried() {
        let listener = TcpListener::bind(here()).await.unwrap();
        let good = listener.local_addr().unwrap();
        let (_listener, _queued, silent) = silent().await;
        let (refusing, also) = (refusing().await, refusing().await);
        for addresses in
            [vec![good], vec![refusing, good], vec![silent, good], vec![refusing, silent, also, good]]
        {
            let begun = Instant::now();
            let socket = first_of(&addresses).await.unwrap();
            assert_eq!(socket.peer_addr().unwrap(), good);
            assert!(begun.elapsed() < Duration::from_secs(5), "{addresses:?}");
        }
        let error = first_of(&[refusing, also]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(first_of(&[]).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        // Nobody is left to begin: the silent one is waited for, as long as the caller has time.
        assert!(timeout(Duration::from_millis(600), first_of(&[refusing, silent])).await.is_err());
    }
}
