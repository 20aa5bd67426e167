//! The proxy of one worker process: from its being asked for to its obituary.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use actix::fut::{ActorFuture, WrapFuture};
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, SpawnHandle};

use super::SpawnFailed;
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::exit::{EXIT_REPORT_PATIENCE, ExitReport};
use crate::actors::scheduler::worker_handle::{ExitWatch, WorkerHandle};
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::telemetry::stdio::OutputPipe;
use crate::actors::transport::{Arrived, HostChannel};
use crate::failure::{Failure, FailureKind, Phase, WorkerFacts};
use crate::sys::reactor;
use crate::wire::call::{FromWorker, Ready, SetupReport};
use crate::wire::control::Ended;
use crate::wire::{LIBRARY, PROTOCOL, frame};

/// How long a worker that was told to end may take before it is killed.
const FAREWELL: Duration = Duration::from_secs(1);

/// One worker process.
///
/// It holds the channel until the set-up is done and lends it to the desk then; after that it only waits for
/// the end.
pub(crate) struct WorkerProcess {
    scheduler: Arc<Scheduler>,
    number: u64,
    fingerprint: u64,
    output: Arc<OutputPipe>,
    identity: Option<WorkerHandle>,
    stage: ProxyState,
    setup_clock: Option<SpawnHandle>,
}

enum ProxyState {
    /// Its set-up runs, or it is not even forked.
    SettingUp(HostChannel),
    /// It said that it is ready before the server said that it was forked.
    ReadyUnforked(HostChannel),
    /// It said that its set-up failed before that.
    FailedUnforked(Failure),
    /// The desk has its channel.
    Lent,
    /// It could not be set up, or is to end.
    Ending,
}

impl WorkerProcess {
    pub(crate) fn new(
        scheduler: Arc<Scheduler>,
        number: u64,
        fingerprint: u64,
        channel: HostChannel,
        output: Arc<OutputPipe>,
    ) -> Self {
        let stage = ProxyState::SettingUp(channel);
        WorkerProcess { scheduler, number, fingerprint, output, identity: None, stage, setup_clock: None }
    }

    /// Takes in what the worker said while it was being set up; ready once there is nothing more to wait for.
    fn poll_setup(&mut self, task: &mut TaskContext<'_>) -> Poll<()> {
        let is_forked = self.identity.is_some();
        while let ProxyState::SettingUp(channel) = &mut self.stage {
            let arrived = std::task::ready!(channel.poll_exchange(task, is_forked));
            if !self.take_in(arrived) {
                // How it ended is told by the fork server.
                return Poll::Ready(());
            }
        }
        Poll::Ready(())
    }

