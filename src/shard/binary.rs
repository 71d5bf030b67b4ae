//! Values from PostgreSQL's binary format, as parameters come.

use super::key_type::KeyType;
use super::numeric::Numeric;
use super::value::KeyValue;

/// The value; `None` if the bytes are not one of this type.
pub(super) fn read(key_type: KeyType, bytes: &[u8]) -> Option<KeyValue> {
    match key_type {
        KeyType::Int2 => Some(KeyValue::Integer(i16::from_be_bytes(exactly(bytes)?).into())),
        KeyType::Int4 => Some(KeyValue::Integer(i32::from_be_bytes(exactly(bytes)?).into())),
        KeyType::Int8 => Some(KeyValue::Integer(i64::from_be_bytes(exactly(bytes)?))),
        KeyType::Text | KeyType::Varchar | KeyType::Char => KeyValue::characters(key_type, bytes),
        KeyType::Uuid => Some(KeyValue::Uuid(exactly(bytes)?)),
        KeyType::Bytea => Some(KeyValue::Bytes(bytes.into())),
        KeyType::Bool => match bytes {
            [byte] => Some(KeyValue::Bool(*byte != 0)),
            _ => None,
        },
        KeyType::Date => Some(KeyValue::Date(i32::from_be_bytes(exactly(bytes)?))),
        KeyType::Time | KeyType::Timestamp | KeyType::Timestamptz => {
            Some(KeyValue::Micros(i64::from_be_bytes(exactly(bytes)?)))
        }
        KeyType::Numeric => Numeric::from_binary(bytes).map(KeyValue::Numeric),
    }
}

fn exactly<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}
