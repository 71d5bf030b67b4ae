//! Sending a cancel request: a connection of its own that carries one packet.

use std::io;

use crate::clients::ServerIdentity;
use crate::net::{Stream, Wire, connect};
use crate::protocol::startup;

/// Tells the server to cancel what `target` runs. Returns when the server has closed the connection,
/// which it does after it has sent the signal.
///
/// Sent without TLS even where sessions use it: the packet's key is of use only to whoever could
/// already read the session, and servers accept it so (libpq did the same until version 17).
pub async fn send_cancel(target: &ServerIdentity) -> io::Result<()> {
    let socket = connect::connect(&target.host, target.port, None).await?;
    let mut wire = Wire::new(Stream::Plain(socket));
    startup::cancel_request(&mut wire.outbox, target.pid, &target.secret);
    wire.flush().await?;
    match wire.fill().await {
        Err(error)
            if error.kind() != io::ErrorKind::UnexpectedEof
                && error.kind() != io::ErrorKind::ConnectionReset =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}
