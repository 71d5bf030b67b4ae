//! Room `shard`: which shard a key belongs to. Pure: a value and a function in, a number out.
//!
//! - [`KeyType`] are the types a key can have; [`KeyValue`] is a value of one of them, read from text (`text`,
//!   `datetime`, `numeric`) or from PostgreSQL's binary format (`binary`).
//! - `hash` computes what PostgreSQL computes for hash partitions, bit for bit.
//! - [`ShardFunction`] maps keys to shards: `hash`, `virtual`, `list`, `range`.
//! - [`ShardedSchema`] says which tables have which key and function.
//! - [`wrong_columns`] compares that with what a server has.
//! - [`RowSplitter`] cuts the data of COPY FROM STDIN into rows and gives each to its shard.
//!
//! A text is read only where PostgreSQL could read it in one way, whatever the session's settings are; all
//! else is `None`, and the caller refuses. A wrong value would be a wrong shard, so there is no guessing.

mod binary;
mod column;
mod copy;
mod datetime;
mod function;
mod hash;
mod key_type;
mod numeric;
mod schema;
mod text;
mod value;

pub use column::{WrongColumn, key_columns, wrong_columns};
pub use copy::{
    CopyEncoding, CopyError, CopyFormat, CopyKey, CopyOptions, CopyProblem, CopySession, CopySink,
    CopyTarget, CopyTo, RowSplitter,
};
pub use function::{Range, ShardFunction, ShardNumber};
pub use hash::row_hash;
pub use key_type::KeyType;
pub use schema::{KeyColumn, ShardedSchema, ShardedTables, TableClass, TablePattern};
pub use value::KeyValue;
