//! From a request for workers to running workers.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::children::{ClientId, RemoteOutputs};
use super::clients::{Client, Clients};
use super::control_channel::Disconnect;
use super::event_loop::{ForkServer, WorkerTemplate};
use super::listener::Listener;
use super::private_server::write_title;
use crate::channel::{SocketLayer, StatusPage, WorkerDoorbells, WorkerEnd, WorkerMemory};
use crate::sys::process;
use crate::sys::process::{ForkSide, Pid};
use crate::sys::{CallError, Errno, descriptors, kill};
use crate::telling::log_event;
use crate::wire::control::{FromServer, Hello, MAX_FORKS_PER_MESSAGE, ProcessLimits, WorkerPid};
use crate::wire::frame::Limits;
use crate::worker;
use crate::worker::Assignment;

/// How long forked workers may wait to be reported together with others of the same message.
const REPORT_DELAY: Duration = Duration::from_millis(1);

/// A process that was just forked and is about to become a worker.
pub(super) struct ForkedWorker<'a> {
    pub(super) server: ForkServer<'a>,
    pub(super) spec: WorkerSpec,
}

/// What a forked process needs to become a worker.
pub(super) struct WorkerSpec {
    /// The fork server.
    parent: Pid,
    client: ClientId,
    /// Counts the workers of the client, from 1.
    ordinal: u64,
    channel: WorkerEnd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    /// The worker's names, made before the fork: each page that a child touches is copied.
    names: WorkerNames,
}

/// The names of a worker in `ps`.
struct WorkerNames {
    short: Option<CString>,
    title: String,
}

impl WorkerNames {
    fn of(pool: &str, number: u64) -> Self {
        let short = process::short_name(pool, &number.to_string());
        WorkerNames { short, title: format!("forkpool: worker {pool}/{number}") }
    }
}

/// The result of forking a worker for a client on this machine; the parent has its pid and pidfd.
enum LocalFork {
    Child(WorkerSpec),
    Parent(Pid, OwnedFd),
}

/// The process in which a fork returned.
enum AfterFork {
    Child(WorkerSpec),
    /// The parent still owns the spec; it uses what it needs and drops the rest.
    Parent(Pid, WorkerSpec),
}

