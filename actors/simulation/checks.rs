//! What must hold after every step, and what must hold in the end.

use std::time::{Duration, Instant};

use super::server::SimServer;
use super::worker::{Believed, Generation};
use super::world::World;
use crate::actors::scheduler::state::{Counts, PoolPhase, ReleaseReport};
use crate::actors::scheduler::worker_state::RetireReason;

/// The waits behind early ends, kept a second time.
#[derive(Default)]
pub(super) struct Backoff {
    pub(super) early_ends: u64,
    /// Early ends since the last worker became ready that was asked for after the last of them.
    streak: u32,
    not_before: Option<Instant>,
}

impl Backoff {
    pub(super) fn early_end(&mut self, waits: &crate::config::Backoff, now: Instant, jitter: f64) {
        self.early_ends += 1;
        self.streak += 1;
        self.not_before = now.checked_add(waits.wait(self.streak, jitter));
    }

    /// A worker became ready that was asked for after so many early ends.
    pub(super) fn ready(&mut self, asked_after: u64) {
        if asked_after == self.early_ends {
            self.streak = 0;
            self.not_before = None;
        }
    }

    pub(super) fn check_fork(&self, now: Instant, starting: usize) {
        let early = self.not_before.is_some_and(|not_before| now < not_before);
        assert!(!early, "a fork comes {:?} too early", self.not_before.map(|at| at.duration_since(now)));
        assert!(self.streak == 0 || starting == 0, "after an early end one worker at a time is tried");
    }
}

/// How often the pool was woken by its timer within one second.
#[derive(Default)]
pub(super) struct Ticks {
    second: Duration,
    count: u64,
}

/// Timers in one second beyond which the pool is taken to be busy with nothing.
const MOST_TICKS: u64 = 2000;

impl Ticks {
    pub(super) fn count(&mut self, ran: Duration) {
        if ran >= self.second + Duration::from_secs(1) {
            (self.second, self.count) = (ran, 0);
        }
        self.count += 1;
        assert!(self.count <= MOST_TICKS, "the pool is woken {} times a second", self.count);
    }
}

impl World {
    /// Places that are taken: a process counts until it is reaped.
    pub(super) fn places(&self) -> usize {
        self.believed(|_| true)
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for worker in self.workers.values() {
            match worker.believed {
                Some(Believed::Starting) => counts.starting += 1,
                Some(Believed::Idle) => counts.idle += 1,
                Some(Believed::Leased(_)) => counts.leased += 1,
                Some(Believed::Ending) => counts.ending += 1,
                None => {}
            }
        }
        counts
    }

    /// P2, P3, P4: what holds after every step.
    pub(super) fn check(&self) {
        let counts = self.counts();
        assert_eq!(self.state.counts(), counts, "the books are right");
        let most = *self.plan.options.workers.end();
        // One that was given up before it was known to be born is nobody's; it ends by itself.
        let processes = self.workers.values().filter(|worker| worker.is_alive() && worker.ends == 0).count();
        assert!(processes <= most, "{processes} processes are more than {most}");
        let places = counts.starting + counts.idle + counts.leased + counts.ending;
        assert!(places <= most, "{places} places are more than {most}");
        assert!(self.state.waiting().eq(self.line.iter().copied()), "the line is kept");
        assert!(self.line.is_empty() || counts.idle == 0, "nobody waits beside an idle worker");
        assert_eq!(counts.idle, self.idle.len());
        let useful = counts.starting + counts.idle + counts.leased;
        let current = useful - self.of_old(|_| true);
        let open = self.state.phase() == PoolPhase::Open;
        let missing = !self.line.is_empty() || open && current < *self.plan.options.workers.start();
        if missing && places < most {
            assert!(self.state.is_starting(), "what is missing is asked for, or will be: {counts:?}");
            let due = counts.starting > 0 || self.state.next_tick().is_some();
            assert!(due, "somebody comes back to it");
        }
        if !open && self.line.is_empty() {
            assert_eq!(
                counts.idle + counts.starting,
                0,
                "a pool that ends keeps nothing that nobody asks for"
            );
        }
        assert!(
            self.state.phase() < PoolPhase::Stopping || self.line.is_empty(),
            "a stopped pool serves nobody"
        );
        self.check_timer(current);
    }

    /// How many are there whether or not anybody waits.
    fn kept(&self) -> usize {
        let (options, leased) = (&self.plan.options, self.counts().leased);
        let fewest = *options.workers.start();
        if leased > 0 { fewest.max(leased + options.spare_workers) } else { fewest }
    }

    /// The least recently used of those that are not to be replaced anyway.
    fn first_current(&self) -> Option<u64> {
        self.idle.iter().copied().find(|number| self.workers[number].generation == Generation::Current)
    }

    /// P5, P7: whoever is idle is looked at again when it will have been so for too long, or be too old.
    fn check_timer(&self, useful: usize) {
        let (options, next) = (&self.plan.options, self.state.next_tick());
        for number in &self.idle {
            let worker = &self.workers[number];
            let old_at = options.max_age.map(|limit| worker.born + limit);
            let spare = useful > self.kept() && self.first_current() == Some(*number);
            let weary_at = options.idle_timeout.filter(|_| spare).map(|limit| worker.idle_since + limit);
            for due in [old_at, weary_at].into_iter().flatten() {
                assert!(next.is_some_and(|next| next <= due), "worker {number} is looked at when it is due");
            }
        }
    }

