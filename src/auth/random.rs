//! Where random bytes come from, so that tests can say what they are.

use aws_lc_rs::rand::{self, SecureRandom};

/// The system had no random bytes to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no random bytes")]
pub struct RandomFailed;

/// A source of bytes that nobody can guess.
pub trait Random {
    /// Fills `buffer`.
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomFailed>;
}

/// The cryptographic generator of the process; it is thread-safe and costs no system call a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomFailed> {
        rand::SystemRandom::new().fill(buffer).map_err(|_| RandomFailed)
    }
}
