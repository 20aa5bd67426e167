//! How a pool ends, and what becomes of whoever uses it then.

use std::time::Duration;

use crate::harness::*;
use forkpool::Backoff;
use forkpool::prelude::*;

/// A drain that no test lives to see the end of.
const LONG: Duration = Duration::from_secs(3600);

const NEVER: Backoff = Backoff::new().first(LONG).most(LONG).jitter(0.0);

/// The pool's end, as a task that has begun.
async fn ending(pool: &PoolHandle<Probe>, drain: Duration) -> actix_rt::task::JoinHandle<StopReport> {
    let task = actix_rt::spawn(pool.stop(drain));
    // Whatever was sent before is handled before.
    until("the pool does not take new checkouts", || pool.try_send(Pid).is_err()).await;
    task
}

async fn ended(task: actix_rt::task::JoinHandle<StopReport>) {
    let report = bounded("the end", task).await.expect("a task");
    assert!(report.is_complete(), "{report}");
    nothing_is_left();
}

/// At this moment, and not only after a while.
fn nothing_is_left() {
    assert_eq!(descendants(std::process::id()), [0; 0]);
}

/// P12
#[test]
fn when_stop_is_answered_nothing_of_the_pool_is_left() {
    run(async {
        for drain in [Duration::ZERO, LONG, Duration::MAX] {
            let pool = pool().workers(3..=3).start().expect("the pool starts");
            until("three are idle", || pool.stats().idle == 3).await;
            bounded("the end", pool.stop(drain)).await;
            nothing_is_left();
            assert_eq!(pool.stats().workers(), 0);
        }
    });
}

/// P12
#[test]
fn a_pool_may_be_stopped_by_message() {
    run(async {
        let pool = pool_of_one();
        assert!(answer(pool.send(Pid)).await.is_ok());
        answer(pool.addr().send(Stop { drain: LONG })).await;
        nothing_is_left();
    });
}

/// P12, S3
#[test]
fn a_pool_may_be_stopped_at_any_moment_of_its_start() {
    run(async {
        for round in 0..40_u32 {
            let pool = pool().workers(2..=2).start().expect("the pool starts");
            // The moments are spread over the time that a start takes.
            actix_rt::time::sleep(Duration::from_micros(100) * round).await;
            bounded("the end", pool.stop(Duration::ZERO)).await;
            nothing_is_left();
        }
    });
}

/// P12
#[test]
fn a_pool_may_be_stopped_twice_and_after_its_end() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().timeout(None).start();
        let call = checkout.send(Spin);
        let first = ending(&pool, LONG).await;
        let second = ending(&pool, Duration::from_millis(20)).await;
        assert_eq!(answer(call).await.unwrap_err().kind(), FailureKind::Stopped);
        ended(first).await;
        ended(second).await;
        bounded("the end", pool.stop(LONG)).await;
        answer(pool.addr().send(Stop { drain: LONG })).await;
    });
}

/// P12
#[test]
fn a_stop_whose_future_is_dropped_stops_the_pool_all_the_same() {
    run(async {
        let pool = pool_of_one();
        assert!(answer(pool.send(Pid)).await.is_ok());
        ending(&pool, Duration::ZERO).await.abort();
        until("nothing is left", || descendants(std::process::id()).is_empty()).await;
    });
}

/// P12
#[test]
fn waiting_and_new_calls_are_answered_stopped() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().start();
        assert!(answer(holder.send(Pid)).await.is_ok());
        let running = holder.send(Slow(Duration::from_millis(200), 1));
        let (waiting, silent) = (pool.checkout().start(), pool.checkout().start());
        let calls = [waiting.send(Pid), waiting.send(Pid)];
        let message = pool.send(Pid);
        until("three wait", || pool.stats().waiting == 3).await;
        let end = ending(&pool, LONG).await;
        for call in calls {
            assert_stopped(answer(call).await);
        }
        assert_stopped(answer(message).await);
        assert_stopped(answer(silent.send(Pid)).await);
        assert_stopped(answer(pool.send(Pid)).await);
        assert_stopped(answer(pool.addr().send(Pid)).await);
        assert_stopped(answer(pool.checkout().start().send(Pid)).await);
        assert_stopped(answer(holder.send(Pid)).await);
        assert_eq!(answer(running).await, Ok(1));
        ended(end).await;
    });
}

