//! When a worker that hangs is to be asked to end, and when it is killed. The clock is an argument.

use std::time::Duration;

/// What is to be done to one worker now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WatchdogVerdict {
    /// Nothing, for so long at least.
    Wait(Duration),
    Terminate,
    Kill,
    /// Nothing any more: it was killed.
    Done,
}

/// How long one call may run, and how long a worker may take to end once it was asked to.
#[derive(Clone, Copy, Debug)]
pub(super) struct HangLimit {
    pub(super) limit: Duration,
    pub(super) grace: Option<Duration>,
}

/// Where one worker stands with its guard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum WatchdogState {
    #[default]
    Watched,
    /// Asked to end at this time.
    Asked(u32),
    Killed,
}

impl WatchdogState {
    /// Looks at a worker whose code has been running `since`, both on a clock of milliseconds modulo 2³².
    pub(super) fn look(&mut self, since: Option<u32>, now: u32, patience: HangLimit) -> WatchdogVerdict {
        match (*self, since) {
            (WatchdogState::Killed, _) => WatchdogVerdict::Done,
            (WatchdogState::Asked(at), _) => {
                let left = left(at, now, patience.grace.unwrap_or_default());
                self.kill_unless(left)
            }
            // One whose call begins right after this look is not overdue before that.
            (WatchdogState::Watched, None) => WatchdogVerdict::Wait(patience.limit),
            (WatchdogState::Watched, Some(since)) => match (left(since, now, patience.limit), patience.grace)
            {
                (Duration::ZERO, Some(_)) => {
                    *self = WatchdogState::Asked(now);
                    WatchdogVerdict::Terminate
                }
                (left, _) => self.kill_unless(left),
            },
        }
    }

    /// Whether this guard has ended the worker, or begun to.
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

/// What is left of a time that began `since`.
fn left(since: u32, now: u32, whole: Duration) -> Duration {
    let ran = now.wrapping_sub(since);
    // A worker that writes nonsense where it notes the time has begun just now, as far as we know.
    let ran = if ran > u32::MAX / 2 { 0 } else { ran };
    whole.saturating_sub(Duration::from_millis(u64::from(ran)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HARD: HangLimit = HangLimit { limit: SECOND, grace: None };
    const SOFT: HangLimit = HangLimit { limit: SECOND, grace: Some(Duration::from_millis(100)) };

    /// W11
    #[test]
    fn each_call_has_its_own_time_and_its_worker_is_killed_at_its_end() {
        let mut standing = WatchdogState::default();
        let millis = Duration::from_millis;
        let looks = [
            (None, 0, WatchdogVerdict::Wait(SECOND)),
            (Some(10), 10, WatchdogVerdict::Wait(SECOND)),
            (Some(10), 510, WatchdogVerdict::Wait(millis(500))),
            // Another call by now.
            (Some(1000), 1010, WatchdogVerdict::Wait(millis(990))),
            (None, 1500, WatchdogVerdict::Wait(SECOND)),
            (Some(1900), 2899, WatchdogVerdict::Wait(millis(1))),
            (Some(1900), 2900, WatchdogVerdict::Kill),
            (Some(1900), 2901, WatchdogVerdict::Done),
        ];
        for (since, now, verdict) in looks {
            assert_eq!(standing.look(since, now, HARD), verdict, "at {now}");
        }
    }

    /// T8
    #[test]
    fn with_a_grace_a_worker_is_asked_first() {
        let mut standing = WatchdogState::default();
        assert_eq!(standing.look(Some(1), 1001, SOFT), WatchdogVerdict::Terminate);
        assert!(standing.has_acted());
        assert_eq!(standing.look(Some(1), 1051, SOFT), WatchdogVerdict::Wait(Duration::from_millis(50)));
        // It does not matter what it says it is doing by now.
        assert_eq!(standing.look(None, 1101, SOFT), WatchdogVerdict::Kill);
    }

    #[test]
    fn a_clock_that_wraps_and_a_time_that_cannot_be_are_no_hang() {
        let mut standing = WatchdogState::default();
        let since = u32::MAX - 100;
        assert_eq!(standing.look(Some(since), 99, HARD), WatchdogVerdict::Wait(Duration::from_millis(800)));
        assert_eq!(standing.look(Some(5000), 4000, HARD), WatchdogVerdict::Wait(SECOND));
        assert_eq!(standing.look(Some(since), 899, HARD), WatchdogVerdict::Kill);
    }
}
