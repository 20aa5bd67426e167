//! The supervisor and its fork server, as far as the ledger depends on what they do and leave undone.

use std::collections::BTreeSet;
use std::time::Duration;

use super::plan::millis;
use super::worker::{Believed, Generation, Notice};
use super::world::{Event, World};
use crate::actors::scheduler::state::PoolPhase;
use crate::actors::scheduler::worker_state::RetireReason;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SimServer {
    #[default]
    Down,
    /// Requests wait in its channel.
    Starting,
    Up,
    /// The pool is over.
    Over,
}

#[derive(Default)]
pub(super) struct SimSupervisor {
    pub(super) server: SimServer,
    /// Which server it is: what an earlier one said is not heard any more.
    pub(super) generation: u32,
    /// Those before it that take no more work, and are heard until their workers are gone.
    pub(super) departing: BTreeSet<u32>,
    unconfirmed: BTreeSet<u64>,
    leaving: Vec<u64>,
    unspawned: Vec<u64>,
    /// Asked of a server that is not up yet.
    requested: Vec<u64>,
    streak: u32,
    /// When it will have heard all that it was told.
    pub(super) hears_until: Duration,
}

impl World {
    pub(super) fn launch(&mut self) {
        self.supervisor.generation += 1;
        self.supervisor.server = SimServer::Starting;
        let server = self.supervisor.generation;
        let wait = self.delay();
        self.after(wait, Event::ServerUp(server));
        let unspawned = std::mem::take(&mut self.supervisor.unspawned);
        unspawned.into_iter().for_each(|worker| self.spawn(worker));
    }

    pub(super) fn server_up(&mut self, server: u32) {
        if server != self.supervisor.generation || self.supervisor.server != SimServer::Starting {
            return;
        }
        if self.fault(self.plan.server_fails) {
            self.note("a preload fails", String::new);
            self.tell_first_in_line();
            return self.server_lost();
        }
        self.note("the server is up", || server.to_string());
        self.supervisor.server = SimServer::Up;
        self.supervisor.streak = 0;
        let requested = std::mem::take(&mut self.supervisor.requested);
        requested.into_iter().for_each(|worker| self.request(worker));
    }

    pub(super) fn spawn(&mut self, worker: u64) {
        match self.supervisor.server {
            SimServer::Down => return self.supervisor.unspawned.push(worker),
            SimServer::Over => panic!("worker {worker} is asked of a pool that is over"),
            SimServer::Starting => self.supervisor.requested.push(worker),
            SimServer::Up => self.request(worker),
        }
        self.supervisor.unconfirmed.insert(worker);
        let server = self.supervisor.generation;
        if let Some(worker) = self.worker(worker) {
            worker.server = server;
        }
    }

    fn request(&mut self, worker: u64) {
        let server = self.supervisor.generation;
        let wait = self.delay();
        self.after(wait, Event::Forks { worker, server });
    }

    /// The server has told of a worker's birth, or that there was none.
    pub(super) fn confirmed(&mut self, worker: u64) {
        self.supervisor.unconfirmed.remove(&worker);
        self.let_go();
    }

    pub(super) fn retires(&mut self, worker: u64, _: RetireReason) {
        self.supervisor.leaving.push(worker);
        self.let_go();
    }

    /// Those that are to end do so, unless one that was asked for in their place is still to come.
    fn let_go(&mut self) {
        if !self.supervisor.unconfirmed.is_empty() && self.state.phase() == PoolPhase::Open {
            return;
        }
        for worker in std::mem::take(&mut self.supervisor.leaving) {
            match self.supervisor.unspawned.iter().position(|unspawned| *unspawned == worker) {
                Some(at) => {
                    self.supervisor.unspawned.swap_remove(at);
                    self.bury(worker);
                    self.forget(worker);
                }
                None => self.leaves(worker),
            }
        }
    }

    pub(super) fn server_lost(&mut self) {
        if self.calm || matches!(self.supervisor.server, SimServer::Down | SimServer::Over) {
            return;
        }
        let was = std::mem::replace(&mut self.supervisor.server, SimServer::Down);
        self.note("the server is lost", || format!("{was:?}"));
        self.supervisor.generation += 1;
        self.supervisor.unconfirmed.clear();
        self.supervisor.requested.clear();
        self.let_go();
        let departing = self.supervisor.departing.clone();
        let its =
            self.registry().into_iter().filter(|worker| !departing.contains(&self.workers[worker].server));
        its.collect::<Vec<_>>().into_iter().for_each(|worker| self.tell(worker, Notice::ServerLost));
        if was == SimServer::Up {
            return self.relaunch();
        }
        self.supervisor.streak += 1;
        let jitter = self.jitter();
        let wait = self.plan.options.restart.wait(self.supervisor.streak, jitter);
        self.after(wait.max(millis(1)), Event::Relaunch);
    }

    /// The server takes no more work: what it was asked for and has not forked is asked of the next.
    pub(super) fn server_drains(&mut self, succeeded: bool) {
        if self.calm || self.supervisor.server != SimServer::Up {
            return;
        }
        let old = self.supervisor.generation;
        self.note("the server drains", || format!("{old}, succeeded: {succeeded}"));
        self.supervisor.departing.insert(old);
        self.supervisor.server = SimServer::Down;
        self.supervisor.generation += 1;
        let its = self.registry().into_iter().filter(|worker| self.workers[worker].server == old);
        let (unspawned, its): (Vec<u64>, Vec<u64>) = its.partition(|worker| self.workers[worker].is_unborn());
        for worker in unspawned {
            self.supervisor.unconfirmed.remove(&worker);
            self.supervisor.unspawned.push(worker);
            if let Some(worker) = self.worker(worker) {
                worker.server = 0;
            }
        }
        self.relaunch();
        for &worker in &its {
            if let Some(worker) = self.worker(worker) {
                worker.generation = if succeeded { Generation::Outdated } else { Generation::Obsolete };
            }
        }
        let now = self.now();
        self.state.outdate(its.into_iter(), succeeded, now);
        self.settle_books();
    }

    /// Whether what this server says is still heard.
    pub(super) fn is_heard(&self, server: u32) -> bool {
        server == self.supervisor.generation || self.supervisor.departing.contains(&server)
    }

    pub(super) fn relaunch(&mut self) {
        if self.supervisor.server == SimServer::Down && !self.state.is_drained() {
            self.launch();
        }
    }

    pub(super) fn end_if_drained(&mut self) {
        if self.state.is_drained() && self.supervisor.server != SimServer::Over {
            self.note("drained", String::new);
            self.supervisor.server = SimServer::Over;
        }
    }

    /// Workers with a proxy: asked of some server, and not yet told to have ended.
    fn registry(&self) -> Vec<u64> {
        let living = self.workers.iter().filter(|(_, worker)| worker.ends == 0 && worker.server > 0);
        living.map(|(number, _)| *number).collect()
    }

    /// Workers that the ledger has in a state.
    pub(super) fn believed(&self, is: impl Fn(Believed) -> bool) -> usize {
        self.workers.values().filter(|worker| worker.believed.is_some_and(&is)).count()
    }
}
