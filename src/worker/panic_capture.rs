//! Captures the message and backtrace of a panic, so that the caller gets them.

use std::backtrace::Backtrace;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use crate::channel::{AnyWorkerIo, WorkerIo};
use crate::failure::PanicReport;
use crate::sys::{original, process};
use crate::user_code;
use crate::wire::call::{FromWorker, Outcome, ReplyHeader, SetupReport};
use crate::wire::frame;

/// Longest backtrace that is kept, in bytes. The innermost frames come first, so the end is cut.
const LONGEST_BACKTRACE: usize = 32 << 10;

/// Where a panic is reported in a build whose panics abort the process.
#[derive(Clone, Copy)]
pub(super) enum PanicSink {
    None,
    Setup,
    Call(u64),
}

struct CaptureState {
    report: Option<PanicReport>,
    sink: PanicSink,
    /// A second end of the channel; set only in a build whose panics abort.
    channel: Option<AnyWorkerIo>,
}

static CAPTURED: Mutex<CaptureState> =
    Mutex::new(CaptureState { report: None, sink: PanicSink::None, channel: None });

fn captured() -> MutexGuard<'static, CaptureState> {
    CAPTURED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Installs a panic hook: panics of this thread are kept instead of printed; those of other threads are printed as
/// before.
///
/// The fork server calls this once, and every worker inherits it.
pub(crate) fn capture() {
    let worker = std::thread::current().id();
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| on_panic(worker, info, &others)));
}

/// Sets the channel that reports of panics are sent to, in a build whose panics abort.
pub(super) fn set_channel(channel: &AnyWorkerIo) {
    if cfg!(panic = "abort") {
        captured().channel = Some(channel.duplicate());
    }
}

/// Sets what a panic from now on belongs to.
pub(super) fn set_sink(sink: PanicSink) {
    captured().sink = sink;
}

/// Runs code of the user's. If the code forks, its copy of this process does not return from here: it exits.
///
/// # Errors
///
/// The report of its panic.
pub(crate) fn run<T>(code: impl FnOnce() -> T) -> Result<T, PanicReport> {
    let outcome = catch_unwind(AssertUnwindSafe(code));
    original::exit_copy();
    outcome.map_err(|payload| {
        // First the report: what the panic carries may panic when it is dropped.
        let report = take();
        user_code::drop_payload(payload);
        report
    })
}

/// Returns and removes the report of the panic that was just caught.
fn take() -> PanicReport {
    captured().report.take().unwrap_or_else(|| PanicReport {
        message: "a panic without a message".to_owned(),
        location: None,
        backtrace: String::new(),
    })
}

/// Returns the outcome of a call that panicked.
pub(super) fn outcome(report: PanicReport) -> Outcome {
    let (peak_memory, cpu_time) = process::own_usage();
    Outcome::Panicked { report, peak_memory, cpu_time }
}

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Sync + Send>;

fn on_panic(worker: ThreadId, info: &PanicHookInfo<'_>, others: &Hook) {
    if std::thread::current().id() != worker {
        return others(info);
    }
    let report = PanicReport {
        message: frame::cut(message(info), frame::MAX_TEXT),
        location: info.location().map(ToString::to_string),
        backtrace: frame::cut(Backtrace::force_capture().to_string(), LONGEST_BACKTRACE),
    };
    let mut captured = captured();
    if cfg!(panic = "abort") {
        // A copy of this process aborts, and answers no call of its original's.
        if !original::is_copy() {
            send_last_report(&mut captured, report);
        }
    } else {
        captured.report = Some(report);
    }
}

fn message(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic whose payload is no text".to_owned())
}

fn send_last_report(captured: &mut CaptureState, report: PanicReport) {
    let message = match captured.sink {
        PanicSink::None => return,
        PanicSink::Setup => FromWorker::SetupFailed(SetupReport::Panic(report)),
        PanicSink::Call(id) => {
            FromWorker::Reply(ReplyHeader { id, outcome: outcome(report), keep: false, stop: true })
        }
    };
    let mut bytes = Vec::new();
    frame::append(&mut bytes, &message);
    let Some(channel) = &mut captured.channel else { return };
    let mut unsent = bytes.as_slice();
    while let Ok(count) = channel.send(unsent, false) {
        unsent = &unsent[count.min(unsent.len())..];
        if unsent.is_empty() {
            return;
        }
    }
}
