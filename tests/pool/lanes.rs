//! Single calls to a pool: which worker runs them, what happens behind a slow one, and which of them are taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::harness::*;
use forkpool::prelude::*;

/// A journal of the calls that began, and a gate behind which calls wait.
pub struct Yard {
    journal: Scratch,
    gate: Scratch,
}

impl Yard {
    pub fn new() -> Self {
        Yard { journal: Scratch::path(), gate: Scratch::path() }
    }

    /// A call that ends at once.
    pub fn task(&self, number: u64) -> Task {
        self.acts(number, Act::Answer)
    }

    pub fn acts(&self, number: u64, act: Act) -> Task {
        Task(number, self.journal.get().to_owned(), None, act)
    }

    /// A call that runs until the gate is opened.
    pub fn gated(&self, number: u64, act: Act) -> Task {
        Task(number, self.journal.get().to_owned(), self.gate.some(), act)
    }

    /// The file that opens the gate.
    pub fn gate(&self) -> &std::path::Path {
        self.gate.get()
    }

    pub fn open(&self) {
        std::fs::write(self.gate.get(), "").expect("a file");
    }

    /// The calls that began, in that order, each with its process.
    pub fn began(&self) -> Vec<(u64, u32)> {
        let number = |text: &str| text.parse::<u64>().expect("a number");
        let lines = self.journal.lines().into_iter();
        lines
            .map(|line| line.split_once(' ').map(|(call, pid)| (call.to_owned(), pid.to_owned())))
            .map(|parts| parts.expect("two numbers"))
            .map(|(call, pid)| (number(&call), u32::try_from(number(&pid)).expect("a pid")))
            .collect()
    }

    pub fn numbers(&self) -> Vec<u64> {
        self.began().into_iter().map(|(number, _)| number).collect()
    }

    /// The calls that began, each as often as it did, in order of their numbers.
    pub fn sorted(&self) -> Vec<u64> {
        let mut numbers = self.numbers();
        numbers.sort_unstable();
        numbers
    }

    /// Waits until so many calls have begun.
    pub async fn begun(&self, count: usize) {
        until(&format!("{count} calls have begun"), || self.began().len() == count).await;
    }
}

/// A pool of so many workers, which are idle, and whose lane on this thread has served a call.
pub async fn warm(builder: forkpool::PoolBuilder<Probe>, workers: usize) -> PoolHandle<Probe> {
    let pool = builder.start().expect("the pool starts");
    settled(&pool, workers).await;
    assert!(answer(pool.send_within(PATIENCE, Pid)).await.is_ok());
    settled(&pool, workers).await;
    pool
}

/// P11
#[test]
fn four_long_calls_run_side_by_side_on_four_workers() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(4..=4), 4).await;
        let calls = Vec::from_iter((0..4).map(|number| pool.send(yard.gated(number, Act::Answer))));
        yard.begun(4).await;
        let pids = BTreeSet::from_iter(yard.began().into_iter().map(|(_, pid)| pid));
        assert_eq!(pids.len(), 4, "all of them run, and none has ended");
        yard.open();
        for call in calls {
            assert!(answer(call).await.is_ok_and(|pid| pids.contains(&pid)));
        }
    });
}

/// P11
#[test]
fn a_call_behind_a_long_one_runs_on_a_worker_that_is_idle() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(2..=2), 2).await;
        let (long, short) = (pool.send(yard.gated(1, Act::Answer)), pool.send(yard.task(2)));
        let elsewhere = answer(short).await.expect("it runs while the long one does");
        // One that is sent while the long one runs.
        assert_eq!(answer(pool.send(yard.task(3))).await, Ok(elsewhere));
        yard.open();
        assert_ne!(answer(long).await.expect("it runs"), elsewhere);
        assert_eq!(yard.sorted(), [1, 2, 3]);
    });
}

/// P11, P3
#[test]
fn a_call_behind_a_long_one_runs_on_a_worker_that_is_forked_for_it() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(1..=2), 1).await;
        let (long, short) = (pool.send(yard.gated(1, Act::Answer)), pool.send(yard.task(2)));
        let elsewhere = answer(short).await.expect("it runs while the long one does");
        assert_eq!(pool.stats().forked, 2);
        yard.open();
        assert_ne!(answer(long).await.expect("it runs"), elsewhere);
        assert_eq!(yard.sorted(), [1, 2]);
    });
}

