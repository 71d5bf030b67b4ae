//! Settings that decide what the text of a prepared statement means.
//!
//! PostgreSQL reads the literals of a statement when it parses it: `'01/02/2026'::date` is a constant from then
//! on, by the `DateStyle` of that moment. So a definition is shared only by clients that mean the same by it,
//! and wherever it is prepared again, that is done under the settings of its Parse.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::catalog::SearchPath;
use crate::config::Consistency;
use crate::server::Settings;
use crate::sql::HintRole;

/// The settings in question. `client_encoding` counts for texts that are not plain ASCII.
const READ_BY: &[&str] = &[
    "array_nulls",
    "backslash_quote",
    "datestyle",
    "intervalstyle",
    "lc_monetary",
    "search_path",
    "standard_conforming_strings",
    "timezone",
    "transform_null_equals",
    "xmloption",
];

/// What a client asks of routing by its settings. Values that mean nothing ask for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// `pgweir.role`.
    pub(super) role: Option<HintRole>,
    /// `pgweir.consistency`.
    pub(super) consistency: Option<Consistency>,
}

impl Wishes {
    fn of(settings: &Settings) -> Self {
        let word = |name| settings.value(name).map(str::to_ascii_lowercase);
        Self {
            role: match word("pgweir.role").as_deref() {
                Some("primary") => Some(HintRole::Primary),
                Some("replica") => Some(HintRole::Replica),
                _ => None,
            },
            consistency: match word("pgweir.consistency").as_deref() {
                Some("strong") => Some(Consistency::Strong),
                Some("session") => Some(Consistency::Session),
                Some("eventual") => Some(Consistency::Eventual),
                _ => None,
            },
        }
    }
}

/// Readings of a worker that new clients may have, too.
const SHARED_MAX: usize = 16;

thread_local! {
    /// The newest at the end. Most clients have the settings of some other.
    static SHARED: RefCell<VecDeque<Arc<Reading>>> = const { RefCell::new(VecDeque::new()) };
}

/// The settings that a text is read by, and their name.
type Scope = (Settings, Arc<str>);

/// How statements of clients with certain settings are read.
#[derive(Debug)]
pub(super) struct Reading {
    database: String,
    /// The settings this was made of.
    of: Settings,
    ascii: Scope,
    other: Scope,
    /// Where its tables are; anywhere unless the client has said so.
    path: SearchPath,
    wishes: Wishes,
}

impl Reading {
    /// For a client of this database with these settings.
    pub(super) fn shared(database: &str, settings: &Settings) -> Arc<Self> {
        SHARED.with_borrow_mut(|shared| {
            let found = shared.iter().find(|one| one.of.is_same(settings) && one.database == database);
            if let Some(found) = found {
                return Arc::clone(found);
            }
            let mut new = Self::new(database, settings);
            // The same objects where they are equal, so that comparing them is cheap.
            for scope in [&mut new.ascii, &mut new.other] {
                let equal =
                    shared.iter().flat_map(|one| [&one.ascii, &one.other]).find(|other| *other == scope);
                if let Some(equal) = equal {
                    *scope = equal.clone();
                }
            }
            if shared.len() == SHARED_MAX {
                shared.pop_front();
            }
            let new = Arc::new(new);
            shared.push_back(Arc::clone(&new));
            new
        })
    }

    fn new(database: &str, settings: &Settings) -> Self {
        let ascii = READ_BY.iter().fold(Settings::none(), |set, name| match settings.value(name) {
            Some(value) => set.with(name, Some(value)),
            None => set,
        });
        let encoding = settings.value("client_encoding");
        let other = if encoding.is_some() { ascii.with("client_encoding", encoding) } else { ascii.clone() };
        let scope = |set: &Settings| {
            let names = set
                .iter()
                .fold(database.to_owned(), |scope, (name, value)| format!("{scope}\0{name}={value}"));
            Arc::from(names)
        };
        Self {
            database: database.to_owned(),
            of: settings.clone(),
            ascii: (ascii.clone(), scope(&ascii)),
            other: (other.clone(), scope(&other)),
            // Whom `$user` stands for, only the server knows.
            path: settings
                .value("search_path")
                .map_or_else(SearchPath::unknown, |path| SearchPath::parse(path, None)),
            wishes: Wishes::of(settings),
        }
    }

