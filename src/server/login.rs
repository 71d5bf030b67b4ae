//! Opening a server connection: TCP, TLS, startup, authentication, first ReadyForQuery.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::auth::{AuthError, ScramCache, ServerExchange, ServerStep, SystemRandom};
use crate::clients::ServerIdentity;
use crate::cluster::{Endpoint, NodeAddress};
use crate::config::{Secret, ServerTlsMode};
use crate::net::stream::Socket;
use crate::net::tls::ServerTlsConnector;
use crate::net::{Stream, Wire, connect};
use crate::protocol::frame::SERVER_FRAME_LIMIT;
use crate::protocol::parameters::Parameters;
use crate::protocol::{
    BackendTag, ErrorFields, FrameError, Malformed, Reader, SqlState, frame, frontend, parameters, startup,
};
use crate::task;

use super::connection::{ServerConn, ServerInfo};

/// Longest message accepted before the login is done.
const LOGIN_FRAME_LIMIT: usize = 64 * 1024;

/// Where and as whom to log in.
#[derive(Clone)]
pub struct ServerTarget {
    /// The node.
    pub address: NodeAddress,
    /// Which of the addresses of its name; `None`: any.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Database on the server.
    pub database: String,
    /// User on the server.
    pub user: String,
    /// Its password.
    pub password: Option<Secret>,
    /// TLS, shared by all connections; `None` when the mode is disable.
    pub tls: Option<Arc<ServerTlsConnector>>,
    /// How much TLS.
    pub tls_mode: ServerTlsMode,
    /// Derived SCRAM keys, shared by all connections.
    pub scram: Arc<ScramCache>,
    /// Bound on all of it.
    pub timeout: Duration,
    /// `replication` startup parameter and the like.
    pub extra: Vec<(String, String)>,
}

impl std::fmt::Debug for ServerTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}/{}", self.user, self.address, self.database)
    }
}

/// Why no server connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The socket failed: refused, reset, name not found.
    #[error("could not connect to {address}: {error}")]
    Io {
        /// The node.
        address: NodeAddress,
        /// What the system said.
        error: io::Error,
    },
    /// It took longer than `timeouts.server_connect`.
    #[error("could not connect to {address} within {} ms", timeout.as_millis())]
    Timeout {
        /// The node.
        address: NodeAddress,
        /// The bound.
        timeout: Duration,
    },
    /// The server does not offer TLS and we demand it.
    #[error("{address} does not support TLS, but tls.server.mode demands it")]
    TlsRefused {
        /// The node.
        address: NodeAddress,
    },
    /// The server said no.
    #[error("{address}: {message} ({code})")]
    Refused {
        /// The node.
        address: NodeAddress,
        /// Its SQLSTATE.
        code: SqlState,
        /// Its message.
        message: String,
    },
    /// The exchange failed on our side: no password, a bad signature.
    #[error("could not log in to {address}: {error}")]
    Auth {
        /// The node.
        address: NodeAddress,
        /// What failed.
        error: AuthError,
    },
    /// The server does not speak the protocol.
    #[error("{address} does not speak the PostgreSQL protocol: {what}")]
    Protocol {
        /// The node.
        address: NodeAddress,
        /// What was wrong.
        what: String,
    },
}

impl ConnectError {
    /// Whether the node itself is to blame, so that it counts as down: nobody answers, or it answers
    /// that it is starting up or shutting down. A full server or a wrong password does not count.
    pub fn is_node_down(&self) -> bool {
        match self {
            Self::Io { .. } | Self::Timeout { .. } => true,
            Self::Refused { code, .. } => {
                matches!(
                    *code,
                    SqlState::CANNOT_CONNECT_NOW | SqlState::ADMIN_SHUTDOWN | SqlState::CONNECTION_FAILURE
                )
            }
            Self::TlsRefused { .. } | Self::Auth { .. } | Self::Protocol { .. } => false,
        }
    }
}

