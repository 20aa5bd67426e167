//! The fork servers of a pool: the current one, which forks workers, and earlier ones that take no more work.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::fut::WrapFuture;
use actix::{ActorFutureExt, AsyncContext, Context};

use super::server_connection::ServerConnection;
use super::source::Launched;
use super::worker_process::ServerLost;
use super::{Registration, Supervisor};
use crate::actors::threads::real_time::{run_after, within};
use crate::actors::transport::blobs::BlobMemory;
use crate::actors::transport::watching;
use crate::clock::Instant;
use crate::failure::{Failure, FailureKind};
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

/// A server that ends within this time of being up has ended early (1 s).
const EARLY_END: Duration = Duration::from_secs(1);

/// Longest wait between two attempts to reach a standalone server while a call waits for it (100 ms).
const WAIT_WHILE_CALLED: Duration = Duration::from_millis(100);

/// Shortest wait between two such attempts (10 ms).
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// When a server was lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ServerLoss {
    /// After it had been up for a while.
    WasUp,
    /// Soon after its preload had succeeded.
    WasUpBriefly,
    /// Before that.
    BeforeUp,
}

impl ServerLoss {
    fn text(self) -> &'static str {
        match self {
            ServerLoss::WasUp | ServerLoss::WasUpBriefly => "the fork server was lost",
            ServerLoss::BeforeUp => "the fork server ended before it was ready",
        }
    }
}

/// A server that takes no more work and still has workers of this pool.
pub(super) struct DrainingServer {
    id: ServerId,
    connection: ServerConnection,
}

impl Supervisor {
    pub(super) fn begin_handshake(&mut self, launched: Launched, ctx: &mut Context<Self>) {
        match ServerConnection::new(launched) {
            Ok(mut connection) => {
                connection.queue_frame(self.spec.hello.clone());
                if let Some(no_answer_text) = self.spec.source.no_answer_text() {
                    self.scheduler.set_unanswered(no_answer_text);
                }
                self.server_pid = connection.pid();
                self.server = ServerState::Starting(connection);
                self.server_id += 1;
                let id = self.server_id;
                run_after(ctx, DIVERSION_PATIENCE, move |supervisor, _| supervisor.check_diverted(id));
                self.wake();
            }
            Err(error) => self.schedule_relaunch(error.to_string(), ctx),
        }
    }

    pub(super) fn mark_server_up(&mut self, ticket: Option<u128>, ctx: &mut Context<Self>) {
        if !matches!(self.server, ServerState::Starting(_)) {
            return;
        }
        let arena: io::Result<Vec<OwnedFd>> =
            self.scheduler.blobs.iter().map(BlobMemory::read_only_descriptor).collect();
        let arena = match arena {
            Ok(arena) => arena,
            Err(error) => {
                self.drop_server();
                return self.schedule_relaunch(error.to_string(), ctx);
            }
        };
        self.scheduler.set_outage(None);
        if let ServerState::Starting(mut connection) = std::mem::replace(&mut self.server, ServerState::Down)
        {
            connection.set_ticket(ticket);
            if !arena.is_empty() {
                // The server accepts descriptors from now on. It reads this before the first request for a worker.
                connection.send(&ToServer::Arena, arena);
            }
            let (pool, server) = (self.scheduler.options.name.clone(), connection.pid());
            self.server = ServerState::Up(connection);
            self.up_since = Some(Instant::now());
            self.scheduler.set_server_pid(server);
            self.scheduler.tallies.count_server_start();
            self.request_adoptions();
            self.request_workers();
            self.scheduler.teller.tell(move || {
                tracing::debug!(target: "forkpool", %pool, server, "fork server is up");
            });
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
            self.was_undiverted = false;
            self.scheduler.set_outage(None);
        }
    }

