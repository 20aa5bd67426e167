//! Values and types of the user's that panic wherever the library drops, formats or converts them: the actors, the
//! worker and the other calls go on.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::time::Duration;

use crate::harness::*;
use actix::MailboxError;
use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

/// Panics when it is dropped in the process with this id.
#[derive(Debug, Serialize, Deserialize)]
struct Fuse(u32);

impl Fuse {
    fn here() -> Self {
        BLOWN.store(0, Ordering::Relaxed);
        Fuse(std::process::id())
    }
}

/// How many fuses have panicked in this process since one was last made.
static BLOWN: AtomicU32 = AtomicU32::new(0);

impl Drop for Fuse {
    fn drop(&mut self) {
        if self.0 == std::process::id() {
            BLOWN.fetch_add(1, Ordering::Relaxed);
            panic!("a value that panics");
        }
    }
}

async fn blown(count: u32) {
    until("all fuses have blown", || BLOWN.load(Ordering::Relaxed) == count).await;
}

/// An error of which nothing can be had.
#[derive(Serialize, Deserialize)]
struct Odd;

impl Display for Odd {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("an error that cannot be shown")
    }
}

impl From<Failure> for Odd {
    fn from(failure: Failure) -> Self {
        panic!("no error is made from: {failure}")
    }
}

impl<T> Answered for Result<T, Odd> {
    type Answer = Self;

    fn answer(self) -> Self {
        self
    }
}

/// A limit that cannot be had.
struct Unlimited;

impl From<Unlimited> for Option<Duration> {
    fn from(_: Unlimited) -> Self {
        panic!("no limit")
    }
}

/// Carries a fuse to the worker, which answers with its pid.
#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
struct Take(Fuse);

/// Has the worker answer with a fuse of the application's, once the file says so.
#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<Fuse, Failure>")]
struct Give(u32, Option<PathBuf>);

impl Give {
    fn here() -> Self {
        Give(Fuse::here().spare(), None)
    }
}

impl Fuse {
    /// Returns the process in which it would panic; it does not any more.
    fn spare(mut self) -> u32 {
        std::mem::take(&mut self.0)
    }
}

/// Fails with an odd error.
#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Odd>")]
struct Err1(bool);

/// Does something that panics, in the worker.
#[derive(Clone, Copy, Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<(), Failure>")]
enum Panic {
    /// With a value that panics when it is dropped.
    WithAFuse,
    /// When the call's own value is dropped.
    Dropping,
    /// In `checkout_done`, with a value that panics.
    Later,
}

#[derive(Debug)]
struct Touchy {
    panics_later: bool,
}

impl Actor for Touchy {
    type Context = WorkerContext<Self>;
}

impl Worker for Touchy {
    /// Whether the preload fails.
    type Config = bool;

    fn setup(_: bool, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Touchy { panics_later: false })
    }

    fn preload(fails: &bool, shared: &mut Preload) -> Result<(), SetupError> {
        if *fails {
            shared.put(Fuse::here());
            return Err(SetupError::new("no preload"));
        }
        Ok(())
    }

    fn checkout_done(&mut self, _: &mut WorkerContext<Self>) {
        if self.panics_later {
            std::panic::panic_any(Fuse::here());
        }
    }
}

impl Handler<Take> for Touchy {
    type Result = Result<u32, Failure>;

    fn handle(&mut self, _: Take, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(std::process::id())
    }
}

impl Handler<Give> for Touchy {
    type Result = Result<Fuse, Failure>;

