//! The programs of docs/OBSERVABILITY.md.

use std::time::Duration;

use forkpool::prelude::*;
use forkpool::{Metrics, Snapshot};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};

use crate::harness::*;

// shown: opentelemetry
/// Has a meter read a pool whenever it exports. The callbacks keep the pool running until it is stopped.
fn observe<W: Worker>(pool: &PoolHandle<W>, meter: &Meter) {
    let source = pool.clone();
    let workers = meter.u64_observable_gauge("forkpool.workers").with_callback(move |observer| {
        let Snapshot { pool, counts, .. } = source.snapshot();
        let states = [("starting", counts.starting), ("idle", counts.idle), ("leased", counts.leased)];
        for (state, count) in states {
            let attributes = [KeyValue::new("pool", pool.clone()), KeyValue::new("state", state)];
            observer.observe(count as u64, &attributes);
        }
    });
    workers.build();

    let source = pool.clone();
    let calls = meter.u64_observable_counter("forkpool.calls").with_callback(move |observer| {
        let Snapshot { pool, calls, .. } = source.snapshot();
        for call in calls {
            let answers = [("ok".to_owned(), call.succeeded), ("error".to_owned(), call.errors)];
            let failures = call.failures.iter().map(|(kind, count)| (kind.to_string(), *count));
            for (outcome, count) in answers.into_iter().chain(failures) {
                let name = KeyValue::new("call", call.name.clone());
                let attributes =
                    [KeyValue::new("pool", pool.clone()), name, KeyValue::new("outcome", outcome)];
                observer.observe(count, &attributes);
            }
        }
    });
    calls.build();
}
// end: opentelemetry

#[test]
fn a_meter_observes_a_pool() {
    run(async {
        let exporter = InMemoryMetricExporter::default();
        let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter.clone()).build();
        let pool = pool_of_one();
        observe(&pool, &provider.meter("forkpool"));
        for _ in 0..3 {
            answer(pool.send(Pid)).await.expect("a pid");
        }
        settled(&pool, 1).await;
        provider.force_flush().expect("an export");
        let outcome = [("call", "Pid"), ("outcome", "ok")];
        assert_eq!(exported(&exporter, "forkpool.calls", &outcome), Some(3));
        assert_eq!(exported(&exporter, "forkpool.workers", &[("state", "idle")]), Some(1));
        provider.shutdown().expect("the end");
        pool.stop(Duration::ZERO).await;
    });
}

/// Returns the last value with these attributes.
fn exported(exporter: &InMemoryMetricExporter, name: &str, attributes: &[(&str, &str)]) -> Option<u64> {
    let exports = exporter.get_finished_metrics().expect("metrics");
    let scopes = exports.iter().flat_map(|export| export.scope_metrics());
    let metrics = scopes.flat_map(|scope| scope.metrics()).filter(|metric| metric.name() == name);
    let has_all = |found: &mut dyn Iterator<Item = &KeyValue>| {
        let found: Vec<_> = found.map(|pair| (pair.key.to_string(), pair.value.to_string())).collect();
        attributes.iter().all(|(key, value)| found.contains(&((*key).to_owned(), (*value).to_owned())))
    };
    let values = metrics.filter_map(|metric| match metric.data() {
        AggregatedMetrics::U64(MetricData::Sum(sum)) => {
            sum.data_points().find(|point| has_all(&mut point.attributes())).map(|point| point.value())
        }
        AggregatedMetrics::U64(MetricData::Gauge(gauge)) => {
            gauge.data_points().find(|point| has_all(&mut point.attributes())).map(|point| point.value())
        }
        _ => None,
    });
    values.last()
}

#[test]
fn a_registry_encodes_pools() {
    run(async {
        let (orders, images) = (pool_of_one(), pool_of_one());
        // shown: prometheus
        let mut registry = prometheus_client::registry::Registry::default();
        let metrics = Metrics::new().add(&orders).add(&images);
        registry.register_collector(Box::new(metrics));

        // In the handler of `/metrics`, whose content type is that of the format:
        let mut body = String::new();
        prometheus_client::encoding::text::encode(&mut body, &registry).expect("a String takes all");
        // end: prometheus
        assert!(body.ends_with("# EOF\n"), "{body}");
        orders.stop(Duration::ZERO).await;
        images.stop(Duration::ZERO).await;
    });
}

#[test]
fn a_task_publishes_pools() {
    run(async {
        let pool = pool_of_one();
        // shown: facade
        let metrics = Metrics::new().add(&pool);
        let publisher = actix::spawn(metrics.publish_every(Duration::from_secs(5)));
        // end: facade
        publisher.abort();
        assert!(publisher.await.is_err_and(|error| error.is_cancelled()), "it never ends by itself");
        pool.stop(Duration::ZERO).await;
    });
}
