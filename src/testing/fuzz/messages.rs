//! Random messages. Every field of every message is named once, so that a new field fails to compile here.

use std::time::Duration;

use crate::failure::{BacktraceStyle, Ending, LastWords, PanicReport, SetupError};
use crate::testing::seeded_rng::SeededRng;
use crate::wire::call::{
    ArenaSpan, CallHeader, FromWorker, Lending, Lent, Outcome, Ready, Released, ReplyHeader, SetupReport,
    ToWorker,
};
use crate::wire::control::{
    Ended, FromServer, Hello, Parking, ProcessLimits, ServerReport, Signature, StatusSnapshot, ToServer,
    WorkerPid,
};
use crate::wire::handover::{TakeOver, ToPredecessor, ToSuccessor};
use crate::wire::log_record::{CallsiteInfo, Logged, Record, Value};

/// A value that can be generated at random.
pub(super) trait Draw: Sized {
    fn draw(rng: &mut SeededRng) -> Self;
}

fn any<T: Draw>(rng: &mut SeededRng) -> T {
    T::draw(rng)
}

macro_rules! numbers {
    ($($number:ty),+) => {$(
        impl Draw for $number {
            fn draw(rng: &mut SeededRng) -> Self {
                // All lengths of a varint are equally likely.
                let shift = rng.below(64);
                (rng.next() >> shift) as $number
            }
        }
    )+};
}

numbers!(u8, u16, u32, u64, u128, i32, i64);

impl Draw for bool {
    fn draw(rng: &mut SeededRng) -> Self {
        rng.happens(500)
    }
}

impl Draw for String {
    fn draw(rng: &mut SeededRng) -> Self {
        let length = rng.pick(&[0, 1, 5, 40, 300]);
        (0..length).map(|_| rng.pick(&['a', 'ß', '\n', '😀', '/'])).collect()
    }
}

impl Draw for Duration {
    fn draw(rng: &mut SeededRng) -> Self {
        Duration::new(any(rng), any::<u32>(rng) % 1_000_000_000)
    }
}

impl<T: Draw> Draw for Box<T> {
    fn draw(rng: &mut SeededRng) -> Self {
        Box::new(any(rng))
    }
}

impl<T: Draw> Draw for Option<T> {
    fn draw(rng: &mut SeededRng) -> Self {
        any::<bool>(rng).then(|| any(rng))
    }
}

impl<A: Draw, B: Draw> Draw for (A, B) {
    fn draw(rng: &mut SeededRng) -> Self {
        (any(rng), any(rng))
    }
}

impl<T: Draw> Draw for Vec<T> {
    fn draw(rng: &mut SeededRng) -> Self {
        (0..rng.pick(&[0, 1, 7, 60])).map(|_| any(rng)).collect()
    }
}

/// Generates structs field by field, and enums variant by variant.
macro_rules! messages {
    (@pick $rng:ident [$($made:expr),+]) => {{
        let made: &[fn(&mut SeededRng) -> Self] = &[$(|$rng| { let _ = &$rng; $made }),+];
        let at = $rng.below(made.len());
        made[at]($rng)
    }};
    ($($message:ident, |$rng:ident| [$($made:expr),+ $(,)?];)+) => {$(
        impl Draw for $message {
            fn draw($rng: &mut SeededRng) -> Self {
                messages!(@pick $rng [$($made),+])
            }
        }
    )+};
}

