//! What an error does to the calls behind it, and what becomes of the worker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::*;
use actix::dev::Request;
use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Deserializer, Serialize};

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// E1
#[test]
fn an_error_arrives_as_the_users_own_type() {
    run(async {
        let pool = rogues();
        let words = vec!["none".to_owned(), "𝄞".to_owned()];
        for grief in [Grief::Plain, Grief::Detailed { code: u64::MAX, words }, Failure::task("t").into()] {
            let fail = || Deed::Fail(grief.clone());
            let checkout = pool.checkout().keep_after_error(true).start();
            assert_eq!(failure(checkout.send(fail())).await, grief);
            drop(checkout);
            assert_eq!(failure(pool.send(fail())).await, grief);
            assert_eq!(failure(pool.addr().send(Within(None::<Duration>, fail()))).await, grief);
        }
    });
}

/// E1, E8
#[test]
fn a_panic_arrives_with_message_location_and_backtrace() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        let worker = pid(&checkout).await;
        let text = "first line\nsecond line";
        let panicked = failure(checkout.send(Panic(text.to_owned()))).await;
        assert_eq!((panicked.kind(), panicked.pid()), (FailureKind::Panic, Some(worker)));
        let report = panicked.panic().expect("a report");
        assert_eq!(report.message, text);
        let location = report.location.as_deref().expect("a location");
        assert!(location.contains("harness/probe.rs:"), "{location}");
        let wanted = std::env::var_os("RUST_BACKTRACE").is_some_and(|wanted| wanted != "0");
        assert_eq!(report.backtrace.contains("harness::probe::Probe"), wanted, "{}", report.backtrace);
        let shown = panicked.to_string();
        assert!(shown.contains("first line") && shown.contains(location), "{shown}");
        assert_eq!(shown.lines().count(), 1);
    });
}

/// E1
#[test]
fn a_panic_without_a_text_is_a_panic() {
    run(async {
        let panicked = rogue_failure(rogues().send(Deed::PanicWithoutText)).await;
        let report = panicked.panic().expect("a report");
        assert!(report.location.as_ref().is_some_and(|location| location.contains("harness/rogue.rs:")));
        assert_eq!(panicked.kind(), FailureKind::Panic);
    });
}

/// E1, E7
#[test]
fn a_panic_says_how_long_its_call_ran() {
    run(async {
        let pool = rogues();
        let checkout = pool.checkout().start();
        assert!(answer(checkout.send(Deed::Nothing)).await.is_ok());
        let began = Instant::now();
        let panics = checkout.send(Deed::PanicAfter(millis(60), "late".to_owned()));
        let behind = checkout.send(Deed::Nothing);
        let panicked = rogue_failure(panics).await;
        let ran = panicked.ran().expect("it has run");
        assert!(millis(60) <= ran && ran <= began.elapsed(), "{ran:?}");
        assert_eq!(rogue_failure(behind).await.kind(), FailureKind::Cleared);

        // Behind another call it runs from when the application has read the answer of that one.
        let checkout = pool.checkout().start();
        assert!(answer(checkout.send(Deed::Nothing)).await.is_ok());
        let began = Instant::now();
        let before = checkout.send(Deed::Nothing);
        let panics = checkout.send(Deed::PanicAfter(millis(60), "late".to_owned()));
        let panicked = rogue_failure(panics).await;
        assert!(answer(before).await.is_ok());
        let ran = panicked.ran().expect("it has run");
        assert!(Duration::ZERO < ran && ran <= began.elapsed(), "{ran:?}");
    });
}

/// E2
#[test]
fn after_an_error_the_checkout_goes_on_with_its_worker_and_its_state() {
    run(async {
        let pool = pool().workers(3..=3).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let worker = pid(&checkout).await;
        for round in 0..10 {
            let failed = failure(checkout.send(Fail(format!("no {round}")))).await;
            assert_eq!(failed, Failure::task(format!("no {round}")));
            assert_eq!(answer(checkout.send(Remember(round))).await, Ok((0..=round).collect()));
            assert_eq!(pid(&checkout).await, worker);
        }
    });
}

