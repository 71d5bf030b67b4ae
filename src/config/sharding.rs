//! Shards and sharded tables of a database: everything a function needs, no gaps, no overlaps.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::shard::{
    KeyColumn, KeyType, KeyValue, Range, ShardFunction, ShardNumber, ShardedSchema, ShardedTables,
    TablePattern,
};

use super::errors::{Complaint, Place, Problems, shown};
use super::hints;
use super::raw::{RawBuckets, RawDatabase, RawShard, RawShardRange, RawShardValues, RawShardedTables};
use super::read::{Located, Several};
use super::resolve::number;
use super::{NodeSettings, ShardFunctionName, ShardSettings, Sharding, databases, defaults};

/// Keys that do not go with shards, or not without them.
fn misplaced(keys: [(&str, Option<&Place>); 2], how: &str, hint: &str, problems: &mut Problems) {
    for (key, place) in keys {
        if let Some(place) = place {
            problems.push(place, Complaint::new(format!("{key} {how} shards")).hint(hint));
        }
    }
}

/// What a database's section says of shards; `None` when it says nothing of them, or when that is wrong.
pub(super) fn sharding(
    name: &str,
    place: &Place,
    raw: &RawDatabase,
    problems: &mut Problems,
) -> Option<Arc<Sharding>> {
    let Some(shards) = &raw.shards else {
        let more = [
            ("sharded_tables", raw.sharded_tables.as_ref().map(|r| &r.place)),
            ("everywhere_tables", raw.everywhere_tables.as_ref().map(|r| &r.place)),
        ];
        let hint = "add shards: [{primary: \"host:5432\"}, …], or remove the key";
        misplaced(more, "without", hint, problems);
        return None;
    };
    let whole = [
        ("primary", raw.primary.as_ref().map(|r| &r.place)),
        ("replicas", raw.replicas.as_ref().map(|r| &r.place)),
    ];
    misplaced(whole, "beside", "each shard has a primary and replicas of its own", problems);
    if name == "*" {
        let complaint = Complaint::new("the database of all other names cannot be sharded")
            .hint("give the sharded database its name");
        problems.push(&shards.place, complaint);
    }
    if shards.value.0.is_empty() {
        let complaint = Complaint::new("has no shard").hint("add {primary: \"host:5432\"} for each");
        problems.push(&shards.place, complaint);
    }
    let made = shards_of(&shards.value, problems);
    let count = shards.value.0.len();
    let sharded = raw.sharded_tables.as_ref();
    let tables = Tables { shards: u32::try_from(count).unwrap_or(u32::MAX) };
    let groups: Vec<_> = sharded
        .map(|raw| raw.value.0.as_slice())
        .unwrap_or_default()
        .iter()
        .filter_map(|raw| tables.group(raw, problems))
        .collect();
    let everywhere = patterns(raw.everywhere_tables.as_ref(), problems);
    check_overlaps(&groups, &everywhere, problems);
    if sharded.is_none() && !problems.concern(&place.path) {
        let complaint = Complaint::new("shards without sharded_tables")
            .hint("add sharded_tables: [{tables: [event], column: tenant_id, type: bigint, function: hash}]");
        problems.push(&shards.place, complaint);
    }
    Some(Arc::new(Sharding {
        shards: made,
        schema: ShardedSchema {
            sharded: groups.into_iter().map(|group| group.tables).collect(),
            everywhere: everywhere.into_iter().map(|(pattern, _)| pattern).collect(),
        },
    }))
}

fn shards_of(raw: &Several<RawShard>, problems: &mut Problems) -> Vec<ShardSettings> {
    let mut shards: Vec<ShardSettings> = Vec::new();
    for Located { value: shard, place } in &raw.0 {
        let Some(primary) = shard.primary.as_ref() else {
            problems.push(place, Complaint::new("a shard has no primary").hint("add primary: \"host:5432\""));
            continue;
        };
        let Some(nodes) = databases::nodes(primary, shard.replicas.as_ref(), problems) else { continue };
        let (primary, replicas) = nodes;
        let server_database = shard.database.as_ref().map(|d| d.value.clone());
        let same = |other: &ShardSettings, node: &NodeSettings| {
            let nodes = std::iter::once(&other.primary).chain(&other.replicas);
            other.server_database == server_database
                && nodes.into_iter().any(|o| o.host == node.host && o.port == node.port)
        };
        for node in std::iter::once(&primary).chain(&replicas) {
            if let Some(other) = shards.iter().position(|shard| same(shard, node)) {
                let complaint = Complaint::new(format!("{node} belongs to shard {other} already"))
                    .hint("two shards on one server need two databases: give each its database");
                problems.push(place, complaint);
            }
        }
        shards.push(ShardSettings { primary, replicas, server_database });
    }
    shards
}

