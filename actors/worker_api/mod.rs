//! What a user implements: the worker actor, its context and its interface.

pub(crate) mod error_text;
pub mod expanded;
pub(crate) mod hosted;
pub(crate) mod interface;
pub(crate) mod schema;
pub(crate) mod worker;
