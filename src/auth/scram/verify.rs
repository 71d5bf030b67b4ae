//! The side that verifies a client: what PostgreSQL does.

use super::message::{Binding, ClientFinal, ClientFirst, Fault};
use crate::auth::digest::{self, Key};
use crate::auth::error::{AuthError, AuthErrorKind, Blame};
use crate::auth::keys::StoredKeys;
use crate::auth::wire::SASL_BYTES_MAX;

/// After the client's first message: what the rest is checked against.
pub(crate) struct Challenge {
    binding: Binding,
    client_first_bare: Vec<u8>,
    server_first: Vec<u8>,
    /// The client's half and ours.
    nonce: Vec<u8>,
}

/// The client's last message in good form, waiting for the keys that judge it.
pub(crate) struct Answer {
    proof: Key,
    auth_message: Vec<u8>,
}

impl Challenge {
    /// Reads the client's first message and makes the challenge.
    pub(crate) fn new(
        client_first: &[u8],
        server_nonce: &str,
        salt: &[u8],
        iterations: u32,
    ) -> Result<Self, AuthError> {
        check_length(client_first)?;
        let first = ClientFirst::parse(client_first).map_err(blame_client)?;
        let nonce = [first.nonce, server_nonce.as_bytes()].concat();
        let parameters = format!(",s={},i={iterations}", super::base64(salt));
        Ok(Self {
            binding: first.binding,
            client_first_bare: first.bare.to_vec(),
            server_first: [b"r=", nonce.as_slice(), parameters.as_bytes()].concat(),
            nonce,
        })
    }

    /// The message that goes to the client.
    pub(crate) fn message(&self) -> &[u8] {
        &self.server_first
    }

    /// Reads the client's last message.
    pub(crate) fn answer(self, client_final: &[u8]) -> Result<Answer, AuthError> {
        check_length(client_final)?;
        let last = ClientFinal::parse(client_final).map_err(blame_client)?;
        if last.binding != self.binding.echo() {
            return Err(AuthError::protocol(
                Blame::Client,
                "unexpected SCRAM channel-binding attribute in client-final-message",
                "It does not repeat the header of the first message.",
            ));
        }
        if last.nonce != self.nonce {
            return Err(AuthError::protocol(
                Blame::Client,
                "invalid SCRAM response",
                "Nonce does not match.",
            ));
        }
        Ok(Answer {
            proof: last.proof,
            auth_message: [
                self.client_first_bare.as_slice(),
                b",",
                self.server_first.as_slice(),
                b",",
                last.without_proof,
            ]
            .concat(),
        })
    }
}

impl Answer {
    /// Whether the client knows the password behind `keys`.
    pub(crate) fn is_proven_by(&self, keys: &StoredKeys) -> bool {
        let signature = digest::hmac_sha256(&keys.stored, &[&self.auth_message]);
        let client_key = digest::xor(&self.proof, &signature);
        digest::same(&digest::sha256(&[&client_key]), &keys.stored)
    }

    /// The message by which the client can tell that we know the password too.
    pub(crate) fn server_final(&self, keys: &StoredKeys) -> Vec<u8> {
        let signature = digest::hmac_sha256(&keys.server, &[&self.auth_message]);
        format!("v={}", super::base64(&signature)).into_bytes()
    }
}

fn check_length(message: &[u8]) -> Result<(), AuthError> {
    if message.len() > SASL_BYTES_MAX {
        return Err(AuthError::protocol(Blame::Client, "malformed SCRAM message", "It is too long."));
    }
    Ok(())
}

fn blame_client(fault: Fault) -> AuthError {
    match fault {
        Fault::Malformed(detail) => AuthError::protocol(Blame::Client, "malformed SCRAM message", detail),
        Fault::Unsupported(message) => AuthError::new(AuthErrorKind::Unsupported, Blame::Client, message),
    }
}
