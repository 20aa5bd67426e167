//! A fork server at work: connections, forks and exits, for all of its clients.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::children::{Children, ClientId, OutputId};
use super::clients::{ClientArena, Clients};
use super::compatibility::ServerVersion;
use super::control_channel::{ControlChannel, Disconnect};
use super::inheritance::Inheritance;
use super::listener::Listener;
use super::orders::WorkerSpec;
use super::parked::{ParkedChild, Tended};
use super::parking::Parking;
use super::rejection_log::RejectionLog;
use super::spawn::{ForkedAs, ForkedProcess};
use super::succession::Succession;
use super::systemd;
use super::systemd::Notices;
use crate::clock::Instant;
use crate::config::ServerOptions;
use crate::frozen_time::FrozenTime;
use crate::sys::descriptors;
use crate::sys::original;
use crate::sys::passing::RETRY_WAIT;
use crate::sys::process;
use crate::sys::process::TitleSpace;
use crate::sys::signals;
use crate::sys::signals::{ChildSignals, StopRequest};
use crate::sys::{CallError, Errno};
use crate::telling;
use crate::telling::log_event;
use crate::wire::control;
use crate::wire::control::{FromServer, Hello, ToServer};
use crate::wire::handover::TakeOver;
use crate::worker::{Preload, Program};

/// How long the server waits for killed workers before it exits.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// Most messages of one client that are handled in one turn of the loop.
const MAX_MESSAGES: usize = 64;

/// Longest time that one turn of the loop takes, and that a wait lasts longer than it was to, in a process that runs
/// (50 ms). What is beyond that was frozen.
const LONGEST_TURN: Duration = Duration::from_millis(50);

/// Longest wait while the end of the drain counts down (1 s), so that it is noticed if the process is frozen meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Clients whose arenas a server keeps the descriptors of, for parked children (128). Those of more clients would use up its
/// descriptors; their workers are always forked.
const MAX_KEPT_ARENAS: usize = 128;

/// What every worker is made from.
pub(super) struct WorkerTemplate<'a> {
    /// The server's name in `ps`.
    pub(super) name: String,
    pub(super) program: &'a Program,
    pub(super) config: Vec<u8>,
    pub(super) preload: &'static Preload,
    pub(super) title: Option<TitleSpace>,
    pub(super) inherited: Inheritance,
}

/// A server that has run its preload.
pub(super) struct ForkServer<'a> {
    pub(super) template: WorkerTemplate<'a>,
    pub(super) options: ServerOptions,
    pub(super) own: ServerVersion,
    /// Empty in a private server, which ends with its only client. A standalone server ends on a signal or when it is
    /// replaced.
    pub(super) listeners: Vec<Listener>,
    pub(super) is_private: bool,
    /// When connections are accepted again after a failure.
    pub(super) pause: Option<Instant>,
    /// A reserved descriptor. It is closed when no more can be opened, so that one more peer can be accepted and
    /// refused with the reason.
    pub(super) spare: Option<OwnedFd>,
    pub(super) clients: Clients,
    pub(super) child_signals: ChildSignals,
    pub(super) children: Children,
    /// The child that becomes the next worker.
    pub(super) parking: Parking<ParkedChild>,
    /// Whether the program's pages were mapped into this process.
    pub(super) has_mapped_program: bool,
    /// Whether children have exited that were not reaped in the last turn of the loop.
    pub(super) has_more_exits: bool,
    /// Set once the server takes no more work: `Some(Some(deadline))` if its workers must finish by then.
    pub(super) draining: Option<Option<Instant>>,
    pub(super) started: Instant,
    /// When this process did not run. That time counts against no limit.
    pub(super) frozen: FrozenTime,
    pub(super) forked: u64,
    pub(super) not_forked: u64,
    pub(super) rejections: RejectionLog,
    pub(super) notices: Notices,
    pub(super) succession: Succession,
    /// What the server has sent that has taken over.
    pub(super) successor: Option<TakeOver>,
    /// Whether to stop once it is known whether another server takes over.
    stops_after_succession: bool,
}

