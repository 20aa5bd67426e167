//! The life of the fork server of one application: hello, preload, then its work until the application is gone.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::AssertUnwindSafe;

use super::compatibility::ServerVersion;
use super::control_channel::{ControlChannel, Disconnect};
use super::event_loop::{ForkServer, WorkerTemplate};
use crate::config::ServerOptions;
use crate::sys::descriptors;
use crate::sys::descriptors::OpenBefore;
use crate::sys::process;
use crate::sys::process::{TitleSpace, exit_now};
use crate::sys::signals;
use crate::sys::signals::HangUpWatch;
use crate::sys::sockets;
use crate::wire::call::SetupReport;
use crate::wire::control::{FromServer, ToServer};
use crate::worker;
use crate::worker::{Preload, Program, panic_capture};

/// Exit status of a server that was started by hand.
const USAGE: i32 = 64;

/// Exit status of a server that could not do its work.
const UNABLE: i32 = 71;

/// Becomes a fork server. `start_up` is what the program's own start-up still has to do, once whatever was
/// inherited is closed.
pub(crate) fn run(program: &Program, start_up: impl FnOnce()) -> ! {
    signals::start_afresh();
    let Some(socket) = control_socket() else {
        eprintln!(
            "forkpool: this argument is for fork servers, which a pool starts itself; run the program without it"
        );
        exit_now(USAGE)
    };
    start_up();
    match prepare(program, socket).and_then(ForkServer::serve) {
        Ok(worker) => worker.live(),
        Err(Disconnect::Closed) => exit_now(0),
        Err(Disconnect::Broken | Disconnect::Untrusted(_)) => exit_now(UNABLE),
    }
}

/// The control channel, which is standard input, with everything else that was inherited closed.
fn control_socket() -> Option<OwnedFd> {
    if !sockets::is_stream_socket(std::io::stdin().as_fd()) {
        return None;
    }
    let socket = descriptors::take_stdin().ok()?;
    descriptors::close_all_but(socket).ok()
}

/// Takes the hello and runs the preload.
fn prepare(program: &Program, socket: OwnedFd) -> Result<ForkServer<'_>, Disconnect> {
    let mut control = ControlChannel::new(socket);
    let ToServer::Hello(hello) = control.wait()? else {
        return Err(Disconnect::Broken);
    };
    let Some(config) = hello.config.clone() else { return Err(Disconnect::Broken) };
    let own = ServerVersion { fingerprint: (program.fingerprint)(), interface: Vec::new() };
    let arena = own.disagreement(&hello).map_or_else(|| control.take_arena(&hello), Err);
    let arena = match arena {
        Ok(arena) => arena,
        Err(reason) => {
            control.say(&FromServer::Refused { reason });
            control.flush_all()?;
            return Err(Disconnect::Broken);
        }
    };
    let title = TitleSpace::find();
    process::set_short_name(&hello.pool, "server");
    write_title(title, &format!("forkpool: fork server of pool {}", hello.pool));
    worker::break_ground();
    let watch = HangUpWatch::start(control.as_fd());
    // The application may end in the meantime, and this process is to end with it.
    let preload = preloaded(program, &config);
    drop(watch);
    let preload = match preload {
        Ok(preload) => preload,
        Err(report) => {
            control.say(&FromServer::PreloadFailed(report));
            control.flush_all()?;
            return Err(Disconnect::Broken);
        }
    };
    // All that was open was closed before the preload.
    let open_before = OpenBefore::default();
    let template = WorkerTemplate { program, config, preload, title, open_before };
    let server = ForkServer::new(template, ServerOptions::default(), own, Vec::new());
    let mut server = server.map_err(|_| Disconnect::Broken)?;
    server.welcome(control, hello, arena).map_err(|_| Disconnect::Broken)?;
    Ok(server)
}

pub(super) fn write_title(space: Option<TitleSpace>, title: &str) {
    if let Some(space) = space {
        space.write(title);
    }
}

/// Runs the preload.
pub(super) fn preloaded(program: &Program, config: &[u8]) -> Result<&'static Preload, SetupReport> {
    panic_capture::capture();
    let mut preload = Preload::default();
    let load = || (program.preload)(config, &mut preload);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(load));
    match outcome {
        Ok(Ok(())) => Ok(Box::leak(Box::new(preload))),
        Ok(Err(error)) => Err(SetupReport::of(error)),
        Err(_) => Err(SetupReport::Panic(panic_capture::take())),
    }
}
