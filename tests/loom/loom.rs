//! The two sides of a ring, and those of a worker's gate, in all interleavings of their steps, and with all values that the
//! memory model lets them see.
//!
//! The models include the source of the sides, `src/channel/ring/side.rs`, and put loom's numbers in the place of shared
//! memory. What is around the sides is modelled here: the bytes (a number for each, written and read without any order
//! of its own, so that a byte that is read too early is an old one) and the doorbells. loom delays no reading, so a byte that
//! is overwritten too early is not found.

mod gated;
#[path = "../../src/channel/ring/side.rs"]
#[allow(dead_code, reason = "the models use less than the library")]
mod side;

use std::sync::atomic::Ordering;

use loom::sync::atomic::{AtomicU32, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use side::{Counters, Side, SideWords, WakeCondition, Word, Words};

/// Bytes that one ring of a model holds.
const CAPACITY: u32 = 2;

/// Threads are interrupted at most so often in one run. Each wake that is lost without a fence, or without emptying the
/// doorbell, is found with that.
const INTERRUPTIONS: usize = 2;

const HOST: SideWords = SideWords {
    outgoing: Counters { written: 0, read: 1 },
    incoming: Counters { written: 2, read: 3 },
    own_wait_flag: 4,
    peer_wait_flag: 5,
};
const WORKER: SideWords = SideWords {
    outgoing: HOST.incoming,
    incoming: HOST.outgoing,
    own_wait_flag: HOST.peer_wait_flag,
    peer_wait_flag: HOST.own_wait_flag,
};

impl Word for AtomicU32 {
    fn load(&self, order: Ordering) -> u32 {
        self.load(order)
    }

    fn store(&self, number: u32, order: Ordering) {
        self.store(number, order);
    }

    fn full_fence() {
        fence(Ordering::SeqCst);
    }
}

/// What both processes have mapped.
struct Memory {
    words: [AtomicU32; 6],
    to_worker: [AtomicU32; CAPACITY as usize],
    to_host: [AtomicU32; CAPACITY as usize],
    worker_doorbell: Doorbell,
    host_doorbell: Doorbell,
}

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Memory {
            words: std::array::from_fn(|_| AtomicU32::new(0)),
            to_worker: std::array::from_fn(|_| AtomicU32::new(0)),
            to_host: std::array::from_fn(|_| AtomicU32::new(0)),
            worker_doorbell: Doorbell::new(),
            host_doorbell: Doorbell::new(),
        })
    }
}

impl Words for Arc<Memory> {
    type Word = AtomicU32;

    fn word(&self, at: usize) -> &AtomicU32 {
        &self.words[at]
    }
}

/// A pipe, as kernels 5.5 to 5.10.55 report it to an edge-triggered epoll: only bytes written to an empty pipe.
struct Doorbell {
    state: Mutex<Pipe>,
    changed: Condvar,
}

#[derive(Default)]
struct Pipe {
    bytes: u32,
    /// Bytes have come into an empty pipe since the edge was last taken.
    edge: bool,
}

impl Doorbell {
    fn new() -> Self {
        Doorbell { state: Mutex::new(Pipe::default()), changed: Condvar::new() }
    }

    fn ring(&self) {
        let mut pipe = self.state.lock().expect("no thread panicked");
        pipe.edge |= pipe.bytes == 0;
        pipe.bytes += 1;
        self.changed.notify_one();
    }

    /// The host's wait: until an edge.
    fn wait_for_edge(&self) {
        let mut pipe = self.state.lock().expect("no thread panicked");
        while !pipe.edge {
            pipe = self.changed.wait(pipe).expect("no thread panicked");
        }
        pipe.edge = false;
    }

    fn drain(&self) {
        self.state.lock().expect("no thread panicked").bytes = 0;
    }

    /// The worker's wait: a read that blocks.
    fn wait_for_bytes(&self) {
        let mut pipe = self.state.lock().expect("no thread panicked");
        while pipe.bytes == 0 {
            pipe = self.changed.wait(pipe).expect("no thread panicked");
        }
        pipe.bytes = 0;
    }
}

type Bytes = fn(&Memory) -> &[AtomicU32; CAPACITY as usize];

/// One side with its rings' bytes and its peer's doorbell.
struct End {
    side: Side<Arc<Memory>>,
    outgoing: Bytes,
    incoming: Bytes,
    peer_doorbell: fn(&Memory) -> &Doorbell,
}

impl End {
    fn host(memory: &Arc<Memory>) -> Self {
        End {
            side: Side::new(memory.clone(), &HOST, CAPACITY),
            outgoing: |memory| &memory.to_worker,
            incoming: |memory| &memory.to_host,
            peer_doorbell: |memory| &memory.worker_doorbell,
        }
    }

