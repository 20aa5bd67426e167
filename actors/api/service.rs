//! A pool as a service of tower.

use std::sync::Arc;
use std::task::{Context, Poll};

use actix::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower_service::Service;

use super::class_handle::ClassHandle;
use super::pool_handle::PoolHandle;
use super::request::PoolRequest;
use super::sending::Route;
use crate::actors::scheduler::bulkheads::Bulkhead;
use crate::actors::scheduler::permits::Permit;
use crate::actors::worker_api::interface::Accepts;
use crate::actors::worker_api::worker::Worker;
use crate::config::OptionError;
use crate::failure::Failure;

/// A pool as a [`tower_service::Service`] of each message of its interface, for tower's layers, for axum and for tonic.
///
/// [`PoolHandle::service`] and [`ClassHandle::service`] make one. It is `Send` and `Sync`, works on any thread and in any
/// runtime, and keeps the pool running as a handle does.
///
/// `poll_ready` takes a permit: one of the places in the pool's queue that
/// [`max_waiting`](crate::PoolBuilder::max_waiting) bounds, or the place of a call that would not have to wait. It is
/// pending until there is one, and is woken then, those first that have waited longest. `call` uses the permit up, so
/// its call is never answered [`Overloaded`](crate::FailureKind::Overloaded) because too many wait. Dropping the service
/// gives the permit back, and a clone has none. A permit counts as a call that waits: callers without one are refused the
/// earlier, so keep none without a call to come. A `call` without a permit is a [`send`](PoolHandle::send).
///
/// # Errors
///
/// A response is what [`PoolHandle::send`] returns: the handler's own error, or one made from a [`Failure`]. `poll_ready`
/// fails with [`Stopped`](crate::FailureKind::Stopped) once the pool has stopped or is stopping.
///
/// # Cancellation
///
/// As [`PoolHandle::send`]. So a layer that drops the future, such as tower's `timeout`, cancels the call, and
/// [`on_cancel`](crate::PoolBuilder::on_cancel) of the pool says what becomes of one that runs.
///
/// ```no_run
/// # use actix::prelude::*;
/// # use forkpool::prelude::*;
/// use tower_service::Service;
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Add(u64);
/// # impl Message for Add {
/// #     type Result = Result<u64, Failure>;
/// # }
///
/// async fn add<W>(pool: &PoolHandle<W>) -> Result<u64, Box<dyn std::error::Error>>
/// where
///     W: Worker + forkpool::Accepts<Add>,
/// {
///     let mut service = pool.service()?; // the pool has a `max_waiting`
///     std::future::poll_fn(|cx| Service::<Add>::poll_ready(&mut service, cx)).await?;
///     Ok(service.call(Add(1)).await?)
/// }
/// ```
pub struct PoolService<W: Worker> {
    pool: PoolHandle<W>,
    /// That of the class, if it is the service of one.
    class: Option<Arc<Bulkhead>>,
    permit: Option<Permit>,
}

impl<W: Worker> Clone for PoolService<W> {
    /// Returns a service without a permit.
    fn clone(&self) -> Self {
        PoolService { pool: self.pool.clone(), class: self.class.clone(), permit: None }
    }
}

impl<W: Worker> std::fmt::Debug for PoolService<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let class = self.class.as_ref().map(|class| class.name());
        f.debug_struct("PoolService")
            .field("pool", &self.pool.name())
            .field("class", &class)
            .finish_non_exhaustive()
    }
}

impl<W: Worker> PoolHandle<W> {
    /// Returns the pool as a service of tower: see [`PoolService`].
    ///
    /// # Errors
    ///
    /// [`OptionError`] with the option `max_waiting` if that is not set: without it the service would always be ready.
    pub fn service(&self) -> Result<PoolService<W>, OptionError> {
        PoolService::new(self.clone(), None)
    }
}

impl<W: Worker> ClassHandle<W> {
    /// Returns the class as a service of tower, whose calls are those of the class: see [`PoolService`].
    ///
    /// # Errors
    ///
    /// As [`PoolHandle::service`].
    pub fn service(&self) -> Result<PoolService<W>, OptionError> {
        PoolService::new(self.pool().clone(), Some(self.bulkhead().clone()))
    }
}

impl<W: Worker> PoolService<W> {
    fn new(pool: PoolHandle<W>, class: Option<Arc<Bulkhead>>) -> Result<Self, OptionError> {
        pool.scheduler().options.validate_service()?;
        Ok(PoolService { pool, class, permit: None })
    }

    fn route<M>(&self) -> Route<'_>
    where
        W: Accepts<M>,
    {
        let route = self.pool.route::<M>();
        Route { bulkhead: self.class.as_ref().or(route.bulkhead), ..route }
    }
}

impl<W, M, T, E> Service<M> for PoolService<W>
where
    W: Accepts<M>,
    M: Message<Result = Result<T, E>> + Serialize,
    T: DeserializeOwned + Send + 'static,
    E: DeserializeOwned + From<Failure> + Send + 'static,
{
    type Response = T;
    type Error = E;
    type Future = PoolRequest<Result<T, E>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        let route = self.route::<M>();
        let (scheduler, bulkhead) = (route.scheduler.clone(), route.bulkhead.map(|bulkhead| bulkhead.id));
        // One for a message at another bulkhead is given back: the service is to be ready for this message.
        drop(self.permit.take_if(|permit| !permit.is_at(bulkhead)));
        let permit = self.permit.get_or_insert_with(|| scheduler.request_permit(bulkhead, cx.waker()));
        let is_granted = permit.poll_granted(cx);
        // In this order: a pool that ends after this look wakes those that wait.
        if !scheduler.accepts_calls() {
            self.permit = None;
            return Poll::Ready(Err(E::from(scheduler.stopped_failure())));
        }
        is_granted.map(Ok)
    }

    #[track_caller]
    fn call(&mut self, message: M) -> Self::Future {
        let permit = self.permit.take();
        let route = self.route::<M>();
        let bulkhead = route.bulkhead.map(|bulkhead| bulkhead.id);
        let permit = permit.filter(|permit| permit.is_granted_at(bulkhead));
        route.send_with::<W, M, T, E>(message, route.scheduler.options.timeout, permit)
    }
}
