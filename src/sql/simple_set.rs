//! A SET whose effect can be read off its text: one statement, one setting, constants only.
//!
//! The cached [`Statement`](super::Statement) holds no literals, so this reads the text again. It is
//! conservative: `None` only means that the session must be asked what has changed.

use super::functions::is_keyword;
use super::scan::{Kind, LexOptions, Scanner, Token};

/// More tokens than this are no simple SET.
const TOKENS_MAX: usize = 40;

/// Settings whose lists PostgreSQL stores with each name quoted where it needs to be.
const QUOTED_LISTS: &[&str] =
    &["search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"];

/// Words after SET that begin another command than the assignment of a setting.
const NOT_SETTINGS: &[&str] = &[
    "local",
    "constraints",
    "transaction",
    "characteristics",
    "role",
    "authorization",
    "xml",
    "session",
    "all",
];

/// How a setting was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetForm {
    /// SET or RESET.
    Set,
    /// `SELECT set_config(…)`.
    SetConfig,
}

/// One setting made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetCommand {
    /// The setting, in lower case.
    pub name: String,
    /// What `set_config(name, value, false)` would need for the same effect; `None` resets it.
    pub value: Option<String>,
    /// How it was written.
    pub form: SetForm,
}

/// The setting that `sql` makes, if it is one statement that does nothing else.
pub fn simple_set(sql: &[u8], options: LexOptions) -> Option<SetCommand> {
    if options.backslash_trail_bytes && !sql.is_ascii() {
        return None;
    }
    let mut scanner = Scanner::new(sql, options);
    let mut tokens = Vec::new();
    while let Some(token) = scanner.next_token(&mut ()) {
        if tokens.len() == TOKENS_MAX || token.kind == Kind::Error {
            return None;
        }
        tokens.push(token);
    }
    let mut cursor = Cursor { sql, options, tokens: &tokens };
    while cursor.tokens.last().is_some_and(|token| cursor.raw(*token) == b";") {
        cursor.tokens = cursor.tokens.split_last()?.1;
    }
    let command = cursor.command()?;
    cursor.tokens.is_empty().then_some(command)
}

struct Cursor<'a> {
    sql: &'a [u8],
    options: LexOptions,
    tokens: &'a [Token],
}

impl Cursor<'_> {
    fn raw(&self, token: Token) -> &[u8] {
        self.sql.get(token.start..token.end).unwrap_or_default()
    }

    /// The next token's text in lower case, if it is an unquoted word.
    fn peek_word(&self) -> Option<String> {
        let token = *self.tokens.first()?;
        let text = std::str::from_utf8(self.raw(token)).ok()?;
        (token.kind == Kind::Word && text.is_ascii()).then(|| text.to_ascii_lowercase())
    }

    fn skip(&mut self) {
        self.tokens = self.tokens.get(1..).unwrap_or_default();
    }

    fn accept(&mut self, text: &str) -> bool {
        let found = self.tokens.first().is_some_and(|token| {
            matches!(token.kind, Kind::Word | Kind::Punct | Kind::Operator)
                && self.raw(*token).eq_ignore_ascii_case(text.as_bytes())
        });
        if found {
            self.skip();
        }
        found
    }

    fn command(&mut self) -> Option<SetCommand> {
        if self.accept("reset") {
            let name = self.name()?;
            return Some(SetCommand { name, value: None, form: SetForm::Set });
        }
        if self.accept("select") {
            return self.set_config();
        }
        if !self.accept("set") {
            return None;
        }
        if self.accept("time") {
            return if self.accept("zone") { self.time_zone() } else { None };
        }
        if self.accept("names") {
            let value = Some(self.text()?);
            return Some(SetCommand { name: "client_encoding".to_owned(), value, form: SetForm::Set });
        }
        if self.accept("session") && self.accept("time") {
            return if self.accept("zone") { self.time_zone() } else { None };
        }
        let name = self.name()?;
        if !(self.accept("=") || self.accept("to")) {
            return None;
        }
        let value = if self.accept("default") { None } else { Some(self.values(&name)?) };
        Some(SetCommand { name, value, form: SetForm::Set })
    }

    /// Only as a literal: numbers and intervals mean something else here than in `set_config`.
    fn time_zone(&mut self) -> Option<SetCommand> {
        let value = Some(self.text()?);
        Some(SetCommand { name: "timezone".to_owned(), value, form: SetForm::Set })
    }

    fn set_config(&mut self) -> Option<SetCommand> {
        if self.accept("pg_catalog") && !self.accept(".") {
            return None;
        }
        if !(self.accept("set_config") && self.accept("(")) {
            return None;
        }
        let name = self.text()?.to_ascii_lowercase();
        if !self.accept(",") {
            return None;
        }
        let value = self.text()?;
        let rest = self.accept(",") && self.accept("false") && self.accept(")");
        rest.then_some(SetCommand { name, value: Some(value), form: SetForm::SetConfig })
            .filter(|c| is_plain(&c.name))
    }

    fn name(&mut self) -> Option<String> {
        let mut name = self.peek_word()?;
        if NOT_SETTINGS.contains(&name.as_str()) {
            return None;
        }
        self.skip();
        while self.accept(".") {
            name.push('.');
            name.push_str(&self.peek_word()?);
            self.skip();
        }
        is_plain(&name).then_some(name)
    }

    /// A plain literal; `None` for anything that needs decoding.
    fn text(&mut self) -> Option<String> {
        let token = *self.tokens.first()?;
        let raw = self.raw(token);
        let inner = raw.strip_prefix(b"'")?.strip_suffix(b"'")?;
        if token.kind != Kind::Text || (!self.options.standard_conforming_strings && inner.contains(&b'\\')) {
            return None;
        }
        let text = std::str::from_utf8(inner).ok()?.replace("''", "\u{0}");
        // A quote that is left belongs to a literal continued on another line.
        if text.contains('\'') {
            return None;
        }
        self.skip();
        Some(text.replace('\u{0}', "'"))
    }

    fn values(&mut self, name: &str) -> Option<String> {
        let quotes = QUOTED_LISTS.contains(&name);
        let mut values = Vec::new();
        loop {
            values.push(self.value(quotes)?);
            if !self.accept(",") {
                break;
            }
        }
        // How other lists are flattened depends on the setting.
        (values.len() == 1 || quotes).then(|| values.join(", "))
    }

    fn value(&mut self, quotes: bool) -> Option<String> {
        let token = *self.tokens.first()?;
        let raw = std::str::from_utf8(self.raw(token)).ok()?;
        let value = match token.kind {
            Kind::Text => {
                let text = self.text()?;
                return if quotes { quote_identifier(&text) } else { Some(text) };
            }
            // `007` is 7, `0x10` is 16: only what is written as PostgreSQL would write it.
            Kind::Number
                if raw.bytes().all(|b| b.is_ascii_digit()) && (raw == "0" || !raw.starts_with('0')) =>
            {
                raw.to_owned()
            }
            // Longer names are cut.
            Kind::Word if raw.len() < 64 => self.peek_word()?,
            Kind::Quoted => raw.get(1..raw.len().checked_sub(1)?)?.replace("\"\"", "\""),
            _ => return None,
        };
        self.skip();
        if quotes { quote_identifier(&value) } else { Some(value) }
    }
}

