//! From keys to shards: the functions of pooler.yaml.

use std::collections::BTreeMap;

use super::hash::row_hash;
use super::value::KeyValue;

/// A shard, counted from 0 in the order of pooler.yaml.
pub type ShardNumber = u32;

/// Which shard a key belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardFunction {
    /// PostgreSQL's hash partitioning with this modulus: the number of shards.
    Hash {
        /// Number of shards, not 0.
        shards: u32,
    },
    /// Hash to a fixed number of buckets; growing moves buckets.
    Virtual {
        /// The shard of each bucket; not empty.
        buckets: Box<[ShardNumber]>,
    },
    /// Value by value.
    List {
        /// The shard of each value.
        values: BTreeMap<KeyValue, ShardNumber>,
        /// The shard of all other values.
        otherwise: Option<ShardNumber>,
    },
    /// By order; sorted, and each range ends where the next begins.
    Range {
        /// The ranges.
        ranges: Box<[Range]>,
    },
}

/// Values from one bound, itself included, to the other, itself not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The lowest value; none is from the beginning.
    pub from: Option<KeyValue>,
    /// The first value that is not in it; none is to the end.
    pub to: Option<KeyValue>,
    /// The shard.
    pub shard: ShardNumber,
}

impl Range {
    fn contains(&self, value: &KeyValue) -> bool {
        self.from.as_ref().is_none_or(|from| value >= from) && self.to.as_ref().is_none_or(|to| value < to)
    }
}

impl ShardFunction {
    /// The shard of a row with these keys, NULL being `None`; no shard, if the function has none for it.
    pub fn shard(&self, key: &[Option<&KeyValue>]) -> Option<ShardNumber> {
        let modulo = |modulus: usize| {
            let modulus = u64::try_from(modulus).ok()?;
            row_hash(key.iter().copied()).checked_rem(modulus)
        };
        match self {
            Self::Hash { shards } => Some(modulo(*shards as usize)? as u32),
            Self::Virtual { buckets } => buckets.get(modulo(buckets.len())? as usize).copied(),
            Self::List { values, otherwise } => match key {
                [Some(value)] => values.get(*value).copied().or(*otherwise),
                _ => None,
            },
            Self::Range { ranges } => match key {
                [Some(value)] => ranges.iter().find(|range| range.contains(value)).map(|range| range.shard),
                _ => None,
            },
        }
    }

    /// Its word in pooler.yaml.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Hash { .. } => "hash",
            Self::Virtual { .. } => "virtual",
            Self::List { .. } => "list",
            Self::Range { .. } => "range",
        }
    }
}
