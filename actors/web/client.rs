//! Whether the client of a request is gone.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use actix_web::HttpRequest;
use actix_web::dev::Extensions;
use actix_web::http::Version;
use actix_web::rt::net::{TcpStream, UnixStream};

use super::connection::{Connection, Gone};
use crate::actors::telemetry::teller;

/// When the client of an HTTP/1 request counts as gone. The default is [`Reset`](ClientPolicy::Reset).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientPolicy {
    /// Never.
    Ignore,
    /// Once it has reset the connection.
    #[default]
    Reset,
    /// Once it has closed its side of the connection or reset it.
    HalfClose,
}

/// What [`on_connect`] leaves with a connection.
enum Noted {
    Connection(Rc<Connection>),
    /// It is of a type, or in a state, in which it cannot be watched.
    Unknown,
}

/// Notes a connection.
pub fn on_connect(connection: &dyn Any, data: &mut Extensions) {
    let noted = match descriptor(connection) {
        None => {
            warn_once(&UNKNOWN_TYPE, || {
                tracing::warn!(target: "forkpool", "forkpool::web::on_connect does not know the type of a connection, so its clients never count as gone: \
                    for TLS, turn on forkpool's feature actix-web-rustls-0_23 or actix-web-openssl");
            });
            Noted::Unknown
        }
        Some(socket) => match Connection::note(socket) {
            Ok(connection) => Noted::Connection(Rc::new(connection)),
            Err(error) => {
                warn_once(&UNKNOWN_SOCKET, move || {
                    tracing::warn!(target: "forkpool", %error, "a connection cannot be told from others, so its clients never count as gone");
                });
                Noted::Unknown
            }
        },
    };
    data.insert(noted);
}

static UNKNOWN_TYPE: AtomicBool = AtomicBool::new(false);
static UNKNOWN_SOCKET: AtomicBool = AtomicBool::new(false);
static NO_HOOK: AtomicBool = AtomicBool::new(false);

fn warn_once(is_told: &AtomicBool, warning: impl FnOnce() + Send + 'static) {
    if !is_told.swap(true, Ordering::Relaxed) {
        teller::tell(warning);
    }
}

/// Returns the descriptor below a connection of a known type.
fn descriptor(connection: &dyn Any) -> Option<BorrowedFd<'_>> {
    if let Some(stream) = connection.downcast_ref::<TcpStream>() {
        return Some(stream.as_fd());
    }
    if let Some(stream) = connection.downcast_ref::<UnixStream>() {
        return Some(stream.as_fd());
    }
    None
}

/// A future that is ready once the client of a request is gone.
pub struct ClientGone {
    /// What is watched, and for what; `None` if nothing can be or is to be seen.
    watched: Option<(Rc<Connection>, Gone)>,
    state: State,
}

enum State {
    New,
    Watching(Pin<Box<dyn Future<Output = ()>>>),
    Gone,
}

impl ClientGone {
    /// Watches the client of a request, by this policy where the request is one of HTTP/1.
    pub fn of(request: &HttpRequest, policy: ClientPolicy) -> Self {
        if policy != ClientPolicy::Ignore && request.conn_data::<Noted>().is_none() {
            warn_once(&NO_HOOK, || {
                tracing::warn!(target: "forkpool", "whether a client is gone was asked, and never will be known: \
                    add .on_connect(forkpool::web::on_connect) to the HttpServer, before it is bound");
            });
        }
        Self::by_default(request, policy)
    }

    /// The same for a policy that nobody asked for: without the hook, it is silent.
    pub(crate) fn by_default(request: &HttpRequest, policy: ClientPolicy) -> Self {
        let connection = match request.conn_data() {
            Some(Noted::Connection(connection)) => Some(connection.clone()),
            Some(Noted::Unknown) | None => None,
        };
        let watched = connection.zip(rule(request.version(), policy));
        ClientGone { watched, state: State::New }
    }
}

/// Returns what counts as gone, if anything does.
fn rule(version: Version, policy: ClientPolicy) -> Option<Gone> {
    match policy {
        // Such a connection is of no use once the client sends no more: it cannot even acknowledge.
        _ if version == Version::HTTP_2 => Some(Gone::HalfClosed),
        ClientPolicy::Ignore => None,
        ClientPolicy::Reset => Some(Gone::Closed),
        ClientPolicy::HalfClose => Some(Gone::HalfClosed),
    }
}

impl Future for ClientGone {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            match (&mut this.state, &this.watched) {
                (State::Gone, _) => return Poll::Ready(()),
                (State::New, None) => return Poll::Pending,
                (State::New, Some((connection, gone))) => {
                    this.state = State::Watching(Box::pin(connection.clone().ended(*gone)));
                }
                (State::Watching(watch), _) => {
                    if watch.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    this.state = State::Gone;
                }
            }
        }
    }
}

impl Clone for ClientGone {
    fn clone(&self) -> Self {
        let state = if matches!(self.state, State::Gone) { State::Gone } else { State::New };
        ClientGone { watched: self.watched.clone(), state }
    }
}

impl fmt::Debug for ClientGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_gone = matches!(self.state, State::Gone);
        f.debug_struct("ClientGone").field("watched", &self.watched).field("is_gone", &is_gone).finish()
    }
}
