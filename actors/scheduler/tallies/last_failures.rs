//! The last failures of a pool.

use std::collections::VecDeque;

use crate::actors::api::snapshot::FailureSummary;
use crate::clock::Instant;
use crate::failure::Failure;

/// How many failures are kept (32): enough to see what is wrong, few enough to be read at a glance.
const KEPT: usize = 32;

/// The last failures, with the times at which they were answered.
#[derive(Clone, Default)]
pub(super) struct LastFailures {
    /// How many there were in all; it is the number of the last one.
    count: u64,
    last: VecDeque<(Failure, Instant)>,
}

impl LastFailures {
    /// Adds a failure; returns the one that is kept no longer, to be dropped without the lock.
    pub(super) fn push(&mut self, failure: Failure, now: Instant) -> Option<Failure> {
        self.count += 1;
        self.last.push_back((failure, now));
        let forgotten = if self.last.len() > KEPT { self.last.pop_front() } else { None };
        forgotten.map(|(failure, _)| failure)
    }

    /// Returns the failures in short, the oldest first.
    pub(super) fn summaries(&self, now: Instant) -> Vec<FailureSummary> {
        self.after(0, now).map(|(summary, _)| summary).collect()
    }

    /// Returns the failures that have a higher number than this, in short and in full, the oldest first.
    pub(super) fn after(
        &self,
        number: u64,
        now: Instant,
    ) -> impl Iterator<Item = (FailureSummary, &Failure)> {
        let first = self.count - self.last.len() as u64 + 1;
        let numbered = (first..).zip(&self.last).skip_while(move |(at, _)| *at <= number);
        numbered.map(move |(number, (failure, at))| {
            (FailureSummary::of(number, failure, now.saturating_duration_since(*at)), failure)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// M1
    #[test]
    fn the_last_failures_have_rising_numbers_and_short_texts() {
        let mut failures = LastFailures::default();
        for number in 1..=100 {
            let text = format!("{number} {}", "\"".repeat(100_000));
            drop(failures.push(Failure::task(text), Instant::now()));
        }
        let summaries = failures.summaries(Instant::now());
        let numbers: Vec<u64> = summaries.iter().map(|summary| summary.number).collect();
        assert_eq!(numbers, Vec::from_iter(69..=100));
        for summary in summaries {
            assert!(summary.text.starts_with(&format!("{} \"", summary.number)), "{summary:?}");
            let json = serde_json::to_string(&summary).map(|json| json.len());
            assert!(json.as_ref().is_ok_and(|length| *length <= 1024), "{json:?}");
        }
    }
}
