//! Every way in which a worker goes down, at every moment: one table of what its requester sees. The table stands in
//! docs/RELIABILITY.md as well.

use std::error::Error;
use std::fmt::Write;
use std::time::Duration;

use crate::harness::*;
use actix::dev::Request;
use actix::prelude::*;
use forkpool::Transport;
use forkpool::prelude::*;
use forkpool::{CheckoutBuilder, Ending, PoolBuilder};

use Moment::*;
use Way::*;

const MOMENTS: [(Moment, &str); 7] = [
    (SetUp, "during set-up"),
    (Idle, "idle"),
    (ReadingACall, "while reading a call"),
    (Running, "running"),
    (WritingAReply, "while writing a reply"),
    (CheckoutDone, "in `checkout_done`"),
    (Draining, "while draining"),
];

/// What is seen of each way, in the words of [`Seen`]: during set-up, by the next call where it was idle, and in a call,
/// which is the same in all four moments of a call. Behind the last call of a checkout nothing is.
const MATRIX: [(Way, &str, [&str; 3]); 14] = [
    (Panics, "panics", ["Setup", "no failure; stays", "Panic"]),
    (Aborts, "aborts", ["Setup, SIGABRT", "no failure", "Died, SIGABRT"]),
    (Segfaults, "segmentation fault", ["Setup, SIGSEGV", "no failure", "Died, SIGSEGV"]),
    (ExitsWithZero, "`exit(0)`", ["Setup, status 0", "no failure", "Died, status 0"]),
    (ExitsWithThree, "`exit(3)`", ["Setup, status 3", "no failure", "Died, status 3"]),
    (KillsItself, "SIGKILL", ["Setup, SIGKILL", "no failure", "Died, SIGKILL"]),
    (StopsItself, "SIGSTOP", ["Setup", "Timeout", "Timeout"]),
    (OverflowsItsStack, "stack overflow", ["Setup, SIGSEGV", "no failure", "Died, SIGSEGV"]),
    (ExceedsItsMemory, "memory limit", ["Setup, SIGABRT", "no failure", "Died, SIGABRT"]),
    (ClosesItsChannel, "closes its channel", ["Setup", "no failure", "Died"]),
    (WritesGarbage, "writes a garbage frame", ["Setup", "no failure", "Protocol"]),
    (WritesHalfAFrame, "writes half a frame, and ends", ["Setup, status 0", "no failure", "Died, status 0"]),
    (RepliesTwice, "replies twice", ["Setup", "no failure", "Protocol (the call behind)"]),
    (RepliesToAnother, "replies with a foreign call id", ["Setup", "no failure", "Protocol"]),
];

/// How long a worker that is stopped may keep its caller.
const CLOCK: Duration = Duration::from_secs(1);

/// What became of one cell.
struct Seen {
    /// The calls of the requester, until the first that failed, which is the first call but where told otherwise.
    done: usize,
    failure: Option<Failure>,
    /// Whether the worker was there afterwards.
    stayed: bool,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.failure {
            None => f.write_str("no failure")?,
            Some(failure) => {
                write!(f, "{:?}", failure.kind())?;
                match failure.ending() {
                    Some(Ending::Exited { code }) => write!(f, ", status {code}")?,
                    Some(ending) => {
                        let text = ending.to_string();
                        // Without whether there is a core file, which is the machine's affair.
                        let name = text.split(' ').find(|word| word.starts_with("SIG"));
                        write!(f, ", {}", name.unwrap_or(&text))?;
                    }
                    None => {}
                }
            }
        }
        if self.failure.is_some() && self.done > 0 {
            f.write_str(" (the call behind)")?;
        }
        f.write_str(if self.stayed { "; stays" } else { "" })
    }
}

