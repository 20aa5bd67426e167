//! Workers that are to be killed are gone, whatever they have done to themselves, and what they or others have forked
//! delays nothing.

use std::time::Duration;

use crate::harness::*;
use actix::System;
use forkpool::Ending;
use forkpool::prelude::*;
use rustix::process::Signal;

/// How a rebel is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hand {
    /// By the server's watchdog.
    Guard,
    /// By its call's timeout.
    Clock,
    /// By an `Abort`.
    Abort,
    /// By its pool's end.
    PoolEnd,
    /// By its call's timeout, after its server has died and another one has come.
    ClockAfterItsServer,
}

/// The time after which a rebel is killed by a clock: enough for it to do its deed.
fn limit(deed: Defiance) -> Duration {
    Duration::from_millis(if deed == Defiance::IsTraced { 3000 } else { 700 })
}

fn rebels() -> forkpool::PoolBuilder<Rebel> {
    builder::<Rebel>(Orders::default()).workers(1..=1).timeout(None)
}

/// Has a worker do this deed and be killed in this way.
async fn kill_one(deed: Defiance, hand: Hand) {
    let path = Scratch::path();
    let guard = (hand == Hand::Guard).then(|| limit(deed));
    let clock = matches!(hand, Hand::Clock | Hand::ClockAfterItsServer).then(|| limit(deed));
    let pool = rebels().hung_worker_timeout(guard).start().expect("the pool starts");
    let checkout = pool.checkout().timeout(clock).start();
    let worker = answer(checkout.send(Obey)).await.expect("a pid");
    let server = the_server().await;
    let call = checkout.send(Defy(deed, path.get().to_owned()));
    let Some(left) = done(&path).await else {
        return drop(bounded("the end", pool.stop(Duration::ZERO)).await);
    };
    println!("{deed:?} is killed by {hand:?}");
    if hand == Hand::ClockAfterItsServer {
        kill(server);
        until("there is another server", || servers().iter().any(|&other| other != server)).await;
    }
    let expected = match hand {
        Hand::Guard => FailureKind::Hung,
        Hand::Clock | Hand::ClockAfterItsServer => FailureKind::Timeout,
        Hand::Abort => {
            answer(async { checkout.send(Abort("enough".to_owned())).await }).await;
            FailureKind::Aborted
        }
        Hand::PoolEnd => {
            let report = bounded("the end", pool.stop(Duration::ZERO)).await;
            assert!(report.is_complete(), "{report}");
            FailureKind::Stopped
        }
    };
    let failed = failure(call).await;
    // A group with a stopped process, whose last parent of another group is gone, gets a SIGHUP from the kernel.
    let is_stopped = matches!(deed, Defiance::IsStopped | Defiance::IsTraced);
    let may_die = is_stopped && hand == Hand::ClockAfterItsServer;
    let kinds = [expected, if may_die { FailureKind::Died } else { expected }];
    assert!(kinds.contains(&failed.kind()), "{failed:#}");
    gone(worker).await;
    match deed {
        // It is of another session, and delays nothing.
        Defiance::IsHeld => assert!(runs(left)),
        _ if left != 0 => until("the rest of its group is gone", || !runs(left)).await,
        _ => {}
    }
    if hand != Hand::PoolEnd {
        answer(pool.send(Obey)).await.expect("another worker");
        drop(checkout);
        let report = bounded("the end", pool.stop(Duration::ZERO)).await;
        assert!(report.is_complete(), "{report}");
    }
    if deed == Defiance::IsHeld {
        assert!(runs(left));
        kill(left);
    }
}

fn kill_all_by(hand: Hand) {
    for deed in Defiance::ALL {
        run(kill_one(deed, hand));
    }
}

/// G5, W11
#[test]
fn whatever_a_worker_does_to_itself_its_guard_ends_it() {
    kill_all_by(Hand::Guard);
}

/// G5, T3
#[test]
fn whatever_a_worker_does_to_itself_its_clock_ends_it() {
    kill_all_by(Hand::Clock);
}

/// G5, T3
#[test]
fn whatever_a_worker_does_to_itself_an_abort_ends_it() {
    kill_all_by(Hand::Abort);
}

/// G5, P12
#[test]
fn whatever_a_worker_does_to_itself_the_end_of_its_pool_ends_it() {
    kill_all_by(Hand::PoolEnd);
}

/// G5, S6
#[test]
fn whatever_a_worker_does_to_itself_its_clock_ends_it_after_its_server() {
    kill_all_by(Hand::ClockAfterItsServer);
}

