//! Calls through the handle of a checkout, which reach the worker without a mailbox.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use crate::harness::*;
use forkpool::Phase;
use forkpool::prelude::*;

pub const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A checkout's handle that has made its first call, and its worker.
pub async fn opened(pool: &PoolHandle<Probe>) -> (CheckoutHandle<Probe>, u32) {
    let checkout = pool.checkout().open();
    let worker = answer(checkout.call(Pid)).await.expect("a pid");
    (checkout, worker)
}

/// C1, C2, C6: many calls, more than are written ahead, made before there is a worker and with one.
#[test]
fn direct_calls_run_in_order_on_one_worker() {
    const MANY: u64 = 3000;
    run(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        let checkout = pool.checkout().open();
        for round in 0..2 {
            let calls: Vec<_> = (0..MANY).map(|number| checkout.call(Slow(Duration::ZERO, number))).collect();
            for (number, call) in calls.into_iter().enumerate() {
                assert_eq!(answer(call).await, Ok(number as u64), "round {round}");
            }
        }
        let calls: Vec<_> = (0..MANY).map(|number| checkout.call(Remember(number))).collect();
        let mut last = Vec::new();
        for call in calls {
            last = answer(call).await.expect("what it remembers");
        }
        assert_eq!(last, (0..MANY).collect::<Vec<_>>());
        let large = vec![7; 3 << 20];
        assert_eq!(answer(checkout.call(Echo(large.clone()))).await, Ok(large));
        assert_eq!(answer(checkout.call(Setups)).await, Ok(1));
    });
}

/// C1, C8: a handle that makes no call has a worker all the same, and gives it back.
#[test]
fn a_handle_without_a_call_holds_its_worker_and_its_place_in_the_queue() {
    run(async {
        let pool = pool_of_one();
        until("there is a worker", || pool.stats().idle == 1).await;
        let first = pool.checkout().open();
        assert_eq!(pool.stats().idle, 0);
        let second = pool.checkout().open();
        assert_eq!(pool.stats().waiting, 1);
        let single = pool.send(Pid);
        drop(first);
        let worker = answer(second.call(Pid)).await;
        drop(second);
        assert_eq!(answer(single).await, worker);
        settled(&pool, 1).await;
    });
}

/// C5: refusals of every kind are there when the future is polled, and no sooner.
#[test]
fn no_direct_call_is_answered_while_it_is_made() {
    run(async {
        let small = pool().workers(1..=1).max_payload(4096).start().expect("the pool starts");
        let (context, heard) = listening("signup");
        let checkout = small.checkout().in_context(&context).open();
        answer(checkout.call(Pid)).await.expect("a pid");
        let unwritable = checkout.call(Echo(vec![0; 5000]));
        let late = checkout.call_within(Duration::ZERO, Pid);
        assert_eq!(heard.kinds(), []);
        assert_eq!(failure(unwritable).await.kind(), FailureKind::Payload);
        assert_eq!(failure(late).await.kind(), FailureKind::Timeout);
        assert_eq!(heard.kinds(), [FailureKind::Payload, FailureKind::Timeout]);
        assert!(answer(checkout.call(Pid)).await.is_ok(), "the checkout goes on");
    });
}

/// E1, E2
#[test]
fn after_an_error_a_direct_checkout_goes_on_with_its_state() {
    run(async {
        let pool = pool_of_one();
        let (checkout, worker) = opened(&pool).await;
        for round in 0..10 {
            assert_eq!(
                failure(checkout.call(Fail(format!("{round}")))).await,
                Failure::task(format!("{round}"))
            );
            assert_eq!(answer(checkout.call(Remember(round))).await, Ok((0..=round).collect()));
            assert_eq!(answer(checkout.call(Pid)).await, Ok(worker));
        }
        // E4: what it holds is in doubt.
        drop(checkout);
        gone(worker).await;
    });
}

