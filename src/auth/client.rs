//! One client proving who it is: we speak PostgreSQL's part.
//!
//! | method | configured | what happens |
//! |---|---|---|
//! | trust | anything | accepted at once |
//! | password | plain, verifier, MD5 hash | the clear text is checked against any of them |
//! | md5 | plain, MD5 hash | salted MD5 |
//! | md5 | verifier | SCRAM-SHA-256, as in PostgreSQL |
//! | scram-sha-256 | plain, verifier | SCRAM-SHA-256 |
//! | scram-sha-256 | MD5 hash | cannot succeed: refused at the end, the log says why |
//! | any but trust | nothing usable | the exchange of that method, refused at the end |

use std::fmt;
use std::mem;
use std::sync::Arc;

use super::cache::{DeriveWork, KeyCell};
use super::credential::{AccountKeys, ClientAuthenticator, Credential, ScramAccount};
use super::digest::{self, Md5Hex};
use super::error::{AuthError, AuthErrorKind, Blame};
use super::keys::StoredKeys;
use super::random::{Random, RandomFailed};
use super::scram::verify::{Answer, Challenge};
use super::scram::{self, MECHANISM};
use super::wire::{self, code};
use crate::config::AuthMethod;
use crate::config::ClientPassword;
use crate::config::Secret;

/// What the caller does next.
#[derive(Debug)]
#[must_use]
pub enum Step {
    /// Send this body as an authentication request (`R`) and hand the client's response (`p`) to
    /// [`ClientExchange::on_message`].
    Send(Vec<u8>),
    /// Run the work off the event loop, then call [`ClientExchange::on_derived`].
    Derive(DeriveWork),
    /// The client is who it says.
    Accept(Accepted),
    /// It is not, or does not follow the protocol: send the error and close.
    Reject(AuthError),
}

/// A successful end.
#[derive(Debug, Default)]
pub struct Accepted {
    /// The body of one more request (`R`) to send before `AuthenticationOk`.
    pub final_message: Option<Vec<u8>>,
    /// The password, if the method showed it and it is UTF-8.
    pub clear_password: Option<Secret>,
}

/// One client's authentication. Exactly one `Accept` or `Reject` comes out; after that every message is refused.
pub struct ClientExchange {
    user: String,
    state: State,
}

enum State {
    /// The clear password is awaited.
    Password(Credential),
    /// Its keys are being derived, to be compared with those of a verifier.
    PasswordDeriving { cell: KeyCell, expected: StoredKeys, password: Option<Secret> },
    /// The salted hash is awaited; `Err` is why none will do.
    Md5 { stored: Result<Md5Hex, &'static str>, salt: [u8; 4] },
    /// The choice of a mechanism is awaited, and usually the first SCRAM message with it.
    Mechanism { account: ScramAccount, nonce: String },
    /// The first SCRAM message is awaited.
    ScramFirst { account: ScramAccount, nonce: String },
    /// The client's proof is awaited.
    ScramFinal { account: ScramAccount, challenge: Challenge },
    /// The proof is here, the keys are not.
    ScramDeriving { cell: KeyCell, answer: Answer },
    /// The verdict was given.
    Done,
}

impl ClientExchange {
    /// Begins. `password` is `None` for an unknown user, who goes through the same motions.
    pub fn start(
        authenticator: &ClientAuthenticator,
        method: AuthMethod,
        user: &str,
        password: Option<&ClientPassword>,
        random: &dyn Random,
    ) -> (Self, Step) {
        let (state, step) = begin(authenticator, method, user, password, random)
            .unwrap_or_else(|failed| (State::Done, Step::Reject(failed.into())));
        (Self { user: user.to_owned(), state }, step)
    }

    /// Takes the body of the client's response (`p`).
    pub fn on_message(&mut self, body: &[u8]) -> Step {
        self.advance(body).unwrap_or_else(|error| self.reject(error))
    }

    /// Goes on after the work of a [`Step::Derive`] has run.
    pub fn on_derived(&mut self) -> Step {
        self.finish_derived().unwrap_or_else(|error| self.reject(error))
    }

