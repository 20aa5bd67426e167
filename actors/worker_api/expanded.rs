//! What the macros of `actors/macros` expand to beside what a user writes.

use actix::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::interface::FromFailure;

/// The crates that expansions name, so that users need not depend on them.
pub mod crates {
    pub use {actix, serde};
}

/// The message of a function, which any worker can run.
pub trait Function: Message {
    /// Runs the function.
    fn run(self) -> Self::Result;
}

/// Compiles for results that calls may have. An expansion names it at the result in the user's own line, where the error
/// of another one is.
pub const fn is_result<R: CallResult>() {}

/// The same for the types of arguments.
pub const fn is_argument<T: Portable>() {}

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

/// A value that can be sent to another process, and is made anew there.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent to another process",
    label = "a call and its result are sent as bytes",
    note = "derive serde's `Serialize` and `Deserialize` for `{Self}`, or use a type that has both"
)]
pub trait Portable {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + 'static> Portable for T {}
