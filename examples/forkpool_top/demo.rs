//! A pool to look at: workers that sleep, fail and crash now and then, and more calls than they can take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::prelude::*;
use forkpool::Console;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

/// Time between two calls.
const PACE: Duration = Duration::from_millis(20);

/// How long the first calls may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<u64, Failure>")]
pub struct Render {
    millis: u64,
}

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<u64, Failure>")]
pub struct Resize {
    page: u64,
}

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(), Failure>")]
pub struct Crash;

pub struct Painter;

impl Actor for Painter {
    type Context = WorkerContext<Self>;
}

impl Worker for Painter {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Painter)
    }
}

impl Handler<Render> for Painter {
    type Result = Result<u64, Failure>;

    fn handle(&mut self, Render { millis }: Render, _: &mut WorkerContext<Self>) -> Self::Result {
        thread::sleep(Duration::from_millis(millis));
        Ok(millis)
    }
}

impl Handler<Resize> for Painter {
    type Result = Result<u64, Failure>;

    fn handle(&mut self, Resize { page }: Resize, _: &mut WorkerContext<Self>) -> Self::Result {
        if page.is_multiple_of(7) {
            Err(Failure::task(format!("page {page} has no picture")))
        } else {
            Ok(page)
        }
    }
}

impl Handler<Crash> for Painter {
    type Result = Result<(), Failure>;

    fn handle(&mut self, Crash: Crash, _: &mut WorkerContext<Self>) -> Self::Result {
        std::process::exit(3)
    }
}

forkpool::interface!(Painter { Render, Resize, Crash });
forkpool::boot!(Painter);

/// The pool, and the thread that calls it.
pub struct Demo {
    console: Console,
    pool: PoolHandle<Painter>,
    is_over: Arc<AtomicBool>,
    caller: JoinHandle<()>,
    lock: String,
}

impl Demo {
    pub fn start() -> Result<Self, String> {
        let pool = Pool::<Painter>::builder(()).name("painters").workers(2..=6).max_memory(1 << 30).start();
        let pool = pool.map_err(|error| error.to_string())?;
        let path = std::env::temp_dir().join(format!("forkpool_top-{}.sock", std::process::id()));
        let console = pool.console(format!("unix:{}", path.display())).open();
        let console = console.map_err(|error| error.to_string())?;
        let (is_over, calls) = (Arc::new(AtomicBool::new(false)), pool.clone());
        let over = is_over.clone();
        let caller = thread::spawn(move || call(&calls, &over));
        Ok(Demo { console, pool, is_over, caller, lock: format!("{}.lock", path.display()) })
    }

    pub fn address(&self) -> &str {
        self.console.address()
    }

    /// Waits until some calls were answered, one of them with a failure.
    pub fn warm_up(&self) -> Result<(), String> {
        let began = Instant::now();
        while self.pool.snapshot().failures.is_empty() {
            if began.elapsed() > PATIENCE {
                return Err(format!("the demo's pool has answered nothing for {PATIENCE:?}"));
            }
            thread::sleep(PACE);
        }
        Ok(())
    }

    pub fn stop(self) {
        self.is_over.store(true, Ordering::Relaxed);
        // It ends within a pace.
        let _ = self.caller.join();
        System::new().block_on(self.pool.stop(Duration::ZERO));
        // Of a path that is used once, the lock is of no more use.
        let _ = std::fs::remove_file(&self.lock);
    }
}

/// Makes a call at each pace, of a length and kind that its number says.
fn call(pool: &PoolHandle<Painter>, is_over: &AtomicBool) {
    for number in 1_u64.. {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        match number % 50 {
            0 => pool.do_send(Crash),
            turn if turn.is_multiple_of(3) => pool.do_send(Render { millis: 20 + turn * 7 }),
            _ => pool.do_send(Resize { page: number }),
        }
        thread::sleep(PACE);
    }
}
