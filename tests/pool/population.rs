//! How many workers there are, which of them is taken, and when one is replaced.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::*;
use forkpool::Backoff;
use forkpool::prelude::*;
use rustix::process::Signal;

/// A wait that no test lives to see the end of: whatever is replaced in spite of it was replaced at once.
const NEVER: Backoff =
    Backoff::new().first(Duration::from_secs(3600)).most(Duration::from_secs(3600)).jitter(0.0);

/// P2
#[test]
fn the_fewest_are_forked_at_start_before_anybody_asks() {
    run(async {
        let pool = pool().workers(3..=5).start().expect("the pool starts");
        settled(&pool, 3).await;
        assert_eq!(children(the_server().await).len(), 3);
        assert_eq!(pool.stats().forked, 3);
    });
}

/// P2
#[test]
fn with_a_fewest_of_none_there_is_none_until_the_first_need() {
    run(async {
        let pool = pool().workers(0..=2).start().expect("the pool starts");
        let server = the_server().await;
        // That nothing happens for a while is the property.
        actix_rt::time::sleep(Duration::from_millis(100)).await;
        assert_eq!((pool.stats().workers(), children(server).len()), (0, 0));
        assert!(answer(pool.send(Pid)).await.is_ok());
        assert_eq!(pool.stats().forked, 1);
    });
}

/// P2
#[test]
fn the_fewest_are_restored_at_once_after_any_loss_during_a_checkout() {
    run(async {
        let pool = pool().workers(2..=2).restart(NEVER).start().expect("the pool starts");
        let server = the_server().await;
        for row in ["panic", "exit", "abort", "timeout", "error", "stop", "aborted checkout"] {
            settled(&pool, 2).await;
            let before: BTreeSet<u32> = children(server).into_iter().collect();
            let checkout = pool.checkout().start();
            answer(checkout.send(Pid)).await.expect("a worker");
            let failed = match row {
                "panic" => answer(checkout.send(Panic("now".to_owned()))).await.is_err(),
                "exit" => answer(checkout.send(Exit(0))).await.is_err(),
                "abort" => answer(checkout.send(AbortProcess)).await.is_err(),
                "timeout" => answer(checkout.send(Within(Duration::from_millis(20), Spin))).await.is_err(),
                "error" => answer(checkout.send(Fail("no".to_owned()))).await.is_err(),
                "stop" => answer(checkout.send(StopAfterwards)).await.is_ok(),
                _ => {
                    answer(checkout.send(Abort("enough".to_owned()))).await;
                    true
                }
            };
            assert!(failed, "{row}");
            drop(checkout);
            until(&format!("the {row} is made up for"), || {
                let after: BTreeSet<u32> = children(server).into_iter().filter(|&pid| runs(pid)).collect();
                after.len() == 2 && after != before
            })
            .await;
        }
        settled(&pool, 2).await;
    });
}

/// C8, E4, P2
#[test]
fn a_checkout_whose_last_address_goes_before_its_error_comes_gives_its_worker_up() {
    run(async {
        let pool = pool().workers(1..=1).restart(NEVER).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let pid = answer(checkout.send(Pid)).await.expect("a pid");
        let call = checkout.send(Fail("no".to_owned()));
        drop(checkout);
        assert_eq!(answer(call).await.unwrap_err().kind(), FailureKind::Task);
        gone(pid).await;
        settled(&pool, 1).await;
    });
}

/// C8, P2
#[test]
fn a_checkout_whose_last_address_goes_before_its_worker_died_is_over() {
    run(async {
        let pool = pool().workers(1..=1).restart(NEVER).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let call = checkout.send(Exit(1));
        checkout.do_send(Pid);
        drop(checkout);
        assert_eq!(answer(call).await.unwrap_err().kind(), FailureKind::Died);
        settled(&pool, 1).await;
    });
}

/// P2
#[test]
fn a_kill_from_outside_during_a_call_is_made_up_for_at_once() {
    run(async {
        let pool = pool().workers(1..=1).restart(NEVER).start().expect("the pool starts");
        for _ in 0..5 {
            let checkout = pool.checkout().start();
            let pid = answer(checkout.send(Pid)).await.expect("a pid");
            let call = checkout.send(Spin);
            kill(pid);
            assert_eq!(answer(call).await.unwrap_err().kind(), FailureKind::Died);
            settled(&pool, 1).await;
        }
    });
}

