//! The server's children: pids, reaping, output of remote workers, and killing hung workers.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::process::Pid;

use super::watchdog;
use super::watchdog::{HangLimit, Killing, WatchdogState, WatchdogVerdict};
use crate::channel::StatusPage;
use crate::clock::Instant;
use crate::frozen_time::FrozenTime;
use crate::sys::oom::OomCounts;
use crate::sys::process::Zombie;
use crate::sys::{Errno, clock, descriptors, kill, oom, process};
use crate::wire::control::{Ended, FromServer, ProcessLimits, StatusSnapshot};

/// Least peak memory, in bytes, of a worker that may be a victim of the out-of-memory killer, which picks large
/// processes. For smaller ones the kernel's counter is not read, because reading it costs more than the rest of
/// handling an exit.
const OOM_MIN_PEAK: u64 = 32 << 20;

/// A worker that was forked and not reaped yet.
struct Child {
    /// The worker's client, and the worker's number at that client.
    client: ClientId,
    number: u64,
    hang_limit: Option<HangLimit>,
    watchdog: WatchdogState,
    killing: Killing,
    status_page: Option<StatusPage>,
    /// The output pipes of a worker whose client is on another machine; an element is `None` once its pipe is closed.
    outputs: Option<Outputs>,
}

/// The read ends of a worker's standard output and standard error.
type Outputs = [Option<OwnedFd>; 2];

/// One output of a worker: its pid, and whether it is standard error.
pub(super) type OutputId = (Pid, bool);

/// The exit of a worker: its client, the last chunks of its output, and how it ended.
pub(super) type Exit = (ClientId, Vec<FromServer>, Ended);

/// What a remote client does not hold itself: the status page and the output pipes of its worker.
pub(super) struct RemoteOutputs {
    pub(super) status_page: StatusPage,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Most bytes that are read from an output at once.
const CHUNK: usize = 16 << 10;

/// Most chunks that are read from each output of a worker that has exited.
const MAX_LAST_CHUNKS: usize = 8;

/// Identifies a client or pending peer; never used again by the same server.
pub(super) type ClientId = u64;

/// A worker of a server that is gone: not a child of this process, but killed with its client as well.
struct Adopted {
    client: ClientId,
    number: u64,
    /// Refers to this very process even after its pid is reused.
    pidfd: OwnedFd,
    killing: Killing,
}

/// The workers that were forked and not reaped, by pid, and the adopted ones.
pub(super) struct Children {
    running: HashMap<Pid, Child>,
    adopted: Vec<Adopted>,
    oom_counts: OomCounts,
}

impl Children {
    pub(super) fn new() -> Self {
        Children { running: HashMap::new(), adopted: Vec::new(), oom_counts: OomCounts::read() }
    }

    /// Returns the number of running workers.
    pub(super) fn count(&self) -> usize {
        self.running.len() + self.adopted.len()
    }

    /// Returns the client of each worker that this server has forked.
    pub(super) fn clients(&self) -> impl Iterator<Item = ClientId> {
        self.running.values().map(|child| child.client)
    }

    /// Adds a worker that was forked for a client. Calls `open_status_page` only if the worker is watched for
    /// hanging.
    pub(super) fn add(
        &mut self,
        pid: Pid,
        (client, number): (ClientId, u64),
        process_limits: ProcessLimits,
        open_status_page: impl FnOnce() -> Option<StatusPage>,
    ) {
        let hang_limit = hang_limit(process_limits);
        // A worker without a readable status page is bounded only by the clocks of its callers.
        let status_page = hang_limit.and_then(|_| open_status_page());
        let (watchdog, killing, outputs) = (WatchdogState::default(), Killing::default(), None);
        let child = Child { client, number, hang_limit, watchdog, killing, status_page, outputs };
        self.running.insert(pid, child);
    }

    /// Adds a worker that was forked for a client on another machine.
    pub(super) fn add_for_remote(
        &mut self,
        pid: Pid,
        (client, number): (ClientId, u64),
        process_limits: ProcessLimits,
        RemoteOutputs { status_page, stdout, stderr }: RemoteOutputs,
    ) {
        let (hang_limit, watchdog) = (hang_limit(process_limits), WatchdogState::default());
        let (status_page, outputs) = (Some(status_page), Some([Some(stdout), Some(stderr)]));
        let killing = Killing::default();
        let child = Child { client, number, hang_limit, watchdog, killing, status_page, outputs };
        self.running.insert(pid, child);
    }

