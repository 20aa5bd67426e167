//! Many calls in one message.

use std::time::{Duration, Instant};

use crate::harness::*;
use actix::prelude::*;
use forkpool::prelude::*;

/// More than may be written to a worker ahead of its replies.
const MANY: u64 = 3000;

fn numbers(until: u64) -> Batch<Remember> {
    Batch((0..until).map(Remember).collect())
}

/// C2, C4
#[test]
fn the_calls_of_a_batch_run_in_order_between_those_around_it() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        for round in ["before there is a worker", "with one"] {
            let before = checkout.send(Remember(1_000_000));
            let batch = checkout.send(numbers(MANY));
            let behind = checkout.send(Remember(2_000_000));
            assert!(answer(before).await.is_ok(), "{round}");
            let answers = answer(batch).await;
            assert_eq!(answers.len(), MANY as usize, "{round}");
            for (number, answer) in answers.into_iter().enumerate() {
                assert_eq!(answer.expect("what it remembers").last(), Some(&(number as u64)), "{round}");
            }
            let all = answer(behind).await.expect("what it remembers");
            assert_eq!(&all[all.len() - 3..], [MANY - 2, MANY - 1, 2_000_000], "{round}");
        }
    });
}

/// C4, C5
#[test]
fn a_batch_of_nothing_is_answered_with_nothing() {
    run(async {
        let pool = pool().workers(0..=1).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        assert!(answer(pool.send_batch(Vec::<Pid>::new())).await.is_empty());
        assert!(answer(pool.addr().send(Batch(Vec::<Pid>::new()))).await.is_empty());
        assert!(answer(checkout.send(Batch(Vec::<Pid>::new()))).await.is_empty());
        pid(&checkout).await;
    });
}

/// C2: a batch to the pool is a checkout of its own, however it is sent.
#[test]
fn a_batch_to_the_pool_has_one_worker_to_itself() {
    run(async {
        let pool = pool().workers(3..=3).start().expect("the pool starts");
        settled(&pool, 3).await;
        let recipient: Recipient<Batch<Remember>> = pool.addr().recipient();
        let batches =
            [answer(pool.send_batch(numbers(100).0)).await, answer(recipient.send(numbers(100))).await];
        for answers in batches {
            for (number, answer) in (0..).zip(answers) {
                assert_eq!(answer, Ok((0..=number).collect::<Vec<u64>>()));
            }
        }
        let many: Vec<_> = (0..8).map(|_| pool.send_batch(numbers(200).0)).collect();
        for batch in many {
            let answers = answer(batch).await;
            assert_eq!(answers.last(), Some(&Ok((0..200).collect())), "nobody came in between");
        }
        assert_eq!((pool.stats().forked, pool.stats().checkouts), (3, 10));
        settled(&pool, 3).await;
    });
}

/// E1, E2, E3
#[test]
fn an_error_is_that_of_its_own_call_and_clears_those_behind() {
    run(async {
        let pool = rogues();
        let checkout = pool.checkout().start();
        let grief = Grief::Detailed { code: 7, words: vec!["no".to_owned()] };
        let mut deeds = vec![Deed::Nothing, Deed::Nothing, Deed::Fail(grief.clone())];
        deeds.extend(std::iter::repeat_n(Deed::Exit(1), 2000));
        let batch = checkout.send(Batch(deeds));
        let behind = checkout.send(Deed::Exit(2));
        let mut answers = answer(batch).await.into_iter();
        let worker = answers.next().expect("an answer").expect("a pid");
        assert_eq!(answers.next(), Some(Ok(worker)));
        assert_eq!(answers.next(), Some(Err(grief)));
        assert_eq!(answers.len(), 2000);
        for answer in answers {
            assert!(matches!(answer, Err(Grief::Worker(failure)) if failure.kind() == FailureKind::Cleared));
        }
        assert_eq!(rogue_failure(behind).await.kind(), FailureKind::Cleared);
        assert_eq!(answer(checkout.send(Deed::Nothing)).await, Ok(worker), "it goes on with its worker");
    });
}

