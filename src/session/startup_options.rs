//! The startup packet's parameters: which are settings, and what `options` holds.

use std::collections::BTreeMap;

use crate::protocol::startup::StartupMessage;
use crate::protocol::{ErrorResponse, SqlState};
use crate::server::{Settings, normalize_name};

/// Parameters that are not settings.
const NOT_SETTINGS: &[&str] = &["user", "database", "replication", "options"];

/// The settings of a startup packet, `options` included.
///
/// # Errors
/// When `options` holds something else than settings.
pub(super) fn settings(startup: &StartupMessage) -> Result<Settings, ErrorResponse> {
    let mut map = BTreeMap::new();
    // As in PostgreSQL, options come first and named parameters win.
    if let Some(options) = startup.value("options") {
        for (name, value) in parse_options(options)? {
            map.insert(normalize_name(&name), value);
        }
    }
    for (name, value) in &startup.parameters {
        if !NOT_SETTINGS.contains(&name.as_str()) && !name.starts_with("_pq_.") {
            map.insert(normalize_name(name), value.clone());
        }
    }
    Ok(Settings::from_map(map))
}

fn parse_options(options: &str) -> Result<Vec<(String, String)>, ErrorResponse> {
    let mut settings = Vec::new();
    let mut words = split(options).into_iter();
    while let Some(word) = words.next() {
        let assignment = if word == "-c" {
            words.next().unwrap_or_default()
        } else if let Some(rest) = word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            rest.to_owned()
        } else {
            return Err(unsupported(&word));
        };
        let Some((name, value)) = assignment.split_once('=') else { return Err(unsupported(&word)) };
        // PostgreSQL takes dashes for underscores in names.
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

fn unsupported(word: &str) -> ErrorResponse {
    ErrorResponse::fatal(SqlState::FEATURE_NOT_SUPPORTED, format!("unsupported startup option \"{word}\""))
        .hint("Only settings can be given in options: -c name=value or --name=value.")
}

/// Splits at spaces; a backslash keeps the character after it.
fn split(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut in_word = false;
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        if c.is_ascii_whitespace() {
            if std::mem::take(&mut in_word) {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        in_word = true;
        word.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    if in_word {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parameters: &[(&str, &str)]) -> Result<Vec<(String, String)>, ErrorResponse> {
        let parameters = parameters.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let settings = settings(&StartupMessage { minor: 0, parameters })?;
        Ok(settings.iter().map(|(a, b)| (a.to_owned(), b.to_owned())).collect())
    }

    #[test]
    fn options_and_parameters() {
        let found = of(&[
            ("user", "u"),
            ("database", "d"),
            ("client_encoding", "'utf-8'"),
            ("options", r"-c search_path=a,\ b --work-mem=4MB -cstatement_timeout=5s"),
            ("TimeZone", "UTC"),
            ("_pq_.x", "1"),
        ])
        .unwrap();
        let expected = [
            ("client_encoding", "'utf-8'"),
            ("search_path", "a, b"),
            ("statement_timeout", "5s"),
            ("timezone", "UTC"),
            ("work_mem", "4MB"),
        ];
        assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn named_parameters_win() {
        let found = of(&[("options", "-c timezone=A"), ("TimeZone", "B")]).unwrap();
        assert_eq!(found, [("timezone".to_owned(), "B".to_owned())]);
    }

    #[test]
    fn other_switches_are_refused() {
        assert!(of(&[("options", "-S 4")]).is_err() && of(&[("options", "-c nonsense")]).is_err());
    }
}
