//! Messages between a server and the one that replaces it.
//!
//! The successor connects like a client and sends [`TakeOver`] as its first message. These messages have a format of
//! their own, because two releases of the library hand over to each other whose other messages differ.

use serde::{Deserialize, Serialize};

use super::control::Signature;

/// The version of the messages in this module; raised with every change of one of them.
pub(crate) const FORMAT: u16 = 1;

/// The first message of a server that is to replace another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TakeOver {
    /// The first field is the same in all versions.
    pub(crate) format: u16,
    pub(crate) protocol: u16,
    pub(crate) library: String,
    pub(crate) interface: Vec<Signature>,
    /// Whether it waits while another server replaces this one.
    pub(crate) waits: bool,
    /// Whether the old server is to stay for clients that the new one does not fit.
    pub(crate) stays: bool,
}

/// The beginning of a [`TakeOver`] of any version.
#[derive(Deserialize)]
pub(crate) struct TakeOverPrefix {
    /// The index of `TakeOver` among the messages to a server.
    variant: u32,
    pub(crate) format: u16,
}

impl TakeOverPrefix {
    /// Reads the prefix of a first message that this version cannot decode; `None` if it is no take-over.
    pub(crate) fn of(body: &[u8]) -> Option<Self> {
        let (prefix, _) = postcard::take_from_bytes::<TakeOverPrefix>(body).ok()?;
        Some(prefix).filter(|prefix| prefix.variant == 5)
    }
}

/// Later messages of the successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToPredecessor {
    /// Nothing can fail any more; it serves as soon as it has read [`ToSuccessor::Yours`].
    Ready,
    /// It serves.
    Serving,
}

/// Messages to the successor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToSuccessor {
    /// A listening socket is passed along, and the lock of its path if it has one.
    Socket { address: String },
    /// As in [`FromServer`](super::control::FromServer): the take-over does not come about.
    Refused { reason: String },
    /// These were all sockets. The old server's pidfd is passed along.
    Offered,
    /// The old server accepts no more connections.
    Yours,
    /// Another server, this one, is replacing the old one; the peer has its turn after that.
    Wait { behind: String },
    /// Another server has replaced the old one. The peer is to connect to that.
    Replaced,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::control::{FromServer, ToServer};
    use crate::wire::frame;

    fn body(message: &impl Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, message);
        bytes.split_off(frame::LENGTH)
    }

    /// S4: a later release that changes them has to raise the format.
    #[test]
    fn the_messages_of_this_format_have_these_bytes() {
        let take_over = TakeOver {
            format: 1,
            protocol: 9,
            library: "1".to_owned(),
            interface: Vec::new(),
            waits: true,
            stays: false,
        };
        assert_eq!(body(&ToServer::TakeOver(take_over)), [5, 1, 9, 1, b'1', 0, 1, 0]);
        assert_eq!(body(&ToPredecessor::Ready), [0]);
        assert_eq!(body(&ToPredecessor::Serving), [1]);
        let text = |text: &str| text.to_owned();
        assert_eq!(body(&ToSuccessor::Socket { address: text("a") }), [0, 1, b'a']);
        assert_eq!(body(&ToSuccessor::Refused { reason: text("a") }), [1, 1, b'a']);
        assert_eq!(body(&FromServer::Refused { reason: text("a") }), [1, 1, b'a']);
        assert_eq!(body(&ToSuccessor::Offered), [2]);
        assert_eq!(body(&ToSuccessor::Yours), [3]);
        assert_eq!(body(&ToSuccessor::Wait { behind: text("a") }), [4, 1, b'a']);
        assert_eq!(body(&ToSuccessor::Replaced), [5]);
        let later = TakeOverPrefix::of(&[5, 2, 0xff, 0xff]);
        assert_eq!(later.map(|prefix| prefix.format), Some(2));
        assert!(TakeOverPrefix::of(&[0, 2, 0xff]).is_none());
    }
}
