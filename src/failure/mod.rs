//! How a call fails: one value that its caller can match on, print, serialize and pass on.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::escape;

mod bounded_chain;
mod exit;
mod here;
mod kind;
mod multi_line;
mod one_line;
mod raw_backtrace;
mod serde_compat;

use exit::Cause;
pub(crate) use exit::LastWords;
pub use exit::{Ending, MemoryVerdict, PanicReport, SetupError};
pub use kind::FailureKind;
#[cfg(any(test, feature = "actors"))]
pub(crate) use kind::KIND_NAMES;
#[cfg(feature = "actors")]
pub(crate) use raw_backtrace::LONGEST_BACKTRACE;
pub(crate) use raw_backtrace::{
    BacktraceStyle, MAX_FRAMES, MAX_OBJECT_PATH, RawBacktrace, RawFrame, RawObject,
};

/// Formats an error with its source on a line of its own, for the `Debug` output of errors that `main` returns.
pub(crate) fn fmt_with_source(f: &mut fmt::Formatter<'_>, error: &dyn Error) -> fmt::Result {
    write!(f, "{error}")?;
    match error.source() {
        Some(source) => write!(f, "\ncaused by: {source}"),
        None => Ok(()),
    }
}

/// How far a call had come when it failed. [`Failure::phase`] returns it.
///
/// `Display` prints it as a phrase: `waiting for a worker`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Phase {
    /// The call waited for a worker, and none was being started for it, because all of them were in use.
    Waiting,
    /// The call waited for a worker that was being forked or set up.
    Starting,
    /// A worker had the call.
    Running,
    /// No call was running or queued: the checkout held a worker for longer than `idle_checkout_timeout` with nothing
    /// to run.
    Holding,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Waiting => "waiting for a worker",
            Phase::Starting => "waiting for a worker to start",
            Phase::Running => "running",
            Phase::Holding => "holding a worker",
        })
    }
}

/// The cause of a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum FailureSource {
    Texts(Box<Cause>),
    Failure(Failure),
}

/// What is known about the worker of a failed call. The public methods of [`Failure`] describe the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WorkerFacts {
    pub(crate) number: u64,
    pub(crate) pid: Option<u32>,
    pub(crate) age: Option<Duration>,
    pub(crate) calls_served: Option<u64>,
    pub(crate) peak_memory: Option<u64>,
    pub(crate) cpu_time: Option<Duration>,
    pub(crate) killed_for_memory: Option<MemoryVerdict>,
    pub(crate) stderr: Vec<String>,
    pub(crate) log: Vec<String>,
}

/// Why a call failed, and everything that is known about it.
///
/// [`kind`](Self::kind) is what a program matches on. The other methods return details; which of them are known depends
/// on the kind and on when the call failed.
///
/// # Formats
///
/// - `{}` prints one line: what failed, where and why.
/// - `{:#}` prints that line and then one line for each detail that is known, indented by two spaces.
/// - `{:?}` prints the line of `{}` and one line for each [`source`](Error::source), for failures that `main` returns.
///
/// No text is repeated along the chain of sources.
///
/// # Cloning and serialization
///
/// A failure is an `Arc` and cheap to clone. It serializes with its printed line and its details. A reader of an older
/// version ignores details that it does not know, and reads an unknown kind as [`Other`](FailureKind::Other), which
/// prints the line of the writer.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure(Arc<Details>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Details {
    kind: FailureKind,
    text: String,
    pool: Option<String>,
    call: Option<String>,
    phase: Option<Phase>,
    limit: Option<Duration>,
    waited: Option<Duration>,
    ran: Option<Duration>,
    retry_after: Option<Duration>,
    worker: Option<WorkerFacts>,
    ending: Option<Ending>,
    panic: Option<PanicReport>,
    source: Option<FailureSource>,
    stack_overflow: bool,
    #[serde(skip)]
    here: here::Here,
}

impl Failure {
    /// Creates a failure of the kind [`Task`](FailureKind::Task) with this text, for handlers and error contexts
    /// without an error type of their own.
    ///
    /// `Display` prints the text, with line breaks replaced by spaces.
    pub fn task(text: impl Into<String>) -> Self {
        Failure::of(FailureKind::Task, text)
    }

    /// Returns the kind of the failure.
    pub fn kind(&self) -> FailureKind {
        self.0.kind
    }

