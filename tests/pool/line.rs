//! Who waits for a worker, who is next, and who need not wait.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::harness::*;
use forkpool::prelude::*;
use forkpool::{Inspect, PoolBuilder, StartError};

/// P1
#[test]
fn every_impossible_option_is_refused_by_the_builder_by_name_and_value() {
    type Spoil = fn(PoolBuilder<Probe>) -> PoolBuilder<Probe>;
    let table: [(&str, &str, Spoil); 15] = [
        ("name", "\"\"", |it| it.name("")),
        ("name", "\"a/b\"", |it| it.name("a/b")),
        ("name", "\"a\\nb\"", |it| it.name("a\nb")),
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is impossible")]
        ("workers", "5..=2", |it| it.workers(5..=2)),
        ("workers", "0..=0", |it| it.workers(0..=0)),
        ("max_waiting", "0", |it| it.max_waiting(0)),
        ("max_checkouts", "0", |it| it.max_checkouts(0)),
        ("max_memory", "0", |it| it.max_memory(0)),
        ("max_payload", "0", |it| it.max_payload(0)),
        ("max_payload", "18446744073709551615", |it| it.max_payload(usize::MAX)),
        ("timeout", "0ns", |it| it.timeout(Duration::ZERO)),
        ("wait_timeout", "0ns", |it| it.wait_timeout(Duration::ZERO)),
        ("setup_timeout", "0ns", |it| it.setup_timeout(Duration::ZERO)),
        ("idle_timeout", "0ns", |it| it.idle_timeout(Duration::ZERO)),
        ("max_lifetime", "0ns", |it| it.max_lifetime(Duration::ZERO)),
    ];
    run(async {
        for (option, value, spoil) in table {
            let error = spoil(pool()).start().expect_err(option);
            let text = error.to_string();
            assert!(text.contains(option) && text.contains(value), "{option}: {text}");
            assert!(matches!(error, StartError::Option(error) if error.option() == option), "{option}");
            assert!(servers().is_empty(), "nothing is left behind");
        }
    });
}

/// P1
#[test]
fn an_option_without_a_meaning_for_its_pool_is_refused_by_name() {
    type Spoil = fn(PoolBuilder<Probe>) -> PoolBuilder<Probe>;
    let trust: Spoil = |it| it.trust_user(1000);
    let allow: Spoil = |it| it.allow_unauthenticated_beyond_loopback(true);
    let (unix, tcp) = (Some("unix:/nowhere/s.sock"), Some("tcp:127.0.0.1:1"));
    let table = [
        ("trust_user", None, trust),
        ("trust_user", tcp, trust),
        ("allow_unauthenticated_beyond_loopback", None, allow),
        ("allow_unauthenticated_beyond_loopback", unix, allow),
    ];
    run(async {
        for (option, address, spoil) in table {
            let builder = address.map_or_else(pool, Pool::<Probe>::connect);
            let error = spoil(builder).start().expect_err(option);
            let text = error.to_string();
            assert!(text.contains(option) && text.contains("only a "), "{option}, {address:?}: {text}");
            assert!(matches!(error, StartError::Option(error) if error.option() == option), "{option}");
            assert!(servers().is_empty(), "nothing is left behind");
        }
    });
}

/// P1
#[test]
fn by_default_there_are_at_least_two_workers_and_at_most_twenty() {
    run(async {
        let pool = pool().start().expect("the pool starts");
        until("two are idle", || pool.stats().idle == 2).await;
        assert_eq!(pool.stats().workers(), 2);
        let checkouts = [(); 22].map(|()| pool.checkout().start());
        until("twenty are held", || pool.stats().leased == 20).await;
        assert_eq!((pool.stats().workers(), pool.stats().waiting), (20, 2));
        drop(checkouts);
    });
}

/// P4, C1
#[test]
fn waiting_checkouts_are_served_in_the_order_of_their_start() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().start();
        let pid = answer(holder.send(Pid)).await;
        let served = Rc::new(RefCell::new(Vec::new()));
        let checkouts = [(); 20].map(|()| pool.checkout().start());
        // Their first calls come in the opposite order, which must not matter.
        let mut tasks = Vec::new();
        for (number, checkout) in checkouts.into_iter().enumerate().rev() {
            let (served, call) = (served.clone(), checkout.send(Pid));
            tasks.push(actix_rt::spawn(async move {
                let pid = answer(call).await;
                served.borrow_mut().push(number);
                drop(checkout);
                pid
            }));
            actix_rt::task::yield_now().await;
        }
        drop(holder);
        for task in tasks {
            assert_eq!(bounded("a checkout", task).await.expect("a task"), pid);
        }
        assert_eq!(*served.borrow(), Vec::from_iter(0..20));
    });
}

