//! What dead, panicked and stillborn workers leave behind.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::bounded_chain::{DEEPEST, DepthGuard};

/// How a worker process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Ending {
    /// It ended itself.
    Exited {
        /// Its exit status, 0 to 255.
        code: i32,
    },
    /// A signal ended it.
    Signaled {
        /// The signal's number; [`Ending`] prints its name.
        signal: i32,
        /// Whether the kernel wrote a core file.
        core_dumped: bool,
    },
    /// Nobody was left to tell: its fork server had died before it.
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
            Ending::Unknown => f.write_str("ended in a way nobody saw"),
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

/// What ended a worker for its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MemoryVerdict {
    /// An allocation failed at the pool's own `memory_limit`.
    OwnLimit {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The kernel's out-of-memory killer was at work when this worker was killed.
    OutOfMemoryKiller,
}

impl fmt::Display for MemoryVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            MemoryVerdict::OwnLimit { limit } => write!(f, "at its memory_limit of {}", Bytes(limit)),
            MemoryVerdict::OutOfMemoryKiller => f.write_str("by the kernel's out-of-memory killer"),
        }
    }
}

/// A number of bytes, for people.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ 0..1024 => write!(f, "{bytes} bytes"),
            bytes @ 1024..0x10_0000 => write!(f, "{:.1} KiB", bytes as f64 / 1024.0),
            bytes @ 0x10_0000..0x4000_0000 => write!(f, "{:.1} MiB", bytes as f64 / 1_048_576.0),
            bytes => write!(f, "{:.1} GiB", bytes as f64 / 1_073_741_824.0),
        }
    }
}

/// What a panic in a worker said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PanicReport {
    /// The panic's own text.
    pub message: String,
    /// `file:line:column`, where it is known.
    pub location: Option<String>,
    /// The stack at the panic, as text.
    pub backtrace: String,
}

impl fmt::Display for PanicReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever the panic said.
        let mut lines = self.message.lines();
        let message = lines.find(|line| !line.trim().is_empty()).unwrap_or("a panic without a message");
        match &self.location {
            Some(location) => write!(f, "{message} at {location}"),
            None => f.write_str(message),
        }
    }
}

/// Why a worker could not be set up, as its chain of texts, outermost first.
///
/// Every standard error converts into it, so `?` works in `setup` and `preload`. A text is no error: that is
/// `Err(SetupError::new("no database"))`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupError {
    chain: Vec<String>,
}

impl SetupError {
    /// An error of this text.
    pub fn new(text: impl Into<String>) -> Self {
        SetupError { chain: vec![text.into()] }
    }

    /// The same within a bound: a chain may be of any length, and it travels.
    pub(crate) fn cut(self, texts: usize, cut: impl Fn(String) -> String) -> Self {
        SetupError { chain: self.chain.into_iter().take(texts).map(cut).collect() }
    }

    /// The texts from the outermost error to its innermost source.
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

/// One link of a chain of causes that came from another process as texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Cause {
    text: String,
    next: Option<Box<Cause>>,
}

impl Cause {
    pub(super) fn chain(texts: &[String]) -> Option<Box<Cause>> {
        let kept = texts.iter().take(DEEPEST - 1).rev();
        kept.fold(None, |next, text| Some(Box::new(Cause { text: text.clone(), next })))
    }
}

impl<'de> Deserialize<'de> for Cause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Link {
            text: String,
            next: Option<Box<Cause>>,
        }
        let _level = DepthGuard::enter()?;
        Link::deserialize(deserializer).map(|Link { text, next }| Cause { text, next })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.next.as_deref().map(|cause| cause as _)
    }
}
