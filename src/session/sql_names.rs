//! One namespace for prepared statements, as in PostgreSQL: those of the protocol and those of SQL's PREPARE.
//!
//! Protocol-level statements live on servers under names of our own. SQL that names one (`EXECUTE "S_1"`,
//! `DEALLOCATE _pg3_0`) must find it: so before such a string runs, the statements it may mean are prepared on
//! the server connection under the client's own names, too. Afterwards the server is asked which of them are
//! left, and they are deallocated before the connection is anybody else's.

use bytes::BytesMut;

use crate::pool::ServerLease;
use crate::protocol::extended::Parse;
use crate::protocol::frontend;
use crate::sql::{Kind, LexOptions, Scanner, SessionEffects};

use super::client::ClientSession;
use super::error::SessionError;
use super::exchange::Expect;

/// What may name a prepared statement in SQL.
pub(super) const NAMES_STATEMENTS: SessionEffects =
    SessionEffects::SQL_PREPARE.union(SessionEffects::SQL_EXECUTE).union(SessionEffects::DEALLOCATE);

/// Names looked for in one string, at most.
const NAMES_MAX: usize = 1_000;

impl ClientSession {
    /// Prepares the protocol-level statements that `text` names under the client's own names. What fails is
    /// not there, and the text will be told so by the server.
    /// One that is only to be deallocated is prepared without a text, which cannot fail.
    pub(super) fn materialize(
        &mut self,
        lease: &mut ServerLease,
        names: &[Vec<u8>],
        deallocated: Option<&[u8]>,
    ) {
        let mut any = false;
        for name in names {
            let Some(definition) = self.statements.find(name).filter(|_| !name.is_empty()) else { continue };
            if lease.client_names.iter().any(|known| **known == **name) {
                continue;
            }
            let parse = if deallocated == Some(name) {
                Parse { name, sql: b"", types: b"\0\0" }
            } else {
                Parse { name, sql: &definition.sql, types: &definition.types }
            };
            parse.write(&mut lease.wire.outbox, name);
            self.exchange.push(Expect::OwnParse(name.as_slice().into()));
            lease.client_names.push(name.as_slice().into());
            any = true;
        }
        // In an implicit transaction a Sync would end it: what fails there fails the batch.
        if any && !self.awaiting_sync {
            frontend::sync(&mut lease.wire.outbox);
            self.exchange.push(Expect::OwnReady);
        }
    }

    /// Whether the client may have statements of SQL's PREPARE on the connection it holds.
    pub(super) fn may_have_sql_statements(&self) -> bool {
        self.effects.intersects(NAMES_STATEMENTS.union(SessionEffects::UNKNOWN_PROCEDURE))
            || self.pin.is_some()
    }

    /// After a transaction: which of the statements under the client's own names SQL has deallocated, and
    /// away with the rest.
    pub(super) async fn forget_client_names(&mut self, lease: &mut ServerLease) -> Result<(), SessionError> {
        let mut names = std::mem::take(&mut lease.client_names);
        names.sort();
        names.dedup();
        let listed: Vec<_> = lease
            .simple_query("SELECT name FROM pg_catalog.pg_prepared_statements WHERE NOT from_sql")
            .await?;
        let left: Vec<_> = listed.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
        let mut sql = String::new();
        for name in names {
            if std::str::from_utf8(&name).is_err() {
                // Not to be told from what the server lists as text.
                lease.mark_broken();
            } else if left.iter().any(|known| known.as_bytes() == &*name) {
                let quoted = String::from_utf8_lossy(&name).replace('"', "\"\"");
                sql.extend(["DEALLOCATE \"", &quoted, "\";"]);
            } else {
                self.statements.set(&name, None);
            }
        }
        if !sql.is_empty() {
            lease.simple_query(&sql).await?;
        }
        Ok(())
    }
}

/// Words and quoted names in `text` that `is_known` knows, as PostgreSQL folds them.
pub(super) fn names_in(text: &[u8], lex: LexOptions, is_known: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
    let mut scanner = Scanner::new(text, lex);
    let mut names: Vec<Vec<u8>> = Vec::new();
    while let Some(token) = scanner.next_token(&mut ()) {
        let raw = text.get(token.start..token.end).unwrap_or_default();
        let name = match token.kind {
            Kind::Word => raw.to_ascii_lowercase(),
            Kind::Quoted => unquote(raw),
            _ => continue,
        };
        if is_known(&name) && !names.contains(&name) {
            names.push(name);
            if names.len() == NAMES_MAX {
                break;
            }
        }
    }
    names
}

