//! What a worker may do to itself without harm to others, and what it has of others.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::harness::*;
use actix::prelude::*;
use forkpool::prelude::*;
use forkpool::{Ending, SharedBytes};
use rustix::io::FdFlags;
use serde::{Deserialize, Serialize};

/// Runs one harmful call beside a call that takes a while, and checks that only the former is harmed.
fn harms_only_itself<F>(harm: F)
where
    F: AsyncFnOnce(Addr<Checkout<Probe>>) -> Failure,
{
    run(async {
        let pool = pool().workers(3..=3).start().expect("the pool starts");
        until("three workers are idle", || pool.stats().idle == 3).await;
        let server = the_server().await;
        let neighbour = pool.checkout().start();
        let before = answer(neighbour.send(Pid)).await.expect("a pid");
        let beside = neighbour.send(Slow(Duration::from_millis(100), 7));
        let checkout = pool.checkout().start();
        let pid = answer(checkout.send(Pid)).await.expect("a pid");
        let failure = harm(checkout).await;
        assert_eq!(failure.pid(), Some(pid));
        gone(pid).await;
        assert_eq!(answer(beside).await, Ok(7));
        assert_eq!(answer(neighbour.send(Pid)).await, Ok(before));
        assert!(answer(pool.send(Pid)).await.is_ok());
        until("the worker is replaced", || pool.stats().workers() == 3 && pool.stats().ending == 0).await;
        assert_eq!(servers(), [server]);
    });
}

/// W8
#[test]
fn a_handler_that_exits_harms_its_own_call_only() {
    harms_only_itself(async |checkout| {
        let failure = answer(checkout.send(Exit(7))).await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Died);
        assert_eq!(failure.ending(), Some(Ending::Exited { code: 7 }));
        failure
    });
}

/// W8
#[test]
fn a_handler_that_exits_with_success_harms_its_own_call_only() {
    harms_only_itself(async |checkout| {
        let failure = answer(checkout.send(Exit(0))).await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Died);
        assert_eq!(failure.ending(), Some(Ending::Exited { code: 0 }));
        failure
    });
}

/// W8
#[test]
fn a_handler_that_aborts_harms_its_own_call_only() {
    harms_only_itself(async |checkout| {
        let failure = answer(checkout.send(AbortProcess)).await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Died);
        assert!(
            matches!(failure.ending(), Some(Ending::Signaled { signal: libc_abort, .. }) if libc_abort == 6)
        );
        failure
    });
}

/// W8
#[test]
fn a_handler_that_closes_every_descriptor_harms_its_own_call_only() {
    harms_only_itself(async |checkout| {
        // A worker finds out behind its reply, which the host may have read by then.
        let own = answer(checkout.send(CloseDescriptors)).await;
        assert!(own.is_ok() || own.is_err_and(|failure| failure.kind() == FailureKind::Died));
        let failure = answer(checkout.send(Pid)).await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Died);
        failure
    });
}

/// W8, E7
#[test]
fn a_handler_that_raises_a_signal_harms_its_own_call_only() {
    use rustix::process::Signal;
    let table = [
        ("SIGTERM", Signal::TERM),
        ("SIGKILL", Signal::KILL),
        ("SIGSEGV", Signal::SEGV),
        ("SIGINT", Signal::INT),
        ("SIGHUP", Signal::HUP),
    ];
    for (name, signal) in table {
        harms_only_itself(async |checkout| {
            let failure = answer(checkout.send(Raise(signal.as_raw()))).await.unwrap_err();
            assert_eq!(failure.kind(), FailureKind::Died, "{name}");
            assert!(failure.to_string().contains(name), "{failure}");
            failure
        });
    }
}

/// W8, T3
#[test]
fn a_handler_that_stops_its_process_is_killed_at_its_limit() {
    harms_only_itself(async |checkout| {
        let stop = Raise(rustix::process::Signal::STOP.as_raw());
        let failure = answer(checkout.send(Within(Duration::from_millis(50), stop))).await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Timeout);
        failure
    });
}

