//! COPY … FROM STDIN: which table, where the key is in its rows, and how rows are written.
//!
//! The statement is read from its raw tokens: the normalized ones leave out values of lists, and here a list
//! in parentheses holds options. What is not understood to the last token is refused: an option that is
//! passed over could change where a row ends, or what its key is.

use crate::shard::{CopyEncoding, CopyFormat, CopyKey, CopyOptions, CopyTarget, ShardedSchema, TableClass};

use super::super::classify::{classify, table_name};
use super::super::scan::{Kind, LexOptions, Scanner};
use super::super::session_effects::SessionEffects;
use super::super::tokens::{Text, View};
use super::fill::{Defaults, Fill};
use super::{Refusal, unknown_function};

/// Data that a client wants to copy into a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyFrom {
    /// Each row goes to its shard.
    Sharded(CopyTarget),
    /// Likewise, once it is known what columns the table has.
    Unlisted(Unlisted),
    /// All go to all shards.
    Everywhere {
        /// The table.
        table: String,
        /// Its columns that no row gives.
        fill: Fill,
    },
}

impl CopyFrom {
    /// What it leaves to defaults, in a table that is everywhere.
    pub fn fill(&self) -> Option<&Fill> {
        match self {
            Self::Everywhere { fill, .. } => Some(fill),
            Self::Sharded(_) | Self::Unlisted(_) => None,
        }
    }

    /// The sharded table that it is for.
    pub fn sharded_table(&self) -> Option<&str> {
        match self {
            Self::Sharded(target) => Some(&target.table),
            Self::Unlisted(unlisted) => Some(&unlisted.table),
            Self::Everywhere { .. } => None,
        }
    }
}

/// A COPY into a sharded table without a list of columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlisted {
    /// The table's schema, if it is named.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
    /// Where in the text a list would stand.
    behind: usize,
}

impl Unlisted {
    /// The statement with a list of these columns, each written as an identifier.
    pub fn listed(&self, sql: &[u8], columns: &[String]) -> Vec<u8> {
        let (before, rest) = sql.split_at(self.behind.min(sql.len()));
        [before, b" (", columns.join(", ").as_bytes(), b")", rest].concat()
    }
}

/// Most tokens of a COPY: more is not looked at.
const TOKENS_MAX: usize = 20_000;

