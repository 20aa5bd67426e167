//! From a request for a worker to the worker.

use std::os::fd::{AsFd, OwnedFd};

use super::children::{ClientId, ForRemote};
use super::clients::{Client, Clients};
use super::control::Over;
use super::run::write_title;
use super::serve::{ForkServer, Mold};
use crate::channel::{Notes, Security, WorkerBells, WorkerEnd};
use crate::sys::descriptors;
use crate::sys::process::{self, Forked, Pid};
use crate::wire::control::{FromServer, Guard, Hello};
use crate::worker::{self, Assignment};

/// A process that was just forked and is about to become a worker.
pub(super) struct Newborn<'a> {
    pub(super) server: ForkServer<'a>,
    pub(super) birth: Birth,
}

/// What makes a forked process a worker.
pub(super) struct Birth {
    /// The server.
    parent: Pid,
    client: ClientId,
    number: u64,
    channel: WorkerEnd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// Which side of a birth one is on.
enum Side {
    Child(Birth),
    /// What the child is made of is still here, to be looked at and let go.
    Parent(Pid, Birth),
}

impl ForkServer<'_> {
    /// Forks a worker whose channel the client has made; in the child returns what makes it one.
    pub(super) fn fork(&mut self, id: ClientId, number: u64, rings: bool) -> Result<Option<Birth>, Over> {
        let Some(client) = self.clients.get(id) else { return Ok(None) };
        // The descriptors came with the first byte of their message, so they are there.
        let passed = match rings {
            true => client.control.take_passed()?.map(|[ear, hammer, memory, stdout, stderr]| {
                (WorkerEnd::Rings { bells: WorkerBells { ear, hammer }, memory }, [stdout, stderr])
            }),
            false => client.control.take_passed()?.map(|[socket, memory, stdout, stderr]| {
                (WorkerEnd::Stream { socket, security: Security::None, memory }, [stdout, stderr])
            }),
        };
        let (refusal, guard) = (self.refusal_of_a_worker(), client_guard(&mut self.clients, id));
        let Some((channel, [stdout, stderr])) = passed.filter(|_| refusal.is_none()) else {
            let reason = refusal.unwrap_or_else(|| "the server may have no more descriptors".to_owned());
            self.was_not_forked(id, number, &reason);
            return Ok(None);
        };
        let (pid, birth) =
            match bear(Birth { parent: process::own_pid(), client: id, number, channel, stdout, stderr }) {
                Ok(Side::Child(birth)) => return Ok(Some(birth)),
                Ok(Side::Parent(pid, birth)) => (pid, birth),
                Err(error) => {
                    self.was_not_forked(id, number, &std::io::Error::from(error).to_string());
                    return Ok(None);
                }
            };
        match process::open(pid) {
            Ok(handle) => {
                let open_notes = || Notes::open(birth.channel.memory().as_fd()).ok();
                self.children.born(pid, (id, number), guard, open_notes);
                self.was_forked(id, number, pid, vec![handle]);
            }
            Err(error) => {
                // Without a handle the host could not kill it, so then it was never born.
                process::kill_group(pid);
                self.was_not_forked(id, number, &std::io::Error::from(error).to_string());
            }
        }
        Ok(None)
    }

    /// Forks a worker whose channel is the connection by which a stranger has come, for the client with this ticket.
    pub(super) fn attach(
        &mut self,
        stranger: ClientId,
        ticket: u128,
        number: u64,
    ) -> Result<Option<Birth>, Over> {
        let id = self.clients.holder_of(ticket).ok_or(Over::Broken)?;
        let stranger = self.clients.remove_stranger(stranger).ok_or(Over::Broken)?;
        let (socket, security) = stranger.control.into_connection().ok_or(Over::Broken)?;
        if let Some(refusal) = self.refusal_of_a_worker() {
            self.was_not_forked(id, number, &refusal);
            return Ok(None);
        }
        match self.bear_for_remote(id, number, socket, security) {
            Ok(birth) => Ok(birth),
            Err(error) => {
                self.was_not_forked(id, number, &std::io::Error::from(error).to_string());
                Ok(None)
            }
        }
    }

