//! What a pool counts: calls by message and outcome, times, workers' ends.
//!
//! What belongs to each call is counted without contention. Each thread with lanes or sessions has a tally of its own, to
//! which it alone writes, and a reader adds up the tallies of all threads. So a count is a plain addition in memory that no
//! other processor writes, and it is there as soon as the answer is that follows it.

mod durations;
mod last_failures;
mod tally;

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::ThreadId;
use std::time::Duration;

use parking_lot::Mutex;

use crate::actors::api::snapshot::{CallTotals, EndReason, FailureSummary, Histogram, Stats, Totals};
use crate::actors::calls::MethodInfo;
use crate::clock::Instant;
use crate::failure::{Failure, KIND_NAMES};
use durations::DurationTally;
use last_failures::LastFailures;
use tally::{Added, Tally};

/// How many threads may have a tally before those are looked for that have no lane and no session any more.
const MANY_THREADS: usize = 64;

/// The counts of a pool.
pub(crate) struct Tallies {
    /// The names of the messages, in the order of the interface.
    names: Vec<&'static str>,
    /// What any thread counts, and what threads have counted that need their tally no longer.
    common: Tally,
    threads: Mutex<Vec<(ThreadId, Arc<Tally>)>>,
    forked: AtomicU64,
    server_starts: AtomicU64,
    quarantined: AtomicU64,
    unheard: AtomicU64,
    ends: [AtomicU64; EndReason::ALL.len()],
    ended_cpu_nanos: AtomicU64,
    start: DurationTally,
    last_failures: Mutex<LastFailures>,
}

impl Tallies {
    /// Returns the counts of a pool whose interface has these messages.
    pub(crate) fn new(names: Vec<&'static str>) -> Self {
        Tallies {
            common: Tally::new(names.len()),
            names,
            threads: Mutex::default(),
            forked: AtomicU64::new(0),
            server_starts: AtomicU64::new(0),
            quarantined: AtomicU64::new(0),
            unheard: AtomicU64::new(0),
            ends: [const { AtomicU64::new(0) }; EndReason::ALL.len()],
            ended_cpu_nanos: AtomicU64::new(0),
            start: DurationTally::default(),
            last_failures: Mutex::default(),
        }
    }

    /// Returns what this thread counts with.
    pub(crate) fn here(&self) -> ThreadTally {
        let thread = std::thread::current().id();
        let mut threads = self.threads.lock();
        let known = threads.iter().find(|(of, _)| *of == thread).map(|(_, tally)| tally.clone());
        let tally = known.unwrap_or_else(|| {
            if threads.len() >= MANY_THREADS {
                self.absorb_unused(&mut threads);
            }
            let tally = Arc::new(Tally::new(self.names.len()));
            threads.push((thread, tally.clone()));
            tally
        });
        ThreadTally { tally, thread: PhantomData }
    }

    /// Moves what threads have counted that have no lane and no session any more.
    fn absorb_unused(&self, threads: &mut Vec<(ThreadId, Arc<Tally>)>) {
        // Only this list leads to those, and it is locked, so no thread counts with them meanwhile.
        threads.retain(|(_, tally)| {
            let is_used = Arc::strong_count(tally) > 1;
            if !is_used {
                self.common.absorb(tally);
            }
            is_used
        });
    }

