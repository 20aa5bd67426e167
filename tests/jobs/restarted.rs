//! A store that is lost for a while, or is not there.

use apalis::prelude::Status;

use crate::durable_jobs;
use crate::harness::*;
use crate::office::*;

#[test]
fn jobs_are_done_although_redis_is_killed_in_the_middle_of_them() {
    run(async {
        let Some(mut office) = Office::open().await else { return };
        office.push("held", Kind::Held).await;
        for number in 0..20 {
            office.push(&format!("before-{number}"), Kind::Good).await;
        }
        let mut process = office.hires();
        until("a job has begun", || !office.traces().of("begun", "held").is_empty()).await;

        office.redis.kill().expect("it runs");
        process.tells("the consumer lost its store").await;
        office.redis.start_again().expect("it starts");
        office.traces().open();
        for number in 0..20 {
            office.push(&format!("after-{number}"), Kind::Good).await;
        }

        let numbered = (0..20).flat_map(|number| ["before", "after"].map(|when| format!("{when}-{number}")));
        for name in numbered.chain(["held".to_owned()]) {
            office.awaits(&name, Status::Done).await;
            assert!(!office.traces().of("done", &name).is_empty(), "{name}");
        }
        dismiss(process);
    });
}

#[test]
fn a_store_that_is_not_there_is_named_with_its_address() {
    run(async {
        let Err(error) = durable_jobs::redis::connect("redis+unix:///nowhere/socket").await else {
            panic!("there is nothing")
        };
        let text = error.to_string();
        assert!(text.contains("no Redis answers at redis+unix:///nowhere/socket"), "{text}");
        assert!(text.contains("is it running"), "{text}");
    });
}
