//! The first packets of a connection: TLS or not, cancel or session.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use crate::clients::ClientId;
use crate::config::ClientTlsMode;
use crate::net::listen::Peer;
use crate::net::stream::Socket;
use crate::net::tls::is_postgres;
use crate::net::{Stream, Wire};
use crate::protocol::startup::{
    self, CancelRequest, FirstPacket, StartupError, StartupMessage, TLS_HANDSHAKE_BYTE,
};
use crate::protocol::{ErrorResponse, SqlState};
use crate::server::send_cancel;

use super::context::SessionContext;
use super::login;

/// What the first packets came to.
enum Opening {
    /// A session is wanted.
    Session(Wire, StartupMessage),
    /// Nothing more to do.
    Done,
}

/// Serves one connection from accept to close.
///
/// # Cancel safety
/// Dropped at any point, it closes its sockets; a server connection that is not clean is closed, too.
pub fn serve(
    context: Arc<SessionContext>,
    socket: Socket,
    peer: Peer,
) -> impl Future<Output = ()> + Send + 'static {
    // Boxed: what a login needs is given back before the session begins.
    let session = Box::pin(log_in(context, socket, peer));
    async move {
        if let Some(session) = session.await {
            session.run().await;
        }
    }
}

/// From accept to a session, if that is what the client wants and may have.
async fn log_in(context: Arc<SessionContext>, socket: Socket, peer: Peer) -> Option<login::Session> {
    let login_timeout = context.topology.load().config.timeouts.client_login;
    let _counted = context.clients.login_begins();
    let opened = pin!(async {
        match open(&context, socket).await {
            Ok(Opening::Session(wire, startup)) => login::login(&context, wire, startup, &peer).await,
            Ok(Opening::Done) => None,
            Err(error) => {
                tracing::debug!(%error, ?peer, "connection ended before login");
                None
            }
        }
    });
    if login_timeout.is_zero() {
        opened.await
    } else {
        match tokio::time::timeout(login_timeout, opened).await {
            Ok(session) => session,
            Err(_) => {
                tracing::info!(?peer, "login took longer than timeouts.client_login");
                None
            }
        }
    }
}

async fn open(context: &SessionContext, socket: Socket) -> std::io::Result<Opening> {
    let tls = context.tls.load_full();
    let mode = context.topology.load().config.tls.client.mode;
    let mut stream = Stream::Plain(socket);
    if let (Some(acceptor), Stream::Plain(Socket::Tcp(tcp))) = (tls.as_ref(), &stream) {
        let mut first = [0];
        if tcp.peek(&mut first).await? == 1 && first == [TLS_HANDSHAKE_BYTE] {
            stream = handshake(stream, acceptor.current()).await?;
            if let Stream::TlsAccepted(tls) = &stream {
                // Without the protocol's own name another protocol could be tricked into talking to us.
                if !is_postgres(tls.get_ref().1.alpn_protocol()) {
                    return Ok(Opening::Done);
                }
            }
        }
    }
    loop {
        let mut wire = Wire::new(stream);
        let packet = loop {
            match startup::take(&mut wire.inbox) {
                Ok(Some(packet)) => break packet,
                Ok(None) => wire.fill().await.map(drop)?,
                Err(error) => {
                    refuse(&mut wire, &startup_error(&error)).await?;
                    return Ok(Opening::Done);
                }
            }
        };
        match packet {
            FirstPacket::Cancel(request) => {
                cancel(context, &request).await;
                return Ok(Opening::Done);
            }
            FirstPacket::SslRequest | FirstPacket::GssEncRequest if !wire.inbox.is_empty() => {
                // Sent before the answer, in clear text: it must not be taken for part of the session.
                let error = ErrorResponse::fatal(
                    SqlState::PROTOCOL_VIOLATION,
                    "received unencrypted data after SSL or GSSAPI encryption request",
                );
                refuse(&mut wire, &error).await?;
                return Ok(Opening::Done);
            }
            FirstPacket::GssEncRequest => {
                stream = wire.into_stream();
                stream.write_all(b"N").await?;
            }
            FirstPacket::SslRequest => {
                stream = wire.into_stream();
                match tls.as_ref() {
                    Some(acceptor) if !stream.is_tls() => {
                        stream.write_all(b"S").await?;
                        stream = handshake(stream, acceptor.current()).await?;
                    }
                    _ => stream.write_all(b"N").await?,
                }
            }
            FirstPacket::Startup(message) => {
                if mode == ClientTlsMode::Require && !wire.stream().is_tls() && is_tcp(wire.stream()) {
                    let error = ErrorResponse::fatal(SqlState::INVALID_AUTHORIZATION, "TLS is required")
                        .hint("Connect with sslmode=require.");
                    refuse(&mut wire, &error).await?;
                    return Ok(Opening::Done);
                }
                return Ok(Opening::Session(wire, message));
            }
        }
    }
}

