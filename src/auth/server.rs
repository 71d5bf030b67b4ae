//! Logging in to a server: we speak the client's part.
//!
//! What the server asks is what it gets: nothing, the password in clear, salted MD5 or SCRAM-SHA-256. Once a
//! SCRAM exchange has begun, the server is believed only after it has proved that it knows the password too.

use std::fmt;
use std::mem;
use std::sync::Arc;

use super::cache::{DeriveWork, KeyCell, ScramCache};
use super::digest;
use super::error::{AuthError, AuthErrorKind, Blame};
use super::random::Random;
use super::scram::prove::{Challenged, Opening, Proven};
use super::scram::{self, MECHANISM};
use super::wire::{self, code};
use crate::config::Secret;

/// What the caller does next.
#[derive(Debug)]
#[must_use]
pub enum ServerStep {
    /// Send this body as a response (`p`), then hand the next request (`R`) in.
    Send(Vec<u8>),
    /// Nothing to send; the next request (`R`) will come by itself.
    Continue,
    /// Run the work off the event loop, then call [`ServerExchange::on_derived`].
    Derive(DeriveWork),
    /// The server said `AuthenticationOk`.
    Done,
    /// No login on this connection: close it.
    Fail(AuthError),
}

/// One login. Errors of the server (`ErrorResponse`) are the caller's business and end it too.
pub struct ServerExchange {
    user: String,
    password: Option<Secret>,
    cache: Arc<ScramCache>,
    state: State,
}

enum State {
    /// No request has come yet.
    Start,
    /// A password went out; the verdict is awaited.
    Answered,
    /// Our first SCRAM message is out.
    Opened(Opening),
    /// The keys of the server's challenge are being derived.
    Deriving { cell: KeyCell, challenged: Challenged },
    /// Our proof is out; the server's is awaited.
    Proven(Proven),
    /// It came and is right; the verdict is awaited.
    ServerProven,
    /// Over, either way.
    Done,
}

impl ServerExchange {
    /// A login as `user`; without a password only a server that trusts us lets us in.
    pub fn new(user: &str, password: Option<&Secret>, cache: Arc<ScramCache>) -> Self {
        Self { user: user.to_owned(), password: password.cloned(), cache, state: State::Start }
    }

    /// Takes the body of an authentication request (`R`).
    pub fn on_request(&mut self, body: &[u8], random: &dyn Random) -> ServerStep {
        self.advance(body, random).unwrap_or_else(|error| self.fail(error))
    }

    /// Goes on after the work of a [`ServerStep::Derive`] has run.
    pub fn on_derived(&mut self) -> ServerStep {
        let State::Deriving { cell, challenged } = mem::replace(&mut self.state, State::Done) else {
            return self.fail(unexpected("No keys were to be derived."));
        };
        match cell.get() {
            Some(keys) => self.prove(challenged, keys),
            None => {
                self.fail(AuthError::new(AuthErrorKind::Internal, Blame::Pooler, "keys were not derived"))
            }
        }
    }

    fn fail(&mut self, error: AuthError) -> ServerStep {
        self.state = State::Done;
        ServerStep::Fail(error)
    }

    fn advance(&mut self, body: &[u8], random: &dyn Random) -> Result<ServerStep, AuthError> {
        let (code, data) = wire::split_request(body).ok_or_else(|| unexpected("It is too short."))?;
        match (mem::replace(&mut self.state, State::Done), code) {
            (State::Start | State::Answered | State::ServerProven, code::OK) if data.is_empty() => {
                Ok(ServerStep::Done)
            }
            (State::Start, code::CLEARTEXT_PASSWORD) if data.is_empty() => {
                let response = wire::password_message(self.password()?.expose().as_bytes());
                self.state = State::Answered;
                Ok(ServerStep::Send(response))
            }
            (State::Start, code::MD5_PASSWORD) => self.on_md5(data),
            (State::Start, code::SASL) => self.on_sasl(data, random),
            (State::Opened(opening), code::SASL_CONTINUE) => self.on_challenge(opening, data),
            (State::Proven(proven), code::SASL_FINAL) => {
                proven.check(data)?;
                self.state = State::ServerProven;
                Ok(ServerStep::Continue)
            }
            (State::Opened(_) | State::Proven(_), code::OK) => Err(AuthError::new(
                AuthErrorKind::ServerUnproven,
                Blame::Server,
                "the server ended the SCRAM exchange without proving that it knows the password",
            )),
            (State::Start, code) => Err(unknown_method(code)),
            _ => Err(unexpected("It does not belong here.")),
        }
    }

