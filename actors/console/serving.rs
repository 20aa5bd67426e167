//! The task of a console: it accepts viewers and answers them, each in a task of its own.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;

use super::{Shared, protocol};
use crate::actors::threads::OwnArbiter;
use crate::actors::threads::real_time::{run_for, within};
use crate::clock::Instant;
use crate::server::viewers::{ViewerListener, Visit};
use crate::sys::{Errno, descriptors, reactor};

/// How long no viewer is accepted after one could not be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many times as long as its answer took to make a viewer waits until its next line is read.
const REST: u32 = 50;

/// The longest such wait (1 s).
const LONGEST_REST: Duration = Duration::from_secs(1);

/// How often it is logged at most that viewers are not admitted (10 s).
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Serves the console on this arbiter until the other end of `end` is dropped.
pub(super) fn start(
    own: Arc<OwnArbiter>,
    shared: Arc<Shared>,
    listener: ViewerListener,
    mut end: oneshot::Receiver<()>,
) {
    let arbiter = own.handle().clone();
    // The arbiter runs for as long as the task has a share of it.
    arbiter.spawn_fn(move || {
        actix_rt::spawn(async move {
            {
                let mut accepting = pin!(accept_viewers(&shared, &listener));
                poll_fn(|cx| match Pin::new(&mut end).poll(cx) {
                    Poll::Ready(_) => Poll::Ready(()),
                    Poll::Pending => accepting.as_mut().poll(cx),
                })
                .await;
            }
            shared.close();
            drop(own);
        });
    });
}

/// Accepts viewers. Dropping the future disconnects all of them.
async fn accept_viewers(shared: &Arc<Shared>, listener: &ViewerListener) {
    let seats = Arc::new(Semaphore::new(shared.max_clients.min(Semaphore::MAX_PERMITS)));
    let mut viewers = JoinSet::new();
    let mut complaints = Complaints::default();
    let watched = loop {
        match descriptors::duplicate(listener.as_fd()).map_err(io::Error::from).and_then(reactor::register) {
            Ok(watched) => break watched,
            Err(_) => run_for(ACCEPT_PAUSE).await,
        }
    };
    loop {
        // An error means that the reactor is gone, and this task with it.
        let Ok(mut ready) = watched.readable().await else { return };
        match listener.next() {
            Ok(Visit::Nothing) => ready.clear_ready(),
            Ok(Visit::Left) => {}
            Ok(Visit::Admitted(socket)) => match seats.clone().try_acquire_owned() {
                Ok(seat) => {
                    viewers.spawn_local(serve(socket, shared.clone(), seat));
                }
                Err(_) => turn_away(&socket, shared),
            },
            Ok(Visit::Rejected(reason)) => complaints.log(shared, reason),
            Err(error) => {
                complaints.log(shared, format!("no viewer can be accepted: {error}"));
                run_for(ACCEPT_PAUSE).await;
            }
        }
        // What has ended is not kept.
        while viewers.try_join_next().is_some() {}
    }
}

/// Tells a viewer that there is no place for it.
fn turn_away(socket: &OwnedFd, shared: &Shared) {
    let count = shared.max_clients;
    let line = protocol::refusal(&format!(
        "{count} viewers are connected, which is the console's max_clients: try again once one has left"
    ));
    // The buffer of a new socket always has space for so few bytes.
    let _ =
        descriptors::set_nonblocking(socket.as_fd()).and_then(|()| descriptors::send(socket.as_fd(), &line));
}

/// Logs why viewers are not admitted, but not each time, since they may try again without a pause.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    omitted: u64,
}

impl Complaints {
    fn log(&mut self, shared: &Shared, reason: String) {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < LOG_INTERVAL) {
            self.omitted += 1;
            return;
        }
        self.last = Some(now);
        let (path, omitted) = (shared.path.clone(), std::mem::take(&mut self.omitted));
        shared.teller.tell(move || {
            tracing::warn!(target: "forkpool", path = %path.display(), omitted, "at the console: {reason}");
        });
    }
}

/// Why the lines of a viewer end.
enum LastLine {
    /// It has left, or the connection is broken.
    Gone,
    TooLong,
}

/// A connected viewer.
struct Viewer {
    socket: AsyncFd<OwnedFd>,
    /// What it has sent and is not answered yet, at most [`protocol::MAX_LINE`] bytes.
    unread: Vec<u8>,
}

/// Answers a viewer until it leaves, breaks a limit, or takes too long.
async fn serve(socket: OwnedFd, shared: Arc<Shared>, _seat: OwnedSemaphorePermit) {
    let registered = descriptors::set_nonblocking(socket.as_fd()).map_err(io::Error::from);
    let Ok(socket) = registered.and_then(|()| reactor::register_read_write(socket)) else { return };
    let mut viewer = Viewer { socket, unread: Vec::new() };
    let limit = shared.client_timeout;
    let farewell = loop {
        match within(limit, viewer.next_line()).await {
            Some(Ok(line)) => {
                let began = Instant::now();
                let answer = protocol::answer(&line, &shared.pools());
                let rest = began.elapsed().saturating_mul(REST).min(LONGEST_REST);
                if !matches!(within(limit, viewer.write(&answer)).await, Some(true)) {
                    return;
                }
                run_for(rest).await;
            }
            Some(Err(LastLine::Gone)) => return,
            Some(Err(LastLine::TooLong)) => {
                break format!("a line may have at most {} bytes", protocol::MAX_LINE);
            }
            None => break format!("nothing was asked for {limit:?}, which is the console's client_timeout"),
        }
    };
    // What does not fit at once is not waited for.
    let _ = descriptors::send(viewer.socket.as_fd(), &protocol::refusal(&farewell));
}

impl Viewer {
    /// Returns the next line, without its end.
    async fn next_line(&mut self) -> Result<Vec<u8>, LastLine> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.unread.drain(..=end).collect();
                line.pop();
                return Ok(line);
            }
            if self.unread.len() >= protocol::MAX_LINE {
                return Err(LastLine::TooLong);
            }
            self.read().await?;
        }
    }

    /// Reads some bytes.
    async fn read(&mut self) -> Result<(), LastLine> {
        loop {
            let mut ready = self.socket.readable().await.map_err(|_| LastLine::Gone)?;
            let mut bytes = Vec::with_capacity(protocol::MAX_LINE - self.unread.len());
            match descriptors::receive(self.socket.as_fd(), &mut bytes) {
                Ok(0) => return Err(LastLine::Gone),
                Ok(count) => {
                    self.unread.extend_from_slice(&bytes[..count.min(bytes.len())]);
                    return Ok(());
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(_) => return Err(LastLine::Gone),
            }
        }
    }

    /// Writes all of it. Returns whether the viewer is still there.
    async fn write(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let Ok(mut ready) = self.socket.writable().await else { return false };
            match descriptors::send(self.socket.as_fd(), bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(_) => return false,
            }
        }
        true
    }
}
