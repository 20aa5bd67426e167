//! A fork server at work: who comes and goes, births and deaths, for as many applications as it has.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::children::{Children, ClientId, OutputId};
use super::clients::Clients;
use super::compatibility::ServerVersion;
use super::control_channel::{ControlChannel, Disconnect};
use super::listener::Listener;
use super::rejection_log::RejectionLog;
use super::spawn::{ForkedWorker, WorkerSpec};
use super::systemd;
use crate::config::ServerOptions;
use crate::sys::arena::ReadOnlyArena;
use crate::sys::descriptors;
use crate::sys::descriptors::OpenBefore;
use crate::sys::process;
use crate::sys::process::TitleSpace;
use crate::sys::signals;
use crate::sys::signals::{ChildDeaths, Request};
use crate::wire::LIBRARY;
use crate::wire::control::{Ended, FromServer, Hello, ServerStats, ToServer};
use crate::worker::{Preload, Program};

/// How long the server waits for killed workers to be gone before it ends itself.
const LAST_RITES: Duration = Duration::from_secs(1);

/// What workers are made of.
pub(super) struct WorkerTemplate<'a> {
    pub(super) program: &'a Program,
    pub(super) config: Vec<u8>,
    pub(super) preload: &'static Preload,
    pub(super) title: Option<TitleSpace>,
    /// What was open before the preload, and is nothing to a worker.
    pub(super) open_before: OpenBefore,
}

/// A server that has its preload.
pub(super) struct ForkServer<'a> {
    pub(super) template: WorkerTemplate<'a>,
    pub(super) options: ServerOptions,
    pub(super) own: ServerVersion,
    /// Without any it ends with its last client; a server of its own ends when it is told to.
    pub(super) listeners: Vec<Listener>,
    is_private: bool,
    /// When the doors are looked at again.
    pub(super) pause: Option<Instant>,
    /// A descriptor to be given up for somebody who is to be told that there are no more.
    pub(super) spare: Option<OwnedFd>,
    pub(super) clients: Clients,
    pub(super) deaths: ChildDeaths,
    pub(super) children: Children,
    /// Set once it takes no more work: until when its workers may finish.
    draining: Option<Option<Instant>>,
    began: Instant,
    pub(super) forked: u64,
    pub(super) not_forked: u64,
    pub(super) rejections: RejectionLog,
}

/// What is watched while there is nothing to do.
#[derive(Clone, Copy)]
enum Watched {
    Listener,
    Party(ClientId),
    Output(OutputId),
    Adopted,
}

impl<'a> ForkServer<'a> {
    /// A server that nobody has come to yet: clients come in by a door, or are welcomed.
    pub(super) fn new(
        template: WorkerTemplate<'a>,
        options: ServerOptions,
        own: ServerVersion,
        listeners: Vec<Listener>,
    ) -> rustix::io::Result<Self> {
        process::adopt_orphans()?;
        let is_private = listeners.is_empty();
        let now = Instant::now();
        Ok(ForkServer {
            template,
            options,
            own,
            // A server of an application's ends with that and when it is killed, one of its own when it is told to.
            deaths: ChildDeaths::watch(!is_private)?,
            is_private,
            listeners,
            pause: None,
            spare: (!is_private).then(descriptors::null).transpose()?,
            clients: Clients::default(),
            children: Children::new(),
            draining: None,
            began: now,
            forked: 0,
            not_forked: 0,
            rejections: RejectionLog::new(now),
        })
    }

    /// Takes in the application of a private server, which fits.
    pub(super) fn welcome(
        &mut self,
        mut control: ControlChannel,
        hello: Hello,
        arena: Option<Arc<ReadOnlyArena>>,
    ) -> rustix::io::Result<()> {
        control.stop_waiting()?;
        control.say(&FromServer::Welcome { ticket: None });
        self.clients.welcome(control, hello, arena);
        Ok(())
    }

