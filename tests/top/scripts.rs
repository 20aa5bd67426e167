//! What `forkpool_top` prints without a terminal, and how it says what is wrong.

use std::os::unix::net::UnixListener;
use std::process::{Output, Stdio};
use std::time::Duration;

use forkpool::prelude::*;
use serde_json::Value;

use crate::harness::*;
use crate::play;

tests! {
    what_is_printed_once_is_what_the_pool_says_of_itself,
    a_standalone_server_shows_what_it_knows_of_itself,
    a_demo_leaves_nothing,
    what_is_wrong_is_said_with_what_to_do,
}

/// The path of a console or a server.
pub struct Place(Scratch);

impl Place {
    pub fn new() -> Self {
        Place(Scratch::path())
    }

    pub fn address(&self) -> String {
        format!("unix:{}", self.0.get().display())
    }
}

/// The lock stays.
impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0.get().with_extension("lock"));
    }
}

/// A pool of so many idle probes.
pub async fn idle_pool(name: &str, workers: usize) -> PoolHandle<Probe> {
    let pool = pool().name(name).workers(workers..=workers).start().expect("the pool starts");
    settled(&pool, workers).await;
    pool
}

fn top(arguments: &[&str]) -> Output {
    play("top").args(arguments).stdin(Stdio::null()).output().expect("the viewer")
}

