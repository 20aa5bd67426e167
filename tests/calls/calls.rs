//! Calls and their answers.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use crate::harness::*;
use actix::MailboxError;
use actix::prelude::*;
use forkpool::prelude::*;

/// C4
#[test]
fn a_message_to_the_pool_is_answered_by_a_worker() {
    run(async {
        let pool = pool_of_one();
        let answer = pool.send(EchoText("hello".to_owned())).await;
        assert_eq!(answer, Ok("hello".to_owned()));
        let failure = pool.send(Fail("no".to_owned())).await.unwrap_err();
        assert_eq!((failure.kind(), failure.to_string()), (FailureKind::Task, "no".to_owned()));
        pool.stop(std::time::Duration::ZERO).await;
        assert!(servers().is_empty());
    });
}

/// C1
#[test]
fn checkouts_stand_in_line_in_the_order_of_their_start() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().start();
        pid(&holder).await;
        let [first, second, third] = std::array::from_fn(|_| pool.checkout().start());
        assert_eq!(pool.stats().waiting, 3);
        let served = Rc::new(RefCell::new(Vec::new()));
        // Their calls come in the opposite order.
        let clients = [(3, third), (2, second), (1, first)].map(|(name, checkout)| {
            let served = served.clone();
            actix_rt::spawn(async move {
                pid(&checkout).await;
                served.borrow_mut().push(name);
            })
        });
        drop(holder);
        for client in clients {
            client.await.expect("a client");
        }
        assert_eq!(*served.borrow(), [1, 2, 3]);
    });
}

/// C1
#[test]
fn a_checkout_holds_its_worker_though_it_never_makes_a_call() {
    run(async {
        let pool = pool_of_one();
        let holder = pool.checkout().start();
        until("the worker is held", || pool.stats().leased == 1).await;
        let impatient = pool.checkout().timeout(None).wait_timeout(Duration::from_millis(100)).start();
        let failure = failure(impatient.send(Pid)).await;
        assert_eq!((failure.kind(), failure.phase()), (FailureKind::Timeout, Some(forkpool::Phase::Waiting)));
        let next = pool.checkout().start();
        drop(holder);
        pid(&next).await;
    });
}

/// C1
#[test]
fn calls_queue_before_any_worker_exists() {
    run(async {
        let script = Script::Sleep(Duration::from_millis(100));
        let slow = Setup { script, ..Setup::default() };
        let pool = builder::<Probe>(slow).workers(0..=1).start().expect("the pool starts");
        assert_eq!(pool.stats().forked, 0);
        let checkouts: Vec<_> = (0..20).map(|_| pool.checkout().start()).collect();
        assert_eq!(pool.stats().waiting, 20);
        let requests: Vec<_> = (0..20)
            .zip(checkouts)
            .map(|(number, checkout)| checkout.send(Slow(Duration::ZERO, number)))
            .collect();
        assert_eq!(pool.stats().checkouts, 0);
        for (number, request) in (0..).zip(requests) {
            assert_eq!(answer(request).await, Ok(number));
        }
    });
}

/// C1
#[test]
fn a_checkout_is_made_at_once_where_no_worker_will_ever_be() {
    run(async {
        let hangs = Setup { script: Script::Hang, ..Setup::default() };
        let pool = builder::<Probe>(hangs).workers(1..=1).start().expect("the pool starts");
        let checkouts: Vec<_> = (0..1000).map(|_| pool.checkout().start()).collect();
        checkouts.iter().for_each(|checkout| checkout.do_send(Pid));
        assert_eq!(pool.stats().waiting, 1000);
        pool.stop(Duration::ZERO).await;
        assert_eq!(failure(checkouts[0].send(Pid)).await.kind(), FailureKind::Stopped);
    });
}

/// C4
#[test]
fn a_checkout_is_an_address_like_any_other() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        let recipient: Recipient<EchoText> = checkout.clone().recipient();
        assert_eq!(answer(recipient.send(EchoText("r".to_owned()))).await, Ok("r".to_owned()));
        checkout.do_send(Remember(1));
        checkout.try_send(Remember(2)).expect("there is room");
        let remembering = checkout.clone().recipient();
        remembering.do_send(Remember(3));
        remembering.try_send(Remember(4)).expect("there is room");
        assert_eq!(answer(checkout.send(Remember(5))).await, Ok(vec![1, 2, 3, 4, 5]));
        let weak = checkout.downgrade();
        let again = weak.upgrade().expect("the checkout is there");
        assert_eq!(answer(again.send(Remember(6))).await.map(|all| all.len()), Ok(6));
        let weak_recipient = remembering.downgrade();
        assert!(weak_recipient.upgrade().is_some());
        drop((recipient, checkout, remembering, again));
        until("the worker is released", || pool.stats().idle == 1).await;
        assert!(weak.upgrade().is_none());
        assert!(weak_recipient.upgrade().is_none());
    });
}

