//! Ends of workers that their server does not report, since it is stopped or has ended as well, and supervisors whose
//! arbiter stands still.

use std::sync::mpsc::channel;
use std::time::Duration;

use crate::harness::*;
use actix::MailboxError;
use actix::prelude::*;
use forkpool::prelude::*;
use rustix::process::{Signal, set_child_subreaper};
use serde::{Deserialize, Serialize};

/// Whether the process has ended; it may not be reaped.
fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
}

/// P8
#[test]
fn an_idle_worker_that_dies_while_its_server_is_stopped_is_noticed_with_nobody_asking() {
    run(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        settled(&pool, 2).await;
        let server = the_server().await;
        // The one that was used last would be the next.
        let dead = answer(pool.send(Pid)).await.expect("a pid");
        settled(&pool, 2).await;
        signal(server, Signal::STOP);
        kill(dead);
        until("it is not idle any more", || pool.stats().idle == 1).await;
        let other = answer(pool.send(Pid)).await.expect("the other worker");
        assert_ne!(other, dead);
        assert!(exists(dead), "its server has not reaped it");
        assert_eq!(pool.stats().workers(), 2, "it counts until then");
        signal(server, Signal::CONT);
        settled(&pool, 2).await;
    });
}

/// P8, E7: nothing is claimed that is not known.
#[test]
fn a_busy_worker_that_dies_while_its_server_is_stopped_is_reported_as_it_is() {
    run(async {
        let pool = pool().workers(1..=1).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let worker = pid(&checkout).await;
        let server = the_server().await;
        signal(server, Signal::STOP);
        let spinning = checkout.send(Spin);
        kill(worker);
        let died = failure(spinning).await;
        assert_eq!(died.kind(), FailureKind::Died);
        assert!(!died.to_string().contains("closed its channel"), "{died}");
        assert_eq!(died.ending(), Some(Ending::Unknown), "{died}");
        signal(server, Signal::CONT);
        drop(checkout);
        answer(pool.send(Pid)).await.expect("another worker");
    });
}

/// W3: the set-up did not fail by itself.
#[test]
fn a_worker_in_set_up_that_ends_after_its_server_lets_the_call_wait_for_the_next() {
    run(async {
        let (hangs, journal) = (Scratch::file(), Scratch::file());
        let setup = Setup {
            script: Script::Hang,
            only_while: hangs.some(),
            journal: journal.some(),
            ..Setup::default()
        };
        let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
        let called = pool.send(Pid);
        until("the set-up runs", || journal.lines().len() == 1).await;
        let worker: u32 = journal.lines()[0].parse().expect("a pid");
        hangs.remove();
        let server = the_server().await;
        kill(server);
        until("there is another server", || servers().iter().any(|&other| other != server)).await;
        kill(worker);
        let next = answer(called).await.expect("the next worker");
        assert_ne!(next, worker);
    });
}

/// P12: an application that adopts the orphans of its servers.
#[test]
#[ignore = "an application that other tests run"]
fn an_adopter() {
    if role().is_none() {
        return;
    }
    let own = rustix::process::getpid();
    set_child_subreaper(Some(own)).expect("it adopts orphans");
    System::new().block_on(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        settled(&pool, 2).await;
        let server = pool.server_stats().await.expect("a server").pid;
        signal(server, Signal::STOP);
        let workers = pool.stats().pids;
        workers.iter().copied().for_each(kill);
        until("they have ended", || workers.iter().copied().all(has_ended)).await;
        kill(server);
        until("they are reaped", || workers.iter().all(|&worker| !exists(worker))).await;
        settled(&pool, 2).await;
        let report = bounded("the end", pool.stop(Duration::ZERO)).await;
        println!("left: {report}, {} children", children(std::process::id()).len());
    });
}

/// P12
#[test]
fn workers_that_end_before_their_stopped_server_does_are_reaped() {
    run(async {
        let mut application = Application::start("unreported::an_adopter", "adopter");
        assert_eq!(application.says("left:"), "nothing is left, 0 children");
        assert!(application.ends().success());
    });
}

/// A worker whose first set-up of all kills the server while that forks others.
struct Parricide;

impl Actor for Parricide {
    type Context = WorkerContext<Self>;
}

impl Worker for Parricide {
    /// A path at which nothing is until then.
    type Config = std::path::PathBuf;

