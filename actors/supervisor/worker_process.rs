//! The proxy of one worker process, from the request for it to its exit report.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::fut::{ActorFuture, ActorFutureExt, WrapFuture};
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, Recipient, SpawnHandle};

use super::SpawnFailed;
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::activity::Activity;
use crate::actors::scheduler::exit::{EXIT_REPORT_TIMEOUT, ExitReport, unreported_end};
use crate::actors::scheduler::worker_handle::WorkerHandle;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::telemetry::stdio::OutputPipe;
use crate::actors::threads::real_time::run_after;
use crate::actors::transport::{Arrived, HostChannel, MAX_LAST_READS};
use crate::failure::{BacktraceStyle, Failure, FailureKind, Phase, WorkerFacts};
use crate::sys::passing::RETRY_WAIT;
use crate::wire::call::{FromWorker, Ready, SetupReport};
use crate::wire::control::Ended;
use crate::wire::{LIBRARY, PROTOCOL};

/// Time between closing a retired worker's channel and killing the worker (1 s).
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a worker that ended together with its server is looked for among the adopted processes (1 s in all).
const ADOPTION_TRIES: u32 = 100;

/// The proxy of one worker process.
///
/// It holds the worker's channel until the set-up is done and then gives it to the scheduler. After that it only waits
/// for the worker's exit.
pub(crate) struct WorkerProcess {
    scheduler: Arc<Scheduler>,
    supervisor: Option<Recipient<SpawnFailed>>,
    number: u64,
    fingerprint: u64,
    output: Arc<OutputPipe>,
    handle: Option<WorkerHandle>,
    state: ProxyState,
    setup_timer: Option<SpawnHandle>,
    /// Whether the worker's server is gone, so that it reports no exit.
    is_server_lost: bool,
}

/// How far the worker is.
enum ProxyState {
    /// The worker is requested, or its set-up runs.
    SettingUp(HostChannel),
    /// The worker has reported that it is ready; the server's fork report has not arrived yet.
    ReadyUnforked(HostChannel),
    /// The worker has reported that its set-up failed; the server's fork report has not arrived yet.
    FailedUnforked(Failure),
    /// The scheduler has the channel.
    Lent,
    /// The set-up failed, or the worker was retired.
    Ending,
}

impl WorkerProcess {
    pub(crate) fn new(
        scheduler: Arc<Scheduler>,
        supervisor: Option<Recipient<SpawnFailed>>,
        number: u64,
        fingerprint: u64,
        channel: HostChannel,
        output: Arc<OutputPipe>,
    ) -> Self {
        let state = ProxyState::SettingUp(channel);
        WorkerProcess {
            scheduler,
            supervisor,
            number,
            fingerprint,
            output,
            handle: None,
            state,
            setup_timer: None,
            is_server_lost: false,
        }
    }

    /// Reads the worker's messages during its set-up. Ready once the set-up is over or the channel has ended.
    fn poll_setup(&mut self, task: &mut TaskContext<'_>) -> Poll<()> {
        let is_forked = self.handle.is_some();
        while let ProxyState::SettingUp(channel) = &mut self.state {
            let arrived = std::task::ready!(channel.poll_exchange(task, is_forked));
            if !self.handle_arrived(arrived) {
                // The fork server reports how the worker exited.
                return Poll::Ready(());
            }
        }
        Poll::Ready(())
    }

