//! Workers of standalone servers that are to be killed are gone, whatever they have done to themselves, and what was forked
//! delays nothing.

use std::time::Duration;

use forkpool::prelude::*;
use forkpool::{Ending, PoolBuilder};
use rustix::process::Signal;

use crate::harness::*;
use crate::network::port;
use crate::*;

tests! {
    at_a_path_a_worker_is_ended_whatever_it_does_to_itself,
    at_a_port_a_worker_is_ended_whatever_it_does_to_itself,
    an_adopted_worker_ends_with_its_client_whatever_it_does_to_itself,
    a_client_that_stops_is_gone_although_another_process_holds_its_descriptors,
    a_client_that_dies_is_gone_although_another_process_holds_its_descriptors,
    the_end_of_a_worker_at_a_port_is_reported_although_another_process_holds_its_connection,
}

/// How a rebel is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hand {
    Guard,
    Clock,
    Abort,
    PoolEnd,
    /// By its server, which takes no more work.
    Drain,
    /// By its server when the application dies.
    ApplicationsDeath,
}

const HANDS: [Hand; 6] =
    [Hand::Guard, Hand::Clock, Hand::Abort, Hand::PoolEnd, Hand::Drain, Hand::ApplicationsDeath];

fn limit(deed: Defiance) -> Duration {
    Duration::from_millis(if deed == Defiance::IsTraced { 2500 } else { 500 })
}

/// Where a server listens: an address, and the option that names it to the roles of this program, which know the path.
struct At(String, String);

impl At {
    fn path(place: &Place) -> Self {
        At(place.address(), String::new())
    }

    fn port() -> Self {
        let address = format!("tcp:127.0.0.1:{}", port());
        let option = format!("at={address}");
        At(address, option)
    }
}

fn rebels(address: &str) -> PoolBuilder<Rebel> {
    Pool::<Rebel>::connect(address).workers(1..=1).timeout(None).transport(transport())
}

/// A client whose worker does a deed; with `holds` it leaves all that it has open to another process instead, and stops its
/// pool when it is told to.
pub async fn client(options: &str, address: &str) {
    let deed = options.split_whitespace().find_map(|word| word.strip_prefix("deed=")).map(Defiance::named);
    let pool = rebels(address).hung_worker_timeout(None).start().expect("the pool starts");
    let Some(deed) = deed else {
        let worker = answer(pool.send(Obey)).await.expect("a pid");
        println!("worker {worker} {}", hold_all());
        wait_to_go_on();
        // The worker has time to end by itself before it would be killed.
        let report = bounded("the end", pool.stop(PATIENCE / 2)).await;
        println!("left: {report}");
        return std::future::pending().await;
    };
    let path = Scratch::path();
    let checkout = pool.checkout().start();
    let worker = answer(checkout.send(Obey)).await.expect("a pid");
    checkout.do_send(Defy(deed, path.get().to_owned()));
    match done(&path).await {
        Some(left) => println!("worker {worker} {left}"),
        None => println!("worker"),
    }
    std::future::pending().await
}

fn pids(text: &str) -> Vec<u32> {
    text.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
}

/// Waits until a rebel and what is left in its group are gone.
async fn is_gone(deed: Defiance, worker: u32, left: u32) {
    gone(worker).await;
    match deed {
        Defiance::IsHeld => {
            assert!(runs(left), "it is of another session, and delays nothing");
            kill(left);
        }
        _ if left != 0 => until("the rest of its group is gone", || !runs(left)).await,
        _ => {}
    }
}

async fn kill_one(deed: Defiance, hand: Hand, At(address, at): &At) {
    println!("{deed:?} is killed by {hand:?}");
    let mut server = serving(&format!("rebels drain=300 {at}"));
    if hand == Hand::ApplicationsDeath {
        let mut client = Application::start("an_application", &format!("rebels deed={deed:?} {at}"));
        if let [worker, left] = pids(&client.says("worker"))[..] {
            client.kill();
            client.ends();
            is_gone(deed, worker, left).await;
            assert!(runs(server.pid()));
        }
        return;
    }
    let (path, guard) = (Scratch::path(), (hand == Hand::Guard).then(|| limit(deed)));
    let pool = rebels(address).hung_worker_timeout(guard).start().expect("the pool starts");
    let checkout = pool.checkout().timeout((hand == Hand::Clock).then(|| limit(deed))).start();
    let worker = answer(checkout.send(Obey)).await.expect("a pid");
    let call = checkout.send(Defy(deed, path.get().to_owned()));
    let Some(left) = done(&path).await else {
        return drop(bounded("the end", pool.stop(Duration::ZERO)).await);
    };
    let expected = match hand {
        Hand::Guard => FailureKind::Hung,
        Hand::Clock => FailureKind::Timeout,
        Hand::Abort => {
            answer(async { checkout.send(Abort("enough".to_owned())).await }).await;
            FailureKind::Aborted
        }
        Hand::PoolEnd => {
            let report = bounded("the end", pool.stop(Duration::ZERO)).await;
            assert!(report.is_complete(), "{report}");
            FailureKind::Stopped
        }
        Hand::Drain => {
            signal(server.pid(), Signal::TERM);
            assert!(server.ends().success());
            until("the worker has ended", || !runs(worker)).await;
            FailureKind::Died
        }
        Hand::ApplicationsDeath => unreachable!("see above"),
    };
    assert_eq!(failure(call).await.kind(), expected);
    if hand == Hand::Drain {
        if deed == Defiance::IsHeld {
            assert!(runs(left));
            kill(left);
        }
        return drop(bounded("the end", pool.stop(Duration::ZERO)).await);
    }
    is_gone(deed, worker, left).await;
    if hand != Hand::PoolEnd {
        answer(pool.send(Obey)).await.expect("another worker");
    }
    drop(checkout);
    let report = bounded("the end", pool.stop(Duration::ZERO)).await;
    assert!(report.is_complete(), "{report}");
    assert!(runs(server.pid()));
}

