//! The parked child of a server: a process that was forked in advance and is no worker yet.
//!
//! It has a socket to the server and nothing of any client. The server assigns a worker to it by a message that passes the
//! descriptors. The child confirms that it has everything, and only then it counts as that worker. A child that does not
//! is ended, and the worker is forked.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::event_loop::ForkServer;
use super::orders::{Orders, WorkerNames, WorkerSpec, next_end};
use super::parking::{Demand, Step};
use crate::channel::{Inbox, WorkerEnd};
use crate::clock::Instant;
use crate::config::MAX_BLOB_MEMORY;
use crate::sys::arena::ReadOnlyArena;
use crate::sys::descriptors::PassedDescriptors;
use crate::sys::passing;
use crate::sys::process::{ForkSide, Pid};
use crate::sys::signals::AllBlocked;
use crate::sys::surroundings::Surroundings;
use crate::sys::{descriptors, kill, parent_death, process, program_pages, sockets};
use crate::telling::log_event;
use crate::wire::control::Parking;
use crate::wire::frame;
use crate::worker;

/// How long a child may take to confirm that it becomes a worker (40 ms). The server does nothing else meanwhile, and a
/// turn of its loop that takes longer than 50 ms counts as frozen.
const ANSWER_LIMIT: Duration = Duration::from_millis(40);

/// How long the server waits for a child that it has killed (1 s).
const KILL_WAIT: Duration = Duration::from_secs(1);

/// Longest message to a child, in bytes. The numbering of a client's interface is the longest part of it, and shorter than
/// its hello.
const MESSAGE_LIMIT: usize = 1 << 20;

/// The second message to a child, an empty frame: it may become the worker.
const GO: [u8; frame::LENGTH] = [0; frame::LENGTH];

/// The child's answer.
const TAKEN: [u8; 1] = [1];

/// What a parked child receives: the orders; whether the channel consists of rings; whether there is memory for results;
/// and, if the pool has an arena for the blobs of its calls, whether its owner is trusted.
type Message = (Orders, bool, bool, Option<bool>);

/// The server's side of a parked child.
pub(super) struct ParkedChild {
    pid: Pid,
    pidfd: OwnedFd,
    socket: OwnedFd,
    /// What it has inherited.
    surroundings: Box<Surroundings>,
}

/// A child that was assigned a worker and has not confirmed it.
pub(super) struct AssignedChild {
    child: ParkedChild,
    pub(super) number: u64,
    pub(super) spec: WorkerSpec,
}

/// What came of an attempt to assign a worker.
pub(super) enum Assigned {
    Sent(AssignedChild),
    /// The worker has to be forked.
    Impossible(WorkerSpec),
}

impl ParkedChild {
    /// Returns whether the child has confirmed.
    fn has_answered(&self) -> bool {
        let mut answer = Vec::with_capacity(TAKEN.len());
        descriptors::receive(self.socket.as_fd(), &mut answer).is_ok_and(|count| count > 0)
    }

    /// Waits for the answer. From its return on the child can give no other.
    fn answers(&self) -> bool {
        let limit = Instant::now() + ANSWER_LIMIT;
        loop {
            let left = limit.saturating_duration_since(Instant::now());
            match descriptors::wait_until_readable_for(self.socket.as_fd(), left) {
                Ok(true) => break,
                _ if left.is_zero() => break,
                _ => {}
            }
        }
        if self.has_answered() {
            return true;
        }
        // Its answer arrives either before this or never.
        sockets::stop_receiving(self.socket.as_fd());
        self.has_answered()
    }

    /// Kills the child. The loop reaps it.
    fn abandon(&self) {
        // It has changed neither its user nor its group. Its socket closes in any case, which ends it.
        let _ = kill::kill(self.pidfd.as_fd());
    }

    /// Kills the child and reaps it.
    pub(super) fn end(self) {
        self.abandon();
        drop(self.socket);
        // A child that takes longer is reaped by the loop, or by whatever adopts it.
        let _ = descriptors::wait_until_readable_for(self.pidfd.as_fd(), KILL_WAIT);
        process::discard(self.pidfd.as_fd());
    }
}

