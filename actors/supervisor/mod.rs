//! The supervisor of a pool: the actor that owns the fork server and the registry of worker processes.
//!
//! It requests the forks that the scheduler decides on, forwards fork and exit reports to the worker's proxy, replaces
//! a lost server, connects to the successor of a draining one, and shuts everything down at the end. It never waits for
//! a worker.

mod messages;
pub(crate) mod server_connection;
mod servers;
pub(crate) mod source;
mod spawning;
pub(crate) mod worker_process;

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use actix::dev::OneshotSender;
use actix::fut::{ActorFuture, WrapFuture};
use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context};

use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::telemetry::stdio::NameOf;
use crate::failure::{Failure, FailureKind, WorkerFacts};
use crate::wire::control::{FromServer, ServerReport, WorkerPid};
pub(crate) use messages::{
    EndPool, ForgetWorker, InspectServer, KillLater, KillViaServer, Retire, RetiringWorker, ScheduleTick,
    Spawn, SpawnFailed,
};
use server_connection::ServerConnection;
use servers::{DrainingServer, ServerId, ServerState};
use source::{Launched, ServerSource};
use worker_process::{RetireWorker, WorkerExited, WorkerForked, WorkerPrinted, WorkerProcess};

/// Where the pool's fork server comes from, and what the pool sends it first.
pub(crate) struct ServerSpec {
    pub(crate) source: ServerSource,
    /// The encoded `Hello`, the first frame on the control channel.
    pub(crate) hello: Vec<u8>,
    pub(crate) fingerprint: u64,
    /// Returns the name of a call from its number in the interface.
    pub(crate) name_of: NameOf,
}

/// A worker's entry in the registry.
struct Registration {
    process: Addr<WorkerProcess>,
    /// The server that forked the worker or was asked to; `None` once that server is gone.
    server: Option<ServerId>,
    /// The server that adopted the worker after its own server was gone.
    adopted_by: Option<ServerId>,
}

impl Registration {
    /// Returns whether this server forked or adopted the worker. That server kills the worker if this application
    /// exits.
    fn belongs_to(&self, server: ServerId) -> bool {
        self.server == Some(server) || self.adopted_by == Some(server)
    }
}

/// The actor that owns a pool's processes.
pub(crate) struct Supervisor {
    scheduler: Arc<Scheduler>,
    spec: ServerSpec,
    server: ServerState,
    /// The id of the current server.
    server_id: ServerId,
    /// Servers that take no more work and still have workers of this pool.
    draining: Vec<DrainingServer>,
    registry: HashMap<u64, Registration>,
    /// Workers that were requested from a server and whose fork is not confirmed yet.
    unconfirmed: HashSet<u64>,
    /// Workers that are retired once their replacements are confirmed, with their channels.
    retiring: Vec<RetiringWorker>,
    /// Workers to be requested once `spawn_delay` turns of the event loop have passed.
    delayed_spawns: Vec<u64>,
    spawn_delay: u32,
    /// Workers to be requested once there is a server.
    pending_spawns: Vec<u64>,
    /// Servers in a row that were lost before they had forked a worker.
    streak: u32,
    /// The reason that a server gave before it was lost, if it was not up yet.
    last_error: Option<String>,
    /// Pending requests for the server's statistics, in the order in which they were sent.
    stats_requests: VecDeque<OneshotSender<ServerReport>>,
    /// Pending requests to stop the pool.
    end_waiters: Vec<OneshotSender<()>>,
    /// Wakes [`ControlLoop`] when there is something to send.
    waker: Option<Waker>,
}

impl Supervisor {
    pub(crate) fn new(scheduler: Arc<Scheduler>, spec: ServerSpec, launched: Option<Launched>) -> Self {
        Supervisor {
            scheduler,
            spec,
            server: launched.map_or(ServerState::Down, ServerState::Launched),
            server_id: 0,
            draining: Vec::new(),
            registry: HashMap::new(),
            unconfirmed: HashSet::new(),
            retiring: Vec::new(),
            delayed_spawns: Vec::new(),
            spawn_delay: 0,
            pending_spawns: Vec::new(),
            streak: 0,
            last_error: None,
            stats_requests: VecDeque::new(),
            end_waiters: Vec::new(),
            waker: None,
        }
    }

