//! Many calls at once: two workers, beside the same work in two threads.
//!
//! Each call in flight is a task of its own that sends, waits and sends again, as the requests of a web server do. The pool
//! is measured as two held checkouts that share the calls between them, called directly and by their addresses, as calls to the pool itself, and in batches of 64:
//! one in flight at each of two held checkouts, or two in flight at the pool. Beside it are a `SyncArbiter` and a pool of
//! threads over a crossbeam channel.

mod support;

use std::slice::from_ref;
use std::time::Duration;

use actix::Addr;
use forkpool::prelude::*;
use support::{
    Apprentice, Contest, Echo, Placement, Report, Setting, Thread, ThreadPool, all_free, echo, echo_of,
    finish, hold, in_flight, open,
};

/// Workers, and threads of the peers.
const WORKERS: usize = 2;

/// Calls in flight, rounds, and how many calls one round makes. A round with many in flight is to last for some ticks of the
/// kernel's scheduler, or it would only measure on which processors the processes were woken.
const DEPTHS: [(usize, usize, usize); 3] = [(64, 30, 25_600), (1, 15, 300), (1024, 10, 40_960)];

/// The same for bursts of some milliseconds, which begin with sleeping workers.
const BURST: (usize, usize, usize) = (64, 30, 6_400);

/// Sizes of other messages than the usual ones of 64 bytes, with 64 calls in flight.
const SIZES: [(usize, &str); 2] = [(200, "200b"), (4096, "4k")];

/// Calls of one batch.
const BATCH: usize = 64;

fn main() {
    support::run("throughput", &[Placement::Any, Placement::One, Placement::Two], measure);
}

/// The pool and what it is compared with.
struct Field {
    pool: PoolHandle<Apprentice>,
    pids: Vec<u32>,
    arbiter: Addr<Thread>,
    threads: ThreadPool,
}

async fn measure(setting: Setting) -> Report {
    let (pool, pids) = support::placed_pool(setting, WORKERS).await;
    let arbiter = support::sync_peers(setting, WORKERS);
    let field = Field { pool, pids, arbiter, threads: ThreadPool::start(setting, WORKERS) };
    let mut report = Report::default();
    for (depth, rounds, calls) in DEPTHS {
        let measured =
            field.calls(setting, &echo(), (depth, rounds, calls), &format!("{depth} in flight")).await;
        report_calls(&mut report, setting, &format!("_{depth}"), &measured);
    }
    let bursts = field.calls(setting, &echo(), BURST, "64 in flight, bursts of 6,400").await;
    report_calls(&mut report, setting, "_burst_64", &bursts);
    for (bytes, name) in SIZES {
        let measured = field
            .calls(setting, &echo_of(bytes), (64, 15, 6_400), &format!("64 of {bytes} bytes in flight"))
            .await;
        report_calls(&mut report, setting, &format!("_64_{name}"), &measured);
    }
    field.batches(setting, &mut report).await;
    field.pool.stop(Duration::ZERO).await;
    report
}

/// What was measured of calls.
struct Calls {
    direct: Contest,
    held: Contest,
    pool: Contest,
    arbiter: Contest,
    threads: Contest,
}

impl Field {
    async fn calls(
        &self,
        setting: Setting,
        message: &Echo,
        (depth, rounds, calls): (usize, usize, usize),
        what: &str,
    ) -> Calls {
        let mut direct = Contest::new(format!("forkpool, held checkouts, called directly, {what}"));
        let mut held = Contest::new(format!("forkpool, held checkouts, {what}"));
        let mut single = Contest::new(format!("forkpool, calls to the pool, {what}"));
        let mut arbiter = Contest::new(format!("SyncArbiter, {what}"));
        let mut threads = Contest::new(format!("threads over a crossbeam channel, {what}"));
        let Field { pool, pids, .. } = self;
        for _ in 0..setting.rounds(rounds) {
            // A checkout for each worker, or a single one for a single call.
            let handles = open(pool, WORKERS.min(depth)).await;
            direct.round(pids, calls, in_flight(&handles, message, depth, calls)).await;
            drop(handles);
            all_free(pool, WORKERS).await;
            let checkouts = hold(pool, WORKERS.min(depth)).await;
            held.round(pids, calls, in_flight(&checkouts, message, depth, calls)).await;
            drop(checkouts);
            all_free(pool, WORKERS).await;
            single.round(pids, calls, in_flight(from_ref(pool), message, depth, calls)).await;
            all_free(pool, WORKERS).await;
            arbiter.round(pids, calls, in_flight(from_ref(&self.arbiter), message, depth, calls)).await;
            threads.round(pids, calls, in_flight(from_ref(&self.threads), message, depth, calls)).await;
        }
        Calls { direct, held, pool: single, arbiter, threads }
    }

