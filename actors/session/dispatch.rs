//! Single messages that are sent to a pool, on their way to a lane; and batches, each of which is a session of its own.

use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::OneshotSender;
use actix::{ArbiterHandle, Message};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::direct::{DirectSession, Executor};
use super::{CallOptions, PendingSession};
use crate::actors::calls::payload::{EncodeMessage, Payload};
use crate::actors::calls::{MethodInfo, PendingCall};
use crate::actors::context::CallOrigin;
use crate::actors::lane::{Lane, Ticket};
use crate::actors::reply::{BatchSlots, CallSlot, OwnPolicy, ReplySlot};
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::bulkheads::Bulkhead;
use crate::actors::scheduler::permits::Permit;
use crate::actors::transport::blobs::Encoded;
use crate::actors::worker_api::interface::Accepts;
use crate::actors::worker_api::worker::Worker;
use crate::failure::Failure;
use crate::user_code::{UserValues, caught};
use crate::wire::frame;
use crate::wire::frame::{Limits, PayloadError};

/// Builds a call of the message `M`.
pub(crate) fn call<W: Accepts<M>, M>(
    slot: CallSlot,
    limit: Option<Duration>,
    origin: CallOrigin,
) -> PendingCall {
    call_of(MethodOf::<W, M>::INFO, slot, limit, origin)
}

fn call_of(
    method: &'static MethodInfo,
    slot: CallSlot,
    limit: Option<Duration>,
    origin: CallOrigin,
) -> PendingCall {
    PendingCall { slot, method, limit, call_hash: None, origin, timer: None }
}

struct MethodOf<W, M>(PhantomData<(W, M)>);

impl<W: Accepts<M>, M> MethodOf<W, M> {
    const INFO: &'static MethodInfo = &MethodInfo { name: W::NAME, index: W::METHOD, describe: W::DESCRIBE };
}

/// Returns what the calls of the message `M` have in common.
pub(crate) fn method_of<W: Accepts<M>, M>() -> &'static MethodInfo {
    MethodOf::<W, M>::INFO
}

/// The time limit of a call, or why it is unknown: the user's conversion panicked.
pub(crate) type CallLimit = Result<Option<Duration>, PayloadError>;

/// Returns the time limit that a [`Within`](crate::Within) carries.
pub(crate) fn limit_of<D: Into<Option<Duration>>>(limit: D) -> CallLimit {
    caught(|| limit.into()).ok_or_else(|| PayloadError::Encode {
        type_name: std::any::type_name::<D>(),
        reason: "its Into panicked".to_owned(),
    })
}

/// A message of the user's, and the time limit of its call.
pub(crate) struct LimitedMessage<'a, M>(pub(crate) &'a M, pub(crate) &'a CallLimit);

impl<M: Serialize> EncodeMessage for LimitedMessage<'_, M> {
    /// As the trait says; it fails as well if the time limit is unknown. A panic in the user's `Serialize` becomes an
    /// error.
    fn encode(&self, out: &mut Vec<u8>, limits: Limits) -> Result<(), PayloadError> {
        let LimitedMessage(message, limit) = self;
        if let Err(problem) = limit {
            return Err(problem.clone());
        }
        caught(|| frame::encode(out, message, limits)).unwrap_or_else(|| {
            Err(PayloadError::Encode {
                type_name: std::any::type_name::<M>(),
                reason: "its Serialize panicked".to_owned(),
            })
        })
    }
}

/// A message to the pool on its way to the lane of an arbiter; `N` is the type it was sent as.
pub struct Relay<W, M, N = M> {
    scheduler: Arc<Scheduler>,
    message: Result<Encoded, PayloadError>,
    limit: Option<Duration>,
    origin: CallOrigin,
    types: PhantomData<fn(W, M, N)>,
}

impl<W, M, N> std::fmt::Debug for Relay<W, M, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("message", &self.message).finish_non_exhaustive()
    }
}

impl<W: Worker, M: Message + Serialize, N> Relay<W, M, N> {
    /// Encodes a message.
    pub(crate) fn new(scheduler: &Arc<Scheduler>, message: &M, limit: CallLimit, origin: CallOrigin) -> Self {
        let message = LimitedMessage(message, &limit);
        let message = Payload::Value(&message).into_encoded(scheduler, origin.baggage().len());
        Relay {
            scheduler: scheduler.clone(),
            message,
            limit: limit.unwrap_or(None),
            origin,
            types: PhantomData,
        }
    }
}

