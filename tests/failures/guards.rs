//! What ends a call that nobody's clock ends, how gently, and what is refused after that.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::harness::*;
use forkpool::OnCancel;
use forkpool::prelude::*;
use forkpool::{Ending, Phase};

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A path of which nothing is there yet.
fn fresh(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("forkpool-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

const KILLED: Option<Ending> = Some(Ending::Signaled { signal: 9, core_dumped: false });

/// W11
#[test]
fn a_tight_loop_that_blocks_every_signal_is_ended_by_the_guard() {
    run(async {
        let pool = mules().hung_worker_timeout(millis(300)).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Trick::Nothing)).await.expect("a pid");
        let began = Instant::now();
        let hung = failure(checkout.send(Trick::SpinDeaf)).await;
        assert!(began.elapsed() >= millis(280), "{:?}", began.elapsed());
        assert_eq!((hung.kind(), hung.limit()), (FailureKind::Hung, Some(millis(300))));
        assert_eq!((hung.pid(), hung.phase(), hung.ending()), (Some(worker), Some(Phase::Running), KILLED));
        assert!(hung.cpu_time().is_some_and(|time| time >= millis(5)), "{hung:#}");
        assert!(hung.to_string().contains("hung_worker_timeout of 300ms"), "{hung}");
        // It is as fatal as any other end of a worker.
        assert_eq!(failure(checkout.send(Trick::Nothing)).await, hung);
        assert_ne!(answer(pool.send(Trick::Nothing)).await, Ok(worker));
    });
}

/// W11
#[test]
fn the_guard_counts_each_call_on_its_own_also_when_they_are_written_ahead() {
    run(async {
        let pool = mules().hung_worker_timeout(millis(400)).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Trick::Nothing)).await.expect("a pid");
        let calls: Vec<_> = (0..6).map(|_| checkout.send(Trick::Spin(millis(150)))).collect();
        for call in calls {
            assert_eq!(answer(call).await, Ok(worker));
        }
        let ahead = [checkout.send(Trick::Spin(millis(150))), checkout.send(Trick::SpinDeaf)];
        let behind = checkout.send(Trick::Nothing);
        let [fine, hangs] = ahead;
        assert_eq!(answer(fine).await, Ok(worker));
        assert_eq!(failure(hangs).await.kind(), FailureKind::Hung);
        assert_eq!(failure(behind).await.kind(), FailureKind::Cleared);
    });
}

/// W11
#[test]
fn the_guard_does_not_need_the_application() {
    run(async {
        let pool = mules().hung_worker_timeout(millis(200)).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Trick::Nothing)).await.expect("a pid");
        let request = checkout.send(Trick::SpinDeaf);
        until("the call is written", || pool.stats().waited.count() == 2).await;
        // This thread, which is all that the application has, does nothing until the worker is gone.
        let patience = Instant::now() + PATIENCE;
        while exists(worker) && Instant::now() < patience {
            std::thread::yield_now();
        }
        assert!(!exists(worker));
        assert_eq!(failure(request).await.kind(), FailureKind::Hung);
    });
}

/// W11
#[test]
fn a_checkout_done_that_hangs_is_ended_too_and_harms_nobody() {
    run(async {
        let pool = mules().hung_worker_timeout(millis(200)).start().expect("the pool starts");
        let worker = answer(pool.send(Trick::HangWhenDone)).await.expect("a pid");
        let next = answer(pool.send(Trick::Nothing)).await.expect("a pid");
        assert_ne!(next, worker);
        assert!(pool.stats().failures.is_empty());
    });
}

