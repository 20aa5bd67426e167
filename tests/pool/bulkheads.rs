//! Bulkheads: the most workers that a class of callers or a message has at a time, and who is passed over because of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::lanes::{Yard, warm};
use crate::harness::*;
use forkpool::prelude::*;

fn class(pool: &PoolHandle<Probe>, most: usize) -> ClassHandle<Probe> {
    pool.class("thumbnails").most(most).expect("the number is possible")
}

/// Waits until so many checkouts and lanes hold a worker and so many calls and checkouts wait for one.
async fn lent(pool: &PoolHandle<Probe>, leased: usize, waiting: usize) {
    until(&format!("{leased} are lent and {waiting} wait"), || {
        let stats = pool.stats();
        (stats.leased, stats.waiting) == (leased, waiting)
    })
    .await;
}

/// P4
#[test]
fn hanging_calls_of_a_class_leave_the_other_workers_to_the_others() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(4..=4), 4).await;
        let class = class(&pool, 2);
        let calls = Vec::from_iter((0..8).map(|number| class.send(yard.gated(number, Act::Answer))));
        yard.begun(2).await;
        for _ in 0..50 {
            assert!(answer(pool.send(Pid)).await.is_ok());
        }
        let others = [(); 2].map(|()| pool.checkout().start());
        for other in &others {
            pid(other).await;
        }
        assert_eq!(yard.numbers().len(), 2, "no third one has begun");
        yard.open();
        for call in calls {
            assert!(answer(call).await.is_ok());
        }
        assert_eq!(yard.sorted(), Vec::from_iter(0..8));
    });
}

/// P4
#[test]
fn all_ways_to_send_a_message_share_its_bulkhead_and_other_messages_pass_it_over() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(3..=3).most_for::<Task>(1), 3).await;
        let call = pool.send(yard.gated(0, Act::Answer));
        yard.begun(1).await;
        pool.do_send(yard.task(1));
        pool.try_send(yard.task(2)).expect("the pool runs");
        let addressed = pool.addr().send(yard.task(3));
        let batch = pool.send_batch(vec![yard.task(4), yard.task(5)]);
        let addressed_batch = pool.addr().send_batch(vec![yard.task(6)]);
        let waiting = actix_rt::spawn(async move {
            assert!(answer(addressed).await.is_ok());
            assert!(bounded("a batch", batch).await.iter().all(Result::is_ok));
            assert!(answer(addressed_batch).await.iter().all(Result::is_ok));
        });
        for _ in 0..50 {
            assert!(answer(pool.send(Pid)).await.is_ok());
        }
        assert_eq!(yard.numbers(), [0]);
        assert!(
            answer(pool.checkout().start().send(yard.task(7))).await.is_ok(),
            "a checkout does not count"
        );
        assert!(answer(class(&pool, 1).send(yard.task(8))).await.is_ok(), "a class counts by itself");
        assert_eq!(yard.numbers(), [0, 7, 8]);
        yard.open();
        assert!(answer(call).await.is_ok());
        bounded("the others", waiting).await.expect("they are answered");
        yard.begun(9).await;
        assert_eq!(yard.sorted(), Vec::from_iter(0..9));
    });
}

/// P4
#[test]
fn calls_and_checkouts_of_a_class_count_together() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(4..=4), 4).await;
        let class = class(&pool, 2);
        let (first, second) = (class.checkout().start(), class.checkout().open());
        pid(&first).await;
        assert!(answer(second.call(Pid)).await.is_ok());
        let third = class.checkout().start();
        let call = class.send(yard.task(1));
        let batch = class.send_batch(vec![yard.task(2), yard.task(3)]);
        lent(&pool, 2, 3).await;
        assert!(yard.numbers().is_empty());
        drop(second);
        pid(&third).await;
        assert!(yard.numbers().is_empty(), "the place is the third checkout's");
        drop(third);
        assert!(answer(call).await.is_ok());
        assert!(bounded("the batch", batch).await.iter().all(Result::is_ok));
        assert_eq!(yard.numbers(), [1, 2, 3]);
    });
}

/// P4
#[test]
fn a_waiter_at_its_bulkhead_is_passed_over_and_keeps_its_place() {
    run(async {
        let pool = warm(pool().workers(2..=2), 2).await;
        let class = class(&pool, 1);
        let first = class.checkout().start();
        pid(&first).await;
        let second = class.checkout().start();
        let others = [(); 2].map(|()| pool.checkout().start());
        // The first of the others passes the second of the class over, the second one finds no worker.
        pid(&others[0]).await;
        lent(&pool, 2, 2).await;
        drop(first);
        pid(&second).await;
        lent(&pool, 2, 1).await;
        drop(second);
        pid(&others[1]).await;
    });
}

