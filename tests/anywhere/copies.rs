//! Copies of workers and servers that user code forks: none acts in its original's name, and none delays anything.

use std::time::Duration;

use forkpool::prelude::*;
use forkpool::{Ending, PoolBuilder};

use crate::amoeba::{Act, Amoeba, Division};
use crate::harness::*;
use crate::*;

tests! {
    a_copy_that_returns_from_a_handler_answers_nothing,
    a_copy_that_returns_does_not_hide_that_its_original_hangs,
    a_copy_prints_nothing_that_its_original_has_printed,
    a_copy_logs_nothing_in_the_name_of_its_original,
    copies_that_return_from_elsewhere_answer_nothing,
    a_copy_of_a_server_of_its_own_serves_nobody,
    a_copy_that_stays_delays_no_end_of_its_original,
    a_copy_of_the_application_delays_no_end_of_it,
    copies_are_recognized_where_pages_cannot_be_wiped,
}

fn amoebas(division: Division) -> PoolBuilder<Amoeba> {
    builder::<Amoeba>(division).workers(1..=1)
}

/// Has one worker make copies that return from its handlers, and sees that each call is answered by the original.
async fn divide_in_handlers() {
    let pool = amoebas(Division::Nowhere).start().expect("the pool starts");
    let checkout = pool.checkout().start();
    let worker = answer(checkout.send(Act::Nothing)).await.expect("a pid");
    for act in [Act::Divides, Act::CopyPanics, Act::CopyFails, Act::Divides, Act::Nothing] {
        let answered = answer(checkout.send(act.clone())).await;
        assert_eq!(answered, Ok(worker), "{act:?}");
    }
    drop(checkout);
    bounded("the end", pool.stop(Duration::ZERO)).await;
}

/// G5
fn a_copy_that_returns_from_a_handler_answers_nothing() {
    run(divide_in_handlers());
}

async fn hang_behind_a_copy() {
    let limit = Duration::from_millis(500);
    let pool = amoebas(Division::Nowhere).timeout(None).hung_worker_timeout(limit);
    let pool = pool.start().expect("the pool starts");
    let hung = failure(pool.send(Act::Hangs)).await;
    assert_eq!((hung.kind(), hung.limit()), (FailureKind::Hung, Some(limit)));
    bounded("the end", pool.stop(Duration::ZERO)).await;
}

/// G5, W11: the watchdog looks at what the worker notes.
fn a_copy_that_returns_does_not_hide_that_its_original_hangs() {
    run(hang_behind_a_copy());
}

/// G5, W7
fn a_copy_prints_nothing_that_its_original_has_printed() {
    keep_events();
    run(async {
        let pool = amoebas(Division::Nowhere).start().expect("the pool starts");
        answer(pool.send(Act::PrintsHalf)).await.expect("a pid");
        bounded("the end", pool.stop(Duration::ZERO)).await;
        let printed = events("forkpool::worker::output");
        let lines: Vec<&str> = printed.iter().map(Seen::message).collect();
        assert_eq!(lines, ["one half and the other"]);
    });
}