/// What a text copies from the client, if it is nothing but one such COPY. `None` for all that is no COPY into a
/// table: [`super::key_plan`] has the answer.
///
/// # Errors
/// Why rows cannot be given to shards: the table is not declared; the key is not in the list of columns; the data
/// comes from a file or program of the server; there are other statements; an option that is not known, is a string
/// with unusual escapes, or `ON_ERROR` other than `stop`; an encoding in which a backslash may be part of a character; a
/// function in WHERE that is not built in.
pub fn copy_from(sql: &[u8], lex: LexOptions, schema: &ShardedSchema) -> Result<Option<CopyFrom>, Refusal> {
    let mut scanner = Scanner::new(sql, lex);
    let mut tokens = Vec::new();
    while let Some(token) = scanner.next_token(&mut ()) {
        // Before anything is kept of what is no COPY.
        let first = sql.get(token.start..token.end).unwrap_or_default();
        if tokens.is_empty() && first != b";" && !first.eq_ignore_ascii_case(b"copy") {
            return Ok(None);
        }
        if tokens.len() > TOKENS_MAX {
            return Err(Refusal::NotUnderstood);
        }
        tokens.push(token);
    }
    let text = Text::new(sql, &tokens);
    let statements = text.statements();
    let Some(view) = statements.first().copied() else { return Ok(None) };
    // `COPY (query)` only ever goes to the client.
    if view.punct(1, b"(") {
        return Ok(None);
    }
    let Some((name, named)) = table_name(view, 1) else { return Err(Refusal::NotUnderstood) };
    let mut at = named;
    let mut columns = None;
    if view.punct(at, b"(") {
        let (listed, after) = names(view, at).ok_or(Refusal::NotUnderstood)?;
        (columns, at) = (Some(listed), after);
    }
    match (view.word(at), view.word(at + 1)) {
        (b"from", b"stdin") => at += 2,
        (b"from", _) => return Err(Refusal::Construct("COPY from a file or program of the server")),
        _ => return Ok(None),
    }
    if statements.len() > 1 {
        return Err(Refusal::Construct("COPY together with other statements"));
    }
    if lex.backslash_trail_bytes {
        return Err(Refusal::Construct(
            "COPY in a client encoding where a backslash may be part of a character",
        ));
    }
    let behind = view.end(named - 1);
    let (options, forced) = Reader { view, lex, at }.statement()?;
    let table = name.name.to_string();
    let tables = match schema.classify(name.schema.as_deref(), &name.name) {
        TableClass::Sharded(_, tables) => tables,
        TableClass::Everywhere => {
            // In its rows a word may stand for a default.
            let given = columns.as_ref().filter(|_| options.default.is_none());
            let all = Defaults::Behind(usize::MAX, Vec::new());
            let columns = match (given, options.default) {
                (Some(given), _) => Defaults::AllBut(given.iter().map(ToString::to_string).collect()),
                (None, None) => all,
                (None, Some(_)) => Defaults::AllBut(Vec::new()),
            };
            let schema = name.schema.as_deref().map(str::to_owned);
            let fill = Fill { schema, table: table.clone(), columns, ordered: true };
            return Ok(Some(CopyFrom::Everywhere { table, fill }));
        }
        TableClass::Catalog => return Err(Refusal::Construct("COPY into a catalog")),
        TableClass::Ambiguous => return Err(Refusal::Ambiguous(table)),
        TableClass::Undeclared => return Err(Refusal::Undeclared(table)),
    };
    let refuse = |what| Err(Refusal::Copy { table: table.clone(), what });
    let Some(columns) = columns else {
        let schema = name.schema.as_deref().map(str::to_owned);
        return Ok(Some(CopyFrom::Unlisted(Unlisted { schema, table, behind })));
    };
    let mut key = Vec::with_capacity(tables.key.len());
    for column in &tables.key {
        let Some(index) = columns.iter().position(|name| **name == *column.name) else {
            return refuse("does not give the key a value");
        };
        let (force_not_null, force_null) =
            (forced.not_null.holds(&column.name), forced.null.holds(&column.name));
        key.push(CopyKey { index, column: column.clone(), force_not_null, force_null });
    }
    let function = tables.function.clone();
    Ok(Some(CopyFrom::Sharded(CopyTarget { table, columns: columns.len(), key, function, options })))
}

/// `(a, b)`: the names, and what is behind.
fn names(view: View<'_>, open: usize) -> Option<(Vec<Box<str>>, usize)> {
    let mut names = Vec::new();
    let mut at = open + 1;
    loop {
        names.push(view.identifier(at)?);
        match view.raw(at + 1) {
            b"," => at += 2,
            b")" => return Some((names, at + 2)),
            _ => return None,
        }
    }
}

/// Columns of `FORCE_NULL` and `FORCE_NOT_NULL`.
#[derive(Default)]
enum Columns {
    #[default]
    None,
    All,
    These(Vec<Box<str>>),
}

impl Columns {
    fn holds(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::These(names) => names.iter().any(|it| &**it == name),
        }
    }
}

#[derive(Default)]
struct Forced {
    not_null: Columns,
    null: Columns,
}

/// What has been said; what depends on the format is filled in at the end.
#[derive(Default)]
struct Said {
    format: Option<CopyFormat>,
    delimiter: Option<u8>,
    null: Option<Vec<u8>>,
    default: Option<Vec<u8>>,
    quote: Option<u8>,
    escape: Option<u8>,
    header: bool,
    encoding: Option<CopyEncoding>,
    forced: Forced,
}

/// Reads what is behind FROM STDIN.
struct Reader<'a> {
    view: View<'a>,
    lex: LexOptions,
    at: usize,
}

type Done = Option<()>;

