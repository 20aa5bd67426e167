//! A worker process: set-up, then one call after another, until the channel ends.
//!
//! It is single-threaded and blocking. It runs the user's code as a [`Service`] and exits by `_exit`; it never
//! returns into the code of the process that it was forked from.

mod call_loop;
mod log_sender;
mod numbering;
pub(crate) mod panic_capture;
mod service;
mod shared_bytes;
mod subscriber;
mod worker_log;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use numbering::Numbering;
pub use service::{Incoming, Preload, Program, Replying, Service, Setup};
pub use shared_bytes::SharedBytes;
pub use worker_log::{WorkerLog, WorkerTimer};

pub use crate::wire::control::Signature;

use crate::blob;
pub use crate::blob::blob;
use crate::channel::{AnyWorkerIo, BlockingChannel, WorkerEnd};
use crate::failure::BacktraceStyle;
use crate::sys::arena::ReadOnlyArena;
use crate::sys::process::{Pid, exit_now};
use crate::sys::{Errno, memory, original, parent_death, process};
use crate::telling;
use crate::wire::call::{FromWorker, Ready, SetupReport};
use crate::wire::frame;
use crate::wire::frame::Limits;
use crate::wire::{LIBRARY, PROTOCOL};
use call_loop::ClientTerms;
use panic_capture::PanicSink;
use subscriber::{RecentRecords, WorkerSubscriber};

/// Exit status after a panic, the same that Rust's own runtime uses.
pub(crate) const EXIT_PANICKED: i32 = 101;

/// Exit status after an error of the channel (`EX_IOERR`).
const EXIT_BROKEN: i32 = 74;

/// What a forked worker gets from its server.
pub(crate) struct Assignment<'a> {
    pub(crate) program: &'a Program,
    pub(crate) config: &'a [u8],
    pub(crate) preload: &'static Preload,
    pub(crate) channel: WorkerEnd,
    /// The memory of the blobs in calls; `None` if the pool lends no blobs.
    pub(crate) arguments: Option<Arc<ReadOnlyArena>>,
    /// Identifies the interface; repeated in `Ready`.
    pub(crate) fingerprint: u64,
    /// How the client counts the messages.
    pub(crate) numbering: Numbering,
    /// Counts the workers that were forked for this worker's client, from 1.
    pub(crate) ordinal: u64,
    /// The limits of messages and results.
    pub(crate) limits: Limits,
    pub(crate) max_memory: Option<u64>,
    /// Bytes of private data (`RLIMIT_DATA`) beyond which allocations fail.
    pub(crate) memory_limit: Option<u64>,
    /// Whether panics have a backtrace.
    pub(crate) backtrace: BacktraceStyle,
    /// The fork server, and how long a call may run once that has died.
    pub(crate) parent: Pid,
    pub(crate) hung_worker_timeout: Option<Duration>,
}

/// Does in the server, once, what every worker would otherwise do first.
///
/// The first use of a thread's `tracing` dispatcher makes the dynamic linker look up a symbol. In a worker each page
/// that this touches would be copied.
pub(crate) fn warm_up() {
    process::line_buffer_c_stdout();
    let log = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    tracing::dispatcher::with_default(&log, || ());
}

/// Writes, in a process that waits to become a worker, to the pages that [`run`] writes to, so that they are copied for it
/// before it is needed. It sets nothing that `run` does not set.
pub(crate) fn rehearse() {
    // Without memory for it, `run` reports that.
    let _ = original::claim();
    parent_death::rehearse();
    panic_capture::set_style(BacktraceStyle::default());
}

/// Runs a worker from its set-up to its exit.
pub(crate) fn run(assignment: Assignment<'_>) -> ! {
    let mapped = AnyWorkerIo::open(assignment.channel).and_then(|opened| {
        original::claim()?;
        Ok(opened)
    });
    let (io, results) = match mapped {
        Ok(mapped) => mapped,
        Err(error) => {
            telling::print_line(format_args!("the channel cannot be mapped: {error}"));
            exit_now(EXIT_BROKEN)
        }
    };
    if let Some(Err(error)) = assignment.memory_limit.map(memory::set_data_limit) {
        let error = std::io::Error::from(error);
        telling::print_repeated(assignment.ordinal, format_args!("memory_limit cannot be set: {error}"));
    }
    let bound = assignment.hung_worker_timeout.map(|limit| parent_death::set_limit(limit, assignment.parent));
    if let Some(Err(error)) = bound {
        report_unbounded(assignment.ordinal, error);
    }
    let recent_records = RecentRecords::new(io.status_page());
    let log = tracing::Dispatch::new(WorkerSubscriber::new(recent_records.clone()));
    panic_capture::set_style(assignment.backtrace);
    panic_capture::set_channel(&io);
    io.status_page().record_overflow();
    log_sender::set_channel(io.duplicate());
    blob::init_worker(assignment.arguments, results);
    let client = ClientTerms {
        values: assignment.limits,
        max_memory: assignment.max_memory,
        numbering: assignment.numbering,
    };
    let mut end = BlockingChannel::new(io, frame::call_body_limit(client.values.bytes));
    let setup = || (assignment.program.setup)(assignment.config, assignment.preload);
    panic_capture::set_sink(PanicSink::Setup);
    // A standalone server may have installed a subscriber; it must not receive what the worker logs.
    let inherited = tracing::dispatcher::has_been_set();
    // The user's `setup` may install a global subscriber for the time after it. So ours is the global one only
    // afterwards.
    let recorded = || tracing::dispatcher::with_default(&log, setup);
    parent_death::enter_user_code();
    let attempt = panic_capture::run(recorded);
    parent_death::leave_user_code();
    if let (Some(Ok(())), Err(error)) = (bound, parent_death::renew(assignment.parent)) {
        report_unbounded(assignment.ordinal, error);
    }
    // Stays in place until the process exits.
    let _for_this_thread = inherited.then(|| tracing::dispatcher::set_default(&log));
    // Fails if the user has installed a global subscriber, which then stays.
    let _ = tracing::dispatcher::set_global_default(log);
    subscriber::install_log_bridge(recent_records);
    let report = match attempt {
        Ok(Ok(mut service)) => {
            let ready = Ready {
                protocol: PROTOCOL,
                library: LIBRARY.to_owned(),
                fingerprint: assignment.fingerprint,
            };
            frame::append(end.buffer(), &FromWorker::Ready(ready));
            exit(call_loop::run(&mut end, service.as_mut(), &client))
        }
        Ok(Err(error)) => SetupReport::of(error),
        Err(report) => SetupReport::Panic(report),
    };
    frame::append(end.buffer(), &FromWorker::SetupFailed(report));
    exit(end.flush().map(|()| call_loop::Exit::Closed))
}

fn report_unbounded(ordinal: u64, error: Errno) {
    let line = format_args!("hung_worker_timeout is not enforced once the fork server is gone: {error}");
    telling::print_repeated(ordinal, line);
}

fn exit(exit: std::io::Result<call_loop::Exit>) -> ! {
    use std::io::{ErrorKind, Write};
    // Output of user code that cannot be written is lost.
    let _ = std::io::stdout().flush();
    process::flush_c_streams();
    exit_now(match exit {
        Ok(call_loop::Exit::Closed) => 0,
        Ok(call_loop::Exit::Panicked) => EXIT_PANICKED,
        Err(error) => {
            // A host that is gone reads no reason.
            if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) {
                telling::print_line(format_args!("the channel failed: {error}"));
            }
            EXIT_BROKEN
        }
    })
}