    /// Returns the open outputs of remote workers, with their clients.
    pub(super) fn outputs(&self) -> impl Iterator<Item = (OutputId, ClientId, BorrowedFd<'_>)> {
        self.running.iter().flat_map(|(&pid, child)| {
            let ends = child.outputs.iter().flatten().enumerate();
            ends.filter_map(move |(at, end)| Some(((pid, at == 1), child.client, end.as_ref()?.as_fd())))
        })
    }

    /// Reads what a worker has printed; `None` if nothing is waiting.
    pub(super) fn read_output(&mut self, (pid, stderr): OutputId) -> Option<(ClientId, FromServer)> {
        let child = self.running.get_mut(&pid)?;
        let bytes = child.read(stderr)?;
        Some((child.client, FromServer::Printed { number: child.number, stderr, bytes }))
    }

    /// Adds a worker of a server that is gone; it is killed with this client.
    pub(super) fn adopt(&mut self, client: ClientId, number: u64, pidfd: OwnedFd) {
        // A number that comes again replaces the one before, so that a client holds no more than its workers.
        self.adopted.retain(|adopted| (adopted.client, adopted.number) != (client, number));
        self.adopted.push(Adopted { client, number, pidfd, killing: Killing::default() });
    }

    /// Gives up, in a forked child, the pidfds of adopted workers, the output pipes of others and their status pages:
    /// they belong to the server.
    pub(super) fn forget_in_child(&mut self) {
        self.adopted.clear();
        for child in self.running.values_mut() {
            child.outputs = None;
            child.status_page.take().into_iter().for_each(StatusPage::drop_in_child);
        }
    }

    /// Returns the pidfds of adopted workers; each becomes readable when its process exits.
    pub(super) fn adopted(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.adopted.iter().map(|adopted| adopted.pidfd.as_fd())
    }

    /// Removes adopted workers whose pidfd became readable. `ended` is in the order of [`adopted`](Self::adopted).
    pub(super) fn remove_exited_adopted(&mut self, ended: &[bool]) {
        let mut ended = ended.iter();
        self.adopted.retain(|_| !ended.next().is_some_and(|ended| *ended));
    }

    /// Kills a worker with its process group, or sends it SIGTERM. An adopted worker is only ever killed.
    pub(super) fn end_worker(&mut self, client: ClientId, number: u64, kill: bool) {
        let now = clock::coarse_millis();
        let is_wanted = |child: &Child| (child.client, child.number) == (client, number);
        if let Some((&pid, child)) = self.running.iter_mut().find(|(_, child)| is_wanted(child)) {
            match kill {
                true => child.kill(pid, now),
                false => kill::terminate_child(pid),
            }
        }
        let is_wanted = |adopted: &&mut Adopted| (adopted.client, adopted.number) == (client, number);
        self.adopted.iter_mut().filter(is_wanted).filter(|_| kill).for_each(|adopted| adopted.kill(now));
    }

    /// Kills hung workers, or sends them SIGTERM first, and kills again what was killed and has not ended. Returns how
    /// long until the next check is due.
    pub(super) fn check(&mut self, now: Instant, frozen: &FrozenTime) -> Option<Duration> {
        let frozen = |time| frozen.within(now, time);
        let now = clock::coarse_millis();
        let running = self.running.iter_mut().filter_map(|(&pid, child)| child.check(pid, now, frozen));
        let adopted = self.adopted.iter_mut().filter_map(|adopted| adopted.check(now));
        watchdog::next_check(running.chain(adopted))
    }

    /// Reaps the next worker that has exited, after killing the rest of its process group.
    ///
    /// Orphans of dead workers are children of the server as well; they are reaped on the way and not reported. `most`
    /// counts down with each child; at zero none is reaped.
    pub(super) fn next_ended(&mut self, most: &mut usize) -> Option<Exit> {
        while *most > 0 {
            let Zombie { pid, is_killed } = process::next_zombie()?;
            *most -= 1;
            let child = self.running.remove(&pid);
            if child.is_some() {
                // The group is killed before the reaping: a zombie still occupies its pid, so no other group can have
                // that number.
                kill::kill_group_of_child(pid);
            }
            // The process has its control group until it is reaped.
            let is_foreign_kill = is_killed && child.as_ref().is_some_and(|child| !child.killing.has_begun());
            let group = if is_foreign_kill { oom::group_count_of(pid) } else { None };
            let exit = process::reap(pid)?;
            if let Some(mut child) = child {
                let (printed, status) = (child.drain_outputs(), child.status());
                let hung = child.watchdog.has_acted();
                let is_large = exit.peak_memory >= OOM_MIN_PEAK;
                let out_of_memory =
                    is_foreign_kill && !hung && is_large && self.oom_counts.may_include(group);
                let ended = Ended {
                    number: child.number,
                    ending: exit.ending,
                    peak_memory: exit.peak_memory,
                    cpu_time: exit.cpu_time,
                    hung,
                    out_of_memory,
                    status,
                };
                return Some((child.client, printed, ended));
            }
        }
        None
    }

