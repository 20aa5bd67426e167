//! What other processes are and hold, as `/proc` tells it, and this test program run once more as another one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// The letter of a process's state, as `ps -o stat` begins; `None` once it is gone.
pub fn state(pid: u32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

/// The group of a process; `None` if it is gone, or if the group has no number in this namespace.
pub fn group_of(pid: u32) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(stat(pid)?.get(2)?.parse().ok()?)
}

/// Whether the process exists and has not ended: a zombie has.
pub fn runs(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The process's parent.
pub fn parent(pid: u32) -> u32 {
    stat(pid).and_then(|fields| fields.get(1)?.parse().ok()).unwrap_or(0)
}

/// The process's group.
pub fn group(pid: u32) -> u32 {
    stat(pid).and_then(|fields| fields.get(2)?.parse().ok()).unwrap_or(0)
}

/// The number of the process's controlling terminal; 0 if it has none.
pub fn terminal(pid: u32) -> u32 {
    stat(pid).and_then(|fields| fields.get(4)?.parse().ok()).expect("a process")
}

/// The fields of `/proc/PID/stat` from the third on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// How many threads the process has.
pub fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().count()
}

/// Open descriptors of a process and what they are.
pub fn descriptors_of(pid: u32) -> BTreeMap<i32, String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, entry.path().read_link().ok()?.to_string_lossy().into_owned()))
        })
        .collect()
}

/// The environment of a process as it lies in its memory: one `NAME=value` each.
pub fn environment_of(pid: u32) -> BTreeSet<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let entries = bytes.split(|&byte| byte == 0).filter(|entry| !entry.is_empty());
    entries.map(|entry| String::from_utf8_lossy(entry).into_owned()).collect()
}

/// The signals that wait for a process, and those that it blocks, ignores and handles: `ShdPnd`, `SigBlk`, `SigIgn` and
/// `SigCgt`, a bit for each from signal 1 on.
pub fn signal_masks(pid: u32) -> BTreeMap<&'static str, u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = |name: &'static str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        (name, line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).expect("a mask"))
    };
    ["ShdPnd", "SigBlk", "SigIgn", "SigCgt"].into_iter().map(mask).collect()
}

/// How much likelier the out-of-memory killer takes the process than its size says.
pub fn oom_score(pid: u32) -> i32 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("a score");
    text.trim().parse().expect("a number")
}

/// A size in `/proc/PID/status`, such as `VmData`, in bytes.
pub fn memory_of(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// A path that nobody else uses, in the temporary directory unless it is to be elsewhere; whatever is there is removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A path at which nothing is yet.
    pub fn path() -> Self {
        Scratch::within(&std::env::temp_dir())
    }

    /// The same beside a file, on the same disk.
    pub fn beside(file: &Path) -> Self {
        Scratch::within(file.parent().expect("the directory of a file"))
    }

    fn within(directory: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Scratch(directory.join(format!("forkpool-scratch-{}-{number}", std::process::id())))
    }

    /// An empty file.
    pub fn file() -> Self {
        let scratch = Scratch::path();
        std::fs::write(&scratch.0, "").expect("a file in the temporary directory");
        scratch
    }

    pub fn get(&self) -> &Path {
        &self.0
    }

    /// As a field of `Setup` wants it.
    pub fn some(&self) -> Option<PathBuf> {
        Some(self.0.clone())
    }

    pub fn remove(&self) {
        let _ = std::fs::remove_file(&self.0);
    }

    /// The lines of a journal at this path.
    pub fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.remove();
        DROPPED.lock().unwrap_or_else(PoisonError::into_inner).push(self.0.clone());
    }
}

static DROPPED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes what workers wrote to a scratch path after it was dropped; to be called once they are gone.
pub fn sweep() {
    for path in DROPPED.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let _ = std::fs::remove_file(path);
    }
}

/// The variable that tells one of this program's tests that it is to be an application, and how to behave.
const ROLE: &str = "FORKPOOL_TEST_ROLE";

/// The role this process was started in by [`Application::start`], if it was.
pub fn role() -> Option<String> {
    let role = std::env::var(ROLE).ok()?;
    role.split('/').next().map(str::to_owned)
}

/// Has programs that this one starts heed SIGHUP, although it is ignored here, as under `nohup`: a handler is not inherited.
fn let_heed_hang_ups() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        if ignored & 1 != 0 {
            signal_hook::flag::register(signal_hook::consts::SIGHUP, Default::default()).expect("a handler");
        }
    });
}

