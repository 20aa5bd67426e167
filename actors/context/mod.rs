//! Error-handling contexts: frames with a name, a handler and locals. A frame is in force while a closure or a future
//! runs in it, and the messages sent meanwhile carry it along. A call that fails below a frame is reported to the
//! frame's handler.

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

use crate::actors::telemetry::event_forwarder::LogSink;
use crate::failure::Failure;
use crate::request_log::RequestLog;
use crate::user_code::{caught, drop_caught, drop_each};
use baggage::Baggage;
pub use baggage::BaggageError;
pub(crate) use call_origin::{CallOrigin, SenderInfo};
pub use current::ActorScope;
use handler::ErasedHandler;
pub use handler::{FailureHandler, Verdict};
pub use trace::{ContextFailure, Trace, TraceFrame};

/// An error-handling context: a named frame with an optional handler for failed calls and with typed values (locals)
/// for the code that runs in it.
///
/// A new context is chained to the context in force (the current one) where it is made. It is in force itself inside
/// [`scope`](Self::scope), [`scope_actor`](Self::scope_actor) and [`run`](Self::run), and
/// [`in_context`](crate::actors::CheckoutBuilder::in_context) binds a checkout to it.
///
/// A call keeps the context in force where it was made, or else its checkout's. If the call fails, its failure is
/// reported once, to the nearest handler outward. A handler that returns an error passes that on to the next handler
/// outward; a failure that no handler ends is logged as a `tracing` error. A call that succeeds, or that its caller
/// has given up, is reported to no handler, and neither is a failure that the context [expects](Self::expects).
///
/// A context may also put a [request log](Self::log) in force for all calls below it.
///
/// A context is a value: cheap to clone, usable on any thread, and fit to be kept in messages and actors. Methods that
/// change a clone leave the other clones as they are.
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
#[must_use = "a context has an effect only where it is in force"]
pub struct ErrorContext(Arc<Frame>);

/// Returns whether a failure was expected.
type Expected = dyn Fn(&Failure) -> bool + Send + Sync;

#[derive(Clone)]
struct Frame {
    name: Arc<str>,
    /// Where the context was made.
    at: &'static Location<'static>,
    handler: Option<Arc<dyn ErasedHandler>>,
    /// Which failures are not reported from here on outward.
    expected: Option<Arc<Expected>>,
    /// Whether the code that awaits a call tells its failure itself, unless a handler is concerned.
    is_of_request: bool,
    /// The request log in force: the frame's own, or that of the nearest outer frame with one.
    log: Option<LogSink>,
    has_own_log: bool,
    /// The locals that were set in this frame itself, by type.
    locals: Vec<(TypeId, Arc<dyn Any + Send + Sync>)>,
    baggage: Baggage,
    outer: Option<ErrorContext>,
    /// The number of frames from this one to the root, both included.
    depth: usize,
}

impl Drop for Frame {
    fn drop(&mut self) {
        // The last call that keeps this frame may end on a thread of the library.
        drop_each(std::mem::take(&mut self.locals));
        drop_caught(self.handler.take());
        drop_caught(self.expected.take());
        // One frame after the other: the recursive drop of a long chain would overflow the stack.
        let mut next = self.outer.take();
        while let Some(mut frame) = next.and_then(|context| Arc::into_inner(context.0)) {
            next = frame.outer.take();
        }
    }
}

