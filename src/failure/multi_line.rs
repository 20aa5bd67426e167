//! The format `{:#}` of a failure: its line, and then a line for each detail that is known.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::exit::ByteSize;
use super::{Details, Failure, WorkerFacts};
use crate::escape;

/// The width of the column of names.
const NAMES: usize = 10;

pub(super) fn write(failure: &Failure, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let details = &*failure.0;
    // The causes have lines of their own.
    f.write_str(&failure.line())?;
    entry(f, "kind", details.kind)?;
    optional(f, "pool", details.pool.as_ref())?;
    call(details, f)?;
    optional(f, "limit", details.limit.map(Rounded))?;
    optional(f, "retry in", details.retry_after.map(Rounded))?;
    if let Some(facts) = &details.worker {
        worker(facts, f)?;
    }
    let overflow = if details.stack_overflow { ", its stack overflowed" } else { "" };
    optional(f, "ending", details.ending.map(|ending| format!("{ending}{overflow}")))?;
    if let Some(facts) = &details.worker {
        usage(facts, f)?;
        lines(f, "stderr", facts.stderr.iter().map(String::as_str))?;
        lines(f, "log", facts.log.iter().map(String::as_str))?;
    }
    if let Some(report) = &details.panic {
        lines(f, "panic", report.message.lines())?;
        optional(f, "at", report.location.as_ref())?;
        lines(f, "backtrace", report.backtrace.lines())?;
    }
    causes(failure, f)
}

fn call(details: &Details, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut parts = Vec::new();
    parts.extend(details.call.clone());
    parts.extend(details.phase.map(|phase| phase.to_string()));
    parts.extend(details.waited.map(|waited| format!("waited {}", Rounded(waited))));
    parts.extend(details.ran.map(|ran| format!("ran {}", Rounded(ran))));
    list(f, "call", &parts)
}

fn worker(facts: &WorkerFacts, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut parts = vec![format!("number {}", facts.number)];
    parts.extend(facts.pid.map(|pid| format!("pid {pid}")));
    parts.extend(facts.age.map(|age| format!("age {}", Rounded(age))));
    parts.extend(facts.calls_served.map(|calls| format!("calls served {calls}")));
    list(f, "worker", &parts)
}

fn usage(facts: &WorkerFacts, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut parts = Vec::new();
    parts.extend(facts.peak_memory.map(|bytes| format!("peak memory {}", ByteSize(bytes))));
    parts.extend(facts.cpu_time.map(|time| format!("CPU time {}", Rounded(time))));
    parts.extend(facts.killed_for_memory.map(|verdict| format!("ended {verdict}")));
    list(f, "usage", &parts)
}

fn causes(failure: &Failure, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut next = failure.source();
    while let Some(error) = next {
        entry(f, "caused by", error)?;
        next = error.source();
    }
    Ok(())
}

/// Writes a line with these parts; none without parts.
fn list(f: &mut fmt::Formatter<'_>, name: &str, parts: &[String]) -> fmt::Result {
    if parts.is_empty() { Ok(()) } else { entry(f, name, parts.join(", ")) }
}

fn optional(f: &mut fmt::Formatter<'_>, name: &str, value: Option<impl fmt::Display>) -> fmt::Result {
    value.map_or(Ok(()), |value| entry(f, name, value))
}

fn entry(f: &mut fmt::Formatter<'_>, name: &str, value: impl fmt::Display) -> fmt::Result {
    // An entry stays on one line, also if a text of the user in it has line breaks.
    let value = value.to_string();
    write!(f, "\n  {name:NAMES$}  {}", escape::one_line(&value))
}

fn lines<'a>(f: &mut fmt::Formatter<'_>, name: &str, lines: impl Iterator<Item = &'a str>) -> fmt::Result {
    for (at, line) in lines.enumerate() {
        entry(f, if at == 0 { name } else { "" }, format_args!("| {line}"))?;
    }
    Ok(())
}

/// Prints a duration to one decimal place.
struct Rounded(Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1?}", self.0)
    }
}