/// C4, E5, E7, P2, P8, P12, W3, W5, W8
#[test]
fn whatever_a_worker_does_and_when_each_call_is_answered_once_and_nobody_else_is_harmed() {
    let mut seen = Vec::new();
    let mut wrong = String::new();
    for (way, _, [set_up, idle, call]) in &MATRIX {
        let mut row = Vec::new();
        for (moment, _) in &MOMENTS {
            let expected = match moment {
                SetUp => set_up,
                Idle => idle,
                CheckoutDone => "no failure",
                ReadingACall | Running | WritingAReply | Draining => call,
            };
            // Shown where one of them breaks a rule that holds for all.
            println!("{way:?} x {moment:?}");
            let cell = run(play(*way, *moment)).to_string();
            if cell != expected {
                writeln!(wrong, "{way:?} x {moment:?}: {cell:?}, and not {expected:?}").expect("a line");
            }
            row.push(cell);
        }
        seen.push(row);
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    compare_with_the_docs(&table(&seen));
}

/// Two workers, of which a neighbour has one the whole time. The other goes down.
async fn play(way: Way, moment: Moment) -> Seen {
    let scene = Scene::set();
    let pool = options(&Plan { way, moment, scene: scene.clone() }, way).start().expect("the pool starts");
    let stage = Stage { way, moment, scene, pool };
    stage.warm_up().await;

    let neighbour = stage.pool.checkout().timeout(None).start();
    let its_worker = answer(neighbour.send(Neighbour::AtOnce)).await.expect("a pid");
    let beside = [neighbour.send(Neighbour::WhenAllGoes), neighbour.send(Neighbour::AtOnce)];

    let seen = stage.go_down(its_worker).await;

    for call in beside {
        assert_eq!(answer(call).await, Ok(its_worker), "the neighbour keeps its worker");
    }
    drop(neighbour);
    if moment != Draining {
        settled(&stage.pool, 2).await;
        let calls: Vec<_> = (0..4).map(|number| stage.pool.send(Work(number))).collect();
        for (number, call) in (0..).zip(calls) {
            assert_eq!(answer(call).await, Ok(Worked(number)), "the pool is as before");
        }
        bounded("the end of the pool", stage.pool.stop(Duration::ZERO)).await;
    }
    stage.scene.clear();
    seen
}

fn options(plan: &Plan, way: Way) -> PoolBuilder<Wreck> {
    let options = builder::<Wreck>(plan.clone()).workers(2..=2).name("matrix");
    match way {
        StopsItself => options.setup_timeout(CLOCK),
        ExceedsItsMemory => options.memory_limit(WRECK_LIMIT),
        _ => options,
    }
}

struct Stage {
    way: Way,
    moment: Moment,
    scene: Scene,
    pool: PoolHandle<Wreck>,
}

impl Stage {
    /// A worker that has been of use is replaced without a delay.
    async fn warm_up(&self) {
        let checkouts = [self.pool.checkout().start(), self.pool.checkout().start()];
        for checkout in &checkouts {
            assert!(answer(checkout.send(Neighbour::AtOnce)).await.is_ok());
        }
        drop(checkouts);
        settled(&self.pool, 2).await;
    }

    /// A checkout that goes down with its worker. One that is stopped has to be given up by somebody's clock.
    fn checkout(&self) -> CheckoutBuilder<Wreck> {
        match self.way {
            StopsItself => self.pool.checkout().timeout(CLOCK),
            _ => self.pool.checkout(),
        }
    }

    async fn go_down(&self, neighbour: u32) -> Seen {
        let other = *self.pool.stats().pids.iter().find(|&&pid| pid != neighbour).expect("another worker");
        match self.moment {
            SetUp => self.go_down_during_set_up(other).await,
            Idle => self.go_down_idle(other).await,
            ReadingACall | Running | WritingAReply => self.go_down_in_a_call().await,
            CheckoutDone => self.go_down_behind_the_last_call().await,
            Draining => self.go_down_while_draining().await,
        }
    }

    async fn go_down_during_set_up(&self, other: u32) -> Seen {
        self.scene.set_trap(None);
        kill(other);
        let broken = self.scene.sprung().await;
        // The set-up has a clock of its own, which is to be the first.
        let calls = Calls::send(self.pool.checkout());
        until("they wait in line", || self.pool.stats().waiting == 1).await;
        // A checkout joins the line when it is started, and takes in its calls in its own turn. A set-up that fails
        // before is no answer to a call.
        actix_rt::task::yield_now().await;
        self.scene.go();
        self.told(calls, broken).await
    }

    async fn go_down_idle(&self, other: u32) -> Seen {
        self.scene.set_trap(Some(other));
        assert_eq!(self.scene.sprung().await, other);
        self.scene.go();
        match self.way {
            // Its thread ends alone.
            Panics => until("the thread has ended", || threads(other) == 1).await,
            StopsItself => until("it is stopped", || state(other) == Some('T')).await,
            // Found out by whoever gets it, who gets another one.
            WritesGarbage | RepliesTwice | RepliesToAnother => self.scene.said().await,
            // A pipe that is read from stays until that is over, so it is found out in the same way.
            ClosesItsChannel if transport() == Transport::SharedMemory => {
                until("its channel is closed", || own_channel_of(other) == 0).await;
            }
            _ => {
                gone(other).await;
                until("it is replaced", || (self.pool.stats().idle, self.pool.stats().workers()) == (1, 2))
                    .await;
            }
        }
        self.told(Calls::send(self.checkout()), other).await
    }

    async fn go_down_in_a_call(&self) -> Seen {
        self.scene.set_trap(None);
        let calls = Calls::send(self.checkout());
        let broken = self.scene.sprung().await;
        self.scene.go();
        self.told(calls, broken).await
    }

    async fn go_down_behind_the_last_call(&self) -> Seen {
        self.scene.set_trap(None);
        let last = answer(self.checkout().start().send(Work(FIRST))).await;
        assert_eq!(last, Ok(Worked(FIRST)), "what was answered stays so");
        let broken = self.scene.sprung().await;
        // With the clock that a pool has by default.
        let calls = Calls::send(self.pool.checkout());
        self.scene.go();
        self.told(calls, broken).await
    }

    async fn go_down_while_draining(&self) -> Seen {
        self.scene.set_trap(None);
        let calls = Calls::send(self.checkout());
        let broken = self.scene.sprung().await;
        let stopped = actix_rt::spawn(self.pool.stop(PATIENCE));
        assert_eq!(failure(self.pool.addr().send(Work(FIRST))).await.kind(), FailureKind::Stopped);
        self.scene.go();
        let seen = self.told(calls, broken).await;
        bounded("the end of the pool", stopped).await.expect("it is not cancelled");
        assert_eq!(self.pool.stats().workers(), 0);
        seen
    }

    /// What one requester is told, and whether that keeps to the rules that hold in every cell.
    async fn told(&self, calls: Calls, broken: u32) -> Seen {
        let Calls { checkout, awaited, heard } = calls;
        let mut told = Vec::new();
        for call in awaited {
            told.push(answer(call).await);
        }
        let done = told.iter().take_while(|told| told.is_ok()).count();
        for (number, told) in (FIRST..).zip(&told[..done]) {
            assert_eq!(*told, Ok(Worked(number)), "a reply is the call's own");
        }
        let first = told.get(done).map(|told| told.clone().expect_err("not done"));
        for told in told.iter().skip(done + 1) {
            let cleared = told.clone().expect_err("it is behind a failure");
            assert_eq!(cleared.kind(), FailureKind::Cleared);
            let cause = cleared.source().and_then(|source| source.downcast_ref());
            assert_eq!(cause.map(Failure::kind), first.as_ref().map(Failure::kind));
        }
        let later = answer(checkout.send(Work(LATER))).await;
        match &first {
            Some(first) if first.kind() != FailureKind::Setup => {
                assert_eq!(later, Err(first.clone()), "a lost checkout says so");
            }
            _ => assert_eq!(later, Ok(Worked(LATER)), "the checkout goes on"),
        }
        // Each was told to the context once, and so was the call that nobody awaits.
        let kind = |told: &Result<Worked, Failure>| told.as_ref().err().map(Failure::kind);
        let unawaited = first.as_ref().map(|_| FailureKind::Cleared);
        let expected = told.iter().filter_map(kind).chain(unawaited).chain(kind(&later));
        assert_eq!(heard.kinds(), expected.collect::<Vec<_>>());
        self.no_call_ran_twice(&told);

        let stayed = self.moment == Idle && self.way == Panics;
        if !stayed {
            drop(checkout);
            gone(broken).await;
        }
        Seen { done, failure: first, stayed }
    }

    fn no_call_ran_twice(&self, told: &[Result<Worked, Failure>]) {
        let mut ran = self.scene.ran();
        let (number, _) = (ran.len(), ran.sort_unstable());
        ran.dedup();
        // The one of the pool's own time before is a checkout of its own.
        let of_a_checkout_before = usize::from(self.moment == CheckoutDone);
        assert_eq!(ran.len() + of_a_checkout_before, number, "{ran:?}");
        for (call, told) in (FIRST..).zip(told) {
            let cleared = matches!(told, Err(failure) if failure.kind() == FailureKind::Cleared);
            assert!(!(cleared && ran.contains(&call)), "{call} was cleared and ran: {ran:?}");
        }
    }
}

/// Sent when those of [`Calls`] have been answered.
const LATER: u64 = 9;

/// The calls of one requester: three that are awaited, and one that is not.
struct Calls {
    checkout: Addr<Checkout<Wreck>>,
    awaited: Vec<Request<Checkout<Wreck>, Work>>,
    heard: Heard,
}

impl Calls {
    fn send(checkout: CheckoutBuilder<Wreck>) -> Self {
        let (context, heard) = listening("the requester");
        let checkout = checkout.in_context(&context).start();
        let awaited = (FIRST..FIRST + 3).map(|number| checkout.send(Work(number))).collect();
        checkout.do_send(Work(FIRST + 3));
        Calls { checkout, awaited, heard }
    }
}

fn table(seen: &[Vec<String>]) -> String {
    let mut table = String::from("| |");
    MOMENTS.iter().for_each(|(_, name)| table += &format!(" {name} |"));
    table += "\n|---|";
    table += &"---|".repeat(MOMENTS.len());
    for ((_, name, _), row) in MATRIX.iter().zip(seen) {
        table += &format!("\n| {name} |");
        row.iter().for_each(|cell| table += &format!(" {cell} |"));
    }
    table + "\n"
}

/// # Panics
///
/// If the table in docs/RELIABILITY.md is another one, unless it was to be written anew.
fn compare_with_the_docs(table: &str) {
    const FILE: &str = "docs/RELIABILITY.md";
    const BEGIN: &str = "<!-- the matrix -->\n";
    const END: &str = "<!-- the end of the matrix -->\n";
    let docs = std::fs::read_to_string(FILE).expect("the docs");
    let (before, rest) = docs.split_once(BEGIN).expect("where the matrix begins");
    let (written, after) = rest.split_once(END).expect("where the matrix ends");
    if std::env::var_os("FORKPOOL_WRITE_DOCS").is_some() {
        std::fs::write(FILE, format!("{before}{BEGIN}{table}{END}{after}")).expect("the docs are written");
    } else {
        assert!(
            written == table,
            "{FILE} has another matrix: FORKPOOL_WRITE_DOCS=1 writes this one\n{table}"
        );
    }
}