/// C4, E5, T3
#[test]
fn whatever_ends_a_worker_is_the_failure_of_the_call_that_ran() {
    run(async {
        let pool = rogues();
        for (deed, kind) in [
            (Deed::PanicWithoutText, FailureKind::Panic),
            (Deed::Exit(3), FailureKind::Died),
            (Deed::AbortProcess, FailureKind::Died),
            (Deed::Spin, FailureKind::Timeout),
        ] {
            let limit = if kind == FailureKind::Timeout { Duration::from_millis(200) } else { PATIENCE };
            for on_a_checkout in [false, true] {
                settled(&pool, 1).await;
                let deeds = vec![Deed::Nothing, deed.clone(), Deed::Nothing, Deed::Nothing];
                let limited = Within(limit, Batch(deeds));
                let checkout = on_a_checkout.then(|| pool.checkout().start());
                let answers = match &checkout {
                    Some(checkout) => answer(checkout.send(limited)).await,
                    None => answer(pool.addr().send(limited)).await,
                };
                let [first, failed, behind, last] = <[_; 4]>::try_from(answers).expect("four answers");
                assert!(first.is_ok(), "{kind:?} {first:?}");
                let of = |answer| match answer {
                    Err(Grief::Worker(failure)) => failure,
                    other => panic!("{other:?} of {kind:?}"),
                };
                let (failed, behind, last): (Failure, Failure, Failure) = (of(failed), of(behind), of(last));
                assert_eq!(failed.kind(), kind);
                for cleared in [behind, last] {
                    assert_eq!(cleared.kind(), FailureKind::Cleared, "{kind:?}");
                    assert_eq!(cause(&cleared).map(Failure::kind), Some(kind));
                }
                if let Some(checkout) = checkout {
                    assert_eq!(
                        rogue_failure(checkout.send(Deed::Nothing)).await.kind(),
                        kind,
                        "it is remembered"
                    );
                }
            }
        }
        let answers = answer(pool.send_batch(vec![Deed::Nothing])).await;
        assert!(answers[0].is_ok(), "the pool goes on");
    });
}

/// C7
#[test]
fn a_message_that_is_too_large_fails_alone() {
    run(async {
        let pool = pool().workers(1..=1).max_payload(1000).start().expect("the pool starts");
        let sizes = [10, 2000, 990, 1001, 0];
        let answers = answer(pool.send_batch(sizes.map(|size| Echo(vec![7; size])).into())).await;
        for (size, answer) in sizes.into_iter().zip(answers) {
            match size {
                2000 | 1001 => {
                    assert_eq!(answer.map_err(|failure| failure.kind()), Err(FailureKind::Payload))
                }
                _ => assert_eq!(answer, Ok(vec![7; size])),
            }
        }
    });
}

/// C9
#[test]
fn a_batch_that_is_given_up_before_it_has_a_worker_does_not_run() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().start();
        pid(&holder).await;
        let waiting = pool.checkout().start();
        let given_up = waiting.send(numbers(10));
        let kept = waiting.send(Batch(vec![Remember(77)]));
        let of_pool = pool.send_batch(vec![Exit(1), Exit(1)]);
        // Until it is there nobody could give it up.
        until("both wait", || pool.stats().waiting == 2).await;
        drop((given_up, of_pool));
        drop(holder);
        assert_eq!(answer(kept).await, [Ok(vec![77])]);
        drop(waiting);
        settled(&pool, 1).await;
        assert_eq!(pool.stats().forked, 1, "nobody has ended it");
    });
}

/// C1: also if this thread does nothing else from then on.
#[test]
fn the_first_call_of_a_batch_to_the_pool_is_on_its_way_when_it_is_sent() {
    run(async {
        let pool = pool_of_one();
        settled(&pool, 1).await;
        let journal = Scratch::path();
        let task = |number| Task(number, journal.get().to_owned(), None, Act::Answer);
        let batch = pool.send_batch(vec![task(1), task(2)]);
        let patience = Instant::now() + PATIENCE;
        while journal.lines().is_empty() && Instant::now() < patience {
            std::thread::yield_now();
        }
        assert_eq!(journal.lines().len(), 1, "the second one waits until the worker has shown that it works");
        assert!(answer(batch).await.iter().all(Result::is_ok));
        assert_eq!(journal.lines().len(), 2);
    });
}

