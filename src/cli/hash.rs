//! `pgweir hash`: which shard a key belongs to under `function: hash`.

use std::process::ExitCode;

use crate::shard::{KeyType, KeyValue, ShardFunction};

use super::args::HashOptions;
use super::print;

/// Prints the shard of one key.
pub(super) fn hash(options: &HashOptions) -> ExitCode {
    match shard(options) {
        Ok(shard) => {
            print::out(&format!("{shard}\n"));
            ExitCode::SUCCESS
        }
        Err(complaint) => {
            print::error(&complaint);
            ExitCode::FAILURE
        }
    }
}

fn shard(options: &HashOptions) -> Result<u32, String> {
    if options.key_type.len() != options.value.len() {
        return Err(format!(
            "{} types and {} values: give --type once for each column of the key",
            options.key_type.len(),
            options.value.len()
        ));
    }
    let mut key = Vec::new();
    for (name, text) in options.key_type.iter().zip(&options.value) {
        let Some(key_type) = KeyType::named(name) else {
            let known: Vec<_> = KeyType::names().collect();
            return Err(format!("{name:?} is not a type a key can have; known are {}", known.join(", ")));
        };
        let value = KeyValue::from_text(key_type, text)
            .ok_or_else(|| format!("{text:?} is not a value of type {}", key_type.as_str()))?;
        key.push(value);
    }
    let key: Vec<_> = key.iter().map(Some).collect();
    ShardFunction::Hash { shards: options.shards }
        .shard(&key)
        .ok_or_else(|| "there must be a shard at least".to_owned())
}
