//! Times of queries, transactions and waits, as histograms; the handles are made once.

use std::fmt;
use std::time::Duration;

use metrics::{Histogram, Unit, describe_histogram, histogram};

/// Handles of the three histograms.
pub struct Histograms {
    checkout_wait: Histogram,
    query: Histogram,
    transaction: Histogram,
}

impl fmt::Debug for Histograms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Histograms")
    }
}

impl Default for Histograms {
    fn default() -> Self {
        Self::new()
    }
}

impl Histograms {
    /// Registers them with the recorder that is installed; without one, recording does nothing.
    pub fn new() -> Self {
        describe_histogram!(
            "pgweir_checkout_wait_seconds",
            Unit::Seconds,
            "Time clients waited for a server connection"
        );
        describe_histogram!(
            "pgweir_query_seconds",
            Unit::Seconds,
            "Time from a client's request to the end of its answer"
        );
        describe_histogram!(
            "pgweir_transaction_seconds",
            Unit::Seconds,
            "Time from the first statement of a transaction to its end"
        );
        Self {
            checkout_wait: histogram!("pgweir_checkout_wait_seconds"),
            query: histogram!("pgweir_query_seconds"),
            transaction: histogram!("pgweir_transaction_seconds"),
        }
    }

    /// A client waited for so long.
    pub fn checkout_wait(&self, time: Duration) {
        self.checkout_wait.record(time.as_secs_f64());
    }

    /// A query took so long.
    pub fn query(&self, time: Duration) {
        self.query.record(time.as_secs_f64());
    }

    /// A transaction took so long.
    pub fn transaction(&self, time: Duration) {
        self.transaction.record(time.as_secs_f64());
    }
}
