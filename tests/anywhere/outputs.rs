//! Servers and workers whose standard error cannot be written to, or whose subscriber panics.

use std::io::Read;
use std::time::Duration;

use forkpool::prelude::*;
use rustix::process::Signal;

use crate::harness::*;
use crate::picky::*;
use crate::*;

tests! {
    a_server_whose_standard_error_is_spoilt_serves,
    a_server_tells_how_many_events_it_dropped_once_there_is_room,
    a_subscriber_that_panics_once_ends_no_server,
    a_worker_whose_standard_error_is_spoilt_ends_as_it_would,
}

/// Has a server fork a worker, bury it, and fork another one, for a client that then goes away.
async fn is_served(place: &Place) {
    let pool = Pool::<Probe>::connect(place.address()).workers(1..=1).transport(transport());
    let pool = pool.start().expect("the pool starts");
    for _ in 0..3 {
        assert_eq!(failure(pool.send(Exit(3))).await.kind(), FailureKind::Died);
    }
    answer(pool.send(Setups)).await.expect("a worker");
    bounded("the end", pool.stop(Duration::ZERO)).await;
}

/// G1
fn a_server_whose_standard_error_is_spoilt_serves() {
    run(async {
        for spoilt in Spoilt::ALL {
            let place = Place::new();
            let (stderr, _unread) = spoilt.make();
            let mut server = Application::start_with_stderr(stderr, "an_application", "server log=stderr");
            is_served(&place).await;
            is_served(&place).await;
            signal(server.pid(), Signal::TERM);
            server.tells("good bye").await;
            assert!(server.ends().success(), "{spoilt:?}");
        }
    });
}

/// G1
fn a_server_tells_how_many_events_it_dropped_once_there_is_room() {
    run(async {
        let place = Place::new();
        let (stderr, unread) = Spoilt::FullPipe.make();
        let mut server = Application::start_with_stderr(stderr, "an_application", "server log=stderr");
        is_served(&place).await;
        let mut unread = unread.expect("the other end");
        let mut told = String::new();
        let reader = std::thread::spawn(move || unread.read_to_string(&mut told).map(|_| told));
        is_served(&place).await;
        signal(server.pid(), Signal::TERM);
        server.tells("good bye").await;
        assert!(server.ends().success());
        let told = reader.join().expect("it reads").expect("a text");
        let counted = told.lines().find(|line| line.contains("log events were dropped")).expect("a count");
        // It serves, a client came, and four workers with their ends: more than that if one was asked for early.
        let count = counted.split("count=").nth(1).and_then(|rest| rest.split_whitespace().next());
        let count: u64 = count.and_then(|count| count.parse().ok()).expect("a number");
        assert!(count >= 9, "{counted}");
        assert!(told.contains("takes no more work"), "{told}");
    });
}

/// G1
fn a_subscriber_that_panics_once_ends_no_server() {
    run(async {
        let place = Place::new();
        let mut server = application("server log=panics");
        is_served(&place).await;
        server.tells("log events were dropped").await;
        server.tells("a worker has ended").await;
        signal(server.pid(), Signal::TERM);
        server.tells("good bye").await;
        assert!(server.ends().success());
    });
}

/// G1: the panic of `checkout_done` is told on standard error, and no clock ends a worker that would wait there.
fn a_worker_whose_standard_error_is_spoilt_ends_as_it_would() {
    run(async {
        for spoilt in Spoilt::ALL {
            let pool = builder::<Picky>(Threads::None).workers(1..=1).timeout(None).hung_worker_timeout(None);
            let pool = pool.start().expect("the pool starts");
            let checkout = pool.checkout().start();
            let pid = answer(checkout.send(Spoil(spoilt))).await.expect("a worker");
            drop(checkout);
            gone(pid).await;
            assert_ne!(answer(pool.send(Who)).await.expect("another worker"), pid);
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}
