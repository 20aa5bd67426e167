//! The messages that the supervisor handles.

use std::time::Duration;

use actix::dev::OneshotSender;
use actix::{AsyncContext, Context, Handler, Message};

use super::worker_process::WorkerExited;
use super::{Registration, Stage, StatsRequest, Supervisor};
use crate::actors::reply;
use crate::actors::scheduler::command::{Command, INSPECT_TIMEOUT, KILL_AGAIN, RetiringWorker};
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::threads::real_time::run_after;
use crate::failure::{Failure, FailureKind};
use crate::sys::figures;
use crate::wire::control::{ServerReport, ToServer};

/// Turns of the event loop by which a spawn is delayed that replaces a lost worker and whose channel is not prepared.
///
/// Making a worker's channel takes longer than failing the calls of the worker that was lost. The delay lets their
/// callers receive the failure first.
const SPAWN_DELAY_TURNS: u32 = 4;

impl Handler<Command> for Supervisor {
    type Result = ();

    fn handle(&mut self, command: Command, ctx: &mut Context<Self>) {
        match command {
            Command::Open => self.open(ctx),
            Command::Spawn { workers, at_once } => self.schedule_spawns(&workers, at_once),
            Command::Retire(workers) => {
                self.schedule_retirements(workers);
                self.stop_if_drained(ctx);
            }
            Command::KillLater { worker, grace } => {
                // The pidfd refers to exactly this process even after it has exited, so a late kill hits no other
                // process.
                run_after(ctx, grace, move |supervisor, _| supervisor.scheduler.kill(&worker));
            }
            Command::KillAgain(worker) => {
                run_after(ctx, KILL_AGAIN, move |supervisor, ctx| {
                    if supervisor.scheduler.kill_again(worker) {
                        ctx.notify(Command::KillAgain(worker));
                    }
                });
            }
            Command::SignalViaServer { worker, kill } => self.signal(worker, kill),
            Command::Forget(worker) => self.forget(worker),
            Command::Tick { at } => {
                if let Some(at) = at {
                    let wait = at.saturating_duration_since(crate::clock::Instant::now());
                    run_after(ctx, wait, |supervisor, _| supervisor.scheduler.tick());
                }
                self.stop_if_drained(ctx);
            }
            Command::Stop { drain, done } => self.stop(drain, done, ctx),
            Command::Inspect(reply) => self.inspect(reply, ctx),
            Command::Reconnect => self.reconnect(ctx),
        }
    }
}

impl Supervisor {
    fn schedule_spawns(&mut self, workers: &[u64], at_once: bool) {
        if at_once || (self.prepared.is_some() && workers.len() == 1) {
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
        let connection = match server {
            Some(server) => self.connection_of(server),
            None => self.silent_server_of(worker),
        };
        if let Some(connection) = connection {
            connection.send(&ToServer::End { number: worker, kill }, Vec::new());
            self.wake();
        }
    }

    fn forget(&mut self, worker: u64) {
        if let Some(process) = self.registry.remove(&worker).and_then(Registration::into_process) {
            process.do_send(WorkerExited(ExitReport::Unknown));
        }
    }

    /// Asks the server for its statistics; the reply is a failure if there is no server, or if it does not answer within
    /// [`INSPECT_TIMEOUT`].
    fn inspect(&mut self, reply: OneshotSender<Result<ServerReport, Failure>>, ctx: &mut Context<Self>) {
        let Some(connection) = self.server.connection() else {
            let failure = self.scheduler.no_server_failure();
            // The requester may have stopped waiting.
            let _ = reply::send(reply, Err(failure));
            return;
        };
        connection.send(&ToServer::Inspect, Vec::new());
        self.last_stats_request += 1;
        let number = self.last_stats_request;
        self.stats_requests.push_back(StatsRequest { number, reply: Some(reply) });
        self.wake();
        run_after(ctx, INSPECT_TIMEOUT, move |supervisor, _| supervisor.give_up_on_stats(number));
    }

    fn give_up_on_stats(&mut self, number: u64) {
        let text = self.silence_text(INSPECT_TIMEOUT);
        let request = self.stats_requests.iter_mut().find(|request| request.number == number);
        if let Some(reply) = request.and_then(|request| request.reply.take()) {
            let failure = Failure::of(FailureKind::NoServer, "").with_chain(&[text]);
            let _ = reply::send(reply, Err(failure.in_pool(&self.scheduler.options.name)));
        }
    }

    /// Says that the server has not answered for this time, and what its process does if that is known.
    pub(super) fn silence_text(&mut self, time: Duration) -> String {
        match self.server.connection().and_then(|connection| connection.pid()) {
            Some(pid) => {
                let state = figures::state_of_child(pid).unwrap_or("in an unknown state");
                format!("the fork server (pid {pid}) has not answered for {time:?}: its process is {state}")
            }
            None => format!("the fork server has not answered for {time:?}"),
        }
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
