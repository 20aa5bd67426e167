//! The time in which this process did not run, although it meant to: it was stopped, or its container was paused. Such
//! time counts against no limit. The clock is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;

/// Most spans that are kept. Beyond that the two oldest become one.
const MAX_SPANS: usize = 64;

/// When this process did not run, as a loop finds out that runs again and again.
#[derive(Debug)]
pub(crate) struct FrozenTime {
    /// When the loop last ran.
    ran: Instant,
    /// The beginning and the end of each span, the oldest first.
    spans: VecDeque<(Instant, Instant)>,
}

impl FrozenTime {
    pub(crate) fn new(now: Instant) -> Self {
        FrozenTime { ran: now, spans: VecDeque::new() }
    }

    /// Notes that the loop runs. `longest` is the longest time after which it was to run again: what it is later than
    /// that is frozen time.
    pub(crate) fn note_run(&mut self, now: Instant, longest: Duration) {
        let expected = self.ran.checked_add(longest);
        if let Some(expected) = expected.filter(|expected| *expected < now) {
            self.spans.push_back((expected, now));
            self.merge_oldest();
        }
        self.ran = now;
    }

    /// Returns how much of the time since `begin` was frozen.
    pub(crate) fn since(&self, begin: Instant) -> Duration {
        let within = |&(start, end): &(Instant, Instant)| end.saturating_duration_since(start.max(begin));
        self.spans.iter().map(within).sum()
    }

    /// Returns how much of the last `time` before `now` was frozen.
    pub(crate) fn within(&self, now: Instant, time: Duration) -> Duration {
        match now.checked_sub(time) {
            Some(begin) => self.since(begin),
            // The clock began later than that, so every span lies within.
            None => self.spans.iter().map(|(start, end)| end.saturating_duration_since(*start)).sum(),
        }
    }

    /// Keeps the number of spans bounded. The merged span ends as late as the second one and is as long as both.
    fn merge_oldest(&mut self) {
        if self.spans.len() <= MAX_SPANS {
            return;
        }
        if let (Some((start, end)), Some(second)) = (self.spans.pop_front(), self.spans.front_mut()) {
            second.0 = second.0.checked_sub(end.saturating_duration_since(start)).unwrap_or(start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// G10
    #[test]
    fn a_loop_that_runs_late_has_lost_the_rest_of_the_time() {
        let start = Instant::now();
        let mut frozen = FrozenTime::new(start);
        frozen.note_run(start + SECOND, SECOND);
        assert_eq!(frozen.since(start), Duration::ZERO, "it ran in time");
        frozen.note_run(start + 12 * SECOND, SECOND);
        assert_eq!(frozen.since(start), 10 * SECOND, "from 2 s to 12 s");
        assert_eq!(frozen.since(start + 7 * SECOND), 5 * SECOND, "of what began in between");
        assert_eq!(frozen.since(start + 12 * SECOND), Duration::ZERO, "of what began later");
        frozen.note_run(start + 20 * SECOND, 2 * SECOND);
        assert_eq!(frozen.since(start), 16 * SECOND);
        assert_eq!(frozen.within(start + 20 * SECOND, 3 * SECOND), 3 * SECOND);
        assert_eq!(frozen.within(start + 20 * SECOND, Duration::MAX), 16 * SECOND);
    }

    /// G10
    #[test]
    fn a_loop_that_may_sleep_for_ever_is_never_late() {
        let start = Instant::now();
        let mut frozen = FrozenTime::new(start);
        frozen.note_run(start + 1000 * SECOND, Duration::MAX);
        assert_eq!(frozen.since(start), Duration::ZERO);
    }

    /// G10: however often the process is frozen, the record is bounded, and no time is lost from it.
    #[test]
    fn many_freezes_are_kept_as_few() {
        let start = Instant::now();
        let mut frozen = FrozenTime::new(start);
        for round in 1..=1000 {
            frozen.note_run(start + 10 * round * SECOND, SECOND);
        }
        assert_eq!(frozen.since(start), 9000 * SECOND);
        assert_eq!(frozen.since(start + 9990 * SECOND), 9 * SECOND);
        assert!(frozen.spans.len() <= MAX_SPANS);
    }
}
