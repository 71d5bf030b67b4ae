//! How a worker's turns on a processor are asked for.
//!
//! On a busy machine a thread that wakes up interrupts whoever runs, works off one answer, and sleeps again: twice
//! the switches and twice the `epoll_wait` for the same work. Linux has a policy for threads to which that is worth
//! nothing, `SCHED_BATCH`: on an idle processor they run at once as ever, on a busy one they wait until whoever runs
//! sleeps or has had its share; meanwhile more answers come, and one wake-up serves them all.
//!
//! Where the processor is kept by something that does not sleep for long (a compiler, a large sort), that share is a
//! millisecond or more, and every statement would wait for it twice. So each worker looks once a second how long it
//! waits for a processor, and takes the usual policy back for a while where that is too long.
//!
//! A policy that somebody has chosen for the process (`chrt`, systemd's `CPUSchedulingPolicy=`) is left alone.

use std::fs;
use std::time::Duration;

use thread_priority::unix::{set_thread_priority_and_policy, thread_native_id, thread_schedule_policy};
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
};

/// How often a worker looks at itself.
const PERIOD: Duration = Duration::from_secs(1);
/// Waiting longer than this for a processor, on average, is too long.
const WAIT_MAX: Duration = Duration::from_micros(400);
/// With fewer turns in a period there is nothing to be told from them.
const TURNS_MIN: u64 = 50;
/// Periods with the usual policy before the other one is tried again: at first, and at most.
const PAUSE: (u32, u32) = (8, 512);

/// Turns on a processor, and the waiting for them, since the thread began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Turns {
    count: u64,
    waited_ns: u64,
}

/// Which policy a worker has, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// `SCHED_BATCH`; `pause` is how long it will do without it if that does not do.
    Batch { pause: u32 },
    /// The usual one, for so many more periods.
    Usual { left: u32, pause: u32 },
}

impl Mode {
    /// What comes after a period with these turns.
    fn next(self, period: Turns) -> Self {
        let waits = period.count >= TURNS_MIN
            && u128::from(period.waited_ns) > WAIT_MAX.as_nanos() * u128::from(period.count);
        match self {
            Self::Batch { pause } if waits => Self::Usual { left: pause, pause: (pause * 2).min(PAUSE.1) },
            // A quiet period says nothing about whether it does.
            Self::Batch { .. } if period.count >= TURNS_MIN => Self::Batch { pause: PAUSE.0 },
            Self::Usual { left: 0, pause } => Self::Batch { pause },
            Self::Usual { left, pause } => Self::Usual { left: left - 1, pause },
            same @ Self::Batch { .. } => same,
        }
    }
}

/// Chooses the policy of the present thread for as long as it is polled there. Ends at once where the system or
/// whoever started the process will not have it.
pub(super) async fn adapt() {
    let usual = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
    if thread_schedule_policy().ok() != Some(usual) || !apply(NormalThreadSchedulePolicy::Batch) {
        return;
    }
    let mut mode = Mode::Batch { pause: PAUSE.0 };
    let Some(mut before) = turns() else { return };
    loop {
        tokio::time::sleep(PERIOD).await;
        let Some(now) = turns() else { return };
        let period = Turns {
            count: now.count.saturating_sub(before.count),
            waited_ns: now.waited_ns.saturating_sub(before.waited_ns),
        };
        before = now;
        let next = mode.next(period);
        match (mode, next) {
            (Mode::Batch { .. }, Mode::Usual { .. }) => {
                tracing::debug!(worker = super::home(), "waits long for a processor: scheduled as usual");
                apply(NormalThreadSchedulePolicy::Other);
            }
            (Mode::Usual { .. }, Mode::Batch { .. }) => {
                apply(NormalThreadSchedulePolicy::Batch);
            }
            _ => {}
        }
        mode = next;
    }
}

/// Of the present thread.
fn turns() -> Option<Turns> {
    parse(&fs::read_to_string("/proc/thread-self/schedstat").ok()?)
}

/// Nanoseconds on a processor, nanoseconds of waiting for one, turns.
fn parse(schedstat: &str) -> Option<Turns> {
    let mut numbers = schedstat.split_ascii_whitespace().skip(1).map_while(|number| number.parse().ok());
    Some(Turns { waited_ns: numbers.next()?, count: numbers.next()? })
}

/// Gives the present thread this policy, at the niceness that it has.
fn apply(policy: NormalThreadSchedulePolicy) -> bool {
    let policy = ThreadSchedulePolicy::Normal(policy);
    let Ok(nice) = rustix::process::getpriority_process(None) else { return false };
    let Some(priority) = priority_of(nice, policy) else { return false };
    set_thread_priority_and_policy(thread_native_id(), priority, policy).is_ok()
}

/// What the library calls this niceness: it has a scale of its own, and sets policy and niceness together.
fn priority_of(nice: i32, policy: ThreadSchedulePolicy) -> Option<ThreadPriority> {
    let all = (0..=u8::MAX).map_while(|value| ThreadPriorityValue::try_from(value).ok());
    all.map(ThreadPriority::Crossplatform)
        .find(|priority| priority.to_posix(policy).is_ok_and(|it| it == nice))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Turns = Turns { count: 10_000, waited_ns: 10_000 * 50_000 };
    const LONG: Turns = Turns { count: 1_000, waited_ns: 1_000 * 900_000 };
    const QUIET: Turns = Turns { count: 20, waited_ns: 20 * 5_000_000 };

    #[test]
    fn long_waits_end_it_for_a_while_and_for_longer_each_time() {
        let mut mode = Mode::Batch { pause: PAUSE.0 };
        for period in [SHORT, QUIET, SHORT] {
            mode = mode.next(period);
            assert_eq!(mode, Mode::Batch { pause: PAUSE.0 });
        }
        let mut lengths = Vec::new();
        for _ in 0..9 {
            mode = mode.next(LONG);
            let mut length = 0;
            while let Mode::Usual { .. } = mode {
                mode = mode.next(SHORT);
                length += 1;
            }
            lengths.push(length - 1);
        }
        assert_eq!(lengths, [8, 16, 32, 64, 128, 256, 512, 512, 512]);
        assert_eq!(mode.next(QUIET), mode, "nothing to be told from few turns");
        assert_eq!(mode.next(SHORT), Mode::Batch { pause: PAUSE.0 });
    }

    #[test]
    fn schedstat_is_read() {
        assert_eq!(parse("162335 5889 2\n"), Some(Turns { count: 2, waited_ns: 5889 }));
        assert_eq!(parse(""), None);
        assert_eq!(parse("1 x 2"), None);
    }

    #[test]
    fn every_niceness_has_a_name() {
        for policy in [NormalThreadSchedulePolicy::Batch, NormalThreadSchedulePolicy::Other] {
            let policy = ThreadSchedulePolicy::Normal(policy);
            assert!((-20..20).all(|nice| priority_of(nice, policy).is_some()));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_policy_of_a_thread_changes_and_its_niceness_does_not() {
        let policy = std::thread::spawn(|| {
            let nice = rustix::process::getpriority_process(None).unwrap();
            assert!(turns().is_some() && apply(NormalThreadSchedulePolicy::Batch));
            assert_eq!(rustix::process::getpriority_process(None).unwrap(), nice);
            let batch = thread_schedule_policy().unwrap();
            assert!(apply(NormalThreadSchedulePolicy::Other));
            (batch, thread_schedule_policy().unwrap())
        });
        assert_eq!(
            policy.join().unwrap(),
            (
                ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch),
                ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other)
            )
        );
    }
}
