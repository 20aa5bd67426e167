//! The server's children: how they are told apart from what they leave behind, and what becomes of those that hang.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::watchdog::{HangLimit, WatchdogState, WatchdogVerdict};
use crate::channel::StatusPage;
use crate::failure::Ending;
use crate::sys::{Errno, clock, descriptors, memory, process};
use crate::wire::control::{Ended, FromServer, Guard, Remains};

/// Memory that a worker must have had for the out-of-memory killer to be worth a look, in bytes: it takes the largest
/// process there is, and the look costs more than the rest of a death.
const LARGE: u64 = 32 << 20;

/// A worker that was forked and not reaped.
struct Child {
    /// Whom it works for, and their number for it.
    client: ClientId,
    number: u64,
    patience: Option<HangLimit>,
    standing: WatchdogState,
    status_page: Option<StatusPage>,
    /// Its outputs, for a client that does not have them itself; `None` once one is closed.
    outputs: Option<Outputs>,
}

/// The reading ends of a worker's outputs.
type Outputs = [Option<OwnedFd>; 2];

/// Which of a worker's outputs: of which process, and whether its standard error.
pub(super) type OutputId = (Pid, bool);

/// What a worker's client does not have itself, since it is on another machine.
pub(super) struct ForRemote {
    pub(super) status_page: StatusPage,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Bytes that are passed on at once of what a worker has printed.
const CHUNK: usize = 16 << 10;

/// Chunks passed on of each output of a worker that has ended.
const LAST_CHUNKS: usize = 8;

/// The number of an application in the life of its server.
pub(super) type ClientId = u64;

/// A worker of a server that is gone: nobody's child here, and to end with its client all the same.
struct Adopted {
    client: ClientId,
    number: u64,
    /// Stands for exactly this process, also after its number is used again.
    handle: OwnedFd,
}

/// The workers that were forked and not reaped, by pid, and those that were adopted.
pub(super) struct Children {
    living: HashMap<Pid, Child>,
    adopted: Vec<Adopted>,
    /// What the kernel's count of kills for want of memory was when it was last looked at.
    kills_for_memory: Option<u64>,
}

impl Children {
    pub(super) fn new() -> Self {
        Children {
            living: HashMap::new(),
            adopted: Vec::new(),
            kills_for_memory: memory::out_of_memory_kills(),
        }
    }

    /// Workers that live.
    pub(super) fn count(&self) -> usize {
        self.living.len() + self.adopted.len()
    }

    /// A worker was forked for a client; `open_notes` is asked for what it notes where somebody is to look at that.
    pub(super) fn born(
        &mut self,
        pid: Pid,
        (client, number): (ClientId, u64),
        guard: Guard,
        open_notes: impl FnOnce() -> Option<StatusPage>,
    ) {
        let patience = patience(guard);
        // A worker that cannot be looked at is bounded by its caller's clocks alone.
        let status_page = patience.and_then(|_| open_notes());
        let standing = WatchdogState::default();
        self.living.insert(pid, Child { client, number, patience, standing, status_page, outputs: None });
    }

    /// The same for a client on another machine.
    pub(super) fn born_for_remote(
        &mut self,
        pid: Pid,
        (client, number): (ClientId, u64),
        guard: Guard,
        ForRemote { status_page, stdout, stderr }: ForRemote,
    ) {
        let (patience, standing) = (patience(guard), WatchdogState::default());
        let (status_page, outputs) = (Some(status_page), Some([Some(stdout), Some(stderr)]));
        self.living.insert(pid, Child { client, number, patience, standing, status_page, outputs });
    }

    /// Outputs that are passed on, and whose.
    pub(super) fn outputs(&self) -> impl Iterator<Item = (OutputId, ClientId, BorrowedFd<'_>)> {
        self.living.iter().flat_map(|(&pid, child)| {
            let ends = child.outputs.iter().flatten().enumerate();
            ends.filter_map(move |(at, end)| Some(((pid, at == 1), child.client, end.as_ref()?.as_fd())))
        })
    }

    /// What a worker has printed and nobody was told of yet; `None` where there is nothing.
    pub(super) fn printed(&mut self, (pid, stderr): OutputId) -> Option<(ClientId, FromServer)> {
        let child = self.living.get_mut(&pid)?;
        let bytes = child.read(stderr)?;
        Some((child.client, FromServer::Printed { number: child.number, stderr, bytes }))
    }

    /// A worker of a server that is gone is to end with this client.
    pub(super) fn adopt(&mut self, client: ClientId, number: u64, handle: OwnedFd) {
        self.adopted.push(Adopted { client, number, handle });
    }

    /// Leaves the descriptors of those that were adopted, and the outputs of others, to the server that this process was
    /// forked from.
    pub(super) fn forget_in_child(&mut self) {
        self.adopted.clear();
        self.living.values_mut().for_each(|child| child.outputs = None);
    }

    /// Descriptors that become readable when a worker that was adopted has ended.
    pub(super) fn adopted(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.adopted.iter().map(|adopted| adopted.handle.as_fd())
    }

    /// Of those that were adopted, as they were last told of, these have ended.
    pub(super) fn forget_adopted(&mut self, ended: &[bool]) {
        let mut ended = ended.iter();
        self.adopted.retain(|_| !ended.next().is_some_and(|ended| *ended));
    }

