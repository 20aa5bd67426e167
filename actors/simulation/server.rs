//! The simulated supervisor and fork servers, as far as the pool state depends on them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::plan::millis;
use super::worker::{ExpectedState, SimGeneration, SimNotice};
use super::world::{SimEvent, World};
use crate::actors::scheduler::state::PoolPhase;
use crate::actors::scheduler::worker_state::RetireReason;

/// The state of the current fork server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SimServer {
    #[default]
    Down,
    /// Its preload runs; fork requests wait in its channel.
    Starting,
    Up,
    /// The pool has stopped.
    Stopped,
}

/// The supervisor, with the state of the servers that it knows.
#[derive(Default)]
pub(super) struct SimSupervisor {
    pub(super) server: SimServer,
    /// The number of the current server. Messages of earlier servers are lost, unless they are draining.
    pub(super) server_id: u32,
    /// Earlier servers that take no more work and stay connected until their workers have exited.
    pub(super) draining: BTreeSet<u32>,
    unconfirmed: BTreeSet<u64>,
    retiring: Vec<u64>,
    pending_spawns: Vec<u64>,
    /// Workers requested from a server that is not up yet.
    requested: Vec<u64>,
    streak: u32,
    /// When the last message sent to the supervisor arrives.
    pub(super) last_delivery: Duration,
}

impl World {
    pub(super) fn launch(&mut self) {
        self.supervisor.server_id += 1;
        self.supervisor.server = SimServer::Starting;
        let server = self.supervisor.server_id;
        let wait = self.draw_delay();
        self.schedule_after(wait, SimEvent::FinishPreload(server));
        let not_forked = std::mem::take(&mut self.supervisor.pending_spawns);
        not_forked.into_iter().for_each(|worker| self.spawn(worker));
    }

    pub(super) fn finish_preload(&mut self, server: u32) {
        if server != self.supervisor.server_id || self.supervisor.server != SimServer::Starting {
            return;
        }
        if self.draw_fault(self.plan.server_fails) {
            self.record("preload failed", String::new);
            self.notify_first_waiter();
            return self.lose_server();
        }
        self.record("server up", || server.to_string());
        self.supervisor.server = SimServer::Up;
        self.supervisor.streak = 0;
        let requested = std::mem::take(&mut self.supervisor.requested);
        requested.into_iter().for_each(|worker| self.send_fork_request(worker));
    }

    pub(super) fn spawn(&mut self, worker: u64) {
        match self.supervisor.server {
            SimServer::Down => return self.supervisor.pending_spawns.push(worker),
            SimServer::Stopped => panic!("worker {worker} is requested after the pool has stopped"),
            SimServer::Starting => self.supervisor.requested.push(worker),
            SimServer::Up => self.send_fork_request(worker),
        }
        self.supervisor.unconfirmed.insert(worker);
        let server = self.supervisor.server_id;
        if let Some(worker) = self.worker(worker) {
            worker.server = server;
        }
    }

    fn send_fork_request(&mut self, worker: u64) {
        let server = self.supervisor.server_id;
        let wait = self.draw_delay();
        self.schedule_after(wait, SimEvent::Fork { worker, server });
    }

    /// Handles the fork report of a worker, or the report that its fork failed.
    pub(super) fn confirm(&mut self, worker: u64) {
        self.supervisor.unconfirmed.remove(&worker);
        self.retire_workers();
    }

    pub(super) fn add_retiring(&mut self, worker: u64, reason: RetireReason) {
        if reason == RetireReason::Killed {
            return self.retire_worker(worker);
        }
        self.supervisor.retiring.push(worker);
        self.retire_workers();
    }

    /// Retires the workers that are due, unless a requested replacement in an open pool is not confirmed yet.
    fn retire_workers(&mut self) {
        if !self.supervisor.unconfirmed.is_empty() && self.state.phase() == PoolPhase::Open {
            return;
        }
        for worker in std::mem::take(&mut self.supervisor.retiring) {
            match self.supervisor.pending_spawns.iter().position(|number| *number == worker) {
                Some(at) => {
                    self.supervisor.pending_spawns.swap_remove(at);
                    self.handle_exit(worker);
                    self.remove_worker(worker);
                }
                None => self.retire_worker(worker),
            }
        }
    }

