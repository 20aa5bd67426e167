//! The child that a server parks, where several clients come and go and another server takes over.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use actix::Addr;
use forkpool::prelude::*;
use rustix::process::Signal;

use crate::harness::*;
use crate::network::Port;
use crate::*;

tests! {
    clients_of_one_server_share_its_parked_child_and_nothing_else,
    a_server_at_a_port_parks_a_child_as_well,
    a_server_that_parks_none_has_none,
    the_last_client_that_parks_takes_the_parked_child_along,
    a_server_that_is_replaced_or_drains_has_no_parked_child,
    a_full_server_forks_no_worker_more_although_it_has_a_parked_child,
}

/// A worker more for a pool that has one, held with the one before.
async fn one_more(pool: &PoolHandle<Probe>) -> ([Addr<Checkout<Probe>>; 2], u32) {
    let first = pool.checkout().start();
    pid(&first).await;
    let second = pool.checkout().start();
    let worker = pid(&second).await;
    ([first, second], worker)
}

/// The arenas of calls that a process maps, by inode.
fn arenas(pid: u32) -> BTreeSet<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("a process");
    let arenas = maps.lines().filter(|line| line.contains("/memfd:forkpool-blobs"));
    arenas.filter_map(|line| line.split_whitespace().nth(4).map(str::to_owned)).collect()
}

/// W13, W9, G4, S1
fn clients_of_one_server_share_its_parked_child_and_nothing_else() {
    run(async {
        let place = Place::new();
        let server = serving("");
        let start = |name: &str| place.pool().name(name).workers(1..=2).start().expect("the pool starts");
        let (one, two) = (start("one"), start("two"));
        let first_ones = [served_by(&one).await, served_by(&two).await];
        for pool in [&one, &two, &one] {
            let parked = parked_child(server.pid()).await;
            assert_eq!((comm(parked).as_str(), arenas(parked).len()), ("probes/parked", 0));
            let others = descriptors_of(parked).into_keys().filter(|number| *number > 2);
            assert_eq!(others.count(), 1, "{:?}", descriptors_of(parked));
            let (held, worker) = one_more(pool).await;
            assert_eq!(worker, parked);
            let [own, other] = if pool.name() == "one" { [0, 1] } else { [1, 0] };
            assert_eq!(arenas(worker), arenas(first_ones[own]));
            assert_ne!(arenas(worker), arenas(first_ones[other]));
            let mut blob = pool.blob(100_000).expect("there is room");
            blob.write_all(&[7; 100_000]).expect("there is room");
            let mirrored = answer(held[1].send(Mirror(blob.freeze()))).await.expect("a blob");
            assert_eq!(*mirrored.bytes(), [7; 100_000]);
            assert_eq!(answer(held[1].send(StopAfterwards)).await, Ok(worker));
            drop(held);
            gone(worker).await;
        }
        let stats = bounded("the figures", one.server_stats()).await.expect("a server");
        assert_eq!((stats.clients, stats.workers), (2, 2));
        assert!(stats.parked <= 1);
    });
}

/// W13, S1
fn a_server_at_a_port_parks_a_child_as_well() {
    run(async {
        let port = Port::new();
        let server = port.serving("");
        let pool = port.pool().workers(1..=2).start().expect("the pool starts");
        served_by(&pool).await;
        let parked = parked_child(server.pid()).await;
        let (held, worker) = one_more(&pool).await;
        assert_eq!(worker, parked);
        assert_eq!(answer(held[1].send(Echo(vec![7; 100_000]))).await, Ok(vec![7; 100_000]));
        assert_eq!(group(worker), worker);
        let failed = failure(held[1].send(Within(Duration::from_millis(50), Spin))).await;
        assert_eq!(failed.kind(), FailureKind::Timeout);
        gone(worker).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// W13: by its own option, or because no client could use it.
fn a_server_that_parks_none_has_none() {
    run(async {
        let place = Place::new();
        let has_none = async |server: Application, pool: PoolHandle<Probe>| {
            for _ in 0..10 {
                let (held, worker) = one_more(&pool).await;
                let stats = bounded("the figures", pool.server_stats()).await.expect("a server");
                assert_eq!((stats.workers, stats.parked), (2, 0));
                assert!(parked_children(server.pid()).is_empty());
                assert_eq!(answer(held[1].send(StopAfterwards)).await, Ok(worker));
                drop(held);
                until("it is gone", || pool.stats().workers() == 1).await;
            }
            bounded("the end", pool.stop(Duration::ZERO)).await;
        };
        let pool = || place.pool().workers(1..=2);
        has_none(serving("parks_none"), pool().start().expect("the pool starts")).await;
        has_none(serving(""), pool().park_worker(false).start().expect("the pool starts")).await;
        #[cfg(feature = "tls")]
        {
            let place = crate::tls::Secured::new();
            let server = place.serving("server");
            has_none(server, place.pool("client").workers(1..=2).start().expect("the pool starts")).await;
        }
    });
}

/// W13
fn the_last_client_that_parks_takes_the_parked_child_along() {
    run(async {
        let place = Place::new();
        let server = serving("");
        let pool = place.start();
        served_by(&pool).await;
        let parked = parked_child(server.pid()).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
        gone(parked).await;
        assert!(parked_children(server.pid()).is_empty());
        let pool = place.start();
        served_by(&pool).await;
        assert_ne!(parked_child(server.pid()).await, parked);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// W13, S4, G6
fn a_server_that_is_replaced_or_drains_has_no_parked_child() {
    run(async {
        let place = Place::new();
        let old = serving("");
        let pool = place.pool().workers(1..=2).start().expect("the pool starts");
        let held = pool.checkout().start();
        let worker = pid(&held).await;
        let parked = parked_child(old.pid()).await;
        let mut new = serving("take_over");
        gone(parked).await;
        assert_eq!(pid(&held).await, worker);
        // It has a worker in use, so it still runs.
        assert_eq!((parked_children(old.pid()), children(old.pid())), (vec![], vec![worker]));
        drop(held);
        until("a worker is the new server's", || {
            pool.stats().pids.iter().any(|pid| children(new.pid()).contains(pid))
        })
        .await;
        let parked = parked_child(new.pid()).await;
        let held = pool.checkout().start();
        let worker = pid(&held).await;
        signal(new.pid(), Signal::TERM);
        gone(parked).await;
        assert_eq!(pid(&held).await, worker);
        drop(held);
        bounded("the end", pool.stop(Duration::ZERO)).await;
        assert!(new.ends().success());
    });
}

/// W13, P3, S9
fn a_full_server_forks_no_worker_more_although_it_has_a_parked_child() {
    run(async {
        let place = Place::new();
        let server = serving("workers=2");
        let pool = place.pool().workers(1..=5).start().expect("the pool starts");
        let checkouts: Vec<_> = (0..5).map(|_| pool.checkout().timeout(None).start()).collect();
        let calls: Vec<_> = checkouts.iter().map(|checkout| checkout.send(Pid)).collect();
        until("two have a worker", || pool.stats().leased == 2).await;
        let parked = parked_child(server.pid()).await;
        let stats = bounded("the figures", pool.server_stats()).await.expect("a server");
        assert_eq!((stats.workers, stats.forked, stats.parked), (2, 2, 1));
        assert_eq!(children(server.pid()).len(), 2);
        drop(checkouts);
        let mut pids = BTreeSet::new();
        for call in calls {
            pids.insert(answer(call).await.expect("a worker"));
        }
        assert!(!pids.contains(&parked) || exists(parked));
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}