/// P2, P8
#[test]
fn an_idle_worker_that_had_a_checkout_is_made_up_for_at_once() {
    run(async {
        let pool = pool().workers(1..=1).restart(NEVER).start().expect("the pool starts");
        for _ in 0..5 {
            let pid = answer(pool.send(Pid)).await.expect("a pid");
            settled(&pool, 1).await;
            kill(pid);
            gone(pid).await;
            settled(&pool, 1).await;
        }
    });
}

/// P2
#[test]
fn a_worker_that_dies_idle_within_a_second_without_a_checkout_makes_the_pool_wait() {
    run(async {
        let pool = pool().workers(1..=1).restart(NEVER).start().expect("the pool starts");
        settled(&pool, 1).await;
        kill(children(the_server().await)[0]);
        until("its death is known", || pool.stats().workers() == 0).await;
        let checkout = pool.checkout().timeout(Duration::from_millis(100)).start();
        assert_eq!(answer(checkout.send(Pid)).await.unwrap_err().kind(), FailureKind::Timeout);
        assert_eq!(pool.stats().forked, 1);
    });
}

/// P2
#[test]
fn a_worker_that_dies_idle_after_a_second_is_made_up_for_at_once() {
    run(async {
        let pool = pool().workers(1..=1).restart(NEVER).start().expect("the pool starts");
        settled(&pool, 1).await;
        // That it is old enough is the property.
        actix_rt::time::sleep(Duration::from_millis(1100)).await;
        let pid = children(the_server().await)[0];
        kill(pid);
        gone(pid).await;
        settled(&pool, 1).await;
    });
}

/// P3
#[test]
fn the_pool_grows_on_demand_to_its_most_and_no_further() {
    run(async {
        let pool = pool().workers(0..=3).start().expect("the pool starts");
        let checkouts = [(); 5].map(|()| pool.checkout().start());
        until("three have a worker", || pool.stats().leased == 3).await;
        assert_eq!((pool.stats().workers(), pool.stats().waiting), (3, 2));
        assert_eq!(children(the_server().await).len(), 3);
        drop(checkouts);
        settled(&pool, 3).await;
        assert_eq!(pool.stats().forked, 3);
    });
}

/// P3
#[test]
fn there_are_never_more_workers_than_the_most_whatever_dies() {
    const MOST: usize = 3;
    run(async {
        let pool = pool().workers(1..=MOST).max_checkouts(5).start().expect("the pool starts");
        let server = the_server().await;
        let most_seen = Watch::start(server);
        let clients = (0..8_u32).map(|client| actix_rt::spawn(misuse(pool.clone(), client)));
        for client in clients.collect::<Vec<_>>() {
            bounded("a client", client).await.expect("a client");
        }
        let most_seen = most_seen.end();
        assert!((1..=MOST).contains(&most_seen), "{most_seen} at once");
        assert!(pool.stats().forked > 100, "{} workers were forked", pool.stats().forked);
        settled_between(&pool, 1, MOST).await;
    });

    async fn misuse(pool: PoolHandle<Probe>, client: u32) {
        for round in 0..40 {
            let checkout = pool.checkout().start();
            match (client + round) % 6 {
                0 => drop(answer(checkout.send(Exit(1))).await),
                1 => drop(answer(checkout.send(Panic("now".to_owned()))).await),
                2 => drop(answer(checkout.send(Within(Duration::from_millis(3), Spin))).await),
                3 => answer(checkout.send(Abort("enough".to_owned()))).await,
                4 => {
                    if let Ok(pid) = answer(checkout.send(Pid)).await {
                        kill(pid);
                    }
                }
                _ => drop(answer(pool.send(Pid)).await),
            }
        }
    }

    async fn settled_between(pool: &PoolHandle<Probe>, fewest: usize, most: usize) {
        until("the pool is at rest", || {
            let stats = pool.stats();
            (fewest..=most).contains(&stats.idle) && stats.workers() == stats.idle
        })
        .await;
    }
}