/// A user with no rights, and the group of that number.
pub const NOBODY: u32 = 65534;

/// This test program run once more, as an application of its own that may be killed.
pub struct Application {
    child: Child,
    /// An entry of its environment that it shares with whatever it starts, and with nothing else.
    mark: String,
    /// `None` once it was closed.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// What it and its processes print as errors, shown when a test fails; `None` where the test reads that itself.
    errors: Option<File>,
}

impl Application {
    /// Runs one ignored test of this program in a role.
    pub fn start(test: &str, role: &str) -> Self {
        Application::start_from(&std::env::current_exe().expect("this program"), test, role)
    }

    /// As [`start`](Self::start), from a copy of the program.
    pub fn start_from(program: &Path, test: &str, role: &str) -> Self {
        Self::spawn(&mut Command::new(program), test, role)
    }

    /// As [`start_from`](Self::start_from), by another program that executes that one: a dynamic linker.
    pub fn start_through(interpreter: &Path, program: &Path, test: &str, role: &str) -> Self {
        Self::spawn(Command::new(interpreter).arg(program), test, role)
    }

    /// As [`start`](Self::start), by another program with these arguments before this program's path.
    pub fn start_within(words: &[&str], test: &str, role: &str) -> Self {
        let program = std::env::current_exe().expect("this program");
        let (first, rest) = words.split_first().expect("a program");
        Self::spawn(Command::new(first).args(rest).arg(program), test, role)
    }

    /// As [`start`](Self::start), in the foreground of a terminal of its own: this process is the terminal, and is closed
    /// when it is killed. `settings` are those of `stty`. `None` where there is no program that makes terminals.
    pub fn at_a_terminal(settings: &str, test: &str, role: &str) -> Option<Self> {
        Command::new("script").arg("--version").stdout(Stdio::null()).status().ok()?;
        // A shell cannot heed a signal that was ignored when it started, as SIGHUP is under `nohup`.
        let heeds = ["env", "--default-signal=HUP,INT,TERM", "sh", "-c"];
        let probe = Command::new(heeds[0]).args([heeds[1], "true"]).stderr(Stdio::null()).status().ok()?;
        probe.success().then_some(())?;
        // A shell leads the session, as after a login: it ends when the terminal closes, and outlives Ctrl-C.
        let line = format!("exec script -qefc \"stty {settings}; trap : INT; $0 $*; exit \\$?\" /dev/null");
        Some(Self::start_within(&[&heeds[..], &[&line]].concat(), test, role))
    }

    /// As [`start`](Self::start), with this standard error.
    pub fn start_with_stderr(stderr: impl Into<Stdio>, test: &str, role: &str) -> Self {
        let program = std::env::current_exe().expect("this program");
        Self::spawn_with(Command::new(program).stderr(stderr), None, test, role)
    }

    /// As [`start`](Self::start), with these variables in its environment, or without them.
    pub fn start_with_variables(variables: &[(&str, Option<&str>)], test: &str, role: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        for (name, value) in variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Self::spawn(&mut command, test, role)
    }

    /// As [`start`](Self::start), as another user and a member of the group of the same number.
    pub fn start_as(user: u32, test: &str, role: &str) -> Self {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        Self::spawn(command.uid(user).gid(user), test, role)
    }

    fn spawn(command: &mut Command, test: &str, role: &str) -> Self {
        let errors = rustix::fs::memfd_create("errors", rustix::fs::MemfdFlags::CLOEXEC).expect("a file");
        let errors = File::from(errors);
        let shared = errors.try_clone().expect("a descriptor");
        Self::spawn_with(command.stderr(shared), Some(errors), test, role)
    }