impl ForkServer<'_> {
    /// Forks workers whose channels the client has created. Returns the worker's parts in a child.
    pub(super) fn fork(
        &mut self,
        id: ClientId,
        numbers: &[u64],
        (rings, results): (bool, bool),
    ) -> Result<Option<WorkerSpec>, Disconnect> {
        let Some(client) = self.clients.get(id) else { return Ok(None) };
        // The descriptors arrived with the first byte of their message, so they are here. If this process has reached
        // its descriptor limit, only the first of them are.
        let mut passed = client.control.take_all_passed()?.into_iter();
        if numbers.len() > MAX_FORKS_PER_MESSAGE {
            return Err(Disconnect::Broken);
        }
        let (mut forked, mut pidfds, mut since) = (Vec::new(), Vec::new(), Instant::now());
        for &number in numbers {
            let parts = next_end(&mut passed, rings, results);
            let parts = parts.ok_or_else(|| "the server has reached its limit of descriptors".to_owned());
            let forked_worker = match self.fork_refusal(id).map_or(parts, Err) {
                Ok(parts) => self.fork_one(id, number, parts),
                Err(reason) => Err(reason),
            };
            match forked_worker {
                Ok(LocalFork::Child(spec)) => return Ok(Some(spec)),
                Ok(LocalFork::Parent(pid, pidfd)) => {
                    forked.push(self.record_fork(id, number, pid, Some(pidfd.as_fd())));
                    pidfds.push(pidfd);
                }
                Err(reason) => self.report_not_forked(id, number, &reason),
            }
            // If a fork takes long, the workers that are ready do not wait for the rest.
            if since.elapsed() > REPORT_DELAY {
                self.report_forked(id, &mut forked, &mut pidfds);
                since = Instant::now();
            }
        }
        self.report_forked(id, &mut forked, &mut pidfds);
        Ok(None)
    }

    fn report_forked(&mut self, id: ClientId, forked: &mut Vec<WorkerPid>, pidfds: &mut Vec<OwnedFd>) {
        if let Some(client) = self.clients.get(id).filter(|_| !forked.is_empty()) {
            client.control.queue_with(&FromServer::Forked(std::mem::take(forked)), std::mem::take(pidfds));
            // The next read finds an error of the channel.
            let _ = client.control.flush();
        }
    }

    fn fork_one(
        &mut self,
        id: ClientId,
        number: u64,
        (channel, [stdout, stderr]): (WorkerEnd, [OwnedFd; 2]),
    ) -> Result<LocalFork, String> {
        let failed = |call| move |error: Errno| CallError { call, error: error.into() }.to_string();
        let process_limits = process_limits_of(&mut self.clients, id);
        let names = WorkerNames::of(pool_of(&mut self.clients, id), number);
        let (parent, ordinal) = (process::own_pid(), count_fork(&mut self.clients, id));
        let spec = WorkerSpec { parent, client: id, ordinal, channel, stdout, stderr, names };
        let (pid, spec) = match fork_process(spec).map_err(failed("fork"))? {
            AfterFork::Child(spec) => return Ok(LocalFork::Child(spec)),
            AfterFork::Parent(pid, spec) => (pid, spec),
        };
        match process::open_pidfd(pid) {
            Ok(pidfd) => {
                let open_status_page = || StatusPage::watch(spec.channel.memory().as_fd()).ok();
                self.children.add(pid, (id, number), process_limits, open_status_page);
                Ok(LocalFork::Parent(pid, pidfd))
            }
            Err(error) => {
                // Without a pidfd the host could not kill the worker, so it is reported as not forked.
                kill::kill_child(pid);
                Err(failed("pidfd_open")(error))
            }
        }
    }

    /// Forks a worker whose channel is a pending peer's connection, for the client with this ticket.
    pub(super) fn attach(
        &mut self,
        pending_peer: ClientId,
        ticket: u128,
        number: u64,
    ) -> Result<Option<WorkerSpec>, Disconnect> {
        let id = self.clients.with_ticket(ticket).ok_or(Disconnect::Broken)?;
        let pending_peer = self.clients.remove_pending_peer(pending_peer).ok_or(Disconnect::Broken)?;
        let (socket, socket_layer) = pending_peer.control.into_connection().ok_or(Disconnect::Broken)?;
        if let Some(refusal) = self.fork_refusal(id) {
            self.report_not_forked(id, number, &refusal);
            return Ok(None);
        }
        match self.fork_for_remote(id, number, socket, socket_layer) {
            Ok(spec) => Ok(spec),
            Err(error) => {
                self.report_not_forked(id, number, &std::io::Error::from(error).to_string());
                Ok(None)
            }
        }
    }

    fn fork_for_remote(
        &mut self,
        client: ClientId,
        number: u64,
        socket: OwnedFd,
        socket_layer: SocketLayer,
    ) -> rustix::io::Result<Option<WorkerSpec>> {
        descriptors::set_blocking(socket.as_fd())?;
        let ((out, stdout), (err, stderr)) = (descriptors::pipe()?, descriptors::pipe()?);
        let (_, channel) = StatusPage::create()?;
        let status_page = StatusPage::watch(channel.as_fd())?;
        let memory = WorkerMemory { channel, results: None };
        let (channel, parent) = (WorkerEnd::Stream { socket, socket_layer, memory }, process::own_pid());
        let names = WorkerNames::of(pool_of(&mut self.clients, client), number);
        let ordinal = count_fork(&mut self.clients, client);
        match fork_process(WorkerSpec { parent, client, ordinal, channel, stdout, stderr, names })? {
            AfterFork::Child(spec) => Ok(Some(spec)),
            AfterFork::Parent(pid, _) => {
                let process_limits = process_limits_of(&mut self.clients, client);
                let remote_outputs = RemoteOutputs { status_page, stdout: out, stderr: err };
                self.children.add_for_remote(pid, (client, number), process_limits, remote_outputs);
                let mut forked = vec![self.record_fork(client, number, pid, None)];
                self.report_forked(client, &mut forked, &mut Vec::new());
                Ok(None)
            }
        }
    }

    fn fork_refusal(&mut self, id: ClientId) -> Option<String> {
        if self.is_draining() && !self.clients.get(id).is_some_and(|client| client.stays) {
            return Some("the server takes no more work".to_owned());
        }
        let max = self.options.max_workers?;
        (self.children.count() >= max).then(|| format!("the server is full: it has max_workers, {max}"))
    }

    /// Counts and logs a fork. Returns its report, with a proof of it for a client that may need one.
    fn record_fork(
        &mut self,
        id: ClientId,
        number: u64,
        pid: Pid,
        pidfd: Option<BorrowedFd<'_>>,
    ) -> WorkerPid {
        self.forked += 1;
        let key = self.clients.get(id).and_then(|client| client.key.as_ref());
        let proof = key.zip(pidfd).and_then(|(key, pidfd)| key.proof_for(pidfd));
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        if self.logs_workers() {
            let pool = pool_of(&mut self.clients, id);
            log_event!(info, client = id, pool, worker = number, pid, "a worker was forked");
        }
        WorkerPid { number, pid, proof }
    }

    fn report_not_forked(&mut self, id: ClientId, number: u64, reason: &str) {
        self.not_forked += 1;
        let logs = self.logs_workers();
        let Some(client) = self.clients.get(id) else { return };
        if logs {
            let pool = client.hello.pool.as_str();
            log_event!(warn, client = id, pool, worker = number, reason, "a worker was not forked");
        }
        client.control.queue(&FromServer::NotForked { number, reason: reason.to_owned() });
    }
}

