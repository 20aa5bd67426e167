//! A worker that wrecks itself once, in a way and at a moment that a test chooses.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use actix::prelude::*;
use forkpool::prelude::*;
use rustix::process::Signal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{OwnChannel, hang_up, own_memory, until};

/// How a worker goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    Panics,
    Aborts,
    Segfaults,
    ExitsWithZero,
    ExitsWithThree,
    KillsItself,
    StopsItself,
    OverflowsItsStack,
    ExceedsItsMemory,
    ClosesItsChannel,
    WritesGarbage,
    /// Writes half a frame and ends.
    WritesHalfAFrame,
    RepliesTwice,
    RepliesToAnother,
}

/// What a worker is doing when it goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    SetUp,
    Idle,
    ReadingACall,
    Running,
    WritingAReply,
    CheckoutDone,
    Draining,
}

/// The first call of every checkout.
pub const FIRST: u64 = 1;

/// More bytes than [`WRECK_LIMIT`] leaves room for.
const TOO_MUCH: usize = 1 << 30;

/// The `memory_limit` of a pool of wrecks.
pub const WRECK_LIMIT: u64 = 512 << 20;

impl Way {
    /// Ends this process, or does what makes others end it.
    pub fn go(self) {
        match self {
            Way::Panics => panic!("told to panic"),
            Way::Aborts => std::process::abort(),
            Way::Segfaults => read_where_nothing_is(),
            Way::ExitsWithZero => std::process::exit(0),
            Way::ExitsWithThree => std::process::exit(3),
            Way::KillsItself => send_oneself(Signal::KILL),
            Way::StopsItself => send_oneself(Signal::STOP),
            Way::OverflowsItsStack => drop(overflow(0)),
            Way::ExceedsItsMemory => drop(std::hint::black_box(vec![1_u8; TOO_MUCH])),
            Way::ClosesItsChannel => {
                hang_up();
                std::thread::sleep(Duration::from_secs(60));
            }
            // A header of kind 127, which there is not.
            Way::WritesGarbage => say(&[3, 0, 0, 0, 127, 127, 127]),
            Way::WritesHalfAFrame => {
                OwnChannel::find().say(&[7, 0, 0, 0, 2, 1]);
                std::process::exit(0);
            }
            Way::RepliesTwice => say(&[REPLY, REPLY].concat()),
            Way::RepliesToAnother => {
                let mut reply = REPLY;
                reply[5] += 100;
                say(&reply);
            }
        }
    }
}

/// The reply to the call [`FIRST`]: `Ok(FIRST)`.
const REPLY: [u8; 11] = [7, 0, 0, 0, 2, FIRST as u8, 0, 0, 0, 0, FIRST as u8];

fn say(bytes: &[u8]) {
    let channel = OwnChannel::find();
    channel.say(bytes);
    let scene = PLAN.get().map(|plan| &plan.scene).expect("a plan");
    std::fs::write(scene.0.join("said"), "").expect("a file");
    channel.wait_to_be_killed();
}

fn send_oneself(signal: Signal) {
    rustix::process::kill_process(rustix::process::getpid(), signal).expect("oneself");
    std::thread::sleep(Duration::from_secs(60));
}

#[expect(unconditional_recursion, reason = "it is to end by this")]
fn overflow(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 512]);
    overflow(depth + 1) + room[0]
}

/// Bends a pointer of its own by way of the file that is its memory, and follows it.
fn read_where_nothing_is() {
    use std::os::unix::fs::FileExt;
    let mut pointer: Box<u64> = std::hint::black_box(Box::new(0));
    let place = std::ptr::from_mut(&mut pointer).addr() as u64;
    own_memory().write_all_at(&8_usize.to_ne_bytes(), place).expect("its own stack");
    std::hint::black_box(**std::hint::black_box(&pointer));
}

/// A folder in which a test and the workers of its pool leave each other word.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scene(PathBuf);

impl Scene {
    /// An empty one, which is removed by [`clear`](Self::clear).
    pub fn set() -> Self {
        let scratch = super::Scratch::path();
        std::fs::create_dir(scratch.get()).expect("a folder in the temporary directory");
        Scene(scratch.get().to_owned())
    }

    pub fn clear(&self) {
        std::fs::remove_dir_all(&self.0).expect("the folder is there");
    }

    /// The next worker that comes to its moment goes down. An idle one has to be named.
    pub fn set_trap(&self, idle: Option<u32>) {
        std::fs::write(self.trap(idle), "").expect("a file");
    }

    fn trap(&self, idle: Option<u32>) -> PathBuf {
        self.0.join(idle.map_or_else(|| "trap".to_owned(), |pid| format!("trap-{pid}")))
    }

