//! Whether an end that waits looks again or sleeps.
//!
//! To sleep and be woken costs both ends far more than a short wait does, and to look again and again costs the
//! processor to whoever else wants it. So an end spins where its waits have usually turned out to be shorter than
//! its limit, never longer than that, and for a while not at all after somebody else has had its processor.

use std::time::{Duration, Instant};

/// Time between two looks from which on it is asked whether somebody else has had the processor: about what it costs to
/// sleep and be woken. Who has it for less may have it in between.
const SUSPICIOUS: Duration = Duration::from_micros(8);

/// Time between two looks that is taken for an interruption where nothing more is known.
#[cfg(any(feature = "actors", test))]
const INTERRUPTED: Duration = Duration::from_micros(50);

/// Waits that are not spun for after an interruption; each that follows soon doubles it, and so many spins in a row that
/// find something halve it.
const SHORTEST_PAUSE: u32 = 1;
const LONGEST_PAUSE: u32 = 8192;
const CALM: u32 = 16;

/// Where waits are long, one of so many is spun for to see whether they still are.
const PROBE: u32 = 32;

/// Waits of a new end until the first that is spun for.
const FIRST_PROBE: u32 = 1;

/// What a spin adds to the luck that finds something, and what one takes from it that does not: it is worth its
/// while where more than two of three find something, and one that does brings it back after a long wait.
const FOUND: u32 = 2;
const VAIN: u32 = 4;
const ENOUGH: u32 = 2;
const BEST: u32 = 10;

/// How an end waits, learned from its waits.
pub(crate) struct AdaptiveSpin {
    limit: Duration,
    /// How well the last spins went, from 0 to [`BEST`].
    luck: u32,
    /// Waits until the next probe.
    until_probe: u32,
    pause: u32,
    next_pause: u32,
    /// Spins in a row that have found something.
    found: u32,
    wait: Wait,
}

/// The wait at hand.
#[derive(Clone, Copy)]
enum Wait {
    None,
    Spun {
        since: Instant,
        last: Instant,
    },
    /// It is slept through.
    Slept,
}

impl AdaptiveSpin {
    /// Spins for at most `limit`, once waits have turned out to be short enough.
    pub(crate) fn new(limit: Duration) -> Self {
        AdaptiveSpin {
            limit,
            luck: 0,
            until_probe: FIRST_PROBE,
            pause: 0,
            next_pause: SHORTEST_PAUSE,
            found: 0,
            wait: Wait::None,
        }
    }

    /// Whether to look again, for an end that has just looked in vain; once `false`, until the wait is over.
    #[cfg(any(feature = "actors", test))]
    pub(crate) fn goes_on(&mut self, now: Instant) -> bool {
        self.goes_on_unless(now, |gone| gone > INTERRUPTED)
    }

    /// As [`goes_on`](Self::goes_on), for an end that can tell whether somebody else has had its processor while so much
    /// time has gone; it is asked only where that is much for a look.
    pub(crate) fn goes_on_unless(
        &mut self,
        now: Instant,
        interrupted: impl FnOnce(Duration) -> bool,
    ) -> bool {
        self.wait = match self.wait {
            Wait::None => match self.is_worth_it() {
                true => Wait::Spun { since: now, last: now },
                false => Wait::Slept,
            },
            Wait::Slept => Wait::Slept,
            Wait::Spun { last, .. } if was_interrupted(now.saturating_duration_since(last), interrupted) => {
                self.pause = self.next_pause;
                self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
                self.found = 0;
                Wait::Slept
            }
            Wait::Spun { since, .. } if now.saturating_duration_since(since) > self.limit => {
                self.luck = self.luck.saturating_sub(VAIN);
                Wait::Slept
            }
            Wait::Spun { since, .. } => Wait::Spun { since, last: now },
        };
        matches!(self.wait, Wait::Spun { .. })
    }

    /// What is waited for is something else from now on.
    #[cfg(feature = "actors")]
    pub(crate) fn begins_anew(&mut self) {
        self.wait = Wait::None;
    }

    /// What was waited for has come.
    pub(crate) fn is_over(&mut self) {
        if let Wait::Spun { .. } = std::mem::replace(&mut self.wait, Wait::None) {
            self.luck = (self.luck + FOUND).min(BEST);
            self.found += 1;
            if self.found == CALM {
                self.found = 0;
                self.next_pause = (self.next_pause / 2).max(SHORTEST_PAUSE);
            }
        }
    }

