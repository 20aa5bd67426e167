//! The call loop: read a call, run it, answer it.

use std::io;
use std::time::Instant;

use super::panic_capture;
use super::panic_capture::PanicSink;
use super::service::{Incoming, Replying, Service};
use super::{Numbering, log_sender, subscriber};
use crate::blob;
use crate::blob::{Blob, PendingLoan};
use crate::channel::{Activity, BlockingChannel, Received, WorkerIo};
use crate::sys::memory::private_bytes;
use crate::sys::parent_death;
use crate::telling;
use crate::wire::call::{CallHeader, FromWorker, Lending, Outcome, Released, ReplyHeader, ToWorker};
use crate::wire::frame;
use crate::wire::frame::Limits;

/// What the worker and its client have agreed on, from the hello.
pub(super) struct ClientTerms {
    /// The limits of messages and results.
    pub(super) values: Limits,
    pub(super) max_memory: Option<u64>,
    pub(super) numbering: Numbering,
}

/// Why the loop ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// The host closed the channel.
    Closed,
    /// User code panicked; the state that it left behind cannot be trusted.
    Panicked,
}

/// Serves calls until the channel ends. A copy of this process that user code has forked never gets past the code:
/// [`panic_capture::run`] ends it.
///
/// # Errors
///
/// The error of the channel, or `InvalidData` for malformed frames and headers.
pub(super) fn run<L: WorkerIo>(
    end: &mut BlockingChannel<L>,
    service: &mut dyn Service,
    client: &ClientTerms,
) -> io::Result<Exit> {
    // `Ready` is sent before anything else.
    end.flush()?;
    // The number of errors in the current checkout so far. A call whose `errors_seen` is lower was sent before its
    // caller knew of the last error; it is not run.
    let mut errors = 0;
    // The blobs of the next call.
    let mut blobs = Vec::new();
    // A release that was not reported to the host.
    let mut untold = None;
    // Whether this worker is to be replaced, and begins no further call that the host can take back.
    let mut declines = false;
    loop {
        if !end.has_frame()
            && let Some(released) = untold.take()
        {
            frame::append(end.buffer(), &FromWorker::Released(released));
        }
        end.flush()?;
        let Some(Received { body, out, io }) = end.next_frame()? else {
            return Ok(Exit::Closed);
        };
        let (header, payload) = frame::split(body).map_err(invalid)?;
        let (survived, checkout_over) = match header {
            ToWorker::Lent(spans) => {
                blobs = blob::receive_arguments(&spans)?;
                continue;
            }
            ToWorker::Call(call) if call.epoch.is_some_and(|epoch| declines || !io.begin(epoch)) => {
                blobs.clear();
                continue;
            }
            ToWorker::Call(call) if call.errors_seen < errors => {
                call.split(payload).map_err(invalid)?;
                blobs.clear();
                append_reply(out, call.id, Outcome::Cleared);
                (true, false)
            }
            ToWorker::Call(call) => {
                let parts = call.split(payload).map_err(invalid)?;
                io.set_activity(Activity::Call(call.method));
                parent_death::enter_user_code();
                let blobs = std::mem::take(&mut blobs);
                let survived = run_call(service, &call, (parts, blobs), out, client, &mut errors);
                parent_death::leave_user_code();
                io.set_activity(Activity::Idle);
                (survived, call.last)
            }
            ToWorker::Release => (true, true),
        };
        // The reply is sent before other code runs: `checkout_done` may take long, and the process may be about to
        // exit.
        end.flush()?;
        if !survived {
            return Ok(Exit::Panicked);
        }
        if checkout_over {
            errors = 0;
            let Some(released) = end_checkout(end, service, client) else { return Ok(Exit::Panicked) };
            declines |= released.stop || released.private_bytes > client.max_memory;
            untold = Some(released);
            if declines && let Some(released) = untold.take() {
                // At once, since the calls behind this one are to run elsewhere.
                frame::append(end.buffer(), &FromWorker::Released(released));
            }
        }
    }
}

