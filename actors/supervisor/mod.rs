//! The supervisor of a pool: it owns the fork server and the registry of worker processes.
//!
//! It forks what the ledger asks for, hands every birth and death to the process it concerns, starts a server
//! that has died again or goes to the one that comes in its place, and takes everything down at the end. It never awaits a
//! worker.

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
use crate::actors::telemetry::stdio::NameOf;
use crate::failure::{Failure, FailureKind, WorkerFacts};
use crate::wire::control::{Born, FromServer, ServerStats};
pub(crate) use messages::{
    Attend, End, Forget, InspectServer, KillLater, KillViaServer, Leaving, Retire, Spawn, SpawnFailed,
};
use server_connection::ServerConnection;
use servers::{Predecessor, ServerId, ServerState};
use source::{Launched, ServerSource};
use worker_process::{Exited, Forked, Printed, RetireWorker, WorkerProcess};

/// What it takes to have a server for the pool.
pub(crate) struct ServerSpec {
    pub(crate) source: ServerSource,
    /// The first frame of the conversation.
    pub(crate) hello: Vec<u8>,
    pub(crate) fingerprint: u64,
    /// How the calls of its workers are called.
    pub(crate) name_of: NameOf,
}

/// A worker's entry in the registry.
struct Registration {
    process: Addr<WorkerProcess>,
    /// Who forked it, or is to; `None` once that server is gone.
    server: Option<ServerId>,
    /// Who has adopted it since.
    guardian: Option<ServerId>,
}

impl Registration {
    /// Whether this server is to hear of it, and to kill it if this application ends.
    fn is_with(&self, server: ServerId) -> bool {
        self.server == Some(server) || self.guardian == Some(server)
    }
}

/// The owner of a pool's processes.
pub(crate) struct Supervisor {
    scheduler: Arc<Scheduler>,
    spec: ServerSpec,
    server: ServerState,
    /// Which server it is.
    server_id: ServerId,
    /// Servers that take no more work and have workers of ours.
    predecessors: Vec<Predecessor>,
    registry: HashMap<u64, Registration>,
    /// Workers that were asked for and not yet confirmed.
    unconfirmed: HashSet<u64>,
    /// Workers that go once their replacements are confirmed, with the channels whose end tells them to.
    leaving: Vec<Leaving>,
    /// Workers that were asked for a few turns ago.
    wanted: Vec<u64>,
    turns_to_wait: u32,
    /// Workers that were asked for while there was no server.
    unspawned: Vec<u64>,
    /// Servers that ended before they were of use, since one was.
    streak: u32,
    /// What a server that was not up yet said before it ended.
    last_words: Option<String>,
    /// Whoever wants to know what the server does, in the order in which it was asked.
    stats_requests: VecDeque<OneshotSender<ServerStats>>,
    /// Whoever waits for the end.
    end_waiters: Vec<OneshotSender<()>>,
    /// The task of the conversation, to be woken when there is something to say.
    waker: Option<Waker>,
}

impl Supervisor {
    pub(crate) fn new(scheduler: Arc<Scheduler>, spec: ServerSpec, launched: Option<Launched>) -> Self {
        Supervisor {
            scheduler,
            spec,
            server: launched.map_or(ServerState::Down, ServerState::Launched),
            server_id: 0,
            predecessors: Vec::new(),
            registry: HashMap::new(),
            unconfirmed: HashSet::new(),
            leaving: Vec::new(),
            wanted: Vec::new(),
            turns_to_wait: 0,
            unspawned: Vec::new(),
            streak: 0,
            last_words: None,
            stats_requests: VecDeque::new(),
            end_waiters: Vec::new(),
            waker: None,
        }
    }

