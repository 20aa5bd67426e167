//! What peers of a standalone server send, from any bytes: a target of the fuzzers in `tests/fuzz`.

use std::os::fd::AsFd;

use super::compatibility::ServerVersion;
use super::control_channel::{ControlChannel, FirstMessage};
use crate::channel::SocketLayer;
use crate::sys::{descriptors, sockets};
use crate::wire::control::{Signature, ToServer};

/// Sends these bytes to a server, in pieces of this size: a handshake, and then a conversation without descriptors.
///
/// # Panics
///
/// If there are more messages than the bytes have room for.
pub(crate) fn conversation(bytes: &[u8], piece: usize) {
    // Without descriptors there is nothing to be found out.
    let Ok((peer, ours)) = sockets::socket_pair() else { return };
    let mut control = ControlChannel::to_pending_peer(ours, SocketLayer::None);
    if control.set_nonblocking().is_err() {
        return;
    }
    let signature = Signature { name: "Hash".to_owned(), message: 1, result: 2, error: 3 };
    let own = ServerVersion { fingerprint: 7, interface: vec![signature] };
    let (mut is_client, mut messages) = (false, 0);
    for piece in bytes.chunks(piece.max(1)) {
        if descriptors::send(peer.as_fd(), piece) != Ok(piece.len()) || control.read().is_err() {
            return;
        }
        loop {
            let next = match is_client {
                true => control.next(),
                false => match control.next_first() {
                    Ok(Some(FirstMessage::Message(first))) => Ok(Some(first)),
                    Ok(Some(FirstMessage::OtherVersion(_) | FirstMessage::OtherFormat(_))) | Err(_) => return,
                    Ok(None) => Ok(None),
                },
            };
            let message = match next {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(_) => return,
            };
            messages += 1;
            match message {
                ToServer::Hello(hello) if !is_client => {
                    if own.agree(&hello).is_err() {
                        return;
                    }
                    is_client = true;
                    control.mark_known();
                }
                ToServer::Fork { .. } | ToServer::Adopt { .. } | ToServer::Arena => {
                    assert!(control.take_all_passed().is_err(), "nothing was passed");
                }
                _ => {}
            }
        }
    }
    assert!(messages * 5 <= bytes.len(), "each has a length and a byte");
}