    fn is_worth_it(&mut self) -> bool {
        if self.pause > 0 {
            self.pause -= 1;
            return false;
        }
        if self.luck >= ENOUGH {
            return true;
        }
        self.until_probe -= 1;
        if self.until_probe == 0 {
            self.until_probe = PROBE;
        }
        self.until_probe == PROBE
    }
}

fn was_interrupted(gone: Duration, interrupted: impl FnOnce(Duration) -> bool) -> bool {
    gone > SUSPICIOUS && interrupted(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(100);

    /// One wait that ends after so long; whether it was spun for to its end.
    fn wait(spin: &mut AdaptiveSpin, now: &mut Instant, took: Duration) -> bool {
        let until = *now + took;
        let mut spun = true;
        while *now < until {
            spun &= spin.goes_on(*now);
            *now += Duration::from_micros(10);
        }
        spin.is_over();
        spun
    }

    fn waits(spin: &mut AdaptiveSpin, now: &mut Instant, count: usize, took: Duration) -> usize {
        (0..count).filter(|_| wait(spin, now, took)).count()
    }

    const SHORT: Duration = Duration::from_micros(20);
    const LONG: Duration = Duration::from_millis(1);

    #[test]
    fn short_waits_are_spun_for_and_long_ones_are_slept_through() {
        let (mut spin, mut now) = (AdaptiveSpin::new(LIMIT), Instant::now());
        assert_eq!(waits(&mut spin, &mut now, 100, SHORT), 100 - (FIRST_PROBE as usize - 1));
        assert_eq!(waits(&mut spin, &mut now, 100, LONG), 0);
        let found = waits(&mut spin, &mut now, 100, SHORT);
        assert!((100 - PROBE as usize..100).contains(&found), "it had become used to long ones: {found}");
    }

    #[test]
    fn where_most_waits_are_long_few_are_spun_for() {
        let (mut spin, mut now) = (AdaptiveSpin::new(LIMIT), Instant::now());
        let mut spent = Duration::ZERO;
        for round in 0..1000 {
            let began = now;
            let took = if round % 2 == 0 { SHORT } else { LONG };
            while now - began < took && spin.goes_on(now) {
                now += Duration::from_micros(10);
            }
            spent += now - began;
            now = began + took;
            spin.is_over();
        }
        assert!(spent < LIMIT * 1000 / 10, "{spent:?}");
    }

    #[test]
    fn no_spin_is_longer_than_the_limit() {
        let (mut spin, mut now) = (AdaptiveSpin::new(LIMIT), Instant::now());
        waits(&mut spin, &mut now, 200, SHORT);
        let began = now;
        while spin.goes_on(now) {
            now += Duration::from_micros(10);
        }
        assert!(now - began <= LIMIT + Duration::from_micros(10));
        assert!(!spin.goes_on(now), "it sleeps until the wait is over");
    }

    #[test]
    fn one_interruption_costs_one_wait_and_one_that_was_none_costs_nothing() {
        let (mut spin, mut now) = (AdaptiveSpin::new(LIMIT), Instant::now());
        waits(&mut spin, &mut now, 200, SHORT);
        for (somebody_ran, expected) in [(false, 10), (true, 9)] {
            assert!(spin.goes_on(now));
            now += SUSPICIOUS * 2;
            assert_eq!(spin.goes_on_unless(now, |_| somebody_ran), !somebody_ran);
            spin.is_over();
            assert_eq!(waits(&mut spin, &mut now, 10, SHORT), expected);
            assert!(spin.goes_on(now));
            now += SUSPICIOUS / 2;
            assert!(spin.goes_on_unless(now, |_| true), "it is not even asked");
            spin.is_over();
        }
    }

    #[test]
    fn who_was_interrupted_makes_room_for_longer_each_time() {
        let (mut spin, mut now) = (AdaptiveSpin::new(LIMIT), Instant::now());
        waits(&mut spin, &mut now, 200, SHORT);
        for pause in [64, 128] {
            spin.next_pause = pause;
            assert!(spin.goes_on(now));
            now += INTERRUPTED * 2;
            assert!(!spin.goes_on(now), "somebody else ran here");
            spin.is_over();
            assert_eq!(spin.next_pause, pause * 2);
            assert_eq!(waits(&mut spin, &mut now, pause as usize, SHORT), 0);
            assert_eq!(waits(&mut spin, &mut now, 1, SHORT), 1);
        }
    }
}
