//! A worker that does whatever a test tells it to, good or bad.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

/// What a probe's set-up does.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Setup {
    /// What happens in `setup`.
    pub script: Script,
    /// If given, the script is played only while this file exists.
    pub only_while: Option<PathBuf>,
    /// If given, `setup` appends a line with its pid to this file.
    pub journal: Option<PathBuf>,
    /// If given, `checkout_done` appends a line with its pid to this file.
    pub done_journal: Option<PathBuf>,
    /// Whether `checkout_done` panics.
    pub done_panics: bool,
    /// What else happens in `checkout_done`; an error there is none.
    pub done: Script,
    /// What happens in `preload`.
    pub preload: Script,
}

/// One way to behave.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub enum Script {
    #[default]
    Fine,
    Error(String),
    Panic(String),
    Exit(i32),
    Hang,
    Sleep(Duration),
    Print(String),
    Steps(u32),
}

impl Script {
    fn play(&self) -> Result<(), SetupError> {
        match self {
            Script::Fine => Ok(()),
            Script::Error(text) => Err(SetupError::new(text)),
            Script::Panic(text) => panic!("{text}"),
            Script::Exit(code) => std::process::exit(*code),
            Script::Hang => loop {
                std::hint::spin_loop();
            },
            Script::Sleep(time) => {
                std::thread::sleep(*time);
                Ok(())
            }
            Script::Print(text) => {
                println!("{text}");
                Ok(())
            }
            Script::Steps(count) => {
                take_steps(*count);
                Ok(())
            }
        }
    }
}

/// Takes a millisecond and more for each step, and no time for one while the process is stopped, as a computation.
pub fn take_steps(count: u32) {
    for _ in 0..count {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What a [`Task`] does once it is noted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Act {
    Answer,
    Spin,
    Exit,
    Panic,
    Abort,
    /// Asks to be replaced.
    Stop,
    /// Keeps this many bytes of private memory from now on.
    Hoard(usize),
    Fail,
}

/// What a preload leaves for the workers.
#[derive(Debug)]
pub struct Preloaded {
    /// The process that ran the preload.
    pub by: u32,
}

/// Whom a call is made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant(pub String);

/// The worker of most tests.
pub struct Probe {
    setup: Setup,
    setups: u32,
    remembered: Vec<u64>,
    hoard: Vec<u8>,
}

impl Actor for Probe {
    type Context = WorkerContext<Self>;
}

impl Worker for Probe {
    type Config = Setup;

    fn setup(setup: Setup, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        note(setup.journal.as_ref());
        if setup.only_while.as_ref().is_none_or(|file| file.exists()) {
            setup.script.play()?;
        }
        Ok(Probe { setup, setups: 1, remembered: Vec::new(), hoard: Vec::new() })
    }

    fn checkout_done(&mut self, _: &mut WorkerContext<Self>) {
        note(self.setup.done_journal.as_ref());
        let _ = self.setup.done.play();
        self.remembered.clear();
        assert!(!self.setup.done_panics, "told to panic in checkout_done");
    }

    fn preload(setup: &Setup, shared: &mut Preload) -> Result<(), SetupError> {
        shared.put(Preloaded { by: std::process::id() });
        setup.preload.play()
    }
}

/// Each level needs more stack, and no stack is left long before the last.
#[inline(never)]
pub fn deeper(level: u64) -> u64 {
    let frame = std::hint::black_box([level; 64]);
    if level == u64::MAX { 0 } else { deeper(level + 1) + frame[7] }
}

fn note(journal: Option<&PathBuf>) {
    if let Some(path) = journal {
        append(path, &format!("{}\n", std::process::id()));
    }
}

fn append(path: &Path, line: &str) {
    use std::io::Write;
    let mut file = std::fs::File::options().create(true).append(true).open(path).expect("a journal");
    // One write, so that the lines of workers that write at the same time stay whole.
    file.write_all(line.as_bytes()).expect("a line in the journal");
}

/// The messages of a probe: a name, its fields, and what its handler answers with `Ok`.
macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident $(($($field:ty),+))? => $result:ty, |$probe:ident, $message:ident, $ctx:ident| $body:expr;)+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Serialize, Deserialize)]
            pub struct $name $(($(pub $field),+))?;

            impl Message for $name {
                type Result = Result<$result, Failure>;
            }

            impl Handler<$name> for Probe {
                type Result = Result<$result, Failure>;

                #[allow(unused_variables, reason = "not every message needs all three")]
                fn handle(&mut self, $message: $name, $ctx: &mut WorkerContext<Self>) -> Self::Result {
                    let $probe = self;
                    $body
                }
            }
        )+
        forkpool::interface!(Probe { $($name),+ });
    };
}

