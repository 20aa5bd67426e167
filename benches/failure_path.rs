//! What error-handling contexts cost while nothing fails, and how soon a caller knows of a death.
//!
//! A call on a held checkout in a context with a handler, a local and no baggage, beside the same call without a
//! context. Then the time from the kill of a busy worker to its caller's failure, beside the bare notice of a death:
//! end-of-file on a socket pair of a killed process, heard by an async task. Then the report of a panic without a
//! backtrace beside that of an abort: both lose the worker, and what the first costs more is the report. Last, very many calls in a row in one
//! context, each made once the one before was answered: what a call costs and leaves behind, at the beginning and at
//! the end.

mod support;

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use actix::Addr;
use forkpool::prelude::*;
use rustix::process::{Signal, kill_process};
use support::{
    AbortProcess, Apprentice, Panic, Placement, Report, Series, Setting, Sleep, Sleeper, Whereabouts, each,
    echo, process_id,
};

/// Calls of one round; a round is short so that a disturbance of the machine spoils few samples.
const CALLS: usize = 200;

/// Calls in a row of a full run.
const MANY: usize = 10_000_000;

/// The same of a quick one.
const FEW: usize = 100_000;

fn main() {
    support::run("failure_path", &Placement::ALL, measure);
}

async fn measure(setting: Setting) -> Report {
    let pool = Pool::<Apprentice>::builder(()).workers(2..=2).start().expect("a pool");
    let context = ErrorContext::named("outer").run(|| {
        let count = |failure: ContextFailure| assert_eq!(failure.kind(), FailureKind::Died);
        ErrorContext::named("inner").local(7_u64).on_failure(count)
    });
    let mut report = Report::default();
    overhead(setting, &pool, &context, &mut report).await;
    death_notice(setting, &pool, &context, &mut report).await;
    panic_report(setting, &pool, &mut report).await;
    if setting.placement == Placement::Any {
        // Whether anything grows does not depend on who runs where.
        many_in_a_row(setting, &pool, &context, &mut report).await;
    }
    pool.stop(Duration::from_secs(5)).await;
    report
}

async fn overhead(
    setting: Setting,
    pool: &PoolHandle<Apprentice>,
    context: &ErrorContext,
    report: &mut Report,
) {
    let checkout = pool.checkout().start();
    support::pin_workers(setting, std::slice::from_ref(&checkout)).await;
    let mut within = Series::seconds("forkpool, held checkout, in a context");
    let mut without = Series::seconds("forkpool, held checkout, without");
    // What one round costs says more of the machine than of us; the two of a pair are measured right after each other.
    let mut pairs = Series::seconds("");
    for round in 0..setting.rounds(1000) {
        let bare = if round % 2 == 0 { Some(calls(&checkout, CALLS).await) } else { None };
        let bound = context.scope(calls(&checkout, CALLS)).await;
        // Each goes first as often as the other.
        let bare = match bare {
            Some(bare) => bare,
            None => calls(&checkout, CALLS).await,
        };
        within.push(bound);
        without.push(bare);
        pairs.push(bound / bare);
    }
    [&within, &without].into_iter().for_each(|series| report.row(series));
    report.ratio(&format!("failure/context_overhead@{}", setting.placement), pairs.median());
}

/// Seconds for each of some calls, one after the other.
///
/// Boxed, so that it is the same compiled code in a context and without: two copies of it that differ in where they
/// lie differ by as much as is to be measured.
fn calls(checkout: &Addr<Checkout<Apprentice>>, count: usize) -> Pin<Box<dyn Future<Output = f64> + '_>> {
    Box::pin(async move {
        let began = Instant::now();
        for _ in 0..count {
            checkout.send(echo()).await.expect("an answer").expect("an echo");
        }
        each(count, began)
    })
}

