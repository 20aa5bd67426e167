//! What a lane decides, with model workers in place of real ones and numbers in place of calls.
//!
//! The same seed gives the same run. After every step the lane's rules are checked.

use std::collections::VecDeque;
use std::time::Duration;

use super::state::{Held, LaneState, OthersWaiting, Queued, Single};
use crate::actors::calls::limits::MAX_WRITTEN_BYTES;
use crate::clock::Instant;
use crate::testing::seeded_rng::{SeededRng, seeds};

const DEFAULT_SEEDS: std::ops::Range<u64> = 0..100;

/// The longest call of a run.
const LONGEST_CALL: Duration = Duration::from_millis(5);

/// Longest wait of a checkout that is the next one: a lane keeps a worker for 100 ms, and then finishes one call.
const LONGEST_WAIT: Duration = Duration::from_millis(150);

/// What has become of one call.
#[derive(Clone, Copy, Default)]
struct Fate {
    begun: u32,
    answered: u32,
    /// Whether it was taken back from a worker.
    was_moved: bool,
}

/// A worker: what it was sent, what it runs, and what it has sent that the lane has not read.
struct ModelWorker {
    /// Calls with the epoch in which they were written.
    frames: VecDeque<(usize, u32)>,
    epoch: u32,
    /// The open calls that have begun.
    begun: usize,
    /// Until when it runs a call or its `checkout_done`.
    busy_until: Instant,
    running: Option<usize>,
    replies: u32,
    has_released: bool,
    owes_release: bool,
    /// Calls that have begun in this lease, in order.
    served: Vec<usize>,
    budget: u64,
}

impl ModelWorker {
    fn new(budget: u64, now: Instant) -> Self {
        ModelWorker {
            frames: VecDeque::new(),
            epoch: 0,
            begun: 0,
            busy_until: now,
            running: None,
            replies: 0,
            has_released: false,
            owes_release: false,
            served: Vec::new(),
            budget,
        }
    }

    /// Does what the worker does up to now.
    fn work(&mut self, now: Instant, fates: &mut [Fate], rng: &mut SeededRng) {
        while self.busy_until <= now {
            if self.running.take().is_some() {
                self.replies += 1;
                self.owes_release = true;
            }
            let Some((call, epoch)) = self.frames.pop_front() else {
                self.has_released |= std::mem::take(&mut self.owes_release);
                return;
            };
            if epoch == self.epoch {
                fates[call].begun += 1;
                self.begun += 1;
                self.served.push(call);
                self.running = Some(call);
                self.busy_until += run_time(rng);
            }
        }
    }
}

fn run_time(rng: &mut SeededRng) -> Duration {
    match rng.below(100) {
        0..80 => Duration::from_micros(1 + rng.below(20) as u64),
        80..95 => Duration::from_micros(100 + rng.below(900) as u64),
        _ => LONGEST_CALL,
    }
}

/// A checkout that is no lane.
struct Checkout {
    ticket: u64,
    since: Instant,
    until: Option<Instant>,
}