/// What a server needs of the system before it opens anything that others see.
pub(super) struct Footing {
    child_signals: ChildSignals,
    spare: Option<OwnedFd>,
}

impl Footing {
    /// Asks the system for everything that a server cannot work without.
    ///
    /// # Errors
    ///
    /// The call that was refused, and its error.
    pub(super) fn find(is_private: bool) -> Result<Self, CallError> {
        // The pidfds of workers are passed to their clients, which could not watch or kill them without.
        process::open_pidfd(process::own_pid()).map_err(CallError::of("pidfd_open"))?;
        let spare = (!is_private).then(descriptors::open_null).transpose().map_err(CallError::of("pipe2"))?;
        // If this is refused, orphans of dead workers become children of another process, which reaps them.
        let _ = process::become_subreaper();
        let child_signals = ChildSignals::watch().map_err(CallError::of("signalfd"))?;
        Ok(Footing { child_signals, spare })
    }

    /// Gives up what was found, because the server does not start for another reason.
    pub(super) fn give_up(self) {
        self.child_signals.give_up();
    }
}

/// What a watched descriptor belongs to.
#[derive(Clone, Copy)]
enum Watched {
    /// The listener at this place.
    Listener(usize),
    Peer(ClientId),
    /// The process of an application.
    Application(ClientId),
    Output(OutputId),
    Adopted,
    Parked,
}

impl<'a> ForkServer<'a> {
    /// Makes a server without clients. They connect to a listener, or [`welcome`](Self::welcome) adds the only one.
    pub(super) fn new(
        template: WorkerTemplate<'a>,
        options: ServerOptions,
        own: ServerVersion,
        listeners: Vec<Listener>,
        Footing { child_signals, spare }: Footing,
    ) -> Self {
        let now = Instant::now();
        ForkServer {
            parking: Parking::new(options.park_worker && descriptors::are_plenty(), now),
            has_mapped_program: false,
            template,
            options,
            own,
            child_signals,
            is_private: listeners.is_empty(),
            listeners,
            pause: None,
            spare,
            clients: Clients::default(),
            children: Children::new(),
            // Of children that the preload has left, no signal tells any more.
            has_more_exits: true,
            draining: None,
            started: now,
            frozen: FrozenTime::new(now),
            forked: 0,
            not_forked: 0,
            rejections: RejectionLog::new(now),
            notices: Notices::default(),
            succession: Succession::new(),
            successor: None,
            stops_after_succession: false,
        }
    }

    /// Adds the application of a private server, whose hello has been checked, and its process. Its channel does not
    /// block.
    pub(super) fn welcome(&mut self, mut control: ControlChannel, hello: Hello, process: Option<OwnedFd>) {
        control.queue(&FromServer::Welcome { ticket: None });
        self.clients.welcome(control, hello, process);
    }

