//! SIGTERM, SIGINT and SIGHUP that are sent to all processes of an application at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::*;
use actix::prelude::*;
use forkpool::Ending;
use forkpool::prelude::*;
use rustix::process::Signal;

const STOP_SIGNALS: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::HUP];

/// An application that finishes the calls that run when a signal asks it to stop. Its role is a word, and the name of a
/// temporary file for what it has to say where it has no output any more.
#[test]
#[ignore = "an application that other tests run"]
fn an_application() {
    let Some(role) = role() else {
        return;
    };
    let report = role.split_once(' ').map(|(_, name)| std::env::temp_dir().join(name));
    let asked = Arc::new(AtomicBool::new(false));
    for signal in STOP_SIGNALS {
        signal_hook::flag::register(signal.as_raw(), asked.clone()).expect("a handler");
    }
    System::new().block_on(async {
        let pool = pool().workers(5..=5).start().expect("the pool starts");
        settled(&pool, 5).await;
        let file = Scratch::path();
        let calls = [(); 5].map(|()| pool.send(AwaitFile(file.get().to_owned())));
        let calls = calls.map(actix_rt::spawn);
        until("five calls run", || pool.stats().leased == 5 && pool.stats().waiting == 0).await;
        println!("ready");
        until("it is asked to stop", || asked.load(Ordering::Relaxed)).await;
        let stop = actix_rt::spawn(pool.stop(PATIENCE));
        std::fs::write(file.get(), "").expect("a file");
        let mut served = 0;
        for call in calls {
            match call.await.expect("a task") {
                Ok(_) => served += 1,
                Err(failure) => println!("failed: {failure}"),
            }
        }
        stop.await.expect("a task");
        if let Some(report) = report {
            std::fs::write(report, served.to_string()).expect("a report");
        }
        println!("served {served}");
    });
}

/// G6: as `systemctl stop` does, the server and the workers first.
#[test]
fn a_stop_signal_to_all_processes_lets_running_calls_finish() {
    run(async {
        for stop in STOP_SIGNALS {
            let mut application = Application::start("stop_signals::an_application", "stop");
            application.says("ready");
            let mut family = application.family();
            family.sort_unstable_by_key(|&pid| pid == application.pid());
            assert_eq!(application.workforce().len(), 1 + 1 + 5);
            family.iter().for_each(|&pid| signal(pid, stop));
            assert_eq!(application.says_either("served 5", "failed: "), None, "{stop:?}");
            assert!(application.ends().success());
            assert_eq!(application.family(), [0; 0]);
        }
    });
}

/// G6: the application does not want to end.
#[test]
fn a_server_and_its_workers_go_on_after_a_stop_signal_of_others() {
    run(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        settled(&pool, 2).await;
        let server = the_server().await;
        let workers = children(server);
        for stop in STOP_SIGNALS {
            workers.iter().chain([&server]).for_each(|&pid| signal(pid, stop));
            assert!(workers.contains(&answer(pool.send(Pid)).await.expect("a worker")), "{stop:?}");
        }
        // The server still forks.
        assert!(answer(pool.send(Exit(3))).await.is_err());
        settled(&pool, 2).await;
        assert_eq!(servers(), [server]);
    });
}

/// G6: from its execution on.
#[test]
fn a_server_that_starts_goes_on_after_a_stop_signal_of_others() {
    run(async {
        for stop in STOP_SIGNALS.into_iter().cycle().take(12) {
            let pool = pool_of_one();
            let [server] = servers()[..] else { panic!("{:?}", servers()) };
            signal(server, stop);
            answer(pool.send(Pid)).await.expect("a worker");
            assert_eq!(servers(), [server], "{stop:?}");
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

/// G6
#[test]
fn a_preload_goes_on_after_a_stop_signal_of_others() {
    run(async {
        for stop in STOP_SIGNALS {
            let setup = Setup { preload: Script::Sleep(Duration::from_millis(300)), ..Setup::default() };
            let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
            let server = the_server().await;
            signal(server, stop);
            assert_eq!(answer(pool.send(PreloadedBy)).await, Ok(Some(server)), "{stop:?}");
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

/// T8, G6: the library's own signal is told from those of others.
#[test]
fn a_worker_without_a_handler_ends_at_once_when_the_library_asks_it_to() {
    run(async {
        // The test does not wait for the grace.
        let pool = mules().kill_grace(Duration::from_secs(3600)).start().expect("the pool starts");
        let worker = answer(pool.send(Trick::Nothing)).await.expect("a pid");
        settled(&pool, 1).await;
        let call = pool.send_within(Duration::from_millis(100), Trick::Spin(PATIENCE * 2));
        let timed_out = answer(call).await.expect_err("a timeout");
        assert_eq!((timed_out.kind(), timed_out.pid()), (FailureKind::Timeout, Some(worker)));
        gone(worker).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
        let pool = mules().hung_worker_timeout(Duration::from_millis(100));
        let pool = pool.kill_grace(Duration::from_secs(3600)).start().expect("the pool starts");
        let hung = answer(pool.send(Trick::Spin(PATIENCE * 2))).await.expect_err("it hangs");
        let signal = Signal::TERM.as_raw();
        assert_eq!(hung.kind(), FailureKind::Hung);
        assert_eq!(hung.ending(), Some(Ending::Signaled { signal, core_dumped: false }));
    });
}

/// G6: what a worker does itself about a signal is up to it.
#[test]
fn a_handler_of_a_workers_own_gets_the_signals_of_others() {
    run(async {
        let file = Scratch::path();
        let pool = mules().start().expect("the pool starts");
        let worker = answer(pool.send(Trick::Nothing)).await.expect("a pid");
        let call = actix_rt::spawn(pool.send(Trick::HeedTerm(file.get().to_owned())));
        until("it runs", || pool.stats().leased == 1).await;
        let worker = rustix::process::Pid::from_raw(i32::try_from(worker).expect("a pid")).expect("a pid");
        // What comes before it has its handler is dropped.
        until("it has heeded one", || {
            // It may have ended just now.
            let _ = rustix::process::kill_process(worker, Signal::TERM);
            file.get().exists()
        })
        .await;
        let ended = answer(async { call.await.expect("a task") }).await.unwrap_err();
        assert_eq!(ended.ending(), Some(Ending::Exited { code: 7 }));
    });
}

/// G6, G12: a program that a worker executes is no worker.
#[test]
fn a_program_that_a_handler_has_started_ends_by_any_stop_signal() {
    run(async {
        let pool = pool_of_one();
        for stop in STOP_SIGNALS {
            let checkout = pool.checkout().start();
            let program = answer(checkout.send(StartChild)).await.expect("a child");
            until("it is executed", || comm(program) == "sleep").await;
            for (field, mask) in signal_masks(program) {
                assert_eq!(mask & (1 << (stop.as_raw() - 1)), 0, "{field} of {program}");
            }
            signal(program, stop);
            until("it has ended", || !runs(program)).await;
        }
    });
}
