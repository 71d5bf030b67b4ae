//! The shard's part of `pgweir route`: what a sharded database of a configuration makes of the statement.

use std::fmt::Write;

use crate::config::{self, Environment, Sharding};
use crate::sql::{
    Destination, Hint, KeyPlan, LexOptions, ParameterValue, Parameters, Refusal, explicit_shard, key_plan,
};

use super::super::args::RouteOptions;

/// Lines for the shard, its key, function and reason; none without `--config`.
pub(super) fn explain(
    options: &RouteOptions,
    sql: &str,
    lex: LexOptions,
    hint: &Hint,
) -> Result<String, String> {
    let Some(path) = &options.config else { return Ok(String::new()) };
    let config = config::load(path, &Environment::of_process()).map_err(|errors| errors.to_string())?;
    let mut sharded = config.databases.values().filter(|database| {
        database.sharding.is_some() && options.database.as_ref().is_none_or(|name| *name == database.name)
    });
    let (Some(database), None) = (sharded.next(), sharded.next()) else {
        return Err(match &options.database {
            Some(name) => format!("{}: there is no sharded database {name}", path.display()),
            None => format!("{}: name one sharded database with --database", path.display()),
        });
    };
    let Some(sharding) = &database.sharding else { return Ok(String::new()) };
    Ok(lines(sharding, sql, lex, hint, &Given(&options.parameters)))
}

/// Values of the command line, in text format.
struct Given<'a>(&'a [String]);

impl Parameters for Given<'_> {
    fn declared(&self, _: u32) -> u32 {
        0
    }

    fn value(&self, number: u32) -> Option<ParameterValue<'_>> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        self.0.get(at).map(|text| ParameterValue::Text(text.as_bytes()))
    }

    fn is_utf8(&self) -> bool {
        true
    }
}

fn lines(sharding: &Sharding, sql: &str, lex: LexOptions, hint: &Hint, given: &Given<'_>) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:<12}{value}");
    };
    let schema = &sharding.schema;
    let shards = u32::try_from(sharding.shards.len()).unwrap_or(u32::MAX);
    match explicit_shard(hint, shards, schema) {
        Ok(None) => {}
        Ok(Some(shard)) => {
            line("shard", &shard.to_string());
            line("because", "a comment asks for it");
            return out;
        }
        Err(refusal) => {
            refused(&mut line, &refusal);
            return out;
        }
    }
    let plan = key_plan(sql.as_bytes(), lex, schema);
    match plan.destination(sql.as_bytes(), lex, schema, given) {
        Ok(Destination::Any) => {
            line("shard", "any");
            line("because", why_any(&plan));
        }
        Ok(Destination::All { what }) => {
            line("shard", "all");
            line("because", &what);
        }
        Ok(Destination::Shard(shard)) => {
            line("shard", &shard.to_string());
            if let Some(function) = plan.function(schema) {
                line("function", function);
            }
        }
        Err(refusal @ Refusal::Parameter(_)) => {
            line("shard", "by parameter");
            line("because", &refusal.to_string());
        }
        Err(refusal) => match plan.divide(refusal, sql.as_bytes(), lex, schema, given) {
            Ok(divided) => {
                let shards = divided
                    .shards()
                    .map(|shards| shards.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
                line("shard", shards.as_deref().unwrap_or("all"));
                line("because", &divided.to_string());
                if let Some(function) = divided.function(schema).or_else(|| plan.function(schema)) {
                    line("function", function);
                }
            }
            Err(refusal) => refused(&mut line, &refusal),
        },
    }
    for key in plan.describe(sql.as_bytes(), lex, schema) {
        line("key", &key);
    }
    out
}

fn refused(line: &mut impl FnMut(&str, &str), refusal: &Refusal) {
    line("shard", "refused (0A000)");
    line("because", &refusal.to_string());
    line("hint", &refusal.hint());
}

fn why_any(plan: &KeyPlan) -> &'static str {
    if plan.is_keyed() { "the key is NULL: no row has it" } else { "it reads no sharded table" }
}
