//! What is known about a worker that exited, panicked or could not be set up.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::bounded_chain::{DepthGuard, MAX_CHAIN};
#[cfg(feature = "actors")]
use super::raw_backtrace::BacktraceStyle;
use super::raw_backtrace::RawBacktrace;
use crate::escape;

/// How a worker process ended, as its parent process learned it from waitid(2).
///
/// `Display` prints it as a phrase: `exited with status 3`, `killed by SIGSEGV (core dumped)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Ending {
    /// The process exited by itself.
    Exited {
        /// The exit status, 0 to 255.
        code: i32,
    },
    /// A signal terminated the process.
    Signaled {
        /// The number of the signal. `Display` prints the name of a common signal, and the number of any other.
        signal: i32,
        /// Whether the kernel wrote a core file.
        core_dumped: bool,
    },
    /// The exit status is unknown: the fork server, which alone could have collected it, had died before the worker.
    Unknown,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Ending::Exited { code } => write!(f, "exited with status {code}"),
            Ending::Signaled { signal, core_dumped } => {
                match signal_name(signal) {
                    Some(name) => write!(f, "killed by {name}")?,
                    None => write!(f, "killed by signal {signal}")?,
                }
                f.write_str(if core_dumped { " (core dumped)" } else { "" })
            }
            Ending::Unknown => f.write_str("ended with an unknown exit status"),
        }
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGABRT => "SIGABRT",
        libc::SIGALRM => "SIGALRM",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGHUP => "SIGHUP",
        libc::SIGILL => "SIGILL",
        libc::SIGINT => "SIGINT",
        libc::SIGKILL => "SIGKILL",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGSYS => "SIGSYS",
        libc::SIGTERM => "SIGTERM",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        _ => return None,
    })
}

/// Why a worker is believed to have died for its use of memory.
///
/// It is an inference and no proof; see the variants for what it rests on. `Display` prints it as a phrase: `at its
/// memory_limit of 64.0 MiB`, `possibly by the kernel's out-of-memory killer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MemoryVerdict {
    /// The pool has a `memory_limit`, the worker reported on its standard error, shortly before it died, that an
    /// allocation had failed, and it ended by itself and not by SIGKILL.
    OwnLimit {
        /// The `memory_limit` of the pool, in bytes.
        limit: u64,
    },
    /// SIGKILL that this library has not sent ended the worker, its memory was large, and the kernel's count of processes
    /// killed by the out-of-memory killer had risen, in the worker's control group where that has such a count. Which
    /// processes these were the kernel does not tell, so `Display` says "possibly".
    OutOfMemoryKiller,
}

impl fmt::Display for MemoryVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            MemoryVerdict::OwnLimit { limit } => write!(f, "at its memory_limit of {}", ByteSize(limit)),
            MemoryVerdict::OutOfMemoryKiller => f.write_str("possibly by the kernel's out-of-memory killer"),
        }
    }
}

/// Prints a number of bytes with a unit, to one decimal place.
pub(super) struct ByteSize(pub(super) u64);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ 0..1024 => write!(f, "{bytes} bytes"),
            bytes @ 1024..0x10_0000 => write!(f, "{:.1} KiB", bytes as f64 / 1024.0),
            bytes @ 0x10_0000..0x4000_0000 => write!(f, "{:.1} MiB", bytes as f64 / 1_048_576.0),
            bytes => write!(f, "{:.1} GiB", bytes as f64 / 1_073_741_824.0),
        }
    }
}

/// A panic of a handler or of `setup` in a worker.
///
/// `Display` prints one line: the first line of the message that is not empty, and the location.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PanicReport {
    /// The text of the panic; a fixed text if the panic's payload was not a string.
    pub message: String,
    /// The source location, as `file:line:column`, if it is known.
    pub location: Option<String>,
    /// The stack at the panic, a text of several lines, at most 32 KiB.
    ///
    /// It is empty unless the application's environment asks for backtraces, as for any other panic: `RUST_BACKTRACE`
    /// is set and not `0` when the pool is started. The worker captures addresses alone; the application finds the
    /// names of functions, on a thread, before the call is answered. A frame of a program or library that is not loaded
    /// in the application, in the same version, is shown as path and offset.
    pub backtrace: String,
    /// The stack as the worker captured it, until the application has made the backtrace of it.
    #[serde(skip)]
    pub(crate) raw: Option<Box<RawBacktrace>>,
}

