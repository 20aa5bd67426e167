//! Letting in: whoever comes is a stranger until it has said what it wants.

use std::time::{Duration, Instant};

use super::children::ClientId;
use super::clients::{HandshakeState, PendingPeer};
use super::compatibility;
use super::control_channel::{ControlChannel, Disconnect, FirstWord};
use super::event_loop::ForkServer;
use super::spawn::WorkerSpec;
use crate::sys::descriptors;
use crate::wire::control::{FromServer, Hello, ToServer};

/// How long nobody is let in after somebody could not be.
const PAUSE: Duration = Duration::from_secs(1);

impl ForkServer<'_> {
    /// How long the doors are still not looked at, if they are not.
    pub(super) fn end_pause(&mut self, now: Instant) -> Option<Duration> {
        let left = self.pause?.saturating_duration_since(now);
        self.pause = self.pause.filter(|_| !left.is_zero());
        self.pause.map(|_| left)
    }

    /// Lets in whoever has come.
    pub(super) fn look_outside(&mut self) {
        let now = Instant::now();
        for at in 0..self.listeners.len() {
            let mut away = Vec::new();
            let next = self.listeners.get(at).map(|listener| listener.next(|why| away.push(why)));
            away.into_iter().for_each(|why| self.turn_away(&why));
            match next {
                None | Some(Ok(None)) => {}
                Some(Ok(Some(arrival))) => match self.clients.arrive(arrival, now) {
                    Ok(None) => {}
                    Ok(Some(_)) => self.turn_away("too many have come and not said who they are"),
                    Err(error) => self.turn_away(&std::io::Error::from(error).to_string()),
                },
                Some(Err(error)) => self.cannot_let_in(at, &error),
            }
        }
    }

    /// Out of descriptors, say. Whoever has come is told so, or waits where that cannot be done either.
    fn cannot_let_in(&mut self, listener: usize, error: &std::io::Error) {
        self.turn_away(&error.to_string());
        drop(self.spare.take());
        let next = self.listeners.get(listener).map(|listener| listener.next(|_| ()));
        if let Some(Ok(Some(arrival))) = next {
            let mut control = ControlChannel::to_stranger(arrival.socket, arrival.security);
            control.say(&FromServer::Refused { reason: format!("the server can let nobody in: {error}") });
            // There is room for so little in a new socket.
            let _ = control.stop_waiting().map(|()| control.flush());
        } else {
            self.pause = Instant::now().checked_add(PAUSE);
        }
        self.spare = descriptors::null().ok();
    }

    pub(super) fn turn_away(&mut self, why: &str) {
        self.rejections.turned_away(why, Instant::now());
    }

    pub(super) fn send_silent_away(&mut self, now: Instant) {
        for pending_peer in self.clients.overdue(now) {
            if pending_peer.handshake == HandshakeState::Unknown {
                self.turn_away(&format!("{} has said nothing", pending_peer.peer));
            }
        }
    }

    /// Hears what a stranger wants, once it has said so; in a process that is to be a worker, what makes it one.
    pub(super) fn meet(&mut self, id: ClientId) -> Option<WorkerSpec> {
        match self.hear_out(id) {
            Ok(spec) => spec,
            Err(over) => {
                self.is_no_client(id, &over);
                None
            }
        }
    }

    fn hear_out(&mut self, id: ClientId) -> Result<Option<WorkerSpec>, Disconnect> {
        let Some(pending_peer) = self.clients.pending_peer(id) else { return Ok(None) };
        match pending_peer.handshake {
            HandshakeState::Unknown => match pending_peer.control.first()? {
                // A handshake may have something to say.
                None => pending_peer.control.flush()?,
                Some(FirstWord::Message(ToServer::Hello(hello))) => self.greet(id, hello)?,
                Some(FirstWord::Message(ToServer::TakeOver)) => self.hand_over(id)?,
                Some(FirstWord::Message(ToServer::Attach { ticket, number })) => {
                    return self.attach(id, ticket, number);
                }
                Some(FirstWord::Message(_)) => return Err(Disconnect::Broken),
                Some(FirstWord::Foreign(origin)) => {
                    self.refuse(id, compatibility::versions(origin.protocol, &origin.library))?;
                }
            },
            HandshakeState::Refused => self.see_off(id)?,
            HandshakeState::TakesOver => self.await_successor(id)?,
        }
        Ok(None)
    }

    /// A stranger is gone, or is to go. One that leaves without a word has only looked whether anybody is here.
    pub(super) fn is_no_client(&mut self, id: ClientId, over: &Disconnect) {
        let Some(PendingPeer { peer, handshake, .. }) = self.clients.remove_pending_peer(id) else { return };
        match over {
            Disconnect::Closed => {}
            Disconnect::Broken if handshake == HandshakeState::Unknown => {
                self.turn_away(&format!("{peer} did not say who it is"));
            }
            Disconnect::Broken => {}
            Disconnect::Untrusted(why) => self.turn_away(&format!("{peer} is not to be trusted: {why}")),
        }
    }

    /// A stranger has said who it is.
    fn greet(&mut self, id: ClientId, hello: Hello) -> Result<(), Disconnect> {
        if let Some(reason) = self.own.disagreement(&hello) {
            return self.refuse(id, reason);
        }
        if self.is_draining() {
            return self.refuse(id, "the server takes no more work".to_owned());
        }
        let (clients, most) = (self.clients.count(), self.options.max_clients);
        if clients >= most {
            return self.refuse(id, format!("the server is full: it has {clients} clients, its max_clients"));
        }
        let arena = self.clients.pending_peer(id).map(|pending_peer| pending_peer.control.take_arena(&hello));
        let arena = match arena.transpose() {
            Ok(arena) => arena.flatten(),
            Err(reason) => return self.refuse(id, reason),
        };
        tracing::info!(target: "forkpool::server", client = id, pool = hello.pool, "a client has come");
        if let Some(client) = self.clients.adopt(id, hello, arena) {
            client.control.say(&FromServer::Welcome { ticket: client.ticket });
        }
        Ok(())
    }

    /// Tells a stranger why it is not let in.
    pub(super) fn refuse(&mut self, id: ClientId, reason: String) -> Result<(), Disconnect> {
        self.turn_away(&reason);
        if let Some(pending_peer) = self.clients.pending_peer(id) {
            pending_peer.control.say(&FromServer::Refused { reason });
            pending_peer.handshake = HandshakeState::Refused;
        }
        self.see_off(id)
    }

    /// Lets a stranger go that was told why, once it can read that.
    fn see_off(&mut self, id: ClientId) -> Result<(), Disconnect> {
        if let Some(pending_peer) = self.clients.pending_peer(id) {
            let gone = pending_peer.control.flush().is_err() || !pending_peer.control.has_unsent();
            if gone {
                self.clients.remove_pending_peer(id);
            }
        }
        Ok(())
    }
}
