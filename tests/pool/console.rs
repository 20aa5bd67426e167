//! What a console answers, whom it admits, and what viewers cannot do to it.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use forkpool::ConsoleBuilder;
use serde_json::Value;

use crate::harness::*;
use forkpool::prelude::*;

pub const SNAPSHOT: &str = r#"{"ask":"snapshot"}"#;

/// The path of a console, at which nothing is yet.
pub struct Place(Scratch);

impl Place {
    pub fn new() -> Self {
        Place(Scratch::path())
    }

    pub fn get(&self) -> &Path {
        self.0.get()
    }
}

/// The lock of a console stays.
impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0.get().with_extension("lock"));
    }
}

/// A viewer at a console. Consoles are served on a thread of their own, so it may wait on this one.
pub struct Viewer(BufReader<UnixStream>);

impl Viewer {
    pub fn at(socket: &Path) -> Self {
        let socket = UnixStream::connect(socket).expect("a console");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Viewer(BufReader::new(socket))
    }

    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// The next line; `None` at the end of the connection.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            // Of a connection that was closed before all was read that this end has sent.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            read => (read.expect("a line") > 0).then_some(line),
        }
    }

    pub fn ask(&mut self, line: &str) -> Value {
        self.send(format!("{line}\n").as_bytes()).expect("it reads");
        let answer = self.line().expect("an answer");
        serde_json::from_str(&answer).expect("JSON")
    }

    /// The names of the pools that are shown.
    pub fn pools(&mut self) -> Vec<String> {
        let answer = self.ask(SNAPSHOT);
        let pools = answer["pools"].as_array().expect("pools");
        pools.iter().map(|pool| pool["pool"].as_str().expect("a name").to_owned()).collect()
    }
}

pub fn console_at(socket: &Path, pool: &PoolHandle<Probe>) -> ConsoleBuilder {
    pool.console(format!("unix:{}", socket.display()))
}

/// A pool of one probe with a name.
pub fn named(name: &str) -> PoolHandle<Probe> {
    pool().name(name).workers(1..=1).start().expect("the pool starts")
}

/// A snapshot without what changes while nothing happens.
fn at_rest(mut snapshot: Value) -> Value {
    let fields = snapshot.as_object_mut().expect("an object");
    fields.remove("uptime");
    for worker in fields["workers"].as_array_mut().expect("workers") {
        let worker = worker.as_object_mut().expect("a worker");
        worker.remove("age");
        worker.remove("cpu_time");
    }
    snapshot
}

