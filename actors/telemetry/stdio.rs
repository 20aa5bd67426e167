//! What a worker prints: line by line into the application's `tracing`, and the last of it into failure reports.
//!
//! Both of a worker's outputs are pipes that end here. Whoever prints more than anybody can read is read all the same,
//! so that it does not block, and what is too much is counted in place of being told.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;

use crate::channel::StatusPage;
use crate::sys::{descriptors, reactor};

use super::line_buffer::{LineBuffer, Tail};

/// Lines of one worker that are told of within a second; those beyond are counted.
const LINES_PER_SECOND: u32 = 1000;

/// Bytes read at once: what a pipe holds.
const CHUNK: usize = 64 << 10;

/// Chunks read before other tasks have their turn.
const CHUNKS: usize = 4;

/// Chunks read of a worker that has ended, which prints no more; a child that it left behind may.
const LAST_CHUNKS: usize = 64;

/// The name of a call, by its number in the interface.
pub(crate) type NameOf = fn(u32) -> Option<&'static str>;

/// Which of its outputs a worker wrote to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OutputStream {
    Stdout,
    Stderr,
}

/// The writing ends of a worker's outputs.
pub(crate) struct WorkerOutputs {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// What a worker prints and notes, and what was read of it.
pub(crate) struct OutputPipe {
    pool: String,
    worker: u64,
    /// 0 until it was forked.
    pid: AtomicU32,
    name_of: NameOf,
    source: OutputSource,
    read: Mutex<Read>,
}

/// Where it comes from.
enum OutputSource {
    /// The reading ends of its outputs, and the memory of its notes.
    Here { status_page: StatusPage, stdout: Arc<OwnedFd>, stderr: Arc<OwnedFd> },
    /// Its server, which is on another machine; the last records come with its end.
    Reported { records: Mutex<Vec<String>> },
}

/// What was read so far, and is not told yet.
struct Read {
    stdout: LineBuffer,
    stderr: LineBuffer,
    tail: Tail,
    budget: LineBudget,
    chunk: Vec<u8>,
}

impl OutputPipe {
    /// Makes both pipes.
    ///
    /// # Errors
    ///
    /// What the system said; nothing is left behind.
    pub(crate) fn new(
        pool: &str,
        worker: u64,
        status_page: StatusPage,
        name_of: NameOf,
    ) -> io::Result<(Arc<Self>, WorkerOutputs)> {
        let (stdout, stdout_end) = descriptors::pipe()?;
        let (stderr, stderr_end) = descriptors::pipe()?;
        let source = OutputSource::Here { status_page, stdout: Arc::new(stdout), stderr: Arc::new(stderr) };
        let outputs = WorkerOutputs { stdout: stdout_end, stderr: stderr_end };
        Ok((OutputPipe::of(pool, worker, name_of, source), outputs))
    }

    /// The output of a worker on another machine.
    pub(crate) fn told(pool: &str, worker: u64, name_of: NameOf) -> Arc<Self> {
        OutputPipe::of(pool, worker, name_of, OutputSource::Reported { records: Mutex::default() })
    }

    fn of(pool: &str, worker: u64, name_of: NameOf, source: OutputSource) -> Arc<Self> {
        let read = Read {
            stdout: LineBuffer::default(),
            stderr: LineBuffer::default(),
            tail: Tail::default(),
            budget: LineBudget { until: Instant::now(), left: 0, left_out: 0 },
            chunk: Vec::new(),
        };
        let (pool, pid) = (pool.to_owned(), AtomicU32::new(0));
        Arc::new(OutputPipe { pool, worker, pid, name_of, source, read: Mutex::new(read) })
    }

    /// Whether its server tells of it.
    pub(crate) fn is_told(&self) -> bool {
        matches!(self.source, OutputSource::Reported { .. })
    }

    /// The worker's server has told of something that it printed.
    pub(crate) fn hear(&self, stderr: bool, bytes: &[u8]) {
        let stream = if stderr { OutputStream::Stderr } else { OutputStream::Stdout };
        self.take_in(stream, bytes, &mut self.read.lock());
    }

    /// The worker's server has told what it logged last.
    pub(crate) fn hear_records(&self, told: Vec<String>) {
        if let OutputSource::Reported { records } = &self.source {
            *records.lock() = told;
        }
    }

    pub(crate) fn born(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// Tells every line as it comes, until both outputs are closed.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub(crate) fn watch(self: &Arc<Self>) -> io::Result<impl Future<Output = ()> + 'static> {
        let OutputSource::Here { stdout, stderr, .. } = &self.source else {
            return Ok(OutputWatch { output: self.clone(), ends: [None, None] });
        };
        let [stdout, stderr] = [stdout, stderr].map(|end| reactor::register_shared(end.clone()));
        Ok(OutputWatch { output: self.clone(), ends: [Some(stdout?), Some(stderr?)] })
    }

    /// The last lines of the standard error, those that have just been written included.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        self.drain(CHUNKS);
        self.read.lock().tail.lines()
    }

    /// Whether any of these words were written to the standard error of late.
    pub(crate) fn said_last(&self, words: &[&str]) -> bool {
        self.drain(CHUNKS);
        self.read.lock().tail.holds(words)
    }

