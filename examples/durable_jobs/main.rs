//! Jobs that outlive the processes that run them: apalis keeps them in Redis, and forkpool runs them.
//!
//! A picture that crashes the library which reads it is given up after three attempts, with the report of the crash in
//! the store. All others are done meanwhile.
//!
//! ```sh
//! cargo run -p forkpool-jobs --features redis --example durable_jobs           # with a Redis of its own
//! REDIS_URL=redis://127.0.0.1 cargo run -p forkpool-jobs --features redis --example durable_jobs
//! ```

#![forbid(unsafe_code)]

pub mod adapter;
pub mod consumer;
pub mod redis;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use actix::prelude::*;
use adapter::Adapter;
use apalis::prelude::{BackendExt, Status, TaskBuilder, TaskId, TaskSink, WaitForCompletion, WorkerBuilder};
use apalis_redis::{Config, ConnectionManager, RedisStorage};
use forkpool::prelude::*;
use redis::Redis;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

// shown: worker
/// A message of the worker, and a job in the store.
#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<String, Failure>")]
pub struct Thumbnail {
    pub picture: String,
}

#[derive(Worker)]
pub struct Painter;

impl Handler<Thumbnail> for Painter {
    type Result = Result<String, Failure>;

    /// May run twice for the same picture, so it has to come to the same each time.
    fn handle(&mut self, Thumbnail { picture }: Thumbnail, _: &mut WorkerContext<Self>) -> Self::Result {
        eprintln!("reading {picture}");
        if picture.starts_with("broken") {
            std::process::abort(); // as a library does that meets what it cannot be
        }
        Ok(format!("{picture} at 64 x 64"))
    }
}

forkpool::interface!(Painter { Thumbnail });
forkpool::boot!(Painter);
// end: worker

// shown: queue
/// The jobs of one kind. Every process that pushes or runs them makes it alike.
pub fn queue(redis: ConnectionManager) -> RedisStorage<Thumbnail> {
    let config = Config::default()
        .queue("thumbnails")
        .batch_size(1) // with more, a busy consumer sends no heartbeats, and others take its jobs
        .heartbeat_interval(Duration::from_secs(1))
        .missed_heartbeats(4); // so many seconds after its last one, what a consumer has begun is given to others
    RedisStorage::new(redis).with_config(config)
}
// end: queue

// shown: consumer
/// Runs jobs until told to stop. Any number of processes may do so.
pub async fn consume(redis: ConnectionManager, stop: watch::Receiver<bool>) -> Result<(), Box<dyn Error>> {
    let pool = Pool::<Painter>::builder(())
        .workers(2..=4)
        .max_waiting(4) // so many jobs are taken from the store beyond those that run
        .timeout(Duration::from_secs(60))
        .max_kills(3) // the same job under another id is not tried again
        .kill_window(Duration::from_secs(3600))
        .start()?;
    pool.ready().await?;
    let jobs = Adapter::new(pool.service()?, 3); // attempts
    consumer::run_until_stopped(async |name| {
        let backend = queue(redis.clone()).poll_with_interval(Duration::from_millis(100));
        let consumer = WorkerBuilder::new(name).backend(backend).build(jobs.clone());
        consumer.run_until(consumer::told(stop.clone())).await
    })
    .await;
    pool.stop(Duration::from_secs(10)).await;
    Ok(())
}
// end: consumer

// shown: push
/// Once this has returned, the job is in the store. The same picture again is no further job while the store knows it.
pub async fn push(queue: &mut RedisStorage<Thumbnail>, picture: &str) -> Result<TaskId, Box<dyn Error>> {
    let id = TaskId::from_string(picture);
    let job = Thumbnail { picture: picture.to_owned() };
    queue.push_task(TaskBuilder::new(job).task_id(id.clone()).build()).await?;
    Ok(id)
}
// end: push

#[actix::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("durable_jobs: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let own = if std::env::var_os("REDIS_URL").is_none() { Some(Redis::start()?) } else { None };
    let url = own.as_ref().map_or_else(|| std::env::var("REDIS_URL"), |own| Ok(own.url()))?;
    let redis = redis::connect(&url).await?;
    tokio::select! {
        pictures = all_done(redis) => pictures?.iter().for_each(|line| println!("{line}")),
        interrupted = actix_rt::signal::ctrl_c() => interrupted?,
    }
    Ok(())
}

/// Pushes some pictures, and runs jobs until these are done or dead. Returns what the store says of each.
pub async fn all_done(redis: ConnectionManager) -> Result<Vec<String>, Box<dyn Error>> {
    let mut queue = queue(redis.clone());
    let mut ids = Vec::new();
    for picture in ["broken.gif", "cat.png", "dog.png", "owl.png"] {
        ids.push(push(&mut queue, picture).await?);
    }
    let (stop, stopped) = watch::channel(false);
    let results = async {
        let lines = results(&mut queue, ids).await;
        stop.send_replace(true);
        lines
    };
    let ((), lines) = tokio::try_join!(consume(redis, stopped), results)?;
    Ok(lines)
}

/// Waits until all of these jobs are done or dead.
pub async fn results(
    queue: &mut RedisStorage<Thumbnail>,
    ids: Vec<TaskId>,
) -> Result<Vec<String>, Box<dyn Error>> {
    loop {
        let results: Vec<_> = WaitForCompletion::<String>::check_status(queue, ids.clone()).await?;
        let over = results.iter().filter(|result| matches!(result.status, Status::Done | Status::Killed));
        let lines = over.map(|result| {
            let text = result.result.as_ref().unwrap_or_else(|error| error);
            format!("{}: {} after {} attempts: {text}", result.task_id, result.status, result.attempt)
        });
        let lines: Vec<_> = lines.collect();
        if lines.len() == ids.len() {
            return Ok(lines);
        }
        actix_rt::time::sleep(Duration::from_millis(100)).await;
    }
}