    /// Returns the name of the message with this index in the interface.
    pub(crate) fn name(&self, method: usize) -> Option<&'static str> {
        self.names.get(method).copied()
    }

    pub(crate) fn count_fork(&self) {
        self.forked.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_server_start(&self) {
        self.server_starts.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message that is in quarantine from now on.
    pub(crate) fn count_quarantined(&self) {
        self.quarantined.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_unheard(&self) {
        self.unheard.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a checkout that was granted a worker.
    pub(crate) fn count_checkout(&self) {
        self.common.checkouts.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call that is answered with a failure.
    pub(crate) fn count_failure(&self, method: &MethodInfo, failure: &Failure) {
        let kind = KIND_NAMES.iter().position(|(known, _)| *known == failure.kind());
        if let (Some(call), Some(kind)) = (self.common.call(method.index), kind) {
            call.failures[kind].fetch_add(1, Ordering::Relaxed);
        }
        let forgotten = self.last_failures.lock().push(failure.clone(), Instant::now());
        drop(forgotten);
    }

    /// Counts the end of a worker.
    pub(crate) fn count_end(&self, reason: EndReason, cpu_time: Option<Duration>) {
        if let Some(at) = EndReason::ALL.iter().position(|known| *known == reason) {
            self.ends[at].fetch_add(1, Ordering::Relaxed);
        }
        let nanos = cpu_time.map_or(0, durations::nanos);
        self.ended_cpu_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Counts a worker that is set up, so long after it was requested.
    pub(crate) fn add_start(&self, duration: Duration) {
        self.start.add_contended(duration);
    }

    /// Returns how long recent checkouts held their worker.
    pub(crate) fn usual_hold(&self) -> Duration {
        let threads = self.threads.lock();
        let usual = threads.iter().filter_map(|(_, tally)| tally.usual_hold());
        let usual: Vec<Duration> = usual.chain(self.common.usual_hold()).collect();
        usual.iter().sum::<Duration>() / u32::try_from(usual.len()).unwrap_or(u32::MAX).max(1)
    }

    fn added(&self) -> Added {
        let mut added = Added::new(self.names.len());
        let threads = self.threads.lock();
        self.common.add_to(&mut added);
        threads.iter().for_each(|(_, tally)| tally.add_to(&mut added));
        added
    }

    /// Returns all counts; of a call all that was counted before its answer.
    pub(crate) fn read(&self) -> Counted {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let added = self.added();
        let ends = EndReason::ALL.into_iter().zip(self.ends.iter().map(load));
        Counted {
            totals: Totals {
                forked: load(&self.forked),
                checkouts: added.checkouts,
                server_starts: load(&self.server_starts),
                quarantined: load(&self.quarantined),
                unheard: load(&self.unheard),
                ends: ends.filter(|(_, count)| *count > 0).collect(),
                cpu_time: Duration::from_nanos(load(&self.ended_cpu_nanos)),
            },
            hold: added.hold.clone(),
            start: self.start.read(),
            calls: added.calls(&self.names),
        }
    }

    /// Returns the counts that [`Stats`] has; what the pool state knows is left at its default.
    pub(crate) fn stats(&self) -> Stats {
        let (added, mut stats) = (self.added(), Stats::default());
        added.sum_into(&mut stats);
        stats.forked = self.forked.load(Ordering::Relaxed);
        stats.unheard = self.unheard.load(Ordering::Relaxed);
        stats
    }

    /// Returns the last failures, the oldest first.
    pub(crate) fn last_failures(&self) -> Vec<FailureSummary> {
        let last = self.last_failures.lock().clone();
        last.summaries(Instant::now())
    }

    /// Returns the last failures that have a higher number than this, in short and in full, the oldest first.
    #[cfg(feature = "actix-web")]
    pub(crate) fn failures_after(&self, number: u64) -> Vec<(FailureSummary, Failure)> {
        let last = self.last_failures.lock().clone();
        last.after(number, Instant::now()).map(|(summary, failure)| (summary, failure.clone())).collect()
    }
}

/// What [`Tallies::read`] returns.
pub(crate) struct Counted {
    pub(crate) totals: Totals,
    pub(crate) hold: Histogram,
    pub(crate) start: Histogram,
    pub(crate) calls: Vec<CallTotals>,
}

/// What one thread counts with. It stays on its thread.
pub(crate) struct ThreadTally {
    tally: Arc<Tally>,
    /// Only this thread writes to the tally.
    thread: PhantomData<*const ()>,
}

impl ThreadTally {
    /// Counts a call to the pool that has its worker.
    #[inline]
    pub(crate) fn count_checkout(&self) {
        tally::bump(&self.tally.checkouts, 1);
    }

    #[inline]
    pub(crate) fn count_success(&self, method: &MethodInfo) {
        if let Some(call) = self.tally.call(method.index) {
            tally::bump(&call.succeeded, 1);
        }
    }

    #[inline]
    pub(crate) fn count_error(&self, method: &MethodInfo) {
        if let Some(call) = self.tally.call(method.index) {
            tally::bump(&call.errors, 1);
        }
    }

    #[inline]
    pub(crate) fn add_wait(&self, method: &MethodInfo, duration: Duration) {
        if let Some(call) = self.tally.call(method.index) {
            call.wait.add(duration);
        }
    }

    #[inline]
    pub(crate) fn add_run(&self, method: &MethodInfo, duration: Duration) {
        if let Some(call) = self.tally.call(method.index) {
            call.run.add(duration);
        }
    }

    /// Counts a checkout that held its worker for this long, however that ended.
    #[inline]
    pub(crate) fn add_hold(&self, duration: Duration) {
        self.tally.add_hold(duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(index: u32) -> MethodInfo {
        MethodInfo { name: "", index, describe: |_| None }
    }

    /// M1: what threads count is there, also once they are gone.
    #[test]
    fn no_count_is_lost_with_its_thread() {
        let tallies = Tallies::new(vec!["first", "second"]);
        let threads = 3 * MANY_THREADS as u64;
        for _ in 0..threads {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let here = tallies.here();
                    here.count_success(&method(1));
                    here.add_run(&method(1), Duration::from_millis(2));
                    here.add_hold(Duration::from_millis(3));
                });
            });
        }
        assert!(tallies.threads.lock().len() <= MANY_THREADS, "a tally is kept for each thread");
        let counted = tallies.read();
        let [second] = &*counted.calls else { panic!("{:?}", counted.calls) };
        assert_eq!((&*second.name, second.succeeded, second.run.count()), ("second", threads, threads));
        assert_eq!(second.run.sum(), Duration::from_millis(2) * threads as u32);
        assert_eq!(counted.hold.sum(), Duration::from_millis(3) * threads as u32);
        assert_eq!(tallies.usual_hold(), Duration::from_millis(3));
    }

    #[test]
    fn a_message_outside_of_the_interface_is_not_counted() {
        let tallies = Tallies::new(vec!["only"]);
        tallies.here().count_success(&method(u32::MAX));
        assert_eq!(tallies.read().calls, []);
    }
}
