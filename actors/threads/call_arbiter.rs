//! Where the calls of a pool run that are made on a thread without an arbiter.

use std::sync::{Arc, OnceLock};

use actix::ArbiterHandle;

use super::own_arbiter::{OwnArbiter, calls};

/// The arbiter for calls from threads that have none, such as those of a tokio runtime.
#[derive(Debug)]
pub(crate) enum CallArbiter {
    /// The one that the pool was started in.
    Given(ArbiterHandle),
    /// One of the library's own, whose thread starts with the first such call.
    Own {
        started: OnceLock<Arc<OwnArbiter>>,
        /// Used if the system has no thread left for that.
        supervision: ArbiterHandle,
    },
}

impl CallArbiter {
    pub(crate) fn own(supervision: ArbiterHandle) -> Self {
        CallArbiter::Own { started: OnceLock::new(), supervision }
    }

    /// Returns the arbiter of the pool's supervisor.
    pub(crate) fn supervision(&self) -> &ArbiterHandle {
        match self {
            CallArbiter::Given(supervision) | CallArbiter::Own { supervision, .. } => supervision,
        }
    }

    pub(crate) fn get(&self) -> ArbiterHandle {
        match self {
            CallArbiter::Given(arbiter) => arbiter.clone(),
            CallArbiter::Own { started, supervision } => match started.get() {
                Some(own) => own.handle().clone(),
                None => calls()
                    .map_or_else(|_| supervision.clone(), |own| started.get_or_init(|| own).handle().clone()),
            },
        }
    }
}
