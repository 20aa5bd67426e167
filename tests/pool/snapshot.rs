//! What a snapshot shows of a pool.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use crate::harness::*;
use crate::lanes::{Yard, warm};
use forkpool::prelude::*;
use forkpool::snapshot::{CallTotals, EndReason, PoolStatus, WorkerStatus};

fn ends(pool: &PoolHandle<Probe>) -> BTreeMap<&'static str, u64> {
    pool.snapshot().totals.ends.into_iter().map(|(reason, count)| (reason.as_str(), count)).collect()
}

fn totals_of(snapshot: &Snapshot, name: &str) -> CallTotals {
    snapshot.calls.iter().find(|totals| totals.name == name).cloned().unwrap_or_default()
}

/// M1: the pool is at rest, and every number is what it must be.
#[test]
fn every_number_of_a_pool_at_rest_is_true() {
    run(async {
        let pool = pool().workers(2..=2).max_waiting(7).max_memory(1 << 40).start().expect("the pool starts");
        settled(&pool, 2).await;
        for _ in 0..3 {
            assert!(answer(pool.send(Pid)).await.is_ok());
        }
        assert!(answer(pool.send(Fail("no".to_owned()))).await.is_err());
        let checkout = pool.checkout().keep_after_error(true).start();
        for _ in 0..5 {
            assert!(answer(checkout.send(Pid)).await.is_ok());
        }
        assert!(answer(checkout.send(Fail("no".to_owned()))).await.is_err());
        let snapshot = pool.snapshot();
        let (pids, fails) = (totals_of(&snapshot, "Pid"), totals_of(&snapshot, "Fail"));
        assert_eq!((pids.succeeded, pids.errors, pids.run.count()), (8, 0, 8));
        assert_eq!((fails.succeeded, fails.errors, fails.run.count()), (0, 2, 2));
        assert_eq!(snapshot.calls.len(), 2, "no other message was called: {:?}", snapshot.calls);
        assert_eq!(snapshot.totals.checkouts, 5, "four calls to the pool, and a checkout");
        assert_eq!(snapshot.workers.iter().map(|worker| worker.calls).sum::<u64>(), 10);
        drop(checkout);
        until("the checkout is released", || pool.stats().leased == 0).await;
        let snapshot = pool.snapshot();
        assert_eq!(snapshot.hold.count(), 5);
        assert_eq!(snapshot.workers.iter().map(|worker| worker.checkouts).sum::<u64>(), 5);
        assert!(snapshot.workers.iter().any(|worker| worker.private_bytes.is_some_and(|bytes| bytes > 1000)));
        assert!(snapshot.workers.iter().all(|worker| worker.call.is_none() && worker.running_for.is_none()));
        assert_eq!(
            (snapshot.totals.forked, snapshot.totals.server_starts, snapshot.start.count()),
            (2, 1, 2)
        );
        assert_eq!((snapshot.queue.length, snapshot.queue.oldest), (0, None));
        assert_eq!((snapshot.totals.ends, snapshot.failures), (vec![], vec![]));
        assert_eq!((snapshot.counts.idle, snapshot.counts.leased), (2, 0));
        assert_eq!((snapshot.limits.min_workers, snapshot.limits.max_waiting), (2, Some(7)));
        let own: Vec<Option<u32>> = snapshot.servers.iter().map(|server| server.pid).collect();
        assert_eq!(own, [Some(the_server().await)]);
        let stats = pool.stats();
        assert_eq!((stats.succeeded, stats.errors, stats.checkouts), (8, 2, 5));
        assert_eq!(stats.pids, snapshot.workers.iter().map(|worker| worker.pid).collect::<Vec<_>>());
    });
}

