//! Points in time in whole microseconds.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What moments are counted from, a microsecond before the first.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A point in time in whole microseconds.
///
/// An `Instant` has seconds and nanoseconds apart: each difference and each conversion takes thirty instructions. What
/// every transaction stores and compares is converted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// Before all others.
    pub const NEVER: Self = Self(0);

    /// The present one.
    pub fn now() -> Self {
        Self::of(Instant::now())
    }

    /// That of an instant, rounded down.
    #[inline]
    pub fn of(at: Instant) -> Self {
        let since = at.saturating_duration_since(*ORIGIN);
        Self(1 + since.as_secs() * 1_000_000 + u64::from(since.subsec_micros()))
    }

    /// As an instant.
    pub fn instant(self) -> Instant {
        *ORIGIN + Duration::from_micros(self.0.saturating_sub(1))
    }

    /// The time that has passed since.
    pub fn elapsed(self) -> Duration {
        Duration::from_micros(Self::now().micros_since(self))
    }

    /// Microseconds from `earlier` to this one; 0 if that was not earlier.
    #[inline]
    pub fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// A [`Moment`] that threads share.
#[derive(Debug, Default)]
pub struct AtomicMoment(AtomicU64);

impl AtomicMoment {
    /// With this one in it.
    pub const fn new(moment: Moment) -> Self {
        Self(AtomicU64::new(moment.0))
    }

    /// What is in it.
    #[inline]
    pub fn load(&self, order: Ordering) -> Moment {
        Moment(self.0.load(order))
    }

    /// Puts another one in.
    #[inline]
    pub fn store(&self, moment: Moment, order: Ordering) {
        self.0.store(moment.0, order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_instants_rounded_down() {
        let before = Instant::now();
        let (first, now) = (Moment::now(), Instant::now());
        assert!(Moment::NEVER < first, "nothing is before that");
        let second = Moment::of(now + Duration::new(2, 3_999));
        assert_eq!(second.micros_since(Moment::of(now + Duration::from_nanos(3_999))), 2_000_000);
        assert_eq!(first.micros_since(second), 0);
        assert_eq!(Moment::of(second.instant()), second);
        assert_eq!((first + Duration::from_millis(7)).micros_since(first), 7_000);
        assert!(Moment::NEVER < Moment::of(before), "what was before the first is as early as that");
    }
}
