//! Who holds the workers: a call that waited for one in vain names them.

use std::time::Duration;

use crate::harness::*;
use crate::lanes::{Yard, warm};
use actix::Addr;
use forkpool::prelude::*;

const SOON: Duration = Duration::from_millis(50);

/// The failure of a checkout that waits for a worker in vain.
async fn in_vain(pool: &PoolHandle<Probe>) -> Failure {
    let waiting = pool.checkout().timeout(SOON).start();
    let failure = failure(waiting.send(Pid)).await;
    assert_eq!((failure.kind(), failure.phase()), (FailureKind::Timeout, Some(Phase::Waiting)));
    failure
}

/// What the line of a failure says of the holders: how many there are, and then each of them, without its time.
fn named(failure: &Failure) -> Vec<String> {
    let line = failure.to_string();
    let start = "at its limit of 50ms while waiting for a worker of pool probe: ";
    let (_, held) = line.split_once(start).unwrap_or_else(|| panic!("{line:?} names no holder"));
    let (count, list) = held.split_once(" held: ").expect("a count");
    let without_time = |holder: &str| match holder.split_once(" for ") {
        Some((place, rest)) => format!("{place}, {}", rest.split_once(", ").expect("what it does").1),
        None => holder.to_owned(),
    };
    std::iter::once(count.to_owned()).chain(list.split("; ").map(without_time)).collect()
}

fn idle(line: u32) -> String {
    format!("{}:{line}, idle", file!())
}

fn running(line: u32) -> String {
    format!("{}:{line}, running", file!())
}

/// Waits until another checkout finds the holders as they are expected.
async fn shows(pool: &PoolHandle<Probe>, expected: &[String]) {
    let mut last = Vec::new();
    for _ in 0..100 {
        last = named(&in_vain(pool).await);
        if last == expected {
            return;
        }
    }
    assert_eq!(last, expected);
}

/// E10
#[test]
fn a_task_that_waits_for_itself_sees_itself() {
    run(async {
        let pool = pool_of_one();
        let own = pool.checkout().start();
        let line = line!() - 1;
        pid(&own).await;
        assert_eq!(named(&in_vain(&pool).await), ["1 of 1 workers is".to_owned(), idle(line)]);
        // Every way to wait names the holder, and a limit of the wait alone does as well.
        let opened = pool.checkout().wait_timeout(SOON).open();
        let by_handle = failure(opened.call(Pid)).await;
        let by_batch = pool.addr().send(Within(SOON, Batch(vec![Pid, Pid])));
        let by_batch = answer(by_batch).await.swap_remove(0).expect_err("it waits for nothing");
        let by_send = failure(pool.send_within(SOON, Pid)).await;
        for failure in [by_handle, by_batch, by_send] {
            assert_eq!(named(&failure), ["1 of 1 workers is".to_owned(), idle(line)], "{failure}");
        }
        assert!(answer(own.send(Pid)).await.is_ok(), "the holder goes on");
    });
}

/// E10: the place is that of `checkout()`, also if the checkout is started on another line.
#[test]
fn the_place_is_where_the_checkout_was_made() {
    run(async {
        let pool = pool_of_one();
        let builder = pool.checkout();
        let line = line!() - 1;
        let own = builder.keep_after_error(true).open();
        assert!(answer(own.call(Pid)).await.is_ok());
        assert_eq!(named(&in_vain(&pool).await)[1..], [idle(line)]);
    });
}

/// E10
#[test]
fn a_holder_is_running_while_it_has_a_call_and_idle_before_and_afterwards() {
    run(async {
        let pool = pool_of_one();
        let yard = Yard::new();
        let own = pool.checkout().keep_after_error(true).start();
        let line = line!() - 1;
        until("it has its worker", || pool.stats().leased == 1).await;
        assert_eq!(named(&in_vain(&pool).await)[1..], [idle(line)], "it has made no call");
        for (round, act) in [Act::Answer, Act::Fail].into_iter().enumerate() {
            let call = own.send(yard.gated(1, act.clone()));
            yard.begun(round + 1).await;
            assert_eq!(named(&in_vain(&pool).await)[1..], [running(line)], "{act:?}");
            yard.open();
            let _answered = answer(call).await;
            assert_eq!(named(&in_vain(&pool).await)[1..], [idle(line)], "{act:?}");
            std::fs::remove_file(yard.gate()).expect("the gate is open");
        }
    });
}

/// E10
#[test]
fn a_holder_whose_worker_runs_checkout_done_is_running() {
    run(async {
        let setup = Setup { done: Script::Hang, ..Setup::default() };
        let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
        let own = pool.checkout().start();
        let line = line!() - 1;
        pid(&own).await;
        drop(own);
        shows(&pool, &["1 of 1 workers is".to_owned(), running(line)]).await;
        bounded("the pool's end", pool.stop(Duration::ZERO)).await;
    });
}

