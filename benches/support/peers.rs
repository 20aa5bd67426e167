//! Peers that are processes of their own: this program once more, playing a part.
//!
//! Their conversation with the benchmark is bytes over socket pairs and blocking calls, which is as little as
//! there can be: they are the limits that the pool is measured against.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forkpool::Server;
use rustix::process::{Signal, WaitOptions, kill_process, waitpid};

use super::placement::process_id;
use super::{Apprentice, Setting, this_program};

/// A part to play, as an argument.
pub(super) const PART: &str = "--part=";

/// Bytes of one ping.
const PING: usize = 64;

/// Plays the part in this process.
pub(super) fn play(part: &str) {
    if let Some(name) = part.strip_prefix("ipc ") {
        return super::foreign::play_ipc(name);
    }
    if part == "pipe" {
        return play_pipe();
    }
    let stream = UnixStream::from(copy_of(std::io::stdin().as_fd()));
    #[cfg(feature = "iceoryx2")]
    if let Some(part) = part.strip_prefix("iceoryx2 ") {
        return super::iceoryx::play(part, &stream);
    }
    match part {
        "echo" => play_echo(stream),
        "server" => play_server(stream),
        "byte" => say(&stream),
        "sleep" => play_sleep(&stream),
        "hog" => play_hog(&stream),
        "listen" => play_listener(&stream),
        _ => eprintln!("there is no part {part}"),
    }
}

fn copy_of(descriptor: std::os::fd::BorrowedFd<'_>) -> OwnedFd {
    descriptor.try_clone_to_owned().expect("a descriptor is free")
}

/// Says one byte.
pub(super) fn say(mut stream: &UnixStream) {
    stream.write_all(b"1").expect("the other end is open");
}

/// Waits for one byte; `false` at the end.
pub(super) fn hear(mut stream: &UnixStream) -> bool {
    stream.read(&mut [0]).expect("the stream can be read") == 1
}

fn play_echo(mut stream: UnixStream) {
    let mut bytes = [0; PING];
    while stream.read_exact(&mut bytes).is_ok() {
        stream.write_all(&bytes).expect("the other end is open");
    }
}

/// The same between a pipe for standard input and one for standard output.
fn play_pipe() {
    let mut input = PipeReader::from(copy_of(std::io::stdin().as_fd()));
    let mut output = PipeWriter::from(copy_of(std::io::stdout().as_fd()));
    let mut bytes = [0; PING];
    while input.read_exact(&mut bytes).is_ok() {
        output.write_all(&bytes).expect("the other end is open");
    }
}

/// Forks for every byte it hears. The child's first byte goes to the socket that stands in place of standard
/// output; once the child was reaped, the server says so.
fn play_server(stream: UnixStream) {
    let births = UnixStream::from(copy_of(std::io::stdout().as_fd()));
    while hear(&stream) {
        match fork::fork().expect("a process can be forked") {
            fork::Fork::Child => {
                say(&births);
                std::process::exit(0);
            }
            fork::Fork::Parent(pid) => {
                let pid = rustix::process::Pid::from_raw(pid);
                waitpid(pid, WaitOptions::empty()).expect("the child is ours");
                say(&stream);
            }
        }
    }
}

fn play_sleep(stream: &UnixStream) {
    say(stream);
    std::thread::sleep(std::time::Duration::from_secs(600));
}

/// Wants all it can get of a processor.
fn play_hog(stream: &UnixStream) {
    let over = Arc::new(AtomicBool::new(false));
    let theirs = over.clone();
    say(stream);
    let stream = stream.try_clone().expect("a descriptor is free");
    std::thread::spawn(move || {
        hear(&stream);
        theirs.store(true, Ordering::Relaxed);
    });
    while !over.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

/// Serves this benchmark's worker at the path that it hears.
fn play_listener(mut stream: &UnixStream) {
    let mut path = String::new();
    stream.read_to_string(&mut path).expect("a path");
    let server = Server::<Apprentice>::new(()).listen(format!("unix:{path}")).expect("an address");
    server.run().expect("it can listen there");
}

/// Starts a part with a socket for standard input.
pub(super) fn start(part: &str, stdout: Option<UnixStream>) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let mut command = Command::new(this_program());
    command.arg(format!("{PART}{part}")).stdin(Stdio::from(OwnedFd::from(theirs)));
    if let Some(stdout) = stdout {
        command.stdout(Stdio::from(OwnedFd::from(stdout)));
    }
    (command.spawn().expect("this program can be executed again"), ours)
}

/// The end of a process that ends by itself, or was killed.
pub(super) fn reap(child: &mut Child) {
    child.wait().expect("the child is ours");
}

/// A process that sends back whatever comes: the blocking ping-pong.
#[derive(Debug)]
pub struct Echoer {
    process: Child,
    stream: UnixStream,
}

impl Echoer {
    pub fn start(setting: Setting) -> Self {
        let (process, stream) = start("echo", None);
        setting.place(process.id());
        Echoer { process, stream }
    }

    /// There and back, once.
    pub fn ping(&mut self) {
        let mut bytes = [1; PING];
        self.stream.write_all(&bytes).expect("the peer is there");
        self.stream.read_exact(&mut bytes).expect("the peer answers");
    }
}