fn assert_stopped<T: std::fmt::Debug>(answer: Result<T, Failure>) {
    let failure = answer.expect_err("the pool is stopped");
    assert_eq!((failure.kind(), failure.pool()), (FailureKind::Stopped, Some("probe")));
}

/// P12, C3
#[test]
fn calls_running_or_queued_on_a_held_checkout_finish() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        assert!(answer(checkout.send(Pid)).await.is_ok());
        let running = checkout.send(Slow(Duration::from_millis(100), 1));
        let queued = [2, 3].map(|number| checkout.send(Slow(Duration::from_millis(10), number)));
        let end = ending(&pool, LONG).await;
        assert_eq!(answer(running).await, Ok(1));
        for (call, number) in queued.into_iter().zip(2..) {
            assert_eq!(answer(call).await, Ok(number));
        }
        ended(end).await;
        assert_stopped(answer(checkout.send(Pid)).await);
    });
}

/// P12, P11
#[test]
fn a_message_to_the_pool_that_runs_finishes() {
    run(async {
        let pool = pool_of_one();
        let call = pool.send(Slow(Duration::from_millis(500), 1));
        until("it runs", || pool.stats().leased == 1).await;
        let end = ending(&pool, LONG).await;
        assert_eq!(answer(call).await, Ok(1));
        ended(end).await;
    });
}

/// P12
#[test]
fn a_held_checkout_with_nothing_to_run_does_not_hold_up_the_end() {
    run(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        let (used, silent) = (pool.checkout().start(), pool.checkout().start());
        assert!(answer(used.send(Pid)).await.is_ok());
        until("both have a worker", || pool.stats().leased == 2).await;
        ended(ending(&pool, LONG).await).await;
        assert_stopped(answer(used.send(Pid)).await);
        assert_stopped(answer(silent.send(Pid)).await);
    });
}

/// P12
#[test]
fn whatever_runs_at_the_deadline_is_killed_and_answered_stopped() {
    run(async {
        let pool = pool().workers(2..=2).timeout(None).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        assert!(answer(checkout.send(Pid)).await.is_ok());
        let calls = [checkout.send(Spin), checkout.send(Spin)];
        let message = pool.send(Spin);
        until("two are held", || pool.stats().leased == 2).await;
        let end = ending(&pool, Duration::from_millis(100)).await;
        for call in calls {
            assert_stopped(answer(call).await);
        }
        assert_stopped(answer(message).await);
        ended(end).await;
        assert_stopped(answer(checkout.send(Pid)).await);
    });
}

/// P12
#[test]
fn idle_workers_end_at_once_while_others_still_run() {
    run(async {
        let pool = pool().workers(3..=3).timeout(None).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let busy = answer(checkout.send(Pid)).await.expect("a pid");
        let call = checkout.send(Spin);
        until("two are idle", || pool.stats().idle == 2).await;
        let end = ending(&pool, LONG).await;
        let server = the_server().await;
        until("only the busy one is left", || children(server) == [busy]).await;
        assert!(!end.is_finished());
        answer(checkout.send(Abort("enough".to_owned()))).await;
        assert_eq!(answer(call).await.unwrap_err().kind(), FailureKind::Aborted);
        ended(end).await;
    });
}

/// P12, W3
#[test]
fn a_pool_whose_set_up_hangs_can_be_stopped() {
    run(async {
        let journal = Scratch::path();
        let setup = Setup { script: Script::Hang, journal: journal.some(), ..Setup::default() };
        let pool = builder::<Probe>(setup).workers(2..=2).start().expect("the pool starts");
        let call = pool.send(Pid);
        until("both are being set up", || journal.lines().len() == 2).await;
        let end = ending(&pool, Duration::ZERO).await;
        assert_stopped(answer(call).await);
        ended(end).await;
    });
}

