//! One worker as its supervisor knows it: from the decision to fork it to its exit report.

use actix::Addr;

use super::servers::ServerId;
use super::worker_process::WorkerProcess;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::transport::HostChannel;

/// A worker's entry in the registry.
pub(super) struct Registration {
    pub(super) stage: Stage,
    /// Why the worker is to exit, once it is, with its channel if it is idle. Dropping the channel makes it exit.
    pub(super) retiring: Option<(RetireReason, Option<HostChannel>)>,
}

/// How far the worker is.
pub(super) enum Stage {
    /// It replaces a lost worker and is requested after some turns of the event loop.
    Delayed,
    /// It is requested once there is a server, and once that has confirmed enough of the requests before.
    Unrequested,
    /// It was requested from this server, which has not confirmed the fork.
    Requested { process: Addr<WorkerProcess>, server: ServerId },
    /// It was forked.
    Forked {
        process: Addr<WorkerProcess>,
        /// The server that forked it; `None` once that server is gone.
        server: Option<ServerId>,
        /// The server that adopted it after its own server was gone.
        adopted_by: Option<ServerId>,
        /// Proves to that server that the worker's own server had forked it.
        proof: Option<u64>,
    },
}

impl Registration {
    pub(super) fn new(stage: Stage) -> Self {
        Registration { stage, retiring: None }
    }

    /// Returns the proxy of the worker, if it was requested.
    pub(super) fn process(&self) -> Option<&Addr<WorkerProcess>> {
        match &self.stage {
            Stage::Delayed | Stage::Unrequested => None,
            Stage::Requested { process, .. } | Stage::Forked { process, .. } => Some(process),
        }
    }

    pub(super) fn into_process(self) -> Option<Addr<WorkerProcess>> {
        match self.stage {
            Stage::Delayed | Stage::Unrequested => None,
            Stage::Requested { process, .. } | Stage::Forked { process, .. } => Some(process),
        }
    }

    /// Marks a requested worker as forked by this server, and returns its proxy.
    pub(super) fn confirm(&mut self, server: ServerId, proof: Option<u64>) -> Option<&Addr<WorkerProcess>> {
        if let Stage::Requested { process, .. } = &self.stage {
            let process = process.clone();
            self.stage = Stage::Forked { process, server: Some(server), adopted_by: None, proof };
        }
        self.process()
    }

    /// Returns whether the worker was requested from this server, which has not confirmed the fork.
    pub(super) fn awaits(&self, server: ServerId) -> bool {
        matches!(self.stage, Stage::Requested { server: from, .. } if from == server)
    }

    /// Returns whether the worker is about to be requested or was requested, and is not forked.
    pub(super) fn is_on_its_way(&self) -> bool {
        matches!(self.stage, Stage::Delayed | Stage::Requested { .. })
    }

    /// Returns whether a request for the worker was sent, or is not needed any more because its proxy has ended.
    pub(super) fn is_alive(&self) -> bool {
        self.process().is_none_or(Addr::connected)
    }

    /// Returns whether this server forked or adopted the worker, or was asked to fork it. That server kills the worker
    /// if this application exits.
    pub(super) fn belongs_to(&self, id: ServerId) -> bool {
        match self.stage {
            Stage::Delayed | Stage::Unrequested => false,
            Stage::Requested { server, .. } => server == id,
            Stage::Forked { server, adopted_by, .. } => server == Some(id) || adopted_by == Some(id),
        }
    }

    /// Returns whether this server has forked the worker.
    pub(super) fn is_forked_by(&self, id: ServerId) -> bool {
        matches!(self.stage, Stage::Forked { server, .. } if server == Some(id))
    }

    /// Returns whether the worker's server is gone while the worker is in use.
    pub(super) fn is_orphan_in_use(&self) -> bool {
        matches!(self.stage, Stage::Forked { server: None, .. }) && self.is_alive()
    }

    /// Returns whether the worker's server is gone and no other has adopted the worker.
    pub(super) fn is_orphan(&self) -> bool {
        matches!(self.stage, Stage::Forked { server: None, adopted_by: None, .. })
    }

    /// Returns the server that can signal the worker.
    pub(super) fn signaller(&self) -> Option<ServerId> {
        match self.stage {
            Stage::Delayed | Stage::Unrequested => None,
            Stage::Requested { server, .. } => Some(server),
            Stage::Forked { server, adopted_by, .. } => server.or(adopted_by),
        }
    }

    /// Sets the server that is asked to adopt the worker, and returns the proof for it.
    pub(super) fn adopt(&mut self, id: ServerId) -> Option<u64> {
        let Stage::Forked { adopted_by, proof, .. } = &mut self.stage else { return None };
        *adopted_by = Some(id);
        *proof
    }

    /// Notes that this server is gone. Returns the proxy if the server had forked the worker.
    pub(super) fn orphan(&mut self, id: ServerId) -> Option<&Addr<WorkerProcess>> {
        let Stage::Forked { process, server, adopted_by, .. } = &mut self.stage else { return None };
        if *adopted_by == Some(id) {
            *adopted_by = None;
        }
        server.take_if(|server| *server == id).map(|_| &*process)
    }
}
