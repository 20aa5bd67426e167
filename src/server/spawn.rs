//! From a request for workers to running workers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::children::{ClientId, RemoteOutputs};
use super::clients::{Client, Clients};
use super::control_channel::Disconnect;
use super::event_loop::{ForkServer, WorkerTemplate};
use super::listener::Listener;
use super::orders::{Orders, WorkerNames, WorkerSpec, next_end};
use super::parked::{Assigned, AssignedChild, ParkedEnd, Received};
use super::private_server::write_title;
use crate::channel::{SocketLayer, StatusPage, WorkerEnd, WorkerMemory};
use crate::clock::Instant;
use crate::sys::process::{ForkSide, Pid, TitleSpace};
use crate::sys::{CallError, Errno, descriptors, kill, process, signals};
use crate::telling::log_event;
use crate::wire::control::{FromServer, MAX_FORKS_PER_MESSAGE, WorkerPid};
use crate::wire::frame::Limits;
use crate::worker;
use crate::worker::{Assignment, Preload, Program};

/// How long forked workers may wait to be reported together with others of the same message.
const REPORT_DELAY: Duration = Duration::from_millis(1);

/// A process that was just forked.
pub(super) struct ForkedProcess<'a> {
    pub(super) server: ForkServer<'a>,
    pub(super) role: ForkedAs,
}

/// What a forked process is about to become.
pub(super) enum ForkedAs {
    Worker(WorkerSpec),
    /// The parked child.
    Parked(ParkedEnd),
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

/// Workers that were forked for one message, until they are reported.
struct ForkedWorkers {
    workers: Vec<WorkerPid>,
    pidfds: Vec<OwnedFd>,
    /// When they were last reported.
    since: Instant,
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
        let mut forked = ForkedWorkers { workers: Vec::new(), pidfds: Vec::new(), since: Instant::now() };
        let mut assigned: Option<AssignedChild> = None;
        for &number in numbers {
            let parts = next_end(&mut passed, rings, results);
            if parts.is_none() {
                self.free_descriptors();
            }
            let parts = parts.ok_or_else(|| "the server has reached its limit of descriptors".to_owned());
            let spec = match self.fork_refusal(id, usize::from(assigned.is_some())).map_or(parts, Err) {
                Ok(parts) => self.spec(id, number, parts),
                Err(reason) => Err(reason),
            };
            match spec.map(|spec| self.assign(number, spec)) {
                Ok(Assigned::Sent(child)) => assigned = Some(child),
                Ok(Assigned::Impossible(spec)) => {
                    if let Some(spec) = self.fork_one(number, spec, &mut forked) {
                        return Ok(Some(spec));
                    }
                }
                Err(reason) => self.report_not_forked(id, number, &reason),
            }
            // If a fork takes long, the workers that are ready do not wait for the rest.
            if forked.since.elapsed() > REPORT_DELAY {
                let ready = assigned.take_if(|child| child.is_ready());
                if let Some(spec) = ready.and_then(|child| self.confirm(child, &mut forked)) {
                    return Ok(Some(spec));
                }
                self.report_forked(id, &mut forked);
            }
        }
        // The child wakes up while others are forked.
        if let Some(spec) = assigned.and_then(|child| self.confirm(child, &mut forked)) {
            return Ok(Some(spec));
        }
        self.report_forked(id, &mut forked);
        Ok(None)
    }

    fn report_forked(&mut self, id: ClientId, forked: &mut ForkedWorkers) {
        forked.since = Instant::now();
        if let Some(client) = self.clients.get(id).filter(|_| !forked.workers.is_empty()) {
            let (workers, pidfds) = (std::mem::take(&mut forked.workers), std::mem::take(&mut forked.pidfds));
            client.control.queue_with(&FromServer::Forked(workers), pidfds);
            // The next read finds an error of the channel.
            let _ = client.control.flush();
        }
    }

    fn spec(
        &mut self,
        id: ClientId,
        number: u64,
        (channel, [stdout, stderr]): (WorkerEnd, [OwnedFd; 2]),
    ) -> Result<WorkerSpec, String> {
        let client = self.clients.get(id).ok_or("its client is gone")?;
        let (parent, orders) = (process::own_pid(), Orders::of_next(client, number));
        Ok(WorkerSpec { client: id, parent, orders, channel, stdout, stderr })
    }

