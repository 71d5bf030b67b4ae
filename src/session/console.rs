//! The console's protocol loop (to come).

use crate::admin::Console;
use crate::clients::ClientGuard;
use crate::net::Wire;

/// What a console user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Admin,
    Stats,
}

pub(super) struct ConsoleSession {
    _wire: Wire,
    _guard: ClientGuard,
}

impl ConsoleSession {
    pub(super) fn new(wire: Wire, guard: ClientGuard, _console: Console, _role: Role) -> Self {
        Self { _wire: wire, _guard: guard }
    }
    pub(super) async fn run(self) {}
}

pub(super) fn parameters() -> Vec<(String, String)> {
    Vec::new()
}
