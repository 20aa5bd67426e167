//! The checks after every event, and the checks at the end of a run.

use std::time::Duration;

use super::server::SimServer;
use super::worker::{ExpectedState, SimGeneration};
use super::world::World;
use crate::actors::scheduler::state::{Counts, PoolPhase, ReleaseReport};
use crate::actors::scheduler::worker_state::RetireReason;
use crate::clock::Instant;

/// A model of the backoff after early exits.
#[derive(Default)]
pub(super) struct BackoffModel {
    pub(super) early_exits: u64,
    /// Early exits in a row. It restarts at 0 once a worker becomes ready that was requested after the last early exit.
    streak: u32,
    not_before: Option<Instant>,
}

impl BackoffModel {
    pub(super) fn record_early_exit(&mut self, waits: &crate::config::Backoff, now: Instant, jitter: f64) {
        self.early_exits += 1;
        self.streak += 1;
        self.not_before = now.checked_add(waits.wait(self.streak, jitter));
    }

    /// Records that a worker became ready. `early_exits_before` is the number of early exits when it was requested.
    pub(super) fn record_ready(&mut self, early_exits_before: u64) {
        if early_exits_before == self.early_exits {
            self.streak = 0;
            self.not_before = None;
        }
    }

    pub(super) fn check_fork(&self, now: Instant, starting: usize) {
        let early = self.not_before.is_some_and(|not_before| now < not_before);
        assert!(
            !early,
            "a fork is requested {:?} too early",
            self.not_before.map(|at| at.saturating_duration_since(now))
        );
        assert!(self.streak == 0 || starting == 0, "after an early exit workers are started one at a time");
    }
}

/// Counts the ticks of the pool within one second.
#[derive(Default)]
pub(super) struct Ticks {
    second: Duration,
    count: u64,
}

/// Ticks within one second above which the pool is considered to be in a busy loop.
const MAX_TICKS_PER_SECOND: u64 = 2000;

impl Ticks {
    pub(super) fn count(&mut self, elapsed: Duration) {
        if elapsed >= self.second + Duration::from_secs(1) {
            (self.second, self.count) = (elapsed, 0);
        }
        self.count += 1;
        assert!(self.count <= MAX_TICKS_PER_SECOND, "the pool ticks {} times within a second", self.count);
    }
}

impl World {
    /// Returns the number of workers that count against the maximum: a process counts until it is reaped.
    pub(super) fn worker_count(&self) -> usize {
        self.count_expected(|_| true)
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for worker in self.workers.values() {
            match worker.expected_state {
                Some(ExpectedState::Starting) => counts.starting += 1,
                Some(ExpectedState::Idle) => counts.idle += 1,
                Some(ExpectedState::Leased(_)) => counts.leased += 1,
                Some(ExpectedState::Ending) => counts.ending += 1,
                None => {}
            }
        }
        counts
    }

    /// P2, P3, P4: checks what must hold after every event.
    pub(super) fn check(&self) {
        let counts = self.counts();
        assert_eq!(self.state.counts(), counts, "the counts of the pool state are right");
        let most = *self.plan.options.workers.end();
        // A worker that was retired before its fork report does not count; it finds its channel closed and exits.
        let processes =
            self.workers.values().filter(|worker| worker.is_alive() && worker.reported_exits == 0).count();
        assert!(processes <= most, "{processes} processes are more than {most}");
        let occupied = counts.starting + counts.idle + counts.leased + counts.ending;
        assert!(occupied <= most, "{occupied} workers are more than {most}");
        assert!(self.state.waiting().iter().eq(self.queue.iter().copied()), "the queue keeps its order");
        let mut servable = self.allowed();
        assert!(self.state.waiting().allowed().eq(servable.iter().copied()), "they are allowed a worker");
        assert_eq!(self.state.is_paused(), self.is_paused);
        servable.retain(|_| !self.is_paused);
        assert!(servable.is_empty() || counts.idle == 0, "no such checkout waits while a worker is idle");
        assert_eq!(counts.idle, self.idle.len());
        let useful = counts.starting + counts.idle + counts.leased;
        let current = useful - self.count_stale(|_| true);
        let open = self.state.phase() == PoolPhase::Open;
        let missing = !servable.is_empty() || open && current < *self.plan.options.workers.start();
        if missing && occupied < most {
            assert!(self.state.is_starting(), "missing workers are requested, or will be: {counts:?}");
            let due = counts.starting > 0 || self.state.next_tick().is_some();
            assert!(due, "a report or a tick will follow");
        }
        if !open && self.queue.is_empty() {
            assert_eq!(
                counts.idle + counts.starting,
                0,
                "a closing pool keeps no worker that no checkout requests"
            );
        }
        assert!(
            self.state.phase() < PoolPhase::Stopping || self.queue.is_empty(),
            "a stopped pool has no waiting checkouts"
        );
        self.check_timer(current);
    }

