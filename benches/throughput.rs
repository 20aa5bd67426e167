//! Many calls at once: two workers, beside a `SyncArbiter` with two threads.
//!
//! Each call in flight is a task of its own that sends, waits and sends again, as the requests of a web server
//! do. The pool is measured as two held checkouts that share the calls between them, as calls to the
//! pool itself, of which each is a checkout of its own, and as two held checkouts with one batch of 64 calls in flight each.

mod support;

use std::time::{Duration, Instant};

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler};
use forkpool::prelude::*;
use support::{Apprentice, Echo, Placement, Report, Series, Setting, Thread, cpu_time, echo, own_cpu_time};

/// Workers, and threads of the `SyncArbiter`.
const WORKERS: usize = 2;

/// Calls in flight, rounds, and how many calls one round makes.
const DEPTHS: [(usize, usize, usize); 3] = [(64, 30, 6_400), (1, 15, 300), (1024, 10, 10_240)];

/// Calls of one batch.
const BATCH: usize = 64;

fn main() {
    support::run("throughput", &[Placement::Any, Placement::One, Placement::Two], measure);
}

async fn measure(setting: Setting) -> Report {
    let pool = Pool::<Apprentice>::builder(()).workers(WORKERS..=WORKERS).start().expect("a pool");
    let pids = {
        let checkouts: Vec<_> = (0..WORKERS).map(|_| pool.checkout().start()).collect();
        support::pin_workers(setting, &checkouts).await
    };
    let threads = support::sync_peers(setting, WORKERS);
    let mut report = Report::default();
    for (depth, rounds, calls) in DEPTHS {
        let mut held = Contest::new(&format!("forkpool, held checkouts, {depth} in flight"));
        let mut any = Contest::new(&format!("forkpool, calls to the pool, {depth} in flight"));
        let mut sync = Contest::new(&format!("SyncArbiter, {depth} in flight"));
        for _ in 0..setting.rounds(rounds) {
            let checkouts = hold(&pool, depth).await;
            held.round(&pids, calls, in_flight(&checkouts, depth, calls)).await;
            drop(checkouts);
            support::until("the workers are free", || pool.stats().idle == WORKERS).await;
            any.round(&pids, calls, in_flight_of_pool(&pool, depth, calls)).await;
            support::until("the workers are free", || pool.stats().idle == WORKERS).await;
            sync.round(&pids, calls, in_flight(std::slice::from_ref(&threads), depth, calls)).await;
        }
        report_depth(&mut report, setting, depth, [&held, &any, &sync]);
    }
    measure_batches(setting, &mut report, &pool, &pids, &threads).await;
    pool.stop(Duration::ZERO).await;
    report
}

async fn measure_batches(
    setting: Setting,
    report: &mut Report,
    pool: &PoolHandle<Apprentice>,
    pids: &[u32],
    threads: &Addr<Thread>,
) {
    let mut batches = Contest::new("forkpool, held checkouts, a batch of 64 in flight on each");
    let mut sync = Contest::new("SyncArbiter, 128 in flight");
    let checkouts = hold(pool, WORKERS).await;
    for _ in 0..setting.rounds(30) {
        let calls = 100 * BATCH * WORKERS;
        batches.round(pids, calls, in_batches(&checkouts, calls)).await;
        sync.round(pids, calls, in_flight(std::slice::from_ref(threads), BATCH * WORKERS, calls)).await;
    }
    for contest in [&batches, &sync] {
        report.row(&contest.rate);
        report.row(&contest.cpu);
    }
    let at = setting.placement;
    report.ratio(&format!("throughput/batch_sync_arbiter@{at}"), batches.rate.median() / sync.rate.median());
    report
        .ratio(&format!("throughput/batch_cpu_sync_arbiter@{at}"), batches.cpu.median() / sync.cpu.median());
}