/// E3: what was made before the failed call's future was ready is cleared, written or not; what is made later runs.
#[test]
fn an_error_clears_the_direct_calls_that_were_made_before_it_was_known() {
    run(async {
        let pool = pool_of_one();
        let (checkout, _) = opened(&pool).await;
        for round in 0..3 {
            let before: Vec<_> = (0..3).map(|_| checkout.call(Remember(round))).collect();
            let fails = checkout.call(Fail("no".to_owned()));
            let behind: Vec<_> = (0..2000).map(|_| checkout.call(Remember(100))).collect();
            for call in before {
                assert!(answer(call).await.is_ok());
            }
            assert_eq!(failure(fails).await, Failure::task("no"));
            let later = checkout.call(Remember(round));
            for call in behind {
                let cleared = failure(call).await;
                assert_eq!((cleared.kind(), cleared.call()), (FailureKind::Cleared, Some("Remember")));
            }
            let expected = (0..=round).flat_map(|round| [round; 4]).collect::<Vec<_>>();
            assert_eq!(answer(later).await, Ok(expected));
        }
    });
}

/// A waker that makes calls.
struct Caller(mpsc::Sender<()>);

impl Wake for Caller {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send(());
        MAKE.with_borrow(|make| make.iter().for_each(|make| make()));
    }
}

thread_local! {
    /// What the waker does.
    static MAKE: RefCell<Option<Box<dyn Fn()>>> = const { RefCell::new(None) };
}

/// Makes a call from the waker of another one, which runs in the middle of the session's work; returns its answer.
async fn called_from_a_waker(
    checkout: &Rc<CheckoutHandle<Probe>>,
    woken_by: &mut (impl Future + Unpin),
    block: Duration,
) -> Result<Vec<u64>, Failure> {
    let made = Rc::new(RefCell::new(None));
    let (checkout, slot) = (checkout.clone(), made.clone());
    MAKE.set(Some(Box::new(move || {
        slot.borrow_mut().get_or_insert_with(|| checkout.call(Remember(9)));
    })));
    let (sender, woken) = mpsc::channel();
    let waker = Waker::from(Arc::new(Caller(sender)));
    assert!(Pin::new(woken_by).poll(&mut Context::from_waker(&waker)).is_pending());
    std::thread::sleep(block);
    until("the waker was woken", || woken.try_recv().is_ok()).await;
    MAKE.set(None);
    let call = made.borrow_mut().take().expect("a call");
    answer(call).await
}

/// E3, C4: a waker is foreign code that runs while the session is at work.
#[test]
fn a_call_that_a_waker_makes_is_cleared_if_the_error_is_not_known_yet_and_runs_otherwise() {
    run(async {
        let pool = pool_of_one();
        let checkout = Rc::new(opened(&pool).await.0);
        // Both replies are there before this thread looks, so the waker runs between the two.
        let mut before = checkout.call(Slow(millis(300), 1));
        let fails = checkout.call(Fail("no".to_owned()));
        assert!(poll_once(&mut before).is_pending());
        let made = called_from_a_waker(&checkout, &mut before, millis(600)).await;
        assert_eq!(made.map_err(|failure| failure.kind()), Err(FailureKind::Cleared));
        assert_eq!(failure(fails).await, Failure::task("no"));
        let slow = checkout.call(Slow(millis(300), 1));
        let mut fails = checkout.call(FailAndKeep("no".to_owned()));
        assert_eq!(called_from_a_waker(&checkout, &mut fails, Duration::ZERO).await, Ok(vec![9]));
        assert_eq!(answer(slow).await, Ok(1));
    });
}

