//! What calls are made to: the pool in its several ways, and the peers that do the same work in threads.

use std::future::Future;
use std::rc::Rc;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message};
use forkpool::Accepts;
use forkpool::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Apprentice, Echo, Work};

/// A message and the work that it asks for, which is the same in a process and in a thread.
pub trait Job: Message<Result = Result<Self::Answer, Failure>> + Serialize + Send + 'static {
    /// What a successful call returns.
    type Answer: DeserializeOwned + Send + 'static;

    /// Does the work.
    fn run(self) -> Self::Answer;
}

impl Job for Echo {
    type Answer = String;

    fn run(self) -> String {
        self.0
    }
}

impl Job for Work {
    type Answer = u64;

    fn run(self) -> u64 {
        super::worker::work(self.0)
    }
}

/// One way of calling, the same for the pool and for its peers.
///
/// A measurement is generic over this trait, so that all contestants run the same code around their calls.
pub trait Callee<M: Job>: Clone + 'static {
    /// Sends the message and waits for its answer. Panics if the call fails.
    fn call(&self, message: M) -> impl Future<Output = M::Answer>;
}

/// A checkout by its address, a `SyncArbiter`, or any other actor.
impl<A, M> Callee<M> for Addr<A>
where
    M: Job,
    A: Actor + Handler<M>,
    A::Context: ToEnvelope<A, M>,
{
    async fn call(&self, message: M) -> M::Answer {
        self.send(message).await.expect("an answer").expect("a success")
    }
}

/// A checkout that is called directly.
impl<M> Callee<M> for Rc<CheckoutHandle<Apprentice>>
where
    M: Job,
    Apprentice: Accepts<M>,
{
    async fn call(&self, message: M) -> M::Answer {
        CheckoutHandle::call(self, message).await.expect("a success")
    }
}

/// The pool itself: any free worker, for this call alone.
impl<M> Callee<M> for PoolHandle<Apprentice>
where
    M: Job,
    Apprentice: Accepts<M>,
{
    async fn call(&self, message: M) -> M::Answer {
        self.send(message).await.expect("a success")
    }
}
