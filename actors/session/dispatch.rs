//! Calls that are sessions of their own: single messages and batches that were sent to a pool.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::dev::OneshotSender;
use actix::{ArbiterHandle, Message};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::call_queue::{MethodInfo, PendingCall};
use super::{CallOptions, Host, PendingSession, Session};
use crate::actors::context::Origin;
use crate::actors::reply::{BatchSlots, SingleReply, Slot};
use crate::actors::scheduler::Scheduler;
use crate::actors::transport::blobs::Encoded;
use crate::actors::worker_api::interface::Accepts;
use crate::actors::worker_api::worker::Worker;
use crate::failure::Failure;
use crate::wire::frame;
use crate::wire::frame::PayloadError;

/// A call of this message.
pub(crate) fn call<W: Accepts<M>, M>(slot: Slot, limit: Option<Duration>, origin: Origin) -> PendingCall {
    PendingCall { slot, kind: KindOf::<W, M>::KIND, limit, mark: None, origin, timer: None }
}

struct KindOf<W, M>(PhantomData<(W, M)>);

impl<W: Accepts<M>, M> KindOf<W, M> {
    const KIND: &'static MethodInfo = &MethodInfo { name: W::NAME, method: W::METHOD, describe: W::DESCRIBE };
}

/// Encodes a message; a panic of the user's own `Serialize` is an error like any other.
pub(crate) fn encode<M: Serialize>(out: &mut Vec<u8>, message: &M, limit: usize) -> Result<(), PayloadError> {
    let encode = std::panic::AssertUnwindSafe(|| frame::encode(out, message, limit));
    std::panic::catch_unwind(encode).unwrap_or_else(|_| {
        Err(PayloadError::Encode {
            type_name: std::any::type_name::<M>(),
            reason: "its Serialize panicked".to_owned(),
        })
    })
}

/// One call to the pool itself: a checkout without an address, which ends with its call.
pub(crate) struct Single(pub(crate) Session);

impl Single {
    /// Runs one call, encoded already, on an arbiter.
    pub(crate) fn spawn<W, M, T, E>(
        arbiter: &ArbiterHandle,
        pending: PendingSession,
        message: Result<Encoded, PayloadError>,
        caller: Option<actix::dev::OneshotSender<M::Result>>,
        limit: Option<Duration>,
        origin: Origin,
    ) where
        W: Worker + Accepts<M>,
        M: Message<Result = Result<T, E>>,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        arbiter.spawn(async move {
            let mut session = pending.start();
            let call = call::<W, M>(SingleReply::answering(caller), limit, origin);
            let mut encode = |out: &mut Vec<u8>, _: usize| match &message {
                Ok(message) => {
                    message.write(out);
                    Ok(())
                }
                Err(problem) => Err(problem.clone()),
            };
            session.submit(call, &mut encode, &mut NoRequester);
            actix_rt::spawn(Single(session));
        });
    }
}

impl Future for Single {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<()> {
        self.0.poll(task, &mut NoRequester)
    }
}

/// Where a single call runs: there is no address, and nothing behind it.
struct NoRequester;

impl Host for NoRequester {
    fn is_connected(&self) -> bool {
        false
    }

    fn send_fence(&mut self, _: u64) -> bool {
        false
    }
}

/// A message on its way to whichever worker is free; `N` is what it was sent as.
#[derive(Debug)]
pub struct Relay<W, M, N = M> {
    pending: PendingSession,
    message: Result<Encoded, PayloadError>,
    limit: Option<Duration>,
    origin: Origin,
    kinds: PhantomData<fn(W, M, N)>,
}

impl<W: Worker, M: Message + Serialize, N> Relay<W, M, N> {
    /// Joins the line with a message.
    pub(crate) fn new(
        scheduler: &Arc<Scheduler>,
        message: &M,
        limit: Option<Duration>,
        origin: Origin,
    ) -> Self {
        let most = frame::room_beside(origin.baggage().len(), scheduler.options.max_payload);
        let message = Encoded::of(scheduler.blobs.as_ref(), |out| encode(out, message, most));
        let pending = PendingSession::new(scheduler.clone(), CallOptions::single(&scheduler.options));
        Relay { pending, message, limit, origin, kinds: PhantomData }
    }
}

impl<W, M, N, T, E> Relay<W, M, N>
where
    W: Worker + Accepts<M>,
    M: Message<Result = Result<T, E>>,
    T: DeserializeOwned + Send + 'static,
    E: DeserializeOwned + From<Failure> + Send + 'static,
{
    pub(crate) fn run(self, arbiter: &actix::ArbiterHandle, caller: Option<OneshotSender<Result<T, E>>>) {
        Single::spawn::<W, M, T, E>(arbiter, self.pending, self.message, caller, self.limit, self.origin);
    }
}

/// Has a session run these messages.
pub(crate) fn submit<W, M, T, E>(
    session: &mut Session,
    messages: &[M],
    slots: &std::rc::Rc<BatchSlots<T, E>>,
    limit: Option<Duration>,
    origin: &Origin,
    host: &mut dyn Host,
) where
    W: Accepts<M>,
    M: Message<Result = Result<T, E>> + Serialize,
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    for (place, message) in messages.iter().enumerate() {
        let call = call::<W, M>(slots.slot(place), limit, origin.clone());
        session.submit(call, &mut |out, most| encode(out, message, most), host);
    }
}

/// Where a batch is taken in that nothing comes behind: its own end is what an error clears up to.
#[derive(Default)]
struct Filling {
    fence: Option<u64>,
}

impl Host for Filling {
    fn is_connected(&self) -> bool {
        true
    }

    fn send_fence(&mut self, number: u64) -> bool {
        self.fence = Some(number);
        true
    }
}

/// A batch on its way to whichever worker is free.
pub(crate) struct Delegation<M> {
    /// `None` where there is nothing to do.
    pending: Option<PendingSession>,
    pub(crate) messages: Vec<M>,
    limit: Option<Duration>,
    origin: Origin,
}

impl<M> Delegation<M> {
    /// Joins the line, unless there is nothing to do.
    pub(crate) fn new(
        scheduler: &Arc<Scheduler>,
        messages: Vec<M>,
        limit: Option<Duration>,
        origin: Origin,
    ) -> Self {
        let options = CallOptions::of(&scheduler.options);
        let pending = (!messages.is_empty()).then(|| PendingSession::new(scheduler.clone(), options));
        Delegation { pending, messages, limit, origin }
    }
}

impl<M: Send + 'static> Delegation<M> {
    pub(crate) fn run<W, T, E>(
        self,
        arbiter: &ArbiterHandle,
        caller: Option<OneshotSender<Vec<Result<T, E>>>>,
    ) where
        W: Worker + Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        let Delegation { pending, messages, limit, origin } = self;
        arbiter.spawn(async move {
            let slots = BatchSlots::answering(messages.len(), caller);
            let Some(mut session) = pending.map(PendingSession::start) else { return };
            let mut filling = Filling::default();
            submit::<W, M, T, E>(&mut session, &messages, &slots, limit, &origin, &mut filling);
            if let Some(fence) = filling.fence {
                session.fence_passed(fence);
            }
            drop(messages);
            actix_rt::spawn(Single(session));
        });
    }
}
