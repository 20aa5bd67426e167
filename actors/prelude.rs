//! What a user of the library needs in scope; nothing in it collides with `actix::prelude`.

pub use crate::actors::{
    Abort, Batch, Checkout, ContextFailure, ErrorContext, Pool, PoolHandle, SendBatch, StartError, Stats,
    Stop, Within, Worker, WorkerContext, here,
};
pub use crate::worker::Preload;
pub use crate::{Blob, BlobMut, Failure, FailureKind, FinishedLog, LogLevel, RequestLog, SetupError};
