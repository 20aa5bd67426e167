//! When a hung worker gets SIGTERM and when it is killed. The clock is an argument.

use std::time::Duration;

/// Shortest time between two checks of all workers (10 ms), whatever the limits of their clients: a check costs the server
/// time, and other clients wait for it.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// Longest time between two checks of one worker (1 s). The server has to find out if it is frozen while a call runs,
/// and looks at each worker several times within its limit for that.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Checks of a worker within its limit, at least.
const CHECKS: u32 = 8;

/// Time between two kills of a worker that was killed and has not ended (1 s). The signal may have been refused, or the
/// worker may have changed its user for the time being.
const KILL_AGAIN: Duration = Duration::from_secs(1);

/// When a worker was last killed, if it was, in milliseconds modulo 2³².
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Killing(Option<u32>);

impl Killing {
    /// Notes that the worker is killed now.
    pub(super) fn begin(&mut self, now: u32) {
        self.0 = Some(now);
    }

    /// Whether the worker was killed.
    pub(super) fn has_begun(self) -> bool {
        self.0.is_some()
    }

    /// Returns how long until the worker is to be killed again; `None` if it was not killed yet.
    pub(super) fn check(self, now: u32) -> Option<Duration> {
        self.0.map(|at| left(at, now, KILL_AGAIN, |_| Duration::ZERO))
    }
}

/// Returns how long until the next check, from the waits of all workers; `None` without any.
pub(super) fn next_check(waits: impl Iterator<Item = Duration>) -> Option<Duration> {
    waits.min().map(|wait| wait.max(SHORTEST_WAIT))
}

/// What is to be done to one worker now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WatchdogVerdict {
    /// Check again after this time.
    Wait(Duration),
    Terminate,
    Kill,
    /// Nothing more: the worker was killed.
    Done,
}

/// How long one call may run, and how long a worker may take to exit after SIGTERM.
#[derive(Clone, Copy, Debug)]
pub(super) struct HangLimit {
    pub(super) limit: Duration,
    pub(super) grace: Option<Duration>,
}

impl HangLimit {
    /// Returns the longest time between two checks.
    pub(super) fn longest_wait(self) -> Duration {
        (self.limit / CHECKS).min(LONGEST_WAIT)
    }
}

/// The state of one worker's watchdog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum WatchdogState {
    #[default]
    Watched,
    /// SIGTERM was sent at this time.
    Terminating(u32),
    Killed,
}

impl WatchdogState {
    /// Checks a worker whose code has been running since `since`. Both times are milliseconds modulo 2³². `frozen` returns
    /// how much of the time that has passed since then the server was frozen: most probably the worker was as well.
    pub(super) fn check(
        &mut self,
        since: Option<u32>,
        now: u32,
        hang: HangLimit,
        frozen: impl Fn(Duration) -> Duration,
    ) -> WatchdogVerdict {
        match (*self, since) {
            (WatchdogState::Killed, _) => WatchdogVerdict::Done,
            (WatchdogState::Terminating(at), _) => {
                let left = left(at, now, hang.grace.unwrap_or_default(), frozen);
                self.kill_unless(left)
            }
            // A call that begins right after this check is not overdue before that.
            (WatchdogState::Watched, None) => WatchdogVerdict::Wait(hang.limit),
            (WatchdogState::Watched, Some(since)) => match (left(since, now, hang.limit, frozen), hang.grace)
            {
                (Duration::ZERO, Some(_)) => {
                    *self = WatchdogState::Terminating(now);
                    WatchdogVerdict::Terminate
                }
                (left, _) => self.kill_unless(left),
            },
        }
    }

    /// Returns whether this watchdog has killed the worker or sent it SIGTERM.
    pub(super) fn has_acted(self) -> bool {
        self != WatchdogState::Watched
    }

    fn kill_unless(&mut self, left: Duration) -> WatchdogVerdict {
        if left.is_zero() {
            *self = WatchdogState::Killed;
            WatchdogVerdict::Kill
        } else {
            WatchdogVerdict::Wait(left)
        }
    }
}

