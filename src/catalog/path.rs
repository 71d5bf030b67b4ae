//! Which schemas a name without one may be in.

use std::hash::{DefaultHasher, Hash, Hasher};

/// A session's `search_path`, read once when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchPath {
    schemas: Option<Box<[Box<str>]>>,
    id: u64,
}

impl SearchPath {
    /// Not known: a name may be in any schema.
    pub fn unknown() -> Self {
        Self::of(None)
    }

    /// The value of the setting, and the role that `$user` stands for, if it is known.
    pub fn parse(setting: &str, role: Option<&str>) -> Self {
        let mut schemas = Vec::new();
        let mut rest = setting.trim_start();
        while !rest.is_empty() {
            let (name, after) = match rest.strip_prefix('"') {
                Some(quoted) => match quoted_name(quoted) {
                    Some(found) => found,
                    None => return Self::unknown(),
                },
                None => {
                    let end = rest.find(',').unwrap_or(rest.len());
                    (rest[..end].trim().to_ascii_lowercase(), &rest[end..])
                }
            };
            if name == "$user" {
                match role {
                    Some(role) => schemas.push(role.into()),
                    None => return Self::unknown(),
                }
            } else {
                schemas.push(name[..name.floor_char_boundary(63)].into());
            }
            let after = after.trim_start();
            rest = match after.strip_prefix(',') {
                Some(next) => next.trim_start(),
                None if after.is_empty() => after,
                None => return Self::unknown(),
            };
        }
        Self::of(Some(schemas.into()))
    }

    fn of(schemas: Option<Box<[Box<str>]>>) -> Self {
        let mut hasher = DefaultHasher::new();
        schemas.hash(&mut hasher);
        Self { schemas, id: hasher.finish() }
    }

    /// Its identity in caches.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether a bare name may be in `schema`. All schemas of the path count, not the first that has the name:
    /// one that the role may not use is passed over.
    pub fn may_hold(&self, schema: &str) -> bool {
        match &self.schemas {
            None => true,
            Some(schemas) => schema == "pg_catalog" || schemas.iter().any(|s| **s == *schema),
        }
    }
}

fn quoted_name(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c != '"' {
            name.push(c);
        } else if chars.peek().is_some_and(|(_, next)| *next == '"') {
            name.push('"');
            chars.next();
        } else {
            return Some((name, &text[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_as_the_server_reports_them() {
        let path = SearchPath::parse("\"$user\", Public,\"Odd \"\"Name\"", Some("app"));
        for schema in ["app", "public", "Odd \"Name", "pg_catalog"] {
            assert!(path.may_hold(schema), "{schema}");
        }
        assert!(!path.may_hold("other") && !path.may_hold("$user"));
        assert!(SearchPath::parse("\"$user\"", None).may_hold("anything"));
        assert!(SearchPath::parse("\"broken", None).may_hold("anything"));
        assert!(!SearchPath::parse("", None).may_hold("public"));
        assert_eq!(SearchPath::parse("a, b", None).id(), SearchPath::parse("\"a\",b", None).id());
        assert_ne!(SearchPath::parse("a", None).id(), SearchPath::parse("b", None).id());
    }
}
