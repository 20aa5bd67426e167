//! The life of a fork server: hello, preload, then births and deaths until the application is gone.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use rustix::process::Pid;

use super::children::Children;
use super::control::{Control, Over};
use crate::channel::Notes;
use crate::sys::process::{self, Forked, TitleSpace, exit_now};
use crate::sys::signals::{self, ChildDeaths, HangUpWatch};
use crate::sys::{Errno, descriptors};
use crate::wire::control::{FromServer, Hello, ToServer};
use crate::wire::work::SetupReport;
use crate::wire::{LIBRARY, PROTOCOL};
use crate::worker::{self, Assignment, Preload, Program, panics};

/// How long the server waits for killed workers to be gone before it ends itself.
const LAST_RITES: Duration = Duration::from_secs(1);

/// Exit status of a server that was started by hand.
const USAGE: i32 = 64;

/// Exit status of a server that could not do its work.
const UNABLE: i32 = 71;

/// Becomes a fork server. `start_up` is what the program's own start-up still has to do, once whatever was
/// inherited is closed.
pub(crate) fn run(program: &Program, start_up: impl FnOnce()) -> ! {
    signals::start_afresh();
    let Some(socket) = control_socket() else {
        eprintln!(
            "forkpool: this argument is for fork servers, which a pool starts itself; run the program without it"
        );
        exit_now(USAGE)
    };
    start_up();
    match prepare(program, socket).and_then(Server::serve) {
        Ok(newborn) => newborn.live(),
        Err(Over::Closed) => exit_now(0),
        Err(Over::Broken) => exit_now(UNABLE),
    }
}

/// The control channel, which is standard input, with everything else that was inherited closed.
fn control_socket() -> Option<OwnedFd> {
    if !descriptors::is_stream_socket(std::io::stdin().as_fd()) {
        return None;
    }
    let socket = descriptors::take_stdin().ok()?;
    descriptors::close_all_but(socket).ok()
}

/// Takes the hello and runs the preload.
fn prepare(program: &Program, socket: OwnedFd) -> Result<Server<'_>, Over> {
    let mut control = Control::new(socket);
    let ToServer::Hello(hello) = control.wait()? else {
        return Err(Over::Broken);
    };
    if let Err(reason) = fits(&hello, program) {
        control.say(&FromServer::Refused { reason });
        control.flush_all()?;
        return Err(Over::Broken);
    }
    let title = TitleSpace::find();
    process::set_short_name(&hello.pool, "server");
    write_title(title, &format!("forkpool: fork server of pool {}", hello.pool));
    worker::break_ground();
    let preload = match preloaded(program, &hello, &control) {
        Ok(preload) => preload,
        Err(report) => {
            control.say(&FromServer::PreloadFailed(report));
            control.flush_all()?;
            return Err(Over::Broken);
        }
    };
    let server = Server::new(program, hello, preload, control, title).map_err(|_| Over::Broken)?;
    Ok(server)
}

fn write_title(space: Option<TitleSpace>, title: &str) {
    if let Some(space) = space {
        space.write(title);
    }
}

fn fits(hello: &Hello, program: &Program) -> Result<(), String> {
    let fingerprint = (program.fingerprint)();
    if hello.protocol == PROTOCOL && hello.library == LIBRARY && hello.fingerprint == fingerprint {
        return Ok(());
    }
    Err(format!(
        "the application speaks protocol {} of forkpool {} with interface {:016x}, this server speaks protocol \
         {PROTOCOL} of forkpool {LIBRARY} with interface {fingerprint:016x}",
        hello.protocol, hello.library, hello.fingerprint
    ))
}

/// Runs the preload, ending with the application if that ends in the meantime.
fn preloaded(program: &Program, hello: &Hello, control: &Control) -> Result<&'static Preload, SetupReport> {
    let watch = HangUpWatch::start(control.as_fd());
    panics::capture();
    let mut preload = Preload::default();
    let load = || (program.preload)(&hello.config, &mut preload);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(load));
    drop(watch);
    match outcome {
        Ok(Ok(())) => Ok(Box::leak(Box::new(preload))),
        Ok(Err(error)) => Err(SetupReport::of(error)),
        Err(_) => Err(SetupReport::Panic(panics::take())),
    }
}

/// A server that has its preload.
struct Server<'a> {
    program: &'a Program,
    hello: Hello,
    preload: &'static Preload,
    control: Control,
    deaths: ChildDeaths,
    children: Children,
    title: Option<TitleSpace>,
}

