//! How a call can fail, as one value that its caller can match on, print and pass on.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod bounded_chain;
mod exit;
mod kind;
mod multi_line;
mod one_line;
mod serde_compat;

use exit::Cause;
pub use exit::{Ending, MemoryVerdict, PanicReport, SetupError};
pub use kind::FailureKind;
#[cfg(any(test, feature = "actors"))]
pub(crate) use kind::KIND_NAMES;

/// Prints an error that ends `main`, with whatever it comes from.
pub(crate) fn for_people(f: &mut fmt::Formatter<'_>, error: &dyn Error) -> fmt::Result {
    write!(f, "{error}")?;
    match error.source() {
        Some(source) => write!(f, "\ncaused by: {source}"),
        None => Ok(()),
    }
}

/// How far a call had come when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Phase {
    /// Every worker was in use.
    Waiting,
    /// A worker was being forked or set up for it.
    Starting,
    /// The worker had it.
    Running,
    /// Its checkout held a worker and had nothing for it to do.
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

/// What stands behind a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum FailureSource {
    Texts(Box<Cause>),
    Failure(Failure),
}

/// What is known of the worker that a failure is about.
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
    /// The last lines it wrote to its standard error, oldest first.
    pub(crate) stderr: Vec<String>,
    /// The last records it logged, oldest first.
    pub(crate) log: Vec<String>,
}

/// Everything known about one failed call.
///
/// `Display` is one line that a person can act on, and with `{:#}` a block of lines with all that is known.
/// [`source`](Error::source) goes on where another error stands behind it, and no text is repeated along that chain.
/// A failure is cheap to clone, and it serializes: what a newer version added is left out by an older reader, and a
/// kind that the reader does not know is read as [`Other`](FailureKind::Other) with the line that its writer printed.
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
}

impl Failure {
    /// A failure of the task itself, for handlers that want no error type of their own.
    pub fn task(text: impl Into<String>) -> Self {
        Failure::of(FailureKind::Task, text)
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> FailureKind {
        self.0.kind
    }

    /// The pool's name, where the failure belongs to a pool.
    pub fn pool(&self) -> Option<&str> {
        self.0.pool.as_deref()
    }

    /// The name of the message that was sent.
    pub fn call(&self) -> Option<&str> {
        self.0.call.as_deref()
    }

    /// The number of the worker in its pool, counted from 1.
    pub fn worker(&self) -> Option<u64> {
        self.facts().map(|worker| worker.number)
    }

    /// The process id the worker had.
    pub fn pid(&self) -> Option<u32> {
        self.facts().and_then(|worker| worker.pid)
    }

    /// How long the worker had been there, counted from its fork.
    pub fn age(&self) -> Option<Duration> {
        self.facts().and_then(|worker| worker.age)
    }

    /// Calls that the worker had answered before, in all its checkouts.
    pub fn calls_served(&self) -> Option<u64> {
        self.facts().and_then(|worker| worker.calls_served)
    }

    /// The most memory the worker had resident, in bytes.
    pub fn peak_memory(&self) -> Option<u64> {
        self.facts().and_then(|worker| worker.peak_memory)
    }

    /// The CPU time the worker had used, its own and the kernel's for it.
    pub fn cpu_time(&self) -> Option<Duration> {
        self.facts().and_then(|worker| worker.cpu_time)
    }

    /// What was found to have ended the worker for its memory; `None` where nothing was.
    pub fn killed_for_memory(&self) -> Option<MemoryVerdict> {
        self.facts().and_then(|worker| worker.killed_for_memory)
    }

    /// The last lines, at most 20, that the worker wrote to its standard error, oldest first.
    pub fn stderr(&self) -> &[String] {
        self.facts().map_or(&[], |worker| &worker.stderr)
    }

    /// The last records, at most 20, that the worker logged by `tracing` at level info or above, oldest first.
    pub fn log(&self) -> &[String] {
        self.facts().map_or(&[], |worker| &worker.log)
    }

    fn facts(&self) -> Option<&WorkerFacts> {
        self.0.worker.as_ref()
    }

    /// How far the call had come.
    pub fn phase(&self) -> Option<Phase> {
        self.0.phase
    }

    /// The limit that was reached, for a timeout.
    pub fn limit(&self) -> Option<Duration> {
        self.0.limit
    }

    /// How long the call waited before a worker had it.
    pub fn waited(&self) -> Option<Duration> {
        self.0.waited
    }

    /// How long the worker had the call.
    pub fn ran(&self) -> Option<Duration> {
        self.0.ran
    }

    /// How the worker process ended, where it did.
    pub fn ending(&self) -> Option<Ending> {
        self.0.ending
    }

    /// What the panic said, for [`FailureKind::Panic`] and set-ups that panicked.
    pub fn panic(&self) -> Option<&PanicReport> {
        self.0.panic.as_ref()
    }

    /// When to try again, for [`FailureKind::Overloaded`], an estimate, and [`FailureKind::Quarantined`].
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    pub(crate) fn of(kind: FailureKind, text: impl Into<String>) -> Self {
        Failure(Arc::new(Details { kind, text: text.into(), ..Details::default() }))
    }

    fn with(mut self, note: impl FnOnce(&mut Details)) -> Self {
        note(Arc::make_mut(&mut self.0));
        self
    }
}

/// How the host side fills in what it knows.
#[cfg_attr(not(feature = "actors"), expect(dead_code, reason = "the host side fills in dossiers"))]
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

    pub(crate) fn after(self, waited: Duration, ran: Option<Duration>) -> Self {
        self.with(|details| (details.waited, details.ran) = (Some(waited), ran))
    }

    pub(crate) fn with_ending(self, ending: Ending) -> Self {
        self.with(|details| details.ending = Some(ending))
    }

    pub(crate) fn with_panic(self, report: PanicReport) -> Self {
        self.with(|details| details.panic = Some(report))
    }

    pub(crate) fn with_chain(self, texts: &[String]) -> Self {
        let source = Cause::chain(texts).map(FailureSource::Texts);
        self.with(|details| details.source = source)
    }

    pub(crate) fn because_of(self, cause: Failure) -> Self {
        self.with(|details| details.source = Some(FailureSource::Failure(cause)))
    }

    pub(crate) fn retry_in(self, estimate: Duration) -> Self {
        self.with(|details| details.retry_after = Some(estimate))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            return multi_line::write(self, f);
        }
        // One line, whatever the texts of users in it hold.
        f.write_str(&self.0.to_string().replace(['\n', '\r'], " "))
    }
}

/// For people: what an unhandled `?` in `main` prints is the failure and what stands behind it, a line each.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        let mut next = self.source();
        while let Some(error) = next {
            write!(f, "\ncaused by: {error}")?;
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
