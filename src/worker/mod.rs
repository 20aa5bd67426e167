//! A worker process: set-up, then one call after the other, until the channel ends.
//!
//! Single-threaded and blocking. It knows the user's code as a [`Service`] and ends by `_exit`, never by
//! returning to where its process came from.

mod call_loop;
mod log_sender;
pub(crate) mod panic_capture;
mod service;
mod shared_bytes;
mod subscriber;
mod worker_log;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

pub use service::{Incoming, Preload, Program, Replying, Service, Setup};
pub use shared_bytes::SharedBytes;
pub use worker_log::{WorkerLog, WorkerTimer};

pub use crate::wire::control::Signature;
pub use crate::wire::frame::PayloadError;

use crate::blob;
pub use crate::blob::blob;
use crate::channel::{AnyWorkerIo, BlockingChannel, WorkerEnd};
use crate::sys::arena::ReadOnlyArena;
use crate::sys::memory::OnlyHere;
use crate::sys::process::{Pid, exit_now};
use crate::sys::{memory, parent_death, process};
use crate::wire::call::{FromWorker, Ready, SetupReport};
use crate::wire::frame;
use crate::wire::{LIBRARY, PROTOCOL};
use call_loop::WorkerLimits;
use panic_capture::PanicSink;
use subscriber::{LogState, WorkerSubscriber};

/// Exit status after a panic, the one Rust's own runtime uses.
const PANICKED: i32 = 101;

/// Exit status after the channel broke in the middle of something.
const BROKEN: i32 = 74;

/// What a newborn worker gets from its server.
pub(crate) struct Assignment<'a> {
    pub(crate) program: &'a Program,
    pub(crate) config: &'a [u8],
    pub(crate) preload: &'static Preload,
    pub(crate) channel: WorkerEnd,
    /// Where the blobs of its calls are, if there may be any.
    pub(crate) arguments: Option<Arc<ReadOnlyArena>>,
    /// What the host knows the interface by.
    pub(crate) fingerprint: u64,
    pub(crate) max_payload: usize,
    pub(crate) max_memory: Option<u64>,
    /// Bytes of data beyond which allocations fail.
    pub(crate) memory_limit: Option<u64>,
    /// Who has forked it, and how long a call may run once that is dead.
    pub(crate) parent: Pid,
    pub(crate) hung_worker_timeout: Option<Duration>,
}

/// Does once, in the server, what every worker would have to do first and finds done then.
///
/// The first use of a thread's dispatcher has the dynamic linker look for a symbol, in pages that a forked process has
/// to touch one by one.
pub(crate) fn break_ground() {
    process::write_c_output_by_lines();
    let log = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    tracing::dispatcher::with_default(&log, || ());
}

/// Lives one worker's life.
pub(crate) fn run(assignment: Assignment<'_>) -> ! {
    let mapped = AnyWorkerIo::open(assignment.channel).and_then(|io| Ok((io, OnlyHere::new()?)));
    let (io, original) = match mapped {
        Ok(mapped) => mapped,
        Err(error) => {
            eprintln!("forkpool: the channel cannot be mapped: {error}");
            exit_now(BROKEN)
        }
    };
    if let Some(Err(error)) = assignment.memory_limit.map(memory::limit_data) {
        eprintln!("forkpool: memory_limit cannot be set: {}", std::io::Error::from(error));
    }
    let bound = assignment.hung_worker_timeout.map(|limit| parent_death::bound(limit, assignment.parent));
    if let Some(Err(error)) = bound {
        eprintln!("forkpool: hung_worker_timeout holds only while the fork server lives: {error}");
    }
    let kept = LogState::new(io.status_page());
    let log = tracing::Dispatch::new(WorkerSubscriber::new(kept.clone()));
    panic_capture::speak_through(&io);
    log_sender::speak_through(io.twin(), original.clone());
    blob::begin(assignment.arguments, io.result_arena());
    let limits = WorkerLimits { max_payload: assignment.max_payload, max_memory: assignment.max_memory };
    let mut end = BlockingChannel::new(io, frame::call_limit(limits.max_payload));
    let setup = || (assignment.program.setup)(assignment.config, assignment.preload);
    panic_capture::expect(PanicSink::Setup);
    // A server that is a program of its own may have a subscriber, which is not to hear of what is logged here.
    let inherited = tracing::dispatcher::has_been_set();
    // A set-up may name a subscriber of its own for what comes after it, so ours is not the program's until then.
    let recorded = || tracing::dispatcher::with_default(&log, setup);
    parent_death::begins();
    let attempt = std::panic::catch_unwind(AssertUnwindSafe(recorded));
    parent_death::ends();
    // Until this process ends, which is not by returning.
    let _for_this_thread = inherited.then(|| tracing::dispatcher::set_default(&log));
    // That there is one already is the user's choice.
    let _ = tracing::dispatcher::set_global_default(log);
    subscriber::bridge_log(kept);
    let report = match attempt {
        Ok(Ok(mut service)) => {
            let ready = Ready {
                protocol: PROTOCOL,
                library: LIBRARY.to_owned(),
                fingerprint: assignment.fingerprint,
            };
            frame::append(end.buffer(), &FromWorker::Ready(ready));
            leave(call_loop::work(&mut end, service.as_mut(), limits, &original))
        }
        Ok(Err(error)) => SetupReport::of(error),
        Err(_) => SetupReport::Panic(panic_capture::take()),
    };
    frame::append(end.buffer(), &FromWorker::SetupFailed(report));
    leave(end.flush().map(|()| call_loop::Exit::Closed))
}

fn leave(exit: std::io::Result<call_loop::Exit>) -> ! {
    use std::io::Write;
    // What the user's code printed is theirs; where stdout is gone there is nobody to tell.
    let _ = std::io::stdout().flush();
    process::flush_c_output();
    exit_now(match exit {
        Ok(call_loop::Exit::Closed) => 0,
        Ok(call_loop::Exit::Panicked) => PANICKED,
        // A copy of the worker that a handler forked has nothing to say to anybody.
        Ok(call_loop::Exit::Copy) => 0,
        Err(_) => BROKEN,
    })
}
