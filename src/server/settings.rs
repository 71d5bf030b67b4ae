//! Session settings as text: what a client set, what a server connection has, and the SQL between them.
//!
//! Values are what `set_config(name, value, false)` takes. Comparing two sets is a pointer comparison
//! when they are the same set, which is the usual case.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::Mutex;

/// An immutable set of session settings; cloning is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(Option<Arc<BTreeMap<String, String>>>);

/// The sets in use, so that equal ones are the same object: comparing them is then comparing pointers, also
/// between clients.
#[derive(Debug, Default)]
pub struct SettingsPool(Mutex<HashSet<Arc<BTreeMap<String, String>>>>);

impl SettingsPool {
    /// Sets that are kept before those that nobody has are swept out.
    const SWEEP_AT: usize = 4096;

    /// The set equal to this one that all have.
    #[must_use]
    pub fn intern(&self, settings: Settings) -> Settings {
        let Some(map) = settings.0 else { return settings };
        let mut known = self.0.lock();
        if let Some(found) = known.get(&map) {
            return Settings(Some(Arc::clone(found)));
        }
        if known.len() >= Self::SWEEP_AT {
            known.retain(|map| Arc::strong_count(map) > 1);
        }
        if known.len() < Self::SWEEP_AT {
            known.insert(Arc::clone(&map));
        }
        Settings(Some(map))
    }
}

/// The spelling under which a setting is remembered: PostgreSQL matches names without regard to case,
/// and has two names for the time zone.
pub fn normalize_name(name: &str) -> String {
    name.to_ascii_lowercase()
}

impl Settings {
    /// No setting at all.
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether both are the same object: cheap, and false negatives do no harm.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// The value of a setting.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.as_ref()?.get(name).map(String::as_str)
    }

    /// All settings by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|map| map.iter()).map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A set with one setting changed (`None`: removed). The same object when nothing changes.
    #[must_use]
    pub fn with(&self, name: &str, value: Option<&str>) -> Self {
        if self.value(name) == value {
            return self.clone();
        }
        let mut map = self.0.as_deref().cloned().unwrap_or_default();
        match value {
            Some(value) => map.insert(name.to_owned(), value.to_owned()),
            None => map.remove(name),
        };
        Self::from_map(map)
    }

    /// This set, and what `other` has besides.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        other.iter().fold(self.clone(), |set, (name, value)| {
            if set.value(name).is_some() { set } else { set.with(name, Some(value)) }
        })
    }

    /// A set of these names and values.
    pub fn from_map(map: BTreeMap<String, String>) -> Self {
        Self((!map.is_empty()).then(|| Arc::new(map)))
    }

    /// SQL that makes exactly these settings on a connection of which it is not known what it has.
    pub fn from_anything(&self) -> String {
        let assignments = Self::none().difference(self).unwrap_or_default();
        format!("RESET SESSION AUTHORIZATION;RESET ROLE;RESET ALL;{assignments}")
    }

    /// SQL (several statements of one simple query) that turns a connection with `self` into one with
    /// `target`; `None` when they are equal.
    pub fn difference(&self, target: &Self) -> Option<String> {
        if self.is_same(target) || self == target {
            return None;
        }
        let mut sql = String::new();
        // Whoever we are decides what we may set: with another session user or role than at login, we become
        // ourselves first. The session user and the role are set last.
        let had_identity = self.iter().any(|(name, _)| is_identity(name));
        if had_identity {
            sql.push_str("RESET SESSION AUTHORIZATION;RESET ROLE;");
        }
        // A date style may be a part of one, which goes on from the other part.
        let goes = |name: &str| match target.value(name) {
            None => !is_identity(name),
            value => name == "datestyle" && value != self.value(name),
        };
        for (name, _) in self.iter().filter(|(name, _)| goes(name)) {
            sql.push_str(&reset(name));
        }
        let changed = target
            .iter()
            .filter(|(name, value)| self.value(name) != Some(value) || (had_identity && is_identity(name)));
        let (identity, plain): (Vec<_>, Vec<_>) = changed.partition(|(name, _)| is_identity(name));
        if target.value("role").is_none()
            && !had_identity
            && identity.iter().any(|(name, _)| *name == "session_authorization")
        {
            sql.push_str("RESET ROLE;");
        }
        let assignments: Vec<String> = plain
            .into_iter()
            .chain(identity.into_iter().rev())
            .map(|(name, value)| {
                format!("pg_catalog.set_config({}, {}, false)", literal(name), literal(value))
            })
            .collect();
        if !assignments.is_empty() {
            sql.push_str("SELECT ");
            sql.push_str(&assignments.join(", "));
        }
        Some(sql)
    }
}

fn is_identity(name: &str) -> bool {
    name == "role" || name == "session_authorization"
}

fn reset(name: &str) -> String {
    if name.is_ascii() {
        let quoted: Vec<String> =
            name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect();
        return format!("RESET {};", quoted.join("."));
    }
    // The same, spelled in ASCII.
    format!("SELECT pg_catalog.set_config({}, NULL, false);", literal(name))
}

