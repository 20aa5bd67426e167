//! From a request for a worker to the worker.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::children::{ClientId, ForRemote};
use super::clients::{Client, Clients};
use super::control_channel::Disconnect;
use super::event_loop::{ForkServer, WorkerTemplate};
use super::private_server::write_title;
use crate::channel::{SocketLayer, StatusPage, WorkerDoorbells, WorkerEnd};
use crate::sys::process;
use crate::sys::process::{Forked, Pid};
use crate::sys::{Errno, descriptors};
use crate::wire::control::{Born, FromServer, Guard, Hello};
use crate::worker;
use crate::worker::Assignment;

/// How long births wait to be told of together with others that were asked for in the same message.
const LONG: Duration = Duration::from_millis(1);

/// A process that was just forked and is about to become a worker.
pub(super) struct ForkedWorker<'a> {
    pub(super) server: ForkServer<'a>,
    pub(super) spec: WorkerSpec,
}

/// What makes a forked process a worker.
pub(super) struct WorkerSpec {
    /// The server.
    parent: Pid,
    client: ClientId,
    channel: WorkerEnd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    /// What it is called: made before the fork, for every page that a child touches costs.
    names: Names,
}

/// What a worker is called in `ps`.
struct Names {
    short: Option<CString>,
    title: String,
}

impl Names {
    fn of(pool: &str, number: u64) -> Self {
        let short = process::short_name(pool, &number.to_string());
        Names { short, title: format!("forkpool: worker {pool}/{number}") }
    }
}

/// The same, of a worker whose channel the client has made.
enum Ours {
    Child(WorkerSpec),
    Parent(Pid, OwnedFd),
}

/// Which side of a birth one is on.
enum Side {
    Child(WorkerSpec),
    /// What the child is made of is still here, to be looked at and let go.
    Parent(Pid, WorkerSpec),
}

