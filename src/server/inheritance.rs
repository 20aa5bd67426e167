//! What a worker resets that its server has inherited, and keeps itself.

use crate::sys::descriptors::OpenDescriptors;
use crate::sys::oom_score::OomScore;
use crate::sys::signals::IgnoredSignals;
use crate::sys::{descriptors, signals, terminal};

/// What each worker does about what its server has inherited. The server finds it out once, before its preload.
pub(super) struct Inheritance {
    /// Descriptors that `main` has opened or inherited; workers close them.
    open_descriptors: OpenDescriptors,
    /// Signals that the server ignores; workers do not.
    ignored_signals: IgnoredSignals,
    /// Whether the server has a controlling terminal; workers have none.
    has_terminal: bool,
    /// The order in which the kernel's out-of-memory killer takes processes.
    worker_oom_score: Option<OomScore>,
}

impl Inheritance {
    /// An application's own server has closed, reset and given up everything else before its preload.
    pub(super) fn of_private_server() -> Self {
        Inheritance {
            open_descriptors: OpenDescriptors::default(),
            ignored_signals: IgnoredSignals::default(),
            has_terminal: false,
            worker_oom_score: OomScore::own().map(OomScore::above),
        }
    }

    /// Finds out what the workers of a standalone server do not share with it. What the server cannot do with itself is
    /// reset: closed standard descriptors, and the end by SIGPIPE.
    pub(super) fn of_standalone_server() -> Self {
        // One that cannot be opened is no reason not to serve.
        let _ = descriptors::open_missing_standard();
        signals::ignore_broken_pipes();
        Inheritance {
            open_descriptors: OpenDescriptors::list(),
            ignored_signals: IgnoredSignals::list(),
            has_terminal: terminal::is_there(),
            worker_oom_score: OomScore::own().map(OomScore::above),
        }
    }

    /// Resets it in a forked process, which uses none of these descriptors.
    pub(super) fn reset_in_child(self) {
        self.open_descriptors.close_in_child();
        self.ignored_signals.reset_in_child();
        if self.has_terminal {
            terminal::give_up();
        }
        self.worker_oom_score.into_iter().for_each(OomScore::set);
    }
}
