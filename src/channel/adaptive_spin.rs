//! Decides whether a waiting end of a channel spins or sleeps.
//!
//! Sleeping and being woken costs both ends far more than a short wait; spinning takes the processor from other threads
//! that want it. So an end spins if its recent waits were mostly shorter than its limit, never longer than that limit,
//! and not at all for a while after another thread was given its processor.

use std::time::Duration;

use crate::clock::Instant;

/// Time between two looks from which on another thread may have been given the processor (100 µs). One that takes it for
/// less, such as another worker with some calls, may do so without consequence: it will not take less of it from an end
/// that sleeps, which then has to be woken as well.
const PREEMPTION_GAP: Duration = Duration::from_micros(100);

/// Waits without spinning after a preemption, at first and at most. Each further preemption that follows soon doubles
/// the number.
const MIN_PAUSE: u32 = 1;
const MAX_PAUSE: u32 = 8192;

/// Successful spins in a row that halve the next pause.
const HITS_TO_HALVE_PAUSE: u32 = 16;

/// While waits are long, one in this many is spun for, to find out whether they still are.
const PROBE_INTERVAL: u32 = 32;

/// Waits of a new end until the first one that is spun for.
const FIRST_PROBE: u32 = 1;

/// Points that a successful spin adds to the score and a failed one subtracts; an end spins while it has at least
/// `MIN_SCORE`. So spinning continues while more than two thirds of the spins succeed, and one success resumes it after
/// a long wait.
const HIT_SCORE: u32 = 2;
const MISS_SCORE: u32 = 4;
const MIN_SCORE: u32 = 2;
const MAX_SCORE: u32 = 10;

/// The waiting strategy of one end, learned from its waits.
pub(crate) struct AdaptiveSpin {
    /// Longest time spent spinning in one wait.
    limit: Duration,
    /// Success of the last spins, from 0 to [`MAX_SCORE`].
    score: u32,
    /// Waits until the next probe.
    until_probe: u32,
    /// Waits left in which this end does not spin because it was preempted.
    pause: u32,
    /// Length of the next such pause.
    next_pause: u32,
    /// Successful spins in a row.
    hits_in_a_row: u32,
    wait: Wait,
}

/// The current wait.
#[derive(Clone, Copy)]
enum Wait {
    None,
    /// This end spins, and has not read the clock yet.
    Begun,
    Spinning {
        since: Instant,
        last: Instant,
    },
    /// This end does not spin until the wait is over.
    Sleeping,
}

impl AdaptiveSpin {
    /// Creates a strategy that spins for at most `limit` per wait.
    pub(crate) fn new(limit: Duration) -> Self {
        AdaptiveSpin {
            limit,
            score: 0,
            until_probe: FIRST_PROBE,
            pause: 0,
            next_pause: MIN_PAUSE,
            hits_in_a_row: 0,
            wait: Wait::None,
        }
    }

    /// Begins a wait, unless one has begun; returns whether this end spins. It needs no clock, so an end can look some
    /// times before it reads the clock for [`try_spin`](Self::try_spin). These looks do not count as time spent.
    pub(crate) fn begin_wait(&mut self) -> bool {
        if let Wait::None = self.wait {
            self.wait = if self.decide_to_spin() { Wait::Begun } else { Wait::Sleeping };
        }
        !matches!(self.wait, Wait::Sleeping)
    }

    /// Returns whether to look again after a look found nothing. Once `false`, it stays so until the wait is over.
    ///
    /// A long gap between two looks counts as a preemption.
    #[cfg(any(feature = "actors", test))]
    pub(crate) fn try_spin(&mut self, now: Instant) -> bool {
        self.try_spin_unless(now, || true).is_some()
    }

