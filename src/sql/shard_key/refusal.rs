//! Why a statement is not answered in a sharded database: what it holds, and what to do instead.

use std::fmt;

use crate::shard::WrongColumn;

/// The reason, in the words of the error a client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A sharded table without a key.
    NoKey {
        /// The table.
        table: String,
        /// The key's column.
        column: String,
    },
    /// Keys of several shards.
    SeveralShards,
    /// Rows of several shards in an INSERT that cannot be divided.
    Together {
        /// The table.
        table: String,
        /// What it is about the INSERT.
        what: &'static str,
    },
    /// A parameter without a declared type that would have another one on some shard.
    ParameterType(u32),
    /// A table that pooler.yaml does not mention.
    Undeclared(String),
    /// A table that several declarations may mean.
    Ambiguous(String),
    /// An UPDATE that assigns the key.
    KeyUpdate {
        /// The table.
        table: String,
        /// The key's column.
        column: String,
    },
    /// An INSERT whose key cannot be seen.
    Insert {
        /// The table.
        table: String,
        /// What it is about the INSERT.
        what: &'static str,
    },
    /// A COPY whose key cannot be seen.
    Copy {
        /// The table.
        table: String,
        /// What it is about the COPY.
        what: &'static str,
    },
    /// A function that is not built in: nobody knows what it reads.
    Function(String),
    /// Something that is not supported here.
    Construct(&'static str),
    /// What must run on all shards.
    AllShards(String),
    /// Something for one shard and something for all, in one.
    Mixed(String),
    /// A change of what is everywhere, with something in it that each shard would see otherwise.
    Differs(String),
    /// Rows for what is everywhere, with a default that each shard would compute otherwise.
    Default {
        /// The table.
        table: String,
        /// What of it.
        what: String,
    },
    /// The key's column is not what pooler.yaml says.
    WrongColumn(Box<WrongColumn>),
    /// It writes or locks, and nothing says on which shard.
    Nowhere,
    /// The transaction belongs to another shard.
    OtherShard {
        /// Where the transaction is.
        transaction: u32,
        /// Where the statement would have to run; `None`: on all.
        statement: Option<u32>,
    },
    /// The key's shard is not the one that was chosen.
    Contradiction {
        /// What was chosen.
        chosen: u32,
        /// Where the key is.
        key: u32,
    },
    /// A setting that chooses a shard, with a value that is none.
    Choice {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
    },
    /// The parser does not know it.
    NotUnderstood,
    /// The key's value is not read.
    Value {
        /// The key's column.
        column: String,
        /// The type it should have.
        wanted: &'static str,
    },
    /// The function has no shard for the value.
    NoShard(String),
    /// A parameter that is not there (yet).
    Parameter(u32),
    /// A shard was asked for that does not exist.
    NoSuchShard(u32),
    /// An explicit key, where there are different functions.
    WhichKey,
}

