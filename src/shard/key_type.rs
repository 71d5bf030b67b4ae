//! The types a sharding key can have, and their names.

/// The type of a key column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// `smallint`.
    Int2,
    /// `integer`.
    Int4,
    /// `bigint`.
    Int8,
    /// `text`.
    Text,
    /// `varchar(n)`; as text, but trailing blanks may be cut when a value is stored.
    Varchar,
    /// `char(n)`: trailing blanks do not count.
    Char,
    /// `uuid`.
    Uuid,
    /// `bytea`.
    Bytea,
    /// `boolean`.
    Bool,
    /// `date`.
    Date,
    /// `time` without time zone.
    Time,
    /// `timestamp` without time zone.
    Timestamp,
    /// `timestamp with time zone`.
    Timestamptz,
    /// `numeric`.
    Numeric,
}

/// Every name, PostgreSQL's short ones and SQL's; the first of a type is the one we print.
const NAMES: &[(&str, KeyType)] = &[
    ("smallint", KeyType::Int2),
    ("int2", KeyType::Int2),
    ("integer", KeyType::Int4),
    ("int", KeyType::Int4),
    ("int4", KeyType::Int4),
    ("bigint", KeyType::Int8),
    ("int8", KeyType::Int8),
    ("text", KeyType::Text),
    ("varchar", KeyType::Varchar),
    ("character varying", KeyType::Varchar),
    ("char", KeyType::Char),
    ("character", KeyType::Char),
    ("bpchar", KeyType::Char),
    ("uuid", KeyType::Uuid),
    ("bytea", KeyType::Bytea),
    ("boolean", KeyType::Bool),
    ("bool", KeyType::Bool),
    ("date", KeyType::Date),
    ("time", KeyType::Time),
    ("time without time zone", KeyType::Time),
    ("timestamp", KeyType::Timestamp),
    ("timestamp without time zone", KeyType::Timestamp),
    ("timestamptz", KeyType::Timestamptz),
    ("timestamp with time zone", KeyType::Timestamptz),
    ("numeric", KeyType::Numeric),
    ("decimal", KeyType::Numeric),
];

/// Object identifiers of the types, as in `pg_type`.
const OIDS: &[(u32, KeyType)] = &[
    (21, KeyType::Int2),
    (23, KeyType::Int4),
    (20, KeyType::Int8),
    (25, KeyType::Text),
    (1043, KeyType::Varchar),
    (1042, KeyType::Char),
    (2950, KeyType::Uuid),
    (17, KeyType::Bytea),
    (16, KeyType::Bool),
    (1082, KeyType::Date),
    (1083, KeyType::Time),
    (1114, KeyType::Timestamp),
    (1184, KeyType::Timestamptz),
    (1700, KeyType::Numeric),
];

impl KeyType {
    /// The type with this name; case does not matter.
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, found)| *found)
    }

    /// The names that [`Self::named`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// Its name in messages.
    pub fn as_str(self) -> &'static str {
        NAMES.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// The type with this object identifier.
    pub fn of_oid(oid: u32) -> Option<Self> {
        OIDS.iter().find(|(known, _)| *known == oid).map(|(_, found)| *found)
    }

    /// One of the three lengths of whole numbers: they hash alike and compare with each other.
    pub fn is_integer(self) -> bool {
        matches!(self, Self::Int2 | Self::Int4 | Self::Int8)
    }

    /// One of the types of characters.
    pub fn is_character(self) -> bool {
        matches!(self, Self::Text | Self::Varchar | Self::Char)
    }

    /// Whether a column of this type `=` a value of `other` is decided by the value itself: PostgreSQL compares
    /// the two without changing the column's value in a way that makes others equal to it.
    pub fn is_compared_with(self, other: Self) -> bool {
        if self == other {
            return true;
        }
        match self {
            Self::Int2 | Self::Int4 | Self::Int8 | Self::Numeric => other.is_integer(),
            // text = char(n) cuts the blanks of the latter first: which they are depends on its length.
            // The other way round, a column's own blanks do not count, but those of the value do: then nothing is
            // equal, and every shard says so.
            Self::Text | Self::Varchar | Self::Char => matches!(other, Self::Text | Self::Varchar),
            _ => false,
        }
    }

    /// Whether the order of values is the same everywhere, that of characters being their collation's.
    pub fn has_one_order(self) -> bool {
        !self.is_character()
    }
}
