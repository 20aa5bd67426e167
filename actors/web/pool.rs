//! The extractor of pools.

use std::fmt;
use std::future::{Ready, ready};
use std::time::Duration;

use actix::Message;
use actix_web::dev::Payload;
use actix_web::{Error, FromRequest, HttpRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::bound_call::{About, BoundCall, Terms};
use super::bound_checkout::BoundCheckoutBuilder;
use super::lookup::pool_of;
use crate::actors::api::class_handle::ClassHandle;
use crate::actors::api::pool_handle::PoolHandle;
use crate::actors::api::request::PoolRequest;
use crate::actors::api::sending::Route;
use crate::actors::worker_api::interface::Accepts;
use crate::actors::worker_api::worker::Worker;
use crate::failure::Failure;

/// The extractor of a pool, whose calls are bound to the request: they end when the client is gone, or the request's deadline
/// has passed.
///
/// It finds a [`PoolHandle<W>`](crate::PoolHandle) in the application's data, as itself or in `actix_web::web::Data`, and a
/// [`Config`](super::Config) that says by which policy calls end. [`on_connect`](super::on_connect) has to be given to the
/// `HttpServer` for a client to be seen that is gone while actix-web does not look.
///
/// ```no_run
/// # use actix::prelude::*;
/// # use actix_web::{App, HttpServer, Result};
/// # use forkpool::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Message, Serialize, Deserialize)]
/// # #[rtype(result = "Result<String, Failure>")]
/// # struct Hash(String);
/// # struct Hasher;
/// # impl Actor for Hasher { type Context = WorkerContext<Self>; }
/// # impl Worker for Hasher {
/// #     type Config = ();
/// #     fn setup(_: (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> { Ok(Hasher) }
/// # }
/// # impl Handler<Hash> for Hasher {
/// #     type Result = Result<String, Failure>;
/// #     fn handle(&mut self, hash: Hash, _: &mut WorkerContext<Self>) -> Self::Result { Ok(hash.0) }
/// # }
/// # forkpool::interface!(Hasher { Hash });
/// # forkpool::boot!(Hasher);
/// use actix_web::web;
///
/// async fn hash(pool: forkpool::web::Pool<Hasher>, text: String) -> String {
///     match pool.send(Hash(text)).await {
///         Ok(hash) => hash,
///         Err(failure) => failure.public().to_owned(),
///     }
/// }
///
/// # #[actix::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::<Hasher>::builder(()).start()?;
/// let app = move || App::new().app_data(pool.clone()).route("/hash", web::post().to(hash));
/// HttpServer::new(app).on_connect(forkpool::web::on_connect).bind("127.0.0.1:8080")?.run().await?;
/// # Ok(())
/// # }
/// ```
pub struct Pool<W: Worker> {
    handle: PoolHandle<W>,
    class: Option<ClassHandle<W>>,
    terms: Terms,
}

impl<W: Worker> Clone for Pool<W> {
    fn clone(&self) -> Self {
        Pool { handle: self.handle.clone(), class: self.class.clone(), terms: self.terms.clone() }
    }
}

impl<W: Worker> fmt::Debug for Pool<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("handle", &self.handle)
            .field("class", &self.class)
            .finish_non_exhaustive()
    }
}

impl<W: Worker> FromRequest for Pool<W> {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(request))
    }
}

impl<W: Worker> Pool<W> {
    fn of(request: &HttpRequest) -> Result<Self, Error> {
        Ok(Pool { handle: pool_of(request)?, class: None, terms: Terms::of(request)? })
    }

    /// Returns the handle of the pool, whose calls are not bound to the request: for what has to be finished whether the
    /// client waits or not.
    pub fn handle(&self) -> &PoolHandle<W> {
        &self.handle
    }

    /// Returns the same pool for the calls and checkouts of a class, which is one of this pool.
    ///
    /// ```no_run
    /// # use forkpool::prelude::*;
    /// # fn thumbnails<W: Worker>(
    /// #     pool: forkpool::web::Pool<W>,
    /// #     thumbnails: actix_web::web::Data<forkpool::ClassHandle<W>>,
    /// # ) {
    /// let checkout = pool.class(&thumbnails).checkout().open();
    /// # }
    /// ```
    pub fn class(&self, class: &ClassHandle<W>) -> Self {
        Pool { handle: class.pool().clone(), class: Some(class.clone()), terms: self.terms.clone() }
    }

    fn route<M>(&self) -> Route<'_>
    where
        W: Accepts<M>,
    {
        self.class.as_ref().map_or_else(|| self.handle.route::<M>(), ClassHandle::route)
    }

    fn about<M>(&self, calls: usize) -> About
    where
        W: Accepts<M>,
    {
        About { scheduler: self.handle.scheduler().clone(), message: W::NAME, calls }
    }

    /// Runs a message on any free worker, as [`PoolHandle::send`](crate::PoolHandle::send) does, until the client is gone: with
    /// the pool's [`timeout`](crate::PoolBuilder::timeout), or what is left of the request's deadline if that is less.
    ///
    /// # Errors
    ///
    /// As [`PoolHandle::send`](crate::PoolHandle::send), and [`Cancelled`](crate::FailureKind::Cancelled) once the client is
    /// gone.
    ///
    /// # Cancellation
    ///
    /// As that of a [`BoundCall`].
    #[track_caller]
    pub fn send<M, T, E>(&self, message: M) -> BoundCall<PoolRequest<Result<T, E>>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        self.send_within(self.handle.scheduler().options.timeout, message)
    }

    /// As [`send`](Self::send), with a time limit of its own; the request's deadline holds as well.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    ///
    /// # Cancellation
    ///
    /// As that of a [`BoundCall`].
    #[track_caller]
    pub fn send_within<M, T, E>(
        &self,
        limit: impl Into<Option<Duration>>,
        message: M,
    ) -> BoundCall<PoolRequest<Result<T, E>>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        let (about, limit) = (self.about::<M>(1), self.terms.limit(limit.into()));
        let Some(policy) = self.terms.policy() else { return self.terms.bind(about, None) };
        let call = self.route::<M>().send::<W, M, T, E>(message, limit).on_cancel(policy);
        self.terms.bind(about, Some(call))
    }

    /// Runs these messages in order on one free worker, as [`PoolHandle::send_batch`](crate::PoolHandle::send_batch) does,
    /// until the client is gone or the request's deadline has passed.
    ///
    /// # Errors
    ///
    /// Those of each message, as for [`send`](Self::send).
    ///
    /// # Cancellation
    ///
    /// As that of a [`BoundCall`].
    #[track_caller]
    pub fn send_batch<M, T, E>(&self, messages: Vec<M>) -> BoundCall<PoolRequest<Vec<Result<T, E>>>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize + Send + 'static,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        let limit = self.terms.limit(self.handle.scheduler().options.timeout);
        let about = self.about::<M>(messages.len());
        let Some(policy) = self.terms.policy() else { return self.terms.bind(about, None) };
        let call = self.route::<M>().send_batch::<W, M, T, E>(messages, limit).on_cancel(policy);
        self.terms.bind_queued(about, Some(call))
    }

    /// Returns the options of a new checkout, whose calls are bound to the request.
    #[track_caller]
    pub fn checkout(&self) -> BoundCheckoutBuilder<W> {
        let builder = match &self.class {
            Some(class) => class.checkout(),
            None => self.handle.checkout(),
        };
        BoundCheckoutBuilder::new(builder, self.terms.clone())
    }
}
