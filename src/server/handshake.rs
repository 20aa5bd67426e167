//! Accepting connections, and the handshake: a peer is pending until its first message says what it wants.

use std::os::fd::AsFd;
use std::time::Duration;

use super::children::ClientId;
use super::clients;
use super::clients::{HandshakeState, PendingPeer};
use super::compatibility;
use super::control_channel::{ControlChannel, Disconnect, FirstMessage};
use super::event_loop::ForkServer;
use super::listener::{AcceptedPeer, Incoming, Listener, Peer};
use super::orders::WorkerSpec;
use crate::clock::Instant;
use crate::sys::descriptors;
use crate::sys::passing::is_passing;
use crate::telling::log_event;
use crate::wire::control::{FromServer, Hello, ToServer};
use crate::wire::frame;
use crate::wire::handover;

/// Most connections of one listener that are accepted in one turn of the loop.
const MAX_ACCEPTED: usize = 16;

/// Longest reason of a refusal, in bytes: it may have texts of the peer.
const MAX_REASON: usize = 4 << 10;

/// How long no connection is accepted after one could not be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl ForkServer<'_> {
    /// Returns how long no connections are to be accepted; ends the pause once it is over.
    pub(super) fn remaining_pause(&mut self, now: Instant) -> Option<Duration> {
        let left = self.pause?.saturating_duration_since(now);
        self.pause = self.pause.filter(|_| !left.is_zero());
        self.pause.map(|_| left)
    }

    /// Accepts waiting connections of a listener, as many as one turn of the loop has time for, and rejects peers that
    /// are not admitted.
    pub(super) fn accept_peers(&mut self, at: usize) {
        let now = Instant::now();
        for attempt in 0..MAX_ACCEPTED {
            if self.clients.next_room(now).is_some() {
                return;
            }
            match self.listeners.get(at).map(Listener::next) {
                None | Some(Ok(Incoming::Nothing)) => return,
                Some(Ok(Incoming::Failed)) => {}
                Some(Ok(Incoming::Rejected(reason))) => self.reject(&reason),
                Some(Ok(Incoming::Admitted(accepted))) => self.add_pending(accepted, now),
                Some(Err(error)) if attempt == 0 => return self.handle_accept_error(at, &error),
                // Without a free descriptor the system does not tell whether a further peer waits. The next turn does.
                Some(Err(_)) => return,
            }
        }
    }

    fn add_pending(&mut self, accepted: AcceptedPeer, now: Instant) {
        if let Some(removed) = self.clients.make_room(now) {
            let peer = &removed.peer;
            self.reject(&format!("too many have come without identifying themselves, {peer} among them"));
        }
        if let Err(error) = self.clients.add_pending(accepted, now) {
            self.reject(&std::io::Error::from(error).to_string());
        }
    }

    /// Handles a failed `accept`. For lack of memory the peer stays in the backlog, and accepting pauses. For lack of
    /// descriptors the peer is accepted with the spare descriptor, to send it the reason; if that fails as well,
    /// accepting pauses.
    fn handle_accept_error(&mut self, listener: usize, error: &std::io::Error) {
        self.reject(&format!("accept: {error}"));
        if is_passing(error) {
            self.pause = Instant::now().checked_add(ACCEPT_PAUSE);
            return;
        }
        self.free_descriptors();
        drop(self.spare.take());
        let next = self.listeners.get(listener).map(Listener::next);
        match next {
            Some(Ok(Incoming::Admitted(accepted))) => {
                let mut control = ControlChannel::to_pending_peer(accepted.socket, accepted.socket_layer);
                let reason = format!("the server cannot accept a connection: {error}");
                control.queue(&FromServer::Refused { reason });
                // The buffer of a new socket always has space for so few bytes.
                let _ = control.set_nonblocking().map(|()| control.flush());
            }
            Some(Ok(Incoming::Nothing | Incoming::Rejected(_) | Incoming::Failed)) => {}
            None | Some(Err(_)) => self.pause = Instant::now().checked_add(ACCEPT_PAUSE),
        }
        self.spare = descriptors::open_null().ok();
    }

    pub(super) fn reject(&mut self, reason: &str) {
        self.rejections.record(reason, Instant::now());
    }

    pub(super) fn drop_overdue_peers(&mut self, now: Instant) {
        self.refuse_overdue_successor(now);
        for pending_peer in self.clients.remove_overdue(now, &self.frozen) {
            if pending_peer.handshake == HandshakeState::Unidentified {
                self.reject(&format!("{} has not identified itself in time", pending_peer.peer));
            }
        }
    }

    /// Handles the messages of a pending peer. Returns the worker's parts in a process that was forked for it.
    pub(super) fn handle_pending_peer(&mut self, id: ClientId) -> Option<WorkerSpec> {
        match self.advance_handshake(id) {
            Ok(spec) => spec,
            Err(disconnect) => {
                self.drop_pending_peer(id, &disconnect);
                None
            }
        }
    }

    fn advance_handshake(&mut self, id: ClientId) -> Result<Option<WorkerSpec>, Disconnect> {
        let Some(pending_peer) = self.clients.pending_peer(id) else { return Ok(None) };
        match pending_peer.handshake {
            HandshakeState::Unidentified => match pending_peer.control.next_first()? {
                // A TLS handshake may have bytes to send.
                None => pending_peer.control.flush()?,
                Some(FirstMessage::Message(ToServer::Hello(hello))) => self.accept_client(id, hello)?,
                Some(FirstMessage::Message(ToServer::TakeOver(request))) => {
                    self.handle_take_over(id, request)?;
                }
                Some(FirstMessage::Message(ToServer::Attach { ticket, number })) => {
                    return self.attach(id, ticket, number);
                }
                Some(FirstMessage::Message(_)) => return Err(Disconnect::Broken),
                Some(FirstMessage::OtherVersion(prefix)) => {
                    self.refuse(id, compatibility::protocol_mismatch(prefix.protocol, &prefix.library))?;
                }
                Some(FirstMessage::OtherFormat(prefix)) => {
                    let (own, theirs) = (handover::FORMAT, prefix.format);
                    self.refuse(
                        id,
                        format!("it hands over in format {own} of the messages, not in {theirs}"),
                    )?;
                }
            },
            HandshakeState::Refused => self.flush_refusal(id)?,
            HandshakeState::TakingOver => self.advance_succession(id)?,
        }
        Ok(None)
    }

    /// Disconnects a pending peer and logs the reason. A peer that closes the connection without a message is not
    /// logged: it has only probed whether a server listens.
    pub(super) fn drop_pending_peer(&mut self, id: ClientId, disconnect: &Disconnect) {
        let Some(PendingPeer { peer, handshake, .. }) = self.clients.remove_pending_peer(id) else { return };
        self.forget_successor(id);
        match disconnect {
            Disconnect::Closed => {}
            Disconnect::Broken if handshake == HandshakeState::Unidentified => {
                self.reject(&format!("{peer} did not identify itself"));
            }
            Disconnect::Broken => {}
            Disconnect::Untrusted(what) => self.reject(&format!("{peer} {what}")),
        }
    }

    /// Makes a client of a peer that has sent its hello, or refuses it.
    fn accept_client(&mut self, id: ClientId, hello: Hello) -> Result<(), Disconnect> {
        let numbering = match self.own.agree(&hello) {
            Ok(numbering) => numbering,
            Err(reason) => return self.refuse(id, reason),
        };
        if self.is_draining() && !self.succession.is_over() {
            return self.refuse(id, "the server takes no more work".to_owned());
        }
        let (clients, max) = (self.clients.count(), self.options.max_clients);
        if clients >= max {
            return self.refuse(id, format!("the server is full: it has {clients} clients, its max_clients"));
        }
        let Some(PendingPeer { control, peer, .. }) = self.clients.pending_peer(id) else { return Ok(()) };
        let process = match peer {
            Peer::Local(_) => clients::application_at(control),
            Peer::Remote(_) => Ok(None),
        };
        // A client passes its arena next. It is told now if there is no descriptor for that.
        let has_space = descriptors::duplicate(control.as_fd()).is_ok();
        let process = match process {
            Err(Disconnect::Closed) => return Err(Disconnect::Closed),
            Ok(process) if has_space => process,
            Ok(_) | Err(_) => {
                return self.refuse(id, "the server has reached its limit of descriptors".to_owned());
            }
        };
        log_event!(info, client = id, pool = hello.pool, "a client has connected");
        let dead_after = self.options.client_dead_after;
        if let Some(client) = self.clients.admit(id, hello, numbering, process, dead_after) {
            client.control.queue(&FromServer::Welcome { ticket: client.ticket });
            if self.succession.is_over() {
                self.redirect_to_successor(id);
            }
        }
        Ok(())
    }

    /// Refuses a pending peer and sends it the reason.
    pub(super) fn refuse(&mut self, id: ClientId, reason: String) -> Result<(), Disconnect> {
        let reason = frame::cut(reason, MAX_REASON);
        self.reject(&reason);
        if let Some(pending_peer) = self.clients.pending_peer(id) {
            pending_peer.control.queue(&FromServer::Refused { reason });
            pending_peer.handshake = HandshakeState::Refused;
        }
        self.forget_successor(id);
        self.flush_refusal(id)
    }

    /// Disconnects a refused peer once the reason is sent.
    pub(super) fn flush_refusal(&mut self, id: ClientId) -> Result<(), Disconnect> {
        if let Some(pending_peer) = self.clients.pending_peer(id) {
            let gone = pending_peer.control.flush().is_err() || !pending_peer.control.has_unsent();
            if gone {
                self.clients.remove_pending_peer(id);
            }
        }
        Ok(())
    }
}