impl<'a> Reader<'a> {
    fn statement(mut self) -> Result<(CopyOptions, Forced), Refusal> {
        const UNKNOWN: Refusal = Refusal::Construct("COPY with an option that is not known here");
        let mut said = Said::default();
        if self.passes("using") || self.view.is(self.at, "delimiters") {
            self.old_option(&mut said).ok_or(UNKNOWN)?;
        }
        self.passes("with");
        if self.view.punct(self.at, b"(") {
            self.at += 1;
            loop {
                self.option(&mut said).ok_or(UNKNOWN)?;
                let raw = self.view.raw(self.at);
                self.at += 1;
                match raw {
                    b"," => {}
                    b")" => break,
                    _ => return Err(UNKNOWN),
                }
            }
        } else {
            while self.at < self.view.len() && !self.view.is(self.at, "where") {
                self.old_option(&mut said).ok_or(UNKNOWN)?;
            }
        }
        if self.view.is(self.at, "where") {
            let condition = classify(self.view.slice(self.at, self.view.len()));
            if let Some(function) = unknown_function(&condition) {
                return Err(Refusal::Function(function));
            }
            if condition.session != SessionEffects::NONE {
                return Err(Refusal::Construct("COPY with a condition that acts on the session"));
            }
        } else if self.at < self.view.len() {
            return Err(UNKNOWN);
        }
        let mut options = CopyOptions::of(said.format.unwrap_or(CopyFormat::Text));
        options.delimiter = said.delimiter.unwrap_or(options.delimiter);
        options.null = said.null.unwrap_or(options.null);
        options.quote = said.quote.unwrap_or(options.quote);
        options.escape = said.escape.unwrap_or(options.quote);
        (options.default, options.header, options.encoding) = (said.default, said.header, said.encoding);
        // Between quotes of backslashes, an end marker is none.
        if options.quote == b'\\' {
            return Err(Refusal::Construct("COPY with a backslash as quote"));
        }
        Ok((options, said.forced))
    }

    fn passes(&mut self, word: &str) -> bool {
        let is = self.view.is(self.at, word);
        self.at += usize::from(is);
        is
    }