/// C4
#[test]
fn a_pool_is_an_address_like_any_other() {
    run(async {
        let pool = pool_of_one();
        let address = pool.addr();
        assert_eq!(answer(address.send(EchoText("a".to_owned()))).await, Ok("a".to_owned()));
        let within = address.send(Within(Duration::from_secs(9), EchoText("w".to_owned())));
        assert_eq!(answer(within).await, Ok("w".to_owned()));
        let recipient: Recipient<EchoText> = address.clone().recipient();
        assert_eq!(answer(recipient.send(EchoText("r".to_owned()))).await, Ok("r".to_owned()));
        address.do_send(Setups);
        address.try_send(Setups).expect("there is room");
        pool.do_send(Setups);
        pool.try_send(Setups).expect("there is room");
        let number = pool.clone().send_within(PATIENCE, Slow(Duration::ZERO, 8));
        assert_eq!(answer(number).await, Ok(8));
        let weak = address.downgrade();
        assert!(weak.upgrade().is_some());
        until("every call is answered", || pool.stats().succeeded == 8).await;
    });
}

/// C4
#[test]
fn a_request_that_gives_up_leaves_every_other_its_own_answer() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        // Long enough for the worker to begin the call, however busy the machine is.
        let soon = Duration::from_millis(300);
        let slow = || Slow(Duration::from_millis(600), 1);
        pid(&checkout).await;
        assert_eq!(checkout.send(slow()).timeout(soon).await, Err(MailboxError::Timeout));
        assert_eq!(answer(checkout.send(Slow(Duration::ZERO, 2))).await, Ok(2));
        drop(checkout);
        assert!(actix_rt::time::timeout(soon, pool.send(slow())).await.is_err());
        assert_eq!(answer(pool.send(Slow(Duration::ZERO, 3))).await, Ok(3));
        assert_eq!(pool.addr().send(slow()).timeout(soon).await, Err(MailboxError::Timeout));
        assert_eq!(answer(pool.addr().send(Slow(Duration::ZERO, 4))).await, Ok(4));
        assert_eq!(pool.stats().unheard, 3);
    });
}

/// C4
#[test]
fn every_call_of_a_crowd_gets_its_own_answer() {
    run(async {
        let pool = pool().workers(1..=4).start().expect("the pool starts");
        let addresses: Vec<_> = (0..8).map(|_| pool.checkout().start()).collect();
        let requests: Vec<_> = (0..4000_u64)
            .map(|number| {
                let call = Slow(Duration::ZERO, number);
                let checkout = &addresses[number as usize % addresses.len()];
                let request = match number % 3 {
                    0 => just_sent(pool.send(call)),
                    _ => just_sent(checkout.send(call)),
                };
                (number, request)
            })
            .collect();
        drop(addresses);
        for (number, request) in requests {
            assert_eq!(answer(request).await, Ok(number));
        }
        let stats = pool.stats();
        assert_eq!((stats.succeeded, stats.errors, stats.failures), (4000, 0, Vec::new()));
    });
}

type Sent<R> = Pin<Box<dyn Future<Output = R>>>;

/// A request that is not answered yet.
fn just_sent<R: Answered>(request: impl Future<Output = R> + 'static) -> Sent<R::Answer> {
    let mut sent: Sent<R::Answer> = Box::pin(async { request.await.answer() });
    assert!(poll_once(&mut sent).is_pending(), "it was answered inside the send");
    sent
}

/// C5
#[test]
fn nothing_is_answered_inside_the_send() {
    run(async {
        let pool = pool().workers(1..=1).max_payload(1000).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        pid(&checkout).await;
        let too_large = || Echo(vec![0; 2000]);
        let mut sent = vec![just_sent(pool.send(too_large())), just_sent(checkout.send(too_large()))];
        answer(checkout.send(Abort("enough".to_owned()))).await;
        sent.push(just_sent(checkout.send(Echo(Vec::new()))));
        pool.stop(Duration::ZERO).await;
        sent.push(just_sent(pool.send(Echo(Vec::new()))));
        sent.push(just_sent(pool.checkout().start().send(Echo(Vec::new()))));
        let mut kinds = Vec::new();
        for request in sent {
            kinds.push(failure(request).await.kind());
        }
        use FailureKind::{Aborted, Payload, Stopped};
        assert_eq!(kinds, [Payload, Payload, Aborted, Stopped, Stopped]);
    });
}

/// C8
#[test]
fn calls_that_were_sent_and_forgotten_keep_their_checkout_until_they_are_answered() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        for number in 0..4 {
            checkout.do_send(Slow(Duration::from_millis(30), number));
        }
        drop(checkout);
        let next = pool.checkout().start();
        pid(&next).await;
        // The four came first, all of them, and they were one checkout.
        assert_eq!((pool.stats().succeeded, pool.stats().checkouts), (5, 2));
    });
}

/// C8
#[test]
fn a_checkout_is_released_once_its_last_address_is_gone() {
    run(async {
        let done = Scratch::path();
        let setup = Setup { done_journal: done.some(), ..Setup::default() };
        let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let worker = pid(&checkout).await;
        let (clone, recipient) = (checkout.clone(), checkout.clone().recipient::<Pid>());
        drop((checkout, clone));
        assert_eq!(answer(recipient.send(Pid)).await, Ok(worker));
        assert_eq!((pool.stats().leased, done.lines()), (1, Vec::new()));
        drop(recipient);
        until("the worker is released", || pool.stats().idle == 1).await;
        assert_eq!(done.lines(), [worker.to_string()]);
    });
}