/// G5, E7
fn a_copy_logs_nothing_in_the_name_of_its_original() {
    run(async {
        let pool = amoebas(Division::Nowhere).start().expect("the pool starts");
        let died = failure(pool.send(Act::Logs(3))).await;
        assert_eq!((died.kind(), died.ending()), (FailureKind::Died, Some(Ending::Exited { code: 3 })));
        let told = format!("{died:#}");
        assert!(told.contains("of the original") && !told.contains("of the copy"), "{told}");
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// Has copies return from a place that is no handler.
async fn divide_at(division: Division) {
    let pool = amoebas(division).start().expect("the pool starts");
    let worker = answer(pool.send(Act::Nothing)).await.expect("a pid");
    for _ in 0..25 {
        assert_eq!(answer(pool.send(Act::Nothing)).await, Ok(worker), "{division:?}");
    }
    let server = the_server().await;
    until("the server has one child", || children(server) == [worker]).await;
    until("no copy is left", || !children(worker).into_iter().any(runs)).await;
    bounded("the end", pool.stop(Duration::ZERO)).await;
}

/// G5
fn copies_that_return_from_elsewhere_answer_nothing() {
    for division in [Division::Preload, Division::SetUp, Division::CheckoutDone] {
        run(divide_at(division));
    }
}

/// G5, S1
fn a_copy_of_a_server_of_its_own_serves_nobody() {
    run(async {
        let place = Place::new();
        let mut server = application("divided");
        let pool = Pool::<Amoeba>::connect(place.address()).workers(1..=1).transport(transport());
        let pool = pool.start().expect("the pool starts");
        let worker = answer(pool.send(Act::Nothing)).await.expect("a pid");
        for _ in 0..25 {
            assert_eq!(answer(pool.send(Act::Nothing)).await, Ok(worker));
        }
        until("the server has one child", || children(server.pid()) == [worker]).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
        signal(server.pid(), rustix::process::Signal::TERM);
        assert_eq!(server.says_either("good bye", "refused: "), None);
        assert!(server.ends().success());
        assert!(!place.0.exists(), "it is gone");
    });
}

/// G5, P12: of whatever kind the end is.
fn a_copy_that_stays_delays_no_end_of_its_original() {
    run(async {
        let pool = amoebas(Division::Nowhere).start().expect("the pool starts");
        for ends_by_itself in [false, true] {
            let file = Scratch::path();
            let checkout = pool.checkout().start();
            let worker = answer(checkout.send(Act::CopyStays(file.get().to_owned()))).await.expect("a pid");
            let copy: u32 = std::fs::read_to_string(file.get()).expect("a file").parse().expect("a pid");
            if ends_by_itself {
                let died = failure(checkout.send(Act::Logs(3))).await;
                assert_eq!(died.ending(), Some(Ending::Exited { code: 3 }));
            } else {
                let call = checkout.send(Act::Hangs);
                answer(async { checkout.send(Abort("enough".to_owned())).await }).await;
                assert_eq!(failure(call).await.kind(), FailureKind::Aborted);
            }
            gone(worker).await;
            until("its copy, which is of its group, has ended", || !runs(copy)).await;
        }
        let report = bounded("the end", pool.stop(Duration::ZERO)).await;
        assert!(report.is_complete(), "{report}");
    });
}

/// G5, S5
fn a_copy_of_the_application_delays_no_end_of_it() {
    run(async {
        let mut application = application("divides");
        let told = application.says("pids");
        let pids: Vec<u32> = told.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect();
        let [server, worker, copy] = pids[..] else { panic!("{told}") };
        application.kill();
        application.ends();
        until("server and worker have ended", || !runs(server) && !runs(worker)).await;
        assert!(runs(copy), "nothing had to wait for it");
        kill(copy);
        until("it has ended", || !runs(copy)).await;
    });
}

/// G5, G7
fn copies_are_recognized_where_pages_cannot_be_wiped() {
    run(async {
        let mut application = application("amoebas refuse=madvise:ENOSYS");
        assert_eq!(application.says_either("all is well", "skipped: "), None);
        assert!(application.ends().success());
    });
}

/// An application whose workers divide.
pub async fn amoebas_of_an_application() {
    divide_in_handlers().await;
    hang_behind_a_copy().await;
    divide_at(Division::SetUp).await;
    divide_at(Division::Preload).await;
    println!("all is well");
}

/// An application that forks, whose copy stays.
pub async fn dividing_application() {
    let pool = amoebas(Division::Nowhere).start().expect("the pool starts");
    let worker = answer(pool.send(Act::Nothing)).await.expect("a pid");
    let server = the_server().await;
    match fork::fork().expect("a fork") {
        // The other threads of this process are not in the copy.
        fork::Fork::Child => loop {
            std::thread::sleep(Duration::from_secs(60));
        },
        fork::Fork::Parent(copy) => println!("pids {server} {worker} {copy}"),
    }
    std::future::pending().await
}
