//! Why a statement went where it went; each is counted and shown by SHOW ROUTES.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// The deciding rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// All of them, in order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name shown in the console and in metrics.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

reasons! {
    /// A read that a replica serves.
    Read = "read",
    /// A read that a replica serves because a hint accepts staleness.
    HintReplica = "hint_replica",
    /// A READ ONLY transaction on a replica.
    ReadOnlyTransaction = "read_only_transaction",
    /// It writes, locks, or asks what only the primary knows.
    Write = "write",
    /// A transaction that may write.
    Transaction = "transaction",
    /// It works on the session.
    Session = "session",
    /// It was not understood.
    Unknown = "unknown",
    /// A hint asks for the primary.
    HintPrimary = "hint_primary",
    /// The configuration keeps reads on the primary.
    ReadsOnPrimary = "reads_on_primary",
    /// The database has no replica.
    NoReplica = "no_replica",
    /// No replica is usable.
    NoUsableReplica = "no_usable_replica",
    /// The client has written, and no replica is known to have replayed that.
    OwnWrites = "own_writes",
    /// Somebody writes, or has just written, what it reads.
    RecentWrites = "recent_writes",
    /// No replica has replayed yet what was written to the tables it reads.
    ReplicasBehind = "replicas_behind",
    /// It calls a user function that is VOLATILE, by name or behind an operator, a view, a policy.
    VolatileFunction = "volatile_function",
    /// It calls a function that is neither built in nor in the catalog.
    UnknownFunction = "unknown_function",
    /// It reads a table that is not in the catalog.
    UnknownTable = "unknown_table",
    /// It reads what only the primary has: an unlogged or foreign table, a sequence.
    PrimaryOnlyTable = "primary_only_table",
    /// What its tables are is not known: the catalog is being read, or cannot be.
    NoCatalog = "no_catalog",
    /// A standby has refused this statement before.
    LearnedWrite = "learned_write",
    /// A standby has refused it just now; it ran again elsewhere.
    RetriedReadOnly = "retried_read_only",
    /// It was in the way of replay on a replica; it ran again elsewhere.
    RetriedConflict = "retried_conflict",
    /// The replica was lost with it; it ran again elsewhere.
    RetriedLost = "retried_lost",
    /// A replica lacked something that it names; it ran again elsewhere.
    RetriedUndefined = "retried_undefined",
    /// The template of a `CREATE DATABASE` was in use; it ran again.
    RetriedClone = "retried_clone",
    /// A read that the primary serves as one of the equals.
    ReadShared = "read_shared",
    /// The server connection was held already: a transaction.
    SameTransaction = "same_transaction",
    /// The server connection was held already: session state, or pool mode session.
    Pinned = "pinned",
    /// The replica chosen could not be reached; the primary served the read.
    ReplicaFailed = "replica_failed",
}

impl Reason {
    /// What the reason leads to: `replica`, `primary`, or `held` where no choice was made.
    pub fn target(self) -> &'static str {
        match self {
            Self::Read | Self::HintReplica | Self::ReadOnlyTransaction => "replica",
            Self::SameTransaction | Self::Pinned => "held",
            _ => "primary",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
