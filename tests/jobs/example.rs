//! The example does what its first lines say.

use std::time::Duration;

use apalis::prelude::{BackendExt, Task, WorkerBuilder};
use tokio::sync::watch;
use tower::ServiceBuilder;

use crate::durable_jobs::{self, Painter, Thumbnail, consumer};
use crate::harness::{bounded, builder, run};
use crate::office::Office;

#[test]
fn a_picture_that_crashes_its_reader_is_dead_with_a_report_and_the_others_are_done() {
    run(async {
        let Some(office) = Office::open().await else { return };
        let redis = durable_jobs::redis::connect(&office.redis.url()).await.expect("it answers");
        let lines = bounded("the example", durable_jobs::all_done(redis)).await.expect("no failure");
        let (dead, done) = lines.split_first().expect("four lines");
        for part in
            ["broken.gif: Killed after 3 attempts: ", "killed by SIGABRT", "stderr      | reading broken.gif"]
        {
            assert!(dead.contains(part), "no {part:?} in {dead}");
        }
        let expected = ["cat", "dog", "owl"];
        assert_eq!(
            done,
            expected.map(|name| format!("{name}.png: Done after 1 attempts: {name}.png at 64 x 64"))
        );
    });
}

/// E7: the least that makes a pool the service of a worker, as long as a job is to be tried as often as the store likes.
#[test]
fn two_lines_make_a_pool_run_jobs() {
    run(async {
        let Some(office) = Office::open().await else { return };
        let redis = durable_jobs::redis::connect(&office.redis.url()).await.expect("it answers");
        let mut queue = durable_jobs::queue(redis);
        let id = durable_jobs::push(&mut queue, "cat.png").await.expect("it is taken");
        let pool = builder::<Painter>(()).workers(1..=1).max_waiting(1).start().expect("the pool starts");
        let (stop, stopped) = watch::channel(false);
        // shown: two lines
        let jobs = ServiceBuilder::new().map_request(|task: Task<Thumbnail>| task.args);
        let jobs = jobs.service(pool.service().expect("max_waiting is set"));
        // end: two lines
        let backend = queue.clone().poll_with_interval(Duration::from_millis(20));
        let worker = WorkerBuilder::new("two lines").backend(backend).build(jobs);
        let worker = actix_rt::spawn(worker.run_until(consumer::told(stopped)));
        let lines = bounded("the job", durable_jobs::results(&mut queue, vec![id])).await.expect("results");
        assert_eq!(lines, ["cat.png: Done after 1 attempts: cat.png at 64 x 64"]);
        stop.send_replace(true);
        bounded("the consumer to end", worker).await.expect("no panic").expect("no error");
    });
}