    fn handle_message(&mut self, message: FromServer, from: ServerId, ctx: &mut Context<Self>) {
        match message {
            FromServer::Welcome { ticket } => self.mark_server_up(ticket),
            FromServer::Refused { reason } => self.last_error = Some(reason),
            FromServer::PreloadFailed(report) => {
                self.last_error = Some("the preload failed".to_owned());
                let failure = worker_process::setup_failure(&report);
                self.scheduler.report_setup_failure(None, failure.in_pool(&self.scheduler.options.name));
            }
            FromServer::Forked(workers) => self.handle_forked(workers, from),
            // That server takes no more work, and another server was asked for the worker.
            FromServer::NotForked { .. } if from != self.server_id => {}
            FromServer::NotForked { number, reason } => self.report_fork_failure(number, &reason),
            FromServer::Ended(ended) => {
                self.unconfirmed.remove(&ended.number);
                if let Some(registration) = self.registry.remove(&ended.number) {
                    registration.process.do_send(WorkerExited(ExitReport::Known(ended)));
                }
                self.drop_unused_servers();
            }
            FromServer::Draining { succeeded } => self.handle_draining(from, succeeded, ctx),
            FromServer::Inspected(stats) => {
                if let Some(reply) = self.stats_requests.pop_front() {
                    // The requester may have stopped waiting.
                    let _ = reply.send(stats);
                }
            }
            FromServer::Printed { number, stderr, bytes } => {
                if let Some(registration) = self.registry.get(&number) {
                    registration.process.do_send(WorkerPrinted { stderr, bytes });
                }
            }
            FromServer::Diverted => self.mark_diverted(),
            // An application never requests a handover.
            FromServer::HandedOver { .. } => {}
        }
    }

    fn handle_forked(&mut self, workers: Vec<WorkerPid>, from: ServerId) {
        let connection = self.connection_of(from);
        let is_remote = connection.as_ref().is_some_and(|connection| connection.is_remote());
        let pidfds =
            connection.filter(|_| !is_remote).map(ServerConnection::take_descriptors).unwrap_or_default();
        // If some pidfds are missing, it is unknown which worker the others belong to, so none is used.
        let mut pidfds = Some(pidfds).filter(|pidfds| pidfds.len() == workers.len()).into_iter().flatten();
        for WorkerPid { number, pid } in workers {
            let pidfd = pidfds.next();
            match self.registry.get(&number) {
                Some(registration) if is_remote || pidfd.is_some() => {
                    registration.process.do_send(WorkerForked { pid, pidfd })
                }
                // Without a pidfd the worker cannot be watched. Retiring it closes its channel, and it exits.
                Some(registration) => registration.process.do_send(RetireWorker(RetireReason::Broken)),
                // The worker was retired before this report. It finds its channel closed and exits.
                None => {}
            }
            self.unconfirmed.remove(&number);
        }
        if from == self.server_id {
            self.streak = 0;
        }
        self.retire_workers();
    }

    fn report_fork_failure(&mut self, number: u64, reason: &str) {
        tracing::warn!(target: "forkpool", pool = %self.scheduler.options.name, worker = number, reason,
            "failed to fork a worker");
        let failure = Failure::of(FailureKind::Setup, format!("failed to fork: {reason}"));
        let facts = WorkerFacts { number, ..WorkerFacts::default() };
        self.scheduler.set_last_failure(failure.in_pool(&self.scheduler.options.name).on_worker(facts));
        self.unconfirmed.remove(&number);
        self.retire_workers();
        match self.registry.remove(&number) {
            Some(registration) => registration.process.do_send(WorkerExited(ExitReport::Unknown)),
            None => self.scheduler.report_exit(number, ExitReport::Unknown),
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// If the pool is drained, shuts down the server, resolves the requests to stop the pool, and stops this actor.
    fn stop_if_drained(&mut self, ctx: &mut Context<Self>) {
        if matches!(self.server, ServerState::Stopped) || !self.scheduler.is_drained() {
            return;
        }
        let shut_down = self.shut_down();
        let end = shut_down.into_actor(self).map(|(), supervisor, ctx| {
            for waiter in supervisor.end_waiters.drain(..) {
                // The requester may have stopped waiting.
                let _ = waiter.send(());
            }
            ctx.stop();
        });
        ctx.spawn(end);
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        match std::mem::replace(&mut self.server, ServerState::Down) {
            ServerState::Launched(launched) => self.begin_handshake(launched, ctx),
            _ => self.relaunch(ctx),
        }
        ctx.spawn(ControlLoop);
    }
}

/// Exchanges messages with the current fork server and the draining ones.
struct ControlLoop;

impl ActorFuture<Supervisor> for ControlLoop {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        supervisor: &mut Supervisor,
        ctx: &mut Context<Supervisor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        supervisor.waker = Some(task.waker().clone());
        while let Some((from, message)) = supervisor.poll_servers(task) {
            match message {
                Some(message) => supervisor.handle_message(message, from, ctx),
                None => supervisor.handle_server_lost(from, ctx),
            }
        }
        if supervisor.poll_delayed_spawns() {
            task.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