    fn reject(&mut self, error: AuthError) -> Step {
        self.state = State::Done;
        Step::Reject(error)
    }

    fn advance(&mut self, body: &[u8]) -> Result<Step, AuthError> {
        if body.len() > wire::RESPONSE_BYTES_MAX {
            let detail = "It is too long.";
            return Err(AuthError::protocol(Blame::Client, "invalid authentication message", detail));
        }
        match mem::replace(&mut self.state, State::Done) {
            State::Password(credential) => self.on_password(&credential, wire::password(body)?),
            State::Md5 { stored, salt } => self.on_md5(stored, salt, wire::password(body)?),
            State::Mechanism { account, nonce } => self.on_mechanism(account, nonce, body),
            State::ScramFirst { account, nonce } => self.on_scram_first(account, &nonce, body),
            State::ScramFinal { account, challenge } => self.on_scram_final(account, challenge.answer(body)?),
            State::PasswordDeriving { .. } | State::ScramDeriving { .. } | State::Done => {
                Err(AuthError::protocol(
                    Blame::Client,
                    "unexpected authentication message",
                    "None was asked for.",
                ))
            }
        }
    }

    fn on_password(&mut self, credential: &Credential, given: &[u8]) -> Result<Step, AuthError> {
        if given.is_empty() {
            return Err(self.refused("the client sent an empty password"));
        }
        let clear = std::str::from_utf8(given).ok().map(Secret::new);
        let right = match credential {
            Credential::Plain(password) => digest::same_text(password.expose().as_bytes(), given),
            Credential::Md5(stored) => digest::same(&digest::md5_stored(&self.user, given), stored),
            Credential::Unusable(reason) => return Err(self.refused(reason)),
            Credential::Verifier(verifier) => {
                // Not the shared cache: what clients type here may be wrong, and would push out what is right.
                let cell = KeyCell::default();
                let work = DeriveWork::new(Arc::clone(&cell), given, &verifier.salt, verifier.iterations);
                let expected = verifier.keys.clone();
                self.state = State::PasswordDeriving { cell, expected, password: clear };
                return Ok(Step::Derive(work));
            }
        };
        if right { Ok(accept(None, clear)) } else { Err(self.refused("wrong password")) }
    }

    fn on_md5(
        &self,
        stored: Result<Md5Hex, &'static str>,
        salt: [u8; 4],
        given: &[u8],
    ) -> Result<Step, AuthError> {
        let stored = stored.map_err(|reason| self.refused(reason))?;
        let expected = digest::md5_salted(&stored, salt);
        match given.strip_prefix(b"md5") {
            Some(given) if digest::same(given, &expected) => Ok(accept(None, None)),
            _ => Err(self.refused("wrong password")),
        }
    }

    fn on_mechanism(&mut self, account: ScramAccount, nonce: String, body: &[u8]) -> Result<Step, AuthError> {
        let (mechanism, first) = wire::sasl_initial(body)?;
        if mechanism != MECHANISM.as_bytes() {
            return Err(AuthError::protocol(
                Blame::Client,
                "client selected an invalid SASL authentication mechanism",
                "Only SCRAM-SHA-256 was offered.",
            ));
        }
        if let Some(first) = first {
            return self.on_scram_first(account, &nonce, first);
        }
        // The client leaves the first word to us: an empty challenge.
        self.state = State::ScramFirst { account, nonce };
        Ok(Step::Send(wire::request(code::SASL_CONTINUE, b"")))
    }

    fn on_scram_first(
        &mut self,
        account: ScramAccount,
        nonce: &str,
        message: &[u8],
    ) -> Result<Step, AuthError> {
        let challenge = Challenge::new(message, nonce, &account.salt, account.iterations.get())?;
        let step = Step::Send(wire::request(code::SASL_CONTINUE, challenge.message()));
        self.state = State::ScramFinal { account, challenge };
        Ok(step)
    }