impl<'a> Server<'a> {
    fn new(
        program: &'a Program,
        hello: Hello,
        preload: &'static Preload,
        control: Control,
        title: Option<TitleSpace>,
    ) -> rustix::io::Result<Self> {
        process::adopt_orphans()?;
        control.stop_waiting()?;
        let deaths = ChildDeaths::watch()?;
        let children = Children::new(hello.guard);
        Ok(Server { program, hello, preload, control, deaths, children, title })
    }

    /// Works until the application is gone, then leaves nothing behind; returns in every child it forks.
    fn serve(mut self) -> Result<Newborn<'a>, Over> {
        match self.converse() {
            Ok(birth) => Ok(Newborn { server: self, birth }),
            Err(over) => {
                self.children.end_all(LAST_RITES);
                Err(over)
            }
        }
    }

    /// Returns what makes a worker, in the process that is to be that worker.
    fn converse(&mut self) -> Result<Birth, Over> {
        self.control.say(&FromServer::Welcome);
        loop {
            if let Some(newborn) = self.obey()? {
                return Ok(newborn);
            }
            self.control.flush()?;
            let next_look = self.children.end_hung();
            let want_write = self.control.has_unsent();
            let awake = signals::wait(self.control.as_fd(), want_write, &self.deaths, next_look);
            let awake = awake.map_err(|_| Over::Broken)?;
            if awake.deaths {
                self.deaths.acknowledge();
                self.tell_deaths();
            }
            if awake.control_readable {
                self.control.read()?;
            }
            if awake.control_writable {
                self.control.flush()?;
            }
        }
    }

    fn obey(&mut self) -> Result<Option<Birth>, Over> {
        while let Some(message) = self.control.next()? {
            let newborn = match message {
                ToServer::Fork { number } => self.fork(number)?,
                ToServer::Hello(_) => return Err(Over::Broken),
            };
            if newborn.is_some() {
                return Ok(newborn);
            }
        }
        Ok(None)
    }

    fn tell_deaths(&mut self) {
        while let Some(ended) = self.children.next_ended() {
            self.control.say(&FromServer::Ended(ended));
        }
    }

    /// Forks; in the child returns what makes it a worker.
    fn fork(&mut self, number: u64) -> Result<Option<Birth>, Over> {
        // The descriptors came with the first byte of their message, so they are there.
        let mut passed = || self.control.take_passed().ok_or(Over::Broken);
        let (channel, memory, stdout, stderr) = (passed()?, passed()?, passed()?, passed()?);
        match process::fork() {
            Ok(Forked::Child) => return Ok(Some(Birth { number, channel, memory, stdout, stderr })),
            Ok(Forked::Parent(pid)) => self.announce(number, pid, &memory)?,
            Err(error) => self.refuse(number, error),
        }
        Ok(None)
    }

    fn announce(&mut self, number: u64, pid: Pid, memory: &OwnedFd) -> Result<(), Over> {
        process::own_group(Some(pid));
        match process::open(pid) {
            Ok(handle) => {
                // A worker that cannot be looked at is bounded by its caller's clocks alone.
                let notes = self.children.are_guarded().then(|| Notes::open(memory.as_fd()).ok()).flatten();
                self.children.born(pid, number, notes);
                let pid = pid.as_raw_nonzero().get().unsigned_abs();
                self.control.say_with(&FromServer::Forked { number, pid }, handle)
            }
            Err(error) => {
                // Without a handle the host could not kill it, so it was never born.
                process::kill_group(pid);
                self.refuse(number, error);
                Ok(())
            }
        }
    }

    fn refuse(&mut self, number: u64, error: Errno) {
        let reason = std::io::Error::from(error).to_string();
        self.control.say(&FromServer::NotForked { number, reason });
    }
}

/// A process that was just forked and is about to become a worker.
struct Newborn<'a> {
    server: Server<'a>,
    birth: Birth,
}

/// What makes a forked process a worker.
struct Birth {
    number: u64,
    channel: OwnedFd,
    memory: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Newborn<'_> {
    /// Leaves everything of the server's behind, and lives.
    fn live(self) -> ! {
        let Newborn { server, birth: Birth { number, channel, memory, stdout, stderr } } = self;
        let Server { program, hello, preload, control, deaths, children: _, title } = server;
        process::own_group(None);
        process::set_short_name(&hello.pool, &number.to_string());
        write_title(title, &format!("forkpool: worker {}/{number}", hello.pool));
        drop(control);
        deaths.forget_in_child();
        // Where that fails it prints where the application prints.
        let _ = descriptors::replace_outputs(stdout, stderr);
        worker::run(Assignment {
            program,
            config: &hello.config,
            preload,
            channel: descriptors::raise(channel),
            memory,
            max_payload: usize::try_from(hello.max_payload).unwrap_or(usize::MAX),
            max_memory: hello.max_memory,
            memory_limit: hello.guard.memory_limit,
        })
    }
}
