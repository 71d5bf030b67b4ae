//! `PGWEIR__POOL__SIZE=40`: environment variables that override keys of the file.

use std::collections::BTreeMap;

use super::errors::{Complaint, Origin, Place, Problems};
use super::node::{Entry, Node, Value};

const PREFIX: &str = "PGWEIR__";

/// The environment variables of the process, taken once and passed in.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables of this process; those that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect()
    }

    /// The value of a variable; an empty one counts as not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// `PGWEIR_PRIMARY` and `PGWEIR_REPLICAS` (separated by commas or spaces), when the first is set.
    pub fn urls(&self) -> Option<(String, Vec<String>)> {
        let primary = self.get("PGWEIR_PRIMARY")?.to_owned();
        let replicas = self.get("PGWEIR_REPLICAS").unwrap_or_default();
        let replicas = replicas.split([',', ' ', '\n']).filter(|url| !url.is_empty());
        Some((primary, replicas.map(str::to_owned).collect()))
    }

    /// Whether a variable gives `user` a password.
    pub(super) fn has_password_of(&self, user: &str) -> bool {
        let wanted = format!("{PREFIX}USERS__{user}__PASSWORD");
        self.0.iter().any(|(name, value)| !value.is_empty() && name.eq_ignore_ascii_case(&wanted))
    }

    /// Lays the `PGWEIR__…` variables over the tree.
    pub(super) fn override_keys(&self, root: &mut Node, problems: &mut Problems) {
        for (name, value) in &self.0 {
            if value.is_empty() || !name.get(..PREFIX.len()).is_some_and(|p| p.eq_ignore_ascii_case(PREFIX)) {
                continue;
            }
            let origin = Origin::Variable(name.clone());
            let path: Vec<&str> = name.get(PREFIX.len()..).unwrap_or_default().split("__").collect();
            if path.iter().any(|part| part.is_empty()) {
                let complaint = Complaint::new("is not the name of a setting")
                    .hint("separate the parts with two underscores: PGWEIR__POOL__SIZE is pool.size");
                problems.push(&Place { origin, path: String::new() }, complaint);
                continue;
            }
            if let Err((path, complaint)) = set(root, &path, &origin, value) {
                problems.push(&Place { origin, path }, complaint);
            }
        }
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

/// Sets the leaf at `path`, making sections on the way.
fn set(node: &mut Node, path: &[&str], origin: &Origin, value: &str) -> Result<(), (String, Complaint)> {
    let mut node = node;
    let mut shown: Vec<String> = Vec::new();
    for part in path {
        if matches!(node.value, Value::Null) {
            *node = Node { value: Value::Map(Vec::new()), origin: origin.clone() };
        }
        let what = node.what();
        let Value::Map(entries) = &mut node.value else {
            return Err((shown.join("."), Complaint::new(format!("has no keys, it is {what}"))));
        };
        let at = entries.iter().position(|entry| entry.key.eq_ignore_ascii_case(part)).unwrap_or_else(|| {
            let node = Node { value: Value::Null, origin: origin.clone() };
            entries.push(Entry { key: part.to_ascii_lowercase(), origin: origin.clone(), node });
            entries.len() - 1
        });
        let Some(entry) = entries.get_mut(at) else { return Ok(()) };
        shown.push(entry.key.clone());
        if shown.len() == path.len() {
            // What is wrong with the value is the variable's fault, not the file's.
            entry.origin = origin.clone();
        }
        node = &mut entry.node;
    }
    if matches!(node.value, Value::Map(_)) {
        return Err((
            shown.join("."),
            Complaint::new("is a section; only single settings can be overridden"),
        ));
    }
    *node = Node::text(value, origin);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn load(variables: &[(&str, &str)]) -> Result<Config, String> {
        Config::from_urls("postgres://app:pw@db/shop", &[], None, &environment(variables))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn any_single_setting_can_be_overridden() {
        let config = load(&[
            ("PGWEIR__POOL__SIZE", "40"),
            ("pgweir__timeouts__query", "3s"),
            ("PGWEIR__DATABASES__SHOP__PRIMARY", "other:5433"),
            ("PGWEIR__LISTEN", "127.0.0.1:1, unix:/run"),
            ("PGWEIR__HTTP", ""),
            ("PGWEIR_CONFIG", "not one of ours"),
        ])
        .unwrap();
        assert_eq!(config.pool.size, 40);
        assert_eq!(config.timeouts.query.as_secs(), 3);
        assert_eq!(config.databases["shop"].primary.to_string(), "other:5433");
        assert_eq!(config.listen.len(), 2);
        assert_eq!(config.http, None);
    }

    #[test]
    fn errors_name_the_variable() {
        for (name, value, message) in [
            (
                "PGWEIR__POOL__SIZE",
                "many",
                "PGWEIR__POOL__SIZE: error: pool.size: expected a whole number, found \"many\"",
            ),
            ("PGWEIR__POOL__SIZ", "1", "PGWEIR__POOL__SIZ: error: pool: unknown key \"siz\""),
            ("PGWEIR__POOL", "1", "PGWEIR__POOL: error: pool: expected a mapping of keys, found text"),
            ("PGWEIR__DATABASES", "1", "PGWEIR__DATABASES: error: databases: is a section"),
            ("PGWEIR____SIZE", "1", "PGWEIR____SIZE: error: is not the name of a setting"),
            ("PGWEIR__USERS__APP__PASSWORD__X", "1", "error: users.app.password: has no keys, it is text"),
        ] {
            let text = load(&[(name, value)]).unwrap_err();
            assert!(text.contains(message), "{text}\nlacks\n{message}");
        }
    }

    #[test]
    fn urls_come_from_variables_too() {
        assert_eq!(environment(&[("PGWEIR_REPLICAS", "b")]).urls(), None);
        let (primary, replicas) =
            environment(&[("PGWEIR_PRIMARY", "a"), ("PGWEIR_REPLICAS", "b, c")]).urls().unwrap();
        assert_eq!((primary.as_str(), replicas.as_slice()), ("a", &["b".to_owned(), "c".to_owned()][..]));
    }
}