    fn spawn_with(command: &mut Command, errors: Option<File>, test: &str, role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let_heed_hang_ups();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let role = format!("{role}/{}/{number}", std::process::id());
        let mark = format!("{ROLE}={role}");
        let mut child = command
            .args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts again");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Application { child, mark, input, output, errors }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whatever of it runs: itself, and all it has started, whoever is their parent now.
    pub fn family(&self) -> Vec<u32> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|&pid| environment_of(pid).contains(&self.mark) && runs(pid)).collect()
    }

    /// The same without the children that its servers have parked.
    pub fn workforce(&self) -> Vec<u32> {
        self.family().into_iter().filter(|&pid| !super::is_parked(pid)).collect()
    }

    /// Tells the application to go on.
    pub fn go_on(&mut self) {
        let input = self.input.as_mut().expect("it is open");
        writeln!(input, "go on").expect("the application listens");
    }

    /// Presses keys at its terminal, see [`at_a_terminal`](Self::at_a_terminal).
    pub fn press(&mut self, keys: &str) {
        let input = self.input.as_mut().expect("it is open");
        input.write_all(keys.as_bytes()).and_then(|()| input.flush()).expect("the terminal takes it");
    }

    /// Tells the application that it will be told no more.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// The rest of the next line that it prints with this mark at its beginning.
    ///
    /// # Panics
    ///
    /// If it ends without such a line.
    pub fn says(&mut self, mark: &str) -> String {
        self.says_either("\0", mark).expect("it cannot be the other")
    }

    /// Which of two marks comes first: `None` for the one, and what is behind the other.
    ///
    /// # Panics
    ///
    /// If it ends without a line that has one of them, or says nothing at all for [`PATIENCE`].
    pub fn says_either(&mut self, one: &str, mark: &str) -> Option<String> {
        let (mut line, mut heard) = (String::new(), String::new());
        while self.next_line(&mut line, mark) > 0 {
            // The first one may stand behind what the test harness printed without ending its line.
            if let Some((_, rest)) = line.split_once(mark) {
                return Some(rest.trim().to_owned());
            }
            if line.contains(one) {
                return None;
            }
            heard.push_str(&line);
            line.clear();
        }
        panic!("the application ended without saying {mark:?}: {heard}");
    }

    /// As [`says`](Self::says), for something that it says because of what happens in this process meanwhile.
    ///
    /// # Panics
    ///
    /// If it ends without such a line, or after [`PATIENCE`].
    pub async fn tells(&mut self, mark: &str) -> String {
        let patience = Instant::now() + PATIENCE;
        while self.output.buffer().is_empty() && !self.has_spoken(Duration::ZERO) {
            assert!(Instant::now() < patience, "still waiting for the application to say {mark:?}");
            actix_rt::time::sleep(Duration::from_millis(1)).await;
        }
        let mut line = String::new();
        assert!(self.next_line(&mut line, mark) > 0, "the application ended without saying {mark:?}");
        match line.split_once(mark) {
            Some((_, rest)) => rest.trim().to_owned(),
            None => Box::pin(self.tells(mark)).await,
        }
    }

    /// Waits until it says anything, for at most this long: what runs it may take its time to begin.
    pub fn begins_within(&self, patience: Duration) {
        self.has_spoken(patience);
    }

    /// From now on what it says is read and dropped, so that it never waits for somebody to read it.
    pub fn is_not_listened_to(&mut self) {
        let (silence, _) = std::io::pipe().expect("a pipe");
        let silence = BufReader::new(ChildStdout::from(std::os::fd::OwnedFd::from(silence)));
        let mut output = std::mem::replace(&mut self.output, silence);
        // It ends with the application.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    }

    fn has_spoken(&self, within: Duration) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let within = Timespec::try_from(within).expect("a short time");
        poll(&mut [PollFd::new(self.output.get_ref(), PollFlags::IN)], Some(&within)).expect("a pipe") == 1
    }

    fn next_line(&mut self, line: &mut String, wanted: &str) -> usize {
        while !line.ends_with('\n') {
            let is_there = !self.output.buffer().is_empty() || self.has_spoken(PATIENCE);
            assert!(is_there, "still waiting for the application to say {wanted:?}");
            let available = self.output.fill_buf().expect("what it says");
            if available.is_empty() {
                break;
            }
            let end = available.iter().position(|&byte| byte == b'\n').map_or(available.len(), |at| at + 1);
            line.push_str(&String::from_utf8_lossy(&available[..end]));
            self.output.consume(end);
        }
        line.len()
    }

    /// Kills it with SIGKILL and does not wait.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    ///
    /// After [`PATIENCE`].
    pub fn ends(&mut self) -> ExitStatus {
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < patience, "the application does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(errors) = self.errors.as_ref().filter(|_| std::thread::panicking()) {
            let mut start = vec![0; 16 << 10];
            let count = errors.read_at(&mut start, 0).unwrap_or(0);
            eprintln!("an application of this test printed:\n{}", String::from_utf8_lossy(&start[..count]));
        }
    }
}

/// Waits, in an application, until the test tells it to go on or is gone.
pub fn wait_to_go_on() {
    let _ = std::io::stdin().read_line(&mut String::new());
}