impl AsFd for ParkedChild {
    /// The socket, whose end is that of the child.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What came of a turn's look at the parked child.
pub(super) enum Tended {
    /// This process is the child, with this end of its socket.
    Child(ParkedEnd),
    /// How long until the next look.
    Wait(Option<Duration>),
}

impl ForkServer<'_> {
    /// Forks or ends the parked child if it is time.
    pub(super) fn tend_parked(&mut self, now: Instant) -> Tended {
        if self.has_more_exits || self.clients.has_messages() {
            return Tended::Wait(None);
        }
        let demand = self.parking_demand();
        match self.parking.step(demand, now) {
            Step::Fork => match self.park_with_program(now) {
                Some(end) => return Tended::Child(end),
                // What is to be done next depends on what came of it.
                None => return Tended::Wait(Some(Duration::ZERO)),
            },
            Step::End => self.parking.take().into_iter().for_each(ParkedChild::end),
            Step::Wait(wait) => return Tended::Wait(wait),
        }
        Tended::Wait(None)
    }

    fn parking_demand(&self) -> Demand {
        if self.is_draining() {
            return Demand::No;
        }
        match self.clients.parking() {
            Parking::Never => Demand::No,
            Parking::Always => Demand::Yes,
            Parking::WhileUsed => {
                let mut used = self.children.clients();
                let is_used = used.any(|client| self.clients.parking_of(client) == Parking::WhileUsed);
                if is_used { Demand::Yes } else { Demand::Recent }
            }
        }
    }

    /// Forks the child with the program mapped in this process as well, so that no page of it counts as the child's own.
    fn park_with_program(&mut self, now: Instant) -> Option<ParkedEnd> {
        if !std::mem::replace(&mut self.has_mapped_program, true) {
            program_pages::map_all();
        }
        self.park(now)
    }

    /// Forks the child. Returns its end of the socket in the child.
    fn park(&mut self, now: Instant) -> Option<ParkedEnd> {
        let (parent, surroundings) = (process::own_pid(), Box::new(Surroundings::here()));
        let names = WorkerNames::of_parked(&self.template.name);
        let forked = sockets::socket_pair().and_then(|(socket, theirs)| {
            descriptors::set_nonblocking(socket.as_fd())?;
            // No handler of a preload's runs in the child.
            let blocked = AllBlocked::here()?;
            match process::fork()? {
                ForkSide::Child => {
                    blocked.keep_in_child();
                    Ok(Err(ParkedEnd { socket: theirs, parent, names }))
                }
                // It moves itself to a group of its own once it has its name, so that an application which adopts it can
                // tell it by either. Without a pidfd it would be of no use to a client, and it ends with its socket.
                ForkSide::Parent(pid) => Ok(Ok((pid, process::open_pidfd(pid)?, socket))),
            }
        });
        match forked {
            Ok(Err(end)) => return Some(end),
            Ok(Ok((pid, pidfd, socket))) => {
                self.parking.park(ParkedChild { pid, pidfd, socket, surroundings }, now);
            }
            // Without a parked child, the next worker is forked, and then a failure is reported.
            Err(_) => self.parking.note_failure(now),
        }
        None
    }

    /// Closes the descriptors that are only there for parked children: others are needed, and there are no more. Children
    /// that are parked later are forked after the next start, and serve clients without an arena.
    pub(super) fn free_descriptors(&mut self) {
        self.parking.take().into_iter().for_each(ParkedChild::end);
        self.parking.note_failure(Instant::now());
        self.clients.close_arena_files();
    }

    /// Notes that the parked child has ended.
    pub(super) fn note_parked_end(&mut self, now: Instant) {
        if let Some(child) = self.parking.take_ended(now) {
            // It may only have closed its socket.
            child.abandon();
        }
    }

    /// Returns how many children are parked.
    pub(super) fn parked(&self) -> u64 {
        u64::from(self.parking.child().is_some())
    }

