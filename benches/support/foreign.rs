//! Other pools of processes, and other ways to call one.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use ipc_channel::ipc::{IpcOneShotServer, IpcReceiver, IpcSender};

use super::{Setting, pin, this_program};

/// What [`echo`](super::echo) carries.
fn text() -> String {
    super::echo().0
}

/// A procspawn pool of one process.
#[derive(Debug)]
pub struct Procspawn(procspawn::Pool);

impl Procspawn {
    pub fn start(setting: Setting) -> Self {
        let before = children();
        let pool = Procspawn(procspawn::Pool::new(1).expect("a pool"));
        pool.call();
        children().difference(&before).for_each(|&pid| place_all(setting, pid));
        pool
    }

    /// There and back, once.
    pub fn call(&self) {
        let call = procspawn::spawn!(in self.0, (text() => text) || text);
        assert_eq!(call.join().expect("an answer"), text());
    }
}

impl Drop for Procspawn {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

/// The part of this program that sends back what comes by channels whose names it is told.
pub(super) fn play_ipc(name: &str) {
    let (there, calls) = ipc_channel::ipc::channel::<String>().expect("a channel");
    let (answers, back) = ipc_channel::ipc::channel::<String>().expect("a channel");
    let hello = IpcSender::connect(name.to_owned()).expect("somebody waits");
    hello.send((there, back)).expect("somebody waits");
    while let Ok(text) = calls.recv() {
        answers.send(text).expect("somebody waits");
    }
}

/// A process behind two channels of ipc-channel.
#[derive(Debug)]
pub struct IpcChannel {
    process: Child,
    there: Option<IpcSender<String>>,
    back: IpcReceiver<String>,
}

impl IpcChannel {
    pub fn start(setting: Setting) -> Self {
        let (server, name) = IpcOneShotServer::new().expect("a name");
        let mut command = Command::new(this_program());
        let process = command.arg(format!("{}ipc {name}", super::peers::PART)).stdin(Stdio::null()).spawn();
        let process = process.expect("this program can be executed again");
        let (_, (there, back)) = server.accept().expect("it comes");
        place_all(setting, process.id());
        IpcChannel { process, there: Some(there), back }
    }

    /// There and back, once.
    pub fn call(&self) {
        let there = self.there.as_ref().expect("it is dropped last");
        there.send(text()).expect("the process is there");
        assert_eq!(self.back.recv().expect("an answer"), text());
    }
}

impl Drop for IpcChannel {
    fn drop(&mut self) {
        // It ends with this end of the channel.
        self.there = None;
        self.process.wait().expect("the child is ours");
    }
}

/// A pool of another language's: a program that makes so many calls for each line it hears, one after the other, and
/// says how many seconds they took.
#[derive(Debug)]
pub struct Script {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Script {
    /// Starts `program` with a script of `benches/peers`; `None` where there is no such program.
    ///
    /// It is placed as a whole, where the peers are: with one thread or process of it on each side it would be only part
    /// of it that is where it should be.
    pub fn start(program: &str, script: &str) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(script);
        let mut command = Command::new(program);
        let mut process = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let (input, output) = (process.stdin.take(), process.stdout.take()?);
        let mut script = Script { process, input, output: BufReader::new(output) };
        script.calls(10)?;
        Some(script)
    }

    /// Seconds for each of so many calls; `None` where it has ended.
    pub fn calls(&mut self, count: usize) -> Option<f64> {
        writeln!(self.input.as_mut()?, "{count}").ok()?;
        let mut line = String::new();
        self.output.read_line(&mut line).ok()?;
        line.trim().parse::<f64>().ok().map(|seconds| seconds / count as f64)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.input = None;
        // It ends with its input.
        self.process.wait().expect("the child is ours");
    }
}

/// The processes that this one has started.
fn children() -> BTreeSet<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let text: String = lists.collect();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Puts all threads of a process where this placement wants peers.
fn place_all(setting: Setting, pid: u32) {
    let Some(processor) = setting.peers else { return };
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let threads = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
    threads.for_each(|thread| pin(Some(thread), processor));
}