struct World {
    rng: SeededRng,
    now: Instant,
    lane: LaneState<usize, (), ()>,
    workers: Vec<ModelWorker>,
    max_workers: usize,
    /// Workers that are not lent.
    free: usize,
    /// The requests of the lane, in order; 0 is one at the front of the queue.
    asked: Vec<u64>,
    urgent: usize,
    checkout: Option<Checkout>,
    exclusive_joined: u64,
    exclusive_seen: u64,
    last_ticket: u64,
    fates: Vec<Fate>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = SeededRng::new(seed);
        let max_workers = 1 + rng.below(4);
        World {
            rng,
            now: Instant::now(),
            lane: LaneState::new(max_workers),
            workers: Vec::new(),
            max_workers,
            free: max_workers,
            asked: Vec::new(),
            urgent: 0,
            checkout: None,
            exclusive_joined: 0,
            exclusive_seen: 0,
            last_ticket: 0,
            fates: Vec::new(),
        }
    }

    fn ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }

    /// The number of the first waiting checkout that is no lane.
    fn first_exclusive(&self) -> u64 {
        self.checkout.as_ref().filter(|checkout| checkout.until.is_none()).map_or(u64::MAX, |it| it.ticket)
    }

    fn others_waiting(&self) -> OthersWaiting {
        let waits = self.first_exclusive() != u64::MAX;
        OthersWaiting { any: waits, exclusive: waits }
    }

    fn submit(&mut self) {
        let single = Single::new(self.fates.len(), None, self.now);
        self.fates.push(Fate::default());
        self.note_progress();
        if let Some(at) = self.lane.place_for_new(self.others_waiting(), self.now) {
            return self.write(at, single);
        }
        let ticket = self.ticket();
        let joined = self.exclusive_joined;
        let starts_run = std::mem::replace(&mut self.exclusive_seen, joined) != joined;
        self.lane.queued.insert(Queued { single, message: (), ticket, starts_run });
        self.ask();
    }

    fn write(&mut self, at: usize, single: Single<usize>) {
        let (worker, held) = (&mut self.workers[at], &mut self.lane.held[at]);
        worker.frames.push_back((single.call, worker.epoch));
        held.push(single, (), 64, self.now);
    }

    fn write_queued(&mut self) {
        while let Some(at) = self.lane.place_for_queued(self.first_exclusive(), self.now) {
            let queued = self.lane.queued.pop_first().expect("it has a place");
            self.write(at, queued.single);
        }
    }

    fn note_progress(&mut self) {
        for (worker, held) in self.workers.iter().zip(&mut self.lane.held) {
            held.mark_begun(worker.begun, self.now);
        }
    }

    fn take_back(&mut self, at: usize) -> usize {
        let worker = &mut self.workers[at];
        worker.epoch += 1;
        let taken = self.lane.held[at].take_behind(worker.begun);
        taken.iter().for_each(|call| self.fates[call.single.call].was_moved = true);
        let count = taken.len();
        self.lane.requeue(taken, |_, &()| ());
        count
    }

    fn spread(&mut self) {
        self.note_progress();
        while let Some(slow) = self.lane.slow_worker(self.now) {
            if self.take_back(slow) == 0 {
                return;
            }
            self.write_queued();
        }
    }

    fn ask(&mut self) {
        let wanted = self.lane.wanted(self.others_waiting().exclusive, self.now);
        while self.asked.len() > wanted
            && let Some(at) = self.lane.queued.surplus(self.asked.iter().copied(), self.first_exclusive())
        {
            self.asked.remove(at);
        }
        while self.asked.len() < wanted {
            let ticket = if self.urgent > 0 { 0 } else { self.ticket() };
            self.urgent = self.urgent.saturating_sub(1);
            let at = self.asked.partition_point(|other| *other < ticket);
            self.asked.insert(at, ticket);
        }
        self.urgent = 0;
    }

    /// Lends free workers to the first in the queue.
    fn grant(&mut self) {
        while self.free > 0 {
            let exclusive = self.first_exclusive();
            let first = self.asked.iter().enumerate().min_by_key(|(_, ticket)| **ticket);
            match first.map(|(at, _)| at) {
                Some(at) if self.asked[at] < exclusive => {
                    self.asked.remove(at);
                    let budget = if self.rng.happens(300) { 1 + self.rng.below(8) as u64 } else { u64::MAX };
                    self.workers.push(ModelWorker::new(budget, self.now));
                    self.lane.held.push(Held::new(budget, true, self.now));
                    self.write_queued();
                }
                _ if exclusive != u64::MAX => {
                    let until = self.now + Duration::from_micros(1 + self.rng.below(3000) as u64);
                    let checkout = self.checkout.as_mut().expect("it waits");
                    checkout.until = Some(until);
                    let waited = self.now - checkout.since;
                    assert!(waited < LONGEST_WAIT, "a checkout waited for {waited:?}");
                }
                _ => return,
            }
            self.free -= 1;
        }
    }

    /// Reads what a worker has sent.
    fn read(&mut self, at: usize) {
        let (worker, held) = (&mut self.workers[at], &mut self.lane.held[at]);
        for _ in 0..std::mem::take(&mut worker.replies) {
            let id = held.written.front().expect("a call is open").id;
            let written = held.answer(id, self.now).expect("it is the first one");
            worker.begun -= 1;
            self.fates[written.single.call].answered += 1;
        }
        if std::mem::take(&mut worker.has_released) {
            assert!(held.unreleased > 0);
            held.unreleased = 0;
        }
    }

    fn give_back(&mut self) {
        let exclusive = self.first_exclusive();
        let first = self.asked.iter().copied().min().unwrap_or(u64::MAX).min(exclusive);
        self.lane.close_held(self.others_waiting(), (first, exclusive), self.now);
        let mut look_again = false;
        while let Some(at) = self.lane.next_to_give_back(|_| true, &mut look_again) {
            self.remove(at);
        }
    }

    /// The worker leaves the lane; what has begun on it is checked.
    fn remove(&mut self, at: usize) -> Held<usize, ()> {
        let worker = self.workers.remove(at);
        assert!(worker.served.len() as u64 <= worker.budget, "it served {:?}", worker.served);
        let unmoved = worker.served.iter().filter(|&&call| !self.fates[call].was_moved);
        assert!(unmoved.is_sorted(), "calls began out of order: {:?}", worker.served);
        self.free += 1;
        self.lane.held.remove(at)
    }

    /// A worker dies, maybe with a call.
    fn kill(&mut self, at: usize) {
        self.read(at);
        let begun = self.workers[at].begun;
        self.urgent += self.take_back(at);
        let lost = self.remove(at);
        assert_eq!(lost.written.len(), begun);
        lost.written.into_iter().for_each(|call| self.fates[call.single.call].answered += 1);
        self.ask();
    }

    fn poll(&mut self) {
        self.grant();
        self.write_queued();
        self.spread();
        self.ask();
        for at in 0..self.workers.len() {
            self.read(at);
        }
        self.write_queued();
        self.spread();
        self.ask();
        self.check();
        self.give_back();
        // What is given back here is asked for again at once if calls wait.
        self.ask();
    }

    fn step(&mut self) {
        let pause = if self.rng.happens(20) { 2000 } else { 1 + self.rng.below(40) };
        self.now += Duration::from_micros(pause as u64);
        for worker in &mut self.workers {
            if self.rng.happens(900) {
                worker.busy_until = worker.busy_until.max(self.now - Duration::from_micros(30));
                worker.work(self.now, &mut self.fates, &mut self.rng);
            }
        }
        if self.checkout.as_ref().and_then(|checkout| checkout.until).is_some_and(|until| until <= self.now) {
            self.checkout = None;
            self.free += 1;
        }
        if !self.workers.is_empty() && self.rng.happens(5) {
            let at = self.rng.below(self.workers.len());
            self.kill(at);
        }
        if self.checkout.is_none() && self.rng.happens(30) {
            let ticket = self.ticket();
            self.exclusive_joined += 1;
            self.checkout = Some(Checkout { ticket, since: self.now, until: None });
        }
    }

    fn check(&self) {
        let written = self.lane.held.iter().flat_map(|held| held.written.iter().map(|call| call.single.call));
        let mut open =
            Vec::from_iter(written.chain(self.lane.queued.iter().map(|queued| queued.single.call)));
        open.sort_unstable();
        let unanswered = (0..self.fates.len()).filter(|&call| self.fates[call].answered == 0);
        assert_eq!(open, Vec::from_iter(unanswered), "each open call is in one place");
        assert!(self.fates.iter().all(|fate| fate.begun <= 1 && fate.answered <= 1));
        if let Some(slow) = self.lane.slow_worker(self.now) {
            panic!("calls wait behind a slow one at {slow}, and another worker takes them");
        }
        let is_slow = self.lane.held.iter().any(|held| held.is_slow(self.now));
        let may_ask = self.lane.held.len() < self.max_workers;
        assert!(!is_slow || !may_ask || !self.asked.is_empty(), "a worker is asked for");
        assert!(self.lane.waiting() <= open.len());
    }
}

