//! Which calls have ended workers again and again, and are refused for a while. The clock is an argument.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Calls that are remembered, at most: those that ended a worker longest ago are forgotten first.
const MOST_CALLS: usize = 10_000;

/// The ends of workers that each call was the reason of, within a window.
pub(crate) struct Quarantine {
    most: usize,
    window: Duration,
    kills: HashMap<u64, VecDeque<Instant>>,
}

impl Quarantine {
    /// Refuses a call that has ended `most` workers within the window.
    pub(crate) fn new(most: u32, window: Duration) -> Self {
        Quarantine { most: most as usize, window, kills: HashMap::new() }
    }

    /// A call has ended a worker.
    pub(crate) fn killed(&mut self, call: u64, now: Instant) {
        if self.kills.len() >= MOST_CALLS {
            self.forget(now);
        }
        let kills = self.kills.entry(call).or_default();
        kills.push_back(now);
        // No more than these decide anything.
        while kills.len() > self.most {
            kills.pop_front();
        }
    }

    /// How long this call is still refused, if it is.
    pub(crate) fn refuses(&self, call: u64, now: Instant) -> Option<Duration> {
        let kills = self.kills.get(&call).filter(|kills| kills.len() >= self.most)?;
        let (first, last) = (kills.front()?, kills.back()?);
        let close = last.duration_since(*first) <= self.window;
        let left = self.window.saturating_sub(now.duration_since(*last));
        (close && !left.is_zero()).then_some(left)
    }

    /// Drops what decides nothing any more, and beyond that whatever is oldest.
    fn forget(&mut self, now: Instant) {
        let window = self.window;
        let recent =
            |kills: &VecDeque<Instant>| kills.back().is_some_and(|last| now.duration_since(*last) < window);
        self.kills.retain(|_, kills| recent(kills));
        let oldest = self.kills.iter().filter_map(|(call, kills)| Some((*kills.back()?, *call))).min();
        if let Some((_, oldest)) = oldest.filter(|_| self.kills.len() >= MOST_CALLS) {
            self.kills.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    /// E9
    #[test]
    fn a_call_is_refused_after_its_kills_and_taken_again_after_the_window() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut quarantine = Quarantine::new(2, WINDOW);
        quarantine.killed(1, at(0));
        assert_eq!(quarantine.refuses(1, at(0)), None, "once is no habit");
        quarantine.killed(1, at(4));
        assert_eq!(quarantine.refuses(1, at(4)), Some(WINDOW));
        assert_eq!(quarantine.refuses(1, at(13)), Some(Duration::from_secs(1)));
        assert_eq!(quarantine.refuses(2, at(5)), None, "another call");
        assert_eq!(quarantine.refuses(1, at(14)), None);
        quarantine.killed(1, at(15));
        assert_eq!(quarantine.refuses(1, at(15)), None, "the one before is too long ago");
        quarantine.killed(1, at(16));
        assert_eq!(quarantine.refuses(1, at(16)), Some(WINDOW));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let start = Instant::now();
        let mut quarantine = Quarantine::new(1, WINDOW);
        for call in 0..2 * MOST_CALLS as u64 {
            quarantine.killed(call, start + Duration::from_nanos(call));
        }
        assert!(quarantine.kills.len() <= MOST_CALLS);
        let last = 2 * MOST_CALLS as u64 - 1;
        assert!(quarantine.refuses(last, start + Duration::from_nanos(last)).is_some());
    }
}