    /// Waits until a worker is in the trap, and tells which.
    pub async fn sprung(&self) -> u32 {
        let mut pid = None;
        until("a worker is in the trap", || {
            pid = std::fs::read_to_string(self.0.join("sprung")).ok().and_then(|pid| pid.parse().ok());
            pid.is_some()
        })
        .await;
        pid.expect("it was there")
    }

    /// Waits until the worker has said what it must not.
    pub async fn said(&self) {
        until("the worker has spoken", || self.0.join("said").exists()).await;
    }

    /// Lets everything happen that waits.
    pub fn go(&self) {
        std::fs::write(self.0.join("go"), "").expect("a file");
    }

    /// The numbers of the calls that ran, in that order.
    pub fn ran(&self) -> Vec<u64> {
        let text = std::fs::read_to_string(self.0.join("ran")).unwrap_or_default();
        text.lines().map(|line| line.parse().expect("a number")).collect()
    }

    fn note_that_runs(&self, number: u64) {
        use std::io::Write;
        let mut file =
            std::fs::File::options().create(true).append(true).open(self.0.join("ran")).expect("a journal");
        file.write_all(format!("{number}\n").as_bytes()).expect("a line");
    }

    fn wait_to_go(&self) {
        wait_for(&self.0.join("go"), Path::exists);
    }
}

/// Workers cannot wait for a file but by looking.
fn wait_for(file: &Path, there: impl Fn(&Path) -> bool) {
    while !there(file) {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// What is to happen to one worker of a pool, and where word of it is left.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub way: Way,
    pub moment: Moment,
    pub scene: Scene,
}

/// This worker's plan, for code that no worker is handed to.
static PLAN: OnceLock<Plan> = OnceLock::new();

/// Goes down if this is the moment and the trap is set. The test is told first, and has its time.
fn pass(moment: Moment) {
    if let Some(plan) = PLAN.get()
        && plan.moment == moment
        && std::fs::remove_file(plan.scene.trap(None)).is_ok()
    {
        plan.spring();
    }
}

impl Plan {
    fn spring(&self) {
        let (unread, sprung) = (self.scene.0.join("unread"), self.scene.0.join("sprung"));
        std::fs::write(&unread, std::process::id().to_string()).expect("a file");
        std::fs::rename(&unread, sprung).expect("a file");
        self.scene.wait_to_go();
        self.way.go();
    }

    /// Waits on a thread of its own until the trap is set for this process.
    fn wait_in_the_dark(self) {
        std::thread::spawn(move || {
            let trap = self.scene.trap(Some(std::process::id()));
            wait_for(&trap, |trap| std::fs::remove_file(trap).is_ok());
            self.spring();
        });
    }
}

/// The worker.
pub struct Wreck;

impl Actor for Wreck {
    type Context = WorkerContext<Self>;
}

impl Worker for Wreck {
    type Config = Plan;

    fn setup(plan: Plan, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        let plan = PLAN.get_or_init(|| plan);
        if plan.moment == Moment::Idle {
            plan.clone().wait_in_the_dark();
        }
        pass(Moment::SetUp);
        Ok(Wreck)
    }

    fn checkout_done(&mut self, _: &mut WorkerContext<Self>) {
        pass(Moment::CheckoutDone);
    }
}

/// Answers its number; passes the moments of a call on the way.
#[derive(Clone, Debug, Message, Serialize)]
#[rtype(result = "Result<Worked, Failure>")]
pub struct Work(pub u64);

impl<'de> Deserialize<'de> for Work {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        pass(Moment::ReadingACall);
        Ok(Work(number))
    }
}

/// What [`Work`] answers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Worked(pub u64);

impl Serialize for Worked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        pass(Moment::WritingAReply);
        self.0.serialize(serializer)
    }
}

impl Handler<Work> for Wreck {
    type Result = Result<Worked, Failure>;

    fn handle(&mut self, Work(number): Work, _: &mut WorkerContext<Self>) -> Self::Result {
        PLAN.get().expect("a plan").scene.note_that_runs(number);
        pass(Moment::Running);
        pass(Moment::Draining);
        Ok(Worked(number))
    }
}

/// Passes no moment; answers the worker's process id.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
pub enum Neighbour {
    AtOnce,
    /// Not before the test lets everything happen.
    WhenAllGoes,
}

impl Handler<Neighbour> for Wreck {
    type Result = Result<u32, Failure>;

    fn handle(&mut self, message: Neighbour, _: &mut WorkerContext<Self>) -> Self::Result {
        if let Neighbour::WhenAllGoes = message {
            PLAN.get().expect("a plan").scene.wait_to_go();
        }
        Ok(std::process::id())
    }
}

forkpool::interface!(Wreck { Work, Neighbour });
forkpool::boot!(Wreck);
