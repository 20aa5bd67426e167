//! An error type of the application whose `From<Failure>` makes calls itself: a lane runs it in the middle of its work.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::lanes::Yard;
use crate::harness::*;
use actix::prelude::*;
use forkpool::PoolRequest;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

/// A worker whose failures are `Reported`.
struct Reporter;

/// The kind of a failure. When one is made, what [`ON_FAILURE`] holds is run once.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Reported(String);

impl From<Failure> for Reported {
    fn from(failure: Failure) -> Self {
        if let Some(run) = ON_FAILURE.take() {
            run();
        }
        Reported(format!("{:?}", failure.kind()))
    }
}

thread_local! {
    static ON_FAILURE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

impl<T> Answered for Result<T, Reported> {
    type Answer = Self;

    fn answer(self) -> Self {
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Step {
    Answer,
    Exit,
    Panic,
    Spin,
    /// Answers with more than may be sent.
    Babble,
}

/// Notes its number in the file, waits until the other file is there, and acts then.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<Vec<u8>, Reported>")]
struct Work(u64, PathBuf, Option<PathBuf>, Step);

impl Actor for Reporter {
    type Context = WorkerContext<Self>;
}

impl Worker for Reporter {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Reporter)
    }
}

impl Handler<Work> for Reporter {
    type Result = Result<Vec<u8>, Reported>;

    fn handle(
        &mut self,
        Work(number, journal, gate, step): Work,
        _: &mut WorkerContext<Self>,
    ) -> Self::Result {
        use std::io::Write;
        let mut file = std::fs::File::options().create(true).append(true).open(journal).expect("a journal");
        file.write_all(format!("{number} 0\n").as_bytes()).expect("a line");
        while gate.as_ref().is_some_and(|gate| !gate.exists()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        match step {
            Step::Answer => Ok(Vec::new()),
            Step::Exit => std::process::exit(3),
            Step::Panic => panic!("told to panic"),
            Step::Spin => loop {
                std::hint::spin_loop();
            },
            Step::Babble => Ok(vec![7; 5000]),
        }
    }
}

forkpool::interface!(Reporter { Work });
forkpool::boot!(Reporter);

fn work(yard: &Yard, number: u64, step: Step) -> Work {
    let Task(number, journal, ..) = yard.task(number);
    Work(number, journal, None, step)
}

type BatchOfWork = PoolRequest<Vec<Result<Vec<u8>, Reported>>>;

/// What was called from within a lane.
#[derive(Clone, Default)]
struct Inner(Rc<RefCell<Vec<BatchOfWork>>>);

impl Inner {
    /// Has the next failure make three calls, of which two are a batch and awaited.
    fn call_on_failure(&self, pool: &PoolHandle<Reporter>, yard: &Yard, number: u64) {
        let (inner, pool) = (self.clone(), pool.clone());
        let [first, second, forgotten] = [0, 1, 2].map(|place| work(yard, number + place, Step::Answer));
        ON_FAILURE.set(Some(Box::new(move || {
            inner.0.borrow_mut().push(pool.send_batch(vec![first, second]));
            pool.do_send(forgotten);
            assert!(pool.stats().workers() <= 1);
        })));
    }

    async fn answers(&self) -> Vec<Result<Vec<u8>, Reported>> {
        let calls = std::mem::take(&mut *self.0.borrow_mut());
        let mut answers = Vec::new();
        for call in calls {
            answers.extend(answer(call).await);
        }
        answers
    }
}

/// P11, C4: whatever a call fails by, those behind it and those that its failure makes run once each.
#[test]
fn an_error_that_makes_calls_itself_loses_none() {
    run(async {
        for (step, kind) in [
            (Step::Exit, FailureKind::Died),
            (Step::Panic, FailureKind::Panic),
            (Step::Spin, FailureKind::Timeout),
            (Step::Babble, FailureKind::Payload),
        ] {
            let yard = Yard::new();
            let pool = builder::<Reporter>(()).workers(1..=1).max_payload(4096).start();
            let pool = pool.expect("the pool starts");
            assert!(answer(pool.send(work(&yard, 0, Step::Answer))).await.is_ok());
            settled(&pool, 1).await;
            let inner = Inner::default();
            inner.call_on_failure(&pool, &yard, 10);
            let limit = if step == Step::Spin { Duration::from_millis(200) } else { PATIENCE };
            let fails = pool.send_within(limit, work(&yard, 1, step));
            let behind = [2, 3].map(|number| pool.send(work(&yard, number, Step::Answer)));
            assert_eq!(answer(fails).await, Err(Reported(format!("{kind:?}"))));
            for call in behind {
                assert_eq!(answer(call).await, Ok(Vec::new()), "{kind:?}");
            }
            assert_eq!(inner.answers().await, [Ok(Vec::new()), Ok(Vec::new())], "{kind:?}");
            yard.begun(7).await;
            assert_eq!(yard.sorted(), [0, 1, 2, 3, 10, 11, 12], "{kind:?}");
            until("all are answered", || pool.stats().leased == 0).await;
        }
    });
}

/// P12, C4
#[test]
fn an_error_that_makes_calls_while_its_pool_stops_has_them_refused() {
    run(async {
        let yard = Yard::new();
        let pool = builder::<Reporter>(()).workers(1..=1).start().expect("the pool starts");
        settled(&pool, 1).await;
        let inner = Inner::default();
        inner.call_on_failure(&pool, &yard, 10);
        let Task(number, journal, gate, _) = yard.gated(1, Act::Answer);
        let runs = pool.send(Work(number, journal, gate, Step::Answer));
        yard.begun(1).await;
        let waits = pool.send(work(&yard, 2, Step::Answer));
        let stop = actix_rt::spawn(pool.stop(PATIENCE));
        let stopped = || Reported(format!("{:?}", FailureKind::Stopped));
        assert_eq!(answer(waits).await, Err(stopped()));
        assert_eq!(inner.answers().await, [Err(stopped()), Err(stopped())]);
        yard.open();
        assert_eq!(answer(runs).await, Ok(Vec::new()));
        assert!(bounded("the stop", stop).await.expect("a report").left.is_empty());
        assert_eq!(yard.numbers(), [1]);
    });
}
