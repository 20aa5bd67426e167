//! Error-handling contexts: frames with a name, a handler and locals, in force for a stretch of code and carried
//! along by whatever that code sends. Who fails below a frame is told of to its handler.

pub(crate) mod actor_context;
mod baggage;
mod call_origin;
mod current;
mod handler;
mod propagation;
#[cfg(test)]
mod tests;
mod trace;

use std::any::{Any, TypeId};
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use baggage::Baggage;
pub use baggage::BaggageError;
pub(crate) use call_origin::{Origin, Sent};
pub use current::ActorScope;
use handler::Hear;
pub use handler::{FailureHandler, Verdict};
pub use trace::{ContextFailure, Trace, TraceFrame};

/// A frame of error handling: a name, and if wanted a handler for what fails below it and values for who runs
/// below it.
///
/// A context chains to the one in force where it was made. It is in force itself within
/// [`scope`](Self::scope) and [`run`](Self::run), and a checkout can be bound to it. A call keeps the context in
/// force where it was made; if it fails, the nearest handler outward is told, once. A handler that returns an
/// error hands that on to the next one; what no handler ends is logged as a `tracing` error.
///
/// It is a value: cheap to clone, to be kept in messages and actors and to be used on any thread. What changes a
/// clone leaves the others as they are.
///
/// ```
/// # use forkpool::prelude::*;
/// #[derive(Debug, PartialEq)]
/// struct RequestId(u64);
///
/// let signup = ErrorContext::named("POST /signup")
///     .local(RequestId(7))
///     .on_failure(|failure: ContextFailure| eprintln!("{failure}"));
/// signup.run(|| assert_eq!(*ErrorContext::local_value::<RequestId>().unwrap(), RequestId(7)));
/// ```
#[derive(Clone)]
pub struct ErrorContext(Arc<Frame>);

#[derive(Clone)]
struct Frame {
    name: Arc<str>,
    at: &'static Location<'static>,
    handler: Option<Arc<dyn Hear>>,
    /// Set in this frame itself, by type.
    locals: Vec<(TypeId, Arc<dyn Any + Send + Sync>)>,
    baggage: Baggage,
    outer: Option<ErrorContext>,
    /// Frames from here to the root, this one included.
    depth: usize,
}

impl Drop for Frame {
    fn drop(&mut self) {
        // One frame after the other: a chain may be longer than the stack is deep.
        let mut next = self.outer.take();
        while let Some(mut frame) = next.and_then(|context| Arc::into_inner(context.0)) {
            next = frame.outer.take();
        }
    }
}

// A frame is not changed once another can see it, so a panic leaves none half done.
impl std::panic::UnwindSafe for ErrorContext {}
impl std::panic::RefUnwindSafe for ErrorContext {}

impl fmt::Debug for ErrorContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErrorContext")
            .field("name", &self.0.name)
            .field("depth", &self.0.depth)
            .finish_non_exhaustive()
    }
}

impl ErrorContext {
    /// A context of this name, made here, that chains to the one in force here.
    #[track_caller]
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        let outer = Self::current();
        ErrorContext(Arc::new(Frame {
            name: name.into(),
            at: Location::caller(),
            handler: None,
            locals: Vec::new(),
            baggage: outer.as_ref().map(|outer| outer.0.baggage.passed_on()).unwrap_or_default(),
            depth: outer.as_ref().map_or(0, ErrorContext::depth) + 1,
            outer,
        }))
    }

    /// Sets a value for whoever runs below this frame; it hides one of the same type from further out.
    pub fn local<T: Any + Send + Sync>(mut self, value: T) -> Self {
        let frame = Arc::make_mut(&mut self.0);
        frame.locals.retain(|(kind, _)| *kind != TypeId::of::<T>());
        frame.locals.push((TypeId::of::<T>(), Arc::new(value)));
        self
    }

    /// As [`local`](Self::local), and the value travels with every call: handlers in a worker read it with
    /// [`WorkerContext::baggage`](crate::actors::WorkerContext::baggage). It is encoded here, once.
    ///
    /// # Errors
    ///
    /// [`BaggageError`] if it cannot be encoded, or takes more than 64 KiB together with the baggage of the frames
    /// further out.
    pub fn baggage<T>(mut self, value: T) -> Result<Self, BaggageError>
    where
        T: Serialize + DeserializeOwned + Any + Send + Sync,
    {
        Arc::make_mut(&mut self.0).baggage.add(&value)?;
        Ok(self.local(value))
    }

    /// Names who is told of failures below this frame: a closure `Fn(ContextFailure)`, with or without a
    /// `Result<(), Failure>`, or a `Recipient<ContextFailure>`. One named before is replaced.
    ///
    /// A closure runs where the failed call ran, on the arbiter of its checkout, and should not block. While it
    /// runs the context in force is this one without its handler. `Ok` ends the failure, an `Err` is handed on to
    /// the next handler outward with the trace as it was. One that panics is logged, and the failure goes on
    /// outward, as it does from a recipient that is gone.
    pub fn on_failure<Kind>(mut self, handler: impl FailureHandler<Kind>) -> Self {
        Arc::make_mut(&mut self.0).handler = Some(handler.into_any().0);
        self
    }

    /// Forgets what this frame chains to: no handler, local, baggage or frame from further out applies inside.
    pub fn detached(mut self) -> Self {
        let frame = Arc::make_mut(&mut self.0);
        frame.outer = None;
        frame.depth = 1;
        frame.baggage.detach();
        self
    }

    /// The context in force in the code that asks.
    pub fn current() -> Option<Self> {
        current::current()
    }

    /// Runs a future with this context in force, at each of its steps and in nothing else.
    ///
    /// # Cancellation
    ///
    /// As the future itself.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        current::scope(self.clone(), future)
    }

    /// As [`scope`](Self::scope) for the futures that actors spawn, whose steps are given the actor.
    pub fn scope_actor<F>(&self, future: F) -> ActorScope<F> {
        ActorScope::new(self.clone(), future)
    }

    /// Runs a closure with this context in force.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        current::run(self.clone(), work)
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Frames from this one to the root, both included.
    pub fn depth(&self) -> usize {
        self.0.depth
    }

    /// The value of this type, from the innermost frame that has one.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let wanted = TypeId::of::<T>();
        let found = self.chain().find_map(|context| {
            context.0.locals.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| value.clone())
        });
        found?.downcast().ok()
    }

    /// The value of this type in the context in force.
    pub fn local_value<T: Any + Send + Sync>() -> Option<Arc<T>> {
        Self::current()?.get()
    }

    /// This frame and those further out.
    fn chain(&self) -> impl Iterator<Item = &ErrorContext> {
        std::iter::successors(Some(self), |context| context.0.outer.as_ref())
    }

    /// The same without the handler, in which that handler runs.
    fn unhandled(&self) -> ErrorContext {
        let mut frame = Frame::clone(&self.0);
        frame.handler = None;
        ErrorContext(Arc::new(frame))
    }
}