    /// Kills the workers of one client with their process groups. Children are reaped later; adopted workers are
    /// watched until they have ended.
    pub(super) fn kill_workers_of(&mut self, client: ClientId) {
        let now = clock::coarse_millis();
        let theirs = self.running.iter_mut().filter(|(_, child)| child.client == client);
        theirs.for_each(|(&pid, child)| child.kill(pid, now));
        let theirs = self.adopted.iter_mut().filter(|adopted| adopted.client == client);
        theirs.for_each(|adopted| adopted.kill(now));
    }

    /// Kills every worker with its process group and reaps them, for at most `timeout`. Returns their exits.
    pub(super) fn kill_all(&mut self, timeout: Duration) -> Vec<Exit> {
        let (until, mut exits) = (Instant::now() + timeout, Vec::new());
        self.adopted.drain(..).for_each(|mut adopted| adopted.kill(clock::coarse_millis()));
        while !self.running.is_empty() && Instant::now() < until {
            // Again each time: a signal may have been refused.
            self.running.keys().for_each(|&pid| kill::kill_child(pid));
            let mut most = usize::MAX;
            exits.extend(std::iter::from_fn(|| self.next_ended(&mut most)));
            if !self.running.is_empty() {
                // A killed process exits within microseconds; only a process that is stuck in the kernel makes this
                // loop sleep.
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        exits
    }
}

fn hang_limit(process_limits: ProcessLimits) -> Option<HangLimit> {
    process_limits.hung_worker_timeout.map(|limit| HangLimit { limit, grace: process_limits.kill_grace })
}

impl Child {
    /// Reads from one output; closes it at end-of-file and on errors.
    fn read(&mut self, stderr: bool) -> Option<Vec<u8>> {
        let end = &mut self.outputs.as_mut()?[usize::from(stderr)];
        let mut bytes = Vec::with_capacity(CHUNK);
        match descriptors::read(end.as_ref()?.as_fd(), &mut bytes) {
            Ok(1..) => Some(bytes),
            Err(Errno::AGAIN | Errno::NOMEM) => None,
            Ok(0) | Err(_) => {
                *end = None;
                None
            }
        }
    }

    fn drain_outputs(&mut self) -> Vec<FromServer> {
        let mut printed = Vec::new();
        for stderr in [false, true] {
            let chunks = std::iter::from_fn(|| self.read(stderr)).take(MAX_LAST_CHUNKS);
            printed.extend(chunks.map(|bytes| (stderr, bytes)));
        }
        let number = self.number;
        printed.into_iter().map(|(stderr, bytes)| FromServer::Printed { number, stderr, bytes }).collect()
    }

    /// Returns the contents of the status page for a client that does not share it.
    fn status(&self) -> Option<StatusSnapshot> {
        let status_page = self.outputs.as_ref().and(self.status_page.as_ref())?;
        let (begun, records) = (status_page.call_begun(), status_page.records());
        Some(StatusSnapshot { begun, records, last_words: status_page.last_words() })
    }

    /// Kills the worker, from now on again and again until it is reaped.
    fn kill(&mut self, pid: Pid, now: u32) {
        self.killing.begin(now);
        kill::kill_child(pid);
    }

    fn check(&mut self, pid: Pid, now: u32, frozen: impl Fn(Duration) -> Duration) -> Option<Duration> {
        if let Some(wait) = self.killing.check(now) {
            if wait.is_zero() {
                self.kill(pid, now);
            }
            return self.killing.check(now);
        }
        let (hang_limit, since) = (self.hang_limit?, self.status_page.as_ref()?.running_since());
        match self.watchdog.check(since, now, hang_limit, frozen) {
            WatchdogVerdict::Wait(wait) => Some(wait.min(hang_limit.longest_wait())),
            WatchdogVerdict::Terminate => {
                kill::terminate_child(pid);
                hang_limit.grace.map(|grace| grace.min(hang_limit.longest_wait()))
            }
            WatchdogVerdict::Kill => {
                self.kill(pid, now);
                self.killing.check(now)
            }
            WatchdogVerdict::Done => None,
        }
    }
}

impl Adopted {
    /// Kills the worker, from now on again and again until it has ended.
    fn kill(&mut self, now: u32) {
        self.killing.begin(now);
        // It may not be permitted at this moment.
        let _ = kill::kill(self.pidfd.as_fd());
    }

    fn check(&mut self, now: u32) -> Option<Duration> {
        if self.killing.check(now)?.is_zero() {
            self.kill(now);
        }
        self.killing.check(now)
    }
}
