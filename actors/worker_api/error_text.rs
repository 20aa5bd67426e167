//! The text of an error whose type need not have one. What `interface!` expands to picks the best there is where the
//! type is known: a method of the first of three traits whose receiver fits.

use std::any::Any;
use std::fmt::{Debug, Display};

use actix::Message;

/// An error of a message's, to be described.
#[derive(Debug)]
pub struct Described<'a, E>(pub &'a E);

/// First choice: its `Display`.
pub trait ByDisplay {
    /// The error's text.
    fn describe(&self) -> String;
}

/// Second choice: its `Debug`.
pub trait ByDebug {
    /// The error's text.
    fn describe(&self) -> String;
}

/// Last choice: the name of its type.
pub trait ByName {
    /// The error's text.
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

/// A message that is answered with a `Result`.
pub trait Fallible {
    /// The error of that result.
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

/// Describes an error of the type it was made for; `None` for any other.
pub type Describe = fn(&dyn Any) -> Option<String>;