    /// Brings it up to date: cheap while the settings are the same object.
    #[inline]
    pub(super) fn refresh(self: &mut Arc<Self>, settings: &Settings) {
        if !self.of.is_same(settings) {
            *self = Self::shared(&self.database, settings);
        }
    }

    /// Where the client's tables are.
    pub(super) fn path(&self) -> &SearchPath {
        &self.path
    }

    /// What the client asks of routing.
    pub(super) fn wishes(&self) -> Wishes {
        self.wishes
    }

    /// The settings and the scope of a text.
    pub(super) fn of(&self, sql: &[u8]) -> (&Settings, &str) {
        let (settings, scope) = if sql.is_ascii() { &self.ascii } else { &self.other };
        (settings, scope)
    }

    /// `settings`, but with those that texts are read by as in `read`.
    pub(super) fn at(settings: &Settings, read: &Settings) -> Settings {
        let names = READ_BY.iter().copied().chain(read.value("client_encoding").map(|_| "client_encoding"));
        names.fold(settings.clone(), |set, name| set.with(name, read.value(name)))
    }

    /// Whether a text that was read under `settings` would be read the same way now.
    #[inline]
    pub(super) fn is_the_same(&self, settings: &Settings) -> bool {
        [&self.ascii.0, &self.other.0].into_iter().any(|own| own.is_same(settings) || own == settings)
    }
}

/// Whether `text`, which sets something, may set one of these.
pub(super) fn may_change(text: &[u8]) -> bool {
    let lower = String::from_utf8_lossy(text).to_ascii_lowercase();
    // SET TIME ZONE, SET NAMES, SET SCHEMA, SET XML OPTION, RESET ALL, DISCARD ALL.
    let words = ["zone", "names", "schema", "xml", "all", "client_encoding"];
    READ_BY.iter().chain(&words).any(|name| lower.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_differ_by_what_is_read_differently() {
        let with = |name: &str, value: &str| Settings::none().with(name, Some(value));
        let plain = Reading::new("d", &Settings::none());
        let dates = Reading::new("d", &with("datestyle", "ISO, DMY"));
        let bytes = Reading::new("d", &with("client_encoding", "LATIN1"));
        assert_ne!(plain.of(b"x").1, dates.of(b"x").1);
        assert_eq!(plain.of(b"x").1, Reading::new("d", &with("work_mem", "5MB")).of(b"x").1);
        assert_eq!(plain.of(b"x").1, bytes.of(b"x").1);
        assert_ne!(plain.of(b"\xe9").1, bytes.of(b"\xe9").1);
        assert!(plain.is_the_same(plain.of(b"x").0) && !plain.is_the_same(dates.of(b"x").0));
    }

    #[test]
    fn clients_with_the_same_settings_share_one() {
        let settings = Settings::none().with("datestyle", Some("ISO, DMY"));
        let mut first = Reading::shared("d", &settings);
        assert!(Arc::ptr_eq(&first, &Reading::shared("d", &settings)));
        assert!(!Arc::ptr_eq(&first, &Reading::shared("e", &settings)));
        let before = first.of(b"x").0.clone();
        first.refresh(&settings.with("work_mem", Some("5MB")));
        assert!(first.of(b"x").0.is_same(&before), "what texts are read by has not changed");
        for number in 0..2 * SHARED_MAX {
            Reading::shared(&number.to_string(), &settings);
        }
        assert!(SHARED.with_borrow(|shared| shared.len() == SHARED_MAX), "others take no room for ever");
    }

    #[test]
    fn wishes_are_read_where_they_mean_something() {
        let of = |name: &str, value: &str| Wishes::of(&Settings::none().with(name, Some(value)));
        assert_eq!(of("pgweir.role", "Primary").role, Some(HintRole::Primary));
        assert_eq!(of("pgweir.consistency", "eventual").consistency, Some(Consistency::Eventual));
        assert_eq!(of("pgweir.consistency", "stale"), Wishes::default());
    }

    #[test]
    fn what_may_change_them() {
        assert!(may_change(b"SET LOCAL DateStyle = 'x'") && may_change(b"SET TIME ZONE 'UTC'"));
        assert!(!may_change(b"SET LOCAL statement_timeout = 5"));
    }
}