    /// Returns a neutral text that may be shown to a user of the application: `the service is busy; try again later`.
    ///
    /// It depends on the [`kind`](Self::kind) alone and contains nothing of the failure's details: no names, paths, source
    /// locations, numbers or process ids, no text of a handler or a panic, and nothing of the message. All other texts of
    /// a failure may contain these.
    pub fn public(&self) -> &'static str {
        self.kind().public()
    }

    /// Returns the name of the pool; `None` if the failure was not created by a pool.
    pub fn pool(&self) -> Option<&str> {
        self.0.pool.as_deref()
    }

    /// Returns the name of the message type of the call.
    pub fn call(&self) -> Option<&str> {
        self.0.call.as_deref()
    }

    /// Returns the number of the worker in its pool, counted from 1; `None` if no worker was involved.
    pub fn worker(&self) -> Option<u64> {
        self.facts().map(|worker| worker.number)
    }

    /// Returns the process id of the worker. For a worker on another machine or in another PID namespace it is an id there.
    pub fn pid(&self) -> Option<u32> {
        self.facts().and_then(|worker| worker.pid)
    }

    /// Returns the age of the worker at the failure, counted from its fork.
    pub fn age(&self) -> Option<Duration> {
        self.facts().and_then(|worker| worker.age)
    }

    /// Returns how many calls the worker had answered before, in all its checkouts together.
    pub fn calls_served(&self) -> Option<u64> {
        self.facts().and_then(|worker| worker.calls_served)
    }

    /// Returns the peak resident memory of the worker, in bytes.
    pub fn peak_memory(&self) -> Option<u64> {
        self.facts().and_then(|worker| worker.peak_memory)
    }

    /// Returns the CPU time that the worker had used, in user and in kernel mode together.
    pub fn cpu_time(&self) -> Option<Duration> {
        self.facts().and_then(|worker| worker.cpu_time)
    }

    /// Returns why the worker is believed to have died for its use of memory; `None` if nothing points to that.
    pub fn killed_for_memory(&self) -> Option<MemoryVerdict> {
        self.facts().and_then(|worker| worker.killed_for_memory)
    }

    /// Returns the last lines that the worker wrote to its standard error, oldest first: at most 20, each of at most
    /// 1 KiB.
    pub fn stderr(&self) -> &[String] {
        self.facts().map_or(&[], |worker| &worker.stderr)
    }

    /// Returns the last records that the worker logged with `tracing` at level info or above, oldest first: at most 20.
    pub fn log(&self) -> &[String] {
        self.facts().map_or(&[], |worker| &worker.log)
    }

    fn facts(&self) -> Option<&WorkerFacts> {
        self.0.worker.as_ref()
    }

    /// Returns how far the call had come.
    pub fn phase(&self) -> Option<Phase> {
        self.0.phase
    }

    /// Returns the time limit that was reached, for [`Timeout`](FailureKind::Timeout),
    /// [`NoServer`](FailureKind::NoServer), [`Hung`](FailureKind::Hung), and a [`Setup`](FailureKind::Setup) that took
    /// too long.
    pub fn limit(&self) -> Option<Duration> {
        self.0.limit
    }

    /// Returns how long the call waited before it was sent to a worker.
    pub fn waited(&self) -> Option<Duration> {
        self.0.waited
    }

    /// Returns for how long the worker had had the call as its first one. The application measures it, from when it had
    /// written the call, or had read the answer of the one before.
    pub fn ran(&self) -> Option<Duration> {
        self.0.ran
    }

    /// Returns how the worker process ended, if it ended by itself or by a signal from elsewhere.
    pub fn ending(&self) -> Option<Ending> {
        self.0.ending
    }

    /// Returns whether the stack of the worker's thread has overflowed, which ended the worker. An overflow on another
    /// thread of the worker is not recognized.
    pub fn stack_overflow(&self) -> bool {
        self.0.stack_overflow
    }

    /// Returns the report of the panic, for [`Panic`](FailureKind::Panic) and for a [`Setup`](FailureKind::Setup) that
    /// panicked; and for a [`Died`](FailureKind::Died) whose worker had panicked in the call that it died in: it was
    /// aborted because that panic could not unwind, or it did not come to send its report. The report then has the texts
    /// of all panics in the call, a line each, also of those that user code has caught, and no backtrace.
    pub fn panic(&self) -> Option<&PanicReport> {
        self.0.panic.as_ref()
    }

    /// Returns how long to wait before the next attempt: an estimate for [`Overloaded`](FailureKind::Overloaded), and
    /// the rest of the quarantine for [`Quarantined`](FailureKind::Quarantined).
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    pub(crate) fn of(kind: FailureKind, text: impl Into<String>) -> Self {
        Failure(Arc::new(Details { kind, text: text.into(), ..Details::default() }))
    }

    fn with(mut self, change: impl FnOnce(&mut Details)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }
}

