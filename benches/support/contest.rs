//! Calls that are in flight at the same time: how many are made in a second, and what each costs the processors.

use std::future::Future;
use std::time::{Duration, Instant};

use super::{Callee, Job, Report, Series, cpu_time, own_cpu_time};

/// One contestant of a measurement.
#[derive(Debug)]
pub struct Contest {
    /// Calls a second.
    pub rate: Series,
    /// Processor time of host and workers together, for each call.
    pub cpu: Series,
    workers_cpu: Series,
}

impl Contest {
    pub fn new(name: impl Into<String>) -> Self {
        Contest {
            rate: Series::rates(name),
            cpu: Series::seconds("    processor time per call"),
            workers_cpu: Series::seconds("    of it in worker processes"),
        }
    }

    /// Measures one round of so many calls; the pids are those of all workers.
    pub async fn round(&mut self, pids: &[u32], calls: usize, work: impl Future<Output = ()>) {
        let used = || (own_cpu_time(), pids.iter().map(|&pid| cpu_time(pid)).sum::<Duration>());
        let (own, workers) = used();
        let began = Instant::now();
        work.await;
        let took = began.elapsed();
        let (own_after, workers_after) = used();
        let (own, workers) = (own_after.saturating_sub(own), workers_after.saturating_sub(workers));
        self.rate.push(calls as f64 / took.as_secs_f64());
        self.cpu.push((own + workers).as_secs_f64() / calls as f64);
        self.workers_cpu.push(workers.as_secs_f64() / calls as f64);
    }

    /// Adds the rows of this contestant.
    pub fn rows(&self, report: &mut Report) {
        [&self.rate, &self.cpu, &self.workers_cpu].into_iter().for_each(|series| report.row(series));
    }

    /// Calls a second ÷ those of another contestant.
    pub fn rate_over(&self, other: &Contest) -> f64 {
        self.rate.median() / other.rate.median()
    }

    /// Processor time of a call ÷ that of another contestant.
    pub fn cpu_over(&self, other: &Contest) -> f64 {
        self.cpu.median() / other.cpu.median()
    }
}

/// Makes so many calls with so many in flight, shared evenly among the callees.
///
/// Each call in flight is a task of its own that sends, waits and sends again.
pub async fn in_flight<M, C>(callees: &[C], message: &M, depth: usize, calls: usize)
where
    M: Job + Clone,
    C: Callee<M>,
{
    let tasks = callees.iter().cycle().take(depth).cloned().map(|callee| {
        let message = message.clone();
        async move {
            for _ in 0..calls / depth {
                callee.call(message.clone()).await;
            }
        }
    });
    finish(tasks).await;
}

/// Runs these tasks side by side on this arbiter until all have ended.
pub async fn finish(tasks: impl Iterator<Item = impl Future<Output = ()> + 'static>) {
    let running: Vec<_> = tasks.map(actix_rt::spawn).collect();
    for task in running {
        task.await.expect("the task ends");
    }
}
