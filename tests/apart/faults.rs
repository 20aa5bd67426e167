//! Servers that are full, stopped, or cannot be there at all.

use std::time::Duration;

use forkpool::Server;
use forkpool::prelude::*;
use rustix::process::Signal;

use crate::harness::*;
use crate::*;

tests! {
    of_servers_that_are_started_at_once_one_serves_and_the_others_name_it,
    a_server_with_threads_or_nowhere_to_listen_says_so,
    a_server_that_is_stopped_is_waited_for_and_goes_on,
    a_server_has_as_many_workers_as_it_may_and_recovers,
    a_server_has_as_many_clients_as_it_may_and_recovers,
    a_server_out_of_descriptors_says_so_and_recovers,
    a_server_out_of_processes_says_so_and_recovers,
    after_thousands_of_workers_a_server_holds_no_more_than_before,
}

/// S10
fn of_servers_that_are_started_at_once_one_serves_and_the_others_name_it() {
    run(async {
        let place = Place::new();
        let mut servers: Vec<Application> = (0..5).map(|_| server("")).collect();
        let mut outcomes: Vec<Option<String>> =
            servers.iter_mut().map(|server| server.says_either("serves", "refused:")).collect();
        let at = outcomes.iter().position(Option::is_none).expect("one serves");
        outcomes.remove(at);
        let winner = servers.remove(at);
        for (refusal, mut loser) in outcomes.into_iter().zip(servers) {
            let refusal = refusal.expect("all others are refused");
            assert!(refusal.contains(&format!("process {}", winner.pid())), "{refusal}");
            assert!(loser.ends().success());
        }
        let pool = place.start();
        let worker = served_by(&pool).await;
        assert!(children(winner.pid()).contains(&worker));
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S9, S10
fn a_server_with_threads_or_nowhere_to_listen_says_so() {
    let server = || Server::<Probe>::new(Setup::default());
    let error = |server: Server<Probe>| server.run().expect_err("it cannot run").to_string();
    assert!(error(server()).contains("listen"), "{}", error(server()));
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv());
    let told = error(server().listen("unix:/tmp/never-made").expect("an address"));
    assert!(told.contains("threads"), "{told}");
    drop(done);
    assert!(thread.join().expect("it waits").is_err());
    let long = format!("unix:/{}", "x".repeat(107));
    for (address, expected) in [("udp:127.0.0.1:1", "unix:/path"), (&*long, "at most 107")] {
        let told = server().listen(address).expect_err("no address").to_string();
        assert!(told.contains(expected), "{told}");
    }
    for (address, expected) in [
        ("unix:/no/such/directory/a.sock", "No such file or directory"),
        ("unix:/proc/a.sock", "/proc/a.sock"),
        ("systemd:", "it has passed nothing"),
    ] {
        let told = server().listen(address).expect("an address").run().expect_err("it cannot run");
        assert!(format!("{told:?}").contains(expected), "{told:?}");
    }
    let told = error(server().max_clients(0).listen("unix:/tmp/never-made").expect("an address"));
    assert!(told.contains("option max_clients cannot be 0"), "{told}");
    let told = server().group("no such group").expect_err("there is none");
    assert!(format!("{told:?}").contains("there is no group"), "{told:?}");
}

/// T7: who is stopped is no more and no less there than who is slow.
fn a_server_that_is_stopped_is_waited_for_and_goes_on() {
    run(async {
        let place = Place::new();
        let server = serving("");
        let running = place.start();
        let pid = served_by(&running).await;
        signal(server.pid(), Signal::STOP);
        assert_eq!(served_by(&running).await, pid, "a worker does not need it");
        let late = place.start();
        let failed = failure(late.send_within(Duration::from_millis(100), Pid)).await;
        assert_eq!(failed.kind(), FailureKind::NoServer, "{failed:#}");
        let early = late.send(Pid);
        signal(server.pid(), Signal::CONT);
        answer(early).await.expect("it goes on");
        for pool in [running, late] {
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

/// A failure that says this, of a call that gets no worker.
async fn is_refused(pool: &PoolHandle<Probe>, why: &str) {
    let mut told = String::new();
    for _ in 0..50 {
        let failed = failure(pool.send_within(Duration::from_millis(200), Pid)).await;
        told = format!("{failed:#}");
        if told.contains(why) {
            return;
        }
    }
    panic!("never {why:?}: {told}");
}

/// S9, P3
fn a_server_has_as_many_workers_as_it_may_and_recovers() {
    run(async {
        let place = Place::new();
        let server = serving("workers=2");
        let first = place.pool().workers(2..=2).start().expect("the pool starts");
        settled(&first, 2).await;
        let second = place.start();
        is_refused(&second, "the server is full: it has max_workers, 2").await;
        assert_eq!(children(server.pid()).len(), 2);
        bounded("the end", first.stop(Duration::ZERO)).await;
        answer(second.send(Pid)).await.expect("there is room now");
        bounded("the end", second.stop(Duration::ZERO)).await;
    });
}

/// S9
fn a_server_has_as_many_clients_as_it_may_and_recovers() {
    run(async {
        let place = Place::new();
        let mut server = serving("clients=1");
        let first = place.start();
        served_by(&first).await;
        let second = place.start();
        is_refused(&second, "the server is full: it has 1 clients, its max_clients").await;
        server.tells("turned away").await;
        bounded("the end", first.stop(Duration::ZERO)).await;
        answer(second.send(Pid)).await.expect("there is room now");
        bounded("the end", second.stop(Duration::ZERO)).await;
    });
}

/// S9
fn a_server_out_of_descriptors_says_so_and_recovers() {
    run(async {
        let place = Place::new();
        let server = serving("descriptors=18");
        let first = place.start();
        served_by(&first).await;
        let (mut served, mut refused) = (vec![first], Vec::new());
        let pools: Vec<_> = (0..12).map(|_| place.start()).collect();
        for pool in pools {
            match answer(pool.send_within(Duration::from_secs(1), Pid)).await {
                Ok(_) => served.push(pool),
                Err(failure) => refused.push((pool, format!("{failure:#}"))),
            }
        }
        assert!(!refused.is_empty(), "{} served", served.len());
        served_by(&served[0]).await;
        for (_, told) in &refused {
            let clear = told.contains("Too many open files") || told.contains("limit of descriptors");
            assert!(clear, "{told}");
        }
        assert!(runs(server.pid()));
        for pool in served {
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
        let (last, _) = refused.pop().expect("one that was refused");
        for (pool, _) in refused {
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
        answer(last.send(Pid)).await.expect("there is room now");
        bounded("the end", last.stop(Duration::ZERO)).await;
    });
}

/// S9: as somebody who is not root, whom the system lets have any number of processes.
fn a_server_out_of_processes_says_so_and_recovers() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be somebody else");
        return;
    }
    run(async {
        let place = Place::new();
        // The limit counts all processes of a user, so it is one of whom there are no others.
        let user = 100_000 + std::process::id();
        let mut server = Application::start_as(user, "an_application", "server processes=3");
        server.says("serves");
        let connect = || place.pool().trust_user(user);
        let first = connect().workers(2..=2).start().expect("the pool starts");
        settled(&first, 2).await;
        let second = connect().start().expect("the pool starts");
        is_refused(&second, "Resource temporarily unavailable").await;
        assert!(runs(server.pid()));
        bounded("the end", first.stop(Duration::ZERO)).await;
        answer(second.send(Pid)).await.expect("there is room now");
        bounded("the end", second.stop(Duration::ZERO)).await;
    });
}

/// The variable that says of how many workers the soak is; usually it is a short one.
const SOAK: &str = "FORKPOOL_SOAK";

/// What may not grow with the number of workers there have been.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    children: usize,
    threads: usize,
}

/// Bytes by which its memory may have grown all the same: a step of the allocator's, whatever the number of workers.
const ONE_STEP: u64 = 256 << 10;

impl Holdings {
    fn of(server: u32) -> Self {
        Holdings {
            descriptors: descriptors_of(server).len(),
            children: children(server).len(),
            threads: threads(server),
        }
    }
}

/// S8
fn after_thousands_of_workers_a_server_holds_no_more_than_before() {
    let count: u64 = std::env::var(SOAK).map_or(3000, |count| count.parse().expect("a number"));
    run(async {
        let place = Place::new();
        let mut server = serving("");
        server.is_not_listened_to();
        let unused = Holdings::of(server.pid());
        let lives = |until: u64| {
            let place = &place;
            async move {
                let mut forked = 0;
                while forked < until {
                    let pool = place.pool().workers(2..=2).max_checkouts(1).start().expect("the pool starts");
                    let most = (until - forked).min(500);
                    while pool.stats().forked < most {
                        match answer(pool.send(Exit(0))).await.map_err(|failure| failure.kind()) {
                            Ok(()) | Err(FailureKind::Died) => {}
                            Err(other) => panic!("{other:?}"),
                        }
                        answer(pool.send(Setups)).await.expect("a worker");
                    }
                    forked += pool.stats().forked;
                    bounded("the end", pool.stop(Duration::ZERO)).await;
                }
            }
        };
        lives(500).await;
        until("it is at rest", || Holdings::of(server.pid()) == unused).await;
        let data = memory_of(server.pid(), "VmData");
        lives(count).await;
        let grown = memory_of(server.pid(), "VmData").saturating_sub(data);
        assert!(grown <= ONE_STEP, "{grown} bytes more after {count} workers");
        until("everything is as it was", || Holdings::of(server.pid()) == unused).await;
    });
}
