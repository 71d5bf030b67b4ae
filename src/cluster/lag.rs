//! How late a replica is, in time: since when has the primary been past what the replica has replayed?
//!
//! Measured by our own clock from positions that our own probes saw, so that neither clocks that differ
//! nor a primary that has written nothing for an hour make a lag that is not there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::lsn::Lsn;

/// Positions remembered; at one a second, ten minutes.
const SAMPLES_MAX: usize = 600;

/// Where the primary was, and when.
#[derive(Debug, Default)]
pub struct History(VecDeque<(Instant, Lsn)>);

impl History {
    /// The primary was seen at `position`. Only news are remembered: the time is when it got there.
    pub fn record(&mut self, now: Instant, position: Lsn) {
        if self.0.back().is_some_and(|(_, last)| *last == position) {
            return;
        }
        // A position that goes back belongs to another history of the database.
        if self.0.back().is_some_and(|(_, last)| *last > position) {
            self.0.clear();
        }
        if self.0.len() >= SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, position));
    }

    /// Forgets all: what comes is another history.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// How far behind a replica is that has replayed `position`: bytes, and time.
    pub fn lag(&self, now: Instant, position: Lsn) -> (u64, Duration) {
        let newest = self.0.back().map_or(Lsn(0), |(_, newest)| *newest);
        let missed = self.0.iter().find(|(_, seen)| *seen > position);
        let late = missed.map_or(Duration::ZERO, |(since, _)| now.saturating_duration_since(*since));
        (newest.0.saturating_sub(position.0), late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_the_time_since_the_primary_passed_the_replica() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut history = History::default();
        assert_eq!(history.lag(at(0), Lsn(0)), (0, Duration::ZERO));
        history.record(at(0), Lsn(100));
        history.record(at(3600), Lsn(100));
        history.record(at(3601), Lsn(150));
        history.record(at(3602), Lsn(200));
        assert_eq!(history.lag(at(3605), Lsn(200)), (0, Duration::ZERO));
        assert_eq!(history.lag(at(3605), Lsn(150)), (50, Duration::from_secs(3)));
        assert_eq!(history.lag(at(3605), Lsn(100)), (100, Duration::from_secs(4)), "an idle hour is no lag");
        history.record(at(3606), Lsn(10));
        assert_eq!(history.lag(at(3606), Lsn(10)), (0, Duration::ZERO), "a new history begins anew");
    }
}
