//! Peers that are threads of this process: a pool over a crossbeam channel, and actix-web's `web::block`.

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::oneshot;

use super::{Callee, Job, Setting, pin};

type Task = Box<dyn FnOnce() + Send>;

/// Threads that take boxed closures from one crossbeam channel. They end once all handles are dropped.
#[derive(Clone)]
pub struct ThreadPool(Sender<Task>);

impl ThreadPool {
    /// Starts so many threads, where the placement wants its peers.
    pub fn start(setting: Setting, threads: usize) -> Self {
        let (sender, tasks) = crossbeam_channel::unbounded();
        for _ in 0..threads {
            let tasks = tasks.clone();
            std::thread::spawn(move || run_all(setting, &tasks));
        }
        ThreadPool(sender)
    }
}

fn run_all(setting: Setting, tasks: &Receiver<Task>) {
    if let Some(processor) = setting.peers {
        pin(None, processor);
    }
    tasks.iter().for_each(|task| task());
}

impl<M: Job> Callee<M> for ThreadPool {
    async fn call(&self, message: M) -> M::Answer {
        let (answer, answered) = oneshot::channel();
        // The requester waits for the answer below, and the threads run as long as there is a handle.
        let task = Box::new(move || drop(answer.send(message.run())));
        assert!(self.0.send(task).is_ok(), "the threads are there");
        answered.await.expect("an answer")
    }
}

/// The blocking threads of the arbiter that calls, as `actix_web::web::block` uses them. See
/// [`Arbiters::with_one_blocking_thread`](super::Arbiters::with_one_blocking_thread) for how many there are.
#[derive(Clone, Copy, Debug)]
pub struct WebBlock;

impl<M: Job> Callee<M> for WebBlock {
    async fn call(&self, message: M) -> M::Answer {
        actix_web::web::block(move || message.run()).await.expect("an answer")
    }
}
