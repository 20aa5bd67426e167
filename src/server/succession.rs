//! Which server replaces this one: one at a time. The clock is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use super::children::ClientId;
use crate::clock::Instant;
use crate::frozen_time::FrozenTime;

/// How long a successor that has the sockets may take until it is ready.
pub(super) const OFFER_TIMEOUT: Duration = Duration::from_secs(5);

/// Most servers that wait for their turn.
const MAX_WAITING: usize = 16;

/// How far a successor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No server replaces this one.
    Idle,
    /// It has the sockets. This server serves until it is ready.
    Offered { to: ClientId, since: Instant },
    /// This server accepts no more connections. The successor serves as soon as it knows.
    Committed { to: ClientId },
    /// The successor serves.
    Over,
}

/// The answer to a server that asks to replace this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It gets the sockets.
    Offer,
    /// It waits until this peer has replaced this server or has failed.
    Wait { behind: ClientId },
    /// It is refused, because this peer replaces this server.
    Refuse { behind: ClientId },
    /// Another server has replaced this one.
    Replaced,
}

/// What the end of a connection means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// It was not the successor.
    Other,
    /// The successor has failed before this server stopped accepting.
    Offered,
    /// The successor has failed before it served; this server accepts connections again.
    Committed,
}

/// The successor and the servers that wait to be the next.
#[derive(Debug)]
pub(super) struct Succession {
    stage: Stage,
    waiting: VecDeque<ClientId>,
}

impl Succession {
    pub(super) fn new() -> Self {
        Succession { stage: Stage::Idle, waiting: VecDeque::new() }
    }

    /// Decides on a server that asks to replace this one, and notes it.
    pub(super) fn request(&mut self, id: ClientId, waits: bool, now: Instant) -> Answer {
        match self.stage {
            Stage::Idle => {
                self.offer(id, now);
                Answer::Offer
            }
            Stage::Over => Answer::Replaced,
            Stage::Offered { to, .. } | Stage::Committed { to } => {
                if !waits || self.waiting.len() >= MAX_WAITING {
                    return Answer::Refuse { behind: to };
                }
                self.waiting.push_back(id);
                Answer::Wait { behind: to }
            }
        }
    }

    fn offer(&mut self, to: ClientId, now: Instant) {
        self.stage = Stage::Offered { to, since: now };
    }

    /// Notes that the successor is ready. Returns whether it may serve; this server accepts no more from then on.
    pub(super) fn commit(&mut self, id: ClientId) -> bool {
        let fits = matches!(self.stage, Stage::Offered { to, .. } if to == id);
        if fits {
            self.stage = Stage::Committed { to: id };
        }
        fits
    }

    /// Notes that the successor serves. Returns the servers that have waited, which are to connect to it; `None` if that
    /// peer was not told to.
    pub(super) fn finish(&mut self, id: ClientId) -> Option<VecDeque<ClientId>> {
        if self.stage != (Stage::Committed { to: id }) {
            return None;
        }
        self.stage = Stage::Over;
        Some(std::mem::take(&mut self.waiting))
    }

    /// Notes that a connection has ended.
    pub(super) fn remove(&mut self, id: ClientId) -> Lost {
        self.waiting.retain(|waiting| *waiting != id);
        let lost = match self.stage {
            Stage::Offered { to, .. } if to == id => Lost::Offered,
            Stage::Committed { to } if to == id => Lost::Committed,
            _ => return Lost::Other,
        };
        self.stage = Stage::Idle;
        lost
    }

