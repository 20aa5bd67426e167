//! Start of an application's own fork server: hello, preload, then the event loop until the application is gone.

use std::os::fd::{AsFd, OwnedFd};

use super::clients;
use super::compatibility::ServerVersion;
use super::control_channel::{ControlChannel, Disconnect};
use super::event_loop::{Footing, ForkServer, WorkerTemplate};
use super::inheritance::Inheritance;
use crate::config::ServerOptions;
use crate::failure::SetupError;
use crate::sys::descriptors;
use crate::sys::faults;
use crate::sys::faults::Role;
use crate::sys::oom_score::OomScore;
use crate::sys::original;
use crate::sys::process;
use crate::sys::process::{TitleSpace, exit_now};
use crate::sys::signals;
use crate::sys::signals::HangUpWatch;
use crate::sys::sockets;
use crate::sys::stack_overflow;
use crate::sys::{CallError, terminal, threads};
use crate::telling;
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
    signals::reset_in_private_server();
    if !sockets::is_stream_socket(std::io::stdin().as_fd()) {
        let line = "only a pool starts a fork server with this argument; run the program without it";
        telling::print_line(format_args!("{line}"));
        exit_now(EXIT_USAGE)
    }
    let claimed = original::claim().map_err(CallError::of("mmap"));
    let socket = match claimed.and_then(|()| control_socket()) {
        Ok(socket) => socket,
        Err(error) => {
            refuse_on_stdin(&error);
            exit_now(EXIT_UNABLE)
        }
    };
    let mut control = ControlChannel::new(socket);
    control.queue(&FromServer::Diverted);
    if control.flush_all().is_err() {
        // The application is gone.
        exit_now(0)
    }
    terminal::give_up();
    OomScore::own().map(OomScore::above).into_iter().for_each(OomScore::set);
    start_up();
    // One of these functions may have forked.
    original::exit_copy();
    match prepare(program, control).and_then(ForkServer::serve) {
        Ok(process) => process.enter_role(),
        Err(Disconnect::Closed) => exit_now(0),
        Err(Disconnect::Broken | Disconnect::Untrusted(_)) => exit_now(EXIT_UNABLE),
    }
}

/// Returns the control channel, which is standard input, after closing all other inherited descriptors.
///
/// # Errors
///
/// The call that was refused; standard input is still the control channel then.
fn control_socket() -> Result<OwnedFd, CallError> {
    descriptors::open_missing_standard().map_err(CallError::of("opening /dev/null"))?;
    let socket = descriptors::take_stdin()?;
    descriptors::close_all_but(socket)
}

/// Sends the reason why this process cannot become a server to the application at standard input.
fn refuse_on_stdin(error: &CallError) {
    let Ok(socket) = std::io::stdin().as_fd().try_clone_to_owned() else {
        return telling::print_line(format_args!("the fork server cannot start: {error}"));
    };
    // An application that is gone does not need the reason.
    let _ = refuse(&mut ControlChannel::new(socket), format!("the fork server cannot start: {error}"));
}

/// Sends a refusal; the server exits after that.
fn refuse(control: &mut ControlChannel, reason: String) -> Disconnect {
    control.queue(&FromServer::Refused { reason });
    control.flush_all().err().unwrap_or(Disconnect::Broken)
}

/// Reads the hello, checks it, and runs the preload.
fn prepare(program: &Program, mut control: ControlChannel) -> Result<ForkServer<'_>, Disconnect> {
    let ToServer::Hello(mut hello) = control.wait_for_message()? else {
        return Err(Disconnect::Broken);
    };
    let Some(config) = hello.config.take() else { return Err(Disconnect::Broken) };
    let own = ServerVersion { fingerprint: (program.fingerprint)(), interface: Vec::new() };
    if let Err(reason) = own.agree(&hello) {
        return Err(refuse(&mut control, reason));
    }
    let title = TitleSpace::find();
    process::set_short_name(&hello.pool, "server");
    write_title(title, &format!("forkpool: fork server of pool {}", hello.pool));
    worker::warm_up();
    let watch = HangUpWatch::start(control.as_fd());
    panic_capture::set_style(hello.backtrace);
    // Without a descriptor for it, the end of the connection is all that is watched.
    let application = match clients::application_at(&control) {
        Err(Disconnect::Closed) => return Err(Disconnect::Closed),
        application => application.unwrap_or_default(),
    };
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
    // What was inherited is closed, reset or given up by now, so workers have nothing to do.
    let inherited = Inheritance::of_private_server();
    let template = WorkerTemplate { name: hello.pool.clone(), program, config, preload, title, inherited };
    let footing = match Footing::find(true) {
        Ok(footing) => footing,
        Err(error) => {
            return Err(refuse(&mut control, format!("the system refuses the fork server {error}")));
        }
    };
    let mut server = ForkServer::new(template, ServerOptions::default(), own, Vec::new(), footing);
    if let Err(error) = control.set_nonblocking() {
        let error = CallError { call: "ioctl(FIONBIO)", error: error.into() };
        return Err(refuse(&mut control, format!("the system refuses the fork server {error}")));
    }
    server.welcome(control, hello, application);
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
/// The error that the preload returned, a report of its panic, or that the process has more than one thread.
pub(super) fn run_preload(program: &Program, config: &[u8]) -> Result<&'static Preload, SetupReport> {
    panic_capture::capture();
    if let Some(others) = threads::others() {
        let started = "start-up functions of the program or of a library have started";
        let advice = "start them in setup, or put the workers into a program without them";
        return Err(thread_error(&format!("{started} {others}"), advice));
    }
    // Never dropped, not even if the preload fails: the user's values may panic then.
    let preload = Box::leak(Box::new(Preload::default()));
    match panic_capture::run(|| (program.preload)(config, preload)) {
        Ok(Ok(())) => match threads::others() {
            None => {
                stack_overflow::watch();
                Ok(preload)
            }
            Some(others) => {
                let advice = "stop and join them in preload, or start them in setup";
                Err(thread_error(&format!("the preload leaves {others} running"), advice))
            }
        },
        Ok(Err(error)) => Err(SetupReport::of(error)),
        Err(report) => Err(SetupReport::Panic(report)),
    }
}

/// The report on a process that must not fork because it has several threads.
fn thread_error(what: &str, advice: &str) -> SetupReport {
    let text = format!("{what}, and a fork copies only the thread that forks: {advice}");
    SetupReport::of(SetupError::new(text))
}
