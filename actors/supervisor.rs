//! The supervisor of a pool: it owns the fork server and the registry of worker processes.
//!
//! It forks what the ledger asks for, hands every birth and death to the process it concerns, starts a server
//! that has died again, and takes everything down at the end. It never awaits a worker.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};

use actix::dev::OneshotSender;
use actix::fut::{ActorFuture, WrapFuture};
use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message};

use super::claim::Obituary;
use super::desk::Desk;
use super::host_channel::HostChannel;
use super::lease::Identity;
use super::life::Reason;
use super::output::{NameOf, Output, Outputs};
use super::server_link::{Launched, ServerLink, Source};
use super::worker_process::{self, Forked, Gone, Leave, Orphaned, WorkerProcess};
use crate::channel::WorkerEnd;
use crate::failure::{Failure, FailureKind, WorkerFacts};
use crate::sys::launch::ServerProcess;
use crate::wire::control::{FromServer, ToServer};

/// How long a server may take to end its workers and itself.
const FAREWELL: Duration = Duration::from_secs(2);

/// Turns of the event loop between the wish for a worker and the making of its channel, which takes longer than telling
/// a caller of the death that the wish comes from: by then the caller has heard.
const TURNS: u32 = 4;

/// What it takes to have a server for the pool.
pub(super) struct Recipe {
    pub(super) source: Source,
    /// The first frame of the conversation.
    pub(super) hello: Vec<u8>,
    pub(super) fingerprint: u64,
    /// How the calls of its workers are called.
    pub(super) name_of: NameOf,
}

/// The fork server, as the supervisor knows it.
enum Server {
    /// Launched, and to be spoken to once the supervisor runs.
    Launched(Launched),
    /// The preload runs; fork requests wait in the channel.
    Starting(ServerLink),
    Up(ServerLink),
    /// There is none, and another attempt is due.
    Down,
    /// The pool is over.
    Over,
}

impl Server {
    fn link(&mut self) -> Option<&mut ServerLink> {
        match self {
            Server::Starting(link) | Server::Up(link) => Some(link),
            Server::Launched(_) | Server::Down | Server::Over => None,
        }
    }
}

/// The owner of a pool's processes.
pub(super) struct Supervisor {
    desk: Arc<Desk>,
    recipe: Recipe,
    server: Server,
    registry: HashMap<u64, Addr<WorkerProcess>>,
    /// Workers that were asked for and not yet confirmed.
    unconfirmed: HashSet<u64>,
    /// Workers that go once their replacements are confirmed, with the channels whose end tells them to.
    leaving: Vec<Leaving>,
    /// Workers that were asked for a few turns ago.
    wanted: Vec<u64>,
    turns_to_wait: u32,
    /// Workers that were asked for while there was no server.
    unborn: Vec<u64>,
    /// Servers that ended before they were up, since one was.
    streak: u32,
    /// What a server that was not up yet said before it ended.
    last_words: Option<String>,
    /// Whoever waits for the end.
    mourners: Vec<OneshotSender<()>>,
    /// The task of the conversation, to be woken when there is something to say.
    waker: Option<Waker>,
}

impl Supervisor {
    pub(super) fn new(desk: Arc<Desk>, recipe: Recipe, launched: Option<Launched>) -> Self {
        Supervisor {
            desk,
            recipe,
            server: launched.map_or(Server::Down, Server::Launched),
            registry: HashMap::new(),
            unconfirmed: HashSet::new(),
            leaving: Vec::new(),
            wanted: Vec::new(),
            turns_to_wait: 0,
            unborn: Vec::new(),
            streak: 0,
            last_words: None,
            mourners: Vec::new(),
            waker: None,
        }
    }

    fn greet(&mut self, launched: Launched, ctx: &mut Context<Self>) {
        match ServerLink::new(launched) {
            Ok(mut link) => {
                link.say_frame(self.recipe.hello.clone());
                self.server = Server::Starting(link);
                let unborn = std::mem::take(&mut self.unborn);
                unborn.into_iter().for_each(|number| self.hire(number));
                self.wake();
            }
            Err(error) => self.server_down(error.to_string(), ctx),
        }
    }

