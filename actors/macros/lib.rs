//! The macros of forkpool that read Rust: the attributes `methods` and `function`, `functions!` and
//! the derive `Worker`. forkpool exports them, and
//! its documentation has what users need to know.

#![warn(missing_docs, unreachable_pub)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo))]

mod expansion;

use proc_macro::TokenStream;

/// Makes the methods of a worker callable: for each method of this `impl` block a message, its handler, and a method of
/// the client's trait; and the worker's `interface!`.
///
#[cfg_attr(not(doctest), doc = include_str!("examples/methods.md"))]
///
/// Each method of the block is a call. It takes `&mut self` or `&self`, and returns a `Result<T, E>` with
/// `E: From<Failure>`. Functions that are no calls belong to another `impl` block.
///
/// - **Messages** are in a module that has the type's name in snake case, here `greeter::Greet`. Each has the method's
///   name in camel case, its visibility and its documentation, and its arguments as public fields;
///   `greeter::Greet::new("Ada")` takes what the method takes.
/// - **Arguments** are `Serialize` and `Deserialize`. A borrowed one (`&str`, `&[T]`, `&T` with `T: ToOwned`) is owned in
///   the message. An attribute `#[serde(…)]` of an argument is one of its field. A last argument of the type
///   `&mut WorkerContext<Self>` is the context of the handler, and no part of the message.
/// - **The client's trait** has the type's name and `Calls`, here `GreeterCalls`. All that takes calls has its methods:
///   `PoolHandle`, `ClassHandle`, `CheckoutHandle`, and the address of a `Checkout`. A call needs one `?`. The trait has the
///   visibility of the most visible method.
///
/// # Options
///
/// - `#[methods(also(Report, Reset))]` adds messages to the interface that are written by hand, with their handlers.
/// - `#[methods(derive(Clone, Debug))]` derives more than `Serialize` and `Deserialize` for each message.
/// - `#[methods(module = passwords)]` names the module of the messages.
///
/// # Errors
///
/// What cannot be a call is refused at its own line: a generic or `async` method, `self` by value, a result that is no
/// `Result`, a name that is there twice or that handles have already, such as `stop`.
#[proc_macro_attribute]
pub fn methods(options: TokenStream, block: TokenStream) -> TokenStream {
    expansion::methods(options.into(), block.into()).into()
}

/// Makes a function callable: a worker that [`functions!`](macro@functions) makes runs it in its own process.
///
#[cfg_attr(not(doctest), doc = include_str!("examples/function.md"))]
///
/// The function stays as it is. Beside it is a module of its name and its visibility, with the message of a call,
/// `add::Add`, and `add::with`, which takes what the function takes. Arguments and results are those of
/// [`methods`](macro@methods); a function has no context and no worker.
///
/// # Errors
///
/// What cannot be a call is refused at its own line, as for [`methods`](macro@methods).
#[proc_macro_attribute]
pub fn function(options: TokenStream, item: TokenStream) -> TokenStream {
    expansion::function(options.into(), item.into()).into()
}

/// Makes a worker for functions that have the attribute [`function`](macro@function):
/// `forkpool::functions!(pub Passwords { hash, crate::checks::verify });`.
///
/// The worker is a struct without fields, whose configuration is `()`. A path names the function and the module beside it,
/// so import both with `use crate::checks::verify`. A `boot!` line is needed as for every worker.
#[proc_macro]
pub fn functions(list: TokenStream) -> TokenStream {
    expansion::functions(list.into()).into()
}

/// Implements `Actor` and `Worker` for a struct whose set-up needs no code.
///
#[cfg_attr(not(doctest), doc = include_str!("examples/worker.md"))]
///
/// Without an option the configuration is `()`, and a worker is the value of a struct without fields, or the struct's
/// `Default`. With `#[worker(config = T)]` the configuration is a `T`, of which `TryFrom<T>` makes the worker; so
/// `From<T>` does, and `Self` is the worker itself. Implement `Worker` by hand for a `setup` that has more to do, for
/// `checkout_done` or `preload`.
#[proc_macro_derive(Worker, attributes(worker))]
pub fn worker(item: TokenStream) -> TokenStream {
    expansion::worker(item.into()).into()
}
