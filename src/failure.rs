//! How a call can fail, as one value that its caller can match on, print and pass on.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod depth;
mod kind;
mod report;

pub use kind::FailureKind;
#[cfg(any(test, feature = "actors"))]
pub(crate) use kind::KIND_NAMES;
use report::Cause;
pub use report::{Ending, PanicReport, SetupError};

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
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Waiting => "waiting for a worker",
            Phase::Starting => "waiting for a worker to start",
            Phase::Running => "running",
        })
    }
}

/// What stands behind a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Source {
    Texts(Box<Cause>),
    Failure(Failure),
}

/// Which worker a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerName {
    pub(crate) number: u64,
    pub(crate) pid: Option<u32>,
}

/// Everything known about one failed call.
///
/// `Display` is one line; [`source`](Error::source) goes on where another error stands behind it, and no text
/// is repeated along that chain. A failure is cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure(Arc<Dossier>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Dossier {
    kind: FailureKind,
    text: String,
    pool: Option<String>,
    call: Option<String>,
    worker: Option<WorkerName>,
    phase: Option<Phase>,
    limit: Option<Duration>,
    waited: Option<Duration>,
    ran: Option<Duration>,
    ending: Option<Ending>,
    panic: Option<PanicReport>,
    peak_memory: Option<u64>,
    cpu_time: Option<Duration>,
    retry_after: Option<Duration>,
    source: Option<Source>,
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
        self.0.worker.map(|worker| worker.number)
    }

    /// The process id the worker had.
    pub fn pid(&self) -> Option<u32> {
        self.0.worker.and_then(|worker| worker.pid)
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

    /// The most memory the dead process had resident, in bytes.
    pub fn peak_memory(&self) -> Option<u64> {
        self.0.peak_memory
    }

    /// The CPU time the dead process had used.
    pub fn cpu_time(&self) -> Option<Duration> {
        self.0.cpu_time
    }

    /// When to try again, for [`FailureKind::Overloaded`]; an estimate.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    pub(crate) fn of(kind: FailureKind, text: impl Into<String>) -> Self {
        Failure(Arc::new(Dossier {
            kind,
            text: text.into(),
            pool: None,
            call: None,
            worker: None,
            phase: None,
            limit: None,
            waited: None,
            ran: None,
            ending: None,
            panic: None,
            peak_memory: None,
            cpu_time: None,
            retry_after: None,
            source: None,
        }))
    }

    fn with(mut self, note: impl FnOnce(&mut Dossier)) -> Self {
        note(Arc::make_mut(&mut self.0));
        self
    }
}

/// How the host side fills in what it knows.
#[cfg_attr(not(feature = "actors"), expect(dead_code, reason = "the host side fills in dossiers"))]
impl Failure {
    pub(crate) fn in_pool(self, pool: &str) -> Self {
        self.with(|dossier| dossier.pool = Some(pool.to_owned()))
    }

    pub(crate) fn during(self, call: &str) -> Self {
        self.with(|dossier| dossier.call = Some(call.to_owned()))
    }

    pub(crate) fn on_worker(self, number: u64, pid: Option<u32>) -> Self {
        self.with(|dossier| dossier.worker = Some(WorkerName { number, pid }))
    }

    pub(crate) fn in_phase(self, phase: Phase) -> Self {
        self.with(|dossier| dossier.phase = Some(phase))
    }

    pub(crate) fn at_limit(self, limit: Duration) -> Self {
        self.with(|dossier| dossier.limit = Some(limit))
    }

    pub(crate) fn after(self, waited: Duration, ran: Option<Duration>) -> Self {
        self.with(|dossier| (dossier.waited, dossier.ran) = (Some(waited), ran))
    }

    pub(crate) fn with_ending(self, ending: Ending, peak_memory: u64, cpu_time: Duration) -> Self {
        self.with(|dossier| {
            dossier.ending = Some(ending);
            dossier.peak_memory = Some(peak_memory);
            dossier.cpu_time = Some(cpu_time);
        })
    }

    pub(crate) fn with_panic(self, report: PanicReport) -> Self {
        self.with(|dossier| dossier.panic = Some(report))
    }

    pub(crate) fn with_chain(self, texts: &[String]) -> Self {
        let source = Cause::chain(texts).map(Source::Texts);
        self.with(|dossier| dossier.source = source)
    }