    /// Forks one worker, or reports why it cannot. Returns the worker's parts in the child.
    fn fork_one(&mut self, number: u64, spec: WorkerSpec, forked: &mut ForkedWorkers) -> Option<WorkerSpec> {
        let id = spec.client;
        match self.fork_local(number, spec) {
            Ok(LocalFork::Child(spec)) => return Some(spec),
            Ok(LocalFork::Parent(pid, pidfd)) => {
                forked.workers.push(self.record_fork(id, number, pid, Some(pidfd.as_fd())));
                forked.pidfds.push(pidfd);
            }
            Err(reason) => self.report_not_forked(id, number, &reason),
        }
        None
    }

    /// Waits until the parked child has become the worker, or else forks it. Returns the worker's parts in a forked child.
    fn confirm(&mut self, assigned: AssignedChild, forked: &mut ForkedWorkers) -> Option<WorkerSpec> {
        let (number, spec, worker) = self.finish_assignment(assigned);
        let Some((pid, pidfd)) = worker else { return self.fork_one(number, spec, forked) };
        self.add_child(pid, number, &spec);
        forked.workers.push(self.record_fork(spec.client, number, pid, Some(pidfd.as_fd())));
        forked.pidfds.push(pidfd);
        None
    }

    fn add_child(&mut self, pid: Pid, number: u64, spec: &WorkerSpec) {
        let open_status_page = || StatusPage::watch(spec.channel.memory().as_fd()).ok();
        self.children.add(pid, (spec.client, number), spec.orders.process_limits, open_status_page);
    }

