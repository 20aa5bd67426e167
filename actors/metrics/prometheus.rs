//! The metrics as a collector of `prometheus-client`.

use std::fmt;

use ::prometheus_client::collector::Collector;
use ::prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use ::prometheus_client::metrics::MetricType;

use super::families::{FAMILIES, Family, Kind, Value};
use super::{Metrics, Reading, histogram};

#[cfg_attr(docsrs, doc(cfg(feature = "prometheus")))]
impl Collector for Metrics {
    /// Reads the pools and encodes what they are doing now. It waits for no pool and no worker, also not for a pool that
    /// is stopping.
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode(&self.read(), encoder)
    }
}

/// Encodes what was read of the pools.
pub(super) fn encode(readings: &[Reading], mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
    for family in &FAMILIES {
        let mut metric = encoder.encode_descriptor(base_name(family), family.help, None, kind(family))?;
        for series in family.series(readings) {
            encode_value(family.kind, &series.value, metric.encode_family(&series.labels)?)?;
        }
    }
    Ok(())
}

/// The name without the suffix that the encoder adds.
fn base_name(family: &Family) -> &'static str {
    family.name.strip_suffix("_total").unwrap_or(family.name)
}

fn kind(family: &Family) -> MetricType {
    match family.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    }
}

fn encode_value(kind: Kind, value: &Value<'_>, mut metric: MetricEncoder<'_>) -> fmt::Result {
    match (kind, value) {
        (_, Value::Durations(durations)) => {
            let buckets = histogram::exported(durations);
            // Of the very same buckets, because calls end while a pool is read.
            let count = buckets.iter().map(|(_, count)| count).sum();
            metric.encode_histogram::<NoLabelSet>(durations.sum().as_secs_f64(), count, &buckets, None)
        }
        (Kind::Counter, Value::Count(count)) => metric.encode_counter::<NoLabelSet, _, f64>(count, None),
        (Kind::Counter, Value::Seconds(seconds)) => {
            metric.encode_counter::<NoLabelSet, _, f64>(seconds, None)
        }
        (_, Value::Count(count)) => metric.encode_gauge(count),
        (_, Value::Seconds(seconds)) => metric.encode_gauge(seconds),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::time::Duration;

    use ::prometheus_client::collector::Collector;
    use ::prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
    use ::prometheus_client::registry::Registry;

    use super::super::Reading;
    use super::super::tests::{durations, pool, reading};
    use crate::actors::api::snapshot::{CallTotals, EndReason, Snapshot};
    use crate::failure::FailureKind;

    #[derive(Debug)]
    struct MadeUp(Vec<Reading>);

    impl Collector for MadeUp {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
            super::encode(&self.0, encoder)
        }
    }

    fn registry(readings: Vec<Reading>) -> Registry {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(MadeUp(readings)));
        registry
    }

    fn encoded(readings: Vec<Reading>) -> String {
        let mut scrape = String::new();
        text::encode(&mut scrape, &registry(readings)).expect("a text");
        scrape
    }

    fn busy(name: &str) -> Snapshot {
        let mut pool = pool(name);
        (pool.counts.starting, pool.counts.idle, pool.counts.leased, pool.counts.ending) = (1, 2, 3, 4);
        (pool.limits.min_workers, pool.limits.max_workers) = (2, 20);
        pool.queue.length = 7;
        pool.totals.forked = 11;
        pool.totals.ends = vec![(EndReason::Exit, 3), (EndReason::Signal, 1)];
        pool.totals.cpu_time = Duration::from_millis(2500);
        pool.blob_bytes = 8192;
        let mut call =
            CallTotals { name: "Hash".to_owned(), succeeded: 5, errors: 2, ..CallTotals::default() };
        call.failures = vec![(FailureKind::Timeout, 1), (FailureKind::NoServer, 1)];
        call.run = durations(&[3, 40, 40, 2_000_000]);
        pool.calls = vec![call];
        pool
    }

    #[test]
    fn every_number_has_its_line() {
        let scrape = encoded(vec![reading(1, 1, busy("a"))]);
        let lines = [
            "# TYPE forkpool_workers gauge",
            r#"forkpool_workers{pool="a",state="starting"} 1"#,
            r#"forkpool_workers{pool="a",state="idle"} 2"#,
            r#"forkpool_workers{pool="a",state="leased"} 3"#,
            r#"forkpool_workers{pool="a",state="ending"} 4"#,
            r#"forkpool_workers_limit{pool="a",bound="fewest"} 2"#,
            r#"forkpool_workers_limit{pool="a",bound="most"} 20"#,
            r#"forkpool_waiting_checkouts{pool="a"} 7"#,
            "# TYPE forkpool_calls counter",
            r#"forkpool_calls_total{pool="a",call="Hash",outcome="ok"} 5"#,
            r#"forkpool_calls_total{pool="a",call="Hash",outcome="error"} 2"#,
            r#"forkpool_calls_total{pool="a",call="Hash",outcome="timeout"} 1"#,
            r#"forkpool_calls_total{pool="a",call="Hash",outcome="no_server"} 1"#,
            r#"forkpool_workers_started_total{pool="a"} 11"#,
            r#"forkpool_workers_ended_total{pool="a",reason="exit"} 3"#,
            r#"forkpool_workers_ended_total{pool="a",reason="signal"} 1"#,
            r#"forkpool_worker_cpu_seconds_total{pool="a"} 2.5"#,
            r#"forkpool_blob_bytes{pool="a"} 8192"#,
            concat!(r#"forkpool_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#"",engine="fork"} 1"#),
            "# EOF",
        ];
        for line in lines {
            assert!(scrape.lines().any(|other| other == line), "no {line} in\n{scrape}");
        }
    }

    #[test]
    fn buckets_add_up_to_the_count() {
        let scrape = encoded(vec![reading(1, 1, busy("a"))]);
        let run = |line: &&str| line.starts_with("forkpool_call_run_seconds_");
        let value = |line: &str| {
            line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a value")
        };
        let values = |part: &str| -> Vec<f64> {
            let lines = scrape.lines().filter(run).filter(|line| line.contains(part));
            lines.map(value).collect()
        };
        let expected = [1, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4].map(f64::from);
        assert_eq!(values("_bucket{"), expected);
        assert_eq!(values(r#"le="+Inf""#), [4.0]);
        assert_eq!(values("_count{"), [4.0]);
        assert_eq!(values("_sum{"), [2.000_083]);
    }

    /// M4: both are there, each with all its numbers.
    #[test]
    fn pools_of_one_name_are_told_apart() {
        let scrape =
            encoded(vec![reading(1, 1, busy("a")), reading(2, 2, busy("a")), reading(3, 1, busy("b"))]);
        let idle: Vec<&str> = scrape.lines().filter(|line| line.contains(r#"state="idle""#)).collect();
        let expected = [
            r#"forkpool_workers{pool="a",state="idle"} 2"#,
            r#"forkpool_workers{pool="a",namesake="2",state="idle"} 2"#,
            r#"forkpool_workers{pool="b",state="idle"} 2"#,
        ];
        assert_eq!(idle, expected);
        let families = scrape.lines().filter(|line| line.starts_with("# TYPE forkpool_workers "));
        assert_eq!(families.count(), 1);
    }

    #[test]
    fn a_name_with_quotes_and_line_breaks_stays_one_label() {
        let scrape = encoded(vec![reading(1, 1, pool("a\"b\nc\\d"))]);
        assert!(scrape.contains(r#"forkpool_waiting_checkouts{pool="a\"b\nc\\d"} 0"#), "{scrape}");
    }

    #[test]
    fn without_a_pool_the_version_is_left() {
        let lines = encoded(Vec::new());
        let samples: Vec<&str> = lines.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(matches!(samples[..], [line] if line.starts_with("forkpool_build_info{")), "{samples:?}");
    }

    #[test]
    fn the_older_text_format_has_the_same_names() {
        let mut scrape = String::new();
        prometheus_text::encode(&mut scrape, &registry(vec![reading(1, 1, busy("a"))])).expect("a text");
        assert!(scrape.contains("# TYPE forkpool_calls_total counter"), "{scrape}");
        assert!(scrape.contains(r#"forkpool_workers_started_total{pool="a"} 11"#), "{scrape}");
    }
}
