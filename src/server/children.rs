//! The server's children: how they are told apart from what they leave behind, and what becomes of those that hang.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::guard::{Patience, Standing, Verdict};
use crate::channel::Notes;
use crate::failure::Ending;
use crate::sys::{clock, memory, process};
use crate::wire::control::{Ended, Guard};

/// Memory that a worker must have had for the out-of-memory killer to be worth a look, in bytes: it takes the largest
/// process there is, and the look costs more than the rest of a death.
const LARGE: u64 = 32 << 20;

/// A worker that was forked and not reaped.
struct Child {
    number: u64,
    standing: Standing,
    notes: Option<Notes>,
}

/// The workers that were forked and not reaped, by pid.
pub(super) struct Children {
    living: HashMap<Pid, Child>,
    patience: Option<Patience>,
    /// What the kernel's count of kills for want of memory was when it was last looked at.
    kills_for_memory: Option<u64>,
}

impl Children {
    pub(super) fn new(guard: Guard) -> Self {
        Children {
            living: HashMap::new(),
            patience: guard.hung_worker_timeout.map(|limit| Patience { limit, grace: guard.kill_grace }),
            kills_for_memory: memory::out_of_memory_kills(),
        }
    }

    /// Whether what a worker notes is worth looking at.
    pub(super) fn are_guarded(&self) -> bool {
        self.patience.is_some()
    }

    pub(super) fn born(&mut self, pid: Pid, number: u64, notes: Option<Notes>) {
        self.living.insert(pid, Child { number, standing: Standing::default(), notes });
    }

    /// Ends those that hang; how long until it is worth looking again, if it is.
    pub(super) fn end_hung(&mut self) -> Option<Duration> {
        let patience = self.patience?;
        let now = clock::coarse_millis();
        let looks = self.living.iter_mut().filter_map(|(&pid, child)| child.look(pid, now, patience));
        looks.min()
    }

    /// Reaps the next worker that has ended, after killing whatever is left of its group.
    ///
    /// Orphans of dead workers are children of the server, too; they are reaped on the way and not told of.
    pub(super) fn next_ended(&mut self) -> Option<Ended> {
        while let Some(pid) = process::next_dead() {
            let child = self.living.remove(&pid);
            if child.is_some() {
                // Before it is reaped: a zombie still holds its number, so the group cannot be another's.
                process::kill_group(pid);
            }
            let corpse = process::reap(pid)?;
            if let Some(child) = child {
                let hung = child.standing.has_acted();
                let out_of_memory = !hung && self.was_killed_for_memory(&corpse);
                return Some(Ended {
                    number: child.number,
                    ending: corpse.ending,
                    peak_memory: corpse.peak_memory,
                    cpu_time: corpse.cpu_time,
                    hung,
                    out_of_memory,
                });
            }
        }
        None
    }

    /// Whether the kernel has killed for want of memory since that was last looked at, and this may be whom.
    fn was_killed_for_memory(&mut self, corpse: &process::Corpse) -> bool {
        let killed = matches!(corpse.ending, Ending::Signaled { signal: libc::SIGKILL, .. });
        if !killed || corpse.peak_memory < LARGE {
            return false;
        }
        let kills = memory::out_of_memory_kills();
        let before = std::mem::replace(&mut self.kills_for_memory, kills);
        before.is_some() && before < kills
    }

    /// Kills every worker with its group and reaps them, for at most `patience`.
    pub(super) fn end_all(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        self.living.keys().for_each(|&pid| process::kill_group(pid));
        while !self.living.is_empty() && Instant::now() < until {
            if self.next_ended().is_none() {
                // A killed process ends within microseconds; only one stuck in the kernel makes us come back.
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }
}

impl Child {
    fn look(&mut self, pid: Pid, now: u32, patience: Patience) -> Option<Duration> {
        let since = self.notes.as_ref()?.running_since();
        match self.standing.look(since, now, patience) {
            Verdict::Wait(wait) => Some(wait),
            Verdict::Terminate => {
                process::terminate_child(pid);
                patience.grace
            }
            Verdict::Kill => {
                process::kill_group(pid);
                None
            }
            Verdict::Done => None,
        }
    }
}
