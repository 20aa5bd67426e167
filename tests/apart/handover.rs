//! One server replaces another as a transaction: whatever happens, one server serves.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::*;
use crate::raw_client::{INSPECT, RawClient, hello};
use crate::relay::{Detour, receive, send};
use crate::upgrades::Loads;
use crate::*;

tests! {
    whichever_dies_at_any_step_the_other_one_serves,
    take_overs_at_once_leave_one_server_and_fail_no_call,
    a_second_take_over_waits_or_is_refused_by_name,
    a_successor_that_does_nothing_has_a_deadline,
    a_broken_connection_is_no_death,
    a_server_that_is_to_end_waits_for_its_successor,
    no_crowd_displaces_a_successor,
    a_successor_of_another_format_is_refused,
}

/// Messages of either side.
const READY: u8 = 0;
const SERVING: u8 = 1;
const OFFERED: u8 = 2;
const YOURS: u8 = 3;
const WAIT: u8 = 4;

/// A first message as in WIRE.md: it waits for its turn, and clients may stay.
const TAKE_OVER: [u8; 8] = [5, 1, 9, 1, b'1', 0, 1, 1];

/// The process that serves at the place, as it says itself.
fn serving_process(place: &Place, hello: &[u8]) -> u32 {
    let mut client = RawClient::identified(&place.0, hello);
    client.send(&[INSPECT]);
    let report = client.next();
    assert_eq!(report[0], 7, "a report");
    postcard::take_from_bytes::<u32>(&report[1..]).expect("a pid").0
}

/// Which side is killed in a round.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Predecessor,
    Successor,
}

/// The messages of a take-over in their order, each with its sender. The offer has several parts.
const STEPS: [(Side, u8); 5] = [
    (Side::Successor, TAKE_OVER[0]),
    (Side::Predecessor, OFFERED),
    (Side::Successor, READY),
    (Side::Predecessor, YOURS),
    (Side::Successor, SERVING),
];

/// Relays a take-over until a step, does something before or after the message of that step arrives, and returns the
/// connections.
fn relay(detour: &Detour, step: usize, is_delivered: bool, act: impl FnOnce()) -> [UnixStream; 2] {
    let (mut successor, mut predecessor) = detour.accept();
    for (at, (sender, kind)) in STEPS[..=step].iter().copied().enumerate() {
        loop {
            let (from, to) = match sender {
                Side::Successor => (&mut successor, &predecessor),
                Side::Predecessor => (&mut predecessor, &successor),
            };
            let message = receive(from).expect("the next message");
            let is_last = message.kind() == kind;
            assert!(is_last || kind == OFFERED, "{} in place of {kind}", message.kind());
            if at < step || !is_last || is_delivered {
                send(to, message);
            }
            if is_last {
                break;
            }
        }
    }
    act();
    [successor, predecessor]
}

/// S4: 200 rounds, in which either side is killed before and after each message arrives.
fn whichever_dies_at_any_step_the_other_one_serves() {
    run(async {
        let place = Place::new();
        let hello = hello().await;
        let mut predecessor = serving("");
        for round in 0..200 {
            let (step, is_delivered) = (round % STEPS.len(), (round / STEPS.len()).is_multiple_of(2));
            let killed = [Side::Predecessor, Side::Successor][round / (2 * STEPS.len()) % 2];
            let what = format!("round {round}: {killed:?}, step {step}, delivered: {is_delivered}");
            let detour = Detour::at(&place);
            let mut successor = server("take_over");
            // What is under way is lost, and both connections end.
            let _ = relay(&detour, step, is_delivered, || match killed {
                Side::Predecessor => predecessor.kill(),
                Side::Successor => successor.kill(),
            });
            drop(detour);
            let is_done = STEPS[step].1 == SERVING && step + 1 == STEPS.len() && is_delivered;
            match killed {
                Side::Predecessor => {
                    predecessor.ends();
                    predecessor = successor;
                }
                // The take-over was complete, and the only server was killed: that is no matter of a take-over.
                Side::Successor if is_done => {
                    successor.ends();
                    predecessor.says("good bye");
                    predecessor.ends();
                    predecessor = serving("");
                }
                Side::Successor => drop(successor.ends()),
            }
            let alive = predecessor.pid();
            // A connection to a socket that ended with its server ends as well.
            until(&what, || RawClient::try_identified(&place.0, &hello).is_some()).await;
            assert_eq!(serving_process(&place, &hello), alive, "{what}");
            if round % 40 == 0 {
                let mut third = server("");
                let told = third.says("refused:");
                assert!(told.contains(&format!("process {alive}")), "{what}: {told}");
                third.ends();
            }
        }
        signal(predecessor.pid(), Signal::TERM);
        predecessor.says("good bye");
        assert!(!place.0.exists(), "the last one takes its socket away");
    });
}

