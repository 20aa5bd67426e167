//! Start of an application's own fork server: hello, preload, then the event loop until the application is gone.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::AssertUnwindSafe;

use super::compatibility::ServerVersion;
use super::control_channel::{ControlChannel, Disconnect};
use super::event_loop::{ForkServer, WorkerTemplate};
use crate::channel::{SendQueue, SocketLayer};
use crate::config::ServerOptions;
use crate::sys::descriptors;
use crate::sys::descriptors::OpenDescriptors;
use crate::sys::faults;
use crate::sys::faults::Role;
use crate::sys::passing::named;
use crate::sys::process;
use crate::sys::process::{TitleSpace, exit_now};
use crate::sys::signals;
use crate::sys::signals::HangUpWatch;
use crate::sys::sockets;
use crate::wire::call::SetupReport;
use crate::wire::control::{FromServer, ToServer};
use crate::worker;
use crate::worker::{Preload, Program, panic_capture};

/// Exit status of a server that was started by hand (`EX_USAGE`).
const EXIT_USAGE: i32 = 64;

/// Exit status of a server that refused its application, failed its preload, or received invalid bytes (`EX_OSERR`).
const EXIT_UNABLE: i32 = 71;

/// Becomes a fork server. `start_up` runs the rest of the program's own start-up functions; it is called once all
/// inherited descriptors are closed.
pub(crate) fn run(program: &Program, start_up: impl FnOnce()) -> ! {
    faults::enter(Role::Server);
    signals::reset_dispositions();
    let socket = match control_socket() {
        Ok(socket) => socket,
        Err(status) => exit_now(status),
    };
    start_up();
    match prepare(program, socket).and_then(ForkServer::serve) {
        Ok(worker) => worker.become_worker(),
        Err(Disconnect::Closed) => exit_now(0),
        Err(Disconnect::Broken | Disconnect::Untrusted(_)) => exit_now(EXIT_UNABLE),
    }
}

/// Returns the control channel, which is standard input, after closing all other inherited descriptors. If that fails,
/// reports why, and returns the exit status.
fn control_socket() -> Result<OwnedFd, i32> {
    let stdin = std::io::stdin();
    if !sockets::is_stream_socket(stdin.as_fd()) {
        eprintln!(
            "forkpool: only a pool starts a fork server with this argument; run the program without it"
        );
        return Err(EXIT_USAGE);
    }
    let taken = descriptors::take_stdin();
    taken.map_err(named("dup")).and_then(|socket| Ok(descriptors::close_all_but(socket)?)).map_err(|error| {
        let reason = format!("the fork server cannot take its channel: {error}");
        let mut send_queue = SendQueue::default();
        send_queue.push(&FromServer::Refused { reason }, Vec::new());
        // Nothing has been sent yet, so there is space. If it fails, the application sees that the server has exited.
        let _ = send_queue.send(stdin.as_fd(), &mut SocketLayer::None);
        EXIT_UNABLE
    })
}

/// Reads the hello, checks it, and runs the preload.
fn prepare(program: &Program, socket: OwnedFd) -> Result<ForkServer<'_>, Disconnect> {
    let mut control = ControlChannel::new(socket);
    let ToServer::Hello(hello) = control.wait_for_message()? else {
        return Err(Disconnect::Broken);
    };
    let Some(config) = hello.config.clone() else { return Err(Disconnect::Broken) };
    let own = ServerVersion { fingerprint: (program.fingerprint)(), interface: Vec::new() };
    let arena = own.mismatch(&hello).map_or_else(|| control.take_arena(&hello), Err);
    let arena = match arena {
        Ok(arena) => arena,
        Err(reason) => {
            control.queue(&FromServer::Refused { reason });
            control.flush_all()?;
            return Err(Disconnect::Broken);
        }
    };
    let title = TitleSpace::find();
    process::set_short_name(&hello.pool, "server");
    write_title(title, &format!("forkpool: fork server of pool {}", hello.pool));
    worker::warm_up();
    let watch = HangUpWatch::start(control.as_fd());
    // The application may exit during the preload; this process must then exit as well.
    let preload = run_preload(program, &config);
    drop(watch);
    let preload = match preload {
        Ok(preload) => preload,
        Err(report) => {
            control.queue(&FromServer::PreloadFailed(report));
            control.flush_all()?;
            return Err(Disconnect::Broken);
        }
    };
    // All inherited descriptors were closed before the preload, so the list is empty.
    let open_before = OpenDescriptors::default();
    let template = WorkerTemplate { program, config, preload, title, open_before };
    let server = ForkServer::new(template, ServerOptions::default(), own, Vec::new());
    let mut server = match server {
        Ok(server) => server,
        Err(error) => {
            control.queue(&FromServer::Refused { reason: format!("the fork server cannot serve: {error}") });
            control.flush_all()?;
            return Err(Disconnect::Broken);
        }
    };
    server.welcome(control, hello, arena).map_err(|_| Disconnect::Broken)?;
    Ok(server)
}

pub(super) fn write_title(space: Option<TitleSpace>, title: &str) {
    if let Some(space) = space {
        space.write(title);
    }
}

/// Runs the preload and returns what it left for the workers.
///
/// # Errors
///
/// The error that the preload returned, or a report of its panic.
pub(super) fn run_preload(program: &Program, config: &[u8]) -> Result<&'static Preload, SetupReport> {
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
