//! A fork server at work: who comes and goes, births and deaths, for as many applications as it has.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::agreement::{self, Own};
use super::birth::{Birth, Newborn};
use super::children::{Children, ClientId};
use super::clients::{Clients, Errand};
use super::control::{Control, FirstWord, Over};
use super::door::Door;
use super::manager;
use super::notices::Notices;
use crate::config::ServerOptions;
use crate::sys::descriptors::{self, OpenBefore};
use crate::sys::process::{self, TitleSpace};
use crate::sys::signals::{self, ChildDeaths, Request};
use crate::wire::LIBRARY;
use crate::wire::control::{Ended, FromServer, Hello, ServerStats, ToServer};
use crate::worker::{Preload, Program};

/// How long the server waits for killed workers to be gone before it ends itself.
const LAST_RITES: Duration = Duration::from_secs(1);

/// How long nobody is let in after somebody could not be.
const PAUSE: Duration = Duration::from_secs(1);

/// What workers are made of.
pub(super) struct Mold<'a> {
    pub(super) program: &'a Program,
    pub(super) config: Vec<u8>,
    pub(super) preload: &'static Preload,
    pub(super) title: Option<TitleSpace>,
    /// What was open before the preload, and is nothing to a worker.
    pub(super) open_before: OpenBefore,
}

/// A server that has its preload.
pub(super) struct ForkServer<'a> {
    pub(super) mold: Mold<'a>,
    pub(super) options: ServerOptions,
    own: Own,
    /// Without any it ends with its last client; a server of its own ends when it is told to.
    pub(super) doors: Vec<Door>,
    is_private: bool,
    /// When the doors are looked at again.
    pause: Option<Instant>,
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
    notices: Notices,
}

/// What is watched while there is nothing to do.
#[derive(Clone, Copy)]
enum Watched {
    Door,
    Party(ClientId),
    Adopted,
}

impl<'a> ForkServer<'a> {
    /// A server that nobody has come to yet: clients come in by a door, or are welcomed.
    pub(super) fn new(
        mold: Mold<'a>,
        options: ServerOptions,
        own: Own,
        doors: Vec<Door>,
    ) -> rustix::io::Result<Self> {
        process::adopt_orphans()?;
        let is_private = doors.is_empty();
        let now = Instant::now();
        Ok(ForkServer {
            mold,
            options,
            own,
            // A server of an application's ends with that and when it is killed, one of its own when it is told to.
            deaths: ChildDeaths::watch(!is_private)?,
            is_private,
            doors,
            pause: None,
            spare: (!is_private).then(descriptors::null).transpose()?,
            clients: Clients::default(),
            children: Children::new(),
            draining: None,
            began: now,
            forked: 0,
            not_forked: 0,
            notices: Notices::new(now),
        })
    }

    /// Takes in the application of a private server, which fits.
    pub(super) fn welcome(&mut self, mut control: Control, hello: Hello) -> rustix::io::Result<()> {
        control.stop_waiting()?;
        control.say(&FromServer::Welcome);
        self.clients.welcome(control, hello);
        Ok(())
    }

