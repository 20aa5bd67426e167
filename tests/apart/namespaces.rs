//! Servers and applications in different namespaces of processes and users.

use std::time::Duration;

use forkpool::prelude::*;

use crate::harness::*;
use crate::*;

tests! {
    a_client_and_a_server_in_different_pid_namespaces_work_together,
    a_peer_of_another_user_namespace_is_who_the_kernel_says,
    figures_of_a_worker_in_another_pid_namespace_are_its_own,
}

/// Whether this process may make namespaces, by these options of `unshare`.
fn can_unshare(options: &[&str]) -> bool {
    let tried = std::process::Command::new("unshare").args(options).arg("true").output();
    tried.is_ok_and(|output| output.status.success())
}

/// The options for a new namespace of processes; `None`, and the reason is printed, where it is not permitted.
fn new_pid_namespace() -> Option<Vec<&'static str>> {
    let whole = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    let as_root = whole.to_vec();
    let as_user = [&["--user", "--map-root-user"][..], &whole].concat();
    let found = [as_root, as_user].into_iter().find(|options| can_unshare(options));
    if found.is_none() {
        println!("skipped: this process may not make namespaces of processes");
    }
    found
}

/// Runs this program in new namespaces.
fn start_in(options: &[&str], role: &str) -> Application {
    let role = format!("{role} test={}", std::process::id());
    Application::start_within(&[&["unshare"], options].concat(), "an_application", &role)
}

/// S1, S10
fn a_client_and_a_server_in_different_pid_namespaces_work_together() {
    let Some(options) = new_pid_namespace() else { return };
    run(async {
        let place = Place::new();
        // A server inside, of which this process sees more than it of this process.
        let mut inside = start_in(&options, "server");
        inside.says("serves");
        let pool = place.start();
        served_by(&pool).await;
        let hung = failure(pool.send_within(Duration::from_millis(50), Spin)).await;
        assert_eq!(hung.kind(), FailureKind::Timeout, "{hung:#}");
        served_by(&pool).await;
        bounded("the end", pool.stop(Duration::ZERO)).await;
        inside.kill();
        inside.ends();
        // It was killed after the process that this one has started.
        until("it holds no lock any more", || inside.family().is_empty()).await;
        // A client inside, to which the server's number means nothing.
        let server = serving("");
        let mut client = start_in(&options, "client");
        client.says("worker");
        assert_eq!(children(server.pid()).len(), 1);
        client.kill();
        client.ends();
        until("its worker is killed", || children(server.pid()).is_empty()).await;
    });
}

/// S10: an unknown process of an unknown user is named as such, and refused.
fn a_peer_of_another_user_namespace_is_who_the_kernel_says() {
    let options = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child"];
    if !rustix::process::geteuid().is_root() || !can_unshare(&options) {
        println!("skipped: only root can be somebody else, in a namespace of its own");
        return;
    }
    run(async {
        let place = Place::new();
        let mut server = serving("");
        server.is_not_listened_to();
        std::fs::set_permissions(&place.0, std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .expect("a socket");
        // Root inside is nobody outside, which no number of a user or process hides.
        let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare"];
        let mut guest = Application::start_within(
            &[&as_nobody[..], &options].concat(),
            "an_application",
            &format!("guest test={}", std::process::id()),
        );
        let told = guest.says("told ");
        assert!(!told.contains("it killed") && !told.contains("Success"), "{told}");
        guest.ends();
        // Root inside that is root outside as well comes in.
        let mut own = start_in(&options, "client");
        own.says("worker");
        own.kill();
        own.ends();
        until("its worker is killed", || children(server.pid()).is_empty()).await;
    });
}

/// E7: a number of another namespace is some other process here.
fn figures_of_a_worker_in_another_pid_namespace_are_its_own() {
    let Some(options) = new_pid_namespace() else { return };
    run(async {
        let place = Place::new();
        let mut inside = start_in(&options, "server");
        inside.says("serves");
        let pool = place.start();
        let checkout = pool.checkout().timeout(None).start();
        let number_inside = answer(checkout.send(Pid)).await.expect("a pid");
        let server = children(inside.pid())[0];
        let worker = children(server)[0];
        assert_ne!(worker, number_inside, "it has another number inside");
        let memory = memory_of(worker, "VmHWM");
        let failed = failure(checkout.send(Within(Duration::from_millis(50), Spin))).await;
        assert_eq!(failed.kind(), FailureKind::Timeout, "{failed:#}");
        let peak = failed.peak_memory().expect("it is known");
        assert!(peak >= memory && peak < memory + (1 << 20), "{peak} is not of {memory} bytes");
        drop(checkout);
        bounded("the end", pool.stop(Duration::ZERO)).await;
        inside.kill();
        inside.ends();
        // It was killed after the process that this one has started.
        until("it holds no lock any more", || inside.family().is_empty()).await;
    });
}
