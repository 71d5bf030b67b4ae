//! Which tables are sharded, by what, and which are the same everywhere: what pooler.yaml declares of one
//! database.

use super::function::ShardFunction;
use super::key_type::KeyType;

/// The declared tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardedSchema {
    /// Groups of tables with one key and one function.
    pub sharded: Vec<ShardedTables>,
    /// Tables with the same rows on every shard.
    pub everywhere: Vec<TablePattern>,
}

/// Tables that are sharded alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardedTables {
    /// Their names.
    pub tables: Vec<TablePattern>,
    /// The key's columns, in the order they are hashed.
    pub key: Vec<KeyColumn>,
    /// From key to shard.
    pub function: ShardFunction,
}

/// One column of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyColumn {
    /// Its name, as PostgreSQL stores it.
    pub name: String,
    /// Its type.
    pub key_type: KeyType,
}

impl ShardedTables {
    /// Whether rows of both with the same key are on the same shard.
    pub fn is_colocated_with(&self, other: &Self) -> bool {
        let types = |tables: &Self| tables.key.iter().map(|column| column.key_type).collect::<Vec<_>>();
        self.function == other.function && types(self) == types(other)
    }
}

/// A table's name, or many: `*` stands for any characters. Names are as PostgreSQL stores them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePattern {
    /// The schema; without one the table may be in any.
    pub schema: Option<String>,
    /// The name.
    pub name: String,
}

impl TablePattern {
    /// `name` or `schema.name`.
    pub fn parse(text: &str) -> Option<Self> {
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema.to_owned()), name),
            None => (None, text),
        };
        let is_name =
            !name.is_empty() && !name.contains('.') && schema.as_ref().is_none_or(|s| !s.is_empty());
        is_name.then(|| Self { schema, name: name.to_owned() })
    }

    /// Whether a table named like this may be meant. A bare name may be in any schema.
    pub fn matches(&self, schema: Option<&str>, name: &str) -> bool {
        let schema_fits = match (&self.schema, schema) {
            (Some(pattern), Some(schema)) => fits(pattern.as_bytes(), schema.as_bytes()),
            _ => true,
        };
        schema_fits && fits(self.name.as_bytes(), name.as_bytes())
    }

    /// Whether some table may be meant by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let schemas = match (&self.schema, &other.schema) {
            (Some(a), Some(b)) => meet(a.as_bytes(), b.as_bytes()),
            _ => true,
        };
        schemas && meet(self.name.as_bytes(), other.name.as_bytes())
    }
}

impl std::fmt::Display for TablePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        f.write_str(&self.name)
    }
}

/// Whether `text` is one of the names `pattern` stands for.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on when the last star has to take one more byte.
    let mut again = None;
    let (mut p, mut t) = (0, 0);
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            again = Some((p, t));
        } else if pattern.get(p) == text.get(t) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((star, taken)) = again {
            (p, t) = (star, taken + 1);
            again = Some((star, taken + 1));
        } else {
            return false;
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

/// Whether some name fits both patterns.
fn meet(a: &[u8], b: &[u8]) -> bool {
    match (a.first(), b.first()) {
        (None, None) => true,
        (Some(b'*'), _) => meet(&a[1..], b) || (!b.is_empty() && meet(a, &b[1..])),
        (_, Some(b'*')) => meet(b, a),
        (Some(x), Some(y)) => x == y && meet(&a[1..], &b[1..]),
        _ => false,
    }
}

/// What a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableClass<'a> {
    /// Its rows are spread over the shards; the number of its group.
    Sharded(usize, &'a ShardedTables),
    /// The same on every shard.
    Everywhere,
    /// A catalog of PostgreSQL's: each shard's own.
    Catalog,
    /// Several declarations may be meant.
    Ambiguous,
    /// Nobody declared it.
    Undeclared,
}

impl ShardedSchema {
    /// What is declared of a table; names are as PostgreSQL stores them.
    pub fn classify(&self, schema: Option<&str>, name: &str) -> TableClass<'_> {
        if matches!(schema, Some("pg_catalog" | "information_schema"))
            || (schema.is_none() && name.starts_with("pg_"))
        {
            return TableClass::Catalog;
        }
        let mut found = TableClass::Undeclared;
        let mut count = 0;
        for (number, group) in self.sharded.iter().enumerate() {
            if group.tables.iter().any(|pattern| pattern.matches(schema, name)) {
                found = TableClass::Sharded(number, group);
                count += 1;
            }
        }
        if self.everywhere.iter().any(|pattern| pattern.matches(schema, name)) {
            found = TableClass::Everywhere;
            count += 1;
        }
        if count > 1 { TableClass::Ambiguous } else { found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let matches = |pattern: &str, schema, name| {
            TablePattern::parse(pattern).is_some_and(|p| p.matches(schema, name))
        };
        assert!(matches("event", None, "event") && matches("event", Some("app"), "event"));
        assert!(matches("event_*", None, "event_2026") && !matches("event_*", None, "event"));
        assert!(matches("*a*b*", None, "xxaxxbxb") && !matches("*a*b", None, "ab_"));
        assert!(matches("app.event", None, "event") && !matches("app.event", Some("other"), "event"));
        assert!(TablePattern::parse("a.b.c").is_none() && TablePattern::parse(".b").is_none());
        let overlap = |a: &str, b: &str| {
            TablePattern::parse(a).zip(TablePattern::parse(b)).is_some_and(|(a, b)| a.overlaps(&b))
        };
        assert!(overlap("event_*", "*_2026") && overlap("a", "app.a") && !overlap("x.a", "y.a"));
        assert!(!overlap("event", "event_*") && overlap("*", "b"));
    }
}
