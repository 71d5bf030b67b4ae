//! Authentication exchanges, both sides: message bodies in, message bodies out, a verdict.
//!
//! Towards clients pgweir plays PostgreSQL ([`ClientExchange`]); towards servers it plays the client
//! ([`ServerExchange`]). Both are state machines over plain bytes: no socket, no clock, and random bytes
//! come from a [`Random`] that is passed in. Tags and lengths of messages are the caller's business; what is
//! handed over and back is the *body* of an authentication request (`R`) or response (`p`).
//!
//! The one slow thing, PBKDF2, is never done inside: a step may be [`Step::Derive`] (or
//! [`ServerStep::Derive`]), whose [`DeriveWork`] the caller runs off the event loop before it calls
//! `on_derived`. [`ScramCache`] sees to it that this happens once for each password and salt.
//!
//! Invariants:
//! - no input panics, and nothing is allocated in proportion to a length that was not checked;
//! - an unknown user, a user without a usable password and a wrong password look the same from outside:
//!   same messages, same lengths, same error;
//! - what proves identity is compared in constant time, and nothing secret has a telling `Debug`.
//!
//! Not here: who the users are (`config`), which method a connection gets (`session`), channel binding,
//! host-based rules, client certificates, passwords looked up on a server.

mod cache;
mod client;
mod credential;
mod digest;
mod error;
mod keys;
mod random;
mod scram;
mod server;
mod wire;

pub use cache::{DeriveWork, ScramCache};
pub use client::{Accepted, ClientExchange, Step};
pub use credential::ClientAuthenticator;
pub use error::{AuthError, AuthErrorKind, Blame};
pub use keys::ScramVerifier;
pub use random::{Random, RandomFailed, SystemRandom};
pub use server::{ServerExchange, ServerStep};
pub use wire::{AUTHENTICATION_OK, RESPONSE_BYTES_MAX};
