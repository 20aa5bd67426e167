//! The simulated worker processes, and the state of their proxies in the host.

use std::time::Duration;

use super::channel::SimPipe;
use super::plan::millis;
use super::world::{SimEvent, World};
use crate::actors::scheduler::waiting::BulkheadId;
use crate::clock::Instant;

/// The actual state of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessState {
    NotForked,
    SettingUp,
    Ready,
    /// It has exited and was not reaped yet.
    Exiting,
    Exited,
}

/// The state that the pool state must have for a worker, according to what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpectedState {
    Starting,
    Idle,
    /// To this waiter.
    Leased(u64),
    Ending,
}

/// Whether a worker's server still forks workers; see the scheduler's `Generation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimGeneration {
    Current,
    Recycled,
    Outdated,
    Obsolete,
}

/// The state of a worker's proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SimProxyState {
    SettingUp,
    ReadyUnforked,
    Lent,
    Ending,
}

/// How a set-up ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetupOutcome {
    Succeeds,
    Fails,
    Dies,
}

/// A message about a worker to its proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimNotice {
    Forked {
        server: u32,
    },
    NotForked {
        server: u32,
    },
    Ready,
    SetupFailed,
    Ended {
        server: u32,
    },
    /// Its fork server was lost.
    ServerLost,
    /// The host sees the exit of a worker whose server was lost.
    SeenDead,
}

/// One worker.
pub(super) struct SimWorker {
    pub(super) process: ProcessState,
    /// `None` once its exit was reported to the pool state.
    pub(super) expected_state: Option<ExpectedState>,
    /// The bulkhead of the waiter that it was lent to last.
    pub(super) bulkhead: Option<BulkheadId>,
    proxy_state: SimProxyState,
    /// Whether its fork report has arrived.
    forked: bool,
    /// Whether the host watches for its exit, because its server was lost.
    watched: bool,
    /// Whether the host has closed its channel, so that it exits once it reads.
    channel_closed: bool,
    /// The server that it was requested from, from 1; 0 for none.
    pub(super) server: u32,
    pub(super) generation: SimGeneration,
    pub(super) reported_exits: u32,
    pub(super) checkouts: u64,
    /// When it was requested; once it is ready, when it became ready.
    pub(super) alive_since: Instant,
    pub(super) idle_since: Instant,
    /// The number of early exits so far when it was requested.
    pub(super) early_exits_before: u64,
    pub(super) last_delivery: Duration,
    /// The same as `idle_since`, as time of the simulation.
    pub(super) idle_from: Duration,
    /// Its channel, while it is not lent.
    pub(super) pipe: SimPipe,
}

impl SimWorker {
    pub(super) fn requested(now: Instant, early_exits_before: u64) -> Self {
        SimWorker {
            process: ProcessState::NotForked,
            expected_state: Some(ExpectedState::Starting),
            bulkhead: None,
            proxy_state: SimProxyState::SettingUp,
            forked: false,
            watched: false,
            channel_closed: false,
            server: 0,
            generation: SimGeneration::Current,
            reported_exits: 0,
            checkouts: 0,
            alive_since: now,
            idle_since: now,
            early_exits_before,
            last_delivery: Duration::ZERO,
            idle_from: Duration::ZERO,
            pipe: SimPipe::default(),
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        matches!(self.process, ProcessState::SettingUp | ProcessState::Ready)
    }

    pub(super) fn is_not_forked(&self) -> bool {
        self.process == ProcessState::NotForked
    }

    pub(super) fn is_registered(&self) -> bool {
        self.forked && self.expected_state.is_some()
    }
}

impl World {
    pub(super) fn worker(&mut self, number: u64) -> Option<&mut SimWorker> {
        self.workers.get_mut(&number)
    }

    /// Lets a server handle a fork request.
    pub(super) fn fork_worker(&mut self, number: u64, server: u32) {
        if server != self.supervisor.server_id {
            return;
        }
        let not_forked = self.plan.not_forked;
        if self.draw_fault(not_forked) {
            return self.notify(number, SimNotice::NotForked { server });
        }
        let Some(worker) = self.worker(number) else { return };
        worker.process = ProcessState::SettingUp;
        let channel_closed = worker.channel_closed;
        self.record("worker forked", || number.to_string());
        self.notify(number, SimNotice::Forked { server });
        if channel_closed {
            return self.close_channel(number);
        }
        let took = self.draw_wait(self.plan.setup);
        let plan = &self.plan;
        let (hangs, dies, fails) = (plan.setup_hangs, plan.setup_dies, plan.setup_fails);
        if self.draw_fault(hangs) {
            self.record("set-up hangs", || number.to_string());
        } else if self.draw_fault(dies) {
            self.schedule_after(took, SimEvent::FinishSetup(number, SetupOutcome::Dies));
        } else if self.draw_fault(fails) {
            self.schedule_after(took, SimEvent::FinishSetup(number, SetupOutcome::Fails));
        } else {
            self.schedule_after(took, SimEvent::FinishSetup(number, SetupOutcome::Succeeds));
        }
        let (crashes, crash_within) = (self.plan.crashes, self.plan.crash_within);
        if self.draw_fault(crashes) {
            let crash_in = self.draw_wait(crash_within);
            self.schedule_after(took + crash_in, SimEvent::Crash(number));
        }
    }

