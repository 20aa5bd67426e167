//! The supervisor of a pool: the actor that owns the fork server and the registry of worker processes.
//!
//! It requests the forks that the scheduler decides on, forwards fork and exit reports to the worker's proxy, replaces
//! a lost server, connects to the successor of a draining one, and shuts everything down at the end. It never waits for
//! a worker.

mod messages;
mod pings;
mod prepared;
mod registration;
pub(crate) mod server_connection;
mod servers;
pub(crate) mod source;
mod spawning;
mod stopping;
mod strays;
pub(crate) mod worker_process;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use actix::dev::OneshotSender;
use actix::fut::ActorFuture;
use actix::{Actor, Addr, AsyncContext, Context, Recipient, SpawnHandle};

use crate::actors::api::stop_report::StopReport;
use crate::actors::reply;
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::telemetry::stdio::NameOf;
use crate::actors::threads;
use crate::actors::threads::OwnArbiter;
use crate::clock::Instant;
use crate::failure::{Failure, FailureKind, WorkerFacts};
use crate::wire::control::{FromServer, ServerReport, WorkerPid};
pub(crate) use messages::SpawnFailed;
use pings::SilentServer;
use prepared::PreparedChannel;
use registration::{Registration, Stage};
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

/// A request for the server's statistics that was sent to it.
struct StatsRequest {
    number: u64,
    /// `None` once the request was answered with a failure, because the server took too long.
    reply: Option<OneshotSender<Result<ServerReport, Failure>>>,
}

/// The actor that owns a pool's processes.
pub(crate) struct Supervisor {
    scheduler: Arc<Scheduler>,
    spec: ServerSpec,
    server: ServerState,
    /// The id of the current server.
    server_id: ServerId,
    /// The process of the server that this application started last.
    server_pid: Option<u32>,
    /// Servers that take no more work and still have workers of this pool.
    draining: Vec<DrainingServer>,
    /// Servers that were taken for dead and have workers that are in use.
    silent: Vec<SilentServer>,
    /// The workers by number, from the decision to fork them to their exit reports.
    registry: BTreeMap<u64, Registration>,
    /// The channel of the next worker.
    prepared: Option<PreparedChannel>,
    /// Whether it is about to be made.
    prepares: bool,
    /// Turns of the event loop after which the delayed workers are requested; `None` if there are none.
    spawn_delay: Option<u32>,
    /// Servers in a row that could not be reached or started, or that ended early.
    streak: u32,
    /// When the current server came up.
    up_since: Option<Instant>,
    /// The earliest time of the next attempt to reach a standalone server.
    retry_from: Instant,
    /// The scheduled attempt to start or reach a server.
    relaunch_timer: Option<SpawnHandle>,
    /// The reason that a server gave before it was lost, if it was not up yet.
    last_error: Option<String>,
    /// Whether the last two processes that were started as the server are of a program that never becomes one.
    is_foreign: bool,
    /// Whether the last of them did not become one.
    was_undiverted: bool,
    /// Pending requests for the server's statistics, in the order in which they were sent.
    stats_requests: VecDeque<StatsRequest>,
    /// Requests for the server's statistics so far.
    last_stats_request: u64,
    /// Searches that run for workers that a dead server left behind unconfirmed.
    searches: u32,
    /// Pending requests to stop the pool.
    end_waiters: Vec<OneshotSender<StopReport>>,
    /// Where workers' proxies send their reports; `None` before this actor has started.
    own_address: Option<Recipient<SpawnFailed>>,
    /// Wakes [`ControlLoop`] when there is something to send.
    waker: Option<Waker>,
    /// The thread that this actor runs on, if it is the library's. The thread ends with its last supervisor.
    own_thread: Option<Arc<OwnArbiter>>,
    /// The thread that finds out whether the application is frozen; `None` if the system had no thread left.
    _watch: Option<Arc<OwnArbiter>>,
}

/// Ends the pool if it was not stopped: the arbiter of this actor has stopped, or a bug has ended the actor.
impl Drop for Supervisor {
    fn drop(&mut self) {
        if !matches!(self.server, ServerState::Stopped) {
            let whose =
                if self.own_thread.is_some() { "its own thread" } else { "the arbiter it was started in" };
            self.scheduler.end(format!("its supervisor has ended, with {whose}"));
        }
        self.scheduler.has_ended();
    }
}

impl Supervisor {
    pub(crate) fn new(
        scheduler: Arc<Scheduler>,
        spec: ServerSpec,
        launched: Option<Launched>,
        own_thread: Option<Arc<OwnArbiter>>,
    ) -> Self {
        Supervisor {
            scheduler,
            spec,
            server: launched.map_or(ServerState::Down, ServerState::Launched),
            server_id: 0,
            server_pid: None,
            draining: Vec::new(),
            silent: Vec::new(),
            registry: BTreeMap::new(),
            prepared: None,
            prepares: false,
            spawn_delay: None,
            streak: 0,
            up_since: None,
            retry_from: Instant::now(),
            relaunch_timer: None,
            last_error: None,
            is_foreign: false,
            was_undiverted: false,
            stats_requests: VecDeque::new(),
            last_stats_request: 0,
            searches: 0,
            end_waiters: Vec::new(),
            own_address: None,
            waker: None,
            _watch: own_thread.clone().or_else(|| threads::supervision().ok()),
            own_thread,
        }
    }