/// Returns what is left of a time span that began at `since`, without the time that was frozen.
fn left(since: u32, now: u32, whole: Duration, frozen: impl Fn(Duration) -> Duration) -> Duration {
    let ran = now.wrapping_sub(since);
    // A start time in the future is nonsense that the worker has written; it counts as just now.
    let ran = if ran > u32::MAX / 2 { 0 } else { ran };
    let ran = Duration::from_millis(u64::from(ran));
    whole.saturating_sub(ran.saturating_sub(frozen(ran)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const RAN: fn(Duration) -> Duration = |_| Duration::ZERO;
    const HARD: HangLimit = HangLimit { limit: SECOND, grace: None };
    const SOFT: HangLimit = HangLimit { limit: SECOND, grace: Some(Duration::from_millis(100)) };

    /// W11
    #[test]
    fn each_call_has_its_own_time_and_its_worker_is_killed_at_its_end() {
        let mut watchdog = WatchdogState::default();
        let millis = Duration::from_millis;
        let checks = [
            (None, 0, WatchdogVerdict::Wait(SECOND)),
            (Some(10), 10, WatchdogVerdict::Wait(SECOND)),
            (Some(10), 510, WatchdogVerdict::Wait(millis(500))),
            // Another call has begun.
            (Some(1000), 1010, WatchdogVerdict::Wait(millis(990))),
            (None, 1500, WatchdogVerdict::Wait(SECOND)),
            (Some(1900), 2899, WatchdogVerdict::Wait(millis(1))),
            (Some(1900), 2900, WatchdogVerdict::Kill),
            (Some(1900), 2901, WatchdogVerdict::Done),
        ];
        for (since, now, verdict) in checks {
            assert_eq!(watchdog.check(since, now, HARD, RAN), verdict, "at {now}");
        }
    }

    /// T8
    #[test]
    fn with_a_grace_a_worker_gets_sigterm_first() {
        let mut watchdog = WatchdogState::default();
        assert_eq!(watchdog.check(Some(1), 1001, SOFT, RAN), WatchdogVerdict::Terminate);
        assert!(watchdog.has_acted());
        assert_eq!(
            watchdog.check(Some(1), 1051, SOFT, RAN),
            WatchdogVerdict::Wait(Duration::from_millis(50))
        );
        // After SIGTERM the worker's status page is ignored.
        assert_eq!(watchdog.check(None, 1101, SOFT, RAN), WatchdogVerdict::Kill);
    }

    /// W11, S9
    #[test]
    fn a_limit_that_is_next_to_nothing_does_not_keep_the_server_busy() {
        let nothing = HangLimit { limit: Duration::from_nanos(1), grace: Some(Duration::from_nanos(1)) };
        let wait = match WatchdogState::default().check(None, 0, nothing, RAN) {
            WatchdogVerdict::Wait(wait) => wait,
            other => panic!("{other:?}"),
        };
        assert_eq!(next_check([SECOND, wait].into_iter()), Some(Duration::from_millis(10)));
        assert_eq!(next_check([SECOND].into_iter()), Some(SECOND));
        assert_eq!(next_check(std::iter::empty()), None);
        assert_eq!(WatchdogState::default().check(Some(5), 5, HARD, RAN), WatchdogVerdict::Wait(SECOND));
        assert_eq!(WatchdogState::default().check(Some(5), 6, nothing, RAN), WatchdogVerdict::Terminate);
    }

    /// G10
    #[test]
    fn time_in_which_the_server_was_frozen_counts_neither_as_a_hang_nor_as_grace() {
        let (mut watchdog, millis) = (WatchdogState::default(), Duration::from_millis);
        let frozen = |_| millis(10_000);
        assert_eq!(watchdog.check(Some(1), 10_501, SOFT, frozen), WatchdogVerdict::Wait(millis(500)));
        assert_eq!(watchdog.check(Some(1), 11_001, SOFT, frozen), WatchdogVerdict::Terminate);
        assert_eq!(watchdog.check(Some(1), 21_051, SOFT, frozen), WatchdogVerdict::Wait(millis(50)));
        assert_eq!(watchdog.check(Some(1), 21_101, SOFT, frozen), WatchdogVerdict::Kill);
        assert_eq!(SOFT.longest_wait(), millis(125));
        assert_eq!(HangLimit { limit: 300 * SECOND, grace: None }.longest_wait(), SECOND);
    }

    /// G5
    #[test]
    fn a_worker_that_was_killed_and_has_not_ended_is_killed_again_every_second() {
        let mut killing = Killing::default();
        assert_eq!(killing.check(7), None);
        killing.begin(u32::MAX - 200);
        assert_eq!(killing.check(u32::MAX - 200), Some(SECOND));
        assert_eq!(killing.check(99), Some(Duration::from_millis(700)));
        assert_eq!(killing.check(799), Some(Duration::ZERO));
        killing.begin(800);
        assert_eq!(killing.check(800), Some(SECOND));
    }

    #[test]
    fn a_wrapping_clock_and_an_impossible_start_time_do_not_count_as_a_hang() {
        let mut watchdog = WatchdogState::default();
        let since = u32::MAX - 100;
        assert_eq!(
            watchdog.check(Some(since), 99, HARD, RAN),
            WatchdogVerdict::Wait(Duration::from_millis(800))
        );
        assert_eq!(watchdog.check(Some(5000), 4000, HARD, RAN), WatchdogVerdict::Wait(SECOND));
        assert_eq!(watchdog.check(Some(since), 899, HARD, RAN), WatchdogVerdict::Kill);
    }
}