/// An application whose worker does a deed, or that leaves all that it has open to another process.
#[test]
#[ignore = "an application that other tests run"]
fn an_application_of_rebels() {
    let Some(role) = role() else { return };
    let (part, argument) = role.split_once(' ').unwrap_or((&role, ""));
    System::new().block_on(async {
        match part {
            "defied" => defied(Defiance::named(argument)).await,
            "held" => held().await,
            "held_in_preload" => held_in_preload().await,
            "lost" => lost().await,
            other => panic!("no part {other:?}"),
        }
        std::future::pending::<()>().await;
    });
}

async fn defied(deed: Defiance) {
    let path = Scratch::path();
    let pool = rebels().hung_worker_timeout(None).start().expect("the pool starts");
    let checkout = pool.checkout().start();
    let worker = answer(checkout.send(Obey)).await.expect("a pid");
    checkout.do_send(Defy(deed, path.get().to_owned()));
    match done(&path).await {
        Some(left) => println!("worker {worker} {left}"),
        None => println!("worker"),
    }
    std::future::pending::<()>().await;
}

/// Two pids and more, as an application says them.
fn pids(text: &str) -> Vec<u32> {
    text.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
}

/// G5, S5
#[test]
fn whatever_a_worker_does_to_itself_the_death_of_its_application_ends_it() {
    for deed in Defiance::ALL {
        run(async {
            let mut application = rebellion(&format!("defied {deed:?}"));
            let told = pids(&application.says("worker"));
            let [worker, left] = told[..] else { return };
            application.kill();
            application.ends();
            until(&format!("{deed:?}: the worker has ended"), || !runs(worker)).await;
            match deed {
                Defiance::IsHeld => kill(left),
                _ if left != 0 => until("the rest of its group has ended", || !runs(left)).await,
                _ => {}
            }
            until("all of it has ended", || application.family().is_empty()).await;
        });
    }
}

fn rebellion(role: &str) -> Application {
    Application::start("defiance::an_application_of_rebels", role)
}

/// An application with an idle worker and one that hangs, all of whose descriptors another process holds.
async fn held() {
    let pool = rebels().workers(2..=2).hung_worker_timeout(None).start().expect("the pool starts");
    settled(&pool, 2).await;
    let path = Scratch::path();
    let checkout = pool.checkout().start();
    checkout.do_send(Defy(Defiance::IsDeaf, path.get().to_owned()));
    done(&path).await;
    let server = the_server().await;
    let workers = pool.stats().pids;
    println!("held {} {server} {} {}", hold_all(), workers[0], workers[1]);
    std::future::pending::<()>().await;
}

/// G5, S5: another process holds the application's end of each channel.
#[test]
fn servers_and_workers_end_with_their_application_although_another_process_holds_its_descriptors() {
    run(async {
        let mut application = rebellion("held");
        let told = pids(&application.says("held"));
        let (holder, rest) = told.split_first().expect("pids");
        assert!(rest.len() == 3 && rest.iter().all(|&pid| runs(pid)));
        application.kill();
        application.ends();
        until("server and workers have ended", || !rest.iter().any(|&pid| runs(pid))).await;
        assert!(runs(*holder), "nothing had to wait for it");
        kill(*holder);
        until("it has ended", || !runs(*holder)).await;
    });
}

/// An application whose server hangs in its preload, all of whose descriptors another process holds.
async fn held_in_preload() {
    let at = Scratch::path();
    let orders = Orders { hangs_at: at.some(), ..Orders::default() };
    let pool = builder::<Rebel>(orders).workers(1..=1).start().expect("the pool starts");
    until("the preload runs", || at.get().exists()).await;
    let server = the_server().await;
    println!("held {} {server}", hold_all());
    std::future::pending::<()>().await;
    drop(pool);
}

/// G5, S5
#[test]
fn a_preload_ends_with_its_application_although_another_process_holds_its_descriptors() {
    run(async {
        let mut application = rebellion("held_in_preload");
        let [holder, server] = pids(&application.says("held"))[..] else { panic!("two pids") };
        application.kill();
        application.ends();
        until("the server has ended", || !runs(server)).await;
        assert!(runs(holder), "nothing had to wait for it");
        kill(holder);
        until("it has ended", || !runs(holder)).await;
    });
}

