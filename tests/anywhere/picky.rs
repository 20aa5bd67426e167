//! A worker whose preload leaves threads, and whose standard error can be spoilt.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::mpsc;

use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

/// What its preload does with threads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Threads {
    None,
    /// Starts one and waits for its end.
    Joined,
    /// Starts this many, which never end.
    Left(u32),
}

pub struct Picky;

impl Actor for Picky {
    type Context = WorkerContext<Self>;
}

impl Worker for Picky {
    type Config = Threads;

    fn setup(_: Threads, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Picky)
    }

    fn checkout_done(&mut self, _: &mut WorkerContext<Self>) {
        assert!(SPOILT.lock().expect("one thread").is_none(), "standard error was spoilt");
    }

    fn preload(threads: &Threads, _: &mut Preload) -> Result<(), SetupError> {
        let start = |name: String, end: mpsc::Receiver<()>| {
            std::thread::Builder::new().name(name).spawn(move || assert!(end.recv().is_err()))
        };
        match threads {
            Threads::None => {}
            Threads::Joined => {
                for round in 0..50 {
                    let (done, end) = mpsc::channel();
                    let thread = start(format!("joined-{round}"), end)?;
                    drop(done);
                    thread.join().map_err(|_| SetupError::new("a thread panicked"))?;
                }
            }
            Threads::Left(count) => {
                for number in 0..*count {
                    let (done, end) = mpsc::channel();
                    start(format!("metrics-{number}"), end)?;
                    // It is never told to end.
                    std::mem::forget(done);
                }
            }
        }
        Ok(())
    }
}

/// A standard error that cannot be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spoilt {
    FullPipe,
    ClosedPipe,
    FullDisk,
}

impl Spoilt {
    pub const ALL: [Spoilt; 3] = [Spoilt::FullPipe, Spoilt::ClosedPipe, Spoilt::FullDisk];

    /// What is to be standard error, and the end of the pipe that is not read.
    pub fn make(self) -> (OwnedFd, Option<std::io::PipeReader>) {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        match self {
            Spoilt::FullDisk => (std::fs::File::create("/dev/full").expect("it is there").into(), None),
            Spoilt::ClosedPipe => (writer.into(), None),
            Spoilt::FullPipe => {
                rustix::io::ioctl_fionbio(&writer, true).expect("a pipe");
                while writer.write(&[b'\n'; 512]).is_ok() {}
                rustix::io::ioctl_fionbio(&writer, false).expect("a pipe");
                (writer.into(), Some(reader))
            }
        }
    }
}

/// The end of its spoilt standard error that a worker keeps.
static SPOILT: Mutex<Option<(Spoilt, Option<std::io::PipeReader>)>> = Mutex::new(None);

/// Spoils the worker's standard error, and has `checkout_done` panic. Answers the worker's process id.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
pub struct Spoil(pub Spoilt);

impl Handler<Spoil> for Picky {
    type Result = Result<u32, Failure>;

    fn handle(&mut self, Spoil(spoilt): Spoil, _: &mut WorkerContext<Self>) -> Self::Result {
        let (stderr, reader) = spoilt.make();
        rustix::stdio::dup2_stderr(stderr).map_err(|error| Failure::task(error.to_string()))?;
        *SPOILT.lock().expect("one thread") = Some((spoilt, reader));
        Ok(std::process::id())
    }
}

/// Answers the worker's process id.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
pub struct Who;

impl Handler<Who> for Picky {
    type Result = Result<u32, Failure>;

    fn handle(&mut self, Who: Who, _: &mut WorkerContext<Self>) -> Self::Result {
        Ok(std::process::id())
    }
}

forkpool::interface!(Picky { Spoil, Who });
forkpool::boot!(Picky);
