//! What the supervisor is asked for.

use std::time::{Duration, Instant};

use actix::dev::OneshotSender;
use actix::{AsyncContext, Context, Handler, Message};

use super::Supervisor;
use super::worker_process::Exited;
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::scheduler::worker_handle::WorkerHandle;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::transport::HostChannel;
use crate::wire::control::{ServerStats, ToServer};

/// Turns of the event loop between the wish for a worker and the making of its channel, which takes longer than telling
/// a caller of the death that the wish comes from: by then the caller has heard.
const TURNS: u32 = 4;

/// Have these workers forked.
pub(crate) struct Spawn {
    pub(crate) numbers: Vec<u64>,
    /// Whether nobody is to hear of a loss first.
    pub(crate) at_once: bool,
}

impl Message for Spawn {
    type Result = ();
}

impl Handler<Spawn> for Supervisor {
    type Result = ();

    fn handle(&mut self, Spawn { numbers, at_once }: Spawn, _: &mut Context<Self>) {
        if at_once {
            self.turns_to_wait = 0;
        } else if self.wanted.is_empty() {
            self.turns_to_wait = TURNS;
        }
        self.wanted.extend(numbers);
        self.wake();
    }
}

/// A worker that is to end, and its channel, whose end tells it to.
pub(crate) struct Leaving {
    pub(crate) worker: u64,
    pub(crate) reason: RetireReason,
    pub(crate) channel: Option<HostChannel>,
}

/// Have these workers end, which nobody holds.
pub(crate) struct Retire(pub(crate) Vec<Leaving>);

impl Message for Retire {
    type Result = ();
}

impl Handler<Retire> for Supervisor {
    type Result = ();

    fn handle(&mut self, Retire(workers): Retire, ctx: &mut Context<Self>) {
        self.leaving.extend(workers);
        self.let_go();
        self.end_if_drained(ctx);
    }
}

/// Have this worker killed after a while, which was asked to end.
pub(crate) struct KillLater {
    pub(crate) worker: WorkerHandle,
    pub(crate) grace: Duration,
}

impl Message for KillLater {
    type Result = ();
}

impl Handler<KillLater> for Supervisor {
    type Result = ();

    fn handle(&mut self, KillLater { worker, grace }: KillLater, ctx: &mut Context<Self>) {
        // Its handle stands for exactly this process, also after it is gone.
        ctx.run_later(grace, move |supervisor, _| supervisor.scheduler.kill(&worker));
    }
}

/// Have a worker ended by its server, which this process may not end.
pub(crate) struct KillViaServer {
    pub(crate) worker: u64,
    pub(crate) kill: bool,
}

impl Message for KillViaServer {
    type Result = ();
}

impl Handler<KillViaServer> for Supervisor {
    type Result = ();

    fn handle(&mut self, KillViaServer { worker: number, kill }: KillViaServer, _: &mut Context<Self>) {
        let server =
            self.registry.get(&number).and_then(|registration| registration.server.or(registration.guardian));
        if let Some(connection) = server.and_then(|server| self.connection_of(server)) {
            connection.say(&ToServer::End { number, kill }, Vec::new());
            self.wake();
        }
    }
}

/// A worker was dismissed of whose end nobody will tell: it is taken to be gone.
pub(crate) struct Forget(pub(crate) u64);

impl Message for Forget {
    type Result = ();
}

impl Handler<Forget> for Supervisor {
    type Result = ();

    fn handle(&mut self, Forget(number): Forget, _: &mut Context<Self>) {
        if let Some(registration) = self.registry.remove(&number) {
            registration.process.do_send(Exited(ExitReport::Unseen));
        }
    }
}

/// It is not known what became of a worker that a server was asked for: its channel was closed before the server told.
pub(crate) struct SpawnFailed(pub(crate) u64);

impl Message for SpawnFailed {
    type Result = ();
}

impl Handler<SpawnFailed> for Supervisor {
    type Result = ();

    fn handle(&mut self, SpawnFailed(number): SpawnFailed, _: &mut Context<Self>) {
        if self.unconfirmed.contains(&number) {
            self.not_forked(number, "the connection for its channel was closed");
        }
    }
}

/// Ask the server what it does; where there is none, whoever asks hears that its sender is gone.
pub(crate) struct InspectServer(pub(crate) OneshotSender<ServerStats>);

impl Message for InspectServer {
    type Result = ();
}

impl Handler<InspectServer> for Supervisor {
    type Result = ();

    fn handle(&mut self, InspectServer(inquirer): InspectServer, _: &mut Context<Self>) {
        if let Some(connection) = self.server.connection() {
            connection.say(&ToServer::Inspect, Vec::new());
            self.stats_requests.push_back(inquirer);
            self.wake();
        }
    }
}

/// Something may be due: at a time, or at once.
pub(crate) struct Attend {
    pub(crate) at: Option<Instant>,
}

impl Message for Attend {
    type Result = ();
}

impl Handler<Attend> for Supervisor {
    type Result = ();

    fn handle(&mut self, Attend { at }: Attend, ctx: &mut Context<Self>) {
        if let Some(at) = at {
            let wait = at.saturating_duration_since(Instant::now());
            ctx.run_later(wait, |supervisor, _| supervisor.scheduler.tick());
        }
        self.end_if_drained(ctx);
    }
}

/// End the pool: what is queued on held checkouts may finish for so long.
pub(crate) struct End {
    pub(crate) drain: Duration,
    pub(crate) done: OneshotSender<()>,
}

impl Message for End {
    type Result = ();
}

impl Handler<End> for Supervisor {
    type Result = ();

    fn handle(&mut self, End { drain, done }: End, ctx: &mut Context<Self>) {
        self.end_waiters.push(done);
        self.scheduler.stop();
        ctx.run_later(drain, |supervisor, _| {
            supervisor.scheduler.stop_now();
            // Also where whoever holds one does not come to do it.
            supervisor.scheduler.living().iter().for_each(|worker| supervisor.scheduler.kill(worker));
        });
        self.end_if_drained(ctx);
    }
}
