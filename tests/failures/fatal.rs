//! What ends a checkout for good, and what it is told from then on.

use std::time::Duration;

use crate::harness::*;
use actix::prelude::*;
use forkpool::Transport;
use forkpool::prelude::*;
use forkpool::{Ending, Phase};

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Ends a checkout for good with a deed that has others behind it; checks what is promised of every end.
async fn ends_with(name: &str, pool: &PoolHandle<Rogue>, deed: Deed) -> Failure {
    let checkout = pool.checkout().start();
    let worker = answer(checkout.send(Deed::Nothing)).await.expect("a pid");
    let limit = matches!(deed, Deed::Spin).then_some(millis(150));
    let running = checkout.send(Within(limit, deed));
    let behind: Vec<_> = (0..3).map(|_| checkout.send(Deed::Nothing)).collect();
    checkout.do_send(Deed::Nothing);
    let first = rogue_failure(running).await;
    for request in behind {
        let cleared = rogue_failure(request).await;
        assert_eq!((cleared.kind(), cause(&cleared)), (FailureKind::Cleared, Some(&first)), "{name}");
    }
    // Every later call gets the same, however long it would be ready to wait.
    for _ in 0..3 {
        let later = rogue_failure(checkout.send(Within(None::<Duration>, Deed::Spin))).await;
        assert_eq!(later, first, "{name}");
    }
    assert_eq!(
        (first.pid(), first.call(), first.pool()),
        (Some(worker), Some("Deed"), Some("rogue")),
        "{name}"
    );
    gone(worker).await;
    let next = pool.checkout().start();
    assert_ne!(answer(next.send(Deed::Nothing)).await, Ok(worker), "{name}");
    first
}

/// E5
#[test]
fn a_fatal_failure_is_remembered_and_clears_the_queue_and_its_worker_is_never_used_again() {
    run(async {
        let pool = rogues();
        let kinds = [
            ("a panic", Deed::PanicAfter(Duration::ZERO, "no".to_owned()), FailureKind::Panic),
            ("a timeout", Deed::Spin, FailureKind::Timeout),
            ("a late panic", Deed::PanicAfter(millis(30), "no".to_owned()), FailureKind::Panic),
            ("an exit", Deed::Exit(3), FailureKind::Died),
            ("an exit that looks well", Deed::Exit(0), FailureKind::Died),
            ("an abort", Deed::AbortProcess, FailureKind::Died),
            ("a closed channel", Deed::HangUp, FailureKind::Died),
            (
                "a frame of nonsense",
                Deed::Babble(vec![4, 0, 0, 0, 255, 255, 255, 255]),
                FailureKind::Protocol,
            ),
            ("a counter that cannot be", Deed::Scribble { at: SAID, number: 1 << 31 }, FailureKind::Protocol),
            ("an endless frame", Deed::Babble(vec![255; 8]), FailureKind::Protocol),
            ("an empty frame", Deed::Babble(vec![0; 4]), FailureKind::Protocol),
            ("a reply to no call", Deed::Babble(vec![5, 0, 0, 0, 2, 99, 0, 0, 0]), FailureKind::Protocol),
        ];
        let has_counters = transport() == Transport::SharedMemory;
        for (name, deed, kind) in kinds {
            if matches!(deed, Deed::Scribble { .. }) && !has_counters {
                continue;
            }
            let failure = ends_with(name, &pool, deed).await;
            assert_eq!(failure.kind(), kind, "{name}: {failure}");
        }
        assert_eq!(
            ends_with("an exit", &pool, Deed::Exit(3)).await.ending(),
            Some(Ending::Exited { code: 3 })
        );
        let aborted = ends_with("an abort", &pool, Deed::AbortProcess).await;
        assert!(matches!(aborted.ending(), Some(Ending::Signaled { signal: 6, .. })), "{aborted}");
        let timed_out = ends_with("a timeout", &pool, Deed::Spin).await;
        assert_eq!((timed_out.phase(), timed_out.limit()), (Some(Phase::Running), Some(millis(150))));
    });
}

/// C4
#[test]
fn a_call_that_ends_worker_after_worker_before_it_begins_is_given_up() {
    run(async {
        let pool = rogues();
        let checkout = pool.checkout().start();
        let failure = rogue_failure(checkout.send(Within(None::<Duration>, Deed::EndUnbegun))).await;
        assert_eq!(failure.kind(), FailureKind::Died, "{failure}");
        let forked = pool.stats().forked;
        assert!((2..20).contains(&forked), "{forked} workers were forked for it");
        assert!(answer(pool.send(Deed::Nothing)).await.is_ok());
    });
}

/// E5
#[test]
fn a_worker_that_is_killed_during_a_call_fails_it_and_says_how() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        let worker = pid(&checkout).await;
        let (running, behind) = (checkout.send(Spin), checkout.send(Pid));
        until("it runs", || pool.stats().waited.count() == 2).await;
        kill(worker);
        let died = failure(running).await;
        assert_eq!((died.kind(), died.pid()), (FailureKind::Died, Some(worker)));
        assert!(died.to_string().contains("SIGKILL"), "{died}");
        assert_eq!(cause(&failure(behind).await), Some(&died));
        assert_eq!(failure(checkout.send(Pid)).await, died);
        // The first is remembered, not the last.
        answer(checkout.send(Abort("enough".to_owned()))).await;
        assert_eq!(failure(checkout.send(Pid)).await, died);
    });
}