/// C1, P4
#[test]
fn a_checkout_that_never_calls_holds_its_place_and_its_worker() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().start();
        let silent = pool.checkout().start();
        let last = pool.checkout().start();
        let call = last.send(Setups);
        drop(holder);
        until("only one waits", || pool.stats().waiting == 1).await;
        // That nothing happens for a while is the property.
        actix_rt::time::sleep(Duration::from_millis(50)).await;
        assert_eq!((pool.stats().leased, pool.stats().waiting), (1, 1));
        drop(silent);
        assert_eq!(answer(call).await, Ok(1));
    });
}

/// P4
#[test]
fn whoever_leaves_the_line_does_not_disturb_it() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().start();
        let mut line: Vec<_> = (0..9).map(|_| pool.checkout().start()).collect();
        until("nine wait", || pool.stats().waiting == 9).await;
        // The first, one in the middle and the last.
        for at in [8, 4, 0] {
            drop(line.remove(at));
        }
        until("six wait", || pool.stats().waiting == 6).await;
        let served = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = line
            .into_iter()
            .enumerate()
            .map(|(number, checkout)| {
                let served = served.clone();
                actix_rt::spawn(async move {
                    answer(checkout.send(Pid)).await.expect("a worker");
                    served.borrow_mut().push(number);
                })
            })
            .collect();
        drop(holder);
        for task in tasks {
            bounded("a checkout", task).await.expect("a task");
        }
        assert_eq!(*served.borrow(), [0, 1, 2, 3, 4, 5]);
    });
}

/// P4, T3
#[test]
fn the_next_in_line_is_served_after_a_timeout_a_death_and_an_abort() {
    run(async {
        let pool = pool_of_one();
        let first = pool.checkout().timeout(Duration::from_millis(30)).start();
        let second = pool.checkout().start();
        let third = pool.checkout().start();
        let fourth = pool.checkout().start();
        let calls = (first.send(Spin), second.send(Exit(0)), third.send(Spin), fourth.send(Setups));
        assert_eq!(answer(calls.0).await.unwrap_err().kind(), FailureKind::Timeout);
        assert_eq!(answer(calls.1).await.unwrap_err().kind(), FailureKind::Died);
        until("the third has its worker", || pool.stats().waiting == 1 && pool.stats().leased == 1).await;
        answer(third.send(Abort("enough".to_owned()))).await;
        assert_eq!(answer(calls.2).await.unwrap_err().kind(), FailureKind::Aborted);
        assert_eq!(answer(calls.3).await, Ok(1));
    });
}

/// P9
#[test]
fn beyond_max_waiting_the_first_call_is_answered_overloaded_at_once() {
    run(async {
        let pool = pool().workers(1..=1).max_waiting(2).timeout(None).start().expect("the pool starts");
        let holder = pool.checkout().start();
        assert!(answer(holder.send(Pid)).await.is_ok());
        let waiting = [(); 2].map(|()| pool.checkout().start());
        let one_too_many = pool.checkout().start();
        let failure = answer(one_too_many.send(Pid)).await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Overloaded);
        assert!(failure.retry_after().is_some_and(|estimate| !estimate.is_zero()), "{failure}");
        assert_eq!((failure.pool(), failure.call()), (Some("probe"), Some("Pid")));
        let failure = answer(pool.send(Pid)).await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Overloaded);
        // Those who were in time are served, and so is whoever comes when there is room.
        drop(holder);
        for checkout in waiting {
            assert!(answer(checkout.send(Pid)).await.is_ok());
        }
        assert!(answer(pool.send(Pid)).await.is_ok());
        assert!(answer(one_too_many.send(Pid)).await.is_ok(), "it asks again");
    });
}

/// G8, P9: checkouts whose calls time out hold their workers as well.
#[test]
fn the_estimate_of_an_overloaded_pool_reflects_calls_that_time_out() {
    run(async {
        let limit = Duration::from_millis(300);
        let pool = pool().workers(1..=1).max_waiting(1).timeout(limit).start().expect("the pool starts");
        for _ in 0..2 {
            assert_eq!(answer(pool.send(Spin)).await.unwrap_err().kind(), FailureKind::Timeout);
        }
        let holder = pool.checkout().timeout(None).start();
        assert!(answer(holder.send(Pid)).await.is_ok());
        let _waiting = pool.checkout().start();
        let failure = answer(pool.send(Pid)).await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Overloaded);
        assert!(failure.retry_after().is_some_and(|estimate| estimate >= limit / 2), "{failure}");
        pool.stop(Duration::ZERO).await;

        // Nothing is known yet but that a worker has been held for so long.
        let pool = crate::harness::pool().workers(1..=1).max_waiting(1).start().expect("the pool starts");
        let holder = pool.checkout().start();
        assert!(answer(holder.send(Pid)).await.is_ok());
        let since = std::time::Instant::now();
        let _waiting = pool.checkout().start();
        until("it has been held for a while", || since.elapsed() > limit).await;
        let failure = answer(pool.send(Pid)).await.unwrap_err();
        assert!(failure.retry_after().is_some_and(|estimate| estimate >= limit), "{failure}");
    });
}

