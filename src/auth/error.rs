//! The one error of the room: what the other side may see, and apart from it what the log should say.

use std::borrow::Cow;
use std::fmt;

use super::random::RandomFailed;

/// What went wrong; decides the SQLSTATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthErrorKind {
    /// The client did not prove that it is who it says. Also: nobody of that name.
    InvalidPassword,
    /// A message that the protocol does not allow here.
    Protocol,
    /// A well-formed wish that we do not serve.
    Unsupported,
    /// The server wants a password and none is configured.
    PasswordMissing,
    /// The server did not prove that it knows the password.
    ServerUnproven,
    /// Our own failure, such as no random bytes.
    Internal,
}

/// Who has to change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The client or its settings.
    Client,
    /// The PostgreSQL server or its settings.
    Server,
    /// pgweir or its settings.
    Pooler,
}

/// An exchange that ended without success. A retry with the same input does not help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthError {
    kind: AuthErrorKind,
    blame: Blame,
    message: String,
    detail: Option<Cow<'static, str>>,
    reason: Option<Cow<'static, str>>,
}

impl AuthError {
    /// The only thing a client learns when it did not prove its identity; `reason` is for the log.
    pub(super) fn invalid_password(user: &str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: AuthErrorKind::InvalidPassword,
            blame: Blame::Client,
            message: format!("password authentication failed for user \"{user}\""),
            detail: None,
            reason: Some(reason.into()),
        }
    }

    pub(super) fn new(kind: AuthErrorKind, blame: Blame, message: impl Into<String>) -> Self {
        Self { kind, blame, message: message.into(), detail: None, reason: None }
    }

    /// A message from `blame` that the protocol does not allow here.
    pub(super) fn protocol(blame: Blame, message: &'static str, detail: &'static str) -> Self {
        Self::new(AuthErrorKind::Protocol, blame, message).with_detail(detail)
    }

    #[must_use]
    pub(super) fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> AuthErrorKind {
        self.kind
    }

    /// Who has to change something.
    pub fn blame(&self) -> Blame {
        self.blame
    }

    /// The primary message, fit to be shown to the client.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The detail line, fit to be shown to the client.
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// Why really: for the log only, since it may tell whether a user exists.
    pub fn log_reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The SQLSTATE of an `ErrorResponse` about this.
    pub fn sqlstate(&self) -> &'static str {
        match self.kind {
            AuthErrorKind::InvalidPassword | AuthErrorKind::PasswordMissing => "28P01",
            AuthErrorKind::Protocol => "08P01",
            AuthErrorKind::Unsupported => "0A000",
            AuthErrorKind::ServerUnproven => "28000",
            AuthErrorKind::Internal => "XX000",
        }
    }
}

/// What the client may see; the log adds [`AuthError::log_reason`].
impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for AuthError {}

impl From<RandomFailed> for AuthError {
    fn from(_: RandomFailed) -> Self {
        Self::new(AuthErrorKind::Internal, Blame::Pooler, "could not generate random bytes")
    }
}
