//! The client's settings on the server connection it gets: made in front of its batch, in the same write.
//!
//! Where a server does not accept them any more (a role was dropped, a right taken away), nothing of the batch may
//! run with other settings. So they are made in a transaction of their own, which stays open and failed if one of
//! them is refused: whatever comes behind it fails, too. Only a batch that may end that transaction waits for the
//! answer. The client gets an error and keeps its session.

use bytes::Buf;

use crate::config::PoolMode;
use crate::pool::ServerLease;
use crate::protocol::frame::HEADER_LEN;
use crate::protocol::parameters::Parameters;
use crate::protocol::{ErrorFields, ErrorResponse, SqlState, TransactionStatus, backend, frontend};
use crate::server::{QueryError, Settings};
use crate::sql::{SessionEffects, SetForm};

use super::batch::{Batch, Plan, is_ascii};
use super::client::ClientSession;
use super::error::SessionError;
use super::exchange::{Aftermath, Expect};

/// Settings whose values are right or wrong by themselves, whatever is in the catalog and whoever asks.
const SELF_EVIDENT: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_min_messages",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "lock_timeout",
    "row_security",
    "search_path",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
    "work_mem",
];

/// Its defaults are those of the client's session, which may want to wait for a snapshot, or be impossible here.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED;";

/// Whether a value can be carried over as text: it is read, and written again, as UTF-8.
pub(super) fn is_portable(value: Option<&str>, told: &Parameters) -> bool {
    value.is_none_or(str::is_ascii)
        || (told.value("client_encoding") == Some("UTF8")
            && told.value("server_encoding").is_some_and(|encoding| encoding != "SQL_ASCII"))
}

impl ClientSession {
    /// Gives the server connection this client's settings, if it has others. After a refusal a lone SET, RESET or
    /// DISCARD finds all others, so that the client can help itself.
    pub(super) fn sync_settings(&mut self, lease: &mut ServerLease, is_lone_setting: bool) {
        if !self.must_sync(lease) {
            return;
        }
        if self.settings_refused && is_lone_setting {
            let text = self.wire.inbox.get(HEADER_LEN..).unwrap_or_default();
            let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
            let wanted = without(&self.settings, &String::from_utf8_lossy(text));
            self.write_settings(lease, &wanted);
        } else {
            self.write_settings(lease, &self.settings.clone());
        }
    }

    /// Whether the connection may have other settings.
    fn must_sync(&self, lease: &ServerLease) -> bool {
        !lease.settings.is_same(&self.settings) || (lease.settings_uncertain && !self.keeps_connection())
    }

    /// While the client keeps its connection, what is not known of the settings there is the client's own.
    fn keeps_connection(&self) -> bool {
        self.pin.is_some() || self.mode == PoolMode::Session
    }

    fn write_settings(&mut self, lease: &mut ServerLease, wanted: &Settings) {
        if let Some(sql) = settings_sql(lease, wanted, self.keeps_connection()) {
            frontend::query(&mut lease.wire.outbox, sql.as_bytes());
            self.exchange.push(Expect::OwnSettings);
            lease.unnamed = None;
        }
    }

    /// As [`Self::sync_settings`], with a round trip of its own.
    ///
    /// # Cancel safety
    /// A dropped future leaves the connection unclean, and so closed.
    pub(super) async fn sync_settings_now(&mut self, lease: &mut ServerLease) -> Result<(), SessionError> {
        if !self.must_sync(lease) {
            return Ok(());
        }
        if let Some(sql) = settings_sql(lease, &self.settings, self.keeps_connection())
            && let Err(error) = lease.simple_query(&sql).await
        {
            lease.mark_broken();
            return Err(match error {
                QueryError::Server { code, message } => {
                    SessionError::Settings(Box::new(refused(code, &message)))
                }
                other => other.into(),
            });
        }
        Ok(())
    }

    /// The server refused the settings in front of a batch: nothing of it happened. The client is told, and the
    /// connection, whose transaction has failed, is closed.
    pub(super) fn settings_failed(&mut self, mut lease: ServerLease, error: &ErrorResponse) {
        let (owed, is_asked) = self.exchange.abandon();
        self.undo(&mut lease, Aftermath { undone: owed, ..Aftermath::default() });
        lease.mark_broken();
        self.wire.inbox.advance(std::mem::take(&mut self.send_from_inbox));
        (self.pass_to_server, self.pass_to_client) = (0, 0);
        self.restoring = Box::default();
        self.replay = None;
        self.awaiting_sync = false;
        self.nothing_happened();
        error.write(&mut self.wire.outbox);
        if is_asked {
            backend::ready_for_query(&mut self.wire.outbox, TransactionStatus::Idle);
        }
    }

    /// The same where nothing of the batch has been sent yet.
    pub(super) fn settings_failed_early(
        &mut self,
        lease: ServerLease,
        batch: Batch,
        error: SessionError,
    ) -> Result<(), SessionError> {
        match error {
            SessionError::Settings(error) if self.pin.is_none() => {
                drop(lease);
                self.nothing_happened();
                self.refuse(batch, &error);
                Ok(())
            }
            other => Err(other),
        }
    }