messages! {
    ToWorker, |c| [ToWorker::Lent(any(c)), ToWorker::Call(any(c)), ToWorker::Release];
    ArenaSpan, |c| [ArenaSpan { start: any(c), length: any(c) }];
    CallHeader, |c| [CallHeader {
        id: any(c),
        method: any(c),
        errors_seen: any(c),
        last: any(c),
        epoch: any(c),
        limit: any(c),
        baggage: any(c),
        verbosity: any(c),
    }];
    FromWorker, |c| [
        FromWorker::Ready(any(c)),
        FromWorker::SetupFailed(any(c)),
        FromWorker::Reply(any(c)),
        FromWorker::Released(any(c)),
        FromWorker::Logged(any(c)),
        FromWorker::Lent(any(c)),
    ];
    Lending, |c| [Lending { lent: any(c), held: any(c) }];
    Lent, |c| [Lent::Own { slot: any(c), span: any(c) }, Lent::Given { start: any(c) }];
    Logged, |c| [Logged { call: any(c), at: any(c), record: any(c) }];
    Record, |c| [
        Record::Event { parent: any(c), source: any(c), values: any(c) },
        Record::Opened { span: any(c), parent: any(c), source: any(c), values: any(c) },
        Record::Noted { span: any(c), values: any(c) },
        Record::Closed { span: any(c) },
        Record::Data { name: any(c), value: any(c) },
        Record::LeftOut(any(c)),
    ];
    CallsiteInfo, |c| [CallsiteInfo {
        level: any(c),
        name: any(c),
        target: any(c),
        file: any(c),
        line: any(c),
        fields: any(c),
    }];
    Value, |c| [
        Value::Bool(any(c)),
        Value::Signed(any(c)),
        Value::Unsigned(any(c)),
        Value::Float(any(c)),
        Value::Text(any(c)),
        Value::Shown(any(c)),
        Value::Json(any(c)),
    ];
    Ready, |c| [Ready { protocol: any(c), library: any(c), fingerprint: any(c) }];
    ReplyHeader, |c| [ReplyHeader { id: any(c), outcome: any(c), keep: any(c), stop: any(c) }];
    Outcome, |c| [
        Outcome::Done,
        Outcome::Failed,
        Outcome::Cleared,
        Outcome::Panicked { report: any(c), peak_memory: any(c), cpu_time: any(c) },
        Outcome::Payload { text: any(c), error: any(c) },
    ];
    Released, |c| [Released { private_bytes: any(c), stop: any(c) }];
    SetupReport, |c| [SetupReport::Error(any(c)), SetupReport::Panic(any(c))];
    SetupError, |c| [SetupError::new(any::<String>(c))];
    PanicReport, |c| [PanicReport { message: any(c), location: any(c), backtrace: any(c), raw: None }];
    BacktraceStyle, |c| [BacktraceStyle::Off, BacktraceStyle::Short, BacktraceStyle::Full];
    ToServer, |c| [
        ToServer::Hello(any(c)),
        ToServer::Fork { numbers: any(c), rings: any(c), results: any(c) },
        ToServer::End { number: any(c), kill: any(c) },
        ToServer::Adopt { number: any(c), proof: any(c) },
        ToServer::Inspect,
        ToServer::TakeOver(any(c)),
        ToServer::Attach { ticket: any(c), number: any(c) },
        ToServer::Arena,
        ToServer::Ping,
    ];
    Hello, |c| [Hello {
        protocol: any(c),
        library: any(c),
        fingerprint: any(c),
        interface: any(c),
        pool: any(c),
        max_payload: any(c),
        max_depth: any(c),
        max_memory: any(c),
        process_limits: any(c),
        backtrace: any(c),
        parking: any(c),
        config: any(c),
    }];
    TakeOver, |c| [TakeOver {
        format: any(c),
        protocol: any(c),
        library: any(c),
        interface: any(c),
        waits: any(c),
        stays: any(c),
    }];
    ToPredecessor, |c| [ToPredecessor::Ready, ToPredecessor::Serving];
    ToSuccessor, |c| [
        ToSuccessor::Socket { address: any(c) },
        ToSuccessor::Refused { reason: any(c) },
        ToSuccessor::Offered,
        ToSuccessor::Yours,
        ToSuccessor::Wait { behind: any(c) },
        ToSuccessor::Replaced,
    ];
    Parking, |c| [Parking::Never, Parking::WhileUsed, Parking::Always];
    Signature, |c| [Signature { name: any(c), message: any(c), result: any(c), error: any(c) }];
    ProcessLimits, |c| [ProcessLimits { hung_worker_timeout: any(c), kill_grace: any(c), memory_limit: any(c) }];
    FromServer, |c| [
        FromServer::Welcome { ticket: any(c) },
        FromServer::Refused { reason: any(c) },
        FromServer::PreloadFailed(any(c)),
        FromServer::Forked(any(c)),
        FromServer::NotForked { number: any(c), reason: any(c) },
        FromServer::Ended(any(c)),
        FromServer::Draining { succeeded: any(c) },
        FromServer::Inspected(any(c)),
        FromServer::Printed { number: any(c), stderr: any(c), bytes: any(c) },
        FromServer::Diverted,
        FromServer::Pong,
    ];
    WorkerPid, |c| [WorkerPid { number: any(c), pid: any(c), proof: any(c) }];
    StatusSnapshot, |c| [StatusSnapshot { begun: any(c), records: any(c), last_words: any(c) }];
    LastWords, |c| [LastWords { panic: any(c), stack_overflow: any(c) }];
    ServerReport, |c| [ServerReport {
        pid: any(c),
        library: any(c),
        uptime: any(c),
        clients: any(c),
        workers: any(c),
        forked: any(c),
        not_forked: any(c),
        turned_away: any(c),
        draining: any(c),
        parked: any(c),
    }];
    Ended, |c| [Ended {
        number: any(c),
        ending: any(c),
        peak_memory: any(c),
        cpu_time: any(c),
        hung: any(c),
        out_of_memory: any(c),
        status: any(c),
    }];
    Ending, |c| [
        Ending::Exited { code: any(c) },
        Ending::Signaled { signal: any(c), core_dumped: any(c) },
        Ending::Unknown,
    ];
}
