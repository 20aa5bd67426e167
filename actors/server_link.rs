//! The application's end of the control channel, and the server process behind it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;

use crate::channel::{Inbox, Parcels};
use crate::sys::descriptors::Bundle;
use crate::sys::launch::ServerProcess;
use crate::sys::{Errno, descriptors, reactor};
use crate::wire::control::{BODY_LIMIT, FromServer, ToServer};
use crate::wire::frame;

/// A server that was started and not yet taken leave of.
pub(super) struct ServerLink {
    // The channel goes before the process: its end is what tells the server to end.
    socket: AsyncFd<OwnedFd>,
    /// Where it is ours.
    process: Option<ServerProcess>,
    inbox: Inbox,
    unsent: Parcels,
    passed: VecDeque<Bundle>,
}

/// Our end of a control channel, not yet registered with a reactor, and the server process if it is ours.
pub(super) struct Launched {
    socket: OwnedFd,
    process: Option<ServerProcess>,
}

/// Where a pool has its fork server from.
#[derive(Debug)]
pub(super) enum Source {
    /// This program, started again with these arguments.
    Own(Vec<String>),
    /// A server that listens at this path, and runs as our user, as root or as the one that is trusted.
    Listening { path: PathBuf, trusted: Option<u32> },
}

impl Source {
    /// Starts the server, or goes to it.
    ///
    /// # Errors
    ///
    /// What the system said; nothing is left behind.
    pub(super) fn reach(&self) -> io::Result<Launched> {
        match self {
            Source::Own(arguments) => {
                let (ours, theirs) = descriptors::socket_pair()?;
                descriptors::set_nonblocking(ours.as_fd())?;
                Ok(Launched { socket: ours, process: Some(ServerProcess::launch(arguments, theirs)?) })
            }
            Source::Listening { path, trusted } => {
                let socket = descriptors::connect(path)?;
                let user = descriptors::peer(socket.as_fd())?.user;
                let is_trusted = user == descriptors::own_user() || user == 0 || *trusted == Some(user);
                if !is_trusted {
                    let why = format!("it is of user {user}, whom this application does not trust");
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
                }
                Ok(Launched { socket, process: None })
            }
        }
    }

    /// Whether the server is this program, started for this pool alone.
    pub(super) fn is_own(&self) -> bool {
        matches!(self, Source::Own(_))
    }

    /// What is wrong as long as it was reached and says nothing; a server of ours may take its time to load.
    pub(super) fn unanswered(&self) -> Option<String> {
        match self {
            Source::Own(_) => None,
            Source::Listening { path, .. } => {
                Some(format!("no word yet from the server at {}", path.display()))
            }
        }
    }

    /// What it is that cannot be done where it cannot be reached.
    pub(super) fn unreachable(&self, error: &io::Error) -> String {
        match self {
            Source::Own(_) => format!("this program cannot be started again: {error}"),
            Source::Listening { path, .. } => format!("no server at {}: {error}", path.display()),
        }
    }
}

impl ServerLink {
    /// Registers with the current reactor.
    pub(super) fn new(launched: Launched) -> io::Result<Self> {
        Ok(ServerLink {
            socket: reactor::register_both_ways(launched.socket)?,
            process: launched.process,
            inbox: Inbox::default(),
            unsent: Parcels::default(),
            passed: VecDeque::new(),
        })
    }

    /// The server's process, where it is ours.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::pid)
    }

    /// Says it at once, as far as it fits; the rest is left for [`poll_flush`](Self::poll_flush).
    pub(super) fn say(&mut self, message: &ToServer, passed: Vec<OwnedFd>) {
        self.unsent.put(message, passed);
        // What it says is looked at by whoever flushes.
        let _ = self.unsent.send(self.socket.as_fd());
    }

    /// Says bytes that are a frame already.
    pub(super) fn say_frame(&mut self, bytes: Vec<u8>) {
        self.unsent.put_frame(bytes);
    }

    /// The descriptor that came with the message at hand.
    pub(super) fn take_passed(&mut self) -> Option<OwnedFd> {
        self.passed.pop_front()?.pop()
    }

    /// Writes what fits; registers the task for the rest. A server that is gone is told by the next read.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Err(error) = self.unsent.send(self.socket.as_fd()) {
            match error {
                Errno::AGAIN => match ready!(self.socket.poll_write_ready(cx)) {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(_) => return Poll::Ready(()),
                },
                _ => self.unsent.clear(),
            }
        }
        Poll::Ready(())
    }

    /// The server's next message; `None` once the conversation is over.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<FromServer>> {
        loop {
            match self.inbox.next(BODY_LIMIT) {
                Ok(Some(body)) => return Poll::Ready(frame::whole(body).ok()),
                Ok(None) => {}
                Err(_) => return Poll::Ready(None),
            }
            let Ok(mut guard) = ready!(self.socket.poll_read_ready(cx)) else {
                return Poll::Ready(None);
            };
            let (socket, passed) = (&self.socket, &mut self.passed);
            let filled = self.inbox.fill(|buffer| descriptors::receive_with(socket.as_fd(), buffer, passed));
            match filled {
                Ok((0, _)) => return Poll::Ready(None),
                Ok(_) => {}
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(_) => return Poll::Ready(None),
            }
        }
    }

    /// Ends the conversation, which ends a server of ours; its process is left to be waited for.
    pub(super) fn hang_up(self) -> Option<ServerProcess> {
        self.process
    }
}