/// An application whose worker has changed its user in `setup` and hangs in a call.
async fn lost() {
    let path = Scratch::path();
    let orders = Orders { changes_user: true, ..Orders::default() };
    let pool = builder::<Rebel>(orders).workers(1..=1).timeout(None);
    let limit = Duration::from_secs(2);
    let pool = pool.hung_worker_timeout(limit).start().expect("the pool starts");
    let checkout = pool.checkout().start();
    let worker = match answer(checkout.send(Obey)).await {
        Ok(worker) => worker,
        Err(failure) => {
            println!("lost");
            eprintln!("{failure:#}");
            return;
        }
    };
    let server = the_server().await;
    checkout.do_send(Defy(Defiance::Hangs, path.get().to_owned()));
    // The file would be another user's, so it is not waited for.
    until("it hangs", || pool.stats().waited.count() == 2).await;
    println!("lost {worker} {server}");
    std::future::pending::<()>().await;
}

/// G5, S6, W11: the kernel forgets that it is to report the server's end when a process changes its user.
#[test]
fn a_worker_of_another_user_that_has_lost_both_its_server_and_its_application_is_bounded_by_its_guard() {
    run(async {
        let mut application = rebellion("lost");
        let [worker, server] = pids(&application.says("lost"))[..] else {
            return println!("skipped: this process may not change its user");
        };
        // So that it starts no other server.
        signal(application.pid(), Signal::STOP);
        kill(server);
        until("the server has ended", || !runs(server)).await;
        application.kill();
        application.ends();
        until("the worker's time is over", || !runs(worker)).await;
    });
}

/// G5, E7: another process holds the worker's end of its channel.
#[test]
fn the_end_of_a_worker_is_reported_although_another_process_holds_its_channel() {
    run(async {
        let path = Scratch::path();
        let pool = rebels().start().expect("the pool starts");
        let died = failure(pool.send(EndHeld(3, path.get().to_owned()))).await;
        assert_eq!((died.kind(), died.ending()), (FailureKind::Died, Some(Ending::Exited { code: 3 })));
        let first = done(&path).await.expect("a holder");
        // And although its server does not report it.
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Obey)).await.expect("a pid");
        let server = the_server().await;
        signal(server, Signal::STOP);
        let died = failure(checkout.send(EndHeld(4, path.get().to_owned()))).await;
        assert_eq!((died.kind(), died.pid()), (FailureKind::Died, Some(worker)));
        let second = done(&path).await.expect("a holder");
        signal(server, Signal::CONT);
        drop(checkout);
        answer(pool.send(Obey)).await.expect("another worker");
        let report = bounded("the end", pool.stop(Duration::ZERO)).await;
        assert!(report.is_complete(), "{report}");
        for holder in [first, second] {
            assert!(runs(holder), "nothing had to wait for it");
            kill(holder);
        }
    });
}

/// G5, S6: another process holds the server's end of the control channel.
#[test]
fn the_end_of_a_server_is_noticed_although_another_process_holds_its_channel() {
    run(async {
        let holders = Scratch::path();
        let orders = Orders { held_by: holders.some(), ..Orders::default() };
        let pool = builder::<Rebel>(orders).workers(1..=1).start().expect("the pool starts");
        let worker = answer(pool.send(Obey)).await.expect("a pid");
        let server = the_server().await;
        kill(server);
        until("there is another server", || servers().iter().any(|&other| other != server)).await;
        kill(worker);
        gone(worker).await;
        assert_ne!(answer(pool.send(Obey)).await.expect("a pid"), worker);
        let report = bounded("the end", pool.stop(Duration::ZERO)).await;
        assert!(report.is_complete(), "{report}");
        let holders: Vec<u32> = holders.lines().iter().map(|pid| pid.parse().expect("a pid")).collect();
        assert_eq!(holders.len(), 2);
        for holder in holders {
            assert!(runs(holder), "nothing had to wait for it");
            kill(holder);
        }
    });
}

/// G5: a worker that has joined the group of another ends with that one, and not the other way round.
#[test]
fn a_worker_that_joins_the_group_of_another_harms_itself_alone() {
    run(async {
        let pool = rebels().workers(2..=2).start().expect("the pool starts");
        let (rebel, other) = (pool.checkout().start(), pool.checkout().start());
        let (one, two) = (answer(rebel.send(Obey)).await, answer(other.send(Obey)).await);
        let (one, two) = (one.expect("a pid"), two.expect("a pid"));
        assert_eq!(answer(rebel.send(Join(two))).await, Ok(one));
        assert_eq!(group(one), two);
        answer(async { rebel.send(Abort("enough".to_owned())).await }).await;
        gone(one).await;
        assert_eq!(answer(other.send(Obey)).await, Ok(two));
        drop((rebel, other));
        settled(&pool, 2).await;
    });
}
