//! How a program becomes a fork server before its `main` is reached.
//!
//! `boot!` places a function among the program's start-up functions (`.init_array`). In the application this function
//! only records the worker types. In a process that was started as the server of one of these types it never returns.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::private_server;
use crate::sys::init_array;
use crate::worker::Program;

/// First argument of a process that is started as a fork server.
pub(crate) const SERVER_ARGUMENT: &str = "--forkpool-fork-server";

/// Bytes of padding among the arguments of a server; its process title overwrites them.
#[cfg(feature = "actors")]
pub(crate) const TITLE_PADDING: usize = 160;

/// A worker type that a fork server of this program can run.
pub trait Boot {
    /// How a fork server makes workers of this type.
    const PROGRAM: Program;
}

/// Whether this process is becoming a server. Another `boot!` hook that comes later among the start-up functions then
/// only records its worker types.
static DIVERTED: AtomicBool = AtomicBool::new(false);

/// The worker types of this program, each with the address of the hook that named it.
static BOOTED_TYPES: Mutex<Vec<(u64, usize)>> = Mutex::new(Vec::new());

/// Returns the arguments that make a process of this program a server for one worker type.
#[cfg(feature = "actors")]
pub(crate) fn arguments(program: &Program) -> Vec<String> {
    let identity = format!("{:016x}", (program.identity)());
    vec![SERVER_ARGUMENT.to_owned(), identity, ".".repeat(TITLE_PADDING)]
}

/// Returns the address of the hook of the `boot!` line that names this worker type, or `None` without such a line. The
/// program that is started as the fork server must contain it.
#[cfg(feature = "actors")]
pub(crate) fn hook_of(program: &Program) -> Option<usize> {
    let identity = (program.identity)();
    let booted = BOOTED_TYPES.lock().unwrap_or_else(PoisonError::into_inner);
    booted.iter().find(|(booted, _)| *booted == identity).map(|&(_, hook)| hook)
}

/// Records the worker types; in a server process for one of them, becomes that server and never returns.
///
/// `hook` is the start-up function that calls this.
#[doc(hidden)]
pub fn enter(programs: &[Program], hook: *const ()) {
    let identities = programs.iter().map(|program| ((program.identity)(), hook.addr()));
    BOOTED_TYPES.lock().unwrap_or_else(PoisonError::into_inner).extend(identities);
    let Some(wanted) = wanted(process_arguments()) else {
        return;
    };
    if let Some(program) = programs.iter().find(|program| (program.identity)() == wanted)
        && !DIVERTED.swap(true, Ordering::Relaxed)
    {
        private_server::run(program, || init_array::run_initializers_after(hook))
    }
}

/// Returns the worker type that this process was started to serve, or `None` in the application.
fn wanted(mut arguments: impl Iterator<Item = OsString>) -> Option<u64> {
    if arguments.nth(1)? != SERVER_ARGUMENT {
        return None;
    }
    u64::from_str_radix(arguments.next()?.to_str()?, 16).ok()
}

/// Returns the process's arguments, even where the C library does not pass them to start-up functions.
fn process_arguments() -> Box<dyn Iterator<Item = OsString>> {
    use std::os::unix::ffi::OsStringExt;
    let from_libc = std::env::args_os();
    if from_libc.len() > 0 {
        return Box::new(from_libc);
    }
    let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let arguments: Vec<OsString> =
        line.split(|&byte| byte == 0).map(|argument| OsString::from_vec(argument.to_vec())).collect();
    Box::new(arguments.into_iter())
}

/// Registers the worker types of this program: `forkpool::boot!(Hasher, Sqlite);`, as an item next to their
/// definition.
///
/// A pool of a type that no `boot!` line names cannot be started. The macro places a function that runs ahead of
/// `main`. In the application that function takes a few microseconds. In a process that was started as a fork server
/// it never returns, so `main` is not reached there. A crate may have several `boot!` lines; name each worker type in
/// one of them.
#[macro_export]
macro_rules! boot {
    ($($worker:ty),+ $(,)?) => {
        const _: () = {
            #[used]
            #[unsafe(link_section = ".init_array")]
            static HOOK: extern "C" fn() = {
                extern "C" fn hook() {
                    $crate::__private::enter(
                        &[$(<$worker as $crate::__private::Boot>::PROGRAM),+],
                        hook as extern "C" fn() as *const (),
                    );
                }
                hook
            };
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted_by(arguments: &[&str]) -> Option<u64> {
        wanted(arguments.iter().map(OsString::from))
    }

    #[test]
    fn only_the_server_argument_in_first_place_makes_a_server() {
        assert_eq!(wanted_by(&["app", SERVER_ARGUMENT, "00000000000000ff", "..."]), Some(255));
        assert_eq!(wanted_by(&["app", "run", SERVER_ARGUMENT, "00000000000000ff"]), None);
        assert_eq!(wanted_by(&["app", SERVER_ARGUMENT, "no number"]), None);
        assert_eq!(wanted_by(&["app"]), None);
        assert_eq!(wanted_by(&[]), None);
    }
}
