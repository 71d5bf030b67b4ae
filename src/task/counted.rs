//! Counters that each worker has for itself.

use std::sync::atomic::{AtomicU64, Ordering};

use super::HOME;

/// Counters: those of each worker, and those of all threads that are none.
///
/// What every transaction counts is written by one thread alone: counting is an addition that waits for nobody, and the
/// line stays in that thread's cache. Who reads adds them up.
#[derive(Debug)]
pub struct PerWorker<T> {
    of_workers: Box<[Apart<T>]>,
    of_others: T,
}

/// In cache lines of its own; two, since they are fetched in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

impl<T: Default> PerWorker<T> {
    /// All zero, for so many workers.
    pub fn new(workers: usize) -> Self {
        Self { of_workers: (0..workers).map(|_| Apart::default()).collect(), of_others: T::default() }
    }
}

impl<T> PerWorker<T> {
    /// Adds to one of them.
    #[inline]
    pub fn add(&self, which: impl FnOnce(&T) -> &AtomicU64, count: u64) {
        match self.of_workers.get(HOME.get()) {
            Some(Apart(own)) => {
                // Nobody else writes it.
                let counter = which(own);
                counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
            }
            None => {
                which(&self.of_others).fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    /// What all have counted together.
    pub fn sum(&self, which: impl Fn(&T) -> &AtomicU64) -> u64 {
        let workers = self.of_workers.iter().map(|Apart(own)| own);
        let all = workers.chain([&self.of_others]).map(|each| which(each).load(Ordering::Relaxed));
        all.fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn nothing_is_lost_whoever_counts() {
        let counters = Arc::new(PerWorker::<[AtomicU64; 2]>::new(2));
        // Two workers, and four threads that are none or one that this pool does not know.
        let threads = [0, 1, usize::MAX, usize::MAX, 2, 7].map(|home| {
            let counters = Arc::clone(&counters);
            std::thread::spawn(move || {
                HOME.set(home);
                for _ in 0..10_000 {
                    counters.add(|[one, _]| one, 1);
                    counters.add(|[_, other]| other, 3);
                }
            })
        });
        for thread in threads {
            assert!(thread.join().is_ok());
        }
        assert_eq!((counters.sum(|[one, _]| one), counters.sum(|[_, other]| other)), (60_000, 180_000));
    }
}
