//! Threads of the library's own, on which user code cannot hold up the supervision of processes.
//!
//! All pools of an application share them: a thread starts with the first pool that needs it and ends with the last.

pub(crate) mod alarm;
mod call_arbiter;
mod frozen;
mod own_arbiter;
pub(crate) mod real_time;
pub(crate) mod symbolizer;

pub(crate) use call_arbiter::CallArbiter;
pub(crate) use frozen::frozen_since;
pub(crate) use own_arbiter::{OwnArbiter, is_own, supervision, viewers};
