//! Subscribers that panic where the library asks or drops them, and that wait: the pool serves all the same.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::*;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Panics when it is asked whether it wants an event, and when it is dropped.
struct Averse;

impl Drop for Averse {
    fn drop(&mut self) {
        DROPPED.store(true, Ordering::Relaxed);
        panic!("a subscriber that panics");
    }
}

static DROPPED: AtomicBool = AtomicBool::new(false);

impl<S: tracing::Subscriber> Layer<S> for Averse {
    /// Does not ask, as the default would: another test may have registered the library's callsites before.
    fn register_callsite(&self, _: &'static tracing::Metadata<'static>) -> tracing::subscriber::Interest {
        tracing::subscriber::Interest::sometimes()
    }

    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        assert!(metadata.target() != "forkpool", "a subscriber that panics");
        true
    }
}

/// G1: the pool is the last owner of the subscriber.
#[test]
fn a_subscriber_that_panics_when_it_is_asked_or_dropped_ends_nothing() {
    run(async {
        let averse = tracing_subscriber::registry().with(Averse);
        let guard = tracing::subscriber::set_default(averse);
        let pool = pool_of_one();
        let worker = answer(pool.send(Pid)).await;
        let checkout = pool.checkout().start();
        // Outside of any context, so the library asks whether it would be logged.
        checkout.do_send(Fail("nothing handles this".to_owned()));
        until("it has failed", || pool.stats().errors == 1).await;
        assert_eq!(answer(checkout.send(Pid)).await, worker);
        drop((checkout, guard));
        answer(pool.send(Pid)).await.expect("a pid");
        bounded("the end", pool.stop(Duration::ZERO)).await;
        drop(pool);
        until("the subscriber is dropped", || DROPPED.load(Ordering::Relaxed)).await;
    });
}

/// Waits at the first event of a worker until the test ends.
struct Waiting(Mutex<Receiver<()>>);

impl<S: tracing::Subscriber> Layer<S> for Waiting {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != "forkpool" {
            // The sender is dropped in the end.
            let _ = self.0.lock().expect("a lock").recv();
        }
    }
}

/// G1: calls of threads without an arbiter share a thread of the library's.
#[test]
fn a_subscriber_that_waits_holds_up_no_call_of_another_thread() {
    run(async {
        let (go_on, gate) = channel::<()>();
        let slow = Arc::new(tracing_subscriber::registry().with(Waiting(Mutex::new(gate))));
        let pool = builder::<Scribe>(()).workers(1..=2).start().expect("the pool starts");
        let handle = pool.clone();
        on_a_thread(move || {
            tracing::subscriber::with_default(slow, || block_on(handle.send(Write::ByTheLogCrate))).map(drop)
        })
        .await
        .expect("an answer");
        let handle = pool.clone();
        let answer = on_a_thread(move || block_on(handle.send(Write::ByTheLogCrate))).await;
        assert_eq!(answer, Ok(0));
        drop(go_on);
    });
}
