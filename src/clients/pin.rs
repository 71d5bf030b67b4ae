//! Why a client keeps its server connection outside transactions, as others see it.

use std::time::SystemTime;

/// What the client has in its session that lives in one server connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PinReason {
    /// Temporary tables, views, sequences, functions or types.
    TemporaryObject,
    /// DECLARE … WITH HOLD.
    HoldCursor,
    /// Session-level advisory locks.
    AdvisoryLock,
    /// SQL-level PREPARE.
    SqlPrepare,
    /// LISTEN where the shared listener cannot serve.
    Listen,
    /// `nextval` was called and `session.sequences` is `pin`.
    Sequence,
    /// LOAD, or a setting that cannot be carried over: until the client disconnects.
    UntilDisconnect,
}

impl PinReason {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::TemporaryObject,
        Self::HoldCursor,
        Self::AdvisoryLock,
        Self::SqlPrepare,
        Self::Listen,
        Self::Sequence,
        Self::UntilDisconnect,
    ];

    /// The name shown in the console, in logs and in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::TemporaryObject => "temporary_object",
            Self::HoldCursor => "hold_cursor",
            Self::AdvisoryLock => "advisory_lock",
            Self::SqlPrepare => "sql_prepare",
            Self::Listen => "listen",
            Self::Sequence => "sequence",
            Self::UntilDisconnect => "until_disconnect",
        }
    }
}

/// A pin as the console shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// What is kept.
    pub reason: PinReason,
    /// The kind of statement after which it was found.
    pub cause: &'static str,
    /// Since when.
    pub since: SystemTime,
    /// The node, as shown.
    pub node: String,
    /// The process there.
    pub pid: i32,
}
