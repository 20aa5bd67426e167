//! What ends, ends in bounded time, and says what is missing.

use std::time::Duration;

use crate::harness::*;
use actix::prelude::*;
use forkpool::prelude::*;
use rustix::process::{Signal, set_child_subreaper};
use serde::{Deserialize, Serialize};

/// P12
#[test]
fn a_pool_whose_server_is_stopped_ends_all_the_same() {
    run(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        pool.ready().await.expect("workers");
        let server = the_server().await;
        signal(server, Signal::STOP);
        let stats = failure_of(bounded("an answer", pool.server_stats()).await);
        assert_eq!(stats.kind(), FailureKind::NoServer);
        let line = stats.to_string();
        assert!(
            line.contains(&format!("the fork server (pid {server})")) && line.contains("stopped"),
            "{line}"
        );
        let report = bounded("the end", pool.stop(Duration::ZERO)).await;
        assert!(report.is_complete(), "{report}");
        assert_eq!(descendants(std::process::id()), [0; 0]);
        // What is asked later finds no pool.
        assert_eq!(failure_of(pool.server_stats().await).kind(), FailureKind::Stopped);
    });
}

fn failure_of<T>(result: Result<T, Failure>) -> Failure {
    result.err().expect("a failure")
}

/// P12
#[test]
fn a_timeout_says_that_the_process_it_waited_for_is_stopped() {
    run(async {
        let limit = Duration::from_millis(300);
        let pool = pool().workers(1..=2).timeout(limit).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        signal(pid(&checkout).await, Signal::STOP);
        let line = failure(checkout.send(Pid)).await.to_string();
        assert!(line.ends_with("its process is stopped"), "{line}");
        drop(checkout);

        // The only worker is held, and the server cannot fork another one.
        let held = pool.checkout().start();
        pid(&held).await;
        let server = the_server().await;
        signal(server, Signal::STOP);
        let failure = failure(pool.send(Pid)).await;
        let line = failure.to_string();
        assert!(line.ends_with(&format!("the fork server (pid {server}) is stopped")), "{line}");
        signal(server, Signal::CONT);
        answer(pool.send_within(PATIENCE, Pid)).await.expect("a pid");
    });
}

/// P12
#[test]
fn a_worker_that_is_stopped_ends_with_its_pool() {
    run(async {
        let pool = pool().workers(1..=1).start().expect("the pool starts");
        let worker = answer(pool.send(Pid)).await.expect("a pid");
        signal(worker, Signal::STOP);
        let report = bounded("the end", pool.stop(Duration::ZERO)).await;
        assert!(report.is_complete(), "{report}");
        assert!(!exists(worker));
    });
}

/// P12: an application that adopts the orphans of its servers, as process 1 of a container does.
#[test]
#[ignore = "an application that other tests run"]
fn a_subreaper() {
    if role().is_none() {
        return;
    }
    let own = rustix::process::getpid();
    set_child_subreaper(Some(own)).expect("it adopts orphans");
    System::new().block_on(async {
        let millisecond = Duration::from_millis(1);
        let restart = Backoff::new().first(millisecond).most(millisecond);
        let pool = pool().workers(4..=4).restart(restart).start().expect("the pool starts");
        for _ in 0..10 {
            while pool.ready().await.is_err() || pool.server_stats().await.is_err() {}
            let workers = pool.stats().pids;
            kill(pool.server_stats().await.expect("a server").pid);
            // Idle workers of a server that is gone serve on; so that they end, too.
            workers.iter().for_each(|&worker| signal(worker, Signal::KILL));
            until("they are reaped", || workers.iter().all(|&worker| !exists(worker))).await;
        }
        let report = bounded("the end", pool.stop(Duration::ZERO)).await;
        println!("left: {report}, {} children", children(std::process::id()).len());
    });
}

/// P12
#[test]
fn an_application_that_adopts_orphans_reaps_the_workers_of_its_dead_servers() {
    run(async {
        let mut application = Application::start("bounded_end::a_subreaper", "subreaper");
        assert_eq!(application.says("left:"), "nothing is left, 0 children");
        assert!(application.ends().success());
    });
}

/// A worker whose server is killed soon after it is up.
struct Orphan;

impl Actor for Orphan {
    type Context = WorkerContext<Self>;
}

impl Worker for Orphan {
    type Config = std::path::PathBuf;

    fn setup(_: Self::Config, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Orphan)
    }

    fn preload(journal: &Self::Config, _: &mut Preload) -> Result<(), SetupError> {
        use std::io::Write;
        let mut file = std::fs::File::options().append(true).open(journal)?;
        writeln!(file, "{}", std::process::id())?;
        let assassin = std::process::Command::new("sh").args(["-c", "sleep 0.2; kill -9 $PPID"]).spawn();
        assassin.map(drop).map_err(SetupError::from)
    }
}

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(), Failure>")]
struct Muster;

impl Handler<Muster> for Orphan {
    type Result = Result<(), Failure>;

    fn handle(&mut self, Muster: Muster, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(())
    }
}

forkpool::interface!(Orphan { Muster });
forkpool::boot!(Orphan);

/// G11
#[test]
fn a_server_that_ends_early_again_is_started_after_a_wait() {
    run(async {
        let journal = Scratch::file();
        let hour = Duration::from_secs(3600);
        let restart = Backoff::new().first(hour).most(hour);
        let pool = builder::<Orphan>(journal.get().to_owned()).workers(1..=1).restart(restart).start();
        let pool = pool.expect("the pool starts");
        until("two servers ended", || journal.lines().len() >= 2).await;
        until("there is none", || servers().is_empty()).await;
        assert_eq!(journal.lines().len(), 2, "the first early end costs no wait, the second one does");
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}
