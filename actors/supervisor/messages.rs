//! The messages that the supervisor handles.

use std::time::{Duration, Instant};

use actix::dev::OneshotSender;
use actix::{AsyncContext, Context, Handler, Message};

use super::Supervisor;
use super::worker_process::WorkerExited;
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::scheduler::worker_handle::WorkerHandle;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::transport::HostChannel;
use crate::wire::control::{ServerReport, ToServer};

/// Turns of the event loop by which a spawn is delayed that replaces a lost worker.
///
/// Making a worker's channel takes longer than failing the calls of the worker that was lost. The delay lets their
/// callers receive the failure first.
const SPAWN_DELAY_TURNS: u32 = 4;

/// Requests the fork of these workers.
pub(crate) struct Spawn {
    pub(crate) numbers: Vec<u64>,
    /// `false` if a worker was lost: the spawn is delayed by [`SPAWN_DELAY_TURNS`].
    pub(crate) at_once: bool,
}

impl Message for Spawn {
    type Result = ();
}

impl Handler<Spawn> for Supervisor {
    type Result = ();

    fn handle(&mut self, Spawn { numbers, at_once }: Spawn, _: &mut Context<Self>) {
        if at_once {
            self.spawn_delay = 0;
        } else if self.delayed_spawns.is_empty() {
            self.spawn_delay = SPAWN_DELAY_TURNS;
        }
        self.delayed_spawns.extend(numbers);
        self.wake();
    }
}

/// A worker that is to exit. Dropping its channel makes it exit.
pub(crate) struct RetiringWorker {
    pub(crate) worker: u64,
    pub(crate) reason: RetireReason,
    pub(crate) channel: Option<HostChannel>,
}

/// Lets these workers exit, which no checkout holds.
pub(crate) struct Retire(pub(crate) Vec<RetiringWorker>);

impl Message for Retire {
    type Result = ();
}

impl Handler<Retire> for Supervisor {
    type Result = ();

    fn handle(&mut self, Retire(workers): Retire, ctx: &mut Context<Self>) {
        self.retiring.extend(workers);
        self.retire_workers();
        self.stop_if_drained(ctx);
    }
}

/// Kills a worker after `grace`, which has received SIGTERM.
pub(crate) struct KillLater {
    pub(crate) worker: WorkerHandle,
    pub(crate) grace: Duration,
}

impl Message for KillLater {
    type Result = ();
}

impl Handler<KillLater> for Supervisor {
    type Result = ();

    fn handle(&mut self, KillLater { worker, grace }: KillLater, ctx: &mut Context<Self>) {
        // The pidfd refers to exactly this process even after it has exited, so a late kill hits no other process.
        ctx.run_later(grace, move |supervisor, _| supervisor.scheduler.kill(&worker));
    }
}

/// Has a worker's server signal the worker, because this process is not permitted to: SIGKILL with `kill`, otherwise
/// SIGTERM.
pub(crate) struct KillViaServer {
    pub(crate) worker: u64,
    pub(crate) kill: bool,
}

impl Message for KillViaServer {
    type Result = ();
}

impl Handler<KillViaServer> for Supervisor {
    type Result = ();

    fn handle(&mut self, KillViaServer { worker: number, kill }: KillViaServer, _: &mut Context<Self>) {
        let server = self
            .registry
            .get(&number)
            .and_then(|registration| registration.server.or(registration.adopted_by));
        if let Some(connection) = server.and_then(|server| self.connection_of(server)) {
            connection.send(&ToServer::End { number, kill }, Vec::new());
            self.wake();
        }
    }
}

/// Treats a dismissed worker as exited, because its exit will never be reported.
pub(crate) struct ForgetWorker(pub(crate) u64);

impl Message for ForgetWorker {
    type Result = ();
}

impl Handler<ForgetWorker> for Supervisor {
    type Result = ();

    fn handle(&mut self, ForgetWorker(number): ForgetWorker, _: &mut Context<Self>) {
        if let Some(registration) = self.registry.remove(&number) {
            registration.process.do_send(WorkerExited(ExitReport::Unknown));
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
        if self.unconfirmed.contains(&number) {
            self.report_fork_failure(number, "the connection for its channel was closed");
        }
    }
}

/// Requests the statistics of the fork server. If there is no server, the sender is dropped, which fails the request.
pub(crate) struct InspectServer(pub(crate) OneshotSender<ServerReport>);

impl Message for InspectServer {
    type Result = ();
}

impl Handler<InspectServer> for Supervisor {
    type Result = ();

    fn handle(&mut self, InspectServer(reply): InspectServer, _: &mut Context<Self>) {
        if let Some(connection) = self.server.connection() {
            connection.send(&ToServer::Inspect, Vec::new());
            self.stats_requests.push_back(reply);
            self.wake();
        }
    }
}

/// Schedules a call of [`Scheduler::tick`](crate::actors::scheduler::Scheduler::tick), and stops the supervisor if the
/// pool is drained.
pub(crate) struct ScheduleTick {
    /// When to call it; `None` only checks whether the pool is drained.
    pub(crate) at: Option<Instant>,
}

impl Message for ScheduleTick {
    type Result = ();
}

impl Handler<ScheduleTick> for Supervisor {
    type Result = ();

    fn handle(&mut self, ScheduleTick { at }: ScheduleTick, ctx: &mut Context<Self>) {
        if let Some(at) = at {
            let wait = at.saturating_duration_since(Instant::now());
            ctx.run_later(wait, |supervisor, _| supervisor.scheduler.tick());
        }
        self.stop_if_drained(ctx);
    }
}

/// Stops the pool. Calls queued on held checkouts may finish within `drain`.
pub(crate) struct EndPool {
    pub(crate) drain: Duration,
    pub(crate) done: OneshotSender<()>,
}

impl Message for EndPool {
    type Result = ();
}

impl Handler<EndPool> for Supervisor {
    type Result = ();

    fn handle(&mut self, EndPool { drain, done }: EndPool, ctx: &mut Context<Self>) {
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
