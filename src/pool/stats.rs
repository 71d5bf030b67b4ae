//! Counters of one pool, bumped by the sessions that use it.

use std::sync::atomic::AtomicU64;

use crate::task::PerWorker;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a pool has done since it was made. Times in microseconds.
        #[derive(Debug)]
        pub struct PoolStats(PerWorker<Counters>);

        /// The counters of [`PoolStats`].
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// A copy of [`PoolStats`] at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct StatsSnapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl PoolStats {
            /// The present values.
            pub fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($name: self.0.sum(|counters| &counters.$name),)* }
            }
        }

        impl StatsSnapshot {
            /// Both together.
            #[must_use]
            pub fn plus(self, other: Self) -> Self {
                Self { $($name: self.$name.saturating_add(other.$name),)* }
            }

            /// What came since `earlier`.
            #[must_use]
            pub fn since(self, earlier: Self) -> Self {
                Self { $($name: self.$name.saturating_sub(earlier.$name),)* }
            }
        }
    };
}

counters! {
    /// Times a server connection was lent.
    assignments,
    /// Transactions finished.
    transactions,
    /// Queries finished.
    queries,
    /// Bytes received from clients.
    received,
    /// Bytes sent to clients.
    sent,
    /// Time spent in transactions.
    transaction_time,
    /// Time spent in queries.
    query_time,
    /// Time clients waited for a server connection.
    wait_time,
    /// Parse messages of clients.
    client_parses,
    /// Parse messages sent to servers.
    server_parses,
    /// Bind messages of clients.
    binds,
    /// Server connections opened.
    opened,
    /// Server connections closed.
    closed,
    /// Attempts to open one that failed.
    open_failures,
    /// Checkouts that timed out.
    timeouts,
    /// Connections that came back and were not clean (`pool.debug_check`).
    dirty,
}

impl PoolStats {
    /// All zero, for so many workers.
    pub fn new(workers: usize) -> Self {
        Self(PerWorker::new(workers))
    }

    /// Counts.
    #[inline]
    pub fn add(&self, which: impl FnOnce(&Counters) -> &AtomicU64, count: u64) {
        self.0.add(which, count);
    }
}

/// Totals of the last statistics period and its length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Averages {
    /// What was counted in the period.
    pub delta: StatsSnapshot,
    /// The period in microseconds; 0 before the first one ended.
    pub period_micros: u64,
}
