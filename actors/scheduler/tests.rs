//! The ledger against a small model, under whatever order of events chance comes up with.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::state::*;
use super::worker_state::RetireReason;
use crate::config::Options;

/// One thing that happens; numbers pick one of those it can happen to.
#[derive(Clone, Copy, Debug)]
enum Step {
    Ask,
    AskAgain,
    Cancel(usize),
    Ready(usize),
    SetupFails(usize),
    Release(usize),
    TimeOut(usize),
    Die(usize),
    /// A worker that is lent, or was killed, is seen to exit.
    Reap(usize),
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = any::<usize>;
    let step = prop_oneof![
        6 => Just(Step::Ask),
        1 => Just(Step::AskAgain),
        2 => which().prop_map(Step::Cancel),
        5 => which().prop_map(Step::Ready),
        1 => which().prop_map(Step::SetupFails),
        4 => which().prop_map(Step::Release),
        2 => which().prop_map(Step::TimeOut),
        1 => which().prop_map(Step::Die),
        3 => which().prop_map(Step::Reap),
        2 => any::<u16>().prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..200)
}

fn limits() -> impl Strategy<Value = Options> {
    use prop::option::of as optional;
    (0..4_usize, 1..6_usize, optional(1..5_u64), optional(1..4_usize)).prop_map(
        |(fewest, most, max_checkouts, max_waiting)| Options {
            workers: fewest.min(most)..=most,
            max_checkouts,
            max_waiting,
            max_age: Some(Duration::from_secs(300)),
            ..Options::named("model")
        },
    )
}

/// What the outside world knows.
struct World {
    state: PoolState,
    options: Options,
    now: Instant,
    starting: BTreeSet<u64>,
    idle: BTreeSet<u64>,
    /// Worker and checkout.
    leased: Vec<(u64, u64)>,
    ending: BTreeSet<u64>,
    /// Dead, and their holders do not know yet.
    bereaving: BTreeSet<u64>,
    waiting: VecDeque<u64>,
    last_checkout: u64,
}

impl World {
    fn new(options: Options) -> Self {
        let state = PoolState::new(&options);
        let mut world = World {
            state,
            options,
            now: Instant::now(),
            starting: BTreeSet::new(),
            idle: BTreeSet::new(),
            leased: Vec::new(),
            ending: BTreeSet::new(),
            bereaving: BTreeSet::new(),
            waiting: VecDeque::new(),
            last_checkout: 0,
        };
        world.state.open(world.now);
        world.carry_out();
        world
    }

    fn processes(&self) -> usize {
        self.starting.len() + self.idle.len() + self.leased.len() + self.ending.len()
    }

