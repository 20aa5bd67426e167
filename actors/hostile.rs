//! What workers report, from any bytes: targets of the fuzzers in `tests/fuzz`.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::lane::state::{Held, LaneState, Queued, Single};
use super::telemetry::event_forwarder::{EventForwarder, LogSink};
use super::transport::blobs::{BlobMemory, BorrowedBlobs};
use crate::blob::{Blob, ResultArena, ResultMemory, TABLE_LENGTH};
use crate::channel::{GateWord, HostGate, begin_gated};
use crate::clock::Instant;
use crate::request_log::RequestLog;
use crate::sys::arena::PAGE;
use crate::sys::memory_file;
use crate::sys::memory_file::UnmappedFile;
use crate::sys::shared_memory::SharedMemory;
use crate::wire::call::FromWorker;

/// Bytes of the worker's arena.
const RESULTS: usize = 16 * PAGE;

/// Most bytes of a log for each byte of its records: JSON escapes a byte with six, and a record has names of its own.
const LOG_FACTOR: usize = 100;

/// Applies one report of blobs after another to the state of one worker. Every other report comes with a call that has
/// lent blobs.
///
/// # Panics
///
/// If a report reaches memory that was not lent, or keeps some for good.
pub(crate) fn lending(bodies: &[Vec<u8>]) {
    // Without memory there is nothing to be found out.
    let (Ok(host), Ok(results)) = (BlobMemory::create(64 * PAGE), results()) else { return };
    let borrowed = BorrowedBlobs::default();
    for (number, body) in bodies.iter().enumerate() {
        let Ok((FromWorker::Lent(lending), [])) = FromWorker::read(body) else { continue };
        let given = if number % 2 == 0 { arguments(&host) } else { Vec::new() };
        for blob in borrowed.receive_lending(lending, &given, Some(&results)).unwrap_or_default() {
            assert!(blob.len() <= RESULTS, "it lies in one of the arenas");
            assert_eq!(blob.read_at(blob.len().saturating_sub(1), &mut [0; 2]), blob.len().min(1));
        }
        borrowed.keep_until_exit(given);
    }
    borrowed.clear();
    assert_eq!(host.in_use(), 0, "nothing is held for a worker that has ended");
}

fn results() -> io::Result<ResultArena> {
    let (memory, _) = SharedMemory::create(c"forkpool-test", TABLE_LENGTH)?;
    let results = UnmappedFile::new(memory_file::of_length(c"forkpool-test", RESULTS)?, RESULTS);
    Ok(ResultArena::new(Arc::new(memory), 0, ResultMemory::Unmapped(Arc::new(results))))
}

fn arguments(host: &BlobMemory) -> Vec<Blob> {
    let mut bytes = Vec::new();
    let pair = [vec![1_u8; 20_000], vec![2; 30_000]].map(Blob::from);
    let message = |out: &mut Vec<u8>| {
        crate::wire::frame::encode(out, &pair, crate::wire::frame::Limits { bytes: usize::MAX, depth: 8 })
    };
    super::transport::blobs::encode(Some(host), &mut bytes, message).unwrap_or_default()
}

/// Writes one record after another into the log of one call.
///
/// # Panics
///
/// If the log is longer than its records can make it.
pub(crate) fn logs(bodies: &[Vec<u8>]) {
    let (sender, delivered) = std::sync::mpsc::channel();
    let log = RequestLog::new(move |log| {
        // The receiver waits below.
        let _ = sender.send(log.to_json().len());
    });
    let sink = LogSink::Log(log.with_verbosity(crate::LogLevel(u8::MAX)));
    let mut forwarder = EventForwarder::default();
    for body in bodies {
        if let Ok((FromWorker::Logged(logged), [])) = FromWorker::read(body) {
            forwarder.forward(Some(&sink), *logged);
        }
    }
    forwarder.end_call(true);
    drop((forwarder, sink));
    let bytes: usize = bodies.iter().map(Vec::len).sum();
    let length = delivered.recv().unwrap_or(0);
    assert!(length <= LOG_FACTOR * (bytes + 10), "a log of {length} bytes from {bytes}");
}

/// Workers of the lane.
const GATED: usize = 2;

/// Calls that a script may make.
const CALLS: usize = 200;

/// A worker's gate, whose word changes by a script: while it is read, and between a look at it and the swap.
struct HostileWord<'a> {
    word: AtomicU32,
    script: &'a RefCell<Bytes<'a>>,
}

type Bytes<'a> = std::slice::Iter<'a, u8>;

impl HostileWord<'_> {
    /// The worker writes something, most often a word that is nearly right.
    fn change(&self) {
        let mut script = self.script.borrow_mut();
        let mut next = || script.next().copied().unwrap_or(0);
        let word = self.word.load(Ordering::Relaxed);
        let changed = match next() {
            0..200 => return,
            200..225 => word.wrapping_add(1),
            225..235 => word.wrapping_sub(1),
            235..245 => word.wrapping_add(1 << 16),
            245..250 => word ^ u32::from(next()),
            _ => u32::from_le_bytes([next(), next(), next(), next()]),
        };
        self.word.store(changed, Ordering::Relaxed);
    }
}

impl GateWord for HostileWord<'_> {
    fn load(&self, order: Ordering) -> u32 {
        self.change();
        self.word.load(order)
    }

    fn swap_if(&self, current: u32, new: u32) -> Result<(), u32> {
        self.change();
        self.word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }
}