    /// Has those forked that are wanted, a few turns after they were; whether there is more to do.
    fn hire_wanted(&mut self) -> bool {
        if self.wanted.is_empty() {
            return false;
        }
        match self.turns_to_wait.checked_sub(1) {
            Some(fewer) => self.turns_to_wait = fewer,
            None => std::mem::take(&mut self.wanted).into_iter().for_each(|number| self.hire(number)),
        }
        true
    }

    /// Has one worker forked.
    fn hire(&mut self, number: u64) {
        let Some(link) = self.server.link() else {
            self.unborn.push(number);
            return;
        };
        let options = &self.desk.options;
        let ends = HostChannel::new(options.transport, options.max_payload).and_then(|(channel, end)| {
            let (output, outputs) = Output::new(&options.name, number, channel.notes(), self.recipe.name_of)?;
            Ok((channel, output, end, outputs))
        });
        match ends {
            Ok((channel, output, end, Outputs { stdout, stderr })) => {
                let (rings, socket, memory) = match end {
                    WorkerEnd::Rings { doorbell, memory } => (true, doorbell, memory),
                    WorkerEnd::Stream { socket, memory } => (false, socket, memory),
                };
                link.say(&ToServer::Fork { number, rings }, vec![socket, memory, stdout, stderr]);
                self.unconfirmed.insert(number);
                let fingerprint = self.recipe.fingerprint;
                let process = WorkerProcess::new(self.desk.clone(), number, fingerprint, channel, output);
                self.registry.insert(number, process.start());
            }
            Err(error) => self.not_forked(number, &error.to_string()),
        }
    }

    fn not_forked(&mut self, number: u64, reason: &str) {
        tracing::warn!(target: "forkpool", pool = %self.desk.options.name, worker = number, reason,
            "a worker could not be forked");
        let failure = Failure::of(FailureKind::Setup, format!("failed to fork: {reason}"));
        let facts = WorkerFacts { number, ..WorkerFacts::default() };
        self.desk.set_trouble(failure.in_pool(&self.desk.options.name).on_worker(facts));
        self.unconfirmed.remove(&number);
        self.let_go();
        match self.registry.remove(&number) {
            Some(process) => process.do_send(Gone(Obituary::Unseen)),
            None => self.desk.ended(number, Obituary::Unseen),
        }
    }

    /// Tells those that are to end to do so, unless one that was asked for in their place is still to come.
    fn let_go(&mut self) {
        let is_awaited = !(self.wanted.is_empty() && self.unconfirmed.is_empty());
        if is_awaited && self.desk.is_open() {
            return;
        }
        for Leaving { worker, reason, channel } in std::mem::take(&mut self.leaving) {
            drop(channel);
            if self.will_not_be_hired(worker) {
                self.desk.ended(worker, Obituary::Unseen);
            } else if let Some(process) = self.registry.get(&worker) {
                process.do_send(Leave(reason));
            }
        }
    }

    /// Strikes off a worker that the server was not asked for yet; whether it was one.
    fn will_not_be_hired(&mut self, worker: u64) -> bool {
        let before = self.wanted.len() + self.unborn.len();
        self.wanted.retain(|&wanted| wanted != worker);
        self.unborn.retain(|&unborn| unborn != worker);
        self.wanted.len() + self.unborn.len() < before
    }