/// A group and where its names stand.
struct Group {
    tables: ShardedTables,
    places: Vec<Place>,
}

struct Tables {
    shards: u32,
}

impl Tables {
    fn group(&self, raw: &Located<RawShardedTables>, problems: &mut Problems) -> Option<Group> {
        let Located { value: raw, place } = raw;
        let (tables, places): (Vec<_>, Vec<_>) = patterns(raw.tables.as_ref(), problems).into_iter().unzip();
        let mut complete = true;
        let mut missing = |key: &str, is_missing: bool, example: &str| {
            if is_missing {
                let complaint = Complaint::new(format!("sharded tables without {key}"))
                    .hint(format!("add {key}: {example}"));
                problems.push(place, complaint);
                complete = false;
            }
        };
        let none = |several: &Option<Located<Several<String>>>| {
            several.as_ref().is_none_or(|s| s.value.0.is_empty())
        };
        missing("tables", none(&raw.tables), "[event]");
        missing("column", none(&raw.column), "tenant_id");
        missing("type", none(&raw.key_type), "bigint");
        missing("function", raw.function.is_none(), "hash");
        let key = key(raw, problems);
        if !complete {
            return None;
        }
        let function = raw.function.as_ref()?;
        belongs(raw, function.value, problems);
        let key = key?;
        let single = key.len() == 1;
        let function = match function.value {
            ShardFunctionName::Hash => ShardFunction::Hash { shards: self.shards },
            ShardFunctionName::Virtual => self.buckets(raw, place, problems)?,
            ShardFunctionName::List | ShardFunctionName::Range if !single => {
                let complaint = Complaint::new(format!("{} takes one column", function.value.as_str()))
                    .hint("keys of several columns are for the functions hash and virtual");
                problems.push(&function.place, complaint);
                return None;
            }
            ShardFunctionName::List => self.list(raw, place, key.first()?.key_type, problems)?,
            ShardFunctionName::Range => self.ranges(raw, place, key.first()?.key_type, problems)?,
        };
        Some(Group { tables: ShardedTables { tables, key, function }, places })
    }

    /// A shard's number, if there is such a shard.
    fn shard(
        &self,
        raw: Option<&Located<u64>>,
        place: &Place,
        problems: &mut Problems,
    ) -> Option<ShardNumber> {
        let Some(raw) = raw else {
            problems.push(place, Complaint::new("has no shard").hint("add shard: and its number, from 0"));
            return None;
        };
        let shard = u32::try_from(raw.value).ok().filter(|shard| *shard < self.shards);
        if shard.is_none() {
            let complaint = Complaint::new(format!("there is no shard {}", raw.value))
                .hint(format!("shards are counted from 0; here are {}", self.shards));
            problems.push(&raw.place, complaint);
        }
        shard
    }

    fn buckets(
        &self,
        raw: &RawShardedTables,
        place: &Place,
        problems: &mut Problems,
    ) -> Option<ShardFunction> {
        if raw.buckets.is_none() {
            problems.push(place, Complaint::new("function virtual needs buckets").hint("add buckets: 1024"));
        }
        let count = number(raw.buckets.as_ref(), &defaults::BUCKET_COUNTS, problems)?;
        let Some(map) = &raw.map else {
            let hint = format!("add map: [{{shard: 0, buckets: \"0-{}\"}}]", count - 1);
            problems.push(place, Complaint::new("function virtual needs map").hint(hint));
            return None;
        };
        let mut owners: Vec<Option<ShardNumber>> = vec![None; count];
        for Located { value: RawBuckets { shard, buckets }, place } in &map.value.0 {
            let shard = self.shard(shard.as_ref(), place, problems);
            let texts = buckets.as_ref().map(|b| b.value.0.as_slice()).unwrap_or_default();
            if texts.is_empty() {
                problems.push(place, Complaint::new("has no buckets").hint("add buckets: \"0-31\""));
            }
            for text in texts {
                let Some((first, last)) = bucket_range(&text.value, count) else {
                    let complaint =
                        Complaint::new(format!("{} is not a bucket or range of buckets", shown(&text.value)))
                            .hint(format!(
                                "buckets are counted from 0 to {}; ranges are written \"0-31\"",
                                count - 1
                            ));
                    problems.push(&text.place, complaint);
                    continue;
                };
                let range = owners.get_mut(first..=last).unwrap_or_default();
                if let Some(at) = range.iter().position(Option::is_some) {
                    problems
                        .push(&text.place, Complaint::new(format!("bucket {} is mapped twice", first + at)));
                }
                range.fill(Some(shard.unwrap_or(0)));
            }
        }
        if let Some(gap) = owners.iter().position(Option::is_none) {
            let missing = owners.iter().filter(|owner| owner.is_none()).count();
            let complaint = Complaint::new(format!(
                "{missing} of {count} buckets belong to no shard, bucket {gap} the first"
            ));
            problems.push(&map.place, complaint);
        }
        Some(ShardFunction::Virtual { buckets: owners.into_iter().flatten().collect() })
    }

