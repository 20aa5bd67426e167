//! What the attribute `methods` and the derive `Worker` expand to beside what a user writes.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::interface::FromFailure;

/// The crates that expansions name, so that users need not depend on them.
pub mod crates {
    pub use {actix, serde};
}

/// The result of a method. Its constant exists for results that calls may have, and errors of others are errors at the
/// user's own line.
#[derive(Debug)]
pub struct Answered<R>(PhantomData<R>);

impl<R: CallResult> Answered<R> {
    /// Proves that calls may have this result.
    pub const OF_A_CALL: Self = Answered(PhantomData);
}

/// A result that a call may have.
#[diagnostic::on_unimplemented(
    message = "the result of a call is a `Result<T, E>`, and `{Self}` is another type",
    label = "a crash, panic or timeout of the worker must become an error here",
    note = "return `Result<{Self}, Failure>`, or a `Result` with an error of your own"
)]
pub trait CallResult {}

impl<T, E> CallResult for Result<T, E>
where
    T: Portable,
    E: FromFailure + Portable,
{
}

/// The type of an argument. Its constant exists for those that can be sent, and errors of others are errors at the user's
/// own line.
#[derive(Debug)]
pub struct Argument<T>(PhantomData<T>);

impl<T: Portable> Argument<T> {
    /// Proves that calls may have this argument.
    pub const OF_A_CALL: Self = Argument(PhantomData);
}

/// A value that can be sent to another process, and is made anew there.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent to another process",
    label = "a call and its result are sent as bytes",
    note = "derive serde's `Serialize` and `Deserialize` for `{Self}`, or use a type that has both"
)]
pub trait Portable {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + 'static> Portable for T {}
