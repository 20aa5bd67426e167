//! Which processor runs what, and how much of it a process has used.

use std::fmt;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Where the two sides of a measurement run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Everything on one processor.
    One,
    /// The host on one, workers and peers on another.
    Two,
    /// Wherever the kernel likes.
    Any,
}

impl Placement {
    /// All of them.
    pub const ALL: [Placement; 3] = [Placement::One, Placement::Two, Placement::Any];

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|placement| placement.to_string() == text)
    }

    pub(super) fn meaning(self) -> &'static str {
        match self {
            Placement::One => "everything on one processor",
            Placement::Two => "the host on one processor, workers and peers on another",
            Placement::Any => "nothing pinned",
        }
    }

    /// Why this machine cannot offer it, if it cannot.
    pub(super) fn obstacle(self) -> Option<String> {
        let processors = allowed().len();
        (self == Placement::Two && processors < 2)
            .then(|| format!("it takes two processors, and {processors} may be used"))
    }

    fn host(self) -> Option<usize> {
        match self {
            Placement::One | Placement::Two => allowed().first().copied(),
            Placement::Any => None,
        }
    }

    /// The processor of workers and peers; `None` if they are not pinned.
    pub fn peers(self) -> Option<usize> {
        match self {
            Placement::One => allowed().first().copied(),
            Placement::Two => allowed().get(1).copied(),
            Placement::Any => None,
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Placement::One => "one",
            Placement::Two => "two",
            Placement::Any => "any",
        })
    }
}

/// What one execution measures.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub placement: Placement,
    pub quick: bool,
    /// The processor of workers and peers, taken while all could still be seen.
    pub peers: Option<usize>,
}

impl Setting {
    /// Pins this process, before it has other threads.
    pub(super) fn enter(placement: Placement, quick: bool) -> Self {
        let (host, peers) = (placement.host(), placement.peers());
        if let Some(host) = host {
            pin(None, host);
        }
        Setting { placement, quick, peers }
    }

    /// So many rounds, or a few in a quick run.
    pub fn rounds(self, many: usize) -> usize {
        if self.quick { many.div_ceil(20).max(3) } else { many }
    }

    /// Puts a peer where this placement wants it.
    pub fn place(self, pid: u32) {
        if let Some(processor) = self.peers {
            pin(Some(pid), processor);
        }
    }
}

/// Pins a process's first thread, or with `None` the thread that calls.
pub fn pin(pid: Option<u32>, processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(pid.map(process_id), &set).expect("the processor is one of those allowed");
}

/// A pid as the system calls take it.
pub fn process_id(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid is positive")
}

fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("the affinity can be read");
    (0..CpuSet::MAX_CPU).filter(|&processor| set.is_set(processor)).collect()
}

/// Processor time of this process, all its threads together.
pub fn own_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Processor time of another process that has one thread, as the scheduler counted it.
pub fn cpu_time(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let nanoseconds = text.split_whitespace().next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}