    fn worker(memory: &Arc<Memory>) -> Self {
        End {
            side: Side::resume(memory.clone(), &WORKER, CAPACITY),
            outgoing: |memory| &memory.to_host,
            incoming: |memory| &memory.to_worker,
            peer_doorbell: |memory| &memory.host_doorbell,
        }
    }

    fn notify(&self) {
        (self.peer_doorbell)(self.side.memory()).ring();
    }

    /// Writes one byte if there is space.
    fn try_write(&mut self, byte: u32) -> bool {
        if self.side.space_for(1).expect("the peer keeps to the rules") == 0 {
            return false;
        }
        let at = (self.side.written() % CAPACITY) as usize;
        (self.outgoing)(self.side.memory())[at].store(byte, Ordering::Relaxed);
        self.side.publish_written(1);
        if self.side.take_wake_request(WakeCondition::Bytes) {
            self.notify();
        }
        true
    }

    /// Reads one byte if there is any.
    fn try_read(&mut self) -> Option<u32> {
        if self.side.unread().expect("the peer keeps to the rules") == 0 {
            return None;
        }
        let at = (self.side.read() % CAPACITY) as usize;
        let byte = (self.incoming)(self.side.memory())[at].load(Ordering::Relaxed);
        self.side.publish_read(1);
        self.wake_for_space();
        Some(byte)
    }

    fn wake_for_space(&self) {
        if self.side.take_wake_request_for_space().expect("the peer keeps to the rules") {
            self.notify();
        }
    }

    /// The host's sleep, as in `actors/transport/rings.rs`.
    fn sleep_as_host(&self, condition: WakeCondition) {
        if self.side.arm(condition).expect("the peer keeps to the rules") {
            self.wake_for_space();
            self.side.memory().host_doorbell.wait_for_edge();
            self.side.memory().host_doorbell.drain();
        }
        self.side.disarm();
    }

    /// The worker's sleep, as in `src/channel/ring/worker_io.rs`.
    fn sleep_as_worker(&self, condition: WakeCondition) {
        if self.side.arm(condition).expect("the peer keeps to the rules") {
            self.wake_for_space();
            self.side.memory().worker_doorbell.wait_for_bytes();
        }
        self.side.disarm();
    }

    fn write_as_worker(&mut self, byte: u32) {
        while !self.try_write(byte) {
            self.sleep_as_worker(WakeCondition::Space);
        }
    }

    fn read_as_worker(&mut self) -> u32 {
        loop {
            match self.try_read() {
                Some(byte) => return byte,
                None => self.sleep_as_worker(WakeCondition::Bytes),
            }
        }
    }

    fn write_as_host(&mut self, byte: u32) {
        while !self.try_write(byte) {
            self.sleep_as_host(WakeCondition::Either);
        }
    }

    fn read_as_host(&mut self) -> u32 {
        loop {
            match self.try_read() {
                Some(byte) => return byte,
                None => self.sleep_as_host(WakeCondition::Bytes),
            }
        }
    }
}

/// Plays both sides in all ways. A side that sleeps for ever is a deadlock, which loom reports with the steps to it.
fn model(host: fn(End), worker: fn(End)) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(INTERRUPTIONS);
    builder.check(move || {
        let memory = Memory::new();
        let other = memory.clone();
        let worker = thread::spawn(move || worker(End::worker(&other)));
        host(End::host(&memory));
        worker.join().expect("the worker's side ends");
    });
}

/// The worker's answers, one by one: each may find the host before, in or after its sleep.
#[test]
fn a_host_that_reads_sees_each_byte_and_misses_no_doorbell() {
    model(
        |mut host| (1..=3).for_each(|byte| assert_eq!(host.read_as_host(), byte)),
        |mut worker| (1..=3).for_each(|byte| worker.write_as_worker(byte)),
    );
}

/// More than a ring holds: the writer sleeps for space.
#[test]
fn a_worker_that_reads_sees_each_byte_and_its_host_sleeps_while_the_ring_is_full() {
    model(
        |mut host| (1..=4).for_each(|byte| host.write_as_host(byte)),
        |mut worker| (1..=4).for_each(|byte| assert_eq!(worker.read_as_worker(), byte)),
    );
}

/// Calls and their replies.
#[test]
fn each_call_gets_its_reply() {
    model(
        |mut host| {
            for byte in 1..=2 {
                host.write_as_host(byte);
                assert_eq!(host.read_as_host(), byte + 10);
            }
        },
        |mut worker| {
            for _ in 1..=2 {
                let byte = worker.read_as_worker();
                worker.write_as_worker(byte + 10);
            }
        },
    );
}