/// T1, T3, E5
#[test]
fn a_direct_call_has_a_clock_of_its_own_and_ends_the_checkout_when_that_runs_out() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().timeout(millis(500)).open();
        let worker = answer(checkout.call_within(None, Pid)).await.expect("a pid");
        let all: Vec<_> = (0..4).map(|number| checkout.call(Slow(millis(150), number))).collect();
        for (number, call) in all.into_iter().enumerate() {
            assert_eq!(answer(call).await, Ok(number as u64));
        }
        assert_eq!(answer(checkout.call_within(PATIENCE, Slow(millis(600), 7))).await, Ok(7));
        let (spins, behind) = (checkout.call(Spin), checkout.call(Pid));
        let late = failure(spins).await;
        assert_eq!(
            (late.kind(), late.limit(), late.pid()),
            (FailureKind::Timeout, Some(millis(500)), Some(worker))
        );
        let cleared = failure(behind).await;
        assert_eq!(
            (cleared.kind(), cause(&cleared).map(Failure::kind)),
            (FailureKind::Cleared, Some(late.kind()))
        );
        assert_eq!(failure(checkout.call(Pid)).await.kind(), FailureKind::Timeout);
        gone(worker).await;
    });
}

/// C4, E5
#[test]
fn a_worker_that_dies_fails_the_direct_call_that_it_ran_and_ends_the_checkout() {
    run(async {
        let pool = pool_of_one();
        for (ends, kind) in [(9, FailureKind::Died), (0, FailureKind::Panic)] {
            let (checkout, worker) = opened(&pool).await;
            let before = checkout.call(Remember(1));
            let (dies, behind) = if kind == FailureKind::Died {
                (checkout.call(Exit(ends)), checkout.call(Pid))
            } else {
                (checkout.call(Panic("told to".to_owned())), checkout.call(Pid))
            };
            assert!(answer(before).await.is_ok());
            let died = failure(dies).await;
            assert_eq!((died.kind(), died.pid()), (kind, Some(worker)));
            assert_eq!(failure(behind).await.kind(), FailureKind::Cleared);
            assert_eq!(failure(checkout.call(Pid)).await.kind(), kind);
            gone(worker).await;
        }
        assert!(answer(pool.send(Pid)).await.is_ok());
    });
}

/// C9
#[test]
fn a_direct_call_whose_future_is_dropped_is_cancelled() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().open();
        answer(holder.call(Pid)).await.expect("a pid");
        // Not written: it never runs.
        let waiting = pool.checkout().open();
        drop(waiting.call(Remember(1)));
        let kept = waiting.call(Remember(2));
        drop(holder);
        assert_eq!(answer(kept).await, Ok(vec![2]));
        // Running: it finishes.
        let mut runs = waiting.call(Slow(millis(30), 1));
        assert!(poll_once(&mut runs).is_pending());
        drop(runs);
        assert_eq!(answer(waiting.call(Remember(3))).await, Ok(vec![2, 3]));
        drop(waiting);
        // Running, and to be killed.
        let checkout = pool.checkout().on_cancel(OnCancel::Kill).open();
        let worker = answer(checkout.call(Pid)).await.expect("a pid");
        let mut spins = checkout.call(Spin);
        assert!(poll_once(&mut spins).is_pending());
        drop(spins);
        gone(worker).await;
        assert_eq!(failure(checkout.call(Pid)).await.kind(), FailureKind::Cancelled);
    });
}

/// E6
#[test]
fn an_abort_answers_all_direct_calls_from_any_thread() {
    run(async {
        let pool = pool_of_one();
        for elsewhere in [false, true] {
            let (checkout, worker) = opened(&pool).await;
            let (spins, queued) = (checkout.call(Spin), checkout.call(Pid));
            let (checkout, behind) = if elsewhere {
                let abort = move || {
                    checkout.abort("the user left");
                    checkout
                };
                (on_a_thread(abort).await, None)
            } else {
                checkout.abort("the user left");
                let behind = checkout.call(Remember(1));
                (checkout, Some(behind))
            };
            let all = [failure(spins).await, failure(queued).await, failure(checkout.call(Pid)).await];
            let behind = match behind {
                Some(behind) => failure(behind).await,
                None => all[0].clone(),
            };
            for aborted in all.iter().chain([&behind]) {
                assert_eq!(aborted.kind(), FailureKind::Aborted, "{aborted}");
                assert!(aborted.to_string().contains("the user left"), "{aborted}");
            }
            gone(worker).await;
        }
        // Before there is a call.
        let unused = pool.checkout().open();
        unused.abort("never mind");
        assert_eq!(failure(unused.call(Pid)).await.kind(), FailureKind::Aborted);
        let unused = on_a_thread({
            let unused = pool.checkout().open();
            move || {
                unused.abort("never mind");
                unused
            }
        });
        let unused = unused.await;
        assert_eq!(failure(unused.call(Pid)).await.kind(), FailureKind::Aborted);
        assert!(answer(pool.send(Pid)).await.is_ok());
    });
}