messages! {
    /// Answers what it got.
    Echo(Vec<u8>) => Vec<u8>, |probe, message, ctx| Ok(message.0);
    /// Answers what it got.
    EchoText(String) => String, |probe, message, ctx| Ok(message.0);
    /// Answers what it got from the last byte to the first.
    Mirror(Blob) => Blob, |probe, message, ctx| {
        let mut bytes = ctx.blob(message.0.len())?;
        let mirrored = message.0.bytes().iter().rev().copied().collect::<Vec<u8>>();
        std::io::Write::write_all(&mut bytes, &mirrored).map_err(|error| Failure::task(error.to_string()))?;
        Ok(bytes.freeze())
    };
    /// Answers what it got, after a while.
    Slow(Duration, u64) => u64, |probe, message, ctx| {
        std::thread::sleep(message.0);
        Ok(message.1)
    };
    /// Answers how many steps it has taken.
    Steps(u32) => u32, |probe, message, ctx| {
        take_steps(message.0);
        Ok(message.0)
    };
    /// The worker's process id.
    Pid => u32, |probe, message, ctx| Ok(std::process::id());
    /// How often this worker was set up: 1.
    Setups => u32, |probe, message, ctx| Ok(probe.setups);
    /// Remembers a number until the checkout is done; answers all it has.
    Remember(u64) => Vec<u64>, |probe, message, ctx| {
        probe.remembered.push(message.0);
        Ok(probe.remembered.clone())
    };
    /// Fails with this text.
    Fail(String) => (), |probe, message, ctx| Err(Failure::task(message.0));
    /// Fails with this text and keeps the worker.
    FailAndKeep(String) => (), |probe, message, ctx| {
        ctx.keep_worker();
        Err(Failure::task(message.0))
    };
    /// Asks to be replaced.
    StopAfterwards => u32, |probe, message, ctx| {
        ctx.stop();
        Ok(std::process::id())
    };
    /// Panics with this text.
    Panic(String) => (), |probe, message, ctx| panic!("{}", message.0);
    /// Runs for ever, in a loop that ignores signals.
    Spin => (), |probe, message, ctx| loop { std::hint::spin_loop() };
    /// Ends the process with this status.
    Exit(i32) => (), |probe, message, ctx| std::process::exit(message.0);
    /// Aborts the process.
    AbortProcess => (), |probe, message, ctx| std::process::abort();
    /// Panics with this text where nothing may unwind, so that the process is aborted.
    PanicWithoutUnwinding(String) => (), |probe, message, ctx| {
        extern "C" fn panic(text: &String) {
            panic!("{text}");
        }
        panic(&message.0);
        Ok(())
    };
    /// Needs more stack than there is.
    OverflowStack => (), |probe, message, ctx| {
        std::hint::black_box(deeper(0));
        Ok(())
    };
    /// Raises this signal against itself.
    Raise(i32) => (), |probe, message, ctx| {
        let signal = rustix::process::Signal::from_named_raw(message.0).expect("a signal");
        rustix::process::kill_process(rustix::process::getpid(), signal).expect("oneself");
        std::thread::sleep(Duration::from_secs(60));
        Ok(())
    };
    /// Raises this signal against its process group, in which it may be alone.
    RaiseInGroup(i32) => (), |probe, message, ctx| {
        let signal = rustix::process::Signal::from_named_raw(message.0).expect("a signal");
        rustix::process::kill_current_process_group(signal).expect("one's own group");
        std::thread::sleep(Duration::from_secs(60));
        Ok(())
    };
    /// Waits until this file is there, and answers its process id.
    AwaitFile(PathBuf) => u32, |probe, message, ctx| {
        while !message.0.exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(std::process::id())
    };
    /// A variable of the environment, as the worker has it and as a program does that it starts.
    Variable(String) => (Option<String>, Option<String>), |probe, message, ctx| {
        let name = format!("{}=", message.0);
        let output = std::process::Command::new("env").output();
        let output = output.map_err(|error| Failure::task(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let inherited = text.lines().find_map(|line| line.strip_prefix(&name).map(str::to_owned));
        Ok((std::env::var(message.0).ok(), inherited))
    };
    /// Whether the controlling terminal can be opened.
    HasTerminal => bool, |probe, message, ctx| Ok(std::fs::File::open("/dev/tty").is_ok());
    /// Open descriptors of the worker, as numbers and what they are.
    Descriptors => Vec<(i32, String)>, |probe, message, ctx| Ok(descriptors());
    /// The worker's process group and the signals it blocks and ignores, as `/proc/self/status` has them.
    Standing => (i32, String, String), |probe, message, ctx| Ok(standing());
    /// Prints this many lines on both outputs.
    Print(u32) => (), |probe, message, ctx| {
        for line in 0..message.0 {
            println!("\u{0}\u{1}\u{2}garbage {line}");
            eprintln!("garbage {line}");
        }
        Ok(())
    };
    /// Starts `sleep` for a minute, in this process group, and answers its pid.
    StartChild => u32, |probe, message, ctx| {
        let child = std::process::Command::new("sleep").arg("60").spawn();
        child.map(|child| child.id()).map_err(|error| Failure::task(error.to_string()))
    };
    /// The process that ran the preload.
    PreloadedBy => Option<u32>, |probe, message, ctx| Ok(ctx.preloaded::<Preloaded>().map(|it| it.by));
    /// The baggage that came along: a tenant and a number.
    Baggage => (Option<Tenant>, Option<u64>), |probe, message, ctx| Ok((ctx.baggage(), ctx.baggage()));
    /// Milliseconds until the deadline of this call.
    TimeLeft => Option<u64>, |probe, message, ctx| {
        let left = ctx.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
        Ok(left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)))
    };
    /// Keeps this many bytes of private memory from now on.
    Hoard(usize) => (), |probe, message, ctx| {
        probe.hoard = vec![1; message.0];
        Ok(())
    };
    /// Closes every descriptor of the process, the standard ones and its channel included.
    CloseDescriptors => (), |probe, message, ctx| {
        for (number, _) in descriptors() {
            close(number);
        }
        Ok(())
    };
    /// Notes its number and its process in the first file, waits until the second file is there, and acts then. Answers
    /// its process id.
    Task(u64, PathBuf, Option<PathBuf>, Act) => u32, |probe, message, ctx| {
        let Task(number, journal, gate, act) = message;
        append(&journal, &format!("{number} {}\n", std::process::id()));
        while gate.as_ref().is_some_and(|gate| !gate.exists()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        match act {
            Act::Answer => {}
            Act::Spin => loop { std::hint::spin_loop() },
            Act::Exit => std::process::exit(1),
            Act::Panic => panic!("told to panic"),
            Act::Abort => std::process::abort(),
            Act::Stop => ctx.stop(),
            Act::Hoard(bytes) => probe.hoard = vec![1; bytes],
            Act::Fail => return Err(Failure::task("told to fail")),
        }
        Ok(std::process::id())
    };
    /// Floats travel bit by bit.
    EchoFloats(Vec<f64>) => Vec<f64>, |probe, message, ctx| Ok(message.0);
    /// All the integers there are.
    EchoIntegers((u64, i64, u128, i128, u8, char)) => (u64, i64, u128, i128, u8, char),
        |probe, message, ctx| Ok(message.0);
}

fn descriptors() -> Vec<(i32, String)> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            let target = entry.path().read_link().ok()?.to_string_lossy().into_owned();
            Some((number, target))
        })
        .filter(|(_, target)| !target.ends_with("/fd"))
        .collect()
}

/// Closes what it does not own, which is what the test is about.
fn close(number: i32) {
    // A number that is not open is closed already.
    let _ = nix::unistd::close(number);
}

fn standing() -> (i32, String, String) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.rsplit('\t').next().unwrap_or_default().to_owned()
    };
    let group = rustix::process::getpgrp().as_raw_nonzero().get();
    (group, field("SigBlk:"), field("SigIgn:"))
}

forkpool::boot!(Probe);
