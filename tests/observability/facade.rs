//! The metrics through the facade.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forkpool::Metrics;
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use crate::harness::*;

/// Keeps the last values.
#[derive(Default)]
struct Kept {
    counters: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    gauges: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    samples: Arc<Samples>,
    described: Mutex<BTreeMap<String, String>>,
}

/// How many samples there were.
#[derive(Default)]
struct Samples(AtomicU64);

impl HistogramFn for Samples {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The values by the key as it prints.
fn entry(map: &Mutex<BTreeMap<String, Arc<AtomicU64>>>, key: &Key) -> Arc<AtomicU64> {
    map.lock().unwrap_or_else(PoisonError::into_inner).entry(printed(key)).or_default().clone()
}

fn printed(key: &Key) -> String {
    let labels: Vec<String> =
        key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
    format!("{}{{{}}}", key.name(), labels.join(","))
}

impl Kept {
    fn describe(&self, name: &KeyName, text: &SharedString) {
        let mut described = self.described.lock().unwrap_or_else(PoisonError::into_inner);
        described.insert(name.as_str().to_owned(), text.to_string());
    }

    fn counter(&self, key: &str) -> Option<u64> {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.get(key).map(|counter| counter.load(Ordering::Relaxed))
    }

    fn gauge(&self, key: &str) -> Option<f64> {
        let gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.get(key).map(|gauge| f64::from_bits(gauge.load(Ordering::Relaxed)))
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
        self.describe(&name, &text);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
        self.describe(&name, &text);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
        self.describe(&name, &text);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(entry(&self.counters, key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(entry(&self.gauges, key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.samples.clone())
    }
}

/// M4: counters go on in the next pool of the name, gauges fall to 0 with their pool, and histograms are sent on demand.
#[test]
fn a_publication_sets_counters_and_gauges() {
    run(async {
        let kept = Kept::default();
        let metrics = Metrics::new();
        let publish = || metrics::with_local_recorder(&kept, || metrics.publish());
        let calls = "forkpool_calls_total{pool=orders,call=Pid,outcome=ok}";
        let idle = "forkpool_workers{pool=orders,state=idle}";
        for round in 1..=2 {
            let pool = pool().name("orders").workers(1..=1).start().expect("the pool starts");
            let _same = metrics.clone().add(&pool);
            for _ in 0..3 {
                answer(pool.send(Pid)).await.expect("a pid");
            }
            settled(&pool, 1).await;
            publish();
            publish();
            assert_eq!(kept.counter(calls), Some(3 * round));
            assert_eq!(kept.gauge(idle), Some(1.0));
            assert_eq!(kept.samples.0.load(Ordering::Relaxed), 0);
            pool.stop(Duration::ZERO).await;
            publish();
            assert_eq!(kept.counter(calls), Some(3 * round));
            assert_eq!(kept.gauge(idle), Some(0.0));
        }
        let described = kept.described.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(
            described.get("forkpool_workers_started_total").map(String::as_str),
            Some("Workers that were forked.")
        );
    });
}

#[test]
fn histograms_are_published_on_demand() {
    run(async {
        let pool = pool_of_one();
        let (kept, metrics) = (Kept::default(), Metrics::new().publish_histograms(true).add(&pool));
        for _ in 0..3 {
            answer(pool.send(Pid)).await.expect("a pid");
        }
        settled(&pool, 1).await;
        metrics::with_local_recorder(&kept, || metrics.publish());
        let samples = kept.samples.0.load(Ordering::Relaxed);
        assert!(samples >= 6, "{samples} samples: each call waited and ran");
        metrics::with_local_recorder(&kept, || metrics.publish());
        assert_eq!(kept.samples.0.load(Ordering::Relaxed), samples, "nothing happened in between");
        pool.stop(Duration::ZERO).await;
    });
}
