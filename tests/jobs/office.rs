//! What the tests share: a worker whose jobs leave traces, a process that runs them, and a store that is asked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use actix::prelude::*;
use apalis::prelude::{BackendExt, Status, TaskBuilder, TaskId, TaskSink, WaitForCompletion, WorkerBuilder};
use apalis_redis::{Config, ConnectionManager, RedisStorage};
use forkpool::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::durable_jobs::adapter::Adapter;
use crate::durable_jobs::consumer;
use crate::durable_jobs::redis::{self, Redis};
use crate::harness::*;

/// Attempts of each job.
pub const ATTEMPTS: usize = 3;

/// A job, which is a message as well.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[rtype(result = "Result<String, Failure>")]
pub struct Job {
    pub name: String,
    pub kind: Kind,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Kind {
    Good,
    /// Goes on once there is a file of the name `open`.
    Held,
    /// Ends its worker, at its last attempt not before these jobs are done.
    Poisoned(Vec<String>),
}

/// A worker whose jobs leave lines with its process id in `begun-NAME` and `done-NAME`.
pub struct Clerk {
    folder: PathBuf,
}

impl Actor for Clerk {
    type Context = WorkerContext<Self>;
}

impl Worker for Clerk {
    type Config = PathBuf;

    fn setup(folder: PathBuf, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Clerk { folder })
    }
}

impl Handler<Job> for Clerk {
    type Result = Result<String, Failure>;

    fn handle(&mut self, Job { name, kind }: Job, _: &mut WorkerContext<Self>) -> Self::Result {
        let traces = Traces(&self.folder);
        traces.leave("begun", &name);
        match kind {
            Kind::Good => {}
            Kind::Held => wait_until(|| self.folder.join("open").exists()),
            Kind::Poisoned(others) => {
                eprintln!("about to read {name}");
                if traces.of("begun", &name).len() >= ATTEMPTS {
                    wait_until(|| others.iter().all(|other| !traces.of("done", other).is_empty()));
                }
                Way::Segfaults.go();
            }
        }
        traces.leave("done", &name);
        Ok(format!("{name} is done"))
    }
}

forkpool::interface!(Clerk { Job });
forkpool::boot!(Clerk);

/// As long as the time limit of the call lets it.
fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What jobs have left in a folder.
pub struct Traces<'a>(pub &'a Path);

impl Traces<'_> {
    fn leave(&self, what: &str, name: &str) {
        use std::io::Write;
        let path = self.0.join(format!("{what}-{name}"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        // In one piece, since two processes may do the same job.
        let line = format!("{}\n", std::process::id());
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("a line in a file");
    }

    /// The processes that have begun a job, or done it.
    pub fn of(&self, what: &str, name: &str) -> Vec<u32> {
        let text = std::fs::read_to_string(self.0.join(format!("{what}-{name}"))).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Lets the held jobs go on.
    pub fn open(&self) {
        std::fs::write(self.0.join("open"), "").expect("a file");
    }
}

/// A store, and the traces of its jobs in the same folder.
pub struct Office {
    pub redis: Redis,
    pub queue: RedisStorage<Job>,
}

impl Office {
    /// Starts a server for one test; `None`, with the reason printed, if there is no Redis to start.
    pub async fn open() -> Option<Self> {
        let redis = match Redis::start() {
            Ok(redis) => redis,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                println!("skipped: {error}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let queue = queue(redis::connect(&redis.url()).await.expect("it answers"));
        Some(Office { redis, queue })
    }

    pub fn traces(&self) -> Traces<'_> {
        Traces(self.redis.folder())
    }

    /// Starts a process that runs jobs with two workers.
    pub fn hires(&self) -> Application {
        let name = self.redis.folder().file_name().and_then(|name| name.to_str()).expect("a name");
        Application::start("office::an_application", name)
    }

    /// Pushes a job until the store has it: of two of the same id it keeps one.
    pub async fn push(&mut self, name: &str, kind: Kind) {
        self.push_as(name, name, kind).await;
    }

    /// The same with an id other than the name.
    pub async fn push_as(&mut self, other: &str, name: &str, kind: Kind) {
        let job = Job { name: name.to_owned(), kind };
        let task = || TaskBuilder::new(job.clone()).task_id(id(other)).build();
        let pushed = async { while self.queue.push_task(task()).await.is_err() {} };
        bounded("the store to take a job", pushed).await;
    }

    /// Status, attempts and text of a job that has been tried; `None` of any other, and while the store does not answer.
    pub async fn result(&mut self, name: &str) -> Option<(Status, usize, String)> {
        let found = WaitForCompletion::<String>::check_status(&mut self.queue, [id(name)]).await;
        let result = found.ok()?.pop()?;
        Some((result.status, result.attempt, result.result.unwrap_or_else(|error| error)))
    }

    /// Waits until the store has this status of a job.
    pub async fn awaits(&mut self, name: &str, wanted: Status) -> (usize, String) {
        let what = format!("{name} is {wanted}");
        let reached = async {
            loop {
                match self.result(name).await {
                    Some((status, attempts, text)) if status == wanted => return (attempts, text),
                    _ => actix_rt::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        bounded(&what, reached).await
    }
}

pub fn id(name: &str) -> TaskId {
    TaskId::from_string(name)
}

/// As in the example.
pub fn config() -> Config {
    let config = Config::default().queue("jobs").batch_size(1);
    config.heartbeat_interval(Duration::from_secs(1)).missed_heartbeats(4)
}

fn queue(redis: ConnectionManager) -> RedisStorage<Job> {
    RedisStorage::new(redis).with_config(config())
}

/// Ends a process that runs jobs, after those that it has begun.
pub fn dismiss(mut application: Application) {
    application.go_on();
    application.says("stopped");
    assert!(application.ends().success());
    assert_eq!(application.family(), [0; 0]);
}

#[test]
#[ignore = "an application that other tests run"]
fn an_application() {
    let Some(folder) = role() else { return };
    System::new().block_on(async {
        let folder = std::env::temp_dir().join(folder);
        let url = format!("redis+unix://{}", folder.join("socket").display());
        let connection = redis::connect(&url).await.expect("a store");
        let pool = builder::<Clerk>(folder).workers(2..=2).max_waiting(2).max_kills(ATTEMPTS as u32);
        let pool =
            pool.kill_window(Duration::from_secs(3600)).timeout(PATIENCE).start().expect("the pool starts");
        pool.ready().await.expect("workers");
        let (stop, stopped) = watch::channel(false);
        std::thread::spawn(move || {
            wait_to_go_on();
            stop.send_replace(true);
            println!("stopping");
        });
        let jobs = Adapter::new(pool.service().expect("max_waiting is set"), ATTEMPTS);
        println!("ready");
        consumer::run_until_stopped(async |name| {
            let backend = queue(connection.clone()).poll_with_interval(Duration::from_millis(20));
            let worker = WorkerBuilder::new(name).backend(backend).build(jobs.clone());
            worker.run_until(consumer::told(stopped.clone())).await
        })
        .await;
        pool.stop(Duration::ZERO).await;
        println!("stopped");
    });
}
