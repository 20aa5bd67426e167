//! Calls run in the order in which they were sent, and mailboxes have no end.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::harness::*;
use actix::prelude::*;
use forkpool::prelude::*;

/// Enough to be refused or overtaken by a mailbox of any usual size.
const MANY: u64 = 2000;

/// Sends `MANY` numbers in every way there is, and returns what the worker remembers of them.
async fn remembered(checkout: Addr<Checkout<Probe>>) -> Vec<u64> {
    let recipient: Recipient<Remember> = checkout.clone().recipient();
    let mut requests = Vec::new();
    for number in 0..MANY {
        match number % 7 {
            0 => requests.push(checkout.send(Remember(number))),
            1 => checkout.try_send(Remember(number)).expect("a mailbox is never full"),
            2 => recipient.do_send(Remember(number)),
            3 => checkout.clone().do_send(Within(Duration::from_secs(20), Remember(number))),
            4 => recipient.try_send(Remember(number)).expect("a mailbox is never full"),
            5 => checkout.do_send(Within(None::<Duration>, Remember(number))),
            _ => checkout.clone().do_send(Remember(number)),
        }
    }
    let all = answer(checkout.send(Remember(MANY))).await.expect("what it remembers");
    for (at, request) in requests.into_iter().enumerate() {
        let before = answer(request).await.expect("what it remembers");
        assert_eq!(before.last(), Some(&(at as u64 * 7)), "an answer is its own");
    }
    all
}

fn in_order() -> Vec<u64> {
    (0..=MANY).collect()
}

/// C2
#[test]
fn calls_sent_in_every_way_run_in_one_order() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        pid(&checkout).await;
        assert_eq!(remembered(checkout).await, in_order());
    });
}

/// C2
#[test]
fn calls_sent_before_there_is_a_worker_run_in_one_order() {
    run(async {
        let script = Script::Sleep(Duration::from_millis(100));
        let slow = Setup { script, ..Setup::default() };
        let pool = builder::<Probe>(slow).workers(0..=1).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        assert_eq!(remembered(checkout).await, in_order());
    });
}

/// C2
#[test]
fn calls_sent_from_a_thread_without_an_arbiter_run_in_one_order() {
    run(async {
        let pool = pool_of_one();
        let handle = pool.clone();
        let requests = on_a_thread(move || {
            let checkout = handle.checkout().start();
            for number in 0..MANY {
                if number % 2 == 0 {
                    checkout.do_send(Remember(number));
                } else {
                    checkout.try_send(Remember(number)).expect("a mailbox is never full");
                }
            }
            checkout.send(Remember(MANY))
        })
        .await;
        assert_eq!(answer(requests).await, Ok(in_order()));
    });
}

/// C2
#[test]
fn what_one_thread_sent_before_another_runs_before_it() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        // The two take turns, and each sends once it was told that the other has.
        let (to_there, from_here) = std::sync::mpsc::channel();
        let (to_here, mut from_there) = tokio::sync::mpsc::unbounded_channel();
        let thread = {
            let checkout = checkout.clone();
            actix_rt::spawn(on_a_thread(move || {
                for number in from_here {
                    checkout.do_send(Remember(number));
                    to_here.send(()).expect("the test listens");
                }
            }))
        };
        for number in (0..MANY).step_by(2) {
            checkout.do_send(Remember(number));
            to_there.send(number + 1).expect("the thread listens");
            bounded("the thread's turn", from_there.recv()).await.expect("the thread answers");
        }
        drop(to_there);
        thread.await.expect("the thread ends");
        assert_eq!(answer(checkout.send(Remember(MANY))).await, Ok(in_order()));
    });
}

/// C2
#[test]
fn mailboxes_are_never_full() {
    const TOO_MANY: u64 = 50_000;
    run(async {
        let pool = pool().workers(1..=2).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let address = pool.addr();
        // Nothing is taken out meanwhile: this thread does not come to it.
        for number in 0..TOO_MANY {
            checkout.try_send(Slow(Duration::ZERO, number)).expect("a checkout's mailbox is never full");
        }
        for number in 0..MANY {
            address.try_send(Slow(Duration::ZERO, number)).expect("a pool's mailbox is never full");
            pool.try_send(Slow(Duration::ZERO, number)).expect("a pool is never full");
        }
        assert_eq!(answer(checkout.send(Slow(Duration::ZERO, 7))).await, Ok(7));
        until("every call is answered", || pool.stats().succeeded == TOO_MANY + 2 * MANY + 1).await;
    });
}

/// C2
#[test]
fn one_checkout_is_one_worker_however_many_there_are() {
    run(async {
        let pool = pool().workers(4..=4).start().expect("the pool starts");
        until("all workers are there", || pool.stats().idle == 4).await;
        let checkout = pool.checkout().start();
        let worker = pid(&checkout).await;
        let others: Vec<_> = (0..3).map(|_| pool.checkout().start()).collect();
        for round in 0..100 {
            for (number, other) in others.iter().enumerate() {
                assert_ne!(pid(other).await, worker, "round {round} of {number}");
            }
            assert_eq!(pid(&checkout).await, worker);
            assert_eq!(answer(checkout.send(Setups)).await, Ok(1));
        }
    });
}

/// C3
#[test]
fn what_is_queued_on_a_checkout_runs_before_the_next_gets_its_worker() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().start();
        pid(&holder).await;
        let next = pool.checkout().start();
        let first_of_next = next.send(Remember(1));
        let served = Rc::new(RefCell::new(Vec::new()));
        let queued: Vec<_> = (0..20_u64)
            .map(|number| {
                let (request, served) = (holder.send(Slow(Duration::from_millis(2), number)), served.clone());
                holder.do_send(Remember(100));
                actix_rt::spawn(async move {
                    assert_eq!(answer(request).await, Ok(number));
                    served.borrow_mut().push(number);
                })
            })
            .collect();
        drop(holder);
        // What the holder left was forgotten between the two, so the next began after its release.
        assert_eq!(answer(first_of_next).await, Ok(vec![1]));
        assert_eq!(*served.borrow(), (0..20).collect::<Vec<_>>());
        for client in queued {
            client.await.expect("a client");
        }
    });
}