/// Sends an error and very many calls behind it, so that some are written ahead and some are not.
async fn clears_behind(checkout: &Addr<Checkout<Probe>>, fail: impl FnOnce(&Addr<Checkout<Probe>>)) {
    // Large ones fill what may be written ahead by bytes, small ones by their number.
    let large = vec![0; 10_000];
    let before: Vec<_> = (0..3).map(|_| checkout.send(Remember(0))).collect();
    fail(checkout);
    let mut behind = Vec::new();
    for number in 0..1500 {
        behind.push(checkout.send(Remember(number)));
        checkout.do_send(Remember(number));
        if number % 50 == 0 {
            checkout.do_send(Echo(large.clone()));
            checkout.do_send(Exit(1));
            checkout.do_send(Fail("another".to_owned()));
        }
    }
    for request in before {
        assert!(answer(request).await.is_ok());
    }
    for request in behind {
        let cleared = failure(request).await;
        assert_eq!((cleared.kind(), cleared.call()), (FailureKind::Cleared, Some("Remember")));
    }
    // Not one of them ran, and whatever is sent now does.
    assert_eq!(answer(checkout.send(Remember(7))).await, Ok(vec![0, 0, 0, 7]));
}

/// E3
#[test]
fn an_error_clears_the_calls_behind_it_whether_written_or_not() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        pid(&checkout).await;
        let failed = Arc::new(AtomicBool::new(false));
        let note = failed.clone();
        clears_behind(&checkout, move |checkout| {
            let request = checkout.send(Fail("no".to_owned()));
            actix_rt::spawn(async move {
                note.store(failure(request).await == Failure::task("no"), Ordering::Relaxed);
            });
        })
        .await;
        assert!(failed.load(Ordering::Relaxed));
    });
}

/// E3
#[test]
fn an_error_clears_the_calls_behind_it_though_there_was_no_worker_yet() {
    run(async {
        let pool = pool().workers(0..=1).start().expect("the pool starts");
        clears_behind(&pool.checkout().start(), |checkout| checkout.do_send(Fail("no".to_owned()))).await;
    });
}

/// E3
#[test]
fn an_error_nobody_waits_for_clears_the_calls_behind_it() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        pid(&checkout).await;
        clears_behind(&checkout, |checkout| checkout.do_send(Fail("no".to_owned()))).await;
    });
}

/// E3
#[test]
fn an_error_that_keeps_the_worker_clears_the_calls_behind_it() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        pid(&checkout).await;
        clears_behind(&checkout, |checkout| checkout.do_send(FailAndKeep("no".to_owned()))).await;
    });
}

/// E3
#[test]
fn calls_sent_from_here_once_the_error_was_seen_run() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        for round in 0..300 {
            let request = checkout.send(Fail("no".to_owned()));
            let behind = checkout.send(Remember(u64::MAX));
            assert_eq!(failure(request).await.kind(), FailureKind::Task);
            // At once, and before the one behind was asked.
            checkout.do_send(Remember(round));
            let all = answer(checkout.send(Remember(round))).await.expect("what it remembers");
            assert_eq!(all.len() as u64, 2 * (round + 1), "both ran");
            assert_eq!(failure(behind).await.kind(), FailureKind::Cleared);
        }
    });
}

/// E3
#[test]
fn calls_sent_from_another_thread_once_the_error_was_seen_run() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        pid(&checkout).await;
        on_a_thread(move || {
            for round in 0..300 {
                let failed = block_on(checkout.send(Fail("no".to_owned()))).expect("an answer");
                assert_eq!(failed, Err(Failure::task("no")));
                checkout.do_send(Remember(round));
                let all = block_on(checkout.send(Remember(round))).expect("an answer");
                assert_eq!(all.map(|all| all.len() as u64), Ok(2 * (round + 1)));
            }
        })
        .await;
    });
}

/// E3
#[test]
fn calls_sent_from_another_arbiter_once_the_error_was_seen_run() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        pid(&checkout).await;
        on_an_arbiter(move || async move {
            for round in 0..300 {
                assert_eq!(failure(checkout.send(Fail("no".to_owned()))).await, Failure::task("no"));
                checkout.do_send(Remember(round));
                let all = answer(checkout.send(Remember(round))).await;
                assert_eq!(all.map(|all| all.len() as u64), Ok(2 * (round + 1)));
            }
        })
        .await;
    });
}

