//! Scrapes of pools at work.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forkpool::Metrics;
use forkpool::prelude::*;
use rustix::process::Signal;

use crate::harness::*;
use crate::scrape::Scrape;

/// Calls after which memory has to be as it was. A debug build makes them in a few seconds.
const MANY: u64 = 20_000;

/// What memory may grow by all the same: the allocator keeps what it had to get once.
const SLACK: u64 = 1 << 20;

/// A pool of this name.
fn named(name: &str) -> PoolHandle<Probe> {
    pool().name(name).workers(1..=1).start().expect("the pool starts")
}

/// M4
#[test]
fn a_scrape_shows_what_happened() {
    run(async {
        let pool = named("orders");
        let metrics = Metrics::new().add(&pool);
        for _ in 0..5 {
            answer(pool.send(Pid)).await.expect("a pid");
        }
        answer(pool.send(Fail("no".to_owned()))).await.expect_err("an error");
        answer(pool.send(Panic("no".to_owned()))).await.expect_err("a panic");
        answer(pool.send(Raise(9))).await.expect_err("a death");
        settled(&pool, 1).await;

        let scrape = Scrape::of(&metrics);
        let outcome = |call: &str, outcome: &str| {
            scrape.sum("forkpool_calls_total", &[("pool", "orders"), ("call", call), ("outcome", outcome)])
        };
        assert_eq!(outcome("Pid", "ok"), Some(5.0), "{}", scrape.text);
        assert_eq!(outcome("Fail", "error"), Some(1.0), "{}", scrape.text);
        assert_eq!(outcome("Panic", "panic"), Some(1.0), "{}", scrape.text);
        assert_eq!(outcome("Raise", "died"), Some(1.0), "{}", scrape.text);
        assert_eq!(outcome("Echo", "ok"), None, "it was never called");
        for series in ["forkpool_call_run_seconds_count", "forkpool_call_wait_seconds_count"] {
            assert_eq!(scrape.sum(series, &[("call", "Pid")]), Some(5.0), "{}", scrape.text);
        }
        let of_pool = |name: &str, labels: &[(&str, &str)]| scrape.sum(name, labels).expect("it is there");
        assert_eq!(of_pool("forkpool_workers", &[("state", "idle")]), 1.0);
        assert_eq!(of_pool("forkpool_workers", &[]), 1.0);
        assert_eq!(of_pool("forkpool_workers_limit", &[("bound", "most")]), 1.0);
        assert_eq!(of_pool("forkpool_waiting_checkouts", &[]), 0.0);
        assert_eq!(of_pool("forkpool_workers_ended_total", &[("reason", "signal")]), 1.0);
        assert_eq!(of_pool("forkpool_workers_ended_total", &[("reason", "panic")]), 1.0);
        let (started, ended) =
            (of_pool("forkpool_workers_started_total", &[]), of_pool("forkpool_workers_ended_total", &[]));
        assert_eq!(started - ended, 1.0, "the living one");
        assert_eq!(of_pool("forkpool_worker_start_seconds_count", &[]), started);
        assert_eq!(of_pool("forkpool_server_starts_total", &[]), 1.0);
        pool.stop(Duration::ZERO).await;
    });
}

/// M4: sums are exact, and buckets add up.
#[test]
fn sums_agree_with_a_stopwatch() {
    run(async {
        let pool = named("slow");
        let metrics = Metrics::new().add(&pool);
        settled(&pool, 1).await;
        let pause = Duration::from_millis(20);
        let stopwatch = Instant::now();
        for _ in 0..10 {
            answer(pool.send(Slow(pause, 1))).await.expect("a number");
        }
        let elapsed = stopwatch.elapsed().as_secs_f64();
        let scrape = Scrape::of(&metrics);
        let slow = |series: &str| scrape.sum(series, &[("call", "Slow")]).expect("it is there");
        let (run, wait) = (slow("forkpool_call_run_seconds_sum"), slow("forkpool_call_wait_seconds_sum"));
        assert!(run >= 10.0 * pause.as_secs_f64(), "{run} s for ten pauses");
        assert!(run + wait <= elapsed, "{run} s and {wait} s within {elapsed} s");
        for histogram in ["forkpool_call_run_seconds", "forkpool_call_wait_seconds"] {
            let infinite = scrape.sum(&format!("{histogram}_bucket"), &[("call", "Slow"), ("le", "+Inf")]);
            assert_eq!(infinite, Some(10.0));
            assert_eq!(slow(&format!("{histogram}_count")), 10.0);
        }
        // Ten pauses of 20 ms are above 16 ms.
        let below = scrape.sum("forkpool_call_run_seconds_bucket", &[("call", "Slow"), ("le", "0.016384")]);
        assert_eq!(below, Some(0.0));
        pool.stop(Duration::ZERO).await;
    });
}

