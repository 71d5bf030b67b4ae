//! What a console user typed. Also what drivers send on their own before their user types anything.

use crate::protocol::{ErrorResponse, SqlState};

use super::SERVER_VERSION;
use super::show::Show;
use super::table::{Cell, ColumnType, Table};

/// A command of the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Nothing, a comment, a semicolon.
    Empty,
    /// Where a statement would go.
    Explain {
        /// Of this database; of all that are in use if none is named.
        database: Option<String>,
        /// The statement.
        sql: String,
    },
    /// SHOW, of what the console has.
    Show(Show),
    /// SHOW of a setting that drivers look at: name and value.
    Setting(&'static str, &'static str),
    /// A constant SELECT that drivers and health checks send.
    Select(Table),
    /// Read the configuration again.
    Reload,
    /// Drain and end.
    Shutdown,
    /// No reads for this node, until told otherwise.
    Ban(String),
    /// Reads for this node again.
    Unban(String),
    /// This node is the primary, whatever its timeline says.
    Trust(String),
    /// SET and its kin: accepted, without effect on a console that has no settings of its own.
    Set,
}

/// Settings that drivers ask for, with the answers of a PostgreSQL that they can talk to.
const SETTINGS: &[(&str, &str)] = &[
    ("server_version", SERVER_VERSION),
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("transaction_isolation", "read committed"),
    ("transaction isolation level", "read committed"),
    ("datestyle", "ISO"),
    ("timezone", "UTC"),
    ("integer_datetimes", "on"),
    ("search_path", ""),
];

/// Commands that PgBouncer has and this version does not.
const UNSUPPORTED: &[&str] = &[
    "pause",
    "resume",
    "disable",
    "enable",
    "reconnect",
    "wait_close",
    "kill",
    "kill_client",
    "suspend",
    "explain",
    "promote",
];

/// What a session of no transactions accepts without doing anything.
const WITHOUT_EFFECT: &[&str] =
    &["set", "reset", "begin", "start", "commit", "end", "rollback", "abort", "discard", "deallocate"];

impl Command {
    /// Reads one command. Case does not matter; comments and one `;` at the end are allowed.
    ///
    /// # Errors
    /// When it is no command of the console.
    pub fn parse(sql: &str) -> Result<Self, ErrorResponse> {
        if let Some((database, sql)) = super::explain::split(sql) {
            return Ok(Self::Explain { database, sql });
        }
        let text = without_comments(sql);
        let text = text.trim().trim_end_matches(';').trim().to_ascii_lowercase();
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let Some((&first, rest)) = words.split_first() else { return Ok(Self::Empty) };
        match first {
            "show" => Self::show(rest).ok_or_else(|| unknown_show(&rest.join(" "))),
            "reload" if rest.is_empty() => Ok(Self::Reload),
            "shutdown" if rest.is_empty() || rest == ["wait_for_clients"] => Ok(Self::Shutdown),
            "ban" | "unban" | "trust" => {
                let [node] = rest else { return Err(no_node_named(first)) };
                let node = node.trim_matches(['"', '\'']).to_owned();
                Ok(match first {
                    "ban" => Self::Ban(node),
                    "unban" => Self::Unban(node),
                    _ => Self::Trust(node),
                })
            }
            "select" => Self::select(rest).ok_or_else(|| invalid(sql)),
            word if WITHOUT_EFFECT.contains(&word) => Ok(Self::Set),
            word if UNSUPPORTED.contains(&word) => Err(ErrorResponse::error(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("{} is not supported in this version", word.to_ascii_uppercase()),
            )
            .hint("SHOW HELP lists what the console can do.")),
            _ => Err(invalid(sql)),
        }
    }

    /// Whether a user who may only look may run it.
    pub fn is_harmless(&self) -> bool {
        match self {
            Self::Empty
            | Self::Explain { .. }
            | Self::Show(_)
            | Self::Setting(..)
            | Self::Select(_)
            | Self::Set => true,
            Self::Reload | Self::Shutdown | Self::Ban(_) | Self::Unban(_) | Self::Trust(_) => false,
        }
    }

    fn show(words: &[&str]) -> Option<Self> {
        let name = words.join(" ");
        if let Some(show) = Show::parse(&name) {
            return Some(Self::Show(show));
        }
        SETTINGS.iter().find(|(known, _)| *known == name).map(|(name, value)| Self::Setting(name, value))
    }

