//! Several arbiters that call at the same time, as the workers of an actix-web server do.

use std::future::Future;

use actix::Arbiter;
use tokio::sync::oneshot;

use super::{Callee, Job, Setting, in_flight, pin};

/// Arbiters of this process. They inherit the placement of the thread that starts them, which is the host's.
#[derive(Debug)]
pub struct Arbiters(Vec<Arbiter>);

impl Arbiters {
    /// Starts so many arbiters as actix does by default.
    pub fn start(count: usize) -> Self {
        Arbiters((0..count).map(|_| Arbiter::new()).collect())
    }

    /// Starts arbiters as actix-web starts its workers, with `worker_max_blocking_threads(1)` each. The blocking threads
    /// run where the placement wants its peers.
    pub fn with_one_blocking_thread(setting: Setting, count: usize) -> Self {
        let runtime = move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().max_blocking_threads(1).on_thread_start(move || {
                if let Some(processor) = setting.peers {
                    pin(None, processor);
                }
            });
            builder.build().expect("a runtime")
        };
        Arbiters((0..count).map(|_| Arbiter::with_tokio_rt(runtime)).collect())
    }

    /// Runs the work on each arbiter, with the arbiter's number, and waits until all have ended.
    pub async fn run<F>(&self, work: impl FnOnce(usize) -> F + Clone + Send + 'static)
    where
        F: Future<Output = ()>,
    {
        let running: Vec<_> = (self.0.iter().enumerate())
            .map(|(number, arbiter)| {
                let (done, ended) = oneshot::channel();
                let work = work.clone();
                arbiter.spawn_fn(move || {
                    actix_rt::spawn(async move {
                        work(number).await;
                        // `run` waits for it.
                        let _ = done.send(());
                    });
                });
                ended
            })
            .collect();
        for ended in running {
            ended.await.expect("the arbiter runs");
        }
    }

    /// Makes so many calls with so many in flight, shared evenly among the arbiters and among the callees.
    pub async fn in_flight<M, C>(&self, callees: &[C], message: &M, depth: usize, calls: usize)
    where
        M: Job + Clone + Sync,
        C: Callee<M> + Send + Sync,
    {
        let (callees, message) = (callees.to_vec(), message.clone());
        let (depth, calls) = (depth / self.0.len(), calls / self.0.len());
        self.run(move |number| async move {
            // An arbiter has a callee of its own where there are enough.
            let own = [callees[number % callees.len()].clone()];
            in_flight(&own, &message, depth, calls).await;
        })
        .await;
    }
}

impl Drop for Arbiters {
    fn drop(&mut self) {
        for arbiter in self.0.drain(..) {
            arbiter.stop();
            arbiter.join().expect("the arbiter does not panic");
        }
    }
}