    fn handle(&mut self, Give(process, gate): Give, _: &mut WorkerContext<Self>) -> Self::Result {
        if let Some(gate) = gate {
            std::fs::write(&gate, "begun").expect("a file");
            while std::fs::read_to_string(&gate).is_ok_and(|text| text == "begun") {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(Fuse(process))
    }
}

impl Handler<Err1> for Touchy {
    type Result = Result<u32, Odd>;

    fn handle(&mut self, Err1(fails): Err1, _: &mut WorkerContext<Self>) -> Self::Result {
        if fails { Err(Odd) } else { Ok(std::process::id()) }
    }
}

impl Handler<Panic> for Touchy {
    type Result = Result<(), Failure>;

    fn handle(&mut self, panic: Panic, _: &mut WorkerContext<Self>) -> Self::Result {
        match panic {
            Panic::WithAFuse => std::panic::panic_any(Fuse::here()),
            Panic::Dropping => drop(Fuse::here()),
            Panic::Later => self.panics_later = true,
        }
        Ok(())
    }
}

forkpool::interface!(Touchy { Take, Give, Err1, Panic });
forkpool::boot!(Touchy);

fn touchy() -> PoolHandle<Touchy> {
    builder::<Touchy>(false).workers(1..=1).start().expect("the pool starts")
}

/// Makes a call in which nothing panics; returns the worker's pid.
async fn works(pool: &PoolHandle<Touchy>) -> u32 {
    let spared = Take(Fuse(0));
    answer(pool.send(spared)).await.expect("a pid")
}

/// G1: by address, through a checkout, and through the handle.
#[test]
fn a_message_that_panics_when_it_is_dropped_is_answered_all_the_same() {
    run(async {
        let pool = touchy();
        let worker = works(&pool).await;
        let take = || Take(Fuse::here());
        let (checkout, limit) = (pool.checkout().start(), PATIENCE);
        assert_eq!(answer(checkout.send(take())).await, Ok(worker));
        assert_eq!(answer(checkout.send(Within(limit, take()))).await, Ok(worker));
        assert_eq!(answer(checkout.send(here(take()))).await, Ok(worker));
        assert_eq!(answer(checkout.send(here(Within(limit, take())))).await, Ok(worker));
        // The same actor serves on.
        drop(checkout);
        let address = pool.addr();
        assert_eq!(answer(address.send(take())).await, Ok(worker));
        assert_eq!(answer(address.send(Within(limit, take()))).await, Ok(worker));
        assert_eq!(answer(address.send(here(take()))).await, Ok(worker));
        assert_eq!(answer(address.send(here(Within(limit, take())))).await, Ok(worker));
        assert_eq!(answer(pool.send(take())).await, Ok(worker));
        blown(1).await;
    });
}

/// G1: a second panic in the drop of a list would abort the process.
#[test]
fn messages_of_a_batch_that_panic_when_they_are_dropped_are_answered() {
    run(async {
        let pool = touchy();
        let worker = works(&pool).await;
        let batch = || vec![Take(Fuse::here()), Take(Fuse::here()), Take(Fuse::here())];
        let all = vec![Ok(worker); 3];
        assert_eq!(answer(pool.send_batch(batch())).await, all);
        assert_eq!(answer(pool.addr().send_batch(batch())).await, all);
        let checkout = pool.checkout().start();
        assert_eq!(answer(checkout.send_batch(batch())).await, all);
        assert_eq!(answer(checkout.send_batch(batch())).await, all);
        blown(3).await;
    });
}

/// G1
#[test]
fn a_message_that_was_given_up_and_panics_ends_no_actor() {
    run(async {
        let pool = touchy();
        let worker = works(&pool).await;
        let checkout = pool.checkout().start();
        let address = pool.addr();
        // Both find the request closed when they get to it.
        drop(checkout.send(Take(Fuse::here())));
        drop(address.send(Take(Fuse(std::process::id()))));
        blown(2).await;
        assert_eq!(answer(checkout.send(Take(Fuse(0)))).await, Ok(worker));
        drop(checkout);
        assert_eq!(answer(address.send(Take(Fuse(0)))).await, Ok(worker));
    });
}

/// G1: nothing awaits the reply, or not any more.
#[test]
fn a_reply_that_panics_when_it_is_dropped_ends_nothing() {
    run(async {
        let pool = touchy();
        let worker = works(&pool).await;
        let checkout = pool.checkout().start();
        checkout.do_send(Give::here());
        blown(1).await;
        checkout.do_send(Batch(vec![Give::here(), Give::here()]));
        blown(2).await;
        pool.do_send(Give::here());
        pool.addr().do_send(Give::here());

        let gate = Scratch::path();
        let request = checkout.send(Give(Fuse::here().spare(), gate.some()));
        until("the call runs", || gate.lines() == ["begun"]).await;
        drop(request);
        std::fs::write(gate.get(), "go on").expect("a file");
        assert_eq!(answer(checkout.send(Take(Fuse(0)))).await, Ok(worker));
        drop(checkout);
        // The calls to the pool came behind the checkout.
        blown(3).await;
        assert_eq!(works(&pool).await, worker, "no worker was given up");
    });
}

/// G1: the call is the last owner of its context's locals and handler.
#[test]
fn a_local_or_handler_that_panics_when_it_is_dropped_ends_nothing() {
    run(async {
        let pool = touchy();
        let worker = works(&pool).await;
        let checkout = pool.checkout().start();
        let send_below_fuses = || {
            let fuse = Fuse::here();
            let handler = Fuse(std::process::id());
            let context = ErrorContext::named("fused").local(fuse).on_failure(move |_: ContextFailure| {
                let _kept = &handler;
            });
            context.run(|| checkout.send(Take(Fuse(0))))
        };
        for _ in 0..2 {
            assert_eq!(answer(send_below_fuses()).await, Ok(worker));
            blown(2).await;
        }
    });
}

/// G1: a handler of failures panics with a value that panics, and the next one outward gets the failure.
#[test]
fn a_handler_that_panics_with_a_value_that_panics_passes_the_failure_on() {
    run(async {
        let pool = touchy();
        let checkout = pool.checkout().start();
        let (sender, failures) = channel();
        let sender = Mutex::new(sender);
        let outer = ErrorContext::named("outer").on_failure(move |failure: ContextFailure| {
            sender.lock().expect("a lock").send(failure.to_string()).expect("the test listens");
        });
        let inner = outer.run(|| {
            ErrorContext::named("inner")
                .on_failure(|_: ContextFailure| -> () { std::panic::panic_any(Fuse::here()) })
        });
        assert!(inner.run(|| checkout.send(Err1(true))).await.expect("an answer").is_err());
        // The error's own text is not to be had.
        let mut failure = String::new();
        until("the failure was handled", || {
            failure = failures.try_recv().unwrap_or_default();
            !failure.is_empty()
        })
        .await;
        assert!(failure.contains("Odd"), "{failure}");
        blown(1).await;
        assert!(answer(checkout.send(Err1(false))).await.is_ok());
    });
}

/// G1: what cannot be answered leaves the checkout and its worker as they were.
#[test]
fn an_error_type_that_panics_ends_no_checkout() {
    run(async {
        let pool = touchy();
        let checkout = pool.checkout().keep_after_error(true).start();
        let worker = answer(checkout.send(Take(Fuse(0)))).await.expect("a pid");
        // The second call is cleared, and there is no error to say so.
        let (fails, cleared) = (checkout.send(Err1(true)), checkout.send(Err1(false)));
        let batch = checkout.send_batch(vec![Err1(false), Err1(false)]);
        assert!(fails.await.expect("its own error").is_err());
        assert!(matches!(cleared.await, Err(MailboxError::Closed)));
        assert!(matches!(batch.await, Err(MailboxError::Closed)));
        assert!(matches!(answer(checkout.send(Err1(false))).await, Ok(pid) if pid == worker));
    });
}

/// Panics when its task is woken.
struct Alarm;

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        panic!("a task that cannot be woken");
    }
}

