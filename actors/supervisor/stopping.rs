//! How a pool is stopped: in bounded time, with an answer that says what is left.

use std::time::Duration;

use actix::dev::OneshotSender;
use actix::fut::WrapFuture;
use actix::{ActorContext, ActorFutureExt, AsyncContext, Context};

use super::Supervisor;
use super::servers::ServerState;
use crate::actors::api::stop_report::{LeftProcess, StopReport};
use crate::actors::reply;
use crate::actors::scheduler::command::STOP_TIMEOUT;
use crate::actors::threads::real_time::{run_after, within};
use crate::sys::figures;

/// How long workers that were killed may take to be reaped before the pool's own server is killed (2 s). The server has
/// to reap them, and it may be stopped.
const REAP_TIMEOUT: Duration = Duration::from_secs(2);

impl Supervisor {
    /// Begins to stop the pool. `done` gets what is left, at the latest [`STOP_TIMEOUT`] after `drain`.
    pub(super) fn stop(&mut self, drain: Duration, done: OneshotSender<StopReport>, ctx: &mut Context<Self>) {
        self.end_waiters.push(done);
        self.scheduler.stop();
        run_after(ctx, drain, |supervisor, _| {
            supervisor.scheduler.stop_now();
            // Some holders may be blocked and unable to kill their workers.
            supervisor.scheduler.living_workers().iter().for_each(|worker| supervisor.scheduler.kill(worker));
        });
        run_after(ctx, drain.saturating_add(REAP_TIMEOUT), |supervisor, _| supervisor.kill_own_server());
        run_after(ctx, drain.saturating_add(STOP_TIMEOUT), |supervisor, _| supervisor.answer_stop());
        self.stop_if_drained(ctx);
    }

    /// Kills the pool's own server, which has not reaped all workers. Its end is handled as any loss of a server.
    fn kill_own_server(&mut self) {
        if let Some(connection) = self.server.connection() {
            connection.kill_process();
        }
    }

    /// Answers the requests to stop the pool with what is left.
    fn answer_stop(&mut self) {
        let report = StopReport { left: self.left_processes(), reason: None };
        for waiter in self.end_waiters.drain(..) {
            // The requester may have stopped waiting.
            let _ = reply::send(waiter, report.clone());
        }
    }

    fn left_processes(&mut self) -> Vec<LeftProcess> {
        let mut workers = self.scheduler.living_workers();
        workers.sort_unstable_by_key(|worker| worker.number);
        let workers =
            workers.into_iter().map(|worker| left(Some(worker.number), Some(worker.pid), worker.state()));
        let mut found: Vec<LeftProcess> = workers.collect();
        // It is a child of this process until it is reaped, which a debugger may delay.
        let server = self.server_pid.and_then(|pid| Some((pid, figures::state_of_child(pid)?)));
        found.extend(server.map(|(pid, state)| left(None, Some(pid), Some(state))));
        found
    }

    /// If the pool is drained, shuts down the server, resolves the requests to stop the pool, and stops this actor.
    pub(super) fn stop_if_drained(&mut self, ctx: &mut Context<Self>) {
        if matches!(self.server, ServerState::Stopped) || self.searches > 0 || !self.scheduler.is_drained() {
            return;
        }
        let shut_down = self.shut_down();
        let told = self.scheduler.teller.told();
        let end = async move {
            shut_down.await;
            // So that a program that ends now has told everything, unless its subscriber stands still.
            let _ = within(TELL_TIMEOUT, told).await;
        };
        let end = end.into_actor(self).map(|(), supervisor, ctx| {
            supervisor.scheduler.has_ended();
            supervisor.answer_stop();
            ctx.stop();
        });
        ctx.spawn(end);
    }
}

/// How long the end of a pool waits for its last log events to be told (200 ms).
const TELL_TIMEOUT: Duration = Duration::from_millis(200);

fn left(worker: Option<u64>, pid: Option<u32>, state: Option<&'static str>) -> LeftProcess {
    LeftProcess { worker, pid, state: state.unwrap_or("in an unknown state").to_owned() }
}
