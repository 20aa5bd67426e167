//! The format `{}` of a failure: one line with what failed, where and why.

use std::fmt;

use super::{Details, Ending, FailureKind, MemoryVerdict, Phase, WorkerFacts};

impl Details {
    fn call_name(&self) -> &str {
        self.call.as_deref().unwrap_or("the call")
    }

    fn worker_name(&self) -> String {
        let pool = self.pool.as_deref().unwrap_or("pool");
        match &self.worker {
            Some(WorkerFacts { number, pid: Some(pid), .. }) => {
                format!("worker {pool}/{number} (pid {pid})")
            }
            Some(WorkerFacts { number, .. }) => format!("worker {pool}/{number}"),
            None => format!("a worker of pool {pool}"),
        }
    }

    fn pool_name(&self) -> String {
        self.pool.as_ref().map_or_else(|| "the pool".to_owned(), |pool| format!("pool {pool}"))
    }

    fn verdict(&self) -> Option<MemoryVerdict> {
        self.worker.as_ref()?.killed_for_memory
    }

    fn write_timeout(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} timed out", self.call_name())?;
        if let Some(limit) = self.limit {
            write!(f, " at its limit of {limit:?}")?;
        }
        match self.phase {
            Some(Phase::Running) => write!(f, " while running on {}", self.worker_name()),
            Some(Phase::Holding) => write!(f, " while holding {} with nothing to run", self.worker_name()),
            Some(phase) => write!(f, " while {phase} of {}", self.pool_name()),
            None => Ok(()),
        }?;
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }

    fn write_setup(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set-up of {} ", self.worker_name())?;
        match (&self.panic, &self.ending) {
            (Some(report), _) => write!(f, "panicked: {report}"),
            (None, Some(ending)) => {
                write!(f, "ended its process: {ending}")?;
                self.write_overflow(f)
            }
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
        }?;
        self.write_overflow(f)?;
        if let Some(report) = &self.panic {
            write!(f, ", after it panicked: {report}")?;
        }
        match self.verdict() {
            Some(verdict) => write!(f, ", {verdict}"),
            None => Ok(()),
        }
    }

    fn write_overflow(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.stack_overflow { ", its stack overflowed" } else { "" })
    }

    fn write_hang(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // With a grace it may have ended by itself.
        let end = if let Some(Ending::Exited { .. }) = self.ending { "told to end" } else { "killed" };
        write!(f, "{} hung on {}, which was {end}", self.call_name(), self.worker_name())?;
        match self.limit {
            Some(limit) => write!(f, " at its hung_worker_timeout of {limit:?}"),
            None => Ok(()),
        }
    }

    fn write_cancellation(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.text.is_empty() {
            return write!(f, "{} was cancelled: {}", self.call_name(), self.text);
        }
        write!(
            f,
            "{} was cancelled by its requester, and {} was killed",
            self.call_name(),
            self.worker_name()
        )
    }

    fn write_quarantine(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is quarantined in {}: {}", self.call_name(), self.pool_name(), self.text)?;
        self.write_retry(f)
    }

    fn write_retry(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.retry_after {
            Some(estimate) => write!(f, "; retry in about {estimate:.1?}"),
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
        }?;
        if self.text.is_empty() { Ok(()) } else { write!(f, ", and {}", self.text) }
    }

    fn write_overload(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is overloaded: {}", self.pool_name(), self.text)?;
        self.write_retry(f)
    }
}

impl fmt::Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let details = self;
        match details.kind {
            FailureKind::Panic => details.write_panic(f),
            FailureKind::Setup => details.write_setup(f),
            FailureKind::Timeout => details.write_timeout(f),
            FailureKind::Died => details.write_death(f),
            FailureKind::NoServer => details.write_no_server(f),
            FailureKind::Overloaded => details.write_overload(f),
            FailureKind::Aborted => write!(f, "{} was aborted: {}", details.call_name(), details.text),
            FailureKind::Protocol => {
                write!(f, "{} broke the protocol and was killed: {}", details.worker_name(), details.text)
            }
            FailureKind::Cleared => {
                write!(f, "{} was not run: a call before it on its checkout failed", details.call_name())
            }
            FailureKind::Elsewhere => {
                write!(f, "{} was not run in {}: {}", details.call_name(), details.pool_name(), details.text)
            }
            FailureKind::Stopped if details.text.is_empty() => {
                write!(f, "{} is stopped", details.pool_name())
            }
            FailureKind::Stopped => write!(f, "{} is stopped: {}", details.pool_name(), details.text),
            FailureKind::Payload => write!(f, "{}: {}", details.call_name(), details.text),
            FailureKind::Hung => details.write_hang(f),
            FailureKind::Cancelled => details.write_cancellation(f),
            FailureKind::Quarantined => details.write_quarantine(f),
            FailureKind::Task | FailureKind::Other => f.write_str(&details.text),
        }
    }
}