    fn select(words: &[&str]) -> Option<Self> {
        let expression = words.join(" ");
        if let Some(show) = Show::parse(&expression) {
            return Some(Self::Show(show));
        }
        let constant = |name, kind, cell| {
            let mut table = Table::new(&[(name, kind)]);
            table.push(vec![cell]);
            Some(Self::Select(table))
        };
        match expression.as_str() {
            "1" => constant("?column?", ColumnType::Int4, Cell::Number(1)),
            "version()" | "pg_catalog.version()" => {
                constant("version", ColumnType::Text, Cell::text(super::show::version_text()))
            }
            "current_schema()" => constant("current_schema", ColumnType::Text, Cell::Null),
            "current_database()" => constant("current_database", ColumnType::Text, Cell::text("pgbouncer")),
            _ => None,
        }
    }
}

fn no_node_named(command: &str) -> ErrorResponse {
    let command = command.to_ascii_uppercase();
    ErrorResponse::error(SqlState::SYNTAX_ERROR, format!("{command} needs the name of one node"))
        .hint(format!("As in SHOW CLUSTER: {command} db-1:5432"))
}

fn invalid(sql: &str) -> ErrorResponse {
    let shown: String = sql.chars().take(60).collect();
    ErrorResponse::error(SqlState::SYNTAX_ERROR, format!("invalid command '{}'", shown.trim()))
        .hint("This is the admin console; use SHOW HELP.")
}

fn unknown_show(name: &str) -> ErrorResponse {
    let shown: String = name.chars().take(60).collect();
    ErrorResponse::error(SqlState::SYNTAX_ERROR, format!("unknown SHOW command '{shown}'"))
        .hint("Use SHOW HELP.")
}

/// The text without comments. Literals with comment marks in them do not occur in what we understand.
fn without_comments(sql: &str) -> String {
    let mut out = String::new();
    let mut rest = sql;
    loop {
        let line = rest.find("--");
        let block = rest.find("/*");
        match (line, block) {
            (Some(line), block) if block.is_none_or(|block| line < block) => {
                out.push_str(rest.get(..line).unwrap_or_default());
                rest = rest.get(line..).and_then(|tail| tail.split_once('\n')).map_or("", |(_, tail)| tail);
                out.push(' ');
            }
            (_, Some(block)) => {
                out.push_str(rest.get(..block).unwrap_or_default());
                rest = rest.get(block..).and_then(|tail| tail.split_once("*/")).map_or("", |(_, tail)| tail);
                out.push(' ');
            }
            _ => {
                out.push_str(rest);
                return out;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_and_drivers_send() {
        assert_eq!(Command::parse(" ; "), Ok(Command::Empty));
        assert_eq!(Command::parse("/* x */ show POOLS;"), Ok(Command::Show(Show::Pools)));
        assert_eq!(Command::parse("SHOW stats -- a"), Ok(Command::Show(Show::Stats)));
        assert_eq!(Command::parse("SELECT version"), Ok(Command::Show(Show::Version)));
        assert_eq!(Command::parse("SET extra_float_digits = 3"), Ok(Command::Set));
        assert_eq!(
            Command::parse("SHOW server_version"),
            Ok(Command::Setting("server_version", SERVER_VERSION))
        );
        assert!(matches!(Command::parse("SELECT 1;"), Ok(Command::Select(_))));
        assert_eq!(Command::parse("BAN 'Db-1:5432';"), Ok(Command::Ban("db-1:5432".to_owned())));
        assert_eq!(Command::parse("unban [::1]:1"), Ok(Command::Unban("[::1]:1".to_owned())));
        assert_eq!(Command::parse("TRUST a b").unwrap_err().code, SqlState::SYNTAX_ERROR);
        assert_eq!(Command::parse("SHOW nonsense").unwrap_err().code, SqlState::SYNTAX_ERROR);
        assert_eq!(Command::parse("PAUSE app").unwrap_err().code, SqlState::FEATURE_NOT_SUPPORTED);
        assert_eq!(Command::parse("DROP TABLE x").unwrap_err().code, SqlState::SYNTAX_ERROR);
    }
}