    /// Whether there may be more to come.
    fn take_in(&mut self, arrived: Arrived) -> bool {
        let ProxyState::SettingUp(channel) = &mut self.stage else {
            return false;
        };
        match arrived {
            Arrived::Some => {}
            Arrived::Nothing | Arrived::End => return false,
            Arrived::Corrupt => {
                self.fail(Failure::of(FailureKind::Setup, "wrote nonsense to its channel"));
                return false;
            }
        }
        let said = match channel.next() {
            Ok(None) => return true,
            Ok(Some(body)) => frame::whole::<FromWorker>(body).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match said {
            Ok(FromWorker::Ready(ready)) => self.ready(&ready),
            Ok(FromWorker::SetupFailed(report)) => self.fail(setup_failure(&report)),
            Ok(_) => self.fail(Failure::of(FailureKind::Setup, "began with what is out of turn")),
            Err(error) => self.fail(Failure::of(FailureKind::Setup, format!("said no message: {error}"))),
        }
        true
    }

    fn ready(&mut self, ready: &Ready) {
        if ready.protocol != PROTOCOL || ready.library != LIBRARY || ready.fingerprint != self.fingerprint {
            let text = format!(
                "speaks protocol {} of forkpool {}, which is not protocol {PROTOCOL} of forkpool {LIBRARY} with \
                 the same interface",
                ready.protocol, ready.library
            );
            return self.fail(Failure::of(FailureKind::Setup, text));
        }
        if let ProxyState::SettingUp(mut channel) = std::mem::replace(&mut self.stage, ProxyState::Ending) {
            channel.is_set_up();
            self.stage = ProxyState::ReadyUnforked(channel);
            self.lend();
        }
    }

    /// Gives the desk the channel once both the worker and its server have told of it.
    fn lend(&mut self) {
        if self.identity.is_none() {
            return;
        }
        match std::mem::replace(&mut self.stage, ProxyState::Lent) {
            ProxyState::ReadyUnforked(channel) => self.scheduler.ready(self.number, channel),
            other => self.stage = other,
        }
    }

    fn fail(&mut self, failure: Failure) {
        match &self.identity {
            Some(identity) => {
                let facts = identity.facts_and_usage(None);
                self.not_set_up(failure.on_worker(facts));
            }
            // Who it was is still to come.
            None => self.stage = ProxyState::FailedUnforked(failure),
        }
    }

    /// The same where nobody will tell any more who it was.
    fn fail_unborn(&mut self, failure: Failure) {
        let facts = WorkerFacts {
            number: self.number,
            stderr: self.output.last_lines(),
            log: self.output.records(),
            ..WorkerFacts::default()
        };
        self.not_set_up(failure.on_worker(facts));
    }

    fn not_set_up(&mut self, failure: Failure) {
        self.stage = ProxyState::Ending;
        let failure = failure.in_pool(&self.scheduler.options.name).in_phase(Phase::Starting);
        self.scheduler.not_set_up(Some(self.number), failure);
        self.kill();
    }

    fn is_remote(&self) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.handle.is_none())
    }

    /// Its set-up ended the process.
    fn stillborn(&mut self, exit_report: &ExitReport) {
        let failure = Failure::of(FailureKind::Setup, "ended its process");
        match &self.identity {
            Some(identity) => {
                let failure =
                    exit_report.note_in(failure, identity, None, self.scheduler.options.memory_limit);
                self.not_set_up(failure);
            }
            None => self.fail(failure),
        }
    }

    fn kill(&self) {
        if let Some(identity) = &self.identity {
            self.scheduler.kill(identity);
        }
    }

    fn bury(&mut self, mut exit_report: ExitReport, ctx: &mut Context<Self>) {
        if let ExitReport::Seen(Ended { remains: Some(remains), .. }) = &mut exit_report {
            self.output.hear_records(std::mem::take(&mut remains.records));
        }
        if self.identity.is_none()
            && let ProxyState::FailedUnforked(failure) =
                std::mem::replace(&mut self.stage, ProxyState::Ending)
        {
            // Any other was never born, so it is no set-up that failed.
            self.fail_unborn(failure);
        }
        // Why it ended may still lie in the channel.
        while let ProxyState::SettingUp(channel) = &mut self.stage {
            let arrived = channel.read_now();
            if !self.take_in(arrived) && matches!(self.stage, ProxyState::SettingUp(_)) {
                self.stillborn(&exit_report);
            }
        }
        // Ahead of the news of its end, so that what it printed last is in the report on it.
        self.output.finish();
        self.scheduler.ended(self.number, exit_report);
        ctx.stop();
    }

    /// Its channel has ended, and most likely so has it.
    fn await_obituary(&self, ctx: &mut Context<Self>) {
        ctx.run_later(EXIT_REPORT_PATIENCE, |process, _| {
            if !matches!(process.stage, ProxyState::SettingUp(_)) {
                return;
            }
            if process.identity.is_none() && process.output.is_told() {
                // The connection that was to be its channel came to nothing.
                if let Some(supervisor) = process.scheduler.supervisor() {
                    supervisor.do_send(SpawnFailed(process.number));
                }
            } else {
                process.fail(Failure::of(FailureKind::Setup, "closed its channel, and was killed"));
            }
        });
    }

    fn bound_setup(&mut self, ctx: &mut Context<Self>) {
        let Some(limit) = self.scheduler.options.setup_timeout else {
            return;
        };
        let clock = ctx.run_later(limit, move |process, _| {
            if matches!(process.stage, ProxyState::SettingUp(_)) {
                let text = format!("did not finish within setup_timeout, {limit:?}");
                process.fail(Failure::of(FailureKind::Setup, text).at_limit(limit));
            }
        });
        self.setup_clock = Some(clock);
    }
}

/// What a failed set-up said, as a failure.
pub(crate) fn setup_failure(report: &SetupReport) -> Failure {
    match report {
        SetupReport::Error(error) => {
            Failure::of(FailureKind::Setup, "returned an error").with_chain(error.chain())
        }
        SetupReport::Panic(report) => Failure::of(FailureKind::Setup, "panicked").with_panic(report.clone()),
    }
}

impl Actor for WorkerProcess {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(SetupPump);
        match self.output.watch() {
            Ok(watch) => drop(ctx.spawn(watch.into_actor(self))),
            // Out of descriptors, say. It is read when the worker fails or ends.
            Err(error) => tracing::warn!(target: "forkpool", pool = %self.scheduler.options.name,
                worker = self.number, %error, "a worker's output cannot be watched"),
        }
    }
}

struct SetupPump;

impl ActorFuture<WorkerProcess> for SetupPump {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        process: &mut WorkerProcess,
        ctx: &mut Context<WorkerProcess>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        std::task::ready!(process.poll_setup(task));
        if matches!(process.stage, ProxyState::SettingUp(_)) {
            process.await_obituary(ctx);
        } else if let Some(clock) = process.setup_clock.take() {
            ctx.cancel_future(clock);
        }
        Poll::Ready(())
    }
}

/// The fork server has forked it.
pub(crate) struct Forked {
    pub(crate) pid: u32,
    /// `None` where it is on another machine.
    pub(crate) handle: Option<OwnedFd>,
}

impl Message for Forked {
    type Result = ();
}

