//! Captures the message and the stack of a panic, so that the caller gets them.
//!
//! The stack is captured as addresses, and only if the application wants a backtrace: finding the names of functions
//! takes a hundred times as long as everything else that a panic costs, so the application does it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use crate::channel::{AnyWorkerIo, StatusPage, WorkerIo};
use crate::failure::{BacktraceStyle, PanicReport, RawBacktrace};
use crate::sys::process::Pid;
use crate::sys::stack::Stack;
use crate::sys::{original, process};
use crate::user_code;
use crate::wire::call::{FromWorker, Outcome, ReplyHeader, SetupReport};
use crate::wire::frame;

/// Bytes of memory that are kept for the report of a panic (64 KiB), for the case that the panic is about a lack of
/// memory. The hook gives them back to the allocator, and the report, the panic's own values and the reply need less.
const RESERVE: usize = 64 << 10;

/// Bytes that the stack of a panic needs at most, with the paths of its objects. Without that much memory the report
/// has no backtrace.
const STACK_MEMORY: usize = 32 << 10;

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
    style: BacktraceStyle,
    /// Memory that is given back when a panic begins; empty until the next call after that.
    reserve: Vec<u8>,
    /// What the hook of a worker writes to.
    worker: Option<WorkerSinks>,
}

struct WorkerSinks {
    /// A fork that a handler made has another one, and its panics are not this worker's.
    pid: Pid,
    /// Keeps the text of a panic, for a process that does not come to send its report.
    status_page: StatusPage,
    /// Whether the status page has a text.
    has_text: bool,
    /// A second end of the channel; set only in a build whose panics abort.
    channel: Option<AnyWorkerIo>,
}

static CAPTURED: Mutex<CaptureState> = Mutex::new(CaptureState {
    report: None,
    sink: PanicSink::None,
    style: BacktraceStyle::Off,
    reserve: Vec::new(),
    worker: None,
});

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
    captured().refill_reserve();
    std::panic::set_hook(Box::new(move |info| on_panic(worker, info, &others)));
}

/// Sets whether panics from now on have a backtrace.
pub(crate) fn set_style(style: BacktraceStyle) {
    captured().style = style;
}

/// Sets where the panics of this worker are recorded, and, in a build whose panics abort, where they are sent.
pub(super) fn set_channel(channel: &AnyWorkerIo) {
    captured().worker = Some(WorkerSinks {
        pid: process::own_pid(),
        status_page: channel.status_page(),
        has_text: false,
        channel: cfg!(panic = "abort").then(|| channel.duplicate()),
    });
}

/// Sets what a panic from now on belongs to.
pub(super) fn set_sink(sink: PanicSink) {
    let mut captured = captured();
    captured.sink = sink;
    // What is left of a panic that user code has caught.
    captured.report = None;
    if let Some(worker) = captured.worker.as_mut().filter(|worker| worker.has_text) {
        worker.status_page.clear_panic();
        worker.has_text = false;
    }
    if captured.reserve.capacity() == 0 {
        captured.refill_reserve();
    }
}

impl CaptureState {
    /// Without memory for it there is no reserve.
    fn refill_reserve(&mut self) {
        let mut reserve = Vec::new();
        let _ = reserve.try_reserve_exact(RESERVE);
        self.reserve = reserve;
    }
}

/// Runs code of the user's. If the code forks, its copy of this process does not return from here: it exits.
///
/// # Errors
///
/// The report of its panic.
pub(crate) fn run<T>(code: impl FnOnce() -> T) -> Result<T, PanicReport> {
    let code = || __rust_begin_short_backtrace(code);
    let outcome = catch_unwind(AssertUnwindSafe(code));
    original::exit_copy();
    outcome.map_err(|payload| {
        // First the report: what the panic carries may panic when it is dropped.
        let report = take(&*payload);
        user_code::drop_payload(payload);
        report
    })
}

/// Calls user code. Backtraces end at a function of this name, so that they show the user's frames alone.
#[inline(never)]
fn __rust_begin_short_backtrace<T>(code: impl FnOnce() -> T) -> T {
    let result = code();
    // Without it the call could be the last, and this function would not be on the stack.
    std::hint::black_box(());
    result
}

/// Removes the report of the panic that was just caught, and returns it.
///
/// The hook has not seen a panic that user code caught and resumed, so a report of another text belongs to an earlier
/// panic.
fn take(payload: &(dyn Any + Send)) -> PanicReport {
    let message = message(payload);
    let report = captured().report.take().filter(|report| report.message == message);
    report.unwrap_or_else(|| PanicReport::new(message.to_owned(), None))
}

/// Returns the outcome of a call that panicked.
pub(super) fn outcome(report: PanicReport) -> Outcome {
    let (peak_memory, cpu_time) = process::own_usage();
    Outcome::Panicked { report: Box::new(report), peak_memory, cpu_time }
}

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Sync + Send>;

fn on_panic(worker: ThreadId, info: &PanicHookInfo<'_>, others: &Hook) {
    if std::thread::current().id() != worker {
        return others(info);
    }
    let mut captured = captured();
    // There may be no other memory left, and the next line allocates.
    captured.reserve = Vec::new();
    let message = message(info.payload());
    let location = info.location().map(ToString::to_string);
    if let Some(worker) = &mut captured.worker {
        if worker.pid != process::own_pid() {
            captured.report = Some(PanicReport::new(message.to_owned(), location));
            return;
        }
        worker.status_page.add_panic(message, location.as_deref().unwrap_or_default());
        worker.has_text = true;
    }
    let mut report = PanicReport::new(message.to_owned(), location);
    report.backtrace = encoded_backtrace(captured.style).unwrap_or_default();
    if cfg!(panic = "abort") {
        // A copy of this process aborts, and answers no call of its original's.
        if !original::is_copy() {
            send_last_report(&mut captured, report);
        }
    } else {
        captured.report = Some(report);
    }
}

/// Returns the stack of this panic; `None` if it is not wanted or the memory does not suffice.
fn encoded_backtrace(style: BacktraceStyle) -> Option<String> {
    let mut memory = Vec::<u8>::new();
    let captures = style != BacktraceStyle::Off && memory.try_reserve_exact(STACK_MEMORY).is_ok();
    drop(memory);
    captures.then(|| RawBacktrace { style, ..Stack::capture().places() }.encode())
}

/// Returns the text of a panic, cut to its limit.
fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    frame::beginning(text.unwrap_or("a panic whose payload is no text"), frame::MAX_TEXT)
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
    let Some(channel) = captured.worker.as_mut().and_then(|worker| worker.channel.as_mut()) else { return };
    let mut unsent = bytes.as_slice();
    while let Ok(count) = channel.send(unsent, false) {
        unsent = &unsent[count.min(unsent.len())..];
        if unsent.is_empty() {
            return;
        }
    }
}