    /// The last records that the worker logged.
    pub(crate) fn records(&self) -> Vec<String> {
        match &self.source {
            OutputSource::Here { status_page, .. } => status_page.records(),
            OutputSource::Reported { records } => records.lock().clone(),
        }
    }

    /// The worker has ended: tells what it printed last, whole lines or not.
    pub(crate) fn finish(&self) {
        self.drain(LAST_CHUNKS);
        let mut read = self.read.lock();
        let Read { stdout, stderr, budget, .. } = &mut *read;
        stdout.end(&mut |line| self.tell(OutputStream::Stdout, line, budget));
        stderr.end(&mut |line| self.tell(OutputStream::Stderr, line, budget));
        self.tell_left_out(budget);
    }

    /// Reads what there is, at most so many chunks; whether there may be more.
    fn drain(&self, chunks: usize) -> bool {
        let mut read = self.read.lock();
        let mut more = false;
        for stream in [OutputStream::Stderr, OutputStream::Stdout] {
            more |= (0..chunks).all(|_| self.read_chunk(stream, &mut read));
        }
        more
    }

    fn read_chunk(&self, stream: OutputStream, read: &mut Read) -> bool {
        let end = match (&self.source, stream) {
            (OutputSource::Here { stdout, .. }, OutputStream::Stdout) => stdout,
            (OutputSource::Here { stderr, .. }, OutputStream::Stderr) => stderr,
            (OutputSource::Reported { .. }, _) => return false,
        };
        let mut chunk = std::mem::take(&mut read.chunk);
        chunk.clear();
        chunk.reserve(CHUNK);
        // Nothing yet, or closed, of which the reactor tells.
        let has_read = descriptors::read(end.as_fd(), &mut chunk).is_ok_and(|count| count > 0);
        if has_read {
            self.take_in(stream, &chunk, read);
        }
        read.chunk = chunk;
        has_read
    }

    fn take_in(&self, stream: OutputStream, chunk: &[u8], read: &mut Read) {
        let Read { stdout, stderr, tail, budget, .. } = read;
        let lines = match stream {
            OutputStream::Stdout => stdout,
            OutputStream::Stderr => stderr,
        };
        if stream == OutputStream::Stderr {
            tail.push(chunk);
        }
        budget.renew(Instant::now(), |budget| self.tell_left_out(budget));
        if budget.left == 0 {
            budget.left_out += lines.skip(chunk);
        } else {
            lines.push(chunk, &mut |line| self.tell(stream, line, budget));
        }
    }

    fn tell(&self, stream: OutputStream, line: &str, budget: &mut LineBudget) {
        if budget.left == 0 {
            budget.left_out += 1;
            return;
        }
        budget.left -= 1;
        let last_call = match &self.source {
            OutputSource::Here { status_page, .. } => status_page.last_call(),
            OutputSource::Reported { .. } => None,
        };
        let call = last_call.and_then(self.name_of);
        let (pool, worker) = (self.pool.as_str(), self.worker);
        let pid = self.pid.load(Ordering::Relaxed);
        if !tracing::dispatcher::has_been_set() {
            // Nobody listens to events in this program, and what was printed is not to be lost.
            eprintln!("[{pool}/{worker}] {line}");
            return;
        }
        match stream {
            OutputStream::Stdout => tracing::info!(
                target: "forkpool::worker::output", pool, worker, pid, call, stream = "stdout", "{line}"
            ),
            OutputStream::Stderr => tracing::warn!(
                target: "forkpool::worker::output", pool, worker, pid, call, stream = "stderr", "{line}"
            ),
        }
    }

    fn tell_left_out(&self, budget: &mut LineBudget) {
        let lines = std::mem::take(&mut budget.left_out);
        if lines > 0 {
            tracing::warn!(target: "forkpool::worker::output", pool = self.pool, worker = self.worker,
                pid = self.pid.load(Ordering::Relaxed), lines, "a worker printed too much: lines were left out");
        }
    }
}

/// How many more lines may be told of, and until when that holds.
struct LineBudget {
    until: Instant,
    left: u32,
    left_out: u64,
}

impl LineBudget {
    fn renew(&mut self, now: Instant, tell: impl FnOnce(&mut Self)) {
        if now >= self.until {
            self.until = now + Duration::from_secs(1);
            self.left = LINES_PER_SECOND;
            tell(self);
        }
    }
}

/// Waits for what a worker prints.
struct OutputWatch {
    output: Arc<OutputPipe>,
    /// `None` once it is closed.
    ends: [Option<AsyncFd<Arc<OwnedFd>>>; 2],
}

impl Future for OutputWatch {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut woken = false;
            for end in &mut self.ends {
                let Some(watched) = end else { continue };
                match watched.poll_read_ready(cx) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(mut guard)) => {
                        woken = true;
                        let closed = guard.ready().is_read_closed();
                        guard.clear_ready();
                        // What was written before it was closed is read below.
                        if closed {
                            *end = None;
                        }
                    }
                    Poll::Ready(Err(_)) => *end = None,
                }
            }
            if !woken {
                break;
            }
            if self.output.drain(CHUNKS) {
                // There is more, but others have their turn first.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        if self.ends.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
    }
}
