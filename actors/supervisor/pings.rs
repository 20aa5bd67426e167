//! Pings to servers at ports, and what becomes of a server that does not answer them.
//!
//! The kernel reports the end of a process on this machine. Of a machine or a network that is gone it reports nothing, so
//! the pool asks. A server that is frozen looks the same and may go on later, so its connection is kept for as long as
//! its workers are in use: closing it would have the server kill them.

use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use actix::Context;

use super::server_connection::ServerConnection;
use super::servers::ServerId;
use super::worker_process::{WorkerExited, WorkerPrinted};
use super::{Registration, Supervisor};
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::threads::real_time::LazyTimer;
use crate::clock::Instant;
use crate::silence::{Look, Silence};
use crate::wire::control::FromServer;

/// The pings on one control connection.
pub(super) struct Pings {
    silence: Silence,
    timer: LazyTimer,
    /// Whether nothing has arrived since the last ping. No further one is sent until then.
    is_unanswered: bool,
    /// Whether the server was silent for too long.
    has_died: bool,
}

impl Pings {
    pub(super) fn new(dead_after: Duration) -> Self {
        Pings {
            silence: Silence::new(dead_after, Instant::now()),
            timer: LazyTimer::default(),
            is_unanswered: false,
            has_died: false,
        }
    }

    /// Notes that something of the server has arrived.
    pub(super) fn note_received(&mut self) {
        self.silence.end();
        self.is_unanswered = false;
    }

    /// Returns whether the server was silent for too long, now or before.
    pub(super) fn has_died(&self) -> bool {
        self.has_died
    }

    /// Notes that a ping is to be sent. Returns whether it is: not while the one before is unanswered.
    pub(super) fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.is_unanswered, true)
    }

    /// Ready when it is time for a ping, or the server has been silent for too long. What has arrived was read before.
    pub(super) fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Look> {
        loop {
            let now = Instant::now();
            match self.silence.look(now) {
                Look::Early(wait) => {
                    if now.checked_add(wait).is_none_or(|due| !self.timer.poll(due, cx)) {
                        return Poll::Pending;
                    }
                }
                look => {
                    self.has_died |= look == Look::Dead;
                    return Poll::Ready(look);
                }
            }
        }
    }
}

/// A server that was taken for dead and has workers that are in use.
pub(super) struct SilentServer {
    id: ServerId,
    connection: ServerConnection,
    workers: Vec<u64>,
}

impl Supervisor {
    /// Sends the pings that are due. Returns a server that has been silent for too long.
    pub(super) fn poll_pings(&mut self, task: &mut TaskContext<'_>) -> Option<ServerId> {
        self.connections().find_map(|(id, connection)| connection.poll_pings(task).is_ready().then_some(id))
    }

    /// Treats a server that has been silent for too long as lost.
    pub(super) fn handle_silence(&mut self, id: ServerId, ctx: &mut Context<Self>) {
        if id == self.server_id {
            self.last_error = self.spec.source.silent_text();
        }
        let forked = self.registry.iter().filter(|(_, registration)| registration.is_forked_by(id));
        let workers: Vec<u64> = forked.map(|(number, _)| *number).collect();
        self.handle_server_lost(id, ctx);
        if let Some(server) = self.silent.iter_mut().find(|server| server.id == id) {
            server.workers = workers;
        }
        self.wake();
    }

    /// Keeps the connection to a server that was taken for dead; [`poll_silent`](Self::poll_silent) closes it.
    pub(super) fn keep_silent(&mut self, id: ServerId, connection: ServerConnection) {
        self.silent.push(SilentServer { id, connection, workers: Vec::new() });
    }

    /// Exchanges messages with the servers that were taken for dead, and closes the connections to those that have ended
    /// or have no worker in use any more.
    pub(super) fn poll_silent(&mut self, task: &mut TaskContext<'_>) {
        let mut silent = std::mem::take(&mut self.silent);
        silent.retain_mut(|SilentServer { connection, workers, .. }| {
            workers.retain(|worker| self.registry.get(worker).is_some_and(Registration::is_orphan_in_use));
            if workers.is_empty() {
                return false;
            }
            while connection.poll_pings(task).is_ready() {}
            let _ = connection.poll_flush(task);
            while let Poll::Ready(message) = connection.poll_next(task) {
                match message {
                    Some(message) => self.handle_late_message(message, workers),
                    None => return false,
                }
            }
            true
        });
        self.silent = silent;
    }

    /// Handles a message of a server that was taken for dead. What it says about other workers is outdated: their numbers
    /// may be those of another server's workers by now.
    fn handle_late_message(&mut self, message: FromServer, workers: &[u64]) {
        match message {
            FromServer::Ended(ended) if workers.contains(&ended.number) => {
                let process = self.registry.remove(&ended.number).and_then(Registration::into_process);
                if let Some(process) = process {
                    process.do_send(WorkerExited(ExitReport::Known(ended)));
                }
            }
            FromServer::Printed { number, stderr, bytes } if workers.contains(&number) => {
                if let Some(process) = self.process(number) {
                    process.do_send(WorkerPrinted { stderr, bytes });
                }
            }
            _ => {}
        }
    }

    /// Returns the connection to the server that has forked this worker, if it was taken for dead.
    pub(super) fn silent_server_of(&mut self, worker: u64) -> Option<&mut ServerConnection> {
        let server = self.silent.iter_mut().find(|server| server.workers.contains(&worker))?;
        Some(&mut server.connection)
    }
}

impl ServerConnection {
    /// Sends a ping if one is due and the server has sent its welcome. Ready if the server has been silent for too long.
    fn poll_pings(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        while let Some(pings) = &mut self.pings {
            if ready!(pings.poll(cx)) == Look::Dead {
                return Poll::Ready(());
            }
            self.ping();
            // What is not written at once is written in the next turn.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
