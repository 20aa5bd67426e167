//! A connection of a web server: noted when it begins, and watched while a request wants to know whether its client is
//! gone.
//!
//! The connection belongs to the web server, which may close it at any time, and the kernel gives its number to the
//! next one. So a connection is noted as its number and its identity. While it is watched, and only then, there is a
//! duplicate of its descriptor: that one is registered with the reactor, it is never read from, and all requests of the
//! connection share it. Idle connections hold nothing. A duplicate keeps the connection open in the kernel after the
//! server has closed it, so a watch looks from time to time whether it has.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use actix_rt::time::{sleep, timeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::connections::{self, ForeignSocket, Link};
use crate::sys::passing::RETRY_WAIT;
use crate::sys::reactor;

/// How often a watch looks whether the server has closed the connection, which nothing reports.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

type Watch = AsyncFd<OwnedFd>;

/// One connection. It stays on the server's thread that has accepted it.
#[derive(Debug)]
pub(super) struct Connection {
    socket: ForeignSocket,
    watch: RefCell<Weak<Watch>>,
}

/// Which end of a connection means that the client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// The client sends no more.
    HalfClosed,
    /// The client neither sends nor receives.
    Closed,
}

impl Gone {
    fn is_met_by(self, link: Link) -> bool {
        match (self, link) {
            (_, Link::Open) | (Gone::Closed, Link::HalfClosed) => false,
            (_, Link::Closed) | (Gone::HalfClosed, Link::HalfClosed) => true,
        }
    }
}

impl Connection {
    /// Notes a connection.
    ///
    /// # Errors
    ///
    /// The system's error if it is no socket.
    pub(super) fn note(socket: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Connection { socket: ForeignSocket::note(socket)?, watch: RefCell::default() })
    }

    /// Waits until the client is gone, or the server has closed the connection.
    pub(super) async fn ended(self: Rc<Self>, gone: Gone) {
        while self.socket.is_open() {
            match self.watch() {
                Ok(Some(watch)) => return self.watched(&watch, gone).await,
                Ok(None) => return,
                // There is no descriptor left, or no memory. That passes.
                Err(_) => sleep(RETRY_WAIT).await,
            }
        }
    }

    /// Returns the watch that all requests of this connection share; `None` if the server has closed it.
    fn watch(&self) -> io::Result<Option<Rc<Watch>>> {
        let mut shared = self.watch.borrow_mut();
        if let Some(watch) = shared.upgrade() {
            return Ok(Some(watch));
        }
        let Some(duplicate) = self.socket.duplicate()? else {
            return Ok(None);
        };
        let watch = Rc::new(reactor::register(duplicate)?);
        *shared = Rc::downgrade(&watch);
        Ok(Some(watch))
    }

    /// Looks at the connection once for each event, and once per [`LOOK_AGAIN`].
    async fn watched(&self, watch: &Watch, gone: Gone) {
        loop {
            let link = connections::link(watch.as_fd());
            if gone.is_met_by(link) || !self.socket.is_open() {
                return;
            }
            // The end of the client's data stays reported for good. Behind it, only what comes after it is waited for:
            // a connection that is closed altogether counts as writable, as an error, or as both.
            let news = match link {
                Link::Open => Interest::READABLE,
                Link::HalfClosed | Link::Closed => Interest::WRITABLE | Interest::ERROR,
            };
            let Ok(event) = timeout(LOOK_AGAIN, watch.ready(news)).await else {
                continue;
            };
            // Without a reactor nothing is ever reported again.
            let Ok(mut event) = event else {
                return std::future::pending().await;
            };
            let stays_reported = event.ready().is_read_closed() || event.ready().is_write_closed();
            event.clear_ready();
            // It would be reported again at once, for ever.
            if stays_reported && connections::link(watch.as_fd()) == link {
                sleep(LOOK_AGAIN).await;
            }
        }
    }
}
