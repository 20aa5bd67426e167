//! A user's worker as the service that the loop in a worker process runs.

use std::any::TypeId;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::worker::{CallInfo, Worker, WorkerContext};
use crate::failure::SetupError;
use crate::server::Boot;
use crate::wire::control::Signature;
use crate::wire::frame;
use crate::wire::frame::PayloadError;
use crate::worker::{Incoming, Preload, Program, Replying, Service};

/// A user's worker and its context, in the worker process.
struct Hosted<W: Worker> {
    worker: W,
    ctx: WorkerContext<W>,
}

impl<W: Worker> Service for Hosted<W> {
    fn call(&mut self, call: Incoming<'_>, reply: Replying<'_>) {
        let index = usize::try_from(call.method).unwrap_or(usize::MAX);
        let Some(method) = W::METHODS.get(index) else {
            return reply.unknown_method(call.method);
        };
        self.ctx.keep = false;
        self.ctx.call = Some(CallInfo { id: call.id, name: method.name, deadline: call.deadline });
        self.ctx.baggage.extend_from_slice(call.baggage);
        (method.run)(&mut self.worker, &mut self.ctx, call, reply);
        self.ctx.baggage.clear();
        self.ctx.call = None;
    }

    fn checkout_done(&mut self) {
        self.worker.checkout_done(&mut self.ctx);
    }

    fn wants_replacement(&self) -> bool {
        self.ctx.stop
    }
}

impl<W: Worker> Boot for W {
    const PROGRAM: Program = Program {
        type_name: std::any::type_name::<W>,
        identity: identity::<W>,
        fingerprint: fingerprint::<W>,
        interface: interface::<W>,
        preload: preload::<W>,
        setup: setup::<W>,
    };
}

fn identity<W: Worker>() -> u64 {
    // The default hasher has fixed keys, so every process of this program computes the same number.
    let mut hasher = DefaultHasher::new();
    (TypeId::of::<W>(), std::any::type_name::<W>()).hash(&mut hasher);
    hasher.finish()
}

fn fingerprint<W: Worker>() -> u64 {
    let mut hasher = DefaultHasher::new();
    for method in W::METHODS {
        (method.name, (method.type_names)()).hash(&mut hasher);
    }
    hasher.finish()
}

fn interface<W: Worker>() -> Vec<Signature> {
    W::METHODS.iter().map(|method| (method.signature)(method.name)).collect()
}

/// Decodes a configuration. It was encoded under the pool's limits, by the application or by this program.
fn decode_config<W: Worker>(config: &[u8]) -> Result<W::Config, PayloadError> {
    frame::decode(config, u32::MAX)
}

fn preload<W: Worker>(config: &[u8], shared: &mut Preload) -> Result<(), SetupError> {
    W::preload(&decode_config::<W>(config)?, shared)
}

fn setup<W: Worker>(config: &[u8], preload: &'static Preload) -> Result<Box<dyn Service>, SetupError> {
    let config = decode_config::<W>(config)?;
    let mut ctx = WorkerContext::new(preload);
    let mut worker = W::setup(config, &mut ctx)?;
    worker.started(&mut ctx);
    Ok(Box::new(Hosted { worker, ctx }))
}
