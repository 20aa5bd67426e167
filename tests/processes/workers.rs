//! What a worker process is, how it is set up and what it is called.

use std::error::Error;
use std::time::{Duration, Instant};

use crate::harness::*;
use forkpool::Backoff;
use forkpool::prelude::*;
use forkpool::{Ending, Phase, PoolBuilder};

/// A wait that no test lives to see the end of.
const NEVER: Backoff =
    Backoff::new().first(Duration::from_secs(3600)).most(Duration::from_secs(3600)).jitter(0.0);

fn pool_with(setup: Setup) -> PoolBuilder<Probe> {
    builder::<Probe>(setup)
}

/// W1
#[test]
fn workers_are_forked_by_a_server_with_one_thread_and_no_runtime() {
    run(async {
        let pool = pool().workers(3..=3).start().expect("the pool starts");
        until("three workers are idle", || pool.stats().idle == 3).await;
        let server = the_server().await;
        assert_eq!(threads(server), 1);
        let reactor = descriptors_of(server).into_values().find(|it| it.contains("eventpoll"));
        assert_eq!(reactor, None, "a runtime would have one");
        let workers = children(server);
        assert_eq!(workers.len(), 3);
        assert!(workers.iter().all(|&worker| threads(worker) == 1));
        let worker = answer(pool.send(Pid)).await.expect("a pid");
        assert!(workers.contains(&worker));
        assert_eq!(children(std::process::id()), [server], "the application forks nothing else");
    });
}

/// W2
#[test]
fn a_worker_is_set_up_once_for_all_its_checkouts() {
    run(async {
        let journal = Scratch::path();
        let setup = Setup { journal: journal.some(), ..Setup::default() };
        let pool = pool_with(setup).workers(1..=1).start().expect("the pool starts");
        for _ in 0..5 {
            let checkout = pool.checkout().start();
            assert_eq!(answer(checkout.send(Setups)).await, Ok(1));
            drop(checkout);
            assert_eq!(answer(pool.send(Setups)).await, Ok(1));
        }
        let pid = answer(pool.send(Pid)).await.expect("a pid");
        assert_eq!(journal.lines(), [pid.to_string()]);
    });
}

/// W2
#[test]
fn every_worker_is_set_up_for_itself() {
    run(async {
        let journal = Scratch::path();
        let setup = Setup { journal: journal.some(), ..Setup::default() };
        let pool = pool_with(setup).workers(3..=3).start().expect("the pool starts");
        until("three workers are idle", || pool.stats().idle == 3).await;
        let mut set_up: Vec<u32> = journal.lines().iter().filter_map(|line| line.parse().ok()).collect();
        set_up.sort_unstable();
        assert_eq!(set_up, children(the_server().await));
    });
}

/// W3
#[test]
fn a_failed_set_up_answers_the_first_call_and_the_next_call_asks_again() {
    type Check = fn(&Failure) -> bool;
    let table: [(&str, Script, &str, Check); 3] = [
        ("an error", Script::Error("no such table".to_owned()), "returned an error", |failure| {
            failure.source().is_some_and(|source| source.to_string() == "no such table")
        }),
        ("a panic", Script::Panic("no memory".to_owned()), "panicked: no memory at ", |failure| {
            failure.panic().is_some_and(|report| report.message == "no memory")
        }),
        ("an exit", Script::Exit(3), "ended its process: exited with status 3", |failure| {
            failure.ending() == Some(Ending::Exited { code: 3 })
        }),
    ];
    for (row, script, text, check) in table {
        run(async {
            let broken = Scratch::file();
            let setup = Setup { script, only_while: broken.some(), ..Setup::default() };
            let pool = pool_with(setup).workers(0..=1).start().expect("the pool starts");
            let checkout = pool.checkout().start();
            let failure = answer(checkout.send(Pid)).await.expect_err(row);
            assert_eq!(failure.kind(), FailureKind::Setup, "{row}");
            assert!(failure.to_string().contains(text), "{row}: {failure}");
            assert!(check(&failure), "{row}: {failure:?}");
            broken.remove();
            let pid = answer(checkout.send(Pid)).await.expect("a worker that could be set up");
            assert_ne!(Some(pid), failure.pid(), "{row}: the worker is replaced");
            assert_eq!(answer(checkout.send(Setups)).await, Ok(1), "{row}");
        });
    }
}

/// W3
#[test]
fn a_set_up_killed_from_outside_answers_the_first_call() {
    run(async {
        let journal = Scratch::path();
        let setup = Setup { script: Script::Hang, journal: journal.some(), ..Setup::default() };
        let pool = pool_with(setup).workers(0..=1).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let call = actix_rt::spawn(checkout.send(Pid));
        until("a worker is being set up", || journal.lines().len() == 1).await;
        kill(journal.lines()[0].parse().expect("a pid"));
        let failure = bounded("the call", call).await.expect("a task").expect("an answer").unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Setup);
        assert_eq!(failure.ending(), Some(Ending::Signaled { signal: 9, core_dumped: false }));
    });
}