    /// Begins the work. Before that, the scheduler could not send the commands that a report causes.
    fn open(&mut self, ctx: &mut Context<Self>) {
        match std::mem::replace(&mut self.server, ServerState::Down) {
            ServerState::Launched(launched) => self.begin_handshake(launched, ctx),
            _ => self.relaunch(ctx),
        }
        ctx.spawn(ControlLoop);
    }

    fn handle_message(&mut self, message: FromServer, from: ServerId, ctx: &mut Context<Self>) {
        match message {
            FromServer::Welcome { ticket } => {
                self.mark_server_up(ticket, ctx);
                self.prepare_later(ctx);
            }
            FromServer::Refused { reason } => self.last_error = Some(reason),
            FromServer::PreloadFailed(report) => {
                self.last_error = Some("the preload failed".to_owned());
                let failure = worker_process::setup_failure(report);
                self.scheduler.report_setup_failure(None, failure.in_pool(&self.scheduler.options.name));
            }
            FromServer::Forked(workers) => {
                self.handle_forked(workers, from);
                self.request_workers();
                self.prepare_later(ctx);
            }
            // That server takes no more work, and another server was asked for the worker.
            FromServer::NotForked { .. } if from != self.server_id => {}
            FromServer::NotForked { number, reason } => {
                self.report_fork_failure(number, &reason);
                self.request_workers();
            }
            FromServer::Ended(ended) => {
                let process = self.registry.remove(&ended.number).and_then(Registration::into_process);
                if let Some(process) = process {
                    process.do_send(WorkerExited(ExitReport::Known(ended)));
                }
                self.drop_unused_servers();
            }
            FromServer::Draining { succeeded } => self.handle_draining(from, succeeded, ctx),
            FromServer::Inspected(stats) => {
                if let Some(reply) = self.stats_requests.pop_front().and_then(|request| request.reply) {
                    // The requester may have stopped waiting.
                    let _ = reply::send(reply, Ok(stats));
                }
            }
            FromServer::Printed { number, stderr, bytes } => {
                if let Some(process) = self.process(number) {
                    process.do_send(WorkerPrinted { stderr, bytes });
                }
            }
            FromServer::Diverted => self.mark_diverted(),
            // Whatever arrives is a sign of life.
            FromServer::Pong => {}
        }
    }

    fn handle_forked(&mut self, workers: Vec<WorkerPid>, from: ServerId) {
        let connection = self.connection_of(from);
        let is_remote = connection.as_ref().is_some_and(|connection| connection.is_remote());
        let pidfds =
            connection.filter(|_| !is_remote).map(ServerConnection::take_descriptors).unwrap_or_default();
        // If some pidfds are missing, it is unknown which worker the others belong to, so none is used.
        let mut pidfds = Some(pidfds).filter(|pidfds| pidfds.len() == workers.len()).into_iter().flatten();
        for WorkerPid { number, pid, proof } in workers {
            let pidfd = pidfds.next();
            // A worker that was retired before this report finds its channel closed and exits.
            let Some(process) = self.registry.get_mut(&number).and_then(|worker| worker.confirm(from, proof))
            else {
                continue;
            };
            if is_remote || pidfd.is_some() {
                process.do_send(WorkerForked { pid, pidfd });
            } else {
                // Without a pidfd the worker cannot be watched. Retiring it closes its channel, and it exits.
                process.do_send(RetireWorker(RetireReason::Broken));
            }
        }
        self.retire_workers();
    }

    /// Returns the proxy of a worker that was requested from a server.
    fn process(&self, worker: u64) -> Option<&Addr<WorkerProcess>> {
        self.registry.get(&worker)?.process()
    }

    fn report_fork_failure(&mut self, number: u64, reason: &str) {
        let failure = Failure::of(FailureKind::Setup, format!("failed to fork: {reason}"));
        let facts = WorkerFacts { number, ..WorkerFacts::default() };
        self.scheduler.set_last_failure(failure.in_pool(&self.scheduler.options.name).on_worker(facts));
        match self.registry.remove(&number).and_then(Registration::into_process) {
            Some(process) => process.do_send(WorkerExited(ExitReport::Unknown)),
            None => self.scheduler.report_exit(number, ExitReport::Unknown),
        }
        self.retire_workers();
        let (pool, reason) = (self.scheduler.options.name.clone(), reason.to_owned());
        self.scheduler.teller.tell(move || {
            tracing::warn!(target: "forkpool", %pool, worker = number, reason, "failed to fork a worker");
        });
    }

    fn wake(&mut self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.own_address = Some(ctx.address().recipient());
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
        while let Some(silent) = supervisor.poll_pings(task) {
            supervisor.handle_silence(silent, ctx);
        }
        supervisor.poll_silent(task);
        if supervisor.poll_delayed_spawns() {
            // The next turn comes at once, and flushes the requests if they were written.
            task.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
