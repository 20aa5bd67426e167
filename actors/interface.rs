//! From a user's actor to what the worker's loop can run.

use std::any::TypeId;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::time::Instant;

use actix::{Actor, ActorContext, ActorState, Handler, Message};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::describe::Describe;
use super::schema;
use crate::blob::BlobMut;
use crate::failure::{Failure, SetupError};
use crate::server::Boot;
use crate::wire::control::Signature;
use crate::wire::{baggage, frame};
use crate::worker::{Incoming, Preload, Program, Replying, Service, WorkerLog};

/// An actor whose context is a forked process.
///
/// Its handlers block as they like. It is named in a [`boot!`](crate::boot) line and its messages in an
/// [`interface!`](crate::interface).
pub trait Worker: Actor<Context = WorkerContext<Self>> + Interface {
    /// What [`setup`](Self::setup) gets; it travels to the fork server once, when the pool is started.
    type Config: Serialize + DeserializeOwned + Send + 'static;

    /// Makes one worker, in its own process, before its first call.
    ///
    /// # Errors
    ///
    /// Whatever is returned reaches the first waiting call as [`Setup`](crate::FailureKind::Setup); the worker
    /// is replaced, with growing waits between attempts.
    fn setup(config: Self::Config, ctx: &mut WorkerContext<Self>) -> Result<Self, SetupError>;

    /// Runs after every release, also when no call was made, and never in a worker that is being replaced: the
    /// place for a ROLLBACK. The next checkout's first call waits behind it.
    fn checkout_done(&mut self, ctx: &mut WorkerContext<Self>) {
        let _ = ctx;
    }

    /// Runs once, in the fork server, before the first fork: what it puts into `shared` is shared
    /// copy-on-write by all workers of the pool. It must not leave a thread behind.
    ///
    /// # Errors
    ///
    /// Reaches the first waiting call as [`Setup`](crate::FailureKind::Setup); the server is started again,
    /// with growing waits between attempts.
    fn preload(config: &Self::Config, shared: &mut Preload) -> Result<(), SetupError> {
        let _ = (config, shared);
        Ok(())
    }
}

/// The messages of a worker, in order; written by [`interface!`](crate::interface).
#[diagnostic::on_unimplemented(
    message = "the messages of the worker `{Self}` are not declared",
    note = "add `forkpool::interface!({Self} {{ … }});` beside its definition, with the messages it handles"
)]
pub trait Interface: Sized + 'static {
    /// One entry for every message.
    const METHODS: &'static [Method<Self>];
}

/// Says that a worker's interface has the message `M`; written by [`interface!`](crate::interface).
#[diagnostic::on_unimplemented(
    message = "`{M}` is not in the interface of the worker `{Self}`",
    label = "no checkout or pool of `{Self}` accepts this message",
    note = "add `{M}` to `forkpool::interface!({Self} {{ … }});`, with a `Handler<{M}>` for the worker"
)]
pub trait Accepts<M>: Worker {
    /// The message's place in the interface.
    const METHOD: u32;
    /// The message's name, as failures and logs show it.
    const NAME: &'static str;
    /// How an error of the message's is described to error contexts.
    #[doc(hidden)]
    const DESCRIBE: Describe = |_| None;
}

type Run<W> = fn(&mut W, &mut WorkerContext<W>, Incoming<'_>, Replying<'_>);

/// One message of an interface.
pub struct Method<W> {
    name: &'static str,
    type_names: fn() -> [&'static str; 2],
    signature: fn(&'static str) -> Signature,
    run: Run<W>,
}

impl<W> std::fmt::Debug for Method<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Method({})", self.name)
    }
}

