//! A worker that breaks the rules of its own channel.

use std::fs::File;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use actix::MailboxError;
use actix::prelude::*;
use forkpool::prelude::*;
use rustix::process::{PidfdFlags, PidfdGetfdFlags};
use serde::{Deserialize, Serialize};

use super::failure;

/// A worker with an error type of its own, which also attacks its own channel.
pub struct Rogue;

/// An error of the user's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Grief {
    Plain,
    Detailed { code: u64, words: Vec<String> },
    Worker(Failure),
}

impl From<Failure> for Grief {
    fn from(failure: Failure) -> Self {
        Grief::Worker(failure)
    }
}

/// What a rogue does.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Grief>")]
pub enum Deed {
    Nothing,
    Fail(Grief),
    /// Says bytes of its own on its channel, then waits to be killed.
    Babble(Vec<u8>),
    /// Writes a number over a counter of its channel, then waits to be killed.
    Scribble {
        at: u64,
        number: u32,
    },
    /// Ends its process and denies that it has begun a call.
    EndUnbegun,
    /// Closes its channel and lives on.
    HangUp,
    PanicWithoutText,
    PanicAfter(Duration, String),
    Exit(i32),
    AbortProcess,
    Spin,
}

impl Actor for Rogue {
    type Context = WorkerContext<Self>;
}

impl Worker for Rogue {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Rogue)
    }
}

impl Handler<Deed> for Rogue {
    type Result = Result<u32, Grief>;

    fn handle(&mut self, deed: Deed, _: &mut WorkerContext<Self>) -> Self::Result {
        match deed {
            Deed::Nothing => {}
            Deed::Fail(grief) => return Err(grief),
            Deed::Babble(bytes) => {
                let ring = OwnRing::find();
                let said = ring.number(SAID);
                ring.write(SAYINGS + u64::from(said), &bytes);
                ring.write(SAID, &(said + u32::try_from(bytes.len()).expect("few bytes")).to_ne_bytes());
                wait_to_be_killed();
            }
            Deed::Scribble { at, number } => {
                OwnRing::find().write(at, &number.to_ne_bytes());
                wait_to_be_killed();
            }
            Deed::EndUnbegun => {
                OwnRing::find().write(BEGUN, &0_u32.to_ne_bytes());
                std::process::exit(0);
            }
            Deed::HangUp => {
                rustix::net::shutdown(own_doorbell(), rustix::net::Shutdown::Both).expect("it hangs up");
                std::thread::sleep(Duration::from_secs(60));
            }
            Deed::PanicWithoutText => std::panic::panic_any(7_u8),
            Deed::PanicAfter(time, text) => {
                std::thread::sleep(time);
                panic!("{text}");
            }
            Deed::Exit(status) => std::process::exit(status),
            Deed::AbortProcess => std::process::abort(),
            Deed::Spin => loop {
                std::hint::spin_loop();
            },
        }
        Ok(std::process::id())
    }
}

forkpool::interface!(Rogue { Deed });
forkpool::boot!(Rogue);

/// Where in its channel's memory a worker counts the bytes that it said, and where it says the first of them: see
/// docs/WIRE.md.
pub const SAID: u64 = 128;
const SAYINGS: u64 = 4096 + (256 << 10);

/// Where it notes that a call has begun.
const BEGUN: u64 = 384;

/// The memory of a worker's own channel.
struct OwnRing {
    memory: File,
    start: u64,
}

impl OwnRing {
    fn find() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("mappings");
        let line =
            maps.lines().find(|line| line.contains("/memfd:forkpool")).expect("the memory of its channel");
        let start = line.split('-').next().expect("a range");
        let start = u64::from_str_radix(start, 16).expect("an address");
        let memory = File::options().read(true).write(true).open("/proc/self/mem").expect("its own memory");
        OwnRing { memory, start }
    }

    fn number(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.memory.read_exact_at(&mut bytes, self.start + at).expect("it is mapped");
        u32::from_ne_bytes(bytes)
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, self.start + at).expect("it is mapped");
    }
}

/// Wakes the host and does nothing more.
fn wait_to_be_killed() {
    rustix::net::send(own_doorbell(), &[0], rustix::net::SendFlags::empty()).expect("the host is there");
    std::thread::sleep(Duration::from_secs(60));
}

/// The only socket of a worker.
fn own_doorbell() -> OwnedFd {
    let entries = std::fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
    let is_socket = |entry: &std::fs::DirEntry| {
        entry.path().read_link().is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    let number =
        entries.into_iter().find(is_socket).and_then(|entry| entry.file_name().to_str()?.parse().ok());
    let this =
        rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).expect("this process");
    let number = number.expect("a channel");
    rustix::process::pidfd_getfd(this, number, PidfdGetfdFlags::empty()).expect("its channel again")
}

/// A pool of one rogue.
pub fn rogues() -> PoolHandle<Rogue> {
    Pool::<Rogue>::builder(()).workers(1..=1).start().expect("the pool starts")
}

/// The failure a deed is answered with, where it was not the handler's own error.
pub async fn rogue_failure(
    request: impl Future<Output = Result<Result<u32, Grief>, MailboxError>>,
) -> Failure {
    match failure(request).await {
        Grief::Worker(failure) => failure,
        grief => panic!("not the worker's: {grief:?}"),
    }
}