/// P11, P4
#[test]
fn calls_behind_a_long_one_run_after_it_where_there_is_no_other_worker() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(1..=1), 1).await;
        let (long, written) = (pool.send(yard.gated(1, Act::Answer)), pool.send(yard.task(2)));
        yard.begun(1).await;
        assert_eq!(pool.stats().waiting, 1);
        let later = pool.send(yard.task(3));
        // A lane keeps a worker for less than this.
        let since = Instant::now();
        until("the long call has run for a while", || since.elapsed() > Duration::from_millis(200)).await;
        let last = pool.send(yard.task(4));
        assert_eq!(yard.numbers(), [1]);
        yard.open();
        let pid = answer(long).await.expect("it runs");
        for call in [written, later, last] {
            assert_eq!(answer(call).await, Ok(pid));
        }
        assert_eq!(yard.numbers(), [1, 2, 3, 4]);
    });
}

/// T1
#[test]
fn a_call_that_has_not_begun_when_its_clock_fires_is_taken_back() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(1..=1).timeout(None), 1).await;
        let limit = Duration::from_millis(50);
        let long = pool.send(yard.gated(1, Act::Answer));
        let (short, behind) = (pool.send_within(limit, yard.task(2)), pool.send(yard.task(3)));
        let failure = failure(short).await;
        assert_eq!((failure.kind(), failure.pid()), (FailureKind::Timeout, None), "{failure}");
        assert_eq!(failure.phase(), Some(Phase::Waiting));
        yard.open();
        let pid = answer(long).await.expect("it goes on");
        assert_eq!(answer(behind).await, Ok(pid));
        assert_eq!((yard.numbers(), pool.stats().forked), (vec![1, 3], 1));
    });
}

/// T6
#[test]
fn wait_timeout_bounds_the_wait_of_a_call_that_is_written_behind_a_long_one() {
    run(async {
        let yard = Yard::new();
        let limit = Duration::from_millis(500);
        let pool = warm(pool().workers(1..=1).timeout(None).wait_timeout(limit), 1).await;
        let (long, short) = (pool.send(yard.gated(1, Act::Answer)), pool.send(yard.task(2)));
        let failure = failure(short).await;
        assert_eq!((failure.kind(), failure.phase()), (FailureKind::Timeout, Some(Phase::Waiting)));
        yard.open();
        assert!(answer(long).await.is_ok(), "the limit is not for calls that have begun");
        assert_eq!(yard.numbers(), [1]);
    });
}

/// T3, T1
#[test]
fn calls_behind_one_whose_clock_fires_run_elsewhere_once() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(1..=1), 1).await;
        let long = pool.send_within(Duration::from_millis(400), yard.gated(0, Act::Answer));
        let behind = Vec::from_iter((1..=20).map(|number| pool.send(yard.task(number))));
        let failure = failure(long).await;
        assert_eq!((failure.kind(), failure.phase()), (FailureKind::Timeout, Some(Phase::Running)));
        let killed = failure.pid().expect("a pid");
        for call in behind {
            assert_ne!(answer(call).await.expect("it runs elsewhere"), killed);
        }
        gone(killed).await;
        assert_eq!(yard.numbers(), Vec::from_iter(0..=20));
    });
}

/// T1: the worker goes from one call to the next without a report in between.
#[test]
fn a_call_that_follows_at_once_may_run_for_longer_than_checkout_done() {
    run(async {
        let yard = Yard::new();
        let limit = Duration::from_millis(300);
        let pool = warm(pool().workers(1..=1).timeout(limit), 1).await;
        // The worker has read both of the others when it is through with the slow one.
        let before = [limit / 10, Duration::ZERO].map(|time| pool.send_within(PATIENCE, Slow(time, 1)));
        let second = pool.send_within(PATIENCE, yard.gated(2, Act::Answer));
        for call in before {
            assert!(answer(call).await.is_ok());
        }
        yard.begun(1).await;
        let before = own_time();
        // That nothing happens for a while is the property.
        actix_rt::time::sleep(limit * 3).await;
        let used = own_time().saturating_sub(before);
        assert!(used < limit / 4, "the lane was at work all the time: {used:?}");
        yard.open();
        let pid = answer(second).await.expect("it has the time");
        assert_eq!((yard.began(), pool.stats().forked), (vec![(2, pid)], 1));
    });
}

/// How long this thread has been at work.
fn own_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a time")
}

