//! What a failure knows of the worker that it is about.

use std::error::Error;
use std::time::Duration;

use crate::harness::*;
use forkpool::prelude::*;
use forkpool::{Ending, MemoryVerdict, Phase};

fn say(lines: usize, then: Trick) -> Trick {
    let lines = (0..lines).map(|number| format!("line {number}")).collect();
    Trick::Say(Vec::new(), lines, Box::new(then))
}

/// E7
#[test]
fn a_death_has_a_whole_dossier() {
    run(async {
        let pool = mules().name("stable").start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Trick::Nothing)).await.expect("a pid");
        answer(checkout.send(Trick::Spin(Duration::from_millis(50)))).await.expect("it spins");
        let died = failure(checkout.send(say(30, Trick::Log(2, Box::new(Trick::Exit(3)))))).await;
        assert_eq!(
            (died.kind(), died.pool(), died.call()),
            (FailureKind::Died, Some("stable"), Some("Trick"))
        );
        assert_eq!((died.worker(), died.pid(), died.phase()), (Some(1), Some(worker), Some(Phase::Running)));
        assert_eq!((died.ending(), died.calls_served()), (Some(Ending::Exited { code: 3 }), Some(2)));
        assert!(died.waited().is_some() && died.ran().is_some());
        assert!(died.age().is_some_and(|age| age >= Duration::from_millis(50)));
        assert!(died.cpu_time().is_some_and(|time| time >= Duration::from_millis(1)));
        assert!(died.peak_memory().is_some_and(|bytes| bytes > 100_000));
        assert_eq!(died.killed_for_memory(), None);
        let last: Vec<String> = (10..30).map(|number| format!("line {number}")).collect();
        assert_eq!(died.stderr(), last);
        let logged = "INFO failures::harness::mule: a record of two lines number=";
        assert_eq!(died.log()[1..], [format!("{logged}0"), format!("{logged}1")]);
        assert!(died.log()[0].ends_with("a mule is set up"), "{:?}", died.log());
        assert_eq!(died.to_string().lines().count(), 1);
        let block = format!("{died:#}");
        for line in
            ["  worker      number 1, pid ", "calls served 2", "| line 29", "| INFO failures::harness"]
        {
            assert!(block.contains(line), "{line}: {block}");
        }
    });
}

/// E7
#[test]
fn failures_that_the_application_decides_on_have_one_too() {
    run(async {
        let pool = mules().start().expect("the pool starts");
        pool.ready().await.expect("a worker");
        let limit = Duration::from_millis(1000);
        let stuck = say(1, Trick::SpinDeaf);
        let timed_out = answer(pool.send_within(limit, stuck)).await.expect_err("a timeout");
        let panicked = say(1, Trick::Panic("no".to_owned()));
        let panicked = answer(pool.send(panicked)).await.expect_err("a panic");
        for failed in [&timed_out, &panicked] {
            assert_eq!(failed.stderr(), ["line 0"], "{failed:#}");
            assert_eq!(failed.log().len(), 1, "{failed:#}");
            assert_eq!(failed.calls_served(), Some(0), "{failed:#}");
            assert!(failed.age().is_some() && failed.peak_memory().is_some(), "{failed:#}");
            assert!(failed.cpu_time().is_some(), "{failed:#}");
        }
        assert!(panicked.panic().is_some_and(|report| report.message == "no"), "{panicked:#}");
    });
}

/// E7: what the application decides on has the dossier of a death.
#[test]
fn an_abort_a_cancellation_and_a_kill_by_the_guard_have_the_dossier_of_a_death() {
    run(async {
        let limit = Duration::from_millis(1000);
        let pool = mules().on_cancel(OnCancel::Kill).hung_worker_timeout(limit);
        let pool = pool.start().expect("the pool starts");
        let spins = || say(1, Trick::SpinDeaf);
        let died = failure(pool.send(say(1, Trick::Exit(3)))).await;

        let checkout = pool.checkout().start();
        let pid = answer(checkout.send(Trick::Nothing)).await.expect("a pid");
        let (running, queued) = (checkout.send(spins()), checkout.send(Trick::Nothing));
        until("it runs", || printed_by(pid)).await;
        answer(checkout.send(Abort("enough".to_owned()))).await;
        let aborted = failure(running).await;
        let queued = failure(queued).await;
        assert_eq!((queued.kind(), queued.pid(), queued.ran()), (FailureKind::Aborted, Some(pid), None));
        let later = failure(checkout.send(Trick::Nothing)).await;
        assert_eq!(
            (later.kind(), later.pid(), later.call()),
            (FailureKind::Aborted, Some(pid), Some("Trick"))
        );

        let checkout = pool.checkout().start();
        let pid = answer(checkout.send(Trick::Nothing)).await.expect("a pid");
        let given_up = checkout.send(spins());
        until("it runs", || printed_by(pid)).await;
        drop(given_up);
        gone(pid).await;
        let cancelled = failure(checkout.send(Trick::Nothing)).await;

        let hung = failure(pool.send(spins())).await;
        for (failed, kind) in [
            (&died, FailureKind::Died),
            (&aborted, FailureKind::Aborted),
            (&cancelled, FailureKind::Cancelled),
            (&hung, FailureKind::Hung),
        ] {
            assert_eq!(failed.kind(), kind, "{failed:#}");
            assert_eq!((failed.pool(), failed.call()), (Some("mule"), Some("Trick")), "{failed:#}");
            assert_eq!(failed.phase(), Some(Phase::Running), "{failed:#}");
            assert!(failed.waited().is_some() && failed.ran().is_some(), "{failed:#}");
            assert!(failed.worker().is_some() && failed.pid().is_some(), "{failed:#}");
            assert!(failed.age().is_some() && failed.calls_served().is_some(), "{failed:#}");
            assert!(failed.peak_memory().is_some() && failed.cpu_time().is_some(), "{failed:#}");
            assert_eq!((failed.stderr(), failed.log().len()), (&["line 0".to_owned()][..], 1), "{failed:#}");
        }
    });
}