    fn fork_local(&mut self, number: u64, spec: WorkerSpec) -> Result<LocalFork, String> {
        let failed = |call| move |error: Errno| CallError { call, error: error.into() }.to_string();
        let (pid, spec) = match fork_process(spec).map_err(failed("fork"))? {
            AfterFork::Child(spec) => return Ok(LocalFork::Child(spec)),
            AfterFork::Parent(pid, spec) => (pid, spec),
        };
        match process::open_pidfd(pid) {
            Ok(pidfd) => {
                self.add_child(pid, number, &spec);
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
        if let Some(refusal) = self.fork_refusal(id, 0) {
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
        id: ClientId,
        number: u64,
        socket: OwnedFd,
        socket_layer: SocketLayer,
    ) -> rustix::io::Result<Option<WorkerSpec>> {
        descriptors::set_blocking(socket.as_fd())?;
        let ((out, stdout), (err, stderr)) = (descriptors::pipe()?, descriptors::pipe()?);
        let (_, channel) = StatusPage::create()?;
        let status_page = StatusPage::watch(channel.as_fd())?;
        let memory = WorkerMemory { channel, results: None };
        let channel = WorkerEnd::Stream { socket, socket_layer, memory };
        let Ok(spec) = self.spec(id, number, (channel, [stdout, stderr])) else { return Ok(None) };
        let limits = spec.orders.process_limits;
        let unassigned = match self.assign(number, spec) {
            Assigned::Sent(child) => match self.finish_assignment(child) {
                (_, _, Some((pid, _))) => Ok(pid),
                (_, spec, None) => Err(spec),
            },
            Assigned::Impossible(spec) => Err(spec),
        };
        let pid = match unassigned.map_or_else(|spec| fork_process(spec).map(Err), |pid| Ok(Ok(pid)))? {
            Ok(pid) | Err(AfterFork::Parent(pid, _)) => pid,
            Err(AfterFork::Child(spec)) => return Ok(Some(spec)),
        };
        let remote_outputs = RemoteOutputs { status_page, stdout: out, stderr: err };
        self.children.add_for_remote(pid, (id, number), limits, remote_outputs);
        let workers = vec![self.record_fork(id, number, pid, None)];
        self.report_forked(id, &mut ForkedWorkers { workers, pidfds: Vec::new(), since: Instant::now() });
        Ok(None)
    }

    /// `assigned`: how many workers a parked child is about to become.
    fn fork_refusal(&mut self, id: ClientId, assigned: usize) -> Option<String> {
        if self.is_draining() && !self.clients.get(id).is_some_and(|client| client.stays) {
            return Some("the server takes no more work".to_owned());
        }
        let max = self.options.max_workers?;
        (self.children.count() + assigned >= max)
            .then(|| format!("the server is full: it has max_workers, {max}"))
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

fn pool_of(clients: &mut Clients, id: ClientId) -> &str {
    clients.get(id).map(|client| client.hello.pool.as_str()).unwrap_or_default()
}

/// What a forked process keeps of its server.
struct Remains<'a> {
    program: &'a Program,
    config: Vec<u8>,
    preload: &'static Preload,
    title: Option<TitleSpace>,
}

impl ForkedProcess<'_> {
    /// Drops the server's state and becomes what this process was forked for.
    pub(super) fn enter_role(self) -> ! {
        match self.role {
            ForkedAs::Worker(spec) => become_worker(self.server, spec),
            ForkedAs::Parked(end) => wait_for_worker(self.server, end),
        }
    }
}

fn become_worker(mut server: ForkServer<'_>, spec: WorkerSpec) -> ! {
    let WorkerSpec { client, parent, orders, channel, stdout, stderr } = spec;
    let Some(Client { control, arena, process, .. }) = server.clients.remove(client) else {
        process::exit_now(0)
    };
    control.close_in_child();
    drop(process);
    let remains = shed(server, &orders.names);
    signals::unblock_in_worker();
    let arena = arena.map(|arena| arena.memory);
    run_worker(&remains, parent, Received { orders, channel, outputs: [stdout, stderr], arena })
}

/// Waits, as the parked child, until the server assigns a worker, and becomes it.
fn wait_for_worker(server: ForkServer<'_>, end: ParkedEnd) -> ! {
    end.end_with_server();
    let (parent, remains) = (end.parent, shed(server, &end.names));
    let Some(received) = end.receive() else { process::exit_now(0) };
    set_names(remains.title, &received.orders.names);
    // What came while it was no worker.
    signals::discard_pending();
    signals::unblock_in_worker();
    run_worker(&remains, parent, received)
}

/// Closes, unmaps, resets and forgets what a forked process does not share with its server. The signals stay as they are.
fn shed<'a>(server: ForkServer<'a>, names: &WorkerNames) -> Remains<'a> {
    let ForkServer {
        template,
        mut clients,
        listeners,
        child_signals,
        mut children,
        parking,
        spare,
        is_private,
        ..
    } = server;
    let WorkerTemplate { program, config, preload, title, inherited, .. } = template;
    clients.forget_in_child();
    listeners.iter().for_each(Listener::forget_in_child);
    set_names(title, names);
    process::move_to_own_group(None);
    // A private server already reads from `/dev/null`.
    let null = spare.or_else(|| if is_private { None } else { descriptors::open_null().ok() });
    if let Some(null) = null {
        // On failure the worker keeps the server's standard input.
        let _ = descriptors::replace_stdin(null);
    }
    drop((clients, listeners, parking));
    children.forget_in_child();
    inherited.reset_in_child();
    child_signals.give_up_in_child();
    Remains { program, config, preload, title }
}

fn set_names(title: Option<TitleSpace>, names: &WorkerNames) {
    process::set_name(names.short.as_deref());
    write_title(title, &names.title);
}

fn run_worker(remains: &Remains<'_>, parent: Pid, received: Received) -> ! {
    let Received { orders, channel, outputs: [stdout, stderr], arena } = received;
    // On failure the worker keeps the server's standard output and standard error.
    let _ = descriptors::replace_stdout_and_stderr(stdout, stderr);
    worker::run(Assignment {
        program: remains.program,
        config: &remains.config,
        preload: remains.preload,
        channel: channel.with_raised_descriptors(descriptors::raise_number),
        arguments: arena,
        fingerprint: orders.fingerprint,
        numbering: orders.numbering,
        ordinal: orders.ordinal,
        limits: Limits {
            bytes: usize::try_from(orders.max_payload).unwrap_or(usize::MAX),
            depth: orders.max_depth,
        },
        max_memory: orders.max_memory,
        memory_limit: orders.process_limits.memory_limit,
        backtrace: orders.backtrace,
        parent,
        hung_worker_timeout: orders.process_limits.hung_worker_timeout,
    })
}
