//! A worker that does something to itself by which it hopes not to be killed, and then hangs.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use actix::prelude::*;
use forkpool::prelude::*;
use nix::sys::signal::SigSet;
use rustix::process::{Pid as ProcessId, Signal, getppid, setpgid, setsid};
use rustix::thread::{Uid, set_thread_res_uid};
use serde::{Deserialize, Serialize};

use super::{NOBODY, PATIENCE, Scratch, group_of};

/// What a rebel does to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Defiance {
    /// Nothing but to hang.
    Hangs,
    /// Joins its server's group and leaves a child in its own.
    LeavesItsGroup,
    /// Begins a session of its own.
    LeavesItsSession,
    /// Becomes another user's process.
    ChangesItsUser,
    /// Blocks every signal that can be blocked.
    IsDeaf,
    /// Stops itself.
    IsStopped,
    /// Is stopped by a child that traces it and is stopped itself.
    IsTraced,
    /// Leaves its channel, its outputs and all else that it has open to a process of another session.
    IsHeld,
}

impl Defiance {
    /// All of them.
    pub const ALL: [Defiance; 8] = [
        Defiance::Hangs,
        Defiance::LeavesItsGroup,
        Defiance::LeavesItsSession,
        Defiance::ChangesItsUser,
        Defiance::IsDeaf,
        Defiance::IsStopped,
        Defiance::IsTraced,
        Defiance::IsHeld,
    ];

    /// The deed of this name.
    pub fn named(name: &str) -> Self {
        let found = Defiance::ALL.into_iter().find(|deed| format!("{deed:?}") == name);
        found.expect("the name of a deed")
    }
}

/// What else is to happen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Orders {
    /// Where the preload appends the pid of a process to which it leaves all that its server has open.
    pub held_by: Option<PathBuf>,
    /// Whether `setup` changes the user.
    pub changes_user: bool,
    /// Whether the preload hangs after it has made this file.
    pub hangs_at: Option<PathBuf>,
}

/// The worker.
pub struct Rebel;

impl Actor for Rebel {
    type Context = WorkerContext<Self>;
}

impl Worker for Rebel {
    type Config = Orders;

    fn preload(orders: &Orders, _: &mut Preload) -> Result<(), SetupError> {
        use std::io::Write;
        if let Some(path) = &orders.held_by {
            let mut file = std::fs::File::options().create(true).append(true).open(path)?;
            writeln!(file, "{}", hold_all())?;
        }
        if let Some(path) = &orders.hangs_at {
            std::fs::write(path, "")?;
            loop {
                std::hint::spin_loop();
            }
        }
        Ok(())
    }

    fn setup(orders: Orders, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        if orders.changes_user {
            change_user()?;
        }
        Ok(Rebel)
    }
}

/// Does it, writes what came of it to this path, and hangs.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
pub struct Defy(pub Defiance, pub PathBuf);

/// Answers the worker's process id.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
pub struct Obey;

/// Joins the group of this process; answers as [`Obey`].
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
pub struct Join(pub u32);

/// Ends with this status after it has left all that it has open to a process of another session, which is not
/// answered: it is written to this path.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
pub struct EndHeld(pub i32, pub PathBuf);

impl Handler<Obey> for Rebel {
    type Result = Result<u32, Failure>;

    fn handle(&mut self, Obey: Obey, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(std::process::id())
    }
}

impl Handler<Join> for Rebel {
    type Result = Result<u32, Failure>;

    fn handle(&mut self, Join(other): Join, _: &mut WorkerContext<Self>) -> Self::Result {
        setpgid(None, Some(process(other))).map_err(|error| Failure::task(error.to_string()))?;
        Ok(std::process::id())
    }
}

impl Handler<EndHeld> for Rebel {
    type Result = Result<u32, Failure>;

    fn handle(&mut self, EndHeld(status, path): EndHeld, _: &mut WorkerContext<Self>) -> Self::Result {
        write(&path, &hold_all().to_string());
        std::process::exit(status)
    }
}

impl Handler<Defy> for Rebel {
    type Result = Result<u32, Failure>;

    fn handle(&mut self, Defy(deed, path): Defy, _: &mut WorkerContext<Self>) -> Self::Result {
        deed.go(&path);
        loop {
            std::hint::spin_loop();
        }
    }
}

forkpool::interface!(Rebel { Defy, Obey, Join, EndHeld });
forkpool::boot!(Rebel);