impl Handler<Forked> for WorkerProcess {
    type Result = ();

    fn handle(&mut self, Forked { pid, handle }: Forked, ctx: &mut Self::Context) {
        self.output.born(pid);
        let identity = WorkerHandle {
            number: self.number,
            pid,
            handle: handle.map(Arc::new),
            unwatched: Arc::default(),
            born: Instant::now(),
            output: self.output.clone(),
            borrowed: Arc::default(),
        };
        self.scheduler.born(identity.clone());
        self.identity = Some(identity);
        match std::mem::replace(&mut self.stage, ProxyState::Ending) {
            ProxyState::FailedUnforked(failure) => return self.fail(failure),
            other => self.stage = other,
        }
        match self.stage {
            ProxyState::SettingUp(_) => self.bound_setup(ctx),
            ProxyState::ReadyUnforked(_) => self.lend(),
            ProxyState::FailedUnforked(_) | ProxyState::Lent => {}
            ProxyState::Ending => self.kill(),
        }
    }
}

/// It is to end: nobody holds it.
pub(crate) struct RetireWorker(pub(crate) RetireReason);

impl Message for RetireWorker {
    type Result = ();
}

impl Handler<RetireWorker> for WorkerProcess {
    type Result = ();

    fn handle(&mut self, RetireWorker(reason): RetireWorker, ctx: &mut Self::Context) {
        tracing::debug!(target: "forkpool", pool = %self.scheduler.options.name, worker = self.number, %reason,
            "worker retires");
        match self.stage {
            // Without its channel, which the desk has dropped, it ends by itself.
            ProxyState::Lent if self.identity.as_ref().is_some_and(WorkerHandle::is_unwatched) => {
                self.bury(ExitReport::Unseen, ctx);
            }
            ProxyState::Lent => {
                ctx.run_later(FAREWELL, |process, _| process.kill());
            }
            ProxyState::SettingUp(_)
            | ProxyState::ReadyUnforked(_)
            | ProxyState::FailedUnforked(_)
            | ProxyState::Ending => {
                self.stage = ProxyState::Ending;
                self.kill();
                if self.identity.is_none() {
                    // It may never be born: a preload may hang. If it is, it finds its channel closed and ends.
                    self.bury(ExitReport::Unseen, ctx);
                }
            }
        }
    }
}

/// It is gone.
pub(crate) struct Exited(pub(crate) ExitReport);

impl Message for Exited {
    type Result = ();
}

impl Handler<Exited> for WorkerProcess {
    type Result = ();

    fn handle(&mut self, Exited(exit_report): Exited, ctx: &mut Self::Context) {
        self.bury(exit_report, ctx);
    }
}

/// It has printed something, as its server tells.
pub(crate) struct Printed {
    pub(crate) stderr: bool,
    pub(crate) bytes: Vec<u8>,
}

impl Message for Printed {
    type Result = ();
}

impl Handler<Printed> for WorkerProcess {
    type Result = ();

    fn handle(&mut self, Printed { stderr, bytes }: Printed, _: &mut Self::Context) {
        self.output.hear(stderr, &bytes);
    }
}

/// It will not be born: its server takes no more work, and another is asked for a worker of its number.
pub(crate) struct SpawnCancelled;

impl Message for SpawnCancelled {
    type Result = ();
}

impl Handler<SpawnCancelled> for WorkerProcess {
    type Result = ();

    fn handle(&mut self, SpawnCancelled: SpawnCancelled, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// Its fork server is gone; from now on it is watched from here.
pub(crate) struct ServerLost;

impl Message for ServerLost {
    type Result = ();
}

impl Handler<ServerLost> for WorkerProcess {
    type Result = ();

    fn handle(&mut self, ServerLost: ServerLost, ctx: &mut Self::Context) {
        match self.identity.as_ref().and_then(WorkerHandle::watch) {
            Some(watch) => {
                ctx.spawn(ExitListener(watch));
            }
            // On another machine, and in use perhaps: its channel's end will be all there is to see.
            None if self.is_remote() && self.scheduler.leave_unwatched(self.number) => {}
            // It was never born, or cannot be watched: without its channel it ends by itself.
            None => {
                self.kill();
                self.bury(ExitReport::Unseen, ctx);
            }
        }
    }
}

/// Waits until the process has ended.
struct ExitListener(ExitWatch);

impl ActorFuture<WorkerProcess> for ExitListener {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        process: &mut WorkerProcess,
        ctx: &mut Context<WorkerProcess>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        self.0.poll_ended(task).map(|()| process.bury(ExitReport::Unseen, ctx))
    }
}

/// Waits until a process has ended, for at most `patience`.
pub(crate) async fn ended(handle: OwnedFd, patience: Duration) {
    if let Ok(handle) = reactor::register(handle) {
        let readable = std::pin::pin!(handle.readable());
        // Whether it ended or not, whoever called looks for themselves.
        let _ = actix_rt::time::timeout(patience, readable as Pin<&mut dyn Future<Output = _>>).await;
    }
}