/// M4
#[test]
fn counters_never_fall_when_the_server_dies() {
    run(async {
        let pool = named("orders");
        let metrics = Metrics::new().add(&pool);
        for _ in 0..3 {
            answer(pool.send(Pid)).await.expect("a pid");
        }
        settled(&pool, 1).await;
        let before = Scrape::of(&metrics);
        let server = the_server().await;
        kill(server);
        gone(server).await;
        let meanwhile = Scrape::of(&metrics);
        assert_eq!(meanwhile.fallen_since(&before), [""; 0]);
        until("another server is there", || {
            Scrape::of(&metrics).sum("forkpool_server_starts_total", &[]) == Some(2.0)
        })
        .await;
        answer(pool.send(Pid)).await.expect("a pid");
        settled(&pool, 1).await;
        let after = Scrape::of(&metrics);
        assert_eq!(after.fallen_since(&meanwhile), [""; 0]);
        assert_eq!(after.sum("forkpool_calls_total", &[("outcome", "ok")]), Some(4.0));
        pool.stop(Duration::ZERO).await;
    });
}

/// M4: a pool that ends is there until its last process is reaped, and then falls out.
#[test]
fn a_scrape_waits_for_no_pool_that_stops() {
    run(async {
        let pool = named("orders");
        let metrics = Metrics::new().add(&pool);
        settled(&pool, 1).await;
        let call = pool.send(Slow(Duration::from_millis(300), 1));
        let leased = || Scrape::of(&metrics).sum("forkpool_workers", &[("state", "leased")]);
        until("the call has a worker", || leased() == Some(1.0)).await;
        let done = Arc::new(AtomicBool::new(false));
        let scraper = std::thread::spawn({
            let (metrics, done) = (metrics.clone(), done.clone());
            move || scrape_until(&metrics, &done)
        });
        let stopped = pool.stop(PATIENCE);
        answer(call).await.expect("the drain is long enough");
        let report = bounded("the end", stopped).await;
        assert!(report.is_complete(), "{report}");
        done.store(true, Ordering::Relaxed);
        let scrapes = scraper.join().expect("no counter fell");
        assert!(scrapes > 0);
        assert!(Scrape::of(&metrics).pools().is_empty(), "it has ended");
    });
}

/// Scrapes again and again, and returns how often.
fn scrape_until(metrics: &Metrics, done: &AtomicBool) -> usize {
    let (mut last, mut scrapes) = (Scrape::of(metrics), 0);
    while !done.load(Ordering::Relaxed) {
        let scrape = Scrape::of(metrics);
        scrapes += 1;
        if !scrape.pools().is_empty() {
            assert_eq!(scrape.fallen_since(&last), [""; 0]);
            last = scrape;
        }
    }
    scrapes
}

/// M4
#[test]
fn a_scrape_waits_for_no_process_that_is_stopped() {
    run(async {
        let pool = named("orders");
        let metrics = Metrics::new().add(&pool);
        settled(&pool, 1).await;
        let server = the_server().await;
        let worker = pool.stats().pids[0];
        signal(worker, Signal::STOP);
        signal(server, Signal::STOP);
        let call = pool.send(Pid);
        assert_eq!(Scrape::of(&metrics).sum("forkpool_workers", &[]), Some(1.0));
        signal(server, Signal::CONT);
        signal(worker, Signal::CONT);
        answer(call).await.expect("a pid");
        pool.stop(Duration::ZERO).await;
    });
}

