//! What every integration test stands on: real pools, bounded waits on conditions, and a check after each test
//! that no process, descriptor or thread of the pool is left.
#![allow(dead_code, unused_imports, reason = "every test file uses its part of the harness")]

mod clients;
mod contexts;
mod events;
mod leaks;
mod mill;
mod mule;
mod named;
mod own_channel;
mod probe;
mod processes;
mod rebel;
mod rogue;
mod scribe;
mod wreck;

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix::System;
use forkpool::PoolBuilder;
use forkpool::Transport;
use forkpool::prelude::*;
use rustix::process::{Pid as ProcessId, Signal};

pub use clients::*;
pub use contexts::*;
pub use events::*;
pub use leaks::{children, descendants, descriptors, is_parked, parked_children, workforce};
pub use mill::*;
pub use mule::*;
pub(crate) use named::tests;
pub use named::{Tests, run_tests};
pub use own_channel::*;
pub use probe::*;
pub use processes::*;
pub use rebel::*;
pub use rogue::*;
pub use scribe::*;
pub use wreck::*;

/// Longest wait for a condition that is bound to come true.
pub const PATIENCE: Duration = Duration::from_secs(60);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Keeps every other test of this program waiting, for one that does not use [`run`].
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one test in an actix system of its own, alone in this process, and checks that it leaves nothing.
///
/// Pools that the test did not stop are taken down with the system; that counts as leaving nothing.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // The first system of a process opens what the runtime keeps for good: its pipe for signals.
    drop(System::new());
    let before = leaks::Inventory::take();
    let result = System::new().block_on(test);
    before.compare();
    processes::sweep();
    result
}

/// The variable that has the pools of these tests use a transport other than the default: `socket`.
const TRANSPORT: &str = "FORKPOOL_TEST_TRANSPORT";

/// How the workers of these tests are talked with.
pub fn transport() -> Transport {
    match std::env::var(TRANSPORT).ok().as_deref() {
        None | Some("" | "shared-memory") => Transport::SharedMemory,
        Some("socket") => Transport::Socket,
        Some(other) => panic!("{TRANSPORT} is {other:?}, which is no transport"),
    }
}

/// A pool of workers of any type, as all tests begin it.
pub fn builder<W: Worker>(config: W::Config) -> PoolBuilder<W> {
    Pool::<W>::builder(config).transport(transport())
}

/// A pool of probes that are set up as `Setup::default()`.
pub fn pool() -> PoolBuilder<Probe> {
    builder::<Probe>(Setup::default())
}

/// A pool of one probe, started.
pub fn pool_of_one() -> PoolHandle<Probe> {
    pool().workers(1..=1).start().expect("the pool starts")
}

/// Waits until the condition holds.
///
/// # Panics
///
/// After [`PATIENCE`], with `what`.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < patience, "still waiting until {what}");
        actix_rt::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until the pool has this many idle workers and no others.
pub async fn settled<W: Worker>(pool: &PoolHandle<W>, idle: usize) {
    until(&format!("there are {idle} idle workers"), || {
        let stats = pool.stats();
        stats.idle == idle && stats.workers() == idle
    })
    .await;
}

/// What a future comes to, which it does within [`PATIENCE`].
///
/// # Panics
///
/// If it does not, with `what`.
pub async fn bounded<T>(what: &str, future: impl Future<Output = T>) -> T {
    within(PATIENCE, what, future).await
}

/// As [`bounded`], for what takes its time.
pub async fn within<T>(patience: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match actix_rt::time::timeout(patience, future).await {
        Ok(result) => result,
        Err(_) => panic!("still waiting for {what}"),
    }
}

/// What a request resolves to: a handle's is the answer itself, an address wraps the answer.
pub trait Answered {
    type Answer;

    /// Returns the answer.
    ///
    /// # Panics
    ///
    /// If the actor was gone.
    fn answer(self) -> Self::Answer;
}

impl<R> Answered for Result<R, actix::MailboxError> {
    type Answer = R;

    fn answer(self) -> R {
        self.expect("an answer")
    }
}

impl<T> Answered for Result<T, Failure> {
    type Answer = Self;

    fn answer(self) -> Self {
        self
    }
}

impl<R> Answered for Vec<R> {
    type Answer = Self;

    fn answer(self) -> Self {
        self
    }
}

/// Waits for the answer to a request.
pub async fn answer<R: Answered>(request: impl Future<Output = R>) -> R::Answer {
    bounded("an answer", request).await.answer()
}

/// Waits until the process is gone, zombie included.
pub async fn gone(pid: u32) {
    until(&format!("process {pid} is gone"), || !exists(pid)).await;
}

/// Whether the process exists, a zombie included.
pub fn exists(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// Sends a signal to a process that the test started. After SIGSTOP it does nothing any more: a process that runs on
/// another processor goes on for a moment.
pub fn signal(pid: u32, signal: Signal) {
    rustix::process::kill_process(process_id(pid), signal).expect("the process is there");
    let patience = Instant::now() + PATIENCE;
    while signal == Signal::STOP && !matches!(state(pid), None | Some('T' | 't' | 'Z' | 'X')) {
        assert!(Instant::now() < patience, "the process does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

fn process_id(pid: u32) -> ProcessId {
    ProcessId::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid above zero")
}

/// The fork servers of this test's pools.
pub fn servers() -> Vec<u32> {
    children(std::process::id())
}

/// The fork server of the only pool there is, as soon as it has become one.
pub async fn the_server() -> u32 {
    let mut found = Vec::new();
    until("there is one fork server", || {
        found = servers();
        found.len() == 1 && comm(found[0]).ends_with("/server")
    })
    .await;
    found[0]
}

/// The parked child of a server, as soon as there is one.
pub async fn parked_child(server: u32) -> u32 {
    let mut found = Vec::new();
    until("a child is parked", || {
        found = parked_children(server);
        found.len() == 1 && state(found[0]) == Some('S')
    })
    .await;
    found[0]
}

/// The short name of a process, as `ps -o comm` shows it.
pub fn comm(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// The arguments of a process, as `ps -o args` shows them.
pub fn args(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned()
}