/// P9
#[test]
fn whoever_a_worker_can_still_be_forked_for_is_not_one_too_many() {
    run(async {
        let pool = pool().workers(0..=3).max_waiting(1).start().expect("the pool starts");
        let checkouts = [(); 4].map(|()| pool.checkout().start());
        let one_too_many = pool.checkout().start();
        let [calls @ .., last] = checkouts.each_ref().map(|checkout| checkout.send(Setups));
        assert_eq!(answer(one_too_many.send(Setups)).await.unwrap_err().kind(), FailureKind::Overloaded);
        for call in calls {
            assert_eq!(answer(call).await, Ok(1));
        }
        drop(checkouts);
        assert_eq!(answer(last).await, Ok(1));
    });
}

/// P10, P9
#[test]
fn a_surge_is_granted_cancelled_and_served_to_its_last() {
    const SURGE: usize = 20_000;
    run(async {
        let pool = pool().workers(1..=2).timeout(None).start().expect("the pool starts");
        let holders = [(); 2].map(|()| pool.checkout().start());
        let mut line: Vec<_> = (0..SURGE).map(|_| pool.checkout().start()).collect();
        until("all of them wait", || pool.stats().waiting == SURGE && pool.stats().leased == 2).await;
        // Every other one leaves, the last in line first, which is the worst for a line that has to be searched.
        let mut at = SURGE;
        while at > 1 {
            at -= 2;
            drop(line.swap_remove(at));
        }
        until("half of them wait", || pool.stats().waiting == SURGE / 2).await;
        let calls: Vec<_> = line.iter().map(|checkout| checkout.send(Setups)).collect();
        drop(line);
        drop(holders);
        for call in calls {
            assert_eq!(answer(call).await, Ok(1));
        }
        assert_eq!(pool.stats().waiting, 0);
    });
}

/// P11
#[test]
fn messages_to_the_pool_run_on_any_free_worker_at_the_same_time() {
    run(async {
        let pool = pool().workers(3..=3).start().expect("the pool starts");
        until("three are idle", || pool.stats().idle == 3).await;
        let file = Scratch::path();
        let calls = [(); 3].map(|()| pool.send(AwaitFile(file.get().to_owned())));
        until("each has a worker", || (pool.stats().leased, pool.stats().waiting) == (3, 0)).await;
        std::fs::write(file.get(), "").expect("a file");
        for call in calls {
            assert!(answer(call).await.is_ok());
        }
    });
}

/// P11, P4
#[test]
fn a_message_to_the_pool_joins_the_same_line_as_checkouts() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().start();
        assert!(answer(holder.send(Pid)).await.is_ok());
        let served = Rc::new(RefCell::new(Vec::new()));
        let note = |number: u32| {
            let served = served.clone();
            move || served.borrow_mut().push(number)
        };
        let (first, note_first) = (pool.send(Pid), note(1));
        let (second, note_second) = (pool.checkout().start(), note(2));
        let (third, note_third) = (pool.addr().send(Pid), note(3));
        let tasks = [
            actix_rt::spawn(async move {
                assert!(answer(third).await.is_ok());
                note_third();
            }),
            actix_rt::spawn(async move {
                assert!(answer(second.send(Pid)).await.is_ok());
                note_second();
            }),
            actix_rt::spawn(async move {
                assert!(answer(first).await.is_ok());
                note_first();
            }),
        ];
        until("three wait", || pool.stats().waiting == 3).await;
        drop(holder);
        for task in tasks {
            bounded("a message", task).await.expect("a task");
        }
        assert_eq!(*served.borrow(), [1, 2, 3]);
    });
}

/// P11
#[test]
fn a_message_to_the_pool_is_a_checkout_of_its_own() {
    run(async {
        let pool = pool_of_one();
        let before = pool.stats().checkouts;
        for number in 0..5 {
            assert_eq!(answer(pool.send(Remember(number))).await, Ok(vec![number]));
        }
        assert_eq!(pool.stats().checkouts, before + 5);
    });
}