    /// Works until it has nothing more to do, then leaves nothing behind; returns in every child it forks.
    pub(super) fn serve(mut self) -> Result<Newborn<'a>, Over> {
        match self.work() {
            Ok(birth) => Ok(Newborn { server: self, birth }),
            Err(over) => {
                self.doors.drain(..).for_each(Door::close);
                self.children.end_all(LAST_RITES);
                Err(over)
            }
        }
    }

    /// Returns what makes a worker, in the process that is to be that worker.
    fn work(&mut self) -> Result<Birth, Over> {
        loop {
            for id in self.clients.stranger_ids() {
                self.meet(id);
            }
            for client in self.clients.ids() {
                match self.attend(client) {
                    Ok(None) => {}
                    Ok(Some(birth)) => return Ok(birth),
                    Err(over) => self.take_leave(client, over)?,
                }
            }
            let is_overdue = self.draining.flatten().is_some_and(|until| until <= Instant::now());
            if self.draining.is_some() && (is_overdue || self.children.count() == 0) {
                return Err(Over::Closed);
            }
            self.wait()?;
        }
    }

    /// Waits for something to do, and takes in what there is.
    fn wait(&mut self) -> Result<(), Over> {
        let now = Instant::now();
        self.notices.sum_up(now);
        let next_looks = [
            self.children.end_hung(),
            self.clients.next_overdue(now),
            self.end_pause(now),
            self.notices.next(now),
            self.draining.flatten().map(|until| until.saturating_duration_since(now)),
        ];
        let next_look = next_looks.into_iter().flatten().min();
        let (tokens, awake) = {
            let (tokens, watched): (Vec<Watched>, Vec<(BorrowedFd<'_>, bool)>) = self.watched().unzip();
            (tokens, signals::wait(&watched, &self.deaths, next_look).map_err(|_| Over::Broken)?)
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
                Watched::Door => self.look_outside(),
                Watched::Adopted => {}
            }
        }
        self.send_silent_away(Instant::now());
        Ok(())
    }

    fn watched(&self) -> impl Iterator<Item = (Watched, (BorrowedFd<'_>, bool))> {
        let doors = self.doors.iter().filter(|_| self.pause.is_none());
        let doors = doors.map(|door| (Watched::Door, (door.as_fd(), false)));
        let parties = self.clients.watched().map(|(id, fd, unsent)| (Watched::Party(id), (fd, unsent)));
        let adopted = self.children.adopted().map(|handle| (Watched::Adopted, (handle, false)));
        doors.chain(parties).chain(adopted)
    }

    fn read(&mut self, id: ClientId) -> Result<(), Over> {
        let Err(over) = self.clients.read(id) else { return Ok(()) };
        match self.clients.remove_stranger(id) {
            Some(stranger) => {
                // One that leaves without a word has only looked whether anybody is here.
                if !matches!(over, Over::Closed) {
                    self.turn_away(&format!("process {} did not say who it is", stranger.peer.pid));
                }
                Ok(())
            }
            None => self.take_leave(id, over),
        }
    }

    fn heed(&mut self, request: Option<Request>) -> Result<(), Over> {
        match request {
            None => Ok(()),
            // Who asks twice does not want to wait.
            Some(Request::Drain) if self.draining.is_none() => {
                self.doors.drain(..).for_each(Door::close);
                self.drain(false);
                Ok(())
            }
            Some(Request::Drain | Request::Stop) => Err(Over::Closed),
        }
    }

    /// Takes no more work, and tells its clients to do without it.
    pub(super) fn drain(&mut self, succeeded: bool) {
        let until = self.options.drain_timeout.and_then(|limit| Instant::now().checked_add(limit));
        self.draining = Some(until);
        manager::notify_stopping();
        let workers = self.children.count();
        tracing::info!(target: "forkpool::server", workers, succeeded, "takes no more work");
        self.clients.say_to_all(&FromServer::Draining { succeeded });
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// How long the doors are still not looked at, if they are not.
    fn end_pause(&mut self, now: Instant) -> Option<Duration> {
        let left = self.pause?.saturating_duration_since(now);
        self.pause = self.pause.filter(|_| !left.is_zero());
        self.pause.map(|_| left)
    }

    /// Lets in whoever has come.
    fn look_outside(&mut self) {
        let now = Instant::now();
        for at in 0..self.doors.len() {
            let mut away = Vec::new();
            let next = self.doors.get(at).map(|door| door.next(|why| away.push(why)));
            away.into_iter().for_each(|why| self.turn_away(&why));
            match next {
                None | Some(Ok(None)) => {}
                Some(Ok(Some(arrival))) => match self.clients.arrive(arrival, now) {
                    Ok(None) => {}
                    Ok(Some(_)) => self.turn_away("too many have come and not said who they are"),
                    Err(error) => self.turn_away(&std::io::Error::from(error).to_string()),
                },
                Some(Err(error)) => self.cannot_let_in(at, &error),
            }
        }
    }

    /// Out of descriptors, say. Whoever has come is told so, or waits where that cannot be done either.
    fn cannot_let_in(&mut self, door: usize, error: &std::io::Error) {
        self.turn_away(&error.to_string());
        drop(self.spare.take());
        let next = self.doors.get(door).map(|door| door.next(|_| ()));
        if let Some(Ok(Some(arrival))) = next {
            let mut control = Control::to_stranger(arrival.socket);
            control.say(&FromServer::Refused { reason: format!("the server can let nobody in: {error}") });
            // There is room for so little in a new socket.
            let _ = control.stop_waiting().map(|()| control.flush());
        } else {
            self.pause = Instant::now().checked_add(PAUSE);
        }
        self.spare = descriptors::null().ok();
    }

    pub(super) fn turn_away(&mut self, why: &str) {
        self.notices.turned_away(why, Instant::now());
    }

    fn send_silent_away(&mut self, now: Instant) {
        for stranger in self.clients.overdue(now) {
            if stranger.errand == Errand::Unknown {
                self.turn_away(&format!("process {} has said nothing", stranger.peer.pid));
            }
        }
    }

    /// Hears what a stranger wants, once it has said so.
    fn meet(&mut self, id: ClientId) {
        let Some(stranger) = self.clients.stranger(id) else { return };
        let outcome = match stranger.errand {
            Errand::Unknown => match stranger.control.first() {
                Ok(None) => Ok(()),
                Ok(Some(FirstWord::Message(ToServer::Hello(hello)))) => self.greet(id, hello),
                Ok(Some(FirstWord::Message(ToServer::TakeOver))) => self.hand_over(id),
                Ok(Some(FirstWord::Message(_))) => Err(Over::Broken),
                Ok(Some(FirstWord::Foreign(origin))) => {
                    self.refuse(id, agreement::versions(origin.protocol, &origin.library))
                }
                Err(over) => Err(over),
            },
            Errand::Refused => self.see_off(id),
            Errand::TakesOver => self.await_successor(id),
        };
        if outcome.is_err() {
            let pid = self.clients.remove_stranger(id).map_or(0, |stranger| stranger.peer.pid);
            self.turn_away(&format!("process {pid} did not say who it is"));
        }
    }

    /// A stranger has said who it is.
    fn greet(&mut self, id: ClientId, hello: Hello) -> Result<(), Over> {
        if let Some(reason) = self.own.disagreement(&hello) {
            return self.refuse(id, reason);
        }
        if self.is_draining() {
            return self.refuse(id, "the server takes no more work".to_owned());
        }
        let (clients, most) = (self.clients.count(), self.options.max_clients);
        if clients >= most {
            return self.refuse(id, format!("the server is full: it has {clients} clients, its max_clients"));
        }
        tracing::info!(target: "forkpool::server", client = id, pool = hello.pool, "a client has come");
        if let Some(client) = self.clients.adopt(id, hello) {
            client.control.say(&FromServer::Welcome);
        }
        Ok(())
    }

    /// Tells a stranger why it is not let in.
    pub(super) fn refuse(&mut self, id: ClientId, reason: String) -> Result<(), Over> {
        self.turn_away(&reason);
        if let Some(stranger) = self.clients.stranger(id) {
            stranger.control.say(&FromServer::Refused { reason });
            stranger.errand = Errand::Refused;
        }
        self.see_off(id)
    }

    /// Lets a stranger go that was told why, once it can read that.
    fn see_off(&mut self, id: ClientId) -> Result<(), Over> {
        if let Some(stranger) = self.clients.stranger(id) {
            let gone = stranger.control.flush().is_err() || !stranger.control.has_unsent();
            if gone {
                self.clients.remove_stranger(id);
            }
        }
        Ok(())
    }

    /// Does what one client has asked for, and says what there is to say to it.
    fn attend(&mut self, id: ClientId) -> Result<Option<Birth>, Over> {
        while let Some(client) = self.clients.get(id) {
            match client.control.next()? {
                None => {
                    client.control.flush()?;
                    break;
                }
                Some(ToServer::Fork { number, rings }) => {
                    let birth = self.fork(id, number, rings)?;
                    if birth.is_some() {
                        return Ok(birth);
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
                Some(ToServer::Hello(_) | ToServer::TakeOver) => return Err(Over::Broken),
            }
        }
        Ok(None)
    }

    /// One client is gone, and so are its workers. With the last a private server has nothing to do.
    fn take_leave(&mut self, id: ClientId, over: Over) -> Result<(), Over> {
        self.clients.remove(id);
        self.children.kill_those_of(id);
        if !self.is_private {
            tracing::info!(target: "forkpool::server", client = id, ?over, "a client is gone");
            return Ok(());
        }
        if self.clients.count() == 0 { Err(over) } else { Ok(()) }
    }

    fn tell_deaths(&mut self) {
        while let Some((id, ended)) = self.children.next_ended() {
            let Some(client) = self.clients.get(id) else { continue };
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
            turned_away: self.notices.count(),
            draining: self.is_draining(),
        }
    }

    pub(super) fn logs_lives(&self) -> bool {
        !self.is_private
    }
}

fn log_end(pool: &str, client: ClientId, ended: &Ended) {
    let Ended { number, ending, peak_memory, cpu_time, .. } = *ended;
    tracing::info!(target: "forkpool::server", client, pool, worker = number, %ending, peak_memory, ?cpu_time,
        "a worker has ended");
}
