//! The pool state in single cases: bulkheads, and pools that close.

use super::state::{Action, Admission, PoolState};
use super::tests::{Model, Step, limit, options};
use super::waiting::{BulkheadId, Request, WaitingCalls};
use super::worker_state::RetireReason;
use crate::clock::Instant;

/// Returns a pool of so many idle workers and no others, with bulkheads of these numbers of workers.
fn bulkheads(workers: usize, most: &[usize]) -> Model {
    let mut model = Model::new(options(|options| {
        options.workers = workers..=workers;
        options.message_limits = most.iter().map(|most| limit(*most)).collect();
    }));
    (0..workers).for_each(|_| model.take(Step::Ready(0)));
    model
}

/// P4
#[test]
fn a_waiter_at_its_bulkhead_is_passed_over_and_keeps_its_place() {
    let mut model = bulkheads(3, &[1]);
    model.take(Step::AcquireAt(0));
    model.take(Step::AcquireAt(0));
    assert_eq!(
        (model.leased.len(), model.waiting.len()),
        (1, 1),
        "the second one waits, and workers are idle"
    );
    (0..3).for_each(|_| model.take(Step::Acquire));
    assert_eq!(model.leased.iter().map(|(_, to)| *to).collect::<Vec<_>>(), [1, 3, 4], "others pass it over");
    model.take(Step::Release(1));
    assert_eq!(
        Vec::from(model.waiting.clone()),
        [2],
        "also when a worker is released that is not of its bulkhead"
    );
    model.take(Step::Acquire);
    let first = model.leased.iter().position(|(_, to)| *to == 1).expect("it has its worker");
    model.take(Step::Release(first));
    assert_eq!(Vec::from(model.waiting.clone()), [6], "it is ahead of those that came later");
}

/// P4
#[test]
fn a_place_at_a_bulkhead_is_free_however_its_worker_ends() {
    let table: [(&str, Step); 3] =
        [("released", Step::Release(0)), ("killed", Step::TimeOut(0)), ("exited", Step::Exit(1))];
    for (row, step) in table {
        let mut model = bulkheads(2, &[1]);
        model.take(Step::AcquireAt(0));
        model.take(Step::AcquireAt(0));
        assert_eq!(model.leased.len(), 1, "{row}");
        assert_eq!(model.leased[0].0, 2, "{row}: the worker that was ready last");
        model.take(step);
        assert_eq!(model.leased.iter().map(|(_, to)| *to).collect::<Vec<_>>(), [2], "{row}");
    }
}

/// P4
#[test]
fn a_greater_number_lets_those_in_that_wait_and_a_smaller_one_takes_no_worker() {
    let mut model = bulkheads(4, &[1]);
    (0..4).for_each(|_| model.take(Step::AcquireAt(0)));
    assert_eq!(model.leased.len(), 1);
    model.take(Step::SetMost(0, 3));
    assert_eq!((model.leased.len(), model.waiting.len()), (3, 1));
    model.take(Step::SetMost(0, 1));
    assert_eq!(model.state.waiting().usage(BulkheadId(0)), Some((3, 1)));
    (0..2).for_each(|_| model.take(Step::Release(0)));
    assert_eq!((model.leased.len(), model.waiting.len()), (1, 1), "it has as many as it may have");
}

/// P2, P3
#[test]
fn no_worker_is_forked_for_those_that_wait_at_a_bulkhead() {
    let mut model = Model::new(options(|options| {
        options.workers = 0..=5;
        options.message_limits = vec![limit(2)];
    }));
    (0..4).for_each(|_| model.take(Step::AcquireAt(0)));
    assert_eq!(model.starting.len(), 2);
    model.take(Step::Acquire);
    assert_eq!(model.starting.len(), 3);
}

/// P9
#[test]
fn those_that_wait_at_a_bulkhead_count_and_keep_none_out_for_whom_a_worker_can_be_forked() {
    let mut model = Model::new(options(|options| {
        options.workers = 0..=3;
        options.max_waiting = Some(2);
        options.message_limits = vec![limit(1)];
    }));
    (0..4).for_each(|_| model.take(Step::AcquireAt(0)));
    assert_eq!(model.waiting.len(), 3, "one for which a worker is started, and two at the bulkhead");
    let mut acquire = |id, bulkhead| model.state.acquire(Request::checkout(id, bulkhead), model.now);
    assert_eq!(acquire(5, Some(BulkheadId(0))), Admission::Overloaded { waiting: 3 });
    assert_eq!(acquire(6, None), Admission::Queued);
    assert_eq!(acquire(7, None), Admission::Queued);
    assert_eq!(acquire(8, None), Admission::Overloaded { waiting: 5 });
}