    /// Useful workers whose server takes no more work, in some state.
    fn of_old(&self, is: impl Fn(Believed) -> bool) -> usize {
        let old = self.workers.values().filter(|worker| worker.generation != Generation::Current);
        let useful =
            old.filter_map(|worker| worker.believed).filter(|believed| *believed != Believed::Ending);
        useful.filter(|believed| is(*believed)).count()
    }

    /// S4: whether a worker whose server takes no more work is still needed; `idle`: it is among those that are.
    fn stands_in(&self, generation: Generation, idle: bool) -> bool {
        let (counts, options) = (self.counts(), &self.plan.options);
        let ready = counts.idle + counts.leased
            - self.of_old(|believed| matches!(believed, Believed::Idle | Believed::Leased(_)));
        let coming = counts.starting - self.of_old(|believed| believed == Believed::Starting);
        let beside = self.of_old(|believed| believed == Believed::Idle) - usize::from(idle);
        let wanted = (*options.workers.start()).max(usize::from(!self.line.is_empty()));
        let full = counts.starting + counts.idle + counts.leased == *options.workers.end();
        generation == Generation::Outdated && ready + beside < wanted && !(full && coming == 0)
    }

    /// Why a worker that comes back now has to end, by the options' own words.
    pub(super) fn expected_reason(
        &self,
        number: u64,
        facts: ReleaseReport,
        now: Instant,
    ) -> Option<RetireReason> {
        let (worker, options) = (self.workers.get(&number)?, &self.plan.options);
        let too_old = options.max_age.is_some_and(|limit| now.duration_since(worker.born) >= limit);
        let too_large = facts.private_bytes > options.max_memory && options.max_memory.is_some();
        let worn_out = options.max_checkouts.is_some_and(|most| worker.checkouts >= most);
        let reasons = [
            (self.state.phase() == PoolPhase::Stopping, RetireReason::PoolEnds),
            (facts.stop, RetireReason::Asked),
            (
                worker.generation != Generation::Current && !self.stands_in(worker.generation, false),
                RetireReason::Outdated,
            ),
            (worn_out, RetireReason::WornOut),
            (too_large, RetireReason::TooLarge),
            (too_old, RetireReason::TooOld),
        ];
        reasons.into_iter().find(|(holds, _)| *holds).map(|(_, reason)| reason)
    }

    /// Whether a worker that the ledger has end may be told so, for that reason.
    pub(super) fn check_reason(&self, number: u64, reason: RetireReason) {
        let Some(worker) = self.workers.get(&number) else { return };
        let (now, options) = (self.now(), &self.plan.options);
        if matches!(worker.believed, Some(Believed::Ending) | None) {
            return;
        }
        let leased = matches!(worker.believed, Some(Believed::Leased(_)));
        assert!(!leased, "nobody holds worker {number} that is to end");
        match reason {
            RetireReason::IdleTooLong => {
                assert_eq!(self.first_current(), Some(number), "the least recently used goes first");
                let limit = options.idle_timeout.unwrap_or(Duration::MAX);
                assert!(now.duration_since(worker.idle_since) >= limit, "it was idle for long enough");
                let useful = self.counts().starting + self.counts().idle + self.counts().leased;
                let useful = useful - self.of_old(|_| true);
                assert!(useful > self.kept(), "the fewest are kept, and the spare ones beside those in use");
            }
            RetireReason::TooOld => {
                let limit = options.max_age.unwrap_or(Duration::MAX);
                assert!(now.duration_since(worker.born) >= limit, "it is old enough");
            }
            RetireReason::PoolEnds => assert_ne!(self.state.phase(), PoolPhase::Open),
            RetireReason::Outdated => {
                assert!(!self.stands_in(worker.generation, true), "worker {number} was still needed");
            }
            RetireReason::WornOut => {
                assert!(options.max_checkouts.is_some_and(|most| worker.checkouts >= most))
            }
            _ => {}
        }
    }

    /// P2: whether the pool has what it is to have, and nothing is under way.
    pub(super) fn is_at_rest(&self) -> bool {
        let counts = self.counts();
        let (fewest, most) = (*self.plan.options.workers.start(), *self.plan.options.workers.end());
        if !self.line.is_empty() || !self.sessions.is_empty() {
            return false;
        }
        if self.state.phase() > PoolPhase::Open {
            return self.supervisor.server == SimServer::Over;
        }
        let useful = counts.starting + counts.leased + counts.idle;
        let up = self.supervisor.server == SimServer::Up;
        if self.plan.options.max_age.is_some() {
            // Some of them are always on their way out, and hold the places of those that follow.
            return up && useful + counts.ending >= fewest;
        }
        if self.of_old(|_| true) > 0 {
            return false;
        }
        // Above the fewest some stay until they have been idle for too long.
        let most = if self.plan.options.idle_timeout.is_some() { fewest } else { most };
        up && useful == counts.idle && counts.ending == 0 && (fewest..=most).contains(&useful)
    }

    /// P12: what holds once nothing is left to happen.
    pub(super) fn check_end(&mut self) {
        assert_eq!(self.state.counts(), Counts::default());
        assert!(self.sessions.is_empty() && self.line.is_empty(), "every checkout has ended");
        for (number, worker) in &self.workers {
            assert!(!worker.is_alive(), "worker {number} has ended");
            assert_eq!(worker.ends, 1, "the end of worker {number} was told once");
        }
        assert_eq!(self.state.next_tick(), None, "nothing wakes a pool that is over");
    }
}