fn report_depth(report: &mut Report, setting: Setting, depth: usize, contests: [&Contest; 3]) {
    for contest in contests {
        report.row(&contest.rate);
        report.row(&contest.cpu);
        report.row(&contest.workers_cpu);
    }
    let [held, any, sync] = contests;
    let at = setting.placement;
    let ratios = [
        ("sync_arbiter", held.rate.median() / sync.rate.median()),
        ("pool_sync_arbiter", any.rate.median() / sync.rate.median()),
        ("cpu_sync_arbiter", held.cpu.median() / sync.cpu.median()),
        ("pool_cpu_sync_arbiter", any.cpu.median() / sync.cpu.median()),
    ];
    for (name, ratio) in ratios {
        // What a call costs is measured at one depth.
        let tail = if name.contains("cpu") && depth == 64 { String::new() } else { format!("_{depth}") };
        report.ratio(&format!("throughput/{name}{tail}@{at}"), ratio);
    }
}

/// One contestant at one depth.
struct Contest {
    rate: Series,
    /// Processor time of host and workers together, for each call.
    cpu: Series,
    workers_cpu: Series,
}

impl Contest {
    fn new(name: &str) -> Self {
        Contest {
            rate: Series::rates(name),
            cpu: Series::seconds("    processor time per call"),
            workers_cpu: Series::seconds("    of it in worker processes"),
        }
    }

    async fn round(&mut self, pids: &[u32], calls: usize, work: impl Future<Output = ()>) {
        let used = || (own_cpu_time(), pids.iter().map(|&pid| cpu_time(pid)).sum::<Duration>());
        let (own, workers) = used();
        let began = Instant::now();
        work.await;
        let took = began.elapsed();
        let (own_after, workers_after) = used();
        let (own, workers) = (own_after.saturating_sub(own), workers_after.saturating_sub(workers));
        self.rate.push(calls as f64 / took.as_secs_f64());
        self.cpu.push((own + workers).as_secs_f64() / calls as f64);
        self.workers_cpu.push(workers.as_secs_f64() / calls as f64);
    }
}

/// A checkout for each worker, or a single one for a single call, each of them past its first call.
async fn hold(pool: &PoolHandle<Apprentice>, depth: usize) -> Vec<Addr<Checkout<Apprentice>>> {
    let checkouts: Vec<_> = (0..WORKERS.min(depth)).map(|_| pool.checkout().start()).collect();
    for checkout in &checkouts {
        checkout.send(echo()).await.expect("an answer").expect("an echo");
    }
    checkouts
}

/// Makes so many calls with so many in flight, shared evenly among the addresses.
async fn in_flight<A>(addrs: &[Addr<A>], depth: usize, calls: usize)
where
    A: Actor + Handler<Echo>,
    A::Context: ToEnvelope<A, Echo>,
{
    let tasks = addrs.iter().cycle().take(depth).cloned().map(|addr| async move {
        for _ in 0..calls / depth {
            addr.send(echo()).await.expect("an answer").expect("an echo");
        }
    });
    finish(tasks).await;
}

/// The same with one batch in flight at each address.
async fn in_batches(addrs: &[Addr<Checkout<Apprentice>>], calls: usize) {
    let rounds = calls / BATCH / addrs.len();
    let tasks = addrs.iter().cloned().map(|addr| async move {
        for _ in 0..rounds {
            let answers = addr.send(Batch((0..BATCH).map(|_| echo()).collect())).await.expect("answers");
            assert!(answers.len() == BATCH && answers.iter().all(Result::is_ok));
        }
    });
    finish(tasks).await;
}

/// The same to the pool itself.
async fn in_flight_of_pool(pool: &PoolHandle<Apprentice>, depth: usize, calls: usize) {
    let tasks = (0..depth).map(|_| pool.clone()).map(|pool| async move {
        for _ in 0..calls / depth {
            pool.send(echo()).await.expect("an echo");
        }
    });
    finish(tasks).await;
}

async fn finish(tasks: impl Iterator<Item = impl Future<Output = ()> + 'static>) {
    let running: Vec<_> = tasks.map(actix_rt::spawn).collect();
    for task in running {
        task.await.expect("the task ends");
    }
}