fn is_plain(name: &str) -> bool {
    // These two are not settings like others: one depends on the other, and on who asks.
    name != "role"
        && name != "session_authorization"
        // These end with the transaction, whatever they are set with.
        && !name.starts_with("transaction_")
        // A style keeps the order of before, and the other way round; a seed is not a state but an act.
        && name != "datestyle"
        && name != "seed"
        // Can only be off, and is in no list.
        && name != "default_with_oids"
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
}

/// As PostgreSQL's `quote_identifier`; `None` where it would depend on the kind of keyword.
fn quote_identifier(name: &str) -> Option<String> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    if first && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        return (!is_keyword(name)).then(|| name.to_owned());
    }
    Some(format!("\"{}\"", name.replace('"', "\"\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A setting's name and value, when there is one.
    type Expected = Option<(&'static str, Option<&'static str>)>;

    #[test]
    fn the_table() {
        let cases: &[(&str, Expected)] = &[
            ("SET work_mem = '5MB'", Some(("work_mem", Some("5MB")))),
            ("set session Work_Mem to 4096;", Some(("work_mem", Some("4096")))),
            ("SET TimeZone TO 'Europe/Oslo';", Some(("timezone", Some("Europe/Oslo")))),
            ("SET timezone = UTC", Some(("timezone", Some("utc")))),
            ("SET TIME ZONE 'UTC'", Some(("timezone", Some("UTC")))),
            ("SET TIME ZONE -7", None),
            ("SET SESSION TIME ZONE 'UTC'", Some(("timezone", Some("UTC")))),
            ("SET NAMES 'latin1'", Some(("client_encoding", Some("latin1")))),
            ("SET app.tenant = 'it''s'", Some(("app.tenant", Some("it's")))),
            ("SET search_path = tenant1, public", Some(("search_path", Some("tenant1, public")))),
            ("SET search_path TO \"Tenant\", 'a b'", Some(("search_path", Some("\"Tenant\", \"a b\"")))),
            ("SET search_path TO user", None),
            ("SET datestyle = iso, mdy", None),
            ("SET datestyle = iso", None),
            ("SET seed = 1", None),
            ("SET work_mem = DEFAULT", Some(("work_mem", None))),
            ("RESET work_mem", Some(("work_mem", None))),
            ("RESET ALL", None),
            ("SELECT set_config('TimeZone', 'UTC', false)", Some(("timezone", Some("UTC")))),
            ("SELECT pg_catalog.set_config('a.b', 'x', false) ;", Some(("a.b", Some("x")))),
            ("SELECT set_config('a', 'b', true)", None),
            ("SELECT set_config('a', 'b', false), 1", None),
            ("SELECT set_config('role', 'b', false)", None),
            ("SELECT set_config(E'a', 'b', false)", None),
            ("SELECT set_config('a', 'b'\n'c', false)", None),
            ("SET LOCAL work_mem = 1", None),
            ("SET ROLE x", None),
            ("SET role = 'x'", None),
            ("SET SESSION AUTHORIZATION x", None),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", None),
            ("SET TRANSACTION READ ONLY", None),
            ("SET a = 1; SET b = 2", None),
            ("SET statement_timeout = 1000 -- ms", Some(("statement_timeout", Some("1000")))),
        ];
        for (sql, expected) in cases {
            let found = simple_set(sql.as_bytes(), LexOptions::default());
            let found = found.as_ref().map(|set| (set.name.as_str(), set.value.as_deref()));
            assert_eq!(found, *expected, "{sql}");
        }
    }

    #[test]
    fn without_standard_conforming_strings_a_backslash_needs_decoding() {
        let off = LexOptions { standard_conforming_strings: false, ..LexOptions::default() };
        assert_eq!(simple_set(br"SET a.b = 'x\n'", off), None);
        assert!(simple_set(b"SET a.b = 'x'", off).is_some());
    }
}
