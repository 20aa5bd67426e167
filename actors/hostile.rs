//! What workers report, from any bytes: targets of the fuzzers in `tests/fuzz`.

use std::io;
use std::sync::Arc;

use super::telemetry::event_forwarder::{EventForwarder, LogSink};
use super::transport::blobs::{BlobMemory, BorrowedBlobs};
use crate::blob::{Blob, ResultArena, ResultMemory, TABLE_LENGTH};
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