// A frame is changed only while it has a single owner (`Arc::make_mut`), so a panic leaves no shared frame half
// changed.
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
    /// Creates a context with this name, chained to the context in force.
    ///
    /// The caller's source location is recorded for traces. The context has no handler and no locals of its own, and
    /// it is not in force yet.
    #[track_caller]
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        let outer = Self::current();
        ErrorContext(Arc::new(Frame {
            name: name.into(),
            at: Location::caller(),
            handler: None,
            expected: None,
            is_of_request: false,
            log: outer.as_ref().and_then(|outer| outer.0.log.clone()),
            has_own_log: false,
            locals: Vec::new(),
            baggage: outer.as_ref().map(|outer| outer.0.baggage.inherited()).unwrap_or_default(),
            depth: outer.as_ref().map_or(0, ErrorContext::depth) + 1,
            outer,
        }))
    }

    /// Sets a value that code below this frame reads by its type, with [`local_value`](Self::local_value) or
    /// [`get`](Self::get).
    ///
    /// It replaces a value of the same type in this frame and hides one in an outer frame.
    pub fn local<T: Any + Send + Sync>(mut self, value: T) -> Self {
        let frame = Arc::make_mut(&mut self.0);
        frame.locals.retain(|(kind, _)| *kind != TypeId::of::<T>());
        frame.locals.push((TypeId::of::<T>(), Arc::new(value)));
        self
    }

    /// Sets a value like [`local`](Self::local) that also travels with every call made below this frame: handlers in a
    /// worker read it with [`WorkerContext::baggage`](crate::actors::WorkerContext::baggage).
    ///
    /// The value is encoded once, here. Baggage does not count towards `max_payload`.
    ///
    /// # Errors
    ///
    /// - [`BaggageError::Encode`] if `value` cannot be serialized.
    /// - [`BaggageError::TooLarge`] if it would exceed 64 KiB together with the other baggage of this frame and of the
    ///   outer frames.
    ///
    /// In both cases the value was not set. The method consumes `self`; other clones of the context are unchanged.
    pub fn baggage<T>(mut self, value: T) -> Result<Self, BaggageError>
    where
        T: Serialize + DeserializeOwned + Any + Send + Sync,
    {
        Arc::make_mut(&mut self.0).baggage.add(&value)?;
        Ok(self.local(value))
    }

    /// Sets the handler for calls that fail below this frame, in place of an earlier one: a closure
    /// `Fn(ContextFailure)` that returns `()` or `Result<(), Failure>`, or a `Recipient<ContextFailure>`.
    ///
    /// The handler runs once for each failed call, after the call's caller has got the failure. Returning `()` or
    /// `Ok(())` ends the failure. An `Err` is passed on to the next handler outward, with the original trace.
    ///
    /// A closure runs on the arbiter on which the checkout, or the call to the pool, runs, and should not block it.
    /// While it runs, this context is in force without its handler, so what fails in it goes to the handlers further
    /// out. A panic in it is caught and logged, and the failure goes on outward unchanged; so does a failure that was
    /// sent to an actor which has stopped.
    pub fn on_failure<Kind>(mut self, handler: impl FailureHandler<Kind>) -> Self {
        Arc::make_mut(&mut self.0).handler = Some(handler.into_any().0);
        self
    }

    /// Sets which failures are expected below this frame, in place of an earlier setting: those for which the closure
    /// returns `true`.
    ///
    /// An expected failure reaches its caller like any other. It is not reported to this frame's handler nor to those further
    /// out, and it is not logged as a failure that no handler has ended. Handlers of inner frames come first: what they
    /// end or replace is not looked at here. A request log still has the failure with its call.
    ///
    /// The closure sees what a handler would get: an error of the user's own type is of the kind
    /// [`Task`](crate::FailureKind::Task) and has that error's text. It runs where handlers run, and should be quick. If it
    /// panics, the failure counts as unexpected.
    ///
    /// ```
    /// # use forkpool::prelude::*;
    /// let login = ErrorContext::named("POST /login")
    ///     .expects(|failure| failure.kind() == FailureKind::Task && failure.to_string() == "wrong password")
    ///     .on_failure(|failure: ContextFailure| eprintln!("{failure}"));
    /// # drop(login);
    /// ```
    pub fn expects(mut self, is_expected: impl Fn(&Failure) -> bool + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.0).expected = Some(Arc::new(is_expected));
        self
    }

    /// Puts a request log in force for all calls below this frame, on checkouts as well as to pools; a second one replaces
    /// the first.
    ///
    /// The log gets of each call what the log of a checkout gets
    /// ([`CheckoutBuilder::log`](crate::actors::CheckoutBuilder::log)): a timer, and what the worker logs. A log that is
    /// attached to a checkout has precedence for the calls on it. Of the logs of nested contexts the innermost holds. A call
    /// on a checkout that is sent outside of every context uses the log of the checkout's context.
    ///
    /// The context holds a handle of the log, and so do its clones, the contexts that are made below it, and the calls until
    /// they are answered. The log is delivered once all of them are gone.
    pub fn log(mut self, log: &RequestLog) -> Self {
        let frame = Arc::make_mut(&mut self.0);
        frame.log = Some(LogSink::Log(log.clone()));
        frame.has_own_log = true;
        self
    }

    /// Cuts this frame off from the outer frames: none of their handlers, expectations, request logs, locals and baggage
    /// applies inside it, and traces end at it.
    ///
    /// The frame keeps what was set in itself.
    pub fn detached(mut self) -> Self {
        let frame = Arc::make_mut(&mut self.0);
        frame.outer = None;
        if !frame.has_own_log {
            frame.log = None;
        }
        frame.depth = 1;
        frame.baggage.detach();
        self
    }

    /// Returns the context in force where this is called; `None` outside of every context.
    pub fn current() -> Option<Self> {
        current::current()
    }

    /// Runs a future with this context in force: while the future is polled, and at no other time.
    ///
    /// **The argument is evaluated before this method runs.** A call that is made in the argument expression itself is
    /// therefore made outside of this context: it keeps whatever context is in force around it, and a failure of it
    /// does not reach this context's handler. Make the call inside an `async` block:
    ///
    /// ```no_run
    /// # use actix::prelude::*;
    /// # use forkpool::prelude::*;
    /// # struct Hasher;
    /// # impl Actor for Hasher { type Context = WorkerContext<Self>; }
    /// # impl Worker for Hasher {
    /// #     type Config = u32;
    /// #     fn setup(_: u32, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> { Ok(Hasher) }
    /// # }
    /// # #[derive(Message, serde::Serialize, serde::Deserialize)]
    /// # #[rtype(result = "Result<(), Failure>")]
    /// # struct Hash;
    /// # impl Handler<Hash> for Hasher {
    /// #     type Result = Result<(), Failure>;
    /// #     fn handle(&mut self, _: Hash, _: &mut WorkerContext<Self>) -> Self::Result { Ok(()) }
    /// # }
    /// # forkpool::interface!(Hasher { Hash });
    /// # async fn sign_up(checkout: Addr<Checkout<Hasher>>) -> Result<(), Box<dyn std::error::Error>> {
    /// let signup = ErrorContext::named("sign up");
    ///
    /// // Wrong: `send` runs first, outside of the context. Only the reply is awaited inside.
    /// signup.scope(checkout.send(Hash)).await??;
    ///
    /// // Right: `send` runs when the block is polled, with the context in force.
    /// signup.scope(async { checkout.send(Hash).await }).await??;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The same holds for the methods of [`PoolHandle`](crate::actors::PoolHandle), and for any function that makes a
    /// call before it returns its future.
    ///
    /// # Cancellation
    ///
    /// Dropping the returned future drops `future`; the context changes nothing about that.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        current::scope(self.clone(), future)
    }

    /// Wraps an actor future ([`ActorFuture`](actix::fut::ActorFuture)), so that this context is in force while it is
    /// polled; otherwise like [`scope`](Self::scope).
    ///
    /// As with `scope`, a call that is made in the argument expression is made outside of this context.
    pub fn scope_actor<F>(&self, future: F) -> ActorScope<F> {
        ActorScope::new(self.clone(), future)
    }

    /// Runs a closure with this context in force and returns its result.
    ///
    /// The previous context is in force again afterwards, also after a panic. If the closure only returns a future,
    /// that future runs outside of the context; use [`scope`](Self::scope) for it.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        current::run(self.clone(), work)
    }

    /// Returns the name that was given to [`named`](Self::named).
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns the number of frames from this one to the root, both included.
    pub fn depth(&self) -> usize {
        self.0.depth
    }

    /// Returns the local of type `T`, from the innermost frame that has one, beginning with this frame.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let wanted = TypeId::of::<T>();
        let found = self.chain().find_map(|context| {
            context.0.locals.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| value.clone())
        });
        found?.downcast().ok()
    }

    /// Returns the local of type `T` that is visible in the context in force; `None` if no frame has one, or outside
    /// of every context.
    pub fn local_value<T: Any + Send + Sync>() -> Option<Arc<T>> {
        Self::current()?.get()
    }

    /// Iterates over this frame and the outer ones, innermost first.
    fn chain(&self) -> impl Iterator<Item = &ErrorContext> {
        std::iter::successors(Some(self), |context| context.0.outer.as_ref())
    }

    /// Returns the request log in force below this frame.
    fn log_sink(&self) -> Option<&LogSink> {
        self.0.log.as_ref()
    }

    /// Leaves the failures of awaited calls below this frame to the code that awaits them, if no handler and no expectation
    /// is concerned: that of a web request makes a response of them, and tells them then.
    #[cfg(feature = "actix-web")]
    pub(crate) fn of_request(mut self) -> Self {
        Arc::make_mut(&mut self.0).is_of_request = true;
        self
    }

    /// Returns whether the failure of an awaited call below this frame is reported.
    fn reports_awaited(&self) -> bool {
        let is_concerned =
            |context: &ErrorContext| context.0.handler.is_some() || context.0.expected.is_some();
        self.chain().any(is_concerned) || !self.chain().any(|context| context.0.is_of_request)
    }

    /// Returns whether this frame itself expects a failure.
    fn is_expected(&self, failure: &Failure) -> bool {
        let expected = self.0.expected.as_ref();
        expected.is_some_and(|expected| caught(|| expected(failure)).unwrap_or(false))
    }

    /// Returns this context without its handler; the handler itself runs in it.
    fn without_handler(&self) -> ErrorContext {
        let mut frame = Frame::clone(&self.0);
        frame.handler = None;
        ErrorContext(Arc::new(frame))
    }
}
