//! Clients of every sort: those that panic, and those on threads and arbiters of their own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::*;
use actix::MailboxError;
use actix::dev::SendError;
use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

/// A client whose handlers panic.
struct Careless {
    checkout: Option<Addr<Checkout<Probe>>>,
}

impl Actor for Careless {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "()")]
struct PanicNow;

#[derive(Message)]
#[rtype(result = "()")]
struct PanicOnReply;

impl Handler<PanicNow> for Careless {
    type Result = ();

    fn handle(&mut self, _: PanicNow, _: &mut Self::Context) {
        panic!("a careless handler");
    }
}

impl Handler<PanicOnReply> for Careless {
    type Result = ();

    fn handle(&mut self, _: PanicOnReply, ctx: &mut Self::Context) {
        let request = self.checkout.take().map(|checkout| checkout.send(Pid));
        let request = request.expect("the checkout is still there").into_actor(self);
        ctx.spawn(request.map(|_, _, _| panic!("a careless callback")));
    }
}

/// C10
#[test]
fn a_client_that_panics_leaks_no_worker() {
    run(async {
        let pool = pool_of_one();
        let worker = answer(pool.send(Pid)).await.expect("a pid");
        // In a task.
        let checkout = pool.checkout().start();
        let task = actix_rt::spawn(async move {
            pid(&checkout).await;
            panic!("a careless task");
        });
        assert!(task.await.is_err());
        assert_eq!(answer(pool.send(Pid)).await, Ok(worker));
        // In a handler.
        let checkout = pool.checkout().start();
        pid(&checkout).await;
        let careless = Careless { checkout: Some(checkout) }.start();
        assert_eq!(careless.send(PanicNow).await, Err(MailboxError::Closed));
        assert_eq!(answer(pool.send(Pid)).await, Ok(worker));
        // In a callback.
        let careless = Careless { checkout: Some(pool.checkout().start()) }.start();
        answer(careless.send(PanicOnReply)).await;
        until("the actor has panicked", || !careless.connected()).await;
        assert_eq!(answer(pool.send(Pid)).await, Ok(worker));
        // On a thread, with a call that runs.
        let checkout = pool.checkout().start();
        let thread = std::thread::spawn(move || {
            checkout.do_send(Slow(Duration::from_millis(30), 1));
            panic!("a careless thread");
        });
        until("the thread has panicked", || thread.is_finished()).await;
        assert!(thread.join().is_err());
        assert_eq!(answer(pool.send(Pid)).await, Ok(worker));
    });
}

/// A worker whose errors cannot be made from a failure.
struct Picky;

#[derive(Debug, Serialize, Deserialize)]
struct Choosy;

impl<T> Answered for Result<T, Choosy> {
    type Answer = Self;

    fn answer(self) -> Self {
        self
    }
}

impl From<Failure> for Choosy {
    fn from(failure: Failure) -> Self {
        panic!("no error is made from: {failure}");
    }
}

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Choosy>")]
struct Sleep(Duration);

impl Actor for Picky {
    type Context = WorkerContext<Self>;
}

impl Worker for Picky {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Picky)
    }
}

impl Handler<Sleep> for Picky {
    type Result = Result<u32, Choosy>;

    fn handle(&mut self, Sleep(time): Sleep, _: &mut WorkerContext<Self>) -> Self::Result {
        std::thread::sleep(time);
        Ok(std::process::id())
    }
}

forkpool::interface!(Picky { Sleep });
forkpool::boot!(Picky);

/// C10
#[test]
fn an_error_type_that_panics_leaks_no_worker() {
    run(async {
        let pool = builder::<Picky>(()).workers(1..=1).start().expect("the pool starts");
        let long = || Sleep(Duration::from_secs(60));
        let soon = Duration::from_millis(50);
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Sleep(Duration::ZERO))).await.expect("a pid");
        let (running, queued) = (checkout.send(Within(soon, long())), checkout.send(long()));
        assert!(running.await.is_err(), "there was no error to answer with");
        assert!(queued.await.is_err(), "there was no error to answer with");
        gone(worker).await;
        let single = pool.addr().send(Within(soon, long()));
        assert!(single.await.is_err(), "there was no error to answer with");
        assert!(answer(pool.send(Sleep(Duration::ZERO))).await.is_ok());
        until("the pool is as before", || pool.stats().idle == 1 && pool.stats().workers() == 1).await;
    });
}