/// S4: two, three and five at once, under the load of two applications.
fn take_overs_at_once_leave_one_server_and_fail_no_call() {
    run(async {
        let _place = Place::new();
        let mut current = serving("");
        let loads = Loads::start();
        for count in [2, 3, 5, 2, 3, 5] {
            let mut servers: Vec<Application> = (0..count).map(|_| server("take_over")).collect();
            servers.push(current);
            let mut left = Vec::new();
            until("all but one have ended", || {
                left = servers.iter().map(Application::pid).filter(|&pid| runs(pid)).collect();
                left.len() <= 1
            })
            .await;
            assert_eq!(left.len(), 1, "one is left");
            let at = servers.iter().position(|server| server.pid() == left[0]).expect("one of them");
            current = servers.swap_remove(at);
            for mut server in servers {
                server.says("good bye");
                assert!(server.ends().success());
            }
            loads.reach(&current).await;
        }
        loads.end();
        until("all workers are gone", || children(current.pid()).is_empty()).await;
    });
}

/// A successor that goes no further than this message.
fn stuck_successor(place: &Place) -> RawClient {
    let mut stuck = RawClient::connect(&place.0);
    stuck.send(&TAKE_OVER);
    while stuck.next()[0] != OFFERED {}
    stuck
}

/// S4
fn a_second_take_over_waits_or_is_refused_by_name() {
    run(async {
        let place = Place::new();
        let first = serving("");
        let mut stuck = stuck_successor(&place);
        let test = format!("process {}", std::process::id());
        for (options, expected) in
            [("take_over wait=0", "is replacing it already"), ("take_over wait=50", "take_over_wait is over")]
        {
            let told = server(options).says("refused:");
            assert!(told.contains(&test) && told.contains(expected), "{told}");
        }
        let mut second = RawClient::connect(&place.0);
        second.send(&TAKE_OVER);
        let waits = second.next();
        assert!(waits[0] == WAIT && String::from_utf8_lossy(&waits).contains(&test), "{waits:?}");
        let mut third = server("take_over");
        // The first one goes on, and those that wait have their turn at the one that serves.
        stuck.send(&[READY]);
        assert_eq!(stuck.next(), [YOURS]);
        drop(stuck);
        while second.next()[0] != OFFERED {}
        drop(second);
        third.says("serves");
        until("the first one has ended", || !runs(first.pid())).await;
    });
}

/// S4
fn a_successor_that_does_nothing_has_a_deadline() {
    run(async {
        let place = Place::new();
        let hello = hello().await;
        let first = serving("");
        let mut stuck = stuck_successor(&place);
        assert_eq!(serving_process(&place, &hello), first.pid(), "it serves meanwhile");
        let refused = stuck.next();
        assert!(String::from_utf8_lossy(&refused).contains("it was not ready within 5s"), "{refused:?}");
        assert!(stuck.next().is_empty(), "the connection has ended");
        assert_eq!(serving_process(&place, &hello), first.pid());
    });
}

/// S4: the successor does not serve while its predecessor lives.
fn a_broken_connection_is_no_death() {
    run(async {
        let place = Place::new();
        let hello = hello().await;
        let first = serving("");
        let detour = Detour::at(&place);
        let mut second = server("take_over");
        drop(relay(&detour, 3, false, || ()));
        drop(detour);
        let told = second.says("refused:");
        assert!(told.contains("does not hand over"), "{told}");
        second.ends();
        until("it accepts again", || RawClient::try_identified(&place.0, &hello).is_some()).await;
        assert_eq!(serving_process(&place, &hello), first.pid());
    });
}

/// S4
fn a_server_that_is_to_end_waits_for_its_successor() {
    run(async {
        let place = Place::new();
        // One that fails after all.
        let mut first = serving("");
        let stuck = stuck_successor(&place);
        signal(first.pid(), Signal::TERM);
        let hello = hello().await;
        assert_eq!(serving_process(&place, &hello), first.pid(), "it serves as long as it is not known");
        drop(stuck);
        first.says("good bye");
        assert!(!place.0.exists(), "there is no successor");
        // One that takes over.
        let mut first = serving("");
        let detour = Detour::at(&place);
        let mut second = server("take_over");
        let [mut successor, mut predecessor] = relay(&detour, 2, true, || signal(first.pid(), Signal::TERM));
        send(&successor, receive(&mut predecessor).expect("an answer"));
        send(&predecessor, receive(&mut successor).expect("a confirmation"));
        drop(detour);
        second.says("serves");
        first.says("good bye");
        assert_eq!(serving_process(&place, &hello), second.pid());
    });
}

/// S4, S9
fn no_crowd_displaces_a_successor() {
    run(async {
        let place = Place::new();
        let _first = serving("");
        let mut slow = stuck_successor(&place);
        let mut crowd: Vec<_> = (0..600).map(|_| RawClient::connect(&place.0)).collect();
        let pool = place.start();
        served_by(&pool).await;
        slow.send(&[READY]);
        assert_eq!(slow.next(), [YOURS]);
        crowd.clear();
        drop(slow);
        served_by(&pool).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// S4
fn a_successor_of_another_format_is_refused() {
    run(async {
        let place = Place::new();
        let _first = serving("");
        let mut later = RawClient::connect(&place.0);
        later.send(&[5, 2, 1, 2, 3]);
        let refused = later.next();
        let told = String::from_utf8_lossy(&refused).into_owned();
        assert!(told.contains("format 1") && told.contains("not in 2"), "{told}");
    });
}
