//! What a handler gets: the failure, and the frames from the call to the root.

use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use actix::Message;

use super::ErrorContext;
use crate::escape;
use crate::failure::{Failure, FailureKind};

/// The number of innermost frames, the call included, that a trace of a longer chain keeps.
const INNERMOST: usize = 16;

/// The number of outermost frames, the root included, that a trace of a longer chain keeps.
const OUTERMOST: usize = 15;

/// The frames from a failed call to the root of its context, innermost first.
///
/// The first frame is the call itself, named `pool -> Message`. A chain of more than 32 frames is shortened to its
/// innermost 16 and its outermost 15; [`left_out`](Self::left_out) counts the rest.
///
/// `Display` prints a line for each frame, `file:line - name`, with a line `… 7 more …` in place of frames that were
/// left out, and without a line break at the end.
#[derive(Clone, Debug)]
pub struct Trace {
    inner: Vec<TraceFrame>,
    left_out: usize,
    outer: Vec<TraceFrame>,
}

/// One frame of a [`Trace`].
///
/// `Display` prints `file:line - name` on one line; line breaks in the name are printed as spaces.
#[derive(Clone, Debug)]
pub struct TraceFrame {
    name: Arc<str>,
    at: &'static Location<'static>,
}

impl TraceFrame {
    /// Returns the name of the context, or `pool -> Message` for the call itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the source file in which the context or the call was made.
    pub fn file(&self) -> &'static str {
        self.at.file()
    }

    /// Returns the line in that file, counted from 1.
    pub fn line(&self) -> u32 {
        self.at.line()
    }
}

impl fmt::Display for TraceFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A frame stays on one line, also if its name contains line breaks.
        write!(f, "{}:{} - {}", self.file(), self.line(), escape::one_line(&self.name))
    }
}

impl Trace {
    /// Creates the trace of a call with this name, made at this location in this context.
    pub(super) fn of_call(
        call: &str,
        at: &'static Location<'static>,
        context: Option<&ErrorContext>,
    ) -> Self {
        let call = TraceFrame { name: call.into(), at };
        let depth = context.map_or(0, ErrorContext::depth);
        let (inner, left_out) = match depth + 1 {
            // To leave out a single frame would save no line, because the line with the count takes its place.
            total if total <= INNERMOST + OUTERMOST + 1 => (total, 0),
            total => (INNERMOST, total - INNERMOST - OUTERMOST),
        };
        let frame = |context: &ErrorContext| TraceFrame { name: context.0.name.clone(), at: context.0.at };
        let mut frames = context.into_iter().flat_map(ErrorContext::chain);
        let inner = std::iter::once(call).chain(frames.by_ref().take(inner - 1).map(frame)).collect();
        let outer = frames.skip(left_out).map(frame).collect();
        Trace { inner, left_out, outer }
    }

    /// Iterates over the frames that were kept, innermost first.
    pub fn frames(&self) -> impl Iterator<Item = &TraceFrame> {
        self.inner.iter().chain(&self.outer)
    }

    /// Returns how many frames between the innermost and the outermost ones were left out; usually 0.
    pub fn left_out(&self) -> usize {
        self.left_out
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, frame) in self.inner.iter().enumerate() {
            write!(f, "{}{frame}", if at > 0 { "\n" } else { "" })?;
        }
        if self.left_out > 0 {
            write!(f, "\n… {} more …", self.left_out)?;
        }
        self.outer.iter().try_for_each(|frame| write!(f, "\n{frame}"))
    }
}

/// What the handler of an [`ErrorContext`] gets: the failure of one call, and the trace of where the call was made.
///
/// It is also a message, for handlers that are actors. An actor answers it with `Ok(())` to end the failure, and with
/// an `Err` to pass that failure on to the next handler outward.
///
/// `Display` prints the failure's line and then the [`Trace`], a line for each frame.
#[derive(Clone)]
pub struct ContextFailure {
    failure: Failure,
    trace: Arc<Trace>,
    context: ErrorContext,
}

impl Message for ContextFailure {
    type Result = Result<(), Failure>;
}

impl ContextFailure {
    pub(super) fn new(failure: Failure, trace: Arc<Trace>, context: ErrorContext) -> Self {
        ContextFailure { failure, trace, context }
    }

    /// Returns the failure, or what an inner handler passed on in its place.
    ///
    /// If the call's handler in the worker returned an error of the user's own type, the failure is of the kind
    /// [`Task`](FailureKind::Task) and has that error's text.
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// Returns the kind of the failure.
    pub fn kind(&self) -> FailureKind {
        self.failure.kind()
    }

    /// Returns the frames from the call to the root. They stay the same when a failure is passed on.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Returns the context to which the handler belongs, without the handler.
    ///
    /// It is in force while a closure runs. An actor may enter it with [`ErrorContext::run`] or
    /// [`ErrorContext::scope`]. A call that fails in it is reported to the handlers further out.
    pub fn context(&self) -> &ErrorContext {
        &self.context
    }

    /// Returns the failure without its trace, for example to pass it on: `Err(failure.into_failure())`.
    pub fn into_failure(self) -> Failure {
        self.failure
    }
}

impl From<ContextFailure> for Failure {
    fn from(failure: ContextFailure) -> Self {
        failure.into_failure()
    }
}

impl fmt::Display for ContextFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.failure, self.trace)
    }
}

impl fmt::Debug for ContextFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextFailure")
            .field("failure", &self.failure)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

impl Error for ContextFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.failure.source()
    }
}