    /// Handles the next message of the set-up, if one is complete. Returns whether more can be read.
    fn handle_arrived(&mut self, arrived: Arrived) -> bool {
        let ProxyState::SettingUp(channel) = &mut self.state else {
            return false;
        };
        match arrived {
            Arrived::Some => {}
            Arrived::Nothing | Arrived::End => return false,
            Arrived::Corrupt => {
                self.fail_setup(Failure::of(FailureKind::Setup, "wrote invalid data to its channel"));
                return false;
            }
        }
        let message = match channel.next() {
            Ok(None) => return true,
            Ok(Some(body)) => FromWorker::read_whole(body).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match message {
            Ok(FromWorker::Ready(ready)) => self.handle_ready(&ready),
            Ok(FromWorker::SetupFailed(report)) => self.fail_setup(setup_failure(report)),
            Ok(_) => self.fail_setup(Failure::of(FailureKind::Setup, "sent an unexpected first message")),
            Err(error) => {
                self.fail_setup(Failure::of(FailureKind::Setup, format!("sent an invalid message: {error}")))
            }
        }
        true
    }

    fn handle_ready(&mut self, ready: &Ready) {
        if ready.protocol != PROTOCOL || ready.library != LIBRARY || ready.fingerprint != self.fingerprint {
            let text = format!(
                "uses protocol {} of forkpool {}, but the application needs protocol {PROTOCOL} of forkpool {LIBRARY} \
                 with the same interface",
                ready.protocol, ready.library
            );
            return self.fail_setup(Failure::of(FailureKind::Setup, text));
        }
        if let ProxyState::SettingUp(mut channel) = std::mem::replace(&mut self.state, ProxyState::Ending) {
            channel.finish_setup();
            self.state = ProxyState::ReadyUnforked(channel);
            self.lend_channel();
        }
    }

    /// Gives the channel to the scheduler once the worker is ready and the server has confirmed the fork.
    fn lend_channel(&mut self) {
        if self.handle.is_none() {
            return;
        }
        match std::mem::replace(&mut self.state, ProxyState::Lent) {
            ProxyState::ReadyUnforked(channel) => {
                self.scheduler.add_ready_worker(self.number, channel);
                if let Some(handle) = self.handle.as_ref().filter(|handle| handle.has_exited()) {
                    self.scheduler.mark_exited(handle);
                }
            }
            other => self.state = other,
        }
    }

    /// Reports a failed set-up. Before the fork report the pid is unknown, and the failure is kept until then.
    fn fail_setup(&mut self, failure: Failure) {
        match &self.handle {
            Some(handle) => {
                let facts = handle.facts_and_usage(None);
                self.report_setup_failure(failure.on_worker(facts));
            }
            None => self.state = ProxyState::FailedUnforked(failure),
        }
    }

    /// Reports a failed set-up without a pid, because no fork report will arrive.
    fn fail_unforked(&mut self, failure: Failure) {
        let facts = WorkerFacts {
            number: self.number,
            stderr: self.output.last_lines(),
            log: self.output.records(),
            ..WorkerFacts::default()
        };
        self.report_setup_failure(failure.on_worker(facts));
    }

    fn report_setup_failure(&mut self, failure: Failure) {
        self.state = ProxyState::Ending;
        let failure = failure.in_pool(&self.scheduler.options.name).in_phase(Phase::Starting);
        self.scheduler.report_setup_failure(Some(self.number), failure);
        self.kill();
    }

    fn has_exited(&self) -> bool {
        self.handle.as_ref().is_some_and(WorkerHandle::has_exited)
    }

    /// Notes that the worker's process has ended. Its server reports how, unless it is gone or stopped.
    fn note_exit(&mut self, ctx: &mut Context<Self>) {
        self.handle.iter().for_each(|handle| self.scheduler.mark_exited(handle));
        if self.is_server_lost {
            self.finish_orphan(ADOPTION_TRIES, ctx);
        } else if matches!(self.state, ProxyState::SettingUp(_)) {
            self.await_exit_report(ctx);
        }
    }

    /// Handles the exit of a worker whose server is gone, once it is reaped if this process adopts it.
    fn finish_orphan(&mut self, tries: u32, ctx: &mut Context<Self>) {
        let is_unadopted = self.handle.as_ref().is_some_and(WorkerHandle::reap_adopted);
        if is_unadopted && tries > 0 {
            run_after(ctx, RETRY_WAIT, move |process, ctx| process.finish_orphan(tries - 1, ctx));
        } else {
            self.handle_exit(ExitReport::Unknown, ctx);
        }
    }

    /// Reports a worker that exited during its set-up.
    fn report_exit_in_setup(&mut self, exit_report: &ExitReport) {
        let failure = Failure::of(FailureKind::Setup, "ended its process");
        match &self.handle {
            Some(handle) => {
                let failure = exit_report.add_to(failure, handle, None, self.scheduler.options.memory_limit);
                if !self.is_server_lost {
                    return self.report_setup_failure(failure);
                }
                // Its server has ended as well, so this says nothing about the set-up: a call that waits gets the next
                // worker.
                self.state = ProxyState::Ending;
                let failure = failure.in_pool(&self.scheduler.options.name).in_phase(Phase::Starting);
                self.scheduler.set_last_failure(failure);
            }
            None => self.fail_setup(failure),
        }
    }

    fn kill(&self) {
        if let Some(handle) = &self.handle {
            self.scheduler.kill(handle);
        }
    }

    fn handle_exit(&mut self, exit_report: ExitReport, ctx: &mut Context<Self>) {
        if let ExitReport::Known(Ended { status: Some(status), .. }) = &exit_report {
            self.output.set_status(status);
        }
        if self.handle.is_none()
            && let ProxyState::FailedUnforked(failure) =
                std::mem::replace(&mut self.state, ProxyState::Ending)
        {
            // In the other states without a handle no set-up has failed: the worker was not forked.
            self.fail_unforked(failure);
        }
        // The channel may hold an unread message with the reason.
        let mut reads = 0;
        while let ProxyState::SettingUp(channel) = &mut self.state {
            reads += 1;
            let arrived = channel.read_now();
            let is_over = !self.handle_arrived(arrived) || reads == MAX_LAST_READS;
            if is_over && matches!(self.state, ProxyState::SettingUp(_)) {
                self.report_exit_in_setup(&exit_report);
            }
        }
        // Before the exit report, so that the failure includes the last output.
        self.output.finish();
        self.scheduler.report_exit(self.number, exit_report);
        ctx.stop();
    }

    /// Starts the timeout for the exit report after the worker's channel has ended during the set-up.
    fn await_exit_report(&self, ctx: &mut Context<Self>) {
        run_after(ctx, EXIT_REPORT_TIMEOUT, |process, _| {
            if !matches!(process.state, ProxyState::SettingUp(_)) {
                return;
            }
            if process.handle.is_none() && process.output.is_remote() {
                // The connection that was to become its channel failed.
                if let Some(supervisor) = &process.supervisor {
                    supervisor.do_send(SpawnFailed(process.number));
                }
            } else {
                let is_running = process.handle.as_ref().and_then(WorkerHandle::is_running);
                process.fail_setup(Failure::of(FailureKind::Setup, unreported_end(is_running)));
            }
        });
    }

    fn start_setup_timer(&mut self, ctx: &mut Context<Self>) {
        let Some(limit) = self.scheduler.options.setup_timeout else {
            return;
        };
        let timer = run_after(ctx, limit, move |process, _| {
            if matches!(process.state, ProxyState::SettingUp(_)) {
                let text = format!("did not finish within its setup_timeout of {limit:?}");
                process.fail_setup(Failure::of(FailureKind::Setup, text).at_limit(limit));
            }
        });
        self.setup_timer = Some(timer);
    }
}

/// Converts a worker's or a server's report of a failed set-up into a failure.
pub(crate) fn setup_failure(report: SetupReport) -> Failure {
    match report {
        SetupReport::Error(error) => {
            Failure::of(FailureKind::Setup, "returned an error").with_chain(error.chain())
        }
        SetupReport::Panic(report) => {
            Failure::of(FailureKind::Setup, "panicked").with_panic(report.received(BacktraceStyle::here()))
        }
    }
}

impl Actor for WorkerProcess {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(SetupPump);
        ctx.spawn(self.output.watch().into_actor(self));
    }
}