/// Forks the process, and moves the child to a process group of its own.
fn fork_process(spec: WorkerSpec) -> rustix::io::Result<AfterFork> {
    match process::fork()? {
        ForkSide::Child => Ok(AfterFork::Child(spec)),
        ForkSide::Parent(pid) => {
            process::move_to_own_group(Some(pid));
            Ok(AfterFork::Parent(pid, spec))
        }
    }
}

/// Takes the descriptors of the next worker from those that were passed.
fn next_end(
    passed: &mut impl Iterator<Item = OwnedFd>,
    rings: bool,
    results: bool,
) -> Option<(WorkerEnd, [OwnedFd; 2])> {
    fn memory(passed: &mut impl Iterator<Item = OwnedFd>, results: bool) -> Option<WorkerMemory> {
        let channel = passed.next()?;
        let results = if results { Some(passed.next()?) } else { None };
        Some(WorkerMemory { channel, results })
    }
    let channel = match rings {
        true => {
            let doorbells = WorkerDoorbells { rx: passed.next()?, tx: passed.next()? };
            WorkerEnd::Rings { doorbells, memory: memory(passed, results)? }
        }
        false => {
            let socket = passed.next()?;
            let memory = memory(passed, results)?;
            WorkerEnd::Stream { socket, socket_layer: SocketLayer::None, memory }
        }
    };
    Some((channel, [passed.next()?, passed.next()?]))
}

fn pool_of(clients: &mut Clients, id: ClientId) -> &str {
    clients.get(id).map(|client| client.hello.pool.as_str()).unwrap_or_default()
}

/// Counts a worker of a client.
fn count_fork(clients: &mut Clients, id: ClientId) -> u64 {
    clients.get(id).map_or(1, |client| {
        client.forked += 1;
        client.forked
    })
}

fn process_limits_of(clients: &mut Clients, id: ClientId) -> ProcessLimits {
    clients.get(id).map(|client| client.hello.process_limits).unwrap_or_default()
}

impl ForkedWorker<'_> {
    /// Drops the server's state and runs the worker.
    pub(super) fn become_worker(self) -> ! {
        let ForkedWorker { server, spec } = self;
        let WorkerSpec { parent, client, ordinal, channel, stdout, stderr, names } = spec;
        let ForkServer {
            template,
            mut clients,
            listeners,
            child_signals,
            mut children,
            spare,
            is_private,
            ..
        } = server;
        let WorkerTemplate { program, config, preload, title, inherited } = template;
        let Some(client) = clients.remove(client) else { process::exit_now(0) };
        let Client { control, hello, numbering, arena, process, .. } = client;
        control.close_in_child();
        drop(process);
        clients.forget_in_child();
        listeners.iter().for_each(Listener::forget_in_child);
        process::move_to_own_group(None);
        process::set_name(names.short.as_deref());
        write_title(title, &names.title);
        // A private server already reads from `/dev/null`.
        let null = spare.or_else(|| if is_private { None } else { descriptors::open_null().ok() });
        if let Some(null) = null {
            // On failure the worker keeps the server's standard input.
            let _ = descriptors::replace_stdin(null);
        }
        drop((clients, listeners));
        children.forget_in_child();
        inherited.reset_in_child();
        child_signals.unblock_in_worker();
        // On failure the worker keeps the server's standard output and standard error.
        let _ = descriptors::replace_stdout_and_stderr(stdout, stderr);
        let Hello { fingerprint, max_payload, max_depth, max_memory, process_limits, backtrace, .. } = hello;
        worker::run(Assignment {
            program,
            config: &config,
            preload,
            channel: channel.with_raised_descriptors(descriptors::raise_number),
            arguments: arena,
            fingerprint,
            numbering,
            ordinal,
            limits: Limits { bytes: usize::try_from(max_payload).unwrap_or(usize::MAX), depth: max_depth },
            max_memory,
            memory_limit: process_limits.memory_limit,
            backtrace,
            parent,
            hung_worker_timeout: process_limits.hung_worker_timeout,
        })
    }
}