    /// Assigns a worker to the parked child. It is forked otherwise.
    pub(super) fn assign(&mut self, number: u64, spec: WorkerSpec) -> Assigned {
        self.parking.note_start(Instant::now());
        let Some(client) = self.clients.get(spec.client) else { return Assigned::Impossible(spec) };
        let arena = client.arena.as_ref().map(|arena| (arena.file.as_ref(), client.is_trusted));
        let Some((rings, results, mut passed)) = spec.passable() else { return Assigned::Impossible(spec) };
        match arena {
            // The client's arena can only be inherited.
            Some((None, _)) => return Assigned::Impossible(spec),
            Some((Some(file), _)) => passed.push(file.as_fd()),
            None => {}
        }
        let Some(child) = self.parking.take() else { return Assigned::Impossible(spec) };
        let mut bytes = Vec::new();
        frame::append(&mut bytes, &(&spec.orders, rings, results, arena.map(|(_, is_trusted)| is_trusted)));
        let socket = child.socket.as_fd();
        let is_sent = descriptors::send_with_descriptors(socket, &bytes, &passed) == Ok(bytes.len())
            // The child wakes up meanwhile.
            && !child.surroundings.have_changed()
            && descriptors::send(socket, &GO) == Ok(GO.len());
        if is_sent {
            return Assigned::Sent(AssignedChild { child, number, spec });
        }
        child.abandon();
        Assigned::Impossible(spec)
    }

    /// Finishes an assignment whose child has answered or is waited for. Returns pid and pidfd of the worker, or the
    /// worker's parts if the child does not become it.
    pub(super) fn finish_assignment(
        &mut self,
        assigned: AssignedChild,
    ) -> (u64, WorkerSpec, Option<(Pid, OwnedFd)>) {
        let AssignedChild { child, number, spec } = assigned;
        if child.answers() {
            self.parking.note_success();
            return (number, spec, Some((child.pid, child.pidfd)));
        }
        child.abandon();
        self.parking.note_failure(Instant::now());
        log_event!(debug, worker = number, "a parked child has not become a worker");
        (number, spec, None)
    }
}

impl AssignedChild {
    /// Returns whether [`finish_assignment`](ForkServer::finish_assignment) would not wait.
    pub(super) fn is_ready(&self) -> bool {
        descriptors::wait_until_readable_for(self.child.socket.as_fd(), Duration::ZERO).unwrap_or(false)
    }
}

/// The child's side of a parked child.
pub(super) struct ParkedEnd {
    socket: OwnedFd,
    /// The server.
    pub(super) parent: Pid,
    pub(super) names: WorkerNames,
}

/// What a parked child was assigned.
pub(super) struct Received {
    pub(super) orders: Orders,
    pub(super) channel: WorkerEnd,
    pub(super) outputs: [OwnedFd; 2],
    pub(super) arena: Option<Arc<ReadOnlyArena>>,
}

impl ParkedEnd {
    /// Has this process end with its server, from now until it is a worker.
    pub(super) fn end_with_server(&self) {
        parent_death::die_with(self.parent);
    }

    /// Waits until the server assigns a worker, and confirms it. Returns `None` if the server is gone, or forks the worker
    /// because this process cannot become it.
    pub(super) fn receive(self) -> Option<Received> {
        // This process has time for it now.
        program_pages::map_all();
        worker::rehearse();
        let (mut inbox, mut passed) = (Inbox::default(), Vec::new());
        let body = self.next(&mut inbox, &mut passed)?;
        let (orders, rings, results, is_trusted): Message = frame::header_only(body).ok()?;
        let mut passed = passed.into_iter().flatten();
        let (channel, outputs) = next_end(&mut passed, rings, results)?;
        let arena = match is_trusted {
            None => None,
            Some(is_trusted) => {
                let file = passed.next()?;
                Some(Arc::new(ReadOnlyArena::open(file.as_fd(), MAX_BLOB_MEMORY, is_trusted).ok()?))
            }
        };
        self.next(&mut inbox, &mut Vec::new())?;
        parent_death::outlive().ok()?;
        let sent = passing::retry(|| descriptors::send(self.socket.as_fd(), &TAKEN)).ok()?;
        (sent == TAKEN.len()).then_some(Received { orders, channel, outputs, arena })
    }

    /// Waits for the next frame. Returns `None` at the end.
    fn next<'a>(&self, inbox: &'a mut Inbox, passed: &mut Vec<PassedDescriptors>) -> Option<&'a [u8]> {
        while !inbox.has_frame(MESSAGE_LIMIT).ok()? {
            let read = |bytes: &mut Vec<u8>| {
                passing::retry(|| descriptors::receive_with_descriptors(self.socket.as_fd(), bytes, passed))
            };
            if matches!(inbox.fill(read), Ok((0, _)) | Err(_)) {
                return None;
            }
        }
        inbox.next_frame(MESSAGE_LIMIT).ok()?
    }
}