/// P12, W3
#[test]
fn a_pool_that_waits_before_its_next_attempt_can_be_stopped() {
    run(async {
        let setup = Setup { script: Script::Exit(1), ..Setup::default() };
        let builder = builder::<Probe>(setup).workers(1..=1).restart(NEVER);
        let pool = builder.start().expect("the pool starts");
        until("the attempt has failed", || pool.stats().forked == 1 && pool.stats().workers() == 0).await;
        let call = pool.send(Pid);
        let end = ending(&pool, LONG).await;
        assert_stopped(answer(call).await);
        ended(end).await;
    });
}

/// P12, W12
#[test]
fn a_pool_whose_preload_hangs_can_be_stopped() {
    run(async {
        let setup = Setup { preload: Script::Hang, ..Setup::default() };
        let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
        the_server().await;
        let call = pool.send(Pid);
        let end = ending(&pool, Duration::ZERO).await;
        assert_stopped(answer(call).await);
        ended(end).await;
    });
}

/// P12, W12
#[test]
fn a_pool_whose_preload_hangs_ends_with_its_last_handle() {
    run(async {
        let setup = Setup { preload: Script::Hang, ..Setup::default() };
        let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
        the_server().await;
        drop(pool);
        until("nothing is left", || descendants(std::process::id()).is_empty()).await;
    });
}

/// P12, W12
#[test]
fn a_pool_whose_preload_failed_can_be_stopped() {
    run(async {
        let setup = Setup { preload: Script::Error("no model".to_owned()), ..Setup::default() };
        let builder = builder::<Probe>(setup).workers(1..=1).restart(NEVER);
        let pool = builder.start().expect("the pool starts");
        let failure = answer(pool.send(Pid)).await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Setup);
        until("its server has gone", || servers().is_empty()).await;
        let call = pool.send(Pid);
        let end = ending(&pool, Duration::ZERO).await;
        assert_stopped(answer(call).await);
        ended(end).await;
    });
}

/// P12
#[test]
fn with_its_last_handle_an_unused_pool_ends() {
    run(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        let clone = pool.clone();
        drop(pool);
        assert!(answer(clone.send(Pid)).await.is_ok(), "one handle is enough");
        drop(clone);
        until("nothing is left", || descendants(std::process::id()).is_empty()).await;
    });
}

/// P12
#[test]
fn a_pool_whose_handle_is_dropped_at_any_moment_of_its_start_ends() {
    run(async {
        for round in 0..40_u32 {
            let pool = pool().workers(2..=2).start().expect("the pool starts");
            actix_rt::time::sleep(Duration::from_micros(100) * round).await;
            drop(pool);
            until("nothing is left", || descendants(std::process::id()).is_empty()).await;
        }
    });
}

/// P12
#[test]
fn after_the_last_handle_held_and_waiting_checkouts_are_served_until_released() {
    run(async {
        let pool = pool_of_one();
        let held = pool.checkout().start();
        let pid = answer(held.send(Pid)).await.expect("a pid");
        let waiting = pool.checkout().start();
        let first = waiting.send(Remember(1));
        until("one waits", || pool.stats().waiting == 1).await;
        drop(pool);
        assert_eq!(answer(held.send(Pid)).await, Ok(pid));
        drop(held);
        assert_eq!(answer(first).await, Ok(vec![1]));
        assert_eq!(answer(waiting.send(Remember(2))).await, Ok(vec![1, 2]), "until it is released");
        assert_eq!(children(the_server().await), [pid]);
        drop(waiting);
        until("nothing is left", || descendants(std::process::id()).is_empty()).await;
    });
}

/// P12
#[test]
fn after_the_last_handle_whoever_waits_is_served_even_if_the_worker_dies() {
    run(async {
        let pool = pool_of_one();
        let held = pool.checkout().start();
        assert!(answer(held.send(Pid)).await.is_ok());
        let waiting = pool.checkout().start();
        let call = waiting.send(Setups);
        until("one waits", || pool.stats().waiting == 1).await;
        drop(pool);
        assert_eq!(answer(held.send(Exit(1))).await.unwrap_err().kind(), FailureKind::Died);
        assert_eq!(answer(call).await, Ok(1));
        drop(waiting);
        until("nothing is left", || descendants(std::process::id()).is_empty()).await;
        drop(held);
    });
}