    pub(super) fn finish_setup(&mut self, number: u64, how: SetupOutcome) {
        let Some(worker) = self.worker(number).filter(|worker| worker.process == ProcessState::SettingUp)
        else {
            return;
        };
        match how {
            SetupOutcome::Succeeds => {
                worker.process = ProcessState::Ready;
                self.notify(number, SimNotice::Ready);
            }
            SetupOutcome::Fails => {
                self.notify(number, SimNotice::SetupFailed);
                self.exit_process(number);
            }
            SetupOutcome::Dies => self.exit_process(number),
        }
    }

    /// Lets a process exit. Its holder's channel ends, and its server or the host will see the exit.
    pub(super) fn exit_process(&mut self, number: u64) {
        let Some(worker) = self.worker(number).filter(|worker| worker.is_alive()) else { return };
        worker.process = ProcessState::Exiting;
        let (server, expected_state, watched) = (worker.server, worker.expected_state, worker.watched);
        self.record("worker exits", || format!("{number}, {expected_state:?}"));
        let reaped_in = self.draw_delay();
        self.schedule_after(reaped_in, SimEvent::Reap { worker: number, server });
        if watched {
            self.notify(number, SimNotice::SeenDead);
        }
        if let Some(ExpectedState::Leased(waiter)) = expected_state {
            self.wake_holder(waiter);
        }
    }

    pub(super) fn kill(&mut self, number: u64) {
        if self.worker(number).is_some_and(|worker| worker.is_alive()) {
            let wait = self.draw_delay();
            self.schedule_after(wait, SimEvent::Exit(number));
        }
    }

    pub(super) fn reap(&mut self, number: u64, server: u32) {
        if let Some(worker) = self.worker(number) {
            worker.process = ProcessState::Exited;
            self.notify(number, SimNotice::Ended { server });
        }
    }

    /// Closes a worker's channel, so that the worker exits after a while.
    fn close_channel(&mut self, number: u64) {
        if let Some(worker) = self.worker(number) {
            worker.channel_closed = true;
            let wait = self.draw_delay();
            self.schedule_after(wait, SimEvent::Exit(number));
        }
    }

    pub(super) fn deliver(&mut self, number: u64, notice: SimNotice) {
        self.handle_notice(number, notice);
        let lost = matches!(notice, SimNotice::ServerLost);
        let over = self.worker(number).is_some_and(|worker| {
            worker.reported_exits > 0
                && (worker.process == ProcessState::Exited
                    || lost && worker.process == ProcessState::NotForked)
        });
        if over {
            self.remove_worker(number);
        }
    }

    /// Removes a worker after its last message.
    pub(super) fn remove_worker(&mut self, number: u64) {
        if let Some(worker) = self.workers.remove(&number) {
            assert_eq!(worker.reported_exits, 1, "the exit of worker {number} was reported once");
            assert!(!worker.is_alive(), "worker {number} has ended");
        }
    }

    fn handle_notice(&mut self, number: u64, notice: SimNotice) {
        let is_heard = match notice {
            SimNotice::Forked { server } | SimNotice::NotForked { server } | SimNotice::Ended { server } => {
                self.is_connected(server)
            }
            _ => true,
        };
        let Some(worker) = self.worker(number) else { return };
        let (known, is_reported) = (worker.forked, worker.reported_exits > 0);
        match notice {
            // Messages of a lost server are lost.
            _ if !is_heard => {}
            SimNotice::Forked { .. } => {
                if !is_reported {
                    self.handle_forked(number);
                }
                self.confirm(number);
            }
            SimNotice::NotForked { .. } => {
                self.record("fork failed", || number.to_string());
                if let Some(worker) = self.worker(number) {
                    worker.process = ProcessState::Exited;
                }
                self.confirm(number);
                self.handle_exit(number);
            }
            SimNotice::Ended { .. } => {
                self.confirm(number);
                self.handle_exit(number);
            }
            SimNotice::SeenDead => self.handle_exit(number),
            SimNotice::Ready if worker.proxy_state == SimProxyState::SettingUp => {
                worker.proxy_state = SimProxyState::ReadyUnforked;
                self.lend_channel(number);
            }
            SimNotice::SetupFailed if worker.proxy_state == SimProxyState::SettingUp => {
                self.fail_setup(number)
            }
            SimNotice::Ready | SimNotice::SetupFailed => {}
            SimNotice::ServerLost if is_reported => {}
            SimNotice::ServerLost if known => {
                worker.watched = true;
                if !worker.is_alive() {
                    self.notify(number, SimNotice::SeenDead);
                }
            }
            SimNotice::ServerLost => self.handle_exit(number),
        }
    }

