//! A worker whose preload is large.

use actix::prelude::*;
use forkpool::SharedBytes;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

/// A worker whose preload has so many bytes to share, in one of two ways.
pub struct Laden;

/// How much, and how.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub enum Load {
    Shared(u64),
    Ordinary(u64),
}

struct Ordinary(Vec<u8>);

/// Bytes that were preloaded, and the process of the server; the worker leaves then.
#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(usize, u32), Failure>")]
pub struct Unload;

impl Actor for Laden {
    type Context = WorkerContext<Self>;
}

impl Worker for Laden {
    type Config = Load;

    fn setup(_: Load, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Laden)
    }

    fn preload(load: &Load, shared: &mut Preload) -> Result<(), SetupError> {
        match *load {
            Load::Shared(bytes) => {
                shared.put(SharedBytes::from_reader(std::io::Read::take(std::io::repeat(7), bytes))?);
            }
            Load::Ordinary(bytes) => shared.put(Ordinary(vec![7; usize::try_from(bytes)?])),
        }
        Ok(())
    }
}

impl Handler<Unload> for Laden {
    type Result = Result<(usize, u32), Failure>;

    fn handle(&mut self, Unload: Unload, ctx: &mut WorkerContext<Self>) -> Self::Result {
        ctx.stop();
        let shared = ctx.preloaded::<SharedBytes>().map(|bytes| bytes.len());
        let size = shared.or(ctx.preloaded::<Ordinary>().map(|bytes| bytes.0.len())).unwrap_or_default();
        Ok((size, std::os::unix::process::parent_id()))
    }
}

forkpool::interface!(Laden { Unload });
forkpool::boot!(Laden);
