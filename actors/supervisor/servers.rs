//! The fork servers of a pool: the current one, which forks workers, and earlier ones that take no more work.

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

/// How long the pool's own server may take to exit with its workers after its channel was closed (2 s). Dropping its
/// process after that waits once more and then kills it.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a process that was started as the fork server may take to report that it is (1 s). A call that fails later
/// says that it did not. It is waited for all the same.
const DIVERSION_PATIENCE: Duration = Duration::from_secs(1);

/// Identifies one connection to a server; a pool numbers them from 1.
pub(super) type ServerId = u64;

/// The state of the current fork server.
pub(super) enum ServerState {
    /// It is launched or connected; the handshake begins once the supervisor runs.
    Launched(Launched),
    /// A network connection to it is being opened.
    Connecting,
    /// Its preload runs; fork requests wait in the channel.
    Starting(ServerConnection),
    /// It forks workers.
    Up(ServerConnection),
    /// There is no server, and another attempt is scheduled.
    Down,
    /// The pool has stopped.
    Stopped,
}

impl ServerState {
    pub(super) fn connection(&mut self) -> Option<&mut ServerConnection> {
        match self {
            ServerState::Starting(connection) | ServerState::Up(connection) => Some(connection),
            ServerState::Launched(_) | ServerState::Connecting | ServerState::Down | ServerState::Stopped => {
                None
            }
        }
    }
}

/// When a server was lost.
enum ServerLoss {
    /// After its preload had succeeded.
    WasUp,
    /// Before that.
    BeforeUp,
}

/// A server that takes no more work and still has workers of this pool.
pub(super) struct DrainingServer {
    id: ServerId,
    connection: ServerConnection,
}

impl Supervisor {
    pub(super) fn begin_handshake(&mut self, launched: Launched, ctx: &mut Context<Self>) {
        let arena: io::Result<Vec<OwnedFd>> =
            self.scheduler.blobs.iter().map(BlobMemory::read_only_descriptor).collect();
        let connection =
            ServerConnection::new(launched).and_then(|connection| arena.map(|arena| (connection, arena)));
        match connection {
            Ok((mut connection, arena)) => {
                connection.queue_frame(self.spec.hello.clone(), arena);
                if let Some(no_answer_text) = self.spec.source.no_answer_text() {
                    self.scheduler.set_outage(Some(no_answer_text));
                }
                self.server = ServerState::Starting(connection);
                self.server_id += 1;
                let id = self.server_id;
                ctx.run_later(DIVERSION_PATIENCE, move |supervisor, _| supervisor.check_diverted(id));
                self.send_pending_spawns();
                self.wake();
            }
            Err(error) => self.schedule_relaunch(error.to_string(), ctx),
        }
    }

    pub(super) fn mark_server_up(&mut self, ticket: Option<u128>) {
        if self.unconfirmed.is_empty() {
            self.streak = 0;
        }
        self.scheduler.set_outage(None);
        if let ServerState::Starting(mut connection) = std::mem::replace(&mut self.server, ServerState::Down)
        {
            connection.set_ticket(ticket);
            tracing::debug!(target: "forkpool", pool = %self.scheduler.options.name, server = connection.pid(),
                "fork server is up");
            self.server = ServerState::Up(connection);
            self.request_adoptions();
            self.send_pending_spawns();
        }
    }

    /// If the process that was started still does not report to be the fork server, records that as the outage.
    fn check_diverted(&mut self, id: ServerId) {
        if let ServerState::Starting(connection) = &self.server
            && self.server_id == id
            && let Some(outage) = connection.not_diverted_yet()
        {
            self.scheduler.set_outage(Some(outage));
        }
    }

    /// The process that was started is the fork server. Its preload may take long, which is no outage.
    pub(super) fn mark_diverted(&mut self) {
        if let ServerState::Starting(connection) = &mut self.server {
            connection.mark_diverted();
            self.scheduler.set_outage(None);
        }
    }

    fn send_pending_spawns(&mut self) {
        let numbers = std::mem::take(&mut self.pending_spawns);
        self.spawn(&numbers);
    }