/// P9
#[test]
fn calls_of_lanes_count_for_their_bulkhead() {
    let model = Model::new(options(|options| {
        options.workers = 0..=3;
        options.max_waiting = Some(2);
        options.message_limits = vec![limit(1)];
    }));
    let at = Some(BulkheadId(0));
    let mut calls = WaitingCalls::default();
    *calls.of(at) = 2;
    assert_eq!(model.state.overload(&calls, at), None, "one may have a worker, and two may wait");
    *calls.of(at) = 3;
    assert_eq!(model.state.overload(&calls, at), Some(3));
    assert_eq!(model.state.overload(&calls, None), None, "a worker can be forked for it");
    *calls.of(None) = 2;
    assert_eq!(model.state.overload(&calls, None), Some(5));
}

/// P12
#[test]
fn a_closing_pool_waits_for_a_holder_that_does_not_know_of_its_worker_s_exit_yet() {
    let table: [(&str, bool, bool); 3] =
        [("requests another worker", true, false), ("gives up", false, false), ("is refused", false, true)];
    for (row, reacquires, stops) in table {
        let mut model = Model::new(options(|options| options.workers = 1..=1));
        model.take(Step::Ready(0));
        model.take(Step::Acquire);
        let (worker, _) = model.leased[0];
        model.state.close(model.now);
        model.take(Step::Exit(0));
        assert!(!model.state.is_drained(), "{row}: it may request another worker");
        if reacquires {
            model.take(Step::Reacquire);
            assert_eq!(model.starting.len(), 1, "{row}: and gets one");
        }
        if stops {
            model.state.stop(model.now);
            assert!(model.state.is_drained(), "{row}: no checkout is served any more");
        }
        model.state.dismiss(worker, RetireReason::Broken, model.now);
        assert_eq!(model.state.is_drained(), !reacquires, "{row}");
    }
}

/// P12
#[test]
fn a_closing_pool_retires_starting_workers_once_the_last_waiting_checkout_is_served() {
    let mut model = Model::new(options(|options| options.workers = 0..=2));
    model.take(Step::Acquire);
    model.take(Step::Acquire);
    model.take(Step::Cancel(1));
    model.state.close(model.now);
    model.carry_out();
    assert_eq!(model.starting.len(), 2, "a checkout waits");
    model.take(Step::Ready(0));
    assert_eq!((model.starting.len(), model.ending.len()), (0, 1), "no checkout waits any more");
}

/// P2: the worker that takes its place at the bulkhead has a spare one requested.
#[test]
fn the_place_of_a_worker_that_exited_early_is_taken_and_no_worker_is_forked_before_the_delay() {
    let options = options(|options| {
        options.workers = 0..=3;
        options.spare_workers = 1;
        options.message_limits = vec![limit(1)];
        options.restart.jitter = 0.0;
    });
    let (mut state, now, at) = (PoolState::new(&options), Instant::now(), Some(BulkheadId(0)));
    state.acquire(Request::checkout(7, at), now);
    state.mark_ready(1, now);
    state.mark_ready(2, now);
    assert_eq!(state.acquire(Request::checkout(8, at), now), Admission::Queued);
    while state.next_action().is_some() {}
    state.record_exit(1, false, now, 0.5);
    let actions = Vec::from_iter(std::iter::from_fn(|| state.next_action()));
    assert_eq!(actions, [Action::Grant { to: 8, worker: 2 }]);
    assert_eq!(state.next_tick(), now.checked_add(options.restart.first));
}

/// P2
#[test]
fn only_a_worker_that_was_requested_after_the_last_early_exit_ends_the_delay() {
    let mut model = Model::new(options(|options| {
        options.workers = 2..=2;
        options.restart.jitter = 0.0;
    }));
    model.take(Step::Exit(0));
    let due = model.state.next_tick();
    model.take(Step::Ready(0));
    assert_eq!(model.starting.len(), 0, "the ready worker was requested before the early exit");
    assert_eq!(model.state.next_tick(), due, "the delay goes on");
    model.now = due.expect("another attempt is due");
    model.state.tick(model.now);
    model.carry_out();
    assert_eq!(model.starting.len(), 1);
}