    fn on_scram_final(&mut self, account: ScramAccount, answer: Answer) -> Result<Step, AuthError> {
        match account.keys {
            AccountKeys::Stored(keys) => self.judge(&answer, &keys),
            AccountKeys::Mock { keys, reason } => {
                // Same work as for a real account; even a miraculous proof lets nobody in.
                let _ = answer.is_proven_by(&keys);
                Err(self.refused(reason))
            }
            AccountKeys::Derived { cell, password } => {
                if let Some(keys) = cell.get() {
                    return self.judge(&answer, &keys.stored);
                }
                let password = password.expose().as_bytes();
                let work = DeriveWork::new(Arc::clone(&cell), password, &account.salt, account.iterations);
                self.state = State::ScramDeriving { cell, answer };
                Ok(Step::Derive(work))
            }
        }
    }

    fn finish_derived(&mut self) -> Result<Step, AuthError> {
        let not_run = || AuthError::new(AuthErrorKind::Internal, Blame::Pooler, "keys were not derived");
        match mem::replace(&mut self.state, State::Done) {
            State::ScramDeriving { cell, answer } => {
                self.judge(&answer, &cell.get().ok_or_else(not_run)?.stored)
            }
            State::PasswordDeriving { cell, expected, password } => {
                let given = &cell.get().ok_or_else(not_run)?.stored;
                let right = digest::same(&given.stored, &expected.stored);
                if right { Ok(accept(None, password)) } else { Err(self.refused("wrong password")) }
            }
            _ => Err(not_run()),
        }
    }

    fn judge(&self, answer: &Answer, keys: &StoredKeys) -> Result<Step, AuthError> {
        if !answer.is_proven_by(keys) {
            return Err(self.refused("wrong password"));
        }
        Ok(accept(Some(wire::request(code::SASL_FINAL, &answer.server_final(keys))), None))
    }

    fn refused(&self, reason: &'static str) -> AuthError {
        AuthError::invalid_password(&self.user, reason)
    }
}

fn accept(final_message: Option<Vec<u8>>, clear_password: Option<Secret>) -> Step {
    Step::Accept(Accepted { final_message, clear_password })
}

fn begin(
    authenticator: &ClientAuthenticator,
    method: AuthMethod,
    user: &str,
    password: Option<&ClientPassword>,
    random: &dyn Random,
) -> Result<(State, Step), RandomFailed> {
    if method == AuthMethod::Trust {
        return Ok((State::Done, Step::Accept(Accepted::default())));
    }
    let credential = Credential::new(password);
    let stored = match (method, &credential) {
        (AuthMethod::Password, _) => {
            let request = wire::request(code::CLEARTEXT_PASSWORD, b"");
            return Ok((State::Password(credential), Step::Send(request)));
        }
        (AuthMethod::Md5, Credential::Plain(password)) => {
            Ok(digest::md5_stored(user, password.expose().as_bytes()))
        }
        (AuthMethod::Md5, Credential::Md5(stored)) => Ok(*stored),
        (AuthMethod::Md5, Credential::Unusable(reason)) => Err(*reason),
        _ => {
            let account = authenticator.scram_account(user, &credential);
            let state = State::Mechanism { account, nonce: scram::nonce(random)? };
            let mechanisms = [MECHANISM.as_bytes(), b"\0\0"].concat();
            return Ok((state, Step::Send(wire::request(code::SASL, &mechanisms))));
        }
    };
    let mut salt = [0; 4];
    random.fill(&mut salt)?;
    Ok((State::Md5 { stored, salt }, Step::Send(wire::request(code::MD5_PASSWORD, &salt))))
}

impl fmt::Debug for ClientExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Password(_) => "password awaited",
            State::Md5 { .. } => "md5 awaited",
            State::Mechanism { .. } => "mechanism awaited",
            State::ScramFirst { .. } => "first message awaited",
            State::ScramFinal { .. } => "proof awaited",
            State::PasswordDeriving { .. } | State::ScramDeriving { .. } => "deriving",
            State::Done => "done",
        };
        f.debug_struct("ClientExchange").field("user", &self.user).field("state", &state).finish()
    }
}