/// A thread that counts the living children of a server as fast as it can.
struct Watch {
    most: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Watch {
    fn start(server: u32) -> Self {
        let (most, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let shared = (most.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            let (most, over) = shared;
            while !over.load(Ordering::Relaxed) {
                // A worker that dies while they are counted is one too many: what runs is looked at once more.
                let listed = children(server);
                let running = listed.into_iter().filter(|&pid| runs(pid)).filter(|&pid| runs(pid)).count();
                most.fetch_max(running, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        Watch { most, over, thread }
    }

    fn end(self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watch");
        self.most.load(Ordering::Relaxed)
    }
}

/// P5
#[test]
fn the_most_recently_used_idle_worker_is_taken() {
    run(async {
        let pool = pool().workers(3..=3).start().expect("the pool starts");
        let mut checkouts = Vec::new();
        for _ in 0..3 {
            let checkout = pool.checkout().start();
            let pid = answer(checkout.send(Pid)).await.expect("a pid");
            checkouts.push((checkout, pid));
        }
        // Given back in an order that is not that of their birth.
        checkouts.swap(0, 1);
        let mut pids = Vec::new();
        for (at, (checkout, pid)) in checkouts.into_iter().enumerate() {
            drop(checkout);
            until("it is given back", || pool.stats().idle == at + 1).await;
            pids.push(pid);
        }
        for _ in 0..5 {
            assert_eq!(answer(pool.send(Pid)).await.ok(), Some(pids[2]));
            settled(&pool, 3).await;
        }
        let held = [(); 3].map(|()| pool.checkout().start());
        let mut taken = Vec::new();
        for checkout in &held {
            taken.push(answer(checkout.send(Pid)).await.expect("a pid"));
        }
        taken.reverse();
        assert_eq!(taken, pids);
    });
}

/// P5
#[test]
fn the_least_recently_used_retire_after_their_idle_timeout_down_to_the_fewest() {
    run(async {
        let idle = Duration::from_millis(200);
        let pool = pool().workers(1..=4).idle_timeout(idle).start().expect("the pool starts");
        let mut checkouts = Vec::new();
        for _ in 0..4 {
            let checkout = pool.checkout().start();
            let pid = answer(checkout.send(Pid)).await.expect("a pid");
            checkouts.push((checkout, pid));
        }
        let mut last = 0;
        for (at, (checkout, pid)) in checkouts.into_iter().enumerate() {
            drop(checkout);
            until("it is given back", || pool.stats().leased == 3 - at).await;
            last = pid;
        }
        settled(&pool, 1).await;
        assert_eq!(children(the_server().await), [last], "the one that was used last stays");
        // That the fewest stay for ever is the property.
        actix_rt::time::sleep(idle * 2).await;
        assert_eq!(answer(pool.send(Pid)).await, Ok(last));
    });
}

/// P5
#[test]
fn without_a_fewest_all_workers_retire_and_the_next_need_forks_another() {
    run(async {
        let idle = Duration::from_millis(50);
        let pool = pool().workers(0..=2).idle_timeout(idle).restart(NEVER).start().expect("the pool starts");
        let first = answer(pool.send(Pid)).await.expect("a pid");
        settled(&pool, 0).await;
        gone(first).await;
        assert!(answer(pool.send(Pid)).await.is_ok());
    });
}

/// P6
#[test]
fn a_worker_is_replaced_after_its_last_checkout() {
    run(async {
        let pool = pool().workers(1..=1).max_checkouts(2).restart(NEVER).start().expect("the pool starts");
        let mut pids = Vec::new();
        for _ in 0..3 {
            for _ in 0..2 {
                let checkout = pool.checkout().start();
                let pid = answer(checkout.send(Pid)).await.expect("a pid");
                assert_eq!(answer(checkout.send(Pid)).await, Ok(pid), "calls are not checkouts");
                pids.push(pid);
            }
        }
        let worn_out: BTreeSet<u32> = pids.iter().copied().collect();
        assert_eq!(worn_out.len(), 3, "{pids:?}");
        assert!(pids.chunks(2).all(|pair| pair[0] == pair[1]), "{pids:?}");
        for pid in worn_out {
            gone(pid).await;
        }
    });
}

/// P6
#[test]
fn a_message_to_the_pool_counts_as_a_checkout() {
    run(async {
        let pool = pool().workers(1..=1).max_checkouts(1).restart(NEVER).start().expect("the pool starts");
        let mut pids = BTreeSet::new();
        for _ in 0..5 {
            pids.insert(answer(pool.send(Pid)).await.expect("a pid"));
        }
        assert_eq!(pids.len(), 5);
    });
}

/// P6
#[test]
fn below_the_most_the_replacement_is_forked_before_the_old_worker_goes() {
    run(async {
        let pool = pool().workers(1..=2).max_checkouts(1).start().expect("the pool starts");
        settled(&pool, 1).await;
        let server = the_server().await;
        // A server that is held cannot fork, so the old worker has to stay.
        signal(server, Signal::STOP);
        let old = answer(pool.send(Pid)).await.expect("a pid");
        until("the replacement is asked for", || pool.stats().starting == 1).await;
        actix_rt::time::sleep(Duration::from_millis(100)).await;
        let stayed = runs(old);
        signal(server, Signal::CONT);
        gone(old).await;
        assert!(stayed, "the old worker went while the pool had no other");
        settled(&pool, 1).await;
    });
}

/// P7
#[test]
fn a_worker_beyond_its_age_is_replaced_once_nobody_holds_it() {
    run(async {
        let age = Duration::from_millis(100);
        let pool = pool().workers(1..=1).max_lifetime(age).restart(NEVER).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let pid = answer(checkout.send(Pid)).await.expect("a pid");
        // That it grows too old while it is held is the property.
        assert_eq!(answer(checkout.send(Slow(age * 2, 1))).await, Ok(1));
        assert_eq!(answer(checkout.send(Pid)).await, Ok(pid), "never in the middle");
        drop(checkout);
        gone(pid).await;
        let next = answer(pool.send(Pid)).await.expect("a pid");
        gone(next).await;
        assert!(answer(pool.send(Pid)).await.is_ok());
    });
}

/// P7
#[test]
fn a_worker_beyond_its_memory_is_replaced_at_release_and_not_before() {
    run(async {
        let builder = pool().workers(1..=1).max_memory(32 << 20).restart(NEVER);
        let pool = builder.start().expect("the pool starts");
        let small = answer(pool.send(Pid)).await.expect("a pid");
        let checkout = pool.checkout().start();
        assert_eq!(answer(checkout.send(Pid)).await, Ok(small), "one that is small enough stays");
        assert!(answer(checkout.send(Hoard(64 << 20))).await.is_ok());
        assert_eq!(answer(checkout.send(Pid)).await, Ok(small), "never in the middle");
        drop(checkout);
        gone(small).await;
        let next = answer(pool.send(Pid)).await.expect("a pid");
        assert_eq!(answer(pool.send(Pid)).await, Ok(next));
    });
}

/// P7
#[test]
fn memory_shared_with_the_fork_server_does_not_count_as_the_workers_own() {
    run(async {
        // Less than the program itself has mapped.
        let pool = pool().workers(1..=1).max_memory(4 << 20).start().expect("the pool starts");
        let pid = answer(pool.send(Pid)).await.expect("a pid");
        for _ in 0..5 {
            let same = answer(pool.send(Pid)).await;
            assert_eq!(same, Ok(pid), "{:?}", pool.snapshot().workers);
        }
    });
}

/// P3
#[test]
fn spare_workers_are_there_before_somebody_needs_them_and_go_when_nobody_does() {
    run(async {
        let builder = pool().workers(1..=4).spare_workers(2).idle_timeout(Duration::from_millis(100));
        let pool = builder.start().expect("the pool starts");
        settled(&pool, 1).await;
        assert_eq!(pool.stats().forked, 1, "nobody is at work");
        let first = pool.checkout().start();
        until("two are spare", || (pool.stats().leased, pool.stats().idle) == (1, 2)).await;
        let others = [pool.checkout().start(), pool.checkout().start()];
        for checkout in &others {
            pid(checkout).await;
        }
        until("there may be no more", || (pool.stats().leased, pool.stats().idle) == (3, 1)).await;
        assert_eq!(pool.stats().forked, 4);
        drop((first, others));
        settled(&pool, 1).await;
        assert_eq!(pool.stats().forked, 4, "and none came back");
    });
}