    /// Runs until there is nothing more to do, then closes the listeners and kills all workers. Returns `Ok` in every
    /// child that it forks.
    pub(super) fn serve(mut self) -> Result<ForkedProcess<'a>, Disconnect> {
        match self.run() {
            Ok(role) => Ok(ForkedProcess { server: self, role }),
            Err(disconnect) => {
                self.close_listeners();
                self.parking.take().into_iter().for_each(ParkedChild::end);
                // A client on another machine learns of these ends from here alone: another process may hold the
                // connection of a worker.
                self.children.kill_all(KILL_WAIT).into_iter().for_each(|exit| self.report_exit(exit));
                for id in self.clients.ids() {
                    // A client that does not get it finds the channel closed.
                    let _ = self.clients.get(id).map(|client| client.control.flush());
                }
                Err(disconnect)
            }
        }
    }

    /// Closes the listeners. Their paths are removed, unless another server is taking over.
    fn close_listeners(&mut self) {
        let is_owner = self.succession.successor().is_none() && !self.succession.is_over();
        for listener in self.listeners.drain(..).filter(|_| is_owner) {
            listener.close();
        }
    }

    /// Returns `Ok` in a forked child, with what it is to become.
    fn run(&mut self) -> Result<ForkedAs, Disconnect> {
        loop {
            // A copy of this process can only come from the user's subscriber here; it runs no turn.
            original::exit_copy();
            for id in self.clients.pending_ids() {
                if let Some(spec) = self.handle_pending_peer(id) {
                    return Ok(ForkedAs::Worker(spec));
                }
            }
            for client in self.clients.ids() {
                match self.handle_messages(client) {
                    Ok(None) => {}
                    Ok(Some(spec)) => return Ok(ForkedAs::Worker(spec)),
                    Err(disconnect) => self.remove_client(client, disconnect)?,
                }
            }
            if self.stops_after_succession && self.succession.successor().is_none() {
                self.stop_accepting();
            }
            let is_overdue = self.remaining_drain(Instant::now()).is_some_and(|left| left.is_zero());
            let is_done = self.children.count() == 0 && !self.clients.any_stays();
            if self.draining.is_some() && (is_overdue || is_done) {
                return Err(Disconnect::Closed);
            }
            match self.tend_parked(Instant::now()) {
                Tended::Child(end) => return Ok(ForkedAs::Parked(end)),
                Tended::Wait(wait) => self.wait(wait)?,
            }
        }
    }

    /// Waits for events, for at most this time, and handles them, except for messages that were read:
    /// [`run`](Self::run) handles those.
    fn wait(&mut self, at_most: Option<Duration>) -> Result<(), Disconnect> {
        let now = Instant::now();
        self.frozen.note_run(now, LONGEST_TURN);
        self.rejections.log_omitted(now);
        telling::catch_up();
        self.notices.flush(now);
        let timers = [
            self.children.check(now, &self.frozen),
            self.clients.next_overdue(now, &self.frozen),
            self.clients.next_look(now),
            self.clients.next_resumed(now),
            self.remaining_pause(now),
            self.rejections.next(now),
            self.remaining_drain(now).map(|left| left.min(LONGEST_WAIT)),
            self.clients.next_room(now).filter(|_| !self.listeners.is_empty()),
            self.succession.next_overdue(now, &self.frozen),
            (self.has_more_exits || self.clients.has_messages()).then_some(Duration::ZERO),
            self.notices.next(now),
            at_most,
        ];
        let timeout = timers.into_iter().flatten().min();
        let (tokens, awake) = {
            let (tokens, watched): (Vec<Watched>, Vec<(BorrowedFd<'_>, bool)>) = self.watched(now).unzip();
            match signals::poll(&watched, &self.child_signals, timeout) {
                Ok(awake) => (tokens, awake),
                // There was no memory for it.
                Err(Errno::NOMEM | Errno::AGAIN) => {
                    std::thread::sleep(RETRY_WAIT);
                    return Ok(());
                }
                Err(error) => return Err(self.give_up("poll", error)),
            }
        };
        let longest = timeout.map_or(Duration::MAX, |timeout| timeout.saturating_add(LONGEST_TURN));
        self.frozen.note_run(Instant::now(), longest);
        let request = awake.child_signals.then(|| self.child_signals.take_stop_request()).flatten();
        if awake.child_signals || self.has_more_exits {
            self.report_exits();
        }
        self.handle_request(request)?;
        let is_adopted = |(token, _): &(&Watched, &bool)| matches!(token, Watched::Adopted);
        let adopted: Vec<bool> =
            tokens.iter().zip(&awake.readable).filter(is_adopted).map(|(_, &readable)| readable).collect();
        self.children.remove_exited_adopted(&adopted);
        for (token, _) in tokens.iter().zip(&awake.readable).filter(|(_, readable)| **readable) {
            match *token {
                Watched::Peer(id) => self.read(id)?,
                Watched::Application(id) => self.remove_client(id, Disconnect::Closed)?,
                Watched::Listener(at) => self.accept_peers(at),
                Watched::Output(output) => self.forward_output(output),
                Watched::Adopted => {}
                Watched::Parked => self.note_parked_end(Instant::now()),
            }
        }
        self.drop_overdue_peers(Instant::now());
        self.remove_dead_clients()
    }

    /// Tells all clients, and standard error, why this server ends.
    fn give_up(&mut self, call: &'static str, error: Errno) -> Disconnect {
        let error = CallError { call, error: error.into() };
        let reason = format!("the fork server cannot wait for events: {error}");
        telling::print_line(format_args!("{reason}"));
        self.clients.queue_for_all(&FromServer::Refused { reason });
        for id in self.clients.ids() {
            // A client that does not get it finds the channel closed.
            let _ = self.clients.get(id).map(|client| client.control.flush());
        }
        Disconnect::Broken
    }

    fn watched(&self, now: Instant) -> impl Iterator<Item = (Watched, (BorrowedFd<'_>, bool))> {
        let accepts =
            self.pause.is_none() && !self.succession.is_committed() && self.clients.next_room(now).is_none();
        let listeners = self.listeners.iter().enumerate().filter(move |_| accepts);
        let listeners = listeners.map(|(at, listener)| (Watched::Listener(at), (listener.as_fd(), false)));
        let peers = self.clients.watched(now).map(|(id, fd, unsent)| (Watched::Peer(id), (fd, unsent)));
        let processes =
            self.clients.processes().map(|(id, handle)| (Watched::Application(id), (handle, false)));
        let adopted = self.children.adopted().map(|handle| (Watched::Adopted, (handle, false)));
        // Output for a slow client is not read, so the worker blocks as it would on a full pipe.
        let outputs = self.children.outputs().filter(|(_, client, _)| !self.clients.is_slow(*client));
        let outputs = outputs.map(|(output, _, end)| (Watched::Output(output), (end, false)));
        let parked = self.parking.child().map(|child| (Watched::Parked, (child.as_fd(), false)));
        listeners.chain(peers).chain(processes).chain(adopted).chain(outputs).chain(parked)
    }

    fn read(&mut self, id: ClientId) -> Result<(), Disconnect> {
        let Err(disconnect) = self.clients.read(id) else { return Ok(()) };
        if self.clients.get(id).is_some() {
            return self.remove_client(id, disconnect);
        }
        self.drop_pending_peer(id, &disconnect);
        Ok(())
    }

    /// Reads what a worker has printed and queues it for the client.
    fn forward_output(&mut self, output: OutputId) {
        if let Some((id, printed)) = self.children.read_output(output)
            && let Some(client) = self.clients.get(id)
        {
            client.control.queue(&printed);
        }
    }

    /// Does what a signal requests of a standalone server. A private server ends with its application, which decides what
    /// a signal to all of its processes means.
    fn handle_request(&mut self, request: Option<StopRequest>) -> Result<(), Disconnect> {
        match request.filter(|_| !self.is_private) {
            None => Ok(()),
            Some(StopRequest::HangUp | StopRequest::Drain)
                if self.draining.is_none() && !self.stops_after_succession =>
            {
                // A successor is about to make it known whether it serves, and has a deadline.
                self.stops_after_succession = true;
                Ok(())
            }
            // A service manager may send it together with SIGTERM.
            Some(StopRequest::HangUp) => Ok(()),
            // A second SIGTERM ends the server at once.
            Some(StopRequest::Drain | StopRequest::Stop) => Err(Disconnect::Closed),
        }
    }

    /// Closes the listeners and drains, unless another server has taken over meanwhile.
    fn stop_accepting(&mut self) {
        self.stops_after_succession = false;
        if self.draining.is_none() {
            self.close_listeners();
            self.drain(false);
        }
    }

    /// Stops taking work and notifies all clients that do not stay. `succeeded`: another server listens in place of this one.
    pub(super) fn drain(&mut self, succeeded: bool) {
        let drain_until = self.options.drain_timeout.and_then(|limit| Instant::now().checked_add(limit));
        self.draining = Some(drain_until);
        self.notices.send(systemd::STOPPING, Instant::now());
        let workers = self.children.count();
        log_event!(info, workers, succeeded, "takes no more work");
        self.clients.queue_for_leaving(&FromServer::Draining { succeeded });
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// Handles messages that a client has sent, as many as one turn of the loop has time for, and flushes its queue.
    /// Returns the worker's parts in a forked child.
    fn handle_messages(&mut self, id: ClientId) -> Result<Option<WorkerSpec>, Disconnect> {
        let mut is_pinged = false;
        for _ in 0..MAX_MESSAGES {
            let Some(client) = self.clients.get(id) else { return Ok(None) };
            match client.control.next()? {
                None => break,
                Some(ToServer::Fork { numbers, rings, results }) => {
                    let spec = self.fork(id, &numbers, (rings, results))?;
                    if spec.is_some() {
                        return Ok(spec);
                    }
                }
                Some(ToServer::End { number, kill }) => self.children.end_worker(id, number, kill),
                Some(ToServer::Adopt { number, proof }) => self.adopt(id, number, proof)?,
                Some(ToServer::Arena) => self.map_arena(id)?,
                Some(ToServer::Ping) => is_pinged = true,
                Some(ToServer::Inspect) => {
                    let stats = self.stats();
                    if let Some(client) = self.clients.get(id) {
                        client.control.queue(&FromServer::Inspected(stats));
                    }
                }
                Some(ToServer::Hello(_) | ToServer::TakeOver(_) | ToServer::Attach { .. }) => {
                    return Err(Disconnect::Broken);
                }
            }
        }
        let Some(client) = self.clients.get(id) else { return Ok(None) };
        // One answer for all pings of a turn, and what is unsent is as good an answer.
        if is_pinged && !client.control.has_unsent() {
            client.control.queue(&FromServer::Pong);
        }
        client.control.flush()?;
        Ok(None)
    }

    /// Adopts a worker, to kill it with its client. An application may have anything killed by the server that it has
    /// started; any other client proves that an earlier server at the same path has forked the process.
    fn adopt(&mut self, id: ClientId, number: u64, proof: Option<u64>) -> Result<(), Disconnect> {
        let Some(client) = self.clients.get(id) else { return Ok(()) };
        // If the descriptor was lost because this process reached its limit, the worker's own timer still bounds it.
        let Some([process]) = client.control.take_passed()? else { return Ok(()) };
        let proven =
            client.key.as_ref().zip(proof).is_some_and(|(key, proof)| key.verify(process.as_fd(), proof));
        if proven || self.is_private {
            log_event!(info, client = id, worker = number, "a worker was adopted");
            self.children.adopt(id, number, process);
            return Ok(());
        }
        log_event!(
            warn,
            client = id,
            worker = number,
            "a worker was not adopted: it has ended, or nothing proves that an earlier server at this path forked it"
        );
        Ok(())
    }

    /// Maps the memory of the blobs in a client's calls, once.
    fn map_arena(&mut self, id: ClientId) -> Result<(), Disconnect> {
        let has_few = self.clients.count() <= MAX_KEPT_ARENAS;
        let keeps_file =
            has_few && self.parking.is_enabled() && self.clients.parking_of(id) != control::Parking::Never;
        let Some(client) = self.clients.get(id) else { return Ok(()) };
        if client.arena.is_some() {
            return Err(Disconnect::Broken);
        }
        match client.control.take_arena(client.is_trusted) {
            Ok((memory, file)) => {
                let file = keeps_file.then_some(file);
                client.arena = Some(ClientArena { memory, file });
                Ok(())
            }
            Err(reason) => {
                client.control.queue(&FromServer::Refused { reason });
                client.control.flush()?;
                Err(Disconnect::Broken)
            }
        }
    }

    /// Removes a client and kills its workers. A private server then has nothing more to do and ends.
    pub(super) fn remove_client(&mut self, id: ClientId, disconnect: Disconnect) -> Result<(), Disconnect> {
        if self.clients.remove(id).is_none() {
            // Its process and its connection have ended in the same turn.
            return Ok(());
        }
        self.children.kill_workers_of(id);
        if !self.is_private {
            log_event!(info, client = id, ?disconnect, "a client has disconnected");
            return Ok(());
        }
        if self.clients.count() == 0 { Err(disconnect) } else { Ok(()) }
    }

    pub(super) fn logs_workers(&self) -> bool {
        !self.is_private
    }
}
