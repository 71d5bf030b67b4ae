//! Transaction commands and their options.

use super::tokens::View;

/// An isolation level, as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Runs as read committed.
    ReadUncommitted,
    /// The default.
    ReadCommitted,
    /// One snapshot for the transaction.
    RepeatableRead,
    /// Serializable; replicas refuse it.
    Serializable,
}

/// A transaction command that stands alone in its string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionControl {
    /// BEGIN, START TRANSACTION.
    Begin {
        /// READ ONLY or READ WRITE, the last one named.
        read_only: Option<bool>,
        /// ISOLATION LEVEL.
        isolation: Option<Isolation>,
        /// DEFERRABLE or NOT DEFERRABLE.
        deferrable: Option<bool>,
    },
    /// COMMIT, END.
    Commit {
        /// AND CHAIN.
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// SAVEPOINT.
    Savepoint,
    /// RELEASE.
    Release,
    /// ROLLBACK TO.
    RollbackTo,
    /// PREPARE TRANSACTION.
    PrepareTransaction,
    /// COMMIT PREPARED.
    CommitPrepared,
    /// ROLLBACK PREPARED.
    RollbackPrepared,
    /// SET TRANSACTION, or SET of one of the transaction's own settings.
    SetTransaction {
        /// READ ONLY or READ WRITE; also `None` when it was given as a literal.
        read_only: Option<bool>,
        /// ISOLATION LEVEL.
        isolation: Option<Isolation>,
        /// DEFERRABLE or NOT DEFERRABLE.
        deferrable: Option<bool>,
        /// SET TRANSACTION SNAPSHOT: meaningful on the server that exported it.
        snapshot: bool,
    },
}

impl TransactionControl {
    /// Reads the command, if the statement is one that is understood to its end.
    pub(super) fn read(view: View<'_>) -> Option<Self> {
        let work = |at: usize| at + usize::from(matches!(view.word(at), b"work" | b"transaction"));
        match (view.word(0), view.word(1)) {
            (b"begin", _) => begin(view, work(1)),
            (b"start", b"transaction") => begin(view, 2),
            (b"prepare", b"transaction") => Some(Self::PrepareTransaction),
            (b"commit", b"prepared") => Some(Self::CommitPrepared),
            (b"rollback", b"prepared") => Some(Self::RollbackPrepared),
            (b"commit" | b"end", _) => Some(Self::Commit { chain: chain(view, work(1))? }),
            (b"rollback", _) if view.is(work(1), "to") => Some(Self::RollbackTo),
            (b"rollback" | b"abort", _) => Some(Self::Rollback { chain: chain(view, work(1))? }),
            (b"savepoint", _) => Some(Self::Savepoint),
            (b"release", _) => Some(Self::Release),
            (b"set", _) => set_transaction(view),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Modes {
    read_only: Option<bool>,
    isolation: Option<Isolation>,
    deferrable: Option<bool>,
}

fn begin(view: View<'_>, at: usize) -> Option<TransactionControl> {
    let Modes { read_only, isolation, deferrable } = modes(view, at)?;
    Some(TransactionControl::Begin { read_only, isolation, deferrable })
}

/// `[, ] ISOLATION LEVEL … | READ ONLY | READ WRITE | [NOT] DEFERRABLE`, to the end.
fn modes(view: View<'_>, begin: usize) -> Option<Modes> {
    let mut modes = Modes::default();
    let mut at = begin;
    while at < view.len() {
        // Between two, not in front of the first.
        if at > begin && view.punct(at, b",") {
            at += 1;
        }
        at += match (view.word(at), view.word(at + 1)) {
            (b"read", b"only") => {
                modes.read_only = Some(true);
                2
            }
            (b"read", b"write") => {
                modes.read_only = Some(false);
                2
            }
            (b"deferrable", _) => {
                modes.deferrable = Some(true);
                1
            }
            (b"not", b"deferrable") => {
                modes.deferrable = Some(false);
                2
            }
            (b"isolation", b"level") => {
                let (level, words) = match (view.word(at + 2), view.word(at + 3)) {
                    (b"read", b"uncommitted") => (Isolation::ReadUncommitted, 4),
                    (b"read", b"committed") => (Isolation::ReadCommitted, 4),
                    (b"repeatable", b"read") => (Isolation::RepeatableRead, 4),
                    (b"serializable", _) => (Isolation::Serializable, 3),
                    _ => return None,
                };
                modes.isolation = Some(level);
                words
            }
            _ => return None,
        };
    }
    Some(modes)
}

/// `[AND [NO] CHAIN]` to the end.
fn chain(view: View<'_>, at: usize) -> Option<bool> {
    match (view.len() - at.min(view.len()), view.word(at), view.word(at + 1), view.word(at + 2)) {
        (0, ..) | (3, b"and", b"no", b"chain") => Some(false),
        (2, b"and", b"chain", _) => Some(true),
        _ => None,
    }
}

fn set_transaction(view: View<'_>) -> Option<TransactionControl> {
    let plain = |snapshot| TransactionControl::SetTransaction {
        read_only: None,
        isolation: None,
        deferrable: None,
        snapshot,
    };
    let at = 1 + usize::from(matches!(view.word(1), b"local" | b"session"));
    match view.word(at) {
        b"transaction" if view.is(at + 1, "snapshot") => Some(plain(true)),
        b"transaction" => {
            let Modes { read_only, isolation, deferrable } = modes(view, at + 1)?;
            Some(TransactionControl::SetTransaction { read_only, isolation, deferrable, snapshot: false })
        }
        b"transaction_read_only" | b"transaction_isolation" | b"transaction_deferrable" => Some(plain(false)),
        _ => None,
    }
}
