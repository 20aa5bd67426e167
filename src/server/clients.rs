//! The connected applications, and peers that have not identified themselves yet.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::adoption::AdoptionKey;
use super::children::ClientId;
use super::compatibility;
use super::control_channel::{ControlChannel, Disconnect};
use super::listener::{AcceptedPeer, Peer};
use super::pending;
use super::pending::Room;
use crate::clock::Instant;
use crate::frozen_time::FrozenTime;
use crate::silence::{Look, Silence};
use crate::sys::arena::ReadOnlyArena;
use crate::sys::{Errno, random, sockets};
use crate::wire::control::{FromServer, Hello, Parking};
use crate::wire::handover::TakeOver;
use crate::worker::Numbering;

/// How long a peer may take to identify itself, or to read why it was refused.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// An application that uses this server.
pub(super) struct Client {
    pub(super) control: ControlChannel,
    pub(super) hello: Hello,
    /// The application's process, whose end is that of the client: another process may hold the connection by then. `None`
    /// for a client on another machine, and where the kernel does not tell.
    pub(super) process: Option<OwnedFd>,
    /// How it counts its messages.
    pub(super) numbering: Numbering,
    /// Whether this server still forks workers for it although another one has taken over, which it does not fit.
    pub(super) stays: bool,
    /// Whether the client can do to the workers whatever it likes, so that they may borrow its memory.
    pub(super) is_trusted: bool,
    /// The memory of the blobs in its calls.
    pub(super) arena: Option<ClientArena>,
    /// Identifies the client on its workers' connections; `None` for a client on the same machine.
    pub(super) ticket: Option<u128>,
    /// The secret of the path at which the client has connected.
    pub(super) key: Option<AdoptionKey>,
    /// Workers that were forked for this client so far.
    pub(super) forked: u64,
    /// How long a remote client has been silent; `None` for one on the same machine, whose end the kernel reports.
    silence: Option<Silence>,
}

impl Client {
    /// Returns when a parked child is to be there for it. None could serve a client with TLS, whose workers' connections
    /// have their state in the server's memory.
    fn parking(&self) -> Parking {
        if self.control.is_plain() { self.hello.parking } else { Parking::Never }
    }

    fn new(control: ControlChannel, hello: Hello, process: Option<OwnedFd>) -> Self {
        let hello = Hello { config: None, ..hello };
        Client {
            control,
            hello,
            process,
            numbering: Numbering::default(),
            stays: false,
            is_trusted: true,
            arena: None,
            ticket: None,
            key: None,
            forked: 0,
            silence: None,
        }
    }
}

/// The memory of the blobs in a client's calls.
pub(super) struct ClientArena {
    pub(super) memory: Arc<ReadOnlyArena>,
    /// A descriptor with which another process can map it to read it; `None` if this server has too many of them.
    pub(super) file: Option<OwnedFd>,
}

/// Opens the process of the application at the other end of a connection on this machine; `None` where the kernel does not
/// tell it.
///
/// # Errors
///
/// [`Disconnect::Closed`] if that process has ended, [`Disconnect::Broken`] if this process has no descriptor left.
pub(super) fn application_at(control: &ControlChannel) -> Result<Option<OwnedFd>, Disconnect> {
    match sockets::peer_process(control.as_fd()) {
        Ok(process) => Ok(Some(process)),
        // In a PID namespace that this process does not see, a process has no number, and is not gone.
        Err(Errno::SRCH)
            if sockets::peer_credentials(control.as_fd()).is_ok_and(|peer| peer.pid.is_some()) =>
        {
            Err(Disconnect::Closed)
        }
        Err(Errno::MFILE | Errno::NFILE) => Err(Disconnect::Broken),
        Err(_) => Ok(None),
    }
}

/// The handshake of a pending peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandshakeState {
    /// The peer has not sent its first message.
    Unidentified,
    /// The peer was refused and is disconnected once the reason is sent.
    Refused,
    /// The peer replaces this server, or waits until another one has failed to.
    TakingOver,
}

