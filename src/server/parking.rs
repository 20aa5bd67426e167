//! When a server forks the child that it parks, and when it ends it. The clock is an argument.
//!
//! A parked child is forked in advance and becomes the next worker, so that a start does not wait for a fork. The server
//! forks it when it has nothing else to do.

use std::time::Duration;

use crate::clock::Instant;

/// How long after a start the next child is forked (1 ms): the worker that has just started needs the processors more.
const DELAY: Duration = Duration::from_millis(1);

/// How long a child is kept after its clients had their last worker, if their pools keep none (1 s). A pool that has lost a
/// worker asks for another one within that time, and one that is idle does not.
const LINGER: Duration = Duration::from_secs(1);

/// A child that ends within this time of its fork has ended early (1 s).
const EARLY_END: Duration = Duration::from_secs(1);

/// Waits after the second child in a row that could not be forked or has ended early (100 ms doubling to 5 s).
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Whether a child is to be parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// No client may need it.
    No,
    /// The clients whose pools keep no workers have none, and no others need it.
    Recent,
    Yes,
}

/// What the server does about its parked child now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, until this time has passed or something happens.
    Wait(Option<Duration>),
    Fork,
    End,
}

/// The parked child, if there is one, and when there will be.
pub(super) struct Parking<C> {
    is_enabled: bool,
    /// The child, and when it was forked.
    child: Option<(C, Instant)>,
    /// The earliest time of the next fork.
    due: Instant,
    /// Children in a row that could not be forked or have ended early.
    failures: u32,
    last_demand: Demand,
    /// When the demand was last certain.
    last_needed: Option<Instant>,
}

impl<C> Parking<C> {
    /// `is_enabled`: whether there is ever to be a child.
    pub(super) fn new(is_enabled: bool, now: Instant) -> Self {
        let (due, last_demand) = (now + DELAY, Demand::No);
        Parking { is_enabled, child: None, due, failures: 0, last_demand, last_needed: None }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// Returns what is to be done.
    pub(super) fn step(&mut self, demand: Demand, now: Instant) -> Step {
        if self.last_demand == Demand::Yes {
            // It was until now: the loop waits while nothing changes.
            self.last_needed = Some(now);
        }
        self.last_demand = demand;
        let linger = self.last_needed.map(|at| (at + LINGER).saturating_duration_since(now));
        let linger = linger.unwrap_or_default();
        let is_needed = match demand {
            _ if !self.is_enabled => false,
            Demand::No => false,
            Demand::Recent => !linger.is_zero(),
            Demand::Yes => true,
        };
        let until_due = self.due.saturating_duration_since(now);
        match (&self.child, is_needed) {
            (Some(_), true) => Step::Wait((demand == Demand::Recent).then_some(linger)),
            (Some(_), false) => Step::End,
            (None, true) if until_due.is_zero() => Step::Fork,
            (None, true) => Step::Wait(Some(until_due)),
            (None, false) => Step::Wait(None),
        }
    }

    pub(super) fn child(&self) -> Option<&C> {
        self.child.as_ref().map(|(child, _)| child)
    }

    /// Parks a child that was just forked.
    pub(super) fn park(&mut self, child: C, now: Instant) {
        self.child = Some((child, now));
    }

    /// Takes the child.
    pub(super) fn take(&mut self) -> Option<C> {
        self.child.take().map(|(child, _)| child)
    }

    /// Notes that a worker starts now.
    pub(super) fn note_start(&mut self, now: Instant) {
        self.due = self.due.max(now + DELAY);
    }

    /// Notes that a child has become a worker.
    pub(super) fn note_success(&mut self) {
        self.failures = 0;
    }

    /// Notes that no child could be forked.
    pub(super) fn note_failure(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.due = now + wait_after(self.failures);
    }

    /// Takes the child, which has ended.
    pub(super) fn take_ended(&mut self, now: Instant) -> Option<C> {
        let (child, since) = self.child.take()?;
        if now.saturating_duration_since(since) >= EARLY_END {
            self.failures = 0;
        }
        self.note_failure(now);
        Some(child)
    }
}

/// The wait after so many failures in a row.
fn wait_after(failures: u32) -> Duration {
    match failures.checked_sub(2) {
        None => DELAY,
        Some(doublings) => LONGEST_WAIT.min(FIRST_WAIT.saturating_mul(1 << doublings.min(16))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// W13
    #[test]
    fn a_child_is_forked_a_moment_after_a_start_and_kept() {
        let start = Instant::now();
        let mut parking = Parking::new(true, start);
        assert_eq!(parking.step(Demand::Yes, start), Step::Wait(Some(DELAY)));
        parking.note_start(start + DELAY);
        assert_eq!(parking.step(Demand::Yes, start + DELAY), Step::Wait(Some(DELAY)));
        assert_eq!(parking.step(Demand::Yes, start + 2 * DELAY), Step::Fork);
        parking.park((), start + 2 * DELAY);
        assert_eq!(parking.step(Demand::Yes, start + 3 * DELAY), Step::Wait(None));
        assert_eq!(parking.take(), Some(()));
        parking.note_start(start + 3 * DELAY);
        assert_eq!(parking.step(Demand::Yes, start + 3 * DELAY), Step::Wait(Some(DELAY)));
    }

    /// W13
    #[test]
    fn without_need_there_is_none() {
        let start = Instant::now();
        let mut parking = Parking::new(true, start);
        let later = start + 60 * LINGER;
        for now in [start, start + DELAY, later] {
            assert_eq!(parking.step(Demand::No, now), Step::Wait(None));
            assert_eq!(parking.step(Demand::Recent, now), Step::Wait(None), "no worker was there yet");
        }
        assert_eq!(parking.step(Demand::Yes, later), Step::Fork);
        parking.park((), later);
        // The last worker ends an hour later.
        let end = later + 3600 * LINGER;
        assert_eq!(parking.step(Demand::Recent, end), Step::Wait(Some(LINGER)));
        assert_eq!(parking.step(Demand::Recent, end + LINGER - MILLI), Step::Wait(Some(MILLI)));
        assert_eq!(parking.step(Demand::Recent, end + LINGER), Step::End);
        assert_eq!(parking.take(), Some(()));
        assert_eq!(parking.step(Demand::Recent, end + LINGER), Step::Wait(None));
        assert_eq!(Parking::<()>::new(false, start).step(Demand::Yes, later), Step::Wait(None));
    }

    /// W13
    #[test]
    fn children_that_end_again_and_again_are_forked_ever_later() {
        let mut now = Instant::now();
        let mut parking = Parking::new(true, now);
        let mut waits = Vec::new();
        for _ in 0..9 {
            now += 2 * LONGEST_WAIT;
            assert_eq!(parking.step(Demand::Yes, now), Step::Fork);
            parking.park((), now);
            assert_eq!(parking.take_ended(now + MILLI), Some(()));
            match parking.step(Demand::Yes, now + MILLI) {
                Step::Wait(Some(wait)) => waits.push(wait.as_millis()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(waits, [1, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        parking.park((), now);
        assert_eq!(parking.take_ended(now + EARLY_END), Some(()), "not early");
        assert_eq!(parking.step(Demand::Yes, now + EARLY_END), Step::Wait(Some(DELAY)));
        parking.note_failure(now + EARLY_END);
        assert_eq!(parking.step(Demand::Yes, now + EARLY_END), Step::Wait(Some(FIRST_WAIT)));
        parking.note_success();
        parking.note_failure(now + EARLY_END);
        assert_eq!(parking.step(Demand::Yes, now + EARLY_END), Step::Wait(Some(DELAY)));
    }
}