/// M1: what is counted as the time of runs is the time that runs took.
#[test]
fn the_sum_of_runs_is_what_a_stopwatch_shows() {
    run(async {
        let pool = warm(pool().workers(1..=1), 1).await;
        let (calls, each) = (5, Duration::from_millis(30));
        let before = pool.snapshot().hold.sum();
        let watch = Instant::now();
        for _ in 0..calls {
            assert_eq!(answer(pool.send(Slow(each, 1))).await, Ok(1));
        }
        let took = watch.elapsed();
        let run = totals_of(&pool.snapshot(), "Slow").run;
        assert_eq!(run.count(), u64::from(calls));
        assert!((each * calls..=took).contains(&run.sum()), "{:?} of {took:?}", run.sum());
        let hold = pool.snapshot().hold.sum() - before;
        assert!((each * calls..=took).contains(&hold), "{hold:?} of {took:?}");
    });
}

/// M1: the figures of a worker that computes grow, and name the call that it runs.
#[test]
fn a_running_call_is_named_with_its_worker() {
    run(async {
        let pool = warm(pool().workers(2..=2), 2).await;
        let checkout = pool.checkout().start();
        let pid = pid(&checkout).await;
        let single = pool.send(Slow(Duration::from_secs(60), 1));
        let held = checkout.send(Spin);
        until("both run", || pool.snapshot().workers.iter().all(|worker| worker.call.is_some())).await;
        let before = pool.snapshot();
        let calls: BTreeMap<u32, _> = before.workers.iter().map(|worker| (worker.pid, worker)).collect();
        assert_eq!((calls[&pid].call, calls[&pid].state), (Some("Spin"), WorkerStatus::Leased));
        let other = before.workers.iter().find(|worker| worker.pid != pid).expect("another worker");
        assert_eq!((other.call, other.calls + calls[&pid].calls), (Some("Slow"), 2));
        assert!(other.running_for.is_some_and(|time| time < before.uptime), "{other:?}");
        until("it computes", || {
            let now = pool.snapshot();
            let spinning = now.workers.iter().find(|worker| worker.pid == pid).expect("it lives");
            let grown = spinning.cpu_time.zip(calls[&pid].cpu_time).is_some_and(|(now, then)| now > then);
            grown && spinning.running_for > calls[&pid].running_for
        })
        .await;
        drop(single);
        checkout.do_send(Abort("no longer wanted".to_owned()));
        assert!(answer(held).await.is_err());
        until("it is replaced", || ends(&pool).get("aborted") == Some(&1)).await;
    });
}

/// M1: the server dies, and all that counts goes on counting.
#[test]
fn counters_survive_the_death_of_the_server() {
    run(async {
        let pool = warm(pool().workers(2..=2), 2).await;
        assert!(answer(pool.send(Pid)).await.is_ok());
        let before = pool.snapshot();
        kill(the_server().await);
        until("there is another server", || pool.snapshot().totals.server_starts == 2).await;
        assert!(answer(pool.send(Pid)).await.is_ok());
        let dead = pool.stats().pids[0];
        kill(dead);
        until("its end is known", || pool.snapshot().totals.ends.iter().any(|(_, count)| *count == 1)).await;
        settled(&pool, 2).await;
        let after = pool.snapshot();
        assert!(after.totals.forked > before.totals.forked && after.uptime > before.uptime);
        assert_eq!(totals_of(&after, "Pid").succeeded, totals_of(&before, "Pid").succeeded + 1);
        assert_eq!(after.totals.checkouts, before.totals.checkouts + 1);
        let ended: u64 = after.totals.ends.iter().map(|(_, count)| count).sum();
        assert_eq!(ended + after.workers.len() as u64, after.totals.forked);
    });
}

/// M1, E7: a lane that waits a little for an answer measures that, too.
#[test]
fn no_call_takes_no_time() {
    run(async {
        let pool = warm(pool().workers(1..=1), 1).await;
        for _ in 0..200 {
            assert!(answer(pool.send(Pid)).await.is_ok());
        }
        let ran = &totals_of(&pool.snapshot(), "Pid").run;
        let (_, none) = ran.buckets().next().expect("a bucket");
        assert_eq!(none, 0, "{ran:?}");
    });
}

