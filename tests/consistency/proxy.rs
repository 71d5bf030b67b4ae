//! A wire between pgweir and one node that can be slow, stalled or cut.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::random::Random;

/// What the wire does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wire {
    stalled: bool,
    /// What is sent arrives up to so many milliseconds later.
    late: u64,
    /// Connections older than the last cut are closed.
    cuts: u64,
}

/// Forwards connections to a port on 127.0.0.1.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    wire: watch::Sender<Wire>,
}

impl Proxy {
    /// Listens on a free port, on the runtime of the caller.
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (wire, seen) = watch::channel(Wire { stalled: false, late: 0, cuts: 0 });
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, port, seen.clone()));
            }
        });
        Self { address, wire }
    }

    /// Nothing passes any more, in either direction; connections stay.
    pub fn stall(&self) {
        self.wire.send_modify(|wire| wire.stalled = true);
    }

    /// All that was held back passes.
    pub fn flow(&self) {
        self.wire.send_modify(|wire| wire.stalled = false);
    }

    /// Everything takes up to so many milliseconds, another time for each piece.
    pub fn slow(&self, milliseconds: u64) {
        self.wire.send_modify(|wire| wire.late = milliseconds);
    }

    /// Closes all connections, whatever is under way on them.
    pub fn cut(&self) {
        self.wire.send_modify(|wire| wire.cuts += 1);
    }
}

async fn forward(client: TcpStream, port: u16, mut wire: watch::Receiver<Wire>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let cuts = wire.borrow().cuts;
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, wire.clone()) => {}
        () = pump(from_server, to_client, wire.clone()) => {}
        _ = wire.wait_for(|wire| wire.cuts != cuts) => {}
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut wire: watch::Receiver<Wire>,
) {
    let mut buffer = vec![0; 16 * 1024];
    // When something arrives is no choice that a seed could repeat.
    let mut random = Random::of(&[from.peer_addr().map_or(0, |peer| u64::from(peer.port()))]);
    while let Ok(length) = from.read(&mut buffer).await
        && length > 0
    {
        let late = wire.borrow().late;
        if late > 0 {
            tokio::time::sleep(Duration::from_millis(random.below(late + 1))).await;
        }
        if wire.wait_for(|wire| !wire.stalled).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}