    /// Asks the current server to adopt workers whose own server is gone. It kills them if this application exits.
    fn request_adoptions(&mut self) {
        self.registry.retain(|_, registration| registration.process.connected());
        let is_orphan =
            |registration: &Registration| registration.server.is_none() && registration.adopted_by.is_none();
        let orphans = self.registry.iter().filter(|(_, registration)| is_orphan(registration));
        let orphans: Vec<u64> = orphans.map(|(number, _)| *number).collect();
        if !self.spec.source.is_own() && !self.spec.source.is_remote() {
            // The server may be of a newer build than these workers.
            self.scheduler.mark_outdated(&orphans, true);
        }
        for number in orphans {
            let pidfd = self.scheduler.worker_handle(number).and_then(|worker| worker.duplicate_pidfd().ok());
            let registration = self.registry.get_mut(&number);
            if let (Some(pidfd), Some(connection), Some(registration)) =
                (pidfd, self.server.connection(), registration)
            {
                connection.send(&ToServer::Adopt { number }, vec![pidfd]);
                registration.adopted_by = Some(self.server_id);
            }
        }
    }

    /// Returns the connection to the current server or a draining one.
    pub(super) fn connection_of(&mut self, id: ServerId) -> Option<&mut ServerConnection> {
        if id == self.server_id {
            return self.server.connection();
        }
        self.draining.iter_mut().find(|draining| draining.id == id).map(|draining| &mut draining.connection)
    }

    /// Writes queued messages and reads the next message of any server. The message is `None` if that server's channel
    /// has ended.
    pub(super) fn poll_servers(
        &mut self,
        task: &mut TaskContext<'_>,
    ) -> Option<(ServerId, Option<FromServer>)> {
        let current = self.server.connection().map(|connection| (self.server_id, connection));
        let draining = self.draining.iter_mut().map(|draining| (draining.id, &mut draining.connection));
        for (id, connection) in current.into_iter().chain(draining) {
            // A pending write has registered this task.
            let _ = connection.poll_flush(task);
            if let Poll::Ready(message) = connection.poll_next(task) {
                return Some((id, message));
            }
        }
        None
    }

    /// Marks the workers of a server that takes no more work. If it is the current one, connects to its successor.
    pub(super) fn handle_draining(&mut self, from: ServerId, succeeded: bool, ctx: &mut Context<Self>) {
        tracing::info!(target: "forkpool", pool = %self.scheduler.options.name, succeeded,
            "the fork server takes no more work");
        if from == self.server_id
            && let ServerState::Starting(connection) | ServerState::Up(connection) =
                std::mem::replace(&mut self.server, ServerState::Down)
        {
            self.draining.push(DrainingServer { id: from, connection });
            self.stats_requests.clear();
            self.server_id += 1;
            self.reassign_unconfirmed(from);
            self.relaunch(ctx);
        }
        let workers = self.registry.iter().filter(|(_, registration)| registration.belongs_to(from));
        let workers: Vec<u64> = workers.map(|(number, _)| *number).collect();
        self.scheduler.mark_outdated(&workers, succeeded);
        self.drop_unused_servers();
    }

    /// Closes the connections to draining servers that have no worker of this pool any more.
    pub(super) fn drop_unused_servers(&mut self) {
        let registry = &self.registry;
        let is_alive = |registration: &&Registration| registration.process.connected();
        let has_workers =
            |id| registry.values().filter(is_alive).any(|registration| registration.belongs_to(id));
        self.draining.retain(|draining| has_workers(draining.id));
    }