    async fn batches(&self, setting: Setting, report: &mut Report) {
        let mut held = Contest::new("forkpool, held checkouts, a batch of 64 in flight on each");
        let mut single = Contest::new("forkpool, two batches of 64 to the pool in flight");
        let mut arbiter = Contest::new("SyncArbiter, 128 in flight");
        let Field { pool, pids, .. } = self;
        let (depth, calls) = (BATCH * WORKERS, 100 * BATCH * WORKERS);
        for _ in 0..setting.rounds(30) {
            let checkouts = hold(pool, WORKERS).await;
            held.round(pids, calls, batches_on(&checkouts, calls)).await;
            drop(checkouts);
            all_free(pool, WORKERS).await;
            single.round(pids, calls, batches_to(pool, calls)).await;
            all_free(pool, WORKERS).await;
            arbiter.round(pids, calls, in_flight(from_ref(&self.arbiter), &echo(), depth, calls)).await;
        }
        [&held, &single, &arbiter].into_iter().for_each(|contest| contest.rows(report));
        let at = setting.placement;
        report.ratio(&format!("throughput/batch_sync_arbiter@{at}"), held.rate_over(&arbiter));
        report.ratio(&format!("throughput/batch_cpu_sync_arbiter@{at}"), held.cpu_over(&arbiter));
        report.ratio(&format!("throughput/pool_batch_sync_arbiter@{at}"), single.rate_over(&arbiter));
    }
}

fn report_calls(report: &mut Report, setting: Setting, tail: &str, measured: &Calls) {
    let Calls { direct, held, pool, arbiter, threads } = measured;
    [direct, held, pool, arbiter, threads].into_iter().for_each(|contest| contest.rows(report));
    // What a call costs the processors is aimed at with 64 in flight, and has no number there.
    let cpu_tail = if tail == "_64" { "" } else { tail };
    let ratios = [
        (format!("sync_arbiter{tail}"), direct.rate_over(arbiter)),
        (format!("actor_sync_arbiter{tail}"), held.rate_over(arbiter)),
        (format!("pool{tail}"), pool.rate_over(arbiter)),
        (format!("pool_crossbeam{tail}"), pool.rate_over(threads)),
        (format!("cpu_sync_arbiter{cpu_tail}"), direct.cpu_over(arbiter)),
        (format!("actor_cpu_sync_arbiter{cpu_tail}"), held.cpu_over(arbiter)),
        (format!("pool_cpu{tail}"), pool.cpu_over(arbiter)),
    ];
    for (name, ratio) in ratios {
        report.ratio(&format!("throughput/{name}@{}", setting.placement), ratio);
    }
}

fn batch() -> Vec<Echo> {
    (0..BATCH).map(|_| echo()).collect()
}

/// Makes so many calls with one batch in flight at each checkout.
async fn batches_on(checkouts: &[Addr<Checkout<Apprentice>>], calls: usize) {
    let rounds = calls / BATCH / checkouts.len();
    let tasks = checkouts.iter().cloned().map(|checkout| async move {
        for _ in 0..rounds {
            let answers = checkout.send(Batch(batch())).await.expect("answers");
            assert!(answers.len() == BATCH && answers.iter().all(Result::is_ok));
        }
    });
    finish(tasks).await;
}

/// Makes so many calls with a batch for each worker in flight at the pool.
async fn batches_to(pool: &PoolHandle<Apprentice>, calls: usize) {
    let tasks = (0..WORKERS).map(|_| pool.clone()).map(|pool| async move {
        for _ in 0..calls / BATCH / WORKERS {
            let answers = pool.send_batch(batch()).await;
            assert!(answers.len() == BATCH && answers.iter().all(Result::is_ok));
        }
    });
    finish(tasks).await;
}