/// An error that holds up the thread which decodes it while a test says so.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Held(String);

/// Reports that an error is being decoded, and waits for permission to go on.
static GATE: Mutex<Option<(Sender<()>, Receiver<()>)>> = Mutex::new(None);

impl<'de> Deserialize<'de> for Held {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let gate = GATE.lock().expect("the gate").take();
        if let Some((reached, open)) = gate {
            reached.send(()).expect("the test waits");
            open.recv_timeout(PATIENCE).expect("the test goes on");
        }
        Ok(Held(text))
    }
}

impl From<Failure> for Held {
    fn from(failure: Failure) -> Self {
        Held(failure.kind().to_string())
    }
}

/// Fails with this text, if there is one.
#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(), Held>")]
struct Attempt(Option<String>);

struct Clerk;

impl Actor for Clerk {
    type Context = WorkerContext<Self>;
}

impl Worker for Clerk {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Clerk)
    }
}

impl Handler<Attempt> for Clerk {
    type Result = Result<(), Held>;

    fn handle(&mut self, Attempt(text): Attempt, _: &mut WorkerContext<Self>) -> Self::Result {
        text.map_or(Ok(()), |text| Err(Held(text)))
    }
}

forkpool::interface!(Clerk { Attempt });
forkpool::boot!(Clerk);

/// E3
#[test]
fn calls_sent_by_another_thread_while_the_error_is_being_read_are_cleared() {
    run(async {
        let pool = builder::<Clerk>(()).workers(1..=1).start().expect("the pool starts");
        let checkout = pool.checkout().keep_after_error(true).start();
        let (reached, is_read) = channel();
        let (go_on, open) = channel();
        *GATE.lock().expect("the gate") = Some((reached, open));
        on_a_thread(move || {
            let attempt = |text: Option<&str>| checkout.send(Attempt(text.map(str::to_owned)));
            let answer = |request: Request<Checkout<Clerk>, Attempt>| block_on(request).expect("an answer");
            let failing = attempt(Some("no"));
            is_read.recv_timeout(PATIENCE).expect("the error is being read");
            let behind = [(); 10].map(|()| attempt(None));
            go_on.send(()).expect("the checkout waits");
            assert_eq!(answer(failing), Err(Held("no".to_owned())));
            for request in behind {
                assert_eq!(answer(request), Err(Held("cleared".to_owned())));
            }
            assert_eq!(answer(attempt(None)), Ok(()));
        })
        .await;
    });
}

/// E3
#[test]
fn an_error_makes_one_cut_among_the_calls_of_a_thread_that_never_pauses() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().keep_after_error(true).start();
        pid(&checkout).await;
        on_a_thread(move || {
            let mut behind = 0;
            for _ in 0..500 {
                let mut failing = Box::pin(checkout.send(Fail("no".to_owned())));
                let mut sent = Vec::new();
                // Sent, and then the error was still not there: so it was sent before.
                loop {
                    sent.push(checkout.send(Remember(1)));
                    if poll_once(&mut failing).is_ready() {
                        break;
                    }
                    if sent.len() > 200 {
                        std::thread::sleep(Duration::from_micros(50));
                    }
                }
                // Of the last one nobody knows.
                drop(sent.pop());
                behind += sent.len();
                let ran =
                    sent.into_iter().map(|request| block_on(request).expect("an answer")).map(|answer| {
                        let kind = answer.as_ref().err().map(Failure::kind);
                        assert!(kind.is_none_or(|kind| kind == FailureKind::Cleared), "{answer:?}");
                        kind.is_none()
                    });
                // The fence and the answer are two events. A call that lands between them runs, how many is a matter of
                // the machine; but there is one cut, and no call behind it is cleared.
                assert!(ran.is_sorted(), "a call was cleared behind one that ran");
            }
            assert!(behind > 0);
        })
        .await;
    });
}

