//! The lock of a socket path: one server at a time listens there.
//!
//! A server holds the lock file next to its socket for as long as it runs. So a server that is alive is never
//! replaced by accident, and the socket of a dead server is.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::errors::ListenError;
use crate::address::NEW;

/// How long a server that has just taken a lock may take to write its pid.
const PID_TIMEOUT: Duration = Duration::from_millis(100);

/// The lock of a path, held by this process.
#[derive(Debug)]
pub(super) struct SocketLock {
    path: PathBuf,
    lock: File,
}

impl SocketLock {
    /// Takes the lock of a path and writes this process's pid to it.
    ///
    /// # Errors
    ///
    /// [`ListenError::Taken`] if another server holds the lock, [`ListenError::Io`] if the lock file cannot be opened
    /// or written.
    pub(super) fn new(path: &Path) -> Result<SocketLock, ListenError> {
        let failed = |source| ListenError::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(with_suffix(path, ".lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(ListenError::Taken { path: path.to_owned(), pid: holder_pid(&lock) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let lock = SocketLock { path: path.to_owned(), lock };
        lock.write_pid().map_err(failed)?;
        Ok(lock)
    }

    /// Makes a lock of the descriptor that a predecessor has passed.
    pub(super) fn inherited(path: PathBuf, lock: OwnedFd) -> SocketLock {
        SocketLock { path, lock: File::from(lock) }
    }

    /// Writes this process's pid to the lock file.
    pub(super) fn write_pid(&self) -> io::Result<()> {
        self.lock.set_len(0)?;
        self.lock.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)
    }

    /// Creates the listening socket. It gets its mode and group under another name and is then renamed, so that it
    /// has both from the first moment and replaces the socket of a dead server atomically.
    pub(super) fn listen(&self, group: Option<u32>) -> Result<UnixListener, ListenError> {
        let failed = |source| ListenError::Io { path: self.path.clone(), source };
        let new = with_suffix(&self.path, NEW);
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&new).map_err(failed)?;
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        let opened = listener
            .set_nonblocking(true)
            .and_then(|()| group.map_or(Ok(()), |group| std::os::unix::fs::chown(&new, None, Some(group))))
            .and_then(|()| std::fs::set_permissions(&new, Permissions::from_mode(mode)))
            .and_then(|()| std::fs::rename(&new, &self.path));
        if let Err(error) = opened {
            let _ = std::fs::remove_file(&new);
            return Err(failed(error));
        }
        Ok(listener)
    }

    /// Removes the socket and releases the lock, so that no more peers connect and another server may take the path.
    pub(super) fn remove(self) {
        // If that fails, a dead socket remains, which the next server replaces.
        let _ = std::fs::remove_file(&self.path);
        let _ = self.lock.unlock();
    }
}

impl AsFd for SocketLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

/// Returns the pid in a lock file that another server holds, or 0 if it has none. Waits a moment, because a server
/// that has just taken the lock is about to write its pid.
fn holder_pid(lock: &File) -> u32 {
    let deadline = Instant::now() + PID_TIMEOUT;
    loop {
        let mut text = [0; 16];
        let count = lock.read_at(&mut text, 0).unwrap_or(0);
        let pid = std::str::from_utf8(&text[..count]).ok().and_then(|text| text.trim().parse().ok());
        // The pid of a dead server may still be in the file.
        let is_alive = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
        match pid.filter(is_alive) {
            Some(pid) => return pid,
            None if Instant::now() >= deadline => return 0,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn with_suffix(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