fn printed(arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = top(arguments);
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

/// M1
fn what_is_printed_once_is_what_the_pool_says_of_itself() {
    run(async {
        let (place, pool) = (Place::new(), idle_pool("rest", 2).await);
        for _ in 0..3 {
            assert!(answer(pool.send(Pid)).await.is_ok());
        }
        assert!(answer(pool.send(Fail("no".to_owned()))).await.is_err());
        assert!(answer(pool.send(Panic("\u{1b}[31mred".to_owned()))).await.is_err());
        settled(&pool, 2).await;
        pool.console(place.address()).open().expect("a console");
        let json = printed(&[&place.address(), "--once", "--json"]);
        assert_eq!(json.lines().count(), 1);
        let answer: Value = serde_json::from_str(&json).expect("JSON");
        let (shown, stats) = (&answer["pools"][0], pool.stats());
        let sum = |field: &str| -> u64 {
            let calls = shown["calls"].as_array().expect("calls").iter();
            calls.map(|call| call[field].as_u64().expect("a number")).sum()
        };
        assert_eq!((sum("succeeded"), sum("errors")), (stats.succeeded, stats.errors));
        assert_eq!((stats.succeeded, stats.errors), (3, 1));
        let failures = shown["calls"].as_array().expect("calls").iter();
        let failures: Vec<&Value> =
            failures.flat_map(|call| call["failures"].as_array().expect("pairs")).collect();
        assert_eq!(failures, [&serde_json::json!(["panic", 1])]);
        assert_eq!(stats.failures_of(FailureKind::Panic), 1);
        let pids = shown["workers"].as_array().expect("workers").iter().map(|worker| worker["pid"].as_u64());
        assert_eq!(
            pids.flatten().collect::<Vec<_>>(),
            stats.pids.iter().map(|&pid| pid.into()).collect::<Vec<u64>>()
        );
        let number = |value: &Value| value.as_u64().expect("a number");
        assert_eq!(number(&shown["counts"]["idle"]), stats.idle as u64);
        assert_eq!(number(&shown["queue"]["length"]), stats.waiting as u64);
        assert_eq!(number(&shown["totals"]["forked"]), stats.forked);
        assert_eq!(number(&shown["totals"]["checkouts"]), stats.checkouts);
        let text = printed(&[&place.address(), "--once"]);
        for part in [
            "pool     rest",
            "2 of 2..2: 2 idle, 0 leased",
            "totals   5 calls, 5 checkouts; 3 workers forked, 1 ended",
            "panic",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'), "a worker's text is not obeyed by the terminal: {text}");
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}

fn a_standalone_server_shows_what_it_knows_of_itself() {
    run(async {
        let place = Place::new();
        let mut server = play("server").arg(place.address()).spawn().expect("the server");
        let text = {
            let mut text = String::new();
            until("the server serves", || {
                let Output { status, stdout, .. } = top(&["--server", &place.address(), "--once"]);
                text = String::from_utf8(stdout).expect("text");
                status.success()
            })
            .await;
            text
        };
        let pid = format!("pid {},", server.id());
        for part in [&pid, "clients  1, this one included", "workers  0, and", "0 failed"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = printed(&["--server", &place.address(), "--once", "--json"]);
        let stats: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(stats["server"]["pid"], server.id());
        let told = String::from_utf8(top(&[&place.address(), "--once"]).stderr).expect("text");
        assert!(told.contains("no console") && told.contains("--server"), "{told}");
        signal(server.id(), rustix::process::Signal::TERM);
        assert!(server.wait().expect("a child").success());
    });
}

fn a_demo_leaves_nothing() {
    run(async {
        let json = printed(&["--demo", "--once", "--json"]);
        let answer: Value = serde_json::from_str(&json).expect("JSON");
        let (pid, pool) = (answer["pid"].as_u64().expect("a pid"), &answer["pools"][0]);
        assert_eq!(pool["pool"], "painters");
        assert!(!pool["failures"].as_array().expect("failures").is_empty());
        for worker in pool["workers"].as_array().expect("workers") {
            let pid = worker["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
            assert!(!exists(pid) || !args(pid).contains("painters"), "{worker}");
        }
        let left = std::fs::read_dir(std::env::temp_dir()).expect("a folder").flatten();
        let own = format!("forkpool_top-{pid}.");
        assert!(left.into_iter().all(|file| !file.file_name().to_string_lossy().starts_with(&own)));
    });
}

fn what_is_wrong_is_said_with_what_to_do() {
    run(async {
        let (place, dead) = (Place::new(), Place::new());
        drop(UnixListener::bind(dead.0.get()).expect("a socket"));
        let pool = idle_pool("shown", 1).await;
        pool.console(place.address()).open().expect("a console");
        let (address, dead) = (place.address(), dead.address());
        let table: &[(&[&str], i32, &str)] = &[
            (&[], 2, "which address? write unix:/path of the console, or --demo; see --help"),
            (&["--what"], 2, "--what"),
            (&[&address, "another"], 2, "another"),
            (&[&address, "--demo"], 2, "--demo takes no address"),
            (&[&address, "--json"], 2, "--json is for --once"),
            (&[&address, "--interval", "0"], 2, "0.1 to 3600"),
            (&["/run/app.sock"], 1, "is no console: write unix:/path"),
            (&["unix:/nowhere/app.sock", "--once"], 1, "pool.console("),
            (&["unix:/nowhere/app.sock"], 1, "there is no socket at /nowhere/app.sock"),
            (&[&dead, "--once"], 1, "has ended: start it again"),
            (&["--server", "tls:localhost:1", "--once"], 1, "certificates"),
            (&[&address], 1, "this is no terminal: use --once"),
        ];
        for (arguments, status, expected) in table {
            let output = top(arguments);
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(*status), "{arguments:?}: {told}");
            assert!(told.starts_with("forkpool_top: ") && told.contains(expected), "{arguments:?}: {told}");
        }
        assert!(printed(&["--help"]).starts_with("usage: forkpool_top"));
        if rustix::process::geteuid().is_root() {
            use std::os::unix::process::CommandExt as _;
            let mut other = play("top");
            let output =
                other.args([&address, "--once"]).uid(NOBODY).gid(NOBODY).output().expect("the viewer");
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(told.contains("you may not look") && told.contains("as root"), "{told}");
        }
        bounded("the end", pool.stop(Duration::ZERO)).await;
    });
}
