//! A path that one server at a time may listen at.
//!
//! Whoever holds the lock beside the socket is the server there, for as long as it lives; so one that is alive is never
//! pushed aside, and what a dead one has left is replaced.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::listener::ListenError;
use crate::address::NEW;

/// How long a server that has just taken a lock may take to sign it.
const SIGNING: Duration = Duration::from_millis(100);

/// A path that this process alone may listen at.
#[derive(Debug)]
pub(super) struct SocketLock {
    path: PathBuf,
    lock: File,
}

impl SocketLock {
    /// Takes the place of the server there.
    ///
    /// # Errors
    ///
    /// [`ListenError::Taken`] where one is alive, and [`ListenError::Io`].
    pub(super) fn new(path: &Path) -> Result<SocketLock, ListenError> {
        let told = |source| ListenError::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(beside(path, ".lock")).map_err(told)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(ListenError::Taken { path: path.to_owned(), pid: signature(&lock) });
            }
            Err(TryLockError::Error(source)) => return Err(told(source)),
        }
        let lock = SocketLock { path: path.to_owned(), lock };
        lock.sign().map_err(told)?;
        Ok(lock)
    }

    /// The claim of a server that has given it to this one.
    pub(super) fn inherited(path: PathBuf, lock: OwnedFd) -> SocketLock {
        SocketLock { path, lock: File::from(lock) }
    }

    /// Writes down whose it is.
    pub(super) fn sign(&self) -> io::Result<()> {
        self.lock.set_len(0)?;
        self.lock.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)
    }

    /// Makes a socket there: from the first moment it has the mode and the group that it is to have, and it takes the
    /// place of what a dead server has left at once.
    pub(super) fn listen(&self, group: Option<u32>) -> Result<UnixListener, ListenError> {
        let told = |source| ListenError::Io { path: self.path.clone(), source };
        let new = beside(&self.path, NEW);
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(told(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&new).map_err(told)?;
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        let opened = listener
            .set_nonblocking(true)
            .and_then(|()| group.map_or(Ok(()), |group| std::os::unix::fs::chown(&new, None, Some(group))))
            .and_then(|()| std::fs::set_permissions(&new, Permissions::from_mode(mode)))
            .and_then(|()| std::fs::rename(&new, &self.path));
        if let Err(error) = opened {
            let _ = std::fs::remove_file(&new);
            return Err(told(error));
        }
        Ok(listener)
    }

    /// Takes the socket away, so that nobody comes any more and others may claim the path.
    pub(super) fn give_up(self) {
        // Where that fails a dead socket is left, which the next server replaces.
        let _ = std::fs::remove_file(&self.path);
        let _ = self.lock.unlock();
    }
}

impl AsFd for SocketLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

/// Who has signed a lock that is held; 0 where nobody has. Whoever has just taken it is about to.
fn signature(lock: &File) -> u32 {
    let patience = Instant::now() + SIGNING;
    loop {
        let mut text = [0; 16];
        let count = lock.read_at(&mut text, 0).unwrap_or(0);
        let pid = std::str::from_utf8(&text[..count]).ok().and_then(|text| text.trim().parse().ok());
        // What a dead server has left is not the signature of the one that lives.
        let lives = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
        match pid.filter(lives) {
            Some(pid) => return pid,
            None if Instant::now() >= patience => return 0,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