/// A peer that is not a client yet.
pub(super) struct PendingPeer {
    pub(super) control: ControlChannel,
    pub(super) peer: Peer,
    pub(super) handshake: HandshakeState,
    /// What it has sent as a server that is to replace this one.
    pub(super) take_over: Option<TakeOver>,
    key: Option<AdoptionKey>,
    connected_at: Instant,
}

impl PendingPeer {
    /// Returns how long the peer may still be pending. Time in which the server was frozen does not count.
    fn remaining(&self, now: Instant, frozen: &FrozenTime) -> Duration {
        let pending = now.saturating_duration_since(self.connected_at);
        HANDSHAKE_TIMEOUT.saturating_sub(pending.saturating_sub(frozen.since(self.connected_at)))
    }

    /// Returns what decides who makes room for another peer.
    fn standing(&self) -> pending::Standing {
        pending::Standing {
            owner: pending::Owner::of(&self.peer),
            connected_at: self.connected_at,
            is_silent: !self.control.has_received(),
            is_successor: self.handshake == HandshakeState::TakingOver,
        }
    }
}

/// All connections, by client id.
#[derive(Default)]
pub(super) struct Clients {
    last_id: ClientId,
    clients: BTreeMap<ClientId, Client>,
    pending_peers: BTreeMap<ClientId, PendingPeer>,
}

