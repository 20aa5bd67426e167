//! How a program becomes a fork server before its `main` is reached.
//!
//! `boot!` places a function among the program's start-up functions (`.init_array`). In the application it only
//! notes which worker types it knows. In a process that was started as a server for one of them it never
//! returns.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::private_server;
use crate::sys::init_array;
use crate::worker::Program;

/// First argument of a process that is meant to be a fork server.
pub(crate) const SERVER_ARGUMENT: &str = "--forkpool-fork-server";

/// Bytes of padding among the arguments of a server, to be overwritten by its title.
#[cfg(feature = "actors")]
pub(crate) const TITLE_PADDING: usize = 160;

/// A type whose workers a program can boot.
pub trait Boot {
    /// How its workers are made.
    const PROGRAM: Program;
}

/// Whether this process is on its way to be a server: another `boot!` among the start-up functions behind the
/// one that diverted only notes its programs.
static DIVERTED: AtomicBool = AtomicBool::new(false);

static BOOTED: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// Arguments that make a process of this program a server for one worker type.
#[cfg(feature = "actors")]
pub(crate) fn arguments(program: &Program) -> Vec<String> {
    let identity = format!("{:016x}", (program.identity)());
    vec![SERVER_ARGUMENT.to_owned(), identity, ".".repeat(TITLE_PADDING)]
}

/// Whether a `boot!` line names this worker type.
#[cfg(feature = "actors")]
pub(crate) fn is_booted(program: &Program) -> bool {
    let booted = BOOTED.lock().unwrap_or_else(PoisonError::into_inner);
    booted.contains(&(program.identity)())
}

/// Notes the programs; in a server process for one of them, becomes that server and never returns.
///
/// `hook` is the start-up function that calls this.
#[doc(hidden)]
pub fn enter(programs: &[Program], hook: *const ()) {
    let identities = programs.iter().map(|program| (program.identity)());
    BOOTED.lock().unwrap_or_else(PoisonError::into_inner).extend(identities);
    let Some(wanted) = wanted(arguments_so_far()) else {
        return;
    };
    if let Some(program) = programs.iter().find(|program| (program.identity)() == wanted)
        && !DIVERTED.swap(true, Ordering::Relaxed)
    {
        private_server::run(program, || init_array::run_initializers_after(hook))
    }
}

/// The worker type this process was started to serve, if it was.
fn wanted(mut arguments: impl Iterator<Item = OsString>) -> Option<u64> {
    if arguments.nth(1)? != SERVER_ARGUMENT {
        return None;
    }
    u64::from_str_radix(arguments.next()?.to_str()?, 16).ok()
}

/// The arguments, also where the C library does not hand them to start-up functions.
fn arguments_so_far() -> Box<dyn Iterator<Item = OsString>> {
    use std::os::unix::ffi::OsStringExt;
    let handed = std::env::args_os();
    if handed.len() > 0 {
        return Box::new(handed);
    }
    let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let arguments: Vec<OsString> =
        line.split(|&byte| byte == 0).map(|argument| OsString::from_vec(argument.to_vec())).collect();
    Box::new(arguments.into_iter())
}

/// Boots the workers of this program: `forkpool::boot!(Hasher, Sqlite);` as an item beside their definition.
///
/// Without this line a pool of the type cannot be started. It places a function that runs ahead of `main`: in
/// the application it costs a few microseconds, and in a process that was started as a fork server it is all
/// that ever runs. A crate may have several; each worker type is named in one of them.
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