/// C3, C8
#[test]
fn a_direct_checkout_is_released_when_its_handle_is_dropped_and_its_calls_are_answered() {
    run(async {
        let pool = pool_of_one();
        let (checkout, worker) = opened(&pool).await;
        let calls: Vec<_> = (0..20).map(|number| checkout.call(Slow(millis(2), number))).collect();
        let next = pool.send(Pid);
        drop(checkout);
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(answer(call).await, Ok(number as u64));
        }
        assert_eq!(answer(next).await, Ok(worker));
        // Also where it is dropped on another thread.
        let (checkout, _) = opened(&pool).await;
        on_a_thread(move || drop(checkout)).await;
        assert_eq!(answer(pool.send(Pid)).await, Ok(worker));
        settled(&pool, 1).await;
    });
}

/// X2, L3
#[test]
fn direct_calls_carry_their_context_and_fill_the_request_log() {
    run(async {
        let pool = pool_of_one();
        let (context, heard) = listening("signup");
        let (sender, delivered) = mpsc::channel();
        let log = RequestLog::new(move |log| sender.send(log).expect("the test listens"));
        let checkout = pool.checkout().log(&log).open();
        answer(checkout.call(Pid)).await.expect("a pid");
        let line = line!() + 1;
        let fails = context.run(|| checkout.call(Fail("no".to_owned())));
        assert_eq!(failure(fails).await, Failure::task("no"));
        let failed = heard.first().await.to_string();
        assert!(failed.contains("-> Fail") && failed.contains(&format!("direct.rs:{line}")), "{failed}");
        assert_eq!(failure(checkout.call_within(Duration::ZERO, Setups)).await.kind(), FailureKind::Timeout);
        drop((checkout, log));
        let mut log = None;
        until("the log is delivered", || {
            log = log.take().or_else(|| delivered.try_recv().ok());
            log.is_some()
        })
        .await;
        let log: FinishedLog = log.expect("a log");
        let timers: Vec<_> = log.timers.iter().map(|timer| timer.name.as_str()).collect();
        assert_eq!(timers, ["Pid", "Fail"]);
        assert_eq!(log.messages.len(), 1, "{:?}", log.messages);
    });
}

/// C4, E3: a batch is as many calls, one behind the other.
#[test]
fn a_direct_batch_has_an_answer_for_each_message() {
    run(async {
        let pool = pool_of_one();
        let (checkout, _) = opened(&pool).await;
        let before = checkout.call(Remember(1));
        let batch = checkout.call_batch((2..500).map(Remember).collect());
        let behind = checkout.call(Remember(500));
        assert_eq!(answer(before).await, Ok(vec![1]));
        let answers = answer(batch).await;
        assert!(answers.len() == 498 && answers.iter().all(Result::is_ok));
        assert_eq!(answer(behind).await, Ok((1..=500).collect()));
        let empty = answer(checkout.call_batch(Vec::<Remember>::new())).await;
        assert_eq!(empty, []);
        let failing = checkout.call_batch(vec![Fail("a".to_owned()), Fail("b".to_owned())]);
        let kinds: Vec<_> =
            answer(failing).await.into_iter().map(|answer| answer.unwrap_err().kind()).collect();
        assert_eq!(kinds, [FailureKind::Task, FailureKind::Cleared]);
    });
}

