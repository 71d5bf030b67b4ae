//! Times of queries, transactions and waits, as histograms; the handles are made once.
//!
//! The recorder keeps each sample with its time until somebody works it off: too much for several samples a
//! query. So samples are counted in buckets of our own, and what has come to them since is given to the recorder
//! before it is read. Counts by bucket are exact; so is the sum.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use metrics::{Histogram, Unit, describe_histogram, histogram};
use parking_lot::Mutex;

use crate::task::PerWorker;

use super::metrics::BUCKETS;

/// One for each bound, and one for what is above all of them.
const CELLS: usize = BUCKETS.len() + 1;

/// Samples given to the recorder at once.
const PART: usize = 4096;

/// The three histograms; clones are the same.
#[derive(Clone)]
pub struct Histograms(Arc<Cells>);

struct Cells {
    checkout_wait: Cell,
    query: Cell,
    transaction: Cell,
}

/// One histogram.
struct Cell {
    samples: PerWorker<Samples>,
    /// What of them the recorder has: their number and sum.
    given: Mutex<[(u64, u64); CELLS]>,
    handle: Histogram,
}

/// What was counted, by bucket.
struct Samples {
    counts: [AtomicU64; CELLS],
    sums_us: [AtomicU64; CELLS],
}

impl Default for Samples {
    fn default() -> Self {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Self { counts: zeros(), sums_us: zeros() }
    }
}

/// The one with this index; none is beyond the last.
#[inline]
fn at(cells: &[AtomicU64; CELLS], index: usize) -> &AtomicU64 {
    let [.., last] = cells;
    cells.get(index).unwrap_or(last)
}

impl Cell {
    fn new(handle: Histogram, workers: usize) -> Self {
        Self { samples: PerWorker::new(workers), given: Mutex::new([(0, 0); CELLS]), handle }
    }

    #[inline]
    fn record(&self, micros: u64) {
        let index = BOUNDS_US.partition_point(|bound| *bound < micros);
        self.samples.add(|samples| at(&samples.counts, index), 1);
        self.samples.add(|samples| at(&samples.sums_us, index), micros);
    }

    fn flush(&self, work_off: &dyn Fn()) {
        for (index, given) in self.given.lock().iter_mut().enumerate() {
            let present = (
                self.samples.sum(|samples| at(&samples.counts, index)),
                self.samples.sum(|samples| at(&samples.sums_us, index)),
            );
            let (count, sum) = (present.0.wrapping_sub(given.0), present.1.wrapping_sub(given.1));
            if count > 0 {
                *given = present;
                // A sample counted between the two looks must not move the mean into another bucket.
                let low = index.checked_sub(1).and_then(|i| BUCKETS.get(i)).map_or(0.0, |b| b + 1e-9);
                let high = BUCKETS.get(index).copied().unwrap_or(f64::MAX);
                let mean = (sum as f64 / count as f64 / 1e6).clamp(low, high);
                let mut left = usize::try_from(count).unwrap_or(usize::MAX);
                while left > 0 {
                    // The recorder keeps them one by one until it works them off: not too many at a time.
                    let part = left.min(PART);
                    self.handle.record_many(mean, part);
                    work_off();
                    left -= part;
                }
            }
        }
    }
}

/// [`BUCKETS`] in microseconds.
const BOUNDS_US: [u64; BUCKETS.len()] = {
    let mut bounds = [0; BUCKETS.len()];
    let mut index = 0;
    while index < bounds.len() {
        #[allow(clippy::cast_sign_loss, reason = "bounds are positive")]
        let bound = (BUCKETS[index] * 1e6 + 0.5) as u64;
        bounds[index] = bound;
        index += 1;
    }
    bounds
};

impl fmt::Debug for Histograms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Histograms")
    }
}

impl Histograms {
    /// For so many workers, registered with the recorder that is installed; without one, recording does nothing.
    pub fn new(workers: usize) -> Self {
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
        Self(Arc::new(Cells {
            checkout_wait: Cell::new(histogram!("pgweir_checkout_wait_seconds"), workers),
            query: Cell::new(histogram!("pgweir_query_seconds"), workers),
            transaction: Cell::new(histogram!("pgweir_transaction_seconds"), workers),
        }))
    }

    /// A client waited for so many microseconds.
    pub fn checkout_wait(&self, micros: u64) {
        self.0.checkout_wait.record(micros);
    }

    /// A query took so many microseconds.
    pub fn query(&self, micros: u64) {
        self.0.query.record(micros);
    }

    /// A transaction took so many microseconds.
    pub fn transaction(&self, micros: u64) {
        self.0.transaction.record(micros);
    }

    /// Empties the buckets into the recorder; called before it is read, and now and then. `work_off` makes
    /// the recorder forget the single samples.
    pub(super) fn flush(&self, work_off: &dyn Fn()) {
        for cell in [&self.0.checkout_wait, &self.0.query, &self.0.transaction] {
            cell.flush(work_off);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use metrics::HistogramFn;

    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<f64>>);

    impl HistogramFn for Seen {
        fn record(&self, value: f64) {
            self.0.lock().unwrap().push(value);
        }
    }

    #[test]
    fn samples_reach_the_recorder_in_their_buckets_and_once() {
        let seen = Arc::new(Seen::default());
        let cell = Cell::new(Histogram::from_arc(Arc::clone(&seen)), 1);
        for micros in [0, 250, 251, 499, 61_000_000] {
            cell.record(micros);
        }
        cell.flush(&|| {});
        cell.flush(&|| {});
        let values = std::mem::take(&mut *seen.0.lock().unwrap());
        assert_eq!(values, [0.000_125, 0.000_125, 0.000_375, 0.000_375, 61.0]);
    }
}
