//! Errors of the kernel that pass: the same call may succeed a moment later.

use std::io;
use std::time::Duration;

use super::Errno;

/// Wait before a call is tried again that has failed with an error that passes.
pub(crate) const RETRY_WAIT: Duration = Duration::from_millis(10);

/// Longest wait of [`retry`].
const MAX_WAIT: Duration = Duration::from_millis(100);

/// Whether the error passes without an event that reports it: the kernel is out of memory or buffers, or too many
/// descriptors are on their way.
///
/// # References
///
/// - [sendmsg(2)](https://man7.org/linux/man-pages/man2/sendmsg.2.html), [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)
pub(crate) fn is_passing(error: &io::Error) -> bool {
    let errors = [Errno::NOBUFS, Errno::NOMEM, Errno::TOOMANYREFS];
    Errno::from_io_error(error).is_some_and(|error| errors.contains(&error))
}

/// Repeats a call while its error passes, with growing waits. It is for a process that has nothing else to do.
pub(crate) fn retry<T, E: Into<io::Error>>(mut call: impl FnMut() -> Result<T, E>) -> io::Result<T> {
    let mut wait = Duration::from_millis(1);
    loop {
        match call().map_err(Into::into) {
            Err(error) if is_passing(&error) => {
                std::thread::sleep(wait);
                wait = MAX_WAIT.min(2 * wait);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G2
    #[test]
    fn a_call_is_repeated_while_its_error_passes_and_no_longer() {
        let mut errors = vec![Errno::PIPE, Errno::NOMEM, Errno::NOBUFS];
        let failed = retry(|| Err::<(), _>(errors.pop().unwrap_or(Errno::IO)));
        assert_eq!(failed.map_err(|error| error.kind()), Err(io::ErrorKind::BrokenPipe));
        let mut errors = vec![Errno::NOMEM, Errno::TOOMANYREFS];
        let succeeded = retry(|| errors.pop().map_or(Ok(7), Err));
        assert_eq!(succeeded.ok(), Some(7));
    }
}
