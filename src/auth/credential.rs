//! What a client's password means for each method, and what stands in for a user who has none.
//!
//! Salts of plain passwords and of stand-ins come from the same function of the user's name and a secret of the
//! process, so nobody can tell one from the other. A stored verifier brings its own salt and iteration count,
//! which outlive the process; over restarts, or when the count is not PostgreSQL's default, a patient observer can
//! tell such a user from one who does not exist.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::cache::{DeriveWork, KeyCell, ScramCache};
use super::digest::{self, Md5Hex};
use super::keys::{ITERATIONS_DEFAULT, SALT_BYTES, ScramVerifier, StoredKeys};
use super::random::{Random, RandomFailed};
use crate::config::ClientPassword;
use crate::config::Secret;

/// What all exchanges with clients share; one for the process, kept over reloads.
pub struct ClientAuthenticator {
    /// Salts and stand-ins are made from it.
    secret: [u8; 32],
    cache: Arc<ScramCache>,
}

/// A configured password, understood. `Unusable` says why in the log.
#[derive(Clone)]
pub(super) enum Credential {
    Plain(Secret),
    Verifier(ScramVerifier),
    Md5(Md5Hex),
    Unusable(&'static str),
}

impl Credential {
    pub(super) fn new(password: Option<&ClientPassword>) -> Self {
        match password {
            None => Self::Unusable("no such user, or no password is configured"),
            Some(ClientPassword::Plain(text)) if text.expose().is_empty() => {
                Self::Unusable("the configured password is empty")
            }
            Some(ClientPassword::Plain(text)) => Self::Plain(text.clone()),
            Some(ClientPassword::ScramVerifier(text)) => ScramVerifier::parse(text.expose())
                .map_or(Self::Unusable("the configured SCRAM verifier is malformed"), Self::Verifier),
            Some(ClientPassword::Md5Hash(text)) => parse_md5(text.expose())
                .map_or(Self::Unusable("the configured MD5 hash is malformed"), Self::Md5),
        }
    }
}

fn parse_md5(text: &str) -> Option<Md5Hex> {
    let digits: Md5Hex = text.strip_prefix("md5")?.as_bytes().try_into().ok()?;
    digits.iter().all(u8::is_ascii_hexdigit).then(|| digits.map(|digit| digit.to_ascii_lowercase()))
}

/// What a SCRAM exchange runs on.
pub(super) struct ScramAccount {
    pub(super) salt: Vec<u8>,
    pub(super) iterations: NonZeroU32,
    pub(super) keys: AccountKeys,
}

/// Where the keys of an account come from.
pub(super) enum AccountKeys {
    /// At hand, from a stored verifier.
    Stored(StoredKeys),
    /// Of a plain password: in the cell, or to be derived into it.
    Derived { cell: KeyCell, password: Secret },
    /// A stand-in that never lets anybody in, and why.
    Mock { keys: StoredKeys, reason: &'static str },
}

impl ClientAuthenticator {
    /// Draws the secret of the process.
    pub fn new(random: &dyn Random, cache: Arc<ScramCache>) -> Result<Self, RandomFailed> {
        let mut secret = [0; 32];
        random.fill(&mut secret)?;
        Ok(Self { secret, cache })
    }

    /// The PBKDF2 that the first login of this user would wait for; run it early (off the event loop) and no
    /// login waits, and none can be told by its time from that of a user who does not exist.
    pub fn prepare(&self, user: &str, password: &ClientPassword) -> Option<DeriveWork> {
        let account = self.scram_account(user, &Credential::new(Some(password)));
        match &account.keys {
            AccountKeys::Derived { cell, password } if cell.get().is_none() => Some(DeriveWork::new(
                Arc::clone(cell),
                password.expose().as_bytes(),
                &account.salt,
                account.iterations,
            )),
            _ => None,
        }
    }

    pub(super) fn scram_account(&self, user: &str, credential: &Credential) -> ScramAccount {
        match credential {
            Credential::Verifier(verifier) => ScramAccount {
                salt: verifier.salt.clone(),
                iterations: verifier.iterations,
                keys: AccountKeys::Stored(verifier.keys.clone()),
            },
            Credential::Plain(password) => {
                let salt = self.salt(user);
                let cell = self.cache.cell(user, password, &salt, ITERATIONS_DEFAULT);
                let keys = AccountKeys::Derived { cell, password: password.clone() };
                ScramAccount { salt, iterations: ITERATIONS_DEFAULT, keys }
            }
            Credential::Md5(_) => {
                self.mock_account(user, "the configured MD5 hash cannot serve SCRAM-SHA-256; a password can")
            }
            Credential::Unusable(reason) => self.mock_account(user, reason),
        }
    }

    fn mock_account(&self, user: &str, reason: &'static str) -> ScramAccount {
        let keys =
            StoredKeys { stored: self.made_of(user, b"stored"), server: self.made_of(user, b"server") };
        ScramAccount {
            salt: self.salt(user),
            iterations: ITERATIONS_DEFAULT,
            keys: AccountKeys::Mock { keys, reason },
        }
    }

    fn salt(&self, user: &str) -> Vec<u8> {
        self.made_of(user, b"salt").iter().take(SALT_BYTES).copied().collect()
    }

    /// The same for the same user as long as the process lives; the label keeps the uses apart.
    fn made_of(&self, user: &str, label: &[u8]) -> [u8; 32] {
        digest::hmac_sha256(&self.secret, &[label, b"\0", user.as_bytes()])
    }
}

impl fmt::Debug for ClientAuthenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuthenticator").field("cache", &self.cache).finish_non_exhaustive()
    }
}