impl Drop for Echoer {
    fn drop(&mut self) {
        // Its reads end with our end of the stream.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        reap(&mut self.process);
    }
}

/// The same over a pair of pipes.
#[derive(Debug)]
pub struct Piper {
    process: Child,
    there: Option<ChildStdin>,
    back: ChildStdout,
}

impl Piper {
    pub fn start(setting: Setting) -> Self {
        let mut command = Command::new(this_program());
        command.arg(format!("{PART}pipe")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("this program can be executed again");
        setting.place(process.id());
        let (there, back) = (process.stdin.take(), process.stdout.take().expect("a pipe"));
        Piper { process, there, back }
    }

    /// There and back, once.
    pub fn ping(&mut self) {
        let mut bytes = [1; PING];
        self.there.as_mut().expect("it is dropped last").write_all(&bytes).expect("the peer is there");
        self.back.read_exact(&mut bytes).expect("the peer answers");
    }
}

impl Drop for Piper {
    fn drop(&mut self) {
        self.there = None;
        reap(&mut self.process);
    }
}

/// A fork server with nothing to it: the size of ours, asked by a byte, no frames, no descriptors passed.
#[derive(Debug)]
pub struct BareForkServer {
    process: Child,
    stream: UnixStream,
    births: UnixStream,
}

impl BareForkServer {
    pub fn start(setting: Setting) -> Self {
        let (births, theirs) = UnixStream::pair().expect("a socket pair");
        let (process, stream) = start("server", Some(theirs));
        setting.place(process.id());
        BareForkServer { process, stream, births }
    }

    /// Asks for a child and waits for its first byte.
    pub fn fork(&mut self) {
        say(&self.stream);
        assert!(hear(&self.births), "the bare fork server is gone");
    }

    /// Waits until the child is gone again.
    pub fn rest(&mut self) {
        assert!(hear(&self.stream), "the bare fork server is gone");
    }
}

impl Drop for BareForkServer {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        reap(&mut self.process);
    }
}

/// A process that was started from scratch and has said its first byte.
#[derive(Debug)]
pub struct FirstByte(Child);

impl Drop for FirstByte {
    fn drop(&mut self) {
        reap(&mut self.0);
    }
}

/// Starts this program with `std::process::Command` and waits for its first byte. It inherits this thread's
/// placement, for there is no telling its pid before it runs.
pub fn first_byte_of_a_command() -> FirstByte {
    let (process, stream) = start("byte", None);
    assert!(hear(&stream), "the process ended without a byte");
    FirstByte(process)
}

/// A process that sleeps until it is killed.
#[derive(Debug)]
pub struct Sleeper {
    process: Child,
    stream: UnixStream,
}

impl Sleeper {
    pub fn start(setting: Setting) -> Self {
        let (process, stream) = start("sleep", None);
        setting.place(process.id());
        assert!(hear(&stream), "the process ended without a byte");
        Sleeper { process, stream }
    }

    /// Kills it and waits until its end of the stream is closed.
    pub fn kill(&self) {
        kill_process(process_id(self.process.id()), Signal::KILL).expect("the process is there");
        assert!(!hear(&self.stream), "a killed process says nothing");
    }

    /// The same, heard by an async task.
    pub async fn kill_and_hear(&self) {
        let stream = self.stream.try_clone().expect("a descriptor is free");
        stream.set_nonblocking(true).expect("a stream can be read without blocking");
        let stream = tokio::net::UnixStream::from_std(stream).expect("a reactor");
        kill_process(process_id(self.process.id()), Signal::KILL).expect("the process is there");
        loop {
            stream.readable().await.expect("a stream can be watched");
            match stream.try_read(&mut [0]) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                read => return assert_eq!(read.ok(), Some(0), "a killed process says nothing"),
            }
        }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        reap(&mut self.process);
    }
}

/// A server of ours that is a program of its own and listens at a path.
#[derive(Debug)]
pub struct ForkServer {
    process: Child,
    path: PathBuf,
}

impl ForkServer {
    /// Starts one; a pool may connect to it before it listens.
    pub fn start() -> Self {
        let path = std::env::temp_dir().join(format!("forkpool-bench-{}.sock", std::process::id()));
        let (process, mut stream) = start("listen", None);
        stream.write_all(path.as_os_str().as_encoded_bytes()).expect("the process is there");
        ForkServer { process, path }
    }

    /// Where pools connect to.
    pub fn address(&self) -> String {
        format!("unix:{}", self.path.display())
    }
}

impl Drop for ForkServer {
    fn drop(&mut self) {
        kill_process(process_id(self.process.id()), Signal::TERM).expect("the process is there");
        reap(&mut self.process);
        let _ = std::fs::remove_file(self.path.with_extension("sock.lock"));
    }
}

/// A process that keeps a processor busy and has nothing to do with anybody.
#[derive(Debug)]
pub struct Hog {
    process: Child,
    stream: UnixStream,
}

impl Hog {
    /// Starts it and waits until it is at work.
    pub fn start() -> Self {
        let (process, stream) = start("hog", None);
        assert!(hear(&stream), "the process ended without a byte");
        Hog { process, stream }
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        // It ends with our end of the stream.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        reap(&mut self.process);
    }
}
