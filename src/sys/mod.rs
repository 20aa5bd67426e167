//! System calls, and all `unsafe` code of this crate.
//!
//! Nothing here knows frames, policies or logs. Everything that this folder exports is safe to call from anywhere: a
//! precondition is checked where it is used, or carried in a type.
#![expect(unsafe_code, reason = "fork, wait4, signalfd and the process title have no safe equivalent")]

#[cfg(feature = "actors")]
pub(crate) mod adopted;
#[cfg(feature = "actors")]
pub(crate) mod alarm;
pub(crate) mod arena;
pub(crate) mod clock;
#[cfg(feature = "actors")]
#[allow(dead_code, reason = "only applications with a web server need it")]
pub(crate) mod connections;
pub(crate) mod descriptors;
pub(crate) mod faults;
pub(crate) mod figures;
pub(crate) mod init_array;
pub(crate) mod kill;
pub(crate) mod limits;
#[cfg(feature = "actors")]
mod loaded_objects;
pub(crate) mod manager_variables;
pub(crate) mod memory;
pub(crate) mod memory_file;
pub(crate) mod oom;
pub(crate) mod oom_score;
pub(crate) mod original;
#[cfg(feature = "actors")]
pub(crate) mod own_program;
pub(crate) mod parent_death;
pub(crate) mod passing;
pub(crate) mod process;
pub(crate) mod program_pages;
pub(crate) mod random;
#[cfg(feature = "actors")]
pub(crate) mod reactor;
#[cfg(feature = "actors")]
pub(crate) mod requirements;
pub(crate) mod sealed_file;
#[cfg(feature = "actors")]
pub(crate) mod server_process;
pub(crate) mod shared_memory;
pub(crate) mod signals;
pub(crate) mod sockets;
pub(crate) mod stack;
pub(crate) mod stack_overflow;
mod stop_signals;
pub(crate) mod surroundings;
pub(crate) mod terminal;
pub(crate) mod threads;

pub(crate) use rustix::io::Errno;

/// A system call that was refused. It prints as the call and the system's error.
#[derive(Debug)]
pub(crate) struct CallError {
    pub(crate) call: &'static str,
    pub(crate) error: std::io::Error,
}

impl CallError {
    /// Names the call that an error belongs to.
    pub(crate) fn of<E: Into<std::io::Error>>(call: &'static str) -> impl Fn(E) -> CallError {
        move |error| CallError { call, error: error.into() }
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.call, self.error)
    }
}
