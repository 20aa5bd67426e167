//! Having workers forked, and letting those go that are replaced.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use actix::Actor;

use super::messages::Leaving;
use super::servers::ServerId;
use super::source::Remote;
use super::worker_process::{RetireWorker, SpawnCancelled, WorkerProcess};
use super::{Registration, Supervisor};
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::telemetry::stdio::{OutputPipe, WorkerOutputs};
use crate::actors::transport::HostChannel;
use crate::channel::{WorkerDoorbells, WorkerEnd};
use crate::config::Transport;
use crate::wire::control::{MOST_AT_ONCE, ToServer};

impl Supervisor {
    /// Has those forked that are wanted, a few turns after they were; whether there is more to do.
    pub(super) fn hire_wanted(&mut self) -> bool {
        if self.wanted.is_empty() {
            return false;
        }
        match self.turns_to_wait.checked_sub(1) {
            Some(fewer) => self.turns_to_wait = fewer,
            None => {
                let wanted = std::mem::take(&mut self.wanted);
                self.spawn(&wanted);
            }
        }
        true
    }

    /// Has these workers forked.
    pub(super) fn spawn(&mut self, numbers: &[u64]) {
        let is_remote = self.server.connection().map(|connection| connection.is_remote());
        match is_remote {
            None => self.unspawned.extend_from_slice(numbers),
            Some(true) => numbers.iter().for_each(|&number| self.hire_remote(number)),
            Some(false) => numbers.chunks(MOST_AT_ONCE).for_each(|numbers| self.hire_together(numbers)),
        }
    }

    fn hire_remote(&mut self, number: u64) {
        // Before it has said how we are called nothing can be asked of a server over a network.
        match self
            .server
            .connection()
            .and_then(|connection| connection.remote())
            .map(|server| self.attach(number, server))
        {
            None => self.unspawned.push(number),
            Some(Ok((channel, output))) => self.registration(number, channel, output),
            Some(Err(error)) => self.not_forked(number, &error.to_string()),
        }
    }

    /// Asks for workers on this machine in one message, to which the ends of their channels and outputs are passed.
    fn hire_together(&mut self, numbers: &[u64]) {
        let (mut asked, mut all) = (Vec::new(), Vec::new());
        for &number in numbers {
            match self.make_ends(number, &mut all) {
                Ok((channel, output)) => asked.push((number, channel, output)),
                Err(error) => self.not_forked(number, &error.to_string()),
            }
        }
        if let Some(connection) = self.server.connection().filter(|_| !asked.is_empty()) {
            let rings = self.scheduler.options.transport == Transport::SharedMemory;
            let numbers = asked.iter().map(|(number, ..)| *number).collect();
            connection.say(&ToServer::Fork { numbers, rings }, all);
        }
        asked.into_iter().for_each(|(number, channel, output)| self.registration(number, channel, output));
    }

    /// Makes the ends of a worker's channel and outputs, and puts those that are the worker's behind the others.
    fn make_ends(&self, number: u64, all: &mut Vec<OwnedFd>) -> io::Result<(HostChannel, Arc<OutputPipe>)> {
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

    /// Asks for a worker on another machine, by the connection that is to be its channel.
    fn attach(
        &self,
        number: u64,
        (server, ticket): (Remote, u128),
    ) -> io::Result<(HostChannel, Arc<OutputPipe>)> {
        let options = &self.scheduler.options;
        let request = ToServer::Attach { ticket, number };
        let channel = HostChannel::over(server.connect()?, &request, options.max_payload)?;
        Ok((channel, OutputPipe::told(&options.name, number, self.spec.name_of)))
    }

    fn registration(&mut self, number: u64, channel: HostChannel, output: Arc<OutputPipe>) {
        self.unconfirmed.insert(number);
        let fingerprint = self.spec.fingerprint;
        let process = WorkerProcess::new(self.scheduler.clone(), number, fingerprint, channel, output);
        let registration =
            Registration { process: process.start(), server: Some(self.server_id), guardian: None };
        self.registry.insert(number, registration);
    }

    /// This server was asked for workers that it will not make any more: another is asked. Whether there were any.
    pub(super) fn withdraw_from(&mut self, server: ServerId) -> bool {
        let asked = self.registry.iter().filter(|(number, registration)| {
            registration.server == Some(server) && self.unconfirmed.contains(number)
        });
        let mut asked: Vec<u64> = asked.map(|(number, _)| *number).collect();
        asked.sort_unstable();
        for &number in &asked {
            self.unconfirmed.remove(&number);
            if let Some(registration) = self.registry.remove(&number) {
                registration.process.do_send(SpawnCancelled);
            }
        }
        self.spawn(&asked);
        !asked.is_empty()
    }

    /// Tells those that are to end to do so, unless one that was asked for in their place is still to come.
    pub(super) fn let_go(&mut self) {
        let is_awaited = !(self.wanted.is_empty() && self.unconfirmed.is_empty());
        if is_awaited && self.scheduler.is_open() {
            return;
        }
        for Leaving { worker, reason, channel } in std::mem::take(&mut self.leaving) {
            drop(channel);
            if self.will_not_be_hired(worker) {
                self.scheduler.ended(worker, ExitReport::Unseen);
            } else if let Some(registration) = self.registry.get(&worker) {
                registration.process.do_send(RetireWorker(reason));
            }
        }
    }

    /// Strikes off a worker that the server was not asked for yet; whether it was one.
    fn will_not_be_hired(&mut self, worker: u64) -> bool {
        let before = self.wanted.len() + self.unspawned.len();
        self.wanted.retain(|&wanted| wanted != worker);
        self.unspawned.retain(|&unspawned| unspawned != worker);
        self.wanted.len() + self.unspawned.len() < before
    }
}
