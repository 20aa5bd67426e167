//! The standard output and standard error of a worker: each line is logged with the application's `tracing`, and the
//! last lines of standard error are shown in failures.
//!
//! Both are pipes that are read here. Output is read at once however much there is, so that printing does not block the
//! worker; lines beyond a rate are counted and not logged.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;

use crate::actors::transport::watching;
use crate::channel::StatusPage;
use crate::clock::Instant;
use crate::escape;
use crate::failure::LastWords;
use crate::sys::descriptors;
use crate::wire::control::StatusSnapshot;

use super::line_buffer::{LineBuffer, Tail};
use super::teller;
use super::teller::Teller;

/// Lines of one worker that are logged within a second; lines beyond are only counted, and their number is logged.
const LINES_PER_SECOND: u32 = 1000;

/// Bytes of one read (64 KiB): the capacity of a pipe.
const CHUNK_BYTES: usize = 64 << 10;

/// Chunks of one stream that are read before other tasks get their turn.
const CHUNKS_PER_TURN: usize = 4;

/// Chunks of one stream that are read when the worker has exited. The limit is for a child that the worker left behind
/// and that goes on printing.
const MAX_FINAL_CHUNKS: usize = 64;

/// Returns the name of a call, by its number in the interface.
pub(crate) type NameOf = fn(u32) -> Option<&'static str>;

/// The stream that a worker wrote to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OutputStream {
    Stdout,
    Stderr,
}

/// The output pipes of a worker on this machine.
pub(crate) struct OutputPipes {
    stdout: OwnedFd,
    stderr: OwnedFd,
    /// The write ends, of standard output and standard error, until the worker has them.
    ends: Vec<OwnedFd>,
}

impl OutputPipes {
    /// Creates both pipes.
    ///
    /// # Errors
    ///
    /// The error of pipe2(2), for example if the process has too many open files; nothing stays open then.
    pub(crate) fn new() -> io::Result<Self> {
        let (stdout, stdout_end) = descriptors::pipe()?;
        let (stderr, stderr_end) = descriptors::pipe()?;
        Ok(OutputPipes { stdout, stderr, ends: vec![stdout_end, stderr_end] })
    }

    /// Takes the write ends, of standard output and then of standard error.
    pub(crate) fn take_ends(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.ends)
    }
}

/// The output and the last log records of one worker, and what has been read of them.
pub(crate) struct OutputPipe {
    pool: Arc<str>,
    teller: Teller,
    worker: u64,
    /// 0 until the worker has been forked.
    pid: AtomicU32,
    name_of: NameOf,
    source: OutputSource,
    read: Mutex<ReadState>,
}

/// Where a worker's output comes from.
enum OutputSource {
    /// A worker on this machine: the read ends of its pipes, and its status page.
    Local { status_page: StatusPage, stdout: Arc<OwnedFd>, stderr: Arc<OwnedFd> },
    /// A worker on another machine, whose server sends its output, and what was on its status page with its exit
    /// report.
    Remote { status: Mutex<StatusSnapshot> },
}

/// What has been read and not logged yet, and the last bytes of standard error.
struct ReadState {
    stdout: LineBuffer,
    stderr: LineBuffer,
    tail: Tail,
    budget: LineBudget,
    chunk: Vec<u8>,
}

impl OutputPipe {
    /// Makes the output of a worker on this machine, from its pipes and its status page.
    pub(crate) fn new(
        pool: &str,
        teller: Teller,
        worker: u64,
        (pipes, status_page): (OutputPipes, StatusPage),
        name_of: NameOf,
    ) -> Arc<Self> {
        let OutputPipes { stdout, stderr, .. } = pipes;
        let source = OutputSource::Local { status_page, stdout: Arc::new(stdout), stderr: Arc::new(stderr) };
        OutputPipe::of(pool, teller, worker, name_of, source)
    }

    /// Creates the output of a worker on another machine, which the worker's server sends.
    pub(crate) fn remote(pool: &str, teller: Teller, worker: u64, name_of: NameOf) -> Arc<Self> {
        OutputPipe::of(pool, teller, worker, name_of, OutputSource::Remote { status: Mutex::default() })
    }

    fn of(pool: &str, teller: Teller, worker: u64, name_of: NameOf, source: OutputSource) -> Arc<Self> {
        let read = ReadState {
            stdout: LineBuffer::default(),
            stderr: LineBuffer::default(),
            tail: Tail::default(),
            budget: LineBudget { until: Instant::now(), left: 0, left_out: 0 },
            chunk: Vec::new(),
        };
        let (pool, pid) = (Arc::from(pool), AtomicU32::new(0));
        Arc::new(OutputPipe { pool, teller, worker, pid, name_of, source, read: Mutex::new(read) })
    }

