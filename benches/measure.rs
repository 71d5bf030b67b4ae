//! A fixed number of rounds, the median of several.

use std::time::Instant;

const TIMES: usize = 9;

/// Nanoseconds for each call, the median.
pub(crate) fn measure(rounds: u32, mut call: impl FnMut()) -> f64 {
    let mut all: Vec<f64> = (0..TIMES)
        .map(|_| {
            let begun = Instant::now();
            for _ in 0..rounds {
                call();
            }
            begun.elapsed().as_secs_f64() * 1e9 / f64::from(rounds)
        })
        .collect();
    all.sort_by(f64::total_cmp);
    all[TIMES / 2]
}