    fn nothing_happened(&mut self) {
        (self.settings_refused, self.saw_error) = (true, true);
        self.effects = SessionEffects::NONE;
        (self.wrote, self.sequenced, self.deallocates_all) = (false, false, false);
        self.pending_set = None;
        self.unknown_functions = None;
        self.transaction_began = None;
        self.listening.abandon();
        self.handle().clear_deadline();
        self.handle().unlink();
        self.handle().idles();
    }

    /// Whether the batch sets what the client has set already, so that no server need be asked: django-tenants
    /// sets its search_path in front of each query. Only what a server has accepted is in the client's settings,
    /// and only values that stay right are taken; nothing is reported, since nothing changes.
    pub(super) fn sets_nothing_new(&self, plan: &Plan, batch: Batch) -> bool {
        let Some(set) = &plan.rare().set else { return false };
        let name = set.name.as_str();
        let query = self.wire.inbox.get(1..5).and_then(|length| <[u8; 4]>::try_from(length).ok());
        // What stands before it, which no Sync has ended, has answers, too.
        let is_alone = query.is_some_and(|length| u32::from_be_bytes(length) as usize + 1 == batch.len);
        is_alone
            && self.mode == PoolMode::Transaction
            && set.form == SetForm::Set
            && !self.settings_refused
            && set.value.as_deref().is_some_and(|value| self.settings.value(name) == Some(value))
            && (name.contains('.') || SELF_EVIDENT.contains(&name))
            && is_ascii(batch, &self.wire.inbox)
    }

    /// Answers such a batch.
    pub(super) fn confirm_setting(&mut self, batch: Batch) {
        self.consume(batch);
        self.statements.set(b"", None);
        backend::command_complete(&mut self.wire.outbox, "SET");
        backend::ready_for_query(&mut self.wire.outbox, TransactionStatus::Idle);
    }
}

/// The SQL that gives a server connection these settings, which it is taken to have from here on.
fn settings_sql(lease: &mut ServerLease, wanted: &Settings, is_kept: bool) -> Option<String> {
    let sql = if !is_kept && std::mem::take(&mut lease.settings_uncertain) {
        Some(wanted.from_anything())
    } else {
        lease.settings.difference(wanted)
    };
    lease.settings = wanted.clone();
    let sql = sql?;
    let name = wanted.value("application_name").unwrap_or_default();
    name.clone_into(&mut lease.info.application_name.lock());
    Some(format!("{BEGIN}{sql};COMMIT"))
}

/// The settings that stay when `text`, a single SET, RESET or DISCARD, has its way.
fn without(settings: &Settings, text: &str) -> Settings {
    let text = text.to_ascii_lowercase();
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '$');
    let words: Vec<&str> = text.split(|c: char| !is_part(c)).filter(|word| !word.is_empty()).collect();
    let has = |word: &str| words.contains(&word);
    let stays = |name: &str| match name {
        _ if has("discard") => false,
        "session_authorization" | "role" => !has("authorization") && !has(name),
        _ if has("reset") && has("all") => false,
        "timezone" => !has("zone") && !has(name),
        "client_encoding" => !has("names") && !has(name),
        _ => !has(name),
    };
    settings.iter().fold(
        settings.clone(),
        |left, (name, _)| {
            if stays(name) { left } else { left.with(name, None) }
        },
    )
}

/// What the client is told, from the server's error.
pub(super) fn not_accepted(body: &[u8]) -> ErrorResponse {
    let fields = ErrorFields::read(body);
    refused(fields.sqlstate().unwrap_or(SqlState::INTERNAL_ERROR), &fields.message_lossy())
}

fn refused(code: SqlState, message: &str) -> ErrorResponse {
    tracing::warn!(code = code.as_str(), message, "a server does not accept the settings of a session");
    ErrorResponse::error(code, format!("session settings could not be applied: {message}"))
        .detail("The statement was not run: the server connection for it does not accept what this session has set.")
        .hint("SET or RESET that setting, or DISCARD ALL, or connect again.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_statement_sets_need_not_be_made_before_it() {
        let pairs = [("app.a", "1"), ("role", "r"), ("session_authorization", "s"), ("timezone", "UTC")];
        let settings = pairs.iter().fold(Settings::none(), |set, (name, value)| set.with(name, Some(value)));
        let left = |sql: &str| {
            without(&settings, sql).iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>().join(",")
        };
        assert_eq!(left("RESET ROLE"), "app.a,session_authorization,timezone");
        assert_eq!(left("SET role = 'x'"), "app.a,session_authorization,timezone");
        assert_eq!(left("SET SESSION AUTHORIZATION DEFAULT;"), "app.a,timezone");
        assert_eq!(left("RESET ALL"), "role,session_authorization");
        assert_eq!(left("discard all"), "");
        assert_eq!(left("SET TIME ZONE 'UTC'"), "app.a,role,session_authorization");
        assert_eq!(left("SET App.A='2'"), "role,session_authorization,timezone");
        assert_eq!(left("SET work_mem = 1"), "app.a,role,session_authorization,timezone");
    }
}
