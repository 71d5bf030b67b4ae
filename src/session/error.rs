//! Why a session ends, and what the client is told.

use std::io;
use std::time::Duration;

use crate::clients::Order;
use crate::cluster::LeadStatus;
use crate::config::PoolMode;
use crate::pool::CheckoutError;
use crate::protocol::{ErrorResponse, FrameError, Malformed, SqlState};
use crate::route::Reason;
use crate::server::QueryError;

/// The end of a session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The client went away; there is nobody to tell.
    #[error("client disconnected: {0}")]
    ClientGone(io::Error),
    /// The server connection was lost while it owed an answer.
    #[error("server connection lost: {0}")]
    ServerLost(String),
    /// The server ended the connection with an error that the client was given already.
    #[error("server ended the connection: {0}")]
    ServerEnded(String),
    /// A replica gave an error that another node may spare the client.
    #[error("{message}")]
    Elsewhere {
        /// Why.
        reason: Reason,
        /// The server's words.
        message: String,
    },
    /// The client broke the protocol.
    #[error("protocol violation: {0}")]
    Protocol(String),
    /// A limit of the client's was exceeded.
    #[error("{0}")]
    Limit(String),
    /// A server does not accept the settings of the session: the statement was not run.
    #[error("{}", .0.message)]
    Settings(Box<ErrorResponse>),
    /// The client is told this, and then the session ends.
    #[error("{}", .0.message)]
    Refused(Box<ErrorResponse>),
    /// Somebody told the session to end.
    #[error("session ended by order: {0:?}")]
    Ordered(Order),
    /// A transaction in pool mode statement.
    #[error("transaction in pool mode {}", .0.as_str())]
    Mode(PoolMode),
}

impl From<FrameError> for SessionError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooShort { .. } => Self::Protocol(error.to_string()),
            FrameError::TooLong { .. } => Self::Limit(error.to_string()),
        }
    }
}

impl From<Malformed> for SessionError {
    fn from(error: Malformed) -> Self {
        Self::Protocol(error.0.to_owned())
    }
}

impl From<QueryError> for SessionError {
    fn from(error: QueryError) -> Self {
        Self::ServerLost(error.to_string())
    }
}

impl SessionError {
    /// What the client is told before the connection closes; `None` when there is nobody or nothing to tell.
    pub fn response(&self) -> Option<ErrorResponse> {
        let fatal = |code, message: String| ErrorResponse::fatal(code, message);
        Some(match self {
            Self::ClientGone(_) | Self::ServerEnded(_) => return None,
            Self::Elsewhere { message: detail, .. } | Self::ServerLost(detail) => {
                fatal(SqlState::CONNECTION_FAILURE, "server connection was lost".to_owned())
                    .detail(detail.clone())
                    .hint("Connect again; whether the last statement took effect is not known.")
            }
            Self::Protocol(what) => fatal(SqlState::PROTOCOL_VIOLATION, what.clone()),
            Self::Limit(what) => fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, what.clone())
                .hint("Raise limits.message_size in pooler.yaml if such messages are meant."),
            Self::Mode(mode) => fatal(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("transaction blocks are not allowed in pool mode {}", mode.as_str()),
            )
            .hint("Use pool mode transaction for this database or user."),
            Self::Refused(response) => (**response).clone(),
            Self::Settings(response) => (**response).clone().into_fatal(),
            Self::Ordered(order) => ordered(*order)?,
        })
    }
}

