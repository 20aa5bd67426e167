//! The worker of all benchmarks, and its twin behind `SyncArbiter`.

use std::sync::OnceLock;
use std::time::Duration;

use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Setting, pin};

/// Answers what it got: 64 bytes of text, as all benchmarks send it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Echo(pub String);

impl Message for Echo {
    type Result = Result<String, Failure>;
}

/// A message of 64 bytes.
pub fn echo() -> Echo {
    echo_of(64)
}

/// A message of so many bytes.
pub fn echo_of(bytes: usize) -> Echo {
    let mut text = "0123456789abcdef".repeat(bytes.div_ceil(16));
    text.truncate(bytes);
    Echo(text)
}

/// The worker's process and the one that forked it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Whereabouts;

impl Message for Whereabouts {
    type Result = Result<(u32, u32), Failure>;
}

/// Sleeps; that it does can be seen from outside, see [`announces_sleep`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sleep(pub Duration);

impl Message for Sleep {
    type Result = Result<(), Failure>;
}

/// Has the worker replaced, which is its end where none is needed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Leave;

impl Message for Leave {
    type Result = Result<(), Failure>;
}

/// Panics.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Panic;

impl Message for Panic {
    type Result = Result<(), Failure>;
}

/// Aborts its process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AbortProcess;

impl Message for AbortProcess {
    type Result = Result<(), Failure>;
}

/// Logs so many events at level info, and nothing else.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Log(pub u32);

impl Message for Log {
    type Result = Result<(), Failure>;
}

/// So many steps of work, about a nanosecond each: a processor is busy, and nothing else happens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Work(pub u32);

impl Message for Work {
    type Result = Result<u64, Failure>;
}

/// Steps of [`Work`] that take so long here, as the fastest of some attempts has it.
pub fn steps_of(time: Duration) -> u32 {
    let attempts = (0..20).map(|_| {
        let began = std::time::Instant::now();
        work(1_000_000);
        began.elapsed()
    });
    let fastest = attempts.min().unwrap_or_default();
    (time.as_secs_f64() / fastest.as_secs_f64() * 1e6) as u32
}

/// Each step needs the one before.
pub(super) fn work(steps: u32) -> u64 {
    std::hint::black_box(
        (0..steps).fold(1, |sum: u64, step| std::hint::black_box(sum ^ u64::from(step)).rotate_left(7)),
    )
}

/// A worker that does next to nothing.
pub struct Apprentice;

impl Actor for Apprentice {
    type Context = WorkerContext<Self>;
}

impl Worker for Apprentice {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Apprentice)
    }
}

impl Handler<Echo> for Apprentice {
    type Result = Result<String, Failure>;

    fn handle(&mut self, Echo(text): Echo, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(text)
    }
}

impl Handler<Whereabouts> for Apprentice {
    type Result = Result<(u32, u32), Failure>;

    fn handle(&mut self, Whereabouts: Whereabouts, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok((std::process::id(), std::os::unix::process::parent_id()))
    }
}

impl Handler<Sleep> for Apprentice {
    type Result = Result<(), Failure>;

    fn handle(&mut self, Sleep(time): Sleep, _: &mut WorkerContext<Self>) -> Self::Result {
        rustix::thread::set_name(ASLEEP).map_err(|error| Failure::task(error.to_string()))?;
        std::thread::sleep(time);
        Ok(())
    }
}

impl Handler<Leave> for Apprentice {
    type Result = Result<(), Failure>;

    fn handle(&mut self, Leave: Leave, ctx: &mut WorkerContext<Self>) -> Self::Result {
        ctx.stop();
        Ok(())
    }
}

impl Handler<Panic> for Apprentice {
    type Result = Result<(), Failure>;

    fn handle(&mut self, Panic: Panic, _: &mut WorkerContext<Self>) -> Self::Result {
        panic!("a panic with a text and a number: {}", std::process::id())
    }
}

impl Handler<AbortProcess> for Apprentice {
    type Result = Result<(), Failure>;

    fn handle(&mut self, AbortProcess: AbortProcess, _: &mut WorkerContext<Self>) -> Self::Result {
        std::process::abort()
    }
}

impl Handler<Work> for Apprentice {
    type Result = Result<u64, Failure>;

    fn handle(&mut self, Work(steps): Work, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(work(steps))
    }
}

impl Handler<Log> for Apprentice {
    type Result = Result<(), Failure>;

    fn handle(&mut self, Log(count): Log, _: &mut WorkerContext<Self>) -> Self::Result {
        (0..count).for_each(|number| tracing::info!(number, "an event of a worker"));
        Ok(())
    }
}

forkpool::interface!(Apprentice { Echo, Whereabouts, Sleep, Leave, Log, Work, Panic, AbortProcess });
forkpool::boot!(Apprentice);

/// The short name of a worker that is asleep.
const ASLEEP: &std::ffi::CStr = c"asleep";

/// Whether a worker runs [`Sleep`]. A clock would have to guess; the name of the process says it.
pub fn announces_sleep(pid: u32) -> bool {
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_ascii_end() == ASLEEP.to_bytes()
}

/// Puts the workers of these checkouts where the placement wants them; returns their pids.
pub async fn pin_workers(setting: Setting, checkouts: &[Addr<Checkout<Apprentice>>]) -> Vec<u32> {
    let mut pids = Vec::new();
    for checkout in checkouts {
        let (pid, _) = checkout.send(Whereabouts).await.expect("an answer").expect("a worker");
        setting.place(pid);
        pids.push(pid);
    }
    pids
}

/// Where the threads of the `SyncArbiter` are to be.
static PEERS: OnceLock<Option<usize>> = OnceLock::new();

/// The same handler in a thread.
pub struct Thread;

impl Actor for Thread {
    type Context = SyncContext<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        if let Some(processor) = PEERS.get().copied().flatten() {
            pin(None, processor);
        }
    }
}

impl Handler<Echo> for Thread {
    type Result = Result<String, Failure>;

    fn handle(&mut self, Echo(text): Echo, _: &mut Self::Context) -> Self::Result {
        Ok(text)
    }
}

impl Handler<Work> for Thread {
    type Result = Result<u64, Failure>;

    fn handle(&mut self, Work(steps): Work, _: &mut Self::Context) -> Self::Result {
        Ok(work(steps))
    }
}

/// A `SyncArbiter` of so many threads, where the placement wants its peers.
pub fn sync_peers(setting: Setting, threads: usize) -> Addr<Thread> {
    PEERS.get_or_init(|| setting.peers);
    SyncArbiter::start(threads, || Thread)
}