impl<W: Actor<Context = WorkerContext<W>>> Method<W> {
    /// The entry of message `M`.
    pub const fn of<M, T, E>(name: &'static str) -> Self
    where
        W: Handler<M, Result = Result<T, E>>,
        M: Message<Result = Result<T, E>> + DeserializeOwned,
        T: Serialize + DeserializeOwned + 'static,
        E: Serialize + DeserializeOwned + 'static,
    {
        Method { name, type_names: type_names::<M>, signature: signature::<M, T, E>, run: run::<W, M, T, E> }
    }

    /// The message's name.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }
}

fn type_names<M: Message>() -> [&'static str; 2] {
    [std::any::type_name::<M>(), std::any::type_name::<M::Result>()]
}

fn signature<M: DeserializeOwned, T: DeserializeOwned, E: DeserializeOwned>(name: &'static str) -> Signature {
    schema::signature(name, &[schema::shape::<M>(), schema::shape::<T>(), schema::shape::<E>()])
}

fn run<W, M, T, E>(worker: &mut W, ctx: &mut WorkerContext<W>, call: Incoming<'_>, reply: Replying<'_>)
where
    W: Actor<Context = WorkerContext<W>> + Handler<M, Result = Result<T, E>>,
    M: Message<Result = Result<T, E>> + DeserializeOwned,
    T: Serialize + 'static,
    E: Serialize + 'static,
{
    match call.decode::<M>() {
        Ok(message) => {
            let result = worker.handle(message, ctx);
            reply.result(&result, ctx.keep, ctx.stop);
        }
        Err(problem) => reply.undecodable(&problem),
    }
}

/// Declares which messages checkouts and pools of a worker accept:
/// `forkpool::interface!(Hasher { Hash, Verify });`.
///
/// Every message needs a `Handler` whose `Result` is the message's own result, and that result must be a
/// `Result<T, E>` with `E: From<Failure>`.
#[macro_export]
macro_rules! interface {
    ($worker:ty { $($message:ty),+ $(,)? }) => {
        impl $crate::Interface for $worker {
            const METHODS: &'static [$crate::Method<Self>] =
                &[$($crate::Method::of::<$message, _, _>(
                    $crate::__private::last_segment(stringify!($message)),
                )),+];
        }
        // With a second message, nothing is inferred from there being only one, and the error for a message that
        // is not in the interface names it.
        impl $crate::Accepts<$crate::__private::NoMessage> for $worker {
            const METHOD: u32 = u32::MAX;
            const NAME: &'static str = "";
        }
        $crate::__accept!($worker, 0, $($message),+);
    };
}

/// One `Accepts` for each message, with its place.
#[doc(hidden)]
#[macro_export]
macro_rules! __accept {
    ($worker:ty, $place:expr, $message:ty $(, $rest:ty)*) => {
        impl $crate::Accepts<$message> for $worker {
            const METHOD: u32 = $place;
            const NAME: &'static str = $crate::__private::last_segment(stringify!($message));
            const DESCRIBE: $crate::__private::Describe = $crate::__describe!($message);
        }
        $crate::__accept!($worker, $place + 1 $(, $rest)*);
    };
    ($worker:ty, $place:expr) => {};
}

/// How an error of this message's is described: by the best its type has.
#[doc(hidden)]
#[macro_export]
macro_rules! __describe {
    ($message:ty) => {
        |error| {
            #[allow(unused_imports, reason = "only the first that fits the error's type is used")]
            use $crate::__private::{ByDebug, ByDisplay, ByName, Described, Fallible};
            type Error = <$message as Fallible>::Error;
            error.downcast_ref::<Error>().map(|error| (&&&Described(error)).describe())
        }
    };
}

/// A message that nobody can make.
#[derive(Debug)]
pub enum NoMessage {}

/// The last part of a path such as `crate::messages::Hash`.
pub const fn last_segment(path: &'static str) -> &'static str {
    let bytes = path.as_bytes();
    let mut start = 0;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b':' | b' ' => start = at + 1,
            // What follows is the path of a parameter.
            b'<' => break,
            _ => {}
        }
        at += 1;
    }
    path.split_at(start).1
}

/// The context of a worker: what a handler can learn of its call and ask of its pool.
pub struct WorkerContext<W> {
    preload: &'static Preload,
    call: Option<CallInfo>,
    keep: bool,
    stop: bool,
    /// What came along with the running call, as it travelled.
    baggage: Vec<u8>,
    worker: PhantomData<fn() -> W>,
}

/// Which call a worker is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallInfo {
    /// Its number within its checkout, from 1.
    pub id: u64,
    /// The name of its message.
    pub name: &'static str,
    /// When its caller stops waiting; `None` is never.
    pub deadline: Option<Instant>,
}

impl<W> WorkerContext<W> {
    fn new(preload: &'static Preload) -> Self {
        WorkerContext {
            preload,
            call: None,
            keep: false,
            stop: false,
            baggage: Vec::new(),
            worker: PhantomData,
        }
    }

    /// When the caller of the running call stops waiting; `None` is never, and outside of calls.
    pub fn deadline(&self) -> Option<Instant> {
        self.call.and_then(|call| call.deadline)
    }

    /// The running call; `None` in `setup` and `checkout_done`.
    pub fn call(&self) -> Option<CallInfo> {
        self.call
    }