/// W8
#[test]
fn a_handler_that_signals_its_whole_group_harms_its_own_call_only() {
    harms_only_itself(async |checkout| {
        let pid = answer(checkout.send(Pid)).await.expect("a pid");
        assert_eq!(group(pid), pid);
        let signal = rustix::process::Signal::TERM.as_raw();
        let failure = answer(checkout.send(RaiseInGroup(signal))).await.unwrap_err();
        assert!(failure.to_string().contains("SIGTERM"), "{failure}");
        failure
    });
}

/// W9
#[test]
fn a_worker_inherits_no_descriptor_but_stdio_and_its_own_channel() {
    run(async {
        // What an application has open, without the mark that would close it at exec.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let file = std::fs::File::open("/proc/self/exe").expect("a file");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let inheritable = [listener.as_fd(), file.as_fd(), reader.as_fd(), writer.as_fd()];
        for descriptor in inheritable {
            rustix::io::fcntl_setfd(descriptor, FdFlags::empty()).expect("a flag");
        }
        let pool = pool().workers(3..=3).start().expect("the pool starts");
        until("three workers are idle", || pool.stats().idle == 3).await;
        let mut channels = BTreeSet::new();
        for worker in children(the_server().await) {
            let mut descriptors = descriptors_of(worker);
            assert_eq!(descriptors.remove(&0).as_deref(), Some("/dev/null"));
            for number in [1, 2] {
                let output = descriptors.remove(&number).expect("an output");
                assert!(output.starts_with("pipe:"), "stdio {number}: {output}");
                channels.insert(output);
            }
            assert_eq!(descriptors.len(), channel_parts(), "{descriptors:?}");
            for (number, part) in descriptors {
                let is_one = part.starts_with(if channel_parts() == 1 { "socket:" } else { "pipe:" });
                assert!(number > 2 && is_one, "{number}: {part}");
                channels.insert(part);
            }
        }
        let each = 2 + channel_parts();
        assert_eq!(channels.len(), 3 * each, "nobody has a neighbour's channel or outputs");
    });
}

/// W9
#[test]
fn a_worker_that_was_forked_later_inherits_nothing_of_those_before() {
    run(async {
        let pool = pool().workers(1..=5).start().expect("the pool starts");
        let checkouts = [(); 5].map(|()| pool.checkout().start());
        for checkout in &checkouts {
            let descriptors = answer(checkout.send(Descriptors)).await.expect("descriptors");
            let others: Vec<_> = descriptors.iter().filter(|(number, _)| *number > 2).collect();
            assert_eq!(others.len(), channel_parts(), "{descriptors:?}");
        }
    });
}

/// W9
#[test]
fn the_fork_server_itself_inherits_nothing() {
    run(async {
        let file = std::fs::File::open("/proc/self/exe").expect("a file");
        rustix::io::fcntl_setfd(&file, FdFlags::empty()).expect("a flag");
        let pool = pool().workers(1..=1).park_worker(false).start().expect("the pool starts");
        until("the worker is idle", || pool.stats().idle == 1).await;
        let descriptors = descriptors_of(the_server().await);
        assert_eq!(descriptors.get(&0).map(String::as_str), Some("/dev/null"));
        // Its application's process, whose end it waits for.
        let pidfd = |it: &String| it == "anon_inode:[pidfd]" || it.starts_with("pidfd:");
        assert_eq!(descriptors.values().filter(|it| pidfd(it)).count(), 1, "{descriptors:?}");
        let own = |it: &String| it.starts_with("socket:") || it == "anon_inode:[signalfd]" || pidfd(it);
        let others: Vec<_> = descriptors.iter().filter(|(number, it)| **number > 2 && !own(it)).collect();
        assert!(others.is_empty(), "{others:?}");
        assert_eq!(descriptors.values().filter(|it| it.starts_with("socket:")).count(), 1, "{descriptors:?}");
    });
}

