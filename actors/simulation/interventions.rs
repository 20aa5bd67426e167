//! What a user does to the simulated pool: recycles and kills workers, pauses, resumes, closes and stops the pool.

use super::plan::millis;
use super::worker::{ExpectedState, SimGeneration};
use super::world::{SimEvent, World};
use crate::actors::api::recycling::Recycle;
use crate::actors::scheduler::state::PoolPhase;

impl World {
    pub(super) fn schedule_interventions(&mut self) {
        let calm_at = self.plan.calm_at;
        for _ in 0..self.plan.recyclings {
            let at = self.draw_time(calm_at);
            let which = match self.rng.below(4) {
                0 => Recycle::Worker(1 + self.rng.below(12) as u64),
                1 => Recycle::OlderThan(millis(self.rng.pick(&[0, 20, 2_000, 60_000]))),
                _ => Recycle::All,
            };
            self.schedule_at(at, SimEvent::Recycle(which));
        }
        for _ in 0..self.plan.kills {
            let (at, which) = (self.draw_time(calm_at), self.rng.below(100));
            self.schedule_at(at, SimEvent::KillWorker(which));
        }
        for _ in 0..self.plan.pauses {
            let (at, until) = (self.draw_time(calm_at), self.draw_time(calm_at));
            self.schedule_at(at, SimEvent::Pause);
            self.schedule_at(at + until, SimEvent::Resume);
        }
    }

    /// P15
    pub(super) fn recycle(&mut self, which: Recycle) {
        let now = self.now();
        let is_open = self.state.phase() == PoolPhase::Open;
        let serving = self.workers.iter_mut().filter(|(_, worker)| {
            is_open && !matches!(worker.expected_state, Some(ExpectedState::Ending) | None)
        });
        let mut expected = Vec::new();
        for (&number, worker) in serving {
            let is_meant = match which {
                Recycle::All => true,
                Recycle::Worker(meant) => meant == number,
                Recycle::OlderThan(age) => now.saturating_duration_since(worker.alive_since) >= age,
            };
            if is_meant {
                expected.push(number);
                if worker.generation == SimGeneration::Current {
                    worker.generation = SimGeneration::Recycled;
                }
            }
        }
        self.record("workers recycled", || format!("{which:?}: {expected:?}"));
        assert_eq!(self.state.recycle(which, now), expected);
        self.settle();
    }

    /// P16
    pub(super) fn kill_worker(&mut self, which: usize) {
        let forked = self.workers.iter().filter(|(_, worker)| worker.is_registered());
        let forked = Vec::from_iter(forked.map(|(number, _)| *number));
        let Some(&number) = forked.get(which % forked.len().max(1)) else { return };
        let now = self.now();
        let Some(worker) = self.worker(number) else { return };
        let before = worker.expected_state.replace(ExpectedState::Ending);
        self.idle.retain(|idle| *idle != number);
        self.record("worker killed by its number", || format!("{number}, {before:?}"));
        self.state.kill(number, now);
        if let Some(ExpectedState::Leased(waiter)) = before {
            self.notify_kill(waiter);
        }
        // The supervisor kills one that is being set up, so that it does not take that for a failed set-up.
        if before != Some(ExpectedState::Starting) {
            self.kill(number);
        }
        self.settle();
    }

    /// P17
    pub(super) fn pause(&mut self) {
        let pauses = self.state.phase() == PoolPhase::Open && !self.is_paused;
        if self.calm {
            return;
        }
        self.record("pool paused", || pauses.to_string());
        self.is_paused |= pauses;
        assert_eq!(self.state.pause(), pauses);
        self.settle();
        self.wake_lanes();
    }

    /// P17
    pub(super) fn resume(&mut self) {
        let (was_paused, now) = (std::mem::take(&mut self.is_paused), self.now());
        self.record("pool resumed", || was_paused.to_string());
        assert_eq!(self.state.resume(now), was_paused);
        self.settle();
        self.wake_lanes();
    }

    pub(super) fn close(&mut self) {
        self.record("pool closes", String::new);
        self.is_paused = false;
        let now = self.now();
        self.state.close(now);
        self.settle();
        self.wake_lanes();
    }

    pub(super) fn stop(&mut self) {
        let drain = self.plan.drain;
        self.record("pool stops", || format!("within {drain:?}"));
        self.is_paused = false;
        let now = self.now();
        self.state.stop(now);
        self.notify_holders(false);
        self.settle();
        self.wake_lanes();
        self.schedule_after(drain, SimEvent::StopNow);
    }

    pub(super) fn stop_now(&mut self) {
        self.record("drain is over", String::new);
        self.notify_holders(true);
        let living = self.workers.iter().filter(|(_, worker)| worker.is_registered());
        let living: Vec<u64> = living.map(|(number, _)| *number).collect();
        living.into_iter().for_each(|worker| self.kill(worker));
    }

    /// Stops all faults, and lets stuck sessions and set-ups finish.
    pub(super) fn stop_faults(&mut self) {
        if self.calm {
            return;
        }
        self.record("faults stop", String::new);
        self.calm = true;
        self.resume();
        self.end_stuck_sessions();
    }
}
