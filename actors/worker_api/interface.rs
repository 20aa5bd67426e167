//! Which messages a worker accepts, and how each is decoded, run and answered.

use actix::{Actor, Handler, Message};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error_text::Describe;
use super::schema;
use super::worker::{Worker, WorkerContext};
use crate::failure::Failure;
use crate::wire::control::Signature;
use crate::worker::{Incoming, Replying};

/// The messages of a worker, in order. [`interface!`](crate::interface) implements it.
#[diagnostic::on_unimplemented(
    message = "the messages of the worker `{Self}` are not declared",
    note = "add `forkpool::interface!({Self} {{ … }});` beside its definition, with the messages it handles"
)]
pub trait Interface: Sized + 'static {
    /// One entry for every message.
    const METHODS: &'static [Method<Self>];
}

/// A worker's interface contains the message `M`. [`interface!`](crate::interface) implements it.
#[diagnostic::on_unimplemented(
    message = "`{M}` is not in the interface of the worker `{Self}`",
    label = "no checkout or pool of `{Self}` accepts this message",
    note = "add `{M}` to `forkpool::interface!({Self} {{ … }});`, with a `Handler<{M}>` for the worker"
)]
pub trait Accepts<M>: Worker {
    /// The message's index in the interface.
    const METHOD: u32;
    /// The message's name, as failures and logs show it.
    const NAME: &'static str;
    /// Describes an error of this message to error-handling contexts.
    #[doc(hidden)]
    const DESCRIBE: Describe = |_| None;
}

/// An error type that can carry a [`Failure`]: every type with `From<Failure>`.
///
/// A call may fail without its handler having failed: its worker crashes, panics or exceeds a time limit. The caller
/// then receives an error of the message's own type, made from a [`Failure`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be made from a `forkpool::Failure`",
    label = "a crash, panic or timeout of the worker must become an error of this type",
    note = "implement `From<forkpool::Failure>` for `{Self}`: with thiserror, add a variant `Worker(#[from] Failure)`; or use \
            `Failure` itself as the message's error"
)]
pub trait FromFailure: From<Failure> {}

#[diagnostic::do_not_recommend]
impl<E: From<Failure>> FromFailure for E {}

type Run<W> = fn(&mut W, &mut WorkerContext<W>, Incoming<'_>, Replying<'_>);

/// One message of an interface: how it is decoded, run and answered.
pub struct Method<W> {
    pub(super) name: &'static str,
    pub(super) type_names: fn() -> [&'static str; 2],
    pub(super) signature: fn(&'static str) -> Signature,
    pub(super) run: Run<W>,
}

impl<W> std::fmt::Debug for Method<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Method({})", self.name)
    }
}

impl<W: Actor<Context = WorkerContext<W>>> Method<W> {
    /// Returns the entry for message `M`.
    pub const fn of<M, T, E>(name: &'static str) -> Self
    where
        W: Handler<M, Result = Result<T, E>>,
        M: Message<Result = Result<T, E>> + DeserializeOwned,
        T: Serialize + DeserializeOwned + 'static,
        E: FromFailure + Serialize + DeserializeOwned + 'static,
    {
        Method { name, type_names: type_names::<M>, signature: signature::<M, T, E>, run: run::<W, M, T, E> }
    }

    /// Returns the message's name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }
}

fn type_names<M: Message>() -> [&'static str; 2] {
    [std::any::type_name::<M>(), std::any::type_name::<M::Result>()]
}

fn signature<M: DeserializeOwned, T: DeserializeOwned, E: DeserializeOwned>(name: &'static str) -> Signature {
    schema::signature(name, [&schema::shape::<M>(), &schema::shape::<T>(), &schema::shape::<E>()])
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

/// Declares the messages that checkouts and pools of a worker accept:
/// `forkpool::interface!(Hasher { Hash, Verify });`.
///
/// Each message needs a `Handler` of the worker whose `Result` is the message's own result. That result is a
/// `Result<T, E>` with `E: From<Failure>`, since a crash or a timeout reaches the caller as an `E`. All of this is
/// checked at this line.
#[macro_export]
macro_rules! interface {
    ($worker:ty { $($message:ty),+ $(,)? }) => {
        impl $crate::Interface for $worker {
            const METHODS: &'static [$crate::Method<Self>] =
                &[$($crate::Method::of::<$message, _, _>(
                    $crate::__private::last_segment(stringify!($message)),
                )),+];
        }
        // A second `Accepts` keeps the compiler from inferring the only message there is, so the error for a message
        // outside of the interface names that message.
        impl $crate::Accepts<$crate::__private::NoMessage> for $worker {
            const METHOD: u32 = u32::MAX;
            const NAME: &'static str = "";
        }
        $crate::__accept!($worker, 0, $($message),+);
    };
}

/// Implements `Accepts` for each message, with its index.
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

/// Describes an error by the best that its type implements: `Display`, `Debug`, or its name.
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

/// A message without values, accepted by every worker.
#[derive(Debug)]
pub enum NoMessage {}

/// Returns the last segment of a path such as `crate::messages::Hash`.
pub const fn last_segment(path: &'static str) -> &'static str {
    let bytes = path.as_bytes();
    let mut start = 0;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b':' | b' ' => start = at + 1,
            // The rest belongs to a type parameter.
            b'<' => break,
            _ => {}
        }
        at += 1;
    }
    path.split_at(start).1
}