/// Drives [`WorkerProcess::poll_setup`].
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
        if matches!(process.state, ProxyState::SettingUp(_)) {
            process.await_exit_report(ctx);
        } else if let Some(timer) = process.setup_timer.take() {
            ctx.cancel_future(timer);
        }
        Poll::Ready(())
    }
}

/// The fork server has forked the worker.
pub(crate) struct WorkerForked {
    pub(crate) pid: u32,
    /// `None` if the worker is on another machine.
    pub(crate) pidfd: Option<OwnedFd>,
}

impl Message for WorkerForked {
    type Result = ();
}

impl Handler<WorkerForked> for WorkerProcess {
    type Result = ();

    fn handle(&mut self, WorkerForked { pid, pidfd }: WorkerForked, ctx: &mut Self::Context) {
        self.output.set_pid(pid);
        let handle = WorkerHandle {
            number: self.number,
            pid,
            pidfd: pidfd.map(Arc::new),
            exit_unreported: Arc::default(),
            has_exited: Arc::default(),
            is_killed: Arc::default(),
            forked_at: crate::clock::Instant::now(),
            activity: Arc::new(Activity::new(self.scheduler.started)),
            output: self.output.clone(),
            borrowed: Arc::default(),
        };
        self.scheduler.register_worker(handle.clone());
        if let Some(exited) = handle.exited() {
            ctx.spawn(exited.into_actor(self).map(|(), process, ctx| process.note_exit(ctx)));
        }
        self.handle = Some(handle);
        match std::mem::replace(&mut self.state, ProxyState::Ending) {
            ProxyState::FailedUnforked(failure) => return self.fail_setup(failure),
            other => self.state = other,
        }
        match self.state {
            ProxyState::SettingUp(_) => self.start_setup_timer(ctx),
            ProxyState::ReadyUnforked(_) => self.lend_channel(),
            ProxyState::FailedUnforked(_) | ProxyState::Lent => {}
            ProxyState::Ending => self.kill(),
        }
    }
}

