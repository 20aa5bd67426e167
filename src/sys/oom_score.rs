//! Which process the kernel's out-of-memory killer takes first: a worker before its server, a server before its
//! application.
//!
//! A process may raise its own score without privileges. What it forks or executes inherits it.

use std::ffi::CStr;

use rustix::fs::{Mode, OFlags};

use super::faults;
use super::faults::Call;

/// The adjustment of this process.
///
/// # References
///
/// - [proc_pid_oom_score_adj(5)](https://man7.org/linux/man-pages/man5/proc_pid_oom_score_adj.5.html)
const FILE: &CStr = c"/proc/self/oom_score_adj";

/// By how much a server is above its application, and a worker above its server: as if it had a fifth of the machine's
/// memory more. A process that has taken most of the memory is still found, whichever it is.
const STEP: i32 = 200;

/// The highest adjustment that the kernel knows.
const MAX: i32 = 1000;

/// The adjustment that a process is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OomScore {
    score: i32,
    /// The same as text, made before the fork: each page that a child touches is copied.
    text: String,
}

impl OomScore {
    fn new(score: i32) -> Self {
        OomScore { score, text: score.to_string() }
    }

    /// The adjustment of this process; `None` where the kernel does not tell it.
    pub(crate) fn own() -> Option<Self> {
        faults::point(Call::Open).ok()?;
        let file = rustix::fs::open(FILE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut bytes = [0; 16];
        let count = rustix::io::read(&file, &mut bytes).ok()?;
        std::str::from_utf8(&bytes[..count]).ok()?.trim().parse().ok().map(OomScore::new)
    }

    /// The adjustment of processes that are to be taken before those with this one.
    pub(crate) fn above(self) -> Self {
        OomScore::new(self.score.saturating_add(STEP).min(MAX))
    }

    /// Sets the adjustment of this process. If the system refuses that, it stays as it is.
    pub(crate) fn set(self) {
        if faults::point(Call::Open).is_err() {
            return;
        }
        if let Ok(file) = rustix::fs::open(FILE, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            // The order of victims is a preference, and not worth a warning.
            let _ = rustix::io::write(&file, self.text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_rises_by_a_step_and_not_beyond_what_the_kernel_knows() {
        for (score, above) in [(-1000, -800), (0, 200), (750, 950), (900, 1000), (1000, 1000)] {
            assert_eq!(OomScore::new(score).above(), OomScore::new(above));
        }
    }
}
