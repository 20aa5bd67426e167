//! What a handler is told: the failure, and the frames between the call and the root.

use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use actix::Message;

use super::ErrorContext;
use crate::failure::{Failure, FailureKind};

/// Frames next to the call that a trace keeps however long the chain is.
const INNERMOST: usize = 16;

/// Frames next to the root that a trace keeps however long the chain is.
const OUTERMOST: usize = 15;

/// The frames between a failed call and the root, innermost first; of a chain longer than 32 frames the middle is
/// left out.
#[derive(Clone, Debug)]
pub struct Trace {
    inner: Vec<TraceFrame>,
    left_out: usize,
    outer: Vec<TraceFrame>,
}

/// One frame of a [`Trace`].
#[derive(Clone, Debug)]
pub struct TraceFrame {
    name: Arc<str>,
    at: &'static Location<'static>,
}

impl TraceFrame {
    /// The name of a context, or `pool -> Message` for the call itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The source file in which it was made.
    pub fn file(&self) -> &'static str {
        self.at.file()
    }

    /// The line in that file, from 1.
    pub fn line(&self) -> u32 {
        self.at.line()
    }
}

impl fmt::Display for TraceFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} - ", self.file(), self.line())?;
        // One line, whatever the name holds.
        self.name.chars().map(|char| if matches!(char, '\n' | '\r') { ' ' } else { char }).try_for_each(
            |char| {
                use fmt::Write;
                f.write_char(char)
            },
        )
    }
}

impl Trace {
    pub(super) fn of_call(
        call: &str,
        at: &'static Location<'static>,
        context: Option<&ErrorContext>,
    ) -> Self {
        let call = TraceFrame { name: call.into(), at };
        let depth = context.map_or(0, ErrorContext::depth);
        let (inner, left_out) = match depth + 1 {
            // The line that says how many are left out would save none.
            total if total <= INNERMOST + OUTERMOST + 1 => (total, 0),
            total => (INNERMOST, total - INNERMOST - OUTERMOST),
        };
        let frame = |context: &ErrorContext| TraceFrame { name: context.0.name.clone(), at: context.0.at };
        let mut frames = context.into_iter().flat_map(ErrorContext::chain);
        let inner = std::iter::once(call).chain(frames.by_ref().take(inner - 1).map(frame)).collect();
        let outer = frames.skip(left_out).map(frame).collect();
        Trace { inner, left_out, outer }
    }

    /// The frames that were kept, innermost first.
    pub fn frames(&self) -> impl Iterator<Item = &TraceFrame> {
        self.inner.iter().chain(&self.outer)
    }

    /// How many frames in the middle were left out.
    pub fn left_out(&self) -> usize {
        self.left_out
    }
}

/// One line for each frame, `file:line - name`, without a line's end behind the last.
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

/// What the handler of an [`ErrorContext`] is told: the failure of one call, and where the call was made.
///
/// As a message it is answered with `Ok` by an actor that ends the failure, and with an `Err` to be handed on to the
/// next handler outward by one that does not. `Display` is the failure's text and then the trace, a line for each
/// frame.
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

    /// What failed. An `Err` of the handler's own is of the kind [`Task`](FailureKind::Task) here, with its text.
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> FailureKind {
        self.failure.kind()
    }

    /// The frames from the call to the root.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The context the handler stands in, without the handler: what is in force while a closure runs, and what an
    /// actor may enter. What fails in it goes to the handlers further out.
    pub fn context(&self) -> &ErrorContext {
        &self.context
    }

    /// The failure alone, to be handed on.
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
