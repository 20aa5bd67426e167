//! Snapshots of made-up pools.

use std::time::SystemTime;

use super::*;
use crate::failure::{Failure, KIND_NAMES};

fn histogram() -> Histogram {
    let mut histogram = Histogram::default();
    let counts = (0..BUCKETS as u64).map(|at| if at % 4 == 3 { 0 } else { 1_234_567 + at });
    histogram.add(counts.collect::<Vec<_>>().into_iter(), Duration::from_micros(123_456_789_012_345));
    histogram
}

fn worker(number: u64) -> WorkerSnapshot {
    WorkerSnapshot {
        number: 1_000_000 + number,
        pid: 4_194_304 - 200 + u32::try_from(number).unwrap_or(0),
        state: WorkerStatus::Starting,
        age: Duration::from_nanos(864_000_123_456_789),
        checkouts: 12_345_678,
        calls: 123_456_789,
        call: Some("RenderInvoiceAsDocument"),
        running_for: Some(Duration::from_nanos(12_345_678_901)),
        private_bytes: Some(1_234_567_890),
        cpu_time: Some(Duration::from_nanos(86_400_123_456_789)),
    }
}

fn call(number: u64) -> CallTotals {
    CallTotals {
        name: format!("RenderInvoiceAsDocument{number}"),
        succeeded: 1_234_567_890,
        errors: 1_234_567,
        failures: KIND_NAMES.into_iter().map(|(kind, _)| (kind, 12_345)).take(4).collect(),
        wait: histogram(),
        run: histogram(),
    }
}

/// M1: with 200 workers that all run a call, eight messages, and 32 failures with long texts.
#[test]
fn a_snapshot_of_200_workers_has_less_than_64_kib() -> serde_json::Result<()> {
    let failure = Failure::task("a text of many words, most of which say little. ".repeat(100));
    let snapshot = Snapshot {
        pool: "invoices".to_owned(),
        workers: (1..=200).map(worker).collect(),
        calls: (1..=8).map(call).collect(),
        hold: histogram(),
        start: histogram(),
        totals: Totals { ends: EndReason::ALL.map(|reason| (reason, 1_234_567)).into(), ..Totals::default() },
        failures: (1..=32).map(|number| FailureSummary::of(number, &failure, Duration::ZERO)).collect(),
        servers: vec![ServerSnapshot { pid: Some(1), outage: None }],
        ..Snapshot::default()
    };
    let json = serde_json::to_string(&snapshot)?;
    assert!(json.len() < 64 << 10, "{} bytes", json.len());
    Ok(())
}

#[test]
fn times_are_serialized_as_seconds() -> serde_json::Result<()> {
    let mut run = Histogram::default();
    run.add([1, 0, 2].into_iter(), Duration::from_micros(1_500_000));
    let json = serde_json::to_value(CallTotals { run, ..CallTotals::default() })?;
    let expected = serde_json::json!({ "count": 3, "sum": 1.5, "buckets": [[1e-6, 1], [null, 2]] });
    assert_eq!(json["run"], expected);
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(2_500);
    let json = serde_json::to_value(FailureSummary { at, ..FailureSummary::default() })?;
    assert_eq!(json["at"], serde_json::json!(2.5));
    let json = serde_json::to_value(WorkerSnapshot { age: Duration::from_millis(20), ..worker(1) })?;
    assert_eq!((&json["age"], &json["state"]), (&serde_json::json!(0.02), &serde_json::json!("starting")));
    Ok(())
}

#[test]
fn every_reason_of_an_end_has_its_own_name() {
    let names: std::collections::BTreeSet<&str> = EndReason::ALL.into_iter().map(EndReason::as_str).collect();
    assert_eq!(names.len(), EndReason::ALL.len());
    let totals = Totals { ends: vec![(EndReason::Idle, 3)], ..Totals::default() };
    assert_eq!((totals.ends_of(EndReason::Idle), totals.ends_of(EndReason::Exit)), (3, 0));
    assert_eq!(EndReason::Idle.to_string(), "idle");
}
