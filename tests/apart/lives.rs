//! Clients and servers that come and go.

use std::borrow::Cow;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use forkpool::prelude::*;
use rustix::process::Signal;

use crate::harness::*;
use crate::*;

tests! {
    clients_and_servers_start_in_any_order_and_servers_come_again,
    each_client_has_workers_of_its_own_which_end_with_it,
    blobs_are_read_where_they_lie_by_the_workers_of_their_pool_and_no_others,
    a_client_that_is_killed_takes_its_worker_along_in_the_middle_of_a_call,
    a_worker_ends_with_its_client_also_when_its_server_was_killed_before,
    a_worker_that_has_lost_both_its_server_and_its_client_is_bounded_by_its_guard,
    a_worker_harms_neither_its_server_nor_its_neighbour,
    a_server_runs_the_preload_once_for_all_its_clients,
    a_server_ends_a_call_that_nobody_s_clock_ends,
    a_worker_inherits_no_descriptor_of_its_server_s,
    a_server_and_its_workers_are_named,
    a_server_tells_what_it_does,
    a_server_tells_of_each_worker_s_begin_and_end,
    without_a_server_a_call_fails_at_its_clock_and_says_where_there_is_none,
}

/// S1, S2, P2, C1
fn clients_and_servers_start_in_any_order_and_servers_come_again() {
    run(async {
        let place = Place::new();
        let pool = place.start();
        let early = pool.send(Pid);
        let mut first = server("");
        let worker = answer(early).await.expect("the server has come");
        assert!(children(first.pid()).contains(&worker));
        let mode = std::fs::metadata(&place.0).expect("a socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        settled(&pool, 1).await;
        // A worker goes on without its server, and what that leaves behind is replaced by the next.
        first.kill();
        first.ends();
        assert_eq!(served_by(&pool).await, worker);
        let mut next = server("");
        kill(worker);
        until("a worker of the next server is there", || {
            pool.stats().pids.iter().any(|pid| children(next.pid()).contains(pid))
        })
        .await;
        served_by(&pool).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
        until("its workers are gone", || children(next.pid()).is_empty()).await;
        signal(next.pid(), Signal::TERM);
        next.tells("good bye").await;
        assert!(next.ends().success());
        assert!(!place.0.exists(), "it takes its socket away");
    });
}

/// S1
fn each_client_has_workers_of_its_own_which_end_with_it() {
    run(async {
        let place = Place::new();
        let _server = server("");
        let (one, two) = (place.pool().name("one").start(), place.pool().name("two").start());
        let (one, two) = (one.expect("the pool starts"), two.expect("the pool starts"));
        let (ones, twos) = (served_by(&one).await, served_by(&two).await);
        assert!(comm(ones).starts_with("one/") && comm(twos).starts_with("two/"));
        bounded("the end", one.stop(Duration::ZERO)).await;
        gone(ones).await;
        assert_eq!(served_by(&two).await, twos);
        // One that hangs is killed from here.
        let failed = failure(two.send_within(Duration::from_millis(50), Spin)).await;
        assert_eq!(failed.kind(), FailureKind::Timeout);
        gone(twos).await;
        assert_ne!(served_by(&two).await, twos);
        bounded("the end", two.stop(Duration::ZERO)).await;
    });
}

/// S1, C6
fn blobs_are_read_where_they_lie_by_the_workers_of_their_pool_and_no_others() {
    run(async {
        let place = Place::new();
        let (_server, bytes) = (server(""), pattern(1 << 20));
        let (one, two) = (place.start(), place.start());
        for pool in [&one, &two] {
            let mut argument = pool.blob(bytes.len()).expect("there is room");
            argument.write_all(&bytes).expect("there is room");
            let mirrored = answer(pool.send(Mirror(argument.freeze()))).await.expect("a blob");
            assert!(matches!(mirrored.bytes(), Cow::Owned(_)), "it lies in the worker's memory");
            assert!(mirrored.bytes().iter().rev().eq(&bytes));
            let worker = served_by(pool).await;
            let maps = std::fs::read_to_string(format!("/proc/{worker}/maps")).expect("mappings");
            let arenas = maps.lines().filter(|line| line.contains("/memfd:forkpool-blobs"));
            assert_eq!(arenas.count(), 1, "{maps}");
        }
    });
}

/// S7
fn a_client_that_is_killed_takes_its_worker_along_in_the_middle_of_a_call() {
    run(async {
        let _place = Place::new();
        let server = server("");
        let mut client = Application::start("an_application", "client");
        let worker: u32 = client.says("worker").parse().expect("a number");
        assert!(exists(worker));
        client.kill();
        client.ends();
        gone(worker).await;
        assert!(exists(server.pid()));
    });
}

/// S6, S7: whoever has come in the place of a dead server is handed what it needs to kill its workers.
fn a_worker_ends_with_its_client_also_when_its_server_was_killed_before() {
    run(async {
        let _place = Place::new();
        let mut first = serving("");
        let mut client = Application::start("an_application", "client");
        let worker: u32 = client.says("worker").parse().expect("a number");
        first.kill();
        first.ends();
        let mut next = serving("");
        next.says("a worker was adopted");
        assert!(runs(worker), "a worker in use goes on");
        client.kill();
        client.ends();
        until("the spinning worker has ended", || !runs(worker)).await;
        assert!(runs(next.pid()));
    });
}

/// S6, W11
fn a_worker_that_has_lost_both_its_server_and_its_client_is_bounded_by_its_guard() {
    run(async {
        let _place = Place::new();
        let mut server = serving("");
        let mut client = Application::start("an_application", "client hung=2000");
        let worker: u32 = client.says("worker").parse().expect("a number");
        server.kill();
        client.kill();
        server.ends();
        client.ends();
        assert!(runs(worker), "it spins on");
        until("its time is over", || !runs(worker)).await;
    });
}

/// W8
fn a_worker_harms_neither_its_server_nor_its_neighbour() {
    run(async {
        let place = Place::new();
        let server = serving("");
        let (pool, beside) = (place.start(), place.start());
        let neighbour = served_by(&beside).await;
        for kind in 0..4 {
            let call = match kind {
                0 => pool.send(Exit(0)),
                1 => pool.send(AbortProcess),
                2 => pool.send(Raise(15)),
                _ => pool.send(CloseDescriptors),
            };
            match answer(call).await {
                Err(failure) => assert_eq!(failure.kind(), FailureKind::Died),
                // A channel without descriptors, rings, may bring the reply before the worker notices.
                Ok(()) => assert_eq!(kind, 3),
            }
            served_by(&pool).await;
        }
        assert!(runs(server.pid()) && place.0.exists());
        assert_eq!(served_by(&beside).await, neighbour);
        for pool in [pool, beside] {
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

/// W12
fn a_server_runs_the_preload_once_for_all_its_clients() {
    run(async {
        let place = Place::new();
        let server = serving("");
        for _ in 0..2 {
            let pool = place.start();
            assert_eq!(answer(pool.send(PreloadedBy)).await, Ok(Some(server.pid())));
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

/// W11
fn a_server_ends_a_call_that_nobody_s_clock_ends() {
    run(async {
        let place = Place::new();
        let _server = serving("");
        let limit = Duration::from_millis(200);
        let pool = place.pool().timeout(None).hung_worker_timeout(limit).start().expect("the pool starts");
        let failed = failure(pool.send(Spin)).await;
        assert_eq!((failed.kind(), failed.limit()), (FailureKind::Hung, Some(limit)));
        served_by(&pool).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// W9: the server has a file open, sockets, and other clients with workers.
fn a_worker_inherits_no_descriptor_of_its_server_s() {
    run(async {
        let place = Place::new();
        let server = serving("");
        let pools = [place.start(), place.start()];
        for pool in &pools {
            served_by(pool).await;
        }
        let last = place.start();
        let mut held = descriptors_of(served_by(&last).await);
        assert_eq!(held.remove(&0).as_deref(), Some("/dev/null"));
        let outputs = [1, 2].map(|number| held.remove(&number).expect("an output"));
        assert!(outputs.iter().all(|output| output.starts_with("pipe:")), "{outputs:?}");
        assert_eq!(held.len(), channel_parts(), "{held:?}");
        assert!(
            descriptors_of(server.pid())
                .values()
                .any(|open| open.ends_with("/exe") || open.contains("apart-"))
        );
        for pool in pools.into_iter().chain([last]) {
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

/// W6
fn a_server_and_its_workers_are_named() {
    run(async {
        let place = Place::new();
        let server = serving("");
        let pool = place.pool().name("named").start().expect("the pool starts");
        let worker = served_by(&pool).await;
        assert_eq!(comm(server.pid()), "probes/server");
        assert_eq!(comm(worker), "named/1");
        let title = "forkpool: worker named/1";
        assert!(args(worker).starts_with(title), "{}", args(worker));
        assert_eq!(environment_of(worker), environment_of(server.pid()), "nothing is written over");
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// P13
fn a_server_tells_what_it_does() {
    run(async {
        let place = Place::new();
        let pool = place.pool().workers(2..=2).start().expect("the pool starts");
        let none = pool.server_stats().await.expect_err("there is no server");
        assert_eq!(none.kind(), FailureKind::NoServer);
        let server = server("");
        settled(&pool, 2).await;
        let stats = bounded("an answer", pool.server_stats()).await.expect("a server");
        assert_eq!((stats.pid, stats.clients, stats.workers, stats.forked), (server.pid(), 1, 2, 2));
        assert!(!stats.draining && stats.uptime > Duration::ZERO);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S1
fn a_server_tells_of_each_worker_s_begin_and_end() {
    run(async {
        let place = Place::new();
        let mut server = serving("");
        let pool = place.pool().name("told").start().expect("the pool starts");
        let begin = server.tells("a worker was forked").await;
        let worker = served_by(&pool).await;
        assert!(begin.contains("told") && begin.contains(&format!("pid={worker}")), "{begin}");
        kill(worker);
        let end = server.tells("a worker has ended").await;
        assert!(end.contains("worker=1") && end.contains("killed by SIGKILL"), "{end}");
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// T7
fn without_a_server_a_call_fails_at_its_clock_and_says_where_there_is_none() {
    run(async {
        let place = Place::new();
        let pool = place.start();
        let failed = failure(pool.send_within(Duration::from_millis(100), Pid)).await;
        assert_eq!(failed.kind(), FailureKind::NoServer);
        let told = format!("{failed:#}");
        assert!(told.contains(place.0.to_str().expect("text")), "{told}");
        for address in ["", "unix:", "/no/scheme", "udp:1", "systemd:"] {
            let error = Pool::<Probe>::connect(address).start().expect_err("it is none").to_string();
            assert!(error.contains("unix:/path"), "{error}");
        }
    });
}