/// Runs one call and appends its reply. Returns `false` if the call panicked; the reply then reports the panic.
fn run_call(
    service: &mut dyn Service,
    call: &CallHeader,
    ((baggage, payload), blobs): ((&[u8], &[u8]), Vec<Blob>),
    out: &mut Vec<u8>,
    client: &ClientTerms,
    errors: &mut u32,
) -> bool {
    let before = out.len();
    let deadline = call.limit.and_then(|limit| Instant::now().checked_add(limit));
    let incoming = Incoming {
        id: call.id,
        method: client.numbering.translate(call.method),
        payload,
        baggage,
        deadline,
        blobs: &blobs,
        max_depth: client.values.depth,
    };
    let mut reply_was_error = false;
    let mut lent = Vec::new();
    panic_capture::set_sink(PanicSink::Call(call.id));
    if call.verbosity > 0 {
        subscriber::raise_max_verbosity(call.verbosity);
        log_sender::begin(call.id, call.verbosity);
    }
    let run = || {
        let replying = Replying {
            out: &mut *out,
            id: call.id,
            limits: client.values,
            lent: &mut lent,
            error: &mut reply_was_error,
        };
        service.call(incoming, replying);
    };
    let run = panic_capture::run(run);
    log_sender::end();
    let survived = run.is_ok();
    match run {
        Ok(()) => append_lending(out, before, blobs, lent),
        Err(report) => {
            out.truncate(before);
            append_reply(out, call.id, panic_capture::outcome(report));
        }
    }
    *errors += u32::from(reply_was_error);
    survived
}

/// Ends a checkout, as [`release`] does, and shows that meanwhile.
fn end_checkout<L: WorkerIo>(
    end: &mut BlockingChannel<L>,
    service: &mut dyn Service,
    client: &ClientTerms,
) -> Option<Released> {
    end.set_activity(Activity::Release);
    parent_death::enter_user_code();
    let released = release(service, end.buffer(), client.max_memory);
    parent_death::leave_user_code();
    end.set_activity(Activity::Idle);
    released
}

/// Ends a checkout. Returns `None` if `checkout_done` panicked. `checkout_done` does not run if the worker is to be
/// replaced.
fn release(service: &mut dyn Service, out: &mut Vec<u8>, max_memory: Option<u64>) -> Option<Released> {
    let private_bytes = max_memory.and_then(|_| private_bytes());
    let too_large = private_bytes > max_memory;
    if !too_large && !service.wants_replacement() {
        panic_capture::set_sink(PanicSink::None);
        let done = panic_capture::run(|| service.checkout_done());
        if let Err(report) = done {
            // There is no call to answer, so the panic goes to standard error.
            telling::print_line(format_args!("checkout_done panicked: {report}"));
            return None;
        }
    }
    append_lending(out, out.len(), Vec::new(), Vec::new());
    Some(Released { private_bytes, stop: service.wants_replacement() })
}

/// Inserts, in front of a reply or a release, the blobs that it lends and the arguments that the worker still holds.
/// Inserts nothing if both are unchanged.
fn append_lending(out: &mut Vec<u8>, at: usize, arguments: Vec<Blob>, lent: Vec<PendingLoan>) {
    let held = blob::finish_call(arguments);
    if !lent.is_empty() || held.is_some() {
        let lent = lent.into_iter().map(PendingLoan::commit).collect();
        frame::insert(out, at, &FromWorker::Lent(Lending { lent, held }));
    }
}

fn append_reply(out: &mut Vec<u8>, id: u64, outcome: Outcome) {
    frame::append(out, &FromWorker::Reply(ReplyHeader { id, outcome, keep: false, stop: false }));
}