    fn on_md5(&mut self, data: &[u8]) -> Result<ServerStep, AuthError> {
        let salt: [u8; 4] = data.try_into().map_err(|_| unexpected("The salt is not of four bytes."))?;
        let stored = digest::md5_stored(&self.user, self.password()?.expose().as_bytes());
        let response = [b"md5".as_slice(), &digest::md5_salted(&stored, salt)].concat();
        self.state = State::Answered;
        Ok(ServerStep::Send(wire::password_message(&response)))
    }

    fn on_sasl(&mut self, mechanisms: &[u8], random: &dyn Random) -> Result<ServerStep, AuthError> {
        match wire::offers_mechanism(mechanisms, MECHANISM) {
            None => return Err(unexpected("The list of SASL mechanisms does not end.")),
            Some(false) => {
                return Err(unsupported("the server offers no SASL mechanism but ones we do not know"));
            }
            Some(true) => {}
        }
        self.password()?;
        let opening = Opening::new(scram::nonce(random)?);
        let response = wire::sasl_initial_response(MECHANISM, &opening.message());
        self.state = State::Opened(opening);
        Ok(ServerStep::Send(response))
    }

    fn on_challenge(&mut self, opening: Opening, data: &[u8]) -> Result<ServerStep, AuthError> {
        let challenged = opening.challenge(data)?;
        let password = self.password()?;
        let cell = self.cache.cell(&self.user, password, &challenged.salt, challenged.iterations);
        if let Some(keys) = cell.get() {
            return Ok(self.prove(challenged, keys));
        }
        let work = DeriveWork::new(
            Arc::clone(&cell),
            password.expose().as_bytes(),
            &challenged.salt,
            challenged.iterations,
        );
        self.state = State::Deriving { cell, challenged };
        Ok(ServerStep::Derive(work))
    }

    fn prove(&mut self, challenged: Challenged, keys: &super::keys::ScramKeys) -> ServerStep {
        let (message, proven) = challenged.prove(keys);
        self.state = State::Proven(proven);
        ServerStep::Send(message)
    }

    /// An empty password is none: PostgreSQL never accepts it.
    fn password(&self) -> Result<&Secret, AuthError> {
        self.password.as_ref().filter(|password| !password.expose().is_empty()).ok_or_else(|| {
            AuthError::new(
                AuthErrorKind::PasswordMissing,
                Blame::Pooler,
                format!("the server asks for the password of user \"{}\", and none is configured", self.user),
            )
        })
    }
}

fn unexpected(detail: &'static str) -> AuthError {
    AuthError::protocol(Blame::Server, "unexpected authentication request from the server", detail)
}

fn unsupported(message: impl Into<String>) -> AuthError {
    AuthError::new(AuthErrorKind::Unsupported, Blame::Server, message)
}

fn unknown_method(code: u32) -> AuthError {
    let name = match code {
        code::KERBEROS_V5 => "Kerberos V5",
        code::SCM_CREDENTIAL => "SCM credentials",
        code::GSS | code::GSS_CONTINUE => "GSSAPI",
        code::SSPI => "SSPI",
        code::CLEARTEXT_PASSWORD | code::OK => return unexpected("It is too long."),
        code::SASL_CONTINUE | code::SASL_FINAL => return unexpected("No SASL exchange has begun."),
        _ => return unsupported(format!("the server asks for authentication method {code}, unknown to us")),
    };
    unsupported(format!("the server asks for authentication by {name}, which is not supported"))
}

impl fmt::Debug for ServerExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Start => "start",
            State::Answered => "answered",
            State::Opened(_) => "opened",
            State::Deriving { .. } => "deriving",
            State::Proven(_) => "proven",
            State::ServerProven => "server proven",
            State::Done => "done",
        };
        f.debug_struct("ServerExchange")
            .field("user", &self.user)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
