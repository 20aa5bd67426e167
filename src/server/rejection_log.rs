//! Rate-limited log of rejected peers, since peers may try again without a pause.

use crate::telling::log_event;
use std::time::Duration;

use crate::clock::Instant;

/// Log lines per second; further rejections are only counted.
const PER_SECOND: u32 = 10;

/// The rejections of the current second, and the count since the start.
pub(super) struct RejectionLog {
    window_end: Instant,
    permits: u32,
    omitted: u64,
    /// Peers rejected since the start of the server.
    rejected: u64,
}

impl RejectionLog {
    pub(super) fn new(now: Instant) -> Self {
        RejectionLog { window_end: now, permits: 0, omitted: 0, rejected: 0 }
    }

    /// Counts a rejected peer, and logs it unless the limit of this second is reached.
    pub(super) fn record(&mut self, reason: &str, now: Instant) {
        self.rejected += 1;
        if self.take_permit(now) {
            log_event!(warn, reason, "turned away");
        }
    }

    /// Returns how many peers were rejected since the start.
    pub(super) fn count(&self) -> u64 {
        self.rejected
    }

    /// Returns how long until omitted rejections are to be logged, if there are any.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        (self.omitted > 0).then(|| self.window_end.saturating_duration_since(now))
    }

    /// Logs the number of omitted rejections, once a second.
    pub(super) fn log_omitted(&mut self, now: Instant) {
        if now >= self.window_end && self.omitted > 0 {
            log_event!(warn, count = self.omitted, "more were turned away");
            self.omitted = 0;
        }
    }

    fn take_permit(&mut self, now: Instant) -> bool {
        if now >= self.window_end {
            self.log_omitted(now);
            self.window_end = now + Duration::from_secs(1);
            self.permits = PER_SECOND;
        }
        match self.permits.checked_sub(1) {
            Some(left) => self.permits = left,
            None => self.omitted += 1,
        }
        self.omitted == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_logged_in_part_and_counted_a_second_later() {
        let mut now = Instant::now();
        let mut rejections = RejectionLog::new(now);
        let logged = (0..1000).filter(|_| rejections.take_permit(now)).count();
        assert_eq!(logged, PER_SECOND as usize);
        assert_eq!(rejections.omitted, 1000 - u64::from(PER_SECOND));
        now += Duration::from_secs(1);
        assert_eq!(rejections.next(now), Some(Duration::ZERO));
        rejections.log_omitted(now);
        assert_eq!(rejections.next(now), None);
        assert!(rejections.take_permit(now));
    }
}
