//! The pool state against a small model, under random sequences of events.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::state::*;
use super::worker_state::RetireReason;
use crate::actors::api::recycling::Recycle;
use crate::config::Options;

/// One event. A number picks one of the workers or checkouts to which it can happen.
#[derive(Clone, Copy, Debug)]
enum Step {
    Acquire,
    Reacquire,
    Cancel(usize),
    Ready(usize),
    SetupFails(usize),
    Release(usize),
    TimeOut(usize),
    Exit(usize),
    /// An idle worker has ended, and its server does not report it yet.
    Die(usize),
    /// The exit of an ending worker is reported.
    Reap(usize),
    Wait(u16),
    Pause,
    Resume,
    Recycle,
    /// A user has one killed, whatever its state.
    Kill(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = any::<usize>;
    let step = prop_oneof![
        6 => Just(Step::Acquire),
        1 => Just(Step::Reacquire),
        2 => which().prop_map(Step::Cancel),
        5 => which().prop_map(Step::Ready),
        1 => which().prop_map(Step::SetupFails),
        4 => which().prop_map(Step::Release),
        2 => which().prop_map(Step::TimeOut),
        1 => which().prop_map(Step::Exit),
        1 => which().prop_map(Step::Die),
        3 => which().prop_map(Step::Reap),
        2 => any::<u16>().prop_map(Step::Wait),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => Just(Step::Recycle),
        1 => which().prop_map(Step::Kill),
    ];
    prop::collection::vec(step, 0..200)
}

fn limits() -> impl Strategy<Value = Options> {
    use prop::option::of as optional;
    (0..4_usize, 1..6_usize, optional(1..5_u64), optional(1..4_usize)).prop_map(
        |(min, most, max_checkouts, max_waiting)| Options {
            workers: min.min(most)..=most,
            max_checkouts,
            max_waiting,
            max_lifetime: Some(Duration::from_secs(300)),
            ..Options::named("model")
        },
    )
}

/// What the scheduler, the workers and the checkouts know, and the pool state under test.
struct Model {
    state: PoolState,
    options: Options,
    now: Instant,
    starting: BTreeSet<u64>,
    idle: BTreeSet<u64>,
    /// Pairs of a worker and its checkout.
    leased: Vec<(u64, u64)>,
    ending: BTreeSet<u64>,
    /// Exited workers whose holders do not know of it yet.
    unnoticed_exits: BTreeSet<u64>,
    waiting: VecDeque<u64>,
    last_checkout: u64,
}

impl Model {
    fn new(options: Options) -> Self {
        let state = PoolState::new(&options);
        let mut model = Model {
            state,
            options,
            now: Instant::now(),
            starting: BTreeSet::new(),
            idle: BTreeSet::new(),
            leased: Vec::new(),
            ending: BTreeSet::new(),
            unnoticed_exits: BTreeSet::new(),
            waiting: VecDeque::new(),
            last_checkout: 0,
        };
        model.state.open(model.now);
        model.carry_out();
        model
    }

    fn processes(&self) -> usize {
        self.starting.len() + self.idle.len() + self.leased.len() + self.ending.len()
    }