/// A future that was polled once, in a task that cannot be woken, or what it came to then.
enum Begun<F: Future> {
    Pending(Pin<Box<F>>),
    Over(F::Output),
}

impl<F: Future> Begun<F> {
    fn of(future: F) -> Self {
        let mut future = Box::pin(future);
        match future.as_mut().poll(&mut TaskContext::from_waker(&Waker::from(Arc::new(Alarm)))) {
            Poll::Pending => Begun::Pending(future),
            Poll::Ready(output) => Begun::Over(output),
        }
    }

    async fn end(self) -> F::Output {
        match self {
            Begun::Pending(future) => bounded("an answer", future).await,
            Begun::Over(output) => output,
        }
    }
}

/// G1: of a call, of `ready`, of `server_stats` and of `stop`.
#[test]
fn a_task_that_panics_when_it_is_woken_gets_its_answer_and_ends_nothing() {
    run(async {
        let pool = touchy();
        let ready = Begun::of(pool.ready());
        let worker = works(&pool).await;
        ready.end().await.expect("workers");
        let checkout = pool.checkout().start();
        let called = Begun::of(checkout.send(Take(Fuse(0))));
        let stats = Begun::of(pool.server_stats());
        let batch = Begun::of(checkout.send_batch(vec![Take(Fuse(0))]));
        assert_eq!(answer(checkout.send(Take(Fuse(0)))).await, Ok(worker));
        bounded("an answer", pool.server_stats()).await.expect("figures");
        assert_eq!(called.end().await.answer(), Ok(worker));
        assert_eq!(batch.end().await.answer(), [Ok(worker)]);
        stats.end().await.expect("figures");
        drop(checkout);
        let stopped = Begun::of(pool.stop(Duration::ZERO));
        bounded("the end", pool.stop(Duration::ZERO)).await;
        assert!(stopped.end().await.is_complete());
    });
}