    fn handle_forked(&mut self, number: u64) {
        let limit = self.plan.options.setup_timeout;
        let Some(worker) = self.worker(number) else { return };
        worker.forked = true;
        match worker.proxy_state {
            SimProxyState::SettingUp => {
                if let Some(limit) = limit {
                    self.schedule_after(limit, SimEvent::SetupTimeout(number));
                }
            }
            SimProxyState::ReadyUnforked => self.lend_channel(number),
            SimProxyState::Lent => {}
            SimProxyState::Ending => self.kill(number),
        }
    }

    fn lend_channel(&mut self, number: u64) {
        let (now, elapsed) = (self.now(), self.elapsed);
        let Some(worker) = self.worker(number).filter(|worker| worker.forked) else { return };
        if worker.proxy_state != SimProxyState::ReadyUnforked {
            return;
        }
        worker.proxy_state = SimProxyState::Lent;
        if worker.expected_state == Some(ExpectedState::Starting) {
            (worker.alive_since, worker.idle_since, worker.idle_from) = (now, now, elapsed);
            worker.expected_state = Some(ExpectedState::Idle);
            let early_exits_before = worker.early_exits_before;
            self.idle.push(number);
            self.backoff.record_ready(early_exits_before);
        }
        self.record("worker ready", || number.to_string());
        self.state.mark_ready(number, now);
        self.settle();
    }

    pub(super) fn expire_setup_timer(&mut self, number: u64) {
        if self.worker(number).is_some_and(|worker| {
            worker.proxy_state == SimProxyState::SettingUp && worker.reported_exits == 0
        }) {
            self.fail_setup(number);
        }
    }

    fn fail_setup(&mut self, number: u64) {
        self.record("set-up failed", || number.to_string());
        self.notify_first_waiter();
        let (now, jitter) = (self.now(), self.draw_jitter());
        let Some(worker) = self.worker(number) else { return };
        worker.proxy_state = SimProxyState::Ending;
        if worker.expected_state.is_some() {
            worker.expected_state = Some(ExpectedState::Ending);
            self.backoff.record_early_exit(&self.plan.options.restart, now, jitter);
        }
        self.state.mark_setup_failed(number, now, jitter);
        self.settle();
        if self.worker(number).is_some_and(|worker| worker.forked) {
            self.kill(number);
        }
    }

    /// Retires a worker: its channel is closed, or it is killed if its set-up is not done.
    pub(super) fn retire_worker(&mut self, number: u64) {
        let Some(worker) = self.worker(number).filter(|worker| worker.reported_exits == 0) else { return };
        let was = std::mem::replace(&mut worker.proxy_state, SimProxyState::Ending);
        let forked = worker.forked;
        if was == SimProxyState::Lent {
            worker.proxy_state = SimProxyState::Lent;
            self.schedule_after(Duration::from_secs(1), SimEvent::ExitTimeout(number));
            if !self.rng.happens(100) {
                self.close_channel(number);
            }
        } else if forked {
            self.kill(number);
        } else {
            self.handle_exit(number);
        }
    }

    /// Reports the exit of a worker to the pool state and ends its proxy. A set-up that was not done has failed.
    pub(super) fn handle_exit(&mut self, number: u64) {
        let Some(worker) = self.worker(number).filter(|worker| worker.reported_exits == 0) else { return };
        if worker.forked && worker.proxy_state == SimProxyState::SettingUp {
            self.fail_setup(number);
        }
        let (now, jitter) = (self.now(), self.draw_jitter());
        let Some(worker) = self.worker(number) else { return };
        worker.reported_exits += 1;
        let expected_state = worker.expected_state.take();
        let (checkouts, age) = (worker.checkouts, now.saturating_duration_since(worker.alive_since));
        self.record("exit reported", || format!("{number}, {expected_state:?}"));
        self.idle.retain(|idle| *idle != number);
        let holder = self.holders.remove(&number);
        let has_call = holder.is_some_and(|waiter| self.waiters[&waiter].has_call);
        let leased = matches!(expected_state, Some(ExpectedState::Leased(_)));
        let used = has_call || checkouts > u64::from(leased);
        let early = match expected_state {
            Some(ExpectedState::Starting) => true,
            Some(ExpectedState::Idle | ExpectedState::Leased(_)) => !used && age < millis(1000),
            _ => false,
        };
        if early {
            self.backoff.record_early_exit(&self.plan.options.restart, now, jitter);
        }
        self.state.record_exit(number, has_call, now, jitter);
        self.settle();
        if let Some(waiter) = holder {
            self.notify_exit(waiter);
        }
        self.close_channel(number);
    }

    /// Lets set-ups succeed that hang.
    pub(super) fn finish_hung_setups(&mut self) {
        let hanging = self.workers.iter().filter(|(_, worker)| worker.process == ProcessState::SettingUp);
        let hanging: Vec<u64> = hanging.map(|(number, _)| *number).collect();
        for number in hanging {
            let wait = self.draw_wait(self.plan.setup);
            self.schedule_after(wait, SimEvent::FinishSetup(number, SetupOutcome::Succeeds));
        }
    }
}