impl ForkServer<'_> {
    /// Forks workers whose channels the client has made; in a child returns what makes it one.
    pub(super) fn fork(
        &mut self,
        id: ClientId,
        numbers: &[u64],
        rings: bool,
    ) -> Result<Option<WorkerSpec>, Disconnect> {
        let Some(client) = self.clients.get(id) else { return Ok(None) };
        // They came with the first byte of their message, so they are there.
        // Where this process may have no more, the first of them are.
        let mut passed = client.control.take_bundle()?.into_iter();
        let (mut born, mut handles, mut since) = (Vec::new(), Vec::new(), Instant::now());
        for &number in numbers {
            let parts = next_end(&mut passed, rings);
            let parts = parts.ok_or_else(|| "the server may have no more descriptors".to_owned());
            let ours = match self.refusal_of_a_worker().map_or(parts, Err) {
                Ok(parts) => self.fork_one(id, number, parts),
                Err(reason) => Err(reason),
            };
            match ours {
                Ok(Ours::Child(spec)) => return Ok(Some(spec)),
                Ok(Ours::Parent(pid, handle)) => {
                    born.push(self.has_forked(id, number, pid));
                    handles.push(handle);
                }
                Err(reason) => self.was_not_forked(id, number, &reason),
            }
            // Those there are need not wait for the others where a fork takes long.
            if since.elapsed() > LONG {
                self.tell_born(id, &mut born, &mut handles);
                since = Instant::now();
            }
        }
        self.tell_born(id, &mut born, &mut handles);
        Ok(None)
    }

    fn tell_born(&mut self, id: ClientId, born: &mut Vec<Born>, handles: &mut Vec<OwnedFd>) {
        if let Some(client) = self.clients.get(id).filter(|_| !born.is_empty()) {
            client.control.say_with(&FromServer::Forked(std::mem::take(born)), std::mem::take(handles));
            // What is wrong with the channel is found by whoever reads next.
            let _ = client.control.flush();
        }
    }

    fn fork_one(
        &mut self,
        id: ClientId,
        number: u64,
        (channel, [stdout, stderr]): (WorkerEnd, [OwnedFd; 2]),
    ) -> Result<Ours, String> {
        let told = |error: Errno| std::io::Error::from(error).to_string();
        let guard = client_guard(&mut self.clients, id);
        let names = Names::of(pool_of(&mut self.clients, id), number);
        let spec = WorkerSpec { parent: process::own_pid(), client: id, channel, stdout, stderr, names };
        let (pid, spec) = match fork_process(spec).map_err(told)? {
            Side::Child(spec) => return Ok(Ours::Child(spec)),
            Side::Parent(pid, spec) => (pid, spec),
        };
        match process::open(pid) {
            Ok(handle) => {
                let open_notes = || StatusPage::open(spec.channel.memory().as_fd()).ok();
                self.children.born(pid, (id, number), guard, open_notes);
                Ok(Ours::Parent(pid, handle))
            }
            Err(error) => {
                // Without a handle the host could not kill it, so then it was never born.
                process::kill_group(pid);
                Err(told(error))
            }
        }
    }

    /// Forks a worker whose channel is the connection by which a stranger has come, for the client with this ticket.
    pub(super) fn attach(
        &mut self,
        pending_peer: ClientId,
        ticket: u128,
        number: u64,
    ) -> Result<Option<WorkerSpec>, Disconnect> {
        let id = self.clients.holder_of(ticket).ok_or(Disconnect::Broken)?;
        let pending_peer = self.clients.remove_pending_peer(pending_peer).ok_or(Disconnect::Broken)?;
        let (socket, security) = pending_peer.control.into_connection().ok_or(Disconnect::Broken)?;
        if let Some(refusal) = self.refusal_of_a_worker() {
            self.was_not_forked(id, number, &refusal);
            return Ok(None);
        }
        match self.bear_for_remote(id, number, socket, security) {
            Ok(spec) => Ok(spec),
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
        security: SocketLayer,
    ) -> rustix::io::Result<Option<WorkerSpec>> {
        descriptors::set_blocking(socket.as_fd())?;
        let ((out, stdout), (err, stderr)) = (descriptors::pipe()?, descriptors::pipe()?);
        let (status_page, memory) = StatusPage::create(0)?;
        let (channel, parent) = (WorkerEnd::Stream { socket, security, memory }, process::own_pid());
        let names = Names::of(pool_of(&mut self.clients, client), number);
        match fork_process(WorkerSpec { parent, client, channel, stdout, stderr, names })? {
            Side::Child(spec) => Ok(Some(spec)),
            Side::Parent(pid, _) => {
                let guard = client_guard(&mut self.clients, client);
                let for_remote = ForRemote { status_page, stdout: out, stderr: err };
                self.children.born_for_remote(pid, (client, number), guard, for_remote);
                let mut born = vec![self.has_forked(client, number, pid)];
                self.tell_born(client, &mut born, &mut Vec::new());
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

    /// Counts a birth, and notes it in the log.
    fn has_forked(&mut self, id: ClientId, number: u64, pid: Pid) -> Born {
        self.forked += 1;
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        if self.logs_lives() {
            let pool = pool_of(&mut self.clients, id);
            tracing::info!(target: "forkpool::server", client = id, pool, worker = number, pid, "a worker was forked");
        }
        Born { number, pid }
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
fn fork_process(spec: WorkerSpec) -> rustix::io::Result<Side> {
    match process::fork()? {
        Forked::Child => Ok(Side::Child(spec)),
        Forked::Parent(pid) => {
            process::own_group(Some(pid));
            Ok(Side::Parent(pid, spec))
        }
    }
}

/// The next worker's ends among those that were passed along.
fn next_end(passed: &mut impl Iterator<Item = OwnedFd>, rings: bool) -> Option<(WorkerEnd, [OwnedFd; 2])> {
    let channel = match rings {
        true => {
            let doorbells = WorkerDoorbells { rx: passed.next()?, tx: passed.next()? };
            WorkerEnd::Rings { doorbells, memory: passed.next()? }
        }
        false => {
            let (socket, memory) = (passed.next()?, passed.next()?);
            WorkerEnd::Stream { socket, security: SocketLayer::None, memory }
        }
    };
    Some((channel, [passed.next()?, passed.next()?]))
}

fn pool_of(clients: &mut Clients, id: ClientId) -> &str {
    clients.get(id).map(|client| client.hello.pool.as_str()).unwrap_or_default()
}

fn client_guard(clients: &mut Clients, id: ClientId) -> Guard {
    clients.get(id).map(|client| client.hello.guard).unwrap_or_default()
}

impl ForkedWorker<'_> {
    /// Leaves everything of the server's behind, and lives.
    pub(super) fn live(self) -> ! {
        let ForkedWorker { server, spec: WorkerSpec { parent, client, channel, stdout, stderr, names } } =
            self;
        let ForkServer { template, mut clients, listeners, deaths, mut children, spare, .. } = server;
        let WorkerTemplate { program, config, preload, title, open_before } = template;
        let Some(Client { control, hello, arena, .. }) = clients.remove(client) else { process::exit_now(0) };
        control.close_in_child();
        process::own_group(None);
        process::set_name(names.short.as_deref());
        write_title(title, &names.title);
        if let Some(null) = spare {
            // A private server has put it there already. Where that fails it reads what its server would.
            let _ = descriptors::replace_input(null);
        }
        drop((clients, listeners));
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