    /// Handles the end of a server's channel: reassigns its unconfirmed workers, has its other workers watched, and
    /// replaces the server if it is the current one.
    pub(super) fn handle_server_lost(&mut self, id: ServerId, ctx: &mut Context<Self>) {
        self.registry.retain(|_, registration| registration.process.connected());
        let loss = (id == self.server_id).then(|| self.drop_server());
        let had_unconfirmed = self.reassign_unconfirmed(id);
        // Orphans stay in the registry, so that they can be retired.
        let mut orphans = Vec::new();
        for (&number, registration) in
            self.registry.iter_mut().filter(|(_, registration)| registration.belongs_to(id))
        {
            registration.adopted_by = None;
            if registration.server.take().is_some() {
                registration.process.do_send(ServerLost);
                orphans.push(number);
            }
        }
        if self.spec.source.is_remote() {
            // Their exits would not be reported, so they are retired as soon as no checkout holds them.
            self.scheduler.mark_outdated(&orphans, false);
        }
        self.draining.retain(|draining| draining.id != id);
        self.retire_workers();
        match loss {
            None => {}
            Some(ServerLoss::WasUp) if !had_unconfirmed => {
                self.scheduler.set_outage(Some("the fork server was lost".to_owned()));
                self.relaunch(ctx);
            }
            // A fork request may have killed it, so the next server is not started at once.
            Some(ServerLoss::WasUp) => self.schedule_relaunch("the fork server was lost".to_owned(), ctx),
            Some(ServerLoss::BeforeUp) => {
                let last_error = self.last_error.take();
                let why =
                    last_error.unwrap_or_else(|| "the fork server exited before it was ready".to_owned());
                self.schedule_relaunch(why, ctx);
            }
        }
    }

    /// Closes the connection to the current server, kills its process if it is a child of this one, and returns when
    /// the server was lost.
    fn drop_server(&mut self) -> ServerLoss {
        let previous = std::mem::replace(&mut self.server, ServerState::Down);
        let loss =
            if matches!(previous, ServerState::Up(_)) { ServerLoss::WasUp } else { ServerLoss::BeforeUp };
        if let ServerState::Starting(mut connection) | ServerState::Up(mut connection) = previous {
            // A reason that the server itself gave is more precise.
            self.last_error = self.last_error.take().or_else(|| connection.take_error());
            self.last_error = self.last_error.take().or_else(|| connection.not_diverted());
            connection.close().iter_mut().for_each(ServerProcess::kill);
        }
        self.stats_requests.clear();
        loss
    }

    /// Records why there is no server, and schedules the next attempt with exponential backoff.
    fn schedule_relaunch(&mut self, why: String, ctx: &mut Context<Self>) {
        self.streak = self.streak.saturating_add(1);
        let wait = self.scheduler.options.restart.wait(self.streak, self.scheduler.jitter());
        tracing::warn!(target: "forkpool", pool = %self.scheduler.options.name, why, ?wait, "no fork server");
        self.scheduler.set_outage(Some(why));
        self.server = ServerState::Down;
        ctx.run_later(wait, |supervisor, ctx| supervisor.relaunch(ctx));
    }

    pub(super) fn relaunch(&mut self, ctx: &mut Context<Self>) {
        if !matches!(self.server, ServerState::Down) || self.scheduler.is_drained() {
            return;
        }
        if let Some(connected) = self.spec.source.open_now() {
            return self.handle_connected(connected, ctx);
        }
        self.server = ServerState::Connecting;
        let connecting = self.spec.source.clone().open().into_actor(self);
        ctx.spawn(connecting.map(|connected, supervisor, ctx| {
            if matches!(supervisor.server, ServerState::Connecting) {
                supervisor.handle_connected(connected, ctx);
            }
        }));
    }

    fn handle_connected(&mut self, connected: io::Result<Launched>, ctx: &mut Context<Self>) {
        match connected {
            Ok(launched) => self.begin_handshake(launched, ctx),
            Err(error) => {
                let why = self.spec.source.unreachable_text(&error);
                self.schedule_relaunch(why, ctx);
            }
        }
    }

    /// Closes the connections to all servers. The future resolves once the pool's own server has exited.
    pub(super) fn shut_down(&mut self) -> impl Future<Output = ()> + 'static {
        self.draining.clear();
        let connection = match std::mem::replace(&mut self.server, ServerState::Stopped) {
            ServerState::Starting(connection) | ServerState::Up(connection) => Some(connection),
            ServerState::Launched(launched) => ServerConnection::new(launched).ok(),
            ServerState::Connecting | ServerState::Down | ServerState::Stopped => None,
        };
        async move {
            let process = connection.and_then(ServerConnection::close);
            if let Some(Ok(pidfd)) = process.as_ref().map(ServerProcess::pidfd) {
                worker_process::wait_for_exit(pidfd, SHUTDOWN_TIMEOUT).await;
            }
            // Dropping the process reaps it.
            drop(process);
        }
    }
}