    /// Works until it has nothing more to do, then leaves nothing behind; returns in every child it forks.
    pub(super) fn serve(mut self) -> Result<ForkedWorker<'a>, Disconnect> {
        match self.work() {
            Ok(spec) => Ok(ForkedWorker { server: self, spec }),
            Err(over) => {
                self.listeners.drain(..).for_each(Listener::close);
                self.children.end_all(LAST_RITES);
                Err(over)
            }
        }
    }

    /// Returns what makes a worker, in the process that is to be that worker.
    fn work(&mut self) -> Result<WorkerSpec, Disconnect> {
        loop {
            for id in self.clients.stranger_ids() {
                if let Some(spec) = self.meet(id) {
                    return Ok(spec);
                }
            }
            for client in self.clients.ids() {
                match self.attend(client) {
                    Ok(None) => {}
                    Ok(Some(spec)) => return Ok(spec),
                    Err(over) => self.take_leave(client, over)?,
                }
            }
            let is_overdue = self.draining.flatten().is_some_and(|until| until <= Instant::now());
            if self.draining.is_some() && (is_overdue || self.children.count() == 0) {
                return Err(Disconnect::Closed);
            }
            self.wait()?;
        }
    }

    /// Waits for something to do, and takes in what there is.
    fn wait(&mut self) -> Result<(), Disconnect> {
        let now = Instant::now();
        self.rejections.sum_up(now);
        let next_looks = [
            self.children.end_hung(),
            self.clients.next_overdue(now),
            self.end_pause(now),
            self.rejections.next(now),
            self.draining.flatten().map(|until| until.saturating_duration_since(now)),
        ];
        let next_look = next_looks.into_iter().flatten().min();
        let (tokens, awake) = {
            let (tokens, watched): (Vec<Watched>, Vec<(BorrowedFd<'_>, bool)>) = self.watched().unzip();
            (tokens, signals::wait(&watched, &self.deaths, next_look).map_err(|_| Disconnect::Broken)?)
        };
        if awake.deaths {
            let request = self.deaths.acknowledge();
            self.tell_deaths();
            self.heed(request)?;
        }
        let is_adopted = |(token, _): &(&Watched, &bool)| matches!(token, Watched::Adopted);
        let adopted: Vec<bool> =
            tokens.iter().zip(&awake.readable).filter(is_adopted).map(|(_, &readable)| readable).collect();
        self.children.forget_adopted(&adopted);
        for (token, _) in tokens.iter().zip(&awake.readable).filter(|(_, readable)| **readable) {
            match *token {
                Watched::Party(id) => self.read(id)?,
                Watched::Listener => self.look_outside(),
                Watched::Output(output) => self.pass_on(output),
                Watched::Adopted => {}
            }
        }
        self.send_silent_away(Instant::now());
        Ok(())
    }

    fn watched(&self) -> impl Iterator<Item = (Watched, (BorrowedFd<'_>, bool))> {
        let listeners = self.listeners.iter().filter(|_| self.pause.is_none());
        let listeners = listeners.map(|listener| (Watched::Listener, (listener.as_fd(), false)));
        let parties = self.clients.watched().map(|(id, fd, unsent)| (Watched::Party(id), (fd, unsent)));
        let adopted = self.children.adopted().map(|handle| (Watched::Adopted, (handle, false)));
        // Whoever prints more than its client reads waits, as it would for a full pipe.
        let outputs = self.children.outputs().filter(|(_, client, _)| !self.clients.is_slow(*client));
        let outputs = outputs.map(|(output, _, end)| (Watched::Output(output), (end, false)));
        listeners.chain(parties).chain(adopted).chain(outputs)
    }

    fn read(&mut self, id: ClientId) -> Result<(), Disconnect> {
        let Err(over) = self.clients.read(id) else { return Ok(()) };
        if self.clients.get(id).is_some() {
            return self.take_leave(id, over);
        }
        self.is_no_client(id, &over);
        Ok(())
    }

    /// Passes on what a worker has printed.
    fn pass_on(&mut self, output: OutputId) {
        if let Some((id, printed)) = self.children.printed(output)
            && let Some(client) = self.clients.get(id)
        {
            client.control.say(&printed);
        }
    }

    fn heed(&mut self, request: Option<Request>) -> Result<(), Disconnect> {
        match request {
            None => Ok(()),
            // Who asks twice does not want to wait.
            Some(Request::Drain) if self.draining.is_none() => {
                self.listeners.drain(..).for_each(Listener::close);
                self.drain(false);
                Ok(())
            }
            Some(Request::Drain | Request::Stop) => Err(Disconnect::Closed),
        }
    }

    /// Takes no more work, and tells its clients to do without it.
    pub(super) fn drain(&mut self, succeeded: bool) {
        let until = self.options.drain_timeout.and_then(|limit| Instant::now().checked_add(limit));
        self.draining = Some(until);
        systemd::notify_stopping();
        let workers = self.children.count();
        tracing::info!(target: "forkpool::server", workers, succeeded, "takes no more work");
        self.clients.say_to_all(&FromServer::Draining { succeeded });
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// Does what one client has asked for, and says what there is to say to it.
    fn attend(&mut self, id: ClientId) -> Result<Option<WorkerSpec>, Disconnect> {
        while let Some(client) = self.clients.get(id) {
            match client.control.next()? {
                None => {
                    client.control.flush()?;
                    break;
                }
                Some(ToServer::Fork { numbers, rings }) => {
                    let spec = self.fork(id, &numbers, rings)?;
                    if spec.is_some() {
                        return Ok(spec);
                    }
                }
                Some(ToServer::End { number, kill }) => self.children.end(id, number, kill),
                Some(ToServer::Adopt { number }) => {
                    // One for which there is no room is bounded by its own guard.
                    if let Some([handle]) = client.control.take_passed()? {
                        tracing::info!(target: "forkpool::server", client = id, worker = number, "a worker was adopted");
                        self.children.adopt(id, number, handle);
                    }
                }
                Some(ToServer::Inspect) => {
                    let stats = self.stats();
                    if let Some(client) = self.clients.get(id) {
                        client.control.say(&FromServer::Inspected(stats));
                    }
                }
                Some(ToServer::Hello(_) | ToServer::TakeOver | ToServer::Attach { .. }) => {
                    return Err(Disconnect::Broken);
                }
            }
        }
        Ok(None)
    }

    /// One client is gone, and so are its workers. With the last a private server has nothing to do.
    fn take_leave(&mut self, id: ClientId, over: Disconnect) -> Result<(), Disconnect> {
        self.clients.remove(id);
        self.children.kill_those_of(id);
        if !self.is_private {
            tracing::info!(target: "forkpool::server", client = id, ?over, "a client is gone");
            return Ok(());
        }
        if self.clients.count() == 0 { Err(over) } else { Ok(()) }
    }

    fn tell_deaths(&mut self) {
        while let Some((id, printed, ended)) = self.children.next_ended() {
            let Some(client) = self.clients.get(id) else { continue };
            printed.iter().for_each(|printed| client.control.say(printed));
            if !self.is_private {
                log_end(&client.hello.pool, id, &ended);
            }
            client.control.say(&FromServer::Ended(ended));
        }
    }

    fn stats(&self) -> ServerStats {
        ServerStats {
            pid: std::process::id(),
            library: LIBRARY.to_owned(),
            uptime: self.began.elapsed(),
            clients: self.clients.count() as u64,
            workers: self.children.count() as u64,
            forked: self.forked,
            not_forked: self.not_forked,
            turned_away: self.rejections.count(),
            draining: self.is_draining(),
        }
    }

    pub(super) fn logs_lives(&self) -> bool {
        !self.is_private
    }
}

fn log_end(pool: &str, client: ClientId, ended: &Ended) {
    let Ended { number, ending, peak_memory, cpu_time, .. } = ended;
    tracing::info!(target: "forkpool::server", client, pool, worker = number, %ending, peak_memory, ?cpu_time,
        "a worker has ended");
}