    fn take_in(&mut self, message: FromServer) {
        match message {
            FromServer::Welcome => self.welcomed(),
            FromServer::Refused { reason } => self.last_words = Some(reason),
            FromServer::PreloadFailed(report) => {
                self.last_words = Some("its preload failed".to_owned());
                let failure = worker_process::setup_failure(&report);
                self.desk.not_set_up(None, failure.in_pool(&self.desk.options.name));
            }
            FromServer::Forked { number, pid } => {
                let handle = self.server.link().and_then(ServerLink::take_passed);
                match (self.registry.get(&number), handle) {
                    // One that was given up before it was born finds its channel closed, and ends.
                    (Some(process), Some(handle)) => process.do_send(Forked { pid, handle }),
                    // Without a handle it could not be killed; without its channel it ends.
                    (Some(process), None) => process.do_send(Leave(Reason::Broken)),
                    // It was given up while the server was being asked for it.
                    (None, _) => {}
                }
                self.unconfirmed.remove(&number);
                self.let_go();
            }
            FromServer::NotForked { number, reason } => self.not_forked(number, &reason),
            FromServer::Ended(ended) => {
                self.unconfirmed.remove(&ended.number);
                if let Some(process) = self.registry.remove(&ended.number) {
                    process.do_send(Gone(Obituary::Seen(ended)));
                }
            }
        }
    }

    fn welcomed(&mut self) {
        self.streak = 0;
        self.desk.set_outage(None);
        if let Server::Starting(link) = std::mem::replace(&mut self.server, Server::Down) {
            tracing::debug!(target: "forkpool", pool = %self.desk.options.name, server = link.pid(), "fork server is up");
            self.server = Server::Up(link);
        }
    }

    /// The conversation has ended without our doing.
    fn server_lost(&mut self, ctx: &mut Context<Self>) {
        let before = std::mem::replace(&mut self.server, Server::Down);
        let was_up = matches!(before, Server::Up(_));
        if let Server::Starting(link) | Server::Up(link) = before {
            link.hang_up().iter_mut().for_each(ServerProcess::kill);
        }
        self.unconfirmed.clear();
        self.let_go();
        // They stay in the registry: an orphan can still be told to leave.
        self.registry.retain(|_, process| process.connected());
        self.registry.values().for_each(|process| process.do_send(Orphaned));
        let last_words = self.last_words.take();
        if was_up {
            self.desk.set_outage(Some("the fork server died".to_owned()));
            self.relaunch(ctx);
        } else {
            let why = last_words.unwrap_or_else(|| "the fork server ended before it was ready".to_owned());
            self.server_down(why, ctx);
        }
    }

    /// There is no server, and there will be an attempt to start one after a while.
    fn server_down(&mut self, why: String, ctx: &mut Context<Self>) {
        self.streak = self.streak.saturating_add(1);
        let wait = self.desk.options.restart.wait(self.streak, self.desk.chance());
        tracing::warn!(target: "forkpool", pool = %self.desk.options.name, why, ?wait, "no fork server");
        self.desk.set_outage(Some(why));
        self.server = Server::Down;
        ctx.run_later(wait, |supervisor, ctx| supervisor.relaunch(ctx));
    }

