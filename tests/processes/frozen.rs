//! All processes of an application stand still for a while, as those of a container that is paused, or one of them does.

use std::time::{Duration, Instant};

use actix::System;
use forkpool::prelude::*;
use rustix::process::Signal;

use crate::harness::*;

/// Every limit of the application that is frozen.
const LIMIT: Duration = Duration::from_secs(3);

/// How long it is frozen.
const FROZEN: Duration = Duration::from_millis(2500);

/// What its workers do: with the time in which they are frozen it takes longer than the limit, and without it much less.
const WORK: u32 = 1000;

/// An application with one pool for each limit, each of which has work to do.
#[test]
#[ignore = "an application that other tests freeze"]
fn an_application() {
    if role().is_none() {
        return;
    }
    System::new().block_on(async {
        let unlimited = || pool().workers(1..=1).timeout(None).hung_worker_timeout(None);
        let clock = unlimited().timeout(LIMIT).start().expect("the pool starts");
        let guard = unlimited().hung_worker_timeout(LIMIT).start().expect("the pool starts");
        let waits = unlimited().wait_timeout(LIMIT).start().expect("the pool starts");
        let drains = unlimited().start().expect("the pool starts");
        let idle = unlimited().idle_checkout_timeout(LIMIT).start().expect("the pool starts");
        let begun = Scratch::path();
        let setup = Setup { script: Script::Steps(WORK), journal: begun.some(), ..Setup::default() };
        let sets_up = builder::<Probe>(setup).workers(1..=1).timeout(None).setup_timeout(LIMIT);
        let gentle = mules().timeout(Duration::from_millis(50)).kill_grace(LIMIT).start();
        let gentle = gentle.expect("the pool starts");
        let tidied = Scratch::path();

        for pool in [&clock, &guard, &waits, &drains, &idle] {
            answer(pool.send(Pid)).await.expect("a worker");
        }
        gentle.ready().await.expect("a worker");
        let slow = Trick::HeedTermSlowly(WORK, tidied.get().to_owned());
        let gentle_worker = failure(gentle.send(slow)).await.pid().expect("a worker");
        let held = idle.checkout().start();
        answer(held.send(Pid)).await.expect("a worker");
        let since = Instant::now();
        let sets_up = sets_up.start().expect("the pool starts");
        let mut calls: Vec<_> = [&clock, &guard, &waits, &waits, &drains]
            .map(|pool| pool.send(Steps(WORK)))
            .into_iter()
            .map(actix_rt::spawn)
            .collect();
        let ready = sets_up.send(Steps(1));
        calls.push(actix_rt::spawn(async move { ready.await.map(|_| WORK) }));
        until("all of them run", || {
            let runs = |pool: &PoolHandle<Probe>| pool.stats().waited.count() == 2;
            [&clock, &guard, &waits, &drains].into_iter().all(runs) && begun.lines().len() == 1
        })
        .await;
        let stopping = drains.clone();
        let stopped = actix_rt::spawn(async move { stopping.stop(LIMIT).await });
        println!("runs");

        until("the limit of the holder would have passed", || since.elapsed() > LIMIT).await;
        let kept = answer(held.send(Pid)).await;
        println!("idle {kept:?}.");
        for (name, call) in ["clock", "guard", "works", "waits", "drains", "sets up"].into_iter().zip(calls) {
            println!("{name} {:?}.", bounded("an answer", call).await.expect("no panic"));
        }
        println!("left {}.", bounded("the end", stopped).await.expect("no panic").left.len());
        until("the worker has ended", || !runs(gentle_worker)).await;
        println!("tidied up: {}", tidied.get().exists());
    });
}

/// Has these processes stand still. The time that passes is what is tested.
async fn freeze(processes: &[u32]) {
    for &process in processes {
        signal(process, Signal::STOP);
    }
    until("all of them stand still", || processes.iter().all(|&process| state(process) == Some('T'))).await;
    std::thread::sleep(FROZEN);
    for &process in processes {
        signal(process, Signal::CONT);
    }
}