    fn list(
        &self,
        raw: &RawShardedTables,
        place: &Place,
        key_type: KeyType,
        problems: &mut Problems,
    ) -> Option<ShardFunction> {
        let Some(lists) = &raw.values else {
            let complaint =
                Complaint::new("function list needs values").hint("add values: [{shard: 0, values: [a, b]}]");
            problems.push(place, complaint);
            return None;
        };
        let mut values = BTreeMap::new();
        for Located { value: RawShardValues { shard, values: texts }, place } in &lists.value.0 {
            let shard = self.shard(shard.as_ref(), place, problems);
            for text in texts.as_ref().map(|t| t.value.0.as_slice()).unwrap_or_default() {
                let Some(value) = key_value(key_type, text, problems) else { continue };
                if values.insert(value, shard.unwrap_or(0)).is_some() {
                    problems
                        .push(&text.place, Complaint::new(format!("{} is given twice", shown(&text.value))));
                }
            }
        }
        let otherwise = raw.otherwise.as_ref().and_then(|raw| self.shard(Some(raw), place, problems));
        Some(ShardFunction::List { values, otherwise })
    }

    fn ranges(
        &self,
        raw: &RawShardedTables,
        place: &Place,
        key_type: KeyType,
        problems: &mut Problems,
    ) -> Option<ShardFunction> {
        let Some(list) = &raw.ranges else {
            let complaint = Complaint::new("function range needs ranges")
                .hint("add ranges: [{shard: 0, to: 1000}, {shard: 1, from: 1000}]");
            problems.push(place, complaint);
            return None;
        };
        if !key_type.has_one_order() {
            let complaint =
                Complaint::new(format!("function range does not go with type {}", key_type.as_str()))
                    .hint("the order of texts is their collation's; use list or hash");
            problems.push(place, complaint);
            return None;
        }
        let mut ranges = Vec::new();
        for Located { value: RawShardRange { shard, from, to }, place } in &list.value.0 {
            let shard = self.shard(shard.as_ref(), place, problems).unwrap_or(0);
            let mut bound = |raw: &Option<Located<String>>| match raw {
                Some(raw) => key_value(key_type, raw, problems).map(Some),
                None => Some(None),
            };
            let (Some(from_value), Some(to_value)) = (bound(from), bound(to)) else { continue };
            if from_value.is_some() && to_value.is_some() && from_value >= to_value {
                problems.push(place, Complaint::new("has no values: from is not below to"));
                continue;
            }
            let text =
                |raw: &Option<Located<String>>| raw.as_ref().map(|raw| raw.value.clone()).unwrap_or_default();
            ranges.push((Range { from: from_value, to: to_value, shard }, place, text(from), text(to)));
        }
        // No lower end is the lowest: `None` is less than any value.
        ranges.sort_by(|(a, ..), (b, ..)| a.from.cmp(&b.from));
        let mut end: Option<(&Option<KeyValue>, &str)> = None;
        for (range, place, from, to) in &ranges {
            match &end {
                None if range.from.is_some() => {
                    problems.push(
                        place,
                        Complaint::new(format!("values below {} belong to no shard", shown(from))),
                    );
                }
                None => {}
                Some((None, _)) => {
                    problems.push(place, Complaint::new("overlaps with a range that has no end"));
                }
                Some((Some(_), text)) if range.from.is_none() => {
                    problems
                        .push(place, Complaint::new(format!("overlaps with the range to {}", shown(text))));
                }
                Some((before, text)) => match (*before).cmp(&range.from) {
                    std::cmp::Ordering::Less => {
                        let message =
                            format!("values from {} to {} belong to no shard", shown(text), shown(from));
                        problems.push(place, Complaint::new(message));
                    }
                    std::cmp::Ordering::Greater => {
                        problems.push(
                            place,
                            Complaint::new(format!("overlaps with the range to {}", shown(text))),
                        );
                    }
                    std::cmp::Ordering::Equal => {}
                },
            }
            end = Some((&range.to, to));
        }
        if let Some((Some(_), text)) = end {
            problems.push(
                &list.place,
                Complaint::new(format!("values from {} on belong to no shard", shown(text))),
            );
        }
        if list.value.0.is_empty() {
            problems.push(&list.place, Complaint::new("has no range"));
        }
        Some(ShardFunction::Range { ranges: ranges.into_iter().map(|(range, ..)| range).collect() })
    }
}