    /// Does what the ledger wants, and checks that it may want it.
    fn carry_out(&mut self) {
        while let Some(action) = self.state.next_action() {
            match action {
                Action::Fork(worker) => {
                    assert!(self.starting.insert(worker), "worker {worker} is forked once");
                    assert!(self.processes() <= *self.options.workers.end(), "never more than the most");
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
                        "nobody holds worker {worker}"
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
        assert!(self.state.waiting().eq(self.waiting.iter().copied()), "the line is the model's");
        assert!(self.idle.is_empty() || self.waiting.is_empty(), "nobody waits beside an idle worker");
        assert!(self.processes() <= *self.options.workers.end(), "never more than the most");
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Ask => self.ask(false),
            Step::AskAgain => self.ask(true),
            Step::Cancel(which) => self.cancel(which),
            Step::Ready(which) => self.ready(which),
            Step::SetupFails(which) => {
                if let Some(worker) = pick(&self.starting, which) {
                    self.starting.remove(&worker);
                    self.ending.insert(worker);
                    self.state.not_set_up(worker, self.now, 0.5);
                }
            }
            Step::Release(which) => {
                if let Some((worker, _)) = self.release(which) {
                    self.idle.insert(worker);
                    self.state.released(worker, ReleaseReport::default(), self.now);
                }
            }
            Step::TimeOut(which) => {
                if let Some((worker, _)) = self.release(which) {
                    self.ending.insert(worker);
                    self.state.dismiss(worker, RetireReason::TimedOut, self.now);
                }
            }
            Step::Die(which) => self.die(which),
            Step::Reap(which) => {
                if let Some(worker) = pick(&self.ending, which) {
                    self.ending.remove(&worker);
                    self.state.ended(worker, true, self.now, 0.5);
                }
            }
            Step::Wait(millis) => {
                self.now += Duration::from_millis(u64::from(millis));
                self.state.tick(self.now);
            }
        }
        self.carry_out();
    }

    fn ask(&mut self, again: bool) {
        self.last_checkout += 1;
        let id = self.last_checkout;
        let answer = if again { self.state.ask_again(id, self.now) } else { self.state.ask(id, self.now) };
        match answer {
            Admission::Granted { worker } => {
                assert!(self.waiting.is_empty(), "nobody is overtaken");
                assert!(self.idle.remove(&worker), "only an idle worker is granted");
                self.leased.push((worker, id));
            }
            Admission::Waits if again => self.waiting.push_front(id),
            Admission::Waits => self.waiting.push_back(id),
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
            assert!(!self.state.cancel(id, self.now), "a place is given up once");
        }
    }

    fn ready(&mut self, which: usize) {
        if let Some(worker) = pick(&self.starting, which) {
            self.starting.remove(&worker);
            self.idle.insert(worker);
            self.state.ready(worker, self.now);
        }
    }

    fn release(&mut self, which: usize) -> Option<(u64, u64)> {
        let count = self.leased.len();
        (count > 0).then(|| self.leased.swap_remove(which % count))
    }

    fn die(&mut self, which: usize) {
        let leased = self.leased.iter().map(|(worker, _)| *worker);
        let living: BTreeSet<u64> =
            self.starting.iter().copied().chain(self.idle.iter().copied()).chain(leased).collect();
        if let Some(worker) = pick(&living, which) {
            self.starting.remove(&worker);
            self.idle.remove(&worker);
            self.bereave(worker);
            self.state.ended(worker, true, self.now, 0.5);
        }
    }

    fn bereave(&mut self, worker: u64) {
        let before = self.leased.len();
        self.leased.retain(|(leased, _)| *leased != worker);
        if self.leased.len() < before {
            self.bereaving.insert(worker);
        }
    }

    /// Lets everything go well for a while.
    fn settle(&mut self) {
        for _ in 0..1000 {
            if let Some(worker) = self.bereaving.pop_first() {
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
                let due = self.state.next_tick().expect("something is due while something is missing");
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
    /// P2, P3, P4
    #[test]
    fn whatever_happens_the_line_is_kept_and_the_workers_are_restored(
        options in limits(),
        steps in steps(),
    ) {
        let mut world = World::new(options);
        for step in steps {
            world.take(step);
        }
        world.settle();
        prop_assert!(world.waiting.is_empty());
        prop_assert!(world.idle.len() >= *world.options.workers.start());
    }

    /// P12
    #[test]
    fn whatever_happens_a_stopped_pool_drains(options in limits(), steps in steps(), close in any::<bool>()) {
        let mut world = World::new(options);
        let half = steps.len() / 2;
        for (at, step) in steps.into_iter().enumerate() {
            if at == half {
                if close { world.state.close(world.now) } else { world.state.stop(world.now) }
                world.carry_out();
            }
            world.take(step);
        }
        if close { world.state.close(world.now) } else { world.state.stop(world.now) }
        world.carry_out();
        world.options.workers = 0..=*world.options.workers.end();
        world.settle();
        // What was idle when the last was served is told to go, and goes.
        while world.processes() > 0 {
            world.take(Step::Reap(0));
        }
        prop_assert!(world.state.is_drained());
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
    let mut world = World::new(options(|options| options.workers = 2..=3));
    world.take(Step::Ready(0));
    world.take(Step::Ready(0));
    for _ in 0..3 {
        world.take(Step::Ask);
    }
    world.take(Step::Ready(0));
    let last = world.leased[2].0;
    (0..3).for_each(|_| world.take(Step::Release(0)));
    world.now += Duration::from_millis(1);
    world.take(Step::Ask);
    let most_recent = world.leased[0].0;
    world.take(Step::Release(0));
    world.now += Duration::from_secs(60);
    world.state.tick(world.now);
    world.carry_out();
    assert_eq!(world.idle.len(), 2, "down to the fewest");
    assert!(world.idle.contains(&most_recent));
    assert!(last > 0);
}

/// P2
#[test]
fn attempts_after_failed_set_ups_wait_longer_each_time_and_come_one_at_a_time() {
    let mut world = World::new(options(|options| {
        options.workers = 2..=4;
        options.restart.jitter = 0.0;
    }));
    assert_eq!(world.starting.len(), 2);
    world.take(Step::Die(0));
    world.take(Step::Die(0));
    assert_eq!(world.starting.len(), 0, "nothing is forked before the wait is over");
    for expected in [200, 400, 800] {
        let due = world.state.next_tick().expect("another attempt is due");
        assert_eq!(due - world.now, Duration::from_millis(expected));
        world.now = due;
        world.state.tick(world.now);
        world.carry_out();
        assert_eq!(world.starting.len(), 1, "one at a time");
        world.take(Step::Die(0));
    }
    world.now = world.state.next_tick().expect("another attempt is due");
    world.state.tick(world.now);
    world.carry_out();
    world.take(Step::Ready(0));
    assert_eq!(world.starting.len(), 1, "the first that is ready ends the waiting");
}

/// P6
#[test]
fn a_worn_out_worker_is_replaced_before_it_goes_where_there_is_room() {
    let mut world = World::new(options(|options| options.max_checkouts = Some(1)));
    world.take(Step::Ready(0));
    world.take(Step::Ask);
    let (worker, _) = world.leased[0];
    world.leased.clear();
    world.idle.insert(worker);
    world.state.released(worker, ReleaseReport::default(), world.now);
    assert_eq!(world.state.next_action(), Some(Action::Fork(2)));
    assert_eq!(world.state.next_action(), Some(Action::Retire(worker, RetireReason::WornOut)));
}

/// P2
#[test]
fn only_a_worker_that_was_asked_for_after_the_last_early_end_ends_the_waiting() {
    let mut world = World::new(options(|options| {
        options.workers = 2..=2;
        options.restart.jitter = 0.0;
    }));
    world.take(Step::Die(0));
    let due = world.state.next_tick();
    world.take(Step::Ready(0));
    assert_eq!(world.starting.len(), 0, "the one that is ready was asked for before");
    assert_eq!(world.state.next_tick(), due, "the wait goes on");
    world.now = due.expect("another attempt is due");
    world.state.tick(world.now);
    world.carry_out();
    assert_eq!(world.starting.len(), 1);
}

/// P12
#[test]
fn a_closing_pool_waits_for_a_holder_that_is_to_hear_of_its_worker_s_death() {
    let table: [(&str, bool, bool); 3] =
        [("asks again", true, false), ("gives up", false, false), ("is refused", false, true)];
    for (row, asks_again, stops) in table {
        let mut world = World::new(options(|options| options.workers = 1..=1));
        world.take(Step::Ready(0));
        world.take(Step::Ask);
        let (worker, _) = world.leased[0];
        world.state.close(world.now);
        world.take(Step::Die(0));
        assert!(!world.state.is_drained(), "{row}: it may ask again");
        if asks_again {
            world.take(Step::AskAgain);
            assert_eq!(world.starting.len(), 1, "{row}: and is served");
        }
        if stops {
            world.state.stop(world.now);
            assert!(world.state.is_drained(), "{row}: nobody is served any more");
        }
        world.state.dismiss(worker, RetireReason::Broken, world.now);
        assert_eq!(world.state.is_drained(), !asks_again, "{row}");
    }
}

/// P12
#[test]
fn a_closing_pool_gives_up_what_it_starts_once_the_last_in_line_is_served() {
    let mut world = World::new(options(|options| options.workers = 0..=2));
    world.take(Step::Ask);
    world.take(Step::Ask);
    world.take(Step::Cancel(1));
    world.state.close(world.now);
    world.carry_out();
    assert_eq!(world.starting.len(), 2, "somebody waits");
    world.take(Step::Ready(0));
    assert_eq!((world.starting.len(), world.ending.len()), (0, 1), "nobody does any more");
}