/// G1
#[test]
fn a_limit_that_panics_fails_its_own_call() {
    run(async {
        let pool = touchy();
        let worker = works(&pool).await;
        let checkout = pool.checkout().start();
        let unlimited = || Within(Unlimited, Take(Fuse(0)));
        let batch = || Within(Unlimited, Batch(vec![Take(Fuse(0)), Take(Fuse(0))]));
        let mut failures = vec![failure(checkout.send(unlimited())).await];
        failures.push(failure(checkout.send(here(unlimited()))).await);
        failures.extend(answer(checkout.send(batch())).await.into_iter().filter_map(Result::err));
        assert_eq!(answer(checkout.send(Take(Fuse(0)))).await, Ok(worker));
        drop(checkout);
        let address = pool.addr();
        failures.push(failure(address.send(unlimited())).await);
        failures.extend(answer(address.send(batch())).await.into_iter().filter_map(Result::err));
        assert_eq!(answer(address.send(Take(Fuse(0)))).await, Ok(worker));
        assert_eq!(failures.len(), 7);
        for failure in failures {
            assert_eq!(failure.kind(), FailureKind::Payload);
            assert!(failure.to_string().contains("its Into panicked"), "{failure}");
        }
    });
}

/// G1, E1: in the worker a value that panics fails its own call, with a report, and not the process.
#[test]
fn a_value_that_panics_in_a_worker_is_reported_as_any_panic() {
    run(async {
        let pool = touchy();
        for panic in [Panic::WithAFuse, Panic::Dropping] {
            let failure = failure(pool.send(panic)).await;
            assert_eq!(failure.kind(), FailureKind::Panic, "{panic:?}");
        }
        let before = works(&pool).await;
        let checkout = pool.checkout().start();
        answer(checkout.send(Panic::Later)).await.expect("an answer");
        drop(checkout);
        gone(before).await;
        // It ended as after any panic, and not by an abort; so the next one was not delayed.
        works(&pool).await;
    });
}

/// G1, W3
#[test]
fn a_preload_that_fails_and_leaves_a_value_that_panics_says_why() {
    run(async {
        let pool = builder::<Touchy>(true).workers(1..=1).start().expect("the pool starts");
        let failure = failure(pool.send(Take(Fuse(0)))).await;
        assert_eq!(failure.kind(), FailureKind::Setup);
        assert!(chain(&failure).iter().any(|text| text == "no preload"), "{failure:#}");
    });
}