    fn next(&mut self) -> &'a [u8] {
        self.at += 1;
        self.view.word(self.at - 1)
    }

    /// One of `CSV HEADER DELIMITER AS ';' …`.
    fn old_option(&mut self, said: &mut Said) -> Done {
        match self.next() {
            b"binary" => said.format = Some(CopyFormat::Binary),
            b"csv" => said.format = Some(CopyFormat::Csv),
            b"freeze" => {}
            b"header" => said.header = true,
            b"delimiter" | b"delimiters" => said.delimiter = Some(self.old_byte()?),
            b"null" => said.null = Some(self.old_string()?),
            b"quote" => said.quote = Some(self.old_byte()?),
            b"escape" => said.escape = Some(self.old_byte()?),
            b"encoding" => said.encoding = Some(encoding(&self.string()?)?),
            b"force" => {
                let is_not = self.passes("not");
                if self.next() != b"null" {
                    return None;
                }
                let columns = self.old_columns()?;
                if is_not {
                    said.forced.not_null = columns;
                } else {
                    said.forced.null = columns;
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn old_string(&mut self) -> Option<Vec<u8>> {
        self.passes("as");
        self.string()
    }

    fn old_byte(&mut self) -> Option<u8> {
        self.passes("as");
        self.byte()
    }

    /// `a, b` or `*`.
    fn old_columns(&mut self) -> Option<Columns> {
        if self.view.raw(self.at) == b"*" {
            self.at += 1;
            return Some(Columns::All);
        }
        let mut names = Vec::new();
        loop {
            names.push(self.view.identifier(self.at)?);
            self.at += 1;
            if !self.view.punct(self.at, b",") {
                return Some(Columns::These(names));
            }
            self.at += 1;
        }
    }

    /// One of `(FORMAT csv, HEADER, DELIMITER ';' …)`.
    fn option(&mut self, said: &mut Said) -> Done {
        match self.next() {
            b"format" => {
                said.format = Some(match &*self.word_or_string()? {
                    b"text" => CopyFormat::Text,
                    b"csv" => CopyFormat::Csv,
                    b"binary" => CopyFormat::Binary,
                    _ => return None,
                });
            }
            b"freeze" => {
                self.boolean()?;
            }
            b"header" => said.header = self.boolean()?,
            b"delimiter" => said.delimiter = Some(self.byte()?),
            b"null" => said.null = Some(self.string()?),
            b"default" => said.default = Some(self.string()?),
            b"quote" => said.quote = Some(self.byte()?),
            b"escape" => said.escape = Some(self.byte()?),
            b"encoding" => said.encoding = Some(encoding(&self.word_or_string()?)?),
            b"force_not_null" => said.forced.not_null = self.columns()?,
            b"force_null" => said.forced.null = self.columns()?,
            // Else rows would be passed over that cannot be read here.
            b"on_error" => return (*self.word_or_string()? == *b"stop").then_some(()),
            b"log_verbosity" => {
                self.word_or_string()?;
            }
            _ => return None,
        }
        Some(())
    }

    /// `(a, b)` or `*`.
    fn columns(&mut self) -> Option<Columns> {
        if self.view.raw(self.at) == b"*" {
            self.at += 1;
            return Some(Columns::All);
        }
        if !self.view.punct(self.at, b"(") {
            return None;
        }
        let (names, after) = names(self.view, self.at)?;
        self.at = after;
        Some(Columns::These(names))
    }

    /// A value that is yes or no; `match` is a yes for a header.
    fn boolean(&mut self) -> Option<bool> {
        if matches!(self.view.raw(self.at), b"," | b")") {
            return Some(true);
        }
        let value = match self.view.kind(self.at)? {
            Kind::Number => {
                self.at += 1;
                self.view.raw(self.at - 1).to_vec()
            }
            _ => self.word_or_string()?.to_ascii_lowercase(),
        };
        match &*value {
            b"true" | b"on" | b"1" | b"match" => Some(true),
            b"false" | b"off" | b"0" => Some(false),
            _ => None,
        }
    }

    fn word_or_string(&mut self) -> Option<Vec<u8>> {
        match self.view.kind(self.at)? {
            Kind::Text => self.string(),
            _ => {
                let name = self.view.identifier(self.at)?;
                self.at += 1;
                Some(name.as_bytes().to_vec())
            }
        }
    }

    fn byte(&mut self) -> Option<u8> {
        match self.string()?.as_slice() {
            [byte] if byte.is_ascii() => Some(*byte),
            _ => None,
        }
    }

    /// The content of a literal, with the escapes of `E''` where they stand for ASCII.
    fn string(&mut self) -> Option<Vec<u8>> {
        let raw = (self.view.kind(self.at)? == Kind::Text).then(|| self.view.raw(self.at))?;
        self.at += 1;
        let (escapes, body) = match raw {
            [b'e' | b'E', body @ ..] => (true, body),
            body => (!self.lex.standard_conforming_strings, body),
        };
        let mut rest = body.strip_prefix(b"'")?.strip_suffix(b"'")?;
        let mut out = Vec::with_capacity(rest.len());
        while let [byte, after @ ..] = rest {
            rest = after;
            match byte {
                // One that is not doubled ends a part of a literal over several lines.
                b'\'' => {
                    rest = rest.strip_prefix(b"'")?;
                    out.push(b'\'');
                }
                b'\\' if escapes => {
                    let [escaped, after @ ..] = rest else { return None };
                    rest = after;
                    out.push(match escaped {
                        b'\\' | b'\'' => *escaped,
                        b't' => b'\t',
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b'b' => 0x08,
                        b'f' => 0x0c,
                        b'x' => {
                            let (digits, after) = rest.split_at_checked(2)?;
                            rest = after;
                            let digits = std::str::from_utf8(digits).ok()?;
                            let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                            u8::from_str_radix(digits, 16)
                                .ok()
                                .filter(|byte| plain && matches!(byte, 1..128))?
                        }
                        _ => return None,
                    });
                }
                _ => out.push(*byte),
            }
        }
        Some(out)
    }
}

/// An encoding by its name, if its bytes of ASCII are nothing but ASCII. Case and signs do not count.
fn encoding(name: &[u8]) -> Option<CopyEncoding> {
    const SAFE: &[&str] = &["latin", "iso8859", "win125", "win866", "win874", "koi8", "euc", "sqlascii"];
    let plain: String = name
        .iter()
        .filter(|byte| byte.is_ascii_alphanumeric())
        .map(|byte| char::from(byte.to_ascii_lowercase()))
        .collect();
    if matches!(plain.as_str(), "utf8" | "unicode") {
        return Some(CopyEncoding::Utf8);
    }
    SAFE.iter().any(|safe| plain.starts_with(safe)).then_some(CopyEncoding::Other)
}
