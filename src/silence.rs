//! How long the peer at the other end of a control connection has been silent. The clock is an argument.

use std::time::Duration;

use crate::clock::Instant;

/// Longest time between two looks (1 s); the application sends a ping at each.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Looks within the time after which a peer is taken for dead, at least.
const LOOKS: u32 = 3;

/// The silence of one peer, counted in looks.
///
/// A look that comes late counts as one, however late it is: a process that was stopped, paused or busy has heard nothing
/// meanwhile, and its peer is not to blame.
#[derive(Debug)]
pub(crate) struct Silence {
    limit: Duration,
    looked: Instant,
    lasted: Duration,
}

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is not time for it yet: look again after this time.
    Early(Duration),
    /// The peer may be alive.
    Alive,
    /// The peer has been silent for as long as its limit.
    Dead,
}

impl Silence {
    /// Begins to count for a peer that is taken for dead after `limit`.
    pub(crate) fn new(limit: Duration, now: Instant) -> Self {
        Silence { limit, looked: now, lasted: Duration::ZERO }
    }

    /// Notes that something of the peer has arrived.
    pub(crate) fn end(&mut self) {
        self.lasted = Duration::ZERO;
    }

    /// Looks whether the peer is silent. What has arrived has to be read before.
    pub(crate) fn look(&mut self, now: Instant) -> Look {
        let every = self.every();
        let passed = now.saturating_duration_since(self.looked);
        if passed < every {
            return Look::Early(every - passed);
        }
        self.looked = now;
        self.lasted = self.lasted.saturating_add(every);
        if self.lasted >= self.limit { Look::Dead } else { Look::Alive }
    }

    /// Returns how long until the next look.
    pub(crate) fn next(&self, now: Instant) -> Duration {
        self.every().saturating_sub(now.saturating_duration_since(self.looked))
    }

    fn every(&self) -> Duration {
        (self.limit / LOOKS).min(LONGEST_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// G10
    #[test]
    fn a_peer_is_dead_after_its_limit_without_a_sign_of_life() {
        let start = Instant::now();
        let mut silence = Silence::new(3 * SECOND, start);
        assert_eq!(silence.look(start + SECOND / 2), Look::Early(SECOND / 2));
        assert_eq!(silence.look(start + SECOND), Look::Alive);
        assert_eq!(silence.look(start + 2 * SECOND), Look::Alive);
        silence.end();
        assert_eq!(silence.look(start + 3 * SECOND), Look::Alive);
        assert_eq!(silence.next(start + 3 * SECOND), SECOND);
        assert_eq!(silence.look(start + 4 * SECOND), Look::Alive);
        assert_eq!(silence.look(start + 5 * SECOND), Look::Dead);
    }

    /// G10: an end that did not look, because it was frozen or busy, has not found its peer silent.
    #[test]
    fn a_late_look_counts_as_one() {
        let start = Instant::now();
        let mut silence = Silence::new(3 * SECOND, start);
        assert_eq!(silence.look(start + 100 * SECOND), Look::Alive);
        assert_eq!(silence.look(start + 200 * SECOND), Look::Alive);
        assert_eq!(silence.look(start + 201 * SECOND), Look::Dead);
    }

    /// G10: a short limit is looked at more often.
    #[test]
    fn a_short_limit_has_as_many_looks() {
        let start = Instant::now();
        let mut silence = Silence::new(Duration::from_millis(300), start);
        assert_eq!(silence.next(start), Duration::from_millis(100));
        let looks: Vec<Look> =
            (1..=3).map(|at| silence.look(start + Duration::from_millis(100) * at)).collect();
        assert_eq!(looks, [Look::Alive, Look::Alive, Look::Dead]);
    }
}
