//! The server's children, and how they are told apart from what they leave behind.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::sys::process;
use crate::wire::control::Ended;

/// Numbers of the workers that were forked and not reaped, by pid.
#[derive(Default)]
pub(super) struct Children {
    living: HashMap<Pid, u64>,
}

impl Children {
    pub(super) fn born(&mut self, pid: Pid, number: u64) {
        self.living.insert(pid, number);
    }

    /// Reaps the next worker that has ended, after killing whatever is left of its group.
    ///
    /// Orphans of dead workers are children of the server, too; they are reaped on the way and not told of.
    pub(super) fn next_ended(&mut self) -> Option<Ended> {
        while let Some(pid) = process::next_dead() {
            let number = self.living.remove(&pid);
            if number.is_some() {
                // Before it is reaped: a zombie still holds its number, so the group cannot be another's.
                process::kill_group(pid);
            }
            let corpse = process::reap(pid)?;
            if let Some(number) = number {
                return Some(Ended {
                    number,
                    ending: corpse.ending,
                    peak_memory: corpse.peak_memory,
                    cpu_time: corpse.cpu_time,
                });
            }
        }
        None
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
