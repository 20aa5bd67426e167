//! The work of a fork server: births and deaths, for as many applications as it has.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::children::{Children, ClientId};
use super::control::{Control, Over};
use super::door::Door;
use super::run::{fits, write_title};
use crate::channel::{Notes, WorkerEnd};
use crate::sys::descriptors;
use crate::sys::process::{self, Forked, TitleSpace};
use crate::sys::signals::{self, ChildDeaths};
use crate::wire::control::{FromServer, Hello, ToServer};
use crate::worker::{self, Assignment, Preload, Program};

/// How long the server waits for killed workers to be gone before it ends itself.
const LAST_RITES: Duration = Duration::from_secs(1);

/// Most applications at a time.
const MOST_CLIENTS: usize = 1024;

/// How long a stranger may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long nobody is let in after somebody could not be.
const PAUSE: Duration = Duration::from_secs(1);

/// An application that a server works for.
struct Client {
    control: Control,
    /// What it said first; nothing is done for it before.
    hello: Option<Hello>,
    came: Instant,
}

/// A server that has its preload.
pub(super) struct ForkServer<'a> {
    program: &'a Program,
    config: Vec<u8>,
    preload: &'static Preload,
    door: Option<Door>,
    /// When the door is looked at again.
    pause: Option<Instant>,
    clients: BTreeMap<ClientId, Client>,
    last_client: ClientId,
    deaths: ChildDeaths,
    children: Children,
    title: Option<TitleSpace>,
}

impl<'a> ForkServer<'a> {
    /// A server that nobody has come to yet. Clients come in by the door; without one it ends with its last client.
    pub(super) fn new(
        program: &'a Program,
        config: Vec<u8>,
        preload: &'static Preload,
        title: Option<TitleSpace>,
        door: Option<Door>,
    ) -> rustix::io::Result<Self> {
        process::adopt_orphans()?;
        // A server of an application's ends with that and when it is killed, one of its own when it is told to.
        let (deaths, children) = (ChildDeaths::watch(door.is_some())?, Children::new());
        let clients = BTreeMap::new();
        Ok(ForkServer {
            program,
            config,
            preload,
            door,
            pause: None,
            clients,
            last_client: 0,
            deaths,
            children,
            title,
        })
    }

    /// Takes in an application that fits.
    pub(super) fn welcome(&mut self, mut control: Control, hello: Hello) -> rustix::io::Result<()> {
        control.say(&FromServer::Welcome);
        self.let_in(control, Some(hello))
    }

    fn let_in(&mut self, control: Control, hello: Option<Hello>) -> rustix::io::Result<()> {
        control.stop_waiting()?;
        self.last_client += 1;
        self.clients.insert(self.last_client, Client { control, hello, came: Instant::now() });
        Ok(())
    }

    /// Sends those away who have not said who they are for too long; how long until the next has been.
    fn send_silent_away(&mut self) -> Option<Duration> {
        let silent = |client: &Client| client.hello.is_none() && client.came.elapsed() >= PATIENCE;
        let before = self.clients.len();
        self.clients.retain(|_, client| !silent(client));
        if self.clients.len() < before {
            let count = before - self.clients.len();
            tracing::warn!(target: "forkpool::server", count, "clients said nothing and were sent away");
        }
        let strangers = self.clients.values().filter(|client| client.hello.is_none());
        strangers.map(|client| PATIENCE.saturating_sub(client.came.elapsed())).min()
    }

    /// How long the door is still not looked at, if it is not.
    fn end_pause(&mut self) -> Option<Duration> {
        let left = self.pause?.saturating_duration_since(Instant::now());
        self.pause = self.pause.filter(|_| !left.is_zero());
        self.pause.map(|_| left)
    }

    /// Lets in whoever has come.
    fn look_outside(&mut self) {
        if self.pause.is_some() {
            return;
        }
        while self.clients.len() < MOST_CLIENTS {
            match self.door.as_ref().map(Door::next) {
                None | Some(Ok(None)) => return,
                Some(Ok(Some(socket))) => {
                    if let Err(error) = self.let_in(Control::to_stranger(socket), None) {
                        tracing::warn!(target: "forkpool::server", %error, "a client could not be let in");
                    }
                }
                Some(Err(error)) => {
                    // Out of descriptors, say. Whoever has come waits until one is free.
                    tracing::warn!(target: "forkpool::server", %error, "clients cannot be let in");
                    self.pause = Instant::now().checked_add(PAUSE);
                    return;
                }
            }
        }
    }