/// E3
#[test]
fn an_error_among_many_requesters_is_told_though_they_never_pause() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().keep_after_error(true).start();
        pid(&checkout).await;
        let done = Arc::new(AtomicBool::new(false));
        let noise = {
            let (checkout, done) = (checkout.clone(), done.clone());
            actix_rt::spawn(on_a_thread(move || {
                while !done.load(Ordering::Relaxed) {
                    checkout.do_send(Setups);
                    std::thread::sleep(Duration::from_micros(20));
                }
            }))
        };
        for _ in 0..50 {
            assert_eq!(failure(checkout.send(Fail("no".to_owned()))).await.kind(), FailureKind::Task);
        }
        done.store(true, Ordering::Relaxed);
        noise.await.expect("the noise ends");
    });
}

/// Fails one call on a checkout, releases it, and says whether its worker was kept, and whether it was told.
async fn keeps_worker(
    options: forkpool::PoolBuilder<Probe>,
    keep: Option<bool>,
    ctx_keeps: bool,
) -> (bool, bool) {
    let pool = options.start().expect("the pool starts");
    let builder = pool.checkout();
    let checkout = match keep {
        Some(keep) => builder.keep_after_error(keep),
        None => builder,
    }
    .start();
    let worker = pid(&checkout).await;
    if ctx_keeps {
        failure(checkout.send(FailAndKeep("no".to_owned()))).await;
    } else {
        failure(checkout.send(Fail("no".to_owned()))).await;
    }
    assert_eq!(pid(&checkout).await, worker);
    drop(checkout);
    let next = pool.checkout().start();
    let kept = pid(&next).await == worker;
    if !kept {
        gone(worker).await;
    }
    (kept, pool.stats().forked == 1)
}

/// E4
#[test]
fn a_checkout_that_saw_an_error_replaces_its_worker_unless_told_to_keep_it() {
    run(async {
        let table = [
            ("by default", None, None, false, false),
            ("kept by the pool", Some(true), None, false, true),
            ("kept by the checkout", None, Some(true), false, true),
            ("the checkout before the pool", Some(true), Some(false), false, false),
            ("kept by the handler", None, None, true, true),
        ];
        for (name, of_pool, of_checkout, of_handler, expected) in table {
            let done = Scratch::path();
            let setup = Setup { done_journal: done.some(), ..Setup::default() };
            let mut options = builder::<Probe>(setup).workers(1..=1);
            if let Some(keep) = of_pool {
                options = options.keep_after_error(keep);
            }
            let kept = keeps_worker(options, of_checkout, of_handler).await;
            assert_eq!(kept, (expected, expected), "{name}");
            // checkout_done runs in a worker that stays, and in no other.
            until("the checkout is over", || done.lines().len() >= usize::from(expected)).await;
        }
    });
}

/// E4
#[test]
fn one_handler_that_keeps_its_worker_keeps_it_for_its_own_error_only() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        let worker = pid(&checkout).await;
        failure(checkout.send(Fail("no".to_owned()))).await;
        failure(checkout.send(FailAndKeep("no".to_owned()))).await;
        drop(checkout);
        gone(worker).await;
        // The next checkout begins anew: its worker has seen no error.
        let checkout = pool.checkout().start();
        let replacement = pid(&checkout).await;
        drop(checkout);
        assert_eq!(answer(pool.send(Pid)).await, Ok(replacement));
    });
}

/// E4
#[test]
fn an_error_of_a_message_to_the_pool_keeps_the_worker() {
    run(async {
        let pool = pool_of_one();
        let worker = answer(pool.send(Pid)).await;
        for _ in 0..20 {
            assert_eq!(failure(pool.send(Fail("no".to_owned()))).await, Failure::task("no"));
            assert_eq!(failure(pool.addr().send(Fail("no".to_owned()))).await, Failure::task("no"));
            pool.do_send(Fail("no".to_owned()));
        }
        assert_eq!(answer(pool.send(Pid)).await, worker);
        assert_eq!(pool.stats().forked, 1);
    });
}

/// E4
#[test]
fn errors_of_messages_to_the_pool_clear_nothing() {
    run(async {
        let pool = pool_of_one();
        let fails: Vec<_> = (0..50).map(|_| pool.send(Fail("no".to_owned()))).collect();
        let works: Vec<_> = (0..50).map(|number| pool.send(Slow(Duration::ZERO, number))).collect();
        for request in fails {
            assert_eq!(failure(request).await, Failure::task("no"));
        }
        for (number, request) in (0..).zip(works) {
            assert_eq!(answer(request).await, Ok(number));
        }
    });
}
