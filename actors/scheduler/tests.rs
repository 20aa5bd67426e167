//! The pool state against a small model, under random sequences of events.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::state::*;
use super::waiting::{BulkheadId, Request};
use super::worker_state::RetireReason;
use crate::actors::api::recycling::Recycle;
use crate::clock::Instant;
use crate::config::{MessageLimit, Options};

/// One event. A number picks one of the workers or checkouts to which it can happen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Acquire,
    Reacquire,
    /// The same at one of the bulkheads, if there is one.
    AcquireAt(usize),
    ReacquireAt(usize),
    SetMost(usize, usize),
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
        4 => Just(Step::Acquire),
        1 => Just(Step::Reacquire),
        4 => which().prop_map(Step::AcquireAt),
        1 => which().prop_map(Step::ReacquireAt),
        1 => (which(), 1..4_usize).prop_map(|(which, most)| Step::SetMost(which, most)),
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
    let message_limits = prop::collection::vec((1..4_usize).prop_map(limit), 0..3);
    (0..4_usize, 1..6_usize, optional(1..5_u64), optional(1..4_usize), message_limits).prop_map(
        |(min, most, max_checkouts, max_waiting, message_limits)| Options {
            message_limits,
            workers: min.min(most)..=most,
            max_checkouts,
            max_waiting,
            max_lifetime: Some(Duration::from_secs(300)),
            ..Options::named("model")
        },
    )
}

pub(super) fn limit(most: usize) -> MessageLimit {
    MessageLimit { method: 0, name: "model", most }
}

/// What the scheduler, the workers and the checkouts know, and the pool state under test.
pub(super) struct Model {
    pub(super) state: PoolState,
    pub(super) options: Options,
    pub(super) now: Instant,
    pub(super) starting: BTreeSet<u64>,
    pub(super) idle: BTreeSet<u64>,
    /// Pairs of a worker and its checkout.
    pub(super) leased: Vec<(u64, u64)>,
    pub(super) ending: BTreeSet<u64>,
    /// Exited workers whose holders do not know of it yet.
    pub(super) unnoticed_exits: BTreeSet<u64>,
    pub(super) waiting: VecDeque<u64>,
    pub(super) last_checkout: u64,
    /// The bulkhead of each checkout that has one, and the most workers of each bulkhead.
    pub(super) bulkheads: BTreeMap<u64, BulkheadId>,
    pub(super) most: Vec<usize>,
}

impl Model {
    pub(super) fn new(options: Options) -> Self {
        let state = PoolState::new(&options);
        let most = options.message_limits.iter().map(|limit| limit.most).collect();
        let mut model = Model {
            state,
            bulkheads: BTreeMap::new(),
            most,
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

    /// Returns who may have the next free workers, in order.
    pub(super) fn allowed(&self) -> Vec<u64> {
        let mut used = vec![0; self.most.len()];
        for (_, to) in &self.leased {
            self.bulkheads.get(to).into_iter().for_each(|bulkhead| used[bulkhead.0] += 1);
        }
        let mut is_allowed = |id: &u64| {
            let Some(bulkhead) = self.bulkheads.get(id) else { return true };
            used[bulkhead.0] += 1;
            used[bulkhead.0] <= self.most[bulkhead.0]
        };
        self.waiting.iter().copied().filter(|id| is_allowed(id)).collect()
    }

    /// Notes that a worker was lent, and checks that its bulkhead permits it.
    fn lend(&mut self, worker: u64, to: u64) {
        assert!(self.idle.remove(&worker), "only an idle worker is granted");
        if let Some(bulkhead) = self.bulkheads.get(&to) {
            let used = self.leased.iter().filter(|(_, to)| self.bulkheads.get(to) == Some(bulkhead)).count();
            assert!(used < self.most[bulkhead.0], "never more workers than the bulkhead permits");
        }
        self.leased.push((worker, to));
    }

    /// Carries out the actions of the pool state, and checks that each is allowed.
    pub(super) fn carry_out(&mut self) {
        while let Some(action) = self.state.next_action() {
            match action {
                Action::Fork(worker) => {
                    assert!(self.starting.insert(worker), "worker {worker} is forked once");
                    assert!(self.processes() <= *self.options.workers.end(), "never more than the maximum");
                }
                Action::Grant { to, worker } => {
                    let first = self.allowed().first().copied();
                    assert_eq!(
                        first,
                        Some(to),
                        "first come, first served among those that are allowed a worker"
                    );
                    self.waiting.retain(|id| *id != to);
                    self.lend(worker, to);
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
        assert!(self.state.waiting().iter().eq(self.waiting.iter().copied()), "the queue is the model's");
        assert!(self.state.waiting().allowed().eq(self.allowed()), "those are allowed a worker");
        let is_served = self.idle.is_empty() || self.allowed().is_empty() || self.state.is_paused();
        assert!(is_served, "no checkout that is allowed a worker waits while one is idle");
        assert!(self.processes() <= *self.options.workers.end(), "never more than the maximum");
    }

    pub(super) fn take(&mut self, step: Step) {
        match step {
            Step::Acquire => self.acquire(None, false),
            Step::Reacquire => self.acquire(None, true),
            Step::AcquireAt(which) => self.acquire(Some(which), false),
            Step::ReacquireAt(which) => self.acquire(Some(which), true),
            Step::SetMost(which, most) => {
                let count = self.most.len();
                if count > 0 {
                    self.most[which % count] = most;
                    self.state.set_most(BulkheadId(which % count), most, self.now);
                }
            }
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

    fn acquire(&mut self, bulkhead: Option<usize>, again: bool) {
        self.last_checkout += 1;
        let (id, count) = (self.last_checkout, self.most.len());
        let bulkhead = bulkhead.filter(|_| count > 0).map(|which| BulkheadId(which % count));
        self.bulkheads.extend(bulkhead.map(|bulkhead| (id, bulkhead)));
        let request = Request::checkout(id, bulkhead);
        let answer = if again {
            self.state.reacquire(request, self.now)
        } else {
            self.state.acquire(request, self.now)
        };
        match answer {
            Admission::Granted { worker } => {
                let is_next = self.allowed().is_empty() && !self.state.is_paused();
                assert!(is_next, "no waiting checkout is overtaken");
                self.lend(worker, id);
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
    pub(super) fn settle(&mut self) {
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

pub(super) fn options(change: impl FnOnce(&mut Options)) -> Options {
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
