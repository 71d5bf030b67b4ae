//! Getting out of the way of commands that need a database for themselves.
//!
//! `DROP DATABASE x`, `ALTER DATABASE x RENAME` and `CREATE DATABASE y TEMPLATE x` fail while anybody is
//! connected to `x`, and a pool's idle connections are somebody. Without a pooler they would not be there:
//! so they are closed before such a command is sent. PostgreSQL waits some seconds for those who are leaving.

use crate::pool::PoolRegistry;
use crate::sql::{Kind, LexOptions, Scanner};
use std::time::Instant;

/// How many words of a statement are looked at; the options that follow name no database.
const WORDS_MAX: usize = 32;

/// The names in a CREATE, DROP or ALTER DATABASE: too many rather than too few, nothing for other statements.
pub(super) fn named(text: &[u8], lex: LexOptions) -> Vec<String> {
    let mut scanner = Scanner::new(text, lex);
    let mut words = Vec::new();
    while let Some(token) = scanner.next_token(&mut ()) {
        let raw = String::from_utf8_lossy(text.get(token.start..token.end).unwrap_or_default());
        match token.kind {
            Kind::Word => words.push(raw.to_ascii_lowercase()),
            Kind::Quoted => words.push(raw.trim_matches('"').replace("\"\"", "\"")),
            _ => {}
        }
        if words.len() == WORDS_MAX {
            break;
        }
    }
    let is_command = matches!(words.first().map(String::as_str), Some("create" | "drop" | "alter"))
        && words.get(1).is_some_and(|word| word == "database");
    if is_command { words.split_off(2) } else { Vec::new() }
}

/// Closes the idle connections to these databases, on all nodes; those in use are closed when they return.
pub(super) fn leave(pools: &PoolRegistry, names: &[String]) {
    if names.is_empty() {
        return;
    }
    for name in names {
        pools.listeners.close_unused(name);
    }
    for pool in pools.pools() {
        if names.contains(&pool.target().database) {
            pool.renew(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_where_they_matter() {
        let named = |text: &str| named(text.as_bytes(), LexOptions::default());
        assert_eq!(named("DROP DATABASE Test_X;"), ["test_x"]);
        assert_eq!(named("drop /* it */ database if exists \"Te\"\"st\""), ["if", "exists", "Te\"st"]);
        assert_eq!(named("CREATE DATABASE \"a_1\" WITH TEMPLATE a"), ["a_1", "with", "template", "a"]);
        assert_eq!(named("ALTER DATABASE a RENAME TO b"), ["a", "rename", "to", "b"]);
        assert!(named("DROP TABLE database").is_empty());
        assert!(named("SELECT 'DROP DATABASE a'").is_empty());
        assert!(named("").is_empty());
    }
}
