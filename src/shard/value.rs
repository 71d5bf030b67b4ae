//! A value of a key: how it is read, its hash, its order.

use super::hash;
use super::key_type::KeyType;
use super::numeric::Numeric;
use super::{binary, datetime, text};

/// A value; what kind belongs to which [`KeyType`] is said here only. Values of one type are ordered as
/// PostgreSQL orders them, those of characters by the collation "C".
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyValue {
    /// Of a whole-number type.
    Integer(i64),
    /// Of a type of characters, or bytes; blanks that do not count are gone.
    Bytes(Box<[u8]>),
    /// Sixteen bytes.
    Uuid([u8; 16]),
    /// True or false.
    Bool(bool),
    /// Days since 2000-01-01; the ends of the range are the infinities.
    Date(i32),
    /// Microseconds of the day, or since 2000-01-01 (UTC).
    Micros(i64),
    /// A decimal number.
    Numeric(Numeric),
}

impl KeyValue {
    /// A value as a literal's content or a parameter in text format; `None` if PostgreSQL would refuse it, or
    /// if what it means depends on the session.
    pub fn from_text(key_type: KeyType, text: &str) -> Option<Self> {
        match key_type {
            KeyType::Int2 => text::integer(text).filter(|n| i16::try_from(*n).is_ok()).map(Self::Integer),
            KeyType::Int4 => text::integer(text).filter(|n| i32::try_from(*n).is_ok()).map(Self::Integer),
            KeyType::Int8 => text::integer(text).map(Self::Integer),
            KeyType::Text | KeyType::Varchar | KeyType::Char => Self::characters(key_type, text.as_bytes()),
            KeyType::Uuid => text::uuid(text).map(Self::Uuid),
            KeyType::Bytea => text::bytea(text).map(|bytes| Self::Bytes(bytes.into())),
            KeyType::Bool => text::boolean(text).map(Self::Bool),
            KeyType::Date => datetime::date(text).map(Self::Date),
            KeyType::Time => datetime::time(text).map(Self::Micros),
            KeyType::Timestamp => datetime::timestamp(text).map(Self::Micros),
            KeyType::Timestamptz => datetime::timestamptz(text).map(Self::Micros),
            KeyType::Numeric => Numeric::from_text(text).map(Self::Numeric),
        }
    }

    /// A parameter in binary format.
    pub fn from_binary(key_type: KeyType, bytes: &[u8]) -> Option<Self> {
        binary::read(key_type, bytes)
    }

    /// Bytes as characters of a type.
    pub(super) fn characters(key_type: KeyType, bytes: &[u8]) -> Option<Self> {
        if bytes.contains(&0) {
            return None;
        }
        let counted = match key_type {
            KeyType::Char => {
                let end = bytes.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
                bytes.get(..end).unwrap_or_default()
            }
            _ => bytes,
        };
        Some(Self::Bytes(counted.into()))
    }

    /// Whether storing this in a column of `key_type` could change it: `varchar(n)` cuts blanks that do not fit.
    pub fn may_change_when_stored(&self, key_type: KeyType) -> bool {
        match self {
            Self::Bytes(bytes) => key_type == KeyType::Varchar && bytes.ends_with(b" "),
            _ => false,
        }
    }

    /// The hash that PostgreSQL's hash partitioning gives it, with `seed`.
    pub(super) fn hash(&self, seed: u64) -> u64 {
        match self {
            Self::Integer(n) | Self::Micros(n) => hash::i64(*n, seed),
            Self::Bytes(bytes) => hash::bytes(bytes, seed),
            Self::Uuid(bytes) => hash::bytes(bytes, seed),
            Self::Bool(yes) => hash::u32(u32::from(*yes), seed),
            Self::Date(days) => hash::u32(days.cast_unsigned(), seed),
            Self::Numeric(number) => number.hash(seed),
        }
    }
}
