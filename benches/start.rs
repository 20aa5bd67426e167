//! From nothing to an answer: what a worker that does not exist yet costs its first caller.
//!
//! The pool's fork server is up and no worker exists. Beside it: a bare fork server of the same size (this
//! program, one thread, asked by one byte; the child's first byte is the end), which is the limit, and starting
//! this program from scratch with `std::process::Command`. Then what it costs with a large preload, for each of eight that
//! are needed at once, and how much memory one more worker takes.

mod support;

use std::time::{Duration, Instant};

use actix::prelude::*;
use forkpool::prelude::*;
use forkpool::{Builder, SharedBytes};
use serde::{Deserialize, Serialize};
use support::{Apprentice, BareForkServer, Placement, Report, Series, Setting, echo};

/// Workers that are needed at once.
const BATCH: usize = 8;

/// Bytes of a large preload, and of one in ordinary memory.
const LARGE: u64 = 2 << 30;
const ORDINARY: u64 = 200 << 20;

fn main() {
    support::run("start", &Placement::ALL, measure);
}

async fn measure(setting: Setting) -> Report {
    let mut report = Report::default();
    measure_one(setting, &mut report).await;
    measure_preload(setting, &mut report).await;
    measure_batch(setting, &mut report).await;
    if setting.placement == Placement::Any {
        measure_memory(&mut report).await;
    }
    report
}

async fn measure_one(setting: Setting, report: &mut Report) {
    let pool = Pool::<Apprentice>::builder(()).workers(0..=20).start().expect("a pool");
    support::place_server(setting, &pool).await;
    let mut bare_server = BareForkServer::start(setting);

    let mut ours = Series::seconds("forkpool, from no worker to the first reply");
    let mut bare = Series::seconds("bare fork server, to the child's first byte");
    let mut command = Series::seconds("std::process::Command, to the first byte");
    for _ in 0..setting.rounds(300) {
        ours.push(support::first_reply(&pool).await);
        bare.push(first_byte(&mut bare_server));
        command.push(first_byte_from_scratch());
    }

    let at = setting.placement;
    [&ours, &bare, &command].into_iter().for_each(|series| report.row(series));
    report.ratio(&format!("start/bare_fork_server@{at}"), ours.median() / bare.median());
    report.ratio(&format!("start/command@{at}"), ours.median() / command.median());
    pool.stop(Duration::ZERO).await;
}

fn first_byte(server: &mut BareForkServer) -> f64 {
    let began = Instant::now();
    server.fork();
    let took = began.elapsed();
    server.rest();
    took.as_secs_f64()
}

fn first_byte_from_scratch() -> f64 {
    let began = Instant::now();
    let process = support::first_byte_of_a_command();
    let took = began.elapsed();
    drop(process);
    took.as_secs_f64()
}

/// A worker whose preload has so many bytes to share, and so many in ordinary memory.
struct Laden;

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Load {
    shared: u64,
    ordinary: u64,
}

/// What [`Load::ordinary`] becomes.
struct Ordinary(Vec<u8>);

/// Has the worker leave.
#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<usize, Failure>")]
struct LeaveLoad;

/// A byte of each, so that it is there.
#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<u8, Failure>")]
struct Taste;

impl Actor for Laden {
    type Context = WorkerContext<Self>;
}

impl Worker for Laden {
    type Config = Load;

    fn setup(_: Load, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Laden)
    }

    fn preload(load: &Load, shared: &mut Preload) -> Result<(), SetupError> {
        shared.put(SharedBytes::from_reader(std::io::Read::take(std::io::repeat(7), load.shared))?);
        shared.put(Ordinary(vec![7; usize::try_from(load.ordinary)?]));
        Ok(())
    }
}

impl Handler<Taste> for Laden {
    type Result = Result<u8, Failure>;

    fn handle(&mut self, Taste: Taste, ctx: &mut WorkerContext<Self>) -> Self::Result {
        let shared = ctx.preloaded::<SharedBytes>().and_then(|bytes| bytes.last().copied());
        let ordinary = ctx.preloaded::<Ordinary>().and_then(|bytes| bytes.0.last().copied());
        Ok(shared.or(ordinary).unwrap_or_default())
    }
}

impl Handler<LeaveLoad> for Laden {
    type Result = Result<usize, Failure>;