fn ordered(order: Order) -> Option<ErrorResponse> {
    let fatal = ErrorResponse::fatal;
    Some(match order {
        Order::None => return None,
        Order::Drain | Order::Shutdown => {
            fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection: the pooler is shutting down")
                .hint("Connect again.")
        }
        Order::NotificationOverflow => fatal(
            SqlState::CONFIGURATION_LIMIT_EXCEEDED,
            "terminating connection: too many notifications wait for this client",
        )
        .detail("The client does not read them, or has had a transaction open for too long.")
        .hint("limits.notifications_per_client in pooler.yaml bounds them."),
        Order::ListenerLost => fatal(
            SqlState::ADMIN_SHUTDOWN,
            "terminating connection: the server connection that receives its notifications was lost",
        )
        .hint("Connect again, LISTEN, and look for what was missed meanwhile."),
        Order::PrimaryChanged => fatal(
            SqlState::ADMIN_SHUTDOWN,
            "terminating connection: its server is no longer the primary",
        )
        .detail("Another node has taken over; what this transaction has done is lost unless it was acknowledged before.")
        .hint("Connect again; whether the last statement took effect is not known."),
        Order::Kill => fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command"),
        Order::IdleTimeout => {
            fatal(SqlState::IDLE_SESSION_TIMEOUT, "terminating connection due to idle timeout")
                .hint("timeouts.client_idle in pooler.yaml sets it.")
        }
        Order::IdleInTransactionTimeout => fatal(
            SqlState::IDLE_IN_TRANSACTION_TIMEOUT,
            "terminating connection due to idle-in-transaction timeout",
        )
        .hint("timeouts.idle_in_transaction in pooler.yaml sets it."),
        Order::TransactionTimeout => {
            fatal(SqlState::TRANSACTION_TIMEOUT, "terminating connection due to transaction timeout")
                .hint("timeouts.transaction in pooler.yaml sets it.")
        }
        Order::QueryTimeout => fatal(SqlState::QUERY_CANCELED, "canceling statement due to query timeout")
            .hint("timeouts.query in pooler.yaml sets it."),
    })
}

/// What a client is told when it gets no server connection.
pub fn checkout_response(error: &CheckoutError, pool_size: usize) -> ErrorResponse {
    match error {
        CheckoutError::Timeout { waited } => ErrorResponse::error(
            SqlState::TOO_MANY_CONNECTIONS,
            "no server connection became free in time",
        )
        .detail(format!("All {pool_size} server connections of the pool were in use for {} ms.", waited.as_millis()))
        .hint("Raise pool.size or pool.checkout_timeout in pooler.yaml, or look for long transactions with SHOW CLIENTS."),
        CheckoutError::Connect(cause) => {
            use crate::server::ConnectError;
            let (code, text) = match &**cause {
                ConnectError::Refused { code, .. } => (*code, "server refused the connection"),
                ConnectError::Auth { .. } => (SqlState::INVALID_PASSWORD, "could not log in to the server"),
                _ => (SqlState::CANNOT_CONNECT_NOW, "could not connect to the server"),
            };
            ErrorResponse::error(code, text).detail(format!("{cause}."))
        }
        CheckoutError::Canceled => {
            ErrorResponse::error(SqlState::QUERY_CANCELED, "canceling statement due to user request")
        }
        CheckoutError::Closed | CheckoutError::Moved => {
            ErrorResponse::error(SqlState::CANNOT_CONNECT_NOW, "the pool was closed by a configuration change")
                .hint("Connect again.")
        }
    }
}

/// What a client is told whose statement needs a primary, while there is none.
pub fn no_primary(database: &str, status: LeadStatus, waited: Duration) -> ErrorResponse {
    let response = |message: &str, detail: String| {
        ErrorResponse::error(SqlState::CANNOT_CONNECT_NOW, message.to_owned()).detail(detail)
    };
    if status == LeadStatus::Ambiguous {
        return response(
            "writes are refused: there is more than one primary",
            format!("Several nodes of database \"{database}\" are out of recovery, and nothing tells which one is right."),
        )
        .hint("SHOW CLUSTER on the admin console shows them. Stop the wrong one; docs/failover.md tells how to find out.");
    }
    response(
        "there is no primary",
        format!("No node of database \"{database}\" is known to take writes. Waited for {} ms.", waited.as_millis()),
    )
    .hint("SHOW CLUSTER on the admin console tells what each node says. routing.failover_wait in pooler.yaml bounds the wait.")
}
