//! A worker that breaks the rules of its own channel.

use std::future::Future;
use std::time::Duration;

use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Answered, OwnChannel, builder, failure, hang_up};

/// A worker with an error type of its own, which also attacks its own channel.
pub struct Rogue;

/// An error of the user's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Grief {
    Plain,
    Detailed { code: u64, words: Vec<String> },
    Worker(Failure),
}

impl<T> Answered for Result<T, Grief> {
    type Answer = Self;

    fn answer(self) -> Self {
        self
    }
}

impl From<Failure> for Grief {
    fn from(failure: Failure) -> Self {
        Grief::Worker(failure)
    }
}

/// What a rogue does.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Grief>")]
pub enum Deed {
    Nothing,
    Fail(Grief),
    /// Says bytes of its own on its channel, then waits to be killed.
    Babble(Vec<u8>),
    /// Writes a number over a counter of its channel, then waits to be killed.
    Scribble {
        at: u64,
        number: u32,
    },
    /// Ends its process and denies that it has begun a call.
    EndUnbegun,
    /// Closes its channel and lives on.
    HangUp,
    PanicWithoutText,
    PanicAfter(Duration, String),
    Exit(i32),
    AbortProcess,
    Spin,
}

impl Actor for Rogue {
    type Context = WorkerContext<Self>;
}

impl Worker for Rogue {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Rogue)
    }
}

impl Handler<Deed> for Rogue {
    type Result = Result<u32, Grief>;

    fn handle(&mut self, deed: Deed, _: &mut WorkerContext<Self>) -> Self::Result {
        match deed {
            Deed::Nothing => {}
            Deed::Fail(grief) => return Err(grief),
            Deed::Babble(bytes) => {
                let channel = OwnChannel::find();
                channel.say(&bytes);
                channel.wait_to_be_killed();
            }
            Deed::Scribble { at, number } => {
                let channel = OwnChannel::find();
                channel.scribble(at, number);
                channel.wait_to_be_killed();
            }
            Deed::EndUnbegun => {
                OwnChannel::find().deny_the_call();
                std::process::exit(0);
            }
            Deed::HangUp => {
                hang_up();
                std::thread::sleep(Duration::from_secs(60));
            }
            Deed::PanicWithoutText => std::panic::panic_any(7_u8),
            Deed::PanicAfter(time, text) => {
                std::thread::sleep(time);
                panic!("{text}");
            }
            Deed::Exit(status) => std::process::exit(status),
            Deed::AbortProcess => std::process::abort(),
            Deed::Spin => loop {
                std::hint::spin_loop();
            },
        }
        Ok(std::process::id())
    }
}

forkpool::interface!(Rogue { Deed });
forkpool::boot!(Rogue);

/// A pool of one rogue.
pub fn rogues() -> PoolHandle<Rogue> {
    builder::<Rogue>(()).workers(1..=1).start().expect("the pool starts")
}

/// The failure a deed is answered with, where it was not the handler's own error.
pub async fn rogue_failure<R: Answered<Answer = Result<u32, Grief>>>(
    request: impl Future<Output = R>,
) -> Failure {
    match failure(request).await {
        Grief::Worker(failure) => failure,
        grief => panic!("not the worker's: {grief:?}"),
    }
}
