//! The lock of a socket path: one server at a time listens there.
//!
//! A server holds the lock file next to its socket for as long as it runs. So a server that is alive is never
//! replaced by accident, and the socket of a dead server is. Anything else at the path stays: a file, or a socket at
//! which another program listens. All servers hold the lock when they change what is at the path.

use std::fs::{File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

use super::adoption::AdoptionKey;
use super::errors::ListenError;
use super::lock_file::{LockText, SocketId};
use crate::clock::Instant;
use crate::sys::Errno;
use crate::sys::sockets;
use crate::sys::sockets::Occupant;

/// How long a server that has just taken a lock may take to write its pid.
const PID_TIMEOUT: Duration = Duration::from_millis(100);

/// How often a lock is opened that another process removes meanwhile.
const MAX_ATTEMPTS: u32 = 100;

/// The lock of a path, held by this process.
#[derive(Debug)]
pub(super) struct SocketLock {
    path: PathBuf,
    lock: File,
    /// The socket that this server or its predecessor has made at the path.
    socket: Option<SocketId>,
    /// `None` if the lock belongs to another user, or the system has no random numbers.
    key: Option<AdoptionKey>,
}

impl SocketLock {
    /// Takes the lock of a path and writes this process's pid to it.
    ///
    /// # Errors
    ///
    /// - [`ListenError::Taken`]: another server holds the lock.
    /// - [`ListenError::Occupied`]: the lock file is not one.
    /// - [`ListenError::Io`]: the lock file cannot be opened or written.
    pub(super) fn new(path: &Path) -> Result<SocketLock, ListenError> {
        let failed = |source| ListenError::Io { path: path.to_owned(), source };
        let name = with_suffix(path, ".lock");
        for _ in 0..MAX_ATTEMPTS {
            let lock = match open(&name) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
                    return Err(ListenError::Occupied { path: name, reason: "it is a symbolic link" });
                }
                opened => opened.map_err(failed)?,
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(ListenError::Taken { path: path.to_owned(), pid: holder_pid(&lock) });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            let locked = lock.metadata().map_err(failed)?;
            match std::fs::symlink_metadata(&name) {
                Ok(found) if SocketId::of(&found) == SocketId::of(&locked) => {}
                // Another process has removed it since, and a third one may hold the lock of a new file.
                _ => continue,
            }
            let Some(text) = read(&lock, &locked).map_err(failed)? else {
                return Err(ListenError::Occupied { path: name, reason: "it is no lock of a server" });
            };
            let key = own_key(&locked, &text, AdoptionKey::new);
            let lock = SocketLock { path: path.to_owned(), lock, socket: None, key };
            lock.write().map_err(failed)?;
            return Ok(lock);
        }
        Err(failed(io::Error::other("its lock file is removed again and again")))
    }

    /// Makes a lock of the descriptor that a predecessor has passed, with its socket and its key.
    pub(super) fn inherited(path: PathBuf, lock: OwnedFd) -> SocketLock {
        let lock = File::from(lock);
        let found = lock.metadata().and_then(|found| Ok(read(&lock, &found)?.map(|text| (found, text))));
        let (socket, key) = match found {
            Ok(Some((found, text))) => (text.socket, own_key(&found, &text, || None)),
            _ => (None, None),
        };
        SocketLock { path, lock, socket, key }
    }

    /// Returns the secret by which workers are adopted from an earlier server of this path.
    pub(super) fn key(&self) -> Option<&AdoptionKey> {
        self.key.as_ref()
    }

    /// Writes this process's pid to the lock file, and what is to be known of the path.
    pub(super) fn write(&self) -> io::Result<()> {
        let key = self.key.as_ref().map(AdoptionKey::number);
        let text = LockText::of_this_process(self.socket, key).to_string();
        self.lock.write_all_at(text.as_bytes(), 0)?;
        self.lock.set_len(text.len() as u64)
    }

    /// Checks that nothing is at the path, or the socket of a dead server, whose identity is returned.
    ///
    /// # Errors
    ///
    /// - [`ListenError::Taken`]: a process listens there.
    /// - [`ListenError::Occupied`]: something else is there.
    /// - [`ListenError::Io`]: the system does not tell.
    pub(super) fn check_path(&self) -> Result<Option<SocketId>, ListenError> {
        let path = || self.path.clone();
        let failed = |source| ListenError::Io { path: path(), source };
        let found = match std::fs::symlink_metadata(&self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if !found.file_type().is_socket() {
            return Err(ListenError::Occupied { path: path(), reason: "it is no socket" });
        }
        match sockets::occupant_of(&self.path).map_err(|error| failed(error.into()))? {
            Occupant::Dead => Ok(Some(SocketId::of(&found))),
            Occupant::Listener(pid) => Err(ListenError::Taken { path: path(), pid: pid.unwrap_or(0) }),
            Occupant::OtherSocket => {
                Err(ListenError::Occupied { path: path(), reason: "it is no server's socket" })
            }
        }
    }

    /// Creates the listening socket, in place of that of a dead server. It gets its mode and group before it listens, and
    /// it is bound to its final name, by which the kernel and service managers know it.
    ///
    /// # Errors
    ///
    /// Those of [`check_path`](Self::check_path), and [`ListenError::Io`]; nothing is left at the path then.
    pub(super) fn listen(&mut self, group: Option<u32>) -> Result<UnixListener, ListenError> {
        let dead = self.check_path()?;
        self.listen_in_place_of(dead, group).map_err(|source| {
            self.remove_socket();
            ListenError::Io { path: self.path.clone(), source }
        })
    }

    fn listen_in_place_of(&mut self, dead: Option<SocketId>, group: Option<u32>) -> io::Result<UnixListener> {
        if let Some(dead) = dead {
            remove_if(&self.path, dead)?;
        }
        let socket = sockets::bind_unix(&self.path)?;
        self.socket = Some(SocketId::of(&std::fs::symlink_metadata(&self.path)?));
        self.write()?;
        if group.is_some() {
            std::os::unix::fs::chown(&self.path, None, group)?;
        }
        // A mask of this process may have taken more away than others' permissions.
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        std::fs::set_permissions(&self.path, Permissions::from_mode(mode))?;
        Ok(sockets::listen_unix(socket)?)
    }

    /// Removes the socket and releases the lock, so that no more peers connect and another server may take the path.
    pub(super) fn remove(self) {
        self.remove_socket();
        let _ = self.lock.unlock();
    }

    /// Removes the socket if it is this server's.
    fn remove_socket(&self) {
        if let Some(own) = self.socket {
            // If that fails, a dead socket remains, which the next server replaces.
            let _ = remove_if(&self.path, own);
        }
    }
}

impl AsFd for SocketLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

/// Removes what is at a path if it is this socket.
///
/// The kernel has no call for both at once. A server of this library cannot come in between, because it would hold the
/// lock. A program that ignores the lock would have to replace the socket in the moment between the two calls.
fn remove_if(path: &Path, wanted: SocketId) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if SocketId::of(&found) == wanted => std::fs::remove_file(path),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens or creates a lock file. A symbolic link is an error, and opening anything does not wait.
fn open(name: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    // The bits of these flags are those of an int.
    options.custom_flags(flags as i32).open(name)
}

/// Reads a lock file; `None` if it is something else.
fn read(lock: &File, found: &Metadata) -> io::Result<Option<LockText>> {
    // A file with another name is not only a lock.
    if !found.is_file() || found.nlink() != 1 || found.len() > LockText::MAX_LENGTH as u64 {
        return Ok(None);
    }
    let mut text = [0; LockText::MAX_LENGTH];
    let count = lock.read_at(&mut text, 0)?;
    Ok(LockText::parse(&text[..count]))
}

/// Returns the key in a lock file that no other user can read or write, or else a new one.
fn own_key(
    found: &Metadata,
    text: &LockText,
    new: impl FnOnce() -> Option<AdoptionKey>,
) -> Option<AdoptionKey> {
    let is_private = found.uid() == sockets::own_user() && found.mode() & 0o077 == 0;
    is_private.then(|| text.key.map(AdoptionKey::from_number).or_else(new)).flatten()
}

/// Returns the pid in a lock file that another server holds, or 0 if it has none that this process can name. Waits a
/// moment, because a server that has just taken the lock is about to write its pid.
fn holder_pid(lock: &File) -> u32 {
    let deadline = Instant::now() + PID_TIMEOUT;
    loop {
        let text = lock.metadata().and_then(|found| read(lock, &found)).ok().flatten();
        // The pid of a dead server may still be in the file.
        let is_alive = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
        match text.and_then(|text| text.pid_here()).filter(is_alive) {
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