    /// Returns whether the worker is on another machine, so that its server sends its output.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.source, OutputSource::Remote { .. })
    }

    /// Takes in output that the worker's server has sent.
    pub(crate) fn receive(&self, stderr: bool, bytes: &[u8]) {
        let stream = if stderr { OutputStream::Stderr } else { OutputStream::Stdout };
        self.process(stream, bytes, &mut self.read.lock());
    }

    /// Stores what was on the status page of a worker on another machine, as its server has sent it.
    pub(crate) fn set_status(&self, received: &StatusSnapshot) {
        if let OutputSource::Remote { status } = &self.source {
            *status.lock() = received.clone();
        }
    }

    /// Stores the process id, which log events of the worker's output carry from now on.
    pub(crate) fn set_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// Logs every line as it arrives, until both pipes are closed. For a worker on another machine it is ready at once.
    ///
    /// While the system refuses to watch the pipes, they are read after short waits, so that the worker is not blocked.
    pub(crate) fn watch(self: &Arc<Self>) -> impl Future<Output = ()> + 'static {
        let output = self.clone();
        async move {
            let mut watch = OutputWatch { output: output.clone(), ends: [None, None] };
            if let OutputSource::Local { stdout, stderr, .. } = &output.source {
                for (end, pipe) in watch.ends.iter_mut().zip([stdout, stderr]) {
                    let read = || {
                        output.drain(CHUNKS_PER_TURN);
                        false
                    };
                    *end = watching::register(pipe.clone(), read).await;
                }
            }
            watch.await;
        }
    }

    /// Reads what has been written so far and returns the last lines of standard error.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        self.drain(CHUNKS_PER_TURN);
        self.read.lock().tail.lines()
    }

    /// Reads what has been written so far and returns whether the last output on standard error contains one of these
    /// texts.
    pub(crate) fn tail_contains(&self, words: &[&str]) -> bool {
        self.drain(CHUNKS_PER_TURN);
        self.read.lock().tail.contains_any(words)
    }

    /// Returns the last records that the worker logged, oldest first.
    pub(crate) fn records(&self) -> Vec<String> {
        match &self.source {
            OutputSource::Local { status_page, .. } => status_page.records(),
            OutputSource::Remote { status } => status.lock().records.clone(),
        }
    }

    /// Returns what the worker has left about its own end.
    pub(crate) fn last_words(&self) -> LastWords {
        match &self.source {
            OutputSource::Local { status_page, .. } => status_page.last_words(),
            OutputSource::Remote { status } => status.lock().last_words.clone(),
        }
    }

    /// Logs the rest of the output once the worker has exited, a last line without a line break included.
    pub(crate) fn finish(&self) {
        self.drain(MAX_FINAL_CHUNKS);
        let mut read = self.read.lock();
        let ReadState { stdout, stderr, budget, .. } = &mut *read;
        stdout.finish(&mut |line| self.log_line(OutputStream::Stdout, line, budget));
        stderr.finish(&mut |line| self.log_line(OutputStream::Stderr, line, budget));
        self.log_left_out(budget);
    }

    /// Reads what has been written, at most `chunks` chunks of each stream; returns whether there may be more.
    fn drain(&self, chunks: usize) -> bool {
        let mut read = self.read.lock();
        let mut more = false;
        for stream in [OutputStream::Stderr, OutputStream::Stdout] {
            more |= (0..chunks).all(|_| self.read_chunk(stream, &mut read));
        }
        more
    }

    /// Reads and processes one chunk; returns whether there was one.
    fn read_chunk(&self, stream: OutputStream, read: &mut ReadState) -> bool {
        let end = match (&self.source, stream) {
            (OutputSource::Local { stdout, .. }, OutputStream::Stdout) => stdout,
            (OutputSource::Local { stderr, .. }, OutputStream::Stderr) => stderr,
            (OutputSource::Remote { .. }, _) => return false,
        };
        let mut chunk = std::mem::take(&mut read.chunk);
        chunk.clear();
        chunk.reserve(CHUNK_BYTES);
        // An error or an empty read means that nothing has been written or that the pipe is closed; the reactor
        // reports which.
        let has_read = descriptors::read(end.as_fd(), &mut chunk).is_ok_and(|count| count > 0);
        if has_read {
            self.process(stream, &chunk, read);
        }
        read.chunk = chunk;
        has_read
    }

    /// Splits a chunk into lines and logs them, as far as the budget allows.
    fn process(&self, stream: OutputStream, chunk: &[u8], read: &mut ReadState) {
        let ReadState { stdout, stderr, tail, budget, .. } = read;
        let lines = match stream {
            OutputStream::Stdout => stdout,
            OutputStream::Stderr => stderr,
        };
        if stream == OutputStream::Stderr {
            tail.push(chunk);
        }
        budget.renew(Instant::now(), |budget| self.log_left_out(budget));
        if budget.left == 0 {
            budget.left_out += lines.skip(chunk);
        } else {
            lines.push(chunk, &mut |line| self.log_line(stream, line, budget));
        }
    }

    /// Logs one line, or counts it if the budget is used up.
    fn log_line(&self, stream: OutputStream, line: &str, budget: &mut LineBudget) {
        if budget.left == 0 {
            budget.left_out += 1;
            return;
        }
        budget.left -= 1;
        let last_call = match &self.source {
            OutputSource::Local { status_page, .. } => status_page.last_call(),
            OutputSource::Remote { .. } => None,
        };
        let call = last_call.and_then(self.name_of);
        let (pool, worker, line) = (self.pool.clone(), self.worker, line.to_owned());
        let pid = self.pid.load(Ordering::Relaxed);
        self.teller.tell(move || {
            let pool = &*pool;
            // Without a subscriber in the program an event would be lost, so the line is printed.
            let printed = || format!("[{pool}/{worker}] {}", escape::printable(&line));
            teller::print_or(printed, || match stream {
                OutputStream::Stdout => tracing::info!(
                    target: "forkpool::worker::output", pool, worker, pid, call, stream = "stdout", "{line}"
                ),
                OutputStream::Stderr => tracing::warn!(
                    target: "forkpool::worker::output", pool, worker, pid, call, stream = "stderr", "{line}"
                ),
            });
        });
    }

    /// Logs how many lines were left out, if any were.
    fn log_left_out(&self, budget: &mut LineBudget) {
        let lines = std::mem::take(&mut budget.left_out);
        if lines > 0 {
            let (pool, worker, pid) = (self.pool.clone(), self.worker, self.pid.load(Ordering::Relaxed));
            self.teller.tell(move || {
                tracing::warn!(target: "forkpool::worker::output", pool = &*pool, worker, pid, lines,
                    "a worker printed too much: lines were left out");
            });
        }
    }
}