/// P4
#[test]
fn a_single_call_at_its_bulkhead_is_passed_over_and_keeps_its_place() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(1..=2), 1).await;
        let class = class(&pool, 1);
        let held = class.checkout().start();
        pid(&held).await;
        let call = class.send(yard.task(1));
        lent(&pool, 1, 1).await;
        let other = pool.checkout().start();
        pid(&other).await;
        let later = pool.send(yard.task(2));
        lent(&pool, 2, 2).await;
        drop(held);
        assert!(answer(call).await.is_ok());
        assert!(answer(later).await.is_ok());
        assert_eq!(yard.numbers(), [1, 2]);
    });
}

/// P4
#[test]
fn the_death_of_a_worker_frees_its_place() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(2..=2), 2).await;
        let class = class(&pool, 1);
        let held = class.checkout().start();
        let victim = pid(&held).await;
        let call = class.send(yard.acts(1, Act::Exit));
        let next = class.send(yard.acts(2, Act::Panic));
        let last = class.send(yard.task(3));
        lent(&pool, 1, 3).await;
        kill(victim);
        assert_eq!(failure(held.send(Pid)).await.kind(), FailureKind::Died);
        assert_eq!(failure(call).await.kind(), FailureKind::Died);
        assert_eq!(failure(next).await.kind(), FailureKind::Panic);
        assert!(answer(last).await.is_ok());
        assert_eq!(yard.numbers(), [1, 2, 3]);
    });
}

/// P4, T1
#[test]
fn a_worker_that_is_killed_for_a_timeout_frees_its_place() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(2..=2), 2).await;
        let class = class(&pool, 1);
        let hangs = class.send_within(Duration::from_millis(300), yard.acts(1, Act::Spin));
        let next = class.send_within(PATIENCE, yard.task(2));
        let failed = failure(hangs).await;
        assert_eq!((failed.kind(), failed.phase()), (FailureKind::Timeout, Some(Phase::Running)));
        assert!(answer(next).await.is_ok());
    });
}

/// P4, C9
#[test]
fn a_waiter_that_gives_up_at_its_bulkhead_never_runs_and_holds_nothing_up() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(2..=2), 2).await;
        let class = class(&pool, 1);
        let held = class.checkout().start();
        pid(&held).await;
        let (given_up, checkout) = (class.send(yard.task(1)), class.checkout().start());
        let kept = class.send(yard.task(2));
        lent(&pool, 1, 3).await;
        drop(given_up);
        drop(checkout);
        lent(&pool, 1, 1).await;
        drop(held);
        assert!(answer(kept).await.is_ok());
        assert_eq!(yard.numbers(), [2]);
    });
}

/// P4, P12
#[test]
fn a_stop_answers_those_that_wait_at_a_bulkhead() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(2..=2), 2).await;
        let class = class(&pool, 1);
        let running = class.send(yard.gated(1, Act::Answer));
        yard.begun(1).await;
        let (call, checkout) = (class.send(yard.task(2)), class.checkout().start());
        let queued = checkout.send(Pid);
        lent(&pool, 1, 2).await;
        let stopped = actix_rt::spawn(pool.stop(PATIENCE));
        assert_eq!(failure(call).await.kind(), FailureKind::Stopped);
        assert_eq!(failure(queued).await.kind(), FailureKind::Stopped);
        yard.open();
        assert!(answer(running).await.is_ok(), "it may finish");
        bounded("the stop", stopped).await.expect("it stops");
        assert_eq!(failure(class.send(yard.task(3))).await.kind(), FailureKind::Stopped);
        assert!(class.try_send(yard.task(4)).is_err());
    });
}

/// P4
#[test]
fn a_pool_without_handles_serves_those_that_wait_at_a_bulkhead_before_it_ends() {
    run(async {
        let pool = warm(pool().workers(2..=2), 2).await;
        let class = class(&pool, 1);
        let held = class.checkout().start();
        pid(&held).await;
        let waits = class.checkout().start();
        lent(&pool, 1, 1).await;
        drop((pool, class));
        drop(held);
        pid(&waits).await;
        drop(waits);
        until("the pool has ended", || servers().is_empty()).await;
    });
}

