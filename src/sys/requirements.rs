//! What an application must be allowed to do before it starts a pool.

use std::os::fd::AsFd;

use super::{CallError, Errno, descriptors, limits, memory_file, process};

/// Tries once every call without which a pool on this machine cannot work, so that a refusal is found at the start and
/// not by every call. `channel`: bytes of the memory of a worker's channel. `rings`: it holds rings. `blobs`: the pool has
/// memory for blobs. `own_server`: the pool starts its fork server.
///
/// A lack of descriptors or memory is not a refusal: it passes.
///
/// # Errors
///
/// The call and its error.
pub(crate) fn check((channel, rings): (usize, bool), blobs: bool, own_server: bool) -> Result<(), CallError> {
    let checks = [
        ("memory files as long as a worker's channel, by RLIMIT_FSIZE", true, fits_a_file(channel)),
        ("pidfd_open", true, process::open_pidfd(process::own_pid()).map(drop)),
        ("memfd_create", true, sealed_memory()),
        ("setpgid", own_server, setpgid()),
        ("opening /proc/self/fd", rings || blobs, reopened_pipe()),
    ];
    for (call, is_needed, outcome) in checks {
        match outcome {
            Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN | Errno::INTR) | Ok(()) => {}
            Err(error) if is_needed => return Err(CallError { call, error: error.into() }),
            Err(_) => {}
        }
    }
    Ok(())
}

/// Whether a process may move to another group. Where it may not, the execution of a server fails with that error, but
/// as if the program could not be executed.
///
/// # References
///
/// - [setpgid(2)](https://man7.org/linux/man-pages/man2/setpgid.2.html)
fn setpgid() -> rustix::io::Result<()> {
    // SAFETY: setpgid demands nothing of its arguments, which are numbers; a group below zero is refused and changes
    // nothing.
    let refused = unsafe { libc::setpgid(0, -1) };
    match std::io::Error::last_os_error().raw_os_error() {
        Some(error) if refused == -1 && error != libc::EINVAL => Err(Errno::from_raw_os_error(error)),
        _ => Ok(()),
    }
}

fn fits_a_file(bytes: usize) -> rustix::io::Result<()> {
    if bytes as u64 > limits::longest_file() { Err(Errno::FBIG) } else { Ok(()) }
}

fn sealed_memory() -> rustix::io::Result<()> {
    memory_file::of_length(c"forkpool", 4096).map(drop)
}

fn reopened_pipe() -> rustix::io::Result<()> {
    let (_reader, writer) = descriptors::blocking_pipe()?;
    descriptors::reopen_read_write(writer.as_fd()).map(drop)
}
