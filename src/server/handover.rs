//! Another server replaces this one, as a transaction of both.
//!
//! 1. The successor sends `TakeOver`. This server passes it the listening sockets and the locks of their paths, and
//!    continues to serve.
//! 2. The successor sends `Ready` once nothing can fail any more. This server stops accepting connections, which wait in
//!    the sockets' backlog from now on, and sends `Yours`.
//! 3. The successor begins to serve and sends `Serving`. This server gives up the sockets and drains.
//!
//! A successor that ends before that leaves this server serving: it accepts connections again. A successor that finds
//! this process ended owns everything that it needs to serve.

use std::io;
use std::os::fd::OwnedFd;

use super::children::ClientId;
use super::clients::HandshakeState;
use super::compatibility;
use super::control_channel::Disconnect;
use super::event_loop::ForkServer;
use super::listener::{Listener, Peer};
use super::predecessor::is_own_or_root;
use super::succession::{Answer, Lost, OFFER_TIMEOUT};
use crate::clock::Instant;
use crate::sys::process;
use crate::telling::log_event;
use crate::wire::control::FromServer;
use crate::wire::handover::{TakeOver, ToPredecessor, ToSuccessor};

impl ForkServer<'_> {
    /// Answers a pending peer that asks to replace this server. The peer must run as the same user or as root.
    pub(super) fn handle_take_over(&mut self, id: ClientId, request: TakeOver) -> Result<(), Disconnect> {
        let stops = self.is_draining() && !self.succession.is_over();
        let Some(pending_peer) = self.clients.pending_peer(id) else { return Ok(()) };
        let is_own = matches!(&pending_peer.peer, Peer::Local(peer) if peer.user.is_some_and(is_own_or_root));
        if !is_own {
            let peer = pending_peer.peer.clone();
            return self
                .refuse(id, format!("only a process of its own user or of root may replace it, not {peer}"));
        }
        if stops {
            return self.refuse(id, "it is already stopping".to_owned());
        }
        let waits = request.waits;
        pending_peer.handshake = HandshakeState::TakingOver;
        pending_peer.take_over = Some(request);
        match self.succession.request(id, waits, Instant::now()) {
            Answer::Offer => self.offer(id),
            Answer::Wait { behind } => {
                let behind = self.name_of_pending(behind);
                self.send_to_successor(id, &ToSuccessor::Wait { behind }, Vec::new())
            }
            Answer::Refuse { behind } => {
                let reason = format!("{} is replacing it already", self.name_of_pending(behind));
                self.refuse(id, reason)
            }
            Answer::Replaced => self.send_away(id),
        }
    }

    fn name_of_pending(&mut self, id: ClientId) -> String {
        self.clients.pending_peer(id).map_or_else(String::new, |peer| peer.peer.to_string())
    }

    fn send_to_successor(
        &mut self,
        id: ClientId,
        message: &ToSuccessor,
        passed: Vec<OwnedFd>,
    ) -> Result<(), Disconnect> {
        let Some(pending_peer) = self.clients.pending_peer(id) else { return Ok(()) };
        pending_peer.control.queue_for_successor(message, passed);
        pending_peer.control.flush()
    }

    /// Sends a server that wants to replace this one to the one that has replaced it.
    fn send_away(&mut self, id: ClientId) -> Result<(), Disconnect> {
        if let Some(pending_peer) = self.clients.pending_peer(id) {
            pending_peer.control.queue_for_successor(&ToSuccessor::Replaced, Vec::new());
            pending_peer.handshake = HandshakeState::Refused;
        }
        self.flush_refusal(id)
    }

    /// Passes the listeners to the successor whose turn it is. They stay this server's as well.
    fn offer(&mut self, id: ClientId) -> Result<(), Disconnect> {
        if let Some(reason) = self.stranded_client(id) {
            return self.refuse(id, reason);
        }
        let passed: io::Result<Vec<_>> = self
            .listeners
            .iter()
            .map(|listener| Ok((listener.address.clone(), listener.duplicate_descriptors()?)))
            .collect();
        let own_process = process::open_pidfd(process::own_pid());
        let (Ok(passed), Ok(own_process)) = (passed, own_process) else {
            return self.refuse(id, "it has reached its limit of descriptors".to_owned());
        };
        let Some(pending_peer) = self.clients.pending_peer(id) else { return Ok(()) };
        for (address, descriptors) in passed {
            pending_peer.control.queue_for_successor(&ToSuccessor::Socket { address }, descriptors);
        }
        self.send_to_successor(id, &ToSuccessor::Offered, vec![own_process])
    }

    /// Returns why a take-over would leave a client without a server, or against the wish of the successor's options;
    /// `None` if it may go on.
    fn stranded_client(&mut self, id: ClientId) -> Option<String> {
        let request = self.clients.pending_peer(id)?.take_over.clone()?;
        let (_, client, misfit) = self.clients.misfits(&request).find(|(_, client, _)| {
            // The connections of its new workers would reach the successor.
            !request.stays || client.ticket.is_some()
        })?;
        let pool = &client.hello.pool;
        Some(match request.stays {
            true => format!("the pool {pool:?} at its port would not fit, and cannot stay there: {misfit}"),
            false => format!("the pool {pool:?} would not fit: {misfit}"),
        })
    }

    /// Handles the messages of a server that replaces this one, or waits to.
    pub(super) fn advance_succession(&mut self, id: ClientId) -> Result<(), Disconnect> {
        let Some(pending_peer) = self.clients.pending_peer(id) else { return Ok(()) };
        match pending_peer.control.next_of_successor()? {
            None => pending_peer.control.flush(),
            Some(ToPredecessor::Ready) => match self.succession.commit(id) {
                true => self.send_to_successor(id, &ToSuccessor::Yours, Vec::new()),
                false => Err(Disconnect::Broken),
            },
            Some(ToPredecessor::Serving) => {
                let waiting = self.succession.finish(id).ok_or(Disconnect::Broken)?;
                let successor = self.clients.remove_pending_peer(id);
                // Their sockets and locks belong to the successor now, so their paths are not removed.
                self.listeners.clear();
                for waiting in waiting {
                    // It connects to the successor in any case.
                    let _ = self.send_away(waiting);
                }
                if let Some(successor) = successor {
                    log_event!(info, by = %successor.peer, "another server has taken over");
                    self.succeeded_by(successor.take_over);
                }
                Ok(())
            }
        }
    }

    /// Drains; clients that the successor does not fit stay.
    fn succeeded_by(&mut self, successor: Option<TakeOver>) {
        let misfits = successor.iter().flat_map(|successor| self.clients.misfits(successor));
        let misfits: Vec<(ClientId, String)> = misfits.map(|(id, _, misfit)| (id, misfit)).collect();
        for (id, misfit) in misfits {
            let Some(client) = self.clients.get(id) else { continue };
            client.stays = true;
            log_event!(
                warn,
                client = id,
                pool = client.hello.pool,
                misfit,
                "a client stays with the old server"
            );
        }
        self.successor = successor;
        self.drain(true);
    }

    /// Admits a peer whose hello arrives after another server has taken over. It learns at once that the successor is
    /// there, unless that does not fit.
    pub(super) fn redirect_to_successor(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(id) else { return };
        let misfit =
            self.successor.as_ref().and_then(|successor| compatibility::misfit(&client.hello, successor));
        client.stays = misfit.is_some();
        if misfit.is_none() {
            client.control.queue(&FromServer::Draining { succeeded: true });
        }
    }

    /// Refuses a successor that was not ready in time.
    pub(super) fn refuse_overdue_successor(&mut self, now: Instant) {
        if let Some(id) = self.succession.overdue(now, &self.frozen) {
            let refused = self.refuse(id, format!("it was not ready within {OFFER_TIMEOUT:?}"));
            if let Err(disconnect) = refused {
                self.drop_pending_peer(id, &disconnect);
            }
        }
    }

    /// Notes that a pending peer is gone or refused. If it was the successor, this server serves on, and the next one
    /// has its turn.
    pub(super) fn forget_successor(&mut self, id: ClientId) {
        let lost = self.succession.remove(id);
        if lost == Lost::Other {
            return;
        }
        if lost == Lost::Committed {
            log_event!(warn, "the server that was to take over has ended before it served");
            self.listeners.iter().for_each(Listener::reclaim);
        }
        while !self.is_draining()
            && let Some(next) = self.succession.next(Instant::now())
        {
            let Err(disconnect) = self.offer(next) else { return };
            self.drop_pending_peer(next, &disconnect);
        }
    }
}