/// P4
#[test]
fn eight_threads_of_one_class_have_three_workers_together() {
    const THREADS: usize = 8;
    const CALLS: u64 = 4;
    run(async {
        let yard = Arc::new(Yard::new());
        let pool = warm(pool().workers(6..=6), 6).await;
        let class = class(&pool, 3);
        let threads = Vec::from_iter((0..THREADS as u64).map(|thread| {
            let (class, yard) = (class.clone(), yard.clone());
            actix_rt::spawn(on_an_arbiter(move || async move {
                let calls = (0..CALLS).map(|call| class.send(yard.gated(thread * CALLS + call, Act::Answer)));
                for call in Vec::from_iter(calls) {
                    assert!(answer(call).await.is_ok());
                }
            }))
        }));
        yard.begun(3).await;
        until("all calls are there", || pool.stats().waiting == THREADS * CALLS as usize - 3).await;
        for _ in 0..50 {
            assert!(answer(pool.send(Pid)).await.is_ok());
        }
        assert_eq!(yard.numbers().len(), 3);
        yard.open();
        for thread in threads {
            bounded("a thread", thread).await.expect("its calls are answered");
        }
        assert_eq!(yard.sorted(), Vec::from_iter(0..THREADS as u64 * CALLS));
    });
}

/// P4
#[test]
fn threads_that_never_stop_to_call_share_a_bulkhead_and_starve_no_checkout_of_it() {
    const ENOUGH: usize = 40;
    run(async {
        let pool = warm(pool().workers(4..=4), 4).await;
        let class = class(&pool, 2);
        let counts: Arc<[AtomicUsize; 6]> = Arc::default();
        let threads = Vec::from_iter((0..counts.len()).map(|number| {
            let (class, counts) = (class.clone(), counts.clone());
            actix_rt::spawn(on_an_arbiter(move || async move {
                while counts.iter().any(|count| count.load(Ordering::Relaxed) < ENOUGH) {
                    let calls = [(); 4].map(|()| class.send(Pid));
                    for call in calls {
                        assert!(answer(call).await.is_ok());
                        counts[number].fetch_add(1, Ordering::Relaxed);
                    }
                }
            }))
        }));
        while counts.iter().any(|count| count.load(Ordering::Relaxed) < ENOUGH) {
            assert!(pool.stats().leased <= 2, "never more than two at a time");
            pid(&class.checkout().start()).await;
        }
        for thread in threads {
            within(PATIENCE * 2, "a thread", thread).await.expect("it does not panic");
        }
    });
}

/// P4
#[test]
fn a_thread_without_an_arbiter_waits_at_the_bulkhead_as_well() {
    run(async {
        let yard = Arc::new(Yard::new());
        let pool = warm(pool().workers(2..=2), 2).await;
        let class = class(&pool, 1);
        let held = class.checkout().start();
        pid(&held).await;
        let (sender, from_thread) = (class.clone(), yard.clone());
        let call = actix_rt::spawn(on_a_thread(move || block_on(sender.send(from_thread.task(1)))));
        lent(&pool, 1, 1).await;
        assert!(answer(pool.send(Pid)).await.is_ok());
        assert!(yard.numbers().is_empty());
        drop(held);
        assert!(bounded("the call", call).await.expect("the thread ends").is_ok());
    });
}

/// P4
#[test]
fn handles_of_one_name_share_a_bulkhead_whose_number_is_that_which_was_set_last() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(4..=4), 4).await;
        let one = class(&pool, 1);
        let calls = Vec::from_iter((0..4).map(|number| one.send(yard.gated(number, Act::Answer))));
        yard.begun(1).await;
        let three = pool.class("thumbnails").most(3).expect("the number is possible");
        assert_eq!((one.name(), three.name()), ("thumbnails", "thumbnails"));
        yard.begun(3).await;
        let other = pool.class("reports").most(1).expect("the number is possible");
        assert!(answer(other.send(yard.task(9))).await.is_ok(), "another name is another class");
        let checkout = three.checkout().start();
        lent(&pool, 3, 2).await;
        yard.open();
        for call in calls {
            assert!(answer(call).await.is_ok());
        }
        pid(&checkout).await;
    });
}

