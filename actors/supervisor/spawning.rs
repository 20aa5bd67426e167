//! Requests forks from the server, and retires workers once their replacements are confirmed.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use actix::Actor;

use super::messages::RetiringWorker;
use super::servers::ServerId;
use super::source::Remote;
use super::worker_process::{RetireWorker, SpawnCancelled, WorkerProcess};
use super::{Registration, Supervisor};
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::telemetry::stdio::{OutputPipe, WorkerOutputs};
use crate::actors::transport::HostChannel;
use crate::channel::{WorkerDoorbells, WorkerEnd};
use crate::config::Transport;
use crate::wire::control::{MAX_FORKS_PER_MESSAGE, ToServer};

impl Supervisor {
    /// Counts down the spawn delay and requests the delayed workers when it is over. Returns whether it is to be called
    /// again in the next turn of the event loop.
    pub(super) fn poll_delayed_spawns(&mut self) -> bool {
        if self.delayed_spawns.is_empty() {
            return false;
        }
        match self.spawn_delay.checked_sub(1) {
            Some(fewer) => self.spawn_delay = fewer,
            None => {
                let numbers = std::mem::take(&mut self.delayed_spawns);
                self.spawn(&numbers);
            }
        }
        true
    }

    /// Requests these workers from the current server, or keeps them until there is one.
    pub(super) fn spawn(&mut self, numbers: &[u64]) {
        let is_remote = self.server.connection().map(|connection| connection.is_remote());
        match is_remote {
            None => self.pending_spawns.extend_from_slice(numbers),
            Some(true) => numbers.iter().for_each(|&number| self.spawn_remote(number)),
            Some(false) => {
                numbers.chunks(MAX_FORKS_PER_MESSAGE).for_each(|numbers| self.spawn_local(numbers))
            }
        }
    }

    fn spawn_remote(&mut self, number: u64) {
        // A server over a network can be asked for workers only after its welcome, which contains the ticket.
        match self
            .server
            .connection()
            .and_then(|connection| connection.remote())
            .map(|server| self.attach(number, server))
        {
            None => self.pending_spawns.push(number),
            Some(Ok((channel, output))) => self.register(number, channel, output),
            Some(Err(error)) => self.report_fork_failure(number, &error.to_string()),
        }
    }

    /// Requests workers on this machine in one message, which passes the workers' ends of their channels and outputs.
    fn spawn_local(&mut self, numbers: &[u64]) {
        let (mut requested, mut all) = (Vec::new(), Vec::new());
        for &number in numbers {
            match self.make_channel(number, &mut all) {
                Ok((channel, output)) => requested.push((number, channel, output)),
                Err(error) => self.report_fork_failure(number, &error.to_string()),
            }
        }
        if let Some(connection) = self.server.connection().filter(|_| !requested.is_empty()) {
            let rings = self.scheduler.options.transport == Transport::SharedMemory;
            let numbers = requested.iter().map(|(number, ..)| *number).collect();
            connection.send(&ToServer::Fork { numbers, rings }, all);
        }
        requested.into_iter().for_each(|(number, channel, output)| self.register(number, channel, output));
    }

    /// Creates a worker's channel and output pipes, and appends the worker's ends to `all`.
    fn make_channel(
        &self,
        number: u64,
        all: &mut Vec<OwnedFd>,
    ) -> io::Result<(HostChannel, Arc<OutputPipe>)> {
        let options = &self.scheduler.options;
        let (channel, end) = HostChannel::new(options)?;
        let status_page = channel.status_page().ok_or(io::ErrorKind::Unsupported)?;
        let (output, outputs) = OutputPipe::new(&options.name, number, status_page, self.spec.name_of)?;
        match end {
            WorkerEnd::Rings { doorbells: WorkerDoorbells { rx, tx }, memory } => {
                all.extend([rx, tx, memory]);
            }
            WorkerEnd::Stream { socket, memory, .. } => all.extend([socket, memory]),
        }
        let WorkerOutputs { stdout, stderr } = outputs;
        all.extend([stdout, stderr]);
        Ok((channel, output))
    }

    /// Requests a worker on another machine through a new connection, which becomes the worker's channel.
    fn attach(
        &self,
        number: u64,
        (server, ticket): (Remote, u128),
    ) -> io::Result<(HostChannel, Arc<OutputPipe>)> {
        let options = &self.scheduler.options;
        let request = ToServer::Attach { ticket, number };
        let channel = HostChannel::over(server.connect()?, &request, options.max_payload)?;
        Ok((channel, OutputPipe::remote(&options.name, number, self.spec.name_of)))
    }

    /// Starts the proxy of a requested worker.
    fn register(&mut self, number: u64, channel: HostChannel, output: Arc<OutputPipe>) {
        self.unconfirmed.insert(number);
        let fingerprint = self.spec.fingerprint;
        let process = WorkerProcess::new(self.scheduler.clone(), number, fingerprint, channel, output);
        let registration =
            Registration { process: process.start(), server: Some(self.server_id), adopted_by: None };
        self.registry.insert(number, registration);
    }

    /// Requests the workers from the current server that were requested from this one and will not be forked by it.
    /// Returns whether there were any.
    pub(super) fn reassign_unconfirmed(&mut self, server: ServerId) -> bool {
        let requested = self.registry.iter().filter(|(number, registration)| {
            registration.server == Some(server) && self.unconfirmed.contains(number)
        });
        let mut requested: Vec<u64> = requested.map(|(number, _)| *number).collect();
        requested.sort_unstable();
        for &number in &requested {
            self.unconfirmed.remove(&number);
            if let Some(registration) = self.registry.remove(&number) {
                registration.process.do_send(SpawnCancelled);
            }
        }
        self.spawn(&requested);
        !requested.is_empty()
    }

    /// Retires the workers that are due, unless a requested replacement in an open pool is not confirmed yet.
    pub(super) fn retire_workers(&mut self) {
        let awaits_replacement = !(self.delayed_spawns.is_empty() && self.unconfirmed.is_empty());
        if awaits_replacement && self.scheduler.is_open() {
            return;
        }
        for RetiringWorker { worker, reason, channel } in std::mem::take(&mut self.retiring) {
            drop(channel);
            if self.cancel_spawn(worker) {
                self.scheduler.report_exit(worker, ExitReport::Unknown);
            } else if let Some(registration) = self.registry.get(&worker) {
                registration.process.do_send(RetireWorker(reason));
            }
        }
    }

    /// Cancels the request for a worker that was not sent to a server yet. Returns `false` if there is no such request.
    fn cancel_spawn(&mut self, worker: u64) -> bool {
        let before = self.delayed_spawns.len() + self.pending_spawns.len();
        self.delayed_spawns.retain(|&number| number != worker);
        self.pending_spawns.retain(|&number| number != worker);
        self.delayed_spawns.len() + self.pending_spawns.len() < before
    }
}