/// The worker is to exit; no checkout holds it.
pub(crate) struct RetireWorker(pub(crate) RetireReason);

impl Message for RetireWorker {
    type Result = ();
}

impl Handler<RetireWorker> for WorkerProcess {
    type Result = ();

    fn handle(&mut self, RetireWorker(reason): RetireWorker, ctx: &mut Self::Context) {
        let (pool, worker) = (self.scheduler.options.name.clone(), self.number);
        self.scheduler.teller.tell(move || {
            tracing::debug!(target: "forkpool", %pool, worker, %reason, "retiring a worker");
        });
        match self.state {
            // The supervisor has dropped its channel, so it exits by itself, but its exit will not be reported.
            ProxyState::Lent if self.handle.as_ref().is_some_and(WorkerHandle::is_exit_unreported) => {
                self.handle_exit(ExitReport::Unknown, ctx);
            }
            ProxyState::Lent => {
                run_after(ctx, EXIT_TIMEOUT, |process, _| process.kill());
            }
            ProxyState::SettingUp(_)
            | ProxyState::ReadyUnforked(_)
            | ProxyState::FailedUnforked(_)
            | ProxyState::Ending => {
                self.state = ProxyState::Ending;
                self.kill();
                if self.handle.is_none() {
                    // It may never be forked, for example because the preload hangs. If it is forked after all, it
                    // finds its channel closed and exits.
                    self.handle_exit(ExitReport::Unknown, ctx);
                }
            }
        }
    }
}

/// The worker has exited.
pub(crate) struct WorkerExited(pub(crate) ExitReport);

impl Message for WorkerExited {
    type Result = ();
}

impl Handler<WorkerExited> for WorkerProcess {
    type Result = ();

    fn handle(&mut self, WorkerExited(exit_report): WorkerExited, ctx: &mut Self::Context) {
        self.handle_exit(exit_report, ctx);
    }
}

/// The worker has printed something, which its server has reported.
pub(crate) struct WorkerPrinted {
    pub(crate) stderr: bool,
    pub(crate) bytes: Vec<u8>,
}

impl Message for WorkerPrinted {
    type Result = ();
}

impl Handler<WorkerPrinted> for WorkerProcess {
    type Result = ();

    fn handle(&mut self, WorkerPrinted { stderr, bytes }: WorkerPrinted, _: &mut Self::Context) {
        self.output.receive(stderr, &bytes);
    }
}

/// The worker will not be forked: its server takes no more work, and another server is asked for a worker with the same
/// number.
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

/// The worker's fork server is gone. From now on only the worker's pidfd shows its exit.
pub(crate) struct ServerLost;

impl Message for ServerLost {
    type Result = ();
}

impl Handler<ServerLost> for WorkerProcess {
    type Result = ();

    fn handle(&mut self, ServerLost: ServerLost, ctx: &mut Self::Context) {
        self.is_server_lost = true;
        match self.handle.as_ref().map(|handle| handle.pidfd.is_some()) {
            Some(true) if self.has_exited() => self.finish_orphan(ADOPTION_TRIES, ctx),
            // Its pidfd is watched already.
            Some(true) => {}
            // It is on another machine and may be in use. Only the end of its channel will show that it has exited.
            Some(false) if self.scheduler.mark_exit_unreported(self.number) => {}
            // It was never forked. If it is after all, it finds its channel closed and exits.
            Some(false) | None => {
                self.kill();
                self.handle_exit(ExitReport::Unknown, ctx);
            }
        }
    }
}