async fn death_notice(
    setting: Setting,
    pool: &PoolHandle<Apprentice>,
    context: &ErrorContext,
    report: &mut Report,
) {
    let mut ours = Series::seconds("forkpool, from kill -9 of the busy worker to its caller's failure");
    let mut notice = Series::seconds("notice: kill -9 to end-of-file, async reader");
    for _ in 0..setting.rounds(200) {
        ours.push(context.scope(told_of_death(setting, pool)).await);
        let sleeper = Sleeper::start(setting);
        let began = Instant::now();
        sleeper.kill_and_hear().await;
        notice.push(began.elapsed().as_secs_f64());
    }
    [&ours, &notice].into_iter().for_each(|series| report.row(series));
    report.ratio(&format!("failure/death_notice@{}", setting.placement), ours.median() / notice.median());
}

async fn told_of_death(setting: Setting, pool: &PoolHandle<Apprentice>) -> f64 {
    let busy = pool.checkout().start();
    let (pid, server) = busy.send(Whereabouts).await.expect("an answer").expect("a worker");
    setting.place(pid);
    setting.place(server);
    let sleeping = busy.send(Sleep(Duration::from_secs(600)));
    support::until("the worker sleeps", || support::announces_sleep(pid)).await;
    let began = Instant::now();
    kill_process(process_id(pid), Signal::KILL).expect("the worker is there");
    let failure = sleeping.await.expect("an answer").expect_err("it was killed");
    let took = began.elapsed();
    assert_eq!(failure.kind(), FailureKind::Died, "the call was lost to its worker's death");
    took.as_secs_f64()
}

async fn panic_report(setting: Setting, pool: &PoolHandle<Apprentice>, report: &mut Report) {
    let mut panics = Series::seconds("forkpool, from a call that panics to its failure");
    let mut aborts = Series::seconds("forkpool, from a call that aborts to its failure");
    for round in 0..setting.rounds(200) {
        // Each goes first as often as the other.
        for turn in [round, round + 1] {
            let checkout = pool.checkout().start();
            support::pin_workers(setting, std::slice::from_ref(&checkout)).await;
            let began = Instant::now();
            if turn % 2 == 0 {
                let failure = checkout.send(Panic).await.expect("an answer").expect_err("a panic");
                panics.push(began.elapsed().as_secs_f64());
                assert_eq!(failure.kind(), FailureKind::Panic, "{failure}");
                assert!(failure.panic().is_some_and(|report| report.backtrace.is_empty()), "{failure:#}");
            } else {
                let failure = checkout.send(AbortProcess).await.expect("an answer").expect_err("a death");
                aborts.push(began.elapsed().as_secs_f64());
                assert_eq!(failure.kind(), FailureKind::Died, "{failure}");
            }
        }
    }
    [&panics, &aborts].into_iter().for_each(|series| report.row(series));
    report
        .ratio(&format!("failure/panic_over_abort@{}", setting.placement), panics.median() / aborts.median());
}

async fn many_in_a_row(
    setting: Setting,
    pool: &PoolHandle<Apprentice>,
    context: &ErrorContext,
    report: &mut Report,
) {
    let checkout = pool.checkout().start();
    let many = if setting.quick { FEW } else { MANY };
    let tenth = many / 10;
    context.scope(calls(&checkout, CALLS)).await;
    let before = resident();
    // The machine has slower and faster spells, so each end of the row has calls without a context beside it.
    let first = [calls(&checkout, tenth).await, context.scope(calls(&checkout, tenth)).await];
    context.scope(calls(&checkout, many - 2 * tenth)).await;
    let last = [context.scope(calls(&checkout, tenth)).await, calls(&checkout, tenth).await];
    let bytes = resident().saturating_sub(before);
    report.note(format!(
        "{many} calls in a row: {:.0} ns each in the first tenth and {:.0} ns in the last ({:.0} and {:.0} ns without a \
         context right before and after); {bytes} bytes more in memory, {:.4} a call",
        first[1] * 1e9,
        last[0] * 1e9,
        first[0] * 1e9,
        last[1] * 1e9,
        bytes as f64 / many as f64
    ));
    let name = format!("failure/last_tenth_of_row@{}", setting.placement);
    report.ratio(&name, (last[0] / last[1]) / (first[1] / first[0]));
}

/// Memory that this process has in use, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0_u64) << 10
}