/// E5
#[test]
fn a_worker_that_is_killed_between_calls_fails_the_next_one() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        let worker = pid(&checkout).await;
        kill(worker);
        gone(worker).await;
        // What it held is lost, so no other worker goes on in its place.
        let died = failure(checkout.send(Remember(2))).await;
        assert_eq!((died.kind(), died.pid()), (FailureKind::Died, Some(worker)));
        assert_eq!(failure(checkout.send(Remember(3))).await.kind(), FailureKind::Died);
    });
}

/// E5, T3
#[test]
fn a_checkout_that_timed_out_in_line_remembers_it() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().start();
        let worker = pid(&holder).await;
        let checkout = pool.checkout().timeout(millis(80)).start();
        let (first, behind) = (checkout.send(Pid), checkout.send(Pid));
        let timed_out = failure(first).await;
        assert_eq!(timed_out.kind(), FailureKind::Timeout);
        let cleared = failure(behind).await;
        assert_eq!((cleared.kind(), cause(&cleared)), (FailureKind::Cleared, Some(&timed_out)));
        drop(holder);
        assert_eq!(failure(checkout.send(Within(None::<Duration>, Pid))).await, timed_out);
        // It takes no worker from anybody.
        assert_eq!(answer(pool.send(Pid)).await, Ok(worker));
    });
}

fn is_aborted(failure: &Failure, reason: &str) -> bool {
    failure.kind() == FailureKind::Aborted && failure.to_string().contains(reason)
}

/// E6
#[test]
fn an_abort_answers_what_runs_and_what_is_queued_and_kills_the_worker() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().timeout(None).start();
        let worker = pid(&checkout).await;
        let next = pool.checkout().start();
        let of_next = next.send(Pid);
        let running = checkout.send(Spin);
        let queued: Vec<_> = (0..1500).map(|number| checkout.send(Remember(number))).collect();
        checkout.do_send(Remember(1));
        until("it runs", || pool.stats().waited.count() == 2).await;
        let abort: Recipient<Abort> = checkout.clone().recipient();
        answer(abort.send(Abort("the user left".to_owned()))).await;
        let aborted = failure(running).await;
        assert!(is_aborted(&aborted, "the user left"), "{aborted}");
        for request in queued {
            let aborted = failure(request).await;
            assert!(is_aborted(&aborted, "the user left"), "{aborted}");
        }
        gone(worker).await;
        assert_ne!(answer(of_next).await, Ok(worker));
        answer(checkout.send(Abort("again".to_owned()))).await;
        assert!(is_aborted(&failure(checkout.send(Pid)).await, "the user left"));
    });
}

/// E6
#[test]
fn an_abort_while_waiting_for_a_worker_leaves_the_line() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().start();
        let worker = pid(&holder).await;
        let checkout = pool.checkout().timeout(None).start();
        let requests = [checkout.send(Pid), checkout.send(Pid)];
        let silent = pool.checkout().start();
        assert_eq!(pool.stats().waiting, 2);
        for waiting in [&checkout, &silent] {
            answer(waiting.send(Abort("the user left".to_owned()))).await;
        }
        for request in requests {
            assert!(is_aborted(&failure(request).await, "the user left"));
        }
        assert!(is_aborted(&failure(silent.send(Pid)).await, "the user left"));
        assert_eq!(pool.stats().waiting, 0);
        assert_eq!(pid(&holder).await, worker);
        drop(holder);
        assert_eq!(answer(pool.send(Pid)).await, Ok(worker));
    });
}

/// E6
#[test]
fn an_abort_with_nothing_queued_kills_the_worker_and_is_remembered() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        let worker = pid(&checkout).await;
        answer(checkout.send(Abort("the user left".to_owned()))).await;
        gone(worker).await;
        assert!(is_aborted(&failure(checkout.send(Pid)).await, "the user left"));
        let unused = pool.checkout().start();
        unused.do_send(Abort("never mind".to_owned()));
        assert!(is_aborted(&failure(unused.send(Pid)).await, "never mind"));
        assert!(answer(pool.send(Pid)).await.is_ok());
    });
}

/// E6, C4
#[test]
fn an_abort_lets_no_late_reply_through() {
    run(async {
        let pool = pool_of_one();
        for round in 0..20 {
            let before = pool.stats().waited.count();
            let checkout = pool.checkout().start();
            let request = checkout.send(Slow(millis(5), round));
            until("it runs", || pool.stats().waited.count() == before + 1).await;
            checkout.do_send(Abort("the user left".to_owned()));
            // The reply can be read before the abort is.
            std::thread::sleep(millis(20));
            assert!(is_aborted(&failure(request).await, "the user left"));
            drop(checkout);
            assert_eq!(answer(pool.send(Slow(Duration::ZERO, 1000 + round))).await, Ok(1000 + round));
        }
    });
}
