//! The channel of the next worker, made in advance.
//!
//! It takes some twenty system calls, which would be on the path from no worker to its first reply. They are made when the
//! worker before it is on its way.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use actix::Context;

use super::Supervisor;
use super::servers::ServerState;
use crate::actors::telemetry::stdio::OutputPipes;
use crate::actors::threads::real_time::run_after;
use crate::actors::transport::HostChannel;
use crate::channel::{WorkerDoorbells, WorkerEnd, WorkerMemory};
use crate::config::Options;

/// How long after a request for workers the next channel is made: what the server and the worker report of the requested
/// one comes first.
const PREPARE_DELAY: Duration = Duration::from_millis(2);

/// A channel and output pipes that no worker has yet.
pub(super) struct PreparedChannel {
    pub(super) channel: HostChannel,
    pub(super) pipes: OutputPipes,
    end: WorkerEnd,
}

impl PreparedChannel {
    /// Creates the channel and the pipes.
    ///
    /// # Errors
    ///
    /// The error of the system call that failed; nothing is left behind.
    pub(super) fn new(options: &Options) -> io::Result<Self> {
        let (channel, end) = HostChannel::new(options)?;
        Ok(PreparedChannel { channel, pipes: OutputPipes::new()?, end })
    }

    /// Appends the worker's ends to the descriptors that are passed to the server, and returns the rest.
    pub(super) fn pass(self, all: &mut Vec<OwnedFd>) -> (HostChannel, OutputPipes) {
        let PreparedChannel { channel, mut pipes, end } = self;
        let WorkerMemory { channel: memory, results } = match end {
            WorkerEnd::Rings { doorbells: WorkerDoorbells { rx, tx }, memory } => {
                all.extend([rx, tx]);
                memory
            }
            WorkerEnd::Stream { socket, memory, .. } => {
                all.push(socket);
                memory
            }
        };
        all.push(memory);
        all.extend(results);
        all.extend(pipes.take_ends());
        (channel, pipes)
    }
}

impl Supervisor {
    /// Makes the next channel soon, if the pool may need another worker on this machine.
    pub(super) fn prepare_later(&mut self, ctx: &mut Context<Self>) {
        if self.prepared.is_some() || std::mem::replace(&mut self.prepares, true) {
            return;
        }
        run_after(ctx, PREPARE_DELAY, |supervisor, _| {
            supervisor.prepares = false;
            let is_local = matches!(&supervisor.server, ServerState::Up(server) if !server.is_remote());
            if is_local && supervisor.prepared.is_none() && supervisor.scheduler.is_open() {
                // Without it the channel is made when it is needed, and then a failure is reported.
                supervisor.prepared = PreparedChannel::new(&supervisor.scheduler.options).ok();
            }
        });
    }
}