/// A lane whose workers write what they like to their gates and reply what they like.
struct Gated<'a> {
    state: LaneState<usize, (), ()>,
    gates: Vec<(HostGate, HostileWord<'a>)>,
    script: &'a RefCell<Bytes<'a>>,
    /// How often each call was answered.
    answers: Vec<u32>,
    now: Instant,
}

/// Plays a script of what the host does with the calls of a lane, and of what its workers write to their gates meanwhile.
///
/// # Panics
///
/// If the host loses count of its calls, or answers one twice or not at all.
pub(crate) fn gate(script: &[u8]) {
    let script = RefCell::new(script.iter());
    let mut gated = Gated::new(&script);
    loop {
        let Some(step) = script.borrow_mut().next().copied() else { break };
        gated.step(step);
        gated.check();
    }
    while !gated.state.held.is_empty() {
        gated.end_worker(0);
    }
    gated.state.queued.take().into_iter().for_each(|queued| gated.answers[queued.single.call] += 1);
    assert!(gated.answers.iter().all(|answers| *answers == 1), "each call is answered once");
}

impl<'a> Gated<'a> {
    fn new(script: &'a RefCell<Bytes<'a>>) -> Self {
        let (state, now) = (LaneState::new(GATED), Instant::now());
        let mut gated = Gated { state, gates: Vec::new(), script, answers: Vec::new(), now };
        (0..GATED).for_each(|_| gated.add_worker());
        gated
    }

    fn add_worker(&mut self) {
        let word = HostileWord { word: AtomicU32::new(0), script: self.script };
        self.gates.push((HostGate::default(), word));
        self.state.held.push(Held::new(u64::MAX, true, self.now));
    }

    fn next(&self) -> u8 {
        self.script.borrow_mut().next().copied().unwrap_or(0)
    }

    fn step(&mut self, step: u8) {
        if self.state.held.len() < GATED {
            self.add_worker();
        }
        let at = usize::from(step) % GATED;
        self.now += Duration::from_micros(u64::from(step / 8));
        match step % 7 {
            0 | 1 => self.submit(),
            2 => self.reply(at),
            3 => self.take_back(at),
            4 => self.spread(),
            // An honest worker that begins a call.
            5 => {
                let (gate, word) = &self.gates[at];
                let _ = begin_gated(word, gate.epoch());
            }
            _ => self.end_worker(at),
        }
        self.write_queued();
    }

    fn submit(&mut self) {
        if self.answers.len() < CALLS {
            let single = Single::new(self.answers.len(), None, self.now);
            self.answers.push(0);
            self.state.queued.insert(Queued { single, message: (), ticket: 1, starts_run: false });
        }
    }

    fn write_queued(&mut self) {
        while let Some(at) = self.state.place_for_queued(u64::MAX, self.now) {
            let Some(queued) = self.state.queued.pop_first() else { return };
            self.gates[at].0.add_written();
            self.state.held[at].push(queued.single, (), 64, self.now);
        }
    }

    /// A worker replies to a call, which may be none of its own or not the first.
    fn reply(&mut self, at: usize) {
        let wrong = u64::from(self.next() % 8 == 7);
        let held = &mut self.state.held[at];
        let Some(id) = held.written.front().map(|first| first.id + wrong) else { return };
        match held.answer(id, self.now) {
            Some(written) => {
                held.unreleased = 0;
                self.answers[written.single.call] += 1;
                self.gates[at].0.add_answered();
            }
            None => self.end_worker(at),
        }
    }

    fn take_back(&mut self, at: usize) {
        let (gate, word) = &mut self.gates[at];
        let open = self.state.held[at].written.len();
        if let Ok(begun) = gate.take_back(word) {
            assert!(begun <= open, "no more calls have begun than are open");
            let taken = self.state.held[at].take_behind(begun);
            self.state.requeue(taken, |_, &()| ());
        }
    }

    fn spread(&mut self) {
        for ((gate, word), held) in self.gates.iter().zip(&mut self.state.held) {
            if let Ok(begun) = gate.begun(word) {
                assert!(begun <= held.written.len(), "no more calls have begun than are open");
                held.mark_begun(begun, self.now);
            }
        }
        if let Some(slow) = self.state.slow_worker(self.now) {
            self.take_back(slow);
        }
    }

    /// A worker is lost: the calls that it may have begun fail, and the others run elsewhere.
    fn end_worker(&mut self, at: usize) {
        let (mut gate, word) = self.gates.remove(at);
        let mut held = self.state.held.remove(at);
        let begun = gate.take_back(&word).unwrap_or(held.written.len());
        let taken = held.take_behind(begun);
        self.state.requeue(taken, |_, &()| ());
        held.written.iter().for_each(|lost| self.answers[lost.single.call] += 1);
    }

    fn check(&self) {
        let written: usize = self.state.held.iter().map(|held| held.written.len()).sum();
        let answered: u32 = self.answers.iter().sum();
        assert!(self.answers.iter().all(|answers| *answers <= 1), "no call is answered twice");
        assert_eq!(
            written + self.state.queued.len() + answered as usize,
            self.answers.len(),
            "no call is lost"
        );
        assert!(self.state.waiting() <= written + self.state.queued.len());
    }
}