    /// Returns how many workers there should be without waiting checkouts.
    fn target_workers(&self) -> usize {
        let (options, leased) = (&self.plan.options, self.counts().leased);
        let minimum = *options.workers.start();
        if leased > 0 { minimum.max(leased + options.spare_workers) } else { minimum }
    }

    /// Returns the least recently used idle worker that is not stale.
    fn first_current(&self) -> Option<u64> {
        self.idle.iter().copied().find(|number| self.workers[number].generation == SimGeneration::Current)
    }

    /// P5, P7: checks that a tick is scheduled for when an idle worker will have been idle for too long or be too old.
    fn check_timer(&self, useful: usize) {
        let (options, next) = (&self.plan.options, self.state.next_tick());
        for number in &self.idle {
            let worker = &self.workers[number];
            let old_at = options.max_lifetime.map(|limit| worker.alive_since + limit);
            let spare = useful > self.target_workers() && self.first_current() == Some(*number);
            let idle_out_at = options.idle_timeout.filter(|_| spare).map(|limit| worker.idle_since + limit);
            for due in [old_at, idle_out_at].into_iter().flatten() {
                assert!(
                    next.is_some_and(|next| next <= due),
                    "a tick is scheduled for when worker {number} expires"
                );
            }
        }
    }

    /// Counts the stale workers in the states for which `is` holds: those that serve or will serve and whose server
    /// takes no more work.
    fn count_stale(&self, is: impl Fn(ExpectedState) -> bool) -> usize {
        let old = self.workers.values().filter(|worker| worker.generation != SimGeneration::Current);
        let useful = old
            .filter_map(|worker| worker.expected_state)
            .filter(|expected_state| *expected_state != ExpectedState::Ending);
        useful.filter(|expected_state| is(*expected_state)).count()
    }

    /// Counts the workers that are being set up and belong to a server that takes no more work.
    fn count_old_starting(&self) -> usize {
        let starting = self.workers.values().filter(|worker| {
            matches!(worker.generation, SimGeneration::Outdated | SimGeneration::Obsolete)
                && worker.expected_state == Some(ExpectedState::Starting)
        });
        starting.count()
    }

    /// P15: checks that a worker which is recycled leaves enough others. `counted`: it counts as one of them still.
    pub(super) fn check_recycled(&self, counted: usize) {
        let (counts, minimum) = (self.counts(), *self.plan.options.workers.start());
        let others = counts.idle + counts.leased + self.count_old_starting() - counted;
        assert!(others + 1 >= minimum, "{others} workers are left of {minimum}: {counts:?}");
    }

    /// S4, P15: returns whether a worker whose server takes no more work is still needed. `idle`: it counts as idle itself.
    fn stands_in(&self, number: u64, idle: bool) -> bool {
        let generation = self.workers[&number].generation;
        let (counts, options) = (self.counts(), &self.plan.options);
        let ready = counts.idle + counts.leased
            - self.count_stale(|expected_state| {
                matches!(expected_state, ExpectedState::Idle | ExpectedState::Leased(_))
            });
        let coming = counts.starting - self.count_old_starting();
        let beside =
            self.count_stale(|expected_state| expected_state == ExpectedState::Idle) - usize::from(idle);
        let wanted = (*options.workers.start()).max(usize::from(self.has_next(number)));
        let full = counts.starting + counts.idle + counts.leased == *options.workers.end();
        matches!(generation, SimGeneration::Outdated | SimGeneration::Recycled)
            && ready + beside < wanted
            && !(full && coming == 0)
    }

