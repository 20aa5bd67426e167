//! Tells the application's subscriber what happens to workers and servers, on a thread of its own.
//!
//! A subscriber is the application's code. It may write to a pipe that is full, and it may panic. So nothing of the
//! library calls one directly: events are queued, and a thread tells them in their order. An event that finds the queue
//! full is dropped and counted, and the count is told once there is room.

use std::io;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::dispatcher::{self, Dispatch};
use tracing::subscriber::NoSubscriber;

use crate::user_code::{caught, drop_caught};

/// Events that wait to be told; more are dropped and counted. With the longest lines of workers that is 32 MiB.
const CAPACITY: usize = 4096;

/// The queue of the thread that runs, if one does.
static CURRENT: Mutex<Weak<Queue>> = Mutex::new(Weak::new());

type Event = Box<dyn FnOnce() + Send>;

struct Queue {
    events: SyncSender<Event>,
    /// Events that were dropped, or lost by a panic of the subscriber, and not reported yet.
    lost: Arc<AtomicU64>,
}

/// Tells events to one subscriber. The thread, which all tellers share, ends with the last of them.
#[derive(Clone)]
pub(crate) struct Teller {
    /// The subscriber of the thread that made this teller. `None` for the global one, which may be set later.
    dispatch: Option<Dispatch>,
    queue: Arc<Queue>,
}

impl Teller {
    /// Makes a teller to the subscriber of this thread; the first one starts the thread.
    ///
    /// # Errors
    ///
    /// That of the system if it has no thread left.
    pub(crate) fn here() -> io::Result<Self> {
        Ok(Teller { dispatch: dispatch_here(), queue: Queue::shared()? })
    }

    /// Queues an event for the subscriber. It never waits.
    pub(crate) fn tell(&self, event: impl FnOnce() + Send + 'static) {
        self.queue.push(self.dispatch.clone(), event);
    }

    /// Returns a future that is ready once all events so far were told.
    pub(crate) fn told(&self) -> oneshot::Receiver<()> {
        let (done, told) = oneshot::channel();
        self.queue.push(None, move || {
            // It may not be awaited any more.
            let _ = done.send(());
        });
        told
    }
}

/// As [`Teller::tell`], for code that belongs to no pool. Without any pool there is no thread, and the event is told
/// here.
pub(crate) fn tell(event: impl FnOnce() + Send + 'static) {
    let queue = CURRENT.lock().upgrade();
    match queue {
        Some(queue) => queue.push(dispatch_here(), event),
        None => drop(caught(event)),
    }
}

/// Prints a line on standard error if the program has no subscriber, and tells the event otherwise. For the teller's
/// thread alone, since it may wait.
pub(crate) fn print_or(line: impl FnOnce() -> String, event: impl FnOnce()) {
    if dispatcher::has_been_set() {
        event();
    } else {
        // Without standard error the line is lost.
        let _ = writeln!(io::stderr(), "{}", line());
    }
}

/// Returns this thread's subscriber if it is one of its own.
fn dispatch_here() -> Option<Dispatch> {
    let here = || dispatcher::get_default(|here| (!here.is::<NoSubscriber>()).then(|| here.clone()));
    caught(here).flatten()
}

/// The subscriber may have no other owner left.
impl Drop for Teller {
    fn drop(&mut self) {
        drop_caught(self.dispatch.take());
    }
}

impl Queue {
    fn shared() -> io::Result<Arc<Self>> {
        let mut current = CURRENT.lock();
        if let Some(queue) = current.upgrade() {
            return Ok(queue);
        }
        let queue = Queue::start()?;
        *current = Arc::downgrade(&queue);
        Ok(queue)
    }

    fn start() -> io::Result<Arc<Self>> {
        let (events, receiver) = sync_channel(CAPACITY);
        let lost = Arc::new(AtomicU64::new(0));
        let queue = Arc::new(Queue { events, lost: lost.clone() });
        thread::Builder::new().name("forkpool-tell".to_owned()).spawn(move || run(&receiver, &lost))?;
        Ok(queue)
    }

    fn push(&self, dispatch: Option<Dispatch>, event: impl FnOnce() + Send + 'static) {
        let event: Event = match dispatch {
            Some(dispatch) => Box::new(move || dispatcher::with_default(&dispatch, event)),
            None => Box::new(event),
        };
        if let Err(unsent) = self.events.try_send(event) {
            drop_caught(unsent);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Tells events until the last teller is dropped.
fn run(events: &Receiver<Event>, lost: &AtomicU64) {
    for event in events {
        if caught(event).is_none() {
            lost.fetch_add(1, Ordering::Relaxed);
        }
        let count = lost.swap(0, Ordering::Relaxed);
        if count > 0 && caught(|| report_lost(count)).is_none() {
            lost.fetch_add(count, Ordering::Relaxed);
        }
    }
}

fn report_lost(count: u64) {
    print_or(
        || format!("forkpool: {count} lines were dropped: standard error was full"),
        || {
            tracing::warn!(target: "forkpool", count,
                "log events were dropped: the subscriber was too slow, or it panicked");
        },
    );
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// G1
    #[test]
    fn what_would_wait_is_dropped_and_a_panic_is_caught() {
        // A queue of its own, since other tests use the shared one.
        let teller = Teller { dispatch: None, queue: Queue::start().expect("a thread") };
        let (go_on, gate) = channel::<()>();
        let (sender, told) = channel();
        teller.tell(move || gate.recv().expect("the test goes on"));
        let too_many = CAPACITY * 2;
        for number in 0..too_many {
            let sender = sender.clone();
            teller.tell(move || sender.send(number).expect("the test listens"));
        }
        go_on.send(()).expect("the thread waits");
        drop(sender);
        let told: Vec<usize> = told.iter().collect();
        // The first event may still have stood in the queue, too.
        assert!((CAPACITY - 1..=CAPACITY).contains(&told.len()), "{} were told", told.len());
        assert!(told.is_sorted());

        teller.tell(|| panic!("a subscriber that panics"));
        let (sender, told) = channel();
        teller.tell(move || sender.send(()).expect("the test listens"));
        told.recv().expect("the thread goes on");
    }
}
