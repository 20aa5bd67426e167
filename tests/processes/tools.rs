//! Pools under debuggers and other tools.

use std::time::Duration;

use crate::harness::*;
use actix::System;
use forkpool::prelude::*;
use rustix::process::Signal;

/// Whether a program is there; says so if it is not.
fn has(program: &str) -> bool {
    let found = std::process::Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// An application: calls, a worker that is killed, one that exits, and a stop.
#[test]
#[ignore = "an application that other tests run"]
fn an_application_under_a_tool() {
    if role().is_none() {
        return;
    }
    System::new().block_on(async {
        // Whatever runs under a debugger takes its time.
        let limit = Duration::from_secs(60);
        let pool = match pool().workers(1..=1).timeout(limit).start() {
            Ok(pool) => pool,
            Err(error) => return println!("refused: {error}: {:?}", std::error::Error::source(&error)),
        };
        let Ok(_) = pool.send(Pid).await else { return println!("failed") };
        let hung = pool.send_within(Duration::from_secs(1), Spin).await.expect_err("it hangs");
        let died = pool.send(Exit(3)).await.expect_err("it exits");
        let echo = pool.send(Echo(vec![7; 100_000])).await.expect("the same");
        let report = pool.stop(Duration::ZERO).await;
        println!("all is well: {:?} {:?} {} {report}", hung.kind(), died.kind(), echo.len());
    });
}

/// What an application says under a tool, if it works there: `None`, or else why not.
fn under(words: &[&str]) -> Option<String> {
    let mut application = Application::start_within(words, "tools::an_application_under_a_tool", "tool");
    application.begins_within(6 * PATIENCE);
    let refused = application.says_either("all is well: Timeout Died 100000 nothing is left", "refused:");
    application.ends();
    refused
}

/// G7
#[test]
fn a_pool_works_under_strace() {
    if has("strace") {
        run(async {
            assert_eq!(under(&["strace", "-f", "-qq", "-o", "/dev/null"]), None);
        });
    }
}

/// G7: following the application, its fork server or its workers.
#[test]
fn a_pool_works_under_gdb() {
    if has("gdb") {
        for follows in ["parent", "child"] {
            run(async {
                let follow = format!("set follow-fork-mode {follows}");
                let words = ["gdb", "-nx", "-batch", "-ex", &follow, "-ex", "run", "--args"];
                assert_eq!(under(&words), None, "{follows}");
            });
        }
    }
}

/// G7: some do not know system calls that a pool cannot do without.
#[test]
fn a_pool_works_under_valgrind_or_says_why_not() {
    if has("valgrind") {
        run(async {
            let refused = under(&["valgrind", "-q", "--trace-children=yes"]);
            let names = |why: &String| why.contains("pidfd_open") && why.contains("Function not implemented");
            assert!(refused.as_ref().is_none_or(names), "{refused:?}");
        });
    }
}

/// Attaches `strace` to a process, and returns the tracer once it is there.
async fn trace(pid: u32) -> std::process::Child {
    let number = pid.to_string();
    let tracer = std::process::Command::new("strace").args(["-qq", "-o", "/dev/null", "-p", &number]).spawn();
    let tracer = tracer.expect("strace is there");
    until("it is traced", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    })
    .await;
    tracer
}

/// P12: nothing can reap a process before its debugger has taken note of its end.
#[test]
fn a_stop_ends_in_bounded_time_although_a_debugger_holds_the_server() {
    if has("strace") {
        run(async {
            let pool = pool_of_one();
            answer(pool.send(Pid)).await.expect("a pid");
            let server = the_server().await;
            let mut tracer = trace(server).await;
            signal(tracer.id(), Signal::STOP);
            let report = bounded("the end", pool.stop(Duration::ZERO)).await;
            let left: Vec<_> = report.left.iter().filter(|left| left.worker.is_none()).collect();
            assert_eq!(left.len(), 1, "{report}");
            assert_eq!(left[0].pid, Some(server), "{report}");
            tracer.kill().expect("it runs");
            tracer.wait().expect("a child");
            gone(server).await;
        });
    }
}

/// P12, T3: a debugger may stop a process once more when it is about to end, and nothing but the debugger gets it out of
/// that.
#[test]
fn a_worker_that_a_debugger_holds_at_its_end_costs_its_call_alone_and_is_named_by_the_stop() {
    if has("strace") {
        run(async {
            let pool = pool().workers(2..=2).start().expect("the pool starts");
            let checkout = pool.checkout().timeout(Duration::from_millis(300)).start();
            let worker = pid(&checkout).await;
            let mut tracer = trace(worker).await;
            signal(tracer.id(), Signal::STOP);
            let timed_out = failure(checkout.send(Spin)).await;
            assert_eq!((timed_out.kind(), timed_out.pid()), (FailureKind::Timeout, Some(worker)));
            drop(checkout);
            assert_ne!(answer(pool.send(Pid)).await.expect("the other worker"), worker);
            let report = bounded("the end", pool.stop(Duration::ZERO)).await;
            let left: Vec<_> = report.left.iter().map(|left| (left.pid, left.state.as_str())).collect();
            assert_eq!(left, [(Some(worker), "stopped by a debugger")], "{report}");
            tracer.kill().expect("it runs");
            tracer.wait().expect("a child");
            gone(worker).await;
        });
    }
}