/// Freezes some processes of the application, and checks that no limit has passed for it.
fn survives(frozen: impl FnOnce(&Application) -> Vec<u32>) {
    run(async {
        let mut application = Application::start("frozen::an_application", "");
        application.says("runs");
        let frozen = frozen(&application);
        let is_frozen = frozen.contains(&application.pid());
        freeze(&frozen).await;
        let mut passed = Vec::new();
        let kept = application.says("idle ");
        // An application that runs meanwhile holds its worker for too long indeed.
        if is_frozen && !kept.starts_with("Ok(") {
            passed.push(("idle", kept));
        }
        for call in ["clock", "guard", "works", "waits", "drains", "sets up"] {
            let answer = application.says(&format!("{call} "));
            if answer != format!("Ok({WORK}).") {
                passed.push((call, answer));
            }
        }
        assert_eq!(application.says("left "), "0.");
        let tidied = application.says("tidied up: ");
        if tidied != "true" {
            passed.push(("grace", tidied));
        }
        assert!(passed.is_empty(), "{passed:#?}");
        assert!(application.ends().success());
    });
}

/// G10: each limit: of a call, of a wait for a worker, of the watchdog, of a set-up, of a drain, of a holder and of a grace.
#[test]
fn a_group_that_was_frozen_finds_no_limit_passed() {
    survives(Application::family);
}

/// G10
#[test]
fn an_application_that_was_frozen_alone_finds_no_limit_passed() {
    survives(|application| vec![application.pid()]);
}

/// G10: of the servers alone; everything else goes on.
#[test]
fn servers_that_were_frozen_alone_find_no_limit_passed() {
    survives(|application| children(application.pid()));
}

/// G10, W11
#[test]
fn a_server_that_was_frozen_still_ends_what_hangs() {
    run(async {
        let pool = pool().workers(1..=1).hung_worker_timeout(Duration::from_millis(300));
        let pool = pool.timeout(None).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        answer(checkout.send(Pid)).await.expect("a worker");
        let server = servers()[0];
        let call = checkout.send(Steps(100));
        signal(server, Signal::STOP);
        assert_eq!(answer(call).await, Ok(100), "a call needs no server");
        signal(server, Signal::CONT);
        assert_eq!(failure(checkout.send(Spin)).await.kind(), FailureKind::Hung);
    });
}

/// G10, T3, W11: the worker alone stands still, which is a hang.
#[test]
fn a_worker_that_is_frozen_alone_hangs() {
    run(async {
        let limit = Duration::from_millis(300);
        let clock = mules().timeout(limit).hung_worker_timeout(None);
        let guard = mules().hung_worker_timeout(limit);
        for (pool, kind) in [(clock, FailureKind::Timeout), (guard, FailureKind::Hung)] {
            let pool = pool.start().expect("the pool starts");
            let checkout = pool.checkout().start();
            let worker = answer(checkout.send(Trick::Nothing)).await.expect("a pid");
            let runs = Scratch::path();
            let call = checkout.send(Trick::IgnoreTerm(runs.get().to_owned()));
            let call = actix_rt::spawn(async move { call.await.answer() });
            until("it runs", || runs.get().exists()).await;
            signal(worker, Signal::STOP);
            let stopped = bounded("an answer", call).await.expect("no panic").expect_err("a failure");
            assert_eq!(stopped.kind(), kind);
            gone(worker).await;
        }
    });
}

/// G10, T3: an application that computes is not frozen, so a call that is over its limit has none left.
#[test]
fn an_arbiter_that_computes_is_not_taken_for_frozen() {
    run(async {
        let pool =
            pool().workers(1..=1).timeout(Duration::from_millis(500)).start().expect("the pool starts");
        let call = pool.send(Spin);
        until("it runs", || pool.stats().waited.count() == 1).await;
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        let began = Instant::now();
        assert_eq!(failure(call).await.kind(), FailureKind::Timeout);
        assert!(began.elapsed() < PATIENCE, "the time it computed is made up for once at most");
    });
}