/// C1: so is a call on a handle, when no other one has just been answered.
#[test]
fn a_call_on_a_handle_is_on_its_way_when_it_is_made() {
    run(async {
        let pool = pool_of_one();
        settled(&pool, 1).await;
        let journal = Scratch::path();
        let task = |number| Task(number, journal.get().to_owned(), None, Act::Answer);
        let handle = pool.checkout().open();
        assert!(answer(handle.call(task(1))).await.is_ok());
        for number in 2..=3 {
            let call = handle.call(task(number));
            let patience = Instant::now() + PATIENCE;
            while journal.lines().len() < number as usize && Instant::now() < patience {
                std::thread::yield_now();
            }
            assert_eq!(journal.lines().len(), number as usize);
            assert!(answer(call).await.is_ok());
        }
    });
}

/// C5
#[test]
fn no_answer_of_a_batch_to_the_pool_arrives_while_it_is_sent() {
    run(async {
        let pool = pool().workers(1..=1).max_payload(1000).start().expect("the pool starts");
        settled(&pool, 1).await;
        let (context, heard) = listening("batch");
        let batch = context.run(|| pool.send_batch(vec![Echo(vec![7; 2000]), Echo(vec![7; 10])]));
        assert_eq!(heard.kinds(), []);
        let [large, small] = <[_; 2]>::try_from(answer(batch).await).expect("two answers");
        assert_eq!(large.map_err(|failure| failure.kind()), Err(FailureKind::Payload));
        assert_eq!(small, Ok(vec![7; 10]));
        assert_eq!(heard.kinds(), [FailureKind::Payload]);
        bounded("the stop", pool.stop(Duration::ZERO)).await;
        let (context, heard) = listening("batch");
        let batch = context.run(|| pool.send_batch(vec![Pid, Pid]));
        assert_eq!(heard.kinds(), []);
        assert_eq!(answer(batch).await.len(), 2);
        assert_eq!(heard.kinds(), [FailureKind::Stopped; 2]);
    });
}

/// C4, C10: a thread without an arbiter, and one whose arbiter ends.
#[test]
fn batches_to_the_pool_are_answered_on_every_thread() {
    run(async {
        let pool = pool_of_one();
        let first = answer(pool.send(Pid)).await.expect("a pid");
        let here = pool.clone();
        let answers = on_a_thread(move || block_on(here.send_batch(numbers(50).0))).await;
        assert_eq!(answers.last(), Some(&Ok((0..50).collect())));
        let (here, file) = (pool.clone(), Scratch::path());
        let begun = file.get().to_owned();
        let [batch] = on_an_arbiter(move || async move {
            let task = Task(1, begun, None, Act::Spin);
            let batch = here.send_batch(vec![task.clone(), task]);
            until("the first one runs", || file.lines().len() == 1).await;
            [batch]
        })
        .await;
        assert_eq!(answer(batch).await.len(), 2, "its arbiter has ended");
        gone(first).await;
        assert!(answer(pool.send(Pid)).await.is_ok_and(|pid| pid != first));
    });
}

/// C8
#[test]
fn a_batch_that_is_sent_and_forgotten_runs() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        checkout.do_send(numbers(100));
        assert_eq!(answer(checkout.send(Remember(100))).await, Ok((0..=100).collect()));
        checkout.do_send(Batch(vec![Slow(Duration::from_millis(20), 1), Slow(Duration::from_millis(20), 2)]));
        drop(checkout);
        pid(&pool.checkout().start()).await;
        assert_eq!(pool.stats().succeeded, 104);
    });
}

/// C4: whoever waits in line when the pool stops.
#[test]
fn every_call_of_a_batch_is_answered_when_the_pool_stops() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().start();
        pid(&holder).await;
        let waiting = pool.checkout().start();
        let batches = [answer(waiting.send(numbers(3))), answer(waiting.send(numbers(2)))];
        let of_pool = answer(pool.send_batch(numbers(4).0));
        until("both wait", || pool.stats().waiting == 2).await;
        let stop = actix_rt::spawn({
            let pool = pool.clone();
            async move { pool.stop(Duration::ZERO).await }
        });
        let kinds = |answers: Vec<Result<Vec<u64>, Failure>>| {
            answers
                .into_iter()
                .map(|answer| answer.map_err(|failure| failure.kind()).unwrap_err())
                .collect::<Vec<_>>()
        };
        for batch in batches {
            let kinds = kinds(batch.await);
            assert!(
                kinds.iter().all(|kind| [FailureKind::Stopped, FailureKind::Cleared].contains(kind)),
                "{kinds:?}"
            );
        }
        assert_eq!(kinds(of_pool.await).len(), 4);
        bounded("the end", stop).await.expect("it stops");
    });
}
