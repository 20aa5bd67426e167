//! One call at a time: how much of a round trip is ours, and how much is the kernel's.
//!
//! A 64-byte echo on a held checkout. Beside it the limit for anything that sleeps in the kernel, a blocking ping-pong of 64
//! bytes over pipes and over a socket pair; the limit for anything at all, two processors that spin on a cache line; and
//! what users have otherwise, actix's `SyncArbiter` with one thread and a procspawn pool of one process.

mod support;

use std::time::Duration;

use actix::{Addr, Arbiter};
use forkpool::prelude::*;
use support::{
    Apprentice, Echoer, Piper, Placement, Procspawn, Report, Series, Setting, Spinner, calls, repeat,
};
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
    let (mut piper, mut echoer) = (Piper::start(setting), Echoer::start(setting));
    let procspawn = Procspawn::start(setting);

    let mut ours = Series::seconds("forkpool, held checkout");
    let mut foreign = Series::seconds("forkpool, held checkout of another arbiter, called there");
    let mut pipe = Series::seconds("blocking ping-pong over a pair of pipes");
    let mut socket = Series::seconds("blocking ping-pong over a socket pair");
    let mut floor = Series::seconds("spinning ping-pong through memory");
    let mut sync = Series::seconds("SyncArbiter, one thread");
    let mut spawned = Series::seconds("procspawn, pool of one process");
    for _ in 0..setting.rounds(100) {
        ours.push(calls(&here, CALLS).await);
        pipe.push(repeat(CALLS, || piper.ping()));
        socket.push(repeat(CALLS, || echoer.ping()));
        if setting.placement == Placement::Two {
            // It has its processor to itself, and would be in the way of all others if it did not end.
            let mut spinner = Spinner::start(setting);
            floor.push(repeat(CALLS, || spinner.ping()));
        }
        sync.push(calls(&threads, CALLS).await);
        spawned.push(repeat(CALLS, || procspawn.call()));
        foreign.push(abroad.calls().await);
    }

    let mut report = Report::default();
    let at = setting.placement;
    [&ours, &foreign, &pipe, &socket, &sync, &spawned].into_iter().for_each(|series| report.row(series));
    let peers = [("pipe", &pipe), ("socketpair", &socket), ("sync_arbiter", &sync), ("procspawn", &spawned)];
    for (name, peer) in peers {
        report.ratio(&format!("round_trip/{name}@{at}"), ours.median() / peer.median());
    }
    if setting.placement == Placement::Two {
        report.row(&floor);
        report.ratio(&format!("round_trip/spin_floor@{at}"), ours.median() / floor.median());
    }
    report.ratio(&format!("round_trip/foreign_arbiter@{at}"), foreign.median() / ours.median());
    drop((here, abroad));
    pool.stop(Duration::from_secs(5)).await;
    report
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
            let _ = done.send(calls(&checkout, CALLS).await);
        });
        measured.await.expect("the arbiter runs")
    }
}

impl Drop for Abroad {
    fn drop(&mut self) {
        self.arbiter.stop();
    }
}
