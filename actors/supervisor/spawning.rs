//! Requests forks from the server, and retires workers once their replacements are confirmed.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use actix::Actor;

use super::prepared::PreparedChannel;
use super::servers::{ServerId, ServerState};
use super::source::Remote;
use super::worker_process::{RetireWorker, SpawnCancelled, WorkerProcess};
use super::{Registration, Stage, Supervisor};
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::telemetry::stdio::OutputPipe;
use crate::actors::transport::HostChannel;
use crate::config::Transport;
use crate::wire::control::{MAX_FORKS_PER_MESSAGE, ToServer};

/// How many requests a server may have that it has not confirmed.
///
/// A request passes up to six descriptors, and the kernel limits how many a user's processes have in flight: to the
/// sender's `RLIMIT_NOFILE`, see unix(7), `ETOOMANYREFS`.
const MAX_UNCONFIRMED: usize = 16;

impl Supervisor {
    /// Counts down the spawn delay and requests the delayed workers when it is over. Returns whether it is to be called
    /// again in the next turn of the event loop.
    pub(super) fn poll_delayed_spawns(&mut self) -> bool {
        let Some(turns) = self.spawn_delay else {
            return false;
        };
        self.spawn_delay = turns.checked_sub(1);
        if self.spawn_delay.is_none() {
            let delayed = self.registry.values_mut().filter(|worker| matches!(worker.stage, Stage::Delayed));
            delayed.for_each(|worker| worker.stage = Stage::Unrequested);
            self.request_workers();
            // Without a server nothing is on its way any more. A server that drains waits for those that retire.
            self.retire_workers();
        }
        true
    }

    /// Requests workers from the current server, if it is up and as far as it has confirmed the requests before.
    pub(super) fn request_workers(&mut self) {
        let ServerState::Up(connection) = &self.server else {
            return;
        };
        let (id, is_remote) = (self.server_id, connection.is_remote());
        let unconfirmed = self.registry.values().filter(|worker| worker.awaits(id)).count();
        let unrequested =
            self.registry.iter().filter(|(_, worker)| matches!(worker.stage, Stage::Unrequested));
        let due: Vec<u64> = unrequested
            .map(|(number, _)| *number)
            .take(MAX_UNCONFIRMED.saturating_sub(unconfirmed))
            .collect();
        match is_remote {
            true => due.iter().for_each(|&number| self.spawn_remote(number)),
            false if due.is_empty() => {}
            false => due.chunks(MAX_FORKS_PER_MESSAGE).for_each(|numbers| self.spawn_local(numbers)),
        }
    }

    fn spawn_remote(&mut self, number: u64) {
        let server = self.server.connection().and_then(|connection| connection.remote());
        match server.map(|server| self.attach(number, server)) {
            // It stays unrequested: the server's welcome, which contains the ticket, has not arrived.
            None => {}
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
            let results = self.scheduler.options.blob_memory > 0;
            let numbers = requested.iter().map(|(number, ..)| *number).collect();
            connection.send(&ToServer::Fork { numbers, rings, results }, all);
        }
        requested.into_iter().for_each(|(number, channel, output)| self.register(number, channel, output));
    }

    /// Takes the prepared channel of the next worker, or creates one, and appends the worker's ends to `all`.
    fn make_channel(
        &mut self,
        number: u64,
        all: &mut Vec<OwnedFd>,
    ) -> io::Result<(HostChannel, Arc<OutputPipe>)> {
        let options = &self.scheduler.options;
        let prepared = self.prepared.take().map_or_else(|| PreparedChannel::new(options), Ok)?;
        let status_page = prepared.channel.status_page().ok_or(io::ErrorKind::Unsupported)?;
        let (channel, pipes) = prepared.pass(all);
        let teller = self.scheduler.teller.clone();
        let output = OutputPipe::new(&options.name, teller, number, (pipes, status_page), self.spec.name_of);
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
        Ok((
            channel,
            OutputPipe::remote(&options.name, self.scheduler.teller.clone(), number, self.spec.name_of),
        ))
    }

    /// Starts the proxy of a requested worker.
    fn register(&mut self, number: u64, channel: HostChannel, output: Arc<OutputPipe>) {
        let (scheduler, supervisor) = (self.scheduler.clone(), self.own_address.clone());
        let fingerprint = self.spec.fingerprint;
        let process = WorkerProcess::new(scheduler, supervisor, number, fingerprint, channel, output);
        if let Some(registration) = self.registry.get_mut(&number) {
            registration.stage = Stage::Requested { process: process.start(), server: self.server_id };
        }
    }

    /// Takes back the requests for workers that this server has not confirmed. They are requested from the next one, and no
    /// worker that retires waits for them. Returns their numbers.
    pub(super) fn reassign_unconfirmed(&mut self, server: ServerId) -> Vec<u64> {
        let mut numbers = Vec::new();
        for (&number, registration) in self.registry.iter_mut().filter(|(_, worker)| worker.awaits(server)) {
            numbers.push(number);
            let stage = std::mem::replace(&mut registration.stage, Stage::Unrequested);
            if let Stage::Requested { process, .. } = stage {
                process.do_send(SpawnCancelled);
            }
        }
        self.retire_workers();
        numbers
    }

    /// Retires the workers that are due, unless a requested replacement in an open pool is not confirmed yet. One that is
    /// killed waits for none.
    pub(super) fn retire_workers(&mut self) {
        let mut retiring = self.registry.values().filter(|worker| worker.retiring.is_some()).peekable();
        if retiring.peek().is_none() {
            return;
        }
        let awaits_replacement =
            self.registry.values().any(Registration::is_on_its_way) && self.scheduler.is_open();
        let is_due = |(reason, _): &mut _| !awaits_replacement || *reason == RetireReason::Killed;
        let mut never_requested = Vec::new();
        for (&number, registration) in &mut self.registry {
            let Some((reason, channel)) = registration.retiring.take_if(is_due) else { continue };
            drop(channel);
            match registration.process() {
                Some(process) => process.do_send(RetireWorker(reason)),
                None => never_requested.push(number),
            }
        }
        for number in never_requested {
            self.registry.remove(&number);
            self.scheduler.report_exit(number, ExitReport::Unknown);
        }
    }
}