/// W13, W9: for the parked child its socket and its process, the arena of the pool, and the server's control groups.
#[test]
fn a_fork_server_holds_little_for_its_parked_child() {
    run(async {
        let mut held = Vec::new();
        for parks in [false, true] {
            let pool = pool().workers(1..=1).park_worker(parks).start().expect("the pool starts");
            settled(&pool, 1).await;
            let server = the_server().await;
            if parks {
                parked_child(server).await;
            }
            let kind = |it: String| it.split(['[', ' ']).next().unwrap_or_default().to_owned();
            let above = descriptors_of(server).into_iter().filter(|(number, _)| *number > 2);
            let mut kinds: Vec<String> = above.map(|(_, it)| kind(it)).collect();
            kinds.sort_unstable();
            held.push(kinds);
            bounded("the end", pool.stop(Duration::ZERO)).await;
        }
        let [without, mut with] = <[Vec<String>; 2]>::try_from(held).expect("two");
        for one in &without {
            let at = with.iter().position(|it| it == one).expect("the same as without");
            with.remove(at);
        }
        assert_eq!(with.len(), 4, "{with:?}");
        for one in ["/memfd:forkpool-blobs", "/proc/"] {
            assert!(with.iter().any(|it| it.starts_with(one)), "{with:?}");
        }
    });
}

/// A worker whose preload opens a file.
struct Reader;

#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(String, usize), Failure>")]
struct Opened;

impl Actor for Reader {
    type Context = WorkerContext<Self>;
}

impl Worker for Reader {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Reader)
    }

    fn preload((): &(), shared: &mut Preload) -> Result<(), SetupError> {
        shared.put(std::fs::File::open("/proc/version")?);
        Ok(())
    }
}

impl Handler<Opened> for Reader {
    type Result = Result<(String, usize), Failure>;

    fn handle(&mut self, Opened: Opened, ctx: &mut WorkerContext<Self>) -> Self::Result {
        use std::os::unix::fs::FileExt;
        let file = ctx.preloaded::<std::fs::File>().ok_or_else(|| Failure::task("no file"))?;
        let mut bytes = [0; 5];
        file.read_exact_at(&mut bytes, 0).map_err(|error| Failure::task(error.to_string()))?;
        let open = descriptors_of(std::process::id()).into_iter().filter(|(number, it)| {
            // The directory that is being read is open itself.
            *number > 2 && !it.ends_with("/fd")
        });
        Ok((String::from_utf8_lossy(&bytes).into_owned(), open.count()))
    }
}

forkpool::interface!(Reader { Opened });
forkpool::boot!(Reader);

/// W9, W12
#[test]
fn a_worker_has_the_descriptors_that_its_own_preload_opened() {
    run(async {
        let pool = builder::<Reader>(()).workers(1..=1).start().expect("the pool starts");
        let expected = ("Linux".to_owned(), 1 + channel_parts());
        assert_eq!(answer(pool.send(Opened)).await, Ok(expected), "the file and the channel");
    });
}

/// A worker whose preload has much to share.
struct Librarian;

/// Bytes of that.
const LIBRARY: usize = 256 << 20;

/// Sum of some of these bytes, and bytes of page tables before any was read.
#[derive(Message, Serialize, Deserialize)]
#[rtype(result = "Result<(u64, u64), Failure>")]
struct LookUp;

impl Actor for Librarian {
    type Context = WorkerContext<Self>;
}

impl Worker for Librarian {
    type Config = ();

    fn setup((): (), _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
        Ok(Librarian)
    }

    fn preload((): &(), shared: &mut Preload) -> Result<(), SetupError> {
        let bytes = std::io::Read::take(std::io::repeat(3), LIBRARY as u64);
        shared.put(SharedBytes::from_reader(bytes)?);
        Ok(())
    }
}

impl Handler<LookUp> for Librarian {
    type Result = Result<(u64, u64), Failure>;

    fn handle(&mut self, LookUp: LookUp, ctx: &mut WorkerContext<Self>) -> Self::Result {
        let tables = memory_of(std::process::id(), "VmPTE");
        let bytes = ctx.preloaded::<SharedBytes>().ok_or_else(|| Failure::task("nothing is there"))?;
        assert_eq!(bytes.len(), LIBRARY);
        let sum = bytes.iter().step_by(1 << 20).map(|byte| u64::from(*byte)).sum();
        Ok((sum, tables))
    }
}

forkpool::interface!(Librarian { LookUp });
forkpool::boot!(Librarian);

