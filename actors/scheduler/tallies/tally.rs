//! The counts of one thread, or of all threads together.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::durations::DurationTally;
use crate::actors::api::snapshot::{CallTotals, Histogram, Stats};
use crate::failure::{FailureKind, KIND_NAMES};

/// Adds to a number that only this thread writes, without the cost of an atomic addition.
#[inline]
pub(super) fn bump(count: &AtomicU64, by: u64) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// The counts of one message.
#[derive(Default)]
pub(super) struct CallTally {
    pub(super) succeeded: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) failures: [AtomicU64; KIND_NAMES.len()],
    pub(super) wait: DurationTally,
    pub(super) run: DurationTally,
}

/// Counts that one thread writes; the one that all threads have in common is written with atomic additions.
pub(super) struct Tally {
    pub(super) checkouts: AtomicU64,
    hold: DurationTally,
    /// A moving average over about eight checkouts, in nanoseconds; 0 without one.
    usual_hold: AtomicU64,
    /// One for each message of the interface, once it is called.
    calls: Box<[OnceLock<Box<CallTally>>]>,
}

impl Tally {
    /// Returns the tally of an interface with so many messages.
    pub(super) fn new(messages: usize) -> Self {
        Tally {
            checkouts: AtomicU64::new(0),
            hold: DurationTally::default(),
            usual_hold: AtomicU64::new(0),
            calls: (0..messages).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Returns the counts of the message with this index in the interface; `None` if it has no such message.
    #[inline]
    pub(super) fn call(&self, method: u32) -> Option<&CallTally> {
        let call = self.calls.get(usize::try_from(method).ok()?)?;
        Some(call.get_or_init(Box::default))
    }

    /// Counts how long a checkout held its worker. Only one thread may call this.
    #[inline]
    pub(super) fn add_hold(&self, duration: Duration) {
        self.hold.add(duration);
        let nanos = super::durations::nanos(duration);
        let before = self.usual_hold.load(Ordering::Relaxed);
        let after = if before == 0 { nanos } else { before - before / 8 + nanos / 8 };
        self.usual_hold.store(after, Ordering::Relaxed);
    }

    pub(super) fn usual_hold(&self) -> Option<Duration> {
        Some(self.usual_hold.load(Ordering::Relaxed)).filter(|&nanos| nanos > 0).map(Duration::from_nanos)
    }

    /// Adds what a tally has counted that no thread uses any more.
    pub(super) fn absorb(&self, other: &Tally) {
        let add = |own: &AtomicU64, other: &AtomicU64| {
            own.fetch_add(other.load(Ordering::Relaxed), Ordering::Relaxed);
        };
        add(&self.checkouts, &other.checkouts);
        self.hold.absorb(&other.hold);
        if other.usual_hold().is_some() {
            self.usual_hold.store(other.usual_hold.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        for (own, other) in self.calls.iter().zip(&other.calls) {
            let Some(other) = other.get() else { continue };
            let own = own.get_or_init(Box::default);
            add(&own.succeeded, &other.succeeded);
            add(&own.errors, &other.errors);
            own.failures.iter().zip(&other.failures).for_each(|(own, other)| add(own, other));
            own.wait.absorb(&other.wait);
            own.run.absorb(&other.run);
        }
    }

    pub(super) fn add_to(&self, added: &mut Added) {
        added.checkouts = added.checkouts.wrapping_add(self.checkouts.load(Ordering::Relaxed));
        self.hold.add_to(&mut added.hold);
        for (call, sum) in self.calls.iter().zip(&mut added.calls) {
            if let Some(call) = call.get() {
                sum.get_or_insert_default().add(call);
            }
        }
    }
}

/// The sum of tallies.
pub(super) struct Added {
    pub(super) checkouts: u64,
    pub(super) hold: Histogram,
    calls: Vec<Option<CallSum>>,
}

/// The sum of one message's counts.
#[derive(Default)]
struct CallSum {
    succeeded: u64,
    errors: u64,
    failures: [u64; KIND_NAMES.len()],
    wait: Histogram,
    run: Histogram,
}

impl CallSum {
    fn add(&mut self, call: &CallTally) {
        self.succeeded += call.succeeded.load(Ordering::Relaxed);
        self.errors += call.errors.load(Ordering::Relaxed);
        let failures = self.failures.iter_mut().zip(&call.failures);
        failures.for_each(|(sum, count)| *sum += count.load(Ordering::Relaxed));
        call.wait.add_to(&mut self.wait);
        call.run.add_to(&mut self.run);
    }
}

/// Returns the kinds that have occurred, with their counts.
fn by_kind(failures: &[u64; KIND_NAMES.len()]) -> Vec<(FailureKind, u64)> {
    let kinds = KIND_NAMES.into_iter().map(|(kind, _)| kind);
    kinds.zip(failures.iter().copied()).filter(|(_, count)| *count > 0).collect()
}

impl Added {
    pub(super) fn new(messages: usize) -> Self {
        let calls = (0..messages).map(|_| None).collect();
        Added { checkouts: 0, hold: Histogram::default(), calls }
    }

    /// Returns the totals of each message that was called.
    pub(super) fn calls(self, names: &[&'static str]) -> Vec<CallTotals> {
        let called = names.iter().zip(self.calls).filter_map(|(name, sum)| Some((name, sum?)));
        let totals = called.map(|(name, sum)| CallTotals {
            name: (*name).to_owned(),
            succeeded: sum.succeeded,
            errors: sum.errors,
            failures: by_kind(&sum.failures),
            wait: sum.wait,
            run: sum.run,
        });
        totals.collect()
    }

    /// Sums the counts of all messages up.
    pub(super) fn sum_into(&self, stats: &mut Stats) {
        let mut failures = [0; KIND_NAMES.len()];
        for sum in self.calls.iter().flatten() {
            stats.succeeded += sum.succeeded;
            stats.errors += sum.errors;
            failures.iter_mut().zip(sum.failures).for_each(|(total, count)| *total += count);
            stats.waited.merge(&sum.wait);
            stats.ran.merge(&sum.run);
        }
        stats.checkouts = self.checkouts;
        stats.failures = by_kind(&failures);
    }
}
