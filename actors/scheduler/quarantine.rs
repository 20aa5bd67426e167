//! Refuses calls for a while that have killed workers repeatedly. The clock is an argument.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::clock::Instant;

/// Calls that are remembered at once. Beyond that, the call whose last kill is longest ago is forgotten.
const MAX_CALLS: usize = 10_000;

/// The times at which each call killed a worker.
pub(crate) struct Quarantine {
    max_kills: usize,
    window: Duration,
    kills: HashMap<u64, VecDeque<Instant>>,
}

impl Quarantine {
    /// Returns a quarantine that refuses calls which have killed `max_kills` workers within `window`.
    pub(crate) fn new(max_kills: u32, window: Duration) -> Self {
        Quarantine { max_kills: max_kills as usize, window, kills: HashMap::new() }
    }

    /// Records that a call has killed a worker. Returns whether the call is refused from now on.
    pub(crate) fn record_kill(&mut self, call: u64, now: Instant) -> bool {
        if self.kills.len() >= MAX_CALLS {
            self.evict(now);
        }
        let kills = self.kills.entry(call).or_default();
        kills.push_back(now);
        // Older kills do not influence the decision.
        while kills.len() > self.max_kills {
            kills.pop_front();
        }
        self.refused_for(call, now).is_some()
    }

    /// Returns how long this call is still refused, or `None` if it may run.
    pub(crate) fn refused_for(&self, call: u64, now: Instant) -> Option<Duration> {
        let kills = self.kills.get(&call).filter(|kills| kills.len() >= self.max_kills)?;
        let (first, last) = (kills.front()?, kills.back()?);
        let within_window = last.saturating_duration_since(*first) <= self.window;
        let left = self.window.saturating_sub(now.saturating_duration_since(*last));
        (within_window && !left.is_zero()).then_some(left)
    }

    /// Removes calls whose last kill is outside the window, and if none is, the call with the oldest last kill.
    fn evict(&mut self, now: Instant) {
        let window = self.window;
        let recent = |kills: &VecDeque<Instant>| {
            kills.back().is_some_and(|last| now.saturating_duration_since(*last) < window)
        };
        self.kills.retain(|_, kills| recent(kills));
        let oldest = self.kills.iter().filter_map(|(call, kills)| Some((*kills.back()?, *call))).min();
        if let Some((_, oldest)) = oldest.filter(|_| self.kills.len() >= MAX_CALLS) {
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
    fn a_call_is_refused_after_its_kills_and_accepted_again_after_the_window() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut quarantine = Quarantine::new(2, WINDOW);
        assert!(!quarantine.record_kill(1, at(0)));
        assert_eq!(quarantine.refused_for(1, at(0)), None, "after one kill the call may run");
        assert!(quarantine.record_kill(1, at(4)));
        assert_eq!(quarantine.refused_for(1, at(4)), Some(WINDOW));
        assert_eq!(quarantine.refused_for(1, at(13)), Some(Duration::from_secs(1)));
        assert_eq!(quarantine.refused_for(2, at(5)), None, "another call");
        assert_eq!(quarantine.refused_for(1, at(14)), None);
        quarantine.record_kill(1, at(15));
        assert_eq!(quarantine.refused_for(1, at(15)), None, "the kill before is outside the window");
        quarantine.record_kill(1, at(16));
        assert_eq!(quarantine.refused_for(1, at(16)), Some(WINDOW));
    }

    #[test]
    fn the_number_of_remembered_calls_is_bounded() {
        let start = Instant::now();
        let mut quarantine = Quarantine::new(1, WINDOW);
        for call in 0..MAX_CALLS as u64 + 1000 {
            quarantine.record_kill(call, start + Duration::from_nanos(call));
        }
        assert!(quarantine.kills.len() <= MAX_CALLS);
        let last = MAX_CALLS as u64 + 999;
        assert!(quarantine.refused_for(last, start + Duration::from_nanos(last)).is_some());
    }
}