    /// Returns the server that has waited longest and gets the sockets now; `None` if none waits, or has to wait on.
    pub(super) fn next(&mut self, now: Instant) -> Option<ClientId> {
        if self.stage != Stage::Idle {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.offer(next, now);
        Some(next)
    }

    /// Returns the successor, and whether this server has stopped accepting for it.
    pub(super) fn successor(&self) -> Option<(ClientId, bool)> {
        match self.stage {
            Stage::Offered { to, .. } => Some((to, false)),
            Stage::Committed { to } => Some((to, true)),
            Stage::Idle | Stage::Over => None,
        }
    }

    /// Whether the sockets are the successor's, so that this server neither accepts connections nor removes paths.
    pub(super) fn is_committed(&self) -> bool {
        matches!(self.stage, Stage::Committed { .. } | Stage::Over)
    }

    /// Whether the successor serves.
    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Returns the successor that was not ready in time.
    pub(super) fn overdue(&self, now: Instant, frozen: &FrozenTime) -> Option<ClientId> {
        let (to, _) = self.successor()?;
        self.next_overdue(now, frozen)?.is_zero().then_some(to)
    }

    /// Returns how long until that. Time in which this server was frozen does not count.
    pub(super) fn next_overdue(&self, now: Instant, frozen: &FrozenTime) -> Option<Duration> {
        match self.stage {
            Stage::Offered { since, .. } => {
                let waited = now.saturating_duration_since(since).saturating_sub(frozen.since(since));
                Some(OFFER_TIMEOUT.saturating_sub(waited))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S4
    #[test]
    fn one_successor_at_a_time_and_the_next_when_it_has_failed() {
        let now = Instant::now();
        let mut succession = Succession::new();
        assert_eq!(succession.request(1, true, now), Answer::Offer);
        assert_eq!(succession.request(2, false, now), Answer::Refuse { behind: 1 });
        assert_eq!(succession.request(3, true, now), Answer::Wait { behind: 1 });
        assert_eq!(succession.request(4, true, now), Answer::Wait { behind: 1 });
        assert!(!succession.commit(3), "it is not its turn");
        assert_eq!(succession.next(now), None);
        assert_eq!(succession.remove(3), Lost::Other);
        assert_eq!(succession.remove(1), Lost::Offered);
        assert_eq!(succession.next(now), Some(4));
        assert!(!succession.is_committed());
        assert!(succession.commit(4) && succession.is_committed() && !succession.is_over());
        assert!(!succession.commit(4), "once");
        assert_eq!(succession.remove(4), Lost::Committed);
        assert!(!succession.is_committed(), "this server serves again");
        assert_eq!(succession.next(now), None);
    }

    /// S4
    #[test]
    fn a_server_that_waits_is_sent_to_the_successor() {
        let now = Instant::now();
        let mut succession = Succession::new();
        assert_eq!(succession.request(1, true, now), Answer::Offer);
        assert_eq!(succession.request(2, true, now), Answer::Wait { behind: 1 });
        assert_eq!(succession.finish(1), None, "it was not ready");
        assert!(succession.commit(1));
        assert_eq!(succession.finish(2), None);
        assert_eq!(succession.finish(1), Some(VecDeque::from([2])));
        assert_eq!(succession.request(5, true, now), Answer::Replaced);
        assert_eq!(succession.remove(1), Lost::Other);
        assert!(succession.is_over() && succession.is_committed());
    }

    /// S4, G10
    #[test]
    fn a_successor_has_a_deadline_until_it_is_ready() {
        let now = Instant::now();
        let (ran, mut frozen) = (FrozenTime::new(now), FrozenTime::new(now));
        let mut succession = Succession::new();
        assert_eq!(succession.next_overdue(now, &ran), None);
        succession.request(1, true, now);
        assert_eq!(succession.next_overdue(now, &ran), Some(OFFER_TIMEOUT));
        let later = now + OFFER_TIMEOUT;
        assert_eq!(succession.overdue(later - Duration::from_millis(1), &ran), None);
        assert_eq!(succession.overdue(later, &ran), Some(1));
        frozen.note_run(later, Duration::from_secs(1));
        assert_eq!(succession.overdue(later, &frozen), None, "this server was frozen meanwhile");
        succession.commit(1);
        assert_eq!(succession.overdue(later, &ran), None, "from then on only its end counts");
        let mut full = Succession::new();
        let answers: Vec<Answer> = (1..=18).map(|id| full.request(id, true, now)).collect();
        assert_eq!(answers[16], Answer::Wait { behind: 1 });
        assert_eq!(answers[17], Answer::Refuse { behind: 1 });
    }
}
