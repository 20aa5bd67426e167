//! Far more checkouts than workers: whether each costs the same however many there are.
//!
//! 10,000 and 100,000 checkouts wait for 20 workers, each with one echo to run; the clock runs from the first
//! being made to the last being answered. Nothing is awaited before all have been made.

mod support;

use std::time::Duration;

use forkpool::prelude::*;
use support::{Apprentice, Placement, Report, Series, Setting, echo};

/// Worker processes.
const WORKERS: usize = 20;

/// Checkouts of the small surge; the large one has ten times as many.
const SURGE: usize = 10_000;

/// What the classic Perl pool takes for the small surge.
const PERL: Duration = Duration::from_secs(7);

fn main() {
    support::run("surge", &[Placement::Any], measure);
}

async fn measure(setting: Setting) -> Report {
    let pool = Pool::<Apprentice>::builder(()).workers(WORKERS..=WORKERS).start().expect("a pool");
    support::until("all workers are there", || pool.stats().idle == WORKERS).await;
    let large = if setting.quick { 3 * SURGE } else { 10 * SURGE };

    let mut report = Report::default();
    // First of all, while nothing that was freed can be used again.
    let mut memory = Series::bytes("memory per waiting checkout with a call");
    memory.push(memory_of_waiting(&pool, SURGE).await);

    let mut small_surge = Series::seconds(format!("{SURGE} checkouts on {WORKERS} workers"));
    let mut large_surge = Series::seconds(format!("{large} checkouts on {WORKERS} workers"));
    for _ in 0..setting.rounds(3) {
        for _ in 0..3 {
            small_surge.push(support::surge(&pool, SURGE, WORKERS).await);
        }
        large_surge.push(support::surge(&pool, large, WORKERS).await);
    }

    let [small_each, large_each] =
        [(&small_surge, SURGE), (&large_surge, large)].map(|(series, count)| series.median() / count as f64);
    [&small_surge, &large_surge, &memory].into_iter().for_each(|series| report.row(series));
    report.note(format!("for each checkout {:.2} µs and {:.2} µs", small_each * 1e6, large_each * 1e6));
    report.ratio("surge/100k_over_10k", large_each / small_each);
    report.ratio("surge/perl_7s", small_surge.median() / PERL.as_secs_f64());
    report.ratio("surge/bytes_per_waiting_checkout", memory.median());
    pool.stop(Duration::ZERO).await;
    report
}

/// What so many checkouts add to the resident memory of this process while no worker is free for them.
async fn memory_of_waiting(pool: &PoolHandle<Apprentice>, count: usize) -> f64 {
    let holders: Vec<_> = (0..WORKERS).map(|_| pool.checkout().start()).collect();
    for holder in &holders {
        holder.send(echo()).await.expect("an answer").expect("an echo");
    }
    let before = resident_bytes();
    let mut calls = Vec::with_capacity(count);
    for _ in 0..count {
        calls.push(pool.checkout().start().send(echo()));
        // Each settles before the next is made, as they do where requests come one by one.
        actix_rt::task::yield_now().await;
    }
    support::until("all of them wait", || pool.stats().waiting == count).await;
    let bytes = resident_bytes().saturating_sub(before);
    drop(holders);
    for call in calls {
        call.await.expect("an answer").expect("an echo");
    }
    bytes as f64 / count as f64
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.map_or(0, |kibibytes| kibibytes << 10)
}
