//! Classes of callers: those of one class have at most so many workers of a pool at a time.

use std::sync::Arc;
use std::time::Duration;

use actix::Message;
use actix::dev::SendError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::checkout_builder::CheckoutBuilder;
use super::pool_handle::PoolHandle;
use super::request::PoolRequest;
use super::sending::Route;
use crate::actors::scheduler::bulkheads::Bulkhead;
use crate::actors::worker_api::interface::Accepts;
use crate::actors::worker_api::worker::Worker;
use crate::config::OptionError;
use crate::failure::Failure;

/// A class of callers before it has its number of workers. [`PoolHandle::class`](crate::PoolHandle::class) makes one.
#[must_use = "a class has a handle once `most` has set its number of workers"]
pub struct ClassBuilder<W: Worker> {
    pub(super) pool: PoolHandle<W>,
    pub(super) name: String,
}

impl<W: Worker> std::fmt::Debug for ClassBuilder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClassBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<W: Worker> ClassBuilder<W> {
    /// Sets the most workers that the class may have at a time, 1 to the pool's most, and returns a handle of the class.
    ///
    /// All handles of the class share the number that was set last. After a smaller one the class keeps the workers that it
    /// has until they are released; after a greater one it gets more at once.
    ///
    /// # Errors
    ///
    /// [`OptionError`] with the option `class` if the name is empty, longer than 64 bytes or has control characters, and
    /// with the option `most` for a number that is 0 or exceeds the pool's most. Nothing has changed then.
    pub fn most(self, count: usize) -> Result<ClassHandle<W>, OptionError> {
        let scheduler = self.pool.scheduler();
        scheduler.options.validate_class(&self.name, count)?;
        let bulkhead = scheduler.class(&self.name, count);
        Ok(ClassHandle { pool: self.pool, bulkhead })
    }
}

/// A class of callers of a pool: its calls and its checkouts together have at most so many workers at a time, so the others
/// are there for everybody else. Clone it wherever it is needed: it is `Send` and `Sync`.
///
/// `pool.class("thumbnails").most(3)?` makes one. All handles of one name are of one class. A call or checkout waits while
/// the class has as many workers as it may have; those that may have a worker pass it over, and it keeps its place in the
/// queue. That time counts as waiting, and a [`Timeout`](crate::FailureKind::Timeout) then names the class.
///
/// It keeps the pool running, as a [`PoolHandle`](crate::PoolHandle) does. A class lasts as long as its pool: use few
/// names, and not one for each request.
pub struct ClassHandle<W: Worker> {
    pool: PoolHandle<W>,
    bulkhead: Arc<Bulkhead>,
}

impl<W: Worker> Clone for ClassHandle<W> {
    fn clone(&self) -> Self {
        ClassHandle { pool: self.pool.clone(), bulkhead: self.bulkhead.clone() }
    }
}

impl<W: Worker> std::fmt::Debug for ClassHandle<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (pool, name) = (self.pool.name(), self.name());
        f.debug_struct("ClassHandle").field("pool", &pool).field("name", &name).finish_non_exhaustive()
    }
}

impl<W: Worker> ClassHandle<W> {
    /// Returns the class's name.
    pub fn name(&self) -> &str {
        self.bulkhead.name()
    }

    /// Returns the handle of the pool, whose calls and checkouts do not belong to the class.
    pub fn pool(&self) -> &PoolHandle<W> {
        &self.pool
    }

    #[cfg(feature = "tower")]
    pub(super) fn bulkhead(&self) -> &Arc<Bulkhead> {
        &self.bulkhead
    }

    pub(crate) fn route(&self) -> Route<'_> {
        Route { scheduler: self.pool.scheduler(), bulkhead: Some(&self.bulkhead) }
    }

    /// As [`PoolHandle::send`](crate::PoolHandle::send), on a worker of the class.
    ///
    /// # Errors
    ///
    /// As [`PoolHandle::send`](crate::PoolHandle::send).
    ///
    /// # Cancellation
    ///
    /// As [`PoolHandle::send`](crate::PoolHandle::send).
    #[track_caller]
    pub fn send<M, T, E>(&self, message: M) -> PoolRequest<Result<T, E>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        self.route().send::<W, M, T, E>(message, self.pool.scheduler().options.timeout)
    }

    /// As [`PoolHandle::send_within`](crate::PoolHandle::send_within), on a worker of the class.
    ///
    /// # Errors
    ///
    /// As [`PoolHandle::send`](crate::PoolHandle::send).
    ///
    /// # Cancellation
    ///
    /// As [`PoolHandle::send`](crate::PoolHandle::send).
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
        self.route().send::<W, M, T, E>(message, limit.into())
    }

    /// As [`PoolHandle::send_batch`](crate::PoolHandle::send_batch), on a worker of the class.
    ///
    /// # Errors
    ///
    /// As [`PoolHandle::send_batch`](crate::PoolHandle::send_batch).
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
        self.route().send_batch::<W, M, T, E>(messages, self.pool.scheduler().options.timeout)
    }

    /// As [`PoolHandle::do_send`](crate::PoolHandle::do_send), on a worker of the class.
    #[track_caller]
    pub fn do_send<M, T, E>(&self, message: M)
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        self.route().do_send::<W, M, T, E>(message);
    }

    /// As [`PoolHandle::try_send`](crate::PoolHandle::try_send), on a worker of the class.
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
        self.route().try_send::<W, M, T, E>(message)
    }

    /// As [`PoolHandle::checkout`](crate::PoolHandle::checkout): the checkout's worker counts as one of the class.
    #[track_caller]
    pub fn checkout(&self) -> CheckoutBuilder<W> {
        let mut builder = self.pool.checkout();
        builder.options.bulkhead = Some(self.bulkhead.id);
        builder
    }
}
