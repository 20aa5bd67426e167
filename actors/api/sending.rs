//! How messages to a pool are sent, for its handles: beside all others, or at a bulkhead.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use actix::Message;
use actix::dev::SendError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::request::PoolRequest;
use crate::actors::calls::payload::Payload;
use crate::actors::context::CallOrigin;
use crate::actors::lane::Lane;
use crate::actors::reply::{OwnPolicy, ReplySlot, next_request_number};
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::bulkheads::Bulkhead;
use crate::actors::scheduler::permits::Permit;
use crate::actors::session::dispatch::{BatchRelay, LimitedMessage, Relay, call};
use crate::actors::worker_api::interface::Accepts;
use crate::failure::Failure;
use crate::user_code::drop_caught;

/// The way of messages to the workers of a pool. Those at a bulkhead have their own lanes.
#[derive(Clone, Copy)]
pub(crate) struct Route<'a> {
    pub(crate) scheduler: &'a Arc<Scheduler>,
    pub(crate) bulkhead: Option<&'a Arc<Bulkhead>>,
}

impl Route<'_> {
    #[track_caller]
    pub(crate) fn send<W, M, T, E>(self, message: M, limit: Option<Duration>) -> PoolRequest<Result<T, E>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        self.send_with::<W, M, T, E>(message, limit, None)
    }

    /// Does the same with a place in the queue, if there is one: the call is not refused then because too many wait.
    #[track_caller]
    pub(crate) fn send_with<W, M, T, E>(
        self,
        message: M,
        limit: Option<Duration>,
        permit: Option<Permit>,
    ) -> PoolRequest<Result<T, E>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        let ((caller, answer), number) = (oneshot::channel(), next_request_number());
        self.run::<W, M, T, E>(message, limit, Some((caller, number)), permit);
        PoolRequest::single(answer, number, self.scheduler.clone())
    }

    #[track_caller]
    pub(crate) fn send_batch<W, M, T, E>(
        self,
        messages: Vec<M>,
        limit: Option<Duration>,
    ) -> PoolRequest<Vec<Result<T, E>>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize + Send + 'static,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        let ((caller, answer), own) = (oneshot::channel(), OwnPolicy::default());
        let (scheduler, calls) = (self.scheduler, messages.len());
        let batch = BatchRelay::new(scheduler, self.bulkhead, messages, Ok(limit), CallOrigin::here());
        batch.run::<W, T, E>(Some(caller), Some(own.clone()));
        PoolRequest::batch(answer, calls, own, scheduler.clone())
    }

    #[track_caller]
    pub(crate) fn do_send<W, M, T, E>(self, message: M)
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        self.run::<W, M, T, E>(message, self.scheduler.options.timeout, None, None);
    }

    #[track_caller]
    pub(crate) fn try_send<W, M, T, E>(self, message: M) -> Result<(), SendError<M>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        if !self.scheduler.is_open() {
            return Err(SendError::Closed(message));
        }
        self.do_send::<W, M, T, E>(message);
        Ok(())
    }

    #[track_caller]
    fn run<W, M, T, E>(
        self,
        message: M,
        limit: Option<Duration>,
        caller: Option<(oneshot::Sender<Result<T, E>>, NonZeroUsize)>,
        permit: Option<Permit>,
    ) where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        let (Route { scheduler, bulkhead }, origin) = (self, CallOrigin::here());
        match Lane::here(scheduler, bulkhead) {
            Some(lane) => {
                let (caller, number) = caller.unzip();
                let call = call::<W, M>(ReplySlot::answering(caller, number), limit, origin);
                lane.submit(call, Payload::Value(&LimitedMessage(&message, &Ok(limit))), permit);
                drop_caught(message);
            }
            None => {
                let relay = Relay::<W, M>::new(scheduler, &message, Ok(limit), origin);
                drop_caught(message);
                relay.run(&scheduler.arbiter_here(), bulkhead.cloned(), caller, permit);
            }
        }
    }
}