/// P12, C4
#[test]
fn messages_sent_to_the_pool_before_its_last_handle_went_are_answered() {
    run(async {
        let done = Scratch::path();
        let setup = Setup { done_journal: done.some(), ..Setup::default() };
        let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
        let calls = [1, 2].map(|number| pool.send(Slow(Duration::from_millis(50), number)));
        pool.do_send(Pid);
        drop(pool);
        for (call, number) in calls.into_iter().zip(1..) {
            assert_eq!(answer(call).await, Ok(number));
        }
        until("nothing is left", || descendants(std::process::id()).is_empty()).await;
        assert_eq!(done.lines().len(), 3, "the one that was sent and forgotten was run, too");
    });
}

/// P12
#[test]
fn after_the_last_handle_there_are_no_new_checkouts() {
    run(async {
        let pool = pool_of_one();
        let (addr, builder) = (pool.addr(), pool.checkout());
        let held = pool.checkout().start();
        assert!(answer(held.send(Pid)).await.is_ok());
        drop(pool);
        assert_stopped(answer(addr.send(Pid)).await);
        assert_stopped(answer(builder.start().send(Pid)).await);
        assert!(answer(held.send(Pid)).await.is_ok());
        drop(held);
        until("nothing is left", || descendants(std::process::id()).is_empty()).await;
        assert_stopped(answer(addr.send(Pid)).await);
    });
}

/// P12
#[test]
fn as_long_as_an_address_lives_the_answer_is_stopped_and_no_mailbox_is_closed() {
    run(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        let addr = pool.addr();
        let checkouts = [(); 3].map(|()| pool.checkout().start());
        assert!(answer(checkouts[0].send(Pid)).await.is_ok());
        bounded("the end", pool.stop(Duration::ZERO)).await;
        for _ in 0..3 {
            for checkout in &checkouts {
                assert!(checkout.connected());
                assert_stopped(answer(checkout.send(Pid)).await);
                assert_stopped(answer(checkout.send(Within(LONG, Pid))).await);
            }
            assert!(addr.connected());
            assert_stopped(answer(addr.send(Pid)).await);
            assert_stopped(answer(pool.send(Pid)).await);
            assert_stopped(answer(pool.checkout().start().send(Pid)).await);
        }
    });
}

/// P12, C8
#[test]
fn calls_sent_and_forgotten_finish_before_the_end() {
    run(async {
        let done = Scratch::path();
        let setup = Setup { done_journal: done.some(), ..Setup::default() };
        let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        assert!(answer(checkout.send(Pid)).await.is_ok());
        for number in 0..3 {
            checkout.do_send(Slow(Duration::from_millis(20), number));
        }
        drop(checkout);
        let end = ending(&pool, LONG).await;
        ended(end).await;
        assert_eq!(pool.stats().succeeded, 4);
    });
}

/// P12
#[test]
fn two_pools_end_each_for_itself() {
    run(async {
        let (first, second) = (pool_of_one(), pool_of_one());
        assert!(answer(first.send(Pid)).await.is_ok());
        let pid = answer(second.send(Pid)).await.expect("a pid");
        bounded("the end", first.stop(Duration::ZERO)).await;
        assert_eq!(answer(second.send(Pid)).await, Ok(pid));
        assert_eq!(servers().len(), 1);
        bounded("the end", second.stop(Duration::ZERO)).await;
        nothing_is_left();
    });
}

/// P12, S6
#[test]
fn a_pool_whose_server_was_killed_can_be_stopped() {
    run(async {
        let pool = pool().workers(2..=2).timeout(None).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let pid = answer(checkout.send(Pid)).await.expect("a pid");
        let call = checkout.send(Spin);
        kill(the_server().await);
        let end = ending(&pool, Duration::from_millis(50)).await;
        assert_stopped(answer(call).await);
        ended(end).await;
        until("the worker that span is gone", || !runs(pid)).await;
    });
}