    fn take_in(&mut self, message: FromServer, from: ServerId, ctx: &mut Context<Self>) {
        match message {
            FromServer::Welcome { ticket } => self.server_is_up(ticket),
            FromServer::Refused { reason } => self.last_words = Some(reason),
            FromServer::PreloadFailed(report) => {
                self.last_words = Some("its preload failed".to_owned());
                let failure = worker_process::setup_failure(&report);
                self.scheduler.not_set_up(None, failure.in_pool(&self.scheduler.options.name));
            }
            FromServer::Forked(born) => self.forked(born, from),
            // It takes no more work, so another was asked.
            FromServer::NotForked { .. } if from != self.server_id => {}
            FromServer::NotForked { number, reason } => self.not_forked(number, &reason),
            FromServer::Ended(ended) => {
                self.unconfirmed.remove(&ended.number);
                if let Some(registration) = self.registry.remove(&ended.number) {
                    registration.process.do_send(Exited(ExitReport::Seen(ended)));
                }
                self.take_leave_of_departed();
            }
            FromServer::Draining { succeeded } => self.server_drains(from, succeeded, ctx),
            FromServer::Inspected(stats) => {
                if let Some(inquirer) = self.stats_requests.pop_front() {
                    // Whoever asked may have given up waiting.
                    let _ = inquirer.send(stats);
                }
            }
            FromServer::Printed { number, stderr, bytes } => {
                if let Some(registration) = self.registry.get(&number) {
                    registration.process.do_send(Printed { stderr, bytes });
                }
            }
            // Nobody here asked for that.
            FromServer::HandedOver { .. } => {}
        }
    }

    fn forked(&mut self, born: Vec<Born>, from: ServerId) {
        let connection = self.connection_of(from);
        let is_remote = connection.as_ref().is_some_and(|connection| connection.is_remote());
        let handles =
            connection.filter(|_| !is_remote).map(ServerConnection::take_passed).unwrap_or_default();
        // Fewer than there have to be are none: there is no telling whose they are.
        let mut handles = Some(handles).filter(|handles| handles.len() == born.len()).into_iter().flatten();
        for Born { number, pid } in born {
            let handle = handles.next();
            match self.registry.get(&number) {
                // One that was given up before it was born finds its channel closed, and ends.
                Some(registration) if is_remote || handle.is_some() => {
                    registration.process.do_send(Forked { pid, handle })
                }
                // Without a handle it could not be watched; without its channel it ends.
                Some(registration) => registration
                    .process
                    .do_send(RetireWorker(crate::actors::scheduler::worker_state::RetireReason::Broken)),
                // It was given up while the server was being asked for it.
                None => {}
            }
            self.unconfirmed.remove(&number);
        }
        if from == self.server_id {
            self.streak = 0;
        }
        self.let_go();
    }

    fn not_forked(&mut self, number: u64, reason: &str) {
        tracing::warn!(target: "forkpool", pool = %self.scheduler.options.name, worker = number, reason,
            "a worker could not be forked");
        let failure = Failure::of(FailureKind::Setup, format!("failed to fork: {reason}"));
        let facts = WorkerFacts { number, ..WorkerFacts::default() };
        self.scheduler.set_trouble(failure.in_pool(&self.scheduler.options.name).on_worker(facts));
        self.unconfirmed.remove(&number);
        self.let_go();
        match self.registry.remove(&number) {
            Some(registration) => registration.process.do_send(Exited(ExitReport::Unseen)),
            None => self.scheduler.ended(number, ExitReport::Unseen),
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Once every worker is gone, the server is taken leave of, and whoever waits for the end is told.
    fn end_if_drained(&mut self, ctx: &mut Context<Self>) {
        if matches!(self.server, ServerState::Over) || !self.scheduler.is_drained() {
            return;
        }
        let farewell = self.farewell();
        let end = farewell.into_actor(self).map(|(), supervisor, ctx| {
            for mourner in supervisor.end_waiters.drain(..) {
                // Whoever asked may have given up waiting.
                let _ = mourner.send(());
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
        ctx.spawn(Conversation);
    }
}

/// Talks with the fork server, whichever it is, and with those that were before.
struct Conversation;

impl ActorFuture<Supervisor> for Conversation {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        supervisor: &mut Supervisor,
        ctx: &mut Context<Supervisor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        supervisor.waker = Some(task.waker().clone());
        while let Some((from, said)) = supervisor.poll_servers(task) {
            match said {
                Some(message) => supervisor.take_in(message, from, ctx),
                None => supervisor.server_lost(from, ctx),
            }
        }
        if supervisor.hire_wanted() {
            task.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
