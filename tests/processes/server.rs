//! The fork server: how it starts, and what is left when it, its workers or its application die.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::harness::*;
use actix::prelude::*;
use forkpool::prelude::*;
use forkpool::{Backoff, Transport};

/// How long anything may outlive its application: the second that is promised, and as much again for a machine
/// that has other things to do.
const ONE_SECOND: Duration = Duration::from_secs(2);

/// A wait that no test lives to see the end of.
const NEVER: Backoff =
    Backoff::new().first(Duration::from_secs(3600)).most(Duration::from_secs(3600)).jitter(0.0);

/// S3
#[test]
fn the_first_call_needs_no_retry() {
    run(async {
        for _ in 0..20 {
            // A single retry would take longer than the test has.
            let pool = pool().workers(1..=1).restart(NEVER).start().expect("the pool starts");
            assert_eq!(answer(pool.send(Setups)).await, Ok(1));
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

/// S3
#[test]
fn no_socket_of_a_pool_has_a_name_in_the_file_system() {
    run(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        until("two are idle", || pool.stats().idle == 2).await;
        let server = the_server().await;
        let mut processes = vec![std::process::id(), server];
        processes.extend(children(server));
        let sockets: BTreeSet<String> = processes
            .into_iter()
            .flat_map(|pid| descriptors_of(pid).into_values())
            .filter_map(|it| Some(it.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        // At least both ends of the control channel, and of two workers' channels where these are sockets.
        let fewest = if transport() == Transport::Socket { 6 } else { 2 };
        assert!(sockets.len() >= fewest, "{sockets:?}");
        let listed = std::fs::read_to_string("/proc/net/unix").expect("the unix sockets");
        for line in listed.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields.get(6).is_some_and(|inode| sockets.contains(*inode)) {
                assert_eq!(fields.get(7), None, "{line}");
            }
        }
    });
}

/// What the tests below kill: an application with a worker in a tight loop and a child of that worker, another
/// worker that hangs in its set-up, and a server that hangs in its preload.
#[test]
#[ignore = "an application that other tests run and kill"]
fn an_application() {
    let Some(role) = role() else {
        return;
    };
    System::new().block_on(async move {
        let working = pool().workers(2..=2).start().expect("the pool starts");
        let checkout = working.checkout().timeout(None).start();
        let spinning = answer(checkout.send(Pid)).await.expect("a pid");
        answer(checkout.send(StartChild)).await.expect("a child");
        checkout.do_send(Spin);
        let hanging = Setup { script: Script::Hang, ..Setup::default() };
        let setting_up = builder::<Probe>(hanging).name("setup").workers(1..=1).start();
        let hanging = Setup { preload: Script::Hang, ..Setup::default() };
        let loading = builder::<Probe>(hanging).name("preload").workers(1..=1).start();
        let names = || servers().into_iter().map(comm).collect::<BTreeSet<_>>();
        until("three servers are there", || {
            names() == ["preload/server", "probe/server", "setup/server"].map(str::to_owned).into()
        })
        .await;
        until("everything runs", || {
            // Application and servers do not count: two workers, one's child, and the one that is set up.
            workforce(std::process::id()).len() == 3 + 4 && state(spinning) == Some('R')
        })
        .await;
        println!("ready");
        wait_to_go_on();
        match role.as_str() {
            "exit" => std::process::exit(0),
            "abort" => std::process::abort(),
            "panic" => panic!("told to"),
            // Everything is dropped, or was not told to go on.
            _ => drop((working, setting_up, loading)),
        }
    });
}

/// Ends an application in one way and checks that nothing of it runs a second later.
fn leaves_nothing(role: &str, end: impl FnOnce(&mut Application)) {
    run(async {
        let mut application = Application::start("server::an_application", role);
        application.says("ready");
        assert_eq!(application.workforce().len(), 1 + 3 + 4);
        end(&mut application);
        application.ends();
        nothing_runs(&application).await;
    });
}

/// Checks that nothing of a dead application runs a second later.
async fn nothing_runs(application: &Application) {
    let dead = Instant::now();
    // A process that is just being executed shows no environment, so nothing has to be seen more than once.
    let mut looks_in_vain = 0;
    while looks_in_vain < 5 && dead.elapsed() < ONE_SECOND {
        looks_in_vain = if application.family().is_empty() { looks_in_vain + 1 } else { 0 };
        actix_rt::time::sleep(Duration::from_millis(5)).await;
    }
    let left = application.family();
    let names: Vec<String> = left.iter().map(|&pid| format!("{} {}", comm(pid), args(pid))).collect();
    // A worker in a tight loop would go on for ever.
    left.iter().copied().filter(|&pid| runs(pid)).for_each(kill);
    assert!(left.is_empty(), "left after {:?}: {names:?}", dead.elapsed());
}

/// S5
#[test]
fn a_killed_application_leaves_nothing() {
    leaves_nothing("kill", Application::kill);
}

/// S5
#[test]
fn an_application_that_ends_by_a_signal_it_could_handle_leaves_nothing() {
    leaves_nothing("terminate", |application| {
        signal(application.pid(), rustix::process::Signal::TERM);
    });
}

/// S5
#[test]
fn an_application_that_exits_leaves_nothing() {
    leaves_nothing("exit", Application::go_on);
}

/// S5
#[test]
fn an_application_that_aborts_leaves_nothing() {
    leaves_nothing("abort", Application::go_on);
}

/// S5
#[test]
fn an_application_that_panics_leaves_nothing() {
    leaves_nothing("panic", Application::go_on);
}

/// S5
#[test]
fn an_application_whose_main_returns_leaves_nothing() {
    leaves_nothing("return", Application::go_on);
}

/// What the test below kills while it starts pools.
#[test]
#[ignore = "an application that other tests run and kill"]
fn an_application_that_starts_pools() {
    if role().is_none() {
        return;
    }
    System::new().block_on(async {
        println!("ready");
        let spin = async |_| {
            let pool = pool().workers(3..=3).timeout(None).start().expect("the pool starts");
            pool.do_send(Spin);
            actix_rt::time::sleep(Duration::from_millis(1)).await;
            pool
        };
        let mut pools = Vec::new();
        for number in 0..4 {
            pools.push(spin(number).await);
        }
        wait_to_go_on();
    });
}

/// S5
#[test]
fn an_application_killed_at_any_moment_of_its_start_leaves_nothing() {
    run(async {
        for round in 0..10_u32 {
            let mut application = Application::start("server::an_application_that_starts_pools", "start");
            application.says("ready");
            // The moments are spread over the time that the starts take.
            actix_rt::time::sleep(Duration::from_millis(1) * round).await;
            application.kill();
            application.ends();
            nothing_runs(&application).await;
        }
    });
}

/// S6
#[test]
fn a_call_that_runs_while_the_server_is_killed_goes_on() {
    run(async {
        let pool = pool().workers(2..=2).restart(NEVER).start().expect("the pool starts");
        until("two are idle", || pool.stats().idle == 2).await;
        let server = the_server().await;
        let checkout = pool.checkout().start();
        let pid = answer(checkout.send(Pid)).await.expect("a pid");
        let call = checkout.send(Slow(Duration::from_millis(100), 1));
        kill(server);
        assert_eq!(answer(call).await, Ok(1));
        assert_eq!(answer(checkout.send(Pid)).await, Ok(pid));
        until("there is another server", || servers().len() == 1 && servers() != [server]).await;
        drop(checkout);
        for _ in 0..5 {
            assert!(answer(pool.send(Pid)).await.is_ok());
        }
        until("two are idle", || pool.stats().idle == 2 && pool.stats().workers() == 2).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
        until("the worker of the dead server is gone, too", || !runs(pid)).await;
    });
}

/// S6, P2, P8
#[test]
fn a_server_that_is_killed_again_and_again_is_started_again() {
    run(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        for _ in 0..5 {
            until("two are idle", || pool.stats().idle == 2 && pool.stats().workers() == 2).await;
            let server = the_server().await;
            let pid = answer(pool.send(Pid)).await.expect("a pid");
            kill(server);
            until("there is another server", || servers().len() == 1 && servers() != [server]).await;
            assert!(answer(pool.send(Pid)).await.is_ok());
            // Nobody's child here, and noticed all the same.
            kill(pid);
            until("it has ended", || !runs(pid)).await;
            assert_ne!(answer(pool.send(Pid)).await.expect("a worker that lives"), pid);
        }
    });
}

/// What may not grow with the number of workers there have been.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    ours: usize,
    servers: usize,
    processes: usize,
    threads: usize,
}

impl Holdings {
    fn of(server: u32) -> Self {
        Holdings {
            ours: descriptors().len(),
            servers: descriptors_of(server).len(),
            processes: workforce(std::process::id()).len(),
            threads: threads(server),
        }
    }
}

/// What is held once that does not change any more: the channel of the next worker is made a little later.
async fn holdings_at_rest(server: u32) -> Holdings {
    let (mut last, mut alike) = (Holdings::of(server), 0);
    until("nothing changes any more", || {
        let now = Holdings::of(server);
        alike = if now == last { alike + 1 } else { 0 };
        last = now;
        alike == 200
    })
    .await;
    last
}

/// Has this many workers die, each in one of many ways, four at a time.
async fn die(pool: &PoolHandle<Probe>, count: u32) {
    let clients = (0..4).map(|client| {
        let pool = pool.clone();
        actix_rt::spawn(async move {
            for round in 0..count / 4 {
                let checkout = pool.checkout().start();
                match (client + round) % 5 {
                    0 => assert!(answer(checkout.send(Exit(0))).await.is_err()),
                    1 => assert!(answer(checkout.send(Raise(9))).await.is_err()),
                    2 => assert!(answer(checkout.send(Fail("no".to_owned()))).await.is_err()),
                    3 => assert!(answer(checkout.send(StopAfterwards)).await.is_ok()),
                    _ => {
                        assert!(answer(checkout.send(Pid)).await.is_ok());
                        answer(checkout.send(Abort("enough".to_owned()))).await;
                    }
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("a client");
    }
    until("the pool is at rest", || pool.stats().idle == 4 && pool.stats().workers() == 4).await;
}

/// S8, P2
#[test]
fn after_thousands_of_deaths_nobody_holds_more_than_before() {
    run(async {
        let pool = pool().workers(4..=4).start().expect("the pool starts");
        die(&pool, 100).await;
        let server = the_server().await;
        let (before, data) = (holdings_at_rest(server).await, memory_of(server, "VmData"));
        die(&pool, 2000).await;
        until("everything is as it was", || Holdings::of(server) == before).await;
        assert!(pool.stats().forked >= 2100);
        assert_eq!(memory_of(server, "VmData"), data, "the server's own memory");
        assert_eq!(servers(), [server]);
    });
}
