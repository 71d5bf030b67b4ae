//! What is done with a text that has no one shard, where something can be done: its rows are given to several.

use std::fmt;

use crate::shard::{ShardNumber, ShardedSchema, TableClass};

use super::super::scan::LexOptions;
use super::{CopyFrom, KeyPlan, Parameters, Refusal, Split, copy_from};

/// Rows for several shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Divided {
    /// Those of the statement.
    Rows(Box<Split>),
    /// Those that the client will send.
    Copy(Box<CopyFrom>),
}

impl KeyPlan {
    /// What is done with a text that [`KeyPlan::destination`] refuses with this refusal.
    ///
    /// # Errors
    /// Nothing: why.
    pub fn divide(
        &self,
        refusal: Refusal,
        sql: &[u8],
        lex: LexOptions,
        schema: &ShardedSchema,
        parameters: &dyn Parameters,
    ) -> Result<Divided, Refusal> {
        match refusal {
            Refusal::SeveralShards => {
                let split = self.split(sql, lex, schema, parameters)?;
                split.map(|split| Divided::Rows(Box::new(split))).ok_or(refusal)
            }
            Refusal::Construct(_) => {
                let copy = copy_from(sql, lex, schema)?;
                copy.map(|copy| Divided::Copy(Box::new(copy))).ok_or(refusal)
            }
            other => Err(other),
        }
    }
}

impl Divided {
    /// The shards that get rows, as far as the text says; `None` for all.
    pub fn shards(&self) -> Option<Vec<ShardNumber>> {
        match self {
            Self::Rows(split) => Some(split.parts.iter().map(|part| part.shard).collect()),
            Self::Copy(_) => None,
        }
    }

    /// By what function they are found, where the plan does not say it.
    pub fn function(&self, schema: &ShardedSchema) -> Option<&'static str> {
        match self {
            Self::Rows(_) => None,
            Self::Copy(copy) => match &**copy {
                CopyFrom::Sharded(target) => Some(target.function.as_str()),
                CopyFrom::Unlisted(unlisted) => {
                    match schema.classify(unlisted.schema.as_deref(), &unlisted.table) {
                        TableClass::Sharded(_, tables) => Some(tables.function.as_str()),
                        _ => None,
                    }
                }
                CopyFrom::Everywhere { .. } => None,
            },
        }
    }
}

impl fmt::Display for Divided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(split) => {
                let parts = split.parts.iter().map(|part| match part.rows {
                    1 => format!("1 row to shard {}", part.shard),
                    rows => format!("{rows} rows to shard {}", part.shard),
                });
                f.write_str(&parts.collect::<Vec<_>>().join(", "))
            }
            Self::Copy(copy) => f.write_str(match &**copy {
                CopyFrom::Sharded(_) => "each row of the data to its shard",
                CopyFrom::Unlisted(_) => {
                    "each row of the data to its shard, once a server has told the columns"
                }
                CopyFrom::Everywhere { .. } => "all data to all shards",
            }),
        }
    }
}
