//! Whether the client of a request is gone: the hook that notes connections, the policies, and the future.

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

/// When the client of an HTTP/1 request counts as gone. [`ClientGone`] says what that means for each way to leave.
///
/// On HTTP/2 a client is always gone once its connection is, whatever the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientPolicy {
    /// Never.
    Ignore,
    /// Once the connection is over in both directions: the client has reset it, or the server has closed it. This is the
    /// default, and never wrong: such a client cannot read an answer.
    #[default]
    Reset,
    /// Also once the client sends no more.
    ///
    /// Most clients that leave do no more than that: `curl` and browsers close the connection. But a client may close
    /// its half of a connection and still wait for the answer, as some content delivery networks and load balancers do.
    /// Choose this where you know that yours do not.
    HalfClose,
}

/// What [`on_connect`] leaves with a connection.
enum Noted {
    Connection(Rc<Connection>),
    /// It is of a type, or in a state, in which it cannot be watched.
    Unknown,
}

/// Notes a connection, so that [`ClientGone`] can watch it. Give it to `HttpServer::on_connect`, **before** `bind` or any
/// other `bind_*` or `listen_*` method: actix-web calls it for no listener that was there earlier.
///
/// ```no_run
/// # async fn main_() -> std::io::Result<()> {
/// use actix_web::{App, HttpServer};
///
/// HttpServer::new(|| App::new())
///     .on_connect(forkpool::web::on_connect)
///     .bind(("127.0.0.1", 8080))?
///     .run()
///     .await
/// # }
/// ```
///
/// It knows plain TCP connections and Unix sockets, and TLS with the features that are called as actix-web's own:
/// `actix-web-rustls-0_23` and `actix-web-openssl`. A connection of another type is never seen to end, as with
/// [`ClientPolicy::Ignore`], and the first one is reported by a `tracing` warning. `HttpServer::bind_uds` of actix-web
/// 4.18 calls no hook at all; `listen_uds` does.
///
/// An application with a hook of its own calls this function in it. It costs one system call for each connection, and
/// opens nothing.
pub fn on_connect(connection: &dyn Any, data: &mut Extensions) {
    data.insert(note(connection));
}

fn note(connection: &dyn Any) -> Noted {
    let Some(socket) = descriptor(connection) else {
        warn_once(&UNKNOWN_TYPE, || {
            tracing::warn!(target: "forkpool",
                "forkpool::web::on_connect does not know the type of a connection, so no client of such a one counts as \
                 gone: for TLS, turn on forkpool's feature actix-web-rustls-0_23 or actix-web-openssl");
        });
        return Noted::Unknown;
    };
    match Connection::note(socket) {
        Ok(connection) => Noted::Connection(Rc::new(connection)),
        Err(error) => {
            warn_once(&UNKNOWN_SOCKET, move || {
                tracing::warn!(target: "forkpool", %error,
                    "the system does not tell a connection from others, so no client of such a one counts as gone");
            });
            Noted::Unknown
        }
    }
}

/// Warnings that were given. Each concerns the program, and its thousandth connection no more than its first.
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
    #[cfg(feature = "actix-web-rustls-0_23")]
    if let Some(stream) = connection.downcast_ref::<actix_tls::accept::rustls_0_23::TlsStream<TcpStream>>() {
        return Some(stream.get_ref().0.as_fd());
    }
    #[cfg(feature = "actix-web-openssl")]
    if let Some(stream) = connection.downcast_ref::<actix_tls::accept::openssl::TlsStream<TcpStream>>() {
        return Some(stream.get_ref().as_fd());
    }
    None
}

/// A future that is ready once the client of a request is gone, and pending for ever if that cannot be seen.
///
/// actix-web leaves most handlers alone when their client leaves: they run to their end for nothing. What happens by
/// itself (with actix-web 4.18), and what this future sees within milliseconds with each [`ClientPolicy`]:
///
/// | the client | a handler without it | `Ignore` | `Reset` | `HalfClose` |
/// |---|---|---|---|---|
/// | **HTTP/1** closes the connection | runs on ¹ | | ² | gone |
/// | closes its half, and still reads | runs on ¹ | | | gone |
/// | resets the connection | is dropped ³ | | gone | gone |
/// | closes its half, and resets later | runs on ¹ | | gone | gone |
/// | closes or cuts TLS without its farewell | is dropped (rustls) | | | gone |
/// | is silent: no power, no network | runs on | | | |
/// | **HTTP/2** closes or resets the connection | runs on | gone | gone | gone |
/// | is silent | runs on | gone ⁴ | gone ⁴ | gone ⁴ |
/// | resets the stream, and keeps the connection | runs on | | | |
///
/// 1. With `HttpServer::h1_allow_half_closed(false)` it is dropped.
/// 2. At a Unix socket it is gone: only there the kernel tells a close from half of one. A TCP client that closes before it
///    has read all that it was sent resets the connection, and so does one that is sent something later.
/// 3. It runs on where actix-web reads nothing: behind a body or pipelined requests that fill its buffer. This future sees
///    a reset all the same, and also a close, as far as the kernel has received what was sent before it.
/// 4. Once actix-web gives the connection up, because its keep-alive pings are not answered: after 5 to 10 seconds by
///    default, and up to a second for noticing.
///
/// So **a stream of HTTP/2 that is reset cannot be seen**: actix-web tells no handler of it. A browser that cancels one of
/// several requests does that.
///
/// The server needs the hook [`on_connect`]. Without it the future is pending for ever, and so it is in tests with
/// `actix_web::test`.
///
/// ```no_run
/// use std::time::Duration;
///
/// use actix_web::rt::time::timeout;
/// use actix_web::{HttpRequest, HttpResponse};
/// use forkpool::web::{ClientGone, ClientPolicy};
///
/// /// Long polling that ends early if the client has left.
/// async fn news(request: HttpRequest) -> HttpResponse {
///     let gone = ClientGone::of(&request, ClientPolicy::HalfClose);
///     if timeout(Duration::from_secs(30), gone).await.is_ok() {
///         println!("the client has left");
///     }
///     HttpResponse::NoContent().finish()
/// }
/// ```
///
/// An extractor that reads the body runs before the handler, so a handler behind one begins to watch only then.
///
/// # Cost
///
/// Nothing before it is polled. From then on, until it is ready or dropped, the connection has a second descriptor, which
/// all requests of that connection share. Drop it with the request: it can keep a connection open in the kernel for up
/// to a second after the server has closed it, which the client sees.
///
/// # Cancellation
///
/// Dropping it ends the watch. A clone watches by itself.
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
    /// Watches the client of a request, by this policy if the request is one of HTTP/1.
    ///
    /// The first time that a policy other than [`ClientPolicy::Ignore`] meets a server without [`on_connect`], a `tracing`
    /// warning says what to add.
    pub fn of(request: &HttpRequest, policy: ClientPolicy) -> Self {
        if policy != ClientPolicy::Ignore && request.conn_data::<Noted>().is_none() {
            warn_once(&NO_HOOK, || {
                tracing::warn!(target: "forkpool",
                    "it is never seen that the client of a request is gone: add .on_connect(forkpool::web::on_connect) \
                     to the HttpServer, before bind or listen, and listen with listen_uds and not bind_uds at a Unix \
                     socket. ClientPolicy::Ignore leaves this warning out");
            });
        }
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
        // actix-web ends such a connection as soon as the client sends no more, and can answer no request of it.
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
