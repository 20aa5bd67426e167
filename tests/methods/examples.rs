//! The examples in the documentation of the macros, which run here because they need forkpool.

#![cfg(doctest)]

#[doc = include_str!("../../actors/macros/examples/methods.md")]
pub struct Methods;

#[doc = include_str!("../../actors/macros/examples/function.md")]
pub struct Function;

#[doc = include_str!("../../actors/macros/examples/worker.md")]
pub struct Worker;
