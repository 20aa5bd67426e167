//! The application's end of the control channel, with the server process if the application started it.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_rt::time::Sleep;
use tokio::io::unix::AsyncFd;

use super::pings::Pings;
use super::source::{Launched, Remote};
use crate::actors::transport::watching;
use crate::channel::{Inbox, SendQueue, SocketLayer};
use crate::sys::descriptors::PassedDescriptors;
use crate::sys::passing::is_passing;
use crate::sys::process::Owner;
use crate::sys::server_process::ServerProcess;
use crate::sys::{descriptors, reactor, sockets};
use crate::wire::control::{BODY_LIMIT, FromServer, ToServer};
use crate::wire::frame;

/// How long the channel waits after an error that passes (10 ms).
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// The connection to one fork server.
pub(crate) struct ServerConnection {
    // Field order matters: the socket is dropped before the process, because its end makes the server exit.
    socket: AsyncFd<OwnedFd>,
    layer: SocketLayer,
    /// The server's network address, if it is reached over a network.
    remote: Option<Remote>,
    /// The pings to such a server.
    pub(super) pings: Option<Pings>,
    /// By what a server over a network recognizes this client on the channels of its workers.
    ticket: Option<u128>,
    /// Why the channel ended, unless the server has closed it.
    error: Option<String>,
    /// Whether the channel has ended by an error.
    is_broken: bool,
    /// Whether nothing can be written any more. What the server has sent before is still read: it may be the reason.
    write_failed: bool,
    /// Until when nothing is written after an error that passes.
    retry: Option<Pin<Box<Sleep>>>,
    /// Until when nothing is read after an error that passes.
    read_retry: Option<Pin<Box<Sleep>>>,
    /// The server process, if this application started it.
    process: Option<ServerProcess>,
    /// Waits for the end of that process: others that it has forked may hold the channel open.
    process_end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Whether that process has ended.
    is_process_gone: bool,
    /// The application's process. A copy of it that is forked closes the channel for itself alone.
    owner: Owner,
    /// Whether that process has reported that it diverted ahead of `main`.
    has_diverted: bool,
    inbox: Inbox,
    send_queue: SendQueue,
    /// Received descriptors, one entry for each message that passed some.
    descriptors: VecDeque<PassedDescriptors>,
}

