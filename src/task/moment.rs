//! Points in time in whole microseconds.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The first moment.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A point in time in whole microseconds.
///
/// An `Instant` has seconds and nanoseconds apart: each difference and each conversion takes thirty instructions. What
/// every transaction stores and compares is converted once. The default is before all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// The present one.
    pub fn now() -> Self {
        Self::of(Instant::now())
    }

    /// That of an instant, rounded down.
    #[inline]
    pub fn of(at: Instant) -> Self {
        Self(micros(at.saturating_duration_since(*ORIGIN)).saturating_add(1))
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

/// Whole microseconds, as times are counted and compared.
#[inline]
pub fn micros(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(duration.subsec_micros()))
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
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
        assert!(Moment::default() < first, "nothing is before that");
        let second = Moment::of(now + Duration::new(2, 3_999));
        assert_eq!(second.micros_since(Moment::of(now + Duration::from_nanos(3_999))), 2_000_000);
        assert_eq!(first.micros_since(second), 0);
        assert_eq!(Moment::of(second.instant()), second);
        assert_eq!((first + Duration::from_millis(7)).micros_since(first), 7_000);
        assert_eq!(micros(Duration::MAX), u64::MAX);
        assert!(Moment::default() < Moment::of(before), "what was before the first is as early as that");
    }
}