/// M1
#[test]
fn a_viewer_is_answered_with_what_the_snapshot_has() {
    run(async {
        let (socket, pool) = (Place::new(), pool().workers(2..=2).start().expect("the pool starts"));
        settled(&pool, 2).await;
        assert!(answer(pool.send(Pid)).await.is_ok());
        assert!(answer(pool.send(Fail("no".to_owned()))).await.is_err());
        let console = console_at(socket.get(), &pool).open().expect("a console");
        assert_eq!(console.address(), format!("unix:{}", socket.get().display()));
        settled(&pool, 2).await;
        let answer = Viewer::at(socket.get()).ask(SNAPSHOT);
        assert_eq!((&answer["answer"], &answer["console"]), (&"snapshot".into(), &1.into()));
        assert_eq!(answer["pid"], std::process::id());
        let own = serde_json::to_value(pool.snapshot()).expect("plain data");
        assert_eq!(at_rest(answer["pools"][0].clone()), at_rest(own));
        assert_eq!(answer["pools"].as_array().map(Vec::len), Some(1));
        let (stats, calls) = (pool.stats(), &answer["pools"][0]["calls"]);
        assert_eq!((&calls[0]["succeeded"], stats.succeeded), (&1.into(), 1));
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// M1
#[test]
fn failures_are_asked_for_by_the_number_of_the_last_that_is_known() {
    run(async {
        let (socket, pool) = (Place::new(), named("fails"));
        for _ in 0..3 {
            let failed = answer(pool.send_within(Duration::from_millis(1), Spin)).await;
            assert!(failed.is_err());
        }
        console_at(socket.get(), &pool).open().expect("a console");
        let mut viewer = Viewer::at(socket.get());
        let numbers = |answer: Value| -> Vec<u64> {
            let failures = answer["pools"][0]["failures"].as_array().expect("failures").clone();
            failures.iter().map(|failure| failure["number"].as_u64().expect("a number")).collect()
        };
        assert_eq!(numbers(viewer.ask(r#"{"ask":"failures"}"#)), [1, 2, 3]);
        assert_eq!(numbers(viewer.ask(r#"{"ask":"failures","since":2}"#)), [3]);
        assert_eq!(numbers(viewer.ask(r#"{"ask":"failures","since":3}"#)), [0; 0]);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// M2
#[test]
fn more_viewers_than_the_maximum_are_told_so_and_disconnected() {
    run(async {
        let (socket, pool) = (Place::new(), named("bounded"));
        console_at(socket.get(), &pool).max_clients(2).open().expect("a console");
        let mut viewers = [Viewer::at(socket.get()), Viewer::at(socket.get())];
        viewers.iter_mut().for_each(|viewer| assert_eq!(viewer.pools(), ["bounded"]));
        let mut third = Viewer::at(socket.get());
        let told = third.line().expect("a line");
        assert!(told.contains("2 viewers are connected") && told.contains("max_clients"), "{told}");
        assert_eq!(third.line(), None);
        let [first, mut second] = viewers;
        drop(first);
        until("there is a place", || {
            let mut next = Viewer::at(socket.get());
            // It may be turned away before it has asked.
            next.send(format!("{SNAPSHOT}\n").as_bytes()).is_ok()
                && next.line().is_some_and(|line| line.contains("\"pools\""))
        })
        .await;
        assert_eq!(second.pools(), ["bounded"]);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// M2
#[test]
fn a_line_that_is_too_long_ends_its_connection_and_one_that_asks_nothing_does_not() {
    run(async {
        let (socket, pool) = (Place::new(), named("strict"));
        console_at(socket.get(), &pool).add(&pool).open().expect("a console");
        let mut viewer = Viewer::at(socket.get());
        assert_eq!(viewer.pools(), ["strict"], "twice is once");
        for line in ["", "hello", r#"{"ask":"kill","worker":1}"#, "\u{0}"] {
            let answer = viewer.ask(line);
            assert!(answer["error"].as_str().is_some_and(|error| error.contains("asks nothing")), "{answer}");
        }
        // The longest line that is read, with spaces behind what it asks.
        let longest = format!("{SNAPSHOT}{}", " ".repeat((4 << 10) - 1 - SNAPSHOT.len()));
        assert_eq!(viewer.ask(&longest)["answer"], "snapshot");
        viewer.send(" ".repeat(4 << 10).as_bytes()).expect("it reads");
        let told = viewer.line().expect("a line");
        assert!(told.contains("at most 4096 bytes"), "{told}");
        assert_eq!(viewer.line(), None);
        assert_eq!(Viewer::at(socket.get()).pools(), ["strict"]);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// M2
#[test]
fn a_viewer_that_does_not_read_is_disconnected_and_holds_up_neither_calls_nor_viewers() {
    run(async {
        let (socket, pool) = (Place::new(), named("patient"));
        let limit = Duration::from_millis(200);
        console_at(socket.get(), &pool).max_clients(2).client_timeout(limit).open().expect("a console");
        let mut slow = UnixStream::connect(socket.get()).expect("a console");
        slow.set_nonblocking(true).expect("a socket");
        let mut asked = 0;
        until("it is disconnected", || match slow.write_all(format!("{SNAPSHOT}\n").as_bytes()) {
            Ok(()) => {
                asked += 1;
                false
            }
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        })
        .await;
        assert!(asked > 1, "it asked {asked} times");
        assert!(answer(pool.send(Pid)).await.is_ok());
        assert_eq!(Viewer::at(socket.get()).pools(), ["patient"]);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// M2
#[test]
fn a_viewer_that_asks_nothing_is_told_so_and_gives_up_its_place() {
    run(async {
        let (socket, pool) = (Place::new(), named("brief"));
        let limit = Duration::from_millis(20);
        console_at(socket.get(), &pool).max_clients(1).client_timeout(limit).open().expect("a console");
        let mut idle = Viewer::at(socket.get());
        let told = idle.line().expect("a line");
        assert!(told.contains("nothing was asked for 20ms"), "{told}");
        assert_eq!(idle.line(), None);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

/// Connects to the console at the end of its role, asks, and says what comes of it.
#[test]
#[ignore = "a viewer that other tests run"]
fn a_viewer() {
    let Some(role) = role() else { return };
    let socket = std::env::temp_dir().join(role.rsplit(' ').next().expect("a name"));
    match UnixStream::connect(&socket) {
        Err(error) => println!("refused: {:?}", error.kind()),
        Ok(stream) => {
            let mut viewer = Viewer(BufReader::new(stream));
            // It may be disconnected before it has asked.
            let _ = viewer.send(format!("{SNAPSHOT}\n").as_bytes());
            println!("answer: {}", viewer.line().unwrap_or_else(|| "none".to_owned()).trim());
            wait_to_go_on();
        }
    }
}

fn role_at(socket: &Place) -> String {
    format!("at {}", socket.get().file_name().and_then(|name| name.to_str()).expect("a name"))
}

/// S10, M2: the file admits no other user, and the kernel says whose a process is that came in all the same.
#[test]
fn another_user_may_not_look() {
    run(async {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: only root can start a viewer of another user");
        }
        let (socket, pool) = (Place::new(), named("private"));
        console_at(socket.get(), &pool).open().expect("a console");
        let mode = || std::fs::metadata(socket.get()).expect("a socket").permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        let mut other = Application::start_as(NOBODY, "console::a_viewer", &role_at(&socket));
        assert_eq!(other.says("refused: "), "PermissionDenied");
        let everyone = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(socket.get(), everyone).expect("a socket");
        let mut other = Application::start_as(NOBODY, "console::a_viewer", &role_at(&socket));
        assert_eq!(other.says("answer: "), "none");
        assert_eq!(Viewer::at(socket.get()).pools(), ["private"]);
        bounded("the end", pool.stop(Duration::ZERO)).await;
        let group = named("group");
        console_at(socket.get(), &group).mode(0o660).open().expect("a console");
        assert_eq!(mode(), 0o660);
        assert_eq!(Viewer::at(socket.get()).pools(), ["group"]);
        bounded("the end", group.stop(Duration::ZERO)).await;
    });
}

/// M2
#[test]
fn a_viewer_that_is_killed_leaves_nothing_behind() {
    run(async {
        let (socket, pool) = (Place::new(), named("survivor"));
        console_at(socket.get(), &pool).max_clients(1).open().expect("a console");
        settled(&pool, 1).await;
        for _ in 0..3 {
            until("the one before has given up its place", || {
                let mut viewer = Application::start("console::a_viewer", &role_at(&socket));
                let is_served = viewer.says("answer: ").contains("\"pools\"");
                viewer.kill();
                viewer.ends();
                is_served
            })
            .await;
        }
        // Of the sockets of this process, no viewer's is left.
        let connected = || {
            let path = socket.get().to_str().expect("text");
            let sockets = std::fs::read_to_string("/proc/net/unix").expect("the sockets");
            // Connected, and not listening.
            sockets.lines().filter(|line| line.ends_with(path) && line.contains(" 03 ")).count()
        };
        until("its descriptor is closed", || connected() == 0).await;
        let mut viewer = Viewer::at(socket.get());
        assert_eq!(viewer.pools(), ["survivor"], "its place is free");
        assert_eq!(connected(), 1);
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}
