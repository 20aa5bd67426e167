//! The loop: read a call, run it, answer it.

use std::io;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use super::panic_capture;
use super::panic_capture::PanicSink;
use super::service::{Incoming, Replying, Service};
use super::{log_sender, subscriber};
use crate::blob;
use crate::blob::{Blob, PendingLoan};
use crate::channel::{BlockingChannel, Doing, Received, WorkerIo};
use crate::sys::memory::{OnlyHere, private_bytes};
use crate::sys::parent_death;
use crate::wire::call::{CallHeader, FromWorker, Lending, Outcome, Released, ReplyHeader, ToWorker};
use crate::wire::frame;

/// What the host said about this pool.
#[derive(Clone, Copy)]
pub(super) struct WorkerLimits {
    pub(super) max_payload: usize,
    pub(super) max_memory: Option<u64>,
}

/// Why the loop ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// The host closed the channel.
    Closed,
    /// User code panicked; what it left behind is not to be trusted.
    Panicked,
    /// This is a process that a handler forked and that came back here.
    Copy,
}

/// Serves calls until the channel ends; `original` tells this process from its copies.
///
/// # Errors
///
/// What the channel said, or `InvalidData` for bytes that are no frame.
pub(super) fn work<L: WorkerIo>(
    end: &mut BlockingChannel<L>,
    service: &mut dyn Service,
    limits: WorkerLimits,
    original: &OnlyHere,
) -> io::Result<Exit> {
    // The host is told that this worker is ready before anything else.
    end.flush()?;
    // Errors of the current checkout so far. A call that had seen fewer was written before the last one was
    // known, and is not run.
    let mut errors = 0;
    // What the next call's blobs are.
    let mut blobs = Vec::new();
    loop {
        end.flush()?;
        let Some(Received { body, out, io }) = end.next()? else {
            return Ok(Exit::Closed);
        };
        let (header, payload) = frame::split(body).map_err(invalid)?;
        let (survived, over) = match header {
            ToWorker::Lent(spans) => {
                blobs = blob::hear(&spans)?;
                continue;
            }
            ToWorker::Call(call) if call.errors_seen < errors => {
                call.split(payload).map_err(invalid)?;
                blobs.clear();
                say_reply(out, call.id, Outcome::Cleared);
                (true, false)
            }
            ToWorker::Call(call) => {
                let parts = call.split(payload).map_err(invalid)?;
                io.note(Doing::Call(call.method));
                parent_death::begins();
                let blobs = std::mem::take(&mut blobs);
                let survived = serve(service, &call, (parts, blobs), out, limits, &mut errors);
                parent_death::ends();
                io.note(Doing::Nothing);
                (survived, call.last)
            }
            ToWorker::Release => (true, true),
        };
        if !original.holds() {
            return Ok(Exit::Copy);
        }
        // A reply is on its way before anything else runs: what comes next may take long, or be the end.
        end.flush()?;
        if !survived {
            return Ok(Exit::Panicked);
        }
        if over {
            errors = 0;
            end.note(Doing::Release);
            parent_death::begins();
            let survived = release(service, end.buffer(), limits);
            parent_death::ends();
            end.note(Doing::Nothing);
            if !survived {
                return Ok(Exit::Panicked);
            }
            if !original.holds() {
                return Ok(Exit::Copy);
            }
        }
    }
}

/// Runs one call; `false` if it panicked, which it has said then.
fn serve(
    service: &mut dyn Service,
    call: &CallHeader,
    ((baggage, payload), blobs): ((&[u8], &[u8]), Vec<Blob>),
    out: &mut Vec<u8>,
    limits: WorkerLimits,
    errors: &mut u32,
) -> bool {
    let before = out.len();
    let deadline = call.limit.and_then(|limit| Instant::now().checked_add(limit));
    let incoming = Incoming { id: call.id, method: call.method, payload, baggage, deadline, blobs: &blobs };
    let mut reply_was_error = false;
    let mut lent = Vec::new();
    panic_capture::expect(PanicSink::Call(call.id));
    if call.verbosity > 0 {
        subscriber::raise_ceiling(call.verbosity);
        log_sender::begin(call.id, call.verbosity);
    }
    let run = || {
        let replying = Replying {
            out: &mut *out,
            id: call.id,
            max_payload: limits.max_payload,
            lent: &mut lent,
            error: &mut reply_was_error,
        };
        service.call(incoming, replying);
    };
    let survived = std::panic::catch_unwind(AssertUnwindSafe(run)).is_ok();
    log_sender::end();
    if !survived {
        out.truncate(before);
        say_reply(out, call.id, panic_capture::outcome(panic_capture::take()));
    } else {
        say_lending(out, before, blobs, lent);
    }
    *errors += u32::from(reply_was_error);
    survived
}

/// Ends a checkout; `false` if `checkout_done` panicked. It does not run where the worker is to be replaced.
fn release(service: &mut dyn Service, out: &mut Vec<u8>, limits: WorkerLimits) -> bool {
    let private_bytes = limits.max_memory.and_then(|_| private_bytes());
    let too_large = private_bytes > limits.max_memory;
    if !too_large && !service.wants_replacement() {
        panic_capture::expect(PanicSink::None);
        let done = std::panic::catch_unwind(AssertUnwindSafe(|| service.checkout_done()));
        if done.is_err() {
            // There is no call to answer; whoever reads the program's errors is to know.
            eprintln!("forkpool: checkout_done panicked: {}", panic_capture::take());
            return false;
        }
    }
    say_lending(out, out.len(), Vec::new(), Vec::new());
    let released = Released { private_bytes, stop: service.wants_replacement() };
    frame::append(out, &FromWorker::Released(released));
    true
}

