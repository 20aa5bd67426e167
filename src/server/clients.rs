//! The applications that a server works for, and whoever has come and not said yet who it is.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::children::ClientId;
use super::control_channel::{ControlChannel, Disconnect};
use super::listener::{Arrival, Peer};
use crate::sys::arena::ReadOnlyArena;
use crate::sys::random;
use crate::wire::control::{FromServer, Hello};

/// Most strangers at a time; beyond that the one who has been silent for longest goes.
const MOST_STRANGERS: usize = 256;

/// How long a stranger may take to say who it is, and to take in what it is told.
const PATIENCE: Duration = Duration::from_secs(5);

/// An application that a server works for.
pub(super) struct Client {
    pub(super) control: ControlChannel,
    pub(super) hello: Hello,
    /// Where the blobs of its calls are.
    pub(super) arena: Option<Arc<ReadOnlyArena>>,
    /// What the channels of its workers name it by, where they come over a network.
    pub(super) ticket: Option<u128>,
}

/// What a stranger is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandshakeState {
    /// It has not said yet.
    Unknown,
    /// It was refused, and goes once it knows.
    Refused,
    /// It takes this server's place once it has what it needs.
    TakesOver,
}

/// Somebody who is no client.
pub(super) struct PendingPeer {
    pub(super) control: ControlChannel,
    pub(super) peer: Peer,
    pub(super) handshake: HandshakeState,
    came: Instant,
}

/// Everybody who is connected, by number.
#[derive(Default)]
pub(super) struct Clients {
    last: ClientId,
    known: BTreeMap<ClientId, Client>,
    pending_peers: BTreeMap<ClientId, PendingPeer>,
}

impl Clients {
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    pub(super) fn ids(&self) -> Vec<ClientId> {
        self.known.keys().copied().collect()
    }

    pub(super) fn get(&mut self, id: ClientId) -> Option<&mut Client> {
        self.known.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: ClientId) -> Option<Client> {
        self.known.remove(&id)
    }

    /// The only application of a private server.
    pub(super) fn welcome(
        &mut self,
        control: ControlChannel,
        hello: Hello,
        arena: Option<Arc<ReadOnlyArena>>,
    ) {
        self.last += 1;
        self.known.insert(self.last, Client { control, hello, arena, ticket: None });
    }

    /// Says the same to all.
    pub(super) fn say_to_all(&mut self, message: &FromServer) {
        self.known.values_mut().for_each(|client| client.control.say(message));
    }

    pub(super) fn stranger_ids(&self) -> Vec<ClientId> {
        self.pending_peers.keys().copied().collect()
    }

    pub(super) fn pending_peer(&mut self, id: ClientId) -> Option<&mut PendingPeer> {
        self.pending_peers.get_mut(&id)
    }

    pub(super) fn remove_pending_peer(&mut self, id: ClientId) -> Option<PendingPeer> {
        self.pending_peers.remove(&id)
    }

    /// Somebody has come. Who had to go for that, if somebody had.
    pub(super) fn arrive(
        &mut self,
        arrival: Arrival,
        now: Instant,
    ) -> rustix::io::Result<Option<PendingPeer>> {
        let control = ControlChannel::to_stranger(arrival.socket, arrival.security);
        control.stop_waiting()?;
        self.last += 1;
        let pending_peer =
            PendingPeer { control, peer: arrival.peer, handshake: HandshakeState::Unknown, came: now };
        self.pending_peers.insert(self.last, pending_peer);
        // The first in the map has been here for longest.
        let is_one_too_many = self.pending_peers.len() > MOST_STRANGERS;
        Ok(is_one_too_many
            .then(|| self.pending_peers.pop_first().map(|(_, pending_peer)| pending_peer))
            .flatten())
    }

    /// A stranger has become a client, under the same number.
    pub(super) fn adopt(
        &mut self,
        id: ClientId,
        hello: Hello,
        arena: Option<Arc<ReadOnlyArena>>,
    ) -> Option<&mut Client> {
        let PendingPeer { mut control, peer, .. } = self.pending_peers.remove(&id)?;
        control.is_known();
        let is_remote = matches!(peer, Peer::Remote(_));
        let ticket = is_remote.then(random::unforeseeable).transpose().ok()?;
        self.known.insert(id, Client { control, hello, arena, ticket });
        self.known.get_mut(&id)
    }

    /// Whether a client has much to read already.
    pub(super) fn is_slow(&self, id: ClientId) -> bool {
        self.known.get(&id).is_some_and(|client| client.control.is_slow())
    }

    /// Who has this ticket.
    pub(super) fn holder_of(&self, ticket: u128) -> Option<ClientId> {
        let holder = self.known.iter().find(|(_, client)| client.ticket == Some(ticket));
        holder.map(|(id, _)| *id)
    }

    /// Those who have been strangers for too long.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<PendingPeer> {
        let overdue =
            |pending_peer: &PendingPeer| now.saturating_duration_since(pending_peer.came) >= PATIENCE;
        let ids: Vec<ClientId> = self
            .pending_peers
            .iter()
            .filter(|(_, pending_peer)| overdue(pending_peer))
            .map(|(id, _)| *id)
            .collect();
        ids.into_iter().filter_map(|id| self.pending_peers.remove(&id)).collect()
    }

    /// How long until the next stranger has been one for too long.
    pub(super) fn next_overdue(&self, now: Instant) -> Option<Duration> {
        let oldest = self.pending_peers.values().next()?;
        Some(PATIENCE.saturating_sub(now.saturating_duration_since(oldest.came)))
    }

    /// Everybody's socket, and whether there is something to be written to it.
    pub(super) fn watched(&self) -> impl Iterator<Item = (ClientId, BorrowedFd<'_>, bool)> {
        let known = self.known.iter().map(|(id, client)| (*id, &client.control));
        let pending_peers = self.pending_peers.iter().map(|(id, pending_peer)| (*id, &pending_peer.control));
        known.chain(pending_peers).map(|(id, control)| (id, control.as_fd(), control.has_unsent()))
    }

    /// Takes in what somebody has sent.
    pub(super) fn read(&mut self, id: ClientId) -> Result<(), Disconnect> {
        let known = self.known.get_mut(&id).map(|client| &mut client.control);
        let pending_peer = self.pending_peers.get_mut(&id).map(|pending_peer| &mut pending_peer.control);
        known.or(pending_peer).map_or(Ok(()), |control| control.read().map(drop))
    }
}
