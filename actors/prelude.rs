//! What a user of the library needs in scope; nothing in it collides with `actix::prelude`.
//!
//! ```
//! use actix::prelude::*;
//! use forkpool::prelude::*;
//! ```

pub use super::{
    Abort, Batch, Calls, Checkout, CheckoutHandle, ClassHandle, ContextFailure, ErrorContext, Pool,
    PoolHandle, SendBatch, Snapshot, StartError, Stats, Stop, StopReport, Within, Worker, WorkerContext,
    here,
};
pub use crate::{
    Backoff, Blob, BlobMut, Ending, Failure, FailureKind, FinishedLog, LogLevel, MemoryVerdict, OnCancel,
    PanicReport, Phase, Preload, RequestLog, SetupError, Transport,
};