    /// Works until its last application is gone, then leaves nothing behind; returns in every child it forks.
    pub(super) fn serve(mut self) -> Result<Newborn<'a>, Over> {
        match self.work() {
            Ok(birth) => Ok(Newborn { server: self, birth }),
            Err(over) => {
                if let Some(door) = self.door.take() {
                    door.close();
                }
                self.children.end_all(LAST_RITES);
                Err(over)
            }
        }
    }

    /// Returns what makes a worker, in the process that is to be that worker.
    fn work(&mut self) -> Result<Birth, Over> {
        loop {
            for client in self.clients.keys().copied().collect::<Vec<_>>() {
                match self.attend(client) {
                    Ok(None) => {}
                    Ok(Some(birth)) => return Ok(birth),
                    Err(over) => self.take_leave(client, over)?,
                }
            }
            let clients: Vec<ClientId> = self.clients.keys().copied().collect();
            let looks = [self.children.end_hung(), self.send_silent_away(), self.end_pause()];
            let next_look = looks.into_iter().flatten().min();
            let door =
                self.door.as_ref().filter(|_| self.pause.is_none() && self.clients.len() < MOST_CLIENTS);
            let strangers = door.map(|door| (door.as_fd(), false));
            let channels =
                self.clients.values().map(|client| (client.control.as_fd(), client.control.has_unsent()));
            let awake = signals::wait(channels.chain(strangers), &self.deaths, next_look)
                .map_err(|_| Over::Broken)?;
            if awake.deaths {
                let is_to_end = self.deaths.acknowledge();
                self.tell_deaths();
                if is_to_end {
                    return Err(Over::Closed);
                }
            }
            for (&client, _) in clients.iter().zip(&awake.readable).filter(|(_, readable)| **readable) {
                let read = self.clients.get_mut(&client).map_or(Ok(false), |client| client.control.read());
                if let Err(over) = read {
                    self.take_leave(client, over)?;
                }
            }
            self.look_outside();
        }
    }

    /// Does what one client has asked for, and says what there is to say to it.
    fn attend(&mut self, client: ClientId) -> Result<Option<Birth>, Over> {
        while let Some(known) = self.clients.get_mut(&client) {
            match known.control.next()? {
                None => {
                    known.control.flush()?;
                    break;
                }
                Some(ToServer::Fork { number, rings }) => {
                    let birth = self.fork(client, number, rings)?;
                    if birth.is_some() {
                        return Ok(birth);
                    }
                }
                Some(ToServer::Hello(hello)) => self.greet(client, hello)?,
            }
        }
        Ok(None)
    }

    /// A stranger says who it is.
    fn greet(&mut self, client: ClientId, hello: Hello) -> Result<(), Over> {
        let Some(known) = self.clients.get_mut(&client) else { return Ok(()) };
        if known.hello.is_some() || hello.config.is_some() {
            return Err(Over::Broken);
        }
        if let Err(reason) = fits(&hello, self.program) {
            tracing::warn!(target: "forkpool::server", client, reason, "a client does not fit");
            known.control.say(&FromServer::Refused { reason });
            known.control.flush()?;
            return Err(Over::Broken);
        }
        tracing::info!(target: "forkpool::server", client, pool = hello.pool, "a client has come");
        known.control.say(&FromServer::Welcome);
        known.hello = Some(hello);
        Ok(())
    }

    /// One client is gone, and so are its workers. With the last the server has nothing to do.
    fn take_leave(&mut self, client: ClientId, over: Over) -> Result<(), Over> {
        self.clients.remove(&client);
        self.children.kill_those_of(client);
        if self.door.is_some() {
            tracing::info!(target: "forkpool::server", client, ?over, "a client is gone");
            return Ok(());
        }
        if self.clients.is_empty() { Err(over) } else { Ok(()) }
    }

    fn tell_deaths(&mut self) {
        while let Some((client, ended)) = self.children.next_ended() {
            if let Some(client) = self.clients.get_mut(&client) {
                client.control.say(&FromServer::Ended(ended));
            }
        }
    }

    /// Forks; in the child returns what makes it a worker.
    fn fork(&mut self, client: ClientId, number: u64, rings: bool) -> Result<Option<Birth>, Over> {
        let Some(known) = self.clients.get_mut(&client) else { return Ok(None) };
        let guard = known.hello.as_ref().ok_or(Over::Broken)?.guard;
        // The descriptors came with the first byte of their message, so they are there.
        let mut passed = || known.control.take_passed().ok_or(Over::Broken);
        let (socket, memory, stdout, stderr) = (passed()?, passed()?, passed()?, passed()?);
        let channel = match rings {
            true => WorkerEnd::Rings { doorbell: socket, memory },
            false => WorkerEnd::Stream { socket, memory },
        };
        let forked = match process::fork() {
            Ok(Forked::Child) => {
                return Ok(Some(Birth { client, number, channel, stdout, stderr }));
            }
            Ok(Forked::Parent(pid)) => {
                process::own_group(Some(pid));
                // Without a handle the host could not kill it, so then it was never born.
                process::open(pid).map(|handle| (pid, handle)).inspect_err(|_| process::kill_group(pid))
            }
            Err(error) => Err(error),
        };
        match forked {
            Ok((pid, handle)) => {
                let open_notes = || Notes::open(channel.memory().as_fd()).ok();
                self.children.born(pid, (client, number), guard, open_notes);
                let pid = pid.as_raw_nonzero().get().unsigned_abs();
                known.control.say_with(&FromServer::Forked { number, pid }, handle);
            }
            Err(error) => {
                let reason = std::io::Error::from(error).to_string();
                known.control.say(&FromServer::NotForked { number, reason });
            }
        }
        Ok(None)
    }
}

/// A process that was just forked and is about to become a worker.
pub(super) struct Newborn<'a> {
    server: ForkServer<'a>,
    birth: Birth,
}

/// What makes a forked process a worker.
struct Birth {
    client: ClientId,
    number: u64,
    channel: WorkerEnd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Newborn<'_> {
    /// Leaves everything of the server's behind, and lives.
    pub(super) fn live(self) -> ! {
        let Newborn { server, birth: Birth { client, number, channel, stdout, stderr } } = self;
        let ForkServer { program, config, preload, door, mut clients, deaths, title, .. } = server;
        let Some(Client { control, hello: Some(hello), .. }) = clients.remove(&client) else {
            process::exit_now(0)
        };
        process::own_group(None);
        process::set_short_name(&hello.pool, &number.to_string());
        write_title(title, &format!("forkpool: worker {}/{number}", hello.pool));
        drop((control, clients, door));
        deaths.forget_in_child();
        // Where that fails it prints where the application prints.
        let _ = descriptors::replace_outputs(stdout, stderr);
        worker::run(Assignment {
            program,
            config: &config,
            preload,
            channel: channel.raised(descriptors::raise),
            max_payload: usize::try_from(hello.max_payload).unwrap_or(usize::MAX),
            max_memory: hello.max_memory,
            memory_limit: hello.guard.memory_limit,
        })
    }
}