/// T8
#[test]
fn with_a_grace_a_worker_that_times_out_is_asked_first_and_its_caller_told_at_once() {
    run(async {
        let file = fresh("heeded");
        let pool = mules().kill_grace(PATIENCE).start().expect("the pool starts");
        pool.ready().await.expect("a worker");
        let call = pool.send_within(millis(300), Trick::HeedTerm(file.clone()));
        let timed_out = answer(call).await.expect_err("a timeout");
        assert_eq!(timed_out.kind(), FailureKind::Timeout);
        gone(timed_out.pid().expect("a pid")).await;
        assert!(file.exists(), "it was asked");
        assert!(answer(pool.send(Trick::Nothing)).await.is_ok());
        std::fs::remove_file(file).expect("the file");
    });
}

/// T8
#[test]
fn a_worker_that_takes_no_notice_is_killed_after_the_grace() {
    run(async {
        let file = fresh("ignored");
        let pool = mules().kill_grace(millis(200)).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Trick::Nothing)).await.expect("a pid");
        let request = checkout.send(Trick::IgnoreTerm(file.clone()));
        until("it is on its guard", || file.exists()).await;
        let began = Instant::now();
        answer(async { checkout.send(Abort("enough".to_owned())).await }).await;
        assert_eq!(failure(request).await.kind(), FailureKind::Aborted);
        assert!(exists(worker), "it has not been killed yet");
        gone(worker).await;
        assert!(began.elapsed() >= millis(200));
        std::fs::remove_file(file).expect("the file");
    });
}

/// T8
#[test]
fn a_worker_that_hangs_is_asked_first_as_well() {
    run(async {
        let file = fresh("hung");
        let pool = mules().hung_worker_timeout(millis(200)).kill_grace(PATIENCE);
        let pool = pool.start().expect("the pool starts");
        let hung = answer(pool.send(Trick::HeedTerm(file.clone()))).await.expect_err("it hangs");
        assert_eq!((hung.kind(), hung.ending()), (FailureKind::Hung, Some(Ending::Exited { code: 7 })));
        assert!(file.exists());
        std::fs::remove_file(file).expect("the file");
    });
}

/// C9
#[test]
fn a_call_whose_future_is_dropped_while_it_waits_never_runs() {
    run(async {
        let file = fresh("never");
        let pool = mules().start().expect("the pool starts");
        let (holder, next) = (pool.checkout().start(), pool.checkout().start());
        let running = holder.send(Trick::Spin(millis(50)));
        drop(next.send(Trick::MakeFile(Duration::ZERO, file.clone())));
        drop(holder.send(Trick::MakeFile(Duration::ZERO, file.clone())));
        let last = next.send(Trick::Nothing);
        assert!(answer(running).await.is_ok());
        drop(holder);
        assert!(answer(last).await.is_ok());
        assert!(!file.exists());
    });
}

/// C9
#[test]
fn a_call_that_runs_when_its_future_is_dropped_may_finish_by_default() {
    run(async {
        let file = fresh("finished");
        let pool = mules().start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Trick::Nothing)).await.expect("a pid");
        let request = checkout.send(Trick::MakeFile(millis(100), file.clone()));
        until("it runs", || pool.stats().waited.count() == 2).await;
        drop(request);
        assert_eq!(answer(checkout.send(Trick::Nothing)).await, Ok(worker));
        assert!(file.exists());
        assert_eq!(pool.stats().unheard, 1);
        std::fs::remove_file(file).expect("the file");
    });
}

