//! What a call costs in allocations of the application, counted and not timed.
//!
//! Calls of 64 bytes in steady state. Beside them what actix itself needs for a message: to an actor on the same thread and
//! to a `SyncArbiter`. The result is a text: it is moved there, and decoded from a worker's reply here, which is one
//! allocation for each call that cannot be saved. The ratios do not count it, but for those of calls to the pool,
//! which count all there is.

mod support;

use std::alloc::System;
use std::time::Duration;

use actix::{Actor, Addr, Context, Handler};
use forkpool::prelude::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::{Apprentice, Callee, Echo, Placement, Report, Setting, echo};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Calls before anything is counted, and calls that are.
const BEFORE: usize = 5000;
const CALLS: usize = 20_000;

/// Calls in flight where there is more than one.
const DEPTH: usize = 64;

/// Calls of one batch.
const BATCH: usize = 64;

fn main() {
    support::run("allocations", &[Placement::Any], measure);
}

/// An actor on the same thread.
struct Neighbour;

impl Actor for Neighbour {
    type Context = Context<Self>;
}

impl Handler<Echo> for Neighbour {
    type Result = Result<String, Failure>;

    fn handle(&mut self, Echo(text): Echo, _: &mut Self::Context) -> Self::Result {
        Ok(text)
    }
}

async fn measure(setting: Setting) -> Report {
    let pool = Pool::<Apprentice>::builder(()).workers(2..=2).start().expect("a pool");
    let checkout = pool.checkout().start();
    let mut report = Report::default();
    let mut row = |name: &str, (count, bytes): (f64, f64)| {
        report.note(format!("{name:<45} {count:>6.2} allocations, {bytes:>7.1} bytes a call"));
        count
    };
    let neighbour = row("an actor on the same thread", of_calls(&Neighbour.start()).await);
    row("SyncArbiter, one thread", of_calls(&support::sync_peers(setting, 1)).await);
    let held = row("forkpool, held checkout", of_calls(&checkout).await);
    let single = row("forkpool, calls to the pool", of_calls(&pool).await);
    let crowded = row("forkpool, calls to the pool, 64 in flight", of_calls_in_flight(&pool).await);
    row("forkpool, calls to the pool's address", of_calls(&pool.addr()).await);
    let batched = row("forkpool, batches of 64 on a held checkout", of_batches(&checkout).await);
    report.ratio("allocations/call_over_actix", held - neighbour - 1.0);
    report.ratio("allocations/pool_call", single);
    report.ratio("allocations/pool_call_64", crowded);
    report.ratio("allocations/call_in_a_batch", batched - 1.0);
    drop(checkout);
    pool.stop(Duration::from_secs(1)).await;
    report
}

async fn of_calls(callee: &impl Callee<Echo>) -> (f64, f64) {
    support::calls(callee, BEFORE).await;
    // What is sent is made before, so that only what becomes of it is counted.
    let messages: Vec<Echo> = (0..CALLS).map(|_| echo()).collect();
    let region = Region::new(ALLOCATOR);
    for message in messages {
        callee.call(message).await;
    }
    each(&region)
}

/// The same, with many in flight: each of them is a task that sends, waits and sends again.
async fn of_calls_in_flight<C: Callee<Echo>>(callee: &C) -> (f64, f64) {
    support::in_flight(std::slice::from_ref(callee), &echo(), DEPTH, BEFORE).await;
    let share = || (0..CALLS / DEPTH).map(|_| echo()).collect::<Vec<_>>();
    let shares: Vec<_> = (0..DEPTH).map(|_| share()).collect();
    let region = Region::new(ALLOCATOR);
    let tasks = shares.into_iter().map(|share| {
        let callee = callee.clone();
        async move {
            for message in share {
                callee.call(message).await;
            }
        }
    });
    support::finish(tasks).await;
    each(&region)
}

async fn of_batches(addr: &Addr<Checkout<Apprentice>>) -> (f64, f64) {
    let batches = || (0..CALLS / BATCH).map(|_| Batch((0..BATCH).map(|_| echo()).collect::<Vec<_>>()));
    for batch in batches().collect::<Vec<_>>() {
        addr.send(batch).await.expect("an answer");
    }
    let batches: Vec<_> = batches().collect();
    let region = Region::new(ALLOCATOR);
    for batch in batches {
        addr.send(batch).await.expect("an answer");
    }
    each(&region)
}

/// Allocations and their bytes for each call.
fn each(region: &Region<'_, System>) -> (f64, f64) {
    let change = region.change();
    let count = change.allocations + change.reallocations;
    (count as f64 / CALLS as f64, change.bytes_allocated as f64 / CALLS as f64)
}
