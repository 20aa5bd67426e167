//! What applications lend to the workers of a server.

use crate::harness::*;
use crate::*;

tests! {
    the_memory_of_another_user_is_copied_and_never_borrowed,
}

/// G4: another user could change the bytes while the worker reads them.
fn the_memory_of_another_user_is_copied_and_never_borrowed() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be another user");
        return;
    }
    run(async {
        let _place = Place::new();
        let mut server = serving("mills_for=65534");
        for (user, expected) in [(0, "borrowed"), (NOBODY, "copied")] {
            let mut lender = Application::start_as(user, "an_application", "lender");
            let told = lender.says("told ");
            assert!(told.contains(expected), "as user {user}: {told}");
            assert!(lender.ends().success());
        }
        signal(server.pid(), rustix::process::Signal::INT);
        server.tells("good bye").await;
    });
}
