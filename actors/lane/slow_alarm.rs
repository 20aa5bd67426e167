//! When a lane looks for slow calls that nothing else makes it look for.
//!
//! A call becomes slow while nothing happens on the lane's thread, so an alarm has to wake it. But most calls are answered
//! long before, and setting an alarm costs as much as some calls, on a virtual machine about ten microseconds. So an
//! alarm that is set is left to fire, and while alarms fire in vain, later ones are set for later.

use std::task::Context;
use std::time::Duration;

use super::state::FRESH;
use crate::actors::threads::alarm::Alarm;
use crate::clock::Instant;

/// Most that a slow call is noticed late (150 µs), where calls that were not slow kept the lane busy before.
const MAX_LATE: Duration = Duration::from_micros(150);

/// The alarm of a lane, and for when it is set.
#[derive(Default)]
pub(super) struct SlowAlarm {
    alarm: Alarm,
    pace: Pace,
}

impl SlowAlarm {
    /// Has the task woken when a call becomes slow, which is at `slow_at` unless it is answered, or a little later. Returns
    /// `false` if that cannot be done.
    pub(super) fn wake_at(&mut self, slow_at: Instant, now: Instant, cx: &mut Context<'_>) -> bool {
        let SlowAlarm { alarm, pace } = self;
        pace.wake_at(slow_at, now, |at| alarm.wake_at(at, now, cx))
    }

    /// Notes that calls stand behind a slow one: the next one is not to be noticed late.
    pub(super) fn note_slow(&mut self) {
        self.pace = Pace::default();
    }
}

/// Decides for when the alarm is set.
#[derive(Default)]
struct Pace {
    due: Option<Instant>,
    /// How much later than asked for the alarm was set last.
    late: Duration,
}

impl Pace {
    /// Sets the alarm unless it is set; returns whether it is. One that could not be set is not waited for.
    fn wake_at(&mut self, slow_at: Instant, now: Instant, set: impl FnOnce(Instant) -> bool) -> bool {
        if let Some(due) = self.due {
            if now < due {
                return true;
            }
            // It fired in vain just now, and the calls go on.
            let goes_on = now < due + FRESH;
            self.late = if goes_on { (self.late * 2 + FRESH).min(MAX_LATE) } else { Duration::ZERO };
        }
        let at = slow_at + self.late;
        let is_set = set(at);
        self.due = is_set.then_some(at);
        is_set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROS: fn(u64) -> Duration = Duration::from_micros;

    impl Pace {
        /// Returns for when the alarm is to be set; `None` if it is set.
        fn set_for(&mut self, slow_at: Instant, now: Instant) -> Option<Instant> {
            let mut set_for = None;
            assert!(self.wake_at(slow_at, now, |at| set_for.replace(at).is_none()));
            set_for
        }
    }

    #[test]
    fn an_alarm_that_is_set_is_left_to_fire() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.set_for(now + FRESH, now), Some(now + FRESH));
        assert_eq!(pace.set_for(now + FRESH + MICROS(20), now + MICROS(20)), None);
        assert_eq!(pace.set_for(now + FRESH, now + FRESH - MICROS(1)), None);
    }

    #[test]
    fn an_alarm_that_cannot_be_set_is_tried_again_at_the_next_look() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        now = pace.set_for(now + FRESH, now).expect("none is set");
        assert!(!pace.wake_at(now + FRESH, now, |_| false));
        assert!(!pace.wake_at(now + FRESH, now + MICROS(1), |_| false), "nothing else wakes the task");
        assert!(pace.set_for(now + FRESH, now + MICROS(2)).is_some());
    }

    #[test]
    fn while_alarms_fire_in_vain_they_become_rarer_up_to_a_bound() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..4 {
            let at = pace.set_for(now + FRESH, now).expect("it has fired");
            waits.push(at.saturating_duration_since(now));
            now = at + MICROS(5);
        }
        assert_eq!(waits, [FRESH, FRESH * 2, FRESH + MAX_LATE, FRESH + MAX_LATE]);
    }

    #[test]
    fn behind_a_pause_or_a_slow_call_the_next_one_is_noticed_at_once() {
        for is_slow in [false, true] {
            let mut alarm = SlowAlarm::default();
            let mut now = Instant::now();
            for _ in 0..3 {
                now = alarm.pace.set_for(now + FRESH, now).expect("it has fired");
            }
            match is_slow {
                true => alarm.note_slow(),
                false => now += FRESH,
            }
            assert_eq!(alarm.pace.set_for(now + FRESH, now), Some(now + FRESH));
        }
    }
}