/// M1: each worker's end counts under its reason, once.
#[test]
fn ends_are_counted_by_reason() {
    run(async {
        let pool = warm(pool().workers(1..=1), 1).await;
        let mut expected = BTreeMap::new();
        let mut ended = async |reason: &'static str| {
            *expected.entry(reason).or_default() += 1;
            until(reason, || ends(&pool) == expected).await;
            until("it is replaced", || pool.stats().idle == 1).await;
        };
        assert!(answer(pool.send(Exit(3))).await.is_err());
        ended("exit").await;
        assert!(answer(pool.send(AbortProcess)).await.is_err());
        ended("signal").await;
        kill(pool.stats().pids[0]);
        ended("signal").await;
        assert!(answer(pool.send_within(Duration::from_millis(30), Spin)).await.is_err());
        ended("timeout").await;
        assert!(answer(pool.send(Panic("now".to_owned()))).await.is_err());
        ended("panic").await;
        assert!(answer(pool.send(StopAfterwards)).await.is_ok());
        ended("stop").await;
        let checkout = pool.checkout().start();
        assert!(answer(checkout.send(Fail("no".to_owned()))).await.is_err());
        drop(checkout);
        ended("error").await;
        let checkout = pool.checkout().start();
        let call = checkout.send(Spin);
        until("it runs", || pool.snapshot().workers.iter().any(|worker| worker.call == Some("Spin"))).await;
        checkout.do_send(Abort("no longer wanted".to_owned()));
        assert!(answer(call).await.is_err());
        ended("aborted").await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
        *expected.entry("pool").or_default() += 1;
        assert_eq!(ends(&pool), expected);
        let snapshot = pool.snapshot();
        assert_eq!(snapshot.totals.ends.iter().map(|(_, count)| count).sum::<u64>(), snapshot.totals.forked);
        assert!(snapshot.totals.cpu_time > Duration::from_millis(20), "{:?}", snapshot.totals);
        assert_eq!(snapshot.workers, []);
    });
}

/// M1: the limits of a pool's options end workers, each under its name.
#[test]
fn ends_by_a_limit_are_counted_by_that_limit() {
    run(async {
        let limited = [
            ("checkouts", pool().max_checkouts(1)),
            ("memory", pool().max_memory(1)),
            ("age", pool().max_lifetime(Duration::from_millis(1))),
            ("cancelled", pool().on_cancel(OnCancel::Kill)),
            ("hung", pool().hung_worker_timeout(Duration::from_millis(200))),
            ("idle", pool().workers(0..=1).idle_timeout(Duration::from_millis(1))),
        ];
        for (reason, limited) in limited {
            let fewest = usize::from(reason != "idle");
            let pool = limited.workers(fewest..=1).start().expect("the pool starts");
            match reason {
                "cancelled" => {
                    let yard = Yard::new();
                    let call = pool.send(yard.gated(0, Act::Answer));
                    yard.begun(1).await;
                    drop(call);
                }
                "hung" => assert_eq!(failure(pool.send(Spin)).await.kind(), FailureKind::Hung),
                _ => assert!(answer(pool.send(Pid)).await.is_ok()),
            }
            until(reason, || ends(&pool).get(reason).is_some_and(|&count| count > 0)).await;
            bounded("the end", pool.stop(Duration::ZERO)).await;
            let all = ends(&pool);
            assert!(all.keys().all(|name| [reason, "pool"].contains(name)), "{reason}: {all:?}");
        }
    });
}

