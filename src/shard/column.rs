//! Whether the key's columns are on the servers what is declared of them: of another type, a key would be hashed to
//! another shard than PostgreSQL's own hash says, or a value be read otherwise than it is stored.

use std::fmt;

use super::key_type::KeyType;
use super::schema::{ShardedSchema, TableClass};

/// A column that is not as declared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WrongColumn {
    /// Its table's schema.
    pub schema: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub column: String,
    /// What it is.
    pub found: String,
    /// What is declared.
    pub declared: &'static str,
}

impl fmt::Display for WrongColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, column, found, declared, .. } = self;
        write!(f, "column \"{column}\" of table \"{table}\" is {found}, but declared as {declared}")
    }
}

/// The question for a server: its columns with the names that keys have. [`wrong_columns`] reads the answer. Domains are
/// followed to the type that they stand for.
pub fn key_columns(schema: &ShardedSchema) -> String {
    let quoted = |name: &String| format!("'{}'", name.replace('\'', "''"));
    let names = schema.sharded.iter().flat_map(|tables| &tables.key).map(|column| quoted(&column.name));
    let names: Vec<_> = names.collect();
    include_str!("column.sql").replace("{names}", &names.join(", "))
}

/// The columns in a server's answer that are not as declared.
pub fn wrong_columns(schema: &ShardedSchema, rows: &[Vec<Option<String>>]) -> Vec<WrongColumn> {
    let mut wrong: Vec<_> = rows.iter().filter_map(|row| wrong_column(schema, row)).collect();
    wrong.sort();
    wrong.dedup();
    wrong
}

fn wrong_column(schema: &ShardedSchema, row: &[Option<String>]) -> Option<WrongColumn> {
    let text = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
    let TableClass::Sharded(_, tables) = schema.classify(Some(text(0)), text(1)) else { return None };
    let column = tables.key.iter().find(|column| column.name == text(2))?;
    let (oid, has_modifier) = (text(3).parse().unwrap_or(0), text(4) != "-1");
    let is_deterministic = text(6) != "f";
    let found = match KeyType::of_oid(oid) {
        Some(_) if !is_deterministic => format!("{} with a collation that is not deterministic", text(5)),
        Some(found) if is_as_declared(column.key_type, found, has_modifier) => return None,
        _ => text(5).to_owned(),
    };
    Some(WrongColumn {
        schema: text(0).to_owned(),
        table: text(1).to_owned(),
        column: column.name.clone(),
        found,
        declared: column.key_type.as_str(),
    })
}

/// Whether a value that is read as the declared type has the hash of what is stored.
fn is_as_declared(declared: KeyType, found: KeyType, has_modifier: bool) -> bool {
    match (declared, found) {
        // The lengths of whole numbers hash alike.
        (declared, found) if declared.is_integer() => found.is_integer(),
        // A length cuts blanks at the end of what is stored, which only varchar heeds.
        (KeyType::Text, KeyType::Varchar) => !has_modifier,
        (KeyType::Varchar, KeyType::Text) => true,
        // A precision rounds what is stored.
        (KeyType::Numeric | KeyType::Time | KeyType::Timestamp | KeyType::Timestamptz, _) => {
            declared == found && !has_modifier
        }
        _ => declared == found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hashes_alike_is_alike() {
        use KeyType::{Char, Date, Int2, Int4, Int8, Numeric, Text, Timestamp, Timestamptz, Uuid, Varchar};
        let alike = |declared, found| is_as_declared(declared, found, false);
        for (declared, found) in
            [(Int8, Int4), (Int2, Int8), (Text, Varchar), (Varchar, Text), (Char, Char), (Uuid, Uuid)]
        {
            assert!(alike(declared, found), "{declared:?} {found:?}");
        }
        for (declared, found) in [
            (Int8, Numeric),
            (Numeric, Int8),
            (Text, Char),
            (Char, Text),
            (Text, Uuid),
            (Timestamp, Timestamptz),
            (Timestamp, Date),
            (Int4, Text),
        ] {
            assert!(!alike(declared, found), "{declared:?} {found:?}");
        }
        assert!(!is_as_declared(Text, Varchar, true) && is_as_declared(Varchar, Varchar, true));
        assert!(!is_as_declared(Numeric, Numeric, true) && is_as_declared(Char, Char, true));
        assert!(!is_as_declared(Timestamptz, Timestamptz, true));
    }
}
