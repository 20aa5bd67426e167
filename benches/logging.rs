//! What it costs to listen to workers: by a request's log or by a subscriber, with nothing to log and with workers that log.
//!
//! Pairs of rounds on the same worker, one listened to and one not, each going first as often as the other.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix::Addr;
use forkpool::RequestLog;
use forkpool::prelude::*;
use support::{Apprentice, Placement, Report, Series, Setting, each, echo};
use tracing::Instrument;
use tracing::subscriber::DefaultGuard;

/// Calls of one round.
const CALLS: usize = 200;

/// Events of one call that logs.
const EVENTS: u32 = 10;

/// Timers and messages of the logs that were delivered, so that no log can be left out.
static DELIVERED: AtomicUsize = AtomicUsize::new(0);

fn main() {
    support::run("logging", &Placement::ALL, measure);
}

async fn measure(setting: Setting) -> Report {
    let pool = Pool::<Apprentice>::builder(()).workers(1..=1).start().expect("a pool");
    let mut report = Report::default();
    let at = setting.placement;

    let mut attached = Series::seconds("a call with a log attached, nothing logged");
    let mut bare = Series::seconds("the same without");
    let ratio = compare(setting, &pool, Listener::Log, 400, &mut attached, &mut bare, calls).await;
    report.row(&attached);
    report.row(&bare);
    report.ratio(&format!("logging/attached@{at}"), ratio);

    let mut logging = Series::seconds("a call that logs ten events, with a log attached");
    let mut silent = Series::seconds("the same without, and no log receives them");
    let ratio = compare(setting, &pool, Listener::Log, 100, &mut logging, &mut silent, talk).await;
    report.row(&logging);
    report.row(&silent);
    report.ratio(&format!("logging/ten_events@{at}"), ratio);
    let cost = (logging.median() - silent.median()) / f64::from(EVENTS);
    report.note(format!(
        "an event of a worker costs {:.0} ns, in the worker and in the log together",
        cost * 1e9
    ));

    let mut deep = Series::seconds("a call that logs ten events, 64 in flight, with a log attached");
    let mut shallow = Series::seconds("the same without");
    let ratio = compare(setting, &pool, Listener::Log, 50, &mut deep, &mut shallow, in_flight).await;
    report.row(&deep);
    report.row(&shallow);
    report.ratio(&format!("logging/ten_events_in_flight@{at}"), ratio);

    let mut heard = Series::seconds("a call in a span of a subscriber's, nothing logged");
    let mut unheard = Series::seconds("the same without a subscriber");
    let ratio = compare(setting, &pool, Listener::Subscriber, 400, &mut heard, &mut unheard, calls).await;
    report.row(&heard);
    report.row(&unheard);
    report.ratio(&format!("logging/subscriber@{at}"), ratio);

    pool.stop(Duration::from_secs(5)).await;
    assert!(DELIVERED.load(Ordering::Relaxed) > 0, "logs were delivered");
    report
}

/// Who listens to the calls of a round, in every other one.
#[derive(Clone, Copy, PartialEq)]
enum Listener {
    Log,
    Subscriber,
}

/// The median of what a call costs with a listener in proportion to what it costs without, of rounds right behind each
/// other.
async fn compare(
    setting: Setting,
    pool: &PoolHandle<Apprentice>,
    listener: Listener,
    rounds: usize,
    with: &mut Series,
    without: &mut Series,
    round: impl AsyncFn(&Addr<Checkout<Apprentice>>) -> f64,
) -> f64 {
    let mut ratios = Series::seconds("");
    for number in 0..setting.rounds(rounds) {
        let mut took = [0.0, 0.0];
        for turn in 0..2 {
            let is_heard = (number + turn) % 2 == 0;
            let by = |one| is_heard && listener == one;
            let _subscriber = by(Listener::Subscriber).then(subscriber);
            let builder = pool.checkout();
            let checkout = if by(Listener::Log) { builder.log(&log()).start() } else { builder.start() };
            support::pin_workers(setting, std::slice::from_ref(&checkout)).await;
            let span = tracing::info_span!("request");
            took[usize::from(is_heard)] = round(&checkout).instrument(span).await;
            drop(checkout);
            support::until("the worker is free", || pool.stats().idle == 1).await;
        }
        without.push(took[0]);
        with.push(took[1]);
        ratios.push(took[1] / took[0]);
    }
    ratios.median()
}

/// One that reads what is of level info, until the guard is dropped.
fn subscriber() -> DefaultGuard {
    tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(std::io::sink).finish())
}

fn log() -> RequestLog {
    RequestLog::new(|log| {
        DELIVERED.fetch_add(log.timers.len() + log.messages.len(), Ordering::Relaxed);
    })
}

async fn calls(checkout: &Addr<Checkout<Apprentice>>) -> f64 {
    let began = Instant::now();
    for _ in 0..CALLS {
        checkout.send(echo()).await.expect("an answer").expect("an echo");
    }
    each(CALLS, began)
}

async fn talk(checkout: &Addr<Checkout<Apprentice>>) -> f64 {
    let began = Instant::now();
    for _ in 0..CALLS {
        checkout.send(support::Log(EVENTS)).await.expect("an answer").expect("it has logged");
    }
    each(CALLS, began)
}

async fn in_flight(checkout: &Addr<Checkout<Apprentice>>) -> f64 {
    let began = Instant::now();
    for _ in 0..CALLS / 50 {
        let requests: Vec<_> = (0..64).map(|_| checkout.send(support::Log(EVENTS))).collect();
        for request in requests {
            request.await.expect("an answer").expect("it has logged");
        }
    }
    each(CALLS / 50 * 64, began)
}
