//! The fork servers that a pool has: the one that is asked for workers, and those before it that take no more work.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::fut::WrapFuture;
use actix::{ActorFutureExt, AsyncContext, Context};

use super::server_connection::ServerConnection;
use super::source::Launched;
use super::worker_process;
use super::worker_process::ServerLost;
use super::{Registration, Supervisor};
use crate::actors::transport::blobs::BlobMemory;
use crate::sys::server_process::ServerProcess;
use crate::wire::control::{FromServer, ToServer};

/// How long a server may take to end its workers and itself.
const FAREWELL: Duration = Duration::from_secs(2);

/// Which server, in the life of a pool.
pub(super) type ServerId = u64;

/// The fork server, as the supervisor knows it.
pub(super) enum ServerState {
    /// Launched, and to be spoken to once the supervisor runs.
    Launched(Launched),
    /// On the way to one over a network.
    Reaching,
    /// The preload runs; fork requests wait in the channel.
    Starting(ServerConnection),
    Up(ServerConnection),
    /// There is none, and another attempt is due.
    Down,
    /// The pool is over.
    Over,
}

impl ServerState {
    pub(super) fn connection(&mut self) -> Option<&mut ServerConnection> {
        match self {
            ServerState::Starting(connection) | ServerState::Up(connection) => Some(connection),
            ServerState::Launched(_) | ServerState::Reaching | ServerState::Down | ServerState::Over => None,
        }
    }
}

/// What was lost with a server.
enum Loss {
    OfUse,
    BeforeItWasReady,
}

/// A server that takes no more work and has workers of ours.
pub(super) struct Predecessor {
    id: ServerId,
    connection: ServerConnection,
}

impl Supervisor {
    pub(super) fn begin_handshake(&mut self, launched: Launched, ctx: &mut Context<Self>) {
        let arena: io::Result<Vec<OwnedFd>> =
            self.scheduler.blobs.iter().map(BlobMemory::to_be_read).collect();
        let connection =
            ServerConnection::new(launched).and_then(|connection| arena.map(|arena| (connection, arena)));
        match connection {
            Ok((mut connection, arena)) => {
                connection.say_frame(self.spec.hello.clone(), arena);
                if let Some(unanswered) = self.spec.source.unanswered() {
                    self.scheduler.set_outage(Some(unanswered));
                }
                self.server = ServerState::Starting(connection);
                self.server_id += 1;
                self.spawn_queued();
                self.wake();
            }
            Err(error) => self.server_down(error.to_string(), ctx),
        }
    }

    pub(super) fn server_is_up(&mut self, ticket: Option<u128>) {
        if self.unconfirmed.is_empty() {
            self.streak = 0;
        }
        self.scheduler.set_outage(None);
        if let ServerState::Starting(mut connection) = std::mem::replace(&mut self.server, ServerState::Down)
        {
            connection.is_known_as(ticket);
            tracing::debug!(target: "forkpool", pool = %self.scheduler.options.name, server = connection.pid(), "fork server is up");
            self.server = ServerState::Up(connection);
            self.have_orphans_adopted();
            self.spawn_queued();
        }
    }

    fn spawn_queued(&mut self) {
        let unspawned = std::mem::take(&mut self.unspawned);
        self.spawn(&unspawned);
    }

    /// Workers whose server is gone are to end with this application all the same: the server there is now sees to that.
    fn have_orphans_adopted(&mut self) {
        self.registry.retain(|_, registration| registration.process.connected());
        let is_orphan =
            |registration: &Registration| registration.server.is_none() && registration.guardian.is_none();
        let orphans = self.registry.iter().filter(|(_, registration)| is_orphan(registration));
        let orphans: Vec<u64> = orphans.map(|(number, _)| *number).collect();
        if !self.spec.source.is_own() && !self.spec.source.is_remote() {
            // It may be of a newer build than they are.
            self.scheduler.outdate(&orphans, true);
        }
        for number in orphans {
            let handle = self.scheduler.identity(number).and_then(|worker| worker.duplicate_handle().ok());
            let registration = self.registry.get_mut(&number);
            if let (Some(handle), Some(connection), Some(registration)) =
                (handle, self.server.connection(), registration)
            {
                connection.say(&ToServer::Adopt { number }, vec![handle]);
                registration.guardian = Some(self.server_id);
            }
        }
    }

    /// The way to a server that is still spoken with.
    pub(super) fn connection_of(&mut self, id: ServerId) -> Option<&mut ServerConnection> {
        if id == self.server_id {
            return self.server.connection();
        }
        self.predecessors
            .iter_mut()
            .find(|predecessors| predecessors.id == id)
            .map(|predecessors| &mut predecessors.connection)
    }

    /// The next message of any server, or `None` in its place where the conversation with one is over.
    pub(super) fn poll_servers(
        &mut self,
        task: &mut TaskContext<'_>,
    ) -> Option<(ServerId, Option<FromServer>)> {
        let current = self.server.connection().map(|connection| (self.server_id, connection));
        let predecessors =
            self.predecessors.iter_mut().map(|predecessors| (predecessors.id, &mut predecessors.connection));
        for (id, connection) in current.into_iter().chain(predecessors) {
            // What cannot be written yet wakes this task when it can.
            let _ = connection.poll_flush(task);
            if let Poll::Ready(said) = connection.poll_next(task) {
                return Some((id, said));
            }
        }
        None
    }

