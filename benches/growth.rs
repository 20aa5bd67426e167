//! How cost grows: with the number of workers, the size of a message, the checkouts that wait, and what is preloaded.

mod support;

use std::time::{Duration, Instant};

use forkpool::PoolBuilder;
use forkpool::prelude::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Apprentice, Echo, Laden, Load, Placement, Report, Series, Setting, Unload, calls, each};

const MIB: u64 = 1 << 20;

fn main() {
    support::run("growth", &[Placement::Any], measure);
}

async fn measure(setting: Setting) -> Report {
    let mut report = Report::default();
    raise_descriptors();
    of_workers(setting, &mut report).await;
    of_payload(setting, &mut report).await;
    of_waiting(setting, &mut report).await;
    of_preload(setting, &mut report).await;
    report
}

/// Five for each worker.
fn raise_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to what is allowed");
}

/// One row and one point.
fn tell(report: &mut Report, curve: &str, at: f64, series: &Series) {
    report.row(series);
    report.point(curve, at, series.median());
}

/// Workers that are there, of which one is called; and how long it took until all were.
async fn of_workers(setting: Setting, report: &mut Report) {
    for workers in (0..=8).map(|power| 1 << power) {
        let began = Instant::now();
        let pool = Pool::<Apprentice>::builder(()).workers(workers..=workers).start().expect("a pool");
        support::until("all are there", || pool.stats().idle == workers).await;
        let started = each(workers, began);
        let mut call = Series::seconds(format!("a call, {workers} workers"));
        let checkout = pool.checkout().start();
        calls(&checkout, 500).await;
        for _ in 0..setting.rounds(30) {
            call.push(calls(&checkout, 100).await);
        }
        tell(report, "workers/call", workers as f64, &call);
        report.point("workers/start_of_each", workers as f64, started);
        drop(checkout);
        pool.stop(Duration::ZERO).await;
    }
}

/// The same text there and back.
async fn of_payload(setting: Setting, report: &mut Report) {
    let largest: u64 = if setting.quick { 16 * MIB } else { 1024 * MIB };
    let most = usize::try_from(largest + MIB).expect("a size");
    let pool = Pool::<Apprentice>::builder(()).workers(1..=1).max_payload(most);
    let pool = pool.timeout(Duration::from_secs(300)).start().expect("a pool");
    let checkout = pool.checkout().start();
    let mut size: u64 = 64;
    while size <= largest {
        let text = "x".repeat(usize::try_from(size).expect("a size"));
        let rounds = (64 * MIB / size).clamp(3, 200) as usize;
        let mut series = Series::seconds(format!("{size} bytes there and back"));
        for _ in 0..setting.rounds(rounds) {
            let message = Echo(text.clone());
            let began = Instant::now();
            let back = checkout.send(message).await.expect("an answer").expect("an echo");
            series.push(began.elapsed().as_secs_f64());
            assert_eq!(back.len(), text.len());
        }
        tell(report, "payload/call", size as f64, &series);
        let mut copy = Series::seconds(format!("{size} bytes copied there and back"));
        for _ in 0..setting.rounds(rounds) {
            let began = Instant::now();
            let back = std::hint::black_box(text.clone()).clone();
            copy.push(began.elapsed().as_secs_f64());
            std::hint::black_box(back);
        }
        tell(report, "payload/two_copies", size as f64, &copy);
        size *= 4;
    }
    drop(checkout);
    pool.stop(Duration::ZERO).await;
}

/// Checkouts that wait for twenty workers.
async fn of_waiting(setting: Setting, report: &mut Report) {
    const WORKERS: usize = 20;
    let pool =
        Pool::<Apprentice>::builder(()).workers(WORKERS..=WORKERS).timeout(None).start().expect("a pool");
    support::until("all are there", || pool.stats().idle == WORKERS).await;
    for power in 2..=(if setting.quick { 4 } else { 6 }) {
        let count = 10_usize.pow(power);
        let mut series = Series::seconds(format!("each of {count} checkouts that wait"));
        for _ in 0..setting.rounds(100_000 / count).clamp(1, 20) {
            series.push(support::surge(&pool, count, WORKERS).await / count as f64);
        }
        tell(report, "waiting/checkout", count as f64, &series);
    }
    pool.stop(Duration::ZERO).await;
}

/// From no worker to the first reply.
async fn of_preload(setting: Setting, report: &mut Report) {
    let sizes: &[u64] = if setting.quick { &[0, 64] } else { &[0, 128, 256, 512, 1024, 2048] };
    for &mebibytes in sizes {
        for (curve, load) in [
            ("preload/shared_bytes", Load::Shared(mebibytes * MIB)),
            ("preload/vec", Load::Ordinary(mebibytes * MIB)),
        ] {
            let builder: PoolBuilder<Laden> = Pool::builder(load);
            let pool = builder.workers(0..=1).timeout(Duration::from_secs(120)).start().expect("a pool");
            pool.send(Unload).await.expect("a worker");
            let mut series = Series::seconds(format!("start with {mebibytes} MiB, {curve}"));
            for _ in 0..setting.rounds(40) {
                support::until("no worker is there", || pool.stats().workers() == 0).await;
                let began = Instant::now();
                pool.send(Unload).await.expect("a worker");
                series.push(began.elapsed().as_secs_f64());
            }
            tell(report, curve, mebibytes as f64, &series);
            pool.stop(Duration::ZERO).await;
        }
    }
}
