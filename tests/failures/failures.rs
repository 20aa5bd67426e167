//! Every kind of failure, and how it reads.

use std::time::Duration;

use crate::harness::*;
use forkpool::Backoff;
use forkpool::Phase;
use forkpool::prelude::*;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// One failure of every kind there is now.
async fn one_of_each() -> Vec<(FailureKind, Failure)> {
    let mut all = Vec::new();
    let small = pool().workers(1..=1).max_payload(1000).max_waiting(1).start().expect("the pool starts");
    all.push((FailureKind::Task, failure(small.send(Fail("no".to_owned()))).await));
    all.push((FailureKind::Panic, failure(small.send(Panic("no\nnot at all".to_owned()))).await));
    all.push((FailureKind::Died, failure(small.send(Exit(3))).await));
    all.push((FailureKind::Died, failure(small.send(AbortProcess)).await));
    all.push((FailureKind::Payload, failure(small.send(Echo(vec![0; 2000]))).await));
    let spin = small.addr().send(Within(millis(30), Spin));
    all.push((FailureKind::Timeout, failure(spin).await));
    let held = small.checkout().start();
    let (spin, behind) = (held.send(Within(millis(30), Spin)), held.send(Pid));
    all.push((FailureKind::Timeout, failure(spin).await));
    all.push((FailureKind::Cleared, failure(behind).await));
    drop(held);
    let held = small.checkout().start();
    let (fail, behind) = (held.send(Fail("no".to_owned())), held.send(Pid));
    all.push((FailureKind::Task, failure(fail).await));
    all.push((FailureKind::Cleared, failure(behind).await));
    let waiting = small.checkout().timeout(millis(30)).start();
    all.push((FailureKind::Overloaded, failure(small.send(Pid)).await));
    all.push((FailureKind::Timeout, failure(waiting.send(Pid)).await));
    answer(held.send(Abort("the user left".to_owned()))).await;
    all.push((FailureKind::Aborted, failure(held.send(Pid)).await));
    small.stop(Duration::ZERO).await;
    all.push((FailureKind::Stopped, failure(small.send(Pid)).await));
    let rogues = rogues();
    all.push((FailureKind::Protocol, rogue_failure(rogues.send(Deed::Babble(vec![255; 8]))).await));
    all.push((FailureKind::Died, rogue_failure(rogues.send(Deed::HangUp)).await));
    let scripts =
        [Script::Error("no\ndatabase".to_owned()), Script::Panic("no\ndatabase".to_owned()), Script::Exit(3)];
    for script in scripts {
        let broken = Setup { script, ..Setup::default() };
        let pool = builder::<Probe>(broken).workers(0..=1).start().expect("the pool starts");
        all.push((FailureKind::Setup, failure(pool.send(Pid)).await));
    }
    all.push((FailureKind::Timeout, timed_out_after_a_failed_setup().await));
    let impossible = Setup { preload: Script::Exit(1), ..Setup::default() };
    let pool = builder::<Probe>(impossible).timeout(millis(2000)).start().expect("the pool starts");
    all.push((FailureKind::NoServer, failure(pool.send(Pid)).await));
    all
}

/// The timeout of a call that waited for another attempt at a set-up.
async fn timed_out_after_a_failed_setup() -> Failure {
    let journal = Scratch::path();
    let script = Script::Error("no database".to_owned());
    let broken = Setup { script, journal: journal.some(), ..Setup::default() };
    let backoff = Backoff::new().first(PATIENCE).most(PATIENCE).jitter(0.0);
    let pool = builder::<Probe>(broken).workers(1..=1).restart(backoff).start().expect("the pool starts");
    until("the first attempt has failed", || !journal.lines().is_empty() && pool.stats().workers() == 0)
        .await;
    failure(pool.addr().send(Within(millis(50), Pid))).await
}

/// E5, E8
#[test]
fn every_kind_of_failure_is_one_line_which_shows_its_sources_or_repeats_none_of_them() {
    run(async {
        for (kind, failure) in one_of_each().await {
            assert_eq!(failure.kind(), kind, "{failure}");
            let shown = failure.to_string();
            assert!(shown.lines().count() == 1 && !shown.trim().is_empty(), "{kind}: {shown:?}");
            let texts = chain(&failure);
            // Where no worker came to run a call, the line is of little use without the reason.
            let shows_causes =
                matches!(kind, FailureKind::Timeout | FailureKind::NoServer | FailureKind::Setup);
            if shows_causes {
                assert!(
                    texts[1..].iter().all(|cause| shown.contains(&cause.replace('\n', " "))),
                    "{kind}: {texts:?}"
                );
            }
            let repeating = texts.iter().enumerate().filter(|_| !shows_causes);
            for (at, text) in repeating {
                let repeats = texts[at + 1..].iter().find(|behind| text.contains(*behind));
                assert_eq!(repeats, None, "{kind}: {texts:?}");
            }
            let bytes = postcard::to_allocvec(&failure).expect("bytes");
            assert_eq!(postcard::from_bytes::<Failure>(&bytes), Ok(failure), "{kind}");
        }
    });
}

/// E8
#[test]
fn a_failure_is_one_line_whatever_text_it_was_given() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        let text = "first line\nsecond line";
        let task = failure(checkout.send(Fail(text.to_owned()))).await;
        answer(checkout.send(Abort(text.to_owned()))).await;
        let aborted = failure(checkout.send(Pid)).await;
        let panicked = failure(pool.send(Panic(format!("\n{text}")))).await;
        for failure in [task, aborted, panicked] {
            let shown = failure.to_string();
            assert_eq!(shown.lines().count(), 1, "{shown:?}");
            assert!(shown.contains("first line"), "{shown:?}");
        }
    });
}

/// E8
#[test]
fn a_failed_setup_keeps_its_chain_behind_a_timeout() {
    run(async {
        let timed_out = timed_out_after_a_failed_setup().await;
        assert_eq!((timed_out.kind(), timed_out.phase()), (FailureKind::Timeout, Some(Phase::Starting)));
        let setup = cause(&timed_out).expect("what it waited for");
        assert_eq!(setup.kind(), FailureKind::Setup);
        assert_eq!(chain(&timed_out).last().map(String::as_str), Some("no database"));
    });
}
