//! A server that is a program of its own beside one that the pool has started itself.
//!
//! The same worker, the same machine, the same calls: what it costs that workers come from a process that other
//! applications come to as well. Calls take the same way, from the application to its worker, so there should be no
//! difference; a start goes through a socket that the server has accepted.

mod support;

use std::time::Duration;

use forkpool::PoolBuilder;
use forkpool::prelude::*;
use support::{Apprentice, ForkServer, Placement, Report, Series, Setting};

/// Calls of one round.
const CALLS: usize = 200;

fn main() {
    support::run("apart", &Placement::ALL, measure);
}

async fn measure(setting: Setting) -> Report {
    let server = ForkServer::start();
    let apart = || Pool::<Apprentice>::connect(server.address());
    let own = || Pool::<Apprentice>::builder(());

    let mut report = Report::default();
    let at = setting.placement;
    let calls = measure_calls(setting, own(), apart()).await;
    let starts = measure_starts(setting, own(), apart()).await;
    for (name, [own, apart]) in [("round_trip", &calls), ("start", &starts)] {
        report.row(own);
        report.row(apart);
        report.ratio(&format!("apart/{name}@{at}"), apart.median() / own.median());
    }
    report
}

/// Pools with one worker that is there.
async fn measure_calls(
    setting: Setting,
    own: PoolBuilder<Apprentice>,
    apart: PoolBuilder<Apprentice>,
) -> [Series; 2] {
    let pools = [own, apart].map(|pool| pool.workers(1..=1).start().expect("a pool"));
    let [own, apart] = pools.each_ref().map(|pool| pool.checkout().start());
    support::pin_workers(setting, &[own.clone(), apart.clone()]).await;
    let mut series =
        ["its own server's worker, a call", "a worker of a server apart, a call"].map(Series::seconds);
    for _ in 0..setting.rounds(100) {
        series[0].push(support::calls(&own, CALLS).await);
        series[1].push(support::calls(&apart, CALLS).await);
    }
    drop((own, apart));
    stop(pools).await;
    series
}

/// Pools that have no worker.
async fn measure_starts(
    setting: Setting,
    own: PoolBuilder<Apprentice>,
    apart: PoolBuilder<Apprentice>,
) -> [Series; 2] {
    let pools = [own, apart].map(|pool| pool.workers(0..=20).start().expect("a pool"));
    for pool in &pools {
        support::place_server(setting, pool).await;
    }
    let mut series = ["its own server, from no worker to the first reply", "a server apart, the same"]
        .map(Series::seconds);
    for _ in 0..setting.rounds(300) {
        for (pool, series) in pools.iter().zip(&mut series) {
            series.push(support::first_reply(pool).await);
        }
    }
    stop(pools).await;
    series
}

async fn stop(pools: [PoolHandle<Apprentice>; 2]) {
    for pool in pools {
        pool.stop(Duration::ZERO).await;
    }
}