/// C9
#[test]
fn where_that_is_agreed_a_call_that_is_given_up_costs_its_worker() {
    run(async {
        let pool = mules().on_cancel(OnCancel::Kill).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Trick::Nothing)).await.expect("a pid");
        let request = checkout.send(Trick::SpinDeaf);
        let behind = checkout.send(Trick::Nothing);
        until("it runs", || pool.stats().waited.count() == 2).await;
        drop(request);
        assert_eq!(failure(behind).await.kind(), FailureKind::Cleared);
        gone(worker).await;
        let cancelled = failure(checkout.send(Trick::Nothing)).await;
        assert_eq!((cancelled.kind(), cancelled.pid()), (FailureKind::Cancelled, Some(worker)));
        drop(checkout);
        // One that is sent to the pool is given up like any other. Before it has begun it would cost no worker.
        let worker = answer(pool.send(Trick::Nothing)).await.expect("a pid");
        let request = pool.send(Trick::SpinDeaf);
        until("it runs", || signal_masks(worker)["SigBlk"] != 0).await;
        drop(request);
        gone(worker).await;
        // A checkout may have agreed otherwise.
        let patient = pool.checkout().on_cancel(OnCancel::Finish).start();
        let worker = answer(patient.send(Trick::Nothing)).await.expect("a pid");
        let before = pool.stats().waited.count();
        let request = patient.send(Trick::Spin(millis(50)));
        until("it runs", || pool.stats().waited.count() == before + 1).await;
        drop(request);
        assert_eq!(answer(patient.send(Trick::Nothing)).await, Ok(worker));
    });
}

/// T2
#[test]
fn a_holder_that_does_nothing_loses_its_worker_in_order() {
    run(async {
        let pool = mules().idle_checkout_timeout(millis(200)).start().expect("the pool starts");
        let holder = pool.checkout().start();
        let worker = answer(holder.send(Trick::Nothing)).await.expect("a pid");
        let next = pool.checkout().idle_checkout_timeout(None).start();
        // It was released and not killed, so the next one has the same.
        assert_eq!(answer(next.send(Trick::Nothing)).await, Ok(worker));
        let reclaimed = failure(holder.send(Trick::Nothing)).await;
        assert_eq!((reclaimed.kind(), reclaimed.phase()), (FailureKind::Timeout, Some(Phase::Holding)));
        assert_eq!((reclaimed.limit(), reclaimed.pid()), (Some(millis(200)), Some(worker)));
        assert!(reclaimed.to_string().contains("with nothing to run"), "{reclaimed}");
        drop(next);
        // One that has something to do is no such holder, however long that takes.
        let busy = pool.checkout().start();
        assert_eq!(answer(busy.send(Trick::Spin(millis(500)))).await, Ok(worker));
        assert_eq!(answer(busy.send(Trick::Nothing)).await, Ok(worker));
    });
}

/// E9
#[test]
fn a_call_that_ends_workers_again_and_again_is_refused_for_a_while() {
    run(async {
        let pool = mules().max_kills(2).kill_window(millis(1500)).start().expect("the pool starts");
        let kinds =
            [FailureKind::Died, FailureKind::Died, FailureKind::Quarantined, FailureKind::Quarantined];
        let mut refused_for = Duration::ZERO;
        for kind in kinds {
            let refused = answer(pool.send(Trick::Exit(3))).await.expect_err("a failure");
            assert_eq!(refused.kind(), kind, "{refused}");
            refused_for = refused.retry_after().unwrap_or_default();
        }
        settled(&pool, 1).await;
        let forked = pool.stats().forked;
        assert!(refused_for > Duration::ZERO && refused_for <= millis(1500));
        // Another message of the same kind is another call, and a checkout goes on after a refusal.
        let checkout = pool.checkout().start();
        assert!(answer(checkout.send(Trick::Nothing)).await.is_ok());
        assert_eq!(failure(checkout.send(Trick::Exit(3))).await.kind(), FailureKind::Quarantined);
        assert!(answer(checkout.send(Trick::Nothing)).await.is_ok());
        assert_eq!(failure(checkout.send(Trick::Exit(4))).await.kind(), FailureKind::Died);
        drop(checkout);
        settled(&pool, 1).await;
        assert_eq!(pool.stats().forked, forked + 1, "refusals cost no worker");
        let mut again = FailureKind::Quarantined;
        let patience = Instant::now() + PATIENCE;
        while again == FailureKind::Quarantined && Instant::now() < patience {
            again = answer(pool.send(Trick::Exit(3))).await.expect_err("a failure").kind();
        }
        assert_eq!(again, FailureKind::Died, "after the window it may show that it is better now");
    });
}
