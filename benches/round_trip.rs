//! One call at a time: how much of a round trip is ours, and how much is the kernel's.
//!
//! A 64-byte echo on a held checkout, beside a blocking ping-pong of 64 bytes over a socket pair (the limit for
//! anything that sleeps in the kernel) and beside actix's own `SyncArbiter` with one thread.

mod support;

use std::time::{Duration, Instant};

use actix::{Addr, Arbiter};
use forkpool::prelude::*;
use support::{Apprentice, Echoer, Placement, Report, Series, Setting, each};
use tokio::sync::oneshot;

/// Calls of one round; a round is short so that a disturbance of the machine spoils few samples.
const CALLS: usize = 200;

fn main() {
    support::run("round_trip", &Placement::ALL, measure);
}

async fn measure(setting: Setting) -> Report {
    let pool = Pool::<Apprentice>::builder(()).workers(2..=2).start().expect("a pool");
    let here = pool.checkout().start();
    let abroad = Abroad::start(&pool).await;
    support::pin_workers(setting, &[here.clone(), abroad.checkout.clone()]).await;
    let threads = support::sync_peers(setting, 1);
    let mut echoer = Echoer::start(setting);

    let mut ours = Series::seconds("forkpool, held checkout");
    let mut foreign = Series::seconds("forkpool, held checkout of another arbiter, called there");
    let mut socket = Series::seconds("blocking ping-pong over a socket pair");
    let mut sync = Series::seconds("SyncArbiter, one thread");
    for _ in 0..setting.rounds(100) {
        ours.push(support::calls(&here, CALLS).await);
        socket.push(pings(&mut echoer));
        sync.push(support::calls(&threads, CALLS).await);
        foreign.push(abroad.calls().await);
    }

    let mut report = Report::default();
    let at = setting.placement;
    [&ours, &foreign, &socket, &sync].into_iter().for_each(|series| report.row(series));
    report.ratio(&format!("round_trip/socketpair@{at}"), ours.median() / socket.median());
    report.ratio(&format!("round_trip/sync_arbiter@{at}"), ours.median() / sync.median());
    report.ratio(&format!("round_trip/foreign_arbiter@{at}"), foreign.median() / ours.median());
    drop((here, abroad));
    pool.stop(Duration::from_secs(5)).await;
    report
}

fn pings(echoer: &mut Echoer) -> f64 {
    let began = Instant::now();
    (0..CALLS).for_each(|_| echoer.ping());
    each(CALLS, began)
}

/// A checkout that was made on another arbiter than the pool's and is called from there.
struct Abroad {
    arbiter: Arbiter,
    checkout: Addr<Checkout<Apprentice>>,
}

impl Abroad {
    async fn start(pool: &PoolHandle<Apprentice>) -> Self {
        let arbiter = Arbiter::new();
        let (made, checkout) = oneshot::channel();
        let pool = pool.clone();
        arbiter.spawn_fn(move || drop(made.send(pool.checkout().start())));
        let checkout = checkout.await.expect("the arbiter runs");
        Abroad { arbiter, checkout }
    }

    async fn calls(&self) -> f64 {
        let checkout = self.checkout.clone();
        let (done, measured) = oneshot::channel();
        self.arbiter.spawn(async move {
            // Whoever asked waits for it below.
            let _ = done.send(support::calls(&checkout, CALLS).await);
        });
        measured.await.expect("the arbiter runs")
    }
}

impl Drop for Abroad {
    fn drop(&mut self) {
        self.arbiter.stop();
    }
}
