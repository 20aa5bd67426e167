//! Calls from several arbiters at once, as an actix-web server with several workers makes them.
//!
//! First calls that do nothing, 64 in flight, from two arbiters and from eight: to a pool of two workers, to checkouts that
//! two arbiters hold, and to a `SyncArbiter` with two threads. Then 16 callers on two arbiters, each with 20 µs of work:
//! on the pool, by actix-web's `web::block` with one blocking thread for each arbiter, on a `SyncArbiter`, and on threads
//! over a crossbeam channel.

mod support;

use std::slice::from_ref;
use std::time::Duration;

use actix::Addr;
use forkpool::prelude::*;
use support::{
    Apprentice, Arbiters, Contest, Placement, Report, Setting, Thread, ThreadPool, WebBlock, Work, all_free,
    echo, hold, steps_of,
};

/// Workers, and threads of the peers.
const WORKERS: usize = 2;

/// Calls without work: how many are in flight, and how many one round makes.
const DEPTH: usize = 64;
const CALLS: usize = 64_000;

/// Calls with work: the time each takes, how many are in flight, and how many one round makes.
const WORK: Duration = Duration::from_micros(20);
const CALLERS: usize = 16;
const WORKING_CALLS: usize = 6_400;

fn main() {
    support::run("arbiters", &[Placement::Any, Placement::One, Placement::Two], measure);
}

async fn measure(setting: Setting) -> Report {
    let (pool, pids) = support::placed_pool(setting, WORKERS).await;
    let sync = support::sync_peers(setting, WORKERS);
    let mut report = Report::default();
    few_and_many(setting, &mut report, &pool, &pids, &sync).await;
    with_work(setting, &mut report, &pool, &pids, &sync).await;
    pool.stop(Duration::ZERO).await;
    report
}

async fn few_and_many(
    setting: Setting,
    report: &mut Report,
    pool: &PoolHandle<Apprentice>,
    pids: &[u32],
    sync: &Addr<Thread>,
) {
    let counts = [2, 8];
    let teams = counts.map(Arbiters::start);
    let contests = |what: &str| counts.map(|count| Contest::new(format!("{what}, from {count} arbiters")));
    let (mut single, mut threads) = (contests("forkpool, calls to the pool"), contests("SyncArbiter"));
    let mut held = Contest::new("forkpool, a checkout held by each of 2 arbiters");
    let message = echo();
    for _ in 0..setting.rounds(30) {
        for (at, team) in teams.iter().enumerate() {
            let work = team.in_flight(from_ref(pool), &message, DEPTH, CALLS);
            single[at].round(pids, CALLS, work).await;
            all_free(pool, WORKERS).await;
            let work = team.in_flight(from_ref(sync), &message, DEPTH, CALLS);
            threads[at].round(pids, CALLS, work).await;
        }
        let checkouts = hold(pool, WORKERS).await;
        held.round(pids, CALLS, teams[0].in_flight(&checkouts, &message, DEPTH, CALLS)).await;
        drop(checkouts);
        all_free(pool, WORKERS).await;
    }
    single.iter().chain(&threads).chain([&held]).for_each(|contest| contest.rows(report));
    let ([few, many], [few_threads, many_threads]) = (&single, &threads);
    let ratios = [
        ("pool_8_arbiters_over_2", many.rate_over(few)),
        ("sync_arbiter_8_arbiters_over_2", many_threads.rate_over(few_threads)),
        ("pool_64_from_2", few.rate_over(few_threads)),
        ("pool_64_from_8", many.rate_over(many_threads)),
        ("sync_arbiter_64_from_2", held.rate_over(few_threads)),
    ];
    for (name, ratio) in ratios {
        report.ratio(&format!("throughput/{name}@{}", setting.placement), ratio);
    }
}

async fn with_work(
    setting: Setting,
    report: &mut Report,
    pool: &PoolHandle<Apprentice>,
    pids: &[u32],
    sync: &Addr<Thread>,
) {
    let team = Arbiters::with_one_blocking_thread(setting, WORKERS);
    let channel = ThreadPool::start(setting, WORKERS);
    let work = Work(steps_of(WORK));
    let mut single = Contest::new("forkpool, 20 µs of work, calls to the pool");
    let mut held = Contest::new("forkpool, 20 µs of work, a checkout held by each of 2 arbiters");
    let mut block = Contest::new("web::block, 20 µs of work");
    let mut arbiter = Contest::new("SyncArbiter, 20 µs of work");
    let mut threads = Contest::new("threads over a crossbeam channel, 20 µs of work");
    let calls = WORKING_CALLS;
    for _ in 0..setting.rounds(30) {
        single.round(pids, calls, team.in_flight(from_ref(pool), &work, CALLERS, calls)).await;
        all_free(pool, WORKERS).await;
        let checkouts = hold(pool, WORKERS).await;
        held.round(pids, calls, team.in_flight(&checkouts, &work, CALLERS, calls)).await;
        drop(checkouts);
        all_free(pool, WORKERS).await;
        block.round(pids, calls, team.in_flight(&[WebBlock], &work, CALLERS, calls)).await;
        arbiter.round(pids, calls, team.in_flight(from_ref(sync), &work, CALLERS, calls)).await;
        threads.round(pids, calls, team.in_flight(from_ref(&channel), &work, CALLERS, calls)).await;
    }
    [&single, &held, &block, &arbiter, &threads].into_iter().for_each(|contest| contest.rows(report));
    let ratios = [
        ("web_block_20us", single.rate_over(&block)),
        ("web_block_20us_held", held.rate_over(&block)),
        ("web_block_cpu_20us", single.cpu_over(&block)),
        ("pool_sync_arbiter_20us", single.rate_over(&arbiter)),
        ("pool_crossbeam_20us", single.rate_over(&threads)),
    ];
    for (name, ratio) in ratios {
        report.ratio(&format!("throughput/{name}@{}", setting.placement), ratio);
    }
}