    fn relaunch(&mut self, ctx: &mut Context<Self>) {
        if !matches!(self.server, Server::Down) || self.desk.is_drained() {
            return;
        }
        match self.recipe.source.reach() {
            Ok(launched) => self.greet(launched, ctx),
            Err(error) => {
                let why = self.recipe.source.unreachable(&error);
                self.server_down(why, ctx);
            }
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Once every worker is gone, the server is taken leave of, and whoever waits for the end is told.
    fn end_if_drained(&mut self, ctx: &mut Context<Self>) {
        if matches!(self.server, Server::Over) || !self.desk.is_drained() {
            return;
        }
        let link = match std::mem::replace(&mut self.server, Server::Over) {
            Server::Starting(link) | Server::Up(link) => Some(link),
            Server::Launched(launched) => ServerLink::new(launched).ok(),
            Server::Down | Server::Over => None,
        };
        let farewell = async move {
            let process = link.and_then(ServerLink::hang_up);
            if let Some(Ok(handle)) = process.as_ref().map(ServerProcess::handle) {
                worker_process::ended(handle, FAREWELL).await;
            }
            // Dropping the process reaps it.
            drop(process);
        };
        let end = farewell.into_actor(self).map(|(), supervisor, ctx| {
            for mourner in supervisor.mourners.drain(..) {
                // Whoever asked may have given up waiting.
                let _ = mourner.send(());
            }
            ctx.stop();
        });
        ctx.spawn(end);
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        match std::mem::replace(&mut self.server, Server::Down) {
            Server::Launched(launched) => self.greet(launched, ctx),
            _ => self.relaunch(ctx),
        }
        ctx.spawn(Conversation);
    }
}

/// Talks with the fork server, whichever it is.
struct Conversation;

impl ActorFuture<Supervisor> for Conversation {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        supervisor: &mut Supervisor,
        ctx: &mut Context<Supervisor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        supervisor.waker = Some(task.waker().clone());
        while let Some(link) = supervisor.server.link() {
            // What cannot be written yet wakes this task when it can.
            let _ = link.poll_flush(task);
            match link.poll_next(task) {
                Poll::Ready(Some(message)) => supervisor.take_in(message),
                Poll::Ready(None) => supervisor.server_lost(ctx),
                Poll::Pending => break,
            }
        }
        if supervisor.hire_wanted() {
            task.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// Have these workers forked.
pub(super) struct Hire(pub(super) Vec<u64>);

impl Message for Hire {
    type Result = ();
}

impl Handler<Hire> for Supervisor {
    type Result = ();

    fn handle(&mut self, Hire(numbers): Hire, _: &mut Self::Context) {
        if self.wanted.is_empty() {
            self.turns_to_wait = TURNS;
        }
        self.wanted.extend(numbers);
        self.wake();
    }
}

/// A worker that is to end, and its channel, whose end tells it to.
pub(super) struct Leaving {
    pub(super) worker: u64,
    pub(super) reason: Reason,
    pub(super) channel: Option<HostChannel>,
}

/// Have these workers end, which nobody holds.
pub(super) struct Retire(pub(super) Vec<Leaving>);

impl Message for Retire {
    type Result = ();
}

impl Handler<Retire> for Supervisor {
    type Result = ();

    fn handle(&mut self, Retire(workers): Retire, ctx: &mut Self::Context) {
        self.leaving.extend(workers);
        self.let_go();
        self.end_if_drained(ctx);
    }
}

/// Have this worker killed after a while, which was asked to end.
pub(super) struct KillLater {
    pub(super) worker: Identity,
    pub(super) grace: Duration,
}

impl Message for KillLater {
    type Result = ();
}

impl Handler<KillLater> for Supervisor {
    type Result = ();

    fn handle(&mut self, KillLater { worker, grace }: KillLater, ctx: &mut Self::Context) {
        // Its handle stands for exactly this process, also after it is gone.
        ctx.run_later(grace, move |_, _| worker.kill());
    }
}

/// Something may be due: at a time, or at once.
pub(super) struct Attend {
    pub(super) at: Option<Instant>,
}

impl Message for Attend {
    type Result = ();
}

impl Handler<Attend> for Supervisor {
    type Result = ();

    fn handle(&mut self, Attend { at }: Attend, ctx: &mut Self::Context) {
        if let Some(at) = at {
            let wait = at.saturating_duration_since(Instant::now());
            ctx.run_later(wait, |supervisor, _| supervisor.desk.tick());
        }
        self.end_if_drained(ctx);
    }
}

/// End the pool: what is queued on held checkouts may finish for so long.
pub(super) struct End {
    pub(super) drain: Duration,
    pub(super) done: OneshotSender<()>,
}

impl Message for End {
    type Result = ();
}

impl Handler<End> for Supervisor {
    type Result = ();

    fn handle(&mut self, End { drain, done }: End, ctx: &mut Self::Context) {
        self.mourners.push(done);
        self.desk.stop();
        ctx.run_later(drain, |supervisor, _| {
            supervisor.desk.stop_now();
            // Also where whoever holds one does not come to do it.
            supervisor.desk.living().iter().for_each(|worker| worker.kill());
        });
        self.end_if_drained(ctx);
    }
}
