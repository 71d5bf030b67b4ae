//! The side that proves itself to a server: what libpq does.

use std::num::NonZeroU32;

use super::message::{Fault, ServerFinal, ServerFirst};
use crate::auth::digest::{self, Key};
use crate::auth::error::{AuthError, AuthErrorKind, Blame};
use crate::auth::keys::ScramKeys;
use crate::auth::wire::SASL_BYTES_MAX;

/// `n`: no channel binding, no other identity.
const HEADER: &str = "n,,";

/// After our first message.
pub(crate) struct Opening {
    nonce: String,
}

/// After the server's challenge, waiting for the keys.
pub(crate) struct Challenged {
    auth_message: Vec<u8>,
    without_proof: Vec<u8>,
    pub(crate) salt: Vec<u8>,
    pub(crate) iterations: NonZeroU32,
}

/// After our proof: what the server has to show.
pub(crate) struct Proven {
    server_signature: Key,
}

impl Opening {
    pub(crate) fn new(nonce: String) -> Self {
        Self { nonce }
    }

    /// Our first message. The user name stays empty, as libpq leaves it.
    pub(crate) fn message(&self) -> Vec<u8> {
        format!("{HEADER}{}", self.bare()).into_bytes()
    }

    fn bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// Reads the server's challenge.
    pub(crate) fn challenge(self, server_first: &[u8]) -> Result<Challenged, AuthError> {
        check_length(server_first)?;
        let first = ServerFirst::parse(server_first).map_err(blame_server)?;
        let ours = self.nonce.as_bytes();
        if !first.nonce.starts_with(ours) || first.nonce.len() == ours.len() {
            return Err(malformed("Its nonce does not extend ours."));
        }
        let without_proof = [b"c=biws,r=", first.nonce].concat();
        let auth_message =
            [self.bare().as_bytes(), b",", server_first, b",", without_proof.as_slice()].concat();
        Ok(Challenged { auth_message, without_proof, salt: first.salt, iterations: first.iterations })
    }
}

impl Challenged {
    /// Our last message, and what we wait for.
    pub(crate) fn prove(self, keys: &ScramKeys) -> (Vec<u8>, Proven) {
        let signature = digest::hmac_sha256(&keys.stored.stored, &[&self.auth_message]);
        let proof = super::base64(&digest::xor(&keys.client, &signature));
        let message = [self.without_proof.as_slice(), b",p=", proof.as_bytes()].concat();
        let server_signature = digest::hmac_sha256(&keys.stored.server, &[&self.auth_message]);
        (message, Proven { server_signature })
    }
}

impl Proven {
    /// Reads the server's last message: `Ok` only if the server knows the password.
    pub(crate) fn check(&self, server_final: &[u8]) -> Result<(), AuthError> {
        check_length(server_final)?;
        match ServerFinal::parse(server_final).map_err(blame_server)? {
            ServerFinal::Signature(signature) if digest::same(&signature, &self.server_signature) => Ok(()),
            ServerFinal::Signature(_) => Err(AuthError::new(
                AuthErrorKind::ServerUnproven,
                Blame::Server,
                "the server did not prove that it knows the password",
            )),
            ServerFinal::Error => Err(AuthError::new(
                AuthErrorKind::ServerUnproven,
                Blame::Server,
                "the server reported an error in the SCRAM exchange",
            )),
        }
    }
}

fn check_length(message: &[u8]) -> Result<(), AuthError> {
    if message.len() > SASL_BYTES_MAX { Err(malformed("It is too long.")) } else { Ok(()) }
}

fn malformed(detail: &'static str) -> AuthError {
    AuthError::protocol(Blame::Server, "malformed SCRAM message from the server", detail)
}

fn blame_server(fault: Fault) -> AuthError {
    match fault {
        Fault::Malformed(detail) => malformed(detail),
        Fault::Unsupported(message) => AuthError::new(AuthErrorKind::Unsupported, Blame::Server, message),
    }
}