    pub(super) fn lose_server(&mut self) {
        if self.calm || matches!(self.supervisor.server, SimServer::Down | SimServer::Stopped) {
            return;
        }
        let was = std::mem::replace(&mut self.supervisor.server, SimServer::Down);
        self.record("server lost", || format!("{was:?}"));
        self.supervisor.server_id += 1;
        self.supervisor.unconfirmed.clear();
        self.supervisor.requested.clear();
        self.retire_workers();
        let draining = self.supervisor.draining.clone();
        let workers =
            self.registry().into_iter().filter(|worker| !draining.contains(&self.workers[worker].server));
        workers.collect::<Vec<_>>().into_iter().for_each(|worker| self.notify(worker, SimNotice::ServerLost));
        if was == SimServer::Up {
            return self.relaunch();
        }
        self.supervisor.streak += 1;
        let jitter = self.draw_jitter();
        let wait = self.plan.options.restart.wait(self.supervisor.streak, jitter);
        self.schedule_after(wait.max(millis(1)), SimEvent::Relaunch);
    }

    /// The server takes no more work: requests that it has not served go to the next one.
    pub(super) fn drain_server(&mut self, succeeded: bool) {
        if self.calm || self.supervisor.server != SimServer::Up {
            return;
        }
        let old = self.supervisor.server_id;
        self.record("server drains", || format!("{old}, succeeded: {succeeded}"));
        self.supervisor.draining.insert(old);
        self.supervisor.server = SimServer::Down;
        self.supervisor.server_id += 1;
        let workers = self.registry().into_iter().filter(|worker| self.workers[worker].server == old);
        let (not_forked, workers): (Vec<u64>, Vec<u64>) =
            workers.partition(|worker| self.workers[worker].is_not_forked());
        for worker in not_forked {
            self.supervisor.unconfirmed.remove(&worker);
            self.supervisor.pending_spawns.push(worker);
            if let Some(worker) = self.worker(worker) {
                worker.server = 0;
            }
        }
        self.relaunch();
        for &worker in &workers {
            if let Some(worker) = self.worker(worker) {
                worker.generation = if succeeded { SimGeneration::Outdated } else { SimGeneration::Obsolete };
            }
        }
        let now = self.now();
        self.state.mark_outdated(workers.into_iter(), succeeded, now);
        self.settle();
    }

    /// Returns whether messages of this server still arrive.
    pub(super) fn is_connected(&self, server: u32) -> bool {
        server == self.supervisor.server_id || self.supervisor.draining.contains(&server)
    }

    pub(super) fn relaunch(&mut self) {
        if self.supervisor.server == SimServer::Down && !self.state.is_drained() {
            self.launch();
        }
    }

    pub(super) fn stop_if_drained(&mut self) {
        if self.state.is_drained() && self.supervisor.server != SimServer::Stopped {
            let is_served = self.state.phase() == PoolPhase::Closing;
            let left = self.sessions.iter().find(|(_, session)| is_served && session.has_place);
            assert_eq!(left.map(|(id, _)| id), None, "a closing pool serves who waits or holds a worker");
            self.record("pool drained", String::new);
            self.supervisor.server = SimServer::Stopped;
        }
    }

    /// Returns the workers with a proxy: requested from a server, and their exit not reported yet.
    fn registry(&self) -> Vec<u64> {
        let living =
            self.workers.iter().filter(|(_, worker)| worker.reported_exits == 0 && worker.server > 0);
        living.map(|(number, _)| *number).collect()
    }

    /// Counts the workers whose expected state satisfies `is`.
    pub(super) fn count_expected(&self, is: impl Fn(ExpectedState) -> bool) -> usize {
        self.workers.values().filter(|worker| worker.expected_state.is_some_and(&is)).count()
    }
}
