//! The messages that the supervisor handles.

use std::time::Duration;

use actix::dev::OneshotSender;
use actix::{AsyncContext, Context, Handler, Message};

use super::worker_process::WorkerExited;
use super::{Registration, Stage, Supervisor};
use crate::actors::scheduler::command::{Command, RetiringWorker};
use crate::actors::scheduler::exit::ExitReport;
use crate::wire::control::{ServerReport, ToServer};

/// Turns of the event loop by which a spawn is delayed that replaces a lost worker.
///
/// Making a worker's channel takes longer than failing the calls of the worker that was lost. The delay lets their
/// callers receive the failure first.
const SPAWN_DELAY_TURNS: u32 = 4;

impl Handler<Command> for Supervisor {
    type Result = ();

    fn handle(&mut self, command: Command, ctx: &mut Context<Self>) {
        match command {
            Command::Spawn { workers, at_once } => self.schedule_spawns(&workers, at_once),
            Command::Retire(workers) => {
                self.schedule_retirements(workers);
                self.stop_if_drained(ctx);
            }
            Command::KillLater { worker, grace } => {
                // The pidfd refers to exactly this process even after it has exited, so a late kill hits no other
                // process.
                ctx.run_later(grace, move |supervisor, _| supervisor.scheduler.kill(&worker));
            }
            Command::SignalViaServer { worker, kill } => self.signal(worker, kill),
            Command::Forget(worker) => self.forget(worker),
            Command::Tick { at } => {
                if let Some(at) = at {
                    let wait = at.saturating_duration_since(std::time::Instant::now());
                    ctx.run_later(wait, |supervisor, _| supervisor.scheduler.tick());
                }
                self.stop_if_drained(ctx);
            }
            Command::Stop { drain, done } => self.stop(drain, done, ctx),
            Command::Inspect(reply) => self.inspect(reply),
        }
    }
}

impl Supervisor {
    fn schedule_spawns(&mut self, workers: &[u64], at_once: bool) {
        if at_once {
            self.spawn_delay = Some(0);
        } else {
            self.spawn_delay.get_or_insert(SPAWN_DELAY_TURNS);
        }
        for &worker in workers {
            self.registry.insert(worker, Registration::new(Stage::Delayed));
        }
        self.wake();
    }

    fn schedule_retirements(&mut self, workers: Vec<RetiringWorker>) {
        for RetiringWorker { worker, reason, channel } in workers {
            if let Some(registration) = self.registry.get_mut(&worker) {
                registration.retiring.get_or_insert((reason, channel));
            }
        }
        self.retire_workers();
    }

    fn signal(&mut self, worker: u64, kill: bool) {
        let server = self.registry.get(&worker).and_then(Registration::signaller);
        if let Some(connection) = server.and_then(|server| self.connection_of(server)) {
            connection.send(&ToServer::End { number: worker, kill }, Vec::new());
            self.wake();
        }
    }

    fn forget(&mut self, worker: u64) {
        if let Some(process) = self.registry.remove(&worker).and_then(Registration::into_process) {
            process.do_send(WorkerExited(ExitReport::Unknown));
        }
    }

    fn inspect(&mut self, reply: OneshotSender<ServerReport>) {
        if let Some(connection) = self.server.connection() {
            connection.send(&ToServer::Inspect, Vec::new());
            self.stats_requests.push_back(reply);
            self.wake();
        }
    }

    fn stop(&mut self, drain: Duration, done: OneshotSender<()>, ctx: &mut Context<Self>) {
        self.end_waiters.push(done);
        self.scheduler.stop();
        ctx.run_later(drain, |supervisor, _| {
            supervisor.scheduler.stop_now();
            // Some holders may be blocked and unable to kill their workers.
            supervisor.scheduler.living_workers().iter().for_each(|worker| supervisor.scheduler.kill(worker));
        });
        self.stop_if_drained(ctx);
    }
}

/// Reports that the connection for the channel of a requested worker was closed before the server confirmed the fork.
pub(crate) struct SpawnFailed(pub(crate) u64);

impl Message for SpawnFailed {
    type Result = ();
}

impl Handler<SpawnFailed> for Supervisor {
    type Result = ();

    fn handle(&mut self, SpawnFailed(number): SpawnFailed, _: &mut Context<Self>) {
        let registration = self.registry.get(&number);
        if registration.is_some_and(|worker| matches!(worker.stage, Stage::Requested { .. })) {
            self.report_fork_failure(number, "the connection for its channel was closed");
        }
    }
}