/// P4, T1
#[test]
fn a_timeout_at_a_bulkhead_names_it() {
    let limit = Duration::from_millis(50);
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(3..=3).most_for::<Task>(1), 3).await;
        let class = class(&pool, 1);
        let held = class.checkout().start();
        pid(&held).await;
        let running = pool.send(yard.gated(1, Act::Answer));
        yard.begun(1).await;
        let of_class = "1 of 1 workers of class thumbnails are in use";
        let checkout = class.checkout().wait_timeout(limit).start();
        let table = [
            ("a call of a class", of_class, failure(class.send_within(limit, Pid)).await),
            ("a checkout of a class", of_class, failure(checkout.send(Pid)).await),
            (
                "a message",
                "1 of 1 workers for Task are in use",
                failure(pool.send_within(limit, yard.task(2))).await,
            ),
        ];
        for (row, text, failed) in table {
            assert_eq!(
                (failed.kind(), failed.phase()),
                (FailureKind::Timeout, Some(Phase::Waiting)),
                "{row}"
            );
            assert!(failed.to_string().ends_with(text), "{row}: {failed}");
        }
        yard.open();
        assert!(answer(running).await.is_ok());
    });
}

/// P9
#[test]
fn those_at_a_bulkhead_count_as_waiting_and_keep_none_out_for_whom_there_is_a_worker() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(2..=2).max_waiting(1), 2).await;
        let class = class(&pool, 1);
        let held = class.checkout().start();
        pid(&held).await;
        let waits = class.send(yard.task(1));
        lent(&pool, 1, 1).await;
        assert_eq!(failure(class.send(yard.task(2))).await.kind(), FailureKind::Overloaded);
        assert_eq!(failure(class.checkout().start().send(Pid)).await.kind(), FailureKind::Overloaded);
        assert!(answer(pool.send(Pid)).await.is_ok());
        // Its worker is given back once `checkout_done` has run there, which is after the answer.
        lent(&pool, 1, 1).await;
        pid(&pool.checkout().start()).await;
        drop(held);
        assert!(answer(waits).await.is_ok());
        assert_eq!(yard.numbers(), [1]);
    });
}

/// P9: the thread has no lane yet, so the call has its worker before the lane has the call.
#[test]
fn the_first_call_of_a_thread_is_not_refused_for_those_at_a_bulkhead() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(2..=2).max_waiting(1), 2).await;
        let class = class(&pool, 1);
        let calls = [1, 2].map(|number| class.send(yard.gated(number, Act::Answer)));
        lent(&pool, 1, 1).await;
        let of_thread = pool.clone();
        let arbiter = actix::Arbiter::new();
        let (done, is_done) = tokio::sync::oneshot::channel();
        arbiter.spawn(async move { drop(done.send(of_thread.send(Pid).await)) });
        let pid = bounded("an answer", is_done).await.expect("the thread runs");
        assert!(pid.is_ok(), "{pid:?}");
        yard.open();
        for call in calls {
            answer(call).await.expect("an answer");
        }
        arbiter.stop();
        let join = actix_rt::task::spawn_blocking(move || arbiter.join());
        bounded("the thread", join).await.expect("it does not panic").expect("it ends well");
    });
}

/// P1, P4
#[test]
fn impossible_numbers_of_workers_are_refused_by_name() {
    run(async {
        for most in [0, 4] {
            let error = pool().workers(1..=3).most_for::<Task>(most).start().expect_err("it is impossible");
            assert!(error.to_string().contains(&format!("most_for cannot be {most} for Task: ")), "{error}");
        }
        assert!(servers().is_empty(), "nothing is left behind");
        let pool =
            pool().workers(1..=3).most_for::<Task>(0).most_for::<Task>(3).start().expect("the last counts");
        let long = "x".repeat(65);
        let table = [
            ("thumbnails", 0, "most", "option most cannot be 0 for thumbnails: it must be at least 1"),
            ("thumbnails", 4, "most", "4 for thumbnails: it must not exceed the maximum of workers"),
            ("", 1, "class", "option class cannot be \"\": its name must not be empty"),
            ("a\nb", 1, "class", "its name must not contain control characters"),
            (&long, 1, "class", "its name must have at most 64 bytes"),
        ];
        for (name, most, option, text) in table {
            let error = pool.class(name).most(most).expect_err(text);
            assert_eq!(error.option(), option, "{text}");
            assert!(error.to_string().contains(text), "{error}");
        }
        assert!(answer(pool.class("thumbnails").most(3).expect("it is possible").send(Pid)).await.is_ok());
    });
}
