//! The child that a fork server parks: forked in advance, no worker yet, and then the next worker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::harness::*;
use actix::prelude::*;
use forkpool::prelude::*;
use rustix::process::{Pid as ProcessId, Resource, Rlimit, Signal};

/// What a pool of one worker has, its server, and the server's parked child.
async fn pool_with_parked(most: usize) -> (PoolHandle<Probe>, u32, u32) {
    let pool = pool().workers(1..=most).start().expect("the pool starts");
    settled(&pool, 1).await;
    let server = the_server().await;
    let parked = parked_child(server).await;
    (pool, server, parked)
}

/// Has a pool ask for one more worker: the first checkout has the idle one.
async fn one_more(pool: &PoolHandle<Probe>) -> (Addr<Checkout<Probe>>, Addr<Checkout<Probe>>, u32) {
    let first = pool.checkout().start();
    pid(&first).await;
    let second = pool.checkout().start();
    let worker = pid(&second).await;
    (first, second, worker)
}

/// W13, P3, P13
#[test]
fn the_parked_child_becomes_the_next_worker_and_is_none_before() {
    run(async {
        let (pool, server, parked) = pool_with_parked(4).await;
        assert_eq!((comm(parked), args(parked)), ("probe/parked".into(), "forkpool: parked probe".into()));
        assert_eq!((parent(parked), group(parked)), (server, parked));
        assert_eq!(pool.stats().workers(), 1);
        let stats = bounded("the figures", pool.server_stats()).await.expect("a server");
        assert_eq!((stats.workers, stats.parked, stats.forked), (1, 1, 1));
        let (first, second, worker) = one_more(&pool).await;
        assert_eq!(worker, parked);
        assert_eq!(comm(worker), "probe/2");
        let next = parked_child(server).await;
        assert_ne!(next, parked);
        let stats = bounded("the figures", pool.server_stats()).await.expect("a server");
        assert_eq!((stats.workers, stats.parked, stats.forked), (2, 1, 2));
        drop((first, second));
        bounded("the end", pool.stop(Duration::ZERO)).await;
        assert!(!exists(next) && !exists(worker), "nothing is left in the process table");
    });
}

/// Everything about a worker that its fork, or its assignment, decides.
#[derive(Debug, PartialEq)]
struct Worker {
    descriptors: BTreeMap<i32, String>,
    signals: BTreeMap<&'static str, u64>,
    leads_its_group: bool,
    terminal: u32,
    oom_score: i32,
    limits: String,
    memory_files: BTreeMap<String, usize>,
    environment: BTreeSet<String>,
    preloaded_by_its_server: bool,
    title: String,
}

/// What of a path or a target says more than its number does.
fn kind(target: &str) -> String {
    target.split([':', '[']).next().unwrap_or_default().to_owned()
}

/// The mappings of memory files, by their names, and how often each is mapped.
fn memory_files(pid: u32) -> BTreeMap<String, usize> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("a process");
    let names = maps.lines().filter_map(|line| Some(line.split_once("/memfd:")?.1.to_owned()));
    let mut counts = BTreeMap::new();
    names.for_each(|name| *counts.entry(name).or_default() += 1);
    counts
}

async fn look_at(checkout: &Addr<Checkout<Probe>>, server: u32) -> Worker {
    let pid = pid(checkout).await;
    let descriptors = answer(checkout.send(Descriptors)).await.expect("descriptors");
    Worker {
        descriptors: descriptors.into_iter().map(|(number, target)| (number, kind(&target))).collect(),
        signals: signal_masks(pid),
        leads_its_group: group(pid) == pid,
        terminal: terminal(pid),
        oom_score: oom_score(pid),
        limits: std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits"),
        memory_files: memory_files(pid),
        environment: environment_of(pid),
        preloaded_by_its_server: answer(checkout.send(PreloadedBy)).await == Ok(Some(server)),
        title: format!("{} {}", comm(pid), args(pid)),
    }
}