    fn setup(once: Self::Config, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        if std::fs::File::create_new(once).is_ok() {
            let server = rustix::process::getppid().ok_or_else(|| SetupError::new("no parent"))?;
            rustix::process::kill_process(server, Signal::KILL)?;
        }
        Ok(Parricide)
    }
}

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(), Failure>")]
struct Muster;

impl Handler<Muster> for Parricide {
    type Result = Result<(), Failure>;

    fn handle(&mut self, Muster: Muster, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(())
    }
}

forkpool::interface!(Parricide { Muster });
forkpool::boot!(Parricide);

/// P12: an application that adopts the orphans of its servers.
#[test]
#[ignore = "an application that other tests run"]
fn an_adopter_of_strangers() {
    if role().is_none() {
        return;
    }
    let own = rustix::process::getpid();
    set_child_subreaper(Some(own)).expect("it adopts orphans");
    // A child of the application's, which the library has to leave alone.
    let mut child = std::process::Command::new("true").spawn().expect("a child");
    System::new().block_on(async {
        for _ in 0..5 {
            let once = Scratch::path();
            let pool = builder::<Parricide>(once.get().to_owned()).workers(16..=16).start();
            let pool = pool.expect("the pool starts");
            until("the workers are there", || pool.stats().idle == 16).await;
            let report = bounded("the end", pool.stop(Duration::ZERO)).await;
            assert!(report.is_complete(), "{report}");
        }
    });
    let left = children(std::process::id()).len();
    println!("left: {left} child, which ended with {}", child.wait().expect("it is not reaped"));
}

/// P12
#[test]
fn workers_that_were_forked_and_not_confirmed_are_reaped() {
    run(async {
        let mut application = Application::start("unreported::an_adopter_of_strangers", "strangers");
        assert_eq!(application.says("left:"), "1 child, which ended with exit status: 0");
        assert!(application.ends().success());
    });
}

/// P12: the arbiter of `start_in` computes, and another thread asks.
#[test]
fn an_arbiter_that_stands_still_keeps_neither_stop_nor_server_stats_silent() {
    run(async {
        let arbiter = Arbiter::new();
        let pool = pool().workers(1..=1).start_in(&arbiter.handle()).expect("the pool starts");
        bounded("workers", pool.ready()).await.expect("workers");
        let worker = pool.stats().pids[0];
        let server = the_server().await;
        let (go_on, gate) = channel::<()>();
        arbiter.spawn_fn(move || {
            // The other end is dropped in the end.
            let _ = gate.recv();
        });
        let stats = actix_rt::spawn(pool.server_stats());
        let report = bounded("the end", pool.stop(Duration::ZERO)).await;
        assert!(!report.is_complete());
        assert!(report.left.iter().any(|left| left.worker.is_none() && left.pid == Some(server)), "{report}");
        let line = report.to_string();
        assert!(
            line.ends_with("the arbiter that the pool was started in has not moved for 5s after the drain"),
            "{line}"
        );
        assert!(has_ended(worker), "it was killed all the same");
        let stats = bounded("an answer", stats).await.expect("a task");
        let failure = stats.expect_err("no figures");
        assert_eq!(failure.kind(), FailureKind::NoServer);
        assert!(failure.to_string().ends_with("has not moved for 5s"), "{failure}");
        assert_eq!(answer(pool.send(Pid)).await.map_err(|failure| failure.kind()), Err(FailureKind::Stopped));
        drop(go_on);
        until("the pool has ended", || !exists(server)).await;
        arbiter.stop();
        on_a_thread(move || arbiter.join().expect("the arbiter ends")).await;
    });
}

/// P12: the actor behind the first address ends with its arbiter, and the pool does not.
#[test]
fn a_pool_has_an_address_after_the_arbiter_that_started_it_has_ended() {
    run(async {
        let (pool, ended) = on_an_arbiter(|| async {
            let pool = pool().workers(1..=1).start().expect("the pool starts");
            let address = pool.addr();
            answer(address.send(Pid)).await.expect("a pid");
            (pool, address)
        })
        .await;
        assert_eq!(ended.send(Pid).await.map(drop), Err(MailboxError::Closed));
        answer(pool.addr().send(Pid)).await.expect("a pid");
        assert_eq!(pool.addr(), pool.addr(), "one actor is enough");
        bounded("the end", pool.stop(Duration::ZERO)).await;
        assert_eq!(failure(pool.addr().send(Pid)).await.kind(), FailureKind::Stopped);
    });
}
