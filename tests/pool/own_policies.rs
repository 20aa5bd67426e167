//! Calls that say themselves what becomes of them if they are given up while they run.

use crate::harness::*;
use crate::lanes::Yard;
use forkpool::prelude::*;
use forkpool::snapshot::EndReason;

/// C9
#[test]
fn a_call_that_says_so_costs_its_worker_when_it_is_given_up() {
    run(async {
        let yard = Yard::new();
        let pool = pool_of_one();
        // Also if it is said before or after the worker has it, or the call was sent on a thread without an arbiter.
        let early = pool.send(yard.acts(0, Act::Spin)).on_cancel(OnCancel::Kill);
        yard.begun(1).await;
        drop(early);
        gone(yard.began()[0].1).await;
        let late = pool.send(yard.acts(1, Act::Spin));
        yard.begun(2).await;
        let behind = pool.send(yard.task(2));
        drop(late.on_cancel(OnCancel::Kill));
        gone(yard.began()[1].1).await;
        let (killed, third) = (yard.began()[1].1, answer(behind).await.expect("it runs elsewhere"));
        assert_ne!(killed, third);
        let (sent_there, task) = (pool.clone(), yard.acts(3, Act::Spin));
        let foreign = on_a_thread(move || sent_there.send(task).on_cancel(OnCancel::Kill)).await;
        yard.begun(4).await;
        on_a_thread(move || drop(foreign)).await;
        gone(third).await;
        assert_eq!(yard.numbers(), [0, 1, 2, 3]);
        let is_counted = || pool.snapshot().totals.ends_of(EndReason::Cancelled) == 3;
        until("their ends are counted", is_counted).await;
    });
}

/// C9
#[test]
fn a_call_that_says_so_finishes_where_others_are_killed() {
    run(async {
        let yard = Yard::new();
        let pool = pool().workers(1..=1).on_cancel(OnCancel::Kill).start().expect("the pool starts");
        let call = pool.send(yard.gated(0, Act::Answer)).on_cancel(OnCancel::Finish);
        yard.begun(1).await;
        drop(call);
        let behind = pool.send(yard.task(1));
        yard.open();
        assert_eq!(answer(behind).await, Ok(yard.began()[0].1));
        assert_eq!(pool.stats().unheard, 1);
        // A request through the pool's address knows the pool's policy alone.
        let plain = pool.addr().send(yard.acts(2, Act::Spin));
        let plain = actix_rt::spawn(plain);
        yard.begun(3).await;
        plain.abort();
        gone(yard.began()[2].1).await;
    });
}

/// C9
#[test]
fn a_call_never_runs_that_is_given_up_before_whatever_it_says() {
    run(async {
        let yard = Yard::new();
        let pool = pool_of_one();
        let running = pool.send(yard.gated(0, Act::Answer));
        yard.begun(1).await;
        let policies = [OnCancel::Kill, OnCancel::Finish];
        let calls = policies.map(|policy| pool.send(yard.acts(1, Act::Exit)).on_cancel(policy));
        let batches = policies.map(|policy| pool.send_batch(vec![yard.acts(2, Act::Exit)]).on_cancel(policy));
        let behind = pool.send(yard.task(3));
        until("all wait", || pool.stats().waiting == 5).await;
        drop((calls, batches));
        // They leave the queue at once, so that they do not count towards max_waiting.
        until("the others wait no more", || pool.stats().waiting == 1).await;
        yard.open();
        let worker = answer(running).await.expect("it runs");
        assert_eq!(answer(behind).await, Ok(worker));
        settled(&pool, 1).await;
        assert_eq!(yard.numbers(), [0, 3]);
        assert_eq!(pool.stats().pids, [worker], "no call has ended it");
    });
}

/// C9
#[test]
fn a_batch_says_itself_what_becomes_of_its_running_call() {
    run(async {
        let yard = Yard::new();
        let pool = pool().workers(1..=1).start().expect("the pool starts");
        let batch = pool.send_batch(vec![yard.acts(0, Act::Spin), yard.task(1)]).on_cancel(OnCancel::Kill);
        yard.begun(1).await;
        drop(batch);
        gone(yard.began()[0].1).await;
        // On a checkout as well, and the other way round.
        let checkout = pool.checkout().on_cancel(OnCancel::Kill).open();
        let batch = checkout.call_batch(vec![yard.gated(2, Act::Answer)]).on_cancel(OnCancel::Finish);
        yard.begun(2).await;
        drop(batch);
        let behind = checkout.call(yard.task(3));
        yard.open();
        assert_eq!(answer(behind).await, Ok(yard.began()[1].1));
        assert_eq!(yard.numbers(), [0, 2, 3]);
    });
}

/// C9
#[test]
fn a_call_on_a_checkout_says_itself_what_becomes_of_it() {
    run(async {
        let yard = Yard::new();
        let pool = pool().workers(1..=1).start().expect("the pool starts");
        let (patient, call) = {
            let checkout = pool.checkout().open();
            let call = checkout.call(yard.acts(0, Act::Spin)).on_cancel(OnCancel::Kill);
            (checkout, call)
        };
        yard.begun(1).await;
        drop(call);
        gone(yard.began()[0].1).await;
        assert_eq!(failure(patient.call(Pid)).await.kind(), FailureKind::Cancelled);
        drop(patient);
        let strict = pool.checkout().on_cancel(OnCancel::Kill).open();
        let call = strict.call(yard.gated(1, Act::Answer)).on_cancel(OnCancel::Finish);
        yard.begun(2).await;
        drop(call);
        let behind = strict.call(yard.task(2));
        yard.open();
        assert_eq!(answer(behind).await, Ok(yard.began()[1].1));
    });
}