/// W13, W9, W10, W12, G4, G6, G12: whatever a forked worker has or has not.
#[test]
fn a_worker_that_was_parked_is_like_one_that_was_forked() {
    run(async {
        let mut seen = Vec::new();
        for parks in [false, true] {
            let pool = pool().workers(1..=2).park_worker(parks).memory_limit(1 << 40).start();
            let pool = pool.expect("the pool starts");
            settled(&pool, 1).await;
            let server = the_server().await;
            let parked = if parks { Some(parked_child(server).await) } else { None };
            let (_first, second, worker) = one_more(&pool).await;
            assert!(parked.is_none_or(|parked| parked == worker));
            seen.push(look_at(&second, server).await);
            let mut blob = pool.blob(100_000).expect("there is room");
            std::io::Write::write_all(&mut blob, &[7; 100_000]).expect("there is room");
            let mirrored = answer(second.send(Mirror(blob.freeze()))).await.expect("a blob");
            assert_eq!(*mirrored.bytes(), [7; 100_000]);
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
        assert_eq!(seen[0], seen[1]);
        assert!(seen[0].preloaded_by_its_server && seen[0].leads_its_group);
    });
}

/// W13, W9, G4
#[test]
fn a_parked_child_has_nothing_of_a_client() {
    run(async {
        let (pool, _, parked) = pool_with_parked(2).await;
        let blob = vec![7; 100_000].into();
        assert_eq!(answer(pool.send(Mirror(blob))).await.map(|mirrored| mirrored.len()), Ok(100_000));
        let open: BTreeMap<i32, String> =
            descriptors_of(parked).into_iter().filter(|(number, _)| *number > 2).collect();
        let kinds: Vec<String> = open.values().map(|target| kind(target)).collect();
        assert_eq!(kinds, ["socket"], "its end of the socket to its server: {open:?}");
        assert_eq!(memory_files(parked), BTreeMap::new());
    });
}

/// W13: no signal runs a handler of a preload's, ends it, or reaches the worker.
#[test]
fn a_signal_to_a_parked_child_is_lost() {
    run(async {
        let (pool, _, parked) = pool_with_parked(2).await;
        for one in [Signal::USR1, Signal::TERM, Signal::HUP, Signal::ALARM, Signal::IO] {
            signal(parked, one);
        }
        assert_ne!(signal_masks(parked)["ShdPnd"], 0);
        let (_first, second, worker) = one_more(&pool).await;
        assert_eq!(worker, parked);
        assert_eq!((signal_masks(worker)["ShdPnd"], signal_masks(worker)["SigBlk"]), (0, 0));
        assert_eq!(pid(&second).await, worker);
    });
}

/// W13, W3: also in the instant in which it is assigned, and again and again.
#[test]
fn a_parked_child_that_is_killed_costs_nothing() {
    run(async {
        let (pool, server, mut parked) = pool_with_parked(3).await;
        for _ in 0..4 {
            kill(parked);
            let (first, second, worker) = one_more(&pool).await;
            assert_ne!(worker, parked);
            assert_eq!(answer(second.send(StopAfterwards)).await, Ok(worker));
            drop((first, second));
            gone(parked).await;
            gone(worker).await;
            let before = std::mem::replace(&mut parked, parked_child(server).await);
            assert_ne!(before, parked);
        }
        assert_eq!(the_server().await, server);
        assert!(pool.stats().failures.is_empty());
    });
}

/// W13, G5
#[test]
fn a_parked_child_that_does_not_answer_is_ended_and_the_worker_is_forked() {
    run(async {
        let (pool, server, parked) = pool_with_parked(2).await;
        signal(parked, Signal::STOP);
        let (_first, _second, worker) = one_more(&pool).await;
        assert_ne!(worker, parked);
        gone(parked).await;
        assert_ne!(parked_child(server).await, parked);
    });
}

/// W13, S5
#[test]
fn a_parked_child_ends_with_its_server_even_if_it_is_stopped() {
    run(async {
        for stops in [false, true] {
            let (pool, server, parked) = pool_with_parked(1).await;
            if stops {
                signal(parked, Signal::STOP);
            }
            kill(server);
            until("it has ended", || !runs(parked)).await;
            until("there is another server", || servers().iter().any(|&next| next != server)).await;
            assert!(answer(pool.send(Pid)).await.is_ok());
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
    });
}

/// W13
#[test]
fn a_pool_that_parks_none_has_none() {
    run(async {
        let pool = pool().workers(1..=3).park_worker(false).start().expect("the pool starts");
        settled(&pool, 1).await;
        let server = the_server().await;
        for _ in 0..20 {
            let (first, second, worker) = one_more(&pool).await;
            let stats = bounded("the figures", pool.server_stats()).await.expect("a server");
            assert_eq!(stats.parked, 0);
            assert!(parked_children(server).is_empty());
            assert_eq!(answer(second.send(StopAfterwards)).await, Ok(worker));
            drop((first, second));
            gone(worker).await;
        }
    });
}

/// W13: neither before the first need nor after the last.
#[test]
fn an_idle_pool_that_keeps_no_worker_has_no_parked_child() {
    run(async {
        let pool = pool().workers(0..=2).start().expect("the pool starts");
        let server = the_server().await;
        for _ in 0..20 {
            let stats = bounded("the figures", pool.server_stats()).await.expect("a server");
            assert_eq!((stats.workers, stats.parked), (0, 0));
        }
        let held = pool.checkout().start();
        let worker = pid(&held).await;
        let parked = parked_child(server).await;
        assert_eq!(answer(held.send(StopAfterwards)).await, Ok(worker));
        drop(held);
        gone(worker).await;
        gone(parked).await;
        assert!(parked_children(server).is_empty());
        assert_eq!(the_server().await, server);
    });
}

/// W13, P3: the first of them is the parked child, and the others are forked.
#[test]
fn many_workers_at_once_start_as_one_does() {
    run(async {
        let (pool, server, parked) = pool_with_parked(9).await;
        let checkouts: Vec<_> = (0..9).map(|_| pool.checkout().start()).collect();
        let mut pids = BTreeSet::new();
        for checkout in &checkouts {
            pids.insert(pid(checkout).await);
        }
        assert_eq!(pids.len(), 9);
        assert!(pids.contains(&parked));
        assert!(!pids.contains(&parked_child(server).await));
        let stats = bounded("the figures", pool.server_stats()).await.expect("a server");
        assert_eq!((stats.workers, stats.forked, stats.not_forked), (9, 9, 0));
    });
}

/// W13, G12
#[test]
fn limits_and_priorities_that_change_meanwhile_reach_the_next_worker() {
    run(async {
        let (pool, server, parked) = pool_with_parked(3).await;
        let server_id = ProcessId::from_raw(i32::try_from(server).expect("a pid")).expect("a pid");
        let lower = Rlimit { current: Some(300), maximum: Some(4000) };
        rustix::process::prlimit(Some(server_id), Resource::Nofile, lower).expect("a limit");
        let (first, second, worker) = one_more(&pool).await;
        assert_ne!(worker, parked);
        let limits = std::fs::read_to_string(format!("/proc/{worker}/limits")).expect("limits");
        let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
        assert_eq!(files.split_whitespace().collect::<Vec<_>>()[3..5], ["300", "4000"]);
        let parked = parked_child(server).await;
        rustix::process::setpriority_process(Some(server_id), 3).expect("a priority");
        let third = pool.checkout().start();
        let worker = pid(&third).await;
        assert_ne!(worker, parked);
        let worker_id = ProcessId::from_raw(i32::try_from(worker).expect("a pid"));
        assert_eq!(rustix::process::getpriority_process(worker_id), Ok(3));
        drop((first, second));
    });
}

/// W13, W11
#[test]
fn a_worker_that_was_parked_is_watched() {
    run(async {
        let pool = pool().workers(1..=2).hung_worker_timeout(Duration::from_millis(50)).timeout(None).start();
        let pool = pool.expect("the pool starts");
        settled(&pool, 1).await;
        let parked = parked_child(the_server().await).await;
        let (_first, second, worker) = one_more(&pool).await;
        assert_eq!(worker, parked);
        let hung = failure(second.send(Spin)).await;
        assert_eq!((hung.kind(), hung.pid()), (FailureKind::Hung, Some(parked)));
        gone(parked).await;
    });
}

/// W13, S6
#[test]
fn a_worker_that_was_parked_outlives_its_server() {
    run(async {
        let (pool, server, parked) = pool_with_parked(2).await;
        let (_first, second, worker) = one_more(&pool).await;
        assert_eq!(worker, parked);
        kill(server);
        until("there is another server", || servers().iter().any(|&next| next != server)).await;
        assert_eq!(pid(&second).await, worker);
    });
}