impl PanicReport {
    /// Makes a report without a backtrace.
    pub(crate) fn new(message: String, location: Option<String>) -> Self {
        PanicReport { message, location, backtrace: String::new(), raw: None }
    }

    /// Takes the stack out of a report that a worker has sent, if backtraces are wanted. What is no stack stays as a
    /// text.
    ///
    /// A worker that sends a stack where none is wanted costs no search for names.
    #[cfg(feature = "actors")]
    pub(crate) fn received(mut self, style: BacktraceStyle) -> Self {
        let is_wanted = style != BacktraceStyle::Off;
        self.raw = if is_wanted { RawBacktrace::decode(&self.backtrace).map(Box::new) } else { None };
        if self.raw.is_some() || !is_wanted {
            self.backtrace.clear();
        }
        self
    }
}

impl fmt::Display for PanicReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, also if the message has several.
        let mut lines = self.message.lines();
        let message = lines.find(|line| !line.trim().is_empty()).unwrap_or("a panic without a message");
        f.write_str(&escape::one_line(message))?;
        match &self.location {
            Some(location) => write!(f, " at {}", escape::one_line(location)),
            None => Ok(()),
        }
    }
}

/// What a worker has left about its own end, in memory that it shares with others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastWords {
    /// The panics of the call that ran last, which the worker did not come to report.
    pub(crate) panic: Option<PanicReport>,
    /// Whether the stack of its thread has overflowed.
    pub(crate) stack_overflow: bool,
}

/// Why `setup` or `preload` failed: the text of an error, followed by the texts of its sources, outermost first.
///
/// Every type that implements [`std::error::Error`] converts into it, so `?` works in `setup` and `preload`. For a
/// plain text use [`SetupError::new`]: `Err(SetupError::new("no database"))`.
///
/// It does not implement `Error` itself, because that would conflict with the conversion. The caller gets it as a
/// [`Failure`](crate::Failure) of the kind [`Setup`](crate::FailureKind::Setup), whose
/// [`source`](std::error::Error::source) chain has the outermost six of these texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupError {
    chain: Vec<String>,
}

impl SetupError {
    /// Creates an error with this text and no sources.
    pub fn new(text: impl Into<String>) -> Self {
        SetupError { chain: vec![text.into()] }
    }

    /// Keeps the outermost `texts` texts and shortens each of them with `cut`, so that the error fits into a message.
    pub(crate) fn cut(self, texts: usize, cut: impl Fn(String) -> String) -> Self {
        SetupError { chain: self.chain.into_iter().take(texts).map(cut).collect() }
    }

    /// Returns the texts, from the outermost error to its innermost source.
    pub fn chain(&self) -> &[String] {
        &self.chain
    }
}

impl<E: Error> From<E> for SetupError {
    fn from(error: E) -> Self {
        SetupError { chain: texts(&error) }
    }
}

fn texts(error: &dyn Error) -> Vec<String> {
    let mut chain = vec![error.to_string()];
    let mut next = error.source();
    while let Some(error) = next {
        chain.push(error.to_string());
        next = error.source();
    }
    chain
}

/// One error of a chain of causes that came from another process as texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Cause {
    text: String,
    next: Option<Box<Cause>>,
}

impl Cause {
    /// Converts texts to a chain, outermost first; `None` without texts. Texts beyond the limit are dropped.
    pub(super) fn chain(texts: &[String]) -> Option<Box<Cause>> {
        let kept = texts.iter().take(MAX_CHAIN - 1).rev();
        kept.fold(None, |next, text| Some(Box::new(Cause { text: text.clone(), next })))
    }
}

impl<'de> Deserialize<'de> for Cause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            text: String,
            next: Option<Box<Cause>>,
        }
        let _level = DepthGuard::enter()?;
        Fields::deserialize(deserializer).map(|Fields { text, next }| Cause { text, next })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape::lines(&self.text))
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.next.as_deref().map(|cause| cause as _)
    }
}