impl Defiance {
    fn go(self, path: &Path) {
        let own = rustix::process::getpid();
        match self {
            Defiance::Hangs => write(path, "0"),
            Defiance::LeavesItsGroup => {
                let child = sleep();
                join_another_group();
                write(path, &child.to_string());
            }
            Defiance::LeavesItsSession => {
                join_another_group();
                setsid().expect("it leads no group");
                write(path, "0");
            }
            Defiance::ChangesItsUser => {
                let text = match change_user() {
                    Ok(()) => "0".to_owned(),
                    Err(error) => format!("skipped: {error}"),
                };
                write(path, &text);
            }
            Defiance::IsDeaf => {
                SigSet::all().thread_block().expect("signals are blocked");
                write(path, "0");
            }
            Defiance::IsStopped => {
                write(path, "0");
                rustix::process::kill_process(own, Signal::STOP).expect("it stops");
            }
            Defiance::IsTraced => trace(path),
            Defiance::IsHeld => write(path, &hold_all().to_string()),
        }
    }
}

fn change_user() -> std::io::Result<()> {
    let nobody = Uid::from_raw(NOBODY);
    Ok(set_thread_res_uid(nobody, nobody, nobody)?)
}

/// Writes a text at once, so that a reader finds all of it or nothing.
fn write(path: &Path, text: &str) {
    let unfinished = path.with_extension("unfinished");
    std::fs::write(&unfinished, text).expect("a file");
    std::fs::rename(unfinished, path).expect("a file");
}

fn process(number: u32) -> ProcessId {
    ProcessId::from_raw(i32::try_from(number).expect("a pid")).expect("a pid above zero")
}

/// Joins the group of this worker's server. In a container that group may have no number; then it joins a new one.
fn join_another_group() {
    let server = getppid().and_then(|server| group_of(server.as_raw_nonzero().get().cast_unsigned()));
    let join = |group| setpgid(None, Some(group)).expect("it is of the same session");
    server.map_or_else(
        || {
            let mut leader = Command::new("sleep").arg("60").process_group(0).spawn().expect("a child");
            join(ProcessId::from_child(&leader));
            leader.kill().and_then(|()| leader.wait()).expect("it is ended");
        },
        join,
    );
}

/// Starts a process in this one's group.
fn sleep() -> u32 {
    Command::new("sleep").arg("60").spawn().expect("a child").id()
}

/// Has a child trace this process, and stops it.
fn trace(path: &Path) {
    let own = std::process::id().to_string();
    let tracer = Command::new("strace").args(["-qq", "-o", "/dev/null", "-p", &own]).spawn();
    let tracer = match tracer {
        Ok(tracer) => tracer.id(),
        Err(error) => return write(path, &format!("skipped: strace: {error}")),
    };
    let is_traced = || {
        let status = std::fs::read_to_string("/proc/self/status").expect("a status");
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    };
    let patience = Instant::now() + PATIENCE;
    while !is_traced() {
        if Instant::now() > patience || !super::runs(tracer) {
            return write(path, "skipped: this process cannot be traced");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    write(path, &tracer.to_string());
    // From its next system call on this process is stopped.
    rustix::process::kill_process(process(tracer), Signal::STOP).expect("it runs");
}

/// Leaves all open descriptors to a process of another session; returns its pid.
pub fn hold_all() -> u32 {
    let open: Vec<i32> = super::descriptors_of(std::process::id()).into_keys().collect();
    for &number in &open {
        let inherited = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
        // The directory that was read is closed by now.
        let _ = nix::fcntl::fcntl(number, inherited);
    }
    // The standard descriptors are given to it as they are.
    let holder = Command::new("setsid").args(["sleep", "600"]).spawn().expect("a child").id();
    for &number in open.iter().filter(|&&number| number > 2) {
        let kept = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
        let _ = nix::fcntl::fcntl(number, kept);
    }
    // Until then it is of this process's group.
    let patience = Instant::now() + PATIENCE;
    while super::group(holder) != holder && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(1));
    }
    holder
}

/// What a rebel has done: the pid of a process that it has left somewhere, if it has. `None` if this machine does not let it.
pub async fn done(path: &Scratch) -> Option<u32> {
    let mut text = String::new();
    super::until("the deed is done", || {
        text = std::fs::read_to_string(path.get()).unwrap_or_default();
        !text.is_empty()
    })
    .await;
    path.remove();
    match text.strip_prefix("skipped") {
        Some(reason) => {
            println!("skipped{reason}");
            None
        }
        None => Some(text.parse().expect("a number")),
    }
}
