//! Which pending peer makes room for another one. The clock is an argument.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::children::ClientId;
use super::listener::Peer;
use crate::clock::Instant;

/// Most pending peers at a time (256). Beyond that, one of those who have most of them makes room.
const MAX_PENDING_PEERS: usize = 256;

/// How long a peer that has sent something is never removed in favour of another (500 ms): longer than a handshake over a
/// network takes.
const GRACE: Duration = Duration::from_millis(500);

/// The same for a peer that has sent nothing (100 ms).
const SILENT_GRACE: Duration = Duration::from_millis(100);

/// To whom peers belong: more connections give no user and no host more room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// A user, or all users of other user namespaces.
    User(Option<u32>),
    Host(IpAddr),
}

impl Owner {
    pub(super) fn of(peer: &Peer) -> Self {
        match peer {
            Peer::Local(credentials) => Owner::User(credentials.user),
            Peer::Remote(address) => Owner::Host(address.ip()),
        }
    }
}

/// What decides whether a pending peer makes room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) owner: Owner,
    pub(super) connected_at: Instant,
    /// Whether it has sent nothing.
    pub(super) is_silent: bool,
    /// Whether it is another server, which has the listening sockets already. It stays.
    pub(super) is_successor: bool,
}

impl Standing {
    /// Returns for how long it may not be removed yet.
    fn remaining_grace(&self, now: Instant) -> Duration {
        let grace = if self.is_silent { SILENT_GRACE } else { GRACE };
        grace.saturating_sub(now.saturating_duration_since(self.connected_at))
    }
}

/// Whether there is room for one more peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// If this peer is removed.
    InPlaceOf(ClientId),
    /// Not before this time has passed, or a handshake is done. Until then peers wait in the backlog.
    In(Duration),
}

/// Decides on room for one more peer. The peers are in the order in which they have connected.
pub(super) fn room(peers: impl Iterator<Item = (ClientId, Standing)>, now: Instant) -> Room {
    let peers: Vec<(ClientId, Standing)> = peers.collect();
    if peers.len() < MAX_PENDING_PEERS {
        return Room::Free;
    }
    let mut counts: BTreeMap<Owner, usize> = BTreeMap::new();
    peers.iter().for_each(|(_, peer)| *counts.entry(peer.owner).or_default() += 1);
    let largest = counts.into_iter().max_by_key(|&(_, count)| count).map(|(owner, _)| owner);
    let removable = peers.iter().filter(|(_, peer)| Some(peer.owner) == largest && !peer.is_successor);
    let waits = removable.map(|(id, peer)| (peer.remaining_grace(now), !peer.is_silent, *id));
    // Of those whose time is up the silent ones go first, and of these the oldest.
    match waits.min() {
        Some((Duration::ZERO, _, id)) => Room::InPlaceOf(id),
        Some((wait, ..)) => Room::In(wait),
        // All of them are successors, which a server has one or two of.
        None => Room::In(GRACE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn peers(count: u64, user: u32, connected_at: Instant, is_silent: bool) -> Vec<Standing> {
        let owner = Owner::User(Some(user));
        (0..count).map(|_| Standing { owner, connected_at, is_silent, is_successor: false }).collect()
    }

    fn room_among(peers: &[Standing], now: Instant) -> Room {
        room((1..).zip(peers.iter().copied()), now)
    }

    /// S9
    #[test]
    fn there_is_room_until_there_are_too_many_and_then_no_handshake_is_broken_off() {
        let start = Instant::now();
        assert_eq!(room_among(&peers(255, 7, start, true), start), Room::Free);
        let silent = peers(256, 7, start, true);
        assert_eq!(room_among(&silent, start), Room::In(100 * MILLI));
        assert_eq!(room_among(&silent, start + 99 * MILLI), Room::In(MILLI));
        assert_eq!(room_among(&silent, start + 100 * MILLI), Room::InPlaceOf(1));
        let speaking = peers(256, 7, start, false);
        assert_eq!(room_among(&speaking, start + 100 * MILLI), Room::In(400 * MILLI));
        assert_eq!(room_among(&speaking, start + 500 * MILLI), Room::InPlaceOf(1));
    }

    /// S9
    #[test]
    fn one_of_those_who_have_most_makes_room_and_a_silent_one_first() {
        let start = Instant::now();
        let now = start + 600 * MILLI;
        let (others, theirs) = (peers(100, 1, start, true), peers(155, 2, start + MILLI, false));
        let all = [others.clone(), theirs.clone(), peers(1, 2, start + 2 * MILLI, true)].concat();
        assert_eq!(room_among(&all, now), Room::InPlaceOf(256), "the silent one of the larger part");
        let all = [others, theirs, peers(1, 2, now, true)].concat();
        assert_eq!(room_among(&all, now), Room::InPlaceOf(101), "the oldest, because the silent one is new");
        let mut all = peers(256, 1, start, true);
        all[0].is_successor = true;
        assert_eq!(room_among(&all, now), Room::InPlaceOf(2), "another server stays");
        let host = |last| Owner::Host(IpAddr::from([192, 0, 2, last]));
        let mut all = peers(256, 1, start, true);
        all[..100].iter_mut().for_each(|peer| peer.owner = host(1));
        all[100..].iter_mut().for_each(|peer| peer.owner = host(2));
        assert_eq!(room_among(&all, now), Room::InPlaceOf(101), "hosts as users");
    }
}
