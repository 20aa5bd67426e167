//! One run of a scenario: a process, its watchdog, and what it leaves.

use std::fmt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{environment_of, runs, signal};
use crate::scenarios;
use rustix::process::Signal;

/// How long a scenario may take. It bounds its own waits at a third of this.
const LIMIT: Duration = Duration::from_secs(60);

/// How long its processes may stay once it has ended.
const EXIT_LIMIT: Duration = Duration::from_secs(10);

/// A kernel call of a process of one role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub role: String,
    pub call: String,
    pub number: u32,
}

/// A scenario over one transport, in which a call fails.
#[derive(Clone, Debug)]
pub struct Run {
    pub scenario: &'static str,
    pub transport: &'static str,
    pub point: Point,
    pub error: &'static str,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { scenario, transport, point: Point { role, call, number }, error } = self;
        write!(f, "{scenario}:{transport}:{role}:{call}:{number}:{error}")
    }
}

/// What came of a run.
pub struct Outcome {
    /// Whether the call was reached, so that it failed.
    pub fired: bool,
    pub output: String,
    /// Which promise was broken.
    pub broken: Option<String>,
}

impl Run {
    /// Plays the scenario and has the call fail.
    pub fn play(&self) -> Outcome {
        let files = Files::new();
        std::fs::write(files.path("once"), "").expect("a file");
        let Point { role, call, number } = &self.point;
        let fault = format!("{role}:{call}:{number}:{}:{}", self.error, files.path("once").display());
        let (broken, output) = play(self.scenario, self.transport, ("FORKPOOL_FAULT", &fault), &files);
        Outcome { fired: !files.path("once").exists(), output, broken }
    }
}

/// Plays the scenario without a fault, and returns the calls that it made.
pub fn count(scenario: &str, transport: &str) -> Vec<Point> {
    let files = Files::new();
    let path = files.path("count").display().to_string();
    let (broken, output) = play(scenario, transport, ("FORKPOOL_FAULT_COUNT", &path), &files);
    assert!(broken.is_none(), "{scenario}:{transport} without a fault: {broken:?}\n{output}");
    let text = std::fs::read_to_string(files.path("count")).expect("the calls");
    let point = |line: &str| {
        let mut words = line.split(' ');
        let (role, call) = (words.next()?.to_owned(), words.next()?.to_owned());
        Some(Point { role, call, number: words.next()?.parse().ok()? })
    };
    text.lines().map(|line| point(line).expect("a role, a call and a number")).collect()
}

/// Plays a scenario with this variable, which marks all of its processes. Returns which promise was broken, and what
/// the scenario printed.
fn play(
    scenario: &str,
    transport: &str,
    (name, value): (&str, &str),
    files: &Files,
) -> (Option<String>, String) {
    let output = std::fs::File::create(files.path("output")).expect("a file");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let transport = if transport == "rings" { "shared-memory" } else { transport };
    command
        .env(scenarios::SCENARIO, scenario)
        .env(scenarios::ADDRESS, files.path("sock"))
        .env("FORKPOOL_TEST_TRANSPORT", transport)
        .env("RUST_BACKTRACE", "0")
        .env(name, value)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a descriptor"))
        .stderr(output)
        .process_group(0);
    let mark = format!("{name}={value}");
    let mut child = command.spawn().expect("this program starts again");
    let ended = ends(&mut child);
    let mut broken = match ended {
        None => Some("did not end".to_owned()),
        Some(status) if !status.success() => Some(format!("ended with {status}")),
        Some(_) => None,
    };
    if broken.is_none() && !wait_until_gone(&mark) {
        let left: Vec<String> = family(&mark).into_iter().map(crate::harness::args).collect();
        broken = Some(format!("left processes: {left:?}"));
    }
    // Only processes that have the mark of this very run.
    family(&mark).into_iter().for_each(|pid| signal(pid, Signal::KILL));
    let _ = child.wait();
    (broken, std::fs::read_to_string(files.path("output")).unwrap_or_default())
}

fn ends(child: &mut Child) -> Option<ExitStatus> {
    let limit = Instant::now() + LIMIT;
    while Instant::now() < limit {
        if let Some(status) = child.try_wait().expect("a child") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

fn wait_until_gone(mark: &str) -> bool {
    let limit = Instant::now() + EXIT_LIMIT;
    while !family(mark).is_empty() {
        if Instant::now() >= limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// The processes that run with this entry in their environment.
fn family(mark: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|&pid| environment_of(pid).contains(mark) && runs(pid)).collect()
}

/// The files of one run, which are removed with it.
struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("forkpool-sweep-{}-{number}", std::process::id()));
        std::fs::create_dir(&directory).expect("a directory in the temporary directory");
        Files(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