    fn bear_for_remote(
        &mut self,
        client: ClientId,
        number: u64,
        socket: OwnedFd,
        security: Security,
    ) -> rustix::io::Result<Option<Birth>> {
        descriptors::set_blocking(socket.as_fd())?;
        let ((out, stdout), (err, stderr)) = (descriptors::pipe()?, descriptors::pipe()?);
        let (notes, memory) = Notes::create(0)?;
        let (channel, parent) = (WorkerEnd::Stream { socket, security, memory }, process::own_pid());
        match bear(Birth { parent, client, number, channel, stdout, stderr })? {
            Side::Child(birth) => Ok(Some(birth)),
            Side::Parent(pid, _) => {
                let guard = client_guard(&mut self.clients, client);
                let for_remote = ForRemote { notes, stdout: out, stderr: err };
                self.children.born_for_remote(pid, (client, number), guard, for_remote);
                self.was_forked(client, number, pid, Vec::new());
                Ok(None)
            }
        }
    }

    fn refusal_of_a_worker(&self) -> Option<String> {
        if self.is_draining() {
            return Some("the server takes no more work".to_owned());
        }
        let most = self.options.max_workers?;
        (self.children.count() >= most).then(|| format!("the server is full: it has max_workers, {most}"))
    }

    fn was_forked(&mut self, id: ClientId, number: u64, pid: Pid, handle: Vec<OwnedFd>) {
        self.forked += 1;
        let logs = self.logs_lives();
        let Some(client) = self.clients.get(id) else { return };
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        client.control.say_with(&FromServer::Forked { number, pid }, handle);
        if logs {
            let pool = client.hello.pool.as_str();
            tracing::info!(target: "forkpool::server", client = id, pool, worker = number, pid, "a worker was forked");
        }
    }

    fn was_not_forked(&mut self, id: ClientId, number: u64, reason: &str) {
        self.not_forked += 1;
        let logs = self.logs_lives();
        let Some(client) = self.clients.get(id) else { return };
        if logs {
            let pool = client.hello.pool.as_str();
            tracing::warn!(target: "forkpool::server", client = id, pool, worker = number, reason,
                "a worker was not forked");
        }
        client.control.say(&FromServer::NotForked { number, reason: reason.to_owned() });
    }
}

/// Forks.
fn bear(birth: Birth) -> rustix::io::Result<Side> {
    match process::fork()? {
        Forked::Child => Ok(Side::Child(birth)),
        Forked::Parent(pid) => {
            process::own_group(Some(pid));
            Ok(Side::Parent(pid, birth))
        }
    }
}

fn client_guard(clients: &mut Clients, id: ClientId) -> Guard {
    clients.get(id).map(|client| client.hello.guard).unwrap_or_default()
}

impl Newborn<'_> {
    /// Leaves everything of the server's behind, and lives.
    pub(super) fn live(self) -> ! {
        let Newborn { server, birth: Birth { parent, client, number, channel, stdout, stderr } } = self;
        let ForkServer { mold, mut clients, doors, deaths, mut children, spare, .. } = server;
        let Mold { program, config, preload, title, open_before } = mold;
        let Some(Client { hello, arena, .. }) = clients.remove(client) else { process::exit_now(0) };
        process::own_group(None);
        process::set_short_name(&hello.pool, &number.to_string());
        write_title(title, &format!("forkpool: worker {}/{number}", hello.pool));
        if let Some(null) = spare {
            // A private server has put it there already. Where that fails it reads what its server would.
            let _ = descriptors::replace_input(null);
        }
        drop((clients, doors));
        children.forget_in_child();
        open_before.close_in_child();
        deaths.forget_in_child();
        // Where that fails it prints where the application prints.
        let _ = descriptors::replace_outputs(stdout, stderr);
        let Hello { fingerprint, max_payload, max_memory, guard, .. } = hello;
        worker::run(Assignment {
            program,
            config: &config,
            preload,
            channel: channel.raised(descriptors::raise),
            arguments: arena,
            fingerprint,
            max_payload: usize::try_from(max_payload).unwrap_or(usize::MAX),
            max_memory,
            memory_limit: guard.memory_limit,
            parent,
            hung_worker_timeout: guard.hung_worker_timeout,
        })
    }
}