/// M4
#[test]
fn pools_of_one_name_both_appear() {
    run(async {
        let (first, second, other) = (named("orders"), named("orders"), named("images"));
        let metrics = Metrics::new().add(&first).add(&second).add(&other).add(&first);
        answer(first.send(Pid)).await.expect("a pid");
        for _ in 0..2 {
            answer(second.send(Pid)).await.expect("a pid");
        }
        let scrape = Scrape::of(&metrics);
        let pool = |name: &str, namesake: Option<&str>| (name.to_owned(), namesake.map(str::to_owned));
        let both = [pool("images", None), pool("orders", None), pool("orders", Some("2"))];
        assert_eq!(scrape.pools(), both.into());
        let calls = |labels: &[(&str, &str)]| scrape.sum("forkpool_calls_total", labels);
        assert_eq!(calls(&[("pool", "orders")]), Some(3.0));
        assert_eq!(calls(&[("pool", "orders"), ("namesake", "2")]), Some(2.0));

        // The number of a pool that has ended is free.
        first.stop(Duration::ZERO).await;
        let third = named("orders");
        let metrics = metrics.add(&third);
        assert_eq!(Scrape::of(&metrics).pools().len(), 3);
        assert!(Scrape::of(&metrics).pools().contains(&pool("orders", None)));
        for pool in [second, other, third] {
            pool.stop(Duration::ZERO).await;
        }
    });
}

/// M4: metrics keep no pool running.
#[test]
fn a_pool_whose_last_handle_is_dropped_falls_out() {
    run(async {
        let pool = named("orders");
        let metrics = Metrics::new().add(&pool);
        settled(&pool, 1).await;
        drop(pool);
        until("it has fallen out", || Scrape::of(&metrics).pools().is_empty()).await;
        until("no process is left", || servers().is_empty()).await;
    });
}

/// M4
#[test]
fn many_calls_and_scrapes_leave_memory_flat() {
    run(async {
        let pool = named("orders");
        let metrics = Metrics::new().add(&pool);
        let calls = async |count: u64| {
            for call in 0..count {
                pool.send(Pid).await.expect("a pid");
                if call % 500 == 0 {
                    Scrape::of(&metrics);
                }
            }
        };
        within(3 * PATIENCE, "the first calls", calls(MANY / 4)).await;
        let before = memory_of(std::process::id(), "VmRSS");
        within(3 * PATIENCE, "the calls", calls(MANY)).await;
        let after = memory_of(std::process::id(), "VmRSS");
        assert!(after <= before + SLACK, "{before} bytes before, {after} after");
        let expected = (MANY + MANY / 4) as f64;
        let counted = Scrape::of(&metrics).sum("forkpool_call_run_seconds_count", &[("call", "Pid")]);
        assert_eq!(counted, Some(expected));
        pool.stop(Duration::ZERO).await;
    });
}

/// Parses a text from standard input, and checks what a histogram promises.
const PARSER: &str = r#"
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
text = sys.stdin.read()
families = {family.name: family for family in openmetrics(text)}
assert list(prometheus(text)), "nothing"
for family in families.values():
    buckets, counts = {}, {}
    for sample in family.samples:
        labels = dict(sample.labels)
        end = labels.pop("le", None)
        key = tuple(sorted(labels.items()))
        if sample.name.endswith("_bucket"):
            buckets.setdefault(key, []).append((float(end), sample.value))
        elif sample.name.endswith("_count"):
            counts[key] = sample.value
    if family.type == "histogram":
        assert buckets.keys() == counts.keys(), family.name
    for key, ends in buckets.items():
        assert ends == sorted(ends) and ends[-1] == (float("inf"), counts[key]), (family.name, ends)
print(len(families), "families")
"#;

/// M4: as the parser of Prometheus' own client for Python sees it, where that is installed.
#[test]
fn a_real_parser_takes_a_scrape() {
    let installed =
        Command::new("python3").args(["-c", "import prometheus_client"]).stderr(Stdio::null()).status();
    if !installed.is_ok_and(|status| status.success()) {
        println!("skipped: python3 has no prometheus_client");
        return;
    }
    let text = run(async {
        let (first, second) = (named("orders"), named("orders"));
        let metrics = Metrics::new().add(&first).add(&second);
        answer(first.send(Pid)).await.expect("a pid");
        answer(second.send(Raise(9))).await.expect_err("a death");
        let scrape = Scrape::of(&metrics);
        first.stop(Duration::ZERO).await;
        second.stop(Duration::ZERO).await;
        scrape.text
    });
    let mut parser = Command::new("python3");
    let parser =
        parser.args(["-c", PARSER]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut parser = parser.spawn().expect("python3");
    parser.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let output = parser.wait_with_output().expect("it ends");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(out.trim(), "16 families", "{error}\n{text}");
}