enum LoginError {
    Io(io::Error),
    TlsRefused,
    Refused(SqlState, String),
    Auth(AuthError),
    Protocol(String),
}

impl From<io::Error> for LoginError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<FrameError> for LoginError {
    fn from(error: FrameError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<Malformed> for LoginError {
    fn from(error: Malformed) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl ServerConn {
    /// Opens a connection and logs in.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket; nothing else holds it.
    pub async fn connect(target: &ServerTarget) -> Result<Self, ConnectError> {
        let address = || target.address.clone();
        match tokio::time::timeout(target.timeout, open(target)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(LoginError::Io(error))) => Err(ConnectError::Io { address: address(), error }),
            Ok(Err(LoginError::TlsRefused)) => Err(ConnectError::TlsRefused { address: address() }),
            Ok(Err(LoginError::Auth(error))) => Err(ConnectError::Auth { address: address(), error }),
            Ok(Err(LoginError::Protocol(what))) => Err(ConnectError::Protocol { address: address(), what }),
            Ok(Err(LoginError::Refused(code, message))) => {
                Err(ConnectError::Refused { address: address(), code, message })
            }
            Err(_) => Err(ConnectError::Timeout { address: address(), timeout: target.timeout }),
        }
    }
}

async fn open(target: &ServerTarget) -> Result<ServerConn, LoginError> {
    let NodeAddress { host, port } = &target.address;
    let socket = connect::connect(host, *port, target.endpoint.as_ref().and_then(|e| e.address())).await?;
    let (local, remote) = addresses(&socket, &target.address);
    let stream = secure(socket, target).await?;
    let tls = stream.tls_description();
    let mut wire = Wire::new(stream);
    let fixed = [("user", target.user.as_str()), ("database", target.database.as_str())];
    let extra = target.extra.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    startup::startup_message(&mut wire.outbox, fixed.into_iter().chain(extra));
    wire.flush().await?;
    authenticate(&mut wire, target).await?;
    let (parameters, pid, secret) = finish_startup(&mut wire).await?;
    wire.release_buffers();
    // A cancel request must reach the same server, whatever the name leads to by then.
    let at = if target.address.is_name() && !remote.0.is_empty() { &remote.0 } else { host };
    let identity = ServerIdentity::new(at.clone(), *port, pid, secret, next_id());
    let info = ServerInfo::new(Arc::new(identity), local, remote, tls);
    Ok(ServerConn::new(wire, info, parameters))
}

/// The number of the next server connection.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Numbers server connections; starts at 1.
fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// How many server connections the process has opened so far.
pub fn connections_opened() -> u64 {
    NEXT_ID.load(Ordering::Relaxed) - 1
}

fn addresses(socket: &Socket, node: &NodeAddress) -> ((String, u16), (String, u16)) {
    match socket {
        Socket::Tcp(tcp) => {
            let text = |address: io::Result<std::net::SocketAddr>| {
                address.map_or_else(|_| (String::new(), 0), |a| (a.ip().to_string(), a.port()))
            };
            (text(tcp.local_addr()), text(tcp.peer_addr()))
        }
        Socket::Unix(_) | Socket::Resting(_) | Socket::Moved => {
            ((String::new(), 0), (node.host.clone(), node.port))
        }
    }
}

async fn secure(mut socket: Socket, target: &ServerTarget) -> Result<Stream, LoginError> {
    // libpq does the same: TLS makes no sense on a unix socket.
    let Some(tls) = &target.tls else { return Ok(Stream::Plain(socket)) };
    if target.tls_mode == ServerTlsMode::Disable || matches!(socket, Socket::Unix(_)) {
        return Ok(Stream::Plain(socket));
    }
    let mut request = bytes::BytesMut::new();
    startup::ssl_request(&mut request);
    socket.write_all(&request).await?;
    // Exactly one byte: anything behind it that came unencrypted would be smuggled into the session.
    match socket.read_u8().await? {
        b'S' => {
            let name = tls
                .server_name(&target.address.host)
                .map_err(|error| LoginError::Protocol(error.to_string()))?;
            let connector = tokio_rustls::TlsConnector::from(tls.current());
            let stream = connector.connect(name, socket).await?;
            Ok(Stream::TlsConnected(Box::new(stream)))
        }
        b'N' if target.tls_mode == ServerTlsMode::Prefer => Ok(Stream::Plain(socket)),
        b'N' => Err(LoginError::TlsRefused),
        byte => Err(LoginError::Protocol(format!("unexpected answer {byte:#04x} to SSLRequest"))),
    }
}

/// Takes the next message off the wire and hands its body to `look`.
async fn next_message<T>(
    wire: &mut Wire,
    limit: usize,
    look: impl FnOnce(BackendTag, &[u8]) -> Result<T, LoginError>,
) -> Result<T, LoginError> {
    loop {
        if let Some((header, body, _)) = frame::split(&wire.inbox, limit)? {
            let tag = BackendTag(header.tag);
            if tag == BackendTag::ERROR_RESPONSE {
                let fields = ErrorFields::read(body);
                let code = fields.sqlstate().unwrap_or(SqlState::INTERNAL_ERROR);
                return Err(LoginError::Refused(code, fields.message_lossy().into_owned()));
            }
            let result = look(tag, body);
            bytes::Buf::advance(&mut wire.inbox, header.total_len);
            return result;
        }
        wire.fill().await?;
    }
}

async fn authenticate(wire: &mut Wire, target: &ServerTarget) -> Result<(), LoginError> {
    let mut exchange = ServerExchange::new(&target.user, target.password.as_ref(), Arc::clone(&target.scram));
    loop {
        let mut step = next_message(wire, LOGIN_FRAME_LIMIT, |tag, body| match tag {
            BackendTag::AUTHENTICATION => Ok(exchange.on_request(body, &SystemRandom)),
            BackendTag::NOTICE_RESPONSE | BackendTag::NEGOTIATE_PROTOCOL_VERSION => Ok(ServerStep::Continue),
            other => Err(LoginError::Protocol(format!("unexpected message {:#04x} during login", other.0))),
        })
        .await?;
        if let ServerStep::Derive(work) = step {
            // PBKDF2 takes a millisecond: not on the event loop.
            task::spawn_blocking(move || work.run())
                .await
                .map_err(|error| LoginError::Protocol(error.to_string()))?;
            step = exchange.on_derived();
        }
        match step {
            ServerStep::Send(body) => {
                frontend::password(&mut wire.outbox, &body);
                wire.flush().await?;
            }
            ServerStep::Continue => {}
            ServerStep::Done => return Ok(()),
            ServerStep::Fail(error) => return Err(LoginError::Auth(error)),
            ServerStep::Derive(_) => {
                return Err(LoginError::Protocol("key derivation asked for twice".into()));
            }
        }
    }
}

async fn finish_startup(wire: &mut Wire) -> Result<(Parameters, i32, Vec<u8>), LoginError> {
    let mut reported = Parameters::default();
    let (mut pid, mut secret) = (0, Vec::new());
    loop {
        let ready = next_message(wire, SERVER_FRAME_LIMIT.min(LOGIN_FRAME_LIMIT), |tag, body| {
            match tag {
                BackendTag::PARAMETER_STATUS => {
                    let (name, value) = parameters::parse(body)?;
                    reported.insert(name, value);
                }
                BackendTag::BACKEND_KEY_DATA => {
                    let mut reader = Reader::new(body);
                    pid = reader.i32()?;
                    secret = reader.rest().to_vec();
                }
                BackendTag::READY_FOR_QUERY => return Ok(true),
                BackendTag::NOTICE_RESPONSE => {}
                other => {
                    return Err(LoginError::Protocol(format!(
                        "unexpected message {:#04x} at startup",
                        other.0
                    )));
                }
            }
            Ok(false)
        })
        .await?;
        if ready {
            return Ok((reported, pid, secret));
        }
    }
}