    /// Keeps this worker although the running call ends with an error: what it holds is not in doubt.
    pub fn keep_worker(&mut self) {
        self.keep = true;
    }

    /// The baggage of this type that the running call's context has, see
    /// [`ErrorContext::baggage`](super::ErrorContext::baggage). It is decoded here; `None` if there is none, or if
    /// it cannot be decoded.
    pub fn baggage<T: DeserializeOwned>(&self) -> Option<T> {
        baggage::read(&self.baggage)
    }

    /// Room for a blob of so many bytes at most, which the application will read where it is written; ordinary memory for
    /// fewer than 16 KiB, and where the application is reached over a network.
    ///
    /// # Errors
    ///
    /// [`Overloaded`](crate::FailureKind::Overloaded) where the application still has other results of this worker that
    /// leave no room in [`blob_memory`](crate::Builder::blob_memory).
    pub fn blob(&self, capacity: usize) -> Result<BlobMut, Failure> {
        crate::worker::blob(capacity)
    }

    /// The log of the request that the running call belongs to.
    pub fn log(&self) -> WorkerLog {
        WorkerLog::new()
    }

    /// What the preload put into the shared memory, or `None` if it put no value of this type there.
    pub fn preloaded<T: 'static>(&self) -> Option<&'static T> {
        self.preload.get()
    }
}

impl<W> std::fmt::Debug for WorkerContext<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerContext").field("call", &self.call).finish_non_exhaustive()
    }
}

impl<W> ActorContext for WorkerContext<W> {
    /// Asks to be replaced, as in `SyncContext`: the current reply is delivered, and the worker is replaced
    /// when its checkout is released.
    fn stop(&mut self) {
        self.stop = true;
    }

    fn terminate(&mut self) {
        self.stop = true;
    }

    fn state(&self) -> ActorState {
        if self.stop { ActorState::Stopping } else { ActorState::Running }
    }
}

/// A worker in its process.
struct Hosted<W: Worker> {
    worker: W,
    ctx: WorkerContext<W>,
}

impl<W: Worker> Service for Hosted<W> {
    fn call(&mut self, call: Incoming<'_>, reply: Replying<'_>) {
        let place = usize::try_from(call.method).unwrap_or(usize::MAX);
        let Some(method) = W::METHODS.get(place) else {
            return reply.unknown_method(call.method);
        };
        self.ctx.keep = false;
        self.ctx.call = Some(CallInfo { id: call.id, name: method.name, deadline: call.deadline });
        self.ctx.baggage.extend_from_slice(call.baggage);
        (method.run)(&mut self.worker, &mut self.ctx, call, reply);
        self.ctx.baggage.clear();
        self.ctx.call = None;
    }

    fn checkout_done(&mut self) {
        self.worker.checkout_done(&mut self.ctx);
    }

    fn wants_replacement(&self) -> bool {
        self.ctx.stop
    }
}

impl<W: Worker> Boot for W {
    const PROGRAM: Program = Program {
        type_name: std::any::type_name::<W>,
        identity: identity::<W>,
        fingerprint: fingerprint::<W>,
        interface: interface::<W>,
        preload: preload::<W>,
        setup: setup::<W>,
    };
}

fn identity<W: Worker>() -> u64 {
    // The default hasher has fixed keys, so every process of this program computes the same.
    let mut hasher = DefaultHasher::new();
    (TypeId::of::<W>(), std::any::type_name::<W>()).hash(&mut hasher);
    hasher.finish()
}

fn fingerprint<W: Worker>() -> u64 {
    let mut hasher = DefaultHasher::new();
    for method in W::METHODS {
        (method.name, (method.type_names)()).hash(&mut hasher);
    }
    hasher.finish()
}

fn interface<W: Worker>() -> Vec<Signature> {
    W::METHODS.iter().map(|method| (method.signature)(method.name)).collect()
}

fn preload<W: Worker>(config: &[u8], shared: &mut Preload) -> Result<(), SetupError> {
    W::preload(&frame::decode(config)?, shared)
}

fn setup<W: Worker>(config: &[u8], preload: &'static Preload) -> Result<Box<dyn Service>, SetupError> {
    let config = frame::decode(config)?;
    let mut ctx = WorkerContext::new(preload);
    let mut worker = W::setup(config, &mut ctx)?;
    worker.started(&mut ctx);
    Ok(Box::new(Hosted { worker, ctx }))
}