/// E10
#[test]
fn single_calls_are_named_with_the_place_of_the_one_that_runs() {
    run(async {
        let pool = warm(pool().workers(1..=1), 1).await;
        let yard = Yard::new();
        let at = |line: u32| vec![format!("calls of pool.send at {}", running(line))];
        let first = pool.send(yard.gated(1, Act::Answer));
        let line = line!() - 1;
        yard.begun(1).await;
        // Behind it in the same lane, on a checkout, and on another thread.
        assert_eq!(named(&failure(pool.send_within(SOON, Pid)).await)[1..], at(line));
        assert_eq!(named(&in_vain(&pool).await)[1..], at(line));
        let elsewhere = pool.clone();
        let behind = on_an_arbiter(move || async move { failure(elsewhere.send_within(SOON, Pid)).await });
        assert_eq!(named(&behind.await)[1..], at(line));
        yard.open();
        assert!(answer(first).await.is_ok());
        settled(&pool, 1).await;
        std::fs::remove_file(yard.gate()).expect("the gate is open");

        // The second call stands behind the first, and runs after it.
        pool.do_send(yard.task(2));
        let second = pool.send(yard.gated(3, Act::Answer));
        let line = line!() - 1;
        yard.begun(3).await;
        shows(&pool, &[vec!["1 of 1 workers is".to_owned()], at(line)].concat()).await;
        yard.open();
        assert!(answer(second).await.is_ok());
        settled(&pool, 1).await;
        std::fs::remove_file(yard.gate()).expect("the gate is open");

        pool.addr().do_send(here(yard.gated(4, Act::Answer)));
        let line = line!() - 1;
        yard.begun(4).await;
        assert_eq!(named(&in_vain(&pool).await)[1..], at(line), "a message to the pool's address");
        yard.open();
        settled(&pool, 1).await;
    });
}

/// E10
#[test]
fn a_batch_holds_its_worker_in_the_name_of_its_sender() {
    run(async {
        let pool = pool_of_one();
        let yard = Yard::new();
        let batch = pool.send_batch(vec![yard.gated(1, Act::Answer)]);
        let line = line!() - 1;
        yard.begun(1).await;
        assert_eq!(named(&in_vain(&pool).await)[1..], [running(line)]);
        yard.open();
        assert!(answer(batch).await.iter().all(Result::is_ok));
    });
}

/// E10
#[test]
fn a_holder_that_was_released_is_gone_and_those_of_other_pools_are_never_there() {
    run(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        let first = pool.checkout().start();
        let first_line = line!() - 1;
        pid(&first).await;
        let second = pool.checkout().start();
        let second_line = line!() - 1;
        pid(&second).await;
        let other = pool_of_one();
        let elsewhere = other.checkout().start();
        let other_line = line!() - 1;
        pid(&elsewhere).await;
        let both = ["2 of 2 workers are".to_owned(), idle(first_line), idle(second_line)];
        assert_eq!(named(&in_vain(&pool).await), both, "the one that holds longer comes first");
        assert_eq!(named(&in_vain(&other).await)[1..], [idle(other_line)]);
        drop(first);
        let third = pool.checkout().start();
        let third_line = line!() - 1;
        pid(&third).await;
        assert_eq!(named(&in_vain(&pool).await)[1..], [idle(second_line), idle(third_line)]);
        drop((second, third));
        assert!(answer(pool.send(Pid)).await.is_ok());
    });
}

/// E10
#[test]
fn of_many_holders_those_are_named_that_hold_longest() {
    run(async {
        let pool = pool().workers(7..=7).start().expect("the pool starts");
        let first = pool.checkout().start();
        let line = line!() - 1;
        pid(&first).await;
        let mut others: Vec<Addr<Checkout<Probe>>> = Vec::new();
        for _ in 0..6 {
            others.push(pool.checkout().start());
            pid(&others[others.len() - 1]).await;
        }
        let loop_line = line!() - 3;
        let failure = in_vain(&pool).await;
        let expected = [
            "7 of 7 workers are".to_owned(),
            idle(line),
            idle(loop_line),
            idle(loop_line),
            idle(loop_line),
            "and 3 more".to_owned(),
        ];
        assert_eq!(named(&failure), expected);
    });
}

/// E10, E7
#[test]
fn the_names_of_the_holders_travel_with_the_failure() {
    run(async {
        let pool = pool_of_one();
        let own = pool.checkout().start();
        let line = line!() - 1;
        pid(&own).await;
        let failure = in_vain(&pool).await;
        let text = serde_json::to_string(&failure).expect("it is written");
        let read: Failure = serde_json::from_str(&text).expect("it is read");
        assert_eq!((named(&read), &read), (named(&failure), &failure));
        let bytes = postcard::to_stdvec(&failure).expect("it is written");
        let read: Failure = postcard::from_bytes(&bytes).expect("it is read");
        assert_eq!(named(&read)[1..], [idle(line)]);
        assert!(format!("{failure:#}").lines().next().is_some_and(|line| line.contains("is held: ")));
        assert!(!failure.public().contains("held"), "the public text names no place");
        // Without a wait for a worker there is no holder to be named.
        let ran = own.send(Within(SOON, Spin));
        assert!(!crate::harness::failure(ran).await.to_string().contains(" held: "));
    });
}