/// C9
#[test]
fn a_call_that_is_given_up_behind_a_long_one_never_runs() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(1..=1), 1).await;
        let long = pool.send(yard.gated(1, Act::Answer));
        let (given_up, behind) = (pool.send(yard.task(2)), pool.send(yard.task(3)));
        yard.begun(1).await;
        drop(given_up);
        until("it is out of the queue", || pool.stats().waiting == 1).await;
        yard.open();
        assert!(answer(long).await.is_ok() && answer(behind).await.is_ok());
        assert_eq!(yard.numbers(), [1, 3]);
    });
}

/// C9
#[test]
fn a_call_that_is_given_up_behind_checkout_done_never_runs() {
    run(async {
        let (yard, done) = (Yard::new(), Scratch::path());
        let setup = Setup {
            done_journal: done.some(),
            done: Script::Sleep(Duration::from_millis(300)),
            ..Setup::default()
        };
        let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
        assert!(answer(pool.send(Pid)).await.is_ok());
        settled(&pool, 1).await;
        let first = pool.send(yard.task(1));
        let (given_up, behind) = (pool.send(yard.task(2)), pool.send(yard.task(3)));
        assert!(answer(first).await.is_ok());
        until("checkout_done runs", || done.lines().len() == 2).await;
        drop(given_up);
        assert!(answer(behind).await.is_ok());
        assert_eq!(yard.numbers(), [1, 3]);
    });
}

/// C9
#[test]
fn a_call_that_is_given_up_with_its_worker_has_those_behind_it_run_elsewhere_once() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(1..=1).on_cancel(OnCancel::Kill), 1).await;
        let long = pool.send(yard.acts(0, Act::Spin));
        let behind = Vec::from_iter((1..=20).map(|number| pool.send(yard.task(number))));
        yard.begun(1).await;
        let killed = yard.began()[0].1;
        drop(long);
        for call in behind {
            assert_ne!(answer(call).await.expect("it runs elsewhere"), killed);
        }
        gone(killed).await;
        assert_eq!(yard.numbers(), Vec::from_iter(0..=20));
    });
}

/// P6
#[test]
fn no_worker_serves_more_than_max_checkouts_whatever_is_written_ahead() {
    const MOST: usize = 5;
    run(async {
        let yard = Yard::new();
        let pool = pool().workers(2..=2).max_checkouts(MOST as u64).start().expect("the pool starts");
        let mut calls = std::collections::VecDeque::new();
        for number in 0..200 {
            calls.push_back(pool.send(yard.task(number)));
            if calls.len() == 64 {
                assert!(answer(calls.pop_front().expect("the oldest")).await.is_ok());
            }
        }
        for call in calls {
            assert!(answer(call).await.is_ok());
        }
        let mut served = BTreeMap::<u32, usize>::new();
        yard.began().into_iter().for_each(|(_, pid)| *served.entry(pid).or_default() += 1);
        assert!(served.values().all(|&calls| calls <= MOST), "{served:?}");
        assert_eq!(yard.sorted(), Vec::from_iter(0..200));
    });
}

/// P9
#[test]
fn calls_behind_a_long_one_count_as_waiting() {
    run(async {
        let yard = Yard::new();
        let pool = warm(pool().workers(1..=1).max_waiting(2), 1).await;
        // All of them before the first is written.
        let calls = [(); 3].map(|()| pool.send(yard.gated(0, Act::Answer)));
        let refused = pool.send(yard.task(1));
        assert_eq!(failure(refused).await.kind(), FailureKind::Overloaded);
        yard.begun(1).await;
        assert_eq!(pool.stats().waiting, 2);
        assert_eq!(failure(pool.send(yard.task(2))).await.kind(), FailureKind::Overloaded);
        assert_eq!(failure(pool.checkout().start().send(Pid)).await.kind(), FailureKind::Overloaded);
        yard.open();
        for call in calls {
            assert!(answer(call).await.is_ok());
        }
        assert_eq!(yard.numbers(), [0, 0, 0]);
    });
}

/// W5, P11
#[test]
fn checkout_done_runs_once_behind_each_of_many_calls_that_are_written_ahead() {
    run(async {
        let done = Scratch::path();
        let setup = Setup { done_journal: done.some(), ..Setup::default() };
        let pool = builder::<Probe>(setup).workers(1..=1).start().expect("the pool starts");
        assert!(answer(pool.send(Pid)).await.is_ok());
        settled(&pool, 1).await;
        let calls = Vec::from_iter((0..50).map(|number| (number, pool.send(Remember(number)))));
        for (number, call) in calls {
            assert_eq!(answer(call).await, Ok(vec![number]), "nothing is left of the call before");
        }
        settled(&pool, 1).await;
        assert_eq!(done.lines().len(), 51);
    });
}