    /// A server takes no more work. Where another has its place it is gone to.
    pub(super) fn server_drains(&mut self, from: ServerId, succeeded: bool, ctx: &mut Context<Self>) {
        tracing::info!(target: "forkpool", pool = %self.scheduler.options.name, succeeded, "the fork server takes no more work");
        if from == self.server_id
            && let ServerState::Starting(connection) | ServerState::Up(connection) =
                std::mem::replace(&mut self.server, ServerState::Down)
        {
            self.predecessors.push(Predecessor { id: from, connection });
            self.stats_requests.clear();
            self.server_id += 1;
            self.withdraw_from(from);
            self.relaunch(ctx);
        }
        let its_workers = self.registry.iter().filter(|(_, registration)| registration.is_with(from));
        let its_workers: Vec<u64> = its_workers.map(|(number, _)| *number).collect();
        self.scheduler.outdate(&its_workers, succeeded);
        self.take_leave_of_departed();
    }

    /// A server that takes no more work and has no worker of ours any more is nothing to us.
    pub(super) fn take_leave_of_departed(&mut self) {
        let registry = &self.registry;
        let lives = |registration: &&Registration| registration.process.connected();
        let has_workers = |id| registry.values().filter(lives).any(|registration| registration.is_with(id));
        self.predecessors.retain(|predecessors| has_workers(predecessors.id));
    }

    /// The conversation with a server has ended without our doing.
    pub(super) fn server_lost(&mut self, id: ServerId, ctx: &mut Context<Self>) {
        self.registry.retain(|_, registration| registration.process.connected());
        let outcome = (id == self.server_id).then(|| self.lose_server());
        let owed_some = self.withdraw_from(id);
        // They stay in the registry: an orphan can still be told to leave.
        let mut orphans = Vec::new();
        for (&number, registration) in
            self.registry.iter_mut().filter(|(_, registration)| registration.is_with(id))
        {
            registration.guardian = None;
            if registration.server.take().is_some() {
                registration.process.do_send(ServerLost);
                orphans.push(number);
            }
        }
        if self.spec.source.is_remote() {
            // Nobody would tell of their ends, so they go once nobody holds them.
            self.scheduler.outdate(&orphans, false);
        }
        self.predecessors.retain(|predecessors| predecessors.id != id);
        self.let_go();
        match outcome {
            None => {}
            Some(Loss::OfUse) if !owed_some => {
                self.scheduler.set_outage(Some("the fork server died".to_owned()));
                self.relaunch(ctx);
            }
            // One that dies of what it is asked for is not asked again at once.
            Some(Loss::OfUse) => self.server_down("the fork server died".to_owned(), ctx),
            Some(Loss::BeforeItWasReady) => {
                let said = self.last_words.take();
                let why = said.unwrap_or_else(|| "the fork server ended before it was ready".to_owned());
                self.server_down(why, ctx);
            }
        }
    }

    /// What is left of the server that is asked for workers; whether it was of use.
    fn lose_server(&mut self) -> Loss {
        let before = std::mem::replace(&mut self.server, ServerState::Down);
        let loss = if matches!(before, ServerState::Up(_)) { Loss::OfUse } else { Loss::BeforeItWasReady };
        if let ServerState::Starting(mut connection) | ServerState::Up(mut connection) = before {
            // What it said itself is more to the point.
            self.last_words = self.last_words.take().or(connection.take_complaint());
            connection.hang_up().iter_mut().for_each(ServerProcess::kill);
        }
        self.stats_requests.clear();
        loss
    }

    /// There is no server, and there will be an attempt to start one after a while.
    fn server_down(&mut self, why: String, ctx: &mut Context<Self>) {
        self.streak = self.streak.saturating_add(1);
        let wait = self.scheduler.options.restart.wait(self.streak, self.scheduler.chance());
        tracing::warn!(target: "forkpool", pool = %self.scheduler.options.name, why, ?wait, "no fork server");
        self.scheduler.set_outage(Some(why));
        self.server = ServerState::Down;
        ctx.run_later(wait, |supervisor, ctx| supervisor.relaunch(ctx));
    }

    pub(super) fn relaunch(&mut self, ctx: &mut Context<Self>) {
        if !matches!(self.server, ServerState::Down) || self.scheduler.is_drained() {
            return;
        }
        if let Some(reached) = self.spec.source.reach_at_once() {
            return self.reached(reached, ctx);
        }
        self.server = ServerState::Reaching;
        let reaching = self.spec.source.clone().reach().into_actor(self);
        ctx.spawn(reaching.map(|reached, supervisor, ctx| {
            if matches!(supervisor.server, ServerState::Reaching) {
                supervisor.reached(reached, ctx);
            }
        }));
    }

    fn reached(&mut self, reached: io::Result<Launched>, ctx: &mut Context<Self>) {
        match reached {
            Ok(launched) => self.begin_handshake(launched, ctx),
            Err(error) => {
                let why = self.spec.source.unreachable(&error);
                self.server_down(why, ctx);
            }
        }
    }

    /// Takes leave of all servers; ready once a server of ours has ended.
    pub(super) fn farewell(&mut self) -> impl Future<Output = ()> + 'static {
        self.predecessors.clear();
        let connection = match std::mem::replace(&mut self.server, ServerState::Over) {
            ServerState::Starting(connection) | ServerState::Up(connection) => Some(connection),
            ServerState::Launched(launched) => ServerConnection::new(launched).ok(),
            ServerState::Reaching | ServerState::Down | ServerState::Over => None,
        };
        async move {
            let process = connection.and_then(ServerConnection::hang_up);
            if let Some(Ok(handle)) = process.as_ref().map(ServerProcess::handle) {
                worker_process::ended(handle, FAREWELL).await;
            }
            // Dropping the process reaps it.
            drop(process);
        }
    }
}
