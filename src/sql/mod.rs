//! Room `sql`: what a statement means, from its text alone. Pure: text in, facts out.
//!
//! The layers, cheapest first:
//!
//! 1. `scan` cuts tokens as PostgreSQL does; `normalize` drops literals, comments and lengths of lists;
//!    `fingerprint` hashes what is left; `hint` reads routing wishes from comments.
//! 2. [`StatementCache`] answers known fingerprints; `template` knows those of texts that were met before but for
//!    their literals, so that they need not be lexed.
//! 3. On a miss `classify` (with `calls`, `utility`, `transaction`, `functions`) decides the [`Effect`] from
//!    the tokens: a read only if nothing speaks against it.
//! 4. `parse` and `tables` ask the parser which tables are read. It decides nothing else, and when it fails
//!    the tables are just not known.
//!
//! 5. For sharded databases `shard_key` finds the shards of a statement, or why there is no answer.
//!
//! Nothing here fails, panics, or answers "read" in doubt.

mod analyze;
mod cache;
mod calls;
mod classify;
mod fingerprint;
mod functions;
mod hint;
mod mentions;
mod normalize;
mod parse;
mod reason;
mod scan;
mod session_effects;
mod shard_key;
mod simple_set;
mod statement;
mod tables;
mod template;
mod tokens;
mod transaction;
mod utility;

pub use cache::{CacheStats, StatementCache};
pub use fingerprint::Fingerprint;
pub use functions::{Meaning as BuiltinMeaning, builtin};
pub use hint::{Hint, HintRole};
pub use mentions::{Mentions, NameHash};
pub use normalize::Collected;
pub use reason::EffectReason;
pub use scan::{Kind, LexOptions, Scanner, Token};
pub use session_effects::SessionEffects;
pub use shard_key::{
    ByParameters, CopyFrom, Defaults, Destination, Divided, Fill, KeyPlan, NoParameters, ParameterValue,
    Parameters, Refusal, RowPlace, Split, SplitPart, Unlisted, copy_from, explicit_shard, key_plan,
};
pub use simple_set::{SetCommand, SetForm, simple_set};
pub use statement::{Effect, FunctionName, Statement, TableName, Tables};
pub use transaction::{Isolation, TransactionControl};