impl Refusal {
    /// A word for metrics and reports.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoKey { .. } => "no_key",
            Self::SeveralShards | Self::Together { .. } => "several_shards",
            Self::ParameterType(_) => "parameter_type",
            Self::Undeclared(_) => "undeclared",
            Self::Ambiguous(_) => "ambiguous",
            Self::KeyUpdate { .. } => "key_update",
            Self::Insert { .. } => "insert",
            Self::Copy { .. } => "copy",
            Self::Function(_) => "function",
            Self::Construct(_) => "construct",
            Self::AllShards(_) => "all_shards",
            Self::Mixed(_) => "mixed",
            Self::Differs(_) | Self::Default { .. } => "differs",
            Self::WrongColumn(_) => "wrong_column",
            Self::Nowhere => "nowhere",
            Self::OtherShard { .. } => "other_shard",
            Self::Contradiction { .. } => "contradiction",
            Self::Choice { .. } => "choice",
            Self::NotUnderstood => "not_understood",
            Self::Value { .. } => "value",
            Self::NoShard(_) => "no_shard",
            Self::Parameter(_) => "parameter",
            Self::NoSuchShard(_) => "no_such_shard",
            Self::WhichKey => "which_key",
        }
    }

    /// What to do instead.
    pub fn hint(&self) -> String {
        match self {
            Self::NoKey { table, column } => {
                format!(
                    "Add a condition like {table}.{column} = value to WHERE, or choose a shard: /* pgweir: shard=0 */."
                )
            }
            Self::SeveralShards | Self::Together { .. } => "Use one statement for each key.".to_owned(),
            Self::ParameterType(_) => "Declare its type when the statement is prepared.".to_owned(),
            Self::Undeclared(table) => {
                format!(
                    "Add {table} to sharded_tables or everywhere_tables in pooler.yaml, or choose a shard: /* pgweir: shard=0 */."
                )
            }
            Self::Ambiguous(_) => "Write the table's schema.".to_owned(),
            Self::KeyUpdate { .. } => "Delete the row and insert it with its new key.".to_owned(),
            Self::Insert { .. } => {
                "Write INSERT INTO table (columns) VALUES with the key's value as a literal or parameter."
                    .to_owned()
            }
            Self::Copy { .. } => {
                "Name the columns, the key's among them: COPY table (columns) FROM STDIN.".to_owned()
            }
            Self::Mixed(_) => "Use a statement of its own for each.".to_owned(),
            Self::WrongColumn(_) => {
                "Say in sharded_tables what the column is; rows that are there already may be on other shards than its hash says.".to_owned()
            }
            Self::Differs(_) | Self::Default { .. } => "Give the value as a literal or parameter.".to_owned(),
            Self::OtherShard { .. } => {
                "End the transaction first: a transaction belongs to the shard of its first statement with a key.".to_owned()
            }
            Self::Contradiction { .. } => "RESET pgweir.shard, pgweir.sharding_key, or change the key.".to_owned(),
            Self::Choice { .. } => {
                "Shards are counted from 0 in the order of pooler.yaml; an empty value chooses none.".to_owned()
            }
            Self::Function(_)
            | Self::Construct(_)
            | Self::AllShards(_)
            | Self::Nowhere
            | Self::NotUnderstood => {
                "Choose a shard: /* pgweir: shard=0 */, or SET pgweir.shard = 0.".to_owned()
            }
            Self::Value { wanted, .. } => {
                format!(
                    "Give it as a literal or parameter of type {wanted}; dates and times in ISO form, timestamptz with an offset."
                )
            }
            Self::NoShard(_) => "Add it to the function in pooler.yaml.".to_owned(),
            Self::Parameter(_) => "Bind the statement with a value.".to_owned(),
            Self::NoSuchShard(_) => "Shards are counted from 0 in the order of pooler.yaml.".to_owned(),
            Self::WhichKey => "Choose a shard by its number: /* pgweir: shard=0 */.".to_owned(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey { table, column } => {
                write!(
                    f,
                    "table \"{table}\" is sharded by \"{column}\", and the statement does not say which"
                )
            }
            Self::SeveralShards => f.write_str("the statement has keys of several shards"),
            Self::Together { table, what } => {
                write!(f, "rows of several shards cannot be inserted into table \"{table}\" {what}")
            }
            Self::ParameterType(number) => {
                write!(f, "the type of parameter ${number} is not known to be the same on all shards")
            }
            Self::Undeclared(table) => {
                write!(f, "table \"{table}\" is not declared in this sharded database")
            }
            Self::Ambiguous(table) => write!(f, "table \"{table}\" may be meant by several declarations"),
            Self::KeyUpdate { table, column } => {
                write!(f, "the sharding key \"{column}\" of table \"{table}\" cannot be updated")
            }
            Self::Insert { table, what } => write!(f, "INSERT into sharded table \"{table}\" {what}"),
            Self::Copy { table, what } => write!(f, "COPY into sharded table \"{table}\" {what}"),
            Self::Function(name) => {
                write!(f, "function {name} is not built in: which tables it uses is not known")
            }
            Self::Construct(what) => write!(f, "{what} is not supported in a sharded database"),
            Self::AllShards(what) => write!(f, "{what} would have to run on all shards"),
            Self::Mixed(what) => write!(f, "one statement for all shards ({what}) and for one of them"),
            Self::WrongColumn(wrong) => write!(f, "{wrong}"),
            Self::Default { table, what } => {
                write!(
                    f,
                    "{what} in table \"{table}\", which is the same on all shards, would differ between them"
                )
            }
            Self::Differs(what) => {
                write!(
                    f,
                    "{what} in a change of a table that is the same on all shards would differ between them"
                )
            }
            Self::OtherShard { transaction, statement: Some(statement) } => {
                write!(
                    f,
                    "the transaction belongs to shard {transaction}, and the statement to shard {statement}"
                )
            }
            Self::OtherShard { transaction, statement: None } => {
                write!(f, "the session is kept on shard {transaction}, and the statement is for all shards")
            }
            Self::Contradiction { chosen, key } => {
                write!(f, "shard {chosen} was chosen, and the statement's key belongs to shard {key}")
            }
            Self::Choice { setting, value } => {
                write!(f, "invalid value for parameter \"{setting}\": \"{value}\"")
            }
            Self::Nowhere => f.write_str("the statement writes or locks, and does not say on which shard"),
            Self::NotUnderstood => f.write_str("the statement is not understood: its shard is not known"),
            Self::Value { column, wanted } => {
                write!(
                    f,
                    "the value of the sharding key \"{column}\" is not known to be one of type {wanted}"
                )
            }
            Self::NoShard(column) => write!(f, "no shard has this value of the sharding key \"{column}\""),
            Self::Parameter(number) => {
                write!(f, "the sharding key is parameter ${number}, which has no value")
            }
            Self::NoSuchShard(shard) => write!(f, "there is no shard {shard}"),
            Self::WhichKey => f.write_str("sharded tables have different functions: a key alone is no shard"),
        }
    }
}