    /// Kills a worker with its group, or asks it to end.
    pub(super) fn end(&self, client: ClientId, number: u64, kill: bool) {
        let is_meant = |child: &Child| (child.client, child.number) == (client, number);
        if let Some((&pid, _)) = self.living.iter().find(|(_, child)| is_meant(child)) {
            match kill {
                true => process::kill_group(pid),
                false => process::terminate_child(pid),
            }
        }
        let adopted =
            self.adopted.iter().find(|adopted| (adopted.client, adopted.number) == (client, number));
        if let Some(adopted) = adopted.filter(|_| kill) {
            process::kill_stranger(adopted.handle.as_fd());
        }
    }

    /// Ends those that hang; how long until it is worth looking again, if it is.
    pub(super) fn end_hung(&mut self) -> Option<Duration> {
        let now = clock::coarse_millis();
        let looks = self.living.iter_mut().filter_map(|(&pid, child)| child.look(pid, now));
        looks.min()
    }

    /// Reaps the next worker that has ended, after killing whatever is left of its group; what it printed last comes
    /// ahead of its end.
    ///
    /// Orphans of dead workers are children of the server, too; they are reaped on the way and not told of.
    pub(super) fn next_ended(&mut self) -> Option<(ClientId, Vec<FromServer>, Ended)> {
        while let Some(pid) = process::next_dead() {
            let child = self.living.remove(&pid);
            if child.is_some() {
                // Before it is reaped: a zombie still holds its number, so the group cannot be another's.
                process::kill_group(pid);
            }
            let exit = process::reap(pid)?;
            if let Some(mut child) = child {
                let (printed, remains) = (child.last_prints(), child.remains());
                let hung = child.standing.has_acted();
                let out_of_memory = !hung && self.was_killed_for_memory(&exit);
                let ended = Ended {
                    number: child.number,
                    ending: exit.ending,
                    peak_memory: exit.peak_memory,
                    cpu_time: exit.cpu_time,
                    hung,
                    out_of_memory,
                    remains,
                };
                return Some((child.client, printed, ended));
            }
        }
        None
    }

    /// Whether the kernel has killed for want of memory since that was last looked at, and this may be whom.
    fn was_killed_for_memory(&mut self, exit: &process::ExitStatus) -> bool {
        let killed = matches!(exit.ending, Ending::Signaled { signal: libc::SIGKILL, .. });
        if !killed || exit.peak_memory < LARGE {
            return false;
        }
        let kills = memory::out_of_memory_kills();
        let before = std::mem::replace(&mut self.kills_for_memory, kills);
        before.is_some() && before < kills
    }

    /// Kills the workers of one client with their groups; they are reaped like any other.
    pub(super) fn kill_those_of(&mut self, client: ClientId) {
        let theirs = self.living.iter().filter(|(_, child)| child.client == client);
        theirs.for_each(|(&pid, _)| process::kill_group(pid));
        let theirs = self.adopted.iter().filter(|adopted| adopted.client == client);
        theirs.for_each(|adopted| process::kill_stranger(adopted.handle.as_fd()));
        self.adopted.retain(|adopted| adopted.client != client);
    }

    /// Kills every worker with its group and reaps them, for at most `patience`.
    pub(super) fn end_all(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        self.living.keys().for_each(|&pid| process::kill_group(pid));
        self.adopted.drain(..).for_each(|adopted| process::kill_stranger(adopted.handle.as_fd()));
        while !self.living.is_empty() && Instant::now() < until {
            if self.next_ended().is_none() {
                // A killed process ends within microseconds; only one stuck in the kernel makes us come back.
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }
}

fn patience(guard: Guard) -> Option<HangLimit> {
    guard.hung_worker_timeout.map(|limit| HangLimit { limit, grace: guard.kill_grace })
}

impl Child {
    /// What there is in one of its outputs, which is closed if it was.
    fn read(&mut self, stderr: bool) -> Option<Vec<u8>> {
        let end = &mut self.outputs.as_mut()?[usize::from(stderr)];
        let mut bytes = Vec::with_capacity(CHUNK);
        match descriptors::read(end.as_ref()?.as_fd(), &mut bytes) {
            Ok(1..) => Some(bytes),
            Err(Errno::AGAIN) => None,
            Ok(0) | Err(_) => {
                *end = None;
                None
            }
        }
    }

    fn last_prints(&mut self) -> Vec<FromServer> {
        let mut printed = Vec::new();
        for stderr in [false, true] {
            let chunks = std::iter::from_fn(|| self.read(stderr)).take(LAST_CHUNKS);
            printed.extend(chunks.map(|bytes| (stderr, bytes)));
        }
        let number = self.number;
        printed.into_iter().map(|(stderr, bytes)| FromServer::Printed { number, stderr, bytes }).collect()
    }

    /// For a client that does not share its memory.
    fn remains(&self) -> Option<Remains> {
        let status_page = self.outputs.as_ref().and(self.status_page.as_ref())?;
        Some(Remains { begun: status_page.begun(), records: status_page.records() })
    }

    fn look(&mut self, pid: Pid, now: u32) -> Option<Duration> {
        let (patience, since) = (self.patience?, self.status_page.as_ref()?.running_since());
        match self.standing.look(since, now, patience) {
            WatchdogVerdict::Wait(wait) => Some(wait),
            WatchdogVerdict::Terminate => {
                process::terminate_child(pid);
                patience.grace
            }
            WatchdogVerdict::Kill => {
                process::kill_group(pid);
                None
            }
            WatchdogVerdict::Done => None,
        }
    }
}
