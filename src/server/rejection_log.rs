//! What a server tells its log of whoever troubles it: at most so much, since trouble comes in floods.

use std::time::{Duration, Instant};

/// Notices within a second; those beyond are counted.
const PER_SECOND: u32 = 10;

/// What a server has told of late.
pub(super) struct RejectionLog {
    until: Instant,
    left: u32,
    left_out: u64,
    /// Whoever was turned away since the start.
    turned_away: u64,
}

impl RejectionLog {
    pub(super) fn new(now: Instant) -> Self {
        RejectionLog { until: now, left: 0, left_out: 0, turned_away: 0 }
    }

    /// Somebody was not let in.
    pub(super) fn turned_away(&mut self, why: &str, now: Instant) {
        self.turned_away += 1;
        if self.may_tell(now) {
            tracing::warn!(target: "forkpool::server", why, "turned away");
        }
    }

    /// How many were not let in.
    pub(super) fn count(&self) -> u64 {
        self.turned_away
    }

    /// When there is something to be told that was left out.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        (self.left_out > 0).then(|| self.until.saturating_duration_since(now))
    }

    /// Tells how much was left out, once a second.
    pub(super) fn sum_up(&mut self, now: Instant) {
        if now >= self.until && self.left_out > 0 {
            tracing::warn!(target: "forkpool::server", count = self.left_out, "more were turned away");
            self.left_out = 0;
        }
    }

    fn may_tell(&mut self, now: Instant) -> bool {
        if now >= self.until {
            self.sum_up(now);
            self.until = now + Duration::from_secs(1);
            self.left = PER_SECOND;
        }
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => self.left_out += 1,
        }
        self.left_out == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_in_part_and_summed_up_a_second_later() {
        let mut now = Instant::now();
        let mut rejections = RejectionLog::new(now);
        let told = (0..1000).filter(|_| rejections.may_tell(now)).count();
        assert_eq!(told, PER_SECOND as usize);
        assert_eq!(rejections.left_out, 1000 - u64::from(PER_SECOND));
        now += Duration::from_secs(1);
        assert_eq!(rejections.next(now), Some(Duration::ZERO));
        rejections.sum_up(now);
        assert_eq!(rejections.next(now), None);
        assert!(rejections.may_tell(now));
    }
}
