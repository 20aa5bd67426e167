//! The handle of a pool, which an application keeps and clones.

use std::future::Future;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::SendError;
use actix::{Addr, Message};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::checkout_builder::CheckoutBuilder;
use super::class_handle::ClassBuilder;
use super::pool;
use super::pool::Pool;
use super::pool_start::start_pool;
use super::recycling::{Recycle, Recycling};
use super::request::PoolRequest;
use super::sending::Route;
use super::server_stats::ServerStats;
use super::snapshot::{Snapshot, Stats};
use super::stop_report::StopReport;
use super::unattended;
use crate::actors::console::ConsoleBuilder;
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::command::Command;
use crate::actors::session::CallOptions;
use crate::actors::threads::symbolizer;
use crate::actors::transport::blobs;
use crate::actors::worker_api::interface::Accepts;
use crate::actors::worker_api::worker::Worker;
use crate::blob::BlobMut;
use crate::failure::Failure;

/// A pool of workers. Clone it wherever it is needed: it is `Send`, `Sync` and one pointer large.
///
/// Calls and checkouts run on the arbiter of the thread that makes them. Where that thread has none, they run on the
/// arbiter that the pool was started in, or on a thread of the library's own. When the last clone is dropped, checkouts that hold or wait for a worker are served until they are released, and
/// then the pool ends.
pub struct PoolHandle<W: Worker> {
    shared: Arc<Shared<W>>,
}

struct Shared<W: Worker> {
    scheduler: Arc<Scheduler>,
    /// The pool actor, which is started anew once its arbiter has ended.
    pool: Mutex<Addr<Pool<W>>>,
}

impl<W: Worker> Drop for Shared<W> {
    fn drop(&mut self) {
        self.scheduler.close();
    }
}

impl<W: Worker> Clone for PoolHandle<W> {
    fn clone(&self) -> Self {
        PoolHandle { shared: self.shared.clone() }
    }
}

