//! One call at a time, beside what others offer: other crates and other languages.
//!
//! The same text there and back, warm, through a pool or a channel of one process. Python and Node are measured where they
//! are installed, by programs of their own that are unpinned in any placement but that of one processor.

mod support;

use std::time::Duration;

use forkpool::prelude::*;
use support::{Apprentice, IpcChannel, Placement, Procspawn, Report, Script, Series, Setting, calls, repeat};

/// Calls of one round.
const CALLS: usize = 200;

fn main() {
    support::run("peers", &[Placement::One, Placement::Any], measure);
}

async fn measure(setting: Setting) -> Report {
    let pool = Pool::<Apprentice>::builder(()).workers(2..=2).start().expect("a pool");
    let checkout = pool.checkout().start();
    support::pin_workers(setting, std::slice::from_ref(&checkout)).await;
    let procspawn = Procspawn::start(setting);
    let channel = IpcChannel::start(setting);
    let mut python = Script::start("python3", "executor.py");
    let mut node = Script::start("node", "children.js");

    let mut ours = Series::seconds("forkpool, held checkout");
    let mut single = Series::seconds("forkpool, calls to the pool");
    let mut spawned = Series::seconds("procspawn, pool of one process");
    let mut channelled = Series::seconds("ipc-channel, a process behind two channels");
    let mut executed = Series::seconds("Python, ProcessPoolExecutor(1)");
    let mut noded = Series::seconds("Node, child_process.fork");
    for _ in 0..setting.rounds(60) {
        ours.push(calls(&checkout, CALLS).await);
        single.push(calls_to(&pool).await);
        spawned.push(repeat(CALLS, || procspawn.call()));
        channelled.push(repeat(CALLS, || channel.call()));
        for (script, series) in [(&mut python, &mut executed), (&mut node, &mut noded)] {
            if let Some(took) = script.as_mut().and_then(|script| script.calls(CALLS)) {
                series.push(took);
            }
        }
    }

    let mut report = Report::default();
    let at = setting.placement;
    report.row(&ours);
    report.row(&single);
    let peers =
        [("procspawn", &spawned), ("ipc_channel", &channelled), ("python", &executed), ("node", &noded)];
    for (name, peer) in peers {
        if peer.median().is_nan() {
            report.note(format!("{name} is not installed"));
            continue;
        }
        report.row(peer);
        report.ratio(&format!("peers/{name}@{at}"), ours.median() / peer.median());
    }
    drop(checkout);
    pool.stop(Duration::ZERO).await;
    report
}

/// Seconds for each of some calls to the pool itself. One worker is held, so they have the other one.
async fn calls_to(pool: &PoolHandle<Apprentice>) -> f64 {
    calls(&pool.addr(), CALLS).await
}
