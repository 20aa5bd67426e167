//! Where applications come to a server of its own: a Unix socket with a name.
//!
//! Whoever holds the lock beside the socket is the server there, for as long as it lives; so one that is alive is never
//! pushed aside, and what a dead one has left is replaced.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::sys::descriptors;

/// Longest path of a Unix socket, in bytes.
///
/// # References
///
/// - [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html), `sun_path`
const LONGEST_PATH: usize = 107;

/// Room for what stands behind the path in the name under which a socket is made.
const NEW: &str = ".new";

/// Why a server cannot listen. Nothing is left behind, and a server that is there is not disturbed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// An address is none.
    #[error("{address:?} is no address to listen on: it is written as unix:/path")]
    Address {
        /// As it was given.
        address: String,
    },
    /// The path is longer than a socket's can be.
    #[error("{path:?} is {length} bytes long, and the path of a socket is at most {most}")]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its bytes.
        length: usize,
        /// Most bytes.
        most: usize,
    },
    /// Another server listens there.
    #[error("{path:?} belongs to a server that is alive, process {pid}")]
    Taken {
        /// The path.
        path: PathBuf,
        /// The server's process, as it says; 0 where it does not.
        pid: u32,
    },
    /// What the system said: no such directory, no permission.
    #[error("a socket cannot be made at {path:?}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// A path that this process alone may listen on.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    lock: File,
}

/// An open door.
pub(super) struct Door {
    listener: UnixListener,
    claim: Claim,
}

impl Claim {
    /// Takes the place of the server there, unless there is one alive.
    pub(super) fn new(address: &str) -> Result<Claim, ListenError> {
        let no_address = || ListenError::Address { address: address.to_owned() };
        let path = PathBuf::from(
            address.strip_prefix("unix:").filter(|path| !path.is_empty()).ok_or_else(no_address)?,
        );
        let (length, most) = (path.as_os_str().len(), LONGEST_PATH - NEW.len());
        if length > most {
            return Err(ListenError::TooLong { path, length, most });
        }
        let lock = beside(&path, ".lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let told = |source| ListenError::Io { path: path.clone(), source };
        let mut lock = options.open(lock).map_err(told)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // It is for people; one that cannot be read is told as 0.
                let _ = lock.read_to_string(&mut pid);
                return Err(ListenError::Taken { path, pid: pid.trim().parse().unwrap_or(0) });
            }
            Err(TryLockError::Error(source)) => return Err(ListenError::Io { path, source }),
        }
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(told)?;
        Ok(Claim { path, lock })
    }

    /// Opens the door: from the first moment it has the mode that it is to have, and it takes the place of what a dead
    /// server has left at once.
    pub(super) fn open(self) -> Result<Door, ListenError> {
        let told = |source| ListenError::Io { path: self.path.clone(), source };
        let new = beside(&self.path, NEW);
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(told(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&new).map_err(told)?;
        let opened = listener
            .set_nonblocking(true)
            .and_then(|()| std::fs::set_permissions(&new, Permissions::from_mode(0o600)))
            .and_then(|()| std::fs::rename(&new, &self.path));
        if let Err(error) = opened {
            let _ = std::fs::remove_file(&new);
            return Err(told(error));
        }
        Ok(Door { listener, claim: self })
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

impl Door {
    /// The next application that has come, if one has; those of other users are turned away.
    pub(super) fn next(&self) -> io::Result<Option<OwnedFd>> {
        loop {
            let socket: OwnedFd = match self.listener.accept() {
                Ok((socket, _)) => socket.into(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if descriptors::peer_is_ours(socket.as_fd()) {
                return Ok(Some(socket));
            }
            tracing::warn!(target: "forkpool::server", path = ?self.claim.path, "a process of another user was turned away");
        }
    }

    /// Takes the socket away, so that nobody comes any more.
    pub(super) fn close(self) {
        // Where that fails a dead socket is left, which the next server replaces.
        let _ = std::fs::remove_file(&self.claim.path);
        drop(self.listener);
        let _ = self.claim.lock.unlock();
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