impl<W, M, N, T, E> Relay<W, M, N>
where
    W: Worker + Accepts<M>,
    M: Message<Result = Result<T, E>>,
    T: DeserializeOwned + Send + 'static,
    E: DeserializeOwned + From<Failure> + Send + 'static,
{
    /// Runs the call in the lane of this thread, which is an arbiter's.
    pub(crate) fn run_here(self, caller: Option<OneshotSender<Result<T, E>>>) {
        let call = call::<W, M>(ReplySlot::answering(caller, None), self.limit, self.origin);
        let bulkhead = self.scheduler.bulkhead_of(W::METHOD);
        Lane::run_here(&self.scheduler, bulkhead).submit_encoded(call, self.message, None, None);
    }

    /// Runs the call in the lane of an arbiter that is for this bulkhead. `caller` has the number of its request.
    pub(crate) fn run(
        self,
        arbiter: &ArbiterHandle,
        bulkhead: Option<Arc<Bulkhead>>,
        caller: Option<(OneshotSender<Result<T, E>>, NonZeroUsize)>,
        permit: Option<Permit>,
    ) {
        let Relay { scheduler, message, limit, origin, .. } = self;
        let (method, ticket) = (MethodOf::<W, M>::INFO, Ticket::new(&scheduler, bulkhead.as_ref()));
        // An arbiter that has ended drops the caller, who is answered then.
        arbiter.spawn(async move {
            let (caller, number) = caller.unzip();
            let call = call_of(method, ReplySlot::answering(caller, number), limit, origin);
            Lane::run_here(&scheduler, bulkhead.as_ref()).submit_encoded(call, message, ticket, permit);
        });
    }
}

/// Returns the calls of a batch, each with its message.
pub(crate) fn calls_of<'a, W, M, T, E>(
    messages: &'a [M],
    slots: &'a Rc<BatchSlots<Result<T, E>>>,
    limit: &'a CallLimit,
    origin: &'a CallOrigin,
) -> impl Iterator<Item = (PendingCall, LimitedMessage<'a, M>)>
where
    W: Accepts<M>,
    M: Message<Result = Result<T, E>> + Serialize,
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    messages.iter().enumerate().map(move |(place, message)| {
        let call = call::<W, M>(slots.slot(place), limit.clone().unwrap_or(None), origin.clone());
        (call, LimitedMessage(message, limit))
    })
}

/// A batch to the pool that has asked for a worker: a checkout of its own, whose session ends with the batch.
pub(crate) struct BatchRelay<M> {
    scheduler: Arc<Scheduler>,
    /// `None` for an empty batch.
    pending: Option<PendingSession>,
    pub(crate) messages: UserValues<M>,
    limit: CallLimit,
    origin: CallOrigin,
}

impl<M> BatchRelay<M> {
    /// Asks the scheduler for a worker, unless the batch is empty. The worker counts towards the bulkhead.
    pub(crate) fn new(
        scheduler: &Arc<Scheduler>,
        bulkhead: Option<&Arc<Bulkhead>>,
        messages: Vec<M>,
        limit: CallLimit,
        origin: CallOrigin,
    ) -> Self {
        let bulkhead = bulkhead.map(|bulkhead| bulkhead.id);
        let options = CallOptions { bulkhead, ..CallOptions::of(&scheduler.options) };
        let ask = || PendingSession::new(scheduler.clone(), options, origin.at());
        let pending = (!messages.is_empty()).then(ask);
        BatchRelay { scheduler: scheduler.clone(), pending, messages: UserValues(messages), limit, origin }
    }
}

impl<M> BatchRelay<M> {
    /// Runs the batch on this thread if it has an arbiter, and otherwise where such calls run.
    pub(crate) fn run<W, T, E>(self, caller: Option<OneshotSender<Vec<Result<T, E>>>>, own: Option<OwnPolicy>)
    where
        W: Worker + Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize + Send + 'static,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        match Executor::of_arbiter() {
            Some(executor) => self.run_on::<W, T, E>(executor, caller, own),
            None => {
                // An arbiter that has ended drops the caller, who is answered then.
                self.scheduler.arbiter_here().spawn(async move {
                    if let Some(executor) = Executor::of_arbiter() {
                        self.run_on::<W, T, E>(executor, caller, own);
                    }
                });
            }
        }
    }

    /// Runs the batch on this thread, of which this is the executor. If it has a worker, its first calls are written now.
    fn run_on<W, T, E>(
        self,
        executor: Executor,
        caller: Option<OneshotSender<Vec<Result<T, E>>>>,
        own: Option<OwnPolicy>,
    ) where
        W: Worker + Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + 'static,
        E: DeserializeOwned + From<Failure> + 'static,
    {
        let BatchRelay { pending, messages, limit, origin, .. } = self;
        let slots = BatchSlots::answering(messages.0.len(), caller, own);
        let Some(pending) = pending else { return };
        let control = Arc::default();
        let place = DirectSession::start(executor, pending, &control);
        let Some(session) = DirectSession::find(place) else { return };
        session.take_grant();
        for (call, message) in calls_of::<W, M, T, E>(&messages.0, &slots, &limit, &origin) {
            session.submit(call, Payload::Value(&message));
        }
        control.close();
    }
}
