//! A worker that does not let itself be told: it blocks signals, hangs, eats memory and talks too much.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::prelude::*;
use forkpool::prelude::*;
use nix::sys::signal::SigSet;
use serde::{Deserialize, Serialize};

use super::builder;

/// A worker of few virtues.
pub struct Mule {
    hangs_when_done: bool,
}

impl Actor for Mule {
    type Context = WorkerContext<Self>;
}

impl Worker for Mule {
    type Config = Option<String>;

    /// Fails with this text, after it has printed it.
    fn setup(trouble: Option<String>, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        tracing::info!("a mule is set up");
        match trouble {
            None => Ok(Mule { hangs_when_done: false }),
            Some(text) => {
                eprintln!("set-up printed {text}");
                Err(SetupError::new(text))
            }
        }
    }

    fn checkout_done(&mut self, _: &mut WorkerContext<Self>) {
        if self.hangs_when_done {
            spin_until(|| false);
        }
    }
}

/// What a mule does.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<u32, Failure>")]
pub enum Trick {
    Nothing,
    /// Blocks every signal that can be, and runs for ever.
    SpinDeaf,
    /// Runs for this long.
    Spin(Duration),
    /// Waits for this long, then makes this file.
    MakeFile(Duration, PathBuf),
    /// Runs until it is sent SIGTERM, then makes this file and ends with status 7.
    HeedTerm(PathBuf),
    /// Runs until it is sent SIGTERM, then takes so many steps, makes this file and ends with status 7.
    HeedTermSlowly(u32, PathBuf),
    /// Makes this file when it can be sent SIGTERM, and takes no notice of it.
    IgnoreTerm(PathBuf),
    /// From now on `checkout_done` does not return.
    HangWhenDone,
    /// Fills this much memory, then holds it for so long.
    Fill(usize, Duration),
    Exit(i32),
    /// Prints these lines on standard output and standard error, then does something else.
    Say(Vec<String>, Vec<String>, Box<Trick>),
    /// Prints this many lines of this text on standard output.
    Repeat(u64, String),
    /// Logs this many records, then does something else.
    Log(u32, Box<Trick>),
    /// Leaves a child behind that holds the outputs for a minute, out of the worker's group; answers its pid.
    LeaveDaemon,
    Panic(String),
}

impl Handler<Trick> for Mule {
    type Result = Result<u32, Failure>;

    fn handle(&mut self, trick: Trick, _: &mut WorkerContext<Self>) -> Self::Result {
        self.play(trick)
    }
}

impl Mule {
    fn play(&mut self, trick: Trick) -> Result<u32, Failure> {
        match trick {
            Trick::Nothing => {}
            Trick::SpinDeaf => {
                SigSet::all().thread_block().expect("signals are blocked");
                spin_until(|| false);
            }
            Trick::Spin(time) => {
                let until = std::time::Instant::now() + time;
                spin_until(|| std::time::Instant::now() >= until);
            }
            Trick::MakeFile(time, path) => {
                std::thread::sleep(time);
                std::fs::write(path, "").expect("a file");
            }
            Trick::HeedTerm(path) => {
                let told = heed_term();
                spin_until(|| told.load(Ordering::Relaxed));
                std::fs::write(path, "").expect("a file");
                std::process::exit(7);
            }
            Trick::HeedTermSlowly(steps, path) => {
                let told = heed_term();
                spin_until(|| told.load(Ordering::Relaxed));
                super::take_steps(steps);
                return self.play(Trick::MakeFile(Duration::ZERO, path)).map(|_| std::process::exit(7));
            }
            Trick::IgnoreTerm(path) => {
                let _told = heed_term();
                std::fs::write(path, "").expect("a file");
                spin_until(|| false);
            }
            Trick::HangWhenDone => self.hangs_when_done = true,
            Trick::Fill(bytes, time) => {
                let memory = vec![1_u8; bytes];
                std::thread::sleep(time);
                std::hint::black_box(memory);
            }
            Trick::Exit(status) => std::process::exit(status),
            Trick::Say(out, err, then) => {
                out.iter().for_each(|line| println!("{line}"));
                err.iter().for_each(|line| eprintln!("{line}"));
                return self.play(*then);
            }
            Trick::Repeat(count, text) => (0..count).for_each(|_| println!("{text}")),
            Trick::Log(count, then) => {
                for number in 0..count {
                    tracing::info!(number, "a record\nof two lines");
                    tracing::debug!("too fine to be kept");
                }
                return self.play(*then);
            }
            Trick::LeaveDaemon => {
                let child = std::process::Command::new("setsid").args(["sleep", "60"]).spawn();
                return Ok(child.expect("a daemon").id());
            }
            Trick::Panic(text) => panic!("{text}"),
        }
        Ok(std::process::id())
    }
}

forkpool::interface!(Mule { Trick });
forkpool::boot!(Mule);

fn heed_term() -> Arc<AtomicBool> {
    let told = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, told.clone()).expect("a handler");
    told
}

fn spin_until(done: impl Fn() -> bool) {
    while !done() {
        std::hint::spin_loop();
    }
}

/// Options of a pool of one mule, whose calls have no clock of their own.
pub fn mules() -> forkpool::PoolBuilder<Mule> {
    builder::<Mule>(None).workers(1..=1).timeout(None)
}