/// W3
#[test]
fn one_failed_set_up_answers_one_call_and_the_others_wait_for_the_next_attempt() {
    run(async {
        let broken = Scratch::file();
        let script = Script::Error("not yet".to_owned());
        let setup = Setup { script, only_while: broken.some(), ..Setup::default() };
        let second = Duration::from_secs(1);
        let backoff = Backoff::new().first(second).most(second).jitter(0.0);
        let pool = pool_with(setup).workers(0..=1).restart(backoff).start().expect("the pool starts");
        let checkouts = [(); 3].map(|()| pool.checkout().start());
        let [first, others @ ..] = checkouts.each_ref().map(|checkout| checkout.send(Setups));
        assert_eq!(answer(first).await.unwrap_err().kind(), FailureKind::Setup);
        broken.remove();
        drop(checkouts);
        for other in others {
            assert_eq!(answer(other).await, Ok(1));
        }
    });
}

/// W3
#[test]
fn whoever_waits_for_the_next_attempt_waits_under_its_own_clock() {
    run(async {
        let setup = Setup { script: Script::Error("never".to_owned()), ..Setup::default() };
        let pool = pool_with(setup).workers(0..=1).restart(NEVER).start().expect("the pool starts");
        let first = pool.checkout().start();
        let second = pool.checkout().timeout(Duration::from_millis(100)).start();
        let (first, second) = (first.send(Pid), second.send(Pid));
        assert_eq!(answer(first).await.unwrap_err().kind(), FailureKind::Setup);
        let timeout = answer(second).await.unwrap_err();
        assert_eq!(timeout.kind(), FailureKind::Timeout);
        let source = timeout.source().and_then(|source| source.downcast_ref::<Failure>());
        assert_eq!(source.map(Failure::kind), Some(FailureKind::Setup), "it waits for the next attempt");
    });
}

/// W3
#[test]
fn a_set_up_that_failed_with_nobody_waiting_is_shown_in_the_next_timeout() {
    run(async {
        let setup = Setup { script: Script::Error("disk full".to_owned()), ..Setup::default() };
        let pool = pool_with(setup).workers(1..=1).restart(NEVER).start().expect("the pool starts");
        until("the attempt has failed", || pool.stats().forked == 1 && pool.stats().workers() == 0).await;
        let checkout = pool.checkout().timeout(Duration::from_millis(50)).start();
        let timeout = answer(checkout.send(Pid)).await.unwrap_err();
        assert_eq!(timeout.kind(), FailureKind::Timeout);
        let texts = chain(&timeout);
        assert!(texts.iter().any(|text| text == "disk full"), "{texts:?}");
        let source = timeout.source().and_then(|source| source.downcast_ref::<Failure>());
        assert_eq!(source.map(Failure::kind), Some(FailureKind::Setup));
    });
}

/// W3, P2
#[test]
fn a_broken_set_up_is_tried_again_at_growing_intervals() {
    run(async {
        let journal = Scratch::path();
        let setup = Setup { script: Script::Exit(1), journal: journal.some(), ..Setup::default() };
        let first = Duration::from_millis(20);
        let backoff = Backoff::new().first(first).most(Duration::from_secs(1)).jitter(0.0);
        let begun = Instant::now();
        let pool = pool_with(setup).workers(1..=1).restart(backoff).start().expect("the pool starts");
        until("six attempts were made", || journal.lines().len() >= 6).await;
        assert!(begun.elapsed() >= first * (1 + 2 + 4 + 8 + 16), "five waits took {:?}", begun.elapsed());
        drop(pool);
    });
}

/// W3, P2
#[test]
fn a_broken_set_up_is_no_fork_storm_however_many_wait() {
    run(async {
        let journal = Scratch::path();
        let setup = Setup { script: Script::Exit(1), journal: journal.some(), ..Setup::default() };
        let pool = pool_with(setup).workers(4..=8).restart(NEVER).start().expect("the pool starts");
        let waiting = [(); 20].map(|()| pool.checkout().start());
        until("every attempt has failed", || !journal.lines().is_empty() && pool.stats().workers() == 0)
            .await;
        let attempts = journal.lines().len();
        assert!(attempts <= 8, "{attempts} attempts although the most is 8");
        // That nothing happens for a while is the property.
        actix_rt::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(journal.lines().len(), attempts);
        drop(waiting);
    });
}

