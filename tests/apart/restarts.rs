//! Servers that are replaced, drained and stopped.

use std::time::Duration;

use forkpool::prelude::*;
use rustix::process::Signal;

use crate::harness::*;
use crate::*;

tests! {
    servers_are_taken_over_again_and_again_without_a_failed_call,
    a_server_that_is_killed_fails_no_call_and_a_worker_its_own_once,
    a_server_that_is_to_end_lets_its_workers_finish,
    a_server_that_is_told_twice_or_interrupted_ends_at_once,
    a_drain_has_an_end,
    a_call_that_waits_connects_at_once_to_a_server_that_is_back,
    old_workers_stand_in_until_new_ones_are_ready,
    a_successor_that_does_not_come_up_changes_nothing,
}

/// G11: whatever the wait between two attempts is otherwise.
fn a_call_that_waits_connects_at_once_to_a_server_that_is_back() {
    run(async {
        let place = Place::new();
        let hour = Duration::from_secs(3600);
        let restart = forkpool::Backoff::new().first(hour).most(hour);
        let pool = place.pool().restart(restart).timeout(PATIENCE).start().expect("the pool starts");
        // The first attempt has failed before the second of these begins to wait.
        for _ in 0..2 {
            let absent = bounded("an answer", pool.ready()).await.expect_err("there is no server");
            assert_eq!(absent.kind(), FailureKind::NoServer);
        }
        // A call that comes before the server, and one that comes after it.
        let early = pool.send(Pid);
        let mut first = serving("");
        let worker = answer(early).await.expect("a worker");
        first.kill();
        first.ends();
        // An idle worker outlives its server.
        kill(worker);
        until("the losses are known", || pool.stats().pids.is_empty()).await;
        let mut second = serving("");
        answer(pool.send(Pid)).await.expect("a worker");
        bounded("the end", pool.stop(Duration::ZERO)).await;
        second.kill();
        second.ends();
    });
}

/// Has a load pause or go on, and waits until it does.
fn tell(load: &mut Application, what: &str) {
    load.go_on();
    load.says(what);
}

/// Ends a load; how many of its calls were served, and how its others failed and which workers it has.
fn ends(mut load: Application) -> (u64, String) {
    load.close_input();
    let told = load.says("served ");
    assert!(load.ends().success());
    let (served, rest) = told.split_once(' ').expect("a number");
    (served.parse().expect("a number"), rest.to_owned())
}

/// S4, P2: under the load of two applications, ten times, and by force where nobody has a call.
fn servers_are_taken_over_again_and_again_without_a_failed_call() {
    run(async {
        let _place = Place::new();
        let mut current = serving("");
        let mut loads: Vec<Application> =
            (0..2).map(|_| Application::start("an_application", "load")).collect();
        loads.iter_mut().for_each(|load| drop(load.says("ready")));
        for round in 0..10 {
            let before = current.pid();
            let by_force = round % 5 == 4;
            if by_force {
                loads.iter_mut().for_each(|load| tell(load, "pauses"));
                current.kill();
                current.ends();
                current = serving("");
                loads.iter_mut().for_each(|load| tell(load, "goes on"));
            } else {
                let mut old = std::mem::replace(&mut current, serving("take_over"));
                until("the old server has ended", || !runs(before)).await;
                old.tells("good bye").await;
                assert!(old.ends().success(), "round {round}");
            }
            until("the new one has workers", || children(current.pid()).len() >= 4).await;
        }
        for load in loads {
            let (served, rest) = ends(load);
            assert!(served > 100 && rest.starts_with("failed [] "), "{served} {rest}");
        }
        until("all workers are gone", || children(current.pid()).is_empty()).await;
    });
}

/// S4, S6: what a kill costs are the calls that ran on workers that were killed, once each.
fn a_server_that_is_killed_fails_no_call_and_a_worker_its_own_once() {
    run(async {
        let place = Place::new();
        let mut first = serving("");
        let pool = place.pool().workers(2..=2).start().expect("the pool starts");
        settled(&pool, 2).await;
        let (one, two) = (pool.checkout().start(), pool.checkout().start());
        let pids = (answer(one.send(Pid)).await.expect("a pid"), answer(two.send(Pid)).await.expect("a pid"));
        let lost = two.send(Slow(PATIENCE, 2));
        let kept = one.send(Slow(Duration::from_millis(300), 1));
        until("both run", || pool.stats().leased == 2).await;
        first.kill();
        first.ends();
        kill(pids.1);
        assert_eq!(failure(lost).await.kind(), FailureKind::Died);
        assert_eq!(answer(kept).await, Ok(1));
        assert_eq!(answer(one.send(Pid)).await, Ok(pids.0));
        let next = serving("");
        drop((one, two));
        for _ in 0..20 {
            assert!(answer(pool.send(Pid)).await.is_ok());
        }
        until("there are as many as before", || pool.stats().idle == 2).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
        drop(next);
    });
}

