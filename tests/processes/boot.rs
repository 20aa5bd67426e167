//! How a program becomes its own fork server, whatever it is and wherever it was started.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::*;
use actix::prelude::*;
use forkpool::StartError;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

/// W1
#[test]
fn a_program_with_many_threads_at_work_starts_a_pool() {
    run(async {
        let over = Arc::new(AtomicBool::new(false));
        let busy = [(); 4].map(|()| {
            let over = over.clone();
            // Locks that would stay locked for ever in a process forked from this one: the allocator's, the
            // environment's and those of the standard streams.
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    drop(std::hint::black_box(vec![0_u8; 4096]));
                    let _ = (std::env::var("PATH"), std::io::stdout().lock(), std::io::stderr().lock());
                }
            })
        });
        for _ in 0..10 {
            let pool = pool().workers(3..=3).start().expect("the pool starts");
            assert_eq!(answer(pool.send(Setups)).await, Ok(1));
            assert_eq!(answer(pool.send(Print(1))).await, Ok(()));
            assert_eq!(threads(the_server().await), 1);
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
        over.store(true, Ordering::Relaxed);
        busy.into_iter().for_each(|thread| thread.join().expect("a thread"));
    });
}

/// What the tests below run from a file that they take away.
#[test]
#[ignore = "an application that other tests run"]
fn an_application() {
    if role().is_none() {
        return;
    }
    // It has no runtime before the file is gone.
    println!("ready");
    wait_to_go_on();
    System::new().block_on(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        let pid = answer(pool.send(Pid)).await.expect("a worker");
        println!("served by {}", comm(pid));
        let server = the_server().await;
        kill(server);
        until("there is another server", || servers().len() == 1 && servers() != [server]).await;
        // A new worker can only come from the new server.
        let checkouts = [(); 2].map(|()| pool.checkout().start());
        for checkout in &checkouts {
            assert!(answer(checkout.send(Exit(0))).await.is_err());
        }
        let again = answer(pool.send(Pid)).await.expect("a worker");
        println!("served again by {}", comm(again));
        bounded("the end", pool.stop(Duration::ZERO)).await;
        println!("left: {}", servers().len());
    });
}

/// Runs a copy of this program whose file is changed before it starts its first pool.
fn starts_pools_from_a_file_that_was_changed(change: impl FnOnce(&std::path::Path)) {
    run(async {
        let ours = std::env::current_exe().expect("this program");
        let copy = Scratch::beside(&ours);
        // A second name for the file is as good as a copy, and takes no room on the disk.
        std::fs::hard_link(ours, copy.get()).expect("a second name");
        let mut application = Application::start_from(copy.get(), "boot::an_application", "serve");
        application.says("ready");
        change(copy.get());
        application.go_on();
        assert!(application.says("served by").starts_with("probe/"));
        assert!(application.says("served again by").starts_with("probe/"));
        assert_eq!(application.says("left:"), "0");
        assert!(application.ends().success());
    });
}

/// W1, S3
#[test]
fn a_program_whose_file_was_deleted_still_starts_pools() {
    starts_pools_from_a_file_that_was_changed(|file| std::fs::remove_file(file).expect("a file"));
}

/// W1, S3
#[test]
fn a_program_whose_file_was_replaced_by_another_still_starts_its_own_workers() {
    starts_pools_from_a_file_that_was_changed(|file| {
        std::fs::remove_file(file).expect("a file");
        std::fs::write(file, "#!/bin/false\n").expect("another file");
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).expect("an executable");
    });
}

/// W1, S3
#[test]
fn a_program_started_from_anywhere_finds_itself() {
    starts_pools_from_a_file_that_was_changed(|file| {
        let elsewhere = file.with_extension("moved");
        std::fs::rename(file, &elsewhere).expect("a file");
        std::fs::remove_file(elsewhere).expect("a file");
    });
}

/// A worker whose `boot!` line was forgotten.
#[derive(Debug)]
struct Forgotten;

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(), Failure>")]
struct Nothing;

impl Actor for Forgotten {
    type Context = WorkerContext<Self>;
}

impl Worker for Forgotten {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Forgotten)
    }
}

impl Handler<Nothing> for Forgotten {
    type Result = Result<(), Failure>;

    fn handle(&mut self, Nothing: Nothing, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(())
    }
}

forkpool::interface!(Forgotten { Nothing });

/// S3
#[test]
fn a_forgotten_boot_line_is_told_with_the_line_to_add() {
    run(async {
        let error = Pool::<Forgotten>::builder(()).start().expect_err("it cannot be booted");
        assert!(matches!(error, StartError::NotBooted { short_name: "Forgotten", .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("forkpool::boot!(Forgotten);"), "{text}");
        assert!(text.contains(std::any::type_name::<Forgotten>()), "{text}");
        assert_eq!(servers(), [0; 0]);
    });
}

/// S3
#[test]
fn a_thread_without_an_arbiter_starts_a_pool_in_anothers() {
    run(async {
        let here = Arbiter::current();
        let pool = on_a_thread(move || {
            let pool = pool().workers(1..=1).start_in(&here).expect("the pool starts");
            (pool.send(Setups), pool)
        });
        let (call, pool) = pool.await;
        assert_eq!(answer(call).await, Ok(1));
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}