/// M1: a worker whose set-up fails was forked and has ended.
#[test]
fn a_failed_set_up_is_an_end() {
    run(async {
        for script in [Script::Error("no".to_owned()), Script::Exit(3), Script::Panic("no".to_owned())] {
            let setup = Setup { script, ..Setup::default() };
            let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
            assert_eq!(failure(pool.send(Pid)).await.kind(), FailureKind::Setup);
            until("it has ended", || ends(&pool).get("setup").is_some_and(|&count| count > 0)).await;
            assert_eq!(pool.snapshot().start.count(), 0);
            let last = pool.snapshot().failures;
            assert_eq!(last[0].kind, FailureKind::Setup, "{last:?}");
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

/// M1: a message that kills its workers is put into quarantine once, and refused as often as it comes.
#[test]
fn a_message_in_quarantine_is_counted() {
    run(async {
        let pool = pool().workers(1..=1).max_kills(2).start().expect("the pool starts");
        for _ in 0..2 {
            assert_eq!(failure(pool.send(Exit(1))).await.kind(), FailureKind::Died);
        }
        for _ in 0..3 {
            assert_eq!(failure(pool.send(Exit(1))).await.kind(), FailureKind::Quarantined);
        }
        let snapshot = pool.snapshot();
        assert_eq!(snapshot.totals.quarantined, 1);
        let failures = totals_of(&snapshot, "Exit").failures;
        assert_eq!(failures, [(FailureKind::Died, 2), (FailureKind::Quarantined, 3)]);
    });
}

/// M1: the last failures have numbers that rise, what failed and where.
#[test]
fn the_last_failures_are_shown_in_short() {
    run(async {
        let pool = pool().workers(1..=1).start().expect("the pool starts");
        let text = "word ".repeat(1000);
        let began = SystemTime::now();
        for _ in 0..2 {
            assert_eq!(failure(pool.send(Panic(text.clone()))).await.kind(), FailureKind::Panic);
        }
        for _ in 0..40 {
            let none = failure(pool.send_within(Duration::ZERO, Pid)).await;
            assert_eq!(none.kind(), FailureKind::Timeout);
        }
        assert_eq!(failure(pool.send(Exit(1))).await.kind(), FailureKind::Died);
        let failures = pool.snapshot().failures;
        let numbers: Vec<u64> = failures.iter().map(|failure| failure.number).collect();
        assert_eq!(numbers, Vec::from_iter(12..=43));
        let last = failures.last().expect("the last one");
        assert_eq!(
            (last.call.as_deref(), last.kind, last.worker),
            (Some("Exit"), FailureKind::Died, Some(3))
        );
        assert!(last.text.contains("exited with status 1"), "{}", last.text);
        // The clock of the day is set now and then, but hardly by an hour.
        assert!(last.at > began - Duration::from_secs(3600));
        assert!(failures.iter().all(|failure| !failure.text.contains('\n') && failure.text.len() <= 1024));
    });
}

/// M1: the age of the queue is that of what waits for longest, a checkout or a call to the pool.
#[test]
fn the_age_of_the_queue_is_that_of_its_oldest() {
    run(async {
        let pool = warm(pool().workers(1..=1), 1).await;
        let holder = pool.checkout().start();
        assert!(answer(holder.send(Pid)).await.is_ok());
        assert_eq!(pool.snapshot().queue.oldest, None);
        let watch = Instant::now();
        let call = pool.send(Pid);
        until("it has waited for a while", || {
            let queue = pool.snapshot().queue;
            queue.length == 1 && queue.oldest.is_some_and(|oldest| oldest > Duration::from_millis(20))
        })
        .await;
        let second = pool.checkout().start();
        let oldest = pool.snapshot().queue.oldest.expect("two wait");
        assert!((Duration::from_millis(20)..=watch.elapsed()).contains(&oldest), "{oldest:?}");
        drop(holder);
        assert!(answer(call).await.is_ok());
        assert!(answer(second.send(Pid)).await.is_ok());
        assert_eq!((pool.snapshot().queue.length, pool.snapshot().queue.oldest), (0, None));
        let third = pool.checkout().start();
        until("it has waited for a while", || {
            pool.snapshot().queue.oldest.is_some_and(|oldest| oldest > Duration::from_millis(20))
        })
        .await;
        drop((second, third));
    });
}

/// M2: a snapshot is there at once, whatever stands still: workers, the server, the arbiter of the calls.
#[test]
fn a_snapshot_waits_for_nothing_that_stands_still() {
    run(async {
        let pool = warm(pool().workers(2..=2), 2).await;
        let server = the_server().await;
        let workers = pool.stats().pids;
        let stopped: Vec<u32> = workers.iter().copied().chain([server]).collect();
        stopped.iter().for_each(|&pid| signal(pid, rustix::process::Signal::STOP));
        let call = pool.send(Pid);
        let snapshot = pool.snapshot();
        assert_eq!(snapshot.workers.iter().map(|worker| worker.pid).collect::<Vec<_>>(), workers);
        stopped.iter().for_each(|&pid| signal(pid, rustix::process::Signal::CONT));
        assert!(answer(call).await.is_ok());
    });
}

/// M2: the pool is being stopped and has stopped, and is shown all the same, on a thread without a runtime.
#[test]
fn a_pool_that_stops_is_shown_on_any_thread() {
    run(async {
        let pool = warm(pool().workers(2..=2), 2).await;
        // One that was made to the pool and has not begun would be answered by the stop.
        let checkout = pool.checkout().start();
        let call = checkout.send(Slow(Duration::from_millis(200), 1));
        until("it runs", || pool.snapshot().workers.iter().any(|worker| worker.call == Some("Slow"))).await;
        assert_eq!(pool.snapshot().status, PoolStatus::Open);
        let stopping = pool.stop(Duration::from_secs(60));
        let stopping = actix_rt::spawn(stopping);
        until("the idle one ends", || !ends(&pool).is_empty()).await;
        let elsewhere = pool.clone();
        let shown = on_a_thread(move || elsewhere.snapshot()).await;
        assert_eq!((shown.status, shown.workers.len()), (PoolStatus::Stopping, 1), "{:?}", shown.workers);
        assert_eq!(answer(call).await, Ok(1));
        bounded("the end", stopping).await.expect("it stops");
        let shown = pool.snapshot();
        assert_eq!(totals_of(&shown, "Slow").succeeded, 1);
        assert_eq!(shown.status, PoolStatus::Stopped);
        assert_eq!((shown.workers, shown.totals.ends), (vec![], vec![(EndReason::Pool, 2)]));
    });
}

/// M2: threads take snapshots without a pause while others call; every number only rises, and all is counted.
#[test]
fn snapshots_under_load_see_numbers_that_rise() {
    run(async {
        let pool = warm(pool().workers(2..=2), 2).await;
        let (stop, watched) = (std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)), pool.clone());
        let is_over = stop.clone();
        let watcher = std::thread::spawn(move || {
            let mut last = watched.snapshot();
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let next = watched.snapshot();
                let counts = |snapshot: &Snapshot| {
                    let pids = totals_of(snapshot, "Pid");
                    [
                        snapshot.totals.checkouts,
                        pids.succeeded,
                        pids.run.count(),
                        pids.wait.count(),
                        snapshot.hold.count(),
                    ]
                };
                let rises = counts(&last).into_iter().zip(counts(&next)).all(|(last, next)| last <= next);
                assert!(rises, "{:?} then {:?}", counts(&last), counts(&next));
                last = next;
            }
        });
        for _ in 0..200 {
            let calls: Vec<_> = (0..10).map(|_| pool.send(Pid)).collect();
            for call in calls {
                assert!(answer(call).await.is_ok());
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        on_a_thread(move || watcher.join().expect("all numbers rose")).await;
        let totals = totals_of(&pool.snapshot(), "Pid");
        // One of them has warmed the pool up.
        assert_eq!((totals.succeeded, totals.run.count()), (2001, 2001));
        assert_eq!(pool.snapshot().totals.checkouts, 2001);
    });
}
