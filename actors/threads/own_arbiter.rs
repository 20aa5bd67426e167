//! A thread with an arbiter that belongs to no actix system of the application.

use std::cell::Cell;
use std::io;
use std::sync::{Arc, Weak, mpsc};
use std::thread;

use actix::{Arbiter, ArbiterHandle, System};
use parking_lot::Mutex;

use super::frozen;

/// The arbiter on which supervisors and the proxies of workers run.
static SUPERVISION: Mutex<Weak<OwnArbiter>> = Mutex::new(Weak::new());

/// The arbiter on which calls run that are made on a thread without an arbiter.
static CALLS: Mutex<Weak<OwnArbiter>> = Mutex::new(Weak::new());

/// The arbiter on which consoles are served. It is not that of supervisors: a snapshot of hundreds of workers takes
/// milliseconds, in which a worker's end would wait.
static VIEWERS: Mutex<Weak<OwnArbiter>> = Mutex::new(Weak::new());

thread_local! {
    static IS_OWN: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether this thread is one of the library's own.
pub(crate) fn is_own() -> bool {
    IS_OWN.get()
}

/// An arbiter on a thread of the library's own. The thread ends once the last share of it is dropped.
#[derive(Debug)]
pub(crate) struct OwnArbiter {
    system: System,
    arbiter: ArbiterHandle,
}

impl OwnArbiter {
    pub(crate) fn handle(&self) -> &ArbiterHandle {
        &self.arbiter
    }

    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// That of the system if it has no thread or no descriptor left; nothing is left behind then.
    fn start(name: &str) -> io::Result<Arc<Self>> {
        let (sender, started) = mpsc::channel();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            IS_OWN.set(true);
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(sender.send(Err(error))),
            };
            let runner = System::with_tokio_rt(move || runtime);
            let own = OwnArbiter { system: System::current(), arbiter: Arbiter::current() };
            if sender.send(Ok(own)).is_ok() {
                // It ends by OwnArbiter's stop, which sets no exit code that could be an error.
                let _ = runner.run();
            }
        })?;
        started.recv().map_err(|_| io::Error::other("the thread ended at its start"))?.map(Arc::new)
    }

    /// Returns the current arbiter, or starts one and then `begin` with it.
    fn shared(current: &Mutex<Weak<Self>>, name: &str, begin: fn(&ArbiterHandle)) -> io::Result<Arc<Self>> {
        let mut current = current.lock();
        if let Some(own) = current.upgrade() {
            return Ok(own);
        }
        let own = OwnArbiter::start(name)?;
        begin(&own.arbiter);
        *current = Arc::downgrade(&own);
        Ok(own)
    }
}

impl Drop for OwnArbiter {
    fn drop(&mut self) {
        self.system.stop();
    }
}

/// Returns the arbiter on which supervisors run; the first share starts its thread.
///
/// # Errors
///
/// That of the system if the thread cannot be started.
pub(crate) fn supervision() -> io::Result<Arc<OwnArbiter>> {
    OwnArbiter::shared(&SUPERVISION, "forkpool", |arbiter| {
        arbiter.spawn(frozen::beat());
    })
}

/// Returns the arbiter for calls that are made on a thread without one; the first share starts its thread.
///
/// # Errors
///
/// That of the system if the thread cannot be started.
pub(crate) fn calls() -> io::Result<Arc<OwnArbiter>> {
    OwnArbiter::shared(&CALLS, "forkpool-calls", |_| ())
}

/// Returns the arbiter on which consoles are served; the first share starts its thread.
///
/// # Errors
///
/// That of the system if the thread cannot be started.
pub(crate) fn viewers() -> io::Result<Arc<OwnArbiter>> {
    OwnArbiter::shared(&VIEWERS, "forkpool-viewer", |_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads_named(name: &str) -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").expect("the threads").flatten();
        tasks
            .filter(|task| {
                std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
            })
            .count()
    }

    /// P12
    #[test]
    fn all_shares_are_of_one_thread_which_ends_with_the_last() {
        static HERE: Mutex<Weak<OwnArbiter>> = Mutex::new(Weak::new());
        let name = "forkpool-test";
        let first = OwnArbiter::shared(&HERE, name, |_| ()).expect("a thread");
        let second = OwnArbiter::shared(&HERE, name, |_| ()).expect("a thread");
        assert_eq!(threads_named(name), 1);
        drop(first);
        let (sender, ran) = mpsc::channel();
        second
            .handle()
            .spawn_fn(move || sender.send(thread::current().name().map(str::to_owned)).expect("a receiver"));
        assert_eq!(ran.recv().expect("an answer").as_deref(), Some(name));
        drop(second);
        while threads_named(name) > 0 {
            thread::yield_now();
        }
        assert!(HERE.lock().upgrade().is_none());
    }
}
