//! The metrics through the facade of the crate `metrics`.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::mem;
use std::time::Duration;

use ::metrics::{Key, KeyName, Label, Level, Metadata, Recorder, with_recorder};

use super::families::{FAMILIES, Kind, Series, Value};
use super::{Metrics, Reading, histogram};

/// Shortest time between two publications of [`Metrics::publish_every`] (10 ms).
const SHORTEST: Duration = Duration::from_millis(10);

const METADATA: Metadata<'_> = Metadata::new("forkpool", Level::INFO, None);

#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
impl Metrics {
    /// Publishes what the pools are doing now to the recorder of the crate `metrics` that is in force on this thread.
    ///
    /// Counters are set with `absolute`, so a recorder that is installed late misses nothing. A pool that takes the place
    /// of an ended one goes on where that one was last published. Gauges of an ended pool are set to 0. A recorder keeps
    /// counters as whole numbers, so processor time is published in whole seconds.
    ///
    /// Histograms are not published unless [`publish_histograms`](Self::publish_histograms) asks for them.
    pub fn publish(&self) {
        let readings = self.read();
        let updates = self.shared.published.lock().updates(&readings);
        // The recorder is the application's, so no lock is held.
        with_recorder(|recorder| {
            describe(recorder);
            updates.into_iter().for_each(|update| update.apply(recorder));
        });
    }

    /// Returns a future that publishes at once and again and again, with this pause between (10 ms at least). Spawn it with
    /// `actix::spawn` or `tokio::spawn`.
    ///
    /// It never ends. It keeps no pool running and publishes pools that are added later.
    ///
    /// # Panics
    ///
    /// Polled outside of a runtime of tokio that has timers.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the publications.
    pub fn publish_every(&self, pause: Duration) -> impl Future<Output = ()> + Send + 'static {
        let metrics = self.clone();
        async move {
            loop {
                metrics.publish();
                actix_rt::time::sleep(pause.max(SHORTEST)).await;
            }
        }
    }

    /// Sets whether histograms are published, for all clones; they are not by default.
    ///
    /// The facade takes a histogram as single samples, and many recorders keep each of them until they are read, 16 bytes
    /// each. A publication records as many samples as calls were answered since the last one, with the middle of their
    /// bucket as the value. A sum is three quarters to one and a half times the
    /// true one.
    pub fn publish_histograms(self, publish: bool) -> Self {
        self.shared.published.lock().with_histograms = publish;
        self
    }
}

fn describe(recorder: &dyn Recorder) {
    for family in &FAMILIES {
        let name = KeyName::from_const_str(family.name);
        match family.kind {
            Kind::Counter => recorder.describe_counter(name, None, family.help.into()),
            Kind::Gauge => recorder.describe_gauge(name, None, family.help.into()),
            Kind::Histogram => recorder.describe_histogram(name, None, family.help.into()),
        }
    }
}

/// What the recorder was last set to.
#[derive(Default)]
pub(super) struct Published {
    with_histograms: bool,
    counters: HashMap<Key, Carried>,
    gauges: HashSet<Key>,
    histograms: HashMap<Key, (u64, Vec<u64>)>,
}

/// A counter that never falls, although a new pool begins at 0.
#[derive(Default)]
struct Carried {
    pool: u64,
    /// What the pools before counted.
    before: u64,
    last: u64,
}

impl Carried {
    fn set(&mut self, pool: u64, count: u64) -> u64 {
        if self.pool != pool {
            self.before += mem::take(&mut self.last);
            self.pool = pool;
        }
        self.last = self.last.max(count);
        self.before + self.last
    }
}

/// What the recorder is to do.
#[derive(Debug, PartialEq)]
pub(super) enum Update {
    Counter(Key, u64),
    Gauge(Key, f64),
    /// Values, each with how often it is recorded.
    Samples(Key, Vec<(f64, usize)>),
}

impl Update {
    fn apply(self, recorder: &dyn Recorder) {
        match self {
            Update::Counter(key, count) => recorder.register_counter(&key, &METADATA).absolute(count),
            Update::Gauge(key, value) => recorder.register_gauge(&key, &METADATA).set(value),
            Update::Samples(key, samples) => {
                let histogram = recorder.register_histogram(&key, &METADATA);
                samples.into_iter().for_each(|(value, count)| histogram.record_many(value, count));
            }
        }
    }
}