    pub(crate) fn because_of(self, cause: Failure) -> Self {
        self.with(|dossier| dossier.source = Some(Source::Failure(cause)))
    }

    pub(crate) fn retry_in(self, estimate: Duration) -> Self {
        self.with(|dossier| dossier.retry_after = Some(estimate))
    }
}

impl Dossier {
    fn call_name(&self) -> &str {
        self.call.as_deref().unwrap_or("the call")
    }

    fn worker_name(&self) -> String {
        let pool = self.pool.as_deref().unwrap_or("pool");
        match self.worker {
            Some(WorkerName { number, pid: Some(pid) }) => format!("worker {pool}/{number} (pid {pid})"),
            Some(WorkerName { number, pid: None }) => format!("worker {pool}/{number}"),
            None => format!("a worker of pool {pool}"),
        }
    }

    fn pool_name(&self) -> String {
        self.pool.as_ref().map_or_else(|| "the pool".to_owned(), |pool| format!("pool {pool}"))
    }

    fn write_timeout(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} timed out", self.call_name())?;
        if let Some(limit) = self.limit {
            write!(f, " at its limit of {limit:?}")?;
        }
        match self.phase {
            Some(Phase::Running) => write!(f, " while running on {}", self.worker_name()),
            Some(phase) => write!(f, " while {phase} of {}", self.pool_name()),
            None => Ok(()),
        }
    }

    fn write_setup(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set-up of {} ", self.worker_name())?;
        match (&self.panic, &self.ending) {
            (Some(report), _) => write!(f, "panicked: {report}"),
            (None, Some(ending)) => write!(f, "ended its process: {ending}"),
            (None, None) => f.write_str(&self.text),
        }
    }

    fn write_death(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} died", self.worker_name())?;
        match &self.call {
            Some(call) => write!(f, " while running {call}")?,
            None => f.write_str(" while it was held")?,
        }
        match self.ending {
            _ if !self.text.is_empty() => write!(f, ": {}", self.text),
            Some(ending) => write!(f, ": {ending}"),
            None => Ok(()),
        }
    }

    fn write_panic(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} panicked in {}", self.call_name(), self.worker_name())?;
        self.panic.as_ref().map_or(Ok(()), |report| write!(f, ": {report}"))
    }

    fn write_no_server(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (call, pool) = (self.call_name(), self.pool_name());
        match self.limit {
            Some(limit) => write!(f, "{call} found no fork server of {pool} within its limit of {limit:?}"),
            None => write!(f, "{call} found no fork server of {pool}"),
        }
    }

    fn write_overload(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is overloaded: {}", self.pool_name(), self.text)?;
        match self.retry_after {
            Some(estimate) => write!(f, "; retry in about {estimate:?}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Dossier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dossier = self;
        match dossier.kind {
            FailureKind::Panic => dossier.write_panic(f),
            FailureKind::Setup => dossier.write_setup(f),
            FailureKind::Timeout => dossier.write_timeout(f),
            FailureKind::Died => dossier.write_death(f),
            FailureKind::NoServer => dossier.write_no_server(f),
            FailureKind::Overloaded => dossier.write_overload(f),
            FailureKind::Aborted => write!(f, "{} was aborted: {}", dossier.call_name(), dossier.text),
            FailureKind::Protocol => {
                write!(f, "{} broke the protocol and was killed: {}", dossier.worker_name(), dossier.text)
            }
            FailureKind::Cleared => {
                write!(f, "{} was not run: a call before it on its checkout failed", dossier.call_name())
            }
            FailureKind::Stopped => write!(f, "{} is stopped", dossier.pool_name()),
            FailureKind::Payload => write!(f, "{}: {}", dossier.call_name(), dossier.text),
            FailureKind::Task
            | FailureKind::Hung
            | FailureKind::Cancelled
            | FailureKind::Quarantined
            | FailureKind::Other => f.write_str(&dossier.text),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
            Source::Texts(cause) => Some(&**cause),
            Source::Failure(failure) => Some(failure),
        }
    }
}

impl Serialize for Failure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Failure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let _level = depth::Level::enter()?;
        Dossier::deserialize(deserializer).map(|dossier| Failure(Arc::new(dossier)))
    }
}

#[cfg(test)]
mod tests;