/// C4
#[test]
fn a_thread_without_an_arbiter_is_a_client_like_any_other() {
    run(async {
        let pool = pool_of_one();
        let handle = pool.clone();
        on_a_thread(move || {
            let text = block_on(handle.send(EchoText("h".to_owned())));
            assert_eq!(text, Ok("h".to_owned()));
            handle.do_send(Setups);
            handle.try_send(Setups).expect("the pool is open");
            let number = block_on(handle.addr().send(Slow(Duration::ZERO, 5)));
            assert_eq!(number.expect("an answer"), Ok(5));
            let checkout = handle.checkout().start();
            let requests: Vec<_> = (0..100).map(|number| checkout.send(Remember(number))).collect();
            for (before, request) in requests.into_iter().enumerate() {
                let all = block_on(request).expect("an answer").expect("what it remembers");
                assert_eq!(all.len(), before + 1);
            }
            let failed = block_on(checkout.send(Fail("no".to_owned()))).expect("an answer");
            assert_eq!(failed, Err(Failure::task("no")));
        })
        .await;
        until("the checkout is released", || pool.stats().leased == 0).await;
    });
}

/// C4
#[test]
fn another_arbiter_is_a_client_like_any_other() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        let worker = pid(&checkout).await;
        let there = {
            let (pool, checkout) = (pool.clone(), checkout.clone());
            on_an_arbiter(move || async move {
                // A checkout of the first arbiter, used from here, and one from here that waits for it.
                assert_eq!(pid(&checkout).await, worker);
                let own = pool.checkout().start();
                let request = own.send(Pid);
                drop(checkout);
                let worker = answer(request).await;
                drop(own);
                assert_eq!(answer(pool.send(Pid)).await, worker);
                worker
            })
        };
        let here = actix_rt::spawn(async move {
            answer(checkout.send(Slow(Duration::from_millis(30), 1))).await.expect("a number")
        });
        assert_eq!(there.await, Ok(worker));
        assert_eq!(here.await.expect("a client"), 1);
    });
}

/// C4, C10
#[test]
fn an_arbiter_that_ends_takes_its_checkouts_along_and_no_worker() {
    run(async {
        let pool = pool_of_one();
        let (spinning, address) = {
            let pool = pool.clone();
            on_an_arbiter(move || async move {
                let checkout = pool.checkout().start();
                let worker = pid(&checkout).await;
                checkout.do_send(Spin);
                (worker, checkout)
            })
            .await
        };
        gone(spinning).await;
        assert_eq!(address.send(Pid).await, Err(MailboxError::Closed));
        assert!(matches!(address.try_send(Pid), Err(SendError::Closed(Pid))));
        let orphan = {
            let arbiter = Arbiter::new();
            let handle = arbiter.handle();
            arbiter.stop();
            on_a_thread(move || arbiter.join().expect("the arbiter ends")).await;
            pool.checkout().start_in(&handle)
        };
        assert_eq!(orphan.send(Pid).await, Err(MailboxError::Closed));
        assert!(answer(pool.send(Pid)).await.is_ok());
    });
}

/// C4
#[test]
fn a_plain_runtime_is_a_client_like_any_other() {
    run(async {
        let pool = pool_of_one();
        let handle = pool.clone();
        on_a_thread(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let checkout = handle.checkout().start();
                let task = tokio::spawn(checkout.send(Slow(Duration::ZERO, 1)));
                drop(checkout);
                let pooled = tokio::spawn(handle.send(Slow(Duration::ZERO, 2)));
                assert_eq!(task.await.expect("a task"), Ok(Ok(1)));
                assert_eq!(pooled.await.expect("a task"), Ok(2));
            });
        })
        .await;
        // The same on a thread that has an arbiter, in a task that may move.
        let (sent, checkout) = (Arc::new(Mutex::new(Vec::new())), pool.checkout().start());
        let (noted, handle) = (sent.clone(), pool.clone());
        let task = tokio::spawn(async move {
            let first = checkout.send(Slow(Duration::ZERO, 3)).await.expect("an answer");
            drop(checkout);
            let second = handle.send(Slow(Duration::ZERO, 4)).await;
            noted.lock().expect("a lock").extend([first, second]);
        });
        task.await.expect("a task");
        assert_eq!(*sent.lock().expect("a lock"), [Ok(3), Ok(4)]);
    });
}
