//! Made-up pools, and what does not depend on a format.

use std::collections::BTreeSet;
use std::time::Duration;

use super::families::{FAMILIES, Kind};
use super::{Reading, first_free, histogram};
use crate::actors::api::snapshot::{EndReason, Histogram, Snapshot};
use crate::failure::KIND_NAMES;

pub(super) fn pool(name: &str) -> Snapshot {
    Snapshot { pool: name.to_owned(), ..Snapshot::default() }
}

pub(super) fn reading(id: u64, namesake: u32, snapshot: Snapshot) -> Reading {
    Reading { id, namesake, snapshot }
}

/// A pool's histogram of these durations in microseconds.
pub(super) fn durations(micros: &[u64]) -> Histogram {
    let mut counts = [0; 32];
    for micros in micros {
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        counts[bucket.min(31)] += 1;
    }
    let mut histogram = Histogram::default();
    histogram.add(counts.into_iter(), Duration::from_micros(micros.iter().sum()));
    histogram
}

#[test]
fn a_duration_is_exported_below_the_end_of_its_bucket() {
    // Microseconds, and the bucket in which they are exported.
    let table = [
        (0, 0),
        (15, 0),
        (16, 1),
        (63, 1),
        (64, 2),
        (1_000_000, 8),
        (1_048_576, 9),
        (67_108_863, 11),
        (67_108_864, 12),
        (134_217_727, 12),
        (134_217_728, 13),
        (u64::MAX, 13),
    ];
    for (micros, expected) in table {
        let buckets = histogram::exported(&durations(&[micros]));
        assert_eq!(buckets.iter().position(|(_, count)| *count == 1), Some(expected), "{micros} µs");
    }
}

#[test]
fn the_buckets_begin_at_16_microseconds_and_end_at_134_seconds() {
    let buckets = histogram::exported(&Histogram::default());
    let ends: Vec<f64> = buckets.iter().map(|(end, _)| *end).collect();
    assert_eq!((ends[0], ends[12], ends[13]), (0.000_016, 134.217_728, f64::INFINITY));
    assert!(ends.is_sorted());
}

#[test]
fn names_follow_the_rules_of_their_kinds() {
    for family in &FAMILIES {
        let name = family.name;
        assert!(name.starts_with("forkpool_"), "{name}");
        assert_eq!(name.ends_with("_total"), family.kind == Kind::Counter, "{name}");
        assert!(family.help.ends_with('.'), "{name}");
    }
}

#[test]
fn a_number_that_is_free_is_used_again() {
    for (taken, expected) in [(vec![], 1), (vec![1, 2], 3), (vec![2, 3], 1), (vec![3, 1], 2)] {
        assert_eq!(first_free(&taken), expected, "{taken:?}");
    }
}

/// The page for operators lists the values of labels, and alerts are checked against these lists.
#[test]
fn the_page_lists_every_outcome_and_every_reason() {
    let page = include_str!("../../docs/OBSERVABILITY.md");
    let listed = |label: &str| -> BTreeSet<&'static str> {
        let row = |line: &'static str| line.strip_prefix("| `")?.strip_prefix(label)?.strip_prefix("` |");
        let cell = page.lines().find_map(row).expect("the page lists the label's values");
        cell.split('`').skip(1).step_by(2).collect()
    };
    let kinds = KIND_NAMES.iter().map(|(kind, _)| kind.as_str());
    assert_eq!(listed("outcome"), ["ok", "error"].into_iter().chain(kinds).collect());
    assert_eq!(listed("reason"), EndReason::ALL.iter().map(|reason| reason.as_str()).collect());
}