/// Complains about keys that belong to another function.
fn belongs(raw: &RawShardedTables, function: ShardFunctionName, problems: &mut Problems) {
    use ShardFunctionName::{List, Range, Virtual};
    let keys = [
        ("buckets", Virtual, raw.buckets.as_ref().map(|r| &r.place)),
        ("map", Virtual, raw.map.as_ref().map(|r| &r.place)),
        ("values", List, raw.values.as_ref().map(|r| &r.place)),
        ("otherwise", List, raw.otherwise.as_ref().map(|r| &r.place)),
        ("ranges", Range, raw.ranges.as_ref().map(|r| &r.place)),
    ];
    for (key, owner, place) in keys {
        if let (true, Some(place)) = (owner != function, place) {
            let complaint = Complaint::new(format!(
                "{key} belongs to function {}, not {}",
                owner.as_str(),
                function.as_str()
            ));
            problems.push(place, complaint);
        }
    }
}

/// The key's columns with their types.
fn key(raw: &RawShardedTables, problems: &mut Problems) -> Option<Vec<KeyColumn>> {
    let (columns, types) = (raw.column.as_ref()?, raw.key_type.as_ref()?);
    let mut read = Vec::new();
    for text in &types.value.0 {
        if let Some(found) = KeyType::named(&text.value) {
            read.push(found);
        } else if text.value.contains('(') {
            let complaint = Complaint::new(format!("{} has a length or precision", shown(&text.value)))
                .hint("leave it out; keys of timestamps and numeric must have none in the table either");
            problems.push(&text.place, complaint);
        } else {
            let known: Vec<_> = KeyType::names().collect();
            problems.push(&text.place, hints::unknown_word(&text.value, "a type a key can have", &known));
        }
    }
    let columns = &columns.value.0;
    if columns.len() != types.value.0.len() {
        let message = format!("{} columns and {} types", columns.len(), types.value.0.len());
        problems.push(&types.place, Complaint::new(message).hint("give each column of the key its type"));
    }
    if read.len() != columns.len() {
        return None;
    }
    let key =
        columns.iter().zip(read).map(|(name, key_type)| KeyColumn { name: name.value.clone(), key_type });
    Some(key.collect())
}

/// A value of the key's type.
fn key_value(key_type: KeyType, text: &Located<String>, problems: &mut Problems) -> Option<KeyValue> {
    let value = KeyValue::from_text(key_type, &text.value);
    if value.is_none() {
        let complaint =
            Complaint::new(format!("{} is not a value of type {}", shown(&text.value), key_type.as_str()));
        problems.push(&text.place, complaint);
    }
    value
}

/// `7` or `0-31`, both ends included.
fn bucket_range(text: &str, count: usize) -> Option<(usize, usize)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last && last < count).then_some((first, last))
}

fn patterns(raw: Option<&Located<Several<String>>>, problems: &mut Problems) -> Vec<(TablePattern, Place)> {
    let mut patterns = Vec::new();
    for text in raw.map(|raw| raw.value.0.as_slice()).unwrap_or_default() {
        match TablePattern::parse(&text.value) {
            Some(pattern) => patterns.push((pattern, text.place.clone())),
            None => {
                let complaint = Complaint::new(format!("{} is not a table's name", shown(&text.value)))
                    .hint("write name or schema.name, without quotes; * stands for any characters");
                problems.push(&text.place, complaint);
            }
        }
    }
    patterns
}

/// Complains about names that a table could share.
fn check_overlaps(groups: &[Group], everywhere: &[(TablePattern, Place)], problems: &mut Problems) {
    let sharded = groups.iter().enumerate().flat_map(|(number, group)| {
        group.tables.tables.iter().zip(&group.places).map(move |(pattern, place)| (number, pattern, place))
    });
    let all: Vec<_> =
        sharded.chain(everywhere.iter().map(|(pattern, place)| (usize::MAX, pattern, place))).collect();
    for (at, (group, pattern, place)) in all.iter().enumerate() {
        for (other_group, other, _) in all.iter().take(at) {
            if pattern == other {
                problems.push(place, Complaint::new(format!("{pattern} is given twice")));
            } else if group != other_group && pattern.overlaps(other) {
                let complaint = Complaint::new(format!("{pattern} overlaps with {other}"))
                    .hint("a table could be meant by both; write one of them more narrowly");
                problems.push(place, complaint);
            }
        }
    }
}