impl<W: Worker> std::fmt::Debug for PoolHandle<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolHandle").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl<W: Worker> PoolHandle<W> {
    pub(crate) fn new(scheduler: Arc<Scheduler>, pool: Addr<Pool<W>>) -> Self {
        PoolHandle { shared: Arc::new(Shared { scheduler, pool: Mutex::new(pool) }) }
    }

    pub(crate) fn scheduler(&self) -> &Arc<Scheduler> {
        &self.shared.scheduler
    }

    /// Returns the pool's name.
    pub fn name(&self) -> &str {
        &self.shared.scheduler.options.name
    }

    /// Returns the address of the pool actor, for a `Recipient` or a message such as [`Stop`](crate::Stop).
    ///
    /// The address does not keep the pool running; handles and checkouts do. The actor runs on an arbiter of the
    /// application, and its addresses end with that. This method returns one that works then: it starts the actor anew on
    /// the arbiter of this thread.
    #[track_caller]
    pub fn addr(&self) -> Addr<Pool<W>> {
        let mut pool = self.shared.pool.lock();
        if !pool.connected() {
            let scheduler = self.shared.scheduler.clone();
            *pool = start_pool(&scheduler.arbiter_here(), Pool::new(scheduler));
        }
        pool.clone()
    }

    /// Allocates a blob of at most `capacity` bytes in memory that the workers of this pool read in place.
    ///
    /// Below 16 KiB, and for workers that are reached over a network, it is ordinary memory.
    ///
    /// # Errors
    ///
    /// [`Overloaded`](crate::FailureKind::Overloaded) if other blobs leave not enough of the pool's
    /// [`blob_memory`](crate::PoolBuilder::blob_memory), and [`Payload`](crate::FailureKind::Payload) if all of it would not
    /// be enough; nothing is allocated then.
    pub fn blob(&self, capacity: usize) -> Result<BlobMut, Failure> {
        let scheduler = &self.shared.scheduler;
        blobs::allocate(scheduler.blobs.as_ref(), capacity).map_err(|full| full.in_pool(self.name()))
    }

    /// Returns an empty blob that takes memory as it is written, up to `limit` bytes: for bytes whose number is not known
    /// or not to be trusted, such as those of an upload.
    ///
    /// It takes none of the pool's [`blob_memory`](crate::PoolBuilder::blob_memory) before it has 16 KiB. From then on
    /// it has at most twice as much as it has bytes (32 KiB at first), and never more than `limit`. It grows in place
    /// where it can. Where it cannot, its bytes are copied, each twice at most on average, and for that moment both
    /// places are in use. If the memory is used up, the write fails and the bytes before it stay: see [`BlobMut`].
    /// [`blob`](Self::blob) is for bytes whose number is known; it takes all the memory at once.
    ///
    /// ```no_run
    /// # use std::io::Write;
    /// # use forkpool::prelude::*;
    /// # fn gather<W: Worker>(pool: &PoolHandle<W>, pieces: Vec<Vec<u8>>) -> Result<Blob, Failure> {
    /// let mut bytes = pool.blob_up_to(20 << 20);
    /// for piece in pieces {
    ///     if let Err(error) = bytes.write_all(&piece) {
    ///         // Overloaded if the pool's memory is used up.
    ///         return Err(error.downcast().unwrap_or_else(|error| Failure::task(error.to_string())));
    ///     }
    /// }
    /// Ok(bytes.freeze())
    /// # }
    /// ```
    pub fn blob_up_to(&self, limit: usize) -> BlobMut {
        blobs::growing(self.shared.scheduler.blobs.as_ref(), limit, self.name())
    }

    /// Runs a message on any free worker, as `SyncArbiter` does, with the pool's [`timeout`](crate::PoolBuilder::timeout).
    ///
    /// The future resolves to the message's own result, so one `?` is enough:
    /// `let crypted = pool.send(Hash { .. }).await?;`.
    ///
    /// # Errors
    ///
    /// The handler's own error; or an error made from a [`Failure`] if the handler did not answer: the worker died,
    /// panicked or timed out, the pool is [`Overloaded`](crate::FailureKind::Overloaded) or
    /// [`Stopped`](crate::FailureKind::Stopped).
    ///
    /// # Cancellation
    ///
    /// If the future is dropped before a worker has the call, it never runs. A call that runs is let finish, or killed, as
    /// [`on_cancel`](PoolRequest::on_cancel) of the call says, or that of [the pool](crate::PoolBuilder::on_cancel).
    #[track_caller]
    pub fn send<M, T, E>(&self, message: M) -> PoolRequest<Result<T, E>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        let limit = self.shared.scheduler.options.timeout;
        self.send_within(limit, message)
    }

    /// As [`send`](Self::send), with a time limit of its own: `None` is no limit, and zero is answered
    /// [`Timeout`](crate::FailureKind::Timeout) at once.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    ///
    /// # Cancellation
    ///
    /// As [`send`](Self::send).
    #[track_caller]
    pub fn send_within<M, T, E>(
        &self,
        limit: impl Into<Option<Duration>>,
        message: M,
    ) -> PoolRequest<Result<T, E>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        self.route::<M>().send::<W, M, T, E>(message, limit.into())
    }

    /// Runs these messages in order on one free worker, as a [`Batch`](crate::Batch) on a checkout of its own.
    ///
    /// The pool's [`timeout`](crate::PoolBuilder::timeout) holds for each message. The result has one answer for each
    /// message, at the message's index.
    ///
    /// # Errors
    ///
    /// Those of each message, as for [`send`](Self::send). An error answers the messages behind it with
    /// [`Cleared`](crate::FailureKind::Cleared).
    ///
    /// # Cancellation
    ///
    /// As that of a [`Batch`](crate::Batch).
    #[track_caller]
    pub fn send_batch<M, T, E>(&self, messages: Vec<M>) -> PoolRequest<Vec<Result<T, E>>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize + Send + 'static,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        let limit = self.shared.scheduler.options.timeout;
        self.route::<M>().send_batch::<W, M, T, E>(messages, limit)
    }

    /// Runs a message on any free worker and drops its answer. A failure goes to the error-handling context in force.
    #[track_caller]
    pub fn do_send<M, T, E>(&self, message: M)
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        self.route::<M>().do_send::<W, M, T, E>(message);
    }

    /// As [`do_send`](Self::do_send), but reports a pool that has stopped.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] with the message if the pool has stopped or is stopping. It is never `Full`.
    #[track_caller]
    pub fn try_send<M, T, E>(&self, message: M) -> Result<(), SendError<M>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        self.route::<M>().try_send::<W, M, T, E>(message)
    }

    /// Returns the options of a new checkout, which is exclusive use of one worker.
    ///
    /// A checkout that saw an `Err` has its worker replaced when it is released, since the worker's state may be
    /// inconsistent. For workers without such state, use [`keep_after_error(true)`](CheckoutBuilder::keep_after_error).
    ///
    /// The caller's place in the source is kept: a call that waits for a worker until its time limit names those who hold
    /// the workers.
    #[track_caller]
    pub fn checkout(&self) -> CheckoutBuilder<W> {
        CheckoutBuilder {
            scheduler: self.shared.scheduler.clone(),
            options: CallOptions::of(&self.shared.scheduler.options),
            context: None,
            log: None,
            at: Location::caller(),
            worker: PhantomData,
        }
    }

    /// Returns the class of callers with this name: its calls and checkouts have at most so many workers at a time as
    /// [`most`](ClassBuilder::most) says, whatever [`most_for`](crate::PoolBuilder::most_for) says of their messages. The
    /// name has 1 to 64 bytes and no control characters.
    ///
    /// ```no_run
    /// # use forkpool::prelude::*;
    /// # fn classes<W: Worker>(pool: &PoolHandle<W>) -> Result<(), forkpool::OptionError> {
    /// let thumbnails = pool.class("thumbnails").most(3)?;
    /// let checkout = thumbnails.checkout().start();
    /// # Ok(())
    /// # }
    /// ```
    pub fn class(&self, name: impl Into<String>) -> ClassBuilder<W> {
        ClassBuilder { pool: self.clone(), name: name.into() }
    }

    /// Waits until the fewest workers, as set by [`workers`](crate::PoolBuilder::workers), are set up. If the fewest are
    /// none, it is ready at once.
    ///
    /// # Errors
    ///
    /// The failure of the first attempt that fails while this waits: of a set-up or a fork
    /// ([`Setup`](crate::FailureKind::Setup)), or of starting or reaching the fork server
    /// ([`NoServer`](crate::FailureKind::NoServer)). The pool keeps trying, and another call of this method waits for the
    /// next attempt. [`Stopped`](crate::FailureKind::Stopped) if the pool has stopped or is stopping.
    ///
    /// # Cancellation
    ///
    /// Dropping the future changes nothing.
    pub fn ready(&self) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        self.awaited(self.shared.scheduler.ready())
    }

    /// Waits for the scheduler's answer to a request for workers, and finds the names in its backtrace.
    fn awaited(
        &self,
        answer: oneshot::Receiver<Result<(), Failure>>,
    ) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        let scheduler = self.shared.scheduler.clone();
        async move {
            match answer.await.unwrap_or_else(|_| Err(scheduler.stopped_failure())) {
                Ok(()) => Ok(()),
                Err(failure) => Err(symbolizer::resolved(failure).await),
            }
        }
    }

    /// Replaces workers by new ones without ending a call: idle workers at once, and each of the others when its checkout
    /// releases it or its single calls have finished.
    ///
    /// As long as the pool has room below its most [`workers`](crate::PoolBuilder::workers), an old worker serves until
    /// its replacement is set up. At the most, one worker ends before its replacement is forked, and the next one only
    /// once that is set up: so this never takes the pool more than one below its fewest workers. If new workers cannot be
    /// set up, the old ones serve on. Idle workers above the fewest are replaced when they are needed again. A paused
    /// pool recycles as well.
    ///
    /// The replacement is begun when this returns. [`Recycling::workers`] returns how many workers it concerns, which is 0
    /// for an unknown number and for a pool that has stopped or is stopping; awaiting the [`Recycling`] waits until they
    /// are replaced.
    pub fn recycle(&self, which: Recycle) -> Recycling {
        let (workers, replaced) = self.shared.scheduler.recycle(which);
        Recycling { workers, replaced: Box::pin(self.awaited(replaced)) }
    }

    /// Kills the worker with this number at once, with SIGKILL, whatever it does, and has it replaced. Returns whether
    /// there was such a process: `false` also for a worker that is not forked yet.
    ///
    /// The call that it runs fails with [`Aborted`](crate::FailureKind::Aborted) and a text that names `kill_worker`. Calls
    /// behind it on the same checkout are [`Cleared`](crate::FailureKind::Cleared), and later ones get the same failure; a
    /// checkout that has made no call gets another worker. Single calls that it had not begun run on other workers.
    /// [`kill_grace`](crate::PoolBuilder::kill_grace) does not delay it, and [`max_kills`](crate::PoolBuilder::max_kills)
    /// does not count it.
    pub fn kill_worker(&self, number: u64) -> bool {
        self.shared.scheduler.kill_worker(number)
    }

    /// Pauses the pool: no further checkout gets a worker and no further call to the pool begins, until
    /// [`resume`](Self::resume). Returns whether this paused it: `false` if it was paused already, or has stopped or is
    /// stopping.
    ///
    /// What runs goes on: checkouts that have their workers keep them and may make calls. A single call that was given to a
    /// worker before may still begin there. All others wait, in order and as their limits say; the time counts as waiting,
    /// a [`Timeout`](crate::FailureKind::Timeout) says that the pool is paused, and
    /// [`max_waiting`](crate::PoolBuilder::max_waiting) bounds their number. The pool keeps its fewest workers and forks no
    /// others meanwhile. [`stop`](Self::stop) ends a paused pool as any other, and a paused pool whose last handle is
    /// dropped is resumed.
    pub fn pause(&self) -> bool {
        self.shared.scheduler.pause()
    }

    /// Ends a [`pause`](Self::pause). Returns whether the pool was paused.
    pub fn resume(&self) -> bool {
        self.shared.scheduler.resume()
    }

    /// Returns what the pool is doing now, and its totals since its start, in few numbers: the cheap part of
    /// [`snapshot`](Self::snapshot), which reads memory alone.
    pub fn stats(&self) -> Stats {
        self.shared.scheduler.stats()
    }

    /// Returns what the pool is doing now, worker by worker and message by message, and its totals since its start.
    ///
    /// It works on any thread and at any time, also while the pool stops and after that, and waits for no worker, arbiter or
    /// server. It costs calls nothing. For each worker of this machine it reads a few lines of `/proc`, some tens of
    /// microseconds.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.scheduler.snapshot()
    }

    /// Returns the options of a console: a Unix socket, such as `unix:/run/app.pools.sock`, at which viewers ask what this
    /// pool does. Processes of this process's user and of root may look. The console ends with the pool.
    ///
    /// ```no_run
    /// # use forkpool::prelude::*;
    /// # fn show<V: Worker, W: Worker>(orders: &PoolHandle<V>, images: &PoolHandle<W>) -> Result<(), forkpool::ConsoleError> {
    /// orders.console("unix:/run/app.pools.sock").add(images).open()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn console(&self, address: impl Into<String>) -> ConsoleBuilder {
        ConsoleBuilder::new(address.into()).add(self)
    }

    /// Returns what the pool's fork server is doing now, and its totals since its start, for all applications that it
    /// serves.
    ///
    /// # Errors
    ///
    /// [`NoServer`](crate::FailureKind::NoServer) if there is no server, or if it does not answer within five seconds, for
    /// example because its process is stopped or the pool's own arbiter stands still; the line of the failure says which.
    /// [`Stopped`](crate::FailureKind::Stopped) if the pool has stopped.
    pub fn server_stats(&self) -> impl Future<Output = Result<ServerStats, Failure>> + Send + 'static {
        let (requester, stats) = oneshot::channel();
        self.shared.scheduler.command(Command::Inspect(requester));
        let scheduler = self.shared.scheduler.clone();
        let instead = unattended::inspect(&scheduler);
        async move {
            let report = unattended::answer(stats, instead).await;
            let report = report.unwrap_or_else(|| Err(scheduler.stopped_or_no_server()));
            report.map(ServerStats::from)
        }
    }

    /// Stops the pool; the future resolves once its last process is reaped, and at the latest five seconds after the drain.
    /// The report says what is left then, which is nothing unless a process could not be ended, or the arbiter that was
    /// given to [`start_in`](crate::PoolBuilder::start_in) stands still.
    ///
    /// No further checkout gets a worker. Calls that run or are queued on held checkouts may finish for up to `drain`;
    /// then the remaining workers are killed. `Duration::ZERO` kills them at once.
    ///
    /// # Cancellation
    ///
    /// Dropping the future does not keep the pool from stopping.
    pub fn stop(&self, drain: Duration) -> impl Future<Output = StopReport> + Send + 'static {
        pool::stop(self.shared.scheduler.clone(), drain)
    }

    /// Returns the way of this message to a worker.
    pub(crate) fn route<M>(&self) -> Route<'_>
    where
        W: Accepts<M>,
    {
        let scheduler = &self.shared.scheduler;
        Route { scheduler, bulkhead: scheduler.bulkhead_of(W::METHOD) }
    }
}
