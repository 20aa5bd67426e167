//! Where applications come to a server of its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::claim::Claim;
use crate::address::AddressError;
use crate::sys::descriptors::{self, Peer};

/// Why a server cannot listen. Nothing is left behind, and a server that is there is not disturbed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// An address is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Another server listens there.
    #[error(
        "{path:?} belongs to a server that is alive, process {pid}; one that is to replace it takes over"
    )]
    Taken {
        /// The path.
        path: PathBuf,
        /// The server's process, as it says; 0 where it does not.
        pid: u32,
    },
    /// The server there does not give its place away.
    #[error("{path:?} is not handed over by the server that is alive there: {reason}")]
    NotHandedOver {
        /// The path.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// What the system said: no such directory, no permission.
    #[error("a socket cannot be made at {path:?}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The service manager has passed nothing that fits.
    #[error("{address} is where the service manager listens, and it has passed {passed}")]
    NotInherited {
        /// As it was given.
        address: String,
        /// What it has passed.
        passed: String,
    },
}

/// For people: what an unhandled `?` in `main` prints is what is wrong and what to do.
impl std::fmt::Debug for ListenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        crate::failure::for_people(f, self)
    }
}

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    /// The group whose members may, beside processes of the server's own user and of root.
    pub(super) group: Option<u32>,
}

impl Access {
    fn admits(self, peer: &Peer, own_user: u32) -> bool {
        let is_member = self.group.is_some_and(|group| peer.groups.contains(&group));
        peer.user == own_user || peer.user == 0 || is_member
    }
}

/// An open door.
pub(super) struct Door {
    /// What it was asked for as.
    pub(super) address: String,
    listener: UnixListener,
    access: Access,
    /// `None` where the service manager holds the place.
    pub(super) claim: Option<Claim>,
}

/// Somebody who has come.
pub(super) struct Arrival {
    pub(super) socket: OwnedFd,
    pub(super) peer: Peer,
}

impl Door {
    pub(super) fn new(address: String, listener: UnixListener, access: Access, claim: Option<Claim>) -> Self {
        Door { address, listener, access, claim }
    }

    /// The next one who has come, if somebody has; those who may not are turned away, which is told.
    ///
    /// # Errors
    ///
    /// What the system said: that this process may have no more descriptors, say.
    pub(super) fn next(&self, mut turned_away: impl FnMut(String)) -> io::Result<Option<Arrival>> {
        loop {
            let socket: OwnedFd = match self.listener.accept() {
                Ok((socket, _)) => socket.into(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            match descriptors::peer(socket.as_fd()) {
                Ok(peer) if self.access.admits(&peer, descriptors::own_user()) => {
                    return Ok(Some(Arrival { socket, peer }));
                }
                Ok(peer) => {
                    turned_away(format!("process {} of user {} may not come in", peer.pid, peer.user))
                }
                // It is gone already.
                Err(_) => {}
            }
        }
    }

    /// What a successor needs to go on with it.
    pub(super) fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        let listener = self.listener.as_fd().try_clone_to_owned()?;
        let lock = self.claim.as_ref().map(|claim| claim.as_fd().try_clone_to_owned()).transpose()?;
        Ok([Some(listener), lock].into_iter().flatten().collect())
    }

    /// Takes it away, so that nobody comes any more.
    pub(super) fn close(self) {
        if let Some(claim) = self.claim {
            claim.give_up();
        }
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S10
    #[test]
    fn only_the_own_user_root_and_members_of_the_group_may_come_in() {
        let peer = |user, groups: &[u32]| Peer { pid: 1, user, groups: groups.to_vec() };
        let table = [
            ("oneself", None, peer(7, &[]), true),
            ("root", None, peer(0, &[0]), true),
            ("somebody else", None, peer(8, &[7]), false),
            ("a member", Some(33), peer(8, &[100, 33]), true),
            ("no member", Some(33), peer(8, &[100]), false),
        ];
        for (who, group, peer, expected) in table {
            assert_eq!(Access { group }.admits(&peer, 7), expected, "{who}");
        }
    }
}
