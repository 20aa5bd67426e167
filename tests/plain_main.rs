//! W1, S3: a program with an ordinary `main`, in which threads run before there is any runtime.

use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use actix::prelude::*;
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(u32, usize), Failure>")]
struct WhoAreYou;

struct Witness;

impl Actor for Witness {
    type Context = WorkerContext<Self>;
}

impl Worker for Witness {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Witness)
    }
}

impl Handler<WhoAreYou> for Witness {
    type Result = Result<(u32, usize), Failure>;

    fn handle(&mut self, _: WhoAreYou, _: &mut WorkerContext<Self>) -> Self::Result {
        let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
        Ok((std::process::id(), threads.map_err(|error| Failure::task(error.to_string()))?))
    }
}

forkpool::interface!(Witness { WhoAreYou });
forkpool::boot!(Witness);

fn main() -> ExitCode {
    let (done, wait) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv());
    let answer = System::new().block_on(async {
        let pool = Pool::<Witness>::builder(()).workers(1..=1).start().map_err(|error| error.to_string())?;
        let answer = pool.send(WhoAreYou).await;
        pool.stop(Duration::ZERO).await;
        answer.map_err(|failure| failure.to_string())
    });
    drop(done);
    let ended = thread.join().is_ok();
    match answer {
        Ok((pid, 1)) if pid != std::process::id() && ended => {
            println!("test a_plain_main_with_threads_starts_pools ... ok\n\n1 passed, 0 failed");
            ExitCode::SUCCESS
        }
        other => {
            println!(
                "test a_plain_main_with_threads_starts_pools ... FAILED: {other:?}\n\n0 passed, 1 failed"
            );
            ExitCode::FAILURE
        }
    }
}
