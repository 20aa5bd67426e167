//! Having workers forked, and letting those go that are replaced.

use std::io;
use std::sync::Arc;

use actix::Actor;

use super::requests::Leaving;
use super::servers::ServerId;
use super::{Post, Supervisor};
use crate::actors::claim::Obituary;
use crate::actors::host_channel::HostChannel;
use crate::actors::output::{Output, Outputs};
use crate::actors::server_link::Remote;
use crate::actors::worker_process::{Leave, Withdrawn, WorkerProcess};
use crate::channel::{WorkerBells, WorkerEnd};
use crate::wire::control::ToServer;

impl Supervisor {
    /// Has those forked that are wanted, a few turns after they were; whether there is more to do.
    pub(super) fn hire_wanted(&mut self) -> bool {
        if self.wanted.is_empty() {
            return false;
        }
        match self.turns_to_wait.checked_sub(1) {
            Some(fewer) => self.turns_to_wait = fewer,
            None => std::mem::take(&mut self.wanted).into_iter().for_each(|number| self.hire(number)),
        }
        true
    }

    /// Has one worker forked.
    pub(super) fn hire(&mut self, number: u64) {
        let asked = match self.server.link() {
            // Before it has said how we are called nothing can be asked of a server over a network.
            Some(link) if link.is_remote() => link.remote().map(|server| self.attach(number, server)),
            Some(_) => Some(self.ask_for(number)),
            None => None,
        };
        match asked {
            None => self.unborn.push(number),
            Some(Ok((channel, output))) => self.post(number, channel, output),
            Some(Err(error)) => self.not_forked(number, &error.to_string()),
        }
    }

    /// Asks for a worker on this machine, to which the ends of its channel and outputs are passed.
    fn ask_for(&mut self, number: u64) -> io::Result<(HostChannel, Arc<Output>)> {
        let options = &self.desk.options;
        let (channel, end) = HostChannel::new(options)?;
        let notes = channel.notes().ok_or(io::ErrorKind::Unsupported)?;
        let (output, outputs) = Output::new(&options.name, number, notes, self.recipe.name_of)?;
        let (rings, mut passed) = match end {
            WorkerEnd::Rings { bells: WorkerBells { ear, hammer }, memory } => {
                (true, vec![ear, hammer, memory])
            }
            WorkerEnd::Stream { socket, memory, .. } => (false, vec![socket, memory]),
        };
        let Outputs { stdout, stderr } = outputs;
        passed.extend([stdout, stderr]);
        if let Some(link) = self.server.link() {
            link.say(&ToServer::Fork { number, rings }, passed);
        }
        Ok((channel, output))
    }

    /// Asks for a worker on another machine, by the connection that is to be its channel.
    fn attach(
        &self,
        number: u64,
        (server, ticket): (Remote, u128),
    ) -> io::Result<(HostChannel, Arc<Output>)> {
        let options = &self.desk.options;
        let request = ToServer::Attach { ticket, number };
        let channel = HostChannel::over(server.connect()?, &request, options.max_payload)?;
        Ok((channel, Output::told(&options.name, number, self.recipe.name_of)))
    }

    fn post(&mut self, number: u64, channel: HostChannel, output: Arc<Output>) {
        self.unconfirmed.insert(number);
        let fingerprint = self.recipe.fingerprint;
        let process = WorkerProcess::new(self.desk.clone(), number, fingerprint, channel, output);
        let post = Post { process: process.start(), server: Some(self.server_id), guardian: None };
        self.registry.insert(number, post);
    }

    /// This server was asked for workers that it will not make any more: another is asked. Whether there were any.
    pub(super) fn withdraw_from(&mut self, server: ServerId) -> bool {
        let asked = self
            .registry
            .iter()
            .filter(|(number, post)| post.server == Some(server) && self.unconfirmed.contains(number));
        let mut asked: Vec<u64> = asked.map(|(number, _)| *number).collect();
        asked.sort_unstable();
        for &number in &asked {
            self.unconfirmed.remove(&number);
            if let Some(post) = self.registry.remove(&number) {
                post.process.do_send(Withdrawn);
            }
            self.hire(number);
        }
        !asked.is_empty()
    }

    /// Tells those that are to end to do so, unless one that was asked for in their place is still to come.
    pub(super) fn let_go(&mut self) {
        let is_awaited = !(self.wanted.is_empty() && self.unconfirmed.is_empty());
        if is_awaited && self.desk.is_open() {
            return;
        }
        for Leaving { worker, reason, channel } in std::mem::take(&mut self.leaving) {
            drop(channel);
            if self.will_not_be_hired(worker) {
                self.desk.ended(worker, Obituary::Unseen);
            } else if let Some(post) = self.registry.get(&worker) {
                post.process.do_send(Leave(reason));
            }
        }
    }

    /// Strikes off a worker that the server was not asked for yet; whether it was one.
    fn will_not_be_hired(&mut self, worker: u64) -> bool {
        let before = self.wanted.len() + self.unborn.len();
        self.wanted.retain(|&wanted| wanted != worker);
        self.unborn.retain(|&unborn| unborn != worker);
        self.wanted.len() + self.unborn.len() < before
    }
}
