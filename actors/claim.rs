//! What the desk tells a checkout that waits for a worker or holds one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;

use super::lease::{Identity, Lease};
use super::output::Output;
use crate::failure::{Ending, Failure, MemoryVerdict, WorkerFacts};
use crate::wire::control::Ended;

/// How long after a worker closed its channel news of its death is waited for; one of which there is none by then
/// has closed it and lives on.
pub(super) const OBITUARY_PATIENCE: Duration = Duration::from_millis(500);

/// How a worker ended, as far as anybody saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obituary {
    Seen(Ended),
    /// Its fork server was gone before it.
    Unseen,
}

impl Obituary {
    /// Notes in a failure whom it is about and how that one ended; `memory_limit` is what it was bound to.
    pub(super) fn note_in(
        &self,
        failure: Failure,
        worker: &Identity,
        calls_served: Option<u64>,
        memory_limit: Option<u64>,
    ) -> Failure {
        let facts = worker.facts(calls_served);
        match self {
            Obituary::Seen(ended) => {
                let facts = WorkerFacts {
                    peak_memory: Some(ended.peak_memory),
                    cpu_time: Some(ended.cpu_time),
                    killed_for_memory: verdict(ended, &worker.output, memory_limit),
                    ..facts
                };
                failure.on_worker(facts).with_ending(ended.ending)
            }
            Obituary::Unseen => failure.on_worker(facts).with_ending(Ending::Unknown),
        }
    }

    /// Whether its server killed it because its call ran for too long.
    pub(super) fn says_it_hung(&self) -> bool {
        matches!(self, Obituary::Seen(Ended { hung: true, .. }))
    }

    /// Whether a call of the checkout at hand had begun, as far as this tells.
    pub(super) fn says_it_had_begun(&self) -> Option<bool> {
        match self {
            Obituary::Seen(ended) => ended.remains.as_ref().map(|remains| remains.begun),
            Obituary::Unseen => None,
        }
    }
}

/// What Rust, C++ and the C library say where there is no memory.
const OUT_OF_MEMORY: [&str; 4] =
    ["memory allocation of ", "bad_alloc", "Cannot allocate memory", "out of memory"];

/// What ended a worker for its memory, if that did. At a limit of its own an allocation fails, and what follows from
/// that is the program's own affair: most say so and abort.
fn verdict(ended: &Ended, output: &Output, memory_limit: Option<u64>) -> Option<MemoryVerdict> {
    if ended.out_of_memory {
        return Some(MemoryVerdict::OutOfMemoryKiller);
    }
    let limit = memory_limit.filter(|_| ended.ending != Ending::Exited { code: 0 })?;
    output.said_last(&OUT_OF_MEMORY).then_some(MemoryVerdict::OwnLimit { limit })
}

/// What has happened since the checkout last looked.
#[derive(Default)]
pub(super) struct News {
    /// It has a worker.
    pub(super) lease: Option<Lease>,
    /// It will get none.
    pub(super) refusal: Option<Failure>,
    /// Its worker is dead.
    pub(super) obituary: Option<Obituary>,
    /// The pool is stopping: what is queued may still run.
    pub(super) closing: bool,
    /// The pool has stopped: what still runs is killed.
    pub(super) stopped: bool,
}

/// A checkout's place at the desk, from its asking to its release.
pub(super) struct Claim {
    pub(super) id: u64,
    /// Whether it has something to run, so that a failed set-up has somebody to be told to.
    pub(super) has_call: AtomicBool,
    fresh: AtomicBool,
    letterbox: Mutex<Letterbox>,
}

#[derive(Default)]
struct Letterbox {
    news: News,
    waker: Option<Waker>,
}

impl Claim {
    pub(super) fn new(id: u64) -> Arc<Self> {
        Arc::new(Claim {
            id,
            has_call: AtomicBool::new(false),
            fresh: AtomicBool::new(false),
            letterbox: Mutex::new(Letterbox::default()),
        })
    }

    /// Leaves news and returns whom to wake, which is to be done without a lock held.
    #[must_use = "the checkout sleeps until it is woken"]
    pub(super) fn tell(&self, write: impl FnOnce(&mut News)) -> Option<Waker> {
        let mut letterbox = self.letterbox.lock();
        write(&mut letterbox.news);
        self.fresh.store(true, Ordering::Release);
        letterbox.waker.clone()
    }

    /// From now on news wakes this task.
    pub(super) fn wake_with(&self, waker: &Waker) {
        self.letterbox.lock().waker = Some(waker.clone());
    }

    /// Takes the news, if there is any.
    pub(super) fn take_news(&self) -> Option<News> {
        if !self.fresh.load(Ordering::Acquire) {
            return None;
        }
        let mut letterbox = self.letterbox.lock();
        self.fresh.store(false, Ordering::Relaxed);
        Some(std::mem::take(&mut letterbox.news))
    }
}
