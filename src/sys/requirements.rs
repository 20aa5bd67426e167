//! What an application must be allowed to do before it starts a pool.

use std::os::fd::AsFd;

use super::{CallError, Errno, descriptors, memory_file, process};

/// Tries once every call without which a pool on this machine cannot work, so that a refusal is found at the start and
/// not by every call. `rings`: the workers' channels are in shared memory. `blobs`: the pool has memory for blobs.
///
/// A lack of descriptors or memory is not a refusal: it passes.
///
/// # Errors
///
/// The call and its error.
pub(crate) fn check(rings: bool, blobs: bool) -> Result<(), CallError> {
    let checks = [
        ("pidfd_open", true, process::open_pidfd(process::own_pid()).map(drop)),
        ("memfd_create", true, sealed_memory()),
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

fn sealed_memory() -> rustix::io::Result<()> {
    memory_file::of_length(c"forkpool", 4096).map(drop)
}

fn reopened_pipe() -> rustix::io::Result<()> {
    let (_reader, writer) = descriptors::blocking_pipe()?;
    descriptors::reopen_read_write(writer.as_fd()).map(drop)
}