/// A string literal that means `text` whatever `standard_conforming_strings` and `client_encoding` say.
pub fn literal(text: &str) -> String {
    if !text.is_ascii() || text.contains('\\') {
        let mut quoted = String::from("E'");
        for c in text.chars() {
            match c {
                '\'' => quoted.push_str("''"),
                '\\' => quoted.push_str("\\\\"),
                c if c.is_ascii() => quoted.push(c),
                c => {
                    let _ = write!(quoted, "\\U{:08x}", u32::from(c));
                }
            }
        }
        quoted.push('\'');
        return quoted;
    }
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().fold(Settings::none(), |set, (name, value)| set.with(name, Some(value)))
    }

    #[test]
    fn equal_sets_need_nothing() {
        assert_eq!(set(&[("a", "1")]).difference(&set(&[("a", "1")])), None);
        let one = set(&[("a", "1")]);
        assert!(one.with("a", Some("1")).is_same(&one));
        assert!(one.with("a", None).is_empty());
    }

    #[test]
    fn the_difference_resets_then_sets() {
        let from = set(&[("app.tenant", "1"), ("timezone", "UTC")]);
        let to = set(&[("timezone", "Europe/Oslo"), ("application_name", "it's \\ me")]);
        assert_eq!(
            from.difference(&to).unwrap(),
            "RESET \"app\".\"tenant\";SELECT pg_catalog.set_config('application_name', E'it''s \\\\ me', false), \
             pg_catalog.set_config('timezone', 'Europe/Oslo', false)"
        );
        assert_eq!(
            to.difference(&Settings::none()).unwrap(),
            "RESET \"application_name\";RESET \"timezone\";"
        );
    }

    #[test]
    fn the_session_user_is_set_before_the_role() {
        let to = set(&[("role", "r"), ("session_authorization", "s"), ("work_mem", "4MB")]);
        let sql = Settings::none().difference(&to).unwrap();
        let at = |what: &str| sql.find(what).unwrap();
        assert!(at("work_mem") < at("session_authorization") && at("session_authorization") < at("'role'"));
    }

    #[test]
    fn whoever_has_become_another_becomes_itself_first() {
        let from = set(&[("role", "r"), ("log_statement", "all")]);
        assert_eq!(
            from.difference(&set(&[("role", "r")])).unwrap(),
            "RESET SESSION AUTHORIZATION;RESET ROLE;RESET \"log_statement\";SELECT pg_catalog.set_config('role', 'r', false)"
        );
        assert_eq!(
            from.difference(&set(&[("log_statement", "all")])).unwrap(),
            "RESET SESSION AUTHORIZATION;RESET ROLE;"
        );
    }

    #[test]
    fn date_styles_do_not_build_on_those_of_others() {
        let sql = set(&[("datestyle", "German, YMD")]).difference(&set(&[("datestyle", "ISO")])).unwrap();
        assert_eq!(sql, "RESET \"datestyle\";SELECT pg_catalog.set_config('datestyle', 'ISO', false)");
    }

    #[test]
    fn all_sql_is_ascii_so_that_no_encoding_matters() {
        let from = set(&[("app.größe", "1")]);
        assert_eq!(
            from.difference(&set(&[("app.a", r"é😀\'")])).unwrap(),
            r"SELECT pg_catalog.set_config(E'app.gr\U000000f6\U000000dfe', NULL, false);SELECT pg_catalog.set_config('app.a', E'\U000000e9\U0001f600\\''', false)"
        );
    }

    #[test]
    fn from_anything_begins_with_a_clean_slate() {
        assert_eq!(Settings::none().from_anything(), "RESET SESSION AUTHORIZATION;RESET ROLE;RESET ALL;");
        assert!(
            set(&[("a", "1")])
                .from_anything()
                .ends_with("RESET ALL;SELECT pg_catalog.set_config('a', '1', false)")
        );
    }

    #[test]
    fn equal_sets_become_the_same() {
        let pool = SettingsPool::default();
        let (a, b) = (pool.intern(set(&[("a", "1")])), pool.intern(set(&[("a", "1")])));
        assert!(a.is_same(&b) && !a.is_same(&pool.intern(set(&[("a", "2")]))));
        assert!(pool.intern(Settings::none()).is_empty());
        for number in 0..3 * SettingsPool::SWEEP_AT {
            let _ = pool.intern(set(&[("n", &number.to_string())]));
        }
        assert!(pool.0.lock().len() <= SettingsPool::SWEEP_AT);
        assert!(pool.intern(set(&[("a", "1")])).is_same(&a), "what somebody has is kept");
    }

    #[test]
    fn or_keeps_what_is_there() {
        let merged = set(&[("a", "1")]).or(&set(&[("a", "2"), ("b", "3")]));
        assert_eq!((merged.value("a"), merged.value("b")), (Some("1"), Some("3")));
    }
}