/// W3, P2
#[test]
fn the_first_worker_that_becomes_ready_resets_the_backoff() {
    run(async {
        let (journal, broken) = (Scratch::path(), Scratch::file());
        let setup = Setup {
            script: Script::Exit(1),
            only_while: broken.some(),
            journal: journal.some(),
            ..Setup::default()
        };
        // Ten failures in a row take a second; twenty would take a quarter of an hour.
        let hour = Duration::from_secs(3600);
        let backoff = Backoff::new().first(Duration::from_millis(1)).most(hour).jitter(0.0);
        let pool = pool_with(setup).workers(1..=1).restart(backoff).start().expect("the pool starts");
        until("ten attempts were made", || journal.lines().len() >= 10).await;
        broken.remove();
        until("a worker could be set up", || pool.stats().idle == 1).await;
        let pid = answer(pool.send(Pid)).await.expect("a pid");
        let attempts = journal.lines().len();
        std::fs::write(broken.get(), "").expect("a file");
        kill(pid);
        until("ten more attempts were made", || journal.lines().len() >= attempts + 10).await;
    });
}

/// W4
#[test]
fn the_time_of_a_set_up_counts_against_the_call_that_waits_for_it() {
    run(async {
        let setup = Setup { script: Script::Hang, ..Setup::default() };
        let pool = pool_with(setup).workers(0..=1).setup_timeout(None).start().expect("the pool starts");
        let limit = Duration::from_millis(100);
        let checkout = pool.checkout().timeout(limit).start();
        let failure = answer(checkout.send(Pid)).await.unwrap_err();
        assert_eq!((failure.kind(), failure.limit()), (FailureKind::Timeout, Some(limit)));
        assert_eq!(failure.phase(), Some(Phase::Starting));
        assert_eq!((failure.worker(), failure.ran()), (None, None));
    });
}

/// W4, W3
#[test]
fn a_set_up_beyond_its_own_limit_is_killed_and_has_failed() {
    run(async {
        let (journal, slow) = (Scratch::path(), Scratch::file());
        let setup = Setup {
            script: Script::Hang,
            only_while: slow.some(),
            journal: journal.some(),
            ..Setup::default()
        };
        let limit = Duration::from_millis(100);
        let builder = pool_with(setup).workers(0..=1).timeout(None).setup_timeout(limit);
        let pool = builder.start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let failure = answer(checkout.send(Pid)).await.unwrap_err();
        assert_eq!((failure.kind(), failure.limit()), (FailureKind::Setup, Some(limit)));
        assert!(failure.to_string().contains("setup_timeout"), "{failure}");
        slow.remove();
        gone(journal.lines()[0].parse().expect("a pid")).await;
        assert_eq!(answer(checkout.send(Setups)).await, Ok(1));
    });
}

/// W6
#[test]
fn ps_shows_the_pool_and_the_number_of_every_worker_and_of_the_server() {
    run(async {
        let pool = pool().name("hashes").workers(2..=2).start().expect("the pool starts");
        until("two workers are idle", || pool.stats().idle == 2).await;
        let server = the_server().await;
        assert_eq!(comm(server), "hashes/server");
        assert!(args(server).contains("fork server of pool hashes"), "{}", args(server));
        let workers = children(server);
        let mut names: Vec<String> = workers.iter().map(|&worker| comm(worker)).collect();
        names.sort_unstable();
        assert_eq!(names, ["hashes/1", "hashes/2"]);
        for worker in workers {
            assert!(args(worker).contains(&comm(worker)), "{}", args(worker));
        }
    });
}

/// W6
#[test]
fn the_longest_name_is_cut_in_the_short_name_only_and_leaves_the_environment_alone() {
    run(async {
        // Two bytes each, so that no short name may be cut at every byte.
        let name = "ä".repeat(32);
        let pool = pool().name(&name).workers(1..=1).start().expect("the pool starts");
        until("the worker is idle", || pool.stats().idle == 1).await;
        let server = the_server().await;
        let worker = children(server)[0];
        assert_eq!(comm(worker), format!("{}/1", "ä".repeat(6)));
        assert!(args(server).contains(&name), "{}", args(server));
        assert!(args(worker).contains(&format!("{name}/1")), "{}", args(worker));
        let ours = std::env::vars_os()
            .map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()));
        let ours: std::collections::BTreeSet<String> = ours.collect();
        assert!(!ours.is_empty());
        assert_eq!(environment_of(server), ours);
        assert_eq!(environment_of(worker), ours);
    });
}

/// P2
#[test]
fn many_workers_that_are_needed_at_once_are_all_there() {
    run(async {
        // More than one message asks for.
        let pool = pool().workers(40..=40).start().expect("the pool starts");
        settled(&pool, 40).await;
        let stats = pool.stats();
        let mut pids = stats.pids.clone();
        pids.sort_unstable();
        pids.dedup();
        assert_eq!((pids.len(), stats.forked), (40, 40));
        assert_eq!(children(the_server().await), pids);
        let checkouts: Vec<_> = (0..40).map(|_| pool.checkout().start()).collect();
        for checkout in &checkouts {
            let pid = answer(checkout.send(Pid)).await.expect("a worker");
            // It has its own channel and outputs, and nobody else's.
            let open = descriptors_of(pid);
            assert_eq!(own_channel_of(pid), channel_parts());
            assert!(open.len() == 3 + channel_parts(), "{open:?}");
        }
    });
}