    /// Returns why a worker that comes back now has to be retired according to the options, if it has to.
    pub(super) fn expected_reason(
        &self,
        number: u64,
        report: ReleaseReport,
        now: Instant,
    ) -> Option<RetireReason> {
        let (worker, options) = (self.workers.get(&number)?, &self.plan.options);
        let too_old = options
            .max_lifetime
            .is_some_and(|limit| now.saturating_duration_since(worker.alive_since) >= limit);
        let too_large = report.private_bytes > options.max_memory && options.max_memory.is_some();
        let worn_out = options.max_checkouts.is_some_and(|most| worker.checkouts >= most);
        let reasons = [
            (self.state.phase() == PoolPhase::Stopping, RetireReason::PoolEnds),
            (report.stop, RetireReason::StopRequested),
            (
                worker.generation != SimGeneration::Current && !self.stands_in(number, false),
                match worker.generation {
                    SimGeneration::Recycled => RetireReason::Recycled,
                    _ => RetireReason::Outdated,
                },
            ),
            (worn_out, RetireReason::MaxCheckouts),
            (too_large, RetireReason::MaxMemory),
            (too_old, RetireReason::MaxLifetime),
        ];
        reasons.into_iter().find(|(holds, _)| *holds).map(|(_, reason)| reason)
    }

    /// Checks that the pool state may retire a worker for this reason. `has_granted`: it has granted another one since it
    /// decided that, which may have stood beside this one.
    pub(super) fn check_reason(&self, number: u64, reason: RetireReason, has_granted: bool) {
        let Some(worker) = self.workers.get(&number) else { return };
        let (now, options) = (self.now(), &self.plan.options);
        if matches!(worker.expected_state, Some(ExpectedState::Ending) | None) {
            return;
        }
        let leased = matches!(worker.expected_state, Some(ExpectedState::Leased(_)));
        assert!(!leased, "no checkout holds worker {number}, which is retired");
        match reason {
            RetireReason::IdleTimeout => {
                assert_eq!(
                    self.first_current(),
                    Some(number),
                    "the least recently used worker is retired first"
                );
                let limit = options.idle_timeout.unwrap_or(Duration::MAX);
                assert!(
                    now.saturating_duration_since(worker.idle_since) >= limit,
                    "it was idle for idle_timeout"
                );
                let useful = self.counts().starting + self.counts().idle + self.counts().leased;
                let useful = useful - self.count_stale(|_| true);
                assert!(
                    useful > self.target_workers(),
                    "the minimum is kept, and the spare workers beside the lent ones"
                );
            }
            RetireReason::MaxLifetime => {
                let limit = options.max_lifetime.unwrap_or(Duration::MAX);
                assert!(
                    now.saturating_duration_since(worker.alive_since) >= limit,
                    "it has reached max_lifetime"
                );
            }
            RetireReason::PoolEnds => assert_ne!(self.state.phase(), PoolPhase::Open),
            RetireReason::Outdated => {
                let is_needed = !has_granted && self.stands_in(number, true);
                assert!(!is_needed, "worker {number} was still needed");
            }
            RetireReason::Recycled => {
                let is_needed = !has_granted && self.stands_in(number, true);
                assert!(!is_needed, "worker {number} was still needed");
                self.check_recycled(1);
            }
            RetireReason::MaxCheckouts => {
                assert!(options.max_checkouts.is_some_and(|most| worker.checkouts >= most))
            }
            _ => {}
        }
    }

    /// P2: returns whether the pool has the right number of workers, and no event is pending that would change it.
    pub(super) fn is_at_rest(&self) -> bool {
        let counts = self.counts();
        let (minimum, most) = (*self.plan.options.workers.start(), *self.plan.options.workers.end());
        if !self.queue.is_empty() || !self.sessions.is_empty() || !self.lanes_are_empty() {
            return false;
        }
        if self.state.phase() > PoolPhase::Open {
            return self.supervisor.server == SimServer::Stopped;
        }
        let useful = counts.starting + counts.leased + counts.idle;
        let up = self.supervisor.server == SimServer::Up;
        if self.plan.options.max_lifetime.is_some() {
            // Some workers are always exiting and still count against the maximum.
            return up && useful + counts.ending >= minimum;
        }
        if self.count_stale(|_| true) > 0 {
            return false;
        }
        // Workers above the minimum stay until idle_timeout.
        let most = if self.plan.options.idle_timeout.is_some() { minimum } else { most };
        up && useful == counts.idle && counts.ending == 0 && (minimum..=most).contains(&useful)
    }

    /// P12: checks what must hold after the last event.
    pub(super) fn check_end(&mut self) {
        assert_eq!(self.state.counts(), Counts::default());
        assert!(self.sessions.is_empty() && self.queue.is_empty(), "every checkout has ended");
        for (number, worker) in &self.workers {
            assert!(!worker.is_alive(), "worker {number} has ended");
            assert_eq!(worker.reported_exits, 1, "the exit of worker {number} was reported once");
        }
        assert_eq!(self.state.next_tick(), None, "a stopped pool schedules no tick");
        self.check_calls();
        self.check_singles();
    }
}
