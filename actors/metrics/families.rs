//! Every metric: its name, its kind, its meaning, and how it is read from a snapshot.

use std::borrow::Cow;

use super::Reading;
use crate::actors::api::snapshot::{CallTotals, Histogram, Snapshot};
use crate::wire::LIBRARY;

/// A metric with all its series.
pub(super) struct Family {
    /// The whole name, as it is exported.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// What the series are read from, and how.
enum Source {
    Library(fn() -> Vec<Point<'static>>),
    Pool(fn(&Snapshot) -> Vec<Point<'_>>),
}

type Labels<'a> = Vec<(&'static str, Cow<'a, str>)>;

/// A value with the labels that it has beside those of its pool.
type Point<'a> = (Labels<'a>, Value<'a>);

/// One series of a family, and what it is now.
pub(super) struct Series<'a> {
    /// The id of its pool; 0 for the library.
    pub(super) pool: u64,
    pub(super) labels: Labels<'a>,
    pub(super) value: Value<'a>,
}

pub(super) enum Value<'a> {
    Count(u64),
    Seconds(f64),
    Durations(&'a Histogram),
}

/// All metrics, in the order in which they are exported.
pub(super) const FAMILIES: [Family; 16] = [
    of_pools("forkpool_workers", Kind::Gauge, "Workers by state: starting, idle, leased, ending.", workers),
    of_pools("forkpool_workers_limit", Kind::Gauge, "The fewest and the most workers of the pool.", limits),
    of_pools(
        "forkpool_waiting_checkouts",
        Kind::Gauge,
        "Checkouts that wait for a worker, and calls to the pool that no worker has begun.",
        |pool| one(Value::Count(pool.queue.length as u64)),
    ),
    of_pools(
        "forkpool_calls_total",
        Kind::Counter,
        "Answered calls by outcome: ok, error, or the kind of the failure.",
        calls,
    ),
    of_pools(
        "forkpool_call_wait_seconds",
        Kind::Histogram,
        "Time from when a call is first in its queue until a worker has it.",
        |pool| of_calls(pool, |call| &call.wait),
    ),
    of_pools(
        "forkpool_call_run_seconds",
        Kind::Histogram,
        "Time from when a worker has a call until it is answered.",
        |pool| of_calls(pool, |call| &call.run),
    ),
    of_pools(
        "forkpool_checkout_hold_seconds",
        Kind::Histogram,
        "Time for which checkouts held their worker.",
        |pool| one(Value::Durations(&pool.hold)),
    ),
    of_pools(
        "forkpool_worker_start_seconds",
        Kind::Histogram,
        "Time from the request for a worker until it is set up.",
        |pool| one(Value::Durations(&pool.start)),
    ),
    of_pools("forkpool_workers_started_total", Kind::Counter, "Workers that were forked.", |pool| {
        one(Value::Count(pool.totals.forked))
    }),
    of_pools("forkpool_workers_ended_total", Kind::Counter, "Workers that ended, by reason.", ends),
    of_pools(
        "forkpool_server_starts_total",
        Kind::Counter,
        "How often a fork server was there for the pool: started, or connected to.",
        |pool| one(Value::Count(pool.totals.server_starts)),
    ),
    of_pools(
        "forkpool_worker_cpu_seconds_total",
        Kind::Counter,
        "Processor time of workers that have ended.",
        |pool| one(Value::Seconds(pool.totals.cpu_time.as_secs_f64())),
    ),
    of_pools(
        "forkpool_blob_bytes",
        Kind::Gauge,
        "Memory for blobs that the blobs of calls occupy.",
        |pool| one(Value::Count(pool.blob_bytes as u64)),
    ),
    of_pools(
        "forkpool_quarantined_total",
        Kind::Counter,
        "Messages that were put into quarantine.",
        |pool| one(Value::Count(pool.totals.quarantined)),
    ),
    of_pools(
        "forkpool_unheard_replies_total",
        Kind::Counter,
        "Replies whose requester had stopped waiting.",
        |pool| one(Value::Count(pool.totals.unheard)),
    ),
    Family {
        name: "forkpool_build_info",
        kind: Kind::Gauge,
        help: "The version of forkpool, and what its workers are.",
        source: Source::Library(build),
    },
];

const fn of_pools(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    points: fn(&Snapshot) -> Vec<Point<'_>>,
) -> Family {
    Family { name, kind, help, source: Source::Pool(points) }
}

impl Family {
    /// Returns the family's series, those of one pool after those of the other.
    pub(super) fn series<'a>(&self, readings: &'a [Reading]) -> Vec<Series<'a>> {
        match self.source {
            Source::Library(points) => {
                points().into_iter().map(|(labels, value)| Series { pool: 0, labels, value }).collect()
            }
            Source::Pool(points) => readings.iter().flat_map(|reading| of_pool(reading, points)).collect(),
        }
    }
}

fn of_pool(reading: &Reading, points: fn(&Snapshot) -> Vec<Point<'_>>) -> impl Iterator<Item = Series<'_>> {
    points(&reading.snapshot).into_iter().map(|(own, value)| {
        let mut labels: Labels<'_> = vec![("pool", reading.snapshot.pool.as_str().into())];
        if reading.namesake > 1 {
            labels.push(("namesake", reading.namesake.to_string().into()));
        }
        labels.extend(own);
        Series { pool: reading.id, labels, value }
    })
}

fn workers(pool: &Snapshot) -> Vec<Point<'_>> {
    let counts = &pool.counts;
    let by_state = [
        ("starting", counts.starting),
        ("idle", counts.idle),
        ("leased", counts.leased),
        ("ending", counts.ending),
    ];
    by_state.map(|(state, count)| labelled("state", state, count as u64)).into()
}

fn limits(pool: &Snapshot) -> Vec<Point<'_>> {
    let bounds = [("fewest", pool.limits.min_workers), ("most", pool.limits.max_workers)];
    bounds.map(|(bound, count)| labelled("bound", bound, count as u64)).into()
}

fn ends(pool: &Snapshot) -> Vec<Point<'_>> {
    pool.totals.ends.iter().map(|(reason, count)| labelled("reason", reason.as_str(), *count)).collect()
}

fn calls(pool: &Snapshot) -> Vec<Point<'_>> {
    let of_call = |call| {
        outcomes(call).map(|(outcome, count)| {
            (vec![("call", call.name.as_str().into()), ("outcome", outcome)], Value::Count(count))
        })
    };
    pool.calls.iter().flat_map(of_call).collect()
}

fn outcomes(call: &CallTotals) -> impl Iterator<Item = (Cow<'_, str>, u64)> {
    let answers = [("ok".into(), call.succeeded), ("error".into(), call.errors)];
    let failures = call.failures.iter().map(|(kind, count)| (kind.as_str().into(), *count));
    answers.into_iter().chain(failures)
}

fn of_calls<'a>(pool: &'a Snapshot, histogram: fn(&CallTotals) -> &Histogram) -> Vec<Point<'a>> {
    let calls = pool.calls.iter();
    calls.map(|call| (vec![("call", call.name.as_str().into())], Value::Durations(histogram(call)))).collect()
}

fn build() -> Vec<Point<'static>> {
    vec![(vec![("version", LIBRARY.into()), ("engine", "fork".into())], Value::Count(1))]
}

fn one(value: Value<'_>) -> Vec<Point<'_>> {
    vec![(Vec::new(), value)]
}

fn labelled<'a>(name: &'static str, value: &'static str, count: u64) -> Point<'a> {
    (vec![(name, value.into())], Value::Count(count))
}
