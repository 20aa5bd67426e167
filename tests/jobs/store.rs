//! What the store does by itself. A test that fails after an update of apalis says that docs/JOBS.md has to change.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use apalis::prelude::*;
use apalis_core::backend::Vacuum;
use apalis_redis::{Config, RedisStorage};
use tokio::sync::watch;

use crate::durable_jobs::consumer;
use crate::harness::{PATIENCE, bounded, run, until};
use crate::office::*;

fn good(name: &str) -> TaskBuilder<Job> {
    TaskBuilder::new(Job { name: name.to_owned(), kind: Kind::Good })
}

/// A consumer of this process, which calls a service without a pool.
struct Consumer {
    stop: watch::Sender<bool>,
    ended: actix_rt::task::JoinHandle<Result<(), WorkerError>>,
}

impl Consumer {
    fn start<S>(name: &str, queue: &RedisStorage<Job>, config: Config, service: S) -> Self
    where
        S: tower::Service<Task<Job>, Response = String, Error = BoxDynError> + Send + 'static,
        S::Future: Send + 'static,
    {
        let (stop, stopped) = watch::channel(false);
        let backend = queue.clone().with_config(config).poll_with_interval(Duration::from_millis(20));
        let worker = WorkerBuilder::new(name).backend(backend).build(service);
        let ended = actix_rt::spawn(worker.run_until(consumer::told(stopped)));
        Consumer { stop, ended }
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        bounded("the consumer to end", self.ended).await.expect("no panic").expect("no error");
    }

    /// What ends it although it was not told to stop.
    async fn fails(self) -> String {
        let ended = bounded("the consumer to fail", self.ended).await.expect("no panic");
        ended.expect_err("it fails").to_string()
    }
}

/// Answers every job with what a function makes of the number of calls before it.
fn answering<F>(
    answer: F,
) -> impl tower::Service<Task<Job>, Response = String, Error = BoxDynError, Future: Send + 'static> + Send
where
    F: Fn(usize) -> Result<String, BoxDynError> + Send + 'static,
{
    let calls = AtomicUsize::new(0);
    tower::service_fn(move |_: Task<Job>| std::future::ready(answer(calls.fetch_add(1, Ordering::Relaxed))))
}

async fn stored(office: &Office) -> usize {
    let filter = Filter { status: None, page: 1, page_size: Some(100) };
    office.queue.list_all_tasks(&filter).await.expect("the store answers").len()
}

#[test]
fn of_two_jobs_of_one_id_it_keeps_one_and_a_key_needs_a_time_to_live() {
    run(async {
        let Some(mut office) = Office::open().await else { return };
        for expected in [1, 1] {
            office.queue.push_task(good("twice").task_id(id("twice")).build()).await.expect("it is taken");
            assert_eq!(stored(&office).await, expected);
        }
        for expected in [2, 3] {
            let task = good("keyed").idempotency_key("key").build();
            office.queue.push_task(task).await.expect("it is taken");
            assert_eq!(stored(&office).await, expected, "the key is gone at once");
        }
        let mut queue = office.queue.clone().with_config(config().idempotency_ttl(Some(PATIENCE)));
        for expected in [4, 4] {
            let task = good("keyed").idempotency_key("another").build();
            queue.push_task(task).await.expect("it is taken");
            assert_eq!(stored(&office).await, expected);
        }
    });
}

#[test]
fn its_vacuum_removes_jobs_that_failed_and_will_be_tried_again_but_none_that_wait_for_that() {
    run(async {
        let Some(mut office) = Office::open().await else { return };
        office.push("failed", Kind::Good).await;
        let consumer = Consumer::start("one", &office.queue, config(), answering(|_| Err("no".into())));
        office.awaits("failed", Status::Failed).await;
        consumer.stop().await;
        assert_eq!(office.queue.vacuum().await.expect("the store answers"), 1);

        office.push("later", Kind::Good).await;
        let later = answering(|_| Err(RetryAfterError::new("no", Duration::ZERO).into()));
        let consumer = Consumer::start("two", &office.queue, config(), later);
        office.awaits("later", Status::Pending).await;
        consumer.stop().await;
        assert_eq!(office.queue.vacuum().await.expect("the store answers"), 0);
    });
}

#[test]
fn it_ignores_the_most_attempts_of_a_job() {
    run(async {
        let Some(mut office) = Office::open().await else { return };
        office
            .queue
            .push_task(good("stubborn").task_id(id("stubborn")).max_attempts(1).build())
            .await
            .expect("it is taken");
        let second = answering(|calls| if calls == 0 { Err("no".into()) } else { Ok("done".to_owned()) });
        let consumer = Consumer::start("one", &office.queue, config(), second);
        let (attempts, _) = office.awaits("stubborn", Status::Done).await;
        assert_eq!(attempts, 2);
        consumer.stop().await;
    });
}

/// A service that takes one job and never comes to an end with it.
struct Busy {
    is_busy: bool,
    calls: Arc<AtomicUsize>,
}

impl tower::Service<Task<Job>> for Busy {
    type Response = String;
    type Error = BoxDynError;
    type Future = std::future::Pending<Result<String, BoxDynError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        if self.is_busy { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn call(&mut self, _: Task<Job>) -> Self::Future {
        self.is_busy = true;
        self.calls.fetch_add(1, Ordering::Relaxed);
        std::future::pending()
    }
}

#[test]
fn a_busy_consumer_with_larger_batches_sends_no_heartbeats_and_loses_its_jobs() {
    run(async {
        let Some(mut office) = Office::open().await else { return };
        for name in ["one", "two", "three"] {
            office.push(name, Kind::Good).await;
        }
        let calls = Arc::new(AtomicUsize::new(0));
        let config = config().missed_heartbeats(2);
        let busy = Busy { is_busy: false, calls: calls.clone() };
        let busy = Consumer::start("busy", &office.queue, config.clone().batch_size(3), busy);
        until("it has a job", || calls.load(Ordering::Relaxed) == 1).await;
        let idle = Consumer::start("idle", &office.queue, config, answering(|_| Ok("done".to_owned())));
        for name in ["one", "two", "three"] {
            office.awaits(name, Status::Done).await;
        }
        assert!(!busy.ended.is_finished());
        busy.ended.abort();
        idle.stop().await;
    });
}

#[test]
fn eight_thousand_jobs_that_become_due_at_once_stop_it() {
    run(async {
        let Some(mut office) = Office::open().await else { return };
        let due = std::time::SystemTime::now() + Duration::from_secs(1);
        for number in 0..8000 {
            let task = good("due").task_id(id(&format!("due-{number}"))).run_at_time(due).build();
            TaskSink::start_send(std::pin::Pin::new(&mut office.queue), task).expect("it is taken");
        }
        std::future::poll_fn(|cx| TaskSink::poll_flush(std::pin::Pin::new(&mut office.queue), cx))
            .await
            .expect("stored");
        let consumer = Consumer::start("one", &office.queue, config(), answering(|_| Ok("done".to_owned())));
        let error = consumer.fails().await;
        assert!(error.contains("too many results to unpack"), "{error}");
    });
}

#[test]
fn a_job_that_cannot_be_read_ends_the_consumer_that_takes_it() {
    run(async {
        let Some(mut office) = Office::open().await else { return };
        let mut older = RedisStorage::<u32>::new(office.queue.get_connection().clone()).with_config(config());
        older.push(7).await.expect("it is taken");
        let consumer = Consumer::start("one", &office.queue, config(), answering(|_| Ok("done".to_owned())));
        let error = consumer.fails().await;
        assert!(error.contains("Task decoding error"), "{error}");
    });
}