    /// Asks the current server to adopt workers whose own server is gone. It kills them if this application exits.
    fn request_adoptions(&mut self) {
        if !matches!(self.server, ServerState::Up(_)) {
            return;
        }
        self.registry.retain(|_, registration| registration.is_alive());
        let orphans = self.registry.iter().filter(|(_, registration)| registration.is_orphan());
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
                let proof = registration.adopt(self.server_id);
                connection.send(&ToServer::Adopt { number, proof }, vec![pidfd]);
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

    /// Returns the connections to the current server and the draining ones.
    pub(super) fn connections(&mut self) -> impl Iterator<Item = (ServerId, &mut ServerConnection)> {
        let current = self.server.connection().map(|connection| (self.server_id, connection));
        let draining = self.draining.iter_mut().map(|draining| (draining.id, &mut draining.connection));
        current.into_iter().chain(draining)
    }

    /// Writes queued messages and reads the next message of any server. The message is `None` if that server's channel
    /// has ended.
    pub(super) fn poll_servers(
        &mut self,
        task: &mut TaskContext<'_>,
    ) -> Option<(ServerId, Option<FromServer>)> {
        for (id, connection) in self.connections() {
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
        let pool = self.scheduler.options.name.clone();
        self.scheduler.teller.tell(move || {
            tracing::info!(target: "forkpool", %pool, succeeded, "the fork server takes no more work");
        });
    }

    /// Closes the connections to draining servers that have no worker of this pool any more.
    pub(super) fn drop_unused_servers(&mut self) {
        let registry = &self.registry;
        let is_alive = |registration: &&Registration| registration.is_alive();
        let has_workers =
            |id| registry.values().filter(is_alive).any(|registration| registration.belongs_to(id));
        self.draining.retain(|draining| has_workers(draining.id));
    }

    /// Handles the end of a server's channel: reassigns its unconfirmed workers, has its other workers watched, and
    /// replaces the server if it is the current one.
    pub(super) fn handle_server_lost(&mut self, id: ServerId, ctx: &mut Context<Self>) {
        self.registry.retain(|_, registration| registration.is_alive());
        let pid = self.connection_of(id).and_then(|connection| connection.pid());
        let loss = (id == self.server_id).then(|| self.drop_server());
        let unconfirmed = self.reassign_unconfirmed(id);
        self.reap_strays(&unconfirmed, pid, ctx);
        // Orphans stay in the registry, so that they can be retired.
        let mut orphans = Vec::new();
        for (&number, registration) in &mut self.registry {
            if let Some(process) = registration.orphan(id) {
                process.do_send(ServerLost);
                orphans.push(number);
            }
        }
        if self.spec.source.is_remote() {
            // Their exits would not be reported, so they are retired as soon as no checkout holds them.
            self.scheduler.mark_outdated(&orphans, false);
        }
        if let Some(at) = self.draining.iter().position(|draining| draining.id == id) {
            let DrainingServer { connection, .. } = self.draining.swap_remove(at);
            if connection.is_silent() {
                self.keep_silent(id, connection);
            }
        }
        self.retire_workers();
        let Some(loss) = loss else {
            // The current server adopts what the lost one had forked or adopted.
            return self.request_adoptions();
        };
        let why = self.last_error.take().unwrap_or_else(|| loss.text().to_owned());
        if std::mem::take(&mut self.is_foreign) {
            // The next attempt will hardly be better, so a call does not wait for it.
            let failure = Failure::of(FailureKind::NoServer, "").with_chain(std::slice::from_ref(&why));
            self.scheduler.fail_first_call(failure.in_pool(&self.scheduler.options.name));
        }
        let is_first_early_end = loss == ServerLoss::WasUpBriefly && self.streak == 0;
        if loss == ServerLoss::WasUp {
            self.streak = 0;
        }
        match loss {
            // A fork request may have killed it, so the next server is not started at once.
            _ if !unconfirmed.is_empty() => self.schedule_relaunch(why, ctx),
            ServerLoss::WasUp => {
                self.scheduler.set_outage(Some(why));
                self.relaunch(ctx);
            }
            ServerLoss::WasUpBriefly if is_first_early_end => {
                self.streak = 1;
                self.scheduler.set_outage(Some(why));
                self.relaunch(ctx);
            }
            ServerLoss::WasUpBriefly | ServerLoss::BeforeUp => self.schedule_relaunch(why, ctx),
        }
    }

    /// Closes the connection to the current server, kills its process if it is a child of this one, and returns when
    /// the server was lost.
    fn drop_server(&mut self) -> ServerLoss {
        // Once the process is reaped, its pid may become that of another one.
        self.scheduler.set_server_pid(None);
        let previous = std::mem::replace(&mut self.server, ServerState::Down);
        let loss = match (&previous, self.up_since) {
            (ServerState::Up(_), Some(since)) if since.elapsed() >= EARLY_END => ServerLoss::WasUp,
            (ServerState::Up(_), _) => ServerLoss::WasUpBriefly,
            _ => ServerLoss::BeforeUp,
        };
        if let ServerState::Starting(mut connection) | ServerState::Up(mut connection) = previous {
            // A reason that the server itself gave is more precise.
            if self.last_error.is_none()
                && let Some((why, is_foreign)) = connection.not_diverted()
            {
                self.last_error = Some(why);
                // Once it may be an error that passes: what the server wrote or read was lost.
                self.is_foreign = is_foreign && self.was_undiverted;
                self.was_undiverted = is_foreign;
            }
            // A program that is no server writes what is no message.
            self.last_error = self.last_error.take().or_else(|| connection.take_error());
            if self.last_error.is_none()
                && let Some(status) = connection.exit_status()
            {
                self.last_error = Some(format!("{} ({status})", loss.text()));
            }
            match connection.is_silent() {
                true => self.keep_silent(self.server_id, connection),
                false => connection.close().iter_mut().for_each(ServerProcess::kill),
            }
        }
        self.stats_requests.clear();
        loss
    }

    /// Records why there is no server, and schedules the next attempt with exponential backoff.
    fn schedule_relaunch(&mut self, why: String, ctx: &mut Context<Self>) {
        self.streak = self.streak.saturating_add(1);
        let wait = self.scheduler.options.restart.wait(self.streak, self.scheduler.jitter());
        let pool = self.scheduler.options.name.clone();
        self.scheduler.report_outage(why.clone());
        self.server = ServerState::Down;
        // A standalone server may be back at any time, and connecting to it costs little.
        let is_called = !self.spec.source.is_own() && self.scheduler.has_waiting_calls();
        let wait = if is_called { wait.min(WAIT_WHILE_CALLED) } else { wait };
        self.retry_from = Instant::now() + SHORTEST_WAIT;
        self.relaunch_later(wait, ctx);
        self.scheduler.teller.tell(move || {
            tracing::warn!(target: "forkpool", %pool, why, ?wait, "no fork server");
        });
    }

    fn relaunch_later(&mut self, wait: Duration, ctx: &mut Context<Self>) {
        if let Some(scheduled) = self.relaunch_timer.take() {
            ctx.cancel_future(scheduled);
        }
        self.relaunch_timer = Some(run_after(ctx, wait, |supervisor, ctx| supervisor.relaunch(ctx)));
    }

    /// Connects to the standalone server now if the next attempt is scheduled for later.
    pub(super) fn reconnect(&mut self, ctx: &mut Context<Self>) {
        if matches!(self.server, ServerState::Down) && !self.spec.source.is_own() {
            // Many calls together cause one attempt.
            self.relaunch_later(self.retry_from.saturating_duration_since(Instant::now()), ctx);
        }
    }

    pub(super) fn relaunch(&mut self, ctx: &mut Context<Self>) {
        if !matches!(self.server, ServerState::Down) || self.scheduler.needs_no_server() {
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
        self.prepared = None;
        self.silent.clear();
        let connection = match std::mem::replace(&mut self.server, ServerState::Stopped) {
            ServerState::Starting(connection) | ServerState::Up(connection) => Some(connection),
            ServerState::Launched(launched) => ServerConnection::new(launched).ok(),
            ServerState::Connecting | ServerState::Down | ServerState::Stopped => None,
        };
        async move {
            let process = connection.and_then(ServerConnection::close);
            if let Some(Ok(pidfd)) = process.as_ref().map(ServerProcess::pidfd) {
                // Whatever comes of it, dropping the process waits once more.
                let exited = watching::exited(Arc::new(pidfd));
                let _ = within(SHUTDOWN_TIMEOUT, exited).await;
            }
            // Dropping the process reaps it.
            drop(process);
        }
    }
}
