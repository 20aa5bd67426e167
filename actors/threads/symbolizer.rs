//! Finds the names of functions for the backtraces of panics, on a thread that ends when it has nothing to do.
//!
//! The first name costs a hundred milliseconds, since the debug information of the program is read for it; that stays in
//! memory, as it does after a panic of the application itself. An arbiter must not stand still for that long, so a
//! failure waits here before its call is answered.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::real_time::within;
use crate::escape;
use crate::failure::{BacktraceStyle, Failure, LONGEST_BACKTRACE, MAX_FRAMES, RawBacktrace, RawFrame};
use crate::sys::stack::{CodeObject, code_objects};
use crate::user_code::caught;
use crate::wire::frame;

/// How long a call waits for the names at most (10 s). Debug information may be on a file system that does not answer.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Frames between these two, by a part of their names, are those of user code; the standard library has them for that.
const BEGIN: &str = "__rust_begin_short_backtrace";
const END: &str = "__rust_end_short_backtrace";

struct Job {
    failure: Failure,
    done: oneshot::Sender<Failure>,
}

/// What the thread has to do, and whether there is one.
struct Jobs {
    waiting: VecDeque<Job>,
    has_thread: bool,
}

static JOBS: Mutex<Jobs> = Mutex::new(Jobs { waiting: VecDeque::new(), has_thread: false });

/// Returns the failure with the texts of its backtraces.
pub(crate) async fn resolved(failure: Failure) -> Failure {
    if !failure.has_raw_backtrace() {
        return failure;
    }
    resolve(failure.clone()).await.unwrap_or_else(|_| without_names(failure))
}

/// Returns the same after a bounded wait; a backtrace without names shows places in files.
pub(crate) async fn resolved_soon(failure: Failure) -> Failure {
    let answer = within(LONGEST_WAIT, resolve(failure.clone())).await;
    answer.and_then(Result::ok).unwrap_or_else(|| without_names(failure))
}

fn without_names(failure: Failure) -> Failure {
    failure.with_backtraces(&RawBacktrace::unresolved)
}

/// Queues a failure. The sender is dropped if the system has no thread.
fn resolve(failure: Failure) -> oneshot::Receiver<Failure> {
    let (done, answer) = oneshot::channel();
    let mut jobs = JOBS.lock();
    jobs.waiting.push_back(Job { failure, done });
    if !jobs.has_thread {
        jobs.has_thread = thread::Builder::new().name("forkpool-names".to_owned()).spawn(run).is_ok();
    }
    if !jobs.has_thread {
        jobs.waiting.clear();
    }
    answer
}

fn run() {
    while let Some(Job { failure, done }) = next_job() {
        if let Some(failure) = caught(|| failure.with_backtraces(&text)) {
            // Its call may have been given up.
            let _ = done.send(failure);
        }
    }
}

/// Takes the next job. Without one the thread ends: the next job starts another one.
fn next_job() -> Option<Job> {
    let mut jobs = JOBS.lock();
    let job = jobs.waiting.pop_front();
    jobs.has_thread = job.is_some();
    job
}

/// Returns the text of a backtrace, with the names of the functions in objects that are loaded here.
fn text(raw: &RawBacktrace) -> String {
    let objects = code_objects(|_| true);
    let frames: Vec<ResolvedFrame> =
        raw.frames.iter().take(MAX_FRAMES).map(|&frame| resolve_frame(raw, frame, &objects)).collect();
    let shown = if raw.style == BacktraceStyle::Full { &frames } else { of_user_code(&frames) };
    let directory = (raw.style == BacktraceStyle::Short).then(std::env::current_dir).and_then(Result::ok);
    let mut text = String::new();
    for (number, frame) in shown.iter().enumerate() {
        if frame.names.is_empty() {
            raw.write_unresolved(frame.frame, number, &mut text);
        }
        for (at, name) in frame.names.iter().enumerate() {
            name.write((at == 0).then_some(number), raw.style, directory.as_deref(), &mut text);
        }
        if text.len() > LONGEST_BACKTRACE {
            break;
        }
    }
    frame::cut(text, LONGEST_BACKTRACE)
}

/// A frame with the functions that it belongs to: one, and those that were inlined into it before it.
struct ResolvedFrame {
    frame: RawFrame,
    names: Vec<Name>,
}

/// A function, and the place in its source.
struct Name {
    /// As the linker knows it, for the marks of the standard library.
    mangled: String,
    short: String,
    full: String,
    file: Option<PathBuf>,
    line: Option<u32>,
    column: Option<u32>,
}

fn resolve_frame(raw: &RawBacktrace, frame: RawFrame, objects: &[CodeObject]) -> ResolvedFrame {
    let address = raw
        .place(frame)
        .and_then(|(object, offset)| objects.iter().find(|loaded| loaded.is(object))?.address_of(offset));
    let mut names = Vec::new();
    if let Some(address) = address {
        // It expects the address behind the call.
        let behind = std::ptr::without_provenance_mut::<c_void>(address.wrapping_add(1));
        backtrace::resolve(behind, |symbol| {
            let Some(name) = symbol.name() else { return };
            names.push(Name {
                mangled: name.as_str().unwrap_or_default().to_owned(),
                short: format!("{name:#}"),
                full: name.to_string(),
                file: symbol.filename().map(Path::to_owned),
                line: symbol.lineno(),
                column: symbol.colno(),
            });
        });
    }
    ResolvedFrame { frame, names }
}