/// W12
#[test]
fn a_fork_copies_nothing_of_what_a_preload_shares() {
    run(async {
        let pool =
            builder::<Librarian>(()).workers(2..=2).max_memory(16 << 20).start().expect("the pool starts");
        let checkouts = [pool.checkout().start(), pool.checkout().start()];
        for checkout in &checkouts {
            let (sum, tables) = answer(checkout.send(LookUp)).await.expect("a sum");
            assert_eq!(sum, 3 * 256);
            // Tables of ordinary memory would take as much as eight bytes for each page of it.
            assert!(tables < (LIBRARY / 4096 * 8) as u64, "{tables} bytes");
        }
        drop(checkouts);
        settled(&pool, 2).await;
        assert_eq!(pool.stats().forked, 2, "it is nobody's own memory");
    });
}

/// W10
#[test]
fn a_worker_and_its_server_run_in_groups_of_their_own() {
    run(async {
        let pool = pool().workers(2..=2).start().expect("the pool starts");
        until("two workers are idle", || pool.stats().idle == 2).await;
        let server = the_server().await;
        // What the terminal sends at Ctrl-C goes to the application's group.
        let mut groups = BTreeSet::from([group(std::process::id()), group(server)]);
        groups.extend(children(server).into_iter().map(group));
        assert_eq!(groups.len(), 4);
        for worker in children(server) {
            assert_eq!(group(worker), worker);
            assert_eq!(parent(worker), server);
        }
    });
}

/// W10
#[test]
fn a_worker_blocks_no_signal_and_ignores_broken_pipes_alone() {
    run(async {
        let pool = pool_of_one();
        let (_, blocked, ignored) = answer(pool.send(Standing)).await.expect("a standing");
        assert_eq!(u64::from_str_radix(&blocked, 16), Ok(0));
        // Signals 32 and 33 are the C library's own; it ignores them in whatever it spawns.
        let classic = u64::from_str_radix(&ignored, 16).expect("a mask") & 0x7fff_ffff;
        assert_eq!(
            classic,
            1 << (rustix::process::Signal::PIPE.as_raw() - 1),
            "as Rust's own start-up has it"
        );
    });
}

#[test]
fn a_worker_ignores_nothing_that_its_application_was_told_to_ignore() {
    // Among the other tests' turns: the application here is a child of this process.
    run(async {
        let tests = std::env::current_exe().expect("this program");
        let inner = std::process::Command::new("sh")
            .args(["-c", "trap '' HUP INT CHLD; exec \"$0\" --exact \"$1\""])
            .arg(tests)
            .arg("isolation::a_worker_blocks_no_signal_and_ignores_broken_pipes_alone")
            .output()
            .expect("a shell");
        let said = String::from_utf8_lossy(&inner.stdout);
        assert!(inner.status.success() && said.contains("1 passed"), "{said}");
    });
}

/// W10
#[test]
fn the_children_of_a_killed_worker_die_with_it() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        let child = answer(checkout.send(StartChild)).await.expect("a child");
        answer(checkout.send(Abort("enough".to_owned()))).await;
        gone(child).await;
    });
}

/// W10, T3
#[test]
fn the_children_of_a_worker_that_timed_out_die_with_it() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        let child = answer(checkout.send(StartChild)).await.expect("a child");
        let timeout = answer(checkout.send(Within(Duration::from_millis(50), Spin))).await.unwrap_err();
        assert_eq!(timeout.kind(), FailureKind::Timeout);
        gone(child).await;
    });
}

/// W10, W8
#[test]
fn the_children_of_a_worker_that_died_die_with_it() {
    run(async {
        let pool = pool_of_one();
        let checkout = pool.checkout().start();
        let child = answer(checkout.send(StartChild)).await.expect("a child");
        assert!(answer(checkout.send(Exit(0))).await.is_err());
        gone(child).await;
    });
}

/// W10, P12
#[test]
fn the_children_of_idle_workers_die_with_the_pool() {
    run(async {
        let pool = pool_of_one();
        let child = answer(pool.send(StartChild)).await.expect("a child");
        bounded("the end", pool.stop(Duration::ZERO)).await;
        gone(child).await;
    });
}