fn invalid(error: frame::FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A channel that delivers prepared bytes and records what is sent.
    struct Script {
        incoming: Vec<u8>,
        sent: Vec<u8>,
    }

    impl WorkerIo for Script {
        fn receive(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
            let count = self.incoming.len();
            bytes.append(&mut self.incoming);
            Ok(count)
        }

        fn send(&mut self, bytes: &[u8], _: bool) -> io::Result<usize> {
            self.sent.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn set_activity(&self, _: Activity) {}

        fn begin(&self, epoch: u16) -> bool {
            epoch == 7
        }
    }

    /// Fails on method 1 and panics on method 2; everything else succeeds. Method 3 asks for a replacement.
    #[derive(Default)]
    struct Scripted {
        releases: u32,
        wants_replacement: bool,
    }

    impl Service for Scripted {
        fn call(&mut self, call: Incoming<'_>, reply: Replying<'_>) {
            assert_ne!(call.method, 2, "begun to panic");
            self.wants_replacement |= call.method == 3;
            let result: Result<u64, u64> = if call.method == 1 { Err(call.id) } else { Ok(call.id) };
            reply.result(&result, false, false);
        }

        fn checkout_done(&mut self) {
            self.releases += 1;
        }

        fn wants_replacement(&self) -> bool {
            self.wants_replacement
        }
    }

    fn call(id: u64, method: u32, errors_seen: u32) -> ToWorker {
        ToWorker::Call(CallHeader {
            id,
            method,
            errors_seen,
            last: false,
            epoch: None,
            limit: None,
            baggage: 0,
            verbosity: 0,
        })
    }

    /// A single call of a lane.
    fn single(id: u64, method: u32, epoch: u16) -> ToWorker {
        let ToWorker::Call(header) = call(id, method, 0) else { unreachable!("it is a call") };
        ToWorker::Call(CallHeader { last: true, epoch: Some(epoch), ..header })
    }

    fn play(script: &[ToWorker]) -> (Vec<FromWorker>, Exit) {
        let mut incoming = Vec::new();
        script.iter().for_each(|message| frame::append(&mut incoming, message));
        let (messages, exit) = play_bytes(incoming);
        (messages, exit.expect("the channel works"))
    }

    fn play_bytes(incoming: Vec<u8>) -> (Vec<FromWorker>, io::Result<Exit>) {
        let mut end = BlockingChannel::new(Script { incoming, sent: Vec::new() }, 1000);
        let values = Limits { bytes: 100, depth: 8 };
        let client = ClientTerms { values, max_memory: None, numbering: Numbering::default() };
        let exit = run(&mut end, &mut Scripted::default(), &client);
        (decode_messages(&end.io().sent), exit)
    }

    fn decode_messages(mut bytes: &[u8]) -> Vec<FromWorker> {
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
    fn baggage_longer_than_the_payload_is_refused() {
        for (baggage, served) in [(0, true), (3, true), (4, false), (u32::MAX, false)] {
            for (method, errors_seen) in [(1, 0), (0, 0)] {
                let mut incoming = Vec::new();
                frame::append(&mut incoming, &call(1, method, 0));
                let last = CallHeader {
                    id: 2,
                    method: 0,
                    errors_seen,
                    last: false,
                    epoch: None,
                    limit: None,
                    baggage,
                    verbosity: 0,
                };
                let header = ToWorker::Call(last);
                let appended: Result<(), ()> = frame::append_with(&mut incoming, &header, |out| {
                    out.extend_from_slice(&[1, 2, 3]);
                    Ok(())
                });
                assert_eq!(appended, Ok(()));
                let (messages, exit) = play_bytes(incoming);
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

    /// The script's gate is in epoch 7.
    #[test]
    fn a_call_that_was_taken_back_is_skipped() {
        let (messages, exit) = play(&[single(1, 0, 7), single(2, 2, 6), single(3, 0, 7)]);
        assert_eq!(outcomes(&messages), [(1, "done"), (3, "done")]);
        assert_eq!(exit, Exit::Closed);
    }

    #[test]
    fn calls_that_have_arrived_are_run_before_a_release_is_reported() {
        let (messages, _) = play(&[single(1, 0, 7), single(2, 0, 7), single(3, 0, 6)]);
        let released = FromWorker::Released(Released { private_bytes: None, stop: false });
        assert_eq!(messages.iter().position(|message| *message == released), Some(2), "{messages:?}");
        assert_eq!(messages.len(), 3);
    }

    /// P7: what stands behind it is left to others.
    #[test]
    fn a_worker_that_is_to_be_replaced_declines_what_stands_behind() {
        let (messages, _) = play(&[single(1, 3, 7), single(2, 0, 7), single(3, 0, 7)]);
        assert_eq!(outcomes(&messages), [(1, "done")]);
        let released = FromWorker::Released(Released { private_bytes: None, stop: true });
        assert_eq!(messages.last(), Some(&released));
    }

    #[test]
    fn a_panic_is_the_last_message_of_a_worker() {
        let (messages, exit) = play(&[call(1, 2, 0), call(2, 0, 0)]);
        assert_eq!(outcomes(&messages), [(1, "panicked")]);
        assert_eq!(exit, Exit::Panicked);
    }
}