    /// Carries out the actions of the pool state, and checks that each is allowed.
    fn carry_out(&mut self) {
        while let Some(action) = self.state.next_action() {
            match action {
                Action::Fork(worker) => {
                    assert!(self.starting.insert(worker), "worker {worker} is forked once");
                    assert!(self.processes() <= *self.options.workers.end(), "never more than the maximum");
                }
                Action::Grant { to, worker } => {
                    let first = self.waiting.pop_front();
                    assert_eq!(first, Some(to), "first come, first served");
                    assert!(self.idle.remove(&worker), "only an idle worker is granted");
                    self.leased.push((worker, to));
                }
                Action::Retire(worker, _) => {
                    assert!(
                        self.idle.remove(&worker) || self.starting.remove(&worker),
                        "no checkout holds worker {worker}"
                    );
                    self.ending.insert(worker);
                }
                Action::Refuse(checkout) => {
                    assert_eq!(self.waiting.pop_front(), Some(checkout), "refused in order, once");
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        let counts = Counts {
            starting: self.starting.len(),
            idle: self.idle.len(),
            leased: self.leased.len(),
            ending: self.ending.len(),
        };
        assert_eq!(self.state.counts(), counts);
        assert!(self.state.waiting().eq(self.waiting.iter().copied()), "the queue is the model's");
        let waits = !self.waiting.is_empty() && !self.state.is_paused();
        assert!(self.idle.is_empty() || !waits, "no checkout waits while a worker is idle");
        assert!(self.processes() <= *self.options.workers.end(), "never more than the maximum");
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Acquire => self.acquire(false),
            Step::Reacquire => self.acquire(true),
            Step::Cancel(which) => self.cancel(which),
            Step::Ready(which) => self.ready(which),
            Step::SetupFails(which) => {
                if let Some(worker) = pick(&self.starting, which) {
                    self.starting.remove(&worker);
                    self.ending.insert(worker);
                    self.state.mark_setup_failed(worker, self.now, 0.5);
                }
            }
            Step::Release(which) => {
                if let Some((worker, _)) = self.release(which) {
                    self.idle.insert(worker);
                    self.state.release(worker, ReleaseReport::default(), self.now);
                }
            }
            Step::TimeOut(which) => {
                if let Some((worker, _)) = self.release(which) {
                    self.ending.insert(worker);
                    self.state.dismiss(worker, RetireReason::TimedOut, self.now);
                }
            }
            Step::Exit(which) => self.exit(which),
            Step::Die(which) => {
                if let Some(worker) = pick(&self.idle, which) {
                    self.idle.remove(&worker);
                    self.ending.insert(worker);
                    assert!(self.state.mark_dead(worker, self.now, 0.5));
                    assert!(!self.state.mark_dead(worker, self.now, 0.5), "it is not idle any more");
                }
            }
            Step::Reap(which) => {
                if let Some(worker) = pick(&self.ending, which) {
                    self.ending.remove(&worker);
                    self.state.record_exit(worker, true, self.now, 0.5);
                }
            }
            Step::Wait(millis) => {
                self.now += Duration::from_millis(u64::from(millis));
                self.state.tick(self.now);
            }
            Step::Pause => _ = self.state.pause(),
            Step::Resume => _ = self.state.resume(self.now),
            Step::Recycle => _ = self.state.recycle(Recycle::All, self.now),
            Step::Kill(which) => self.kill(which),
        }
        self.carry_out();
    }

    fn acquire(&mut self, again: bool) {
        self.last_checkout += 1;
        let id = self.last_checkout;
        let answer =
            if again { self.state.reacquire(id, self.now) } else { self.state.acquire(id, self.now) };
        match answer {
            Admission::Granted { worker } => {
                assert!(
                    self.waiting.is_empty() && !self.state.is_paused(),
                    "no waiting checkout is overtaken"
                );
                assert!(self.idle.remove(&worker), "only an idle worker is granted");
                self.leased.push((worker, id));
            }
            Admission::Queued if again => self.waiting.push_front(id),
            Admission::Queued => self.waiting.push_back(id),
            Admission::Overloaded { waiting } => {
                assert_eq!(waiting, self.waiting.len());
                assert!(self.options.max_waiting.is_some_and(|most| waiting >= most));
            }
            Admission::Stopped => assert_ne!(self.state.phase(), PoolPhase::Open),
        }
    }

    fn cancel(&mut self, which: usize) {
        if !self.waiting.is_empty()
            && let Some(id) = self.waiting.remove(which % self.waiting.len())
        {
            assert!(self.state.cancel(id, self.now));
            assert!(!self.state.cancel(id, self.now), "a checkout leaves the queue once");
        }
    }

    fn ready(&mut self, which: usize) {
        if let Some(worker) = pick(&self.starting, which) {
            self.starting.remove(&worker);
            self.idle.insert(worker);
            self.state.mark_ready(worker, self.now);
        }
    }

    fn release(&mut self, which: usize) -> Option<(u64, u64)> {
        let count = self.leased.len();
        (count > 0).then(|| self.leased.swap_remove(which % count))
    }

    fn exit(&mut self, which: usize) {
        let leased = self.leased.iter().map(|(worker, _)| *worker);
        let living: BTreeSet<u64> =
            self.starting.iter().copied().chain(self.idle.iter().copied()).chain(leased).collect();
        if let Some(worker) = pick(&living, which) {
            self.starting.remove(&worker);
            self.idle.remove(&worker);
            self.add_unnoticed_exit(worker);
            self.state.record_exit(worker, true, self.now, 0.5);
        }
    }

    fn kill(&mut self, which: usize) {
        let leased = self.leased.iter().map(|(worker, _)| *worker);
        let serving: BTreeSet<u64> = self.starting.union(&self.idle).copied().chain(leased).collect();
        let Some(worker) = pick(&serving, which) else { return };
        self.add_unnoticed_exit(worker);
        if !self.starting.contains(&worker) {
            self.idle.remove(&worker);
            self.ending.insert(worker);
        }
        self.state.kill(worker, self.now);
    }

    fn add_unnoticed_exit(&mut self, worker: u64) {
        let before = self.leased.len();
        self.leased.retain(|(leased, _)| *leased != worker);
        if self.leased.len() < before {
            self.unnoticed_exits.insert(worker);
        }
    }

    /// Lets everything succeed until the pool is at rest.
    fn settle(&mut self) {
        self.take(Step::Resume);
        for _ in 0..1000 {
            if let Some(worker) = self.unnoticed_exits.pop_first() {
                self.state.dismiss(worker, RetireReason::Broken, self.now);
                self.carry_out();
            } else if !self.ending.is_empty() {
                let before = self.ending.len();
                self.take(Step::Reap(0));
                assert_eq!(self.ending.len(), before - 1);
            } else if !self.starting.is_empty() {
                self.take(Step::Ready(0));
            } else if !self.leased.is_empty() {
                self.take(Step::Release(0));
            } else if !self.waiting.is_empty() || self.idle.len() < *self.options.workers.start() {
                let due = self.state.next_tick().expect("a tick is due while a worker is missing");
                self.now = self.now.max(due);
                self.state.tick(self.now);
                self.carry_out();
            } else {
                return;
            }
        }
        panic!("the pool does not come to rest: {:?}", self.state.counts());
    }
}

fn pick(set: &BTreeSet<u64>, which: usize) -> Option<u64> {
    let count = set.len();
    if count == 0 { None } else { set.iter().nth(which % count).copied() }
}

proptest! {
    /// P2, P3, P4, P15, P16, P17
    #[test]
    fn after_any_sequence_of_events_the_queue_keeps_its_order_and_the_workers_are_restored(
        options in limits(),
        steps in steps(),
    ) {
        let mut model = Model::new(options);
        for step in steps {
            model.take(step);
        }
        model.settle();
        prop_assert!(model.waiting.is_empty());
        prop_assert!(model.idle.len() >= *model.options.workers.start());
    }

    /// P12
    #[test]
    fn after_any_sequence_of_events_a_stopped_pool_drains(
        options in limits(),
        steps in steps(),
        close in any::<bool>(),
    ) {
        let mut model = Model::new(options);
        let half = steps.len() / 2;
        for (at, step) in steps.into_iter().enumerate() {
            if at == half {
                if close { model.state.close(model.now) } else { model.state.stop(model.now) }
                model.carry_out();
            }
            model.take(step);
        }
        if close { model.state.close(model.now) } else { model.state.stop(model.now) }
        model.carry_out();
        model.options.workers = 0..=*model.options.workers.end();
        model.settle();
        // Workers that were idle when the last checkout was served have been retired, and exit.
        while model.processes() > 0 {
            model.take(Step::Reap(0));
        }
        prop_assert!(model.state.is_drained());
    }
}

fn options(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options { workers: 1..=2, ..Options::named("table") };
    change(&mut options);
    options
}

/// P5
#[test]
fn the_most_recently_used_worker_is_taken_and_the_least_recently_used_retires() {
    let mut model = Model::new(options(|options| options.workers = 2..=3));
    model.take(Step::Ready(0));
    model.take(Step::Ready(0));
    for _ in 0..3 {
        model.take(Step::Acquire);
    }
    model.take(Step::Ready(0));
    let last = model.leased[2].0;
    (0..3).for_each(|_| model.take(Step::Release(0)));
    model.now += Duration::from_millis(1);
    model.take(Step::Acquire);
    let most_recent = model.leased[0].0;
    model.take(Step::Release(0));
    model.now += Duration::from_secs(60);
    model.state.tick(model.now);
    model.carry_out();
    assert_eq!(model.idle.len(), 2, "down to the minimum");
    assert!(model.idle.contains(&most_recent));
    assert!(last > 0);
}

/// P2
#[test]
fn attempts_after_failed_set_ups_are_delayed_longer_each_time_and_come_one_at_a_time() {
    let mut model = Model::new(options(|options| {
        options.workers = 2..=4;
        options.restart.jitter = 0.0;
    }));
    assert_eq!(model.starting.len(), 2);
    model.take(Step::Exit(0));
    model.take(Step::Exit(0));
    assert_eq!(model.starting.len(), 0, "nothing is forked before the delay is over");
    for expected in [200, 400, 800] {
        let due = model.state.next_tick().expect("another attempt is due");
        assert_eq!(due - model.now, Duration::from_millis(expected));
        model.now = due;
        model.state.tick(model.now);
        model.carry_out();
        assert_eq!(model.starting.len(), 1, "one at a time");
        model.take(Step::Exit(0));
    }
    model.now = model.state.next_tick().expect("another attempt is due");
    model.state.tick(model.now);
    model.carry_out();
    model.take(Step::Ready(0));
    assert_eq!(model.starting.len(), 1, "the first ready worker ends the delay");
}

/// P6
#[test]
fn a_worker_at_max_checkouts_is_replaced_before_it_retires_if_the_maximum_permits() {
    let mut model = Model::new(options(|options| options.max_checkouts = Some(1)));
    model.take(Step::Ready(0));
    model.take(Step::Acquire);
    let (worker, _) = model.leased[0];
    model.leased.clear();
    model.idle.insert(worker);
    model.state.release(worker, ReleaseReport::default(), model.now);
    assert_eq!(model.state.next_action(), Some(Action::Fork(2)));
    assert_eq!(model.state.next_action(), Some(Action::Retire(worker, RetireReason::MaxCheckouts)));
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