/// The name of a `DEALLOCATE [PREPARE] name` that stands alone.
pub(super) fn deallocated(text: &[u8], lex: LexOptions) -> Option<Vec<u8>> {
    let words = words(text, lex);
    let statements: Vec<_> = words.split(|word| word == b";").filter(|words| !words.is_empty()).collect();
    let [words] = statements.as_slice() else { return None };
    match *words {
        [first, name] if first == b"deallocate" && name != b"all" && name != b"prepare" => Some(name.clone()),
        [first, second, name] if first == b"deallocate" && second == b"prepare" && name != b"all" => {
            Some(name.clone())
        }
        _ => None,
    }
}

/// Whether some statement of `sql` is DEALLOCATE ALL or DISCARD ALL.
pub(super) fn is_deallocate_all(sql: &[u8], lex: LexOptions) -> bool {
    words(sql, lex).split(|word| word == b";").any(|statement| {
        let ends =
            |end: &[&[u8]]| statement.len() == end.len() && statement.iter().zip(end).all(|(a, b)| a == b);
        ends(&[b"deallocate", b"all"])
            || ends(&[b"deallocate", b"prepare", b"all"])
            || ends(&[b"discard", b"all"])
    })
}

/// Words folded, quoted names unquoted (with their quotes kept where they would look like a keyword), anything
/// else as it is.
fn words(text: &[u8], lex: LexOptions) -> Vec<Vec<u8>> {
    let mut scanner = Scanner::new(text, lex);
    let mut words = Vec::new();
    while let Some(token) = scanner.next_token(&mut ()) {
        let raw = text.get(token.start..token.end).unwrap_or_default();
        words.push(match token.kind {
            Kind::Word => raw.to_ascii_lowercase(),
            Kind::Quoted
                if matches!(&*unquote(raw), b"all" | b"prepare" | b"discard" | b"deallocate" | b";") =>
            {
                raw.to_vec()
            }
            Kind::Quoted => unquote(raw),
            _ => raw.to_vec(),
        });
    }
    words
}

fn unquote(raw: &[u8]) -> Vec<u8> {
    let inner = raw.strip_prefix(b"\"").and_then(|r| r.strip_suffix(b"\"")).unwrap_or(raw);
    let mut out = BytesMut::with_capacity(inner.len());
    let mut rest = inner.iter().peekable();
    while let Some(byte) = rest.next() {
        if *byte == b'"' && rest.peek() == Some(&&b'"') {
            rest.next();
        }
        out.extend_from_slice(&[*byte]);
    }
    out.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_told_from_a_name() {
        let all = |sql: &str| is_deallocate_all(sql.as_bytes(), LexOptions::default());
        for yes in [
            "DEALLOCATE ALL",
            "deallocate prepare all;",
            "SELECT 1; DISCARD  ALL",
            "/* x */ DISCARD/* y */ALL -- z",
            "DISCARD ALL; SELECT 1",
        ] {
            assert!(all(yes), "{yes}");
        }
        for no in [
            "DEALLOCATE alles",
            "DEALLOCATE p1",
            "DISCARD PLANS",
            "DEALLOCATE \"all\"",
            "SELECT 'x; DISCARD ALL'",
            "SELECT 1 -- ; DISCARD ALL",
        ] {
            assert!(!all(no), "{no}");
        }
    }

    #[test]
    fn the_name_in_a_deallocate() {
        let name = |sql: &str| deallocated(sql.as_bytes(), LexOptions::default());
        assert_eq!(name("DEALLOCATE s1"), Some(b"s1".to_vec()));
        assert_eq!(name("deallocate prepare \"S \"\"1\";"), Some(b"S \"1".to_vec()));
        assert_eq!(name("DEALLOCATE PREPARE S1"), Some(b"s1".to_vec()));
        assert_eq!(name("DEALLOCATE ALL"), None);
        assert_eq!(name("DEALLOCATE PREPARE ALL"), None);
        assert_eq!(name("DEALLOCATE a; SELECT 1"), None);
    }

    #[test]
    fn names_that_a_client_has() {
        let known = |name: &[u8]| name == b"s_1" || name == b"S_1";
        let names = |sql: &str| names_in(sql.as_bytes(), LexOptions::default(), known);
        assert_eq!(names("EXPLAIN EXECUTE S_1(1)"), [b"s_1".to_vec()]);
        assert_eq!(names("EXECUTE \"S_1\"; DEALLOCATE \"S_1\""), [b"S_1".to_vec()]);
        assert!(names("SELECT 'S_1', $$s_1$$").is_empty());
    }
}