/// P4, P6, P11
#[test]
fn each_call_begins_at_most_once_is_answered_once_and_waits_behind_no_slow_one() {
    for seed in seeds(DEFAULT_SEEDS) {
        let mut world = World::new(seed);
        let run = std::panic::AssertUnwindSafe(|| {
            let calls = 1 + world.rng.below(300);
            for _ in 0..20_000 {
                world.step();
                while world.fates.len() < calls && world.rng.happens(500) {
                    world.submit();
                }
                world.poll();
                if world.fates.len() == calls && world.fates.iter().all(|fate| fate.answered == 1) {
                    return;
                }
            }
            panic!("not all calls are answered");
        });
        if let Err(problem) = std::panic::catch_unwind(run) {
            eprintln!("to rerun it: FORKPOOL_SEED={seed} cargo test --lib lane");
            std::panic::resume_unwind(problem);
        }
    }
}

/// Calls that were taken back leave room for others in the bytes that may be written ahead.
#[test]
fn calls_that_are_taken_back_take_no_room() {
    let now = Instant::now();
    let mut lane: LaneState<usize, (), ()> = LaneState::new(1);
    lane.held.push(Held::new(u64::MAX, true, now));
    let alone = OthersWaiting { any: false, exclusive: false };
    let mut written = 0;
    while let Some(at) = lane.place_for_new(alone, now) {
        lane.held[at].push(Single::new(written, None, now), (), MAX_WRITTEN_BYTES / 4, now);
        written += 1;
    }
    assert_eq!(written, 4, "no more bytes are written ahead");
    let taken = lane.held[0].take_behind(1);
    assert_eq!(taken.len(), 3);
    assert_eq!(lane.place_for_new(alone, now), Some(0), "the bytes that are left are few");
}
