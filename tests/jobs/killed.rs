//! Processes that are killed in the middle of jobs, and jobs that kill workers.

use std::time::Instant;

use apalis::prelude::Status;
use rustix::process::Signal;

use crate::harness::*;
use crate::office::*;

/// E7, E9: a store keeps the report of the crash, and a quarantine knows a message by its bytes.
#[test]
fn every_good_job_is_done_although_a_process_is_killed_and_another_job_kills_workers() {
    run(async {
        let Some(mut office) = Office::open().await else { return };
        let held = ["held-0", "held-1"];
        for name in held {
            office.push(name, Kind::Held).await;
        }
        let mut first = office.hires();
        until("both of its workers have a job", || {
            held.iter().all(|name| office.traces().of("begun", name).len() == 1)
        })
        .await;

        // The poisoned job is the next one, and the first process may have taken it from the store without a worker for it.
        let good: Vec<String> = (0..20).map(|number| format!("good-{number}")).collect();
        office.push("poisoned", Kind::Poisoned(good.clone())).await;
        for name in &good {
            office.push(name, Kind::Good).await;
        }
        let mut second = office.hires();
        second.tells("ready").await;
        first.kill();
        let killed = Instant::now();
        office.traces().open();
        until("what the first process had begun has begun again", || {
            held.iter().all(|name| office.traces().of("begun", name).len() == 2)
        })
        .await;
        println!("orphans were taken up after {:?}", killed.elapsed());

        for name in good.iter().map(String::as_str).chain(held) {
            let (_, text) = office.awaits(name, Status::Done).await;
            assert_eq!(text, format!("{name} is done"));
            assert!(!office.traces().of("done", name).is_empty(), "{name}");
        }
        let (attempts, report) = office.awaits("poisoned", Status::Killed).await;
        assert_eq!(attempts, ATTEMPTS);
        assert_eq!(office.traces().of("begun", "poisoned").len(), ATTEMPTS);
        assert_eq!(office.traces().of("done", "poisoned"), [0; 0]);
        for part in ["killed by SIGSEGV", "stderr      | about to read poisoned", "call        Job, running"]
        {
            assert!(report.contains(part), "no {part:?} in {report}");
        }
        // The pool of the second process knows the message again, whatever the store calls the job.
        office.push_as("another id", "poisoned", Kind::Poisoned(good)).await;
        let (attempts, text) = office.awaits("another id", Status::Killed).await;
        assert_eq!((attempts, text.contains("Job is quarantined")), (1, true), "{text}");
        assert_eq!(office.traces().of("begun", "poisoned").len(), ATTEMPTS);

        first.ends();
        until("nothing of the first process is left", || first.family().is_empty()).await;
        dismiss(second);
    });
}

/// The store gives away what it had begun. When it goes on, the store does not know it any more, and it starts again.
#[test]
fn a_process_that_stood_still_loses_its_jobs_and_goes_on_with_others() {
    run(async {
        let Some(mut office) = Office::open().await else { return };
        office.push("held", Kind::Held).await;
        let mut first = office.hires();
        until("a job has begun", || office.traces().of("begun", "held").len() == 1).await;
        signal(first.pid(), Signal::STOP);
        let second = office.hires();
        until("it has begun again", || office.traces().of("begun", "held").len() == 2).await;
        office.traces().open();
        office.awaits("held", Status::Done).await;
        dismiss(second);

        signal(first.pid(), Signal::CONT);
        first.tells("the consumer lost its store").await;
        office.push("next", Kind::Good).await;
        office.awaits("next", Status::Done).await;
        dismiss(first);
    });
}

#[test]
fn a_process_that_is_told_to_stop_finishes_what_it_has_begun() {
    run(async {
        let Some(mut office) = Office::open().await else { return };
        office.push("held", Kind::Held).await;
        let mut process = office.hires();
        until("a job has begun", || office.traces().of("begun", "held").len() == 1).await;
        process.go_on();
        process.tells("stopping").await;
        office.traces().open();
        process.tells("stopped").await;
        assert!(process.ends().success());
        assert_eq!(process.family(), [0; 0]);
        office.awaits("held", Status::Done).await;
        assert_eq!(office.traces().of("begun", "held").len(), 1);
    });
}
