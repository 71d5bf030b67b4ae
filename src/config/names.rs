//! The words of settings that are a choice among a few, both ways.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::errors::{Place, Problems};
use super::hints;
use super::node::Node;
use super::read::{Read, scalar};
use super::{
    AuthMethod, ClientTlsMode, Consistency, PoolMode, Reads, Sequences, ServerTlsMode, ShardFunctionName,
    Transactions,
};

/// Ties an enum to its words: `as_str`, reading, JSON schema.
macro_rules! names {
    ($type:ident, $kind:literal: $($word:literal => $variant:ident),*) => {
        impl $type {
            /// Every value with its word.
            const WORDS: &[(&str, Self)] = &[$(($word, Self::$variant)),*];

            /// The name used in configuration and console.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),*
                }
            }
        }

        impl Read for $type {
            fn read(node: &Node, place: &Place, problems: &mut Problems) -> Option<Self> {
                let (text, _) = scalar(node, place, $kind, problems)?;
                let found = Self::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
                problems.keep(place, found.ok_or_else(|| hints::unknown_word(text, $kind, &[$($word),*])))
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "enum": [$($word),*]})
            }
        }
    };
}

names!(PoolMode, "a pool mode": "transaction" => Transaction, "session" => Session, "statement" => Statement);
names!(AuthMethod, "an authentication method":
    "trust" => Trust, "password" => Password, "md5" => Md5, "scram-sha-256" => ScramSha256);
names!(ClientTlsMode, "a TLS mode for clients":
    "disable" => Disable, "allow" => Allow, "prefer" => Prefer, "require" => Require);
names!(ServerTlsMode, "a TLS mode for servers": "disable" => Disable, "prefer" => Prefer,
    "require" => Require, "verify-ca" => VerifyCa, "verify-full" => VerifyFull);
names!(Reads, "a place for reads":
    "replica" => Replica, "replica_or_primary" => ReplicaOrPrimary, "primary" => Primary);
names!(Sequences, "a way to treat currval and lastval": "refuse" => Refuse, "pin" => Pin);
names!(Transactions, "a place for transactions":
    "primary" => Primary, "replica_until_write" => ReplicaUntilWrite);
names!(Consistency, "a consistency": "eventual" => Eventual, "session" => Session, "strong" => Strong);
names!(ShardFunctionName, "a sharding function":
    "hash" => Hash, "virtual" => Virtual, "list" => List, "range" => Range);
