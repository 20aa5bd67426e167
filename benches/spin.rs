//! What looking costs where it does not pay: pools whose calls go through memory and are waited for by looking, beside the
//! same pools over sockets, where everybody sleeps.
//!
//! As many workers as processors and more, each with a call at a time that works for 10 or 100 µs; a pool beside a process
//! that has nothing to do with it and wants all it can get; a pool that has little to do, and one that has nothing to do.

mod support;

use std::time::{Duration, Instant};

use actix::Addr;
use forkpool::Transport;
use forkpool::prelude::*;
use support::{
    Apprentice, Hog, Placement, Report, Series, Setting, Whereabouts, Work, cpu_time, echo, own_cpu_time,
    steps_of,
};

/// How long each round of calls is to take, about.
const ROUND: Duration = Duration::from_millis(100);

fn main() {
    support::run("spin", &[Placement::Any], measure);
}

async fn measure(setting: Setting) -> Report {
    let mut report = Report::default();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    for (name, work) in [("10us", Duration::from_micros(10)), ("100us", Duration::from_micros(100))] {
        let mut worst = f64::INFINITY;
        for workers in [processors, 2 * processors, 4 * processors] {
            let what = format!("{workers} workers, calls of {work:?}");
            worst = worst.min(compare(setting, &mut report, &what, workers, steps_of(work)).await);
        }
        report.ratio(&format!("spin/crowded_{name}@{}", setting.placement), worst);
    }
    let mut worst = f64::INFINITY;
    for workers in [1, processors] {
        let _hog = Hog::start();
        let what = format!("beside a hog, {workers} workers, calls without work");
        worst = worst.min(compare(setting, &mut report, &what, workers, 0).await);
    }
    report.ratio(&format!("spin/hog@{}", setting.placement), worst);
    sparse(setting, &mut report).await;
    idle(setting, &mut report).await;
    report
}

fn pool(workers: usize, transport: Transport) -> PoolHandle<Apprentice> {
    let pool = Pool::<Apprentice>::builder(()).workers(workers..=workers).transport(transport);
    pool.start().expect("a pool")
}

/// Throughput of a pool through memory ÷ that of one over sockets.
async fn compare(setting: Setting, report: &mut Report, what: &str, workers: usize, steps: u32) -> f64 {
    let pools = [Transport::SharedMemory, Transport::Socket].map(|transport| pool(workers, transport));
    let held = [support::hold(&pools[0], workers).await, support::hold(&pools[1], workers).await];
    let mut rates = [format!("{what}, memory"), format!("{what}, sockets")].map(Series::rates);
    for _ in 0..setting.rounds(40) {
        for (checkouts, series) in held.iter().zip(&mut rates) {
            series.push(rate(checkouts, steps).await);
        }
    }
    drop(held);
    for pool in pools {
        pool.stop(Duration::ZERO).await;
    }
    rates.iter().for_each(|series| report.row(series));
    rates[0].median() / rates[1].median()
}

/// Calls a second, with one in flight on each checkout.
async fn rate(checkouts: &[Addr<Checkout<Apprentice>>], steps: u32) -> f64 {
    let began = Instant::now();
    let tasks = checkouts.iter().cloned().map(|checkout| {
        actix_rt::spawn(async move {
            let mut count = 0_u32;
            while began.elapsed() < ROUND {
                checkout.send(Work(steps)).await.expect("an answer").expect("a sum");
                count += 1;
            }
            count
        })
    });
    let (running, mut count) = (tasks.collect::<Vec<_>>(), 0);
    for task in running {
        count += task.await.expect("the task ends");
    }
    f64::from(count) / began.elapsed().as_secs_f64()
}

/// Processor time of this process, a pool's workers and their server.
async fn used(pool: &PoolHandle<Apprentice>, server: u32) -> Duration {
    let workers: Duration = pool.stats().pids.into_iter().map(cpu_time).sum();
    own_cpu_time() + workers + cpu_time(server)
}

/// A hundred calls a second.
async fn sparse(setting: Setting, report: &mut Report) {
    let mut costs = ["100 calls a second, memory: processor time of a second", "100 calls a second, sockets"]
        .map(Series::seconds);
    let pools = [Transport::SharedMemory, Transport::Socket].map(|transport| pool(2, transport));
    let mut servers = Vec::new();
    for pool in &pools {
        servers.push(server_of(pool).await);
    }
    for _ in 0..setting.rounds(10) {
        for ((pool, &server), series) in pools.iter().zip(&servers).zip(&mut costs) {
            let checkout = pool.checkout().start();
            let (before, began) = (used(pool, server).await, Instant::now());
            let mut beat = actix_rt::time::interval(Duration::from_millis(10));
            for _ in 0..100 {
                beat.tick().await;
                checkout.send(echo()).await.expect("an answer").expect("an echo");
            }
            let cost = used(pool, server).await.saturating_sub(before);
            series.push(cost.as_secs_f64() / began.elapsed().as_secs_f64());
        }
    }
    costs.iter().for_each(|series| report.row(series));
    report.ratio(&format!("spin/sparse_cpu@{}", setting.placement), costs[0].median() / costs[1].median());
    for pool in pools {
        pool.stop(Duration::ZERO).await;
    }
}

/// Nothing at all.
async fn idle(setting: Setting, report: &mut Report) {
    let pool = pool(2, Transport::SharedMemory);
    let checkout = pool.checkout().start();
    support::calls(&checkout, 1000).await;
    let server = server_of(&pool).await;
    let time = if setting.quick { Duration::from_secs(1) } else { Duration::from_secs(10) };
    // What is measured is time in which nothing happens.
    let (before, began) = (used(&pool, server).await, Instant::now());
    actix_rt::time::sleep(time).await;
    let cost = used(&pool, server).await.saturating_sub(before);
    report.note(format!("nothing for {time:?}: {cost:?} of processor time"));
    report.ratio("spin/idle_cpu", cost.as_secs_f64() / began.elapsed().as_secs_f64());
    drop(checkout);
    pool.stop(Duration::ZERO).await;
}

async fn server_of(pool: &PoolHandle<Apprentice>) -> u32 {
    pool.send(Whereabouts).await.expect("a worker").1
}