    /// Like [`try_spin`](Self::try_spin), for an end that can find out whether another thread ran on its processor
    /// since the last look. `preempted` is called only if that is unusually long ago.
    ///
    /// Returns for how long this end has spun in this wait, or `None` if it is to sleep.
    pub(crate) fn try_spin_unless(
        &mut self,
        now: Instant,
        preempted: impl FnOnce() -> bool,
    ) -> Option<Duration> {
        self.begin_wait();
        self.wait = match self.wait {
            Wait::Begun => Wait::Spinning { since: now, last: now },
            Wait::None | Wait::Sleeping => Wait::Sleeping,
            Wait::Spinning { last, .. } if is_long(last, now) && preempted() => {
                self.pause();
                Wait::Sleeping
            }
            Wait::Spinning { since, .. } if now.saturating_duration_since(since) > self.limit => {
                self.score = self.score.saturating_sub(MISS_SCORE);
                Wait::Sleeping
            }
            Wait::Spinning { since, .. } => Wait::Spinning { since, last: now },
        };
        match self.wait {
            Wait::Spinning { since, .. } => Some(now.saturating_duration_since(since)),
            Wait::None | Wait::Begun | Wait::Sleeping => None,
        }
    }

    /// Ends the wait behind a look that was given up for another thread, because what was waited for has arrived meanwhile.
    ///
    /// If that thread had the processor for long, this is no successful spin: an end that had slept would have been
    /// woken, and would have been given the processor sooner than one that had used up its share of it.
    pub(crate) fn finish_wait_unless(&mut self, now: Instant, preempted: impl FnOnce() -> bool) {
        match self.wait {
            Wait::Spinning { last, .. } if is_long(last, now) && preempted() => {
                self.pause();
                self.wait = Wait::None;
            }
            _ => self.finish_wait(),
        }
    }

    /// Starts a new wait without judging the current one.
    #[cfg(feature = "actors")]
    pub(crate) fn restart_wait(&mut self) {
        self.wait = Wait::None;
    }

    /// Ends the wait because what was waited for has arrived.
    pub(crate) fn finish_wait(&mut self) {
        if let Wait::Begun | Wait::Spinning { .. } = std::mem::replace(&mut self.wait, Wait::None) {
            self.score = (self.score + HIT_SCORE).min(MAX_SCORE);
            self.hits_in_a_row += 1;
            if self.hits_in_a_row == HITS_TO_HALVE_PAUSE {
                self.hits_in_a_row = 0;
                self.next_pause = (self.next_pause / 2).max(MIN_PAUSE);
            }
        }
    }

    /// Stops spinning for some waits, because another thread was given the processor.
    fn pause(&mut self) {
        self.pause = self.next_pause;
        self.next_pause = (self.next_pause * 2).min(MAX_PAUSE);
        self.hits_in_a_row = 0;
    }

    /// Decides whether the wait that begins is spun for, and counts it.
    fn decide_to_spin(&mut self) -> bool {
        if self.pause > 0 {
            self.pause -= 1;
            return false;
        }
        if self.score >= MIN_SCORE {
            return true;
        }
        self.until_probe -= 1;
        if self.until_probe == 0 {
            self.until_probe = PROBE_INTERVAL;
        }
        self.until_probe == PROBE_INTERVAL
    }
}