/// P12
#[test]
fn a_stopped_pool_answers_direct_calls() {
    run(async {
        let pool = pool_of_one();
        let (checkout, worker) = opened(&pool).await;
        let runs = checkout.call(Slow(millis(300), 1));
        let stop = actix_rt::spawn(pool.stop(PATIENCE));
        until("the pool is stopping", || pool.try_send(Pid).is_err()).await;
        assert_eq!(failure(checkout.call(Pid)).await.kind(), FailureKind::Stopped);
        assert_eq!(answer(runs).await, Ok(1));
        assert!(bounded("the stop", stop).await.expect("a report").left.is_empty());
        gone(worker).await;
    });
}

/// T2
#[test]
fn a_handle_that_makes_no_call_loses_its_worker_in_order() {
    run(async {
        let pool = pool().workers(1..=1).idle_checkout_timeout(millis(100)).start().expect("the pool starts");
        settled(&pool, 1).await;
        // The second one gets its worker from the first, and has waited for it.
        let holders = [pool.checkout().open(), pool.checkout().open()];
        let worker = answer(pool.send(Pid)).await.expect("it was given back");
        for holder in &holders {
            for _ in 0..2 {
                let reclaimed = failure(holder.call(Pid)).await;
                assert_eq!(
                    (reclaimed.kind(), reclaimed.phase()),
                    (FailureKind::Timeout, Some(Phase::Holding))
                );
                assert_eq!((reclaimed.limit(), reclaimed.pid()), (Some(millis(100)), Some(worker)));
            }
        }
        // It was not killed, and one without the limit keeps it.
        let patient = pool.checkout().idle_checkout_timeout(None).open();
        let next = pool.checkout().open();
        assert_eq!(answer(patient.call(Pid)).await, Ok(worker));
        drop(patient);
        // Its clock runs from when it has the worker, and a call in time stops it.
        assert_eq!(answer(next.call(Pid)).await, Ok(worker));
        assert_eq!(pool.stats().forked, 1);
    });
}

/// P12: on any thread, also where nothing could run its session.
#[test]
fn a_handle_that_makes_no_call_holds_no_stop_up() {
    run(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        settled(&pool, 2).await;
        let here = pool.checkout().open();
        let builder = pool.checkout();
        let there = on_a_thread(move || builder.open()).await;
        let waiting = pool.checkout().open();
        assert_eq!((pool.stats().leased, pool.stats().waiting), (2, 1));
        let report = bounded("the stop", pool.stop(PATIENCE * 10)).await;
        assert!(report.left.is_empty());
        for handle in [here, there, waiting] {
            assert_eq!(failure(handle.call(Pid)).await.kind(), FailureKind::Stopped);
        }
    });
}

/// P8
#[test]
fn a_handle_that_makes_no_call_gets_another_worker_for_one_that_dies() {
    run(async {
        let pool = pool_of_one();
        let first = answer(pool.send(Pid)).await.expect("a pid");
        settled(&pool, 1).await;
        let handle = pool.checkout().open();
        kill(first);
        until("it has another one", || pool.stats().leased == 1 && !pool.stats().pids.contains(&first)).await;
        assert!(answer(handle.call(Pid)).await.is_ok_and(|pid| pid != first));
        assert_eq!(pool.stats().forked, 2);
    });
}

/// A type implements the trait `Ambiguous<Unsync>` in a second way if it is `Sync`, and the test does not compile then.
mod unsync {
    pub struct Unsync;

    pub trait Ambiguous<Marker> {
        fn check() {}
    }

    impl<T: ?Sized> Ambiguous<()> for T {}

    impl<T: ?Sized + Sync> Ambiguous<Unsync> for T {}
}

/// C4: the compiler holds the handle on one thread at a time.
#[test]
fn a_handle_is_send_and_not_sync() {
    fn sendable<T: Send>() {}
    sendable::<CheckoutHandle<Probe>>();
    <CheckoutHandle<Probe> as unsync::Ambiguous<_>>::check();
}
