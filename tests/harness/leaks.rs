//! What must be the same after a test as before it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// Processes, descriptors and threads of this process at one moment.
pub struct Inventory {
    children: Vec<u32>,
    descriptors: BTreeMap<i32, PathBuf>,
    runtime_threads: usize,
}

impl Inventory {
    pub fn take() -> Self {
        Inventory {
            children: descendants(std::process::id()),
            descriptors: descriptors(),
            runtime_threads: runtime_threads(),
        }
    }

    /// Waits until everything is as it was.
    ///
    /// # Panics
    ///
    /// With what is left, after [`PATIENCE`].
    pub fn compare(&self) {
        let patience = Instant::now() + PATIENCE;
        while !self.is_restored() {
            assert!(Instant::now() < patience, "the test left something:\n{}", self.difference());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_restored(&self) -> bool {
        descendants(std::process::id()).iter().all(|child| self.children.contains(child))
            && descriptors().len() <= self.descriptors.len()
            && runtime_threads() <= self.runtime_threads
    }

    fn difference(&self) -> String {
        let after = Inventory::take();
        let children: Vec<String> = after.children.iter().map(|&pid| super::args(pid)).collect();
        let descriptors: Vec<_> =
            after.descriptors.iter().filter(|(fd, _)| !self.descriptors.contains_key(fd)).collect();
        format!("processes {children:?}\ndescriptors {descriptors:?}\nthreads {}", after.runtime_threads)
    }
}

/// Children of a process, zombies included, without the parked one of a server, which comes and goes by itself.
pub fn children(pid: u32) -> Vec<u32> {
    without_parked(all_children(pid))
}

/// Children of a process and all of theirs, zombies included.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut found = all_children(pid);
    let mut at = 0;
    while at < found.len() {
        found.extend(all_children(found[at]));
        at += 1;
    }
    found
}

/// The same without those that servers have parked.
pub fn workforce(pid: u32) -> Vec<u32> {
    without_parked(descendants(pid))
}

/// The children that a server has parked.
pub fn parked_children(server: u32) -> Vec<u32> {
    all_children(server).into_iter().filter(|&child| is_parked(child)).collect()
}

/// Whether a process is the parked child of a server, or has just been forked by one and has no name of its own yet.
pub fn is_parked(pid: u32) -> bool {
    let (name, of_parent) = (super::comm(pid), super::comm(super::parent(pid)));
    name.ends_with("/parked") || super::args(pid).starts_with("forkpool: parked ") || {
        name.ends_with("/server") && name == of_parent
    }
}

fn without_parked(mut pids: Vec<u32>) -> Vec<u32> {
    pids.retain(|&pid| !is_parked(pid));
    pids
}

fn all_children(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let listed = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(listed.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    children.sort_unstable();
    children
}

/// Open descriptors of this process and what they are.
pub fn descriptors() -> BTreeMap<i32, PathBuf> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().read_link().ok()?)))
        // The directory that is being read is open itself.
        .filter(|(_, target): &(i32, PathBuf)| !target.ends_with("fd"))
        .collect()
}

/// Threads that a runtime or a pool would have made; those of the test harness come and go as they like.
fn runtime_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .filter(|name| ["actix", "tokio", "forkpool"].iter().any(|prefix| name.starts_with(prefix)))
        .count()
}