impl Published {
    /// Returns what differs from, or repeats, the publication before.
    pub(super) fn updates(&mut self, readings: &[Reading]) -> Vec<Update> {
        let mut updates = Vec::new();
        let mut gauges = HashSet::new();
        for family in &FAMILIES {
            for series in family.series(readings) {
                let key = key(family.name, &series);
                match (family.kind, series.value) {
                    (_, Value::Durations(durations)) => {
                        let buckets = histogram::middles(durations);
                        updates.extend(self.samples(key, series.pool, buckets));
                    }
                    (Kind::Counter, value) => {
                        let count =
                            self.counters.entry(key.clone()).or_default().set(series.pool, whole(&value));
                        updates.push(Update::Counter(key, count));
                    }
                    (_, value) => {
                        gauges.insert(key.clone());
                        updates.push(Update::Gauge(key, level(&value)));
                    }
                }
            }
        }
        let before = mem::replace(&mut self.gauges, gauges);
        updates.extend(
            before.into_iter().filter(|key| !self.gauges.contains(key)).map(|key| Update::Gauge(key, 0.0)),
        );
        updates
    }

    /// Returns the durations that were counted since the publication before.
    fn samples(&mut self, key: Key, pool: u64, buckets: Vec<(f64, u64)>) -> Option<Update> {
        if !self.with_histograms {
            return None;
        }
        let (known, last) = self.histograms.entry(key.clone()).or_default();
        if *known != pool {
            *known = pool;
            last.clear();
        }
        last.resize(buckets.len(), 0);
        let new = |((value, count), last): ((f64, u64), &mut u64)| {
            let new = count.saturating_sub(mem::replace(last, count));
            (new > 0).then(|| (value, usize::try_from(new).unwrap_or(usize::MAX)))
        };
        let samples: Vec<_> = buckets.into_iter().zip(last).filter_map(new).collect();
        (!samples.is_empty()).then_some(Update::Samples(key, samples))
    }
}

fn key(name: &'static str, series: &Series<'_>) -> Key {
    let labels = series.labels.iter().map(|(label, value)| Label::new(*label, value.to_string()));
    Key::from_parts(name, labels.collect::<Vec<_>>())
}

fn whole(value: &Value<'_>) -> u64 {
    match value {
        Value::Count(count) => *count,
        Value::Seconds(seconds) => *seconds as u64,
        Value::Durations(durations) => durations.count(),
    }
}

fn level(value: &Value<'_>) -> f64 {
    match value {
        Value::Count(count) => *count as f64,
        Value::Seconds(seconds) => *seconds,
        Value::Durations(durations) => durations.count() as f64,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{durations, pool, reading};
    use super::{Key, Label, Published, Update};

    fn key(name: &'static str, labels: &[(&'static str, &'static str)]) -> Key {
        Key::from_parts(
            name,
            labels.iter().map(|(name, value)| Label::new(*name, *value)).collect::<Vec<_>>(),
        )
    }

    fn started(update: &Update) -> Option<u64> {
        match update {
            Update::Counter(key, count) if key.name() == "forkpool_workers_started_total" => Some(*count),
            _ => None,
        }
    }

    /// M4: a counter goes on where the last pool of its name ended, and never falls.
    #[test]
    fn counters_outlive_their_pools() {
        let mut published = Published::default();
        let table = [(1, 5, 5), (1, 7, 7), (2, 1, 8), (2, 9, 16), (3, 0, 16), (3, 2, 18)];
        for (id, forked, expected) in table {
            let mut pool = pool("a");
            pool.totals.forked = forked;
            let updates = published.updates(&[reading(id, 1, pool)]);
            assert_eq!(updates.iter().find_map(started), Some(expected), "{id} {forked}");
        }
    }

    #[test]
    fn gauges_of_an_ended_pool_fall_to_zero_once() {
        let mut published = Published::default();
        let idle = key("forkpool_workers", &[("pool", "a"), ("state", "idle")]);
        let mut pool = pool("a");
        pool.counts.idle = 4;
        assert!(published.updates(&[reading(1, 1, pool)]).contains(&Update::Gauge(idle.clone(), 4.0)));
        assert!(published.updates(&[]).contains(&Update::Gauge(idle.clone(), 0.0)));
        let names = published.updates(&[]);
        assert!(!names.iter().any(|update| matches!(update, Update::Gauge(key, _) if *key == idle)));
    }

    #[test]
    fn histograms_are_published_if_asked_for_and_only_what_is_new() {
        let mut published = Published::default();
        let samples = |published: &mut Published, micros: &[u64]| {
            let mut pool = pool("a");
            pool.hold = durations(micros);
            let updates = published.updates(&[reading(1, 1, pool)]);
            updates.into_iter().find_map(|update| match update {
                Update::Samples(key, samples) if key.name() == "forkpool_checkout_hold_seconds" => {
                    Some(samples)
                }
                _ => None,
            })
        };
        assert_eq!(samples(&mut published, &[5, 5]), None);
        published.with_histograms = true;
        // The bucket from 4 to 8 µs.
        let middle = Duration::from_micros(6).as_secs_f64();
        assert_eq!(samples(&mut published, &[5, 5]), Some(vec![(middle, 2)]));
        assert_eq!(samples(&mut published, &[5, 5]), None);
        assert_eq!(samples(&mut published, &[5, 5, 7]), Some(vec![(middle, 1)]));
    }
}
