//! What one can do to the workers of a running pool: recycle them, and kill one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::harness::*;
use crate::lanes::{Yard, warm};
use forkpool::Recycle;
use forkpool::prelude::*;

/// The processes of the pool, by number.
pub fn pids(pool: &PoolHandle<Probe>) -> Vec<u32> {
    pool.stats().pids
}

/// The number of the worker with this process, which its title ends with.
pub fn number_of(pid: u32) -> u64 {
    let title = comm(pid);
    title.rsplit('/').next().and_then(|number| number.parse().ok()).expect("a title with a number")
}

/// A pool of so many idle workers.
pub async fn idle(builder: forkpool::PoolBuilder<Probe>, workers: usize) -> PoolHandle<Probe> {
    let pool = builder.start().expect("the pool starts");
    settled(&pool, workers).await;
    pool
}

/// P15
#[test]
fn recycle_replaces_all_workers_and_says_how_many() {
    run(async {
        for most in [3, 20] {
            let pool = idle(pool().workers(3..=most), 3).await;
            let before = pids(&pool);
            let recycling = pool.recycle(Recycle::All);
            assert_eq!(recycling.workers(), 3);
            bounded("the replacement", recycling).await.expect("they are replaced");
            let stats = pool.stats();
            assert_eq!((stats.idle, stats.workers(), stats.forked), (3, 3, 6));
            assert!(before.iter().all(|pid| !exists(*pid) && !stats.pids.contains(pid)));
            assert!(stats.failures.is_empty());
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

/// P15
#[test]
fn a_recycled_worker_that_is_held_serves_its_checkout_to_the_end() {
    run(async {
        let pool = idle(pool().workers(2..=2), 2).await;
        let checkout = pool.checkout().start();
        let held = pid(&checkout).await;
        answer(checkout.send(Remember(1))).await.expect("an answer");
        let mut recycling = pool.recycle(Recycle::Worker(number_of(held)));
        assert_eq!(recycling.workers(), 1);
        assert_eq!(answer(checkout.send(Remember(2))).await, Ok(vec![1, 2]));
        assert_eq!(poll_once(&mut recycling), Poll::Pending);
        assert_eq!(pool.stats().forked, 2);
        drop(checkout);
        bounded("the replacement", recycling).await.expect("it is replaced");
        assert!(!exists(held));
        let stats = pool.stats();
        assert_eq!((stats.idle, stats.forked), (2, 3), "the other one is not replaced");
    });
}

/// P15
#[test]
fn recycle_replaces_the_workers_that_are_old_enough() {
    run(async {
        let pool = idle(pool().workers(2..=2), 2).await;
        assert_eq!(pool.recycle(Recycle::OlderThan(Duration::from_secs(3600))).workers(), 0);
        let both_were_ready = Instant::now();
        let old = pids(&pool);
        // Their ages are to differ by more than what lies between the next clock reading and the recycling.
        actix_rt::time::sleep(Duration::from_secs(1)).await;
        let recycling = pool.recycle(Recycle::Worker(number_of(old[0])));
        bounded("the replacement", recycling).await.expect("it is replaced");
        let recycling = pool.recycle(Recycle::OlderThan(both_were_ready.elapsed()));
        assert_eq!(recycling.workers(), 1, "the other one was ready before");
        bounded("the replacement", recycling).await.expect("it is replaced");
        assert!(!exists(old[1]));
        assert_eq!(pool.recycle(Recycle::OlderThan(Duration::ZERO)).workers(), 2);
    });
}

/// P15: at its most workers the pool can fork none before one has ended.
#[test]
fn recycling_under_load_fails_no_call_and_takes_one_worker_at_a_time() {
    run(async {
        let pool = idle(pool().workers(4..=4), 4).await;
        let before = BTreeSet::from_iter(pids(&pool));
        let is_over = Arc::new(AtomicBool::new(false));
        let (here, over) = (pool.clone(), is_over.clone());
        let watch = std::thread::spawn(move || {
            let mut fewest = usize::MAX;
            while !over.load(Ordering::Acquire) {
                let stats = here.stats();
                fewest = fewest.min(stats.idle + stats.leased);
                std::thread::yield_now();
            }
            fewest
        });
        let single = |pool: PoolHandle<Probe>, over: Arc<AtomicBool>| async move {
            while !over.load(Ordering::Acquire) {
                pool.send(Slow(Duration::from_millis(1), 1)).await.expect("no call fails");
            }
        };
        let held = |pool: PoolHandle<Probe>, over: Arc<AtomicBool>| async move {
            while !over.load(Ordering::Acquire) {
                let checkout = pool.checkout().start();
                for _ in 0..3 {
                    let call = checkout.send(Slow(Duration::from_millis(1), 1));
                    call.await.expect("an answer").expect("no call fails");
                }
            }
        };
        let mut load = Vec::from_iter((0..4).map(|_| actix_rt::spawn(single(pool.clone(), is_over.clone()))));
        load.extend((0..4).map(|_| actix_rt::spawn(held(pool.clone(), is_over.clone()))));
        let elsewhere = Arc::new((pool.clone(), is_over.clone()));
        let threads = Vec::from_iter((0..2).map(|_| {
            let elsewhere = elsewhere.clone();
            std::thread::spawn(move || block_on(held(elsewhere.0.clone(), elsewhere.1.clone())))
        }));
        let recycling = pool.recycle(Recycle::All);
        assert_eq!(recycling.workers(), 4);
        bounded("the replacement", recycling).await.expect("they are replaced");
        is_over.store(true, Ordering::Release);
        for task in load {
            bounded("the load", task).await.expect("no call fails");
        }
        for thread in threads {
            on_a_thread(move || thread.join().expect("no call fails")).await;
        }
        let fewest = on_a_thread(move || watch.join().expect("it watches")).await;
        assert!(fewest >= 3, "{fewest} workers were set up or lent");
        settled(&pool, 4).await;
        assert!(before.is_disjoint(&BTreeSet::from_iter(pids(&pool))));
        assert_eq!(pool.stats().failures, []);
    });
}

/// P15
#[test]
fn with_a_fewest_of_none_recycled_workers_are_replaced_when_they_are_needed() {
    run(async {
        let pool = pool().workers(0..=2).start().expect("the pool starts");
        let recycling = pool.recycle(Recycle::All);
        assert_eq!(recycling.workers(), 0);
        bounded("nothing", recycling).await.expect("there is nothing to replace");
        let old = answer(pool.send(Pid)).await.expect("a pid");
        settled(&pool, 1).await;
        let recycling = pool.recycle(Recycle::All);
        assert_eq!(recycling.workers(), 1);
        bounded("its end", recycling).await.expect("it has ended");
        assert_eq!(pool.stats().workers(), 0);
        assert_ne!(answer(pool.send(Pid)).await.expect("a pid"), old);
    });
}

/// P15
#[test]
fn a_worker_that_is_recycled_twice_is_replaced_once() {
    run(async {
        let pool = idle(pool().workers(1..=2), 1).await;
        let checkout = pool.checkout().start();
        let held = pid(&checkout).await;
        let number = number_of(held);
        let (first, second) = (pool.recycle(Recycle::Worker(number)), pool.recycle(Recycle::Worker(number)));
        assert_eq!((first.workers(), second.workers()), (1, 1));
        drop(checkout);
        for recycling in [first, second] {
            bounded("the replacement", recycling).await.expect("it is replaced");
        }
        assert_eq!(pool.stats().forked, 2);
    });
}

/// P15
#[test]
fn recycling_where_there_is_nothing_to_recycle() {
    run(async {
        let pool = idle(pool().workers(1..=1), 1).await;
        let unknown = pool.recycle(Recycle::Worker(7));
        assert_eq!(unknown.workers(), 0);
        bounded("nothing", unknown).await.expect("there is nothing to replace");
        assert_eq!(pool.stats().forked, 1);
        let checkout = pool.checkout().start();
        pid(&checkout).await;
        let recycling = pool.recycle(Recycle::All);
        bounded("the end", pool.stop(Duration::ZERO)).await;
        let after = pool.recycle(Recycle::All);
        assert_eq!((recycling.workers(), after.workers()), (1, 0));
        for recycling in [recycling, after] {
            let failure = bounded("the end", recycling).await.expect_err("the pool has stopped");
            assert_eq!(failure.kind(), FailureKind::Stopped);
        }
    });
}

/// P15
#[test]
fn if_new_workers_cannot_be_set_up_the_old_ones_serve_on() {
    run(async {
        let fails = Scratch::path();
        let script = Script::Error("no licence".to_owned());
        let setup = Setup { script, only_while: fails.some(), ..Setup::default() };
        let pool = idle(builder::<Probe>(setup).workers(1..=2), 1).await;
        let old = answer(pool.send(Pid)).await.expect("a pid");
        std::fs::write(fails.get(), "").expect("a file");
        let recycling = pool.recycle(Recycle::All);
        let failure = bounded("a failure", recycling).await.expect_err("the set-up fails");
        assert_eq!(failure.kind(), FailureKind::Setup);
        assert!(failure.to_string().ends_with("no licence"), "{failure}");
        assert_eq!(answer(pool.send(Pid)).await, Ok(old));
        fails.remove();
        gone(old).await;
        assert!(answer(pool.send(Pid)).await.is_ok());
    });
}

/// P16, P11
#[test]
fn a_kill_fails_the_call_that_runs_and_no_other() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(1..=1).max_kills(1), 1).await;
        let running = pool.send(yard.acts(0, Act::Spin));
        let behind = [1, 2, 3].map(|number| pool.send(yard.task(number)));
        yard.begun(1).await;
        let (_, victim) = yard.began()[0];
        assert!(pool.kill_worker(number_of(victim)));
        let failure = failure(running).await;
        assert_eq!((failure.kind(), failure.pid()), (FailureKind::Aborted, Some(victim)));
        assert!(failure.to_string().contains("kill_worker"), "{failure}");
        for call in behind {
            assert!(answer(call).await.is_ok());
        }
        assert_eq!(yard.numbers(), [0, 1, 2, 3]);
        gone(victim).await;
        settled(&pool, 1).await;
        // The message is not blamed for it.
        let again = pool.send(yard.acts(0, Act::Spin));
        yard.begun(5).await;
        drop(again);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// P16, E5
#[test]
fn a_kill_ends_the_checkout_that_has_the_worker() {
    run(async {
        let pool = idle(pool().workers(1..=1).kill_grace(PATIENCE), 1).await;
        let checkout = pool.checkout().start();
        let victim = pid(&checkout).await;
        let (running, queued) = (checkout.send(Spin), checkout.send(Pid));
        until("it runs", || pool.stats().checkouts == 1).await;
        assert!(pool.kill_worker(number_of(victim)));
        let failed = failure(running).await;
        assert_eq!((failed.kind(), failed.pid()), (FailureKind::Aborted, Some(victim)));
        assert_eq!(failure(queued).await.kind(), FailureKind::Cleared);
        assert_eq!(failure(checkout.send(Pid)).await, failed);
        gone(victim).await;
        settled(&pool, 1).await;
        assert!(answer(pool.send(Pid)).await.is_ok());
    });
}

/// P16
#[test]
fn a_checkout_without_a_call_gets_another_worker_for_one_that_is_killed() {
    run(async {
        let pool = idle(pool().workers(1..=1), 1).await;
        let checkout = pool.checkout().start();
        until("it has the worker", || pool.stats().leased == 1).await;
        let victim = pids(&pool)[0];
        assert!(pool.kill_worker(number_of(victim)));
        gone(victim).await;
        assert_ne!(pid(&checkout).await, victim);
        // One that has made a call loses what its worker knows.
        let victim = pid(&checkout).await;
        assert!(pool.kill_worker(number_of(victim)));
        let failure = failure(checkout.send(Pid)).await;
        assert_eq!(failure.kind(), FailureKind::Aborted);
    });
}

/// P16, P2
#[test]
fn an_idle_worker_that_is_killed_is_replaced() {
    run(async {
        let pool = idle(pool().workers(2..=2), 2).await;
        let before = pids(&pool);
        assert!(pool.kill_worker(number_of(before[0])));
        gone(before[0]).await;
        settled(&pool, 2).await;
        let stats = pool.stats();
        assert!(stats.pids.contains(&before[1]));
        assert_eq!((stats.forked, stats.failures), (3, vec![]));
    });
}

/// P16, W3
#[test]
fn a_worker_that_is_killed_in_its_set_up_fails_no_call() {
    run(async {
        let hangs = Scratch::file();
        let setup = Setup { script: Script::Hang, only_while: hangs.some(), ..Setup::default() };
        let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
        let call = pool.send(Pid);
        until("it is forked", || pids(&pool).len() == 1).await;
        let victim = pids(&pool)[0];
        hangs.remove();
        assert!(pool.kill_worker(1));
        assert_ne!(answer(call).await.expect("another worker serves it"), victim);
        gone(victim).await;
        assert_eq!(pool.stats().forked, 2);
    });
}

/// P16: nothing that the worker or its holder does or leaves undone delays it.
#[test]
fn a_worker_is_killed_although_it_and_its_holder_stand_still() {
    run(async {
        let pool = idle(pool().workers(1..=1), 1).await;
        let (told, holder) = (std::sync::mpsc::channel(), pool.clone());
        let (release, released) = std::sync::mpsc::channel::<()>();
        let blocked = std::thread::spawn(move || {
            let system = actix::System::new();
            system.block_on(async move {
                let checkout = holder.checkout().start();
                told.0.send(pid(&checkout).await).expect("the test waits for it");
                released.recv().expect("the test says so");
                failure(checkout.send(Pid)).await.kind()
            })
        });
        let victim = on_a_thread(move || told.1.recv().expect("a pid")).await;
        signal(victim, rustix::process::Signal::STOP);
        assert!(pool.kill_worker(number_of(victim)));
        gone(victim).await;
        settled(&pool, 1).await;
        release.send(()).expect("the thread waits for it");
        let kind = on_a_thread(move || blocked.join().expect("it ends")).await;
        assert_eq!(kind, FailureKind::Aborted);
        settled(&pool, 1).await;
    });
}

/// P16
#[test]
fn a_number_without_a_process_is_not_killed() {
    run(async {
        let pool = idle(pool().workers(1..=1), 1).await;
        assert!(!pool.kill_worker(7));
        let victim = pids(&pool)[0];
        let number = number_of(victim);
        assert!(pool.kill_worker(number));
        gone(victim).await;
        until("its end is reported", || !pool.kill_worker(number)).await;
        settled(&pool, 1).await;
        let next = number_of(pids(&pool)[0]);
        bounded("the end", pool.stop(Duration::ZERO)).await;
        assert!(!pool.kill_worker(next), "the pool has stopped");
    });
}

/// P16, P12
#[test]
fn a_pool_that_drains_has_its_workers_killed_too() {
    run(async {
        let pool = idle(pool().workers(1..=1), 1).await;
        let checkout = pool.checkout().start();
        let victim = pid(&checkout).await;
        let call = checkout.send(Spin);
        let stopping = actix_rt::spawn(pool.stop(Duration::from_secs(3600)));
        until("it stops", || pool.try_send(Pid).is_err()).await;
        assert!(pool.kill_worker(number_of(victim)));
        assert_eq!(failure(call).await.kind(), FailureKind::Aborted);
        let report = bounded("the end", stopping).await.expect("a task");
        assert!(report.left.is_empty());
    });
}