fn is_tcp(stream: &Stream) -> bool {
    !matches!(stream, Stream::Plain(Socket::Unix(_)))
}

async fn handshake(stream: Stream, config: Arc<rustls::ServerConfig>) -> std::io::Result<Stream> {
    let Stream::Plain(socket) = stream else { return Ok(stream) };
    let tls = tokio_rustls::TlsAcceptor::from(config).accept(socket).await?;
    Ok(Stream::TlsAccepted(Box::new(tls)))
}

fn startup_error(error: &StartupError) -> ErrorResponse {
    let code = match error {
        StartupError::Version { .. } => SqlState::FEATURE_NOT_SUPPORTED,
        StartupError::Length | StartupError::Layout(_) => SqlState::PROTOCOL_VIOLATION,
    };
    ErrorResponse::fatal(code, error.to_string())
}

/// Sends an error and closes.
pub(super) async fn refuse(wire: &mut Wire, error: &ErrorResponse) -> std::io::Result<()> {
    let mut out = BytesMut::new();
    error.write(&mut out);
    wire.outbox.extend_from_slice(&out);
    wire.flush().await?;
    wire.shutdown().await;
    Ok(())
}

/// Passes a cancel request on, if its key is right. The client is told nothing, whatever comes of it.
async fn cancel(context: &SessionContext, request: &CancelRequest) {
    let id = ClientId(request.pid.cast_unsigned());
    let Some(target) = context.clients.cancel_target(id, &request.key) else {
        tracing::debug!(client = id.0, "cancel request for nothing");
        return;
    };
    let limit = context.topology.load().config.timeouts.server_connect;
    match tokio::time::timeout(limit, send_cancel(&target)).await {
        Ok(Ok(())) => tracing::debug!(client = id.0, server = %target.host, "cancel request passed on"),
        Ok(Err(error)) => {
            tracing::warn!(client = id.0, server = %target.host, %error, "cancel request failed");
        }
        Err(_) => tracing::warn!(client = id.0, server = %target.host, "cancel request timed out"),
    }
}

/// Whether the process takes no new sessions.
pub(super) fn is_draining(context: &SessionContext) -> bool {
    context.draining.load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::ClientHandle;
    use crate::session::client::ClientSession;

    /// What a task has that `serve`s.
    fn size_of_task<F: Future>(_: fn(Arc<SessionContext>, Socket, Peer) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn idle_clients_wait_in_little_room() {
        let (task, session) = (size_of_task(serve), size_of::<ClientSession>());
        assert!(task <= 96, "the task takes {task} bytes, and 256 with what the runtime adds");
        // The allocator's next classes are 1,280 bytes and 384, with the counts of an Arc.
        assert!(session <= 1024, "the session takes {session} bytes");
        let handle = size_of::<ClientHandle>() + 16;
        assert!(handle <= 320, "the handle takes {handle} bytes");
    }
}