/// S4: SIGTERM
fn a_server_that_is_to_end_lets_its_workers_finish() {
    run(async {
        let place = Place::new();
        let mut first = serving("");
        let pool = place.pool().workers(2..=2).start().expect("the pool starts");
        settled(&pool, 2).await;
        let held = pool.checkout().start();
        let worker = answer(held.send(Pid)).await.expect("a pid");
        let running = held.send(Slow(Duration::from_millis(200), 1));
        signal(first.pid(), Signal::TERM);
        first.tells("takes no more work").await;
        until("the idle one has ended", || children(first.pid()) == [worker]).await;
        assert!(!place.0.exists(), "nobody comes any more");
        let waits = pool.send(Pid);
        assert_eq!(answer(running).await, Ok(1));
        assert_eq!(answer(held.send(Pid)).await, Ok(worker), "it is held for as long as its holder likes");
        assert!(runs(first.pid()));
        drop(held);
        first.tells("good bye").await;
        assert!(first.ends().success());
        let next = serving("");
        let other = answer(waits).await.expect("the next server has come");
        assert!(children(next.pid()).contains(&other));
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

fn a_server_that_is_told_twice_or_interrupted_ends_at_once() {
    run(async {
        let place = Place::new();
        for signals in [&[Signal::TERM, Signal::TERM][..], &[Signal::INT]] {
            let mut server = serving("");
            let pool = place.start();
            let checkout = pool.checkout().start();
            let worker = answer(checkout.send(Pid)).await.expect("a pid");
            let running = checkout.send(Spin);
            until("it runs", || pool.stats().waited.count() == 2).await;
            for (at, &each) in signals.iter().enumerate() {
                signal(server.pid(), each);
                if at == 0 && signals.len() > 1 {
                    server.tells("takes no more work").await;
                }
            }
            server.tells("good bye").await;
            assert!(server.ends().success());
            assert!(!runs(worker));
            assert_eq!(failure(running).await.kind(), FailureKind::Died);
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

fn a_drain_has_an_end() {
    run(async {
        let place = Place::new();
        let mut server = serving("drain=100");
        let pool = place.start();
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Pid)).await.expect("a pid");
        let running = checkout.send(Spin);
        signal(server.pid(), Signal::TERM);
        server.tells("good bye").await;
        assert!(!runs(worker));
        assert_eq!(failure(running).await.kind(), FailureKind::Died);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S4: a successor whose workers cannot be set up takes over, and nobody notices until it is replaced in turn.
fn old_workers_stand_in_until_new_ones_are_ready() {
    run(async {
        let place = Place::new();
        let first = serving("");
        // There is room for one beside it.
        let pool = place.pool().workers(1..=2).start().expect("the pool starts");
        let old = served_by(&pool).await;
        let mut broken = serving("take_over setup_fails");
        broken.tells("a worker has ended").await;
        for _ in 0..5 {
            // Whoever waits in line is told of a set-up that failed.
            until("it is idle", || pool.stats().idle == 1).await;
            assert_eq!(served_by(&pool).await, old);
        }
        let last = serving("take_over");
        until("the new one has come", || children(last.pid()).len() == 1).await;
        until("the old one has gone", || !runs(old) && !runs(first.pid()) && !runs(broken.pid())).await;
        let new = served_by(&pool).await;
        assert!(children(last.pid()).contains(&new));
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S4
fn a_successor_that_does_not_come_up_changes_nothing() {
    run(async {
        let place = Place::new();
        let first = serving("");
        let pool = place.start();
        let worker = served_by(&pool).await;
        let mut failing = server("take_over preload_fails");
        let told = failing.says("refused:");
        assert!(told.contains("the preload failed") && told.contains("as it was told"), "{told}");
        failing.ends();
        assert_eq!(served_by(&pool).await, worker);
        assert!(runs(first.pid()) && place.0.exists());
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}
