//! A consumer that outlives its connection to the store.

use std::time::Duration;

use apalis::prelude::*;
use tokio::sync::watch;

/// How long to wait before a consumer is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs a consumer until it was told to stop and its jobs have ended.
///
/// A consumer ends with the first command that the store does not answer. Then another one is started, with another name:
/// the store still takes the one of before for alive, and gives what that had begun to others once it no longer does.
///
/// # Cancellation
///
/// The jobs that run are given up, and begin again elsewhere.
pub async fn run_until_stopped(run: impl AsyncFn(String) -> Result<(), WorkerError>) {
    for start in 0_u32.. {
        match run(format!("process-{}-{start}", std::process::id())).await {
            Ok(()) => return,
            Err(error) => println!("the consumer lost its store, and starts again: {error}"),
        }
        actix_rt::time::sleep(PAUSE).await;
    }
}

/// Resolves once `stop` is true, or has no sender any more.
pub async fn told(mut stop: watch::Receiver<bool>) -> Result<(), WorkerError> {
    let _ = stop.wait_for(|stop| *stop).await;
    Ok(())
}