fn kill_all(at: &At) {
    for hand in HANDS {
        for deed in Defiance::ALL {
            run(kill_one(deed, hand, at));
        }
    }
}

/// G5, S7, T3, W11
fn at_a_path_a_worker_is_ended_whatever_it_does_to_itself() {
    let place = Place::new();
    kill_all(&At::path(&place));
}

/// G5, S7, T3, W11
fn at_a_port_a_worker_is_ended_whatever_it_does_to_itself() {
    kill_all(&At::port());
}

/// G5, S6, S7
fn an_adopted_worker_ends_with_its_client_whatever_it_does_to_itself() {
    for deed in Defiance::ALL {
        run(async {
            let _place = Place::new();
            let mut first = serving("rebels");
            let mut client = Application::start("an_application", &format!("rebels deed={deed:?}"));
            let [worker, left] = pids(&client.says("worker"))[..] else { return };
            first.kill();
            first.ends();
            let mut next = serving("rebels");
            // A group with a stopped process, whose last parent of another group is gone, gets a SIGHUP from the kernel. That
            // ends no worker.
            next.says("a worker was adopted");
            client.kill();
            client.ends();
            // No process that reaps it is known: its server is gone.
            until(&format!("{deed:?}: the worker has ended"), || !runs(worker)).await;
            match deed {
                Defiance::IsHeld => kill(left),
                _ if left != 0 => until("the rest of its group has ended", || !runs(left)).await,
                _ => {}
            }
            assert!(runs(next.pid()));
        });
    }
}

/// G5, P12: the worker exits by itself, and the server learns at once that its client is gone.
fn a_client_that_stops_is_gone_although_another_process_holds_its_descriptors() {
    run(async {
        let place = Place::new();
        for At(_, at) in [At::path(&place), At::port()] {
            let mut server = serving(&format!("rebels {at}"));
            let mut client = Application::start("an_application", &format!("rebels {at}"));
            let [worker, holder] = pids(&client.says("worker"))[..] else { panic!("two pids") };
            client.go_on();
            let end = server.tells("a worker has ended").await;
            assert!(end.contains("exited with status 0"), "{end}");
            server.tells("a client has disconnected").await;
            assert_eq!(client.says("left:"), "nothing is left");
            assert!(!runs(worker) && runs(client.pid()) && runs(holder));
            kill(holder);
        }
    });
}

/// G5, S7: at a path, where the process of a client is seen.
fn a_client_that_dies_is_gone_although_another_process_holds_its_descriptors() {
    run(async {
        let _place = Place::new();
        let mut server = serving("rebels");
        let mut client = Application::start("an_application", "rebels");
        let [worker, holder] = pids(&client.says("worker"))[..] else { panic!("two pids") };
        client.kill();
        client.ends();
        server.tells("a client has disconnected").await;
        gone(worker).await;
        assert!(runs(holder), "nothing had to wait for it");
        kill(holder);
    });
}

/// G5, E7
fn the_end_of_a_worker_at_a_port_is_reported_although_another_process_holds_its_connection() {
    run(async {
        let At(address, at) = At::port();
        let _server = serving(&format!("rebels {at}"));
        let (path, pool) = (Scratch::path(), rebels(&address).start().expect("the pool starts"));
        let died = failure(pool.send(EndHeld(3, path.get().to_owned()))).await;
        assert_eq!((died.kind(), died.ending()), (FailureKind::Died, Some(Ending::Exited { code: 3 })));
        let holder = done(&path).await.expect("a holder");
        answer(pool.send(Obey)).await.expect("another worker");
        let report = bounded("the end", pool.stop(Duration::ZERO)).await;
        assert!(report.is_complete(), "{report}");
        assert!(runs(holder), "nothing had to wait for it");
        kill(holder);
    });
}
