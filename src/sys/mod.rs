//! Every system call and every line of `unsafe` of this crate.
//!
//! Nothing here knows a frame, a policy or a log. What leaves this room is safe to call from anywhere: a
//! precondition is checked where it is used or carried in a type.
#![expect(unsafe_code, reason = "fork, wait4, signalfd and the process title have no safe equivalent")]

pub(crate) mod arena;
pub(crate) mod chance;
pub(crate) mod clock;
pub(crate) mod descriptors;
#[cfg(feature = "actors")]
pub(crate) mod launch;
pub(crate) mod memory;
pub(crate) mod orphan;
pub(crate) mod process;
#[cfg(feature = "actors")]
pub(crate) mod reactor;
pub(crate) mod sealed;
pub(crate) mod shared;
pub(crate) mod signals;
pub(crate) mod sockets;
pub(crate) mod startup;

pub(crate) use rustix::io::Errno;