/// P11, C4
#[test]
fn every_way_to_send_to_the_pool_runs_the_message() {
    run(async {
        let pool = pool_of_one();
        let calls = || pool.stats().succeeded;
        assert_eq!(answer(pool.send(Setups)).await, Ok(1));
        assert_eq!(answer(pool.addr().send(Setups)).await, Ok(1));
        assert_eq!(answer(pool.addr().send(Within(Duration::from_secs(9), Setups))).await, Ok(1));
        assert_eq!(answer(pool.addr().recipient::<Setups>().send(Setups)).await, Ok(1));
        pool.do_send(Setups);
        pool.try_send(Setups).expect("never full");
        pool.addr().do_send(Setups);
        pool.addr().try_send(Setups).expect("never full");
        until("all eight were run", || calls() == 8).await;
    });
}

/// P13
#[test]
fn stats_show_workers_by_state_and_the_length_of_the_line() {
    run(async {
        let slow = Setup { script: Script::Sleep(Duration::from_millis(100)), ..Setup::default() };
        let pool = builder::<Probe>(slow).workers(2..=2).start().expect("the pool starts");
        assert_eq!((pool.stats().starting, pool.stats().idle), (2, 0));
        until("two are idle", || pool.stats().idle == 2).await;
        let holders = [(); 2].map(|()| pool.checkout().start());
        until("two are held", || pool.stats().leased == 2).await;
        let waiting = [(); 3].map(|()| pool.checkout().start());
        until("three wait", || pool.stats().waiting == 3).await;
        assert_eq!((pool.stats().starting, pool.stats().idle), (0, 0));
        drop((holders, waiting));
        until("two are idle again", || pool.stats().idle == 2).await;
        let stats = pool.stats();
        assert_eq!((stats.workers(), stats.waiting, stats.forked), (2, 0, 2));
    });
}

/// P13
#[test]
fn stats_count_every_outcome_once() {
    run(async {
        let pool = pool_of_one();
        for _ in 0..3 {
            assert!(answer(pool.send(Pid)).await.is_ok());
        }
        for _ in 0..2 {
            assert!(answer(pool.send(Fail("no".to_owned()))).await.is_err());
        }
        assert!(answer(pool.send(Panic("now".to_owned()))).await.is_err());
        assert!(answer(pool.send(Exit(1))).await.is_err());
        let checkout = pool.checkout().start();
        let calls = (checkout.send(Fail("no".to_owned())), checkout.send(Pid), checkout.send(Pid));
        assert!(answer(calls.0).await.is_err());
        assert_eq!(answer(calls.1).await.unwrap_err().kind(), FailureKind::Cleared);
        assert_eq!(answer(calls.2).await.unwrap_err().kind(), FailureKind::Cleared);
        let timeout = answer(checkout.send(Within(Duration::from_millis(20), Spin))).await.unwrap_err();
        assert_eq!(timeout.kind(), FailureKind::Timeout);
        let stats = pool.stats();
        assert_eq!((stats.succeeded, stats.errors), (3, 3));
        let expected = [
            (FailureKind::Panic, 1),
            (FailureKind::Timeout, 1),
            (FailureKind::Died, 1),
            (FailureKind::Cleared, 2),
        ];
        assert_eq!(stats.failures, expected);
        assert_eq!(stats.checkouts, 8);
    });
}

/// P13
#[test]
fn stats_have_histograms_of_waits_and_runs() {
    run(async {
        let pool = pool_of_one();
        let slow = Duration::from_millis(40);
        let calls = [(); 4].map(|()| pool.send(Slow(slow, 1)));
        for call in calls {
            assert_eq!(answer(call).await, Ok(1));
        }
        let stats = pool.stats();
        assert_eq!((stats.waited.count(), stats.ran.count()), (4, 4));
        // Each ran for its 40 ms, and the last one waited for three of them.
        assert!(stats.ran.quantile(0.0).is_none_or(|end| end > slow), "{:?}", stats.ran);
        assert!(stats.waited.quantile(1.0).is_none_or(|end| end > slow * 3), "{:?}", stats.waited);
    });
}

/// P13
#[test]
fn the_pool_actor_tells_its_stats_too() {
    run(async {
        let pool = pool_of_one();
        assert!(answer(pool.send(Pid)).await.is_ok());
        until("it is given back", || pool.stats().idle == 1).await;
        assert_eq!(answer(pool.addr().send(Inspect)).await, pool.stats());
    });
}