    fn handle(&mut self, LeaveLoad: LeaveLoad, ctx: &mut WorkerContext<Self>) -> Self::Result {
        ctx.stop();
        Ok(std::os::unix::process::parent_id() as usize)
    }
}

forkpool::interface!(Laden { Taste, LeaveLoad });
forkpool::boot!(Laden);

fn laden(shared: u64, ordinary: u64) -> Builder<Laden> {
    Pool::<Laden>::builder(Load { shared, ordinary }).timeout(Duration::from_secs(120))
}

async fn measure_preload(setting: Setting, report: &mut Report) {
    let large = if setting.quick { LARGE / 8 } else { LARGE };
    let loads = [(0, 0), (large, 0), (0, ORDINARY)];
    let pools =
        loads.map(|(shared, ordinary)| laden(shared, ordinary).workers(0..=4).start().expect("a pool"));
    for pool in &pools {
        let server = pool.send(LeaveLoad).await.expect("an answer").expect("a worker");
        setting.place(u32::try_from(server).expect("a process"));
        leave(pool).await;
    }
    let mut series = loads.map(|(shared, ordinary)| {
        Series::seconds(format!("start with {} MiB shared, {} MiB ordinary", shared >> 20, ordinary >> 20))
    });
    for _ in 0..setting.rounds(100) {
        for (pool, series) in pools.iter().zip(&mut series) {
            let began = Instant::now();
            pool.send(Taste).await.expect("an answer").expect("a byte");
            series.push(began.elapsed().as_secs_f64());
            leave(pool).await;
        }
    }
    series.iter().for_each(|series| report.row(series));
    let [none, shared, ordinary] = series.each_ref().map(Series::median);
    report.ratio(&format!("start/preload_2g_over_0@{}", setting.placement), shared / none);
    report.ratio(&format!("start/ordinary_200m_over_0@{}", setting.placement), ordinary / none);
    for pool in pools {
        pool.stop(Duration::ZERO).await;
    }
}

async fn leave(pool: &PoolHandle<Laden>) {
    while pool.stats().workers() > 0 {
        support::until("no worker is at work", || pool.stats().idle == pool.stats().workers()).await;
        if pool.stats().idle > 0 {
            pool.send(LeaveLoad).await.expect("an answer").expect("a worker");
        }
    }
}

async fn measure_batch(setting: Setting, report: &mut Report) {
    let pool = Pool::<Apprentice>::builder(()).workers(0..=20).start().expect("a pool");
    support::place_server(setting, &pool).await;
    let mut single = Series::seconds("a single start");
    let mut batch = Series::seconds("each of eight at once");
    for _ in 0..setting.rounds(100) {
        single.push(support::first_reply(&pool).await);
        let began = Instant::now();
        let calls: Vec<_> = (0..BATCH).map(|_| pool.checkout().start().send(echo())).collect();
        for call in calls {
            call.await.expect("an answer").expect("an echo");
        }
        batch.push(support::each(BATCH, began));
        support::dismiss(&pool).await;
    }
    [&single, &batch].into_iter().for_each(|series| report.row(series));
    report.ratio(&format!("start/batch_of_8@{}", setting.placement), batch.median() / single.median());
    pool.stop(Duration::ZERO).await;
}

/// Memory that application, server and workers have, each page once, with one worker and with more.
async fn measure_memory(report: &mut Report) {
    const MORE: usize = 9;
    let mut totals = Vec::new();
    // What the application allocates once is there by the second round.
    for workers in [MORE, 1, MORE] {
        let pool = laden(0, ORDINARY).workers(workers..=workers).start().expect("a pool");
        support::until("they are idle", || pool.stats().idle == workers).await;
        let pids = pool.stats().pids;
        let parent = std::fs::read_to_string(format!("/proc/{}/stat", pids[0])).expect("a worker");
        let server = parent.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        let all = pids.into_iter().chain(server).chain([std::process::id()]);
        totals.push(all.map(proportional_kib).sum::<f64>());
        pool.stop(Duration::ZERO).await;
    }
    report.ratio("start/extra_worker_kib", (totals[2] - totals[1]) / (MORE - 1) as f64);
}

fn proportional_kib(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).expect("a number")
}