/// Says in front of a reply what it lends, and what has become of the arguments, where there is anything to say.
fn say_lending(out: &mut Vec<u8>, at: usize, arguments: Vec<Blob>, lent: Vec<PendingLoan>) {
    let held = blob::tell(arguments);
    if !lent.is_empty() || held.is_some() {
        let lent = lent.into_iter().map(PendingLoan::said).collect();
        frame::insert(out, at, &FromWorker::Lent(Lending { lent, held }));
    }
}

fn say_reply(out: &mut Vec<u8>, id: u64, outcome: Outcome) {
    frame::append(out, &FromWorker::Reply(ReplyHeader { id, outcome, keep: false, stop: false }));
}

fn invalid(error: frame::FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link that plays a script and keeps what it is told.
    struct Script {
        said: Vec<u8>,
        heard: Vec<u8>,
    }

    impl WorkerIo for Script {
        fn receive(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
            let count = self.said.len();
            bytes.append(&mut self.said);
            Ok(count)
        }

        fn send(&mut self, bytes: &[u8], _: bool) -> io::Result<usize> {
            self.heard.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn note(&self, _: Doing) {}
    }

    /// Fails on method 1 and panics on method 2; everything else succeeds.
    struct Scripted {
        releases: u32,
    }

    impl Service for Scripted {
        fn call(&mut self, call: Incoming<'_>, reply: Replying<'_>) {
            assert_ne!(call.method, 2, "told to panic");
            let result: Result<u64, u64> = if call.method == 1 { Err(call.id) } else { Ok(call.id) };
            reply.result(&result, false, false);
        }

        fn checkout_done(&mut self) {
            self.releases += 1;
        }

        fn wants_replacement(&self) -> bool {
            false
        }
    }

    fn call(id: u64, method: u32, errors_seen: u32) -> ToWorker {
        ToWorker::Call(CallHeader {
            id,
            method,
            errors_seen,
            last: false,
            limit: None,
            baggage: 0,
            verbosity: 0,
        })
    }

    fn play(script: &[ToWorker]) -> (Vec<FromWorker>, Exit) {
        let mut said = Vec::new();
        script.iter().for_each(|message| frame::append(&mut said, message));
        let (messages, exit) = play_bytes(said);
        (messages, exit.unwrap_or(Exit::Copy))
    }

    fn play_bytes(said: Vec<u8>) -> (Vec<FromWorker>, io::Result<Exit>) {
        let mut end = BlockingChannel::new(Script { said, heard: Vec::new() }, 1000);
        let limits = WorkerLimits { max_payload: 100, max_memory: None };
        let exit = OnlyHere::new()
            .map_err(io::Error::from)
            .and_then(|original| work(&mut end, &mut Scripted { releases: 0 }, limits, &original));
        (heard(&end.io().heard), exit)
    }

    fn heard(mut bytes: &[u8]) -> Vec<FromWorker> {
        let mut messages = Vec::new();
        while let Ok(Some(length)) = frame::length(bytes, 1 << 20) {
            if let Ok((message, _)) = frame::split(&bytes[frame::LENGTH..length]) {
                messages.push(message);
            }
            bytes = &bytes[length..];
        }
        messages
    }

    fn outcomes(messages: &[FromWorker]) -> Vec<(u64, &'static str)> {
        let name = |outcome: &Outcome| match outcome {
            Outcome::Done => "done",
            Outcome::Failed => "failed",
            Outcome::Cleared => "cleared",
            Outcome::Panicked { .. } => "panicked",
            Outcome::Payload { .. } => "payload",
        };
        messages
            .iter()
            .filter_map(|message| match message {
                FromWorker::Reply(reply) => Some((reply.id, name(&reply.outcome))),
                _ => None,
            })
            .collect()
    }

    /// E3
    #[test]
    fn calls_written_before_an_error_was_seen_are_cleared_and_later_ones_run() {
        let script = [call(1, 1, 0), call(2, 0, 0), call(3, 0, 0), call(4, 0, 1)];
        let (messages, exit) = play(&script);
        let expected = [(1, "failed"), (2, "cleared"), (3, "cleared"), (4, "done")];
        assert_eq!(outcomes(&messages), expected);
        assert_eq!(exit, Exit::Closed);
    }

    #[test]
    fn baggage_beyond_the_payload_is_no_frame() {
        for (baggage, served) in [(0, true), (3, true), (4, false), (u32::MAX, false)] {
            for (method, errors_seen) in [(1, 0), (0, 0)] {
                let mut said = Vec::new();
                frame::append(&mut said, &call(1, method, 0));
                let last = CallHeader {
                    id: 2,
                    method: 0,
                    errors_seen,
                    last: false,
                    limit: None,
                    baggage,
                    verbosity: 0,
                };
                let header = ToWorker::Call(last);
                let appended: Result<(), ()> = frame::append_with(&mut said, &header, |out| {
                    out.extend_from_slice(&[1, 2, 3]);
                    Ok(())
                });
                assert_eq!(appended, Ok(()));
                let (messages, exit) = play_bytes(said);
                assert_eq!(exit.is_ok(), served, "baggage of {baggage} bytes");
                assert_eq!(messages.len(), if served { 2 } else { 1 });
            }
        }
    }

    #[test]
    fn a_release_forgets_the_errors_of_its_checkout() {
        let script = [call(1, 1, 0), ToWorker::Release, call(1, 0, 0)];
        assert_eq!(outcomes(&play(&script).0), [(1, "failed"), (1, "done")]);
    }

    #[test]
    fn a_panic_is_the_last_thing_a_worker_says() {
        let (messages, exit) = play(&[call(1, 2, 0), call(2, 0, 0)]);
        assert_eq!(outcomes(&messages), [(1, "panicked")]);
        assert_eq!(exit, Exit::Panicked);
    }
}