impl Clients {
    pub(super) fn count(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn ids(&self) -> Vec<ClientId> {
        self.clients.keys().copied().collect()
    }

    pub(super) fn get(&mut self, id: ClientId) -> Option<&mut Client> {
        self.clients.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: ClientId) -> Option<Client> {
        self.clients.remove(&id)
    }

    /// Adds the only client of a private server.
    pub(super) fn welcome(&mut self, control: ControlChannel, hello: Hello, process: Option<OwnedFd>) {
        self.last_id += 1;
        self.clients.insert(self.last_id, Client::new(control, hello, process));
    }

    /// Returns the clients that do not fit a server that is to replace this one, each with the reason.
    pub(super) fn misfits(&self, successor: &TakeOver) -> impl Iterator<Item = (ClientId, &Client, String)> {
        let all = self.clients.iter();
        all.filter_map(|(id, client)| Some((*id, client, compatibility::misfit(&client.hello, successor)?)))
    }

    /// Returns whether this server still forks workers for one of them after another one has taken over.
    pub(super) fn any_stays(&self) -> bool {
        self.clients.values().any(|client| client.stays)
    }

    /// Queues the same message for all clients.
    pub(super) fn queue_for_all(&mut self, message: &FromServer) {
        self.clients.values_mut().for_each(|client| client.control.queue(message));
    }

    /// Queues the same message for all clients that do not stay with this server.
    pub(super) fn queue_for_leaving(&mut self, message: &FromServer) {
        let leaving = self.clients.values_mut().filter(|client| !client.stays);
        leaving.for_each(|client| client.control.queue(message));
    }

    pub(super) fn pending_ids(&self) -> Vec<ClientId> {
        self.pending_peers.keys().copied().collect()
    }

    pub(super) fn pending_peer(&mut self, id: ClientId) -> Option<&mut PendingPeer> {
        self.pending_peers.get_mut(&id)
    }

    pub(super) fn remove_pending_peer(&mut self, id: ClientId) -> Option<PendingPeer> {
        self.pending_peers.remove(&id)
    }

    /// Returns how long no further peer is to be accepted; `None` if there is room, or a pending peer may be removed.
    pub(super) fn next_room(&self, now: Instant) -> Option<Duration> {
        let standings = self.pending_peers.iter().map(|(id, pending_peer)| (*id, pending_peer.standing()));
        match pending::room(standings, now) {
            Room::Free | Room::InPlaceOf(_) => None,
            Room::In(wait) => Some(wait),
        }
    }

    /// Removes the pending peer in whose place another one is to be added; `None` if there is room.
    pub(super) fn make_room(&mut self, now: Instant) -> Option<PendingPeer> {
        let standings = self.pending_peers.iter().map(|(id, pending_peer)| (*id, pending_peer.standing()));
        match pending::room(standings, now) {
            Room::Free | Room::In(_) => None,
            Room::InPlaceOf(id) => self.pending_peers.remove(&id),
        }
    }

    /// Adds a pending peer.
    pub(super) fn add_pending(&mut self, accepted: AcceptedPeer, now: Instant) -> rustix::io::Result<()> {
        let control = ControlChannel::to_pending_peer(accepted.socket, accepted.socket_layer);
        control.set_nonblocking()?;
        self.last_id += 1;
        let pending_peer = PendingPeer {
            control,
            peer: accepted.peer,
            handshake: HandshakeState::Unidentified,
            take_over: None,
            key: accepted.key,
            connected_at: now,
        };
        self.pending_peers.insert(self.last_id, pending_peer);
        Ok(())
    }

    /// Makes a pending peer a client, with the same id; `process` is its application's. Returns `None` if there is no such
    /// peer or no random ticket can be made. A remote client that is silent for `dead_after` is dead.
    pub(super) fn admit(
        &mut self,
        id: ClientId,
        hello: Hello,
        numbering: Numbering,
        process: Option<OwnedFd>,
        dead_after: Duration,
    ) -> Option<&mut Client> {
        let PendingPeer { mut control, peer, key, .. } = self.pending_peers.remove(&id)?;
        control.mark_known();
        let is_remote = matches!(peer, Peer::Remote(_));
        let is_trusted = peer.owns_workers();
        let ticket = is_remote.then(random::random_u128).transpose().ok()?;
        let silence = is_remote.then(|| Silence::new(dead_after, Instant::now()));
        let client = Client::new(control, hello, process);
        self.clients.insert(id, Client { numbering, is_trusted, ticket, key, silence, ..client });
        self.clients.get_mut(&id)
    }

    /// Returns when a parked child is to be there for any of them.
    pub(super) fn parking(&self) -> Parking {
        self.clients.values().map(Client::parking).max().unwrap_or(Parking::Never)
    }

    /// Closes the descriptors of the arenas, which stay mapped.
    pub(super) fn close_arena_files(&mut self) {
        self.clients
            .values_mut()
            .filter_map(|client| client.arena.as_mut())
            .for_each(|arena| arena.file = None);
    }

    /// Returns when a parked child is to be there for this one.
    pub(super) fn parking_of(&self, id: ClientId) -> Parking {
        self.clients.get(&id).map_or(Parking::Never, Client::parking)
    }

    /// Returns the processes of the applications on this machine; each becomes readable when its process ends.
    pub(super) fn processes(&self) -> impl Iterator<Item = (ClientId, BorrowedFd<'_>)> {
        self.clients.iter().filter_map(|(id, client)| Some((*id, client.process.as_ref()?.as_fd())))
    }

    /// Overwrites the secrets of all clients, in a forked process.
    pub(super) fn forget_in_child(&mut self) {
        for client in self.clients.values_mut().filter(|client| client.ticket.is_some()) {
            client.ticket = Some(0);
        }
    }

    /// Returns whether a client has sent a message that was not handled in this turn.
    pub(super) fn has_messages(&self) -> bool {
        self.clients.values().any(|client| client.control.has_message())
    }

    /// Returns whether much waits to be read by this client.
    pub(super) fn is_slow(&self, id: ClientId) -> bool {
        self.clients.get(&id).is_some_and(|client| client.control.is_slow())
    }

    /// Returns the client with this ticket.
    pub(super) fn with_ticket(&self, ticket: u128) -> Option<ClientId> {
        let holder = self.clients.iter().find(|(_, client)| client.ticket == Some(ticket));
        holder.map(|(id, _)| *id)
    }

    /// Returns the peers that are identified or refused at some time, oldest first. Those that replace this server have a
    /// deadline of their own.
    fn timed_peers(&self) -> impl Iterator<Item = (ClientId, &PendingPeer)> {
        // The ids rise, so the first entry has been pending longest.
        let timed = |peer: &PendingPeer| peer.handshake != HandshakeState::TakingOver;
        self.pending_peers.iter().map(|(id, peer)| (*id, peer)).filter(move |(_, peer)| timed(peer))
    }

    /// Removes and returns the peers that have been pending for too long.
    pub(super) fn remove_overdue(&mut self, now: Instant, frozen: &FrozenTime) -> Vec<PendingPeer> {
        let is_overdue = |pending_peer: &PendingPeer| pending_peer.remaining(now, frozen).is_zero();
        let overdue = self.timed_peers().filter(|(_, pending_peer)| is_overdue(pending_peer));
        let ids: Vec<ClientId> = overdue.map(|(id, _)| id).collect();
        ids.into_iter().filter_map(|id| self.pending_peers.remove(&id)).collect()
    }

    /// Returns how long until the next peer has been pending for too long.
    pub(super) fn next_overdue(&self, now: Instant, frozen: &FrozenTime) -> Option<Duration> {
        let (_, oldest) = self.timed_peers().next()?;
        Some(oldest.remaining(now, frozen))
    }

    fn channels(&self) -> impl Iterator<Item = (ClientId, &ControlChannel)> {
        let clients = self.clients.iter().map(|(id, client)| (*id, &client.control));
        let pending_peers = self.pending_peers.iter().map(|(id, pending_peer)| (*id, &pending_peer.control));
        clients.chain(pending_peers)
    }

    /// Returns every connection that is not paused and has no message left to be handled, and whether it has unsent
    /// bytes.
    pub(super) fn watched(&self, now: Instant) -> impl Iterator<Item = (ClientId, BorrowedFd<'_>, bool)> {
        let channels = self.channels().filter(move |(_, control)| {
            let is_busy = control.is_known() && control.has_message();
            !is_busy && control.remaining_pause(now).is_none()
        });
        channels.map(|(id, control)| (id, control.as_fd(), control.has_unsent()))
    }

    /// Returns how long until the next paused connection is read and written again.
    pub(super) fn next_resumed(&self, now: Instant) -> Option<Duration> {
        self.channels().filter_map(|(_, control)| control.remaining_pause(now)).min()
    }

    /// Reads what a client or a pending peer has sent.
    pub(super) fn read(&mut self, id: ClientId) -> Result<(), Disconnect> {
        if let Some(client) = self.clients.get_mut(&id) {
            if client.control.read()? {
                client.silence.iter_mut().for_each(Silence::end);
            }
            return Ok(());
        }
        let pending_peer = self.pending_peers.get_mut(&id).map(|pending_peer| &mut pending_peer.control);
        pending_peer.map_or(Ok(()), |control| control.read().map(drop))
    }

    /// Returns how long until it is time to look whether a remote client is silent.
    pub(super) fn next_look(&self, now: Instant) -> Option<Duration> {
        let silences = self.clients.values().filter_map(|client| client.silence.as_ref());
        silences.map(|silence| silence.next(now)).min()
    }

    /// Returns the remote clients that have been silent for too long. What has arrived was read before.
    pub(super) fn dead(&mut self, now: Instant) -> Vec<ClientId> {
        let is_dead = |client: &mut Client| {
            // Messages that wait to be handled have arrived.
            let is_busy = client.control.has_message();
            let silence = client.silence.as_mut();
            silence.is_some_and(|silence| silence.look(now) == Look::Dead) && !is_busy
        };
        let dead = self.clients.iter_mut().filter_map(|(id, client)| is_dead(client).then_some(*id));
        dead.collect()
    }
}
