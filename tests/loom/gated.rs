//! One host that takes calls back against one worker that begins them. The model includes the source of both sides,
//! `src/channel/gate.rs`; the ring between them is a list of epochs.

#[path = "../../src/channel/gate.rs"]
#[allow(dead_code, reason = "the models use less than the library")]
mod gate;

use std::sync::atomic::Ordering;

use loom::sync::atomic::AtomicU32;
use loom::sync::{Arc, Mutex};
use loom::thread;

use gate::{GateWord, HostGate, begin};

macro_rules! gate_words {
    ($($word:ty),+) => {
        $(impl GateWord for $word {
            fn load(&self, order: Ordering) -> u32 {
                self.load(order)
            }

            fn swap_if(&self, current: u32, new: u32) -> Result<(), u32> {
                self.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).map(drop)
            }
        })+
    };
}

// The second is for the tests in the source of the gate.
gate_words!(AtomicU32, std::sync::atomic::AtomicU32);

/// A call as it is on its way to the worker.
#[derive(Clone, Copy)]
struct Call {
    number: usize,
    epoch: u16,
}

/// What both sides share.
#[derive(Default)]
struct Shared {
    gate: AtomicU32,
    calls: Mutex<Vec<Call>>,
}

/// Reads every call that is there `looks` times over, and begins those that it may; returns their numbers.
fn work(shared: &Shared, looks: usize) -> Vec<usize> {
    let (mut begun, mut read) = (Vec::new(), 0);
    for _ in 0..looks {
        let calls = shared.calls.lock().expect("no thread panicked").clone();
        begun.extend(
            calls[read..].iter().filter(|call| begin(&shared.gate, call.epoch)).map(|call| call.number),
        );
        read = calls.len();
        thread::yield_now();
    }
    begun
}

/// The host's side, with the calls that it has written and not taken back.
#[derive(Default)]
struct Host {
    gate: HostGate,
    open: Vec<usize>,
}

impl Host {
    fn write(&mut self, shared: &Shared, number: usize) {
        let call = Call { number, epoch: self.gate.epoch() };
        shared.calls.lock().expect("no thread panicked").push(call);
        self.gate.add_written();
        self.open.push(number);
    }

    /// Takes back what has not begun; returns it.
    fn take_back(&mut self, shared: &Shared) -> Vec<usize> {
        let begun = self.gate.take_back(&shared.gate).expect("the worker keeps to the rules");
        self.open.split_off(begun)
    }
}

fn model(host: fn(&Shared) -> (Host, Vec<usize>), looks: usize) {
    loom::model(move || {
        let shared = Arc::new(Shared::default());
        let other = shared.clone();
        let worker = thread::spawn(move || work(&other, looks));
        let (host, taken) = host(&shared);
        let begun = worker.join().expect("the worker's side ends");
        // Those that are still open had not begun when the worker stopped to look, or have.
        let known = host.gate.begun(&shared.gate).expect("the worker keeps to the rules");
        assert_eq!(begun, host.open[..known], "both sides agree on which have begun");
        assert!(
            taken.iter().all(|number| !begun.contains(number)),
            "{begun:?} began, {taken:?} were taken back"
        );
    });
}

#[test]
fn a_call_begins_or_is_taken_back_and_both_sides_agree() {
    model(
        |shared| {
            let mut host = Host::default();
            (0..2).for_each(|number| host.write(shared, number));
            let taken = host.take_back(shared);
            (host, taken)
        },
        2,
    );
}

#[test]
fn calls_of_the_next_epoch_begin_behind_those_that_were_taken_back() {
    model(
        |shared| {
            let mut host = Host::default();
            host.write(shared, 0);
            let mut taken = host.take_back(shared);
            host.write(shared, 1);
            taken.extend(host.take_back(shared));
            host.write(shared, 2);
            (host, taken)
        },
        3,
    );
}

/// The worker may have begun a call when the host asks how many have, and no call that it has not written.
#[test]
fn what_the_host_counts_as_begun_never_shrinks() {
    model(
        |shared| {
            let mut host = Host::default();
            (0..2).for_each(|number| host.write(shared, number));
            let seen = host.gate.begun(&shared.gate).expect("the worker keeps to the rules");
            let taken = host.take_back(shared);
            assert!(host.open.len() >= seen);
            (host, taken)
        },
        2,
    );
}
