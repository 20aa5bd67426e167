//! One call at a time: how much of a round trip is ours, and how much is the kernel's.
//!
//! A 64-byte echo on a held checkout, called directly and by its address. Beside it the limit for anything that sleeps in the kernel, a blocking ping-pong of 64
//! bytes over pipes and over a socket pair; the limit for anything at all, two processors that spin on a cache line; and
//! what users have otherwise, actix's `SyncArbiter` with one thread and a procspawn pool of one process. With the feature
//! `iceoryx2` also iceoryx2's request-response between two processes, with both of them polling and with its events.

mod support;

use std::time::Duration;

use actix::{Addr, Arbiter};
use forkpool::prelude::*;
use support::{
    Apprentice, Echoer, Piper, Placement, Procspawn, Report, Series, Setting, Spinner, Whereabouts, calls,
    repeat,
};
use tokio::sync::oneshot;

/// Calls of one round; a round is short so that a disturbance of the machine spoils few samples.
const CALLS: usize = 200;

fn main() {
    support::run("round_trip", &Placement::ALL, measure);
}

async fn measure(setting: Setting) -> Report {
    let pool = Pool::<Apprentice>::builder(()).workers(3..=3).start().expect("a pool");
    let here = pool.checkout().start();
    let abroad = Abroad::start(&pool).await;
    support::pin_workers(setting, &[here.clone(), abroad.checkout.clone()]).await;
    let direct = support::open(&pool, 1).await.remove(0);
    let (pid, _) = direct.call(Whereabouts).await.expect("a worker");
    setting.place(pid);
    let threads = support::sync_peers(setting, 1);
    let (mut piper, mut echoer) = (Piper::start(setting), Echoer::start(setting));
    let procspawn = Procspawn::start(setting);
    let mut iceoryx = iceoryx::Peers::start(setting);

    let mut ours = Series::seconds("forkpool, held checkout, called directly");
    let mut actor = Series::seconds("forkpool, held checkout");
    let mut foreign = Series::seconds("forkpool, held checkout of another arbiter, called there");
    let mut pipe = Series::seconds("blocking ping-pong over a pair of pipes");
    let mut socket = Series::seconds("blocking ping-pong over a socket pair");
    let mut floor = Series::seconds("spinning ping-pong through memory");
    let mut sync = Series::seconds("SyncArbiter, one thread");
    let mut spawned = Series::seconds("procspawn, pool of one process");
    for _ in 0..setting.rounds(100) {
        ours.push(calls(&direct, CALLS).await);
        actor.push(calls(&here, CALLS).await);
        pipe.push(repeat(CALLS, || piper.ping()));
        socket.push(repeat(CALLS, || echoer.ping()));
        if setting.placement == Placement::Two {
            // It has its processor to itself, and would be in the way of all others if it did not end.
            let mut spinner = Spinner::start(setting);
            floor.push(repeat(CALLS, || spinner.ping()));
        }
        sync.push(calls(&threads, CALLS).await);
        spawned.push(repeat(CALLS, || procspawn.call()));
        iceoryx.round();
        foreign.push(abroad.calls().await);
    }

    let mut report = Report::default();
    let at = setting.placement;
    [&ours, &actor, &foreign, &pipe, &socket, &sync, &spawned]
        .into_iter()
        .for_each(|series| report.row(series));
    let peers = [("pipe", &pipe), ("socketpair", &socket), ("sync_arbiter", &sync), ("procspawn", &spawned)];
    for (name, peer) in peers {
        report.ratio(&format!("round_trip/{name}@{at}"), ours.median() / peer.median());
    }
    if setting.placement == Placement::Two {
        report.row(&floor);
        for (name, series) in [("spin_floor", &ours), ("actor_spin_floor", &actor)] {
            report.ratio(&format!("round_trip/{name}@{at}"), series.median() / floor.median());
        }
    }
    iceoryx.report(&mut report, setting, &ours);
    report.ratio(&format!("round_trip/foreign_arbiter@{at}"), foreign.median() / actor.median());
    drop((direct, here, abroad));
    pool.stop(Duration::from_secs(5)).await;
    report
}

/// What is measured of iceoryx2, in a build with the feature for it.
#[cfg(feature = "iceoryx2")]
mod iceoryx {
    use super::support::{Iceoryx, Placement, Report, Series, Setting, Waiting};

    pub struct Peers(Vec<(Waiting, Iceoryx, Series)>);

    impl Peers {
        pub fn start(setting: Setting) -> Self {
            // Two processes that poll on one processor wait for the end of each other's time slice.
            let polling = (setting.placement != Placement::One).then_some(Waiting::Polling);
            let started = polling.into_iter().chain([Waiting::Events]).map(|waiting| {
                let series = Series::seconds(format!("iceoryx2, request-response, {waiting}"));
                (waiting, Iceoryx::start(setting, waiting), series)
            });
            Peers(started.collect())
        }

        pub fn round(&mut self) {
            for (_, peer, series) in &mut self.0 {
                series.push(peer.calls(super::CALLS));
            }
        }

        pub fn report(&self, report: &mut Report, setting: Setting, ours: &Series) {
            for (waiting, _, series) in &self.0 {
                let tail = if *waiting == Waiting::Polling { "" } else { "_events" };
                report.row(series);
                let name = format!("round_trip/iceoryx2{tail}@{}", setting.placement);
                report.ratio(&name, ours.median() / series.median());
            }
        }
    }
}

/// A build without that peer.
#[cfg(not(feature = "iceoryx2"))]
mod iceoryx {
    use super::support::{Report, Series, Setting};

    pub struct Peers;

    impl Peers {
        pub fn start(_: Setting) -> Self {
            Peers
        }

        pub fn round(&mut self) {}

        pub fn report(&self, report: &mut Report, setting: Setting, _: &Series) {
            let name = format!("round_trip/iceoryx2@{}", setting.placement);
            report.skip(&name, "it was built without the feature iceoryx2");
        }
    }
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
