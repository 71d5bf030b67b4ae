//! The HTTP endpoint wired to this process: what it shows and what it checks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::admin::Console;
use crate::cluster::NodeState;
use crate::observe::http::{Check, HttpState};
use crate::observe::metrics::Exporter;
use crate::protocol::startup;
use crate::session::SessionContext;

/// The state of the endpoint. `listening` is one of our own addresses, for the liveness check.
pub(super) fn state(
    context: &Arc<SessionContext>,
    exporter: Option<Exporter>,
    listening: Option<SocketAddr>,
) -> HttpState {
    let console = context.console.clone();
    let for_ready = Arc::clone(context);
    HttpState {
        metrics: Arc::new(move || render(&console, exporter.as_ref())),
        live: live(listening),
        ready: Arc::new(move || ready(&for_ready)),
    }
}

fn render(console: &Console, exporter: Option<&Exporter>) -> String {
    console.refresh_metrics();
    exporter.map_or_else(String::new, Exporter::render)
}

/// Traffic should come while we are not draining and some database has a node that answers.
fn ready(context: &SessionContext) -> Result<(), String> {
    if context.draining.load(Ordering::Acquire) {
        return Err("draining".to_owned());
    }
    let topology = context.topology.load();
    let usable = |state| matches!(state, NodeState::Up | NodeState::Lagging | NodeState::Recovering);
    if topology.nodes().any(|node| usable(node.state())) {
        Ok(())
    } else {
        Err("no server answers".to_owned())
    }
}

/// A process that is up but dead is noticed: a client's first packet goes through the accept loop and a
/// session task, and is answered.
fn live(listening: Option<SocketAddr>) -> Check {
    Arc::new(move || {
        Box::pin(async move {
            let Some(address) = listening else { return Ok(()) };
            ask_ourselves(reachable(address))
                .await
                .map_err(|error| format!("our own listener does not answer: {error}"))
        })
    })
}

async fn ask_ourselves(address: SocketAddr) -> std::io::Result<()> {
    let mut socket = TcpStream::connect(address).await?;
    let mut request = bytes::BytesMut::new();
    startup::ssl_request(&mut request);
    socket.write_all(&request).await?;
    match socket.read_u8().await? {
        b'S' | b'N' => Ok(()),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

/// A wildcard address is reached over loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