/// Whether a worker has printed what [`say`] makes it print: it is in its last log record by then.
fn printed_by(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A mule that is deaf has all signals blocked, which the kernel shows.
    !stat.is_empty()
        && std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap_or_default();
            blocked.trim().starts_with("ffff")
        })
}

/// E7, W3
#[test]
fn a_failed_set_up_shows_what_it_printed_and_its_chain() {
    run(async {
        let pool = builder::<Mule>(Some("no hay".to_owned())).workers(1..=1);
        let pool = pool.start().expect("the pool starts");
        let failed = answer(pool.send(Trick::Nothing)).await.expect_err("no set-up");
        assert_eq!(failed.kind(), FailureKind::Setup);
        assert_eq!(failed.stderr(), ["set-up printed no hay"]);
        assert!(failed.log()[0].ends_with("a mule is set up"));
        assert_eq!(failed.source().map(ToString::to_string).as_deref(), Some("no hay"));
        assert_eq!(failed.phase(), Some(Phase::Starting));
    });
}

/// E7
#[test]
fn an_allocation_beyond_the_limit_of_its_own_is_what_killed_it() {
    run(async {
        let limit = 256 << 20;
        let pool = mules().memory_limit(limit).start().expect("the pool starts");
        let fills = |bytes| Trick::Fill(bytes, Duration::ZERO);
        assert!(answer(pool.send(fills(100 << 20))).await.is_ok());
        let died = answer(pool.send(fills(1 << 30))).await.expect_err("it is too much");
        assert_eq!(died.kind(), FailureKind::Died);
        assert_eq!(died.killed_for_memory(), Some(MemoryVerdict::OwnLimit { limit }), "{died:#}");
        assert!(matches!(died.ending(), Some(Ending::Signaled { signal: 6, .. })), "{died:#}");
        assert!(died.to_string().contains("memory_limit of 256.0 MiB"), "{died}");
        assert!(answer(pool.send(fills(100 << 20))).await.is_ok());
    });
}

/// E7
#[test]
fn the_kernel_s_killer_is_named_where_it_was_at_work() {
    run(async {
        let Some(cgroup) = SmallCgroup::create(96 << 20) else {
            // Only whoever may bound memory can have the killer called.
            eprintln!("no memory cgroup can be made here: nothing to see");
            return;
        };
        let pool = mules().start().expect("the pool starts");
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Trick::Nothing)).await.expect("a pid");
        cgroup.take_in(worker);
        let died = failure(checkout.send(Trick::Fill(512 << 20, Duration::ZERO))).await;
        assert_eq!(died.kind(), FailureKind::Died);
        assert_eq!(died.ending(), Some(Ending::Signaled { signal: 9, core_dumped: false }));
        assert_eq!(died.killed_for_memory(), Some(MemoryVerdict::OutOfMemoryKiller), "{died:#}");
        assert!(died.to_string().ends_with(", possibly by the kernel's out-of-memory killer"), "{died}");
        // One that is killed by somebody else, however large it is, is none of its victims.
        drop(checkout);
        let checkout = pool.checkout().start();
        let worker = answer(checkout.send(Trick::Nothing)).await.expect("a pid");
        let request = checkout.send(Trick::Fill(64 << 20, PATIENCE));
        until("it is large", || resident(worker) > 60 << 20).await;
        kill(worker);
        assert_eq!(failure(request).await.killed_for_memory(), None);
    });
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = status.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}

/// A control group of this test's own with little memory, of either version.
struct SmallCgroup(std::path::PathBuf);

impl SmallCgroup {
    fn create(bytes: u64) -> Option<Self> {
        let limits = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
            ("/sys/fs/cgroup/unified", "memory.max"),
        ];
        limits.into_iter().find_map(|(root, limit)| {
            let group = SmallCgroup(format!("{root}/forkpool-test-{}", std::process::id()).into());
            std::fs::create_dir(&group.0).ok()?;
            let limited = std::fs::write(group.0.join(limit), bytes.to_string());
            limited.is_ok().then_some(group)
        })
    }

    fn take_in(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("it is moved");
    }
}

impl Drop for SmallCgroup {
    fn drop(&mut self) {
        // Empty by now: its only process is dead.
        let _ = std::fs::remove_dir(&self.0);
    }
}
