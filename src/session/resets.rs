//! RESET goes back to what the client asked for when it connected.
//!
//! To a server the settings in a client's startup packet are settings like any other, so its RESET goes back to
//! the server's own values. Behind a batch that may do that, the startup settings in question are made again, in
//! the same write and the same transaction, and what the server reports in between is not passed on.

use crate::pool::ServerLease;
use crate::protocol::{TransactionStatus, frontend};
use crate::server::Settings;
use crate::sql::{Kind, LexOptions, Scanner, SessionEffects};

use super::batch::{Batch, BatchEnd};
use super::client::ClientSession;
use super::exchange::Expect;

/// What may set something back.
pub(super) const MAY_RESET: SessionEffects = SessionEffects::SETTING.union(SessionEffects::DISCARD_ALL);

impl ClientSession {
    /// The startup settings that SQL among `bytes` may set back to the server's own values.
    pub(super) fn resets_in(&self, bytes: &[u8]) -> Vec<String> {
        if self.startup.is_empty() {
            return Vec::new();
        }
        reset_names(bytes, self.lex, &self.startup)
    }

    /// Makes startup settings again, behind the batch.
    pub(super) fn restore_startup(&mut self, lease: &mut ServerLease, batch: Batch, names: &[String]) {
        let unsynced = matches!(batch.end, BatchEnd::Flush | BatchEnd::Partial);
        if names.is_empty() || unsynced || lease.status == TransactionStatus::Failed {
            return;
        }
        let wanted =
            names.iter().fold(Settings::none(), |set, name| set.with(name, self.startup.value(name)));
        if let Some(sql) = Settings::none().difference(&wanted) {
            frontend::query(&mut lease.wire.outbox, sql.as_bytes());
            self.exchange.push(Expect::OwnTry);
            self.restoring = names.into();
        }
    }
}

/// Names of `startup` that RESET, DISCARD ALL or SET … TO DEFAULT in `text` may mean.
fn reset_names(text: &[u8], lex: LexOptions, startup: &Settings) -> Vec<String> {
    let mut scanner = Scanner::new(text, lex);
    let (mut resets, mut all, mut named) = (false, false, Vec::new());
    let (mut last, mut whole) = (String::new(), String::new());
    let mut configures = false;
    while let Some(token) = scanner.next_token(&mut ()) {
        let raw = text.get(token.start..token.end).unwrap_or_default();
        let word = match token.kind {
            Kind::Word | Kind::Quoted => String::from_utf8_lossy(raw).trim_matches('"').to_ascii_lowercase(),
            // Names of set_config, which takes NULL for a reset.
            Kind::Text if configures => String::from_utf8_lossy(raw).trim_matches('\'').to_ascii_lowercase(),
            _ => String::new(),
        };
        configures |= word == "set_config";
        resets |= matches!(word.as_str(), "reset" | "discard" | "default");
        resets |= configures && word == "null";
        all |= word == "all" && matches!(last.as_str(), "reset" | "discard");
        // SET TIME ZONE, SET NAMES: names of their own.
        let name = match word.as_str() {
            "zone" => "timezone",
            "names" => "client_encoding",
            other => other,
        };
        whole = match raw {
            b"." => whole + ".",
            _ if whole.ends_with('.') => whole + name,
            _ => name.to_owned(),
        };
        if startup.value(&whole).is_some() {
            named.push(whole.clone());
        }
        last = word;
    }
    match (resets, all) {
        (false, _) => Vec::new(),
        (true, true) => startup.iter().map(|(name, _)| name.to_owned()).collect(),
        (true, false) => named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_back_to_the_startup_settings() {
        let startup = Settings::none().with("work_mem", Some("5MB")).with("timezone", Some("UTC"));
        let names = |sql: &str| reset_names(sql.as_bytes(), LexOptions::default(), &startup).join(",");
        assert_eq!(names("RESET ALL"), "timezone,work_mem");
        assert_eq!(names("SELECT 1; DISCARD /* x */ ALL"), "timezone,work_mem");
        assert_eq!(names("RESET Work_Mem"), "work_mem");
        assert_eq!(names("SET TIME ZONE DEFAULT"), "timezone");
        assert_eq!(names("SET work_mem TO DEFAULT"), "work_mem");
        assert_eq!(names("SET work_mem = '6MB'"), "");
        assert_eq!(names("RESET search_path"), "");
        assert_eq!(names("SELECT 'RESET ALL'"), "");
        assert_eq!(names("SELECT set_config('work_mem', NULL, false)"), "work_mem");
        assert_eq!(names("SELECT set_config('work_mem', '1MB', false)"), "");
        let startup = startup.with("app.a", Some("x"));
        assert_eq!(reset_names(b"RESET app.\"a\"", LexOptions::default(), &startup), ["app.a"]);
    }
}
