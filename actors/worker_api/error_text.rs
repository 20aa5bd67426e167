//! The text of an error whose type may lack `Display`. The code that `interface!` generates knows the type and calls
//! `describe` on it; method resolution picks the first of three traits that the type allows.

use std::any::Any;
use std::fmt::{Debug, Display};

use actix::Message;

/// An error of a message, as the receiver of `describe`.
#[derive(Debug)]
pub struct Described<'a, E>(pub &'a E);

/// The first choice: `Display`.
pub trait ByDisplay {
    /// Returns the error's text.
    fn describe(&self) -> String;
}

/// The second choice: `Debug`.
pub trait ByDebug {
    /// Returns the error's text.
    fn describe(&self) -> String;
}

/// The last choice: the name of the type.
pub trait ByName {
    /// Returns the error's text.
    fn describe(&self) -> String;
}

impl<E: Display> ByDisplay for &&Described<'_, E> {
    fn describe(&self) -> String {
        self.0.to_string()
    }
}

impl<E: Debug> ByDebug for &Described<'_, E> {
    fn describe(&self) -> String {
        format!("{:?}", self.0)
    }
}

impl<E> ByName for Described<'_, E> {
    fn describe(&self) -> String {
        std::any::type_name::<E>().to_owned()
    }
}

/// A message whose result is a `Result`.
pub trait Fallible {
    /// The error type of that result.
    type Error: 'static;
}

impl<M, T, E> Fallible for M
where
    M: Message<Result = Result<T, E>>,
    T: 'static,
    E: 'static,
{
    type Error = E;
}

/// Describes an error of one type; returns `None` for an error of another type.
pub type Describe = fn(&dyn Any) -> Option<String>;
