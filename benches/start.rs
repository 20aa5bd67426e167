//! From nothing to an answer: what a worker that does not exist yet costs its first caller.
//!
//! The pool's fork server is up and no worker exists. Beside it: a bare fork server of the same size (this
//! program, one thread, asked by one byte; the child's first byte is the end), which is the limit, and starting
//! this program from scratch with `std::process::Command`. Then what it costs with a large preload, for each of eight that
//! are needed at once, and how much memory one more worker takes.

mod support;

use std::time::{Duration, Instant};

use forkpool::PoolBuilder;
use forkpool::prelude::*;
use support::{Apprentice, BareForkServer, Laden, Load, Placement, Report, Series, Setting, Unload, echo};

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

fn laden(load: Load) -> PoolBuilder<Laden> {
    Pool::<Laden>::builder(load).timeout(Duration::from_secs(120))
}

async fn measure_preload(setting: Setting, report: &mut Report) {
    let large = if setting.quick { LARGE / 8 } else { LARGE };
    let loads = [
        ("nothing", Load::Shared(0)),
        ("much in SharedBytes", Load::Shared(large)),
        ("200 MiB in a Vec", Load::Ordinary(ORDINARY)),
    ];
    let mut pools = Vec::new();
    for (_, load) in loads {
        let pool = laden(load).workers(0..=1).start().expect("a pool");
        place_and_leave(setting, &pool).await;
        pools.push(pool);
    }
    let mut series = loads.map(|(name, _)| Series::seconds(format!("start with {name} preloaded")));
    for _ in 0..setting.rounds(100) {
        for (pool, series) in pools.iter().zip(&mut series) {
            let began = Instant::now();
            pool.send(Unload).await.expect("a size");
            series.push(began.elapsed().as_secs_f64());
            support::until("it has left", || pool.stats().workers() == 0).await;
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

/// Has the preload done, its server placed and the first worker gone.
async fn place_and_leave(setting: Setting, pool: &PoolHandle<Laden>) {
    let (_, server) = pool.send(Unload).await.expect("a server");
    setting.place(server);
    support::until("it has left", || pool.stats().workers() == 0).await;
}

async fn measure_batch(setting: Setting, report: &mut Report) {
    let pool = Pool::<Apprentice>::builder(()).workers(0..=20).start().expect("a pool");
    support::place_server(setting, &pool).await;
    let mut bare_server = BareForkServer::start(setting);
    let mut single = Series::seconds("a single start");
    let mut bare = Series::seconds("a single start of a bare fork server");
    let mut batch = Series::seconds("each of eight at once");
    for _ in 0..setting.rounds(100) {
        single.push(support::first_reply(&pool).await);
        bare.push(first_byte(&mut bare_server));
        let began = Instant::now();
        let calls: Vec<_> = (0..BATCH).map(|_| pool.checkout().start().send(echo())).collect();
        for call in calls {
            call.await.expect("an answer").expect("an echo");
        }
        batch.push(support::each(BATCH, began));
        support::dismiss(&pool).await;
    }
    let at = setting.placement;
    [&single, &bare, &batch].into_iter().for_each(|series| report.row(series));
    report.ratio(&format!("start/batch_of_8@{at}"), batch.median() / single.median());
    report.ratio(&format!("start/burst_of_8@{at}"), batch.median() / bare.median());
    pool.stop(Duration::ZERO).await;
}

/// The children of a process that has one thread.
fn children_of(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a process");
    children.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Memory that application, server and workers have, each page once, with one worker and with more.
async fn measure_memory(report: &mut Report) {
    const MORE: usize = 9;
    let (mut totals, mut dirty) = (Vec::new(), Vec::new());
    // What the application allocates once is there by the second round.
    for workers in [MORE, 1, MORE] {
        let pool = laden(Load::Ordinary(ORDINARY)).workers(workers..=workers).start().expect("a pool");
        support::until("they are idle", || pool.stats().idle == workers).await;
        while pool.server_stats().await.expect("a server").parked == 0 {
            actix_rt::time::sleep(Duration::from_millis(1)).await;
        }
        let pids = pool.stats().pids;
        let parent = std::fs::read_to_string(format!("/proc/{}/stat", pids[0])).expect("a worker");
        let server = parent.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        // The workers, and the child that is parked for the next one, which shares their memory.
        let children = server.map_or_else(Vec::new, children_of);
        assert!(pids.iter().all(|pid| children.contains(pid)), "{pids:?} of {children:?}");
        let all: Vec<u32> = children.into_iter().chain(server).chain([std::process::id()]).collect();
        totals.push(all.iter().map(|&pid| proportional_kib(pid, "Pss:")).sum::<f64>());
        dirty.push(all.iter().map(|&pid| proportional_kib(pid, "Pss_Dirty:")).sum::<f64>());
        pool.stop(Duration::ZERO).await;
    }
    report.ratio("start/extra_worker_kib", (totals[2] - totals[1]) / (MORE - 1) as f64);
    // Without program text, of which the kernel tells a mean where it keeps many pages in one piece.
    report.ratio("start/extra_worker_dirty_kib", (dirty[2] - dirty[1]) / (MORE - 1) as f64);
}

fn proportional_kib(pid: u32, field: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).expect("a number")
}
