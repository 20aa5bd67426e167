//! The floor below every call: two processors that hand each other 64 bytes by way of memory alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::{Setting, pin};

const WORDS: usize = 8;

/// 64 bytes and their number, which lie in a pair of cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line {
    number: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Line {
    fn put(&self, number: u64, words: [u64; WORDS]) {
        for (place, word) in self.words.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        self.number.store(number, Ordering::Release);
    }

    fn get(&self, number: u64, give_up: &AtomicBool) -> Option<[u64; WORDS]> {
        while self.number.load(Ordering::Acquire) != number {
            if give_up.load(Ordering::Relaxed) {
                return None;
            }
            std::hint::spin_loop();
        }
        Some(std::array::from_fn(|at| self.words[at].load(Ordering::Relaxed)))
    }
}

#[derive(Debug, Default)]
struct Table {
    there: Line,
    back: Line,
    over: AtomicBool,
}

/// A thread that sends back whatever comes; it never sleeps. Memory that two threads share is as far away as memory
/// that two processes share.
#[derive(Debug)]
pub struct Spinner {
    table: Arc<Table>,
    number: u64,
    thread: Option<JoinHandle<()>>,
}

impl Spinner {
    /// Starts it and waits until it answers.
    pub fn start(setting: Setting) -> Self {
        let table = Arc::<Table>::default();
        let theirs = table.clone();
        let thread = std::thread::spawn(move || {
            if let Some(processor) = setting.peers {
                pin(None, processor);
            }
            let mut number = 1;
            while let Some(words) = theirs.there.get(number, &theirs.over) {
                theirs.back.put(number, words);
                number += 1;
            }
        });
        let mut spinner = Spinner { table, number: 0, thread: Some(thread) };
        spinner.ping();
        spinner
    }

    /// There and back, once.
    pub fn ping(&mut self) {
        self.number += 1;
        self.table.there.put(self.number, [self.number; WORDS]);
        let words = self.table.back.get(self.number, &self.table.over);
        assert_eq!(words, Some([self.number; WORDS]), "what comes back is what was sent");
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.table.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the thread does not panic");
        }
    }
}