impl ServerConnection {
    /// Registers the socket with the current thread's reactor.
    ///
    /// # Errors
    ///
    /// The error of the registration; the socket is closed then.
    pub(crate) fn new(launched: Launched) -> io::Result<Self> {
        let pings = launched.remote.as_ref().map(|remote| Pings::new(remote.dead_after()));
        let pidfd = launched.process.as_ref().and_then(|process| process.pidfd().ok());
        let process_end = pidfd.map(|pidfd| -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(watching::exited(Arc::new(pidfd)))
        });
        Ok(ServerConnection {
            process_end,
            is_process_gone: false,
            owner: Owner::this(),
            pings,
            socket: reactor::register_read_write(launched.socket)?,
            layer: launched.layer,
            remote: launched.remote,
            ticket: None,
            error: None,
            is_broken: false,
            write_failed: false,
            retry: None,
            read_retry: None,
            process: launched.process,
            has_diverted: false,
            inbox: Inbox::default(),
            send_queue: SendQueue::default(),
            descriptors: VecDeque::new(),
        })
    }

    /// Returns the pid of the server process, if this application started it.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::pid)
    }

    /// Records that the process that this application started has become its fork server.
    pub(crate) fn mark_diverted(&mut self) {
        self.has_diverted = true;
    }

    /// Says why the process that this application started is no fork server, if it has never reported to be one, and
    /// whether another process of that program would not be one either.
    pub(crate) fn not_diverted(&mut self) -> Option<(String, bool)> {
        let process = self.process.as_mut().filter(|_| !self.has_diverted)?;
        let why = process.not_diverted();
        Some((why, !process.was_killed()))
    }

    /// Returns how the server process has ended, if this application started it and its end is known.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(ServerProcess::exit_status)
    }

    /// Says that the process that this application started has not reported yet to be a fork server.
    pub(crate) fn not_diverted_yet(&self) -> Option<String> {
        self.process.as_ref().filter(|_| !self.has_diverted).map(ServerProcess::not_diverted_yet)
    }

    /// Sends a message. It writes as much as fits now; [`poll_flush`](Self::poll_flush) writes the rest.
    pub(crate) fn send(&mut self, message: &ToServer, descriptors: Vec<OwnedFd>) {
        self.send_queue.push(message, descriptors);
        // poll_flush sees the same error again and handles it.
        let _ = self.write();
    }

    /// Queues an encoded frame; [`poll_flush`](Self::poll_flush) writes it.
    pub(crate) fn queue_frame(&mut self, bytes: Vec<u8>) {
        self.send_queue.push_frame(bytes);
    }

    fn write(&mut self) -> io::Result<()> {
        let socket = self.socket.as_fd();
        self.send_queue.send(socket, &mut self.layer)?;
        self.layer.flush(socket)
    }

    /// Sets the ticket by which the server recognizes this client.
    pub(crate) fn set_ticket(&mut self, ticket: Option<u128>) {
        self.ticket = ticket;
    }

    /// Returns the address and the ticket for the channels of the server's workers, if it is reached over a network and
    /// has sent its welcome.
    pub(crate) fn remote(&self) -> Option<(Remote, u128)> {
        Some((self.remote.clone()?, self.ticket?))
    }

    /// Returns whether the server is reached over a network, so that the channels of its workers are connections to it.
    pub(crate) fn is_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// Sends a ping, unless the one before is unanswered or the server has not sent its welcome.
    pub(super) fn ping(&mut self) {
        if self.ticket.is_some() && self.pings.as_mut().is_some_and(Pings::begin) {
            self.send(&ToServer::Ping, Vec::new());
        }
    }

    /// Returns whether the server was silent for too long and has been taken for dead.
    pub(super) fn is_silent(&self) -> bool {
        self.pings.as_ref().is_some_and(Pings::has_died)
    }

    /// Takes the reason why the channel ended, unless the server has closed it.
    pub(crate) fn take_error(&mut self) -> Option<String> {
        self.error.take()
    }

    /// Takes the descriptors that came with the current message.
    pub(crate) fn take_descriptors(&mut self) -> PassedDescriptors {
        self.descriptors.pop_front().unwrap_or_default()
    }

    /// Kills the server process, if this application started it.
    pub(crate) fn kill_process(&mut self) {
        self.process.iter_mut().for_each(ServerProcess::kill);
    }

    /// Writes the queued messages, and registers the task if not all of them fit. After an error that passes, such as
    /// `ETOOMANYREFS` or `ENOMEM`, it tries again a little later; any other error is the end of the channel, which the next
    /// read returns.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.retry.as_mut().is_some_and(|retry| retry.as_mut().poll(cx).is_pending()) {
            return Poll::Pending;
        }
        self.retry = None;
        while let Err(error) = self.write() {
            if is_passing(&error) {
                let retry = self.retry.insert(Box::pin(actix_rt::time::sleep(RETRY_AFTER)));
                ready!(retry.as_mut().poll(cx));
                continue;
            }
            if error.kind() != io::ErrorKind::WouldBlock {
                self.send_queue.clear();
                self.error = Some(format!("failed to write to the fork server: {error}"));
                self.write_failed = true;
                return Poll::Ready(());
            }
            match ready!(self.socket.poll_write_ready(cx)) {
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Ready(())
    }

    /// Returns the server's next message, or `None` once the channel has ended or its data is invalid.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<FromServer>> {
        loop {
            let body = match self.inbox.next_frame(BODY_LIMIT) {
                Ok(body) => body,
                Err(error) => return self.end(format!("the fork server sent an invalid frame: {error}")),
            };
            if let Some(body) = body {
                return match frame::header_only(body) {
                    Ok(message) => Poll::Ready(Some(message)),
                    Err(error) => self.end(format!("the fork server sent an invalid message: {error}")),
                };
            }
            if self.is_broken {
                return Poll::Ready(None);
            }
            if self.read_retry.as_mut().is_some_and(|retry| retry.as_mut().poll(cx).is_pending()) {
                return Poll::Pending;
            }
            self.read_retry = None;
            // What was sent before the end is read in any case.
            let is_last = self.write_failed || self.has_process_ended(cx);
            let mut guard = match is_last {
                true => None,
                false => match ready!(self.socket.poll_read_ready(cx)) {
                    Ok(guard) => Some(guard),
                    Err(_) => return Poll::Ready(None),
                },
            };
            let (socket, layer, descriptors) = (&self.socket, &mut self.layer, &mut self.descriptors);
            let filled = self.inbox.fill(|buffer| match layer {
                // Only a plain socket passes descriptors.
                SocketLayer::None => {
                    descriptors::receive_with_descriptors(socket.as_fd(), buffer, descriptors)
                        .map_err(io::Error::from)
                }
                #[cfg(feature = "tls")]
                secured @ SocketLayer::Tls(_) => secured.receive(socket.as_fd(), buffer),
            });
            match filled {
                Ok((0, _)) => return Poll::Ready(None),
                Ok(_) => self.pings.iter_mut().for_each(Pings::note_received),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match &mut guard {
                    Some(guard) => guard.clear_ready(),
                    None => return Poll::Ready(None),
                },
                Err(error) if is_passing(&error) => {
                    self.read_retry = Some(Box::pin(actix_rt::time::sleep(RETRY_AFTER)));
                }
                // The server is gone; how it ended says more.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Poll::Ready(None),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return self.end(error.to_string());
                }
                Err(error) => return self.end(format!("failed to read from the fork server: {error}")),
            }
        }
    }

    /// Returns whether the server process has ended that this application started, or registers the task.
    fn has_process_ended(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(end) = &mut self.process_end else { return self.is_process_gone };
        self.is_process_gone = end.as_mut().poll(cx).is_ready();
        if self.is_process_gone {
            self.process_end = None;
        }
        self.is_process_gone
    }

    /// Ends the channel for this reason.
    fn end(&mut self, why: String) -> Poll<Option<FromServer>> {
        self.error = Some(why);
        self.is_broken = true;
        Poll::Ready(None)
    }

    /// Closes the channel, which makes a server exit that this application started. Returns its process to be waited
    /// for.
    pub(crate) fn close(mut self) -> Option<ServerProcess> {
        self.process.take()
    }
}

/// Closes the channel, also where another process holds this end of it.
impl Drop for ServerConnection {
    fn drop(&mut self) {
        sockets::hang_up(self.socket.as_fd(), self.owner);
    }
}