/// How many more lines may be logged in the current second.
struct LineBudget {
    /// The end of the current second.
    until: Instant,
    left: u32,
    /// Lines that were left out and not reported yet.
    left_out: u64,
}

impl LineBudget {
    /// Starts a new second, if the current one is over, and reports the lines left out in it.
    fn renew(&mut self, now: Instant, log_left_out: impl FnOnce(&mut Self)) {
        if now >= self.until {
            self.until = now + Duration::from_secs(1);
            self.left = LINES_PER_SECOND;
            log_left_out(self);
        }
    }
}

/// Reads and logs a worker's output whenever there is some.
struct OutputWatch {
    output: Arc<OutputPipe>,
    /// The read ends; `None` once a pipe is closed.
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
                        // What was written before the pipe was closed is read below.
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
            if self.output.drain(CHUNKS_PER_TURN) {
                // There may be more, but other tasks get their turn first.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        if self.ends.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;
    use crate::sys::reactor;

    /// G2
    #[test]
    fn output_is_read_although_the_system_refuses_to_watch_it() {
        actix_rt::System::new().block_on(async {
            let (status_page, _memory) = StatusPage::create().expect("a page");
            let teller = Teller::here().expect("a thread");
            let mut pipes = OutputPipes::new().expect("pipes");
            let stderr_end = pipes.take_ends().pop().expect("two ends");
            let output = OutputPipe::new("pool", teller, 1, (pipes, status_page), |_| None);
            let OutputSource::Local { stderr, .. } = &output.source else { panic!("it is local") };
            // The same pipe cannot be registered twice.
            let _refused = reactor::register_shared(stderr.clone()).expect("a registration");
            drop(actix_rt::spawn(output.watch()));
            let more_than_a_pipe_holds = vec![b'.'; 3 * CHUNK_BYTES];
            let writer =
                std::thread::spawn(move || File::from(stderr_end).write_all(&more_than_a_pipe_holds));
            while !writer.is_finished() {
                actix_rt::time::sleep(Duration::from_millis(1)).await;
            }
            writer.join().expect("no panic").expect("all is written");
        });
    }
}
