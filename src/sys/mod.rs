//! System calls, and all `unsafe` code of this crate.
//!
//! Nothing here knows frames, policies or logs. Everything that this folder exports is safe to call from anywhere: a
//! precondition is checked where it is used, or carried in a type.
#![expect(unsafe_code, reason = "fork, wait4, signalfd and the process title have no safe equivalent")]

pub(crate) mod arena;
pub(crate) mod clock;
pub(crate) mod descriptors;
pub(crate) mod faults;
pub(crate) mod init_array;
pub(crate) mod memory;
pub(crate) mod parent_death;
pub(crate) mod passing;
pub(crate) mod process;
pub(crate) mod random;
#[cfg(feature = "actors")]
pub(crate) mod reactor;
pub(crate) mod sealed_file;
#[cfg(feature = "actors")]
pub(crate) mod server_process;
pub(crate) mod shared_memory;
pub(crate) mod signals;
pub(crate) mod sockets;

pub(crate) use rustix::io::Errno;
