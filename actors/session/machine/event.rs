//! What happens to a checkout, and what it wants done.

use std::collections::VecDeque;
use std::time::Duration;

use super::Call;
use crate::actors::calls::CallTimes;
use crate::actors::calls::faults::Fault;
use crate::actors::calls::reading::{ReplyMeaning, Violation};
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::scheduler::state::ReleaseReport;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::clock::Instant;
use crate::failure::Failure;

/// What has happened.
pub(crate) enum Event<C: Call> {
    /// A call was written to the worker, after [`Admission::Write`] or
    /// [`next_to_write`](super::Machine::next_to_write).
    Written {
        call: C,
        bytes: usize,
    },
    /// A call was encoded, after [`Admission::Queue`].
    Queued {
        call: C,
        message: C::Message,
    },
    /// The scheduler has lent the worker that was requested.
    Granted(Grant),
    /// The scheduler lends no worker, and the checkout does not wait any more.
    Refused(Failure),
    /// An attempt to start a worker has failed, and the checkout waits on.
    StartFailed(Failure),
    /// The pool is stopping: queued calls may run, new ones are refused.
    Closing,
    /// The pool has stopped: the worker is taken away.
    Stopped,
    /// The worker has replied to the call with this id. `keep`: its handler wants the worker kept despite an error;
    /// `stop`: it wants the worker replaced.
    Replied {
        id: u64,
        meaning: ReplyMeaning,
        keep: bool,
        stop: bool,
    },
    /// The worker has reported the end of its release.
    Released(ReleaseReport),
    ProtocolBroken(Violation),
    /// The worker has closed its end of the channel, or nothing more is read from it because its process has ended.
    ChannelEnded,
    /// The exit report of the worker has arrived, or has not within its time.
    Exited(Exit),
    /// A deadline has passed, so long ago. Not for [`Due::Exit`] and [`Due::Holding`], which become
    /// [`Exited`](Event::Exited) and [`Reclaimed`](Event::Reclaimed).
    Expired {
        due: Due,
        late: Duration,
    },
    /// The requester of the running call has given it up, and by its policy this kills the worker.
    Cancelled,
    /// A fence has come back through the mailbox.
    FencePassed(u64),
    /// The holder aborts the checkout.
    Aborted(String),
    /// The failure is there that [`Action::Abort`] has asked for: that of the running call and that of all others.
    AbortDescribed {
        failure: Failure,
        of_first: Option<Failure>,
    },
    /// The failure is there that [`Action::Fail`], [`Action::FailWait`] or [`Action::Complete`] has asked for.
    FailureDescribed(Failure),
    /// No further calls will come, or none are wanted. `ends`: why the worker is to be replaced, if it is.
    Finished {
        ends: Option<RetireReason>,
    },
    /// The checkout has held its worker with nothing to run for too long.
    Reclaimed {
        failure: Failure,
        ends: Option<RetireReason>,
    },
}

/// A worker as it is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Number of calls that it has answered since its fork.
    pub(crate) calls_served: u64,
    /// Whether it has sent bytes before it got a call.
    pub(crate) has_early_bytes: bool,
    /// Whether its channel could be registered on this thread.
    pub(crate) is_registered: bool,
}

/// How a worker was lost.
#[derive(Debug)]
pub(crate) struct Exit {
    /// `None` if no exit was reported: the worker may still be alive.
    pub(crate) report: Option<ExitReport>,
    /// Whether its status page shows that it has begun a call of this lease; `None` if there is no such page.
    pub(crate) seen_begun: Option<bool>,
    /// Whether further calls can come.
    pub(crate) is_connected: bool,
}

/// Whether a call may be written.
pub(crate) enum Admission {
    /// It is to be written now, and reported with [`Event::Written`].
    Write,
    /// It has to wait, and is to be reported with [`Event::Queued`].
    Queue,
    /// It is to be answered now.
    Refuse(Answer),
}

/// The answer to a call.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The handler's `Ok`, as the worker sent it.
    Value,
    /// The handler's `Err`, as the worker sent it.
    Error,
    /// The message or the result could not be encoded or decoded, as the text says.
    Payload {
        text: String,
        calls_served: u64,
    },
    /// The pool has stopped.
    Stopped,
    Failure(Failure),
}

/// What is to be done, in this order.
pub(crate) enum Action<C> {
    Answer(C, Answer),
    /// Send a fence with this number through the checkout's own mailbox, and report it with [`Event::FencePassed`] when
    /// it arrives, or at once if there is no mailbox.
    SendFence(u64),
    /// Request a worker; `again`: ahead of all other checkouts. The worker that is held is killed after that.
    Acquire {
        again: bool,
    },
    /// Give up the request for a worker.
    LeaveQueue,
    /// The worker has read what was sent, so that it is sent to no other worker.
    ConfirmRead,
    /// Ask the worker to release itself.
    Release,
    /// Give the worker back to the scheduler.
    GiveBack {
        report: ReleaseReport,
        calls_served: u64,
    },
    /// Give the worker back after its last checkout.
    Retire(RetireReason),
    /// Kill the worker. `resend`: what was written to it goes to the next one.
    Kill {
        reason: RetireReason,
        resend: bool,
    },
    /// Count how long the worker was held, for the estimate of how long others have to wait for one.
    CountHold(Duration),
    /// Make a failure of this and of what is known of the worker, then kill the worker.
    Fail {
        fault: Fault,
        calls_served: u64,
        times: Option<CallTimes>,
    },
    /// Give up the request for a worker, and make a failure of what is known of the wait.
    FailWait {
        limit: Duration,
        times: Option<CallTimes>,
    },
    /// Complete this failure of the first call.
    Complete(Failure),
    /// Make failures of an abort, and give up the worker or the request for one.
    Abort {
        reason: String,
        calls_served: u64,
        times: Option<CallTimes>,
        was_waiting: bool,
    },
    /// No reply or log record will follow: drop what was kept for calls that were written.
    ForgetWritten,
}

/// Actions that are to be carried out, the first one first.
pub(crate) type Actions<C> = VecDeque<Action<C>>;

/// Which time limit a deadline belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// The first call's own limit.
    Call(Duration),
    /// The limit on the wait for a worker.
    Wait(Duration),
    /// The limit on `checkout_done`.
    Release,
    /// The limit on the wait for an exit report. The worker closed its end of the channel; without a report it is
    /// still alive.
    Exit,
    /// The limit on holding a worker with nothing to run, `idle_checkout_timeout`.
    Holding(Duration),
}

/// A time limit that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeLimit {
    pub(crate) since: Instant,
    /// When it passes, unless the application is frozen meanwhile.
    pub(crate) at: Instant,
    pub(crate) due: Due,
}

impl TimeLimit {
    /// Returns `None` for a limit beyond the range of the clock, which never passes.
    pub(super) fn new(since: Instant, limit: Duration, due: Due) -> Option<Self> {
        Some(TimeLimit { since, at: since.checked_add(limit)?, due })
    }
}
