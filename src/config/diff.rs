//! What differs between two configurations: what a reload does, and what it cannot do.

use std::collections::{BTreeMap, BTreeSet};

use super::{Config, Database, User, describe};

/// The outcome of a comparison. Nothing in it is secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigDiff {
    /// Keys that changed and keep their old value until a restart: `listen`, `http`, `workers`.
    pub needs_restart: Vec<&'static str>,
    /// What a reload changes, in words for the log: `pool.size: 20 -> 40`, `users.app added`.
    pub changed: Vec<String>,
}

impl ConfigDiff {
    /// Whether the two are the same.
    pub fn is_empty(&self) -> bool {
        self.needs_restart.is_empty() && self.changed.is_empty()
    }
}

/// Compares the configuration in force with the one just read.
pub fn diff(old: &Config, new: &Config) -> ConfigDiff {
    let mut diff = ConfigDiff::default();
    for ((key, old), (_, new)) in describe::ours(old).into_iter().zip(describe::ours(new)) {
        if old == new {
            continue;
        }
        if describe::changeable(key) {
            diff.changed.push(format!("{key}: {} -> {}", visible(&old), visible(&new)));
        } else {
            diff.needs_restart.push(key);
        }
    }
    let databases = |config: &Config| -> BTreeMap<String, Database> {
        let wildcard = config.wildcard_database.clone().map(|d| (d.name.clone(), d));
        config.databases.clone().into_iter().chain(wildcard).collect()
    };
    named("databases", &databases(old), &databases(new), &mut diff.changed);
    named::<User>("users", &old.users, &new.users, &mut diff.changed);
    diff
}

fn named<T: PartialEq>(
    section: &str,
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    changed: &mut Vec<String>,
) {
    for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let what = match (old.get(name), new.get(name)) {
            (None, _) => "added",
            (_, None) => "removed",
            (old, new) if old != new => "changed",
            _ => continue,
        };
        changed.push(format!("{section}.{name} {what}"));
    }
}

/// An empty value would be invisible.
fn visible(value: &str) -> &str {
    if value.is_empty() { "none" } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn config(variables: &[(&str, &str)]) -> Config {
        let environment: Environment =
            variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::from_urls("postgres://app:pw@db/shop", &[], None, &environment).unwrap()
    }

    #[test]
    fn nothing_differs_from_itself() {
        assert!(diff(&config(&[]), &config(&[])).is_empty());
    }

    #[test]
    fn sockets_take_a_restart_and_the_rest_does_not() {
        let new = config(&[
            ("PGWEIR__LISTEN", "127.0.0.1:7000"),
            ("PGWEIR__HTTP", "127.0.0.1:7001"),
            ("PGWEIR__WORKERS", "3"),
            ("PGWEIR__TIMEOUTS__QUERY", "1m"),
            ("PGWEIR__DATABASES__SHOP__POOL__SIZE", "3"),
            ("PGWEIR__USERS__BOB__PASSWORD", "hunter2"),
        ]);
        let found = diff(&config(&[]), &new);
        assert_eq!(found.needs_restart, ["listen", "http", "workers"]);
        assert_eq!(found.changed, ["timeouts.query: 0 -> 1m", "databases.shop changed", "users.bob added"]);
        let back = diff(&new, &config(&[]));
        assert!(back.changed.contains(&"users.bob removed".to_owned()));
    }

    #[test]
    fn a_new_password_is_seen_and_not_shown() {
        let old = config(&[("PGWEIR__USERS__APP__PASSWORD", "hunter2")]);
        let new = config(&[("PGWEIR__USERS__APP__PASSWORD", "hunter3")]);
        assert_eq!(diff(&old, &new).changed, ["users.app changed"]);
    }
}
