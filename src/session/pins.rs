//! Pins: clients that keep their server connection outside transactions, because what they have in their
//! session lives in it. Shown, counted and, if the configuration says so, limited.

use std::sync::Arc;
use std::time::SystemTime;

use crate::clients::{Pin, PinReason};
use crate::config::{PoolMode, Sequences};
use crate::pool::{Pool, ServerLease};
use crate::protocol::{ErrorResponse, SqlState};
use crate::sql::SessionEffects;

use super::batch::Plan;
use super::client::ClientSession;
use super::error::SessionError;

/// What pins as far as the text of a statement tells.
pub(super) const WILL_PIN: SessionEffects = SessionEffects::TEMP_OBJECT
    .union(SessionEffects::HOLD_CURSOR)
    .union(SessionEffects::ADVISORY_LOCK)
    .union(SessionEffects::SQL_PREPARE)
    .union(SessionEffects::LOAD);

/// The client keeps its server connection; counted in its pool for as long as this lives.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) reason: PinReason,
    pool: Arc<Pool>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.pool.pin_ends();
    }
}

impl ClientSession {
    /// Why the client keeps its server connection.
    pub(super) fn pin_reason(&self) -> Option<PinReason> {
        self.pin.as_ref().map(|pin| pin.reason)
    }

    /// Begins, changes or ends the pin.
    ///
    /// # Errors
    /// When the pool has as many pins as `limits.pins` allows.
    pub(super) fn set_pin(
        &mut self,
        reason: Option<PinReason>,
        cause: &'static str,
        lease: &ServerLease,
    ) -> Result<(), SessionError> {
        let before = self.pin_reason();
        if before == reason {
            return Ok(());
        }
        let client = self.handle().id.0;
        let Some(reason) = reason else {
            tracing::info!(
                client,
                reason = before.map(PinReason::label),
                "client gives its server connection back"
            );
            self.handle().set_pin(None);
            self.pin = None;
            return Ok(());
        };
        let identity = lease.identity();
        self.handle().set_pin(Some(Pin {
            reason,
            cause,
            since: self.handle().pin().map_or_else(SystemTime::now, |pin| pin.since),
            node: lease.pool().node.address.to_string(),
            pid: identity.pid,
        }));
        if let Some(pin) = &mut self.pin {
            pin.reason = reason;
            return Ok(());
        }
        let pool = Arc::clone(lease.pool());
        let pins = pool.pin_begins();
        self.pin = Some(Pinned { reason, pool: Arc::clone(&pool) });
        self.context.clients.count_pin(reason);
        tracing::info!(client, reason = reason.label(), cause, pool = %pool.key, pins, "client keeps its server connection");
        match self.topology.config.limits.pins {
            0 => Ok(()),
            limit if pins > limit => Err(SessionError::Refused(Box::new(too_many_pins(limit, reason)))),
            _ => Ok(()),
        }
    }

    /// Why a batch must not run: it would pin and no more may, or it asks for a sequence's value that may be
    /// another client's.
    pub(super) fn forbids(&self, plan: &Plan, pool: &Pool) -> Option<ErrorResponse> {
        if self.pin.is_some() || self.mode == PoolMode::Session {
            return None;
        }
        if plan.asks_sequence && !self.sequenced {
            return Some(sequence_value());
        }
        let limit = self.topology.config.limits.pins;
        let full = limit != 0 && plan.effects.intersects(WILL_PIN) && pool.pinned() >= limit;
        full.then(|| {
            let mut error = too_many_pins(limit, PinReason::UntilDisconnect);
            error.severity = crate::protocol::Severity::Error;
            error
        })
    }

    /// After a transaction: with `session.sequences: pin`, who may have called `nextval` keeps its server
    /// connection, where `currval` has the answer.
    pub(super) fn pin_for_sequences(&mut self, lease: &ServerLease) -> Result<(), SessionError> {
        let sequenced = std::mem::take(&mut self.sequenced);
        let wanted = self.topology.config.session.sequences == Sequences::Pin;
        if sequenced && wanted && self.pin.is_none() && self.mode == PoolMode::Transaction {
            self.set_pin(Some(PinReason::Sequence), "nextval", lease)?;
        }
        Ok(())
    }
}

fn too_many_pins(limit: usize, reason: PinReason) -> ErrorResponse {
    let error = ErrorResponse::fatal(
        SqlState::TOO_MANY_CONNECTIONS,
        "too many clients keep a server connection for their session state",
    )
    .detail(format!("limits.pins is {limit} for each pool."))
    .hint("SHOW PINS on the console tells who keeps one and why; raise limits.pins and pool.size in pooler.yaml if that is meant.");
    tracing::warn!(limit, reason = reason.label(), "limits.pins is reached");
    error
}

fn sequence_value() -> ErrorResponse {
    ErrorResponse::error(
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        "currval and lastval are not available outside the transaction that called nextval",
    )
    .detail("Each transaction may run on another server connection, so the value could be another client's.")
    .hint("Use INSERT … RETURNING, or call them in the same transaction, or set session.sequences: pin in pooler.yaml.")
}