/// Returns the frames of user code; all where the names do not show which these are.
fn of_user_code(frames: &[ResolvedFrame]) -> &[ResolvedFrame] {
    let is = |frame: &ResolvedFrame, mark: &str| frame.names.iter().any(|name| name.mangled.contains(mark));
    let first = frames.iter().rposition(|frame| is(frame, END)).map_or(0, |at| at + 1);
    let rest = &frames[first..];
    let length = rest.iter().position(|frame| is(frame, BEGIN)).unwrap_or(rest.len());
    &rest[..length]
}

impl Name {
    fn write(
        &self,
        number: Option<usize>,
        style: BacktraceStyle,
        directory: Option<&Path>,
        out: &mut String,
    ) {
        let name = if style == BacktraceStyle::Full { &self.full } else { &self.short };
        // Writing to a string does not fail.
        let _ = match number {
            Some(number) => writeln!(out, "{number:4}: {}", escape::one_line(name)),
            None => writeln!(out, "      {}", escape::one_line(name)),
        };
        let Some(file) = &self.file else { return };
        let inside = directory.and_then(|directory| file.strip_prefix(directory).ok());
        let file = match inside {
            Some(inside) => format!("./{}", inside.display()),
            None => file.display().to_string(),
        };
        let _ = write!(out, "             at {}", escape::one_line(&file));
        for number in [self.line, self.column].into_iter().flatten() {
            let _ = write!(out, ":{number}");
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{FailureKind, PanicReport, RawObject};
    use crate::sys::stack::Stack;

    fn failure_with(raw: RawBacktrace) -> Failure {
        let report = PanicReport { backtrace: raw.encode(), ..PanicReport::new("no".to_owned(), None) };
        Failure::of(FailureKind::Panic, "").with_panic(report.received(BacktraceStyle::Short))
    }

    fn here(style: BacktraceStyle) -> RawBacktrace {
        RawBacktrace { style, ..Stack::capture().places() }
    }

    fn backtrace_of(failure: &Failure) -> &str {
        failure.panic().map_or("", |report| &report.backtrace)
    }

    /// G9
    #[actix::test]
    async fn names_and_lines_are_found_on_a_thread_also_in_causes() {
        let inner = failure_with(here(BacktraceStyle::Full));
        let outer = Failure::of(FailureKind::Timeout, "").caused_by(inner);
        let outer = resolved_soon(outer).await;
        assert!(!outer.has_raw_backtrace());
        let source = std::error::Error::source(&outer).and_then(|source| source.downcast_ref::<Failure>());
        let text = backtrace_of(source.expect("a cause"));
        assert!(text.contains("symbolizer::tests::here") && text.contains("symbolizer.rs:"), "{text}");
        let both = futures_of_two(here(BacktraceStyle::Short)).await;
        assert!(both.iter().all(|failure| backtrace_of(failure).contains("symbolizer")), "{both:?}");
        assert_eq!(JOBS.lock().waiting.len(), 0);
    }

    async fn futures_of_two(raw: RawBacktrace) -> [Failure; 2] {
        let (one, other) = (resolve(failure_with(raw.clone())), resolve(failure_with(raw)));
        [one.await.expect("an answer"), other.await.expect("an answer")]
    }

    /// G8, G9
    #[test]
    fn a_frame_of_an_object_that_is_not_here_is_shown_as_path_and_offset() {
        let foreign = RawObject { path: "/opt/\x1b[31mother".to_owned(), build_id: vec![7; 20], layout: 1 };
        let frames = vec![RawFrame { object: Some(0), offset: 0x1234 }];
        let raw = RawBacktrace { style: BacktraceStyle::Short, objects: vec![foreign], frames };
        assert_eq!(text(&raw), "   0: /opt/\\u{1b}[31mother+0x1234\n");
    }

    /// G9
    #[test]
    fn the_short_form_shows_what_lies_between_the_marks() {
        let frame = |mangled: &str| ResolvedFrame {
            frame: RawFrame { object: None, offset: 0 },
            names: vec![Name {
                mangled: mangled.to_owned(),
                short: String::new(),
                full: String::new(),
                file: None,
                line: None,
                column: None,
            }],
        };
        let frames = ["hook", END, "panic", "user", "user_too", BEGIN, "loop", BEGIN, "main"].map(frame);
        let names = |frames: &[ResolvedFrame]| -> Vec<String> {
            frames.iter().map(|frame| frame.names[0].mangled.clone()).collect()
        };
        assert_eq!(names(of_user_code(&frames)), ["panic", "user", "user_too"]);
        assert_eq!(names(of_user_code(&frames[..1])), ["hook"]);
    }
}