/// Setters for the host, which adds what it knows to a failure.
#[cfg_attr(not(feature = "actors"), expect(dead_code, reason = "the host fills in the details"))]
impl Failure {
    pub(crate) fn in_pool(self, pool: &str) -> Self {
        self.with(|details| details.pool = Some(pool.to_owned()))
    }

    pub(crate) fn during(self, call: &str) -> Self {
        self.with(|details| details.call = Some(call.to_owned()))
    }

    pub(crate) fn on_worker(self, facts: WorkerFacts) -> Self {
        self.with(|details| details.worker = Some(facts))
    }

    pub(crate) fn in_phase(self, phase: Phase) -> Self {
        self.with(|details| details.phase = Some(phase))
    }

    pub(crate) fn at_limit(self, limit: Duration) -> Self {
        self.with(|details| details.limit = Some(limit))
    }

    pub(crate) fn with_times(self, waited: Duration, ran: Option<Duration>) -> Self {
        self.with(|details| (details.waited, details.ran) = (Some(waited), ran))
    }

    pub(crate) fn with_ending(self, ending: Ending) -> Self {
        self.with(|details| details.ending = Some(ending))
    }

    pub(crate) fn with_panic(self, report: PanicReport) -> Self {
        self.with(|details| details.panic = Some(report))
    }

    /// Adds what the worker has left about its own end.
    pub(crate) fn with_last_words(self, LastWords { panic, stack_overflow }: LastWords) -> Self {
        self.with(|details| {
            details.stack_overflow = stack_overflow;
            details.panic = details.panic.take().or(panic);
        })
    }

    pub(crate) fn with_chain(self, texts: &[String]) -> Self {
        let source = Cause::chain(texts).map(FailureSource::Texts);
        self.with(|details| details.source = source)
    }

    /// Returns whether a panic's stack, here or in a cause, is still without the names of its functions.
    pub(crate) fn has_raw_backtrace(&self) -> bool {
        let own = self.0.panic.as_ref().is_some_and(|report| report.raw.is_some());
        own || matches!(&self.0.source, Some(FailureSource::Failure(cause)) if cause.has_raw_backtrace())
    }

    /// Makes texts of the stacks of panics, here and in the causes.
    pub(crate) fn with_backtraces(self, text_of: &dyn Fn(&RawBacktrace) -> String) -> Self {
        if !self.has_raw_backtrace() {
            return self;
        }
        self.with(|details| {
            if let Some(report) = &mut details.panic
                && let Some(raw) = report.raw.take()
            {
                report.backtrace = text_of(&raw);
            }
            if let Some(FailureSource::Failure(cause)) = &mut details.source {
                *cause = cause.clone().with_backtraces(text_of);
            }
        })
    }

    /// Returns the line of this failure, without its causes.
    fn line(&self) -> String {
        escape::one_line(&self.0.to_string()).into_owned()
    }

    pub(crate) fn caused_by(self, cause: Failure) -> Self {
        self.with(|details| details.source = Some(FailureSource::Failure(cause)))
    }

    pub(crate) fn of_large_message(self, too_large: bool) -> Self {
        self.with(|details| details.here.too_large = too_large)
    }

    pub(crate) fn retry_in(self, estimate: Duration) -> Self {
        self.with(|details| details.retry_after = Some(estimate))
    }
}

/// What a response to a request for which a call failed is made from.
#[allow(dead_code, reason = "it is used where web applications are supported")]
impl Failure {
    /// Returns whether the message of the call was larger than the pool allows.
    pub(crate) fn is_of_large_message(&self) -> bool {
        self.0.here.too_large
    }

    /// Notes that the report of this failure is told, also for its clones. Returns whether it was not before.
    pub(crate) fn mark_told(&self) -> bool {
        self.0.here.mark_told()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            return multi_line::write(self, f);
        }
        f.write_str(&self.line())?;
        let shows_causes =
            matches!(self.kind(), FailureKind::Timeout | FailureKind::NoServer | FailureKind::Setup);
        let mut cause = self.source().filter(|_| shows_causes);
        while let Some(error) = cause {
            // A failure among the causes shows its own causes where its kind calls for them.
            let text = error.to_string();
            write!(f, ": {}", escape::one_line(&text))?;
            cause = if error.is::<Failure>() { None } else { error.source() };
        }
        Ok(())
    }
}

/// Prints the failure and its sources, a line each. This is what an unhandled `?` in `main` shows.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())?;
        let mut next = self.source();
        while let Some(error) = next {
            write!(f, "\ncaused by: {}", escape::one_line(&error.to_string()))?;
            next = error.source();
        }
        Ok(())
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.0.source.as_ref()? {
            FailureSource::Texts(cause) => Some(&**cause),
            FailureSource::Failure(failure) => Some(failure),
        }
    }
}

#[cfg(test)]
mod tests;
