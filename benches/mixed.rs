//! Short calls beside long ones: how long the short ones take.
//!
//! 64 callers make calls that do nothing, each one after the other, while one caller makes calls of 1 ms, one after the
//! other: of two workers one is always busy with a long call. The sample of a round is a quantile of its short calls. The
//! peers are a `SyncArbiter` with two threads and two threads over a crossbeam channel, which take each call from one
//! queue when they are free: no short call can wait behind a long one there while the other thread is free.
//!
//! Then bursts to a pool at rest: one long call and then 64 short ones, all made before any is answered.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use support::{
    Callee, Echo, Placement, Report, Series, Setting, ThreadPool, Work, echo, quantile_of, steps_of,
};

/// Workers, and threads of the peers.
const WORKERS: usize = 2;

/// Short calls in flight.
const SHORT: usize = 64;

/// Work of a long call.
const LONG: Duration = Duration::from_millis(1);

/// Rounds, long calls of one round, and bursts of one round.
const ROUNDS: usize = 20;
const LONG_CALLS: usize = 30;
const BURSTS: usize = 10;

fn main() {
    support::run("mixed", &[Placement::Any, Placement::One, Placement::Two], measure);
}

/// A way of calling, for both kinds of calls.
trait Both: Callee<Echo> + Callee<Work> {}

impl<C: Callee<Echo> + Callee<Work>> Both for C {}

async fn measure(setting: Setting) -> Report {
    let (pool, _) = support::placed_pool(setting, WORKERS).await;
    let (sync, threads) = (support::sync_peers(setting, WORKERS), ThreadPool::start(setting, WORKERS));
    let long = Work(steps_of(LONG));
    let mut report = Report::default();
    let mut flows = Latencies::of_all("64 short calls beside a long one");
    for _ in 0..setting.rounds(ROUNDS) {
        flows.0.push(&flow(&pool, &long).await);
        support::all_free(&pool, WORKERS).await;
        flows.1.push(&flow(&sync, &long).await);
        flows.2.push(&flow(&threads, &long).await);
    }
    show(setting, &mut report, "mixed_short", &flows);
    let mut bursts = Latencies::of_all("64 short calls at once, right behind a long one");
    for _ in 0..setting.rounds(ROUNDS) {
        bursts.0.push(&burst(&pool, &long).await);
        support::all_free(&pool, WORKERS).await;
        bursts.1.push(&burst(&sync, &long).await);
        bursts.2.push(&burst(&threads, &long).await);
    }
    show(setting, &mut report, "mixed_burst", &bursts);
    pool.stop(Duration::ZERO).await;
    report
}

/// Quantiles of the short calls of each round.
struct Latencies {
    half: Series,
    most: Series,
}

impl Latencies {
    /// Those of the pool, a `SyncArbiter` and threads over a channel.
    fn of_all(what: &str) -> (Self, Self, Self) {
        let new = |who: &str| Latencies {
            half: Series::seconds(format!("{who}, {what}")),
            most: Series::seconds("    the slowest in a hundred of them"),
        };
        (new("forkpool"), new("SyncArbiter"), new("crossbeam"))
    }

    fn push(&mut self, took: &[f64]) {
        self.half.push(quantile_of(took, 0.5));
        self.most.push(quantile_of(took, 0.99));
    }
}

fn show(
    setting: Setting,
    report: &mut Report,
    name: &str,
    (ours, sync, threads): &(Latencies, Latencies, Latencies),
) {
    for contestant in [ours, sync, threads] {
        report.row(&contestant.half);
        report.row(&contestant.most);
    }
    let at = setting.placement;
    for (who, contestant) in [("", ours), ("_sync_arbiter", sync), ("_crossbeam", threads)] {
        let (half, most) = (contestant.half.median(), contestant.most.median());
        report.ratio(&format!("throughput/{name}{who}_p50_us@{at}"), half * 1e6);
        report.ratio(&format!("throughput/{name}{who}_p99_us@{at}"), most * 1e6);
    }
}

/// Seconds of each short call that was made while a row of long ones ran.
async fn flow(callee: &impl Both, long: &Work) -> Vec<f64> {
    let over = Rc::new(Cell::new(false));
    let short: Vec<_> = (0..SHORT)
        .map(|_| {
            let (callee, over) = (callee.clone(), over.clone());
            actix_rt::spawn(async move {
                let mut took = Vec::new();
                while !over.get() {
                    took.push(timed(&callee).await);
                }
                took
            })
        })
        .collect();
    for _ in 0..LONG_CALLS {
        callee.call(long.clone()).await;
    }
    over.set(true);
    let mut all = Vec::new();
    for calls in short {
        all.extend(calls.await.expect("the task ends"));
    }
    all
}

/// Seconds of each short call of some bursts.
async fn burst(callee: &impl Both, long: &Work) -> Vec<f64> {
    let mut all = Vec::new();
    for _ in 0..BURSTS {
        let (theirs, work) = (callee.clone(), long.clone());
        let long = actix_rt::spawn(async move { theirs.call(work).await });
        let short: Vec<_> = (0..SHORT)
            .map(|_| callee.clone())
            .map(|callee| actix_rt::spawn(async move { timed(&callee).await }))
            .collect();
        for call in short {
            all.push(call.await.expect("the task ends"));
        }
        long.await.expect("the task ends");
    }
    all
}

async fn timed(callee: &impl Callee<Echo>) -> f64 {
    let began = Instant::now();
    callee.call(echo()).await;
    began.elapsed().as_secs_f64()
}