/// Returns whether another thread may have had the processor since the last look.
fn is_long(last: Instant, now: Instant) -> bool {
    now.saturating_duration_since(last) > PREEMPTION_GAP
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(400);

    /// Simulates one wait of length `took`; returns whether it was spun for to its end.
    fn wait(spin: &mut AdaptiveSpin, now: &mut Instant, took: Duration) -> bool {
        let until = *now + took;
        let mut spun = true;
        while *now < until {
            spun &= spin.try_spin(*now);
            *now += Duration::from_micros(10);
        }
        spin.finish_wait();
        spun
    }

    fn waits(spin: &mut AdaptiveSpin, now: &mut Instant, count: usize, took: Duration) -> usize {
        (0..count).filter(|_| wait(spin, now, took)).count()
    }

    const SHORT: Duration = Duration::from_micros(20);
    const LONG: Duration = Duration::from_millis(4);

    #[test]
    fn short_waits_are_spun_for_and_long_ones_are_slept_through() {
        let (mut spin, mut now) = (AdaptiveSpin::new(LIMIT), Instant::now());
        assert_eq!(waits(&mut spin, &mut now, 100, SHORT), 100 - (FIRST_PROBE as usize - 1));
        assert_eq!(waits(&mut spin, &mut now, 100, LONG), 0);
        let found = waits(&mut spin, &mut now, 100, SHORT);
        assert!(
            (100 - PROBE_INTERVAL as usize..100).contains(&found),
            "long waits had become the rule: {found}"
        );
    }

    #[test]
    fn if_most_waits_are_long_few_are_spun_for() {
        let (mut spin, mut now) = (AdaptiveSpin::new(LIMIT), Instant::now());
        let mut spent = Duration::ZERO;
        for round in 0..1000 {
            let began = now;
            let took = if round % 2 == 0 { SHORT } else { LONG };
            while now - began < took && spin.try_spin(now) {
                now += Duration::from_micros(10);
            }
            spent += now - began;
            now = began + took;
            spin.finish_wait();
        }
        assert!(spent < LIMIT * 1000 / 10, "{spent:?}");
    }

    #[test]
    fn no_spin_is_longer_than_the_limit() {
        let (mut spin, mut now) = (AdaptiveSpin::new(LIMIT), Instant::now());
        waits(&mut spin, &mut now, 200, SHORT);
        let began = now;
        while spin.try_spin(now) {
            now += Duration::from_micros(10);
        }
        assert!(now - began <= LIMIT + Duration::from_micros(10));
        assert!(!spin.try_spin(now), "it sleeps until the wait is over");
    }

    #[test]
    fn a_preemption_costs_one_wait_and_a_gap_without_one_costs_nothing() {
        let (mut spin, mut now) = (AdaptiveSpin::new(LIMIT), Instant::now());
        waits(&mut spin, &mut now, 200, SHORT);
        for (was_preempted, expected) in [(false, 10), (true, 9)] {
            assert!(spin.try_spin(now));
            now += PREEMPTION_GAP * 2;
            assert_eq!(spin.try_spin_unless(now, || was_preempted).is_some(), !was_preempted);
            spin.finish_wait();
            assert_eq!(waits(&mut spin, &mut now, 10, SHORT), expected);
            assert!(spin.try_spin(now));
            now += PREEMPTION_GAP / 2;
            assert!(spin.try_spin_unless(now, || true).is_some(), "too short a gap to be checked");
            spin.finish_wait();
        }
    }

    #[test]
    fn a_preemption_counts_although_what_was_waited_for_has_come_meanwhile() {
        let (mut spin, mut now) = (AdaptiveSpin::new(LIMIT), Instant::now());
        waits(&mut spin, &mut now, 200, SHORT);
        for (gap, was_preempted, spun) in
            [(PREEMPTION_GAP * 2, true, 9), (PREEMPTION_GAP * 2, false, 10), (PREEMPTION_GAP / 2, true, 10)]
        {
            assert!(spin.try_spin(now));
            now += gap;
            spin.finish_wait_unless(now, || was_preempted);
            assert_eq!(waits(&mut spin, &mut now, 10, SHORT), spun, "{gap:?} {was_preempted}");
        }
    }

    #[test]
    fn each_preemption_makes_the_next_pause_longer() {
        let (mut spin, mut now) = (AdaptiveSpin::new(LIMIT), Instant::now());
        waits(&mut spin, &mut now, 200, SHORT);
        for pause in [64, 128] {
            spin.next_pause = pause;
            assert!(spin.try_spin(now));
            now += PREEMPTION_GAP * 2;
            assert!(!spin.try_spin(now), "another thread ran here");
            spin.finish_wait();
            assert_eq!(spin.next_pause, pause * 2);
            assert_eq!(waits(&mut spin, &mut now, pause as usize, SHORT), 0);
            assert_eq!(waits(&mut spin, &mut now, 1, SHORT), 1);
        }
    }
}
